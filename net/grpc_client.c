#include "net/grpc_client.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "net/grpc.h"

#define GRPC_CLIENT_TEXT_BYTES     512
#define GRPC_CLIENT_STREAM_WINDOW  (8 << 20)
#define GRPC_CLIENT_WINDOW         (64 << 20)
#define GRPC_CLIENT_OUT_BYTES_HIGH ((uint64_t)(1 << 20))

struct grpc_client_call {
    struct grpc_client *client;
    struct grpc_client_call *next, *previous; /* live list; next: free list too */
    struct grpc_call_options options;
    int32_t id;
    int http_status, status; /* -1: not received */
    bool input_ended, deferred, has_message;
    char *text;
    uint8_t *in; /* incomplete or unary message, prefix included */
    size_t in_bytes, in_max;
    uint8_t *out;
    size_t out_begin, out_end, out_max;
    uint8_t inline_in[GRPC_CLIENT_INLINE_BYTES];
    uint8_t inline_out[GRPC_CLIENT_INLINE_BYTES];
};

/* ---- calls -------------------------------------------------------------------------------------
 */

static struct grpc_client_call *grpc_client_acquire(struct grpc_client *client)
{
    struct grpc_client_call *call = client->free_calls;
    if (client->calls_live == client->calls_max)
        return NULL;
    if (call != NULL) {
        client->free_calls = call->next;
    } else {
        call = malloc(sizeof(*call));
        if (call == NULL)
            return NULL;
    }
    memset(call, 0, offsetof(struct grpc_client_call, inline_in));
    call->client = client;
    call->status = call->http_status = -1;
    call->in = call->inline_in;
    call->out = call->inline_out;
    call->in_max = call->out_max = GRPC_CLIENT_INLINE_BYTES;
    call->next = client->live_calls;
    if (client->live_calls != NULL)
        client->live_calls->previous = call;
    client->live_calls = call;
    client->calls_live++;
    return call;
}

static void grpc_client_release(struct grpc_client_call *call)
{
    struct grpc_client *client = call->client;
    invariant(client->calls_live > 0);
    if (call->previous != NULL)
        call->previous->next = call->next;
    else
        client->live_calls = call->next;
    if (call->next != NULL)
        call->next->previous = call->previous;
    if (call->in != call->inline_in)
        free(call->in);
    if (call->out != call->inline_out)
        free(call->out);
    free(call->text);
    if (client->current == call)
        client->current = NULL;
    call->next = client->free_calls;
    client->free_calls = call;
    client->calls_live--;
}

static void grpc_client_complete(struct grpc_client_call *call, enum grpc_status status,
                                 const char *text)
{
    struct grpc_client_reply reply = {.status = status, .text = text};
    if (status == GRPC_OK && !call->options.is_stream) {
        if (call->has_message) {
            reply.message =
                bytes_make(call->in + GRPC_PREFIX_BYTES, call->in_bytes - GRPC_PREFIX_BYTES);
        } else {
            reply.status = GRPC_INTERNAL;
            reply.text = "no message in the reply";
        }
    }
    call->options.done(call->options.context, &reply);
    grpc_client_release(call);
}

static bool grpc_client_grow(uint8_t **buffer, uint8_t *inline_buffer, size_t held, size_t *max,
                             size_t needed)
{
    if (needed <= *max)
        return true;
    size_t grown = u64_max(needed, 2 * *max);
    uint8_t *larger = realloc(*buffer == inline_buffer ? NULL : *buffer, grown);
    if (larger == NULL)
        return false;
    if (*buffer == inline_buffer && held > 0)
        memcpy(larger, inline_buffer, held);
    *buffer = larger;
    *max = grown;
    return true;
}

/* ---- receiving ---------------------------------------------------------------------------------
 */

static struct grpc_client_call *grpc_client_find(struct grpc_client *client, int32_t id)
{
    if (client->current == NULL || client->current->id != id)
        client->current = nghttp2_session_get_stream_user_data(client->session, id);
    return client->current;
}

