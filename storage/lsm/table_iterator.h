/*
 * table_iterator.h - walks one SSTable in either direction: top index, index block, data block.
 *
 * Story     Blocks come from whoever iterates: a reader's cache, or plain memory for compaction.
 *           Steps in key order read ahead through a window, so a scan costs one I/O per window.
 * Owner     One fiber at a time. Pins at most one index and one data block.
 * Errors    Moves return 1 (on a row), 0 (past the end), ERR_WOULD_WAIT, ERR_CORRUPT or -errno;
 *           after an error only another seek or deinit is allowed.
 */
#ifndef STORAGE_LSM_TABLE_ITERATOR_H
#define STORAGE_LSM_TABLE_ITERATOR_H

#include "storage/lsm/block.h"
#include "storage/lsm/table.h"

/* Stored bytes [start, end) of a table's file, read ahead. */
struct table_window {
    uint8_t *buffer;
    uint32_t capacity; /* 0: no reading ahead */
    uint64_t start, end;
};

void table_window_init(struct table_window *window, uint32_t capacity);
void table_window_deinit(struct table_window *window);
/* [fiber] The stored block, from the window or read with what follows it; NULL in `stored` when it
 * is
 * too large for a window. */
must_check int table_window_read(struct table_window *window, const struct lsm_table *table,
                                 struct sst_handle handle, const uint8_t **stored);
bool table_window_has(const struct table_window *window, struct sst_handle handle);

/* A source of raw blocks. `window` is NULL unless the iterator goes forward. */
struct table_blocks {
    int (*acquire)(struct table_blocks *blocks, const struct lsm_table *table,
                   struct sst_handle handle, enum sst_block_type type, struct table_window *window,
                   struct bytes *raw, void **pin);
    void (*release)(struct table_blocks *blocks, void *pin);
};

struct table_iterator {
    const struct lsm_table *table;
    struct table_blocks *blocks;
    struct block_iterator top, index, data;
    uint64_t index_offset, data_offset; /* of the blocks pinned */
    void *index_pin, *data_pin;
    bool forward; /* the last block change was a step ahead */
    struct table_window window;
};

void table_iterator_init(struct table_iterator *iterator, struct table_blocks *blocks,
                         uint32_t window_bytes);
void table_iterator_deinit(struct table_iterator *iterator);
void table_iterator_open(struct table_iterator *iterator, const struct lsm_table *table);

must_check int table_iterator_first(struct table_iterator *iterator);
must_check int table_iterator_last(struct table_iterator *iterator);
must_check int table_iterator_next(struct table_iterator *iterator);
must_check int table_iterator_prev(struct table_iterator *iterator);
must_check int table_iterator_seek(struct table_iterator *iterator,
                                   const struct sst_target *target);

/* Borrowed until the next move. */
static inline void table_iterator_row(const struct table_iterator *iterator, struct lsm_row *row)
{
    row->key = block_iterator_key(&iterator->data);
    row->version = block_iterator_version(&iterator->data);
    row->kind = iterator->data.kind;
    row->value = iterator->data.value;
    row->pin_kind = 0;
    row->pin = NULL;
}

#endif
