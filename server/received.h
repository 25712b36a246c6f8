/*
 * received.h - payloads of log entries that came from another member: they live in the frame that
 * brought them until consensus has let go of the last one.
 *
 * Owner     The raft core. An entry's tag names its frame; tag 0 is not from a frame.
 * Errors    None: growth that fails stops the process. Frames are bounded by the senders' windows.
 */
#ifndef SERVER_RECEIVED_H
#define SERVER_RECEIVED_H

#include "core/entry.h"
#include "net/peer_reader.h"

struct received_slot {
    struct peer_body *body; /* NULL: free */
    uint32_t live;          /* entries with a payload not given back */
    uint32_t next_free;
};

struct received {
    struct received_slot *slots;
    uint32_t slot_count, free; /* index + 1 of a free slot; 0 = none */
};

/* Keeps `body` and sets the tag of each entry with a payload. */
void received_hold(struct received *received, struct peer_body *body, struct entry *entries,
                   uint32_t entry_count);

/* One entry's payload is no longer looked at. */
void received_release(struct received *received, uint32_t tag);

/* None of them was taken. */
void received_drop(struct received *received, const struct entry *entries, uint32_t entry_count);

void received_deinit(struct received *received);

#endif
