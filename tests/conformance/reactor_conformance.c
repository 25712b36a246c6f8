#include "tests/conformance/reactor_conformance.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/buffer.h"
#include "core/core.h"
#include "core/err.h"
#include "core/fiber.h"
#include "core/reactor.h"

/* The state of one run that the cases share. */
struct run {
    struct reactor_conformance *conformance;
    struct reactor *reactor;
    const char *case_name;
    char path[4][192];
    uint32_t path_turn;
};

static void failed(struct run *run, const char *expression, int line)
{
    struct reactor_conformance *conformance = run->conformance;
    if (conformance->failures++ == 0)
        snprintf(conformance->first_failure, sizeof(conformance->first_failure), "%s: %s (line %d)",
                 run->case_name, expression, line);
}

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            failed(run, #condition, __LINE__);                                                     \
            return;                                                                                \
        }                                                                                          \
    } while (0)

/* A path in the directory; valid until the fourth call after. */
static const char *path_of(struct run *run, const char *name)
{
    char *path = run->path[run->path_turn++ % ARRAY_COUNT(run->path)];
    snprintf(path, sizeof(run->path[0]), "%s/%s", run->conformance->directory, name);
    return path;
}

#define FLAGS_NEW (IO_OPEN_READ | IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_EXCLUSIVE)

static bool file_write_text(struct run *run, const char *name, const char *text)
{
    struct io_file file;
    if (await_open(path_of(run, name), IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE, &file) !=
        0)
        return false;
    int32_t bytes = (int32_t)strlen(text);
    struct io_span span = {(void *)(uintptr_t)text, 0, (uint32_t)bytes};
    bool written = await_write(file, span, 0) == bytes;
    return await_close(&file) == 0 && written;
}

static bool file_has_text(struct run *run, const char *name, const char *text)
{
    struct io_file file;
    char content[64] = "";
    if (await_open(path_of(run, name), IO_OPEN_READ, &file) != 0)
        return false;
    int32_t got = await_read(file, (struct io_span){content, 0, sizeof(content) - 1});
    return await_close(&file) == 0 && got == (int32_t)strlen(text) && strcmp(content, text) == 0;
}

/* ---- files ---------------------------------------------------------------------------------- */

static void case_open_errors(struct run *run)
{
    struct io_file file;
    EXPECT(await_open(path_of(run, "missing"), IO_OPEN_READ, &file) == -ENOENT);
    EXPECT(file.fd == -1);
    EXPECT(await_open(path_of(run, "missing/file"), FLAGS_NEW, &file) == -ENOENT);
    EXPECT(await_open(path_of(run, "a"), FLAGS_NEW, &file) == 0);
    EXPECT(await_close(&file) == 0);
    EXPECT(await_open(path_of(run, "a"), FLAGS_NEW, &file) == -EEXIST);
    EXPECT(await_open(path_of(run, "a/b"), IO_OPEN_READ, &file) == -ENOTDIR);
    EXPECT(await_open(run->conformance->directory, IO_OPEN_WRITE, &file) == -EISDIR);
    EXPECT(await_unlink(path_of(run, "a")) == 0);
    EXPECT(await_unlink(path_of(run, "a")) == -ENOENT);
}

static void case_truncate_flag(struct run *run)
{
    EXPECT(file_write_text(run, "a", "long content"));
    EXPECT(file_write_text(run, "a", "short"));
    EXPECT(file_has_text(run, "a", "short"));
    EXPECT(await_unlink(path_of(run, "a")) == 0);
}

static void case_read_ends_at_end_of_file(struct run *run)
{
    struct io_file file;
    char bytes[16] = "";
    EXPECT(await_open(path_of(run, "a"), FLAGS_NEW, &file) == 0);
    EXPECT(await_read(file, (struct io_span){bytes, 0, 4}) == 0);
    EXPECT(await_write(file, (struct io_span){"0123456789", 0, 10}, 0) == 10);
    EXPECT(await_read(file, (struct io_span){bytes, 8, 8}) == 2);
    EXPECT(bytes[0] == '8' && bytes[1] == '9' && bytes[2] == 0);
    EXPECT(await_read(file, (struct io_span){bytes, 100, 8}) == 0);
    EXPECT(await_close(&file) == 0);
    EXPECT(await_unlink(path_of(run, "a")) == 0);
}

