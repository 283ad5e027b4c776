/* `handover COUNT CPU CPU`: two threads, one on each CPU, pass a token COUNT times there and back, each asleep until it comes.
 * Prints nanoseconds a handover. */
#include "place.h"

#include <semaphore.h>

static sem_t there, back;
static pthread_barrier_t start;
static long count;

struct job {
    int cpu;
    sem_t *takes, *gives;
};

static void *work(void *argument) {
    struct job *job = argument;
    go_to(job->cpu);
    pthread_barrier_wait(&start);
    for (long n = 0; n < count; n++) {
        while (sem_wait(job->takes) != 0) continue;
        sem_post(job->gives);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return 96;
    count = atol(argv[1]);
    pthread_t threads[2];
    struct job jobs[2] = {{atoi(argv[2]), &there, &back}, {atoi(argv[3]), &back, &there}};
    sem_init(&there, 0, 0);
    sem_init(&back, 0, 0);
    pthread_barrier_init(&start, NULL, 3);
    for (int n = 0; n < 2; n++)
        if (pthread_create(&threads[n], NULL, work, &jobs[n]) != 0) return 95;
    pthread_barrier_wait(&start);
    double begin = now_ns();
    sem_post(&there);
    for (int n = 0; n < 2; n++) pthread_join(threads[n], NULL);
    printf("%.1f\n", (now_ns() - begin) / (2 * count));
    return 0;
}
