/* net/peer_reader: any bytes, well sealed frames with any content, cut anywhere. */
#include "core/err.h"
#include "core/invariant.h"
#include "net/peer_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    uint64_t headers, frames;
    struct peer_body *kept; /* the last one, beyond the callback */
};

static int on_header(void *context, const struct peer_header *header)
{
    struct seen *seen = context;
    seen->headers++;
    invariant(header->meta_bytes <= PEER_META_BYTES_MAX);
    invariant(header->payload_bytes <= PEER_PAYLOAD_BYTES_MAX);
    return header->kind == 99 || header->payload_bytes > 65536 ? ERR_LIMIT : 0;
}

static int on_frame(void *context, const struct peer_input *input)
{
    struct seen *seen = context;
    uint32_t sum = 0; /* every byte is readable */
    seen->frames++;
    for (uint32_t i = 0; i < input->header.meta_bytes; i++)
        sum += input->meta[i];
    for (uint32_t i = 0; i < input->header.payload_bytes; i++)
        sum += input->payload[i];
    if (input->body != NULL) {
        if (seen->kept != NULL)
            peer_body_release(seen->kept);
        peer_body_keep(seen->kept = input->body);
    }
    invariant(seen->frames <= seen->headers);
    return sum == 1 ? ERR_CLOSED : 0;
}

static const struct peer_reader_calls calls = {.header = on_header, .frame = on_frame};

static int feed(struct peer_reader *reader, const uint8_t *data, size_t bytes, size_t step,
                struct seen *seen)
{
    for (size_t at = 0; at < bytes;) {
        size_t part = u64_min(bytes - at, step);
        int error = peer_reader_feed(reader, data + at, part, &calls, seen);
        if (error < 0)
            return error;
        at += part;
    }
    return 0;
}

/* First byte: how the input is cut. Then records: one byte of what, two of sizes, content. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct peer_reader reader;
    struct seen seen = {0};
    uint8_t frame[PEER_HEADER_BYTES + 512];
    int error = 0;
    if (size < 1)
        return 0;
    size_t step = data[0] == 0 ? 1 << 20 : data[0];
    peer_reader_init(&reader);
    for (size_t at = 1; at + 3 < size && error == 0;) {
        uint32_t meta = data[at + 1], payload = data[at + 2];
        const uint8_t *content = data + at + 3;
        size_t have = u64_min(size - at - 3, meta + payload);
        if (data[at] & 1) {
            struct peer_header header = {
                .kind = data[at], .meta_bytes = meta, .payload_bytes = payload, .from = 1, .to = 2};
            memset(frame, 0, sizeof(frame));
            memcpy(frame + PEER_HEADER_BYTES, content, have);
            peer_frame_seal(frame, &header);
            if (data[at] & 2)
                frame[data[at] % PEER_HEADER_BYTES] ^= 1;
            error = feed(&reader, frame, PEER_HEADER_BYTES + meta + payload, step, &seen);
        } else {
            error = feed(&reader, content, have, step, &seen);
        }
        at += 3 + have;
    }
    peer_reader_deinit(&reader);
    if (seen.kept != NULL)
        peer_body_release(seen.kept);
    return 0;
}
