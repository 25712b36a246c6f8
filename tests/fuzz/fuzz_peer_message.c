/* What members tell each other inside sealed frames: Raft messages, forwarded requests, refusals, a
 * snapshot's offer, chunks and status, and what repairs a log. What decodes must encode to the same
 * bytes. */
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/invariant.h"
#include "server/peer_codec.h"
#include "server/snapshot_files.h"

/* docs/formats/peer-frame.md */
#define MESSAGE_BYTES      72
#define REPAIR_BYTES_FIXED 40
#define REPAIR_FROM        248 /* first byte from here on: repair; below it counts modulo four */
#define HEAD_BYTES         24
#define HEAD_PAYLOAD       8
#define HEAD_CRC           12

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct entry entries[PEER_ENTRIES_MAX];
static const struct entry *pointers[PEER_ENTRIES_MAX];
static uint8_t encoded[1 << 17];

/* So that the fuzzer gets past the checksums of the payloads. */
static void heads_repair(uint8_t *heads, size_t bytes, const uint8_t *payload, size_t left)
{
    for (size_t at = 0; at + HEAD_BYTES <= bytes; at += HEAD_BYTES) {
        uint32_t taken = le32_load(heads + at + HEAD_PAYLOAD);
        if (taken > left)
            return;
        le32_store(heads + at + HEAD_CRC, crc32c(0, payload, taken));
        payload += taken;
        left -= taken;
    }
}

static void check_same(const struct peer_input *input, size_t bytes)
{
    invariant(bytes == input->header.meta_bytes);
    invariant(memcmp(encoded, input->meta, bytes) == 0);
}

static void check_entries(const struct peer_input *input, uint32_t count)
{
    const uint8_t *at = input->payload;
    for (uint32_t i = 0; i < count; i++) {
        invariant(entries[i].payload_bytes == 0 || entries[i].payload == at);
        at += entries[i].payload_bytes;
        pointers[i] = &entries[i];
    }
    invariant(at == input->payload + input->header.payload_bytes);
}

static void try_message(const struct peer_input *input)
{
    struct raft_message message;
    if (peer_codec_decode_message(input, &message, entries) < 0)
        return;
    check_entries(input, message.entry_count);
    size_t bytes = peer_codec_message_bytes(&message);
    invariant(bytes <= sizeof(encoded));
    invariant(peer_codec_encode_message(encoded, &message, pointers) == encoded + bytes);
    check_same(input, bytes);
}

static void try_forward(const struct peer_input *input)
{
    uint32_t count = 0;
    if (peer_codec_decode_forward(input, entries, &count) < 0)
        return;
    check_entries(input, count);
    invariant(peer_codec_forward_bytes(count) <= sizeof(encoded));
    check_same(input, (size_t)(peer_codec_encode_forward(encoded, entries, count) - encoded));
}

static void try_offer(const struct peer_input *input)
{
    static struct snapshot_files files;
    if (snapshot_offer_decode(input, &files) < 0)
        return;
    uint64_t positions[] = {0, files.bytes / 2, files.bytes - 1};
    for (size_t i = 0; i < ARRAY_COUNT(positions); i++) {
        struct snapshot_place place = snapshot_place(&files, positions[i]);
        invariant(place.offset < files.files[place.file].bytes);
        invariant(strchr(files.files[place.file].name, '/') == NULL);
    }
    snapshot_offer_encode(encoded, &files);
    check_same(input, snapshot_offer_bytes(&files));
}

static void try_small(const struct peer_input *input)
{
    struct peer_refuse refuse;
    struct snapshot_status status;
    struct snapshot_chunk chunk;
    if (peer_codec_decode_refuse(input, &refuse) == 0) {
        peer_codec_encode_refuse(encoded, &refuse);
        check_same(input, PEER_REFUSE_BYTES);
    }
    if (snapshot_status_decode(input, &status) == 0) {
        snapshot_status_encode(encoded, &status);
        check_same(input, SNAPSHOT_STATUS_BYTES);
    }
    if (snapshot_chunk_decode(input, &chunk) == 0) {
        snapshot_chunk_encode(encoded, &chunk);
        check_same(input, SNAPSHOT_CHUNK_META);
    }
}

static void try_repair(const struct peer_input *input)
{
    struct peer_repair_request request;
    struct peer_repair_answer answer;
    if (peer_codec_decode_repair_request(input, &request) == 0) {
        invariant(request.first > 0 && request.first <= request.last && request.term > 0);
        peer_codec_encode_repair_request(encoded, &request);
        check_same(input, PEER_REPAIR_REQUEST_BYTES);
    }
    if (peer_codec_decode_repair_answer(input, &answer, entries) < 0)
        return;
    invariant(peer_codec_repair_answer_bytes(answer.count) <= sizeof(encoded));
    if (answer.count > 0)
        check_entries(input, answer.count);
    for (uint32_t i = 0; i < answer.count; i++)
        invariant(entries[i].index == answer.first + i && entries[i].term == answer.term);
    uint8_t *end = peer_codec_encode_repair_answer(encoded, &answer, pointers);
    check_same(input, (size_t)(end - encoded));
}

/* First byte: which decoder. Two bytes: how much is meta. The rest is payload. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3 || size > sizeof(encoded))
        return 0;
    size_t meta_bytes = u64_min(le16_load(data + 1), size - 3), payload_bytes;
    payload_bytes = size - 3 - meta_bytes;
    uint8_t *meta = malloc(meta_bytes + 1), *payload = malloc(payload_bytes + 1);
    invariant(meta != NULL && payload != NULL);
    memcpy(meta, data + 3, meta_bytes);
    memcpy(payload, data + 3 + meta_bytes, payload_bytes);
    bool repairs = data[0] >= REPAIR_FROM;
    size_t fixed = repairs ? REPAIR_BYTES_FIXED : data[0] % 4 == 0 ? MESSAGE_BYTES : 4;
    if ((repairs || data[0] % 4 < 2) && meta_bytes > fixed)
        heads_repair(meta + fixed, meta_bytes - fixed, payload, payload_bytes);
    struct peer_input input = {.header = {.meta_bytes = (uint32_t)meta_bytes,
                                          .payload_bytes = (uint32_t)payload_bytes,
                                          .from = 1,
                                          .to = 2},
                               .meta = meta,
                               .payload = payload};
    static void (*const decoders[])(const struct peer_input *) = {try_message, try_forward,
                                                                  try_offer, try_small};
    if (repairs)
        try_repair(&input);
    else
        decoders[data[0] % 4](&input);
    free(meta);
    free(payload);
    return 0;
}
