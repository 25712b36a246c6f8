/* Entries from leader to followers, and the commit rule (rows 22, 52 to 69). */
#include "tests/unit/raft_craft.h"

#include <criterion/criterion.h>
#include <stdio.h>

/* A leader at term 1 whose empty entry (index 1) everybody has. */
static struct node *settled_leader(struct cluster *cluster, uint32_t voters)
{
    struct node *node = craft_node(cluster, voters, "", 0, 0);
    craft_win(node);
    for (uint64_t id = 2; id <= voters; id++)
        craft_ack(node, id, 1);
    craft_drain(cluster);
    cr_assert_eq(node->raft.log.committed_index, 1);
    return node;
}

Test(raft_replication, row_22_messages_of_an_old_leader_are_ignored)
{
    struct raft_options options = craft_options();
    struct craft_group group;
    craft_group_init(&group, 3, &options);
    craft_campaign(&group, 1);
    craft_campaign(&group, 2);
    craft_campaign(&group, 1);
    struct node *leader = craft_of(&group, 1);
    cr_assert_eq(leader->raft.term, 3);
    craft_append(leader, 2, 2, 2, "2", 0);
    cr_expect_eq(leader->raft.role, RAFT_ROLE_LEADER);
    cr_assert_eq(craft_propose(&group, 1, "x"), 0);
    for (uint64_t id = 1; id <= 3; id++) {
        cr_expect_str_eq(craft_terms(craft_of(&group, id)), "1233");
        cr_expect_eq(craft_of(&group, id)->raft.log.committed_index, 4);
    }
    craft_group_deinit(&group);
}

/* One entry of term 1 behind `index`, and what the node answers; 0 when it answers nothing. */
static uint32_t give_one(struct node *node, uint64_t index, struct raft_ready *ready)
{
    struct entry entry = {.index = index + 1, .term = 1, .type = ENTRY_NORMAL};
    struct raft_message message = {.kind = RAFT_MESSAGE_APPEND,
                                   .from = 2,
                                   .to = 1,
                                   .term = 1,
                                   .index = index,
                                   .log_term = index == 0 ? 0 : 1,
                                   .entries = &entry,
                                   .entry_count = 1};
    cr_assert_eq(raft_step(&node->raft, &message), 0);
    return raft_ready(&node->raft, ready) ? ready->message_count : 0;
}

/* A slow disk and a leader far ahead: a refusal would bring the same appends again at once, each
 * with others behind it. Seed: lite 0x322f5. */
Test(raft_replication, what_lies_behind_a_full_window_is_not_refused)
{
    struct cluster cluster;
    struct raft_ready ready;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "", 1, 0);
    uint64_t size = node->raft.log.window_mask + 1;
    for (uint64_t index = 0; index < size; index++) /* nothing becomes durable */
        cr_assert_eq(give_one(node, index, &ready), 1);
    struct raft_append newest = ready.append;
    cr_expect_eq(give_one(node, size + 2, &ready), 0);
    cr_expect_eq(give_one(node, size, &ready), 1, "it connects: so far, and no further");
    raft_persisted(&node->raft, &newest);
    cr_assert_eq(give_one(node, size + 2, &ready), 1);
    cr_expect(ready.messages[0].reject);
    cluster_deinit(&cluster);
}

/* A crash may leave the hard state of a write and none of its entries: the log then ends with what
 * they were to replace, which nobody committed. */
Test(raft_replication, a_hard_state_commits_nothing_that_its_own_entries_bring)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "11", 1, 0);
    struct entry entry = {.index = 2, .term = 2, .type = ENTRY_NORMAL};
    struct raft_message message = {.kind = RAFT_MESSAGE_APPEND,
                                   .from = 2,
                                   .to = 1,
                                   .term = 2,
                                   .index = 1,
                                   .log_term = 1,
                                   .commit = 2,
                                   .entries = &entry,
                                   .entry_count = 1};
    struct raft_ready ready;
    cr_assert_eq(raft_step(&node->raft, &message), 0);
    cr_expect_eq(node->raft.log.committed_index, 2);
    cr_assert(raft_ready(&node->raft, &ready));
    cr_expect_eq(ready.append_first, 2);
    cr_expect_eq(ready.hard_state.commit, 1);
    cluster_deinit(&cluster);
}

