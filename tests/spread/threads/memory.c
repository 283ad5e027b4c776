/* Memory that threads share, map, move and take away while others use the rest; atomic instructions on it. */
#include "check.h"
#include <malloc.h>
#include <sched.h>
#include <sys/mman.h>

static volatile int stop;
static char *stable;
enum { STABLE_PAGES = 50 };

static char *memory(size_t pages) {
    char *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

static void *read_stable(void *unused) {
    while (!stop)
        for (size_t i = 0; i < STABLE_PAGES; i++) IS(stable[i * PAGE], (char)i);
    return unused;
}

static void *map_and_unmap(void *number) {
    for (int i = 0; i < 60; i++) {
        size_t pages = (size_t)(i % 7) + 3;
        char *at = memory(pages);
        for (size_t j = 0; j < pages; j++) {
            IS(at[j * PAGE], 0);
            at[j * PAGE] = (char)(i + (intptr_t)number);
        }
        CHECK(munmap(at + PAGE, PAGE) == 0); /* a hole, then the rest */
        IS(at[0], (char)(i + (intptr_t)number));
        CHECK(munmap(at, pages * PAGE) == 0);
    }
    return NULL;
}

static void *protect(void *unused) {
    char *at = memory(8);
    for (int i = 0; i < 60; i++) {
        CHECK(mprotect(at + PAGE, 4 * PAGE, PROT_READ | PROT_WRITE) == 0);
        for (int j = 1; j < 5; j++) {
            IS(at[j * PAGE], (char)(i == 0 ? 0 : i - 1));
            at[j * PAGE] = (char)i;
        }
        CHECK(mprotect(at + PAGE, 4 * PAGE, i % 2 ? PROT_READ : PROT_NONE) == 0);
        at[0] = at[7 * PAGE] = (char)i;
    }
    CHECK(munmap(at, 8 * PAGE) == 0);
    return unused;
}

static void *move(void *number) {
    size_t pages = 2;
    char *at = memory(pages);
    for (size_t i = 0; i < pages; i++) at[i * PAGE] = (char)((size_t)number + i);
    for (int i = 0; i < 30; i++) {
        size_t wanted = pages + 2;
        at = mremap(at, pages * PAGE, wanted * PAGE, MREMAP_MAYMOVE);
        CHECK(at != MAP_FAILED);
        for (size_t j = 0; j < pages; j++) IS(at[j * PAGE], (char)((size_t)number + j));
        for (size_t j = pages; j < wanted; j++) {
            IS(at[j * PAGE], 0);
            at[j * PAGE] = (char)((size_t)number + j);
        }
        pages = wanted;
    }
    CHECK(munmap(at, pages * PAGE) == 0);
    return NULL;
}

static void beside_readers(void *(*body)(void *)) {
    stable = memory(STABLE_PAGES);
    for (size_t i = 0; i < STABLE_PAGES; i++) stable[i * PAGE] = (char)i;
    pthread_t readers[2];
    for (int i = 0; i < 2; i++) readers[i] = worker(read_stable, NULL);
    on_workers(body);
    stop = 1;
    for (int i = 0; i < 2; i++) joined(readers[i]);
}

static void map_race(void) { beside_readers(map_and_unmap); }
static void protect_race(void) { beside_readers(protect); }
static void move_race(void) { beside_readers(move); }

/* What one thread takes away or maps, all see at once. */
static pthread_barrier_t step;
static char *shown;

static void *look(void *number) {
    for (int i = 0; i < 40; i++) {
        if ((intptr_t)number == i % WORKERS) {
            switch (i % 3) {
            case 0:
                memset(shown, i + 1, 4 * PAGE);
                break;
            case 1:
                CHECK(madvise(shown, 4 * PAGE, MADV_DONTNEED) == 0);
                break;
            case 2:
                memset(shown, 77, 4 * PAGE);
                CHECK(mmap(shown, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
                      shown);
                shown[PAGE] = 9;
            }
        }
        pthread_barrier_wait(&step);
        IS(shown[PAGE], i % 3 == 0 ? i + 1 : i % 3 == 1 ? 0 : 9);
        IS(shown[3 * PAGE + 100], i % 3 == 0 ? i + 1 : 0);
        pthread_barrier_wait(&step);
    }
    return NULL;
}

static void shown_to_all(void) {
    OK(pthread_barrier_init(&step, NULL, WORKERS));
    shown = memory(4);
    on_workers(look);
}

static void *allocate(void *number) {
    enum { SLOTS = 64 };
    unsigned char *slots[SLOTS] = {0};
    size_t sizes[SLOTS] = {0};
    uint64_t seed = 88172645463325252u + (uint64_t)(intptr_t)number;
    for (int i = 0; i < 4000; i++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        size_t at = seed % SLOTS;
        for (size_t j = 0; j < sizes[at]; j += 509) IS(slots[at][j], (unsigned char)(at + (size_t)number));
        size_t size = i % 200 == 0 ? 300000 : seed >> 20 & 2047;
        slots[at] = realloc(slots[at], size + 1);
        CHECK(slots[at]);
        sizes[at] = size + 1;
        memset(slots[at], (int)(at + (size_t)number), size + 1);
    }
    for (int i = 0; i < SLOTS; i++) free(slots[i]);
    return NULL;
}

static void malloc_storm(void) { on_workers(allocate); }

/* Freed by another thread than the one that allocated. */
static char *_Atomic exchange[16];

static void *hand_over(void *number) {
    for (int i = 0; i < 600; i++) {
        char *made = malloc((size_t)(100 + i % 900));
        memset(made, 3, 100);
        made[0] = (char)(intptr_t)number;
        char *other = __atomic_exchange_n(&exchange[i % 16], made, __ATOMIC_SEQ_CST);
        if (other) {
            CHECK(other[0] >= 0 && other[0] < WORKERS && other[99] == 3);
            free(other);
        }
    }
    return NULL;
}

static void free_elsewhere(void) {
    on_workers(hand_over);
    for (int i = 0; i < 16; i++) free(exchange[i]);
    malloc_trim(0);
}

static struct {
    long added;
    int compared;
    short exchanged_low;
    unsigned char bits[64];
    _Alignas(16) unsigned __int128 wide;
} words;

static void *use_atomics(void *number) {
    for (int i = 0; i < 500; i++) {
        __atomic_fetch_add(&words.added, 3, __ATOMIC_SEQ_CST);
        int old = __atomic_load_n(&words.compared, __ATOMIC_SEQ_CST);
        while (!__atomic_compare_exchange_n(&words.compared, &old, old + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            continue;
        __asm__ volatile("lock btsw %w1, %0"
                         : "+m"(*(short *)(words.bits + 2 * (intptr_t)number))
                         : "r"((short)(i % 16))
                         : "cc", "memory");
        uint64_t low = (uint64_t)words.wide, high = (uint64_t)(words.wide >> 64);
        unsigned char done = 0;
        while (!done)
            __asm__ volatile("lock cmpxchg16b %1\n\tsete %0"
                             : "=q"(done), "+m"(words.wide), "+a"(low), "+d"(high)
                             : "b"(low + 1), "c"(high + 2)
                             : "cc", "memory");
    }
    return NULL;
}

static void atomics(void) {
    on_workers(use_atomics);
    IS(words.added, WORKERS * 500 * 3);
    IS(words.compared, WORKERS * 500);
    for (int i = 0; i < 2 * WORKERS; i++) IS(words.bits[i], 255);
    CHECK((uint64_t)words.wide == WORKERS * 500 && (uint64_t)(words.wide >> 64) == WORKERS * 1000);
}

/* A flag that a thread waits for by reading: it must come to see it. */
static volatile int flags[WORKERS][PAGE / sizeof(int)];

static void *spin_round(void *number) {
    intptr_t me = (intptr_t)number, before = (me + WORKERS - 1) % WORKERS;
    for (int i = 1; i <= 60; i++) {
        int wanted = me == 0 ? i - 1 : i;
        for (unsigned spins = 1; __atomic_load_n(&flags[before][0], __ATOMIC_ACQUIRE) < wanted; spins++)
            if (spins % 1000 == 0) sched_yield();
        __atomic_store_n(&flags[me][0], i, __ATOMIC_RELEASE);
    }
    return NULL;
}

static void spin_flags(void) { on_workers(spin_round); }

static void *grow_break(void *unused) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    for (int i = 0; i < 30; i++) {
        OK(pthread_mutex_lock(&mutex));
        char *at = sbrk(3 * PAGE);
        CHECK(at != (void *)-1);
        for (int j = 0; j < 3 * PAGE; j += 512) IS(at[j], 0);
        memset(at, 1, 3 * PAGE);
        CHECK(sbrk(-2 * PAGE) != (void *)-1);
        OK(pthread_mutex_unlock(&mutex));
    }
    return unused;
}

static void breaks(void) { on_workers(grow_break); }

/* Code that a thread writes and others run. */
static int (*code)(void);

static void *run_code(void *number) {
    for (int i = 0; i < 30; i++) {
        if ((intptr_t)number == i % WORKERS) {
            unsigned char made[] = {0xb8, (unsigned char)i, 0, 0, 0, 0xc3}; /* mov $i, %eax; ret */
            CHECK(mprotect((void *)code, PAGE, PROT_READ | PROT_WRITE) == 0);
            memcpy((void *)code, made, sizeof made);
            CHECK(mprotect((void *)code, PAGE, PROT_READ | PROT_EXEC) == 0);
        }
        pthread_barrier_wait(&step);
        IS(code(), i);
        pthread_barrier_wait(&step);
    }
    return NULL;
}

static void made_code(void) {
    OK(pthread_barrier_init(&step, NULL, WORKERS));
    code = (int (*)(void))(void *)memory(1);
    on_workers(run_code);
}

const Case memory_cases[] = {
    {"map-race", map_race},
    {"protect-race", protect_race},
    {"move-race", move_race},
    {"shown-to-all", shown_to_all},
    {"malloc-storm", malloc_storm},
    {"free-elsewhere", free_elsewhere},
    {"atomics", atomics},
    {"spin-flags", spin_flags},
    {"break", breaks},
    {"made-code", made_code},
    {NULL, NULL},
};
