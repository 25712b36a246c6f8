#include "core/reactor_uring.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <unistd.h>

#include "core/err.h"

#define LISTEN_BACKLOG     4096
#define ACCEPT_PAUSE_NS    (100 * NS_PER_MS)
#define SEND_IOV_COUNT_MAX 1024u /* the kernel's UIO_MAXIOV */

/* Bits of io_socket.in_flight; a starved socket is named by the starved queue instead. */
enum socket_op {
    SOCKET_RECV = 1,
    SOCKET_SEND = 2,
    SOCKET_CANCEL = 4,
    SOCKET_CLOSE = 8,
};

_Static_assert(sizeof(struct sockaddr_in6) <= sizeof(((struct io_connect *)0)->storage),
               "an address fits io_connect.storage");

/* ---- addresses ------------------------------------------------------------------------------ */

static socklen_t address_to_socket(const struct io_address *address, void *storage)
{
    if (address->is_ipv6) {
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(address->port)};
        memcpy(&in6.sin6_addr, address->ip, 16);
        memcpy(storage, &in6, sizeof(in6));
        return sizeof(in6);
    }
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(address->port)};
    memcpy(&in.sin_addr, address->ip, 4);
    memcpy(storage, &in, sizeof(in));
    return sizeof(in);
}

void uring_address_from_socket(struct io_address *address, const struct sockaddr *from)
{
    memset(address, 0, sizeof(*address));
    char number[INET6_ADDRSTRLEN] = "";
    if (from->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, from, sizeof(in6));
        address->is_ipv6 = true;
        address->port = ntohs(in6.sin6_port);
        memcpy(address->ip, &in6.sin6_addr, 16);
        inet_ntop(AF_INET6, &in6.sin6_addr, number, sizeof(number));
        snprintf(address->text, sizeof(address->text), "[%s]:%u", number, address->port);
    } else if (from->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, from, sizeof(in));
        address->port = ntohs(in.sin_port);
        memcpy(address->ip, &in.sin_addr, 4);
        inet_ntop(AF_INET, &in.sin_addr, number, sizeof(number));
        snprintf(address->text, sizeof(address->text), "%s:%u", number, address->port);
    } else {
        snprintf(address->text, sizeof(address->text), "unknown");
    }
}

/* ---- listeners ------------------------------------------------------------------------------ */

static const struct __kernel_timespec accept_pause = {.tv_nsec = (long long)ACCEPT_PAUSE_NS};

static void listener_arm(struct reactor *reactor, struct io_listener *listener)
{
    uring_op_begin(reactor, &listener->op);
    struct io_uring_sqe *sqe = uring_sqe(reactor);
    if (reactor->features.multishot_accept)
        io_uring_prep_multishot_accept(sqe, listener->fd, NULL, NULL, SOCK_CLOEXEC);
    else
        io_uring_prep_accept(sqe, listener->fd, NULL, NULL, SOCK_CLOEXEC);
    sqe->user_data = uring_user_data(URING_ACCEPT, listener);
}

static void listener_pause(struct reactor *reactor, struct io_listener *listener)
{
    uring_op_begin(reactor, &listener->retry);
    struct io_uring_sqe *sqe = uring_sqe(reactor);
    io_uring_prep_timeout(sqe, (struct __kernel_timespec *)(uintptr_t)&accept_pause, 0, 0);
    sqe->user_data = uring_user_data(URING_ACCEPT_RETRY, listener);
}

int reactor_listen(struct reactor *reactor, struct io_listener *listener,
                   const struct io_address *address)
{
    invariant(listener->accepted != NULL && listener->closed != NULL);
    struct sockaddr_storage storage;
    socklen_t bytes = address_to_socket(address, &storage);
    int fd = socket(address->is_ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int on = 1;
    int error = 0;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
        bind(fd, (struct sockaddr *)&storage, bytes) != 0 || listen(fd, LISTEN_BACKLOG) != 0) {
        error = -errno;
        goto fail;
    }
    bytes = sizeof(storage);
    if (getsockname(fd, (struct sockaddr *)&storage, &bytes) != 0) {
        error = -errno;
        goto fail;
    }
    struct io_address actual;
    uring_address_from_socket(&actual, (struct sockaddr *)&storage);
    io_op_init(&listener->op, NULL);
    io_op_init(&listener->retry, NULL);
    listener->fd = fd;
    listener->port = actual.port;
    listener->reactor = reactor;
    listener->closing = false;
    listener_arm(reactor, listener);
    return 0;

fail:
    close(fd);
    return error;
}

