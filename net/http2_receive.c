#include "net/http2_server.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"

#define GRPC_TIMEOUT_NS_MIN   (10 * NS_PER_US) /* no reply travels in less */
#define HEADER_OVERHEAD_BYTES 32               /* of each, RFC 9113 6.5.2 */

/* ---- headers -----------------------------------------------------------------------------------
 */

static struct grpc_stream *http2_stream(struct http2 *http2, int32_t id)
{
    struct grpc_stream *current = http2->current;
    if (likely(current != NULL && current->id == id))
        return current;
    current = nghttp2_session_get_stream_user_data(http2->session, id);
    if (current != NULL)
        http2->current = current;
    return current;
}

static int http2_on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame,
                                  void *user_data)
{
    struct http2 *http2 = user_data;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct grpc_stream *stream = grpc_stream_acquire(http2, frame->hd.stream_id);
    if (stream == NULL) /* nothing was done for it: the client may try again */
        return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                         NGHTTP2_REFUSED_STREAM);
    stream->call = rpc_call_acquire(http2->connection, &grpc_ops);
    if (stream->call != NULL)
        stream->call->stream = stream;
    grpc_stream_set_receiving(stream, true);
    http2->current = stream;
    return nghttp2_session_set_stream_user_data(session, stream->id, stream);
}

static inline bool header_is(const uint8_t *name, const char *wanted, size_t bytes)
{
    return memcmp(name, wanted, bytes) == 0;
}

/* The first of its name, as far as it is of use. */
static void grpc_keep(struct grpc_stream *stream, struct bytes *kept, struct bytes text,
                      size_t bytes_max)
{
    if (stream->call == NULL || kept->data != NULL)
        return;
    text.size = u64_min(text.size, bytes_max);
    *kept = arena_copy(&stream->call->arena, text);
}

/* `token` comes before `authorization`, whatever their order. */
static void grpc_header_token(struct grpc_stream *stream, struct bytes text, bool is_token)
{
    struct rpc_call *call = stream->call;
    if (text.size > RPC_TOKEN_BYTES_MAX)
        stream->too_large = true;
    if (call == NULL || stream->too_large)
        return;
    if (is_token && !stream->has_token) {
        call->token = (struct bytes){0};
        stream->has_token = true;
    }
    grpc_keep(stream, &call->token, text, RPC_TOKEN_BYTES_MAX);
}

static void grpc_header_path(struct grpc_stream *stream, struct bytes path)
{
    struct connection *connection = stream->http2->connection;
    stream->method = rpc_method_by_path(connection->server, path);
    if (stream->method == NULL)
        grpc_keep(stream, &stream->unknown_path, path, GRPC_KEPT_BYTES_MAX);
}

static void grpc_header_timeout(struct grpc_stream *stream, struct bytes text)
{
    uint64_t timeout_ns;
    struct rpc_call *call = stream->call;
    if (grpc_parse_timeout(text, &timeout_ns) < 0)
        stream->bad_timeout = true;
    else if (timeout_ns < GRPC_TIMEOUT_NS_MIN)
        stream->late = true;
    else if (call != NULL && call->deadline_ns == UINT64_MAX)
        rpc_call_set_deadline(call, call->started_ns + timeout_ns);
}

static void grpc_header_encoding(struct grpc_stream *stream, struct bytes name)
{
    if (bytes_equal(name, bytes_from_text("identity")))
        stream->encoding = GRPC_ENCODING_IDENTITY;
    else if (bytes_equal(name, bytes_from_text("gzip")))
        stream->encoding = GRPC_ENCODING_GZIP;
    else
        stream->encoding = GRPC_ENCODING_UNKNOWN;
    if (stream->encoding == GRPC_ENCODING_UNKNOWN)
        grpc_keep(stream, &stream->unknown_encoding, name, GRPC_KEPT_BYTES_MAX);
}

