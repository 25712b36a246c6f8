/* What leaves the state machine (raft_ready) and what the two storage lanes answer. */
#include "consensus/raft_internal.h"

/* A write that is cut short may leave this with none of the entries that go with it, and with those
 * that they were to replace: only what is durable already may be called committed in it. */
static struct hard_state hard_state_now(const struct raft *raft)
{
    return (struct hard_state){
        .term = raft->term,
        .vote = raft->vote,
        .commit = planted_bug(commit_before_entries)
                      ? raft->log.committed_index
                      : u64_min(raft->log.committed_index, raft->log.durable_index)};
}

/* Who a change removed may go for good, and a start must not wait for its vote: the commit index
 * that is stored covers the change that members were last changed by. */
static bool change_is_untold(const struct raft *raft, const struct hard_state *now)
{
    return raft->config_index > raft->hard_state_issued.commit && now->commit >= raft->config_index;
}

/* Everything that the append lane has not been given yet, as one piece of work. */
static bool take_append(struct raft *raft, struct raft_ready *ready)
{
    struct raft_log *log = &raft->log;
    ready->hard_state = hard_state_now(raft);
    ready->hard_state_changed = ready->hard_state.term != raft->hard_state_issued.term ||
                                ready->hard_state.vote != raft->hard_state_issued.vote ||
                                change_is_untold(raft, &ready->hard_state);
    bool install = raft->snapshot_pending && raft->snapshot_sequence == 0;
    bool entries = log->issued_index < log->last_index;
    if (!ready->hard_state_changed && !install && !entries)
        return false;
    raft->append_issued++;
    if (install) {
        raft->snapshot_sequence = raft->append_issued;
        ready->install = &raft->snapshot_install;
    }
    if (entries) {
        ready->append_first = log->issued_index + 1;
        ready->append_last = log->last_index;
        invariant(log->base_index < ready->append_first);
        log->issued_index = log->last_index;
    }
    ready->truncated = raft->truncated;
    raft->truncated = false;
    raft->hard_state_issued = ready->hard_state;
    ready->append = (struct raft_append){
        .sequence = raft->append_issued,
        .term = raft->term,
        .last_index = log->last_index,
        .last_term = raft_log_last_term(log),
    };
    return true;
}

/* Committed entries that our own disk has, within the limit of what may be under way. */
static bool take_apply(struct raft *raft, struct raft_ready *ready)
{
    struct raft_log *log = &raft->log;
    uint64_t last = u64_min(log->committed_index,
                            planted_bug(apply_before_sync) ? log->last_index : log->durable_index);
    last = raft_log_sound_to(log, last);
    if (raft->snapshot_pending || last <= log->applying_index)
        return false;
    if (raft->applying_bytes > 0 &&
        (raft->apply_cut_short || raft->applying_bytes >= raft->options.apply_bytes_max))
        return false;
    uint64_t bytes = 0;
    uint64_t first = log->applying_index + 1;
    uint64_t room = raft->options.apply_bytes_max - raft->applying_bytes;
    uint32_t count = raft_log_fit(log, first, last, room, UINT32_MAX, &bytes);
    if (count == 0)
        return false;
    ready->apply_first = first;
    ready->apply_last = log->applying_index = first + count - 1;
    raft->applying_bytes += bytes;
    raft->apply_cut_short = ready->apply_last < last;
    return true;
}

static void take_messages(struct raft *raft, struct raft_ready *ready)
{
    uint64_t after = raft->append_issued > raft->append_done ? raft->append_issued : 0;
    for (uint32_t i = 0; i < raft->message_count; i++)
        if (raft->messages[i].after_append == RAFT_AFTER_THIS_APPEND)
            raft->messages[i].after_append = after;
    ready->messages = raft->messages;
    ready->message_count = raft->message_count;
    raft->message_count = 0;
}

bool raft_ready(struct raft *raft, struct raft_ready *ready)
{
    memset(ready, 0, sizeof(*ready));
    bool more = raft_send_read_answers(raft);
    more |= raft_send_appends(raft);
    bool any = take_append(raft, ready);
    take_messages(raft, ready);
    any |= take_apply(raft, ready);
    ready->reads = raft->reads_ready;
    ready->read_count = raft->reads_ready_count;
    raft->reads_ready_count = 0;
    ready->role = raft->role;
    ready->leader = raft->leader;
    ready->term = raft->term;
    ready->leadership_changed = raft->role != raft->issued_role ||
                                raft->leader != raft->issued_leader ||
                                raft->term != raft->issued_term;
    raft->issued_role = raft->role;
    raft->issued_leader = raft->leader;
    raft->issued_term = raft->term;
    verify((raft_check(raft), true));
    return any || more || ready->message_count > 0 || ready->read_count > 0 ||
           ready->leadership_changed;
}

static void snapshot_installed(struct raft *raft)
{
    raft_log_restored(&raft->log, raft->snapshot_install.index);
    raft->snapshot_pending = false;
    raft->snapshot_sequence = 0;
    raft->applying_bytes = 0;
    raft->apply_cut_short = false;
}

void raft_persisted(struct raft *raft, const struct raft_append *append)
{
    invariant(append->sequence <= raft->append_issued);
    invariant(append->sequence > raft->append_done);
    invariant(append->term <= raft->term);
    raft->append_done = append->sequence;
    if (raft->snapshot_pending && raft->snapshot_sequence != 0 &&
        raft->snapshot_sequence <= append->sequence)
        snapshot_installed(raft);
    /* A tail written in an earlier term may have been replaced since, and even replaced back: only
     * what was issued in this term tells what the disk holds. Each term issues an append of its own
     * (its hard state), which names the whole tail, so nothing is forgotten. */
    sometimes(append->term != raft->term, "raft: what became durable was issued in another term");
    uint64_t last_term = append->last_term;
    if (planted_bug(token_of_old_term)) /* whatever is there by now */
        (void)!raft_log_term(&raft->log, append->last_index, &last_term);
    if (append->term == raft->term || planted_bug(token_of_old_term)) {
        raft_log_durable_to(&raft->log, append->last_index, last_term);
        raft_own_ack(raft, u64_min(append->last_index, raft->log.durable_index));
    }
    if (raft->self_vote_sequence != 0 && raft->self_vote_sequence <= append->sequence)
        raft_count_own_vote(raft);
    raft_log_release_to(&raft->log, raft_release_point(raft));
    verify((raft_check(raft), true));
}

void raft_applied(struct raft *raft, uint64_t index)
{
    struct raft_log *log = &raft->log;
    if (index <= log->applied_index)
        return; /* a snapshot was faster */
    invariant(index <= log->applying_index);
    if (index == log->applying_index) {
        raft->applying_bytes = 0;
        raft->apply_cut_short = false;
    } else {
        uint64_t bytes = 0;
        uint64_t before = log->applied_index;
        uint32_t count = raft_log_fit(log, before + 1, index, UINT64_MAX, UINT32_MAX, &bytes);
        invariant(count == index - before || raft->snapshot_pending);
        raft->applying_bytes -= u64_min(bytes, raft->applying_bytes);
    }
    raft_log_applied_to(log, index);
    raft_lone_voter_hurries(raft);
    raft_log_release_to(log, raft_release_point(raft));
    raft_maybe_auto_leave(raft);
    raft_transfer_resume(raft);
    verify((raft_check(raft), true));
}
