#include "tests/unit/heap_bytes.h"
#include "tests/unit/http2_raw.h"

/*
 * A client that writes its frames by hand and keeps to no rule: what it can make the server hold,
 * and for how long.
 */

static uint32_t handled;

static void handle_echo(struct rpc_call *call)
{
    handled++;
    rpc_reply(call, call->request);
}

static struct rpc_call *held[200000];
static uint32_t held_count;

static void handle_hold(struct rpc_call *call)
{
    handled++;
    held[held_count++] = call;
}

/* Whichever ends first takes all others with it. */
static void chain_canceled(struct rpc_call *call maybe_unused)
{
    uint32_t count = held_count;
    held_count = 0;
    for (uint32_t i = 0; i < count; i++)
        rpc_fail(held[i], ERR_CANCELED);
}

static void handle_chain(struct rpc_call *call)
{
    call->canceled = chain_canceled;
    held[held_count++] = call;
}

static void stream_writable(struct rpc_call *call)
{
    static const uint8_t message[10000];
    while (call->user[0] < 200) {
        if (!rpc_send_message(call, bytes_make(message, sizeof(message))))
            return;
        call->user[0]++;
    }
    handled++;
    rpc_finish(call, 0);
}

static void stream_half_closed(struct rpc_call *call maybe_unused) {}

static void stream_canceled(struct rpc_call *call)
{
    rpc_fail(call, ERR_CANCELED);
}

static void handle_stream(struct rpc_call *call)
{
    call->canceled = stream_canceled;
    call->half_closed = stream_half_closed;
    call->writable = stream_writable;
    stream_writable(call);
}

#define BIG_BYTES   (100 * MIB)
#define BUILT_BYTES (3 * MIB / 2)

/* Every piece has a byte of its own, so that one which is lost or twice there is seen. */
static uint8_t pulled_byte(uint64_t piece)
{
    return (uint8_t)(piece % 251);
}

static int64_t pull(struct rpc_call *call, uint8_t *to, size_t bytes_max)
{
    memset(to, pulled_byte(call->user[0]++), bytes_max);
    return (int64_t)bytes_max;
}

static uint32_t released;

static void count_released(struct rpc_call *call maybe_unused)
{
    released++;
    held_count = 0;
}

static void handle_big(struct rpc_call *call)
{
    call->released = count_released;
    rpc_reply_source(call, BIG_BYTES, pull);
}

static void handle_built(struct rpc_call *call)
{
    handled++;
    rpc_reply_built(call, BUILT_BYTES, pull);
}

static void handle_list(struct rpc_call *call)
{
    call->canceled = chain_canceled;
    call->released = count_released;
    call->writable = stream_writable;
    held[held_count++] = call;
    stream_writable(call);
}

static const struct rpc_method methods[] = {
    {.path = "/t.T/Echo", .id = 1, .handle = handle_echo},
    {.path = "/t.T/Hold", .id = 2, .handle = handle_hold},
    {.path = "/t.T/Chain", .id = 3, .handle = handle_chain},
    {.path = "/t.T/Stream", .id = 4, .kind = RPC_BIDI, .handle = handle_stream},
    {.path = "/t.T/Big", .id = 5, .handle = handle_big},
    {.path = "/t.T/List", .id = 6, .kind = RPC_SERVER_STREAM, .handle = handle_list},
    {.path = "/t.T/Built", .id = 7, .handle = handle_built},
};

static void world_open(const struct rpc_server_options *extra)
{
    struct rpc_server_options options = extra != NULL ? *extra : (struct rpc_server_options){0};
    options.methods = methods;
    options.method_count = ARRAY_COUNT(methods);
    held_count = handled = 0;
    raw_open(&options);
}

static void world_close(void)
{
    raw_close();
    for (uint32_t i = 0; i < held_count; i++)
        rpc_fail(held[i], ERR_CANCELED);
    cr_expect_eq(server.calls_live, 0);
    cr_expect_eq(server.partial_bytes, 0);
    rpc_server_deinit(&server);
}

