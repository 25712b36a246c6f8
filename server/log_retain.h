/*
 * log_retain.h - how much of the log stays, behind what tables contain, for members that lag.
 *
 * Story     A tail of LOG_TAIL_BYTES always stays: who was away for less than that needs no
 *           snapshot. What a member that answers, or is being sent a snapshot, still needs stays up
 *           to LOG_HELD_BYTES: else the log would have moved on whenever a transfer arrives, and
 *           the next one would be asked for at once. Beyond that, and when the disk is full, it
 *           goes: a snapshot is then the cheaper way.
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

#endif
