/*
 * memtable.h - the in-memory part of the map: keys in a skiplist, versions in a chain a key, one
 * writer, wait-free readers.
 *
 * Story     The index holds each key once, small and dense, with the eight bytes behind what most
 *           keys have in common as a number; versions, with their values, lie elsewhere in order of
 *           arrival. A key's versions form a chain from the newest to the oldest, with jump
 *           pointers as in a skew-binary list, so an old version is found in O(log n) steps. Keys
 *           of the point table are found through a hash too (memtable_index.h): so do a get and an
 *           overwrite. All is built completely and then published with one release store; nothing
 *           is ever unlinked or moved. The arenas go away at once when no view holds the memtable.
 * Owner     The raft core inserts. Readers on any core hold it through a view.
 * Threads   memtable_find, memtable_seek*, memtable_next, memtable_row: any core. The rest: owner.
 * Limits    MEMTABLE_HEIGHT_MAX levels with branching 4: good for tens of millions of keys.
 * Source    Pugh 1990; the skiplists of LevelDB and RocksDB (insertion hints); Myers 1983 (jumps).
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
    ((size_t)(2 * 1024 * 1024))     /* a huge page, where the kernel gives one */
#define MEMTABLE_FINGERS          8 /* slots, by first key byte */
#define MEMTABLE_COMMON_BYTES_MAX 64

/* A row: one version of a key. K1 versions fall along `older`; K2 `jump` is some older one, NULL
 * only for the oldest. */
struct memtable_version {
    struct memtable_key *key;
    struct memtable_version *older, *jump;
    uint64_t main;
    uint32_t sub;
    uint32_t depth; /* versions below this one */
    uint32_t value_bytes;
    uint8_t kind;
    uint8_t value[];
};

struct memtable_key {
    uint64_t digest; /* of the key, in its order (memtable.c) */
    _Atomic(struct memtable_version *) newest;
    uint32_t key_bytes;
    uint32_t height;
    _Atomic(struct memtable_key *) next[]; /* height links, then the key */
};

/* Where the last new key of a table (first key byte) went: what follows it directly needs no
 * search. F1 every previous[level] sorts before `last` or is it, and has more than `level` links.
 */
struct memtable_finger {
    struct memtable_key *last; /* NULL: unused */
    struct memtable_key *previous[MEMTABLE_HEIGHT_MAX];
    uint8_t table;
};

struct memtable_chunk;

struct memtable_arena {
    uint8_t *free, *end; /* within the newest chunk */
    struct memtable_chunk *chunks;
};

struct memtable {
    /* read by every core */
    struct memtable_key *head;   /* sorts before everything */
    struct memtable_index index; /* of the keys of `point_table` */
    uint8_t point_table;         /* first byte of keys that the index knows; 0: it knows all */
    uint8_t common[MEMTABLE_COMMON_BYTES_MAX]; /* what most keys are expected to begin with */
    size_t common_bytes;
    _Atomic uint32_t height; /* levels in use; a stale value only costs steps */
    _Atomic uint64_t bytes;  /* arena bytes taken */
    _Atomic uint64_t logical_bytes;

    /* the owner's */
    struct memtable_arena keys, versions;
    size_t chunk_bytes;
    uint64_t row_count;
    const struct memtable_key *sample; /* some key of the index; NULL: none yet */
    size_t sample_common_bytes;        /* that all its keys share with it */
    struct prng prng;
    struct memtable_finger fingers[MEMTABLE_FINGERS];

    /* the LSM's */
    uint64_t applied_index, applied_term; /* everything up to here is in it or below it */
    uint32_t views;                       /* that name it */
    bool flush_sent, flushed;
    uint64_t id;
};

struct memtable_options {
    uint64_t bytes_target; /* sizes chunks and the hash index, which grows beyond it */
    uint64_t seed;
    uint8_t point_table; /* first byte of the keys in the index; 0: all */
    struct bytes common; /* what most keys will begin with, see memtable_common(); copied */
};

must_check struct memtable *memtable_create(const struct memtable_options *options);
void memtable_destroy(struct memtable *memtable);

/* What the keys of the index had in common: for the next memtable, whose keys will look alike. */
struct bytes memtable_common(const struct memtable *memtable);

static inline bool memtable_is_indexed(const struct memtable *memtable, struct bytes key)
{
    return memtable->point_table == 0 || key.data[0] == memtable->point_table;
}

/* The newest version of exactly `key` that is at most `version_max`; NULL when there is none.
 * `hash` is bloom_hash(key). */
const struct memtable_version *memtable_find(const struct memtable *memtable, struct bytes key,
                                             uint64_t hash, struct lsm_version version_max);

/* Walks to all keys at once, so that their cache misses overlap; the inserts that follow find the
 * nodes in the cache. */
#define MEMTABLE_PREFETCH_MAX 16
void memtable_prefetch(const struct memtable *memtable, const struct bytes *keys, uint32_t count);

/* `version` is above all that the key has. Copies key and value. */
void memtable_insert(struct memtable *memtable, struct bytes key, struct lsm_version version,
                     enum lsm_kind kind, struct bytes value);

/* First row at or after (key, version) in row order; NULL at the end. */
const struct memtable_version *memtable_seek(const struct memtable *memtable, struct bytes key,
                                             struct lsm_version version);
/* Last row before (key, version); NULL when there is none. */
const struct memtable_version *memtable_seek_before(const struct memtable *memtable,
                                                    struct bytes key, struct lsm_version version);
const struct memtable_version *memtable_first(const struct memtable *memtable);
const struct memtable_version *memtable_last(const struct memtable *memtable);
const struct memtable_version *memtable_next(const struct memtable_version *version);

/* The newest version of a key that is in the cache already; may be NULL. */
static inline const struct memtable_version *memtable_peek(const struct memtable_key *key)
{
    return atomic_load_explicit(&key->newest, memory_order_acquire);
}

static inline struct bytes memtable_key_bytes(const struct memtable_key *key)
{
    return bytes_make((const uint8_t *)&key->next[key->height], key->key_bytes);
}

static inline void memtable_row(const struct memtable_version *version, struct lsm_row *row)
{
    row->key = memtable_key_bytes(version->key);
    row->value = bytes_make(version->value, version->value_bytes);
    row->version = (struct lsm_version){version->main, version->sub};
    row->kind = (enum lsm_kind)version->kind;
    row->pin_kind = 0;
    row->pin = NULL;
}

/* A walk over all rows of a memtable that nobody writes any more: fetches what is ahead. */
struct memtable_scan {
    const struct memtable_version *at;
    const struct memtable_key *ahead;
};
void memtable_scan_begin(const struct memtable *memtable, struct memtable_scan *scan);
/* False after the last row. */
bool memtable_scan_next(struct memtable_scan *scan, struct lsm_row *row);

#endif
