/* The io_uring backend driven directly: what needs real files, sockets, threads and pressure. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/buffer.h"
#include "core/core.h"
#include "core/err.h"
#include "core/prng.h"
#include "core/reactor.h"
#include "tests/conformance/reactor_conformance.h"

/* Every fallback runs the same tests. */
static const char *const feature_sets[] = {
    "",         "multishot_recv", "multishot_accept", "registered_buffers",
    "msg_ring", "defer_taskrun",  "ftruncate",        "multishot_recv,multishot_accept,msg_ring",
};

#define WAIT_NS_MAX (20 * NS_PER_S)

static struct reactor_options options_default(const char *disable)
{
    return (struct reactor_options){
        .core_count = 1,
        .files_max = 2048,
        .buffer_bytes = 4 * MIB,
        .recv_buffer_bytes = 4096,
        .recv_buffer_count = 64,
        .random_seed = 1,
        .disable_features = disable,
    };
}

static struct reactor *reactor_open_with(const struct reactor_options *options)
{
    struct reactor *reactor = NULL;
    char reason[256] = "";
    int error = reactor_create(options, &reactor, reason, sizeof(reason));
    cr_assert_eq(error, 0, "%s", reason);
    return reactor;
}

static struct reactor *reactor_open_default(const char *disable)
{
    struct reactor_options options = options_default(disable);
    return reactor_open_with(&options);
}

/* Polls, sleeping in between, until `*flag`. */
static void poll_until(struct reactor *reactor, const bool *flag)
{
    uint64_t deadline_ns = reactor_clock_ns(reactor) + WAIT_NS_MAX;
    while (!*flag) {
        cr_assert_lt(reactor_clock_ns(reactor), deadline_ns, "stalled");
        reactor_poll(reactor, true, deadline_ns);
    }
}

static void drain(struct reactor *reactor)
{
    uint64_t deadline_ns = reactor_clock_ns(reactor) + WAIT_NS_MAX;
    while (reactor_ops_pending(reactor) > 0) {
        cr_assert_lt(reactor_clock_ns(reactor), deadline_ns, "ops never end");
        reactor_poll(reactor, true, deadline_ns);
    }
}

struct waited_op {
    struct io_op op;
    int32_t result;
    bool done;
};

static void waited_done(struct io_op *op, int32_t result)
{
    struct waited_op *waited = container_of(op, struct waited_op, op);
    cr_assert_not(waited->done, "completes once");
    waited->result = result;
    waited->done = true;
}

static struct waited_op waited_make(void)
{
    struct waited_op waited = {.result = 12345};
    io_op_init(&waited.op, waited_done);
    return waited;
}

#define RUN(reactor, call, ...)                                                                    \
    ({                                                                                             \
        struct waited_op waited_ = waited_make();                                                  \
        call(reactor, &waited_.op, __VA_ARGS__);                                                   \
        cr_assert_not(waited_.done, "done never runs inside " #call);                              \
        poll_until(reactor, &waited_.done);                                                        \
        waited_.result;                                                                            \
    })

static char directory[64];

static void directory_make(void)
{
    snprintf(directory, sizeof(directory), "/var/tmp/test_reactor_XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static void directory_drop(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    cr_assert_eq(system(command), 0);
}

static const char *in_directory(const char *name)
{
    static char path[4][128];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", directory, name);
    return path[turn];
}

/* ---- files ---------------------------------------------------------------------------------- */

TestSuite(reactor_files, .init = directory_make, .fini = directory_drop);

static void direct_durable_round_trip(const char *disable)
{
    struct reactor *reactor = reactor_open_default(disable);
    struct buffer_pool *pool = reactor_buffers(reactor);
    uint8_t *arena = buffer_acquire(pool, 65536);
    uint8_t *plain = aligned_alloc(4096, 65536);
    uint8_t *bases[] = {arena, plain};
    for (size_t i = 0; i < ARRAY_COUNT(bases); i++) {
        int32_t fd = RUN(reactor, reactor_open, in_directory("direct"),
                         IO_OPEN_READ | IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_DIRECT);
        cr_assert_geq(fd, 0, "%s", err_text(fd));
        struct io_file file = {fd};
        struct io_span span = {bases[i], 8192, 65536};
        memset(span.base, 'a' + (int)i, span.bytes);
        cr_assert_eq(RUN(reactor, reactor_write, file, span, IO_WRITE_DURABLE), 65536, "[%s]",
                     disable);
        memset(span.base, 0, span.bytes);
        cr_assert_eq(RUN(reactor, reactor_read, file, span), 65536);
        for (uint32_t b = 0; b < span.bytes; b++)
            cr_assert_eq(bases[i][b], 'a' + i);
        span.offset = 65536 + 4096;
        cr_assert_eq(RUN(reactor, reactor_read, file, span), 4096, "short at end of file");
        span.base = bases[i] + 1;
        cr_assert_eq(RUN(reactor, reactor_read, file, span), -EINVAL, "misaligned");
        cr_assert_eq(RUN(reactor, reactor_close, file), 0);
    }
    buffer_release(pool, arena);
    free(plain);
    reactor_destroy(reactor);
}

Test(reactor_files, direct_durable_round_trip)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++)
        direct_durable_round_trip(feature_sets[i]);
}

