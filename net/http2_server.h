/*
 * http2_server.h - one HTTP/2 connection that carries gRPC calls, on nghttp2: private to the files
 * net/http2_server.c (session, settings, shutdown), net/http2_receive.c (requests) and
 * net/http2_respond.c (replies).
 *
 * Story     nghttp2 parses frames, keeps HPACK and both windows. Requests that lie whole in one
 *           DATA frame are handled where they are in the receive buffer. Replies wait in their
 *           stream until the end of the turn; then one pass over nghttp2 moves all it may send
 *           into the connection's outbuf.
 * Owner     The connection. Streams come from the server's free list.
 * Limits    GRPC_STREAM_INLINE_BYTES of reply without an allocation; request_bytes_max per message;
 *           partial_bytes_max for all incomplete requests of the core; HTTP2_HEADERS_BYTES of
 *           headers, of which GRPC_KEPT_BYTES_MAX and a token are kept; HTTP2_QUEUE_FRAMES that
 *           answer no request wait for the client.
 *
 * Invariants of a stream
 * S1  call != NULL exactly while a handler or the transport owes the call's completion and the
 *     client has not canceled.
 * S2  out[out_begin, out_end) is what is still to be sent, with message prefixes.
 * S3  `finished` is set at most once; nothing is added to `out` afterwards.
 * S4  `receiving` is counted in http2->receiving_count.
 * S5  `active` is counted in http2->active_count: a unary handler or source has work to do.
 * S6  `ready_at` != 0 names the stream's place in http2->ready: its whole request lies in the input
 *     that is being parsed, and is handled together with its neighbours before the input goes back.
 * S7  `delayed` streams are on the delayed list: a whole unary request in `in` that waits until the
 *     connection's replies have gone down. Reading goes on meanwhile, for what lets replies go are
 *     the client's window updates.
 */
#ifndef NET_HTTP2_SERVER_H
#define NET_HTTP2_SERVER_H

#include <nghttp2/nghttp2.h>

#include "net/grpc.h"
#include "net/rpc_internal.h"

#define GRPC_STREAM_INLINE_BYTES 512
#define GRPC_TEXT_BYTES_MAX      1024 /* of an escaped grpc-message */
#define GRPC_STREAMS_FREE_MAX    4096
#define GRPC_SOURCE_BYTES        ((size_t)(32 * 1024)) /* asked of a source at once */
#define GRPC_KEPT_BYTES_MAX      512                   /* of a path that is unknown, and the like */
#define HTTP2_HEADERS_BYTES      (64 * 1024)
#define HTTP2_QUEUE_FRAMES       4096 /* beyond two for each stream */
#define HTTP2_SETTINGS_BURST     64   /* then one a second: each is applied to all streams */
#define HTTP2_RESETS_BURST       1000 /* then 33 a second, as nghttp2 allows the client's own */
#define HTTP2_RESETS_PER_S       33
#define HTTP2_MESSAGE_TIMEOUTS   6 /* partial_timeout_ns times this, for a message to be whole */
#define HTTP2_STREAM_WINDOW      (1 << 20)
#define HTTP2_CONNECTION_WINDOW  (16 << 20)

enum grpc_encoding { GRPC_ENCODING_IDENTITY, GRPC_ENCODING_GZIP, GRPC_ENCODING_UNKNOWN };

