#include "server/failover.h"

#include "core/logger.h"
#include "server/node_private.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"

#define CAMPAIGN_WAIT_NS_MAX (20 * NS_PER_MS)
#define FAREWELL_NS          (1 * NS_PER_S)

static void on_campaign(struct timer *timer)
{
    struct failover *failover = container_of(timer, struct failover, campaign);
    struct raft_driver *driver = failover->node->raft;
    raft_driver_see_time(driver);
    if (driver->raft.leader == 0 && driver->raft.role == RAFT_ROLE_FOLLOWER &&
        driver->raft.term == failover->deposed_term &&
        !peers_any_connection(failover->node->peers->peers, failover->deposed))
        raft_campaign(&driver->raft);
}

static void on_farewell(struct timer *timer)
{
    struct failover *failover = container_of(timer, struct failover, farewell);
    log_info("this member was removed from the cluster; stopping");
    node_request_stop(failover->node);
}

void failover_init(struct failover *failover, struct node *node, struct core *core)
{
    *failover = (struct failover){.node = node, .core = core};
    timer_init(&failover->campaign, on_campaign);
    timer_init(&failover->farewell, on_farewell);
}

void failover_stop(struct failover *failover)
{
    timer_stop(core_timers(failover->core), &failover->campaign);
    timer_stop(core_timers(failover->core), &failover->farewell);
}

void failover_connection_lost(struct failover *failover, uint64_t id)
{
    struct raft_driver *driver = failover->node->raft;
    if (driver->raft.leader != id || driver->raft.role != RAFT_ROLE_FOLLOWER ||
        peers_any_connection(failover->node->peers->peers, id))
        return;
    raft_forget_leader(&driver->raft);
    failover->leaders_lost++;
    failover->deposed = id;
    failover->deposed_term = driver->raft.term;
    uint64_t wait_ns = reactor_random(core_reactor(failover->core)) % CAMPAIGN_WAIT_NS_MAX;
    timer_start(core_timers(failover->core), &failover->campaign,
                core_now_ns(failover->core) + wait_ns);
    log_warn("every connection of the leader ended", LOG_HEX("leader", id));
}

void failover_watch_disk(struct failover *failover, uint64_t oldest_ns)
{
    struct raft_driver *driver = failover->node->raft;
    uint64_t now_ns = core_now_ns(failover->core);
    if (driver->raft.role != RAFT_ROLE_LEADER || oldest_ns == 0 ||
        driver->raft.config.voters.count < 2 ||
        now_ns - oldest_ns <= driver->raft.options.election_timeout_ns)
        return;
    failover->watchdog_trips++;
    log_error("a log write hangs; stepping down", LOG_U64("ms", (now_ns - oldest_ns) / NS_PER_MS));
    raft_step_down(&driver->raft);
}

void failover_removed(struct failover *failover)
{
    if (!timer_is_armed(&failover->farewell))
        timer_start(core_timers(failover->core), &failover->farewell,
                    core_now_ns(failover->core) + FAREWELL_NS);
}
