/* What arrives from outside is not trusted; what goes in decides what comes out (rows 21, 129 to
 * 134). */
#include "tests/unit/raft_craft.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

Test(raft_input, row_129_pitfall_21_what_the_network_may_not_say)
{
    static const struct {
        const char *why;
        struct raft_message message;
        int want;
    } cases[] = {
        {"no kind",
         {.kind = (enum raft_message_kind)0, .from = 2, .to = 1, .term = 1},
         ERR_MALFORMED},
        {"unknown kind",
         {.kind = (enum raft_message_kind)99, .from = 2, .to = 1, .term = 1},
         ERR_MALFORMED},
        {"for another node",
         {.kind = RAFT_MESSAGE_HEARTBEAT, .from = 2, .to = 3, .term = 1},
         ERR_MALFORMED},
        {"from ourselves",
         {.kind = RAFT_MESSAGE_HEARTBEAT, .from = 1, .to = 1, .term = 1},
         ERR_MALFORMED},
        {"from nobody", {.kind = RAFT_MESSAGE_HEARTBEAT, .to = 1, .term = 1}, ERR_MALFORMED},
        {"from an id that cannot be",
         {.kind = RAFT_MESSAGE_HEARTBEAT, .from = RAFT_ID_MAX + 1, .to = 1, .term = 1},
         ERR_MALFORMED},
        {"a term that leaves no room for later ones",
         {.kind = RAFT_MESSAGE_PRE_VOTE, .from = 2, .to = 1, .term = RAFT_TERM_MAX + 1},
         ERR_MALFORMED},
        {"the last term",
         {.kind = RAFT_MESSAGE_HEARTBEAT, .from = 2, .to = 1, .term = RAFT_TERM_MAX},
         0},
        {"a read with a term",
         {.kind = RAFT_MESSAGE_READ_INDEX, .from = 2, .to = 1, .term = 1},
         ERR_MALFORMED},
        {"an answer of a stranger",
         {.kind = RAFT_MESSAGE_VOTE_RESPONSE, .from = 9, .to = 1, .term = 1},
         ERR_NOT_FOUND},
        {"entries without bytes",
         {.kind = RAFT_MESSAGE_APPEND, .from = 2, .to = 1, .term = 1, .entry_count = 1},
         ERR_MALFORMED},
        {"no snapshot",
         {.kind = RAFT_MESSAGE_SNAPSHOT, .from = 2, .to = 1, .term = 1},
         ERR_MALFORMED},
        {"index at the end of numbers",
         {.kind = RAFT_MESSAGE_APPEND,
          .from = 2,
          .to = 1,
          .term = 1,
          .index = UINT64_MAX,
          .log_term = 1},
         0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "1", 1, 0);
        cr_expect_eq(raft_step(&node->raft, &cases[i].message), cases[i].want, "%s", cases[i].why);
        cluster_deinit(&cluster);
    }
}

/* Without a term a message would pass for one of our own making. */
Test(raft_input, row_129_no_kind_comes_without_its_term)
{
    for (int kind = RAFT_MESSAGE_APPEND; kind <= RAFT_MESSAGE_READ_INDEX_RESPONSE; kind++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "1", 1, 0);
        bool termless = kind == RAFT_MESSAGE_TRANSFER || kind == RAFT_MESSAGE_READ_INDEX;
        struct raft_message message = {
            .kind = (enum raft_message_kind)kind, .from = 2, .to = 1, .term = termless};
        cr_expect_eq(raft_step(&node->raft, &message), ERR_MALFORMED, "%s",
                     raft_message_kind_name((enum raft_message_kind)kind));
        cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
        cr_expect_eq(node->raft.leader, 0);
        cluster_deinit(&cluster);
    }
}

