#include "consensus/progress.h"

#include "core/invariant.h"

static void progress_enter(struct raft_peer *peer, enum raft_peer_state state)
{
    peer->paused = false;
    peer->pending_snapshot_index = 0;
    peer->state = state;
    inflights_reset(&peer->inflights);
}

void progress_reset(struct raft_peer *peer, uint64_t match_index, uint64_t next_index)
{
    invariant(match_index < next_index);
    progress_enter(peer, RAFT_PEER_PROBE);
    peer->match_index = match_index;
    peer->next_index = next_index;
    peer->sent_commit_index = 0;
    peer->send_due = RAFT_SEND_NONE;
    peer->recent_active = false;
    peer->read_position = 0;
    peer->lease_sent_ns = 0;
}

void progress_become_probe(struct raft_peer *peer)
{
    uint64_t next = peer->match_index + 1;
    if (peer->state == RAFT_PEER_SNAPSHOT)
        next = u64_max(next, peer->pending_snapshot_index + 1);
    progress_enter(peer, RAFT_PEER_PROBE);
    peer->next_index = next;
    peer->sent_commit_index = u64_min(peer->sent_commit_index, next - 1);
}

void progress_become_replicate(struct raft_peer *peer)
{
    progress_enter(peer, RAFT_PEER_REPLICATE);
    peer->next_index = peer->match_index + 1;
    peer->sent_commit_index = u64_min(peer->sent_commit_index, peer->match_index);
}

void progress_become_snapshot(struct raft_peer *peer, uint64_t snapshot_index)
{
    invariant(snapshot_index > 0);
    progress_enter(peer, RAFT_PEER_SNAPSHOT);
    peer->pending_snapshot_index = snapshot_index;
    peer->next_index = u64_max(snapshot_index, peer->match_index) + 1;
    peer->sent_commit_index = snapshot_index;
}

bool progress_is_paused(const struct raft_peer *peer)
{
    switch (peer->state) {
    case RAFT_PEER_PROBE:
    case RAFT_PEER_REPLICATE:
        return peer->paused;
    case RAFT_PEER_SNAPSHOT:
        return true;
    }
    invariant(false);
}

void progress_sent_entries(struct raft_peer *peer, uint32_t entry_count, uint64_t bytes)
{
    invariant(peer->state != RAFT_PEER_SNAPSHOT);
    if (peer->state == RAFT_PEER_PROBE) {
        if (entry_count > 0)
            peer->paused = true;
        return;
    }
    if (entry_count > 0) {
        peer->next_index += entry_count;
        inflights_add(&peer->inflights, peer->next_index - 1, bytes);
    }
    peer->paused = inflights_full(&peer->inflights);
}

bool progress_update(struct raft_peer *peer, uint64_t index)
{
    if (index <= peer->match_index)
        return false;
    peer->match_index = index;
    peer->next_index = u64_max(peer->next_index, index + 1);
    peer->paused = false;
    return true;
}

bool progress_decrease(struct raft_peer *peer, uint64_t rejected, uint64_t match_hint)
{
    if (peer->state == RAFT_PEER_REPLICATE) {
        if (rejected <= peer->match_index || match_hint < peer->match_index)
            return false; /* overtaken by an acknowledgement */
        peer->next_index = peer->match_index + 1;
    } else {
        if (peer->next_index - 1 != rejected)
            return false; /* answers a probe that we do not stand behind any more */
        peer->next_index = u64_max(u64_min(rejected, match_hint + 1), peer->match_index + 1);
        peer->paused = false;
    }
    peer->sent_commit_index = u64_min(peer->sent_commit_index, peer->next_index - 1);
    invariant(peer->next_index > peer->match_index);
    return true;
}

bool progress_lacks_commit(const struct raft_peer *peer, uint64_t commit_index)
{
    return commit_index > peer->sent_commit_index && peer->sent_commit_index < peer->next_index - 1;
}

void progress_check(const struct raft_peer *peer)
{
    invariant(peer->id != 0);
    invariant(peer->match_index < peer->next_index); /* P1 */
    if (peer->state != RAFT_PEER_REPLICATE)
        invariant(peer->inflights.count == 0); /* P2 */
    if (peer->state != RAFT_PEER_SNAPSHOT)
        invariant(peer->pending_snapshot_index == 0); /* P3 */
    if (peer->state == RAFT_PEER_SNAPSHOT)
        invariant(peer->pending_snapshot_index > 0);
    invariant(peer->inflights.count <= peer->inflights.count_max);
}

const char *progress_state_name(enum raft_peer_state state)
{
    switch (state) {
    case RAFT_PEER_PROBE:
        return "probe";
    case RAFT_PEER_REPLICATE:
        return "replicate";
    case RAFT_PEER_SNAPSHOT:
        return "snapshot";
    }
    return "unknown";
}
