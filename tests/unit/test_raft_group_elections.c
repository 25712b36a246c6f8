/* Elections in small groups with cut links: pre-vote and check-quorum (rows 16 to 20, 36 to 51). */
#include "tests/unit/raft_craft.h"

#include <criterion/criterion.h>

static struct raft_options options_with(bool pre_vote, bool check_quorum)
{
    struct raft_options options = craft_options();
    options.pre_vote = pre_vote;
    options.check_quorum = check_quorum;
    return options;
}

static enum raft_role role_of(struct craft_group *group, uint64_t id)
{
    return craft_of(group, id)->raft.role;
}

static uint64_t term_of(struct craft_group *group, uint64_t id)
{
    return craft_of(group, id)->raft.term;
}

Test(raft_group, row_16_elections)
{
    static const struct {
        const char *why;
        uint32_t size;
        const char *down; /* ids */
        const char *logs[5];
        enum raft_role plain, pre_vote;
        uint64_t plain_term, pre_vote_term;
    } cases[] = {
        {"all up", 3, "", {0}, RAFT_ROLE_LEADER, RAFT_ROLE_LEADER, 1, 1},
        {"two of three", 3, "3", {0}, RAFT_ROLE_LEADER, RAFT_ROLE_LEADER, 1, 1},
        {"one of three", 3, "23", {0}, RAFT_ROLE_CANDIDATE, RAFT_ROLE_PRE_CANDIDATE, 1, 0},
        {"two of four", 4, "23", {0}, RAFT_ROLE_CANDIDATE, RAFT_ROLE_PRE_CANDIDATE, 1, 0},
        {"three of five", 5, "23", {0}, RAFT_ROLE_LEADER, RAFT_ROLE_LEADER, 1, 1},
        {"three have longer logs of this term",
         5,
         "",
         {"", "1", "1", "11", ""},
         RAFT_ROLE_FOLLOWER,
         RAFT_ROLE_FOLLOWER,
         1,
         1},
    };
    for (size_t i = 0; i < 2 * ARRAY_COUNT(cases); i++) {
        size_t at = i / 2;
        bool pre_vote = i % 2;
        struct raft_options options = options_with(pre_vote, false);
        struct craft_group group;
        craft_group_init(&group, cases[at].size, &options);
        for (uint64_t id = 1; id <= cases[at].size; id++) {
            const char *log = cases[at].logs[id - 1];
            if (log != NULL)
                craft_log(craft_of(&group, id), log, log[0] == '\0' ? 0 : 1, 0, 0);
        }
        for (const char *down = cases[at].down; *down != '\0'; down++)
            craft_isolate(&group, (uint64_t)(*down - '0'));
        craft_campaign(&group, 1);
        cr_expect_eq(role_of(&group, 1), pre_vote ? cases[at].pre_vote : cases[at].plain, "%s: %s",
                     cases[at].why, raft_role_name(role_of(&group, 1)));
        cr_expect_eq(term_of(&group, 1), pre_vote ? cases[at].pre_vote_term : cases[at].plain_term,
                     "%s", cases[at].why);
        craft_group_deinit(&group);
    }
}

Test(raft_group, row_17_every_node_can_lead)
{
    for (int pre_vote = 0; pre_vote < 2; pre_vote++) {
        struct raft_options options = options_with(pre_vote, false);
        struct craft_group group;
        craft_group_init(&group, 3, &options);
        for (uint64_t id = 1; id <= 3; id++) {
            craft_campaign(&group, id);
            for (uint64_t other = 1; other <= 3; other++)
                cr_expect_eq(role_of(&group, other),
                             other == id ? RAFT_ROLE_LEADER : RAFT_ROLE_FOLLOWER);
        }
        craft_group_deinit(&group);
    }
}

