/*
 * entry.h - one entry of the Raft log, as log, peers and apply loop share it: encoded once.
 *
 * Story     The core that receives a write builds the payload and its checksum. Raft assigns index
 *           and term. The payload bytes then go unchanged to the log block, the peers and the apply
 *           loop; nobody encodes them again.
 * Owner     The payload is immutable and borrowed; who owns it says so where the entry is stored.
 * Units     index counts entries from 1; payload_bytes in bytes.
 * Limits    ENTRY_PAYLOAD_BYTES_MAX.
 */
#ifndef CORE_ENTRY_H
#define CORE_ENTRY_H

#include "core/base.h"

#define ENTRY_PAYLOAD_BYTES_MAX ((uint32_t)(8 * 1024 * 1024))

enum entry_type {
    ENTRY_NORMAL = 0,        /* a request for the state machine; empty = a new leader's no-op */
    ENTRY_CONFIG_CHANGE = 1, /* a membership change, decoded by consensus */
};

struct entry {
    uint64_t index;
    uint64_t term;
    const uint8_t *payload; /* NULL when payload_bytes is 0 */
    uint32_t payload_bytes;
    uint32_t payload_crc; /* crc32c of payload; checked wherever bytes come back from a medium */
    uint32_t type;        /* enum entry_type */
    uint32_t tag;         /* in memory only: the holder's note of who owns the payload */
};

/* Term, vote and commit: what Raft must remember besides entries. */
struct hard_state {
    uint64_t term;
    uint64_t vote;   /* node id, 0 = none */
    uint64_t commit; /* stored lazily: a lower bound */
};

#endif