Test(raft_input, pitfall_21_entries_that_do_not_follow_each_other)
{
    static const struct {
        const char *why;
        struct entry entries[2];
    } cases[] = {
        {"a gap", {{.index = 2, .term = 1}, {.index = 4, .term = 1}}},
        {"not after prev", {{.index = 3, .term = 1}, {.index = 4, .term = 1}}},
        {"a term of the future", {{.index = 2, .term = 1}, {.index = 3, .term = 5}}},
        {"terms that go back", {{.index = 2, .term = 2}, {.index = 3, .term = 1}}},
        {"no term", {{.index = 2}, {.index = 3, .term = 1}}},
        {"too large",
         {{.index = 2, .term = 1},
          {.index = 3, .term = 1, .payload_bytes = ENTRY_PAYLOAD_BYTES_MAX + 1}}},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "1", 2, 0);
        struct raft_message message = {.kind = RAFT_MESSAGE_APPEND,
                                       .from = 2,
                                       .to = 1,
                                       .term = 2,
                                       .index = 1,
                                       .log_term = 1,
                                       .entry_count = 2,
                                       .entries = cases[i].entries};
        cr_expect_eq(raft_step(&node->raft, &message), ERR_MALFORMED, "%s", cases[i].why);
        cr_expect_eq(node->raft.log.last_index, 1);
        cluster_deinit(&cluster);
    }
}

Test(raft_input, row_21_130_a_lone_voter_leads_when_its_vote_is_durable)
{
    for (int pre_vote = 0; pre_vote < 2; pre_vote++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct raft_options options = craft_options();
        options.pre_vote = pre_vote;
        struct raft_snapshot snapshot = craft_voters(1);
        struct node *node = cluster_add(&cluster, &options, &snapshot, true);
        raft_campaign(&node->raft);
        craft_ready(node);
        cr_expect_eq(node->raft.role, RAFT_ROLE_CANDIDATE);
        cr_assert(node_append(node));
        cr_expect_eq(node->raft.role, RAFT_ROLE_LEADER);
        craft_ready(node);
        cr_expect_eq(node->raft.log.committed_index, 0, "its entry is not durable");
        cr_assert(node_append(node));
        cr_expect_eq(node->raft.log.committed_index, 1);
        cluster_deinit(&cluster);
    }
}

/* A log that the disk rewrites twice: 1/1, then 2/1, and back to 1/1. */
Test(raft_input, row_132_pitfall_39_old_answers_of_the_disk)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = craft_options();
    struct raft_snapshot snapshot = craft_voters(3);
    struct node *node = cluster_add(&cluster, &options, &snapshot, true);
    craft_append(node, 1, 0, 0, "1", 0);
    craft_append(node, 2, 0, 0, "2", 0);
    craft_append(node, 3, 0, 0, "1", 0);
    for (int done = 1; done <= 3; done++) {
        cr_assert(node_append(node));
        cr_expect_eq(node->raft.log.durable_index, done == 3,
                     "the disk has 1/1 and will have 2/1 before it has 1/1 again");
    }
    cluster_deinit(&cluster);
}

/* Row 133 is optional and not taken up: there are no priorities, logs alone decide who may lead. */
Test(raft_input, row_133_only_logs_decide)
{
    for (uint64_t asker = 1; asker <= 3; asker += 2) {
        struct cluster cluster;
        cluster_init(&cluster);
        craft_node(&cluster, 3, "11", 1, 0);
        struct node *voter = craft_node(&cluster, 3, "11", 1, 0);
        for (uint64_t index = 1; index <= 3; index++) {
            craft_log(voter, "11", 1, 0, 0);
            craft_give(voter, (struct raft_message){.kind = RAFT_MESSAGE_VOTE,
                                                    .from = asker,
                                                    .term = 2,
                                                    .index = index,
                                                    .log_term = 1});
            cr_expect_eq(craft_newest(&cluster)->reject, index < 2, "asked by %lu", asker);
        }
        cluster_deinit(&cluster);
    }
}

Test(raft_input, row_134_pitfall_2_41_votes_wait_for_the_disk)
{
    for (int early_vote = 0; early_vote < 2; early_vote++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct raft_options options = craft_options();
        options.early_vote = early_vote;
        struct raft_snapshot snapshot = craft_voters(3);
        struct node *node = cluster_add(&cluster, &options, &snapshot, true);
        craft_append(node, 1, 0, 0, "11", 0); /* entries that the disk does not have yet */
        raft_campaign(&node->raft);
        craft_ready(node);
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_VOTE), early_vote ? 2 : 0,
                     "it would advertise entries that a crash takes back");
        while (node_append(node))
            ;
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_VOTE), 2);
        craft_drain(&cluster);
        craft_give(node,
                   (struct raft_message){
                       .kind = RAFT_MESSAGE_VOTE, .from = 3, .term = 9, .index = 9, .log_term = 2});
        cr_expect_eq(cluster.network_count, 0, "a vote is given when it is durable");
        node_crash(node, 0); /* the write failed, and with it the node */
        cr_assert_eq(node_restart(node), 0);
        cr_expect_eq(node->raft.term, 2, "nobody heard of its vote in term 9");
        cr_expect_eq(cluster.network_count, 0);
        cluster_deinit(&cluster);
    }
}

