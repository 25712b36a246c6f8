/* Elections: timers, campaigns, votes, and what a node does when its role changes. */
#include "consensus/raft_internal.h"

/* Draws below `range_ns`, in whole quanta when the options ask for that. */
static uint64_t draw_ns(struct raft *raft, uint64_t range_ns)
{
    uint64_t quantum_ns = raft->options.timeout_quantum_ns;
    if (range_ns == 0)
        return 0;
    if (quantum_ns == 0)
        return raft_random(raft, range_ns);
    return range_ns < quantum_ns ? 0 : raft_random(raft, range_ns / quantum_ns) * quantum_ns;
}

/* Begins again with the same draw. */
void raft_election_timer_restart(struct raft *raft)
{
    raft->election_reset_ns = raft->now_ns;
    raft->election_grace_ns = 0;
}

void raft_election_timer_reset(struct raft *raft)
{
    raft_election_timer_restart(raft);
    raft->election_draw_ns =
        raft->options.election_timeout_ns + draw_ns(raft, raft->options.election_jitter_ns);
}

/* A round that was lost or is split costs a fraction of the timeout. Only with pre-vote: otherwise
 * the hurry would raise terms and depose leaders. */
static void retry_timer_reset(struct raft *raft, uint64_t base_percent, uint64_t range_percent)
{
    if (!raft->options.short_retry || !raft->options.pre_vote)
        return;
    uint64_t timeout_ns = raft->options.election_timeout_ns;
    raft->election_draw_ns =
        timeout_ns * base_percent / 100 + draw_ns(raft, timeout_ns * range_percent / 100);
}

bool raft_promotable(const struct raft *raft)
{
    const struct raft_peer *own = raft_peer_find(raft, raft->options.id);
    invariant(own == NULL || !own->learner || !own->voter); /* C1 */
    return own != NULL && !own->learner && !raft->snapshot_pending && !raft->restricted &&
           (raft->log.faulty_index == 0 || planted_bug(lost_entry_campaigns));
}

bool raft_is_sole_voter(const struct raft *raft)
{
    const struct raft_config *config = &raft->config;
    return config->outgoing.count == 0 && config->voters.count == 1 &&
           config->voters.ids[0] == raft->options.id;
}

/* May a leader serve reads on our promise not to vote? It holds whatever our term and leader are by
 * now; a lone voter promises nothing to anybody. */
bool raft_holds_vote(const struct raft *raft)
{
    return raft->now_ns < raft->vote_hold_until_ns && !raft_is_sole_voter(raft);
}

/* Has this node promised, by having heard a leader lately, to let it be? */
bool raft_in_lease(const struct raft *raft)
{
    if (raft_holds_vote(raft))
        return true;
    if (!raft->options.check_quorum || raft->leader == 0)
        return false;
    return raft->role == RAFT_ROLE_LEADER ||
           raft->now_ns - raft->election_reset_ns < raft->options.election_timeout_ns;
}

/* Answers of both halves of the configuration; `answer` looks at one peer. */
static enum quorum_result tally(const struct raft *raft,
                                enum quorum_answer (*answer)(const struct raft *raft,
                                                             const struct raft_peer *peer))
{
    enum quorum_answer incoming[RAFT_MEMBERS_MAX];
    enum quorum_answer outgoing[RAFT_MEMBERS_MAX];
    uint32_t incoming_count = 0;
    uint32_t outgoing_count = 0;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct raft_peer *peer = raft->peers[i];
        if (peer->voter)
            incoming[incoming_count++] = answer(raft, peer);
        if (peer->outgoing)
            outgoing[outgoing_count++] = answer(raft, peer);
    }
    invariant(incoming_count == raft->config.voters.count);
    invariant(outgoing_count == raft->config.outgoing.count);
    return quorum_vote_joint(quorum_vote(incoming, incoming_count),
                             quorum_vote(outgoing, outgoing_count));
}

static enum quorum_answer answer_active(const struct raft *raft, const struct raft_peer *peer)
{
    bool active = peer->recent_active || peer->id == raft->options.id;
    return active ? QUORUM_YES : QUORUM_NO;
}

static enum quorum_answer answer_vote(const struct raft *raft maybe_unused,
                                      const struct raft_peer *peer)
{
    return peer->vote;
}

bool raft_quorum_active(const struct raft *raft)
{
    invariant(raft->role == RAFT_ROLE_LEADER);
    return tally(raft, answer_active) == QUORUM_WON;
}

/* What every change of role or term begins with. */
static void role_reset(struct raft *raft, uint64_t term)
{
    invariant(term >= raft->term);
    if (term != raft->term) {
        raft->term = term;
        raft->vote = 0;
    }
    raft->leader = 0;
    raft->transferee = 0;
    raft->pending_config_index = 0;
    raft->term_start_index = 0;
    raft->self_vote_sequence = 0;
    raft->campaign_transfer = false;
    raft->campaign_deferred = false;
    raft->lease_ended = false;
    raft_reads_reset(raft);
    raft_election_timer_reset(raft);
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        raft->peers[i]->vote = QUORUM_MISSING;
        raft->peers[i]->send_due = RAFT_SEND_NONE;
    }
}

