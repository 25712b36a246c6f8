#include "storage/log/wal_format.h"

#include "core/crc32c.h"
#include "core/invariant.h"

/* Byte offsets on disk; docs/formats/log-block.md repeats them. */
enum {
    HEADER_MAGIC = 0,
    HEADER_VERSION = 4,
    HEADER_FLAGS = 6,
    HEADER_CRC = 8,
    HEADER_BYTES = 12,
    HEADER_LOG_ID = 16,
    HEADER_SEQUENCE = 24,
    HEADER_SEGMENT = 32,
    HEADER_PAGE = 36,
    HEADER_PREVIOUS_CRC = 40,
    HEADER_RECORDS_CRC = 44,
    HEADER_ENTRY_COUNT = 48,
    HEADER_USED_BYTES = 52,
    HEADER_DURABLE_UPTO = 56,
    HEADER_TERM = 64,
    HEADER_VOTE = 72,
    HEADER_COMMIT = 80,
    HEADER_FIRST_INDEX = 88,
    HEADER_ENTRY_TERM = 96,
    HEADER_PREV_TERM = 104,
    HEADER_BEFORE_INDEX = 112,
    HEADER_BEFORE_TERM = 120,

    RECORD_INDEX = 0,
    RECORD_TERM = 8,
    RECORD_PAYLOAD_BYTES = 16,
    RECORD_PAYLOAD_CRC = 20,
    RECORD_TYPE = 24,
    RECORD_CRC = 28,

    FRAGMENT_OFFSET = 0,
    FRAGMENT_BYTES = 4,
    FRAGMENT_CRC = 8,
    FRAGMENT_RESERVED = 12,

    SUPER_MAGIC = 0,
    SUPER_VERSION = 4,
    SUPER_FLAGS = 6,
    SUPER_CRC = 8,
    SUPER_RING_SLOTS = 12,
    SUPER_LOG_ID = 16,
    SUPER_GENERATION = 24,
    SUPER_SEGMENT_BYTES = 32,
    SUPER_BLOCK_BYTES = 40,
    SUPER_WRITES_MAX = 44,
    SUPER_OLDEST_SEGMENT = 48,
    SUPER_DURABLE = 56,
    SUPER_TERM = 64,
    SUPER_VOTE = 72,
    SUPER_COMMIT = 80,
    SUPER_LAST_INDEX = 88,
    SUPER_LAST_TERM = 96,

    SUPER_FLAG_CLEAN = 1,
};

_Static_assert(HEADER_BEFORE_TERM + 8 == WAL_HEADER_BYTES, "the header has no gap at its end");
_Static_assert(RECORD_CRC + 4 == WAL_RECORD_BYTES, "the crc covers the record before it");
_Static_assert(FRAGMENT_RESERVED + 4 == WAL_FRAGMENT_BYTES, "payload stays 8-byte aligned");
_Static_assert(SUPER_LAST_TERM + 8 <= WAL_SUPERBLOCK_BYTES, "superblock fits its checksum");
_Static_assert(WAL_PAGE_BYTES % WAL_HEADER_BYTES == 0, "a trail holds whole headers");

/* Checksum of `size` bytes in which the 4 at HEADER_CRC count as zero. */
static uint32_t header_crc(const uint8_t *bytes, size_t size)
{
    static const uint8_t zeros[4];
    uint32_t crc = crc32c(0, bytes, HEADER_CRC);
    crc = crc32c(crc, zeros, sizeof(zeros));
    return crc32c(crc, bytes + HEADER_CRC + 4, size - HEADER_CRC - 4);
}

_Static_assert((int)HEADER_CRC == (int)SUPER_CRC, "header_crc() serves both");

/* ---- block header ------------------------------------------------------------------------------
 */

