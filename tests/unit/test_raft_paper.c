/*
 * The rules of the paper and the known scenarios, row by row of the conformance list (numbers
 * in the names): nodes get their logs made to measure, then single messages, and their answers are
 * compared.
 * A log is written as the terms of its entries: "122" holds terms 1, 2, 2 at indices 1 to 3.
 */
#include "consensus/raft_internal.h"
#include "core/invariant.h"
#include "tools/raft-repl/cluster.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define TICKS 10 /* election timeout of these tests */

static struct raft_options paper_options(void)
{
    struct raft_options options;
    cluster_options(&options);
    options.election_timeout_ns = TICKS * CLUSTER_TICK_NS;
    options.election_jitter_ns = TICKS * CLUSTER_TICK_NS;
    return options;
}

static struct raft_snapshot voters_of(uint32_t count)
{
    struct raft_snapshot snapshot = {0};
    for (uint32_t id = 1; id <= count; id++)
        cr_assert(raft_id_set_add(&snapshot.config.voters, id));
    return snapshot;
}

/* Gives a node that log and hard state, as if it had just started. */
static void node_craft(struct node *node, const char *log, uint64_t term, uint64_t vote,
                       uint64_t commit)
{
    node_crash(node, 0);
    for (uint64_t index = 1; index <= strlen(log); index++)
        node->disk.entries[index] =
            (struct entry){.index = index, .term = (uint64_t)(log[index - 1] - '0')};
    node->disk.last_index = strlen(log);
    node->disk.hard_state = (struct hard_state){.term = term, .vote = vote, .commit = commit};
    cr_assert_eq(node_restart(node), 0);
}

static struct node *add_crafted(struct cluster *cluster, uint32_t voters, const char *log,
                                uint64_t term, uint64_t vote)
{
    struct raft_options options = paper_options();
    struct raft_snapshot snapshot = voters_of(voters);
    struct node *node = cluster_add(cluster, &options, &snapshot, false);
    node_craft(node, log, term, vote, 0);
    return node;
}

static void drain(struct cluster *cluster)
{
    while (cluster->network_count > 0)
        cluster_message_free(cluster_network_take(cluster, 0));
}

/* Steps a message and drains the node: its answers are then in the network. */
static void give(struct node *node, struct raft_message message)
{
    if (message.from == 0)
        message.from = 2;
    message.to = node->id;
    cr_assert_eq(raft_step(&node->raft, &message), 0);
    while (node_ready(node))
        ;
}

static const struct raft_message *newest_answer(struct cluster *cluster)
{
    struct cluster_message *last = cluster->network.first;
    cr_assert(last != NULL, "an answer is expected");
    while (last->next != NULL)
        last = last->next;
    return &last->message;
}

static uint32_t count_kind(const struct cluster *cluster, enum raft_message_kind kind)
{
    uint32_t count = 0;
    for (const struct cluster_message *m = cluster->network.first; m != NULL; m = m->next)
        count += m->message.kind == kind;
    return count;
}

static const char *log_terms(const struct node *node)
{
    static char text[64];
    uint64_t last = node->raft.log.last_index;
    for (uint64_t index = 1; index <= last; index++) {
        struct entry entry;
        cr_assert_eq(raft_log_lookup(&node->raft.log, index, &entry), 0);
        text[index - 1] = (char)('0' + entry.term);
    }
    text[last] = '\0';
    return text;
}

/* Wins an election with the answers of every other node made up. */
static void win(struct node *node)
{
    raft_campaign(&node->raft);
    while (node_ready(node))
        ;
    for (uint32_t i = 0; i < node->raft.peer_count && node->raft.role == RAFT_ROLE_CANDIDATE; i++)
        if (node->raft.peers[i]->id != node->id)
            give(node, (struct raft_message){.kind = RAFT_MESSAGE_VOTE_RESPONSE,
                                             .from = node->raft.peers[i]->id,
                                             .term = node->raft.term});
    cr_assert_eq(node->raft.role, RAFT_ROLE_LEADER);
    while (node_ready(node))
        ;
}

static void make_role(struct node *node, enum raft_role role)
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
        win(node);
        break;
    }
    while (node_ready(node))
        ;
    cr_assert_eq(node->raft.role, role);
}

Test(paper, row_1_8_24_higher_term_makes_follower)
{
    static const enum raft_message_kind kinds[] = {RAFT_MESSAGE_APPEND, RAFT_MESSAGE_VOTE};
    for (int role = RAFT_ROLE_FOLLOWER; role <= RAFT_ROLE_LEADER; role++) {
        for (size_t k = 0; k < ARRAY_COUNT(kinds); k++) {
            struct cluster cluster;
            cluster_init(&cluster);
            struct node *node = add_crafted(&cluster, 3, "", 0, 0);
            make_role(node, (enum raft_role)role);
            give(node, (struct raft_message){.kind = kinds[k], .term = 3});
            cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
            cr_expect_eq(node->raft.term, 3);
            cr_expect_eq(node->raft.leader, kinds[k] == RAFT_MESSAGE_APPEND ? 2 : 0);
            cluster_deinit(&cluster);
        }
    }
}

Test(paper, row_2_22_lower_term_is_not_handled)
{
    for (int guarded = 0; guarded < 2; guarded++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = add_crafted(&cluster, 3, "12", 2, 0);
        node->raft.options.check_quorum = guarded;
        give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND, .term = 1, .commit = 1});
        cr_expect_eq(node->raft.leader, 0);
        cr_expect_eq(node->raft.log.committed_index, 0);
        cr_expect_eq(cluster.network_count, guarded, "only a guarded node answers");
        cluster_deinit(&cluster);
    }
}

