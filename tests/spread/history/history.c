/* `history THREADS OPERATIONS PAGES WORDS BALLAST_MIB SEED`: threads operate on WORDS words of each of PAGES pages, and log it.
 *
 * Between operations they walk through BALLAST_MIB of other memory, so that the shared pages are evicted, too. Writes the
 * log to standard output: one `struct record` an operation, those of the first thread first.
 *
 * Times are the time stamp counter's, which all CPUs of one computer share, namespaces or not. It is read here and not asked of the
 * kernel, because a clock of another host is estimated (docs/spread.md). */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <x86intrin.h>

enum { THREADS_MAX = 16, PAGE = 4096, LINE = 64 };
enum kind { LOAD, STORE, SWAP, ADD, COMPARE, KINDS };

struct record {
    uint64_t begin, end, argument, expected, result;
    uint32_t word, kind;
};

struct job {
    pthread_t id;
    uint64_t number;
    struct record *log;
};

static long operations, pages, words;
static size_t ballast_words;
static uint64_t seed;
static char *shared;
static uint64_t *ballast;
static _Atomic int arrived;
static int threads;

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return *state;
}

/* The words of a page are far apart or neighbours: a line has two. */
static _Atomic uint64_t *word_at(uint32_t word) {
    long page = word / words, place = word % words;
    return (_Atomic uint64_t *)(shared + page * PAGE + place / 2 * LINE + place % 2 * (long)sizeof(uint64_t));
}

static uint64_t before(void) {
    _mm_mfence();
    _mm_lfence();
    uint64_t time = __rdtsc();
    _mm_lfence();
    return time;
}

static uint64_t after(void) {
    unsigned cpu;
    uint64_t time = __rdtscp(&cpu);
    _mm_lfence();
    return time;
}

static void operate(struct record *record, uint64_t fresh) {
    _Atomic uint64_t *word = word_at(record->word);
    record->begin = before();
    switch ((enum kind)record->kind) {
    case LOAD:
        record->result = atomic_load(word);
        break;
    case STORE:
        record->argument = fresh;
        atomic_store(word, fresh);
        break;
    case SWAP:
        record->argument = fresh;
        record->result = atomic_exchange(word, fresh);
        break;
    case ADD:
        record->argument = 1;
        record->result = atomic_fetch_add(word, 1);
        break;
    case COMPARE:
        record->argument = fresh;
        record->result = record->expected;
        /* On failure this is the value that was found. */
        atomic_compare_exchange_strong(word, &record->result, fresh);
        break;
    case KINDS:
        abort();
    }
    record->end = after();
}

static void *run(void *argument) {
    struct job *job = argument;
    uint64_t state = seed * 0x9e3779b97f4a7c15u + job->number * 7919 + 1, sum = 0;
    uint64_t *last = calloc((size_t)(pages * words), sizeof *last);
    if (!last) _exit(98);
    atomic_fetch_add(&arrived, 1);
    while (atomic_load(&arrived) < threads) usleep(200);
    for (long n = 0; n < operations; n++) {
        struct record *record = &job->log[n];
        uint64_t dice = next(&state);
        record->word = (uint32_t)(dice % (uint64_t)(pages * words));
        record->kind = (uint32_t)(dice >> 32) % KINDS;
        record->expected = last[record->word];
        /* No two stores write the same, and additions of 1 do not reach the next. */
        operate(record, (job->number + 1) << 56 | (uint64_t)(n + 1) << 24);
        int compared = record->kind == COMPARE && record->result == record->expected;
        last[record->word] = record->kind == STORE || record->kind == SWAP || compared ? record->argument : record->result;
        uint64_t walk = next(&state);
        if (ballast_words && walk % 4 == 0)
            for (int k = 0; k < 4; k++) {
                uint64_t *at = &ballast[next(&state) % ballast_words];
                if (walk & 16) __atomic_fetch_add(at, next(&state), __ATOMIC_RELAXED);
                else sum += *at;
            }
        for (uint64_t delay = walk >> 32 & 255; delay > 0; delay--) _mm_pause();
    }
    free(last);
    return (void *)(sum & 1);
}

static void put(const void *from, size_t bytes) {
    const char *at = from;
    while (bytes > 0) {
        ssize_t done = write(1, at, bytes);
        if (done <= 0) _exit(96);
        at += done, bytes -= (size_t)done;
    }
}

int main(int argc, char **argv) {
    if (argc != 7) return 97;
    threads = atoi(argv[1]);
    operations = atol(argv[2]);
    pages = atol(argv[3]);
    words = atol(argv[4]);
    ballast_words = (size_t)atol(argv[5]) * (1 << 20) / sizeof *ballast;
    seed = strtoul(argv[6], NULL, 10);
    if (threads < 1 || threads > THREADS_MAX || operations < 1 || pages < 1 || words < 1 || words > 2 * PAGE / LINE) return 97;
    shared = aligned_alloc(PAGE, (size_t)pages * PAGE);
    ballast = malloc(ballast_words * sizeof *ballast + 1);
    if (!shared || !ballast) return 98;
    for (uint32_t word = 0; word < (uint32_t)(pages * words); word++) atomic_store(word_at(word), 0);
    uint64_t state = seed + 88172645463325252u;
    for (size_t n = 0; n < ballast_words; n++) ballast[n] = next(&state);
    struct job jobs[THREADS_MAX];
    for (int n = 0; n < threads; n++) {
        jobs[n].number = (uint64_t)n;
        jobs[n].log = calloc((size_t)operations, sizeof *jobs[n].log);
        if (!jobs[n].log || (n > 0 && pthread_create(&jobs[n].id, NULL, run, &jobs[n]))) return 98;
    }
    run(&jobs[0]);
    for (int n = 1; n < threads; n++) pthread_join(jobs[n].id, NULL);
    for (int n = 0; n < threads; n++) put(jobs[n].log, (size_t)operations * sizeof *jobs[n].log);
    return 0;
}
