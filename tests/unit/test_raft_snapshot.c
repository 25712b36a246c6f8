/* Snapshots sent and received, restarts (rows 102 to 108, 128). */
#include "tests/unit/raft_craft.h"

#include <criterion/criterion.h>

static void add_ids(struct raft_id_set *set, const char *ids)
{
    for (; *ids != '\0'; ids++)
        cr_assert(raft_id_set_add(set, (uint64_t)(*ids - '0')));
}

static struct node *slow_disk_node(struct cluster *cluster, const struct raft_snapshot *first)
{
    struct raft_options options = craft_options();
    return cluster_add(cluster, &options, first, true);
}

static void give_snapshot(struct node *node, const struct raft_snapshot *snapshot)
{
    craft_give(node, (struct raft_message){
                         .kind = RAFT_MESSAGE_SNAPSHOT, .term = 11, .snapshot = snapshot});
}

Test(raft_snapshot, row_102_pitfall_33_42_a_snapshot_is_taken_once)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_snapshot snapshot = craft_voters(3);
    struct node *node = slow_disk_node(&cluster, &snapshot);
    struct raft *raft = &node->raft;
    snapshot.index = snapshot.term = 11;
    give_snapshot(node, &snapshot);
    cr_expect_eq(raft->log.last_index, 11);
    cr_expect_eq(raft_log_last_term(&raft->log), 11);
    cr_expect_eq(raft->log.committed_index, 11);
    cr_expect_eq(raft->log.applied_index, 0);
    cr_expect_eq(cluster.network_count, 0, "the answer waits for the disk");
    for (int tick = 0; tick < 3 * CRAFT_TICKS; tick++)
        node_tick(node, CLUSTER_TICK_NS);
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_TIMEOUT_NOW, .term = 11});
    raft_campaign(raft);
    cr_expect_eq(raft->role, RAFT_ROLE_FOLLOWER, "no campaign before it is installed");
    uint64_t taken = raft->counters.snapshots_received;
    give_snapshot(node, &snapshot);
    cr_expect_eq(raft->counters.snapshots_received, taken, "the second time it is no news");
    while (node_append(node))
        ;
    cr_expect_eq(raft->log.applied_index, 11);
    cr_expect_eq(craft_newest(&cluster)->index, 11);
    cr_expect_eq(node->disk.compacted_index, 11);
    raft_campaign(raft);
    cr_expect_eq(raft->role, RAFT_ROLE_CANDIDATE);
    cluster_deinit(&cluster);
}

Test(raft_snapshot, row_103_configurations_come_with_snapshots)
{
    static const struct {
        const char *why;
        const char *before_voters, *before_learners;
        const char *voters, *outgoing, *learners, *learners_next;
        bool installs, may_campaign;
    } cases[] = {
        {"with a learner", "12", "", "12", "", "3", "", true, true},
        {"with outgoing voters", "12", "", "234", "123", "", "", true, true},
        {"with learners to be", "12", "", "12", "123", "4", "3", true, true},
        {"a voter becomes a learner", "123", "", "23", "", "1", "", true, false},
        {"a learner becomes a voter", "23", "1", "123", "", "", "", true, true},
        {"not for this node", "123", "", "23", "", "4", "", false, true},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct raft_snapshot first = {0};
        add_ids(&first.config.voters, cases[i].before_voters);
        add_ids(&first.config.learners, cases[i].before_learners);
        struct node *node = slow_disk_node(&cluster, &first);
        struct raft_snapshot snapshot = {.index = 11, .term = 11};
        add_ids(&snapshot.config.voters, cases[i].voters);
        add_ids(&snapshot.config.outgoing, cases[i].outgoing);
        add_ids(&snapshot.config.learners, cases[i].learners);
        add_ids(&snapshot.config.learners_next, cases[i].learners_next);
        give_snapshot(node, &snapshot);
        while (node_append(node))
            ;
        cr_expect(raft_config_equal(&node->raft.config,
                                    cases[i].installs ? &snapshot.config : &first.config),
                  "%s", cases[i].why);
        cr_expect_eq(node->raft.log.last_index, cases[i].installs ? 11 : 0, "%s", cases[i].why);
        cr_expect_eq(craft_newest(&cluster)->index, cases[i].installs ? 11 : 0, "%s", cases[i].why);
        raft_campaign(&node->raft);
        cr_expect_eq(node->raft.role != RAFT_ROLE_FOLLOWER, cases[i].may_campaign, "%s",
                     cases[i].why);
        cluster_deinit(&cluster);
    }
}