Test(paper, row_6_one_round_of_votes)
{
    static const struct {
        const char *why;
        uint32_t size;
        const char *votes; /* of 2, 3, ... */
        enum raft_role want;
    } cases[] = {
        {"alone", 1, "", RAFT_ROLE_LEADER},
        {"two of three", 3, "y", RAFT_ROLE_LEADER},
        {"all of three", 3, "yy", RAFT_ROLE_LEADER},
        {"three of five", 5, "yy", RAFT_ROLE_LEADER},
        {"four of five", 5, "yyy", RAFT_ROLE_LEADER},
        {"all of five", 5, "yyyy", RAFT_ROLE_LEADER},
        {"lost among three", 3, "nn", RAFT_ROLE_FOLLOWER},
        {"lost among five", 5, "nnnn", RAFT_ROLE_FOLLOWER},
        {"lost with one vote", 5, "ynnn", RAFT_ROLE_FOLLOWER},
        {"nobody answers", 3, "", RAFT_ROLE_CANDIDATE},
        {"nobody of five answers", 5, "", RAFT_ROLE_CANDIDATE},
        {"one is missing", 5, "y", RAFT_ROLE_CANDIDATE},
        {"open", 5, "nn", RAFT_ROLE_CANDIDATE},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = add_crafted(&cluster, cases[i].size, "", 0, 0);
        raft_campaign(&node->raft);
        while (node_ready(node))
            ;
        for (uint64_t v = 0; v < strlen(cases[i].votes); v++)
            give(node, (struct raft_message){.kind = RAFT_MESSAGE_VOTE_RESPONSE,
                                             .from = v + 2,
                                             .term = 1,
                                             .reject = cases[i].votes[v] == 'n'});
        cr_expect_eq(node->raft.role, cases[i].want, "%s", cases[i].why);
        cr_expect_eq(node->raft.term, 1);
        cluster_deinit(&cluster);
    }
}

Test(paper, row_7_13_14_who_gets_a_vote)
{
    static const struct {
        const char *why;
        const char *log;
        uint64_t vote, last_index, last_term;
        bool grant;
    } cases[] = {
        {"free vote", "", 0, 0, 0, true},
        {"voted for it before", "", 2, 0, 0, true},
        {"voted for the other", "", 3, 0, 0, false},
        {"same log", "1", 0, 1, 1, true},
        {"longer log", "1", 0, 2, 1, true},
        {"newer term", "1", 0, 1, 2, true},
        {"newer and longer", "1", 0, 2, 2, true},
        {"newer though shorter", "11", 0, 1, 2, true},
        {"shorter of the same term", "11", 0, 1, 1, false},
        {"older term", "2", 0, 1, 1, false},
        {"older term though longer", "2", 0, 2, 1, false},
        {"older and shorter", "12", 0, 1, 1, false},
        {"nothing against something", "22", 0, 0, 0, false},
        {"term 2 needs index 2", "22", 0, 1, 2, false},
        {"term 2 and index 2", "22", 0, 2, 2, true},
        {"term 2 and more", "22", 0, 3, 2, true},
        {"term 3 at any index", "22", 0, 0, 3, true},
        {"voted other, better log", "22", 3, 3, 3, false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = add_crafted(&cluster, 3, cases[i].log, 3, cases[i].vote);
        give(node, (struct raft_message){.kind = RAFT_MESSAGE_VOTE,
                                         .term = 3,
                                         .index = cases[i].last_index,
                                         .log_term = cases[i].last_term});
        const struct raft_message *answer = newest_answer(&cluster);
        cr_expect_eq(answer->kind, RAFT_MESSAGE_VOTE_RESPONSE);
        cr_expect_eq(answer->reject, !cases[i].grant, "%s", cases[i].why);
        cr_expect_eq(node->disk.hard_state.vote, cases[i].grant ? 2 : cases[i].vote,
                     "the vote is durable before its answer leaves: %s", cases[i].why);
        cluster_deinit(&cluster);
    }
}

Test(paper, row_15_pre_vote_changes_nothing)
{
    for (int role = RAFT_ROLE_FOLLOWER; role <= RAFT_ROLE_LEADER; role++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = add_crafted(&cluster, 3, "1", 1, 0);
        make_role(node, (enum raft_role)role);
        uint64_t term = node->raft.term;
        uint64_t vote = node->raft.vote;
        give(node, (struct raft_message){.kind = RAFT_MESSAGE_PRE_VOTE,
                                         .term = term + 1,
                                         .index = 42,
                                         .log_term = term + 1});
        const struct raft_message *answer = newest_answer(&cluster);
        cr_expect_not(answer->reject, "%s", raft_role_name((enum raft_role)role));
        cr_expect_eq(answer->term, term + 1);
        cr_expect_eq(node->raft.role, (enum raft_role)role);
        cr_expect_eq(node->raft.term, term);
        cr_expect_eq(node->raft.vote, vote);
        cluster_deinit(&cluster);
    }
}

Test(paper, row_9_10_11_timeouts_are_spread)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = add_crafted(&cluster, 3, "", 0, 0);
    uint32_t seen[2 * TICKS] = {0};
    for (int i = 0; i < 1000; i++) {
        raft_election_timer_reset(&node->raft);
        uint64_t ticks = node->raft.election_draw_ns / CLUSTER_TICK_NS;
        cr_assert_geq(ticks, TICKS);
        cr_assert_lt(ticks, 2 * TICKS);
        seen[ticks]++;
    }
    for (uint32_t t = TICKS; t < 2 * TICKS; t++)
        cr_expect(seen[t] > 50 && seen[t] < 200, "%u: %u", t, seen[t]);
    cluster_deinit(&cluster);
}

