#include <criterion/criterion.h>

#include "net/pb.h"

static int count_fields(struct bytes input)
{
    struct pb_reader reader = pb_reader_make(input);
    struct pb_field field;
    int count = 0, next;
    while ((next = pb_next(&reader, &field)) > 0)
        count++;
    return next < 0 ? next : count;
}

Test(pb, accepts_and_refuses)
{
    static const struct {
        const char *why;
        uint8_t input[16];
        size_t bytes;
        int want;
    } cases[] = {
        {"nothing is an empty message", {0}, 0, 0},
        {"a varint field", {0x08, 0x01}, 2, 1},
        {"the largest varint", {0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}, 11, 1},
        {"65 bits", {0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2}, 11, ERR_MALFORMED},
        {"eleven bytes",
         {0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 129, 0},
         12,
         ERR_MALFORMED},
        {"a varint cut short", {0x08, 0x80}, 2, ERR_MALFORMED},
        {"a tag alone", {0x08}, 1, ERR_MALFORMED},
        {"field number zero", {0x00, 0x01}, 2, ERR_MALFORMED},
        {"empty bytes", {0x0a, 0x00}, 2, 1},
        {"bytes to the end", {0x0a, 0x02, 1, 2}, 4, 1},
        {"bytes past the end", {0x0a, 0x03, 1, 2}, 4, ERR_MALFORMED},
        {"a length near 2^64",
         {0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1},
         11,
         ERR_MALFORMED},
        {"fixed64", {0x09, 1, 2, 3, 4, 5, 6, 7, 8}, 9, 1},
        {"fixed64 cut short", {0x09, 1, 2, 3, 4, 5, 6, 7}, 8, ERR_MALFORMED},
        {"fixed32", {0x0d, 1, 2, 3, 4}, 5, 1},
        {"fixed32 cut short", {0x0d, 1, 2, 3}, 4, ERR_MALFORMED},
        {"start of a group", {0x0b}, 1, ERR_MALFORMED},
        {"end of a group", {0x0c}, 1, ERR_MALFORMED},
        {"wire type 6", {0x0e}, 1, ERR_MALFORMED},
        {"wire type 7", {0x0f}, 1, ERR_MALFORMED},
        {"a tag of more than 32 bits", {0x80, 0x80, 0x80, 0x80, 0x10, 0x01}, 6, ERR_MALFORMED},
        {"two fields", {0x08, 0x01, 0x12, 0x01, 'x'}, 5, 2},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        cr_expect_eq(count_fields(bytes_make(cases[i].input, cases[i].bytes)), cases[i].want, "%s",
                     cases[i].why);
}

Test(pb, varints_have_the_computed_size_and_come_back)
{
    for (unsigned bit = 0; bit < 64; bit++) {
        for (int around = -1; around <= 1; around++) {
            uint64_t value = ((uint64_t)1 << bit) + (uint64_t)(int64_t)around, back;
            uint8_t bytes[PB_VARINT_BYTES_MAX];
            size_t size = (size_t)(pb_put_varint(bytes, value) - bytes);
            struct pb_reader reader = pb_reader_make(bytes_make(bytes, size));
            cr_assert_eq(size, pb_varint_bytes(value));
            cr_assert_eq(pb_read_varint(&reader, &back), 0);
            cr_assert_eq(back, value);
            cr_assert_eq(reader.at, reader.end);
        }
    }
}

Test(pb, writers_leave_out_defaults_and_match_their_sizes)
{
    uint8_t buffer[128];
    cr_expect_eq(pb_put_varint_field(buffer, 3, 0), buffer);
    cr_expect_eq(pb_put_bytes_field(buffer, 3, (struct bytes){0}), buffer);
    uint8_t *end = pb_put_varint_field(buffer, 3, (uint64_t)-1);
    cr_expect_eq((size_t)(end - buffer), pb_varint_field_bytes(3, (uint64_t)-1));
    end = pb_put_bytes_field(buffer, 2000, bytes_from_text("value"));
    cr_expect_eq((size_t)(end - buffer), pb_bytes_field_bytes(2000, 5));
    struct pb_reader reader = pb_reader_make(bytes_make(buffer, (size_t)(end - buffer)));
    struct pb_field field;
    cr_assert_eq(pb_next(&reader, &field), 1);
    cr_expect_eq(field.number, 2000);
    cr_expect(bytes_equal(field.bytes, bytes_from_text("value")));
    cr_expect_eq(pb_expect(&field, PB_BYTES), 0);
    cr_expect_eq(pb_expect(&field, PB_VARINT), ERR_MALFORMED);
}
