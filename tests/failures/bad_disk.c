/* Preloaded into agents: reading the file whose inode is in $BAD_INODE fails, as on a disk that is going. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

ssize_t pread64(int fd, void *buffer, size_t bytes, off64_t offset) {
    static ssize_t (*real)(int, void *, size_t, off64_t);
    struct stat about;
    const char *bad = getenv("BAD_INODE");
    if (bad && !fstat(fd, &about) && about.st_ino == strtoull(bad, NULL, 10)) {
        errno = EIO;
        return -1;
    }
    if (!real) real = dlsym(RTLD_NEXT, "pread64");
    return real(fd, buffer, bytes, offset);
}
