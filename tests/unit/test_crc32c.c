#include <criterion/criterion.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/prng.h"

/* Bit by bit, from the definition: reflected Castagnoli polynomial 0x1edc6f41. */
static uint32_t crc32c_slow(uint32_t crc, const uint8_t *data, size_t bytes)
{
    crc = ~crc;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

Test(crc32c, published_values)
{
    uint8_t zeros[32] = {0}, ones[32], rising[32], falling[32];
    memset(ones, 0xff, sizeof(ones));
    for (uint8_t i = 0; i < 32; i++) {
        rising[i] = i;
        falling[i] = (uint8_t)(31 - i);
    }
    const struct {
        const char *why;
        const void *data;
        size_t bytes;
        uint32_t want;
    } cases[] = {
        {"the check value of the catalogues", "123456789", 9, 0xe3069283},
        {"nothing", "", 0, 0},
        {"RFC 3720 B.4: zeros", zeros, 32, 0x8a9136aa},
        {"RFC 3720 B.4: ones", ones, 32, 0x62a8ab43},
        {"RFC 3720 B.4: rising", rising, 32, 0x46dd794e},
        {"RFC 3720 B.4: falling", falling, 32, 0x113fdb5c},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        cr_expect_eq(crc32c(0, cases[i].data, cases[i].bytes), cases[i].want, "%s", cases[i].why);
}

Test(crc32c, every_length_and_alignment_and_extension)
{
    uint8_t data[1024];
    struct prng prng;
    prng_init(&prng, 1);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)prng_next(&prng);
    for (size_t bytes = 0; bytes < 512; bytes++) {
        size_t start = bytes % 17;
        size_t cut = bytes == 0 ? 0 : prng_below(&prng, bytes);
        uint32_t want = crc32c_slow(0, data + start, bytes);
        cr_assert_eq(crc32c(0, data + start, bytes), want, "%zu bytes", bytes);
        uint32_t first = crc32c(0, data + start, cut);
        cr_assert_eq(crc32c(first, data + start + cut, bytes - cut), want, "%zu in two", bytes);
    }
}
