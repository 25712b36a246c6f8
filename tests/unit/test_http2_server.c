#include <criterion/criterion.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>

#include "net/grpc.h"
#include "tests/unit/heap_bytes.h"
#include "net/rpc_internal.h"

/*
 * A detached server and a plain nghttp2 client, joined by hand: `step_bytes` says in what pieces
 * the client's bytes arrive.
 */

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

static void on_released(struct rpc_call *call)
{
    (void)call;
    released_count++;
}

static void on_canceled(struct rpc_call *call)
{
    canceled_count++;
    rpc_fail(call, ERR_CANCELED);
}

static void ahead_echo(void *service, const struct bytes *requests, uint32_t count)
{
    cr_assert_eq(service, &ahead_calls);
    cr_assert(count > 1 && count <= RPC_AHEAD_MAX);
    for (uint32_t i = 0; i < count; i++)
        cr_assert(bytes_equal(requests[i], bytes_from_text("hello")));
    ahead_calls++;
    ahead_requests += count;
    ahead_handled = 0;
}

static void handle_echo(struct rpc_call *call)
{
    ahead_handled++;
    rpc_reply(call, call->request);
}

static void handle_hold(struct rpc_call *call)
{
    cr_assert_eq(rpc_call_keep(call), 0);
    held_call = call;
    call->canceled = on_canceled;
    call->released = on_released;
}

static int64_t pull_big(struct rpc_call *call, uint8_t *to, size_t bytes_max)
{
    if (call->user[0]++ % 5 == 4)
        return RPC_SOURCE_WAIT;
    size_t bytes = bytes_max > 10000 ? 10000 : bytes_max;
    memset(to, 'x', bytes);
    pulled_bytes += (uint32_t)bytes;
    return (int64_t)bytes;
}

static void handle_big(struct rpc_call *call)
{
    held_call = call;
    call->canceled = NULL;
    call->released = on_released;
    rpc_reply_source(call, BIG_BYTES, pull_big);
}

static void handle_fail(struct rpc_call *call)
{
    rpc_fail(call, ERR_NO_LEADER);
}

static void bidi_message(struct rpc_call *call, struct bytes message)
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

static void handle_bidi(struct rpc_call *call)
{
    held_call = call;
    call->message = bidi_message;
    call->canceled = on_canceled;
    call->released = on_released;
}

static void flood_writable(struct rpc_call *call)
{
    static const uint8_t chunk[10000];
    while (call->user[0] < 500) {
        if (!rpc_send_message(call, bytes_make(chunk, sizeof(chunk))))
            return;
        call->user[0]++;
    }
    rpc_finish(call, 0);
}

static void handle_flood(struct rpc_call *call)
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
    {.path = "/t.T/Admin", .id = 7, .ports = RPC_PORT_ADMIN, .handle = handle_echo},
};

/* ---- client ------------------------------------------------------------------------------------
 */

static struct client_call *find_call(struct world *world, int32_t id)
{
    for (uint32_t i = 0; i < world->call_count; i++) {
        if (world->calls[i].id == id)
            return &world->calls[i];
    }
    return NULL;
}

static int client_on_header(nghttp2_session *session, const nghttp2_frame *frame,
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

static int client_on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data,
                          size_t bytes, void *user_data)
{
    (void)session;
    (void)flags;
    struct client_call *call = find_call(user_data, id);
    call->in = realloc(call->in, call->in_bytes + bytes);
    memcpy(call->in + call->in_bytes, data, bytes);
    call->in_bytes += bytes;
    return 0;
}

static int client_on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user_data)
{
    (void)session;
    struct client_call *call = find_call(user_data, id);
    call->closed = true;
    call->close_code = code;
    return 0;
}

static int client_on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
    (void)session;
    struct world *world = user_data;
    if (frame->hd.type == NGHTTP2_GOAWAY)
        world->goaway = true;
    if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK))
        world->ping_answered = true;
    return 0;
}

static ssize_t client_read(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t length,
                           uint32_t *flags, nghttp2_data_source *source, void *user_data)
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

