/* Litmus tests of x86-TSO: what two, three or four threads may see of each other's stores.
 *
 *     litmus TEST VARIANT LAYOUT INSTANCES     batched
 *     litmus -1 TEST VARIANT LAYOUT ROUNDS     one instance a round, all threads released by a shared round word
 *
 * TEST     SB MP LB R S 2+2W IRIW
 * VARIANT  plain; mfence or locked between a thread's two accesses; xchg, which makes every store a locked exchange
 * LAYOUT   apart (the variables on pages of their own) or together (on one page)
 *
 * A batch is an array of instances of each variable, one instance in 64 bytes, so that a page which changes hands
 * carries many. Each thread walks the batch in an order that changes from batch to batch: all forwards, against
 * each other, a page apart, or four pages at a time in an order of its own, with small random delays so that
 * threads overtake each other. After a batch the outcomes are counted.
 *
 * Prints the histogram and a line "weak N allowed|forbidden". Exits with 1 if a forbidden outcome was seen.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { THREADS_MAX = 4, REGISTERS = 4, PAGE = 4096, LINE = 64, PER_PAGE = PAGE / LINE, BATCH = 8192 };

typedef volatile int32_t Var;
typedef void Code(Var *x, Var *y, uint8_t *r);

/* One thread's code of every test, for each way to order its two accesses. */
#define COMPILER() __asm__ volatile("" ::: "memory")
#define FENCE_plain() COMPILER()
#define FENCE_mfence() __asm__ volatile("mfence" ::: "memory")
#define FENCE_locked() __asm__ volatile("lock addl $0, -8(%%rsp)" ::: "memory", "cc")
#define FENCE_xchg() COMPILER()
#define PUT(to, value) __asm__ volatile("movl %1, %0" : "=m"(*(to)) : "i"(value) : "memory")
#define SWAP(to, value)                                                                                               \
    do {                                                                                                              \
        int32_t swapped = (value);                                                                                    \
        __asm__ volatile("xchgl %1, %0" : "+m"(*(to)), "+r"(swapped)::"memory");                                      \
    } while (0)
#define PUT_plain PUT
#define PUT_mfence PUT
#define PUT_locked PUT
#define PUT_xchg SWAP

/* Results are kept in registers until the second access is made. */
#define WRITE_READ(name, v, a, value, b, reg)                                                                         \
    static void name##_##v(Var *x, Var *y, uint8_t *r) {                                                              \
        PUT_##v(a, value);                                                                                            \
        FENCE_##v();                                                                                                  \
        r[reg] = (uint8_t)*(b);                                                                                       \
        (void)x, (void)y;                                                                                             \
    }
#define WRITE_WRITE(name, v, a, value, b, other)                                                                      \
    static void name##_##v(Var *x, Var *y, uint8_t *r) {                                                              \
        PUT_##v(a, value);                                                                                            \
        FENCE_##v();                                                                                                  \
        PUT_##v(b, other);                                                                                            \
        (void)r;                                                                                                      \
    }
#define READ_READ(name, v, a, reg, b, other)                                                                          \
    static void name##_##v(Var *x, Var *y, uint8_t *r) {                                                              \
        int32_t first = *(a);                                                                                         \
        FENCE_##v();                                                                                                  \
        int32_t second = *(b);                                                                                        \
        r[reg] = (uint8_t)first;                                                                                      \
        r[other] = (uint8_t)second;                                                                                   \
    }
#define READ_WRITE(name, v, a, reg, b, value)                                                                         \
    static void name##_##v(Var *x, Var *y, uint8_t *r) {                                                              \
        int32_t first = *(a);                                                                                         \
        FENCE_##v();                                                                                                  \
        PUT_##v(b, value);                                                                                            \
        r[reg] = (uint8_t)first;                                                                                      \
    }
#define WRITE(name, v, a, value)                                                                                      \
    static void name##_##v(Var *x, Var *y, uint8_t *r) {                                                              \
        PUT_##v(a, value);                                                                                            \
        (void)x, (void)y, (void)r;                                                                                    \
    }
#define ALL(v)                                                                                                        \
    WRITE_READ(sb0, v, x, 1, y, 0)                                                                                    \
    WRITE_READ(sb1, v, y, 1, x, 1)                                                                                    \
    WRITE_WRITE(mp0, v, x, 1, y, 1)                                                                                   \
    READ_READ(mp1, v, y, 0, x, 1)                                                                                     \
    READ_WRITE(lb0, v, x, 0, y, 1)                                                                                    \
    READ_WRITE(lb1, v, y, 1, x, 1)                                                                                    \
    WRITE_READ(r1, v, y, 2, x, 0)                                                                                     \
    WRITE_WRITE(s0, v, x, 2, y, 1)                                                                                    \
    READ_WRITE(s1, v, y, 0, x, 1)                                                                                     \
    WRITE_WRITE(w0, v, x, 1, y, 2)                                                                                    \
    WRITE_WRITE(w1, v, y, 1, x, 2)                                                                                    \
    WRITE(iriw0, v, x, 1)                                                                                             \
    WRITE(iriw1, v, y, 1)                                                                                             \
    READ_READ(iriw2, v, x, 0, y, 1)                                                                                   \
    READ_READ(iriw3, v, y, 2, x, 3)
