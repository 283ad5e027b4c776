/* What a page costs once it has been evicted: fills an array, then touches its pages once in order and once in
 * random order, writing nothing. `touch MIB` prints, for each, a line
 *
 *     order microseconds_per_page megabytes_per_second p50_us p99_us slow_pages
 *
 * Percentiles are those of slow pages alone: accesses of over 2 us, which a page that is in place does not take.
 * Time is the processor's counter: a clock would be a system call, and evict or map pages of its own.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <x86intrin.h>

enum { PAGE = 4096, SLOW_US = 2 };

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void pass(const char *name, const char *memory, const uint32_t *order, uint64_t *took, size_t pages) {
    uint64_t sum = 0, first = __rdtsc();
    double begin = now_us();
    for (size_t n = 0; n < pages; n++) {
        uint64_t start = __rdtsc();
        sum += *(const volatile uint64_t *)(memory + (size_t)order[n] * PAGE);
        took[n] = __rdtsc() - start;
    }
    double us = now_us() - begin, per_us = (__rdtsc() - first) / us;
    size_t slow = 0;
    for (size_t n = 0; n < pages; n++)
        if (took[n] > SLOW_US * per_us) took[slow++] = took[n];
    qsort(took, slow, sizeof *took, by_value);
    double p50 = slow ? took[slow / 2] / per_us : 0, p99 = slow ? took[slow * 99 / 100] / per_us : 0;
    printf("%s %.2f %.0f %.1f %.1f %zu\n", name, us / pages, pages * (double)PAGE / us, p50, p99, slow);
    if (sum != pages * (pages - 1) / 2) {
        printf("WRONG sum\n");
        exit(99);
    }
}

int main(int argc, char **argv) {
    size_t pages = (argc > 1 ? atol(argv[1]) : 64) * (1 << 20) / PAGE;
    char *memory = aligned_alloc(PAGE, pages * PAGE);
    uint32_t *order = malloc(pages * sizeof *order);
    uint64_t *took = malloc(pages * sizeof *took), state = 88172645463325252u;
    if (!memory || !order || !took) return 98;
    for (size_t n = 0; n < pages; n++) {
        uint64_t *page = (uint64_t *)(memory + n * PAGE);
        page[0] = n;
        for (size_t i = 1; i < PAGE / 8; i++) { /* what does not compress */
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            page[i] = state;
        }
        order[n] = n;
        took[n] = 0;
    }
    pass("sequential", memory, order, took, pages);
    for (size_t n = pages - 1; n > 0; n--) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        size_t other = state % (n + 1);
        uint32_t held = order[n];
        order[n] = order[other];
        order[other] = held;
    }
    pass("random", memory, order, took, pages);
    return 0;
}
