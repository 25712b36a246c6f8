/* The writer: recovery, requests, commit. */
#include "storage/mvcc/mvcc.h"

#include <errno.h>
#include <stdlib.h>

#include "core/core.h"
#include "core/err.h"
#include "core/fiber.h"
#include "core/invariant.h"
#include "storage/mvcc/range.h"
#include "storage/mvcc/txn.h"

#define COMPACT_FORMAT      1
#define HEADS_BYTES_DEFAULT ((size_t)(1024 * 1024))
#define PURGE_POLL_NS       (2 * NS_PER_MS)
#define PURGE_WAIT_NS_MAX   (5 * NS_PER_S)
#define PREFETCH_ROWS_MAX   1024
#define WARM_KEYS_MAX       16
#define WARM_KEY_BYTES_MAX  128
#define PREFETCH_KEY_BYTES  512
#define TXN_SORT_BYTES_MAX  MVCC_SORT_BYTES_DEFAULT

static struct bytes name_of(const char *name)
{
    return bytes_from_text(name);
}

/* ---- purging: how far behind the watermark rows may go ----------------------------------------
 */

static void add_purge_mark(struct mvcc *mvcc, uint64_t index)
{
    const struct mvcc_purge_mark *last = mvcc->purge_marks + mvcc->purge_mark_count - 1;
    invariant(mvcc->purge_mark_count == 0 ||
              (last->index < index && last->compacted < mvcc->compacted)); /* I3 */
    /* A full list lets the newest compaction speak for the one before: purging waits longer. */
    if (mvcc->purge_mark_count == MVCC_PURGE_MARKS_MAX)
        mvcc->purge_mark_count--;
    mvcc->purge_marks[mvcc->purge_mark_count++] =
        (struct mvcc_purge_mark){.index = index, .compacted = mvcc->compacted};
}

void mvcc_tick(struct mvcc *mvcc)
{
    if (mvcc->purge_mark_count == 0)
        return;
    uint64_t flushed = lsm_flushed_index(mvcc->lsm);
    uint32_t reached = 0;
    while (reached < mvcc->purge_mark_count && mvcc->purge_marks[reached].index <= flushed)
        reached++;
    if (reached == 0)
        return;
    int64_t below = mvcc->purge_marks[reached - 1].compacted;
    invariant(below <= mvcc->compacted);
    mvcc->purge_mark_count -= reached;
    memmove(mvcc->purge_marks, mvcc->purge_marks + reached,
            mvcc->purge_mark_count * sizeof(mvcc->purge_marks[0]));
    atomic_store_explicit(&mvcc->options.shared->purge_below, below, memory_order_release);
    lsm_garbage_changed(mvcc->lsm);
}

/* ---- recovery -----------------------------------------------------------------------------------
 */

/* The newest revision is the last history row's, or what the compaction that removed that row had
 * seen, whichever is higher. */
static int recover_revision(struct mvcc *mvcc)
{
    static const uint8_t lower[1] = {MVCC_TABLE_HISTORY}, upper[1] = {MVCC_TABLE_HISTORY + 1};
    struct lsm_cursor *cursor;
    struct lsm_row row;
    struct mvcc_history_row history;
    struct lsm_cursor_options options = {.lower = bytes_make(lower, 1),
                                         .upper = bytes_make(upper, 1),
                                         .version_max = LSM_VERSION_MAX};
    int found = lsm_cursor_open(mvcc->reader, &options, &cursor);
    if (found != 0)
        return found;
    found = lsm_cursor_prev(cursor, &row);
    if (found > 0)
        found = mvcc_row_decode_history(&row, &history) == 0 ? 1 : ERR_CORRUPT;
    if (found > 0 && history.revision > mvcc->revision)
        mvcc->revision = history.revision;
    lsm_cursor_close(cursor);
    return found < 0 ? found : 0;
}

static int recover_compacted(struct mvcc *mvcc, struct arena *arena)
{
    struct bytes value;
    int error = mvcc_meta_get(mvcc, name_of(MVCC_COMPACT_NAME), arena, &value);
    if (error == ERR_NOT_FOUND)
        return 0;
    if (error != 0)
        return error;
    if (value.size != MVCC_COMPACT_ROW_BYTES)
        return ERR_CORRUPT;
    if (le32_load(value.data) != COMPACT_FORMAT)
        return ERR_VERSION;
    mvcc->compacted = (int64_t)le64_load(value.data + 4);
    mvcc->revision = (int64_t)le64_load(value.data + 12);
    return mvcc->compacted <= mvcc->revision ? 0 : ERR_CORRUPT;
}

