#include "consensus/raft.h"

#include "consensus/raft_internal.h"

#define MEMORY_ALIGN_BYTES 16

void raft_options_default(struct raft_options *options)
{
    *options = (struct raft_options){
        .election_timeout_ns = 500 * NS_PER_MS,
        .election_jitter_ns = 250 * NS_PER_MS,
        .heartbeat_ns = 50 * NS_PER_MS,
        .pause_ns_max = 25 * NS_PER_MS,
        .short_retry = true,
        .single_voter_starts = true,
        .pre_vote = true,
        .check_quorum = true,
        .early_pre_vote = true,
        .step_down_on_removal = true,
        .read_mode = RAFT_READ_SAFE,
        .lease_drift_percent = 5,
        .lease_stall_ns = 50 * NS_PER_MS,
        .window_entries = 65536,
        .window_bytes_retained = 16 * MIB,
        .inflight_messages_max = 256,
        .inflight_bytes_max = 8 * MIB,
        .message_bytes_max = 1 * MIB,
        .message_entries_max = 4096,
        .uncommitted_bytes_max = 256 * MIB,
        .apply_bytes_max = 64 * MIB,
        .messages_max = 1024,
        .reads_max = 4096,
    };
}

static size_t memory_part(size_t count, size_t size)
{
    return (size_t)u64_round_up(count * size, MEMORY_ALIGN_BYTES);
}

size_t raft_memory_bytes(const struct raft_options *options)
{
    return memory_part(options->window_entries, sizeof(struct entry)) +
           memory_part(options->messages_max, sizeof(struct raft_message)) +
           memory_part(options->reads_max, sizeof(struct raft_read)) +
           memory_part(options->reads_max, sizeof(struct raft_read_pending)) +
           RAFT_MEMBERS_MAX *
               memory_part(options->inflight_messages_max, sizeof(struct raft_inflight_slot));
}

static void *memory_take(uint8_t **memory, size_t count, size_t size)
{
    void *part = *memory;
    memset(part, 0, count * size);
    *memory += memory_part(count, size);
    return part;
}

static int options_validate(const struct raft_options *options)
{
    if (options->id == 0 || options->id > RAFT_ID_MAX)
        return ERR_CONFIG;
    if (options->heartbeat_ns == 0 || options->election_timeout_ns <= options->heartbeat_ns)
        return ERR_CONFIG;
    if (!u64_is_power_of_two(options->window_entries) || options->window_entries < 8)
        return ERR_CONFIG;
    if (options->inflight_messages_max == 0 || options->message_entries_max == 0 ||
        options->reads_max == 0 || options->messages_max < 2 * RAFT_STEP_MESSAGES_MAX)
        return ERR_CONFIG;
    if (options->read_mode == RAFT_READ_LEASE &&
        (!options->check_quorum || options->lease_drift_percent >= 100))
        return ERR_CONFIG;
    return 0;
}

static int start_validate(const struct raft_start *start)
{
    if (raft_config_validate(&start->config) != 0)
        return ERR_CORRUPT;
    if (start->compacted_index > start->applied_index || start->applied_index > start->last_index)
        return ERR_CORRUPT;
    if (start->hard_state.commit > start->last_index)
        return ERR_CORRUPT; /* what was promised is gone */
    if (start->compacted_term > start->last_term || start->last_term > start->hard_state.term)
        return ERR_CORRUPT;
    if (start->last_index == start->compacted_index && start->last_term != start->compacted_term)
        return ERR_CORRUPT;
    return 0;
}

