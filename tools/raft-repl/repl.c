#include "tools/raft-repl/repl.h"

#include "consensus/config_change.h"
#include "consensus/quorum.h"
#include "core/invariant.h"
#include "tools/raft-repl/cluster.h"

#include <inttypes.h>
#include <stdlib.h>

#define WORDS_MAX      64
#define LIST_MAX       32
#define LINE_BYTES_MAX 4096
#define MISSING        UINT64_MAX /* "_" in a list */

struct option {
    const char *name;
    const char *value; /* without parentheses */
    bool used;
};

/* A command taken apart: words in order, options by name. */
struct command {
    char bytes[LINE_BYTES_MAX];
    const char *words[WORDS_MAX];
    uint32_t word_count;
    struct option options[WORDS_MAX];
    uint32_t option_count;
    const char *rest; /* of a propose: the text after the node, as it was typed */
};

struct list {
    uint64_t values[LIST_MAX];
    uint32_t count;
};

struct repl {
    struct cluster cluster;
    struct raft_config changer; /* what the changer command works on */
    FILE *out;
    bool quiet; /* do not write what nodes and messages do */
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

/* ---- taking a line apart ---- */

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == ',';
}

/* Splits in place. A parenthesis keeps its blanks. False: too long or unbalanced. */
static bool command_split(struct command *command, const char *line)
{
    size_t size = strlen(line);
    memset(command, 0, sizeof(*command));
    if (size >= sizeof(command->bytes))
        return false;
    memcpy(command->bytes, line, size + 1);
    char *at = command->bytes;
    while (*at != '\0') {
        while (blank(*at))
            at++;
        if (*at == '\0')
            break;
        if (command->word_count == WORDS_MAX || command->option_count == WORDS_MAX)
            return false;
        char *word = at;
        char *value = NULL;
        while (*at != '\0' && !blank(*at)) {
            if (*at == '=' && value == NULL) {
                *at = '\0';
                value = at + 1;
            }
            if (*at == '(' && (at = strchr(at, ')')) == NULL)
                return false;
            at++;
        }
        if (*at != '\0')
            *at++ = '\0';
        if (value == NULL) {
            command->words[command->word_count++] = word;
            continue;
        }
        size_t length = strlen(value);
        if (length >= 2 && value[0] == '(' && value[length - 1] == ')') {
            value[length - 1] = '\0';
            value++;
        }
        command->options[command->option_count++] = (struct option){.name = word, .value = value};
    }
    return true;
}

static const char *option_text(struct command *command, const char *name)
{
    for (uint32_t i = 0; i < command->option_count; i++) {
        if (strcmp(command->options[i].name, name) == 0) {
            command->options[i].used = true;
            return command->options[i].value;
        }
    }
    return NULL;
}

static bool option_bool(struct command *command, const char *name, bool otherwise)
{
    const char *text = option_text(command, name);
    return text == NULL ? otherwise : strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
}

static uint64_t option_number(struct command *command, const char *name, uint64_t otherwise)
{
    const char *text = option_text(command, name);
    return text == NULL ? otherwise : strtoull(text, NULL, 10);
}

/* Numbers, "_" for a missing one, y and n as answers of a vote. */
static struct list list_parse(const char *text)
{
    struct list list = {0};
    while (text != NULL && *text != '\0' && list.count < LIST_MAX) {
        char *end = NULL;
        if (blank(*text)) {
            text++;
            continue;
        }
        if (*text == '_' || *text == 'y' || *text == 'n') {
            list.values[list.count++] = *text == 'y'   ? QUORUM_YES
                                        : *text == 'n' ? QUORUM_NO
                                                       : MISSING;
            text++;
            continue;
        }
        uint64_t value = strtoull(text, &end, 10);
        if (end == text)
            break;
        list.values[list.count++] = value;
        text = end;
    }
    return list;
}

static uint64_t word_number(const struct command *command, uint32_t at)
{
    return at < command->word_count ? strtoull(command->words[at], NULL, 10) : 0;
}

static int say(struct repl *repl, const char *text)
{
    fprintf(repl->out, "%s\n", text);
    return 0;
}