/* One change that the stored ledger has not seen. */
static int recount_change(struct mvcc *mvcc, const struct mvcc_history_row *change)
{
    struct lsm_row row;
    struct mvcc_kv now = {.key = change->key}, before = {.key = change->key};
    uint8_t *at = mvcc_buffer_take(&mvcc->key_buffer, change->key.size + 1);
    struct bytes row_key = mvcc_row_key(at, change->key);
    struct mvcc_view view = {.lsm = mvcc->reader,
                             .at = {.main = (uint64_t)change->revision, .sub = change->sub}};
    int found = mvcc_view_get(&view, row_key, &row, &now);
    if (found < 0)
        return found;
    if ((found > 0) != (change->kind == MVCC_CHANGE_PUT))
        return ERR_CORRUPT;
    uint64_t now_bytes = mvcc_ledger_row_bytes(now.key, now.value);
    if (found > 0)
        lsm_row_release(mvcc->reader, &row);
    view.at = change->sub != 0
                  ? (struct lsm_version){.main = (uint64_t)change->revision, .sub = change->sub - 1}
                  : mvcc_version_at(change->revision - 1);
    found = mvcc_view_get(&view, row_key, &row, &before);
    if (found < 0)
        return found;
    uint64_t before_bytes = 0;
    if (found > 0) {
        before_bytes = mvcc_ledger_row_bytes(before.key, before.value);
        lsm_row_release(mvcc->reader, &row);
    }
    if (change->kind == MVCC_CHANGE_PUT)
        mvcc_ledger_put(&mvcc->ledger, change->revision, now_bytes, before_bytes);
    else if (before_bytes != 0)
        mvcc_ledger_delete(&mvcc->ledger, change->revision, now_bytes, before_bytes);
    else
        return ERR_CORRUPT;
    mvcc->ledger_changes++;
    return 0;
}

static int recover_ledger(struct mvcc *mvcc, struct arena *arena)
{
    struct bytes value;
    int error = mvcc_meta_get(mvcc, name_of(MVCC_LEDGER_NAME), arena, &value);
    if (error == 0)
        error = mvcc_ledger_decode(&mvcc->ledger, value);
    if (error != 0 && error != ERR_NOT_FOUND)
        return error;
    uint8_t lower[MVCC_HISTORY_KEY_BYTES], upper[1] = {MVCC_TABLE_HISTORY + 1};
    struct lsm_cursor *cursor;
    struct lsm_row row;
    struct lsm_cursor_options options = {
        .lower = mvcc_row_history_key(lower, (uint64_t)mvcc->ledger.revision + 1, 0),
        .upper = bytes_make(upper, 1),
        .version_max = LSM_VERSION_MAX};
    int found = lsm_cursor_open(mvcc->reader, &options, &cursor);
    if (found != 0)
        return found;
    while ((found = lsm_cursor_next(cursor, &row)) > 0) {
        struct mvcc_history_row change;
        found = mvcc_row_decode_history(&row, &change);
        if (found == 0)
            found = recount_change(mvcc, &change);
        if (found != 0)
            break;
    }
    lsm_cursor_close(cursor);
    if (found == 0)
        mvcc_ledger_check(&mvcc->ledger);
    return found;
}

static void publish(struct mvcc *mvcc)
{
    mvcc_shared_publish(mvcc->options.shared,
                        &(struct mvcc_stats){.revision = mvcc->revision,
                                             .compacted = mvcc->compacted,
                                             .applied_index = mvcc->applied_index,
                                             .key_count = mvcc->ledger.key_count,
                                             .size_bytes = mvcc->ledger.size_bytes,
                                             .size_in_use_bytes = mvcc->ledger.size_in_use_bytes});
}

int mvcc_reload(struct mvcc *mvcc)
{
    struct arena arena;
    invariant(mvcc->sub == 0 && mvcc->meta_sub == 0);
    mvcc->revision = MVCC_FIRST_REVISION;
    mvcc->compacted = MVCC_NEVER_COMPACTED;
    mvcc->ledger_changes = 0;
    mvcc->compacted_in_batch = false;
    mvcc->purge_mark_count = 0;
    mvcc_ledger_init(&mvcc->ledger);
    mvcc_heads_clear(mvcc->heads);
    lsm_applied(mvcc->lsm, &mvcc->applied_index, &mvcc->applied_term);
    arena_init(&arena, 0);
    int error = recover_compacted(mvcc, &arena);
    if (error == 0)
        error = recover_revision(mvcc);
    if (error == 0)
        error = recover_ledger(mvcc, &arena);
    arena_deinit(&arena);
    if (error != 0)
        return error;
    publish(mvcc);
    if (mvcc->compacted != MVCC_NEVER_COMPACTED)
        add_purge_mark(mvcc, mvcc->applied_index);
    mvcc_tick(mvcc);
    return 0;
}

