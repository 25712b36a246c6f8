#include "net/native_frame.h"
#include "net/pb.h"
#include "net/rpc_internal.h"

#include <stdlib.h>

#include "core/invariant.h"

/*
 * Native frames on a connection. No state of its own: an incomplete frame (or, while reading is
 * paused, frames not looked at yet) waits in connection->partial.
 */

#define NATIVE_ERROR_TEXT_BYTES_MAX 1024
#define NATIVE_SOURCE_BYTES         ((size_t)(16 * 1024)) /* payload of one part of a source */

extern const struct rpc_transport_ops native_ops;

/* ---- replies -----------------------------------------------------------------------------------
 */

static void native_seal(struct rpc_call *call, uint8_t *to, uint8_t flags, size_t payload_bytes)
{
    struct native_frame frame = {.flags = (uint8_t)(flags | NATIVE_FLAG_REPLY),
                                 .method = call->method->native,
                                 .payload_bytes = (uint32_t)payload_bytes,
                                 .request_id = call->request_id};
    native_frame_seal(to, &frame);
    outbuf_commit(&call->connection->out, NATIVE_HEADER_BYTES + payload_bytes);
    connection_mark_dirty(call->connection);
}

static uint8_t *native_message_begin(struct rpc_call *call, size_t bytes_max)
{
    struct connection *connection = call->connection;
    if (call->method->kind != RPC_UNARY && connection->out.bytes > 0 &&
        connection->out.bytes + bytes_max > RPC_SEND_QUEUE_BYTES_MAX) {
        connection->has_refused = true;
        return NULL;
    }
    return outbuf_reserve(&connection->out, NATIVE_HEADER_BYTES + bytes_max) + NATIVE_HEADER_BYTES;
}

static void native_message_end(struct rpc_call *call, size_t bytes, bool last)
{
    struct outbuf *out = &call->connection->out;
    native_seal(call, out->last->data + out->last->end, last ? 0 : NATIVE_FLAG_MORE, bytes);
}

/* raftpb.Error */
static void native_put_error(struct connection *connection, uint16_t method, uint64_t request_id,
                             int error, enum grpc_status status, const char *text)
{
    struct bytes name = bytes_from_text(error < 0 ? err_name(error) : "");
    struct bytes text_bytes = bytes_from_text(text);
    text_bytes.size = u64_min(text_bytes.size, NATIVE_ERROR_TEXT_BYTES_MAX);
    uint8_t *frame_at =
        outbuf_reserve(&connection->out, NATIVE_HEADER_BYTES + name.size + text_bytes.size + 64);
    uint8_t *payload = frame_at + NATIVE_HEADER_BYTES;
    uint8_t *to = pb_put_varint_field(payload, 1, (uint64_t)(int64_t)error);
    to = pb_put_bytes_field(to, 2, name);
    to = pb_put_bytes_field(to, 3, text_bytes);
    to = pb_put_varint_field(to, 4, status);
    struct native_frame frame = {.flags = NATIVE_FLAG_REPLY | NATIVE_FLAG_ERROR,
                                 .method = method,
                                 .payload_bytes = (uint32_t)(to - payload),
                                 .request_id = request_id};
    native_frame_seal(frame_at, &frame);
    outbuf_commit(&connection->out, NATIVE_HEADER_BYTES + frame.payload_bytes);
    connection_mark_dirty(connection);
}

static void native_end(struct rpc_call *call, int error, enum grpc_status status, const char *text)
{
    if (status != GRPC_OK) {
        native_put_error(call->connection, call->method->native, call->request_id, error, status,
                         text);
        return;
    }
    /* A stream's last frame carries no message: an empty payload without MORE. */
    (void)outbuf_reserve(&call->connection->out, NATIVE_HEADER_BYTES);
    struct outbuf *out = &call->connection->out;
    native_seal(call, out->last->data + out->last->end, 0, 0);
}

static void native_source(struct rpc_call *call)
{
    call->connection->pulling = true; /* in the flush */
    connection_mark_dirty(call->connection);
}

static void native_pause(struct rpc_call *call, bool paused)
{
    struct connection *connection = call->connection;
    connection->held = paused;
    connection_update_pause(connection);
}

