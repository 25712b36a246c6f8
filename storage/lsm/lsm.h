/*
 * lsm.h - a multi-version sorted map on disk: memtables, SSTables in levels, one manifest.
 *
 * Story     A row is (key, version, kind, value). Rows are ordered by key bytes ascending, then by
 *           version descending, so the newest version of a key comes first and a read "as of" a
 *           version is one seek. There is no write-ahead log in here: the Raft log replays from the
 *           applied index that the manifest records.
 * Owner     The raft core owns `struct lsm` and is the only writer. Each core that reads has a
 *           `struct lsm_reader` with its own block cache. The background core flushes and compacts.
 * Threads   Each call names its core: [raft], [reader's], [background's], [fiber] = may wait. What
 *           readers see is an immutable view (memtables + tables), published by the raft core with
 *           one release store; memtables and files go away when no core can hold them.
 * Units     Sizes in bytes; index and term are Raft's.
 * Durable   Rows up to lsm_flushed_index() survive power loss; later ones live in the Raft log.
 * Errors    ERR_CORRUPT for bytes that fail their checksum or their bounds (logged with file and
 *           offset, never a crash), -errno from the disk, ERR_NOT_FOUND, ERR_WOULD_WAIT. A table
 *           that the background cannot write, sync or read back is given up, and its job tried
 *           again with a new file (lsm_failure()). A failed write of the manifest or sync of the
 *           directory stops the process: what is on disk is unknown.
 * Limits    Keys 1..LSM_KEY_BYTES_MAX, values to LSM_VALUE_BYTES_MAX. All versions of a key stay in
 *           one table of a level. Bloom filters and top indexes stay in memory: about 0.5 % of
 *           data; of long keys more, docs/internals/storage-lsm.md.
 * Contract  A (key, version) is written at most once, and the versions of one key are inserted in
 *           ascending order; so what is newer is always in a younger memtable or a higher level.
 * Source    docs/internals/storage-lsm.md; docs/formats/sstable.md,
 *           docs/formats/manifest.md.
 */
#ifndef STORAGE_LSM_LSM_H
#define STORAGE_LSM_LSM_H

#include "core/base.h"
#include "core/core.h"
#include "core/histogram.h"

#define LSM_KEY_BYTES_MAX   ((uint32_t)(2 * 1024 * 1024))
#define LSM_VALUE_BYTES_MAX ((uint32_t)(16 * 1024 * 1024))
#define LSM_LEVELS          7  /* 0 overlaps; 1..6 hold disjoint tables */
#define LSM_MESSAGE_KINDS   12 /* mesh message kinds taken from message_kind_base on */

struct lsm;        /* the store, raft core */
struct lsm_reader; /* one per reading core */
struct lsm_cursor; /* one scan */

/* ---- rows ------------------------------------------------------------------------------------ */

struct lsm_version {
    uint64_t main;
    uint32_t sub;
};
#define LSM_VERSION_MAX ((struct lsm_version){UINT64_MAX, UINT32_MAX})

static inline int lsm_version_compare(struct lsm_version a, struct lsm_version b)
{
    if (a.main != b.main)
        return a.main < b.main ? -1 : 1;
    return (a.sub > b.sub) - (a.sub < b.sub);
}

enum lsm_kind { LSM_VALUE = 0, LSM_TOMBSTONE = 1 };

enum lsm_compression {
    LSM_COMPRESSION_NONE = 0,
    LSM_COMPRESSION_LZ4 = 1,
    LSM_COMPRESSION_ZSTD = 2
};

/* A row as readers see it. `key` and `value` are borrowed; until when, says the call. */
struct lsm_row {
    struct bytes key;
    struct bytes value;
    struct lsm_version version;
    enum lsm_kind kind;
    uint32_t pin_kind; /* the reader's: what lsm_row_release() lets go */
    void *pin;
};

/* ---- compaction filter ------------------------------------------------------------------------
 * Rows of a merge come in order, so within a key from the newest to the oldest. */

struct lsm_filter_row {
    const struct lsm_row *row;
    bool newer_exists;                /* this merge holds a newer row of the key, kept or not ... */
    struct lsm_version newer_version; /* ... and this is the version of the next newer one */
    bool bottom; /* no older row of the key exists outside this merge: a tombstone may go */
};

