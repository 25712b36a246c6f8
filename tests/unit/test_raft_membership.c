/* Changes of configuration in the running group (rows 109 to 120). */
#include "tests/unit/raft_craft.h"

#include <criterion/criterion.h>

static struct raft_config_change change_one(enum raft_change_kind kind, uint64_t id)
{
    return (struct raft_config_change){.count = 1, .changes = {{.kind = kind, .id = id}}};
}

/* Everything that the node can do alone. */
static void run_alone(struct node *node)
{
    while (node_ready(node) || node_append(node) || node_apply(node))
        ;
}

/* The change comes from leader 2 as entry 1 of term 1, committed. */
static void give_change(struct node *node, struct raft_config_change change)
{
    size_t size = raft_config_change_bytes(&change);
    uint8_t bytes[64];
    cr_assert_leq(size, sizeof(bytes));
    raft_config_change_encode(&change, bytes);
    struct entry entry = {.index = 1,
                          .term = 1,
                          .type = ENTRY_CONFIG_CHANGE,
                          .payload = cluster_copy(node->cluster, bytes, size),
                          .payload_bytes = (uint32_t)size};
    node->payloads_held++;
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND,
                                           .term = 1,
                                           .entry_count = 1,
                                           .entries = &entry,
                                           .commit = 1});
}

static uint32_t changes_in_log(const struct node *node)
{
    uint32_t count = 0;
    for (uint64_t index = node->raft.log.compacted_index + 1; index <= node->raft.log.last_index;
         index++) {
        struct entry entry;
        cr_assert_eq(raft_log_lookup(&node->raft.log, index, &entry), 0);
        count += entry.type == ENTRY_CONFIG_CHANGE;
    }
    return count;
}

Test(raft_membership, row_109_one_change_at_a_time)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "", 0, 0);
    craft_win(node);
    craft_ack(node, 2, 1);
    struct raft_config_change first = change_one(RAFT_CHANGE_ADD_LEARNER, 4);
    struct raft_config_change second = change_one(RAFT_CHANGE_ADD_LEARNER, 5);
    cr_assert_eq(node_propose_change(node, &first), 0);
    cr_expect_eq(node->raft.pending_config_index, 2);
    cr_expect_eq(node_propose_change(node, &second), ERR_DROPPED);
    cr_expect_eq(node->raft.log.last_index, 2, "refused by its answer: nothing takes its place");
    cr_expect_eq(node->raft.pending_config_index, 2);
    craft_ready(node);
    craft_ack(node, 2, 2);
    cr_expect_eq(node->raft.log.applied_index, 2);
    cr_expect_eq(node_propose_change(node, &second), 0, "the first is applied");
    cluster_deinit(&cluster);
}

Test(raft_membership, row_109_two_changes_in_one_call)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "", 0, 0);
    craft_win(node);
    craft_ack(node, 2, 1);
    uint8_t bytes[2][64];
    struct entry entries[3] = {{.type = ENTRY_NORMAL}};
    for (uint64_t i = 0; i < 2; i++) {
        struct raft_config_change change = change_one(RAFT_CHANGE_ADD_LEARNER, 4 + i);
        raft_config_change_encode(&change, bytes[i]);
        entries[1 + i] =
            (struct entry){.type = ENTRY_CONFIG_CHANGE,
                           .payload = bytes[i],
                           .payload_bytes = (uint32_t)raft_config_change_bytes(&change)};
    }
    uint64_t first = 0;
    cr_expect_eq(raft_propose(&node->raft, entries, 3, &first), ERR_DROPPED);
    cr_expect_eq(node->raft.log.last_index, 1, "all or nothing");
    cr_expect_eq(node->raft.pending_config_index, 0);
    cluster_deinit(&cluster);
}

Test(raft_membership, row_110_a_new_leader_does_not_know_what_is_pending)
{
    static const struct {
        const char *log;
        uint64_t want;
    } cases[] = {{"", 0}, {"1", 1}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, cases[i].log, 1, 0);
        craft_win(node);
        cr_expect_eq(node->raft.pending_config_index, cases[i].want);
        struct raft_config_change change = change_one(RAFT_CHANGE_ADD_LEARNER, 4);
        cr_expect_eq(node_propose_change(node, &change), cases[i].want == 0 ? 0 : ERR_DROPPED,
                     "the whole log may hide one");
        cluster_deinit(&cluster);
    }
}

