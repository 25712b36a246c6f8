/* Linearizable reads (rows 124 to 127). */
#include "tests/unit/raft_craft.h"

#include <criterion/criterion.h>

static void group_with_learner(struct craft_group *group, const struct raft_options *options)
{
    struct raft_snapshot snapshot = craft_voters(3);
    memset(group, 0, sizeof(*group));
    cluster_init(&group->cluster);
    cr_assert(raft_id_set_add(&snapshot.config.learners, 4));
    for (int i = 0; i < 4; i++)
        cluster_add(&group->cluster, options, &snapshot, false);
}

/* What `node` was told about a read; UINT64_MAX = nothing yet. */
static uint64_t read_answer(const struct node *node, uint64_t id)
{
    for (uint32_t i = 0; i < node->read_count; i++)
        if (node->reads[i].id == id)
            return node->reads[i].index;
    return UINT64_MAX;
}

Test(raft_reads, row_124_pitfall_4_reads_at_every_node)
{
    for (int lease = 0; lease < 2; lease++) {
        struct raft_options options = craft_options();
        options.check_quorum = true;
        options.read_mode = lease ? RAFT_READ_LEASE : RAFT_READ_SAFE;
        struct craft_group group;
        group_with_learner(&group, &options);
        for (uint64_t id = 1; id <= 4; id++) /* past the silence that a lease imposes at start */
            craft_tick(&group, id, CRAFT_TICKS - 1);
        for (uint64_t id = 1; id <= 4; id++)
            craft_tick(&group, id, 1);
        while (craft_of(&group, 1)->raft.role != RAFT_ROLE_LEADER)
            craft_campaign(&group, 1);
        craft_tick(&group, 1, 1);
        uint64_t index = craft_of(&group, 1)->raft.log.last_index;
        for (uint64_t round = 1; round <= 8; round++) {
            struct node *asker = craft_of(&group, (round - 1) % 4 + 1);
            for (int i = 0; i < 10; i++)
                cr_assert_eq(craft_propose(&group, 1, "x"), 0);
            cr_assert_eq(raft_read_index(&asker->raft, round), 0);
            craft_settle(&group);
            cr_expect_eq(read_answer(asker, round), index + 10 * round, "asked at %lu", asker->id);
            cr_expect_geq(asker->applied_index, read_answer(asker, round));
        }
        craft_group_deinit(&group);
    }
}

Test(raft_reads, row_125_pitfall_5_6_a_new_leader_parks_reads)
{
    struct raft_options options = craft_options();
    struct craft_group group;
    craft_group_init(&group, 3, &options);
    craft_campaign(&group, 1);
    cr_assert_eq(craft_propose(&group, 1, "x"), 0);
    group.lost = RAFT_MESSAGE_APPEND;
    craft_campaign(&group, 2);
    struct node *leader = craft_of(&group, 2);
    cr_assert_eq(leader->raft.role, RAFT_ROLE_LEADER);
    cr_assert_eq(raft_read_index(&leader->raft, 7), 0);
    craft_settle(&group);
    craft_tick(&group, 2, 3); /* heartbeats do arrive */
    cr_expect_eq(read_answer(leader, 7), UINT64_MAX, "its commit index may be behind the truth");
    craft_heal(&group);
    craft_tick(&group, 2, 1);
    cr_expect_eq(leader->raft.log.committed_index, 3);
    cr_expect_eq(read_answer(leader, 7), 3);
    craft_group_deinit(&group);
}

/* Node 1 leads and is cut off with an answered heartbeat still under way: the same request, asked
 * once more, must not be confirmed by the answer to the first. */
Test(raft_reads, row_126_pitfall_7_a_request_that_comes_twice)
{
    struct raft_options options = craft_options();
    struct craft_group group;
    craft_group_init(&group, 3, &options);
    craft_campaign(&group, 1);
    struct node *old = craft_of(&group, 1);
    cr_assert_eq(raft_read_index(&old->raft, 7), 0);
    craft_ready(old);
    cluster_deliver(&group.cluster, 2, 0, false);
    cluster_deliver(&group.cluster, 3, 0, false);
    craft_ready(craft_of(&group, 2));
    craft_ready(craft_of(&group, 3));
    cr_assert_eq(craft_count_to(&group.cluster, RAFT_MESSAGE_HEARTBEAT_RESPONSE, 1), 2);
    struct cluster_message *held[2] = {cluster_network_take(&group.cluster, 0),
                                       cluster_network_take(&group.cluster, 0)};
    craft_isolate(&group, 1);
    craft_campaign(&group, 2);
    cr_assert_eq(craft_of(&group, 2)->raft.role, RAFT_ROLE_LEADER);
    cr_assert_eq(craft_propose(&group, 2, "newer"), 0);
    cr_assert_eq(raft_read_index(&old->raft, 7), 0); /* after the write: must see it or wait */
    craft_settle(&group);
    for (int i = 0; i < 2; i++)
        cluster_message_step(&group.cluster, held[i]);
    craft_settle(&group);
    cr_expect_eq(old->read_count, 1, "only the first is confirmed: %u", old->read_count);
    cr_expect_eq(old->raft.reads_count, 1);
    craft_heal(&group);
    craft_tick(&group, 2, 1);
    cr_expect_eq(old->raft.role, RAFT_ROLE_FOLLOWER);
    cr_expect_eq(old->read_count, 1, "never an index below the write");
    cr_expect_eq(old->raft.reads_count, 0);
    craft_group_deinit(&group);
}