int raft_init(struct raft *raft, const struct raft_options *options,
              const struct raft_storage *storage, const struct raft_start *start, void *memory,
              uint64_t now_ns)
{
    int error = options_validate(options);
    if (error == 0)
        error = start_validate(start);
    if (error != 0)
        return error;
    invariant(((uintptr_t)memory & (MEMORY_ALIGN_BYTES - 1)) == 0);
    memset(raft, 0, sizeof(*raft));
    raft->options = *options;
    raft->random_state = options->seed;
    raft->now_ns = now_ns;

    uint8_t *at = memory;
    raft_log_init(&raft->log, storage,
                  memory_take(&at, options->window_entries, sizeof(struct entry)),
                  options->window_entries);
    raft->messages = memory_take(&at, options->messages_max, sizeof(struct raft_message));
    raft->reads_ready = memory_take(&at, options->reads_max, sizeof(struct raft_read));
    raft->reads = memory_take(&at, options->reads_max, sizeof(struct raft_read_pending));
    for (uint32_t i = 0; i < RAFT_MEMBERS_MAX; i++)
        inflights_init(
            &raft->peer_slots[i].inflights,
            memory_take(&at, options->inflight_messages_max, sizeof(struct raft_inflight_slot)),
            options->inflight_messages_max, options->inflight_bytes_max);
    invariant(at == (uint8_t *)memory + raft_memory_bytes(options));

    struct raft_log *log = &raft->log;
    log->compacted_index = start->compacted_index;
    log->compacted_term = start->compacted_term;
    log->base_index = log->last_index = start->last_index;
    log->base_term = start->last_term;
    log->issued_index = log->durable_index = start->last_index;
    log->applied_index = log->applying_index = start->applied_index;
    log->committed_index = u64_max(start->hard_state.commit, start->applied_index);

    raft->term = start->hard_state.term;
    raft->vote = planted_bug(vote_forgotten) ? 0 : start->hard_state.vote;
    raft->hard_state_issued = start->hard_state;
    raft->issued_term = raft->term;
    raft_switch_config(raft, &start->config, start->applied_index);
    raft_recover_config(raft, start->damaged_index);
    raft_become_follower(raft, raft->term, 0);
    if (options->read_mode == RAFT_READ_LEASE) /* it may have promised to wait before it stopped */
        raft->vote_hold_until_ns = now_ns + options->election_timeout_ns;
    if (options->single_voter_starts && raft_is_sole_voter(raft))
        raft->election_draw_ns = 0;
    verify((raft_check(raft), true));
    return 0;
}

/* splitmix64: small, seedable, the same everywhere. */
uint64_t raft_random(struct raft *raft, uint64_t bound)
{
    invariant(bound > 0);
    raft->random_state += 0x9e3779b97f4a7c15u;
    uint64_t mixed = raft->random_state;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    mixed ^= mixed >> 31;
    return mixed % bound;
}

bool raft_has_room(const struct raft *raft)
{
    return raft->message_count + RAFT_STEP_MESSAGES_MAX <= raft->options.messages_max;
}

struct raft_message *raft_send(struct raft *raft, enum raft_message_kind kind, uint64_t to)
{
    invariant(raft->message_count < raft->options.messages_max);
    invariant(to != 0 && to != raft->options.id);
    struct raft_message *message = &raft->messages[raft->message_count++];
    *message =
        (struct raft_message){.kind = kind, .from = raft->options.id, .to = to, .term = raft->term};
    return message;
}

struct raft_peer *raft_peer(struct raft *raft, uint64_t id)
{
    for (uint32_t i = 0; i < raft->peer_count; i++)
        if (raft->peers[i]->id == id)
            return raft->peers[i];
    return NULL;
}

const struct raft_peer *raft_peer_find(const struct raft *raft, uint64_t id)
{
    for (uint32_t i = 0; i < raft->peer_count; i++)
        if (raft->peers[i]->id == id)
            return raft->peers[i];
    return NULL;
}

const struct entry *raft_entry(const struct raft *raft, uint64_t index)
{
    return raft_log_entry(&raft->log, index);
}

/* ---- time ---- */

static void raft_tick_leader(struct raft *raft)
{
    uint64_t timeout_ns = raft->options.election_timeout_ns;
    if (raft->transferee != 0 && raft->now_ns - raft->transfer_start_ns >= timeout_ns)
        raft_transfer_abort(raft);
    if (raft->now_ns - raft->quorum_check_ns >= timeout_ns) {
        raft->quorum_check_ns = raft->now_ns;
        if (raft->options.check_quorum && !raft_quorum_active(raft)) {
            raft_become_follower(raft, raft->term, 0);
            return;
        }
        for (uint32_t i = 0; i < raft->peer_count; i++)
            raft->peers[i]->recent_active = raft->peers[i]->id == raft->options.id;
    }
    if (raft->now_ns >= raft->heartbeat_due_ns) {
        raft->heartbeat_due_ns = raft->now_ns + raft->options.heartbeat_ns;
        raft_broadcast_heartbeat(raft);
    }
}

static uint64_t election_due_ns(const struct raft *raft)
{
    return raft->election_reset_ns + raft->election_draw_ns + raft->election_grace_ns;
}

/* A process that was stopped heard nothing because it did not listen: that proves nothing. Once for
 * each silence it waits a little more, and hears what arrived meanwhile. */
