/* Commands that build the group, feed a node, or act as its transport and its disk. */
#include "tools/raft-repl/repl_internal.h"

#include <inttypes.h>

#define TICKS_MAX 10000
/* Left free in the index space of a group, for entries that leaders append by themselves. */
#define INDEX_RESERVE 1024

static void options_from(struct command *command, struct raft_options *options)
{
    cluster_options(options);
    uint64_t inflight = command_option_number(command, "inflight", 256);
    if (inflight == 0 || inflight > 65536)
        command_fail(command, "inflight", "1 to 65536 is expected");
    options->inflight_messages_max = (uint32_t)inflight;
    options->inflight_bytes_max = command_option_number(command, "max-inflight-size", 0);
    options->pre_vote = command_option_bool(command, "prevote", false);
    options->check_quorum = command_option_bool(command, "checkquorum", false);
    options->early_vote = command_option_bool(command, "early-vote", false);
    options->step_down_on_removal = command_option_bool(command, "step-down-on-removal", false);
    options->skip_config_validation =
        command_option_bool(command, "disable-conf-change-validation", false);
    options->apply_bytes_max =
        command_option_number(command, "max-committed-size-per-ready", UINT64_MAX);
    options->message_bytes_max = command_option_number(command, "max-message-size", UINT64_MAX);
    options->uncommitted_bytes_max =
        command_option_number(command, "max-uncommitted-size", UINT64_MAX);
    const char *mode = command_option(command, "read-only");
    if (mode != NULL && strcmp(mode, "lease-based") == 0) {
        options->read_mode = RAFT_READ_LEASE;
        if (command_option(command, "checkquorum") != NULL && !options->check_quorum)
            command_fail(command, "read-only", "a lease needs checkquorum=true");
        options->check_quorum = true;
    } else if (mode != NULL && strcmp(mode, "safe") != 0) {
        command_fail(command, "read-only", "safe or lease-based is expected");
    }
}

void repl_add_nodes(struct repl *repl, struct command *command)
{
    struct raft_options options;
    struct raft_snapshot snapshot = {.index = command_option_number(command, "index", 0)};
    uint64_t count = command_number(command, 1);
    bool async_storage = command_option_bool(command, "async-storage-writes", false);
    snapshot.config.voters = command_option_ids(command, "voters");
    snapshot.config.learners = command_option_ids(command, "learners");
    snapshot.term = snapshot.index > 0;
    options_from(command, &options);
    if (count == 0 || count > CLUSTER_NODES_MAX - repl->cluster.node_count)
        command_fail(command, "add-nodes", "a group has 1 to 16 nodes");
    if (raft_config_validate(&snapshot.config) != 0)
        command_fail(command, "voters", "with these learners no configuration");
    if (snapshot.index >= CLUSTER_INDEX_MAX / 2)
        command_fail(command, "index", "below 32768 is expected");
    if (command_failed(command))
        return;
    for (uint64_t i = 0; i < count; i++)
        cluster_add(&repl->cluster, &options, &snapshot, async_storage);
    repl_say(repl, "ok");
}

void repl_campaign(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    if (node == NULL)
        return;
    raft_campaign(&node->raft);
    repl_say(repl, raft_role_name(node->raft.role));
}

static bool log_has_room(struct command *command, const struct node *node)
{
    if (node->raft.log.last_index < CLUSTER_INDEX_MAX - INDEX_RESERVE)
        return true;
    command_fail(command, command->words[0], "the log is at its end, start a new group");
    return false;
}

void repl_propose(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    if (node == NULL || !log_has_room(command, node))
        return;
    repl_say_result(repl, node_propose(node, ENTRY_NORMAL, command->rest, strlen(command->rest)));
}

static enum raft_transition transition_from(struct command *command)
{
    static const char *const names[] = {"auto", "implicit", "explicit"};
    const char *text = command_option(command, "transition");
    for (size_t i = 0; i < ARRAY_COUNT(names) && text != NULL; i++)
        if (strcmp(text, names[i]) == 0)
            return (enum raft_transition)i;
    if (text != NULL)
        command_fail(command, "transition", "auto, implicit or explicit is expected");
    return RAFT_TRANSITION_AUTO;
}

