/* The changes themselves: one put or delete inside the request in hand. */
#include "storage/mvcc/mvcc_private.h"

#include "core/err.h"
#include "core/invariant.h"

struct mvcc_view mvcc_write_view(const struct mvcc *mvcc)
{
    return (struct mvcc_view){
        .lsm = mvcc->reader,
        .at = mvcc_version_at(mvcc->revision + (mvcc->sub != 0)),
        .revision = mvcc_write_revision(mvcc),
        .compacted = mvcc->compacted,
    };
}

int64_t mvcc_write_revision(const struct mvcc *mvcc)
{
    return mvcc->revision + (mvcc->sub != 0);
}

int64_t mvcc_write_end(struct mvcc *mvcc)
{
    mvcc->revision = mvcc_write_revision(mvcc);
    mvcc->sub = 0;
    return mvcc->revision;
}

/* ---- the previous version -----------------------------------------------------------------------
 */

struct before {
    struct mvcc_kv kv; /* `value` only where it was asked for */
    bool exists;       /* live; else kv is all zero but for the key */
    bool pinned;       /* `row` needs a release */
    uint32_t value_bytes;
    struct mvcc_head *head; /* NULL: not in the cache */
    struct lsm_row row;
};

static void before_from_head(struct before *before, struct mvcc_head *head)
{
    before->head = head;
    before->exists = head->version != 0;
    if (!before->exists)
        return;
    before->value_bytes = head->value_bytes;
    before->kv.create_revision = head->create_revision;
    before->kv.mod_revision = head->mod_revision;
    before->kv.version = head->version;
    before->kv.lease = head->lease;
}

/* Only a key that is not in the memtables asks the tables, whose bloom filters know most new keys;
 * only then it may wait. */
static int before_find_row(struct mvcc *mvcc, struct bytes row_key, struct before *before)
{
    int error = lsm_find_newest_in_memory(mvcc->lsm, row_key, &before->row);
    if (error == ERR_NOT_FOUND) {
        error = lsm_get_now(mvcc->reader, row_key, LSM_VERSION_MAX, &before->row);
        if (error == ERR_WOULD_WAIT)
            error = lsm_get(mvcc->reader, row_key, LSM_VERSION_MAX, &before->row);
        before->pinned = error == 0;
    }
    if (error == ERR_NOT_FOUND)
        return 0;
    if (error != 0)
        return error;
    invariant(before->row.version.main <= (uint64_t)mvcc->revision + (mvcc->sub != 0));
    if (before->row.kind == LSM_TOMBSTONE)
        return 0;
    error = mvcc_row_decode_value(&before->row, &before->kv);
    before->exists = error == 0;
    before->value_bytes = (uint32_t)before->kv.value.size;
    return error;
}

/* The cache answers unless the previous value itself is wanted. */
static int before_find(struct mvcc *mvcc, struct bytes row_key, bool with_value,
                       struct before *before)
{
    struct mvcc_head *head = mvcc_heads_find(mvcc->heads, mvcc_row_user_key(row_key));
    before->kv = (struct mvcc_kv){.key = mvcc_row_user_key(row_key)};
    before->exists = before->pinned = false;
    before->value_bytes = 0;
    before->head = NULL;
    if (head != NULL && (!with_value || head->version == 0)) {
        before_from_head(before, head);
        return 0;
    }
    int error = before_find_row(mvcc, row_key, before);
    invariant(head == NULL || error != 0 || before->kv.mod_revision == head->mod_revision);
    before->head = head;
    return error;
}

static void before_release(struct mvcc *mvcc, struct before *before)
{
    if (before->pinned)
        lsm_row_release(mvcc->reader, &before->row);
    before->pinned = false;
}

static uint64_t before_bytes(const struct before *before)
{
    if (!before->exists)
        return 0;
    return mvcc_ledger_row_bytes(before->kv.key, bytes_make(NULL, before->value_bytes));
}

/* The new version is the newest now. */
static void head_set(struct mvcc *mvcc, struct mvcc_head *known, struct bytes key,
                     const struct mvcc_head *head)
{
    if (known != NULL)
        *known = *head;
    else
        mvcc_heads_add(mvcc->heads, key, head);
}

/* ---- rows ---------------------------------------------------------------------------------------
 */

static struct lsm_version next_version(const struct mvcc *mvcc)
{
    invariant(mvcc->sub < UINT32_MAX);
    return (struct lsm_version){.main = (uint64_t)mvcc->revision + 1, .sub = mvcc->sub};
}

static void insert_history(struct mvcc *mvcc, enum mvcc_change_kind kind, struct bytes key)
{
    uint8_t row_key[MVCC_HISTORY_KEY_BYTES];
    struct lsm_version version = next_version(mvcc);
    uint8_t *value = mvcc_buffer_take(&mvcc->row_buffer, 1 + key.size);
    size_t bytes = mvcc_row_encode_history(value, kind, key);
    lsm_insert(mvcc->lsm, mvcc_row_history_key(row_key, version.main, version.sub), version,
               LSM_VALUE, bytes_make(value, bytes));
}

