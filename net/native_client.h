/*
 * native_client.h - a connection of the native protocol from the client's side: many requests in
 * flight, answered in any order.
 *
 * Story     native_client_call() encodes straight into the connection's output; everything of a
 *           turn leaves in one send. Replies are handed over in place; the parts of a large one are
 *           put
 *           together first.
 * Owner     The core of the client_set. The client is the caller's memory until `closed`.
 * Limits    calls_max in flight, then ERR_FULL; messages up to NATIVE_CLIENT_MESSAGE_BYTES_MAX.
 * Errors    Every accepted call is answered exactly once by its last reply: also when the
 *           connection ends (ERR_CLOSED: whether the server executed it is not known).
 */
#ifndef NET_NATIVE_CLIENT_H
#define NET_NATIVE_CLIENT_H

#include "core/err.h"
#include "net/client_socket.h"
#include "net/native_frame.h"

#define NATIVE_CLIENT_MESSAGE_BYTES_MAX ((uint32_t)1 << 31)

struct native_reply {
    uint64_t request_id;
    int error;                    /* 0, or core/err.h's number as the server sent it */
    enum grpc_status grpc_status; /* with an error */
    struct bytes text;            /* with an error; not terminated */
    struct bytes message;         /* borrowed until return */
    bool more;                    /* further replies to this call follow */
};

typedef void native_reply_fn(void *context, const struct native_reply *reply);

struct native_client_call {
    native_reply_fn *reply;
    void *context;
    uint64_t request_id; /* 0: free */
    uint8_t *parts;      /* of a large message so far */
    size_t part_bytes, part_bytes_max;
    uint32_t next_free;
};

struct native_client {
    struct client_socket socket;
    struct native_client_call *calls;
    uint32_t calls_max, calls_live, first_free;
    uint32_t sequence;
    uint8_t *partial;
    size_t partial_bytes, partial_bytes_max;
    bool refusing; /* the server shuts down: no new calls */
    void *context;
    void (*opened)(struct native_client *client);            /* may be NULL */
    void (*closed)(struct native_client *client, int error); /* last touch */
};

struct native_call_options {
    uint16_t method;
    uint8_t flags; /* NATIVE_FLAG_REQUIRE_LEADER, NATIVE_FLAG_MORE */
    uint32_t timeout_ms;
    native_reply_fn *reply;
    void *context;
};

/* `closed`, and what else is wanted, are set by the caller in a zeroed client. Calls may be made at
 * once; they leave when the connection is up. */
must_check int native_client_open(struct client_set *set, struct native_client *client,
                                  const struct io_address *address, uint32_t calls_max);
void native_client_close(struct native_client *client);

/* Copies the request. Returns 0, ERR_FULL or ERR_CLOSED; *request_id may be NULL. */
must_check int native_client_call(struct native_client *client,
                                  const struct native_call_options *options, struct bytes request,
                                  uint64_t *request_id);

/* Without the copy: room for the request, then how much of it was used. NULL when
 * native_client_call would have failed. Nothing else with this client in between. */
must_check uint8_t *native_client_begin(struct native_client *client, size_t bytes_max);
uint64_t native_client_end(struct native_client *client, const struct native_call_options *options,
                           size_t bytes);

/* A further message of a call whose request had NATIVE_FLAG_MORE; `last` ends the input. */
void native_client_send(struct native_client *client, uint64_t request_id, uint16_t method,
                        struct bytes message, bool last);

/* Nothing more is heard of the call; its slot is free at once. */
void native_client_cancel(struct native_client *client, uint64_t request_id, uint16_t method);

/* Input without a socket, for tests and fuzzing. */
must_check int native_client_input(struct native_client *client, const uint8_t *data, size_t bytes);

#endif
