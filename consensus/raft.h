/*
 * raft.h - the Raft state machine of one node: messages, time and storage acknowledgements in;
 * messages, entries to persist and entries to apply out.
 *
 * Story     Call raft_tick() with the clock once per loop turn, then feed what arrived: raft_step()
 *           for messages, raft_propose(), raft_read_index(), raft_persisted(), raft_applied(). Then
 *           drain raft_ready() until it answers false. The same calls with the same arguments give
 *           the same bytes out: there is no clock, no I/O and no randomness inside beyond a
 *           generator seeded by the options.
 *
 *           Two lanes take work from the core; each is first-in first-out, neither waits for the
 *           other. The append lane makes `ready.append` durable (snapshot first, then hard state
 *           and entries as one) and answers raft_persisted(). The apply lane executes
 *           `ready.apply_first .. apply_last`, calls raft_apply_config() for configuration changes
 *           in log order, and answers raft_applied().
 *
 * Durable   What must be durable here before what leaves the node:
 *             - a message with after_append = 0 may be sent at once (appends of the leader,
 *               heartbeats: the leader's own disk works in parallel with its followers);
 *             - a message with after_append = s waits until append s is durable (vote requests,
 *               votes, acknowledgements), and is then sent in order;
 *             - entries in the apply range are committed and durable here: apply at any time;
 *             - the node counts itself, as voter and as replica, only in raft_persisted().
 *           A failed write of an append is fatal to the node: there is no call to report it.
 * Owner     The caller gives all memory (raft_memory_bytes()); nothing is allocated later. Entry
 *           payloads are borrowed until raft_storage.release hands them back. What raft_ready()
 *           points at is valid until the next call of the core: copy messages that must wait.
 * Threads   One core. Callbacks run inside the calls and must not call back.
 * Units     ns of any monotonic clock, the same for all calls; bytes are payload bytes.
 * Errors    0 or negative (core/err.h). A refused proposal is surely not in the log:
 *           ERR_NOT_LEADER, ERR_NO_LEADER, ERR_DROPPED (transfer or removal under way, or a
 *           configuration change at the wrong moment), ERR_CONFIG (illegal change),
 *           ERR_TOO_MANY_REQUESTS (uncommitted bytes), ERR_FULL (drain raft_ready() or wait for
 *           acknowledgements). An accepted entry may still be lost: its outcome is known when its
 *           index is applied with the same term.
 * Limits    RAFT_MEMBERS_MAX members; queues sized by the options.
 * Source    docs/internals/raft.md; Ongaro and Ousterhout 2014; Ongaro 2014 (dissertation).
 */
#ifndef CONSENSUS_RAFT_H
#define CONSENSUS_RAFT_H

#include "consensus/config.h"
#include "consensus/message.h"
#include "consensus/progress.h"
#include "consensus/raft_log.h"
#include "core/base.h"
#include "core/entry.h"
#include "core/err.h"

enum raft_role {
    RAFT_ROLE_FOLLOWER = 0,
    RAFT_ROLE_PRE_CANDIDATE = 1,
    RAFT_ROLE_CANDIDATE = 2,
    RAFT_ROLE_LEADER = 3,
};

enum raft_read_mode {
    RAFT_READ_SAFE = 0,  /* a round of heartbeats confirms the leadership for each batch of reads */
    RAFT_READ_LEASE = 1, /* answers within a lease; needs check_quorum and bounded clock rates */
};

struct raft_options {
    uint64_t id; /* this node, 1 .. RAFT_ID_MAX */
    uint64_t seed;

    /* Timeouts. A follower waits election_timeout + U[0, election_jitter) without a word. */
    uint64_t election_timeout_ns; /* at least ten round trips, five heartbeats */
    uint64_t election_jitter_ns;
    uint64_t heartbeat_ns;
    uint64_t timeout_quantum_ns; /* draws are multiples of this; 0 = continuous */
    uint64_t pause_ns_max; /* a tick that comes later than this after raft_deadline_ns() tells of a
                            * pause of our own: an election waits one more heartbeat, so that what
                            * arrived meanwhile is heard first, and a lease ends; 0 = off */
    bool short_retry;      /* after a lost or split round wait a fraction of the timeout only */
    bool single_voter_starts; /* a lone voter campaigns in its first tick */

    /* Rules. */
    bool pre_vote;
    bool check_quorum;
    bool early_pre_vote; /* answer pre-votes before anything is durable: an answer binds nobody */
    bool early_vote;     /* send vote requests before term, vote and log are durable: unsafe unless
                      * replies to an earlier incarnation are fenced */
    bool step_down_on_removal;
    bool skip_config_validation; /* several configuration changes at once: only for experiments */
    enum raft_read_mode read_mode;
    uint32_t lease_drift_percent; /* bound of the clock rate difference */
    uint64_t lease_stall_ns;      /* allowance for our own stalls */

