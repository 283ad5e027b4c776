/* How threads begin and end: storms, thread-local data, cancellation, stacks, and how they end the process. */
#include "check.h"
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern char **environ;

static void *square(void *argument) {
    intptr_t n = (intptr_t)argument;
    return (void *)(n * n);
}

static void storm(void) {
    enum { MANY = 1500, AT_ONCE = 25 };
    long sum = 0;
    for (intptr_t i = 0; i < MANY; i += AT_ONCE) {
        pthread_t threads[AT_ONCE];
        for (intptr_t j = 0; j < AT_ONCE; j++) OK(pthread_create(&threads[j], NULL, square, (void *)(i + j)));
        for (intptr_t j = 0; j < AT_ONCE; j++) {
            IS((intptr_t)joined(threads[j]), (i + j) * (i + j));
            sum += i + j;
        }
    }
    IS(sum, MANY * (MANY - 1) / 2);
}

static volatile int ended;

static void *end_detached(void *unused) {
    __atomic_fetch_add(&ended, 1, __ATOMIC_SEQ_CST);
    return unused;
}

static void detached(void) {
    pthread_attr_t attributes;
    OK(pthread_attr_init(&attributes));
    OK(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED));
    for (int i = 0; i < 300; i++) {
        pthread_t thread;
        OK(pthread_create(&thread, &attributes, end_detached, NULL));
        if (i % 20 == 19) wait_for(&ended, i + 1);
    }
    wait_for(&ended, 300);
}

/* Threads that make threads. */
static void *tree(void *depth) {
    settle();
    if (!depth) return (void *)1;
    pthread_t left, right;
    void *below = (void *)((intptr_t)depth - 1);
    OK(pthread_create(&left, NULL, tree, below));
    OK(pthread_create(&right, NULL, tree, below));
    return (void *)((intptr_t)joined(left) + (intptr_t)joined(right));
}

static void trees(void) { IS((intptr_t)tree((void *)5), 32); }

static __thread int initial = 41;
static __thread char large[3 * PAGE];
static pthread_key_t key;
static int destroyed;

static void destroy(void *value) {
    IS(initial, 43);
    __atomic_fetch_add(&destroyed, 1, __ATOMIC_SEQ_CST);
    /* Set again, twice: destructors run until nothing is left. */
    if ((intptr_t)value < 3) OK(pthread_setspecific(key, (void *)((intptr_t)value + 1)));
}

static void *use_tls(void *number) {
    IS(initial, 41);
    for (size_t i = 0; i < sizeof large; i += 64) IS(large[i], 0);
    memset(large, (int)(intptr_t)number + 1, sizeof large);
    initial += 2;
    errno = 1000 + (int)(intptr_t)number;
    CHECK(pthread_getspecific(key) == NULL);
    OK(pthread_setspecific(key, (void *)1));
    for (int i = 0; i < 20; i++) {
        errno = 1000 + (int)(intptr_t)number;
        sleep_ms(1);
        close(-1);
        IS(errno, EBADF);
        for (size_t j = 0; j < sizeof large; j += 64) IS(large[j], (intptr_t)number + 1);
    }
    return NULL;
}

static void tls(void) {
    OK(pthread_key_create(&key, destroy));
    for (int round = 0; round < 3; round++) on_workers(use_tls);
    IS(destroyed, 3 * 3 * WORKERS);
    IS(initial, 41);
}

static int cleaned;
static volatile int at_it;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int pipe_ends[2];
static sem_t sem;

static void clean(void *unlock) {
    cleaned++;
    if (unlock) OK(pthread_mutex_unlock(&mutex));
}

static void *cancelled_in_read(void *unused) {
    char byte;
    pthread_cleanup_push(clean, NULL);
    at_it = 1;
    CHECK(read(pipe_ends[0], &byte, 1) == 1);
    pthread_cleanup_pop(0);
    return unused;
}

static void *cancelled_in_sleep(void *unused) {
    pthread_cleanup_push(clean, NULL);
    at_it = 1;
    struct timespec long_time = {1000, 0};
    nanosleep(&long_time, NULL);
    pthread_cleanup_pop(0);
    return unused;
}

static void *cancelled_in_wait(void *unused) {
    OK(pthread_mutex_lock(&mutex));
    pthread_cleanup_push(clean, &mutex);
    at_it = 1;
    for (;;) OK(pthread_cond_wait(&cond, &mutex));
    pthread_cleanup_pop(0);
    return unused;
}

static void *cancelled_in_sem(void *unused) {
    pthread_cleanup_push(clean, NULL);
    at_it = 1;
    CHECK(sem_wait(&sem) == 0);
    pthread_cleanup_pop(0);
    return unused;
}

static void *cancelled_in_join(void *thread) {
    pthread_cleanup_push(clean, NULL);
    at_it = 1;
    joined(*(pthread_t *)thread);
    pthread_cleanup_pop(0);
    return NULL;
}

