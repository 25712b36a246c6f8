/*
 * log_retain.h - how much of the log stays, behind what tables contain, for members that lag; and
 * when tables should contain more of it.
 *
 * Story     A tail of LOG_TAIL_BYTES always stays: who was away for less than that needs no
 *           snapshot. What a member that answers, or is being sent a snapshot, still needs stays up
 *           to LOG_HELD_BYTES: else the log would have moved on whenever a transfer arrives, and
 *           the next one would be asked for at once. Beyond that, and when the disk is full, it
 *           goes: a snapshot is then the cheaper way.
 *
 *           What is applied and not in tables must stay. A memtable that fills is flushed, but
 *           entries without effect (transactions whose comparisons fail) fill none: after
 *           LOG_FLUSH_BYTES or LOG_FLUSH_ENTRIES of them the log wants a flush, and after
 *           LOG_FLUSH_LOW_BYTES when its disk is full, because then nothing else may come.
 * Owner     The raft core. Plain arithmetic.
 * Units     Payload bytes of entries.
 */
#ifndef SERVER_LOG_RETAIN_H
#define SERVER_LOG_RETAIN_H

#include "server/log_notes.h"

#define LOG_TAIL_BYTES ((uint64_t)256 * 1024 * 1024)
#define LOG_HELD_BYTES ((uint64_t)2 * 1024 * 1024 * 1024)

struct log_retain {
    uint64_t contained;  /* tables hold everything up to this entry */
    uint64_t tail_bytes; /* LOG_TAIL_BYTES */
    uint64_t wanted;     /* an active member needs what follows this one; UINT64_MAX: none does */
    bool space_low;
};

/* Entries up to this one may go. */
uint64_t log_retain_limit(const struct log_notes *notes, const struct log_retain *retain);

#define LOG_FLUSH_BYTES     ((uint64_t)512 * 1024 * 1024)
#define LOG_FLUSH_LOW_BYTES ((uint64_t)4 * 1024 * 1024)
#define LOG_FLUSH_ENTRIES   ((uint64_t)1024 * 1024)

struct log_unflushed {
    uint64_t flushed_index;  /* as seen last */
    uint64_t bytes, entries; /* applied since it moved, or a flush was wanted */
};

void log_unflushed_add(struct log_unflushed *unflushed, uint64_t bytes, uint64_t entries);

/* Is it time for a flush? Once; then again when as much has been applied once more. */
must_check bool log_unflushed_is_long(struct log_unflushed *unflushed, uint64_t flushed_index,
                                      bool space_low);

#endif