static void case_holes_read_as_zeros(struct run *run)
{
    struct io_file file;
    struct io_stat stat;
    char bytes[8];
    EXPECT(await_open(path_of(run, "a"), FLAGS_NEW, &file) == 0);
    EXPECT(await_write(file, (struct io_span){"x", 100000, 1}, 0) == 1);
    EXPECT(await_stat(path_of(run, "a"), &stat) == 0);
    EXPECT(stat.bytes == 100001 && !stat.is_directory);
    memset(bytes, 1, sizeof(bytes));
    EXPECT(await_read(file, (struct io_span){bytes, 50000, 8}) == 8);
    for (int i = 0; i < 8; i++)
        EXPECT(bytes[i] == 0);
    EXPECT(await_close(&file) == 0);
    EXPECT(await_unlink(path_of(run, "a")) == 0);
}

static void case_sizes(struct run *run)
{
    struct io_file file;
    struct io_stat stat;
    char bytes[8] = "";
    EXPECT(await_open(path_of(run, "a"), FLAGS_NEW, &file) == 0);
    EXPECT(await_allocate(file, 0, 65536) == 0);
    EXPECT(await_stat(path_of(run, "a"), &stat) == 0);
    EXPECT(stat.bytes == 65536 && stat.bytes_allocated >= 65536);
    EXPECT(await_write(file, (struct io_span){"abcdefgh", 0, 8}, IO_WRITE_DURABLE) == 8);
    EXPECT(await_truncate(file, 4) == 0);
    EXPECT(await_truncate(file, 8) == 0);
    EXPECT(await_read(file, (struct io_span){bytes, 0, 8}) == 8);
    EXPECT(memcmp(bytes, "abcd\0\0\0\0", 8) == 0); /* what a cut took is gone */
    EXPECT(await_sync(file) == 0);
    EXPECT(await_close(&file) == 0);
    EXPECT(await_unlink(path_of(run, "a")) == 0);
    EXPECT(await_stat(path_of(run, "a"), &stat) == -ENOENT);
}

static void case_direct(struct run *run)
{
    struct buffer_pool *pool = reactor_buffers(run->reactor);
    uint8_t *buffer = buffer_acquire(pool, 3 * IO_ALIGN_BYTES);
    EXPECT(buffer != NULL);
    struct io_file file;
    EXPECT(await_open(path_of(run, "a"), FLAGS_NEW | IO_OPEN_DIRECT, &file) == 0);
    memset(buffer, 7, 2 * IO_ALIGN_BYTES);
    struct io_span span = {buffer, IO_ALIGN_BYTES, 2 * IO_ALIGN_BYTES};
    EXPECT(await_write(file, span, IO_WRITE_DURABLE) == (int32_t)span.bytes);
    memset(buffer, 1, 3 * IO_ALIGN_BYTES);
    span = (struct io_span){buffer, 0, 3 * IO_ALIGN_BYTES};
    EXPECT(await_read(file, span) == (int32_t)span.bytes);
    EXPECT(buffer[0] == 0 && buffer[IO_ALIGN_BYTES] == 7 && buffer[3 * IO_ALIGN_BYTES - 1] == 7);
    span.offset = 1;
    EXPECT(await_write(file, span, 0) == -EINVAL); /* offset off the grid */
    span = (struct io_span){buffer, 0, 100};
    EXPECT(await_write(file, span, 0) == -EINVAL); /* length off the grid */
    EXPECT(await_close(&file) == 0);
    EXPECT(await_unlink(path_of(run, "a")) == 0);
    buffer_release(pool, buffer);
}

static void case_modes_are_kept(struct run *run)
{
    struct io_file file;
    char byte = 'x';
    EXPECT(file_write_text(run, "a", "text"));
    EXPECT(await_open(path_of(run, "a"), IO_OPEN_READ, &file) == 0);
    EXPECT(await_write(file, (struct io_span){&byte, 0, 1}, 0) == -EBADF);
    EXPECT(await_close(&file) == 0);
    EXPECT(await_open(path_of(run, "a"), IO_OPEN_WRITE, &file) == 0);
    EXPECT(await_read(file, (struct io_span){&byte, 0, 1}) == -EBADF);
    EXPECT(await_close(&file) == 0);
    EXPECT(file_has_text(run, "a", "text"));
    EXPECT(await_unlink(path_of(run, "a")) == 0);
}