static void send_request(uint32_t id, const char *path)
{
    send_message(id, path, (struct bytes){0});
}

/* ---- headers -----------------------------------------------------------------------------------
 */

/* One field of 4,000 bytes is put into the table; each further byte repeats it. */
Test(http2_hostile, repeated_headers_are_not_kept)
{
    static const char *const names[] = {"token", "authorization", "client-api-version", ":path",
                                        "grpc-encoding"};
    static char value[4000];
    static uint8_t block[16384];
    memset(value, 'v', sizeof(value));
    for (size_t n = 0; n < ARRAY_COUNT(names); n++) {
        world_open(NULL);
        uint8_t *end = put_request(block, "/t.T/Hold");
        end = put_field(end, true, names[n], value, sizeof(value) - 100);
        memset(end, 0x80 | 62, (size_t)(block + sizeof(block) - end));
        send_frame(FRAME_HEADERS, 0, 1, block, sizeof(block));
        memset(block, 0x80 | 62, sizeof(block));
        for (int i = 0; i < 4; i++)
            send_frame(FRAME_CONTINUATION, 0, 1, block, sizeof(block));
        uint64_t taken = connection.calls == NULL ? 0 : connection.calls->arena.bytes_taken;
        cr_expect_leq(taken, 64 * KIB, "%s: %lu bytes", names[n], taken);
        world_close();
    }
}

Test(http2_hostile, headers_without_end_end_the_connection)
{
    static uint8_t field[100];
    world_open(NULL);
    uint8_t block[256];
    send_frame(FRAME_HEADERS, 0, 1, block, (size_t)(put_request(block, "/t.T/Hold") - block));
    size_t bytes = (size_t)(put_field(field, false, "x", "y", 1) - field);
    int frames = 0;
    while (!connection.ending && frames < 100000) {
        send_frame(FRAME_CONTINUATION, 0, 1, field, bytes);
        frames++;
    }
    cr_expect_leq(frames, 64, "%d", frames);
    world_close();
}

Test(http2_hostile, headers_beyond_what_is_offered_are_refused)
{
    static char value[16000], token[RPC_TOKEN_BYTES_MAX + 1];
    static uint8_t block[16384];
    world_open(NULL);
    send_frame(FRAME_HEADERS, 0, 1, block, (size_t)(put_request(block, "/t.T/Hold") - block));
    for (int i = 0; i < 5; i++) {
        uint8_t *end = put_field(block, false, "x", value, sizeof(value));
        send_frame(FRAME_CONTINUATION, i == 4 ? END_HEADERS : 0, 1, block, (size_t)(end - block));
    }
    uint8_t *end = put_request(block, "/t.T/Hold");
    end = put_field(end, false, "token", token, sizeof(token));
    send_frame(FRAME_HEADERS, END_HEADERS, 3, block, (size_t)(end - block));
    send_request(5, "/t.T/Echo");
    flush(true);
    cr_expect_eq(connection.call_count, 0, "431, twice");
    cr_expect_eq(handled, 1, "and the connection goes on");
    cr_expect_not(connection.ending);
    world_close();
}

Test(http2_hostile, a_token_comes_before_an_authorization)
{
    static const char *const orders[][2] = {{"token", "authorization"}, {"authorization", "token"}};
    for (size_t i = 0; i < ARRAY_COUNT(orders); i++) {
        uint8_t block[256], *end = put_request(block, "/t.T/Hold");
        world_open(NULL);
        for (int k = 0; k < 2; k++)
            end = put_field(end, false, orders[i][k], orders[i][k], strlen(orders[i][k]));
        send_frame(FRAME_HEADERS, END_HEADERS, 1, block, (size_t)(end - block));
        cr_expect(bytes_equal(connection.calls->token, bytes_from_text("token")), "%zu", i);
        world_close();
    }
}

/* ---- calls that end while others are looked at --------------------------------------------------
 */

