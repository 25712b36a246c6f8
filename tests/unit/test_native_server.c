#include <criterion/criterion.h>
#include <stdlib.h>

#include "net/native_frame.h"
#include "net/pb.h"
#include "net/rpc_internal.h"
#include "tests/unit/heap_bytes.h"

/* A detached server; frames in and out are made and read by hand. */

enum { BIG_BYTES = 100000 };

static struct rpc_server server;
static struct connection connection;
static struct rpc_call *held[8];
static uint32_t held_count, canceled_count, message_count;

static void handle_echo(struct rpc_call *call)
{
    rpc_reply(call, call->request);
}

static void hold_canceled(struct rpc_call *call)
{
    canceled_count++;
    rpc_fail(call, ERR_CANCELED);
}

static void handle_hold(struct rpc_call *call)
{
    cr_assert_eq(rpc_call_keep(call), 0);
    call->canceled = hold_canceled;
    held[held_count++] = call;
}

static int64_t pull(struct rpc_call *call, uint8_t *to, size_t bytes_max)
{
    if (call->user[0]++ == 2)
        return RPC_SOURCE_WAIT;
    memset(to, 'z', bytes_max);
    return (int64_t)bytes_max;
}

static void handle_big(struct rpc_call *call)
{
    held[held_count++] = call;
    rpc_reply_source(call, BIG_BYTES, pull);
}

static int64_t pull_built(struct rpc_call *call maybe_unused, uint8_t *to, size_t bytes_max)
{
    memset(to, 'b', bytes_max);
    return (int64_t)bytes_max;
}

static uint32_t built_count;

static void handle_built(struct rpc_call *call)
{
    built_count++;
    rpc_reply_built(call, BIG_BYTES, pull_built);
}

static void bidi_message(struct rpc_call *call, struct bytes message)
{
    message_count++;
    if (message.data[0] == 'p')
        rpc_pause_messages(call);
    cr_assert(rpc_send_message(call, message));
}

static void handle_bidi(struct rpc_call *call)
{
    held[held_count++] = call;
    call->message = bidi_message;
}

static void handle_token(struct rpc_call *call)
{
    struct bytes old = call->token;
    uint8_t copy[64];
    memcpy(copy, old.data != NULL ? old.data : copy, old.size);
    cr_assert_eq(rpc_connection_set_token(call, call->request), 0);
    rpc_reply(call, bytes_make(copy, old.size));
}

static uint32_t ahead_calls, ahead_requests;

static void ahead_echo(void *service, const struct bytes *requests, uint32_t count)
{
    cr_assert_eq(service, &ahead_calls);
    cr_assert(count > 1 && count <= RPC_AHEAD_MAX);
    for (uint32_t i = 0; i < count; i++)
        cr_assert(bytes_equal(requests[i], bytes_from_text("payload of some length")) ||
                  requests[i].size == 0);
    ahead_calls++;
    ahead_requests += count;
}

static const struct rpc_method methods[] = {
    {.native = 1, .id = 1, .handle = handle_echo, .ahead = ahead_echo},
    {.native = 2, .id = 2, .handle = handle_hold},
    {.native = 3, .id = 3, .handle = handle_big},
    {.native = 4, .id = 4, .kind = RPC_BIDI, .handle = handle_bidi},
    {.native = 5, .id = 5, .handle = handle_token},
    {.native = 6, .id = 7, .handle = handle_built},
};

static void begin(const struct rpc_server_options *extra)
{
    struct rpc_server_options options = extra != NULL ? *extra : (struct rpc_server_options){0};
    options.methods = methods;
    options.service = &ahead_calls;
    options.method_count = ARRAY_COUNT(methods);
    cr_assert_eq(rpc_server_init(&server, &options), 0);
    server.now_ns = NS_PER_S;
    connection_init(&connection, &server, RPC_PORT_CLIENT);
}

static void end(void)
{
    connection_close(&connection);
    while (queue_pop(&server.dirty) != NULL)
        ;
    outbuf_deinit(&connection.out);
    cr_assert_eq(server.calls_live, 0);
    cr_assert_eq(server.partial_bytes, 0);
    rpc_server_deinit(&server);
}

static size_t put(uint8_t *to, uint64_t id, uint16_t method, uint8_t flags, const char *payload)
{
    struct native_frame frame = {.flags = flags,
                                 .method = method,
                                 .payload_bytes = (uint32_t)strlen(payload),
                                 .request_id = id};
    memcpy(to + NATIVE_HEADER_BYTES, payload, strlen(payload));
    native_frame_seal(to, &frame);
    return NATIVE_HEADER_BYTES + strlen(payload);
}

static void flush(void)
{
    while (queue_pop(&server.dirty) != NULL)
        ;
    connection_flush(&connection);
}