/* What is known of a table without reading it. */
struct lsm_filter_table {
    struct bytes smallest, largest;       /* keys */
    uint64_t version_first, version_last; /* `main` of its rows */
    uint64_t rows, tombstones;
    uint64_t superseded; /* rows of which a newer one is in the table too */
    uint64_t settled;    /* watermark() of the job that wrote the table; 0: not known */
};

/* All of them run on the background core and must not wait; several jobs may be open at once. */
struct lsm_filter {
    void *context;
    void *(*begin)(void *context); /* a job starts: capture the watermark; returns its state */
    bool (*keep)(void *job, const struct lsm_filter_row *row);
    void (*end)(void *job);
    /* About how many rows a merge of the table alone would drop now. NULL: those superseded and the
     * tombstones. */
    uint64_t (*droppable)(void *context, const struct lsm_filter_table *table);
    /* What rows are dropped for, as a `main`: no output has rows left that go up to there, but for
     * tombstones above older rows. NULL: not known. */
    uint64_t (*watermark)(void *job);
};

/* ---- life ------------------------------------------------------------------------------------ */

struct lsm_options {
    const char *dir;                      /* created when missing */
    uint64_t memtable_bytes;              /* a full memtable is rotated; 0 = 64 MiB */
    uint32_t memtables_max;               /* active included; so many are full pressure; 0 = 4 */
    uint64_t block_cache_bytes_per_core;  /* half of it for rows; 0 = 32 MiB */
    uint32_t block_bytes;                 /* target of a data block before compression; 0 = 4 KiB */
    uint64_t table_bytes;                 /* target of a compacted table; 0 = 32 MiB */
    uint64_t level_base_bytes;            /* target of level 1; 0 = 256 MiB, or, if that is more,
                                          * what level 0 has when its compaction starts */
    uint32_t level_ratio;                 /* 0 = 10 */
    uint32_t level0_tables;               /* compaction starts at this many; 0 = 4 */
    uint64_t level0_wait_ns;              /* flushes that come closer than this let level 0 grow to
                                           * level_base_bytes, or 8/3 of its tables; 0 = 1 s */
    enum lsm_compression compression;     /* levels 2 and deeper */
    enum lsm_compression compression_top; /* levels 0 and 1 */
    uint32_t bloom_bits_per_key;          /* 0 = 10 */
    uint32_t core_count;                  /* of the process: readers have ids below it */
    uint16_t message_kind_base;           /* LSM_MESSAGE_KINDS kinds from here are the LSM's */
    const struct lsm_filter *filter;      /* or NULL: keep every row; outlives the LSM */
    uint64_t random_seed;                 /* skiplist heights */
    /* Entries of the Raft log that goes on from the tables. Tables that do not reach its first one,
     * or go beyond its last, are refused, untouched. log_first_index 0: not known. */
    uint64_t log_first_index, log_last_index;
    uint8_t point_table; /* first byte of the keys that point reads are after; 0: all keys */
};

/* [raft, fiber] Recovers from the manifest, verifies every table's frame, removes orphan files.
 * Readers and the background may start once it returned. `core` is the raft core. */
must_check int lsm_open(struct core *core, const struct lsm_options *options, struct lsm **lsm);

/* [raft, fiber] Readers are closed and the background is stopped. Flushes nothing: the log has it.
 * */
void lsm_close(struct lsm *lsm);

/* [background's] Takes flushes and compactions to `core` (may be the raft core). */
void lsm_background_start(struct lsm *lsm, struct core *core);
/* [background's, fiber] Abandons running jobs at their next step and returns when none is left.
 * lsm_close() follows at least one turn of the raft core later. */
void lsm_background_stop(struct lsm *lsm);

/* [raft] What the store contains after lsm_open(); 0, 0 for an empty one. Replay starts after it.
 * */
void lsm_applied(const struct lsm *lsm, uint64_t *index, uint64_t *term);

/* ---- the writer: raft core only, never waits ----------------------------------------------------
 */

/* Copies key and value into the active memtable. Rows are visible to every core at once; what hides
 * them until their batch is complete is the version that readers ask for. */
void lsm_insert(struct lsm *lsm, struct bytes key, struct lsm_version version, enum lsm_kind kind,
                struct bytes value);

