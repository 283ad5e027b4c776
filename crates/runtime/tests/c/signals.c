// Signal semantics; prints results that do not depend on addresses or timing.
#define _GNU_SOURCE
#include <errno.h>
#include <fenv.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <xmmintrin.h>

static volatile int count, order[16], last_code, on_alternate;
static char alternate[65536];
static sigjmp_buf jump;
static void set(int number, void *handler, int flags, int also) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
  sigemptyset(&action.sa_mask);
  if (also) sigaddset(&action.sa_mask, also);
  if (sigaction(number, &action, 0)) perror("sigaction");
}
static void note(int number, siginfo_t *info, void *context) {
  (void)context;
  char here;
  order[count++ & 15] = number;
  last_code = info->si_code;
  on_alternate = &here >= alternate && &here < alternate + sizeof alternate;
}
static const char *blocked(int number) { sigset_t now; sigprocmask(SIG_BLOCK, 0, &now); return sigismember(&now, number) ? "blocked" : "open"; }
static void tell(const char *what) {
  printf("%s: %d [", what, count);
  for (int i = 0; i < count && i < 16; i++) printf(" %d", order[i]);
  printf(" ] code %d alternate %d\n", last_code, on_alternate);
  count = 0;
}
static void in_mask(int number, siginfo_t *info, void *context) {
  (void)info; (void)context;
  printf("in handler of %d: USR1 %s, USR2 %s\n", number, blocked(SIGUSR1), blocked(SIGUSR2));
  count++;
}
static void nest(int number, siginfo_t *info, void *context) {
  note(number, info, context);
  if (number == SIGUSR1) raise(SIGUSR2);
  order[count++ & 15] = -number;
}
static void segv(int number, siginfo_t *info, void *context) {
  ucontext_t *uc = context;
  note(number, info, context);
  printf("fault address known %d %d\n", info->si_addr == (void *)8, uc->uc_mcontext.gregs[REG_CR2] == 8);
  siglongjmp(jump, 1);
}
static void skip(int number, siginfo_t *info, void *context) {
  ucontext_t *uc = context;
  note(number, info, context);
  uc->uc_mcontext.gregs[REG_RIP] += 2;  // ud2
  uc->uc_mcontext.gregs[REG_RBX] = 4711;
}
static void floats(int number, siginfo_t *info, void *context) {
  (void)number; (void)info; (void)context;
  printf("clean state: %x\n", _mm_getcsr());
  __m128 junk = _mm_set1_ps(-1);
  __asm__ volatile("movaps %0, %%xmm0; movaps %0, %%xmm7; movaps %0, %%xmm15" ::"x"(junk) : "xmm0", "xmm7", "xmm15");
}
static void unmask(int number, siginfo_t *info, void *context) {
  (void)number; (void)info;
  sigaddset(&((ucontext_t *)context)->uc_sigmask, SIGUSR2);
}
static long deep(long n) { volatile char frame[4096]; frame[0] = (char)n; return n == 0 ? 0 : deep(n - 1) + frame[0]; }
static void overflow(int number, siginfo_t *info, void *context) { (void)number; (void)context; order[0] = info->si_code; siglongjmp(jump, 1); }

static void basics(void) {
  struct sigaction got;
  set(SIGUSR1, note, SA_RESTART, SIGUSR2);
  sigaction(SIGUSR1, 0, &got);
  printf("query: %d flags %x mask %d\n", got.sa_sigaction == note, got.sa_flags, sigismember(&got.sa_mask, SIGUSR2));
  raise(SIGUSR1);
  tell("raise");
  kill(getpid(), SIGUSR1);
  tell("kill");
  set(SIGUSR1, in_mask, 0, SIGUSR2);
  raise(SIGUSR1);
  set(SIGUSR1, in_mask, SA_NODEFER, 0);
  raise(SIGUSR1);
  printf("after: USR1 %s, USR2 %s\n", blocked(SIGUSR1), blocked(SIGUSR2));
  count = 0;
  set(SIGUSR1, nest, 0, 0);
  set(SIGUSR2, nest, 0, 0);
  raise(SIGUSR1);
  tell("nested");
  set(SIGUSR1, nest, 0, SIGUSR2);
  raise(SIGUSR1);
  tell("masked");
  set(SIGUSR1, note, SA_RESETHAND, 0);
  raise(SIGUSR1);
  sigaction(SIGUSR1, 0, &got);
  printf("reset: %d\n", got.sa_handler == SIG_DFL);
  signal(SIGUSR1, SIG_IGN);
  raise(SIGUSR1);
  tell("ignored");
  struct sigaction bad = {.sa_handler = SIG_IGN};
  printf("KILL %d STOP %d 0 %d 65 %d query KILL %d\n", sigaction(SIGKILL, &bad, 0), sigaction(SIGSTOP, &bad, 0), sigaction(0, &bad, 0),
         sigaction(65, &bad, 0), sigaction(SIGKILL, 0, &got));
  printf("bad size %ld %d\n", syscall(SYS_rt_sigaction, SIGUSR1, 0, &got, 4), errno);
  printf("bad pointer %ld %d\n", syscall(SYS_rt_sigaction, SIGUSR1, (void *)1, 0, 8), errno);
  printf("bad how %ld %d\n", syscall(SYS_rt_sigprocmask, 7, &bad.sa_mask, 0, 8), errno);
  printf("bad set %ld %d\n", syscall(SYS_rt_sigprocmask, 0, (void *)1, 0, 8), errno);
}

