/*
 * peer_link.h - one connection between two members, dialled or accepted: frames in, frames out.
 *
 * Story     Data flows one way, from who dialled to who accepted; the other direction carries the
 *           answer to the greeting and to pings. Frames are written into the link's output buffer
 *           and leave, together, with peer_link_flush() at the end of the turn.
 * Owner     The set of peers (net/peer.h) that opened it; one core. The link frees itself after
 *           `closed`.
 * Errors    `closed` runs exactly once after open or accept; last touch.
 * Limits    The caller bounds peer_link_queued_bytes().
 */
#ifndef NET_PEER_LINK_H
#define NET_PEER_LINK_H

#include "core/core.h"
#include "net/outbuf.h"
#include "net/peer_reader.h"

#define PEER_LINK_IOVECS 16

struct peer_link;

struct peer_link_calls {
    struct peer_reader_calls reader; /* context: the link */
    void (*opened)(struct peer_link *link);
    void (*closed)(struct peer_link *link, int error);
};

struct peer_link {
    const struct peer_link_calls *calls;
    void *owner;          /* the set of peers */
    uint64_t id;          /* whom it leads to; 0 until a greeting told */
    uint64_t incarnation; /* of the other end; 0 until told */
    uint8_t lane;
    bool inbound;
    bool greeted; /* both ends agreed: frames may flow */
    uint64_t opened_ns, heard_ns, pinged_ns;
    struct peer_link *next; /* of the owner's list */

    struct core *core;
    struct io_connect connect;
    struct io_socket socket;
    struct io_op send_op;
    struct peer_reader reader;
    struct outbuf out;
    struct iovec iov[PEER_LINK_IOVECS];
    bool connecting, open, sending, closing, close_when_sent;
    bool inside; /* a callback of the reader runs */
    int error;
};

/* NULL when out of memory. */
must_check struct peer_link *peer_link_create(struct core *core, struct outbuf_pool *chunks,
                                              const struct peer_link_calls *calls, void *owner);
void peer_link_dial(struct peer_link *link, const struct io_address *address);
void peer_link_accept(struct peer_link *link, int32_t fd);

/* Room for a frame of these sizes behind its header, written by peer_link_frame_end(). */
uint8_t *peer_link_frame_begin(struct peer_link *link, uint32_t meta_bytes, uint32_t payload_bytes);
void peer_link_frame_end(struct peer_link *link, const struct peer_header *header);

void peer_link_flush(struct peer_link *link);
void peer_link_close(struct peer_link *link, int error);
void peer_link_close_when_sent(struct peer_link *link, int error);

static inline uint64_t peer_link_queued_bytes(const struct peer_link *link)
{
    return link->out.bytes;
}

#endif
