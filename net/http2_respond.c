#include "net/http2_server.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"

/* Names and values are static, so nghttp2 copies nothing. */
#define STATIC_NV(header, text)                                                                    \
    {                                                                                              \
        (uint8_t *)(uintptr_t)(header), (uint8_t *)(uintptr_t)(text), sizeof(header) - 1,          \
            sizeof(text) - 1, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE         \
    }

static const nghttp2_nv response_headers[] = {
    STATIC_NV(":status", "200"),
    STATIC_NV("content-type", "application/grpc"),
};
static const nghttp2_nv response_headers_proto[] = {
    STATIC_NV(":status", "200"),
    STATIC_NV("content-type", "application/grpc+proto"),
};
_Static_assert(ARRAY_COUNT(response_headers_proto) == ARRAY_COUNT(response_headers), "one shape");
static const nghttp2_nv trailer_ok = STATIC_NV("grpc-status", "0");
static const nghttp2_nv accept_encoding = STATIC_NV("grpc-accept-encoding", "identity,gzip");

/* ---- submitting --------------------------------------------------------------------------------
 */

static ssize_t grpc_read(nghttp2_session *session, int32_t stream_id, uint8_t *buffer,
                         size_t length, uint32_t *data_flags, nghttp2_data_source *source,
                         void *user_data);

static void http2_check(struct http2 *http2, int result)
{
    /* Out of memory, or stream ids used up: the client has to reconnect in either case. */
    if (unlikely(result != 0))
        connection_end(http2->connection);
}

static const nghttp2_nv *grpc_response_headers(const struct grpc_stream *stream)
{
    return unlikely(stream->is_proto) ? response_headers_proto : response_headers;
}

/* Response headers now, or what waits in `out` when they went before. */
static void grpc_stream_kick(struct grpc_stream *stream)
{
    struct http2 *http2 = stream->http2;
    if (!stream->responded) {
        nghttp2_data_provider provider = {.source.ptr = stream, .read_callback = grpc_read};
        stream->responded = true;
        http2_check(http2, nghttp2_submit_response(http2->session, stream->id,
                                                   grpc_response_headers(stream),
                                                   ARRAY_COUNT(response_headers), &provider));
    } else if (stream->deferred) {
        stream->deferred = false;
        http2_check(http2, nghttp2_session_resume_data(http2->session, stream->id));
    }
    connection_mark_dirty(http2->connection);
}

static nghttp2_nv grpc_status_nv(enum grpc_status status, char digits[4])
{
    int length = snprintf(digits, 4, "%u", (unsigned)status);
    nghttp2_nv nv = trailer_ok;
    nv.value = (uint8_t *)digits;
    nv.valuelen = (size_t)length;
    nv.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME;
    return nv;
}

/* A text is seen once: it must not push useful entries out of the HPACK table. */
static nghttp2_nv grpc_message_nv(const char *text, size_t bytes)
{
    static const nghttp2_nv name = STATIC_NV("grpc-message", "");
    nghttp2_nv nv = name;
    nv.value = (uint8_t *)(uintptr_t)text;
    nv.valuelen = bytes;
    nv.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_INDEX;
    return nv;
}

static void grpc_submit_trailers(struct grpc_stream *stream)
{
    struct http2 *http2 = stream->http2;
    if (likely(stream->status == GRPC_OK)) {
        http2_check(http2, nghttp2_submit_trailer(http2->session, stream->id, &trailer_ok, 1));
        return;
    }
    char digits[4];
    nghttp2_nv trailers[2] = {grpc_status_nv(stream->status, digits)};
    size_t count = 1;
    if (stream->text_bytes > 0)
        trailers[count++] = grpc_message_nv(stream->text, stream->text_bytes);
    http2_check(http2, nghttp2_submit_trailer(http2->session, stream->id, trailers, count));
}

