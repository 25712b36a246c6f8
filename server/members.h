/*
 * members.h - who the members of a cluster are: ids, names, addresses. Plain values, their codec.
 *
 * Story     Ids are derived as etcd derives them, from peer addresses and the cluster's token, so
 *           that every member computes the same ones from the same flags. A member that has never
 *           started has no name yet.
 * Owner     Plain values; the caller owns them.
 * Threads   Any.
 * Errors    ERR_CONFIG with one line in `reason`; ERR_MALFORMED for bytes that do not decode;
 *           ERR_LIMIT past MEMBERS_MAX.
 * Limits    MEMBERS_MAX members of CONFIG_URLS_MAX addresses.
 * Source    server/etcdserver/api/membership of etcd; docs/operations/cluster.md.
 */
#ifndef SERVER_MEMBERS_H
#define SERVER_MEMBERS_H

#include "consensus/config.h"
#include "net/peer.h"
#include "server/config.h"

#define MEMBERS_MAX       RAFT_MEMBERS_MAX
#define MEMBER_BYTES_MAX  8192 /* of one encoded member */
#define MEMBER_NAME_BYTES CONFIG_TEXT_BYTES

struct member {
    uint64_t id;
    uint64_t life; /* of the data directory that it told its name from; 0: not told yet */
    bool learner;
    char name[MEMBER_NAME_BYTES]; /* empty: never started */
    struct config_urls peer, client;
};

/* Sorted by id. */
struct member_set {
    uint32_t count;
    struct member members[MEMBERS_MAX];
};

/* `added_s`: when it was added to a running cluster, 0 for a first member. */
uint64_t member_id_derive(const struct config_urls *peer, const char *token, int64_t added_s);
uint64_t cluster_id_derive(const struct member_set *set);

/* --initial-cluster, or what --name and --initial-advertise-peer-urls make when it is empty. */
must_check int members_from_config(const struct config *config, struct member_set *set,
                                   char *reason, size_t reason_bytes);

struct member *member_find(const struct member_set *set, uint64_t id);
/* The member that has exactly these peer addresses, or any of them. NULL: none. */
struct member *member_find_urls(const struct member_set *set, const struct config_urls *peer);
struct member *member_find_any_url(const struct member_set *set, const struct config_urls *peer);
must_check int member_insert(struct member_set *set, const struct member *member);
void member_remove(struct member_set *set, uint64_t id);

/* The voters and learners that the set describes. */
void members_config(const struct member_set *set, struct raft_config *config);

/* For net/peer: up to PEER_ADDRESSES_MAX. */
uint32_t member_addresses(const struct config_urls *peer,
                          struct peer_address addresses[PEER_ADDRESSES_MAX]);

/* As etcdserverpb.Member, then raftpb.MemberLife. */
size_t member_encode(const struct member *member, uint8_t to[MEMBER_BYTES_MAX]);
must_check int member_decode(struct bytes from, struct member *member);

/* As raftpb.FirstMembers; lives are not part of it. */
#define MEMBERS_BYTES_MAX (MEMBERS_MAX * (MEMBER_BYTES_MAX + 8))
size_t members_encode(const struct member_set *set, uint8_t *to);
must_check int members_decode(struct bytes from, struct member_set *set);

/* Between the generated struct and ours, but for the life; `from` came from outside. */
struct Etcdserverpb__Member;
must_check int member_from_message(const struct Etcdserverpb__Member *from, struct member *member);
/* `texts` holds pointers for 2 * CONFIG_URLS_MAX addresses; everything is borrowed from `member`.
 */
void member_to_message(const struct member *member, struct Etcdserverpb__Member *to, char **texts);

#endif
