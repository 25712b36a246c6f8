/*
 * node_private.h - what the roles of one node share. Included by server/ only.
 *
 * Owner     Each role struct belongs to the core that hosts the role; `struct node_shared` has one
 *           writer a field, named beside it, and any reader.
 */
#ifndef SERVER_NODE_PRIVATE_H
#define SERVER_NODE_PRIVATE_H

#include <stdatomic.h>

#include "core/metrics.h"
#include "server/alarm.h"
#include "server/identity.h"
#include "server/membership.h"
#include "server/node.h"
#include "server/once.h"

/* The API level that clients are told; /version and Status report it. */
#define NODE_ETCD_VERSION         "3.6.5"
#define NODE_ETCD_CLUSTER_VERSION "3.6.0"

struct raft_driver;
struct member_requests;
struct peer_role;
struct log_role;
struct repair;
struct frontend;
struct listener;
struct lsm;
struct lsm_reader;
struct mvcc;
struct mvcc_shared;

struct role_map {
    uint32_t raft, log, compaction;
    uint32_t connections_first, connections_count; /* consecutive cores */
};

/* Written by the raft core.
 *
 * Local reads, while `reads_local` is set (raft_reads_are_local()):
 * L1  no other node has any entry, and this one acknowledges a write only after the state that
 *     contains it was published (mvcc_shared_publish(), then MESSAGE_PROPOSED). So a read that
 *     loads the published state after it arrived sees every write acknowledged before: it is
 *     linearizable without a question to the raft core.
 * L2  it is cleared before any message leaves for another member (the driver publishes it ahead of
 *     what raft_ready() shows). A write that another member acknowledged therefore happened after
 *     the clearing, and so did a read that its client sent next. */
struct node_shared {
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t term;
    _Atomic uint64_t leader;     /* member id, 0 = none */
    _Atomic uint64_t last_index; /* of the log */
    _Atomic uint64_t commit_index;
    _Atomic bool reads_local;         /* L1, L2 */
    _Atomic uint64_t alarms;          /* bit per enum alarm_kind: raised by any member */
    _Atomic uint32_t tables_pressure; /* lsm_pressure() */
    _Atomic bool tables_failing;      /* lsm_failure() */
    _Atomic uint64_t leader_changes;
    _Atomic bool is_learner;
    _Atomic bool log_space_low; /* the log core's: no further segment can be prepared */
    _Atomic uint64_t proposals_applied, proposals_failed;
    _Atomic int64_t proposals_pending;
};

struct node {
    const struct config *config;
    struct role_map map;
    uint32_t core_count;
    uint64_t memory_limit;
    struct identity identity;
    struct io_file lock;
    struct metrics *metrics;
    struct mvcc_shared *mvcc_shared; /* any core reads */
    struct lsm *lsm;                 /* raft core's, handles shared by readers */
    struct core *cores[CONFIG_CORES_MAX];

    struct raft_driver *raft;
    struct peer_role *peers;                 /* raft core's */
    struct membership membership;            /* raft core's */
    struct member_requests *member_requests; /* raft core's */
    bool publishing;                         /* raft core's: a fiber tells the others who we are */
    struct once once;                        /* raft core's, the apply loop's */
    struct log_role *log;
    struct repair *repair;          /* raft core's */
    struct lsm_reader *raft_reader; /* raft core's */
    struct mvcc *mvcc;              /* raft core's */
    struct alarm_set alarms;        /* raft core's */
    struct frontend *frontends[CONFIG_CORES_MAX];

    struct listener *listeners[2 * CONFIG_URLS_MAX]; /* raft core's */
    uint32_t listener_count;
    uint64_t connections_given[CONFIG_CORES_MAX]; /* raft core's: sockets sent to each core */
    uint64_t connections_refused;                 /* raft core's: no connection core has room */
    uint32_t connections_max;                     /* of each connection core; constant */

    struct node_shared shared;
    _Atomic uint32_t state; /* enum node_state */
    _Atomic bool stop_requested;
    _Atomic bool stop_for_good; /* asked for, from outside or by the others */
    _Atomic bool restart_wanted;
    struct timer stop_poll; /* on the raft core */
    char failure[1024];
    int64_t started_wall_ns;
};

/* How long a request may go without an answer: etcd's rule. */
static inline uint64_t node_request_timeout_ns(const struct node *node)
{
    return 5 * NS_PER_S + 2 * node->config->election_timeout_ms * NS_PER_MS;
}

/* Listens on a configured address; what goes wrong is in node->failure too. */
must_check int node_listen(struct node *node, struct core *core, const struct config_url *url,
                           struct io_listener *io);

void role_map_compute(struct role_map *map, uint32_t core_count);

#endif