int mvcc_open(const struct mvcc_options *options, struct mvcc **mvcc)
{
    struct mvcc *opened = calloc(1, sizeof(*opened));
    if (opened == NULL)
        return -ENOMEM;
    opened->options = *options;
    if (opened->options.delete_bytes_max == 0)
        opened->options.delete_bytes_max = MVCC_DELETE_BYTES_MAX;
    opened->lsm = options->lsm;
    opened->reader = options->lsm_reader;
    opened->heads =
        mvcc_heads_create(options->heads_bytes != 0 ? options->heads_bytes : HEADS_BYTES_DEFAULT,
                          options->random_seed);
    int error = opened->heads != NULL ? mvcc_reload(opened) : -ENOMEM;
    if (error != 0) {
        mvcc_close(opened);
        return error;
    }
    *mvcc = opened;
    return 0;
}

void mvcc_close(struct mvcc *mvcc)
{
    mvcc_heads_destroy(mvcc->heads);
    free(mvcc->key_buffer.data);
    free(mvcc->value_buffer.data);
    free(mvcc->row_buffer.data);
    free(mvcc);
}

int64_t mvcc_revision(const struct mvcc *mvcc)
{
    return mvcc->revision;
}

int64_t mvcc_compacted(const struct mvcc *mvcc)
{
    return mvcc->compacted;
}

uint64_t mvcc_applied_index(const struct mvcc *mvcc)
{
    return mvcc->applied_index;
}

uint64_t mvcc_applied_term(const struct mvcc *mvcc)
{
    return mvcc->applied_term;
}

/* ---- requests -----------------------------------------------------------------------------------
 */

static bool lease_is_known(const struct mvcc *mvcc, int64_t lease)
{
    if (lease == 0)
        return true;
    return mvcc->options.lease_exists != NULL &&
           mvcc->options.lease_exists(mvcc->options.context, lease);
}

int mvcc_apply_put(struct mvcc *mvcc, const struct mvcc_put_request *request, struct arena *arena,
                   struct mvcc_put_result *result)
{
    struct mvcc_reply reply = {.arena = arena};
    invariant(mvcc->sub == 0);
    *result = (struct mvcc_put_result){0};
    /* Stock etcd looks for the lease before the key. */
    if (!lease_is_known(mvcc, request->lease))
        return ERR_LEASE_NOT_FOUND;
    int error = mvcc_write_put(mvcc, request, request->ignore_value || request->ignore_lease,
                               &reply, result);
    if (error != 0)
        return error;
    result->revision = mvcc_write_end(mvcc);
    return reply.lost ? ERR_LIMIT : 0;
}

int mvcc_apply_delete_range(struct mvcc *mvcc, const struct mvcc_delete_request *request,
                            struct arena *arena, struct mvcc_delete_result *result)
{
    struct mvcc_reply reply = {.arena = arena};
    invariant(mvcc->sub == 0);
    *result = (struct mvcc_delete_result){0};
    uint64_t bytes = 0;
    int error = mvcc_write_measure_delete(mvcc, request, &bytes);
    if (error == 0)
        error = mvcc_write_delete(mvcc, request, &reply, result);
    if (error != 0)
        return error;
    result->revision = mvcc_write_end(mvcc);
    return reply.lost ? ERR_LIMIT : 0;
}

int mvcc_apply_txn(struct mvcc *mvcc, const struct mvcc_txn_request *request, struct arena *arena,
                   struct mvcc_txn_result *result)
{
    struct mvcc_txn_run run = {.view = mvcc_write_view(mvcc),
                               .writer = mvcc,
                               .reply = {.arena = arena},
                               .sort_bytes_max = TXN_SORT_BYTES_MAX};
    invariant(mvcc->sub == 0);
    int error = mvcc_txn_decide(&run, request, result);
    if (error == 0)
        error = mvcc_txn_check(&run, request, result);
    if (error == 0)
        error = mvcc_txn_execute(&run, request, result);
    if (error != 0)
        return error;
    result->revision = mvcc_write_end(mvcc);
    return run.reply.lost ? ERR_LIMIT : 0;
}