void wal_block_encode(struct wal_block *block, uint8_t *bytes)
{
    invariant(block->bytes % WAL_PAGE_BYTES == 0 && block->bytes <= WAL_BLOCK_BYTES_LIMIT); /* F2 */
    invariant(block->bytes >= WAL_BLOCK_BYTES_MIN && block->used_bytes >= WAL_HEADER_BYTES &&
              block->used_bytes <= wal_trail_offset(block));
    invariant(block->durable_upto < block->sequence); /* F3 */
    invariant((block->flags & ~WAL_BLOCK_FLAGS_ALL) == 0);
    le32_store(bytes + HEADER_MAGIC, WAL_BLOCK_MAGIC);
    le16_store(bytes + HEADER_VERSION, WAL_FORMAT_VERSION);
    le16_store(bytes + HEADER_FLAGS, block->flags);
    le32_store(bytes + HEADER_CRC, 0);
    le32_store(bytes + HEADER_BYTES, block->bytes);
    le64_store(bytes + HEADER_LOG_ID, block->log_id);
    le64_store(bytes + HEADER_SEQUENCE, block->sequence);
    le32_store(bytes + HEADER_SEGMENT, block->segment);
    le32_store(bytes + HEADER_PAGE, block->page);
    le32_store(bytes + HEADER_PREVIOUS_CRC, block->previous_crc);
    le32_store(bytes + HEADER_RECORDS_CRC, block->records_crc);
    le32_store(bytes + HEADER_ENTRY_COUNT, block->entry_count);
    le32_store(bytes + HEADER_USED_BYTES, block->used_bytes);
    le64_store(bytes + HEADER_DURABLE_UPTO, block->durable_upto);
    le64_store(bytes + HEADER_TERM, block->hard_state.term);
    le64_store(bytes + HEADER_VOTE, block->hard_state.vote);
    le64_store(bytes + HEADER_COMMIT, block->hard_state.commit);
    le64_store(bytes + HEADER_FIRST_INDEX, block->first_index);
    le64_store(bytes + HEADER_ENTRY_TERM, block->term);
    le64_store(bytes + HEADER_PREV_TERM, block->prev_term);
    le64_store(bytes + HEADER_BEFORE_INDEX, block->before_index);
    le64_store(bytes + HEADER_BEFORE_TERM, block->before_term);
    block->header_crc = header_crc(bytes, WAL_HEADER_BYTES);
    le32_store(bytes + HEADER_CRC, block->header_crc);
}

static bool block_is_sound(const struct wal_block *block)
{
    if (block->bytes < WAL_BLOCK_BYTES_MIN || block->bytes % WAL_PAGE_BYTES != 0 ||
        block->bytes > WAL_BLOCK_BYTES_LIMIT)
        return false;
    if (block->used_bytes < WAL_HEADER_BYTES || block->used_bytes > wal_trail_offset(block))
        return false;
    if (block->entry_count > (block->used_bytes - WAL_HEADER_BYTES) / WAL_RECORD_BYTES)
        return false;
    if ((block->flags & ~WAL_BLOCK_FLAGS_ALL) != 0 || block->segment == 0 || block->sequence == 0)
        return false;
    if (block->first_index == 0 || block->first_index > UINT64_MAX - WAL_BLOCK_BYTES_LIMIT)
        return false;
    uint32_t ends = WAL_BLOCK_FRAGMENT_FIRST | WAL_BLOCK_FRAGMENT_LAST;
    if ((block->flags & ends) != 0 && (block->flags & WAL_BLOCK_FRAGMENT) == 0)
        return false;
    if ((block->flags & WAL_BLOCK_FRAGMENT) != 0) {
        uint32_t count = (block->flags & WAL_BLOCK_FRAGMENT_LAST) != 0 ? 1 : 0;
        if (block->entry_count != count)
            return false;
    }
    if ((block->flags & (WAL_BLOCK_CUT | WAL_BLOCK_RESET)) != 0 && block->entry_count != 0)
        return false;
    return block->durable_upto < block->sequence;
}