/* An answer to a pre-vote promises nothing, so it may overtake the disk; the vote after it may not.
 */
Test(raft_input, row_134_pre_votes_are_answered_while_the_disk_writes)
{
    static const struct {
        const char *why;
        uint64_t term, index, log_term;
    } questions[] = {
        {"a grant", 3, 1, 2},
        {"a refusal to the shorter log", 3, 0, 0},
        {"a refusal to an earlier term", 1, 1, 1},
    };
    for (int early = 0; early < 2; early++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct raft_options options = craft_options();
        options.early_pre_vote = early;
        struct raft_snapshot snapshot = craft_voters(3);
        struct node *node = cluster_add(&cluster, &options, &snapshot, true);
        craft_append(node, 2, 0, 0, "2", 0); /* the disk is at it */
        for (size_t i = 0; i < ARRAY_COUNT(questions); i++) {
            craft_drain(&cluster);
            craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_PRE_VOTE,
                                                   .from = 3,
                                                   .term = questions[i].term,
                                                   .index = questions[i].index,
                                                   .log_term = questions[i].log_term});
            cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_PRE_VOTE_RESPONSE), early, "%s",
                         questions[i].why);
        }
        craft_give(node,
                   (struct raft_message){
                       .kind = RAFT_MESSAGE_VOTE, .from = 3, .term = 3, .index = 1, .log_term = 2});
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_VOTE_RESPONSE), 0);
        cluster_deinit(&cluster);
    }
}

/* Early votes may be answered before our own disk has anything; a window full of what is not stored
 * has no room for the entry that a leader begins with. */
Test(raft_input, pitfall_41_early_votes_overtake_the_disk)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = craft_options();
    options.early_vote = true;
    options.window_entries = 8;
    struct raft_snapshot snapshot = craft_voters(3);
    struct node *node = cluster_add(&cluster, &options, &snapshot, true);
    craft_append(node, 1, 0, 0, "11111111", 0);
    raft_campaign(&node->raft);
    craft_ready(node);
    craft_vote(node, 2);
    craft_vote(node, 3);
    cr_expect_eq(node->raft.role, RAFT_ROLE_CANDIDATE);
    while (node_append(node))
        ;
    cr_expect_eq(node->raft.role, RAFT_ROLE_LEADER);
    cluster_deinit(&cluster);
}

Test(raft_input, same_inputs_same_bytes)
{
    uint64_t hashes[2] = {0, 0};
    for (int run = 0; run < 2; run++) {
        char *text = NULL;
        size_t size = 0;
        struct cluster cluster;
        cluster_init(&cluster);
        cluster.trace = open_memstream(&text, &size);
        struct raft_options options = craft_options();
        struct raft_snapshot snapshot = craft_voters(3);
        uint64_t ids[] = {1, 2, 3};
        for (int i = 0; i < 3; i++)
            cluster_add(&cluster, &options, &snapshot, true);
        for (int t = 0; t < 100; t++) {
            for (int i = 0; i < 3; i++)
                node_tick(cluster.nodes[i], CLUSTER_TICK_NS);
            node_propose(cluster.nodes[t % 3], ENTRY_NORMAL, "x", 1);
            cluster_stabilize(&cluster, ids, 3);
        }
        fclose(cluster.trace);
        cr_assert_gt(size, 1000);
        for (size_t i = 0; i < size; i++)
            hashes[run] = hashes[run] * 31 + (uint8_t)text[i];
        free(text);
        cluster_deinit(&cluster);
    }
    cr_expect_eq(hashes[0], hashes[1]);
}
