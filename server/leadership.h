/*
 * leadership.h - handing leadership over: asked for by an operator, or before a leader stops.
 *
 * Story     Consensus brings the target up to date and tells it to campaign at once; meanwhile
 *           requests wait in their queues (server/forward.h), and go to the new leader after.
 * Owner     The raft core; call in a fiber of it.
 * Errors    ERR_NOT_LEADER, ERR_BAD_TRANSFEREE, ERR_TRANSFER_TIMEOUT.
 * Source    facts on Raft 1.9, 5.
 */
#ifndef SERVER_LEADERSHIP_H
#define SERVER_LEADERSHIP_H

#include "core/base.h"

struct node;

/* Fiber. Returns when the target leads, as far as this member knows. */
must_check int leadership_move(struct node *node, uint64_t target);

/* Fiber, before a stop: to the voter that has the most, if there is one. Bounded. */
void leadership_drain(struct node *node);

#endif
