/* Terms, timeouts, votes and roles of a single node (rows 1 to 15, 23 to 34). */
#include "tests/unit/raft_craft.h"

#include <criterion/criterion.h>
#include <math.h>

#define ROLES 4

static struct raft_message vote_request(enum raft_message_kind kind, uint64_t from, uint64_t term,
                                        uint64_t index, uint64_t log_term)
{
    return (struct raft_message){
        .kind = kind, .from = from, .term = term, .index = index, .log_term = log_term};
}

Test(raft_election, row_1_24_higher_term_makes_follower)
{
    static const enum raft_message_kind kinds[] = {RAFT_MESSAGE_APPEND, RAFT_MESSAGE_VOTE};
    for (uint64_t term = 2; term <= 3; term++) {
        for (int role = 0; role < ROLES; role++) {
            for (size_t k = 0; k < ARRAY_COUNT(kinds); k++) {
                struct cluster cluster;
                cluster_init(&cluster);
                struct node *node = craft_node(&cluster, 3, "", 0, 0);
                craft_role(node, (enum raft_role)role);
                craft_give(node, (struct raft_message){.kind = kinds[k], .term = term});
                cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
                cr_expect_eq(node->raft.term, term);
                cr_expect_eq(node->raft.leader, kinds[k] == RAFT_MESSAGE_APPEND ? 2 : 0,
                             "an append names the leader, a vote request does not");
                cr_expect_eq(node->disk.hard_state.term, term, "a term is remembered");
                cluster_deinit(&cluster);
            }
        }
    }
}

Test(raft_election, row_2_lower_term_is_not_handled)
{
    for (int guarded = 0; guarded < 2; guarded++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "12", 2, 0);
        node->raft.options.check_quorum = guarded;
        craft_give(node,
                   (struct raft_message){.kind = RAFT_MESSAGE_APPEND, .term = 1, .commit = 1});
        cr_expect_eq(node->raft.leader, 0);
        cr_expect_eq(node->raft.log.committed_index, 0);
        cr_expect_eq(cluster.network_count, guarded, "only a guarded node answers");
        if (guarded) {
            cr_expect_eq(craft_newest(&cluster)->term, 2, "its term frees a stuck leader");
            cr_expect(craft_newest(&cluster)->reject, "it says nothing of its log");
        }
        craft_drain(&cluster);
        craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_VOTE, .term = 1});
        cr_expect_eq(node->raft.vote, 0);
        cr_expect_eq(cluster.network_count, guarded, "a candidate may not campaign again");
        cluster_deinit(&cluster);
    }
}

Test(raft_election, row_3_a_node_starts_as_follower)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "", 0, 0);
    cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
    cr_expect_eq(node->raft.leader, 0);
    cr_expect_eq(node->raft.term, 0);
    cr_expect_not(node_ready(node), "nothing to do");
    cluster_deinit(&cluster);
}

Test(raft_election, row_4_70_heartbeats_carry_what_the_peer_has)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = craft_options();
    struct raft_snapshot snapshot = craft_voters(3);
    snapshot.index = 1000;
    snapshot.term = 1;
    struct node *node = cluster_add(&cluster, &options, &snapshot, false);
    craft_win(node);
    for (int i = 0; i < 9; i++)
        cr_assert_eq(node_propose(node, ENTRY_NORMAL, "x", 1), 0);
    craft_ready(node);
    craft_ack(node, 3, 1010);
    cr_assert_eq(node->raft.log.committed_index, 1010);
    struct raft_peer *second = raft_peer(&node->raft, 2);
    second->match_index = 5; /* of a log that begins at 1000 */
    second->next_index = 6;
    craft_drain(&cluster);
    node_tick(node, CLUSTER_TICK_NS);
    cr_assert(node_ready(node));
    cr_assert_eq(craft_count(&cluster, RAFT_MESSAGE_HEARTBEAT), 2);
    for (struct cluster_message *m = cluster.network.first; m != NULL; m = m->next) {
        cr_expect_eq(m->message.index, 0);
        cr_expect_eq(m->message.log_term, 0);
        cr_expect_eq(m->message.entry_count, 0);
        cr_expect_eq(m->message.term, 2);
        cr_expect_eq(m->message.commit, m->message.to == 2 ? 5 : 1010, "min(match, committed)");
    }
    cluster_deinit(&cluster);
}

