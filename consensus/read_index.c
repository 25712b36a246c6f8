/*
 * Linearizable reads without log entries.
 *
 * A read is safe at the commit index of the moment when it was asked, provided that the node was
 * still the leader then: a round of heartbeats that a quorum answers afterwards proves it. Rounds
 * are told apart by a position that the leader makes (reads queued in this leadership): never by
 * what a client sent, which may come twice and be confirmed by answers to the earlier one.
 */
#include "consensus/raft_internal.h"

bool raft_own_term_committed(const struct raft *raft)
{
    if (planted_bug(read_before_own_term))
        return raft->role == RAFT_ROLE_LEADER;
    return raft->role == RAFT_ROLE_LEADER && raft->log.committed_index >= raft->term_start_index;
}

static bool is_alone(const struct raft_id_set *voters, uint64_t id)
{
    return voters->count == 1 && raft_id_set_has(voters, id);
}

/* Whoever may commit alone may read alone. The outgoing majority counts while there is one. With a
 * learner the answer is no: it may apply, and acknowledge to its own clients, what is committed
 * here and not applied yet. */
bool raft_reads_are_local(const struct raft *raft)
{
    const struct raft_config *config = &raft->config;
    uint64_t id = raft->options.id;
    return raft_own_term_committed(raft) && raft->log.applied_index >= raft->term_start_index &&
           is_alone(&config->voters, id) && config->learners.count == 0 &&
           (config->outgoing.count == 0 || is_alone(&config->outgoing, id));
}

static struct raft_read_pending *read_at(struct raft *raft, uint32_t at)
{
    invariant(at < raft->reads_count);
    return &raft->reads[(raft->reads_start + at) % raft->options.reads_max];
}

/* The server fails these and asks again with new ids. */
void raft_reads_reset(struct raft *raft)
{
    raft->reads_start = 0;
    raft->reads_count = 0;
    raft->read_position = 0;
    raft->read_confirmed_position = 0;
    raft->read_round_due = false;
    for (uint32_t i = 0; i < raft->peer_count; i++)
        raft->peers[i]->read_position = 0;
}

/* Joint quorum of the rounds that peers confirmed; this node confirms each at once. */
void raft_reads_confirm(struct raft *raft)
{
    uint64_t incoming[RAFT_MEMBERS_MAX];
    uint64_t outgoing[RAFT_MEMBERS_MAX];
    uint32_t incoming_count = 0;
    uint32_t outgoing_count = 0;
    if (!raft_own_term_committed(raft))
        return;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct raft_peer *peer = raft->peers[i];
        uint64_t position =
            peer->id == raft->options.id ? raft->read_position : peer->read_position;
        if (peer->voter)
            incoming[incoming_count++] = position;
        if (peer->outgoing)
            outgoing[outgoing_count++] = position;
    }
    uint64_t confirmed = quorum_commit_joint(incoming, incoming_count, outgoing, outgoing_count);
    confirmed = u64_min(confirmed, raft->read_position);
    raft->read_confirmed_position = u64_max(raft->read_confirmed_position, confirmed);
}

/* The first entry of this term is committed: the commit index is now the truth. */
void raft_reads_unpark(struct raft *raft)
{
    invariant(raft_own_term_committed(raft));
    for (uint32_t i = 0; i < raft->reads_count; i++) {
        struct raft_read_pending *read = read_at(raft, i);
        invariant(read->index == 0);
        read->index = raft->log.committed_index;
    }
    raft->read_round_due = raft->reads_count > 0;
}

static int queue_read(struct raft *raft, uint64_t from, uint64_t id)
{
    invariant(raft->role == RAFT_ROLE_LEADER);
    invariant(raft->reads_count <= raft->options.reads_max);
    invariant(raft->read_confirmed_position <= raft->read_position);
    if (raft->reads_count == raft->options.reads_max)
        return ERR_FULL;
    bool known = raft_own_term_committed(raft);
    raft->reads_count++;
    raft->read_position++;
    *read_at(raft, raft->reads_count - 1) = (struct raft_read_pending){
        .from = from,
        .id = id,
        .index = known ? raft->log.committed_index : 0,
        .position = raft->read_position,
    };
    if (!known)
        return 0;
    if (raft_lease_valid(raft, raft->now_ns) || planted_bug(read_by_deposed_leader))
        raft->read_confirmed_position = raft->read_position;
    else
        raft->read_round_due = true;
    return 0;
}

