#include "net/native_client.h"

#include <stdlib.h>

#include "core/invariant.h"
#include "net/pb.h"

#define CALL_NONE UINT32_MAX

/* A request id is the slot in the low half and a sequence number above it, so that a late reply to
 * a canceled call does not find its successor. */

static void native_client_slots_init(struct native_client *client)
{
    for (uint32_t i = 0; i < client->calls_max; i++)
        client->calls[i].next_free = i + 1 < client->calls_max ? i + 1 : CALL_NONE;
    client->first_free = 0;
}

static struct native_client_call *native_client_find(struct native_client *client,
                                                     uint64_t request_id)
{
    uint32_t slot = (uint32_t)request_id;
    if (slot >= client->calls_max || client->calls[slot].request_id != request_id)
        return NULL;
    return &client->calls[slot];
}

static void native_client_release(struct native_client *client, struct native_client_call *call)
{
    invariant(call->request_id != 0 && client->calls_live > 0);
    free(call->parts);
    uint32_t slot = (uint32_t)call->request_id;
    *call = (struct native_client_call){.next_free = client->first_free};
    client->first_free = slot;
    client->calls_live--;
}

/* ---- requests ----------------------------------------------------------------------------------
 */

uint8_t *native_client_begin(struct native_client *client, size_t bytes_max)
{
    if (client->first_free == CALL_NONE || client->socket.closing || client->refusing)
        return NULL;
    return outbuf_reserve(&client->socket.out, NATIVE_HEADER_BYTES + bytes_max) +
           NATIVE_HEADER_BYTES;
}

uint64_t native_client_end(struct native_client *client, const struct native_call_options *options,
                           size_t bytes)
{
    uint32_t slot = client->first_free;
    struct native_client_call *call = &client->calls[slot];
    struct outbuf *out = &client->socket.out;
    invariant(slot != CALL_NONE && options->reply != NULL && options->method != 0);
    client->first_free = call->next_free;
    client->calls_live++;
    client->sequence = client->sequence == UINT32_MAX ? 1 : client->sequence + 1;
    call->request_id = (uint64_t)client->sequence << 32 | slot;
    call->reply = options->reply;
    call->context = options->context;
    struct native_frame frame = {.flags = options->flags,
                                 .method = options->method,
                                 .payload_bytes = (uint32_t)bytes,
                                 .timeout_ms = options->timeout_ms,
                                 .request_id = call->request_id};
    native_frame_seal(out->last->data + out->last->end, &frame);
    outbuf_commit(out, NATIVE_HEADER_BYTES + bytes);
    client_socket_mark_dirty(&client->socket);
    return call->request_id;
}

int native_client_call(struct native_client *client, const struct native_call_options *options,
                       struct bytes request, uint64_t *request_id)
{
    if (request.size > NATIVE_CLIENT_MESSAGE_BYTES_MAX)
        return ERR_LIMIT;
    uint8_t *to = native_client_begin(client, request.size);
    if (to == NULL)
        return client->first_free == CALL_NONE ? ERR_FULL : ERR_CLOSED;
    if (request.size > 0)
        memcpy(to, request.data, request.size);
    uint64_t id = native_client_end(client, options, request.size);
    if (request_id != NULL)
        *request_id = id;
    return 0;
}

static void native_client_put(struct native_client *client, const struct native_frame *frame,
                              struct bytes message)
{
    struct outbuf *out = &client->socket.out;
    uint8_t *to = outbuf_reserve(out, NATIVE_HEADER_BYTES + message.size);
    if (message.size > 0)
        memcpy(to + NATIVE_HEADER_BYTES, message.data, message.size);
    native_frame_seal(to, frame);
    outbuf_commit(out, NATIVE_HEADER_BYTES + message.size);
    client_socket_mark_dirty(&client->socket);
}

