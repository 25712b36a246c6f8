#include <criterion/criterion.h>

#include "core/base.h"
#include "server/faults.h"

static struct faults faults;

static void add(uint64_t first, uint64_t last)
{
    faults_add(&faults, &(struct fault){.first = first, .last = last, .term = 1});
}

static void expect_runs(const char *why, const uint64_t *bounds, uint32_t count)
{
    cr_assert_eq(faults.count, count, "%s: %u runs", why, faults.count);
    for (uint32_t i = 0; i < count; i++) {
        cr_expect_eq(faults.runs[i].first, bounds[2 * i], "%s", why);
        cr_expect_eq(faults.runs[i].last, bounds[2 * i + 1], "%s", why);
    }
}

#define EXPECT_RUNS(why, ...)                                                                      \
    expect_runs(why, (const uint64_t[]){__VA_ARGS__}, sizeof((const uint64_t[]){__VA_ARGS__}) / 16)

Test(faults, runs_are_sorted_and_do_not_overlap)
{
    faults_init(&faults);
    add(10, 12);
    add(20, 20);
    EXPECT_RUNS("apart", 10, 12, 20, 20);
    add(11, 11);
    EXPECT_RUNS("known already", 10, 12, 20, 20);
    add(5, 25);
    EXPECT_RUNS("around what is known", 5, 9, 10, 12, 13, 19, 20, 20, 21, 25);
    cr_expect_eq(faults_entry_count(&faults), 21);
    cr_expect_eq(faults_first_after(&faults, 0), 5);
    cr_expect_eq(faults_first_after(&faults, 7), 8);
    cr_expect_eq(faults_first_after(&faults, 25), 0);
    cr_expect_not_null(faults_find(&faults, 25));
    cr_expect_null(faults_find(&faults, 26));
    faults_deinit(&faults);
}

