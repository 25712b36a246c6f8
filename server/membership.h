/*
 * membership.h - the members as the state machine has them, and the rules by which they change.
 *
 * Story     Adding, removing and promoting are configuration changes: entries of their own type
 *           whose context is a request (storage/log/request.h), so that quorum and member list
 *           change at the same index. New addresses and what a member tells of itself at its start
 *           are ordinary requests. What it tells carries the life of its data directory
 *           (server/admission.h); the first life that is told stays. A removed id is remembered and
 *           never comes back. Each change is checked twice with the same code: before it is
 *           proposed, for a quick answer, and when it is applied, where it decides, on every member
 *           alike.
 * Invariants
 *   M1  the ids in `set` are exactly those of `config`'s voters, outgoing and learners.
 *   M2  no id is both in `set` and in `removed`.
 *   M3  config is raft->config as of config_index.
 * Owner     The raft core; changed by the apply loop only.
 * Durable   In the meta table, in the batch of the entry that makes the change.
 * Errors    etcd's: ERR_MEMBER_EXISTS (also of another life), ERR_PEER_URL_EXISTS,
 *           ERR_MEMBER_NOT_FOUND (also of an id that was removed), ERR_NOT_A_LEARNER. All mean:
 *           refused, and nothing changed. So do ERR_MALFORMED, ERR_LIMIT and ERR_CONFIG; others are
 *           the storage's.
 * Limits    MEMBERS_MAX members; eight bytes for each that was ever removed.
 * Source    server/etcdserver/api/membership of etcd; docs/decisions/joint-consensus.md.
 */
#ifndef SERVER_MEMBERSHIP_H
#define SERVER_MEMBERSHIP_H

#include "core/entry.h"
#include "server/members.h"
#include "storage/log/request.h"

struct mvcc;
struct raft;

struct membership {
    struct member_set set;
    struct raft_config config;
    uint64_t config_index;
    uint64_t *removed; /* owned, unsorted */
    uint32_t removed_count, removed_max;
    bool stored; /* the meta table has it; false until the first batch after the cluster began */
    uint64_t version; /* grows with each change */
};

/* Fiber, after the state machine opened. Before the first entry: `first`. */
must_check int membership_load(struct membership *membership, struct mvcc *mvcc,
                               const struct member_set *first);
void membership_deinit(struct membership *membership);

/* In the first batch that is ever applied: what was implied becomes stored. */
must_check int membership_store_first(struct membership *membership, struct mvcc *mvcc);

/* May `kind` of REQUEST_MEMBER_* with `member` happen now? 0 or etcd's error. */
must_check int membership_check(const struct membership *membership, enum request_kind kind,
                                const struct member *member);

/* Apply loop. A configuration change; an empty payload ends a joint phase. */
must_check int membership_apply_config(struct membership *membership, struct mvcc *mvcc,
                                       struct raft *raft, const struct entry *entry);

/* What that would do to the members, on a copy that belongs to no state machine: for a start that
 * must know who they are before its log is applied. */
must_check int membership_copy(struct membership *to, const struct membership *from);
must_check int membership_foresee(struct membership *ahead, const struct entry *entry);

/* Apply loop. REQUEST_MEMBER_UPDATE or REQUEST_MEMBER_PUBLISH. */
must_check int membership_apply(struct membership *membership, struct mvcc *mvcc,
                                const struct request *request);

bool membership_is_removed(const struct membership *membership, uint64_t id);

/* The request inside a configuration change's context. */
must_check int membership_decode_change(const struct entry *entry,
                                        struct raft_config_change *change, struct request *request);

#endif
