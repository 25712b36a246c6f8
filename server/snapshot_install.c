#include "server/snapshot_install.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/core.h"
#include "core/crc32c.h"
#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"

/* One 4 KiB block: magic u64, crc32c of [16, 4096) u32, zero u32, index u64, term u64, zeros. */
#define MARKER_MAGIC UINT64_C(0x504e534641523130) /* "01RAFSNP" */
#define MARKER_BYTES IO_ALIGN_BYTES
#define MARKER_NAME  SNAPSHOT_INCOMING "/SNAPSHOT"

static void path_make(char path[SNAPSHOT_PATH_BYTES], const char *data_dir, const char *name)
{
    snprintf(path, SNAPSHOT_PATH_BYTES, "%s/%s", data_dir, name);
}

static int path_exists(const char *data_dir, const char *name, bool *exists)
{
    char path[SNAPSHOT_PATH_BYTES];
    struct io_stat stat;
    path_make(path, data_dir, name);
    int error = await_stat(path, &stat);
    *exists = error == 0;
    return error == -ENOENT ? 0 : error;
}

static int path_rename(const char *data_dir, const char *from, const char *to)
{
    char old[SNAPSHOT_PATH_BYTES], new[SNAPSHOT_PATH_BYTES];
    path_make(old, data_dir, from);
    path_make(new, data_dir, to);
    return await_rename(old, new);
}

static int path_sync(const char *data_dir, const char *name)
{
    char path[SNAPSHOT_PATH_BYTES];
    path_make(path, data_dir, name);
    return await_sync_directory(path);
}

/* ---- the marker ----------------------------------------------------------------------------- */

int snapshot_mark(const char *data_dir, const struct snapshot_position *position)
{
    char path[SNAPSHOT_PATH_BYTES];
    struct io_file file;
    uint8_t *block = calloc(1, MARKER_BYTES);
    invariant(block != NULL);
    le64_store(block, MARKER_MAGIC);
    le64_store(block + 16, position->index);
    le64_store(block + 24, position->term);
    le32_store(block + 8, crc32c(0, block + 16, MARKER_BYTES - 16));
    path_make(path, data_dir, MARKER_NAME);
    int error = await_open(path, IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE, &file);
    if (error >= 0) {
        error = await_write(file, (struct io_span){.base = block, .bytes = MARKER_BYTES},
                            IO_WRITE_DURABLE);
        if (error >= 0)
            error = await_sync(file);
        await_close(&file);
    }
    free(block);
    /* The names that lead to it are durable since await_make_directory(). */
    if (error >= 0)
        error = path_sync(data_dir, SNAPSHOT_INCOMING);
    return error < 0 ? error : 0;
}

/* 0 and a position, ERR_NOT_FOUND, ERR_CORRUPT or -errno. */
static int marker_read(const char *data_dir, struct snapshot_position *position)
{
    char path[SNAPSHOT_PATH_BYTES];
    struct io_file file;
    path_make(path, data_dir, MARKER_NAME);
    int error = await_open(path, IO_OPEN_READ, &file);
    if (error < 0)
        return error == -ENOENT ? ERR_NOT_FOUND : error;
    uint8_t *block = calloc(1, MARKER_BYTES);
    invariant(block != NULL);
    int32_t bytes = await_read(file, (struct io_span){.base = block, .bytes = MARKER_BYTES});
    if (bytes >= 0 && (error = await_sync(file)) < 0) /* as in sync_found() */
        bytes = error;
    await_close(&file);
    bool good = bytes == (int32_t)MARKER_BYTES && le64_load(block) == MARKER_MAGIC &&
                le32_load(block + 8) == crc32c(0, block + 16, MARKER_BYTES - 16);
    *position =
        (struct snapshot_position){.index = le64_load(block + 16), .term = le64_load(block + 24)};
    free(block);
    return bytes < 0 ? bytes : good ? 0 : ERR_CORRUPT;
}

/* From here on there is no snapshot, whatever of it is still there. */
static int marker_remove(const char *data_dir)
{
    char path[SNAPSHOT_PATH_BYTES];
    path_make(path, data_dir, MARKER_NAME);
    int error = await_unlink(path);
    if (error == 0)
        error = path_sync(data_dir, SNAPSHOT_INCOMING);
    return error == -ENOENT ? 0 : error;
}

/* ---- directories ---------------------------------------------------------------------------- */

struct names {
    char names[1024][64];
    uint32_t count;
};

static void name_add(void *context, const char *name)
{
    struct names *names = context;
    if (names->count < ARRAY_COUNT(names->names) && strlen(name) < sizeof(names->names[0]))
        snprintf(names->names[names->count++], sizeof(names->names[0]), "%s", name);
}

static int remove_level(const char *path, uint32_t depth);

static int remove_entry(const char *path, uint32_t depth)
{
    struct io_stat stat;
    int error = await_stat(path, &stat);
    if (error < 0 || !stat.is_directory)
        return error < 0 ? error : await_unlink(path);
    return depth == 0 ? -ENOTEMPTY : remove_level(path, depth - 1);
}