Test(raft_replication, row_52_53_one_proposal)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = settled_leader(&cluster, 3);
    cr_assert_eq(node_propose(node, ENTRY_NORMAL, "some data", 9), 0);
    craft_ready(node);
    cr_assert_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 2);
    for (struct cluster_message *m = cluster.network.first; m != NULL; m = m->next) {
        cr_expect_eq(m->message.index, 1);
        cr_expect_eq(m->message.log_term, 1);
        cr_expect_eq(m->message.commit, 1);
        cr_expect_eq(m->message.entry_count, 1);
        cr_expect_eq(m->message.entries[0].index, 2);
        cr_expect_eq(memcmp(m->message.entries[0].payload, "some data", 9), 0);
    }
    cr_expect_eq(node->raft.log.committed_index, 1, "nobody has it yet");
    craft_drain(&cluster);
    craft_ack(node, 2, 2);
    craft_ack(node, 3, 2);
    cr_expect_eq(node->raft.log.committed_index, 2);
    cr_expect_eq(node->applied_index, 2);
    for (uint64_t to = 2; to <= 3; to++)
        cr_expect_geq(craft_count_to(&cluster, RAFT_MESSAGE_APPEND, to), 1);
    cr_expect_eq(craft_newest(&cluster)->commit, 2, "the next append says so");
    cluster_deinit(&cluster);
}

Test(raft_replication, row_54_pitfall_40_how_many_acknowledgements_commit)
{
    static const struct {
        uint32_t size, acks;
        bool committed;
    } cases[] = {{1, 0, true}, {3, 1, true},  {3, 2, true},  {5, 2, true}, {5, 3, true},
                 {5, 4, true}, {3, 0, false}, {5, 0, false}, {5, 1, false}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, cases[i].size, "", 0, 0);
        craft_win(node);
        for (uint64_t a = 0; a < cases[i].acks; a++)
            craft_ack(node, a + 2, 1);
        cr_expect_eq(node->raft.log.committed_index, cases[i].committed, "%u of %u", cases[i].acks,
                     cases[i].size);
        cluster_deinit(&cluster);
    }
}

Test(raft_replication, row_55_what_came_before_commits_too)
{
    static const char *const logs[] = {"", "2", "12", "1"};
    for (size_t i = 0; i < ARRAY_COUNT(logs); i++) {
        struct raft_options options = craft_options();
        struct craft_group group;
        char want[16];
        craft_group_init(&group, 3, &options);
        craft_log(craft_of(&group, 1), logs[i], 2, 0, 0);
        craft_campaign(&group, 1);
        cr_assert_eq(craft_of(&group, 1)->raft.term, 3);
        cr_assert_eq(craft_propose(&group, 1, "some data"), 0);
        snprintf(want, sizeof(want), "%s33", logs[i]);
        for (uint64_t id = 1; id <= 3; id++) {
            const struct node *node = craft_of(&group, id);
            cr_expect_str_eq(craft_terms(node), want);
            cr_expect_eq(node->applied_index, strlen(want), "all in order");
        }
        craft_group_deinit(&group);
    }
}

Test(raft_replication, row_56_a_follower_applies_what_is_committed)
{
    static const struct {
        const char *entries;
        uint64_t commit;
    } cases[] = {{"1", 1}, {"11", 2}, {"12", 2}, {"11", 1}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "", 1, 0);
        craft_append(node, 2, 0, 0, cases[i].entries, cases[i].commit);
        cr_expect_eq(node->raft.log.committed_index, cases[i].commit);
        cr_expect_eq(node->applied_index, cases[i].commit);
        cr_expect_eq(node->disk.last_index, strlen(cases[i].entries));
        cluster_deinit(&cluster);
    }
}

