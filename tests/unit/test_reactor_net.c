/* Sockets of the io_uring backend: echo under pressure, endings, descriptors that run out. */
#include "tests/unit/test_reactor.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "core/buffer.h"
#include "core/err.h"

/* ---- sockets -------------------------------------------------------------------------------- */

struct net {
    struct reactor *reactor;
    struct io_listener listener;
    struct echo_server *accepted; /* newest first */
    uint32_t accepted_count, accept_errors;
    uint32_t clients_done, clients_count;
    bool all_done, listener_closed;
    bool servers_sleep; /* accepted sockets never receive */
    bool servers_pause; /* they stop and begin again inside the callback, as HTTP/1.1 does */
    uint32_t open_sockets;
};

struct echo_server {
    struct io_socket socket;
    struct io_op send_op;
    struct net *net;
    struct echo_server *next;
    struct iovec iov;
    uint8_t *queued; /* bytes to echo: [sent, queued_bytes) */
    uint32_t queued_bytes, sent, capacity;
    bool sending, ended;
};

static void server_closed(struct io_socket *socket)
{
    struct echo_server *server = container_of(socket, struct echo_server, socket);
    server->net->open_sockets--;
    free(server->queued);
    server->queued = NULL;
}

static void server_flush(struct echo_server *server)
{
    if (server->sending || server->socket.closing)
        return;
    if (server->sent == server->queued_bytes) {
        server->sent = server->queued_bytes = 0;
        if (server->ended)
            io_socket_close(&server->socket);
        return;
    }
    server->sending = true;
    server->iov.iov_base = server->queued + server->sent;
    server->iov.iov_len = server->queued_bytes - server->sent;
    io_socket_send(&server->socket, &server->send_op, &server->iov, 1);
}

static void server_sent(struct io_op *op, int32_t result)
{
    struct echo_server *server = container_of(op, struct echo_server, send_op);
    server->sending = false;
    if (result < 0) {
        if (!server->socket.closing)
            io_socket_close(&server->socket);
        return;
    }
    server->sent += (uint32_t)result;
    server_flush(server);
}

static void server_received(struct io_socket *socket, const uint8_t *bytes, int32_t count)
{
    struct echo_server *server = container_of(socket, struct echo_server, socket);
    if (count < 0) {
        io_socket_close(socket);
        return;
    }
    server->ended = count == 0;
    if (server->sending) { /* the buffer being sent must not move */
        cr_assert_leq(server->queued_bytes + (uint32_t)count, server->capacity);
    } else if (server->queued_bytes + (uint32_t)count > server->capacity) {
        server->capacity = (server->queued_bytes + (uint32_t)count) * 2;
        server->queued = realloc(server->queued, server->capacity);
    }
    if (count > 0)
        memcpy(server->queued + server->queued_bytes, bytes, (size_t)count);
    server->queued_bytes += (uint32_t)count;
    if (server->net->servers_pause && count > 0) {
        io_socket_receive_stop(socket);
        io_socket_receive(socket);
    }
    server_flush(server);
}

static void net_accepted(struct io_listener *listener, int32_t fd, const struct io_address *peer)
{
    struct net *net = container_of(listener, struct net, listener);
    if (fd < 0) {
        net->accept_errors++;
        return;
    }
    cr_assert_eq(strncmp(peer->text, "127.0.0.1:", 10), 0);
    struct echo_server *server = calloc(1, sizeof(*server));
    server->net = net;
    server->capacity = 1024 * 1024;
    server->queued = malloc(server->capacity);
    server->next = net->accepted;
    net->accepted = server;
    net->accepted_count++;
    server->socket.received = server_received;
    server->socket.closed = server_closed;
    io_op_init(&server->send_op, server_sent);
    io_socket_attach(net->reactor, &server->socket, fd);
    net->open_sockets++;
    if (!net->servers_sleep)
        io_socket_receive(&server->socket);
}

static void net_listener_closed(struct io_listener *listener)
{
    container_of(listener, struct net, listener)->listener_closed = true;
}

static struct io_address loopback(struct reactor *reactor, uint16_t port)
{
    struct io_address address;
    cr_assert_eq(reactor_resolve(reactor, "127.0.0.1", port, &address), 0);
    return address;
}