#define NAMES_BYTES 64

static void names_add(void *context, const char *name)
{
    char *names = context; /* NAMES_BYTES of room */
    size_t used = strlen(names);
    snprintf(names + used, NAMES_BYTES - used, "%s ", name);
}

static void names_and_sizes(const char *disable)
{
    struct reactor *reactor = reactor_open_default(disable);
    int32_t fd = RUN(reactor, reactor_open, in_directory("b"),
                     IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_EXCLUSIVE);
    cr_assert_geq(fd, 0);
    struct io_file file = {fd};
    cr_assert_eq(RUN(reactor, reactor_open, in_directory("b"),
                     IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_EXCLUSIVE),
                 -EEXIST);
    cr_assert_eq(RUN(reactor, reactor_open, in_directory("none"), IO_OPEN_READ), -ENOENT);
    cr_assert_eq(RUN(reactor, reactor_allocate, file, 0, 1 * MIB), 0);
    struct io_stat stat;
    cr_assert_eq(RUN(reactor, reactor_stat, in_directory("b"), &stat), 0);
    cr_assert(stat.bytes == 1 * MIB && stat.bytes_allocated >= 1 * MIB && !stat.is_directory);
    cr_assert_eq(RUN(reactor, reactor_truncate, file, 5 * GIB), 0);
    cr_assert_eq(RUN(reactor, reactor_stat, in_directory("b"), &stat), 0);
    cr_assert_eq(stat.bytes, 5 * GIB);
    cr_assert_eq(RUN(reactor, reactor_sync, file), 0);
    cr_assert_eq(RUN(reactor, reactor_close, file), 0);
    cr_assert_eq(RUN(reactor, reactor_rename, in_directory("b"), in_directory("a")), 0);
    cr_assert_eq(RUN(reactor, reactor_hard_link, in_directory("a"), in_directory("c")), 0);
    cr_assert_eq(RUN(reactor, reactor_make_directory, in_directory("d")), 0);
    cr_assert_eq(RUN(reactor, reactor_make_directory, in_directory("d")), -EEXIST);
    cr_assert_eq(RUN(reactor, reactor_stat, in_directory("d"), &stat), 0);
    cr_assert(stat.is_directory);
    char names[NAMES_BYTES] = "";
    cr_assert_eq(reactor_list(reactor, directory, names_add, names), 0);
    cr_assert_str_eq(names, "a c d ");
    cr_assert_eq(reactor_list(reactor, in_directory("none"), names_add, names), -ENOENT);
    fd = RUN(reactor, reactor_open, directory, IO_OPEN_READ);
    cr_assert_geq(fd, 0, "a directory opens for sync");
    cr_assert_eq(RUN(reactor, reactor_sync, (struct io_file){fd}), 0);
    cr_assert_eq(RUN(reactor, reactor_close, (struct io_file){fd}), 0);
    cr_assert_eq(RUN(reactor, reactor_unlink, in_directory("a")), 0);
    cr_assert_eq(RUN(reactor, reactor_unlink, in_directory("a")), -ENOENT);
    cr_assert_eq(RUN(reactor, reactor_unlink, in_directory("c")), 0);
    cr_assert_eq(RUN(reactor, reactor_remove_directory, in_directory("d")), 0);
    uint64_t free_bytes, total_bytes;
    cr_assert_eq(reactor_disk_space(reactor, directory, &free_bytes, &total_bytes), 0);
    cr_assert(free_bytes > 0 && free_bytes <= total_bytes);
    reactor_destroy(reactor);
}