struct grpc_stream {
    struct http2 *http2;
    struct rpc_call *call; /* S1 */
    const struct rpc_method *method;
    struct grpc_stream *next, *previous; /* of the connection; next: also of the free list */
    struct grpc_stream *delayed_next, *delayed_previous;
    struct bytes unknown_path;     /* in the call's arena, when no method has it */
    struct bytes unknown_encoding; /* in the call's arena, with GRPC_ENCODING_UNKNOWN */
    int32_t id;
    uint8_t encoding;
    uint8_t status;        /* enum grpc_status, once finished */
    bool is_post, is_grpc; /* what the headers said */
    bool is_proto;         /* content-type has the suffix, and so has the reply's */
    bool bad_timeout;
    bool too_large;        /* the headers, all together or a token */
    bool has_token;        /* the call's is from `token`, not `authorization` */
    bool late;             /* the timeout was over when it arrived */
    bool receiving;        /* S4 */
    bool dispatched;       /* the handler has the request */
    bool active;           /* S5 */
    bool delayed;          /* S7 */
    uint8_t ready_at;      /* S6: place + 1 */
    bool taking;           /* messages are being delivered: no second loop inside */
    bool remote_closed;    /* END_STREAM was received */
    bool half_close_told;  /* and the handler of a BIDI stream knows */
    bool responded;        /* response headers are submitted */
    bool deferred;         /* nghttp2 waits for nghttp2_session_resume_data() */
    bool finished;         /* trailers follow what is in `out` */
    uint32_t header_bytes; /* of the request, as SETTINGS_MAX_HEADER_LIST_SIZE counts */
    char *text;            /* escaped grpc-message, or NULL */
    uint32_t text_bytes;
    uint32_t unconsumed_bytes; /* received while messages are paused: window not given back */
    uint8_t *in;               /* incomplete message(s), prefix included */
    uint32_t in_bytes, in_max;
    uint64_t in_since_ns; /* since when it is the same message that is not whole */
    uint8_t *out;         /* inline_out, or allocated */
    uint32_t out_begin, out_end, out_max;
    uint8_t inline_out[GRPC_STREAM_INLINE_BYTES];
};

struct grpc_ready {
    struct grpc_stream *stream; /* NULL: reset meanwhile */
    const uint8_t *data;        /* message, prefix included; borrowed from the input */
};

struct http2 {
    struct connection *connection;
    nghttp2_session *session;
    struct grpc_stream *streams;
    struct grpc_stream *current; /* of the frame being received */
    uint32_t stream_count, receiving_count;
    uint64_t started_ns;
    uint64_t settings_count; /* the client's */
    uint64_t reset_count;    /* streams that the client's mistakes made us reset */
    uint32_t ready_count;
    struct grpc_ready ready[RPC_AHEAD_MAX]; /* S6 */
    uint64_t consumed_bytes;                /* connection window to give back after this input */
    uint64_t ping_sent_ns;                  /* keepalive under way; 0: none */
    uint64_t drain_ns;                      /* when the first GOAWAY was queued */
    bool drained;                           /* the final one was */
    uint64_t queued_bytes;                  /* unsent reply bytes that streams hold */
    uint32_t active_count;                  /* dispatched unary calls; see S5 */
    struct grpc_stream *delayed_first, *delayed_last;
    bool has_writable; /* a stream's queue went down to where its handler may go on */
};

extern const struct rpc_transport_ops grpc_ops;

struct grpc_stream *grpc_stream_acquire(struct http2 *http2, int32_t id);
void grpc_stream_release(struct grpc_stream *stream);
void grpc_stream_set_receiving(struct grpc_stream *stream, bool receiving);
void grpc_stream_drop_input(struct grpc_stream *stream);
void grpc_stream_let_go(struct grpc_stream *stream); /* of its call */
void grpc_stream_undelay(struct grpc_stream *stream);
void http2_dispatch_delayed(struct http2 *http2);
void http2_dispatch_ready(struct http2 *http2);
bool http2_is_full(const struct http2 *http2); /* requests have to wait */
static inline uint64_t http2_age_s(const struct http2 *http2)
{
    return (http2->connection->server->now_ns - http2->started_ns) / NS_PER_S;
}

/* Answers without a handler: status and text, trailers only; then lets go of the call. */
void grpc_stream_refuse(struct grpc_stream *stream, enum grpc_status status, const char *text);
void grpc_stream_refuse_http(struct grpc_stream *stream, int http_status);

void grpc_stream_resume(struct grpc_stream *stream);

/* Ends the streams whose message has been arriving for too long. */
void http2_expire_partial(struct http2 *http2);

/* nghttp2 callbacks, in http2_receive.c and http2_respond.c. */
void http2_receive_callbacks(nghttp2_session_callbacks *callbacks);
void http2_respond_callbacks(nghttp2_session_callbacks *callbacks);
void http2_run_writable(struct http2 *http2);

/* Takes messages out of a stream's input; for BIDI also when they are resumed. */
void grpc_stream_take_messages(struct grpc_stream *stream);

void http2_server_deinit(struct rpc_server *server);

#endif