static void insert_lease(struct mvcc *mvcc, int64_t lease, struct bytes key, bool attached)
{
    uint8_t *row_key = mvcc_buffer_take(&mvcc->row_buffer, MVCC_ROW_PREFIX_BYTES_MAX + key.size);
    lsm_insert(mvcc->lsm, mvcc_row_lease_key(row_key, lease, key), next_version(mvcc),
               attached ? LSM_VALUE : LSM_TOMBSTONE, bytes_make(NULL, 0));
    if (mvcc->options.lease_moved != NULL)
        mvcc->options.lease_moved(mvcc->options.context, lease, key, attached);
}

static void move_lease(struct mvcc *mvcc, int64_t from, int64_t to, struct bytes key)
{
    if (from == to)
        return;
    if (from != 0)
        insert_lease(mvcc, from, key, false);
    if (to != 0)
        insert_lease(mvcc, to, key, true);
}

static void report_change(struct mvcc *mvcc, enum mvcc_change_kind kind, const struct mvcc_kv *kv,
                          int64_t prev_mod_revision)
{
    if (mvcc->options.changed == NULL)
        return;
    struct mvcc_change change = {
        .kind = kind, .sub = mvcc->sub, .kv = *kv, .prev_mod_revision = prev_mod_revision};
    mvcc->options.changed(mvcc->options.context, &change);
}

/* ---- put ----------------------------------------------------------------------------------------
 */

static void insert_put(struct mvcc *mvcc, struct bytes row_key, const struct before *before,
                       const struct mvcc_kv *kv)
{
    struct lsm_version version = next_version(mvcc);
    invariant(kv->mod_revision == (int64_t)version.main);
    uint8_t *value =
        mvcc_buffer_take(&mvcc->value_buffer, MVCC_KEY_VALUE_HEADER_BYTES_MAX + kv->value.size);
    size_t bytes = mvcc_row_encode_value(value, kv);
    lsm_insert(mvcc->lsm, row_key, version, LSM_VALUE, bytes_make(value, bytes));
    head_set(mvcc, before->head, kv->key,
             &(struct mvcc_head){.create_revision = kv->create_revision,
                                 .mod_revision = kv->mod_revision,
                                 .version = kv->version,
                                 .lease = kv->lease,
                                 .value_bytes = (uint32_t)kv->value.size});
    insert_history(mvcc, MVCC_CHANGE_PUT, kv->key);
    move_lease(mvcc, before->kv.lease, kv->lease, kv->key);
    mvcc_ledger_put(&mvcc->ledger, kv->mod_revision, mvcc_ledger_row_bytes(kv->key, kv->value),
                    before_bytes(before));
    report_change(mvcc, MVCC_CHANGE_PUT, kv, before->kv.mod_revision);
    mvcc->ledger_changes++;
    mvcc->sub++;
}

int mvcc_write_put(struct mvcc *mvcc, const struct mvcc_put_request *request, bool must_exist,
                   struct mvcc_reply *reply, struct mvcc_put_result *result)
{
    struct before before;
    invariant(request->key.size != 0 && request->key.size <= MVCC_KEY_BYTES_MAX);
    struct bytes row_key =
        mvcc_row_key(mvcc_buffer_take(&mvcc->key_buffer, 1 + request->key.size), request->key);
    int error = before_find(mvcc, row_key, request->prev_kv || request->ignore_value, &before);
    if (error == 0 && must_exist && !before.exists)
        error = ERR_KEY_NOT_FOUND;
    if (error != 0)
        goto done;
    struct mvcc_kv kv = {
        .key = request->key,
        .value = request->ignore_value ? before.kv.value : request->value,
        .lease = request->ignore_lease ? before.kv.lease : request->lease,
        .mod_revision = mvcc->revision + 1,
        .create_revision = before.exists ? before.kv.create_revision : mvcc->revision + 1,
        .version = before.kv.version + 1,
    };
    result->has_prev_kv = request->prev_kv && before.exists;
    if (result->has_prev_kv)
        mvcc_reply_copy(reply, &before.kv, &result->prev_kv);
    insert_put(mvcc, row_key, &before, &kv);
    result->revision = mvcc_write_revision(mvcc);
done:
    before_release(mvcc, &before);
    return error;
}

/* ---- delete -------------------------------------------------------------------------------------
 */

/* `before` is the live version that goes; its views hold until the next wait. */
static void insert_delete(struct mvcc *mvcc, struct bytes row_key, const struct before *before)
{
    const struct mvcc_kv *kv = &before->kv;
    struct mvcc_kv gone = {.key = kv->key, .mod_revision = mvcc->revision + 1};
    lsm_insert(mvcc->lsm, row_key, next_version(mvcc), LSM_TOMBSTONE, bytes_make(NULL, 0));
    head_set(mvcc, before->head, kv->key, &(struct mvcc_head){0});
    insert_history(mvcc, MVCC_CHANGE_DELETE, kv->key);
    move_lease(mvcc, kv->lease, 0, kv->key);
    mvcc_ledger_delete(&mvcc->ledger, gone.mod_revision,
                       mvcc_ledger_row_bytes(kv->key, bytes_make(NULL, 0)), before_bytes(before));
    report_change(mvcc, MVCC_CHANGE_DELETE, &gone, kv->mod_revision);
    mvcc->ledger_changes++;
    mvcc->sub++;
}

