#include "core/sha1.h"

#define BLOCK_BYTES 64

static uint32_t rotate(uint32_t value, uint32_t bits)
{
    return value << bits | value >> (32 - bits);
}

static void sha1_block(uint32_t state[5], const uint8_t *block)
{
    uint32_t w[80];
    for (int i = 0; i < 16; i++)
        w[i] = be32_load(block + 4 * i);
    for (int i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20) {
            f = (b & c) | (~b & d);
            k = 0x5a827999;
        } else if (i < 40) {
            f = b ^ c ^ d;
            k = 0x6ed9eba1;
        } else if (i < 60) {
            f = (b & c) | (b & d) | (c & d);
            k = 0x8f1bbcdc;
        } else {
            f = b ^ c ^ d;
            k = 0xca62c1d6;
        }
        uint32_t next = rotate(a, 5) + f + e + k + w[i];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = next;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
}

void sha1(const void *data, size_t bytes, uint8_t digest[SHA1_BYTES])
{
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    const uint8_t *from = data;
    size_t whole = bytes / BLOCK_BYTES * BLOCK_BYTES, rest = bytes - whole;
    for (size_t at = 0; at < whole; at += BLOCK_BYTES)
        sha1_block(state, from + at);
    uint8_t tail[2 * BLOCK_BYTES] = {0};
    if (rest > 0)
        memcpy(tail, from + whole, rest);
    tail[rest] = 0x80;
    size_t tail_bytes = rest + 9 <= BLOCK_BYTES ? BLOCK_BYTES : 2 * BLOCK_BYTES;
    be64_store(tail + tail_bytes - 8, (uint64_t)bytes * 8);
    for (size_t at = 0; at < tail_bytes; at += BLOCK_BYTES)
        sha1_block(state, tail + at);
    for (int i = 0; i < 5; i++)
        be32_store(digest + 4 * i, state[i]);
}
