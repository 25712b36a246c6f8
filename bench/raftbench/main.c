/*
 * main.c - raftbench: a load generator for any etcd server (gRPC) and for native frames.
 *
 * One thread and one core (core/core.h) per --threads; each drives its share of the connections.
 * The main thread shows progress once a second on a terminal and prints the report at the end.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "bench/raftbench/report.h"
#include "core/invariant.h"

struct thread {
    pthread_t id;
    uint32_t index;
    struct worker worker;
    uint64_t cpu_ns;
    int error;
    bool done;
};

static struct options options;
static struct mesh *mesh;
static struct thread threads[BENCH_THREADS_MAX];

static void pin(uint32_t index)
{
    cpu_set_t set;
    if (options.cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET((unsigned)options.cpu + index, &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static uint64_t thread_cpu_ns(void)
{
    struct timespec cpu;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    return (uint64_t)cpu.tv_sec * NS_PER_S + (uint64_t)cpu.tv_nsec;
}

static void *thread_run(void *argument)
{
    struct thread *self = argument;
    struct core *core;
    char reason[512];
    struct core_options core_options = {
        .fibers_max = 16,
        .cpu_count = options.cpu < 0 ? 0 : options.threads, /* pinned: one each */
        .reactor = {.core = self->index,
                    .core_count = options.threads,
                    .files_max = options.connections + 64,
                    .buffer_bytes = 2 * MIB,
                    .recv_buffer_bytes = 16 * 1024,
                    .recv_buffer_count = 256,
                    .poll_us = options.poll_us}};
    pin(self->index);
    self->error = core_create(&core_options, mesh, &core, reason, sizeof(reason));
    if (self->error < 0) {
        fprintf(stderr, "raftbench: %s\n", reason);
    } else {
        self->error = worker_init(&self->worker, &options, core, self->index, thread_cpu_ns);
        if (self->error == 0) {
            worker_run(&self->worker);
            self->error = self->worker.failure;
        }
    }
    self->cpu_ns = thread_cpu_ns() - self->worker.cpu_begin_ns;
    __atomic_store_n(&self->done, true, __ATOMIC_RELEASE);
    return NULL;
}

static void show_progress(void)
{
    uint64_t before = 0;
    for (bool running = true; running;) {
        uint64_t completed = 0;
        running = false;
        for (uint32_t i = 0; i < options.threads; i++) {
            completed += __atomic_load_n(&threads[i].worker.completed, __ATOMIC_RELAXED);
            running |= !__atomic_load_n(&threads[i].done, __ATOMIC_ACQUIRE);
        }
        fprintf(stderr, "\r  %llu/s   ", (unsigned long long)(completed - before));
        before = completed;
        for (int i = 0; running && i < 10; i++) {
            usleep(100 * 1000);
            running = false;
            for (uint32_t t = 0; t < options.threads; t++)
                running |= !__atomic_load_n(&threads[t].done, __ATOMIC_ACQUIRE);
        }
    }
    fprintf(stderr, "\r                    \r");
}

int main(int argc, char **argv)
{
    static struct report report;
    bool exit_now;
    int code = EXIT_SUCCESS;
    if (!options_parse(&options, argc - 1, argv + 1, &exit_now))
        return 2;
    if (exit_now)
        return EXIT_SUCCESS;
    if (mesh_create(options.threads, 64, &mesh) < 0)
        return EXIT_FAILURE;
    for (uint32_t i = 0; i < options.threads; i++) {
        threads[i].index = i;
        if (pthread_create(&threads[i].id, NULL, thread_run, &threads[i]) != 0)
            return EXIT_FAILURE;
    }
    if (!options.quiet && !options.json && isatty(STDERR_FILENO))
        show_progress();
    report.options = &options;
    histogram_init(&report.latency_ns);
    for (uint32_t i = 0; i < options.threads; i++) {
        pthread_join(threads[i].id, NULL);
        if (threads[i].error < 0) {
            fprintf(stderr, "raftbench: %s\n", err_text(threads[i].error));
            code = EXIT_FAILURE;
            continue;
        }
        report_add(&report, &threads[i].worker);
        report.client_cpu_ns += threads[i].cpu_ns;
    }
    if (code == EXIT_SUCCESS && options.json)
        report_print_json(&report);
    else if (code == EXIT_SUCCESS)
        report_print(&report);
    return code;
}
