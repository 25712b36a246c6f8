/* Opening a store: CURRENT, manifest, tables, orphans, a fresh manifest. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/fiber.h"
#include "core/logger.h"
#include "storage/lsm/lsm_private.h"
#include "storage/lsm/manifest.h"

struct open_orphans {
    const struct manifest_state *state;
    uint64_t manifest_number;
    uint64_t number_max; /* largest number seen in any name */
    bool has_tables;
    char **names; /* owned: to be removed */
    uint32_t count, count_max;
};

static void open_orphan_add(struct open_orphans *orphans, const char *name)
{
    if (orphans->count == orphans->count_max) {
        orphans->count_max = orphans->count_max * 2 + 16;
        orphans->names = realloc(orphans->names, orphans->count_max * sizeof(orphans->names[0]));
    }
    char *copy = strdup(name);
    if (orphans->names == NULL || copy == NULL)
        fatal("out of memory while listing a directory");
    orphans->names[orphans->count++] = copy;
}

static bool open_is_table(const struct manifest_state *state, uint64_t number)
{
    for (uint32_t i = 0; i < state->count; i++)
        if (state->tables[i].number == number)
            return true;
    return false;
}

/* Names that are not ours are left alone. */
static void open_look_at(void *context, const char *name)
{
    struct open_orphans *orphans = context;
    unsigned long number = 0;
    int used = 0;
    if (sscanf(name, "%lu.sst%n", &number, &used) == 1 && used > 0 && name[used] == 0) {
        orphans->has_tables = true;
        orphans->number_max = u64_max(orphans->number_max, number);
        if (!open_is_table(orphans->state, number))
            open_orphan_add(orphans, name);
    } else if (sscanf(name, "MANIFEST-%lu%n", &number, &used) == 1 && name[used] == 0) {
        orphans->number_max = u64_max(orphans->number_max, number);
        if (number != orphans->manifest_number)
            open_orphan_add(orphans, name);
    } else if (strcmp(name, "CURRENT.tmp") == 0) {
        open_orphan_add(orphans, name);
    }
}

/* Frees the list; removes the files unless `status` is an error already. */
static int open_remove_orphans(const char *dir, struct open_orphans *orphans, int status)
{
    for (uint32_t i = 0; i < orphans->count; i++) {
        char path[LSM_PATH_BYTES_MAX];
        int length = snprintf(path, sizeof(path), "%s/%s", dir, orphans->names[i]);
        invariant(length > 0 && (size_t)length < sizeof(path));
        if (status == 0) {
            status = await_unlink(path);
            status = status == -ENOENT ? 0 : status;
            log_info("removed an unfinished file", LOG_TEXT("file", path));
        }
        free(orphans->names[i]);
    }
    free(orphans->names);
    return status;
}

static int open_read_manifest(const char *dir, uint64_t number, struct manifest_state *state)
{
    char path[LSM_PATH_BYTES_MAX];
    struct bytes file;
    const char *reason = NULL;
    uint64_t offset = 0;
    manifest_path(path, dir, number);
    int status = manifest_read_file(path, &file);
    if (status < 0) {
        log_error("cannot read the manifest", LOG_TEXT("file", path), LOG_ERROR(status));
        return status == -ENOENT ? ERR_CORRUPT : status;
    }
    status = manifest_replay(file, number, state, NULL, &reason, &offset);
    if (status < 0)
        lsm_table_log_corrupt(path, offset, reason);
    free((void *)(uintptr_t)file.data);
    return status;
}

/* A process that was killed leaves a CURRENT and records that can be read and that no medium holds.
 * What they make an orphan may be all that is there after a power cut. */
static int open_sync_found(const char *dir, uint64_t number)
{
    char path[LSM_PATH_BYTES_MAX];
    struct io_file file;
    manifest_path(path, dir, number);
    int status = await_open(path, IO_OPEN_READ, &file);
    if (status < 0)
        return status;
    status = await_sync(file);
    await_close(&file);
    return status < 0 ? status : await_sync_directory(dir);
}

static int open_check_levels(const struct lsm_levels *levels, const char *dir)
{
    for (uint32_t level = 1; level < LSM_LEVELS; level++)
        for (uint32_t i = 1; i < levels->level[level].count; i++)
            if (bytes_compare(levels->level[level].tables[i - 1]->largest,
                              levels->level[level].tables[i]->smallest) >= 0) {
                lsm_table_log_corrupt(dir, level, "tables of one level overlap");
                return ERR_CORRUPT;
            }
    return 0;
}

