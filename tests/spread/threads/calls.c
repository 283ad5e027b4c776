/* System calls whose buffers other threads wrote, or will read: files, pipes, sockets, mapped files. */
#include "check.h"
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum { BYTES = 40000, ROUNDS = 20 };

static int pipes[WORKERS][2];

static void write_all(int file, const char *from, size_t bytes) {
    while (bytes > 0) {
        ssize_t wrote = write(file, from, bytes);
        CHECK(wrote > 0);
        from += wrote, bytes -= (size_t)wrote;
    }
}

static void read_all(int file, char *to, size_t bytes) {
    while (bytes > 0) {
        ssize_t got = read(file, to, bytes);
        CHECK(got > 0);
        to += got, bytes -= (size_t)got;
    }
}

/* A message goes round; each thread adds one to every byte. More than a pipe holds, so both ends block. */
static void *pass_on(void *number) {
    intptr_t me = (intptr_t)number;
    char *data = malloc(2 * BYTES);
    for (int i = 0; i < ROUNDS; i++) {
        if (me == 0) {
            memset(data, i, BYTES);
            write_all(pipes[0][1], data, BYTES);
            read_all(pipes[WORKERS - 1][0], data, BYTES);
            for (int j = 0; j < BYTES; j++) IS(data[j], i + WORKERS - 1);
        } else {
            read_all(pipes[me - 1][0], data, BYTES);
            for (int j = 0; j < BYTES; j++) data[j]++;
            write_all(pipes[me][1], data, BYTES);
        }
    }
    free(data);
    return NULL;
}

static void through_pipes(void) {
    for (int i = 0; i < WORKERS; i++) CHECK(pipe(pipes[i]) == 0);
    on_workers(pass_on);
}

/* One thread's buffer is filled by another thread's call. */
static char *buffer;
static pthread_barrier_t step;
static int file;

static void *fill_for_others(void *number) {
    for (int i = 0; i < ROUNDS; i++) {
        if ((intptr_t)number == i % WORKERS) {
            memset(buffer, i, BYTES);
            IS(pwrite(file, buffer, BYTES, 0), BYTES);
            memset(buffer, 99, BYTES);
            struct iovec parts[2] = {{buffer + BYTES / 2, BYTES - BYTES / 2}, {buffer, BYTES / 2}};
            IS(preadv(file, parts, 2, 0), BYTES);
        }
        pthread_barrier_wait(&step);
        for (int j = 0; j < BYTES; j += 101) IS(buffer[j], i);
        pthread_barrier_wait(&step);
    }
    return NULL;
}

static int scratch(size_t bytes) {
    char name[] = "scratch.XXXXXX";
    int made = mkstemp(name);
    CHECK(made >= 0 && unlink(name) == 0 && ftruncate(made, (off_t)bytes) == 0);
    return made;
}

static void through_files(void) {
    OK(pthread_barrier_init(&step, NULL, WORKERS));
    file = scratch(0);
    buffer = malloc(BYTES);
    on_workers(fill_for_others);
}

/* A shared mapping is the file: all threads write it, read(2) shows it. */
static void *write_mapping(void *number) {
    for (int i = 0; i < 20; i++) {
        size_t page = (size_t)(i * WORKERS) + (size_t)number;
        memset(buffer + page * PAGE, (int)page, PAGE);
        char got;
        IS(pread(file, &got, 1, (off_t)(page * PAGE + 17)), 1);
        IS(got, (char)page);
    }
    return NULL;
}

