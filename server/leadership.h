/*
 * leadership.h - handing leadership over: asked for by an operator, or before a leader stops.
 *
 * Story     Consensus brings the target up to date and tells it to campaign at once; meanwhile
 *           requests wait in their queues (server/forward.h), and go to the new leader after.
 * Owner     The raft core; call in a fiber of it.
 * Errors    ERR_NOT_LEADER, ERR_BAD_TRANSFEREE, ERR_TRANSFER_TIMEOUT; what raft_transfer() answers
 *           (ERR_FULL: its messages were not taken yet).
 * Source    Raft dissertation 3.10; docs/internals/raft.md.
 */
#ifndef SERVER_LEADERSHIP_H
#define SERVER_LEADERSHIP_H

#include "core/base.h"

struct node;
struct raft;
struct raft_id_set;
struct raft_peer;

/* At a leader: the other voter that answered within an election timeout and has the most of the
 * log; none `but` these (may be NULL). NULL: there is none. What its tables are like is not known
 * here: one whose tables are behind does not campaign when it is told to (server/table_watch.h). */
const struct raft_peer *leadership_heir(const struct raft *raft, const struct raft_id_set *but);

/* Fiber. Returns when the target leads, as far as this member knows. */
must_check int leadership_move(struct node *node, uint64_t target);

/* Fiber, before a stop: to the heir, or the next one when it does not take over soon. Bounded. */
void leadership_drain(struct node *node);

#endif
