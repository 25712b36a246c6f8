/*
 * wal_private.h - the parts of the log behind wal.h: reader, recovery scan, and the running log.
 *
 * Owner     The log core. Included by the files of storage/log/ and their tests only.
 */
#ifndef STORAGE_LOG_WAL_PRIVATE_H
#define STORAGE_LOG_WAL_PRIVATE_H

#include "core/core.h"
#include "core/fiber.h"
#include "core/reactor.h"
#include "core/timer.h"
#include "storage/log/wal.h"
#include "storage/log/wal_format.h"
#include "storage/log/wal_index.h"

#define WAL_PATH_BYTES       1024
#define WAL_SEGMENTS_MAX     65536u /* 4 TiB of default segments */
#define WAL_SPARE_MAX        4u     /* recycled segments kept beyond segments_ready */
#define WAL_INDEX_CAPACITY   16384u
#define WAL_SURVIVORS_MAX    64u /* blocks behind a hole that recovery remembers */
#define WAL_ZERO_CHUNK_BYTES ((uint32_t)1024 * 1024)
#define WAL_READ_BYTES       ((uint32_t)1024 * 1024) /* at a time, in recovery and replay */
#define WAL_SPACE_RETRY_NS   (1 * NS_PER_S)
#define WAL_SEGMENT_DIGITS   10

#define WAL_IDLE_MARK_NS_DEFAULT (50 * NS_PER_MS)

_Static_assert(WAL_SURVIVORS_MAX >= WAL_WRITES_LIMIT, "every block in flight can survive a hole");
_Static_assert(2 * WAL_RING_STRIDE <= WAL_TRAIL_HEADERS, "pages of the ring overlap");

struct wal_segment {
    uint32_t number;
    uint32_t pins;       /* fibers reading it: not recycled meanwhile */
    uint64_t base_index; /* what a log that begins with it continues; UINT64_MAX: not known */
    struct io_file file;
};

/* A position in the log: `slot` of a segment table and a byte offset. */
struct wal_position {
    uint32_t slot;
    uint64_t offset;
};

void wal_path(char *path, const char *directory, const char *name);
void wal_segment_path(char *path, const char *directory, uint32_t number);
static inline uint64_t wal_ring_bytes(uint32_t slots)
{
    return (uint64_t)(WAL_RING_SUPERBLOCKS + slots) * WAL_PAGE_BYTES;
}
static inline uint64_t wal_ring_offset(uint32_t slots, uint64_t sequence)
{
    return (WAL_RING_SUPERBLOCKS + sequence / WAL_RING_STRIDE % slots) * WAL_PAGE_BYTES;
}

/* ---- reader: direct reads of one file through one buffer
 * -----------------------------------------
 */

struct wal_reader {
    struct io_file file;
    uint64_t file_bytes;
    uint8_t *buffer;
    uint32_t buffer_bytes;
    uint64_t start; /* file offset of buffer[0] */
    uint32_t valid; /* bytes in the buffer */
    uint64_t bytes_read;
    uint64_t pages_unreadable; /* read errors: such pages read as 0xee and count as damage */
};

/* `bytes`: of the longest piece that wal_reader_get() will be asked for, or more to read ahead. */
must_check int wal_reader_init(struct wal_reader *reader, uint32_t bytes); /* or -ENOMEM */
void wal_reader_deinit(struct wal_reader *reader);
void wal_reader_attach(struct wal_reader *reader, struct io_file file, uint64_t file_bytes);

/* Fiber. The bytes at offset, valid until the next call; NULL when they lie outside the file. An
 * unreadable sector does not fail: what it held is damaged. Other errors call fatal(). */
const uint8_t *wal_reader_get(struct wal_reader *reader, uint64_t offset, uint32_t bytes);

/* ---- recovery scan
 * --------------------------------------------------------------------------------
 */

struct wal_survivor {
    struct wal_block block;
    struct wal_position at;
};

