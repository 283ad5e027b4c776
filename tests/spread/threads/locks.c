/* Mutexes of every kind, condition variables, rwlocks, barriers, semaphores, once. */
#include "check.h"
#include <fcntl.h>
#include <semaphore.h>
#include <sys/mman.h>

enum { ROUNDS = 500 };

static pthread_mutex_t mutex;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static long counter;

static void make_mutex(int type, int protocol, int robust) {
    pthread_mutexattr_t attributes;
    OK(pthread_mutexattr_init(&attributes));
    OK(pthread_mutexattr_settype(&attributes, type));
    OK(pthread_mutexattr_setprotocol(&attributes, protocol));
    OK(pthread_mutexattr_setrobust(&attributes, robust));
    OK(pthread_mutex_init(&mutex, &attributes));
    OK(pthread_mutexattr_destroy(&attributes));
}

static void *add(void *unused) {
    for (int i = 0; i < ROUNDS; i++) {
        OK(pthread_mutex_lock(&mutex));
        counter++;
        OK(pthread_mutex_unlock(&mutex));
    }
    return unused;
}

static void counts(void) {
    counter = 0;
    on_workers(add);
    IS(counter, WORKERS * ROUNDS);
    OK(pthread_mutex_destroy(&mutex));
}

static void normal(void) {
    make_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED);
    counts();
}

static void adaptive(void) {
    make_mutex(PTHREAD_MUTEX_ADAPTIVE_NP, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED);
    counts();
}

static void inheriting(void) {
    make_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_INHERIT, PTHREAD_MUTEX_STALLED);
    counts();
}

static void *try_it(void *unused) {
    IS(pthread_mutex_trylock(&mutex), EBUSY);
    struct timespec soon = in_ms(CLOCK_REALTIME, 50);
    int64_t begin = now_ns();
    IS(pthread_mutex_timedlock(&mutex, &soon), ETIMEDOUT);
    CHECK(now_ns() - begin > 40000000);
    return unused;
}

static void try_and_timed(void) {
    make_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED);
    OK(pthread_mutex_lock(&mutex));
    on_workers(try_it);
    OK(pthread_mutex_unlock(&mutex));
    OK(pthread_mutex_trylock(&mutex));
    OK(pthread_mutex_unlock(&mutex));
}

static void *nest(void *unused) {
    for (int i = 0; i < ROUNDS / 5; i++) {
        for (int depth = 0; depth < 5; depth++) OK(pthread_mutex_lock(&mutex));
        counter++;
        for (int depth = 0; depth < 5; depth++) OK(pthread_mutex_unlock(&mutex));
        IS(pthread_mutex_unlock(&mutex), EPERM);
    }
    return unused;
}

static void recursive(void) {
    make_mutex(PTHREAD_MUTEX_RECURSIVE, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED);
    on_workers(nest);
    IS(counter, WORKERS * (ROUNDS / 5));
}

static void *not_mine(void *unused) {
    IS(pthread_mutex_unlock(&mutex), EPERM);
    return unused;
}

static void errorcheck(void) {
    make_mutex(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED);
    OK(pthread_mutex_lock(&mutex));
    IS(pthread_mutex_lock(&mutex), EDEADLK);
    on_workers(not_mine);
    OK(pthread_mutex_unlock(&mutex));
    IS(pthread_mutex_unlock(&mutex), EPERM);
    counts();
}

static void *die_holding(void *unused) {
    OK(pthread_mutex_lock(&mutex));
    return unused;
}

static void *wait_for_dead(void *unused) {
    IS(pthread_mutex_lock(&mutex), EOWNERDEAD);
    OK(pthread_mutex_consistent(&mutex));
    OK(pthread_mutex_unlock(&mutex));
    return unused;
}

static void *die_slowly(void *unused) {
    OK(pthread_mutex_lock(&mutex));
    counter = 1;
    sleep_ms(100);
    return unused;
}