Test(raft_replication, row_57_58_65_a_follower_takes_entries)
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
        {"65 other term at prev", "12", 0, 3, 2, 3, "", "12", true, 2, 0, 2, 2},
        {"65 prev beyond", "12", 0, 3, 3, 3, "", "12", true, 3, 0, 2, 2},
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
        struct node *node = craft_node(&cluster, 3, "", 0, 0);
        craft_log(node, cases[i].log, 2, 0, cases[i].commit_before);
        uint64_t issued = node->raft.append_issued;
        craft_append(node, 4, cases[i].prev_index, cases[i].prev_term, cases[i].entries,
                     cases[i].commit);
        const struct raft_message *answer = craft_newest(&cluster);
        cr_expect_eq(answer->reject, cases[i].reject, "%s", cases[i].why);
        cr_expect_eq(answer->index, cases[i].want_index, "%s: %lu", cases[i].why, answer->index);
        cr_expect_eq(answer->hint_index, cases[i].hint_index, "%s", cases[i].why);
        cr_expect_eq(answer->log_term, cases[i].hint_term, "%s", cases[i].why);
        cr_expect_eq(node->raft.log.committed_index, cases[i].want_commit, "%s", cases[i].why);
        cr_expect_str_eq(craft_terms(node), cases[i].want_log, "%s", cases[i].why);
        cr_expect_eq(node->disk.last_index, strlen(cases[i].want_log), "%s", cases[i].why);
        cr_expect_eq(node->raft.append_issued, issued + 1, "the new term, with any entries: %s",
                     cases[i].why);
        cluster_deinit(&cluster);
    }
}

Test(raft_replication, row_58_known_entries_are_not_written_again)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "12", 4, 0);
    uint64_t issued = node->raft.append_issued;
    craft_append(node, 4, 0, 0, "1", 0);
    cr_expect_eq(node->raft.append_issued, issued);
    craft_append(node, 4, 0, 0, "12", 0);
    cr_expect_eq(node->raft.append_issued, issued);
    cluster_deinit(&cluster);
}

Test(raft_replication, row_78_what_a_follower_makes_of_an_append)
{
    static const struct {
        const char *why;
        uint64_t prev_term, prev_index, commit;
        const char *entries;
        const char *want_log;
        bool reject;
        uint64_t want_acked, want_commit;
    } cases[] = {
        {"other term at prev", 2, 3, 3, "4", "123", true, 0, 1},
        {"prev beyond the end", 3, 4, 3, "4", "123", true, 0, 1},
        {"commit the last", 3, 3, 3, "", "123", false, 3, 3},
        {"commit no more than there is", 3, 3, 4, "", "123", false, 3, 3},
        {"commit less", 3, 3, 2, "", "123", false, 3, 2},
        {"commit never goes down", 3, 3, 0, "", "123", false, 3, 1},
        {"from the start: below commit", 0, 0, 3, "", "123", false, 1, 1},
        {"appended", 3, 3, 3, "4", "1234", false, 4, 3},
        {"appended and committed", 3, 3, 4, "4", "1234", false, 4, 4},
        {"commit bounded by the new last", 3, 3, 5, "4", "1234", false, 4, 4},
        {"two appended", 3, 3, 5, "44", "12344", false, 5, 5},
        {"conflict at 3", 2, 2, 3, "4", "124", false, 3, 3},
        {"conflict at 2", 1, 1, 3, "4", "14", false, 2, 2},
        {"conflict at 1, which is committed: never looked at", 0, 0, 3, "4", "123", false, 1, 1},
        {"conflict at 2, two entries", 1, 1, 3, "44", "144", false, 3, 3},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "", 0, 0);
        craft_log(node, "123", 3, 0, 1);
        craft_append(node, 4, cases[i].prev_index, cases[i].prev_term, cases[i].entries,
                     cases[i].commit);
        const struct raft_message *answer = craft_newest(&cluster);
        cr_expect_eq(answer->reject, cases[i].reject, "%s", cases[i].why);
        if (!cases[i].reject)
            cr_expect_eq(answer->index, cases[i].want_acked, "%s", cases[i].why);
        cr_expect_eq(node->raft.log.committed_index, cases[i].want_commit, "%s", cases[i].why);
        cr_expect_str_eq(craft_terms(node), cases[i].want_log, "%s", cases[i].why);
        cr_expect_eq(node->disk.last_index, strlen(cases[i].want_log), "%s", cases[i].why);
        cluster_deinit(&cluster);
    }
}