/* Who won term 1 has to step over a term 2 whose leader is gone with its only entry. */
Test(raft_group, row_18_newer_entries_are_overwritten)
{
    for (int pre_vote = 0; pre_vote < 2; pre_vote++) {
        struct raft_options options = options_with(pre_vote, false);
        struct craft_group group;
        craft_group_init(&group, 5, &options);
        craft_log(craft_of(&group, 1), "1", 1, 1, 0);
        craft_log(craft_of(&group, 2), "1", 1, 1, 0);
        craft_log(craft_of(&group, 3), "2", 2, 3, 0);
        craft_log(craft_of(&group, 4), "", 2, 3, 0);
        craft_log(craft_of(&group, 5), "", 2, 3, 0);
        craft_campaign(&group, 1);
        cr_expect_eq(role_of(&group, 1), RAFT_ROLE_FOLLOWER, "a majority knows term 2");
        cr_expect_eq(term_of(&group, 1), 2);
        craft_campaign(&group, 1);
        cr_expect_eq(role_of(&group, 1), RAFT_ROLE_LEADER);
        cr_expect_eq(term_of(&group, 1), 3);
        for (uint64_t id = 1; id <= 5; id++)
            cr_expect_str_eq(craft_terms(craft_of(&group, id)), "13", "node %lu", id);
        craft_group_deinit(&group);
    }
}

Test(raft_group, row_19_dueling_candidates)
{
    for (int pre_vote = 0; pre_vote < 2; pre_vote++) {
        struct raft_options options = options_with(pre_vote, false);
        struct craft_group group;
        craft_group_init(&group, 3, &options);
        craft_cut(&group, 1, 3);
        craft_campaign(&group, 1);
        craft_campaign(&group, 3);
        cr_expect_eq(role_of(&group, 1), RAFT_ROLE_LEADER);
        cr_expect_eq(role_of(&group, 3), pre_vote ? RAFT_ROLE_FOLLOWER : RAFT_ROLE_CANDIDATE,
                     "one refusal loses a question, as two of three must agree to it: %s",
                     raft_role_name(role_of(&group, 3)));
        craft_heal(&group);
        craft_campaign(&group, 3);
        for (uint64_t id = 1; id <= 3; id++)
            cr_expect_eq(term_of(&group, id), pre_vote ? 1 : 2, "node %lu: %lu", id,
                         term_of(&group, id));
        cr_expect_eq(role_of(&group, 1), pre_vote ? RAFT_ROLE_LEADER : RAFT_ROLE_FOLLOWER);
        cr_expect_eq(role_of(&group, 2), RAFT_ROLE_FOLLOWER);
        cr_expect_eq(role_of(&group, 3), RAFT_ROLE_FOLLOWER);
        craft_group_deinit(&group);
    }
}

Test(raft_group, row_20_a_candidate_concedes)
{
    struct raft_options options = options_with(false, false);
    struct craft_group group;
    craft_group_init(&group, 3, &options);
    craft_isolate(&group, 1);
    craft_campaign(&group, 1);
    craft_campaign(&group, 3);
    cr_assert_eq(role_of(&group, 1), RAFT_ROLE_CANDIDATE);
    cr_assert_eq(role_of(&group, 3), RAFT_ROLE_LEADER);
    craft_heal(&group);
    craft_tick(&group, 3, 1);
    cr_assert_eq(craft_propose(&group, 3, "force follower"), 0);
    craft_tick(&group, 3, 1);
    cr_expect_eq(role_of(&group, 1), RAFT_ROLE_FOLLOWER);
    cr_expect_eq(term_of(&group, 1), 1);
    for (uint64_t id = 1; id <= 3; id++) {
        cr_expect_str_eq(craft_terms(craft_of(&group, id)), "11");
        cr_expect_eq(craft_of(&group, id)->raft.log.committed_index, 2);
    }
    craft_group_deinit(&group);
}

Test(raft_group, row_36_51_a_leader_checks_its_quorum)
{
    for (int answers = 0; answers < 2; answers++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "", 0, 0);
        node->raft.options.check_quorum = true;
        craft_win(node);
        for (int t = 0; t < CRAFT_TICKS + 1; t++) {
            if (answers)
                craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT_RESPONSE,
                                                       .term = node->raft.term});
            node_tick(node, CLUSTER_TICK_NS);
            craft_ready(node);
        }
        cr_expect_eq(node->raft.role, answers ? RAFT_ROLE_LEADER : RAFT_ROLE_FOLLOWER);
        cr_expect_eq(node->raft.term, 1);
        cluster_deinit(&cluster);
    }
}