static void raft_note_pause(struct raft *raft)
{
    if (raft->role == RAFT_ROLE_LEADER) {
        raft->counters.pauses++;
        for (uint32_t i = 0; i < raft->peer_count; i++)
            raft->peers[i]->lease_sent_ns = 0;
    } else if (raft->election_grace_ns == 0 && !raft_is_sole_voter(raft)) {
        raft->counters.pauses++;
        raft->election_grace_ns = raft->now_ns - election_due_ns(raft) + raft->options.heartbeat_ns;
        invariant(election_due_ns(raft) > raft->now_ns);
    }
}

int raft_tick(struct raft *raft, uint64_t now_ns)
{
    invariant(now_ns >= raft->now_ns);
    if (!raft_has_room(raft))
        return ERR_FULL;
    uint64_t due_ns = raft_deadline_ns(raft);
    uint64_t late_ns = now_ns > due_ns ? now_ns - due_ns : 0;
    raft->now_ns = now_ns;
    if (raft->options.pause_ns_max != 0 && late_ns > raft->options.pause_ns_max)
        raft_note_pause(raft);
    if (raft->role == RAFT_ROLE_LEADER)
        raft_tick_leader(raft);
    else if (raft_promotable(raft) && now_ns >= election_due_ns(raft)) {
        raft_campaign_if_able(raft,
                              raft->options.pre_vote ? RAFT_CAMPAIGN_PRE : RAFT_CAMPAIGN_REAL);
        if (raft->role == RAFT_ROLE_FOLLOWER)
            raft->leader = 0; /* we may not replace it yet, but let others */
    } else if (raft->leader != 0 && now_ns >= election_due_ns(raft)) {
        raft->leader = 0; /* it asks nobody for a vote, and may be asked by others what it lost */
    }
    verify((raft_check(raft), true));
    return 0;
}

uint64_t raft_deadline_ns(const struct raft *raft)
{
    bool waits = raft_promotable(raft) || raft->leader != 0;
    if (raft->role != RAFT_ROLE_LEADER)
        return waits ? election_due_ns(raft) : UINT64_MAX;
    uint64_t due_ns =
        u64_min(raft->heartbeat_due_ns, raft->quorum_check_ns + raft->options.election_timeout_ns);
    if (raft->transferee != 0)
        due_ns = u64_min(due_ns, raft->transfer_start_ns + raft->options.election_timeout_ns);
    return due_ns;
}

/* ---- messages ---- */

static bool message_is_answer(const struct raft_message *message)
{
    return message->kind == RAFT_MESSAGE_APPEND_RESPONSE ||
           message->kind == RAFT_MESSAGE_HEARTBEAT_RESPONSE ||
           message->kind == RAFT_MESSAGE_VOTE_RESPONSE ||
           message->kind == RAFT_MESSAGE_PRE_VOTE_RESPONSE;
}

/* Requests, and refusals: what carries a commit index. */
static bool message_is_vote(const struct raft_message *message)
{
    return message->kind == RAFT_MESSAGE_VOTE || message->kind == RAFT_MESSAGE_PRE_VOTE ||
           (message->reject && (message->kind == RAFT_MESSAGE_VOTE_RESPONSE ||
                                message->kind == RAFT_MESSAGE_PRE_VOTE_RESPONSE));
}

static int message_check_entries(const struct raft_message *message)
{
    if (message->index > UINT64_MAX - message->entry_count || message->log_term > message->term ||
        (message->entry_count > 0 && message->entries == NULL))
        return ERR_MALFORMED;
    uint64_t term = message->log_term;
    for (uint32_t i = 0; i < message->entry_count; i++) {
        const struct entry *entry = &message->entries[i];
        if (entry->index != message->index + 1 + i || entry->term < term || entry->term == 0 ||
            entry->term > message->term || entry->payload_bytes > ENTRY_PAYLOAD_BYTES_MAX)
            return ERR_MALFORMED;
        term = entry->term;
    }
    return 0;
}

