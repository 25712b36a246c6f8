/* Recovery, second half: walks the blocks and decides about each by evidence, never by position.
 *
 * Several blocks are in flight at once, so a hole followed by a valid block can be an honest crash,
 * and a bad block can be a write that was acknowledged and rotted since. The rows (of
 * docs/internals/storage-log.md), tried in this order for the block that must come next:
 *   R1  block valid, chain valid                                   keep it
 *   R2  block bad, but something proves it was durable: a later
 *       block's or the superblock's durable_upto, or the ring
 *    a  ...its own header, or a copy in the ring, in its own or a
 *       later trail, is sound                                      faulty, proven
 *    b  ...the next sound block tells what came before it, and one
 *       term spans the gap                                         faulty, proven
 *   R3  block bad, not proven, but its own trail is sound          faulty, not proven: it may have
 *                                                                  been acknowledged
 *   R4  block bad, not proven, its own trail never landed          torn: it was never acknowledged,
 *                                                                  nor was anything behind it; cut
 *   R5  proven, and no identity to be had                          fenced
 *   R6  one superblock bad: use the other; both: refuse            (wal_scan.c) */
#include "storage/log/wal_private.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"

/* ---- looking ------------------------------------------------------------------------------------
 */

static const uint8_t *scan_bytes(struct wal_scan *scan, struct wal_position at, uint32_t bytes)
{
    if (at.slot >= scan->segment_count)
        return NULL;
    const struct wal_segment *segment = &scan->segments[at.slot];
    if (scan->reader.file.fd != segment->file.fd)
        wal_reader_attach(&scan->reader, segment->file, scan->superblock.segment_bytes);
    return wal_reader_get(&scan->reader, at.offset, bytes);
}

/* A sound header of this log that belongs exactly here; a recycled segment's old blocks do not. */
static enum wal_header_status header_at(struct wal_scan *scan, struct wal_position at,
                                        struct wal_block *block)
{
    const uint8_t *page = scan_bytes(scan, at, WAL_PAGE_BYTES);
    if (page == NULL)
        return WAL_HEADER_ABSENT;
    enum wal_header_status status = wal_block_decode(page, block);
    if (status != WAL_HEADER_VALID)
        return status;
    bool belongs = block->log_id == scan->superblock.log_id &&
                   block->segment == scan->segments[at.slot].number &&
                   block->page == at.offset / WAL_PAGE_BYTES &&
                   at.offset + block->bytes <= scan->superblock.segment_bytes &&
                   block->bytes <= scan->superblock.block_bytes_max;
    return belongs ? WAL_HEADER_VALID : WAL_HEADER_ABSENT;
}

/* The next block is right behind the last one or, when it did not fit there, at the start of the
 * next segment. */
static uint32_t candidates(const struct wal_scan *scan, struct wal_position *at)
{
    uint32_t count = 0;
    if (scan->at.offset < scan->superblock.segment_bytes)
        at[count++] = scan->at;
    if (scan->at.offset != 0 && scan->at.slot + 1 < scan->segment_count)
        at[count++] = (struct wal_position){.slot = scan->at.slot + 1};
    return count;
}

static bool continues(const struct wal_scan *scan, const struct wal_block *block)
{
    if (scan->expected == 0)
        return true;
    return block->sequence == scan->expected &&
           (!scan->last_crc_known || block->previous_crc == scan->last.header_crc);
}

static bool is_proven(const struct wal_scan *scan)
{
    if (scan->expected == 0) /* the oldest segment is only kept because it holds something */
        return true;
    return scan->proof >= scan->expected;
}

/* The copy of the header that must come next, if it names a place where the block can be. */
static const struct wal_block *copied_identity(const struct wal_scan *scan, struct wal_position *at)
{
    struct wal_position places[2];
    uint32_t place_count = candidates(scan, places);
    const struct wal_block *found = NULL;
    if (scan->expected != 0) {
        found = wal_scan_copy(scan, scan->expected);
    } else {
        for (uint32_t i = 0; i < scan->copy_capacity; i++) {
            const struct wal_block *header = &scan->copies[i];
            if (header->sequence != 0 && header->segment == scan->segments[0].number &&
                header->page == 0)
                found = header;
        }
        if (scan->wanted.sequence != 0)
            found = &scan->wanted;
    }
    if (found == NULL || !continues(scan, found))
        return NULL;
    for (uint32_t i = 0; i < place_count; i++)
        if (found->segment == scan->segments[places[i].slot].number &&
            found->page == places[i].offset / WAL_PAGE_BYTES) {
            *at = places[i];
            return found;
        }
    return NULL;
}

