/* Work for the guest: threads that fill memory, then sum what another thread filled. `checksum THREADS MIB` */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS_MAX = 64 };

static long threads;
static size_t words;
static uint64_t *parts[THREADS_MAX], sums[THREADS_MAX];
static pthread_barrier_t filled;

static void *work(void *number) {
    size_t me = (size_t)number, other = (me + 1) % (size_t)threads;
    uint64_t seed = me + 1, sum = 0;
    for (size_t i = 0; i < words; i++) parts[me][i] = seed = seed * 6364136223846793005u + 1442695040888963407u;
    pthread_barrier_wait(&filled);
    for (size_t i = 0; i < words; i++) sum = (sum << 1 | sum >> 63) ^ parts[other][i];
    sums[me] = sum;
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    threads = atol(argv[1]);
    words = (size_t)atol(argv[2]) * (1 << 20) / sizeof(uint64_t) / (size_t)threads;
    if (threads < 1 || threads > THREADS_MAX) return 2;
    pthread_t made[THREADS_MAX];
    pthread_barrier_init(&filled, NULL, (unsigned)threads);
    for (long i = 0; i < threads; i++)
        if (!(parts[i] = malloc(words * sizeof(uint64_t)))) return 1;
    for (size_t i = 0; i < (size_t)threads; i++)
        if (pthread_create(&made[i], NULL, work, (void *)i) != 0) return 1;
    uint64_t all = 0;
    for (long i = 0; i < threads; i++) {
        pthread_join(made[i], NULL);
        all = all * 31 + sums[i];
    }
    printf("checksum %016llx\n", (unsigned long long)all);
    return 0;
}