static void case_rename_replaces(struct run *run)
{
    EXPECT(file_write_text(run, "new", "new"));
    EXPECT(file_write_text(run, "old", "old"));
    EXPECT(await_rename(path_of(run, "new"), path_of(run, "old")) == 0);
    EXPECT(file_has_text(run, "old", "new"));
    EXPECT(await_rename(path_of(run, "new"), path_of(run, "old")) == -ENOENT);
    EXPECT(await_unlink(path_of(run, "old")) == 0);
}

static void case_hard_links(struct run *run)
{
    EXPECT(file_write_text(run, "a", "shared"));
    EXPECT(await_hard_link(path_of(run, "a"), path_of(run, "b")) == 0);
    EXPECT(await_hard_link(path_of(run, "a"), path_of(run, "b")) == -EEXIST);
    EXPECT(await_hard_link(path_of(run, "none"), path_of(run, "c")) == -ENOENT);
    EXPECT(await_unlink(path_of(run, "a")) == 0);
    EXPECT(file_has_text(run, "b", "shared"));
    EXPECT(await_unlink(path_of(run, "b")) == 0);
}

static void case_unlinked_file_stays_readable(struct run *run)
{
    struct io_file file;
    char bytes[8] = "";
    EXPECT(file_write_text(run, "a", "still"));
    EXPECT(await_open(path_of(run, "a"), IO_OPEN_READ, &file) == 0);
    EXPECT(await_unlink(path_of(run, "a")) == 0);
    EXPECT(await_read(file, (struct io_span){bytes, 0, 8}) == 5);
    EXPECT(strcmp(bytes, "still") == 0);
    EXPECT(await_close(&file) == 0);
}

#define NAMES_BYTES 64

static void list_append(void *context, const char *name)
{
    char *names = context; /* NAMES_BYTES of room */
    size_t used = strlen(names);
    snprintf(names + used, NAMES_BYTES - used, "%s ", name);
}

static void case_directories(struct run *run)
{
    struct io_stat stat;
    char names[NAMES_BYTES] = "";
    EXPECT(await_make_directory(path_of(run, "d")) == 0);
    EXPECT(await_make_directory(path_of(run, "d")) == 0); /* await_: exists is fine */
    EXPECT(await_stat(path_of(run, "d"), &stat) == 0 && stat.is_directory);
    EXPECT(file_write_text(run, "d/b", ""));
    EXPECT(file_write_text(run, "d/a", ""));
    EXPECT(file_write_text(run, "d/B", ""));
    EXPECT(reactor_list(run->reactor, path_of(run, "d"), list_append, names) == 0);
    EXPECT(strcmp(names, "B a b ") == 0);
    EXPECT(await_remove_directory(path_of(run, "d")) == -ENOTEMPTY);
    EXPECT(await_sync_directory(path_of(run, "d")) == 0);
    EXPECT(await_unlink(path_of(run, "d")) == -EISDIR);
    EXPECT(await_unlink(path_of(run, "d/a")) == 0);
    EXPECT(await_unlink(path_of(run, "d/b")) == 0);
    EXPECT(await_unlink(path_of(run, "d/B")) == 0);
    EXPECT(await_remove_directory(path_of(run, "d")) == 0);
    EXPECT(await_remove_directory(path_of(run, "d")) == -ENOENT);
    EXPECT(await_sync_directory(path_of(run, "d")) == -ENOENT);
    EXPECT(reactor_list(run->reactor, path_of(run, "d"), list_append, names) == -ENOENT);
}

static void case_disk_space(struct run *run)
{
    uint64_t free_bytes = 0, total_bytes = 0;
    EXPECT(reactor_disk_space(run->reactor, run->conformance->directory, &free_bytes,
                              &total_bytes) == 0);
    EXPECT(total_bytes > 0 && free_bytes <= total_bytes);
}

