/*
 * client_socket.h - the outgoing side of both client protocols: connect, gather what a turn wrote
 * into one send, receive.
 *
 * Story     A struct client_set belongs to one core and flushes, at the end of each round of a
 *           turn, every socket of its that has something to send. The protocol on top
 *           (native_client.c,
 *           grpc_client.c) fills `out`.
 * Owner     The set's core. A socket is embedded in its protocol's client.
 * Errors    `closed` runs exactly once after client_socket_open(), with a negative errno or error,
 *           or 0 when client_socket_close() asked for it; last touch.
 */
#ifndef NET_CLIENT_SOCKET_H
#define NET_CLIENT_SOCKET_H

#include "core/core.h"
#include "net/outbuf.h"

#define CLIENT_IOVECS 8

struct client_set {
    struct core *core;
    struct queue dirty;
    struct outbuf_pool chunks;
};

/* Registers a turn-end hook: the set must outlive the core's last turn. */
void client_set_init(struct client_set *set, struct core *core);
void client_set_deinit(struct client_set *set);

struct client_socket {
    struct client_set *set;
    struct outbuf out;
    struct queue_link dirty;
    struct io_connect connect;
    struct io_socket socket;
    struct io_op send_op;
    struct iovec iov[CLIENT_IOVECS];
    bool connecting, open, sending, closing, gone;
    int error;
    void (*opened)(struct client_socket *socket);
    int (*received)(struct client_socket *socket, const uint8_t *data, size_t bytes);
    void (*flush)(struct client_socket *socket); /* fill `out`; may be NULL */
    void (*closed)(struct client_socket *socket, int error);
};

/* opened, received and closed must be set. */
void client_socket_open(struct client_set *set, struct client_socket *socket,
                        const struct io_address *address);
void client_socket_close(struct client_socket *socket, int error);
void client_socket_mark_dirty_slow(struct client_socket *socket);

static inline void client_socket_mark_dirty(struct client_socket *socket)
{
    if (socket->dirty.next == QUEUE_LINK_IDLE)
        client_socket_mark_dirty_slow(socket);
}

#endif
