/* Random requests and reads, the same for a model and for stores of storage/mvcc, every answer
 * compared. Included by the tests that decide what the stores stand on. */
#include <criterion/criterion.h>

#include "core/err.h"
#include "core/prng.h"
#include "storage/mvcc/ledger.h"
#include "storage/mvcc/range.h"
#include "storage/mvcc/rows.h"
#include "tests/unit/mvcc_model.c"

/* A literal, zero bytes included: as an initialiser, and as a value. */
#define L(text)                                                                                    \
    {                                                                                              \
        (const uint8_t *)(text), sizeof(text) - 1                                                  \
    }
#define T(text) ((struct bytes)L(text))

/* ---- stores -----------------------------------------------------------------------------------
 */

struct store {
    struct lsm *lsm;
    struct mvcc_shared *shared;
    struct mvcc *mvcc;
    struct mvcc_reader *reader;
    uint64_t index;
};

static bool even_lease_exists(void *context, int64_t lease)
{
    (void)context;
    return lease % 2 == 0;
}

/* ---- random runs against the model ------------------------------------------------------------
 */

enum { KEY_KINDS = 14, INDEX_MAX = 1 << 16 };
static const struct bytes key_pool[KEY_KINDS] = {
    L("\0"), L("\0\0"), L("a"),     L("a\0"), L("aa"),   L("ab"), L("b"),
    L("ba"), L("c"),    L("c\xff"), L("d"),   L("\x80"), L("z"),  L("\xff\xff"),
};
static const struct bytes value_pool[] = {L(""), L("1"), L("2"), L("twelve chars"), L("\0\xff")};

struct run {
    struct prng prng;
    struct store store; /* purged, flushed, crashed */
    struct store pure;  /* same requests, never purged; optional: mvcc NULL */
    struct model model;
    struct arena arena;
    int64_t revision_at[INDEX_MAX], compacted_at[INDEX_MAX]; /* by applied index */
};

static uint64_t pick(struct run *run, uint64_t bound)
{
    return prng_below(&run->prng, bound);
}

static struct bytes pick_key(struct run *run)
{
    return key_pool[pick(run, KEY_KINDS)];
}

static struct bytes pick_end(struct run *run)
{
    switch (pick(run, 5)) {
    case 0:
    case 1:
        return T("");
    case 2:
        return T("\0");
    default:
        return pick_key(run);
    }
}

static int64_t pick_revision(struct run *run)
{
    if (pick(run, 2) == 0)
        return 0;
    return (int64_t)pick(run, (uint64_t)run->model.revision + 3) - (pick(run, 20) == 0);
}

static struct mvcc_range_request pick_range(struct run *run)
{
    struct mvcc_range_request range = {
        .key = pick_key(run), .range_end = pick_end(run), .revision = pick_revision(run)};
    if (pick(run, 2) == 0)
        range.limit = (int64_t)pick(run, 6) - 1;
    if (pick(run, 3) == 0) {
        range.sort_order = (int32_t)pick(run, 3);
        range.sort_target = (int32_t)pick(run, 5);
    }
    int64_t near = (int64_t)pick(run, (uint64_t)run->model.revision + 2);
    if (pick(run, 4) == 0) {
        int64_t *filters[] = {&range.min_mod_revision, &range.max_mod_revision,
                              &range.min_create_revision, &range.max_create_revision};
        *filters[pick(run, 4)] = near;
    }
    range.keys_only = pick(run, 5) == 0;
    range.count_only = pick(run, 8) == 0;
    return range;
}

static struct mvcc_put_request pick_put(struct run *run)
{
    struct mvcc_put_request put = {.key = pick_key(run), .prev_kv = pick(run, 2) == 0};
    put.ignore_value = pick(run, 8) == 0;
    put.ignore_lease = pick(run, 8) == 0;
    if (!put.ignore_value)
        put.value = value_pool[pick(run, ARRAY_COUNT(value_pool))];
    if (!put.ignore_lease && pick(run, 3) == 0)
        put.lease = (int64_t)pick(run, 8) * (pick(run, 10) == 0 ? 1 : 2);
    return put;
}

