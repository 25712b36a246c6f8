#include "storage/lsm/memtable_index.h"

#include <stdlib.h>

#include "core/invariant.h"
#include "storage/lsm/memtable.h"

#define LINK_ADDRESS_BITS 48
#define LINK_ADDRESS_MASK (((uint64_t)1 << LINK_ADDRESS_BITS) - 1)

_Static_assert(sizeof(struct memtable_bucket) == 64, "a look-up touches one line of the index");

static inline struct memtable_key *link_key(uint64_t link)
{
    return (struct memtable_key *)(uintptr_t)(link & LINK_ADDRESS_MASK);
}

static inline uint64_t link_make(const struct memtable_key *key, uint64_t hash)
{
    uint64_t address = (uint64_t)(uintptr_t)key;
    invariant(address != 0 && (address & ~LINK_ADDRESS_MASK) == 0);
    return address | (hash & ~LINK_ADDRESS_MASK);
}

/* The bucket is chosen by the low bits of the hash, the tag is its top bits. */
static inline bool link_may_be(uint64_t link, uint64_t hash)
{
    return ((link ^ hash) & ~LINK_ADDRESS_MASK) == 0;
}

static void index_add_part(struct memtable_index *index, uint64_t buckets)
{
    uint32_t count = atomic_load_explicit(&index->part_count, memory_order_relaxed);
    invariant(count < MEMTABLE_INDEX_PARTS_MAX);
    struct memtable_index_part *part = &index->parts[count];
    size_t bytes = buckets * sizeof(part->buckets[0]);
    part->buckets = aligned_alloc(sizeof(part->buckets[0]), bytes);
    if (part->buckets == NULL)
        fatal("out of memory for an index of %zu bytes", bytes);
    memset(part->buckets, 0, bytes);
    part->mask = buckets - 1;
    index->room = buckets;
    atomic_store_explicit(&index->part_count, count + 1, memory_order_release);
}

static inline uint32_t index_part_count(const struct memtable_index *index)
{
    return atomic_load_explicit(&index->part_count, memory_order_acquire);
}

static inline struct memtable_bucket *part_bucket(const struct memtable_index_part *part,
                                                  uint64_t hash)
{
    return &part->buckets[hash & part->mask];
}

void memtable_index_init(struct memtable_index *index, uint64_t bytes_target)
{
    uint64_t buckets = 16;
    while (buckets < bytes_target / MEMTABLE_INDEX_BUCKET_BYTES)
        buckets *= 2;
    atomic_init(&index->part_count, 0);
    index_add_part(index, buckets);
}

static void part_deinit(struct memtable_index_part *part)
{
    for (uint64_t i = 0; i <= part->mask; i++)
        for (struct memtable_bucket *bucket = part->buckets[i].overflow, *next; bucket != NULL;
             bucket = next) {
            next = bucket->overflow;
            free(bucket);
        }
    free(part->buckets);
    part->buckets = NULL;
}

void memtable_index_deinit(struct memtable_index *index)
{
    for (uint32_t i = 0; i < index_part_count(index); i++)
        part_deinit(&index->parts[i]);
}

static struct memtable_bucket *bucket_create(uint64_t first_link)
{
    struct memtable_bucket *bucket = aligned_alloc(sizeof(*bucket), sizeof(*bucket));
    if (bucket == NULL)
        fatal("out of memory for an index");
    memset(bucket, 0, sizeof(*bucket));
    atomic_init(&bucket->links[0], first_link);
    return bucket;
}

/* False when all links of the bucket are taken; then `*bucket` is the last it overflowed into. */
static bool bucket_publish(struct memtable_bucket **bucket, uint64_t link)
{
    for (struct memtable_bucket *next = *bucket; next != NULL;) {
        *bucket = next;
        for (uint32_t i = 0; i < MEMTABLE_INDEX_LINKS; i++)
            if (atomic_load_explicit(&next->links[i], memory_order_relaxed) == 0) {
                atomic_store_explicit(&next->links[i], link, memory_order_release);
                return true;
            }
        next = atomic_load_explicit(&next->overflow, memory_order_relaxed);
    }
    return false;
}

void memtable_index_publish(struct memtable_index *index, struct memtable_key *key, uint64_t hash)
{
    const struct memtable_index_part *last = &index->parts[index_part_count(index) - 1];
    struct memtable_bucket *bucket = part_bucket(last, hash);
    uint64_t link = link_make(key, hash);
    if (bucket_publish(&bucket, link))
        return;
    if (index->room > 0) {
        index->room--;
        atomic_store_explicit(&bucket->overflow, bucket_create(link), memory_order_release);
        return;
    }
    index_add_part(index, (last->mask + 1) * 4);
    bucket = part_bucket(last + 1, hash);
    bool published = bucket_publish(&bucket, link);
    invariant(published);
}

static struct memtable_key *part_find(const struct memtable_index_part *part, struct bytes key,
                                      uint64_t hash)
{
    struct memtable_bucket *bucket = part_bucket(part, hash);
    for (; bucket != NULL; bucket = atomic_load_explicit(&bucket->overflow, memory_order_acquire))
        for (uint32_t i = 0; i < MEMTABLE_INDEX_LINKS; i++) {
            uint64_t link = atomic_load_explicit(&bucket->links[i], memory_order_acquire);
            if (link == 0)
                return NULL;
            if (link_may_be(link, hash) && bytes_equal(memtable_key_bytes(link_key(link)), key))
                return link_key(link);
        }
    return NULL;
}

struct memtable_key *memtable_index_find(const struct memtable_index *index, struct bytes key,
                                         uint64_t hash)
{
    uint32_t parts = index_part_count(index);
    struct memtable_key *found = NULL;
    for (uint32_t i = 0; found == NULL && i < parts; i++)
        found = part_find(&index->parts[i], key, hash);
    return found;
}

void memtable_index_prefetch(const struct memtable_index *index, uint64_t hash)
{
    for (uint32_t i = 0; i < index_part_count(index); i++)
        __builtin_prefetch(part_bucket(&index->parts[i], hash));
}

const struct memtable_key *memtable_index_peek(const struct memtable_index *index, uint64_t hash)
{
    for (uint32_t part = 0; part < index_part_count(index); part++) {
        struct memtable_bucket *bucket = part_bucket(&index->parts[part], hash);
        for (uint32_t i = 0; i < MEMTABLE_INDEX_LINKS; i++) {
            uint64_t link = atomic_load_explicit(&bucket->links[i], memory_order_acquire);
            if (link != 0 && link_may_be(link, hash))
                return link_key(link);
        }
    }
    return NULL;
}
