/*
 * sst_write.h - writes one SSTable from rows in order.
 *
 * Story     Blocks are built, compressed and checksummed into one of two aligned buffers while the
 *           other is on its way to the disk. The file is new and nothing names it before
 *           sst_writer_finish() returned 0, so a failure at any point is answered by abandoning it.
 * Owner     One fiber; every call may wait.
 * Durable   After sst_writer_finish() the bytes are; the name needs a sync of the directory.
 * Errors    -errno from the disk; then only sst_writer_abandon() is allowed.
 * Limits    The top index is one block, SST_BLOCK_RAW_BYTES_MAX. A caller that begins a new table
 *           at the next key once sst_writer_is_full() keeps it there whatever the keys are, because
 *           versions of a key share it; only some 200 GiB of versions of one key, or a caller that
 *           goes on, get -EFBIG from sst_writer_finish().
 */
#ifndef STORAGE_LSM_SST_WRITE_H
#define STORAGE_LSM_SST_WRITE_H

#include "core/fiber.h"
#include "storage/lsm/block.h"
#include "storage/lsm/table.h"

struct sst_writer_options {
    const char *path;
    uint64_t number;
    uint32_t block_bytes;
    enum lsm_compression compression;
    uint32_t bloom_bits_per_key;
};

struct sst_writer;

must_check int sst_writer_open(const struct sst_writer_options *options,
                               struct sst_writer **writer);
/* Rows rise in row order. */
must_check int sst_writer_add(struct sst_writer *writer, const struct lsm_row *row);
uint64_t sst_writer_bytes(const struct sst_writer *writer); /* about what it has now */
uint64_t sst_writer_rows(const struct sst_writer *writer);
/* The next key belongs into another table. */
bool sst_writer_is_full(const struct sst_writer *writer);
/* At least one row was added. Frees the writer when it returns 0. */
must_check int sst_writer_finish(struct sst_writer *writer, uint64_t *file_bytes);
/* Closes, removes the file, frees. */
void sst_writer_abandon(struct sst_writer *writer);

#endif