/* Brings what inserts of these keys will touch into the cache, all keys at once: worth it for
 * batches
 * of four and more. Correctness never depends on it. */
void lsm_prefetch(const struct lsm *lsm, const struct bytes *keys, uint32_t count);

/* The newest row of `key` among all memtables; tombstones are reported. 0, or ERR_NOT_FOUND: then
 * tables may still have it (lsm_get_now). The row needs no release and stays valid until the caller
 * waits or calls lsm_commit(). */
must_check int lsm_find_newest_in_memory(struct lsm *lsm, struct bytes key, struct lsm_row *row);

/* End of an applied batch: everything up to `applied_index` is inserted. Rotates a full memtable.
 * */
void lsm_commit(struct lsm *lsm, uint64_t applied_index, uint64_t term);

/* This node's own log is durable up to `index`: memtables up to it may be flushed. */
void lsm_set_durable_index(struct lsm *lsm, uint64_t index);

/* Rotates the active memtable (unless it is empty) so that all of it gets flushed: before log
 * release on a quiet node, a snapshot, a clean stop. While a batch is open, at its lsm_commit().
 * Watch lsm_flushed_index(). */
void lsm_flush_begin(struct lsm *lsm);

/* The compaction watermark moved: tables of which the filter would drop a quarter are rewritten. */
void lsm_garbage_changed(struct lsm *lsm);

/* Rewrites all levels into the deepest one, garbage dropped, in the background. */
void lsm_compact_all(struct lsm *lsm);

uint64_t lsm_flushed_index(const struct lsm *lsm); /* the log may be released up to it */

/* Memtables that wait for their flush, or level 0 tables, as a percentage of what is meant to be:
 * at FULL new writes should wait before the log; at STOP what is in the log should wait too, or
 * memory and level 0 grow without end. Between the two there is room for what was under way. */
#define LSM_PRESSURE_FULL 100
#define LSM_PRESSURE_STOP 200
uint32_t lsm_pressure(const struct lsm *lsm); /* at most LSM_PRESSURE_STOP */

/* Flushes and merges whose result was published since lsm_open(): the background gets on. */
uint64_t lsm_installs(const struct lsm *lsm);

/* 0, or why flushes, else merges, fail: one that is due did, twice in a row or more. It is tried
 * again each second. */
int lsm_failure(const struct lsm *lsm);

/* ---- readers ----------------------------------------------------------------------------------
 */

/* [reader's] At most one per core at a time. */
must_check int lsm_reader_open(struct lsm *lsm, struct core *core, struct lsm_reader **reader);
void lsm_reader_close(struct lsm_reader *reader); /* no row or cursor is held */

/* [reader's] The newest row of `key` with version <= version_max; tombstones are reported, with an
 * empty value. 0: row->key is the caller's `key`, row->value is pinned until lsm_row_release().
 * ERR_NOT_FOUND: no such row. ERR_WOULD_WAIT: not in memory, call lsm_get() in a fiber. */
must_check int lsm_get_now(struct lsm_reader *reader, struct bytes key,
                           struct lsm_version version_max, struct lsm_row *row);
/* [reader's, fiber] The same, reads what is missing. */
must_check int lsm_get(struct lsm_reader *reader, struct bytes key, struct lsm_version version_max,
                       struct lsm_row *row);
void lsm_row_release(struct lsm_reader *reader, struct lsm_row *row);

/* [reader's] Brings what lsm_get_now() of these keys will touch into the cache, all keys at once,
 * so that their cache misses overlap. Correctness never depends on it. */
#define LSM_READER_PREFETCH_MAX 16
void lsm_reader_prefetch(struct lsm_reader *reader, const struct bytes *keys, uint32_t count);

/* ---- cursors ----------------------------------------------------------------------------------
 */

struct lsm_cursor_options {
    struct bytes lower;             /* first key, inclusive; {NULL, 0}: from the start */
    struct bytes upper;             /* end, exclusive; {NULL, 0}: to the end; bounds are copied */
    struct lsm_version version_max; /* rows newer than this do not exist for the cursor */
    bool newest_only;               /* per key only the newest such row, tombstones included */
    bool memory_only; /* never wait: a move that would need the disk returns ERR_WOULD_WAIT, after
                       * which the cursor can only be closed; usable outside a fiber */
};

