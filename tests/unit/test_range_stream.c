#include <stdio.h>
#include <unistd.h>

#include "core/core.h"
#include "core/fiber.h"
#include "server/frontend.h"
#include "server/node_private.h"
#include "server/range_stream.h"
#include "server/service_table.h"
#include "storage/lsm/lsm.h"
#include "storage/mvcc/mvcc.h"
#include "tests/unit/http2_raw.h"

/*
 * Ranges larger than a client's window, of clients that go away or take nothing: whatever happens,
 * the fiber ends, the call goes home, and the view of the store is let go. And large replies that
 * are built at once, as long as there is room for them.
 */

enum { KEYS = 300, VALUE_BYTES = 10000, LARGE_VALUE_BYTES = 200000, MESSAGE_KIND_BASE = 8 };

static struct core *core;
static struct mesh *mesh;
static char dir[64];
static struct lsm *lsm;
static struct lsm_reader *lsm_reader;
static struct mvcc *mvcc;
static struct mvcc_shared *shared;
static struct node node;
static struct frontend frontend;
static uint32_t released;

static void count_released(struct rpc_call *call maybe_unused)
{
    released++;
}

static void handle_messages(struct rpc_call *call)
{
    cr_assert_eq(rpc_call_keep(call), 0);
    call->released = count_released;
    range_stream_messages(call);
}

static void handle_unary(struct rpc_call *call)
{
    cr_assert_eq(rpc_call_keep(call), 0);
    range_stream_unary(call);
}

static const struct rpc_method methods[] = {
    {.path = "/t.T/Range", .id = 1, .handle = handle_unary},
    {.path = "/t.T/RangeStream", .id = 2, .kind = RPC_SERVER_STREAM, .handle = handle_messages},
};

static const struct rpc_method kv_methods[] = {
    {.path = "/t.T/Get", .id = 1, .handle = kv_service_range},
    {.path = "/t.T/Txn", .id = 2, .handle = kv_service_txn},
};

static bool no_lease(void *context maybe_unused, int64_t lease maybe_unused)
{
    return false;
}

static void store_fill(void)
{
    static uint8_t value[LARGE_VALUE_BYTES];
    struct arena arena;
    arena_init(&arena, 0);
    for (uint32_t i = 0; i <= KEYS; i++) {
        char key[16] = "big";
        if (i < KEYS)
            snprintf(key, sizeof(key), "key%05u", i);
        struct mvcc_put_request put = {
            .key = bytes_from_text(key),
            .value = bytes_make(value, i < KEYS ? VALUE_BYTES : LARGE_VALUE_BYTES)};
        struct mvcc_put_result result;
        cr_assert_eq(mvcc_apply_put(mvcc, &put, &arena, &result), 0);
        arena_reset(&arena);
    }
    cr_assert_eq(mvcc_commit(mvcc, 1, 1), 0);
    arena_deinit(&arena);
}

static void store_open(void)
{
    struct lsm_options options = {.dir = dir,
                                  .memtable_bytes = 16 * MIB,
                                  .core_count = 1,
                                  .message_kind_base = MESSAGE_KIND_BASE,
                                  .random_seed = 7};
    shared = mvcc_shared_create();
    mvcc_configure_lsm(shared, &options);
    cr_assert_eq(lsm_open(core, &options, &lsm), 0);
    cr_assert_eq(lsm_reader_open(lsm, core, &lsm_reader), 0);
    struct mvcc_options writer = {
        .shared = shared, .lsm = lsm, .lsm_reader = lsm_reader, .lease_exists = no_lease};
    struct mvcc_reader_options reader = {.shared = shared, .lsm = lsm, .lsm_reader = lsm_reader};
    cr_assert_eq(mvcc_open(&writer, &mvcc), 0);
    cr_assert_eq(mvcc_reader_open(&reader, &frontend.reader), 0);
    lsm_background_start(lsm, core);
    frontend.core = core;
    frontend.node = &node;
    store_fill();
}

static void store_close(void)
{
    mvcc_reader_close(frontend.reader); /* no scan is open */
    mvcc_close(mvcc);
    lsm_background_stop(lsm);
    lsm_reader_close(lsm_reader); /* nothing is pinned */
    fiber_sleep_until(core_now_ns(core) + NS_PER_MS);
    lsm_close(lsm);
    mvcc_shared_destroy(shared);
}

static void settle(void)
{
    for (int i = 0; i < 200; i++) {
        fiber_yield();
        flush(true);
    }
}

/* Everything from "key" on. */
static void ask(const char *path)
{
    static const uint8_t request[] = {0x0a, 3, 'k', 'e', 'y', 0x12, 1, 0};
    send_message(1, path, bytes_make(request, sizeof(request)));
    settle();
    cr_assert_eq(server.calls_live, 1, "%s", path);
}

