/* What system calls read and write where their pointers say: all of it, nothing beside it, and errors where Linux has them. */
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum { LONG = 128 << 10 };

static const size_t sizes[] = {0, 1, 7, 100, PAGE - 1, PAGE, PAGE + 1, 20000, LONG - 1, LONG, LONG + 1, 3 * LONG};
enum { SIZES = sizeof sizes / sizeof *sizes };

/* What the compiler would warn of if it knew. */
static void *volatile nowhere = NULL;
static volatile int less_than_none = -1;

static int own_file(void) {
    char name[] = "buffers.XXXXXX";
    int file = mkstemp(name);
    CHECK(file >= 0 && unlink(name) == 0);
    return file;
}

static char *pages(size_t count) {
    char *memory = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

/* Of every size, at odd addresses: what was written is read, and what lies around it stays. */
static void *every_size(void *number) {
    int file = own_file();
    char *out = malloc(3 * LONG + PAGE), *in = malloc(3 * LONG + PAGE);
    for (size_t i = 0; i < SIZES; i++) {
        size_t bytes = sizes[i], at = 61 * (i + 1) % PAGE + 1;
        for (size_t j = 0; j < bytes; j++) out[at + j] = (char)(j * 7 + i + (size_t)number);
        IS(pwrite(file, out + at, bytes, 3), bytes);
        memset(in, 99, 3 * LONG + PAGE);
        IS(pread(file, in + at, bytes, 3), bytes);
        CHECK(memcmp(in + at, out + at, bytes) == 0);
        IS(in[at - 1], 99);
        IS(in[at + bytes], 99);
        /* Less than asked for. */
        memset(in, 99, at + bytes + 9);
        IS(ftruncate(file, (off_t)(3 + bytes)), 0);
        size_t half = bytes / 2;
        IS(pread(file, in + at, bytes, (off_t)(3 + bytes - half)), half);
        CHECK(memcmp(in + at, out + at + bytes - half, half) == 0);
        IS(in[at + half], 99);
    }
    free(in), free(out);
    close(file);
    return NULL;
}

static void of_every_size(void) {
    on_workers(every_size);
}

/* Pointers to what is not there, or may not be read or written so. */
static void *refused(void *number) {
    int file = own_file(), ends[2];
    char *memory = pages(3);
    memset(memory, 5, 3 * PAGE);
    IS(pwrite(file, memory, 2 * PAGE, 0), 2 * PAGE);
    CHECK(mprotect(memory + PAGE, PAGE, PROT_READ) == 0 && munmap(memory + 2 * PAGE, PAGE) == 0);
    for (int round = 0; round < 3; round++) {
        IS(pread(file, memory + PAGE, 10, 0), -1);
        IS(errno, EFAULT);
        IS(pwrite(file, memory + 2 * PAGE, 10, 0), -1);
        IS(errno, EFAULT);
        IS(pwrite(file, nowhere, 10, 0), -1);
        IS(errno, EFAULT);
        IS(pread(file, nowhere, 0, 0), 0);
        IS(pwrite(file, memory + PAGE, PAGE, 0), PAGE);
        /* Only what the kernel uses of a buffer must be there. */
        CHECK(pipe(ends) == 0);
        IS(write(ends[1], "abc", 3), 3);
        IS(read(ends[0], memory + PAGE - 3, 100), 3);
        CHECK(memcmp(memory + PAGE - 3, "abc", 3) == 0);
        close(ends[0]), close(ends[1]);
        IS(fstat(file, (struct stat *)(memory + PAGE - 8)), -1);
        IS(errno, EFAULT);
    }
    (void)number;
    close(file);
    return NULL;
}

static void that_are_refused(void) {
    on_workers(refused);
}

/* Calls fill parts of one buffer whose pages all threads use meanwhile. */
enum { SLICE = 30011, TIMES = 40 };
static char *shared;
static int patterns;

static char pattern(size_t slice, size_t byte) {
    return (char)(slice * 31 + byte * 7);
}

static void *fill_slice(void *number) {
    size_t me = (size_t)number, sum = 0;
    char *slice = shared + me * SLICE;
    for (size_t round = 0; round < TIMES; round++) {
        /* As many bytes of the file as the slice has, from where its pattern has moved to. */
        IS(pread(patterns, slice, SLICE, (off_t)(me * 2 * SLICE + round)), SLICE);
        for (size_t byte = 0; byte < WORKERS * SLICE; byte += 1000) sum += (unsigned char)shared[byte];
        for (size_t byte = 0; byte < SLICE; byte++) IS(slice[byte], pattern(me, byte + round));
        slice[round] = slice[SLICE - 1] = 0;
    }
    return (void *)(sum != 0 ? NULL : shared);
}

static void that_are_shared(void) {
    patterns = own_file();
    shared = pages((WORKERS * SLICE + PAGE - 1) / PAGE);
    char *one = malloc(2 * SLICE);
    for (size_t slice = 0; slice < WORKERS; slice++) {
        for (size_t byte = 0; byte < 2 * SLICE; byte++) one[byte] = pattern(slice, byte);
        IS(pwrite(patterns, one, 2 * SLICE, (off_t)(slice * 2 * SLICE)), 2 * SLICE);
    }
    free(one);
    on_workers(fill_slice);
}

/* A buffer that goes while a call waits to fill it. */
static char *leaving;
static int ends[2];
static volatile int entered;

static void *read_leaving(void *expected) {
    leaving[0] = 1;
    __atomic_store_n(&entered, 1, __ATOMIC_SEQ_CST);
    ssize_t got = read(ends[0], leaving, 100);
    int error = errno;
    IS(got, (intptr_t)expected);
    if (got < 0) IS(error, EFAULT);
    return NULL;
}

static void that_go(void) {
    for (int how = 0; how < 3; how++) {
        CHECK(pipe(ends) == 0);
        leaving = pages(1);
        entered = 0;
        pthread_t reader = worker(read_leaving, (void *)(intptr_t)(how == 2 ? 5 : -1));
        wait_for(&entered, 1);
        sleep_ms(100);
        if (how == 0) CHECK(munmap(leaving, PAGE) == 0);
        if (how == 1) CHECK(mprotect(leaving, PAGE, PROT_READ) == 0);
        /* Another page in its place is as good. */
        if (how == 2) {
            CHECK(mmap(leaving, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
                  leaving);
        }
        IS(write(ends[1], "hello", 5), 5);
        joined(reader);
        if (how == 2) CHECK(memcmp(leaving, "hello", 5) == 0);
        close(ends[0]), close(ends[1]);
    }
}

/* Paths: long ones, ones that end where the memory ends, and what comes back about them. */
static void *paths(void *number) {
    char name[40], link[40], *memory = pages(2);
    snprintf(name, sizeof name, "path.%ld", (long)(intptr_t)number);
    snprintf(link, sizeof link, "link.%ld", (long)(intptr_t)number);
    CHECK(munmap(memory + PAGE, PAGE) == 0);
    char *at_end = memory + PAGE - strlen(name) - 1;
    strcpy(at_end, name);
    int file = open(at_end, O_CREAT | O_RDWR, 0640);
    CHECK(file >= 0);
    IS(write(file, "four", 4), 4);
    struct stat by_name, by_file;
    IS(stat(at_end, &by_name), 0);
    IS(fstat(file, &by_file), 0);
    IS(by_name.st_ino, by_file.st_ino);
    IS(by_name.st_size, 4);
    CHECK(symlink(name, link) == 0);
    char target[8];
    memset(target, 99, sizeof target);
    IS(readlink(link, target, 6), 6);
    CHECK(memcmp(target, name, 6) == 0);
    IS(target[6], 99);
    IS(access(at_end, R_OK), 0);
    /* Without its zero. */
    memset(memory, 'x', PAGE);
    IS(open(memory, O_RDONLY), -1);
    CHECK(errno == EFAULT || errno == ENAMETOOLONG);
    IS(open(memory + PAGE - 10, O_RDONLY), -1);
    IS(errno, EFAULT);
    memory[PAGE - 1] = 0;
    IS(open(memory, O_RDONLY), -1);
    IS(errno, ENAMETOOLONG);
    IS(open("", O_RDONLY), -1);
    IS(errno, ENOENT);
    CHECK(unlink(link) == 0 && unlink(name) == 0);
    close(file);
    return NULL;
}

static void that_are_paths(void) {
    on_workers(paths);
}

/* Calls whose results are counted in other things than bytes. */
static void *counted(void *number) {
    (void)number;
    int queue = epoll_create1(0), pair[2][2];
    CHECK(queue >= 0);
    for (int i = 0; i < 2; i++) {
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair[i]) == 0);
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x1234567800000000u + (unsigned)i};
        IS(epoll_ctl(queue, EPOLL_CTL_ADD, pair[i][0], &event), 0);
        IS(send(pair[i][1], "data", 4, 0), 4);
    }
    struct epoll_event events[5];
    memset(events, 99, sizeof events);
    IS(epoll_wait(queue, events, 5, 1000), 2);
    for (int i = 0; i < 2; i++) CHECK(events[i].events == EPOLLIN && events[i].data.u64 >> 32 == 0x12345678);
    IS(((char *)events)[2 * sizeof *events], 99);
    IS(epoll_wait(queue, events, less_than_none, 0), -1);
    IS(errno, EINVAL);
    char got[9] = "........";
    IS(recv(pair[0][0], got, 8, MSG_PEEK), 4);
    CHECK(memcmp(got, "data....", 8) == 0);
    IS(recv(pair[1][0], got, 2, MSG_TRUNC), 2);
    for (int i = 0; i < 2; i++) close(pair[i][0]), close(pair[i][1]);
    close(queue);
    char directory[400], noise[64] = {0};
    CHECK(getcwd(directory, sizeof directory) == directory && directory[0] == '/');
    IS(getrandom(noise, sizeof noise, 0), sizeof noise);
    int zeros = 0;
    for (size_t i = 0; i < sizeof noise; i++) zeros += noise[i] == 0;
    CHECK(zeros < 32);
    DIR *open_directory = opendir(".");
    CHECK(open_directory && readdir(open_directory));
    closedir(open_directory);
    return NULL;
}

