/* Replication: appends out and in, acknowledgements, heartbeats and the commit rule. */
#include "consensus/raft_internal.h"

void raft_append_own(struct raft *raft, const struct entry *entry)
{
    invariant(raft->role == RAFT_ROLE_LEADER);
    struct entry own = *entry;
    own.index = raft->log.last_index + 1;
    own.term = raft->term;
    raft_log_append(&raft->log, &own);
}

void raft_broadcast_due(struct raft *raft, enum raft_send_due due)
{
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        struct raft_peer *peer = raft->peers[i];
        if (peer->id != raft->options.id && peer->send_due < due)
            peer->send_due = due;
    }
}

static void peer_due(struct raft_peer *peer, enum raft_send_due due)
{
    if (peer->send_due < due)
        peer->send_due = due;
}

int raft_propose(struct raft *raft, struct entry *entries, uint32_t entry_count,
                 uint64_t *first_index)
{
    invariant(entry_count > 0);
    int error = 0;
    uint64_t bytes = 0;
    struct raft_log *log = &raft->log;
    if (raft->role != RAFT_ROLE_LEADER)
        return raft->leader == 0 ? ERR_NO_LEADER : ERR_NOT_LEADER;
    if (raft->transferee != 0 || raft_peer_find(raft, raft->options.id) == NULL)
        error = ERR_DROPPED;
    for (uint32_t i = 0; i < entry_count; i++) {
        invariant(entries[i].payload_bytes <= ENTRY_PAYLOAD_BYTES_MAX);
        bytes += entries[i].payload_bytes;
    }
    if (error == 0 && bytes > 0 && log->unapplied_bytes > 0 &&
        log->unapplied_bytes + bytes > raft->options.uncommitted_bytes_max)
        error = ERR_TOO_MANY_REQUESTS;
    if (error == 0 && raft_log_room(log, entry_count, false) < entry_count)
        error = ERR_FULL;
    uint64_t config_index = raft->pending_config_index;
    for (uint32_t i = 0; i < entry_count && error == 0; i++) {
        if (entries[i].type != ENTRY_CONFIG_CHANGE)
            continue;
        error = raft_config_gate(raft, &entries[i]);
        if (error == 0)
            raft->pending_config_index = log->last_index + 1 + i;
    }
    if (error != 0) {
        raft->pending_config_index = config_index;
        raft->counters.proposals_dropped++;
        return error;
    }
    *first_index = log->last_index + 1;
    for (uint32_t i = 0; i < entry_count; i++) {
        entries[i].index = log->last_index + 1;
        entries[i].term = raft->term;
        raft_log_append(log, &entries[i]);
    }
    raft_broadcast_due(raft, RAFT_SEND_ALWAYS);
    verify((raft_check(raft), true));
    return 0;
}

/* ---- the commit rule ---- */

/* Highest index that a majority of each half stores, as far as this leader knows. */
static uint64_t quorum_match(const struct raft *raft)
{
    uint64_t incoming[RAFT_MEMBERS_MAX];
    uint64_t outgoing[RAFT_MEMBERS_MAX];
    uint32_t incoming_count = 0;
    uint32_t outgoing_count = 0;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct raft_peer *peer = raft->peers[i];
        if (peer->voter || (peer->learner && planted_bug(learner_counted)))
            incoming[incoming_count++] = peer->match_index;
        if (peer->outgoing)
            outgoing[outgoing_count++] =
                planted_bug(joint_half_forgotten) ? UINT64_MAX : peer->match_index;
    }
    return quorum_commit_joint(incoming, incoming_count, outgoing, outgoing_count);
}

bool raft_maybe_commit(struct raft *raft)
{
    invariant(raft->role == RAFT_ROLE_LEADER);
    uint64_t index = quorum_match(raft);
    if (index <= raft->log.committed_index || index > raft->log.last_index)
        return false;
    /* Entries of earlier terms commit only beneath one of ours (figure 8 of the paper). */
    if (!raft_log_matches(&raft->log, index, raft->term) && !planted_bug(commit_of_old_term)) {
        sometimes(true, "raft: a quorum has an entry of an earlier term, which does not commit");
        return false;
    }
    bool first = !raft_own_term_committed(raft);
    raft_log_commit_to(&raft->log, index);
    if (first)
        raft_reads_unpark(raft);
    raft_broadcast_due(raft, RAFT_SEND_ALWAYS);
    return true;
}

