/* What every part of the conformance program uses: checks that end the program, and workers. */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 4, PAGE = 4096 };

/* A case of the program: its name on the command line, and what it does. Returning means that it passed. */
typedef struct {
    const char *name;
    void (*run)(void);
} Case;

extern const Case lock_cases[], futex_cases[], life_cases[], signal_cases[], timer_cases[], fault_cases[],
    memory_cases[], call_cases[], buffer_cases[], c11_cases[];

/* Milliseconds for which a new worker computes before it begins, so that it is moved meanwhile. */
extern int settle_ms;

_Noreturn void failed(const char *file, int line, const char *what, int error);

/* `CHECK`: true, or errno says why not. `OK`: a pthread function's return value, zero. `IS`: equal numbers. */
#define CHECK(what)                                                                                                   \
    do {                                                                                                              \
        if (!(what)) failed(__FILE__, __LINE__, #what, errno);                                                        \
    } while (0)
#define OK(call)                                                                                                      \
    do {                                                                                                              \
        int code = (call);                                                                                            \
        if (code != 0) failed(__FILE__, __LINE__, #call, code);                                                       \
    } while (0)
#define IS(left, right)                                                                                               \
    do {                                                                                                              \
        long long l = (long long)(left), r = (long long)(right);                                                      \
        if (l != r) {                                                                                                 \
            fprintf(stderr, "%lld is not %lld\n", l, r);                                                              \
            failed(__FILE__, __LINE__, #left " == " #right, 0);                                                       \
        }                                                                                                             \
    } while (0)

/* Makes a thread that settles, then runs `body`. */
pthread_t worker(void *(*body)(void *), void *argument);
void *joined(pthread_t thread);
/* Runs `body` on WORKERS threads, each with its number as argument, and joins them. */
void on_workers(void *(*body)(void *));
/* Computes for `settle_ms`. */
void settle(void);

int64_t now_ns(void);
struct timespec in_ms(clockid_t clock, int ms);
void sleep_ms(int ms);
/* Waits until `*word` is at least `value`; fails after 60 seconds. */
void wait_for(volatile int *word, int value);

#endif