/* Lengths tell the few names we care about apart; everything else is skipped. */
static int http2_on_header(nghttp2_session *session, const nghttp2_frame *frame,
                           const uint8_t *name, size_t name_bytes, const uint8_t *value,
                           size_t value_bytes, uint8_t flags, void *user_data)
{
    (void)session;
    (void)flags;
    struct grpc_stream *stream = http2_stream(user_data, frame->hd.stream_id);
    if (stream == NULL || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    struct rpc_call *call = stream->call;
    struct bytes text = bytes_make(value, value_bytes);
    size_t bytes = name_bytes + value_bytes + HEADER_OVERHEAD_BYTES;
    if (unlikely(bytes > HTTP2_HEADERS_BYTES - stream->header_bytes)) {
        stream->too_large = true;
        return 0;
    }
    stream->header_bytes += (uint32_t)bytes;
    switch (name_bytes) {
    case 5:
        if (header_is(name, ":path", 5))
            grpc_header_path(stream, text);
        else if (header_is(name, "token", 5))
            grpc_header_token(stream, text, true);
        break;
    case 7:
        if (header_is(name, ":method", 7))
            stream->is_post = value_bytes == 4 && memcmp(value, "POST", 4) == 0;
        break;
    case 9:
        if (call != NULL && header_is(name, "hasleader", 9))
            call->requires_leader = value_bytes == 4 && memcmp(value, "true", 4) == 0;
        break;
    case 12:
        if (header_is(name, "content-type", 12)) {
            stream->is_proto = value_bytes == 22 && memcmp(value + 16, "+proto", 6) == 0;
            stream->is_grpc = value_bytes >= 16 && memcmp(value, "application/grpc", 16) == 0 &&
                              (value_bytes == 16 || value[16] == '+' || value[16] == ';');
        } else if (header_is(name, "grpc-timeout", 12))
            grpc_header_timeout(stream, text);
        break;
    case 13:
        if (header_is(name, "grpc-encoding", 13))
            grpc_header_encoding(stream, text);
        else if (header_is(name, "authorization", 13))
            grpc_header_token(stream, text, false);
        break;
    case 18:
        if (call != NULL && header_is(name, "client-api-version", 18))
            grpc_keep(stream, &call->client_api_version, text, GRPC_KEPT_BYTES_MAX);
        break;
    }
    return 0;
}

/* grpc-go's texts, which clients show. */
static void grpc_refuse_unknown_path(struct grpc_stream *stream)
{
    const struct rpc_server *server = stream->http2->connection->server;
    char text[512];
    const char *path = (const char *)stream->unknown_path.data;
    size_t bytes = stream->unknown_path.size;
    const char *slash = bytes > 1 ? memrchr(path + 1, '/', bytes - 1) : NULL;
    if (slash == NULL || path[0] != '/') {
        snprintf(text, sizeof(text), "malformed method name: \"%.*s\"", (int)u64_min(bytes, 256),
                 bytes > 0 ? path : "");
        grpc_stream_refuse(stream, GRPC_UNIMPLEMENTED, text);
        return;
    }
    size_t service_bytes = (size_t)(slash - path) + 1; /* with both slashes */
    bool is_known = false;
    for (uint32_t i = 0; i < server->options.method_count && !is_known; i++) {
        const char *other = server->options.methods[i].path;
        is_known = other != NULL && strncmp(other, path, service_bytes) == 0;
    }
    int name_bytes = (int)u64_min(service_bytes - 2, 200);
    if (is_known)
        snprintf(text, sizeof(text), "unknown method %.*s for service %.*s",
                 (int)u64_min(bytes - service_bytes, 200), slash + 1, name_bytes, path + 1);
    else
        snprintf(text, sizeof(text), "unknown service %.*s", name_bytes, path + 1);
    grpc_stream_refuse(stream, GRPC_UNIMPLEMENTED, text);
}

static void grpc_on_request_headers(struct grpc_stream *stream)
{
    if (stream->too_large) {
        grpc_stream_refuse_http(stream, 431);
    } else if (!stream->is_post) {
        grpc_stream_refuse_http(stream, 405);
    } else if (!stream->is_grpc) {
        grpc_stream_refuse_http(stream, 415);
    } else if (stream->call == NULL) {
        grpc_stream_refuse(stream, GRPC_RESOURCE_EXHAUSTED, "too many calls in flight");
    } else if (stream->method == NULL) {
        grpc_refuse_unknown_path(stream);
    } else if (stream->encoding == GRPC_ENCODING_UNKNOWN) {
        char text[128];
        snprintf(text, sizeof(text),
                 "grpc: Decompressor is not installed for grpc-encoding \"%.*s\"",
                 (int)u64_min(stream->unknown_encoding.size, 64),
                 (const char *)stream->unknown_encoding.data);
        grpc_stream_refuse(stream, GRPC_UNIMPLEMENTED, text);
    } else if (stream->bad_timeout) {
        grpc_stream_refuse(stream, GRPC_INTERNAL, "malformed grpc-timeout");
    } else if (stream->late) {
        grpc_stream_refuse(stream, GRPC_DEADLINE_EXCEEDED, err_text(ERR_DEADLINE));
    } else {
        if (stream->method->kind == RPC_BIDI) {
            grpc_stream_set_receiving(stream, false);
            stream->dispatched = true;
            rpc_call_start(stream->call, stream->method);
            stream->method->handle(stream->call);
        }
    }
}

/* ---- messages ----------------------------------------------------------------------------------
 */

static void grpc_stream_fail(struct grpc_stream *stream, enum grpc_status status, const char *text)
{
    struct rpc_server_stats *stats = &stream->http2->connection->server->stats;
    if (!stream->dispatched)
        stats->started[stream->method->id]++;
    stats->handled[stream->method->id][status]++;
    grpc_stream_refuse(stream, status, text);
}

static void grpc_dispatch(struct grpc_stream *stream, struct bytes request)
{
    struct rpc_call *call = stream->call;
    invariant(call != NULL && !stream->dispatched);
    if (unlikely(!rpc_call_charge(call, request.size))) {
        grpc_stream_fail(stream, GRPC_RESOURCE_EXHAUSTED, err_text(ERR_TOO_MANY_REQUESTS));
        return;
    }
    stream->dispatched = stream->active = true;
    stream->http2->active_count++;
    rpc_call_start(call, stream->method);
    call->request = request;
    stream->http2->connection->server->stats.messages_received[stream->method->id]++;
    stream->method->handle(call);
}

/* Checks the prefix at `data`; false: the stream was refused. */
static bool grpc_check_prefix(struct grpc_stream *stream, const uint8_t *data)
{
    uint64_t bytes_max = stream->http2->connection->server->options.request_bytes_max;
    uint32_t length = grpc_prefix_length(data);
    if (unlikely(length > bytes_max)) {
        char text[96];
        snprintf(text, sizeof(text), "grpc: received message larger than max (%u vs. %llu)", length,
                 (unsigned long long)bytes_max);
        grpc_stream_fail(stream, GRPC_RESOURCE_EXHAUSTED, text);
        return false;
    }
    if (unlikely(data[0] > 1)) {
        grpc_stream_fail(stream, GRPC_INTERNAL, "grpc: received unexpected payload format");
        return false;
    }
    if (unlikely(data[0] == 1 && stream->encoding != GRPC_ENCODING_GZIP)) {
        grpc_stream_fail(stream, GRPC_INTERNAL,
                         "grpc: compressed flag set with identity or empty encoding");
        return false;
    }
    return true;
}

/* One whole message to the handler, inflated when it is compressed. */
static void grpc_deliver(struct grpc_stream *stream, const uint8_t *data)
{
    struct bytes message = bytes_make(data + GRPC_PREFIX_BYTES, grpc_prefix_length(data));
    uint8_t *inflated = NULL;
    struct rpc_call *call = stream->call;
    if (unlikely(data[0] == 1)) {
        uint64_t bytes_max = stream->http2->connection->server->options.request_bytes_max;
        size_t bytes;
        int error = grpc_inflate(message, bytes_max, &inflated, &bytes);
        if (error == ERR_LIMIT) {
            char text[96];
            snprintf(text, sizeof(text), "grpc: received message larger than max (%zu vs. %llu)",
                     bytes, (unsigned long long)bytes_max);
            grpc_stream_fail(stream, GRPC_RESOURCE_EXHAUSTED, text);
            return;
        }
        if (error < 0) {
            grpc_stream_fail(stream, GRPC_INTERNAL, "grpc: failed to decompress the message");
            return;
        }
        message = bytes_make(inflated, bytes);
    }
    if (stream->method->kind != RPC_BIDI) {
        grpc_dispatch(stream, message);
    } else if (call->message != NULL) {
        stream->http2->connection->server->stats.messages_received[stream->method->id]++;
        call->message(call, message);
    }
    free(inflated);
}

static bool grpc_input_append(struct grpc_stream *stream, const uint8_t *data, size_t bytes)
{
    struct rpc_server *server = stream->http2->connection->server;
    size_t needed = stream->in_bytes + bytes;
    if (needed > stream->in_max) {
        /* Doubling follows what arrived, not the length that the client claims. */
        size_t grown = u64_max(needed, u64_max(256, 2 * (size_t)stream->in_max));
        uint64_t more = grown - stream->in_max;
        uint8_t *in = server->partial_bytes + more > server->options.partial_bytes_max
                          ? NULL
                          : realloc(stream->in, grown);
        if (in == NULL)
            return false;
        server->partial_bytes += more;
        if (stream->in == NULL)
            stream->in_since_ns = server->now_ns;
        stream->in = in;
        stream->in_max = (uint32_t)grown;
    }
    memcpy(stream->in + stream->in_bytes, data, bytes);
    stream->in_bytes = (uint32_t)needed;
    return true;
}

/* Delivers the whole messages in front of `data`; returns the bytes taken. */
static size_t grpc_take_whole(struct grpc_stream *stream, const uint8_t *data, size_t bytes)
{
    size_t taken = 0;
    while (stream->call != NULL && !stream->call->messages_paused &&
           bytes - taken >= GRPC_PREFIX_BYTES) {
        if (!grpc_check_prefix(stream, data + taken))
            break;
        size_t whole = GRPC_PREFIX_BYTES + (size_t)grpc_prefix_length(data + taken);
        if (bytes - taken < whole)
            break;
        grpc_deliver(stream, data + taken);
        taken += whole;
    }
    return taken;
}

static void grpc_stream_half_close(struct grpc_stream *stream)
{
    struct rpc_call *call = stream->call;
    if (call == NULL || stream->half_close_told)
        return;
    stream->half_close_told = true;
    if (stream->in_bytes > 0) {
        grpc_stream_fail(stream, GRPC_INTERNAL, "unexpected EOF");
    } else if (call->half_closed != NULL) {
        call->half_closed(call);
    } else {
        rpc_finish(call, 0);
    }
}

void grpc_stream_take_messages(struct grpc_stream *stream)
{
    struct http2 *http2 = stream->http2;
    if (stream->taking)
        return;
    if (stream->in_bytes > 0) {
        stream->taking = true;
        size_t taken = grpc_take_whole(stream, stream->in, stream->in_bytes);
        stream->taking = false;
        stream->in_bytes -= (uint32_t)taken;
        if (stream->in_bytes == 0)
            grpc_stream_drop_input(stream);
        else if (taken > 0)
            memmove(stream->in, stream->in + taken, stream->in_bytes);
        if (taken > 0)
            stream->in_since_ns = http2->connection->server->now_ns;
    }
    if (stream->call == NULL) {
        grpc_stream_drop_input(stream);
        return;
    }
    if (stream->call->messages_paused)
        return;
    if (stream->unconsumed_bytes > 0 && !stream->remote_closed) {
        if (nghttp2_session_consume_stream(http2->session, stream->id, stream->unconsumed_bytes) !=
            0)
            connection_malformed(http2->connection);
        connection_mark_dirty(http2->connection);
    }
    stream->unconsumed_bytes = 0;
    if (stream->remote_closed)
        grpc_stream_half_close(stream);
}

static void grpc_bidi_data(struct grpc_stream *stream, const uint8_t *data, size_t bytes)
{
    stream->unconsumed_bytes += (uint32_t)bytes;
    size_t taken = 0;
    if (stream->in_bytes == 0) {
        stream->taking = true;
        taken = grpc_take_whole(stream, data, bytes);
        stream->taking = false;
    }
    if (stream->call == NULL) {
        stream->unconsumed_bytes = 0;
        return;
    }
    if (taken < bytes && !grpc_input_append(stream, data + taken, bytes - taken)) {
        grpc_stream_fail(stream, GRPC_RESOURCE_EXHAUSTED, "too many incomplete requests");
        return;
    }
    grpc_stream_take_messages(stream);
}

static void grpc_stream_delay(struct grpc_stream *stream)
{
    struct http2 *http2 = stream->http2;
    invariant(!stream->delayed && !stream->dispatched);
    stream->delayed = true;
    stream->delayed_previous = http2->delayed_last;
    if (http2->delayed_last != NULL)
        http2->delayed_last->delayed_next = stream;
    else
        http2->delayed_first = stream;
    http2->delayed_last = stream;
}

/* Methods that want to know hear of their neighbouring requests before the first is handled. */
static void http2_look_ahead(const struct http2 *http2)
{
    struct bytes requests[RPC_AHEAD_MAX];
    const struct rpc_method *method = NULL;
    uint32_t count = 0;
    for (uint32_t i = 0; i < http2->ready_count; i++) {
        const struct grpc_ready *ready = &http2->ready[i];
        if (ready->stream == NULL || ready->data[0] != 0 || ready->stream->method->ahead == NULL)
            continue;
        if (method == NULL)
            method = ready->stream->method;
        if (ready->stream->method == method)
            requests[count++] =
                bytes_make(ready->data + GRPC_PREFIX_BYTES, grpc_prefix_length(ready->data));
    }
    if (count > 1)
        method->ahead(http2->connection->server->options.service, requests, count);
}

void http2_dispatch_ready(struct http2 *http2)
{
    http2_look_ahead(http2);
    for (uint32_t i = 0; i < http2->ready_count; i++) {
        struct grpc_stream *stream = http2->ready[i].stream;
        const uint8_t *data = http2->ready[i].data;
        if (stream == NULL)
            continue;
        stream->ready_at = 0;
        if (likely(!http2_is_full(http2))) {
            grpc_deliver(stream, data);
            continue;
        }
        if (grpc_input_append(stream, data, GRPC_PREFIX_BYTES + (size_t)grpc_prefix_length(data)))
            grpc_stream_delay(stream);
        else
            grpc_stream_fail(stream, GRPC_RESOURCE_EXHAUSTED, "too many incomplete requests");
    }
    http2->ready_count = 0;
}

static void grpc_stream_make_ready(struct grpc_stream *stream, const uint8_t *data)
{
    struct http2 *http2 = stream->http2;
    if (http2->ready_count == RPC_AHEAD_MAX)
        http2_dispatch_ready(http2);
    http2->ready[http2->ready_count++] = (struct grpc_ready){.stream = stream, .data = data};
    stream->ready_at = (uint8_t)http2->ready_count;
}

static void grpc_unary_data(struct grpc_stream *stream, const uint8_t *data, size_t bytes, bool end)
{
    if (likely(end && stream->in_bytes == 0 && bytes >= GRPC_PREFIX_BYTES &&
               bytes == GRPC_PREFIX_BYTES + (size_t)grpc_prefix_length(data))) {
        if (grpc_check_prefix(stream, data))
            grpc_stream_make_ready(stream, data);
        return;
    }
    if (!grpc_input_append(stream, data, bytes)) {
        grpc_stream_fail(stream, GRPC_RESOURCE_EXHAUSTED, "too many incomplete requests");
        return;
    }
    if (stream->in_bytes < GRPC_PREFIX_BYTES || !grpc_check_prefix(stream, stream->in))
        return;
    /* What follows the message of a unary call is ignored, as grpc-go does. */
    size_t whole = GRPC_PREFIX_BYTES + (size_t)grpc_prefix_length(stream->in);
    stream->in_bytes = (uint32_t)u64_min(stream->in_bytes, whole);
}

static int http2_on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                               const uint8_t *data, size_t bytes, void *user_data)
{
    struct http2 *http2 = user_data;
    struct grpc_stream *stream = http2_stream(http2, stream_id);
    bool end = (flags & NGHTTP2_FLAG_END_STREAM) != 0;
    http2->consumed_bytes += bytes;
    if (stream == NULL)
        return 0;
    bool is_bidi = stream->call != NULL && stream->method->kind == RPC_BIDI;
    if (!end && !is_bidi) {
        int error = nghttp2_session_consume_stream(session, stream_id, bytes);
        if (error != 0)
            return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    if (stream->call == NULL || stream->remote_closed)
        return 0;
    if (is_bidi)
        grpc_bidi_data(stream, data, bytes);
    else if (!stream->dispatched)
        grpc_unary_data(stream, data, bytes, end);
    return 0;
}

static void grpc_on_end_stream(struct grpc_stream *stream)
{
    if (stream->remote_closed)
        return;
    stream->remote_closed = true;
    grpc_stream_set_receiving(stream, false);
    if (stream->call == NULL)
        return;
    if (stream->method->kind == RPC_BIDI) {
        if (!stream->call->messages_paused)
            grpc_stream_half_close(stream);
        return;
    }
    if (stream->dispatched || stream->ready_at != 0)
        return;
    if (stream->in_bytes < GRPC_PREFIX_BYTES ||
        stream->in_bytes != GRPC_PREFIX_BYTES + (size_t)grpc_prefix_length(stream->in)) {
        grpc_stream_fail(stream, GRPC_INTERNAL,
                         stream->in_bytes == 0 ? "no message for a unary method"
                                               : "unexpected EOF");
        return;
    }
    if (unlikely(http2_is_full(stream->http2))) {
        grpc_stream_delay(stream);
        return;
    }
    grpc_deliver(stream, stream->in);
    grpc_stream_drop_input(stream);
}

/* The connection may well progress: with other requests, and these would hold memory for ever. */
void http2_expire_partial(struct http2 *http2)
{
    const struct rpc_server *server = http2->connection->server;
    uint64_t timeout_ns = HTTP2_MESSAGE_TIMEOUTS * server->options.partial_timeout_ns;
    for (struct grpc_stream *stream = http2->streams; stream != NULL; stream = stream->next) {
        if (stream->in == NULL || stream->delayed || stream->call == NULL ||
            stream->call->messages_paused || server->now_ns < stream->in_since_ns + timeout_ns)
            continue; /* in most cases there is nothing, in the others it may be our turn */
        grpc_stream_fail(stream, GRPC_DEADLINE_EXCEEDED, "the request does not arrive");
        grpc_stream_drop_input(stream);
    }
}

void http2_dispatch_delayed(struct http2 *http2)
{
    while (http2->delayed_first != NULL && !http2_is_full(http2)) {
        struct grpc_stream *stream = http2->delayed_first;
        grpc_stream_undelay(stream);
        if (stream->call != NULL) /* else its deadline passed */
            grpc_deliver(stream, stream->in);
        grpc_stream_drop_input(stream);
    }
}

static int http2_on_settings(struct http2 *http2, bool is_ack)
{
    if (http2->receiving_count == 0)
        connection_expect_nothing(http2->connection); /* the handshake is done */
    http2->settings_count += !is_ack;
    bool is_flood = http2->settings_count > HTTP2_SETTINGS_BURST + http2_age_s(http2);
    return is_flood ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int http2_on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame,
                               void *user_data)
{
    (void)session;
    struct http2 *http2 = user_data;
    if (frame->hd.type == NGHTTP2_SETTINGS)
        return http2_on_settings(http2, (frame->hd.flags & NGHTTP2_FLAG_ACK) != 0);
    if (frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    bool end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    bool is_request =
        frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST;
    if (!is_request && !end)
        return 0;
    struct grpc_stream *stream = http2_stream(http2, frame->hd.stream_id);
    if (stream == NULL)
        return 0;
    if (is_request)
        grpc_on_request_headers(stream);
    if (end)
        grpc_on_end_stream(stream);
    return 0;
}

static int http2_on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code,
                                 void *user_data)
{
    (void)error_code;
    struct http2 *http2 = user_data;
    struct grpc_stream *stream = nghttp2_session_get_stream_user_data(session, stream_id);
    if (stream == NULL)
        return 0;
    if (stream->call != NULL)
        rpc_call_cancel(stream->call);
    invariant(stream->http2 == http2);
    grpc_stream_release(stream);
    return 0;
}

void http2_receive_callbacks(nghttp2_session_callbacks *callbacks)
{
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, http2_on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, http2_on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, http2_on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, http2_on_frame_recv);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, http2_on_stream_close);
}
