/* Checks of requests that need no state. They run before a request is proposed, so apply may take
 * their outcome for granted. */
#include "storage/mvcc/mvcc.h"

#include "core/err.h"
#include "core/invariant.h"
#include "storage/mvcc/key_sets.h"

int mvcc_check_range(const struct mvcc_range_request *request)
{
    if (request->key.size == 0)
        return ERR_EMPTY_KEY;
    if (request->sort_order < MVCC_SORT_NONE || request->sort_order > MVCC_SORT_DESCEND ||
        request->sort_target < MVCC_SORT_KEY || request->sort_target > MVCC_SORT_VALUE)
        return ERR_INVALID_SORT;
    return 0;
}

int mvcc_check_range_stream(const struct mvcc_range_request *request)
{
    bool ordered = request->sort_order != MVCC_SORT_NONE && request->sort_target != MVCC_SORT_KEY;
    if (ordered || request->sort_order == MVCC_SORT_DESCEND)
        return ERR_STREAM_SORT;
    if (request->min_mod_revision != 0 || request->max_mod_revision != 0 ||
        request->min_create_revision != 0 || request->max_create_revision != 0)
        return ERR_STREAM_FILTER;
    return 0;
}

int mvcc_check_put(const struct mvcc_put_request *request)
{
    if (request->key.size == 0)
        return ERR_EMPTY_KEY;
    if (request->ignore_value && request->value.size != 0)
        return ERR_VALUE_PROVIDED;
    if (request->ignore_lease && request->lease != 0)
        return ERR_LEASE_PROVIDED;
    if (request->key.size > MVCC_KEY_BYTES_MAX || request->value.size > MVCC_VALUE_BYTES_MAX)
        return ERR_REQUEST_TOO_LARGE;
    return 0;
}

int mvcc_check_delete(const struct mvcc_delete_request *request)
{
    return request->key.size == 0 ? ERR_EMPTY_KEY : 0;
}

/* ---- txn: shape ---------------------------------------------------------------------------------
 * The functions below recurse with the nesting of the request, which MVCC_TXN_DEPTH_MAX bounds. */

static int check_txn_shape(const struct mvcc_txn_request *request, uint32_t ops_max,
                           uint32_t depth);

static int check_op(const struct mvcc_op *op, uint32_t ops_left, uint32_t depth)
{
    switch (op->kind) {
    case MVCC_OP_NONE:
        return ERR_KEY_NOT_FOUND; /* what stock etcd answers to an op without a request */
    case MVCC_OP_RANGE:
        return mvcc_check_range(&op->range);
    case MVCC_OP_PUT:
        return mvcc_check_put(&op->put);
    case MVCC_OP_DELETE:
        return mvcc_check_delete(&op->del);
    case MVCC_OP_TXN:
        return check_txn_shape(&op->txn, ops_left, depth + 1);
    }
    return ERR_MALFORMED;
}

static int check_txn_shape(const struct mvcc_txn_request *request, uint32_t ops_max, uint32_t depth)
{
    uint32_t widest = request->compare_count;
    if (widest < request->success_count)
        widest = request->success_count;
    if (widest < request->failure_count)
        widest = request->failure_count;
    if (widest > ops_max || depth > MVCC_TXN_DEPTH_MAX)
        return ERR_TOO_MANY_OPS;
    for (uint32_t i = 0; i < request->compare_count; i++)
        if (request->compares[i].key.size == 0)
            return ERR_EMPTY_KEY;
    for (uint32_t i = 0; i < request->success_count; i++) {
        int error = check_op(&request->success[i], ops_max - widest, depth);
        if (error != 0)
            return error;
    }
    for (uint32_t i = 0; i < request->failure_count; i++) {
        int error = check_op(&request->failure[i], ops_max - widest, depth);
        if (error != 0)
            return error;
    }
    return 0;
}

