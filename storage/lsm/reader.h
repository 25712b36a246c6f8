/*
 * reader.h - one core's door to the store: the view it uses, what its rows and cursors pin, its
 * cache.
 *
 * Story     `views` is a list from the eldest view that something here still needs to the newest
 *           seen; the newest stays even when nothing needs it, and is what floor[core] announces.
 * Owner     Its core. See lsm_private.h for V1..V3.
 */
#ifndef STORAGE_LSM_READER_H
#define STORAGE_LSM_READER_H

#include "storage/lsm/block_cache.h"
#include "storage/lsm/lsm_private.h"
#include "storage/lsm/row_cache.h"
#include "storage/lsm/table_iterator.h"

struct reader_view {
    struct lsm_view *view;
    uint32_t pins;
    struct reader_view *older;
};

enum reader_pin {
    READER_PIN_NONE = 0,
    READER_PIN_VIEW = 1,
    READER_PIN_BLOCK = 2,
    READER_PIN_ROW = 3
};

/* Blocks through the reader's cache. */
struct reader_blocks {
    struct table_blocks blocks; /* first: the table iterator sees only this */
    struct lsm_reader *reader;
    bool may_wait;
    enum cache_priority priority;
    uint64_t scanned_bytes; /* read ahead so far */
};

struct lsm_reader {
    struct lsm *lsm;
    struct core *core;
    struct reader_view *current; /* newest; older ones follow */
    struct block_cache cache;
    struct row_cache rows; /* a share of the block cache's budget */
    struct lsm_reader_stats stats;
    struct lsm_cursor *idle_cursors; /* kept for reuse */
    uint32_t idle_cursor_count, rows_held, cursors_open;
};

#define READER_ROW_CACHE_SHARE 2 /* one part in so many of block_cache_bytes_per_core */

void reader_blocks_init(struct reader_blocks *blocks, struct lsm_reader *reader, bool may_wait,
                        enum cache_priority priority);

/* The newest view; reader_view_acquire() pins it, which every suspension needs. */
struct reader_view *reader_view_current(struct lsm_reader *reader);
struct reader_view *reader_view_acquire(struct lsm_reader *reader);
void reader_view_release(struct lsm_reader *reader, struct reader_view *held);

void lsm_cursors_free(struct lsm_reader *reader); /* cursor.c: the idle ones */

#endif