/* ---- operations ----------------------------------------------------------------------------- */

struct counted_op {
    struct io_op op;
    struct fiber_event *event;
    uint32_t completions;
    int32_t result;
};

static void counted_done(struct io_op *op, int32_t result)
{
    struct counted_op *counted = container_of(op, struct counted_op, op);
    counted->completions++;
    counted->result = result;
    fiber_event_signal(counted->event);
}

#define MANY 700 /* more than a submission queue holds */

static void case_ops_complete_once_and_later(struct run *run)
{
    static const char text[] = "x";
    struct io_file file;
    struct fiber_event event;
    fiber_event_init(&event);
    EXPECT(await_open(path_of(run, "a"), FLAGS_NEW, &file) == 0);
    struct counted_op *ops = calloc(MANY, sizeof(ops[0]));
    uint32_t pending = reactor_ops_pending(run->reactor);
    bool ran_inside = false;
    for (uint32_t i = 0; i < MANY; i++) {
        io_op_init(&ops[i].op, counted_done);
        ops[i].event = &event;
        struct io_span span = {(void *)(uintptr_t)text, i, 1};
        reactor_write(run->reactor, &ops[i].op, file, span, 0);
        ran_inside = ran_inside || ops[i].completions != 0;
    }
    bool counted = reactor_ops_pending(run->reactor) == pending + MANY;
    while (reactor_ops_pending(run->reactor) > pending)
        fiber_event_wait(&event);
    uint32_t right = 0;
    for (uint32_t i = 0; i < MANY; i++)
        right += ops[i].completions == 1 && ops[i].result == 1;
    free(ops);
    EXPECT(!ran_inside && counted);
    EXPECT(right == MANY);
    struct io_stat stat;
    EXPECT(await_stat(path_of(run, "a"), &stat) == 0 && stat.bytes == MANY);
    EXPECT(await_close(&file) == 0);
    EXPECT(await_unlink(path_of(run, "a")) == 0);
}

/* ---- time ----------------------------------------------------------------------------------- */

static void case_time(struct run *run)
{
    uint64_t start_ns = reactor_now_ns(run->reactor);
    EXPECT(start_ns > 0);
    EXPECT(reactor_clock_ns(run->reactor) >= start_ns);
    EXPECT(reactor_now_ns(run->reactor) == start_ns); /* constant within a turn */
    fiber_sleep_until(start_ns + 3 * NS_PER_MS);
    EXPECT(reactor_now_ns(run->reactor) >= start_ns + 3 * NS_PER_MS);
    fiber_sleep_until(start_ns); /* the past: at once, but later than this call */
    EXPECT(reactor_wall_ns(run->reactor) > 0);
    EXPECT(reactor_random(run->reactor) != reactor_random(run->reactor));
}

/* ---- sockets -------------------------------------------------------------------------------- */

#define STREAM_BYTES_MAX (256 * 1024)

struct stream {
    struct io_socket socket;
    struct io_connect connect;
    struct io_op send_op;
    struct fiber_event event;
    int32_t connect_result, send_result;
    bool connect_done, send_done, closed;
    bool spoke_after_close;
    int32_t ended; /* 1: the peer's end; < 0: error */
    uint32_t got_bytes;
    uint8_t got[STREAM_BYTES_MAX];
};

struct server {
    struct io_listener listener;
    struct fiber_event event;
    struct run *run;
    int32_t fd; /* the connection accepted last; -1 when taken */
    bool closed;
};

static void stream_received(struct io_socket *socket, const uint8_t *bytes, int32_t count)
{
    struct stream *stream = container_of(socket, struct stream, socket);
    stream->spoke_after_close |= socket->closing;
    if (count > 0 && stream->got_bytes + (uint32_t)count <= STREAM_BYTES_MAX) {
        memcpy(stream->got + stream->got_bytes, bytes, (size_t)count);
        stream->got_bytes += (uint32_t)count;
    } else {
        stream->ended = count == 0 ? 1 : count;
    }
    fiber_event_signal(&stream->event);
}

static void stream_closed(struct io_socket *socket)
{
    struct stream *stream = container_of(socket, struct stream, socket);
    stream->closed = true;
    fiber_event_signal(&stream->event);
}

