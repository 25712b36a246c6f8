#include "net/client_socket.h"

#include <errno.h>

#include "core/err.h"
#include "core/invariant.h"

static void client_socket_send(struct client_socket *socket);

static void client_socket_gone(struct client_socket *socket)
{
    outbuf_deinit(&socket->out);
    socket->gone = true;
    if (socket->dirty.next == QUEUE_LINK_IDLE)
        socket->closed(socket, socket->error);
}

static void client_set_flush(void *context)
{
    struct client_set *set = context;
    for (uint32_t count = set->dirty.count; count > 0; count--) {
        struct client_socket *socket =
            container_of(queue_pop(&set->dirty), struct client_socket, dirty);
        if (socket->gone) {
            socket->closed(socket, socket->error);
            continue;
        }
        if (!socket->open || socket->closing)
            continue;
        if (socket->flush != NULL)
            socket->flush(socket);
        client_socket_send(socket);
    }
}

void client_set_init(struct client_set *set, struct core *core)
{
    memset(set, 0, sizeof(*set));
    set->core = core;
    queue_init(&set->dirty, QUEUE_UNBOUNDED);
    core_on_turn_end(core, client_set_flush, set);
}

void client_set_deinit(struct client_set *set)
{
    invariant(queue_is_empty(&set->dirty));
    outbuf_pool_deinit(&set->chunks);
}

void client_socket_mark_dirty_slow(struct client_socket *socket)
{
    queue_append(&socket->set->dirty, &socket->dirty);
}

static void client_socket_sent(struct io_op *op, int32_t result)
{
    struct client_socket *socket = container_of(op, struct client_socket, send_op);
    socket->sending = false;
    if (socket->closing)
        return;
    if (result <= 0) {
        client_socket_close(socket, result < 0 ? result : ERR_CLOSED);
        return;
    }
    outbuf_consume(&socket->out, (size_t)result);
    client_socket_send(socket);
    client_socket_mark_dirty(socket);
}

static void client_socket_send(struct client_socket *socket)
{
    if (socket->sending || socket->closing || socket->out.bytes == 0)
        return;
    uint32_t count = outbuf_gather(&socket->out, socket->iov, CLIENT_IOVECS);
    socket->sending = true;
    io_op_init(&socket->send_op, client_socket_sent);
    io_socket_send(&socket->socket, &socket->send_op, socket->iov, count);
}

static void client_socket_received(struct io_socket *io, const uint8_t *bytes, int32_t count)
{
    struct client_socket *socket = container_of(io, struct client_socket, socket);
    int error = count < 0 ? count : ERR_CLOSED;
    if (count > 0)
        error = socket->received(socket, bytes, (size_t)count);
    if (error < 0 && !socket->closing)
        client_socket_close(socket, error);
}

static void client_socket_closed(struct io_socket *io)
{
    struct client_socket *socket = container_of(io, struct client_socket, socket);
    invariant(!socket->sending);
    client_socket_gone(socket);
}

static void client_socket_connected(struct io_op *op, int32_t result)
{
    struct client_socket *socket = container_of(op, struct client_socket, connect.op);
    struct reactor *reactor = core_reactor(socket->set->core);
    socket->connecting = false;
    if (result < 0 || socket->closing) {
        if (result >= 0)
            reactor_discard_descriptor(reactor, result);
        if (!socket->closing)
            socket->error = result;
        socket->closing = true;
        client_socket_gone(socket);
        return;
    }
    socket->socket.received = client_socket_received;
    socket->socket.closed = client_socket_closed;
    io_socket_attach(reactor, &socket->socket, result);
    io_socket_receive(&socket->socket);
    socket->open = true;
    client_socket_mark_dirty(socket);
    socket->opened(socket);
}

void client_socket_open(struct client_set *set, struct client_socket *socket,
                        const struct io_address *address)
{
    invariant(socket->opened != NULL && socket->received != NULL && socket->closed != NULL);
    socket->set = set;
    queue_link_init(&socket->dirty);
    outbuf_init(&socket->out, &set->chunks);
    socket->connecting = true;
    socket->connect.address = *address;
    io_op_init(&socket->connect.op, client_socket_connected);
    reactor_connect(core_reactor(set->core), &socket->connect);
}

void client_socket_close(struct client_socket *socket, int error)
{
    if (socket->closing)
        return;
    socket->closing = true;
    socket->error = error;
    if (socket->open)
        io_socket_close(&socket->socket);
}
