/*
 * wal_format.h - bytes of the log: block header, entry record, fragment, superblock.
 *
 * Story     A block is a 128-byte header, records of 32 bytes each followed by its payload, zeros
 *           up to the next page, and a page of its own, the trail: copies of the newest headers.
 *           The header alone identifies everything in the block (one term, contiguous indices),
 *           which is why a copy of it elsewhere is enough to know what a damaged block held. An
 *           entry too large for one block is cut into fragments.
 * Owner     Nobody: pure functions over caller's memory; no I/O. Fuzzed by tests/fuzz.
 * Units     Bytes. A page is WAL_PAGE_BYTES; `page` counts pages from the start of the segment.
 * Errors    Statuses, since damage is evidence here, not an error.
 * Source    docs/formats/log-block.md holds the byte tables; test_wal_format compares them.
 */
#ifndef STORAGE_LOG_WAL_FORMAT_H
#define STORAGE_LOG_WAL_FORMAT_H

#include "core/base.h"
#include "core/entry.h"
#include "storage/log/wal.h"

#define WAL_FORMAT_VERSION   2
#define WAL_BLOCK_MAGIC      0x474f4c52u /* "RLOG" */
#define WAL_SUPERBLOCK_MAGIC 0x42534c52u /* "RLSB" */
#define WAL_HEADER_BYTES     128u
#define WAL_RECORD_BYTES     32u
#define WAL_FRAGMENT_BYTES   16u
#define WAL_SUPERBLOCK_BYTES 128u
#define WAL_PAYLOAD_ALIGN    8u
#define WAL_TRAIL_BYTES      WAL_PAGE_BYTES
#define WAL_TRAIL_HEADERS    (WAL_TRAIL_BYTES / WAL_HEADER_BYTES)
#define WAL_BLOCK_BYTES_MIN  (WAL_PAGE_BYTES + WAL_TRAIL_BYTES)
#define WAL_RING_SUPERBLOCKS 2u  /* pages 0 and 1 of the ring file; slots follow */
#define WAL_RING_STRIDE      16u /* blocks from one page of the ring to the next */
#define WAL_RING_SLOTS_MIN   4u
#define WAL_RING_SLOTS_LIMIT 65536u

enum wal_block_flags {
    WAL_BLOCK_FRAGMENT = 1,        /* carries a piece of one large entry */
    WAL_BLOCK_FRAGMENT_LAST = 2,   /* ...the last piece: only now does the entry exist */
    WAL_BLOCK_REPAIR = 4,          /* replaces payloads of damaged entries; cuts nothing */
    WAL_BLOCK_CUT = 8,             /* no entries: drops everything from first_index on */
    WAL_BLOCK_RESET = 16,          /* no entries: the log restarts at first_index */
    WAL_BLOCK_FRAGMENT_FIRST = 32, /* the first piece of a series; the others follow it directly */
    WAL_BLOCK_FLAGS_ALL = 63,
};

/* A decoded block header.
 * F1  entries are first_index .. first_index + entry_count - 1, all of `term`; a fragment that is
 *     not the last counts 0 entries.
 * F2  WAL_HEADER_BYTES <= used_bytes <= bytes - WAL_TRAIL_BYTES, bytes a multiple of
 *     WAL_PAGE_BYTES.
 * F3  durable_upto < sequence. */
struct wal_block {
    uint16_t flags;
    uint32_t header_crc;
    uint32_t bytes; /* on disk, padding and trail included */
    uint32_t used_bytes;
    uint64_t log_id;
    uint64_t sequence; /* from 1, no gaps */
    uint32_t segment;  /* with `page`: where this block must be; a copy elsewhere is not it */
    uint32_t page;
    uint32_t previous_crc; /* header_crc of block sequence - 1: the chain */
    uint32_t records_crc;  /* of the last record, 0 when there is none; commits to all payloads */
    uint32_t entry_count;
    uint64_t durable_upto; /* every block <= this was durable when this one was issued */
    struct hard_state hard_state;
    uint64_t first_index;
    uint64_t term;
    uint64_t prev_term; /* of entry first_index - 1; 0 when not known */
    uint64_t
        before_index;     /* the log's last entry before this block: what lets a lost neighbour's */
    uint64_t before_term; /* identity be inferred */
};

