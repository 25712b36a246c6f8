/* What must hold in the group after every step. */
#include "tools/raft-repl/cluster_internal.h"

uint64_t cluster_entry_hash(const struct entry *entry)
{
    uint64_t hash = 0xcbf29ce484222325u ^ entry->type;
    for (uint32_t i = 0; i < entry->payload_bytes; i++)
        hash = (hash ^ entry->payload[i]) * 0x100000001b3u;
    return hash | 1;
}

static bool entry_of(const struct node *node, uint64_t index, struct entry *entry)
{
    return raft_log_lookup(&node->raft.log, index, entry) == 0;
}

/* Two logs with the same term at an index are the same up to it. */
static void check_log_matching(const struct node *a, const struct node *b)
{
    uint64_t last = u64_min(a->raft.log.last_index, b->raft.log.last_index);
    bool must_match = false;
    for (uint64_t index = last; index > 0; index--) {
        struct entry mine, other;
        if (!entry_of(a, index, &mine) || !entry_of(b, index, &other))
            return;
        if (mine.term == other.term)
            must_match = true;
        if (must_match) {
            invariant(mine.term == other.term);
            invariant(cluster_entry_hash(&mine) == cluster_entry_hash(&other));
        }
    }
}

/* A leader holds everything that was ever applied. */
static void check_leader_complete(const struct cluster *cluster, const struct node *leader)
{
    uint64_t newest = 0;
    for (uint32_t i = 0; i < cluster->node_count; i++)
        newest = u64_max(newest, cluster->nodes[i]->raft.term);
    if (leader->raft.role != RAFT_ROLE_LEADER || leader->raft.term < newest)
        return;
    invariant(leader->raft.log.last_index >= cluster->applied_last);
    for (uint64_t index = leader->raft.log.compacted_index + 1; index <= cluster->applied_last;
         index++) {
        struct entry entry;
        if (cluster->applied[index].hash == 0 || !entry_of(leader, index, &entry))
            continue;
        invariant(entry.term == cluster->applied[index].term);
    }
}

void cluster_check(struct cluster *cluster)
{
    for (uint32_t i = 0; i < cluster->node_count; i++) {
        struct node *a = cluster->nodes[i];
        if (!a->up)
            continue;
        raft_check(&a->raft);
        check_leader_complete(cluster, a);
        for (uint32_t j = i + 1; j < cluster->node_count; j++)
            if (cluster->nodes[j]->up)
                check_log_matching(a, cluster->nodes[j]);
    }
}
