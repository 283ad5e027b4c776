/* `calls COUNT CPU KIND`: a thread on CPU makes COUNT system calls: `getppid`, or `read` of one byte from /dev/zero into its
 * stack. Prints nanoseconds a call. */
#include "place.h"
#include <fcntl.h>
#include <string.h>

static long count;
static int cpu, reads, zero;

static void *work(void *unused) {
    char byte;
    go_to(cpu);
    double begin = now_ns();
    for (long n = 0; n < count; n++)
        if (reads ? read(zero, &byte, 1) != 1 : getppid() < 0) exit(93);
    printf("%.1f\n", (now_ns() - begin) / count);
    return unused;
}

int main(int argc, char **argv) {
    if (argc != 4) return 96;
    count = atol(argv[1]);
    cpu = atoi(argv[2]);
    reads = strcmp(argv[3], "read") == 0;
    zero = open("/dev/zero", O_RDONLY);
    pthread_t thread; /* the only thread of a process does not move */
    if (pthread_create(&thread, NULL, work, NULL) != 0) return 95;
    return pthread_join(thread, NULL);
}
