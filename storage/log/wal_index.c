#include "storage/log/wal_index.h"

#include <errno.h>
#include <stdlib.h>

#include "core/invariant.h"

int wal_index_init(struct wal_index *index, uint32_t capacity)
{
    *index = (struct wal_index){.capacity = capacity};
    index->extents = malloc((size_t)capacity * sizeof(*index->extents));
    return index->extents == NULL ? -ENOMEM : 0;
}

void wal_index_deinit(struct wal_index *index)
{
    free(index->extents);
    index->extents = NULL;
}

void wal_index_check(const struct wal_index *index)
{
    uint64_t next = index->base_index + 1;
    for (uint32_t row = 0; row < index->count; row++) {
        const struct wal_extent *extent = wal_index_row(index, row);
        invariant(extent->first_index == next); /* I1, I2 */
        invariant(extent->last_index >= extent->first_index);
        invariant(extent->segment != 0);
        next = extent->last_index + 1;
    }
}

/* ---- rows ---------------------------------------------------------------------------------------
 */

/* Makes room for one more row at the end. */
static void index_reserve(struct wal_index *index)
{
    if (index->first + index->count < index->capacity)
        return;
    if (index->first >= index->capacity / 2 && index->first != 0) {
        memmove(index->extents, index->extents + index->first,
                (size_t)index->count * sizeof(*index->extents));
        index->first = 0;
        return;
    }
    uint32_t capacity = index->capacity * 2;
    struct wal_extent *extents = realloc(index->extents, (size_t)capacity * sizeof(*extents));
    if (extents == NULL)
        fatal("log index: out of memory at %u extents", index->count);
    index->extents = extents;
    index->capacity = capacity;
}

static void index_insert(struct wal_index *index, uint32_t row, const struct wal_extent *extent)
{
    invariant(row <= index->count);
    index_reserve(index);
    struct wal_extent *at = index->extents + index->first + row;
    memmove(at + 1, at, (size_t)(index->count - row) * sizeof(*at));
    *at = *extent;
    index->count++;
}

static void index_remove(struct wal_index *index, uint32_t row, uint32_t count)
{
    invariant(row + count <= index->count);
    struct wal_extent *at = index->extents + index->first + row;
    memmove(at, at + count, (size_t)(index->count - row - count) * sizeof(*at));
    index->count -= count;
}

