/* Signals to threads: in a loop, in a call, masked, waited for, on a stack of their own. */
#include "check.h"
#include <poll.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <ucontext.h>

static volatile int at_it, handled, stop;
static volatile pid_t handled_by;
static pid_t tid;
static int pipe_ends[2];

static void note(int number) {
    int kept = errno;
    handled_by = gettid();
    handled += number == SIGUSR1;
    errno = kept;
}

static void handle(int number, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    CHECK(sigaction(number, &action, NULL) == 0);
}

static void mask(int how, int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    OK(pthread_sigmask(how, &set, NULL));
}

static void *spin(void *unused) {
    tid = gettid();
    volatile unsigned long a = 1, n = 0;
    double x = 1.0;
    at_it = 1;
    while (!stop) {
        a = a * 6364136223846793005u + 1442695040888963407u;
        n++;
        x = x * 1.0000001 + 1e-9;
        if (x > 2) x -= 1;
    }
    /* What the handlers interrupted is as if they had not been. */
    unsigned long b = 1;
    for (unsigned long i = 0; i < n; i++) b = b * 6364136223846793005u + 1442695040888963407u;
    CHECK(a == b);
    CHECK(x > 0.9 && x < 2.1);
    return unused;
}

static void kill_spinning(void) {
    handle(SIGUSR1, note, 0);
    pthread_t thread = worker(spin, NULL);
    wait_for(&at_it, 1);
    for (int i = 1; i <= 50; i++) {
        OK(pthread_kill(thread, SIGUSR1));
        wait_for(&handled, i);
        IS(handled_by, tid);
    }
    stop = 1;
    joined(thread);
    IS(handled, 50);
}

/* Two workers that have woken each other for a while; then one of them waits, and is signalled. */
static sem_t ping, pong;
static volatile int may_post;

static void *ping_and_wait(void *unused) {
    for (int i = 0; i < 50; i++) {
        CHECK(sem_post(&ping) == 0);
        CHECK(sem_wait(&pong) == 0);
    }
    tid = gettid();
    at_it = 1;
    CHECK(sem_wait(&pong) == -1);
    IS(errno, EINTR);
    handle(SIGUSR1, note, SA_RESTART);
    at_it = 2;
    CHECK(sem_wait(&pong) == 0);
    return unused;
}

static void *pong_and_post(void *unused) {
    for (int i = 0; i < 50; i++) {
        CHECK(sem_wait(&ping) == 0);
        CHECK(sem_post(&pong) == 0);
    }
    wait_for(&may_post, 1);
    sleep_ms(20);
    CHECK(sem_post(&pong) == 0);
    return unused;
}

static void kill_nearby(void) {
    handle(SIGUSR1, note, 0);
    pthread_t waits = worker(ping_and_wait, NULL), posts = worker(pong_and_post, NULL);
    wait_for(&at_it, 1);
    /* It may not wait yet. */
    for (int i = 0; i < 500 && at_it < 2; i++) {
        OK(pthread_kill(waits, SIGUSR1));
        sleep_ms(20);
    }
    wait_for(&at_it, 2);
    IS(handled_by, tid);
    for (int i = 0; i < 20; i++) {
        int before = handled;
        sleep_ms(i);
        OK(pthread_kill(waits, SIGUSR1));
        wait_for(&handled, before + 1);
    }
    may_post = 1;
    joined(waits);
    joined(posts);
}

static void *read_one(void *restarts) {
    char byte = 0;
    at_it++;
    ssize_t got = read(pipe_ends[0], &byte, 1);
    if (restarts) {
        IS(got, 1);
        IS(byte, 'r');
    } else {
        CHECK(got == -1);
        IS(errno, EINTR);
    }
    return NULL;
}

/* Signals the thread until it has ended, for one sent before its call is lost on the call. */
static void kill_until(pthread_t thread, volatile int *done) {
    int64_t end = now_ns() + 30000000000LL;
    while (!*done) {
        OK(pthread_kill(thread, SIGUSR1));
        sleep_ms(10);
        CHECK(now_ns() < end);
    }
    joined(thread);
}

static volatile int left;

static void *read_and_leave(void *unused) {
    read_one(NULL);
    left = 1;
    return unused;
}

static void kill_reading(void) {
    CHECK(pipe(pipe_ends) == 0);
    for (int i = 0; i < 5; i++) {
        handle(SIGUSR1, note, 0);
        left = 0;
        kill_until(worker(read_and_leave, NULL), &left);

        handle(SIGUSR1, note, SA_RESTART);
        at_it = 0;
        pthread_t thread = worker(read_one, (void *)1);
        wait_for(&at_it, 1);
        int before = handled;
        for (int j = 1; j <= 3; j++) {
            sleep_ms(5);
            OK(pthread_kill(thread, SIGUSR1));
            wait_for(&handled, before + j);
        }
        CHECK(write(pipe_ends[1], "r", 1) == 1);
        joined(thread);
    }
}