static struct world *world_make(const struct rpc_server_options *extra, uint32_t window,
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
static uint64_t world_pump(struct world *world)
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

static void world_destroy(struct world *world)
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

static struct client_call *client_start(struct world *world, struct call_headers headers,
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

static size_t put_message(uint8_t *to, const char *text)
{
    grpc_prefix_store(to, (uint32_t)strlen(text));
    memcpy(to + GRPC_PREFIX_BYTES, text, strlen(text));
    return GRPC_PREFIX_BYTES + strlen(text);
}

/* ---- tests -------------------------------------------------------------------------------------
 */

Test(http2_server, unary_calls_whatever_the_pieces)
{
    static const size_t steps[] = {1, 2, 3, 7, 9, 10, 24, 33, 100, 1 << 20};
    uint8_t message[64];
    size_t bytes = put_message(message, "hello");
    for (size_t i = 0; i < ARRAY_COUNT(steps); i++) {
        struct world *world = world_make(NULL, 0, steps[i]);
        for (int n = 0; n < 20; n++)
            client_start(world, (struct call_headers){.path = "/t.T/Echo"}, message, bytes, true);
        world_pump(world);
        for (int n = 0; n < 20; n++) {
            const struct client_call *call = &world->calls[n];
            cr_assert_str_eq(call->status, "0", "step %zu", steps[i]);
            cr_assert_eq(call->in_bytes, bytes);
            cr_assert_eq(memcmp(call->in, message, bytes), 0);
            cr_assert(call->closed && call->close_code == 0);
        }
        cr_assert_eq(world->server.stats.handled[1][GRPC_OK], 20);
        world_destroy(world);
    }
}

Test(http2_server, requests_that_arrive_together_are_announced_together)
{
    uint8_t message[64];
    size_t bytes = put_message(message, "hello");
    struct world *world = world_make(NULL, 0, 1 << 20);
    world_pump(world);
    cr_expect_eq(ahead_calls, 0);
    for (int n = 0; n < RPC_AHEAD_MAX + 5; n++)
        client_start(world, (struct call_headers){.path = "/t.T/Echo"}, message, bytes, true);
    world_pump(world);
    cr_expect_eq(ahead_calls, 2);
    cr_expect_eq(ahead_requests, RPC_AHEAD_MAX + 5);
    cr_expect_eq(ahead_handled, 5, "each announcement comes before its requests");
    client_start(world, (struct call_headers){.path = "/t.T/Echo"}, message, bytes, true);
    client_start(world, (struct call_headers){.path = "/t.T/Hold"}, message, bytes, true);
    world_pump(world);
    cr_expect_eq(ahead_calls, 2, "a lone request is just handled");
    /* Reset in the same piece as the request itself: no handler sees it. */
    struct client_call *gone =
        client_start(world, (struct call_headers){.path = "/t.T/Echo"}, message, bytes, true);
    uint32_t handled = ahead_handled;
    const uint8_t *data;
    ssize_t wire_bytes;
    uint8_t wire[1024];
    size_t held = 0;
    while ((wire_bytes = nghttp2_session_mem_send(world->client, &data)) > 0) {
        memcpy(wire + held, data, (size_t)wire_bytes);
        held += (size_t)wire_bytes;
    }
    nghttp2_submit_rst_stream(world->client, 0, gone->id, NGHTTP2_CANCEL);
    while ((wire_bytes = nghttp2_session_mem_send(world->client, &data)) > 0) {
        memcpy(wire + held, data, (size_t)wire_bytes);
        held += (size_t)wire_bytes;
    }
    connection_input(&world->connection, wire, held);
    cr_expect_eq(ahead_handled, handled);
    world_pump(world);
    world_destroy(world);
}

Test(http2_server, split_once_at_every_byte)
{
    uint8_t message[64], wire[2048];
    size_t bytes = put_message(message, "split"), wire_bytes = 0;
    struct world *world = world_make(NULL, 0, 1 << 20);
    client_start(world, (struct call_headers){.path = "/t.T/Echo"}, message, bytes, true);
    const uint8_t *data;
    ssize_t part;
    while ((part = nghttp2_session_mem_send(world->client, &data)) > 0) {
        memcpy(wire + wire_bytes, data, (size_t)part);
        wire_bytes += (size_t)part;
    }
    world_destroy(world);
    for (size_t cut = 1; cut < wire_bytes; cut++) {
        world = world_make(NULL, 0, 1 << 20);
        connection_input(&world->connection, wire, cut);
        connection_input(&world->connection, wire + cut, wire_bytes - cut);
        cr_assert_eq(world->server.stats.handled[1][GRPC_OK], 1, "cut at %zu", cut);
        world_destroy(world);
    }
}

Test(http2_server, refusals)
{
    uint8_t hello[64], compressed[64], odd_flag[64], big[64];
    size_t bytes = put_message(hello, "hello");
    memcpy(compressed, hello, bytes);
    compressed[0] = 1;
    memcpy(odd_flag, hello, bytes);
    odd_flag[0] = 2;
    memcpy(big, hello, bytes);
    be32_store(big + 1, 2 * 1024 * 1024 + 1);
    const struct {
        const char *why;
        struct call_headers headers;
        const uint8_t *data;
        size_t bytes;
        const char *http_status, *status, *text;
    } cases[] = {
        {"unknown service", {.path = "/x.X/Y"}, hello, bytes, "200", "12", "unknown service x.X"},
        {"unknown method",
         {.path = "/t.T/Nope"},
         hello,
         bytes,
         "200",
         "12",
         "unknown method Nope for service t.T"},
        {"a method of the other port",
         {.path = "/t.T/Admin"},
         hello,
         bytes,
         "200",
         "12",
         "unknown method Admin for service t.T"},
        {"no method", {.path = "/t"}, hello, bytes, "200", "12", "malformed method name: \"/t\""},
        {"empty path", {.path = ""}, hello, bytes, "200", "12", "malformed method name: \"\""},
        {"not gRPC",
         {.path = "/t.T/Echo", .content_type = "application/json"},
         hello,
         bytes,
         "415",
         "",
         ""},
        {"a longer word",
         {.path = "/t.T/Echo", .content_type = "application/grpcx"},
         hello,
         bytes,
         "415",
         "",
         ""},
        {"GET", {.path = "/t.T/Echo", .method = "GET"}, hello, bytes, "405", "", ""},
        {"unknown compression",
         {.path = "/t.T/Echo", .encoding = "snappy"},
         hello,
         bytes,
         "200",
         "12",
         "grpc: Decompressor is not installed for grpc-encoding \"snappy\""},
        {"compressed without an encoding",
         {.path = "/t.T/Echo"},
         compressed,
         bytes,
         "200",
         "13",
         "grpc: compressed flag set with identity or empty encoding"},
        {"damaged gzip",
         {.path = "/t.T/Echo", .encoding = "gzip"},
         compressed,
         bytes,
         "200",
         "13",
         "grpc: failed to decompress the message"},
        {"flag 2",
         {.path = "/t.T/Echo"},
         odd_flag,
         bytes,
         "200",
         "13",
         "grpc: received unexpected payload format"},
        {"too large",
         {.path = "/t.T/Echo"},
         big,
         bytes,
         "200",
         "8",
         "grpc: received message larger than max (2097153 vs. 2097152)"},
        {"cut short", {.path = "/t.T/Echo"}, hello, bytes - 1, "200", "13", "unexpected EOF"},
        {"no message",
         {.path = "/t.T/Echo"},
         hello,
         0,
         "200",
         "13",
         "no message for a unary method"},
        {"what follows the message is ignored",
         {.path = "/t.T/Echo"},
         hello,
         bytes + 1,
         "200",
         "0",
         ""},
        {"the timeout is over",
         {.path = "/t.T/Echo", .timeout = "1n"},
         hello,
         bytes,
         "200",
         "4",
         "context deadline exceeded"},
        {"bad timeout",
         {.path = "/t.T/Echo", .timeout = "5x"},
         hello,
         bytes,
         "200",
         "13",
         "malformed grpc-timeout"},
        {"the handler's error",
         {.path = "/t.T/Fail"},
         hello,
         bytes,
         "200",
         "14",
         "etcdserver: no leader"},
        {"subtype and identity are fine",
         {.path = "/t.T/Echo", .content_type = "application/grpc+proto", .encoding = "identity"},
         hello,
         bytes,
         "200",
         "0",
         ""},
    };
    struct world *world = world_make(NULL, 0, 1 << 20);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        client_start(world, cases[i].headers, cases[i].data, cases[i].bytes, true);
    world_pump(world);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        const struct client_call *call = &world->calls[i];
        cr_expect_str_eq(call->http_status, cases[i].http_status, "%s", cases[i].why);
        cr_expect_str_eq(call->status, cases[i].status, "%s", cases[i].why);
        cr_expect_str_eq(call->text, cases[i].text, "%s", cases[i].why);
        cr_expect(call->closed, "%s", cases[i].why);
    }
    cr_expect_not(world->connection.ending, "one bad call does not end the connection");
    world_destroy(world);
}

Test(http2_server, gzip_and_large_requests)
{
    enum { BYTES = 1500000 };
    uint8_t *request = calloc(1, GRPC_PREFIX_BYTES + BYTES), packed[8192];
    grpc_prefix_store(request, BYTES);
    z_stream stream = {0};
    deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
    stream.next_in = request + GRPC_PREFIX_BYTES;
    stream.avail_in = BYTES;
    stream.next_out = packed + GRPC_PREFIX_BYTES;
    stream.avail_out = sizeof(packed) - GRPC_PREFIX_BYTES;
    cr_assert_eq(deflate(&stream, Z_FINISH), Z_STREAM_END);
    size_t packed_bytes = sizeof(packed) - GRPC_PREFIX_BYTES - stream.avail_out;
    deflateEnd(&stream);
    grpc_prefix_store(packed, (uint32_t)packed_bytes);
    packed[0] = 1;
    struct world *world = world_make(NULL, 1 << 20, 4096);
    client_start(world, (struct call_headers){.path = "/t.T/Echo", .encoding = "gzip"}, packed,
                 packed_bytes + GRPC_PREFIX_BYTES, true);
    client_start(world, (struct call_headers){.path = "/t.T/Echo"}, request,
                 BYTES + GRPC_PREFIX_BYTES, true);
    world_pump(world);
    for (int i = 0; i < 2; i++) {
        cr_expect_str_eq(world->calls[i].status, "0");
        cr_expect_eq(world->calls[i].in_bytes, BYTES + GRPC_PREFIX_BYTES);
    }
    world_destroy(world);
    free(request);
}

Test(http2_server, source_is_pulled_as_the_window_allows)
{
    uint8_t message[64];
    size_t bytes = put_message(message, "");
    struct world *world = world_make(NULL, 1000, 1 << 20);
    struct client_call *call =
        client_start(world, (struct call_headers){.path = "/t.T/Big"}, message, bytes, true);
    uint64_t out_max = 0;
    /* While the source waits nothing moves; each resume lets it give some more. */
    for (int i = 0; i < 1000 && !call->closed; i++) {
        out_max = u64_max(out_max, world_pump(world));
        if (!call->closed && held_call->source_waits)
            rpc_resume(held_call);
    }
    cr_expect_str_eq(call->status, "0");
    cr_expect_eq(call->in_bytes, BIG_BYTES + GRPC_PREFIX_BYTES);
    cr_expect_eq(grpc_prefix_length(call->in), BIG_BYTES);
    cr_expect_eq(released_count, 1);
    cr_expect_leq(out_max, 2000, "output is bounded by the client's window, not by the reply");
    world_destroy(world);
}

Test(http2_server, cancel_in_the_middle_of_a_source)
{
    uint8_t message[64];
    size_t bytes = put_message(message, "");
    struct world *world = world_make(NULL, 0, 1 << 20);
    struct client_call *call =
        client_start(world, (struct call_headers){.path = "/t.T/Big"}, message, bytes, true);
    world_pump(world);
    cr_assert_not(call->closed);
    cr_assert(held_call->source_waits);
    nghttp2_submit_rst_stream(world->client, 0, call->id, NGHTTP2_CANCEL);
    world_pump(world);
    cr_expect(rpc_is_canceled(held_call), "while it waits, whoever it waits for owns it");
    cr_expect_eq(released_count, 0);
    rpc_resume(held_call);
    cr_expect_eq(released_count, 1);
    world_destroy(world);
}

Test(http2_server, reset_before_and_after_the_request_is_whole)
{
    uint8_t message[64];
    size_t bytes = put_message(message, "hello");
    struct world *world = world_make(NULL, 0, 1 << 20);
    struct client_call *partial =
        client_start(world, (struct call_headers){.path = "/t.T/Hold"}, message, bytes - 1, false);
    struct client_call *whole = client_start(
        world, (struct call_headers){.path = "/t.T/Hold", .token = "secret"}, message, bytes, true);
    world_pump(world);
    cr_assert_not_null(held_call);
    cr_expect(bytes_equal(held_call->token, bytes_from_text("secret")));
    cr_expect_eq(world->server.calls_live, 2);
    nghttp2_submit_rst_stream(world->client, 0, partial->id, NGHTTP2_CANCEL);
    nghttp2_submit_rst_stream(world->client, 0, whole->id, NGHTTP2_CANCEL);
    world_pump(world);
    cr_expect_eq(canceled_count, 1, "only the one that a handler saw");
    cr_expect_eq(world->server.calls_live, 0);
    world_destroy(world);
}

Test(http2_server, deadline_passes_while_the_handler_holds_the_call)
{
    uint8_t message[64];
    size_t bytes = put_message(message, "hello");
    struct world *world = world_make(NULL, 0, 1 << 20);
    struct client_call *call = client_start(
        world, (struct call_headers){.path = "/t.T/Hold", .timeout = "100m"}, message, bytes, true);
    world_pump(world);
    cr_expect_eq(held_call->deadline_ns, world->server.now_ns + 100 * NS_PER_MS);
    world->server.now_ns += 100 * NS_PER_MS - 1;
    rpc_server_expire(&world->server);
    cr_expect_eq(canceled_count, 0);
    world->server.now_ns += 1;
    rpc_server_expire(&world->server);
    cr_expect_eq(canceled_count, 1);
    world_pump(world);
    cr_expect_str_eq(call->status, "4");
    cr_expect_str_eq(call->text, "context deadline exceeded");
    world_destroy(world);
}

Test(http2_server, a_late_answer_to_a_closed_connection_goes_nowhere)
{
    uint8_t message[64];
    size_t bytes = put_message(message, "hello");
    struct world *world = world_make(NULL, 0, 1 << 20);
    client_start(world, (struct call_headers){.path = "/t.T/Hold"}, message, bytes, true);
    world_pump(world);
    held_call->canceled = NULL; /* the handler does not care */
    connection_close(&world->connection);
    cr_expect(rpc_is_canceled(held_call));
    rpc_reply(held_call, bytes_from_text("too late"));
    cr_expect_eq(released_count, 1);
    cr_expect_eq(world->server.calls_live, 0);
    outbuf_deinit(&world->connection.out);
    while (queue_pop(&world->server.dirty) != NULL)
        ;
    rpc_server_deinit(&world->server);
    nghttp2_session_del(world->client);
    free(world->input);
    free(world);
}

Test(http2_server, bidi_messages_pause_and_half_close)
{
    uint8_t data[256];
    size_t bytes = put_message(data, "one");
    bytes += put_message(data + bytes, "pause");
    bytes += put_message(data + bytes, "two");
    static const size_t steps[] = {1, 5, 1 << 20};
    for (size_t i = 0; i < ARRAY_COUNT(steps); i++) {
        message_count = 0;
        struct world *world = world_make(NULL, 0, steps[i]);
        struct client_call *call =
            client_start(world, (struct call_headers){.path = "/t.T/Bidi"}, data, bytes, true);
        world_pump(world);
        cr_expect_eq(message_count, 2, "the third waits");
        cr_expect_not(call->closed);
        rpc_resume_messages(held_call);
        world_pump(world);
        cr_expect_eq(message_count, 3);
        cr_expect_str_eq(call->status, "0", "the client's end ends the stream");
        cr_expect_eq(call->in_bytes, bytes);
        cr_expect_eq(memcmp(call->in, data, bytes), 0);
        world_destroy(world);
    }
}

Test(http2_server, handler_ends_a_stream_whose_client_goes_on)
{
    uint8_t data[256];
    size_t bytes = put_message(data, "one");
    bytes += put_message(data + bytes, "!");
    bytes += put_message(data + bytes, "ignored");
    struct world *world = world_make(NULL, 0, 3);
    struct client_call *call =
        client_start(world, (struct call_headers){.path = "/t.T/Bidi"}, data, bytes, false);
    world_pump(world);
    cr_expect_eq(message_count, 2);
    cr_expect_str_eq(call->status, "0");
    cr_expect(call->closed);
    world_destroy(world);
}

Test(http2_server, stream_stops_at_a_slow_consumer_and_goes_on)
{
    uint8_t message[64];
    size_t bytes = put_message(message, "");
    struct world *world = world_make(NULL, 65535, 1 << 20);
    struct client_call *call =
        client_start(world, (struct call_headers){.path = "/t.T/Flood"}, message, bytes, true);
    /* The first window of output only: the client does not answer yet. */
    const uint8_t *data;
    ssize_t part;
    while ((part = nghttp2_session_mem_send(world->client, &data)) > 0)
        connection_input(&world->connection, data, (size_t)part);
    connection_flush(&world->connection);
    cr_expect_lt(world->connection.out.bytes, 70000);
    cr_expect_leq(held_call->user[0] * 10000, RPC_SEND_QUEUE_BYTES_MAX);
    cr_expect(held_call->wants_writable);
    world_pump(world);
    cr_expect_str_eq(call->status, "0");
    cr_expect_eq(call->in_bytes, (size_t)500 * (10000 + GRPC_PREFIX_BYTES));
    world_destroy(world);
}

Test(http2_server, window_changes_in_mid_connection_and_pings)
{
    uint8_t *message = calloc(1, 300000);
    grpc_prefix_store(message, 300000 - GRPC_PREFIX_BYTES);
    struct world *world = world_make(NULL, 1000, 1 << 20);
    struct client_call *call =
        client_start(world, (struct call_headers){.path = "/t.T/Echo"}, message, 300000, true);
    static const uint8_t ping[8] = {1};
    nghttp2_submit_ping(world->client, 0, ping);
    static const uint32_t windows[] = {100, 65535, 0, 1 << 20};
    for (size_t i = 0; i < ARRAY_COUNT(windows); i++) {
        nghttp2_settings_entry entry = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, windows[i]};
        nghttp2_submit_settings(world->client, 0, &entry, 1);
    }
    world_pump(world);
    cr_expect(world->ping_answered);
    cr_expect_str_eq(call->status, "0");
    cr_expect_eq(call->in_bytes, 300000);
    world_destroy(world);
    free(message);
}

