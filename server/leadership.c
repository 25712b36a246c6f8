#include "server/leadership.h"

#include "core/fiber.h"
#include "core/logger.h"
#include "server/node_private.h"
#include "server/raft_driver.h"

#define DRAIN_NS_MAX (200 * NS_PER_MS) /* for each heir: requests wait meanwhile */

static uint64_t timeout_ns(const struct node *node)
{
    return node->raft->raft.options.election_timeout_ns;
}

/* Consensus gives up after one election timeout and stays leader. */
static int wait_for_leader(struct node *node, uint64_t target, uint64_t deadline_ns)
{
    struct raft_driver *driver = node->raft;
    while (driver->raft.leader != target) {
        if (core_now_ns(driver->core) > deadline_ns)
            return ERR_TRANSFER_TIMEOUT;
        if (driver->raft.role == RAFT_ROLE_LEADER && driver->raft.transferee != target)
            return ERR_TRANSFER_TIMEOUT;
        fiber_sleep_until(core_now_ns(driver->core) + NS_PER_MS);
    }
    return 0;
}

static int move_within(struct node *node, uint64_t target, uint64_t limit_ns)
{
    struct raft_driver *driver = node->raft;
    raft_driver_see_time(driver);
    int error = raft_transfer(&driver->raft, target);
    if (error < 0)
        return error;
    error = wait_for_leader(node, target, core_now_ns(driver->core) + limit_ns);
    log_info("leadership moved", LOG_HEX("to", target), LOG_ERROR(error));
    return error;
}

int leadership_move(struct node *node, uint64_t target)
{
    const struct raft *raft = &node->raft->raft;
    if (raft->role != RAFT_ROLE_LEADER)
        return ERR_NOT_LEADER;
    if (target == raft->options.id)
        return 0;
    const struct raft_peer *peer = raft_peer_find(raft, target);
    if (peer == NULL || !peer->voter)
        return ERR_BAD_TRANSFEREE;
    return move_within(node, target, 2 * timeout_ns(node));
}

static bool was_heard(const struct raft *raft, const struct raft_peer *peer)
{
    return peer->recent_active ||
           (peer->lease_sent_ns != 0 &&
            raft->now_ns - peer->lease_sent_ns < raft->options.election_timeout_ns);
}

const struct raft_peer *leadership_heir(const struct raft *raft, const struct raft_id_set *but)
{
    const struct raft_peer *best = NULL;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct raft_peer *peer = raft->peers[i];
        if (peer->voter && peer->id != raft->options.id && was_heard(raft, peer) &&
            (but == NULL || !raft_id_set_has(but, peer->id)) &&
            (best == NULL || peer->match_index > best->match_index))
            best = peer;
    }
    return best;
}

void leadership_drain(struct node *node)
{
    const struct raft *raft = &node->raft->raft;
    struct raft_id_set tried = {0};
    const struct raft_peer *heir;
    uint64_t limit_ns = u64_min(timeout_ns(node), DRAIN_NS_MAX);
    if (raft->role != RAFT_ROLE_LEADER)
        return;
    while (raft->role == RAFT_ROLE_LEADER && (heir = leadership_heir(raft, &tried)) != NULL &&
           raft_id_set_add(&tried, heir->id))
        if (move_within(node, heir->id, limit_ns) == 0)
            return;
    if (raft->role == RAFT_ROLE_LEADER && raft->config.voters.count > 1)
        log_warn("stopping as leader: nobody took over");
}
