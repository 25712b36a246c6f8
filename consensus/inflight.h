/*
 * inflight.h - the window of append messages sent to a peer and not yet acknowledged.
 *
 * Story     A ring of (last index, bytes). Full when it holds inflight_max messages or when their
 *           bytes reached bytes_max; the byte limit is soft: the message that crosses it
 *           goes.
 *           An acknowledgement of index i frees every message whose last index is <= i.
 * Owner     struct raft_peer; the slots are memory of raft_init().
 * Threads   The raft core.
 */
#ifndef CONSENSUS_INFLIGHT_H
#define CONSENSUS_INFLIGHT_H

#include "core/base.h"

struct raft_inflight_slot {
    uint64_t last_index;
    uint64_t bytes;
};

struct raft_inflights {
    struct raft_inflight_slot *slots;
    uint32_t start;
    uint32_t count;
    uint32_t count_max;
    uint64_t bytes;
    uint64_t bytes_max; /* 0 = no limit */
};

void inflights_init(struct raft_inflights *inflights, struct raft_inflight_slot *slots,
                    uint32_t count_max, uint64_t bytes_max);
void inflights_reset(struct raft_inflights *inflights);
bool inflights_full(const struct raft_inflights *inflights);
void inflights_add(struct raft_inflights *inflights, uint64_t last_index, uint64_t bytes);
void inflights_free_to(struct raft_inflights *inflights, uint64_t index);

#endif
