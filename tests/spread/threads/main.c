/* Threads, locks, signals, faults and memory, each in small: what a program may expect of Linux and glibc.
 *
 *     threads CASE [SETTLE_MS]      one case; prints "CASE: ok" and exits with 0, or says on stderr what is not so
 *     threads --list                the names of the cases
 *
 * The output is the same on every run; native runs are the reference.
 */
#include "check.h"

int settle_ms;

static const Case *const parts[] = {lock_cases,  futex_cases,  life_cases, signal_cases, timer_cases,
                                    fault_cases, memory_cases, call_cases, buffer_cases, c11_cases};

_Noreturn void failed(const char *file, int line, const char *what, int error) {
    fprintf(stderr, "%s:%d: not so: %s (%s)\n", file, line, what, error ? strerror(error) : "no error");
    fflush(NULL);
    _exit(1);
}

int64_t now_ns(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

struct timespec in_ms(clockid_t clock, int ms) {
    struct timespec at;
    CHECK(clock_gettime(clock, &at) == 0);
    int64_t ns = at.tv_nsec + ms * 1000000LL;
    at.tv_sec += ns / 1000000000;
    at.tv_nsec = ns % 1000000000;
    return at;
}

void sleep_ms(int ms) {
    struct timespec left = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0) CHECK(errno == EINTR);
}

void wait_for(volatile int *word, int value) {
    int64_t end = now_ns() + 60000000000LL;
    while (__atomic_load_n(word, __ATOMIC_SEQ_CST) < value) {
        sleep_ms(1);
        CHECK(now_ns() < end);
    }
}

void settle(void) {
    int64_t end = now_ns() + settle_ms * 1000000LL;
    volatile unsigned work = 0;
    while (now_ns() < end)
        for (int i = 0; i < 10000; i++) work += (unsigned)i;
}

typedef struct {
    void *(*body)(void *);
    void *argument;
} Start;

static void *settled(void *argument) {
    Start start = *(Start *)argument;
    free(argument);
    settle();
    return start.body(start.argument);
}

pthread_t worker(void *(*body)(void *), void *argument) {
    Start *start = malloc(sizeof *start);
    CHECK(start);
    *start = (Start){body, argument};
    pthread_t thread;
    OK(pthread_create(&thread, NULL, settled, start));
    return thread;
}

void *joined(pthread_t thread) {
    void *result;
    OK(pthread_join(thread, &result));
    return result;
}

void on_workers(void *(*body)(void *)) {
    pthread_t threads[WORKERS];
    for (intptr_t i = 0; i < WORKERS; i++) threads[i] = worker(body, (void *)i);
    for (int i = 0; i < WORKERS; i++) joined(threads[i]);
}

int main(int argc, char **argv) {
    int listing = argc == 2 && strcmp(argv[1], "--list") == 0;
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: threads CASE [SETTLE_MS] | --list\n");
        return 2;
    }
    settle_ms = argc == 3 ? atoi(argv[2]) : 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
        for (const Case *one = parts[p]; one->name; one++) {
            if (listing) {
                puts(one->name);
            } else if (strcmp(one->name, argv[1]) == 0) {
                one->run();
                printf("%s: ok\n", one->name);
                return 0;
            }
        }
    if (listing) return 0;
    fprintf(stderr, "threads: no case %s\n", argv[1]);
    return 2;
}
