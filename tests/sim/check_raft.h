/*
 * check_raft.h - the safety of Raft, watched from outside: every node's state after every call, and
 * the history that no node has.
 *
 * Story     The harness calls check_raft_observe() after each call of a node's consensus core, and
 *           the other functions when a message leaves, an entry is applied, a node restarts. Every
 *           entry has a chain hash H(i) = hash(H(i-1), term, type, bytes): equal hashes at an index
 *           mean equal logs up to there, so each check costs O(1).
 * Checks
 *   election safety      one leader for a term, across crashes
 *   one vote             (node, term) names one candidate; the vote leaves when it is durable
 *   acknowledgement      leaves when what it acknowledges is durable
 *   leader append-only   a leader's log only grows while it leads
 *   log matching         (index, term) has one H over all nodes, ever
 *   leader completeness  a new leader has everything that leaders of earlier terms committed
 *   commit justified     who commits i first is a leader; i is of its term, and a quorum of each
 *                        half of its configuration holds i on disk
 *   state machine        applied in order, each index with the canonical entry; equal state after
 *   monotonic            term, commit and applied of an incarnation; durable term for ever
 *   configuration        canonical at each index; one step apart; at most one not committed
 *   reads                not below what was committed anywhere when they were asked
 * Owner     The world. Verdicts go to `verdict`; the first counts.
 * Threads   One.
 */
#ifndef TESTS_SIM_CHECK_RAFT_H
#define TESTS_SIM_CHECK_RAFT_H

#include "consensus/raft.h"
#include "tests/sim/verdict.h"

#define CHECK_NODES_MAX 32 /* power of two; different ids over time */

/* An entry as a checker remembers it. */
struct check_entry {
    uint64_t term, hash;
    uint64_t commit_term; /* of the canonical log: who committed it led this term */
    bool is_config;
    bool is_empty; /* of a new leader: nothing to execute */
};

struct check_log { /* [first, first + count) of `entries`; absolute index = position */
    struct check_entry *entries;
    uint64_t capacity;
    uint64_t last;
};

struct check_node {
    uint64_t id; /* 0: this slot is free */
    struct check_log log;
    bool seen; /* this incarnation was observed */
    enum raft_role role;
    uint64_t term, commit, applied, config_index;
    uint64_t leader_last; /* last index when last seen leading `term` */
    uint64_t compacted;   /* the snapshot below its log */
    uint64_t durable_term;
};

struct check_pair { /* (index, term) -> H, and the like; key 0 = free */
    uint64_t key[2], value;
};

struct check_table {
    struct check_pair *pairs;
    uint64_t count, capacity;
};

struct check_config {
    uint64_t index;
    struct raft_config config;
};

/* What the harness knows of a node's disk: is the entry (index, term) durable there? */
typedef bool check_durable(void *context, uint64_t node, uint64_t index, uint64_t term);

struct check_raft {
    struct verdict *verdict;
    check_durable *durable;
    void *context;
    bool changes_unchecked; /* skip_config_validation: several changes may be under way */
    struct check_node nodes[CHECK_NODES_MAX]; /* at id % CHECK_NODES_MAX, or behind */
    struct check_table leaders;               /* term -> node */
    struct check_table votes;                 /* (node, term) -> candidate */
    struct check_table hashes;                /* (index, term) -> H */
    struct check_table states;                /* index -> hash of the state machine */
    struct check_log canonical;               /* committed */
    struct check_config *configs;
    uint32_t config_count;
    uint64_t config_applied; /* highest index that a change was applied at */
};

void check_raft_init(struct check_raft *check, struct verdict *verdict, check_durable *durable,
                     void *context);
void check_raft_deinit(struct check_raft *check);

/* The group begins as if compacted at (index, term) with this configuration. */
void check_raft_genesis(struct check_raft *check, uint64_t index, uint64_t term,
                        const struct raft_config *config);

/* After each call of the core. */
void check_raft_observe(struct check_raft *check, const struct raft *raft);

/* `node` restarts from its disk; term_at answers the term of each entry in (base, last]. */
void check_raft_restart(struct check_raft *check, uint64_t node, const struct raft_start *start,
                        uint64_t (*term_at)(void *context, uint64_t node, uint64_t index));

/* A message leaves a node whose disk holds this hard state now. */
void check_raft_send(struct check_raft *check, const struct raft_message *message,
                     const struct hard_state *durable, bool early_vote);

/* Before the state machine of `node` executes an entry; `entry` is what it is about to execute. */
void check_raft_apply(struct check_raft *check, uint64_t node, uint64_t before,
                      const struct entry *entry);
/* The state machine of a node contains everything up to `index`. */
void check_raft_state(struct check_raft *check, uint64_t node, uint64_t index, uint64_t hash);
/* A change at `index` was applied and gave `config`. */
void check_raft_config(struct check_raft *check, uint64_t node, uint64_t index,
                       const struct raft_config *config);
/* The configuration that rules after `index` was applied. */
const struct raft_config *check_raft_config_at(const struct check_raft *check, uint64_t index);

/* A read asked when `committed` was the highest commit anywhere is answered with `index`. */
void check_raft_read(struct check_raft *check, uint64_t node, uint64_t committed, uint64_t index);

/* What the history knows of `node`. */
struct check_node *check_raft_node(struct check_raft *check, uint64_t id);

/* The canonical entry at `index` <= check_raft_committed(). */
const struct check_entry *check_raft_entry(const struct check_raft *check, uint64_t index);

/* The hash that check_raft_state() was told first for `index`; false: none. */
bool check_raft_state_at(const struct check_raft *check, uint64_t index, uint64_t *hash);

/* Highest index committed anywhere, ever. */
uint64_t check_raft_committed(const struct check_raft *check);

/* May the second configuration follow the first? */
bool check_config_step(const struct raft_config *from, const struct raft_config *to);
/* Do `have` contain a majority of each half? */
bool check_config_quorum(const struct raft_config *config, const struct raft_id_set *have);

#endif