Test(http2_server, shutdown_says_goaway_ends_streams_and_lets_unary_calls_finish)
{
    uint8_t message[64];
    size_t bytes = put_message(message, "hello");
    struct world *world = world_make(NULL, 0, 1 << 20);
    struct client_call *stream =
        client_start(world, (struct call_headers){.path = "/t.T/Bidi"}, message, bytes, false);
    struct client_call *unary =
        client_start(world, (struct call_headers){.path = "/t.T/Hold"}, message, bytes, true);
    world_pump(world);
    connection_drain(&world->connection);
    world_pump(world);
    cr_expect(world->goaway);
    cr_expect_str_eq(stream->status, "14");
    cr_expect_str_eq(stream->text, "etcdserver: server stopped");
    cr_expect_not(unary->closed);
    cr_expect_not(world->connection.protocol->is_done(&world->connection));
    world->server.now_ns += NS_PER_S;
    world->connection.protocol->tick(&world->connection);
    world_pump(world);
    rpc_reply(held_call, held_call->request);
    world_pump(world);
    cr_expect_str_eq(unary->status, "0");
    cr_expect(world->connection.ending || world->connection.protocol->is_done(&world->connection));
    world_destroy(world);
}

Test(http2_server, too_many_calls_are_refused_one_by_one)
{
    uint8_t message[64];
    size_t bytes = put_message(message, "hello");
    struct world *world = world_make(&(struct rpc_server_options){.calls_max = 1}, 0, 1 << 20);
    client_start(world, (struct call_headers){.path = "/t.T/Hold"}, message, bytes, true);
    struct client_call *second =
        client_start(world, (struct call_headers){.path = "/t.T/Echo"}, message, bytes, true);
    world_pump(world);
    cr_expect_str_eq(second->status, "8");
    cr_expect_str_eq(second->text, "too many calls in flight");
    world_destroy(world);
}

