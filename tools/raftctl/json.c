#include "tools/raftctl/json.h"

#include <inttypes.h>

#include "core/invariant.h"
#include "tools/raftctl/text.h"

static size_t json_value_bytes(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64:
        return sizeof(int64_t);
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_ENUM:
        return sizeof(int32_t);
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_DOUBLE:
        break;
    }
    invariant(false && "a type that the protocol does not use");
    return 0;
}

static bool json_value_is_zero(ProtobufCType type, const void *value)
{
    if (type == PROTOBUF_C_TYPE_BYTES)
        return ((const ProtobufCBinaryData *)value)->len == 0;
    if (type == PROTOBUF_C_TYPE_STRING) {
        const char *text = *(char *const *)value;
        return text == NULL || *text == '\0';
    }
    static const uint8_t zero[sizeof(void *)];
    return memcmp(value, zero, json_value_bytes(type)) == 0;
}

static void json_write_value(FILE *to, ProtobufCType type, const void *value)
{
    if (type == PROTOBUF_C_TYPE_INT64)
        fprintf(to, "%" PRId64, *(const int64_t *)value);
    else if (type == PROTOBUF_C_TYPE_UINT64)
        fprintf(to, "%" PRIu64, *(const uint64_t *)value);
    else if (type == PROTOBUF_C_TYPE_UINT32)
        fprintf(to, "%" PRIu32, *(const uint32_t *)value);
    else if (type == PROTOBUF_C_TYPE_INT32 || type == PROTOBUF_C_TYPE_ENUM)
        fprintf(to, "%" PRId32, *(const int32_t *)value);
    else if (type == PROTOBUF_C_TYPE_BOOL)
        fputs(*(const protobuf_c_boolean *)value ? "true" : "false", to);
    else if (type == PROTOBUF_C_TYPE_STRING)
        text_write_json(to, bytes_from_text(*(char *const *)value));
    else if (type == PROTOBUF_C_TYPE_MESSAGE)
        json_write_message(to, *(ProtobufCMessage *const *)value);
    else {
        const ProtobufCBinaryData *bytes = value;
        putc('"', to);
        text_write_base64(to, bytes_make(bytes->data, bytes->len));
        putc('"', to);
    }
}

static bool json_field_is_set(const ProtobufCMessage *message,
                              const ProtobufCFieldDescriptor *field)
{
    const uint8_t *base = (const void *)message;
    const void *value = base + field->offset;
    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        return *(const size_t *)(const void *)(base + field->quantifier_offset) > 0;
    if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
        return *(const uint32_t *)(const void *)(base + field->quantifier_offset) == field->id;
    return !json_value_is_zero(field->type, value);
}

static void json_write_field(FILE *to, const ProtobufCMessage *message,
                             const ProtobufCFieldDescriptor *field)
{
    const uint8_t *base = (const void *)message;
    const uint8_t *value = base + field->offset;
    fprintf(to, "\"%s\":", field->name);
    if (field->label != PROTOBUF_C_LABEL_REPEATED) {
        json_write_value(to, field->type, value);
        return;
    }
    size_t count = *(const size_t *)(const void *)(base + field->quantifier_offset);
    const uint8_t *values = *(uint8_t *const *)(const void *)value;
    putc('[', to);
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            putc(',', to);
        json_write_value(to, field->type, values + i * json_value_bytes(field->type));
    }
    putc(']', to);
}

void json_write_message(FILE *to, const ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    bool is_wrapped = type == &etcdserverpb__response_op__descriptor;
    bool is_first = true;
    fputs(is_wrapped ? "{\"Response\":{" : "{", to);
    for (unsigned i = 0; i < type->n_fields; i++) {
        if (!json_field_is_set(message, &type->fields[i]))
            continue;
        if (!is_first)
            putc(',', to);
        is_first = false;
        json_write_field(to, message, &type->fields[i]);
    }
    fputs(is_wrapped ? "}}" : "}", to);
}