static struct mvcc_compare pick_compare(struct run *run)
{
    struct mvcc_compare compare = {
        .key = pick_key(run), .result = (int32_t)pick(run, 4), .target = (int32_t)pick(run, 5)};
    if (pick(run, 4) == 0)
        compare.range_end = pick_end(run);
    compare.number = pick(run, 2) == 0 ? (int64_t)pick(run, 3)
                                       : (int64_t)pick(run, (uint64_t)run->model.revision + 2);
    compare.value = value_pool[pick(run, ARRAY_COUNT(value_pool))];
    return compare;
}

static void pick_txn(struct run *run, uint32_t depth, struct mvcc_txn_request *txn);

static const struct mvcc_op *pick_ops(struct run *run, uint32_t depth, uint32_t *count)
{
    *count = (uint32_t)pick(run, depth == 0 ? 4 : 3);
    struct mvcc_op *ops = arena_take(&run->arena, (*count + 1) * sizeof(*ops));
    for (uint32_t i = 0; i < *count; i++) {
        memset(&ops[i], 0, sizeof(ops[i]));
        switch (pick(run, depth < 3 ? 8 : 6)) {
        case 0:
        case 1:
            ops[i].kind = MVCC_OP_RANGE;
            ops[i].range = pick_range(run);
            if (pick(run, 2) == 0)
                ops[i].range.revision = 0;
            break;
        case 2:
        case 3:
        case 4:
            ops[i].kind = MVCC_OP_PUT;
            ops[i].put = pick_put(run);
            break;
        case 5:
            ops[i].kind = MVCC_OP_DELETE;
            ops[i].del = (struct mvcc_delete_request){
                .key = pick_key(run), .range_end = pick_end(run), .prev_kv = pick(run, 2) == 0};
            break;
        default:
            ops[i].kind = MVCC_OP_TXN;
            pick_txn(run, depth + 1, &ops[i].txn);
        }
    }
    return ops;
}

static void pick_txn(struct run *run, uint32_t depth, struct mvcc_txn_request *txn)
{
    txn->compare_count = (uint32_t)pick(run, 3);
    struct mvcc_compare *compares =
        arena_take(&run->arena, (txn->compare_count + 1) * sizeof(*compares));
    for (uint32_t i = 0; i < txn->compare_count; i++)
        compares[i] = pick_compare(run);
    txn->compares = compares;
    txn->success = pick_ops(run, depth, &txn->success_count);
    txn->failure = pick_ops(run, depth, &txn->failure_count);
}

static void expect_same(struct run *run, const char *what, int got, int want, const char *differ)
{
    cr_assert_eq(got, want, "revision %ld, %s: got %s, want %s", (long)run->model.revision, what,
                 err_name(got), err_name(want));
    if (got == 0)
        cr_assert_null(differ, "revision %ld, %s: %s", (long)run->model.revision, what, differ);
}

