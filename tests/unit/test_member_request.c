/* server/member_request.h and member_rules.h: several changes of members that are asked for at the
 * same time, by fibers of a raft core that consists of a queue and a member list. */
#include "tests/unit/lone_core.h"

#include <stdio.h>

#include "core/fiber.h"
#include "server/member_request.h"
#include "server/member_rules.h"
#include "server/node_private.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"

enum { JOBS = 2, DOWN = 4 }; /* member 1 is the one that is asked, 4 is not connected */

static struct core *core;
static struct mesh *mesh;
static struct node *node;
static struct raft_driver *driver;
static struct config config;
static struct peer_role role;

static struct job {
    enum request_kind kind;
    struct member member;
    bool canceled, is_over;
    int error;
} jobs[JOBS];

/* ---- in place of the transport -------------------------------------------------------------- */

uint64_t peers_connected_since_ns(const struct peers *peers maybe_unused, uint64_t id)
{
    return id == DOWN ? 0 : 1;
}

/* ---- the raft core -------------------------------------------------------------------------- */

static void begin(uint32_t voters)
{
    lone_core_create(&mesh, &core);
    node = aligned_alloc(CACHE_LINE_BYTES, u64_round_up(sizeof(*node), CACHE_LINE_BYTES));
    memset(node, 0, sizeof(*node));
    memset(jobs, 0, sizeof(jobs));
    driver = calloc(1, sizeof(*driver));
    driver->core = core;
    pending_init(&driver->pending, core);
    config = (struct config){
        .election_timeout_ms = 1000, .strict_reconfig_check = true, .max_learners = 1};
    node->config = &config;
    node->raft = driver;
    node->peers = &role;
    node->identity.member_id = 1;
    node->member_requests = member_requests_create(node);
    for (uint64_t id = 1; id <= voters; id++) {
        struct member member = {.id = id, .name = "started", .peer = {.count = 1}};
        snprintf(member.peer.url[0].text, sizeof(member.peer.url[0].text), "http://10.0.0.%lu:1",
                 (unsigned long)id);
        cr_assert_eq(member_insert(&node->membership.set, &member), 0);
    }
}

static void end(void)
{
    member_requests_destroy(node->member_requests);
    free(driver);
    free(node);
    lone_core_destroy(mesh, core);
}

static int allowed(void *context)
{
    const struct job *job = context;
    return job->canceled ? ERR_CANCELED : member_rules_check(node, job->kind, &job->member);
}

static void job_run(void *argument)
{
    struct job *job = argument;
    job->error = member_request_if(node, job->kind, &job->member, allowed, job);
    job->is_over = true;
}

static void turn(void)
{
    for (int i = 0; i < 10; i++)
        (void)core_turn(core, false);
}

static void ask(struct job *job, enum request_kind kind, uint64_t id, bool learner)
{
    *job = (struct job){.kind = kind, .member = {.id = id, .learner = learner}};
    job->member.peer.count = 1;
    snprintf(job->member.peer.url[0].text, sizeof(job->member.peer.url[0].text),
             "http://10.0.0.%lu:1", (unsigned long)id);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, job_run, job), 0);
    turn();
}

/* The one request that is in the log, of `job`, is applied. */
static void apply(const struct job *job)
{
    struct proposal *proposal = pending_peek(&driver->pending);
    cr_assert_eq(driver->pending.count, 1, "one at a time");
    cr_assert_eq(proposal->kind, job->kind);
    pending_pop(&driver->pending, proposal);
    cr_assert_eq(pending_match(&driver->pending, proposal->stream, proposal->sequence), proposal);
    if (job->kind == REQUEST_MEMBER_REMOVE)
        member_remove(&node->membership.set, job->member.id);
    else
        cr_assert_eq(member_insert(&node->membership.set, &job->member), 0);
    pending_finish(&driver->pending, proposal, 0);
    turn();
}

/* ---- tests ---------------------------------------------------------------------------------- */

/* Of four with one down, one that works may go. Without it, the next one may not. */
Test(member_request, two_removals_at_the_same_time_do_not_cost_the_quorum)
{
    begin(4);
    ask(&jobs[0], REQUEST_MEMBER_REMOVE, 2, false);
    ask(&jobs[1], REQUEST_MEMBER_REMOVE, 3, false);
    apply(&jobs[0]);
    cr_expect(jobs[0].is_over && jobs[0].error == 0);
    cr_expect(jobs[1].is_over, "it is not proposed");
    cr_expect_eq(jobs[1].error, ERR_UNHEALTHY);
    cr_expect_eq(driver->pending.count, 0);
    end();
}

Test(member_request, learners_added_at_the_same_time_keep_to_their_limit)
{
    begin(1);
    ask(&jobs[0], REQUEST_MEMBER_ADD, 7, true);
    ask(&jobs[1], REQUEST_MEMBER_ADD, 8, true);
    apply(&jobs[0]);
    cr_expect(jobs[0].is_over && jobs[0].error == 0);
    cr_expect_eq(jobs[1].error, ERR_TOO_MANY_LEARNERS);
    cr_expect(jobs[1].is_over);
    end();
}

Test(member_request, whose_client_gave_up_while_it_waited_changes_nothing)
{
    begin(3);
    ask(&jobs[0], REQUEST_MEMBER_ADD, 7, true);
    ask(&jobs[1], REQUEST_MEMBER_REMOVE, 2, false);
    jobs[1].canceled = true;
    apply(&jobs[0]);
    cr_expect(jobs[1].is_over);
    cr_expect_eq(jobs[1].error, ERR_CANCELED);
    cr_expect_eq(driver->pending.count, 0);
    end();
}

/* The timeout counts from the call: what waited for so long is not proposed. */
Test(member_request, what_waited_for_its_turn_beyond_the_timeout_fails)
{
    begin(3);
    ask(&jobs[0], REQUEST_MEMBER_ADD, 7, true);
    config.election_timeout_ms = -UINT64_C(2500); /* 5 s and twice that: no time at all */
    ask(&jobs[1], REQUEST_MEMBER_REMOVE, 2, false);
    apply(&jobs[0]);
    cr_expect(jobs[1].is_over);
    cr_expect_eq(jobs[1].error, ERR_TIMEOUT);
    cr_expect_eq(driver->pending.count, 0);
    end();
}
