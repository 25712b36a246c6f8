#include <criterion/criterion.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/err.h"
#include "net/peer_reader.h"

/* ---- a wire of frames, and what came of it ------------------------------------------------------
 */

static uint8_t wire[64 * 1024];
static size_t wire_bytes;

static struct seen {
    uint32_t headers, frames;
    uint32_t meta_bytes[16], payload_bytes[16];
    bool in_place[16]; /* handed over where it lay in the input */
    struct peer_body *kept;
    const uint8_t *kept_payload;
    uint32_t refuse_header, fail_frame; /* from the n-th on; 0: never */
} seen;

static uint8_t byte_of(uint32_t frame, uint32_t at)
{
    return (uint8_t)(frame * 37 + at * 11 + at / 251);
}

static struct peer_header header_of(uint32_t meta_bytes, uint32_t payload_bytes)
{
    return (struct peer_header){.kind = PEER_KIND_USER,
                                .meta_bytes = meta_bytes,
                                .payload_bytes = payload_bytes,
                                .cluster = 1,
                                .from = 2,
                                .to = 3,
                                .incarnation = 4};
}

static void put_frame(uint32_t frame, uint32_t meta_bytes, uint32_t payload_bytes)
{
    struct peer_header header = header_of(meta_bytes, payload_bytes);
    uint8_t *at = wire + wire_bytes;
    for (uint32_t i = 0; i < meta_bytes + payload_bytes; i++)
        at[PEER_HEADER_BYTES + i] = byte_of(frame, i);
    peer_frame_seal(at, &header);
    wire_bytes += PEER_HEADER_BYTES + meta_bytes + payload_bytes;
}

static int on_header(void *context, const struct peer_header *header)
{
    struct seen *to = context;
    cr_assert_eq(header->cluster, 1);
    cr_assert_eq(header->from, 2);
    cr_assert_eq(header->to, 3);
    cr_assert_eq(header->incarnation, 4);
    return ++to->headers == to->refuse_header ? ERR_CLOSED : 0;
}

static int on_frame(void *context, const struct peer_input *input)
{
    struct seen *to = context;
    uint32_t frame = to->frames++;
    for (uint32_t i = 0; i < input->header.meta_bytes; i++)
        cr_assert_eq(input->meta[i], byte_of(frame, i));
    for (uint32_t i = 0; i < input->header.payload_bytes; i++)
        cr_assert_eq(input->payload[i], byte_of(frame, input->header.meta_bytes + i));
    to->meta_bytes[frame] = input->header.meta_bytes;
    to->payload_bytes[frame] = input->header.payload_bytes;
    to->in_place[frame] = input->body == NULL;
    if (input->header.payload_bytes > 0) {
        cr_assert_not_null(input->body, "a payload can be kept");
        if (to->kept == NULL) {
            peer_body_keep(to->kept = input->body);
            to->kept_payload = input->payload;
        }
    }
    return to->frames == to->fail_frame ? ERR_FULL : 0;
}

static const struct peer_reader_calls calls = {.header = on_header, .frame = on_frame};

static int feed(struct peer_reader *reader, size_t step)
{
    for (size_t at = 0; at < wire_bytes; at += step) {
        int error =
            peer_reader_feed(reader, wire + at, u64_min(step, wire_bytes - at), &calls, &seen);
        if (error != 0)
            return error;
    }
    return 0;
}

/* ---- tests --------------------------------------------------------------------------------------
 */

Test(peer_reader, frames_survive_any_cut)
{
    static const struct {
        uint32_t meta, payload;
    } frames[] = {{0, 0}, {7, 0}, {0, 9}, {40, 1000}, {0, 0}, {3000, 0}, {1, 1}};
    for (uint32_t i = 0; i < ARRAY_COUNT(frames); i++)
        put_frame(i, frames[i].meta, frames[i].payload);
    for (size_t step = 1; step <= wire_bytes; step += step < 300 ? 1 : 97) {
        struct peer_reader reader;
        seen = (struct seen){0};
        peer_reader_init(&reader);
        cr_assert_eq(feed(&reader, step), 0, "step %zu", step);
        cr_assert_eq(seen.frames, ARRAY_COUNT(frames), "step %zu", step);
        cr_assert_eq(seen.headers, ARRAY_COUNT(frames));
        for (uint32_t i = 0; i < ARRAY_COUNT(frames); i++) {
            cr_assert_eq(seen.meta_bytes[i], frames[i].meta);
            cr_assert_eq(seen.payload_bytes[i], frames[i].payload);
        }
        peer_reader_deinit(&reader);
        /* The body outlives frame and reader: nobody wrote over it meanwhile. */
        for (uint32_t i = 0; i < 9; i++)
            cr_assert_eq(seen.kept_payload[i], byte_of(2, i));
        peer_body_release(seen.kept);
    }
    struct peer_reader reader;
    seen = (struct seen){0};
    peer_reader_init(&reader);
    cr_assert_eq(feed(&reader, wire_bytes), 0);
    cr_expect(seen.in_place[1] && seen.in_place[5], "what has no payload is not copied");
    peer_reader_deinit(&reader);
    peer_body_release(seen.kept);
}