Test(http2_server, requests_wait_above_the_calls_limit)
{
    uint8_t message[64];
    size_t bytes = put_message(message, "hello");
    struct world *world =
        world_make(&(struct rpc_server_options){.calls_per_connection_max = 1}, 0, 1 << 20);
    client_start(world, (struct call_headers){.path = "/t.T/Hold"}, message, bytes, true);
    struct client_call *second =
        client_start(world, (struct call_headers){.path = "/t.T/Echo"}, message, bytes, true);
    struct client_call *third = client_start(
        world, (struct call_headers){.path = "/t.T/Echo", .timeout = "10m"}, message, bytes, true);
    struct client_call *fourth =
        client_start(world, (struct call_headers){.path = "/t.T/Echo"}, message, bytes, true);
    world_pump(world);
    cr_expect_not(second->closed);
    world->server.now_ns += NS_PER_S;
    rpc_server_expire(&world->server);
    nghttp2_submit_rst_stream(world->client, 0, fourth->id, NGHTTP2_CANCEL);
    world_pump(world);
    cr_expect_str_eq(third->status, "4", "the deadline holds while a request waits");
    rpc_reply(held_call, held_call->request);
    world_pump(world);
    cr_expect_str_eq(second->status, "0");
    cr_expect_eq(world->server.stats.started[1], 1);
    world_destroy(world);
}