Test(raft_replication, row_80_pitfall_19_where_an_append_begins_to_differ)
{
    static const struct {
        uint64_t prev;
        const char *entries;
        uint64_t want; /* first index written; 0 = none */
    } cases[] = {
        {0, "", 0},    {0, "123", 0}, {1, "23", 0}, {2, "3", 0},   {0, "12344", 4}, {1, "2344", 4},
        {2, "344", 4}, {3, "44", 4},  {0, "44", 1}, {1, "344", 2}, {2, "4456", 3},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        struct raft_ready ready;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "123", 6, 0);
        struct entry entries[8];
        uint32_t count = (uint32_t)strlen(cases[i].entries);
        for (uint32_t e = 0; e < count; e++)
            entries[e] = (struct entry){.index = cases[i].prev + 1 + e,
                                        .term = (uint64_t)(cases[i].entries[e] - '0')};
        struct raft_message message = {.kind = RAFT_MESSAGE_APPEND,
                                       .from = 2,
                                       .to = 1,
                                       .term = 6,
                                       .index = cases[i].prev,
                                       .log_term = cases[i].prev,
                                       .entry_count = count,
                                       .entries = entries};
        cr_assert_eq(raft_step(&node->raft, &message), 0);
        cr_assert(raft_ready(&node->raft, &ready));
        cr_expect_eq(ready.append_first, cases[i].want, "%s after %lu", cases[i].entries,
                     cases[i].prev);
        cr_expect_eq(ready.truncated, cases[i].want != 0 && cases[i].want <= 3);
        if (cases[i].want == 0)
            cr_expect_eq(node->raft.log.last_index, 3, "an old message does not shorten the log");
        cluster_deinit(&cluster);
    }
}

/* Distinct terms behind what both logs share: as many probes may be refused, no more. */
static uint32_t terms_that_differ(const char *a, const char *b)
{
    bool seen[10] = {false};
    uint32_t count = 0;
    for (; *a != '\0' && *a == *b; a++)
        b++;
    for (int side = 0; side < 2; side++)
        for (const char *at = side == 0 ? a : b; *at != '\0'; at++) {
            count += !seen[*at - '0'];
            seen[*at - '0'] = true;
        }
    return count;
}

static const char figure_7_leader[] = "1114455666";

static const struct {
    const char *why, *log;
} figure_7[] = {
    {"(a) one short", "111445566"},
    {"(b) far behind", "1114"},
    {"(c) one more of the term", "11144556666"},
    {"(d) a later term", "111445566677"},
    {"(e) another fourth term", "1114444"},
    {"(f) terms nobody saw", "11122233333"},
};

Test(raft_replication, row_59_figure_7)
{
    for (size_t i = 0; i < ARRAY_COUNT(figure_7); i++) {
        struct raft_options options = craft_options();
        struct craft_group group;
        craft_group_init(&group, 3, &options);
        craft_log(craft_of(&group, 1), figure_7_leader, 7, 0, 0);
        craft_log(craft_of(&group, 2), figure_7[i].log, 7, 0, 0);
        craft_log(craft_of(&group, 3), "", 7, 0, 0);
        craft_campaign(&group, 1); /* node 3 votes for it */
        cr_assert_eq(craft_of(&group, 1)->raft.role, RAFT_ROLE_LEADER);
        cr_assert_eq(craft_propose(&group, 1, "x"), 0);
        for (uint64_t id = 2; id <= 3; id++) {
            cr_expect_str_eq(craft_terms(craft_of(&group, id)), "111445566688", "%s",
                             figure_7[i].why);
            cr_expect_eq(craft_of(&group, id)->applied_index, 12, "%s", figure_7[i].why);
        }
        craft_group_deinit(&group);
    }
}

Test(raft_replication, row_60_pitfall_43_few_probes_find_the_place)
{
    struct raft_options options = craft_options();
    struct craft_group group;
    craft_group_init(&group, 7, &options);
    craft_log(craft_of(&group, 1), figure_7_leader, 7, 0, 0);
    for (size_t i = 0; i < ARRAY_COUNT(figure_7); i++)
        craft_log(craft_of(&group, i + 2), figure_7[i].log, 7, 0, 0);
    craft_campaign(&group, 1); /* (d) refuses, the others agree */
    cr_assert_eq(craft_of(&group, 1)->raft.role, RAFT_ROLE_LEADER);
    cr_assert_eq(craft_of(&group, 1)->raft.term, 8);
    for (size_t i = 0; i < ARRAY_COUNT(figure_7); i++) {
        const struct node *node = craft_of(&group, i + 2);
        cr_expect_str_eq(craft_terms(node), "11144556668", "%s", figure_7[i].why);
        cr_expect_leq(node->raft.counters.appends_rejected,
                      terms_that_differ(figure_7_leader, figure_7[i].log), "%s: %lu",
                      figure_7[i].why, node->raft.counters.appends_rejected);
    }
    craft_group_deinit(&group);
}