enum wal_header_status {
    WAL_HEADER_VALID,
    WAL_HEADER_ABSENT,  /* no magic: zeros, old payload, never written */
    WAL_HEADER_DAMAGED, /* magic, but the checksum or a bound is wrong */
    WAL_HEADER_VERSION, /* sound, of a format this program does not know */
};

static inline uint32_t wal_trail_offset(const struct wal_block *block)
{
    return block->bytes - WAL_TRAIL_BYTES;
}

/* Fills in block->header_crc and writes WAL_HEADER_BYTES. */
void wal_block_encode(struct wal_block *block, uint8_t *bytes);
enum wal_header_status wal_block_decode(const uint8_t *bytes, struct wal_block *block);

static inline uint64_t wal_block_last_index(const struct wal_block *block)
{
    return block->first_index + block->entry_count - 1;
}

/* The entry that a log continues which begins with this block. */
static inline uint64_t wal_block_base_index(const struct wal_block *block)
{
    return (block->flags & WAL_BLOCK_REPAIR) != 0 ? block->before_index : block->first_index - 1;
}

/* ---- records ----------------------------------------------------------------------------------
 */

static inline uint32_t wal_record_space(uint32_t payload_bytes)
{
    return WAL_RECORD_BYTES + (uint32_t)u64_round_up(payload_bytes, WAL_PAYLOAD_ALIGN);
}

/* The largest payload that shares a block of `block_bytes` with nothing else, unfragmented. */
static inline uint32_t wal_payload_bytes_max(uint32_t block_bytes)
{
    return block_bytes - WAL_TRAIL_BYTES - WAL_HEADER_BYTES - WAL_RECORD_BYTES;
}

static inline uint32_t wal_fragment_bytes_max(uint32_t block_bytes)
{
    return wal_payload_bytes_max(block_bytes) - WAL_FRAGMENT_BYTES;
}

/* Seed of the first record's checksum: a record of another block does not fit. */
static inline uint32_t wal_record_seed(uint64_t sequence)
{
    return (uint32_t)sequence;
}

/* Writes the record (not the payload) and returns its crc, which seeds the next record's. */
uint32_t wal_record_encode(const struct entry *entry, uint32_t seed, uint8_t *bytes);

struct wal_fragment {
    uint32_t offset; /* in the entry's payload */
    uint32_t bytes;
    uint32_t crc; /* of these bytes */
};
void wal_fragment_encode(const struct wal_fragment *fragment, uint8_t *bytes);

enum wal_body_status {
    WAL_BODY_GOOD,
    WAL_BODY_PAYLOAD_DAMAGED, /* records sound: each entry can be judged by its own checksum */
    WAL_BODY_DAMAGED,         /* records damaged: only the header says what was here */
};

/* `bytes` is the whole block, whose header is `block` and valid. */
enum wal_body_status wal_body_check(const struct wal_block *block, const uint8_t *bytes);

/* Walks the records of a body that wal_body_check() did not call DAMAGED. Of a fragment block it
 * yields one entry whose payload is the piece, with `fragment` set. */
struct wal_body_cursor {
    const struct wal_block *block;
    const uint8_t *bytes;
    uint32_t offset;
    uint32_t left;
    struct wal_fragment fragment;
};
void wal_body_begin(struct wal_body_cursor *cursor, const struct wal_block *block,
                    const uint8_t *bytes);
/* False at the end. entry->payload_bytes of a fragment is the whole entry's. */
bool wal_body_next(struct wal_body_cursor *cursor, struct entry *entry);
bool wal_payload_good(const struct entry *entry);

/* ---- superblock -------------------------------------------------------------------------------
 */

/* Two copies, written in turn; the higher generation counts. Geometry, what was released, and a
 * lower bound of what is durable (exact after a clean close or a moment's rest). */
struct wal_superblock {
    uint64_t log_id; /* random, per log: no payload can imitate a block */
    uint64_t generation;
    uint64_t segment_bytes;
    uint32_t block_bytes_max;
    uint32_t ring_slots;
    uint32_t writes_max;     /* blocks in flight at most, since the last open */
    uint32_t oldest_segment; /* lower numbered files are leftovers */
    uint64_t durable_sequence;
    struct hard_state hard_state; /* as of durable_sequence */
    uint64_t last_index, last_term;
    bool clean; /* closed in order: durable_sequence is the end */
};
void wal_superblock_encode(const struct wal_superblock *superblock, uint8_t *page);
enum wal_header_status wal_superblock_decode(const uint8_t *page,
                                             struct wal_superblock *superblock);

#endif
