#include "net/rpc_internal.h"

#include <stdlib.h>

#include "core/invariant.h"
#include "net/native_frame.h"

#define PARTIAL_KEEP_BYTES_MAX 2048

static const char http2_preface[CONNECTION_FIRST_BYTES + 1] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

void connection_init(struct connection *connection, struct rpc_server *server, uint8_t port)
{
    memset(connection, 0, sizeof(*connection));
    connection->server = server;
    connection->port = port;
    connection->deadline_ns = UINT64_MAX;
    connection->heard_ns = connection->taken_ns = server->now_ns;
    queue_link_init(&connection->dirty);
    outbuf_init(&connection->out, &server->chunks);
    connection->next = server->connections;
    if (server->connections != NULL)
        server->connections->previous = connection;
    server->connections = connection;
    server->stats.connections++;
    server->stats.connections_accepted++;
    connection_expect(connection, server->options.first_bytes_timeout_ns);
}

void connection_mark_dirty_slow(struct connection *connection)
{
    queue_append(&connection->server->dirty, &connection->dirty);
}

void connection_end(struct connection *connection)
{
    if (!connection->ending) /* the peer gets this long to take what is still to be sent */
        connection_expect(connection, connection->server->options.partial_timeout_ns);
    connection->ending = true;
    connection_mark_dirty(connection);
}

void connection_malformed(struct connection *connection)
{
    connection->server->stats.protocol_errors++;
    connection_end(connection);
}

void connection_expect(struct connection *connection, uint64_t timeout_ns)
{
    connection->deadline_ns = connection->server->now_ns + timeout_ns;
    connection->deadline_bytes = connection->received_bytes;
}

/* ---- incomplete input --------------------------------------------------------------------------
 */

int connection_partial_grow(struct connection *connection, size_t bytes_max)
{
    struct rpc_server *server = connection->server;
    if (bytes_max <= connection->partial_max)
        return 0;
    uint64_t more = bytes_max - connection->partial_max;
    if (server->partial_bytes + more > server->options.partial_bytes_max)
        return ERR_LIMIT;
    uint8_t *grown = realloc(connection->partial, bytes_max);
    if (grown == NULL)
        return ERR_LIMIT;
    server->partial_bytes += more;
    connection->partial = grown;
    connection->partial_max = (uint32_t)bytes_max;
    return 0;
}

void connection_partial_drop(struct connection *connection)
{
    invariant(connection->server->partial_bytes >= connection->partial_max);
    connection->server->partial_bytes -= connection->partial_max;
    free(connection->partial);
    connection->partial = NULL;
    connection->partial_bytes = connection->partial_max = 0;
}

/* ---- back-pressure -----------------------------------------------------------------------------
 */

void connection_update_pause(struct connection *connection)
{
    const struct rpc_server_options *options = &connection->server->options;
    /* HTTP/2 delays requests instead: what frees its queues are frames still to be read. */
    bool is_http2 = connection->protocol == &connection_http2;
    uint64_t queued_bytes = connection->out.bytes + (is_http2 ? 0 : connection->built_bytes);
    uint32_t call_count = is_http2 ? 0 : connection->call_count;
    bool over = connection->held || call_count >= options->calls_per_connection_max ||
                queued_bytes >= options->queued_bytes_per_connection_max;
    bool under = !connection->held && call_count <= options->calls_per_connection_max / 2 &&
                 queued_bytes <= options->queued_bytes_per_connection_max / 2;
    if (connection->closed || connection->ending || (!over && !connection->paused))
        return;
    if (over && !connection->paused) {
        connection->paused = true;
        connection->deadline_ns = UINT64_MAX; /* it is we who hold things up */
        if (connection->server->io != NULL)
            connection->server->io->pause(connection, true);
    } else if (under && connection->paused) {
        connection->paused = false;
        connection_mark_dirty(connection); /* the flush also takes up what waited unparsed */
        if (connection->server->io != NULL)
            connection->server->io->pause(connection, false);
    }
}

/* ---- input -------------------------------------------------------------------------------------
 */

/* NULL with *undecided while the bytes are a prefix of more than one thing. */
static const struct connection_protocol *connection_recognise(uint8_t port, const uint8_t *data,
                                                              size_t bytes, bool *undecided)
{
    size_t compared = bytes < CONNECTION_FIRST_BYTES ? bytes : CONNECTION_FIRST_BYTES;
    *undecided = false;
    if (port == RPC_PORT_METRICS) /* the preface is no request that HTTP/1.1 takes */
        return data[0] >= 'A' && data[0] <= 'Z' ? &connection_http1 : NULL;
    if (data[0] == NATIVE_MAGIC_FIRST_BYTE)
        return &connection_native;
    if (memcmp(data, http2_preface, compared) == 0) {
        *undecided = compared < CONNECTION_FIRST_BYTES;
        return *undecided ? NULL : &connection_http2;
    }
    if (data[0] >= 'A' && data[0] <= 'Z')
        return &connection_http1;
    return NULL;
}