Test(raft_replication, row_61_pitfall_3_only_its_own_term_commits)
{
    static const struct {
        uint64_t ack, want;
    } cases[] = {{1, 0}, {2, 0}, {3, 3}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 2, "12", 2, 0);
        craft_win(node);
        cr_assert_eq(node->raft.term, 3);
        craft_ack(node, 2, cases[i].ack);
        cr_expect_eq(node->raft.log.committed_index, cases[i].want, "ack %lu", cases[i].ack);
        cluster_deinit(&cluster);
    }
}

Test(raft_replication, row_62_commit_calculation)
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
        struct node *node = craft_node(&cluster, cases[i].size, "", 0, 0);
        craft_win(node); /* then put in the state of the row */
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

/* Node 1 leads five nodes, has two entries on itself and 2 only, and is replaced by 2. */
static void half_replicated(struct craft_group *group, bool appends_blocked)
{
    struct raft_options options = craft_options();
    craft_group_init(group, 5, &options);
    craft_campaign(group, 1);
    for (uint64_t id = 3; id <= 5; id++)
        craft_cut(group, 1, id);
    cr_assert_eq(craft_propose(group, 1, "some data"), 0);
    cr_assert_eq(craft_propose(group, 1, "some data"), 0);
    cr_assert_eq(craft_of(group, 1)->raft.log.committed_index, 1);
    craft_heal(group);
    if (appends_blocked)
        group->lost = RAFT_MESSAGE_APPEND;
    craft_campaign(group, 2);
    cr_assert_eq(craft_of(group, 2)->raft.role, RAFT_ROLE_LEADER);
}

Test(raft_replication, row_63_pitfall_3_no_commit_without_an_entry_of_the_term)
{
    struct craft_group group;
    half_replicated(&group, true);
    cr_expect_eq(craft_of(&group, 2)->raft.log.committed_index, 1);
    craft_heal(&group);
    craft_tick(&group, 2, 1);
    cr_assert_eq(craft_propose(&group, 2, "some data"), 0);
    cr_expect_eq(craft_of(&group, 2)->raft.log.committed_index, 5);
    craft_group_deinit(&group);
}

Test(raft_replication, row_64_the_empty_entry_commits_what_is_old)
{
    struct craft_group group;
    half_replicated(&group, false);
    cr_expect_eq(craft_of(&group, 2)->raft.log.committed_index, 4);
    craft_group_deinit(&group);
}

Test(raft_replication, row_66_heartbeat_commit)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "", 0, 0);
    craft_log(node, "123", 3, 0, 2);
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .term = 3, .commit = 3});
    cr_expect_eq(node->raft.log.committed_index, 3);
    cr_expect_eq(craft_newest(&cluster)->kind, RAFT_MESSAGE_HEARTBEAT_RESPONSE);
    craft_log(node, "123", 3, 0, 2);
    craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .term = 3, .commit = 1});
    cr_expect_eq(node->raft.log.committed_index, 2, "never down");
    cr_expect_eq(craft_newest(&cluster)->kind, RAFT_MESSAGE_HEARTBEAT_RESPONSE);
    cluster_deinit(&cluster);
}

Test(raft_replication, pitfall_20_a_commit_index_beyond_the_log)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "123", 3, 0);
    struct raft_message beyond = {
        .kind = RAFT_MESSAGE_HEARTBEAT, .from = 2, .to = 1, .term = 3, .commit = 4};
    cr_expect_eq(raft_step(&node->raft, &beyond), ERR_CORRUPT, "the log was lost");
    cr_expect_eq(node->raft.log.committed_index, 0);
    cluster_deinit(&cluster);
}

Test(raft_replication, row_67_heartbeat_answers_send_what_is_missing)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 2, "123", 3, 0);
    craft_win(node);
    craft_drain(&cluster);
    struct raft_message answer = {.kind = RAFT_MESSAGE_HEARTBEAT_RESPONSE, .term = 4};
    for (int i = 0; i < 2; i++) {
        craft_give(node, answer);
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 1, "it is behind");
        craft_drain(&cluster);
    }
    craft_ack(node, 2, node->raft.log.last_index);
    craft_drain(&cluster);
    craft_give(node, answer);
    cr_expect_eq(cluster.network_count, 0, "it has everything");
    cluster_deinit(&cluster);
}