static void step_write(struct run *run, struct store *store, bool first, uint64_t dice,
                       const struct mvcc_op *op, int64_t number)
{
    static int want;
    static struct mvcc_op_result model;
    static int64_t model_revision;
    struct mvcc_op_result result;
    int64_t revision = 0;
    int got = 0;
    const char *differ = NULL;
    if (first)
        memset(&model, 0, sizeof(model));
    if (dice < 8) {
        if (first)
            want = model_put(&run->model, &op->put, &run->arena, &model.put);
        got = mvcc_apply_put(store->mvcc, &op->put, &run->arena, &result.put);
        differ = got != 0 ? NULL : model_differ_put(&result.put, &model.put);
    } else if (dice < 10) {
        if (first)
            want = model_delete(&run->model, &op->del, &run->arena, &model.del);
        got = mvcc_apply_delete_range(store->mvcc, &op->del, &run->arena, &result.del);
        differ = got != 0 ? NULL : model_differ_delete(&result.del, &model.del);
    } else if (dice < 16) {
        if (first)
            want = model_txn(&run->model, &op->txn, &run->arena, &model.txn);
        got = mvcc_apply_txn(store->mvcc, &op->txn, &run->arena, &result.txn);
        differ = got != 0 ? NULL : model_differ_txn(&result.txn, &model.txn, false);
    } else if (dice < 17) {
        if (first)
            want = model_lease_revoke(&run->model, number, &run->arena, &model.del);
        got = mvcc_apply_lease_revoke(store->mvcc, number, &run->arena, &result.del);
        differ = model_differ_delete(&result.del, &model.del);
    } else {
        struct mvcc_compact_request compact = {.revision = number};
        if (first)
            want = model_compact(&run->model, &compact, &model_revision);
        got = mvcc_apply_compact(store->mvcc, &compact, &revision);
        differ = got == 0 && revision != model_revision ? "compact: revision" : NULL;
    }
    expect_same(run, "write", got, want, differ);
}

static bool txn_is_valid(struct run *run, const struct mvcc_txn_request *txn)
{
    return mvcc_check_txn(txn, 128, &run->arena) == 0;
}

/* One request, the same for the model and both stores. */
static void run_write(struct run *run)
{
    uint64_t dice = pick(run, 18);
    struct mvcc_op op = {0};
    int64_t number = 0;
    if (dice < 8) {
        op.put = pick_put(run);
    } else if (dice < 10) {
        op.del = (struct mvcc_delete_request){
            .key = pick_key(run), .range_end = pick_end(run), .prev_kv = pick(run, 2) == 0};
    } else if (dice < 16) {
        pick_txn(run, 0, &op.txn);
        if (!txn_is_valid(run, &op.txn))
            return;
        op.kind = MVCC_OP_TXN;
        mvcc_prefetch(run->store.mvcc, &op);
        mvcc_warm(run->store.mvcc, key_pool, (uint32_t)pick(run, KEY_KINDS + 1));
    } else if (dice < 17) {
        number = 2 * (1 + (int64_t)pick(run, 7));
    } else if (pick(run, 8) == 0) {
        number = run->model.revision - (int64_t)pick(run, 6);
    } else {
        return;
    }
    step_write(run, &run->store, true, dice, &op, number);
    if (run->pure.mvcc != NULL)
        step_write(run, &run->pure, false, dice, &op, number);
}

/* ---- reads --------------------------------------------------------------------------------------
 */

struct measured {
    uint64_t count, bytes;
};

static void measure_kv(void *context, const struct mvcc_kv *kv)
{
    struct measured *measured = context;
    measured->count++;
    measured->bytes += kv->key.size + kv->value.size + (uint64_t)kv->version;
}

/* Both passes of a scan, against the model. */
static void check_scan(struct run *run, const struct mvcc_range_request *request)
{
    struct mvcc_range_result want = {0}, got = {0};
    struct mvcc_range_scan *scan;
    struct measured first = {0}, second = {0};
    int wanted = model_range(&run->model, request, &run->arena, &want);
    int error = mvcc_range_open(run->store.reader, request, &run->arena, &scan);
    cr_assert_eq(error, wanted, "range: got %s, want %s", err_name(error), err_name(wanted));
    if (error != 0)
        return;
    cr_assert_eq(mvcc_range_measure(scan, measure_kv, &first, &got), 0);
    if (pick(run, 2) == 0)
        scan->keeping = false; /* as if it were too much to keep: walk again */
    got.kvs = arena_take(&run->arena, (got.kv_count + 1) * sizeof(*got.kvs));
    uint32_t count = 0;
    struct mvcc_kv kv;
    while ((error = mvcc_range_next(scan, &kv)) > 0) {
        measure_kv(&second, &kv);
        got.kvs[count++] = copy_kv(&run->arena, kv);
        cr_assert_leq(count, got.kv_count);
    }
    cr_assert_eq(error, 0, "%s", err_name(error));
    cr_assert_eq(count, got.kv_count);
    cr_assert(first.count == second.count && first.bytes == second.bytes, "both passes agree");
    mvcc_range_close(scan);
    expect_same(run, "scan", 0, 0, model_differ_range(&got, &want));
    struct mvcc_range_result whole;
    cr_assert_eq(mvcc_range(run->store.reader, request, &run->arena, &whole), 0);
    expect_same(run, "range", 0, 0, model_differ_range(&whole, &want));
}

