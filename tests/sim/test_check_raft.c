/* The checkers of check_raft.h are fed what a broken Raft would show, one rule at a time; each must
 * notice, and must not complain about the honest beginning. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "tests/sim/check_raft.h"

#define NODES 3

struct group {
    struct verdict verdict;
    struct check_raft check;
    struct raft rafts[NODES + 1];
    void *memory[NODES + 1];
    bool durable[NODES + 1];
    uint64_t durable_term; /* of the entry that was looked for last */
};

static struct group group;

static bool durable_says(void *context, uint64_t node, uint64_t index, uint64_t term)
{
    (void)context, (void)index;
    group.durable_term = term;
    return group.durable[node];
}

static struct raft_config members(uint32_t count)
{
    struct raft_config config = {0};
    for (uint32_t i = 0; i < count; i++)
        config.voters.ids[config.voters.count++] = i + 1;
    return config;
}

static void node_init(uint64_t id)
{
    struct raft_options options;
    raft_options_default(&options);
    options.id = id;
    options.window_entries = 64;
    options.messages_max = 128;
    options.reads_max = 8;
    options.inflight_messages_max = 4;
    group.memory[id] = aligned_alloc(64, u64_round_up(raft_memory_bytes(&options), 64));
    struct raft_start start = {.hard_state = {.term = 1, .commit = 1},
                               .compacted_index = 1,
                               .compacted_term = 1,
                               .last_index = 1,
                               .last_term = 1,
                               .applied_index = 1,
                               .config = members(NODES)};
    struct raft_storage storage = {0};
    cr_assert_eq(raft_init(&group.rafts[id], &options, &storage, &start, group.memory[id], 1), 0);
    check_raft_restart(&group.check, id, &start, NULL);
}

static void observe(uint64_t id)
{
    check_raft_observe(&group.check, &group.rafts[id]);
}

static void setup(void)
{
    memset(&group, 0, sizeof(group));
    check_raft_init(&group.check, &group.verdict, durable_says, NULL);
    struct raft_config genesis = members(NODES);
    check_raft_genesis(&group.check, 1, 1, &genesis);
    for (uint64_t id = 1; id <= NODES; id++) {
        node_init(id);
        observe(id);
        group.durable[id] = true;
    }
}

static void teardown(void)
{
    check_raft_deinit(&group.check);
    for (uint64_t id = 1; id <= NODES; id++)
        free(group.memory[id]);
}

static void append(uint64_t id, uint64_t term, const char *payload, enum entry_type type)
{
    struct raft_log *log = &group.rafts[id].log;
    struct entry entry = {.index = log->last_index + 1,
                          .term = term,
                          .payload = (const uint8_t *)payload,
                          .payload_bytes = (uint32_t)strlen(payload),
                          .type = type};
    raft_log_append(log, &entry);
    observe(id);
}

static void lead(uint64_t id, uint64_t term)
{
    group.rafts[id].role = RAFT_ROLE_LEADER;
    group.rafts[id].term = term;
    observe(id);
}

static void commit(uint64_t id, uint64_t index)
{
    group.rafts[id].log.committed_index = index;
    observe(id);
}

static void expect_pass(void)
{
    cr_assert_eq(group.verdict.outcome, SIM_PASS, "%s", group.verdict.text);
}

static void expect_fail(const char *rule)
{
    cr_assert_eq(group.verdict.outcome, SIM_SAFETY, "%s went unnoticed", rule);
    cr_assert_eq(strncmp(group.verdict.text, rule, strlen(rule)), 0, "wanted %s: %s", rule,
                 group.verdict.text);
}

TestSuite(check_raft, .init = setup, .fini = teardown);

Test(check_raft, two_leaders_of_a_term)
{
    lead(1, 2);
    lead(2, 3);
    expect_pass();
    lead(3, 2);
    expect_fail("election safety");
}

Test(check_raft, ids_share_a_slot_without_being_confused)
{
    struct check_node *far = check_raft_node(&group.check, 1 + CHECK_NODES_MAX);
    cr_assert_neq(far, check_raft_node(&group.check, 1));
    cr_assert_eq(far, check_raft_node(&group.check, 1 + CHECK_NODES_MAX));
    cr_assert_eq(far->id, 1 + CHECK_NODES_MAX);
}

Test(check_raft, another_entry_at_the_same_index_and_term)
{
    lead(1, 2);
    append(1, 2, "a", ENTRY_NORMAL);
    append(2, 2, "a", ENTRY_NORMAL);
    expect_pass();
    append(3, 2, "b", ENTRY_NORMAL);
    expect_fail("log matching");
}

Test(check_raft, the_same_entry_after_another_prefix)
{
    lead(1, 3);
    append(1, 2, "a", ENTRY_NORMAL);
    append(1, 3, "b", ENTRY_NORMAL);
    append(2, 1, "c", ENTRY_NORMAL);
    expect_pass();
    append(2, 3, "b", ENTRY_NORMAL);
    expect_fail("log matching");
}

