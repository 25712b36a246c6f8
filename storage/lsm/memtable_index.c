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

void memtable_index_init(struct memtable_index *index, uint64_t bytes_target)
{
    uint64_t buckets = 16;
    while (buckets < bytes_target / MEMTABLE_INDEX_BUCKET_BYTES)
        buckets *= 2;
    size_t bytes = buckets * sizeof(index->buckets[0]);
    index->buckets = aligned_alloc(sizeof(index->buckets[0]), bytes);
    if (index->buckets == NULL)
        fatal("out of memory for an index of %zu bytes", bytes);
    memset(index->buckets, 0, bytes);
    index->mask = buckets - 1;
}

void memtable_index_deinit(struct memtable_index *index)
{
    for (uint64_t i = 0; i <= index->mask; i++)
        for (struct memtable_bucket *bucket = index->buckets[i].overflow, *next; bucket != NULL;
             bucket = next) {
            next = bucket->overflow;
            free(bucket);
        }
    free(index->buckets);
    index->buckets = NULL;
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

void memtable_index_publish(struct memtable_index *index, struct memtable_key *key, uint64_t hash)
{
    struct memtable_bucket *bucket = &index->buckets[hash & index->mask], *overflow;
    for (;;) {
        for (uint32_t i = 0; i < MEMTABLE_INDEX_LINKS; i++)
            if (atomic_load_explicit(&bucket->links[i], memory_order_relaxed) == 0) {
                atomic_store_explicit(&bucket->links[i], link_make(key, hash),
                                      memory_order_release);
                return;
            }
        overflow = atomic_load_explicit(&bucket->overflow, memory_order_relaxed);
        if (overflow == NULL)
            break;
        bucket = overflow;
    }
    overflow = bucket_create(link_make(key, hash));
    atomic_store_explicit(&bucket->overflow, overflow, memory_order_release);
}

struct memtable_key *memtable_index_find(const struct memtable_index *index, struct bytes key,
                                         uint64_t hash)
{
    struct memtable_bucket *bucket = &index->buckets[hash & index->mask];
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

const struct memtable_key *memtable_index_peek(const struct memtable_index *index, uint64_t hash)
{
    struct memtable_bucket *bucket = &index->buckets[hash & index->mask];
    for (uint32_t i = 0; i < MEMTABLE_INDEX_LINKS; i++) {
        uint64_t link = atomic_load_explicit(&bucket->links[i], memory_order_acquire);
        if (link != 0 && link_may_be(link, hash))
            return link_key(link);
    }
    return NULL;
}
