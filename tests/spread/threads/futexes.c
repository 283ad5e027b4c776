/* futex(2) itself: values, timeouts, bit sets, requeue, wake-op, PI. */
#include "check.h"
#include <linux/futex.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static int *word, *other;
static int private;
static volatile int ready, woken;

static long call(int *at, int operation, int value, const struct timespec *timeout, int *second, int third) {
    return syscall(SYS_futex, at, operation | (private ? FUTEX_PRIVATE_FLAG : 0), value, timeout, second, third);
}

static long call2(int *at, int operation, int value, int many, int *second, int third) {
    return syscall(SYS_futex, at, operation | (private ? FUTEX_PRIVATE_FLAG : 0), value, (long)many, second, third);
}

static void *wait_once(void *unused) {
    __atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
    CHECK(call(word, FUTEX_WAIT, 7, NULL, NULL, 0) == 0);
    __atomic_fetch_add(&woken, 1, __ATOMIC_SEQ_CST);
    return unused;
}

/* How many wait is not to be seen, so whoever counts wake-ups asks again until he has had as many. */
static long wake(int operation, int *at, int many, int *second, int third, int second_many) {
    int64_t end = now_ns() + 30000000000LL;
    long had = 0;
    while (had < many) {
        long got = call2(at, operation, many - (int)had, second_many, second, third);
        CHECK(got >= 0);
        had += got;
        CHECK(now_ns() < end);
        if (got == 0) sleep_ms(1);
    }
    return had;
}

static void waits(void) {
    *word = 7;
    CHECK(call(word, FUTEX_WAIT, 8, NULL, NULL, 0) == -1 && errno == EAGAIN);
    struct timespec soon = {0, 20000000};
    int64_t begin = now_ns();
    CHECK(call(word, FUTEX_WAIT, 7, &soon, NULL, 0) == -1 && errno == ETIMEDOUT);
    CHECK(now_ns() - begin >= 20000000);
    struct timespec at = in_ms(CLOCK_MONOTONIC, 20);
    begin = now_ns();
    CHECK(call(word, FUTEX_WAIT_BITSET, 7, &at, NULL, 1) == -1 && errno == ETIMEDOUT);
    CHECK(now_ns() - begin > 10000000);
    at = in_ms(CLOCK_REALTIME, 20);
    CHECK(call(word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 7, &at, NULL, 1) == -1 && errno == ETIMEDOUT);
    CHECK(call(word, FUTEX_WAIT_BITSET, 7, NULL, NULL, 0) == -1 && errno == EINVAL);
    CHECK(call((int *)((char *)word + 1), FUTEX_WAIT, 7, NULL, NULL, 0) == -1 && errno == EINVAL);

    pthread_t threads[WORKERS];
    ready = woken = 0;
    for (int i = 0; i < WORKERS; i++) threads[i] = worker(wait_once, NULL);
    wait_for(&ready, WORKERS);
    IS(wake(FUTEX_WAKE, word, 1, NULL, 0, 0), 1);
    wait_for(&woken, 1);
    IS(wake(FUTEX_WAKE, word, WORKERS - 1, NULL, 0, 0), WORKERS - 1);
    for (int i = 0; i < WORKERS; i++) joined(threads[i]);
    IS(woken, WORKERS);
}

static void *wait_for_bit(void *number) {
    __atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
    CHECK(call(word, FUTEX_WAIT_BITSET, 7, NULL, NULL, 1 << (intptr_t)number) == 0);
    __atomic_fetch_add(&woken, 1 << (8 * (intptr_t)number), __ATOMIC_SEQ_CST);
    return NULL;
}

static void bitsets(void) {
    *word = 7;
    ready = woken = 0;
    pthread_t threads[3];
    for (intptr_t i = 0; i < 3; i++) threads[i] = worker(wait_for_bit, (void *)i);
    wait_for(&ready, 3);
    IS(call(word, FUTEX_WAKE_BITSET, 9, NULL, NULL, 8), 0);
    wake(FUTEX_WAKE_BITSET, word, 1, NULL, 2, 0);
    joined(threads[1]);
    IS(woken, 0x100);
    wake(FUTEX_WAKE_BITSET, word, 2, NULL, 5, 0);
    joined(threads[0]);
    joined(threads[2]);
    IS(woken, 0x10101);
}

