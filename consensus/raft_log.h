/*
 * raft_log.h - the log as the state machine sees it: a window in memory over what is stored.
 *
 * Story     The window holds the newest entries (base, last]: everything that is not durable yet,
 *           and as much of the rest as is useful (peers that lag, entries not applied yet). Older
 *           entries are asked from the caller: only their term, type and size, never their bytes.
 * Invariants
 *   L1  compacted <= applied <= applying <= committed <= last.
 *   L2  applying <= durable <= issued <= last: nothing is applied before it is on this node's disk.
 *       (While a snapshot is pending, compacted is its index: committed, and not applied.)
 *   L3  base <= durable: an entry leaves the window only when the disk has it.
 *   L4  terms never decrease along the window.
 *   L5  nothing at or below committed is ever replaced.
 *   L6  last - base <= window size; window_bytes and unapplied_bytes are exact sums.
 *   L7  faulty is 0, or applying < faulty <= durable: bytes that this node lost are neither applied
 *       nor acknowledged, though the entry keeps its place, its term and its say in elections.
 * Owner     struct raft. Payloads are the caller's; each entry given to the log is handed back once
 *           through raft_storage.release.
 * Threads   The raft core.
 * Errors    ERR_COMPACTED below the log, ERR_UNAVAILABLE beyond it or when the caller cannot tell.
 * Limits    Window size is a power of two, fixed at raft_log_init().
 */
#ifndef CONSENSUS_RAFT_LOG_H
#define CONSENSUS_RAFT_LOG_H

#include "consensus/message.h"
#include "core/entry.h"

/* The caller's side of the log. Callbacks must not call back into the core. */
struct raft_storage {
    void *context;
    /* Fills term, type and payload_bytes (an estimate will do) of a durable entry that is not in
     * the window. 0, ERR_COMPACTED or ERR_UNAVAILABLE. Must not wait. */
    int (*lookup)(void *context, uint64_t index, struct entry *entry);
    /* The newest snapshot that can be sent to `peer`: its configuration has `peer`, or the peer
     * would refuse it for ever. 0, or ERR_UNAVAILABLE while there is none (the caller starts to
     * make one; the core asks again later). */
    int (*snapshot)(void *context, uint64_t peer, struct raft_snapshot *snapshot);
    /* The core will not look at this entry's payload again. Called once for each entry that a
     * successful raft_propose() took, and for each entry of an APPEND given to raft_step(), maybe
     * before the call returns. May be NULL. */
    void (*release)(void *context, const struct entry *entry);
};

struct raft_log {
    struct raft_storage storage;
    struct entry *window; /* slot = index & window_mask */
    uint64_t window_mask;
    uint64_t compacted_index; /* the last entry that is only in a snapshot; 0 = none */
    uint64_t compacted_term;
    uint64_t base_index; /* the window holds (base, last] */
    uint64_t base_term;  /* term of entry base */
    uint64_t last_index;
    uint64_t issued_index;    /* handed to the append lane */
    uint64_t durable_index;   /* acknowledged by it */
    uint64_t committed_index; /* durable on a quorum */
    uint64_t applying_index;  /* handed to the apply lane */
    uint64_t applied_index;   /* acknowledged by it */
    uint64_t window_bytes;    /* payload bytes in the window */
    uint64_t unapplied_bytes; /* of those, bytes above applied */
    uint64_t config_index;    /* no entry above it is a configuration change */
    uint64_t faulty_index;    /* lowest entry above applying whose bytes are lost; 0 = none */
};

void raft_log_init(struct raft_log *log, const struct raft_storage *storage, struct entry *window,
                   uint32_t window_entries);

must_check int raft_log_term(const struct raft_log *log, uint64_t index, uint64_t *term);
uint64_t raft_log_last_term(const struct raft_log *log);
bool raft_log_matches(const struct raft_log *log, uint64_t index, uint64_t term);

/* Is (index, term) at least as new as our last entry? */
bool raft_log_up_to_date(const struct raft_log *log, uint64_t index, uint64_t term);

/* In the window, or NULL. */
const struct entry *raft_log_entry(const struct raft_log *log, uint64_t index);

/* Term, type and size of any entry, from the window or the caller. */
must_check int raft_log_lookup(const struct raft_log *log, uint64_t index, struct entry *entry);

/* Entries first.. that fit in bytes_max (at least one) and count_max, up to `last`; 0 on error. */
uint32_t raft_log_fit(const struct raft_log *log, uint64_t first, uint64_t last, uint64_t bytes_max,
                      uint32_t count_max, uint64_t *bytes);

/* Slots that can be had; `forced` also lets durable entries go that are not applied yet. */
uint64_t raft_log_room(struct raft_log *log, uint64_t wanted, bool forced);

/* Adds one entry at last + 1. Room was checked. */
void raft_log_append(struct raft_log *log, const struct entry *entry);

/* Removes entries >= index. index > committed. */
void raft_log_truncate(struct raft_log *log, uint64_t index);

/* Largest i <= index whose term is <= term; entries of unknown term count, with term 0. */
uint64_t raft_log_find_conflict(const struct raft_log *log, uint64_t index, uint64_t term,
                                uint64_t *found_term);

void raft_log_commit_to(struct raft_log *log, uint64_t index);
void raft_log_applied_to(struct raft_log *log, uint64_t index);

/* `index`, or the entry before the first faulty one: this far the node may vouch for its log. */
uint64_t raft_log_sound_to(const struct raft_log *log, uint64_t index);

/* The append lane finished with a tail that ended in (index, term). */
void raft_log_durable_to(struct raft_log *log, uint64_t index, uint64_t term);

/* Lets go of entries <= index that are durable. */
void raft_log_release_to(struct raft_log *log, uint64_t index);

/* Forgets entries <= index, all applied. */
void raft_log_compact(struct raft_log *log, uint64_t index);

/* Replaces everything by a snapshot that is not installed yet. */
void raft_log_restore(struct raft_log *log, const struct raft_snapshot *snapshot);

/* The snapshot of raft_log_restore() is installed. */
void raft_log_restored(struct raft_log *log, uint64_t index);

/* Is a configuration change committed but not applied? */
bool raft_log_has_unapplied_config(struct raft_log *log);

/* L1 to L7, but L5, which truncation asserts, and that compacted <= applied, which needs to know of
 * snapshots (raft_check()). L4 and the sums cost O(window), and are left out of large windows. */
void raft_log_check(const struct raft_log *log);

#endif