    /* Sizes. */
    uint32_t window_entries;        /* power of two: entries in memory */
    uint64_t window_bytes_retained; /* kept for lagging peers after they were applied */
    uint32_t inflight_messages_max; /* per peer */
    uint64_t inflight_bytes_max;    /* per peer, soft; 0 = no limit */
    uint64_t message_bytes_max;     /* per append message, at least one entry goes */
    uint32_t message_entries_max;   /* per append message */
    uint64_t uncommitted_bytes_max; /* not yet applied; the first proposal always passes */
    uint64_t apply_bytes_max;       /* handed to the apply lane and not acknowledged */
    uint32_t messages_max;          /* outgoing messages between two raft_ready() */
    uint32_t reads_max;             /* reads waiting for confirmation */
};

/* Production values; id and seed are left 0. */
void raft_options_default(struct raft_options *options);

/*
 * What the node remembers when it starts. The first configuration of a group is in no log entry, so
 * either every node is started with it at index 0, or the group begins as if compacted at index 1
 * and who joins starts with nothing (an empty configuration) and is sent a snapshot.
 */
struct raft_start {
    struct hard_state hard_state;
    uint64_t compacted_index; /* last entry known only from a snapshot; 0 = the log is complete */
    uint64_t compacted_term;
    uint64_t last_index; /* of the durable log; compacted_index when it is empty */
    uint64_t last_term;
    uint64_t applied_index;    /* what the state machine contains durably */
    uint64_t damaged_index;    /* lowest entry above that, of which only index and term are known,
                                * not whether it is a configuration change; 0 = none */
    struct raft_config config; /* as of applied_index */
};

/* A read that may be served when applied_index >= index. */
struct raft_read {
    uint64_t id;
    uint64_t index;
};

/* One piece of work of the append lane; hand it back to raft_persisted() as it is. */
struct raft_append {
    uint64_t sequence; /* counts from 1 */
    uint64_t term;     /* current when it was issued */
    uint64_t last_index;
    uint64_t last_term;
};

struct raft_ready {
    /* 1. For the append lane, when append.sequence != 0. */
    struct raft_append append;
    const struct raft_snapshot *install; /* replace log and state machine by it first, or NULL */
    struct hard_state hard_state;        /* store with the append */
    bool hard_state_changed;             /* term, vote, or the last change of members */
    bool truncated;                      /* append_first replaces an entry issued before */
    uint64_t append_first, append_last;  /* 0, 0 = none; see raft_entry() */
    /* 2. Messages: after_append says when. */
    const struct raft_message *messages;
    uint32_t message_count;
    /* 3. For the apply lane; 0, 0 = none. */
    uint64_t apply_first, apply_last;
    /* 4. Reads whose index is known. */
    const struct raft_read *reads;
    uint32_t read_count;
    /* 5. Who leads. On any change all reads asked for earlier are void: ask again with new ids. */
    bool leadership_changed;
    enum raft_role role;
    uint64_t leader; /* 0 = unknown */
    uint64_t term;
};

/* A read that waits at the leader. */
struct raft_read_pending {
    uint64_t from; /* asking node */
    uint64_t id;
    uint64_t index;    /* commit index when it was queued; 0 = parked */
    uint64_t position; /* count of reads in this leadership */
};

struct raft_counters {
    uint64_t elections_pre_vote;
    uint64_t elections_started;
    uint64_t elections_lost;
    uint64_t leaderships;
    uint64_t votes_granted;
    uint64_t votes_refused;
    uint64_t votes_ignored_lease;
    uint64_t appends_rejected;
    uint64_t proposals_dropped;
    uint64_t snapshots_sent;
    uint64_t snapshots_received;
    uint64_t transfers_aborted;
    uint64_t pauses;
};

/*
 * Everything, for checkers and tools to read; nobody else writes.
 *
 * Invariants (raft_check())
 *   R1   log: L1 to L7 of raft_log.h; peers: P1 to P3 of progress.h.
 *   R2   a leader is its own leader; a candidate or pre-candidate knows none.
 *   R3   a candidate and a leader voted for themselves in this term.
 *   R4   the term of the last entry is <= the current term.
 *   R5   a leader's own match is <= its durable index and is what commit counts.
 *   R6   commit of a leader is <= what a quorum acknowledged, unless it learned it as follower.
 *   R7   config: C1 to C4; peers are exactly its members, in id order.
 *   R8   transferee is set only at a leader, and is a voter of either half.
 *   R9   reads wait only at a leader; their positions are the last ones given, without gaps.
 *   R10  issued appends >= done appends; the node's own vote waits for a sequence not yet done.
 */
