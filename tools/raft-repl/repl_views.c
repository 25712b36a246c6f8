/* Commands that look at nodes. */
#include "tools/raft-repl/repl_internal.h"

#include <inttypes.h>

void repl_state(struct repl *repl, struct command *command maybe_unused)
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
}

void repl_status(struct repl *repl, struct command *command)
{
    const struct node *node = repl_node_up(repl, command, 1);
    if (node == NULL)
        return;
    for (uint32_t i = 0; i < node->raft.peer_count; i++) {
        const struct raft_peer *peer = node->raft.peers[i];
        fprintf(repl->out,
                "%" PRIu64 " match=%" PRIu64 " next=%" PRIu64
                " state=%s paused=%s pending-snapshot=%" PRIu64,
                peer->id, peer->match_index, peer->next_index, progress_state_name(peer->state),
                progress_is_paused(peer) ? "yes" : "no", peer->pending_snapshot_index);
        if (peer->inflights.count != 0)
            fprintf(repl->out, " inflight=%u", peer->inflights.count);
        fprintf(repl->out, "%s\n", peer->learner ? " learner" : "");
    }
}

/* Of a node that is down: what its disk holds. */
void repl_log(struct repl *repl, struct command *command)
{
    const struct node *node = repl_node(repl, command, 1);
    if (node == NULL)
        return;
    const struct node_disk *disk = &node->disk;
    const struct raft_log *log = &node->raft.log;
    uint64_t last = node->up ? log->last_index : disk->last_index;
    uint64_t compacted = node->up ? log->compacted_index : disk->compacted_index;
    uint64_t compacted_term = node->up ? log->compacted_term : disk->compacted_term;
    if (compacted > 0)
        fprintf(repl->out, "    %" PRIu64 "/%" PRIu64 " compacted\n", compacted_term, compacted);
    for (uint64_t index = compacted + 1; index <= last; index++) {
        const struct entry *held = node->up ? raft_entry(&node->raft, index) : NULL;
        cluster_print_entry(repl->out, held != NULL ? held : &disk->entries[index]);
    }
}

void repl_config(struct repl *repl, struct command *command)
{
    const struct node *node = repl_node_up(repl, command, 1);
    if (node != NULL)
        cluster_print_config(repl->out, &node->raft.config);
}

void repl_reads(struct repl *repl, struct command *command)
{
    struct node *node = repl_node_up(repl, command, 1);
    if (node == NULL)
        return;
    for (uint32_t i = 0; i < node->read_count; i++)
        fprintf(repl->out, "%" PRIu64 " %" PRIu64 "\n", node->reads[i].id, node->reads[i].index);
    node->read_count = 0;
}

void repl_trace(struct repl *repl, struct command *command)
{
    bool off = strcmp(command->words[1], "off") == 0;
    if (!off && strcmp(command->words[1], "on") != 0) {
        command_fail(command, command->words[1], "on or off is expected");
        return;
    }
    repl->quiet = off;
    repl_say(repl, "ok");
}
