#include "tests/unit/mvcc_model.h"

#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"

void model_init(struct model *model)
{
    *model = (struct model){.revision = 1, .compacted = -1};
    arena_init(&model->memory, 0);
}

void model_deinit(struct model *model)
{
    for (uint32_t i = 0; i < model->key_count; i++)
        free(model->keys[i].versions);
    free(model->keys);
    free(model->events);
    arena_deinit(&model->memory);
}

static void *grow(void *array, uint32_t count, uint32_t *capacity, size_t bytes)
{
    if (count < *capacity)
        return array;
    *capacity = *capacity == 0 ? 8 : *capacity * 2;
    array = realloc(array, *capacity * bytes);
    invariant(array != NULL);
    return array;
}

static struct bytes copy(struct arena *arena, struct bytes from)
{
    struct bytes copied = arena_copy(arena, from);
    invariant(copied.size == from.size);
    return copied;
}

/* ---- versions -----------------------------------------------------------------------------------
 */

static uint32_t key_rank(const struct model *model, struct bytes key)
{
    uint32_t low = 0, high = model->key_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (bytes_compare(model->keys[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const struct model_version *version_at(const struct model_key *key, int64_t revision)
{
    for (uint32_t i = key->count; i-- > 0;)
        if (key->versions[i].main <= revision)
            return key->versions[i].deleted ? NULL : &key->versions[i];
    return NULL;
}

const struct model_version *model_at(const struct model *model, struct bytes key, int64_t revision)
{
    uint32_t rank = key_rank(model, key);
    if (rank == model->key_count || !bytes_equal(model->keys[rank].key, key))
        return NULL;
    return version_at(&model->keys[rank], revision);
}

static struct mvcc_kv kv_of(struct bytes key, const struct model_version *version)
{
    return (struct mvcc_kv){.key = key,
                            .value = version->value,
                            .create_revision = version->create_revision,
                            .mod_revision = version->main,
                            .version = version->version,
                            .lease = version->lease};
}

static struct mvcc_kv copy_kv(struct arena *arena, struct mvcc_kv kv)
{
    kv.key = copy(arena, kv.key);
    kv.value = copy(arena, kv.value);
    return kv;
}

static void add_version(struct model *model, struct bytes key, struct model_version version)
{
    uint32_t rank = key_rank(model, key);
    if (rank == model->key_count || !bytes_equal(model->keys[rank].key, key)) {
        model->keys =
            grow(model->keys, model->key_count, &model->key_capacity, sizeof(*model->keys));
        memmove(model->keys + rank + 1, model->keys + rank,
                (model->key_count - rank) * sizeof(*model->keys));
        model->keys[rank] = (struct model_key){.key = copy(&model->memory, key)};
        model->key_count++;
    }
    struct model_key *row = &model->keys[rank];
    row->versions = grow(row->versions, row->count, &row->capacity, sizeof(*row->versions));
    version.main = model->revision + 1;
    version.sub = model->sub++;
    version.value = copy(&model->memory, version.value);
    row->versions[row->count++] = version;
    model->events =
        grow(model->events, model->event_count, &model->event_capacity, sizeof(*model->events));
    model->events[model->event_count++] =
        (struct model_event){.main = version.main,
                             .sub = version.sub,
                             .kind = version.deleted ? MVCC_CHANGE_DELETE : MVCC_CHANGE_PUT,
                             .key = row->key};
}

static int64_t now(const struct model *model)
{
    return model->revision + (model->sub != 0);
}

static int64_t finish(struct model *model)
{
    model->revision = now(model);
    model->sub = 0;
    return model->revision;
}

/* ---- put, delete --------------------------------------------------------------------------------
 */

static bool lease_known(const struct model *model, int64_t lease)
{
    return lease == 0 ||
           (model->lease_exists != NULL && model->lease_exists(model->context, lease));
}

static void do_put(struct model *model, const struct mvcc_put_request *request, struct arena *arena,
                   struct mvcc_put_result *result)
{
    const struct model_version *found = model_at(model, request->key, INT64_MAX);
    struct model_version before = found != NULL ? *found : (struct model_version){0};
    *result = (struct mvcc_put_result){0};
    if (request->prev_kv && found != NULL) {
        result->has_prev_kv = true;
        result->prev_kv = copy_kv(arena, kv_of(request->key, &before));
    }
    add_version(model, request->key,
                (struct model_version){
                    .create_revision = found != NULL ? before.create_revision : model->revision + 1,
                    .version = before.version + 1,
                    .lease = request->ignore_lease ? before.lease : request->lease,
                    .value = request->ignore_value ? before.value : request->value});
    result->revision = now(model);
}

int model_put(struct model *model, const struct mvcc_put_request *request, struct arena *arena,
              struct mvcc_put_result *result)
{
    if (!lease_known(model, request->lease))
        return ERR_LEASE_NOT_FOUND;
    if ((request->ignore_value || request->ignore_lease) &&
        model_at(model, request->key, INT64_MAX) == NULL)
        return ERR_KEY_NOT_FOUND;
    do_put(model, request, arena, result);
    finish(model);
    return 0;
}

static bool in_interval(struct bytes key, struct bytes end, struct bytes probe)
{
    if (end.size == 0)
        return bytes_compare(probe, key) == 0;
    bool open = end.size == 1 && end.data[0] == 0;
    return bytes_compare(probe, key) >= 0 && (open || bytes_compare(probe, end) < 0);
}

static void do_delete(struct model *model, const struct mvcc_delete_request *request,
                      struct arena *arena, struct mvcc_delete_result *result)
{
    *result = (struct mvcc_delete_result){0};
    if (model->key_count != 0)
        result->prev_kvs = arena_take(arena, model->key_count * sizeof(*result->prev_kvs));
    for (uint32_t i = 0; i < model->key_count; i++) {
        struct bytes key = model->keys[i].key;
        const struct model_version *version = version_at(&model->keys[i], INT64_MAX);
        if (version == NULL || !in_interval(request->key, request->range_end, key))
            continue;
        if (request->prev_kv)
            result->prev_kvs[result->prev_kv_count++] = copy_kv(arena, kv_of(key, version));
        result->deleted++;
        add_version(model, key, (struct model_version){.deleted = true});
    }
    result->revision = now(model);
}

int model_delete(struct model *model, const struct mvcc_delete_request *request,
                 struct arena *arena, struct mvcc_delete_result *result)
{
    do_delete(model, request, arena, result);
    finish(model);
    return 0;
}

int model_lease_revoke(struct model *model, int64_t lease, struct arena *arena,
                       struct mvcc_delete_result *result)
{
    *result = (struct mvcc_delete_result){0};
    for (uint32_t i = 0; i < model->key_count; i++) {
        const struct model_version *version = version_at(&model->keys[i], INT64_MAX);
        if (version == NULL || version->lease != lease)
            continue;
        struct mvcc_delete_result one;
        do_delete(model, &(struct mvcc_delete_request){.key = model->keys[i].key}, arena, &one);
        result->deleted += one.deleted;
    }
    result->revision = finish(model);
    return 0;
}

int model_compact(struct model *model, const struct mvcc_compact_request *request,
                  int64_t *revision)
{
    if (request->revision <= model->compacted)
        return ERR_COMPACTED;
    if (request->revision > model->revision)
        return ERR_FUTURE_REVISION;
    model->compacted = request->revision;
    *revision = model->revision;
    return 0;
}

/* ---- range --------------------------------------------------------------------------------------
 */

static int order_of(const struct mvcc_kv *a, const struct mvcc_kv *b, int32_t target)
{
    int64_t left = 0, right = 0;
    if (target == MVCC_SORT_KEY)
        return bytes_compare(a->key, b->key);
    if (target == MVCC_SORT_VALUE)
        return bytes_compare(a->value, b->value);
    if (target == MVCC_SORT_VERSION)
        left = a->version, right = b->version;
    else if (target == MVCC_SORT_CREATE)
        left = a->create_revision, right = b->create_revision;
    else
        left = a->mod_revision, right = b->mod_revision;
    return (left > right) - (left < right);
}

/* Insertion sort: stable, and obviously right. */
static void sort_kvs(struct mvcc_kv *kvs, uint32_t count, int32_t target, bool descending)
{
    for (uint32_t i = 1; i < count; i++) {
        struct mvcc_kv moving = kvs[i];
        uint32_t at = i;
        while (at > 0) {
            int order = order_of(&kvs[at - 1], &moving, target);
            if (descending ? order >= 0 : order <= 0)
                break;
            kvs[at] = kvs[at - 1];
            at--;
        }
        kvs[at] = moving;
    }
}

static bool filtered_out(const struct mvcc_range_request *r, const struct mvcc_kv *kv)
{
    if (r->min_mod_revision != 0 && kv->mod_revision < r->min_mod_revision)
        return true;
    if (r->max_mod_revision != 0 && kv->mod_revision > r->max_mod_revision)
        return true;
    if (r->min_create_revision != 0 && kv->create_revision < r->min_create_revision)
        return true;
    return r->max_create_revision != 0 && kv->create_revision > r->max_create_revision;
}

static void do_range(struct model *model, const struct mvcc_range_request *request,
                     struct arena *arena, struct mvcc_range_result *result)
{
    int64_t revision = request->revision > 0 ? request->revision : INT64_MAX;
    *result = (struct mvcc_range_result){.revision = now(model)};
    if (model->key_count != 0)
        result->kvs = arena_take(arena, model->key_count * sizeof(*result->kvs));
    for (uint32_t i = 0; i < model->key_count; i++) {
        const struct model_version *version = version_at(&model->keys[i], revision);
        if (version == NULL || !in_interval(request->key, request->range_end, model->keys[i].key))
            continue;
        result->count++;
        struct mvcc_kv kv = kv_of(model->keys[i].key, version);
        if (!request->count_only && !filtered_out(request, &kv))
            result->kvs[result->kv_count++] = copy_kv(arena, kv);
    }
    bool filters = request->min_mod_revision != 0 || request->max_mod_revision != 0 ||
                   request->min_create_revision != 0 || request->max_create_revision != 0;
    if (request->sort_order == MVCC_SORT_NONE && !filters && request->limit > 0 &&
        result->kv_count > request->limit + 1)
        result->kv_count = (uint32_t)request->limit + 1; /* etcd fetches no more before it sorts */
    sort_kvs(result->kvs, result->kv_count, request->sort_target,
             request->sort_order == MVCC_SORT_DESCEND);
    if (request->limit > 0 && result->kv_count > request->limit) {
        result->kv_count = (uint32_t)request->limit;
        result->more = true;
    }
    for (uint32_t i = 0; request->keys_only && i < result->kv_count; i++) {
        result->kvs[i].value = bytes_make(NULL, 0);
        if (request->sort_target != MVCC_SORT_VALUE)
            result->kvs[i].lease = 0;
    }
}

int model_range(struct model *model, const struct mvcc_range_request *request, struct arena *arena,
                struct mvcc_range_result *result)
{
    if (request->revision > model->revision)
        return ERR_FUTURE_REVISION;
    if (request->revision > 0 && request->revision < model->compacted)
        return ERR_COMPACTED;
    do_range(model, request, arena, result);
    return 0;
}

/* ---- txn ----------------------------------------------------------------------------------------
 */

static bool one_holds(const struct mvcc_compare *compare, const struct mvcc_kv *kv)
{
    int order = 0;
    if (compare->target == MVCC_COMPARE_VALUE) {
        order = bytes_compare(kv->value, compare->value);
    } else {
        int64_t left = compare->target == MVCC_COMPARE_VERSION  ? kv->version
                       : compare->target == MVCC_COMPARE_CREATE ? kv->create_revision
                       : compare->target == MVCC_COMPARE_MOD    ? kv->mod_revision
                                                                : kv->lease;
        order = (left > compare->number) - (left < compare->number);
    }
    return compare->result == MVCC_EQUAL     ? order == 0
           : compare->result == MVCC_GREATER ? order > 0
           : compare->result == MVCC_LESS    ? order < 0
                                             : order != 0;
}

static bool compare_true(struct model *model, const struct mvcc_compare *compare)
{
    bool any = false;
    for (uint32_t i = 0; i < model->key_count; i++) {
        const struct model_version *version = version_at(&model->keys[i], INT64_MAX);
        if (version == NULL || !in_interval(compare->key, compare->range_end, model->keys[i].key))
            continue;
        any = true;
        struct mvcc_kv kv = kv_of(model->keys[i].key, version);
        if (!one_holds(compare, &kv))
            return false;
    }
    return any ||
           (compare->target != MVCC_COMPARE_VALUE && one_holds(compare, &(struct mvcc_kv){0}));
}

static void decide(struct model *model, const struct mvcc_txn_request *request, struct arena *arena,
                   struct mvcc_txn_result *result)
{
    *result = (struct mvcc_txn_result){.succeeded = true};
    for (uint32_t i = 0; i < request->compare_count; i++)
        result->succeeded = result->succeeded && compare_true(model, &request->compares[i]);
    const struct mvcc_op *ops = result->succeeded ? request->success : request->failure;
    result->response_count = result->succeeded ? request->success_count : request->failure_count;
    if (result->response_count == 0)
        return;
    size_t bytes = result->response_count * sizeof(*result->responses);
    result->responses = arena_take(arena, bytes);
    memset(result->responses, 0, bytes);
    for (uint32_t i = 0; i < result->response_count; i++) {
        result->responses[i].kind = ops[i].kind;
        if (ops[i].kind == MVCC_OP_TXN)
            decide(model, &ops[i].txn, arena, &result->responses[i].txn);
    }
}

static int check(struct model *model, const struct mvcc_txn_request *request,
                 const struct mvcc_txn_result *result)
{
    const struct mvcc_op *ops = result->succeeded ? request->success : request->failure;
    for (uint32_t i = 0; i < result->response_count; i++) {
        const struct mvcc_op *op = &ops[i];
        if (op->kind == MVCC_OP_RANGE && op->range.revision != 0) {
            if (op->range.revision > model->revision)
                return ERR_FUTURE_REVISION;
            if (op->range.revision < model->compacted)
                return ERR_COMPACTED;
        } else if (op->kind == MVCC_OP_PUT) {
            if (!lease_known(model, op->put.lease))
                return ERR_LEASE_NOT_FOUND;
            if ((op->put.ignore_value || op->put.ignore_lease) &&
                model_at(model, op->put.key, INT64_MAX) == NULL)
                return ERR_KEY_NOT_FOUND;
        } else if (op->kind == MVCC_OP_TXN) {
            int error = check(model, &op->txn, &result->responses[i].txn);
            if (error != 0)
                return error;
        }
    }
    return 0;
}

static void run(struct model *model, const struct mvcc_txn_request *request, struct arena *arena,
                struct mvcc_txn_result *result)
{
    const struct mvcc_op *ops = result->succeeded ? request->success : request->failure;
    for (uint32_t i = 0; i < result->response_count; i++) {
        struct mvcc_op_result *response = &result->responses[i];
        if (ops[i].kind == MVCC_OP_RANGE)
            do_range(model, &ops[i].range, arena, &response->range);
        else if (ops[i].kind == MVCC_OP_PUT)
            do_put(model, &ops[i].put, arena, &response->put);
        else if (ops[i].kind == MVCC_OP_DELETE)
            do_delete(model, &ops[i].del, arena, &response->del);
        else
            run(model, &ops[i].txn, arena, &response->txn);
    }
}

int model_txn(struct model *model, const struct mvcc_txn_request *request, struct arena *arena,
              struct mvcc_txn_result *result)
{
    decide(model, request, arena, result);
    int error = check(model, request, result);
    if (error != 0)
        return error;
    run(model, request, arena, result);
    result->revision = finish(model);
    return 0;
}

/* ---- comparing results --------------------------------------------------------------------------
 */

const char *model_differ_kv(const struct mvcc_kv *a, const struct mvcc_kv *b)
{
    if (!bytes_equal(a->key, b->key))
        return "key";
    if (!bytes_equal(a->value, b->value))
        return "value";
    if (a->create_revision != b->create_revision)
        return "create_revision";
    if (a->mod_revision != b->mod_revision)
        return "mod_revision";
    if (a->version != b->version)
        return "version";
    return a->lease != b->lease ? "lease" : NULL;
}

static const char *differ_kvs(const struct mvcc_kv *a, const struct mvcc_kv *b, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const char *what = model_differ_kv(&a[i], &b[i]);
        if (what != NULL)
            return what;
    }
    return NULL;
}

const char *model_differ_range(const struct mvcc_range_result *a, const struct mvcc_range_result *b)
{
    if (a->revision != b->revision)
        return "range: header revision";
    if (a->count != b->count)
        return "range: count";
    if (a->kv_count != b->kv_count)
        return "range: number of kvs";
    if (a->more != b->more)
        return "range: more";
    return differ_kvs(a->kvs, b->kvs, a->kv_count);
}

const char *model_differ_put(const struct mvcc_put_result *a, const struct mvcc_put_result *b)
{
    if (a->revision != b->revision)
        return "put: header revision";
    if (a->has_prev_kv != b->has_prev_kv)
        return "put: presence of prev_kv";
    return a->has_prev_kv ? model_differ_kv(&a->prev_kv, &b->prev_kv) : NULL;
}

const char *model_differ_delete(const struct mvcc_delete_result *a,
                                const struct mvcc_delete_result *b)
{
    if (a->revision != b->revision)
        return "delete: header revision";
    if (a->deleted != b->deleted)
        return "delete: deleted";
    if (a->prev_kv_count != b->prev_kv_count)
        return "delete: number of prev_kvs";
    return differ_kvs(a->prev_kvs, b->prev_kvs, a->prev_kv_count);
}

const char *model_differ_txn(const struct mvcc_txn_result *a, const struct mvcc_txn_result *b,
                             bool nested)
{
    if (!nested && a->revision != b->revision)
        return "txn: header revision";
    if (a->succeeded != b->succeeded)
        return "txn: succeeded";
    if (a->response_count != b->response_count)
        return "txn: number of responses";
    for (uint32_t i = 0; i < a->response_count; i++) {
        const struct mvcc_op_result *left = &a->responses[i], *right = &b->responses[i];
        const char *what = left->kind != right->kind ? "txn: kind of response" : NULL;
        if (what == NULL && left->kind == MVCC_OP_RANGE)
            what = model_differ_range(&left->range, &right->range);
        else if (what == NULL && left->kind == MVCC_OP_PUT)
            what = model_differ_put(&left->put, &right->put);
        else if (what == NULL && left->kind == MVCC_OP_DELETE)
            what = model_differ_delete(&left->del, &right->del);
        else if (what == NULL && left->kind == MVCC_OP_TXN)
            what = model_differ_txn(&left->txn, &right->txn, true);
        if (what != NULL)
            return what;
    }
    return NULL;
}
