#include "storage/mvcc/range.h"

#include <errno.h>

#include "core/err.h"
#include "core/invariant.h"

#define RANGE_KEEP_BYTES_MAX ((size_t)32 * 1024)
#define RANGE_OPEN_TRIES_MAX 8

/* ---- what a request asks for --------------------------------------------------------------------
 */

static bool has_filters(const struct mvcc_range_request *request)
{
    return request->min_mod_revision != 0 || request->max_mod_revision != 0 ||
           request->min_create_revision != 0 || request->max_create_revision != 0;
}

static bool passes_filters(const struct mvcc_range_request *request, const struct mvcc_kv *kv)
{
    return !(
        (request->min_mod_revision != 0 && kv->mod_revision < request->min_mod_revision) ||
        (request->max_mod_revision != 0 && kv->mod_revision > request->max_mod_revision) ||
        (request->min_create_revision != 0 && kv->create_revision < request->min_create_revision) ||
        (request->max_create_revision != 0 && kv->create_revision > request->max_create_revision));
}

static uint64_t limit_of(const struct mvcc_range_request *request)
{
    return request->limit > 0 ? (uint64_t)request->limit : 0;
}

/* keys_only drops the value, and the lease too: stock etcd answers it from an index that knows
 * neither, except when it had to read values to sort by them. */
static void strip(const struct mvcc_range_request *request, struct mvcc_kv *kv)
{
    if (!request->keys_only)
        return;
    kv->value = bytes_make(NULL, 0);
    if (request->sort_target != MVCC_SORT_VALUE)
        kv->lease = 0;
}

/* ---- begin and end ------------------------------------------------------------------------------
 */

static enum range_source choose_source(const struct mvcc_range_request *request)
{
    if (mvcc_interval_is_empty(request->key, request->range_end))
        return RANGE_EMPTY;
    if (request->range_end.size == 0)
        return RANGE_POINT;
    if (request->sort_target != MVCC_SORT_KEY && !request->count_only)
        return RANGE_SORTED;
    return RANGE_WALK;
}

int mvcc_scan_begin(struct mvcc_range_scan *scan, const struct mvcc_view *view,
                    const struct mvcc_range_request *request, size_t sort_bytes_max,
                    struct arena *arena)
{
    *scan = (struct mvcc_range_scan){.request = request,
                                     .view = *view,
                                     .arena = arena,
                                     .source = choose_source(request),
                                     .filtered = has_filters(request)};
    invariant(request->key.size != 0);
    uint8_t *at = arena_take(arena, mvcc_bounds_bytes(request->key, request->range_end));
    if (at == NULL)
        return ERR_LIMIT;
    scan->reverse = scan->source == RANGE_WALK && request->sort_order == MVCC_SORT_DESCEND;
    int error = 0;
    switch (scan->source) {
    case RANGE_EMPTY:
        break;
    case RANGE_POINT:
        scan->row_key = mvcc_row_key(at, request->key);
        error = mvcc_view_get(view, scan->row_key, &scan->row, &scan->point);
        if (error < 0)
            return error;
        scan->point_live = error > 0;
        error = 0;
        break;
    case RANGE_SORTED:
        mvcc_sorter_init(&scan->sorter, (enum mvcc_sort_target)request->sort_target,
                         request->sort_order == MVCC_SORT_DESCEND, limit_of(request),
                         sort_bytes_max);
        /* fall through */
    case RANGE_WALK:
        scan->bounds = mvcc_bounds_make(at, request->key, request->range_end);
        error = lsm_cursor_open(view->lsm,
                                &(struct lsm_cursor_options){.lower = scan->bounds.lower,
                                                             .upper = scan->bounds.upper,
                                                             .version_max = view->at,
                                                             .newest_only = true},
                                &scan->cursor);
        break;
    }
    if (error != 0)
        mvcc_scan_end(scan);
    return error;
}

void mvcc_scan_end(struct mvcc_range_scan *scan)
{
    if (scan->point_live)
        lsm_row_release(scan->view.lsm, &scan->row);
    if (scan->cursor != NULL)
        lsm_cursor_close(scan->cursor);
    if (scan->source == RANGE_SORTED)
        mvcc_sorter_deinit(&scan->sorter);
    scan->point_live = false;
    scan->cursor = NULL;
    scan->source = RANGE_EMPTY;
}

