/* server/failover.h and server/leadership.h against a node made of nothing but consensus. */
#include "tests/unit/failover_world.h"

#include "server/leadership.h"

/* The timer of the next attempt comes due. */
static void fire(struct failover *failover)
{
    cr_assert(timer_is_armed(&failover->campaign));
    timer_stop(core_timers(world.core), &failover->campaign);
    failover->campaign.fire(&failover->campaign);
    drain();
}

/* Members that stop together lose their connections on the way; the campaign would come due when
 * nothing is left that it asks. */
Test(failover, a_member_that_stops_does_not_care_who_is_lost)
{
    struct failover *failover = world_open(1, 3);
    give(RAFT_MESSAGE_HEARTBEAT, 2, 1, 0);
    failover_stop(failover);
    failover_connection_lost(failover, 2);
    cr_expect(!timer_is_armed(&failover->campaign));
    cr_expect_eq(world.driver.raft.leader, 2);
    world_close();
}

Test(failover, the_survivors_of_a_dead_leader_take_turns)
{
    uint64_t waits[4] = {0};
    for (uint64_t id = 1; id <= 3; id++) {
        struct failover *failover = world_open(id, 3);
        uint64_t leader = id == 2 ? 1 : 2;
        give(RAFT_MESSAGE_HEARTBEAT, leader, 1, 0);
        failover_connection_lost(failover, leader);
        cr_expect_eq(failover->leaders_lost, 1);
        cr_expect_eq(world.driver.raft.leader, 0, "it is not believed in any more");
        cr_expect_eq(world.driver.raft.role, RAFT_ROLE_FOLLOWER);
        waits[id] = failover->campaign.deadline_ns - core_now_ns(world.core);
        fire(failover);
        cr_expect_eq(world.driver.raft.role, RAFT_ROLE_PRE_CANDIDATE);
        world_close();
    }
    cr_expect_lt(waits[1], 10 * NS_PER_MS, "1 is the first of {1, 3}");
    cr_expect_geq(waits[3], 10 * NS_PER_MS, "3 the second");
    cr_expect_geq(waits[2], 2 * NS_PER_MS, "2 the first of {2, 3}, after the others noticed");
    cr_expect_lt(waits[2], 10 * NS_PER_MS);
}

Test(failover, only_the_leaders_connections_matter)
{
    struct failover *failover = world_open(1, 3);
    failover_connection_lost(failover, 2);
    cr_expect_eq(failover->leaders_lost, 0, "there is no leader");
    give(RAFT_MESSAGE_HEARTBEAT, 2, 1, 0);
    failover_connection_lost(failover, 3);
    cr_expect_eq(world.driver.raft.leader, 2);
    cr_expect_not(timer_is_armed(&failover->campaign));
    world_close();
}

Test(failover, an_attempt_that_found_no_answer_is_repeated_later_and_later)
{
    struct failover *failover = world_open(1, 3);
    give(RAFT_MESSAGE_HEARTBEAT, 2, 1, 0);
    failover_connection_lost(failover, 2);
    uint64_t last_ns = 0, rounds = world.driver.raft.counters.elections_pre_vote;
    for (int i = 0; i < 5; i++) {
        fire(failover);
        uint64_t wait_ns = failover->campaign.deadline_ns - core_now_ns(world.core);
        cr_expect_gt(wait_ns, last_ns, "attempt %d", i);
        last_ns = (25 * NS_PER_MS) << i;
    }
    cr_expect_eq(world.driver.raft.counters.elections_pre_vote - rounds, 5);
    give(RAFT_MESSAGE_HEARTBEAT, 3, 2, 0);
    fire(failover);
    cr_expect_not(timer_is_armed(&failover->campaign), "there is a leader");
    cr_expect_eq(world.driver.raft.leader, 3);
    world_close();
}

