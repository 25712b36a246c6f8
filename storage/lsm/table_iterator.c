#include "storage/lsm/table_iterator.h"

#include <errno.h>

#include "core/err.h"
#include "core/invariant.h"

/* ---- reading ahead ---------------------------------------------------------------------------
 */

void table_window_init(struct table_window *window, uint32_t capacity)
{
    memset(window, 0, sizeof(*window));
    window->capacity = capacity;
}

void table_window_deinit(struct table_window *window)
{
    if (window->buffer != NULL)
        lsm_buffer_release(window->buffer);
    window->buffer = NULL;
    window->start = window->end = 0;
}

bool table_window_has(const struct table_window *window, struct sst_handle handle)
{
    return handle.offset >= window->start && handle.offset + handle.bytes <= window->end;
}

int table_window_read(struct table_window *window, const struct lsm_table *table,
                      struct sst_handle handle, const uint8_t **stored)
{
    *stored = NULL;
    if ((uint64_t)handle.bytes + 2 * IO_ALIGN_BYTES > window->capacity ||
        handle.offset + handle.bytes > table->properties.data_bytes)
        return 0;
    if (window->buffer == NULL)
        window->buffer = lsm_buffer_acquire(window->capacity);
    if (window->buffer == NULL)
        return -ENOMEM;
    uint64_t base = window->start & ~(uint64_t)(IO_ALIGN_BYTES - 1);
    if (!table_window_has(window, handle)) {
        uint32_t bytes = (uint32_t)u64_min(window->capacity - 2 * IO_ALIGN_BYTES,
                                           table->properties.data_bytes - handle.offset);
        uint32_t skip = 0;
        window->start = window->end = 0;
        int status = lsm_table_read_span(table, handle.offset, bytes, window->buffer,
                                         window->capacity, &skip);
        if (status < 0)
            return status;
        base = handle.offset - skip;
        window->start = handle.offset;
        window->end = handle.offset + bytes;
    }
    *stored = window->buffer + (handle.offset - base);
    return 0;
}

/* ---- blocks of the path ----------------------------------------------------------------------
 */

void table_iterator_init(struct table_iterator *iterator, struct table_blocks *blocks,
                         uint32_t window_bytes)
{
    iterator->table = NULL;
    iterator->blocks = blocks;
    block_iterator_init(&iterator->top);
    block_iterator_init(&iterator->index);
    block_iterator_init(&iterator->data);
    iterator->index_pin = iterator->data_pin = NULL;
    iterator->index_offset = iterator->data_offset = 0;
    iterator->forward = false;
    table_window_init(&iterator->window, window_bytes);
}

static void table_iterator_drop(struct table_iterator *iterator)
{
    if (iterator->data_pin != NULL)
        iterator->blocks->release(iterator->blocks, iterator->data_pin);
    if (iterator->index_pin != NULL)
        iterator->blocks->release(iterator->blocks, iterator->index_pin);
    iterator->data_pin = iterator->index_pin = NULL;
}

void table_iterator_deinit(struct table_iterator *iterator)
{
    table_iterator_drop(iterator);
    block_iterator_deinit(&iterator->top);
    block_iterator_deinit(&iterator->index);
    block_iterator_deinit(&iterator->data);
    table_window_deinit(&iterator->window);
}

void table_iterator_open(struct table_iterator *iterator, const struct lsm_table *table)
{
    table_iterator_drop(iterator);
    iterator->table = table;
    iterator->forward = false;
    iterator->window.start = iterator->window.end = 0;
}

static int table_iterator_corrupt(const struct table_iterator *iterator, uint64_t offset,
                                  const char *reason)
{
    lsm_table_log_corrupt(iterator->table->path, offset, reason);
    return ERR_CORRUPT;
}

/* Makes the block that `parent` points at current in `child`. */
static int table_iterator_descend(struct table_iterator *iterator, struct block_iterator *parent,
                                  struct block_iterator *child)
{
    bool is_data = child == &iterator->data;
    void **pin = is_data ? &iterator->data_pin : &iterator->index_pin;
    uint64_t *offset = is_data ? &iterator->data_offset : &iterator->index_offset;
    struct sst_handle handle;
    if (block_iterator_handle(parent, &handle) != 0)
        return table_iterator_corrupt(iterator, is_data ? iterator->index_offset : 0,
                                      "index entry is not a block handle");
    if (*pin != NULL && *offset == handle.offset)
        return 0;
    if (*pin != NULL)
        iterator->blocks->release(iterator->blocks, *pin);
    *pin = NULL;
    struct table_window *window =
        is_data && iterator->forward && iterator->window.capacity > 0 ? &iterator->window : NULL;
    struct bytes raw;
    int status =
        iterator->blocks->acquire(iterator->blocks, iterator->table, handle,
                                  is_data ? SST_BLOCK_DATA : SST_BLOCK_INDEX, window, &raw, pin);
    if (status < 0)
        return status;
    if (block_iterator_open(child, raw) != 0) {
        iterator->blocks->release(iterator->blocks, *pin);
        *pin = NULL; /* the next seek must not take it for open */
        return table_iterator_corrupt(iterator, handle.offset, "block has no restart array");
    }
    *offset = handle.offset;
    return 0;
}