static void grpc_submit_trailers_only(struct grpc_stream *stream, enum grpc_status status,
                                      const char *text)
{
    struct http2 *http2 = stream->http2;
    char digits[4], escaped[GRPC_TEXT_BYTES_MAX];
    nghttp2_nv headers[5] = {response_headers[0], grpc_response_headers(stream)[1],
                             grpc_status_nv(status, digits)};
    size_t count = 3;
    size_t text_bytes = grpc_escape_message(text, escaped, sizeof(escaped));
    if (text_bytes > 0)
        headers[count++] = grpc_message_nv(escaped, text_bytes);
    if (stream->encoding == GRPC_ENCODING_UNKNOWN)
        headers[count++] = accept_encoding;
    stream->responded = stream->finished = true;
    http2_check(http2, nghttp2_submit_response(http2->session, stream->id, headers, count, NULL));
    connection_mark_dirty(http2->connection);
}

/* ---- what nghttp2 takes ------------------------------------------------------------------------
 */

/* The status after the last byte; drops what could not be sent before an error. */
static void grpc_stream_finish(struct grpc_stream *stream, enum grpc_status status,
                               const char *text)
{
    invariant(!stream->finished);
    stream->finished = true;
    stream->status = (uint8_t)status;
    if (text[0] == '\0')
        return;
    stream->text = malloc(GRPC_TEXT_BYTES_MAX);
    if (stream->text != NULL) /* without memory the status goes alone */
        stream->text_bytes = (uint32_t)grpc_escape_message(text, stream->text, GRPC_TEXT_BYTES_MAX);
}

static bool grpc_out_reserve(struct grpc_stream *stream, size_t bytes)
{
    if (stream->out_begin == stream->out_end)
        stream->out_begin = stream->out_end = 0;
    if (stream->out_max - stream->out_end >= bytes)
        return true;
    size_t held = stream->out_end - stream->out_begin;
    if (held > 0)
        memmove(stream->out, stream->out + stream->out_begin, held);
    stream->out_begin = 0;
    stream->out_end = (uint32_t)held;
    if (stream->out_max - held >= bytes)
        return true;
    size_t grown = u64_max(held + bytes, 2 * (size_t)stream->out_max);
    bool is_inline = stream->out == stream->inline_out;
    if (grown > UINT32_MAX)
        return false;
    uint8_t *out = realloc(is_inline ? NULL : stream->out, grown);
    if (out == NULL)
        return false;
    if (is_inline && held > 0)
        memcpy(out, stream->inline_out, held);
    stream->out = out;
    stream->out_max = (uint32_t)grown;
    return true;
}

/* Asks the source for more; false while it waits. */
static bool grpc_pull(struct grpc_stream *stream)
{
    struct rpc_call *call = stream->call;
    size_t bytes_max = u64_min(call->source_bytes_left, GRPC_SOURCE_BYTES);
    int64_t bytes = ERR_LIMIT;
    if (grpc_out_reserve(stream, bytes_max))
        bytes = call->source(call, stream->out + stream->out_end, bytes_max);
    if (bytes == RPC_SOURCE_WAIT) {
        call->source_waits = true;
        return false;
    }
    invariant(bytes < 0 || (uint64_t)bytes <= bytes_max);
    enum grpc_status status = GRPC_OK;
    if (bytes < 0) {
        status = err_grpc_status((int)bytes);
        grpc_stream_finish(stream, status, err_text((int)bytes));
    } else {
        stream->out_end += (uint32_t)bytes;
        stream->http2->queued_bytes += (uint64_t)bytes;
        call->source_bytes_left -= (uint64_t)bytes;
        if (call->source_bytes_left > 0)
            return true;
        grpc_stream_finish(stream, GRPC_OK, "");
    }
    rpc_call_count(call, status);
    grpc_stream_let_go(stream);
    rpc_call_detach(call);
    rpc_call_release(call);
    return true;
}

