#include <criterion/criterion.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/err.h"
#include "server/peer_codec.h"

static struct peer_input input_of(const uint8_t *meta, uint32_t meta_bytes, const void *payload,
                                  uint32_t payload_bytes)
{
    return (struct peer_input){.header = {.kind = PEER_MESSAGE_RAFT,
                                          .meta_bytes = meta_bytes,
                                          .payload_bytes = payload_bytes,
                                          .from = 7,
                                          .to = 8},
                               .meta = meta,
                               .payload = payload};
}

static struct entry entry_make(uint64_t index, const char *text)
{
    return (struct entry){.index = index,
                          .term = 3,
                          .payload = (const uint8_t *)text,
                          .payload_bytes = (uint32_t)strlen(text),
                          .payload_crc = crc32c(0, text, strlen(text)),
                          .type = ENTRY_NORMAL};
}

Test(peer_codec, every_field_of_a_message_survives)
{
    struct raft_message sent = {.kind = RAFT_MESSAGE_VOTE_RESPONSE,
                                .reject = true,
                                .transfer = true,
                                .term = 1,
                                .index = 2,
                                .log_term = 3,
                                .commit = 4,
                                .commit_term = 5,
                                .hint_index = 6,
                                .context = 7,
                                .sent_ns = 8};
    struct raft_message got;
    uint8_t meta[256];
    uint32_t bytes = peer_codec_message_bytes(&sent);
    cr_assert_eq(peer_codec_encode_message(meta, &sent, NULL), meta + bytes);
    struct peer_input input = input_of(meta, bytes, NULL, 0);
    cr_assert_eq(peer_codec_decode_message(&input, &got, NULL), 0);
    cr_expect_eq(got.kind, sent.kind);
    cr_expect(got.reject && got.transfer);
    cr_expect_eq(got.from, 7);
    cr_expect_eq(got.to, 8);
    cr_expect_eq(got.term, 1);
    cr_expect_eq(got.index, 2);
    cr_expect_eq(got.log_term, 3);
    cr_expect_eq(got.commit, 4);
    cr_expect_eq(got.commit_term, 5);
    cr_expect_eq(got.hint_index, 6);
    cr_expect_eq(got.context, 7);
    cr_expect_eq(got.sent_ns, 8);
}

Test(peer_codec, entries_keep_their_bytes_and_checksums)
{
    struct entry a = entry_make(11, "one"), b = entry_make(12, ""), c = entry_make(13, "three");
    const struct entry *pointers[] = {&a, &b, &c};
    struct raft_message sent = {
        .kind = RAFT_MESSAGE_APPEND, .term = 3, .index = 10, .log_term = 2, .entry_count = 3};
    struct raft_message got;
    struct entry entries[3];
    uint8_t meta[512];
    char payload[] = "onethree";
    uint32_t bytes = peer_codec_message_bytes(&sent);
    cr_assert_eq(peer_codec_encode_message(meta, &sent, pointers), meta + bytes);
    struct peer_input input = input_of(meta, bytes, payload, 8);
    cr_assert_eq(peer_codec_decode_message(&input, &got, entries), 0);
    cr_assert_eq(got.entry_count, 3);
    for (int i = 0; i < 3; i++) {
        cr_expect_eq(entries[i].index, 11 + (uint64_t)i);
        cr_expect_eq(entries[i].payload_crc, pointers[i]->payload_crc);
        cr_expect_eq(memcmp(entries[i].payload_bytes ? (const char *)entries[i].payload : "",
                            pointers[i]->payload, pointers[i]->payload_bytes),
                     0);
    }
    payload[4] ^= 1;
    cr_expect_eq(peer_codec_decode_message(&input, &got, entries), ERR_CORRUPT);
    payload[4] ^= 1;
    input.header.payload_bytes = 7;
    cr_expect_eq(peer_codec_decode_message(&input, &got, entries), ERR_MALFORMED);
    input.header.payload_bytes = 8;
    input.header.meta_bytes--;
    cr_expect_eq(peer_codec_decode_message(&input, &got, entries), ERR_MALFORMED);
}

Test(peer_codec, what_no_member_sends_is_refused)
{
    static const struct {
        const char *why;
        uint32_t at;
        uint8_t value;
    } cases[] = {
        {"an unknown kind", 0, 99},
        {"kind zero", 0, 0},
        {"an unknown flag", 1, 128},
        {"padding used", 2, 1},
        {"too many entries", 7, 1},
        {"entries of a heartbeat", 4, 1},
        {"a snapshot", 0, RAFT_MESSAGE_SNAPSHOT},
    };
    struct raft_message sent = {.kind = RAFT_MESSAGE_HEARTBEAT, .term = 3}, got;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint8_t meta[256];
        uint32_t bytes = peer_codec_message_bytes(&sent);
        peer_codec_encode_message(meta, &sent, NULL);
        meta[cases[i].at] = cases[i].value;
        struct peer_input input = input_of(meta, bytes, NULL, 0);
        cr_expect_eq(peer_codec_decode_message(&input, &got, NULL), ERR_MALFORMED, "%s",
                     cases[i].why);
    }
}

