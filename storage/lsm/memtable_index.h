/*
 * memtable_index.h - from a key to its node in a memtable, without a search.
 *
 * Story     A search of the skiplist costs a dozen dependent cache misses; through this hash it
 *           costs two, and both can be asked for ahead of time. A bucket is one cache line of links
 *           and a pointer to the line it overflows into. A link is the address of a key's node with
 *           16 bits of the key's hash above it, so that other keys are hardly ever touched. One
 *           bucket is there per MEMTABLE_INDEX_BUCKET_BYTES of the memtable's target: small rows
 *           make it overflow, which costs a step more. But one request can bring any number of rows
 *           into a memtable, so when buckets have overflowed once on average, new keys go to
 *           another part with four times as many; what is in the older parts stays where it is.
 * Owner     The memtable's writer.
 * Threads   memtable_index_find(), _prefetch(), _peek(): any core. The rest: the writer.
 *
 * Invariants
 * X1  a key is published here with its first version in place, and before the state that makes that
 *     version readable is; so whoever may read version v finds the key.
 * X2  a key has one link, in whichever part was the last when it came.
 * X3  links fill a bucket from the front and never leave: the first empty one ends the search in
 *     that part.
 */
#ifndef STORAGE_LSM_MEMTABLE_INDEX_H
#define STORAGE_LSM_MEMTABLE_INDEX_H

#include <stdatomic.h>

#include "core/base.h"

struct memtable_key;

#define MEMTABLE_INDEX_LINKS        7
#define MEMTABLE_INDEX_BUCKET_BYTES ((uint64_t)2048) /* four keys of half a kilobyte */
#define MEMTABLE_INDEX_PARTS_MAX    16               /* far more than memory holds keys for */

struct memtable_bucket {
    _Alignas(64) _Atomic uint64_t links[MEMTABLE_INDEX_LINKS]; /* 0: empty */
    _Atomic(struct memtable_bucket *) overflow;
};

struct memtable_index_part {
    struct memtable_bucket *buckets; /* owned */
    uint64_t mask;
};

struct memtable_index {
    _Atomic uint32_t part_count;
    struct memtable_index_part parts[MEMTABLE_INDEX_PARTS_MAX]; /* immutable once counted */
    uint64_t room; /* the writer's: lines that the last part may still overflow into */
};

void memtable_index_init(struct memtable_index *index, uint64_t bytes_target);
void memtable_index_deinit(struct memtable_index *index);

/* `key` is not in here. `hash` is that of bloom_hash(), here and below. */
void memtable_index_publish(struct memtable_index *index, struct memtable_key *key, uint64_t hash);

struct memtable_key *memtable_index_find(const struct memtable_index *index, struct bytes key,
                                         uint64_t hash);

/* Ahead of a find: brings the buckets into the cache; then, with them there, answers the node that
 * find would look at, or NULL. */
void memtable_index_prefetch(const struct memtable_index *index, uint64_t hash);
const struct memtable_key *memtable_index_peek(const struct memtable_index *index, uint64_t hash);

#endif