Test(raft_membership, row_111_a_smaller_quorum_commits_at_once)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 2, "1", 1, 0);
    craft_win(node);
    craft_ack(node, 2, 2);
    struct raft_config_change change = change_one(RAFT_CHANGE_REMOVE, 2);
    cr_assert_eq(node_propose_change(node, &change), 0);
    cr_assert_eq(node_propose(node, ENTRY_NORMAL, "waits", 5), 0);
    craft_ready(node);
    cr_expect_eq(node->raft.log.committed_index, 2);
    craft_ack(node, 2, 3);
    cr_expect_eq(node->raft.log.committed_index, 4, "one voter is left: the rest commits");
    cluster_deinit(&cluster);
}

Test(raft_membership, row_112_pitfall_24_33_no_campaign_over_an_unapplied_change)
{
    for (int joint = 0; joint < 2; joint++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct raft_options options = craft_options();
        struct raft_snapshot snapshot = craft_voters(3);
        struct node *node = cluster_add(&cluster, &options, &snapshot, true);
        struct raft_config_change change = change_one(RAFT_CHANGE_ADD_VOTER, 4);
        if (joint)
            change.transition = RAFT_TRANSITION_IMPLICIT;
        give_change(node, change);
        for (int tick = 0; tick < 2 * CRAFT_TICKS; tick++)
            node_tick(node, CLUSTER_TICK_NS);
        raft_campaign(&node->raft);
        craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_TIMEOUT_NOW, .term = 1});
        cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
        cr_expect_eq(node->raft.term, 1);
        run_alone(node);
        cr_assert_eq(node->raft.log.applied_index, 1);
        craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_TIMEOUT_NOW, .term = 1});
        cr_expect_eq(node->raft.role, RAFT_ROLE_CANDIDATE, "now it knows who may vote");
        cluster_deinit(&cluster);
    }
}

Test(raft_membership, pitfall_28_leaving_is_proposed_once)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = craft_options();
    options.apply_bytes_max = 1; /* one entry in each batch */
    struct raft_snapshot snapshot = craft_voters(1);
    struct node *node = cluster_add(&cluster, &options, &snapshot, true);
    raft_campaign(&node->raft);
    run_alone(node);
    cr_assert_eq(node->raft.role, RAFT_ROLE_LEADER);
    struct raft_config_change change = change_one(RAFT_CHANGE_ADD_LEARNER, 2);
    change.transition = RAFT_TRANSITION_IMPLICIT;
    cr_assert_eq(node_propose_change(node, &change), 0);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(node_propose(node, ENTRY_NORMAL, "x", 1), 0);
    run_alone(node);
    cr_expect_eq(changes_in_log(node), 2, "the change and one leave");
    cr_expect_eq(node->raft.config.outgoing.count, 0);
    cr_expect_not(node->raft.config.auto_leave);
    cluster_deinit(&cluster);
}

Test(raft_membership, row_116_pitfall_29_the_next_leader_leaves)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = craft_options();
    struct raft_snapshot snapshot = craft_voters(1);
    struct node *node = cluster_add(&cluster, &options, &snapshot, true);
    raft_campaign(&node->raft);
    run_alone(node);
    struct raft_config_change change = change_one(RAFT_CHANGE_ADD_LEARNER, 2);
    change.transition = RAFT_TRANSITION_IMPLICIT;
    cr_assert_eq(node_propose_change(node, &change), 0);
    while (node_ready(node) || node_append(node)) /* committed, not applied */
        ;
    raft_step_down(&node->raft);
    run_alone(node);
    cr_expect(node->raft.config.auto_leave);
    cr_expect_eq(changes_in_log(node), 1, "a follower proposes nothing");
    raft_campaign(&node->raft);
    run_alone(node);
    cr_expect_eq(node->raft.role, RAFT_ROLE_LEADER);
    cr_expect_eq(changes_in_log(node), 2);
    cr_expect_eq(node->raft.config.outgoing.count, 0);
    cluster_deinit(&cluster);
}

Test(raft_membership, pitfall_26_27_a_removed_leader_stops)
{
    for (int demoted = 0; demoted < 2; demoted++) {
        struct raft_options options = craft_options();
        options.step_down_on_removal = true;
        struct craft_group group;
        craft_group_init(&group, 3, &options);
        craft_campaign(&group, 1);
        struct node *first = craft_of(&group, 1);
        struct raft_config_change change =
            change_one(demoted ? RAFT_CHANGE_ADD_LEARNER : RAFT_CHANGE_REMOVE, 1);
        cr_assert_eq(node_propose_change(first, &change), 0);
        craft_settle(&group);
        cr_expect_eq(first->raft.role, RAFT_ROLE_FOLLOWER);
        cr_expect_not(raft_id_set_has(&first->raft.config.voters, 1));
        uint32_t leaders = 0;
        for (uint64_t id = 2; id <= 3; id++)
            leaders += craft_of(&group, id)->raft.role == RAFT_ROLE_LEADER;
        cr_expect_eq(leaders, 1, "it told the best voter to start");
        craft_tick(&group, 1, 3 * CRAFT_TICKS);
        raft_campaign(&first->raft);
        cr_expect_eq(first->raft.role, RAFT_ROLE_FOLLOWER, "and cannot campaign");
        craft_group_deinit(&group);
    }
}

