/*
 * rpc.h - the seam between transports (gRPC over HTTP/2, native frames, HTTP/1.1) and the services.
 *
 * Story     One struct rpc_server per connection core owns the core's connections and its pool of
 *           calls. A transport recognises a method, fills a call and runs the method's handler
 *           synchronously in the receive path. The handler answers at once, or keeps the call and
 *           answers any time later on the same core. What it answers leaves in one send per
 *           connection and turn.
 * Life      A handler completes each call exactly once, by rpc_reply(), rpc_reply_end(),
 *           rpc_reply_source(), rpc_fail(), rpc_fail_text() or rpc_finish(), whether or not the
 *           client is still there: completing a canceled call sends nothing and gives it back. The
 *           completing call is the last touch; `released` is where to free what hangs on the call.
 * Cancel    When the client cancels, its connection ends or the deadline passes, `canceled` (if
 *           set) runs once and rpc_is_canceled() answers true. It may complete the call right there
 *           or leave that to whoever holds it. With a source installed the transport releases the
 *           call itself, at once, or in the next rpc_resume() when the source is waiting.
 * Owner     The core of the server. Threads: that one only.
 * Units     Sizes in bytes, deadlines in monotonic ns (UINT64_MAX: none).
 * Limits    See struct rpc_server_options. Past them a request is refused with ResourceExhausted or
 *           its socket is not read for a while; nothing grows without a bound.
 * Source    docs/protocol.md; docs/formats/native-frame.md.
 */
#ifndef NET_RPC_H
#define NET_RPC_H

#include "core/arena.h"
#include "core/base.h"
#include "core/err.h"
#include "core/queue.h"
#include "core/reactor.h"

struct core;
struct rpc_server;
struct rpc_call;
struct http_request;
struct connection;

enum rpc_kind {
    RPC_UNARY,
    RPC_SERVER_STREAM, /* one message in, many out */
    RPC_BIDI,          /* many in, many out: the handler runs before the first message */
};

enum rpc_transport { RPC_GRPC, RPC_NATIVE };

/* Which listening port a connection came in by. One for metrics speaks HTTP/1.1 and nothing else:
 * no method can be called there. */
enum rpc_port { RPC_PORT_CLIENT, RPC_PORT_METRICS };

/* One row per method. Rows and paths are static, shared by all cores. */
struct rpc_method {
    const char *path; /* "/etcdserverpb.KV/Put"; NULL: not reachable by gRPC */
    uint16_t native;  /* number in native frames; 0: not reachable by them */
    uint16_t id;      /* the caller's own small number; RPC_METHOD_IDS_MAX at most */
    uint8_t kind;     /* enum rpc_kind */
    void (*handle)(struct rpc_call *call);
    /* Optional. Requests that arrived together and will be handled next, one by one: a hint to
     * fetch what they are about. They may be malformed, and some may never be handled. */
    void (*ahead)(void *service, const struct bytes *requests, uint32_t count);
};

#define RPC_AHEAD_MAX            16 /* requests in one call of `ahead` */
#define RPC_METHODS_MAX          128
#define RPC_METHOD_IDS_MAX       128
#define RPC_NATIVE_METHODS_MAX   256
#define RPC_STATUS_COUNT         17
#define RPC_CALL_USER_WORDS      6
#define RPC_REPLY_DIRECT_BYTES   ((size_t)(64 * 1024))   /* largest rpc_reply_begin() */
#define RPC_SEND_QUEUE_BYTES_MAX ((size_t)(1024 * 1024)) /* unsent bytes of one stream */

/* What a source answers besides a positive count of bytes filled in. */
#define RPC_SOURCE_WAIT 0 /* nothing yet: rpc_resume() when there is */

struct rpc_call {
    /* For the handler, set by the transport. */
    const struct rpc_method *method;
    void *service;        /* rpc_server_options.service */
    struct bytes request; /* unary, server stream: the message. Borrowed until the handler returns,
                           * unless rpc_call_keep() was called */
    struct arena arena;   /* dropped when the call completes; bounded by request_bytes_max * 2 */
    uint64_t started_ns;
    uint64_t deadline_ns;
    struct bytes token;              /* metadata `token`, else `authorization`; in the arena */
    struct bytes client_api_version; /* metadata `client-api-version`; in the arena */
    bool requires_leader;            /* metadata `hasleader: true` */
    uint8_t transport;               /* enum rpc_transport */

    /* For the handler, set by the handler; zero when it starts. */
    uint64_t user[RPC_CALL_USER_WORDS];
    void *context;
    void (*canceled)(struct rpc_call *call);
    void (*released)(struct rpc_call *call); /* the call goes back to its pool after this */
    /* Bidirectional streams: each message, borrowed until return; then the client's end of input
     * (the handler normally answers it with rpc_finish()). */
    void (*message)(struct rpc_call *call, struct bytes message);
    void (*half_closed)(struct rpc_call *call);
    /* Streams: room again after rpc_send_message() or rpc_send_begin() refused. */
    void (*writable)(struct rpc_call *call);