Test(check_raft, a_leader_replaces_its_own_entry)
{
    lead(1, 2);
    append(1, 2, "a", ENTRY_NORMAL);
    append(1, 2, "b", ENTRY_NORMAL);
    expect_pass();
    raft_log_truncate(&group.rafts[1].log, 2);
    observe(1);
    expect_fail("leader append-only");
}

Test(check_raft, a_leader_that_lacks_what_was_committed)
{
    lead(1, 2);
    append(1, 2, "a", ENTRY_NORMAL);
    commit(1, 2);
    expect_pass();
    lead(2, 3);
    expect_fail("leader completeness");
}

Test(check_raft, a_late_leader_of_an_old_term_may_lack_what_a_newer_one_committed)
{
    lead(1, 3);
    append(1, 3, "a", ENTRY_NORMAL);
    commit(1, 2);
    lead(2, 2);
    expect_pass();
}

Test(check_raft, commit_without_a_quorum_of_disks)
{
    lead(1, 2);
    append(1, 2, "a", ENTRY_NORMAL);
    group.durable[2] = group.durable[3] = false;
    commit(1, 2);
    expect_fail("commit");
}

Test(check_raft, commit_of_an_earlier_term_by_counting)
{
    append(1, 2, "a", ENTRY_NORMAL);
    lead(1, 3);
    commit(1, 2);
    expect_fail("commit");
}

Test(check_raft, a_follower_commits_first)
{
    append(2, 1, "a", ENTRY_NORMAL);
    commit(2, 2);
    expect_fail("commit");
}

Test(check_raft, a_lone_voter_commits_what_its_disk_has)
{
    append(2, 1, "a", ENTRY_NORMAL);
    group.rafts[2].config = (struct raft_config){.voters = {.count = 1, .ids = {2}}};
    group.durable[1] = group.durable[3] = false;
    commit(2, 2);
    expect_pass();
    append(2, 1, "b", ENTRY_NORMAL);
    group.durable[2] = false;
    commit(2, 3);
    expect_fail("commit");
}

Test(check_raft, a_follower_commits_another_entry)
{
    lead(1, 2);
    append(1, 2, "a", ENTRY_NORMAL);
    commit(1, 2);
    append(2, 1, "b", ENTRY_NORMAL);
    expect_pass();
    commit(2, 2);
    expect_fail("commit");
}

Test(check_raft, time_runs_backwards)
{
    lead(1, 4);
    group.rafts[1].role = RAFT_ROLE_FOLLOWER;
    group.rafts[1].term = 3;
    observe(1);
    expect_fail("monotonic");
}

Test(check_raft, a_restart_forgets_the_term)
{
    struct raft_message answer = {.kind = RAFT_MESSAGE_HEARTBEAT_RESPONSE, .from = 1, .to = 2};
    check_raft_send(&group.check, &answer, &(struct hard_state){.term = 5}, false);
    struct raft_start start = {.hard_state = {.term = 4}};
    check_raft_restart(&group.check, 1, &start, NULL);
    expect_fail("monotonic");
}

Test(check_raft, votes)
{
    struct raft_message vote = {.kind = RAFT_MESSAGE_VOTE_RESPONSE, .from = 1, .to = 2, .term = 5};
    check_raft_send(&group.check, &vote, &(struct hard_state){.term = 5, .vote = 2}, false);
    expect_pass();
    vote.to = 3;
    check_raft_send(&group.check, &vote, &(struct hard_state){.term = 5, .vote = 3}, false);
    expect_fail("one vote");
}

Test(check_raft, a_vote_that_leaves_early)
{
    struct raft_message vote = {.kind = RAFT_MESSAGE_VOTE_RESPONSE, .from = 1, .to = 2, .term = 5};
    check_raft_send(&group.check, &vote, &(struct hard_state){.term = 4}, false);
    expect_fail("one vote");
}

Test(check_raft, an_acknowledgement_that_leaves_early)
{
    lead(1, 2);
    append(1, 2, "a", ENTRY_NORMAL);
    struct raft_message ack = {
        .kind = RAFT_MESSAGE_APPEND_RESPONSE, .from = 2, .to = 1, .term = 2, .index = 2};
    check_raft_send(&group.check, &ack, &(struct hard_state){.term = 2}, false);
    expect_pass();
    group.durable[2] = false;
    check_raft_send(&group.check, &ack, &(struct hard_state){.term = 3}, false);
    expect_pass(); /* durable in term 2, then replaced in term 3, both before it left */
    check_raft_send(&group.check, &ack, &(struct hard_state){.term = 2}, false);
    expect_fail("acknowledgement");
}

