#include "server/peer_codec.h"

#include "core/crc32c.h"
#include "core/err.h"
#include "core/invariant.h"

/* docs/formats/peer-frame.md. A message: kind u8, flags u8, zero u16, entry count u32, eight
 * numbers u64; then the entries' heads. */
#define AT_KIND       0
#define AT_FLAGS      1
#define AT_COUNT      4
#define AT_NUMBERS    8
#define NUMBERS       8
#define MESSAGE_BYTES (AT_NUMBERS + 8 * NUMBERS)
#define HEAD_BYTES    24 /* term u64, payload bytes u32, checksum u32, type u32, zero u32 */

enum { FLAG_REJECT = 1, FLAG_TRANSFER = 2 };

/* A snapshot's own connection and frames tell of it (server/snapshot_send.h): as a message between
 * the others it would replace a log whose tables nobody sent. */
static bool kind_travels(uint32_t kind)
{
    return kind >= RAFT_MESSAGE_APPEND && kind <= RAFT_MESSAGE_READ_INDEX_RESPONSE &&
           kind != RAFT_MESSAGE_SNAPSHOT;
}

uint32_t peer_codec_message_bytes(const struct raft_message *message)
{
    return MESSAGE_BYTES + HEAD_BYTES * message->entry_count;
}

static uint8_t *encode_head(uint8_t *at, const struct entry *entry)
{
    le64_store(at, entry->term);
    le32_store(at + 8, entry->payload_bytes);
    le32_store(at + 12, entry->payload_crc);
    le32_store(at + 16, entry->type);
    le32_store(at + 20, 0);
    return at + HEAD_BYTES;
}

static int decode_head(const uint8_t *at, struct entry *entry)
{
    *entry = (struct entry){.term = le64_load(at),
                            .payload_bytes = le32_load(at + 8),
                            .payload_crc = le32_load(at + 12),
                            .type = le32_load(at + 16)};
    if (entry->payload_bytes > ENTRY_PAYLOAD_BYTES_MAX || entry->type > ENTRY_CONFIG_CHANGE ||
        le32_load(at + 20) != 0)
        return ERR_MALFORMED;
    return 0;
}

uint8_t *peer_codec_encode_message(uint8_t *meta, const struct raft_message *message,
                                   const struct entry *const *entries)
{
    const uint64_t numbers[NUMBERS] = {message->term,    message->index,       message->log_term,
                                       message->commit,  message->commit_term, message->hint_index,
                                       message->context, message->sent_ns};
    invariant(kind_travels(message->kind));
    memset(meta, 0, MESSAGE_BYTES);
    meta[AT_KIND] = (uint8_t)message->kind;
    meta[AT_FLAGS] =
        (uint8_t)((message->reject ? FLAG_REJECT : 0) | (message->transfer ? FLAG_TRANSFER : 0));
    le32_store(meta + AT_COUNT, message->entry_count);
    for (uint32_t i = 0; i < NUMBERS; i++)
        le64_store(meta + AT_NUMBERS + 8 * i, numbers[i]);
    uint8_t *at = meta + MESSAGE_BYTES;
    for (uint32_t i = 0; i < message->entry_count; i++)
        at = encode_head(at, entries[i]);
    return at;
}

/* The heads at `at`, and their payloads in the frame's payload. */
static int decode_entries(const struct peer_input *input, const uint8_t *at, struct entry *entries,
                          uint32_t count, uint64_t first_index)
{
    uint64_t used = 0;
    for (uint32_t i = 0; i < count; i++, at += HEAD_BYTES) {
        struct entry *entry = &entries[i];
        int error = decode_head(at, entry);
        if (error < 0)
            return error;
        if (entry->payload_bytes > input->header.payload_bytes - used)
            return ERR_MALFORMED;
        entry->index = first_index + i;
        if (entry->payload_bytes > 0)
            entry->payload = input->payload + used;
        used += entry->payload_bytes;
        if (crc32c(0, entry->payload, entry->payload_bytes) != entry->payload_crc)
            return ERR_CORRUPT;
    }
    return used == input->header.payload_bytes ? 0 : ERR_MALFORMED;
}