static sem_t sem;

static void *wait_sem(void *unused) {
    CHECK(sem_wait(&sem) == -1);
    IS(errno, EINTR);
    left = 1;
    return unused;
}

static void *sleep_long(void *unused) {
    struct timespec asked = {100, 0}, rest = {0, 0};
    CHECK(nanosleep(&asked, &rest) == -1);
    IS(errno, EINTR);
    CHECK(rest.tv_sec >= 60 && rest.tv_sec <= 100); /* the kernel's slack of 50 us may be in it */
    left = 1;
    return unused;
}

static void *poll_long(void *unused) {
    struct pollfd nothing = {pipe_ends[0], POLLIN, 0};
    CHECK(poll(&nothing, 1, 100000) == -1);
    IS(errno, EINTR); /* poll is never restarted */
    left = 1;
    return unused;
}

static void *pause_once(void *unused) {
    CHECK(pause() == -1);
    IS(errno, EINTR);
    left = 1;
    return unused;
}

static void kill_waiting(void) {
    void *(*const bodies[])(void *) = {wait_sem, sleep_long, poll_long, pause_once};
    CHECK(sem_init(&sem, 0, 0) == 0 && pipe(pipe_ends) == 0);
    for (int flags = 0; flags <= SA_RESTART; flags += SA_RESTART)
        for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
            if (bodies[i] == wait_sem && flags) continue; /* a restarted futex wait never comes back */
            handle(SIGUSR1, note, flags);
            left = 0;
            kill_until(worker(bodies[i], NULL), &left);
        }
}

/* A mutex is not given up for a signal. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void *lock_it(void *unused) {
    at_it = 1;
    OK(pthread_mutex_lock(&mutex));
    OK(pthread_mutex_unlock(&mutex));
    return unused;
}

static void kill_locking(void) {
    handle(SIGUSR1, note, 0);
    OK(pthread_mutex_lock(&mutex));
    pthread_t thread = worker(lock_it, NULL);
    wait_for(&at_it, 1);
    for (int i = 1; i <= 20; i++) {
        OK(pthread_kill(thread, SIGUSR1));
        wait_for(&handled, i);
    }
    OK(pthread_mutex_unlock(&mutex));
    joined(thread);
    IS(handled, 20);
}

static void *wait_signals(void *unused) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGRTMIN);
    int number;
    OK(sigwait(&set, &number));
    IS(number, SIGUSR2);
    for (int i = 0; i < 20; i++) {
        siginfo_t info;
        IS(sigwaitinfo(&set, &info), SIGRTMIN);
        IS(info.si_code, SI_QUEUE);
        IS(info.si_value.sival_int, i);
        IS(info.si_pid, getpid());
    }
    struct timespec soon = {0, 20000000};
    CHECK(sigtimedwait(&set, NULL, &soon) == -1);
    IS(errno, EAGAIN);
    return unused;
}

static void sigwaits(void) {
    mask(SIG_BLOCK, SIGUSR2);
    mask(SIG_BLOCK, SIGRTMIN);
    pthread_t thread = worker(wait_signals, NULL);
    CHECK(kill(getpid(), SIGUSR2) == 0);
    for (int i = 0; i < 20; i++) CHECK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i}) == 0);
    joined(thread);
}

static void *read_signals(void *file) {
    struct signalfd_siginfo info;
    for (int i = 0; i < 10; i++) {
        IS(read((int)(intptr_t)file, &info, sizeof info), sizeof info);
        IS(info.ssi_signo, SIGUSR2);
        IS(info.ssi_pid, getpid());
        at_it = i + 1;
    }
    return NULL;
}

static void signalfds(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    OK(pthread_sigmask(SIG_BLOCK, &set, NULL));
    int file = signalfd(-1, &set, 0);
    CHECK(file >= 0);
    pthread_t thread = worker(read_signals, (void *)(intptr_t)file);
    for (int i = 0; i < 10; i++) {
        CHECK(kill(getpid(), SIGUSR2) == 0);
        wait_for(&at_it, i + 1);
    }
    joined(thread);
}

static __thread char *own_stack;
static volatile int on_stack;

static void look_at_stack(int number, siginfo_t *info, void *context) {
    char here;
    (void)number, (void)info, (void)context;
    stack_t stack;
    CHECK(sigaltstack(NULL, &stack) == 0);
    CHECK(&here > own_stack && &here < own_stack + (64 << 10));
    CHECK(stack.ss_sp == own_stack && stack.ss_flags == SS_ONSTACK);
    CHECK(sigaltstack(&stack, NULL) == -1 && errno == EPERM);
    __atomic_fetch_add(&on_stack, 1, __ATOMIC_SEQ_CST);
}

static void *use_own_stack(void *unused) {
    stack_t stack = {.ss_size = 64 << 10}, old;
    stack.ss_sp = own_stack = malloc(stack.ss_size);
    CHECK(sigaltstack(&stack, &old) == 0);
    CHECK(old.ss_flags == SS_DISABLE);
    for (int i = 0; i < 20; i++) OK(pthread_kill(pthread_self(), SIGUSR2));
    CHECK(sigaltstack(NULL, &old) == 0);
    CHECK(old.ss_sp == own_stack && old.ss_size == stack.ss_size && old.ss_flags == 0);
    stack.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&stack, NULL) == 0);
    free(own_stack);
    return unused;
}

static void own_stacks(void) {
    struct sigaction action = {.sa_sigaction = look_at_stack, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
    on_workers(use_own_stack);
    IS(on_stack, WORKERS * 20);
}

static __thread volatile int mine;

static void note_mine(int number) { mine += number == SIGUSR2 ? 1 : 100; }

static void *masked(void *unused) {
    sigset_t pending, set;
    mask(SIG_BLOCK, SIGUSR2);
    for (int i = 0; i < 10; i++) {
        OK(pthread_kill(pthread_self(), SIGUSR2));
        OK(pthread_kill(pthread_self(), SIGUSR2)); /* one is kept */
        IS(mine, i);
        CHECK(sigpending(&pending) == 0);
        IS(sigismember(&pending, SIGUSR2), 1);
        if (i % 2) {
            mask(SIG_UNBLOCK, SIGUSR2);
            IS(mine, i + 1);
            mask(SIG_BLOCK, SIGUSR2);
        } else {
            OK(pthread_sigmask(SIG_BLOCK, NULL, &set));
            sigdelset(&set, SIGUSR2);
            CHECK(sigsuspend(&set) == -1 && errno == EINTR);
            IS(mine, i + 1);
        }
        CHECK(sigpending(&pending) == 0);
        IS(sigismember(&pending, SIGUSR2), 0);
        OK(pthread_sigmask(SIG_BLOCK, NULL, &set));
        IS(sigismember(&set, SIGUSR2), 1);
    }
    OK(pthread_kill(pthread_self(), SIGUSR2));
    struct timespec long_time = {100, 0};
    sigdelset(&set, SIGUSR2);
    CHECK(ppoll(NULL, 0, &long_time, &set) == -1 && errno == EINTR);
    IS(mine, 11);
    return unused;
}

