/*
 * memtable.h - the in-memory part of the map: a skiplist in an arena, one writer, wait-free
 * readers.
 *
 * Story     Nodes are built completely, then linked from the bottom level up with release stores,
 *           so a reader that acquires a link sees a whole node. Nothing is ever unlinked or moved;
 *           the arena goes away at once when no view holds the memtable. A node caches the first
 *           eight key bytes as a big-endian number, and a search prefetches the node below while it
 *           looks at the node ahead: about one cache miss per level.
 *           Point reads go through a hash of the newest rows instead (memtable_index.h).
 * Owner     The raft core inserts. Readers on any core hold it through a view.
 * Threads   memtable_seek*, memtable_get, memtable_next, memtable_row: any core. The rest: the
 *           owner.
 * Limits    MEMTABLE_HEIGHT_MAX levels with branching 4: good for tens of millions of rows.
 * Source    Pugh 1990; the skiplists of LevelDB and RocksDB (insertion hints).
 */
#ifndef STORAGE_LSM_MEMTABLE_H
#define STORAGE_LSM_MEMTABLE_H

#include <stdatomic.h>

#include "core/base.h"
#include "core/prng.h"
#include "storage/lsm/lsm.h"
#include "storage/lsm/memtable_index.h"

#define MEMTABLE_HEIGHT_MAX 12
#define MEMTABLE_CHUNK_BYTES                                                                       \
    ((size_t)(2 * 1024 * 1024)) /* a huge page, where the kernel gives one */
#define MEMTABLE_FINGERS 8      /* slots, by first key byte */

struct memtable_node {
    uint64_t prefix; /* of the key, big-endian, zero-padded */
    uint64_t version_main;
    uint32_t version_sub;
    uint32_t value_bytes;
    uint32_t key_bytes;
    uint8_t kind;
    uint8_t height;
    uint8_t links; /* height, and one more for the index's chain when the key is indexed */
    uint8_t reserved;
    _Atomic(struct memtable_node *) next[]; /* `links` of them, then the key, then the value */
};

/* Where the last row of a table (first key byte) went: what follows it directly needs no search.
 * F1  every previous[level] sorts before `last` or is it, and has more than `level` links. */
struct memtable_finger {
    struct memtable_node *last; /* NULL: unused */
    struct memtable_node *previous[MEMTABLE_HEIGHT_MAX];
    uint8_t table;
};

struct memtable_chunk {
    struct memtable_chunk *older;
};

struct memtable {
    /* read by every core */
    struct memtable_node *head; /* sorts before everything */
    _Atomic uint32_t height;    /* levels in use; a stale value only costs steps */
    _Atomic uint64_t bytes;     /* arena bytes taken */
    _Atomic uint64_t logical_bytes;
    struct memtable_index index; /* of the keys of `point_table` */
    uint8_t point_table;         /* first byte of keys that the index knows; 0: it knows all */

    /* the owner's */
    uint8_t *free, *end; /* within the newest chunk */
    struct memtable_chunk *chunks;
    size_t chunk_bytes;
    uint64_t row_count;
    uint64_t stamp; /* counts inserts: validates a position */
    struct prng prng;
    struct memtable_finger fingers[MEMTABLE_FINGERS];

    /* the LSM's */
    uint64_t applied_index, applied_term; /* everything up to here is in it or below it */
    uint32_t views;                       /* that name it */
    bool flush_sent, flushed;
    uint64_t id;
};

must_check struct memtable *memtable_create(uint64_t bytes_target, uint64_t seed,
                                            uint8_t point_table);
void memtable_destroy(struct memtable *memtable);

/* previous[] for a later memtable_insert() of `key` with a version above all of its rows. Returns
 * the
 * newest row of the key, or NULL. */
struct memtable_node *memtable_find_newest(struct memtable *memtable, struct bytes key,
                                           struct memtable_node **previous);

/* Walks to all keys at once, so that their cache misses overlap; the searches that follow find the
 * nodes in the cache. */
#define MEMTABLE_PREFETCH_MAX 16
void memtable_prefetch(const struct memtable *memtable, const struct bytes *keys, uint32_t count);

/* `previous` as filled by memtable_find_newest() with no insert in between, or NULL. */
void memtable_insert(struct memtable *memtable, struct memtable_node *const *previous,
                     struct bytes key, struct lsm_version version, enum lsm_kind kind,
                     struct bytes value);

/* First node at or after (key, version) in row order; NULL at the end. */
struct memtable_node *memtable_seek(const struct memtable *memtable, struct bytes key,
                                    struct lsm_version version);
/* Last node before (key, version); NULL when there is none. */
struct memtable_node *memtable_seek_before(const struct memtable *memtable, struct bytes key,
                                           struct lsm_version version);
struct memtable_node *memtable_last(const struct memtable *memtable);

/* The newest row of `key` with version <= version_max, or NULL. `hash` is bloom_hash(key). */
const struct memtable_node *memtable_get(const struct memtable *memtable, struct bytes key,
                                         uint64_t hash, struct lsm_version version_max);

static inline bool memtable_is_indexed(const struct memtable *memtable, struct bytes key)
{
    return memtable->point_table == 0 || key.data[0] == memtable->point_table;
}

static inline struct memtable_node *memtable_next(const struct memtable_node *node)
{
    return atomic_load_explicit(&((struct memtable_node *)(uintptr_t)node)->next[0],
                                memory_order_acquire);
}

static inline struct memtable_node *memtable_first(const struct memtable *memtable)
{
    return memtable_next(memtable->head);
}

static inline struct bytes memtable_node_key(const struct memtable_node *node)
{
    return bytes_make((const uint8_t *)&node->next[node->links], node->key_bytes);
}

static inline struct lsm_version memtable_node_version(const struct memtable_node *node)
{
    return (struct lsm_version){node->version_main, node->version_sub};
}

static inline void memtable_row(const struct memtable_node *node, struct lsm_row *row)
{
    row->key = memtable_node_key(node);
    row->value = bytes_make(row->key.data + node->key_bytes, node->value_bytes);
    row->version = memtable_node_version(node);
    row->kind = (enum lsm_kind)node->kind;
    row->pin_kind = 0;
    row->pin = NULL;
}

#endif
