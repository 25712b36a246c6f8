/*
 * workload.h - which key and which operation comes next, and its protobuf request.
 *
 * Owner     One per load thread; deterministic from the seed and the thread's number.
 * Limits    A request fits WORKLOAD_REQUEST_BYTES plus txn_ops values.
 */
#ifndef BENCH_RAFTBENCH_WORKLOAD_H
#define BENCH_RAFTBENCH_WORKLOAD_H

#include "bench/raftbench/options.h"
#include "core/prng.h"

enum workload_method { WORKLOAD_PUT, WORKLOAD_RANGE, WORKLOAD_TXN };

struct workload {
    const struct options *options;
    struct prng prng;
    uint64_t sequence, sequence_step; /* threads interleave sequential keys */
    double zipf_alpha, zipf_eta, zipf_zeta_n, zipf_half;
    uint64_t counter_revision; /* of the key that BENCH_CAS writes, as replies told */
    uint8_t *value;
    uint8_t *request; /* the one being built */
    size_t request_bytes_max;
};

void workload_init(struct workload *workload, const struct options *options, uint32_t thread,
                   uint32_t thread_count);
void workload_deinit(struct workload *workload);

/* Builds the next request; it stays valid until the next call. */
struct bytes workload_next(struct workload *workload, enum workload_method *method);

/* The reply to a request of BENCH_CAS. False: the counter had another revision, and stays. */
must_check bool workload_learn(struct workload *workload, struct bytes reply);

/* The put of key number `key`, for the untimed load. */
struct bytes workload_load(struct workload *workload, uint64_t key);

#endif