Test(http2_server, requests_wait_while_replies_wait_for_the_client)
{
    enum { CALLS = 20 };
    uint8_t *message = calloc(1, 50000);
    grpc_prefix_store(message, 50000 - GRPC_PREFIX_BYTES);
    struct world *world = world_make(
        &(struct rpc_server_options){.queued_bytes_per_connection_max = 100000}, 10, 1 << 20);
    for (int i = 0; i < CALLS; i++)
        client_start(world, (struct call_headers){.path = "/t.T/Echo"}, message, 50000, true);
    /* The client takes nothing but the settings, so that its requests can leave. */
    for (int round = 0; round < 3; round++) {
        const uint8_t *data;
        ssize_t part;
        while ((part = nghttp2_session_mem_send(world->client, &data)) > 0)
            connection_input(&world->connection, data, (size_t)part);
        connection_flush(&world->connection);
        struct iovec iov;
        if (round == 0 && outbuf_gather(&world->connection.out, &iov, 1) == 1) {
            cr_assert_gt(nghttp2_session_mem_recv(world->client, iov.iov_base, iov.iov_len), 0);
            outbuf_consume(&world->connection.out, iov.iov_len);
        }
    }
    cr_expect_leq(world->server.stats.started[1], 3, "a few replies fill the queue");
    cr_expect_not(world->connection.paused, "window updates must still be read");
    world_pump(world);
    for (int i = 0; i < CALLS; i++) {
        cr_expect_str_eq(world->calls[i].status, "0");
        cr_expect_eq(world->calls[i].in_bytes, 50000);
    }
    world_destroy(world);
    free(message);
}

