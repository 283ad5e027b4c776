/* `lock COUNT CPU CPU`: two threads, one on each CPU, take a mutex COUNT times each and add one to what it guards.
 * Prints nanoseconds a turn; ends with 99 if an addition was lost. */
#include "place.h"

static struct {
    pthread_mutex_t mutex;
    long value;
} guarded = {PTHREAD_MUTEX_INITIALIZER, 0};
static pthread_barrier_t start;
static long count;

static void *work(void *cpu) {
    go_to((int)(long)cpu);
    pthread_barrier_wait(&start);
    for (long n = 0; n < count; n++) {
        pthread_mutex_lock(&guarded.mutex);
        guarded.value++;
        pthread_mutex_unlock(&guarded.mutex);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return 96;
    count = atol(argv[1]);
    pthread_t threads[2];
    pthread_barrier_init(&start, NULL, 3);
    for (int n = 0; n < 2; n++)
        if (pthread_create(&threads[n], NULL, work, (void *)atol(argv[2 + n])) != 0) return 95;
    pthread_barrier_wait(&start);
    double begin = now_ns();
    for (int n = 0; n < 2; n++) pthread_join(threads[n], NULL);
    printf("%.1f\n", (now_ns() - begin) / (2 * count));
    return guarded.value == 2 * count ? 0 : 99;
}
