/* storage/mvcc against a plain model, on an LSM whose flushes, merges and crashes the test decides.
 * The first part is tables of single cases, the second compares long random runs. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

/* Linked in place of the real LSM, hence not in a library. */
#include "tests/unit/fake_lsm.c"
#include "tests/unit/mvcc_runs.c"

/* ---- a store ------------------------------------------------------------------------------------
 */

static uint64_t delete_bytes_max; /* of the stores to come; 0: what members have */

static void store_attach(struct store *store)
{
    struct lsm_options options = {0};
    store->shared = mvcc_shared_create();
    mvcc_configure_lsm(store->shared, &options);
    fake_lsm_set_filter(store->lsm, options.filter);
    struct lsm_reader *lsm_reader = fake_lsm_reader(store->lsm);
    cr_assert_eq(mvcc_open(&(struct mvcc_options){.shared = store->shared,
                                                  .lsm = store->lsm,
                                                  .lsm_reader = lsm_reader,
                                                  .delete_bytes_max = delete_bytes_max,
                                                  .lease_exists = even_lease_exists},
                           &store->mvcc),
                 0);
    cr_assert_eq(mvcc_reader_open(&(struct mvcc_reader_options){.shared = store->shared,
                                                                .lsm = store->lsm,
                                                                .lsm_reader = lsm_reader},
                                  &store->reader),
                 0);
    store->index = mvcc_applied_index(store->mvcc);
}

static void store_detach(struct store *store)
{
    mvcc_reader_close(store->reader);
    mvcc_close(store->mvcc);
    mvcc_shared_destroy(store->shared);
    cr_assert_eq(fake_lsm_pins(store->lsm), 0, "something stayed pinned");
}

static void store_open(struct store *store, uint64_t seed)
{
    store->lsm = fake_lsm_create(seed);
    store_attach(store);
}

static void store_close(struct store *store)
{
    store_detach(store);
    fake_lsm_destroy(store->lsm);
}

static void store_commit(struct store *store)
{
    cr_assert_eq(mvcc_commit(store->mvcc, ++store->index, 1), 0);
}

/* ---- rows ---------------------------------------------------------------------------------------
 */

Test(mvcc, values_of_rows_come_back)
{
    static const struct {
        const char *why;
        int64_t create, mod, version, lease;
    } cases[] = {
        {"a new key", 2, 2, 1, 0},
        {"an old key", 2, INT64_MAX, INT64_MAX, 0},
        {"one byte of age is full", 1, 128, 127, 1},
        {"two bytes of age", 1, 129, 128, -1},
        {"any lease", 100, 300, 5, INT64_MIN},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint8_t row[64];
        struct mvcc_kv in = {.value = T("value"),
                             .create_revision = cases[i].create,
                             .mod_revision = cases[i].mod,
                             .version = cases[i].version,
                             .lease = cases[i].lease};
        struct mvcc_kv out = {0};
        size_t bytes = mvcc_row_encode_value(row, &in);
        struct lsm_row stored = {.value = bytes_make(row, bytes),
                                 .version = {.main = (uint64_t)cases[i].mod}};
        cr_assert_eq(mvcc_row_decode_value(&stored, &out), 0, "%s", cases[i].why);
        cr_assert_null(model_differ_kv(&in, &out), "%s", cases[i].why);
        for (size_t cut = 0; cut + sizeof("value") - 1 < bytes; cut++) {
            stored.value.size = cut;
            cr_assert_eq(mvcc_row_decode_value(&stored, &out), ERR_CORRUPT, "%s", cases[i].why);
        }
    }
    uint8_t bad[] = {0x80, 0, 1};
    struct lsm_row unknown = {.value = bytes_make(bad, sizeof(bad)), .version = {.main = 5}};
    struct mvcc_kv kv;
    cr_assert_eq(mvcc_row_decode_value(&unknown, &kv), ERR_CORRUPT, "an unknown flag");
}