static int open_tables(const char *dir, const struct manifest_state *state,
                       struct lsm_levels *levels)
{
    for (uint32_t i = 0; i < state->count; i++) {
        const struct manifest_table *entry = &state->tables[i];
        char path[LSM_PATH_BYTES_MAX];
        struct lsm_table *table = NULL;
        lsm_path(path, dir, "%06lu.sst", entry->number);
        int status = lsm_table_open(path, entry->number, &table);
        if (status < 0)
            return status == -ENOENT ? ERR_CORRUPT : status;
        lsm_levels_add(levels, entry->level, table);
        if (table->file_bytes != entry->bytes) {
            lsm_table_log_corrupt(path, table->file_bytes, "not the size that the manifest says");
            return ERR_CORRUPT;
        }
    }
    return open_check_levels(levels, dir);
}

static void open_drop_levels(struct lsm_levels *levels)
{
    for (uint32_t level = 0; level < LSM_LEVELS; level++)
        for (uint32_t i = 0; i < levels->level[level].count; i++)
            lsm_table_close(levels->level[level].tables[i], false);
    lsm_levels_free(levels);
}

/* A record lost at the manifest's end looks like one that was never written; what it named would be
 * removed as an orphan. The log tells the difference when it no longer has those entries. */
static int open_check_log(const struct lsm_options *options, const struct manifest_state *state)
{
    uint64_t first = options->log_first_index, last = options->log_last_index;
    if (first == 0 || (state->flushed_index + 1 >= first && state->flushed_index <= last))
        return 0;
    log_error("tables and log do not fit together, files of one are missing or lost their end",
              LOG_TEXT("file", options->dir), LOG_U64("tables_last", state->flushed_index),
              LOG_U64("log_first", first), LOG_U64("log_last", last));
    return ERR_CORRUPT;
}

/* Everything on disk is verified before anything is changed. */
static int open_recover(struct core *core, const struct lsm_options *options,
                        struct manifest_state *state, struct lsm_levels *levels,
                        uint64_t *manifest_number, uint64_t *number_next)
{
    const char *dir = options->dir;
    struct open_orphans orphans = {.state = state};
    int status = manifest_read_current(dir, &orphans.manifest_number);
    *manifest_number = orphans.manifest_number;
    bool is_new = status == ERR_NOT_FOUND;
    if (status < 0 && !is_new)
        return status;
    if (!is_new)
        status = open_read_manifest(dir, orphans.manifest_number, state);
    if (!is_new && status < 0)
        return status;
    status = open_check_log(options, state);
    if (status < 0)
        return status;
    levels->flushed_index = state->flushed_index;
    levels->flushed_term = state->flushed_term;
    status = open_tables(dir, state, levels);
    if (status == 0)
        status = reactor_list(core_reactor(core), dir, open_look_at, &orphans);
    if (status == 0 && is_new && orphans.has_tables) {
        lsm_table_log_corrupt(dir, 0, "there are tables but no CURRENT");
        status = ERR_CORRUPT;
    }
    if (status == 0 && !is_new)
        status = open_sync_found(dir, orphans.manifest_number);
    *number_next =
        u64_max(state->number_next, u64_max(orphans.number_max, orphans.manifest_number) + 1);
    return open_remove_orphans(dir, &orphans, status);
}

int lsm_open(struct core *core, const struct lsm_options *options, struct lsm **result)
{
    struct manifest_state state;
    uint64_t number_next = 1, manifest_number = 0;
    if (strlen(options->dir) + 64 > LSM_PATH_BYTES_MAX)
        return -ENAMETOOLONG;
    int status = await_make_directory(options->dir);
    if (status < 0)
        return status;
    struct lsm_levels *levels = lsm_levels_create();
    if (levels == NULL)
        return -ENOMEM;
    manifest_state_init(&state);
    struct lsm *created = NULL;
    status = open_recover(core, options, &state, levels, &manifest_number, &number_next);
    if (status == 0)
        status = lsm_create(core, options, levels, &created);
    if (status < 0)
        open_drop_levels(levels);
    else
        status = lsm_background_create(created, number_next, manifest_number, &state);
    manifest_state_deinit(&state);
    if (status == 0)
        *result = created;
    else if (created != NULL)
        lsm_close(created);
    return status;
}
