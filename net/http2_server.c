#include "net/http2_server.h"

#include <stdlib.h>

#include "core/invariant.h"

#define HTTP2_DRAIN_NS (100 * NS_PER_MS) /* a round trip for the first GOAWAY to arrive */

static const uint8_t http2_ping_data[8] = {'r', 'a', 'f', 't', 'p', 'i', 'n', 'g'};

/* ---- streams -----------------------------------------------------------------------------------
 */

struct grpc_stream *grpc_stream_acquire(struct http2 *http2, int32_t id)
{
    struct rpc_server *server = http2->connection->server;
    struct grpc_stream *stream = server->free_streams;
    if (server->streams_live == server->options.streams_max)
        return NULL;
    if (stream != NULL) {
        server->free_streams = stream->next;
        server->free_stream_count--;
    } else {
        stream = malloc(sizeof(*stream));
        if (stream == NULL)
            return NULL;
    }
    memset(stream, 0, offsetof(struct grpc_stream, inline_out));
    stream->http2 = http2;
    stream->id = id;
    stream->out = stream->inline_out;
    stream->out_max = GRPC_STREAM_INLINE_BYTES;
    stream->next = http2->streams;
    if (http2->streams != NULL)
        http2->streams->previous = stream;
    http2->streams = stream;
    http2->stream_count++;
    server->streams_live++;
    return stream;
}

void grpc_stream_set_receiving(struct grpc_stream *stream, bool receiving)
{
    struct http2 *http2 = stream->http2;
    struct connection *connection = http2->connection;
    if (stream->receiving == receiving)
        return;
    stream->receiving = receiving;
    if (receiving) {
        if (http2->receiving_count++ == 0)
            connection_expect(connection, connection->server->options.partial_timeout_ns);
        return;
    }
    invariant(http2->receiving_count > 0);
    if (--http2->receiving_count == 0)
        connection_expect_nothing(connection);
    else /* a finished request is progress */
        connection_expect(connection, connection->server->options.partial_timeout_ns);
}

void grpc_stream_drop_input(struct grpc_stream *stream)
{
    if (stream->in == NULL)
        return;
    struct rpc_server *server = stream->http2->connection->server;
    invariant(server->partial_bytes >= stream->in_max);
    server->partial_bytes -= stream->in_max;
    free(stream->in);
    stream->in = NULL;
    stream->in_bytes = stream->in_max = 0;
}

void grpc_stream_let_go(struct grpc_stream *stream)
{
    stream->call = NULL;
    if (stream->active) {
        invariant(stream->http2->active_count > 0);
        stream->active = false;
        stream->http2->active_count--;
    }
}

bool http2_is_full(const struct http2 *http2)
{
    const struct rpc_server_options *options = &http2->connection->server->options;
    return http2->active_count >= options->calls_per_connection_max ||
           http2->queued_bytes + http2->connection->built_bytes >=
               options->queued_bytes_per_connection_max;
}

void grpc_stream_undelay(struct grpc_stream *stream)
{
    struct http2 *http2 = stream->http2;
    if (!stream->delayed)
        return;
    if (stream->delayed_previous != NULL)
        stream->delayed_previous->delayed_next = stream->delayed_next;
    else
        http2->delayed_first = stream->delayed_next;
    if (stream->delayed_next != NULL)
        stream->delayed_next->delayed_previous = stream->delayed_previous;
    else
        http2->delayed_last = stream->delayed_previous;
    stream->delayed_next = stream->delayed_previous = NULL;
    stream->delayed = false;
}

void grpc_stream_release(struct grpc_stream *stream)
{
    struct http2 *http2 = stream->http2;
    struct rpc_server *server = http2->connection->server;
    invariant(stream->call == NULL && !stream->active);
    grpc_stream_undelay(stream);
    if (stream->ready_at != 0)
        http2->ready[stream->ready_at - 1].stream = NULL;
    grpc_stream_set_receiving(stream, false);
    grpc_stream_drop_input(stream);
    invariant(http2->queued_bytes >= stream->out_end - stream->out_begin);
    http2->queued_bytes -= stream->out_end - stream->out_begin;
    if (stream->out != stream->inline_out)
        free(stream->out);
    free(stream->text);
    if (stream->previous != NULL)
        stream->previous->next = stream->next;
    else
        http2->streams = stream->next;
    if (stream->next != NULL)
        stream->next->previous = stream->previous;
    if (http2->current == stream)
        http2->current = NULL;
    invariant(http2->stream_count > 0 && server->streams_live > 0);
    http2->stream_count--;
    server->streams_live--;
    if (server->free_stream_count == GRPC_STREAMS_FREE_MAX) {
        free(stream);
        return;
    }
    stream->next = server->free_streams;
    server->free_streams = stream;
    server->free_stream_count++;
}

/* ---- session -----------------------------------------------------------------------------------
 */

static int http2_prepare_server(struct rpc_server *server)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    if (server->http2_callbacks != NULL)
        return 0;
    if (nghttp2_session_callbacks_new(&callbacks) != 0)
        return ERR_LIMIT;
    if (nghttp2_option_new(&option) != 0) {
        nghttp2_session_callbacks_del(callbacks);
        return ERR_LIMIT;
    }
    http2_receive_callbacks(callbacks);
    http2_respond_callbacks(callbacks);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    /* What matters to gRPC is checked in http2_receive.c; the rest is not forwarded anywhere. */
    nghttp2_option_set_no_http_messaging(option, 1);
    server->http2_callbacks = callbacks;
    server->http2_option = option;
    return 0;
}

void http2_server_deinit(struct rpc_server *server)
{
    while (server->free_streams != NULL) {
        struct grpc_stream *stream = server->free_streams;
        server->free_streams = stream->next;
        free(stream);
    }
    nghttp2_session_callbacks_del(server->http2_callbacks);
    nghttp2_option_del(server->http2_option);
}