int raft_read_index(struct raft *raft, uint64_t id)
{
    if (raft->role == RAFT_ROLE_LEADER)
        return queue_read(raft, raft->options.id, id);
    if (raft->leader == 0)
        return ERR_NO_LEADER;
    if (!raft_has_room(raft))
        return ERR_FULL;
    struct raft_message *message = raft_send(raft, RAFT_MESSAGE_READ_INDEX, raft->leader);
    message->term = 0;
    message->context = id;
    return 0;
}

void raft_handle_read_index(struct raft *raft, const struct raft_message *message)
{
    if (raft->role != RAFT_ROLE_LEADER)
        return; /* the asker repeats it, to whoever leads by then */
    int queued = queue_read(raft, message->from, message->context);
    (void)queued; /* full: as if it had been lost */
}

void raft_handle_read_response(struct raft *raft, const struct raft_message *message)
{
    if (raft->role != RAFT_ROLE_FOLLOWER || raft->reads_ready_count == raft->options.reads_max)
        return;
    raft->reads_ready[raft->reads_ready_count++] =
        (struct raft_read){.id = message->context, .index = message->index};
}

/* Heartbeats for new rounds, and answers to confirmed reads. True when something is left. */
bool raft_send_read_answers(struct raft *raft)
{
    if (raft->read_round_due) {
        raft_reads_confirm(raft); /* a single voter is its own quorum */
        if (raft->read_confirmed_position < raft->read_position) {
            if (raft->message_count + RAFT_MEMBERS_MAX > raft->options.messages_max)
                return true;
            raft_broadcast_heartbeat(raft);
        }
        raft->read_round_due = false;
    }
    while (raft->reads_count > 0) {
        struct raft_read_pending *read = read_at(raft, 0);
        invariant(read->position > 0 && read->position <= raft->read_position);
        invariant(read->index <= raft->log.committed_index);
        if (read->index == 0 || read->position > raft->read_confirmed_position)
            return false;
        bool own = read->from == raft->options.id;
        if (own ? raft->reads_ready_count == raft->options.reads_max
                : raft->message_count == raft->options.messages_max)
            return true;
        if (own) {
            raft->reads_ready[raft->reads_ready_count++] =
                (struct raft_read){.id = read->id, .index = read->index};
        } else {
            struct raft_message *answer =
                raft_send(raft, RAFT_MESSAGE_READ_INDEX_RESPONSE, read->from);
            answer->index = read->index;
            answer->context = read->id;
        }
        raft->reads_start = (raft->reads_start + 1) % raft->options.reads_max;
        raft->reads_count--;
    }
    return false;
}

/*
 * The lease: a quorum answered heartbeats sent at or after some moment, and no voter that heard one
 * grants a vote for an election timeout after that. Counted from the sending, shortened by what
 * clocks may differ in rate and by our own stalls. Callers check it after the answer is built.
 */
bool raft_lease_valid(const struct raft *raft, uint64_t now_ns)
{
    if (raft->options.read_mode != RAFT_READ_LEASE || raft->role != RAFT_ROLE_LEADER ||
        raft->transferee != 0 || (raft->lease_ended && !planted_bug(lease_outlives_transfer)))
        return false;
    uint64_t incoming[RAFT_MEMBERS_MAX];
    uint64_t outgoing[RAFT_MEMBERS_MAX];
    uint32_t incoming_count = 0;
    uint32_t outgoing_count = 0;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct raft_peer *peer = raft->peers[i];
        uint64_t sent_ns = peer->id == raft->options.id ? now_ns : peer->lease_sent_ns;
        if (peer->voter)
            incoming[incoming_count++] = sent_ns;
        if (peer->outgoing)
            outgoing[outgoing_count++] = sent_ns;
    }
    uint64_t heard_ns = quorum_commit_joint(incoming, incoming_count, outgoing, outgoing_count);
    invariant(now_ns >= raft->now_ns && heard_ns <= now_ns);
    uint64_t timeout_ns = raft->options.election_timeout_ns;
    uint64_t length_ns = timeout_ns - timeout_ns * raft->options.lease_drift_percent / 100;
    if (heard_ns == 0 || length_ns <= raft->options.lease_stall_ns)
        return false;
    return now_ns < heard_ns + (length_ns - raft->options.lease_stall_ns);
}
