/* `labour compute THREADS MILLIONS`: each thread mixes numbers in memory of its own; prints a checksum.
 * `labour fight THREADS SECONDS`: each thread adds to a word of its own in one page, all the time; checks that no addition was lost,
 * and prints how many threads there were. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS_MAX = 16, WORDS = 8192 };

static long amount;
static _Alignas(4096) volatile uint64_t shared_words[512];
static _Atomic int over;

struct job {
    int number;
    uint64_t result;
};

static void *compute(void *argument) {
    struct job *job = argument;
    uint64_t *own = malloc(WORDS * sizeof *own), state = 88172645463325252u + job->number;
    memset(own, 0, WORDS * sizeof *own);
    for (long n = 0; n < amount * 1000000; n++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        own[state % WORDS] += state;
    }
    for (int n = 0; n < WORDS; n++) job->result = job->result * 31 + own[n];
    free(own);
    return NULL;
}

static void *fight(void *argument) {
    struct job *job = argument;
    while (!atomic_load(&over)) {
        for (int n = 0; n < 1000; n++) shared_words[job->number] += 1;
        job->result += 1000;
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return 96;
    int threads = atoi(argv[2]), fights = strcmp(argv[1], "fight") == 0;
    amount = atol(argv[3]);
    pthread_t ids[THREADS_MAX];
    static struct job jobs[THREADS_MAX];
    if (threads > THREADS_MAX) return 95;
    for (int n = 0; n < threads; n++) {
        jobs[n].number = n;
        if (pthread_create(&ids[n], NULL, fights ? fight : compute, &jobs[n]) != 0) return 94;
    }
    if (fights) {
        sleep(amount);
        atomic_store(&over, 1);
    }
    uint64_t sum = 0;
    for (int n = 0; n < threads; n++) {
        pthread_join(ids[n], NULL);
        if (fights && shared_words[n] != jobs[n].result) return 93;
        sum = sum * 31 + (fights ? 1 : jobs[n].result);
    }
    printf("%d threads, %016llx\n", threads, (unsigned long long)sum);
    return 0;
}
