/* server/table_watch.h against a node made of nothing but consensus. */
#include "tests/unit/failover_world.h"

#include <errno.h>

#include "server/kv_codec.h"
#include "server/member_request.h"
#include "storage/lsm/lsm.h"

#define STEP_NS (100 * NS_PER_MS)

static struct member_requests requests;
static struct table_watch *watch;
static uint64_t now_ns;
static uint64_t silent; /* member that is down */

static void begin(uint64_t voters)
{
    world_open(1, voters);
    silent = 0;
    requests = (struct member_requests){.sequence = 70};
    world.node->identity.member_id = 1;
    world.node->member_requests = &requests;
    watch = &world.driver.tables;
    table_watch_init(watch, world.node);
    now_ns = world.driver.raft.now_ns;
}

static void begin_leading(uint64_t voters)
{
    begin(voters);
    raft_campaign(&world.driver.raft);
    drain();
    for (uint64_t id = 2; id <= voters; id++)
        give(RAFT_MESSAGE_PRE_VOTE_RESPONSE, id, 2, 0);
    for (uint64_t id = 2; id <= voters; id++)
        give(RAFT_MESSAGE_VOTE_RESPONSE, id, 2, 0);
    cr_assert_eq(world.driver.raft.role, RAFT_ROLE_LEADER);
}

/* The others answer, and do nothing else. */
static void others_answer(void)
{
    struct raft *raft = &world.driver.raft;
    for (uint64_t id = 2; id <= raft->config.voters.count && raft->role == RAFT_ROLE_LEADER; id++)
        if (id != silent)
            give(RAFT_MESSAGE_APPEND_RESPONSE, id, raft->term, raft->log.last_index);
}

/* That much time passes. `installs` grows by `step` in every look. */
static void pass(struct table_signs *signs, uint64_t for_ns, uint64_t step)
{
    for (uint64_t end_ns = now_ns + for_ns; now_ns < end_ns; signs->installs += step) {
        now_ns += STEP_NS;
        cr_assert_eq(raft_tick(&world.driver.raft, now_ns), 0);
        drain();
        others_answer();
        table_watch_look(watch, signs, now_ns);
        drain();
    }
}

/* ---- leading -------------------------------------------------------------------------------- */

Test(table_watch, tables_are_stuck_when_they_are_full_and_do_not_get_on)
{
    static const struct {
        const char *why;
        struct table_signs signs;
        uint64_t for_ns, installs;
        bool want;
    } cases[] = {
        {"full, and work fails", {.pressure = 100, .failure = -ENOSPC}, 2 * NS_PER_S, 0, true},
        {"a rotten block", {.pressure = 100, .failure = ERR_CORRUPT}, 2 * NS_PER_S, 0, true},
        {"not for long", {.pressure = 100, .failure = -ENOSPC}, NS_PER_S / 2, 0, false},
        {"not full yet", {.pressure = 99, .failure = -ENOSPC}, 90 * NS_PER_S, 0, false},
        {"something gets done", {.pressure = 100, .failure = -EIO}, 90 * NS_PER_S, 1, false},
        {"a large merge", {.pressure = 100}, 50 * NS_PER_S, 0, false},
        {"a merge that does not end", {.pressure = 100}, 61 * NS_PER_S, 0, true},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct table_signs signs = cases[i].signs;
        begin_leading(3);
        pass(&signs, cases[i].for_ns, cases[i].installs);
        cr_expect_eq(watch->moves > 0, cases[i].want, "%s", cases[i].why);
        cr_expect_eq(world.driver.raft.transferee != 0, cases[i].want, "%s", cases[i].why);
        world_close();
    }
}

Test(table_watch, a_pause_of_the_whole_process_does_not_count)
{
    struct table_signs signs = {.pressure = 100, .failure = -ENOSPC};
    begin_leading(3);
    others_answer();
    for (int i = 0; i < 3; i++, now_ns += 20 * NS_PER_S)
        table_watch_look(watch, &signs, now_ns);
    cr_expect_eq(watch->moves, 0);
    world_close();
}

Test(table_watch, each_voter_is_offered_the_leadership_and_without_a_taker_it_stays)
{
    struct table_signs signs = {.pressure = 100, .failure = ERR_CORRUPT};
    const struct raft *raft = &world.driver.raft;
    begin_leading(4);
    uint64_t offered[4] = {0}, last = raft->log.last_index;
    for (int i = 0; i < 60; i++) {
        pass(&signs, STEP_NS, 0);
        if (raft->transferee != 0)
            offered[raft->transferee - 1]++;
    }
    cr_expect_eq(watch->moves, 3);
    for (uint64_t id = 2; id <= 4; id++)
        cr_expect_gt(offered[id - 1], 0, "member %lu", id);
    cr_expect_eq(raft->role, RAFT_ROLE_LEADER);
    cr_expect_eq(raft->log.last_index, last, "it is not space that is missing: no alarm");
    signs.installs++;
    pass(&signs, 6 * TIMEOUT_NS, 0);
    cr_expect_eq(watch->moves, 3, "one flush of many was done: nobody else is asked again");
    pass(&signs, TABLE_WATCH_RETRY_NS, 0);
    cr_expect_gt(watch->moves, 3, "once more, later");
    world_close();
}