Test(reactor_files, names_and_sizes)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++)
        names_and_sizes(feature_sets[i]);
}

Test(reactor_files, more_ops_than_both_queues_hold)
{
    struct reactor *reactor = reactor_open_default("");
    int32_t fd = RUN(reactor, reactor_open, in_directory("many"),
                     IO_OPEN_READ | IO_OPEN_WRITE | IO_OPEN_CREATE);
    struct io_file file = {fd};
    enum { COUNT = 20000 };
    struct waited_op *ops = calloc(COUNT, sizeof(ops[0]));
    static uint8_t byte = 'x';
    for (uint32_t i = 0; i < COUNT; i++) {
        ops[i] = waited_make();
        reactor_write(reactor, &ops[i].op, file, (struct io_span){&byte, i, 1}, 0);
    }
    cr_assert_eq(reactor_ops_pending(reactor), COUNT);
    drain(reactor);
    for (uint32_t i = 0; i < COUNT; i++)
        cr_assert(ops[i].done && ops[i].result == 1);
    free(ops);
    struct io_stat stat;
    cr_assert_eq(RUN(reactor, reactor_stat, in_directory("many"), &stat), 0);
    cr_assert_eq(stat.bytes, COUNT);
    cr_assert_eq(RUN(reactor, reactor_close, file), 0);
    reactor_destroy(reactor);
}

enum { HELD_WRITES = 48, HELD_WRITE_BYTES = 1 << 18 };

/* Holds the lock, starts durable writes, and is killed with all of them under way. */
static void killed_writer(int ready, uint8_t fill)
{
    struct reactor_options options = options_default("");
    options.buffer_bytes = HELD_WRITES * HELD_WRITE_BYTES;
    struct reactor *reactor = reactor_open_with(&options);
    struct io_file lock = {RUN(reactor, reactor_open, in_directory("LOCK"),
                               IO_OPEN_READ | IO_OPEN_WRITE | IO_OPEN_CREATE)};
    struct io_file data = {
        RUN(reactor, reactor_open, in_directory("data"), IO_OPEN_WRITE | IO_OPEN_DIRECT)};
    cr_assert_eq(reactor_lock_file(reactor, lock), 0);
    cr_assert_eq(reactor_hold_file(reactor, lock), 0);
    static struct waited_op ops[HELD_WRITES];
    for (uint32_t i = 0; i < HELD_WRITES; i++) {
        uint8_t *bytes = buffer_acquire(reactor_buffers(reactor), HELD_WRITE_BYTES);
        memset(bytes, fill, HELD_WRITE_BYTES);
        ops[i] = waited_make();
        reactor_write(reactor, &ops[i].op, data,
                      (struct io_span){bytes, (uint64_t)i * HELD_WRITE_BYTES, HELD_WRITE_BYTES},
                      IO_WRITE_DURABLE);
    }
    reactor_poll(reactor, false, 0);
    cr_assert_eq(write(ready, "x", 1), 1);
    for (;;)
        pause();
}

/* What the file holds; 0 for a part that no write of this round reached. */
static uint64_t count_bytes(int fd, uint8_t fill)
{
    static uint8_t bytes[HELD_WRITE_BYTES];
    uint64_t count = 0;
    for (uint32_t i = 0; i < HELD_WRITES; i++) {
        cr_assert_eq(pread(fd, bytes, sizeof(bytes), (off_t)i * HELD_WRITE_BYTES), sizeof(bytes));
        for (uint32_t at = 0; at < sizeof(bytes); at += 512)
            count += bytes[at] == fill;
    }
    return count;
}

