/* Futex operations with which the kernel itself writes a word, on pages that have not been touched for long: `futexes MIB` touches
 * so much memory before each, and says how each ended. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Alignas(4096) struct { uint32_t word; char rest[4092]; } pages[4];
static uint64_t *memory;
static size_t bytes;
static uint64_t sum;

static void touch_much(void) {
    for (size_t at = 0; at < bytes / 8; at += 512) {
        sum = sum * 6364136223846793005u + 1442695040888963407u;
        memory[at] += sum | 1;
    }
}

static long futex(uint32_t *word, int operation, uint32_t value, uintptr_t value2, uint32_t *second, uint32_t value3) {
    touch_much();
    long result = syscall(SYS_futex, word, operation, value, value2, second, value3);
    return result < 0 ? -errno : result;
}

static void *wait_for_it(void *word) {
    pthread_mutex_lock(word);
    pthread_mutex_unlock(word);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 2) return 96;
    bytes = (size_t)atol(argv[1]) << 20;
    memory = malloc(bytes);
    memset(memory, 0, bytes);
    uint32_t me = (uint32_t)syscall(SYS_gettid);
    for (int private = 0; private <= FUTEX_PRIVATE_FLAG; private += FUTEX_PRIVATE_FLAG) {
        printf("lock %ld", futex(&pages[0].word, FUTEX_LOCK_PI | private, 0, 0, NULL, 0));
        printf(" %d", pages[0].word == me);
        printf(", try %ld", futex(&pages[1].word, FUTEX_TRYLOCK_PI | private, 0, 0, NULL, 0));
        printf(" %d", pages[1].word == me);
        printf(", again %ld", futex(&pages[1].word, FUTEX_LOCK_PI2 | private, 0, 0, NULL, 0));
        printf(", unlock %ld", futex(&pages[0].word, FUTEX_UNLOCK_PI | private, 0, 0, NULL, 0));
        printf(" %u", pages[0].word);
        printf(", unlock %ld", futex(&pages[1].word, FUTEX_UNLOCK_PI | private, 0, 0, NULL, 0));
        int add = FUTEX_OP(FUTEX_OP_ADD, 7, FUTEX_OP_CMP_EQ, 0);
        printf(", add %ld", futex(&pages[2].word, FUTEX_WAKE_OP | private, 1, 1, &pages[3].word, add));
        printf(" %u\n", pages[3].word);
    }
    pthread_mutexattr_t inherits;
    pthread_mutexattr_init(&inherits);
    pthread_mutexattr_setprotocol(&inherits, PTHREAD_PRIO_INHERIT);
    pthread_mutex_t mutex;
    pthread_mutex_init(&mutex, &inherits);
    pthread_t thread;
    pthread_mutex_lock(&mutex);
    pthread_create(&thread, NULL, wait_for_it, &mutex);
    touch_much();
    pthread_mutex_unlock(&mutex);
    pthread_join(thread, NULL);
    printf("%016llx\n", (unsigned long long)sum);
    return 0;
}
