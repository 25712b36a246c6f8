/*
 * peer_frame.h - the frame that members exchange on the peer port: layout, sealing, checking.
 *
 * Story     A frame is a fixed header, a small `meta` part and an opaque `payload`. The header and
 *           the meta part have a checksum each, so that a length is trusted before memory is taken
 *           for it; the payload carries its own checksums inside meta (log entries keep the one
 *           that they were born with: their bytes are never encoded or summed again on the way).
 *           Every frame names the cluster, its sender, its receiver and the sender's incarnation.
 * Owner     Nobody: no state.
 * Threads   Any.
 * Units     Sizes in bytes; integers little-endian.
 * Errors    ERR_MALFORMED (magic, checksum, reserved bytes), ERR_VERSION, ERR_LIMIT (a length above
 *           its bound): the connection that carried it must close.
 * Limits    PEER_META_BYTES_MAX, PEER_PAYLOAD_BYTES_MAX.
 * Source    docs/formats/peer-frame.md.
 */
#ifndef NET_PEER_FRAME_H
#define NET_PEER_FRAME_H

#include "core/base.h"

#define PEER_MAGIC             ((uint32_t)0x52454550) /* "PEER" */
#define PEER_VERSION           1
#define PEER_HEADER_BYTES      ((uint32_t)56)
#define PEER_META_BYTES_MAX    ((uint32_t)(1024 * 1024))
#define PEER_PAYLOAD_BYTES_MAX ((uint32_t)(24 * 1024 * 1024))

/* Kinds below PEER_KIND_USER belong to the transport; the rest to whoever uses it. */
enum peer_kind {
    PEER_KIND_HELLO = 1,    /* first on a connection, from who dialled */
    PEER_KIND_WELCOME = 2,  /* the answer: go on */
    PEER_KIND_REFUSAL = 3,  /* the answer: no, and why; the connection then closes */
    PEER_KIND_QUESTION = 4, /* from a process that is no member yet; sender and cluster may be 0 */
    PEER_KIND_ANSWER = 5,   /* the answer to it; the connection then closes */
    PEER_KIND_USER = 16,
};

struct peer_header {
    uint16_t kind;
    uint32_t meta_bytes, payload_bytes;
    uint32_t meta_crc;
    uint64_t cluster, from, to;
    uint64_t incarnation; /* of the sender; grows with every start of its process */
};

/* Writes the header in front of meta: `frame` points to PEER_HEADER_BYTES, then meta_bytes of meta.
 * header->meta_crc is computed here. */
void peer_frame_seal(uint8_t *frame, const struct peer_header *header);

/* `bytes` are PEER_HEADER_BYTES. Bounds and header checksum hold afterwards. */
must_check int peer_frame_open(const uint8_t *bytes, struct peer_header *header);

must_check int peer_frame_check_meta(const struct peer_header *header, const uint8_t *meta);

#endif