Test(failover, who_gave_its_vote_lets_the_other_win)
{
    struct failover *failover = world_open(1, 3);
    give(RAFT_MESSAGE_HEARTBEAT, 2, 1, 0);
    failover_connection_lost(failover, 2);
    give(RAFT_MESSAGE_VOTE, 3, 2, 0);
    cr_assert_eq(world.driver.raft.vote, 3);
    fire(failover);
    cr_expect_eq(world.driver.raft.role, RAFT_ROLE_FOLLOWER);
    cr_expect(timer_is_armed(&failover->campaign), "it looks again");
    cr_assert_eq(raft_tick(&world.driver.raft, world.driver.raft.now_ns + 60 * NS_PER_MS), 0);
    fire(failover);
    cr_expect_eq(world.driver.raft.role, RAFT_ROLE_PRE_CANDIDATE, "the other did not win");
    world_close();
}

/* The dead leader will not answer, so nothing but another round can decide. */
Test(failover, a_round_that_the_other_survivor_refused_is_not_waited_for)
{
    struct failover *failover = world_open(1, 3);
    struct raft *raft = &world.driver.raft;
    give(RAFT_MESSAGE_HEARTBEAT, 2, 1, 0);
    failover_connection_lost(failover, 2);
    fire(failover);
    struct raft_message grant = {
        .kind = RAFT_MESSAGE_PRE_VOTE_RESPONSE, .from = 3, .to = 1, .term = 2};
    cr_assert_eq(raft_step(raft, &grant), 0);
    cr_assert_eq(raft->role, RAFT_ROLE_CANDIDATE);
    fire(failover);
    cr_expect_eq(raft->role, RAFT_ROLE_CANDIDATE, "its own vote was not durable yet");
    struct raft_message refusal = {
        .kind = RAFT_MESSAGE_VOTE_RESPONSE, .from = 3, .to = 1, .term = 2, .reject = true};
    cr_assert_eq(raft_step(raft, &refusal), 0);
    drain();
    cr_assert_eq(raft->role, RAFT_ROLE_CANDIDATE, "consensus still waits for 2");
    fire(failover);
    cr_expect_eq(raft->role, RAFT_ROLE_PRE_CANDIDATE);
    cr_expect(timer_is_armed(&failover->campaign));
    world_close();
}

Test(failover, the_watchdog_ends_a_leadership_whose_disk_hangs)
{
    struct failover *failover = world_open(1, 3);
    lead();
    uint64_t now_ns = world.driver.raft.now_ns, issued_ns = now_ns;
    for (; now_ns < issued_ns + TIMEOUT_NS; now_ns += 100 * NS_PER_MS)
        failover_watch_disk(failover, now_ns, issued_ns);
    cr_expect_eq(world.driver.raft.role, RAFT_ROLE_LEADER, "not yet");
    cr_expect_eq(failover->watchdog_moves, 0, "nobody's disk has more than ours");
    for (int i = 0; i < 3; i++, now_ns += 100 * NS_PER_MS)
        failover_watch_disk(failover, now_ns, issued_ns);
    cr_expect_eq(world.driver.raft.role, RAFT_ROLE_FOLLOWER);
    cr_expect_eq(failover->watchdog_trips, 1);
    world_close();
}

Test(failover, the_watchdog_hands_over_to_whose_disk_works)
{
    struct failover *failover = world_open(1, 3);
    lead();
    struct raft *raft = &world.driver.raft;
    give(RAFT_MESSAGE_APPEND_RESPONSE, 3, 2, raft->log.last_index);
    uint64_t now_ns = raft->now_ns, issued_ns = now_ns;
    for (int i = 0; i < 7; i++, now_ns += 100 * NS_PER_MS)
        failover_watch_disk(failover, now_ns, issued_ns);
    cr_expect_eq(raft->transferee, 3);
    cr_expect_eq(failover->watchdog_moves, 1);
    cr_expect_eq(raft->role, RAFT_ROLE_LEADER, "until it takes over");
    world_close();
}