/* ---- looking behind a hole ----------------------------------------------------------------------
 */

static bool same_place(struct wal_position a, struct wal_position b)
{
    return a.slot == b.slot && a.offset == b.offset;
}

static void survivor_add(struct wal_scan *scan, struct wal_position at,
                         const struct wal_block *block)
{
    if (block->sequence <= scan->expected || scan->survivor_count == WAL_SURVIVORS_MAX)
        return;
    for (uint32_t i = 0; i < scan->survivor_count; i++)
        if (same_place(scan->survivors[i].at, at))
            return; /* its trail, after its header */
    scan->survivors[scan->survivor_count++] = (struct wal_survivor){.block = *block, .at = at};
}

/* A trail at this page: copies, whether the block that it ends ever had a sound header or not. */
static void learn_trail(struct wal_scan *scan, struct wal_position at, const uint8_t *page)
{
    uint32_t segment = scan->segments[at.slot].number;
    struct wal_block ends;
    if (wal_block_decode(page, &ends) != WAL_HEADER_VALID ||
        ends.log_id != scan->superblock.log_id || ends.segment != segment ||
        (uint64_t)ends.page * WAL_PAGE_BYTES + wal_trail_offset(&ends) != at.offset)
        return; /* of a recycled segment, or no trail */
    wal_scan_learn_page(scan, page);
    at.offset = (uint64_t)ends.page * WAL_PAGE_BYTES;
    if (ends.sequence == scan->expected || (scan->expected == 0 && at.slot == 0 && ends.page == 0))
        scan->own_trail = ends.sequence;
    survivor_add(scan, at, &ends);
}

static void look_at_page(struct wal_scan *scan, struct wal_position at)
{
    struct wal_block block;
    if (header_at(scan, at, &block) != WAL_HEADER_VALID) {
        const uint8_t *page = scan_bytes(scan, at, WAL_PAGE_BYTES);
        if (page != NULL)
            learn_trail(scan, at, page);
        return;
    }
    wal_scan_learn(scan, &block);
    survivor_add(scan, at, &block);
    at.offset += wal_trail_offset(&block);
    const uint8_t *page = scan_bytes(scan, at, WAL_PAGE_BYTES);
    if (page != NULL)
        learn_trail(scan, at, page);
}

/* Looks behind a hole: for proof that it was durable, for copies of what it was, and for what would
 * have to be erased if it was not. Blocks in flight lie within a window; the rest is only searched
 * once there is proof. */
static void look_behind(struct wal_scan *scan)
{
    const struct wal_superblock *superblock = &scan->superblock;
    uint64_t window = (uint64_t)(superblock->writes_max + 1) * superblock->block_bytes_max;
    uint64_t looked = 0;
    struct wal_position at = scan->at, ignored;
    for (; at.slot < scan->segment_count; at.slot++, at.offset = 0) {
        for (; at.offset < superblock->segment_bytes; at.offset += WAL_PAGE_BYTES) {
            bool proven = is_proven(scan);
            if (proven && (scan->survivor_count != 0 || copied_identity(scan, &ignored) != NULL))
                return;
            if (looked >= window && !proven && at.offset != 0)
                break;
            looked += WAL_PAGE_BYTES;
            look_at_page(scan, at);
        }
    }
}

/* ---- deciding -----------------------------------------------------------------------------------
 */

static void show(struct wal_scan *scan, const struct wal_block *block, uint32_t fault,
                 const uint8_t *body)
{
    if (scan->visitor == NULL)
        return;
    struct wal_dump_block dump = {.segment = block->segment,
                                  .offset = (uint64_t)block->page * WAL_PAGE_BYTES,
                                  .bytes = block->bytes,
                                  .sequence = block->sequence,
                                  .first_index = block->first_index,
                                  .term = block->term,
                                  .durable_upto = block->durable_upto,
                                  .entry_count = block->entry_count,
                                  .flags = block->flags,
                                  .hard_state = block->hard_state,
                                  .valid = (fault & WAL_EXTENT_FAULTY) == 0,
                                  .proven = (fault & WAL_EXTENT_PROVEN) != 0};
    scan->visitor->block(scan->visitor->context, &dump);
    if (scan->visitor->entry == NULL || body == NULL)
        return;
    struct wal_body_cursor cursor;
    struct entry entry;
    for (wal_body_begin(&cursor, block, body); wal_body_next(&cursor, &entry);)
        if ((block->flags & WAL_BLOCK_FRAGMENT) == 0 && wal_payload_good(&entry))
            scan->visitor->entry(scan->visitor->context, &entry);
}