static void *cancelled_in_spin(void *unused) {
    OK(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL));
    pthread_cleanup_push(clean, NULL);
    at_it = 1;
    for (volatile long n = 0;; n++) continue;
    pthread_cleanup_pop(0);
    return unused;
}

static void *cancelled_at_a_point(void *unused) {
    OK(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL));
    pthread_cleanup_push(clean, NULL);
    at_it = 1;
    sleep_ms(30);
    at_it = 2;
    sleep_ms(30);
    OK(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL));
    pthread_testcancel();
    failed(__FILE__, __LINE__, "it went on after pthread_testcancel", 0);
    pthread_cleanup_pop(0);
    return unused;
}

static void cancel(void *(*body)(void *), void *argument) {
    for (int i = 0; i < 5; i++) {
        cleaned = at_it = 0;
        pthread_t thread = worker(body, argument);
        wait_for(&at_it, 1);
        if (i % 2) sleep_ms(10); /* it waits already, or not yet */
        OK(pthread_cancel(thread));
        CHECK(joined(thread) == PTHREAD_CANCELED);
        IS(cleaned, 1);
    }
}

static void cancel_read(void) {
    CHECK(pipe(pipe_ends) == 0);
    cancel(cancelled_in_read, NULL);
}

static void cancel_sleep(void) { cancel(cancelled_in_sleep, NULL); }

static void cancel_wait(void) {
    cancel(cancelled_in_wait, NULL);
    OK(pthread_mutex_trylock(&mutex));
}

static void cancel_sem(void) {
    CHECK(sem_init(&sem, 0, 0) == 0);
    cancel(cancelled_in_sem, NULL);
}

static void cancel_join(void) {
    cleaned = at_it = 0;
    CHECK(pipe(pipe_ends) == 0);
    pthread_t other = worker(cancelled_in_read, NULL);
    cancel(cancelled_in_join, &other);
    CHECK(write(pipe_ends[1], "x", 1) == 1);
    joined(other);
}

static void cancel_spin(void) { cancel(cancelled_in_spin, NULL); }
static void cancel_disabled(void) { cancel(cancelled_at_a_point, NULL); }

static long deep(int depth) {
    volatile char frame[1000];
    memset((char *)frame, depth & 63, sizeof frame);
    long below = depth ? deep(depth - 1) : 0;
    for (size_t i = 0; i < sizeof frame; i += 50) IS(frame[i], depth & 63);
    return below + depth;
}

static void *use_stack(void *bytes) {
    settle();
    pthread_attr_t attributes;
    void *low;
    size_t size;
    OK(pthread_getattr_np(pthread_self(), &attributes));
    OK(pthread_attr_getstack(&attributes, &low, &size));
    OK(pthread_attr_destroy(&attributes));
    CHECK((char *)&size > (char *)low && (char *)&size < (char *)low + size);
    CHECK(size >= (size_t)bytes);
    int depth = (int)((size_t)bytes / 2000);
    IS(deep(depth), (long)depth * (depth + 1) / 2);
    return NULL;
}

static void stacks(void) {
    for (size_t bytes = 64 << 10; bytes <= 8 << 20; bytes *= 2) {
        pthread_attr_t attributes;
        pthread_t thread;
        OK(pthread_attr_init(&attributes));
        OK(pthread_attr_setstacksize(&attributes, bytes));
        OK(pthread_create(&thread, &attributes, use_stack, (void *)bytes));
        joined(thread);
    }
    size_t bytes = 256 << 10;
    void *own = aligned_alloc(PAGE, bytes);
    pthread_attr_t attributes;
    pthread_t thread;
    OK(pthread_attr_init(&attributes));
    OK(pthread_attr_setstack(&attributes, own, bytes));
    OK(pthread_create(&thread, &attributes, use_stack, (void *)bytes));
    joined(thread);
    memset(own, 1, bytes);
    free(own);
}

static pid_t tids[WORKERS];

static void *identify(void *number) {
    pid_t tid = gettid();
    IS(syscall(SYS_gettid), tid);
    CHECK(tid != getpid());
    char path[64], name[32] = {0};
    snprintf(path, sizeof path, "/proc/self/task/%d/comm", tid);
    snprintf(name, sizeof name, "w%d", (int)(intptr_t)number);
    OK(pthread_setname_np(pthread_self(), name));
    int file = open(path, O_RDONLY);
    char got[32] = {0};
    CHECK(file >= 0);
    ssize_t length = read(file, got, sizeof got - 1);
    CHECK(length > 0 && got[length - 1] == '\n');
    got[length - 1] = 0;
    IS(strcmp(got, name), 0);
    close(file);
    IS(syscall(SYS_tgkill, getpid(), tid, 0), 0);
    tids[(intptr_t)number] = tid;
    return NULL;
}

