/*
 * kv_service.c - etcd's KV service: checks and decodes on the connection core, writes through the
 * log, reads at the published revision. Streaming of large ranges is in range_stream.c.
 */
#include <stdlib.h>

#include "core/fiber.h"
#include "core/invariant.h"
#include "server/frontend.h"
#include "server/node_private.h"
#include "server/range_stream.h"
#include "server/remote.h"
#include "server/service_table.h"
#include "storage/lsm/lsm.h"

/* etcd judges the quota by this much beside key and value. */
#define QUOTA_OVERHEAD_BYTES 256

/* ---- replies -------------------------------------------------------------------------------- */

/* A reply too large for the connection's buffer: built once, then copied out as the window opens.
 * The connection counts it. The reply to a write is owed whatever it takes: the write is done. */
struct built_reply {
    size_t bytes, sent;
    uint8_t data[];
};

static int64_t built_source(struct rpc_call *call, uint8_t *to, size_t bytes_max)
{
    struct built_reply *reply = call->context;
    size_t bytes = u64_min(bytes_max, reply->bytes - reply->sent);
    memcpy(to, reply->data + reply->sent, bytes);
    reply->sent += bytes;
    return (int64_t)bytes;
}

static void built_released(struct rpc_call *call)
{
    free(call->context);
}

/* Where to write a reply of exactly `bytes`; NULL (and the call failed) when memory is out. */
static uint8_t *reply_begin(struct rpc_call *call, size_t bytes)
{
    if (likely(bytes <= RPC_REPLY_DIRECT_BYTES))
        return rpc_reply_begin(call, bytes);
    struct built_reply *reply = malloc(sizeof(*reply) + bytes);
    if (reply == NULL) {
        rpc_fail(call, ERR_LIMIT);
        return NULL;
    }
    *reply = (struct built_reply){.bytes = bytes};
    call->context = reply;
    call->released = built_released;
    return reply->data;
}

static void reply_end(struct rpc_call *call, size_t bytes)
{
    if (likely(bytes <= RPC_REPLY_DIRECT_BYTES))
        rpc_reply_end(call, bytes);
    else
        rpc_reply_built(call, bytes, built_source);
}

static void reply_put(struct rpc_call *call, const struct mvcc_put_result *result)
{
    struct kv_header header = frontend_header(call_frontend(call));
    size_t bytes = kv_put_response_bytes(&header, result);
    uint8_t *to = reply_begin(call, bytes);
    if (to == NULL)
        return;
    uint8_t *end = kv_encode_put_response(to, &header, result);
    invariant(end == to + bytes);
    reply_end(call, bytes);
}

static void reply_delete(struct rpc_call *call, const struct mvcc_delete_result *result)
{
    struct kv_header header = frontend_header(call_frontend(call));
    size_t bytes = kv_delete_response_bytes(&header, result);
    uint8_t *to = reply_begin(call, bytes);
    if (to == NULL)
        return;
    uint8_t *end = kv_encode_delete_response(to, &header, result);
    invariant(end == to + bytes);
    reply_end(call, bytes);
}

static void reply_txn(struct rpc_call *call, const struct mvcc_txn_result *result, bool is_read)
{
    struct kv_header header = frontend_header(call_frontend(call));
    size_t bytes = kv_txn_response_bytes(&header, result);
    if (unlikely(bytes > RPC_REPLY_DIRECT_BYTES) && is_read && !rpc_may_build(call, bytes)) {
        rpc_fail(call, ERR_TOO_MANY_REQUESTS);
        return;
    }
    uint8_t *to = reply_begin(call, bytes);
    if (to == NULL)
        return;
    uint8_t *end = kv_encode_txn_response(to, &header, result);
    invariant(end == to + bytes);
    reply_end(call, bytes);
}

static void reply_compact(struct rpc_call *call, int64_t revision)
{
    struct kv_header header = frontend_header(call_frontend(call));
    size_t bytes = kv_compact_response_bytes(&header, revision);
    uint8_t *to = rpc_reply_begin(call, bytes);
    uint8_t *end = kv_encode_compact_response(to, &header, revision);
    invariant(end == to + bytes);
    rpc_reply_end(call, bytes);
}

