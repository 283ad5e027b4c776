/* `lock COUNT CPU CPU`: two threads, one on each CPU, take a mutex COUNT times each and add one to what it guards.
 * Prints nanoseconds a turn; ends with 99 if an addition was lost. */
#include "place.h"

static struct {
    pthread_mutex_t mutex;
    long value;
} guarded = {PTHREAD_MUTEX_INITIALIZER, 0};
static pthread_barrier_t start;
static long count;

struct job {
    int cpu;
    double begin, end;
};

static void *work(void *argument) {
    struct job *job = argument;
    go_to(job->cpu);
    pthread_barrier_wait(&start);
    job->begin = now_ns();
    for (long n = 0; n < count; n++) {
        pthread_mutex_lock(&guarded.mutex);
        guarded.value++;
        pthread_mutex_unlock(&guarded.mutex);
    }
    job->end = now_ns();
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return 96;
    count = atol(argv[1]);
    pthread_t threads[2];
    static struct job jobs[2];
    pthread_barrier_init(&start, NULL, 2);
    for (int n = 0; n < 2; n++) {
        jobs[n].cpu = atoi(argv[2 + n]);
        if (pthread_create(&threads[n], NULL, work, &jobs[n]) != 0) return 95;
    }
    for (int n = 0; n < 2; n++) pthread_join(threads[n], NULL);
    double begin = jobs[0].begin < jobs[1].begin ? jobs[0].begin : jobs[1].begin;
    double end = jobs[0].end > jobs[1].end ? jobs[0].end : jobs[1].end;
    printf("%.1f\n", (end - begin) / (2 * count));
    return guarded.value == 2 * count ? 0 : 99;
}