/* As after a pause of the process, when consensus forgot whom it heard. */
Test(table_watch, who_is_silent_is_waited_for)
{
    struct table_signs signs = {.pressure = 100, .failure = -ENOSPC};
    begin_leading(3);
    const struct raft *raft = &world.driver.raft;
    uint64_t last = raft->log.last_index;
    pass(&signs, TIMEOUT_NS - 2 * STEP_NS, 0);
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        raft->peers[i]->recent_active = false;
        raft->peers[i]->lease_sent_ns = 0;
    }
    for (int i = 0; i < 3; i++, now_ns += STEP_NS)
        table_watch_look(watch, &signs, now_ns + STEP_NS);
    cr_expect_eq(watch->moves, 0);
    cr_expect_eq(raft->log.last_index, last, "no alarm");
    others_answer();
    pass(&signs, STEP_NS, 0);
    cr_expect_eq(watch->moves, 1, "they answer again");
    world_close();
}

Test(table_watch, who_is_down_is_not_waited_for_for_ever)
{
    struct table_signs signs = {.pressure = 100, .failure = -ENOSPC};
    begin_leading(3);
    const struct raft *raft = &world.driver.raft;
    uint64_t last = raft->log.last_index;
    silent = 2;
    pass(&signs, 6 * TIMEOUT_NS, 0);
    cr_expect_eq(watch->moves, 1, "to the other one");
    cr_expect_gt(raft->log.last_index, last, "an alarm");
    world_close();
}

Test(table_watch, a_leader_that_lost_its_leadership_begins_anew)
{
    struct table_signs signs = {.pressure = 100, .failure = ERR_CORRUPT};
    const struct raft *raft = &world.driver.raft;
    begin_leading(3);
    pass(&signs, 2 * NS_PER_S, 0);
    cr_expect_neq(raft->transferee, 0);
    give(RAFT_MESSAGE_HEARTBEAT, raft->transferee, raft->term + 1, 0); /* it took over */
    pass(&signs, STEP_NS, 0);
    cr_expect_eq(watch->offered.count, 0);
    world_close();
}

/* ---- the alarm ------------------------------------------------------------------------------ */

static bool is_alarm(const struct entry *entry)
{
    struct request request;
    struct alarm_request alarm;
    return entry != NULL && entry->payload_bytes > 0 &&
           request_decode(&request, bytes_make(entry->payload, entry->payload_bytes)) == 0 &&
           request.kind == REQUEST_ALARM && request.origin == 1 && request.sequence > 70 &&
           request.stream == REQUEST_STREAM_MEMBERS && kv_decode_alarm(request.body, &alarm) == 0 &&
           alarm.action == ALARM_ACTIVATE && alarm.kind == ALARM_NO_SPACE && alarm.member == 1;
}

static bool is_space_missing(int failure)
{
    return failure == -ENOSPC || failure == -EDQUOT || failure == -EFBIG;
}

static void apply_all(uint64_t alarms)
{
    struct raft *raft = &world.driver.raft;
    atomic_store(&world.node->shared.alarms, alarms);
    raft_applied(raft, raft->log.committed_index);
    drain();
}

