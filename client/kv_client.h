/*
 * kv_client.h - the C client: requests of the key-value API over native frames, as straight calls.
 *
 * Story     A client has one connection at a time, to one of its endpoints. Each begins with a
 *           status request; others are sent once that is answered. When an endpoint does not accept
 *           or does not answer it the next one is dialled, and the client pauses once none of a
 *           round served. A connection that served and is lost is dialled again first. Any number
 *           of fibers call at once; their requests share the connection and are answered in any
 *           order.
 * Silence   A connection on which nothing came in since a call that ran out of time was sent takes
 *           no further ones; the next endpoint is dialled. With several endpoints, one that accepts
 *           has a second to answer the status request, and a read goes to the next when no byte
 *           came for a second (for two in the second round, and so on).
 * Retries   A request that the cluster surely did not execute, and any request that only reads, is
 *           sent again, with growing pauses, until its deadline. A write whose fate is unknown is
 *           never sent twice. It is unknown when the write was sent, and its answer is missing,
 *           unintelligible, or an error that says as little: kv_failure.maybe_executed.
 * Owner     The core of the client_set. Requests are borrowed for the call; a response belongs to
 *           the caller, who releases it with its own ..__free_unpacked(response, NULL).
 * Threads   Owner core only; every call but open waits and therefore needs a fiber.
 * Units     Timeouts in ms, 0 for the default of the client.
 * Errors    core/err.h's number as the server gave it; ERR_DEADLINE when time was up.
 * Limits    KV_CLIENT_ENDPOINTS_MAX endpoints, calls_max requests in flight (ERR_FULL above).
 * Source    docs/protocol.md, docs/operations/raftctl.md.
 */
#ifndef CLIENT_KV_CLIENT_H
#define CLIENT_KV_CLIENT_H

#include "core/core.h"
#include "core/err.h"
#include "net/client_socket.h"
#include "proto/raft.pb-c.h"
#include "proto/rpc.pb-c.h"

#define KV_CLIENT_ENDPOINTS_MAX     32
#define KV_CLIENT_ENDPOINT_BYTES    256
#define KV_CLIENT_DIAL_MS_DEFAULT   2000
#define KV_CLIENT_CALL_MS_DEFAULT   5000
#define KV_CLIENT_CALLS_MAX_DEFAULT 1024
#define KV_FAILURE_TEXT_BYTES       256

struct kv_client;

struct kv_client_options {
    const char *const
        *endpoints; /* "host:port", "http://host:port", "[::1]:port", ":port"; copied */
    uint32_t endpoint_count;
    uint64_t dial_timeout_ms; /* for one endpoint, until it serves */
    uint64_t call_timeout_ms; /* for a call, dialling and retries included */
    uint32_t calls_max;
};

/* Why a call failed; filled in only when it did. */
struct kv_failure {
    enum grpc_status status;
    char text[KV_FAILURE_TEXT_BYTES]; /* the server's, as a client of etcd compares it */
    bool maybe_executed;              /* of a write: nobody knows */
    int link_error;                   /* of the last endpoint that did not serve, or 0 */
    const char *link_endpoint;        /* which one; the client's */
};

/* Dials nothing yet. ERR_CONFIG with a line in `reason` for an endpoint that cannot be one. */
must_check int kv_client_open(struct client_set *set, const struct kv_client_options *options,
                              struct kv_client **client, char *reason, size_t reason_bytes);

/* Fiber. No call is under way. Returns when the last connection is gone. */
void kv_client_close(struct kv_client *client);

/* Which endpoint the connection leads to, or the next one to be dialled. */
const char *kv_client_endpoint(const struct kv_client *client);

/* ---- calls: fiber; `failure` may be NULL
 * -------------------------------------------------------*/

/* The general form; `response` is of the type that goes with `method`. */
must_check int kv_client_call(struct kv_client *client, Raftpb__Method method,
                              const ProtobufCMessage *request, uint64_t timeout_ms,
                              ProtobufCMessage **response, struct kv_failure *failure);

#define KV_CLIENT_CALL(name, method, request_type, response_type)                                  \
    must_check static inline int kv_client_##name(                                                 \
        struct kv_client *client, const request_type *request, uint64_t timeout_ms,                \
        response_type **response, struct kv_failure *failure)                                      \
    {                                                                                              \
        ProtobufCMessage *message = NULL;                                                          \
        int error = kv_client_call(client, method, &request->base, timeout_ms, &message, failure); \
        *response = (response_type *)(void *)message;                                              \
        return error;                                                                              \
    }

KV_CLIENT_CALL(put, RAFTPB__METHOD__METHOD_PUT, Etcdserverpb__PutRequest, Etcdserverpb__PutResponse)
KV_CLIENT_CALL(range, RAFTPB__METHOD__METHOD_RANGE, Etcdserverpb__RangeRequest,
               Etcdserverpb__RangeResponse)
KV_CLIENT_CALL(delete_range, RAFTPB__METHOD__METHOD_DELETE_RANGE, Etcdserverpb__DeleteRangeRequest,
               Etcdserverpb__DeleteRangeResponse)
KV_CLIENT_CALL(txn, RAFTPB__METHOD__METHOD_TXN, Etcdserverpb__TxnRequest, Etcdserverpb__TxnResponse)
KV_CLIENT_CALL(compact, RAFTPB__METHOD__METHOD_COMPACT, Etcdserverpb__CompactionRequest,
               Etcdserverpb__CompactionResponse)
KV_CLIENT_CALL(status, RAFTPB__METHOD__METHOD_STATUS, Etcdserverpb__StatusRequest,
               Etcdserverpb__StatusResponse)
KV_CLIENT_CALL(hash_kv, RAFTPB__METHOD__METHOD_HASH_KV, Etcdserverpb__HashKVRequest,
               Etcdserverpb__HashKVResponse)

#endif