static void that_are_counted(void) {
    on_workers(counted);
}

/* Lists of buffers, and polled files. */
static void *listed(void *number) {
    int file = own_file(), pair[2];
    char *memory = pages(2), first[3] = "one", *big = malloc(LONG);
    CHECK(munmap(memory + PAGE, PAGE) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    memset(memory, '2', PAGE);
    memset(big, '3', LONG);
    struct iovec parts[40] = {{first, 3}, {nowhere, 0}, {memory + PAGE - 5, 5}};
    IS(writev(file, parts, 3), 8);
    char got[20] = "...................";
    IS(pread(file, got, 19, 0), 8);
    CHECK(memcmp(got, "one22222...", 11) == 0);
    IS(pwritev(file, parts, 3, 4), 8);
    IS(pread(file, got, 19, 0), 12);
    CHECK(memcmp(got, "one2one22222...", 15) == 0);
    parts[2].iov_len = 6;
    /* Linux writes what can be read, or says EFAULT. */
    ssize_t wrote = pwritev(file, parts, 3, 0);
    CHECK(wrote == 3 || wrote == 8 || (wrote == -1 && errno == EFAULT));
    IS(writev(file, nowhere, 1), -1);
    IS(errno, EFAULT);
    IS(writev(file, parts, less_than_none), -1);
    IS(errno, EINVAL);
    IS(writev(file, parts, 0), 0);
    /* Too much to travel, and too many. */
    parts[2] = (struct iovec){big, LONG};
    IS(ftruncate(file, 0), 0);
    IS(pwritev(file, parts, 3, 0), LONG + 3);
    for (int i = 0; i < 40; i++) parts[i] = (struct iovec){first, 3};
    IS(pwritev(file, parts, 40, 0), 120);
    /* The same through a socket. */
    parts[1] = (struct iovec){memory, 7};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    IS(sendmsg(pair[0], &message, MSG_DONTWAIT), 10);
    struct pollfd polled[3] = {{pair[1], POLLIN, 99}, {-1, POLLIN, 99}, {pair[0], POLLIN, 99}};
    IS(poll(polled, 3, 1000), 1);
    CHECK(polled[0].revents == POLLIN && polled[1].revents == 0 && polled[2].revents == 0);
    CHECK(polled[0].fd == pair[1] && polled[2].events == POLLIN);
    IS(recv(pair[1], got, 19, 0), 10);
    CHECK(memcmp(got, "one2222222", 10) == 0);
    /* A descriptor beside the bytes goes with them. */
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    message = (struct msghdr){.msg_iov = parts, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(head), &file, sizeof file);
    IS(sendmsg(pair[0], &message, 0), 3);
    IS(recvmsg(pair[1], &message, 0), 3);
    head = CMSG_FIRSTHDR(&message);
    CHECK(head && head->cmsg_type == SCM_RIGHTS);
    int same;
    memcpy(&same, CMSG_DATA(head), sizeof same);
    struct stat one, other;
    CHECK(fstat(file, &one) == 0 && fstat(same, &other) == 0 && one.st_ino == other.st_ino);
    (void)number;
    close(same), close(file), close(pair[0]), close(pair[1]);
    free(big);
    return NULL;
}

static void that_are_listed(void) {
    on_workers(listed);
}

/* What a thread asks of its own signals and times, whose answers come back to it. */
static void *own_things(void *number) {
    sigset_t usr, before, now;
    sigemptyset(&usr);
    sigaddset(&usr, SIGUSR2);
    OK(pthread_sigmask(SIG_BLOCK, &usr, &before));
    IS(sigismember(&before, SIGUSR2), 0);
    OK(pthread_sigmask(SIG_SETMASK, NULL, &now));
    IS(sigismember(&now, SIGUSR2), 1);
    OK(pthread_sigmask(SIG_SETMASK, &before, NULL));
    IS(sigprocmask(99, &usr, &now), -1);
    IS(errno, EINVAL);
    stack_t mine = {.ss_sp = pages(8), .ss_size = 8 * PAGE}, old;
    IS(sigaltstack(&mine, &old), 0);
    IS(sigaltstack(NULL, &old), 0);
    CHECK(old.ss_sp == mine.ss_sp && old.ss_size == mine.ss_size);
    struct sigaction action;
    IS(sigaction(SIGRTMIN + (int)(intptr_t)number, NULL, &action), 0);
    CHECK(action.sa_handler == SIG_DFL);
    struct timespec used = {-1, -1}, later;
    IS(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used), 0);
    CHECK(used.tv_sec >= 0 && used.tv_nsec >= 0);
    IS(clock_gettime(12345, &later), -1);
    IS(errno, EINVAL);
    /* Nobody comes: the time is what ends it. */
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t never = PTHREAD_COND_INITIALIZER;
    OK(pthread_mutex_lock(&lock));
    later = in_ms(CLOCK_REALTIME, 30);
    IS(pthread_cond_timedwait(&never, &lock, &later), ETIMEDOUT);
    OK(pthread_mutex_unlock(&lock));
    return NULL;
}