/* S1. `body` is NULL when only the header is known. */
static void keep(struct wal_scan *scan, struct wal_position at, const struct wal_block *block,
                 uint32_t fault, const uint8_t *body)
{
    show(scan, block, fault, body);
    wal_index_apply(&scan->index, block, fault);
    scan->last = *block;
    scan->last_crc_known = true;
    scan->expected = block->sequence + 1;
    wal_scan_learn(scan, block); /* ring and trails to come repeat it */
    if (at.offset == 0)
        scan->segments[at.slot].base_index = wal_block_base_index(block);
    at.offset += block->bytes;
    scan->at = at;
    scan->recovered->blocks++;
    if (fault != 0)
        log_warn("damaged log block", LOG_U64("segment", block->segment),
                 LOG_U64("offset", (uint64_t)block->page * WAL_PAGE_BYTES),
                 LOG_U64("first_index", block->first_index), LOG_U64("entries", block->entry_count),
                 LOG_U64("term", block->term),
                 LOG_BOOL("proven", (fault & WAL_EXTENT_PROVEN) != 0));
}

/* Records are sound: only entries whose own payload is bad are lost. */
static void keep_with_bad_payloads(struct wal_scan *scan, struct wal_position at,
                                   const struct wal_block *block, uint32_t fault,
                                   const uint8_t *body)
{
    if ((block->flags & WAL_BLOCK_REPAIR) != 0) {
        keep(scan, at, block, fault, body);
        return;
    }
    keep(scan, at, block, 0, body);
    struct wal_body_cursor cursor;
    struct entry entry;
    for (wal_body_begin(&cursor, block, body); wal_body_next(&cursor, &entry);) {
        if (wal_payload_good(&entry) || entry.index <= scan->index.base_index)
            continue;
        struct wal_extent extent = {.first_index = entry.index,
                                    .last_index = entry.index,
                                    .term = entry.term,
                                    .segment = block->segment,
                                    .page = block->page,
                                    .bytes = block->bytes,
                                    .flags = fault};
        wal_index_replace(&scan->index, &extent);
        log_warn("damaged log entry", LOG_U64("index", entry.index), LOG_U64("term", entry.term),
                 LOG_U64("segment", block->segment));
    }
}

static void describe(struct wal_scan *scan, enum wal_verdict verdict, const char *what)
{
    char path[WAL_PATH_BYTES];
    wal_segment_path(path, scan->directory, scan->segments[scan->at.slot].number);
    scan->recovered->verdict = verdict;
    snprintf(scan->recovered->reason, sizeof(scan->recovered->reason), "%.160s at offset %llu: %s",
             path, (unsigned long long)scan->at.offset, what);
}

/* R5. */
static int fence(struct wal_scan *scan, const char *what)
{
    describe(scan, WAL_VERDICT_FENCED, what);
    log_error("log is fenced: no vote, no acknowledgement",
              LOG_TEXT("reason", scan->recovered->reason));
    return 0;
}

/* R4. */
static int cut(struct wal_scan *scan)
{
    if (scan->survivor_count != 0 && planted_bug(hole_is_damage))
        return fence(scan, "blocks are missing");
    bool any =
        scan->header_torn || scan->survivor_count != 0 || scan->sequence_seen_max >= scan->expected;
    if (any) {
        for (uint32_t i = 0; i < scan->survivor_count; i++)
            scan->recovered->torn_bytes += scan->survivors[i].block.bytes;
        scan->recovered->torn_bytes += scan->header_torn ? WAL_PAGE_BYTES : 0;
        describe(scan, WAL_VERDICT_TORN, "torn tail cut here: it was never acknowledged");
    }
    sometimes(scan->survivor_count != 0, "wal: hole in the log, later blocks discarded");
    sometimes(any, "wal: torn log tail");
    return 0;
}

/* R2b. The state before the hole and the state that the next sound block saw: when both end in the
 * same term, everything between is that one leader's, appended in order. */