/* What a correct peer can send. After this the fields may be relied on. */
static int message_check(const struct raft *raft, const struct raft_message *message)
{
    if (message->kind < RAFT_MESSAGE_APPEND || message->kind > RAFT_MESSAGE_READ_INDEX_RESPONSE)
        return ERR_MALFORMED;
    if (message->to != raft->options.id || message->from == 0 || message->from > RAFT_ID_MAX ||
        message->from == raft->options.id)
        return ERR_MALFORMED;
    bool termless =
        message->kind == RAFT_MESSAGE_TRANSFER || message->kind == RAFT_MESSAGE_READ_INDEX;
    if (termless != (message->term == 0) || message->term > RAFT_TERM_MAX)
        return ERR_MALFORMED;
    if (message_is_answer(message) && raft_peer_find(raft, message->from) == NULL)
        return ERR_NOT_FOUND;
    if (message->kind == RAFT_MESSAGE_APPEND)
        return message_check_entries(message);
    if (message->kind == RAFT_MESSAGE_SNAPSHOT) {
        const struct raft_snapshot *snapshot = message->snapshot;
        if (snapshot == NULL || snapshot->index == 0 || snapshot->term == 0 ||
            snapshot->term > message->term || raft_config_validate(&snapshot->config) != 0)
            return ERR_MALFORMED;
    }
    return 0;
}

/* Terms first (figure 2, "all servers"). False: the message ends here. */
static bool raft_term_gate(struct raft *raft, const struct raft_message *message)
{
    if (message->term == 0)
        return true;
    bool asks_vote = message->kind == RAFT_MESSAGE_VOTE || message->kind == RAFT_MESSAGE_PRE_VOTE;
    if (message->term > raft->term) {
        if (asks_vote && !message->transfer && raft_in_lease(raft)) {
            raft->counters.votes_ignored_lease++;
            return false;
        }
        if (message->kind == RAFT_MESSAGE_PRE_VOTE)
            return true; /* nobody's term moves for a question */
        if (message->kind == RAFT_MESSAGE_PRE_VOTE_RESPONSE && !message->reject)
            return true; /* carries the term that we asked about */
        bool from_leader = message->kind == RAFT_MESSAGE_APPEND ||
                           message->kind == RAFT_MESSAGE_HEARTBEAT ||
                           message->kind == RAFT_MESSAGE_SNAPSHOT;
        raft_become_follower(raft, message->term, from_leader ? message->from : 0);
        return true;
    }
    if (message->term < raft->term) {
        bool strives = message->kind == RAFT_MESSAGE_APPEND ||
                       message->kind == RAFT_MESSAGE_HEARTBEAT ||
                       message->kind == RAFT_MESSAGE_VOTE;
        if (strives && (raft->options.check_quorum || raft->options.pre_vote)) {
            /* A leader or candidate that is over. Nobody but us may be left to tell it. And where
             * our term ran ahead in isolation, only that can free us, by deposing it. */
            struct raft_message *answer =
                raft_send(raft, RAFT_MESSAGE_APPEND_RESPONSE, message->from);
            answer->reject = true; /* it may lead in our term by now: this says nothing of logs */
            answer->after_append = RAFT_AFTER_THIS_APPEND;
        } else if (message->kind == RAFT_MESSAGE_PRE_VOTE) {
            /* Silence could deadlock a cluster of which a part has moved on. */
            struct raft_message *answer =
                raft_send(raft, RAFT_MESSAGE_PRE_VOTE_RESPONSE, message->from);
            answer->reject = true;
            answer->after_append = raft->options.early_pre_vote ? 0 : RAFT_AFTER_THIS_APPEND;
        }
        /* What was committed stays committed, however old the message is that tells it. Nobody
         * else may be left to tell: the refusal of a removed voter whose term is behind ours. */
        if (message_is_vote(message) && !planted_bug(old_refusal_unheard))
            raft_commit_by_vote(raft, message);
        sometimes(message->commit > 0 && message->commit == raft->log.committed_index &&
                      raft->log.applied_index < message->commit,
                  "raft: a vote of an earlier term tells of a commit");
        return false;
    }
    return true;
}

