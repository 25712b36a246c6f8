/*
 * native_frame.h - the header of the native protocol: 32 bytes, little-endian, checksummed together
 * with its payload. Byte table and rules: docs/formats/native-frame.md.
 *
 * Story     The first byte is no ASCII letter, so that one port can tell native frames from HTTP.
 *           Every field is checked against its bound as soon as the header is there, before the
 *           payload length is used for anything; the checksum is verified once all is there.
 * Threads   Any: pure functions.
 * Errors    native_frame_parse() answers ERR_MALFORMED (magic, reserved bits, checksum),
 *           ERR_VERSION or ERR_LIMIT (length): the connection cannot be resynchronised and closes.
 */
#ifndef NET_NATIVE_FRAME_H
#define NET_NATIVE_FRAME_H

#include "core/base.h"

#define NATIVE_MAGIC            ((uint32_t)0x544652f5) /* f5 'R' 'F' 'T' on the wire */
#define NATIVE_MAGIC_FIRST_BYTE 0xf5
#define NATIVE_VERSION          1
#define NATIVE_HEADER_BYTES     32
#define NATIVE_PART_BYTES_MAX   ((size_t)(256 * 1024)) /* payload of one part of a large reply */

enum native_flags {
    NATIVE_FLAG_REPLY = 1,           /* from the server */
    NATIVE_FLAG_ERROR = 2,           /* payload is raftpb.Error; ends the call */
    NATIVE_FLAG_MORE = 4,            /* further messages of this call follow */
    NATIVE_FLAG_PART = 8,            /* the message goes on in the next frame of this call */
    NATIVE_FLAG_CANCEL = 16,         /* client: forget the call; no payload, no reply */
    NATIVE_FLAG_REQUIRE_LEADER = 32, /* client: fail at once when the member knows no leader */
    NATIVE_FLAG_CONTINUE = 64,       /* client: a further message of a call under way; see MORE */
};
#define NATIVE_FLAGS_KNOWN 127

struct native_frame {
    uint8_t flags;
    uint16_t method;
    uint32_t payload_bytes;
    uint32_t timeout_ms; /* of the call; 0: none */
    uint64_t request_id;
    const uint8_t *payload;
};

/* Looks at the first `bytes` of `data`. Returns the size of the frame when all of it is there and
 * its checksum holds; 0 when more is needed, with *wanted the number of bytes known to be needed in
 * all; or a negative error. */
must_check int64_t native_frame_parse(const uint8_t *data, size_t bytes, uint32_t payload_bytes_max,
                                      struct native_frame *frame, size_t *wanted);

/* Method and payload of a frame that is there as a whole, unchecked save for its magic and its
 * length. Returns its size, or 0. */
size_t native_frame_peek(const uint8_t *data, size_t bytes, uint16_t *method,
                         struct bytes *payload);

/* Writes the header in front of frame->payload_bytes bytes that are already at to + 32. */
void native_frame_seal(uint8_t *to, const struct native_frame *frame);

#endif
