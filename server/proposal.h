/*
 * proposal.h - one write of a local client on its way through log and state machine and home again.
 *
 * Story     A connection core fills it and posts MESSAGE_PROPOSE. Consensus borrows its payload
 *           until it releases the entry, which may be long after it was applied, because other
 *           members lag; the apply loop fills the result; the raft core posts MESSAGE_PROPOSED
 *           (server/pending.h), and from then on the results are the connection core's, which
 *           replies. Home and log each hold the proposal; who lets go last frees it.
 * Owner     The connection core, the raft core from MESSAGE_PROPOSE to MESSAGE_PROPOSED. The
 *           payload is immutable. The fields under "home" belong to the connection core throughout.
 * Limits    One allocation: header and payload together.
 */
#ifndef SERVER_PROPOSAL_H
#define SERVER_PROPOSAL_H

#include <stdatomic.h>

#include "core/arena.h"
#include "core/entry.h"
#include "core/queue.h"
#include "server/alarm.h"
#include "storage/log/request.h"
#include "storage/mvcc/mvcc.h"

/* A larger result fails the reply; the write stands. */
#define PROPOSAL_RESULT_BYTES_MAX ((size_t)(256 * 1024 * 1024))

struct rpc_call;

union proposal_result {
    struct mvcc_put_result put;
    struct mvcc_delete_result del;
    struct mvcc_txn_result txn;
    int64_t revision;         /* compact */
    struct alarm_set *alarms; /* in the arena */
};

struct proposal {
    /* home */
    struct proposal *older, *newer; /* in flight on the home core */
    struct rpc_call *call;          /* NULL once the client is gone or was answered */
    uint64_t deadline_ns;
    uint32_t home_core;
    enum request_kind kind;

    uint16_t stream;   /* as in the payload's header */
    uint64_t sequence; /* likewise */
    /* Instead of MESSAGE_PROPOSED, on the raft core; NULL for those of connection cores. */
    void (*done)(struct proposal *proposal);
    void *done_context;
    uint32_t entry_type; /* enum entry_type */

    /* raft core: server/pending.h */
    struct queue_link link; /* waiting to be proposed or forwarded */
    struct proposal *pending_next;
    bool queued;              /* on that queue */
    bool forwarded;           /* sent to the leader of this term */
    bool in_log;              /* consensus holds the payload */
    bool finished;            /* result or error is set */
    uint32_t copies;          /* that were sent to a leader or entered our own log */
    _Atomic uint32_t holders; /* home, and the log while in_log */

    /* result, set by the apply loop */
    int32_t error;
    union proposal_result result;
    struct arena arena; /* what the result points to */

    uint32_t payload_bytes, payload_crc;
    uint8_t payload[]; /* storage/log/request.h */
};

/* Room for a request body of `body_bytes`; NULL when out of memory. */
must_check struct proposal *proposal_create(uint32_t home_core, uint32_t body_bytes);

/* Writes the payload: header and body, or, with a change, the change around them. */
struct raft_config_change;
must_check struct proposal *proposal_create_change(uint32_t home_core,
                                                   const struct raft_config_change *change,
                                                   const struct request *request);
void proposal_fill(struct proposal *proposal, const struct request *request);
void proposal_destroy(struct proposal *proposal); /* home lets go; the result is gone */

/* As consensus takes it, once filled; the payload is borrowed. */
struct entry proposal_entry(const struct proposal *proposal);

/* Raft core: consensus takes the payload, and gives it back. */
void proposal_enter_log(struct proposal *proposal);
void proposal_leave_log(struct proposal *proposal);

#endif
