/*
 * wal.h - the segmented Raft log: the node's only write-ahead log.
 *
 * Story     Appends queue; whenever a write slot is free, everything queued leaves as one block
 *           (group commit without a timer) that ends in copies of the newest headers. One block is
 *           one durable write; several are under way at once and acknowledged strictly in log
 *           order. Behind them the ring file learns the headers of what is durable. Segments are
 *           zeroed ahead of use by a background fiber and recycled when released.
 * Owner     The log core: the core whose fiber called wal_open(). Entries and payloads passed to
 *           wal_append() are borrowed until `done`.
 * Threads   Owner core only. wal_append(), wal_flush() and the getters never wait; functions marked
 *           "fiber" do.
 * Units     Sizes and offsets in bytes, multiples of WAL_PAGE_BYTES; index counts Raft entries.
 * Durable   When `done` runs, every entry of the append (and its term and vote) and everything
 *           appended before it survive power loss.
 * Errors    wal_open() refuses with one log_error line that names file, offset and reason. A failed
 *           or short write or sync afterwards calls fatal(): what is on disk is then unknown, and a
 *           second try could lie. A full disk shows in wal_space_low() before any write can fail.
 * Limits    Entries of ENTRY_PAYLOAD_BYTES_MAX; WAL_WRITES_LIMIT blocks in flight; 65536 segments,
 *           4 TiB of the default size: one more ends the process. Appending allocates nothing after
 *           wal_open(), save when the index of a very long log doubles. A reader takes its buffer,
 *           and memory for an entry whose pieces it puts together.
 * Source    docs/formats/log-block.md, docs/internals/storage-log.md. FAST'18 Alagappan et al.
 *           (corruption is not a torn tail).
 */
#ifndef STORAGE_LOG_WAL_H
#define STORAGE_LOG_WAL_H

#include "core/base.h"
#include "core/entry.h"
#include "core/histogram.h"
#include "core/queue.h"

#define WAL_PAGE_BYTES ((uint32_t)4096)
#if KV_SIMULATED /* a simulated node would spend its time on zeros, and never fill a segment */
#define WAL_SEGMENT_BYTES_DEFAULT ((uint64_t)512 * 1024)
#else
#define WAL_SEGMENT_BYTES_DEFAULT ((uint64_t)64 * 1024 * 1024)
#endif
#define WAL_BLOCK_BYTES_DEFAULT ((uint32_t)256 * 1024)
#define WAL_BLOCK_BYTES_LIMIT   ((uint32_t)1024 * 1024)
#define WAL_WRITES_DEFAULT      4
#define WAL_WRITES_LIMIT        16
#define WAL_RING_SLOTS_DEFAULT  128
#define WAL_REASON_BYTES        256

struct wal;

/* Zero means the default. Geometry (the first three) is fixed when the log is created; a later
 * wal_open() goes by what is stored. Buffers: writes_max * block_bytes_max + 8 KiB, one block more
 * for each concurrent reader, 1 MiB while opening, replaying and zeroing a segment; plain memory
 * when others hold the registered ones, so that nothing fails or waits because of it. */
struct wal_options {
    const char *directory;    /* ".../log"; its parent exists */
    uint64_t segment_bytes;   /* multiple of 4096, at least two blocks of block_bytes_max */
    uint32_t block_bytes_max; /* power of two, 8192 to WAL_BLOCK_BYTES_LIMIT */
    uint32_t ring_slots;      /* pages of the ring: it remembers 16 headers for each; at least 4 */
    uint32_t writes_max;      /* blocks in flight */
    uint32_t segments_ready;  /* kept zeroed ahead of the active one; default 2 */
    bool alone;               /* no other member has copies: a damaged log is refused, untouched */
    uint64_t idle_mark_ns;    /* rest before the superblock learns what is durable; 50 ms */
};

/* ---- recovery ---------------------------------------------------------------------------------
 */

enum wal_verdict {
    WAL_VERDICT_EMPTY,  /* a new log */
    WAL_VERDICT_OK,     /* every block valid to the end */
    WAL_VERDICT_TORN,   /* an unacknowledged tail was cut; complete */
    WAL_VERDICT_FAULTY, /* some entries are damaged: index and term known, payload lost */
    WAL_VERDICT_FENCED, /* identity lost inside the durable range: no vote, no ack, no campaign */
};

/* first..last of one term whose payload cannot be read. `proven`: certainly was durable. Not proven
 * means the block was in flight at the crash or acknowledged just before it: with peers treat it as
 * faulty until one has it or all say they do not; a node that is alone may WAL_APPEND_CUT it. */
struct wal_fault {
    uint64_t first_index, last_index;
    uint64_t term;
    bool proven;
};

struct wal_recovered {
    enum wal_verdict verdict;
    struct hard_state hard_state;     /* zero in a new log */
    uint64_t first_index, last_index; /* first = last + 1 when the log holds no entry */
    uint64_t last_term;
    uint64_t base_index, base_term; /* the entry before first_index; term 0 when not known */
    uint32_t fault_count;           /* see wal_fault_get() */
    uint32_t fault_proven_count;    /* of these, certainly durable once */
    uint64_t fault_first_index;     /* lowest faulty index, 0 when none: acknowledge below only */
    uint64_t torn_bytes;            /* discarded behind the cut */
    uint64_t blocks, bytes_read, duration_ns;
    char reason[WAL_REASON_BYTES]; /* one line: what was decided and where, or why refused */
};

/* Fiber. Creates the log when the directory is missing or empty. Errors: ERR_CORRUPT (a bad magic,
 * a missing segment or ring, both superblocks damaged; with `alone` proven faults and FENCED too),
 * ERR_VERSION, ERR_CONFIG (sizes that do not fit together), -errno; recovered->reason says file,
 * offset and why, and nothing was changed. FENCED is success with that verdict: the log can be
 * read, dumped and WAL_APPEND_RESET, but takes no other append. */