Test(raft_snapshot, row_104_pitfall_42_snapshots_that_bring_nothing)
{
    static const struct {
        const char *why;
        const char *log;
        uint64_t commit, index, term;
        bool installs;
        uint64_t want_commit;
    } cases[] = {
        {"behind: installed", "1", 0, 11, 2, true, 11},
        {"older than what is committed", "111", 3, 2, 1, false, 3},
        {"just what is committed", "111", 3, 3, 1, false, 3},
        {"the entries are here", "1112", 1, 3, 1, false, 3},
        {"they are the last", "1112", 1, 4, 2, false, 4},
        {"other entries are here", "1112", 1, 4, 3, true, 4},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct raft_snapshot snapshot = craft_voters(3);
        struct node *node = slow_disk_node(&cluster, &snapshot);
        craft_log(node, cases[i].log, 3, 0, cases[i].commit);
        snapshot.index = cases[i].index;
        snapshot.term = cases[i].term;
        give_snapshot(node, &snapshot);
        cr_expect_eq(node->raft.snapshot_pending, cases[i].installs, "%s", cases[i].why);
        cr_expect_eq(node->raft.log.committed_index, cases[i].want_commit, "%s", cases[i].why);
        if (!cases[i].installs)
            cr_expect_eq(node->raft.log.last_index, strlen(cases[i].log), "%s", cases[i].why);
        while (node_append(node))
            ;
        cr_expect_eq(craft_newest(&cluster)->index, cases[i].want_commit, "%s", cases[i].why);
        cluster_deinit(&cluster);
    }
}

/* A leader of a pair whose log begins after 11; node 2 stands at `next`. */
static struct node *compacted_leader(struct cluster *cluster, uint64_t next, bool active)
{
    struct raft_options options = craft_options();
    struct raft_snapshot snapshot = craft_voters(2);
    snapshot.index = 11;
    snapshot.term = 1;
    struct node *node = cluster_add(cluster, &options, &snapshot, false);
    craft_win(node);
    craft_drain(cluster);
    struct raft_peer *peer = raft_peer(&node->raft, 2);
    peer->next_index = next;
    peer->paused = false;
    peer->recent_active = active;
    return node;
}

Test(raft_snapshot, row_105_snapshots_are_for_live_peers)
{
    for (int active = 0; active < 2; active++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = compacted_leader(&cluster, 11, active);
        raft_peer(&node->raft, 2)->send_due = RAFT_SEND_ALWAYS;
        craft_ready(node);
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_SNAPSHOT), active);
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 0);
        cr_expect_eq(raft_peer_find(&node->raft, 2)->pending_snapshot_index, active ? 11 : 0);
        cluster_deinit(&cluster);
    }
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = compacted_leader(&cluster, 12, true);
    raft_peer(&node->raft, 2)->send_due = RAFT_SEND_ALWAYS;
    craft_ready(node);
    cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 1, "all it needs is still there");
    cluster_deinit(&cluster);
}

Test(raft_snapshot, row_106_a_slow_node_catches_up)
{
    struct raft_options options = craft_options();
    struct craft_group group;
    craft_group_init(&group, 3, &options);
    craft_campaign(&group, 1);
    craft_isolate(&group, 3);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(craft_propose(&group, 1, "some data"), 0);
    struct node *leader = craft_of(&group, 1);
    struct node *slow = craft_of(&group, 3);
    node_compact(leader, leader->applied_index);
    craft_heal(&group);
    craft_tick(&group, 1, 1);
    cr_expect_eq(leader->raft.counters.snapshots_sent, 1);
    cr_expect_eq(slow->raft.counters.snapshots_received, 1);
    cr_expect_eq(slow->raft.log.compacted_index, 101);
    cr_assert_eq(craft_propose(&group, 1, "some data"), 0);
    cr_expect_eq(slow->raft.log.committed_index, leader->raft.log.committed_index);
    cr_expect_eq(slow->applied_index, 102);
    craft_group_deinit(&group);
}

