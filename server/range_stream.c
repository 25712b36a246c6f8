#include "server/range_stream.h"

#include <errno.h>
#include <stdlib.h>

#include "core/fiber.h"
#include "core/invariant.h"
#include "server/frontend.h"
#include "storage/lsm/lsm.h"

/* Lives until both the fiber and the transport are done with it. */
struct range_stream {
    struct rpc_call *call;
    struct frontend *frontend;
    struct mvcc_range_request request;
    struct mvcc_range_scan *scan;
    struct arena arena;
    struct fiber_event event; /* room in the chunk, or the call is gone */
    uint8_t *chunk;
    size_t chunk_bytes_max;
    size_t counted_bytes; /* part of frontend->range_bytes */
    size_t filled, taken;
    struct kv_header header; /* of the reply: measured and encoded, perhaps at different times */
    size_t total_bytes;      /* measured */
    bool released;           /* the transport let go of the call */
    bool messages;           /* RangeStream */
    bool waiting;            /* the source answered RPC_SOURCE_WAIT */
    int error;
};

static void measure_kv(void *context, const struct mvcc_kv *kv)
{
    struct range_stream *stream = context;
    stream->total_bytes += kv_range_kv_bytes(kv);
}

static void stream_destroy(struct range_stream *stream)
{
    if (stream->scan != NULL)
        mvcc_range_close(stream->scan);
    arena_deinit(&stream->arena);
    stream->frontend->range_bytes -= stream->counted_bytes;
    free(stream->chunk);
    free(stream);
}

/* Own copies: the call and its arena may go at any suspension. */
static int stream_open(struct range_stream *stream)
{
    struct bytes copy = arena_copy(&stream->arena, stream->call->request);
    if (copy.size != stream->call->request.size)
        return ERR_LIMIT;
    int error = kv_decode_range(copy, &stream->request);
    if (error < 0)
        return error;
    if (stream->messages) /* a target without an order is ignored here, as etcd does */
        stream->request.sort_target = MVCC_SORT_KEY;
    return mvcc_range_open(stream->frontend->reader, &stream->request, &stream->arena,
                           &stream->scan);
}

static int stream_reserve(struct range_stream *stream, size_t bytes)
{
    if (bytes <= stream->chunk_bytes_max)
        return 0;
    uint8_t *chunk = realloc(stream->chunk, bytes);
    if (chunk == NULL)
        return -ENOMEM;
    stream->chunk = chunk;
    stream->chunk_bytes_max = bytes;
    return 0;
}

/* A chunk that waits for its client. */
static int stream_reserve_counted(struct range_stream *stream, size_t bytes)
{
    size_t more = bytes > stream->counted_bytes ? bytes - stream->counted_bytes : 0;
    if (stream->frontend->range_bytes + more > RANGE_STREAM_BYTES_MAX)
        return ERR_TOO_MANY_REQUESTS;
    stream->frontend->range_bytes += more;
    stream->counted_bytes += more;
    return stream_reserve(stream, bytes);
}

/* ---- small: one buffer ---------------------------------------------------------------------- */

static int reply_small(struct range_stream *stream, const struct mvcc_range_result *result)
{
    struct mvcc_kv kv;
    int more;
    int error = stream_reserve(stream, stream->total_bytes);
    if (error < 0)
        return error;
    uint8_t *at = kv_encode_range_head(stream->chunk, &stream->header, result->revision);
    while ((more = mvcc_range_next(stream->scan, &kv)) == 1)
        at = kv_encode_range_kv(at, &kv);
    if (more < 0)
        return more;
    at = kv_encode_range_tail(at, result->more, result->count);
    invariant(at == stream->chunk + stream->total_bytes);
    rpc_reply(stream->call, bytes_make(stream->chunk, stream->total_bytes));
    return 0;
}

/* ---- large: chunks as the window opens ------------------------------------------------------ */

static int64_t stream_source(struct rpc_call *call, uint8_t *to, size_t bytes_max)
{
    struct range_stream *stream = call->context;
    if (stream->error < 0)
        return stream->error;
    size_t bytes = u64_min(bytes_max, stream->filled - stream->taken);
    stream->waiting = bytes == 0;
    if (bytes == 0)
        return RPC_SOURCE_WAIT;
    memcpy(to, stream->chunk + stream->taken, bytes);
    stream->taken += bytes;
    if (stream->taken == stream->filled) {
        stream->taken = stream->filled = 0;
        fiber_event_signal(&stream->event);
    }
    return (int64_t)bytes;
}

static void stream_released(struct rpc_call *call)
{
    struct range_stream *stream = call->context;
    stream->released = true;
    fiber_event_signal(&stream->event);
}

/* Hands over what is filled and waits until it is taken. False: the call is gone. */
static bool chunk_flush(struct range_stream *stream)
{
    if (stream->waiting && !stream->released) {
        stream->waiting = false;
        rpc_resume(stream->call);
    }
    while (stream->filled > 0 && !stream->released)
        fiber_event_wait(&stream->event);
    return !stream->released;
}

/* Room for `bytes` more in the chunk; NULL when the call is gone or there is none. */
static uint8_t *chunk_room(struct range_stream *stream, size_t bytes)
{
    if (stream->filled + bytes > stream->chunk_bytes_max) {
        if (!chunk_flush(stream))
            return NULL;
        int error = stream_reserve_counted(stream, bytes);
        if (error < 0) {
            stream->error = error;
            return NULL;
        }
    }
    invariant(stream->filled + bytes <= stream->chunk_bytes_max);
    return stream->chunk + stream->filled;
}