Test(raft_election, row_5_a_silent_leader_is_replaced)
{
    static const enum raft_role roles[] = {RAFT_ROLE_FOLLOWER, RAFT_ROLE_CANDIDATE};
    for (size_t r = 0; r < ARRAY_COUNT(roles); r++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "", roles[r] == RAFT_ROLE_FOLLOWER, 0);
        craft_role(node, roles[r]);
        cr_assert_eq(node->raft.term, 1);
        craft_drain(&cluster);
        for (int tick = 0; tick < 2 * CRAFT_TICKS - 1; tick++)
            node_tick(node, CLUSTER_TICK_NS);
        craft_ready(node);
        cr_expect_eq(node->raft.term, 2);
        cr_expect_eq(node->raft.role, RAFT_ROLE_CANDIDATE);
        cr_expect_eq(raft_peer_find(&node->raft, 1)->vote, QUORUM_YES, "it votes for itself");
        cr_expect_eq(cluster.network_count, 2);
        for (uint64_t to = 2; to <= 3; to++)
            cr_expect_eq(craft_count_to(&cluster, RAFT_MESSAGE_VOTE, to), 1);
        cr_expect_eq(craft_newest(&cluster)->term, 2);
        cr_expect_eq(craft_newest(&cluster)->index, 0);
        cr_expect_eq(craft_newest(&cluster)->log_term, 0);
        cluster_deinit(&cluster);
    }
}

Test(raft_election, row_6_one_round_of_votes)
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
        struct node *node = craft_node(&cluster, cases[i].size, "", 0, 0);
        craft_role(node, cases[i].size == 1 ? RAFT_ROLE_LEADER : RAFT_ROLE_CANDIDATE);
        for (uint64_t v = 0; v < strlen(cases[i].votes); v++)
            craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_VOTE_RESPONSE,
                                                   .from = v + 2,
                                                   .term = 1,
                                                   .reject = cases[i].votes[v] == 'n'});
        cr_expect_eq(node->raft.role, cases[i].want, "%s", cases[i].why);
        cr_expect_eq(node->raft.term, 1);
        cluster_deinit(&cluster);
    }
}

/* Asks `node` for its vote in the node's own term and says whether it was granted. */
static bool asks_vote(struct cluster *cluster, struct node *node, enum raft_message_kind kind,
                      uint64_t from, uint64_t index, uint64_t log_term)
{
    craft_drain(cluster);
    craft_give(node, vote_request(kind, from, node->raft.term, index, log_term));
    const struct raft_message *answer = craft_newest(cluster);
    cr_assert_eq(answer->kind, kind == RAFT_MESSAGE_VOTE ? RAFT_MESSAGE_VOTE_RESPONSE
                                                         : RAFT_MESSAGE_PRE_VOTE_RESPONSE);
    cr_assert_eq(answer->to, from);
    return !answer->reject;
}

Test(raft_election, row_7_one_vote_per_term)
{
    for (uint64_t vote = 0; vote <= 3; vote += vote == 0 ? 2 : 1) {
        for (uint64_t asker = 2; asker <= 3; asker++) {
            struct cluster cluster;
            cluster_init(&cluster);
            struct node *node = craft_node(&cluster, 3, "", 1, vote);
            bool want = vote == 0 || vote == asker;
            cr_expect_eq(asks_vote(&cluster, node, RAFT_MESSAGE_VOTE, asker, 0, 0), want,
                         "voted %lu, asked by %lu", vote, asker);
            cr_expect_eq(node->disk.hard_state.vote, want ? asker : vote,
                         "the vote is durable before its answer leaves");
            cluster_deinit(&cluster);
        }
    }
}

Test(raft_election, row_8_a_candidate_yields_to_a_leader)
{
    for (uint64_t term = 1; term <= 2; term++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "", 0, 0);
        craft_role(node, RAFT_ROLE_CANDIDATE);
        cr_assert_eq(node->raft.term, 1);
        craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND, .term = term});
        cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
        cr_expect_eq(node->raft.term, term);
        cr_expect_eq(node->raft.leader, 2);
        cluster_deinit(&cluster);
    }
}

