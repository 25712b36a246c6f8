#include "core/buffer.h"

#include <errno.h>
#include <stdlib.h>

#include "core/invariant.h"

#define BUFFER_ORDER_COUNT 11u /* 4 KiB << 10 == 4 MiB */
#define BUFFER_UNIT_NONE   UINT32_MAX
_Static_assert(BUFFER_BYTES_MIN << (BUFFER_ORDER_COUNT - 1) == BUFFER_BYTES_MAX, "orders");

/* What one unit (BUFFER_BYTES_MIN of the arena) is. */
enum unit_kind {
    UNIT_INSIDE = 0, /* of a larger block: not its first unit */
    UNIT_FREE,       /* first of a free block */
    UNIT_USED,       /* first of an acquired buffer */
};

struct unit {
    uint8_t kind;
    uint8_t order;
    uint32_t previous, next; /* neighbours on the free list of `order` */
};

/* B1  every unit belongs to exactly one block; a block of order n starts at a multiple of 2^n.
 * B2  two free buddies of one order never exist side by side: release merges them.
 * B3  units_used is the sum of 2^order over UNIT_USED blocks.
 * Book-keeping lives outside the arena, so that a stray write into a free buffer cannot corrupt it
 * and the pages of unused buffers stay untouched. */
struct buffer_pool {
    uint8_t *arena;
    uint32_t unit_count;
    uint32_t units_used;
    uint32_t free_first[BUFFER_ORDER_COUNT];
    struct unit units[];
};

static void free_list_insert(struct buffer_pool *pool, uint32_t index, uint32_t order)
{
    struct unit *unit = &pool->units[index];
    invariant(unit->kind != UNIT_FREE);
    invariant((index & ((1u << order) - 1)) == 0);
    unit->kind = UNIT_FREE;
    unit->order = (uint8_t)order;
    unit->previous = BUFFER_UNIT_NONE;
    unit->next = pool->free_first[order];
    if (unit->next != BUFFER_UNIT_NONE)
        pool->units[unit->next].previous = index;
    pool->free_first[order] = index;
}

static void free_list_remove(struct buffer_pool *pool, uint32_t index)
{
    struct unit *unit = &pool->units[index];
    invariant(unit->kind == UNIT_FREE);
    if (unit->previous == BUFFER_UNIT_NONE)
        pool->free_first[unit->order] = unit->next;
    else
        pool->units[unit->previous].next = unit->next;
    if (unit->next != BUFFER_UNIT_NONE)
        pool->units[unit->next].previous = unit->previous;
    unit->kind = UNIT_INSIDE;
}

int buffer_pool_create(void *arena, uint64_t arena_bytes, struct buffer_pool **pool)
{
    invariant((uintptr_t)arena % BUFFER_BYTES_MIN == 0);
    invariant(arena_bytes % BUFFER_BYTES_MIN == 0);
    uint64_t unit_count = arena_bytes / BUFFER_BYTES_MIN;
    invariant(unit_count < BUFFER_UNIT_NONE);
    struct buffer_pool *made = calloc(1, sizeof(*made) + unit_count * sizeof(struct unit));
    if (made == NULL)
        return -ENOMEM;
    made->arena = arena;
    made->unit_count = (uint32_t)unit_count;
    for (uint32_t order = 0; order < BUFFER_ORDER_COUNT; order++)
        made->free_first[order] = BUFFER_UNIT_NONE;
    /* The largest aligned blocks that fit, from the front. */
    uint32_t index = 0;
    while (index < made->unit_count) {
        uint32_t order = BUFFER_ORDER_COUNT - 1;
        while ((index & ((1u << order) - 1)) != 0 || (1u << order) > made->unit_count - index)
            order--;
        free_list_insert(made, index, order);
        index += 1u << order;
    }
    *pool = made;
    return 0;
}

void buffer_pool_destroy(struct buffer_pool *pool)
{
    if (pool == NULL)
        return;
    invariant(pool->units_used == 0);
    free(pool);
}

static uint32_t order_for(uint32_t bytes)
{
    uint32_t order = 0;
    while (BUFFER_BYTES_MIN << order < bytes)
        order++;
    return order;
}

void *buffer_acquire(struct buffer_pool *pool, uint32_t bytes)
{
    invariant(bytes > 0 && bytes <= BUFFER_BYTES_MAX);
    uint32_t wanted = order_for(bytes);
    uint32_t order = wanted;
    while (order < BUFFER_ORDER_COUNT && pool->free_first[order] == BUFFER_UNIT_NONE)
        order++;
    if (order == BUFFER_ORDER_COUNT)
        return NULL;
    uint32_t index = pool->free_first[order];
    free_list_remove(pool, index);
    while (order > wanted) { /* the upper halves stay free */
        order--;
        free_list_insert(pool, index + (1u << order), order);
    }
    pool->units[index].kind = UNIT_USED;
    pool->units[index].order = (uint8_t)wanted;
    pool->units_used += 1u << wanted;
    invariant(pool->units_used <= pool->unit_count);
    return pool->arena + (size_t)index * BUFFER_BYTES_MIN;
}

void buffer_release(struct buffer_pool *pool, void *buffer)
{
    invariant((uint8_t *)buffer >= pool->arena);
    size_t offset = (size_t)((uint8_t *)buffer - pool->arena);
    invariant(offset % BUFFER_BYTES_MIN == 0); /* not the start of a buffer */
    invariant(offset / BUFFER_BYTES_MIN < pool->unit_count);
    uint32_t index = (uint32_t)(offset / BUFFER_BYTES_MIN);
    invariant(pool->units[index].kind == UNIT_USED); /* released twice, or never acquired */
    uint32_t order = pool->units[index].order;
    invariant(pool->units_used >= 1u << order);
    pool->units_used -= 1u << order;
    pool->units[index].kind = UNIT_INSIDE;
    while (order < BUFFER_ORDER_COUNT - 1) {
        uint32_t buddy = index ^ (1u << order);
        if (buddy >= pool->unit_count || pool->units[buddy].kind != UNIT_FREE ||
            pool->units[buddy].order != order)
            break;
        free_list_remove(pool, buddy);
        index &= ~(1u << order);
        order++;
    }
    free_list_insert(pool, index, order);
}

void *buffer_acquire_or_allocate(struct buffer_pool *pool, uint32_t bytes)
{
    invariant(bytes > 0);
    void *buffer = bytes <= BUFFER_BYTES_MAX ? buffer_acquire(pool, bytes) : NULL;
    if (buffer == NULL)
        buffer = aligned_alloc(BUFFER_BYTES_MIN, u64_round_up(bytes, BUFFER_BYTES_MIN));
    return buffer;
}

void buffer_release_or_free(struct buffer_pool *pool, void *buffer)
{
    uintptr_t start = (uintptr_t)pool->arena, at = (uintptr_t)buffer;
    if (at >= start && at < start + buffer_pool_bytes_total(pool))
        buffer_release(pool, buffer);
    else
        free(buffer);
}

uint64_t buffer_pool_bytes_used(const struct buffer_pool *pool)
{
    return (uint64_t)pool->units_used * BUFFER_BYTES_MIN;
}

uint64_t buffer_pool_bytes_total(const struct buffer_pool *pool)
{
    return (uint64_t)pool->unit_count * BUFFER_BYTES_MIN;
}