    /* Private to net/ from here on. */
    struct rpc_server *server;
    const struct rpc_transport_ops *ops; /* NULL once the transport has let go of the call */
    struct connection *connection;
    void *stream;                     /* the transport's */
    struct rpc_call *next, *previous; /* among the connection's calls, or next on the free list */
    struct rpc_call *deadline_next, *deadline_previous;
    uint64_t request_id;    /* native frames: the client's */
    uint32_t charged_bytes; /* part of server->request_bytes */
    uint32_t built_bytes;   /* part of connection->built_bytes and server->built_bytes */
    int64_t (*source)(struct rpc_call *call, uint8_t *to, size_t bytes_max);
    uint64_t source_bytes_left;
    uint64_t moved_ns;    /* since when the client owes the next PARTIAL_PROGRESS_BYTES */
    uint32_t moved_bytes; /* of which it has taken so much */
    uint8_t state;        /* enum rpc_call_state */
    bool is_canceled;
    bool source_waits;
    bool wants_writable;
    bool messages_paused;
};

/* Native connections: the token that calls of this connection carry from now on (HELLO). Copies;
 * returns ERR_LIMIT when it is longer than RPC_TOKEN_BYTES_MAX. */
#define RPC_TOKEN_BYTES_MAX ((size_t)4096)
must_check int rpc_connection_set_token(struct rpc_call *call, struct bytes token);

/* ---- completing a call -----------------------------------------------------------------------
 */

bool rpc_is_canceled(const struct rpc_call *call);

/* Moves the request into the arena, so that it stays valid until the call completes. Returns
 * ERR_LIMIT when the arena refuses. Allowed only before the handler returned. */
must_check int rpc_call_keep(struct rpc_call *call);

/* Unary: this message and status OK. Copies. */
void rpc_reply(struct rpc_call *call, struct bytes message);

/* Unary, without a copy: room for up to RPC_REPLY_DIRECT_BYTES of message; never NULL. Nothing else
 * may be done with the connection until rpc_reply_end() says how much was written. */
uint8_t *rpc_reply_begin(struct rpc_call *call, size_t bytes_max);
void rpc_reply_end(struct rpc_call *call, size_t bytes);

/* Unary, large: the message has exactly `total_bytes`, which must be known before its first byte is
 * sent. Whenever there is window and room, `source` is asked to fill up to bytes_max (> 0) bytes
 * and returns how many it did, RPC_SOURCE_WAIT, or a negative error, which ends the call with it.
 * Never called from inside rpc_reply_source() or rpc_resume(). Completes the call. */
void rpc_reply_source(struct rpc_call *call, uint64_t total_bytes,
                      int64_t (*source)(struct rpc_call *call, uint8_t *to, size_t bytes_max));
void rpc_resume(struct rpc_call *call); /* after RPC_SOURCE_WAIT: ask again */

/* As rpc_reply_source(), for a message that lies whole in memory until `released`; its source never
 * waits. Counts among the unsent bytes of the connection, above whose limit requests wait. */
void rpc_reply_built(struct rpc_call *call, uint64_t total_bytes,
                     int64_t (*source)(struct rpc_call *call, uint8_t *to, size_t bytes_max));

/* False: such replies would hold more than built_bytes_max of the core. Calls in flight are over
 * the limits of their connections together, so the handler has to do without. */
must_check bool rpc_may_build(const struct rpc_call *call, uint64_t bytes);

void rpc_fail(struct rpc_call *call, int error); /* status and text of core/err.h */
void rpc_fail_text(struct rpc_call *call, enum grpc_status status, const char *text);

/* ---- streams ----------------------------------------------------------------------------------
 */

/* Queues one message (copies). False when RPC_SEND_QUEUE_BYTES_MAX are unsent already: nothing was
 * taken, `writable` will run. One message into an empty queue is always taken, whatever its size,
 * and so is anything for a canceled call (it is dropped). */
must_check bool rpc_send_message(struct rpc_call *call, struct bytes message);

/* Without a copy: NULL when refused as above; rpc_send_end() before anything else on the call. */
must_check uint8_t *rpc_send_begin(struct rpc_call *call, size_t bytes_max);
void rpc_send_end(struct rpc_call *call, size_t bytes);

/* Ends the stream after what is queued: `error` 0 is OK. Completes the call. */
void rpc_finish(struct rpc_call *call, int error);

/* Bidirectional: stop and go on with delivery of received messages. While paused the client's
 * window is not refilled, so what arrives stays bounded. */