static void that_are_own(void) {
    on_workers(own_things);
}

/* A signal comes while a call waits: what the call has done is there, and what it has not done is not. */
static volatile int handled;

static void handle(int signal) {
    (void)signal;
    __atomic_fetch_add(&handled, 1, __ATOMIC_SEQ_CST);
}

static int sockets[2];

static void *receive_all(void *all) {
    char got[200];
    memset(got, 99, sizeof got);
    __atomic_store_n(&entered, 1, __ATOMIC_SEQ_CST);
    IS(recv(sockets[0], got, 100, all ? MSG_WAITALL : 0), all ? 10 : -1);
    if (!all) IS(errno, EINTR);
    for (int i = 0; i < 10; i++) IS(got[i], all ? i : 99);
    IS(got[10], 99);
    return NULL;
}

static void *sleep_interrupted(void *unused) {
    (void)unused;
    struct timespec time = {60, 0}, left = {0, 0};
    __atomic_store_n(&entered, 1, __ATOMIC_SEQ_CST);
    IS(nanosleep(&time, &left), -1);
    IS(errno, EINTR);
    CHECK(left.tv_sec >= 30 && left.tv_sec < 60 && time.tv_sec == 60);
    return NULL;
}

static void interrupt(pthread_t thread, int bytes) {
    wait_for(&entered, 1);
    for (char i = 0; i < bytes; i++) IS(send(sockets[1], &i, 1, 0), 1);
    sleep_ms(100);
    int before = handled;
    OK(pthread_kill(thread, SIGUSR1));
    joined(thread);
    IS(handled, before + 1);
    entered = 0;
}

static void that_are_interrupted(void) {
    struct sigaction action = {.sa_handler = handle};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
    interrupt(worker(receive_all, NULL), 0);
    interrupt(worker(receive_all, &action), 10);
    interrupt(worker(sleep_interrupted, NULL), 0);
}

const Case buffer_cases[] = {
    {"buffers-of-every-size", of_every_size},
    {"buffers-refused", that_are_refused},
    {"buffers-shared", that_are_shared},
    {"buffers-that-go", that_go},
    {"paths", that_are_paths},
    {"counted-results", that_are_counted},
    {"lists-of-buffers", that_are_listed},
    {"own-signals-and-times", that_are_own},
    {"interrupted-buffers", that_are_interrupted},
    {NULL, NULL},
};
