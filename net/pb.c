#include "net/pb.h"

#include "core/invariant.h"

_Static_assert(PB_VARINT_BYTES_MAX * 7 >= 64, "ten groups of seven bits hold any integer");

int pb_read_varint_slow(struct pb_reader *reader, uint64_t *value)
{
    uint64_t result = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (reader->at == reader->end)
            return ERR_MALFORMED;
        uint8_t byte = *reader->at++;
        if (shift == 63 && byte > 1)
            return ERR_MALFORMED; /* more than 64 bits */
        result |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *value = result;
            return 0;
        }
    }
    return ERR_MALFORMED;
}

int pb_next(struct pb_reader *reader, struct pb_field *field)
{
    uint64_t tag, length;
    invariant(reader->at <= reader->end);
    if (reader->at == reader->end)
        return 0;
    if (pb_read_varint(reader, &tag) < 0 || tag > UINT32_MAX || tag >> 3 == 0)
        return ERR_MALFORMED;
    field->number = (uint32_t)(tag >> 3);
    field->type = (uint8_t)(tag & 7);
    field->value = 0;
    field->bytes = (struct bytes){0};
    size_t left;
    switch (field->type) {
    case PB_VARINT:
        return pb_read_varint(reader, &field->value) < 0 ? ERR_MALFORMED : 1;
    case PB_BYTES:
        if (pb_read_varint(reader, &length) < 0)
            return ERR_MALFORMED;
        left = (size_t)(reader->end - reader->at);
        if (length > left)
            return ERR_MALFORMED;
        field->bytes = bytes_make(reader->at, length);
        reader->at += length;
        return 1;
    case PB_FIXED64:
        if (reader->end - reader->at < 8)
            return ERR_MALFORMED;
        field->value = le64_load(reader->at);
        reader->at += 8;
        return 1;
    case PB_FIXED32:
        if (reader->end - reader->at < 4)
            return ERR_MALFORMED;
        field->value = le32_load(reader->at);
        reader->at += 4;
        return 1;
    }
    return ERR_MALFORMED; /* groups, and types that do not exist */
}
