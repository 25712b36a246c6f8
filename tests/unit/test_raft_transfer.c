/* Leadership transfer (rows 121 to 123). */
#include "tests/unit/raft_craft.h"

#include <criterion/criterion.h>

static void expect_leads(struct craft_group *group, uint64_t leader, const char *why)
{
    for (uint64_t id = 1; id <= group->cluster.node_count; id++) {
        const struct raft *raft = &craft_of(group, id)->raft;
        cr_expect_eq(raft->role, id == leader ? RAFT_ROLE_LEADER : RAFT_ROLE_FOLLOWER,
                     "%s: %lu is %s", why, id, raft_role_name(raft->role));
        cr_expect_eq(raft->transferee, 0, "%s", why);
    }
}

static void transfer(struct craft_group *group, uint64_t at, uint64_t to)
{
    cr_assert_eq(raft_transfer(&craft_of(group, at)->raft, to), 0);
    craft_settle(group);
}

Test(raft_transfer, row_121_to_an_up_to_date_voter)
{
    static const struct {
        const char *why;
        bool check_quorum, pre_vote;
        uint64_t asked; /* whom the operator asks */
    } cases[] = {
        {"at the leader", false, false, 1},
        {"at the target", false, false, 2},
        {"at another follower", false, false, 3},
        {"through everybody's lease", true, false, 1},
        {"without the question first", true, true, 3},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct raft_options options = craft_options();
        options.check_quorum = cases[i].check_quorum;
        options.pre_vote = cases[i].pre_vote;
        struct craft_group group;
        craft_group_init(&group, 3, &options);
        craft_campaign(&group, 1);
        transfer(&group, cases[i].asked, 2);
        expect_leads(&group, 2, cases[i].why);
        cr_expect_eq(craft_of(&group, 2)->raft.counters.elections_pre_vote, 0, "%s", cases[i].why);
        transfer(&group, 2, 1);
        expect_leads(&group, 1, "and back");
        craft_group_deinit(&group);
    }
}

Test(raft_transfer, row_121_to_a_slow_voter)
{
    for (int compacted = 0; compacted < 2; compacted++) {
        struct raft_options options = craft_options();
        struct craft_group group;
        craft_group_init(&group, 3, &options);
        craft_campaign(&group, 1);
        craft_isolate(&group, 3);
        cr_assert_eq(craft_propose(&group, 1, "x"), 0);
        struct node *leader = craft_of(&group, 1);
        if (compacted) /* then a snapshot brings it up */
            node_compact(leader, leader->applied_index);
        craft_heal(&group);
        craft_tick(&group, 1, compacted); /* who is sent a snapshot must have been heard */
        cr_expect_eq(leader->raft.counters.snapshots_sent, compacted);
        transfer(&group, 1, 3);
        craft_tick(&group, 1, 1);
        expect_leads(&group, 3, compacted ? "by snapshot" : "by appends");
        craft_group_deinit(&group);
    }
}

Test(raft_transfer, row_121_the_acknowledgement_of_a_snapshot_completes_it)
{
    struct raft_options options = craft_options();
    struct craft_group group;
    craft_group_init(&group, 3, &options);
    craft_campaign(&group, 1);
    craft_isolate(&group, 3);
    cr_assert_eq(craft_propose(&group, 1, "x"), 0);
    struct node *leader = craft_of(&group, 1);
    node_compact(leader, leader->applied_index);
    craft_heal(&group);
    group.lost = RAFT_MESSAGE_SNAPSHOT;
    craft_tick(&group, 1, 1);
    const struct raft_peer *peer = raft_peer_find(&leader->raft, 3);
    cr_assert_eq(peer->state, RAFT_PEER_SNAPSHOT);
    transfer(&group, 1, 3);
    cr_expect_eq(leader->raft.transferee, 3);
    craft_heal(&group);
    struct raft_snapshot snapshot = peer->snapshot;
    craft_give(craft_of(&group, 3), (struct raft_message){.kind = RAFT_MESSAGE_SNAPSHOT,
                                                          .from = 1,
                                                          .term = leader->raft.term,
                                                          .snapshot = &snapshot});
    craft_settle(&group);
    expect_leads(&group, 3, "no other message was needed");
    craft_group_deinit(&group);
}

