#include <criterion/criterion.h>
#include <stdlib.h>
#include <zlib.h>

#include "core/err.h"
#include "net/grpc.h"

Test(grpc, timeouts)
{
    static const struct {
        const char *why, *text;
        int want;
        uint64_t ns;
    } cases[] = {
        {"milliseconds", "100m", 0, 100 * NS_PER_MS},
        {"seconds", "5S", 0, 5 * NS_PER_S},
        {"microseconds", "7u", 0, 7 * NS_PER_US},
        {"nanoseconds", "99999999n", 0, 99999999},
        {"minutes", "2M", 0, 120 * NS_PER_S},
        {"hours", "1H", 0, 3600 * NS_PER_S},
        {"more than the clock holds saturates", "99999999H", 0, UINT64_MAX / 2},
        {"nine digits", "123456789m", ERR_MALFORMED, 0},
        {"no digits", "m", ERR_MALFORMED, 0},
        {"no unit", "100", ERR_MALFORMED, 0},
        {"unknown unit", "100s", ERR_MALFORMED, 0},
        {"sign", "-1m", ERR_MALFORMED, 0},
        {"empty", "", ERR_MALFORMED, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint64_t ns = 0;
        cr_expect_eq(grpc_parse_timeout(bytes_from_text(cases[i].text), &ns), cases[i].want, "%s",
                     cases[i].why);
        cr_expect_eq(ns, cases[i].ns, "%s", cases[i].why);
    }
}

Test(grpc, messages_are_escaped_and_come_back)
{
    static const struct {
        const char *why, *text, *want;
    } cases[] = {
        {"plain", "etcdserver: no leader", "etcdserver: no leader"},
        {"percent", "100%", "100%25"},
        {"line end", "a\nb", "a%0Ab"},
        {"UTF-8", "\xc3\xa9", "%C3%A9"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char escaped[64], back[64];
        size_t bytes = grpc_escape_message(cases[i].text, escaped, sizeof(escaped));
        cr_expect_eq(bytes, strlen(cases[i].want), "%s", cases[i].why);
        cr_expect_eq(memcmp(escaped, cases[i].want, bytes), 0, "%s", cases[i].why);
        grpc_unescape_message(bytes_make(escaped, bytes), back, sizeof(back));
        cr_expect_str_eq(back, cases[i].text, "%s", cases[i].why);
    }
    char small[4];
    cr_expect_eq(grpc_escape_message("ab%c", small, sizeof(small)), 2, "an escape is not cut");
}

static size_t compress_gzip(const void *data, size_t bytes, uint8_t *to, size_t to_bytes)
{
    z_stream stream = {0};
    cr_assert_eq(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = (uint8_t *)data;
    stream.avail_in = (uInt)bytes;
    stream.next_out = to;
    stream.avail_out = (uInt)to_bytes;
    cr_assert_eq(deflate(&stream, Z_FINISH), Z_STREAM_END);
    deflateEnd(&stream);
    return to_bytes - stream.avail_out;
}

Test(grpc, inflation_is_bounded)
{
    enum { BYTES = 100000 };
    uint8_t *plain = calloc(1, BYTES), packed[4096], *back;
    size_t bytes;
    size_t packed_bytes = compress_gzip(plain, BYTES, packed, sizeof(packed));
    cr_assert_eq(grpc_inflate(bytes_make(packed, packed_bytes), BYTES, &back, &bytes), 0);
    cr_expect_eq(bytes, BYTES);
    cr_expect_eq(memcmp(back, plain, BYTES), 0);
    free(back);
    cr_expect_eq(grpc_inflate(bytes_make(packed, packed_bytes), BYTES - 1, &back, &bytes),
                 ERR_LIMIT, "one byte more than allowed");
    cr_expect_eq(grpc_inflate(bytes_make(packed, packed_bytes - 1), BYTES, &back, &bytes),
                 ERR_MALFORMED, "cut short");
    cr_expect_eq(grpc_inflate(bytes_make("hello", 5), BYTES, &back, &bytes), ERR_MALFORMED,
                 "no gzip at all");
    cr_expect_eq(grpc_inflate((struct bytes){0}, BYTES, &back, &bytes), ERR_MALFORMED, "empty");
    free(plain);
}
