/*
 * forward.h - requests on their way to whoever leads: from this member's clients to another leader,
 * or from other members to this one; and changes of members, which wait for each other.
 *
 * Story     A member that does not lead sends the requests of its clients to the leader, in order,
 *           and learns of their fate when it applies their entries. When the leader, its term or
 *           the connection to it changes, everything unfinished is sent again (server/pending.h);
 *           server/once.h keeps that harmless. A leader that is just not able to take a request
 *           (window or tables full, leadership being handed over, another change of members under
 *           way) keeps it; when it stops leading it drops what others sent, who will send it again.
 * Owner     The raft core.
 * Limits    FORWARD_WINDOW_BYTES unfinished from each member: it keeps to that itself, the leader
 *           does not count.
 */
#ifndef SERVER_FORWARD_H
#define SERVER_FORWARD_H

#include "net/peer_reader.h"
#include "server/pending.h"

#define FORWARD_WINDOW_BYTES ((uint64_t)8 * 1024 * 1024)

struct forward;
struct raft_driver;

must_check struct forward *forward_create(struct raft_driver *driver); /* NULL: out of memory */
void forward_destroy(struct forward *forward);

/* A frame of kind PEER_MESSAGE_FORWARD. Negative: no correct member sends this. */
must_check int forward_received(struct forward *forward, const struct peer_input *input);

/* A frame of kind PEER_MESSAGE_REFUSE: the leader will not propose one of ours. */
must_check int forward_refused(struct forward *forward, const struct peer_input *input);

/* End of a round: proposes or sends what waits. */
void forward_turn(struct forward *forward);

/* Leader, term or the connection to the leader changed, or our own log was cut. */
void forward_restart(struct forward *forward);

#endif
