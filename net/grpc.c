#include "net/grpc.h"

#include <stdlib.h>
#include <zlib.h>

#include "core/err.h"

#define GRPC_TIMEOUT_DIGITS_MAX  8
#define GRPC_INFLATE_FIRST_BYTES ((size_t)4096)

int grpc_parse_timeout(struct bytes text, uint64_t *timeout_ns)
{
    static const struct {
        uint8_t unit;
        uint64_t ns;
    } units[] = {{'S', NS_PER_S},      {'m', NS_PER_MS}, {'u', NS_PER_US},
                 {'M', 60 * NS_PER_S}, {'n', 1},         {'H', 3600 * NS_PER_S}};
    if (text.size < 2 || text.size > GRPC_TIMEOUT_DIGITS_MAX + 1)
        return ERR_MALFORMED;
    uint64_t amount = 0;
    for (size_t i = 0; i + 1 < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return ERR_MALFORMED;
        amount = amount * 10 + (uint64_t)(text.data[i] - '0');
    }
    for (size_t i = 0; i < ARRAY_COUNT(units); i++) {
        if (units[i].unit == text.data[text.size - 1]) {
            *timeout_ns = amount * units[i].ns; /* below 2^27 * 2^42: no overflow into the sign */
            if (amount != 0 && *timeout_ns / amount != units[i].ns)
                *timeout_ns = UINT64_MAX / 2;
            *timeout_ns = u64_min(*timeout_ns, UINT64_MAX / 2);
            return 0;
        }
    }
    return ERR_MALFORMED;
}

size_t grpc_escape_message(const char *text, char *to, size_t to_bytes)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t used = 0;
    for (; *text != '\0'; text++) {
        uint8_t c = (uint8_t)*text;
        if (c >= 0x20 && c <= 0x7e && c != '%') {
            if (used + 1 > to_bytes)
                break;
            to[used++] = (char)c;
        } else {
            if (used + 3 > to_bytes)
                break;
            to[used++] = '%';
            to[used++] = hex[c >> 4];
            to[used++] = hex[c & 15];
        }
    }
    return used;
}

static int grpc_hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

size_t grpc_unescape_message(struct bytes text, char *to, size_t to_bytes)
{
    size_t used = 0;
    for (size_t i = 0; i < text.size && used + 1 < to_bytes; i++) {
        uint8_t c = text.data[i];
        if (c == '%' && i + 2 < text.size) {
            int high = grpc_hex_digit(text.data[i + 1]), low = grpc_hex_digit(text.data[i + 2]);
            if (high >= 0 && low >= 0) {
                c = (uint8_t)(high << 4 | low);
                i += 2;
            }
        }
        to[used++] = (char)c;
    }
    to[used] = '\0';
    return used;
}

int grpc_inflate(struct bytes from, size_t bytes_max, uint8_t **to, size_t *bytes)
{
    z_stream stream = {.next_in = (uint8_t *)(uintptr_t)from.data, .avail_in = (uInt)from.size};
    uint8_t *buffer = NULL;
    size_t capacity = 0;
    int error = ERR_MALFORMED;
    *to = NULL;
    *bytes = 0;
    if (from.size > UINT32_MAX || inflateInit2(&stream, 15 + 32) != Z_OK)
        return ERR_MALFORMED;
    for (;;) {
        /* One byte past the limit is room enough to notice that it is exceeded. */
        size_t grown = capacity == 0 ? GRPC_INFLATE_FIRST_BYTES : capacity * 2;
        capacity = u64_min(grown, bytes_max + 1);
        uint8_t *larger = realloc(buffer, capacity);
        if (larger == NULL) {
            error = ERR_LIMIT;
            goto fail;
        }
        buffer = larger;
        stream.next_out = buffer + *bytes;
        stream.avail_out = (uInt)(capacity - *bytes);
        int result = inflate(&stream, Z_NO_FLUSH);
        *bytes = capacity - stream.avail_out;
        if (*bytes > bytes_max) {
            error = ERR_LIMIT;
            goto fail;
        }
        if (result == Z_STREAM_END && stream.avail_in == 0)
            break;
        if (result != Z_OK || stream.avail_out != 0) /* damaged, cut short, or something follows */
            goto fail;
    }
    inflateEnd(&stream);
    *to = buffer;
    return 0;
fail:
    inflateEnd(&stream);
    free(buffer);
    return error;
}
