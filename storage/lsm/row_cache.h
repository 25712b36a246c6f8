/*
 * row_cache.h - the newest rows of keys whose newest row lies in a table, copied, for one core.
 *
 * Story     A point read that goes to tables passes filters, index blocks and a data block: dozens
 *           of cache misses even when all of them are in memory. Here it is one line of the hash
 *           and the row. An entry says "this is the newest row that the tables had for the key, at
 *           `epoch`"; the epoch changes whenever a flush gives the tables newer rows, and entries
 *           of an older one are read again.
 * Owner     One core. Entries that a row pins stay until it lets go, even when they are replaced.
 * Limits    bytes_max of entries; the lines of the hash, made at the first row, are a sixteenth
 *           more at most. Rows of more than ROW_CACHE_ROW_BYTES_MAX, or a quarter of bytes_max, are
 *           not kept.
 *
 * Invariants
 * W1  a key has at most one entry. bytes is the sum of all entries, replaced and pinned ones not
 *     counted, and at most bytes_max.
 * W2  compactions remove rows that a newer one hides, and tombstones that hide nothing: so between
 *     two flushes a key's newest row stays what it is, or is a tombstone that is gone, which reads
 *     the same.
 * W3  an insertion looks at no more than ROW_CACHE_HAND_STEPS_MAX sets to make room. If those held
 *     too little, its row is not kept; the hand goes on from there the next time.
 */
#ifndef STORAGE_LSM_ROW_CACHE_H
#define STORAGE_LSM_ROW_CACHE_H

#include "core/base.h"
#include "storage/lsm/lsm.h"

#define ROW_CACHE_WAYS           8
#define ROW_CACHE_ROW_BYTES_MAX  ((size_t)4096) /* key and value */
#define ROW_CACHE_HAND_STEPS_MAX 64

struct cached_row {
    uint64_t hash, epoch;
    struct lsm_version version;
    uint32_t key_bytes, value_bytes;
    uint32_t pins;
    uint8_t kind;
    bool used;      /* since the hand passed */
    bool replaced;  /* not in the cache any more: goes with its last pin */
    uint8_t data[]; /* key, then value */
};

struct row_cache_set {
    _Alignas(64) uint64_t ways[ROW_CACHE_WAYS]; /* address and 16 bits of hash; 0: free */
};

struct row_cache {
    struct row_cache_set *sets; /* NULL until the first row */
    uint64_t set_count;         /* power of two; 0: nothing is kept */
    uint64_t hand;              /* the next set to give up a row, when the budget is spent */
    uint64_t bytes, bytes_max;
};

void row_cache_init(struct row_cache *cache, uint64_t bytes_max);
void row_cache_deinit(struct row_cache *cache); /* nothing is pinned */

/* The entry of `key`, whatever its epoch, or NULL. `hash` is bloom_hash(key). */
struct cached_row *row_cache_find(struct row_cache *cache, struct bytes key, uint64_t hash);

/* Copies `row` (or does not: W3), the newest that the tables have for its key at `epoch`. */
void row_cache_insert(struct row_cache *cache, const struct lsm_row *row, uint64_t hash,
                      uint64_t epoch);

void row_cache_release(struct cached_row *row); /* one pin */

/* Ahead of a find: the line of the hash; then, with that there, the entry it names or NULL. */
static inline void row_cache_prefetch(const struct row_cache *cache, uint64_t hash)
{
    if (cache->sets != NULL)
        __builtin_prefetch(&cache->sets[hash & (cache->set_count - 1)]);
}
const struct cached_row *row_cache_peek(const struct row_cache *cache, uint64_t hash);

#endif