Test(paper, row_26_27_28_own_answers_that_come_late)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = paper_options();
    struct raft_snapshot snapshot = voters_of(3);
    struct node *node = cluster_add(&cluster, &options, &snapshot, true);
    raft_campaign(&node->raft);
    cr_assert(node_ready(node));
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .term = 1});
    cr_assert(node_append(node)); /* the vote for itself becomes durable now */
    cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
    cr_expect_eq(node->raft.leader, 2);

    struct node *second = cluster_add(&cluster, &options, &snapshot, true);
    raft_campaign(&second->raft);
    cr_assert(node_ready(second));
    give(second, (struct raft_message){.kind = RAFT_MESSAGE_VOTE_RESPONSE, .from = 3, .term = 1});
    cr_expect_eq(second->raft.role, RAFT_ROLE_CANDIDATE, "one foreign vote, own not durable");
    cr_assert(node_append(second));
    cr_expect_eq(second->raft.role, RAFT_ROLE_LEADER);
    cr_assert(node_ready(second)); /* its empty entry goes to the disk */
    give(second, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .from = 3, .term = 2});
    while (node_append(second))
        ;
    cr_expect_eq(second->raft.role, RAFT_ROLE_FOLLOWER);
    cr_expect_eq(second->raft.log.committed_index, 0, "its own old acknowledgement is void");
    cluster_deinit(&cluster);
}

Test(paper, row_29_stale_pre_vote_grants)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = add_crafted(&cluster, 5, "", 4, 0);
    make_role(node, RAFT_ROLE_PRE_CANDIDATE);
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_PRE_VOTE_RESPONSE, .from = 2, .term = 4});
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_PRE_VOTE_RESPONSE, .from = 3, .term = 4});
    cr_expect_eq(node->raft.role, RAFT_ROLE_PRE_CANDIDATE, "grants of the round before");
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_PRE_VOTE_RESPONSE, .from = 2, .term = 5});
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_PRE_VOTE_RESPONSE, .from = 3, .term = 5});
    cr_expect_eq(node->raft.role, RAFT_ROLE_CANDIDATE);
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_PRE_VOTE_RESPONSE, .from = 4, .term = 5});
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_PRE_VOTE_RESPONSE, .from = 5, .term = 5});
    cr_expect_eq(node->raft.role, RAFT_ROLE_CANDIDATE, "pre-vote grants are no votes");
    cluster_deinit(&cluster);
}

Test(paper, row_31_32_34_who_may_campaign)
{
    struct cluster cluster;
    struct raft_options options = paper_options();
    cluster_init(&cluster);
    struct raft_snapshot snapshot = {.index = 0};
    cr_assert(raft_id_set_add(&snapshot.config.voters, 2));
    cr_assert(raft_id_set_add(&snapshot.config.learners, 1));
    struct node *learner = cluster_add(&cluster, &options, &snapshot, false);
    node_tick(learner, 3 * TICKS * CLUSTER_TICK_NS);
    raft_campaign(&learner->raft);
    cr_expect_eq(learner->raft.role, RAFT_ROLE_FOLLOWER);
    give(learner, (struct raft_message){.kind = RAFT_MESSAGE_TIMEOUT_NOW, .term = 1});
    cr_expect_eq(learner->raft.role, RAFT_ROLE_FOLLOWER);
    give(learner,
         (struct raft_message){.kind = RAFT_MESSAGE_VOTE, .term = 2, .index = 11, .log_term = 1});
    cr_expect_not(newest_answer(&cluster)->reject, "row 33: a learner votes");
    struct raft_snapshot stranger = {0};
    struct node *outside = cluster_add(&cluster, &options, &stranger, false);
    node_tick(outside, 3 * TICKS * CLUSTER_TICK_NS);
    cr_expect_eq(outside->raft.role, RAFT_ROLE_FOLLOWER, "no member");
    cr_expect_eq(raft_deadline_ns(&outside->raft), UINT64_MAX);
    cluster_deinit(&cluster);
}

Test(paper, row_36_51_quorum_is_checked)
{
    for (int answers = 0; answers < 2; answers++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = add_crafted(&cluster, 3, "", 0, 0);
        node->raft.options.check_quorum = true;
        win(node);
        for (int t = 0; t < 2 * TICKS; t++) {
            node_tick(node, CLUSTER_TICK_NS);
            if (answers)
                give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT_RESPONSE,
                                                 .term = node->raft.term});
            while (node_ready(node))
                ;
        }
        cr_expect_eq(node->raft.role, answers ? RAFT_ROLE_LEADER : RAFT_ROLE_FOLLOWER);
        cluster_deinit(&cluster);
    }
}

Test(paper, row_54_how_many_acknowledgements_commit)
{
    static const struct {
        uint32_t size, acks;
        bool committed;
    } cases[] = {{1, 0, true}, {3, 1, true},  {3, 2, true},  {5, 2, true}, {5, 3, true},
                 {5, 4, true}, {3, 0, false}, {5, 0, false}, {5, 1, false}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = add_crafted(&cluster, cases[i].size, "", 0, 0);
        win(node);
        for (uint64_t a = 0; a < cases[i].acks; a++)
            give(node,
                 (struct raft_message){
                     .kind = RAFT_MESSAGE_APPEND_RESPONSE, .from = a + 2, .term = 1, .index = 1});
        cr_expect_eq(node->raft.log.committed_index, cases[i].committed ? 1 : 0, "%u of %u",
                     cases[i].acks, cases[i].size);
        cluster_deinit(&cluster);
    }
}

