#include "net/rpc.h"

#include <errno.h>
#include <stdlib.h>

#include "core/core.h"
#include "core/invariant.h"
#include "net/rpc_internal.h"

/*
 * Sockets under the connections of net/connection.c, the flush at the end of each round of a turn,
 * and the tick that looks after deadlines.
 */

#define RPC_TICK_NS     (50 * NS_PER_MS)
#define RPC_SWEEP_TICKS 20 /* a connection's own deadlines are looked at this seldom */

/* ---- sockets -----------------------------------------------------------------------------------
 */

static void rpc_refresh_now(struct rpc_server *server)
{
    server->now_ns = core_now_ns(server->core);
}

static void rpc_socket_closed(struct io_socket *socket)
{
    struct connection *connection = container_of(socket, struct connection, socket);
    struct rpc_server *server = connection->server;
    invariant(connection->closed && !connection->sending && server->sockets > 0);
    server->sockets--;
    outbuf_deinit(&connection->out);
    /* Whoever is still on the dirty queue is freed by the flush. */
    connection->gone = true;
    if (connection->dirty.next == QUEUE_LINK_IDLE)
        free(connection);
}

static void rpc_io_pause(struct connection *connection, bool paused)
{
    if (paused)
        io_socket_receive_stop(&connection->socket);
    else
        io_socket_receive(&connection->socket);
}

static void rpc_io_close(struct connection *connection)
{
    connection_close(connection);
    io_socket_close(&connection->socket);
}

static const struct connection_io rpc_connection_io = {
    .pause = rpc_io_pause,
};

static void rpc_socket_received(struct io_socket *socket, const uint8_t *bytes, int32_t count)
{
    struct connection *connection = container_of(socket, struct connection, socket);
    rpc_refresh_now(connection->server);
    if (likely(count > 0))
        connection_input(connection, bytes, (size_t)count);
    else
        rpc_io_close(connection);
}

static void rpc_send(struct connection *connection);

static void rpc_socket_sent(struct io_op *op, int32_t result)
{
    struct connection *connection = container_of(op, struct connection, send_op);
    struct rpc_server *server = connection->server;
    connection->sending = false;
    if (connection->closed)
        return;
    if (result <= 0) {
        rpc_io_close(connection);
        return;
    }
    server->stats.sent_bytes += (uint64_t)result;
    connection->taken_ns = server->now_ns;
    outbuf_consume(&connection->out, (size_t)result);
    rpc_send(connection);
    connection_mark_dirty(connection); /* there is room for more */
}

static void rpc_send(struct connection *connection)
{
    if (connection->closed)
        return;
    if (connection->abandoned) {
        rpc_io_close(connection);
        return;
    }
    if (connection->sending)
        return;
    if (connection->out.bytes == 0) {
        if (connection->ending)
            rpc_io_close(connection);
        return;
    }
    uint32_t count = outbuf_gather(&connection->out, connection->iov, CONNECTION_IOVECS);
    connection->sending = true;
    io_op_init(&connection->send_op, rpc_socket_sent);
    io_socket_send(&connection->socket, &connection->send_op, connection->iov, count);
}

/* One send per connection and round, with everything that the round produced. */
static void rpc_flush(void *context)
{
    struct rpc_server *server = context;
    uint32_t count = server->dirty.count; /* what becomes dirty meanwhile goes in the next round */
    if (count > 0)
        rpc_refresh_now(server);
    for (uint32_t i = 0; i < count; i++) {
        struct connection *connection =
            container_of(queue_pop(&server->dirty), struct connection, dirty);
        if (connection->gone) {
            free(connection);
            continue;
        }
        connection_flush(connection);
        rpc_send(connection);
    }
}

/* ---- deadlines ---------------------------------------------------------------------------------
 */

