#include "core/invariant.h"
#include "net/pb.h"

/* Whatever pb_next() accepts can be written again, field by field, and reads the same. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *put(uint8_t *to, const struct pb_field *field)
{
    to = pb_put_tag(to, field->number, (enum pb_type)field->type);
    switch ((enum pb_type)field->type) {
    case PB_VARINT:
        return pb_put_varint(to, field->value);
    case PB_BYTES:
        to = pb_put_varint(to, field->bytes.size);
        if (field->bytes.size > 0)
            memcpy(to, field->bytes.data, field->bytes.size);
        return to + field->bytes.size;
    case PB_FIXED64:
        le64_store(to, field->value);
        return to + 8;
    case PB_FIXED32:
        le32_store(to, (uint32_t)field->value);
        return to + 4;
    }
    return to;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t written[1 << 16];
    struct pb_field field, again;
    struct pb_reader reader = pb_reader_make(bytes_make(data, size));
    if (size > sizeof(written) / 2)
        return 0;
    while (pb_next(&reader, &field) > 0) {
        invariant(reader.at >= data && reader.at <= data + size);
        uint8_t *end = put(written, &field);
        struct pb_reader back = pb_reader_make(bytes_make(written, (size_t)(end - written)));
        invariant(pb_next(&back, &again) == 1 && back.at == back.end);
        invariant(again.number == field.number && again.type == field.type);
        invariant(again.value == field.value && bytes_equal(again.bytes, field.bytes));
    }
    return 0;
}