/* ---- walking ------------------------------------------------------------------------------------
 */

/* The next live version, 1; or 0 at the end. `decode` false: only counting, *kv stays unset. */
static int scan_step(struct mvcc_range_scan *scan, bool decode, struct mvcc_kv *kv)
{
    struct lsm_row row;
    int found;
    do {
        found = scan->reverse ? lsm_cursor_prev(scan->cursor, &row)
                              : lsm_cursor_next(scan->cursor, &row);
    } while (found > 0 && row.kind == LSM_TOMBSTONE);
    if (found <= 0 || !decode)
        return found;
    int error = mvcc_row_decode_value(&row, kv);
    if (error != 0)
        return error;
    kv->key = mvcc_row_user_key(row.key);
    return 1;
}

struct measure {
    void (*each)(void *context, const struct mvcc_kv *kv);
    void *context;
};

static void keep(struct mvcc_range_scan *scan, const struct mvcc_kv *kv)
{
    scan->kept_bytes += kv->key.size + kv->value.size + sizeof(*kv);
    if (scan->kept_bytes > RANGE_KEEP_BYTES_MAX)
        scan->keeping = false;
    if (!scan->keeping)
        return;
    struct mvcc_reply reply = {.arena = scan->arena};
    mvcc_reply_append(&reply, &scan->kept, kv);
    scan->keeping = !reply.lost;
}

static void report(struct mvcc_range_scan *scan, const struct measure *measure, struct mvcc_kv *kv)
{
    strip(scan->request, kv);
    if (scan->keeping)
        keep(scan, kv);
    if (measure->each != NULL)
        measure->each(measure->context, kv);
    scan->result.kv_count++;
}

static void measure_point(struct mvcc_range_scan *scan, const struct measure *measure)
{
    if (!scan->point_live)
        return;
    scan->result.count = 1;
    if (scan->request->count_only || !passes_filters(scan->request, &scan->point))
        return;
    strip(scan->request, &scan->point);
    if (measure->each != NULL)
        measure->each(measure->context, &scan->point);
    scan->result.kv_count = 1;
}

/* Counts everything; reports up to the limit what passes the filters. */
static int measure_walk(struct mvcc_range_scan *scan, const struct measure *measure)
{
    const struct mvcc_range_request *request = scan->request;
    struct mvcc_range_result *result = &scan->result;
    uint64_t limit = limit_of(request);
    bool decode = !request->count_only;
    uint32_t step = 0;
    struct mvcc_kv kv;
    int found;
    while ((found = scan_step(scan, decode, &kv)) > 0) {
        result->count++;
        mvcc_breathe(&step);
        if (!decode || (scan->filtered && !passes_filters(request, &kv)))
            continue;
        if (limit != 0 && result->kv_count == limit) {
            result->more = true;
            decode = false; /* from here on only the count matters */
            continue;
        }
        invariant(result->kv_count < UINT32_MAX);
        report(scan, measure, &kv);
    }
    return found;
}

/* A target without an order sorts what a plain read would have fetched: as etcd has it, the first
 * limit + 1 keys in key order. With an order, or a filter, everything is sorted before the limit.
 * */
static uint64_t sorted_keys_max(const struct mvcc_range_scan *scan)
{
    const struct mvcc_range_request *request = scan->request;
    bool all = request->sort_order != MVCC_SORT_NONE || scan->filtered || request->limit <= 0;
    return all ? UINT64_MAX : (uint64_t)request->limit + 1;
}