Test(http2_server, a_request_that_does_not_progress_ends_the_connection)
{
    uint8_t message[64];
    size_t bytes = put_message(message, "hello");
    struct world *world = world_make(NULL, 0, 1 << 20);
    client_start(world, (struct call_headers){.path = "/t.T/Hold"}, message, bytes - 1, false);
    world_pump(world);
    world->server.now_ns += 19 * NS_PER_S;
    connection_tick(&world->connection);
    cr_expect_not(world->connection.ending);
    world->server.now_ns += NS_PER_S;
    connection_tick(&world->connection);
    cr_expect(world->connection.ending);
    cr_expect_eq(world->server.stats.timeouts, 1);
    world_destroy(world);
}

Test(http2_server, a_preface_alone_is_no_handshake)
{
    static const uint8_t preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    static const uint8_t settings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0};
    for (int settled = 0; settled < 2; settled++) {
        struct world *world = world_make(NULL, 0, 1 << 20);
        connection_input(&world->connection, preface, sizeof(preface) - 1);
        for (size_t i = 0; i < sizeof(settings) - 1 + (size_t)settled; i++) {
            world->server.now_ns += NS_PER_S; /* a byte a second */
            connection_input(&world->connection, settings + i, 1);
        }
        world->server.now_ns += 2 * NS_PER_S;
        connection_tick(&world->connection);
        cr_expect_eq(world->connection.ending, !settled);
        cr_expect_eq(world->server.stats.timeouts, 1 - (uint64_t)settled);
        world_destroy(world);
    }
}