Test(paper, row_57_58_65_follower_takes_entries)
{
    static const struct {
        const char *why;
        const char *log;
        uint64_t commit_before;
        uint64_t prev_term, prev_index, commit;
        const char *entries; /* terms */
        const char *want_log;
        bool reject;
        uint64_t want_index, want_commit, hint_index, hint_term;
    } cases[] = {
        {"57 below commit", "12", 1, 0, 0, 0, "", "12", false, 1, 1, 0, 0},
        {"57 at commit", "12", 1, 1, 1, 0, "", "12", false, 1, 1, 0, 0},
        {"57 at the end", "12", 1, 2, 2, 0, "", "12", false, 2, 1, 0, 0},
        {"57 other term", "12", 1, 1, 2, 0, "", "12", true, 2, 1, 1, 1},
        {"57 beyond", "12", 1, 3, 3, 0, "", "12", true, 3, 1, 2, 2},
        {"58 appended", "12", 0, 2, 2, 0, "3", "123", false, 3, 0, 0, 0},
        {"58 conflict replaced", "12", 0, 1, 1, 0, "34", "134", false, 3, 0, 0, 0},
        {"58 known entry keeps the rest", "12", 0, 0, 0, 0, "1", "12", false, 1, 0, 0, 0},
        {"58 conflict at the start", "12", 0, 0, 0, 0, "3", "3", false, 1, 0, 0, 0},
        {"65 commit moves", "12", 0, 1, 1, 1, "", "12", false, 1, 1, 0, 0},
        {"65 replaced and committed", "12", 0, 0, 0, 1, "2", "2", false, 1, 1, 0, 0},
        {"65 commit inside the message", "12", 0, 2, 2, 3, "22", "1222", false, 4, 3, 0, 0},
        {"65 commit bounded by the message", "12", 0, 2, 2, 4, "2", "122", false, 3, 3, 0, 0},
        {"65 known entries bound it too", "12", 0, 1, 1, 4, "2", "12", false, 2, 2, 0, 0},
        {"65 nothing sent, prev bounds", "12", 0, 1, 1, 3, "", "12", false, 1, 1, 0, 0},
        {"65 prev at the end", "12", 0, 2, 2, 4, "", "12", false, 2, 2, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = add_crafted(&cluster, 3, cases[i].log, 2, 0);
        node_craft(node, cases[i].log, 2, 0, cases[i].commit_before);
        struct entry entries[8];
        uint32_t count = (uint32_t)strlen(cases[i].entries);
        for (uint32_t e = 0; e < count; e++)
            entries[e] = (struct entry){.index = cases[i].prev_index + 1 + e,
                                        .term = (uint64_t)(cases[i].entries[e] - '0')};
        give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND,
                                         .term = 4,
                                         .index = cases[i].prev_index,
                                         .log_term = cases[i].prev_term,
                                         .commit = cases[i].commit,
                                         .entry_count = count,
                                         .entries = entries});
        const struct raft_message *answer = newest_answer(&cluster);
        cr_expect_eq(answer->reject, cases[i].reject, "%s", cases[i].why);
        cr_expect_eq(answer->index, cases[i].want_index, "%s: %lu", cases[i].why, answer->index);
        cr_expect_eq(answer->hint_index, cases[i].hint_index, "%s", cases[i].why);
        cr_expect_eq(answer->log_term, cases[i].hint_term, "%s", cases[i].why);
        cr_expect_eq(node->raft.log.committed_index, cases[i].want_commit, "%s", cases[i].why);
        cr_expect_str_eq(log_terms(node), cases[i].want_log, "%s", cases[i].why);
        cr_expect_eq(node->disk.last_index, strlen(cases[i].want_log), "%s", cases[i].why);
        cluster_deinit(&cluster);
    }
}

/* The leader's log against a follower's, until nothing moves. */
static void synchronise(const char *why, const char *leader_log, const char *follower_log,
                        uint64_t term)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *leader = add_crafted(&cluster, 3, leader_log, term, 0);
    struct node *follower = add_crafted(&cluster, 3, follower_log, term, 0);
    struct node *third = add_crafted(&cluster, 3, "", term, 0);
    win(leader);
    drain(&cluster);
    cr_assert_eq(node_propose(leader, ENTRY_NORMAL, "x", 1), 0);
    uint64_t ids[] = {1, 2, 3};
    for (int round = 0; round < 40; round++) {
        node_tick(leader, CLUSTER_TICK_NS);
        cluster_stabilize(&cluster, ids, 3);
    }
    char want[64];
    snprintf(want, sizeof(want), "%s", log_terms(leader));
    cr_expect_str_eq(log_terms(follower), want, "%s", why);
    cr_expect_str_eq(log_terms(third), want, "%s", why);
    cr_expect_eq(follower->raft.log.applied_index, leader->raft.log.applied_index, "%s", why);
    cluster_check(&cluster);
    cluster_deinit(&cluster);
}