/* The kernel goes on with writes of a process that is gone: the lock has to outlast them. */
Test(reactor_files, a_held_lock_outlasts_the_writes_of_a_killed_process)
{
    int data = open(in_directory("data"), O_CREAT | O_RDWR, 0600);
    for (uint8_t round = 1; round <= 12; round++) {
        int ready[2];
        cr_assert_eq(ftruncate(data, 0), 0);
        cr_assert_eq(ftruncate(data, HELD_WRITES * HELD_WRITE_BYTES), 0);
        cr_assert_eq(pipe(ready), 0);
        pid_t child = fork();
        if (child == 0)
            killed_writer(ready[1], round);
        char byte;
        cr_assert_eq(read(ready[0], &byte, 1), 1);
        kill(child, SIGKILL);
        cr_assert_eq(waitpid(child, NULL, 0), child);
        struct reactor *reactor = reactor_open_default("");
        struct io_file lock = {RUN(reactor, reactor_open, in_directory("LOCK"), IO_OPEN_READ)};
        cr_assert_eq(reactor_lock_file(reactor, lock), 0);
        uint64_t seen = count_bytes(data, round);
        usleep(50000);
        cr_assert_eq(count_bytes(data, round), seen, "writes of a dead process under our lock");
        cr_assert_eq(RUN(reactor, reactor_close, lock), 0);
        reactor_destroy(reactor);
        close(ready[0]);
        close(ready[1]);
    }
    close(data);
}

Test(reactor_files, lock_is_exclusive_until_closed)
{
    struct reactor *reactor = reactor_open_default("");
    struct io_file files[2];
    for (int i = 0; i < 2; i++)
        files[i].fd = RUN(reactor, reactor_open, in_directory("LOCK"),
                          IO_OPEN_READ | IO_OPEN_WRITE | IO_OPEN_CREATE);
    cr_assert_eq(reactor_lock_file(reactor, files[0]), 0);
    uint64_t start_ns = reactor_clock_ns(reactor);
    cr_assert_eq(reactor_lock_file(reactor, files[1]), ERR_LOCKED);
    cr_assert_geq(reactor_clock_ns(reactor) - start_ns, 4 * NS_PER_S, "patient");
    cr_assert_eq(RUN(reactor, reactor_close, files[0]), 0);
    cr_assert_eq(reactor_lock_file(reactor, files[1]), 0);
    cr_assert_eq(RUN(reactor, reactor_close, files[1]), 0);
    reactor_destroy(reactor);
}

Test(reactor_misuse, starting_an_op_twice_is_noticed, .signal = SIGABRT)
{
    struct reactor *reactor = reactor_open_default("");
    struct waited_op waited = waited_make();
    reactor_unlink(reactor, &waited.op, "/nonexistent");
    reactor_unlink(reactor, &waited.op, "/nonexistent");
}

Test(reactor_files, buffers_work_without_the_right_to_lock_memory)
{
    cr_assert_eq(chmod(directory, 0777), 0);
    struct rlimit limit = {1 * MIB, 1 * MIB}; /* enough for the ring, not for the arena */
    cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    bool is_root = geteuid() == 0; /* whom the limit does not bind */
    if (is_root)
        cr_assert_eq(seteuid(65534), 0);
    direct_durable_round_trip("");
    if (is_root)
        cr_assert_eq(seteuid(0), 0);
}

/* ---- sockets -------------------------------------------------------------------------------- */

struct net {
    struct reactor *reactor;
    struct io_listener listener;
    struct echo_server *accepted; /* newest first */
    uint32_t accepted_count, accept_errors;
    uint32_t clients_done, clients_count;
    bool all_done, listener_closed;
    bool servers_sleep; /* accepted sockets never receive */
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
                      uint32_t rounds)
{
    struct net net;
    net_open(&net, reactor_open_with(options));
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
        echo_many(&options, 200, 10000, 10);
    }
}