static int grpc_client_on_header(nghttp2_session *session, const nghttp2_frame *frame,
                                 const uint8_t *name, size_t name_bytes, const uint8_t *value,
                                 size_t value_bytes, uint8_t flags, void *user_data)
{
    (void)session;
    (void)flags;
    struct grpc_client_call *call = grpc_client_find(user_data, frame->hd.stream_id);
    if (call == NULL)
        return 0;
    if (name_bytes == 11 && memcmp(name, "grpc-status", 11) == 0) {
        call->status = 0;
        for (size_t i = 0; i < value_bytes && i < 3; i++)
            call->status = call->status * 10 + (value[i] - '0');
        if (value_bytes == 0 || call->status < 0 || call->status > GRPC_UNAUTHENTICATED)
            call->status = GRPC_UNKNOWN;
    } else if (name_bytes == 7 && memcmp(name, ":status", 7) == 0) {
        call->http_status = value_bytes == 3 && memcmp(value, "200", 3) == 0 ? 200 : 500;
    } else if (name_bytes == 12 && memcmp(name, "grpc-message", 12) == 0 && call->text == NULL) {
        call->text = malloc(GRPC_CLIENT_TEXT_BYTES);
        if (call->text != NULL)
            grpc_unescape_message(bytes_make(value, value_bytes), call->text,
                                  GRPC_CLIENT_TEXT_BYTES);
    }
    return 0;
}

static bool grpc_client_hold(struct grpc_client_call *call, const uint8_t *data, size_t bytes)
{
    if (bytes == 0)
        return true;
    if (!grpc_client_grow(&call->in, call->inline_in, call->in_bytes, &call->in_max,
                          call->in_bytes + bytes))
        return false;
    memcpy(call->in + call->in_bytes, data, bytes);
    call->in_bytes += bytes;
    return true;
}

/* Whole messages of a stream; false when the call was canceled by its own callback. */
static size_t grpc_client_take(struct grpc_client *client, int32_t id, const uint8_t *data,
                               size_t bytes)
{
    size_t taken = 0;
    while (bytes - taken >= GRPC_PREFIX_BYTES) {
        size_t whole = GRPC_PREFIX_BYTES + (size_t)grpc_prefix_length(data + taken);
        struct grpc_client_call *call = grpc_client_find(client, id);
        if (bytes - taken < whole || call == NULL)
            break;
        if (call->options.message != NULL)
            call->options.message(
                call->options.context, call,
                bytes_make(data + taken + GRPC_PREFIX_BYTES, whole - GRPC_PREFIX_BYTES));
        taken += whole;
    }
    return taken;
}

static int grpc_client_on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                               const uint8_t *data, size_t bytes, void *user_data)
{
    struct grpc_client *client = user_data;
    (void)flags;
    client->consumed_bytes += bytes;
    if (bytes > 4096 && nghttp2_session_consume_stream(session, stream_id, bytes) != 0)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    struct grpc_client_call *call = grpc_client_find(client, stream_id);
    if (call == NULL)
        return 0;
    if (bytes <= 4096 && call->options.is_stream &&
        nghttp2_session_consume_stream(session, stream_id, bytes) != 0)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!call->options.is_stream) {
        if (!grpc_client_hold(call, data, bytes))
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        call->has_message =
            call->in_bytes >= GRPC_PREFIX_BYTES && call->in[0] == 0 &&
            call->in_bytes == GRPC_PREFIX_BYTES + (size_t)grpc_prefix_length(call->in);
        return 0;
    }
    if (call->in_bytes > 0) {
        if (!grpc_client_hold(call, data, bytes))
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        uint8_t *held = call->in == call->inline_in ? NULL : call->in;
        uint8_t copy[GRPC_CLIENT_INLINE_BYTES];
        size_t held_bytes = call->in_bytes;
        if (held == NULL)
            memcpy(copy, call->in, held_bytes);
        call->in = call->inline_in; /* the callback may cancel the call: `held` is ours meanwhile */
        call->in_bytes = 0;
        call->in_max = GRPC_CLIENT_INLINE_BYTES;
        const uint8_t *from = held == NULL ? copy : held;
        size_t taken = grpc_client_take(client, stream_id, from, held_bytes);
        call = grpc_client_find(client, stream_id);
        bool kept = call == NULL || grpc_client_hold(call, from + taken, held_bytes - taken);
        free(held);
        return kept ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    size_t taken = grpc_client_take(client, stream_id, data, bytes);
    call = grpc_client_find(client, stream_id);
    if (call != NULL && !grpc_client_hold(call, data + taken, bytes - taken))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    return 0;
}