/* Makes the node draw a new timeout, by becoming a follower or a candidate; in ticks. */
static uint64_t redraw(struct node *node, enum raft_role role)
{
    if (role == RAFT_ROLE_FOLLOWER)
        craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND,
                                               .from = node->id % 5 + 1,
                                               .term = node->raft.term + 1});
    else
        raft_campaign(&node->raft);
    craft_ready(node);
    cr_assert_eq(node->raft.role, role);
    craft_drain(node->cluster);
    return (raft_deadline_ns(&node->raft) - node->raft.now_ns) / CLUSTER_TICK_NS;
}

Test(raft_election, row_9_timeouts_are_spread)
{
    static const enum raft_role roles[] = {RAFT_ROLE_FOLLOWER, RAFT_ROLE_CANDIDATE};
    for (size_t r = 0; r < ARRAY_COUNT(roles); r++) {
        uint32_t seen[2 * CRAFT_TICKS] = {0};
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "", 0, 0);
        for (int i = 0; i < 500; i++) {
            uint64_t ticks = redraw(node, roles[r]);
            cr_assert(ticks >= CRAFT_TICKS && ticks < 2 * CRAFT_TICKS, "%lu", ticks);
            seen[ticks]++;
        }
        for (uint32_t t = CRAFT_TICKS; t < 2 * CRAFT_TICKS; t++)
            cr_expect(seen[t] > 20, "%u: %u", t, seen[t]);
        cluster_deinit(&cluster);
    }
}

Test(raft_election, row_10_nodes_seldom_time_out_together)
{
    static const enum raft_role roles[] = {RAFT_ROLE_FOLLOWER, RAFT_ROLE_CANDIDATE};
    for (size_t r = 0; r < ARRAY_COUNT(roles); r++) {
        int conflicts = 0;
        struct cluster cluster;
        cluster_init(&cluster);
        for (int n = 0; n < 5; n++)
            craft_node(&cluster, 5, "", 0, 0);
        for (int round = 0; round < 1000; round++) {
            uint64_t first = UINT64_MAX;
            int together = 0;
            for (int n = 0; n < 5; n++) {
                uint64_t ticks = redraw(cluster.nodes[n], roles[r]);
                together = ticks < first ? 1 : together + (ticks == first);
                first = u64_min(first, ticks);
            }
            conflicts += together > 1;
        }
        cr_expect_leq(conflicts, 300, "%d of 1000 rounds", conflicts);
        cluster_deinit(&cluster);
    }
}

Test(raft_election, row_11_odds_of_a_timeout)
{
    static const struct {
        uint64_t elapsed;
        double odds;
    } cases[] = {{5, 0}, {10, 0.1}, {13, 0.4}, {15, 0.6}, {18, 0.9}, {20, 1}};
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "", 0, 0);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        int passed = 0;
        for (int round = 0; round < 4000; round++)
            passed += redraw(node, RAFT_ROLE_CANDIDATE) <= cases[i].elapsed;
        cr_expect_lt(fabs(passed / 4000.0 - cases[i].odds), 0.03, "after %lu ticks: %d of 4000",
                     cases[i].elapsed, passed);
    }
    cluster_deinit(&cluster);
}

Test(raft_election, row_12_what_a_vote_request_says)
{
    static const struct {
        const char *log;
        uint64_t log_term, want_term;
    } cases[] = {{"1", 1, 2}, {"12", 2, 3}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "", 0, 0);
        craft_append(node, cases[i].log_term, 0, 0, cases[i].log, 0);
        craft_drain(&cluster);
        for (int tick = 0; tick < 2 * CRAFT_TICKS - 1; tick++)
            node_tick(node, CLUSTER_TICK_NS);
        craft_ready(node);
        cr_expect_eq(cluster.network_count, 2);
        for (struct cluster_message *m = cluster.network.first; m != NULL; m = m->next) {
            cr_expect_eq(m->message.kind, RAFT_MESSAGE_VOTE);
            cr_expect_eq(m->message.term, cases[i].want_term);
            cr_expect_eq(m->message.index, strlen(cases[i].log));
            cr_expect_eq(m->message.log_term, cases[i].log_term);
        }
        cluster_deinit(&cluster);
    }
}

