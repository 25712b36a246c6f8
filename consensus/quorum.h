/*
 * quorum.h - majority arithmetic, for one voter set or two that must agree (joint consensus).
 *
 * Story     An empty set agrees with everything: it commits UINT64_MAX and wins every vote. That
 *           makes a joint phase with an empty outgoing half the same as no joint phase.
 * Threads   Any; no state.
 * Limits    Up to RAFT_MEMBERS_MAX values per set.
 * Source    docs/internals/raft.md; Ongaro 2014, 3.6 and 4.3.
 */
#ifndef CONSENSUS_QUORUM_H
#define CONSENSUS_QUORUM_H

#include "core/base.h"

enum quorum_answer { QUORUM_MISSING = 0, QUORUM_YES = 1, QUORUM_NO = 2 };
enum quorum_result { QUORUM_PENDING = 0, QUORUM_LOST = 1, QUORUM_WON = 2 };

/* The largest value that a majority has reached. A voter not heard from counts with 0. */
uint64_t quorum_commit(const uint64_t *values, uint32_t count);

uint64_t quorum_commit_joint(const uint64_t *incoming, uint32_t incoming_count,
                             const uint64_t *outgoing, uint32_t outgoing_count);

enum quorum_result quorum_vote(const enum quorum_answer *answers, uint32_t count);

/* Two halves: any lost half loses, both must win. */
enum quorum_result quorum_vote_joint(enum quorum_result incoming, enum quorum_result outgoing);

#endif