int peer_codec_decode_message(const struct peer_input *input, struct raft_message *message,
                              struct entry *entries)
{
    const uint8_t *meta = input->meta;
    size_t meta_bytes = input->header.meta_bytes;
    if (meta_bytes < MESSAGE_BYTES || !kind_travels(meta[AT_KIND]) ||
        (meta[AT_FLAGS] & ~(FLAG_REJECT | FLAG_TRANSFER)) != 0 || le16_load(meta + 2) != 0)
        return ERR_MALFORMED;
    uint64_t numbers[NUMBERS];
    for (uint32_t i = 0; i < NUMBERS; i++)
        numbers[i] = le64_load(meta + AT_NUMBERS + 8 * i);
    *message = (struct raft_message){.kind = (enum raft_message_kind)meta[AT_KIND],
                                     .reject = meta[AT_FLAGS] & FLAG_REJECT,
                                     .transfer = meta[AT_FLAGS] & FLAG_TRANSFER,
                                     .from = input->header.from,
                                     .to = input->header.to,
                                     .term = numbers[0],
                                     .index = numbers[1],
                                     .log_term = numbers[2],
                                     .commit = numbers[3],
                                     .commit_term = numbers[4],
                                     .hint_index = numbers[5],
                                     .context = numbers[6],
                                     .sent_ns = numbers[7],
                                     .entry_count = le32_load(meta + AT_COUNT)};
    const uint8_t *rest = meta + MESSAGE_BYTES;
    size_t rest_bytes = meta_bytes - MESSAGE_BYTES;
    if (message->entry_count > PEER_ENTRIES_MAX ||
        rest_bytes != HEAD_BYTES * message->entry_count ||
        (message->entry_count > 0 && message->kind != RAFT_MESSAGE_APPEND) ||
        message->index > UINT64_MAX - 1 - message->entry_count)
        return ERR_MALFORMED;
    message->entries = entries;
    return decode_entries(input, rest, entries, message->entry_count, message->index + 1);
}

/* ---- forwarded requests --------------------------------------------------------------------- */

uint32_t peer_codec_forward_bytes(uint32_t count)
{
    return 4 + HEAD_BYTES * count;
}

uint8_t *peer_codec_encode_forward(uint8_t *meta, const struct entry *entries, uint32_t count)
{
    uint8_t *at = meta + 4;
    le32_store(meta, count);
    for (uint32_t i = 0; i < count; i++)
        at = encode_head(at, &entries[i]);
    return at;
}

int peer_codec_decode_forward(const struct peer_input *input, struct entry *entries,
                              uint32_t *count)
{
    if (input->header.meta_bytes < 4)
        return ERR_MALFORMED;
    *count = le32_load(input->meta);
    if (*count == 0 || *count > PEER_ENTRIES_MAX ||
        input->header.meta_bytes != peer_codec_forward_bytes(*count))
        return ERR_MALFORMED;
    return decode_entries(input, input->meta + 4, entries, *count, 0);
}

/* stream u16, zero u16, error i32, sequence u64 */
void peer_codec_encode_refuse(uint8_t meta[PEER_REFUSE_BYTES], const struct peer_refuse *refuse)
{
    le16_store(meta, refuse->stream);
    le16_store(meta + 2, 0);
    le32_store(meta + 4, (uint32_t)refuse->error);
    le64_store(meta + 8, refuse->sequence);
}

int peer_codec_decode_refuse(const struct peer_input *input, struct peer_refuse *refuse)
{
    if (input->header.meta_bytes != PEER_REFUSE_BYTES || le16_load(input->meta + 2) != 0)
        return ERR_MALFORMED;
    refuse->stream = le16_load(input->meta);
    refuse->error = (int32_t)le32_load(input->meta + 4);
    refuse->sequence = le64_load(input->meta + 8);
    return refuse->error < 0 ? 0 : ERR_MALFORMED;
}

