/*
 * test_http2.h - a detached server and a plain nghttp2 client, joined by hand: `step_bytes` says in
 * what pieces the client's bytes arrive.
 *
 * Owner     The test program that includes it.
 */
#ifndef TESTS_UNIT_TEST_HTTP2_H
#define TESTS_UNIT_TEST_HTTP2_H

#include <criterion/criterion.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>

#include "net/grpc.h"
#include "net/rpc_internal.h"

enum { CLIENT_CALLS_MAX = 64, BIG_BYTES = 1000000 };

struct client_call {
    int32_t id;
    const uint8_t *out;
    size_t out_bytes, out_sent;
    bool out_end; /* END_STREAM after out */
    char status[8], text[256], http_status[8];
    uint8_t *in;
    size_t in_bytes;
    bool closed;
    uint32_t close_code;
};

struct world {
    struct rpc_server server;
    struct connection connection;
    nghttp2_session *client;
    struct client_call calls[CLIENT_CALLS_MAX];
    uint32_t call_count;
    size_t step_bytes;
    uint8_t *input; /* from the client, before it is cut into steps */
    bool goaway, ping_answered;
};

static struct rpc_call *held_call;                          /* tests run one per process */
static uint32_t ahead_calls, ahead_requests, ahead_handled; /* handled since the last ahead */
static uint32_t canceled_count, message_count, released_count, pulled_bytes;

/* ---- handlers ----------------------------------------------------------------------------------
 */

static inline void on_released(struct rpc_call *call)
{
    (void)call;
    released_count++;
}

static inline void on_canceled(struct rpc_call *call)
{
    canceled_count++;
    rpc_fail(call, ERR_CANCELED);
}

static inline void ahead_echo(void *service, const struct bytes *requests, uint32_t count)
{
    cr_assert_eq(service, &ahead_calls);
    cr_assert(count > 1 && count <= RPC_AHEAD_MAX);
    for (uint32_t i = 0; i < count; i++)
        cr_assert(bytes_equal(requests[i], bytes_from_text("hello")));
    ahead_calls++;
    ahead_requests += count;
    ahead_handled = 0;
}

static inline void handle_echo(struct rpc_call *call)
{
    ahead_handled++;
    rpc_reply(call, call->request);
}

static inline void handle_hold(struct rpc_call *call)
{
    cr_assert_eq(rpc_call_keep(call), 0);
    held_call = call;
    call->canceled = on_canceled;
    call->released = on_released;
}

static inline int64_t pull_big(struct rpc_call *call, uint8_t *to, size_t bytes_max)
{
    if (call->user[0]++ % 5 == 4)
        return RPC_SOURCE_WAIT;
    size_t bytes = bytes_max > 10000 ? 10000 : bytes_max;
    memset(to, 'x', bytes);
    pulled_bytes += (uint32_t)bytes;
    return (int64_t)bytes;
}

static inline void handle_big(struct rpc_call *call)
{
    held_call = call;
    call->canceled = NULL;
    call->released = on_released;
    rpc_reply_source(call, BIG_BYTES, pull_big);
}

static inline void handle_fail(struct rpc_call *call)
{
    rpc_fail(call, ERR_NO_LEADER);
}

static inline void bidi_message(struct rpc_call *call, struct bytes message)
{
    message_count++;
    if (message.size > 0 && message.data[0] == '!') {
        rpc_finish(call, 0);
        return;
    }
    if (message.size > 0 && message.data[0] == 'p')
        rpc_pause_messages(call);
    cr_assert(rpc_send_message(call, message));
}

static inline void handle_bidi(struct rpc_call *call)
{
    held_call = call;
    call->message = bidi_message;
    call->canceled = on_canceled;
    call->released = on_released;
}

static inline void flood_writable(struct rpc_call *call)
{
    static const uint8_t chunk[10000];
    while (call->user[0] < 500) {
        if (!rpc_send_message(call, bytes_make(chunk, sizeof(chunk))))
            return;
        call->user[0]++;
    }
    rpc_finish(call, 0);
}

static inline void handle_flood(struct rpc_call *call)
{
    held_call = call;
    call->canceled = on_canceled;
    call->writable = flood_writable;
    flood_writable(call);
}