static int measure_sorted(struct mvcc_range_scan *scan, const struct measure *measure)
{
    uint64_t keys_max = sorted_keys_max(scan);
    const struct mvcc_range_request *request = scan->request;
    struct mvcc_range_result *result = &scan->result;
    uint32_t step = 0;
    struct mvcc_kv kv;
    int found;
    while ((found = scan_step(scan, true, &kv)) > 0) {
        result->count++;
        mvcc_breathe(&step);
        if (!passes_filters(request, &kv) || scan->sorter.added == keys_max)
            continue;
        if (request->sort_target != MVCC_SORT_VALUE)
            strip(request, &kv);
        int error = mvcc_sorter_add(&scan->sorter, &kv);
        if (error != 0)
            return error;
    }
    if (found < 0)
        return found;
    mvcc_sorter_finish(&scan->sorter);
    for (uint32_t i = 0; i < scan->sorter.count; i++) {
        strip(request, &scan->sorter.kvs[i]);
        if (measure->each != NULL)
            measure->each(measure->context, &scan->sorter.kvs[i]);
    }
    result->kv_count = scan->sorter.count;
    result->more = scan->sorter.added > scan->sorter.count;
    return 0;
}

int mvcc_range_measure(struct mvcc_range_scan *scan,
                       void (*each)(void *context, const struct mvcc_kv *kv), void *context,
                       struct mvcc_range_result *result)
{
    struct measure measure = {.each = each, .context = context};
    int error = 0;
    invariant(!scan->measured);
    scan->result = (struct mvcc_range_result){.revision = scan->view.revision};
    switch (scan->source) {
    case RANGE_EMPTY:
        break;
    case RANGE_POINT:
        measure_point(scan, &measure);
        break;
    case RANGE_WALK:
        error = measure_walk(scan, &measure);
        break;
    case RANGE_SORTED:
        error = measure_sorted(scan, &measure);
        break;
    }
    scan->measured = true;
    *result = scan->result;
    return error;
}

/* ---- pass 2 -------------------------------------------------------------------------------------
 */

static int next_walked(struct mvcc_range_scan *scan, struct mvcc_kv *kv)
{
    struct lsm_row row;
    int found;
    if (scan->emitted != 0) {
        found = scan_step(scan, true, kv);
    } else {
        /* The cursor stands past its end: the first kv is a seek away, in the same pinned view. */
        found = scan->reverse ? lsm_cursor_seek_before(scan->cursor, scan->bounds.upper, &row)
                              : lsm_cursor_seek(scan->cursor, scan->bounds.lower, &row);
        if (found > 0 && row.kind == LSM_TOMBSTONE) {
            found = scan_step(scan, true, kv);
        } else if (found > 0) {
            found = mvcc_row_decode_value(&row, kv) == 0 ? 1 : ERR_CORRUPT;
            kv->key = mvcc_row_user_key(row.key);
        }
    }
    while (found > 0 && scan->filtered && !passes_filters(scan->request, kv))
        found = scan_step(scan, true, kv);
    if (found > 0)
        strip(scan->request, kv);
    return found == 0 ? ERR_CORRUPT : found; /* pass 1 counted more in the same view */
}

int mvcc_range_next(struct mvcc_range_scan *scan, struct mvcc_kv *kv)
{
    int found = 1;
    invariant(scan->measured);
    if (scan->emitted == scan->result.kv_count)
        return 0;
    if (scan->source == RANGE_POINT)
        *kv = scan->point;
    else if (scan->source == RANGE_SORTED)
        *kv = scan->sorter.kvs[scan->emitted];
    else if (scan->keeping)
        *kv = scan->kept.kvs[scan->emitted];
    else
        found = next_walked(scan, kv);
    scan->emitted++;
    return found;
}

/* ---- whole results ------------------------------------------------------------------------------
 */

struct collect {
    struct mvcc_reply *reply;
    struct mvcc_kv_list list;
};

static void collect_kv(void *context, const struct mvcc_kv *kv)
{
    struct collect *collect = context;
    mvcc_reply_append(collect->reply, &collect->list, kv);
}

int mvcc_view_range(const struct mvcc_view *view, const struct mvcc_range_request *request,
                    size_t sort_bytes_max, struct mvcc_reply *reply,
                    struct mvcc_range_result *result)
{
    struct mvcc_range_scan scan;
    struct collect collect = {.reply = reply};
    int error = mvcc_scan_begin(&scan, view, request, sort_bytes_max, reply->arena);
    if (error == 0) {
        error = mvcc_range_measure(&scan, collect_kv, &collect, result);
        mvcc_scan_end(&scan);
    }
    if (error == ERR_LIMIT) {
        reply->lost = true;
        error = 0;
    }
    result->kvs = collect.list.kvs;
    return error;
}