static ssize_t grpc_read(nghttp2_session *session, int32_t stream_id, uint8_t *buffer,
                         size_t length, uint32_t *data_flags, nghttp2_data_source *source,
                         void *user_data)
{
    (void)session;
    (void)stream_id;
    (void)buffer;
    (void)user_data;
    struct grpc_stream *stream = source->ptr;
    size_t held = stream->out_end - stream->out_begin;
    if (held < length && stream->call != NULL && stream->call->state == RPC_CALL_SOURCE &&
        !stream->call->source_waits) {
        while (held < length && stream->call != NULL && grpc_pull(stream))
            held = stream->out_end - stream->out_begin;
    }
    size_t part = held < length ? held : length;
    if (part == held && stream->finished) {
        *data_flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        grpc_submit_trailers(stream);
    } else if (part == 0) {
        stream->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    *data_flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    return (ssize_t)part;
}

/* Frame header and payload straight into the connection's output. */
static int grpc_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *header,
                          size_t length, nghttp2_data_source *source, void *user_data)
{
    (void)session;
    struct http2 *http2 = user_data;
    struct grpc_stream *stream = source->ptr;
    struct outbuf *out = &http2->connection->out;
    invariant(frame->data.padlen == 0 && length <= stream->out_end - stream->out_begin);
    outbuf_append(out, header, 9);
    outbuf_append(out, stream->out + stream->out_begin, length);
    stream->out_begin += (uint32_t)length;
    http2->queued_bytes -= length;
    if (stream->call != NULL)
        rpc_call_moved(stream->call, length);
    if (stream->call != NULL && stream->call->wants_writable &&
        stream->out_end - stream->out_begin <= RPC_SEND_QUEUE_BYTES_MAX / 2)
        http2->has_writable = true;
    /* The frame is taken either way; PAUSE ends nghttp2's pass, which otherwise goes on over all
     * that the windows allow. The flush after a send begins the next one. */
    return out->bytes < RPC_OUTPUT_BYTES_HIGH ? 0 : NGHTTP2_ERR_PAUSE;
}

void http2_run_writable(struct http2 *http2)
{
    struct connection *connection = http2->connection;
    http2->has_writable = false;
    for (struct rpc_call *call = connection_walk_begin(connection); call != NULL;
         call = connection_walk_next(connection)) {
        const struct grpc_stream *stream = call->stream;
        if (!call->wants_writable ||
            stream->out_end - stream->out_begin > RPC_SEND_QUEUE_BYTES_MAX / 2)
            continue;
        call->wants_writable = false;
        if (call->writable != NULL)
            call->writable(call);
    }
}

/* To make the server reset a stream is as good as to reset it, and must not be cheaper. */
static void http2_on_reset_sent(struct http2 *http2, uint32_t code)
{
    if (code == NGHTTP2_NO_ERROR || code == NGHTTP2_REFUSED_STREAM)
        return;
    if (++http2->reset_count > HTTP2_RESETS_BURST + HTTP2_RESETS_PER_S * http2_age_s(http2) &&
        !http2->connection->ending)
        connection_malformed(http2->connection);
}

static int http2_on_frame_send(nghttp2_session *session, const nghttp2_frame *frame,
                               void *user_data)
{
    if (frame->hd.type == NGHTTP2_RST_STREAM)
        http2_on_reset_sent(user_data, frame->rst_stream.error_code);
    if (frame->hd.type != NGHTTP2_HEADERS || (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0)
        return 0;
    const struct grpc_stream *stream =
        nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (stream != NULL && !stream->remote_closed) /* answered early: the rest is not wanted */
        http2_check(user_data, nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, stream->id,
                                                         NGHTTP2_NO_ERROR));
    return 0;
}

void http2_respond_callbacks(nghttp2_session_callbacks *callbacks)
{
    nghttp2_session_callbacks_set_send_data_callback(callbacks, grpc_send_data);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, http2_on_frame_send);
}

/* ---- refusals ----------------------------------------------------------------------------------
 */

/* No handler will complete the call, or the one that holds it hears of it as a cancellation. */
static void grpc_stream_abandon_call(struct grpc_stream *stream)
{
    struct rpc_call *call = stream->call;
    if (call == NULL)
        return;
    grpc_stream_let_go(stream);
    rpc_call_detach(call);
    rpc_call_cancel(call);
}