must_check int wal_open(const struct wal_options *options, struct wal **wal,
                        struct wal_recovered *recovered);

/* Fiber. Waits for what is in flight (queued appends included), marks the log as cleanly closed. */
void wal_close(struct wal *wal);

/* Fault `slot` < fault_count, in index order. Repaired, cut or overridden ones leave the list. */
uint32_t wal_fault_count(const struct wal *wal);
bool wal_fault_get(const struct wal *wal, uint32_t slot, struct wal_fault *fault);

/* ---- appending --------------------------------------------------------------------------------
 */

enum wal_append_kind {
    WAL_APPEND_ENTRIES, /* entries and/or hard state; a first index <= last overrides the suffix */
    WAL_APPEND_REPAIR,  /* good copies of faulty entries (same index and term): nothing is cut */
    WAL_APPEND_CUT,     /* drop every entry > index */
    WAL_APPEND_RESET,   /* drop every entry; the next one is index + 1 after (index, term) */
};

struct wal_append {
    enum wal_append_kind kind;
    const struct entry *entries; /* ascending by one from the first */
    uint32_t entry_count;
    bool has_hard_state;
    struct hard_state hard_state;            /* commit is stored as at most the own durable index */
    uint64_t index, term;                    /* CUT (index) and RESET */
    void (*done)(struct wal_append *append); /* in log order; the append may be reused inside */

    struct queue_link link; /* the log's, from here on */
    uint32_t entries_taken;
    uint32_t fragment_offset; /* bytes of entries[entries_taken] already in blocks */
    uint64_t sequence;        /* of the last block that carries a part of it */
    uint64_t queued_ns;
};

/* Queues. Leaves with wal_flush(), or by itself when a write completes. */
void wal_append(struct wal *wal, struct wal_append *append);

/* Writes what is queued if a slot is free. Call once at the end of a round (core_on_turn_end), so
 * that everything the round queued shares a block. */
void wal_flush(struct wal *wal);

/* Everything <= index is no longer needed; whole segments go back to the pool in the background. */
void wal_release(struct wal *wal, uint64_t index);

/* ---- reading ----------------------------------------------------------------------------------
 */

/* `entry` and its payload are valid during the call. Return 0 to go on, 1 to stop, < 0 to fail. */
typedef int wal_visitor(void *context, const struct entry *entry);

/* Fiber. Durable entries first..last in order, each checksum verified, until last, or until the
 * payloads visited reach bytes_max (at least one entry). Returns how many were visited, or
 * ERR_COMPACTED (first < first index), ERR_NOT_FOUND (first > durable index), ERR_CORRUPT (a faulty
 * entry is next), -ENOMEM, or the visitor's error. */
must_check int64_t wal_read(struct wal *wal, uint64_t first, uint64_t last, uint64_t bytes_max,
                            wal_visitor *visit, void *context);

/* Fiber. Every entry from `from` to the end, in order; faulty ones come with payload NULL,
 * payload_bytes 0 and `tag` WAL_ENTRY_FAULTY. */
#define WAL_ENTRY_FAULTY ((uint32_t)1)
must_check int wal_replay(struct wal *wal, uint64_t from, wal_visitor *visit, void *context);

/* Durable part only. */
uint64_t wal_first_index(const struct wal *wal);
uint64_t wal_last_index(const struct wal *wal);
uint64_t wal_term(const struct wal *wal, uint64_t index); /* 0: not in the log (base included) */

/* ---- state ------------------------------------------------------------------------------------
 */

/* No further segment can be prepared (disk full): refuse new writes now. Those already proposed
 * still fit, or wait. Goes back to false by itself when space appears. */
bool wal_space_low(const struct wal *wal);

struct wal_stats {
    uint64_t blocks, entries, appends;
    uint64_t bytes_payload, bytes_written; /* written includes headers, padding and trails */
    uint64_t writes_in_flight, appends_queued;
    uint64_t segments, segments_ready, bytes_on_disk;
    uint64_t segments_created, segments_recycled;
    uint64_t segment_waits; /* times an append had to wait for a segment */
    struct histogram entries_per_block;
    struct histogram write_ns;  /* of a block, submission to completion */
    struct histogram commit_ns; /* wal_append() to done */
};
const struct wal_stats *wal_stats(struct wal *wal);

/* ---- debugging a stopped node -------------------------------------------------------------------
 */

struct wal_dump_block {
    uint32_t segment;
    uint64_t offset;
    uint32_t bytes;
    uint64_t sequence, first_index, term, durable_upto;
    uint32_t entry_count;
    uint16_t flags;
    struct hard_state hard_state;
    bool valid;  /* false: damaged; what is shown comes from a copy of its header */
    bool proven; /* of a damaged one: it certainly was durable */
};

struct wal_dump_visitor {
    void (*block)(void *context, const struct wal_dump_block *block);
    void (*entry)(void *context, const struct entry *entry); /* may be NULL */
    void *context;
};

/* Fiber. Reads the log of a stopped node and says what wal_open() would decide, changing nothing.
 * Entries overridden later are shown too: this is what is on disk, in order. */
must_check int wal_dump(const char *directory, const struct wal_dump_visitor *visitor,
                        struct wal_recovered *recovered);

/* Fiber. The same decision, then the entries that it leaves, as wal_replay() would show them: what
 * was overridden or cut is gone, large ones are whole. `from` 0: from the first. */
must_check int wal_dump_entries(const char *directory, uint64_t from, wal_visitor *visit,
                                void *context, struct wal_recovered *recovered);

#endif
