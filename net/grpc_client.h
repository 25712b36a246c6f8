/*
 * grpc_client.h - a gRPC connection from the client's side, on nghttp2: unary calls and streams,
 * many in flight.
 *
 * Story     Calls are pooled, request messages are copied once; what a turn produced leaves in one
 *           send. Replies that lie whole in a DATA frame are handed over in place.
 * Owner     The core of the client_set. The client is the caller's memory until `closed`.
 * Limits    calls_max in flight, then ERR_FULL. Messages up to GRPC_CLIENT_MESSAGE_BYTES_MAX.
 * Errors    `done` runs exactly once per accepted call; when the connection ends, with Unavailable.
 */
#ifndef NET_GRPC_CLIENT_H
#define NET_GRPC_CLIENT_H

#include "core/err.h"
#include "net/client_socket.h"

#define GRPC_CLIENT_MESSAGE_BYTES_MAX ((uint32_t)1 << 31)
#define GRPC_CLIENT_INLINE_BYTES      512

struct grpc_client;
struct grpc_client_call;

struct grpc_client_reply {
    enum grpc_status status;
    const char *text;     /* never NULL */
    struct bytes message; /* unary: borrowed until return; empty on failure */
};

struct grpc_call_options {
    const char *path;     /* static */
    struct bytes token;   /* metadata; copied */
    bool requires_leader; /* metadata `hasleader` */
    uint64_t timeout_ns;  /* sent as grpc-timeout; 0: none. The caller enforces its own deadline */
    bool is_stream;       /* messages go to `message`; the input stays open: grpc_client_send() */
    void (*message)(void *context, struct grpc_client_call *call, struct bytes message);
    void (*done)(void *context, const struct grpc_client_reply *reply); /* last touch of the call */
    void *context;
};

/* Set by the caller in a zeroed client before open: closed (last touch), opened (may be NULL). */
struct grpc_client {
    struct client_socket socket;
    void *session; /* nghttp2's */
    struct grpc_client_call *free_calls, *live_calls;
    uint32_t calls_max, calls_live;
    struct grpc_client_call *current;
    uint64_t consumed_bytes;
    char authority[72];
    bool refusing; /* GOAWAY was received: no new calls */
    void *context;
    void (*opened)(struct grpc_client *client);
    void (*closed)(struct grpc_client *client, int error);
};

must_check int grpc_client_open(struct client_set *set, struct grpc_client *client,
                                const struct io_address *address, uint32_t calls_max);
void grpc_client_close(struct grpc_client *client);

/* Returns 0, ERR_FULL or ERR_CLOSED; *call may be NULL. For streams `request` is the first message,
 * sent when its data is not NULL. */
must_check int grpc_client_call(struct grpc_client *client, const struct grpc_call_options *options,
                                struct bytes request, struct grpc_client_call **call);

/* Streams: another message; `last` ends the input (an empty message with NULL data is not sent). */
void grpc_client_send(struct grpc_client_call *call, struct bytes message, bool last);

/* Resets the call; `done` runs with Cancelled before this returns. */
void grpc_client_cancel(struct grpc_client_call *call);

#endif
