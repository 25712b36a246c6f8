/*
 * pb.h - protobuf's wire format by hand, for the messages of the hot path: a bounded reader that
 * yields views into its input, and writers into space the caller has sized.
 *
 * Story     pb_next() yields one field at a time; the caller switches on the number, and checks the
 *           wire type with pb_expect(). Unknown fields are skipped by not being looked at. Nothing
 *           is copied or allocated.
 * Owner     The input outlives the views.
 * Threads   Any.
 * Errors    pb_next() answers 1 for a field, 0 at the end, ERR_MALFORMED for truncation, a varint
 *           of more than 64 bits, field number 0, groups (types 3 and 4) or types 6 and 7.
 */
#ifndef NET_PB_H
#define NET_PB_H

#include "core/base.h"
#include "core/err.h"

enum pb_type { PB_VARINT = 0, PB_FIXED64 = 1, PB_BYTES = 2, PB_FIXED32 = 5 };

#define PB_VARINT_BYTES_MAX 10
#define PB_TAG_BYTES_MAX    5

struct pb_reader {
    const uint8_t *at, *end;
};

struct pb_field {
    uint32_t number;
    uint8_t type;       /* enum pb_type */
    uint64_t value;     /* varint, fixed32, fixed64 */
    struct bytes bytes; /* PB_BYTES */
};

static inline struct pb_reader pb_reader_make(struct bytes message)
{
    /* An empty message may have no address. */
    const uint8_t *end = message.size == 0 ? message.data : message.data + message.size;
    return (struct pb_reader){.at = message.data, .end = end};
}

must_check int pb_read_varint_slow(struct pb_reader *reader, uint64_t *value);

must_check static inline int pb_read_varint(struct pb_reader *reader, uint64_t *value)
{
    if (likely(reader->at < reader->end && *reader->at < 0x80)) {
        *value = *reader->at++;
        return 0;
    }
    return pb_read_varint_slow(reader, value);
}

must_check int pb_next(struct pb_reader *reader, struct pb_field *field);

/* Strict on wire types, as etcd's decoder is: another type than the schema's is malformed. */
must_check static inline int pb_expect(const struct pb_field *field, enum pb_type type)
{
    return likely(field->type == type) ? 0 : ERR_MALFORMED;
}

/* ---- sizes ------------------------------------------------------------------------------------
 */

static inline size_t pb_varint_bytes(uint64_t value)
{
    return (size_t)(((63 ^ __builtin_clzll(value | 1)) * 9 + 73) / 64);
}

static inline size_t pb_tag_bytes(uint32_t number)
{
    return pb_varint_bytes((uint64_t)number << 3);
}

/* Of a field as proto3 writes it: nothing at all for zero or empty. */
static inline size_t pb_varint_field_bytes(uint32_t number, uint64_t value)
{
    return value == 0 ? 0 : pb_tag_bytes(number) + pb_varint_bytes(value);
}

static inline size_t pb_bytes_field_bytes(uint32_t number, size_t bytes)
{
    return bytes == 0 ? 0 : pb_tag_bytes(number) + pb_varint_bytes(bytes) + bytes;
}

/* ---- writers: each returns the end of what it wrote --------------------------------------------
 */

static inline uint8_t *pb_put_varint(uint8_t *to, uint64_t value)
{
    while (value >= 0x80) {
        *to++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *to++ = (uint8_t)value;
    return to;
}

static inline uint8_t *pb_put_tag(uint8_t *to, uint32_t number, enum pb_type type)
{
    return pb_put_varint(to, (uint64_t)number << 3 | type);
}

/* Left out when zero. Signed 64-bit integers and enums: cast; negative ones take ten bytes. */
static inline uint8_t *pb_put_varint_field(uint8_t *to, uint32_t number, uint64_t value)
{
    if (value == 0)
        return to;
    return pb_put_varint(pb_put_tag(to, number, PB_VARINT), value);
}

/* Tag and length of an embedded message or string whose bytes follow; written even when empty. */
static inline uint8_t *pb_put_length(uint8_t *to, uint32_t number, size_t bytes)
{
    return pb_put_varint(pb_put_tag(to, number, PB_BYTES), bytes);
}

/* Left out when empty. */
static inline uint8_t *pb_put_bytes_field(uint8_t *to, uint32_t number, struct bytes value)
{
    if (value.size == 0)
        return to;
    to = pb_put_length(to, number, value.size);
    memcpy(to, value.data, value.size);
    return to + value.size;
}

#endif