struct raft {
    struct raft_options options;
    struct raft_log log;
    uint64_t random_state;

    /* Durable. */
    uint64_t term;
    uint64_t vote;

    /* Role. */
    enum raft_role role;
    uint64_t leader;
    uint64_t transferee;
    uint64_t pending_config_index; /* leader: no configuration change above it is in the log */
    uint64_t term_start_index;     /* leader: its own empty entry */
    bool campaign_transfer;        /* the campaign was asked for by the old leader */
    bool campaign_deferred;        /* asked for, but a committed change is not applied yet */
    bool lease_ended;              /* leader: it told another to campaign, past all leases */
    bool restricted;               /* see raft_restrict() */

    /* Time. */
    uint64_t now_ns;
    uint64_t election_reset_ns; /* when the election timer was last restarted */
    uint64_t election_draw_ns;  /* it fires this much later */
    uint64_t election_grace_ns; /* and this much later still, after a pause of our own */
    uint64_t heartbeat_due_ns;
    uint64_t quorum_check_ns; /* leader: last check */
    uint64_t transfer_start_ns;
    uint64_t vote_hold_until_ns; /* lease mode: no campaign and no grant before, whoever leads: a
                                  * leader may count on it, or have been promised it before we
                                  * started */

    /* Members. */
    struct raft_config config;
    uint64_t config_index; /* where config came from */
    struct raft_peer *peers[RAFT_MEMBERS_MAX];
    uint32_t peer_count;
    struct raft_peer peer_slots[RAFT_MEMBERS_MAX];

    /* Append lane. */
    uint64_t append_issued;      /* sequence */
    uint64_t append_done;        /* sequence */
    uint64_t self_vote_sequence; /* our own vote counts when this is done; 0 = none */
    uint64_t
        snapshot_sequence; /* the pending snapshot is installed when this is done; 0 = not issued */
    struct hard_state hard_state_issued;
    bool snapshot_pending;
    bool truncated;
    struct raft_snapshot snapshot_install;

    /* Apply lane. */
    uint64_t applying_bytes;
    bool apply_cut_short;

    /* Outgoing. */
    struct raft_message *messages;
    uint32_t message_count;
    struct raft_read *reads_ready;
    uint32_t reads_ready_count;
    enum raft_role issued_role;
    uint64_t issued_leader;
    uint64_t issued_term;

    /* Reads at the leader: a ring. */
    struct raft_read_pending *reads;
    uint32_t reads_start;
    uint32_t reads_count;
    uint64_t read_position; /* newest */
    uint64_t read_confirmed_position;
    bool read_round_due; /* heartbeats are to confirm the newest position */

    struct raft_counters counters;
};

/* Bytes of memory that raft_init() wants, 16-aligned. */
size_t raft_memory_bytes(const struct raft_options *options);

/*
 * Starts a node from what it remembers. ERR_CONFIG: options out of range. ERR_CORRUPT: the parts do
 * not fit together (a commit index beyond the log means that the log was lost): the node must not
 * take part under this id. Positions come back as they were stored; applied may exceed the stored
 * commit, which is only a lower bound.
 */
must_check int raft_init(struct raft *raft, const struct raft_options *options,
                         const struct raft_storage *storage, const struct raft_start *start,
                         void *memory, uint64_t now_ns);

/* Time passes: elections, heartbeats, quorum checks. Never goes back. */
must_check int raft_tick(struct raft *raft, uint64_t now_ns);

/* When raft_tick() has something to do next; a caller may tick more often, not less. */
uint64_t raft_deadline_ns(const struct raft *raft);

/*
 * A message from a peer, decoded but not trusted. ERR_MALFORMED: it cannot come from a correct
 * peer. ERR_NOT_FOUND: an answer from a node that is no member. ERR_CORRUPT: the leader counts on
 * entries that this node does not have: it lost its log and must leave. ERR_FULL: nothing happened,
 * drain raft_ready() and step it again (or drop it). On an error the entries of the message stay
 * the caller's; else each one is released once, now or later.
 */
must_check int raft_step(struct raft *raft, const struct raft_message *message);

/*
 * Appends entries at the leader, all or none; sets index and term in the array. Entries of type
 * ENTRY_CONFIG_CHANGE carry an encoded raft_config_change. On success `*first_index` is the index
 * of the first, the rest follow.
 */
must_check int raft_propose(struct raft *raft, struct entry *entries, uint32_t entry_count,
                            uint64_t *first_index);

