#include "storage/lsm/block_cache.h"

#include <errno.h>
#include <stdlib.h>

#include "core/invariant.h"

#define CACHE_CREDIT_MAX 3

int block_cache_init(struct block_cache *cache, uint64_t bytes_max)
{
    memset(cache, 0, sizeof(*cache));
    cache->bytes_max = bytes_max;
    cache->bucket_count = 64;
    while (cache->bucket_count < bytes_max / 4096)
        cache->bucket_count *= 2;
    cache->buckets = calloc(cache->bucket_count, sizeof(cache->buckets[0]));
    return cache->buckets == NULL ? -ENOMEM : 0;
}

static struct cache_block **block_cache_bucket(struct block_cache *cache, uint64_t number,
                                               uint64_t offset)
{
    uint64_t mixed = (number * 0x9e3779b97f4a7c15u ^ offset) * 0xbf58476d1ce4e5b9u;
    return &cache->buckets[(mixed >> 32) & (cache->bucket_count - 1)];
}

struct cache_block *block_cache_acquire(struct block_cache *cache, uint64_t number, uint64_t offset)
{
    struct cache_block *block = *block_cache_bucket(cache, number, offset);
    while (block != NULL && (block->offset != offset || block->number != number))
        block = block->chain;
    if (block == NULL)
        return NULL;
    if (block->credit < CACHE_CREDIT_MAX)
        block->credit++;
    block->pins++;
    return block;
}

static void block_cache_evict(struct block_cache *cache, struct cache_block *block)
{
    invariant(block->pins == 0 && cache->blocks > 0);
    struct cache_block **link = block_cache_bucket(cache, block->number, block->offset);
    while (*link != block)
        link = &(*link)->chain;
    *link = block->chain;
    if (cache->hand == block)
        cache->hand = block->clock_next == block ? NULL : block->clock_next;
    block->clock_prev->clock_next = block->clock_next;
    block->clock_next->clock_prev = block->clock_prev;
    cache->bytes -= sizeof(*block) + block->raw_bytes;
    cache->blocks--;
    cache->evictions++;
    free(block);
}

static void block_cache_make_room(struct block_cache *cache, uint64_t bytes)
{
    uint64_t steps = cache->blocks * (CACHE_CREDIT_MAX + 1); /* then all that is left is pinned */
    while (cache->bytes + bytes > cache->bytes_max && cache->hand != NULL && steps-- > 0) {
        struct cache_block *block = cache->hand;
        cache->hand = block->clock_next;
        if (block->pins > 0)
            continue;
        if (block->credit > 0)
            block->credit--;
        else
            block_cache_evict(cache, block);
    }
}

struct cache_block *block_cache_insert(struct block_cache *cache, struct cache_block *block,
                                       enum cache_priority priority)
{
    struct cache_block *present = block_cache_acquire(cache, block->number, block->offset);
    if (present != NULL) { /* two fibers read it at once */
        free(block);
        return present;
    }
    block_cache_make_room(cache, sizeof(*block) + block->raw_bytes);
    struct cache_block **bucket = block_cache_bucket(cache, block->number, block->offset);
    block->chain = *bucket;
    *bucket = block;
    block->pins = 1;
    block->alone = false;
    block->credit = (uint8_t)priority;
    if (cache->hand == NULL) {
        block->clock_next = block->clock_prev = block;
        cache->hand = block;
    } else { /* before the hand = the last that it will reach */
        block->clock_next = cache->hand;
        block->clock_prev = cache->hand->clock_prev;
        block->clock_prev->clock_next = block;
        block->clock_next->clock_prev = block;
        if (priority == CACHE_LOW)
            cache->hand = block; /* ... or the first */
    }
    cache->bytes += sizeof(*block) + block->raw_bytes;
    cache->blocks++;
    return block;
}

void block_cache_release(struct cache_block *block)
{
    invariant(block->pins > 0);
    if (--block->pins == 0 && block->alone)
        free(block);
}

void block_cache_deinit(struct block_cache *cache)
{
    while (cache->hand != NULL)
        block_cache_evict(cache, cache->hand);
    invariant(cache->blocks == 0 && cache->bytes == 0);
    free(cache->buckets);
    cache->buckets = NULL;
}