static void net_open(struct net *net, struct reactor *reactor)
{
    memset(net, 0, sizeof(*net));
    net->reactor = reactor;
    net->listener.accepted = net_accepted;
    net->listener.closed = net_listener_closed;
    struct io_address address = loopback(reactor, 0);
    cr_assert_eq(reactor_listen(reactor, &net->listener, &address), 0);
    cr_assert_gt(net->listener.port, 0);
}

static void net_close(struct net *net)
{
    reactor_listener_close(net->reactor, &net->listener);
    poll_until(net->reactor, &net->listener_closed);
    drain(net->reactor);
    cr_assert_eq(net->open_sockets, 0);
    while (net->accepted != NULL) {
        struct echo_server *next = net->accepted->next;
        free(net->accepted);
        net->accepted = next;
    }
    reactor_destroy(net->reactor);
}

struct client {
    struct io_connect connect;
    struct io_socket socket;
    struct io_op send_op;
    struct net *net;
    struct iovec iov[3];
    uint8_t *message;
    uint32_t bytes, got, rounds_left;
    bool sent, finished;
};

static void client_round(struct client *client)
{
    client->got = 0;
    client->sent = false;
    uint32_t third = client->bytes / 3;
    client->iov[0] = (struct iovec){client->message, third};
    client->iov[1] = (struct iovec){client->message + third, third};
    client->iov[2] = (struct iovec){client->message + 2 * third, client->bytes - 2 * third};
    if (third == 0)
        io_socket_send(&client->socket, &client->send_op, &client->iov[2], 1);
    else
        io_socket_send(&client->socket, &client->send_op, client->iov, 3);
}

static void client_closed(struct io_socket *socket)
{
    struct client *client = container_of(socket, struct client, socket);
    client->finished = true;
    client->net->open_sockets--;
    if (++client->net->clients_done == client->net->clients_count)
        client->net->all_done = true;
}

static void client_step(struct client *client)
{
    if (!client->sent || client->got < client->bytes)
        return;
    if (--client->rounds_left == 0)
        io_socket_close(&client->socket);
    else
        client_round(client);
}

static void client_sent(struct io_op *op, int32_t result)
{
    struct client *client = container_of(op, struct client, send_op);
    if (client->socket.closing)
        return;
    cr_assert_eq(result, (int32_t)client->bytes);
    client->sent = true;
    client_step(client);
}

static void client_received(struct io_socket *socket, const uint8_t *bytes, int32_t count)
{
    struct client *client = container_of(socket, struct client, socket);
    cr_assert_gt(count, 0);
    cr_assert_leq(client->got + (uint32_t)count, client->bytes);
    cr_assert_eq(memcmp(bytes, client->message + client->got, (size_t)count), 0);
    client->got += (uint32_t)count;
    client_step(client);
}

static void client_connected(struct io_op *op, int32_t result)
{
    struct client *client =
        container_of(container_of(op, struct io_connect, op), struct client, connect);
    cr_assert_geq(result, 0, "%s", err_text(result));
    client->net->open_sockets++;
    io_socket_attach(client->net->reactor, &client->socket, result);
    io_socket_receive(&client->socket);
    client_round(client);
}

static void client_start(struct client *client, struct net *net, uint32_t bytes, uint32_t rounds)
{
    memset(client, 0, sizeof(*client));
    client->net = net;
    client->bytes = bytes;
    client->rounds_left = rounds;
    client->message = malloc(bytes);
    for (uint32_t i = 0; i < bytes; i++)
        client->message[i] = (uint8_t)reactor_random(net->reactor);
    client->socket.received = client_received;
    client->socket.closed = client_closed;
    io_op_init(&client->send_op, client_sent);
    io_op_init(&client->connect.op, client_connected);
    client->connect.address = loopback(net->reactor, net->listener.port);
    reactor_connect(net->reactor, &client->connect);
}