Test(raft_reads, row_127_pitfall_9_role_changes_void_reads)
{
    struct raft_options options = craft_options();
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_snapshot snapshot = craft_voters(3);
    struct node *node = cluster_add(&cluster, &options, &snapshot, false);
    craft_win(node);
    craft_ack(node, 2, 1);
    for (uint64_t id = 1; id <= 5; id++)
        cr_assert_eq(raft_read_index(&node->raft, id), 0);
    craft_ready(node);
    cr_expect_eq(node->raft.reads_count, 5);
    craft_give(node, (struct raft_message){
                         .kind = RAFT_MESSAGE_HEARTBEAT_RESPONSE, .term = 1, .context = 5});
    cr_expect_eq(node->raft.reads_count, 0, "one answer confirms all before it");
    cr_expect_eq(node->read_count, 5);
    cr_assert_eq(raft_read_index(&node->raft, 6), 0);
    struct raft_message newer = {.kind = RAFT_MESSAGE_HEARTBEAT, .from = 3, .to = 1, .term = 2};
    cr_assert_eq(raft_step(&node->raft, &newer), 0);
    cr_expect_eq(node->raft.reads_count, 0);
    struct raft_ready ready;
    cr_assert(raft_ready(&node->raft, &ready));
    cr_expect(ready.leadership_changed, "the caller fails them and asks again");
    cr_expect_eq(ready.read_count, 0);
    cluster_deinit(&cluster);
}

Test(raft_reads, row_127_an_ex_leader_asks_the_new_one)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "", 0, 0);
    craft_win(node);
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .from = 3, .term = 2});
    craft_drain(&cluster);
    cr_assert_eq(raft_read_index(&node->raft, 9), 0);
    craft_ready(node);
    const struct raft_message *asked = craft_newest(&cluster);
    cr_expect_eq(asked->kind, RAFT_MESSAGE_READ_INDEX);
    cr_expect_eq(asked->to, 3);
    cr_expect_eq(asked->term, 0);
    cr_expect_eq(asked->context, 9);
    raft_forget_leader(&node->raft);
    cr_expect_eq(raft_read_index(&node->raft, 10), ERR_NO_LEADER);
    cluster_deinit(&cluster);
}

Test(raft_reads, row_127_a_smaller_quorum_completes_reads)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 2, "", 0, 0);
    craft_win(node);
    craft_ack(node, 2, 1);
    struct raft_config_change change = {.count = 1,
                                        .changes = {{.kind = RAFT_CHANGE_REMOVE, .id = 2}}};
    cr_assert_eq(node_propose_change(node, &change), 0);
    cr_assert_eq(raft_read_index(&node->raft, 3), 0);
    craft_ready(node);
    cr_expect_eq(read_answer(node, 3), UINT64_MAX);
    craft_ack(node, 2, 2);
    cr_assert_eq(node->raft.config.voters.count, 1);
    cr_expect_eq(read_answer(node, 3), 1, "nobody else is left to ask");
    cr_expect_eq(node->raft.reads_count, 0);
    cluster_deinit(&cluster);
}

/* ---- leases ---- */

static struct raft_options lease_options(void)
{
    struct raft_options options = craft_options();
    options.check_quorum = true;
    options.read_mode = RAFT_READ_LEASE;
    return options;
}

/* Node 1 leads three and has a lease at the end of the first timeout. */
static struct node *leased_leader(struct craft_group *group)
{
    struct raft_options options = lease_options();
    craft_group_init(group, 3, &options);
    for (uint64_t id = 1; id <= 3; id++)
        craft_of(group, id)->raft.election_draw_ns = 3 * CRAFT_TICKS * CLUSTER_TICK_NS;
    for (uint64_t id = 1; id <= 3; id++)
        craft_tick(group, id, CRAFT_TICKS);
    craft_campaign(group, 1);
    craft_tick(group, 1, 1);
    struct node *leader = craft_of(group, 1);
    cr_assert_eq(leader->raft.role, RAFT_ROLE_LEADER);
    cr_assert(raft_lease_valid(&leader->raft, leader->raft.now_ns));
    return leader;
}

