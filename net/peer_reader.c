#include "net/peer_reader.h"

#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"

void peer_body_release(struct peer_body *body)
{
    invariant(body->references > 0);
    if (--body->references == 0)
        free(body);
}

void peer_reader_init(struct peer_reader *reader)
{
    reader->header_have = reader->body_have = 0;
    reader->input.body = NULL;
}

void peer_reader_deinit(struct peer_reader *reader)
{
    if (reader->input.body != NULL)
        peer_body_release(reader->input.body);
    peer_reader_init(reader);
}

static int deliver(struct peer_reader *reader, const uint8_t *bytes,
                   const struct peer_reader_calls *calls, void *context)
{
    struct peer_input *input = &reader->input;
    struct peer_body *body = input->body;
    int error = peer_frame_check_meta(&input->header, bytes);
    if (error == 0) {
        input->meta = bytes;
        input->payload = bytes + input->header.meta_bytes;
        error = calls->frame(context, input);
    }
    peer_reader_init(reader);
    if (body != NULL)
        peer_body_release(body);
    return error;
}

/* Takes header bytes. Returns how many. */
static size_t take_header(struct peer_reader *reader, const uint8_t *bytes, size_t count)
{
    size_t part = u64_min(count, PEER_HEADER_BYTES - reader->header_have);
    memcpy(reader->header_bytes + reader->header_have, bytes, part);
    reader->header_have += (uint32_t)part;
    return part;
}

static int begin_body(struct peer_reader *reader, uint32_t bytes)
{
    struct peer_body *body = malloc(sizeof(*body) + bytes);
    if (body == NULL)
        return ERR_FULL;
    body->references = 1;
    body->bytes = bytes;
    reader->input.body = body;
    reader->body_have = 0;
    return 0;
}

/* The header is complete: what follows lies in the input, or needs a body. Sets *taken. */
static int take_rest(struct peer_reader *reader, const uint8_t *bytes, size_t count, size_t *taken,
                     const struct peer_reader_calls *calls, void *context)
{
    const struct peer_header *header = &reader->input.header;
    uint32_t rest = header->meta_bytes + header->payload_bytes;
    *taken = 0;
    if (reader->input.body == NULL) {
        if (header->payload_bytes == 0 && count >= rest) {
            *taken = rest;
            return deliver(reader, bytes, calls, context);
        }
        int error = begin_body(reader, rest);
        if (error < 0)
            return error;
    }
    struct peer_body *body = reader->input.body;
    invariant(reader->body_have < body->bytes);
    *taken = u64_min(count, body->bytes - reader->body_have);
    memcpy(body->data + reader->body_have, bytes, *taken);
    reader->body_have += (uint32_t)*taken;
    return reader->body_have < body->bytes ? 0 : deliver(reader, body->data, calls, context);
}

int peer_reader_feed(struct peer_reader *reader, const uint8_t *bytes, size_t count,
                     const struct peer_reader_calls *calls, void *context)
{
    size_t at = 0;
    int error = 0;
    while (error == 0) {
        if (reader->header_have < PEER_HEADER_BYTES) {
            at += take_header(reader, bytes + at, count - at);
            if (reader->header_have < PEER_HEADER_BYTES)
                return 0;
            error = peer_frame_open(reader->header_bytes, &reader->input.header);
            if (error == 0)
                error = calls->header(context, &reader->input.header);
            if (error < 0)
                return error;
        }
        bool empty = reader->input.header.meta_bytes + reader->input.header.payload_bytes == 0;
        if (at == count && !empty)
            return 0;
        size_t taken;
        error = take_rest(reader, bytes + at, count - at, &taken, calls, context);
        at += taken;
    }
    return error;
}