Test(raft_group, row_51_a_new_node_does_not_depose_the_leader)
{
    struct raft_options options = options_with(false, true);
    struct craft_group group;
    craft_group_init(&group, 1, &options);
    craft_campaign(&group, 1);
    struct node *node = craft_of(&group, 1);
    cr_assert_eq(node->raft.role, RAFT_ROLE_LEADER);
    struct raft_config_change add = {.count = 1,
                                     .changes = {{.kind = RAFT_CHANGE_ADD_VOTER, .id = 2}}};
    craft_tick(&group, 1, CRAFT_TICKS - 1);
    cr_assert_eq(node_propose_change(node, &add), 0);
    craft_settle(&group);
    cr_assert_eq(node->raft.peer_count, 2);
    craft_tick(&group, 1, 1);
    cr_expect_eq(node->raft.role, RAFT_ROLE_LEADER, "the new one counts as heard once");
    craft_tick(&group, 1, CRAFT_TICKS);
    cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
    craft_group_deinit(&group);
}

Test(raft_group, row_37_superseding_a_leader)
{
    struct raft_options options = options_with(false, true);
    struct craft_group group;
    craft_group_init(&group, 3, &options);
    craft_of(&group, 2)->raft.election_draw_ns = (CRAFT_TICKS + 1) * CLUSTER_TICK_NS;
    craft_campaign(&group, 1);
    cr_assert_eq(role_of(&group, 1), RAFT_ROLE_LEADER);
    craft_of(&group, 2)->raft.election_draw_ns = 2 * CRAFT_TICKS * CLUSTER_TICK_NS;
    craft_isolate(&group, 1);
    craft_campaign(&group, 3);
    cr_expect_eq(role_of(&group, 3), RAFT_ROLE_CANDIDATE, "node 2 heard its leader just now");
    craft_tick(&group, 2, CRAFT_TICKS - 1);
    craft_campaign(&group, 3);
    cr_expect_eq(role_of(&group, 3), RAFT_ROLE_CANDIDATE);
    craft_tick(&group, 2, 1);
    craft_campaign(&group, 3);
    cr_expect_eq(role_of(&group, 3), RAFT_ROLE_LEADER);
    craft_group_deinit(&group);
}

Test(raft_group, row_37_leases_of_leader_and_follower)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *leader = craft_node(&cluster, 3, "", 0, 0);
    leader->raft.options.check_quorum = true;
    craft_win(leader);
    struct raft_message vote = {
        .kind = RAFT_MESSAGE_VOTE, .term = 5, .index = 9, .log_term = 4, .from = 3};
    for (int t = 0; t < 3 * CRAFT_TICKS; t++) {
        node_tick(leader, CLUSTER_TICK_NS);
        craft_give(leader,
                   (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT_RESPONSE, .term = 1});
        craft_give(leader, vote);
        cr_assert_eq(leader->raft.term, 1, "a leader is always in its own lease");
    }
    vote.transfer = true;
    craft_give(leader, vote);
    cr_expect_eq(leader->raft.term, 5, "a transfer passes");

    struct node *follower = craft_node(&cluster, 3, "", 1, 0);
    follower->raft.options.check_quorum = true;
    craft_give(follower,
               (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .from = 1, .term = 1});
    vote.transfer = false;
    node_tick(follower, (CRAFT_TICKS - 1) * CLUSTER_TICK_NS);
    craft_drain(&cluster);
    craft_give(follower, vote);
    cr_expect_eq(follower->raft.term, 1, "it heard its leader");
    cr_expect_eq(cluster.network_count, 0, "and says nothing");
    node_tick(follower, CLUSTER_TICK_NS);
    craft_give(follower, vote);
    cr_expect_eq(follower->raft.term, 5, "long ago");
    cluster_deinit(&cluster);
}

Test(raft_group, row_38_fresh_nodes_vote)
{
    struct raft_options options = options_with(false, true);
    struct craft_group group;
    craft_group_init(&group, 3, &options);
    craft_campaign(&group, 1); /* no timer moved yet: nobody knows a leader */
    cr_expect_eq(role_of(&group, 1), RAFT_ROLE_LEADER);
    cr_expect_eq(role_of(&group, 3), RAFT_ROLE_FOLLOWER);
    craft_isolate(&group, 1);
    craft_of(&group, 2)->raft.election_draw_ns = 2 * CRAFT_TICKS * CLUSTER_TICK_NS;
    craft_tick(&group, 2, CRAFT_TICKS);
    craft_campaign(&group, 3);
    cr_expect_eq(role_of(&group, 3), RAFT_ROLE_LEADER);
    craft_heal(&group);
    craft_tick(&group, 3, 1);
    cr_expect_eq(role_of(&group, 1), RAFT_ROLE_FOLLOWER);
    craft_group_deinit(&group);
}

