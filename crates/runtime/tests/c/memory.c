// Edge cases of the layout calls; prints results, never addresses, so that two runs can be compared.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#define P 4096UL
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
#define NO ((void *)-1)

static sigjmp_buf jump;
static void on_fault(int signal, siginfo_t *info, void *context) { (void)info; (void)context; siglongjmp(jump, signal); }
static const char *touch(volatile char *at, int write) {
  int signal = sigsetjmp(jump, 1);
  if (signal) return signal == SIGSEGV ? "SEGV" : signal == SIGBUS ? "BUS" : "?";
  char value = *at;
  if (write) *at = value;
  return "ok";
}
static void say(const char *what, long result) { printf("%s: %s\n", what, result == -1 ? strerrorname_np(errno) : "ok"); }
static void say_map(const char *what, void *result) { printf("%s: %s\n", what, result == NO ? strerrorname_np(errno) : "ok"); }
static char *map(size_t pages, int prot) {
  char *at = mmap(0, pages * P, prot, ANON, -1, 0);
  if (at == NO) { perror("mmap"); exit(1); }
  return at;
}
// A free place with `pages` pages and room on both sides.
static char *hole(size_t pages) { char *at = map(pages + 2, PROT_NONE); munmap(at, (pages + 2) * P); return at + P; }
static long sum(char *at, size_t bytes) { long total = 0; for (size_t i = 0; i < bytes; i++) total += (unsigned char)at[i]; return total; }

static void mmaps(int fd, int read_only, int write_only) {
  say_map("length 0", mmap(0, 0, RW, ANON, -1, 0));
  say_map("no type", mmap(0, P, RW, MAP_ANONYMOUS, -1, 0));
  say_map("both types of unknown flag", mmap(0, P, RW, MAP_SHARED_VALIDATE | (1 << 25), fd, 0));
  say_map("huge length", mmap(0, ~0UL, RW, ANON, -1, 0));
  say_map("length of the address space", mmap(0, 1UL << 47, RW, ANON, -1, 0));
  say_map("more than the machine has", mmap(0, 1UL << 45, RW, ANON, -1, 0));
  say_map("the same, unreserved", mmap(0, 1UL << 45, RW, ANON | MAP_NORESERVE, -1, 0));
  say_map("the same, without access", mmap(0, 1UL << 44, PROT_NONE, ANON, -1, 0));
  say_map("unaligned offset", mmap(0, P, PROT_READ, MAP_PRIVATE, fd, 1));
  say_map("unaligned fixed", mmap((void *)(P * 100 + 1), P, RW, ANON | MAP_FIXED, -1, 0));
  say_map("fixed past the end", mmap((void *)(1UL << 47), P, RW, ANON | MAP_FIXED, -1, 0));
  say_map("bad descriptor", mmap(0, P, PROT_READ, MAP_PRIVATE, -1, 0));
  say_map("closed descriptor", mmap(0, P, PROT_READ, MAP_PRIVATE, 777, 0));
  say_map("shared write of read-only", mmap(0, P, RW, MAP_SHARED, read_only, 0));
  say_map("private write of read-only", mmap(0, P, RW, MAP_PRIVATE, read_only, 0));
  say_map("read of write-only", mmap(0, P, PROT_READ, MAP_PRIVATE, write_only, 0));
  say_map("offset overflow", mmap(0, P, PROT_READ, MAP_PRIVATE, fd, -(long)P));
  int directory = open("/", O_RDONLY | O_DIRECTORY);
  say_map("a directory", mmap(0, P, PROT_READ, MAP_PRIVATE, directory, 0));
  close(directory);
  char *at = hole(4);
  char *got = mmap(at, P, RW, ANON, -1, 0);
  printf("hint honoured: %d\n", got == at);
  got = mmap(at, P, RW, ANON, -1, 0);
  printf("taken hint elsewhere: %d\n", got != at && got != NO);
  say_map("noreplace over it", mmap(at, P, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0));
  got = mmap(at + P, P, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);
  printf("noreplace beside it: %d\n", got == at + P);
  got = mmap(at + 5, P, RW, ANON, -1, 0);
  printf("unaligned hint is taken as wish: %d\n", got != NO && (uintptr_t)got % P == 0);
  got = mmap(0, P, RW, ANON | MAP_32BIT, -1, 0);
  printf("32 bit: %d\n", got != NO && (uintptr_t)got < 1UL << 31);
  memset(at, 7, 2 * P);
  got = mmap(at, P, RW, ANON | MAP_FIXED, -1, 0);
  printf("fixed replaces: %d %ld %ld\n", got == at, sum(at, P), sum(at + P, P));
  int zero = open("/dev/zero", O_RDWR);
  got = mmap(0, 2 * P, RW, MAP_PRIVATE, zero, 0);
  printf("/dev/zero private: %ld\n", got == NO ? -1 : sum(got, 2 * P));
  got = mmap(0, 2 * P, RW, MAP_SHARED, zero, 0);
  printf("/dev/zero shared: %ld\n", got == NO ? -1 : sum(got, 2 * P));
}

