#include "storage/lsm/checkpoint.h"

#include <errno.h>
#include <stdio.h>

#include "core/fiber.h"
#include "storage/lsm/lsm_private.h"
#include "storage/lsm/manifest.h"

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
        status = manifest_create(&manifest, dir, number_max + 1, levels, number_max + 2);
        if (status == 0)
            manifest_close(&manifest);
    }
    if (status == 0)
        status = await_sync_directory(dir);
    lsm_cursor_close(cursor);
    return status < 0 ? status : 0;
}
