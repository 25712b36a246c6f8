/*
 * heads.h - the latest-version cache: what a write must know of the version that it replaces.
 *
 * Story     A put needs the create revision, version, lease and size of the version before it, not
 *           its value. Every write leaves them here, so the next write of the key reads no table,
 *           also when memtable and blocks with that version are long gone. Records lie in a ring in
 *           order of arrival and are updated in place; the oldest make room for new keys.
 * Owner     The raft core; one writer, no other reader.
 * Units     Sizes in bytes. A head with version 0 says that the key does not exist.
 * Limits    The ring's size, set at creation, and a quarter of it for the index. Keys longer than
 *           MVCC_HEAD_KEY_BYTES_MAX are not kept. Nothing here ever fails or waits: a key that is
 *           not known is read from the store.
 * I1        A record is the newest version of its key as of the last write.
 * I2        Every record in [begin, end) has exactly one index slot, and the other way round.
 */
#ifndef STORAGE_MVCC_HEADS_H
#define STORAGE_MVCC_HEADS_H

#include "core/base.h"

#define MVCC_HEAD_KEY_BYTES_MAX   ((size_t)512)
#define MVCC_HEADS_RING_BYTES_MIN ((size_t)(64 * 1024))

struct mvcc_head {
    int64_t create_revision, mod_revision, version, lease;
    uint32_t value_bytes;
};

struct mvcc_heads;

/* `ring_bytes` is a power of two, at least MVCC_HEADS_RING_BYTES_MIN. NULL when out of memory. */
must_check struct mvcc_heads *mvcc_heads_create(size_t ring_bytes, uint64_t seed);
void mvcc_heads_destroy(struct mvcc_heads *heads);
void mvcc_heads_clear(struct mvcc_heads *heads);

/* NULL when the key is not known. To be changed in place; valid until the next add or clear. */
struct mvcc_head *mvcc_heads_find(struct mvcc_heads *heads, struct bytes key);
/* The key is not in there. Forgets as many of the oldest as it takes. */
void mvcc_heads_add(struct mvcc_heads *heads, struct bytes key, const struct mvcc_head *head);

/* Starts the cache misses of finding these keys, all at once. */
void mvcc_heads_warm(const struct mvcc_heads *heads, const struct bytes *keys, uint32_t count);

uint64_t mvcc_heads_count(const struct mvcc_heads *heads);
void mvcc_heads_check(const struct mvcc_heads *heads); /* the invariants, O(n) */

#endif