Test(paper, row_59_60_figure_7)
{
    static const struct {
        const char *why, *log;
    } cases[] = {
        {"(a) one short", "111445566"},
        {"(b) far behind", "1114"},
        {"(c) one more of the term", "11144556666"},
        {"(d) a later term", "111445566677"},
        {"(e) another fourth term", "1114444"},
        {"(f) terms nobody saw", "11122233333"},
        {"nothing at all", ""},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        synchronise(cases[i].why, "1114455666", cases[i].log, 7);
}

Test(paper, row_61_62_commit_rule)
{
    static const struct {
        const char *why;
        uint32_t size;
        uint64_t match[4]; /* of node 1 (durable) and the others */
        const char *log;
        uint64_t term, want;
    } cases[] = {
        {"alone", 1, {1}, "1", 1, 1},
        {"alone, older term", 1, {1}, "1", 2, 0},
        {"alone, two terms", 1, {2}, "12", 2, 2},
        {"alone, own term behind", 1, {1}, "2", 2, 1},
        {"majority in term", 3, {2, 1, 1}, "12", 1, 1},
        {"majority of an older term", 3, {2, 1, 1}, "11", 2, 0},
        {"majority with own term", 3, {2, 1, 2}, "12", 2, 2},
        {"only the old one is replicated", 3, {2, 1, 1}, "12", 2, 0},
        {"four: three needed", 4, {2, 1, 1, 2}, "12", 1, 1},
        {"four: two are not enough", 4, {2, 1, 1, 2}, "11", 2, 0},
        {"four: three have it", 4, {2, 1, 2, 2}, "12", 2, 2},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint64_t incoming[4];
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = add_crafted(&cluster, cases[i].size, "", 0, 0);
        win(node); /* then put in the state of the row */
        struct raft *raft = &node->raft;
        struct raft_log *log = &raft->log;
        raft->term = cases[i].term;
        log->last_index = strlen(cases[i].log);
        log->committed_index = log->applied_index = log->applying_index = 0;
        for (uint64_t at = 1; at <= log->last_index; at++)
            log->window[at & log->window_mask] =
                (struct entry){.index = at, .term = (uint64_t)(cases[i].log[at - 1] - '0')};
        log->base_index = 0;
        log->base_term = 0;
        for (uint32_t p = 0; p < cases[i].size; p++)
            incoming[p] = raft->peers[p]->match_index = cases[i].match[p];
        raft_maybe_commit(raft);
        cr_expect_eq(log->committed_index, cases[i].want, "%s: %lu", cases[i].why,
                     log->committed_index);
        cr_expect_geq(quorum_commit(incoming, cases[i].size), log->committed_index);
        cluster_deinit(&cluster);
    }
}

Test(paper, row_66_heartbeat_commit)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = add_crafted(&cluster, 3, "123", 3, 0);
    node_craft(node, "123", 3, 0, 2);
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .term = 3, .commit = 3});
    cr_expect_eq(node->raft.log.committed_index, 3);
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .term = 3, .commit = 1});
    cr_expect_eq(node->raft.log.committed_index, 3);
    cr_expect_eq(newest_answer(&cluster)->kind, RAFT_MESSAGE_HEARTBEAT_RESPONSE);
    struct raft_message beyond = {
        .kind = RAFT_MESSAGE_HEARTBEAT, .from = 2, .to = 1, .term = 3, .commit = 4};
    cr_expect_eq(raft_step(&node->raft, &beyond), ERR_CORRUPT, "row 20: the log was lost");
    cluster_deinit(&cluster);
}

Test(paper, row_73_74_90_pacing)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = add_crafted(&cluster, 2, "", 0, 0);
    win(node);
    drain(&cluster);
    struct raft_peer *peer = raft_peer(&node->raft, 2);
    for (int i = 0; i < 10; i++) {
        cr_assert_eq(node_propose(node, ENTRY_NORMAL, "x", 1), 0);
        node_ready(node);
    }
    cr_expect_eq(count_kind(&cluster, RAFT_MESSAGE_APPEND), 0, "a probe is under way");
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT_RESPONSE, .term = 1});
    cr_expect_eq(count_kind(&cluster, RAFT_MESSAGE_APPEND), 1, "one more after an answer");
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND_RESPONSE, .term = 1, .index = 11});
    cr_expect_eq(peer->state, RAFT_PEER_REPLICATE);
    drain(&cluster);
    for (int i = 0; i < 10; i++) {
        cr_assert_eq(node_propose(node, ENTRY_NORMAL, "x", 1), 0);
        node_ready(node);
    }
    cr_expect_eq(count_kind(&cluster, RAFT_MESSAGE_APPEND), 10);
    drain(&cluster);
    progress_become_snapshot(peer, 5);
    for (int i = 0; i < 10; i++) {
        cr_assert_eq(node_propose(node, ENTRY_NORMAL, "x", 1), 0);
        node_ready(node);
    }
    cr_expect_eq(count_kind(&cluster, RAFT_MESSAGE_APPEND), 0);
    cluster_deinit(&cluster);
}

/* A leader that never saw the peer probes it; the peer's hint; the leader's next probe. */
Test(paper, row_76_fast_reject)
{
    static const struct {
        const char *leader, *follower;
        uint64_t hint_term, hint_index, next_term, next_index;
    } cases[] = {
        {"1224444", "12233333333", 3, 7, 2, 3}, {"12234445", "12233333333", 3, 8, 3, 4},
        {"1111", "1224", 1, 1, 1, 1},           {"111111", "1224", 1, 1, 1, 1},
        {"1111", "122444", 1, 1, 1, 1},         {"11145", "1114", 4, 4, 4, 4},
        {"255555555", "244444", 4, 6, 2, 1},    {"22222", "24444444", 2, 1, 2, 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *leader = add_crafted(&cluster, 2, cases[i].leader, 6, 0);
        struct node *follower = add_crafted(&cluster, 2, cases[i].follower, 6, 0);
        win(leader);
        drain(&cluster);
        struct raft_peer *peer = raft_peer(&leader->raft, 2);
        peer->next_index = strlen(cases[i].leader) + 1;
        peer->paused = false;
        peer->send_due = RAFT_SEND_ALWAYS;
        node_ready(leader);
        cluster_deliver(&cluster, 2, 0, false);
        node_ready(follower);
        const struct raft_message *answer = newest_answer(&cluster);
        cr_expect(answer->reject, "%s", cases[i].follower);
        cr_expect_eq(answer->hint_index, cases[i].hint_index, "%s: %lu", cases[i].follower,
                     answer->hint_index);
        cr_expect_eq(answer->log_term, cases[i].hint_term, "%s", cases[i].follower);
        cluster_deliver(&cluster, 1, 0, false);
        node_ready(leader);
        const struct raft_message *probe = newest_answer(&cluster);
        cr_expect_eq(probe->kind, RAFT_MESSAGE_APPEND);
        cr_expect_eq(probe->index, cases[i].next_index, "%s: %lu", cases[i].follower, probe->index);
        cr_expect_eq(probe->log_term, cases[i].next_term, "%s", cases[i].follower);
        cluster_deinit(&cluster);
    }
}

Test(paper, row_92_uncommitted_bytes_are_bounded)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = add_crafted(&cluster, 3, "", 0, 0);
    node->raft.options.uncommitted_bytes_max = 64 * 8;
    win(node);
    static const char big[1024] = {0};
    cr_expect_eq(node_propose(node, ENTRY_NORMAL, big, sizeof(big)), 0,
                 "anything passes when nothing waits");
    cr_expect_eq(node_propose(node, ENTRY_NORMAL, "12345678", 8), ERR_TOO_MANY_REQUESTS);
    cr_expect_eq(node_propose(node, ENTRY_NORMAL, NULL, 0), 0, "empty entries always pass");
    while (node_ready(node))
        ;
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND_RESPONSE, .term = 1, .index = 3});
    cr_expect_eq(node->raft.log.unapplied_bytes, 0);
    int accepted = 0;
    while (node_propose(node, ENTRY_NORMAL, "12345678", 8) == 0)
        accepted++;
    cr_expect_eq(accepted, 64);
    cluster_deinit(&cluster);
}