void native_client_send(struct native_client *client, uint64_t request_id, uint16_t method,
                        struct bytes message, bool last)
{
    if (client->socket.closing)
        return;
    uint8_t flags = last ? NATIVE_FLAG_CONTINUE : NATIVE_FLAG_CONTINUE | NATIVE_FLAG_MORE;
    native_client_put(client,
                      &(struct native_frame){.flags = flags,
                                             .method = method,
                                             .payload_bytes = (uint32_t)message.size,
                                             .request_id = request_id},
                      message);
}

void native_client_cancel(struct native_client *client, uint64_t request_id, uint16_t method)
{
    struct native_client_call *call = native_client_find(client, request_id);
    if (call == NULL)
        return;
    native_client_release(client, call);
    if (client->socket.closing)
        return;
    native_client_put(client,
                      &(struct native_frame){
                          .flags = NATIVE_FLAG_CANCEL, .method = method, .request_id = request_id},
                      (struct bytes){0});
}

/* ---- replies -----------------------------------------------------------------------------------
 */

static int native_client_parse_error(struct bytes payload, struct native_reply *reply)
{
    struct pb_reader reader = pb_reader_make(payload);
    struct pb_field field;
    int next;
    reply->error = ERR_MALFORMED;
    reply->grpc_status = GRPC_UNKNOWN;
    while ((next = pb_next(&reader, &field)) > 0) {
        if (field.number == 1 && field.type == PB_VARINT)
            reply->error = (int)(int64_t)field.value;
        else if (field.number == 3 && field.type == PB_BYTES)
            reply->text = field.bytes;
        else if (field.number == 4 && field.type == PB_VARINT &&
                 field.value <= GRPC_UNAUTHENTICATED)
            reply->grpc_status = (enum grpc_status)field.value;
    }
    if (reply->error >= 0)
        reply->error = ERR_MALFORMED; /* the server had no number for it: status and text tell */
    return next;
}

static int native_client_add_part(struct native_client_call *call, struct bytes payload)
{
    size_t needed = call->part_bytes + payload.size;
    if (needed > NATIVE_CLIENT_MESSAGE_BYTES_MAX)
        return ERR_LIMIT;
    if (needed > call->part_bytes_max) {
        size_t grown = u64_max(needed, 2 * call->part_bytes_max);
        uint8_t *parts = realloc(call->parts, grown);
        if (parts == NULL)
            return ERR_LIMIT;
        call->parts = parts;
        call->part_bytes_max = grown;
    }
    if (payload.size > 0)
        memcpy(call->parts + call->part_bytes, payload.data, payload.size);
    call->part_bytes = needed;
    return 0;
}

static int native_client_handle(struct native_client *client, const struct native_frame *frame)
{
    struct bytes payload = bytes_make(frame->payload, frame->payload_bytes);
    if ((frame->flags & NATIVE_FLAG_REPLY) == 0)
        return ERR_MALFORMED;
    if (frame->request_id == 0) { /* the server is going away; calls in flight are still answered */
        client->refusing = true;
        return 0;
    }
    struct native_client_call *call = native_client_find(client, frame->request_id);
    if (call == NULL)
        return 0; /* canceled */
    struct native_reply reply = {.request_id = frame->request_id, .message = payload};
    if (frame->flags & NATIVE_FLAG_ERROR) {
        reply.message = (struct bytes){0};
        if (native_client_parse_error(payload, &reply) < 0)
            return ERR_MALFORMED;
    } else if (frame->flags & NATIVE_FLAG_PART) {
        return native_client_add_part(call, payload);
    }
    uint8_t *parts = call->parts;
    if (parts != NULL && reply.error == 0) {
        int error = native_client_add_part(call, payload);
        if (error < 0)
            return error;
        parts = call->parts;
        reply.message = bytes_make(parts, call->part_bytes);
    }
    call->parts = NULL;
    call->part_bytes = call->part_bytes_max = 0;
    native_reply_fn *done = call->reply;
    void *context = call->context;
    reply.more = (frame->flags & NATIVE_FLAG_MORE) != 0;
    if (!reply.more)
        native_client_release(client, call); /* first, so that the callback may call again */
    done(context, &reply);
    free(parts);
    return 0;
}

