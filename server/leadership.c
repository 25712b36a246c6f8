#include "server/leadership.h"

#include "core/fiber.h"
#include "core/logger.h"
#include "server/node_private.h"
#include "server/raft_driver.h"

static uint64_t timeout_ns(const struct node *node)
{
    return node->config->election_timeout_ms * NS_PER_MS;
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

int leadership_move(struct node *node, uint64_t target)
{
    struct raft_driver *driver = node->raft;
    const struct raft *raft = &driver->raft;
    if (raft->role != RAFT_ROLE_LEADER)
        return ERR_NOT_LEADER;
    if (target == raft->options.id)
        return 0;
    const struct raft_peer *peer = raft_peer_find(raft, target);
    if (peer == NULL || !peer->voter)
        return ERR_BAD_TRANSFEREE;
    raft_driver_see_time(driver);
    int error = raft_transfer(&driver->raft, target);
    if (error < 0)
        return error;
    error = wait_for_leader(node, target, core_now_ns(driver->core) + 2 * timeout_ns(node));
    log_info("leadership moved", LOG_HEX("to", target), LOG_ERROR(error));
    return error;
}

void leadership_drain(struct node *node)
{
    const struct raft *raft = &node->raft->raft;
    const struct raft_peer *best = NULL;
    if (raft->role != RAFT_ROLE_LEADER)
        return;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct raft_peer *peer = raft->peers[i];
        if (peer->voter && peer->id != raft->options.id && peer->recent_active &&
            (best == NULL || peer->match_index > best->match_index))
            best = peer;
    }
    if (best != NULL && leadership_move(node, best->id) < 0)
        log_warn("stopping as leader: nobody took over");
}