static void files(int fd) {
  char *at = mmap(0, 4 * P, RW, MAP_PRIVATE, fd, 0);
  printf("file: %ld %ld, past the last byte %ld\n", sum(at, P), sum(at + P, 100), sum(at + P + 100, P - 100));
  printf("past the last page: %s\n", touch(at + 2 * P, 0));
  at[0] = 99;
  char byte;
  pread(fd, &byte, 1, 0);
  printf("private stays private: %d %d\n", at[0], byte);
  say("drop", madvise(at, P, MADV_NORMAL));
  char *shared = mmap(0, 2 * P, RW, MAP_SHARED, fd, 0);
  shared[1] = 55;
  pread(fd, &byte, 1, 1);
  printf("shared is shared: %d\n", byte);
  shared[1] = 3;
  say("msync", msync(shared, P, MS_SYNC));
  say("mprotect of shared", mprotect(shared, P, PROT_READ));
  printf("write to it: %s\n", touch(shared, 1));
  say("unmap half", munmap(shared, P));
  printf("the half: %s, the rest: %s\n", touch(shared, 0), touch(shared + P, 0));
  char *second = mmap(0, P, PROT_READ, MAP_PRIVATE, fd, P);
  printf("second page: %ld\n", sum(second, P));
  char *beyond = mmap(0, P, PROT_READ, MAP_PRIVATE, fd, 16 * P);
  printf("beyond the file: %s\n", touch(beyond, 0));
  char *moved = mremap(shared + P, P, 3 * P, MREMAP_MAYMOVE);
  printf("shared grows: %d %ld\n", moved != NO, sum(moved, P));
  munmap(moved, 3 * P);
  munmap(at, 4 * P);
  printf("gone: %s\n", touch(at, 0));
}

static void munmaps(void) {
  char *at = map(5, RW);
  say("munmap length 0", munmap(at, 0));
  say("munmap unaligned", munmap(at + 1, P));
  say("munmap overflow", munmap(at, ~0UL & ~(P - 1)));
  say("munmap past the end", munmap((void *)(1UL << 47), P));
  say("middle", munmap(at + P, P));
  printf("%s %s %s\n", touch(at, 1), touch(at + P, 1), touch(at + 2 * P, 1));
  say("again", munmap(at + P, P));
  say("over the hole, odd length", munmap(at, 2 * P + 1));
  printf("%s %s\n", touch(at + 2 * P, 1), touch(at + 3 * P, 1));
  memset(at + 3 * P, 1, P);
  munmap(at + 3 * P, P);
  char *back = mmap(at + 3 * P, P, RW, ANON | MAP_FIXED, -1, 0);
  printf("fresh again: %ld\n", sum(back, P));
}