void raft_become_follower(struct raft *raft, uint64_t term, uint64_t leader)
{
    role_reset(raft, term);
    raft->role = RAFT_ROLE_FOLLOWER;
    invariant(leader != raft->options.id);
    raft->leader = leader;
}

static void become_leader(struct raft *raft)
{
    invariant(raft->role == RAFT_ROLE_CANDIDATE);
    uint64_t last = raft->log.last_index;
    role_reset(raft, raft->term);
    raft->role = RAFT_ROLE_LEADER;
    raft->leader = raft->options.id;
    raft->counters.leaderships++;
    raft->quorum_check_ns = raft->now_ns;
    raft->heartbeat_due_ns = raft->now_ns + raft->options.heartbeat_ns;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        struct raft_peer *peer = raft->peers[i];
        bool own = peer->id == raft->options.id;
        progress_reset(peer, own ? raft->log.durable_index : 0, last + 1);
        peer->recent_active = own;
        if (own)
            progress_become_replicate(peer);
    }
    /* Any configuration change in the log may be uncommitted: none is accepted until all is
     * applied. This is lazier than a scan and right in every case. */
    raft->pending_config_index = last;
    raft_append_own(raft, &(struct entry){.type = ENTRY_NORMAL});
    raft->term_start_index = raft->log.last_index;
    raft_broadcast_due(raft, RAFT_SEND_ALWAYS);
}

static void ask_votes(struct raft *raft, enum raft_message_kind kind, uint64_t term)
{
    uint64_t last_term = raft_log_last_term(&raft->log);
    uint64_t commit_term = 0;
    uint64_t commit = raft->log.committed_index;
    if (raft_log_term(&raft->log, commit, &commit_term) != 0)
        commit = 0;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        struct raft_peer *peer = raft->peers[i];
        if (peer->id == raft->options.id || !(peer->voter || peer->outgoing))
            continue;
        struct raft_message *message = raft_send(raft, kind, peer->id);
        message->term = term;
        message->index = raft->log.last_index;
        message->log_term = last_term;
        message->commit = commit;
        message->commit_term = commit_term;
        message->transfer = raft->campaign_transfer;
        if (kind == RAFT_MESSAGE_VOTE && !raft->options.early_vote)
            message->after_append = RAFT_AFTER_THIS_APPEND;
    }
}

static void campaign_real(struct raft *raft, bool transfer)
{
    invariant(raft->role != RAFT_ROLE_LEADER);
    invariant(raft_promotable(raft));
    role_reset(raft, raft->term + 1);
    raft->role = RAFT_ROLE_CANDIDATE;
    raft->vote = raft->options.id;
    raft->campaign_transfer = transfer;
    raft->self_vote_sequence = raft->append_issued + 1; /* term and vote leave in that one */
    raft->counters.elections_started++;
    retry_timer_reset(raft, 30, 30);
    ask_votes(raft, RAFT_MESSAGE_VOTE, raft->term);
}

/* A pre-candidate asks without raising its term. It forgets its leader, or two survivors would
 * respect a dead one for each other. */
static void campaign_pre(struct raft *raft)
{
    invariant(raft->role != RAFT_ROLE_LEADER);
    invariant(raft_promotable(raft));
    role_reset(raft, raft->term);
    raft->role = RAFT_ROLE_PRE_CANDIDATE;
    raft->counters.elections_pre_vote++;
    retry_timer_reset(raft, 30, 30);
    raft_peer(raft, raft->options.id)->vote = QUORUM_YES; /* a question needs no disk */
    if (tally(raft, answer_vote) == QUORUM_WON) {
        campaign_real(raft, false);
        return;
    }
    ask_votes(raft, RAFT_MESSAGE_PRE_VOTE, raft->term + 1);
}

void raft_campaign_if_able(struct raft *raft, enum raft_campaign_kind kind)
{
    raft_election_timer_restart(raft);
    if (raft->election_draw_ns == 0) /* of a lone voter's start: no longer alone, or held up */
        raft_election_timer_reset(raft);
    if (raft->role == RAFT_ROLE_LEADER || !raft_promotable(raft))
        return;
    if (kind != RAFT_CAMPAIGN_TRANSFER && raft_holds_vote(raft))
        return;
    /* With a committed change still to be applied we might count votes of a configuration that is
     * two steps behind: its majorities need not overlap with today's. */
    if (raft_log_has_unapplied_config(&raft->log))
        return;
    if (kind == RAFT_CAMPAIGN_PRE)
        campaign_pre(raft);
    else
        campaign_real(raft, kind == RAFT_CAMPAIGN_TRANSFER);
}

/* Changes that held up its start are applied, and left it alone: it waits for nobody. */
void raft_lone_voter_hurries(struct raft *raft)
{
    if (raft->options.single_voter_starts && raft->role == RAFT_ROLE_FOLLOWER &&
        raft->leader == 0 && raft_is_sole_voter(raft) && !raft_log_has_unapplied_config(&raft->log))
        raft->election_draw_ns = 0;
}

