/*
 * raft_internal.h - what the files of the state machine share; private to consensus/.
 *
 * Story     raft.c dispatches as figure 2 of the paper does; election.c, replication.c, snapshot.c,
 *           read_index.c, transfer.c, membership.c and ready.c each hold one concern.
 * Owner     struct raft.
 * Threads   The raft core.
 */
#ifndef CONSENSUS_RAFT_INTERNAL_H
#define CONSENSUS_RAFT_INTERNAL_H

#include "consensus/quorum.h"
#include "consensus/raft.h"
#include "core/invariant.h"

/* Most messages that one input can queue: two broadcasts and a few answers. */
#define RAFT_STEP_MESSAGES_MAX (2 * RAFT_MEMBERS_MAX + 8)
/* In raft_message.after_append until raft_ready() knows the sequence. */
#define RAFT_AFTER_THIS_APPEND UINT64_MAX

enum raft_campaign_kind { RAFT_CAMPAIGN_PRE, RAFT_CAMPAIGN_REAL, RAFT_CAMPAIGN_TRANSFER };

/* raft.c */
struct raft_message *raft_send(struct raft *raft, enum raft_message_kind kind, uint64_t to);
struct raft_peer *raft_peer(struct raft *raft, uint64_t id);
uint64_t raft_random(struct raft *raft, uint64_t bound);
bool raft_has_room(const struct raft *raft);

/* election.c */
void raft_election_timer_reset(struct raft *raft);
void raft_election_timer_restart(struct raft *raft);
bool raft_promotable(const struct raft *raft);
bool raft_is_sole_voter(const struct raft *raft);
void raft_become_follower(struct raft *raft, uint64_t term, uint64_t leader);
void raft_campaign_if_able(struct raft *raft, enum raft_campaign_kind kind);
void raft_handle_vote_request(struct raft *raft, const struct raft_message *message);
void raft_handle_vote_response(struct raft *raft, const struct raft_message *message);
void raft_lone_voter_hurries(struct raft *raft);
void raft_count_own_vote(struct raft *raft);
void raft_commit_by_vote(struct raft *raft, const struct raft_message *message);
bool raft_in_lease(const struct raft *raft);
bool raft_holds_vote(const struct raft *raft);
bool raft_quorum_active(const struct raft *raft);

/* replication.c */
void raft_append_own(struct raft *raft, const struct entry *entry);
bool raft_maybe_commit(struct raft *raft);
void raft_own_ack(struct raft *raft, uint64_t index);
void raft_broadcast_due(struct raft *raft, enum raft_send_due due);
void raft_release_unkept(struct raft *raft, const struct raft_message *message,
                         uint64_t kept_first);
void raft_handle_append(struct raft *raft, const struct raft_message *message);
void raft_handle_append_response(struct raft *raft, const struct raft_message *message);
void raft_handle_heartbeat(struct raft *raft, const struct raft_message *message);
void raft_handle_heartbeat_response(struct raft *raft, const struct raft_message *message);
void raft_broadcast_heartbeat(struct raft *raft);
bool raft_send_appends(struct raft *raft);
uint64_t raft_release_point(const struct raft *raft);

/* snapshot.c */
bool raft_send_snapshot(struct raft *raft, struct raft_peer *peer);
void raft_handle_snapshot(struct raft *raft, const struct raft_message *message);

/* membership.c */
void raft_switch_config(struct raft *raft, const struct raft_config *config, uint64_t index);
void raft_recover_config(struct raft *raft, uint64_t damaged_index); /* once, at the start */
must_check int raft_config_gate(struct raft *raft, const struct entry *entry);
void raft_maybe_auto_leave(struct raft *raft);

/* read_index.c */
void raft_reads_reset(struct raft *raft);
void raft_reads_unpark(struct raft *raft);
void raft_reads_confirm(struct raft *raft);
void raft_handle_read_index(struct raft *raft, const struct raft_message *message);
void raft_handle_read_response(struct raft *raft, const struct raft_message *message);
bool raft_send_read_answers(struct raft *raft);
bool raft_own_term_committed(const struct raft *raft);

/* transfer.c */
void raft_handle_transfer(struct raft *raft, const struct raft_message *message);
void raft_handle_timeout_now(struct raft *raft);
void raft_transfer_abort(struct raft *raft);
void raft_transfer_progress(struct raft *raft, const struct raft_peer *peer);
void raft_transfer_resume(struct raft *raft);

#endif