static int delete_one(struct mvcc *mvcc, const struct mvcc_delete_request *request,
                      struct mvcc_reply *reply, struct mvcc_kv_list *prev_kvs, int64_t *deleted)
{
    struct before before;
    struct bytes row_key =
        mvcc_row_key(mvcc_buffer_take(&mvcc->key_buffer, 1 + request->key.size), request->key);
    int error = before_find(mvcc, row_key, request->prev_kv, &before);
    if (error == 0 && before.exists) {
        if (request->prev_kv)
            mvcc_reply_append(reply, prev_kvs, &before.kv);
        insert_delete(mvcc, row_key, &before);
        *deleted = 1;
    }
    before_release(mvcc, &before);
    return error;
}

/* The newest rows of the interval, tombstones included. */
static int open_interval(struct mvcc *mvcc, const struct mvcc_delete_request *request,
                         struct lsm_cursor **cursor)
{
    uint8_t *bounds_at =
        mvcc_buffer_take(&mvcc->key_buffer, mvcc_bounds_bytes(request->key, request->range_end));
    struct mvcc_bounds bounds = mvcc_bounds_make(bounds_at, request->key, request->range_end);
    struct lsm_cursor_options options = {
        .lower = bounds.lower,
        .upper = bounds.upper,
        .version_max = mvcc_version_at(mvcc->revision),
        .newest_only = true,
    };
    if (mvcc->sub != 0)
        options.version_max =
            (struct lsm_version){.main = (uint64_t)mvcc->revision + 1, .sub = mvcc->sub - 1};
    return lsm_cursor_open(mvcc->reader, &options, cursor);
}

/* All keys there are, and the same on every member. */
static bool may_delete_all(const struct mvcc *mvcc, uint64_t more)
{
    const struct mvcc_ledger *ledger = &mvcc->ledger;
    return ledger->key_count * MVCC_DELETE_KEY_BYTES + ledger->size_in_use_bytes * 2 + more <=
           mvcc->options.delete_bytes_max;
}

int mvcc_write_measure_delete(struct mvcc *mvcc, const struct mvcc_delete_request *request,
                              uint64_t *bytes)
{
    struct lsm_cursor *cursor;
    struct lsm_row row;
    invariant(mvcc->sub == 0);
    if (request->range_end.size == 0 || may_delete_all(mvcc, *bytes) ||
        mvcc_interval_is_empty(request->key, request->range_end))
        return 0;
    int found = open_interval(mvcc, request, &cursor);
    if (found != 0)
        return found;
    while ((found = lsm_cursor_next(cursor, &row)) > 0 && *bytes <= mvcc->options.delete_bytes_max)
        if (row.kind != LSM_TOMBSTONE)
            *bytes += MVCC_DELETE_KEY_BYTES + 2 * mvcc_row_user_key(row.key).size;
    lsm_cursor_close(cursor);
    if (found < 0)
        return found;
    return *bytes <= mvcc->options.delete_bytes_max ? 0 : ERR_DELETE_TOO_LARGE;
}

/* Tombstones go in while the cursor stands on what they hide: it does not see them, because it
 * reads at what had been written when it was opened. */
static int delete_interval(struct mvcc *mvcc, const struct mvcc_delete_request *request,
                           struct mvcc_reply *reply, struct mvcc_kv_list *prev_kvs,
                           int64_t *deleted)
{
    struct lsm_cursor *cursor;
    struct lsm_row row;
    int found = open_interval(mvcc, request, &cursor);
    if (found != 0)
        return found;
    while ((found = lsm_cursor_next(cursor, &row)) > 0) {
        struct before before = {.exists = true};
        if (row.kind == LSM_TOMBSTONE)
            continue;
        found = mvcc_row_decode_value(&row, &before.kv);
        if (found != 0)
            break;
        before.kv.key = mvcc_row_user_key(row.key);
        before.value_bytes = (uint32_t)before.kv.value.size;
        before.head = mvcc_heads_find(mvcc->heads, before.kv.key);
        if (request->prev_kv)
            mvcc_reply_append(reply, prev_kvs, &before.kv);
        insert_delete(mvcc, row.key, &before);
        ++*deleted;
    }
    lsm_cursor_close(cursor);
    return found;
}

int mvcc_write_delete(struct mvcc *mvcc, const struct mvcc_delete_request *request,
                      struct mvcc_reply *reply, struct mvcc_delete_result *result)
{
    struct mvcc_kv_list prev_kvs = {0};
    int error = 0;
    invariant(request->key.size != 0);
    result->deleted = 0;
    if (request->range_end.size == 0)
        error = delete_one(mvcc, request, reply, &prev_kvs, &result->deleted);
    else if (!mvcc_interval_is_empty(request->key, request->range_end))
        error = delete_interval(mvcc, request, reply, &prev_kvs, &result->deleted);
    result->prev_kvs = prev_kvs.kvs;
    result->prev_kv_count = prev_kvs.count;
    result->revision = mvcc_write_revision(mvcc);
    return error;
}