ALL(plain)
ALL(mfence)
ALL(locked)
ALL(xchg)

/* What one instance ended with. */
typedef struct {
    uint8_t r[REGISTERS];
    int32_t x, y;
} End;

static int weak_sb(const End *e) { return e->r[0] == 0 && e->r[1] == 0; }
static int weak_mp(const End *e) { return e->r[0] == 1 && e->r[1] == 0; }
static int weak_lb(const End *e) { return e->r[0] == 1 && e->r[1] == 1; }
static int weak_r(const End *e) { return e->y == 2 && e->r[0] == 0; }
static int weak_s(const End *e) { return e->r[0] == 1 && e->x == 2; }
static int weak_2w(const End *e) { return e->x == 1 && e->y == 1; }
static int weak_iriw(const End *e) { return e->r[0] == 1 && e->r[1] == 0 && e->r[2] == 1 && e->r[3] == 0; }

enum { PLAIN, VARIANTS = 4 };
static const char *const variant_names[VARIANTS] = {"plain", "mfence", "locked", "xchg"};

typedef struct {
    const char *name;
    int threads, registers, values;
    int plain_allows; /* store buffers show: the weak outcome is allowed without a fence */
    int (*weak)(const End *);
    Code *code[THREADS_MAX][VARIANTS];
} Test;

#define EACH(f) {f##_plain, f##_mfence, f##_locked, f##_xchg}
static const Test tests[] = {
    {"SB", 2, 2, 2, 1, weak_sb, {EACH(sb0), EACH(sb1)}},
    {"MP", 2, 2, 2, 0, weak_mp, {EACH(mp0), EACH(mp1)}},
    {"LB", 2, 2, 2, 0, weak_lb, {EACH(lb0), EACH(lb1)}},
    {"R", 2, 1, 3, 1, weak_r, {EACH(mp0), EACH(r1)}},
    {"S", 2, 1, 3, 0, weak_s, {EACH(s0), EACH(s1)}},
    {"2+2W", 2, 0, 3, 0, weak_2w, {EACH(w0), EACH(w1)}},
    {"IRIW", 4, 4, 2, 0, weak_iriw, {EACH(iriw0), EACH(iriw1), EACH(iriw2), EACH(iriw3)}},
};

static const Test *test;
static int variant, together, single;
static size_t instances, batch;
static char *xs, *ys;
static uint8_t *results[THREADS_MAX]; /* each thread's registers, on pages of its own */

enum { HISTOGRAM = 1 << 12 };
static size_t histogram[HISTOGRAM], weak;

static Var *var_x(size_t i) { return (Var *)(xs + i * LINE); }
static Var *var_y(size_t i) { return (Var *)(ys + i * LINE); }

/* All threads wait here for each other; one word, so that on several hosts its page travels. */
static _Alignas(PAGE) struct {
    atomic_uint arrived;
    char rest[PAGE - sizeof(atomic_uint)];
} meeting;

static void meet(unsigned *round) {
    unsigned target = ++*round * (unsigned)test->threads;
    atomic_fetch_add(&meeting.arrived, 1);
    for (unsigned spins = 1; (int)(atomic_load(&meeting.arrived) - target) < 0; spins++) {
        if (spins % 256 == 0) sched_yield();
        else __builtin_ia32_pause();
    }
}

static uint64_t next(uint64_t *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    return *seed ^= *seed << 17;
}

/* The place of step `i` in this thread's walk of this batch. All walks visit every instance once. */
static size_t place(size_t i, int thread, size_t batch_number, uint64_t salt) {
    size_t window = 4 * PER_PAGE;
    switch (batch_number % 4) {
    case 0:
        return i;
    case 1:
        return thread % 2 ? batch - 1 - i : i;
    case 2:
        return (i + (size_t)thread * PER_PAGE) % batch;
    default: /* an odd factor permutes a power of two */
        return i - i % window + (i * (salt % window | 1) + (salt >> 32)) % window;
    }
}

