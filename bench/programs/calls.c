/* `calls COUNT CPU KIND`: a thread on CPU makes COUNT system calls: `getppid`, or `read` of one byte from /dev/zero into its
 * stack. Prints nanoseconds a call. */
#include "place.h"
#include <fcntl.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc != 4) return 96;
    long count = atol(argv[1]);
    int reads = strcmp(argv[3], "read") == 0, zero = open("/dev/zero", O_RDONLY);
    char byte;
    go_to(atoi(argv[2]));
    double begin = now_ns();
    for (long n = 0; n < count; n++)
        if (reads ? read(zero, &byte, 1) != 1 : getppid() < 0) return 95;
    printf("%.1f\n", (now_ns() - begin) / count);
    return 0;
}
