/*
 * cluster.h - a group of consensus cores in one process, with their disks, lanes and network.
 *
 * Story     Each node has a durable part (hard state, log, snapshot, applied state), two lanes of
 *           work that its core issued, and the core itself. One queue holds all messages between
 *           nodes. Nothing happens by itself: the caller chooses every step, so that a
 *           transcript or a seed decides the schedule. Every applied entry is compared over all
 *           nodes, and every leader with its term: a violation stops the process.
 * Owner     The caller owns struct cluster; nodes, messages and payloads belong to it and are freed
 *           by cluster_deinit().
 * Threads   One.
 * Units     Node ids count from 1. CLUSTER_TICK_NS is one tick of the transcripts.
 * Limits    CLUSTER_NODES_MAX nodes, indices below CLUSTER_INDEX_MAX.
 */
#ifndef RAFT_REPL_CLUSTER_H
#define RAFT_REPL_CLUSTER_H

#include "consensus/config_change.h"
#include "consensus/raft.h"

#include <stdio.h>

#define CLUSTER_NODES_MAX  16
#define CLUSTER_INDEX_MAX  65536
#define CLUSTER_TERM_MAX   65536
#define CLUSTER_ROUNDS_MAX 10000
#define CLUSTER_TICK_NS    NS_PER_MS

/* A message with what it points at. */
struct cluster_message {
    struct cluster_message *next;
    struct raft_message message;
    struct raft_snapshot snapshot;
    struct entry *entries;
};

struct message_list {
    struct cluster_message *first, **last_next;
};

struct append_work {
    struct append_work *next;
    struct raft_append append;
    struct hard_state hard_state;
    bool install;
    struct raft_snapshot snapshot;
    uint32_t entry_count;
    struct entry *entries;
    struct message_list after; /* to send when it is durable */
};

struct apply_work {
    struct apply_work *next;
    uint64_t first, last;
};

/* Survives a crash. */
struct node_disk {
    struct hard_state hard_state;
    uint64_t compacted_index;
    uint64_t compacted_term;
    uint64_t last_index;
    struct entry *entries;  /* by index */
    uint64_t applied_index; /* of the state machine on disk, with its configuration */
    uint64_t damaged_index; /* see struct raft_start */
    struct raft_config applied_config;
};

struct node {
    struct cluster *cluster;
    uint64_t id;
    bool up;
    bool async_storage;
    struct raft_options options;
    struct raft raft;
    void *memory;
    struct node_disk disk;
    struct append_work *append_first, **append_last;
    struct apply_work *apply_first, **apply_last;
    uint64_t applied_index; /* volatile: what the state machine in memory contains */
    struct raft_config applied_config;
    struct raft_read reads[256];
    uint32_t read_count;
    int64_t payloads_held; /* given to the core and not released */
    uint32_t incarnation;
};

/* What the group agreed on at an index. */
struct cluster_applied {
    uint64_t term;
    uint64_t hash; /* of type and payload; 0 = nothing applied yet */
};

struct cluster {
    struct node *nodes[CLUSTER_NODES_MAX];
    uint32_t node_count;
    struct message_list network;
    uint32_t network_count;
    struct cluster_applied *applied; /* by index */
    uint64_t applied_last;
    uint64_t *leader_of_term;
    struct cluster_chunk *chunks; /* payload memory */
    FILE *trace;                  /* NULL = silent */
};

void cluster_init(struct cluster *cluster);
void cluster_deinit(struct cluster *cluster);

/* Options of transcripts: three ticks election timeout, one tick heartbeat, reference behaviour. */
void cluster_options(struct raft_options *options);

/* A new node, id = count + 1. `snapshot` with index 0 = empty log; its configuration counts. */
struct node *cluster_add(struct cluster *cluster, const struct raft_options *options,
                         const struct raft_snapshot *snapshot, bool async_storage);
struct node *cluster_node(struct cluster *cluster, uint64_t id);

uint8_t *cluster_copy(struct cluster *cluster, const void *bytes, size_t size);

/* Drains the core into lanes and network. True when there was anything. */
bool node_ready(struct node *node);
/* Completes the oldest work of a lane. False when there is none. */
bool node_append(struct node *node);
bool node_apply(struct node *node);
int node_propose(struct node *node, enum entry_type type, const void *payload, size_t size);
int node_propose_change(struct node *node, const struct raft_config_change *change);
void node_tick(struct node *node, uint64_t ns);
/* Puts the state machine on disk as it is. */
void node_flush(struct node *node);
void node_compact(struct node *node, uint64_t index);
/* Everything volatile goes, work in the append lane beyond the first `kept` pieces as well. */
void node_crash(struct node *node, uint32_t kept);
int node_restart(struct node *node);

/* Delivers (or drops) messages to `to` that are under way now. kind 0 = all. */
uint32_t cluster_deliver(struct cluster *cluster, uint64_t to, int kind, bool drop);
void cluster_network_push(struct cluster *cluster, struct cluster_message *message);
/* Takes the at-th message out of the network. */
struct cluster_message *cluster_network_take(struct cluster *cluster, uint32_t at);
struct cluster_message *cluster_message_copy(struct cluster *cluster,
                                             const struct raft_message *message);
void cluster_message_free(struct cluster_message *message);
void cluster_message_step(struct cluster *cluster, struct cluster_message *message);

/* ready, deliver, append, apply over `ids` in order until nothing moves. Rounds done; it gives up
 * after CLUSTER_ROUNDS_MAX. */
uint32_t cluster_stabilize(struct cluster *cluster, const uint64_t *ids, uint32_t id_count);

/* Log matching over all pairs of nodes and leader completeness. */
void cluster_check(struct cluster *cluster);

void cluster_print_message(FILE *out, const struct cluster_message *message);
void cluster_print_entry(FILE *out, const struct entry *entry);
void cluster_print_config(FILE *out, const struct raft_config *config);

#endif