Test(raft_reads, pitfall_10_a_lease_ends)
{
    struct craft_group group;
    struct node *leader = leased_leader(&group);
    struct raft *raft = &leader->raft;
    cr_expect(raft_lease_valid(raft, raft->now_ns + (CRAFT_TICKS - 1) * CLUSTER_TICK_NS));
    cr_expect_not(raft_lease_valid(raft, raft->now_ns + CRAFT_TICKS * CLUSTER_TICK_NS));
    raft->options.lease_drift_percent = 20;
    raft->options.lease_stall_ns = CLUSTER_TICK_NS;
    cr_expect(raft_lease_valid(raft, raft->now_ns + 6 * CLUSTER_TICK_NS));
    cr_expect_not(raft_lease_valid(raft, raft->now_ns + 7 * CLUSTER_TICK_NS));
    raft->options.lease_drift_percent = 0;
    raft->options.lease_stall_ns = 0;
    raft->options.pause_ns_max = CLUSTER_TICK_NS;
    node_tick(leader, 3 * CLUSTER_TICK_NS); /* two later than it should */
    cr_expect_not(raft_lease_valid(raft, raft->now_ns), "a pause ends it");
    craft_group_deinit(&group);
}

/* The one told to campaign passes every lease, now or much later, when the transfer is given up. */
Test(raft_reads, pitfall_10_a_transfer_ends_the_lease_for_good)
{
    struct craft_group group;
    struct node *leader = leased_leader(&group);
    group.lost = RAFT_MESSAGE_TIMEOUT_NOW;
    cr_assert_eq(raft_transfer(&leader->raft, 2), 0);
    cr_expect_not(raft_lease_valid(&leader->raft, leader->raft.now_ns));
    craft_tick(&group, 1, CRAFT_TICKS + 1);
    cr_expect_eq(leader->raft.transferee, 0);
    cr_expect_eq(leader->raft.role, RAFT_ROLE_LEADER);
    cr_expect_not(raft_lease_valid(&leader->raft, leader->raft.now_ns),
                  "what was lost may only be late");
    cr_assert_eq(raft_read_index(&leader->raft, 5), 0);
    craft_settle(&group);
    cr_expect_eq(read_answer(leader, 5), 1, "a round of heartbeats serves it");
    craft_group_deinit(&group);
}

/* A voter that answered a heartbeat keeps its promise whatever it learns meanwhile. */
Test(raft_reads, pitfall_10_a_promise_outlives_the_term)
{
    struct craft_group group;
    struct node *leader = leased_leader(&group);
    struct node *voter = craft_of(&group, 2);
    craft_tick(&group, 2, 5);
    /* Node 3 was at term 9 when a stray message of an older leadership of node 2 reached it. */
    craft_give(voter, (struct raft_message){
                          .kind = RAFT_MESSAGE_HEARTBEAT_RESPONSE, .from = 3, .term = 9});
    cr_assert_eq(voter->raft.term, 9);
    cr_assert_eq(voter->raft.leader, 0);
    struct raft_message vote = {
        .kind = RAFT_MESSAGE_VOTE, .from = 3, .term = 9, .index = 9, .log_term = 8};
    craft_give(voter, vote);
    cr_expect_eq(voter->raft.vote, 0, "of the same term");
    vote.term = 10;
    craft_give(voter, vote);
    cr_expect_eq(voter->raft.term, 9, "of a newer one");
    raft_campaign(&voter->raft);
    cr_expect_eq(voter->raft.role, RAFT_ROLE_FOLLOWER, "nor does it vote for itself");
    cr_expect(raft_lease_valid(&leader->raft, leader->raft.now_ns), "this is why");
    craft_tick(&group, 2, 5);
    craft_give(voter, vote);
    cr_expect_eq(voter->raft.vote, 3, "it promised one timeout");
    craft_group_deinit(&group);
}

Test(raft_reads, pitfall_10_after_a_start_a_promise_may_be_forgotten)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = lease_options();
    struct raft_snapshot snapshot = craft_voters(3);
    struct node *node = cluster_add(&cluster, &options, &snapshot, false);
    struct raft_message vote = {.kind = RAFT_MESSAGE_VOTE, .term = 2};
    node_tick(node, (CRAFT_TICKS - 1) * CLUSTER_TICK_NS);
    craft_give(node, vote);
    cr_expect_eq(node->raft.term, 0);
    vote.transfer = true;
    craft_give(node, vote);
    cr_expect_eq(node->raft.vote, 2, "a leader that hands over has given up its lease");
    cluster_deinit(&cluster);
}