static void masks(void) {
    handle(SIGUSR2, note_mine, 0);
    on_workers(masked);
    IS(mine, 0);
}

static void *take_process_signal(void *unused) {
    tid = gettid();
    mask(SIG_UNBLOCK, SIGUSR1);
    at_it = 1;
    while (!stop) sleep_ms(1);
    return unused;
}

/* A signal to the process goes to the one thread that lets it in. */
static void process_signal(void) {
    handle(SIGUSR1, note, SA_RESTART);
    mask(SIG_BLOCK, SIGUSR1);
    pthread_t thread = worker(take_process_signal, NULL);
    wait_for(&at_it, 1);
    for (int i = 1; i <= 20; i++) {
        CHECK(kill(getpid(), SIGUSR1) == 0);
        wait_for(&handled, i);
        IS(handled_by, tid);
    }
    stop = 1;
    joined(thread);
}

static volatile int depth, deepest, more;

static void nest(int number) {
    if (++depth > deepest) deepest = depth;
    if (more-- > 0) raise(number);
    depth--;
}

static void *nested(void *unused) {
    handle(SIGUSR2, nest, SA_NODEFER);
    more = 4;
    raise(SIGUSR2);
    IS(deepest, 5);
    handle(SIGUSR2, nest, 0); /* deferred: the inner one comes when the outer one is done */
    deepest = 0, more = 4;
    raise(SIGUSR2);
    IS(deepest, 1);
    IS(more, -1);
    handle(SIGUSR2, nest, SA_RESETHAND | SA_NODEFER);
    struct sigaction now;
    more = 0;
    raise(SIGUSR2);
    CHECK(sigaction(SIGUSR2, NULL, &now) == 0);
    CHECK(now.sa_handler == SIG_DFL);
    return unused;
}

static void nesting(void) { joined(worker(nested, NULL)); }

static sigjmp_buf back;

static void jump(int number) { siglongjmp(back, number); }

static void *jump_out(void *unused) {
    handle(SIGUSR2, jump, 0);
    for (volatile int i = 0; i < 20; i++) {
        int number = sigsetjmp(back, 1);
        if (number == 0) {
            raise(SIGUSR2);
            failed(__FILE__, __LINE__, "the handler returned", 0);
        }
        IS(number, SIGUSR2);
        sigset_t set;
        OK(pthread_sigmask(SIG_BLOCK, NULL, &set));
        IS(sigismember(&set, SIGUSR2), 0);
    }
    return unused;
}