static void send_chain(uint32_t count)
{
    static const uint8_t message[5];
    uint8_t block[256], *end = put_request(block, "/t.T/Chain");
    end = put_field(end, false, "grpc-timeout", "1S", 2);
    for (uint32_t i = 0; i < count; i++) {
        send_frame(FRAME_HEADERS, END_HEADERS, 2 * i + 1, block, (size_t)(end - block));
        send_frame(FRAME_DATA, END_STREAM, 2 * i + 1, message, sizeof(message));
    }
}

Test(http2_hostile, a_deadline_may_end_all_other_calls)
{
    world_open(NULL);
    send_chain(100);
    cr_assert_eq(held_count, 100);
    server.now_ns += 2 * NS_PER_S;
    rpc_server_expire(&server);
    cr_expect_eq(held_count, 0);
    cr_expect_eq(server.calls_live, 0);
    flush(true);
    cr_expect_not(connection.ending);
    world_close();
}

/* All streams of a connection together hold little more than the limit, and none is forgotten. */
Test(http2_hostile, unread_streams_are_bounded_together)
{
    enum { STREAMS = 100, LIMIT = 4 * 1024 * 1024 };
    world_open(NULL);
    for (uint32_t i = 0; i < STREAMS; i++)
        send_request(2 * i + 1, "/t.T/Stream");
    flush(true);
    const struct http2 *http2 = connection.state;
    cr_expect_leq(http2->queued_bytes, LIMIT + STREAMS * 20000, "%lu", http2->queued_bytes);
    cr_expect_eq(connection.call_count, STREAMS);
    for (int round = 0; round < 1000 && handled < STREAMS; round++) {
        send_window(0, MIB);
        for (uint32_t i = 0; i < STREAMS; i++)
            if (round % 10 == 0)
                send_window(2 * i + 1, MIB);
        flush(true);
        cr_assert_not(connection.ending);
    }
    cr_expect_eq(handled, STREAMS, "%u", handled);
    world_close();
}

/* Large replies, whole or in messages: the window opens by a little, or not at all. */
Test(http2_hostile, a_reply_that_is_not_taken_does_not_stay)
{
    static const char *const paths[] = {"/t.T/Big", "/t.T/List"};
    for (size_t p = 0; p < ARRAY_COUNT(paths); p++) {
        world_open(NULL);
        released = 0;
        send_request(1, paths[p]);
        flush(true);
        for (int i = 0; i < 100; i++) { /* slow is fine */
            send_window(0, 40000);
            send_window(1, 40000);
            flush(true);
            server.now_ns += 10 * NS_PER_S;
            connection_tick(&connection);
            if (connection.call_count == 0)
                break; /* the list has an end */
        }
        if (p == 1) {
            cr_expect_eq(handled, 1, "to its end");
            released = 0;
            send_request(3, paths[p]);
        }
        for (int i = 0; i < 70; i++) {
            send_window(p == 0 ? 1 : 3, 1);
            flush(true);
            server.now_ns += NS_PER_S;
            connection_tick(&connection);
        }
        flush(true);
        cr_expect_eq(released, 1, "%s", paths[p]);
        cr_expect_eq(server.calls_live, 0);
        cr_expect_not(connection.ending, "the connection is none the worse");
        world_close();
    }
}

/* Other requests make the connection progress all the time; this one never gets whole. */
Test(http2_hostile, a_message_must_become_whole)
{
    static const struct {
        const char *path;
        bool is_stream;
    } cases[] = {{"/t.T/Echo", false}, {"/t.T/Stream", true}};
    static uint8_t part[16000];
    for (size_t c = 0; c < ARRAY_COUNT(cases); c++) {
        uint8_t block[256];
        world_open(NULL);
        send_frame(FRAME_HEADERS, END_HEADERS, 1, block,
                   (size_t)(put_request(block, cases[c].path) - block));
        grpc_prefix_store(part, MIB);
        send_frame(FRAME_DATA, 0, 1, part, sizeof(part));
        for (uint32_t i = 0; i < 200; i++) {
            send_frame(FRAME_DATA, 0, 1, part, 1);
            send_request(3 + 2 * i, "/t.T/Echo");
            flush(true);
            cr_assert_eq(server.partial_bytes > 0, i < 120, "%s: %u s", cases[c].path, i);
            server.now_ns += NS_PER_S;
            connection_tick(&connection);
            cr_assert_not(connection.ending);
        }
        cr_expect_eq(server.calls_live, 0);
        world_close();
    }
}

