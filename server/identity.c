#include "server/identity.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/core.h"
#include "core/crc32c.h"
#include "core/invariant.h"
#include "core/logger.h"

/* docs/formats/identity.md: both files begin alike. */
#define MAGIC_IDENTITY UINT64_C(0x4449544641523130) /* "01RAFTID" */
#define MAGIC_STARTS   UINT64_C(0x5453544641523130) /* "01RAFTST" */
#define AT_FORMAT      8
#define AT_CRC         12
#define AT_BODY        16 /* the checksum covers everything from here on */
#define AT_CLUSTER     16
#define AT_MEMBER      24
#define AT_LIFE        32
#define AT_FIRST_BYTES 40
#define AT_FIRST       44
#define AT_COUNT       16
#define LIFE_BYTES     8 /* by which the older format is shorter */
#define STARTS_BYTES   IO_ALIGN_BYTES
#define BLOCK_BYTES                                                                                \
    ((uint32_t)((AT_FIRST + MEMBERS_BYTES_MAX + IO_ALIGN_BYTES - 1) / IO_ALIGN_BYTES) *            \
     IO_ALIGN_BYTES)

/* What to do about a file that cannot be used. */
#define REMEDY "restore the file, or choose another --data-dir"

static void block_seal(uint8_t *block, uint32_t bytes, uint64_t magic)
{
    le64_store(block, magic);
    le32_store(block + AT_FORMAT, IDENTITY_FORMAT);
    le32_store(block + AT_CRC, crc32c(0, block + AT_BODY, bytes - AT_BODY));
}

static int block_check(const uint8_t *block, uint32_t bytes, uint64_t magic, const char *path,
                       char *reason, size_t reason_bytes)
{
    if (bytes < IO_ALIGN_BYTES || le64_load(block) != magic) {
        snprintf(reason, reason_bytes, "%s at offset 0: not a file of this program (%u bytes); %s",
                 path, bytes, REMEDY);
        return ERR_CORRUPT;
    }
    uint32_t format = le32_load(block + AT_FORMAT);
    if (format != IDENTITY_FORMAT && format != IDENTITY_FORMAT_LIFELESS) {
        snprintf(reason, reason_bytes,
                 "%s: data format %u, this program reads formats %d and %d; use a matching version",
                 path, format, IDENTITY_FORMAT_LIFELESS, IDENTITY_FORMAT);
        return ERR_VERSION;
    }
    uint32_t stored = le32_load(block + AT_CRC);
    uint32_t computed = crc32c(0, block + AT_BODY, bytes - AT_BODY);
    if (stored != computed) {
        snprintf(reason, reason_bytes, "%s at offset %d: checksum %08x, expected %08x; %s", path,
                 AT_CRC, computed, stored, REMEDY);
        return ERR_CORRUPT;
    }
    return 0;
}

int identity_decode(struct identity *identity, const uint8_t *block, uint32_t bytes,
                    const char *path, char *reason, size_t reason_bytes)
{
    int error = block_check(block, bytes, MAGIC_IDENTITY, path, reason, reason_bytes);
    if (error < 0)
        return error;
    bool lifeless = le32_load(block + AT_FORMAT) == IDENTITY_FORMAT_LIFELESS;
    uint32_t shift = lifeless ? LIFE_BYTES : 0;
    identity->cluster_id = le64_load(block + AT_CLUSTER);
    identity->member_id = le64_load(block + AT_MEMBER);
    identity->life = lifeless ? 0 : le64_load(block + AT_LIFE);
    if (identity->cluster_id == 0 || identity->member_id == 0 ||
        (identity->life == 0 && !lifeless)) {
        snprintf(reason, reason_bytes, "%s at offset %d: cluster, member or life is 0; %s", path,
                 AT_BODY, REMEDY);
        return ERR_CORRUPT;
    }
    uint32_t first_bytes = le32_load(block + AT_FIRST_BYTES - shift);
    error =
        first_bytes > bytes - (AT_FIRST - shift)
            ? ERR_MALFORMED
            : members_decode(bytes_make(block + AT_FIRST - shift, first_bytes), identity->first);
    if (error < 0)
        snprintf(reason, reason_bytes, "%s at offset %u: the first members do not decode: %s; %s",
                 path, AT_FIRST - shift, err_text(error), REMEDY);
    return error < 0 ? ERR_CORRUPT : 0;
}