/* Our own disk has everything up to `index`. */
void raft_own_ack(struct raft *raft, uint64_t index)
{
    struct raft_peer *own = raft_peer(raft, raft->options.id);
    if (raft->role != RAFT_ROLE_LEADER || own == NULL)
        return;
    invariant(index <= raft->log.durable_index);
    if (progress_update(own, raft_log_sound_to(&raft->log, index)))
        raft_maybe_commit(raft);
}

/* Applied entries stay in memory while a peer may still need them, within the retention limit. */
uint64_t raft_release_point(const struct raft *raft)
{
    const struct raft_log *log = &raft->log;
    uint64_t point = u64_min(log->applied_index, log->durable_index);
    uint64_t window_size = log->window_mask + 1;
    bool crowded = log->last_index - log->base_index > window_size - window_size / 4;
    if (raft->role != RAFT_ROLE_LEADER || crowded ||
        log->window_bytes > raft->options.window_bytes_retained)
        return point;
    for (uint32_t i = 0; i < raft->peer_count; i++)
        point = u64_min(point, raft->peers[i]->match_index);
    return point;
}

/* ---- sending ---- */

/* One append from next on. False when nothing was sent. */
static bool send_append(struct raft *raft, struct raft_peer *peer, bool even_if_empty)
{
    struct raft_log *log = &raft->log;
    if (progress_is_paused(peer))
        return false;
    invariant(peer->match_index < peer->next_index);
    invariant(peer->next_index <= log->last_index + 1);
    uint64_t previous = peer->next_index - 1;
    uint64_t previous_term = 0;
    int error = raft_log_term(log, previous, &previous_term);
    if (error == ERR_COMPACTED)
        return raft_send_snapshot(raft, peer);
    if (error != 0)
        return false; /* the caller cannot tell yet; a heartbeat answer tries again */
    uint64_t bytes = 0;
    uint32_t count = 0;
    if (peer->state != RAFT_PEER_REPLICATE || !inflights_full(&peer->inflights))
        count =
            raft_log_fit(log, peer->next_index, log->last_index, raft->options.message_bytes_max,
                         raft->options.message_entries_max, &bytes);
    if (count == 0 && !even_if_empty)
        return false;
    struct raft_message *message = raft_send(raft, RAFT_MESSAGE_APPEND, peer->id);
    message->index = previous;
    message->log_term = previous_term;
    message->entry_count = count;
    message->commit = log->committed_index;
    progress_sent_entries(peer, count, bytes);
    peer->sent_commit_index = log->committed_index;
    return true;
}

/* Sends what is due, as far as the message buffer goes. True when something is left. */
bool raft_send_appends(struct raft *raft)
{
    if (raft->role != RAFT_ROLE_LEADER)
        return false;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        struct raft_peer *peer = raft->peers[i];
        while (peer->send_due != RAFT_SEND_NONE) {
            if (raft->message_count == raft->options.messages_max)
                return true;
            bool sent = send_append(raft, peer, peer->send_due == RAFT_SEND_ALWAYS);
            peer->send_due = sent ? RAFT_SEND_ENTRIES : RAFT_SEND_NONE;
        }
    }
    return false;
}

/* Never the bare commit index: a peer that does not match must not commit what it has there. */
void raft_broadcast_heartbeat(struct raft *raft)
{
    invariant(raft->role == RAFT_ROLE_LEADER);
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        struct raft_peer *peer = raft->peers[i];
        if (peer->id == raft->options.id)
            continue;
        struct raft_message *message = raft_send(raft, RAFT_MESSAGE_HEARTBEAT, peer->id);
        message->commit = planted_bug(heartbeat_tells_all)
                              ? raft->log.committed_index
                              : u64_min(peer->match_index, raft->log.committed_index);
        invariant(message->commit <= raft->log.last_index);
        message->sent_ns = raft->now_ns;
        if (raft->read_position > raft->read_confirmed_position && raft_own_term_committed(raft))
            message->context = raft->read_position;
        peer->sent_commit_index = message->commit;
    }
    raft->read_round_due = false;
}

