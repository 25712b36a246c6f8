/*
 * deferred.h - payloads that consensus let go of while the log core still writes them.
 *
 * Story     A new leader may cut entries from this member's log whose append is still on its way to
 *           the disk. Their payloads are kept until every append issued by then is done.
 * Owner     The raft core.
 */
#ifndef SERVER_DEFERRED_H
#define SERVER_DEFERRED_H

#include "core/entry.h"

struct deferred_entry {
    struct entry entry;
    uint64_t sequence; /* of the last append that may name it */
};

struct deferred {
    struct deferred_entry *entries; /* oldest first */
    uint32_t count, count_max;
};

void deferred_add(struct deferred *deferred, const struct entry *entry, uint64_t sequence);

/* Appends up to `sequence` are done: calls `release` for what waited for them. */
void deferred_run(struct deferred *deferred, uint64_t sequence,
                  void (*release)(void *context, const struct entry *entry), void *context);
void deferred_deinit(struct deferred *deferred);

#endif
