// Signals that come while a call waits; prints results that do not depend on timing.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static atomic_int handled, reading, done;
static int pipes[2];
static void note(int number) { (void)number; handled++; }
static void feed(int number) { (void)number; handled++; if (write(pipes[1], "x", 1) != 1) _exit(3); }
static void set(int number, void (*handler)(int), int flags) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
  sigemptyset(&action.sa_mask);
  if (sigaction(number, &action, 0)) perror("sigaction");
}
static void soon(int microseconds) {
  struct itimerval once = {{0, 0}, {0, microseconds}};
  setitimer(ITIMER_REAL, &once, 0);
}
static const char *name(long result) {
  if (result >= 0) return "done";
  return errno == EINTR ? "EINTR" : errno == EAGAIN ? "EAGAIN" : errno == ETIMEDOUT ? "ETIMEDOUT" : strerror(errno);
}
static void tell(const char *what, long result) {
  printf("%s: %s, handled %d\n", what, name(result), handled);
  handled = 0;
}
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }

static void interrupted(int flags) {
  const char *kind = flags ? "restart" : "no restart";
  printf("%s\n", kind);
  char byte;
  if (flags) set(SIGALRM, feed, flags); else set(SIGALRM, note, flags);
  soon(30000);
  tell("read", read(pipes[0], &byte, 1));
  set(SIGALRM, note, flags);
  soon(30000);
  struct timespec second = {0, 100000000}, left = {0, 0};
  long result = nanosleep(&second, &left);
  printf("left: %d\n", result == 0 ? left.tv_nsec == 0 : left.tv_nsec > 1000000 && left.tv_nsec < 90000000);
  tell("nanosleep", result);
  soon(30000);
  errno = clock_nanosleep(CLOCK_MONOTONIC, 0, &second, 0);
  tell("clock_nanosleep", errno ? -1 : 0);
  int word = 0;
  soon(30000);
  tell("futex with a timeout", syscall(SYS_futex, &word, FUTEX_WAIT, 0, &second, 0, 0));
  struct pollfd one = {pipes[0], POLLIN, 0};
  soon(30000);
  tell("poll", poll(&one, 1, 100));
  soon(30000);
  struct timeval tenth = {0, 100000};
  fd_set fds;
  FD_ZERO(&fds);
  FD_SET(pipes[0], &fds);
  tell("select", select(pipes[0] + 1, &fds, 0, 0, &tenth));
  int epoll = epoll_create1(0);
  struct epoll_event event = {EPOLLIN, {0}};
  epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event);
  soon(30000);
  tell("epoll_wait", epoll_wait(epoll, &event, 1, 100));
  close(epoll);
  soon(30000);
  tell("pause", pause());
}

static int word;
static void *wake_later(void *unused) {
  (void)unused;
  usleep(60000);
  word = 1;
  syscall(SYS_futex, &word, FUTEX_WAKE, 1, 0, 0, 0);
  return 0;
}
static void futexes(void) {
  // Without a timeout a futex wait is restarted.
  pthread_t thread;
  set(SIGALRM, note, SA_RESTART);
  sigset_t alarms;
  sigemptyset(&alarms);
  sigaddset(&alarms, SIGALRM);
  sigprocmask(SIG_BLOCK, &alarms, 0);
  word = 0;
  pthread_create(&thread, 0, wake_later, 0);
  sigprocmask(SIG_UNBLOCK, &alarms, 0);
  soon(20000);
  tell("futex restarted", syscall(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0));
  pthread_join(thread, 0);
}

static void masks(void) {
  sigset_t alarms, none, before, after;
  sigemptyset(&alarms);
  sigaddset(&alarms, SIGALRM);
  sigemptyset(&none);
  set(SIGALRM, note, SA_RESTART);
  sigprocmask(SIG_BLOCK, &alarms, &before);
  struct timespec tenth = {0, 100000000};
  raise(SIGALRM);
  tell("ppoll", ppoll(0, 0, &tenth, &none));
  raise(SIGALRM);
  tell("pselect", pselect(0, 0, 0, 0, &tenth, &none));
  int epoll = epoll_create1(0);
  struct epoll_event event;
  raise(SIGALRM);
  tell("epoll_pwait", epoll_pwait(epoll, &event, 1, 100, &none));
  close(epoll);
  raise(SIGALRM);
  tell("sigsuspend", sigsuspend(&none));
  soon(20000);
  tell("sigsuspend later", sigsuspend(&none));
  struct timespec t = {0, 20000000};
  tell("ppoll blocked", ppoll(0, 0, &t, &alarms));
  raise(SIGALRM);
  siginfo_t info;
  printf("sigtimedwait %d\n", sigtimedwait(&alarms, &info, &tenth) == SIGALRM);
  tell("nothing to wait for", sigtimedwait(&alarms, &info, &t));
  raise(SIGALRM);
  sigpending(&after);
  printf("pending %d\n", sigismember(&after, SIGALRM));
  sigprocmask(SIG_SETMASK, &before, &after);
  printf("blocked before %d\n", sigismember(&after, SIGALRM));
  tell("unblocked", 0);
  sigpending(&after);
  int any = 0;
  for (int i = 1; i < 32; i++) any |= sigismember(&after, i);
  printf("pending after %d\n", any);
}