static void masks(void) {
  sigset_t set_, old, pending, empty;
  sigemptyset(&empty);
  set(SIGUSR1, note, 0, 0);
  set(SIGUSR2, note, 0, 0);
  sigemptyset(&set_);
  sigaddset(&set_, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set_, &old);
  raise(SIGUSR1);
  sigpending(&pending);
  printf("pending %d, delivered %d\n", sigismember(&pending, SIGUSR1), count);
  printf("sigsuspend %d", sigsuspend(&empty));
  printf(" %d, then %s\n", errno == EINTR, blocked(SIGUSR1));
  tell("suspended");
  set(SIGUSR1, in_mask, 0, 0);
  raise(SIGUSR1);
  sigset_t only2;
  sigemptyset(&only2);
  sigaddset(&only2, SIGUSR2);
  sigsuspend(&only2);  // the handler runs with this mask
  sigfillset(&only2);
  sigdelset(&only2, SIGUSR1);
  raise(SIGUSR1);
  sigsuspend(&only2);
  count = 0;
  set(SIGUSR1, note, 0, 0);
  raise(SIGUSR1);
  struct timespec soon = {1, 0};
  int got = ppoll(0, 0, &soon, &empty);
  printf("ppoll %d %d\n", got, errno == EINTR);
  tell("polled");
  raise(SIGUSR1);
  got = pselect(0, 0, 0, 0, &soon, &empty);
  printf("pselect %d %d, then %s\n", got, errno == EINTR, blocked(SIGUSR1));
  tell("selected");
  raise(SIGUSR1);
  raise(SIGUSR1);
  sigprocmask(SIG_SETMASK, &old, 0);
  tell("merged");
  sigfillset(&set_);
  sigprocmask(SIG_SETMASK, &set_, 0);
  for (int i = 0; i < 3; i++) { union sigval value = {.sival_int = i}; set(SIGRTMIN, note, 0, 0); sigqueue(getpid(), SIGRTMIN, value); }
  siginfo_t info;
  sigemptyset(&set_);
  sigaddset(&set_, SIGRTMIN);
  int waited = sigwaitinfo(&set_, &info);
  printf("waited %d value %d\n", waited == SIGRTMIN, info.si_value.sival_int);
  sigprocmask(SIG_SETMASK, &old, 0);
  printf("queued %d\n", count);
  count = 0;
  set(SIGUSR1, unmask, 0, 0);
  raise(SIGUSR1);
  printf("mask changed by the handler: %s\n", blocked(SIGUSR2));
  sigprocmask(SIG_SETMASK, &old, 0);
}

static void stacks(void) {
  stack_t none = {0}, stack = {.ss_sp = alternate, .ss_size = sizeof alternate}, got;
  sigaltstack(0, &got);
  printf("none: flags %d size %zu\n", got.ss_flags, got.ss_size);
  stack.ss_size = 100;
  printf("small %d %d\n", sigaltstack(&stack, 0), errno == ENOMEM);
  stack.ss_size = sizeof alternate;
  stack.ss_flags = 77;
  printf("bad flags %d %d\n", sigaltstack(&stack, 0), errno == EINVAL);
  stack.ss_flags = 0;
  printf("set %d\n", sigaltstack(&stack, 0));
  sigaltstack(0, &got);
  printf("got %d flags %d size %zu\n", got.ss_sp == alternate, got.ss_flags, got.ss_size);
  set(SIGUSR1, note, 0, 0);
  raise(SIGUSR1);
  tell("plain");
  set(SIGUSR1, note, SA_ONSTACK, 0);
  raise(SIGUSR1);
  tell("on the stack");
  for (int i = 0; i < 3; i++) {
    set(SIGSEGV, segv, SA_ONSTACK, 0);
    if (!sigsetjmp(jump, 1)) *(volatile int *)8 = 1;
    tell("fault");
  }
  set(SIGSEGV, overflow, SA_ONSTACK, 0);
  for (int i = 0; i < 2; i++)
    if (!sigsetjmp(jump, 1)) printf("%ld\n", deep(1L << 40));
    else printf("stack overflow caught, code %d\n", order[0]);
  none.ss_flags = SS_DISABLE;
  printf("disabled %d\n", sigaltstack(&none, &got));
  sigaltstack(0, &got);
  printf("flags %d\n", got.ss_flags);
}
static void ask_stack(int number, siginfo_t *info, void *context) {
  (void)number; (void)info; (void)context;
  stack_t got, stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
  sigaltstack(0, &got);
  int changed = sigaltstack(&stack, 0);
  printf("inside: flags %d, change %d %d\n", got.ss_flags, changed, errno == EPERM);
}

