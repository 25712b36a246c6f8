/*
 * whole_raft.h - the checkers of check_raft.h attached to the consensus cores of whole nodes, and
 * the state machines compared entry by entry.
 *
 * Story     observe.h tells of every call; what a node's disk holds is read from the medium
 *           (whole_media.h). The rows that a state machine writes add up to a hash, in the order of
 *           entries and whatever the batches: equal applied index, equal hash, on all nodes, across
 *           restarts and snapshots.
 * Owner     struct whole.
 * Threads   One.
 */
#ifndef TESTS_SIM_WHOLE_RAFT_H
#define TESTS_SIM_WHOLE_RAFT_H

#include "core/base.h"

struct whole;
struct whole_node;

void whole_raft_start(struct whole *whole); /* before the first node boots */
void whole_raft_end(struct whole *whole);
void whole_raft_node_down(struct whole_node *node);

#endif
