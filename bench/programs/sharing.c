/* `sharing SECONDS CPU CPU BYTES`: two threads, one on each CPU, each add to a word of its own, as often as they can; the
 * words are BYTES apart (64: one page and two cache lines; 4096: two pages). Prints nanoseconds an addition of both together. */
#include "place.h"
#include <stdatomic.h>

static _Alignas(8192) char words[16384];
static _Atomic int over;
static pthread_barrier_t start;

struct job {
    int cpu;
    volatile long *word;
};

static void *work(void *argument) {
    struct job *job = argument;
    go_to(job->cpu);
    *job->word = 0;
    pthread_barrier_wait(&start);
    while (!atomic_load_explicit(&over, memory_order_relaxed))
        for (int n = 0; n < 100; n++) *job->word += 1;
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 5) return 96;
    double seconds = atof(argv[1]);
    struct job jobs[2];
    pthread_t threads[2];
    pthread_barrier_init(&start, NULL, 3);
    for (int n = 0; n < 2; n++) {
        jobs[n] = (struct job){atoi(argv[2 + n]), (volatile long *)(words + n * atol(argv[4]))};
        if (pthread_create(&threads[n], NULL, work, &jobs[n]) != 0) return 95;
    }
    pthread_barrier_wait(&start);
    double begin = now_ns();
    struct timespec time = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
    atomic_store(&over, 1);
    for (int n = 0; n < 2; n++) pthread_join(threads[n], NULL);
    printf("%.3f\n", (now_ns() - begin) / (*jobs[0].word + *jobs[1].word));
    return 0;
}