struct revoke {
    struct arena *arena;
    struct bytes *keys;
    uint32_t count, capacity;
};

static int revoke_collect(void *context, struct bytes key)
{
    struct revoke *revoke = context;
    if (revoke->count == revoke->capacity) {
        uint32_t capacity = revoke->capacity == 0 ? 16 : revoke->capacity * 2;
        struct bytes *grown = arena_take(revoke->arena, capacity * sizeof(*grown));
        if (grown == NULL)
            return -ENOMEM;
        if (revoke->count != 0)
            memcpy(grown, revoke->keys, revoke->count * sizeof(*grown));
        revoke->keys = grown;
        revoke->capacity = capacity;
    }
    struct bytes copy = arena_copy(revoke->arena, key);
    if (copy.size != key.size)
        return -ENOMEM;
    revoke->keys[revoke->count++] = copy;
    return 0;
}

int mvcc_apply_lease_revoke(struct mvcc *mvcc, int64_t lease, struct arena *arena,
                            struct mvcc_delete_result *result)
{
    struct mvcc_reply reply = {.arena = arena};
    struct revoke revoke = {.arena = arena};
    invariant(mvcc->sub == 0 && lease != 0);
    *result = (struct mvcc_delete_result){0};
    int error = mvcc_lease_keys(mvcc, lease, revoke_collect, &revoke);
    for (uint32_t i = 0; error == 0 && i < revoke.count; i++) {
        struct mvcc_delete_request request = {.key = revoke.keys[i]};
        struct mvcc_delete_result one;
        error = mvcc_write_delete(mvcc, &request, &reply, &one);
        invariant(error != 0 || one.deleted == 1);
    }
    if (error != 0)
        return error;
    result->deleted = revoke.count;
    result->revision = mvcc_write_end(mvcc);
    return 0;
}

int mvcc_apply_compact(struct mvcc *mvcc, const struct mvcc_compact_request *request,
                       int64_t *revision)
{
    invariant(mvcc->sub == 0);
    if (request->revision <= mvcc->compacted)
        return ERR_COMPACTED;
    if (request->revision > mvcc->revision)
        return ERR_FUTURE_REVISION;
    mvcc->compacted = request->revision;
    mvcc_ledger_compact(&mvcc->ledger, request->revision);
    mvcc->compacted_in_batch = true;
    *revision = mvcc->revision;
    return 0;
}

/* ---- commit -------------------------------------------------------------------------------------
 */

static void write_compact_row(struct mvcc *mvcc)
{
    uint8_t row[MVCC_COMPACT_ROW_BYTES];
    le32_store(row, COMPACT_FORMAT);
    le64_store(row + 4, (uint64_t)mvcc->compacted);
    le64_store(row + 12, (uint64_t)mvcc->revision);
    mvcc_meta_write(mvcc, name_of(MVCC_COMPACT_NAME), LSM_VALUE, bytes_make(row, sizeof(row)));
}

static void write_ledger_row(struct mvcc *mvcc)
{
    mvcc_ledger_check(&mvcc->ledger);
    uint8_t *row = mvcc_buffer_take(&mvcc->row_buffer, MVCC_LEDGER_ROW_BYTES_MAX);
    size_t bytes = mvcc_ledger_encode(&mvcc->ledger, row);
    mvcc_meta_write(mvcc, name_of(MVCC_LEDGER_NAME), LSM_VALUE, bytes_make(row, bytes));
    mvcc->ledger_changes = 0;
}

int mvcc_commit(struct mvcc *mvcc, uint64_t applied_index, uint64_t term)
{
    invariant(mvcc->sub == 0);
    invariant(applied_index > mvcc->applied_index && term >= mvcc->applied_term);
    if (mvcc->compacted_in_batch) {
        write_compact_row(mvcc);
        add_purge_mark(mvcc, applied_index);
    }
    if (mvcc->compacted_in_batch || mvcc->ledger_changes >= MVCC_LEDGER_CHANGES_MAX)
        write_ledger_row(mvcc);
    lsm_commit(mvcc->lsm, applied_index, term);
    mvcc->applied_index = applied_index;
    mvcc->applied_term = term;
    mvcc->meta_sub = 0;
    mvcc->compacted_in_batch = false;
    publish(mvcc);
    mvcc_tick(mvcc);
    return 0;
}