Test(paper, row_93_94_paging)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = paper_options();
    options.message_bytes_max = 2048;
    options.apply_bytes_max = 2048;
    struct raft_snapshot snapshot = voters_of(2);
    struct node *node = cluster_add(&cluster, &options, &snapshot, true);
    static const char blob[1000] = {0};
    raft_campaign(&node->raft);
    node_ready(node);
    node_append(node);
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_VOTE_RESPONSE, .term = 1});
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND_RESPONSE, .term = 1, .index = 1});
    while (node_append(node) || node_ready(node) || node_apply(node))
        ;
    drain(&cluster);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(node_propose(node, ENTRY_NORMAL, blob, sizeof(blob)), 0);
    node_ready(node);
    uint32_t sent = 0;
    for (struct cluster_message *m = cluster.network.first; m != NULL; m = m->next) {
        cr_expect_leq(m->message.entry_count, 2, "no more than fits");
        sent += m->message.entry_count;
    }
    cr_expect_eq(sent, 5, "pages follow each other without waiting");
    node_append(node);
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND_RESPONSE, .term = 1, .index = 6});
    cr_expect_eq(node->raft.log.applying_index, 3, "two at a time");
    cr_assert_not(node_ready(node));
    cr_assert(node_apply(node));
    cr_assert(node_ready(node));
    cr_expect_eq(node->raft.log.applying_index, 5);
    cr_assert(node_apply(node));
    cr_assert(node_ready(node));
    cr_expect_eq(node->raft.log.applying_index, 6);
    cluster_deinit(&cluster);
}

Test(paper, row_95_128_restart_applies_exactly_the_rest)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = add_crafted(&cluster, 3, "11", 1, 0);
    node_craft(node, "11", 1, 0, 1);
    struct raft_ready ready;
    cr_assert(raft_ready(&node->raft, &ready));
    cr_expect_eq(ready.apply_first, 1);
    cr_expect_eq(ready.apply_last, 1, "entry 2 is not known to be committed");
    cr_expect_eq(ready.append.sequence, 0, "nothing to write");
    raft_applied(&node->raft, 1);
    cr_expect_not(raft_ready(&node->raft, &ready));
    cluster_deinit(&cluster);
}

Test(paper, row_102_103_104_snapshots_received)
{
    static const struct {
        const char *why;
        const char *log;
        uint64_t commit, index, term;
        bool self, installs;
        uint64_t want_commit;
    } cases[] = {
        {"behind: installed", "1", 0, 11, 2, true, true, 11},
        {"older than what is committed", "111", 3, 2, 1, true, false, 3},
        {"the entries are here", "1112", 1, 4, 2, true, false, 4},
        {"other entries are here", "1112", 1, 4, 3, true, true, 4},
        {"not a member of it", "1", 0, 11, 2, false, false, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct raft_options options = paper_options();
        struct raft_snapshot first = voters_of(3);
        struct node *node = cluster_add(&cluster, &options, &first, true);
        node_craft(node, cases[i].log, 3, 0, cases[i].commit);
        struct raft_snapshot snapshot = voters_of(3);
        if (!cases[i].self)
            raft_id_set_remove(&snapshot.config.voters, 1);
        snapshot.index = cases[i].index;
        snapshot.term = cases[i].term;
        give(node, (struct raft_message){
                       .kind = RAFT_MESSAGE_SNAPSHOT, .term = 3, .snapshot = &snapshot});
        cr_expect_eq(node->raft.snapshot_pending, cases[i].installs, "%s", cases[i].why);
        cr_expect_eq(node->raft.log.committed_index, cases[i].want_commit, "%s", cases[i].why);
        if (cases[i].installs) {
            raft_campaign(&node->raft);
            cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER, "not before it is installed");
            cr_expect_eq(cluster.network_count, 0, "the answer waits for the disk");
            while (node_append(node))
                ;
            cr_expect_eq(newest_answer(&cluster)->index, cases[i].index);
            cr_expect_eq(node->raft.log.applied_index, cases[i].index);
        }
        cluster_deinit(&cluster);
    }
}

Test(paper, row_110_111_configuration_at_the_leader)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = add_crafted(&cluster, 2, "1", 1, 0);
    win(node);
    cr_expect_eq(node->raft.pending_config_index, 1, "the whole log may hide a change");
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND_RESPONSE, .term = 2, .index = 2});
    struct raft_config_change change = {.count = 1,
                                        .changes = {{.kind = RAFT_CHANGE_REMOVE, .id = 2}}};
    cr_assert_eq(node_propose_change(node, &change), 0);
    cr_assert_eq(node_propose(node, ENTRY_NORMAL, "waits", 5), 0);
    while (node_ready(node))
        ;
    cr_expect_eq(node->raft.log.committed_index, 2);
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND_RESPONSE, .term = 2, .index = 3});
    cr_expect_eq(node->raft.log.committed_index, 4, "one voter is left: the rest commits");
    cluster_deinit(&cluster);
}

