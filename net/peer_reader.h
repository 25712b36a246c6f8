/*
 * peer_reader.h - cuts the bytes of a peer connection into frames.
 *
 * Story     Header first, checked before memory is taken for the rest. A frame without payload that
 *           lies whole in the input is handed over where it lies; any other is gathered in a body
 *           of its own, which its receiver may keep: log entries live in it until consensus lets go
 *           of them.
 * Owner     The connection. A body belongs to who holds references; one core.
 * Errors    peer_reader_feed(): what peer_frame.h says, or the callback's own negative answer.
 *           After an error the reader must not be fed again.
 * Limits    One frame at a time, of the sizes in peer_frame.h.
 */
#ifndef NET_PEER_READER_H
#define NET_PEER_READER_H

#include "net/peer_frame.h"

struct peer_body {
    uint32_t references;
    uint32_t bytes;
    uint8_t data[]; /* meta, then payload */
};

static inline void peer_body_keep(struct peer_body *body)
{
    body->references++;
}
void peer_body_release(struct peer_body *body);

struct peer_input {
    struct peer_header header;
    const uint8_t *meta, *payload;
    struct peer_body *body; /* NULL: borrowed for the call. Else peer_body_keep() lengthens it */
};

struct peer_reader {
    uint8_t header_bytes[PEER_HEADER_BYTES];
    uint32_t header_have;
    uint32_t body_have;
    struct peer_input input;
};

struct peer_reader_calls {
    /* The header is sound: does this connection take it? Negative: close. */
    int (*header)(void *context, const struct peer_header *header);
    int (*frame)(void *context, const struct peer_input *input);
};

void peer_reader_init(struct peer_reader *reader);
void peer_reader_deinit(struct peer_reader *reader);

must_check int peer_reader_feed(struct peer_reader *reader, const uint8_t *bytes, size_t count,
                                const struct peer_reader_calls *calls, void *context);

#endif