static int say_error(struct repl *repl, int error)
{
    if (error == 0)
        return say(repl, "ok");
    fprintf(repl->out, "error: %s\n", err_name(error));
    return 0;
}

static struct node *word_node(struct repl *repl, const struct command *command, uint32_t at)
{
    struct node *node = cluster_node(&repl->cluster, word_number(command, at));
    if (node == NULL)
        fprintf(repl->out, "error: no such node\n");
    return node;
}

/* The nodes named from word `at` on; all when none is. */
static struct list word_nodes(struct repl *repl, const struct command *command, uint32_t at)
{
    struct list list = {0};
    for (uint32_t i = at; i < command->word_count && list.count < LIST_MAX; i++)
        if (cluster_node(&repl->cluster, word_number(command, i)) != NULL)
            list.values[list.count++] = word_number(command, i);
    if (command->word_count <= at)
        for (uint64_t id = 1; id <= repl->cluster.node_count; id++)
            list.values[list.count++] = id;
    return list;
}

/* ---- building the group ---- */

static bool set_from_list(struct raft_id_set *set, const struct list *list)
{
    for (uint32_t i = 0; i < list->count; i++)
        if (list->values[i] == 0 || list->values[i] > RAFT_ID_MAX ||
            !raft_id_set_add(set, list->values[i]))
            return false;
    return true;
}

static void options_from(struct command *command, struct raft_options *options)
{
    cluster_options(options);
    options->inflight_messages_max = (uint32_t)option_number(command, "inflight", 256);
    options->pre_vote = option_bool(command, "prevote", false);
    options->check_quorum = option_bool(command, "checkquorum", false);
    options->early_vote = option_bool(command, "early-vote", false);
    options->step_down_on_removal = option_bool(command, "step-down-on-removal", false);
    options->skip_config_validation = option_bool(command, "disable-conf-change-validation", false);
    options->apply_bytes_max = option_number(command, "max-committed-size-per-ready", UINT64_MAX);
    options->message_bytes_max = option_number(command, "max-message-size", UINT64_MAX);
    options->uncommitted_bytes_max = option_number(command, "max-uncommitted-size", UINT64_MAX);
    const char *mode = option_text(command, "read-only");
    if (mode != NULL && strcmp(mode, "lease-based") == 0) {
        options->read_mode = RAFT_READ_LEASE;
        options->check_quorum = true;
    }
}

static int do_add_nodes(struct repl *repl, struct command *command)
{
    struct raft_options options;
    struct raft_snapshot snapshot = {.index = option_number(command, "index", 0)};
    struct list voters = list_parse(option_text(command, "voters"));
    struct list learners = list_parse(option_text(command, "learners"));
    uint64_t count = word_number(command, 1);
    bool async_storage = option_bool(command, "async-storage-writes", false);
    options_from(command, &options);
    if (count == 0 || repl->cluster.node_count + count > CLUSTER_NODES_MAX)
        return say(repl, "error: how many nodes?");
    if (!set_from_list(&snapshot.config.voters, &voters) ||
        !set_from_list(&snapshot.config.learners, &learners) ||
        raft_config_validate(&snapshot.config) != 0 || snapshot.index >= CLUSTER_INDEX_MAX / 2)
        return say(repl, "error: no such configuration");
    if (options.inflight_messages_max == 0 || options.inflight_messages_max > 65536)
        return say(repl, "error: inflight out of range");
    snapshot.term = snapshot.index > 0;
    for (uint64_t i = 0; i < count; i++)
        cluster_add(&repl->cluster, &options, &snapshot, async_storage);
    return say(repl, "ok");
}

/* ---- inputs ---- */

static int do_campaign(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    if (node == NULL)
        return 0;
    raft_campaign(&node->raft);
    return say(repl, raft_role_name(node->raft.role));
}

static int do_propose(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    if (node == NULL)
        return 0;
    const char *text = command->rest != NULL ? command->rest : "";
    return say_error(repl, node_propose(node, ENTRY_NORMAL, text, strlen(text)));
}