static void contexts(void) {
  set(SIGILL, skip, 0, 0);
  long rbx = 1;
  __asm__ volatile("ud2" : "+b"(rbx));
  printf("context edited: %ld\n", rbx);
  tell("illegal");
  set(SIGUSR1, floats, 0, 0);
  unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x6000);
  float in[4] = {1, 2, 3, 4}, out[4];
  long pid = getpid(), result;
  __asm__ volatile("movups (%2), %%xmm7\n syscall\n movups %%xmm7, (%3)"
                   : "=a"(result) : "a"(SYS_kill), "r"(in), "r"(out), "D"(pid), "S"((long)SIGUSR1) : "rcx", "r11", "xmm7", "memory");
  printf("floats kept: %g %g %g %g, control kept: %d\n", out[0], out[1], out[2], out[3], (_mm_getcsr() & 0x6000) == 0x6000);
  _mm_setcsr(before);
}

static atomic_int ticks, stop;
static void tick(int number, siginfo_t *info, void *context) { (void)number; (void)info; (void)context; ticks++; }
static void *spin(void *unused) { (void)unused; while (!stop) ticks += 0; return 0; }
static void *sleeper(void *unused) { (void)unused; for (;;) pause(); }
static void timers(void) {
  set(SIGALRM, tick, SA_RESTART, 0);
  struct itimerval fast = {{0, 300}, {0, 300}}, off = {{0, 0}, {0, 0}};
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], 0, spin, 0);
  setitimer(ITIMER_REAL, &fast, 0);
  double x = 1;
  long errors = 0;
  while (ticks < 1000) {
    double y = x;
    for (int i = 0; i < 100; i++) y = y * 1.5 + i;
    double z = x;
    for (int i = 0; i < 100; i++) z = z * 1.5 + i;
    errors += y != z;
    x = x > 1e6 ? 1 : x + 0.1;
  }
  setitimer(ITIMER_REAL, &off, 0);
  stop = 1;
  for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
  printf("1000 ticks, %ld errors\n", errors);
}
static void both(int number, siginfo_t *info, void *context) { (void)number; (void)info; (void)context; ticks++; }
static void storm(void) {
  // Many different signals at once: wrappers interrupt wrappers.
  set(SIGUSR1, both, 0, 0);
  set(SIGUSR2, both, 0, 0);
  set(SIGRTMIN, both, 0, 0);
  set(SIGRTMIN + 1, both, SA_NODEFER, 0);
  ticks = 0;
  sigset_t all, old;
  sigfillset(&all);
  for (int i = 0; i < 2000; i++) {
    sigprocmask(SIG_SETMASK, &all, &old);
    kill(getpid(), SIGUSR1);
    raise(SIGUSR2);
    raise(SIGRTMIN);
    raise(SIGRTMIN + 1);
    raise(SIGRTMIN + 1);
    sigprocmask(SIG_SETMASK, &old, 0);
  }
  printf("storm: %d, mask %s\n", ticks, blocked(SIGUSR1));
}
static void threads(void) {
  pthread_t thread;
  set(SIGUSR1, note, 0, 0);
  pthread_create(&thread, 0, sleeper, 0);
  pthread_kill(thread, SIGUSR1);
  while (!count) sched_yield();
  tell("pthread_kill");
  void *result;
  pthread_cancel(thread);
  pthread_join(thread, &result);
  printf("cancelled: %d\n", result == PTHREAD_CANCELED);
}
int main(void) {
  setvbuf(stdout, 0, _IOLBF, 0);
  basics();
  masks();
  stacks();
  stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
  sigaltstack(&stack, 0);
  set(SIGUSR1, ask_stack, SA_ONSTACK, 0);
  raise(SIGUSR1);
  contexts();
  timers();
  storm();
  threads();
  count = 0;
  set(SIGSYS, note, 0, 0);
  kill(getpid(), SIGSYS);
  tell("SIGSYS");
  fflush(stdout);
  signal(SIGUSR1, SIG_DFL);
  raise(SIGUSR1);
  return 0;
}
