/* Commands that drain cores, complete the work of lanes and move messages. */
#include "tools/raft-repl/repl_internal.h"

#include <inttypes.h>

/* Calls `move` for each node that the command names, and says `nothing` of those it cannot move. */
static void move_nodes(struct repl *repl, struct command *command, bool (*move)(struct node *node),
                       const char *nothing)
{
    struct command_list nodes = repl_nodes(repl, command, 1);
    for (uint32_t i = 0; i < nodes.count && !command_failed(command); i++) {
        struct node *node = cluster_node(&repl->cluster, nodes.values[i]);
        if (!move(node))
            fprintf(repl->out, "  node %" PRIu64 " %s\n", node->id, node->up ? nothing : "is down");
    }
}

void repl_process_ready(struct repl *repl, struct command *command)
{
    move_nodes(repl, command, node_ready, "has nothing ready");
}

void repl_process_append(struct repl *repl, struct command *command)
{
    move_nodes(repl, command, node_append, "has no work");
}

void repl_process_apply(struct repl *repl, struct command *command)
{
    move_nodes(repl, command, node_apply, "has no work");
}

/* Our name of a kind, or the one that the reference implementation gives it. */
static int kind_from(struct command *command)
{
    static const char *const names[] = {
        [RAFT_MESSAGE_APPEND] = "MsgApp",
        [RAFT_MESSAGE_APPEND_RESPONSE] = "MsgAppResp",
        [RAFT_MESSAGE_HEARTBEAT] = "MsgHeartbeat",
        [RAFT_MESSAGE_HEARTBEAT_RESPONSE] = "MsgHeartbeatResp",
        [RAFT_MESSAGE_VOTE] = "MsgVote",
        [RAFT_MESSAGE_VOTE_RESPONSE] = "MsgVoteResp",
        [RAFT_MESSAGE_PRE_VOTE] = "MsgPreVote",
        [RAFT_MESSAGE_PRE_VOTE_RESPONSE] = "MsgPreVoteResp",
        [RAFT_MESSAGE_SNAPSHOT] = "MsgSnap",
        [RAFT_MESSAGE_TIMEOUT_NOW] = "MsgTimeoutNow",
        [RAFT_MESSAGE_TRANSFER] = "MsgTransferLeader",
        [RAFT_MESSAGE_READ_INDEX] = "MsgReadIndex",
        [RAFT_MESSAGE_READ_INDEX_RESPONSE] = "MsgReadIndexResp",
    };
    const char *type = command_option(command, "type");
    if (type == NULL)
        return 0;
    for (int kind = RAFT_MESSAGE_APPEND; kind <= RAFT_MESSAGE_READ_INDEX_RESPONSE; kind++)
        if (strcmp(type, raft_message_kind_name((enum raft_message_kind)kind)) == 0 ||
            strcmp(type, names[kind]) == 0)
            return kind;
    command_fail(command, type, "no such type of message");
    return 0;
}

void repl_deliver(struct repl *repl, struct command *command)
{
    int kind = kind_from(command);
    struct raft_id_set drop = command_option_ids(command, "drop");
    struct command_list to = {0};
    uint32_t moved = 0;
    if (command->word_count > 1 || drop.count == 0)
        to = repl_nodes(repl, command, 1);
    if (command_failed(command))
        return;
    for (uint32_t i = 0; i < to.count; i++)
        moved += cluster_deliver(&repl->cluster, to.values[i], kind, false);
    for (uint32_t i = 0; i < drop.count; i++)
        moved += cluster_deliver(&repl->cluster, drop.ids[i], kind, true);
    if (moved == 0)
        repl_say(repl, "no messages");
}

void repl_stabilize(struct repl *repl, struct command *command)
{
    struct command_list nodes = repl_nodes(repl, command, 1);
    if (command_failed(command))
        return;
    uint32_t rounds = cluster_stabilize(&repl->cluster, nodes.values, nodes.count);
    if (rounds == CLUSTER_ROUNDS_MAX)
        command_fail(command, "stabilize", "it goes on and on");
    if (rounds <= 1)
        repl_say(repl, "nothing to do");
}