/* "v1 l2 r3 u4" from word `at` on. */
static bool changes_parse(const struct command *command, uint32_t at,
                          struct raft_config_change *change)
{
    for (uint32_t i = at; i < command->word_count; i++) {
        const char *word = command->words[i];
        const char *kinds = "vlru";
        const char *kind = strchr(kinds, word[0]);
        if (strcmp(word, ":") == 0)
            continue;
        if (word[0] == '\0' || kind == NULL || change->count == RAFT_MEMBERS_MAX)
            return false;
        char *end = NULL;
        change->changes[change->count++] = (struct raft_change){
            .kind = (enum raft_change_kind)(kind - kinds), .id = strtoull(word + 1, &end, 10)};
        if (end == word + 1 || *end != '\0')
            return false;
    }
    return true;
}

static int do_propose_change(struct repl *repl, struct command *command)
{
    struct raft_config_change change = {0};
    struct node *node = word_node(repl, command, 1);
    const char *transition = option_text(command, "transition");
    bool single = option_bool(command, "v1", false);
    if (node == NULL)
        return 0;
    if (!changes_parse(command, 2, &change) || (single && change.count != 1))
        return say(repl, "error: changes are v1 l2 r3 u4");
    if (transition != NULL && strcmp(transition, "implicit") == 0)
        change.transition = RAFT_TRANSITION_IMPLICIT;
    if (transition != NULL && strcmp(transition, "explicit") == 0)
        change.transition = RAFT_TRANSITION_EXPLICIT;
    return say_error(repl, node_propose_change(node, &change));
}

static int do_tick(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    uint64_t ticks = command->word_count > 2 ? word_number(command, 2) : 1;
    if (node == NULL)
        return 0;
    for (uint64_t i = 0; i < ticks && i < 100000; i++) {
        node_tick(node, CLUSTER_TICK_NS);
        /* The buffer of messages is bounded: a long wait drains it as a server would. */
        while (node->raft.message_count > node->options.messages_max / 2 && node_ready(node))
            ;
    }
    return say(repl, raft_role_name(node->raft.role));
}

static int do_set_timeout(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    if (node == NULL)
        return 0;
    node->raft.election_draw_ns = word_number(command, 2) * CLUSTER_TICK_NS;
    return say(repl, "ok");
}

static int do_transfer(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    return node == NULL ? 0 : say_error(repl, raft_transfer(&node->raft, word_number(command, 2)));
}

static int do_read_index(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    return node == NULL ? 0
                        : say_error(repl, raft_read_index(&node->raft, word_number(command, 2)));
}

static int do_forget_leader(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    if (node == NULL)
        return 0;
    raft_forget_leader(&node->raft);
    return say(repl, "ok");
}

static int do_report_unreachable(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    if (node == NULL)
        return 0;
    raft_report_unreachable(&node->raft, word_number(command, 2));
    return say(repl, "ok");
}

static int do_report_snapshot(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    if (node == NULL)
        return 0;
    bool ok = command->word_count > 3 && strcmp(command->words[3], "ok") == 0;
    raft_report_snapshot(&node->raft, word_number(command, 2), ok);
    return say(repl, "ok");
}

/* A snapshot of what the sender applied, as if its core had asked for it. */
static int do_send_snapshot(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    struct node *to = word_node(repl, command, 2);
    if (node == NULL || to == NULL)
        return 0;
    struct raft_snapshot snapshot = {0};
    const struct raft_storage *storage = &node->raft.log.storage;
    int error = storage->snapshot(storage->context, to->id, &snapshot);
    if (error != 0)
        return say_error(repl, error);
    struct raft_message message = {.kind = RAFT_MESSAGE_SNAPSHOT,
                                   .from = node->id,
                                   .to = to->id,
                                   .term = node->raft.term,
                                   .snapshot = &snapshot};
    struct cluster_message *copy = cluster_message_copy(&repl->cluster, &message);
    cluster_print_message(repl->out, copy);
    cluster_network_push(&repl->cluster, copy);
    return 0;
}

static int do_compact(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    if (node == NULL)
        return 0;
    node_compact(node, word_number(command, 2));
    fprintf(repl->out, "first=%" PRIu64 " last=%" PRIu64 "\n", node->raft.log.compacted_index + 1,
            node->raft.log.last_index);
    return 0;
}

