/* Faults that programs live by: write barriers, guard pages, division, shortened files, traps. */
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { PAGES = 64 };

static char *area;
static volatile int barriers;

static void handle(int number, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    CHECK(sigaction(number, &action, NULL) == 0);
}

static char *memory(size_t pages, int protection) {
    char *at = mmap(NULL, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

/* The way of a garbage collector: the page is opened, noted as dirty, and the write made again. */
static void write_barrier(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    IS(info->si_code, SEGV_ACCERR);
    char *page = (char *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1));
    CHECK(page >= area && page < area + WORKERS * PAGES * PAGE);
    CHECK(mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0);
    __atomic_fetch_add(&barriers, 1, __ATOMIC_SEQ_CST);
}

static void *write_pages(void *number) {
    char *mine = area + (intptr_t)number * PAGES * PAGE;
    for (int round = 0; round < 3; round++) {
        CHECK(mprotect(mine, PAGES * PAGE, PROT_READ) == 0);
        for (int i = 0; i < PAGES; i++) {
            IS(mine[i * PAGE + 5], round);
            mine[i * PAGE + 5]++;
        }
    }
    return NULL;
}

static void write_barriers(void) {
    handle(SIGSEGV, write_barrier, 0);
    area = memory(WORKERS * PAGES, PROT_READ | PROT_WRITE);
    on_workers(write_pages);
    IS(barriers, WORKERS * PAGES * 3);
    for (int i = 0; i < WORKERS * PAGES; i++) IS(area[i * PAGE + 5], 3);
}

static __thread sigjmp_buf back;
static __thread siginfo_t seen;

static void leave(int number, siginfo_t *info, void *context) {
    (void)context;
    seen = *info;
    siglongjmp(back, number);
}

static int number_of(void (*what)(char *), char *at) {
    int number = sigsetjmp(back, 1);
    if (number == 0) what(at);
    return number;
}

static void store(char *at) { *(volatile char *)at = 1; }
static void load(char *at) { (void)*(volatile char *)at; }
static void divide(char *unused) {
    __asm__ volatile("xor %%ecx, %%ecx\n\tmov $1, %%eax\n\tcltd\n\tidivl %%ecx" ::: "eax", "ecx", "edx", "cc");
    (void)unused;
}
static void undefined(char *unused) {
    __asm__ volatile("ud2");
    (void)unused;
}
static void jump_to(char *at) { ((void (*)(void))at)(); }
static void privileged(char *unused) {
    __asm__ volatile("hlt");
    (void)unused;
}

static void *fault_in_every_way(void *unused) {
    char *pages = memory(3, PROT_READ | PROT_WRITE);
    for (int round = 0; round < 10; round++) {
        CHECK(mprotect(pages, PAGE, PROT_NONE) == 0 && mprotect(pages + PAGE, PAGE, PROT_READ) == 0);
        IS(number_of(load, pages + 7), SIGSEGV);
        CHECK(seen.si_addr == pages + 7 && seen.si_code == SEGV_ACCERR);
        IS(number_of(load, pages + PAGE), 0);
        IS(number_of(store, pages + PAGE + 9), SIGSEGV);
        CHECK(seen.si_addr == pages + PAGE + 9 && seen.si_code == SEGV_ACCERR);
        IS(number_of(jump_to, pages + 2 * PAGE), SIGSEGV);
        CHECK(seen.si_addr == pages + 2 * PAGE && seen.si_code == SEGV_ACCERR);
        IS(number_of(store, (char *)24), SIGSEGV);
        CHECK(seen.si_addr == (void *)24 && seen.si_code == SEGV_MAPERR);
        IS(number_of(load, (char *)0x8000000000000000), SIGSEGV); /* not canonical */
        CHECK(seen.si_addr == NULL && seen.si_code == SI_KERNEL);
        IS(number_of(divide, NULL), SIGFPE);
        IS(seen.si_code, FPE_INTDIV);
        IS(number_of(undefined, NULL), SIGILL);
        IS(number_of(privileged, NULL), SIGSEGV);
        IS(number_of(store, pages + 2 * PAGE), 0);
        CHECK(munmap(pages + 2 * PAGE, PAGE) == 0);
        IS(number_of(store, pages + 2 * PAGE + 1), SIGSEGV);
        CHECK(seen.si_addr == pages + 2 * PAGE + 1 && seen.si_code == SEGV_MAPERR);
        CHECK(mmap(pages + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
              pages + 2 * PAGE);
        IS(pages[2 * PAGE], 0);
    }
    return unused;
}

static void every_fault(void) {
    handle(SIGSEGV, leave, 0);
    handle(SIGFPE, leave, 0);
    handle(SIGILL, leave, 0);
    on_workers(fault_in_every_way);
}

/* A handler that mends the cause and goes on behind it. */
static void mend(int number, siginfo_t *info, void *context) {
    ucontext_t *interrupted = context;
    (void)info;
    switch (number) {
    case SIGFPE:
        interrupted->uc_mcontext.gregs[REG_RCX] = 3;
        break;
    case SIGILL:
        interrupted->uc_mcontext.gregs[REG_RIP] += 2;
        break;
    case SIGTRAP:
        interrupted->uc_mcontext.gregs[REG_RAX] += 1;
        break;
    }
}

static void *go_on(void *unused) {
    for (int i = 0; i < 20; i++) {
        int quotient;
        __asm__ volatile("xor %%ecx, %%ecx\n\tmov $12, %%eax\n\tcltd\n\tidivl %%ecx"
                         : "=a"(quotient)
                         :
                         : "ecx", "edx", "cc");
        IS(quotient, 4);
        int passed;
        __asm__ volatile("mov $5, %0\n\tud2\n\tadd $1, %0" : "=&r"(passed));
        IS(passed, 6);
        int trapped;
        __asm__ volatile("mov $8, %%eax\n\tint3\n\tadd $1, %%eax" : "=a"(trapped));
        IS(trapped, 10);
    }
    return unused;
}

static void mended(void) {
    handle(SIGFPE, mend, 0);
    handle(SIGILL, mend, 0);
    handle(SIGTRAP, mend, 0);
    on_workers(go_on);
}

static void *read_beyond_the_end(void *unused) {
    for (int i = 0; i < 5; i++) {
        IS(number_of(load, area + PAGE + 3), SIGBUS);
        CHECK(seen.si_addr == area + PAGE + 3 && seen.si_code == BUS_ADRERR);
        IS(number_of(load, area), 0);
        IS(area[0], 'a');
    }
    return unused;
}

static void shortened_file(void) {
    char name[] = "shortened.XXXXXX";
    int file = mkstemp(name);
    CHECK(file >= 0 && unlink(name) == 0 && ftruncate(file, 3 * PAGE) == 0);
    area = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(area != MAP_FAILED);
    memset(area, 'a', 3 * PAGE);
    CHECK(ftruncate(file, PAGE) == 0);
    handle(SIGBUS, leave, 0);
    on_workers(read_beyond_the_end);
}

static int overflow(int depth) {
    volatile char frame[3000];
    frame[0] = (char)depth;
    return depth == 1 << 30 ? 0 : overflow(depth + 1) + frame[0];
}

static void *exhaust_the_stack(void *unused) {
    stack_t stack = {.ss_size = 64 << 10};
    stack.ss_sp = malloc(stack.ss_size);
    CHECK(sigaltstack(&stack, NULL) == 0);
    for (int i = 0; i < 3; i++) {
        int number = sigsetjmp(back, 1);
        if (number == 0) overflow(0);
        IS(number, SIGSEGV);
    }
    stack.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&stack, NULL) == 0);
    free(stack.ss_sp);
    return unused;
}

