#include "tests/unit/raft_craft.h"

#include <stdio.h>

struct raft_options craft_options(void)
{
    struct raft_options options;
    cluster_options(&options);
    options.election_timeout_ns = CRAFT_TICKS * CLUSTER_TICK_NS;
    options.election_jitter_ns = CRAFT_TICKS * CLUSTER_TICK_NS;
    return options;
}

struct raft_snapshot craft_voters(uint32_t count)
{
    struct raft_snapshot snapshot = {0};
    for (uint32_t id = 1; id <= count; id++) {
        bool added = raft_id_set_add(&snapshot.config.voters, id);
        invariant(added);
    }
    return snapshot;
}

void craft_log(struct node *node, const char *log, uint64_t term, uint64_t vote, uint64_t commit)
{
    if (node->up)
        node_crash(node, 0);
    for (uint64_t index = 1; index <= strlen(log); index++)
        node->disk.entries[index] =
            (struct entry){.index = index, .term = (uint64_t)(log[index - 1] - '0')};
    node->disk.last_index = strlen(log);
    node->disk.hard_state = (struct hard_state){.term = term, .vote = vote, .commit = commit};
    int error = node_restart(node);
    invariant(error == 0);
}

struct node *craft_node(struct cluster *cluster, uint32_t voters, const char *log, uint64_t term,
                        uint64_t vote)
{
    struct raft_options options = craft_options();
    struct raft_snapshot snapshot = craft_voters(voters);
    struct node *node = cluster_add(cluster, &options, &snapshot, false);
    craft_log(node, log, term, vote, 0);
    return node;
}

void craft_ready(struct node *node)
{
    while (node_ready(node))
        ;
}

void craft_give(struct node *node, struct raft_message message)
{
    if (message.from == 0)
        message.from = 2;
    message.to = node->id;
    int error = raft_step(&node->raft, &message);
    invariant(error == 0);
    craft_ready(node);
}

void craft_append(struct node *node, uint64_t term, uint64_t index, uint64_t log_term,
                  const char *entries, uint64_t commit)
{
    struct entry made[16];
    uint32_t count = (uint32_t)strlen(entries);
    invariant(count <= ARRAY_COUNT(made));
    for (uint32_t i = 0; i < count; i++)
        made[i] = (struct entry){.index = index + 1 + i, .term = (uint64_t)(entries[i] - '0')};
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND,
                                           .term = term,
                                           .index = index,
                                           .log_term = log_term,
                                           .commit = commit,
                                           .entry_count = count,
                                           .entries = made});
}

void craft_ack(struct node *node, uint64_t from, uint64_t index)
{
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND_RESPONSE,
                                           .from = from,
                                           .term = node->raft.term,
                                           .index = index});
}

void craft_vote(struct node *node, uint64_t from)
{
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_VOTE_RESPONSE,
                                           .from = from,
                                           .term = node->raft.term});
}

void craft_drain(struct cluster *cluster)
{
    while (cluster->network_count > 0)
        cluster_message_free(cluster_network_take(cluster, 0));
}

const struct raft_message *craft_newest(const struct cluster *cluster)
{
    struct cluster_message *last = cluster->network.first;
    invariant(last != NULL); /* an answer is expected */
    while (last->next != NULL)
        last = last->next;
    return &last->message;
}

uint32_t craft_count_to(const struct cluster *cluster, enum raft_message_kind kind, uint64_t to)
{
    uint32_t count = 0;
    for (const struct cluster_message *m = cluster->network.first; m != NULL; m = m->next)
        count += m->message.kind == kind && (to == 0 || m->message.to == to);
    return count;
}

uint32_t craft_count(const struct cluster *cluster, enum raft_message_kind kind)
{
    return craft_count_to(cluster, kind, 0);
}