/* Whole frames in front; returns the bytes taken or a negative error. */
static int64_t native_client_take(struct native_client *client, const uint8_t *data, size_t bytes)
{
    size_t taken = 0, wanted;
    while (taken < bytes && !client->socket.closing) {
        struct native_frame frame;
        int64_t whole = native_frame_parse(data + taken, bytes - taken,
                                           NATIVE_CLIENT_MESSAGE_BYTES_MAX, &frame, &wanted);
        if (whole < 0)
            return whole;
        if (whole == 0)
            break;
        int error = native_client_handle(client, &frame);
        if (error < 0)
            return error;
        taken += (size_t)whole;
    }
    return (int64_t)taken;
}

int native_client_input(struct native_client *client, const uint8_t *data, size_t bytes)
{
    bool in_place = client->partial_bytes == 0;
    if (!in_place) {
        size_t needed = client->partial_bytes + bytes;
        if (needed > client->partial_bytes_max) {
            uint8_t *grown = realloc(client->partial, 2 * needed);
            if (grown == NULL)
                return ERR_LIMIT;
            client->partial = grown;
            client->partial_bytes_max = 2 * needed;
        }
        memcpy(client->partial + client->partial_bytes, data, bytes);
        client->partial_bytes = needed;
        data = client->partial;
        bytes = needed;
    }
    int64_t taken = native_client_take(client, data, bytes);
    if (taken < 0)
        return (int)taken;
    size_t left = bytes - (size_t)taken;
    if (left > client->partial_bytes_max) {
        uint8_t *grown = realloc(client->partial, left);
        if (grown == NULL)
            return ERR_LIMIT;
        client->partial = grown;
        client->partial_bytes_max = left;
    }
    if (left > 0)
        memmove(client->partial, data + taken, left);
    client->partial_bytes = left;
    return 0;
}

/* ---- connection --------------------------------------------------------------------------------
 */

static int native_client_received(struct client_socket *socket, const uint8_t *data, size_t bytes)
{
    return native_client_input(container_of(socket, struct native_client, socket), data, bytes);
}

static void native_client_opened(struct client_socket *socket)
{
    struct native_client *client = container_of(socket, struct native_client, socket);
    if (client->opened != NULL)
        client->opened(client);
}

static void native_client_closed(struct client_socket *socket, int error)
{
    struct native_client *client = container_of(socket, struct native_client, socket);
    for (uint32_t i = 0; i < client->calls_max; i++) {
        struct native_client_call call = client->calls[i];
        if (call.request_id == 0)
            continue;
        native_client_release(client, &client->calls[i]);
        struct native_reply reply = {.request_id = call.request_id,
                                     .error = ERR_CLOSED,
                                     .grpc_status = GRPC_UNAVAILABLE,
                                     .text = bytes_from_text(err_text(ERR_CLOSED))};
        call.reply(call.context, &reply);
    }
    invariant(client->calls_live == 0);
    free(client->calls);
    free(client->partial);
    client->calls = NULL;
    client->partial = NULL;
    client->closed(client, error);
}

int native_client_open(struct client_set *set, struct native_client *client,
                       const struct io_address *address, uint32_t calls_max)
{
    invariant(calls_max > 0 && client->closed != NULL);
    client->calls = calloc(calls_max, sizeof(*client->calls));
    if (client->calls == NULL)
        return ERR_LIMIT;
    client->calls_max = calls_max;
    native_client_slots_init(client);
    client->socket.opened = native_client_opened;
    client->socket.received = native_client_received;
    client->socket.closed = native_client_closed;
    client_socket_open(set, &client->socket, address);
    return 0;
}

void native_client_close(struct native_client *client)
{
    client_socket_close(&client->socket, 0);
}
