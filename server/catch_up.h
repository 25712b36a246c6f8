/*
 * catch_up.h - appends for members that lag: entries that left memory are read from the log.
 *
 * Story     Consensus decides what to send (terms and sizes are always known, server/log_notes.h)
 *           and goes on; the message waits here while a fiber reads its entries on the log core.
 *           Later appends to the same member queue behind it, so that they arrive in order. What
 *           was decided in an earlier term is dropped: only the leader of its term may send it.
 * Owner     The raft core.
 * Errors    Entries that cannot be read: consensus is told that the member is unreachable, and
 *           starts over.
 * Limits    As many messages as consensus has in flight.
 */
#ifndef SERVER_CATCH_UP_H
#define SERVER_CATCH_UP_H

#include "consensus/message.h"

struct catch_up;
struct core;
struct peer_role;

struct catch_up *catch_up_create(struct peer_role *role, struct core *core);
void catch_up_destroy(struct catch_up *catch_up); /* fiber: waits for reads in progress */

/* Do appends to this member wait here? */
bool catch_up_is_busy(const struct catch_up *catch_up, uint64_t to);
void catch_up_queue(struct catch_up *catch_up, const struct raft_message *message);

#endif
