#include "storage/lsm/memtable_index.h"

#include <stdlib.h>

#include "core/invariant.h"
#include "storage/lsm/memtable.h"

/* A link: the node's address in the low 48 bits, the top 16 bits of its key's hash above; 0: end.
 */
#define LINK_ADDRESS_BITS 48
#define LINK_ADDRESS_MASK (((uint64_t)1 << LINK_ADDRESS_BITS) - 1)
#define LINK_TAG_MASK     (~LINK_ADDRESS_MASK)

_Static_assert(sizeof(_Atomic uint64_t) == sizeof(void *),
               "a chain link takes a skiplist link's place");

static inline struct memtable_node *link_node(uint64_t link)
{
    return (struct memtable_node *)(uintptr_t)(link & LINK_ADDRESS_MASK);
}

static inline uint64_t link_make(const struct memtable_node *node, uint64_t hash)
{
    uint64_t address = (uint64_t)(uintptr_t)node;
    invariant((address & LINK_TAG_MASK) == 0);
    return address | (hash & LINK_TAG_MASK);
}

static inline _Atomic uint64_t *node_chain(const struct memtable_node *node)
{
    invariant(node->links == node->height + 1);
    return (_Atomic uint64_t *)(uintptr_t)&node->next[node->height];
}

void memtable_index_init(struct memtable_index *index, uint64_t bytes_target)
{
    uint64_t buckets = 16;
    while (buckets < bytes_target / MEMTABLE_INDEX_BUCKET_BYTES)
        buckets *= 2;
    index->buckets = calloc(buckets, sizeof(index->buckets[0]));
    if (index->buckets == NULL)
        fatal("out of memory for an index of %llu keys", (unsigned long long)buckets);
    index->mask = buckets - 1;
}

void memtable_index_deinit(struct memtable_index *index)
{
    free((void *)index->buckets);
    index->buckets = NULL;
}

void memtable_index_publish(struct memtable_index *index, struct memtable_node *node, uint64_t hash)
{
    struct bytes key = memtable_node_key(node);
    _Atomic uint64_t *bucket = &index->buckets[hash & index->mask];
    uint64_t first = atomic_load_explicit(bucket, memory_order_relaxed);
    uint64_t link = first;
    for (_Atomic uint64_t *at = bucket; link != 0;) {
        const struct memtable_node *other = link_node(link);
        if (((link ^ hash) & LINK_TAG_MASK) == 0 && bytes_equal(memtable_node_key(other), key)) {
            invariant(
                lsm_version_compare(memtable_node_version(other), memtable_node_version(node)) < 0);
            uint64_t rest = atomic_load_explicit(node_chain(other), memory_order_relaxed);
            atomic_store_explicit(node_chain(node), rest, memory_order_relaxed);
            atomic_store_explicit(at, link_make(node, hash), memory_order_release); /* X2 */
            return;
        }
        at = node_chain(other);
        link = atomic_load_explicit(at, memory_order_relaxed);
    }
    atomic_store_explicit(node_chain(node), first, memory_order_relaxed);
    atomic_store_explicit(bucket, link_make(node, hash), memory_order_release);
}

const struct memtable_node *memtable_index_find(const struct memtable_index *index,
                                                struct bytes key, uint64_t hash)
{
    uint64_t link = atomic_load_explicit(&index->buckets[hash & index->mask], memory_order_acquire);
    while (link != 0) {
        const struct memtable_node *node = link_node(link);
        if (((link ^ hash) & LINK_TAG_MASK) == 0 && bytes_equal(memtable_node_key(node), key))
            return node;
        link = atomic_load_explicit(node_chain(node), memory_order_acquire);
    }
    return NULL;
}

const struct memtable_node *memtable_index_peek(const struct memtable_index *index, uint64_t hash)
{
    uint64_t link = atomic_load_explicit(&index->buckets[hash & index->mask], memory_order_relaxed);
    return link_node(link);
}
