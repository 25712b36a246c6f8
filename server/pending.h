/*
 * pending.h - requests of this member's own clients that are not finished, in order of each stream.
 *
 * Story     A proposal is here from the moment it reaches the raft core until it goes home. It
 *           waits in the queue to be proposed (or forwarded to the leader), then for its entry to
 *           be applied. The apply loop finds it again by stream and sequence, whoever put the
 *           entry into the log. When leadership moves, everything that is not in this member's own
 *           log is queued again, in order; storage of what was executed (server/once.h) makes the
 *           second copy harmless.
 * Invariants
 *   Q1  within a stream, sequences grow from the oldest to the newest.
 *   Q2  a proposal goes home exactly once: finished and not queued.
 * Owner     The raft core.
 * Limits    PENDING_STREAMS: one a core, one for changes of members.
 */
#ifndef SERVER_PENDING_H
#define SERVER_PENDING_H

#include "core/core.h"
#include "server/config.h"
#include "server/proposal.h"

#define PENDING_STREAMS (CONFIG_CORES_MAX + 1)

struct pending {
    struct core *core;
    struct {
        struct proposal *oldest, *newest;
    } streams[PENDING_STREAMS];
    struct queue queue;       /* to be proposed or forwarded */
    uint32_t count;           /* unfinished, all streams */
    uint64_t forwarded_bytes; /* of what was sent to the leader and is not finished */
    uint64_t failed;          /* for metrics */
};

void pending_init(struct pending *pending, struct core *core);

/* A new proposal: it is queued. */
void pending_add(struct pending *pending, struct proposal *proposal);

/* The proposal that waits for this request to be applied, or NULL. Older ones of its stream were
 * overtaken and can never be executed: they fail. */
struct proposal *pending_match(struct pending *pending, uint16_t stream, uint64_t sequence);

/* The leader, which knows of `copies` copies, will not put the oldest request of the stream into
 * the log; nothing happens if that is another one by now. If more copies were sent, to earlier
 * leaders, one may be in a log all the same: then the error says that nobody knows. */
void pending_refuse(struct pending *pending, uint16_t stream, uint64_t sequence, uint32_t copies,
                    int error);

/* It has its result, or an error: home. */
void pending_finish(struct pending *pending, struct proposal *proposal, int error);

/* Queues everything that is not in our own log, in order. */
void pending_requeue(struct pending *pending);

/* Fails what waited beyond its deadline; it may still happen. */
void pending_expire(struct pending *pending, uint64_t now_ns);

/* The next one to propose; drops finished ones on the way. NULL: none. */
struct proposal *pending_peek(struct pending *pending);
void pending_pop(struct pending *pending, struct proposal *proposal);

/* Takes the next one off the queue, to wait elsewhere until pending_settle(): it still counts as
 * queued, and does not go home before. */
void pending_divert(struct pending *pending, struct proposal *proposal);
void pending_settle(struct pending *pending, struct proposal *proposal);

#endif