static int grpc_client_on_frame(nghttp2_session *session, const nghttp2_frame *frame,
                                void *user_data)
{
    (void)session;
    struct grpc_client *client = user_data;
    if (frame->hd.type == NGHTTP2_GOAWAY)
        client->refusing = true;
    return 0;
}

static int grpc_client_on_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code,
                                void *user_data)
{
    (void)user_data;
    struct grpc_client_call *call = nghttp2_session_get_stream_user_data(session, stream_id);
    if (call == NULL)
        return 0;
    if (call->status >= 0)
        grpc_client_complete(call, (enum grpc_status)call->status,
                             call->text != NULL ? call->text : "");
    else if (error_code == NGHTTP2_REFUSED_STREAM)
        grpc_client_complete(call, GRPC_UNAVAILABLE, "stream refused");
    else
        grpc_client_complete(call, error_code == NGHTTP2_NO_ERROR ? GRPC_UNKNOWN : GRPC_INTERNAL,
                             "stream ended without a status");
    return 0;
}

/* ---- sending -----------------------------------------------------------------------------------
 */

static ssize_t grpc_client_read(nghttp2_session *session, int32_t stream_id, uint8_t *buffer,
                                size_t length, uint32_t *data_flags, nghttp2_data_source *source,
                                void *user_data)
{
    (void)session;
    (void)stream_id;
    (void)buffer;
    (void)user_data;
    struct grpc_client_call *call = source->ptr;
    size_t held = call->out_end - call->out_begin;
    size_t part = u64_min(held, length);
    if (part == held && call->input_ended) {
        *data_flags |= NGHTTP2_DATA_FLAG_EOF;
    } else if (part == 0) {
        call->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    *data_flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    return (ssize_t)part;
}

static int grpc_client_send_data(nghttp2_session *session, nghttp2_frame *frame,
                                 const uint8_t *header, size_t length, nghttp2_data_source *source,
                                 void *user_data)
{
    (void)session;
    (void)frame;
    struct grpc_client *client = user_data;
    struct grpc_client_call *call = source->ptr;
    invariant(length <= call->out_end - call->out_begin);
    outbuf_append(&client->socket.out, header, 9);
    outbuf_append(&client->socket.out, call->out + call->out_begin, length);
    call->out_begin += length;
    if (call->out_begin == call->out_end)
        call->out_begin = call->out_end = 0;
    return 0;
}

static bool grpc_client_queue(struct grpc_client_call *call, struct bytes message)
{
    if (message.data == NULL)
        return true;
    if (!grpc_client_grow(&call->out, call->inline_out, call->out_end, &call->out_max,
                          call->out_end + GRPC_PREFIX_BYTES + message.size))
        return false;
    grpc_prefix_store(call->out + call->out_end, (uint32_t)message.size);
    memcpy(call->out + call->out_end + GRPC_PREFIX_BYTES, message.data, message.size);
    call->out_end += GRPC_PREFIX_BYTES + message.size;
    return true;
}

#define TEXT_NV(name, value, value_bytes, extra_flags)                                             \
    ((nghttp2_nv){(uint8_t *)(uintptr_t)(name), (uint8_t *)(uintptr_t)(value), sizeof(name) - 1,   \
                  (value_bytes), (uint8_t)(NGHTTP2_NV_FLAG_NO_COPY_NAME | (extra_flags))})
#define STATIC_TEXT_NV(name, value)                                                                \
    TEXT_NV(name, value, sizeof(value) - 1, NGHTTP2_NV_FLAG_NO_COPY_VALUE)

static int grpc_client_submit(struct grpc_client_call *call)
{
    struct grpc_client *client = call->client;
    const struct grpc_call_options *options = &call->options;
    char timeout[16];
    nghttp2_nv headers[9] = {
        STATIC_TEXT_NV(":method", "POST"),
        STATIC_TEXT_NV(":scheme", "http"),
        TEXT_NV(":path", options->path, strlen(options->path), NGHTTP2_NV_FLAG_NO_COPY_VALUE),
        TEXT_NV(":authority", client->authority, strlen(client->authority),
                NGHTTP2_NV_FLAG_NO_COPY_VALUE),
        STATIC_TEXT_NV("te", "trailers"),
        STATIC_TEXT_NV("content-type", "application/grpc"),
    };
    size_t count = 6;
    if (options->token.size > 0)
        headers[count++] = TEXT_NV("token", options->token.data, options->token.size, 0);
    if (options->requires_leader)
        headers[count++] = STATIC_TEXT_NV("hasleader", "true");
    if (options->timeout_ns != 0) {
        uint64_t timeout_ms = u64_min(options->timeout_ns / NS_PER_MS + 1, 99999999);
        int bytes = snprintf(timeout, sizeof(timeout), "%llum", (unsigned long long)timeout_ms);
        headers[count++] =
            TEXT_NV("grpc-timeout", timeout, (size_t)bytes, NGHTTP2_NV_FLAG_NO_INDEX);
    }
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = grpc_client_read};
    int32_t id = nghttp2_submit_request(client->session, NULL, headers, count, &provider, call);
    if (id < 0)
        return ERR_CLOSED;
    call->id = id;
    return 0;
}

