/* Leadership transfer: bring the target up to date, then tell it to campaign at once. */
#include "consensus/raft_internal.h"

static void send_timeout_now(struct raft *raft, uint64_t to)
{
    invariant(raft->role == RAFT_ROLE_LEADER && raft->transferee == to);
    invariant(to != raft->options.id);
    raft->lease_ended = true; /* it may act on this at any time, also after we gave up waiting */
    raft_send(raft, RAFT_MESSAGE_TIMEOUT_NOW, to);
}

void raft_transfer_abort(struct raft *raft)
{
    if (raft->transferee == 0)
        return;
    invariant(raft->role == RAFT_ROLE_LEADER);
    raft->transferee = 0;
    raft->counters.transfers_aborted++;
    raft_maybe_auto_leave(raft); /* it may have had to wait */
}

/* Called when `peer` acknowledged something. */
void raft_transfer_progress(struct raft *raft, const struct raft_peer *peer)
{
    if (raft->role == RAFT_ROLE_LEADER && raft->transferee == peer->id &&
        peer->match_index == raft->log.last_index)
        send_timeout_now(raft, peer->id);
}

static int transfer_at_leader(struct raft *raft, uint64_t to)
{
    invariant(raft->role == RAFT_ROLE_LEADER);
    struct raft_peer *peer = raft_peer(raft, to);
    if (peer == NULL || peer->learner)
        return ERR_BAD_TRANSFEREE;
    if (to == raft->options.id) { /* staying is how a transfer is called off */
        raft_transfer_abort(raft);
        return 0;
    }
    if (raft->transferee == to)
        return 0; /* under way; asking again does not buy time */
    if (raft->transferee != 0)
        raft->counters.transfers_aborted++;
    raft->transferee = to;
    raft->transfer_start_ns = raft->now_ns;
    /* The lease of reads pauses here (raft_lease_valid), and ends for this term when the target is
     * told: its vote requests pass leases, even long after we gave the transfer up. */
    if (peer->match_index == raft->log.last_index)
        send_timeout_now(raft, to);
    else if (peer->send_due < RAFT_SEND_ALWAYS)
        peer->send_due = RAFT_SEND_ALWAYS;
    return 0;
}

int raft_transfer(struct raft *raft, uint64_t to)
{
    if (!raft_has_room(raft))
        return ERR_FULL;
    if (raft->role == RAFT_ROLE_LEADER) {
        int error = transfer_at_leader(raft, to);
        verify((raft_check(raft), true));
        return error;
    }
    if (raft->leader == 0)
        return ERR_NO_LEADER;
    struct raft_message *message = raft_send(raft, RAFT_MESSAGE_TRANSFER, raft->leader);
    message->term = 0;
    message->context = to;
    return 0;
}

void raft_handle_transfer(struct raft *raft, const struct raft_message *message)
{
    if (raft->role == RAFT_ROLE_LEADER) {
        int refused = transfer_at_leader(raft, message->context);
        (void)refused; /* the asker sees that the leader stays */
    }
}

void raft_handle_timeout_now(struct raft *raft)
{
    if (raft->role != RAFT_ROLE_FOLLOWER)
        return;
    raft->campaign_deferred = raft_log_has_unapplied_config(&raft->log);
    raft_campaign_if_able(raft, RAFT_CAMPAIGN_TRANSFER);
}

/* A leader that removes itself says in one breath that the change is committed and that we shall
 * start: what it asked for is done when the change is applied, unless a leader spoke meanwhile. */
void raft_transfer_resume(struct raft *raft)
{
    if (!raft->campaign_deferred || raft_log_has_unapplied_config(&raft->log) ||
        !raft_has_room(raft))
        return;
    invariant(raft->role == RAFT_ROLE_FOLLOWER);
    raft->campaign_deferred = false;
    raft_campaign_if_able(raft, RAFT_CAMPAIGN_TRANSFER);
}