Test(check_raft, an_acknowledgement_of_what_the_leader_never_had)
{
    lead(1, 2);
    append(1, 2, "a", ENTRY_NORMAL);
    check_raft_node(&group.check, 1)->log.entries[1].term = 7; /* replaced by a snapshot */
    check_raft_node(&group.check, 1)->compacted = 2;
    struct raft_message ack = {
        .kind = RAFT_MESSAGE_APPEND_RESPONSE, .from = 2, .to = 1, .term = 2, .index = 1};
    check_raft_send(&group.check, &ack, &(struct hard_state){.term = 2}, false);
    expect_pass();
    cr_expect_eq(group.durable_term, 1, "what is committed there");
}

Test(check_raft, applying)
{
    static const struct {
        const char *why;
        uint64_t index, term;
        const char *payload;
        bool passes;
    } cases[] = {
        {"the committed entry", 2, 2, "a", true},
        {"not in order", 3, 2, "b", false},
        {"other bytes", 2, 2, "x", false},
        {"another term", 2, 1, "a", false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        teardown();
        setup();
        lead(1, 2);
        append(1, 2, "a", ENTRY_NORMAL);
        append(1, 2, "b", ENTRY_NORMAL);
        commit(1, 3);
        struct entry entry = {.index = cases[i].index,
                              .term = cases[i].term,
                              .payload = (const uint8_t *)cases[i].payload,
                              .payload_bytes = 1};
        check_raft_apply(&group.check, 2, 1, &entry);
        cr_expect_eq(group.verdict.outcome == SIM_PASS, cases[i].passes, "%s", cases[i].why);
    }
}

Test(check_raft, an_entry_applied_before_it_is_committed)
{
    lead(1, 2);
    append(1, 2, "a", ENTRY_NORMAL);
    struct entry entry = {
        .index = 2, .term = 2, .payload = (const uint8_t *)"a", .payload_bytes = 1};
    check_raft_apply(&group.check, 1, 1, &entry);
    expect_fail("state machine");
}

Test(check_raft, another_state_at_the_same_index)
{
    check_raft_state(&group.check, 1, 7, 11);
    check_raft_state(&group.check, 2, 7, 11);
    expect_pass();
    check_raft_state(&group.check, 3, 7, 12);
    expect_fail("state machine");
}

Test(check_raft, two_changes_that_are_not_committed)
{
    lead(1, 2);
    append(1, 2, "a", ENTRY_CONFIG_CHANGE);
    append(1, 2, "b", ENTRY_NORMAL);
    expect_pass();
    append(1, 2, "c", ENTRY_CONFIG_CHANGE);
    expect_fail("configuration");
}

Test(check_raft, configurations_differ_between_nodes)
{
    struct raft_config four = members(4), two = members(2);
    check_raft_config(&group.check, 1, 5, &four);
    expect_pass();
    check_raft_config(&group.check, 2, 5, &two);
    expect_fail("configuration");
}

Test(check_raft, a_node_lives_in_another_configuration)
{
    struct raft_config four = members(4);
    check_raft_config(&group.check, 1, 5, &four);
    group.rafts[2].config_index = 5;
    observe(2);
    expect_fail("configuration");
}

Test(check_raft, steps_between_configurations)
{
    struct raft_config three = members(3), four = members(4), five = members(5);
    struct raft_config joint = members(5), wrong = members(5), mixed = members(3);
    joint.outgoing = three.voters;
    wrong.outgoing = four.voters;
    mixed.learners = members(1).voters;
    const struct {
        const char *why;
        const struct raft_config *from, *to;
        bool legal;
    } cases[] = {
        {"one voter more", &three, &four, true},
        {"one voter less", &four, &three, true},
        {"two at once share no quorum", &three, &five, false},
        {"into the joint phase", &three, &joint, true},
        {"with somebody else's majority", &three, &wrong, false},
        {"out of it", &joint, &five, true},
        {"back out of it", &joint, &three, false},
        {"from joint to joint", &joint, &wrong, false},
        {"a learner that also votes", &three, &mixed, false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        cr_expect_eq(check_config_step(cases[i].from, cases[i].to), cases[i].legal, "%s",
                     cases[i].why);
}

Test(check_raft, quorums)
{
    struct raft_config joint = members(5), four = members(4);
    joint.outgoing = members(3).voters;
    struct raft_id_set two = members(2).voters, three = members(3).voters;
    struct raft_id_set right = {.count = 3, .ids = {3, 4, 5}};
    cr_expect(!check_config_quorum(&four, &two), "two of four");
    cr_expect(check_config_quorum(&four, &three), "three of four");
    cr_expect(check_config_quorum(&joint, &three), "both halves");
    cr_expect(!check_config_quorum(&joint, &right), "only the incoming half");
}

Test(check_raft, a_stale_read_index)
{
    check_raft_read(&group.check, 1, 5, 5);
    expect_pass();
    check_raft_read(&group.check, 1, 6, 5);
    expect_fail("read");
}
