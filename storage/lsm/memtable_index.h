/*
 * memtable_index.h - from a key to its newest row in a memtable, without a search.
 *
 * Story     A point read of a skiplist costs a dozen dependent cache misses; through this hash it
 *           costs two, and both can be asked for ahead of time. Buckets hold chains of one node per
 *           key, the newest; a link carries 16 bits of its node's hash, so that a chain is walked
 *           without touching the nodes of other keys. Older rows follow their newest one in the
 *           skiplist. Nodes keep their chain link behind their skiplist links (memtable.h).
 * Owner     The memtable's writer. Memory: one bucket per MEMTABLE_INDEX_BUCKET_BYTES of the
 *           memtable's target, fixed: chains grow a little when rows are small.
 * Threads   memtable_index_find(), memtable_index_prefetch(): any core. The rest: the writer.
 *
 * Invariants
 * X1  a node is linked into the skiplist before it is published here, and published here before the
 *     state that makes its version readable is; so whoever may read version v finds the newest row
 *     up to v at, or in the skiplist behind, the node that a look-up answers.
 * X2  a chain holds each key once. A newer row takes its predecessor's place in one store; the
 *     predecessor keeps its own link, so a walk that stands on it goes on to the end.
 */
#ifndef STORAGE_LSM_MEMTABLE_INDEX_H
#define STORAGE_LSM_MEMTABLE_INDEX_H

#include <stdatomic.h>

#include "core/base.h"

struct memtable_node;

#define MEMTABLE_INDEX_BUCKET_BYTES ((uint64_t)512)

struct memtable_index {
    _Atomic uint64_t *buckets; /* links; see memtable_index.c */
    uint64_t mask;
};

void memtable_index_init(struct memtable_index *index, uint64_t bytes_target);
void memtable_index_deinit(struct memtable_index *index);

/* `node` is in the skiplist, and newer than what was published for its key. */
void memtable_index_publish(struct memtable_index *index, struct memtable_node *node,
                            uint64_t hash);

/* The newest row of `key`, or NULL. `hash` is bloom_hash(key). */
const struct memtable_node *memtable_index_find(const struct memtable_index *index,
                                                struct bytes key, uint64_t hash);

static inline void memtable_index_prefetch(const struct memtable_index *index, uint64_t hash)
{
    __builtin_prefetch((const void *)&index->buckets[hash & index->mask]);
}

/* The node that memtable_index_find() would look at first, or NULL. */
const struct memtable_node *memtable_index_peek(const struct memtable_index *index, uint64_t hash);

#endif