static void ids(void) {
    IS(gettid(), getpid());
    on_workers(identify);
    for (int i = 0; i < WORKERS; i++) CHECK(tids[i] > 0);
}

static int64_t last_ns;

static void *look_at_clocks(void *unused) {
    for (int i = 0; i < 300; i++) {
        OK(pthread_mutex_lock(&mutex));
        int64_t now = now_ns();
        CHECK(now >= last_ns);
        last_ns = now;
        OK(pthread_mutex_unlock(&mutex));
    }
    struct timespec wall, cpu, later;
    CHECK(clock_gettime(CLOCK_REALTIME, &wall) == 0);
    CHECK(llabs((long long)wall.tv_sec - (long long)time(NULL)) <= 1);
    CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu) == 0);
    for (volatile int i = 0; i < 20000000; i++) continue;
    CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &later) == 0);
    int64_t used = (later.tv_sec - cpu.tv_sec) * 1000000000LL + later.tv_nsec - cpu.tv_nsec;
    CHECK(used > 1000000);
    return unused;
}

static void clocks(void) { on_workers(look_at_clocks); }

static void *spawn_child(void *number) {
    char code[32];
    snprintf(code, sizeof code, "exit %d", (int)(intptr_t)number + 3);
    for (int i = 0; i < 3; i++) {
        char *argv[] = {"sh", "-c", code, NULL};
        pid_t child;
        OK(posix_spawn(&child, "/bin/sh", NULL, NULL, argv, environ));
        int status;
        IS(waitpid(child, &status, 0), child);
        CHECK(WIFEXITED(status));
        IS(WEXITSTATUS(status), (intptr_t)number + 3);
    }
    return NULL;
}

static void spawns(void) { on_workers(spawn_child); }

static void *exit_seven(void *unused) {
    puts("exiting");
    exit(7);
    return unused;
}

static void *exit_group_seven(void *unused) {
    puts("exiting");
    syscall(SYS_exit_group, 7);
    return unused;
}

static void *spin_for_ever(void *unused) {
    for (volatile long i = 0;; i++) continue;
    return unused;
}

/* Others wait, compute and hold locks while one ends the process. */
static void end_by(void *(*body)(void *)) {
    CHECK(pipe(pipe_ends) == 0);
    worker(cancelled_in_read, NULL);
    worker(cancelled_in_sleep, NULL);
    worker(spin_for_ever, NULL);
    worker(cancelled_in_wait, NULL);
    joined(worker(body, NULL));
    failed(__FILE__, __LINE__, "the process goes on", 0);
}

static void exit_by_worker(void) { end_by(exit_seven); }
static void exit_group_by_worker(void) { end_by(exit_group_seven); }

static void *print_late(void *unused) {
    sleep_ms(50);
    puts("last thread");
    return unused;
}

static void main_leaves(void) {
    worker(print_late, NULL);
    puts("main leaves");
    pthread_exit(NULL);
}

static void *abort_it(void *unused) {
    puts("aborting");
    abort();
    return unused;
}

static void *divide(void *unused) {
    puts("dividing");
    __asm__ volatile("xor %%ecx, %%ecx\n\tmov $1, %%eax\n\tcltd\n\tidivl %%ecx" ::: "eax", "ecx", "edx", "cc");
    return unused;
}

static void *touch_nothing(void *unused) {
    puts("touching");
    *(volatile int *)16 = 1;
    return unused;
}

static void *trap(void *unused) {
    puts("trapping");
    __asm__ volatile("ud2");
    return unused;
}

static void *kill_it(void *unused) {
    puts("killing");
    kill(getpid(), SIGTERM);
    for (;;) pause();
    return unused;
}

static void die_by_abort(void) { end_by(abort_it); }
static void die_by_division(void) { end_by(divide); }
static void die_by_segv(void) { end_by(touch_nothing); }
static void die_by_ill(void) { end_by(trap); }
static void die_by_term(void) { end_by(kill_it); }

const Case life_cases[] = {
    {"storm", storm},
    {"detached", detached},
    {"tree", trees},
    {"tls", tls},
    {"cancel-read", cancel_read},
    {"cancel-sleep", cancel_sleep},
    {"cancel-cond", cancel_wait},
    {"cancel-sem", cancel_sem},
    {"cancel-join", cancel_join},
    {"cancel-spin", cancel_spin},
    {"cancel-disabled", cancel_disabled},
    {"stacks", stacks},
    {"ids", ids},
    {"clocks", clocks},
    {"spawn", spawns},
    {"exit-worker", exit_by_worker},
    {"exit-group-worker", exit_group_by_worker},
    {"main-leaves", main_leaves},
    {"die-abort", die_by_abort},
    {"die-division", die_by_division},
    {"die-segv", die_by_segv},
    {"die-ill", die_by_ill},
    {"die-term", die_by_term},
    {NULL, NULL},
};
