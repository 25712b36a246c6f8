/*
 * sorter.h - collects key-values of a range for an order other than that of keys.
 *
 * Story     Entries are copied as they come, in key order. With a limit only the best are of use:
 *           once there are twice as many, the rest is cut, so that "the oldest of a million" costs
 *           a few entries of memory. Equal entries keep key order.
 * Owner     The scan that embeds it.
 * Threads   One.
 * Errors    ERR_LIMIT past bytes_max.
 */
#ifndef STORAGE_MVCC_SORTER_H
#define STORAGE_MVCC_SORTER_H

#include "core/arena.h"
#include "storage/mvcc/mvcc.h"

struct mvcc_sorter {
    enum mvcc_sort_target target;
    bool descending;
    uint64_t keep_max; /* 0: all */
    size_t bytes_max;
    struct arena arenas[2]; /* the entries' bytes lie in arenas[live] */
    unsigned live;
    struct mvcc_kv *kvs;
    uint32_t count, capacity;
    uint64_t added; /* cut ones included */
};

void mvcc_sorter_init(struct mvcc_sorter *sorter, enum mvcc_sort_target target, bool descending,
                      uint64_t keep_max, size_t bytes_max);
must_check int mvcc_sorter_add(struct mvcc_sorter *sorter, const struct mvcc_kv *kv);
void mvcc_sorter_finish(struct mvcc_sorter *sorter); /* kvs are in order, at most keep_max */
void mvcc_sorter_deinit(struct mvcc_sorter *sorter);

#endif