int identity_decode_starts(struct identity *identity, const uint8_t *block, uint32_t bytes,
                           const char *path, char *reason, size_t reason_bytes)
{
    int error = block_check(block, bytes, MAGIC_STARTS, path, reason, reason_bytes);
    if (error == 0)
        identity->incarnation = le64_load(block + AT_COUNT);
    return error;
}

/* Writes `bytes` of `block` to dir/name: all of it or the old file, also after a power loss. */
static int block_store(const char *dir, const char *name, const uint8_t *block, uint32_t bytes)
{
    char temporary[CONFIG_TEXT_BYTES + 32], path[CONFIG_TEXT_BYTES + 32];
    struct io_file file;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    snprintf(temporary, sizeof(temporary), "%s/%s.tmp", dir, name);
    int error = await_open(temporary, IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE, &file);
    if (error < 0)
        return error;
    error = await_write(file, (struct io_span){.base = (void *)block, .bytes = bytes},
                        IO_WRITE_DURABLE);
    if (error >= 0)
        error = await_sync(file);
    await_close(&file);
    if (error >= 0)
        error = await_rename(temporary, path);
    if (error >= 0)
        error = await_sync_directory(dir);
    return error < 0 ? error : 0;
}

/* Bytes read, or -errno. */
static int block_load(const char *dir, const char *name, uint8_t *block, uint32_t bytes_max)
{
    char path[CONFIG_TEXT_BYTES + 32];
    struct io_file file;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int error = await_open(path, IO_OPEN_READ, &file);
    if (error < 0)
        return error;
    int32_t bytes = await_read(file, (struct io_span){.base = block, .bytes = bytes_max});
    await_close(&file);
    return bytes;
}

static void count_name(void *context, const char *name)
{
    if (strcmp(name, "LOCK") != 0 && strcmp(name, "IDENTITY.tmp") != 0)
        ++*(uint32_t *)context;
}

/* The lock first: a process that was just killed may hold it while its last requests drain. */
static int lock_take(const char *dir, struct io_file *lock, char *reason, size_t reason_bytes)
{
    char path[CONFIG_TEXT_BYTES + 32];
    snprintf(path, sizeof(path), "%s/LOCK", dir);
    int error = await_open(path, IO_OPEN_READ | IO_OPEN_WRITE | IO_OPEN_CREATE, lock);
    if (error < 0) {
        snprintf(reason, reason_bytes, "%s: %s", path, err_text(error));
        return error;
    }
    error = reactor_lock_file(core_reactor(core_current()), *lock);
    if (error == 0)
        error = reactor_hold_file(core_reactor(core_current()), *lock);
    if (error < 0) {
        snprintf(reason, reason_bytes, "%s: %s; stop the other raftd or choose another --data-dir",
                 path, err_text(error));
        await_close(lock);
    }
    return error;
}

/* Nobody was told a life of a directory of the older format, so any will do from now on. */
static int identity_upgrade(const struct config *config, struct identity *identity, char *reason,
                            size_t reason_bytes)
{
    int error = identity_create(config, identity, reason, reason_bytes);
    if (error == 0)
        log_info("the data directory has a newer format now", LOG_TEXT("dir", config->data_dir),
                 LOG_U64("from", IDENTITY_FORMAT_LIFELESS), LOG_U64("to", IDENTITY_FORMAT));
    return error;
}

