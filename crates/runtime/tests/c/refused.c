// Calls that the runtime refuses; each is named once on standard error.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static void say(const char *what, long result) { printf("%s %s\n", what, result == -1 ? strerrorname_np(errno) : "ok"); fflush(stdout); }

int main(void) {
  say("fork", syscall(SYS_fork));
  say("fork", syscall(SYS_fork));
  say("io_uring_setup", syscall(SYS_io_uring_setup, 1, 0));
  say("userfaultfd", syscall(SYS_userfaultfd, 0));
  say("vmsplice", syscall(SYS_vmsplice, 0, 0, 0, 0));
  say("seccomp", syscall(SYS_seccomp, 0, 0, 0));
  say("MAP_GROWSDOWN", (long)mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0));
  say("modify_ldt", syscall(SYS_modify_ldt, 0, 0, 0));
  say("rseq", syscall(SYS_rseq, 0, 0, 0, 0));
  return 0;
}
