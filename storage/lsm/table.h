/*
 * table.h - an open SSTable: immutable once open, shared by all cores; and the levels made of them.
 *
 * Story     Opening reads and verifies footer, properties, top index and bloom filter and keeps
 *           them; index and data blocks are read on demand. A table lives as long as a `struct
 *           lsm_levels` names it, those as long as a view does.
 * Owner     Reference counts belong to the raft core. Everything else never changes.
 * Threads   Any core reads.
 */
#ifndef STORAGE_LSM_TABLE_H
#define STORAGE_LSM_TABLE_H

#include "core/reactor.h"
#include "storage/lsm/sst_format.h"

struct lsm_table {
    uint64_t number;
    uint64_t file_bytes;
    struct io_file file;
    struct sst_properties properties;
    struct bytes smallest, largest; /* user keys, owned */
    struct bytes top_index;         /* raw block, owned */
    struct bytes bloom;             /* owned */
    char *path;                     /* owned */
    uint64_t settled;               /* as in struct lsm_filter_table: background core */
    uint32_t references;            /* struct lsm_levels that name it: raft core */
};

/* Tables of all levels at one moment. Level 0: youngest first. Others: by key, disjoint.
 * L1  for levels >= 1, largest(table[i]) < smallest(table[i + 1]) as user keys. */
struct lsm_levels {
    struct {
        struct lsm_table **tables;
        uint32_t count;
    } level[LSM_LEVELS];
    uint32_t views; /* that name it: raft core */
    uint64_t flushed_index, flushed_term;
};

/* [fiber] Opens and verifies. `path` is copied. */
must_check int lsm_table_open(const char *path, uint64_t number, struct lsm_table **table);
/* [fiber] The same, but `*table` holds what could be read before the error (NULL: nothing). */
must_check int lsm_table_open_any(const char *path, uint64_t number, struct lsm_table **table);
/* [fiber] Closes the file and frees; unlinks it too when `remove`. */
void lsm_table_close(struct lsm_table *table, bool remove);

/* For direct I/O, of the current core: registered when there is one; NULL: out of memory. */
must_check uint8_t *lsm_buffer_acquire(uint32_t bytes);
void lsm_buffer_release(uint8_t *buffer); /* on the same core */

/* Covers the block's identity (file, offset), its stored payload and its trailer. */
uint32_t sst_block_crc(uint64_t number, uint64_t offset, const uint8_t *payload,
                       uint32_t payload_bytes, const uint8_t *trailer);

/* Verifies and expands the stored block at `stored`. `raw` is malloc'ed, the block starts
 * `headroom`
 * bytes into it. */
must_check int sst_block_decode(uint64_t number, const char *path, struct sst_handle handle,
                                enum sst_block_type type, const uint8_t *stored, size_t headroom,
                                uint8_t **raw, uint32_t *raw_bytes);

/* [fiber] Reads the block, then as sst_block_decode(). */
must_check int lsm_table_read_stored(const struct lsm_table *table, struct sst_handle handle,
                                     enum sst_block_type type, size_t headroom, uint8_t **raw,
                                     uint32_t *raw_bytes);

/* [fiber] Direct read that covers [offset, offset + bytes), rounded to IO_ALIGN_BYTES on both
 * sides,
 * into `into`; `*skip` bytes precede what was asked for. */
must_check int lsm_table_read_span(const struct lsm_table *table, uint64_t offset, uint32_t bytes,
                                   uint8_t *into, uint32_t into_bytes, uint32_t *skip);

void lsm_table_log_corrupt(const char *path, uint64_t offset, const char *reason);

/* An owned, empty set; a copy (tables shared, no references taken). NULL: out of memory. */
struct lsm_levels *lsm_levels_create(void);
struct lsm_levels *lsm_levels_copy(const struct lsm_levels *from);
void lsm_levels_free(struct lsm_levels *levels);
void lsm_levels_check(const struct lsm_levels *levels);
/* Level 0: in front; others: at its place. */
void lsm_levels_add(struct lsm_levels *levels, uint32_t level, struct lsm_table *table);
struct lsm_table *lsm_levels_remove(struct lsm_levels *levels, uint32_t level, uint64_t number);
/* Of tables that are sorted and disjoint, the index of the first that has a row at or after `key`,
 * and of the first that has none before it; `count` when there is none. */
uint32_t lsm_tables_reach(struct lsm_table *const *tables, uint32_t count, struct bytes key);
uint32_t lsm_tables_begin(struct lsm_table *const *tables, uint32_t count, struct bytes key);
/* lsm_tables_reach() of a level below 0. */
uint32_t lsm_levels_find(const struct lsm_levels *levels, uint32_t level, struct bytes key);
uint64_t lsm_levels_bytes(const struct lsm_levels *levels, uint32_t level);

#endif