struct wal_scan {
    const char *directory;
    struct wal_recovered *recovered;
    const struct wal_dump_visitor *visitor; /* or NULL */
    bool writable;

    /* What the directory holds. */
    struct io_file ring;
    struct wal_superblock superblock;
    bool superblock_damaged;      /* one copy was bad */
    struct wal_segment *segments; /* ascending, contiguous, from superblock.oldest_segment */
    uint32_t segment_count;
    uint32_t *numbers; /* every segment file found, sorted */
    uint32_t number_count;
    bool ring_present, has_leftover_temporary;

    /* Second copies of headers, from the ring and from trails, at copies[sequence %
     * copy_capacity]. Those of the ring were durable; those of a trail only issued. */
    struct wal_block *copies;
    uint32_t copy_capacity;
    struct wal_block
        wanted; /* a copy of the header that must come next: `copies` forgets old ones */
    uint64_t ring_sequence_max;
    uint64_t own_trail; /* newest sequence > last.sequence whose own trail was found to be whole */

    /* The walk.
     * S1  `last` is the newest kept block; at, expected and last_crc follow it.
     * S2  proof: every block <= it certainly was durable once. Only grows. */
    struct wal_reader reader;
    struct wal_index index;
    struct wal_block last;
    bool last_crc_known;
    uint64_t expected; /* sequence; 0: any, at the first block */
    struct wal_position at;
    uint64_t proof;
    uint64_t sequence_seen_max;
    uint64_t unproven; /* the oldest kept block that is bad and not proven; 0: none */
    bool header_torn;  /* at the cut: a header was begun there */
    struct wal_survivor
        survivors[WAL_SURVIVORS_MAX]; /* behind the hole, known by header or trail */
    uint32_t survivor_count;
    struct wal_survivor *lost_headers; /* kept blocks whose header is only a copy now */
    uint32_t lost_header_count, lost_header_capacity;
};

/* Fiber. Opens and reads everything, decides, changes nothing. On error nothing stays open. */
must_check int wal_scan_run(struct wal_scan *scan);
void wal_scan_deinit(struct wal_scan *scan); /* closes what was not taken over */

/* Fiber. Erases, durably, what lies behind a torn tail, so that it can never parse again. */
void wal_scan_discard_tail(struct wal_scan *scan);

/* Fiber. Puts headers of which only a copy is left back in their places: what is damaged now will
 * be deep in the log one day, where its identity must not be lost. */
void wal_scan_restore_headers(struct wal_scan *scan);

/* The copy of a header, or NULL. */
const struct wal_block *wal_scan_copy(const struct wal_scan *scan, uint64_t sequence);

/* Remembers a sound header, and what it proves; or all those of a trail or a page of the ring. */
void wal_scan_learn(struct wal_scan *scan, const struct wal_block *block);
void wal_scan_learn_page(struct wal_scan *scan, const uint8_t *page);

/* The walk of wal_scan_run(), in wal_recover.c. */
must_check int wal_scan_walk(struct wal_scan *scan);
must_check int wal_refuse(struct wal_recovered *recovered, int error, const char *file,
                          uint64_t offset, const char *reason);

/* ---- the running log
 * ------------------------------------------------------------------------------
 */

struct wal_write {
    struct wal *wal;
    struct io_op op;
    uint8_t *block_bytes; /* block_bytes_max */
    struct wal_block block;
    bool pending; /* not durable yet */
    uint64_t started_ns;
};

/* Sequences: durable_sequence < in flight < next_sequence.
 * W1  next_sequence - 1 - durable_sequence <= writes_max; block s uses writes[s % writes_max].
 * W2  durable_sequence and `index` move only when the oldest block in flight is wholly durable.
 * W3  an append is on `queued` until its last byte is in a block, then on `issued` until
 *     durable_sequence reaches append->sequence; both queues are in log order.
 * W4  segments[0 .. active] hold the log, segments[active + 1 ..] are ready and empty.
 * W5  the ring holds headers of durable blocks only, up to ring_sequence. */
