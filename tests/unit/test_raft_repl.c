/* The interpreter under random commands, half of them nonsense: each gets an answer that ends in a
 * dot, and the process goes on. */
#include "core/invariant.h"
#include "tools/raft-repl/repl.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#define SESSIONS             100
#define COMMANDS_PER_SESSION 400

struct typist {
    uint64_t random;
    char line[512];
};

static uint32_t pick(struct typist *typist, uint32_t bound)
{
    typist->random = typist->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((typist->random >> 33) % bound);
}

/* What may stand where an argument is wanted. */
static const char *argument(struct typist *typist, bool first)
{
    static const char *const odd[] = {
        "0",
        "9",
        "-1",
        "x",
        "18446744073709551615",
        "99999999999999999999",
        ":",
        "(",
        ")",
        "v2",
        "l3 v2",
        "r1",
        "r1 v4",
        "u2",
        "v0",
        "ok",
        "fail",
        "on",
        "=",
        "voters=",
        "drop=(1 2)",
        "drop=(2)",
        "type=append",
        "type=MsgSnap",
        "cfg=(1 2 3)",
        "cfgj=(2 4)",
        "idx=(1 _)",
        "votes=(y n _)",
        "transition=explicit",
        "v1=true",
        "simple",
        "enter-joint",
        "leave-joint",
        "autoleave=true",
    };
    static const char *const plain[] = {"1", "2", "3", "4", "5", "10", "11", "12"};
    if (first && pick(typist, 8) > 0)
        return plain[pick(typist, 4)];
    return pick(typist, 2) > 0 ? plain[pick(typist, ARRAY_COUNT(plain))]
                               : odd[pick(typist, ARRAY_COUNT(odd))];
}

/* A command with as many arguments as it takes, or sometimes any number. */
static const char *type_command(struct typist *typist)
{
    static const struct {
        const char *name;
        uint32_t words;
    } verbs[] = {
        {"campaign", 1},
        {"propose", 2},
        {"propose-conf-change", 2},
        {"tick", 2},
        {"set-timeout", 2},
        {"process-ready", 1},
        {"process-append", 1},
        {"deliver", 1},
        {"process-apply", 1},
        {"stabilize", 0},
        {"stabilize", 1},
        {"stabilize", 2},
        {"transfer", 2},
        {"read-index", 2},
        {"forget-leader", 1},
        {"compact", 2},
        {"report-snapshot", 3},
        {"send-snapshot", 2},
        {"report-unreachable", 2},
        {"crash", 1},
        {"restart", 1},
        {"restart", 1},
        {"state", 0},
        {"status", 1},
        {"log", 1},
        {"config", 1},
        {"reads", 1},
        {"changer", 2},
        {"quorum-commit", 2},
        {"quorum-vote", 2},
        {"add-nodes", 1},
        {"trace", 1},
        {"propose", 1},
        {"campaign", 1},
        {"nonsense", 1},
    };
    size_t verb = pick(typist, ARRAY_COUNT(verbs));
    uint32_t words = pick(typist, 8) > 0 ? verbs[verb].words : pick(typist, 5);
    int size = snprintf(typist->line, sizeof(typist->line), "%s", verbs[verb].name);
    for (uint32_t i = 0; i < words; i++)
        size += snprintf(typist->line + size, sizeof(typist->line) - (size_t)size, " %s",
                         argument(typist, i == 0));
    return typist->line;
}

static void expect_answer(struct repl *repl, const char *line)
{
    char *answer = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&answer, &size);
    repl_command(repl, line, out);
    fclose(out);
    cr_assert(size >= 2 && strcmp(answer + size - 2, ".\n") == 0, "%s: %s", line, answer);
    cr_assert(size == 2 || answer[size - 3] == '\n', "%s: %s", line, answer);
    free(answer);
}

Test(raft_repl, random_commands_are_answered, .timeout = 300)
{
    for (uint64_t session = 0; session < SESSIONS; session++) {
        struct typist typist = {.random = session};
        struct repl *repl = repl_open();
        char first[256];
        snprintf(first, sizeof(first),
                 "add-nodes 4 voters=(1 2 3) index=%u inflight=%u async-storage-writes=%u "
                 "prevote=%u checkquorum=%u step-down-on-removal=%u read-only=%s",
                 pick(&typist, 2) * 10, 1 + pick(&typist, 4), pick(&typist, 2), pick(&typist, 2), 1,
                 pick(&typist, 2), pick(&typist, 2) ? "safe" : "lease-based");
        expect_answer(repl, first);
        for (int i = 0; i < COMMANDS_PER_SESSION; i++)
            expect_answer(repl, type_command(&typist));
        repl_close(repl);
    }
}