static void native_detach(struct rpc_call *call)
{
    (void)call;
}

const struct rpc_transport_ops native_ops = {
    .message_begin = native_message_begin,
    .message_end = native_message_end,
    .source = native_source,
    .end = native_end,
    .pause = native_pause,
    .detach = native_detach,
};

/* One part of a large reply; each part is a frame with its own checksum. */
static void native_pull(struct rpc_call *call)
{
    size_t bytes_max = u64_min(call->source_bytes_left, NATIVE_SOURCE_BYTES);
    struct outbuf *out = &call->connection->out;
    uint8_t *to = outbuf_reserve(out, NATIVE_HEADER_BYTES + bytes_max);
    int64_t bytes = call->source(call, to + NATIVE_HEADER_BYTES, bytes_max);
    if (bytes == RPC_SOURCE_WAIT) {
        call->source_waits = true;
        return;
    }
    enum grpc_status status = GRPC_OK;
    if (bytes < 0) {
        status = err_grpc_status((int)bytes);
        native_end(call, (int)bytes, status, err_text((int)bytes));
    } else {
        invariant((uint64_t)bytes <= bytes_max);
        call->source_bytes_left -= (uint64_t)bytes;
        bool is_last = call->source_bytes_left == 0;
        native_seal(call, to, is_last ? 0 : NATIVE_FLAG_PART, (size_t)bytes);
        if (!is_last)
            return;
    }
    rpc_call_count(call, status);
    rpc_call_detach(call);
    rpc_call_release(call);
}

/* ---- requests ----------------------------------------------------------------------------------
 */

static struct rpc_call *native_find_call(struct connection *connection, uint64_t request_id)
{
    for (struct rpc_call *call = connection->calls; call != NULL; call = call->next) {
        if (call->request_id == request_id)
            return call;
    }
    return NULL;
}

/* A frame of a call that is under way: another message, the end of input, or a cancellation. The
 * call may have ended meanwhile; then the frame is late and means nothing. */
static void native_continue(struct connection *connection, const struct native_frame *frame)
{
    struct rpc_call *call = native_find_call(connection, frame->request_id);
    if (call == NULL)
        return;
    if (frame->flags & NATIVE_FLAG_CANCEL) {
        rpc_call_cancel(call);
        return;
    }
    if (call->method->kind != RPC_BIDI)
        return;
    bool is_end = (frame->flags & NATIVE_FLAG_MORE) == 0;
    if (call->message != NULL && (!is_end || frame->payload_bytes > 0)) {
        connection->server->stats.messages_received[call->method->id]++;
        call->message(call, bytes_make(frame->payload, frame->payload_bytes));
    }
    if (!is_end || native_find_call(connection, frame->request_id) != call)
        return; /* more is to come, or the message ended the call */
    if (call->half_closed != NULL)
        call->half_closed(call);
    else
        rpc_finish(call, 0);
}

static void native_request(struct connection *connection, const struct native_frame *frame)
{
    struct rpc_server *server = connection->server;
    const struct rpc_method *method = rpc_method_by_number(server, frame->method);
    if (unlikely(method == NULL)) {
        native_put_error(connection, frame->method, frame->request_id, ERR_UNIMPLEMENTED,
                         GRPC_UNIMPLEMENTED, err_text(ERR_UNIMPLEMENTED));
        return;
    }
    if (unlikely(connection->draining)) {
        native_put_error(connection, frame->method, frame->request_id, ERR_STOPPED,
                         GRPC_UNAVAILABLE, err_text(ERR_STOPPED));
        return;
    }
    struct rpc_call *call = rpc_call_acquire(connection, &native_ops);
    if (unlikely(call == NULL)) {
        native_put_error(connection, frame->method, frame->request_id, ERR_FULL,
                         GRPC_RESOURCE_EXHAUSTED, "too many calls in flight");
        return;
    }
    call->transport = RPC_NATIVE;
    call->request_id = frame->request_id;
    call->requires_leader = (frame->flags & NATIVE_FLAG_REQUIRE_LEADER) != 0;
    call->token = arena_copy(&call->arena, /* a HELLO may replace it meanwhile */
                             bytes_make(connection->token, connection->token_bytes));
    if (frame->timeout_ms != 0)
        rpc_call_set_deadline(call, server->now_ns + frame->timeout_ms * NS_PER_MS);
    rpc_call_start(call, method);
    bool is_bidi = method->kind == RPC_BIDI;
    if (!is_bidi && unlikely(!rpc_call_charge(call, frame->payload_bytes))) {
        rpc_fail(call, ERR_TOO_MANY_REQUESTS);
        return;
    }
    if (!is_bidi) {
        call->request = bytes_make(frame->payload, frame->payload_bytes);
        server->stats.messages_received[method->id]++;
    }
    method->handle(call);
    if (is_bidi && (frame->payload_bytes > 0 || (frame->flags & NATIVE_FLAG_MORE) == 0))
        native_continue(connection, frame);
}