Test(raft_transfer, row_122_pitfall_33_what_is_not_done)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = craft_options();
    struct raft_snapshot snapshot = craft_voters(2);
    cr_assert(raft_id_set_add(&snapshot.config.learners, 3));
    struct node *node = cluster_add(&cluster, &options, &snapshot, false);
    craft_win(node);
    craft_ack(node, 2, 1);
    craft_drain(&cluster);
    cr_expect_eq(raft_transfer(&node->raft, 1), 0, "it leads already");
    cr_expect_eq(raft_transfer(&node->raft, 9), ERR_BAD_TRANSFEREE, "unknown");
    cr_expect_eq(raft_transfer(&node->raft, 3), ERR_BAD_TRANSFEREE, "a learner");
    craft_ready(node);
    cr_expect_eq(cluster.network_count, 0);
    cr_expect_eq(node->raft.role, RAFT_ROLE_LEADER);
    cr_expect_eq(node->raft.transferee, 0);
    struct raft_snapshot without = {0};
    cr_assert(raft_id_set_add(&without.config.voters, 1));
    struct node *outside = cluster_add(&cluster, &options, &without, false);
    craft_give(outside,
               (struct raft_message){.kind = RAFT_MESSAGE_TIMEOUT_NOW, .from = 1, .term = 1});
    cr_expect_eq(outside->raft.role, RAFT_ROLE_FOLLOWER, "no member");
    struct node *candidate = craft_node(&cluster, 3, "", 0, 0);
    craft_role(candidate, RAFT_ROLE_CANDIDATE);
    craft_give(candidate, (struct raft_message){.kind = RAFT_MESSAGE_TIMEOUT_NOW, .term = 1});
    cr_expect_eq(candidate->raft.term, 1, "it campaigns already");
    cluster_deinit(&cluster);
}

/* A leader of three with a learner 4 that waits for node 3, which is cut off and behind. */
static struct node *pending_transfer(struct craft_group *group)
{
    struct raft_options options = craft_options();
    craft_group_init(group, 3, &options);
    craft_campaign(group, 1);
    craft_isolate(group, 3);
    cr_assert_eq(craft_propose(group, 1, "x"), 0);
    transfer(group, 1, 3);
    struct node *leader = craft_of(group, 1);
    cr_assert_eq(leader->raft.transferee, 3);
    return leader;
}

Test(raft_transfer, row_123_pitfall_32_proposals_wait_until_it_is_aborted)
{
    struct craft_group group;
    struct node *leader = pending_transfer(&group);
    struct raft_config_change change = {.count = 1,
                                        .changes = {{.kind = RAFT_CHANGE_ADD_LEARNER, .id = 4}}};
    cr_expect_eq(craft_propose(&group, 1, "x"), ERR_DROPPED);
    cr_expect_eq(node_propose_change(leader, &change), ERR_DROPPED);
    cr_expect_eq(leader->raft.log.last_index, 2);
    craft_tick(&group, 1, CRAFT_TICKS - 1);
    cr_expect_eq(leader->raft.transferee, 3);
    cr_expect_eq(craft_propose(&group, 1, "x"), ERR_DROPPED);
    craft_tick(&group, 1, 1);
    cr_expect_eq(leader->raft.transferee, 0);
    cr_expect_eq(leader->raft.counters.transfers_aborted, 1);
    cr_expect_eq(craft_propose(&group, 1, "x"), 0);
    craft_group_deinit(&group);
}

Test(raft_transfer, row_123_what_ends_or_replaces_it)
{
    struct craft_group group;
    struct node *leader = pending_transfer(&group);
    craft_tick(&group, 1, CRAFT_TICKS - 1);
    transfer(&group, 1, 3); /* asking again buys no time */
    cr_expect_eq(leader->raft.transferee, 3);
    craft_tick(&group, 1, 1);
    cr_expect_eq(leader->raft.transferee, 0);
    transfer(&group, 1, 3);
    transfer(&group, 1, 1);
    cr_expect_eq(leader->raft.transferee, 0, "back to itself");
    transfer(&group, 1, 3);
    craft_give(leader, (struct raft_message){.kind = RAFT_MESSAGE_VOTE, .from = 2, .term = 9});
    cr_expect_eq(leader->raft.transferee, 0, "a newer term ends it");
    cr_expect_eq(leader->raft.role, RAFT_ROLE_FOLLOWER);
    craft_group_deinit(&group);

    leader = pending_transfer(&group);
    transfer(&group, 1, 2);
    expect_leads(&group, 2, "another target replaces the first");
    craft_group_deinit(&group);
}

Test(raft_transfer, row_123_the_target_leaves_the_voters)
{
    for (int demoted = 0; demoted < 2; demoted++) {
        struct craft_group group;
        struct raft_options options = craft_options();
        craft_group_init(&group, 3, &options);
        craft_campaign(&group, 1);
        craft_isolate(&group, 3);
        struct node *leader = craft_of(&group, 1);
        struct raft_config_change change = {.count = 1};
        change.changes[0] = (struct raft_change){
            .kind = demoted ? RAFT_CHANGE_ADD_LEARNER : RAFT_CHANGE_REMOVE, .id = 3};
        cr_assert_eq(node_propose_change(leader, &change), 0);
        cr_assert_eq(raft_transfer(&leader->raft, 3), 0);
        cr_expect_eq(leader->raft.transferee, 3);
        craft_settle(&group);
        cr_expect_eq(leader->raft.config.voters.count, 2);
        cr_expect_eq(leader->raft.transferee, 0);
        cr_expect_eq(craft_propose(&group, 1, "x"), 0);
        craft_group_deinit(&group);
    }
}
