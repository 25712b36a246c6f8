/*
 * whole_media.h - what a node's log holds on its simulated medium, read without its help.
 *
 * Story     The log in memory says where an entry is; the blocks there are read from what a power
 *           cut would leave, and must be whole. Entries seen once are remembered, since the medium
 *           keeps them: while the node is down, and after the log let go of them.
 * Owner     struct whole_node, across incarnations.
 * Threads   One. In the world's memory.
 */
#ifndef TESTS_SIM_WHOLE_MEDIA_H
#define TESTS_SIM_WHOLE_MEDIA_H

#include "consensus/raft.h"
#include "storage/log/wal.h"
#include "tests/sim/disk.h"

struct whole_media {
    struct sim_disk *disk;
    struct wal *wal; /* NULL while the node is down */
    uint64_t *terms; /* [index]: of the entry that was seen there; 0: none */
    uint64_t capacity;
    uint64_t in_tables; /* what the last start found executed there: kept without the log, too */
    struct hard_state hard_state; /* as of block hard_state_sequence */
    uint64_t hard_state_sequence;
    uint8_t *block; /* scratch */
    /* Where the last walk over the extent at (walk_segment, walk_page) would go on. */
    uint32_t walk_segment, walk_page, at_segment, at_page;
};

void whole_media_init(struct whole_media *media, struct sim_disk *disk);
void whole_media_deinit(struct whole_media *media);

/* The node opened its log; and this is what it found. */
void whole_media_opened(struct whole_media *media, struct wal *wal);
void whole_media_recovered(struct whole_media *media, const struct raft_start *start,
                           const struct raft_storage *storage);
void whole_media_closed(struct whole_media *media);

bool whole_media_has(struct whole_media *media, uint64_t index, uint64_t term);
const struct hard_state *whole_media_hard_state(struct whole_media *media);

#endif
