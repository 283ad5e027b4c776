/* `polling SECONDS CPU CPU`: a thread on the first CPU adds to a word as often as it can, one on the second looks at it all
 * the time. Prints nanoseconds an addition. */
#include "place.h"
#include <stdatomic.h>

static _Alignas(8192) char page[8192];
static volatile long *const word = (volatile long *)page;
static _Atomic int over;
static pthread_barrier_t start;

static void *write_it(void *cpu) {
    go_to(*(int *)cpu);
    pthread_barrier_wait(&start);
    while (!atomic_load_explicit(&over, memory_order_relaxed))
        for (int n = 0; n < 100; n++) *word += 1;
    return NULL;
}

static void *look(void *cpu) {
    go_to(*(int *)cpu);
    pthread_barrier_wait(&start);
    long last = 0;
    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        long now = *word;
        if (now < last) exit(93);
        last = now;
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return 96;
    double seconds = atof(argv[1]);
    int cpus[2] = {atoi(argv[2]), atoi(argv[3])};
    pthread_t threads[2];
    pthread_barrier_init(&start, NULL, 3);
    if (pthread_create(&threads[0], NULL, write_it, &cpus[0]) != 0) return 95;
    if (pthread_create(&threads[1], NULL, look, &cpus[1]) != 0) return 95;
    pthread_barrier_wait(&start);
    double begin = now_ns();
    struct timespec time = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
    atomic_store(&over, 1);
    for (int n = 0; n < 2; n++) pthread_join(threads[n], NULL);
    printf("%.3f\n", (now_ns() - begin) / *word);
    return 0;
}
