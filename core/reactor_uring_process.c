#include "core/reactor_uring.h"

#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

uint32_t reactor_cpu_quota(const struct reactor *reactor maybe_unused)
{
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (file == NULL)
        return UINT32_MAX;
    unsigned long long quota_us = 0, period_us = 0;
    int fields = fscanf(file, "%llu %llu", &quota_us, &period_us); /* "max" parses as none */
    fclose(file);
    if (fields != 2 || quota_us == 0 || period_us == 0)
        return UINT32_MAX;
    return (uint32_t)((quota_us + period_us - 1) / period_us);
}

uint32_t reactor_cpu_count(const struct reactor *reactor)
{
    cpu_set_t set;
    uint32_t usable = 1;
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        usable = (uint32_t)CPU_COUNT(&set);
    return (uint32_t)u64_min(usable, reactor_cpu_quota(reactor));
}

static int64_t process_start_wall_ns(void)
{
    FILE *file = fopen("/proc/self/stat", "re");
    if (file == NULL)
        return 0;
    char line[1024];
    size_t bytes = fread(line, 1, sizeof(line) - 1, file);
    fclose(file);
    line[bytes] = '\0';
    unsigned long long start_ticks = 0;
    const char *after_name = strrchr(line, ')'); /* the name itself may hold spaces */
    if (after_name == NULL ||
        sscanf(after_name + 1,
               " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &start_ticks) != 1)
        return 0;
    struct timespec boot, wall;
    clock_gettime(CLOCK_BOOTTIME, &boot);
    clock_gettime(CLOCK_REALTIME, &wall);
    int64_t boot_ns = (int64_t)boot.tv_sec * (int64_t)NS_PER_S + boot.tv_nsec;
    int64_t wall_ns = (int64_t)wall.tv_sec * (int64_t)NS_PER_S + wall.tv_nsec;
    int64_t tick_ns = (int64_t)NS_PER_S / sysconf(_SC_CLK_TCK);
    return wall_ns - boot_ns + (int64_t)start_ticks * tick_ns;
}

static uint64_t process_open_files(void)
{
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL)
        return 0;
    uint64_t count = 0;
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count > 3 ? count - 3 : 0; /* ".", ".." and the descriptor of this very listing */
}

void reactor_process_stats(struct reactor *reactor, struct reactor_process_stats *stats)
{
    (void)reactor;
    memset(stats, 0, sizeof(*stats));
    unsigned long long virtual_pages = 0, resident_pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file != NULL) {
        if (fscanf(file, "%llu %llu", &virtual_pages, &resident_pages) == 2) {
            stats->virtual_bytes = virtual_pages * (uint64_t)sysconf(_SC_PAGESIZE);
            stats->resident_bytes = resident_pages * (uint64_t)sysconf(_SC_PAGESIZE);
        }
        fclose(file);
    }
    struct timespec cpu;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    stats->cpu_ns = (uint64_t)cpu.tv_sec * NS_PER_S + (uint64_t)cpu.tv_nsec;
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        stats->open_files_max = limit.rlim_cur;
    stats->open_files = process_open_files();
    stats->start_wall_ns = process_start_wall_ns();
}
