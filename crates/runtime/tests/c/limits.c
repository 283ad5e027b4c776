// What a program sees of its limits.
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static long use(long bytes) {
  char frame[16384];
  memset(frame, 1, sizeof frame);
  return bytes <= 0 ? frame[5] : use(bytes - (long)sizeof frame) + frame[7];
}
int main(void) {
  struct rlimit stack, files;
  getrlimit(RLIMIT_STACK, &stack);
  getrlimit(RLIMIT_NOFILE, &files);
  long bytes = stack.rlim_cur > 32 << 20 ? 32 << 20 : (long)stack.rlim_cur - 300000;
  printf("stack %ld %ld, used %d, files %ld %ld\n", (long)stack.rlim_cur, (long)stack.rlim_max, use(bytes) > 0, (long)files.rlim_cur,
         (long)files.rlim_max);
  return 0;
}