/* Closes once neither the accept nor the pause is in flight any more. */
static void listener_advance_close(struct reactor *reactor, struct io_listener *listener)
{
    if (listener->op.link.next == OP_PENDING || listener->retry.link.next == OP_PENDING)
        return;
    uring_op_begin(reactor, &listener->op);
    struct io_uring_sqe *sqe = uring_sqe(reactor);
    io_uring_prep_close(sqe, listener->fd);
    sqe->user_data = uring_user_data(URING_LISTENER_CLOSE, listener);
}

static void cancel_by_user_data(struct reactor *reactor, uint64_t user_data)
{
    struct io_uring_sqe *sqe = uring_sqe(reactor);
    io_uring_prep_cancel64(sqe, user_data, 0);
    sqe->user_data = uring_user_data(URING_NONE, NULL); /* found or not: the victim's CQE tells */
}

void reactor_listener_close(struct reactor *reactor, struct io_listener *listener)
{
    invariant(!listener->closing);
    listener->closing = true;
    if (listener->op.link.next == OP_PENDING)
        cancel_by_user_data(reactor, uring_user_data(URING_ACCEPT, listener));
    if (listener->retry.link.next == OP_PENDING)
        cancel_by_user_data(reactor, uring_user_data(URING_ACCEPT_RETRY, listener));
    listener_advance_close(reactor, listener);
}

static void listener_deliver(struct io_listener *listener, int32_t fd)
{
    struct sockaddr_storage storage;
    socklen_t bytes = sizeof(storage);
    struct io_address peer;
    if (getpeername(fd, (struct sockaddr *)&storage, &bytes) != 0)
        storage.ss_family = AF_UNSPEC; /* gone already: its first receive will say so */
    uring_address_from_socket(&peer, (struct sockaddr *)&storage);
    listener->accepted(listener, fd, &peer);
}

/* True when trying again at once makes sense: the fault was one connection's, not ours. */
static bool accept_error_is_peers(int32_t error)
{
    return error == -ECONNABORTED || error == -EINTR || error == -EAGAIN || error == -EPROTO;
}

void uring_accept_completed(struct reactor *reactor, struct io_listener *listener, int32_t result,
                            uint32_t flags)
{
    bool armed = (flags & IORING_CQE_F_MORE) != 0;
    if (!armed)
        uring_op_end(reactor, &listener->op);
    if (result == -EINVAL && reactor->features.multishot_accept && !listener->closing) {
        reactor->features.multishot_accept = false; /* the kernel is older than 5.19 */
        listener_arm(reactor, listener);
        return;
    }
    if (listener->closing) {
        if (result >= 0)
            close(result);
    } else if (result >= 0) {
        listener_deliver(listener, result);
    } else if (!accept_error_is_peers(result)) {
        listener->accepted(listener, result, NULL);
    }
    if (armed)
        return;
    if (listener->closing) /* perhaps only since the callback above */
        listener_advance_close(reactor, listener);
    else if (result >= 0 || accept_error_is_peers(result))
        listener_arm(reactor, listener);
    else
        listener_pause(reactor, listener);
}

void uring_accept_retry(struct reactor *reactor, struct io_listener *listener)
{
    uring_op_end(reactor, &listener->retry);
    if (listener->closing)
        listener_advance_close(reactor, listener);
    else
        listener_arm(reactor, listener);
}

void uring_listener_closed(struct reactor *reactor, struct io_listener *listener)
{
    invariant(listener->closing);
    uring_op_end(reactor, &listener->op);
    listener->fd = -1;
    listener->closed(listener);
}

/* ---- connecting ----------------------------------------------------------------------------- */

static const struct __kernel_timespec connect_limit = {.tv_sec = IO_CONNECT_MS_MAX / 1000};