Test(reactor_net, starved_connections_all_come_through)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++) {
        struct reactor_options options = options_default(feature_sets[i]);
        options.recv_buffer_count = 4;
        options.recv_buffer_bytes = 512;
        echo_many(&options, 500, 2000, 4);
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

/* ---- sleep and wake ------------------------------------------------------------------------- */

Test(reactor_wake, sleep_ends_at_the_deadline)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++) {
        struct reactor *reactor = reactor_open_default(feature_sets[i]);
        reactor_poll(reactor, false, 0);
        uint64_t start_ns = reactor_clock_ns(reactor);
        reactor_poll(reactor, true, start_ns + 20 * NS_PER_MS);
        uint64_t slept_ns = reactor_clock_ns(reactor) - start_ns;
        cr_assert(slept_ns >= 20 * NS_PER_MS && slept_ns < 2 * NS_PER_S, "%llu",
                  (unsigned long long)slept_ns);
        cr_assert_geq(reactor_now_ns(reactor), start_ns + 20 * NS_PER_MS);
        reactor_poll(reactor, true, start_ns); /* a deadline in the past does not sleep */
        reactor_destroy(reactor);
    }
}

Test(reactor_wake, polling_without_sleep_sees_completions)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++) {
        struct reactor *reactor = reactor_open_default(feature_sets[i]);
        struct waited_op waited = waited_make();
        reactor_unlink(reactor, &waited.op, "/nonexistent"); /* ends on a worker thread, later */
        uint64_t deadline_ns = reactor_clock_ns(reactor) + WAIT_NS_MAX;
        while (!waited.done) {
            cr_assert_lt(reactor_clock_ns(reactor), deadline_ns, "[%s]", feature_sets[i]);
            reactor_poll(reactor, false, 0);
        }
        cr_assert_eq(waited.result, -ENOENT);
        reactor_destroy(reactor);
    }
}

#define HOPS 3000u

struct pair_shared {
    struct reactor *reactors[2];
    const char *disable;
    pthread_barrier_t barrier;
    _Atomic uint32_t ball; /* hop number; whose turn = parity */
    _Atomic uint32_t sleeping[2];
    _Atomic uint64_t wait_ns_max;
};

struct pair_side {
    struct pair_shared *shared;
    uint32_t core;
};

static void *pair_main(void *argument)
{
    struct pair_side *side = argument;
    struct pair_shared *shared = side->shared;
    uint32_t me = side->core, other = 1 - me;
    struct reactor_options options = options_default(shared->disable);
    options.core = me;
    options.core_count = 2;
    struct reactor *reactor = reactor_open_with(&options);
    shared->reactors[me] = reactor;
    pthread_barrier_wait(&shared->barrier);
    reactor_link(reactor, shared->reactors, 2);
    pthread_barrier_wait(&shared->barrier);
    uint32_t hop;
    while ((hop = atomic_load(&shared->ball)) < HOPS) {
        if (hop % 2 == me) {
            atomic_store(&shared->ball, hop + 1);
            if (atomic_exchange(&shared->sleeping[other], 0) != 0)
                reactor_wake(reactor, other);
            reactor_poll(reactor, false, 0);
            continue;
        }
        atomic_store(&shared->sleeping[me], 1);
        if (atomic_load(&shared->ball) == hop) {
            uint64_t start_ns = reactor_clock_ns(reactor);
            reactor_poll(reactor, true, start_ns + 5 * NS_PER_S);
            uint64_t waited_ns = reactor_clock_ns(reactor) - start_ns;
            if (waited_ns > atomic_load(&shared->wait_ns_max))
                atomic_store(&shared->wait_ns_max, waited_ns);
        }
        atomic_store(&shared->sleeping[me], 0);
    }
    pthread_barrier_wait(&shared->barrier);
    reactor_poll(reactor, false, 0);
    pthread_barrier_wait(&shared->barrier);
    reactor_destroy(reactor);
    return NULL;
}

