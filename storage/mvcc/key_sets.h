/*
 * key_sets.h - sets of keys and of key intervals for the duplicate check of transactions.
 *
 * Story     A txn is refused when a branch puts a key twice or puts a key that it also deletes.
 *           With a raised limit a txn has ten thousand operations, so neither set may be searched
 *           linearly: keys go to a hash table, intervals to a sorted array of disjoint ones.
 * Owner     The caller; all memory is from the arena it names and is never given back before.
 * Threads   One.
 * Errors    ERR_LIMIT when the arena is full.
 */
#ifndef STORAGE_MVCC_KEY_SETS_H
#define STORAGE_MVCC_KEY_SETS_H

#include "core/arena.h"
#include "core/base.h"

struct key_set {
    struct arena *arena;
    struct bytes *slots; /* open addressing; an empty slot has data NULL */
    uint32_t slot_count; /* power of two, or 0; at most half of the slots are used */
    uint32_t count;
};

void key_set_init(struct key_set *set, struct arena *arena);
bool key_set_holds(const struct key_set *set, struct bytes key);
must_check int key_set_add(struct key_set *set, struct bytes key); /* twice is once */
/* Walks: the first key at slot *index or later. False at the end. */
bool key_set_at(const struct key_set *set, uint32_t *index, struct bytes *key);

struct interval {
    struct bytes begin, end; /* [begin, end) */
};

/* Sorted by begin; intervals neither overlap nor touch. */
struct interval_set {
    struct arena *arena;
    struct interval *intervals;
    uint32_t count, capacity;
};

void interval_set_init(struct interval_set *set, struct arena *arena);
/* An etcd interval. One whose range_end is a single zero byte counts as empty here: stock etcd
 * takes it literally in this check, and clients may depend on what passes. */
must_check int interval_set_add(struct interval_set *set, struct bytes key, struct bytes range_end);
must_check int interval_set_add_all(struct interval_set *set, const struct interval_set *from);
bool interval_set_holds(const struct interval_set *set, struct bytes key);

#endif