static void emit_large(struct range_stream *stream, const struct mvcc_range_result *result)
{
    struct mvcc_kv kv;
    int more;
    stream->filled =
        (size_t)(kv_encode_range_head(stream->chunk, &stream->header, result->revision) -
                 stream->chunk);
    while ((more = mvcc_range_next(stream->scan, &kv)) == 1) {
        size_t bytes = kv_range_kv_bytes(&kv);
        uint8_t *to = chunk_room(stream, bytes);
        if (to == NULL)
            break;
        uint8_t *end = kv_encode_range_kv(to, &kv);
        invariant(end == to + bytes);
        stream->filled += bytes;
        if (fiber_should_yield())
            fiber_yield();
    }
    if (more < 0)
        stream->error = more;
    if (more == 0) {
        size_t bytes = kv_range_tail_bytes(result->more, result->count);
        uint8_t *to = chunk_room(stream, bytes);
        if (to != NULL) {
            kv_encode_range_tail(to, result->more, result->count);
            stream->filled += bytes;
        }
    }
    chunk_flush(stream);
    while (!stream->released)
        fiber_event_wait(&stream->event);
}

static int reply_large(struct range_stream *stream, const struct mvcc_range_result *result)
{
    int error = stream_reserve_counted(stream, RANGE_STREAM_CHUNK_BYTES);
    if (error < 0)
        return error;
    stream->call->context = stream;
    stream->call->released = stream_released;
    rpc_reply_source(stream->call, stream->total_bytes, stream_source);
    emit_large(stream, result);
    return 0;
}

static void unary_run(void *argument)
{
    struct range_stream *stream = argument;
    struct mvcc_range_result result;
    int error = stream_open(stream);
    if (error == 0)
        error = mvcc_range_measure(stream->scan, measure_kv, stream, &result);
    if (error == 0) {
        stream->header = frontend_header(stream->frontend);
        stream->total_bytes += kv_range_head_bytes(&stream->header, result.revision) +
                               kv_range_tail_bytes(result.more, result.count);
        error = stream->total_bytes <= RANGE_STREAM_CHUNK_BYTES ? reply_small(stream, &result)
                                                                : reply_large(stream, &result);
    }
    if (error < 0)
        rpc_fail(stream->call, error);
    stream_destroy(stream);
}

static void stream_start(struct rpc_call *call, void (*run)(void *argument))
{
    struct range_stream *stream = calloc(1, sizeof(*stream));
    if (stream == NULL) {
        rpc_fail(call, ERR_TOO_MANY_REQUESTS);
        return;
    }
    stream->call = call;
    stream->frontend = call_frontend(call);
    arena_init(&stream->arena, 0);
    fiber_event_init(&stream->event);
    if (fiber_spawn_request(stream->frontend->core, FIBER_LATENCY, run, stream) < 0) {
        stream_destroy(stream);
        rpc_fail(call, ERR_TOO_MANY_REQUESTS);
    }
}

void range_stream_unary(struct rpc_call *call)
{
    stream_start(call, unary_run);
}

/* ---- RangeStream ---------------------------------------------------------------------------- */

/* Room again, or nobody to send to: either way the fiber goes on. */
static void stream_wake(struct rpc_call *call)
{
    struct range_stream *stream = call->context;
    fiber_event_signal(&stream->event);
}

/* One RangeStreamResponse{1: RangeResponse} around what is in the chunk; waits for room. */
static bool message_send(struct range_stream *stream, const struct mvcc_range_result *last)
{
    size_t head = last != NULL ? kv_range_head_bytes(&stream->header, last->revision) : 0;
    size_t tail = last != NULL ? kv_range_tail_bytes(last->more, last->count) : 0;
    size_t body = head + stream->filled + tail;
    size_t prefix = kv_range_part_prefix_bytes(body);
    uint8_t *to;
    while ((to = rpc_send_begin(stream->call, prefix + body)) == NULL)
        fiber_event_wait(&stream->event);
    uint8_t *at = kv_encode_range_part_prefix(to, body);
    if (last != NULL)
        at = kv_encode_range_head(at, &stream->header, last->revision);
    memcpy(at, stream->chunk, stream->filled);
    at += stream->filled;
    if (last != NULL)
        at = kv_encode_range_tail(at, last->more, last->count);
    invariant(at == to + prefix + body);
    rpc_send_end(stream->call, prefix + body);
    stream->filled = 0;
    return !rpc_is_canceled(stream->call);
}

static int messages_emit(struct range_stream *stream, const struct mvcc_range_result *result)
{
    struct mvcc_kv kv;
    int more, error = stream_reserve_counted(stream, RANGE_STREAM_CHUNK_BYTES);
    if (error < 0)
        return error;
    while ((more = mvcc_range_next(stream->scan, &kv)) == 1) {
        size_t bytes = kv_range_kv_bytes(&kv);
        if (stream->filled + bytes > stream->chunk_bytes_max && stream->filled > 0 &&
            !message_send(stream, NULL))
            return ERR_CANCELED;
        error = stream_reserve_counted(stream, bytes);
        if (error < 0)
            return error;
        kv_encode_range_kv(stream->chunk + stream->filled, &kv);
        stream->filled += bytes;
        if (fiber_should_yield())
            fiber_yield();
    }
    if (more < 0)
        return more;
    stream->header = frontend_header(stream->frontend);
    message_send(stream, result);
    return 0;
}

static void messages_run(void *argument)
{
    struct range_stream *stream = argument;
    struct mvcc_range_result result;
    stream->call->context = stream;
    stream->call->writable = stream->call->canceled = stream_wake;
    stream->messages = true;
    int error = stream_open(stream);
    if (error == 0)
        error = mvcc_range_measure(stream->scan, NULL, NULL, &result);
    if (error == 0)
        error = messages_emit(stream, &result);
    rpc_finish(stream->call, error);
    stream_destroy(stream);
}

void range_stream_messages(struct rpc_call *call)
{
    stream_start(call, messages_run);
}