Test(raft_snapshot, row_107_108_pitfall_49_the_peer_while_it_takes_one)
{
    static const struct {
        const char *why;
        enum { SENT, FAILED, FINISHED, ACKED, ACKED_BELOW } event;
        enum raft_peer_state want_state;
        uint64_t want_next, want_pending;
        bool want_paused;
    } cases[] = {
        {"sent", SENT, RAFT_PEER_SNAPSHOT, 12, 11, true},
        {"failed", FAILED, RAFT_PEER_PROBE, 1, 0, true},
        {"finished, not acknowledged yet", FINISHED, RAFT_PEER_PROBE, 12, 0, true},
        {"acknowledged, no report", ACKED, RAFT_PEER_REPLICATE, 13, 0, false},
        {"acknowledged an older one", ACKED_BELOW, RAFT_PEER_SNAPSHOT, 12, 11, true},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = compacted_leader(&cluster, 1, true);
        const struct raft_peer *peer = raft_peer_find(&node->raft, 2);
        raft_peer(&node->raft, 2)->send_due = RAFT_SEND_ALWAYS;
        craft_ready(node);
        cr_assert_eq(craft_count(&cluster, RAFT_MESSAGE_SNAPSHOT), 1);
        craft_drain(&cluster);
        cr_assert_eq(node_propose(node, ENTRY_NORMAL, "x", 1), 0);
        craft_ready(node);
        cr_expect_eq(cluster.network_count, 0, "nothing is sent meanwhile");
        switch (cases[i].event) {
        case SENT:
            break;
        case FAILED:
        case FINISHED:
            raft_report_snapshot(&node->raft, 2, cases[i].event == FINISHED);
            break;
        case ACKED:
            craft_ack(node, 2, 11);
            break;
        case ACKED_BELOW:
            craft_ack(node, 2, 10);
            break;
        }
        craft_ready(node);
        cr_expect_eq(peer->state, cases[i].want_state, "%s", cases[i].why);
        cr_expect_eq(peer->pending_snapshot_index, cases[i].want_pending, "%s", cases[i].why);
        cr_expect_eq(progress_is_paused(peer), cases[i].want_paused, "%s", cases[i].why);
        if (cases[i].event != ACKED) /* then the next entries left at once */
            cr_expect_eq(peer->next_index, cases[i].want_next, "%s: %lu", cases[i].why,
                         peer->next_index);
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND) > 0, cases[i].event == ACKED, "%s",
                     cases[i].why);
        cluster_deinit(&cluster);
    }
}

Test(raft_snapshot, row_108_any_snapshot_that_connects_will_do)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = compacted_leader(&cluster, 1, true);
    struct raft_peer *peer = raft_peer(&node->raft, 2);
    progress_become_snapshot(peer, 12); /* a newer one is under way */
    craft_ack(node, 2, 11);
    cr_expect_eq(peer->state, RAFT_PEER_REPLICATE);
    cr_expect_eq(peer->match_index, 11);
    cluster_deinit(&cluster);
}

Test(raft_snapshot, row_128_restart_applies_exactly_the_rest)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "", 0, 0);
    craft_log(node, "11", 1, 2, 1);
    struct raft_ready ready;
    cr_assert(raft_ready(&node->raft, &ready));
    cr_expect_eq(ready.apply_first, 1);
    cr_expect_eq(ready.apply_last, 1, "entry 2 is not known to be committed");
    cr_expect_eq(ready.append.sequence, 0, "nothing to write");
    cr_expect_not(ready.hard_state_changed);
    raft_applied(&node->raft, 1);
    cr_expect_not(raft_ready(&node->raft, &ready));
    cr_expect_eq(node->raft.vote, 2);
    cluster_deinit(&cluster);
}

Test(raft_snapshot, row_128_restart_from_a_snapshot_and_an_entry)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = craft_options();
    struct raft_snapshot snapshot = craft_voters(3);
    snapshot.index = 2;
    snapshot.term = 1;
    struct node *node = cluster_add(&cluster, &options, &snapshot, false);
    node_crash(node, 0);
    node->disk.entries[3] = (struct entry){.index = 3, .term = 1};
    node->disk.last_index = 3;
    node->disk.hard_state = (struct hard_state){.term = 1, .commit = 3};
    cr_assert_eq(node_restart(node), 0);
    struct raft_ready ready;
    cr_assert(raft_ready(&node->raft, &ready));
    cr_expect_eq(ready.apply_first, 3);
    cr_expect_eq(ready.apply_last, 3);
    cr_expect_eq(ready.append.sequence, 0);
    cr_expect_eq(ready.message_count, 0);
    raft_applied(&node->raft, 3);
    cr_expect_not(raft_ready(&node->raft, &ready));
    cluster_deinit(&cluster);
}