Test(raft_election, row_13_only_a_log_as_good_gets_the_vote)
{
    static const struct {
        const char *log;
        uint64_t log_term, index;
        bool grant;
    } cases[] = {
        {"1", 1, 1, true},  {"1", 1, 2, true},  {"1", 2, 1, true},
        {"1", 2, 2, true},  {"11", 2, 1, true}, {"11", 1, 1, false},
        {"2", 1, 1, false}, {"2", 1, 2, false}, {"22", 1, 1, false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, cases[i].log, 3, 0);
        cr_expect_eq(
            asks_vote(&cluster, node, RAFT_MESSAGE_VOTE, 2, cases[i].index, cases[i].log_term),
            cases[i].grant, "own %s, candidate %lu/%lu", cases[i].log, cases[i].log_term,
            cases[i].index);
        cluster_deinit(&cluster);
    }
}

Test(raft_election, row_14_vote_matrix)
{
    static const enum raft_message_kind kinds[] = {RAFT_MESSAGE_VOTE, RAFT_MESSAGE_PRE_VOTE};
    for (size_t k = 0; k < ARRAY_COUNT(kinds); k++) {
        for (uint64_t index = 0; index <= 3; index++) {
            for (uint64_t log_term = 0; log_term <= 3; log_term++) {
                for (uint64_t vote = 0; vote <= 3; vote += vote == 0 ? 2 : 1) {
                    struct cluster cluster;
                    cluster_init(&cluster);
                    struct node *node = craft_node(&cluster, 3, "22", 3, vote);
                    bool good_log = log_term == 3 || (log_term == 2 && index >= 2);
                    cr_expect_eq(asks_vote(&cluster, node, kinds[k], 2, index, log_term),
                                 good_log && vote != 3, "%s, voted %lu, candidate %lu/%lu",
                                 raft_message_kind_name(kinds[k]), vote, log_term, index);
                    cluster_deinit(&cluster);
                }
            }
        }
        for (int role = RAFT_ROLE_CANDIDATE; role <= RAFT_ROLE_LEADER; role++) {
            struct cluster cluster;
            cluster_init(&cluster);
            struct node *node = craft_node(&cluster, 3, "22", 2, 0);
            craft_role(node, (enum raft_role)role);
            cr_expect_not(asks_vote(&cluster, node, kinds[k], 2, 9, 3), "it voted for itself");
            cluster_deinit(&cluster);
        }
    }
}

Test(raft_election, row_15_vote_from_any_role)
{
    for (int role = 0; role < ROLES; role++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "1", 1, 0);
        craft_role(node, (enum raft_role)role);
        uint64_t term = node->raft.term;
        uint64_t vote = node->raft.vote;
        const char *name = raft_role_name((enum raft_role)role);
        craft_give(node, vote_request(RAFT_MESSAGE_PRE_VOTE, 2, term + 1, 42, term + 1));
        const struct raft_message *answer = craft_newest(&cluster);
        cr_expect_not(answer->reject, "%s", name);
        cr_expect_eq(answer->term, term + 1);
        cr_expect_eq(node->raft.role, (enum raft_role)role, "a question changes nothing");
        cr_expect_eq(node->raft.term, term);
        cr_expect_eq(node->raft.vote, vote);
        craft_give(node, vote_request(RAFT_MESSAGE_VOTE, 2, term + 1, 42, term + 1));
        answer = craft_newest(&cluster);
        cr_expect_not(answer->reject, "%s", name);
        cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER, "%s", name);
        cr_expect_eq(node->raft.term, term + 1);
        cr_expect_eq(node->disk.hard_state.vote, 2);
        cluster_deinit(&cluster);
    }
}