const char *craft_terms(const struct node *node)
{
    static char texts[4][64];
    static int turn;
    char *text = texts[turn++ & 3];
    uint64_t last = node->raft.log.last_index;
    invariant(last < sizeof(texts[0]));
    for (uint64_t index = 1; index <= last; index++) {
        struct entry entry;
        int error = raft_log_lookup(&node->raft.log, index, &entry);
        invariant(error == 0);
        text[index - 1] = (char)('0' + entry.term);
    }
    text[last] = '\0';
    return text;
}

void craft_win(struct node *node)
{
    raft_campaign(&node->raft);
    craft_ready(node);
    for (uint32_t i = 0; i < node->raft.peer_count && node->raft.role == RAFT_ROLE_CANDIDATE; i++)
        if (node->raft.peers[i]->id != node->id)
            craft_vote(node, node->raft.peers[i]->id);
    invariant(node->raft.role == RAFT_ROLE_LEADER);
    craft_ready(node);
}

void craft_role(struct node *node, enum raft_role role)
{
    switch (role) {
    case RAFT_ROLE_FOLLOWER:
        break;
    case RAFT_ROLE_PRE_CANDIDATE:
        node->raft.options.pre_vote = true;
        raft_campaign(&node->raft);
        break;
    case RAFT_ROLE_CANDIDATE:
        raft_campaign(&node->raft);
        break;
    case RAFT_ROLE_LEADER:
        craft_win(node);
        break;
    }
    craft_ready(node);
    invariant(node->raft.role == role);
}

/* ---- a group ---- */

void craft_group_init(struct craft_group *group, uint32_t count, const struct raft_options *options)
{
    memset(group, 0, sizeof(*group));
    cluster_init(&group->cluster);
    struct raft_snapshot snapshot = craft_voters(count);
    for (uint32_t i = 0; i < count; i++)
        cluster_add(&group->cluster, options, &snapshot, false);
}

void craft_group_deinit(struct craft_group *group)
{
    cluster_check(&group->cluster);
    cluster_deinit(&group->cluster);
}

struct node *craft_of(struct craft_group *group, uint64_t id)
{
    struct node *node = cluster_node(&group->cluster, id);
    invariant(node != NULL);
    return node;
}

void craft_settle(struct craft_group *group)
{
    struct cluster *cluster = &group->cluster;
    for (bool moved = true; moved;) {
        moved = false;
        for (uint64_t id = 1; id <= cluster->node_count; id++)
            while (node_ready(cluster_node(cluster, id)))
                moved = true;
        if (cluster->network_count == 0)
            continue;
        moved = true;
        struct cluster_message *message = cluster_network_take(cluster, 0);
        const struct raft_message *m = &message->message;
        bool lost = m->kind == group->lost || m->to > cluster->node_count;
        if (lost || group->cut[m->from][m->to])
            cluster_message_free(message);
        else
            cluster_message_step(cluster, message);
    }
}

void craft_campaign(struct craft_group *group, uint64_t id)
{
    raft_campaign(&craft_of(group, id)->raft);
    craft_settle(group);
}

void craft_tick(struct craft_group *group, uint64_t id, uint64_t ticks)
{
    for (uint64_t i = 0; i < ticks; i++) {
        node_tick(craft_of(group, id), CLUSTER_TICK_NS);
        craft_settle(group);
    }
}

int craft_propose(struct craft_group *group, uint64_t id, const char *text)
{
    int error = node_propose(craft_of(group, id), ENTRY_NORMAL, text, strlen(text));
    craft_settle(group);
    return error;
}

void craft_cut(struct craft_group *group, uint64_t a, uint64_t b)
{
    group->cut[a][b] = group->cut[b][a] = true;
}

void craft_isolate(struct craft_group *group, uint64_t id)
{
    for (uint64_t other = 1; other <= group->cluster.node_count; other++)
        if (other != id)
            craft_cut(group, id, other);
}

void craft_heal(struct craft_group *group)
{
    memset(group->cut, 0, sizeof(group->cut));
    group->lost = (enum raft_message_kind)0;
}
