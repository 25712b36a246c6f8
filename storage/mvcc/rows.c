#include "storage/mvcc/rows.h"

#include "core/err.h"
#include "core/invariant.h"

enum {
    ROW_HAS_LEASE = 1,
    ROW_FLAGS_KNOWN = ROW_HAS_LEASE,
};

struct bytes mvcc_row_lease_key(uint8_t *to, int64_t lease, struct bytes key)
{
    to[0] = MVCC_TABLE_LEASES;
    be64_store(to + 1, (uint64_t)lease);
    if (key.size != 0)
        memcpy(to + 9, key.data, key.size);
    return bytes_make(to, 9 + key.size);
}

struct bytes mvcc_row_meta_key(uint8_t *to, struct bytes name)
{
    to[0] = MVCC_TABLE_META;
    if (name.size != 0)
        memcpy(to + 1, name.data, name.size);
    return bytes_make(to, 1 + name.size);
}

struct bytes mvcc_row_history_key(uint8_t to[MVCC_HISTORY_KEY_BYTES], uint64_t main, uint32_t sub)
{
    to[0] = MVCC_TABLE_HISTORY;
    be64_store(to + 1, main);
    be32_store(to + 9, sub);
    return bytes_make(to, MVCC_HISTORY_KEY_BYTES);
}

/* ---- varints: LEB128, at most ten bytes ---------------------------------------------------------
 */

static uint8_t *varint_store(uint8_t *to, uint64_t value)
{
    while (value >= 0x80) {
        *to++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *to++ = (uint8_t)value;
    return to;
}

/* NULL when it runs past `end` or does not fit 64 bits. */
static const uint8_t *varint_load(const uint8_t *from, const uint8_t *end, uint64_t *value)
{
    uint64_t sum = 0;
    for (unsigned shift = 0; shift < 64 && from < end; shift += 7) {
        uint8_t byte = *from++;
        if (shift == 63 && byte > 1)
            return NULL;
        sum |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *value = sum;
            return from;
        }
    }
    return NULL;
}

/* ---- table k ------------------------------------------------------------------------------------
 */

size_t mvcc_row_encode_value(uint8_t *to, const struct mvcc_kv *kv)
{
    invariant(kv->create_revision >= 1 && kv->create_revision <= kv->mod_revision);
    invariant(kv->version >= 1);
    uint8_t *at = to;
    *at++ = kv->lease != 0 ? ROW_HAS_LEASE : 0;
    at = varint_store(at, (uint64_t)(kv->mod_revision - kv->create_revision));
    at = varint_store(at, (uint64_t)kv->version);
    if (kv->lease != 0) {
        le64_store(at, (uint64_t)kv->lease);
        at += 8;
    }
    invariant((size_t)(at - to) <= MVCC_KEY_VALUE_HEADER_BYTES_MAX);
    if (kv->value.size != 0)
        memcpy(at, kv->value.data, kv->value.size);
    return (size_t)(at - to) + kv->value.size;
}

int mvcc_row_decode_value(const struct lsm_row *row, struct mvcc_kv *kv)
{
    const uint8_t *at = row->value.data;
    const uint8_t *end = at + row->value.size;
    uint64_t age, version;
    if (row->kind != LSM_VALUE || row->value.size < 3 || (at[0] & ~ROW_FLAGS_KNOWN) != 0)
        return ERR_CORRUPT;
    bool has_lease = (at[0] & ROW_HAS_LEASE) != 0;
    at = varint_load(at + 1, end, &age);
    if (at == NULL || (at = varint_load(at, end, &version)) == NULL)
        return ERR_CORRUPT;
    if (age >= row->version.main || version == 0 || version > INT64_MAX ||
        row->version.main > INT64_MAX)
        return ERR_CORRUPT;
    kv->lease = 0;
    if (has_lease) {
        if (end - at < 8)
            return ERR_CORRUPT;
        kv->lease = (int64_t)le64_load(at);
        at += 8;
    }
    kv->mod_revision = (int64_t)row->version.main;
    kv->create_revision = (int64_t)(row->version.main - age);
    kv->version = (int64_t)version;
    kv->value = bytes_make(at, (size_t)(end - at));
    return 0;
}

/* ---- tables r and l -----------------------------------------------------------------------------
 */

size_t mvcc_row_encode_history(uint8_t *to, enum mvcc_change_kind kind, struct bytes key)
{
    invariant(key.size != 0);
    to[0] = (uint8_t)kind;
    memcpy(to + 1, key.data, key.size);
    return 1 + key.size;
}

int mvcc_row_decode_history(const struct lsm_row *row, struct mvcc_history_row *history)
{
    if (row->kind != LSM_VALUE || row->key.size != MVCC_HISTORY_KEY_BYTES || row->value.size < 2 ||
        row->value.data[0] > MVCC_CHANGE_DELETE)
        return ERR_CORRUPT;
    uint64_t main = be64_load(row->key.data + 1);
    if (main > INT64_MAX || main != row->version.main)
        return ERR_CORRUPT;
    history->revision = (int64_t)main;
    history->sub = be32_load(row->key.data + 9);
    history->kind = (enum mvcc_change_kind)row->value.data[0];
    history->key = bytes_make(row->value.data + 1, row->value.size - 1);
    return 0;
}

int mvcc_row_decode_lease(const struct lsm_row *row, int64_t *lease, struct bytes *key)
{
    if (row->key.size < 10 || row->key.data[0] != MVCC_TABLE_LEASES)
        return ERR_CORRUPT;
    *lease = (int64_t)be64_load(row->key.data + 1);
    *key = bytes_make(row->key.data + 9, row->key.size - 9);
    return 0;
}

/* ---- intervals ----------------------------------------------------------------------------------
 */

size_t mvcc_bounds_bytes(struct bytes key, struct bytes range_end)
{
    return 2 * key.size + range_end.size + 4;
}

struct mvcc_bounds mvcc_bounds_make(uint8_t *to, struct bytes key, struct bytes range_end)
{
    struct mvcc_bounds bounds = {.lower = mvcc_row_key(to, key)};
    to += bounds.lower.size;
    if (range_end.size == 0) {
        /* The successor of a key is the key with a zero byte behind it. */
        bounds.upper = mvcc_row_key(to, key);
        to[bounds.upper.size] = 0;
        bounds.upper.size++;
    } else if (mvcc_range_end_is_open(range_end)) {
        to[0] = MVCC_TABLE_KEYS + 1;
        bounds.upper = bytes_make(to, 1);
    } else {
        bounds.upper = mvcc_row_key(to, range_end);
    }
    return bounds;
}

bool mvcc_interval_holds(struct bytes key, struct bytes range_end, struct bytes probe)
{
    if (range_end.size == 0)
        return bytes_equal(key, probe);
    if (bytes_compare(probe, key) < 0)
        return false;
    return mvcc_range_end_is_open(range_end) || bytes_compare(probe, range_end) < 0;
}

bool mvcc_interval_is_empty(struct bytes key, struct bytes range_end)
{
    if (range_end.size == 0 || mvcc_range_end_is_open(range_end))
        return false;
    return bytes_compare(range_end, key) <= 0;
}
