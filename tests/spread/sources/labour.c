/* `labour compute THREADS MILLIONS`: each thread mixes numbers in memory of its own; prints a checksum.
 * `labour fight THREADS SECONDS`: each thread adds to words of its own in some pages, one after the other, all the time; checks that no
 * addition was lost, and prints how many threads there were.
 * `labour scan MIB PASSES`: a second thread goes through memory again and again, its pages in a mixed order; prints a checksum. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS_MAX = 16, WORDS = 8192, PAGES = 10 };

static long amount;
static _Alignas(4096) volatile uint64_t shared_words[PAGES][512];
static _Atomic int over;

struct job {
    int number;
    uint64_t result;
};

/* Marsaglia's xorshift. */
static uint64_t next(uint64_t *state) {
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return *state;
}

static void *compute(void *argument) {
    struct job *job = argument;
    uint64_t *own = malloc(WORDS * sizeof *own), state = 88172645463325252u + job->number;
    memset(own, 0, WORDS * sizeof *own);
    for (long n = 0; n < amount * 1000000; n++) {
        next(&state);
        own[state % WORDS] += state;
    }
    for (int n = 0; n < WORDS; n++) job->result = job->result * 31 + own[n];
    free(own);
    return NULL;
}

static void *fight(void *argument) {
    struct job *job = argument;
    while (!atomic_load(&over)) {
        for (int n = 0; n < 1000; n++) shared_words[n % PAGES][job->number] += 1;
        job->result += 1000;
    }
    return NULL;
}

static void *scan(void *argument) {
    struct job *job = argument;
    size_t pages = (size_t)job->number << 8;
    uint64_t *memory = malloc(pages << 12), state = 88172645463325252u;
    // What does not compress.
    for (size_t n = 0; n < pages * 512; n++) memory[n] = next(&state);
    for (long n = 0; n < amount * (long)pages; n++) {
        next(&state);
        uint64_t *word = memory + (state % pages) * 512;
        job->result = job->result * 31 + *word;
        *word += n;
    }
    free(memory);
    return NULL;
}

static int scan_main(long mib) {
    struct job job = {(int)mib, 0};
    pthread_t id;
    if (pthread_create(&id, NULL, scan, &job) != 0) return 94;
    pthread_join(id, NULL);
    printf("%016llx\n", (unsigned long long)job.result);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) return 96;
    if (strcmp(argv[1], "scan") == 0) {
        amount = atol(argv[3]);
        return scan_main(atol(argv[2]));
    }
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
        uint64_t added = 0;
        for (int page = 0; page < PAGES; page++) added += shared_words[page][n];
        if (fights && added != jobs[n].result) return 93;
        sum = sum * 31 + (fights ? 1 : jobs[n].result);
    }
    printf("%d threads, %016llx\n", threads, (unsigned long long)sum);
    return 0;
}
