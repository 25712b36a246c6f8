#include "tests/sim/whole_media.h"

#include <stdlib.h>

#include "core/invariant.h"
#include "storage/log/wal_private.h"
#include "tests/sim/memory.h"

void whole_media_init(struct whole_media *media, struct sim_disk *disk)
{
    *media = (struct whole_media){.disk = disk, .block = sim_alloc(WAL_BLOCK_BYTES_LIMIT)};
}

void whole_media_deinit(struct whole_media *media)
{
    free(media->terms);
    free(media->block);
}

void whole_media_opened(struct whole_media *media, struct wal *wal)
{
    media->wal = wal;
    media->walk_segment = 0;
    media->hard_state_sequence = wal->durable_sequence;
}

void whole_media_closed(struct whole_media *media)
{
    media->wal = NULL;
}

static void seen(struct whole_media *media, uint64_t index, uint64_t term)
{
    if (index >= media->capacity) {
        uint64_t capacity = media->capacity == 0 ? 1024 : media->capacity;
        while (capacity <= index)
            capacity *= 2;
        media->terms = sim_realloc(media->terms, capacity * sizeof(*media->terms));
        memset(media->terms + media->capacity, 0,
               (capacity - media->capacity) * sizeof(*media->terms));
        media->capacity = capacity;
    }
    media->terms[index] = term;
}

void whole_media_recovered(struct whole_media *media, const struct raft_start *start,
                           const struct raft_storage *storage)
{
    media->hard_state = start->hard_state;
    media->in_tables = start->applied_index;
    seen(media, start->compacted_index, start->compacted_term); /* in a snapshot */
    seen(media, start->last_index, start->last_term);
    for (uint64_t index = start->last_index + 1; index < media->capacity; index++)
        media->terms[index] = 0;
    for (uint64_t index = start->compacted_index + 1; index <= start->last_index; index++) {
        struct entry entry;
        int error = storage->lookup(storage->context, index, &entry);
        invariant(error == 0);
        seen(media, index, entry.term);
    }
    struct wal_fault fault;
    for (uint32_t slot = 0; media->wal != NULL && slot < wal_fault_count(media->wal); slot++)
        if (wal_fault_get(media->wal, slot, &fault))
            for (uint64_t index = fault.first_index; index <= fault.last_index; index++)
                seen(media, index, 0);
}

/* The block at (segment, page), whole, from the medium; false: not there. */
static bool read_block(struct whole_media *media, uint32_t segment, uint32_t page,
                       struct wal_block *block)
{
    const struct wal *wal = media->wal;
    char path[WAL_PATH_BYTES];
    uint64_t offset = (uint64_t)page * WAL_PAGE_BYTES;
    wal_segment_path(path, wal->directory, segment);
    return sim_disk_read_durable(media->disk, path, offset, media->block, WAL_PAGE_BYTES) &&
           wal_block_decode(media->block, block) == WAL_HEADER_VALID &&
           block->log_id == wal->log_id && block->segment == segment && block->page == page &&
           block->bytes <= wal->block_bytes_max &&
           sim_disk_read_durable(media->disk, path, offset, media->block, block->bytes) &&
           wal_body_check(block, media->block) == WAL_BODY_GOOD;
}

/* Remembers what the blocks of the extent hold on the medium, up to `index`. */
static void walk_extent(struct whole_media *media, const struct wal_extent *extent, uint64_t index)
{
    bool goes_on = media->walk_segment == extent->segment && media->walk_page == extent->page;
    uint32_t segment = goes_on ? media->at_segment : extent->segment;
    uint32_t page = goes_on ? media->at_page : extent->page;
    bool again = false; /* behind the end of a segment already */
    media->walk_segment = media->at_segment = extent->segment;
    media->walk_page = media->at_page = extent->page;
    for (;;) {
        struct wal_block block;
        if (!read_block(media, segment, page, &block)) {
            if (again || page == 0)
                return;
            again = true; /* the next piece of a large entry begins the next segment */
            segment++;
            page = 0;
            continue;
        }
        again = false;
        media->at_segment = segment;
        media->at_page = page;
        uint64_t last = u64_min(wal_block_last_index(&block), extent->last_index);
        for (uint64_t at = block.first_index; block.entry_count > 0 && at <= last; at++)
            seen(media, at, block.term);
        if (block.first_index > index || (block.entry_count > 0 && last >= index))
            return;
        page += block.bytes / WAL_PAGE_BYTES;
    }
}

bool whole_media_has(struct whole_media *media, uint64_t index, uint64_t term)
{
    const struct wal *wal = media->wal;
    if (index <= media->in_tables)
        return true; /* executed, so committed: nobody has another one there */
    bool known = index < media->capacity && media->terms[index] == term;
    if (wal == NULL || wal_index_first(&wal->index) > index)
        return known;
    const struct wal_extent *extent = wal_index_find(&wal->index, index);
    if (extent == NULL || extent->term != term || (extent->flags & WAL_EXTENT_FAULTY) != 0)
        return false;
    if (!known)
        walk_extent(media, extent, index);
    return index < media->capacity && media->terms[index] == term;
}

const struct hard_state *whole_media_hard_state(struct whole_media *media)
{
    const struct wal *wal = media->wal;
    if (wal == NULL || wal->durable_sequence == media->hard_state_sequence)
        return &media->hard_state;
    struct wal_block newest, block;
    size_t cell = (size_t)wal_in_flight(wal) * WAL_HEADER_BYTES;
    if (wal_block_decode(wal->history + cell, &newest) == WAL_HEADER_VALID &&
        newest.sequence == wal->durable_sequence &&
        read_block(media, newest.segment, newest.page, &block)) {
        invariant(block.header_crc == newest.header_crc);
        media->hard_state = block.hard_state;
        media->hard_state_sequence = block.sequence;
    }
    return &media->hard_state;
}