static void stream_sent(struct io_op *op, int32_t result)
{
    struct stream *stream = container_of(op, struct stream, send_op);
    stream->send_result = result;
    stream->send_done = true;
    fiber_event_signal(&stream->event);
}

static void stream_connected(struct io_op *op, int32_t result)
{
    struct stream *stream =
        container_of(container_of(op, struct io_connect, op), struct stream, connect);
    stream->connect_result = result;
    stream->connect_done = true;
    fiber_event_signal(&stream->event);
}

static struct stream *stream_make(void)
{
    struct stream *stream = calloc(1, sizeof(*stream));
    stream->socket.received = stream_received;
    stream->socket.closed = stream_closed;
    io_op_init(&stream->send_op, stream_sent);
    io_op_init(&stream->connect.op, stream_connected);
    fiber_event_init(&stream->event);
    return stream;
}

static int32_t stream_connect(struct run *run, struct stream *stream, uint16_t port)
{
    int error =
        reactor_resolve(run->reactor, run->conformance->host, port, &stream->connect.address);
    if (error != 0)
        return error;
    reactor_connect(run->reactor, &stream->connect);
    while (!stream->connect_done)
        fiber_event_wait(&stream->event);
    if (stream->connect_result >= 0)
        io_socket_attach(run->reactor, &stream->socket, stream->connect_result);
    return stream->connect_result;
}

/* All of it, however short the single sends are; false on an error. */
static bool stream_send(struct stream *stream, const uint8_t *bytes, uint32_t count)
{
    uint32_t sent = 0;
    while (sent < count) {
        struct iovec iov[2];
        uint32_t left = count - sent, half = left / 2;
        iov[0] = (struct iovec){(void *)(uintptr_t)(bytes + sent), half};
        iov[1] = (struct iovec){(void *)(uintptr_t)(bytes + sent + half), left - half};
        stream->send_done = false;
        io_socket_send(&stream->socket, &stream->send_op, half > 0 ? iov : iov + 1,
                       half > 0 ? 2 : 1);
        while (!stream->send_done)
            fiber_event_wait(&stream->event);
        if (stream->send_result <= 0)
            return false;
        sent += (uint32_t)stream->send_result;
    }
    return true;
}

static void stream_wait_bytes(struct stream *stream, uint32_t count)
{
    while (stream->got_bytes < count && stream->ended == 0)
        fiber_event_wait(&stream->event);
}

static void stream_wait_end(struct stream *stream)
{
    while (stream->ended == 0)
        fiber_event_wait(&stream->event);
}

static void stream_drop(struct stream *stream)
{
    if (!stream->socket.closing)
        io_socket_close(&stream->socket);
    while (!stream->closed)
        fiber_event_wait(&stream->event);
    free(stream);
}

static void server_accepted(struct io_listener *listener, int32_t fd, const struct io_address *peer)
{
    struct server *server = container_of(listener, struct server, listener);
    if (fd >= 0 && server->fd >= 0) {
        reactor_discard_descriptor(server->run->reactor, fd);
        return;
    }
    if (fd >= 0 && peer->text[0] != '\0')
        server->fd = fd;
    fiber_event_signal(&server->event);
}

static void server_closed(struct io_listener *listener)
{
    struct server *server = container_of(listener, struct server, listener);
    server->closed = true;
    fiber_event_signal(&server->event);
}

static int server_open(struct run *run, struct server *server, uint16_t port)
{
    memset(server, 0, sizeof(*server));
    server->run = run;
    server->fd = -1;
    server->listener.accepted = server_accepted;
    server->listener.closed = server_closed;
    fiber_event_init(&server->event);
    struct io_address address;
    int error = reactor_resolve(run->reactor, run->conformance->host, port, &address);
    return error != 0 ? error : reactor_listen(run->reactor, &server->listener, &address);
}

static struct stream *server_take(struct run *run, struct server *server)
{
    while (server->fd < 0)
        fiber_event_wait(&server->event);
    struct stream *stream = stream_make();
    io_socket_attach(run->reactor, &stream->socket, server->fd);
    server->fd = -1;
    return stream;
}

