#include "tests/unit/test_http2.h"

#include <zlib.h>

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
