/* `increments THREADS ROUNDS MIB`: threads add to shared words, atomically, while each walks through memory of its own so that
 * the words' pages are evicted and fetched again. Every word of the own memory is checked when it is read. Prints the sum of the
 * shared words and a checksum; ends with 99 where a word is not what was written. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS_MAX = 32, WORDS = 16, PAGE = 4096, WRONG = 99 };

static struct {
    _Alignas(PAGE) _Atomic uint64_t word;
} shared[WORDS];

static long rounds;
static size_t own_words;

struct job {
    uint64_t number, sum;
};

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return *state;
}

static uint64_t mixed(uint64_t number, uint64_t index, uint64_t version) {
    return (index * 0x9e3779b97f4a7c15u ^ number << 48) + version;
}

static void *run(void *argument) {
    struct job *job = argument;
    uint64_t state = 88172645463325252u + job->number;
    uint64_t *own = malloc(own_words * sizeof *own);
    if (!own) _exit(98);
    for (size_t i = 0; i < own_words; i++) own[i] = mixed(job->number, i, 0);
    for (long n = 0; n < rounds; n++) {
        atomic_fetch_add(&shared[next(&state) % WORDS].word, 1);
        for (int k = 0; k < 16; k++) {
            size_t i = next(&state) % own_words;
            uint64_t version = own[i] - mixed(job->number, i, 0);
            if (version > (uint64_t)n * 16) {
                printf("WRONG word %zu of thread %lu: %016lx\n", i, (unsigned long)job->number, (unsigned long)own[i]);
                fflush(stdout);
                _exit(WRONG);
            }
            own[i] = mixed(job->number, i, version + 1);
        }
    }
    for (size_t i = 0; i < own_words; i++) job->sum = job->sum * 31 + own[i];
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return 97;
    int threads = atoi(argv[1]);
    rounds = atol(argv[2]);
    if (threads < 1 || threads > THREADS_MAX) return 97;
    own_words = (size_t)atol(argv[3]) * (1 << 20) / sizeof(uint64_t) / (size_t)threads;
    struct job jobs[THREADS_MAX] = {0};
    pthread_t ids[THREADS_MAX];
    for (int n = 0; n < threads; n++) {
        jobs[n].number = (uint64_t)n + 1;
        if (pthread_create(&ids[n], NULL, run, &jobs[n])) return 98;
    }
    uint64_t sum = 0, total = 0;
    for (int n = 0; n < threads; n++) {
        pthread_join(ids[n], NULL);
        sum = sum * 1099511628211u + jobs[n].sum;
    }
    for (int n = 0; n < WORDS; n++) total += atomic_load(&shared[n].word);
    printf("%lu %016lx\n", (unsigned long)total, (unsigned long)sum);
    return total == (uint64_t)threads * (uint64_t)rounds ? 0 : WRONG;
}