static void through_shared_mapping(void) {
    file = scratch(20 * WORKERS * PAGE);
    buffer = mmap(NULL, 20 * WORKERS * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(buffer != MAP_FAILED);
    on_workers(write_mapping);
    for (size_t page = 0; page < 20 * WORKERS; page++) IS(buffer[page * PAGE], (char)page);
    CHECK(msync(buffer, 20 * WORKERS * PAGE, MS_SYNC) == 0);
}

/* A private mapping is read from the file, wherever it is first touched, and written apart from it. */
static void *read_mapping(void *number) {
    for (size_t page = (size_t)number; page < 20 * WORKERS; page += WORKERS) {
        IS(buffer[page * PAGE + 9], (char)(page + 1));
        buffer[page * PAGE + 9] = 100;
    }
    return NULL;
}

static void through_private_mapping(void) {
    size_t bytes = 20 * WORKERS * PAGE;
    char *data = malloc(bytes);
    for (size_t i = 0; i < bytes; i++) data[i] = (char)(i / PAGE + 1);
    file = scratch(bytes);
    IS(pwrite(file, data, bytes, 0), (ssize_t)bytes);
    buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    CHECK(buffer != MAP_FAILED);
    on_workers(read_mapping);
    for (size_t i = 0; i < bytes; i += PAGE) {
        char got;
        IS(buffer[i + 9], 100);
        IS(buffer[i + 10], (char)(i / PAGE + 1));
        IS(pread(file, &got, 1, (off_t)i + 9), 1);
        IS(got, (char)(i / PAGE + 1));
    }
}

/* Whoever walks through the memory before a file's mapping touches nothing of the mapping. */
enum { WALKED = 128, MAPPED = 64 };

static void *walk_up_to(void *unused) {
    for (size_t page = 0; page < WALKED; page++) buffer[page * PAGE] = (char)page;
    return unused;
}

static void before_a_mapping(void) {
    char data[PAGE];
    file = scratch(0);
    for (int page = 0; page < MAPPED; page++) {
        memset(data, page + 1, sizeof data);
        IS(write(file, data, sizeof data), sizeof data);
    }
    buffer = mmap(NULL, (WALKED + MAPPED) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(buffer != MAP_FAILED);
    char *mapped = buffer + WALKED * PAGE;
    CHECK(mmap(mapped, MAPPED * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0) == mapped);
    joined(worker(walk_up_to, NULL));
    for (size_t page = 0; page < MAPPED; page++) IS(mapped[page * PAGE], (char)(page + 1));
    for (size_t page = 0; page < WALKED; page++) IS(buffer[page * PAGE], (char)page);
}

static int sockets[2];

static void *talk(void *number) {
    int mine = sockets[(intptr_t)number % 2];
    if ((intptr_t)number >= 2) return NULL;
    for (int i = 0; i < 200; i++) {
        int value = i * 2 + (int)(intptr_t)number, got = -1;
        struct iovec part = {&value, sizeof value}, into = {&got, sizeof got};
        struct msghdr out = {.msg_iov = &part, .msg_iovlen = 1}, in = {.msg_iov = &into, .msg_iovlen = 1};
        IS(sendmsg(mine, &out, 0), sizeof value);
        IS(recvmsg(mine, &in, 0), sizeof got);
        IS(got, i * 2 + 1 - (int)(intptr_t)number);
    }
    return NULL;
}

static void through_sockets(void) {
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets) == 0);
    on_workers(talk);
}

static int poller, events;
static volatile int taken;

static void *take_events(void *unused) {
    for (;;) {
        struct epoll_event event;
        uint64_t value;
        IS(epoll_wait(poller, &event, 1, -1), 1);
        if (read(events, &value, sizeof value) != sizeof value) continue;
        if (__atomic_add_fetch(&taken, 1, __ATOMIC_SEQ_CST) > 300) return unused;
    }
}

static void through_epoll(void) {
    events = eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK);
    poller = epoll_create1(0);
    struct epoll_event wanted = {.events = EPOLLIN};
    CHECK(events >= 0 && poller >= 0 && epoll_ctl(poller, EPOLL_CTL_ADD, events, &wanted) == 0);
    pthread_t threads[WORKERS];
    for (int i = 0; i < WORKERS; i++) threads[i] = worker(take_events, NULL);
    for (int i = 0; i < 300 + WORKERS; i++) {
        uint64_t one = 1;
        IS(write(events, &one, sizeof one), sizeof one);
        if (i % 50 == 0) sleep_ms(2);
    }
    for (int i = 0; i < WORKERS; i++) joined(threads[i]);
    IS(taken, 300 + WORKERS);
}

/* Bad pointers are answered with EFAULT, as the kernel does. */
static void *pass_bad_pointers(void *unused) {
    char *nowhere = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(nowhere != MAP_FAILED);
    for (int i = 0; i < 10; i++) {
        CHECK(write(file, nowhere, 10) == -1 && errno == EFAULT);
        CHECK(pread(file, nowhere, 10, 0) == -1 && errno == EFAULT);
        CHECK(open((char *)8, O_RDONLY) == -1 && errno == EFAULT);
        CHECK(close(12345) == -1 && errno == EBADF);
        struct stat status;
        CHECK(stat("/nonexistent", &status) == -1 && errno == ENOENT);
        CHECK(fstat(file, &status) == 0);
        IS(status.st_size, 100);
    }
    return unused;
}

static void bad_pointers(void) {
    file = scratch(100);
    on_workers(pass_bad_pointers);
}

/* Lines of different threads are not mixed, and none is lost. */
static void *print_lines(void *number) {
    for (int i = 0; i < 50; i++) fprintf(stderr, "%d:%d\n", (int)(intptr_t)number, i);
    return NULL;
}

static void lines(void) {
    setvbuf(stderr, NULL, _IOLBF, BUFSIZ);
    int ends[2];
    CHECK(pipe(ends) == 0);
    int kept = dup(2);
    CHECK(dup2(ends[1], 2) == 2);
    on_workers(print_lines);
    fflush(stderr);
    CHECK(dup2(kept, 2) == 2);
    close(ends[1]);
    FILE *in = fdopen(ends[0], "r");
    int next[WORKERS] = {0}, number, line;
    while (fscanf(in, "%d:%d\n", &number, &line) == 2) {
        CHECK(number >= 0 && number < WORKERS);
        IS(line, next[number]++);
    }
    for (int i = 0; i < WORKERS; i++) IS(next[i], 50);
}

const Case call_cases[] = {
    {"pipes", through_pipes},
    {"files", through_files},
    {"shared-mapping", through_shared_mapping},
    {"private-mapping", through_private_mapping},
    {"before-mapping", before_a_mapping},
    {"sockets", through_sockets},
    {"epoll", through_epoll},
    {"bad-pointers", bad_pointers},
    {"lines", lines},
    {NULL, NULL},
};