static void stack_overflow(void) {
    handle(SIGSEGV, leave, SA_ONSTACK);
    pthread_attr_t attributes;
    OK(pthread_attr_init(&attributes));
    OK(pthread_attr_setstacksize(&attributes, 256 << 10));
    pthread_t threads[WORKERS];
    for (int i = 0; i < WORKERS; i++) OK(pthread_create(&threads[i], &attributes, exhaust_the_stack, NULL));
    for (int i = 0; i < WORKERS; i++) joined(threads[i]);
}

/* One thread's handler waits for another thread, which faults itself. */
static volatile int inside, let_go;

static void wait_inside(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    inside = 1;
    while (!let_go) sleep_ms(1);
    char *page = (char *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1));
    CHECK(mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0);
}

static void *fault_slowly(void *number) {
    area[(intptr_t)number * PAGE] = 5;
    return NULL;
}

static void waiting_handlers(void) {
    handle(SIGSEGV, wait_inside, 0);
    area = memory(2, PROT_READ);
    pthread_t one = worker(fault_slowly, (void *)0);
    wait_for(&inside, 1);
    inside = 0;
    pthread_t two = worker(fault_slowly, (void *)1);
    wait_for(&inside, 1);
    let_go = 1;
    joined(one);
    joined(two);
    IS(area[0] + area[PAGE], 10);
}

const Case fault_cases[] = {
    {"write-barrier", write_barriers},   {"every-fault", every_fault},       {"mended-faults", mended},
    {"shortened-file", shortened_file},  {"stack-overflow", stack_overflow}, {"waiting-handlers", waiting_handlers},
    {NULL, NULL},
};
