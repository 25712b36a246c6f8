/*
 * rpc_internal.h - what the files of the RPC server share: the server of one core, its connections,
 * and the two seams inside net/: protocol (HTTP/2, native, HTTP/1) and byte transport (a socket, or
 * nothing at all in tests and fuzzers).
 *
 * Story     A connection is bytes in (connection_input), bytes out (connection_flush fills `out`).
 *           net/rpc_server.c drives it from a socket; a test drives it by hand, with a detached
 *           server, and reads `out`. Until the first bytes tell the protocol a connection is this
 *           struct alone.
 * Owner     The server's core.
 *
 * Invariants of a connection
 * C1  a call on `calls` has ops != NULL and connection == this one; a call elsewhere has neither.
 * C2  call_count is the length of `calls`.
 * C3  after `closed` no protocol code runs and no call is attached.
 * C4  partial_bytes <= partial_max, and server->partial_bytes counts every partial_max.
 * C5  built_bytes is the sum over `calls`, and server->built_bytes that over its connections.
 */
#ifndef NET_RPC_INTERNAL_H
#define NET_RPC_INTERNAL_H

#include "core/queue.h"
#include "core/timer.h"
#include "net/outbuf.h"
#include "net/rpc.h"

struct grpc_stream;

#define RPC_OUTPUT_BYTES_HIGH  ((uint64_t)(256 * 1024)) /* sources stop being asked above */
#define RPC_PATH_SLOTS         512                      /* power of two, >= 4 * RPC_METHODS_MAX */
#define RPC_CALLS_FREE_MAX     4096                     /* kept for reuse */
#define CONNECTION_IOVECS      8
#define CONNECTION_FIRST_BYTES 24 /* the HTTP/2 preface: enough to recognise anything */
#define PARTIAL_PROGRESS_BYTES                                                                     \
    16384 /* what a slow request must bring per partial_timeout, and a
                                        slow reader take per stalled_timeout */

enum rpc_call_state {
    RPC_CALL_FREE,
    RPC_CALL_OPEN,   /* the handler owes its completion */
    RPC_CALL_SOURCE, /* the transport pulls; the transport releases */
};

struct rpc_transport_ops {
    /* Where a message of up to bytes_max goes; NULL: refused, for streams only. */
    uint8_t *(*message_begin)(struct rpc_call *call, size_t bytes_max);
    /* `last`: status OK follows, and the transport lets go of the call. */
    void (*message_end)(struct rpc_call *call, size_t bytes, bool last);
    void (*source)(struct rpc_call *call); /* pull from now on, or again */
    /* Ends the call with a status (0: OK, for streams) and lets go of it. */
    void (*end)(struct rpc_call *call, int error, enum grpc_status status, const char *text);
    void (*pause)(struct rpc_call *call, bool paused);
    void (*detach)(struct rpc_call *call); /* forget the call; nothing is sent */
};

struct connection_protocol {
    const char *name;
    int (*start)(struct connection *connection);
    /* Negative: the connection ends after what is in `out`. */
    int (*input)(struct connection *connection, const uint8_t *data, size_t bytes);
    void (*flush)(struct connection *connection); /* fill `out` up to RPC_OUTPUT_BYTES_HIGH */
    void (*drain)(struct connection *connection); /* no new calls from now on; say so */
    void (*tick)(struct connection *connection);
    bool (*is_done)(const struct connection *connection); /* drained: nothing left to send */
    void (*stop)(struct connection *connection);          /* calls are gone: free the state */
};

extern const struct connection_protocol connection_native;
extern const struct connection_protocol connection_http2;
extern const struct connection_protocol connection_http1;

/* How a connection reaches its socket; tests supply nothing. */
struct connection_io {
    void (*pause)(struct connection *connection, bool paused);
};

struct connection {
    struct rpc_server *server;
    const struct connection_protocol *protocol; /* NULL until recognised */
    void *state;                                /* the protocol's */
    struct connection *next, *previous;         /* of the server */
    struct queue_link dirty;                    /* has something to flush */
    struct outbuf out;
    struct rpc_call *calls;
    struct rpc_call *walk; /* the next of a walk over `calls` */
    uint32_t call_count;
    uint8_t port;  /* enum rpc_port */
    bool paused;   /* not reading: too many calls or too much output */
    bool ending;   /* close once `out` is sent; input is ignored */
    bool closed;   /* C3 */
    bool draining; /* graceful shutdown */
    bool sending;
    bool abandoned;   /* close without sending the rest */
    bool gone;        /* the socket is closed: freed once off the dirty queue */
    bool held;        /* native: a handler paused its messages; the whole connection waits */
    bool pulling;     /* native: some call has a source that may be asked */
    bool has_refused; /* native: some call waits for `writable` */
    uint8_t *partial; /* native: incomplete frame, or what waits while paused; detection */
    uint32_t partial_bytes, partial_max;
    uint64_t deadline_ns;    /* to finish what was begun; UINT64_MAX: nothing is under way */
    uint64_t deadline_bytes; /* received_bytes when it was set */
    uint64_t received_bytes;
    uint64_t heard_ns;
    uint64_t taken_ns;    /* when the peer last took output, or there was none */
    uint64_t built_bytes; /* C5 */
    uint8_t *token;       /* native connections */
    uint32_t token_bytes;
    struct io_socket socket;
    struct io_op send_op;
    struct iovec iov[CONNECTION_IOVECS];
};