/* ---- txn: duplicate keys ------------------------------------------------------------------------
 * A branch's sets of put keys and delete intervals, nested branches included. The order in which
 * they are gathered is stock etcd's and visible: a nested delete is seen by later siblings only. */

struct branch_sets {
    struct key_set puts;
    struct interval_set dels;
};

static int check_branch(const struct mvcc_op *ops, uint32_t count, struct arena *scratch,
                        struct branch_sets *sets);

static int check_and_add_put(struct branch_sets *sets, struct bytes key, bool may_repeat)
{
    if (!may_repeat && key_set_holds(&sets->puts, key))
        return ERR_DUPLICATE_KEY;
    if (interval_set_holds(&sets->dels, key))
        return ERR_DUPLICATE_KEY;
    return key_set_add(&sets->puts, key);
}

static int check_nested(const struct mvcc_txn_request *request, struct arena *scratch,
                        struct branch_sets *sets)
{
    struct branch_sets *then = arena_take(scratch, 2 * sizeof(*then));
    if (then == NULL)
        return ERR_LIMIT;
    struct branch_sets *otherwise = then + 1;
    int error = check_branch(request->success, request->success_count, scratch, then);
    if (error == 0)
        error = check_branch(request->failure, request->failure_count, scratch, otherwise);
    struct bytes key;
    for (uint32_t i = 0; error == 0 && key_set_at(&then->puts, &i, &key); i++)
        error = check_and_add_put(sets, key, false);
    /* Only one of the two branches runs: both may put the same key. */
    for (uint32_t i = 0; error == 0 && key_set_at(&otherwise->puts, &i, &key); i++)
        error = check_and_add_put(sets, key, key_set_holds(&then->puts, key));
    if (error == 0)
        error = interval_set_add_all(&sets->dels, &then->dels);
    if (error == 0)
        error = interval_set_add_all(&sets->dels, &otherwise->dels);
    return error;
}

static int check_branch(const struct mvcc_op *ops, uint32_t count, struct arena *scratch,
                        struct branch_sets *sets)
{
    int error = 0;
    key_set_init(&sets->puts, scratch);
    interval_set_init(&sets->dels, scratch);
    for (uint32_t i = 0; error == 0 && i < count; i++)
        if (ops[i].kind == MVCC_OP_DELETE)
            error = interval_set_add(&sets->dels, ops[i].del.key, ops[i].del.range_end);
    for (uint32_t i = 0; error == 0 && i < count; i++)
        if (ops[i].kind == MVCC_OP_TXN)
            error = check_nested(&ops[i].txn, scratch, sets);
    for (uint32_t i = 0; error == 0 && i < count; i++)
        if (ops[i].kind == MVCC_OP_PUT)
            error = check_and_add_put(sets, ops[i].put.key, false);
    return error;
}

int mvcc_check_txn(const struct mvcc_txn_request *request, uint32_t ops_max, struct arena *scratch)
{
    int error = check_txn_shape(request, ops_max, 0);
    if (error != 0)
        return error;
    struct branch_sets sets;
    error = check_branch(request->success, request->success_count, scratch, &sets);
    if (error == 0)
        error = check_branch(request->failure, request->failure_count, scratch, &sets);
    return error;
}

/* ---- what kind of txn is it -------------------------------------------------------------------
 */

static bool all_ranges(const struct mvcc_op *ops, uint32_t count, bool serializable)
{
    for (uint32_t i = 0; i < count; i++)
        if (ops[i].kind != MVCC_OP_RANGE || (serializable && !ops[i].range.serializable))
            return false;
    return true;
}

bool mvcc_txn_is_read_only(const struct mvcc_txn_request *request)
{
    return all_ranges(request->success, request->success_count, false) &&
           all_ranges(request->failure, request->failure_count, false);
}

bool mvcc_txn_is_serializable(const struct mvcc_txn_request *request)
{
    return all_ranges(request->success, request->success_count, true) &&
           all_ranges(request->failure, request->failure_count, true);
}
