/*
 * Membership: which changes may be proposed, and what happens when one is applied.
 *
 * A configuration takes effect when its entry is applied, on every node. That is safe together with
 * three rules kept elsewhere: one change at a time (the gate here), no campaign while a committed
 * change waits to be applied (election.c), and the caller switches before it acknowledges
 * the batch.
 */
#include "consensus/config_change.h"
#include "consensus/raft_internal.h"

static struct raft_peer *peer_slot_free(struct raft *raft)
{
    for (uint32_t i = 0; i < RAFT_MEMBERS_MAX; i++)
        if (raft->peer_slots[i].id == 0)
            return &raft->peer_slots[i];
    return NULL;
}

static struct raft_peer *peer_create(struct raft *raft, uint64_t id)
{
    struct raft_peer *peer = peer_slot_free(raft);
    invariant(peer != NULL); /* peers that left were freed first */
    peer->id = id;
    peer->vote = QUORUM_MISSING;
    if (id == raft->options.id && raft->role == RAFT_ROLE_LEADER)
        progress_reset(peer, raft->log.durable_index, raft->log.last_index + 1);
    else
        progress_reset(peer, 0, u64_max(raft->log.last_index, 1));
    peer->recent_active = true; /* or adding it could depose the leader at the next check */
    return peer;
}

void raft_switch_config(struct raft *raft, const struct raft_config *config, uint64_t index)
{
    struct raft_id_set members = raft_config_members(config);
    invariant(members.count <= RAFT_MEMBERS_MAX);
    invariant(index >= raft->config_index);
    struct raft_peer *kept[RAFT_MEMBERS_MAX] = {NULL};
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        struct raft_peer *peer = raft->peers[i];
        if (!raft_id_set_has(&members, peer->id))
            peer->id = 0;
    }
    for (uint32_t i = 0; i < members.count; i++) {
        for (uint32_t j = 0; j < raft->peer_count; j++)
            if (raft->peers[j]->id == members.ids[i])
                kept[i] = raft->peers[j];
        if (kept[i] == NULL)
            kept[i] = peer_create(raft, members.ids[i]);
        kept[i]->voter = raft_id_set_has(&config->voters, members.ids[i]);
        kept[i]->outgoing = raft_id_set_has(&config->outgoing, members.ids[i]);
        kept[i]->learner = raft_id_set_has(&config->learners, members.ids[i]);
    }
    memcpy(raft->peers, kept, sizeof(kept));
    raft->peer_count = members.count;
    raft->config = *config;
    raft->config_index = index;
}

/*
 * What a log tells at a start about the changes in it that the state machine does not contain. The
 * stored commit index may lag behind both.
 *
 * A change is proposed only when the one before it is applied at its leader. So every change in a
 * log but the newest is committed.
 *
 * Nobody but a lone voter can be elected, or commit anything, before the first change that follows
 * its configuration: its own disk is the quorum. So that change, if it is here, is committed too.
 *
 * A committed change that is not applied stops campaigns (election.c): no node ever asks for votes
 * in a configuration that is two behind, and none takes itself for a lone voter that no longer is.
 */
void raft_recover_config(struct raft *raft, uint64_t damaged_index)
{
    struct raft_log *log = &raft->log;
    uint64_t first = 0, before = 0, newest = 0;
    for (uint64_t index = log->applied_index + 1; index <= log->last_index; index++) {
        struct entry entry;
        if (index == damaged_index || raft_log_lookup(log, index, &entry) != 0) {
            newest = log->last_index; /* unknown: a scan may find out later */
            break;
        }
        if (entry.type != ENTRY_CONFIG_CHANGE)
            continue;
        first = first == 0 ? index : first;
        before = newest;
        newest = index;
    }
    log->config_index = newest;
    if (!raft->options.skip_config_validation)
        raft_log_commit_to(log, before);
    if (raft_is_sole_voter(raft)) {
        sometimes(first > log->committed_index, "raft: a lone voter starts before a change");
        raft_log_commit_to(log, first);
    }
}

/* May this configuration change be appended now? (dissertation 4.1: one at a time) */
int raft_config_gate(struct raft *raft, const struct entry *entry)
{
    struct raft_config_change change;
    struct raft_config next;
    int error =
        raft_config_change_decode(bytes_make(entry->payload, entry->payload_bytes), &change);
    if (error != 0)
        return error;
    if (raft->options.skip_config_validation)
        return 0;
    if (raft->pending_config_index > raft->log.applied_index && !planted_bug(two_changes))
        return ERR_DROPPED;
    return config_change_apply(&raft->config, &change, &next);
}

/* A leader that is no longer a voter stops leading; its successor is told to start at once. */
static void leader_left(struct raft *raft)
{
    invariant(raft->role == RAFT_ROLE_LEADER);
    invariant(!raft_id_set_has(&raft->config.voters, raft->options.id));
    sometimes(true, "raft: a leader applies its own removal");
    struct raft_peer *best = NULL;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        struct raft_peer *peer = raft->peers[i];
        if (peer->voter && peer->id != raft->options.id && peer->recent_active &&
            (best == NULL || peer->match_index > best->match_index))
            best = peer;
    }
    if (best != NULL && best->match_index >= raft->config_index &&
        raft->message_count < raft->options.messages_max)
        raft_send(raft, RAFT_MESSAGE_TIMEOUT_NOW, best->id);
    raft_become_follower(raft, raft->term, 0);
}

static void leader_switched(struct raft *raft)
{
    const struct raft_peer *own = raft_peer_find(raft, raft->options.id);
    bool left = own == NULL || own->learner;
    if (left && raft->options.step_down_on_removal) {
        leader_left(raft);
        return;
    }
    if (raft->config.voters.count == 0)
        return;
    if (!raft_maybe_commit(raft)) /* a smaller quorum may have it already */
        raft_broadcast_due(raft, RAFT_SEND_ENTRIES);
    raft_reads_confirm(raft);
    if (raft->transferee != 0) {
        const struct raft_peer *target = raft_peer_find(raft, raft->transferee);
        if (target == NULL || !target->voter)
            raft_transfer_abort(raft);
    }
}

int raft_apply_config(struct raft *raft, uint64_t index, const struct raft_config_change *change)
{
    if (index <= raft->config_index)
        return planted_bug(change_below_snapshot)
                   ? 0
                   : ERR_COMPACTED; /* a snapshot was faster: raft->config is of a later index */
    if (change == NULL)
        return 0;
    invariant(index <= raft->log.applying_index);
    invariant(index > raft->log.applied_index); /* before the batch is acknowledged */
    struct raft_config next;
    int error = config_change_apply(&raft->config, change, &next);
    if (error != 0)
        return error;
    raft_switch_config(raft, &next, index);
    if (raft->role == RAFT_ROLE_LEADER)
        leader_switched(raft);
    verify((raft_check(raft), true));
    return 0;
}

/* The leader ends an automatic joint phase once the change that began it is applied. */
void raft_maybe_auto_leave(struct raft *raft)
{
    if (raft->role != RAFT_ROLE_LEADER || !raft->config.auto_leave || raft->transferee != 0 ||
        raft->pending_config_index > raft->log.applied_index)
        return;
    if (raft_log_room(&raft->log, 1, true) == 0)
        return;                                 /* tried again with the next applied batch */
    invariant(raft->config.outgoing.count > 0); /* C3 */
    raft_append_own(raft, &(struct entry){.type = ENTRY_CONFIG_CHANGE});
    raft->pending_config_index = raft->log.last_index;
    raft_broadcast_due(raft, RAFT_SEND_ALWAYS);
}