/*
 * Asks for an index at which a read is linearizable; the answer comes in ready.reads with this id,
 * or never (leader change, lost message): time out and ask again with a new id. One request may
 * stand for any number of client reads that arrived before it.
 */
must_check int raft_read_index(struct raft *raft, uint64_t id);

/* True while this node is the only member, leads, and its state machine has reached its own term:
 * then what raft_read_index() would answer, at once, is what was already applied or is not yet
 * acknowledged to anybody. Turns false before ready shows a message to another member. */
bool raft_reads_are_local(const struct raft *raft);

/* Starts an election now, if this node may. */
void raft_campaign(struct raft *raft);

/* Hands leadership to voter `to`; a follower passes the wish on. Given up after one timeout, or
 * when the leader is told its own id. ERR_BAD_TRANSFEREE (no member, or a learner), ERR_NO_LEADER,
 * ERR_FULL. */
must_check int raft_transfer(struct raft *raft, uint64_t to);

/* A follower stops believing in its leader (its connections died). No effect in lease mode. */
void raft_forget_leader(struct raft *raft);

/* A leader gives up (its disk hangs, say). */
void raft_step_down(struct raft *raft);

/* The lowest entry above applying that this node lost the bytes of (its index and term are known
 * still), or 0: none. While there is one the node votes and follows as ever, but does not campaign,
 * acknowledges only what lies below it, and gives nothing from it on to the apply lane. Whoever
 * finds the bytes elsewhere calls again with the next one. A new leader whose history differs there
 * ends it too. At a leader it does not take back what was acknowledged. */
void raft_set_faulty(struct raft *raft, uint64_t index);

/*
 * What settles whether an entry that nobody seems to hold was ever committed. A member that knows
 * no leader gives its vote of the newer `term` to `asker` without comparing logs, where `asker`
 * does not campaign in that term (for itself it calls this too): nobody leads in it, and appends of
 * earlier terms find no listener any more. What a member does not hold once this is durable
 * (raft_term_is_burnt()) only a leader of a later term could bring, and none has it when no member
 * does. False: this node leads or follows, or its term is not older.
 */
must_check bool raft_burn_term(struct raft *raft, uint64_t term, uint64_t asker);
bool raft_term_is_burnt(const struct raft *raft, uint64_t term, uint64_t asker);

/* Entries >= index are on no majority and never can be. No leader, index > committed. */
void raft_drop_tail(struct raft *raft, uint64_t index);

/* While restricted this node does not campaign. */
void raft_restrict(struct raft *raft, bool restricted);

/* The transport lost messages to `peer`. */
void raft_report_unreachable(struct raft *raft, uint64_t peer);

/* The transport finished with the snapshot for `peer`: exactly once for each SNAPSHOT message. */
void raft_report_snapshot(struct raft *raft, uint64_t peer, bool ok);

/* `append` and everything issued before it is durable. In the order issued; may skip some. */
void raft_persisted(struct raft *raft, const struct raft_append *append);

/* Every entry up to `index` is applied. */
void raft_applied(struct raft *raft, uint64_t index);

/*
 * The configuration change at `index` is being applied: call in log order, before raft_applied() of
 * it. NULL = the caller voids the change. ERR_CONFIG: not legal in this configuration, which stays
 * as it is (every node decides alike). raft->config is the configuration afterwards. ERR_COMPACTED:
 * a snapshot that contains the change is on its way to the disk; the apply lane stops before this
 * entry and throws away what it still has: raft->config is the snapshot's already, and stored under
 * an older index it would make other majorities after a crash.
 */
must_check int raft_apply_config(struct raft *raft, uint64_t index,
                                 const struct raft_config_change *change);

/* The caller is about to drop entries <= index from its log; they are applied and in a snapshot.
 * The entry at `index` itself can still be looked up during the call. */
void raft_compact(struct raft *raft, uint64_t index);

/* Takes what is to be done. True when there is anything; call again until false. */
must_check bool raft_ready(struct raft *raft, struct raft_ready *ready);

/* An entry in memory, or NULL: then it is durable, read it from the log. An entry of a leader's
 * append that had to be read from disk may be sent only while raft->term is still the message's. */
const struct entry *raft_entry(const struct raft *raft, uint64_t index);

/* May a lease-based read be served at `now_ns`, not before the last tick? Never in safe mode. */
bool raft_lease_valid(const struct raft *raft, uint64_t now_ns);

/* The peer's progress, or NULL. */
const struct raft_peer *raft_peer_find(const struct raft *raft, uint64_t id);

/* R1 to R10, but of R6 only that no term is ahead of the leader's: acknowledgements of quorums that
 * ruled earlier are not kept. */
void raft_check(const struct raft *raft);

const char *raft_role_name(enum raft_role role);

#endif
