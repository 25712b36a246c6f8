/* check_history.h is fed histories, one rule at a time: legal ones pass, broken ones are named. */
#include <criterion/criterion.h>

#include "tests/sim/check_history.h"

enum step_kind { END, WRITE, READ, HAPPEN, RETURN, REFUSE, LOSE };

/* Operations are numbered by their calls, from 1. `a` is the key of a call, else the operation. */
struct step {
    enum step_kind kind;
    uint64_t a, revision, value;
};

/* clang-format off */
#define W(key)                   {WRITE, key, 0, 0}
#define R(key)                   {READ, key, 0, 0}
#define H(number, revision)      {HAPPEN, number, revision, 0}
#define A(number, revision, saw) {RETURN, number, revision, saw}
#define X(number)                {REFUSE, number, 0, 0}
#define L(number)                {LOSE, number, 0, 0}
/* clang-format on */

static const struct {
    const char *why;
    bool legal;
    struct step steps[12];
} cases[] = {
    {"a write and a read of it", true, {W(0), H(1, 1), A(1, 1, 0), R(0), A(2, 1, 1)}},
    {"a read of nothing", true, {R(3), A(1, 0, 0)}},
    {"a read beside a write may see either", true, {W(0), R(0), H(1, 1), A(2, 0, 0), A(1, 1, 0)}},
    {"a lost write that happened", true, {W(0), L(1), H(1, 1), R(0), A(2, 1, 1)}},
    {"a lost write that never happens", true, {W(0), L(1), R(0), A(2, 0, 0)}},
    {"a refused write", true, {W(0), X(1)}},
    {"another key is left alone", true, {W(0), H(1, 1), A(1, 1, 0), R(1), A(2, 1, 0)}},
    {"a stale read", false, {W(0), H(1, 1), A(1, 1, 0), R(0), A(2, 0, 0)}},
    {"a read older than another read", false, {W(0), H(1, 1), R(0), A(2, 1, 1), R(0), A(3, 0, 0)}},
    {"a read of another value", false, {W(0), H(1, 1), W(0), H(2, 2), R(0), A(3, 2, 1)}},
    {"a read from the future", false, {R(0), A(1, 1, 0)}},
    {"a write answered and never done", false, {W(0), A(1, 1, 0)}},
    {"a write answered with another revision", false, {W(0), W(0), H(1, 1), H(2, 2), A(1, 2, 0)}},
    {"a write that happens twice", false, {W(0), H(1, 1), H(1, 2)}},
    {"a refused write that happens", false, {W(0), X(1), H(1, 1)}},
    {"a write that is refused after it happened", false, {W(0), H(1, 1), X(1)}},
    {"a revision without author", false, {H(0, 1)}},
    {"a revision by a read", false, {R(0), H(1, 1)}},
    {"a revision left out", false, {W(0), H(1, 2)}},
    {"two answers", false, {R(0), A(1, 0, 0), A(1, 0, 0)}},
};

static void run_step(struct check_history *history, const struct step *step)
{
    switch (step->kind) {
    case WRITE:
    case READ:
        check_history_call(history, step->kind == WRITE, (uint32_t)step->a);
        break;
    case HAPPEN:
        check_history_happen(history, step->a, step->revision);
        break;
    case RETURN:
        check_history_return(history, step->a, step->revision, step->value);
        break;
    case REFUSE:
        check_history_refuse(history, step->a);
        break;
    case LOSE:
        check_history_lose(history, step->a);
        break;
    case END:
        break;
    }
}

Test(check_history, histories)
{
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct verdict verdict = {0};
        struct check_history history;
        check_history_init(&history, &verdict, 0);
        for (size_t at = 0; at < ARRAY_COUNT(cases[i].steps); at++)
            run_step(&history, &cases[i].steps[at]);
        cr_expect_eq(verdict.outcome, cases[i].legal ? SIM_PASS : SIM_SAFETY, "%s: %s",
                     cases[i].why, verdict.text);
        check_history_deinit(&history);
    }
}