/* 1: read; 0: there is none and the directory is empty. */
static int identity_read(const struct config *config, struct identity *identity, uint8_t *block,
                         char *reason, size_t reason_bytes)
{
    const char *dir = config->data_dir;
    char path[CONFIG_TEXT_BYTES + 32];
    snprintf(path, sizeof(path), "%s/IDENTITY", dir);
    int bytes = block_load(dir, "IDENTITY", block, BLOCK_BYTES);
    if (bytes >= 0) {
        int error = identity_decode(identity, block, (uint32_t)bytes, path, reason, reason_bytes);
        if (error == 0 && identity->life == 0)
            error = identity_upgrade(config, identity, reason, reason_bytes);
        return error < 0 ? error : 1;
    }
    uint32_t names = 0;
    int error = bytes;
    if (error == -ENOENT)
        error = reactor_list(core_reactor(core_current()), dir, count_name, &names);
    if (error < 0) {
        snprintf(reason, reason_bytes, "%s: %s", path, err_text(error));
        return error;
    }
    if (names != 0) {
        snprintf(reason, reason_bytes,
                 "%s: holds %u files but no IDENTITY: not a data directory of this program, or its "
                 "IDENTITY was lost; choose another --data-dir or restore the file",
                 dir, names);
        return ERR_CORRUPT;
    }
    return 0;
}

int identity_open(const struct config *config, struct identity *identity, struct io_file *lock,
                  char *reason, size_t reason_bytes)
{
    lock->fd = -1;
    memset(identity, 0, sizeof(*identity));
    int error = await_make_directory(config->data_dir);
    if (error < 0) {
        snprintf(reason, reason_bytes, "--data-dir %s: %s", config->data_dir, err_text(error));
        return error;
    }
    error = lock_take(config->data_dir, lock, reason, reason_bytes);
    if (error < 0)
        return error;
    uint8_t *block = malloc(BLOCK_BYTES);
    identity->first = calloc(1, sizeof(*identity->first));
    invariant(block != NULL && identity->first != NULL);
    error = identity_read(config, identity, block, reason, reason_bytes);
    free(block);
    if (error < 0)
        await_close(lock);
    return error;
}

int identity_create(const struct config *config, struct identity *identity, char *reason,
                    size_t reason_bytes)
{
    uint8_t *block = calloc(1, BLOCK_BYTES);
    invariant(block != NULL && identity->cluster_id != 0 && identity->member_id != 0);
    while (identity->life == 0)
        identity->life = reactor_random(core_reactor(core_current()));
    le64_store(block + AT_LIFE, identity->life);
    le64_store(block + AT_CLUSTER, identity->cluster_id);
    le64_store(block + AT_MEMBER, identity->member_id);
    size_t first_bytes = members_encode(identity->first, block + AT_FIRST);
    le32_store(block + AT_FIRST_BYTES, (uint32_t)first_bytes);
    uint32_t bytes = (uint32_t)u64_round_up(AT_FIRST + first_bytes, IO_ALIGN_BYTES);
    block_seal(block, bytes, MAGIC_IDENTITY);
    int error = block_store(config->data_dir, "IDENTITY", block, bytes);
    if (error < 0)
        snprintf(reason, reason_bytes, "%s/IDENTITY: %s", config->data_dir, err_text(error));
    free(block);
    return error;
}

int identity_count_start(const struct config *config, struct identity *identity, char *reason,
                         size_t reason_bytes)
{
    char path[CONFIG_TEXT_BYTES + 32];
    uint8_t *block = calloc(1, STARTS_BYTES);
    invariant(block != NULL);
    snprintf(path, sizeof(path), "%s/STARTS", config->data_dir);
    int error = 0;
    identity->incarnation = 0;
    int bytes = block_load(config->data_dir, "STARTS", block, STARTS_BYTES);
    if (bytes >= 0)
        error =
            identity_decode_starts(identity, block, (uint32_t)bytes, path, reason, reason_bytes);
    else if (bytes != -ENOENT)
        snprintf(reason, reason_bytes, "%s: %s", path, err_text(error = bytes));
    if (error == 0) {
        identity->incarnation++;
        memset(block, 0, STARTS_BYTES);
        le64_store(block + AT_COUNT, identity->incarnation);
        block_seal(block, STARTS_BYTES, MAGIC_STARTS);
        error = block_store(config->data_dir, "STARTS", block, STARTS_BYTES);
        if (error < 0)
            snprintf(reason, reason_bytes, "%s: %s", path, err_text(error));
    }
    free(block);
    return error;
}

void identity_deinit(struct identity *identity)
{
    free(identity->first);
    identity->first = NULL;
}
