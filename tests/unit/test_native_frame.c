#include <criterion/criterion.h>

#include "core/err.h"
#include "net/native_frame.h"

enum { PAYLOAD_MAX = 1000 };

static size_t frame_make(uint8_t *to, const char *payload)
{
    struct native_frame frame = {.flags = NATIVE_FLAG_REQUIRE_LEADER,
                                 .method = 7,
                                 .payload_bytes = (uint32_t)strlen(payload),
                                 .timeout_ms = 250,
                                 .request_id = 0x1122334455667788};
    memcpy(to + NATIVE_HEADER_BYTES, payload, strlen(payload));
    native_frame_seal(to, &frame);
    return NATIVE_HEADER_BYTES + strlen(payload);
}

Test(native_frame, layout_is_the_documented_one)
{
    uint8_t bytes[64];
    frame_make(bytes, "abc");
    static const uint8_t want[28] = {0xf5, 'R',  'F',  'T',  1, 32, 7,    0,    3,    0,
                                     0,    0,    250,  0,    0, 0,  0x88, 0x77, 0x66, 0x55,
                                     0x44, 0x33, 0x22, 0x11, 0, 0,  0,    0};
    cr_expect_eq(memcmp(bytes, want, sizeof(want)), 0);
}

Test(native_frame, every_prefix_asks_for_more)
{
    uint8_t bytes[64];
    struct native_frame frame;
    size_t size = frame_make(bytes, "abc"), wanted;
    for (size_t cut = 0; cut < size; cut++) {
        cr_expect_eq(native_frame_parse(bytes, cut, PAYLOAD_MAX, &frame, &wanted), 0);
        cr_expect_eq(wanted, cut < NATIVE_HEADER_BYTES ? NATIVE_HEADER_BYTES : size);
    }
    cr_assert_eq(native_frame_parse(bytes, size, PAYLOAD_MAX, &frame, &wanted), (int64_t)size);
    cr_expect_eq(frame.request_id, 0x1122334455667788);
    cr_expect_eq(frame.method, 7);
    cr_expect_eq(frame.timeout_ms, 250);
    cr_expect_eq(memcmp(frame.payload, "abc", 3), 0);
}

Test(native_frame, every_flipped_bit_is_noticed)
{
    uint8_t bytes[64];
    struct native_frame frame;
    size_t wanted, size = frame_make(bytes, "some payload");
    for (size_t bit = 0; bit < size * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int64_t result = native_frame_parse(bytes, size, PAYLOAD_MAX, &frame, &wanted);
        bool is_length = bit / 8 >= 8 && bit / 8 < 12; /* a longer frame is one to wait for */
        cr_expect(result < 0 || (is_length && result == 0 && wanted > size), "bit %zu", bit);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

Test(native_frame, bounds_are_checked_before_the_payload_is_there)
{
    uint8_t bytes[NATIVE_HEADER_BYTES];
    struct native_frame frame = {.method = 1, .payload_bytes = 0};
    size_t wanted;
    native_frame_seal(bytes, &frame);
    le32_store(bytes + 8, PAYLOAD_MAX + 1);
    cr_expect_eq(native_frame_parse(bytes, sizeof(bytes), PAYLOAD_MAX, &frame, &wanted), ERR_LIMIT);
    le32_store(bytes + 8, 0);
    bytes[4] = 2;
    cr_expect_eq(native_frame_parse(bytes, sizeof(bytes), PAYLOAD_MAX, &frame, &wanted),
                 ERR_VERSION);
    cr_expect_eq(native_frame_parse((const uint8_t *)"GET ", 4, PAYLOAD_MAX, &frame, &wanted),
                 ERR_MALFORMED);
}
