/*
 * Whole groups of cores under random schedules: messages dropped, doubled, reordered and cut one
 * way; nodes crash and lose what was not durable; lanes and clocks run at their own pace; members
 * come and go. After each step the group is checked: one leader per term, log matching, leader
 * completeness, one history of applied entries, reads not older than their question. After the
 * faults stop, a leader must emerge and commit.
 *
 * RAFT_SEED=n runs one seed, RAFT_SEEDS=n that many from 1.
 */
#include "core/invariant.h"
#include "tools/raft-repl/cluster.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdlib.h>

#define SEEDS_DEFAULT  100
#define STEPS_PER_SEED 10000
#define READS_MAX      4096
#define TIMEOUT_TICKS  10

struct schedule {
    uint64_t seed;
    uint64_t random;
    struct cluster cluster;
    bool cut[CLUSTER_NODES_MAX][CLUSTER_NODES_MAX];
    uint32_t drop_percent, double_percent, reorder_percent, crash_per_mille, config_per_mille;
    uint32_t churn_percent;
    bool live; /* what was removed cannot disturb for ever: only then is progress promised */
    uint64_t read_minimum[READS_MAX];
    uint64_t read_count;
    uint64_t reads_answered;
    uint64_t proposals;
};

static uint64_t pick(struct schedule *s, uint64_t bound)
{
    s->random = s->random * 6364136223846793005u + 1442695040888963407u;
    return (s->random >> 33) % bound;
}

static bool chance(struct schedule *s, uint32_t percent)
{
    return pick(s, 100) < percent;
}

static uint64_t newest_commit(const struct schedule *s)
{
    uint64_t newest = s->cluster.applied_last;
    for (uint32_t i = 0; i < s->cluster.node_count; i++)
        if (s->cluster.nodes[i]->up)
            newest = u64_max(newest, s->cluster.nodes[i]->raft.log.committed_index);
    return newest;
}

static void schedule_start(struct schedule *s, uint64_t seed)
{
    memset(s, 0, sizeof(*s));
    s->seed = seed;
    s->random = seed * 7919;
    cluster_init(&s->cluster);
    struct raft_options options;
    cluster_options(&options);
    options.election_timeout_ns = TIMEOUT_TICKS * CLUSTER_TICK_NS;
    options.election_jitter_ns = TIMEOUT_TICKS * CLUSTER_TICK_NS;
    options.timeout_quantum_ns = 0;
    options.pre_vote = !chance(s, 40);
    options.check_quorum = !chance(s, 40);
    options.early_pre_vote = chance(s, 50);
    options.short_retry = chance(s, 50);
    options.single_voter_starts = chance(s, 50);
    options.pause_ns_max = chance(s, 30) ? 3 * CLUSTER_TICK_NS : 0;
    options.window_entries = 8u << pick(s, 4);
    options.window_bytes_retained = pick(s, 200);
    options.inflight_messages_max = (uint32_t)(1 + pick(s, 6));
    options.message_bytes_max = 4 + pick(s, 40);
    options.message_entries_max = (uint32_t)(1 + pick(s, 8));
    options.apply_bytes_max = 1 + pick(s, 60);
    options.uncommitted_bytes_max = 20 + pick(s, 400);
    options.messages_max = 128;
    uint32_t voters = (uint32_t)(1 + pick(s, 5));
    uint32_t nodes = voters + (uint32_t)pick(s, 3);
    /* The first configuration is not in the log: who joins later knows it, or needs a snapshot. */
    struct raft_snapshot first = {0};
    for (uint32_t i = 1; i <= voters; i++)
        cr_assert(raft_id_set_add(&first.config.voters, i));
    struct raft_snapshot joiner = first;
    if (chance(s, 50)) {
        first.index = first.term = 1;
        joiner = (struct raft_snapshot){0};
    }
    for (uint32_t i = 1; i <= nodes; i++)
        cluster_add(&s->cluster, &options, i <= voters ? &first : &joiner, true);
    s->drop_percent = (uint32_t)pick(s, 20);
    s->double_percent = (uint32_t)pick(s, 10);
    s->reorder_percent = (uint32_t)pick(s, 50);
    s->crash_per_mille = (uint32_t)pick(s, 8);
    s->churn_percent = chance(s, 30) ? 60 : 3;
    s->config_per_mille = (uint32_t)pick(s, 20);
    s->live = (options.pre_vote && options.check_quorum) || s->config_per_mille == 0;
}

