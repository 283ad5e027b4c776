/* `calls COUNT CPU KIND`: a thread on CPU makes COUNT system calls. Prints nanoseconds a call. KIND:
 *
 *     getppid
 *     read      of one byte from /dev/zero into its stack
 *     page      a read of 4 KiB, of which it uses every word
 *     line      a write to a file in memory of a line of some 40 bytes that it has made
 *     stat      of /dev/null
 */
#include "place.h"
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static long count, sum;
static int cpu, zero, lines;

static int ask(long n) {
    (void)n;
    return getppid() > 0;
}

static int read_byte(long n) {
    char byte;
    (void)n;
    return read(zero, &byte, 1) == 1;
}

static int read_page(long n) {
    static long words[512];
    words[n % 512] = 1;
    if (read(zero, words, sizeof words) != sizeof words) return 0;
    for (int i = 0; i < 512; i++) sum += words[i];
    return sum == 0;
}

static int write_line(long n) {
    char line[80];
    int bytes = snprintf(line, sizeof line, "line %ld of a file that nobody reads\n", n);
    return pwrite(lines, line, (size_t)bytes, 0) == bytes;
}

static int look(long n) {
    struct stat status;
    (void)n;
    return stat("/dev/null", &status) == 0 && S_ISCHR(status.st_mode);
}

static const struct {
    const char *name;
    int (*call)(long);
} kinds[] = {{"getppid", ask}, {"read", read_byte}, {"page", read_page}, {"line", write_line}, {"stat", look}};

static void *work(void *kind) {
    int (*call)(long) = kinds[(long)kind].call;
    go_to(cpu);
    double begin = now_ns();
    for (long n = 0; n < count; n++)
        if (!call(n)) exit(93);
    printf("%.1f\n", (now_ns() - begin) / count);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return 96;
    count = atol(argv[1]);
    cpu = atoi(argv[2]);
    zero = open("/dev/zero", O_RDONLY);
    lines = memfd_create("lines", 0);
    long kind = 0;
    while (kind < 5 && strcmp(argv[3], kinds[kind].name) != 0) kind++;
    if (kind == 5) return 96;
    pthread_t thread; /* the only thread of a process does not move */
    if (pthread_create(&thread, NULL, work, (void *)kind) != 0) return 95;
    return pthread_join(thread, NULL);
}
