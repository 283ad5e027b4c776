/* Timers that signal: POSIX timers to a process, to a thread, to a function; interval timers as profilers use them. */
#include "check.h"
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static volatile int ticks, functions;
static __thread volatile int my_ticks;

static void tick(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    __atomic_fetch_add(&ticks, 1, __ATOMIC_SEQ_CST);
    if (info->si_code == SI_TIMER) my_ticks++;
}

static void handle(int number) {
    struct sigaction action = {.sa_sigaction = tick, .sa_flags = SA_SIGINFO | SA_RESTART};
    CHECK(sigaction(number, &action, NULL) == 0);
}

static timer_t start(struct sigevent *event, int ms) {
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, event, &timer) == 0);
    struct itimerspec every = {{0, ms * 1000000L}, {0, ms * 1000000L}};
    CHECK(timer_settime(timer, 0, &every, NULL) == 0);
    return timer;
}

static void *tick_me(void *unused) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 1};
    event.sigev_notify_thread_id = gettid();
    timer_t timer = start(&event, 5);
    int64_t end = now_ns() + 30000000000LL;
    while (my_ticks < 20) CHECK(now_ns() < end);
    CHECK(timer_getoverrun(timer) >= 0);
    CHECK(timer_delete(timer) == 0);
    return unused;
}

static void to_threads(void) {
    handle(SIGRTMIN + 1);
    on_workers(tick_me);
    CHECK(ticks >= WORKERS * 20);
    IS(my_ticks, 0);
}

static void *wait_for_ticks(void *unused) {
    while (ticks < 20) sleep_ms(1);
    return unused;
}

static void to_process(void) {
    handle(SIGRTMIN + 2);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 2};
    timer_t timer = start(&event, 5);
    on_workers(wait_for_ticks);
    struct itimerspec left;
    CHECK(timer_gettime(timer, &left) == 0);
    IS(left.it_interval.tv_nsec, 5000000);
    CHECK(timer_delete(timer) == 0);
}

static void function(union sigval value) {
    IS(value.sival_int, 9);
    __atomic_fetch_add(&functions, 1, __ATOMIC_SEQ_CST);
}

static void to_functions(void) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = function};
    event.sigev_value.sival_int = 9;
    timer_t timer = start(&event, 20);
    wait_for(&functions, 5);
    CHECK(timer_delete(timer) == 0);
}

/* A checksum whose value no tick may change. */
static void *compute(void *number) {
    uint64_t sum = (uint64_t)(intptr_t)number;
    double x = 1;
    for (int i = 0; i < 6000000; i++) {
        sum = sum * 6364136223846793005u + 1442695040888963407u;
        x = x * 0.999999 + (double)(sum >> 60);
    }
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (void *)(uintptr_t)(sum ^ bits);
}

static void storm_of(int which, int number) {
    uintptr_t expected[WORKERS];
    for (intptr_t i = 0; i < WORKERS; i++) expected[i] = (uintptr_t)compute((void *)i);
    handle(number);
    struct itimerval every = {{0, 1000}, {0, 1000}}, none = {{0, 0}, {0, 0}};
    CHECK(setitimer(which, &every, NULL) == 0);
    pthread_t threads[WORKERS];
    for (intptr_t i = 0; i < WORKERS; i++) threads[i] = worker(compute, (void *)i);
    for (int i = 0; i < WORKERS; i++) CHECK((uintptr_t)joined(threads[i]) == expected[i]);
    if (which == ITIMER_REAL) wait_for(&ticks, 5);
    CHECK(setitimer(which, &none, NULL) == 0);
}

static void storm_real(void) { storm_of(ITIMER_REAL, SIGALRM); }
static void storm_profile(void) { storm_of(ITIMER_PROF, SIGPROF); }

static void *read_timer(void *unused) {
    int file = timerfd_create(CLOCK_MONOTONIC, 0);
    CHECK(file >= 0);
    struct itimerspec every = {{0, 5000000}, {0, 5000000}};
    CHECK(timerfd_settime(file, 0, &every, NULL) == 0);
    uint64_t sum = 0, got;
    while (sum < 10) {
        IS(read(file, &got, sizeof got), sizeof got);
        sum += got;
    }
    close(file);
    return unused;
}

static void timerfds(void) { on_workers(read_timer); }

static void *alarm_in_sleep(void *unused) {
    int64_t begin = now_ns();
    for (int i = 0; i < 10; i++) {
        struct timespec until = in_ms(CLOCK_MONOTONIC, 20);
        int code;
        while ((code = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL)) != 0) IS(code, EINTR);
    }
    CHECK(now_ns() - begin >= 200000000);
    return unused;
}

/* Sleeps are not cut short by ticks, and not prolonged for ever. */
static void sleeps(void) {
    handle(SIGALRM);
    struct itimerval every = {{0, 3000}, {0, 3000}}, none = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
    on_workers(alarm_in_sleep);
    CHECK(setitimer(ITIMER_REAL, &none, NULL) == 0);
    CHECK(ticks > 5);
}

const Case timer_cases[] = {
    {"timer-threads", to_threads}, {"timer-process", to_process},       {"timer-functions", to_functions},
    {"itimer-real", storm_real},   {"itimer-profile", storm_profile},   {"timerfd", timerfds},
    {"sleeps", sleeps},            {NULL, NULL},
};
