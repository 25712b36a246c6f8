/*
 * rows.h - how the MVCC tables lie in LSM rows: keys, values, bounds. Pure.
 *
 * Owner     Nobody: no state.
 * Threads   Any.
 * Units     Sizes in bytes.
 * Errors    ERR_CORRUPT for bytes that no encoder of this file produced.
 * Limits    A row key is at most MVCC_ROW_PREFIX_BYTES_MAX longer than the user key in it.
 * Source    docs/formats/mvcc-rows.md
 */
#ifndef STORAGE_MVCC_ROWS_H
#define STORAGE_MVCC_ROWS_H

#include "core/base.h"
#include "storage/lsm/lsm.h"
#include "storage/mvcc/mvcc.h"

/* First byte of every row key. */
enum mvcc_table {
    MVCC_TABLE_KEYS = 'k',    /* k + user key, version = revision: what a read finds */
    MVCC_TABLE_LEASES = 'l',  /* l + lease (big-endian) + user key: attachments */
    MVCC_TABLE_META = 'm',    /* m + name, version = applied index before it + 1: facts */
    MVCC_TABLE_HISTORY = 'r', /* r + main + sub (big-endian): what changed, in order */
};

#define MVCC_ROW_PREFIX_BYTES_MAX 9  /* l + lease */
#define MVCC_HISTORY_KEY_BYTES    13 /* r + main + sub */
/* flags, create delta, version, lease */
#define MVCC_KEY_VALUE_HEADER_BYTES_MAX (1 + 10 + 10 + 8)
_Static_assert(MVCC_KEY_BYTES_MAX + MVCC_ROW_PREFIX_BYTES_MAX <= LSM_KEY_BYTES_MAX,
               "every user key fits a row key");

/* Row key of a user key into `to` (1 + key.size bytes). */
static inline struct bytes mvcc_row_key(uint8_t *to, struct bytes key)
{
    to[0] = MVCC_TABLE_KEYS;
    if (key.size != 0)
        memcpy(to + 1, key.data, key.size);
    return bytes_make(to, key.size + 1);
}

/* The user key inside a row key of table `k`. */
static inline struct bytes mvcc_row_user_key(struct bytes row_key)
{
    return bytes_make(row_key.data + 1, row_key.size - 1);
}

struct bytes mvcc_row_lease_key(uint8_t *to, int64_t lease, struct bytes key); /* 9 + key.size */
struct bytes mvcc_row_meta_key(uint8_t *to, struct bytes name);                /* 1 + name.size */
struct bytes mvcc_row_history_key(uint8_t to[MVCC_HISTORY_KEY_BYTES], uint64_t main, uint32_t sub);

static inline struct lsm_version mvcc_version_at(int64_t revision)
{
    return (struct lsm_version){.main = (uint64_t)revision, .sub = UINT32_MAX};
}

/* Table `k`, kind VALUE. encode: into `to` (MVCC_KEY_VALUE_HEADER_BYTES_MAX + value.size bytes),
 * returns the size. The mod revision is the row's version and not stored again. */
size_t mvcc_row_encode_value(uint8_t *to, const struct mvcc_kv *kv);
/* kv->key stays the caller's; kv->value points into the row. */
must_check int mvcc_row_decode_value(const struct lsm_row *row, struct mvcc_kv *kv);

/* Table `r`. */
struct mvcc_history_row {
    int64_t revision;
    uint32_t sub;
    enum mvcc_change_kind kind;
    struct bytes key;
};
size_t mvcc_row_encode_history(uint8_t *to, enum mvcc_change_kind kind, struct bytes key);
must_check int mvcc_row_decode_history(const struct lsm_row *row, struct mvcc_history_row *history);

/* Table `l`. */
must_check int mvcc_row_decode_lease(const struct lsm_row *row, int64_t *lease, struct bytes *key);

/* Row-key bounds of an etcd interval; `lower` and `upper` need 2 + their key's size bytes. */
struct mvcc_bounds {
    struct bytes lower, upper;
};
size_t mvcc_bounds_bytes(struct bytes key, struct bytes range_end);
struct mvcc_bounds mvcc_bounds_make(uint8_t *to, struct bytes key, struct bytes range_end);

/* Does range_end mean "everything from key on"? */
static inline bool mvcc_range_end_is_open(struct bytes range_end)
{
    return range_end.size == 1 && range_end.data[0] == 0;
}

#endif
