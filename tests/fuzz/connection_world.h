/*
 * connection_world.h - one detached connection for the fuzz targets of net/: handlers of every
 * kind, bytes in, output thrown away, and at the end the check that nothing was left behind.
 */
#ifndef TESTS_FUZZ_CONNECTION_WORLD_H
#define TESTS_FUZZ_CONNECTION_WORLD_H

#include <stdlib.h>

#include "core/invariant.h"
#include "net/rpc_internal.h"

#define WORLD_HELD_MAX 64

static struct {
    struct rpc_server server;
    struct connection connection;
    struct rpc_call *held[WORLD_HELD_MAX];
    uint32_t held_count;
    struct http_request *request;
} world;

static void world_forget(struct rpc_call *call)
{
    for (uint32_t i = 0; i < world.held_count; i++) {
        if (world.held[i] == call) {
            world.held[i] = world.held[--world.held_count];
            return;
        }
    }
}

static void world_hold(struct rpc_call *call)
{
    if (world.held_count == WORLD_HELD_MAX || rpc_call_keep(call) < 0) {
        rpc_fail(call, ERR_FULL);
        return;
    }
    call->released = world_forget;
    world.held[world.held_count++] = call;
}

static void world_echo(struct rpc_call *call)
{
    rpc_reply(call, call->request);
}

static int64_t world_pull(struct rpc_call *call, uint8_t *to, size_t bytes_max)
{
    uint64_t turn = call->user[0]++;
    if (turn % 7 == 3)
        return RPC_SOURCE_WAIT;
    if (turn == 40)
        return ERR_CORRUPT;
    size_t bytes = u64_min(bytes_max, 1 + turn * 997);
    memset(to, 'x', bytes);
    return (int64_t)bytes;
}

static void world_source(struct rpc_call *call)
{
    uint64_t bytes = call->request.size * 1000 + 1;
    world_hold(call);
    if (world.held_count > 0 && world.held[world.held_count - 1] == call)
        rpc_reply_source(call, bytes, world_pull);
}

static void world_message(struct rpc_call *call, struct bytes message)
{
    switch (message.size == 0 ? 0 : message.data[0] % 8) {
    case 1:
        rpc_pause_messages(call);
        break;
    case 2:
        rpc_finish(call, 0);
        return;
    case 3:
        rpc_fail(call, ERR_COMPACTED);
        return;
    }
    (void)!rpc_send_message(call, message);
}

static void world_bidi(struct rpc_call *call)
{
    call->message = world_message;
    world_hold(call);
}

static void world_stream(struct rpc_call *call)
{
    static const uint8_t chunk[5000];
    for (int i = 0; i < 300; i++) {
        if (!rpc_send_message(call, bytes_make(chunk, sizeof(chunk))))
            break;
    }
    rpc_finish(call, call->request.size % 2 == 0 ? 0 : ERR_NO_LEADER);
}

static void world_http(struct http_request *request)
{
    if (request->path.size % 2 == 0)
        http_reply(request, 200, "text/plain", request->body, NULL);
    else
        world.request = request;
}

static const struct rpc_method world_methods[] = {
    {.path = "/t.T/Echo", .native = 1, .id = 1, .handle = world_echo},
    {.path = "/t.T/Hold", .native = 2, .id = 2, .handle = world_hold},
    {.path = "/t.T/Source", .native = 3, .id = 3, .handle = world_source},
    {.path = "/t.T/Bidi", .native = 4, .id = 4, .kind = RPC_BIDI, .handle = world_bidi},
    {.path = "/t.T/Strm", .native = 5, .id = 5, .kind = RPC_SERVER_STREAM, .handle = world_stream},
};

static inline void world_begin(void)
{
    static const struct rpc_server_options options = {
        .methods = world_methods,
        .method_count = ARRAY_COUNT(world_methods),
        .http = world_http,
        .calls_max = 100,
        .calls_per_connection_max = 50,
        .request_bytes_max = 100000,
        .partial_bytes_max = 1000000,
    };
    invariant(rpc_server_init(&world.server, &options) == 0);
    world.server.now_ns = NS_PER_S;
    world.held_count = 0;
    world.request = NULL;
    connection_init(&world.connection, &world.server, RPC_PORT_CLIENT);
}

/* What the shell does at the end of a turn; the peer takes everything. */
static inline void world_flush(void)
{
    for (int round = 0; round < 4; round++) {
        while (queue_pop(&world.server.dirty) != NULL)
            ;
        connection_flush(&world.connection);
        outbuf_consume(&world.connection.out, world.connection.out.bytes);
    }
}

/* Completes, resumes or expires something that is held. */
static inline void world_act(uint8_t how)
{
    world.server.now_ns += how * NS_PER_MS;
    if (how % 4 == 3)
        rpc_server_expire(&world.server);
    if (world.held_count > 0) {
        struct rpc_call *call = world.held[how % world.held_count];
        if (call->state == RPC_CALL_SOURCE) {
            if (call->source_waits)
                rpc_resume(call);
        } else if (call->method->kind == RPC_UNARY) {
            rpc_reply(call, call->request);
        } else if (call->messages_paused) {
            rpc_resume_messages(call);
        }
    }
    if (how % 5 == 0 && world.request != NULL) {
        struct http_request *request = world.request;
        world.request = NULL;
        http_reply(request, 503, "text/plain", bytes_from_text("no"), NULL);
    }
    if (how % 16 == 15)
        connection_drain(&world.connection);
    if (how % 16 == 14 && !world.connection.closed)
        connection_tick(&world.connection);
    world_flush();
}

static inline void world_end(void)
{
    world_flush();
    connection_close(&world.connection);
    while (queue_pop(&world.server.dirty) != NULL)
        ;
    outbuf_deinit(&world.connection.out);
    while (world.held_count > 0) {
        struct rpc_call *call = world.held[0];
        if (call->state == RPC_CALL_SOURCE)
            rpc_resume(call);
        else
            rpc_fail(call, ERR_CANCELED);
    }
    if (world.request != NULL)
        http_reply(world.request, 200, "text/plain", (struct bytes){0}, NULL);
    invariant(world.server.calls_live == 0 && world.server.partial_bytes == 0);
    rpc_server_deinit(&world.server);
}

#endif
