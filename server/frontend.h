/*
 * frontend.h - a connection core's part of a node: its connections, its readers, and the calls that
 * wait for the raft core.
 *
 * Story     Handlers (kv_service.c, ...) run in the receive path. A write becomes a proposal; a
 *           linearizable read joins the batch of its turn, which asks the raft core once. Calls
 *           without an answer after the request timeout fail with "request timed out"; the write
 *           may still happen, as etcd's may.
 * Owner     The connection core; one frontend each.
 */
#ifndef SERVER_FRONTEND_H
#define SERVER_FRONTEND_H

#include "core/core.h"
#include "core/queue.h"
#include "net/rpc.h"
#include "server/kv_codec.h"
#include "server/proposal.h"

struct lsm_reader;
struct mvcc_reader;
struct node;

struct frontend {
    struct node *node;
    struct core *core;
    struct rpc_server *server;
    struct lsm_reader *lsm_reader; /* the raft core's own when they share a core */
    struct mvcc_reader *reader;
    uint64_t sequence;    /* of requests proposed from here */
    uint64_t range_bytes; /* in chunks of server/range_stream.c */

    struct queue gathered;    /* linearizable reads of this round, not asked for yet */
    struct queue outstanding; /* asked for, in order of batches */
    uint64_t batch;
    uint64_t sent_bytes_seen; /* of the server's, at the end of the last round */
    uint64_t answered_ns;     /* the turn that saw them grow */

    struct proposal *oldest, *newest; /* in flight, by age */
    uint64_t in_flight;
    struct timer sweep;
    bool stopping;
    const struct proposal *raising; /* the alarm of our own that is in flight; NULL: none */
    struct fiber_event closed;      /* stopping: no connection is left */
    struct fiber_event *quiet;      /* wakes when in_flight and outstanding are zero */
};

/* A linearizable read that waits. */
struct frontend_read {
    struct queue_link link;
    void (*go)(struct frontend_read *read, int error);
    uint64_t batch;
    uint64_t deadline_ns;
};

/* What a handler keeps in rpc_call.user while the call waits. */
struct call_state {
    struct frontend_read read;
    void (*go)(struct rpc_call *call, int error);
};
_Static_assert(sizeof(struct call_state) <= RPC_CALL_USER_WORDS * sizeof(uint64_t), "fits");

static inline struct call_state *call_state(struct rpc_call *call)
{
    return (struct call_state *)(void *)call->user;
}

static inline struct frontend *call_frontend(struct rpc_call *call)
{
    return call->service;
}

/* Every core of the node, before its first turn: message handlers. */
void frontend_attach(struct node *node, struct core *core);

/* Fiber of each connection core. */
must_check int frontend_start(struct node *node, struct core *core);

/* Raft core, fiber: ends the calls and connections of all cores at the same time, and returns when
 * none is left. What waits for a quorum that is not there has its deadlines: they do not add up. */
void frontends_stop(struct node *node);

/* Raft core: opens the client ports; sockets go to the connection cores in turn. */
must_check int frontend_listen(struct node *node, struct core *core);
void frontend_close_listeners(struct node *node);

/* Everything acknowledged before now is readable here without asking anybody (L1, L2). */
bool frontend_reads_are_local(const struct frontend *frontend);

/* `go(read, 0)` runs on this core once everything committed before now is readable here, perhaps at
 * once; or with an error, within the request timeout. `read` is the caller's until then. */
void frontend_read(struct frontend *frontend, struct frontend_read *read,
                   void (*go)(struct frontend_read *read, int error));

/* The same for a call, whose request must have been kept. */
void frontend_read_for(struct rpc_call *call, void (*go)(struct rpc_call *call, int error));

/* The call is answered when the request, validated, was applied. Completes the call. */
void frontend_propose(struct rpc_call *call, enum request_kind kind, struct bytes body);

/* Proposes an alarm for this member; at most one such request is in flight per connection core. */
void frontend_raise_alarm(struct frontend *frontend, enum alarm_kind kind);

/* The header for a reply now. A reply is measured and encoded with one and the same copy: the term
 * may change at any moment, and its size with it. */
struct kv_header frontend_header(const struct frontend *frontend);

/* Answers a finished proposal's call; in kv_service.c, by kind. */
void frontend_answer(struct rpc_call *call, struct proposal *proposal);

/* ERR_NO_LEADER when the client asked for a leader and there is none, and the like. A learner takes
 * only what it can answer by itself: frontend_admit_local(). */
must_check int frontend_admit(struct rpc_call *call);
must_check int frontend_admit_local(struct rpc_call *call);

#endif