static int do_crash(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    if (node == NULL)
        return 0;
    node_crash(node, 0);
    return say(repl, "ok");
}

static int do_restart(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    return node == NULL ? 0 : say_error(repl, node_restart(node));
}

/* ---- moving the group ---- */

static int do_process_ready(struct repl *repl, struct command *command)
{
    struct list nodes = word_nodes(repl, command, 1);
    for (uint32_t i = 0; i < nodes.count; i++)
        if (!node_ready(cluster_node(&repl->cluster, nodes.values[i])))
            fprintf(repl->out, "  node %" PRIu64 " has nothing ready\n", nodes.values[i]);
    return 0;
}

static int do_process_lane(struct repl *repl, struct command *command, bool (*lane)(struct node *))
{
    struct list nodes = word_nodes(repl, command, 1);
    for (uint32_t i = 0; i < nodes.count; i++)
        if (!lane(cluster_node(&repl->cluster, nodes.values[i])))
            fprintf(repl->out, "  node %" PRIu64 " has no work\n", nodes.values[i]);
    return 0;
}

static int do_process_append(struct repl *repl, struct command *command)
{
    return do_process_lane(repl, command, node_append);
}

static int do_process_apply(struct repl *repl, struct command *command)
{
    return do_process_lane(repl, command, node_apply);
}

static int do_deliver(struct repl *repl, struct command *command)
{
    const char *type = option_text(command, "type");
    struct list drop = list_parse(option_text(command, "drop"));
    int kind = 0;
    for (int i = RAFT_MESSAGE_APPEND; i <= RAFT_MESSAGE_READ_INDEX_RESPONSE && type != NULL; i++)
        if (strcmp(type, raft_message_kind_name((enum raft_message_kind)i)) == 0)
            kind = i;
    if (type != NULL && kind == 0)
        return say(repl, "error: no such type");
    uint32_t moved = 0;
    struct list to = {0};
    if (command->word_count > 1 || drop.count == 0)
        to = word_nodes(repl, command, 1);
    for (uint32_t i = 0; i < to.count; i++)
        moved += cluster_deliver(&repl->cluster, to.values[i], kind, false);
    for (uint32_t i = 0; i < drop.count; i++)
        moved += cluster_deliver(&repl->cluster, drop.values[i], kind, true);
    return moved == 0 ? say(repl, "no messages") : 0;
}

static int do_stabilize(struct repl *repl, struct command *command)
{
    struct list nodes = word_nodes(repl, command, 1);
    uint32_t rounds = cluster_stabilize(&repl->cluster, nodes.values, nodes.count);
    return rounds <= 1 ? say(repl, "nothing to do") : 0;
}

/* ---- looking ---- */

static int do_state(struct repl *repl, struct command *command maybe_unused)
{
    for (uint64_t id = 1; id <= repl->cluster.node_count; id++) {
        const struct node *node = cluster_node(&repl->cluster, id);
        const struct raft *raft = &node->raft;
        fprintf(repl->out,
                "%" PRIu64 " %s term=%" PRIu64 " vote=%" PRIu64 " lead=%" PRIu64 " commit=%" PRIu64
                " applied=%" PRIu64 " last=%" PRIu64 "\n",
                id, node->up ? raft_role_name(raft->role) : "down", raft->term, raft->vote,
                raft->leader, raft->log.committed_index, raft->log.applied_index,
                raft->log.last_index);
    }
    return 0;
}

static int do_status(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    if (node == NULL)
        return 0;
    for (uint32_t i = 0; i < node->raft.peer_count; i++) {
        const struct raft_peer *peer = node->raft.peers[i];
        fprintf(repl->out, "%" PRIu64 " match=%" PRIu64 " next=%" PRIu64 " state=%s paused=%s",
                peer->id, peer->match_index, peer->next_index, progress_state_name(peer->state),
                progress_is_paused(peer) ? "yes" : "no");
        if (peer->pending_snapshot_index != 0)
            fprintf(repl->out, " pending-snapshot=%" PRIu64, peer->pending_snapshot_index);
        if (peer->inflights.count != 0)
            fprintf(repl->out, " inflight=%u", peer->inflights.count);
        fprintf(repl->out, "%s\n", peer->learner ? " learner" : "");
    }
    return 0;
}

