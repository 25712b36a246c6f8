/*
 * block_cache.h - raw blocks of one core, found by (file number, offset), evicted by CLOCK.
 *
 * Story     Direct I/O means that nothing else caches. A hit sets a small count; the hand takes one
 *           off as it passes and evicts at zero. Scans insert with count zero right before the
 *           hand, so a list does not push out what point reads use. Index blocks start with a
 *           higher count.
 * Owner     One core. Pinned blocks are never evicted, so the budget may be exceeded by what is
 *           pinned.
 */
#ifndef STORAGE_LSM_BLOCK_CACHE_H
#define STORAGE_LSM_BLOCK_CACHE_H

#include "core/base.h"

enum cache_priority { CACHE_LOW = 0, CACHE_NORMAL = 1, CACHE_HIGH = 3 };

struct cache_block {
    struct cache_block *chain; /* of its hash bucket */
    struct cache_block *clock_next, *clock_prev;
    uint64_t number, offset;
    uint32_t raw_bytes;
    uint32_t pins;
    uint8_t credit;
    bool alone; /* not in the cache: goes with its only pin */
    uint8_t data[];
};

struct block_cache {
    struct cache_block **buckets; /* a power of two of them */
    uint64_t bucket_count;
    struct cache_block *hand;
    uint64_t bytes, bytes_max, blocks, evictions;
};

must_check int block_cache_init(struct block_cache *cache, uint64_t bytes_max);
void block_cache_deinit(struct block_cache *cache); /* nothing is pinned */

/* Pinned, or NULL. */
struct cache_block *block_cache_acquire(struct block_cache *cache, uint64_t number,
                                        uint64_t offset);
/* Takes over a malloc'ed block with number, offset, raw_bytes and data set, and pins it. When the
 * same
 * block is there already, frees this one and pins that. */
struct cache_block *block_cache_insert(struct block_cache *cache, struct cache_block *block,
                                       enum cache_priority priority);

/* Pins a malloc'ed block that no other read will want: the release frees it. */
static inline struct cache_block *block_cache_keep_out(struct cache_block *block)
{
    block->pins = 1;
    block->alone = true;
    return block;
}

void block_cache_release(struct cache_block *block);

#endif
