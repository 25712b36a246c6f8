/*
 * ledger.h - how many bytes are stored, and how many of them a compaction would set free.
 *
 * Story     A quota needs a size that follows every put and shrinks after a compaction, long before
 *           the disk does. When a change supersedes a version, its bytes become garbage that
 *           compaction at or above the change's revision frees; the ledger keeps them by revision.
 *           Past MVCC_LEDGER_MARKS_MAX marks neighbours are merged, and a compaction that cuts
 *           through a merged mark frees its share of revisions.
 * Owner     The raft core; stored in a meta row so that it survives, and recovered exactly by
 *           replaying the history rows after it.
 * Threads   One.
 * Units     Bytes of a change: key, value and MVCC_ROW_OVERHEAD_BYTES for all its rows.
 */
#ifndef STORAGE_MVCC_LEDGER_H
#define STORAGE_MVCC_LEDGER_H

#include "core/base.h"

#define MVCC_LEDGER_MARKS_MAX   128
#define MVCC_ROW_OVERHEAD_BYTES 64

struct mvcc_garbage_mark {
    int64_t first, last; /* superseded by these revisions, both included; equal unless merged */
    uint64_t bytes;
};

/* I1  size_bytes = size_in_use_bytes + sum of marks.
 * I2  marks ascend and do not overlap; the first is above `compacted`. */
struct mvcc_ledger {
    int64_t revision;  /* every change up to it is counted */
    int64_t compacted; /* garbage up to it is gone */
    uint64_t key_count;
    uint64_t size_bytes;
    uint64_t size_in_use_bytes;
    uint32_t mark_count;
    struct mvcc_garbage_mark marks[MVCC_LEDGER_MARKS_MAX];
};

#define MVCC_LEDGER_ROW_BYTES_MAX (48 + MVCC_LEDGER_MARKS_MAX * 24)

static inline uint64_t mvcc_ledger_row_bytes(struct bytes key, struct bytes value)
{
    return key.size + value.size + MVCC_ROW_OVERHEAD_BYTES;
}

void mvcc_ledger_init(struct mvcc_ledger *ledger);
/* `before_bytes`: of the live version that the change replaces; 0 when there is none. */
void mvcc_ledger_put(struct mvcc_ledger *ledger, int64_t revision, uint64_t row_bytes,
                     uint64_t before_bytes);
void mvcc_ledger_delete(struct mvcc_ledger *ledger, int64_t revision, uint64_t row_bytes,
                        uint64_t before_bytes);
void mvcc_ledger_compact(struct mvcc_ledger *ledger, int64_t revision);

/* Returns the size. Layout: docs/formats/mvcc-rows.md. */
size_t mvcc_ledger_encode(const struct mvcc_ledger *ledger, uint8_t *to);
must_check int mvcc_ledger_decode(struct mvcc_ledger *ledger, struct bytes from);

void mvcc_ledger_check(const struct mvcc_ledger *ledger);

#endif
