// What a program sees of a machine of three hosts with 2, 3 and 1 CPUs.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

static void tell(const char *what, long result, int wanted) { int found = errno; printf("%s: %ld %d\n", what, result, found == wanted); }
static void masks(void) {
  cpu_set_t set, got;
  CPU_ZERO(&set);
  for (int cpu = 0; cpu < 6; cpu++) CPU_SET(cpu, &set);
  sched_getaffinity(0, sizeof got, &got);
  printf("given: %lx\n", *(long *)&got);
  sched_setaffinity(0, sizeof set, &set);
  long bytes = syscall(SYS_sched_getaffinity, 0, sizeof got, &got);
  printf("mask of %ld bytes: %d CPUs, word %lx\n", bytes, CPU_COUNT_S(bytes, &got), *(long *)&got);
  tell("short", syscall(SYS_sched_getaffinity, 0, 4, &got), EINVAL);
  tell("bad pointer", syscall(SYS_sched_getaffinity, 0, 8, (void *)1), EFAULT);
  tell("nobody", sched_getaffinity(0x3fffff, sizeof got, &got), ESRCH);
  CPU_ZERO(&set);
  tell("none", sched_setaffinity(0, sizeof set, &set), EINVAL);
  CPU_SET(6, &set);
  tell("beyond", sched_setaffinity(0, sizeof set, &set), EINVAL);
  CPU_SET(0, &set);
  CPU_SET(3, &set);
  printf("over hosts: %d\n", sched_setaffinity(0, sizeof set, &set));
  memset(&got, 0, sizeof got);
  sched_getaffinity(getpid(), sizeof got, &got);
  printf("read back: %lx\n", *(long *)&got);
  unsigned cpu = 99, node = 99;
  getcpu(&cpu, &node);
  printf("at home: %d %d\n", cpu < 2, node);
}
static void *inherits(void *unused) {
  (void)unused;
  cpu_set_t got;
  memset(&got, 0, sizeof got);
  sched_getaffinity(0, sizeof got, &got);
  printf("inherited: %lx\n", *(long *)&got);
  return 0;
}
static void show(const char *path) {
  char text[200] = {0};
  int fd = open(path, O_RDONLY);
  if (fd >= 0) { read(fd, text, sizeof text - 1); close(fd); }
  text[strcspn(text, "\n")] = 0;
  printf("%s: %s\n", path, text);
}
static void paths(void) {
  show("/proc/cpuinfo");
  show("/proc/meminfo");
  show("/proc/stat");
  show("/sys/devices/system/cpu/online");
  struct stat status;
  printf("stat %d %d\n", stat("/sys/devices/system/cpu/cpu5", &status), stat("/sys/devices/system/cpu/cpu6", &status));
  printf("access %d, real %d\n", access("/sys/devices/system/node", R_OK), access("/proc/self/status", R_OK));
  DIR *dir = opendir("/sys/devices/system/cpu/");
  int entries = 0;
  while (readdir(dir)) entries++;
  int inside = openat(dirfd(dir), "online", O_RDONLY);
  char text[20] = {0};
  read(inside, text, 3);
  printf("entries %d, inside %s\n", entries - 2, text);
  closedir(dir);
  char cwd[300];
  printf("chdir %d\n", chdir("/sys/devices/system/cpu"));
  show("online");
  chdir("/");
  printf("processors %ld %ld\n", sysconf(_SC_NPROCESSORS_ONLN), sysconf(_SC_NPROCESSORS_CONF));
  struct sysinfo info;
  sysinfo(&info);
  printf("memory %llu %llu\n", (unsigned long long)info.totalram * info.mem_unit >> 20, (unsigned long long)info.freeram * info.mem_unit >> 20);
}
int main(int argc, char **argv) {
  setvbuf(stdout, 0, _IOLBF, 0);
  masks();
  pthread_t thread;
  pthread_create(&thread, 0, inherits, 0);
  pthread_join(thread, 0);
  paths();
  printf("barrier %d\n", (int)syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) | (int)syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
  struct rusage usage;
  for (volatile int i = 0; i < 30000000; i++) continue;
  int asked = getrusage(RUSAGE_SELF, &usage);
  printf("usage %d %d\n", asked, usage.ru_utime.tv_usec + usage.ru_utime.tv_sec * 1000000 > 5000);
  if (argc == 1) {
    // A child is in the same machine.
    pid_t child = vfork();
    if (child == 0) { execl("/proc/self/exe", argv[0], "child", (char *)0); _exit(9); }
    int status;
    waitpid(child, &status, 0);
    printf("child %d\n", status);
  }
  return 0;
}