Test(peer_reader, a_reader_may_end_anywhere)
{
    put_frame(0, 100, 5000);
    for (size_t bytes = 0; bytes < wire_bytes; bytes += 13) {
        struct peer_reader reader;
        seen = (struct seen){0};
        peer_reader_init(&reader);
        cr_assert_eq(peer_reader_feed(&reader, wire, bytes, &calls, &seen), 0);
        cr_assert_eq(seen.frames, 0);
        peer_reader_deinit(&reader); /* leaks are the sanitizer's to find */
    }
}

Test(peer_reader, what_a_callback_answers_is_the_answer)
{
    struct peer_reader reader;
    for (uint32_t i = 0; i < 4; i++)
        put_frame(i, 5, i == 2 ? 100 : 0);
    seen = (struct seen){.refuse_header = 3};
    peer_reader_init(&reader);
    cr_expect_eq(feed(&reader, wire_bytes), ERR_CLOSED);
    cr_expect_eq(seen.frames, 2);
    cr_expect_null(reader.input.body, "no memory for what is not taken");
    peer_reader_deinit(&reader);
    seen = (struct seen){.fail_frame = 3};
    peer_reader_init(&reader);
    cr_expect_eq(feed(&reader, 10), ERR_FULL);
    cr_expect_eq(seen.frames, 3);
    peer_reader_deinit(&reader);
    peer_body_release(seen.kept);
}

Test(peer_reader, damage_is_noticed_before_memory_is_taken)
{
    static const struct {
        const char *why;
        uint32_t at;
        int error;
    } cases[] = {
        {"magic", 0, ERR_MALFORMED},
        {"version, as if by accident", 4, ERR_MALFORMED},
        {"kind", 6, ERR_MALFORMED},
        {"the checksum itself", 8, ERR_MALFORMED},
        {"length of meta", 14, ERR_MALFORMED},
        {"length of the payload", 18, ERR_MALFORMED},
        {"the receiver", 40, ERR_MALFORMED},
        {"meta", PEER_HEADER_BYTES + 3, ERR_MALFORMED},
        {"the payload has checksums of its own", PEER_HEADER_BYTES + 50, 0},
    };
    put_frame(0, 20, 50);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct peer_reader reader;
        seen = (struct seen){0};
        peer_reader_init(&reader);
        wire[cases[i].at] ^= 4;
        if (cases[i].error != 0) {
            cr_expect_eq(feed(&reader, 1000), cases[i].error, "%s", cases[i].why);
            cr_expect_eq(seen.frames, 0, "%s", cases[i].why);
            cr_expect_eq(seen.headers, cases[i].at < PEER_HEADER_BYTES ? 0 : 1);
        }
        wire[cases[i].at] ^= 4;
        peer_reader_deinit(&reader);
    }
}

Test(peer_reader, lengths_beyond_the_limits_are_refused)
{
    static const uint32_t at[] = {12, 16};
    static const uint32_t limits[] = {PEER_META_BYTES_MAX, PEER_PAYLOAD_BYTES_MAX};
    for (size_t i = 0; i < ARRAY_COUNT(at); i++)
        for (uint32_t over = 0; over < 2; over++) {
            uint8_t frame[PEER_HEADER_BYTES];
            struct peer_header header = header_of(0, 0), got;
            peer_frame_seal(frame, &header);
            le32_store(frame + at[i], limits[i] + over);
            uint32_t crc = crc32c(0, frame, 8);
            le32_store(frame + 8, crc32c(crc, frame + 12, PEER_HEADER_BYTES - 12));
            cr_expect_eq(peer_frame_open(frame, &got), over ? ERR_LIMIT : 0);
        }
}
