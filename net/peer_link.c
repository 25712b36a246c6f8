#include "net/peer_link.h"

#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"

struct peer_link *peer_link_create(struct core *core, struct outbuf_pool *chunks,
                                   const struct peer_link_calls *calls, void *owner)
{
    struct peer_link *link = calloc(1, sizeof(*link));
    if (link == NULL)
        return NULL;
    link->core = core;
    link->calls = calls;
    link->owner = owner;
    link->opened_ns = link->heard_ns = link->pinged_ns = core_now_ns(core);
    outbuf_init(&link->out, chunks);
    peer_reader_init(&link->reader);
    return link;
}

static void link_gone(struct peer_link *link)
{
    outbuf_deinit(&link->out);
    peer_reader_deinit(&link->reader);
    link->calls->closed(link, link->error);
    free(link);
}

static void on_socket_closed(struct io_socket *socket)
{
    struct peer_link *link = container_of(socket, struct peer_link, socket);
    invariant(!link->sending);
    link_gone(link);
}

static void on_received(struct io_socket *socket, const uint8_t *bytes, int32_t count)
{
    struct peer_link *link = container_of(socket, struct peer_link, socket);
    if (link->closing)
        return;
    if (count <= 0) {
        peer_link_close(link, count < 0 ? count : ERR_CLOSED);
        return;
    }
    link->heard_ns = core_now_ns(link->core);
    link->inside = true;
    int error = peer_reader_feed(&link->reader, bytes, (size_t)count, &link->calls->reader, link);
    link->inside = false;
    if (link->closing)
        io_socket_close(&link->socket); /* a callback asked for it */
    else if (error < 0)
        peer_link_close(link, error);
}

static void attach(struct peer_link *link, int32_t fd)
{
    link->socket.received = on_received;
    link->socket.closed = on_socket_closed;
    io_socket_attach(core_reactor(link->core), &link->socket, fd);
    io_socket_receive(&link->socket);
    link->open = true;
}

static void on_connected(struct io_op *op, int32_t result)
{
    struct peer_link *link = container_of(op, struct peer_link, connect.op);
    link->connecting = false;
    if (result < 0 || link->closing) {
        if (result >= 0)
            reactor_discard_descriptor(core_reactor(link->core), result);
        else if (!link->closing)
            link->error = result;
        link->closing = true;
        link_gone(link);
        return;
    }
    attach(link, result);
    link->calls->opened(link);
    peer_link_flush(link);
}

void peer_link_dial(struct peer_link *link, const struct io_address *address)
{
    link->connecting = true;
    link->connect.address = *address;
    io_op_init(&link->connect.op, on_connected);
    reactor_connect(core_reactor(link->core), &link->connect);
}

void peer_link_accept(struct peer_link *link, int32_t fd)
{
    link->inbound = true;
    attach(link, fd);
}

uint8_t *peer_link_frame_begin(struct peer_link *link, uint32_t meta_bytes, uint32_t payload_bytes)
{
    invariant(meta_bytes <= PEER_META_BYTES_MAX && payload_bytes <= PEER_PAYLOAD_BYTES_MAX);
    uint8_t *frame =
        outbuf_reserve(&link->out, (size_t)PEER_HEADER_BYTES + meta_bytes + payload_bytes);
    return frame + PEER_HEADER_BYTES;
}

void peer_link_frame_end(struct peer_link *link, const struct peer_header *header)
{
    size_t bytes = (size_t)PEER_HEADER_BYTES + header->meta_bytes + header->payload_bytes;
    peer_frame_seal(outbuf_reserve(&link->out, bytes), header); /* the same place again */
    outbuf_commit(&link->out, bytes);
}

static void on_sent(struct io_op *op, int32_t result)
{
    struct peer_link *link = container_of(op, struct peer_link, send_op);
    link->sending = false;
    if (link->closing)
        return;
    if (result <= 0) {
        peer_link_close(link, result < 0 ? result : ERR_CLOSED);
        return;
    }
    outbuf_consume(&link->out, (size_t)result);
    if (link->out.bytes == 0 && link->close_when_sent)
        peer_link_close(link, link->error);
    else
        peer_link_flush(link);
}

void peer_link_flush(struct peer_link *link)
{
    if (!link->open || link->sending || link->closing || link->out.bytes == 0)
        return;
    uint32_t count = outbuf_gather(&link->out, link->iov, PEER_LINK_IOVECS);
    link->sending = true;
    io_op_init(&link->send_op, on_sent);
    io_socket_send(&link->socket, &link->send_op, link->iov, count);
}

void peer_link_close(struct peer_link *link, int error)
{
    if (link->closing)
        return;
    link->closing = true;
    link->error = error;
    if (link->open && !link->inside)
        io_socket_close(&link->socket);
}

void peer_link_close_when_sent(struct peer_link *link, int error)
{
    link->close_when_sent = true;
    link->error = error;
    if (link->out.bytes == 0)
        peer_link_close(link, error);
    else
        peer_link_flush(link);
}