Test(http2_server, keepalive_ping_and_its_timeout)
{
    struct world *world = world_make(NULL, 0, 1 << 20);
    world_pump(world);
    world->server.now_ns += 7200 * NS_PER_S;
    connection_tick(&world->connection);
    world_pump(world); /* the client answers */
    world->server.now_ns += 20 * NS_PER_S;
    connection_tick(&world->connection);
    cr_expect_not(world->connection.ending, "it answered");
    world->server.now_ns += 7200 * NS_PER_S;
    connection_tick(&world->connection);
    world->server.now_ns += 20 * NS_PER_S;
    connection_tick(&world->connection);
    cr_expect(world->connection.ending, "it did not");
    world_destroy(world);
}

Test(http2_server, garbage_after_the_preface_ends_the_connection)
{
    struct world *world = world_make(NULL, 0, 1 << 20);
    static const char garbage[] =
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nthis is no frame at all ............";
    connection_input(&world->connection, (const uint8_t *)garbage, sizeof(garbage) - 1);
    connection_flush(&world->connection);
    cr_expect(world->connection.ending);
    world_destroy(world);
}

/* ---- memory ------------------------------------------------------------------------------------
 */

/* nghttp2's frame buffer is 16 KiB, of which a client that gets small frames touches one page.
 * Allocators round up: 27 KiB in the best case, 31 under ThreadSanitizer. */
