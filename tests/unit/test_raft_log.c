/* The window over the log: rows 13, 79, 81 to 84. */
#include "consensus/raft_log.h"

#include "core/err.h"

#include <criterion/criterion.h>
#include <signal.h>

#define WINDOW 16

struct fixture {
    struct raft_log log;
    struct entry window[WINDOW];
    uint64_t stored[64]; /* terms by index, what the caller's log holds */
    uint32_t released;
};

static int lookup(void *context, uint64_t index, struct entry *entry)
{
    struct fixture *fixture = context;
    if (index >= ARRAY_COUNT(fixture->stored) || fixture->stored[index] == 0)
        return ERR_UNAVAILABLE;
    *entry = (struct entry){.index = index, .term = fixture->stored[index]};
    return 0;
}

static void release(void *context, const struct entry *entry maybe_unused)
{
    ((struct fixture *)context)->released++;
}

/* A log that begins after (base, base_term) and holds these terms in its window. */
static void fixture_init(struct fixture *fixture, uint64_t base, uint64_t base_term,
                         const char *terms)
{
    struct raft_storage storage = {.context = fixture, .lookup = lookup, .release = release};
    memset(fixture, 0, sizeof(*fixture));
    raft_log_init(&fixture->log, &storage, fixture->window, WINDOW);
    struct raft_log *log = &fixture->log;
    log->compacted_index = log->base_index = log->last_index = base;
    log->compacted_term = log->base_term = base_term;
    log->issued_index = log->durable_index = base;
    log->committed_index = log->applying_index = log->applied_index = base;
    for (uint64_t i = 0; terms[i] != '\0'; i++) {
        struct entry entry = {
            .index = base + 1 + i, .term = (uint64_t)(terms[i] - '0'), .payload_bytes = 10};
        raft_log_append(log, &entry);
        fixture->stored[entry.index] = entry.term;
    }
}

static void make_durable(struct raft_log *log, uint64_t index)
{
    uint64_t term = 0;
    cr_assert_eq(raft_log_term(log, index, &term), 0);
    log->issued_index = u64_max(log->issued_index, index);
    raft_log_durable_to(log, index, term);
}

static void apply_to(struct raft_log *log, uint64_t index)
{
    make_durable(log, index);
    raft_log_commit_to(log, index);
    log->applying_index = index;
    raft_log_applied_to(log, index);
}

Test(raft_log, row_79_conflict_by_term)
{
    static const struct {
        uint64_t base, base_term;
        const char *terms;
        uint64_t index, term, want;
    } cases[] = {
        {0, 0, "22555", 100, 2, 100}, {10, 3, "33444", 30, 3, 30}, /* beyond: it may match */
        {0, 0, "22555", 5, 6, 5},     {0, 0, "22555", 5, 5, 5},    {0, 0, "22555", 5, 4, 2},
        {0, 0, "22555", 5, 1, 0},     {0, 0, "22555", 1, 1, 0},    {10, 3, "33444", 14, 3, 12},
        {10, 3, "33444", 14, 2, 9},   {10, 3, "33444", 10, 2, 9},  {10, 3, "33444", 4, 2, 4},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct fixture fixture;
        uint64_t term = 0;
        fixture_init(&fixture, cases[i].base, cases[i].base_term, cases[i].terms);
        uint64_t want_term = 0; /* of what is compacted or beyond the end nobody knows it */
        int error = raft_log_term(&fixture.log, cases[i].want, &want_term);
        cr_expect_eq(raft_log_find_conflict(&fixture.log, cases[i].index, cases[i].term, &term),
                     cases[i].want, "%zu", i);
        cr_expect_eq(term, error == 0 ? want_term : 0, "%zu", i);
    }
}

Test(raft_log, row_81_replacing_a_tail)
{
    static const struct {
        const char *why;
        uint64_t issued, durable, cut, want_issued, want_durable;
    } cases[] = {
        {"nothing issued yet", 0, 0, 3, 0, 0},
        {"cut above what was issued", 2, 1, 4, 2, 1},
        {"cut below what was issued", 5, 2, 4, 3, 2},
        {"cut below what is durable", 5, 5, 3, 2, 2},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct fixture fixture;
        fixture_init(&fixture, 0, 0, "11122");
        fixture.log.issued_index = cases[i].issued;
        fixture.log.durable_index = cases[i].durable;
        raft_log_truncate(&fixture.log, cases[i].cut);
        cr_expect_eq(fixture.log.last_index, cases[i].cut - 1, "%s", cases[i].why);
        cr_expect_eq(fixture.log.issued_index, cases[i].want_issued, "%s", cases[i].why);
        cr_expect_eq(fixture.log.durable_index, cases[i].want_durable, "%s", cases[i].why);
        cr_expect_eq(fixture.released, 5 - (cases[i].cut - 1), "%s", cases[i].why);
        raft_log_check(&fixture.log);
    }
}

Test(raft_log, row_82_durable_answers)
{
    static const struct {
        const char *why;
        uint64_t index, term, want;
    } cases[] = {
        {"matches", 4, 2, 4},
        {"the term differs: replaced meanwhile", 4, 1, 2},
        {"older than what is known", 1, 1, 2},
        {"beyond what was issued", 5, 2, 2},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct fixture fixture;
        fixture_init(&fixture, 0, 0, "11122");
        make_durable(&fixture.log, 2);
        fixture.log.issued_index = 4;
        raft_log_durable_to(&fixture.log, cases[i].index, cases[i].term);
        cr_expect_eq(fixture.log.durable_index, cases[i].want, "%s", cases[i].why);
    }
}