void raft_campaign(struct raft *raft)
{
    if (raft->role == RAFT_ROLE_LEADER || !raft_has_room(raft))
        return;
    raft_campaign_if_able(raft, raft->options.pre_vote ? RAFT_CAMPAIGN_PRE : RAFT_CAMPAIGN_REAL);
    verify((raft_check(raft), true));
}

static void count_votes(struct raft *raft)
{
    bool pre = raft->role == RAFT_ROLE_PRE_CANDIDATE;
    invariant(pre || raft->role == RAFT_ROLE_CANDIDATE);
    switch (tally(raft, answer_vote)) {
    case QUORUM_WON:
        if (pre)
            campaign_real(raft, false);
        else if (raft_log_room(&raft->log, 1, true) > 0)
            become_leader(raft);
        /* Else votes that were asked for early overtook our disk: our own will count again. */
        break;
    case QUORUM_LOST:
        raft->counters.elections_lost++;
        sometimes(!pre, "raft: a candidate loses its round");
        raft_become_follower(raft, raft->term, 0);
        retry_timer_reset(raft, 10, 20);
        break;
    case QUORUM_PENDING:
        break;
    }
}

/* The append that carries our vote is durable. */
void raft_count_own_vote(struct raft *raft)
{
    raft->self_vote_sequence = 0;
    struct raft_peer *own = raft_peer(raft, raft->options.id);
    if (raft->role != RAFT_ROLE_CANDIDATE || own == NULL)
        return;
    invariant(raft->vote == raft->options.id);
    own->vote = QUORUM_YES;
    count_votes(raft);
}

void raft_handle_vote_response(struct raft *raft, const struct raft_message *message)
{
    bool pre = message->kind == RAFT_MESSAGE_PRE_VOTE_RESPONSE;
    struct raft_peer *peer = raft_peer(raft, message->from);
    invariant(peer != NULL);
    bool in_phase = raft->role == (pre ? RAFT_ROLE_PRE_CANDIDATE : RAFT_ROLE_CANDIDATE);
    /* A grant for a question that we asked in an earlier term is no grant now. */
    bool current = !pre || message->reject || message->term == raft->term + 1;
    if (in_phase && current && peer->vote == QUORUM_MISSING) {
        peer->vote = message->reject ? QUORUM_NO : QUORUM_YES;
        count_votes(raft);
    }
    if (message->reject)
        raft_commit_by_vote(raft, message);
}

void raft_handle_vote_request(struct raft *raft, const struct raft_message *message)
{
    bool pre = message->kind == RAFT_MESSAGE_PRE_VOTE;
    bool can_vote = raft->vote == message->from || (raft->vote == 0 && raft->leader == 0) ||
                    (pre && message->term > raft->term);
    if (raft_holds_vote(raft) && !message->transfer)
        can_vote = false; /* of our own term; the gate has stopped newer ones */
    /* Learners vote too: one may have been promoted without knowing it yet. */
    bool grant = can_vote && raft_log_up_to_date(&raft->log, message->index, message->log_term);
    struct raft_message *answer = raft_send(
        raft, pre ? RAFT_MESSAGE_PRE_VOTE_RESPONSE : RAFT_MESSAGE_VOTE_RESPONSE, message->from);
    bool at_once = pre ? raft->options.early_pre_vote : planted_bug(vote_before_sync);
    answer->after_append = at_once ? 0 : RAFT_AFTER_THIS_APPEND;
    if (grant) {
        answer->term = message->term;
        raft->counters.votes_granted++;
        if (!pre) {
            invariant(raft->vote == 0 || raft->vote == message->from); /* one vote per term */
            invariant(message->term == raft->term);
            raft->vote = message->from;
            raft_election_timer_restart(raft);
        }
    } else {
        answer->reject = true;
        raft->counters.votes_refused++;
        uint64_t commit_term = 0;
        if (raft_log_term(&raft->log, raft->log.committed_index, &commit_term) == 0) {
            answer->commit = raft->log.committed_index;
            answer->commit_term = commit_term;
        }
    }
    raft_commit_by_vote(raft, message);
}

/*
 * Votes carry what their sender knows to be committed. Without this a group can be stuck: the
 * candidate whose log is good enough does not know the configuration that its voters live in, and
 * learns it only by advancing its commit index.
 */
void raft_commit_by_vote(struct raft *raft, const struct raft_message *message)
{
    struct raft_log *log = &raft->log;
    if (raft->role == RAFT_ROLE_LEADER || message->commit <= log->committed_index ||
        message->commit_term == 0 || raft->snapshot_pending ||
        !raft_log_matches(log, message->commit, message->commit_term))
        return;
    raft_log_commit_to(log, message->commit);
    if (raft->role != RAFT_ROLE_FOLLOWER && raft_log_has_unapplied_config(log))
        raft_become_follower(raft, raft->term, 0);
}