Test(table_watch, when_nobody_has_space_the_alarm_is_raised)
{
    static const struct {
        const char *why;
        uint64_t voters;
        int failure;
        uint64_t raised; /* already, as a mask */
        bool want;
    } cases[] = {
        {"a full disk, alone", 1, -ENOSPC, 0, true},
        {"an exhausted quota of the file system", 1, -EDQUOT, 0, true},
        {"too many versions of one key", 1, -EFBIG, 0, true},
        {"nobody else has any", 3, -ENOSPC, 0, true},
        {"it is raised", 3, -ENOSPC, (uint64_t)1 << ALARM_NO_SPACE, false},
        {"another error", 1, -EIO, 0, false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct table_signs signs = {.pressure = 100, .failure = cases[i].failure};
        begin_leading(cases[i].voters);
        const struct raft *raft = &world.driver.raft;
        atomic_store(&world.node->shared.alarms, cases[i].raised);
        uint64_t last = raft->log.last_index;
        for (int look = 0; look < 100 && raft->log.last_index == last; look++)
            pass(&signs, STEP_NS, 0);
        cr_expect_eq(raft->log.last_index, last + cases[i].want, "%s", cases[i].why);
        cr_expect_eq(is_alarm(raft_entry(raft, last + 1)), cases[i].want, "%s", cases[i].why);
        pass(&signs, 10 * NS_PER_S, 0); /* the apply loop may wait for the tables, too */
        cr_expect_eq(raft->log.last_index, last + cases[i].want, "%s", cases[i].why);
        apply_all((uint64_t)1 << ALARM_NO_SPACE);
        pass(&signs, 10 * NS_PER_S, 0);
        cr_expect_eq(raft->log.last_index, last + cases[i].want, "%s", cases[i].why);
        atomic_store(&world.node->shared.alarms, 0); /* disarmed, too early */
        pass(&signs, STEP_NS, 0);
        cr_expect_eq(is_alarm(raft_entry(raft, last + 1 + cases[i].want)),
                     is_space_missing(cases[i].failure), "%s", cases[i].why);
        cr_expect_eq(raft->role, RAFT_ROLE_LEADER, "%s", cases[i].why);
        world_close();
    }
}

/* ---- campaigning ---------------------------------------------------------------------------- */

static bool campaigns(void)
{
    raft_campaign(&world.driver.raft);
    drain();
    return world.driver.raft.role != RAFT_ROLE_FOLLOWER;
}

Test(table_watch, who_is_behind_does_not_campaign_while_others_may)
{
    static const struct {
        const char *why;
        struct table_signs signs;
        uint64_t for_ns;
        bool want;
    } cases[] = {
        {"stuck", {.pressure = 100, .failure = -EIO}, 2 * NS_PER_S, false},
        {"its apply loop waits", {.pressure = 200, .apply_waits = true}, STEP_NS, false},
        {"it is full, and gets on", {.pressure = 100}, 2 * NS_PER_S, true},
        {"all is well", {.pressure = 0}, 2 * NS_PER_S, true},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct table_signs signs = cases[i].signs;
        begin(3);
        for (uint64_t end_ns = now_ns + cases[i].for_ns; now_ns < end_ns;) {
            give(RAFT_MESSAGE_HEARTBEAT, 2, 1, 0);
            pass(&signs, STEP_NS, 0);
        }
        cr_expect_eq(campaigns(), cases[i].want, "%s", cases[i].why);
        world_close();
    }
}

Test(table_watch, an_offer_passes_by_who_is_stuck_as_well)
{
    struct table_signs signs = {.pressure = 200, .apply_waits = true};
    begin(3);
    give(RAFT_MESSAGE_HEARTBEAT, 2, 1, 0);
    pass(&signs, STEP_NS, 0);
    give(RAFT_MESSAGE_TIMEOUT_NOW, 2, 1, 0);
    cr_expect_eq(world.driver.raft.role, RAFT_ROLE_FOLLOWER);
    signs = (struct table_signs){0};
    give(RAFT_MESSAGE_HEARTBEAT, 2, 1, 0);
    pass(&signs, 2 * NS_PER_S, 0); /* it was some time ago */
    give(RAFT_MESSAGE_HEARTBEAT, 2, 5, 0);
    give(RAFT_MESSAGE_TIMEOUT_NOW, 2, 5, 0);
    cr_expect_eq(world.driver.raft.role, RAFT_ROLE_CANDIDATE);
    world_close();
}

Test(table_watch, when_nobody_else_leads_it_campaigns_all_the_same)
{
    struct table_signs signs = {.pressure = 200, .failure = -ENOSPC, .apply_waits = true};
    uint64_t patience_ns = TABLE_WATCH_YIELD_TIMEOUTS * TIMEOUT_NS;
    begin(3);
    give(RAFT_MESSAGE_HEARTBEAT, 2, 1, 0);
    pass(&signs, TIMEOUT_NS, 0);
    raft_forget_leader(&world.driver.raft);
    pass(&signs, patience_ns - STEP_NS * 2, 0);
    cr_expect_not(campaigns());
    pass(&signs, STEP_NS * 3, 0);
    cr_expect(campaigns());
    world_close();
}

Test(table_watch, a_lone_voter_has_nobody_to_leave_it_to)
{
    struct table_signs signs = {.pressure = 200, .failure = -ENOSPC, .apply_waits = true};
    begin_leading(1);
    pass(&signs, 2 * NS_PER_S, 0);
    raft_step_down(&world.driver.raft);
    table_watch_look(watch, &signs, now_ns);
    cr_expect(campaigns());
    world_close();
}
