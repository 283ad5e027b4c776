/* One run's memory, and another's that looks for it.
 *
 *   secrets fill MIB THREADS    threads fill MIB with a marker, half of it so that it does not compress, and read all of it: "filled"
 *   secrets hold MIB THREADS    the same, and then goes on reading and checking until its input ends: "kept"
 *   secrets look MIB THREADS    maps MIB in every way there is, reads every byte before anything was written there, then writes a byte
 *                               to each page and reads the rest: "zeros N", the number of fresh pages read. Anything else than
 *                               zero ends it with 99.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MIB = 1 << 20, PAGE = 4096, THREADS_MAX = 16, FOUND = 99 };
static const uint64_t MARKER = 0x5ec2e7005ec2e700u;

static int threads;
static _Atomic unsigned long fresh_pages;

struct part {
    pthread_t id;
    uint64_t *memory;
    size_t words;
    uint64_t number;
};

static void found(const char *where, const void *at, uint64_t value) {
    printf("SECRET in %s at %p: %016lx\n", where, at, (unsigned long)value);
    fflush(stdout);
    _exit(FOUND);
}

static uint64_t mixed(uint64_t index) {
    uint64_t state = index + 88172645463325252u;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state * 0x9e3779b97f4a7c15u;
}

/* Pages of the marker alone, which compress, and pages where noise is between. */
static uint64_t secret(uint64_t index) { return index / 512 % 2 && index % 2 ? mixed(index) | 1 : MARKER | (index & 0xff); }

static void *fill(void *argument) {
    struct part *part = argument;
    for (size_t i = 0; i < part->words; i++) part->memory[i] = secret(i + part->number);
    return NULL;
}

static void *verify(void *argument) {
    struct part *part = argument;
    for (size_t i = 0; i < part->words; i++)
        if (part->memory[i] != secret(i + part->number)) found("memory of ours that another wrote", &part->memory[i], part->memory[i]);
    return NULL;
}

static void each(void *(*what)(void *), struct part *parts) {
    for (int n = 1; n < threads; n++)
        if (pthread_create(&parts[n].id, NULL, what, &parts[n])) exit(98);
    what(&parts[0]);
    for (int n = 1; n < threads; n++) pthread_join(parts[n].id, NULL);
}

static void cut(struct part *parts, void *memory, size_t bytes) {
    size_t words = bytes / PAGE / (size_t)threads * (PAGE / 8);
    for (int n = 0; n < threads; n++)
        parts[n] = (struct part){.memory = (uint64_t *)memory + (size_t)n * words, .words = words, .number = (uint64_t)n * 7};
}

static void *mapping(size_t bytes, int flags) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        perror("mmap");
        exit(98);
    }
    return at;
}

static int keep(size_t mib, int goes_on) {
    struct part parts[THREADS_MAX];
    cut(parts, mapping(mib * MIB, MAP_PRIVATE), mib * MIB);
    each(fill, parts);
    each(verify, parts);
    puts("filled");
    fflush(stdout);
    if (!goes_on) return 0;
    struct pollfd input = {.fd = 0, .events = POLLIN};
    while (poll(&input, 1, 0) == 0) each(verify, parts);
    each(verify, parts);
    puts("kept");
    return 0;
}

static void zeros(const char *where, const volatile uint64_t *memory, size_t words) {
    for (size_t i = 0; i < words; i++)
        if (memory[i]) found(where, (const void *)&memory[i], memory[i]);
    fresh_pages += words / (PAGE / 8);
}

static const char *looked_at;

static void *look_at(void *argument) {
    struct part *part = argument;
    zeros(looked_at, part->memory, part->words);
    return NULL;
}

/* Pages that are written first: the rest of each must be zero. */
static void *write_first(void *argument) {
    struct part *part = argument;
    for (size_t i = 0; i < part->words; i += PAGE / 8) {
        part->memory[i] = 1;
        zeros(looked_at, part->memory + i + 1, PAGE / 8 - 1);
        fresh_pages++;
    }
    return NULL;
}

static void look_through(const char *where, void *memory, size_t bytes, void *(*how)(void *)) {
    struct part parts[THREADS_MAX];
    looked_at = where;
    cut(parts, memory, bytes);
    each(how, parts);
}

static size_t stack_bytes;

__attribute__((noinline)) static void stack(void) {
    /* What is below here has never been touched. */
    uint64_t *memory = __builtin_alloca_with_align(stack_bytes, 4096 * 8);
    /* The compiler is not to know that nobody wrote there. */
    __asm__ volatile("" : "+r"(memory)::"memory");
    zeros("the stack", memory, (stack_bytes - 2 * PAGE) / 8);
}

static void *stack_of_thread(void *nothing) {
    stack();
    return nothing;
}

static int look(size_t mib) {
    size_t bytes = mib * MIB;
    void *private = mapping(bytes, MAP_PRIVATE);
    look_through("private memory", private, bytes, look_at);
    munmap(private, bytes);

    private = mapping(bytes, MAP_PRIVATE);
    look_through("private memory, written first", private, bytes, write_first);
    /* Given back and taken again, at the same addresses. */
    madvise(private, bytes, MADV_DONTNEED);
    look_through("memory that was given back", private, bytes, look_at);
    munmap(private, bytes);

    void *shared = mapping(bytes, MAP_SHARED);
    look_through("shared memory", shared, bytes, look_at);
    munmap(shared, bytes);

    void *grown = mremap(mapping(PAGE, MAP_PRIVATE), PAGE, bytes, MREMAP_MAYMOVE);
    if (grown == MAP_FAILED) return 98;
    look_through("memory that has grown", grown, bytes, look_at);
    munmap(grown, bytes);

    uint64_t *heap = sbrk((intptr_t)bytes);
    if (heap == (void *)-1) return 98;
    heap = (uint64_t *)(((uintptr_t)heap + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    look_through("the heap", heap, bytes - PAGE, look_at);

    stack_bytes = 6 * MIB;
    stack();
    pthread_attr_t attributes;
    pthread_t id;
    stack_bytes = bytes / 4;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_bytes + MIB);
    if (pthread_create(&id, &attributes, stack_of_thread, NULL)) return 98;
    pthread_join(id, NULL);
    printf("zeros %lu\n", (unsigned long)fresh_pages);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) return 97;
    size_t mib = strtoul(argv[2], NULL, 10);
    threads = atoi(argv[3]);
    if (threads < 1 || threads > THREADS_MAX) return 97;
    if (!strcmp(argv[1], "fill")) return keep(mib, 0);
    if (!strcmp(argv[1], "hold")) return keep(mib, 1);
    if (!strcmp(argv[1], "look")) return look(mib);
    return 97;
}
