/* The model of check_store.h against etcd's documented rules, and what it complains about. */
#include <criterion/criterion.h>

#include "tests/sim/check_store.h"

static struct verdict verdict;
static struct check_store store;

static void setup(void)
{
    verdict = (struct verdict){0};
    check_store_init(&store, &verdict);
}

static void teardown(void)
{
    check_store_deinit(&store);
}

TestSuite(check_store, .init = setup, .fini = teardown);

static struct bytes text(const char *from)
{
    return bytes_make(from, strlen(from));
}

static struct mvcc_put_request put_of(const char *key, const char *value)
{
    return (struct mvcc_put_request){.key = text(key), .value = text(value), .prev_kv = true};
}

static const struct check_outcome *put(const char *key, const char *value)
{
    struct mvcc_put_request request = put_of(key, value);
    return check_store_outcome(&store, check_store_put(&store, &request));
}

/* `end` as check_store.h wants it; its size counts the digits behind the zero byte. */
static const struct check_outcome *delete (const char *key, const char *end, size_t end_bytes)
{
    struct mvcc_delete_request request = {
        .key = text(key), .range_end = bytes_make(end, end_bytes), .prev_kv = true};
    return check_store_outcome(&store, check_store_delete(&store, &request));
}

static void expect_fail(const char *part)
{
    cr_assert_eq(verdict.outcome, SIM_SAFETY, "went unnoticed: %s", part);
    cr_assert_not_null(strstr(verdict.text, part), "wanted '%s': %s", part, verdict.text);
}

Test(check_store, versions_count_and_start_anew_after_a_delete)
{
    cr_assert_eq(put("k1", "1 x")->revision, 2);
    const struct check_outcome *second = put("k1", "2 x");
    cr_assert_eq(second->revision, 3);
    cr_assert_eq(second->kv_count, 1); /* the previous one */
    cr_assert_eq(second->kvs[0].author, 1);
    const struct check_outcome *gone = delete ("k1", "k1\0003", 4);
    cr_assert_eq(gone->deleted, 1);
    cr_assert_eq(gone->kvs[0].version, 2);
    put("k1", "4 x");
    struct check_kv kv;
    cr_assert_eq(check_store_range(&store, 5, 1, 1, &kv), 1);
    cr_assert(kv.create == 5 && kv.version == 1 && kv.author == 4);
    cr_assert_eq(check_store_range(&store, 4, 1, 1, &kv), 0, "deleted at 4");
    cr_assert_eq(check_store_range(&store, 3, 1, 1, &kv), 1);
    cr_assert_eq(kv.author, 2);
    cr_assert_eq(verdict.outcome, SIM_PASS);
}

Test(check_store, a_delete_of_nothing_makes_no_revision)
{
    put("k1", "1");
    const struct check_outcome *none = delete ("k4", "k4\0002", 4);
    cr_assert(!none->changed && none->deleted == 0 && none->revision == 2);
    put("k2", "3");
    const struct check_outcome *both = delete ("k1", "k3\0004", 4);
    cr_assert(both->changed && both->deleted == 2 && both->revision == 4);
}

static const struct check_outcome *replace(int64_t if_revision, const char *value)
{
    struct mvcc_compare compare = {
        .key = text("k1"), .result = MVCC_EQUAL, .target = MVCC_COMPARE_MOD, .number = if_revision};
    struct mvcc_op success[] = {{.kind = MVCC_OP_PUT, .put = put_of("k1", value)},
                                {.kind = MVCC_OP_DELETE, .del = {.key = text("k2")}}};
    struct mvcc_op failure[] = {{.kind = MVCC_OP_RANGE, .range = {.key = text("k1")}}};
    struct mvcc_txn_request request = {.compares = &compare,
                                       .success = success,
                                       .failure = failure,
                                       .compare_count = 1,
                                       .success_count = 2,
                                       .failure_count = 1};
    return check_store_outcome(&store, check_store_txn(&store, &request));
}

Test(check_store, a_txn_takes_the_branch_that_its_comparison_names)
{
    const struct check_outcome *first = replace(0, "1");
    cr_assert(first->succeeded && first->revision == 2 && first->deleted == 0);
    put("k2", "2");
    const struct check_outcome *second = replace(2, "3");
    cr_assert(second->succeeded && second->revision == 4 && second->deleted == 1);
    const struct check_outcome *late = replace(2, "4");
    cr_assert(!late->succeeded && !late->changed && late->revision == 4);
    cr_assert(late->kv_count == 1 && late->kvs[0].author == 3);
}

Test(check_store, compactions_only_go_forward_and_not_beyond_the_newest)
{
    put("k1", "1");
    put("k1", "2");
    static const struct {
        int64_t asked;
        uint64_t then;
    } steps[] = {{2, 2}, {1, 2}, {4, 2}, {3, 3}, {-1, 3}};
    for (size_t i = 0; i < ARRAY_COUNT(steps); i++) {
        struct mvcc_compact_request request = {.revision = steps[i].asked};
        check_store_compact(&store, &request);
        cr_assert_eq(store.compacted, steps[i].then, "step %zu", i);
    }
}

Test(check_store, puts_are_refused_without_space)
{
    store.no_space = true;
    const struct check_outcome *refused = put("k1", "1");
    cr_assert(refused->refused && !refused->changed && store.revision == 1);
    cr_assert(!delete ("k1", "k1\0002", 4)->refused);
}

Test(check_store, an_operation_executed_twice)
{
    put("k1", "1");
    put("k1", "1");
    expect_fail("executed again");
}

Test(check_store, a_request_of_nobody)
{
    put("k1", "x");
    expect_fail("without an author");
}

Test(check_store, a_key_of_nobody)
{
    put("other", "1");
    expect_fail("nobody uses");
}

Test(check_store, answers_that_differ)
{
    struct check_kv want = {.key = 1, .author = 2, .revision = 3, .create = 3, .version = 1};
    cr_assert(check_store_equal(&store, "read", 1, &want, 1, &want, 1));
    const size_t offsets[] = {
        offsetof(struct check_kv, author), offsetof(struct check_kv, revision),
        offsetof(struct check_kv, create), offsetof(struct check_kv, version)};
    for (size_t i = 0; i < ARRAY_COUNT(offsets); i++) {
        struct check_kv have = want;
        (*(uint64_t *)(void *)((char *)&have + offsets[i]))++;
        cr_assert(!check_store_equal(&store, "read", 1, &have, 1, &want, 1), "field %zu", i);
    }
    cr_assert(!check_store_equal(&store, "read", 1, &want, 0, &want, 1));
    expect_fail("expected");
}