/* The change is committed on the leader alone; what tells the other voter is lost. */
Test(raft_membership, pitfall_26_the_last_message_of_a_removed_leader_is_lost)
{
    struct raft_options options = craft_options();
    options.step_down_on_removal = true;
    struct craft_group group;
    craft_group_init(&group, 2, &options);
    craft_campaign(&group, 1);
    struct node *first = craft_of(&group, 1);
    struct node *second = craft_of(&group, 2);
    struct raft_config_change change = change_one(RAFT_CHANGE_REMOVE, 1);
    cr_assert_eq(node_propose_change(first, &change), 0);
    craft_ready(first);
    cluster_deliver(&group.cluster, 2, 0, false);
    craft_ready(second);
    cluster_deliver(&group.cluster, 1, 0, false);
    craft_ready(first);
    cr_assert_eq(first->raft.role, RAFT_ROLE_FOLLOWER);
    craft_drain(&group.cluster);
    cr_assert_eq(second->raft.config.voters.count, 2, "it does not know");
    craft_campaign(&group, 2);
    craft_campaign(&group, 2);
    cr_expect_eq(second->raft.role, RAFT_ROLE_LEADER, "the answer to its question told it");
    cr_expect_eq(second->raft.config.voters.count, 1);
    craft_group_deinit(&group);
}

/* A voter counts in the half that it belongs to: commit and elections need both. */
Test(raft_membership, row_119_a_removed_leader_does_not_count_itself)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "", 0, 0);
    node->raft.options.step_down_on_removal = false;
    craft_win(node);
    craft_ack(node, 2, 1);
    struct raft_config_change change = change_one(RAFT_CHANGE_REMOVE, 1);
    cr_assert_eq(node_propose_change(node, &change), 0);
    craft_ready(node);
    craft_ack(node, 2, 2);
    cr_assert_eq(node->raft.config.voters.count, 2);
    cr_expect_eq(node->raft.role, RAFT_ROLE_LEADER, "the old mode goes on");
    cr_expect_eq(node_propose(node, ENTRY_NORMAL, "x", 1), ERR_DROPPED);
    craft_ack(node, 3, 2);
    cr_expect_eq(node->raft.log.committed_index, 2);
    cluster_deinit(&cluster);
}

Test(raft_membership, pitfall_1_siblings_cannot_both_commit)
{
    /* Two leaders append different changes to the same base; only one can be elected with it. */
    struct raft_options options = craft_options();
    struct craft_group group;
    craft_group_init(&group, 4, &options);
    craft_campaign(&group, 1);
    craft_isolate(&group, 1);
    struct raft_config_change add = change_one(RAFT_CHANGE_ADD_VOTER, 5);
    cr_assert_eq(node_propose_change(craft_of(&group, 1), &add), 0);
    craft_settle(&group);
    craft_campaign(&group, 2);
    cr_assert_eq(craft_of(&group, 2)->raft.role, RAFT_ROLE_LEADER);
    struct raft_config_change remove = change_one(RAFT_CHANGE_REMOVE, 1);
    cr_assert_eq(node_propose_change(craft_of(&group, 2), &remove), 0);
    craft_settle(&group);
    cr_assert_eq(craft_of(&group, 2)->raft.config.voters.count, 3);
    cr_expect_eq(craft_of(&group, 1)->raft.config.voters.count, 4, "not before it is applied");
    craft_heal(&group);
    raft_step_down(&craft_of(&group, 1)->raft);
    for (int round = 0; round < 3; round++) {
        craft_campaign(&group, 1);
        cr_expect_neq(craft_of(&group, 1)->raft.role, RAFT_ROLE_LEADER, "its log is older");
    }
    for (uint64_t id = 2; id <= 4; id++)
        cr_expect_not(raft_id_set_has(&craft_of(&group, id)->raft.config.voters, 5));
    craft_group_deinit(&group);
}

/* Commit and the word to start come together, before the change is applied: it starts then, unless
 * the leader was heard again. */
