/*
 * progress.h - what a leader knows about one peer, and how fast it may send to it.
 *
 * Story     PROBE: one non-empty append, then silence until an answer, because where the logs
 *           unknown. REPLICATE: optimistic; next runs ahead of match within the inflight window.
 *           SNAPSHOT: no appends until the peer acknowledges or the transport reports.
 *
 *                        ack                          needs compacted entries
 *           PROBE ---------------> REPLICATE      any ---------------------> SNAPSHOT
 *             ^   rejection,          |                                         |
 *             +-- unreachable --------+              ack within our log: PROBE, REPLICATE
 *             +-------------------- reported ok (next = pending + 1) or failed -+
 *
 * Invariants
 *   P1  match < next.
 *   P2  inflights are in use only in REPLICATE.
 *   P3  pending_snapshot_index is non-zero only in SNAPSHOT.
 *   P4  sent_commit_index never exceeds next - 1 after a step back.
 * Owner     struct raft.
 * Threads   The raft core.
 * Source    docs/internals/raft.md; Ongaro 2014, 10.2.1.
 */
#ifndef CONSENSUS_PROGRESS_H
#define CONSENSUS_PROGRESS_H

#include "consensus/inflight.h"
#include "consensus/message.h"
#include "consensus/quorum.h"

enum raft_peer_state { RAFT_PEER_PROBE = 0, RAFT_PEER_REPLICATE = 1, RAFT_PEER_SNAPSHOT = 2 };

/* What raft_ready() still has to send to a peer. */
enum raft_send_due {
    RAFT_SEND_NONE = 0,
    RAFT_SEND_ENTRIES = 1, /* appends, if there are entries for them */
    RAFT_SEND_ALWAYS = 2,  /* one append even if it is empty (it carries the commit index) */
};

struct raft_peer {
    uint64_t id; /* 0 = free slot */
    uint64_t match_index;
    uint64_t next_index;
    uint64_t sent_commit_index; /* highest commit index that this peer may know */
    uint64_t pending_snapshot_index;
    enum raft_peer_state state;
    enum raft_send_due send_due;
    bool voter;         /* in config.voters */
    bool outgoing;      /* in config.outgoing */
    bool learner;       /* in config.learners */
    bool recent_active; /* answered since the last quorum check */
    bool paused;        /* no appends until an answer of any kind */
    enum quorum_answer vote;
    uint64_t read_position; /* newest read round that it confirmed */
    uint64_t lease_sent_ns; /* when the newest heartbeat that it answered was sent */
    struct raft_inflights inflights;
    struct raft_snapshot snapshot; /* the one last offered to it */
};

/* Fresh progress, keeping identity and inflight memory. */
void progress_reset(struct raft_peer *peer, uint64_t match_index, uint64_t next_index);

void progress_become_probe(struct raft_peer *peer);
void progress_become_replicate(struct raft_peer *peer);
void progress_become_snapshot(struct raft_peer *peer, uint64_t snapshot_index);

bool progress_is_paused(const struct raft_peer *peer);

/* After an append with `entry_count` entries up to next - 1 + entry_count went out. */
void progress_sent_entries(struct raft_peer *peer, uint32_t entry_count, uint64_t bytes);

/* True when `index` is news. */
must_check bool progress_update(struct raft_peer *peer, uint64_t index);

/* A rejection of `rejected`; `match_hint` is where the logs may still agree. False when stale. */
must_check bool progress_decrease(struct raft_peer *peer, uint64_t rejected, uint64_t match_hint);

/* Might the peer not know that `commit_index` is committed? */
bool progress_lacks_commit(const struct raft_peer *peer, uint64_t commit_index);

/* P1 to P3; P4 is made true by each step back. */
void progress_check(const struct raft_peer *peer);

const char *progress_state_name(enum raft_peer_state state);

#endif
