/* What the programs of bench/spread_costs.py share: time, and going to a CPU (in spread mode: to the host that has it). */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static inline double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

/* Goes to a CPU, and makes sure of it. In spread mode a thread goes to the host that has the CPU, which getcpu(2) shows as a
 * NUMA node: BENCH_AWAY is the first CPU of host 1. */
static inline void go_to(int cpu) {
    static const char *away;
    static int known;
    if (!known) {
        away = getenv("BENCH_AWAY");
        known = 1;
    }
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        perror("sched_setaffinity");
        exit(98);
    }
    unsigned now = 0, node = 0;
    if (getcpu(&now, &node) != 0) exit(97);
    if (away ? node != (cpu >= atoi(away)) : now != (unsigned)cpu) {
        fprintf(stderr, "on CPU %u of node %u instead of CPU %d\n", now, node, cpu);
        exit(94);
    }
}