static int do_log(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    if (node == NULL)
        return 0;
    const struct raft_log *log = &node->raft.log;
    if (log->compacted_index > 0)
        fprintf(repl->out, "    %" PRIu64 "/%" PRIu64 " compacted\n", log->compacted_term,
                log->compacted_index);
    for (uint64_t index = log->compacted_index + 1; index <= log->last_index; index++) {
        const struct entry *held = raft_entry(&node->raft, index);
        cluster_print_entry(repl->out, held != NULL ? held : &node->disk.entries[index]);
    }
    return 0;
}

static int do_config(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    if (node != NULL)
        cluster_print_config(repl->out, &node->raft.config);
    return 0;
}

static int do_reads(struct repl *repl, struct command *command)
{
    struct node *node = word_node(repl, command, 1);
    if (node == NULL)
        return 0;
    for (uint32_t i = 0; i < node->read_count; i++)
        fprintf(repl->out, "%" PRIu64 " %" PRIu64 "\n", node->reads[i].id, node->reads[i].index);
    node->read_count = 0;
    return 0;
}

/* ---- pure functions ---- */

/* Values go to ids in order of first appearance in cfg, then cfgj. */
static void spread(const struct list *cfg, const struct list *cfgj, const struct list *values,
                   uint64_t incoming[LIST_MAX], uint64_t outgoing[LIST_MAX])
{
    uint32_t next = 0;
    for (uint32_t i = 0; i < cfg->count; i++)
        incoming[i] = next < values->count ? values->values[next++] : MISSING;
    for (uint32_t j = 0; j < cfgj->count; j++) {
        outgoing[j] = MISSING;
        bool known = false;
        for (uint32_t i = 0; i < cfg->count; i++) {
            if (cfg->values[i] == cfgj->values[j]) {
                outgoing[j] = incoming[i];
                known = true;
            }
        }
        if (!known && next < values->count)
            outgoing[j] = values->values[next++];
    }
}

static int do_quorum(struct repl *repl, struct command *command, bool vote)
{
    static const char *const results[] = {"pending", "lost", "won"};
    struct list cfg = list_parse(option_text(command, "cfg"));
    struct list cfgj = list_parse(option_text(command, "cfgj"));
    struct list values = list_parse(option_text(command, vote ? "votes" : "idx"));
    uint64_t halves[2][LIST_MAX];
    enum quorum_answer answers[2][LIST_MAX];
    if (cfg.count > RAFT_MEMBERS_MAX || cfgj.count > RAFT_MEMBERS_MAX)
        return say(repl, "error: too many members");
    spread(&cfg, &cfgj, &values, halves[0], halves[1]);
    for (uint32_t half = 0; half < 2; half++) {
        for (uint32_t i = 0; i < (half == 0 ? cfg.count : cfgj.count); i++) {
            bool missing = halves[half][i] == MISSING;
            answers[half][i] = missing ? QUORUM_MISSING : (enum quorum_answer)halves[half][i];
            halves[half][i] = missing ? 0 : halves[half][i];
        }
    }
    if (vote)
        return say(repl, results[quorum_vote_joint(quorum_vote(answers[0], cfg.count),
                                                   quorum_vote(answers[1], cfgj.count))]);
    uint64_t index = quorum_commit_joint(halves[0], cfg.count, halves[1], cfgj.count);
    if (index == UINT64_MAX)
        return say(repl, "infinite");
    fprintf(repl->out, "%" PRIu64 "\n", index);
    return 0;
}

static int do_quorum_commit(struct repl *repl, struct command *command)
{
    return do_quorum(repl, command, false);
}

static int do_quorum_vote(struct repl *repl, struct command *command)
{
    return do_quorum(repl, command, true);
}