/* The next reply; its payload points into a static copy. False when there is none. */
static bool reply(struct native_frame *frame)
{
    static uint8_t copy[1 << 20];
    struct iovec iov[8];
    size_t bytes = 0, wanted;
    flush();
    uint32_t count = outbuf_gather(&connection.out, iov, 8);
    for (uint32_t i = 0; i < count; i++) {
        memcpy(copy + bytes, iov[i].iov_base, iov[i].iov_len);
        bytes += iov[i].iov_len;
    }
    if (bytes == 0)
        return false;
    int64_t whole = native_frame_parse(copy, bytes, 1 << 20, frame, &wanted);
    cr_assert_gt(whole, 0);
    cr_assert(frame->flags & NATIVE_FLAG_REPLY);
    outbuf_consume(&connection.out, (size_t)whole);
    return true;
}

static int error_code(const struct native_frame *frame)
{
    struct pb_reader reader = pb_reader_make(bytes_make(frame->payload, frame->payload_bytes));
    struct pb_field field;
    cr_assert(frame->flags & NATIVE_FLAG_ERROR);
    cr_assert_eq(pb_next(&reader, &field), 1);
    cr_assert_eq(field.number, 1);
    return (int)(int64_t)field.value;
}

Test(native_server, pipelined_frames_in_pieces_of_every_size)
{
    uint8_t wire[4096];
    size_t bytes = 0;
    for (uint64_t id = 1; id <= 20; id++)
        bytes += put(wire + bytes, id, 1, 0, id % 3 == 0 ? "" : "payload of some length");
    for (size_t step = 1; step <= bytes; step++) {
        struct native_frame frame;
        begin(NULL);
        ahead_calls = ahead_requests = 0;
        for (size_t at = 0; at < bytes; at += step)
            connection_input(&connection, wire + at, u64_min(step, bytes - at));
        cr_assert(step < bytes || (ahead_calls == 2 && ahead_requests == 20));
        for (uint64_t id = 1; id <= 20; id++) {
            cr_assert(reply(&frame), "step %zu", step);
            cr_assert_eq(frame.request_id, id);
            cr_assert_eq(frame.payload_bytes, id % 3 == 0 ? 0 : 22);
        }
        cr_assert_not(reply(&frame));
        cr_assert_eq(connection.deadline_ns, UINT64_MAX, "nothing is under way");
        cr_assert_null(connection.partial, "an idle connection owns no buffer");
        end();
    }
}

Test(native_server, out_of_order_completion_cancel_and_errors)
{
    uint8_t wire[512];
    struct native_frame frame;
    begin(NULL);
    size_t bytes = put(wire, 11, 2, 0, "first");
    bytes += put(wire + bytes, 12, 2, 0, "second");
    bytes += put(wire + bytes, 13, 2, 0, "third");
    bytes += put(wire + bytes, 14, 77, 0, "");
    bytes += put(wire + bytes, 12, 2, NATIVE_FLAG_CANCEL, "");
    bytes += put(wire + bytes, 99, 2, NATIVE_FLAG_CANCEL, "");
    connection_input(&connection, wire, bytes);
    cr_expect_eq(canceled_count, 1);
    rpc_reply(held[2], held[2]->request);
    rpc_fail(held[0], ERR_COMPACTED);
    cr_assert(reply(&frame));
    cr_expect_eq(frame.request_id, 14);
    cr_expect_eq(error_code(&frame), ERR_UNIMPLEMENTED, "unknown method");
    cr_assert(reply(&frame));
    cr_expect_eq(frame.request_id, 13);
    cr_expect_eq(memcmp(frame.payload, "third", 5), 0);
    cr_assert(reply(&frame));
    cr_expect_eq(frame.request_id, 11);
    cr_expect_eq(error_code(&frame), ERR_COMPACTED);
    cr_expect_not(reply(&frame), "nothing for the canceled one");
    end();
}

Test(native_server, a_source_comes_in_parts)
{
    uint8_t wire[64];
    struct native_frame frame;
    size_t total = 0;
    begin(NULL);
    connection_input(&connection, wire, put(wire, 5, 3, 0, ""));
    for (;;) {
        if (!reply(&frame)) {
            cr_assert(held[0]->source_waits);
            rpc_resume(held[0]);
            continue;
        }
        total += frame.payload_bytes;
        if ((frame.flags & NATIVE_FLAG_PART) == 0)
            break;
    }
    cr_expect_eq(total, BIG_BYTES);
    end();
}

