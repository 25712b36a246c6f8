/*
 * options.h - what raftbench is asked to do: a named scenario, changed by flags.
 *
 * Story     `raftbench run S03 --seconds 10` takes scenario S03's shape and then the flags.
 *           Scenarios that need a feature the server does not have yet are not in the table;
 *           `raftbench list` prints what is.
 * Units     As in the names. rate_per_s 0 = closed loop.
 * Errors    options_parse() prints one line and returns false.
 */
#ifndef BENCH_RAFTBENCH_OPTIONS_H
#define BENCH_RAFTBENCH_OPTIONS_H

#include "core/base.h"

enum bench_operation {
    BENCH_PUT,
    BENCH_GET,              /* linearizable */
    BENCH_GET_SERIALIZABLE, /* from this member's state */
    BENCH_MIXED,            /* puts and linearizable gets by read_percent */
    BENCH_RANGE,            /* range_keys keys from a random one, linearizable */
    BENCH_TXN,              /* compare, then put and get, of txn_ops each */
    BENCH_CAS,              /* compare-and-swap on one contended counter */
    BENCH_OPERATION_COUNT
};

enum bench_distribution { BENCH_UNIFORM, BENCH_ZIPF, BENCH_SEQUENTIAL };
enum bench_protocol { BENCH_GRPC, BENCH_NATIVE };

#define BENCH_ENDPOINTS_MAX 8
#define BENCH_THREADS_MAX   16

struct options {
    char scenario[16];
    char endpoints[BENCH_ENDPOINTS_MAX][64]; /* host:port */
    uint32_t endpoint_count;
    enum bench_protocol protocol;
    enum bench_operation operation;
    enum bench_distribution distribution;
    uint32_t threads;
    uint32_t connections;
    uint32_t in_flight; /* per connection */
    uint64_t rate_per_s;
    uint64_t seconds, warmup_seconds;
    uint64_t operations; /* 0: by time */
    uint64_t keys;
    uint32_t key_bytes, value_bytes;
    uint32_t read_percent;
    uint32_t range_keys, txn_ops;
    uint64_t seed;
    uint64_t load_keys; /* put this many keys first, sequentially, untimed */
    int cpu;            /* pin threads from this CPU on; -1: not pinned */
    uint32_t poll_us;   /* how long a thread looks for replies before it sleeps */
    bool json, quiet;
};

/* argv after the program's name: "run" SCENARIO|custom [flags], or "list", or "help". Returns false
 * after
 * printing what is wrong; *exit_now when the answer was printed already. */
must_check bool options_parse(struct options *options, int argc, char **argv, bool *exit_now);

const char *bench_operation_name(enum bench_operation operation);

#endif