static void snapshot_report(struct schedule *s, const struct raft_message *message, bool ok)
{
    struct node *sender = cluster_node(&s->cluster, message->from);
    if (message->kind == RAFT_MESSAGE_SNAPSHOT && sender->up)
        raft_report_snapshot(&sender->raft, message->to, ok);
}

static void step_deliver(struct schedule *s)
{
    struct cluster *cluster = &s->cluster;
    if (cluster->network_count == 0)
        return;
    uint32_t at = chance(s, s->reorder_percent) ? (uint32_t)pick(s, cluster->network_count) : 0;
    struct cluster_message *message = cluster_network_take(cluster, at);
    struct raft_message *m = &message->message;
    bool down = !cluster_node(cluster, m->to)->up;
    if (chance(s, s->drop_percent) || s->cut[m->from - 1][m->to - 1] || down) {
        snapshot_report(s, m, false);
        struct node *sender = cluster_node(cluster, m->from);
        if (sender->up && chance(s, 10))
            raft_report_unreachable(&sender->raft, m->to);
        cluster_message_free(message);
        return;
    }
    if (chance(s, s->double_percent))
        cluster_network_push(cluster, cluster_message_copy(cluster, m));
    struct raft_message head = *m;
    cluster_message_step(cluster, message);
    snapshot_report(s, &head, true);
}

static void step_read(struct schedule *s, struct node *node)
{
    if (s->read_count == READS_MAX)
        return;
    uint64_t id = s->read_count;
    s->read_minimum[id] = newest_commit(s);
    if (raft_read_index(&node->raft, id) == 0)
        s->read_count++;
}

static void check_reads(struct schedule *s, struct node *node)
{
    for (uint32_t i = 0; i < node->read_count; i++) {
        invariant(node->reads[i].id < s->read_count);
        invariant(node->reads[i].index >= s->read_minimum[node->reads[i].id]);
        s->reads_answered++;
    }
    node->read_count = 0;
}

static void step_propose(struct schedule *s, struct node *node)
{
    char text[32];
    int size = snprintf(text, sizeof(text), "%" PRIu64, s->proposals);
    if (chance(s, 10))
        size = 0;
    if (node_propose(node, ENTRY_NORMAL, text, (size_t)size) == 0)
        s->proposals++;
}

static void step_config(struct schedule *s, struct node *node)
{
    struct raft_config_change change = {.transition = (enum raft_transition)pick(s, 3)};
    change.count = (uint32_t)pick(s, 4);
    for (uint32_t i = 0; i < change.count; i++)
        change.changes[i] = (struct raft_change){.kind = (enum raft_change_kind)pick(s, 4),
                                                 .id = 1 + pick(s, s->cluster.node_count)};
    if (change.count == 0)
        change.transition = RAFT_TRANSITION_AUTO;
    int refused = node_propose_change(node, &change);
    (void)refused;
}

static void step_transfer(struct schedule *s, struct node *node)
{
    int refused = raft_transfer(&node->raft, 1 + pick(s, s->cluster.node_count));
    (void)refused;
}

static void step_cut(struct schedule *s)
{
    uint32_t a = (uint32_t)pick(s, s->cluster.node_count);
    uint32_t b = (uint32_t)pick(s, s->cluster.node_count);
    if (chance(s, 40)) {
        memset(s->cut, 0, sizeof(s->cut));
    } else if (chance(s, 50)) {
        s->cut[a][b] = true;
    } else {
        for (uint32_t i = 0; i < s->cluster.node_count; i++)
            s->cut[a][i] = s->cut[i][a] = i != a;
    }
}

static void step_restart(struct node *node)
{
    int error = node_restart(node);
    invariant(error == 0);
}

