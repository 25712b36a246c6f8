#include "storage/mvcc/txn.h"

#include <errno.h>

#include "core/err.h"
#include "core/invariant.h"

/* ---- compares -----------------------------------------------------------------------------------
 */

static int compare_numbers(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

/* `kv` NULL: the key does not exist; then a VALUE compare fails, the others see zeros. */
static bool compare_holds(const struct mvcc_compare *compare, const struct mvcc_kv *kv)
{
    static const struct mvcc_kv absent = {0};
    int order = 0;
    if (kv == NULL && compare->target == MVCC_COMPARE_VALUE)
        return false;
    if (kv == NULL)
        kv = &absent;
    switch ((enum mvcc_compare_target)compare->target) {
    case MVCC_COMPARE_VERSION:
        order = compare_numbers(kv->version, compare->number);
        break;
    case MVCC_COMPARE_CREATE:
        order = compare_numbers(kv->create_revision, compare->number);
        break;
    case MVCC_COMPARE_MOD:
        order = compare_numbers(kv->mod_revision, compare->number);
        break;
    case MVCC_COMPARE_VALUE:
        order = bytes_compare(kv->value, compare->value);
        break;
    case MVCC_COMPARE_LEASE:
        order = compare_numbers(kv->lease, compare->number);
        break;
    }
    switch ((enum mvcc_compare_result)compare->result) {
    case MVCC_EQUAL:
        return order == 0;
    case MVCC_GREATER:
        return order > 0;
    case MVCC_LESS:
        return order < 0;
    case MVCC_NOT_EQUAL:
        return order != 0;
    }
    return true; /* stock etcd lets an unknown operator pass */
}

static int decide_one(struct mvcc_txn_run *run, const struct mvcc_compare *compare, bool *holds)
{
    uint8_t *row_key = arena_take(run->reply.arena, compare->key.size + 1);
    struct lsm_row row;
    struct mvcc_kv kv;
    if (row_key == NULL)
        return -ENOMEM;
    int found = mvcc_view_get(&run->view, mvcc_row_key(row_key, compare->key), &row, &kv);
    if (found < 0)
        return found;
    *holds = compare_holds(compare, found > 0 ? &kv : NULL);
    if (found > 0)
        lsm_row_release(run->view.lsm, &row);
    return 0;
}

/* Every key of the interval must satisfy it; an empty one stands for a missing key. */
static int decide_interval(struct mvcc_txn_run *run, const struct mvcc_compare *compare,
                           bool *holds)
{
    struct lsm_cursor *cursor;
    struct lsm_row row;
    struct mvcc_kv kv;
    uint64_t keys = 0;
    int found = 0;
    *holds = true;
    if (!mvcc_interval_is_empty(compare->key, compare->range_end)) {
        uint8_t *at =
            arena_take(run->reply.arena, mvcc_bounds_bytes(compare->key, compare->range_end));
        if (at == NULL)
            return -ENOMEM;
        struct mvcc_bounds bounds = mvcc_bounds_make(at, compare->key, compare->range_end);
        struct lsm_cursor_options options = {.lower = bounds.lower,
                                             .upper = bounds.upper,
                                             .version_max = run->view.at,
                                             .newest_only = true};
        found = lsm_cursor_open(run->view.lsm, &options, &cursor);
        if (found != 0)
            return found;
        while (*holds && (found = lsm_cursor_next(cursor, &row)) > 0) {
            if (row.kind == LSM_TOMBSTONE)
                continue;
            found = mvcc_row_decode_value(&row, &kv);
            if (found != 0)
                break;
            keys++;
            *holds = compare_holds(compare, &kv);
        }
        lsm_cursor_close(cursor);
    }
    if (found >= 0 && keys == 0)
        *holds = compare_holds(compare, NULL);
    return found < 0 ? found : 0;
}

static int decide_compares(struct mvcc_txn_run *run, const struct mvcc_txn_request *request,
                           bool *succeeded)
{
    *succeeded = true;
    for (uint32_t i = 0; *succeeded && i < request->compare_count; i++) {
        const struct mvcc_compare *compare = &request->compares[i];
        int error = compare->range_end.size == 0 ? decide_one(run, compare, succeeded)
                                                 : decide_interval(run, compare, succeeded);
        if (error != 0)
            return error;
    }
    return 0;
}

static const struct mvcc_op *chosen_ops(const struct mvcc_txn_request *request,
                                        const struct mvcc_txn_result *result)
{
    const struct mvcc_op *ops = result->succeeded ? request->success : request->failure;
    uint32_t count = result->succeeded ? request->success_count : request->failure_count;
    invariant(result->response_count == count);
    return ops;
}

int mvcc_txn_decide(struct mvcc_txn_run *run, const struct mvcc_txn_request *request,
                    struct mvcc_txn_result *result)
{
    *result = (struct mvcc_txn_result){0};
    int error = decide_compares(run, request, &result->succeeded);
    if (error != 0)
        return error;
    uint32_t count = result->succeeded ? request->success_count : request->failure_count;
    result->response_count = count;
    if (count == 0)
        return 0;
    result->responses = arena_take(run->reply.arena, count * sizeof(*result->responses));
    if (result->responses == NULL)
        return -ENOMEM;
    memset(result->responses, 0, count * sizeof(*result->responses));
    const struct mvcc_op *ops = chosen_ops(request, result);
    for (uint32_t i = 0; i < count; i++) {
        result->responses[i].kind = ops[i].kind;
        if (ops[i].kind != MVCC_OP_TXN)
            continue;
        error = mvcc_txn_decide(run, &ops[i].txn, &result->responses[i].txn);
        if (error != 0)
            return error;
    }
    return 0;
}

/* ---- checks against the state before the txn ----------------------------------------------------
 */

/* Not mvcc_revision_check(): a txn takes a negative revision at its word. */
static int check_range_revision(const struct mvcc_view *view, int64_t revision)
{
    if (revision == 0)
        return 0;
    if (revision > view->revision)
        return ERR_FUTURE_REVISION;
    return revision < view->compacted ? ERR_COMPACTED : 0;
}

static int check_put_state(struct mvcc_txn_run *run, const struct mvcc_put_request *request)
{
    const struct mvcc_options *options = &run->writer->options;
    if (request->lease != 0 &&
        (options->lease_exists == NULL || !options->lease_exists(options->context, request->lease)))
        return ERR_LEASE_NOT_FOUND; /* before the key, as for a put of its own */
    if (request->ignore_value || request->ignore_lease) {
        struct lsm_row row;
        struct mvcc_kv kv;
        uint8_t *row_key = arena_take(run->reply.arena, request->key.size + 1);
        if (row_key == NULL)
            return -ENOMEM;
        int found = mvcc_view_get(&run->view, mvcc_row_key(row_key, request->key), &row, &kv);
        if (found < 0)
            return found;
        if (found == 0)
            return ERR_KEY_NOT_FOUND;
        lsm_row_release(run->view.lsm, &row);
    }
    return 0;
}

int mvcc_txn_check(struct mvcc_txn_run *run, const struct mvcc_txn_request *request,
                   const struct mvcc_txn_result *result)
{
    const struct mvcc_op *ops = chosen_ops(request, result);
    int error = 0;
    for (uint32_t i = 0; error == 0 && i < result->response_count; i++) {
        switch (ops[i].kind) {
        case MVCC_OP_RANGE:
            error = check_range_revision(&run->view, ops[i].range.revision);
            break;
        case MVCC_OP_PUT:
            invariant(run->writer != NULL);
            error = check_put_state(run, &ops[i].put);
            break;
        case MVCC_OP_TXN:
            error = mvcc_txn_check(run, &ops[i].txn, &result->responses[i].txn);
            break;
        case MVCC_OP_DELETE:
            invariant(run->writer != NULL);
            error = mvcc_write_measure_delete(run->writer, &ops[i].del, &run->delete_bytes);
            break;
        case MVCC_OP_NONE:
            break;
        }
    }
    return error;
}

/* ---- execution ----------------------------------------------------------------------------------
 */

static int execute_range(struct mvcc_txn_run *run, const struct mvcc_range_request *request,
                         struct mvcc_range_result *result)
{
    struct mvcc_view view = run->writer != NULL ? mvcc_write_view(run->writer) : run->view;
    if (request->revision > 0) {
        view.at = mvcc_version_at(request->revision);
        if (run->oldest == 0 || request->revision < run->oldest)
            run->oldest = request->revision;
    }
    return mvcc_view_range(&view, request, run->sort_bytes_max, &run->reply, result);
}

int mvcc_txn_execute(struct mvcc_txn_run *run, const struct mvcc_txn_request *request,
                     struct mvcc_txn_result *result)
{
    const struct mvcc_op *ops = chosen_ops(request, result);
    int error = 0;
    for (uint32_t i = 0; error == 0 && i < result->response_count; i++) {
        struct mvcc_op_result *response = &result->responses[i];
        invariant(response->kind == ops[i].kind);
        switch (ops[i].kind) {
        case MVCC_OP_RANGE:
            error = execute_range(run, &ops[i].range, &response->range);
            break;
        case MVCC_OP_PUT:
            invariant(run->writer != NULL);
            error = mvcc_write_put(run->writer, &ops[i].put, false, &run->reply, &response->put);
            break;
        case MVCC_OP_DELETE:
            invariant(run->writer != NULL);
            error = mvcc_write_delete(run->writer, &ops[i].del, &run->reply, &response->del);
            break;
        case MVCC_OP_TXN:
            error = mvcc_txn_execute(run, &ops[i].txn, &response->txn);
            break;
        case MVCC_OP_NONE:
            break;
        }
    }
    return error;
}
