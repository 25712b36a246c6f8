#include "consensus/quorum.h"

#include "consensus/config.h"
#include "core/invariant.h"

uint64_t quorum_commit(const uint64_t *values, uint32_t count)
{
    invariant(count <= RAFT_MEMBERS_MAX);
    if (count == 0)
        return UINT64_MAX;
    uint64_t sorted[RAFT_MEMBERS_MAX];
    for (uint32_t i = 0; i < count; i++) { /* insertion sort: at most sixteen, usually three */
        uint32_t at = i;
        while (at > 0 && sorted[at - 1] > values[i]) {
            sorted[at] = sorted[at - 1];
            at--;
        }
        sorted[at] = values[i];
    }
    uint32_t majority = count / 2 + 1;
    invariant(majority <= count);
    return sorted[count - majority];
}

uint64_t quorum_commit_joint(const uint64_t *incoming, uint32_t incoming_count,
                             const uint64_t *outgoing, uint32_t outgoing_count)
{
    return u64_min(quorum_commit(incoming, incoming_count),
                   quorum_commit(outgoing, outgoing_count));
}

enum quorum_result quorum_vote(const enum quorum_answer *answers, uint32_t count)
{
    invariant(count <= RAFT_MEMBERS_MAX);
    if (count == 0)
        return QUORUM_WON;
    uint32_t yes = 0;
    uint32_t missing = 0;
    for (uint32_t i = 0; i < count; i++) {
        yes += answers[i] == QUORUM_YES;
        missing += answers[i] == QUORUM_MISSING;
    }
    uint32_t majority = count / 2 + 1;
    if (yes >= majority)
        return QUORUM_WON;
    if (yes + missing < majority)
        return QUORUM_LOST;
    return QUORUM_PENDING;
}

enum quorum_result quorum_vote_joint(enum quorum_result incoming, enum quorum_result outgoing)
{
    if (incoming == outgoing)
        return incoming;
    if (incoming == QUORUM_LOST || outgoing == QUORUM_LOST)
        return QUORUM_LOST;
    invariant(incoming == QUORUM_PENDING || outgoing == QUORUM_PENDING);
    return QUORUM_PENDING;
}