Test(paper, row_21_129_what_the_network_may_not_say)
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
        {"without a term", {.kind = RAFT_MESSAGE_APPEND, .from = 2, .to = 1}, ERR_MALFORMED},
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
        struct node *node = add_crafted(&cluster, 3, "1", 1, 0);
        cr_expect_eq(raft_step(&node->raft, &cases[i].message), cases[i].want, "%s", cases[i].why);
        cluster_deinit(&cluster);
    }
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = add_crafted(&cluster, 3, "1", 1, 0);
    struct entry gap[2] = {{.index = 2, .term = 1}, {.index = 4, .term = 1}};
    struct raft_message message = {.kind = RAFT_MESSAGE_APPEND,
                                   .from = 2,
                                   .to = 1,
                                   .term = 1,
                                   .index = 1,
                                   .log_term = 1,
                                   .entry_count = 2,
                                   .entries = gap};
    cr_expect_eq(raft_step(&node->raft, &message), ERR_MALFORMED, "a gap");
    gap[1] = (struct entry){.index = 3, .term = 5};
    cr_expect_eq(raft_step(&node->raft, &message), ERR_MALFORMED, "a term of the future");
    cluster_deinit(&cluster);
}

Test(paper, same_inputs_same_bytes)
{
    uint64_t hashes[2] = {0, 0};
    for (int run = 0; run < 2; run++) {
        char *text = NULL;
        size_t size = 0;
        struct cluster cluster;
        cluster_init(&cluster);
        cluster.trace = open_memstream(&text, &size);
        struct raft_options options = paper_options();
        struct raft_snapshot snapshot = voters_of(3);
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

Test(paper, row_37_48_leases)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *leader = add_crafted(&cluster, 3, "", 0, 0);
    leader->raft.options.check_quorum = true;
    win(leader);
    struct raft_message vote = {
        .kind = RAFT_MESSAGE_VOTE, .term = 5, .index = 9, .log_term = 4, .from = 3};
    for (int t = 0; t < 3 * TICKS; t++) {
        node_tick(leader, CLUSTER_TICK_NS);
        give(leader, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT_RESPONSE, .term = 1});
        give(leader, vote);
        cr_assert_eq(leader->raft.term, 1, "a leader is always in its own lease");
    }
    vote.transfer = true;
    give(leader, vote);
    cr_expect_eq(leader->raft.term, 5, "a transfer passes");

    struct node *follower = add_crafted(&cluster, 3, "", 1, 0);
    follower->raft.options.check_quorum = true;
    give(follower, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .from = 1, .term = 1});
    vote.transfer = false;
    node_tick(follower, (TICKS - 1) * CLUSTER_TICK_NS);
    give(follower, vote);
    cr_expect_eq(follower->raft.term, 1, "it heard its leader");
    node_tick(follower, CLUSTER_TICK_NS);
    give(follower, vote);
    cr_expect_eq(follower->raft.term, 5, "long ago");
    cluster_deinit(&cluster);
}

/* The append of term `term` from node `from`: one entry of `entry_term` after (index, log_term). */
static void give_entry(struct node *node, uint64_t from, uint64_t term, uint64_t index,
                       uint64_t log_term, uint64_t entry_term)
{
    struct entry entry = {.index = index + 1, .term = entry_term};
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND,
                                     .from = from,
                                     .term = term,
                                     .index = index,
                                     .log_term = log_term,
                                     .entry_count = 1,
                                     .entries = &entry});
}

Test(paper, row_39_132_old_answers_of_the_disk)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = paper_options();
    struct raft_snapshot snapshot = voters_of(3);
    struct node *node = cluster_add(&cluster, &options, &snapshot, true);
    give_entry(node, 2, 1, 0, 0, 1); /* 1/1 */
    give_entry(node, 3, 2, 0, 0, 2); /* replaced by 2/1 */
    give_entry(node, 2, 3, 0, 0, 1); /* and back to 1/1 */
    cr_assert(node_append(node));
    cr_expect_eq(node->raft.log.durable_index, 0,
                 "the disk has 1/1 and will have 2/1 before it has 1/1 again");
    cr_assert(node_append(node));
    cr_expect_eq(node->raft.log.durable_index, 0);
    cr_assert(node_append(node));
    cr_expect_eq(node->raft.log.durable_index, 1);
    cluster_deinit(&cluster);
}

Test(paper, row_25_votes_carry_commit)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = add_crafted(&cluster, 3, "112", 2, 0);
    give(node, (struct raft_message){
                   .kind = RAFT_MESSAGE_PRE_VOTE, .term = 3, .commit = 2, .commit_term = 1});
    cr_expect_eq(node->raft.log.committed_index, 2, "a request tells it");
    give(node, (struct raft_message){
                   .kind = RAFT_MESSAGE_PRE_VOTE, .term = 3, .commit = 3, .commit_term = 1});
    cr_expect_eq(node->raft.log.committed_index, 2, "another entry at that index");
    raft_campaign(&node->raft);
    while (node_ready(node))
        ;
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_VOTE_RESPONSE,
                                     .term = 3,
                                     .reject = true,
                                     .commit = 3,
                                     .commit_term = 2});
    cr_expect_eq(node->raft.log.committed_index, 3, "a refusal tells it");
    cr_expect_eq(node->raft.role, RAFT_ROLE_CANDIDATE);
    cluster_deinit(&cluster);
}