/* Tells the method of the first frame about it and those of the same method behind it. Looks at
 * headers only: what is malformed is found when its turn comes. Returns the frames looked at, at
 * least 1. */
static uint32_t native_look_ahead(struct connection *connection, const uint8_t *data, size_t bytes)
{
    struct rpc_server *server = connection->server;
    struct bytes requests[RPC_AHEAD_MAX];
    const struct rpc_method *method = NULL;
    uint32_t count = 0;
    while (count < RPC_AHEAD_MAX) {
        uint16_t number;
        size_t whole = native_frame_peek(data, bytes, &number, &requests[count]);
        if (whole == 0 || (count > 0 && number != method->native))
            break;
        if (count == 0) {
            method = rpc_method_by_number(server, number);
            if (method == NULL || method->ahead == NULL)
                return 1;
        }
        count++;
        data += whole;
        bytes -= whole;
    }
    if (count > 1)
        method->ahead(server->options.service, requests, count);
    return count > 0 ? count : 1;
}

/* Handles the whole frames in front; returns the bytes taken, or a negative error. */
static int64_t native_take(struct connection *connection, const uint8_t *data, size_t bytes,
                           size_t *wanted)
{
    uint32_t payload_bytes_max = (uint32_t)connection->server->options.request_bytes_max;
    size_t taken = 0;
    uint32_t looked_at = 0;
    *wanted = NATIVE_HEADER_BYTES;
    while (taken < bytes && !connection->paused && !connection->ending) {
        struct native_frame frame;
        if (looked_at == 0)
            looked_at = native_look_ahead(connection, data + taken, bytes - taken);
        looked_at--;
        int64_t whole =
            native_frame_parse(data + taken, bytes - taken, payload_bytes_max, &frame, wanted);
        if (whole < 0)
            return whole;
        if (whole == 0)
            break;
        if (unlikely(frame.flags & (NATIVE_FLAG_REPLY | NATIVE_FLAG_ERROR | NATIVE_FLAG_PART)) ||
            frame.method == 0)
            return ERR_MALFORMED;
        if (likely((frame.flags & (NATIVE_FLAG_CANCEL | NATIVE_FLAG_CONTINUE)) == 0))
            native_request(connection, &frame);
        else
            native_continue(connection, &frame);
        taken += (size_t)whole;
        connection_update_pause(connection);
    }
    return (int64_t)taken;
}

/* What waits in `partial`, now that there is more of it, or that reading goes on. */
static int native_take_partial(struct connection *connection, size_t *wanted)
{
    int64_t taken = native_take(connection, connection->partial, connection->partial_bytes, wanted);
    if (taken < 0)
        return (int)taken;
    connection->partial_bytes -= (uint32_t)taken;
    if (connection->partial_bytes == 0)
        connection_partial_drop(connection);
    else if (taken > 0)
        memmove(connection->partial, connection->partial + taken, connection->partial_bytes);
    return 0;
}

static int native_hold(struct connection *connection, const uint8_t *data, size_t bytes,
                       size_t wanted)
{
    size_t needed = connection->partial_bytes + bytes;
    if (needed > connection->partial_max) {
        /* A large frame grows with what arrives, not with the length it claims. */
        size_t grown = u64_max(needed, u64_min(wanted, 2 * needed));
        int error = connection_partial_grow(connection, grown);
        if (error < 0)
            return error;
    }
    memcpy(connection->partial + connection->partial_bytes, data, bytes);
    connection->partial_bytes = (uint32_t)needed;
    return 0;
}

