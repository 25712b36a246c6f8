#include "storage/lsm/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/fiber.h"
#include "storage/lsm/lsm_private.h"
#include "storage/lsm/manifest.h"
#include "storage/lsm/table_iterator.h"

#define VERIFY_WINDOW_BYTES ((uint32_t)256 * 1024)

void lsm_checkpoint_position(const struct lsm *lsm, uint64_t *index, uint64_t *term)
{
    const struct lsm_levels *levels = atomic_load(&lsm->view)->levels;
    *index = levels->flushed_index;
    *term = levels->flushed_term;
}

static int link_tables(const struct lsm *lsm, const struct lsm_levels *levels, const char *dir,
                       uint64_t *number_max)
{
    *number_max = 0;
    for (uint32_t level = 0; level < LSM_LEVELS; level++)
        for (uint32_t i = 0; i < levels->level[level].count; i++) {
            char from[LSM_PATH_BYTES_MAX], to[LSM_PATH_BYTES_MAX];
            uint64_t number = levels->level[level].tables[i]->number;
            lsm_path(from, lsm->dir, "%06lu.sst", number);
            lsm_path(to, dir, "%06lu.sst", number);
            int status = await_hard_link(from, to);
            if (status < 0)
                return status;
            *number_max = u64_max(*number_max, number);
        }
    return 0;
}

int lsm_checkpoint(struct lsm *lsm, struct lsm_reader *reader, const char *dir, uint64_t *index,
                   uint64_t *term)
{
    struct lsm_cursor_options options = {.version_max = LSM_VERSION_MAX, .memory_only = true};
    struct lsm_cursor *cursor;
    struct manifest manifest;
    uint64_t number_max;
    bool uncertain; /* nobody looks there before all of it is durable */
    if (strlen(dir) + 64 > LSM_PATH_BYTES_MAX)
        return -ENAMETOOLONG;
    int status = lsm_cursor_open(reader, &options, &cursor); /* pins the newest view ... */
    if (status < 0)
        return status;
    const struct lsm_levels *levels = atomic_load(&lsm->view)->levels; /* ... which is this one */
    *index = levels->flushed_index;
    *term = levels->flushed_term;
    status = await_make_directory(dir);
    if (status == 0)
        status = link_tables(lsm, levels, dir, &number_max);
    if (status == 0) {
        status =
            manifest_create(&manifest, dir, number_max + 1, levels, number_max + 2, &uncertain);
        if (status == 0)
            manifest_close(&manifest);
    }
    if (status == 0)
        status = await_sync_directory(dir);
    lsm_cursor_close(cursor);
    return status < 0 ? status : 0;
}

/* ---- verifying ------------------------------------------------------------------------------ */

static int verify_acquire(struct table_blocks *blocks maybe_unused, const struct lsm_table *table,
                          struct sst_handle handle, enum sst_block_type type,
                          struct table_window *window, struct bytes *raw, void **pin)
{
    const uint8_t *stored = NULL;
    uint8_t *expanded = NULL;
    uint32_t bytes = 0;
    int status = window == NULL ? 0 : table_window_read(window, table, handle, &stored);
    if (status == 0 && stored != NULL)
        status = sst_block_decode(table->number, table->path, handle, type, stored, 0, &expanded,
                                  &bytes);
    else if (status == 0)
        status = lsm_table_read_stored(table, handle, type, 0, &expanded, &bytes);
    *raw = bytes_make(expanded, bytes);
    *pin = expanded;
    return status;
}

static void verify_release(struct table_blocks *blocks maybe_unused, void *pin)
{
    free(pin);
}

static int verify_rows(const struct lsm_table *table, const bool *cancel)
{
    struct table_blocks blocks = {verify_acquire, verify_release};
    struct table_iterator *iterator = malloc(sizeof(*iterator));
    uint64_t rows = 0;
    if (iterator == NULL)
        return -ENOMEM;
    table_iterator_init(iterator, &blocks, VERIFY_WINDOW_BYTES);
    table_iterator_open(iterator, table);
    int status = table_iterator_first(iterator);
    while (status == 1 && !*cancel) {
        rows++;
        if (fiber_should_yield())
            fiber_yield();
        status = table_iterator_next(iterator);
    }
    table_iterator_deinit(iterator);
    free(iterator);
    if (status == 1)
        return ERR_CANCELED;
    if (status == 0 && rows != table->properties.rows) {
        lsm_table_log_corrupt(table->path, 0, "not as many rows as its properties say");
        return ERR_CORRUPT;
    }
    return status;
}

static int verify_table(const char *dir, const struct manifest_table *entry, const bool *cancel)
{
    char path[LSM_PATH_BYTES_MAX];
    struct lsm_table *table = NULL;
    lsm_path(path, dir, "%06lu.sst", entry->number);
    int status = lsm_table_open(path, entry->number, &table);
    if (status < 0)
        return status == -ENOENT ? ERR_CORRUPT : status;
    if (table->file_bytes == entry->bytes) {
        status = verify_rows(table, cancel);
    } else {
        lsm_table_log_corrupt(path, table->file_bytes, "not the size that the manifest says");
        status = ERR_CORRUPT;
    }
    lsm_table_close(table, false);
    return status;
}

static int read_manifest(const char *dir, struct manifest_state *state)
{
    char path[LSM_PATH_BYTES_MAX];
    struct bytes file;
    const char *reason = NULL;
    uint64_t number, offset = 0;
    int status = manifest_read_current(dir, &number);
    if (status < 0)
        return status;
    manifest_path(path, dir, number);
    status = manifest_read_file(path, &file);
    if (status < 0)
        return status == -ENOENT ? ERR_CORRUPT : status;
    status = manifest_replay(file, number, state, NULL, &reason, &offset);
    if (status < 0)
        lsm_table_log_corrupt(path, offset, reason);
    free((void *)(uintptr_t)file.data);
    return status;
}

int lsm_checkpoint_verify(const char *dir, uint64_t index, uint64_t term, const bool *cancel)
{
    struct manifest_state state;
    if (strlen(dir) + 64 > LSM_PATH_BYTES_MAX)
        return -ENAMETOOLONG;
    manifest_state_init(&state);
    int status = read_manifest(dir, &state);
    status = status == ERR_NOT_FOUND ? ERR_CORRUPT : status;
    if (status == 0 && (state.flushed_index != index || state.flushed_term != term)) {
        lsm_table_log_corrupt(dir, state.flushed_index, "holds another index than it was sent for");
        status = ERR_CORRUPT;
    }
    for (uint32_t i = 0; i < state.count && status == 0; i++)
        status = verify_table(dir, &state.tables[i], cancel);
    manifest_state_deinit(&state);
    return status;
}

int lsm_stored_index(const char *dir, uint64_t *index)
{
    struct manifest_state state;
    if (strlen(dir) + 64 > LSM_PATH_BYTES_MAX)
        return -ENAMETOOLONG;
    manifest_state_init(&state);
    int status = read_manifest(dir, &state);
    *index = status == 0 ? state.flushed_index : 0;
    manifest_state_deinit(&state);
    return status == ERR_NOT_FOUND ? 0 : status;
}