static void rpc_tick_shutdown(struct rpc_server *server)
{
    for (struct connection *connection = server->connections, *next; connection != NULL;
         connection = next) {
        next = connection->next;
        bool is_done = connection->protocol == NULL || connection->protocol->is_done(connection);
        if (server->now_ns >= server->shutdown_ns) {
            rpc_io_close(connection);
        } else if (connection->protocol != NULL && !connection->ending) {
            connection->protocol->tick(connection);
            if (is_done)
                connection_end(connection);
        }
    }
}

static void rpc_tick(struct timer *timer)
{
    struct rpc_server *server = container_of(timer, struct rpc_server, tick);
    rpc_refresh_now(server);
    rpc_server_expire(server);
    if (server->shutdown_ns != 0) {
        rpc_tick_shutdown(server);
        if (server->sockets == 0) {
            server->shutdown_done(server->shutdown_context);
            return;
        }
    } else {
        int64_t batch = server->stats.connections / RPC_SWEEP_TICKS + 1;
        if (server->sweep == NULL)
            server->sweep = server->connections;
        for (; batch > 0 && server->sweep != NULL; batch--) {
            struct connection *connection = server->sweep;
            server->sweep = connection->next;
            connection_tick(connection);
        }
    }
    if (server->sockets > 0 || server->shutdown_ns != 0)
        timer_start(core_timers(server->core), &server->tick, server->now_ns + RPC_TICK_NS);
}

/* ---- life --------------------------------------------------------------------------------------
 */

int rpc_server_create(struct core *core, const struct rpc_server_options *options,
                      struct rpc_server **server)
{
    struct rpc_server *created = malloc(sizeof(*created));
    if (created == NULL)
        return -ENOMEM;
    int error = rpc_server_init(created, options);
    if (error < 0) {
        free(created);
        return error;
    }
    created->core = core;
    created->io = &rpc_connection_io;
    timer_init(&created->tick, rpc_tick);
    rpc_refresh_now(created);
    core_on_turn_end(core, rpc_flush, created);
    *server = created;
    return 0;
}

void rpc_server_destroy(struct rpc_server *server)
{
    invariant(server->sockets == 0);
    rpc_flush(server); /* frees closed connections that were on the dirty queue */
    timer_stop(core_timers(server->core), &server->tick);
    core_forget_turn_end(server->core, server);
    rpc_server_deinit(server);
    free(server);
}

void rpc_server_adopt(struct rpc_server *server, int32_t fd, enum rpc_port port)
{
    struct reactor *reactor = core_reactor(server->core);
    struct connection *connection = NULL;
    if (server->shutdown_ns == 0 &&
        (uint64_t)server->stats.connections < server->options.connections_max)
        connection = malloc(sizeof(*connection));
    if (connection == NULL) {
        server->stats.connections_refused++;
        reactor_discard_descriptor(reactor, fd);
        return;
    }
    rpc_refresh_now(server);
    connection_init(connection, server, (uint8_t)port);
    connection->socket.received = rpc_socket_received;
    connection->socket.closed = rpc_socket_closed;
    io_socket_attach(reactor, &connection->socket, fd);
    io_socket_receive(&connection->socket);
    server->sockets++;
    if (!timer_is_armed(&server->tick))
        timer_start(core_timers(server->core), &server->tick, server->now_ns + RPC_TICK_NS);
}

void rpc_server_shutdown(struct rpc_server *server, uint64_t grace_ns, void (*done)(void *context),
                         void *context)
{
    invariant(server->shutdown_ns == 0 && done != NULL);
    rpc_refresh_now(server);
    server->shutdown_ns = server->now_ns + grace_ns;
    server->shutdown_done = done;
    server->shutdown_context = context;
    for (struct connection *connection = server->connections; connection != NULL;
         connection = connection->next)
        connection_drain(connection);
    timer_start(core_timers(server->core), &server->tick, server->now_ns + RPC_TICK_NS);
}

const struct rpc_server_stats *rpc_server_stats(const struct rpc_server *server)
{
    return &server->stats;
}

struct core *rpc_server_core(struct rpc_server *server)
{
    return server->core;
}