static void server_drop(struct server *server)
{
    reactor_listener_close(server->run->reactor, &server->listener);
    while (!server->closed)
        fiber_event_wait(&server->event);
}

static void case_listen_and_connect_errors(struct run *run)
{
    struct server server, second;
    EXPECT(server_open(run, &server, 0) == 0);
    uint16_t port = server.listener.port;
    EXPECT(port != 0);
    EXPECT(server_open(run, &second, port) == -EADDRINUSE);
    server_drop(&server);
    struct stream *stream = stream_make();
    int32_t result = stream_connect(run, stream, port);
    free(stream);
    EXPECT(result == -ECONNREFUSED);
    EXPECT(server_open(run, &server, port) == 0); /* the port is free again */
    server_drop(&server);
}

struct pair {
    struct server server;
    struct stream *near, *far;
    uint8_t *message;
};

/* A connected pair and a message of STREAM_BYTES_MAX random bytes. */
static bool pair_open(struct run *run, struct pair *pair)
{
    if (server_open(run, &pair->server, 0) != 0)
        return false;
    pair->near = stream_make();
    if (stream_connect(run, pair->near, pair->server.listener.port) < 0)
        return false;
    pair->far = server_take(run, &pair->server);
    pair->message = malloc(STREAM_BYTES_MAX);
    for (uint32_t i = 0; i < STREAM_BYTES_MAX; i++)
        pair->message[i] = (uint8_t)reactor_random(run->reactor);
    return true;
}

static void pair_close(struct pair *pair)
{
    stream_drop(pair->near);
    stream_drop(pair->far);
    server_drop(&pair->server);
    free(pair->message);
}

static void case_bytes_arrive_whole_and_in_order(struct run *run)
{
    struct pair pair;
    EXPECT(pair_open(run, &pair));
    io_socket_receive(&pair.near->socket);
    io_socket_receive(&pair.far->socket);
    for (uint32_t done = 0, step; done < STREAM_BYTES_MAX; done += step) {
        step = 1 + (uint32_t)(reactor_random(run->reactor) % 60000);
        if (step > STREAM_BYTES_MAX - done)
            step = STREAM_BYTES_MAX - done;
        EXPECT(stream_send(pair.near, pair.message + done, step));
        stream_wait_bytes(pair.far, done + step);
        EXPECT(stream_send(pair.far, pair.far->got + done, step));
        stream_wait_bytes(pair.near, done + step);
    }
    EXPECT(pair.near->got_bytes == STREAM_BYTES_MAX && pair.far->got_bytes == STREAM_BYTES_MAX);
    EXPECT(memcmp(pair.near->got, pair.message, STREAM_BYTES_MAX) == 0);
    pair_close(&pair);
}

static void case_close_follows_the_bytes(struct run *run)
{
    struct pair pair;
    EXPECT(pair_open(run, &pair));
    EXPECT(stream_send(pair.near, pair.message, 5000));
    io_socket_close(&pair.near->socket);
    io_socket_receive(&pair.far->socket); /* only now: what came before the end still arrives */
    stream_wait_end(pair.far);
    EXPECT(pair.far->ended == 1 && pair.far->got_bytes == 5000);
    EXPECT(memcmp(pair.far->got, pair.message, 5000) == 0);
    pair_close(&pair);
}

static void case_send_to_a_closed_peer_fails(struct run *run)
{
    struct pair pair;
    EXPECT(pair_open(run, &pair));
    io_socket_close(&pair.far->socket);
    while (!pair.far->closed)
        fiber_event_wait(&pair.far->event);
    bool failed_at_last = false;
    for (int i = 0; i < 100 && !failed_at_last; i++) { /* the first may still be taken */
        failed_at_last = !stream_send(pair.near, pair.message, 1000);
        fiber_sleep_until(reactor_now_ns(run->reactor) + NS_PER_MS);
    }
    EXPECT(failed_at_last);
    EXPECT(pair.near->send_result == -EPIPE || pair.near->send_result == -ECONNRESET);
    pair_close(&pair);
}