static const struct rpc_method methods[] = {
    {.path = "/t.T/Echo", .id = 1, .handle = handle_echo, .ahead = ahead_echo},
    {.path = "/t.T/Hold", .id = 2, .handle = handle_hold},
    {.path = "/t.T/Big", .id = 3, .handle = handle_big},
    {.path = "/t.T/Fail", .id = 4, .handle = handle_fail},
    {.path = "/t.T/Bidi", .id = 5, .kind = RPC_BIDI, .handle = handle_bidi},
    {.path = "/t.T/Flood", .id = 6, .kind = RPC_SERVER_STREAM, .handle = handle_flood},
};

/* ---- client ------------------------------------------------------------------------------------
 */

static inline struct client_call *find_call(struct world *world, int32_t id)
{
    for (uint32_t i = 0; i < world->call_count; i++) {
        if (world->calls[i].id == id)
            return &world->calls[i];
    }
    return NULL;
}

static inline int client_on_header(nghttp2_session *session, const nghttp2_frame *frame,
                                   const uint8_t *name, size_t name_bytes, const uint8_t *value,
                                   size_t value_bytes, uint8_t flags, void *user_data)
{
    (void)session;
    (void)flags;
    struct client_call *call = find_call(user_data, frame->hd.stream_id);
    struct bytes field = bytes_make(name, name_bytes);
    if (bytes_equal(field, bytes_from_text("grpc-status")))
        snprintf(call->status, sizeof(call->status), "%.*s", (int)value_bytes, value);
    else if (bytes_equal(field, bytes_from_text("grpc-message")))
        grpc_unescape_message(bytes_make(value, value_bytes), call->text, sizeof(call->text));
    else if (bytes_equal(field, bytes_from_text(":status")))
        snprintf(call->http_status, sizeof(call->http_status), "%.*s", (int)value_bytes, value);
    return 0;
}

static inline int client_on_data(nghttp2_session *session, uint8_t flags, int32_t id,
                                 const uint8_t *data, size_t bytes, void *user_data)
{
    (void)session;
    (void)flags;
    struct client_call *call = find_call(user_data, id);
    call->in = realloc(call->in, call->in_bytes + bytes);
    memcpy(call->in + call->in_bytes, data, bytes);
    call->in_bytes += bytes;
    return 0;
}

static inline int client_on_close(nghttp2_session *session, int32_t id, uint32_t code,
                                  void *user_data)
{
    (void)session;
    struct client_call *call = find_call(user_data, id);
    call->closed = true;
    call->close_code = code;
    return 0;
}

static inline int client_on_frame(nghttp2_session *session, const nghttp2_frame *frame,
                                  void *user_data)
{
    (void)session;
    struct world *world = user_data;
    if (frame->hd.type == NGHTTP2_GOAWAY)
        world->goaway = true;
    if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK))
        world->ping_answered = true;
    return 0;
}

static inline ssize_t client_read(nghttp2_session *session, int32_t id, uint8_t *buffer,
                                  size_t length, uint32_t *flags, nghttp2_data_source *source,
                                  void *user_data)
{
    (void)session;
    (void)id;
    (void)user_data;
    struct client_call *call = source->ptr;
    size_t bytes = u64_min(length, call->out_bytes - call->out_sent);
    memcpy(buffer, call->out + call->out_sent, bytes);
    call->out_sent += bytes;
    if (call->out_sent == call->out_bytes && call->out_end)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    else if (bytes == 0)
        return NGHTTP2_ERR_DEFERRED;
    return (ssize_t)bytes;
}

static inline struct world *world_make(const struct rpc_server_options *extra, uint32_t window,
                                       size_t step_bytes)
{
    struct world *world = calloc(1, sizeof(*world));
    struct rpc_server_options options = extra != NULL ? *extra : (struct rpc_server_options){0};
    options.methods = methods;
    options.service = &ahead_calls;
    options.method_count = ARRAY_COUNT(methods);
    cr_assert_eq(rpc_server_init(&world->server, &options), 0);
    world->server.now_ns = NS_PER_S;
    connection_init(&world->connection, &world->server, RPC_PORT_CLIENT);
    world->step_bytes = step_bytes;
    nghttp2_session_callbacks *callbacks;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, client_on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, client_on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, client_on_close);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, client_on_frame);
    cr_assert_eq(nghttp2_session_client_new(&world->client, callbacks, world), 0);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window}};
    nghttp2_submit_settings(world->client, 0, settings, window == 0 ? 0 : 1);
    return world;
}