Test(peer_codec, requests_and_refusals)
{
    uint8_t meta[1024];
    struct entry requests[2] = {entry_make(0, "ab"), entry_make(0, "c")}, back[2];
    uint32_t count;
    cr_assert_eq(peer_codec_encode_forward(meta, requests, 2), meta + peer_codec_forward_bytes(2));
    struct peer_input input = input_of(meta, peer_codec_forward_bytes(2), "abc", 3);
    cr_assert_eq(peer_codec_decode_forward(&input, back, &count), 0);
    cr_expect_eq(count, 2);
    cr_expect_eq(back[1].payload_bytes, 1);

    struct peer_refuse refuse = {.stream = 65535, .error = ERR_CONFIG, .sequence = 77}, refused;
    peer_codec_encode_refuse(meta, &refuse);
    input = input_of(meta, PEER_REFUSE_BYTES, NULL, 0);
    cr_assert_eq(peer_codec_decode_refuse(&input, &refused), 0);
    cr_expect_eq(refused.error, ERR_CONFIG);
    cr_expect_eq(refused.sequence, 77);
}

Test(peer_codec, a_request_for_repair)
{
    const struct peer_repair_request sent = {
        .first = 10, .last = 20, .term = 3, .burn = 9, .wanted = true};
    struct peer_repair_request got;
    uint8_t meta[PEER_REPAIR_REQUEST_BYTES];
    peer_codec_encode_repair_request(meta, &sent);
    struct peer_input input = input_of(meta, sizeof(meta), NULL, 0);
    cr_assert_eq(peer_codec_decode_repair_request(&input, &got), 0);
    cr_expect(got.first == 10 && got.last == 20 && got.term == 3 && got.burn == 9 && got.wanted);
    static const struct {
        const char *why;
        uint32_t offset;
        uint8_t value;
    } cases[] = {
        {"first is 0", 0, 0},   {"last before first", 8, 9}, {"term is 0", 16, 0},
        {"wanted is 2", 32, 2}, {"not zero", 36, 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint8_t bad[sizeof(meta)];
        memcpy(bad, meta, sizeof(meta));
        bad[cases[i].offset] = cases[i].value;
        input = input_of(bad, sizeof(bad), NULL, 0);
        cr_expect_eq(peer_codec_decode_repair_request(&input, &got), ERR_MALFORMED, "%s",
                     cases[i].why);
    }
    input = input_of(meta, sizeof(meta) - 1, NULL, 0);
    cr_expect_eq(peer_codec_decode_repair_request(&input, &got), ERR_MALFORMED);
    input = input_of(meta, sizeof(meta), "x", 1);
    cr_expect_eq(peer_codec_decode_repair_request(&input, &got), ERR_MALFORMED);
}

Test(peer_codec, an_answer_to_it_is_believed_only_whole)
{
    struct entry a = entry_make(10, "one"), b = entry_make(11, "two");
    const struct entry *pointers[] = {&a, &b};
    const struct peer_repair_answer sent = {.first = 10,
                                            .term = 3,
                                            .burn = 9,
                                            .own_term = 8,
                                            .answer = FAULT_ANSWER_ENTRIES,
                                            .count = 2};
    struct peer_repair_answer got;
    struct entry entries[2];
    uint8_t meta[256];
    uint32_t bytes = peer_codec_repair_answer_bytes(2);
    cr_assert_eq(peer_codec_encode_repair_answer(meta, &sent, pointers), meta + bytes);
    struct peer_input input = input_of(meta, bytes, "onetwo", 6);
    cr_assert_eq(peer_codec_decode_repair_answer(&input, &got, entries), 0);
    cr_expect(got.first == 10 && got.term == 3 && got.burn == 9 && got.own_term == 8 &&
              got.count == 2 && entries[1].index == 11 && entries[1].term == 3);
    input = input_of(meta, bytes, "onetwx", 6);
    cr_expect_eq(peer_codec_decode_repair_answer(&input, &got, entries), ERR_CORRUPT);
    b.term = 4;
    cr_assert_eq(peer_codec_encode_repair_answer(meta, &sent, pointers), meta + bytes);
    input = input_of(meta, bytes, "onetwo", 6);
    cr_expect_eq(peer_codec_decode_repair_answer(&input, &got, entries), ERR_MALFORMED,
                 "an entry of another term");
    struct peer_repair_answer none = sent;
    none.count = 0;
    (void)peer_codec_encode_repair_answer(meta, &none, NULL);
    input = input_of(meta, peer_codec_repair_answer_bytes(0), NULL, 0);
    cr_expect_eq(peer_codec_decode_repair_answer(&input, &got, entries), ERR_MALFORMED,
                 "entries, and none there");
    none.answer = FAULT_ANSWER_NEVER;
    (void)peer_codec_encode_repair_answer(meta, &none, NULL);
    cr_expect_eq(peer_codec_decode_repair_answer(&input, &got, entries), 0);
    meta[32] = FAULT_ANSWER_COUNT;
    cr_expect_eq(peer_codec_decode_repair_answer(&input, &got, entries), ERR_MALFORMED);
}