static void robust_with(int protocol) {
    make_mutex(PTHREAD_MUTEX_NORMAL, protocol, PTHREAD_MUTEX_ROBUST);
    for (int i = 0; i < 10; i++) {
        joined(worker(die_holding, NULL));
        joined(worker(wait_for_dead, NULL));
    }
    /* A waiter is woken by the death. */
    counter = 0;
    pthread_t owner = worker(die_slowly, NULL);
    while (__atomic_load_n(&counter, __ATOMIC_SEQ_CST) == 0) sleep_ms(1);
    pthread_t waiter = worker(wait_for_dead, NULL);
    joined(owner);
    joined(waiter);
    counts();
    make_mutex(PTHREAD_MUTEX_NORMAL, protocol, PTHREAD_MUTEX_ROBUST);
    joined(worker(die_holding, NULL));
    IS(pthread_mutex_lock(&mutex), EOWNERDEAD);
    OK(pthread_mutex_unlock(&mutex));
    IS(pthread_mutex_lock(&mutex), ENOTRECOVERABLE);
}

static void robust(void) { robust_with(PTHREAD_PRIO_NONE); }
static void robust_inheriting(void) { robust_with(PTHREAD_PRIO_INHERIT); }

enum { QUEUE = 8, ITEMS = 300 };
static int queue[QUEUE], head, tail;
static pthread_cond_t not_full = PTHREAD_COND_INITIALIZER;
static long consumed;

static void *produce(void *unused) {
    for (int i = 1; i <= ITEMS; i++) {
        OK(pthread_mutex_lock(&mutex));
        while (tail - head == QUEUE) OK(pthread_cond_wait(&not_full, &mutex));
        queue[tail++ % QUEUE] = i;
        OK(pthread_cond_signal(&cond));
        OK(pthread_mutex_unlock(&mutex));
    }
    return unused;
}

static void *consume(void *unused) {
    for (int i = 1; i <= ITEMS; i++) {
        OK(pthread_mutex_lock(&mutex));
        while (tail == head) OK(pthread_cond_wait(&cond, &mutex));
        consumed += queue[head++ % QUEUE];
        OK(pthread_cond_signal(&not_full));
        OK(pthread_mutex_unlock(&mutex));
    }
    return unused;
}

static void *queue_end(void *number) { return (intptr_t)number % 2 ? produce(number) : consume(number); }

static void conditions(void) {
    make_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED);
    on_workers(queue_end);
    IS(head, tail);
    IS(consumed, WORKERS / 2 * (ITEMS * (ITEMS + 1) / 2));
}

static int waiting, generation;

static void *wait_for_all(void *unused) {
    for (int round = 1; round <= 30; round++) {
        OK(pthread_mutex_lock(&mutex));
        if (++waiting == 3 * WORKERS) {
            waiting = 0;
            generation = round;
            OK(pthread_cond_broadcast(&cond));
        }
        while (generation < round) OK(pthread_cond_wait(&cond, &mutex));
        OK(pthread_mutex_unlock(&mutex));
    }
    return unused;
}

static void broadcast(void) {
    make_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED);
    pthread_t threads[3 * WORKERS];
    for (int i = 0; i < 3 * WORKERS; i++) threads[i] = worker(wait_for_all, NULL);
    for (int i = 0; i < 3 * WORKERS; i++) joined(threads[i]);
    IS(generation, 30);
}

static void *time_out(void *unused) {
    OK(pthread_mutex_lock(&mutex));
    for (int i = 0; i < 5; i++) {
        struct timespec soon = in_ms(CLOCK_REALTIME, 20);
        int64_t begin = now_ns();
        IS(pthread_cond_timedwait(&cond, &mutex, &soon), ETIMEDOUT);
        CHECK(now_ns() - begin > 10000000);
        soon = in_ms(CLOCK_MONOTONIC, 20);
        begin = now_ns();
        IS(pthread_cond_clockwait(&cond, &mutex, CLOCK_MONOTONIC, &soon), ETIMEDOUT);
        CHECK(now_ns() - begin > 10000000);
    }
    OK(pthread_mutex_unlock(&mutex));
    return unused;
}

static void timed_wait(void) {
    make_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_PRIO_NONE, PTHREAD_MUTEX_STALLED);
    on_workers(time_out);
}

static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static volatile long left, right;

static void *read_or_write(void *number) {
    for (int i = 0; i < ROUNDS / 2; i++) {
        if ((i + (intptr_t)number) % 4 == 0) {
            OK(pthread_rwlock_wrlock(&rwlock));
            left++;
            IS(right, left - 1);
            right++;
        } else {
            OK(pthread_rwlock_rdlock(&rwlock));
            IS(left, right);
        }
        OK(pthread_rwlock_unlock(&rwlock));
    }
    return NULL;
}