void rpc_pause_messages(struct rpc_call *call);
void rpc_resume_messages(struct rpc_call *call);

/* ---- HTTP/1.1 (health, metrics, JSON gateway) -----------------------------------------------
 */

struct http_request {
    struct bytes method; /* "GET" */
    struct bytes path;   /* decoded no further; without the query */
    struct bytes query;  /* after '?', or empty */
    struct bytes body;   /* whole, at most HTTP_BODY_BYTES_MAX */
    struct bytes content_type;
    struct bytes authorization;
    uint8_t port; /* enum rpc_port */
    void *service;
    void *context;                                  /* the handler's */
    void (*canceled)(struct http_request *request); /* the connection ended; set by the handler */
    struct arena *arena;                            /* until the reply */
    struct connection *connection;                  /* private from here on */
    bool is_canceled;
};

#define HTTP_BODY_BYTES_MAX ((size_t)(2 * 1024 * 1024))

/* Exactly once per request, at once or later on the same core; copies. Last touch. `extra_headers`
 * is NULL or complete lines, each ended by CR LF. */
void http_reply(struct http_request *request, int status, const char *content_type,
                struct bytes body, const char *extra_headers);

/* ---- the server of one core ------------------------------------------------------------------
 */

struct rpc_server_options {
    const struct rpc_method *methods; /* static */
    uint32_t method_count;
    void *service;
    void (*http)(struct http_request *request); /* NULL: every path is 404 */
    uint32_t connections_max;                   /* 0: 10,000 */
    uint32_t streams_per_connection_max;        /* HTTP/2; 0: 65,536 (advertised) */
    uint32_t calls_per_connection_max;        /* in flight, unary; 0: 4,096; above, requests wait */
    uint32_t calls_max;                       /* in flight on this core; 0: 65,536 */
    uint32_t streams_max;                     /* HTTP/2, of this core; 0: calls_max + 4,096 */
    uint64_t request_bytes_max;               /* one message; 0: 2 MiB (1.5 MiB + 512 KiB) */
    uint64_t queued_bytes_per_connection_max; /* unsent; above, requests wait; 0: 4 MiB */
    uint64_t first_bytes_timeout_ns;          /* to the first request, or SETTINGS; 0: 10 s */
    uint64_t partial_timeout_ns;              /* for a request under way to progress; 0: 20 s */
    uint64_t http1_idle_timeout_ns;           /* 0: 60 s */
    uint64_t keepalive_ns;                    /* HTTP/2 PING when nothing was heard; 0: 2 h */
    uint64_t keepalive_timeout_ns;            /* for its answer; 0: 20 s */
    uint64_t stalled_timeout_ns; /* for a peer to take some of what waits for it, of a connection
                                  * or of one large reply; 0: 60 s */
    uint64_t partial_bytes_max;  /* sum of incomplete requests on this core; 0: 128 MiB */
    uint64_t flight_bytes_max;   /* sum of requests in flight on this core; 0: 128 MiB */
    uint64_t built_bytes_max;    /* sum of rpc_reply_built() on this core; 0: 128 MiB */
};

/* Plain counters of the server's core, for metrics_register(). */
struct rpc_server_stats {
    uint64_t connections_accepted, connections_refused, connections_closed;
    uint64_t protocol_errors; /* connections closed for malformed bytes */
    uint64_t timeouts;        /* connections closed by a deadline of the options */
    uint64_t received_bytes, sent_bytes;
    uint64_t http1_requests;
    uint64_t started[RPC_METHOD_IDS_MAX]; /* by rpc_method.id */
    uint64_t handled[RPC_METHOD_IDS_MAX][RPC_STATUS_COUNT];
    uint64_t messages_received[RPC_METHOD_IDS_MAX], messages_sent[RPC_METHOD_IDS_MAX];
    int64_t connections, calls, native_connections, http2_connections;
};

must_check int rpc_server_create(struct core *core, const struct rpc_server_options *options,
                                 struct rpc_server **server);
/* No connection may be left: see rpc_server_shutdown(). */
void rpc_server_destroy(struct rpc_server *server);

/* Takes over an accepted descriptor on this core; discards it past connections_max. */
void rpc_server_adopt(struct rpc_server *server, int32_t fd, enum rpc_port port);

/* Graceful: HTTP/2 GOAWAY, streams end with Unavailable "etcdserver: server stopped", unary calls
 * in flight may complete until `grace_ns` from now, then connections are closed. `done` runs when
 * none is left, from a later turn. Adopted descriptors are discarded from now on. */
void rpc_server_shutdown(struct rpc_server *server, uint64_t grace_ns, void (*done)(void *context),
                         void *context);

const struct rpc_server_stats *rpc_server_stats(const struct rpc_server *server);
struct core *rpc_server_core(struct rpc_server *server);

#endif