static void mprotects(void) {
  char *at = map(4, RW);
  say("mprotect length 0", mprotect(at, 0, PROT_NONE));
  say("mprotect unaligned", mprotect(at + 1, P, PROT_NONE));
  say("mprotect bad bits", mprotect(at, P, 0x40));
  say("mprotect both grows", mprotect(at, P, PROT_GROWSUP | PROT_GROWSDOWN));
  say("mprotect growsdown", mprotect(at, P, PROT_GROWSDOWN | PROT_READ));
  say("mprotect overflow", mprotect(at, ~0UL & ~(P - 1), PROT_READ));
  say("read only", mprotect(at + P, P, PROT_READ));
  printf("%s %s %s %s\n", touch(at, 1), touch(at + P, 1), touch(at + P, 0), touch(at + 2 * P, 1));
  say("none", mprotect(at, 2 * P, PROT_NONE));
  printf("%s %s\n", touch(at, 0), touch(at + P, 0));
  munmap(at + 2 * P, P);
  say("over a hole", mprotect(at, 4 * P, RW));
  printf("before it: %s, after it: %s\n", touch(at, 1), touch(at + 3 * P, 1));
  say("in a hole", mprotect(at + 2 * P, P, RW));
  unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
  memcpy(at, code, sizeof code);
  say("executable", mprotect(at, P, PROT_READ | PROT_EXEC));
  printf("code: %d\n", ((int (*)(void))at)());
  say("pkey_mprotect without key", syscall(SYS_pkey_mprotect, at, P, RW, -1));
}