/* Every way from role to role that an input can ask for; the others do not exist. */
Test(raft_election, row_23_transitions)
{
    enum stimulus { CAMPAIGN, CAMPAIGN_PRE, PRE_GRANT, GRANT, LEADER_SPEAKS };
    static const struct {
        enum raft_role from;
        enum stimulus stimulus;
        enum raft_role to;
    } cases[] = {
        {RAFT_ROLE_FOLLOWER, CAMPAIGN, RAFT_ROLE_CANDIDATE},
        {RAFT_ROLE_FOLLOWER, CAMPAIGN_PRE, RAFT_ROLE_PRE_CANDIDATE},
        {RAFT_ROLE_FOLLOWER, PRE_GRANT, RAFT_ROLE_FOLLOWER},
        {RAFT_ROLE_FOLLOWER, GRANT, RAFT_ROLE_FOLLOWER}, /* never straight to leader */
        {RAFT_ROLE_FOLLOWER, LEADER_SPEAKS, RAFT_ROLE_FOLLOWER},
        {RAFT_ROLE_PRE_CANDIDATE, CAMPAIGN, RAFT_ROLE_CANDIDATE},
        {RAFT_ROLE_PRE_CANDIDATE, CAMPAIGN_PRE, RAFT_ROLE_PRE_CANDIDATE},
        {RAFT_ROLE_PRE_CANDIDATE, PRE_GRANT, RAFT_ROLE_CANDIDATE},
        {RAFT_ROLE_PRE_CANDIDATE, GRANT, RAFT_ROLE_PRE_CANDIDATE},
        {RAFT_ROLE_PRE_CANDIDATE, LEADER_SPEAKS, RAFT_ROLE_FOLLOWER},
        {RAFT_ROLE_CANDIDATE, CAMPAIGN, RAFT_ROLE_CANDIDATE},
        {RAFT_ROLE_CANDIDATE, CAMPAIGN_PRE, RAFT_ROLE_PRE_CANDIDATE},
        {RAFT_ROLE_CANDIDATE, PRE_GRANT, RAFT_ROLE_CANDIDATE},
        {RAFT_ROLE_CANDIDATE, GRANT, RAFT_ROLE_LEADER},
        {RAFT_ROLE_CANDIDATE, LEADER_SPEAKS, RAFT_ROLE_FOLLOWER},
        {RAFT_ROLE_LEADER, CAMPAIGN, RAFT_ROLE_LEADER}, /* row 30: no way but through follower */
        {RAFT_ROLE_LEADER, CAMPAIGN_PRE, RAFT_ROLE_LEADER},
        {RAFT_ROLE_LEADER, PRE_GRANT, RAFT_ROLE_LEADER},
        {RAFT_ROLE_LEADER, GRANT, RAFT_ROLE_LEADER},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "", 1, 0);
        struct raft *raft = &node->raft;
        craft_role(node, cases[i].from);
        switch (cases[i].stimulus) {
        case CAMPAIGN:
        case CAMPAIGN_PRE:
            raft->options.pre_vote = cases[i].stimulus == CAMPAIGN_PRE;
            raft_campaign(raft);
            craft_ready(node);
            break;
        case PRE_GRANT:
            craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_PRE_VOTE_RESPONSE,
                                                   .term = raft->term + 1});
            break;
        case GRANT:
            craft_vote(node, 2);
            break;
        case LEADER_SPEAKS:
            craft_give(node,
                       (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .term = raft->term});
            break;
        }
        cr_expect_eq(raft->role, cases[i].to, "%zu: %s became %s", i, raft_role_name(cases[i].from),
                     raft_role_name(raft->role));
        cluster_deinit(&cluster);
    }
}