/* The row that holds `entry_index`, or the number of rows when it lies behind the end. */
static uint32_t index_row_of(const struct wal_index *index, uint64_t entry_index)
{
    uint32_t low = 0, high = index->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (wal_index_row(index, middle)->last_index < entry_index)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Afterwards a row begins at `entry_index` (or it is behind the end). Returns that row. */
static uint32_t index_split(struct wal_index *index, uint64_t entry_index)
{
    uint32_t row = index_row_of(index, entry_index);
    if (row == index->count || wal_index_row(index, row)->first_index >= entry_index)
        return row;
    struct wal_extent right = *wal_index_row(index, row);
    invariant((right.flags & WAL_EXTENT_FRAGMENTED) == 0); /* holds one entry: cannot be split */
    right.first_index = entry_index;
    right.flags |= WAL_EXTENT_SEALED;
    struct wal_extent *left = index->extents + index->first + row;
    left->last_index = entry_index - 1;
    left->flags |= WAL_EXTENT_SEALED;
    index_insert(index, row + 1, &right);
    return row + 1;
}

/* ---- the logical log ----------------------------------------------------------------------------
 */

static void index_truncate(struct wal_index *index, uint64_t first, uint64_t prev_term)
{
    if (first <= wal_index_last(index)) {
        uint32_t row = index_split(index, first);
        index->count = row;
    }
    if (index->count == 0 && index->base_index != first - 1) {
        index->base_index = first - 1;
        index->base_term = prev_term;
    }
}

static bool extent_takes(const struct wal_extent *last, const struct wal_extent *next)
{
    return last->flags == 0 && next->flags == 0 && last->term == next->term &&
           last->last_index + 1 == next->first_index && last->segment == next->segment &&
           last->page + last->bytes / WAL_PAGE_BYTES == next->page &&
           last->bytes + next->bytes <= WAL_EXTENT_BYTES_MAX;
}

static void index_append(struct wal_index *index, const struct wal_extent *extent,
                         uint64_t prev_term)
{
    if (!index->anchored || extent->first_index <= wal_index_last(index) || index->count == 0)
        index_truncate(index, extent->first_index, prev_term);
    invariant(extent->first_index == wal_index_last(index) + 1); /* I1 */
    if (index->count != 0) {
        struct wal_extent *last = index->extents + index->first + index->count - 1;
        if (extent_takes(last, extent)) {
            last->last_index = extent->last_index;
            last->bytes += extent->bytes;
            return;
        }
    }
    index_insert(index, index->count, extent);
}

void wal_index_append_fault(struct wal_index *index, const struct wal_extent *fault)
{
    invariant(fault->first_index <= fault->last_index && (fault->flags & WAL_EXTENT_FAULTY) != 0);
    index_append(index, fault, wal_index_last_term(index));
    index->anchored = true;
}

void wal_index_replace(struct wal_index *index, const struct wal_extent *extent)
{
    invariant(extent->first_index >= wal_index_first(index));
    invariant(extent->last_index <= wal_index_last(index));
    uint32_t row = index_split(index, extent->first_index);
    uint32_t end = index_split(index, extent->last_index + 1);
    invariant(row < end);
    index_remove(index, row, end - row);
    index_insert(index, row, extent);
    index->extents[index->first + row].flags |= WAL_EXTENT_SEALED;
    verify((wal_index_check(index), true));
}

/* A repair replaces what is still there with the same term; the rest has been overridden since. */
static void index_repair(struct wal_index *index, const struct wal_extent *repair)
{
    uint64_t at = u64_max(repair->first_index, wal_index_first(index));
    uint64_t last = u64_min(repair->last_index, wal_index_last(index));
    while (at <= last) {
        const struct wal_extent *held = wal_index_find(index, at);
        invariant(held != NULL);
        struct wal_extent part = *repair;
        part.first_index = at;
        part.last_index = u64_min(last, held->last_index);
        at = part.last_index + 1;
        if (held->term == repair->term)
            wal_index_replace(index, &part);
    }
}

/* Returns true when the block completes an entry or more, and describes them. */
static bool index_extent_of(struct wal_index *index, const struct wal_block *block, uint32_t fault,
                            struct wal_extent *extent)
{
    if ((block->flags & WAL_BLOCK_FRAGMENT) == 0) {
        index->fragment_index = 0;
        *extent = (struct wal_extent){.first_index = block->first_index,
                                      .last_index = wal_block_last_index(block),
                                      .term = block->term,
                                      .segment = block->segment,
                                      .page = block->page,
                                      .bytes = block->bytes,
                                      .flags = fault};
        return block->entry_count != 0;
    }
    if ((block->flags & WAL_BLOCK_FRAGMENT_FIRST) != 0) {
        index->fragment_index = block->first_index;
        index->fragment_segment = block->segment;
        index->fragment_page = block->page;
        index->fragment_flags = WAL_EXTENT_FRAGMENTED;
    }
    index->fragment_flags |= fault;
    if ((block->flags & WAL_BLOCK_FRAGMENT_LAST) == 0)
        return false;
    bool whole = index->fragment_index == block->first_index;
    *extent = (struct wal_extent){.first_index = block->first_index,
                                  .last_index = block->first_index,
                                  .term = block->term,
                                  .segment = whole ? index->fragment_segment : block->segment,
                                  .page = whole ? index->fragment_page : block->page,
                                  .bytes = block->bytes,
                                  .flags = index->fragment_flags | WAL_EXTENT_FRAGMENTED};
    if (!whole) /* its first pieces were released or lost */
        extent->flags |= WAL_EXTENT_FAULTY | WAL_EXTENT_PROVEN;
    index->fragment_index = 0;
    index->fragment_flags = 0;
    return true;
}

void wal_index_apply(struct wal_index *index, const struct wal_block *block, uint32_t fault)
{
    struct wal_extent extent;
    bool continues =
        (block->flags & (WAL_BLOCK_FRAGMENT | WAL_BLOCK_FRAGMENT_FIRST)) == WAL_BLOCK_FRAGMENT;
    if (!continues)
        index->headless_index = 0;
    else if (!index->anchored)
        index->headless_index = block->first_index;
    bool has_entries = index_extent_of(index, block, fault, &extent);
    if ((block->flags & WAL_BLOCK_RESET) != 0) {
        index->first = index->count = 0;
        index->base_index = block->first_index - 1;
        index->base_term = block->prev_term;
    } else if ((block->flags & WAL_BLOCK_CUT) != 0) {
        index_truncate(index, block->first_index, block->prev_term);
    } else if (has_entries && index->headless_index == block->first_index && index->count == 0) {
        index->base_index = block->first_index; /* the entry was released with its first pieces */
        index->base_term = block->term;
        index->headless_index = 0;
    } else if (has_entries && !index->anchored && (block->flags & WAL_BLOCK_REPAIR) != 0) {
        index->base_index = block->before_index; /* a copy of what was released long ago */
        index->base_term = block->before_term;
    } else if (has_entries && (block->flags & WAL_BLOCK_REPAIR) != 0) {
        index_repair(index, &extent);
    } else if (has_entries) {
        index_append(index, &extent, block->prev_term);
    } else if (!index->anchored) {
        index->base_index = block->before_index;
        index->base_term = block->before_term;
    }
    index->anchored = true;
    verify(index->count == 0 || wal_index_row(index, 0)->first_index == index->base_index + 1);
}

void wal_index_release(struct wal_index *index, uint64_t last_index)
{
    while (index->count != 0 && wal_index_row(index, 0)->last_index <= last_index) {
        index->base_index = wal_index_row(index, 0)->last_index;
        index->base_term = wal_index_row(index, 0)->term;
        index->first++;
        index->count--;
    }
    if (index->count == 0)
        index->first = 0;
}

const struct wal_extent *wal_index_find(const struct wal_index *index, uint64_t entry_index)
{
    if (entry_index <= index->base_index)
        return NULL;
    uint32_t row = index_row_of(index, entry_index);
    return row == index->count ? NULL : wal_index_row(index, row);
}

uint32_t wal_index_lowest_segment(const struct wal_index *index, uint64_t entry_index,
                                  uint32_t otherwise)
{
    uint32_t lowest = otherwise;
    for (uint32_t row = index_row_of(index, entry_index + 1); row < index->count; row++) {
        uint32_t segment = wal_index_row(index, row)->segment;
        if (segment < lowest)
            lowest = segment;
    }
    if (index->fragment_index != 0 && index->fragment_segment < lowest)
        lowest = index->fragment_segment;
    return lowest;
}