/* ---- repair --------------------------------------------------------------------------------- */

/* first u64, last u64, term u64, burn u64, wanted u32, zero u32 */
void peer_codec_encode_repair_request(uint8_t meta[PEER_REPAIR_REQUEST_BYTES],
                                      const struct peer_repair_request *request)
{
    le64_store(meta, request->first);
    le64_store(meta + 8, request->last);
    le64_store(meta + 16, request->term);
    le64_store(meta + 24, request->burn);
    le32_store(meta + 32, request->wanted);
    le32_store(meta + 36, 0);
}

int peer_codec_decode_repair_request(const struct peer_input *input,
                                     struct peer_repair_request *request)
{
    const uint8_t *meta = input->meta;
    if (input->header.meta_bytes != PEER_REPAIR_REQUEST_BYTES || input->header.payload_bytes != 0 ||
        le32_load(meta + 32) > 1 || le32_load(meta + 36) != 0)
        return ERR_MALFORMED;
    *request = (struct peer_repair_request){.first = le64_load(meta),
                                            .last = le64_load(meta + 8),
                                            .term = le64_load(meta + 16),
                                            .burn = le64_load(meta + 24),
                                            .wanted = le32_load(meta + 32) == 1};
    bool sound = request->first > 0 && request->first <= request->last &&
                 request->last < UINT64_MAX && request->term > 0 && request->burn <= RAFT_TERM_MAX;
    return sound ? 0 : ERR_MALFORMED;
}

/* first u64, term u64, burn u64, own term u64, answer u32, count u32; then heads */
#define REPAIR_ANSWER_FIXED_BYTES 40

uint32_t peer_codec_repair_answer_bytes(uint32_t count)
{
    return REPAIR_ANSWER_FIXED_BYTES + HEAD_BYTES * count;
}

uint8_t *peer_codec_encode_repair_answer(uint8_t *meta, const struct peer_repair_answer *answer,
                                         const struct entry *const *entries)
{
    le64_store(meta, answer->first);
    le64_store(meta + 8, answer->term);
    le64_store(meta + 16, answer->burn);
    le64_store(meta + 24, answer->own_term);
    le32_store(meta + 32, (uint32_t)answer->answer);
    le32_store(meta + 36, answer->count);
    uint8_t *at = meta + REPAIR_ANSWER_FIXED_BYTES;
    for (uint32_t i = 0; i < answer->count; i++)
        at = encode_head(at, entries[i]);
    return at;
}

int peer_codec_decode_repair_answer(const struct peer_input *input,
                                    struct peer_repair_answer *answer, struct entry *entries)
{
    const uint8_t *meta = input->meta;
    if (input->header.meta_bytes < REPAIR_ANSWER_FIXED_BYTES)
        return ERR_MALFORMED;
    *answer = (struct peer_repair_answer){.first = le64_load(meta),
                                          .term = le64_load(meta + 8),
                                          .burn = le64_load(meta + 16),
                                          .own_term = le64_load(meta + 24),
                                          .answer = (enum fault_answer)le32_load(meta + 32),
                                          .count = le32_load(meta + 36)};
    if (le32_load(meta + 32) >= FAULT_ANSWER_COUNT || answer->count > PEER_ENTRIES_MAX ||
        (answer->count > 0) != (answer->answer == FAULT_ANSWER_ENTRIES) || answer->first == 0 ||
        answer->first > UINT64_MAX - 1 - answer->count || answer->own_term > RAFT_TERM_MAX ||
        input->header.meta_bytes != peer_codec_repair_answer_bytes(answer->count))
        return ERR_MALFORMED;
    int error = decode_entries(input, meta + REPAIR_ANSWER_FIXED_BYTES, entries, answer->count,
                               answer->first);
    for (uint32_t i = 0; error == 0 && i < answer->count; i++)
        if (entries[i].term != answer->term)
            error = ERR_MALFORMED;
    return error;
}
