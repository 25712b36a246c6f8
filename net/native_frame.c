#include "net/native_frame.h"

#include "core/crc32c.h"
#include "core/err.h"
#include "core/invariant.h"

/* Offsets; docs/formats/native-frame.md has the same table. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_FLAGS = 5,
    AT_METHOD = 6,
    AT_PAYLOAD_BYTES = 8,
    AT_TIMEOUT_MS = 12,
    AT_REQUEST_ID = 16,
    AT_RESERVED = 24,
    AT_CRC = 28,
};
_Static_assert(AT_CRC + sizeof(uint32_t) == NATIVE_HEADER_BYTES, "the checksum ends the header");

static int native_frame_check_magic(const uint8_t *data, size_t bytes)
{
    static const uint8_t magic[4] = {NATIVE_MAGIC_FIRST_BYTE, 'R', 'F', 'T'};
    return memcmp(data, magic, bytes < 4 ? bytes : 4) == 0 ? 0 : ERR_MALFORMED;
}

int64_t native_frame_parse(const uint8_t *data, size_t bytes, uint32_t payload_bytes_max,
                           struct native_frame *frame, size_t *wanted)
{
    *wanted = NATIVE_HEADER_BYTES;
    if (unlikely(bytes < NATIVE_HEADER_BYTES))
        return native_frame_check_magic(data, bytes);
    if (unlikely(le32_load(data + AT_MAGIC) != NATIVE_MAGIC))
        return ERR_MALFORMED;
    if (unlikely(data[AT_VERSION] != NATIVE_VERSION))
        return ERR_VERSION;
    frame->flags = data[AT_FLAGS];
    frame->method = le16_load(data + AT_METHOD);
    frame->payload_bytes = le32_load(data + AT_PAYLOAD_BYTES);
    frame->timeout_ms = le32_load(data + AT_TIMEOUT_MS);
    frame->request_id = le64_load(data + AT_REQUEST_ID);
    if (unlikely((frame->flags & ~NATIVE_FLAGS_KNOWN) != 0 || le32_load(data + AT_RESERVED) != 0))
        return ERR_MALFORMED;
    if (unlikely(frame->payload_bytes > payload_bytes_max))
        return ERR_LIMIT;
    size_t frame_bytes = NATIVE_HEADER_BYTES + (size_t)frame->payload_bytes;
    *wanted = frame_bytes;
    if (bytes < frame_bytes)
        return 0;
    frame->payload = data + NATIVE_HEADER_BYTES;
    uint32_t crc = crc32c(0, data, AT_CRC);
    crc = crc32c(crc, frame->payload, frame->payload_bytes);
    if (unlikely(crc != le32_load(data + AT_CRC)))
        return ERR_MALFORMED;
    return (int64_t)frame_bytes;
}

size_t native_frame_peek(const uint8_t *data, size_t bytes, uint16_t *method, struct bytes *payload)
{
    if (bytes < NATIVE_HEADER_BYTES || le32_load(data + AT_MAGIC) != NATIVE_MAGIC)
        return 0;
    size_t payload_bytes = le32_load(data + AT_PAYLOAD_BYTES);
    if (payload_bytes > bytes - NATIVE_HEADER_BYTES)
        return 0;
    *method = le16_load(data + AT_METHOD);
    *payload = bytes_make(data + NATIVE_HEADER_BYTES, payload_bytes);
    return NATIVE_HEADER_BYTES + payload_bytes;
}

void native_frame_seal(uint8_t *to, const struct native_frame *frame)
{
    invariant((frame->flags & ~NATIVE_FLAGS_KNOWN) == 0);
    le32_store(to + AT_MAGIC, NATIVE_MAGIC);
    to[AT_VERSION] = NATIVE_VERSION;
    to[AT_FLAGS] = frame->flags;
    le16_store(to + AT_METHOD, frame->method);
    le32_store(to + AT_PAYLOAD_BYTES, frame->payload_bytes);
    le32_store(to + AT_TIMEOUT_MS, frame->timeout_ms);
    le64_store(to + AT_REQUEST_ID, frame->request_id);
    le32_store(to + AT_RESERVED, 0);
    uint32_t crc = crc32c(0, to, AT_CRC);
    crc = crc32c(crc, to + NATIVE_HEADER_BYTES, frame->payload_bytes);
    le32_store(to + AT_CRC, crc);
}