enum wal_header_status wal_block_decode(const uint8_t *bytes, struct wal_block *block)
{
    if (le32_load(bytes + HEADER_MAGIC) != WAL_BLOCK_MAGIC)
        return WAL_HEADER_ABSENT;
    uint32_t crc = le32_load(bytes + HEADER_CRC);
    if (header_crc(bytes, WAL_HEADER_BYTES) != crc)
        return WAL_HEADER_DAMAGED;
    if (le16_load(bytes + HEADER_VERSION) != WAL_FORMAT_VERSION)
        return WAL_HEADER_VERSION;
    *block = (struct wal_block){
        .flags = le16_load(bytes + HEADER_FLAGS),
        .header_crc = crc,
        .bytes = le32_load(bytes + HEADER_BYTES),
        .used_bytes = le32_load(bytes + HEADER_USED_BYTES),
        .log_id = le64_load(bytes + HEADER_LOG_ID),
        .sequence = le64_load(bytes + HEADER_SEQUENCE),
        .segment = le32_load(bytes + HEADER_SEGMENT),
        .page = le32_load(bytes + HEADER_PAGE),
        .previous_crc = le32_load(bytes + HEADER_PREVIOUS_CRC),
        .records_crc = le32_load(bytes + HEADER_RECORDS_CRC),
        .entry_count = le32_load(bytes + HEADER_ENTRY_COUNT),
        .durable_upto = le64_load(bytes + HEADER_DURABLE_UPTO),
        .hard_state = {.term = le64_load(bytes + HEADER_TERM),
                       .vote = le64_load(bytes + HEADER_VOTE),
                       .commit = le64_load(bytes + HEADER_COMMIT)},
        .first_index = le64_load(bytes + HEADER_FIRST_INDEX),
        .term = le64_load(bytes + HEADER_ENTRY_TERM),
        .prev_term = le64_load(bytes + HEADER_PREV_TERM),
        .before_index = le64_load(bytes + HEADER_BEFORE_INDEX),
        .before_term = le64_load(bytes + HEADER_BEFORE_TERM),
    };
    return block_is_sound(block) ? WAL_HEADER_VALID : WAL_HEADER_DAMAGED;
}

/* ---- records -----------------------------------------------------------------------------------
 */

uint32_t wal_record_encode(const struct entry *entry, uint32_t seed, uint8_t *bytes)
{
    uint8_t record[WAL_RECORD_BYTES];
    le64_store(record + RECORD_INDEX, entry->index);
    le64_store(record + RECORD_TERM, entry->term);
    le32_store(record + RECORD_PAYLOAD_BYTES, entry->payload_bytes);
    le32_store(record + RECORD_PAYLOAD_CRC, entry->payload_crc);
    le32_store(record + RECORD_TYPE, entry->type);
    uint32_t crc = crc32c(seed, record, RECORD_CRC);
    le32_store(record + RECORD_CRC, crc);
    /* Only stored to, never read back: the disk read this buffer last, so no cache here has it. */
    memcpy(bytes, record, sizeof(record));
    return crc;
}

void wal_fragment_encode(const struct wal_fragment *fragment, uint8_t *bytes)
{
    le32_store(bytes + FRAGMENT_OFFSET, fragment->offset);
    le32_store(bytes + FRAGMENT_BYTES, fragment->bytes);
    le32_store(bytes + FRAGMENT_CRC, fragment->crc);
    le32_store(bytes + FRAGMENT_RESERVED, 0);
}

static void record_decode(const uint8_t *bytes, struct entry *entry)
{
    *entry = (struct entry){
        .index = le64_load(bytes + RECORD_INDEX),
        .term = le64_load(bytes + RECORD_TERM),
        .payload_bytes = le32_load(bytes + RECORD_PAYLOAD_BYTES),
        .payload_crc = le32_load(bytes + RECORD_PAYLOAD_CRC),
        .type = le32_load(bytes + RECORD_TYPE),
    };
}

static uint32_t records_in(const struct wal_block *block)
{
    return (block->flags & WAL_BLOCK_FRAGMENT) != 0 ? 1 : block->entry_count;
}

static bool fragment_is_good(const struct wal_block *block, const uint8_t *bytes, uint32_t offset,
                             const struct entry *entry)
{
    if (block->used_bytes - offset < WAL_FRAGMENT_BYTES)
        return false;
    uint32_t at = le32_load(bytes + offset + FRAGMENT_OFFSET);
    uint32_t size = le32_load(bytes + offset + FRAGMENT_BYTES);
    uint32_t crc = le32_load(bytes + offset + FRAGMENT_CRC);
    offset += WAL_FRAGMENT_BYTES;
    if (size > block->used_bytes - offset || at > entry->payload_bytes ||
        size > entry->payload_bytes - at)
        return false;
    bool is_last = (block->flags & WAL_BLOCK_FRAGMENT_LAST) != 0;
    if (is_last != (at + size == entry->payload_bytes))
        return false;
    return crc32c(0, bytes + offset, size) == crc;
}