static int http2_start(struct connection *connection)
{
    struct rpc_server *server = connection->server;
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, server->options.streams_per_connection_max},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, HTTP2_STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HTTP2_HEADERS_BYTES},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
    };
    int error = http2_prepare_server(server);
    if (error < 0)
        return error;
    struct http2 *http2 = calloc(1, sizeof(*http2));
    if (http2 == NULL)
        return ERR_LIMIT;
    http2->connection = connection;
    http2->started_ns = server->now_ns;
    if (nghttp2_session_server_new2(&http2->session, server->http2_callbacks, http2,
                                    server->http2_option) != 0)
        goto fail;
    if (nghttp2_submit_settings(http2->session, NGHTTP2_FLAG_NONE, settings,
                                ARRAY_COUNT(settings)) != 0 ||
        nghttp2_session_set_local_window_size(http2->session, NGHTTP2_FLAG_NONE, 0,
                                              HTTP2_CONNECTION_WINDOW) != 0)
        goto fail;
    connection->state = http2;
    server->stats.http2_connections++;
    return 0; /* the deadline of the first bytes goes on to the client's SETTINGS */
fail:
    nghttp2_session_del(http2->session);
    free(http2);
    return ERR_LIMIT;
}

/* A client that does not read, and makes us answer what is no request, is not worth the memory. */
static bool http2_is_flooded(const struct http2 *http2)
{
    return nghttp2_session_get_outbound_queue_size(http2->session) >
           HTTP2_QUEUE_FRAMES + 2 * (size_t)http2->stream_count;
}

static int http2_input(struct connection *connection, const uint8_t *data, size_t bytes)
{
    struct http2 *http2 = connection->state;
    ssize_t taken = nghttp2_session_mem_recv(http2->session, data, bytes);
    if (http2->ready_count > 0)
        http2_dispatch_ready(http2);
    http2->current = NULL;
    if (taken < 0 || http2_is_flooded(http2))
        return ERR_MALFORMED;
    if (http2->consumed_bytes > 0) {
        if (nghttp2_session_consume_connection(http2->session, http2->consumed_bytes) != 0)
            return ERR_MALFORMED;
        http2->consumed_bytes = 0;
    }
    http2->ping_sent_ns = 0; /* anything heard answers a keepalive */
    return 0;
}

static void http2_flush(struct connection *connection)
{
    struct http2 *http2 = connection->state;
    if (unlikely(http2->delayed_first != NULL))
        http2_dispatch_delayed(http2);
    while (connection->out.bytes < RPC_OUTPUT_BYTES_HIGH) {
        const uint8_t *data;
        ssize_t bytes = nghttp2_session_mem_send(http2->session, &data);
        if (bytes < 0) {
            connection_malformed(connection);
            return;
        }
        if (bytes == 0)
            break;
        outbuf_append(&connection->out, data, (size_t)bytes);
    }
    if (http2->has_writable)
        http2_run_writable(http2);
    if (unlikely(http2->delayed_first != NULL) && !http2_is_full(http2))
        connection_mark_dirty(connection);
    if (!connection->ending && nghttp2_session_want_read(http2->session) == 0 &&
        nghttp2_session_want_write(http2->session) == 0)
        connection_end(connection);
}

static void http2_drain(struct connection *connection)
{
    struct http2 *http2 = connection->state;
    if (http2->drain_ns != 0)
        return;
    http2->drain_ns = connection->server->now_ns + 1;
    if (nghttp2_submit_shutdown_notice(http2->session) != 0 ||
        nghttp2_submit_ping(http2->session, NGHTTP2_FLAG_NONE, http2_ping_data) != 0)
        connection_end(connection);
    connection_mark_dirty(connection);
}

static void http2_tick(struct connection *connection)
{
    struct http2 *http2 = connection->state;
    const struct rpc_server_options *options = &connection->server->options;
    uint64_t now_ns = connection->server->now_ns;
    http2_expire_partial(http2);
    if (http2->drain_ns != 0 && !http2->drained && now_ns >= http2->drain_ns + HTTP2_DRAIN_NS) {
        http2->drained = true;
        int32_t last = nghttp2_session_get_last_proc_stream_id(http2->session);
        if (nghttp2_submit_goaway(http2->session, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, NULL,
                                  0) != 0)
            connection_end(connection);
        connection_mark_dirty(connection);
    }
    if (http2->ping_sent_ns != 0) {
        if (now_ns >= http2->ping_sent_ns + options->keepalive_timeout_ns) {
            connection->server->stats.timeouts++;
            connection_end(connection);
        }
    } else if (now_ns >= connection->heard_ns + options->keepalive_ns) {
        http2->ping_sent_ns = now_ns;
        if (nghttp2_submit_ping(http2->session, NGHTTP2_FLAG_NONE, http2_ping_data) != 0)
            connection_end(connection);
        connection_mark_dirty(connection);
    }
}

static bool http2_is_done(const struct connection *connection)
{
    const struct http2 *http2 = connection->state;
    return http2->drained && http2->streams == NULL &&
           nghttp2_session_want_write(http2->session) == 0;
}

static void http2_stop(struct connection *connection)
{
    struct http2 *http2 = connection->state;
    while (http2->streams != NULL)
        grpc_stream_release(http2->streams);
    nghttp2_session_del(http2->session);
    free(http2);
    connection->state = NULL;
    connection->server->stats.http2_connections--;
}

const struct connection_protocol connection_http2 = {
    .name = "http2",
    .start = http2_start,
    .input = http2_input,
    .flush = http2_flush,
    .drain = http2_drain,
    .tick = http2_tick,
    .is_done = http2_is_done,
    .stop = http2_stop,
};