static int table_iterator_open_top(struct table_iterator *iterator)
{
    invariant(iterator->table != NULL);
    if (block_iterator_open(&iterator->top, iterator->table->top_index) != 0)
        return table_iterator_corrupt(iterator, 0, "top index has no restart array");
    return 0;
}

/* A malformed entry in a block whose checksum holds. */
static int table_iterator_result(const struct table_iterator *iterator, int status)
{
    if (status == ERR_CORRUPT)
        return table_iterator_corrupt(iterator, iterator->data_offset, "malformed block entry");
    return status;
}

/* Where a descent goes at each level: to the target, or to an end. */
static int block_enter(struct block_iterator *block, const struct sst_target *target, bool last)
{
    if (target != NULL)
        return block_iterator_seek(block, target);
    return last ? block_iterator_last(block) : block_iterator_first(block);
}

/* From a valid `top` entry down to a row. */
static int table_iterator_enter(struct table_iterator *iterator, const struct sst_target *target,
                                bool last)
{
    int status = table_iterator_descend(iterator, &iterator->top, &iterator->index);
    if (status < 0)
        return status;
    status = block_enter(&iterator->index, target, last);
    if (status != 1)
        return table_iterator_result(iterator, status == 0 ? ERR_CORRUPT : status);
    status = table_iterator_descend(iterator, &iterator->index, &iterator->data);
    if (status < 0)
        return status;
    status = block_enter(&iterator->data, target, last);
    /* The index says that the block's last key is at or after the target, so 0 is damage too. */
    return table_iterator_result(iterator, status == 0 ? ERR_CORRUPT : status);
}

static int table_iterator_start(struct table_iterator *iterator, const struct sst_target *target,
                                bool last)
{
    iterator->forward = false;
    int status = table_iterator_open_top(iterator);
    if (status < 0)
        return status;
    status = block_enter(&iterator->top, target, last);
    if (status != 1)
        return table_iterator_result(iterator, status);
    return table_iterator_enter(iterator, target, last);
}

int table_iterator_seek(struct table_iterator *iterator, const struct sst_target *target)
{
    return table_iterator_start(iterator, target, false);
}

int table_iterator_first(struct table_iterator *iterator)
{
    return table_iterator_start(iterator, NULL, false);
}

int table_iterator_last(struct table_iterator *iterator)
{
    return table_iterator_start(iterator, NULL, true);
}

int table_iterator_next(struct table_iterator *iterator)
{
    int status = block_iterator_next(&iterator->data);
    if (likely(status != 0))
        return table_iterator_result(iterator, status);
    iterator->forward = true;
    status = block_iterator_next(&iterator->index);
    if (status == 1) {
        status = table_iterator_descend(iterator, &iterator->index, &iterator->data);
        if (status == 0)
            status = table_iterator_result(iterator, block_iterator_first(&iterator->data));
        return status == 0 ? ERR_CORRUPT : status;
    }
    if (status == 0)
        status = block_iterator_next(&iterator->top);
    if (status != 1)
        return table_iterator_result(iterator, status);
    return table_iterator_enter(iterator, NULL, false);
}

int table_iterator_prev(struct table_iterator *iterator)
{
    int status = block_iterator_prev(&iterator->data);
    if (likely(status != 0))
        return table_iterator_result(iterator, status);
    iterator->forward = false;
    status = block_iterator_prev(&iterator->index);
    if (status == 1) {
        status = table_iterator_descend(iterator, &iterator->index, &iterator->data);
        if (status == 0)
            status = table_iterator_result(iterator, block_iterator_last(&iterator->data));
        return status == 0 ? ERR_CORRUPT : status;
    }
    if (status == 0)
        status = block_iterator_prev(&iterator->top);
    if (status != 1)
        return table_iterator_result(iterator, status);
    return table_iterator_enter(iterator, NULL, true);
}
