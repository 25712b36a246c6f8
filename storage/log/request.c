#include "storage/log/request.h"

#include "core/invariant.h"

/* offset 0: format u8; 1: kind u8; 2: stream u16; 4: body bytes u32; 8: origin u64; 16: sequence
 * u64 */
_Static_assert(REQUEST_HEADER_BYTES == 24, "docs/formats/request.md");

void request_encode_header(uint8_t header[REQUEST_HEADER_BYTES], const struct request *request)
{
    invariant(request_kind_name(request->kind) != NULL);
    invariant(request->body.size <= UINT32_MAX);
    header[0] = REQUEST_FORMAT;
    header[1] = (uint8_t)request->kind;
    le16_store(header + 2, request->stream);
    le32_store(header + 4, (uint32_t)request->body.size);
    le64_store(header + 8, request->origin);
    le64_store(header + 16, request->sequence);
}

int request_decode(struct request *request, struct bytes payload)
{
    if (payload.size < REQUEST_HEADER_BYTES || payload.data[0] != REQUEST_FORMAT ||
        request_kind_name(payload.data[1]) == NULL ||
        le32_load(payload.data + 4) != payload.size - REQUEST_HEADER_BYTES)
        return ERR_MALFORMED;
    request->kind = (enum request_kind)payload.data[1];
    request->stream = le16_load(payload.data + 2);
    request->origin = le64_load(payload.data + 8);
    request->sequence = le64_load(payload.data + 16);
    request->body =
        bytes_make(payload.data + REQUEST_HEADER_BYTES, payload.size - REQUEST_HEADER_BYTES);
    return 0;
}

const char *request_kind_name(uint32_t kind)
{
    static const char *const names[] = {
        [REQUEST_PUT] = "put",
        [REQUEST_DELETE_RANGE] = "delete_range",
        [REQUEST_TXN] = "txn",
        [REQUEST_COMPACT] = "compact",
        [REQUEST_ALARM] = "alarm",
        [REQUEST_MEMBER_ADD] = "member_add",
        [REQUEST_MEMBER_REMOVE] = "member_remove",
        [REQUEST_MEMBER_PROMOTE] = "member_promote",
        [REQUEST_MEMBER_UPDATE] = "member_update",
        [REQUEST_MEMBER_PUBLISH] = "member_publish",
    };
    return kind < ARRAY_COUNT(names) ? names[kind] : NULL;
}