static void echo_many(const struct reactor_options *options, uint32_t count, uint32_t bytes_max,
                      uint32_t rounds, bool servers_pause)
{
    struct net net;
    net_open(&net, reactor_open_with(options));
    net.servers_pause = servers_pause;
    net.clients_count = count;
    struct client *clients = calloc(count, sizeof(clients[0]));
    for (uint32_t i = 0; i < count; i++)
        client_start(&clients[i], &net, 1 + (uint32_t)(reactor_random(net.reactor) % bytes_max),
                     rounds);
    poll_until(net.reactor, &net.all_done);
    cr_assert_eq(net.accepted_count, count);
    for (uint32_t i = 0; i < count; i++)
        free(clients[i].message);
    free(clients);
    net_close(&net);
}

Test(reactor_net, echo_over_many_connections)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++) {
        struct reactor_options options = options_default(feature_sets[i]);
        echo_many(&options, 200, 10000, 10, false);
    }
}

Test(reactor_net, a_callback_may_pause_and_go_on)
{
    static const char *const disabled[] = {NULL, "multishot_recv"};
    for (size_t i = 0; i < ARRAY_COUNT(disabled); i++) {
        struct reactor_options options = options_default(disabled[i]);
        echo_many(&options, 8, 100000, 4, true);
    }
}

Test(reactor_net, starved_connections_all_come_through)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++) {
        struct reactor_options options = options_default(feature_sets[i]);
        options.recv_buffer_count = 4;
        options.recv_buffer_bytes = 512;
        echo_many(&options, 500, 2000, 4, false);
    }
}

/* Sends without end to a peer that never reads, so that the send is stuck when we close. */
struct stuck {
    struct io_connect connect;
    struct io_socket socket;
    struct io_op send_op;
    struct iovec iov;
    struct net *net;
    int32_t send_result;
    bool connected, send_done, closed;
};

static uint8_t stuck_bytes[16 * 1024 * 1024];

static void stuck_sent(struct io_op *op, int32_t result)
{
    struct stuck *stuck = container_of(op, struct stuck, send_op);
    stuck->send_result = result;
    stuck->send_done = true;
    cr_assert_not(stuck->closed, "the send ends before the socket");
}

static void stuck_received(struct io_socket *socket, const uint8_t *bytes, int32_t count)
{
    (void)bytes;
    cr_assert_not(socket->closing, "silent after close");
    (void)count;
}

static void stuck_closed(struct io_socket *socket)
{
    container_of(socket, struct stuck, socket)->closed = true;
}

static void stuck_connected(struct io_op *op, int32_t result)
{
    struct stuck *stuck =
        container_of(container_of(op, struct io_connect, op), struct stuck, connect);
    cr_assert_geq(result, 0);
    io_socket_attach(stuck->net->reactor, &stuck->socket, result);
    io_socket_receive(&stuck->socket);
    stuck->iov = (struct iovec){stuck_bytes, sizeof(stuck_bytes)};
    io_socket_send(&stuck->socket, &stuck->send_op, &stuck->iov, 1);
    stuck->connected = true;
}

static void close_in_flight(const char *disable)
{
    struct net net;
    net_open(&net, reactor_open_default(disable));
    net.servers_sleep = true;
    enum { COUNT = 20 };
    struct stuck *all = calloc(COUNT, sizeof(all[0]));
    for (int i = 0; i < COUNT; i++) {
        all[i].net = &net;
        all[i].socket.received = stuck_received;
        all[i].socket.closed = stuck_closed;
        io_op_init(&all[i].send_op, stuck_sent);
        io_op_init(&all[i].connect.op, stuck_connected);
        all[i].connect.address = loopback(net.reactor, net.listener.port);
        reactor_connect(net.reactor, &all[i].connect);
    }
    for (int i = 0; i < COUNT; i++)
        poll_until(net.reactor, &all[i].connected);
    uint64_t until_ns = reactor_clock_ns(net.reactor) + 20 * NS_PER_MS;
    while (reactor_clock_ns(net.reactor) < until_ns)
        reactor_poll(net.reactor, true, until_ns);
    for (int i = 0; i < COUNT; i++) {
        cr_assert_not(all[i].send_done, "stuck");
        io_socket_close(&all[i].socket);
        cr_assert_not(all[i].closed, "closed comes from reactor_poll()");
    }
    for (int i = 0; i < COUNT; i++) {
        poll_until(net.reactor, &all[i].closed);
        cr_assert(all[i].send_done);
        cr_assert_lt(all[i].send_result, (int32_t)sizeof(stuck_bytes));
    }
    for (struct echo_server *server = net.accepted; server != NULL; server = server->next)
        io_socket_close(&server->socket);
    free(all);
    net_close(&net);
}

