#include "server/failover.h"

#include "core/logger.h"
#include "server/leadership.h"
#include "server/node_private.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"

#define FAREWELL_NS (1 * NS_PER_S)

/* Waits before a campaign: FIRST, then STEP for each survivor before this one, and up to SPREAD by
 * chance. FIRST is what it takes the others to notice, STEP an election with two disk writes.
 * Further attempts come after RETRY and up to as much again, twice that, and so on. */
#define FIRST_NS  (2 * NS_PER_MS)
#define STEP_NS   (10 * NS_PER_MS)
#define SPREAD_NS (4 * NS_PER_MS)
#define RETRY_NS  (25 * NS_PER_MS)

/* Whom we gave our vote may take this long to win, before we try ourselves. */
#define VOTE_NS (50 * NS_PER_MS)

static uint64_t random_ns(const struct failover *failover, uint64_t bound_ns)
{
    return reactor_random(core_reactor(failover->core)) % bound_ns;
}

/* How many voters come before this one when that leader is gone. */
static uint64_t rank(const struct raft *raft, uint64_t deposed)
{
    const struct raft_id_set *voters = &raft->config.voters;
    uint64_t before = 0;
    for (uint32_t i = 0; i < voters->count; i++)
        before += voters->ids[i] != deposed && voters->ids[i] < raft->options.id;
    return before;
}

static bool is_over(const struct failover *failover)
{
    const struct raft *raft = &failover->node->raft->raft;
    return raft->leader != 0 || raft->role == RAFT_ROLE_LEADER ||
           core_now_ns(failover->core) >= failover->give_up_ns ||
           peers_any_connection(failover->node->peers->peers, failover->deposed);
}

/* Who has not answered cannot: a round that is not won by now is split. */
static bool round_is_split(const struct raft *raft, const struct failover *failover)
{
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct raft_peer *peer = raft->peers[i];
        if ((peer->voter || peer->outgoing) && peer->vote == QUORUM_MISSING &&
            (peer->id == raft->options.id ||
             peers_any_connection(failover->node->peers->peers, peer->id)))
            return false;
    }
    return true;
}

/* Its own round goes on, or another has our vote and may be about to win. */
static bool others_turn(const struct raft *raft, const struct failover *failover)
{
    if (raft->role == RAFT_ROLE_CANDIDATE)
        return !round_is_split(raft, failover);
    bool voted =
        raft->term != failover->deposed_term && raft->vote != 0 && raft->vote != raft->options.id;
    return voted && raft->now_ns - raft->election_reset_ns < VOTE_NS;
}

static void on_campaign(struct timer *timer)
{
    struct failover *failover = container_of(timer, struct failover, campaign);
    struct raft_driver *driver = failover->node->raft;
    raft_driver_see_time(driver);
    if (is_over(failover))
        return;
    if (!others_turn(&driver->raft, failover))
        raft_campaign(&driver->raft);
    uint64_t wait_ns = RETRY_NS << u64_min(failover->attempts++, 16);
    timer_start(core_timers(failover->core), timer,
                core_now_ns(failover->core) + wait_ns + random_ns(failover, wait_ns));
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
    failover->stopped = true;
    timer_stop(core_timers(failover->core), &failover->campaign);
    timer_stop(core_timers(failover->core), &failover->farewell);
}

void failover_connection_lost(struct failover *failover, uint64_t id)
{
    struct raft_driver *driver = failover->node->raft;
    const struct raft *raft = &driver->raft;
    if (failover->stopped || raft->leader != id || raft->role != RAFT_ROLE_FOLLOWER ||
        peers_any_connection(failover->node->peers->peers, id))
        return;
    raft_forget_leader(&driver->raft);
    uint64_t now_ns = core_now_ns(failover->core);
    failover->leaders_lost++;
    failover->deposed = id;
    failover->deposed_term = raft->term;
    failover->attempts = 0;
    failover->give_up_ns = now_ns + raft->options.election_timeout_ns;
    timer_start(core_timers(failover->core), &failover->campaign,
                now_ns + FIRST_NS + STEP_NS * rank(raft, id) + random_ns(failover, SPREAD_NS));
    log_warn("every connection of the leader ended", LOG_HEX("leader", id));
}

/* Some member's disk has what ours cannot write: it leads better. */
static void hand_over(struct failover *failover)
{
    struct raft_driver *driver = failover->node->raft;
    const struct raft_peer *best = leadership_heir(&driver->raft, NULL);
    failover->watch_handing_over = true;
    if (best == NULL || best->match_index != driver->raft.log.last_index ||
        driver->raft.transferee != 0)
        return;
    log_warn("a log write hangs; handing leadership over", LOG_HEX("to", best->id),
             LOG_U64("ms", failover->watch_hung_ns / NS_PER_MS));
    if (raft_transfer(&driver->raft, best->id) == 0)
        failover->watchdog_moves++;
}

void failover_watch_disk(struct failover *failover, uint64_t now_ns, uint64_t oldest_ns)
{
    struct raft_driver *driver = failover->node->raft;
    const struct raft *raft = &driver->raft;
    uint64_t limit_ns = raft->options.election_timeout_ns;
    if (oldest_ns == 0 || oldest_ns != failover->watched_ns) {
        failover->watched_ns = oldest_ns;
        failover->watch_seen_ns = now_ns;
        failover->watch_hung_ns = 0;
        failover->watch_handing_over = false;
        return;
    }
    failover->watch_hung_ns += u64_min(now_ns - failover->watch_seen_ns, FAILOVER_WATCH_NS);
    failover->watch_seen_ns = now_ns;
    if (raft->role != RAFT_ROLE_LEADER || raft->config.voters.count < 2)
        return;
    if (failover->watch_hung_ns > limit_ns / 2 && !failover->watch_handing_over)
        hand_over(failover);
    if (failover->watch_hung_ns <= limit_ns)
        return;
    failover->watchdog_trips++;
    log_error("a log write hangs; stepping down",
              LOG_U64("ms", failover->watch_hung_ns / NS_PER_MS));
    raft_step_down(&driver->raft);
}

void failover_removed(struct failover *failover)
{
    if (!timer_is_armed(&failover->farewell))
        timer_start(core_timers(failover->core), &failover->farewell,
                    core_now_ns(failover->core) + FAREWELL_NS);
}