Test(raft_log, row_84_what_compaction_leaves)
{
    static struct entry window[1024];
    struct raft_storage storage = {0};
    struct raft_log log;
    raft_log_init(&log, &storage, window, 1024);
    for (uint64_t i = 1; i <= 1000; i++)
        raft_log_append(&log, &(struct entry){.index = i, .term = i, .payload_bytes = 1});
    make_durable(&log, 750);
    raft_log_commit_to(&log, 750);
    log.applying_index = 750;
    raft_log_applied_to(&log, 750);
    raft_log_compact(&log, 500);
    cr_expect_eq(log.last_index, 1000);
    for (uint64_t i = 500; i <= 1000; i++)
        cr_expect(raft_log_matches(&log, i, i), "%lu", i);
    uint64_t term = 0;
    cr_expect_eq(raft_log_term(&log, 499, &term), ERR_COMPACTED);
    cr_expect_eq(log.last_index - log.durable_index, 250);
    cr_expect_eq(log.unapplied_bytes, 250);
    raft_log_append(&log, &(struct entry){.index = 1001, .term = 1001});
    cr_expect_eq(raft_log_last_term(&log), 1001);
    raft_log_check(&log);
}

Test(raft_log, row_78_pitfall_19_what_is_committed_is_never_cut, .signal = SIGABRT)
{
    struct fixture fixture;
    fixture_init(&fixture, 0, 0, "123");
    apply_to(&fixture.log, 1);
    raft_log_truncate(&fixture.log, 1);
}

Test(raft_log, row_83_84_terms_and_compaction)
{
    struct fixture fixture;
    uint64_t term = 0;
    fixture_init(&fixture, 10, 3, "34455");
    apply_to(&fixture.log, 13);
    cr_expect_eq(raft_log_term(&fixture.log, 9, &term), ERR_COMPACTED);
    cr_expect_eq(raft_log_term(&fixture.log, 10, &term), 0);
    cr_expect_eq(term, 3);
    cr_expect_eq(raft_log_term(&fixture.log, 16, &term), ERR_UNAVAILABLE);
    raft_log_release_to(&fixture.log, 12);
    cr_expect_eq(fixture.released, 2);
    cr_expect_eq(raft_log_term(&fixture.log, 11, &term), 0, "asked from the caller");
    cr_expect_eq(term, 3);
    raft_log_compact(&fixture.log, 12);
    cr_expect_eq(raft_log_term(&fixture.log, 11, &term), ERR_COMPACTED);
    cr_expect_eq(raft_log_term(&fixture.log, 12, &term), 0);
    cr_expect_eq(term, 4);
    cr_expect_eq(fixture.log.last_index, 15);
    raft_log_compact(&fixture.log, 11);
    cr_expect_eq(fixture.log.compacted_index, 12, "never back");
    raft_log_check(&fixture.log);
}

Test(raft_log, window_makes_room)
{
    struct fixture fixture;
    fixture_init(&fixture, 0, 0, "1111111111111111");
    cr_expect_eq(raft_log_room(&fixture.log, 1, true), 0, "nothing is durable");
    make_durable(&fixture.log, 8);
    cr_expect_eq(raft_log_room(&fixture.log, 2, false), 0, "nothing is applied");
    cr_expect_eq(raft_log_room(&fixture.log, 2, true), 2, "forced: durable is enough");
    cr_expect_eq(fixture.log.base_index, 2);
    apply_to(&fixture.log, 5);
    cr_expect_eq(raft_log_room(&fixture.log, 16, false), 5);
    cr_expect_eq(fixture.log.unapplied_bytes, 11 * 10);
    raft_log_check(&fixture.log);
    uint64_t bytes = 0;
    cr_expect_eq(raft_log_fit(&fixture.log, 6, 16, 35, 100, &bytes), 3, "by bytes");
    cr_expect_eq(bytes, 30);
    cr_expect_eq(raft_log_fit(&fixture.log, 6, 16, 5, 100, &bytes), 1, "one always goes");
    cr_expect_eq(raft_log_fit(&fixture.log, 6, 16, 500, 4, &bytes), 4, "by count");
}

Test(raft_log, snapshot_replaces_all)
{
    struct fixture fixture;
    struct raft_snapshot snapshot = {.index = 20, .term = 4};
    fixture_init(&fixture, 0, 0, "112");
    raft_log_restore(&fixture.log, &snapshot);
    cr_expect_eq(fixture.released, 3);
    cr_expect_eq(raft_log_last_term(&fixture.log), 4);
    cr_expect(raft_log_matches(&fixture.log, 20, 4));
    cr_expect_eq(fixture.log.applied_index, 0);
    raft_log_restored(&fixture.log, 20);
    cr_expect_eq(fixture.log.applied_index, 20);
    raft_log_check(&fixture.log);
}

Test(raft_log, row_13_up_to_date)
{
    static const struct {
        uint64_t index, term;
        bool want;
    } cases[] = {{4, 4, true},  {2, 4, true},  {3, 3, true}, {4, 3, true},
                 {2, 3, false}, {9, 2, false}, {9, 3, true}, {1, 9, true}};
    struct fixture fixture;
    fixture_init(&fixture, 0, 0, "123");
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        cr_expect_eq(raft_log_up_to_date(&fixture.log, cases[i].index, cases[i].term),
                     cases[i].want, "%zu", i);
}