static int native_input(struct connection *connection, const uint8_t *data, size_t bytes)
{
    size_t wanted = NATIVE_HEADER_BYTES;
    bool progressed = false;
    int error;
    /* Complete the frame that waits, with no more than it needs; then go on in place. */
    while (connection->partial_bytes > 0 && bytes > 0 && !connection->paused &&
           !connection->ending) {
        struct native_frame frame;
        int64_t whole = native_frame_parse(connection->partial, connection->partial_bytes,
                                           (uint32_t)connection->server->options.request_bytes_max,
                                           &frame, &wanted);
        if (whole < 0)
            return (int)whole;
        size_t missing = whole > 0 ? 0 : wanted - connection->partial_bytes;
        size_t part = u64_min(missing, bytes);
        error = native_hold(connection, data, part, wanted);
        if (error < 0)
            return error;
        data += part;
        bytes -= part;
        if (part == missing) {
            uint32_t before = connection->partial_bytes;
            error = native_take_partial(connection, &wanted);
            if (error < 0)
                return error;
            progressed |= connection->partial_bytes < before;
        }
    }
    if (bytes > 0 && connection->partial_bytes == 0) {
        int64_t taken = native_take(connection, data, bytes, &wanted);
        if (taken < 0)
            return (int)taken;
        data += taken;
        bytes -= (size_t)taken;
        progressed |= taken > 0;
    }
    if (bytes > 0) {
        error = native_hold(connection, data, bytes, wanted);
        if (error < 0)
            return error;
    }
    if (progressed || connection->partial_bytes == 0 || connection->paused)
        connection_expect_nothing(connection);
    if (connection->partial_bytes > 0 && !connection->paused &&
        connection->deadline_ns == UINT64_MAX)
        connection_expect(connection, connection->server->options.partial_timeout_ns);
    return 0;
}

/* ---- connection --------------------------------------------------------------------------------
 */

static int native_start(struct connection *connection)
{
    connection->server->stats.native_connections++;
    return 0;
}

static void native_run_writable(struct connection *connection)
{
    connection->has_refused = false;
    for (struct rpc_call *call = connection_walk_begin(connection); call != NULL;
         call = connection_walk_next(connection)) {
        if (!call->wants_writable)
            continue;
        call->wants_writable = false;
        if (call->writable != NULL)
            call->writable(call);
    }
}

static void native_flush(struct connection *connection)
{
    if (connection->partial_bytes > 0 && !connection->paused && !connection->ending) {
        size_t wanted;
        if (native_take_partial(connection, &wanted) < 0) {
            connection_malformed(connection);
            return;
        }
    }
    while (connection->pulling && connection->out.bytes < RPC_OUTPUT_BYTES_HIGH) {
        connection->pulling = false;
        for (struct rpc_call *call = connection_walk_begin(connection); call != NULL;
             call = connection_walk_next(connection)) {
            if (call->state != RPC_CALL_SOURCE || call->source_waits)
                continue;
            connection->pulling = true;
            if (connection->out.bytes >=
                connection->server->options.queued_bytes_per_connection_max)
                break; /* however many there are */
            native_pull(call);
        }
    }
    if (connection->has_refused && connection->out.bytes <= RPC_SEND_QUEUE_BYTES_MAX / 2)
        native_run_writable(connection);
}

static void native_drain(struct connection *connection)
{
    native_put_error(connection, 0, 0, ERR_STOPPED, GRPC_UNAVAILABLE, err_text(ERR_STOPPED));
}

static void native_tick(struct connection *connection)
{
    (void)connection;
}

static bool native_is_done(const struct connection *connection)
{
    return connection->call_count == 0;
}

static void native_stop(struct connection *connection)
{
    connection->server->stats.native_connections--;
}

const struct connection_protocol connection_native = {
    .name = "native",
    .start = native_start,
    .input = native_input,
    .flush = native_flush,
    .drain = native_drain,
    .tick = native_tick,
    .is_done = native_is_done,
    .stop = native_stop,
};