void grpc_stream_refuse(struct grpc_stream *stream, enum grpc_status status, const char *text)
{
    grpc_stream_set_receiving(stream, false);
    if (!stream->responded) {
        grpc_submit_trailers_only(stream, status, text);
    } else if (!stream->finished) {
        grpc_stream_finish(stream, status, text);
        grpc_stream_kick(stream);
    }
    grpc_stream_abandon_call(stream);
}

void grpc_stream_refuse_http(struct grpc_stream *stream, int http_status)
{
    char digits[8];
    nghttp2_nv nv = response_headers[0];
    nv.valuelen = (size_t)snprintf(digits, sizeof(digits), "%d", http_status);
    nv.value = (uint8_t *)digits;
    nv.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME;
    grpc_stream_set_receiving(stream, false);
    stream->responded = stream->finished = true;
    http2_check(stream->http2,
                nghttp2_submit_response(stream->http2->session, stream->id, &nv, 1, NULL));
    connection_mark_dirty(stream->http2->connection);
    grpc_stream_abandon_call(stream);
}

/* ---- transport operations ----------------------------------------------------------------------
 */

static uint8_t *grpc_message_begin(struct rpc_call *call, size_t bytes_max)
{
    struct grpc_stream *stream = call->stream;
    size_t queued = stream->out_end - stream->out_begin;
    if (call->method->kind != RPC_UNARY && queued > 0 &&
        (queued + bytes_max > RPC_SEND_QUEUE_BYTES_MAX ||
         stream->http2->queued_bytes >= call->server->options.queued_bytes_per_connection_max))
        return NULL; /* what is queued tells when there is room */
    if (!grpc_out_reserve(stream, GRPC_PREFIX_BYTES + bytes_max))
        fatal("out of memory for a reply of %zu bytes", bytes_max);
    return stream->out + stream->out_end + GRPC_PREFIX_BYTES;
}

static void grpc_message_end(struct rpc_call *call, size_t bytes, bool last)
{
    struct grpc_stream *stream = call->stream;
    invariant(bytes + GRPC_PREFIX_BYTES <= stream->out_max - stream->out_end);
    grpc_prefix_store(stream->out + stream->out_end, (uint32_t)bytes);
    stream->out_end += (uint32_t)bytes + GRPC_PREFIX_BYTES;
    stream->http2->queued_bytes += bytes + GRPC_PREFIX_BYTES;
    if (last) {
        grpc_stream_finish(stream, GRPC_OK, "");
        grpc_stream_let_go(stream);
    }
    grpc_stream_kick(stream);
}

static void grpc_source(struct rpc_call *call)
{
    struct grpc_stream *stream = call->stream;
    if (!stream->responded) {
        invariant(stream->out_end == 0);
        grpc_prefix_store(stream->out, (uint32_t)call->source_bytes_left);
        stream->out_end = GRPC_PREFIX_BYTES;
        stream->http2->queued_bytes += GRPC_PREFIX_BYTES;
    }
    grpc_stream_kick(stream);
}

static void grpc_end(struct rpc_call *call, int error, enum grpc_status status, const char *text)
{
    (void)error;
    struct grpc_stream *stream = call->stream;
    grpc_stream_let_go(stream);
    if (!stream->responded) {
        grpc_submit_trailers_only(stream, status, text);
        return;
    }
    grpc_stream_finish(stream, status, text);
    grpc_stream_kick(stream);
}

static void grpc_pause(struct rpc_call *call, bool paused)
{
    struct grpc_stream *stream = call->stream;
    if (!paused)
        grpc_stream_take_messages(stream);
}

static void grpc_detach(struct rpc_call *call)
{
    struct grpc_stream *stream = call->stream;
    grpc_stream_let_go(stream);
}

const struct rpc_transport_ops grpc_ops = {
    .message_begin = grpc_message_begin,
    .message_end = grpc_message_end,
    .source = grpc_source,
    .end = grpc_end,
    .pause = grpc_pause,
    .detach = grpc_detach,
};