Test(reactor_net, close_while_recv_and_send_are_in_flight)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++)
        close_in_flight(feature_sets[i]);
}

Test(reactor_net, a_vanished_peer_is_noticed)
{
    static const struct {
        const char *why;
        int level, name, value;
    } options[] = {
        {"small replies are not held back", IPPROTO_TCP, TCP_NODELAY, 1},
        {"silence is probed", SOL_SOCKET, SO_KEEPALIVE, 1},
        {"... after a minute", IPPROTO_TCP, TCP_KEEPIDLE, 60},
        {"... every ten seconds", IPPROTO_TCP, TCP_KEEPINTVL, 10},
        {"... three times", IPPROTO_TCP, TCP_KEEPCNT, 3},
        {"what is sent must be acknowledged", IPPROTO_TCP, TCP_USER_TIMEOUT, 90000},
    };
    struct reactor *reactor = reactor_open_default(NULL);
    struct io_socket io = {.received = stuck_received, .closed = stuck_closed};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    io_socket_attach(reactor, &io, fd);
    for (size_t i = 0; i < ARRAY_COUNT(options); i++) {
        int value = -1;
        socklen_t bytes = sizeof(value);
        cr_assert_eq(getsockopt(fd, options[i].level, options[i].name, &value, &bytes), 0);
        cr_expect_eq(value, options[i].value, "%s", options[i].why);
    }
    close(fd);
    reactor_destroy(reactor);
}

struct refused {
    struct io_connect connect;
    int32_t result;
    bool done;
};

static void refused_done(struct io_op *op, int32_t result)
{
    struct refused *refused =
        container_of(container_of(op, struct io_connect, op), struct refused, connect);
    refused->result = result;
    refused->done = true;
}

Test(reactor_net, connect_is_refused)
{
    struct reactor *reactor = reactor_open_default("");
    struct net net;
    net_open(&net, reactor);
    uint16_t port = net.listener.port;
    reactor_listener_close(reactor, &net.listener);
    poll_until(reactor, &net.listener_closed);
    struct refused attempt = {.connect.address = loopback(reactor, port)};
    io_op_init(&attempt.connect.op, refused_done);
    reactor_connect(reactor, &attempt.connect);
    poll_until(reactor, &attempt.done);
    cr_assert_eq(attempt.result, -ECONNREFUSED);
    reactor_destroy(reactor);
}

Test(reactor_net, listening_on_a_taken_port_fails)
{
    struct net net;
    net_open(&net, reactor_open_default(""));
    struct io_listener second = {.accepted = net_accepted, .closed = net_listener_closed};
    struct io_address address = loopback(net.reactor, net.listener.port);
    cr_assert_eq(reactor_listen(net.reactor, &second, &address), -EADDRINUSE);
    net_close(&net);
}

Test(reactor_net, running_out_of_descriptors_pauses_accepting)
{
    struct net net;
    net_open(&net, reactor_open_default(""));
    enum { COUNT = 8 };
    net.clients_count = COUNT;
    struct client clients[COUNT];
    struct rlimit before, low;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
    low = before;
    int next = dup(0); /* the lowest free descriptor */
    close(next);
    low.rlim_cur = (rlim_t)next + COUNT + 2; /* room for the clients' ends and two of ours */
    for (int i = 0; i < COUNT; i++)
        client_start(&clients[i], &net, 100, 2);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
    uint64_t deadline_ns = reactor_clock_ns(net.reactor) + WAIT_NS_MAX;
    while (net.accept_errors == 0) {
        cr_assert_lt(reactor_clock_ns(net.reactor), deadline_ns);
        reactor_poll(net.reactor, true, deadline_ns);
    }
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    poll_until(net.reactor, &net.all_done);
    for (int i = 0; i < COUNT; i++)
        free(clients[i].message);
    net_close(&net);
}
