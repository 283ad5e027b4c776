/* `migrate COUNT FROM TO`: a thread goes from one CPU to another and back, COUNT times. Prints nanoseconds a move. */
#include "place.h"

int main(int argc, char **argv) {
    if (argc != 4) return 96;
    long count = atol(argv[1]);
    int from = atoi(argv[2]), to = atoi(argv[3]);
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
    return 0;
}
