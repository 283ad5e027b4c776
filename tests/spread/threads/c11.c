/* <threads.h>: the same under the names of C11. */
#include "check.h"
#include <stdatomic.h>
#include <threads.h>

static mtx_t mutex;
static cnd_t cond;
static once_flag flag = ONCE_FLAG_INIT;
static tss_t key;
static atomic_int onces, destroyed;
static int turn, counter;

static void first(void) { atomic_fetch_add(&onces, 1); }
static void destroy(void *value) { atomic_fetch_add(&destroyed, (int)(intptr_t)value); }

static int take_turns(void *number) {
    settle();
    int me = (int)(intptr_t)number;
    call_once(&flag, first);
    IS(tss_set(key, (void *)(intptr_t)(me + 1)), thrd_success);
    for (int i = 0; i < 100; i++) {
        IS(mtx_lock(&mutex), thrd_success);
        while (turn != me) IS(cnd_wait(&cond, &mutex), thrd_success);
        counter++;
        turn = (turn + 1) % WORKERS;
        IS(cnd_broadcast(&cond), thrd_success);
        IS(mtx_unlock(&mutex), thrd_success);
        if (i % 20 == 0) thrd_yield();
    }
    IS((intptr_t)tss_get(key), me + 1);
    return me * 3;
}

static void c11(void) {
    IS(mtx_init(&mutex, mtx_timed), thrd_success);
    IS(cnd_init(&cond), thrd_success);
    IS(tss_create(&key, destroy), thrd_success);
    thrd_t threads[WORKERS];
    for (int i = 0; i < WORKERS; i++)
        IS(thrd_create(&threads[i], take_turns, (void *)(intptr_t)i), thrd_success);
    for (int i = 0; i < WORKERS; i++) {
        int result;
        IS(thrd_join(threads[i], &result), thrd_success);
        IS(result, i * 3);
    }
    IS(counter, WORKERS * 100);
    IS(onces, 1);
    IS(destroyed, WORKERS * (WORKERS + 1) / 2);
    IS(mtx_lock(&mutex), thrd_success);
    struct timespec soon = in_ms(CLOCK_REALTIME, 20);
    IS(cnd_timedwait(&cond, &mutex, &soon), thrd_timedout);
    IS(mtx_unlock(&mutex), thrd_success);
}

const Case c11_cases[] = {{"c11-threads", c11}, {NULL, NULL}};
