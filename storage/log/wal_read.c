/* Reading back: slow followers, replay after a start, and the dump of a stopped node. */
#include <errno.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"
#include "storage/log/wal_private.h"

/* A walk over durable entries. Between two awaits the log may be cut, released or recycled, so each
 * step looks the index up again and trusts no block that is not the expected one. */
struct walk {
    struct wal *wal;
    struct wal_reader reader;
    uint32_t attached; /* segment number in the reader, 0: none */
    uint64_t next, last;
    uint64_t bytes, bytes_max;
    int64_t visited;
    wal_visitor *visit;
    void *context;
    bool show_faulty;
};

/* The block at `page` of `segment`, read and checked; NULL when something else is there by now. */
static const uint8_t *walk_block(struct walk *walk, uint32_t number, uint32_t page,
                                 struct wal_block *block)
{
    struct wal *wal = walk->wal;
    uint32_t slot = wal_slot_of_segment(wal, number);
    if (slot == UINT32_MAX)
        return NULL;
    if (walk->attached != number)
        wal_reader_attach(&walk->reader, wal->segments[slot].file, wal->segment_bytes);
    walk->attached = number;
    wal->segments[slot].pins++;
    uint64_t offset = (uint64_t)page * WAL_PAGE_BYTES;
    const uint8_t *bytes = wal_reader_get(&walk->reader, offset, WAL_PAGE_BYTES);
    bool good = bytes != NULL && wal_block_decode(bytes, block) == WAL_HEADER_VALID &&
                block->log_id == wal->log_id && block->segment == number && block->page == page &&
                block->bytes <= wal->block_bytes_max;
    if (good) {
        bytes = wal_reader_get(&walk->reader, offset, block->bytes);
        good = bytes != NULL && wal_body_check(block, bytes) != WAL_BODY_DAMAGED;
    }
    slot = wal_slot_of_segment(wal, number); /* the table may have shifted while we waited */
    invariant(slot != UINT32_MAX && wal->segments[slot].pins > 0);
    if (--wal->segments[slot].pins == 0 && number < wal->superblock.oldest_segment)
        wal_keeper_kick(wal); /* released meanwhile: it waits for us */
    return good ? bytes : NULL;
}

static int walk_visit(struct walk *walk, const struct entry *entry)
{
    invariant(entry->index == walk->next);
    walk->next++;
    walk->visited++;
    walk->bytes += entry->payload_bytes;
    return walk->visit(walk->context, entry);
}

static bool walk_is_done(const struct walk *walk)
{
    return walk->next > walk->last || (walk->visited != 0 && walk->bytes >= walk->bytes_max);
}

/* Puts one large entry together from its pieces, which follow each other block by block. */
static int walk_fragments(struct walk *walk, const struct wal_extent *extent)
{
    uint32_t segment = extent->segment, page = extent->page;
    uint8_t *payload = NULL;
    uint64_t sequence = 0;
    struct entry whole = {0};
    int result = ERR_CORRUPT;
    for (uint32_t filled = 0;;) {
        struct wal_block block;
        const uint8_t *bytes = walk_block(walk, segment, page, &block);
        if (bytes == NULL && page != 0 && sequence != 0) {
            page = 0; /* the next piece did not fit: it begins the next segment */
            segment++;
            continue;
        }
        if (bytes == NULL || (block.flags & WAL_BLOCK_FRAGMENT) == 0 ||
            block.first_index != walk->next || (sequence != 0 && block.sequence != sequence + 1))
            break;
        struct wal_body_cursor cursor;
        struct entry piece;
        wal_body_begin(&cursor, &block, bytes);
        bool has_piece = wal_body_next(&cursor, &piece);
        invariant(has_piece);
        if (payload == NULL) {
            payload = malloc(piece.payload_bytes);
            if (payload == NULL)
                return -ENOMEM;
            whole = piece;
        }
        if (cursor.fragment.offset != filled || piece.payload_bytes != whole.payload_bytes)
            break;
        memcpy(payload + filled, piece.payload, cursor.fragment.bytes);
        filled += cursor.fragment.bytes;
        sequence = block.sequence;
        page += block.bytes / WAL_PAGE_BYTES;
        if ((block.flags & WAL_BLOCK_FRAGMENT_LAST) == 0)
            continue;
        whole.payload = payload;
        if (filled == whole.payload_bytes && wal_payload_good(&whole))
            result = walk_visit(walk, &whole);
        break;
    }
    free(payload);
    return result;
}

/* Visits what one extent has from walk->next on. */
static int walk_extent(struct walk *walk, struct wal_extent extent)
{
    uint32_t page = extent.page;
    uint64_t end = u64_min(extent.last_index, walk->last);
    while (walk->next <= end && !walk_is_done(walk)) {
        struct wal_block block;
        const uint8_t *bytes = walk_block(walk, extent.segment, page, &block);
        if (bytes == NULL || block.term != extent.term || block.entry_count == 0 ||
            block.first_index > walk->next)
            return ERR_CORRUPT;
        struct wal_body_cursor cursor;
        struct entry entry;
        for (wal_body_begin(&cursor, &block, bytes); wal_body_next(&cursor, &entry);) {
            if (entry.index < walk->next)
                continue;
            if (entry.index > end || walk_is_done(walk))
                return 0;
            if (!wal_payload_good(&entry))
                return ERR_CORRUPT;
            int result = walk_visit(walk, &entry);
            if (result != 0)
                return result;
        }
        page += block.bytes / WAL_PAGE_BYTES;
    }
    return 0;
}

