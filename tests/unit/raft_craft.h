/*
 * raft_craft.h - nodes made to measure for the tests of consensus: logs, roles, answers, cut links.
 *
 * Story     A node gets its log and hard state as if it had just started, then single messages, and
 *           its answers are compared. Or a small group settles after each input: every message that
 *           no cut link stops is delivered at once. A log is written as the terms of its entries:
 *           "122" holds terms 1, 2, 2 at indices 1 to 3. Rows and pitfalls in the names of tests
 *           are those of docs/internals/raft-scenarios.md.
 * Owner     The caller's struct cluster owns nodes and messages.
 * Threads   One.
 * Units     CRAFT_TICKS ticks are an election timeout, one tick a heartbeat.
 */
#ifndef TESTS_UNIT_RAFT_CRAFT_H
#define TESTS_UNIT_RAFT_CRAFT_H

#include "consensus/raft_internal.h"
#include "tools/raft-repl/cluster.h"

#define CRAFT_TICKS 10

struct raft_options craft_options(void);

/* The configuration {1, .., count} at index 0. */
struct raft_snapshot craft_voters(uint32_t count);

/* Restarts the node with that log and hard state. */
void craft_log(struct node *node, const char *log, uint64_t term, uint64_t vote, uint64_t commit);

/* A new node of a group of `voters`, with synchronous storage. */
struct node *craft_node(struct cluster *cluster, uint32_t voters, const char *log, uint64_t term,
                        uint64_t vote);

/* Drains the node: what it has to say is then in the network. */
void craft_ready(struct node *node);

/* Steps a message to the node (from 2 unless it says otherwise) and drains the node. */
void craft_give(struct node *node, struct raft_message message);

/* An append of entries with these terms after (index, log_term). */
void craft_append(struct node *node, uint64_t term, uint64_t index, uint64_t log_term,
                  const char *entries, uint64_t commit);

/* Positive answers to `node`, of the node `from`, in the node's current term. */
void craft_ack(struct node *node, uint64_t from, uint64_t index);
void craft_vote(struct node *node, uint64_t from);

/* Forgets all messages under way. */
void craft_drain(struct cluster *cluster);
/* The newest message under way. */
const struct raft_message *craft_newest(const struct cluster *cluster);
uint32_t craft_count(const struct cluster *cluster, enum raft_message_kind kind);
/* Of that kind to that node. */
uint32_t craft_count_to(const struct cluster *cluster, enum raft_message_kind kind, uint64_t to);

/* The terms of the node's log; static storage, a few calls long. */
const char *craft_terms(const struct node *node);

/* Wins an election with the answers of every other node made up. */
void craft_win(struct node *node);
/* Puts a fresh node into a role. */
void craft_role(struct node *node, enum raft_role role);

/* ---- a group behind links that can be cut ---- */

struct craft_group {
    struct cluster cluster;
    bool cut[CLUSTER_NODES_MAX + 1][CLUSTER_NODES_MAX + 1]; /* [from][to] */
    enum raft_message_kind lost;                            /* this kind never arrives; 0 = none */
};

/* `count` voters with the same options. */
void craft_group_init(struct craft_group *group, uint32_t count,
                      const struct raft_options *options);
void craft_group_deinit(struct craft_group *group);
struct node *craft_of(struct craft_group *group, uint64_t id);
/* Every message is delivered or lost, every lane emptied. */
void craft_settle(struct craft_group *group);
void craft_campaign(struct craft_group *group, uint64_t id);
void craft_tick(struct craft_group *group, uint64_t id, uint64_t ticks);
int craft_propose(struct craft_group *group, uint64_t id, const char *text);
/* Both ways. */
void craft_cut(struct craft_group *group, uint64_t a, uint64_t b);
void craft_isolate(struct craft_group *group, uint64_t id);
void craft_heal(struct craft_group *group);

#endif
