/*
 * message.h - what nodes say to each other.
 *
 * Story     One flat struct for all kinds; the table below says which fields a kind uses. An
 *           outgoing APPEND names its entries by index only; the caller looks them up
 *           (raft_entry(), or its log when they left the window) while it encodes the message. An
 *           incoming APPEND brings them in `entries`.
 *
 *           kind                term  index            log_term   commit       other
 *           APPEND              own   previous         its term   committed    entry_count, entries
 *           APPEND_RESPONSE     own   acked, or the    hint term  -            reject, hint_index
 *                                     rejected previous
 *           HEARTBEAT           own   -                -          min(match,   context = read
 *                                                                 committed)   position, sent_ns
 *           HEARTBEAT_RESPONSE  own   -                -          -            both echoed
 *           VOTE, PRE_VOTE      asked own last         its term   committed    commit_term,
 *                                                                           transfer
 *           ..._RESPONSE        *     -                -          committed    reject, commit_term
 *           SNAPSHOT            own   -                -          -            snapshot
 *           TIMEOUT_NOW         own   -                -          -            -
 *           TRANSFER            0     -                -          -            context = transferee
 *           READ_INDEX          0     -                -          -            context = request id
 *           READ_INDEX_RESPONSE own   read index       -          -            context = request id
 *
 *           (*) a grant carries the term asked for, a refusal the term of the voter.
 * Owner     entries and snapshot are borrowed: incoming for the call of raft_step(), outgoing until
 *           the next call of the core.
 * Units     sent_ns is the sender's own monotonic clock, only ever compared by the sender.
 * Source    docs/internals/raft.md.
 */
#ifndef CONSENSUS_MESSAGE_H
#define CONSENSUS_MESSAGE_H

#include "consensus/config.h"
#include "core/base.h"
#include "core/entry.h"

enum raft_message_kind { /* numbers are on the wire: never renumber */
                         RAFT_MESSAGE_APPEND = 1,
                         RAFT_MESSAGE_APPEND_RESPONSE = 2,
                         RAFT_MESSAGE_HEARTBEAT = 3,
                         RAFT_MESSAGE_HEARTBEAT_RESPONSE = 4,
                         RAFT_MESSAGE_VOTE = 5,
                         RAFT_MESSAGE_VOTE_RESPONSE = 6,
                         RAFT_MESSAGE_PRE_VOTE = 7,
                         RAFT_MESSAGE_PRE_VOTE_RESPONSE = 8,
                         RAFT_MESSAGE_SNAPSHOT = 9,
                         RAFT_MESSAGE_TIMEOUT_NOW = 10,
                         RAFT_MESSAGE_TRANSFER = 11,
                         RAFT_MESSAGE_READ_INDEX = 12,
                         RAFT_MESSAGE_READ_INDEX_RESPONSE = 13,
};

/* More elections than there can be; no arithmetic with a term overflows below it. */
#define RAFT_TERM_MAX ((uint64_t)1 << 62)

/* What a snapshot stands for. Its bytes travel beside the messages. */
struct raft_snapshot {
    uint64_t index; /* last entry it contains */
    uint64_t term;  /* of that entry */
    struct raft_config config;
};

struct raft_message {
    enum raft_message_kind kind;
    bool reject;
    bool transfer; /* this campaign was asked for by the leader: leases do not stop it */
    uint64_t from;
    uint64_t to;
    uint64_t term;
    uint64_t index;
    uint64_t log_term;
    uint64_t commit;
    uint64_t commit_term;
    uint64_t hint_index;
    uint64_t context;
    uint64_t sent_ns;
    uint32_t entry_count;                 /* entries index + 1 .. index + entry_count */
    const struct entry *entries;          /* incoming APPEND only */
    const struct raft_snapshot *snapshot; /* SNAPSHOT only */
    uint64_t after_append; /* outgoing: 0 = send now, else when this append sequence is durable */
};

/* "append", "append-response", ...; "unknown" for numbers that are none. Static storage. */
const char *raft_message_kind_name(enum raft_message_kind kind);

#endif