struct wal {
    struct core *core;
    struct reactor *reactor;
    char directory[WAL_PATH_BYTES];
    char scratch_path[WAL_PATH_BYTES], scratch_path_to[WAL_PATH_BYTES]; /* the keeper's */

    uint64_t log_id;
    uint64_t segment_bytes;
    uint32_t block_bytes_max, ring_slots, writes_max, segments_ready;
    uint64_t idle_mark_ns;

    struct io_file ring;
    struct wal_segment *segments;
    uint32_t segment_count, active;
    uint64_t active_offset;

    struct wal_write writes[WAL_WRITES_LIMIT];
    uint64_t next_sequence, durable_sequence;
    uint64_t unproven; /* of a start: a bad block that may never have been durable; 0: none. Nothing
                        * from it on is called durable until entries follow it, or it is cut, so
                        * that a second crash finds what the first one left */
    uint32_t durable_segment; /* of block durable_sequence */
    uint32_t previous_crc;
    uint8_t *history; /* one trail: the newest headers, newest first */
    struct queue queued, issued;
    bool completing; /* inside the acknowledgement loop: wal_flush() waits for its end */

    /* One page of the ring at a time, not synced: the next block's flush takes it along. */
    struct io_op ring_op;
    uint8_t *ring_page; /* registered */
    uint64_t ring_sequence;
    bool ring_busy;

    bool stalled; /* a block waits for a segment */
    bool fenced;  /* until a reset is durable and the superblock begins with it */
    bool reset_queued;
    uint32_t fence_end; /* segment of that reset, once written; 0: none */

    /* As of next_sequence - 1: what the next block continues. */
    struct hard_state hard_state;
    uint64_t issued_last_index, issued_last_term;

    struct wal_index index; /* as of durable_sequence */

    /* The keeper fiber: prepares and recycles segments, writes superblocks. */
    struct fiber_event keeper_event, keeper_done, idle_event;
    struct timer idle_timer, space_timer;
    bool keeper_running, draining, closing, mark_wanted, space_low;
    uint64_t release_index;
    struct wal_superblock superblock;
    uint8_t *superblock_page;
    uint64_t marked_sequence;

    struct wal_stats stats;
};

static inline uint64_t wal_in_flight(const struct wal *wal)
{
    return wal->next_sequence - 1 - wal->durable_sequence;
}

/* What blocks, superblocks and the ring may call durable. A block that was torn or rotted is not
 * proven by votes and marks that follow it, only by entries: their leader has what it builds on. */
static inline uint64_t wal_proven_sequence(const struct wal *wal)
{
    return wal->unproven != 0 ? wal->unproven - 1 : wal->durable_sequence;
}

/* Acknowledges what is durable from the oldest block on, then writes what is queued. */
void wal_acknowledge(struct wal *wal);

/* The write of a block is complete: W2. Exposed for tests of the order. */
void wal_write_completed(struct wal_write *write);

/* Steps of the segments' life, in wal_segment.c. */
must_check int wal_create_zeroed(const char *directory, const char *path, uint64_t bytes,
                                 const bool *abandon, struct io_file *file);
void wal_superblock_write(struct wal *wal, bool clean); /* fiber */

/* Fiber. Durably tells the ring the headers of what is durable, before a superblock calls it so. No
 * other write of the ring may be under way. */
void wal_ring_write(struct wal *wal);

void wal_keeper_init(struct wal *wal);
void wal_keeper_start(struct wal *wal);
void wal_keeper_stop(struct wal *wal); /* fiber: returns when it has ended */
void wal_keeper_kick(struct wal *wal);
void wal_went_idle(struct wal *wal);
uint32_t wal_slot_of_segment(const struct wal *wal, uint32_t number); /* UINT32_MAX: not here */

#endif
