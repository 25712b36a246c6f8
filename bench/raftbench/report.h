/*
 * report.h - what a run measured, for people or for programs.
 *
 * Units     Latencies in microseconds, rates per second.
 */
#ifndef BENCH_RAFTBENCH_REPORT_H
#define BENCH_RAFTBENCH_REPORT_H

#include "bench/raftbench/worker.h"

struct report {
    const struct options *options;
    double seconds;
    uint64_t completed, succeeded, conflicts, bytes_received;
    uint64_t errors[17];
    uint64_t series[WORKER_SERIES_MAX];
    uint64_t client_cpu_ns;
    struct histogram latency_ns;
};

void report_add(struct report *report, const struct worker *worker);
void report_print(const struct report *report);
void report_print_json(const struct report *report);

#endif
