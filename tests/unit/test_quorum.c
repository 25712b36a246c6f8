/* Majorities, alone and joint (row 114), and against a slow definition. */
#include "consensus/quorum.h"

#include "consensus/config.h"

#include <criterion/criterion.h>

Test(quorum, row_114_commit)
{
    static const struct {
        const char *why;
        uint64_t values[5];
        uint32_t count;
        uint64_t want;
    } cases[] = {
        {"nobody stands in the way", {0}, 0, UINT64_MAX},
        {"a single voter commits alone", {7}, 1, 7},
        {"both of two", {9, 4}, 2, 4},
        {"two of three", {12, 5, 6}, 3, 6},
        {"a missing one counts as nothing", {12, 5, 0}, 3, 5},
        {"a minority ahead does not count", {9, 2, 2}, 3, 2},
        {"two of four is not a majority", {9, 9, 4, 1}, 4, 4},
        {"three of five", {101, 104, 103, 103, 0}, 5, 103},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        cr_expect_eq(quorum_commit(cases[i].values, cases[i].count), cases[i].want, "%s",
                     cases[i].why);
}

Test(quorum, row_114_vote)
{
    const enum quorum_answer y = QUORUM_YES, n = QUORUM_NO, m = QUORUM_MISSING;
    const struct {
        const char *why;
        enum quorum_answer answers[5];
        uint32_t count;
        enum quorum_result want;
    } cases[] = {
        {"nobody to ask", {m}, 0, QUORUM_WON},
        {"alone", {y}, 1, QUORUM_WON},
        {"alone, no", {n}, 1, QUORUM_LOST},
        {"one of two", {y, m}, 2, QUORUM_PENDING},
        {"a tie is lost", {y, y, n, n}, 4, QUORUM_LOST},
        {"open", {y, n, m}, 3, QUORUM_PENDING},
        {"won early", {y, y, m}, 3, QUORUM_WON},
        {"lost early", {n, n, m}, 3, QUORUM_LOST},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        cr_expect_eq(quorum_vote(cases[i].answers, cases[i].count), cases[i].want, "%s",
                     cases[i].why);
}

Test(quorum, row_114_joint_needs_both_halves_and_is_symmetric)
{
    const enum quorum_result results[] = {QUORUM_PENDING, QUORUM_LOST, QUORUM_WON};
    for (size_t a = 0; a < 3; a++) {
        for (size_t b = 0; b < 3; b++) {
            enum quorum_result joint = quorum_vote_joint(results[a], results[b]);
            cr_expect_eq(joint, quorum_vote_joint(results[b], results[a]));
            cr_expect_eq(joint == QUORUM_WON, results[a] == QUORUM_WON && results[b] == QUORUM_WON);
            cr_expect_eq(joint == QUORUM_LOST,
                         results[a] == QUORUM_LOST || results[b] == QUORUM_LOST);
        }
    }
}

/* The largest value that more than half reached, by trying all. */
static uint64_t commit_slowly(const uint64_t *values, uint32_t count)
{
    uint64_t best = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t reached = 0;
        for (uint32_t j = 0; j < count; j++)
            reached += values[j] >= values[i];
        if (reached > count / 2 && values[i] > best)
            best = values[i];
    }
    return best;
}

Test(quorum, commit_agrees_with_its_definition)
{
    uint64_t random = 1;
    for (int round = 0; round < 20000; round++) {
        uint64_t values[RAFT_MEMBERS_MAX];
        uint32_t count = 1 + (uint32_t)(round % RAFT_MEMBERS_MAX);
        for (uint32_t i = 0; i < count; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            values[i] = (random >> 40) % 8;
        }
        cr_assert_eq(quorum_commit(values, count), commit_slowly(values, count));
    }
}