#define IDLE_BYTES_MAX          (32 * 1024)
#define IDLE_RESIDENT_BYTES_MAX (24 * 1024)

/* As clients do before they fall silent: preface, SETTINGS, their acknowledgement, one call. */
static size_t idle_input(uint8_t *to)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                                  "\0\0\0\4\0\0\0\0\0"
                                  "\0\0\0\4\1\0\0\0\0";
    static const char headers[] = "\x83\x86\x44\x09/t.T/Echo\x41\x09"
                                  "somewhere\x40\x02te\x08trailers\x40\x0c"
                                  "content-type\x10"
                                  "application/grpc";
    uint8_t *at = to;
    memcpy(at, preface, sizeof(preface) - 1);
    at += sizeof(preface) - 1;
    const uint8_t headers_frame[] = {0, 0, sizeof(headers) - 1, 1, 4, 0, 0, 0, 1};
    memcpy(at, headers_frame, sizeof(headers_frame));
    memcpy(at + sizeof(headers_frame), headers, sizeof(headers) - 1);
    at += sizeof(headers_frame) + sizeof(headers) - 1;
    const uint8_t data_frame[] = {0, 0, 10, 0, 1, 0, 0, 0, 1};
    memcpy(at, data_frame, sizeof(data_frame));
    at += sizeof(data_frame);
    at += put_message(at, "hello");
    return (size_t)(at - to);
}

Test(http2_server, an_idle_connection_takes_little_memory)
{
    enum { CONNECTIONS = 1000 };
    static struct connection *connections[CONNECTIONS];
    uint8_t input[256];
    size_t input_bytes = idle_input(input);
    struct world *world = world_make(NULL, 0, 1 << 20);
    world_pump(world); /* what the first connection of a core sets up is not counted */
    size_t before = heap_bytes(), resident_before = resident_bytes();
    for (uint32_t i = 0; i < CONNECTIONS; i++) {
        struct connection *connection = malloc(sizeof(*connection));
        connections[i] = connection;
        connection_init(connection, &world->server, RPC_PORT_CLIENT);
        connection_input(connection, input, input_bytes);
        connection_flush(connection);
        cr_assert_gt(connection->out.bytes, 50);
        outbuf_consume(&connection->out, connection->out.bytes);
    }
    size_t each = (heap_bytes() - before) / CONNECTIONS;
    size_t resident_each = (resident_bytes() - resident_before) / CONNECTIONS;
    cr_expect_eq(world->server.stats.handled[1][GRPC_OK], CONNECTIONS);
    cr_expect_gt(each, sizeof(struct connection), "%zu bytes", each);
    cr_expect_lt(each, IDLE_BYTES_MAX, "%zu bytes", each);
    cr_expect_lt(resident_each, IDLE_RESIDENT_BYTES_MAX, "%zu bytes", resident_each);
    while (queue_pop(&world->server.dirty) != NULL)
        ;
    for (uint32_t i = 0; i < CONNECTIONS; i++) {
        connection_close(connections[i]);
        outbuf_deinit(&connections[i]->out);
        free(connections[i]);
    }
    world_destroy(world);
}