void repl_propose_change(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    struct raft_config_change change = {.transition = transition_from(command)};
    command_changes(command, 2, &change);
    if (command_option_bool(command, "v1", false) &&
        (change.count != 1 || change.transition != RAFT_TRANSITION_AUTO))
        command_fail(command, "v1", "goes with one change and no transition");
    if (command_failed(command) || !log_has_room(command, node))
        return;
    repl_say_result(repl, node_propose_change(node, &change));
}

void repl_tick(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    uint64_t ticks = command->word_count > 2 ? command_number(command, 2) : 1;
    if (ticks > TICKS_MAX)
        command_fail(command, "tick", "at most 10000 at once");
    if (command_failed(command))
        return;
    for (uint64_t i = 0; i < ticks; i++) {
        node_tick(node, CLUSTER_TICK_NS);
        /* The buffer of messages is bounded: a long wait drains it as a server would. */
        while (node->raft.message_count > node->options.messages_max / 2 && node_ready(node))
            ;
    }
    repl_say(repl, raft_role_name(node->raft.role));
}

void repl_set_timeout(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    uint64_t ticks = command_number(command, 2);
    if (ticks > TICKS_MAX)
        command_fail(command, "set-timeout", "at most 10000 ticks");
    if (command_failed(command))
        return;
    node->raft.election_draw_ns = ticks * CLUSTER_TICK_NS;
    repl_say(repl, "ok");
}

void repl_transfer(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    uint64_t to = command_number(command, 2);
    if (!command_failed(command))
        repl_say_result(repl, raft_transfer(&node->raft, to));
}

void repl_read_index(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    uint64_t id = command_number(command, 2);
    if (!command_failed(command))
        repl_say_result(repl, raft_read_index(&node->raft, id));
}

void repl_forget_leader(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    if (node == NULL)
        return;
    raft_forget_leader(&node->raft);
    repl_say(repl, "ok");
}

void repl_report_unreachable(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    uint64_t peer = command_number(command, 2);
    if (command_failed(command))
        return;
    raft_report_unreachable(&node->raft, peer);
    repl_say(repl, "ok");
}

void repl_report_snapshot(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    uint64_t peer = command_number(command, 2);
    bool ok = strcmp(command->words[3], "ok") == 0;
    if (!ok && strcmp(command->words[3], "fail") != 0)
        command_fail(command, command->words[3], "ok or fail is expected");
    if (command_failed(command))
        return;
    raft_report_snapshot(&node->raft, peer, ok);
    repl_say(repl, "ok");
}

/* A snapshot of what the sender applied, as if its core had asked for it. */
void repl_send_snapshot(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    struct node *to = repl_node(repl, command, 2);
    if (node != NULL && node == to)
        command_fail(command, "send-snapshot", "two nodes are expected");
    if (command_failed(command))
        return;
    struct raft_snapshot snapshot = {0};
    const struct raft_storage *storage = &node->raft.log.storage;
    int error = storage->snapshot(storage->context, to->id, &snapshot);
    if (error != 0) {
        repl_say_result(repl, error);
        return;
    }
    struct raft_message message = {.kind = RAFT_MESSAGE_SNAPSHOT,
                                   .from = node->id,
                                   .to = to->id,
                                   .term = node->raft.term,
                                   .snapshot = &snapshot};
    struct cluster_message *copy = cluster_message_copy(&repl->cluster, &message);
    cluster_print_message(repl->out, copy);
    cluster_network_push(&repl->cluster, copy);
}

void repl_compact(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    uint64_t index = command_number(command, 2);
    if (node != NULL && index > node->raft.log.applied_index)
        command_fail(command, command->words[2], "this is not applied yet");
    if (command_failed(command))
        return;
    node_compact(node, index);
    fprintf(repl->out, "first=%" PRIu64 " last=%" PRIu64 "\n", node->raft.log.compacted_index + 1,
            node->raft.log.last_index);
}

void repl_crash(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    if (node == NULL)
        return;
    node_crash(node, 0);
    repl_say(repl, "ok");
}

void repl_restart(struct repl *repl, struct command *command)
{
    struct node *node = repl_node(repl, command, 1);
    if (node != NULL && node->up)
        command_fail(command, command->words[1], "this node runs");
    if (!command_failed(command))
        repl_say_result(repl, node_restart(node));
}
