/* What a system call costs: COUNT reads of one byte from /dev/zero. Prints nanoseconds a read. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    long count = argc > 1 ? atol(argv[1]) : 1000000;
    int zero = open("/dev/zero", O_RDONLY);
    struct timespec begin, end;
    char byte;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (long n = 0; n < count; n++)
        if (read(zero, &byte, 1) != 1) return 1;
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.1f\n", ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / count);
    return 0;
}
