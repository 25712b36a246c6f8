#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/core.h"
#include "net/grpc_client.h"
#include "net/native_client.h"
#include "net/rpc.h"

/* Server and clients on one core, over real sockets of the loopback interface. */

enum { BIG_BYTES = 5000000 };

static struct core *core;
static struct mesh *mesh;
static struct rpc_server *server;
static struct io_listener listener;
static struct client_set set;
static struct io_address address;
static uint32_t answered, failed, stream_messages;
static size_t last_bytes;
static bool was_closed, was_shut_down;

static void handle_echo(struct rpc_call *call)
{
    rpc_reply(call, call->request);
}

static int64_t pull(struct rpc_call *call, uint8_t *to, size_t bytes_max)
{
    (void)call;
    memset(to, 'x', bytes_max);
    return (int64_t)bytes_max;
}

static void handle_big(struct rpc_call *call)
{
    rpc_reply_source(call, BIG_BYTES, pull);
}

static void handle_fail(struct rpc_call *call)
{
    rpc_fail(call, ERR_NO_LEADER);
}

static void bidi_message(struct rpc_call *call, struct bytes message)
{
    cr_assert(rpc_send_message(call, message));
}

static void bidi_canceled(struct rpc_call *call)
{
    rpc_finish(call, 0);
}

static void handle_bidi(struct rpc_call *call)
{
    call->message = bidi_message;
    call->canceled = bidi_canceled;
}

static const struct rpc_method methods[] = {
    {.path = "/t.T/Echo", .native = 1, .id = 1, .handle = handle_echo},
    {.path = "/t.T/Big", .native = 2, .id = 2, .handle = handle_big},
    {.path = "/t.T/Fail", .native = 3, .id = 3, .handle = handle_fail},
    {.path = "/t.T/Bidi", .native = 4, .id = 4, .kind = RPC_BIDI, .handle = handle_bidi},
};

static void accepted(struct io_listener *from, int32_t fd, const struct io_address *peer)
{
    (void)from;
    (void)peer;
    if (fd >= 0)
        rpc_server_adopt(server, fd, RPC_PORT_CLIENT);
}

static void listener_closed(struct io_listener *from)
{
    (void)from;
}

static void set_up(void)
{
    struct core_options options = {.reactor = {.core_count = 1,
                                               .files_max = 64,
                                               .buffer_bytes = MIB,
                                               .recv_buffer_bytes = 4096,
                                               .recv_buffer_count = 64},
                                   .fibers_max = 4};
    char reason[256] = "";
    cr_assert_eq(mesh_create(1, 64, &mesh), 0);
    cr_assert_eq(core_create(&options, mesh, &core, reason, sizeof(reason)), 0, "%s", reason);
    core_set_current(core);
    struct rpc_server_options server_options = {.methods = methods,
                                                .method_count = ARRAY_COUNT(methods)};
    cr_assert_eq(rpc_server_create(core, &server_options, &server), 0);
    client_set_init(&set, core);
    listener.accepted = accepted;
    listener.closed = listener_closed;
    int error = -1;
    for (uint16_t port = 23790; error < 0 && port < 23990; port++) {
        cr_assert_eq(reactor_resolve(core_reactor(core), "127.0.0.1", port, &address), 0);
        error = reactor_listen(core_reactor(core), &listener, &address);
    }
    cr_assert_eq(error, 0);
}

static void turn_until(const bool *flag, const uint32_t *count, uint32_t wanted)
{
    uint64_t give_up_ns = reactor_clock_ns(core_reactor(core)) + 20 * NS_PER_S;
    while (!(flag != NULL && *flag) && !(count != NULL && *count >= wanted)) {
        cr_assert_lt(reactor_clock_ns(core_reactor(core)), give_up_ns, "nothing happens");
        core_turn(core, true);
    }
}

static void shut_down(void *context)
{
    (void)context;
    was_shut_down = true;
}

static void tear_down(void)
{
    rpc_server_shutdown(server, NS_PER_S, shut_down, NULL);
    turn_until(&was_shut_down, NULL, 0);
    turn_until(&was_closed, NULL, 0);
    cr_expect_eq(rpc_server_stats(server)->connections, 0);
    cr_expect_eq(rpc_server_stats(server)->calls, 0);
    rpc_server_destroy(server);
    client_set_deinit(&set);
}