static int do_changer(struct repl *repl, struct command *command)
{
    struct raft_config_change change = {0};
    struct raft_config next;
    int error = 0;
    const char *what = command->word_count > 1 ? command->words[1] : "";
    bool auto_leave = option_bool(command, "autoleave", false);
    if (!changes_parse(command, 2, &change))
        return say(repl, "error: changes are v1 l2 r3 u4");
    if (strcmp(what, "reset") == 0) {
        memset(&repl->changer, 0, sizeof(repl->changer));
        return say(repl, "ok");
    }
    if (strcmp(what, "simple") == 0)
        error = config_change_simple(&repl->changer, change.changes, change.count, &next);
    else if (strcmp(what, "enter-joint") == 0)
        error = config_change_enter_joint(&repl->changer, auto_leave, change.changes, change.count,
                                          &next);
    else if (strcmp(what, "leave-joint") == 0)
        error = config_change_leave_joint(&repl->changer, &next);
    else
        return say(repl, "error: simple, enter-joint, leave-joint or reset");
    if (error != 0)
        return say_error(repl, error);
    repl->changer = next;
    cluster_print_config(repl->out, &repl->changer);
    return 0;
}

static int do_trace(struct repl *repl, struct command *command)
{
    repl->quiet = command->word_count > 1 && strcmp(command->words[1], "off") == 0;
    return say(repl, "ok");
}

/* ---- dispatch ---- */

static const struct {
    const char *name;
    int (*run)(struct repl *repl, struct command *command);
} commands[] = {
    {"add-nodes", do_add_nodes},
    {"campaign", do_campaign},
    {"propose", do_propose},
    {"propose-conf-change", do_propose_change},
    {"tick", do_tick},
    {"set-timeout", do_set_timeout},
    {"process-ready", do_process_ready},
    {"process-append", do_process_append},
    {"process-apply", do_process_apply},
    {"deliver", do_deliver},
    {"stabilize", do_stabilize},
    {"transfer", do_transfer},
    {"read-index", do_read_index},
    {"forget-leader", do_forget_leader},
    {"report-unreachable", do_report_unreachable},
    {"report-snapshot", do_report_snapshot},
    {"send-snapshot", do_send_snapshot},
    {"compact", do_compact},
    {"crash", do_crash},
    {"restart", do_restart},
    {"state", do_state},
    {"status", do_status},
    {"log", do_log},
    {"config", do_config},
    {"reads", do_reads},
    {"quorum-commit", do_quorum_commit},
    {"quorum-vote", do_quorum_vote},
    {"changer", do_changer},
    {"trace", do_trace},
};

/* The text of a proposal: what follows the second word. */
static const char *text_after_node(const char *line)
{
    for (int word = 0; word < 2; word++) {
        while (blank(*line))
            line++;
        while (*line != '\0' && !blank(*line))
            line++;
    }
    while (blank(*line))
        line++;
    return line;
}

void repl_command(struct repl *repl, const char *line, FILE *out)
{
    static const size_t count = ARRAY_COUNT(commands);
    struct command command;
    size_t at = count;
    repl->out = out;
    repl->cluster.trace = repl->quiet ? NULL : out;
    if (!command_split(&command, line) || command.word_count == 0) {
        fprintf(out, "error: what?\n.\n");
        return;
    }
    for (size_t i = 0; i < count; i++)
        if (strcmp(command.words[0], commands[i].name) == 0)
            at = i;
    if (at == count) {
        fprintf(out, "error: unknown command\n.\n");
        return;
    }
    bool proposal = commands[at].run == do_propose;
    if (proposal)
        command.rest = text_after_node(line);
    commands[at].run(repl, &command);
    for (uint32_t i = 0; i < command.option_count && !proposal; i++)
        if (!command.options[i].used)
            fprintf(out, "warning: unknown option %s\n", command.options[i].name);
    cluster_check(&repl->cluster);
    fprintf(out, ".\n");
    fflush(out);
}

void repl_run(struct repl *repl, FILE *in, FILE *out, bool echo)
{
    char line[LINE_BYTES_MAX];
    while (fgets(line, sizeof(line), in) != NULL) {
        line[strcspn(line, "\r\n")] = '\0';
        const char *text = line;
        while (blank(*text))
            text++;
        if (*text == '\0' || *text == '#')
            continue;
        if (echo)
            fprintf(out, "> %s\n", text);
        repl_command(repl, text, out);
    }
}