static int infer(struct wal_scan *scan)
{
    const struct wal_survivor *next = &scan->survivors[0];
    uint64_t last = wal_index_last(&scan->index);
    uint64_t term = wal_index_last_term(&scan->index);
    bool known = scan->last.sequence != 0 || scan->superblock.oldest_segment == 1;
    if (!known || next->block.before_term != term || next->block.before_index < last)
        return fence(scan, "identity of durable blocks is lost");
    log_warn("log blocks lost, identity inferred from their neighbours",
             LOG_U64("first_sequence", scan->expected),
             LOG_U64("next_sequence", next->block.sequence), LOG_U64("first_index", last + 1),
             LOG_U64("last_index", next->block.before_index), LOG_U64("term", term));
    if (next->block.before_index > last) {
        struct wal_extent fault = {.first_index = last + 1,
                                   .last_index = next->block.before_index,
                                   .term = term,
                                   .segment = scan->segments[scan->at.slot].number,
                                   .page = (uint32_t)(scan->at.offset / WAL_PAGE_BYTES),
                                   .flags = WAL_EXTENT_FAULTY | WAL_EXTENT_PROVEN};
        wal_index_append_fault(&scan->index, &fault);
    }
    scan->index.fragment_index = 0;
    scan->last_crc_known = false;
    scan->expected = next->block.sequence;
    scan->at = next->at;
    scan->survivor_count = 0;
    return 1;
}

static void remember_lost_header(struct wal_scan *scan, struct wal_position at,
                                 const struct wal_block *block)
{
    if (scan->lost_header_count == scan->lost_header_capacity) {
        uint32_t capacity = scan->lost_header_capacity == 0 ? 16 : 2 * scan->lost_header_capacity;
        void *grown = realloc(scan->lost_headers, capacity * sizeof(*scan->lost_headers));
        if (grown == NULL)
            fatal("log recovery: out of memory");
        scan->lost_headers = grown;
        scan->lost_header_capacity = capacity;
    }
    scan->lost_headers[scan->lost_header_count++] =
        (struct wal_survivor){.block = *block, .at = at};
}

/* R2a, R3: the block stays, without what is damaged. */
static void keep_bad(struct wal_scan *scan, struct wal_position at,
                     const struct wal_block *identity, bool records_good)
{
    struct wal_block block = *identity;
    uint32_t fault = WAL_EXTENT_FAULTY | (is_proven(scan) ? WAL_EXTENT_PROVEN : 0);
    sometimes(!is_proven(scan), "wal: bad block, not proven durable, trail sound");
    if (!is_proven(scan) && scan->unproven == 0)
        scan->unproven = block.sequence;
    scan->survivor_count = 0;
    const uint8_t *body = records_good ? scan_bytes(scan, at, block.bytes) : NULL;
    if (body != NULL && wal_body_check(&block, body) == WAL_BODY_PAYLOAD_DAMAGED)
        keep_with_bad_payloads(scan, at, &block, fault, body);
    else
        keep(scan, at, &block, fault, NULL);
}

/* The next block is bad. `own` is its header where that is sound, and `records_good` says that only
 * payloads are damaged. */
static int decide_bad(struct wal_scan *scan, struct wal_position at, const struct wal_block *own,
                      bool records_good)
{
    if (own == NULL || !is_proven(scan))
        look_behind(scan);
    struct wal_position copy_at = at;
    const struct wal_block *copy = copied_identity(scan, &copy_at);
    if (own != NULL && copy != NULL && copy->header_crc != own->header_crc)
        copy = NULL;
    bool trail_landed = copy != NULL && scan->own_trail == copy->sequence;
    if (is_proven(scan) || trail_landed) {
        if (own != NULL) {
            keep_bad(scan, at, own, records_good);
            return 1;
        }
        if (copy != NULL) {
            remember_lost_header(scan, copy_at, copy);
            keep_bad(scan, copy_at, copy, false);
            return 1;
        }
    }
    if (!is_proven(scan)) { /* R4 */
        struct wal_block ignored;
        scan->at = at;
        scan->header_torn = header_at(scan, at, &ignored) != WAL_HEADER_ABSENT;
        return cut(scan);
    }
    if (scan->survivor_count == 0)
        look_behind(scan);
    if (scan->survivor_count == 0)
        return fence(scan, "identity of durable blocks is lost, nothing sound follows");
    return infer(scan); /* R2b, R5 */
}