struct rpc_path_slot {
    uint64_t hash;
    uint32_t path_bytes;
    const struct rpc_method *method;
};

struct rpc_server {
    struct core *core; /* NULL: detached */
    const struct connection_io *io;
    struct rpc_server_options options; /* defaults filled in */
    uint64_t now_ns;                   /* refreshed before any input, tick or flush */
    struct rpc_server_stats stats;
    struct rpc_path_slot paths[RPC_PATH_SLOTS];
    const struct rpc_method *natives[RPC_NATIVE_METHODS_MAX];
    struct rpc_call *free_calls;
    uint32_t free_call_count;
    uint32_t calls_live;
    struct grpc_stream *free_streams;
    uint32_t free_stream_count, streams_live;
    void *http2_callbacks, *http2_option; /* nghttp2's, made for the first session */
    struct outbuf_pool chunks;
    struct queue dirty;
    struct connection *connections;
    struct connection *sweep; /* where the next tick goes on */
    struct rpc_call *deadlines, *deadline_walk;
    uint64_t partial_bytes;
    uint64_t request_bytes; /* of calls in flight; see rpc_call_charge() */
    uint64_t built_bytes;   /* of replies; see rpc_reply_built() */
    struct timer tick;
    uint32_t sockets;     /* descriptors owned, those being closed included */
    uint64_t shutdown_ns; /* connections are cut then; 0: not shutting down */
    void (*shutdown_done)(void *context);
    void *shutdown_context;
};

/* ---- server without a socket (net/rpc_call.c, net/connection.c) --------------------------------
 */

must_check int rpc_server_init(struct rpc_server *server, const struct rpc_server_options *options);
void rpc_server_deinit(struct rpc_server *server);      /* no connection is left */
void rpc_server_expire(struct rpc_server *server);      /* deadlines of calls */
void rpc_expire_stalled(struct connection *connection); /* calls whose client takes nothing */

/* ---- calls -------------------------------------------------------------------------------------
 */

const struct rpc_method *rpc_method_by_path(const struct rpc_server *server, struct bytes path);
const struct rpc_method *rpc_method_by_number(const struct rpc_server *server, uint16_t number);

/* A call attached to the connection, not counted as started; NULL when calls_max are live. */
struct rpc_call *rpc_call_acquire(struct connection *connection,
                                  const struct rpc_transport_ops *ops);
void rpc_call_release(struct rpc_call *call); /* detached already */
void rpc_call_start(struct rpc_call *call, const struct rpc_method *method);
static inline void rpc_call_moved(struct rpc_call *call, size_t bytes)
{
    call->moved_bytes += (uint32_t)bytes;
    if (call->moved_bytes < PARTIAL_PROGRESS_BYTES)
        return;
    call->moved_bytes = 0;
    call->moved_ns = call->server->now_ns;
}

/* The request will be kept: false when those in flight have too many bytes already. */
must_check bool rpc_call_charge(struct rpc_call *call, size_t bytes);
void rpc_call_set_deadline(struct rpc_call *call, uint64_t deadline_ns);
void rpc_call_detach(struct rpc_call *call); /* from its connection and transport */

/* The client is gone: detaches, tells the handler, and releases when the transport owned it. */
void rpc_call_cancel(struct rpc_call *call);

static inline void rpc_call_count(struct rpc_call *call, enum grpc_status status)
{
    if (likely(call->method != NULL)) /* else no handler has seen it */
        call->server->stats.handled[call->method->id][status]++;
}

/* ---- connections -------------------------------------------------------------------------------
 */

void connection_init(struct connection *connection, struct rpc_server *server, uint8_t port);
void connection_input(struct connection *connection, const uint8_t *data, size_t bytes);
void connection_flush(struct connection *connection);

/* A walk over the calls; during it any of them may complete. One at a time. */
static inline struct rpc_call *connection_walk_next(struct connection *connection)
{
    struct rpc_call *call = connection->walk;
    if (call != NULL)
        connection->walk = call->next;
    return call;
}
static inline struct rpc_call *connection_walk_begin(struct connection *connection)
{
    connection->walk = connection->calls;
    return connection_walk_next(connection);
}

/* Graceful end: streams are ended with Unavailable, unary calls may complete. */
void connection_drain(struct connection *connection);

/* Cancels the calls and frees the protocol's state. */
void connection_close(struct connection *connection);
void connection_mark_dirty_slow(struct connection *connection);

static inline void connection_mark_dirty(struct connection *connection)
{
    if (connection->dirty.next == QUEUE_LINK_IDLE && !connection->closed)
        connection_mark_dirty_slow(connection);
}

/* Closes as soon as `out` is sent. */
void connection_end(struct connection *connection);
void connection_malformed(struct connection *connection); /* counted, then ended */

/* Something was begun that must be finished in time; or nothing is under way any more. */
void connection_expect(struct connection *connection, uint64_t timeout_ns);
static inline void connection_expect_nothing(struct connection *connection)
{
    connection->deadline_ns = UINT64_MAX;
}

/* Reading stops above the limits and goes on below half of them. */
void connection_update_pause(struct connection *connection);

/* Grows `partial` to hold `bytes_max`; ERR_LIMIT past the server's partial_bytes_max. */
must_check int connection_partial_grow(struct connection *connection, size_t bytes_max);
void connection_partial_drop(struct connection *connection);

void connection_tick(struct connection *connection);

#endif