static void native_reply(void *context, const struct native_reply *reply)
{
    (void)context;
    answered++;
    failed += reply->error != 0;
    last_bytes = reply->message.size;
}

static void native_closed(struct native_client *client, int error)
{
    (void)client;
    (void)error;
    was_closed = true;
}

Test(rpc_server, native_calls_over_a_socket)
{
    set_up();
    struct native_client client = {.closed = native_closed};
    cr_assert_eq(native_client_open(&set, &client, &address, 1000), 0);
    struct native_call_options call = {.method = 1, .reply = native_reply};
    for (int i = 0; i < 1000; i++)
        cr_assert_eq(native_client_call(&client, &call, bytes_from_text("hello"), NULL), 0);
    cr_expect_eq(native_client_call(&client, &call, bytes_from_text("hello"), NULL), ERR_FULL);
    turn_until(NULL, &answered, 1000);
    cr_expect_eq(failed, 0);
    cr_expect_eq(last_bytes, 5);
    call.method = 2;
    cr_assert_eq(native_client_call(&client, &call, bytes_from_text(""), NULL), 0);
    turn_until(NULL, &answered, 1001);
    cr_expect_eq(last_bytes, BIG_BYTES);
    call.method = 3;
    cr_assert_eq(native_client_call(&client, &call, bytes_from_text(""), NULL), 0);
    turn_until(NULL, &answered, 1002);
    cr_expect_eq(failed, 1);
    tear_down();
}

static void grpc_done(void *context, const struct grpc_client_reply *reply)
{
    (void)context;
    answered++;
    failed += reply->status != GRPC_OK;
    last_bytes = reply->message.size;
}

static void grpc_message(void *context, struct grpc_client_call *call, struct bytes message)
{
    (void)context;
    stream_messages++;
    last_bytes = message.size;
    if (stream_messages == 3)
        grpc_client_send(call, (struct bytes){0}, true);
    else
        grpc_client_send(call, bytes_from_text("more"), false);
}

static void grpc_closed(struct grpc_client *client, int error)
{
    (void)client;
    (void)error;
    was_closed = true;
}

Test(rpc_server, grpc_calls_over_a_socket)
{
    set_up();
    struct grpc_client client = {.closed = grpc_closed};
    cr_assert_eq(grpc_client_open(&set, &client, &address, 500), 0);
    struct grpc_call_options call = {
        .path = "/t.T/Echo", .done = grpc_done, .timeout_ns = NS_PER_S};
    for (int i = 0; i < 500; i++)
        cr_assert_eq(grpc_client_call(&client, &call, bytes_from_text("hello"), NULL), 0);
    turn_until(NULL, &answered, 500);
    cr_expect_eq(failed, 0);
    cr_expect_eq(last_bytes, 5);
    call.path = "/t.T/Big";
    cr_assert_eq(grpc_client_call(&client, &call, (struct bytes){0}, NULL), 0);
    turn_until(NULL, &answered, 501);
    cr_expect_eq(last_bytes, BIG_BYTES);
    call.path = "/t.T/Bidi";
    call.is_stream = true;
    call.message = grpc_message;
    cr_assert_eq(grpc_client_call(&client, &call, bytes_from_text("first"), NULL), 0);
    turn_until(NULL, &answered, 502);
    cr_expect_eq(stream_messages, 3);
    call.is_stream = false;
    call.path = "/t.T/Fail";
    cr_assert_eq(grpc_client_call(&client, &call, (struct bytes){0}, NULL), 0);
    turn_until(NULL, &answered, 503);
    cr_expect_eq(failed, 1);
    tear_down();
}

Test(rpc_server, a_client_that_leaves_is_noticed)
{
    set_up();
    struct native_client client = {.closed = native_closed};
    cr_assert_eq(native_client_open(&set, &client, &address, 10), 0);
    struct native_call_options call = {.method = 1, .reply = native_reply};
    cr_assert_eq(native_client_call(&client, &call, bytes_from_text("hello"), NULL), 0);
    turn_until(NULL, &answered, 1);
    native_client_close(&client);
    turn_until(&was_closed, NULL, 0);
    uint32_t gone = 0;
    for (int i = 0; i < 1000 && gone == 0; i++) {
        core_turn(core, false);
        gone = rpc_server_stats(server)->connections == 0;
    }
    cr_expect_eq(gone, 1);
    tear_down();
}
