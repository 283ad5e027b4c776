/* `migrate COUNT FROM TO`: a thread goes from one CPU to another and back, COUNT times. Prints nanoseconds a move. */
#include "place.h"

static long count;
static int from, to;

static void *work(void *unused) {
    volatile long stack[512] = {0}; /* something that has to come along */
    go_to(to);
    go_to(from);
    double begin = now_ns();
    for (long n = 0; n < count; n++) {
        go_to(to);
        stack[n % 512]++;
        go_to(from);
        stack[(n + 1) % 512]++;
    }
    printf("%.1f\n", (now_ns() - begin) / (2 * count));
    return unused;
}

int main(int argc, char **argv) {
    if (argc != 4) return 96;
    count = atol(argv[1]);
    from = atoi(argv[2]);
    to = atoi(argv[3]);
    pthread_t thread; /* the only thread of a process does not move */
    if (pthread_create(&thread, NULL, work, NULL) != 0) return 95;
    return pthread_join(thread, NULL);
}