Test(native_server, bidi_messages_pause_and_end)
{
    uint8_t wire[512];
    struct native_frame frame;
    begin(NULL);
    size_t bytes = put(wire, 7, 4, NATIVE_FLAG_MORE, "one");
    bytes += put(wire + bytes, 7, 4, NATIVE_FLAG_MORE | NATIVE_FLAG_CONTINUE, "pause");
    bytes += put(wire + bytes, 7, 4, NATIVE_FLAG_CONTINUE, "last");
    bytes += put(wire + bytes, 7, 4, NATIVE_FLAG_CONTINUE, "late: the call is over");
    connection_input(&connection, wire, bytes);
    cr_expect_eq(message_count, 2);
    cr_expect(connection.paused);
    rpc_resume_messages(held[0]);
    flush();
    cr_expect_eq(message_count, 3);
    cr_expect_not(connection.paused);
    for (int i = 0; i < 3; i++) {
        cr_assert(reply(&frame));
        cr_expect(frame.flags & NATIVE_FLAG_MORE);
    }
    cr_assert(reply(&frame));
    cr_expect_not(frame.flags & NATIVE_FLAG_MORE, "the end of the stream");
    cr_expect_not(reply(&frame));
    end();
}

Test(native_server, reading_pauses_above_the_calls_limit_and_goes_on)
{
    uint8_t wire[512];
    struct native_frame frame;
    size_t bytes = 0;
    begin(&(struct rpc_server_options){.calls_per_connection_max = 2});
    for (uint64_t id = 1; id <= 4; id++)
        bytes += put(wire + bytes, id, 2, 0, "x");
    connection_input(&connection, wire, bytes);
    cr_expect_eq(held_count, 2);
    cr_expect(connection.paused);
    rpc_reply(held[0], held[0]->request);
    flush();
    cr_expect_eq(held_count, 3, "room for one more");
    rpc_reply(held[1], held[1]->request);
    flush();
    cr_expect_eq(held_count, 4);
    rpc_reply(held[2], held[2]->request);
    rpc_reply(held[3], held[3]->request);
    for (int i = 0; i < 4; i++)
        cr_expect(reply(&frame));
    end();
}

Test(native_server, reading_pauses_while_built_replies_wait)
{
    enum { REQUESTS = 10 };
    uint8_t wire[512];
    struct native_frame frame;
    size_t bytes = 0;
    uint32_t answered = 0;
    begin(&(struct rpc_server_options){.queued_bytes_per_connection_max = 3 * BIG_BYTES});
    for (uint64_t id = 1; id <= REQUESTS; id++)
        bytes += put(wire + bytes, id, 6, 0, "");
    connection_input(&connection, wire, bytes);
    cr_expect_eq(built_count, 3);
    cr_expect_eq(connection.built_bytes, 3 * BIG_BYTES);
    cr_expect(connection.paused);
    while (reply(&frame))
        answered += (frame.flags & NATIVE_FLAG_PART) == 0;
    cr_expect_eq(answered, REQUESTS);
    cr_expect_eq(connection.built_bytes, 0);
    cr_expect_not(connection.paused);
    end();
}

Test(native_server, token_belongs_to_the_connection)
{
    uint8_t wire[128];
    struct native_frame frame;
    begin(NULL);
    connection_input(&connection, wire, put(wire, 1, 5, 0, "secret"));
    connection_input(&connection, wire, put(wire, 2, 5, 0, ""));
    cr_assert(reply(&frame));
    cr_expect_eq(frame.payload_bytes, 0);
    cr_assert(reply(&frame));
    cr_expect_eq(frame.payload_bytes, 6);
    end();
}

Test(native_server, damage_ends_the_connection)
{
    static const struct {
        const char *why;
        uint32_t at;
        uint8_t with;
    } cases[] = {
        {"magic", 1, 0},   {"version", 4, 9},   {"unknown flag", 5, 128}, {"reply flag", 5, 1},
        {"length", 11, 9}, {"reserved", 24, 1}, {"checksum", 28, 0},      {"payload", 33, 'X'},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint8_t wire[128];
        begin(NULL);
        size_t bytes = put(wire, 1, 1, 0, "payload");
        wire[cases[i].at] = (uint8_t)(wire[cases[i].at] == cases[i].with ? 1 : cases[i].with);
        connection_input(&connection, wire, bytes);
        cr_expect(connection.ending, "%s", cases[i].why);
        cr_expect_eq(server.stats.protocol_errors, 1, "%s", cases[i].why);
        cr_expect_eq(server.stats.started[1], 0, "%s", cases[i].why);
        end();
    }
}

Test(native_server, slow_first_bytes_and_slow_frames_are_cut_off)
{
    uint8_t wire[128];
    begin(NULL);
    size_t bytes = put(wire, 1, 1, 0, "payload");
    connection_input(&connection, wire, bytes - 1);
    server.now_ns += 10 * NS_PER_S - 1;
    connection_tick(&connection);
    cr_expect_not(connection.ending);
    server.now_ns += 1;
    connection_tick(&connection);
    cr_expect(connection.ending, "ten seconds for the first request");
    end();
    begin(NULL);
    connection_input(&connection, wire, bytes);
    outbuf_consume(&connection.out, connection.out.bytes);
    server.now_ns += 3600 * NS_PER_S;
    connection_tick(&connection);
    cr_expect_not(connection.ending, "idle is fine");
    connection_input(&connection, wire, 5);
    server.now_ns += 20 * NS_PER_S;
    connection_tick(&connection);
    cr_expect(connection.ending, "twenty for a later one");
    end();
}