Test(raft_membership, row_120_pitfall_26_told_to_start_too_early)
{
    for (int leader_speaks = 0; leader_speaks < 2; leader_speaks++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct raft_options options = craft_options();
        struct raft_snapshot snapshot = craft_voters(3);
        struct node *node = cluster_add(&cluster, &options, &snapshot, true);
        give_change(node, change_one(RAFT_CHANGE_REMOVE, 2));
        craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_TIMEOUT_NOW, .term = 1});
        cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
        if (leader_speaks)
            craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .term = 1});
        run_alone(node);
        cr_expect_eq(node->raft.log.applied_index, 1);
        cr_expect_eq(node->raft.role, leader_speaks ? RAFT_ROLE_FOLLOWER : RAFT_ROLE_CANDIDATE);
        cluster_deinit(&cluster);
    }
}

/* A transfer holds the leave back; when it is given up nothing else may be applied for long. */
Test(raft_membership, pitfall_29_32_leaving_waits_for_a_transfer)
{
    struct craft_group group;
    struct raft_options options = craft_options();
    craft_group_init(&group, 3, &options);
    craft_campaign(&group, 1);
    struct node *leader = craft_of(&group, 1);
    craft_isolate(&group, 3);
    cr_assert_eq(craft_propose(&group, 1, "x"), 0);
    struct raft_config_change change = change_one(RAFT_CHANGE_ADD_LEARNER, 4);
    change.transition = RAFT_TRANSITION_IMPLICIT;
    cr_assert_eq(node_propose_change(leader, &change), 0);
    cr_assert_eq(raft_transfer(&leader->raft, 3), 0);
    craft_settle(&group);
    cr_assert(leader->raft.config.auto_leave);
    cr_expect_eq(changes_in_log(leader), 1);
    craft_tick(&group, 1, CRAFT_TICKS);
    cr_expect_eq(leader->raft.transferee, 0);
    cr_expect_eq(changes_in_log(leader), 2);
    cr_expect_eq(leader->raft.config.outgoing.count, 0);
    craft_group_deinit(&group);
}

/* Its own timer says that it heard no leader; that it may not campaign yet is no reason to keep
 * others from it. */
Test(raft_membership, pitfall_24_a_node_that_must_wait_respects_nobody)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = craft_options();
    options.check_quorum = true;
    struct raft_snapshot snapshot = craft_voters(3);
    struct node *node = cluster_add(&cluster, &options, &snapshot, true);
    give_change(node, change_one(RAFT_CHANGE_ADD_VOTER, 4));
    while (node_append(node))
        ;
    cr_assert_eq(node->raft.leader, 2);
    node_tick(node, raft_deadline_ns(&node->raft) - node->raft.now_ns);
    cr_assert_eq(node->raft.role, RAFT_ROLE_FOLLOWER, "the change is not applied");
    craft_give(node,
               (struct raft_message){
                   .kind = RAFT_MESSAGE_VOTE, .from = 3, .term = 2, .index = 1, .log_term = 1});
    cr_expect_eq(node->raft.vote, 3);
    cluster_deinit(&cluster);
}

/* ---- a start before what the log tells was applied ---- */

enum { NO_CHANGE, ADD, LEARN, REMOVE };

/* What the log of a node holds above applied index 0, and what its start makes of that. */
static const struct {
    const char *why;
    uint32_t voters;    /* {1, .., n} as of index 0 */
    uint8_t changes[6]; /* entry i + 1 */
    uint32_t last;
    uint64_t stored_commit, want_commit;
} starts[] = {
    {"no change: nothing is known", 3, {NO_CHANGE, NO_CHANGE}, 2, 1, 1},
    {"one change may be uncommitted", 3, {NO_CHANGE, ADD, NO_CHANGE}, 3, 0, 0},
    {"a second one proves the first", 3, {NO_CHANGE, ADD, NO_CHANGE, LEARN}, 4, 0, 2},
    {"a third one the second", 3, {ADD, NO_CHANGE, LEARN, NO_CHANGE, REMOVE, NO_CHANGE}, 6, 0, 3},
    {"what is stored counts too", 3, {ADD, LEARN, NO_CHANGE, NO_CHANGE}, 4, 3, 3},
    {"a lone voter's log to its end, but nothing hurries", 1, {NO_CHANGE, NO_CHANGE}, 2, 0, 0},
    {"a lone voter's log to the first change", 1, {NO_CHANGE, ADD, NO_CHANGE}, 3, 0, 2},
    {"not further: another may lead there", 1, {ADD, NO_CHANGE, NO_CHANGE}, 3, 0, 1},
    {"and again by the second", 1, {ADD, NO_CHANGE, ADD}, 3, 0, 1},
};