/* ---- reads of one key ----------------------------------------------------------------------- */

static bool range_is_get(const struct mvcc_range_request *request)
{
    return request->range_end.size == 0 && request->min_mod_revision == 0 &&
           request->max_mod_revision == 0 && request->min_create_revision == 0 &&
           request->max_create_revision == 0;
}

static void reply_get(struct rpc_call *call, const struct mvcc_range_request *request,
                      struct mvcc_kv *kv, int64_t revision)
{
    struct kv_header header = frontend_header(call_frontend(call));
    size_t kv_bytes = 0;
    if (kv != NULL && request->keys_only) {
        kv->value = bytes_make(NULL, 0);
        kv->lease = 0; /* as etcd 3.7 answers from its key index */
    }
    if (kv != NULL && !request->count_only)
        kv_bytes = kv_range_kv_bytes(kv);
    int64_t count = kv != NULL;
    size_t bytes =
        kv_range_head_bytes(&header, revision) + kv_bytes + kv_range_tail_bytes(false, count);
    uint8_t *to = reply_begin(call, bytes);
    if (to == NULL)
        return;
    uint8_t *at = kv_encode_range_head(to, &header, revision);
    if (kv_bytes > 0)
        at = kv_encode_range_kv(at, kv);
    at = kv_encode_range_tail(at, false, count);
    invariant(at == to + bytes);
    reply_end(call, bytes);
}

/* Answers from memory. False: the disk is needed, or a reply that is read as the client takes it.
 */
static bool get_now(struct rpc_call *call, const struct mvcc_range_request *request)
{
    struct frontend *frontend = call_frontend(call);
    struct mvcc_kv kv;
    int64_t revision;
    int found = mvcc_get_now(frontend->reader, request->key, request->revision, &kv, &revision);
    if (found == ERR_WOULD_WAIT)
        return false;
    if (found < 0) {
        rpc_fail(call, found);
        return true;
    }
    if (found == 1 && unlikely(kv.value.size > RPC_REPLY_DIRECT_BYTES) &&
        !rpc_may_build(call, kv.value.size)) {
        mvcc_reader_unpin(frontend->reader);
        return false;
    }
    if (found == 1) {
        reply_get(call, request, &kv, revision);
        mvcc_reader_unpin(frontend->reader);
    } else {
        reply_get(call, request, NULL, revision);
    }
    return true;
}

/* ---- Range ---------------------------------------------------------------------------------- */

static void range_go(struct rpc_call *call, int error)
{
    struct mvcc_range_request request;
    if (error == 0)
        error = kv_decode_range(call->request, &request);
    if (error < 0) {
        rpc_fail(call, error);
        return;
    }
    if (range_is_get(&request) && get_now(call, &request))
        return;
    range_stream_unary(call);
}

void kv_service_range_ahead(void *service, const struct bytes *requests, uint32_t count)
{
    struct frontend *frontend = service;
    struct bytes keys[RPC_AHEAD_MAX];
    uint32_t key_count = 0;
    invariant(count <= RPC_AHEAD_MAX);
    for (uint32_t i = 0; i < count; i++)
        key_count += kv_peek_key(requests[i], &keys[key_count]);
    mvcc_reader_prefetch(frontend->reader, keys, key_count);
}

void kv_service_range(struct rpc_call *call)
{
    struct mvcc_range_request request;
    int error = kv_decode_range(call->request, &request);
    if (error == 0)
        error = mvcc_check_range(&request);
    if (error == 0)
        error = request.serializable ? frontend_admit_local(call) : frontend_admit(call);
    if (error < 0) {
        rpc_fail(call, error);
        return;
    }
    if ((request.serializable || frontend_reads_are_local(call_frontend(call))) &&
        range_is_get(&request) && get_now(call, &request))
        return;
    error = rpc_call_keep(call);
    if (error < 0)
        rpc_fail(call, error);
    else if (request.serializable)
        range_go(call, 0);
    else
        frontend_read_for(call, range_go);
}

