#include "tools/raft-repl/repl.h"

#include "core/invariant.h"
#include "tools/raft-repl/repl_internal.h"

#include <inttypes.h>
#include <stdlib.h>

#define ANY COMMAND_WORDS_MAX

static const struct {
    const char *name;
    repl_handler *run;
    uint32_t words_min, words_max; /* with the name */
    uint32_t text_words;           /* > 0: free text follows that many words */
    const char *options;
    const char *usage;
} commands[] = {
    {"add-nodes", repl_add_nodes, 2, 2, 0,
     "voters learners index inflight async-storage-writes prevote checkquorum early-vote "
     "step-down-on-removal disable-conf-change-validation read-only "
     "max-committed-size-per-ready max-message-size max-inflight-size max-uncommitted-size",
     "N [voters=(..)] [learners=(..)] [index=I] [option=value]..."},
    {"campaign", repl_campaign, 2, 2, 0, "", "i"},
    {"propose", repl_propose, 2, 2, 2, "", "i TEXT"},
    {"propose-conf-change", repl_propose_change, 2, ANY, 0, "v1 transition",
     "i [v1=b] [transition=auto|implicit|explicit] : v2 l3 r1 u4"},
    {"tick", repl_tick, 2, 3, 0, "", "i [n]"},
    {"set-timeout", repl_set_timeout, 3, 3, 0, "", "i n"},
    {"process-ready", repl_process_ready, 1, ANY, 0, "", "[i..]"},
    {"process-append", repl_process_append, 1, ANY, 0, "", "[i..]"},
    {"process-apply", repl_process_apply, 1, ANY, 0, "", "[i..]"},
    {"deliver", repl_deliver, 1, ANY, 0, "drop type", "[i..] [drop=(..)] [type=T]"},
    {"stabilize", repl_stabilize, 1, ANY, 0, "", "[i..]"},
    {"transfer", repl_transfer, 3, 3, 0, "", "from to"},
    {"read-index", repl_read_index, 3, 3, 0, "", "i ID"},
    {"forget-leader", repl_forget_leader, 2, 2, 0, "", "i"},
    {"report-unreachable", repl_report_unreachable, 3, 3, 0, "", "i j"},
    {"report-snapshot", repl_report_snapshot, 4, 4, 0, "", "i j ok|fail"},
    {"send-snapshot", repl_send_snapshot, 3, 3, 0, "", "i j"},
    {"compact", repl_compact, 3, 3, 0, "", "i I"},
    {"crash", repl_crash, 2, 2, 0, "", "i"},
    {"restart", repl_restart, 2, 2, 0, "", "i"},
    {"state", repl_state, 1, 1, 0, "", ""},
    {"status", repl_status, 2, 2, 0, "", "i"},
    {"log", repl_log, 2, 2, 0, "", "i"},
    {"config", repl_config, 2, 2, 0, "", "i"},
    {"reads", repl_reads, 2, 2, 0, "", "i"},
    {"quorum-commit", repl_quorum_commit, 1, 1, 0, "cfg cfgj idx",
     "cfg=(..) [cfgj=(..)] idx=(1 2 _ ..)"},
    {"quorum-vote", repl_quorum_vote, 1, 1, 0, "cfg cfgj votes",
     "cfg=(..) [cfgj=(..)] votes=(y n _ ..)"},
    {"changer", repl_changer, 2, ANY, 0, "autoleave",
     "simple|enter-joint|leave-joint|reset [autoleave=b] : ops"},
    {"trace", repl_trace, 2, 2, 0, "", "on|off"},
};

struct repl *repl_open(void)
{
    struct repl *repl = calloc(1, sizeof(*repl));
    invariant(repl != NULL);
    cluster_init(&repl->cluster);
    return repl;
}

void repl_close(struct repl *repl)
{
    cluster_deinit(&repl->cluster);
    free(repl);
}

void repl_say(struct repl *repl, const char *text)
{
    fprintf(repl->out, "%s\n", text);
}