void reactor_connect(struct reactor *reactor, struct io_connect *connect)
{
    uring_op_begin(reactor, &connect->op);
    socklen_t bytes = address_to_socket(&connect->address, connect->storage);
    connect->fd =
        socket(connect->address.is_ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect->fd < 0) {
        uring_defer(reactor, &connect->op, -errno);
        return;
    }
    uring_sqe_reserve(reactor, 2); /* a chain must not straddle two submissions */
    struct io_uring_sqe *sqe = uring_sqe(reactor);
    io_uring_prep_connect(sqe, connect->fd, (struct sockaddr *)(void *)connect->storage, bytes);
    sqe->flags |= IOSQE_IO_LINK;
    sqe->user_data = uring_user_data(URING_CONNECT, connect);
    struct io_uring_sqe *limit = uring_sqe(reactor);
    io_uring_prep_link_timeout(limit, (struct __kernel_timespec *)(uintptr_t)&connect_limit, 0);
    limit->user_data = uring_user_data(URING_NONE, NULL);
}

void uring_connect_completed(struct reactor *reactor, struct io_connect *connect, int32_t result)
{
    int fd = connect->fd;
    if (result < 0) {
        close(fd);
        connect->fd = -1;
        fd = result == -ECANCELED ? -ETIMEDOUT : result;
    }
    uring_op_end(reactor, &connect->op);
    connect->op.done(&connect->op, fd);
}

void reactor_discard_descriptor(struct reactor *reactor, int32_t fd)
{
    (void)reactor;
    invariant(fd >= 0);
    close(fd);
}

/* ---- receiving ------------------------------------------------------------------------------ */

static void socket_op_begin(struct io_socket *socket, enum socket_op bit)
{
    invariant((socket->in_flight & bit) == 0); /* one of each kind at a time */
    socket->in_flight |= (uint8_t)bit;
    socket->reactor->ops_pending++;
}

static void socket_op_end(struct io_socket *socket, enum socket_op bit)
{
    invariant((socket->in_flight & bit) != 0);
    invariant(socket->reactor->ops_pending > 0);
    socket->in_flight &= (uint8_t)~bit;
    socket->reactor->ops_pending--;
}

/* A peer that vanished without a word ends the socket with an error: when it is silent by the
 * kernel's probes, when something waits for its acknowledgement by the user timeout. */
static void socket_options(int32_t fd)
{
    static const struct {
        int level, name, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, IO_KEEPALIVE_IDLE_S},
        {IPPROTO_TCP, TCP_KEEPINTVL, IO_KEEPALIVE_INTERVAL_S},
        {IPPROTO_TCP, TCP_KEEPCNT, IO_KEEPALIVE_PROBES},
        {IPPROTO_TCP, TCP_USER_TIMEOUT,
         (IO_KEEPALIVE_IDLE_S + IO_KEEPALIVE_INTERVAL_S * IO_KEEPALIVE_PROBES) * 1000},
    };
    for (size_t i = 0; i < ARRAY_COUNT(options); i++)
        if (setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                       sizeof(options[i].value)) != 0)
            return; /* not TCP, or reset already: the first receive tells */
}

void io_socket_attach(struct reactor *reactor, struct io_socket *socket, int32_t fd)
{
    invariant(fd >= 0);
    invariant(socket->received != NULL && socket->closed != NULL);
    io_op_init(&socket->recv_op, NULL);
    io_op_init(&socket->close_op, NULL);
    queue_link_init(&socket->starved_link);
    socket->reactor = reactor;
    socket->fd = fd;
    socket->receiving = socket->starved = socket->closing = false;
    socket->in_flight = 0;
    socket_options(fd);
}