static int raft_dispatch(struct raft *raft, const struct raft_message *message)
{
    bool leads = raft->role == RAFT_ROLE_LEADER;
    switch (message->kind) {
    case RAFT_MESSAGE_APPEND:
    case RAFT_MESSAGE_HEARTBEAT:
    case RAFT_MESSAGE_SNAPSHOT:
        if (leads)
            return ERR_MALFORMED; /* a second leader of our term: refuse to hear it */
        if (message->kind == RAFT_MESSAGE_HEARTBEAT && message->commit > raft->log.last_index)
            return ERR_CORRUPT; /* it counts on entries that we acknowledged and no longer have */
        if (raft->role != RAFT_ROLE_FOLLOWER)
            raft_become_follower(raft, message->term, message->from);
        raft->leader = message->from;
        raft->campaign_deferred = false;
        raft_election_timer_restart(raft);
        if (raft->options.read_mode == RAFT_READ_LEASE)
            raft->vote_hold_until_ns = raft->now_ns + raft->options.election_timeout_ns;
        if (message->kind == RAFT_MESSAGE_APPEND)
            raft_handle_append(raft, message);
        else if (message->kind == RAFT_MESSAGE_HEARTBEAT)
            raft_handle_heartbeat(raft, message);
        else
            raft_handle_snapshot(raft, message);
        break;
    case RAFT_MESSAGE_APPEND_RESPONSE:
        if (leads)
            raft_handle_append_response(raft, message);
        break;
    case RAFT_MESSAGE_HEARTBEAT_RESPONSE:
        if (leads)
            raft_handle_heartbeat_response(raft, message);
        break;
    case RAFT_MESSAGE_VOTE:
    case RAFT_MESSAGE_PRE_VOTE:
        raft_handle_vote_request(raft, message);
        break;
    case RAFT_MESSAGE_VOTE_RESPONSE:
    case RAFT_MESSAGE_PRE_VOTE_RESPONSE:
        raft_handle_vote_response(raft, message);
        break;
    case RAFT_MESSAGE_TIMEOUT_NOW:
        raft_handle_timeout_now(raft);
        break;
    case RAFT_MESSAGE_TRANSFER:
        raft_handle_transfer(raft, message);
        break;
    case RAFT_MESSAGE_READ_INDEX:
        raft_handle_read_index(raft, message);
        break;
    case RAFT_MESSAGE_READ_INDEX_RESPONSE:
        raft_handle_read_response(raft, message);
        break;
    }
    return 0;
}

int raft_step(struct raft *raft, const struct raft_message *message)
{
    int error = message_check(raft, message);
    if (error != 0)
        return error;
    if (!raft_has_room(raft))
        return ERR_FULL;
    if (raft_term_gate(raft, message))
        error = raft_dispatch(raft, message);
    else
        raft_release_unkept(raft, message, 0);
    verify((raft_check(raft), true));
    return error;
}

void raft_step_down(struct raft *raft)
{
    if (raft->role == RAFT_ROLE_LEADER)
        raft_become_follower(raft, raft->term, 0);
}

void raft_forget_leader(struct raft *raft)
{
    if (raft->role == RAFT_ROLE_FOLLOWER && raft->options.read_mode != RAFT_READ_LEASE)
        raft->leader = 0;
}

void raft_restrict(struct raft *raft, bool restricted)
{
    raft->restricted = restricted;
    if (restricted && !planted_bug(restricted_campaign) &&
        (raft->role == RAFT_ROLE_PRE_CANDIDATE || raft->role == RAFT_ROLE_CANDIDATE))
        raft_become_follower(raft, raft->term, 0); /* a round under way ends too */
}

void raft_set_faulty(struct raft *raft, uint64_t index)
{
    invariant(index == 0 || (index > raft->log.applying_index && index <= raft->log.durable_index));
    raft->log.faulty_index = index;
    if (index != 0 && (raft->role == RAFT_ROLE_PRE_CANDIDATE || raft->role == RAFT_ROLE_CANDIDATE))
        raft_become_follower(raft, raft->term, 0);
    verify((raft_check(raft), true));
}

bool raft_burn_term(struct raft *raft, uint64_t term, uint64_t asker)
{
    if (raft->role == RAFT_ROLE_LEADER || raft->leader != 0 || term <= raft->term ||
        term > RAFT_TERM_MAX || raft_holds_vote(raft))
        return false;
    raft_become_follower(raft, term, 0);
    raft->vote = asker;
    verify((raft_check(raft), true));
    return true;
}

bool raft_term_is_burnt(const struct raft *raft, uint64_t term, uint64_t asker)
{
    return raft->role == RAFT_ROLE_FOLLOWER && raft->term == term && raft->vote == asker &&
           raft->hard_state_issued.term == term && raft->append_done == raft->append_issued;
}

void raft_drop_tail(struct raft *raft, uint64_t index)
{
    invariant(raft->role == RAFT_ROLE_FOLLOWER && raft->leader == 0);
    invariant(index > raft->log.committed_index && index <= raft->log.last_index);
    raft->truncated |= index <= raft->log.issued_index;
    raft_log_truncate(&raft->log, index);
    verify((raft_check(raft), true));
}

