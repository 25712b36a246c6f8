/* The state machine through its public calls: a single voter first, then small groups by hand. */
#include "consensus/raft.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define TICK_NS NS_PER_MS

struct lone {
    struct raft raft;
    void *memory;
    struct raft_ready ready;
    uint64_t now_ns;
    uint32_t released;
};

static void count_release(void *context, const struct entry *entry)
{
    struct lone *lone = context;
    lone->released += entry->payload_bytes > 0;
}

static void lone_start(struct lone *lone, const struct raft_start *start)
{
    struct raft_options options;
    raft_options_default(&options);
    options.id = 1;
    options.seed = 7;
    options.window_entries = 16;
    struct raft_storage storage = {.context = lone, .release = count_release};
    memset(lone, 0, sizeof(*lone));
    lone->memory = malloc(raft_memory_bytes(&options));
    cr_assert_eq(raft_init(&lone->raft, &options, &storage, start, lone->memory, 0), 0);
}

static bool lone_ready(struct lone *lone)
{
    return raft_ready(&lone->raft, &lone->ready);
}

static struct raft_start lone_config(void)
{
    struct raft_start start = {0};
    cr_assert(raft_id_set_add(&start.config.voters, 1));
    return start;
}

static void lone_lead(struct lone *lone)
{
    lone->now_ns += TICK_NS;
    cr_assert_eq(raft_tick(&lone->raft, lone->now_ns), 0);
    cr_assert(lone_ready(lone));
    struct raft_append vote = lone->ready.append;
    raft_persisted(&lone->raft, &vote);
    cr_assert_eq(lone->raft.role, RAFT_ROLE_LEADER);
}

Test(raft, single_voter_leads_after_its_vote_is_durable)
{
    struct lone lone;
    struct raft_start start = lone_config();
    lone_start(&lone, &start);
    lone.now_ns = TICK_NS;
    cr_assert_eq(raft_tick(&lone.raft, lone.now_ns), 0);
    cr_assert(lone_ready(&lone));
    cr_assert(lone.ready.hard_state_changed);
    cr_assert_eq(lone.ready.hard_state.vote, 1);
    cr_assert_eq(lone.raft.role, RAFT_ROLE_CANDIDATE);
    cr_assert_eq(lone.ready.message_count, 0);
    raft_persisted(&lone.raft, &(struct raft_append){.sequence = 1, .term = 1});
    cr_assert_eq(lone.raft.role, RAFT_ROLE_LEADER);
    free(lone.memory);
}

Test(raft, row_130_pitfall_40_single_voter_commits_only_what_is_durable)
{
    struct lone lone;
    struct raft_start start = lone_config();
    lone_start(&lone, &start);
    lone_lead(&lone);
    struct entry entries[3] = {{.payload = (const uint8_t *)"a", .payload_bytes = 1},
                               {.payload = (const uint8_t *)"b", .payload_bytes = 1},
                               {.payload = (const uint8_t *)"c", .payload_bytes = 1}};
    uint64_t first = 0;
    cr_assert_eq(raft_propose(&lone.raft, entries, 3, &first), 0);
    cr_assert_eq(first, 2, "the empty entry of the term comes first");
    cr_assert(lone_ready(&lone));
    cr_assert_eq(lone.ready.append_first, 1);
    cr_assert_eq(lone.ready.append_last, 4);
    cr_assert_eq(lone.ready.apply_last, 0);
    struct raft_append append = lone.ready.append;
    raft_persisted(&lone.raft, &append);
    cr_assert(lone_ready(&lone));
    cr_assert_eq(lone.ready.apply_first, 1);
    cr_assert_eq(lone.ready.apply_last, 4);
    cr_assert_eq(lone.released, 0);
    raft_applied(&lone.raft, 4);
    cr_assert_eq(lone.released, 3);
    cr_assert_not(lone_ready(&lone));
    free(lone.memory);
}

Test(raft, pitfall_6_single_voter_parks_reads_until_its_term_committed)
{
    struct lone lone;
    struct raft_start start = lone_config();
    lone_start(&lone, &start);
    cr_assert_eq(raft_read_index(&lone.raft, 41), ERR_NO_LEADER);
    lone_lead(&lone);
    cr_assert_eq(raft_read_index(&lone.raft, 42), 0);
    cr_assert(lone_ready(&lone));
    cr_assert_eq(lone.ready.read_count, 0);
    struct raft_append append = lone.ready.append;
    raft_persisted(&lone.raft, &append);
    cr_assert(lone_ready(&lone));
    cr_assert_eq(lone.ready.read_count, 1);
    cr_assert_eq(lone.ready.reads[0].id, 42);
    cr_assert_eq(lone.ready.reads[0].index, 1);
    cr_assert_eq(raft_read_index(&lone.raft, 43), 0);
    cr_assert(lone_ready(&lone));
    cr_assert_eq(lone.ready.read_count, 1);
    free(lone.memory);
}

Test(raft, a_single_voter_reads_locally_once_its_term_is_applied)
{
    struct lone lone;
    struct raft_start start = lone_config();
    lone_start(&lone, &start);
    cr_expect_not(raft_reads_are_local(&lone.raft), "nobody leads");
    lone_lead(&lone);
    cr_expect_not(raft_reads_are_local(&lone.raft), "its first entry is not durable");
    cr_assert(lone_ready(&lone));
    struct raft_append append = lone.ready.append;
    raft_persisted(&lone.raft, &append);
    cr_assert(lone_ready(&lone));
    cr_assert_eq(lone.ready.apply_last, 1);
    cr_expect_not(raft_reads_are_local(&lone.raft), "nor applied: older ones may not be either");
    raft_applied(&lone.raft, 1);
    cr_expect(raft_reads_are_local(&lone.raft));
    struct raft_config alone = lone.raft.config;
    cr_assert(raft_id_set_add(&lone.raft.config.learners, 3));
    cr_expect_not(raft_reads_are_local(&lone.raft), "a learner may acknowledge before us");
    lone.raft.config = alone;
    cr_assert(raft_id_set_add(&lone.raft.config.voters, 2));
    cr_expect_not(raft_reads_are_local(&lone.raft), "another voter");
    lone.raft.config = alone;
    cr_assert(raft_id_set_add(&lone.raft.config.outgoing, 1));
    cr_assert(raft_id_set_add(&lone.raft.config.outgoing, 2));
    cr_expect_not(raft_reads_are_local(&lone.raft), "another voter in the majority that leaves");
    free(lone.memory);
}