static void check_get(struct run *run)
{
    struct mvcc_range_request request = {.key = pick_key(run), .revision = pick_revision(run)};
    struct mvcc_range_result want = {0};
    struct mvcc_kv kv;
    int64_t header;
    int wanted = model_range(&run->model, &request, &run->arena, &want);
    int got = mvcc_get_now(run->store.reader, request.key, request.revision, &kv, &header);
    if (got == ERR_WOULD_WAIT)
        return;
    cr_assert_eq(got, wanted < 0 ? wanted : (int)want.kv_count);
    if (got >= 0)
        cr_assert_eq(header, run->model.revision);
    if (got > 0) {
        cr_assert_null(model_differ_kv(&kv, &want.kvs[0]));
        mvcc_reader_unpin(run->store.reader);
    }
}

static void check_read_txn(struct run *run)
{
    struct mvcc_txn_request txn = {0};
    struct mvcc_txn_result want, got;
    pick_txn(run, 9, &txn);
    if (!mvcc_txn_is_read_only(&txn))
        return;
    int wanted = model_txn(&run->model, &txn, &run->arena, &want);
    int error = mvcc_read_txn(run->store.reader, &txn, &run->arena, &got);
    expect_same(run, "read txn", error, wanted,
                error != 0 ? NULL : model_differ_txn(&got, &want, false));
}

static bool event_matches(const struct run *run, const struct model_event *event,
                          const struct mvcc_history_options *options)
{
    if (event->main < options->from_revision ||
        (options->key.size != 0 && !in_interval(options->key, options->range_end, event->key)))
        return false;
    /* Put and delete in one transaction at the compacted revision: only the last is kept. */
    if (event->main > run->model.compacted || event->kind == MVCC_CHANGE_DELETE)
        return true;
    const struct model_version *last = model_at(&run->model, event->key, event->main);
    return last != NULL && last->main == event->main && last->sub == event->sub;
}

static const struct model_version *exact_version(const struct model *model,
                                                 const struct model_event *event)
{
    const struct model_key *key = &model->keys[key_rank(model, event->key)];
    for (uint32_t i = 0; i < key->count; i++)
        if (key->versions[i].main == event->main && key->versions[i].sub == event->sub)
            return &key->versions[i];
    return NULL;
}