/* [reader's, fiber unless memory_only] Pins one view for the cursor's life. Positioned nowhere: the
 * first next() goes to the first row, the first prev() to the last. */
must_check int lsm_cursor_open(struct lsm_reader *reader, const struct lsm_cursor_options *options,
                               struct lsm_cursor **cursor);
void lsm_cursor_close(struct lsm_cursor *cursor);

/* 1: `row` is set, valid until the next move or close, no release. 0: past the end on that side
 * (the opposite move comes back in). Negative: an error, the cursor can only be closed. Rows come
 * in
 * row order: key ascending, version descending; prev() is the exact reverse. */
must_check int lsm_cursor_next(struct lsm_cursor *cursor, struct lsm_row *row);
must_check int lsm_cursor_prev(struct lsm_cursor *cursor, struct lsm_row *row);
/* To the first row at or after (key, newest version). Stays within the bounds. */
must_check int lsm_cursor_seek(struct lsm_cursor *cursor, struct bytes key, struct lsm_row *row);
/* To the last row of the last key below `key`. */
must_check int lsm_cursor_seek_before(struct lsm_cursor *cursor, struct bytes key,
                                      struct lsm_row *row);

/* ---- numbers ----------------------------------------------------------------------------------
 */

struct lsm_level_stats {
    uint32_t tables;
    uint64_t bytes, rows, superseded_rows;
};

struct lsm_stats { /* [raft] */
    struct lsm_level_stats levels[LSM_LEVELS];
    uint32_t memtables;            /* active included */
    uint64_t memtable_bytes;       /* all of them */
    uint64_t table_bytes;          /* files on disk that the current view names */
    uint64_t logical_bytes;        /* sum of key + value of all rows, memory and disk */
    uint64_t filter_index_bytes;   /* bloom filters and top indexes in memory */
    uint64_t flushes, flush_bytes; /* bytes written */
    uint64_t compactions, trivial_moves;
    uint64_t compaction_read_bytes, compaction_write_bytes, rows_dropped;
    uint64_t flush_ns, compaction_ns; /* time spent, waits included */
    uint64_t views_held; /* published and not yet reclaimed, the current one included */
    uint64_t debt_bytes; /* over the targets of the levels */
    uint64_t flushed_index, rotated_index, durable_index;
    const struct histogram *flush_duration_ns, *compaction_duration_ns; /* for metrics */
};
void lsm_stats(const struct lsm *lsm, struct lsm_stats *stats);

struct lsm_reader_stats { /* [reader's] plain counters: a metrics slot may point at each */
    uint64_t gets, gets_waited, cursors;
    uint64_t memtable_hits, bloom_negatives, bloom_false_positives;
    uint64_t cache_hits, cache_misses, cache_evictions, cache_bytes, cache_blocks;
    uint64_t row_cache_hits, row_cache_bytes;
    uint64_t blocks_read, bytes_read, corrupt_blocks;
};
const struct lsm_reader_stats *lsm_reader_stats(const struct lsm_reader *reader);

/* ---- files without a store, for raftctl ---------------------------------------------------------
 */

struct lsm_dump_block {
    bool is_index; /* else it holds rows */
    uint64_t offset;
    uint32_t bytes, raw_bytes; /* in the file; expanded */
};

struct lsm_visitor {
    void *context;
    void (*field)(void *context, const char *name, uint64_t value); /* header, properties, edits */
    void (*text)(void *context, const char *name, struct bytes value);
    bool (*row)(void *context, const struct lsm_row *row); /* false: stop; NULL: no rows wanted */
    void (*block)(void *context, const struct lsm_dump_block *block); /* or NULL */
};
/* [any core, fiber] 0, or the error found, with file, offset and reason in logger_last_error();
 * everything readable before it was visited. */
must_check int lsm_dump_sst(const char *path, const struct lsm_visitor *visitor);
/* The edits, then what they amount to: "level", "table" and "bytes" of each table. */
must_check int lsm_dump_manifest(const char *path, const struct lsm_visitor *visitor);
/* [any core, fiber] The manifest that CURRENT in `dir` names. ERR_NOT_FOUND, ERR_CORRUPT. */
must_check int lsm_dump_current(const char *dir, uint64_t *number);

#endif
