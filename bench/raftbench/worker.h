/*
 * worker.h - one load thread: its connections, its schedule and its measurements.
 *
 * Story     Closed loop: every reply starts the next request on the same slot; latency is service
 *           time. Open loop: requests have intended start times at a fixed rate, and latency is
 *           counted from those, so that waiting behind a stall is not hidden (no coordinated
 *           omission).
 * Owner     Its thread. Another thread may read the counters while it runs: they only grow.
 */
#ifndef BENCH_RAFTBENCH_WORKER_H
#define BENCH_RAFTBENCH_WORKER_H

#include "bench/raftbench/link.h"
#include "core/histogram.h"
#include "net/client_socket.h"

#define WORKER_SERIES_MAX 3600

enum worker_phase {
    WORKER_CONNECTING,
    WORKER_LOADING,
    WORKER_WARMING,
    WORKER_RUNNING,
    WORKER_DONE
};

struct worker_slot {
    uint64_t intended_ns;
    bool measured;
};

struct worker;

struct worker_link {
    struct worker *worker;
    struct link *link;
    struct worker_slot *slots;
    uint32_t *free_slots;
    uint32_t free_count;
    bool open;
};

struct worker {
    const struct options *options;
    struct core *core;
    struct client_set set;
    struct workload workload;
    struct worker_link *links;
    uint32_t link_count, links_open, next_link;
    uint32_t thread;
    enum worker_phase phase;
    struct timer timer;
    uint64_t interval_ns_x16; /* open loop: between intended starts, in 1/16 ns */
    uint64_t next_intended_x16;
    uint64_t begin_ns, end_ns; /* of the measured part */
    uint64_t (*cpu_clock)(void);
    uint64_t cpu_begin_ns;
    uint64_t load_next, load_end;
    uint64_t operations_left;
    uint64_t in_flight;

    uint64_t completed, succeeded;
    uint64_t conflicts; /* replies to BENCH_CAS that the counter was another */
    uint64_t bytes_received;
    uint64_t errors[17];
    uint64_t series[WORKER_SERIES_MAX]; /* completions per second of the measured part */
    struct histogram latency_ns;
    int failure; /* 0, or why the run was given up */
};

/* `cpu_clock`: nanoseconds that the calling thread ran. */
must_check int worker_init(struct worker *worker, const struct options *options, struct core *core,
                           uint32_t thread, uint64_t (*cpu_clock)(void));
void worker_run(struct worker *worker); /* turns the core until done */
void worker_deinit(struct worker *worker);

#endif
