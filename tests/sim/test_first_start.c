/* Whole members that start for the first time, or on a directory that was emptied, while some paths
 * between them are slow or blocked: who is let in, and who stops. */
#include "tests/sim/small_group.h"

/* Two members that run; the third is down. */
struct trio {
    struct machine *leader, *follower, *third;
};

static struct trio two_of_three(struct group *group)
{
    struct trio trio = {.third = &group->machines[2]};
    boot(&group->machines[0]);
    boot(&group->machines[1]);
    run_until(group, leader_of(group) != NULL);
    trio.leader = leader_of(group);
    trio.follower = &group->machines[trio.leader == &group->machines[0] ? 1 : 0];
    run_until(group, names(trio.leader, trio.follower) && names(trio.follower, trio.follower));
    return trio;
}

/* Was `of` let in by `at`, which does not know its present life? */
static bool trusts(const struct machine *at, const struct machine *of)
{
    const struct admission *admission = &at->node->peers->admission;
    for (uint32_t i = 0; i < PEERS_MAX && of->node->identity.life != 0; i++)
        if (admission->trusted[i].id != 0 && admission->trusted[i].life == of->node->identity.life)
            return true;
    return false;
}

/* ---- tests ---------------------------------------------------------------------------------- */

enum { SEEDS = 5 };

/* Its first greeting to the follower arrives when it was fed by the leader and named long ago. */
Test(first_start, a_greeting_that_is_older_than_the_name)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        struct trio trio = two_of_three(group);
        path(group, trio.third, trio.follower, 2 * NS_PER_S);
        boot(trio.third);
        run_until(group, names(trio.follower, trio.third));
        path(group, trio.third, trio.follower, 0);
        run_for(group, 10 * NS_PER_S);
        cr_expect_eq(node_state(trio.third->node), NODE_READY, "seed %lu", (unsigned long)seed);
        group_destroy(group);
    }
}

/* The same words, but from a directory that was emptied. */
Test(first_start, an_emptied_directory_is_refused)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        struct trio trio = two_of_three(group);
        boot(trio.third);
        run_until(group, names(trio.leader, trio.third) && names(trio.follower, trio.third));
        empty(trio.third);
        kill_machine(trio.leader); /* it would count on what its member had */
        boot(trio.leader);
        run_until(group, leader_of(group) != NULL);
        boot(trio.third);
        run_until(group, stopped(trio.third));
        group_destroy(group);
    }
}

/* One that lags does not know that the member was named from a directory that is gone by now: it
 * lets the new one in, until the log tells it. */
Test(first_start, trust_ends_when_the_log_tells)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        struct trio trio = two_of_three(group);
        path(group, trio.leader, trio.follower, 600 * NS_PER_MS); /* less than an election */
        boot(trio.third);
        run_until(group, names(trio.leader, trio.third));
        uint64_t life = trio.third->node->identity.life;
        empty(trio.third);
        block(group, trio.leader, trio.third, LIMIT_S * NS_PER_S); /* nor does it hear a refusal */
        boot(trio.third);
        run_until(group, trusts(trio.follower, trio.third));
        cr_expect_neq(trio.third->node->identity.life, life);
        cr_expect_not(names(trio.follower, trio.third));
        run_until(group, stopped(trio.third));
        cr_expect(names(trio.follower, trio.third));
        group_destroy(group);
    }
}