static int connection_first_input(struct connection *connection, const uint8_t *data, size_t bytes)
{
    bool undecided;
    uint8_t first[CONNECTION_FIRST_BYTES];
    size_t held = connection->partial_bytes;
    size_t taken = 0;
    if (held > 0) { /* at most the preface less one byte */
        taken = u64_min(bytes, CONNECTION_FIRST_BYTES - held);
        memcpy(first, connection->partial, held);
        memcpy(first + held, data, taken);
    }
    connection->protocol =
        held == 0 ? connection_recognise(connection->port, data, bytes, &undecided)
                  : connection_recognise(connection->port, first, held + taken, &undecided);
    if (undecided) {
        int error = connection_partial_grow(connection, CONNECTION_FIRST_BYTES);
        if (error < 0)
            return error;
        memcpy(connection->partial + held, data, bytes);
        connection->partial_bytes += (uint32_t)bytes;
        return 0;
    }
    connection_partial_drop(connection);
    if (connection->protocol == NULL)
        return ERR_MALFORMED;
    int error = connection->protocol->start(connection);
    if (error < 0) {
        connection->protocol = NULL;
        return error;
    }
    if (connection->draining)
        connection->protocol->drain(connection);
    if (held > 0)
        error = connection->protocol->input(connection, first, held + taken);
    if (error == 0 && bytes > taken)
        error = connection->protocol->input(connection, data + taken, bytes - taken);
    return error;
}

void connection_input(struct connection *connection, const uint8_t *data, size_t bytes)
{
    if (connection->closed || connection->ending || bytes == 0)
        return;
    connection->received_bytes += bytes;
    connection->server->stats.received_bytes += bytes;
    connection->heard_ns = connection->server->now_ns;
    int error = connection->protocol == NULL ? connection_first_input(connection, data, bytes)
                                             : connection->protocol->input(connection, data, bytes);
    if (error < 0)
        connection_malformed(connection);
    connection_mark_dirty(connection);
    connection_update_pause(connection);
}

/* ---- output ------------------------------------------------------------------------------------
 */

void connection_flush(struct connection *connection)
{
    if (connection->closed)
        return;
    if (connection->protocol != NULL)
        connection->protocol->flush(connection);
    connection_update_pause(connection);
}

void connection_drain(struct connection *connection)
{
    connection->draining = true;
    if (connection->ending || connection->closed)
        return;
    if (connection->protocol == NULL) {
        connection_end(connection);
        return;
    }
    connection->protocol->drain(connection);
    for (struct rpc_call *call = connection_walk_begin(connection); call != NULL;
         call = connection_walk_next(connection)) {
        if (call->method == NULL || call->method->kind == RPC_UNARY)
            continue;
        rpc_call_count(call, err_grpc_status(ERR_STOPPED));
        call->ops->end(call, ERR_STOPPED, err_grpc_status(ERR_STOPPED), err_text(ERR_STOPPED));
        rpc_call_detach(call);
        rpc_call_cancel(call);
    }
}

void connection_close(struct connection *connection)
{
    struct rpc_server *server = connection->server;
    invariant(!connection->closed);
    connection->ending = connection->closed = true;
    while (connection->calls != NULL)
        rpc_call_cancel(connection->calls);
    if (connection->protocol != NULL)
        connection->protocol->stop(connection);
    invariant(connection->call_count == 0 && connection->built_bytes == 0);
    connection_partial_drop(connection);
    free(connection->token);
    connection->token = NULL;
    connection->token_bytes = 0;
    connection->protocol = NULL;
    if (server->sweep == connection)
        server->sweep = connection->next;
    if (connection->next != NULL)
        connection->next->previous = connection->previous;
    if (connection->previous != NULL)
        connection->previous->next = connection->next;
    else
        server->connections = connection->next;
    server->stats.connections--;
    server->stats.connections_closed++;
}

void connection_tick(struct connection *connection)
{
    struct rpc_server *server = connection->server;
    if (connection->closed)
        return;
    if (server->now_ns >= connection->deadline_ns) {
        uint64_t arrived = connection->received_bytes - connection->deadline_bytes;
        if (arrived >= PARTIAL_PROGRESS_BYTES && !connection->ending) {
            connection_expect(connection, server->options.partial_timeout_ns);
        } else if (connection->ending) {
            connection->abandoned = true; /* the peer does not take what is left */
            connection_mark_dirty(connection);
            return;
        } else {
            server->stats.timeouts++;
            connection_end(connection);
            return;
        }
    }
    if (connection->out.bytes == 0) {
        connection->taken_ns = server->now_ns;
    } else if (server->now_ns >= connection->taken_ns + server->options.stalled_timeout_ns) {
        server->stats.timeouts++;
        connection->ending = connection->abandoned = true; /* what waits would be taken by nobody */
        connection_mark_dirty(connection);
    }
    if (connection->ending || connection->protocol == NULL)
        return;
    rpc_expire_stalled(connection);
    connection->protocol->tick(connection);
}
