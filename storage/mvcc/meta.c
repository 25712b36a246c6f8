/* Small replicated facts of other modules, and what is attached to leases. */
#include "storage/mvcc/mvcc_private.h"

#include "core/err.h"
#include "core/invariant.h"

/* ---- facts --------------------------------------------------------------------------------------
 */

/* Versions continue from the last commit: one number past it for the whole batch is above all that
 * was committed and at most the index that this batch will commit. */
void mvcc_meta_write(struct mvcc *mvcc, struct bytes name, enum lsm_kind kind, struct bytes value)
{
    struct lsm_version version = {.main = mvcc->applied_index + 1, .sub = mvcc->meta_sub++};
    uint8_t *row_key = mvcc_buffer_take(&mvcc->key_buffer, 1 + name.size);
    invariant(name.size != 0 && name.size < LSM_KEY_BYTES_MAX && mvcc->meta_sub != 0);
    lsm_insert(mvcc->lsm, mvcc_row_meta_key(row_key, name), version, kind, value);
}

int mvcc_meta_put(struct mvcc *mvcc, struct bytes name, struct bytes value)
{
    if (name.size == 0 || name.data[0] == '.' || name.size >= MVCC_KEY_BYTES_MAX ||
        value.size > MVCC_VALUE_BYTES_MAX)
        return ERR_LIMIT;
    mvcc_meta_write(mvcc, name, LSM_VALUE, value);
    return 0;
}

int mvcc_meta_delete(struct mvcc *mvcc, struct bytes name)
{
    if (name.size == 0 || name.data[0] == '.' || name.size >= MVCC_KEY_BYTES_MAX)
        return ERR_LIMIT;
    mvcc_meta_write(mvcc, name, LSM_TOMBSTONE, bytes_make(NULL, 0));
    return 0;
}

int mvcc_meta_get(struct mvcc *mvcc, struct bytes name, struct arena *arena, struct bytes *value)
{
    struct lsm_row row;
    uint8_t *row_key = arena_take(arena, 1 + name.size);
    if (row_key == NULL)
        return ERR_LIMIT;
    int error = lsm_get(mvcc->reader, mvcc_row_meta_key(row_key, name), LSM_VERSION_MAX, &row);
    if (error != 0)
        return error;
    if (row.kind == LSM_TOMBSTONE) {
        error = ERR_NOT_FOUND;
    } else {
        *value = arena_copy(arena, row.value);
        error = value->size == row.value.size ? 0 : ERR_LIMIT;
    }
    lsm_row_release(mvcc->reader, &row);
    return error;
}

/* ---- walks over a prefix ------------------------------------------------------------------------
 */

struct walk {
    int (*row)(struct walk *walk, const struct lsm_row *row);
    void *context;
    union {
        int (*meta)(void *context, struct bytes name, struct bytes value);
        int (*key)(void *context, struct bytes key);
        int (*attachment)(void *context, int64_t lease, struct bytes key);
    } each;
};

/* Calls walk->row for every live row whose key begins with `prefix`. */
static int walk_prefix(struct mvcc *mvcc, struct bytes prefix, struct walk *walk)
{
    struct lsm_cursor *cursor;
    struct lsm_row row;
    struct lsm_cursor_options options = {
        .lower = prefix, .version_max = LSM_VERSION_MAX, .newest_only = true};
    uint32_t step = 0;
    int found = lsm_cursor_open(mvcc->reader, &options, &cursor);
    if (found != 0)
        return found;
    while ((found = lsm_cursor_next(cursor, &row)) > 0) {
        if (row.key.size < prefix.size || memcmp(row.key.data, prefix.data, prefix.size) != 0) {
            found = 0;
            break;
        }
        if (row.kind == LSM_VALUE && (found = walk->row(walk, &row)) != 0)
            break;
        mvcc_breathe(&step);
    }
    lsm_cursor_close(cursor);
    return found;
}

static int walk_meta(struct walk *walk, const struct lsm_row *row)
{
    return walk->each.meta(walk->context, bytes_make(row->key.data + 1, row->key.size - 1),
                           row->value);
}

int mvcc_meta_scan(struct mvcc *mvcc, struct bytes prefix,
                   int (*each)(void *context, struct bytes name, struct bytes value), void *context)
{
    uint8_t row_prefix[MVCC_META_PREFIX_BYTES_MAX + 1];
    struct walk walk = {.row = walk_meta, .context = context, .each.meta = each};
    if (prefix.size > MVCC_META_PREFIX_BYTES_MAX)
        return ERR_LIMIT;
    return walk_prefix(mvcc, mvcc_row_meta_key(row_prefix, prefix), &walk);
}

static int walk_lease_key(struct walk *walk, const struct lsm_row *row)
{
    int64_t lease;
    struct bytes key;
    int error = mvcc_row_decode_lease(row, &lease, &key);
    return error != 0 ? error : walk->each.key(walk->context, key);
}

int mvcc_lease_keys(struct mvcc *mvcc, int64_t lease, int (*each)(void *context, struct bytes key),
                    void *context)
{
    uint8_t prefix[MVCC_ROW_PREFIX_BYTES_MAX];
    struct walk walk = {.row = walk_lease_key, .context = context, .each.key = each};
    return walk_prefix(mvcc, mvcc_row_lease_key(prefix, lease, bytes_make(NULL, 0)), &walk);
}

static int walk_attachment(struct walk *walk, const struct lsm_row *row)
{
    int64_t lease;
    struct bytes key;
    int error = mvcc_row_decode_lease(row, &lease, &key);
    return error != 0 ? error : walk->each.attachment(walk->context, lease, key);
}

int mvcc_lease_scan(struct mvcc *mvcc, int (*each)(void *context, int64_t lease, struct bytes key),
                    void *context)
{
    static const uint8_t prefix[1] = {MVCC_TABLE_LEASES};
    struct walk walk = {.row = walk_attachment, .context = context, .each.attachment = each};
    return walk_prefix(mvcc, bytes_make(prefix, 1), &walk);
}