static void count(size_t many) {
    for (size_t i = 0; i < many; i++) {
        End end = {{0}, *var_x(i), *var_y(i)};
        for (int t = 0; t < test->threads; t++)
            for (int r = 0; r < REGISTERS; r++) end.r[r] |= results[t][i * REGISTERS + (size_t)r];
        size_t key = 0;
        for (int r = 0; r < test->registers; r++) key = key << 2 | end.r[r];
        if (test->values == 3) key = key << 4 | (size_t)(end.x << 2 | end.y);
        histogram[key % HISTOGRAM]++;
        weak += (size_t)test->weak(&end);
        *var_x(i) = *var_y(i) = 0;
    }
}

static void *batched(void *argument) {
    int thread = (int)(intptr_t)argument;
    Code *code = test->code[thread][variant];
    uint64_t seed = 88172645463325252u + (uint64_t)thread * 7919;
    unsigned round = 0;
    for (size_t done = 0, number = 0; done < instances; done += batch, number++) {
        uint64_t salt = next(&seed);
        meet(&round);
        for (size_t i = 0; i < batch; i++) {
            size_t at = place(i, thread, number, salt);
            uint64_t delay = next(&seed) % 64;
            for (delay = delay < 16 ? delay : 0; delay > 0; delay--) __builtin_ia32_pause();
            code(var_x(at), var_y(at), results[thread] + at * REGISTERS);
        }
        meet(&round);
        if (thread == 0) count(batch);
    }
    return NULL;
}

static void *unbatched(void *argument) {
    int thread = (int)(intptr_t)argument;
    Code *code = test->code[thread][variant];
    uint64_t seed = 88172645463325252u + (uint64_t)thread * 7919;
    unsigned round = 0;
    for (size_t done = 0; done < instances; done++) {
        unsigned delay = (unsigned)(next(&seed) % 64);
        meet(&round);
        for (unsigned i = 0; i < delay; i++) __builtin_ia32_pause();
        code(var_x(0), var_y(0), results[thread]);
        meet(&round);
        if (thread == 0) count(1);
    }
    return NULL;
}

static char *memory(size_t bytes) {
    char *at = mmap(NULL, (bytes + PAGE - 1) / PAGE * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        perror("litmus: mmap");
        exit(2);
    }
    return at;
}

static void report(const char *variant_name, const char *layout) {
    int forbidden = variant != PLAIN || !test->plain_allows;
    size_t sum = 0;
    printf("%s %s %s%s:", test->name, variant_name, layout, single ? " single" : "");
    for (size_t key = 0; key < HISTOGRAM; key++) {
        if (!histogram[key]) continue;
        sum += histogram[key];
        int low = test->values == 3 ? 4 : 0;
        printf(" ");
        for (int r = 0; r < test->registers; r++) printf("%zu", key >> (low + 2 * (test->registers - 1 - r)) & 3);
        if (low) printf("[x=%zu,y=%zu]", key >> 2 & 3, key & 3);
        printf("=%zu", histogram[key]);
    }
    printf("\nweak %zu %s\n", weak, forbidden ? "forbidden" : "allowed");
    if (sum != instances) {
        printf("LOST: %zu instances counted of %zu\n", sum, instances);
        exit(1);
    }
    if (forbidden && weak) exit(1);
}

int main(int argc, char **argv) {
    single = argc > 1 && strcmp(argv[1], "-1") == 0;
    argv += single, argc -= single;
    if (argc != 5) {
        fprintf(stderr, "usage: litmus [-1] TEST VARIANT apart|together INSTANCES\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (strcmp(tests[i].name, argv[1]) == 0) test = &tests[i];
    for (variant = 0; variant < VARIANTS && strcmp(variant_names[variant], argv[2]) != 0;) variant++;
    together = strcmp(argv[3], "together") == 0;
    instances = strtoul(argv[4], NULL, 10);
    if (!test || variant == VARIANTS || instances == 0 || (!together && strcmp(argv[3], "apart") != 0)) {
        fprintf(stderr, "litmus: no such test, variant, layout or number\n");
        return 2;
    }
    batch = single ? 1 : BATCH;
    instances = (instances + batch - 1) / batch * batch;
    /* Together, y is half a cache line after x: neither false sharing of a line nor a page of its own is excluded. */
    xs = memory(BATCH * LINE);
    ys = together ? xs + LINE / 2 : memory(BATCH * LINE);
    for (int t = 0; t < test->threads; t++) results[t] = (uint8_t *)memory(BATCH * REGISTERS);

    pthread_t threads[THREADS_MAX];
    for (int t = 0; t < test->threads; t++)
        if (pthread_create(&threads[t], NULL, single ? unbatched : batched, (void *)(intptr_t)t) != 0) return 2;
    for (int t = 0; t < test->threads; t++) pthread_join(threads[t], NULL);
    report(argv[2], argv[3]);
    return 0;
}
