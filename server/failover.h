/*
 * failover.h - noticing trouble before an election timeout has passed.
 *
 * Story     A leader whose process dies takes its connections with it: the kernel closes them. A
 *           follower that sees the last connection from and to its leader end stops believing in
 *           it at once, and campaigns after a short random wait; pre-votes and the quorum decide,
 *           so it is safe when the network lied. A leader whose log write hangs steps down, because
 *           its heartbeats would go on although nothing can be committed. A member that was removed
 *           ends by itself, a moment after it learned of it, so that it can still tell others.
 * Owner     The raft core.
 * Source    facts on Raft 2 (rows 15, 16), 5.
 */
#ifndef SERVER_FAILOVER_H
#define SERVER_FAILOVER_H

#include "core/core.h"

struct node;

struct failover {
    struct node *node;
    struct core *core;
    struct timer campaign, farewell;
    uint64_t deposed;        /* the leader that the campaign is about */
    uint64_t deposed_term;   /* its term: who voted for another since then does not campaign */
    uint64_t leaders_lost;   /* times a leader's connections all ended */
    uint64_t watchdog_trips; /* times our own disk made us step down */
};

void failover_init(struct failover *failover, struct node *node, struct core *core);
void failover_stop(struct failover *failover);

/* A connection from or to member `id` ended. */
void failover_connection_lost(struct failover *failover, uint64_t id);

/* `oldest_ns`: when the oldest append that is not durable was issued, 0: none. Now and then. */
void failover_watch_disk(struct failover *failover, uint64_t oldest_ns);

/* This member is not one any more. */
void failover_removed(struct failover *failover);

#endif
