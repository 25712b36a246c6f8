/*
 * link.h - one client connection of the load generator, gRPC or native frames behind one face.
 *
 * Owner     The load thread's core. Slots number the requests in flight; the caller picks free
 *           ones.
 * Errors    A broken connection answers every slot in flight with GRPC_UNAVAILABLE, then `closed`
 *           runs.
 */
#ifndef BENCH_RAFTBENCH_LINK_H
#define BENCH_RAFTBENCH_LINK_H

#include "bench/raftbench/workload.h"
#include "core/core.h"
#include "core/err.h"

struct link;

struct link_events {
    void *context;
    void (*opened)(void *context);
    void (*replied)(void *context, uint32_t slot, enum grpc_status status, struct bytes message);
    void (*closed)(void *context, int error);
};

struct client_set;

must_check int link_open(struct client_set *set, const struct io_address *address,
                         enum bench_protocol protocol, uint32_t slots,
                         const struct link_events *events, struct link **link);
void link_call(struct link *link, uint32_t slot, enum workload_method method, struct bytes request);
void link_close(struct link *link);

#endif