static void range_stream_go(struct rpc_call *call, int error)
{
    if (error < 0)
        rpc_fail(call, error);
    else
        range_stream_messages(call);
}

void kv_service_range_stream(struct rpc_call *call)
{
    struct mvcc_range_request request;
    int error = kv_decode_range(call->request, &request);
    if (error == 0)
        error = mvcc_check_range(&request);
    if (error == 0)
        error = mvcc_check_range_stream(&request);
    if (error == 0)
        error = frontend_admit(call);
    if (error == 0)
        error = rpc_call_keep(call);
    if (error < 0)
        rpc_fail(call, error);
    else if (request.serializable)
        range_stream_go(call, 0);
    else
        frontend_read_for(call, range_stream_go);
}

/* ---- writes --------------------------------------------------------------------------------- */

/* Refuses what would exceed the quota, and raises the alarm that makes every member refuse. */
static int admit_space(struct rpc_call *call, uint64_t cost_bytes)
{
    struct frontend *frontend = call_frontend(call);
    struct node *node = frontend->node;
    int error = alarm_admit_write(&node->shared, true);
    if (error < 0)
        return error;
    if (atomic_load_explicit(&node->shared.log_space_low, memory_order_relaxed))
        return ERR_NO_SPACE;
    if (likely(!alarm_over_quota(node, cost_bytes)))
        return 0;
    frontend_raise_alarm(frontend, ALARM_NO_SPACE);
    return ERR_NO_SPACE;
}

void kv_service_put(struct rpc_call *call)
{
    struct mvcc_put_request request;
    int error = kv_decode_put(call->request, &request);
    if (error == 0)
        error = mvcc_check_put(&request);
    if (error == 0)
        error = frontend_admit(call);
    if (error == 0)
        error = admit_space(call, QUOTA_OVERHEAD_BYTES + request.key.size + request.value.size);
    if (error < 0)
        rpc_fail(call, error);
    else
        frontend_propose(call, REQUEST_PUT, call->request);
}

void kv_service_delete_range(struct rpc_call *call)
{
    struct mvcc_delete_request request;
    int error = kv_decode_delete(call->request, &request);
    if (error == 0)
        error = mvcc_check_delete(&request);
    if (error == 0)
        error = frontend_admit(call);
    if (error == 0)
        error = alarm_admit_write(&call_frontend(call)->node->shared, false);
    if (error < 0)
        rpc_fail(call, error);
    else
        frontend_propose(call, REQUEST_DELETE_RANGE, call->request);
}

/* The dearer branch counts, as etcd has it. */
static uint64_t ops_cost_bytes(const struct mvcc_op *ops, uint32_t count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        if (ops[i].kind == MVCC_OP_PUT)
            bytes += QUOTA_OVERHEAD_BYTES + ops[i].put.key.size + ops[i].put.value.size;
        else if (ops[i].kind == MVCC_OP_TXN)
            bytes += u64_max(ops_cost_bytes(ops[i].txn.success, ops[i].txn.success_count),
                             ops_cost_bytes(ops[i].txn.failure, ops[i].txn.failure_count));
    return bytes;
}

static void txn_read_run(void *argument)
{
    struct rpc_call *call = argument;
    struct mvcc_txn_request request;
    struct mvcc_txn_result result;
    struct arena arena;
    arena_init(&arena, PROPOSAL_RESULT_BYTES_MAX);
    int error = kv_decode_txn(call->request, &arena, &request);
    if (error == 0)
        error = mvcc_read_txn(call_frontend(call)->reader, &request, &arena, &result);
    if (error < 0)
        rpc_fail(call, error);
    else
        reply_txn(call, &result, true);
    arena_deinit(&arena);
}

static void txn_read_go(struct rpc_call *call, int error)
{
    if (error == 0)
        error = fiber_spawn_request(call_frontend(call)->core, FIBER_LATENCY, txn_read_run, call);
    if (error < 0)
        rpc_fail(call, error == ERR_FULL ? ERR_TOO_MANY_REQUESTS : error);
}

