/*
 * echo - the ceiling of the network layer: answers every request with its own message, or with a
 * reply of a given size.
 *
 *   echo [--host 127.0.0.1] [--port 2400] [--reply BYTES]
 *   echo --load grpc|native [--connections 8] [--in-flight 32] [--seconds 5] [--bytes 16]
 *        [--reply BYTES]
 *
 * The first form serves on one thread, any method of the table by gRPC and by native frames; the
 * second, run beside it on another core, keeps connections x in-flight requests under way and
 * prints requests per second and the latency quantiles. `--reply` has to be the same on both sides.
 *
 * What it is    net/ as raftd uses it, nothing less: nghttp2 decodes each request's header block,
 *               and encodes :status and content-type, a DATA frame, and a trailer block with
 *               grpc-status, all through its HPACK tables; flow control and stream limits are on.
 *               There is one receive for what has arrived and one send a connection and turn.
 * What it lacks Decoding the message, storage, and building a reply: the handler copies.
 * The load      Is nghttp2 too, with a header block per request (:method, :scheme, :path,
 *               :authority, te, content-type) that its table makes seven bytes after the first, as
 *               it does for any gRPC client. It does not validate header names as a cautious client
 *               would, and it checks size and status of each reply, not its bytes.
 * Sizes         16 bytes each way by default. A reply of some hundred bytes costs both ends a few
 *               copies more and more memory than the caches near a core hold: `--reply` makes an
 *               echo that is comparable with a get of a value.
 */
#include <argp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/echo/load.h"
#include "core/core.h"
#include "net/rpc.h"

#define ECHO_FILES_MAX 4096
#define ECHO_POLL_US   100

static struct core *echo_core; /* for the signal handler */

static void echo_stop(int signal_number)
{
    (void)signal_number;
    core_stop(echo_core);
}

static uint8_t echo_reply_bytes[RPC_REPLY_DIRECT_BYTES];
static struct bytes echo_reply; /* empty: the request's own message */

static void echo_handle(struct rpc_call *call)
{
    rpc_reply(call, echo_reply.size > 0 ? echo_reply : call->request);
}

static const struct rpc_method echo_methods[] = {
    {.path = "/etcdserverpb.KV/Put", .native = 1, .id = 1, .handle = echo_handle},
    {.path = "/etcdserverpb.KV/Range", .native = 2, .id = 2, .handle = echo_handle},
    {.path = "/echo.Echo/Echo", .native = 3, .id = 3, .handle = echo_handle},
};

static void echo_http(struct http_request *request)
{
    http_reply(request, 200, "application/json", bytes_from_text("{\"health\":\"true\"}"), NULL);
}

struct echo_listener {
    struct io_listener listener;
    struct rpc_server *server;
};

static void echo_accepted(struct io_listener *listener, int32_t fd, const struct io_address *peer)
{
    struct echo_listener *echo = container_of(listener, struct echo_listener, listener);
    (void)peer;
    if (fd >= 0)
        rpc_server_adopt(echo->server, fd, RPC_PORT_CLIENT);
}

static void echo_closed(struct io_listener *listener)
{
    (void)listener;
}

static int echo_serve(struct core *core, const struct io_address *address)
{
    static const struct rpc_server_options options = {
        .methods = echo_methods, .method_count = ARRAY_COUNT(echo_methods), .http = echo_http};
    static struct echo_listener echo;
    int error = rpc_server_create(core, &options, &echo.server);
    if (error < 0)
        return error;
    echo.listener.accepted = echo_accepted;
    echo.listener.closed = echo_closed;
    error = reactor_listen(core_reactor(core), &echo.listener, address);
    if (error < 0)
        return error;
    printf("serving on %s\n", address->text);
    fflush(stdout);
    core_run(core);
    return 0;
}

struct echo_arguments {
    const char *host;
    uint16_t port;
    struct load_options load;
    bool is_load;
};

static const struct argp_option echo_options[] = {
    {"host", 'h', "HOST", 0, "address to serve on or connect to (127.0.0.1)", 0},
    {"port", 'p', "PORT", 0, "port (2400)", 0},
    {"load", 'l', "grpc|native", 0, "generate load instead of serving", 0},
    {"connections", 'c', "COUNT", 0, "connections of the load (8)", 0},
    {"in-flight", 'f', "COUNT", 0, "requests in flight on each (32)", 0},
    {"seconds", 's', "SECONDS", 0, "how long (5)", 0},
    {"bytes", 'b', "BYTES", 0, "message size (16)", 0},
    {"reply", 'r', "BYTES", 0, "size of replies (that of the message)", 0},
    {0}};

static error_t echo_parse(int key, char *value, struct argp_state *state)
{
    struct echo_arguments *arguments = state->input;
    switch (key) {
    case 'h':
        arguments->host = value;
        return 0;
    case 'p':
        arguments->port = (uint16_t)atoi(value);
        return 0;
    case 'l':
        arguments->is_load = true;
        arguments->load.native = strcmp(value, "native") == 0;
        return 0;
    case 'c':
        arguments->load.connections = (uint32_t)atoi(value);
        return 0;
    case 'f':
        arguments->load.in_flight = (uint32_t)atoi(value);
        return 0;
    case 's':
        arguments->load.seconds = (uint32_t)atoi(value);
        return 0;
    case 'b':
        arguments->load.message_bytes = (uint32_t)atoi(value);
        return 0;
    case 'r':
        arguments->load.reply_bytes = (uint32_t)atoi(value);
        if (arguments->load.reply_bytes > sizeof(echo_reply_bytes))
            argp_error(state, "replies have at most %zu bytes", sizeof(echo_reply_bytes));
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

/* Requests and replies, all the time: neither side sleeps before it has looked for the next. */
static void echo_expects(void *context)
{
    core_expect_soon(context, true);
}

int main(int argc, char **argv)
{
    struct echo_arguments arguments = {
        .host = "127.0.0.1",
        .port = 2400,
        .load = {.connections = 8, .in_flight = 32, .seconds = 5, .message_bytes = 16}};
    static const struct argp argp = {.options = echo_options, .parser = echo_parse};
    if (argp_parse(&argp, argc, argv, 0, NULL, &arguments) != 0)
        return 1;
    echo_reply = bytes_make(echo_reply_bytes, arguments.load.reply_bytes);
    struct core_options options = {.reactor = {.core_count = 1,
                                               .files_max = ECHO_FILES_MAX,
                                               .buffer_bytes = MIB,
                                               .recv_buffer_bytes = 32 * 1024,
                                               .recv_buffer_count = 64,
                                               .poll_us = ECHO_POLL_US},
                                   .fibers_max = 4};
    struct mesh *mesh = NULL;
    char reason[256] = "";
    int error = mesh_create(1, 64, &mesh);
    if (error == 0)
        error = core_create(&options, mesh, &echo_core, reason, sizeof(reason));
    if (error < 0) {
        fprintf(stderr, "echo: %s %s\n", err_text(error), reason);
        return 1;
    }
    core_set_current(echo_core);
    core_on_turn_end(echo_core, echo_expects, echo_core);
    struct io_address address;
    error = reactor_resolve(core_reactor(echo_core), arguments.host, arguments.port, &address);
    signal(SIGINT, echo_stop);
    signal(SIGTERM, echo_stop);
    if (error == 0)
        error = arguments.is_load ? load_run(echo_core, &address, &arguments.load)
                                  : echo_serve(echo_core, &address);
    if (error < 0)
        fprintf(stderr, "echo: %s: %s\n", address.text, err_text(error));
    return error < 0;
}