/* ---- receiving, at a follower ---- */

/* Entries before `kept_first` were not put into the window: their payloads go back. */
void raft_release_unkept(struct raft *raft, const struct raft_message *message, uint64_t kept_first)
{
    if (raft->log.storage.release == NULL || message->kind != RAFT_MESSAGE_APPEND)
        return;
    for (uint32_t i = 0; i < message->entry_count; i++) {
        const struct entry *entry = &message->entries[i];
        bool kept =
            kept_first != 0 && entry->index >= kept_first && entry->index <= raft->log.last_index;
        if (!kept)
            raft->log.storage.release(raft->log.storage.context, entry);
    }
}

static void acknowledge(struct raft *raft, uint64_t to, uint64_t index)
{
    struct raft_message *answer = raft_send(raft, RAFT_MESSAGE_APPEND_RESPONSE, to);
    answer->index = raft_log_sound_to(&raft->log, index);
    answer->after_append = planted_bug(ack_before_sync) ? 0 : RAFT_AFTER_THIS_APPEND;
}

static void reject_append(struct raft *raft, const struct raft_message *message)
{
    raft->counters.appends_rejected++;
    struct raft_message *answer = raft_send(raft, RAFT_MESSAGE_APPEND_RESPONSE, message->from);
    uint64_t from = u64_min(message->index, raft->log.last_index);
    answer->reject = true;
    answer->index = message->index;
    invariant(from >= raft->log.committed_index); /* what is committed always matches */
    answer->hint_index =
        raft_log_find_conflict(&raft->log, from, message->log_term, &answer->log_term);
    answer->after_append = RAFT_AFTER_THIS_APPEND;
}

/* How many of the entries are here already: an old message must not shorten a log that agrees with
 * it. Unclear: the caller cannot tell the term of the next one, so it is no conflict either. */
static uint32_t count_known(const struct raft_log *log, const struct raft_message *message,
                            bool *unclear)
{
    uint32_t known = 0;
    for (; known < message->entry_count && !planted_bug(truncate_without_conflict); known++) {
        const struct entry *entry = &message->entries[known];
        uint64_t term = 0;
        int error = raft_log_term(log, entry->index, &term);
        *unclear = error != 0 && entry->index <= log->last_index;
        if (error != 0 || term != entry->term)
            break;
    }
    return known;
}

void raft_handle_append(struct raft *raft, const struct raft_message *message)
{
    struct raft_log *log = &raft->log;
    if (message->index < log->committed_index) {
        sometimes(message->entry_count > 0, "raft: an append that is long committed");
        acknowledge(raft, message->from, log->committed_index);
        raft_release_unkept(raft, message, 0);
        return;
    }
    if (!raft_log_matches(log, message->index, message->log_term)) {
        /* Behind what did not fit either: a refusal would have it sent again at once. */
        if (message->index <= log->last_index || raft_log_room(log, 1, true) > 0)
            reject_append(raft, message);
        raft_release_unkept(raft, message, 0);
        return;
    }
    bool unclear = false;
    uint32_t known = count_known(log, message, &unclear);
    uint64_t first = message->index + 1 + known;
    uint32_t fresh = unclear ? 0 : message->entry_count - known;
    if (fresh > 0) {
        if (first <= log->last_index) {
            sometimes(true, "raft: an append replaces what another leader left");
            invariant(first > log->committed_index); /* two histories: stop here */
            raft->truncated |= first <= log->issued_index;
            raft_log_truncate(log, first);
        }
        /* What does not fit is not acknowledged; the leader sends it again. */
        uint64_t room = raft_log_room(log, fresh, true);
        sometimes(room < fresh, "raft: an append does not fit into the window");
        fresh = (uint32_t)u64_min(fresh, room);
        for (uint32_t i = 0; i < fresh; i++)
            raft_log_append(log, &message->entries[known + i]);
    }
    uint64_t agreed = message->index + known + fresh;
    invariant(agreed <= log->last_index);
    raft_log_commit_to(log, u64_min(message->commit, agreed));
    acknowledge(raft, message->from, agreed);
    raft_release_unkept(raft, message, fresh > 0 ? first : 0);
}