/* ---- floods ------------------------------------------------------------------------------------
 */

/* What the connection has queued for a client that does not read. */
static size_t queue_frames(void)
{
    const struct http2 *http2 = connection.state;
    return http2 == NULL ? 0 : nghttp2_session_get_outbound_queue_size(http2->session);
}

static void flood_ping(uint32_t i)
{
    (void)i;
    static const uint8_t data[8];
    send_frame(FRAME_PING, 0, 0, data, sizeof(data));
}

static void flood_settings(uint32_t i)
{
    uint8_t setting[6] = {0, 4};
    be32_store(setting + 2, i);
    send_frame(FRAME_SETTINGS, 0, 0, setting, sizeof(setting));
}

static void flood_reset(uint32_t i)
{
    static const uint8_t code[4];
    send_request(2 * i + 1, "/t.T/Hold");
    send_frame(FRAME_RST_STREAM, 0, 2 * i + 1, code, sizeof(code));
}

/* Streams that the server has to reset. */
static void flood_bad_window(uint32_t i)
{
    send_request(2 * i + 1, "/t.T/Hold");
    send_window(2 * i + 1, INT32_MAX);
}

/* The client does not confirm the server's SETTINGS, so their limit does not bind it. */
static void flood_streams(uint32_t i)
{
    uint8_t block[256];
    send_frame(FRAME_HEADERS, END_HEADERS, 2 * i + 1, block,
               (size_t)(put_request(block, "/t.T/Hold") - block));
}

static void flood_unknown(uint32_t i)
{
    send_request(2 * i + 1, "/t.T/None");
}

static void flood_trailers(uint32_t i)
{
    send_request(2 * i + 1, "/t.T/Echo");
}

Test(http2_hostile, floods_end_or_are_bounded)
{
    static const struct {
        const char *why;
        void (*send)(uint32_t i);
        bool client_reads;
        bool ends;
        uint64_t heap_mib_max;
    } cases[] = {
        {"pings that nobody wants answered", flood_ping, false, true, 4},
        {"settings that nobody wants confirmed", flood_settings, false, true, 4},
        {"requests and resets at once", flood_reset, true, true, 16},
        {"requests and resets, unread", flood_reset, false, true, 16},
        {"streams that must be reset", flood_bad_window, false, true, 16},
        {"streams that must be reset, read", flood_bad_window, true, true, 16},
        {"streams beyond the offer", flood_streams, false, true, 16},
        {"streams beyond the offer, read", flood_streams, true, false, 16},
        {"answers that nobody reads", flood_unknown, false, true, 16},
        {"replies that nobody reads", flood_trailers, false, true, 16},
        {"answers that are read", flood_unknown, true, false, 16},
    };
    for (size_t c = 0; c < ARRAY_COUNT(cases); c++) {
        struct rpc_server_options options = {.streams_per_connection_max = 1000, .calls_max = 2000};
        world_open(&options);
        size_t before = heap_bytes();
        uint32_t i = 0;
        size_t queue_max = 0;
        for (; i < 100000 && !connection.ending; i++) {
            cases[c].send(i);
            if (i % 16 == 0)
                flush(cases[c].client_reads);
            queue_max = u64_max(queue_max, queue_frames());
        }
        uint64_t mib = (heap_bytes() - before) / MIB;
        cr_expect_eq(connection.ending, cases[c].ends, "%s: %u rounds", cases[c].why, i);
        cr_expect_leq(mib, cases[c].heap_mib_max, "%s: %lu MiB", cases[c].why, mib);
        cr_expect_leq(queue_max, 8000, "%s: %zu frames queued", cases[c].why, queue_max);
        world_close();
    }
}