/* 1: go on, 0: the end, negative: refused. */
static int walk_step(struct wal_scan *scan)
{
    struct wal_position places[2];
    uint32_t place_count = candidates(scan, places);
    if (place_count == 0)
        return 0;
    for (uint32_t i = 0; i < place_count; i++) {
        struct wal_block block;
        enum wal_header_status status = header_at(scan, places[i], &block);
        if (status == WAL_HEADER_VERSION) {
            char path[WAL_PATH_BYTES];
            wal_segment_path(path, scan->directory, scan->segments[places[i].slot].number);
            return wal_refuse(scan->recovered, ERR_VERSION, path, places[i].offset,
                              "log block of an unknown format version");
        }
        if (status != WAL_HEADER_VALID || !continues(scan, &block))
            continue;
        uint64_t last_term = wal_index_last_term(&scan->index);
        if (scan->index.anchored && last_term != 0 &&
            (block.before_index != wal_index_last(&scan->index) || block.before_term != last_term))
            return fence(scan, "a block does not continue what precedes it");
        if (block.first_index > block.before_index + 1 && (block.flags & WAL_BLOCK_RESET) == 0)
            return fence(scan, "a block leaves a gap in the log");
        const uint8_t *body = scan_bytes(scan, places[i], block.bytes);
        enum wal_body_status body_status =
            body == NULL ? WAL_BODY_DAMAGED : wal_body_check(&block, body);
        if (body_status == WAL_BODY_GOOD) { /* R1 */
            keep(scan, places[i], &block, 0, body);
            return 1;
        }
        if (scan->expected == 0)
            scan->expected = block.sequence;
        return decide_bad(scan, places[i], &block, body_status == WAL_BODY_PAYLOAD_DAMAGED);
    }
    return decide_bad(scan, places[0], NULL, false);
}

static void summarize(struct wal_scan *scan)
{
    struct wal_recovered *recovered = scan->recovered;
    const struct wal_index *index = &scan->index;
    recovered->hard_state = scan->last.hard_state;
    const struct wal_block *newest = wal_scan_copy(scan, scan->sequence_seen_max);
    if (recovered->verdict == WAL_VERDICT_FENCED && newest != NULL &&
        newest->sequence > scan->last.sequence)
        recovered->hard_state = newest->hard_state; /* the most this node may have promised */
    recovered->first_index = wal_index_first(index);
    recovered->last_index = wal_index_last(index);
    recovered->last_term = wal_index_last_term(index);
    recovered->base_index = index->base_index;
    recovered->base_term = index->base_term;
    const struct wal_extent *first_fault = NULL;
    for (uint32_t row = 0; row < index->count; row++) {
        const struct wal_extent *extent = wal_index_row(index, row);
        if ((extent->flags & WAL_EXTENT_FAULTY) == 0)
            continue;
        recovered->fault_proven_count += (extent->flags & WAL_EXTENT_PROVEN) != 0;
        if (recovered->fault_count++ == 0) {
            recovered->fault_first_index = extent->first_index;
            first_fault = extent;
        }
    }
    if (recovered->verdict == WAL_VERDICT_FENCED)
        return;
    if (first_fault != NULL) {
        char path[WAL_PATH_BYTES];
        wal_segment_path(path, scan->directory, first_fault->segment);
        recovered->verdict = WAL_VERDICT_FAULTY;
        snprintf(recovered->reason, sizeof(recovered->reason),
                 "%.120s at offset %llu: entries %llu to %llu cannot be read (damaged ranges: %u)",
                 path, (unsigned long long)first_fault->page * WAL_PAGE_BYTES,
                 (unsigned long long)first_fault->first_index,
                 (unsigned long long)first_fault->last_index, recovered->fault_count);
    }
}

/* What the log's next trails will repeat. */
static void learn_last_trail(struct wal_scan *scan)
{
    struct wal_position at = scan->at;
    if (at.offset < WAL_TRAIL_BYTES)
        return;
    at.offset -= WAL_TRAIL_BYTES;
    const uint8_t *page = scan_bytes(scan, at, WAL_TRAIL_BYTES);
    if (page != NULL)
        learn_trail(scan, at, page);
}

int wal_scan_walk(struct wal_scan *scan)
{
    struct wal_recovered *recovered = scan->recovered;
    recovered->verdict = WAL_VERDICT_OK;
    scan->expected = scan->superblock.oldest_segment == 1 ? 1 : 0;
    scan->at = (struct wal_position){0};
    int step;
    do {
        step = walk_step(scan);
    } while (step == 1);
    if (step < 0)
        return step;
    invariant(scan->expected == scan->last.sequence + 1 ||
              recovered->verdict == WAL_VERDICT_FENCED);
    if (recovered->verdict == WAL_VERDICT_OK && scan->last.sequence == 0)
        recovered->verdict = WAL_VERDICT_EMPTY;
    verify((wal_index_check(&scan->index), true));
    summarize(scan);
    learn_last_trail(scan);
    return 0;
}
