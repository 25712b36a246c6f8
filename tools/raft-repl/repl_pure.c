/* Commands that need no node: majorities and changes of configurations. */
#include "consensus/config_change.h"
#include "consensus/quorum.h"
#include "tools/raft-repl/repl_internal.h"

#include <inttypes.h>

/* What each id of the two halves answered, in the order in which they were named. */
struct halves {
    struct command_list cfg[2];
    uint64_t values[2][COMMAND_LIST_MAX];
};

/* Values go to ids in order of first appearance in cfg, then cfgj. */
static void halves_read(struct command *command, const char *values_name, const char *letters,
                        struct halves *halves)
{
    static const char *const names[] = {"cfg", "cfgj"};
    struct command_list values = command_option_list(command, values_name, letters);
    const struct command_list *cfg = halves->cfg;
    uint32_t next = 0;
    for (uint32_t half = 0; half < 2; half++) {
        struct raft_id_set distinct = command_option_ids(command, names[half]);
        halves->cfg[half] = command_option_list(command, names[half], "");
        for (uint32_t i = 0; i < distinct.count && i < COMMAND_LIST_MAX; i++) {
            uint64_t *value = &halves->values[half][i];
            *value = COMMAND_MISSING;
            bool known = false;
            for (uint32_t j = 0; half == 1 && j < cfg[0].count; j++)
                if (cfg[0].values[j] == cfg[1].values[i]) {
                    *value = halves->values[0][j];
                    known = true;
                }
            if (!known && next < values.count)
                *value = values.values[next++];
        }
    }
    if (next < values.count)
        command_fail(command, values_name, "more values than members");
}

void repl_quorum_commit(struct repl *repl, struct command *command)
{
    struct halves halves = {0};
    halves_read(command, "idx", "_", &halves);
    if (command_failed(command))
        return;
    for (uint32_t half = 0; half < 2; half++)
        for (uint32_t i = 0; i < halves.cfg[half].count; i++)
            if (halves.values[half][i] == COMMAND_MISSING)
                halves.values[half][i] = 0;
    uint64_t index = quorum_commit_joint(halves.values[0], halves.cfg[0].count, halves.values[1],
                                         halves.cfg[1].count);
    if (index == UINT64_MAX)
        repl_say(repl, "infinite");
    else
        fprintf(repl->out, "%" PRIu64 "\n", index);
}

void repl_quorum_vote(struct repl *repl, struct command *command)
{
    static const char *const results[] = {"pending", "lost", "won"};
    struct halves halves = {0};
    enum quorum_answer answers[2][COMMAND_LIST_MAX];
    halves_read(command, "votes", "yn_", &halves);
    for (uint32_t half = 0; half < 2; half++) {
        for (uint32_t i = 0; i < halves.cfg[half].count; i++) {
            uint64_t value = halves.values[half][i];
            answers[half][i] =
                value == COMMAND_MISSING ? QUORUM_MISSING : (enum quorum_answer)value;
        }
    }
    if (!command_failed(command))
        repl_say(repl, results[quorum_vote_joint(quorum_vote(answers[0], halves.cfg[0].count),
                                                 quorum_vote(answers[1], halves.cfg[1].count))]);
}

void repl_changer(struct repl *repl, struct command *command)
{
    struct raft_config_change change = {0};
    struct raft_config next = {0};
    int error = 0;
    const char *what = command->words[1];
    bool auto_leave = command_option_bool(command, "autoleave", false);
    command_changes(command, 2, &change);
    if (command_failed(command))
        return;
    if (strcmp(what, "simple") == 0)
        error = config_change_simple(&repl->changer, change.changes, change.count, &next);
    else if (strcmp(what, "enter-joint") == 0)
        error = config_change_enter_joint(&repl->changer, auto_leave, change.changes, change.count,
                                          &next);
    else if (strcmp(what, "leave-joint") == 0)
        error = config_change_leave_joint(&repl->changer, &next);
    else if (strcmp(what, "reset") != 0)
        return command_fail(command, what, "simple, enter-joint, leave-joint or reset is expected");
    if (error != 0)
        return repl_say_result(repl, error);
    repl->changer = next;
    cluster_print_config(repl->out, &repl->changer);
}