int grpc_client_call(struct grpc_client *client, const struct grpc_call_options *options,
                     struct bytes request, struct grpc_client_call **result)
{
    invariant(options->done != NULL && options->path != NULL);
    if (client->socket.closing || client->refusing)
        return ERR_CLOSED;
    struct grpc_client_call *call = grpc_client_acquire(client);
    if (call == NULL)
        return ERR_FULL;
    call->options = *options;
    call->input_ended = !options->is_stream;
    if (!options->is_stream && request.data == NULL)
        request = bytes_from_text("");
    if (request.size > GRPC_CLIENT_MESSAGE_BYTES_MAX || !grpc_client_queue(call, request) ||
        grpc_client_submit(call) < 0) {
        grpc_client_release(call);
        return ERR_CLOSED;
    }
    call->options.token = (struct bytes){0};
    client_socket_mark_dirty(&client->socket);
    if (result != NULL)
        *result = call;
    return 0;
}

void grpc_client_send(struct grpc_client_call *call, struct bytes message, bool last)
{
    invariant(call->options.is_stream && !call->input_ended);
    if (!grpc_client_queue(call, message))
        fatal("out of memory for a message of %zu bytes", message.size);
    call->input_ended = last;
    if (call->deferred) {
        call->deferred = false;
        if (nghttp2_session_resume_data(call->client->session, call->id) != 0)
            client_socket_close(&call->client->socket, ERR_CLOSED);
    }
    client_socket_mark_dirty(&call->client->socket);
}

void grpc_client_cancel(struct grpc_client_call *call)
{
    struct grpc_client *client = call->client;
    nghttp2_session_set_stream_user_data(client->session, call->id, NULL);
    if (nghttp2_submit_rst_stream(client->session, NGHTTP2_FLAG_NONE, call->id, NGHTTP2_CANCEL) !=
        0)
        client_socket_close(&client->socket, ERR_CLOSED);
    client_socket_mark_dirty(&client->socket);
    grpc_client_complete(call, GRPC_CANCELLED, err_text(ERR_CANCELED));
}