static void txn_read(struct rpc_call *call, bool serializable)
{
    int error = rpc_call_keep(call);
    if (error < 0)
        rpc_fail(call, error);
    else if (serializable)
        txn_read_go(call, 0);
    else
        frontend_read_for(call, txn_read_go);
}

void kv_service_txn(struct rpc_call *call)
{
    struct frontend *frontend = call_frontend(call);
    struct mvcc_txn_request request;
    int error = kv_decode_txn(call->request, &call->arena, &request);
    if (error == 0)
        error =
            mvcc_check_txn(&request, (uint32_t)frontend->node->config->max_txn_ops, &call->arena);
    if (error == 0)
        error = frontend_admit(call);
    if (error == 0 && mvcc_txn_is_read_only(&request)) {
        txn_read(call, mvcc_txn_is_serializable(&request));
        return;
    }
    if (error == 0 && kv_txn_has_put(&request))
        error = admit_space(call, u64_max(ops_cost_bytes(request.success, request.success_count),
                                          ops_cost_bytes(request.failure, request.failure_count)));
    else if (error == 0)
        error = alarm_admit_write(&frontend->node->shared, false);
    if (error < 0)
        rpc_fail(call, error);
    else
        frontend_propose(call, REQUEST_TXN, call->request);
}

/* ---- Compact -------------------------------------------------------------------------------- */

void kv_service_compact(struct rpc_call *call)
{
    struct mvcc_compact_request request;
    int error = kv_decode_compact(call->request, &request);
    if (error == 0)
        error = frontend_admit(call);
    if (error == 0)
        error = alarm_admit_write(&call_frontend(call)->node->shared, false);
    if (error < 0) {
        rpc_fail(call, error);
        return;
    }
    call->user[RPC_CALL_USER_WORDS - 1] = request.physical;
    frontend_propose(call, REQUEST_COMPACT, call->request);
}

struct purge {
    struct node *node;
    int error;
};

static void purge_run(void *argument)
{
    struct purge *purge = argument;
    purge->error = mvcc_purge(purge->node->mvcc);
}

struct physical_compact {
    struct rpc_call *call;
    int64_t revision;
};

static void physical_run(void *argument)
{
    struct physical_compact *compact = argument;
    struct node *node = call_frontend(compact->call)->node;
    struct purge purge = {.node = node};
    remote_call_request(node->map.raft, purge_run, &purge);
    if (purge.error < 0)
        rpc_fail(compact->call, purge.error);
    else
        reply_compact(compact->call, compact->revision);
    free(compact);
}

static void answer_compact(struct rpc_call *call, int64_t revision)
{
    if (!call->user[RPC_CALL_USER_WORDS - 1]) {
        reply_compact(call, revision);
        return;
    }
    struct physical_compact *compact = malloc(sizeof(*compact));
    if (compact != NULL) {
        *compact = (struct physical_compact){.call = call, .revision = revision};
        if (fiber_spawn_request(call_frontend(call)->core, FIBER_BACKGROUND, physical_run,
                                compact) == 0)
            return;
    }
    free(compact);
    reply_compact(call, revision); /* it is compacted; space is freed in time all the same */
}

void frontend_answer(struct rpc_call *call, struct proposal *proposal)
{
    switch (proposal->kind) {
    case REQUEST_PUT:
        reply_put(call, &proposal->result.put);
        break;
    case REQUEST_DELETE_RANGE:
        reply_delete(call, &proposal->result.del);
        break;
    case REQUEST_TXN:
        reply_txn(call, &proposal->result.txn, false);
        break;
    case REQUEST_COMPACT:
        answer_compact(call, proposal->result.revision);
        break;
    case REQUEST_ALARM:
        maintenance_service_answer_alarm(call, proposal->result.alarms);
        break;
    case REQUEST_MEMBER_ADD:
    case REQUEST_MEMBER_REMOVE:
    case REQUEST_MEMBER_PROMOTE:
    case REQUEST_MEMBER_UPDATE:
    case REQUEST_MEMBER_PUBLISH:
        invariant(!"the raft core's own requests do not come home to a connection core");
    }
    proposal_destroy(proposal);
}