static void ping_pong(const char *disable)
{
    struct pair_shared shared = {.disable = disable};
    pthread_barrier_init(&shared.barrier, NULL, 2);
    pthread_t threads[2];
    struct pair_side sides[2] = {{&shared, 0}, {&shared, 1}};
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, pair_main, &sides[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(atomic_load(&shared.ball), HOPS);
    cr_assert_lt(atomic_load(&shared.wait_ns_max), 2 * NS_PER_S, "no wake-up is lost [%s]",
                 disable);
    pthread_barrier_destroy(&shared.barrier);
}

Test(reactor_wake, no_wake_is_lost_between_threads)
{
    ping_pong("");
    ping_pong("msg_ring");
    ping_pong("defer_taskrun");
}

static void *interrupt_main(void *argument)
{
    usleep(20000);
    reactor_interrupt(argument);
    return NULL;
}

Test(reactor_wake, any_thread_interrupts_a_sleep)
{
    struct reactor *reactor = reactor_open_default("");
    for (int round = 0; round < 3; round++) {
        pthread_t thread;
        reactor_poll(reactor, false, 0);
        uint64_t start_ns = reactor_clock_ns(reactor);
        cr_assert_eq(pthread_create(&thread, NULL, interrupt_main, reactor), 0);
        reactor_poll(reactor, true, start_ns + 10 * NS_PER_S);
        cr_assert_lt(reactor_clock_ns(reactor) - start_ns, 5 * NS_PER_S);
        pthread_join(thread, NULL);
    }
    reactor_destroy(reactor);
}

Test(reactor_wake, process_stats_are_plausible)
{
    struct reactor *reactor = reactor_open_default("");
    struct reactor_process_stats stats;
    reactor_process_stats(reactor, &stats);
    cr_assert(stats.resident_bytes > 0 && stats.virtual_bytes > stats.resident_bytes);
    cr_assert(stats.open_files > 3 && stats.open_files < stats.open_files_max);
    int64_t age_ns = reactor_wall_ns(reactor) - stats.start_wall_ns;
    cr_assert(age_ns > -(int64_t)NS_PER_S && age_ns < 600 * (int64_t)NS_PER_S);
    reactor_destroy(reactor);
}

/* ---- what an operator reads when io_uring is not to be had ---------------------------------- */

/* From here on io_uring_setup fails with `error` in this process, as a sandbox would have it. */
static void block_uring(uint32_t error)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {ARRAY_COUNT(program), program};
    cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
}

static void refusal_names(uint32_t error, const char *first, const char *second)
{
    struct reactor_options options = options_default("");
    struct reactor *reactor;
    char reason[512] = "";
    block_uring(error);
    cr_assert_eq(reactor_create(&options, &reactor, reason, sizeof(reason)), -(int)error);
    cr_assert_not_null(strstr(reason, first), "%s", reason);
    cr_assert_not_null(strstr(reason, second), "%s", reason);
}

Test(reactor_refusal, blocked_by_a_sandbox)
{
    refusal_names(EPERM, "kernel.io_uring_disabled=", "seccomp profile");
}

Test(reactor_refusal, unknown_to_the_kernel)
{
    refusal_names(ENOSYS, "no io_uring", "Linux >= 6.1 is required, found ");
}

/* ---- the table both backends share ---------------------------------------------------------- */

static void conformance(const char *disable)
{
    struct mesh *mesh;
    struct core *core;
    char reason[256] = "";
    struct core_options options = {.reactor = options_default(disable), .fibers_max = 16};
    cr_assert_eq(mesh_create(1, 64, &mesh), 0);
    cr_assert_eq(core_create(&options, mesh, &core, reason, sizeof(reason)), 0, "%s", reason);
    core_set_current(core);
    struct reactor_conformance run = {.directory = directory, .host = "127.0.0.1"};
    cr_assert_eq(reactor_conformance_start(core, &run), 0);
    uint64_t deadline_ns = reactor_clock_ns(core_reactor(core)) + WAIT_NS_MAX;
    while (!run.finished) {
        cr_assert_lt(reactor_clock_ns(core_reactor(core)), deadline_ns, "stalled after case %u",
                     run.cases_run);
        core_turn(core, true);
    }
    cr_assert_eq(run.failures, 0, "[%s] %s", disable, run.first_failure);
    core_set_current(NULL);
    core_destroy(core);
    mesh_destroy(mesh);
}

Test(reactor_files, conforms)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++)
        conformance(feature_sets[i]);
}