static int walk_faulty(struct walk *walk, struct wal_extent extent)
{
    if (!walk->show_faulty)
        return ERR_CORRUPT;
    while (walk->next <= extent.last_index && walk->next <= walk->last) {
        struct entry entry = {.index = walk->next, .term = extent.term, .tag = WAL_ENTRY_FAULTY};
        int result = walk_visit(walk, &entry);
        if (result != 0)
            return result;
    }
    return 0;
}

/* 0: done, 1: the visitor stopped, negative: an error. */
static int walk_run(struct walk *walk)
{
    uint32_t bytes = walk->wal->block_bytes_max;
    if (walk->show_faulty) /* it goes on to the end */
        bytes = (uint32_t)u64_max(bytes, WAL_READ_BYTES);
    int result = wal_reader_init(&walk->reader, bytes);
    while (result == 0 && !walk_is_done(walk)) {
        const struct wal_extent *extent = wal_index_find(&walk->wal->index, walk->next);
        if (extent == NULL) {
            bool released = walk->next <= walk->wal->index.base_index;
            if (walk->visited == 0 || walk->show_faulty)
                result = released ? ERR_COMPACTED : ERR_NOT_FOUND;
            break;
        }
        uint64_t before = walk->next;
        if ((extent->flags & WAL_EXTENT_FAULTY) != 0)
            result = walk_faulty(walk, *extent);
        else if ((extent->flags & WAL_EXTENT_FRAGMENTED) != 0)
            result = walk_fragments(walk, extent);
        else
            result = walk_extent(walk, *extent);
        bool moved = wal_index_find(&walk->wal->index, before) == NULL;
        if (result == ERR_CORRUPT && moved)
            result = ERR_COMPACTED; /* released, or cut, under our feet */
        invariant(result != 0 || walk->next > before);
    }
    wal_reader_deinit(&walk->reader);
    return result;
}

int64_t wal_read(struct wal *wal, uint64_t first, uint64_t last, uint64_t bytes_max,
                 wal_visitor *visit, void *context)
{
    invariant(core_current() == wal->core && fiber_current() != NULL);
    struct walk walk = {.wal = wal,
                        .next = first,
                        .last = u64_min(last, wal_last_index(wal)),
                        .bytes_max = bytes_max,
                        .visit = visit,
                        .context = context};
    if (first < wal_first_index(wal))
        return ERR_COMPACTED;
    if (first > walk.last)
        return ERR_NOT_FOUND;
    int result = walk_run(&walk);
    return result < 0 && walk.visited == 0       ? result
           : result < 0 && result != ERR_CORRUPT ? result
                                                 : walk.visited;
}

int wal_replay(struct wal *wal, uint64_t from, wal_visitor *visit, void *context)
{
    invariant(core_current() == wal->core && fiber_current() != NULL);
    struct walk walk = {.wal = wal,
                        .next = from,
                        .last = wal_last_index(wal),
                        .bytes_max = UINT64_MAX,
                        .visit = visit,
                        .context = context,
                        .show_faulty = true};
    if (from < wal_first_index(wal))
        return ERR_COMPACTED;
    int result = walk_run(&walk);
    return result < 0 ? result : 0;
}

static int dump_walk(struct wal_scan *scan, uint64_t from, wal_visitor *visit, void *context)
{
    struct wal *wal = calloc(1, sizeof(*wal)); /* as much of an open log as a walk looks at */
    if (wal == NULL)
        return -ENOMEM;
    wal->log_id = scan->superblock.log_id;
    wal->segment_bytes = scan->superblock.segment_bytes;
    wal->block_bytes_max = scan->superblock.block_bytes_max;
    wal->segments = scan->segments;
    wal->segment_count = scan->segment_count;
    wal->index = scan->index;
    wal->superblock = scan->superblock;
    struct walk walk = {.wal = wal,
                        .next = from == 0 ? wal_index_first(&scan->index) : from,
                        .last = wal_index_last(&scan->index),
                        .bytes_max = UINT64_MAX,
                        .visit = visit,
                        .context = context,
                        .show_faulty = true};
    int result = ERR_COMPACTED;
    if (walk.next >= wal_index_first(&scan->index))
        result = walk_run(&walk);
    free(wal);
    return result < 0 ? result : 0;
}

static int dump_run(struct wal_scan *scan, const char *directory, struct wal_recovered *recovered)
{
    invariant(fiber_current() != NULL);
    scan->directory = directory;
    scan->recovered = recovered;
    return wal_scan_run(scan);
}

int wal_dump(const char *directory, const struct wal_dump_visitor *visitor,
             struct wal_recovered *recovered)
{
    struct wal_scan *scan = calloc(1, sizeof(*scan));
    if (scan == NULL)
        return -ENOMEM;
    scan->visitor = visitor;
    int result = dump_run(scan, directory, recovered);
    wal_scan_deinit(scan);
    free(scan);
    return result;
}

int wal_dump_entries(const char *directory, uint64_t from, wal_visitor *visit, void *context,
                     struct wal_recovered *recovered)
{
    struct wal_scan *scan = calloc(1, sizeof(*scan));
    if (scan == NULL)
        return -ENOMEM;
    int result = dump_run(scan, directory, recovered);
    if (result == 0 && scan->segments != NULL)
        result = dump_walk(scan, from, visit, context);
    wal_scan_deinit(scan);
    free(scan);
    return result;
}
