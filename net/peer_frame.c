#include "net/peer_frame.h"

#include "core/crc32c.h"
#include "core/err.h"
#include "core/invariant.h"

/* docs/formats/peer-frame.md */
#define AT_MAGIC       0
#define AT_VERSION     4
#define AT_KIND        6
#define AT_HEADER_CRC  8
#define AT_META        12
#define AT_PAYLOAD     16
#define AT_META_CRC    20
#define AT_CLUSTER     24
#define AT_FROM        32
#define AT_TO          40
#define AT_INCARNATION 48
_Static_assert(AT_INCARNATION + 8 == PEER_HEADER_BYTES, "the header has no hole");

static uint32_t header_crc(const uint8_t *frame)
{
    uint32_t crc = crc32c(0, frame, AT_HEADER_CRC);
    return crc32c(crc, frame + AT_META, PEER_HEADER_BYTES - AT_META);
}

void peer_frame_seal(uint8_t *frame, const struct peer_header *header)
{
    invariant(header->meta_bytes <= PEER_META_BYTES_MAX);
    invariant(header->payload_bytes <= PEER_PAYLOAD_BYTES_MAX);
    le32_store(frame + AT_MAGIC, PEER_MAGIC);
    le16_store(frame + AT_VERSION, PEER_VERSION);
    le16_store(frame + AT_KIND, header->kind);
    le32_store(frame + AT_META, header->meta_bytes);
    le32_store(frame + AT_PAYLOAD, header->payload_bytes);
    le32_store(frame + AT_META_CRC, crc32c(0, frame + PEER_HEADER_BYTES, header->meta_bytes));
    le64_store(frame + AT_CLUSTER, header->cluster);
    le64_store(frame + AT_FROM, header->from);
    le64_store(frame + AT_TO, header->to);
    le64_store(frame + AT_INCARNATION, header->incarnation);
    le32_store(frame + AT_HEADER_CRC, header_crc(frame));
}

int peer_frame_open(const uint8_t *bytes, struct peer_header *header)
{
    if (le32_load(bytes + AT_MAGIC) != PEER_MAGIC)
        return ERR_MALFORMED;
    if (le32_load(bytes + AT_HEADER_CRC) != header_crc(bytes))
        return ERR_MALFORMED;
    if (le16_load(bytes + AT_VERSION) != PEER_VERSION)
        return ERR_VERSION;
    header->kind = le16_load(bytes + AT_KIND);
    header->meta_bytes = le32_load(bytes + AT_META);
    header->payload_bytes = le32_load(bytes + AT_PAYLOAD);
    header->meta_crc = le32_load(bytes + AT_META_CRC);
    header->cluster = le64_load(bytes + AT_CLUSTER);
    header->from = le64_load(bytes + AT_FROM);
    header->to = le64_load(bytes + AT_TO);
    header->incarnation = le64_load(bytes + AT_INCARNATION);
    if (header->meta_bytes > PEER_META_BYTES_MAX || header->payload_bytes > PEER_PAYLOAD_BYTES_MAX)
        return ERR_LIMIT;
    return 0;
}

int peer_frame_check_meta(const struct peer_header *header, const uint8_t *meta)
{
    return crc32c(0, meta, header->meta_bytes) == header->meta_crc ? 0 : ERR_MALFORMED;
}
