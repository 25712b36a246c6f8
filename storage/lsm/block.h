/*
 * block.h - the inside of a data or index block: prefix-compressed entries with restart points.
 *
 * Story     Entry: varint shared, varint unshared, varint value_bytes << 1 | tombstone, the
 *           unshared tail of the internal key, the value. After SST_RESTART_INTERVAL entries or
 *           SST_RESTART_BYTES, among versions of a long key later, `shared` is 0 and the offset is
 *           in the restart array (u32 each, then their u32 count) that ends the block.
 * Threads   A builder or iterator belongs to one core; block bytes are immutable.
 * Errors    Iterator moves return 1 (on an entry), 0 (past the end) or ERR_CORRUPT: bounds are
 *           checked against the block, whatever its bytes are.
 */
#ifndef STORAGE_LSM_BLOCK_H
#define STORAGE_LSM_BLOCK_H

#include "core/base.h"
#include "storage/lsm/sst_format.h"

/* ---- building -------------------------------------------------------------------------------- */

struct block_builder {
    uint8_t *data; /* owned, grows */
    size_t bytes, capacity;
    uint32_t *restarts; /* owned, grows */
    uint32_t restart_count, restart_max;
    uint32_t since_restart;
    size_t unkeyed_bytes;   /* since the restart point, user keys not counted */
    size_t first_key_bytes; /* of the first entry's internal key */
    uint8_t *last_key;      /* owned: internal key of the last entry */
    size_t last_bytes, last_max;
    uint32_t entries;
};

void block_builder_init(struct block_builder *builder);
void block_builder_deinit(struct block_builder *builder);
void block_builder_reset(struct block_builder *builder);
/* Entries come in rising order. What versions of one key repeat of it is at most as much as the
 * rest of their entries. */
void block_builder_add(struct block_builder *builder, struct bytes key, struct lsm_version version,
                       enum lsm_kind kind, struct bytes value);
size_t block_builder_bytes(const struct block_builder *builder); /* when finished now */
/* The same without the first key, which any block with that entry would hold. */
size_t block_builder_own_bytes(const struct block_builder *builder);
/* Appends the restart array; the bytes stay valid until reset. */
struct bytes block_builder_finish(struct block_builder *builder);
/* Internal key of the last entry added. */
struct bytes block_builder_last_key(const struct block_builder *builder);

/* ---- reading --------------------------------------------------------------------------------- */

#define BLOCK_KEY_INLINE_BYTES 160

struct block_iterator {
    const uint8_t *data;
    uint32_t restarts; /* offset of the restart array = end of entries */
    uint32_t restart_count;
    uint32_t offset, next; /* of the current entry and of the one after */
    uint32_t key_bytes, key_max;
    uint32_t shared; /* of the key, with the entry loaded before */
    uint8_t *key;    /* internal key: inline_key or owned */
    struct bytes value;
    enum lsm_kind kind;
    uint8_t inline_key[BLOCK_KEY_INLINE_BYTES];
};

void block_iterator_init(struct block_iterator *iterator);
void block_iterator_deinit(struct block_iterator *iterator);
/* Points it at a raw block, which must outlive its use. ERR_CORRUPT when it cannot be one. */
must_check int block_iterator_open(struct block_iterator *iterator, struct bytes block);

must_check int block_iterator_first(struct block_iterator *iterator);
must_check int block_iterator_last(struct block_iterator *iterator);
must_check int block_iterator_next(struct block_iterator *iterator);
must_check int block_iterator_prev(struct block_iterator *iterator);
/* First entry at or after the target; 0 leaves it past the end. */
must_check int block_iterator_seek(struct block_iterator *iterator,
                                   const struct sst_target *target);

static inline struct bytes block_iterator_key(const struct block_iterator *iterator)
{
    return bytes_make(iterator->key, iterator->key_bytes - SST_KEY_TRAILER_BYTES);
}

static inline struct lsm_version block_iterator_version(const struct block_iterator *iterator)
{
    return sst_trailer_load(iterator->key + iterator->key_bytes - SST_KEY_TRAILER_BYTES);
}

/* The value of an index entry as a handle; ERR_CORRUPT when it is none. */
must_check int block_iterator_handle(const struct block_iterator *iterator,
                                     struct sst_handle *handle);
size_t sst_handle_store(uint8_t *to, struct sst_handle handle); /* at most 15 bytes */

#endif