void raft_handle_heartbeat(struct raft *raft, const struct raft_message *message)
{
    invariant(message->commit <= raft->log.last_index); /* raft_dispatch() looked */
    raft_log_commit_to(&raft->log, message->commit);
    struct raft_message *answer = raft_send(raft, RAFT_MESSAGE_HEARTBEAT_RESPONSE, message->from);
    answer->context = message->context;
    answer->sent_ns = message->sent_ns;
}

/* ---- receiving, at the leader ---- */

static void handle_rejection(struct raft *raft, struct raft_peer *peer,
                             const struct raft_message *message)
{
    uint64_t probe = message->hint_index;
    if (message->log_term > 0) { /* skip our own run of terms that the peer cannot have */
        uint64_t term = 0;
        probe = raft_log_find_conflict(&raft->log, u64_min(probe, raft->log.last_index),
                                       message->log_term, &term);
    }
    if (!progress_decrease(peer, message->index, probe))
        return;
    if (peer->state == RAFT_PEER_REPLICATE)
        progress_become_probe(peer);
    peer_due(peer, RAFT_SEND_ALWAYS);
}

void raft_handle_append_response(struct raft *raft, const struct raft_message *message)
{
    struct raft_log *log = &raft->log;
    struct raft_peer *peer = raft_peer(raft, message->from);
    invariant(peer != NULL && peer->id != raft->options.id);
    peer->recent_active = true;
    if (message->reject) {
        handle_rejection(raft, peer, message);
        return;
    }
    if (message->index > log->last_index)
        return; /* cannot be: no correct peer has more than its leader */
    invariant(peer->match_index <= log->last_index);
    /* An empty probe is answered by what we know. One with entries that brings no news may be an
     * older answer, or they did not fit: to send more now would start a storm. */
    bool probed = peer->state == RAFT_PEER_PROBE && !peer->paused;
    bool news = progress_update(peer, message->index);
    if (!news && !(probed && message->index == peer->match_index))
        return;
    switch (peer->state) {
    case RAFT_PEER_PROBE:
        progress_become_replicate(peer);
        break;
    case RAFT_PEER_SNAPSHOT:
        /* Whatever the snapshot's index: what it has now connects to our log. */
        if (peer->match_index >= log->compacted_index) {
            progress_become_probe(peer);
            progress_become_replicate(peer);
        }
        break;
    case RAFT_PEER_REPLICATE:
        if (!planted_bug(window_leaks))
            inflights_free_to(&peer->inflights, message->index);
        break;
    }
    if (!raft_maybe_commit(raft))
        peer_due(peer, progress_lacks_commit(peer, log->committed_index) ? RAFT_SEND_ALWAYS
                                                                         : RAFT_SEND_ENTRIES);
    raft_transfer_progress(raft, peer);
    raft_log_release_to(log, raft_release_point(raft));
}

void raft_handle_heartbeat_response(struct raft *raft, const struct raft_message *message)
{
    struct raft_peer *peer = raft_peer(raft, message->from);
    invariant(peer != NULL && peer->id != raft->options.id);
    peer->recent_active = true;
    peer->paused = peer->paused &&
                   planted_bug(probe_never_resumes); /* whatever was under way arrived or is lost */
    if (peer->match_index < raft->log.last_index || peer->state == RAFT_PEER_PROBE)
        peer_due(peer, RAFT_SEND_ALWAYS);
    if (message->sent_ns <= raft->now_ns)
        peer->lease_sent_ns = u64_max(peer->lease_sent_ns, message->sent_ns);
    if (message->context > peer->read_position && message->context <= raft->read_position) {
        peer->read_position = message->context;
        raft_reads_confirm(raft);
    }
}

void raft_report_unreachable(struct raft *raft, uint64_t id)
{
    struct raft_peer *peer = raft_peer(raft, id);
    if (raft->role == RAFT_ROLE_LEADER && peer != NULL && peer->state == RAFT_PEER_REPLICATE &&
        id != raft->options.id)
        progress_become_probe(peer);
    verify((raft_check(raft), true));
}