Test(faults, removal_shortens_splits_and_ends_runs)
{
    static const struct {
        const char *why;
        uint64_t first, last;
        uint64_t runs[6];
        uint32_t count;
    } cases[] = {
        {"nothing there", 1, 9, {10, 19, 30, 39}, 2},
        {"the front", 1, 12, {13, 19, 30, 39}, 2},
        {"the middle", 12, 14, {10, 11, 15, 19, 30, 39}, 3},
        {"the end", 18, 25, {10, 17, 30, 39}, 2},
        {"one whole", 10, 19, {30, 39}, 1},
        {"over both", 15, 35, {10, 14, 36, 39}, 2},
        {"all", 1, UINT64_MAX, {0}, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        faults_init(&faults);
        add(10, 19);
        add(30, 39);
        faults_remove(&faults, cases[i].first, cases[i].last);
        expect_runs(cases[i].why, cases[i].runs, cases[i].count);
        faults_deinit(&faults);
    }
}

Test(faults, answers_are_about_the_first_entry)
{
    faults_init(&faults);
    add(10, 19);
    faults_answered(&faults, 2, FAULT_ANSWER_NEVER);
    cr_expect(faults_has_answer(&faults, 2));
    cr_expect_not(faults_has_answer(&faults, 3));
    faults_remove(&faults, 15, 19);
    cr_expect(faults_has_answer(&faults, 2), "the first is the same");
    faults_remove(&faults, 10, 10);
    cr_expect_not(faults_has_answer(&faults, 2), "another question");
    faults_answered(&faults, 2, FAULT_ANSWER_NEVER);
    add(3, 3);
    cr_expect_not(faults_has_answer(&faults, 2), "another question again");
    faults_deinit(&faults);
}

static void ids_add(struct raft_id_set *set, const char *ids)
{
    for (; *ids != '\0'; ids++)
        cr_assert(raft_id_set_add(set, (uint64_t)(*ids - '0')));
}

/* Answers of members 2, 3, ..: n never, u unsure, l lost, c compacted, t later, - none. */
static bool dispensable(const char *voters, const char *outgoing, const char *learners, bool proven,
                        const char *answers)
{
    struct raft_config config = {0};
    ids_add(&config.voters, voters);
    ids_add(&config.outgoing, outgoing);
    ids_add(&config.learners, learners);
    faults_init(&faults);
    faults_add(&faults, &(struct fault){.first = 5, .last = 9, .term = 2, .proven = proven});
    for (uint64_t id = 2; *answers != '\0'; answers++, id++)
        if (*answers != '-')
            faults_answered(&faults, id,
                            *answers == 'n'   ? FAULT_ANSWER_NEVER
                            : *answers == 'u' ? FAULT_ANSWER_UNSURE
                            : *answers == 'l' ? FAULT_ANSWER_LOST
                            : *answers == 'c' ? FAULT_ANSWER_COMPACTED
                                              : FAULT_ANSWER_LATER);
    bool result = faults_dispensable(&faults, &config, 1);
    faults_deinit(&faults);
    return result;
}

Test(faults, an_entry_goes_only_when_no_majority_can_have_had_it)
{
    static const struct {
        const char *why;
        const char *voters, *outgoing, *learners;
        bool proven;
        const char *answers;
        bool want;
    } cases[] = {
        {"nobody ever had it", "123", "", "", false, "nn", true},
        {"only we had it", "123", "", "", true, "nn", true},
        {"a power failure: all were writing it", "123", "", "", false, "uu", true},
        {"one does not answer, maybe it has one", "123", "", "", false, "n-", true},
        {"and we had one", "123", "", "", true, "n-", false},
        {"one cannot tell", "123", "", "", false, "nt", true},
        {"two of five do not answer", "12345", "", "", false, "un--", true},
        {"three of five do not", "12345", "", "", false, "n---", false},
        {"one of two does not answer", "12", "", "", false, "-", false},
        {"one of four that was removed, one does not answer", "1234", "", "", false, "-nn", true},
        {"two of four do not answer", "1234", "", "", false, "--n", false},
        {"one has it in its tables", "123", "", "", false, "nc", false},
        {"another had it, we may not", "123", "", "", false, "nl", true},
        {"two of three had it: it may be committed", "123", "", "", true, "nl", false},
        {"the two others had it", "123", "", "", false, "ll", false},
        {"two of five had it", "12345", "", "", true, "lnnn", true},
        {"three of five had it", "12345", "", "", true, "llnn", false},
        {"a learner does not answer: it does not count", "123", "", "4", false, "nn-", true},
        {"a learner says never", "123", "", "4", false, "nnn", true},
        {"a learner had it: it does not count", "123", "", "4", true, "nnl", true},
        {"a majority of the half that leaves", "123", "145", "", true, "nnln", false},
        {"two of two", "12", "", "", true, "l", false},
        {"one of two: the other may be new", "12", "", "", true, "n", false},
        {"nobody of two", "12", "", "", false, "n", true},
        {"two of four, and one that was removed since", "1234", "", "", true, "lnn", false},
        {"one of four", "1234", "", "", true, "nnn", true},
        {"half of those that leave", "123", "1245", "", true, "nnnl", false},
        {"alone, and it was being written", "1", "", "", false, "", true},
        {"alone, and it was there", "1", "", "", true, "", false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        cr_expect_eq(dispensable(cases[i].voters, cases[i].outgoing, cases[i].learners,
                                 cases[i].proven, cases[i].answers),
                     cases[i].want, "%s", cases[i].why);
}

Test(faults, who_told)
{
    struct raft_config config = {0};
    ids_add(&config.voters, "123");
    ids_add(&config.learners, "4");
    faults_init(&faults);
    add(5, 9);
    faults_answered(&faults, 2, FAULT_ANSWER_NEVER);
    faults_answered(&faults, 4, FAULT_ANSWER_UNSURE);
    cr_expect_not(faults_all_told(&faults, &config, 1), "3 did not answer");
    faults_answered(&faults, 3, FAULT_ANSWER_LATER);
    cr_expect_not(faults_all_told(&faults, &config, 1), "3 cannot tell now");
    faults_answered(&faults, 3, FAULT_ANSWER_LOST);
    cr_expect(faults_all_told(&faults, &config, 1));
    cr_expect_not(faults_all_told(&faults, &config, 5), "1 is another then");
    faults_deinit(&faults);
}