Test(raft_election, row_25_an_isolated_candidate_comes_back)
{
    for (int append = 0; append < 2; append++) {
        struct raft_options options = craft_options();
        struct craft_group group;
        craft_group_init(&group, 3, &options);
        craft_campaign(&group, 1);
        craft_isolate(&group, 3);
        craft_campaign(&group, 2);
        craft_campaign(&group, 1);
        craft_tick(&group, 3, 2 * CRAFT_TICKS - 1);
        struct raft *third = &craft_of(&group, 3)->raft;
        struct raft *leader = &craft_of(&group, 1)->raft;
        cr_assert_eq(third->role, RAFT_ROLE_CANDIDATE);
        cr_assert_eq(leader->role, RAFT_ROLE_LEADER);
        cr_assert_lt(third->term, leader->term);
        craft_heal(&group);
        if (append)
            cr_assert_eq(craft_propose(&group, 1, "x"), 0);
        else
            craft_tick(&group, 1, 1);
        craft_tick(&group, 1, 1);
        cr_expect_eq(third->role, RAFT_ROLE_FOLLOWER);
        cr_expect_eq(third->term, leader->term);
        cr_expect_eq(third->leader, 1);
        cr_expect_str_eq(craft_terms(craft_of(&group, 3)), craft_terms(craft_of(&group, 1)));
        craft_group_deinit(&group);
    }
}

static struct node *slow_disk_node(struct cluster *cluster, uint32_t voters, bool pre_vote)
{
    struct raft_options options = craft_options();
    struct raft_snapshot snapshot = craft_voters(voters);
    options.pre_vote = pre_vote;
    return cluster_add(cluster, &options, &snapshot, true);
}

Test(raft_election, row_26_pitfall_38_own_vote_that_comes_late)
{
    for (int pre_vote = 0; pre_vote < 2; pre_vote++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = slow_disk_node(&cluster, 3, pre_vote);
        raft_campaign(&node->raft);
        node_ready(node);
        craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .term = 1});
        while (node_append(node)) /* the vote for itself becomes durable now */
            ;
        cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
        cr_expect_eq(node->raft.leader, 2);
        for (uint32_t i = 0; i < 3; i++)
            cr_expect_eq(node->raft.peers[i]->vote, QUORUM_MISSING);
        cluster_deinit(&cluster);
    }
}

Test(raft_election, row_27_answers_of_the_question_are_no_votes)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = slow_disk_node(&cluster, 5, true);
    raft_campaign(&node->raft);
    struct raft_message grant = {.kind = RAFT_MESSAGE_PRE_VOTE_RESPONSE, .term = 1};
    for (grant.from = 2; grant.from <= 3; grant.from++)
        craft_give(node, grant);
    cr_assert_eq(node->raft.role, RAFT_ROLE_CANDIDATE);
    for (grant.from = 2; grant.from <= 5; grant.from++)
        craft_give(node, grant); /* late, and twice */
    cr_expect_eq(node->raft.role, RAFT_ROLE_CANDIDATE);
    craft_vote(node, 2);
    craft_vote(node, 3);
    cr_expect_eq(node->raft.role, RAFT_ROLE_CANDIDATE, "two votes of five; its own is not durable");
    cr_assert(node_append(node));
    cr_expect_eq(node->raft.role, RAFT_ROLE_LEADER);
    cluster_deinit(&cluster);
}

Test(raft_election, row_28_own_acknowledgement_that_comes_late)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = slow_disk_node(&cluster, 1, false);
    raft_campaign(&node->raft);
    node_ready(node);
    node_append(node);
    cr_assert_eq(node->raft.role, RAFT_ROLE_LEADER);
    node_ready(node); /* its empty entry goes to the disk */
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .from = 3, .term = 2});
    while (node_append(node))
        ;
    cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
    cr_expect_eq(node->raft.log.committed_index, 0, "a quorum of one, were it still the leader");
    cluster_deinit(&cluster);
}

Test(raft_election, row_29_grants_of_an_earlier_round)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 5, "", 4, 0);
    craft_role(node, RAFT_ROLE_PRE_CANDIDATE);
    struct raft_message grant = {.kind = RAFT_MESSAGE_PRE_VOTE_RESPONSE, .term = 4};
    for (grant.from = 2; grant.from <= 3; grant.from++)
        craft_give(node, grant);
    cr_expect_eq(node->raft.role, RAFT_ROLE_PRE_CANDIDATE, "grants of the round before");
    grant.term = 5;
    for (grant.from = 2; grant.from <= 3; grant.from++)
        craft_give(node, grant);
    cr_expect_eq(node->raft.role, RAFT_ROLE_CANDIDATE);
    for (grant.from = 4; grant.from <= 5; grant.from++)
        craft_give(node, grant);
    cr_expect_eq(node->raft.role, RAFT_ROLE_CANDIDATE, "delayed grants are no votes");
    cluster_deinit(&cluster);
}