Test(failover, a_pause_of_the_whole_process_is_no_hang_of_the_disk)
{
    static const struct {
        const char *why;
        uint64_t step_ms, looks;
        bool same_write;
    } cases[] = {
        {"one long pause", 20000, 3, true},
        {"a slow disk that finishes writes", 150, 100, false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct failover *failover = world_open(1, 3);
        lead();
        uint64_t now_ns = world.driver.raft.now_ns, issued_ns = now_ns;
        for (uint64_t look = 0; look < cases[i].looks; look++) {
            failover_watch_disk(failover, now_ns, issued_ns);
            now_ns += cases[i].step_ms * NS_PER_MS;
            issued_ns = cases[i].same_write ? issued_ns : now_ns;
        }
        cr_expect_eq(world.driver.raft.role, RAFT_ROLE_LEADER, "%s", cases[i].why);
        cr_expect_eq(failover->watchdog_trips, 0, "%s", cases[i].why);
        world_close();
    }
}

Test(failover, a_lone_voter_has_nobody_to_step_down_for)
{
    struct failover *failover = world_open(1, 1);
    raft_campaign(&world.driver.raft);
    drain();
    cr_assert_eq(world.driver.raft.role, RAFT_ROLE_LEADER);
    uint64_t now_ns = world.driver.raft.now_ns, issued_ns = now_ns;
    for (int i = 0; i < 50; i++, now_ns += 100 * NS_PER_MS)
        failover_watch_disk(failover, now_ns, issued_ns);
    cr_expect_eq(world.driver.raft.role, RAFT_ROLE_LEADER);
    world_close();
}

/* ---- leadership.h --------------------------------------------------------------------------- */

Test(leadership, the_heir_is_alive_and_has_the_most)
{
    world_open(1, 4);
    struct raft *raft = &world.driver.raft;
    raft_campaign(raft);
    drain();
    for (uint64_t id = 2; id <= 3; id++)
        give(RAFT_MESSAGE_PRE_VOTE_RESPONSE, id, 2, 0);
    for (uint64_t id = 2; id <= 3; id++)
        give(RAFT_MESSAGE_VOTE_RESPONSE, id, 2, 0);
    cr_assert_eq(raft->role, RAFT_ROLE_LEADER);
    cr_expect_null(leadership_heir(raft, NULL), "nobody answered yet");
    give(RAFT_MESSAGE_APPEND_RESPONSE, 4, 2, 0);
    cr_expect_eq(leadership_heir(raft, NULL)->id, 4);
    give(RAFT_MESSAGE_APPEND_RESPONSE, 3, 2, raft->log.last_index);
    cr_expect_eq(leadership_heir(raft, NULL)->id, 3, "it has more");
    struct raft_id_set but = {0};
    cr_assert(raft_id_set_add(&but, 3));
    cr_expect_eq(leadership_heir(raft, &but)->id, 4);
    cr_assert(raft_id_set_add(&but, 4));
    cr_expect_null(leadership_heir(raft, &but));
    world_close();
}

Test(leadership, an_heir_does_not_vanish_when_a_new_period_begins)
{
    world_open(1, 3);
    lead();
    struct raft *raft = &world.driver.raft;
    uint64_t began_ns = raft->now_ns, now_ns = began_ns;
    for (; now_ns < began_ns + TIMEOUT_NS; now_ns += 10 * NS_PER_MS, drain())
        cr_assert_eq(raft_tick(raft, now_ns), 0);
    struct raft_message answer = {.kind = RAFT_MESSAGE_HEARTBEAT_RESPONSE,
                                  .from = 3,
                                  .to = 1,
                                  .term = 2,
                                  .sent_ns = raft->now_ns};
    cr_assert_eq(raft_step(raft, &answer), 0);
    cr_assert_eq(raft_tick(raft, now_ns), 0);
    drain();
    cr_expect_not(raft_peer_find(raft, 3)->recent_active, "the quorum check forgot it");
    cr_assert_not_null(leadership_heir(raft, NULL));
    cr_expect_eq(leadership_heir(raft, NULL)->id, 3);
    world_close();
}

Test(leadership, moves_that_cannot_be)
{
    world_open(1, 3);
    cr_expect_eq(leadership_move(world.node, 2), ERR_NOT_LEADER);
    leadership_drain(world.node); /* no leader: nothing to hand over */
    lead();
    cr_expect_eq(leadership_move(world.node, 9), ERR_BAD_TRANSFEREE);
    cr_expect_eq(leadership_move(world.node, 1), 0, "it leads already");
    world_close();
}