Test(raft_group, row_39_a_stuck_candidate_is_freed)
{
    struct raft_options options = options_with(false, true);
    struct craft_group group;
    craft_group_init(&group, 3, &options);
    craft_campaign(&group, 1);
    craft_isolate(&group, 1);
    craft_campaign(&group, 3);
    cr_expect_eq(role_of(&group, 2), RAFT_ROLE_FOLLOWER);
    cr_expect_eq(role_of(&group, 3), RAFT_ROLE_CANDIDATE);
    cr_expect_eq(term_of(&group, 3), term_of(&group, 2) + 1);
    craft_campaign(&group, 3);
    cr_expect_eq(term_of(&group, 3), term_of(&group, 2) + 2);
    craft_heal(&group);
    craft_tick(&group, 1, 1);
    cr_expect_eq(role_of(&group, 1), RAFT_ROLE_FOLLOWER, "the answer to its heartbeat deposed it");
    cr_expect_eq(term_of(&group, 1), term_of(&group, 3));
    craft_campaign(&group, 3);
    cr_expect_eq(role_of(&group, 3), RAFT_ROLE_LEADER);
    craft_group_deinit(&group);
}

Test(raft_group, row_40_who_is_no_member_follows)
{
    struct raft_options options = options_with(false, true);
    struct craft_group group;
    craft_group_init(&group, 2, &options);
    struct node *second = craft_of(&group, 2);
    node_crash(second, 0);
    raft_id_set_remove(&second->disk.applied_config.voters, 2);
    cr_assert_eq(node_restart(second), 0);
    craft_tick(&group, 2, 3 * CRAFT_TICKS);
    cr_expect_eq(role_of(&group, 2), RAFT_ROLE_FOLLOWER);
    craft_campaign(&group, 1);
    cr_expect_eq(role_of(&group, 1), RAFT_ROLE_LEADER);
    cr_expect_eq(role_of(&group, 2), RAFT_ROLE_FOLLOWER);
    cr_expect_eq(second->raft.leader, 1);
    craft_group_deinit(&group);
}

/* Node 3 times out while the leader's heartbeat is under way. */
static void late_heartbeat(struct craft_group *group, bool pre_vote)
{
    struct raft_options options = options_with(pre_vote, true);
    craft_group_init(group, 3, &options);
    for (uint64_t id = 1; id <= 3; id++)
        craft_log(craft_of(group, id), "", 1, 0, 0);
    craft_campaign(group, 1);
    cr_assert_eq(term_of(group, 1), 2);
    if (pre_vote) { /* a shorter log */
        craft_isolate(group, 3);
        cr_assert_eq(craft_propose(group, 1, "x"), 0);
        craft_heal(group);
    }
    struct node *leader = craft_of(group, 1);
    node_tick(leader, CLUSTER_TICK_NS);
    craft_ready(leader); /* its heartbeats are in the network */
    struct node *third = craft_of(group, 3);
    node_tick(third, raft_deadline_ns(&third->raft) - third->raft.now_ns);
    cr_assert_eq(third->raft.role, pre_vote ? RAFT_ROLE_PRE_CANDIDATE : RAFT_ROLE_CANDIDATE);
}

Test(raft_group, row_41_disruptive_follower)
{
    struct craft_group group;
    late_heartbeat(&group, false);
    cluster_deliver(&group.cluster, 3, RAFT_MESSAGE_HEARTBEAT, false);
    craft_ready(craft_of(&group, 3));
    cluster_deliver(&group.cluster, 1, RAFT_MESSAGE_APPEND_RESPONSE, false);
    cr_expect_eq(role_of(&group, 1), RAFT_ROLE_FOLLOWER);
    cr_expect_eq(term_of(&group, 1), 3);
    cr_expect_eq(role_of(&group, 3), RAFT_ROLE_CANDIDATE);
    craft_group_deinit(&group);
}

Test(raft_group, row_42_pitfall_12_pre_vote_keeps_the_leader)
{
    struct craft_group group;
    late_heartbeat(&group, true);
    craft_settle(&group);
    cr_expect_eq(role_of(&group, 1), RAFT_ROLE_LEADER);
    cr_expect_eq(term_of(&group, 1), 2);
    cr_expect_eq(term_of(&group, 3), 2, "nobody's term moved");
    craft_tick(&group, 1, 1);
    cr_expect_eq(craft_of(&group, 3)->raft.leader, 1);
    craft_group_deinit(&group);
}

