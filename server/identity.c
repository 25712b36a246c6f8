#include "server/identity.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "core/core.h"
#include "core/crc32c.h"
#include "core/invariant.h"

/* One 4 KiB block: magic, format, crc32c of bytes 16.., reserved, cluster id, member id, zeros. */
#define IDENTITY_MAGIC      UINT64_C(0x4449544641523130) /* "01RAFTID" */
#define IDENTITY_BYTES      IO_ALIGN_BYTES
#define IDENTITY_FORMAT_AT  8
#define IDENTITY_CRC_AT     12
#define IDENTITY_CLUSTER_AT 16
#define IDENTITY_MEMBER_AT  24

void identity_derive(const struct config *config, struct identity *identity)
{
    XXH64_hash_t hash =
        XXH64(config->initial_cluster_token, strlen(config->initial_cluster_token), 0);
    for (uint32_t i = 0; i < config->advertise_peer.count; i++)
        hash = XXH64(config->advertise_peer.url[i].text, strlen(config->advertise_peer.url[i].text),
                     hash);
    /* Tools print ids in hex and some read them as signed: keep the top bit clear, and never zero.
     */
    identity->member_id = (hash >> 1) | 1;
    identity->cluster_id = (XXH64(&identity->member_id, sizeof(identity->member_id), 1) >> 1) | 1;
    identity->fresh = false;
}

static void identity_encode(const struct identity *identity, uint8_t *block)
{
    memset(block, 0, IDENTITY_BYTES);
    le64_store(block, IDENTITY_MAGIC);
    le32_store(block + IDENTITY_FORMAT_AT, IDENTITY_FORMAT);
    le64_store(block + IDENTITY_CLUSTER_AT, identity->cluster_id);
    le64_store(block + IDENTITY_MEMBER_AT, identity->member_id);
    le32_store(block + IDENTITY_CRC_AT,
               crc32c(0, block + IDENTITY_CLUSTER_AT, IDENTITY_BYTES - IDENTITY_CLUSTER_AT));
}

static int identity_decode(struct identity *identity, const uint8_t *block, uint32_t bytes,
                           const char *path, char *reason, size_t reason_bytes)
{
    if (bytes < IDENTITY_BYTES || le64_load(block) != IDENTITY_MAGIC) {
        snprintf(reason, reason_bytes,
                 "%s at offset 0: not an identity file (%u bytes); restore the file, or choose "
                 "another --data-dir",
                 path, bytes);
        return ERR_CORRUPT;
    }
    uint32_t format = le32_load(block + IDENTITY_FORMAT_AT);
    if (format != IDENTITY_FORMAT) {
        snprintf(reason, reason_bytes,
                 "%s: data format %u, this program reads format %d; use a matching version", path,
                 format, IDENTITY_FORMAT);
        return ERR_VERSION;
    }
    uint32_t stored = le32_load(block + IDENTITY_CRC_AT);
    uint32_t computed =
        crc32c(0, block + IDENTITY_CLUSTER_AT, IDENTITY_BYTES - IDENTITY_CLUSTER_AT);
    if (stored != computed) {
        snprintf(reason, reason_bytes,
                 "%s at offset %d: checksum %08x, expected %08x; restore the file, or choose "
                 "another --data-dir",
                 path, IDENTITY_CRC_AT, computed, stored);
        return ERR_CORRUPT;
    }
    identity->cluster_id = le64_load(block + IDENTITY_CLUSTER_AT);
    identity->member_id = le64_load(block + IDENTITY_MEMBER_AT);
    return 0;
}

static void count_name(void *context, const char *name)
{
    if (strcmp(name, "LOCK") != 0 && strcmp(name, "IDENTITY.tmp") != 0)
        ++*(uint32_t *)context;
}

static int identity_create(const char *dir, const char *path, const struct identity *identity,
                           uint8_t *block)
{
    char temporary[CONFIG_TEXT_BYTES + 32];
    struct io_file file;
    snprintf(temporary, sizeof(temporary), "%s/IDENTITY.tmp", dir);
    identity_encode(identity, block);
    int error = await_open(temporary, IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE, &file);
    if (error < 0)
        return error;
    error = await_write(file, (struct io_span){.base = block, .bytes = IDENTITY_BYTES},
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

static int identity_read_or_create(const struct config *config, struct identity *identity,
                                   uint8_t *block, char *reason, size_t reason_bytes)
{
    const char *dir = config->data_dir;
    char path[CONFIG_TEXT_BYTES + 32];
    struct io_file file;
    snprintf(path, sizeof(path), "%s/IDENTITY", dir);
    int error = await_open(path, IO_OPEN_READ, &file);
    if (error >= 0) {
        int32_t bytes = await_read(file, (struct io_span){.base = block, .bytes = IDENTITY_BYTES});
        await_close(&file);
        if (bytes < 0) {
            snprintf(reason, reason_bytes, "%s: %s", path, err_text(bytes));
            return bytes;
        }
        return identity_decode(identity, block, (uint32_t)bytes, path, reason, reason_bytes);
    }
    uint32_t names = 0;
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
    identity_derive(config, identity);
    identity->fresh = true;
    error = identity_create(dir, path, identity, block);
    if (error < 0)
        snprintf(reason, reason_bytes, "%s: %s", path, err_text(error));
    return error;
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
    uint8_t *block = malloc(IDENTITY_BYTES);
    invariant(block != NULL);
    error = identity_read_or_create(config, identity, block, reason, reason_bytes);
    free(block);
    if (error < 0)
        await_close(lock);
    return error;
}