Test(raft, damage_found_in_the_middle_of_a_campaign_ends_it)
{
    struct lone lone;
    struct raft_start start = lone_config();
    cr_assert(raft_id_set_add(&start.config.voters, 2));
    lone_start(&lone, &start);
    raft_campaign(&lone.raft);
    cr_assert_eq(lone.raft.role, RAFT_ROLE_PRE_CANDIDATE);
    raft_restrict(&lone.raft, true);
    struct raft_message grant = {
        .kind = RAFT_MESSAGE_PRE_VOTE_RESPONSE, .from = 2, .to = 1, .term = 1};
    cr_assert_eq(raft_step(&lone.raft, &grant), 0);
    cr_assert_eq(lone.raft.role, RAFT_ROLE_FOLLOWER);
    raft_restrict(&lone.raft, false);
    raft_campaign(&lone.raft);
    cr_assert_eq(raft_step(&lone.raft, &grant), 0);
    cr_assert_eq(lone.raft.role, RAFT_ROLE_CANDIDATE);
    free(lone.memory);
}

/* Its first campaign is due at once; one that is put off is due later, or callers would spin. */
Test(raft, a_lone_voter_that_may_not_campaign_yet_waits)
{
    struct lone lone;
    struct raft_start start = lone_config();
    start.hard_state = (struct hard_state){.term = 1, .commit = 1};
    start.last_index = start.last_term = 1; /* committed, not applied, maybe a change of members */
    lone_start(&lone, &start);
    cr_assert_eq(raft_tick(&lone.raft, TICK_NS), 0);
    cr_assert_eq(lone.raft.role, RAFT_ROLE_FOLLOWER);
    cr_assert_gt(raft_deadline_ns(&lone.raft), TICK_NS);
    free(lone.memory);
}

/* The configuration of a snapshot rules at once, the changes before it are still in the apply
 * lane: what it then stored as "the configuration at this index" would be of a later one. */
Test(raft, a_change_below_a_pending_snapshot_is_not_applied)
{
    struct lone lone;
    struct raft_start start = lone_config();
    cr_assert(raft_id_set_add(&start.config.voters, 2));
    lone_start(&lone, &start);
    struct entry change = {.index = 1, .term = 1, .type = ENTRY_CONFIG_CHANGE};
    struct raft_message append = {.kind = RAFT_MESSAGE_APPEND,
                                  .from = 2,
                                  .to = 1,
                                  .term = 1,
                                  .commit = 1,
                                  .entry_count = 1,
                                  .entries = &change};
    cr_assert_eq(raft_step(&lone.raft, &append), 0);
    cr_assert(lone_ready(&lone));
    raft_persisted(&lone.raft, &lone.ready.append);
    cr_assert(lone_ready(&lone));
    cr_assert_eq(lone.ready.apply_last, 1);
    struct raft_snapshot snapshot = {.index = 9, .term = 1, .config = start.config};
    struct raft_message offer = {
        .kind = RAFT_MESSAGE_SNAPSHOT, .from = 2, .to = 1, .term = 1, .snapshot = &snapshot};
    cr_assert_eq(raft_step(&lone.raft, &offer), 0);
    struct raft_config_change leave = {.transition = RAFT_TRANSITION_AUTO};
    cr_assert_eq(raft_apply_config(&lone.raft, 1, &leave), ERR_COMPACTED);
    free(lone.memory);
}

Test(raft, pitfall_20_22_start_refuses_parts_that_do_not_fit)
{
    static const struct {
        const char *why;
        struct raft_start start;
        int want;
    } cases[] = {
        {"an empty node", {.last_index = 0}, 0},
        {"applied ahead of the stored commit is fine",
         {.hard_state = {.term = 1}, .last_index = 3, .last_term = 1, .applied_index = 2},
         0},
        {"committed entries are gone",
         {.hard_state = {.term = 1, .commit = 4}, .last_index = 3, .last_term = 1},
         ERR_CORRUPT},
        {"applied entries are gone",
         {.hard_state = {.term = 1}, .last_index = 3, .last_term = 1, .applied_index = 4},
         ERR_CORRUPT},
        {"a gap after the snapshot",
         {.hard_state = {.term = 1},
          .compacted_index = 5,
          .compacted_term = 1,
          .last_index = 9,
          .last_term = 1,
          .applied_index = 4},
         ERR_CORRUPT},
        {"an entry of a term that never was",
         {.hard_state = {.term = 1}, .last_index = 3, .last_term = 2},
         ERR_CORRUPT},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct raft raft;
        struct raft_options options;
        raft_options_default(&options);
        options.id = 1;
        options.window_entries = 8;
        void *memory = malloc(raft_memory_bytes(&options));
        struct raft_start start = cases[i].start;
        cr_assert(raft_id_set_add(&start.config.voters, 1));
        struct raft_storage storage = {0};
        cr_expect_eq(raft_init(&raft, &options, &storage, &start, memory, 0), cases[i].want, "%s",
                     cases[i].why);
        free(memory);
    }
}