static void client_resets(void)
{
    static const uint8_t code[4] = {0, 0, 0, 8};
    send_frame(FRAME_RST_STREAM, 0, 1, code, sizeof(code));
}

static void client_leaves(void)
{
    raw_close();
}

static void client_takes_nothing(void)
{
    for (int i = 0; i < 61; i++) {
        server.now_ns += NS_PER_S;
        connection_tick(&connection);
    }
}

static void client_reads_on(void)
{
    for (int i = 0; i < 100; i++) {
        send_window(0, MIB);
        if (i % 10 == 0)
            send_window(1, MIB);
        settle();
    }
}

/* A serializable Get of "big", alone and in a transaction. */
static void stories_of_large_values(void)
{
    static const uint8_t get[] = {0x0a, 3, 'b', 'i', 'g', 0x38, 1};
    static const uint8_t txn[] = {0x12, 9, 0x0a, 7, 0x0a, 3, 'b', 'i', 'g', 0x38, 1};
    const struct {
        const char *why, *path;
        struct bytes request;
        uint64_t built_bytes_max;
        bool is_built, is_refused;
    } cases[] = {
        {"built", "/t.T/Get", bytes_make(get, sizeof(get)), 0, true, false},
        {"streamed without room", "/t.T/Get", bytes_make(get, sizeof(get)), 1, false, false},
        {"built", "/t.T/Txn", bytes_make(txn, sizeof(txn)), 0, true, false},
        {"refused without room", "/t.T/Txn", bytes_make(txn, sizeof(txn)), 1, false, true},
    };
    static struct config config = {.max_txn_ops = 128};
    node.config = &config;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct rpc_server_options options = {.methods = kv_methods,
                                             .method_count = ARRAY_COUNT(kv_methods),
                                             .service = &frontend,
                                             .built_bytes_max = cases[i].built_bytes_max};
        raw_open(&options);
        send_message(1, cases[i].path, cases[i].request);
        settle();
        cr_expect_eq(server.built_bytes > LARGE_VALUE_BYTES, cases[i].is_built, "%s %s",
                     cases[i].path, cases[i].why);
        cr_expect_eq(server.calls_live, !cases[i].is_refused, "%s %s", cases[i].path, cases[i].why);
        client_reads_on();
        cr_assert_eq(server.calls_live, 0);
        const uint64_t *handled = server.stats.handled[strcmp(cases[i].path, "/t.T/Get") ? 2 : 1];
        cr_expect_eq(handled[GRPC_OK], !cases[i].is_refused);
        cr_expect_eq(handled[GRPC_RESOURCE_EXHAUSTED], cases[i].is_refused);
        raw_close();
        rpc_server_deinit(&server);
    }
}

static void stories(void *argument)
{
    static void (*const ends[])(void) = {client_resets, client_leaves, client_takes_nothing,
                                         client_reads_on};
    bool *finished = argument;
    store_open();
    for (size_t m = 0; m < ARRAY_COUNT(methods); m++)
        for (size_t i = 0; i < ARRAY_COUNT(ends); i++) {
            struct rpc_server_options options = {
                .methods = methods, .method_count = ARRAY_COUNT(methods), .service = &frontend};
            raw_open(&options);
            released = 0;
            ask(methods[m].path);
            ends[i]();
            if (ends[i] != client_leaves)
                settle();
            for (int turn = 0; turn < 10; turn++)
                fiber_yield();
            cr_assert_eq(server.calls_live, 0, "%s, end %zu", methods[m].path, i);
            cr_expect(m == 0 || released == 1);
            if (ends[i] != client_leaves)
                raw_close();
            rpc_server_deinit(&server);
        }
    stories_of_large_values();
    store_close();
    *finished = true;
}

/* 114 keys are 19 messages: the client's window and the stream's queue hold 18, so the last one,
 * which bears the header, waits. Then the term takes a byte more, and another reply of this core
 * says so. */
static void term_grows(void *argument)
{
    static const uint8_t first_keys[] = {0x0a, 3, 'k', 'e', 'y', 0x12, 1, 0, 0x18, 114};
    static const uint8_t count_only[] = {0x0a, 3, 'k', 'e', 'y', 0x12, 1, 0, 0x48, 1};
    bool *finished = argument;
    struct rpc_server_options options = {
        .methods = methods, .method_count = ARRAY_COUNT(methods), .service = &frontend};
    store_open();
    raw_open(&options);
    released = 0;
    atomic_store(&node.shared.term, 127);
    send_message(1, "/t.T/RangeStream", bytes_make(first_keys, sizeof(first_keys)));
    settle();
    cr_assert_eq(server.stats.messages_sent[2], 18, "the last one waits");
    atomic_store(&node.shared.term, 128);
    send_message(3, "/t.T/Range", bytes_make(count_only, sizeof(count_only)));
    settle();
    cr_assert_eq(server.stats.messages_sent[1], 1, "the other reply does not");
    client_reads_on();
    cr_assert_eq(server.stats.messages_sent[2], 19);
    cr_assert_eq(server.calls_live, 0);
    cr_assert_eq(released, 1);
    raw_close();
    rpc_server_deinit(&server);
    store_close();
    *finished = true;
}

