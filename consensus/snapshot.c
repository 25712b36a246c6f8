/* Snapshots: when a peer needs entries that are gone, and when this node is such a peer. */
#include "consensus/raft_internal.h"

bool raft_send_snapshot(struct raft *raft, struct raft_peer *peer)
{
    const struct raft_storage *storage = &raft->log.storage;
    invariant(raft->role == RAFT_ROLE_LEADER);
    if (!peer->recent_active || storage->snapshot == NULL)
        return false; /* nobody there to take it */
    struct raft_snapshot snapshot;
    if (storage->snapshot(storage->context, peer->id, &snapshot) != 0)
        return false;
    invariant(snapshot.index >= raft->log.compacted_index);
    invariant(snapshot.index <= raft->log.committed_index);
    peer->snapshot = snapshot;
    progress_become_snapshot(peer, snapshot.index);
    raft->counters.snapshots_sent++;
    raft_send(raft, RAFT_MESSAGE_SNAPSHOT, peer->id)->snapshot = &peer->snapshot;
    return true;
}

void raft_report_snapshot(struct raft *raft, uint64_t id, bool ok)
{
    struct raft_peer *peer = raft_peer(raft, id);
    if (raft->role != RAFT_ROLE_LEADER || peer == NULL || peer->state != RAFT_PEER_SNAPSHOT)
        return;
    if (!ok)
        peer->pending_snapshot_index = 0;
    progress_become_probe(peer);
    /* Either way wait: for its acknowledgement, or for a heartbeat answer before the next try. */
    peer->paused = true;
    verify((raft_check(raft), true));
}

/* Takes the snapshot if it brings us forward. */
static bool restore(struct raft *raft, const struct raft_snapshot *snapshot)
{
    struct raft_log *log = &raft->log;
    const struct raft_config *config = &snapshot->config;
    if (snapshot->index <= log->committed_index)
        return false;
    if (!raft_id_set_has(&config->voters, raft->options.id) &&
        !raft_id_set_has(&config->learners, raft->options.id) &&
        !raft_id_set_has(&config->outgoing, raft->options.id))
        return false; /* not meant for us: we would wait for a leader that never writes */
    if (raft_log_matches(log, snapshot->index, snapshot->term)) {
        sometimes(true, "raft: a snapshot brings what the log already has");
        raft_log_commit_to(log, snapshot->index);
        return false; /* the entries are here already */
    }
    sometimes(config->outgoing.count > 0, "raft: a snapshot of a joint phase");
    raft->truncated |= log->last_index > log->committed_index;
    raft_log_restore(log, snapshot);
    raft->snapshot_install = *snapshot;
    raft->snapshot_pending = true;
    raft->snapshot_sequence = 0;
    raft->counters.snapshots_received++;
    raft_switch_config(raft, config, snapshot->index);
    return true;
}

void raft_handle_snapshot(struct raft *raft, const struct raft_message *message)
{
    bool restored = restore(raft, message->snapshot);
    struct raft_message *answer = raft_send(raft, RAFT_MESSAGE_APPEND_RESPONSE, message->from);
    answer->index =
        raft_log_sound_to(&raft->log, restored ? raft->log.last_index : raft->log.committed_index);
    answer->after_append = planted_bug(snapshot_ack_before_sync) ? 0 : RAFT_AFTER_THIS_APPEND;
}