static void check_history(struct run *run)
{
    struct mvcc_history_options options = {.from_revision = pick_revision(run),
                                           .prev_kv = pick(run, 2) == 0};
    struct mvcc_history *history;
    struct mvcc_event event;
    if (pick(run, 2) == 0) {
        options.key = pick_key(run);
        options.range_end = pick_end(run);
    }
    int error = mvcc_history_open(run->store.reader, &options, &history);
    cr_assert_eq(error, options.from_revision < run->model.compacted ? ERR_COMPACTED : 0);
    if (error != 0)
        return;
    cr_assert_eq(mvcc_history_revision(history), run->model.revision);
    for (uint32_t i = 0; i < run->model.event_count; i++) {
        const struct model_event *want = &run->model.events[i];
        if (!event_matches(run, want, &options))
            continue;
        /* The fate of a replaced put at the compacted revision depends on purge progress. */
        do {
            error = mvcc_history_next(history, &event);
            cr_assert_eq(error, 1, "an event of %ld is missing: %s", (long)want->main,
                         err_name(error));
        } while (event.kv.mod_revision == run->model.compacted &&
                 (event.sub != want->sub || event.kv.mod_revision != want->main));
        cr_assert(event.kv.mod_revision == want->main && event.sub == want->sub &&
                  event.kind == want->kind && bytes_equal(event.kv.key, want->key));
        const struct model_version *version = exact_version(&run->model, want);
        if (event.kind == MVCC_CHANGE_PUT) {
            struct mvcc_kv kv = kv_of(want->key, version);
            cr_assert_null(model_differ_kv(&event.kv, &kv));
        }
        const struct model_version *prev = model_at(&run->model, want->key, want->main - 1);
        bool created = want->kind == MVCC_CHANGE_PUT && version->version == 1;
        bool has_prev =
            options.prev_kv && prev != NULL && !created && want->main - 1 >= run->model.compacted;
        cr_assert_eq(event.has_prev_kv, has_prev);
        if (has_prev) {
            struct mvcc_kv kv = kv_of(want->key, prev);
            cr_assert_null(model_differ_kv(&event.prev_kv, &kv));
        }
    }
    do
        error = mvcc_history_next(history, &event);
    while (error > 0 && event.kv.mod_revision == run->model.compacted);
    cr_assert_eq(error, 0, "more events than happened: %s", err_name(error));
    mvcc_history_close(history);
}

static void check_hash(struct run *run)
{
    struct mvcc_hash hash, pure;
    int64_t revision = pick_revision(run);
    if (run->pure.mvcc == NULL)
        return;
    int error = mvcc_hash_kv(run->store.reader, revision, &hash);
    int other = mvcc_hash_kv(run->pure.reader, revision, &pure);
    cr_assert_eq(error, other);
    if (error == 0)
        cr_assert(hash.hash == pure.hash && hash.compacted == pure.compacted,
                  "hash at %ld differs with purge progress", (long)revision);
}

static void check_stats(struct run *run)
{
    struct mvcc_stats stats = mvcc_shared_stats(run->store.shared);
    uint64_t keys = 0, in_use = 0;
    for (uint32_t i = 0; i < run->model.key_count; i++) {
        const struct model_version *version = version_at(&run->model.keys[i], INT64_MAX);
        if (version == NULL)
            continue;
        keys++;
        in_use += mvcc_ledger_row_bytes(run->model.keys[i].key, version->value);
    }
    cr_assert_eq(stats.key_count, keys);
    cr_assert_eq(stats.size_in_use_bytes, in_use);
    cr_assert_geq(stats.size_bytes, in_use);
    if (run->model.compacted == run->model.revision)
        cr_assert_eq(stats.size_bytes, in_use, "all garbage is below the watermark");
}

static int collect_attachment(void *context, int64_t lease, struct bytes key)
{
    struct run *run = context;
    const struct model_version *version = model_at(&run->model, key, INT64_MAX);
    cr_assert(version != NULL && version->lease == lease);
    run->model.sub += 1000; /* counted here, taken back by the caller */
    return 0;
}

static void check_leases(struct run *run)
{
    uint32_t attached = 0;
    for (uint32_t i = 0; i < run->model.key_count; i++) {
        const struct model_version *version = version_at(&run->model.keys[i], INT64_MAX);
        attached += version != NULL && version->lease != 0;
    }
    cr_assert_eq(mvcc_lease_scan(run->store.mvcc, collect_attachment, run), 0);
    cr_assert_eq(run->model.sub, attached * 1000);
    run->model.sub = 0;
}

static void run_read(struct run *run)
{
    switch (pick(run, 8)) {
    case 0:
        check_history(run);
        break;
    case 1:
        check_hash(run);
        break;
    case 2:
        check_stats(run);
        check_leases(run);
        break;
    case 3:
        check_read_txn(run);
        break;
    case 4:
    case 5:
        check_get(run);
        break;
    default: {
        struct mvcc_range_request request = pick_range(run);
        check_scan(run, &request);
    }
    }
}