enum wal_body_status wal_body_check(const struct wal_block *block, const uint8_t *bytes)
{
    invariant(block->bytes >= WAL_BLOCK_BYTES_MIN && block->used_bytes >= WAL_HEADER_BYTES &&
              block->used_bytes <= wal_trail_offset(block));
    bool is_fragment = (block->flags & WAL_BLOCK_FRAGMENT) != 0;
    bool payloads_good = true;
    uint32_t offset = WAL_HEADER_BYTES;
    uint32_t crc = wal_record_seed(block->sequence);
    uint32_t count = records_in(block);
    for (uint32_t i = 0; i < count; i++) {
        struct entry entry;
        if (block->used_bytes - offset < WAL_RECORD_BYTES)
            return WAL_BODY_DAMAGED;
        const uint8_t *record = bytes + offset;
        crc = crc32c(crc, record, RECORD_CRC);
        if (le32_load(record + RECORD_CRC) != crc)
            return WAL_BODY_DAMAGED;
        record_decode(record, &entry);
        if (entry.index != block->first_index + i || entry.term != block->term ||
            entry.payload_bytes > ENTRY_PAYLOAD_BYTES_MAX)
            return WAL_BODY_DAMAGED;
        offset += WAL_RECORD_BYTES;
        if (is_fragment)
            return crc == block->records_crc && fragment_is_good(block, bytes, offset, &entry)
                       ? WAL_BODY_GOOD
                       : WAL_BODY_DAMAGED;
        uint64_t space = u64_round_up(entry.payload_bytes, WAL_PAYLOAD_ALIGN);
        if (space > block->used_bytes - offset)
            return WAL_BODY_DAMAGED;
        if (crc32c(0, bytes + offset, entry.payload_bytes) != entry.payload_crc)
            payloads_good = false;
        offset += (uint32_t)space;
    }
    if (count != 0 && crc != block->records_crc)
        return WAL_BODY_DAMAGED;
    return payloads_good ? WAL_BODY_GOOD : WAL_BODY_PAYLOAD_DAMAGED;
}

void wal_body_begin(struct wal_body_cursor *cursor, const struct wal_block *block,
                    const uint8_t *bytes)
{
    *cursor = (struct wal_body_cursor){
        .block = block, .bytes = bytes, .offset = WAL_HEADER_BYTES, .left = records_in(block)};
}

bool wal_body_next(struct wal_body_cursor *cursor, struct entry *entry)
{
    if (cursor->left == 0)
        return false;
    cursor->left--;
    invariant(cursor->offset + WAL_RECORD_BYTES <= cursor->block->used_bytes);
    record_decode(cursor->bytes + cursor->offset, entry);
    cursor->offset += WAL_RECORD_BYTES;
    if ((cursor->block->flags & WAL_BLOCK_FRAGMENT) != 0) {
        const uint8_t *bytes = cursor->bytes + cursor->offset;
        cursor->fragment = (struct wal_fragment){.offset = le32_load(bytes + FRAGMENT_OFFSET),
                                                 .bytes = le32_load(bytes + FRAGMENT_BYTES),
                                                 .crc = le32_load(bytes + FRAGMENT_CRC)};
        entry->payload = bytes + WAL_FRAGMENT_BYTES;
        return true;
    }
    if (entry->payload_bytes != 0)
        entry->payload = cursor->bytes + cursor->offset;
    cursor->offset += (uint32_t)u64_round_up(entry->payload_bytes, WAL_PAYLOAD_ALIGN);
    invariant(cursor->offset <= cursor->block->used_bytes);
    return true;
}

bool wal_payload_good(const struct entry *entry)
{
    return crc32c(0, entry->payload, entry->payload_bytes) == entry->payload_crc;
}

/* ---- superblock --------------------------------------------------------------------------------
 */