static void case_stopped_receive_resumes(struct run *run)
{
    struct pair pair;
    EXPECT(pair_open(run, &pair));
    io_socket_receive(&pair.far->socket);
    EXPECT(stream_send(pair.near, pair.message, 1000));
    stream_wait_bytes(pair.far, 1000);
    io_socket_receive_stop(&pair.far->socket);
    fiber_sleep_until(reactor_now_ns(run->reactor) + 5 * NS_PER_MS);
    EXPECT(stream_send(pair.near, pair.message + 1000, 3000));
    fiber_sleep_until(reactor_now_ns(run->reactor) + 5 * NS_PER_MS);
    EXPECT(pair.far->got_bytes == 1000);
    io_socket_receive(&pair.far->socket);
    io_socket_receive_stop(&pair.far->socket);
    io_socket_receive(&pair.far->socket); /* the last word counts */
    stream_wait_bytes(pair.far, 4000);
    EXPECT(memcmp(pair.far->got, pair.message, 4000) == 0);
    pair_close(&pair);
}

static void case_close_ends_a_stuck_send(struct run *run)
{
    struct pair pair;
    EXPECT(pair_open(run, &pair));
    io_socket_receive(&pair.near->socket);
    struct iovec iov[64]; /* 16 MiB to a peer that never reads */
    for (size_t i = 0; i < ARRAY_COUNT(iov); i++)
        iov[i] = (struct iovec){pair.message, STREAM_BYTES_MAX};
    pair.near->send_done = false;
    io_socket_send(&pair.near->socket, &pair.near->send_op, iov, ARRAY_COUNT(iov));
    fiber_sleep_until(reactor_now_ns(run->reactor) + 5 * NS_PER_MS);
    bool was_stuck = !pair.near->send_done;
    io_socket_close(&pair.near->socket);
    EXPECT(!pair.near->closed);
    while (!pair.near->closed)
        fiber_event_wait(&pair.near->event);
    EXPECT(pair.near->send_done); /* before `closed` */
    EXPECT(!was_stuck || pair.near->send_result < (int32_t)(64 * STREAM_BYTES_MAX));
    EXPECT(!pair.near->spoke_after_close);
    pair_close(&pair);
}

/* ---- the table ------------------------------------------------------------------------------ */

static const struct {
    const char *why;
    void (*run)(struct run *run);
} cases[] = {
    {"opening tells what is wrong", case_open_errors},
    {"the truncate flag empties a file", case_truncate_flag},
    {"a read is short only at the end of the file", case_read_ends_at_end_of_file},
    {"what was never written reads as zeros", case_holes_read_as_zeros},
    {"allocate and truncate set the size", case_sizes},
    {"direct I/O works on the grid and refuses off it", case_direct},
    {"a descriptor does what it was opened for", case_modes_are_kept},
    {"rename replaces its target", case_rename_replaces},
    {"hard links share their content", case_hard_links},
    {"an open file outlives its name", case_unlinked_file_stays_readable},
    {"directories list in byte order and go when empty", case_directories},
    {"disk space is plausible", case_disk_space},
    {"an op completes once, never inside the call", case_ops_complete_once_and_later},
    {"time stands still within a turn and timers are never early", case_time},
    {"taken ports and absent listeners are told", case_listen_and_connect_errors},
    {"a stream keeps bytes and order both ways", case_bytes_arrive_whole_and_in_order},
    {"a close comes after the bytes sent before it", case_close_follows_the_bytes},
    {"a send to a closed peer fails", case_send_to_a_closed_peer_fails},
    {"a stopped receive resumes without loss", case_stopped_receive_resumes},
    {"close ends what is in flight", case_close_ends_a_stuck_send},
};

static void conformance_main(void *argument)
{
    struct reactor_conformance *conformance = argument;
    struct run run = {
        .conformance = conformance,
        .reactor = core_reactor(core_current()),
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        run.case_name = cases[i].why;
        cases[i].run(&run);
        conformance->cases_run++;
        if (conformance->failures > 0)
            break; /* a failed case leaves its files and sockets behind */
    }
    conformance->finished = true;
}

int reactor_conformance_start(struct core *core, struct reactor_conformance *conformance)
{
    conformance->cases_run = conformance->failures = 0;
    conformance->first_failure[0] = '\0';
    conformance->finished = false;
    return fiber_spawn(core, FIBER_LATENCY, conformance_main, conformance);
}
