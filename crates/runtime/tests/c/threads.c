// Threads, processes and what is left at their end.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static pthread_mutex_t robust;
static atomic_int holding;
static __thread int mine;
static void *add(void *to) { mine = 1; atomic_fetch_add((atomic_int *)to, mine); return to; }
static void *die_holding(void *unused) { (void)unused; pthread_mutex_lock(&robust); holding = 1; return 0; }
static void *die_late(void *unused) { (void)unused; pthread_mutex_lock(&robust); holding = 1; usleep(100000); return 0; }
static void destroy(void *value) { atomic_fetch_add((atomic_int *)value, 1); }

static void many(void) {
  atomic_int total = 0;
  for (int round = 0; round < 200; round++) {
    pthread_t threads[20];
    for (int i = 0; i < 20; i++)
      if (pthread_create(&threads[i], 0, add, &total)) { perror("pthread_create"); exit(1); }
    for (int i = 0; i < 20; i++) { void *result; pthread_join(threads[i], &result); if (result != &total) exit(2); }
  }
  printf("joined: %d\n", total);
  pthread_attr_t detached;
  pthread_attr_init(&detached);
  pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
  for (int i = 0; i < 500; i++) { pthread_t thread; while (pthread_create(&thread, &detached, add, &total)) usleep(1000); }
  while (total < 4500) usleep(1000);
  printf("detached: %d\n", total);
  pthread_key_t key;
  pthread_key_create(&key, destroy);
}
static void mutexes(void) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&robust, &attributes);
  void *(*dying[])(void *) = {die_holding, die_late};
  for (int i = 0; i < 2; i++) {
    pthread_t thread;
    holding = 0;
    pthread_create(&thread, 0, dying[i], 0);
    while (!holding) sched_yield();
    int got = pthread_mutex_lock(&robust);
    printf("owner died: %d\n", got == EOWNERDEAD);
    pthread_mutex_consistent(&robust);
    pthread_mutex_unlock(&robust);
    pthread_join(thread, 0);
  }
}
static int status_of(pid_t pid) { int status; waitpid(pid, &status, 0); return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status); }
static void children(void) {
  char *echo[] = {"echo", "spawned", 0}, *false_[] = {"false", 0};
  pid_t pid;
  fflush(stdout);
  int spawned = posix_spawn(&pid, "/bin/echo", 0, 0, echo, environ), status = status_of(pid);
  printf("spawn %d status %d\n", spawned, status);
  spawned = posix_spawnp(&pid, "false", 0, 0, false_, environ), status = status_of(pid);
  printf("spawn %d status %d\n", spawned, status);
  printf("spawn of nothing: %d\n", posix_spawn(&pid, "/nonexistent", 0, 0, echo, environ) == ENOENT);
  printf("spawn of a directory: %d\n", posix_spawn(&pid, "/", 0, 0, echo, environ) == EACCES);
  printf("exec through a file: %d\n", execl("/etc/passwd/x", "x", (char *)0) == -1 && errno == ENOTDIR);
  printf("exec of no program: %d\n", execl("/etc/passwd", "x", (char *)0) == -1 && errno == EACCES);
  printf("exec of bad pointer: %d\n", syscall(SYS_execve, 1, 0, 0) == -1 && errno == EFAULT);
  printf("exec of bad argv: %d\n", syscall(SYS_execve, "/bin/true", 1, 0) == -1 && errno == EFAULT);
  printf("exec of bad envp: %d\n", syscall(SYS_execve, "/bin/true", 0, 1) == -1 && errno == EFAULT);
  volatile int value = 1;
  pid = vfork();
  if (pid == 0) { value = 2; _exit(7); }
  status = status_of(pid);
  printf("vfork: status %d, shared %d\n", status, value);
  char path[] = "/tmp/megalith-script-XXXXXX";
  int fd = mkstemp(path);
  dprintf(fd, "#! /bin/echo first second \nrest\n");
  fchmod(fd, 0755);
  close(fd);
  char *script[] = {"ignored", "third", 0};
  fflush(stdout);
  FILE *out = popen("exit 3", "r");
  printf("popen: %d\n", out ? WEXITSTATUS(pclose(out)) : -1);
  pid = vfork();
  if (pid == 0) { dup2(open("/dev/null", O_WRONLY), 1); execv(path, script); _exit(9); }
  printf("script: %d\n", status_of(pid));
  unlink(path);
  pid = vfork();
  if (pid == 0) { int program = open("/bin/true", O_RDONLY | O_CLOEXEC); fexecve(program, script, environ); _exit(9); }
  printf("fexecve: %d\n", status_of(pid));
  int memory = memfd_create("program", MFD_CLOEXEC), from = open("/bin/true", O_RDONLY);
  char block[4096];
  for (ssize_t got; (got = read(from, block, sizeof block)) > 0;) write(memory, block, got);
  close(from);
  pid = vfork();
  if (pid == 0) { fexecve(memory, script, environ); _exit(9); }
  printf("fexecve of memory: %d\n", status_of(pid));
  pid = vfork();
  if (pid == 0) { char *missing[] = {"x", 0}; execv("/nonexistent", missing); _exit(errno == ENOENT ? 5 : 6); }
  printf("failed exec in vfork: %d\n", status_of(pid));
  // The mask and ignored signals go through exec; handlers do not.
  sigset_t set, old;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  sigprocmask(SIG_BLOCK, &set, &old);
  signal(SIGHUP, SIG_IGN);
  signal(SIGUSR1, (void (*)(int))children);
  char *grep[] = {"grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status", 0};
  fflush(stdout);
  int pipes[2];
  pipe(pipes);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipes[1], 1);
  posix_spawn_file_actions_addclose(&actions, pipes[0]);
  posix_spawn_file_actions_addclose(&actions, pipes[1]);
  posix_spawnp(&pid, "grep", &actions, 0, grep, environ);
  close(pipes[1]);
  char text[1000] = {0};
  for (ssize_t got, used = 0; (got = read(pipes[0], text + used, sizeof text - used - 1)) > 0;) used += got;
  int child = status_of(pid);
  *strstr(text, "SigCgt") = 0;
  // In spread mode the thread that reads this waits with two more signals blocked.
  char *digits = strstr(text, "SigBlk:") + 8, rest[900];
  unsigned long long blocked = strtoull(digits, &digits, 16) & ~(1ULL << (SIGSYS - 1) | 1ULL << (SIGSTKFLT - 1));
  strcpy(rest, digits);
  printf("grep %d\nSigBlk: %llx%s", child, blocked, rest);
  sigprocmask(SIG_SETMASK, &old, 0);
}
static void links(void) {
  char link[4096] = {0}, *slash;
  ssize_t got = readlink("/proc/self/exe", link, sizeof link);
  slash = strrchr(link, '/');
  printf("exe: %s %d\n", slash, got == (ssize_t)strlen(link));
  char own[64];
  sprintf(own, "/proc/%d/exe", getpid());
  memset(link, 0, sizeof link);
  printf("short: %zd %s\n", readlinkat(AT_FDCWD, own, link, 4), link);
  int self = open("/proc/self/exe", O_RDONLY), again = open(own, O_RDONLY);
  char one[64], other[64];
  pread(self, one, 64, 1000);
  pread(again, other, 64, 1000);
  printf("open: %d\n", memcmp(one, other, 64) == 0 && memcmp(one, "\177ELF", 4) != 0);
  close(self);
  close(again);
  int first = open("/dev/null", O_RDONLY);
  printf("first descriptor: %d\n", first);
  close_range(3, ~0U, 0);
  for (int fd = 3; fd < 1100; fd++) close(fd);
  int fifo = open("/dev/null", O_RDONLY);
  char *memory = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memory[0] = 1;
  printf("after closing all: %d %d\n", fifo, memory[0]);
  char path[] = "/tmp/megalith-direct-XXXXXX";
  int direct = mkstemp(path);
  close(direct);
  direct = open(path, O_RDWR | O_DIRECT);
  printf("direct opens: %d\n", direct >= 0);
  unlink(path);
}
static void alarm_(int number) { (void)number; }
static void fifo(void) {
  // open(2) of a FIFO waits, and a signal ends it.
  char path[] = "/tmp/megalith-fifo-XXXXXX";
  mktemp(path);
  mkfifo(path, 0600);
  struct sigaction action = {.sa_handler = alarm_};
  sigaction(SIGALRM, &action, 0);
  ualarm(50000, 0);
  int got = open(path, O_RDONLY);
  printf("fifo: %d %d\n", got, errno == EINTR);
  unlink(path);
}
static void *last(void *unused) { (void)unused; usleep(50000); printf("last thread\n"); fflush(stdout); return 0; }
int main(int argc, char **argv) {
  setvbuf(stdout, 0, _IOLBF, 0);
  printf("%d %s\n", argc, strrchr(argv[0], '/'));
  many();
  mutexes();
  children();
  fifo();
  if (argc == 1) links();
  pthread_t thread;
  pthread_create(&thread, 0, last, 0);
  pthread_exit(0);
}