static void own_work(void *argument)
{
    ++*(uint32_t *)argument;
}

/* More streams than the core has fibers, of a client that reads none: the core's own work goes on.
 */
static void streams_stall(void *argument)
{
    static const uint8_t all[] = {0x0a, 3, 'k', 'e', 'y', 0x12, 1, 0};
    enum { STREAMS = 32, OWN = 4 };
    bool *finished = argument;
    uint32_t own = 0;
    struct rpc_server_options options = {
        .methods = methods, .method_count = ARRAY_COUNT(methods), .service = &frontend};
    store_open();
    raw_open(&options);
    for (uint32_t i = 0; i < STREAMS; i++)
        send_message(2 * i + 1, "/t.T/RangeStream", bytes_make(all, sizeof(all)));
    settle();
    cr_expect_eq(server.stats.handled[2][GRPC_RESOURCE_EXHAUSTED] + (uint64_t)server.calls_live,
                 STREAMS);
    cr_expect_gt(server.calls_live, 0);
    for (uint32_t i = 0; i < OWN; i++)
        cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, own_work, &own), 0);
    settle();
    cr_expect_eq(own, OWN);
    raw_close();
    settle();
    cr_expect_eq(server.calls_live, 0);
    rpc_server_deinit(&server);
    store_close();
    *finished = true;
}

/* Streams that wait for their clients hold no more than their part of memory. */
static void streams_fill(void *argument)
{
    static const uint8_t all[] = {0x0a, 3, 'k', 'e', 'y', 0x12, 1, 0};
    enum { STREAMS = 6, FIT = 3 };
    const uint64_t others = RANGE_STREAM_BYTES_MAX - FIT * RANGE_STREAM_CHUNK_BYTES;
    bool *finished = argument;
    struct rpc_server_options options = {
        .methods = methods, .method_count = ARRAY_COUNT(methods), .service = &frontend};
    store_open();
    raw_open(&options);
    frontend.range_bytes = others;
    for (uint32_t i = 0; i < STREAMS; i++)
        send_message(2 * i + 1, i % 2 == 0 ? "/t.T/RangeStream" : "/t.T/Range",
                     bytes_make(all, sizeof(all)));
    settle();
    cr_expect_eq(server.calls_live, FIT);
    cr_expect_eq(server.stats.handled[1][GRPC_RESOURCE_EXHAUSTED] +
                     server.stats.handled[2][GRPC_RESOURCE_EXHAUSTED],
                 STREAMS - FIT);
    cr_expect_eq(frontend.range_bytes, RANGE_STREAM_BYTES_MAX);
    raw_close();
    settle();
    cr_expect_eq(frontend.range_bytes, others);
    frontend.range_bytes = 0;
    rpc_server_deinit(&server);
    store_close();
    *finished = true;
}

/* `story` is a fiber of a core with a filled store, and says when it is over. */
static void tell(void (*story)(void *argument))
{
    struct core_options options = {.reactor = {.core_count = 1,
                                               .files_max = 256,
                                               .buffer_bytes = 4 * MIB,
                                               .recv_buffer_bytes = 4096,
                                               .recv_buffer_count = 16,
                                               .random_seed = 1},
                                   .fibers_max = 16};
    char reason[256] = "", command[128];
    bool finished = false;
    cr_assert_eq(mesh_create(1, 64, &mesh), 0);
    cr_assert_eq(core_create(&options, mesh, &core, reason, sizeof(reason)), 0, "%s", reason);
    core_set_current(core);
    snprintf(dir, sizeof(dir), "/var/tmp/test_range_stream.XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, story, &finished), 0);
    while (!finished)
        core_turn(core, true);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    cr_assert_eq(system(command), 0);
    core_set_current(NULL);
    core_destroy(core); /* no fiber is left */
    mesh_destroy(mesh);
}

Test(range_stream, a_client_that_goes_away_leaves_nothing_behind, .timeout = 600)
{
    tell(stories);
}

Test(range_stream, a_term_that_grows_while_a_reply_waits_changes_nothing, .timeout = 600)
{
    tell(term_grows);
}

Test(range_stream, streams_that_stall_leave_fibers_to_the_core, .timeout = 600)
{
    tell(streams_stall);
}

Test(range_stream, streams_that_stall_hold_bounded_memory, .timeout = 600)
{
    tell(streams_fill);
}