Test(paper, row_105_snapshot_only_for_a_live_peer)
{
    for (int active = 0; active < 2; active++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct raft_options options = paper_options();
        struct raft_snapshot snapshot = voters_of(2);
        snapshot.index = 11;
        snapshot.term = 1;
        struct node *node = cluster_add(&cluster, &options, &snapshot, false);
        win(node);
        drain(&cluster);
        struct raft_peer *peer = raft_peer(&node->raft, 2);
        peer->next_index = 5;
        peer->paused = false;
        peer->recent_active = active;
        peer->send_due = RAFT_SEND_ALWAYS;
        node_ready(node);
        cr_expect_eq(count_kind(&cluster, RAFT_MESSAGE_SNAPSHOT), active);
        cr_expect_eq(count_kind(&cluster, RAFT_MESSAGE_APPEND), 0);
        cluster_deinit(&cluster);
    }
}

Test(paper, row_28_116_leave_is_proposed_once)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = paper_options();
    options.apply_bytes_max = 1; /* one entry in each batch */
    struct raft_snapshot snapshot = voters_of(1);
    struct node *node = cluster_add(&cluster, &options, &snapshot, true);
    raft_campaign(&node->raft);
    while (node_ready(node) || node_append(node) || node_apply(node))
        ;
    cr_assert_eq(node->raft.role, RAFT_ROLE_LEADER);
    struct raft_config_change change = {.transition = RAFT_TRANSITION_IMPLICIT,
                                        .count = 1,
                                        .changes = {{.kind = RAFT_CHANGE_ADD_LEARNER, .id = 2}}};
    cr_assert_eq(node_propose_change(node, &change), 0);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(node_propose(node, ENTRY_NORMAL, "x", 1), 0);
    while (node_ready(node) || node_append(node) || node_apply(node))
        ;
    uint32_t changes = 0;
    for (uint64_t index = 1; index <= node->raft.log.last_index; index++)
        changes += node->disk.entries[index].type == ENTRY_CONFIG_CHANGE;
    cr_expect_eq(changes, 2, "the change and one leave");
    cr_expect_eq(node->raft.config.outgoing.count, 0);
    cr_expect_not(node->raft.config.auto_leave);
    cluster_deinit(&cluster);
}

Test(paper, row_123_asking_again_buys_no_time)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = add_crafted(&cluster, 3, "", 0, 0);
    win(node);
    cr_assert_eq(raft_transfer(&node->raft, 2), 0);
    node_tick(node, (TICKS - 1) * CLUSTER_TICK_NS);
    cr_assert_eq(raft_transfer(&node->raft, 2), 0);
    cr_expect_eq(node->raft.transferee, 2);
    node_tick(node, CLUSTER_TICK_NS);
    cr_expect_eq(node->raft.transferee, 0);
    cr_assert_eq(raft_transfer(&node->raft, 2), 0);
    cr_assert_eq(raft_transfer(&node->raft, 3), 0);
    cr_expect_eq(node->raft.transferee, 3, "another target replaces the first");
    cr_assert_eq(raft_transfer(&node->raft, 1), 0);
    cr_expect_eq(node->raft.transferee, 0, "back to itself");
    cr_assert_eq(raft_transfer(&node->raft, 2), 0);
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_VOTE, .from = 3, .term = 9});
    cr_expect_eq(node->raft.transferee, 0, "a newer term ends it");
    cluster_deinit(&cluster);
}

Test(paper, row_77_reordered_appends)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *leader = add_crafted(&cluster, 2, "", 0, 0);
    struct node *follower = add_crafted(&cluster, 2, "", 0, 0);
    uint64_t ids[] = {1, 2};
    raft_campaign(&leader->raft);
    cluster_stabilize(&cluster, ids, 2);
    cr_assert_eq(node_propose(leader, ENTRY_NORMAL, "a", 1), 0);
    node_ready(leader);
    cr_assert_eq(node_propose(leader, ENTRY_NORMAL, "b", 1), 0);
    node_ready(leader);
    cr_assert_eq(cluster.network_count, 2);
    cluster_message_step(&cluster, cluster_network_take(&cluster, 1)); /* the second first */
    while (node_ready(follower))
        ;
    struct cluster_message *rejection = cluster_network_take(&cluster, 1);
    cr_assert(rejection->message.reject);
    cluster_deliver(&cluster, 2, 0, false);
    while (node_ready(follower))
        ;
    cluster_deliver(&cluster, 1, 0, false);
    struct raft_peer *peer = raft_peer(&leader->raft, 2);
    cr_expect_eq(peer->match_index, 2);
    raft_report_unreachable(&leader->raft, 2);
    cluster_message_step(&cluster, rejection);
    cr_expect_gt(peer->next_index, peer->match_index);
    cr_expect_geq(peer->next_index, 3, "not below what is known to match");
    cluster_stabilize(&cluster, ids, 2);
    node_tick(leader, CLUSTER_TICK_NS);
    cluster_stabilize(&cluster, ids, 2);
    cr_expect_eq(follower->raft.log.applied_index, 3);
    cluster_deinit(&cluster);
}

Test(paper, row_35_a_pause_proves_nothing)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = add_crafted(&cluster, 3, "1", 1, 0);
    node->raft.options.pause_ns_max = 2 * CLUSTER_TICK_NS;
    struct raft *raft = &node->raft;
    node_tick(node, raft_deadline_ns(raft) - raft->now_ns); /* long asleep, but in time */
    cr_expect_eq(raft->role, RAFT_ROLE_CANDIDATE);
    give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .term = raft->term});
    uint64_t due_ns = raft_deadline_ns(raft);
    node_tick(node, due_ns - raft->now_ns + 5 * CLUSTER_TICK_NS);
    cr_expect_eq(raft->role, RAFT_ROLE_FOLLOWER, "it was away when the timer ran out");
    cr_expect_eq(raft_deadline_ns(raft), raft->now_ns + CLUSTER_TICK_NS);
    node_tick(node, 5 * CLUSTER_TICK_NS);
    cr_expect_eq(raft->role, RAFT_ROLE_CANDIDATE, "once only");
    cluster_deinit(&cluster);
}