Test(native_server, a_peer_that_takes_nothing_is_cut_off)
{
    uint8_t wire[128];
    begin(NULL);
    connection_input(&connection, wire, put(wire, 1, 1, 0, "payload"));
    for (int i = 0; i < 10; i++) {
        server.now_ns += 59 * NS_PER_S;
        connection.taken_ns = server.now_ns; /* the shell saw some of it leave */
        connection_tick(&connection);
        cr_assert_not(connection.ending, "slow is fine");
    }
    server.now_ns += 60 * NS_PER_S;
    connection_tick(&connection);
    cr_expect(connection.abandoned);
    cr_expect_eq(server.stats.timeouts, 1);
    end();
}

/* What is in flight has at most so many bytes, however many calls and connections it is. */
Test(native_server, requests_in_flight_are_bounded_in_bytes)
{
    static char text[3001], small[1001];
    static uint8_t wire[4000];
    memset(text, 't', sizeof(text) - 1);
    memset(small, 's', sizeof(small) - 1);
    struct rpc_server_options options = {.flight_bytes_max = 10000};
    begin(&options);
    for (uint64_t id = 1; id <= 4; id++)
        connection_input(&connection, wire, put(wire, id, 2, 0, text));
    cr_expect_eq(server.request_bytes, 9000, "%lu", server.request_bytes);
    cr_expect_eq(connection.call_count, 3, "the fourth was refused");
    cr_expect_eq(server.stats.handled[2][GRPC_RESOURCE_EXHAUSTED], 1);
    connection_input(&connection, wire, put(wire, 5, 2, 0, small));
    cr_expect_eq(connection.call_count, 4, "small ones are bounded by their number");
    while (connection.calls != NULL)
        rpc_reply(connection.calls, bytes_from_text("done"));
    cr_expect_eq(server.request_bytes, 0);
    connection_input(&connection, wire, put(wire, 6, 2, 0, text));
    cr_expect_eq(connection.call_count, 1);
    rpc_reply(connection.calls, bytes_from_text("done"));
    end();
}

Test(native_server, shutdown_announces_and_refuses)
{
    uint8_t wire[128];
    struct native_frame frame;
    begin(NULL);
    connection_input(&connection, wire, put(wire, 1, 2, 0, "held"));
    connection_drain(&connection);
    connection_input(&connection, wire, put(wire, 2, 1, 0, "refused"));
    cr_assert(reply(&frame));
    cr_expect_eq(frame.request_id, 0);
    cr_expect_eq(error_code(&frame), ERR_STOPPED);
    cr_assert(reply(&frame));
    cr_expect_eq(frame.request_id, 2);
    cr_expect_eq(error_code(&frame), ERR_STOPPED);
    cr_expect_not(connection.protocol->is_done(&connection));
    rpc_reply(held[0], held[0]->request);
    cr_expect(connection.protocol->is_done(&connection));
    end();
}

#define IDLE_BYTES_MAX 2048

Test(native_server, an_idle_connection_takes_little_memory)
{
    enum { CONNECTIONS = 200 };
    static struct connection *connections[CONNECTIONS];
    uint8_t wire[128];
    size_t bytes = put(wire, 1, 1, 0, "payload");
    begin(NULL);
    connection_input(&connection, wire, bytes); /* what the first call of a core takes */
    outbuf_consume(&connection.out, connection.out.bytes);
    size_t before = heap_bytes();
    for (uint32_t i = 0; i < CONNECTIONS; i++) {
        connections[i] = malloc(sizeof(*connections[i]));
        connection_init(connections[i], &server, RPC_PORT_CLIENT);
        connection_input(connections[i], wire, bytes / 2); /* a frame in two pieces, then silence */
        connection_input(connections[i], wire + bytes / 2, bytes - bytes / 2);
        cr_assert_gt(connections[i]->out.bytes, NATIVE_HEADER_BYTES);
        outbuf_consume(&connections[i]->out, connections[i]->out.bytes);
    }
    size_t each = (heap_bytes() - before) / CONNECTIONS;
    cr_expect_geq(each, sizeof(struct connection), "%zu bytes", each);
    cr_expect_lt(each, IDLE_BYTES_MAX, "%zu bytes", each);
    while (queue_pop(&server.dirty) != NULL)
        ;
    for (uint32_t i = 0; i < CONNECTIONS; i++) {
        connection_close(connections[i]);
        outbuf_deinit(&connections[i]->out);
        free(connections[i]);
    }
    end();
}