static void jumps(void) { joined(worker(jump_out, NULL)); }

/* The handler changes what it returns to: registers of both kinds. */
static void change(int number, siginfo_t *info, void *context) {
    ucontext_t *interrupted = context;
    (void)number, (void)info;
    interrupted->uc_mcontext.gregs[REG_R12] += 5;
    double two[2] = {2.5, -1.5};
    memcpy(&interrupted->uc_mcontext.fpregs->_xmm[7], two, sizeof two);
}

static void *changed(void *unused) {
    struct sigaction action = {.sa_sigaction = change, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
    for (long i = 0; i < 20; i++) {
        long result;
        double found[2];
        __asm__ volatile("mov %[i], %%r12\n\t"
                         "syscall\n\t"
                         "mov %%r12, %[result]\n\t"
                         "movups %%xmm7, %[found]"
                         : [result] "=&r"(result), [found] "=m"(found)
                         : [i] "r"(i), "a"((long)SYS_tgkill), "D"((long)getpid()), "S"((long)gettid()),
                           "d"((long)SIGUSR2)
                         : "rcx", "r11", "r12", "xmm7", "memory");
        IS(result, i + 5);
        CHECK(found[0] == 2.5 && found[1] == -1.5);
    }
    return unused;
}

static void changes(void) { joined(worker(changed, NULL)); }

/* Vector registers and rounding survive calls, signals and moves. */
static void *keep_registers(void *number) {
    unsigned mxcsr = 0x1f80 | (unsigned)((intptr_t)number & 3) << 13, found_mxcsr;
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
    int wide = __builtin_cpu_supports("avx2");
    unsigned char pattern[16][32], found[16][32];
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < 16; i++) memset(pattern[i], (int)(intptr_t)number * 16 + i + round, 32);
        long call = round % 2 ? SYS_getppid : SYS_sched_yield;
#define EACH16(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)
#define LOAD(n) "vmovdqu " #n "*32(%[in]), %%ymm" #n "\n\t"
#define STORE(n) "vmovdqu %%ymm" #n ", " #n "*32(%[out])\n\t"
#define LOADX(n) "movdqu " #n "*32(%[in]), %%xmm" #n "\n\t"
#define STOREX(n) "movdqu %%xmm" #n ", " #n "*32(%[out])\n\t"
#define KEEP(load, store)                                                                                             \
    __asm__ volatile(EACH16(load) "1: syscall\n\t"                                                                    \
                                  "mov %[call], %%rax\n\t"                                                            \
                                  "dec %[times]\n\t"                                                                  \
                                  "jnz 1b\n\t" EACH16(store)                                                          \
                     : [times] "+r"(times)                                                                            \
                     : [in] "r"(pattern), [out] "r"(found), [call] "r"(call), "a"(call)                               \
                     : "rcx", "r11", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",  \
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")
        long times = 10;
        if (wide) KEEP(LOAD, STORE);
        else KEEP(LOADX, STOREX);
        for (int i = 0; i < 16; i++) IS(memcmp(found[i], pattern[i], wide ? 32 : 16), 0);
        __asm__ volatile("stmxcsr %0" : "=m"(found_mxcsr));
        IS(found_mxcsr & 0x6000, mxcsr & 0x6000);
    }
    return NULL;
}

static void clobber(int number) {
    volatile double x = number;
    for (int i = 0; i < 100; i++) x = x * 1.5 + 1;
    memset((char[512]){0}, number, 512);
    handled++;
}

static void *pester(void *threads) {
    while (!stop) {
        for (int i = 0; i < WORKERS; i++) OK(pthread_kill(((pthread_t *)threads)[i], SIGUSR1));
        sleep_ms(2);
    }
    return NULL;
}

static void registers(void) {
    handle(SIGUSR1, clobber, SA_RESTART);
    pthread_t threads[WORKERS], other;
    for (intptr_t i = 0; i < WORKERS; i++) threads[i] = worker(keep_registers, (void *)i);
    OK(pthread_create(&other, NULL, pester, threads));
    sleep_ms(settle_ms + 100);
    stop = 1;
    joined(other);
    for (int i = 0; i < WORKERS; i++) joined(threads[i]);
    CHECK(handled > 0);
}

const Case signal_cases[] = {
    {"kill-spinning", kill_spinning},
    {"kill-reading", kill_reading},
    {"kill-waiting", kill_waiting},
    {"kill-nearby", kill_nearby},
    {"kill-locking", kill_locking},
    {"sigwait", sigwaits},
    {"signalfd", signalfds},
    {"sigaltstack", own_stacks},
    {"masks", masks},
    {"process-signal", process_signal},
    {"nested", nesting},
    {"siglongjmp", jumps},
    {"changed-context", changes},
    {"registers", registers},
    {NULL, NULL},
};