static int remove_level(const char *path, uint32_t depth)
{
    struct names *names = malloc(sizeof(*names));
    invariant(names != NULL);
    int error;
    do { /* as many as fit at a time */
        names->count = 0;
        error = reactor_list(core_reactor(core_current()), path, name_add, names);
        for (uint32_t i = 0; error == 0 && i < names->count; i++) {
            char inner[SNAPSHOT_PATH_BYTES + 64];
            snprintf(inner, sizeof(inner), "%s/%s", path, names->names[i]);
            error = remove_entry(inner, depth);
        }
    } while (error == 0 && names->count > 0);
    free(names);
    return error < 0 ? error : await_remove_directory(path);
}

int snapshot_remove_directory(const char *path)
{
    int error = remove_level(path, 1);
    return error == -ENOENT ? 0 : error;
}

static int remove_named(const char *data_dir, const char *name)
{
    char path[SNAPSHOT_PATH_BYTES];
    path_make(path, data_dir, name);
    return snapshot_remove_directory(path);
}

/* ---- what a start finds --------------------------------------------------------------------- */

struct found {
    bool new_tables, own_tables, replaced;
};

static int look(const char *data_dir, struct found *found)
{
    int error = path_exists(data_dir, SNAPSHOT_INCOMING "/lsm", &found->new_tables);
    if (error == 0)
        error = path_exists(data_dir, "lsm", &found->own_tables);
    if (error == 0)
        error = path_exists(data_dir, SNAPSHOT_REPLACED, &found->replaced);
    return error;
}

/* A process that was killed leaves names that can be found and that no medium holds, and removed
 * some that it holds still. What follows builds on what was found. */
static int sync_found(const char *data_dir)
{
    int error = await_sync_directory(data_dir);
    if (error == 0)
        error = path_sync(data_dir, "snap");
    if (error == 0)
        error = path_sync(data_dir, SNAPSHOT_INCOMING);
    return error == -ENOENT ? 0 : error;
}

static int refuse(const char *data_dir, const char *reason)
{
    log_error("a snapshot was being installed and cannot be", LOG_TEXT("dir", data_dir),
              LOG_TEXT("reason", reason));
    return ERR_CORRUPT;
}

/* No install is under way: what an earlier one left goes, a transfer may go on. */
static int tidy(const char *data_dir, const struct found *found)
{
    if (found->replaced && !found->own_tables)
        return refuse(data_dir, "the marker is gone, our tables are in " SNAPSHOT_REPLACED);
    int error = remove_named(data_dir, SNAPSHOT_REPLACED);
    if (error == 0 && !found->new_tables)
        error = remove_named(data_dir, SNAPSHOT_INCOMING);
    return error < 0 ? error : SNAPSHOT_NONE;
}

int snapshot_install_find(const char *data_dir, struct snapshot_position *position)
{
    char path[SNAPSHOT_PATH_BYTES];
    struct found found;
    *position = (struct snapshot_position){0};
    path_make(path, data_dir, "snap");
    int error = await_make_directory(path);
    if (error == 0)
        error = remove_named(data_dir, SNAPSHOT_OUTGOING);
    if (error == 0)
        error = look(data_dir, &found);
    if (error == 0)
        error = sync_found(data_dir);
    if (error < 0)
        return error;
    error = marker_read(data_dir, position);
    if (error == ERR_NOT_FOUND)
        return tidy(data_dir, &found);
    if (error == ERR_CORRUPT) {
        if (!found.new_tables || !found.own_tables)
            return refuse(data_dir, MARKER_NAME " is damaged");
        error = snapshot_install_discard(data_dir); /* it was being written */
        return error < 0 ? error : SNAPSHOT_NONE;
    }
    if (error < 0)
        return error;
    if (!found.new_tables && !found.own_tables)
        return refuse(data_dir, "there is a marker and no tables");
    return found.new_tables && found.own_tables ? SNAPSHOT_RECEIVED : SNAPSHOT_BEGUN;
}

/* ---- the exchange --------------------------------------------------------------------------- */

int snapshot_install_discard(const char *data_dir)
{
    int error = marker_remove(data_dir);
    return error < 0 ? error : remove_named(data_dir, SNAPSHOT_INCOMING);
}

int snapshot_install_exchange(const char *data_dir)
{
    struct found found;
    int error = look(data_dir, &found);
    if (error == 0 && found.new_tables && found.own_tables) {
        error = remove_named(data_dir, SNAPSHOT_REPLACED); /* of an earlier install */
        if (error == 0)
            error = path_rename(data_dir, "lsm", SNAPSHOT_REPLACED);
    }
    if (error == 0 && found.new_tables)
        error = path_rename(data_dir, SNAPSHOT_INCOMING "/lsm", "lsm");
    if (error == 0)
        error = await_sync_directory(data_dir);
    if (error == 0)
        error = path_sync(data_dir, "snap");
    if (error == 0)
        error = path_sync(data_dir, SNAPSHOT_INCOMING);
    return error;
}

int snapshot_install_end(const char *data_dir)
{
    int error = marker_remove(data_dir);
    if (error == 0)
        error = remove_named(data_dir, SNAPSHOT_INCOMING);
    if (error == 0)
        error = remove_named(data_dir, SNAPSHOT_REPLACED);
    return error < 0 ? error : 0;
}