Test(raft_replication, row_68_who_has_not_answered_waits)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "", 0, 0);
    craft_win(node);
    craft_drain(&cluster);
    craft_ack(node, 2, 1);
    cr_assert_eq(node->raft.log.committed_index, 1);
    craft_drain(&cluster);
    cr_assert_eq(node_propose(node, ENTRY_NORMAL, "x", 1), 0);
    craft_ready(node);
    cr_assert_eq(cluster.network_count, 1);
    cr_expect_eq(craft_newest(&cluster)->to, 2);
    cr_expect_eq(craft_newest(&cluster)->entry_count, 1);
    cr_expect_eq(craft_newest(&cluster)->index, 1);
    craft_drain(&cluster);
    craft_ack(node, 3, 1);
    cr_assert_eq(cluster.network_count, 1);
    cr_expect_eq(craft_newest(&cluster)->to, 3);
    cr_expect_eq(craft_newest(&cluster)->entry_count, 1);
    cr_expect_eq(craft_newest(&cluster)->index, 1);
    cluster_deinit(&cluster);
}

Test(raft_replication, row_69_answers_at_the_leader)
{
    static const struct {
        const char *why;
        uint64_t index;
        bool reject;
        uint64_t want_match, want_next, want_commit;
        uint32_t want_messages;
        uint64_t want_probe; /* the index that the first of them stands on */
    } cases[] = {
        {"refused what was not asked", 3, true, 0, 3, 0, 0, 0},
        {"refused: one step back", 2, true, 0, 2, 0, 1, 1},
        {"has all: commits, tells both", 3, false, 3, 4, 3, 2, 3},
        {"has what it had: replicates", 0, false, 0, 4, 0, 1, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "11", 1, 0);
        craft_win(node);
        craft_drain(&cluster);
        for (uint64_t id = 2; id <= 3; id++) {
            struct raft_peer *peer = raft_peer(&node->raft, id);
            peer->next_index = 3;
            peer->paused = false;
        }
        craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_APPEND_RESPONSE,
                                               .term = 2,
                                               .index = cases[i].index,
                                               .reject = cases[i].reject,
                                               .hint_index = cases[i].index});
        const struct raft_peer *peer = raft_peer_find(&node->raft, 2);
        cr_expect_eq(peer->match_index, cases[i].want_match, "%s", cases[i].why);
        cr_expect_eq(peer->next_index, cases[i].want_next, "%s: %lu", cases[i].why,
                     peer->next_index);
        cr_expect_eq(node->raft.log.committed_index, cases[i].want_commit, "%s", cases[i].why);
        cr_expect_eq(cluster.network_count, cases[i].want_messages, "%s: %u", cases[i].why,
                     cluster.network_count);
        if (cases[i].want_messages > 0)
            cr_expect_eq(cluster.network.first->message.index, cases[i].want_probe, "%s: %lu",
                         cases[i].why, cluster.network.first->message.index);
        cluster_deinit(&cluster);
    }
}

/* The caller's log cannot tell a term just now: that is no conflict, nothing may be cut for it. */
static int blind_lookup(void *context maybe_unused, uint64_t index maybe_unused,
                        struct entry *entry maybe_unused)
{
    return ERR_UNAVAILABLE;
}

Test(raft_replication, pitfall_19_an_unknown_term_is_no_conflict)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "1122", 2, 0);
    cr_assert_eq(node->raft.log.base_index, 4, "after a start nothing is in memory");
    node->raft.log.storage.lookup = blind_lookup;
    craft_append(node, 2, 0, 0, "11", 2);
    cr_expect_eq(node->raft.log.last_index, 4);
    cr_expect_eq(craft_newest(&cluster)->index, 0, "it acknowledges no more than it knows");
    node->raft.log.storage.lookup = NULL;
    craft_log(node, "1122", 2, 0, 0);
    craft_append(node, 2, 0, 0, "11", 2);
    cr_expect_eq(craft_newest(&cluster)->index, 2);
    cr_expect_eq(node->raft.log.last_index, 4);
    cluster_deinit(&cluster);
}
