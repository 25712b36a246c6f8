/*
 * log_role.h - the log core's part of a node: takes batches from the raft core, makes them durable,
 * hands them back in order; reads entries that left memory.
 *
 * Owner     The log core owns the wal and the role; a batch is the log core's from
 *           MESSAGE_LOG_APPEND to MESSAGE_LOG_DURABLE, else the raft core's.
 * Durable   A batch comes back only when every entry and the hard state in it survive power loss.
 */
#ifndef SERVER_LOG_ROLE_H
#define SERVER_LOG_ROLE_H

#include "consensus/raft.h"
#include "core/core.h"
#include "server/faults.h"
#include "storage/log/wal.h"

struct node;
struct snapshot_log;

struct log_batch {
    struct raft_append append; /* for raft_persisted() */
    struct wal_append wal;
    struct log_role *role;
    uint64_t issued_ns;
    uint32_t entry_count, entry_count_max;
    struct entry *entries;
    struct log_batch *next; /* free, or issued after this one */
};

/* Good copies of entries that are damaged here, to MESSAGE_LOG_REPAIR and back: durable, unless
 * another leader's entries took their places meanwhile. Or a cut. */
struct log_repair {
    const struct entry *entries; /* ascending by one, of one term; payloads stay until it is back */
    uint32_t entry_count;        /* 0: */
    uint64_t cut_to;             /* what lies behind this entry is dropped */
    struct wal_append wal;
    struct log_role *role;
};

/* Fiber of the log core. Opens or creates the log of the node. `alone`: no other member has copies,
 * so damage is refused with ERR_CORRUPT, and nothing is changed. A member of a group starts with
 * faults, which server/repair.h sees to; it too is refused when not even the identity of what is
 * lost is known: recovered->verdict is WAL_VERDICT_FENCED then. */
must_check int log_role_start(struct node *node, struct core *core, bool alone,
                              struct wal_recovered *recovered);

/* Fiber of the log core, of a log that is not open: is there a change of members among the entries
 * first..last? */
bool log_role_has_change(const struct node *node, uint64_t first, uint64_t last);

/* Any core's fiber, at start, of a node that is alone. Blocks that were in flight at the crash, and
 * that nothing proves durable, were never acknowledged by it, because it acknowledges only what it
 * knows durable, in order. No other member can have them either: they are cut. */
void log_role_cut_unproven(struct node *node, struct wal_recovered *recovered);

/* Any core's fiber, at start. Adds what recovery found damaged. */
void log_role_faults(struct node *node, struct faults *faults);

void log_role_stop(struct node *node); /* fiber of the log core; nothing is in flight */

/* Any core's fiber, at start: what the log says about a snapshot up to `index`, if the tables hold
 * everything up to `contained`. */
void log_role_look(const struct node *node, uint64_t index, uint64_t contained,
                   struct snapshot_log *found);

/* Any core's fiber, at start: a snapshot up to (index, term) replaces what the log holds; the next
 * entry is index + 1. */
void log_role_reset(struct node *node, uint64_t index, uint64_t term,
                    struct wal_recovered *recovered);

/* Any core's fiber, at start. Returns when entries (there may be none) and hard state are
 * durable. */
void log_role_append(struct node *node, const struct entry *entries, uint32_t entry_count,
                     const struct hard_state *hard_state);

/* Any core's fiber. Copies of the durable entries first.. up to last or about `bytes_max` of
 * payload (at least one entry). Returns how many, or wal_read()'s error. Free with
 * log_copy_destroy(). */
struct log_copy {
    struct entry *entries;
    uint32_t entry_count;
    uint8_t *payloads;
};
must_check int64_t log_role_read(struct node *node, uint64_t first, uint64_t last,
                                 uint64_t bytes_max, struct log_copy *copy);
void log_copy_destroy(struct log_copy *copy);

/* What consensus must know of an entry that is only on disk. */
struct log_note {
    uint64_t term;
    uint32_t payload_bytes;
    uint32_t type;
};

/* Any core's fiber, at start: the notes of entries first..last, in order. Free with free(). */
must_check int log_role_notes(struct node *node, uint64_t first, uint64_t last,
                              struct log_note **notes);

/* The log core's: sizes and latencies for status and metrics. */
const struct wal_stats *log_role_stats(const struct log_role *role);

#endif
