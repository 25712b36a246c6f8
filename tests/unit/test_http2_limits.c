#include "tests/unit/test_http2.h"

#include "tests/unit/heap_bytes.h"

Test(http2_limits, refusals)
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

Test(http2_limits, too_many_calls_are_refused_one_by_one)
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

Test(http2_limits, requests_wait_above_the_calls_limit)
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

Test(http2_limits, requests_wait_while_replies_wait_for_the_client)
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

Test(http2_limits, a_request_that_does_not_progress_ends_the_connection)
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

Test(http2_limits, a_preface_alone_is_no_handshake)
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

Test(http2_limits, keepalive_ping_and_its_timeout)
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

Test(http2_limits, garbage_after_the_preface_ends_the_connection)
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

Test(http2_limits, an_idle_connection_takes_little_memory)
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