static void ignored(void) {
  // What is ignored, or stops and continues, ends no wait that restarts.
  char byte = 0;
  signal(SIGALRM, SIG_IGN);
  soon(20000);
  struct timespec t = {0, 60000000};
  tell("nanosleep, ignored", nanosleep(&t, 0));
  pid_t child = vfork();
  if (child == 0) {
    char text[20];
    sprintf(text, "%d", getppid());
    execl("/bin/sh", "sh", "-c", "sleep 0.1; kill -STOP $0; sleep 0.1; kill -CONT $0; sleep 0.1; kill -ALRM $0", text, (char *)0);
    _exit(9);
  }
  set(SIGALRM, feed, SA_RESTART);
  tell("read, stopped and continued", read(pipes[0], &byte, 1));
  int status;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  printf("child %d\n", status);
  handled = 0;
}

enum { STORM_BYTES = 4 << 20 };
static uint64_t sums[2];
static void *writer(void *unused) {
  (void)unused;
  unsigned char block[1000];
  uint64_t state = 1;
  for (size_t sent = 0; sent < STORM_BYTES;) {
    size_t bytes = 1 + state % sizeof block;
    if (bytes > STORM_BYTES - sent) bytes = STORM_BYTES - sent;
    for (size_t i = 0; i < bytes; i++) { state = state * 6364136223846793005u + 1442695040888963407u; block[i] = state >> 56; sums[0] = sums[0] * 31 + block[i]; }
    for (size_t at = 0; at < bytes;) {
      ssize_t wrote = write(pipes[1], block + at, bytes - at);
      if (wrote < 0 && errno != EINTR) { perror("write"); exit(1); }
      if (wrote > 0) at += wrote;
    }
    sent += bytes;
  }
  done = 1;
  return 0;
}
static void storm(int flags) {
  set(SIGALRM, note, flags);
  sums[0] = sums[1] = 0;
  done = 0;
  struct itimerval fast = {{0, 100}, {0, 100}}, off = {{0, 0}, {0, 0}};
  pthread_t thread;
  setitimer(ITIMER_REAL, &fast, 0);
  pthread_create(&thread, 0, writer, 0);
  unsigned char block[700];
  long interruptions = 0;
  for (size_t got = 0; got < STORM_BYTES;) {
    ssize_t bytes = read(pipes[0], block, sizeof block);
    if (bytes < 0 && errno != EINTR) { perror("read"); exit(1); }
    interruptions += bytes < 0;
    for (ssize_t i = 0; i < bytes; i++) sums[1] = sums[1] * 31 + block[i];
    if (bytes > 0) got += bytes;
  }
  while (handled < 8000) { struct timespec t = {0, 50000}; nanosleep(&t, 0); }
  setitimer(ITIMER_REAL, &off, 0);
  pthread_join(thread, 0);
  printf("storm %s: %d, interrupted although restarted %d\n", flags ? "restart" : "no restart", sums[0] == sums[1], flags && interruptions);
  handled = 0;
}

static void *read_on(void *unused) {
  (void)unused;
  char byte;
  reading = 1;
  long got = read(pipes[0], &byte, 1);
  return (void *)(got < 0 && errno == EINTR ? 1L : 2L);
}
static void *read_until_cancelled(void *unused) {
  char byte;
  reading = 1;
  for (;;) if (read(pipes[0], &byte, 1) > 0) return unused;
}
static void threads(void) {
  void *result;
  pthread_t thread;
  set(SIGUSR1, note, 0);
  reading = 0;
  pthread_create(&thread, 0, read_on, 0);
  while (!reading) sched_yield();
  usleep(30000);
  pthread_kill(thread, SIGUSR1);
  pthread_join(thread, &result);
  printf("pthread_kill: %ld handled %d\n", (long)result, handled);
  handled = 0;
  for (int i = 0; i < 50; i++) {
    reading = 0;
    pthread_create(&thread, 0, read_until_cancelled, 0);
    if (i % 2) while (!reading) sched_yield();
    if (i % 5 == 0) usleep(2000);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    if (result != PTHREAD_CANCELED) printf("not cancelled\n");
  }
  printf("cancelled\n");
}

int main(void) {
  setvbuf(stdout, 0, _IOLBF, 0);
  if (pipe(pipes)) return 1;
  interrupted(0);
  interrupted(SA_RESTART);
  futexes();
  masks();
  ignored();
  storm(SA_RESTART);
  storm(0);
  threads();
  // A default action ends the process out of a wait.
  signal(SIGALRM, SIG_DFL);
  soon(20000);
  char byte;
  read(pipes[0], &byte, 1);
  return 7;
}