Test(mvcc, intervals_hold_keys)
{
    static const struct {
        const char *why;
        struct bytes key, end, probe;
        bool holds;
    } cases[] = {
        {"itself", L("a"), L(""), L("a"), true},
        {"not its successor", L("a"), L(""), L("a\0"), false},
        {"the first", L("a"), L("c"), L("a"), true},
        {"not the end", L("a"), L("c"), L("c"), false},
        {"between", L("a"), L("c"), L("b\xff\xff"), true},
        {"open: everything from key on", L("b"), L("\0"), L("\xff"), true},
        {"open: not what is before", L("b"), L("\0"), L("a"), false},
        {"bytes are unsigned", L("\x7f"), L("\x81"), L("\x80"), true},
        {"inverted", L("c"), L("a"), L("b"), false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint8_t at[32];
        uint8_t probe[16];
        cr_assert_eq(mvcc_interval_holds(cases[i].key, cases[i].end, cases[i].probe),
                     cases[i].holds, "%s", cases[i].why);
        struct mvcc_bounds bounds = mvcc_bounds_make(at, cases[i].key, cases[i].end);
        struct bytes row_key = mvcc_row_key(probe, cases[i].probe);
        bool within =
            bytes_compare(row_key, bounds.lower) >= 0 && bytes_compare(row_key, bounds.upper) < 0;
        cr_assert_eq(within, cases[i].holds, "as rows: %s", cases[i].why);
    }
}

/* ---- checks -------------------------------------------------------------------------------------
 */

#define PUT(k)                                                                                     \
    {                                                                                              \
        .kind = MVCC_OP_PUT, .put = {.key = T(k), .value = T("v") }                                \
    }
#define DEL(k, e)                                                                                  \
    {                                                                                              \
        .kind = MVCC_OP_DELETE, .del = {.key = T(k), .range_end = T(e) }                           \
    }
#define GET(k)                                                                                     \
    {                                                                                              \
        .kind = MVCC_OP_RANGE, .range = {.key = T(k) }                                             \
    }
#define OPS(...)   ((const struct mvcc_op[]){__VA_ARGS__})
#define COUNT(...) (sizeof(OPS(__VA_ARGS__)) / sizeof(struct mvcc_op))
#define THEN(...)  .success = OPS(__VA_ARGS__), .success_count = COUNT(__VA_ARGS__)
#define ELSE(...)  .failure = OPS(__VA_ARGS__), .failure_count = COUNT(__VA_ARGS__)
#define TXN(...)                                                                                   \
    {                                                                                              \
        .kind = MVCC_OP_TXN, .txn = { __VA_ARGS__ }                                                \
    }

static void expect_txn(const char *why, const struct mvcc_txn_request *request, uint32_t ops_max,
                       int want)
{
    struct arena scratch;
    arena_init(&scratch, 0);
    int got = mvcc_check_txn(request, ops_max, &scratch);
    cr_assert_eq(got, want, "%s: %s", why, err_name(got));
    arena_deinit(&scratch);
}

Test(mvcc, single_requests_are_checked)
{
    static const struct {
        const char *why;
        struct mvcc_put_request put;
        int want;
    } puts[] = {
        {"an empty value is fine", {.key = L("a")}, 0},
        {"no key", {.value = L("v")}, ERR_EMPTY_KEY},
        {"no key goes first", {.value = L("v"), .ignore_value = true}, ERR_EMPTY_KEY},
        {"ignored value",
         {.key = L("a"), .value = L("v"), .ignore_value = true},
         ERR_VALUE_PROVIDED},
        {"ignored lease", {.key = L("a"), .lease = 2, .ignore_lease = true}, ERR_LEASE_PROVIDED},
        {"value before lease",
         {.key = L("a"), .value = L("v"), .lease = 2, .ignore_value = true, .ignore_lease = true},
         ERR_VALUE_PROVIDED},
    };
    for (size_t i = 0; i < ARRAY_COUNT(puts); i++)
        cr_assert_eq(mvcc_check_put(&puts[i].put), puts[i].want, "%s", puts[i].why);
    static const struct {
        const char *why;
        struct mvcc_range_request range;
        int want, stream;
    } ranges[] = {
        {"plain", {.key = L("a")}, 0, 0},
        {"no key", {.sort_order = 9}, ERR_EMPTY_KEY, 0},
        {"order", {.key = L("a"), .sort_order = 3}, ERR_INVALID_SORT, 0},
        {"negative order", {.key = L("a"), .sort_order = -1}, ERR_INVALID_SORT, 0},
        {"target", {.key = L("a"), .sort_target = 5}, ERR_INVALID_SORT, 0},
        {"ordered by another target",
         {.key = L("a"), .sort_order = 1, .sort_target = 2},
         0,
         ERR_STREAM_SORT},
        {"ascending keys stream", {.key = L("a"), .sort_order = MVCC_SORT_ASCEND}, 0, 0},
        {"descending do not", {.key = L("a"), .sort_order = MVCC_SORT_DESCEND}, 0, ERR_STREAM_SORT},
        {"filters do not", {.key = L("a"), .max_create_revision = 1}, 0, ERR_STREAM_FILTER},
    };
    for (size_t i = 0; i < ARRAY_COUNT(ranges); i++) {
        cr_assert_eq(mvcc_check_range(&ranges[i].range), ranges[i].want, "%s", ranges[i].why);
        cr_assert_eq(mvcc_check_range_stream(&ranges[i].range), ranges[i].stream, "%s",
                     ranges[i].why);
    }
}

Test(mvcc, transactions_are_checked)
{
    static const struct mvcc_compare compares[] = {{.key = L("a")}, {.key = L("")}};
    const struct {
        const char *why;
        struct mvcc_txn_request txn;
        uint32_t ops_max;
        int want;
    } cases[] = {
        {"empty", {0}, 128, 0},
        {"as many as allowed", {THEN(GET("a"), GET("b"))}, 2, 0},
        {"one too many", {ELSE(GET("a"), GET("b"))}, 1, ERR_TOO_MANY_OPS},
        {"the widest part counts, not the sum", {THEN(GET("a")), ELSE(GET("b"))}, 1, 0},
        {"compares count", {.compares = compares, .compare_count = 2}, 1, ERR_TOO_MANY_OPS},
        {"compare without key", {.compares = compares, .compare_count = 2}, 2, ERR_EMPTY_KEY},
        {"a nested txn gets what is left",
         {THEN(TXN(THEN(GET("a"), GET("b"))))},
         2,
         ERR_TOO_MANY_OPS},
        {"and that is enough here", {THEN(TXN(THEN(GET("a"), GET("b"))))}, 3, 0},
        {"an op without request", {THEN({.kind = MVCC_OP_NONE})}, 9, ERR_KEY_NOT_FOUND},
        {"an op is checked as if alone", {ELSE(PUT(""))}, 9, ERR_EMPTY_KEY},
        {"two puts of a key", {THEN(PUT("a"), PUT("a"))}, 9, ERR_DUPLICATE_KEY},
        {"in the branch that will not run, too", {ELSE(PUT("a"), PUT("a"))}, 9, ERR_DUPLICATE_KEY},
        {"one in each branch is fine", {THEN(PUT("a")), ELSE(PUT("a"))}, 9, 0},
        {"put of a deleted key", {THEN(DEL("a", ""), PUT("a"))}, 9, ERR_DUPLICATE_KEY},
        {"put then delete", {THEN(PUT("a"), DEL("a", ""))}, 9, ERR_DUPLICATE_KEY},
        {"put in a deleted interval", {THEN(PUT("b"), DEL("a", "c"))}, 9, ERR_DUPLICATE_KEY},
        {"put at its end", {THEN(PUT("c"), DEL("a", "c"))}, 9, 0},
        {"deletes may overlap", {THEN(DEL("a", "c"), DEL("b", "d"), DEL("a", ""))}, 9, 0},
        {"in a merged interval",
         {THEN(DEL("c", "e"), DEL("a", "c"), PUT("c"))},
         9,
         ERR_DUPLICATE_KEY},
        {"between two intervals", {THEN(DEL("d", "e"), DEL("a", "b"), PUT("c"))}, 9, 0},
        {"ranges collide with nothing", {THEN(PUT("a"), GET("a"), GET("a"))}, 9, 0},
        {"an open delete is not seen", {THEN(DEL("a", "\0"), PUT("b"))}, 9, 0},
        {"put and nested put", {THEN(PUT("a"), TXN(THEN(PUT("a"))))}, 9, ERR_DUPLICATE_KEY},
        {"nested branches exclude each other", {THEN(TXN(THEN(PUT("a")), ELSE(PUT("a"))))}, 9, 0},
        {"two nested txns do not",
         {THEN(TXN(THEN(PUT("a"))), TXN(ELSE(PUT("a"))))},
         9,
         ERR_DUPLICATE_KEY},
        {"delete and nested put", {THEN(TXN(THEN(PUT("a"))), DEL("a", ""))}, 9, ERR_DUPLICATE_KEY},
        {"nested put, then a sibling's delete",
         {THEN(TXN(THEN(PUT("a"))), TXN(THEN(DEL("a", ""))))},
         9,
         0},
        {"nested delete, then a sibling's put",
         {THEN(TXN(THEN(DEL("a", ""))), TXN(THEN(PUT("a"))))},
         9,
         ERR_DUPLICATE_KEY},
        {"put and nested delete", {THEN(PUT("a"), TXN(ELSE(DEL("a", "b"))))}, 9, ERR_DUPLICATE_KEY},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        expect_txn(cases[i].why, &cases[i].txn, cases[i].ops_max, cases[i].want);
}

Test(mvcc, many_keys_are_checked_fast_and_right)
{
    enum { KEYS = 20000 };
    char(*names)[16] = calloc(KEYS, sizeof(*names));
    struct mvcc_op *ops = calloc(KEYS, sizeof(*ops));
    for (size_t i = 0; i < KEYS; i++) {
        struct bytes name = bytes_make(names[i], (size_t)snprintf(names[i], 16, "key%zu", i));
        ops[i].kind = i % 2 == 0 ? MVCC_OP_PUT : MVCC_OP_DELETE;
        if (i % 2 == 0)
            ops[i].put.key = name;
        else
            ops[i].del.key = name;
    }
    struct mvcc_txn_request request = {.success = ops, .success_count = KEYS};
    expect_txn("all differ", &request, KEYS, 0);
    ops[KEYS - 2].put.key = T("key1");
    expect_txn("the last put meets the first delete", &request, KEYS, ERR_DUPLICATE_KEY);
    free(ops);
    free(names);
}

/* ---- single requests ----------------------------------------------------------------------------
 */

Test(mvcc, a_fresh_store_is_at_revision_one)
{
    struct store store;
    struct arena arena;
    arena_init(&arena, 0);
    store_open(&store, 1);
    struct mvcc_state state = mvcc_reader_state(store.reader);
    cr_assert_eq(state.revision, 1);
    cr_assert_eq(state.compacted, -1);
    struct mvcc_put_result put;
    cr_assert_eq(mvcc_apply_put(store.mvcc,
                                &(struct mvcc_put_request){.key = T("a"), .value = T("1")}, &arena,
                                &put),
                 0);
    cr_assert_eq(put.revision, 2);
    cr_assert_eq(mvcc_reader_state(store.reader).revision, 1, "nothing shows before the commit");
    store_commit(&store);
    cr_assert_eq(mvcc_reader_state(store.reader).revision, 2);
    store_close(&store);
    arena_deinit(&arena);
}

Test(mvcc, state_decides_about_puts_and_compactions)
{
    struct store store;
    struct arena arena;
    struct mvcc_put_result put;
    int64_t revision;
    arena_init(&arena, 0);
    store_open(&store, 1);
    static const struct {
        const char *why;
        struct mvcc_put_request put;
        int want;
    } puts[] = {
        {"no such lease", {.key = L("a"), .lease = 1}, ERR_LEASE_NOT_FOUND},
        {"a known lease", {.key = L("a"), .lease = 2}, 0},
        {"ignore_value needs a value", {.key = L("b"), .ignore_value = true}, ERR_KEY_NOT_FOUND},
        {"ignore_lease needs a key", {.key = L("b"), .ignore_lease = true}, ERR_KEY_NOT_FOUND},
        {"the lease is looked up first",
         {.key = L("b"), .ignore_value = true, .lease = 1},
         ERR_LEASE_NOT_FOUND},
        {"ignore_value on a key", {.key = L("a"), .ignore_value = true}, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(puts); i++)
        cr_assert_eq(mvcc_apply_put(store.mvcc, &puts[i].put, &arena, &put), puts[i].want, "%s",
                     puts[i].why);
    cr_assert_eq(mvcc_revision(store.mvcc), 3, "refused requests leave no trace");
    static const struct {
        const char *why;
        int64_t revision;
        int want;
    } compactions[] = {
        {"never below the start", -1, ERR_COMPACTED},
        {"zero works once", 0, 0},
        {"and only once", 0, ERR_COMPACTED},
        {"the future", 4, ERR_FUTURE_REVISION},
        {"the present is fine", 3, 0},
        {"backwards", 2, ERR_COMPACTED},
    };
    for (size_t i = 0; i < ARRAY_COUNT(compactions); i++)
        cr_assert_eq(
            mvcc_apply_compact(store.mvcc,
                               &(struct mvcc_compact_request){.revision = compactions[i].revision},
                               &revision),
            compactions[i].want, "%s", compactions[i].why);
    cr_assert_eq(revision, 3);
    store_commit(&store);
    store_close(&store);
    arena_deinit(&arena);
}

Test(mvcc, a_full_arena_loses_the_reply_and_not_the_effect)
{
    struct store store;
    struct arena arena, small;
    struct mvcc_put_result put;
    static uint8_t big[100000];
    arena_init(&arena, 0);
    arena_init(&small, 2048);
    store_open(&store, 1);
    struct mvcc_put_request request = {.key = T("a"), .value = bytes_make(big, sizeof(big))};
    cr_assert_eq(mvcc_apply_put(store.mvcc, &request, &arena, &put), 0);
    request.prev_kv = true;
    cr_assert_eq(mvcc_apply_put(store.mvcc, &request, &small, &put), ERR_LIMIT);
    cr_assert_eq(mvcc_revision(store.mvcc), 3);
    store_commit(&store);
    store_close(&store);
    arena_deinit(&arena);
    arena_deinit(&small);
}

/* ---- large deletes ------------------------------------------------------------------------------
 */

enum { DELETE_KEYS_MAX = 10, DELETE_KEYS = 26 };

#define DELETE(from, to)                                                                           \
    {                                                                                              \
        .kind = MVCC_OP_DELETE, .del = {.key = L(from), .range_end = L(to) }                       \
    }
static const struct mvcc_op put_and_delete[] = {
    {.kind = MVCC_OP_PUT, .put = {.key = L("0"), .value = L("v")}},
    DELETE("a", "z"),
};
static const struct mvcc_op delete_twice[] = {DELETE("a", "f"), DELETE("k", "r")};
static const struct mvcc_op delete_inside[] = {
    DELETE("a", "f"),
    {.kind = MVCC_OP_TXN, .txn = {.success = &delete_twice[1], .success_count = 1}},
};
static const struct mvcc_op delete_few[] = {DELETE("a", "f"), DELETE("k", "n")};

static const struct {
    const char *why;
    const char *from, *to; /* "": everything from there on. NULL: the txn of */
    const struct mvcc_op *ops;
    uint32_t count;
    bool other_branch; /* than the one that is chosen */
    int want;
    int64_t left;
} deletes[] = {
    {"more keys than may go", "a", "z", NULL, 0, false, ERR_DELETE_TOO_LARGE, 26},
    {"all of them", "A", "", NULL, 0, false, ERR_DELETE_TOO_LARGE, 26},
    {"one more", "a", "l", NULL, 0, false, ERR_DELETE_TOO_LARGE, 26},
    {"after a put", NULL, NULL, put_and_delete, 2, false, ERR_DELETE_TOO_LARGE, 26},
    {"two ranges together", NULL, NULL, delete_twice, 2, false, ERR_DELETE_TOO_LARGE, 26},
    {"one of them inside", NULL, NULL, delete_inside, 2, false, ERR_DELETE_TOO_LARGE, 26},
    {"those that are not executed", NULL, NULL, put_and_delete, 2, true, 0, 26},
    {"two ranges of few", NULL, NULL, delete_few, 2, false, 0, 18},
    {"what is gone does not count", "a", "q", NULL, 0, false, 0, 10},
    {"all that are left", "A", "", NULL, 0, false, 0, 0},
};

static int delete_case(struct store *store, size_t i, struct arena *arena)
{
    struct mvcc_delete_result deleted;
    struct mvcc_txn_result result;
    static const struct mvcc_compare never = {
        .key = L("never"), .target = MVCC_COMPARE_VERSION, .result = MVCC_GREATER};
    struct mvcc_txn_request txn = {.compares = &never,
                                   .compare_count = deletes[i].other_branch,
                                   .success = deletes[i].ops,
                                   .success_count = deletes[i].count};
    if (deletes[i].from == NULL)
        return mvcc_apply_txn(store->mvcc, &txn, arena, &result);
    struct mvcc_delete_request del = {.key = bytes_from_text(deletes[i].from),
                                      .range_end = bytes_from_text(deletes[i].to)};
    if (del.range_end.size == 0)
        del.range_end = T("\0");
    return mvcc_apply_delete_range(store->mvcc, &del, arena, &deleted);
}

Test(mvcc, a_request_deletes_so_many_keys_or_none)
{
    struct store store;
    struct arena arena;
    struct mvcc_put_result put;
    arena_init(&arena, 0);
    delete_bytes_max = DELETE_KEYS_MAX * (MVCC_DELETE_KEY_BYTES + 2);
    store_open(&store, 1);
    for (char name = 'a'; name < 'a' + DELETE_KEYS; name++) {
        struct mvcc_put_request request = {.key = bytes_make(&name, 1), .value = T("v")};
        cr_assert_eq(mvcc_apply_put(store.mvcc, &request, &arena, &put), 0);
    }
    store_commit(&store);
    for (size_t i = 0; i < ARRAY_COUNT(deletes); i++) {
        int64_t revision = mvcc_revision(store.mvcc);
        uint64_t rows = fake_lsm_rows(store.lsm);
        int error = delete_case(&store, i, &arena);
        cr_expect_eq(error, deletes[i].want, "%s: %s", deletes[i].why, err_text(error));
        if (error != 0) {
            cr_expect_eq(mvcc_revision(store.mvcc), revision, "%s", deletes[i].why);
            cr_expect_eq(fake_lsm_rows(store.lsm), rows, "%s", deletes[i].why);
        }
        store_commit(&store);
        cr_expect_eq(mvcc_shared_stats(store.shared).key_count, deletes[i].left, "%s",
                     deletes[i].why);
    }
    store_close(&store);
    delete_bytes_max = 0;
    arena_deinit(&arena);
}

Test(mvcc, long_keys_count_for_more_when_they_are_deleted)
{
    static uint8_t key[MVCC_DELETE_KEY_BYTES * DELETE_KEYS_MAX / 2 - 10];
    struct mvcc_put_request request = {.key = bytes_make(key, sizeof(key))};
    struct mvcc_delete_request del = {.key = T("\0"), .range_end = T("\0")};
    struct mvcc_put_result put;
    struct mvcc_delete_result deleted;
    struct store store;
    struct arena arena;
    arena_init(&arena, 0);
    delete_bytes_max = MVCC_DELETE_KEY_BYTES * DELETE_KEYS_MAX;
    store_open(&store, 1);
    memset(key, 'k', sizeof(key));
    cr_assert_eq(mvcc_apply_put(store.mvcc, &request, &arena, &put), 0);
    cr_expect_eq(mvcc_apply_delete_range(store.mvcc, &del, &arena, &deleted), ERR_DELETE_TOO_LARGE);
    del = (struct mvcc_delete_request){.key = request.key};
    cr_expect_eq(mvcc_apply_delete_range(store.mvcc, &del, &arena, &deleted), 0);
    cr_expect_eq(deleted.deleted, 1, "a key that is named may always go");
    store_commit(&store);
    store_close(&store);
    delete_bytes_max = 0;
    arena_deinit(&arena);
}

/* ---- what a merge is worth ----------------------------------------------------------------------
 */

static const struct {
    const char *why;
    struct lsm_filter_table table;
    uint64_t never, at_8; /* rows that may go: nothing was compacted, or revision 8 is */
} droppable_cases[] = {
    {"keys of revisions behind it", {L("ka"), L("kz"), 9, 20, 100, 10, 40, 0}, 0, 0},
    {"of those up to it", {L("ka"), L("kz"), 2, 8, 100, 10, 40, 0}, 0, 50},
    {"half of them", {L("ka"), L("kz"), 5, 12, 100, 10, 40, 0}, 0, 25},
    {"keys that were written once", {L("ka"), L("kz"), 2, 8, 100, 0, 0, 0}, 0, 0},
    {"history before it", {L("r2"), L("r7"), 2, 7, 100, 0, 0, 0}, 0, 100},
    {"its own events are still read", {L("r8"), L("r9"), 8, 9, 100, 0, 0, 0}, 0, 0},
    {"half of the history", {L("r4"), L("r?"), 4, 11, 100, 0, 0, 0}, 0, 50},
    {"leases are read at their newest", {L("l1"), L("l9"), 9, 20, 100, 10, 40, 0}, 50, 50},
    {"so are facts", {L("m.ledger"), L("m.ledger"), 900, 999, 10, 0, 9, 0}, 9, 9},
    {"of before tables were cut", {L("kz"), L("r2"), 2, 8, 100, 10, 40, 0}, 0, 50},
    {"written at it, so what it has must stay", {L("ka"), L("kz"), 2, 20, 100, 10, 40, 8}, 0, 0},
    {"half of what came since it was written", {L("ka"), L("kz"), 1, 10, 100, 10, 40, 6}, 0, 25},
    {"tombstones that had to stay", {L("ka"), L("kz"), 1, 5, 100, 100, 0, 6}, 0, 0},
    {"and those of leases", {L("l1"), L("l9"), 9, 20, 100, 50, 0, 6}, 0, 0},
};

static void expect_droppable(struct store *store, bool compacted)
{
    struct lsm_options options = {0};
    mvcc_configure_lsm(store->shared, &options);
    for (size_t i = 0; i < ARRAY_COUNT(droppable_cases); i++)
        cr_expect_eq(options.filter->droppable(options.filter->context, &droppable_cases[i].table),
                     compacted ? droppable_cases[i].at_8 : droppable_cases[i].never, "%s, %s",
                     droppable_cases[i].why, compacted ? "compacted" : "not compacted");
}

Test(mvcc, tables_are_worth_what_the_watermark_lets_go)
{
    struct mvcc_put_request put = {.key = T("k")};
    struct mvcc_put_result result;
    struct store store;
    struct arena arena;
    int64_t revision;
    arena_init(&arena, 0);
    store_open(&store, 1);
    for (int i = 0; i < 9; i++)
        cr_assert_eq(mvcc_apply_put(store.mvcc, &put, &arena, &result), 0);
    store_commit(&store);
    expect_droppable(&store, false);
    struct mvcc_compact_request compact = {.revision = 8};
    cr_assert_eq(mvcc_apply_compact(store.mvcc, &compact, &revision), 0);
    store_commit(&store);
    expect_droppable(&store, false); /* the compaction is not in the tables yet */
    fake_lsm_flush(store.lsm);
    mvcc_tick(store.mvcc);
    expect_droppable(&store, true);
    store_close(&store);
    arena_deinit(&arena);
}

/* ---- reads beside a compaction ------------------------------------------------------------------
 */

/* Compacts at the current revision, and nothing that this frees is left. */
static void compact_and_purge(void *context)
{
    struct store *store = context;
    struct mvcc_compact_request compact = {.revision = mvcc_revision(store->mvcc)};
    int64_t revision;
    cr_assert_eq(mvcc_apply_compact(store->mvcc, &compact, &revision), 0);
    store_commit(store);
    fake_lsm_flush(store->lsm);
    mvcc_tick(store->mvcc);
    uint64_t rows = fake_lsm_table_rows(store->lsm, 'k');
    fake_lsm_merge(store->lsm, 0, UINT64_MAX);
    cr_assert_lt(fake_lsm_table_rows(store->lsm, 'k'), rows, "something was purged");
}

/* "k" has versions at 2, 3 and 4; the compaction at 4 comes while the first range reads. */
static void expect_read_txn(const char *why, int64_t second, int64_t third, int want)
{
    struct mvcc_op ops[] = {
        {.kind = MVCC_OP_RANGE, .range = {.key = T("a"), .range_end = T("z")}},
        {.kind = MVCC_OP_RANGE, .range = {.key = T("k"), .revision = second}},
        {.kind = MVCC_OP_RANGE, .range = {.key = T("k"), .revision = third}},
    };
    struct mvcc_txn_request txn = {.success = ops, .success_count = ARRAY_COUNT(ops)};
    struct mvcc_put_request put = {.key = T("k")};
    struct mvcc_put_result put_result;
    struct mvcc_txn_result result;
    struct store store;
    struct arena arena;
    arena_init(&arena, 0);
    store_open(&store, 1);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(mvcc_apply_put(store.mvcc, &put, &arena, &put_result), 0);
    store_commit(&store);
    fake_lsm_meanwhile(store.lsm, compact_and_purge, &store);
    int got = mvcc_read_txn(store.reader, &txn, &arena, &result);
    cr_expect_eq(mvcc_reader_state(store.reader).compacted, 4, "%s", why);
    cr_expect_eq(got, want, "%s: %s", why, err_name(got));
    for (uint32_t i = 0; got == 0 && i < result.response_count; i++)
        cr_expect_eq(result.responses[i].range.kv_count, 1, "%s", why);
    store_close(&store);
    arena_deinit(&arena);
}

Test(mvcc, a_compaction_overtakes_old_ranges_of_a_transaction)
{
    static const struct {
        const char *why;
        int64_t second, third;
        int want;
    } cases[] = {
        {"the current revision is never purged", 0, 0, 0},
        {"nor is that of the compaction", 4, 0, 0},
        {"an old one may be", 3, 3, ERR_COMPACTED},
        {"the lowest counts, not the last", 3, 4, ERR_COMPACTED},
        {"nor the first", 4, 3, ERR_COMPACTED},
        {"nor one that names none", 3, 0, ERR_COMPACTED},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        expect_read_txn(cases[i].why, cases[i].second, cases[i].third, cases[i].want);
}

/* ---- the ledger ---------------------------------------------------------------------------------
 */

Test(mvcc, the_ledger_frees_what_compaction_drops)
{
    struct mvcc_ledger ledger;
    mvcc_ledger_init(&ledger);
    int64_t revision = 1;
    mvcc_ledger_put(&ledger, ++revision, 100, 0);
    for (int i = 0; i < 10; i++)
        mvcc_ledger_put(&ledger, ++revision, 100, 100);
    cr_assert_eq(ledger.size_bytes, 1100);
    cr_assert_eq(ledger.size_in_use_bytes, 100);
    mvcc_ledger_compact(&ledger, 2);
    cr_assert_eq(ledger.size_bytes, 1100, "nothing was superseded by revision 2");
    mvcc_ledger_compact(&ledger, 7);
    cr_assert_eq(ledger.size_bytes, 600);
    mvcc_ledger_compact(&ledger, revision);
    cr_assert_eq(ledger.size_bytes, 100);
    for (int i = 0; i < 5000; i++)
        mvcc_ledger_put(&ledger, ++revision, 100, 100);
    mvcc_ledger_check(&ledger);
    mvcc_ledger_compact(&ledger, revision - 2500);
    mvcc_ledger_check(&ledger);
    cr_assert_leq(ledger.size_bytes, 100 + 2510 * 100, "merged marks are cut in proportion");
    cr_assert_geq(ledger.size_bytes, 100 + 2490 * 100);
    uint8_t row[MVCC_LEDGER_ROW_BYTES_MAX];
    struct mvcc_ledger again;
    size_t bytes = mvcc_ledger_encode(&ledger, row);
    cr_assert_eq(mvcc_ledger_decode(&again, bytes_make(row, bytes)), 0);
    mvcc_ledger_check(&again);
    cr_assert_eq(again.size_bytes, ledger.size_bytes);
    cr_assert_eq(mvcc_ledger_decode(&again, bytes_make(row, bytes - 1)), ERR_CORRUPT);
}

/* ---- meta ---------------------------------------------------------------------------------------
 */

static int collect_name(void *context, struct bytes name, struct bytes value)
{
    char *text = context;
    snprintf(text + strlen(text), 64, "%.*s=%.*s;", (int)name.size, (const char *)name.data,
             (int)value.size, (const char *)value.data);
    return 0;
}

Test(mvcc, facts_of_modules_survive)
{
    struct store store;
    struct arena arena;
    struct bytes value;
    char text[256] = "";
    arena_init(&arena, 0);
    store_open(&store, 1);
    cr_assert_eq(mvcc_meta_put(store.mvcc, T("user/b"), T("1")), 0);
    cr_assert_eq(mvcc_meta_put(store.mvcc, T("user/b"), T("2")), 0);
    cr_assert_eq(mvcc_meta_put(store.mvcc, T("user/a"), T("3")), 0);
    cr_assert_eq(mvcc_meta_put(store.mvcc, T("user0"), T("4")), 0);
    cr_assert_eq(mvcc_meta_put(store.mvcc, T(".mine"), T("4")), ERR_LIMIT);
    store_commit(&store);
    cr_assert_eq(mvcc_meta_put(store.mvcc, T("user/c"), T("5")), 0);
    cr_assert_eq(mvcc_meta_delete(store.mvcc, T("user/a")), 0);
    store_commit(&store);
    fake_lsm_flush(store.lsm);
    fake_lsm_merge(store.lsm, 0, UINT64_MAX);
    cr_assert_eq(fake_lsm_table_rows(store.lsm, 'm'), 3, "only the newest is kept");
    store_detach(&store);
    store_attach(&store);
    cr_assert_eq(mvcc_meta_scan(store.mvcc, T("user/"), collect_name, text), 0);
    cr_assert_str_eq(text, "user/b=2;user/c=5;");
    cr_assert_eq(mvcc_meta_get(store.mvcc, T("user/b"), &arena, &value), 0);
    cr_assert(bytes_equal(value, T("2")));
    cr_assert_eq(mvcc_meta_get(store.mvcc, T("user/a"), &arena, &value), ERR_NOT_FOUND);
    store_close(&store);
    arena_deinit(&arena);
}

/* ---- time passes --------------------------------------------------------------------------------
 */

static void run_commit(struct run *run)
{
    store_commit(&run->store);
    store_commit(&run->pure);
    cr_assert_lt(run->store.index, INDEX_MAX);
    run->revision_at[run->store.index] = run->model.revision;
    run->compacted_at[run->store.index] = run->model.compacted;
}

static void run_background(struct run *run)
{
    switch (pick(run, 12)) {
    case 0:
        fake_lsm_flush(run->store.lsm);
        mvcc_tick(run->store.mvcc);
        break;
    case 1: {
        uint64_t from = pick(run, 2) == 0 ? 0 : pick(run, run->store.index + 1);
        fake_lsm_merge(run->store.lsm, from, from + pick(run, run->store.index + 1));
        break;
    }
    case 2:
        fake_lsm_merge(run->store.lsm, 0, UINT64_MAX);
        break;
    case 3:
        store_detach(&run->store);
        store_attach(&run->store);
        break;
    default:
        break;
    }
}

/* The store comes back as of its last flush, and the log is replayed by a second model run: here
 * simply by checking that state, since the pure store cannot go back with it. */
static void run_crash(struct run *run)
{
    uint64_t flushed = lsm_flushed_index(run->store.lsm);
    store_detach(&run->store);
    fake_lsm_crash(run->store.lsm);
    store_attach(&run->store);
    struct mvcc_state state = mvcc_reader_state(run->store.reader);
    cr_assert_eq(state.applied_index, flushed);
    cr_assert_eq(state.revision, run->revision_at[flushed], "the revision is recovered exactly");
    cr_assert_eq(state.compacted, run->compacted_at[flushed]);
    for (int64_t at = state.compacted > 0 ? state.compacted : 1; at <= state.revision; at++) {
        struct mvcc_range_request all = {.key = T("\0"), .range_end = T("\0"), .revision = at};
        struct mvcc_range_result got, want;
        cr_assert_eq(mvcc_range(run->store.reader, &all, &run->arena, &got), 0);
        do_range(&run->model, &all, &run->arena, &want);
        want.revision = state.revision;
        expect_same(run, "range after a crash", 0, 0, model_differ_range(&got, &want));
        arena_reset(&run->arena);
    }
}

static void run_all(uint64_t seed, int steps)
{
    struct run *run = calloc(1, sizeof(*run));
    prng_init(&run->prng, seed);
    arena_init(&run->arena, 0);
    model_init(&run->model);
    run->model.lease_exists = even_lease_exists;
    store_open(&run->store, seed);
    store_open(&run->pure, seed + 1);
    run->revision_at[0] = 1;
    run->compacted_at[0] = -1;
    for (int i = 0; i < steps; i++) {
        uint64_t batch = 1 + pick(run, 3);
        for (uint64_t j = 0; j < batch; j++)
            run_write(run);
        run_commit(run);
        run_background(run);
        for (int j = 0; j < 3; j++)
            run_read(run);
        arena_reset(&run->arena);
    }
    run_crash(run);
    store_close(&run->store);
    store_close(&run->pure);
    model_deinit(&run->model);
    arena_deinit(&run->arena);
    free(run);
}

Test(mvcc, agrees_with_the_model)
{
    for (uint64_t seed = 1; seed <= 60; seed++)
        run_all(seed, 250);
}