void raft_compact(struct raft *raft, uint64_t index)
{
    raft_log_compact(&raft->log, index);
}

/* ---- names and checks ---- */

const char *raft_role_name(enum raft_role role)
{
    switch (role) {
    case RAFT_ROLE_FOLLOWER:
        return "follower";
    case RAFT_ROLE_PRE_CANDIDATE:
        return "pre-candidate";
    case RAFT_ROLE_CANDIDATE:
        return "candidate";
    case RAFT_ROLE_LEADER:
        return "leader";
    }
    return "unknown";
}

const char *raft_message_kind_name(enum raft_message_kind kind)
{
    switch (kind) {
    case RAFT_MESSAGE_APPEND:
        return "append";
    case RAFT_MESSAGE_APPEND_RESPONSE:
        return "append-response";
    case RAFT_MESSAGE_HEARTBEAT:
        return "heartbeat";
    case RAFT_MESSAGE_HEARTBEAT_RESPONSE:
        return "heartbeat-response";
    case RAFT_MESSAGE_VOTE:
        return "vote";
    case RAFT_MESSAGE_VOTE_RESPONSE:
        return "vote-response";
    case RAFT_MESSAGE_PRE_VOTE:
        return "pre-vote";
    case RAFT_MESSAGE_PRE_VOTE_RESPONSE:
        return "pre-vote-response";
    case RAFT_MESSAGE_SNAPSHOT:
        return "snapshot";
    case RAFT_MESSAGE_TIMEOUT_NOW:
        return "timeout-now";
    case RAFT_MESSAGE_TRANSFER:
        return "transfer";
    case RAFT_MESSAGE_READ_INDEX:
        return "read-index";
    case RAFT_MESSAGE_READ_INDEX_RESPONSE:
        return "read-index-response";
    }
    return "unknown";
}

void raft_check(const struct raft *raft)
{
    const struct raft_log *log = &raft->log;
    raft_log_check(log); /* R1 */
    invariant(log->compacted_index <= log->applied_index || raft->snapshot_pending);
    for (uint32_t i = 0; i < raft->peer_count; i++)
        progress_check(raft->peers[i]);
    if (raft->role == RAFT_ROLE_LEADER) /* R2 */
        invariant(raft->leader == raft->options.id);
    else
        invariant(raft->leader != raft->options.id);
    if (raft->role == RAFT_ROLE_CANDIDATE || raft->role == RAFT_ROLE_PRE_CANDIDATE)
        invariant(raft->leader == 0);
    if (raft->role == RAFT_ROLE_CANDIDATE || raft->role == RAFT_ROLE_LEADER)
        invariant(raft->vote == raft->options.id);    /* R3 */
    invariant(raft_log_last_term(log) <= raft->term); /* R4 */
    const struct raft_peer *own = raft_peer_find(raft, raft->options.id);
    if (raft->role == RAFT_ROLE_LEADER && own != NULL)
        invariant(own->match_index <= log->durable_index); /* R5 */
    if (raft->role == RAFT_ROLE_LEADER) {                  /* R6 */
        uint64_t term = 0;
        if (raft_log_term(log, log->committed_index, &term) == 0)
            invariant(term <= raft->term);
        invariant(raft->term_start_index <= log->last_index);
    }
    invariant(raft_config_validate(&raft->config) == 0); /* R7 */
    struct raft_id_set members = raft_config_members(&raft->config);
    invariant(members.count == raft->peer_count);
    for (uint32_t i = 0; i < members.count; i++)
        invariant(raft->peers[i]->id == members.ids[i]);
    if (raft->transferee != 0) { /* R8 */
        const struct raft_peer *target = raft_peer_find(raft, raft->transferee);
        invariant(raft->role == RAFT_ROLE_LEADER);
        invariant(target != NULL && (target->voter || target->outgoing));
    }
    if (raft->role != RAFT_ROLE_LEADER) /* R9 */
        invariant(raft->reads_count == 0);
    invariant(raft->reads_count <= raft->options.reads_max);
    invariant(raft->read_confirmed_position <= raft->read_position);
    if (raft->reads_count > 0)
        invariant(raft->reads[raft->reads_start].position + raft->reads_count - 1 ==
                  raft->read_position);
    invariant(raft->append_issued >= raft->append_done); /* R10 */
    invariant(raft->self_vote_sequence == 0 || raft->self_vote_sequence > raft->append_done);
}