Test(raft_group, row_43_pitfall_11a_a_smaller_term_completes)
{
    struct raft_options options = options_with(true, false);
    struct craft_group group;
    craft_group_init(&group, 3, &options);
    craft_isolate(&group, 3);
    craft_campaign(&group, 1);
    craft_campaign(&group, 2);
    craft_campaign(&group, 1); /* node 3 knows none of these terms */
    cr_assert_eq(role_of(&group, 1), RAFT_ROLE_LEADER);
    cr_assert_eq(term_of(&group, 3), 0);
    craft_heal(&group);
    craft_isolate(&group, 1);
    for (int round = 0; round < 3 && role_of(&group, 2) != RAFT_ROLE_LEADER; round++) {
        craft_campaign(&group, 3);
        craft_campaign(&group, 2);
    }
    cr_expect(role_of(&group, 2) == RAFT_ROLE_LEADER || role_of(&group, 3) == RAFT_ROLE_LEADER);
    craft_group_deinit(&group);
}

Test(raft_group, pitfall_11a_a_question_of_a_lower_term_is_refused)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "1", 5, 0);
    craft_give(node, (struct raft_message){
                         .kind = RAFT_MESSAGE_PRE_VOTE, .term = 2, .index = 9, .log_term = 1});
    const struct raft_message *answer = craft_newest(&cluster);
    cr_expect_eq(answer->kind, RAFT_MESSAGE_PRE_VOTE_RESPONSE);
    cr_expect(answer->reject);
    cr_expect_eq(answer->term, 5, "the asker learns the term");
    craft_give(node, (struct raft_message){
                         .kind = RAFT_MESSAGE_PRE_VOTE, .term = 6, .index = 9, .log_term = 1});
    cr_expect_not(craft_newest(&cluster)->reject);
    cr_expect_eq(craft_newest(&cluster)->term, 6, "a grant carries the term asked for");
    cluster_deinit(&cluster);
}

Test(raft_group, row_44_a_split_pre_vote)
{
    struct raft_options options = options_with(true, false);
    struct craft_group group;
    craft_group_init(&group, 3, &options);
    craft_campaign(&group, 1);
    craft_campaign(&group, 2);
    craft_campaign(&group, 1);
    uint64_t term = term_of(&group, 1);
    craft_isolate(&group, 1);
    raft_campaign(&craft_of(&group, 2)->raft);
    raft_campaign(&craft_of(&group, 3)->raft);
    craft_settle(&group);
    for (uint64_t id = 2; id <= 3; id++) {
        cr_expect_eq(role_of(&group, id), RAFT_ROLE_CANDIDATE, "each voted for itself");
        cr_expect_eq(term_of(&group, id), term + 1);
    }
    craft_campaign(&group, 2);
    cr_expect_eq(role_of(&group, 2), RAFT_ROLE_LEADER);
    cr_expect_eq(role_of(&group, 3), RAFT_ROLE_FOLLOWER);
    cr_expect_eq(term_of(&group, 2), term + 2);
    craft_group_deinit(&group);
}

Test(raft_group, row_45_pitfall_11c_two_survivors_elect)
{
    struct raft_options options = options_with(true, true);
    struct craft_group group;
    craft_group_init(&group, 3, &options);
    craft_campaign(&group, 1);
    cr_assert_eq(role_of(&group, 1), RAFT_ROLE_LEADER);
    craft_isolate(&group, 1);
    craft_campaign(&group, 3);
    cr_expect_eq(role_of(&group, 3), RAFT_ROLE_PRE_CANDIDATE, "node 2 is in the lease of node 1");
    cr_expect_eq(craft_of(&group, 3)->raft.leader, 0, "who asks knows no leader");
    craft_campaign(&group, 2);
    cr_expect_eq(role_of(&group, 2), RAFT_ROLE_LEADER, "so it need not respect a dead one");
    craft_group_deinit(&group);
}

/* Two nodes have pre-vote, the third not yet: it campaigned alone and is at term 4 with a short
 * log; then it is switched over. */
