#include <criterion/criterion.h>

#include "core/err.h"
#include "core/prng.h"
#include "storage/mvcc/ledger.h"
#include "storage/mvcc/mvcc.h"

enum { KEYS = 20, REVISIONS = 3000 };

/* Exact: what each revision made garbage. */
static struct {
    uint64_t live[KEYS]; /* bytes of the live version, 0: none */
    uint64_t garbage[REVISIONS + 2];
    int64_t compacted;
} model;

static uint64_t model_in_use(void)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < KEYS; i++)
        bytes += model.live[i];
    return bytes;
}

static uint64_t model_garbage(int64_t above)
{
    uint64_t bytes = 0;
    for (int64_t i = above < 0 ? 0 : above + 1; i <= REVISIONS; i++)
        bytes += model.garbage[i];
    return bytes;
}

static void change(struct mvcc_ledger *ledger, struct prng *prng, int64_t revision)
{
    uint32_t key = (uint32_t)prng_below(prng, KEYS);
    uint64_t bytes = 70 + prng_below(prng, 1000), before = model.live[key];
    if (before != 0 && prng_chance(prng, 1, 3)) {
        mvcc_ledger_delete(ledger, revision, bytes, before);
        model.live[key] = 0;
        model.garbage[revision] += before + bytes;
    } else {
        mvcc_ledger_put(ledger, revision, bytes, before);
        model.live[key] = bytes;
        model.garbage[revision] += before;
    }
}

Test(ledger, is_exact_while_every_revision_has_its_mark)
{
    struct mvcc_ledger ledger;
    struct prng prng;
    prng_init(&prng, 1);
    mvcc_ledger_init(&ledger);
    model.compacted = MVCC_NEVER_COMPACTED;
    for (int64_t revision = MVCC_FIRST_REVISION + 1; revision < REVISIONS; revision++) {
        for (uint64_t n = 1 + prng_below(&prng, 3); n > 0; n--) /* several keys of one txn */
            change(&ledger, &prng, revision);
        mvcc_ledger_check(&ledger);
        cr_assert_eq(ledger.size_in_use_bytes, model_in_use());
        cr_assert_eq(ledger.size_bytes, model_in_use() + model_garbage(model.compacted));
        if (ledger.mark_count > 100) {
            int64_t to = revision - (int64_t)prng_below(&prng, 50);
            model.compacted = to;
            mvcc_ledger_compact(&ledger, to);
            cr_assert_eq(ledger.size_bytes, model_in_use() + model_garbage(to));
            mvcc_ledger_check(&ledger);
        }
    }
    uint64_t live = 0;
    for (uint32_t i = 0; i < KEYS; i++)
        live += model.live[i] != 0;
    cr_expect_eq(ledger.key_count, live);
}

/* Past its marks it may be wrong about where garbage lies, never about how much there is. */
Test(ledger, merged_marks_lose_nothing)
{
    struct mvcc_ledger ledger;
    struct prng prng;
    prng_init(&prng, 2);
    mvcc_ledger_init(&ledger);
    int64_t revision = MVCC_FIRST_REVISION + 1;
    for (; revision < REVISIONS; revision++) {
        change(&ledger, &prng, revision);
        mvcc_ledger_check(&ledger);
        cr_assert_eq(ledger.size_bytes, model_in_use() + model_garbage(-1));
    }
    uint64_t before = ledger.size_bytes;
    for (int64_t to = 500; to < revision; to += 500) {
        mvcc_ledger_compact(&ledger, to);
        mvcc_ledger_check(&ledger);
        cr_assert_lt(ledger.size_bytes, before, "each frees some");
        before = ledger.size_bytes;
    }
    mvcc_ledger_compact(&ledger, revision);
    cr_expect_eq(ledger.size_bytes, model_in_use(), "all garbage is gone");
    cr_expect_eq(ledger.mark_count, 0);
}

Test(ledger, survives_its_row_and_refuses_others)
{
    static uint8_t row[MVCC_LEDGER_ROW_BYTES_MAX + 24];
    struct mvcc_ledger ledger, again;
    struct prng prng;
    prng_init(&prng, 3);
    mvcc_ledger_init(&ledger);
    for (int64_t revision = MVCC_FIRST_REVISION + 1; revision < 400; revision++)
        change(&ledger, &prng, revision);
    size_t bytes = mvcc_ledger_encode(&ledger, row);
    cr_assert_eq(mvcc_ledger_decode(&again, bytes_make(row, bytes)), 0);
    mvcc_ledger_check(&again);
    cr_expect_eq(again.revision, ledger.revision);
    cr_expect_eq(again.compacted, ledger.compacted);
    cr_expect_eq(again.key_count, ledger.key_count);
    cr_expect_eq(again.size_bytes, ledger.size_bytes);
    cr_expect_eq(again.mark_count, ledger.mark_count);
    cr_expect_eq(memcmp(again.marks, ledger.marks, ledger.mark_count * sizeof(ledger.marks[0])), 0);
    for (size_t cut = 0; cut < bytes; cut++)
        cr_assert_eq(mvcc_ledger_decode(&again, bytes_make(row, cut)), ERR_CORRUPT, "%zu", cut);
    le32_store(row + 44, MVCC_LEDGER_MARKS_MAX + 1);
    cr_expect_eq(mvcc_ledger_decode(&again, bytes_make(row, 48 + 24 * (MVCC_LEDGER_MARKS_MAX + 1))),
                 ERR_CORRUPT, "more marks than there is room for");
    le32_store(row, 2);
    cr_expect_eq(mvcc_ledger_decode(&again, bytes_make(row, bytes)), ERR_VERSION);
}