int mvcc_purge(struct mvcc *mvcc)
{
    uint64_t deadline_ns = core_now_ns(core_current()) + PURGE_WAIT_NS_MAX;
    if (mvcc->purge_mark_count != 0)
        lsm_flush_begin(mvcc->lsm);
    while (mvcc->purge_mark_count != 0) {
        uint64_t now_ns = core_now_ns(core_current());
        if (now_ns >= deadline_ns)
            return ERR_DEADLINE;
        fiber_sleep_until(now_ns + PURGE_POLL_NS);
        mvcc_tick(mvcc);
    }
    return 0;
}

/* ---- prefetch -----------------------------------------------------------------------------------
 * Only warms caches: what cannot be read now is read, or fails, when the request is applied. */

void mvcc_warm(const struct mvcc *mvcc, const struct bytes *keys, uint32_t count)
{
    uint8_t copies[WARM_KEYS_MAX][WARM_KEY_BYTES_MAX];
    struct bytes row_keys[WARM_KEYS_MAX], user_keys[WARM_KEYS_MAX];
    uint32_t filled = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (keys[i].size < WARM_KEY_BYTES_MAX) {
            row_keys[filled] = mvcc_row_key(copies[filled], keys[i]);
            filled++;
        }
        if (filled == WARM_KEYS_MAX || (i + 1 == count && filled != 0)) {
            for (uint32_t k = 0; k < filled; k++)
                user_keys[k] = mvcc_row_user_key(row_keys[k]);
            mvcc_heads_warm(mvcc->heads, user_keys, filled);
            lsm_prefetch(mvcc->lsm, row_keys, filled);
            filled = 0;
        }
    }
    invariant(filled == 0);
}

static void prefetch_key(struct mvcc *mvcc, struct bytes key)
{
    uint8_t small[PREFETCH_KEY_BYTES];
    uint8_t *at = key.size < sizeof(small) ? small : malloc(key.size + 1);
    if (at == NULL)
        return;
    struct bytes row_key = mvcc_row_key(at, key);
    struct lsm_row row;
    int error = lsm_get_now(mvcc->reader, row_key, LSM_VERSION_MAX, &row);
    if (error == ERR_WOULD_WAIT)
        error = lsm_get(mvcc->reader, row_key, LSM_VERSION_MAX, &row);
    if (error == 0)
        lsm_row_release(mvcc->reader, &row);
    if (at != small)
        free(at);
}

static void prefetch_interval(struct mvcc *mvcc, struct bytes key, struct bytes range_end)
{
    struct lsm_cursor *cursor;
    struct lsm_row row;
    if (range_end.size == 0) {
        prefetch_key(mvcc, key);
        return;
    }
    uint8_t *at = malloc(mvcc_bounds_bytes(key, range_end));
    if (at == NULL)
        return;
    struct mvcc_bounds bounds = mvcc_bounds_make(at, key, range_end);
    struct lsm_cursor_options options = {.lower = bounds.lower,
                                         .upper = bounds.upper,
                                         .version_max = LSM_VERSION_MAX,
                                         .newest_only = true};
    if (!mvcc_interval_is_empty(key, range_end) &&
        lsm_cursor_open(mvcc->reader, &options, &cursor) == 0) {
        for (uint32_t rows = 0; rows < PREFETCH_ROWS_MAX; rows++)
            if (lsm_cursor_next(cursor, &row) <= 0)
                break;
        lsm_cursor_close(cursor);
    }
    free(at);
}

void mvcc_prefetch(struct mvcc *mvcc, const struct mvcc_op *op)
{
    switch (op->kind) {
    case MVCC_OP_NONE:
        break;
    case MVCC_OP_RANGE:
        prefetch_interval(mvcc, op->range.key, op->range.range_end);
        break;
    case MVCC_OP_PUT:
        prefetch_key(mvcc, op->put.key);
        break;
    case MVCC_OP_DELETE:
        prefetch_interval(mvcc, op->del.key, op->del.range_end);
        break;
    case MVCC_OP_TXN:
        for (uint32_t i = 0; i < op->txn.compare_count; i++)
            prefetch_interval(mvcc, op->txn.compares[i].key, op->txn.compares[i].range_end);
        for (uint32_t i = 0; i < op->txn.success_count; i++)
            mvcc_prefetch(mvcc, &op->txn.success[i]);
        for (uint32_t i = 0; i < op->txn.failure_count; i++)
            mvcc_prefetch(mvcc, &op->txn.failure[i]);
        break;
    }
}