static void recv_arm(struct io_socket *socket)
{
    struct reactor *reactor = socket->reactor;
    invariant(!socket->closing && !socket->starved);
    socket_op_begin(socket, SOCKET_RECV);
    struct io_uring_sqe *sqe = uring_sqe(reactor);
    if (reactor->features.multishot_recv)
        io_uring_prep_recv_multishot(sqe, socket->fd, NULL, 0, 0);
    else
        io_uring_prep_recv(sqe, socket->fd, NULL, reactor->options.recv_buffer_bytes, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = URING_RECV_GROUP;
    sqe->user_data = uring_user_data(URING_RECV, socket);
}

void io_socket_receive(struct io_socket *socket)
{
    invariant(!socket->closing);
    socket->receiving = true;
    if ((socket->in_flight & SOCKET_RECV) == 0 && !socket->starved)
        recv_arm(socket);
}

void io_socket_receive_stop(struct io_socket *socket)
{
    if (!socket->receiving)
        return;
    socket->receiving = false;
    if ((socket->in_flight & SOCKET_RECV) != 0)
        cancel_by_user_data(socket->reactor, uring_user_data(URING_RECV, socket));
}

void uring_recv_buffer_return(struct reactor *reactor, uint32_t id)
{
    invariant(id < reactor->options.recv_buffer_count);
    uint32_t bytes = reactor->options.recv_buffer_bytes;
    io_uring_buf_ring_add(reactor->recv_ring, reactor->recv_memory + (size_t)id * bytes, bytes,
                          (unsigned short)id,
                          io_uring_buf_ring_mask(reactor->options.recv_buffer_count), 0);
    io_uring_buf_ring_advance(reactor->recv_ring, 1);
}

/* The next step of a close, whenever something that named the socket has ended. */
static void socket_advance_close(struct io_socket *socket)
{
    if (socket->in_flight != 0 || socket->starved)
        return;
    socket_op_begin(socket, SOCKET_CLOSE);
    struct io_uring_sqe *sqe = uring_sqe(socket->reactor);
    io_uring_prep_close(sqe, socket->fd);
    sqe->user_data = uring_user_data(URING_SOCKET_CLOSE, socket);
}

/* Sockets that found the buffer ring empty try again, as many per turn as there are buffers: were
 * all to try, all but a few would fail again. */
void uring_recv_feed_starved(struct reactor *reactor)
{
    uint32_t count = reactor->starved.count;
    if (count > reactor->options.recv_buffer_count)
        count = reactor->options.recv_buffer_count;
    for (; count > 0; count--) {
        struct io_socket *socket =
            container_of(queue_pop(&reactor->starved), struct io_socket, starved_link);
        socket->starved = false;
        if (socket->closing)
            socket_advance_close(socket);
        else if (socket->receiving)
            recv_arm(socket);
    }
}

/* What a final receive CQE means for the socket, after its bytes were delivered. */
static void recv_ended(struct reactor *reactor, struct io_socket *socket, int32_t result)
{
    if (socket->closing) {
        socket_advance_close(socket);
    } else if (result == -ENOBUFS) { /* the bytes wait in the kernel */
        reactor->recv_starved_count++;
        socket->starved = true;
        queue_append(&reactor->starved, &socket->starved_link);
    } else if (socket->receiving && (socket->in_flight & SOCKET_RECV) == 0) {
        recv_arm(socket); /* unless the callback stopped and began again */
    }
}

/* Errors that end one arming of the receive, not the stream. */
static bool recv_error_is_passing(struct reactor *reactor, int32_t result)
{
    if (result == -EINVAL && reactor->features.multishot_recv) {
        reactor->features.multishot_recv = false; /* the kernel is older than 6.0 */
        return true;
    }
    return result == -ENOBUFS || result == -ECANCELED || result == -EINTR || result == -EAGAIN;
}

void uring_recv_completed(struct reactor *reactor, struct io_socket *socket, int32_t result,
                          uint32_t flags)
{
    bool more = (flags & IORING_CQE_F_MORE) != 0;
    if (!more)
        socket_op_end(socket, SOCKET_RECV);
    bool passing = result < 0 && recv_error_is_passing(reactor, result);
    const uint8_t *bytes = NULL;
    uint32_t id = flags >> IORING_CQE_BUFFER_SHIFT;
    if ((flags & IORING_CQE_F_BUFFER) != 0) {
        invariant(id < reactor->options.recv_buffer_count);
        invariant(result <= (int32_t)reactor->options.recv_buffer_bytes);
        bytes = reactor->recv_memory + (size_t)id * reactor->options.recv_buffer_bytes;
    }
    if (!socket->closing && !passing) {
        invariant(result <= 0 || bytes != NULL);
        if (result <= 0)
            socket->receiving = false;
        socket->received(socket, result > 0 ? bytes : NULL, result);
    }
    if (bytes != NULL)
        uring_recv_buffer_return(reactor, id);
    if (!more)
        recv_ended(reactor, socket, result);
}

/* ---- sending -------------------------------------------------------------------------------- */

/* The op remembers its socket in the words that struct io_op reserves for the backend. */
static void send_remember_socket(struct io_op *op, struct io_socket *socket)
{
    _Static_assert(sizeof(op->backend) >= sizeof(socket), "a pointer fits");
    memcpy(op->backend, &socket, sizeof(socket));
}

static struct io_socket *send_socket(const struct io_op *op)
{
    struct io_socket *socket;
    memcpy(&socket, op->backend, sizeof(socket));
    return socket;
}

void io_socket_send(struct io_socket *socket, struct io_op *op, const struct iovec *iov,
                    uint32_t iov_count)
{
    struct reactor *reactor = socket->reactor;
    invariant(!socket->closing);
    invariant(iov_count > 0 && iov_count <= SEND_IOV_COUNT_MAX);
    invariant(op->link.next == QUEUE_LINK_IDLE);
    op->link.next = OP_PENDING;
    send_remember_socket(op, socket);
    socket_op_begin(socket, SOCKET_SEND);
    struct io_uring_sqe *sqe = uring_sqe(reactor);
    int flags = MSG_NOSIGNAL | MSG_WAITALL; /* fewer short sends; some remain */
    if (iov_count == 1) {
        invariant(iov->iov_len <= INT32_MAX);
        io_uring_prep_send(sqe, socket->fd, iov->iov_base, iov->iov_len, flags);
    } else {
        /* Read when the kernel takes the SQE (IORING_FEAT_SUBMIT_STABLE); the SQE's slot is not
         * given out again before that. */
        struct msghdr *header = &reactor->send_headers[sqe - reactor->ring.sq.sqes];
        *header = (struct msghdr){
            .msg_iov = (struct iovec *)(uintptr_t)iov,
            .msg_iovlen = iov_count,
        };
        io_uring_prep_sendmsg(sqe, socket->fd, header, (unsigned)flags);
    }
    sqe->user_data = uring_user_data(URING_SEND, op);
}

void uring_send_completed(struct reactor *reactor, struct io_op *op, int32_t result)
{
    struct io_socket *socket = send_socket(op);
    invariant(socket->reactor == reactor);
    invariant(op->link.next == OP_PENDING);
    op->link.next = QUEUE_LINK_IDLE;
    socket_op_end(socket, SOCKET_SEND);
    op->done(op, result); /* may send again, or close */
    if (socket->closing)
        socket_advance_close(socket);
}

/* ---- closing -------------------------------------------------------------------------------- */

void io_socket_close(struct io_socket *socket)
{
    struct reactor *reactor = socket->reactor;
    invariant(!socket->closing);
    socket->closing = true;
    socket->receiving = false;
    shutdown(socket->fd, SHUT_RDWR); /* wakes what waits; ENOTCONN is fine */
    if ((socket->in_flight & (SOCKET_RECV | SOCKET_SEND)) != 0) {
        socket_op_begin(socket, SOCKET_CANCEL);
        struct io_uring_sqe *sqe = uring_sqe(reactor);
        io_uring_prep_cancel_fd(sqe, socket->fd, IORING_ASYNC_CANCEL_ALL);
        sqe->user_data = uring_user_data(URING_SOCKET_CANCEL, socket);
    }
    socket_advance_close(socket);
}

void uring_socket_cancelled(struct reactor *reactor, struct io_socket *socket)
{
    invariant(socket->reactor == reactor && socket->closing);
    socket_op_end(socket, SOCKET_CANCEL);
    socket_advance_close(socket);
}

void uring_socket_closed(struct reactor *reactor, struct io_socket *socket)
{
    invariant(socket->reactor == reactor && socket->closing);
    socket_op_end(socket, SOCKET_CLOSE);
    invariant(socket->in_flight == 0);
    socket->fd = -1;
    socket->closed(socket);
}
