/*
 * log_notes.h - what consensus must be able to ask of every entry in the log at once: its term,
 * size and type. Bytes of entries that left memory stay on disk.
 *
 * Story     A leader that serves a lagging peer decides what to send from this table, without
 *           waiting for the disk; only the bytes themselves are then read (server/catch_up.h).
 *           Terms come in runs, so an entry costs four bytes.
 * Invariants
 *   N1  entries [first, first + count) are known; runs are sorted, begin at first, do not overlap.
 * Owner     The raft core.
 * Errors    ERR_COMPACTED below, ERR_UNAVAILABLE above. Growth that fails stops the process.
 */
#ifndef SERVER_LOG_NOTES_H
#define SERVER_LOG_NOTES_H

#include "core/entry.h"
#include "core/err.h"

struct log_run {
    uint64_t first_index, term;
};

struct log_notes {
    uint64_t first, count;
    uint32_t *sizes; /* ring: slot = index & mask; the top bit marks a configuration change */
    uint64_t mask;
    struct log_run *runs;
    uint32_t run_count, run_max;
    uint64_t bytes; /* payload bytes of all */
};

void log_notes_init(struct log_notes *notes, uint64_t first);
void log_notes_deinit(struct log_notes *notes);

/* An index <= the last replaces it and everything after it; beyond last + 1 is not allowed. */
void log_notes_set(struct log_notes *notes, uint64_t index, uint64_t term, uint32_t type,
                   uint32_t payload_bytes);

/* Type and size of an entry that could not be read when it was noted. */
void log_notes_learn(struct log_notes *notes, uint64_t index, uint32_t type,
                     uint32_t payload_bytes);

/* Payload bytes of first..last, of those that are known. */
uint64_t log_notes_bytes(const struct log_notes *notes, uint64_t first, uint64_t last);

/* Is a configuration change among first..last? */
bool log_notes_has_config(const struct log_notes *notes, uint64_t first, uint64_t last);

/* Fills index, term, type and payload_bytes. */
must_check int log_notes_get(const struct log_notes *notes, uint64_t index, struct entry *entry);

/* Forgets entries <= index. */
void log_notes_release(struct log_notes *notes, uint64_t index);

/* The highest index <= limit up to which entries must go so that the rest holds `bytes_max`; the
 * entry before the first when nothing must. */
uint64_t log_notes_excess(const struct log_notes *notes, uint64_t limit, uint64_t bytes_max);

#endif
