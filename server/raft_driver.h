/*
 * raft_driver.h - the raft core's part of a node: drives consensus, feeds the log, runs the apply
 * loop.
 *
 * Story     Proposals that arrive in a turn are proposed as one batch at its end, or sent to the
 *           leader (server/forward.h); what consensus wants persisted goes to the log core as one
 *           batch, what it wants sent to server/peer_role.h; what it wants applied is executed by
 *           one fiber, in order, against the state machine (server/apply.h). Reads that ask for an
 *           index in the same turn share one question to consensus.
 * Owner     The raft core.
 * Durable   A proposal comes home successful only after its entry is committed, which for a single
 *           voter means durable on this node's own disk.
 * Errors    A proposal without a leader waits; past its deadline it comes home with ERR_TIMEOUT,
 *           and may still happen.
 */
#ifndef SERVER_RAFT_DRIVER_H
#define SERVER_RAFT_DRIVER_H

#include "consensus/raft.h"
#include "core/core.h"
#include "core/fiber.h"
#include "core/histogram.h"
#include "core/timer.h"
#include "server/deferred.h"
#include "server/log_notes.h"
#include "server/log_retain.h"
#include "server/log_role.h"
#include "server/pending.h"
#include "server/read_waits.h"
#include "server/table_watch.h"

struct apply;
struct node;

struct raft_driver {
    struct node *node;
    struct core *core;
    struct raft raft;
    void *raft_memory;
    struct timer timer;
    struct pending pending; /* requests of our own clients */
    struct apply *apply;

    struct read_waits reads;
    uint64_t read_id;           /* of the newest question; above those of earlier starts */
    uint64_t reads_local_after; /* applied up to here, reads may be local; UINT64_MAX: never */
    uint64_t read_asked_ns;     /* when the newest question was put */

    struct log_batch *batches_free;
    struct log_batch *issued_oldest, *issued_newest; /* with the log core, in order */
    bool stopping;

    struct deferred deferred;
    struct log_notes notes;  /* of every entry in the log on disk */
    uint64_t released_index; /* the log core was told that it may drop entries up to here */
    struct log_unflushed unflushed;
    struct table_watch tables;

    struct histogram commit_ns; /* batch issued to durable, seen from here */
};

/* Fiber of the raft core. `start` as recovered; the state machine is open. */
must_check int raft_driver_start(struct node *node, struct core *core,
                                 const struct raft_start *start);
void raft_driver_stop(struct node *node);             /* fiber; returns when nothing is in flight */
void raft_driver_destroy(struct raft_driver *driver); /* stopped, its core gone; NULL: no-op */

/* Takes what consensus has to give: for callers whose raft_step() found no room. */
void raft_driver_drain(struct raft_driver *driver);

/* Tells consensus the time, once a turn: before anything that restarts one of its timers. */
void raft_driver_see_time(struct raft_driver *driver);

/* The log need not keep entries <= index: tables contain them. */
void raft_driver_release(struct raft_driver *driver, uint64_t index);

/* The apply loop executed everything up to `index`. */
void raft_driver_applied(struct raft_driver *driver, uint64_t index);

#endif