static void rwlocks(void) {
    on_workers(read_or_write);
    IS(left, ROUNDS / 2); /* in every round one of the four writes */
    OK(pthread_rwlock_rdlock(&rwlock));
    IS(pthread_rwlock_trywrlock(&rwlock), EBUSY);
    OK(pthread_rwlock_tryrdlock(&rwlock));
    OK(pthread_rwlock_unlock(&rwlock));
    struct timespec soon = in_ms(CLOCK_REALTIME, 20);
    IS(pthread_rwlock_timedwrlock(&rwlock, &soon), ETIMEDOUT);
    OK(pthread_rwlock_unlock(&rwlock));
}

static pthread_barrier_t barrier;
static int serial, stage[WORKERS];

static void *go_in_step(void *number) {
    for (int round = 0; round < 100; round++) {
        stage[(intptr_t)number] = round;
        int code = pthread_barrier_wait(&barrier);
        if (code == PTHREAD_BARRIER_SERIAL_THREAD) __atomic_fetch_add(&serial, 1, __ATOMIC_SEQ_CST);
        else IS(code, 0);
        for (int i = 0; i < WORKERS; i++) IS(stage[i], round);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static void barriers(void) {
    OK(pthread_barrier_init(&barrier, NULL, WORKERS));
    on_workers(go_in_step);
    IS(serial, 100);
    OK(pthread_barrier_destroy(&barrier));
}

/* A token goes round a ring of semaphores. */
static sem_t *ring;

static void *pass_on(void *number) {
    intptr_t me = (intptr_t)number;
    for (int i = 0; i < 200; i++) {
        CHECK(sem_wait(&ring[me]) == 0);
        counter++;
        CHECK(sem_post(&ring[(me + 1) % WORKERS]) == 0);
    }
    return NULL;
}

static void ring_of(sem_t *made, int shared) {
    ring = made;
    counter = 0;
    for (int i = 0; i < WORKERS; i++) CHECK(sem_init(&ring[i], shared, i == 0) == 0);
    on_workers(pass_on);
    IS(counter, WORKERS * 200);
    int value;
    CHECK(sem_getvalue(&ring[0], &value) == 0);
    IS(value, 1);
    CHECK(sem_trywait(&ring[0]) == 0);
    CHECK(sem_trywait(&ring[0]) == -1 && errno == EAGAIN);
    struct timespec soon = in_ms(CLOCK_REALTIME, 20);
    CHECK(sem_timedwait(&ring[0], &soon) == -1 && errno == ETIMEDOUT);
}

static void semaphores(void) {
    static sem_t mine[WORKERS];
    ring_of(mine, 0);
}

static void semaphores_in_shared_memory(void) {
    void *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    ring_of(shared, 1);
}

static void semaphores_in_a_file(void) {
    char name[] = "semaphores.XXXXXX";
    int file = mkstemp(name);
    CHECK(file >= 0);
    CHECK(unlink(name) == 0 && ftruncate(file, PAGE) == 0);
    void *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(shared != MAP_FAILED);
    ring_of(shared, 1);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void first(void) {
    sleep_ms(20);
    counter++;
}

static void *go_once(void *unused) {
    OK(pthread_once(&once, first));
    IS(counter, 1);
    return unused;
}

static void only_once(void) { on_workers(go_once); }

static pthread_spinlock_t spinlock;

static void *spin(void *unused) {
    for (int i = 0; i < 100; i++) {
        OK(pthread_spin_lock(&spinlock));
        counter++;
        OK(pthread_spin_unlock(&spinlock));
    }
    return unused;
}

static void spinlocks(void) {
    OK(pthread_spin_init(&spinlock, PTHREAD_PROCESS_PRIVATE));
    on_workers(spin);
    IS(counter, WORKERS * 100);
}

const Case lock_cases[] = {
    {"mutex-normal", normal},
    {"mutex-adaptive", adaptive},
    {"mutex-inheriting", inheriting},
    {"mutex-try-timed", try_and_timed},
    {"mutex-recursive", recursive},
    {"mutex-errorcheck", errorcheck},
    {"mutex-robust", robust},
    {"mutex-robust-inheriting", robust_inheriting},
    {"cond-queue", conditions},
    {"cond-broadcast", broadcast},
    {"cond-timed", timed_wait},
    {"rwlock", rwlocks},
    {"barrier", barriers},
    {"sem-private", semaphores},
    {"sem-shared", semaphores_in_shared_memory},
    {"sem-file", semaphores_in_a_file},
    {"once", only_once},
    {"spinlock", spinlocks},
    {NULL, NULL},
};
