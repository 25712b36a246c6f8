/*
 * lsm_private.h - what the files of the LSM share: the store, views, messages, reader.
 *
 * Story     A view is the immutable answer to "which memtables and tables are there". The raft core
 *           makes and publishes views, in rising sequence. A reader keeps the newest view that it
 *           has seen as `current`; when it sees a newer one it moves on.
 * Threads   Fields say their owner.
 *
 * Reclaim
 * V1  a reader may touch view v only while floor[core] <= v.sequence (it has not moved past v) or
 *     held[core] of v is set (a row or cursor of that core needs it).
 * V2  the reader sets held before it raises its floor past v, and clears it last.
 * V3  the raft core frees v when it is not the newest, every floor is above it and no held flag is
 *     set; floor = UINT64_MAX means "no reader". Opening a reader stores floor = 0, then loads the
 *     view; publishing stores the view, then loads the floors; both sequentially consistent, so one
 *     of them sees the other.
 */
#ifndef STORAGE_LSM_LSM_PRIVATE_H
#define STORAGE_LSM_LSM_PRIVATE_H

#include <stdatomic.h>

#include "core/core.h"
#include "core/histogram.h"
#include "core/invariant.h"
#include "storage/lsm/lsm.h"
#include "storage/lsm/memtable.h"
#include "storage/lsm/table.h"

#define LSM_PATH_BYTES_MAX 512

/* Level 0 at this many times its trigger is full pressure (RocksDB: 4, slowdown 20, stop 36). */
#define LSM_LEVEL0_FULL_FACTOR 8

enum lsm_message {
    LSM_MESSAGE_VIEW,     /* raft -> reader: a newer view is published */
    LSM_MESSAGE_RELEASED, /* reader -> raft: a floor rose or a held flag fell */
    LSM_MESSAGE_FLUSH,    /* raft -> background: memtable in word[0], now immutable and durable */
    LSM_MESSAGE_REMOVE,   /* raft -> background: table in word[0] has no reader left */
    LSM_MESSAGE_REQUEST,  /* raft -> background: enum lsm_request in `small` */
    LSM_MESSAGE_STARTED,  /* background -> raft: flushes are welcome */
    LSM_MESSAGE_INSTALL,  /* background -> raft: struct lsm_install in word[0] */
    LSM_MESSAGE_STOPPED,  /* background -> raft */
    LSM_MESSAGE_FAILED,   /* background -> raft: enum lsm_work in `small`, -error in word[0];
                             0: what failed is not due any more */
    LSM_MESSAGE_COUNT
};
_Static_assert(LSM_MESSAGE_COUNT <= LSM_MESSAGE_KINDS, "kinds are reserved in lsm.h");

enum lsm_request {
    LSM_REQUEST_GARBAGE = 1,
    LSM_REQUEST_COMPACT_ALL = 2,
    LSM_REQUEST_STOP_SEEN = 3, /* the last message before a new start */
};

enum lsm_work { LSM_WORK_FLUSH = 0, LSM_WORK_MERGE = 1, LSM_WORK_COUNT };

/* In a row: since one was installed, or none was due any more. */
struct lsm_failed {
    uint32_t times;
    int error; /* of the last */
};

struct lsm_view {
    uint64_t sequence;
    struct lsm_view *newer; /* raft core: list of views not yet freed */
    struct lsm_levels *levels;
    _Atomic uint8_t *held; /* one per core */
    uint32_t memtable_count;
    struct memtable *memtables[]; /* youngest (active) first */
};

/* Per core, on its own cache lines. */
struct lsm_core_slot {
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t floor;
    struct lsm *lsm;
    struct lsm_reader *reader; /* that core's */
};

/* What a flush or compaction changed, already durable in the manifest. */
struct lsm_install {
    struct lsm_levels *levels;
    struct memtable *flushed; /* or NULL */
    bool is_compaction, trivial;
    uint64_t read_bytes, write_bytes, rows_dropped, duration_ns;
};

struct lsm_background;

struct lsm {
    _Alignas(CACHE_LINE_BYTES) _Atomic(struct lsm_view *) view;

    _Alignas(CACHE_LINE_BYTES) struct lsm_options options; /* defaults filled in */
    char *dir;
    struct lsm_core_slot *slots; /* core_count of them */

    /* raft core */
    struct core *core;
    struct memtable *active;
    struct lsm_view *oldest; /* head of the list that ends at `view` */
    uint64_t view_sequence, memtable_id;
    uint64_t applied_index, applied_term; /* of lsm_commit() */
    bool batch_open;                      /* rows were inserted since */
    bool rotation_wanted;                 /* at the next lsm_commit() */
    uint64_t recovered_index, recovered_term;
    uint64_t durable_index, rotated_index, flushed_index;
    struct prng prng;
    bool background_running;
    uint32_t background_core;
    struct lsm_table **dead; /* tables without a reader while no background runs */
    uint32_t dead_count, dead_count_max;
    struct lsm_stats counters; /* flush and compaction parts */
    struct lsm_failed failed[LSM_WORK_COUNT];
    struct histogram flush_duration_ns, compaction_duration_ns;

    /* handed from lsm_open() to the background core */
    struct lsm_background *background;
};

/* lsm.c */
must_check int lsm_create(struct core *core, const struct lsm_options *options,
                          struct lsm_levels *levels, struct lsm **lsm);
void lsm_post(struct lsm *lsm, struct core *from, uint32_t to, enum lsm_message kind,
              uint32_t small, void *pointer);
void lsm_path(char *path, const char *dir, const char *format, uint64_t number);
void lsm_view_release(struct lsm *lsm); /* frees what V3 allows */

/* background.c: the part that lsm_open() and lsm_close() need */
struct manifest_state;
/* [fiber] Starts a manifest with what lsm_open() found in that of `found_number` (0: none there).
 * Without room for a new one it goes on in that. */
must_check int lsm_background_create(struct lsm *lsm, uint64_t number_next, uint64_t found_number,
                                     const struct manifest_state *found);
void lsm_background_destroy(struct lsm *lsm); /* [fiber] */

#endif
