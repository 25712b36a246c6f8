/*
 * wal_index.h - which entries the durable log holds, and where: built block by block, in log order.
 *
 * Story     Recovery and the running log feed every durable block through wal_index_apply(); what
 *           comes out is the logical log after all conflicts, cuts, resets and repairs.
 *           Neighbouring blocks of one term merge into extents of up to WAL_EXTENT_BYTES_MAX, so
 *           the index costs a few hundred rows per segment; a reader starts at the extent and walks
 *           its blocks.
 * Owner     The log core.
 * Errors    wal_index_init() only. Growth doubles the table; when memory is out it calls fatal().
 *
 * Invariants
 * I1  extents are sorted, contiguous and do not overlap: next.first_index = last_index + 1.
 * I2  the first extent begins at base_index + 1; an empty log ends at base_index.
 * I3  all entries of an extent have one term.
 * I4  from (segment, page), walking whole blocks reaches each index of the extent.
 */
#ifndef STORAGE_LOG_WAL_INDEX_H
#define STORAGE_LOG_WAL_INDEX_H

#include "core/base.h"
#include "storage/log/wal_format.h"

#define WAL_EXTENT_BYTES_MAX ((uint32_t)256 * 1024)

enum wal_extent_flags {
    WAL_EXTENT_FAULTY = 1,     /* payload lost */
    WAL_EXTENT_PROVEN = 2,     /* ...and it certainly was durable */
    WAL_EXTENT_FRAGMENTED = 4, /* one entry over several blocks */
    WAL_EXTENT_SEALED = 8,     /* cut or split: nothing may merge into it */
};

struct wal_extent {
    uint64_t first_index, last_index;
    uint64_t term;
    uint32_t segment, page;
    uint32_t bytes; /* of the blocks merged so far */
    uint32_t flags;
};

struct wal_index {
    struct wal_extent *extents; /* owned; rows first .. first + count - 1 are live */
    uint32_t first, count, capacity;
    uint64_t base_index, base_term; /* the entry before the log; term 0 when not known */
    bool anchored;                  /* some block was applied: base means something */

    uint64_t
        headless_index; /* the oldest block continues this entry, begun in a released segment */

    /* The fragment series in progress; fragment_index 0 when there is none. */
    uint64_t fragment_index;
    uint32_t fragment_segment, fragment_page;
    uint32_t fragment_flags; /* FAULTY and PROVEN of any piece so far */
};

must_check int wal_index_init(struct wal_index *index, uint32_t capacity);
void wal_index_deinit(struct wal_index *index);

/* `fault` is 0, or WAL_EXTENT_FAULTY with or without WAL_EXTENT_PROVEN when the body is damaged and
 * only the header is known. */
void wal_index_apply(struct wal_index *index, const struct wal_block *block, uint32_t fault);

/* Entries first..last, all inside the log, are replaced by `extent` (repair, or marking a fault).
 */
void wal_index_replace(struct wal_index *index, const struct wal_extent *extent);

/* Entries for which no header was found; `fault` says where the hole begins. */
void wal_index_append_fault(struct wal_index *index, const struct wal_extent *fault);

/* Forgets extents that end at or before `last_index`. */
void wal_index_release(struct wal_index *index, uint64_t last_index);

/* NULL when outside. */
const struct wal_extent *wal_index_find(const struct wal_index *index, uint64_t entry_index);

/* The lowest segment that still holds an entry > `entry_index`; `otherwise` when none does. */
uint32_t wal_index_lowest_segment(const struct wal_index *index, uint64_t entry_index,
                                  uint32_t otherwise);

static inline const struct wal_extent *wal_index_row(const struct wal_index *index, uint32_t row)
{
    return &index->extents[index->first + row];
}

static inline uint64_t wal_index_first(const struct wal_index *index)
{
    return index->base_index + 1;
}

static inline uint64_t wal_index_last(const struct wal_index *index)
{
    return index->count == 0 ? index->base_index
                             : index->extents[index->first + index->count - 1].last_index;
}

static inline uint64_t wal_index_last_term(const struct wal_index *index)
{
    return index->count == 0 ? index->base_term
                             : index->extents[index->first + index->count - 1].term;
}

/* Aborts when I1 to I3 do not hold. O(n). */
void wal_index_check(const struct wal_index *index);

#endif