/* Moves bytes both ways until nothing moves. Returns the most that waited in the server's output.
 */
static inline uint64_t world_pump(struct world *world)
{
    uint64_t out_max = 0;
    for (bool moved = true; moved;) {
        moved = false;
        const uint8_t *data;
        ssize_t bytes;
        size_t input_bytes = 0;
        while ((bytes = nghttp2_session_mem_send(world->client, &data)) > 0) {
            moved = true;
            world->input = realloc(world->input, input_bytes + (size_t)bytes);
            memcpy(world->input + input_bytes, data, (size_t)bytes);
            input_bytes += (size_t)bytes;
        }
        for (size_t at = 0; at < input_bytes; at += world->step_bytes)
            connection_input(&world->connection, world->input + at,
                             u64_min(input_bytes - at, world->step_bytes));
        while (queue_pop(&world->server.dirty) != NULL)
            ;
        connection_flush(&world->connection);
        out_max = u64_max(out_max, world->connection.out.bytes);
        struct iovec iov;
        while (outbuf_gather(&world->connection.out, &iov, 1) == 1) {
            moved = true;
            size_t part = u64_min(iov.iov_len, 5000);
            cr_assert_eq(nghttp2_session_mem_recv(world->client, iov.iov_base, part), part);
            outbuf_consume(&world->connection.out, part);
        }
    }
    return out_max;
}

static inline void world_destroy(struct world *world)
{
    while (queue_pop(&world->server.dirty) != NULL)
        ;
    connection_close(&world->connection);
    while (queue_pop(&world->server.dirty) != NULL)
        ;
    outbuf_deinit(&world->connection.out);
    cr_assert_eq(world->server.calls_live, 0, "every call went home");
    cr_assert_eq(world->server.partial_bytes, 0);
    cr_assert_eq(world->server.stats.calls, 0);
    rpc_server_deinit(&world->server);
    nghttp2_session_del(world->client);
    for (uint32_t i = 0; i < world->call_count; i++)
        free(world->calls[i].in);
    free(world->input);
    free(world);
}

#define NV(header, text)                                                                           \
    {                                                                                              \
        (uint8_t *)(header), (uint8_t *)(text), strlen(header), strlen(text), 0                    \
    }

struct call_headers {
    const char *path, *method, *content_type, *encoding, *timeout, *token;
};

static inline struct client_call *client_start(struct world *world, struct call_headers headers,
                                               const void *data, size_t bytes, bool end)
{
    struct client_call *call = &world->calls[world->call_count++];
    nghttp2_nv nvs[10] = {
        NV(":method", headers.method != NULL ? headers.method : "POST"),
        NV(":scheme", "http"),
        NV(":path", headers.path),
        NV(":authority", "somewhere"),
        NV("te", "trailers"),
        NV("content-type",
           headers.content_type != NULL ? headers.content_type : "application/grpc"),
    };
    size_t count = 6;
    if (headers.encoding != NULL)
        nvs[count++] = (nghttp2_nv)NV("grpc-encoding", headers.encoding);
    if (headers.timeout != NULL)
        nvs[count++] = (nghttp2_nv)NV("grpc-timeout", headers.timeout);
    if (headers.token != NULL)
        nvs[count++] = (nghttp2_nv)NV("token", headers.token);
    call->out = data;
    call->out_bytes = bytes;
    call->out_end = end;
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = client_read};
    call->id = nghttp2_submit_request(world->client, NULL, nvs, count, &provider, call);
    cr_assert_gt(call->id, 0);
    return call;
}

static inline size_t put_message(uint8_t *to, const char *text)
{
    grpc_prefix_store(to, (uint32_t)strlen(text));
    memcpy(to + GRPC_PREFIX_BYTES, text, strlen(text));
    return GRPC_PREFIX_BYTES + strlen(text);
}

#endif