Test(raft_election, row_30_a_leader_does_not_campaign)
{
    for (int pre_vote = 0; pre_vote < 2; pre_vote++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "", 0, 0);
        craft_win(node);
        craft_drain(&cluster);
        node->raft.options.pre_vote = pre_vote;
        raft_campaign(&node->raft);
        craft_ready(node);
        cr_expect_eq(node->raft.role, RAFT_ROLE_LEADER);
        cr_expect_eq(node->raft.term, 1);
        cr_expect_eq(cluster.network_count, 0);
        cluster_deinit(&cluster);
    }
}

Test(raft_election, row_31_who_may_campaign)
{
    static const struct {
        const char *voters;
        bool may;
    } cases[] = {{"1", true}, {"123", true}, {"", false}, {"23", false}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct raft_options options = craft_options();
        struct raft_snapshot snapshot = {0};
        for (const char *v = cases[i].voters; *v != '\0'; v++)
            cr_assert(raft_id_set_add(&snapshot.config.voters, (uint64_t)(*v - '0')));
        struct node *node = cluster_add(&cluster, &options, &snapshot, false);
        for (int tick = 0; tick < 2 * CRAFT_TICKS; tick++)
            node_tick(node, CLUSTER_TICK_NS);
        cr_expect_eq(node->raft.role != RAFT_ROLE_FOLLOWER, cases[i].may, "%s", cases[i].voters);
        cr_expect_eq(raft_deadline_ns(&node->raft) == UINT64_MAX, !cases[i].may,
                     "who may not has no deadline");
        cluster_deinit(&cluster);
    }
}

static struct node *learner_node(struct cluster *cluster)
{
    struct raft_options options = craft_options();
    struct raft_snapshot snapshot = {0};
    cr_assert(raft_id_set_add(&snapshot.config.voters, 2));
    cr_assert(raft_id_set_add(&snapshot.config.learners, 1));
    return cluster_add(cluster, &options, &snapshot, false);
}

Test(raft_election, row_32_33_pitfall_30_33_a_learner_votes_and_does_not_campaign)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = learner_node(&cluster);
    node_tick(node, 3 * CRAFT_TICKS * CLUSTER_TICK_NS);
    cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
    raft_campaign(&node->raft);
    cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_TIMEOUT_NOW, .term = 1});
    cr_expect_eq(node->raft.role, RAFT_ROLE_FOLLOWER);
    craft_give(node, vote_request(RAFT_MESSAGE_VOTE, 2, 2, 11, 1));
    cr_expect_not(craft_newest(&cluster)->reject, "it may be a voter without knowing it");
    cluster_deinit(&cluster);
}

Test(raft_election, row_34_a_promoted_learner_campaigns)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = learner_node(&cluster);
    struct raft_config_change promote = {.count = 1,
                                         .changes = {{.kind = RAFT_CHANGE_ADD_VOTER, .id = 1}}};
    uint8_t bytes[64];
    raft_config_change_encode(&promote, bytes);
    struct entry entry = {.index = 1,
                          .term = 1,
                          .type = ENTRY_CONFIG_CHANGE,
                          .payload = bytes,
                          .payload_bytes = (uint32_t)raft_config_change_bytes(&promote)};
    node->payloads_held++;
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND,
                                           .term = 1,
                                           .entry_count = 1,
                                           .entries = &entry,
                                           .commit = 1});
    cr_assert_eq(node->raft.log.applied_index, 1);
    for (int tick = 0; tick < 2 * CRAFT_TICKS; tick++)
        node_tick(node, CLUSTER_TICK_NS);
    craft_ready(node);
    cr_expect_eq(node->raft.role, RAFT_ROLE_CANDIDATE);
    craft_vote(node, 2);
    cr_expect_eq(node->raft.role, RAFT_ROLE_LEADER);
    cluster_deinit(&cluster);
}
