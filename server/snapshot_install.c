#include "server/snapshot_install.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/core.h"
#include "core/crc32c.h"
#include "core/invariant.h"
#include "core/logger.h"

/* One 4 KiB block: magic u64, crc32c of [16, 4096) u32, zero u32, index u64, term u64, zeros. */
#define MARKER_MAGIC UINT64_C(0x504e534641523130) /* "01RAFSNP" */
#define MARKER_BYTES IO_ALIGN_BYTES
#define MARKER_NAME  SNAPSHOT_INCOMING "/SNAPSHOT"

#define PATH_BYTES (CONFIG_TEXT_BYTES + 64)

static void path_make(char path[PATH_BYTES], const struct config *config, const char *name)
{
    snprintf(path, PATH_BYTES, "%s/%s", config->data_dir, name);
}

static bool path_exists(const struct config *config, const char *name)
{
    char path[PATH_BYTES];
    struct io_stat stat;
    path_make(path, config, name);
    return await_stat(path, &stat) == 0;
}

static int path_rename(const struct config *config, const char *from, const char *to)
{
    char old[PATH_BYTES], new[PATH_BYTES];
    path_make(old, config, from);
    path_make(new, config, to);
    return await_rename(old, new);
}

/* ---- the marker ----------------------------------------------------------------------------- */

int snapshot_mark(const struct config *config, const struct snapshot_position *position)
{
    char path[PATH_BYTES];
    struct io_file file;
    uint8_t *block = calloc(1, MARKER_BYTES);
    invariant(block != NULL);
    le64_store(block, MARKER_MAGIC);
    le64_store(block + 16, position->index);
    le64_store(block + 24, position->term);
    le32_store(block + 8, crc32c(0, block + 16, MARKER_BYTES - 16));
    path_make(path, config, MARKER_NAME);
    int error = await_open(path, IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE, &file);
    if (error >= 0) {
        error = await_write(file, (struct io_span){.base = block, .bytes = MARKER_BYTES},
                            IO_WRITE_DURABLE);
        if (error >= 0)
            error = await_sync(file);
        await_close(&file);
    }
    free(block);
    path_make(path, config, SNAPSHOT_INCOMING);
    if (error >= 0)
        error = await_sync_directory(path);
    return error < 0 ? error : 0;
}

static bool marker_read(const struct config *config, struct snapshot_position *position)
{
    char path[PATH_BYTES];
    struct io_file file;
    path_make(path, config, MARKER_NAME);
    if (await_open(path, IO_OPEN_READ, &file) < 0)
        return false;
    uint8_t *block = calloc(1, MARKER_BYTES);
    invariant(block != NULL);
    int32_t bytes = await_read(file, (struct io_span){.base = block, .bytes = MARKER_BYTES});
    await_close(&file);
    bool good = bytes == (int32_t)MARKER_BYTES && le64_load(block) == MARKER_MAGIC &&
                le32_load(block + 8) == crc32c(0, block + 16, MARKER_BYTES - 16);
    *position =
        (struct snapshot_position){.index = le64_load(block + 16), .term = le64_load(block + 24)};
    free(block);
    return good;
}

/* ---- directories ---------------------------------------------------------------------------- */

struct names {
    char names[4096][32];
    uint32_t count;
};

static void name_add(void *context, const char *name)
{
    struct names *names = context;
    if (names->count < ARRAY_COUNT(names->names) && strlen(name) < sizeof(names->names[0]))
        snprintf(names->names[names->count++], sizeof(names->names[0]), "%s", name);
}

static int remove_level(const char *path, uint32_t depth)
{
    struct reactor *reactor = core_reactor(core_current());
    struct names *names = calloc(1, sizeof(*names));
    invariant(names != NULL);
    int error = reactor_list(reactor, path, name_add, names);
    for (uint32_t i = 0; error == 0 && i < names->count; i++) {
        char inner[PATH_BYTES + 64];
        struct io_stat stat;
        snprintf(inner, sizeof(inner), "%s/%s", path, names->names[i]);
        error = await_stat(inner, &stat);
        if (error == 0 && stat.is_directory)
            error = depth == 0 ? -ENOTEMPTY : remove_level(inner, depth - 1);
        else if (error == 0)
            error = await_unlink(inner);
    }
    free(names);
    return error < 0 ? error : await_remove_directory(path);
}

int snapshot_remove_directory(const char *path)
{
    int error = remove_level(path, 1);
    return error == -ENOENT ? 0 : error;
}

static int remove_named(const struct config *config, const char *name)
{
    char path[PATH_BYTES];
    path_make(path, config, name);
    return snapshot_remove_directory(path);
}

/* ---- the exchange --------------------------------------------------------------------------- */

static int exchange_tables(const struct config *config)
{
    int error = 0;
    if (!path_exists(config, SNAPSHOT_INCOMING "/lsm"))
        return 0; /* done before a crash */
    if (path_exists(config, "lsm")) {
        error = remove_named(config, SNAPSHOT_REPLACED);
        if (error == 0)
            error = path_rename(config, "lsm", SNAPSHOT_REPLACED);
    }
    if (error >= 0)
        error = path_rename(config, SNAPSHOT_INCOMING "/lsm", "lsm");
    if (error >= 0)
        error = await_sync_directory(config->data_dir);
    return error < 0 ? error : 0;
}

int snapshot_install_begin(const struct config *config, struct snapshot_position *position)
{
    char path[PATH_BYTES];
    path_make(path, config, "snap");
    int error = await_make_directory(path);
    if (error == 0)
        error = remove_named(config, SNAPSHOT_OUTGOING);
    if (error < 0)
        return error;
    if (!marker_read(config, position)) {
        *position = (struct snapshot_position){0};
        return remove_named(config, SNAPSHOT_INCOMING); /* what was not finished */
    }
    log_info("installing a snapshot", LOG_U64("index", position->index),
             LOG_U64("term", position->term));
    error = exchange_tables(config);
    return error < 0 ? error : 1;
}

int snapshot_install_end(const struct config *config)
{
    char path[PATH_BYTES];
    path_make(path, config, MARKER_NAME);
    int error = await_unlink(path);
    path_make(path, config, SNAPSHOT_INCOMING);
    if (error == 0)
        error = await_sync_directory(path);
    if (error == 0)
        error = remove_named(config, SNAPSHOT_INCOMING);
    if (error == 0)
        error = remove_named(config, SNAPSHOT_REPLACED);
    return error < 0 ? error : 0;
}