static void requeue(void) {
    *word = 7, *other = 9;
    ready = woken = 0;
    pthread_t threads[WORKERS];
    for (int i = 0; i < WORKERS; i++) threads[i] = worker(wait_once, NULL);
    wait_for(&ready, WORKERS);
    CHECK(call2(word, FUTEX_CMP_REQUEUE, 1, 10, other, 8) == -1 && errno == EAGAIN);
    /* One is woken, the rest go to the other word. A requeue answers with the number of both. */
    int64_t end = now_ns() + 30000000000LL;
    int moved = 0;
    for (int wanted = 1; moved < WORKERS;) {
        long got = call2(word, FUTEX_CMP_REQUEUE, wanted, 10, other, 7);
        CHECK(got >= 0 && now_ns() < end);
        if (got > 0) wanted = 0;
        moved += (int)got;
        if (got == 0) sleep_ms(1);
    }
    IS(moved, WORKERS);
    wait_for(&woken, 1);
    sleep_ms(20);
    IS(woken, 1);
    IS(call(word, FUTEX_WAKE, 10, NULL, NULL, 0), 0);
    IS(call(other, FUTEX_WAKE, 10, NULL, NULL, 0), WORKERS - 1);
    for (int i = 0; i < WORKERS; i++) joined(threads[i]);
    IS(woken, WORKERS);
}

static void wake_op(void) {
    *word = 7, *other = 3;
    ready = woken = 0;
    pthread_t thread = worker(wait_once, NULL);
    wait_for(&ready, 1);
    /* other += 1; if it was 3, one of its waiters is woken too: there are none. */
    int operation = FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 3);
    int expected = 3;
    int64_t end = now_ns() + 30000000000LL;
    long got;
    while ((got = call2(word, FUTEX_WAKE_OP, 1, 1, other, operation)) == 0) {
        IS(*other, ++expected);
        CHECK(now_ns() < end);
        sleep_ms(1);
    }
    IS(got, 1);
    IS(*other, expected + 1);
    joined(thread);
}

static void *lock_pi(void *unused) {
    for (int i = 0; i < 100; i++) {
        CHECK(call(word, FUTEX_LOCK_PI, 0, NULL, NULL, 0) == 0);
        IS(*word & FUTEX_TID_MASK, gettid());
        (*other)++;
        CHECK(call(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0) == 0);
    }
    return unused;
}

static void pi(void) {
    *word = 0, *other = 0;
    on_workers(lock_pi);
    IS(*other, WORKERS * 100);
    IS(*word, 0);
    CHECK(call(word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0) == -1 && errno == EPERM);
}

static void all(void) {
    waits();
    bitsets();
    requeue();
    wake_op();
    pi();
}

static void in_private(void) {
    static int words[2 * PAGE];
    word = words, other = words + PAGE;
    private = 1;
    all();
}

static void in_shared(void) {
    int *words = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(words != MAP_FAILED);
    word = words, other = words + PAGE / sizeof *words;
    all();
}

/* Two workers hand a token over many times, alone; then main is the third, whose home is elsewhere; and again. */
enum { PHASES = 5, PAIRS = 200, RINGS = 50 };
static sem_t tokens[3];
static int handed;

static void hand_over(int from, int to) {
    CHECK(sem_wait(&tokens[from]) == 0);
    handed++;
    CHECK(sem_post(&tokens[to]) == 0);
}

static void *first_of_two(void *unused) {
    for (int i = 0; i < PHASES * (PAIRS + RINGS); i++) hand_over(1, 2);
    return unused;
}

static void *second_of_two(void *unused) {
    for (int phase = 0; phase < PHASES; phase++) {
        for (int i = 1; i <= PAIRS; i++) hand_over(2, i == PAIRS ? 0 : 1);
        for (int i = 0; i < RINGS; i++) hand_over(2, 0);
    }
    return unused;
}

static void changing_company(void) {
    pthread_t first = worker(first_of_two, NULL), second = worker(second_of_two, NULL);
    for (int i = 0; i < PHASES * (1 + RINGS); i++) {
        CHECK(sem_post(&tokens[1]) == 0);
        CHECK(sem_wait(&tokens[0]) == 0);
    }
    joined(first);
    joined(second);
    IS(handed, PHASES * 2 * (PAIRS + RINGS));
}

const Case futex_cases[] = {
    {"futex-private", in_private}, {"futex-shared", in_shared}, {"changing-company", changing_company}, {NULL, NULL}};