void wal_superblock_encode(const struct wal_superblock *superblock, uint8_t *page)
{
    invariant(superblock->segment_bytes % WAL_PAGE_BYTES == 0 && superblock->oldest_segment != 0);
    invariant(superblock->ring_slots != 0 && superblock->log_id != 0);
    memset(page, 0, WAL_PAGE_BYTES);
    le32_store(page + SUPER_MAGIC, WAL_SUPERBLOCK_MAGIC);
    le16_store(page + SUPER_VERSION, WAL_FORMAT_VERSION);
    le16_store(page + SUPER_FLAGS, superblock->clean ? SUPER_FLAG_CLEAN : 0);
    le32_store(page + SUPER_RING_SLOTS, superblock->ring_slots);
    le64_store(page + SUPER_LOG_ID, superblock->log_id);
    le64_store(page + SUPER_GENERATION, superblock->generation);
    le64_store(page + SUPER_SEGMENT_BYTES, superblock->segment_bytes);
    le32_store(page + SUPER_BLOCK_BYTES, superblock->block_bytes_max);
    le32_store(page + SUPER_WRITES_MAX, superblock->writes_max);
    le32_store(page + SUPER_OLDEST_SEGMENT, superblock->oldest_segment);
    le64_store(page + SUPER_DURABLE, superblock->durable_sequence);
    le64_store(page + SUPER_TERM, superblock->hard_state.term);
    le64_store(page + SUPER_VOTE, superblock->hard_state.vote);
    le64_store(page + SUPER_COMMIT, superblock->hard_state.commit);
    le64_store(page + SUPER_LAST_INDEX, superblock->last_index);
    le64_store(page + SUPER_LAST_TERM, superblock->last_term);
    le32_store(page + SUPER_CRC, header_crc(page, WAL_SUPERBLOCK_BYTES));
}

static bool superblock_is_sound(const struct wal_superblock *superblock)
{
    uint32_t block_bytes = superblock->block_bytes_max;
    return superblock->log_id != 0 && superblock->oldest_segment != 0 &&
           superblock->segment_bytes != 0 && superblock->segment_bytes % WAL_PAGE_BYTES == 0 &&
           u64_is_power_of_two(block_bytes) && block_bytes >= WAL_BLOCK_BYTES_MIN &&
           block_bytes <= WAL_BLOCK_BYTES_LIMIT && superblock->segment_bytes >= block_bytes &&
           superblock->ring_slots >= WAL_RING_SLOTS_MIN &&
           superblock->ring_slots <= WAL_RING_SLOTS_LIMIT && superblock->writes_max != 0 &&
           superblock->writes_max <= WAL_WRITES_LIMIT;
}

enum wal_header_status wal_superblock_decode(const uint8_t *page, struct wal_superblock *superblock)
{
    if (le32_load(page + SUPER_MAGIC) != WAL_SUPERBLOCK_MAGIC)
        return WAL_HEADER_ABSENT;
    if (header_crc(page, WAL_SUPERBLOCK_BYTES) != le32_load(page + SUPER_CRC))
        return WAL_HEADER_DAMAGED;
    if (le16_load(page + SUPER_VERSION) != WAL_FORMAT_VERSION)
        return WAL_HEADER_VERSION;
    *superblock = (struct wal_superblock){
        .log_id = le64_load(page + SUPER_LOG_ID),
        .generation = le64_load(page + SUPER_GENERATION),
        .segment_bytes = le64_load(page + SUPER_SEGMENT_BYTES),
        .block_bytes_max = le32_load(page + SUPER_BLOCK_BYTES),
        .ring_slots = le32_load(page + SUPER_RING_SLOTS),
        .writes_max = le32_load(page + SUPER_WRITES_MAX),
        .oldest_segment = le32_load(page + SUPER_OLDEST_SEGMENT),
        .durable_sequence = le64_load(page + SUPER_DURABLE),
        .hard_state = {.term = le64_load(page + SUPER_TERM),
                       .vote = le64_load(page + SUPER_VOTE),
                       .commit = le64_load(page + SUPER_COMMIT)},
        .last_index = le64_load(page + SUPER_LAST_INDEX),
        .last_term = le64_load(page + SUPER_LAST_TERM),
        .clean = (le16_load(page + SUPER_FLAGS) & SUPER_FLAG_CLEAN) != 0,
    };
    return superblock_is_sound(superblock) ? WAL_HEADER_VALID : WAL_HEADER_DAMAGED;
}