/* ---- connection --------------------------------------------------------------------------------
 */

static int grpc_client_received(struct client_socket *socket, const uint8_t *data, size_t bytes)
{
    struct grpc_client *client = container_of(socket, struct grpc_client, socket);
    ssize_t taken = nghttp2_session_mem_recv(client->session, data, bytes);
    client->current = NULL;
    if (taken < 0)
        return ERR_MALFORMED;
    if (client->consumed_bytes > 0) {
        if (nghttp2_session_consume_connection(client->session, client->consumed_bytes) != 0)
            return ERR_MALFORMED;
        client->consumed_bytes = 0;
    }
    client_socket_mark_dirty(socket);
    if (nghttp2_session_want_read(client->session) == 0 &&
        nghttp2_session_want_write(client->session) == 0)
        return ERR_CLOSED;
    return 0;
}

static void grpc_client_flush(struct client_socket *socket)
{
    struct grpc_client *client = container_of(socket, struct grpc_client, socket);
    while (socket->out.bytes < GRPC_CLIENT_OUT_BYTES_HIGH) {
        const uint8_t *data;
        ssize_t bytes = nghttp2_session_mem_send(client->session, &data);
        if (bytes <= 0) {
            if (bytes < 0)
                client_socket_close(socket, ERR_CLOSED);
            return;
        }
        outbuf_append(&socket->out, data, (size_t)bytes);
    }
}

static void grpc_client_opened(struct client_socket *socket)
{
    struct grpc_client *client = container_of(socket, struct grpc_client, socket);
    if (client->opened != NULL)
        client->opened(client);
}

static void grpc_client_closed(struct client_socket *socket, int error)
{
    struct grpc_client *client = container_of(socket, struct grpc_client, socket);
    nghttp2_session_del(client->session);
    client->session = NULL;
    while (client->live_calls != NULL)
        grpc_client_complete(client->live_calls, GRPC_UNAVAILABLE, "connection closed");
    while (client->free_calls != NULL) {
        struct grpc_client_call *call = client->free_calls;
        client->free_calls = call->next;
        free(call);
    }
    client->closed(client, error);
}

static int grpc_client_session(struct grpc_client *client)
{
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *option = NULL;
    nghttp2_session *session = NULL;
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, GRPC_CLIENT_STREAM_WINDOW},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
    };
    if (nghttp2_session_callbacks_new(&callbacks) != 0)
        return ERR_LIMIT;
    int error = ERR_LIMIT;
    if (nghttp2_option_new(&option) != 0)
        goto fail;
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_http_messaging(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_peer_max_concurrent_streams(option, client->calls_max);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, grpc_client_on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, grpc_client_on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, grpc_client_on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, grpc_client_on_close);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, grpc_client_send_data);
    if (nghttp2_session_client_new2(&session, callbacks, client, option) == 0 &&
        nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings, ARRAY_COUNT(settings)) == 0 &&
        nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, GRPC_CLIENT_WINDOW) ==
            0) {
        client->session = session;
        error = 0;
    } else {
        nghttp2_session_del(session);
    }
    nghttp2_option_del(option);
fail:
    nghttp2_session_callbacks_del(callbacks);
    return error;
}

int grpc_client_open(struct client_set *set, struct grpc_client *client,
                     const struct io_address *address, uint32_t calls_max)
{
    invariant(calls_max > 0 && client->closed != NULL);
    client->calls_max = calls_max;
    snprintf(client->authority, sizeof(client->authority), "%s", address->text);
    int error = grpc_client_session(client);
    if (error < 0)
        return error;
    client->socket.opened = grpc_client_opened;
    client->socket.received = grpc_client_received;
    client->socket.flush = grpc_client_flush;
    client->socket.closed = grpc_client_closed;
    client_socket_open(set, &client->socket, address);
    return 0;
}

void grpc_client_close(struct grpc_client *client)
{
    client_socket_close(&client->socket, 0);
}
