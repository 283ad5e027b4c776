/* Programs that a failure is aimed at; the first argument says which.
 *
 *   churn MIB SECONDS   fills MIB of memory, says "ready", then reads, checks and writes random words of it.
 *                       A word that is not what was written ends it with 99: nothing may be silently wrong.
 *   hoard MIB           allocates and fills 64 KiB pieces, which do not compress, until it has MIB: "done".
 *   secret MIB WORD     fills MIB with pages that begin with WORD and do not compress, then reads them: "kept".
 *   malloc MIB          asks for MIB in one piece, untouched: "null" or "given".
 *   threads MIB N       like churn, once through, by N threads over their own parts; prints a checksum.
 *   fight N             N threads add to one word for ever, a lock's and an atomic; "ready" when all have begun.
 *   nap                 says "ready" and sleeps.
 *   signal N            ends by raising signal N.
 *   cat                 copies its input to its output through a buffer of its own.
 *   mapped FILE         maps FILE privately and prints its first byte, as a number.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, WRONG = 99 };

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t word_of(uint64_t index, uint64_t round) { return (index * 0x9e3779b97f4a7c15u) ^ round; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void check(uint64_t found, uint64_t index) {
    /* The low bits hold the round of the last write, which differs; the rest is fixed by the index. */
    if ((found ^ word_of(index, 0)) >> 32) {
        printf("WRONG word %lu: %016lx\n", (unsigned long)index, (unsigned long)found);
        fflush(stdout);
        _exit(WRONG);
    }
}

static int churn(size_t mib, double seconds) {
    uint64_t words = mib * MIB / 8, state = 88172645463325252u;
    uint64_t *memory = malloc(words * 8);
    if (!memory) return 98;
    for (uint64_t i = 0; i < words; i++) memory[i] = word_of(i, 0);
    puts("ready");
    fflush(stdout);
    for (double end = now() + seconds; now() < end;)
        for (uint64_t round = 1; round < 256; round++) {
            uint64_t i = next(&state) % words;
            check(memory[i], i);
            memory[i] = word_of(i, round);
        }
    for (uint64_t i = 0; i < words; i++) check(memory[i], i);
    puts("right");
    return 0;
}

static int hoard(size_t mib) {
    enum { PIECE = 1 << 16 };
    uint64_t state = 88172645463325252u;
    for (size_t n = 0; n < mib * MIB / PIECE; n++) {
        uint64_t *piece = malloc(PIECE);
        if (!piece) return 98;
        for (size_t i = 0; i < PIECE / 8; i++) piece[i] = next(&state);
    }
    puts("done");
    return 0;
}

static int secret(size_t mib, const char *word) {
    enum { PAGE = 4096 };
    uint64_t state = 88172645463325252u;
    size_t bytes = mib * MIB, length = strlen(word) + 1;
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || length > PAGE) return 98;
    for (size_t at = 0; at < bytes; at += PAGE) {
        for (size_t i = 0; i < PAGE; i += 8) *(uint64_t *)(memory + at + i) = next(&state);
        memcpy(memory + at, word, length);
    }
    for (size_t at = 0; at < bytes; at += PAGE)
        if (memcmp(memory + at, word, length)) return WRONG;
    puts("kept");
    return 0;
}

static int ask(size_t mib) {
    errno = 0;
    void *volatile memory = malloc(mib * MIB);
    printf("%s %d\n", memory ? "given" : "null", errno == ENOMEM);
    return 0;
}

struct part {
    uint64_t *memory, words, sum, seed;
};

static void *work(void *argument) {
    struct part *part = argument;
    for (uint64_t i = 0; i < part->words; i++) part->memory[i] = word_of(i, part->seed);
    for (uint64_t n = 0; n < part->words / 64; n++) {
        uint64_t i = next(&part->seed) % part->words;
        check(part->memory[i], i);
        part->sum += part->memory[i];
    }
    return NULL;
}

static int threads(size_t mib, int count) {
    struct part parts[64] = {0};
    pthread_t ids[64];
    uint64_t words = mib * MIB / 8 / count, sum = 0;
    uint64_t *memory = malloc(words * count * 8);
    if (!memory || count > 64) return 98;
    for (int n = 0; n < count; n++) {
        parts[n] = (struct part){memory + n * words, words, 0, n + 1};
        pthread_create(&ids[n], NULL, work, &parts[n]);
    }
    for (int n = 0; n < count; n++) {
        pthread_join(ids[n], NULL);
        sum += parts[n].sum;
    }
    printf("%016lx\n", (unsigned long)sum);
    return 0;
}

static int nap(void) {
    puts("ready");
    fflush(stdout);
    for (;;) pause();
    return 0;
}

static pthread_mutex_t ring = PTHREAD_MUTEX_INITIALIZER;
static volatile uint64_t blows;
static uint64_t begun;

static void *fighter(void *nothing) {
    for (int first = 1;; first = 0) {
        pthread_mutex_lock(&ring);
        blows++;
        pthread_mutex_unlock(&ring);
        if (first) __atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
    }
    return nothing;
}

static int fight(int count) {
    pthread_t id;
    for (int n = 0; n < count; n++) pthread_create(&id, NULL, fighter, NULL);
    while (__atomic_load_n(&begun, __ATOMIC_SEQ_CST) < (uint64_t)count) usleep(1000);
    return nap();
}

static int cat(void) {
    static char buffer[100003];
    ssize_t got;
    while ((got = read(0, buffer, sizeof buffer)) > 0)
        for (ssize_t done = 0, put; done < got; done += put)
            if ((put = write(1, buffer + done, got - done)) < 0) return 1;
    return got < 0;
}

static int mapped(const char *path) {
    int fd = open(path, O_RDONLY);
    unsigned char *bytes = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED) return 98;
    printf("%d\n", bytes[0]);
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "churn") && argc == 4) return churn(atol(argv[2]), atof(argv[3]));
    if (!strcmp(what, "hoard") && argc == 3) return hoard(atol(argv[2]));
    if (!strcmp(what, "secret") && argc == 4) return secret(atol(argv[2]), argv[3]);
    if (!strcmp(what, "malloc") && argc == 3) return ask(atol(argv[2]));
    if (!strcmp(what, "threads") && argc == 4) return threads(atol(argv[2]), atoi(argv[3]));
    if (!strcmp(what, "fight") && argc == 3) return fight(atoi(argv[2]));
    if (!strcmp(what, "nap")) return nap();
    if (!strcmp(what, "signal") && argc == 3) return raise(atoi(argv[2]));
    if (!strcmp(what, "cat")) return cat();
    if (!strcmp(what, "mapped") && argc == 3) return mapped(argv[2]);
    return 97;
}
