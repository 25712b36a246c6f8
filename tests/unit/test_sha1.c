#include <criterion/criterion.h>
#include <stdio.h>

#include "core/sha1.h"

Test(sha1, published_digests)
{
    static const struct {
        const char *why, *text, *digest;
    } cases[] = {
        {"nothing", "", "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
        {"one block", "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"},
        {"the length needs a second block",
         "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "84983e441c3bd26ebaae4aa1f95129e5e54670f1"},
        {"a whole block and more",
         "0123456789012345678901234567890123456789012345678901234567890123456789",
         "194522b2bdb1f1838a2d2d24a248202001ac6838"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint8_t digest[SHA1_BYTES];
        char hex[2 * SHA1_BYTES + 1];
        sha1(cases[i].text, strlen(cases[i].text), digest);
        for (int b = 0; b < SHA1_BYTES; b++)
            snprintf(hex + 2 * b, 3, "%02x", digest[b]);
        cr_expect_str_eq(hex, cases[i].digest, "%s", cases[i].why);
    }
}
