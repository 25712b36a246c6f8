#include "storage/lsm/row_cache.h"

#include <stdlib.h>

#include "core/invariant.h"

#define WAY_ADDRESS_BITS 48
#define WAY_ADDRESS_MASK (((uint64_t)1 << WAY_ADDRESS_BITS) - 1)

#define ROW_CACHE_ROW_BYTES_USUAL 512 /* sets are made for rows of this size, half full */

_Static_assert(sizeof(struct row_cache_set) == 64, "a look-up touches one line of the hash");

static inline struct cached_row *way_row(uint64_t way)
{
    return (struct cached_row *)(uintptr_t)(way & WAY_ADDRESS_MASK);
}

static inline bool way_may_be(uint64_t way, uint64_t hash)
{
    return way != 0 && ((way ^ hash) & ~WAY_ADDRESS_MASK) == 0;
}

static inline size_t row_bytes(const struct cached_row *row)
{
    return sizeof(*row) + row->key_bytes + (size_t)row->value_bytes;
}

static struct row_cache_set *cache_set(const struct row_cache *cache, uint64_t hash)
{
    return &cache->sets[hash & (cache->set_count - 1)];
}

void row_cache_init(struct row_cache *cache, uint64_t bytes_max)
{
    *cache = (struct row_cache){.bytes_max = bytes_max};
    uint64_t rows = bytes_max / ROW_CACHE_ROW_BYTES_USUAL;
    if (rows < ROW_CACHE_WAYS)
        return;
    cache->set_count = 1;
    while (cache->set_count * ROW_CACHE_WAYS / 2 < rows)
        cache->set_count *= 2;
}

static void row_drop(struct row_cache *cache, uint64_t *way)
{
    struct cached_row *row = way_row(*way);
    invariant(cache->bytes >= row_bytes(row));
    cache->bytes -= row_bytes(row);
    *way = 0;
    if (row->pins > 0)
        row->replaced = true;
    else
        free(row);
}

void row_cache_deinit(struct row_cache *cache)
{
    for (uint64_t i = 0; cache->sets != NULL && i < cache->set_count; i++)
        for (uint32_t w = 0; w < ROW_CACHE_WAYS; w++)
            if (cache->sets[i].ways[w] != 0) {
                invariant(way_row(cache->sets[i].ways[w])->pins == 0);
                row_drop(cache, &cache->sets[i].ways[w]);
            }
    invariant(cache->bytes == 0);
    free(cache->sets);
    cache->sets = NULL;
}

static uint64_t *cache_way(const struct row_cache *cache, struct bytes key, uint64_t hash)
{
    struct row_cache_set *set = cache_set(cache, hash);
    for (uint32_t w = 0; w < ROW_CACHE_WAYS; w++) {
        const struct cached_row *row = way_row(set->ways[w]);
        if (way_may_be(set->ways[w], hash) &&
            bytes_equal(bytes_make(row->data, row->key_bytes), key))
            return &set->ways[w];
    }
    return NULL;
}

struct cached_row *row_cache_find(struct row_cache *cache, struct bytes key, uint64_t hash)
{
    if (cache->sets == NULL)
        return NULL;
    uint64_t *way = cache_way(cache, key, hash);
    if (way == NULL)
        return NULL;
    way_row(*way)->used = true;
    return way_row(*way);
}

const struct cached_row *row_cache_peek(const struct row_cache *cache, uint64_t hash)
{
    if (cache->sets == NULL)
        return NULL;
    const struct row_cache_set *set = cache_set(cache, hash);
    for (uint32_t w = 0; w < ROW_CACHE_WAYS; w++)
        if (way_may_be(set->ways[w], hash))
            return way_row(set->ways[w]);
    return NULL;
}

/* A second chance for what was used since the last time; true when a row had to go. */
static bool set_evict(struct row_cache *cache, struct row_cache_set *set)
{
    for (uint32_t w = 0; w < ROW_CACHE_WAYS; w++) {
        uint64_t *way = &set->ways[w];
        if (*way == 0)
            continue;
        if (!way_row(*way)->used) {
            row_drop(cache, way);
            return true;
        }
        way_row(*way)->used = false;
    }
    return false;
}

static uint64_t *set_free_way(struct row_cache *cache, struct row_cache_set *set)
{
    for (;;) {
        for (uint32_t w = 0; w < ROW_CACHE_WAYS; w++)
            if (set->ways[w] == 0)
                return &set->ways[w];
        (void)set_evict(cache, set); /* the second pass finds all of them unused */
    }
}

static void set_evict_all(struct row_cache *cache, struct row_cache_set *set)
{
    for (uint32_t w = 0; w < ROW_CACHE_WAYS; w++)
        if (set->ways[w] != 0)
            row_drop(cache, &set->ways[w]);
}

/* First with second chances, then without: when every row was used lately, to find that out of each
 * would take longer than many reads. False: W3. */
static bool cache_make_room(struct row_cache *cache, size_t bytes)
{
    for (uint32_t steps = 0; cache->bytes + bytes > cache->bytes_max; steps++) {
        if (steps == ROW_CACHE_HAND_STEPS_MAX)
            return false;
        struct row_cache_set *set = &cache->sets[cache->hand++ & (cache->set_count - 1)];
        if (steps < ROW_CACHE_HAND_STEPS_MAX / 2)
            (void)set_evict(cache, set);
        else
            set_evict_all(cache, set);
    }
    return true;
}

void row_cache_insert(struct row_cache *cache, const struct lsm_row *row, uint64_t hash,
                      uint64_t epoch)
{
    size_t data_bytes = row->key.size + row->value.size;
    if (cache->set_count == 0 || data_bytes > ROW_CACHE_ROW_BYTES_MAX ||
        data_bytes > cache->bytes_max / 4)
        return;
    if (cache->sets == NULL) {
        cache->sets = aligned_alloc(64, cache->set_count * sizeof(cache->sets[0]));
        if (cache->sets == NULL)
            return;
        memset(cache->sets, 0, cache->set_count * sizeof(cache->sets[0]));
    }
    uint64_t *way = cache_way(cache, row->key, hash);
    if (way != NULL)
        row_drop(cache, way); /* W1 */
    struct cached_row *kept = NULL;
    if (cache_make_room(cache, sizeof(*kept) + data_bytes))
        kept = malloc(sizeof(*kept) + data_bytes);
    if (kept == NULL)
        return;
    invariant(((uintptr_t)kept & ~WAY_ADDRESS_MASK) == 0);
    *kept = (struct cached_row){.hash = hash,
                                .epoch = epoch,
                                .version = row->version,
                                .key_bytes = (uint32_t)row->key.size,
                                .value_bytes = (uint32_t)row->value.size,
                                .kind = (uint8_t)row->kind};
    memcpy(kept->data, row->key.data, row->key.size);
    if (row->value.size > 0)
        memcpy(kept->data + row->key.size, row->value.data, row->value.size);
    way = set_free_way(cache, cache_set(cache, hash));
    cache->bytes += row_bytes(kept);
    *way = (uint64_t)(uintptr_t)kept | (hash & ~WAY_ADDRESS_MASK);
}

void row_cache_release(struct cached_row *row)
{
    invariant(row->pins > 0);
    if (--row->pins == 0 && row->replaced)
        free(row);
}
