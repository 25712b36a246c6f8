/* A node that lost bytes of its log: raft_set_faulty(), raft_burn_term(), raft_drop_tail(). */
#include "tests/unit/raft_craft.h"

#include <criterion/criterion.h>

static struct cluster cluster;

/* A follower whose entry 3 of 5 is damaged; nothing is applied. */
static struct node *damaged(uint64_t commit)
{
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "", 0, 0);
    craft_log(node, "11223", 3, 0, commit);
    raft_set_faulty(&node->raft, 3);
    craft_drain(&cluster);
    return node;
}

Test(raft_faulty, it_acknowledges_only_below)
{
    struct node *node = damaged(0);
    craft_append(node, 4, 5, 3, "4", 0);
    cr_expect_eq(craft_newest(&cluster)->kind, RAFT_MESSAGE_APPEND_RESPONSE);
    cr_expect_not(craft_newest(&cluster)->reject);
    cr_expect_eq(craft_newest(&cluster)->index, 2);
    cr_expect_eq(node->raft.log.last_index, 6, "it takes what comes");
    raft_set_faulty(&node->raft, 0);
    craft_append(node, 4, 6, 4, "", 0);
    cr_expect_eq(craft_newest(&cluster)->index, 6, "repaired");
    cluster_deinit(&cluster);
}

Test(raft_faulty, a_snapshot_that_is_no_news_is_acknowledged_only_below)
{
    struct node *node = damaged(4);
    struct raft_snapshot snapshot = craft_voters(3);
    snapshot.index = 4;
    snapshot.term = 2;
    craft_give(node, (struct raft_message){
                         .kind = RAFT_MESSAGE_SNAPSHOT, .term = 4, .snapshot = &snapshot});
    cr_expect_eq(craft_newest(&cluster)->kind, RAFT_MESSAGE_APPEND_RESPONSE);
    cr_expect_eq(craft_newest(&cluster)->index, 2, "committed, and yet not vouched for");
    cluster_deinit(&cluster);
}

Test(raft_faulty, it_applies_only_below)
{
    struct node *node = damaged(0);
    craft_append(node, 4, 5, 3, "4", 6);
    cr_expect_eq(node->raft.log.committed_index, 6);
    cr_expect_eq(node->raft.log.applied_index, 2);
    raft_set_faulty(&node->raft, 4);
    craft_ready(node);
    cr_expect_eq(node->raft.log.applied_index, 3);
    craft_append(node, 4, 2, 2, "2", 6);
    cr_expect_eq(craft_newest(&cluster)->index, 3, "committed, and yet not vouched for");
    raft_set_faulty(&node->raft, 0);
    craft_ready(node);
    cr_expect_eq(node->raft.log.applied_index, 6);
    cluster_deinit(&cluster);
}

Test(raft_faulty, it_votes_by_its_whole_log_and_does_not_campaign)
{
    struct node *node = damaged(0);
    for (int tick = 0; tick < 3 * CRAFT_TICKS; tick++)
        node_tick(node, CLUSTER_TICK_NS);
    raft_campaign(&node->raft);
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_TIMEOUT_NOW, .term = 3});
    cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
    craft_give(node, (struct raft_message){
                         .kind = RAFT_MESSAGE_VOTE, .term = 5, .index = 4, .log_term = 3});
    cr_expect(craft_newest(&cluster)->reject, "its last entry counts, though the third is lost");
    craft_give(node, (struct raft_message){
                         .kind = RAFT_MESSAGE_VOTE, .term = 6, .index = 5, .log_term = 3});
    cr_expect_not(craft_newest(&cluster)->reject);
    raft_set_faulty(&node->raft, 0);
    raft_campaign(&node->raft);
    cr_expect_neq(node->raft.role, RAFT_ROLE_FOLLOWER);
    cluster_deinit(&cluster);
}

Test(raft_faulty, damage_found_in_a_campaign_ends_it)
{
    struct node *node = damaged(0);
    raft_set_faulty(&node->raft, 0);
    raft_campaign(&node->raft);
    cr_assert_neq(node->raft.role, RAFT_ROLE_FOLLOWER);
    raft_set_faulty(&node->raft, 5);
    cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
    cluster_deinit(&cluster);
}

Test(raft_faulty, another_history_ends_it)
{
    struct node *node = damaged(0);
    craft_append(node, 4, 2, 1, "4", 0);
    cr_expect_eq(node->raft.log.faulty_index, 0);
    cr_expect_eq(craft_newest(&cluster)->index, 3);
    raft_campaign(&node->raft);
    cr_expect_neq(node->raft.role, RAFT_ROLE_FOLLOWER);
    cluster_deinit(&cluster);
}

Test(raft_faulty, a_silent_leader_is_forgotten)
{
    struct node *node = damaged(0);
    craft_append(node, 4, 5, 3, "", 0);
    cr_assert_eq(node->raft.leader, 2);
    for (int tick = 0; tick < 3 * CRAFT_TICKS; tick++)
        node_tick(node, CLUSTER_TICK_NS);
    cr_expect_eq(node->raft.leader, 0);
    cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
    cluster_deinit(&cluster);
}

Test(raft_faulty, a_burnt_term_has_no_leader_and_outlives_no_newer_one)
{
    struct node *node = damaged(0);
    struct raft *raft = &node->raft;
    craft_append(node, 4, 5, 3, "", 0);
    cr_expect_not(raft_burn_term(raft, 9, 3), "it follows somebody");
    raft_forget_leader(raft);
    cr_expect_not(raft_burn_term(raft, 4, 3), "not a newer term");
    cr_assert(raft_burn_term(raft, 9, 3));
    cr_expect_not(raft_term_is_burnt(raft, 9, 3), "the disk does not have it");
    craft_ready(node);
    cr_expect(raft_term_is_burnt(raft, 9, 3));
    cr_expect_not(raft_term_is_burnt(raft, 9, 2), "for another");
    craft_give(node, (struct raft_message){
                         .kind = RAFT_MESSAGE_VOTE, .term = 9, .index = 50, .log_term = 8});
    cr_expect(craft_newest(&cluster)->reject, "nobody else leads in it");
    craft_append(node, 8, 5, 3, "8", 0);
    cr_expect_eq(raft->log.last_index, 5, "appends of earlier terms are not heard");
    craft_append(node, 10, 5, 3, "9", 0);
    cr_expect_not(raft_term_is_burnt(raft, 9, 3), "a newer leader spoke");
    cluster_deinit(&cluster);
}

Test(raft_faulty, what_nobody_has_is_dropped_and_the_node_may_lead)
{
    struct node *node = damaged(1);
    cr_assert(raft_burn_term(&node->raft, 9, 1));
    craft_ready(node);
    raft_drop_tail(&node->raft, 3);
    craft_ready(node);
    cr_expect_str_eq(craft_terms(node), "11");
    cr_expect_eq(node->raft.log.faulty_index, 0);
    craft_win(node);
    cr_expect_eq(node->raft.role, RAFT_ROLE_LEADER);
    craft_ready(node);
    cr_expect_eq(node->raft.log.last_index, 3);
    cluster_deinit(&cluster);
}
