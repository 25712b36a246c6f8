/*
 * failover.h - noticing trouble before an election timeout has passed.
 *
 * Story     A leader whose process dies takes its connections with it: the kernel closes them. A
 *           follower that sees the last connection from and to its leader end stops believing in
 *           it at once, and campaigns; pre-votes and the quorum decide, so it is safe when the
 *           network lied. All survivors notice within a millisecond or so. So that they do not
 *           split the votes each waits by its place among them, and longer from attempt to
 *           attempt, until somebody leads or the election timeout takes over. An attempt comes to
 *           nothing when a survivor has not noticed yet (it still protects the leader and does not
 *           answer), or has the longer log: its own turn is next. A round that is split, because
 *           two asked for the votes of one term, is repeated likewise, without waiting for the
 *           answer of the dead one.
 *
 *           A leader whose log write hangs hands over to a member whose disk has everything, or
 *           else steps down, because its heartbeats would go on although it commits nothing by
 *           itself. Time in which this process did not run, stopped from outside, is no hang.
 *
 *           A member that was removed ends by itself, a moment after it learned of it, so that it
 *           can still tell others.
 * Owner     The raft core.
 * Source    docs/internals/raft.md.
 */
#ifndef SERVER_FAILOVER_H
#define SERVER_FAILOVER_H

#include "core/core.h"

struct node;

struct failover {
    struct node *node;
    struct core *core;
    bool stopped;
    struct timer campaign, farewell;
    uint64_t deposed;      /* the leader that the campaign is about */
    uint64_t deposed_term; /* its term */
    uint64_t give_up_ns;   /* from here on the election timeouts rule */
    uint32_t attempts;
    uint64_t leaders_lost; /* times a leader's connections all ended */

    uint64_t watched_ns;     /* when the log write under suspicion was issued; 0: none */
    uint64_t watch_seen_ns;  /* when it was looked at last */
    uint64_t watch_hung_ns;  /* it hangs for so long, as far as this process ran meanwhile */
    bool watch_handing_over; /* its leadership was offered to another already */
    uint64_t watchdog_trips; /* times our own disk made us step down */
    uint64_t watchdog_moves; /* times it made us hand over */
};

void failover_init(struct failover *failover, struct node *node, struct core *core);

/* Nothing begins any more: connections end after it too, and their owner goes with them. */
void failover_stop(struct failover *failover);

/* A connection from or to member `id` ended. */
void failover_connection_lost(struct failover *failover, uint64_t id);

/* `oldest_ns`: when the oldest append that is not durable was issued, 0: none. To be called every
 * FAILOVER_WATCH_NS or oftener: a longer pause counts as no more. */
#define FAILOVER_WATCH_NS (200 * NS_PER_MS)
void failover_watch_disk(struct failover *failover, uint64_t now_ns, uint64_t oldest_ns);

/* This member is not one any more. */
void failover_removed(struct failover *failover);

#endif