/* ---- windows -----------------------------------------------------------------------------
 */

static void set_initial_window(uint32_t bytes)
{
    uint8_t setting[6] = {0, 4};
    be32_store(setting + 2, bytes);
    send_frame(FRAME_SETTINGS, 0, 0, setting, sizeof(setting));
}

/* Takes what waits in the output, whole frames as a flush leaves them, and looks at the DATA of
 * stream 1. True: its trailers were there. */
static bool take_big(uint64_t *taken)
{
    static uint8_t copy[2 * RPC_OUTPUT_BYTES_HIGH];
    struct iovec iov;
    size_t bytes = 0;
    while (outbuf_gather(&connection.out, &iov, 1) == 1) {
        cr_assert_leq(bytes + iov.iov_len, sizeof(copy));
        memcpy(copy + bytes, iov.iov_base, iov.iov_len);
        bytes += iov.iov_len;
        outbuf_consume(&connection.out, iov.iov_len);
    }
    for (size_t at = 0; at < bytes;) {
        size_t length = (size_t)copy[at] << 16 | (size_t)copy[at + 1] << 8 | copy[at + 2];
        const uint8_t *payload = copy + at + 9;
        cr_assert_leq(at + 9 + length, bytes);
        if (copy[at + 3] == FRAME_HEADERS && (copy[at + 4] & END_STREAM) != 0)
            return true;
        for (size_t i = 0; copy[at + 3] == FRAME_DATA && i < length; i++, ++*taken)
            if (*taken >= GRPC_PREFIX_BYTES)
                cr_assert_eq(payload[i],
                             pulled_byte((*taken - GRPC_PREFIX_BYTES) / GRPC_SOURCE_BYTES));
        at += 9 + length;
    }
    return false;
}

Test(http2_hostile, a_huge_window_is_filled_piece_by_piece)
{
    uint64_t taken = 0;
    bool ended = false;
    world_open(NULL);
    set_initial_window(INT32_MAX);
    send_window(0, INT32_MAX - 65535);
    send_request(1, "/t.T/Big");
    for (int round = 0; round < 1000 && !ended; round++) {
        flush(false);
        cr_assert_leq(connection.out.bytes, RPC_OUTPUT_BYTES_HIGH + 9 + 16384);
        ended = take_big(&taken);
    }
    cr_expect(ended);
    cr_expect_eq(taken, GRPC_PREFIX_BYTES + BIG_BYTES);
    world_close();
}

Test(http2_hostile, replies_are_not_built_far_ahead_of_a_client_without_a_window)
{
    enum { REQUESTS = 100 };
    world_open(NULL);
    set_initial_window(0);
    for (uint32_t i = 0; i < REQUESTS; i++)
        send_request(2 * i + 1, "/t.T/Built");
    flush(true);
    cr_expect_eq(handled, 3, "the limit is 4 MiB: %u", handled);
    cr_expect_eq(connection.built_bytes, handled * BUILT_BYTES);
    cr_expect_eq(server.built_bytes, connection.built_bytes);
    cr_expect_not(connection.paused, "window updates must still be read");
    static const uint8_t cancel[4] = {0, 0, 0, 8};
    send_frame(FRAME_RST_STREAM, 0, 1, cancel, sizeof(cancel));
    flush(true);
    cr_expect_eq(handled, 4, "one in the place of that which is gone");
    server.now_ns += 60 * NS_PER_S;
    connection_tick(&connection);
    flush(true);
    cr_expect_eq(handled, 7, "nothing was taken for a minute");
    set_initial_window(INT32_MAX);
    send_window(0, INT32_MAX - 65535);
    for (uint32_t round = 0; round < 10000 && server.calls_live > 0; round++) {
        flush(true);
        cr_assert_leq(connection.built_bytes, 4 * MIB + BUILT_BYTES);
    }
    cr_expect_eq(server.stats.handled[7][GRPC_OK], REQUESTS - 4);
    cr_expect_eq(connection.built_bytes, 0);
    world_close();
}
