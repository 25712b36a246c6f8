/*
 * config.h - who takes part: voter sets, learners, and the changes between configurations.
 *
 * Story     A configuration is four sorted sets of node ids. `outgoing` is non-empty only while two
 *           majorities rule together (joint consensus). A change is proposed as an entry of type
 *           ENTRY_CONFIG_CHANGE whose payload is encoded here, and takes effect when it is applied.
 * Owner     Plain values; the caller owns them. A decoded context is borrowed from the payload.
 * Threads   Any; no shared state.
 * Units     Ids are non-zero and never used again after a removal; RAFT_ID_MAX bounds them.
 * Errors    ERR_CONFIG: the change is not legal here. ERR_MALFORMED: bytes that do not decode.
 *           ERR_LIMIT: more members than RAFT_MEMBERS_MAX.
 * Limits    RAFT_MEMBERS_MAX members over all sets together.
 * Source    docs/internals/raft.md, docs/decisions/joint-consensus.md and
 *           apply-time-configuration.md; Ongaro 2014, chapter 4.
 */
#ifndef CONSENSUS_CONFIG_H
#define CONSENSUS_CONFIG_H

#include "core/base.h"

#define RAFT_MEMBERS_MAX 16
#define RAFT_ID_MAX      (UINT64_MAX - 2)

/* Sorted ascending, no duplicates, no zero. */
struct raft_id_set {
    uint32_t count;
    uint64_t ids[RAFT_MEMBERS_MAX];
};

/* C1  learners is disjoint from voters and from outgoing.
 * C2  learners_next is a subset of outgoing: a demoted voter waits there until the joint phase
 *     ends.
 * C3  auto_leave and learners_next are set only while outgoing is non-empty.
 * C4  voters is non-empty, except in the configuration of a node that was never told any. */
struct raft_config {
    struct raft_id_set voters;        /* the incoming majority while joint */
    struct raft_id_set outgoing;      /* the other majority; empty = not joint */
    struct raft_id_set learners;      /* replicated to, never counted */
    struct raft_id_set learners_next; /* become learners when the joint phase ends */
    bool auto_leave;                  /* the leader ends the joint phase by itself */
};

enum raft_change_kind {
    RAFT_CHANGE_ADD_VOTER = 0,   /* also promotes a learner */
    RAFT_CHANGE_ADD_LEARNER = 1, /* also demotes a voter */
    RAFT_CHANGE_REMOVE = 2,
    RAFT_CHANGE_UPDATE = 3, /* the context changed; no effect on quorums */
};

struct raft_change {
    enum raft_change_kind kind;
    uint64_t id; /* 0 = no-op */
};

enum raft_transition {
    RAFT_TRANSITION_AUTO = 0,     /* simple for one change, joint with auto-leave for more */
    RAFT_TRANSITION_IMPLICIT = 1, /* joint with auto-leave */
    RAFT_TRANSITION_EXPLICIT = 2, /* joint until an empty change is proposed */
};

/* No changes with RAFT_TRANSITION_AUTO = leave the joint phase; its encoding may be empty. */
struct raft_config_change {
    enum raft_transition transition;
    uint32_t count;
    struct raft_change changes[RAFT_MEMBERS_MAX];
    struct bytes context; /* opaque to consensus: names, addresses */
};

/* Bytes that raft_config_change_encode() writes for `change`. */
size_t raft_config_change_bytes(const struct raft_config_change *change);

/* `to` has room for raft_config_change_bytes(). */
void raft_config_change_encode(const struct raft_config_change *change, uint8_t *to);

must_check int raft_config_change_decode(struct bytes payload, struct raft_config_change *change);

/* Any of the four sets of a configuration, encoded for snapshots and the state machine. */
#define RAFT_CONFIG_BYTES_MAX (8 + 4 * (4 + 8 * RAFT_MEMBERS_MAX))
size_t raft_config_encode(const struct raft_config *config, uint8_t to[RAFT_CONFIG_BYTES_MAX]);
must_check int raft_config_decode(struct bytes from, struct raft_config *config);

bool raft_id_set_has(const struct raft_id_set *set, uint64_t id);

/* False when the set is full. Adding a present id does nothing. */
must_check bool raft_id_set_add(struct raft_id_set *set, uint64_t id);
void raft_id_set_remove(struct raft_id_set *set, uint64_t id);

/* All members, in id order. */
struct raft_id_set raft_config_members(const struct raft_config *config);
bool raft_config_equal(const struct raft_config *a, const struct raft_config *b);

/* C1 to C4 and the bounds; ERR_CONFIG when one does not hold. For values that came from outside. */
must_check int raft_config_validate(const struct raft_config *config);

/* True when `change` is the empty one that ends a joint phase. */
bool raft_config_change_leaves(const struct raft_config_change *change);

#endif