void repl_say_result(struct repl *repl, int error)
{
    if (error == 0)
        repl_say(repl, "ok");
    else
        fprintf(repl->out, "error: %s\n", err_name(error));
}

struct node *repl_node(struct repl *repl, struct command *command, uint32_t at)
{
    uint64_t id = command_number(command, at);
    struct node *node = cluster_node(&repl->cluster, id);
    if (node == NULL && !command_failed(command))
        command_fail(command, command->words[at], "no such node");
    return command_failed(command) ? NULL : node;
}

struct node *repl_node_up(struct repl *repl, struct command *command, uint32_t at)
{
    struct node *node = repl_node(repl, command, at);
    if (node != NULL && !node->up) {
        command_fail(command, command->words[at], "this node is down");
        return NULL;
    }
    return node;
}

struct command_list repl_nodes(struct repl *repl, struct command *command, uint32_t at)
{
    struct command_list list = {0};
    for (uint32_t i = at; i < command->word_count && list.count < COMMAND_LIST_MAX; i++) {
        const struct node *node = repl_node(repl, command, i);
        list.values[list.count++] = node == NULL ? 0 : node->id;
    }
    if (command->word_count <= at)
        for (uint64_t id = 1; id <= repl->cluster.node_count; id++)
            list.values[list.count++] = id;
    return list;
}

/* The row of the table that the first word of `line` names; ARRAY_COUNT(commands) = none. */
static size_t find_command(const char *line)
{
    size_t length = strcspn(line, " \t,");
    size_t at = 0;
    while (at < ARRAY_COUNT(commands) &&
           (strlen(commands[at].name) != length || strncmp(commands[at].name, line, length) != 0))
        at++;
    return at;
}

static void run(struct repl *repl, const char *line, struct command *command)
{
    size_t at = find_command(line);
    if (at == ARRAY_COUNT(commands)) {
        char name[40];
        snprintf(name, sizeof(name), "%.*s", (int)u64_min(strcspn(line, " \t,"), 32), line);
        command->error[0] = '\0';
        command_fail(command, name, "unknown command");
        return;
    }
    command_parse(command, line, commands[at].text_words);
    command_check_options(command, commands[at].options);
    if (!command_failed(command) && (command->word_count < commands[at].words_min ||
                                     command->word_count > commands[at].words_max))
        snprintf(command->error, sizeof(command->error), "usage: %.20s%s%.130s", commands[at].name,
                 commands[at].usage[0] == '\0' ? "" : " ", commands[at].usage);
    if (!command_failed(command))
        commands[at].run(repl, command);
}

void repl_command(struct repl *repl, const char *line, FILE *out)
{
    struct command command;
    repl->out = out;
    repl->cluster.trace = repl->quiet ? NULL : out;
    while (command_blank(*line))
        line++;
    run(repl, line, &command);
    if (command_failed(&command))
        fprintf(out, "error: %s\n", command.error);
    cluster_check(&repl->cluster);
    fprintf(out, ".\n");
    fflush(out);
}

/* One line without its end. False at the end of input; of a line too long for `line` the rest is
 * skipped, what is kept is too long for a command too. */
static bool line_read(FILE *in, char *line, size_t size)
{
    if (fgets(line, (int)size, in) == NULL)
        return false;
    size_t length = strcspn(line, "\n");
    if (line[length] == '\0')
        for (int c = fgetc(in); c != EOF && c != '\n';)
            c = fgetc(in);
    line[length] = '\0';
    line[strcspn(line, "\r")] = '\0';
    return true;
}

void repl_run(struct repl *repl, FILE *in, FILE *out, bool echo)
{
    char line[COMMAND_LINE_BYTES_MAX + 2];
    while (line_read(in, line, sizeof(line))) {
        const char *text = line;
        while (command_blank(*text))
            text++;
        if (*text == '\0' || *text == '#')
            continue;
        if (echo)
            fprintf(out, "> %s\n", text);
        repl_command(repl, text, out);
    }
}