static void disk_change(struct node *node, uint64_t index, uint8_t change)
{
    static const enum raft_change_kind kinds[] = {0, RAFT_CHANGE_ADD_VOTER, RAFT_CHANGE_ADD_LEARNER,
                                                  RAFT_CHANGE_REMOVE};
    uint8_t bytes[64];
    if (change == NO_CHANGE)
        return;
    struct raft_config_change made = change_one(kinds[change], change == REMOVE ? 3 : 10 + index);
    size_t size = raft_config_change_bytes(&made);
    raft_config_change_encode(&made, bytes);
    node->disk.entries[index].type = ENTRY_CONFIG_CHANGE;
    node->disk.entries[index].payload = cluster_copy(node->cluster, bytes, size);
    node->disk.entries[index].payload_bytes = (uint32_t)size;
}

Test(raft_membership, pitfall_24_what_a_log_tells_about_its_changes_at_a_start)
{
    for (size_t i = 0; i < ARRAY_COUNT(starts); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, starts[i].voters, "", 0, 0);
        node_crash(node, 0);
        for (uint64_t index = 1; index <= starts[i].last; index++) {
            node->disk.entries[index] = (struct entry){.index = index, .term = 1};
            disk_change(node, index, starts[i].changes[index - 1]);
        }
        node->disk.last_index = starts[i].last;
        node->disk.hard_state = (struct hard_state){.term = 1, .commit = starts[i].stored_commit};
        cr_assert_eq(node_restart(node), 0);
        const struct raft_log *log = &node->raft.log;
        cr_expect_eq(log->committed_index, starts[i].want_commit, "%s: %lu", starts[i].why,
                     (unsigned long)log->committed_index);
        bool waits = starts[i].want_commit > 0 && log->config_index > 0;
        raft_campaign(&node->raft);
        cr_expect_eq(node->raft.role == RAFT_ROLE_FOLLOWER, waits, "%s", starts[i].why);
        cluster_deinit(&cluster);
    }
}

/* What is damaged may be a change as well: nothing is concluded from what lies behind it. */
Test(raft_membership, pitfall_24_a_damaged_entry_ends_what_a_log_tells)
{
    static const struct {
        const char *why;
        uint64_t damaged, in_group, alone; /* commit index */
    } cases[] = {
        {"none", 0, 3, 3},
        {"the first", 1, 0, 0},
        {"behind the first", 2, 0, 1},
        {"behind the second", 4, 1, 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        for (uint32_t voters = 1; voters <= 3; voters += 2) {
            struct cluster cluster;
            cluster_init(&cluster);
            struct node *node = craft_node(&cluster, voters, "", 0, 0);
            node_crash(node, 0);
            for (uint64_t index = 1; index <= 6; index++) {
                node->disk.entries[index] = (struct entry){.index = index, .term = 1};
                disk_change(node, index, index % 2 == 1 && index <= 5 ? LEARN : NO_CHANGE);
            }
            node->disk.last_index = 6;
            node->disk.hard_state = (struct hard_state){.term = 1};
            node->disk.damaged_index = cases[i].damaged;
            cr_assert_eq(node_restart(node), 0);
            uint64_t want = voters == 1 ? cases[i].alone : cases[i].in_group;
            cr_expect_eq(node->raft.log.committed_index, want, "%s, %u voters", cases[i].why,
                         voters);
            if (cases[i].damaged != 0)
                cr_expect_eq(node->raft.log.config_index, 6, "unknown: %s", cases[i].why);
            cluster_deinit(&cluster);
        }
}

/* A lone voter that must first apply a change which leaves it alone leads without waiting. */
Test(raft_membership, a_lone_voter_that_applied_a_change_hurries)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 1, "", 0, 0);
    node_crash(node, 0);
    node->options.single_voter_starts = true;
    node->disk.entries[1] = (struct entry){.index = 1, .term = 1};
    disk_change(node, 1, LEARN);
    node->disk.last_index = 1;
    node->disk.hard_state = (struct hard_state){.term = 1};
    cr_assert_eq(node_restart(node), 0);
    node_tick(node, 1);
    cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER, "the change is not applied");
    run_alone(node);
    cr_expect_eq(node->raft.config.learners.count, 1);
    node_tick(node, 1);
    run_alone(node);
    cr_expect_eq(node->raft.role, RAFT_ROLE_LEADER);
    cluster_deinit(&cluster);
}
