#include <criterion/criterion.h>
#include <stdlib.h>

#include "storage/lsm/block_cache.h"

static struct block_cache cache;

static struct cache_block *insert(uint64_t number, enum cache_priority priority)
{
    struct cache_block *block = calloc(1, sizeof(*block) + 1000);
    block->number = number;
    block->raw_bytes = 1000;
    return block_cache_insert(&cache, block, priority);
}

static bool present(uint64_t number)
{
    struct cache_block *block = block_cache_acquire(&cache, number, 0);
    if (block != NULL)
        block_cache_release(block);
    return block != NULL;
}

Test(block_cache, stays_within_its_budget_and_keeps_what_is_pinned)
{
    cr_assert_eq(block_cache_init(&cache, 10 * 1100), 0);
    struct cache_block *pinned = insert(1, CACHE_LOW);
    for (uint64_t number = 2; number < 100; number++)
        block_cache_release(insert(number, CACHE_NORMAL));
    cr_assert_leq(cache.bytes, cache.bytes_max);
    cr_assert_gt(cache.evictions, 80);
    cr_assert(present(1));
    block_cache_release(pinned);
    block_cache_deinit(&cache);
}

Test(block_cache, a_scan_does_not_push_out_what_point_reads_use)
{
    cr_assert_eq(block_cache_init(&cache, 10 * 1100), 0);
    for (uint64_t number = 1; number <= 8; number++) {
        block_cache_release(insert(number, CACHE_NORMAL));
        cr_assert(present(number));
    }
    for (uint64_t number = 100; number < 120; number++)
        block_cache_release(insert(number, CACHE_LOW));
    for (uint64_t number = 1; number <= 8; number++)
        cr_assert(present(number), "%lu", number);
    block_cache_deinit(&cache);
}

Test(block_cache, the_same_block_read_twice_is_kept_once)
{
    cr_assert_eq(block_cache_init(&cache, 10 * 1100), 0);
    struct cache_block *first = insert(1, CACHE_NORMAL);
    struct cache_block *second = insert(1, CACHE_NORMAL);
    cr_assert_eq(first, second);
    cr_assert_eq(first->pins, 2);
    cr_assert_eq(cache.blocks, 1);
    block_cache_release(first);
    block_cache_release(second);
    block_cache_deinit(&cache);
}