static void step_one(struct schedule *s)
{
    struct node *node = s->cluster.nodes[pick(s, s->cluster.node_count)];
    if (!node->up) {
        if (chance(s, 5))
            step_restart(node);
        return;
    }
    if (pick(s, 1000) < s->crash_per_mille) {
        node_crash(node, (uint32_t)pick(s, 3));
        return;
    }
    if (pick(s, 1000) < s->config_per_mille)
        step_config(s, node);
    switch (pick(s, 16)) {
    case 0:
        node_tick(node, pick(s, CLUSTER_TICK_NS * (chance(s, 5) ? 12 : 3)));
        break;
    case 1:
    case 2:
        node_append(node);
        break;
    case 3:
        node_apply(node);
        break;
    case 4:
        step_propose(s, node);
        break;
    case 5:
        step_read(s, node);
        break;
    case 6:
        if (chance(s, 10))
            step_cut(s);
        if (chance(s, 4))
            step_transfer(s, node);
        if (chance(s, 4))
            raft_forget_leader(&node->raft);
        if (chance(s, 2))
            raft_step_down(&node->raft);
        if (chance(s, s->churn_percent))
            raft_campaign(&node->raft);
        break;
    case 7:
        if (chance(s, 20))
            node_flush(node);
        if (chance(s, 10))
            node_compact(node, node->applied_index - u64_min(node->applied_index, pick(s, 8)));
        break;
    default:
        step_deliver(s);
        break;
    }
    if (node->raft.message_count > 40 || chance(s, 60))
        while (node_ready(node))
            ;
    check_reads(s, node);
}

static int64_t window_payloads(const struct raft_log *log)
{
    int64_t count = 0;
    for (uint64_t index = log->base_index + 1; index <= log->last_index; index++)
        count += raft_log_entry(log, index)->payload_bytes > 0;
    return count;
}

/* Faults are over: every node runs, everything arrives, clocks agree. */
static void schedule_heal(struct schedule *s)
{
    struct cluster *cluster = &s->cluster;
    uint64_t ids[CLUSTER_NODES_MAX];
    memset(s->cut, 0, sizeof(s->cut));
    for (uint32_t i = 0; i < cluster->node_count; i++) {
        ids[i] = i + 1;
        step_restart(cluster->nodes[i]);
    }
    uint64_t before = newest_commit(s);
    for (uint32_t tick = 0; tick < 60 * TIMEOUT_TICKS; tick++) {
        for (uint32_t i = 0; i < cluster->node_count; i++) {
            node_tick(cluster->nodes[i], CLUSTER_TICK_NS);
            while (node_ready(cluster->nodes[i]))
                ;
        }
        struct cluster_message *under_way = cluster->network.first;
        for (; under_way != NULL; under_way = under_way->next)
            snapshot_report(s, &under_way->message, false);
        cluster_stabilize(cluster, ids, cluster->node_count);
        cluster_check(cluster);
        for (uint32_t i = 0; i < cluster->node_count; i++)
            check_reads(s, cluster->nodes[i]);
        if (tick % TIMEOUT_TICKS == 0)
            for (uint32_t i = 0; i < cluster->node_count; i++)
                step_propose(s, cluster->nodes[i]);
    }
    if (!s->live)
        return;
    const struct node *leader = NULL;
    for (uint32_t i = 0; i < cluster->node_count; i++)
        if (cluster->nodes[i]->raft.role == RAFT_ROLE_LEADER &&
            (leader == NULL || cluster->nodes[i]->raft.term > leader->raft.term))
            leader = cluster->nodes[i];
    invariant(leader != NULL);
    invariant(leader->raft.log.committed_index > before);
    struct raft_id_set members = raft_config_members(&leader->raft.config);
    for (uint32_t i = 0; i < members.count; i++) {
        const struct node *member = cluster_node(cluster, members.ids[i]);
        invariant(member->applied_index == leader->applied_index);
        invariant(member->payloads_held ==
                  window_payloads(&member->raft.log)); /* each given back once */
    }
}

static void schedule_run(uint64_t seed, bool trace)
{
    static struct schedule s;
    schedule_start(&s, seed);
    s.cluster.trace = trace ? stdout : NULL;
    for (uint32_t step = 0; step < STEPS_PER_SEED; step++) {
        step_one(&s);
        if (step % 8 == 0)
            cluster_check(&s.cluster);
    }
    schedule_heal(&s);
    cluster_deinit(&s.cluster);
}

Test(raft_random, groups_stay_safe_and_recover, .timeout = 600)
{
    const char *one = getenv("RAFT_SEED");
    const char *many = getenv("RAFT_SEEDS");
    if (one != NULL) {
        schedule_run(strtoull(one, NULL, 10), getenv("RAFT_TRACE") != NULL);
        return;
    }
    uint64_t seeds = many != NULL ? strtoull(many, NULL, 10) : SEEDS_DEFAULT;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        if (many != NULL) {
            fprintf(stderr, "seed %" PRIu64 "\r", seed);
            fflush(stderr);
        }
        schedule_run(seed, false);
    }
}
