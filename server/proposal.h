/*
 * proposal.h - one write of a local client on its way through log and state machine and home again.
 *
 * Story     A connection core fills it and posts MESSAGE_PROPOSE. Consensus borrows its payload
 *           until it releases the entry; the apply loop fills the result; the raft core posts
 *           MESSAGE_PROPOSED when both have happened, and from then on it is the connection core's
 *           again, which replies and frees it.
 * Owner     The connection core, the raft core from MESSAGE_PROPOSE to MESSAGE_PROPOSED. The fields
 *           under "home" belong to the connection core throughout.
 * Limits    One allocation: header and payload together.
 */
#ifndef SERVER_PROPOSAL_H
#define SERVER_PROPOSAL_H

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

    /* raft core */
    struct queue_link link; /* waiting to be proposed */
    bool released;          /* consensus gave the payload back */
    bool finished;          /* result is set */

    /* result, set by the apply loop */
    int32_t error;
    union proposal_result result;
    struct arena arena; /* what the result points to */

    uint32_t payload_bytes, payload_crc;
    uint8_t payload[]; /* storage/log/request.h */
};

/* Room for a request body of `body_bytes`; NULL when out of memory. */
must_check struct proposal *proposal_create(uint32_t home_core, uint32_t body_bytes);
void proposal_destroy(struct proposal *proposal);

#endif