static void mremaps(void) {
  char *at = map(6, RW);
  memset(at, 5, 6 * P);
  say_map("mremap unaligned", mremap(at + 1, P, 2 * P, MREMAP_MAYMOVE));
  say_map("mremap to 0", mremap(at, P, 0, MREMAP_MAYMOVE));
  say_map("mremap bad flag", mremap(at, P, P, 64));
  say_map("mremap fixed alone", mremap(at, P, P, MREMAP_FIXED, at + 4 * P));
  say_map("mremap fixed overlap", mremap(at, 2 * P, 2 * P, MREMAP_FIXED | MREMAP_MAYMOVE, at + P));
  say_map("mremap old size 0", mremap(at, 0, P, MREMAP_MAYMOVE));
  char *free_place = hole(8);
  say_map("mremap of nothing", mremap(free_place, P, 2 * P, MREMAP_MAYMOVE));
  char *shrunk = mremap(at, 6 * P, 4 * P, 0);
  printf("shrink: %d %s %s\n", shrunk == at, touch(at + 3 * P, 1), touch(at + 4 * P, 1));
  char *grown = mremap(at, 4 * P, 5 * P, 0);
  printf("grow in place: %d %ld %ld\n", grown == at, sum(at, 4 * P), sum(at + 4 * P, P));
  char *wall = mmap(at + 5 * P, P, PROT_NONE, ANON | MAP_FIXED, -1, 0);
  say_map("grow against a wall", mremap(at, 5 * P, 6 * P, 0));
  char *moved = mremap(at, 5 * P, 9 * P, MREMAP_MAYMOVE);
  printf("move: %d %ld %ld, old %s\n", moved != NO && moved != at, sum(moved, 4 * P), sum(moved + 4 * P, 5 * P), touch(at, 0));
  char *target = map(4, RW);
  memset(target, 9, 4 * P);
  char *fixed = mremap(moved, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, target + P);
  printf("fixed: %d %ld %ld %ld, old %s, rest %ld\n", fixed == target + P, sum(target, P), sum(fixed, 2 * P), sum(target + 3 * P, P),
         touch(moved, 0), sum(moved + 2 * P, 2 * P));
  mprotect(fixed, P, PROT_READ);
  say_map("across protections", mremap(fixed, 2 * P, 4 * P, MREMAP_MAYMOVE));
  char *read_only = mremap(fixed, P, 2 * P, MREMAP_MAYMOVE);
  printf("read-only moves: %ld %s\n", sum(read_only, P), touch(read_only, 1));
  char *kept = map(2, RW);
  memset(kept, 3, 2 * P);
  char *other = mremap(kept, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
  printf("dontunmap: %d %ld %ld\n", other != NO && other != kept, sum(other, 2 * P), sum(kept, 2 * P));
  size_t big = 64UL << 20;
  char *large = mmap(0, big, RW, ANON, -1, 0);
  for (size_t i = 0; i < big; i += P) *(size_t *)(large + i) = i + 1;
  char *stop = mmap(large + big, P, PROT_NONE, ANON | MAP_FIXED_NOREPLACE, -1, 0);
  large = mremap(large, big, 2 * big, MREMAP_MAYMOVE);
  size_t wrong = 0;
  for (size_t i = 0; i < big; i += P) wrong += *(size_t *)(large + i) != i + 1;
  printf("large move: %zu wrong, new part %ld\n", wrong, sum(large + big, big));
  (void)wall; (void)stop;
}

static void madvises(int fd) {
  char *at = map(4, RW);
  memset(at, 1, 4 * P);
  say("madvise unaligned", madvise(at + 1, P, MADV_DONTNEED));
  say("madvise bad advice", madvise(at, P, 77));
  say("madvise length 0", madvise(at, 0, MADV_DONTNEED));
  say("dontneed", madvise(at, P, MADV_DONTNEED));
  printf("%ld %ld\n", sum(at, P), sum(at + P, P));
  at[0] = 4;
  printf("usable: %ld\n", sum(at, P));
  munmap(at + P, P);
  say("over a hole", madvise(at, 4 * P, MADV_DONTNEED));
  printf("%ld %ld\n", sum(at, P), sum(at + 2 * P, 2 * P));
  say("willneed", madvise(at, P, MADV_WILLNEED));
  say("remove of private", madvise(at, P, MADV_REMOVE));
  say("free", madvise(at + 2 * P, P, MADV_FREE));
  char *shared = mmap(0, 2 * P, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  memset(shared, 2, 2 * P);
  say("dontneed of shared", madvise(shared, P, MADV_DONTNEED));
  printf("%ld\n", sum(shared, P));
  say("free of shared", madvise(shared, P, MADV_FREE));
  say("remove of shared", madvise(shared, P, MADV_REMOVE));
  printf("%ld %ld\n", sum(shared, P), sum(shared + P, P));
  char *file = mmap(0, P, RW, MAP_PRIVATE, fd, 0);
  say("free of file", madvise(file, P, MADV_FREE));
  say("populate", madvise(at + 2 * P, P, 23));
  say("mlock", mlock(at, P));
  say("mlock of a hole", mlock(at, 2 * P));
  say("munlock", munlock(at, P));
  say("mlockall bad", mlockall(0));
}

static void brks(void) {
  char *start = (char *)syscall(SYS_brk, 0);
  char *grown = (char *)syscall(SYS_brk, start + 10 * P + 5);
  printf("brk grows: %d\n", grown == start + 10 * P + 5);
  memset(start, 6, 10 * P);
  char *same = (char *)syscall(SYS_brk, 1);
  printf("too low: %d\n", same == grown);
  char *less = (char *)syscall(SYS_brk, start + 2 * P);
  printf("shrinks: %d %s\n", less == start + 2 * P, touch(start + 4 * P, 0));
  char *more = (char *)syscall(SYS_brk, start + 4 * P);
  printf("fresh: %d %ld\n", more == start + 4 * P, sum((char *)(((uintptr_t)start + 3 * P) & ~(P - 1)) + P / 2, P / 4));
  char *far = (char *)syscall(SYS_brk, (char *)(1UL << 47));
  printf("too far: %d\n", far == more);
  syscall(SYS_brk, start);
}

int main(void) {
  setvbuf(stdout, 0, _IOLBF, 0);
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
  sigaction(SIGSEGV, &action, 0);
  sigaction(SIGBUS, &action, 0);
  char path[] = "/tmp/megalith-memory-XXXXXX";
  int fd = mkstemp(path);
  int read_only = open(path, O_RDONLY), write_only = open(path, O_WRONLY);
  unlink(path);
  char bytes[P + 100];
  memset(bytes, 3, sizeof bytes);
  write(fd, bytes, sizeof bytes);
  mmaps(fd, read_only, write_only);
  files(fd);
  munmaps();
  mprotects();
  mremaps();
  madvises(fd);
  brks();
  struct rlimit limit = {64 << 20, 64 << 20};
  setrlimit(RLIMIT_DATA, &limit);
  say_map("over RLIMIT_DATA", mmap(0, 128 << 20, RW, ANON, -1, 0));
  char deep[1 << 20];
  memset(deep, 1, sizeof deep);
  printf("stack: %ld\n", sum(deep, sizeof deep));
  return 0;
}