static void half_migrated(struct craft_group *group)
{
    struct raft_options options = options_with(true, false);
    craft_group_init(group, 3, &options);
    craft_of(group, 3)->raft.options.pre_vote = false;
    for (uint64_t id = 1; id <= 3; id++)
        craft_log(craft_of(group, id), "", 1, 0, 0);
    craft_of(group, 3)->raft.options.pre_vote = false;
    craft_campaign(group, 1);
    craft_isolate(group, 3);
    cr_assert_eq(craft_propose(group, 1, "some data"), 0);
    craft_campaign(group, 3);
    craft_campaign(group, 3);
    cr_assert_eq(role_of(group, 1), RAFT_ROLE_LEADER);
    cr_assert_eq(role_of(group, 3), RAFT_ROLE_CANDIDATE);
    cr_assert_eq(term_of(group, 1), 2);
    cr_assert_eq(term_of(group, 3), 4);
    craft_of(group, 3)->raft.options.pre_vote = true;
    craft_heal(group);
}

Test(raft_group, row_46_pitfall_11b_migration_to_pre_vote)
{
    struct craft_group group;
    half_migrated(&group);
    craft_isolate(&group, 1); /* the leader dies */
    craft_campaign(&group, 3);
    cr_expect_eq(role_of(&group, 3), RAFT_ROLE_PRE_CANDIDATE, "its log is shorter");
    craft_campaign(&group, 2);
    craft_campaign(&group, 3);
    craft_campaign(&group, 2);
    cr_expect_eq(role_of(&group, 2), RAFT_ROLE_LEADER, "%s", raft_role_name(role_of(&group, 2)));
    cr_expect_eq(role_of(&group, 3), RAFT_ROLE_FOLLOWER);
    craft_group_deinit(&group);
}

Test(raft_group, row_46_migration_frees_the_stuck_node)
{
    struct craft_group group;
    half_migrated(&group);
    raft_campaign(&craft_of(&group, 3)->raft);
    craft_settle(&group);
    craft_tick(&group, 1, 1);
    cr_expect_eq(role_of(&group, 1), RAFT_ROLE_FOLLOWER, "a heartbeat told it of the higher term");
    cr_expect_eq(term_of(&group, 1), term_of(&group, 3));
    for (int round = 0; round < 3 && role_of(&group, 1) != RAFT_ROLE_LEADER; round++)
        craft_campaign(&group, 1);
    cr_expect_eq(role_of(&group, 1), RAFT_ROLE_LEADER);
    craft_group_deinit(&group);
}

Test(raft_group, pitfall_25_votes_carry_the_commit_index)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "112", 2, 0);
    craft_give(node, (struct raft_message){
                         .kind = RAFT_MESSAGE_PRE_VOTE, .term = 3, .commit = 2, .commit_term = 1});
    cr_expect_eq(node->raft.log.committed_index, 2, "a request tells it");
    craft_give(node, (struct raft_message){
                         .kind = RAFT_MESSAGE_PRE_VOTE, .term = 3, .commit = 3, .commit_term = 1});
    cr_expect_eq(node->raft.log.committed_index, 2, "another entry at that index");
    raft_campaign(&node->raft);
    craft_ready(node);
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_VOTE_RESPONSE,
                                           .term = 3,
                                           .reject = true,
                                           .commit = 3,
                                           .commit_term = 2});
    cr_expect_eq(node->raft.log.committed_index, 3, "a refusal tells it");
    cr_expect_eq(node->raft.role, RAFT_ROLE_CANDIDATE);
    cluster_deinit(&cluster);
}

Test(raft_group, pitfall_35_a_pause_proves_nothing)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "1", 1, 0);
    node->raft.options.pause_ns_max = 2 * CLUSTER_TICK_NS;
    struct raft *raft = &node->raft;
    node_tick(node, raft_deadline_ns(raft) - raft->now_ns); /* long asleep, but in time */
    cr_expect_eq(raft->role, RAFT_ROLE_CANDIDATE);
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .term = raft->term});
    uint64_t due_ns = raft_deadline_ns(raft);
    node_tick(node, due_ns - raft->now_ns + 5 * CLUSTER_TICK_NS);
    cr_expect_eq(raft->role, RAFT_ROLE_FOLLOWER, "it was away when the timer ran out");
    cr_expect_eq(raft_deadline_ns(raft), raft->now_ns + CLUSTER_TICK_NS);
    node_tick(node, 5 * CLUSTER_TICK_NS);
    cr_expect_eq(raft->role, RAFT_ROLE_CANDIDATE, "once only");
    cluster_deinit(&cluster);
}
