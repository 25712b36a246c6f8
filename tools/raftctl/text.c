#include "tools/raftctl/text.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>

#include "core/invariant.h"

#define RUNE_BAD UINT32_MAX

/* One character of UTF-8 at the front of `text`, strictly: RUNE_BAD for a byte that starts none. */
static uint32_t text_rune(struct bytes text, size_t *size)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t first = text.data[0];
    size_t bytes = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    *size = 1;
    if (bytes == 0 || first > 0xf4 || text.size < bytes)
        return RUNE_BAD;
    uint32_t rune = bytes == 1 ? first : first & (0x7fu >> bytes);
    for (size_t i = 1; i < bytes; i++) {
        if ((text.data[i] & 0xc0) != 0x80)
            return RUNE_BAD;
        rune = rune << 6 | (text.data[i] & 0x3fu);
    }
    if (rune < least[bytes] || rune > 0x10ffff || (rune >= 0xd800 && rune < 0xe000))
        return RUNE_BAD;
    *size = bytes;
    return rune;
}

/* Controls, spaces other than ' ', format characters, private use: what Go does not print. Rare
 * scripts' unassigned code points are taken as printable. */
static bool text_rune_prints(uint32_t rune)
{
    static const struct {
        uint32_t first, last;
    } hidden[] = {{0, 0x1f},        {0x7f, 0xa0},     {0xad, 0xad},       {0x61c, 0x61c},
                  {0x1680, 0x1680}, {0x180e, 0x180e}, {0x2000, 0x200f},   {0x2028, 0x202f},
                  {0x205f, 0x206f}, {0x3000, 0x3000}, {0xe000, 0xf8ff},   {0xfeff, 0xfeff},
                  {0xfff0, 0xfffb}, {0xfffe, 0xffff}, {0xe0000, 0xe00ff}, {0xe01f0, 0x10ffff}};
    for (size_t i = 0; i < ARRAY_COUNT(hidden); i++) {
        if (rune >= hidden[i].first && rune <= hidden[i].last)
            return false;
    }
    return true;
}

void text_write_quoted(FILE *to, struct bytes text)
{
    static const char letters[] = "abtnvfr"; /* 7 to 13 */
    putc('"', to);
    for (size_t size; text.size > 0; text.data += size, text.size -= size) {
        uint32_t rune = text_rune(text, &size);
        if (rune == RUNE_BAD)
            fprintf(to, "\\x%02x", text.data[0]);
        else if (rune == '"' || rune == '\\')
            fprintf(to, "\\%c", (int)rune);
        else if (text_rune_prints(rune))
            fwrite(text.data, 1, size, to);
        else if (rune >= 7 && rune <= 13)
            fprintf(to, "\\%c", letters[rune - 7]);
        else if (rune < ' ' || rune == 0x7f)
            fprintf(to, "\\x%02" PRIx32, rune);
        else if (rune < 0x10000)
            fprintf(to, "\\u%04" PRIx32, rune);
        else
            fprintf(to, "\\U%08" PRIx32, rune);
    }
    putc('"', to);
}

void text_write_json(FILE *to, struct bytes text)
{
    putc('"', to);
    for (size_t size; text.size > 0; text.data += size, text.size -= size) {
        uint32_t rune = text_rune(text, &size);
        if (rune == RUNE_BAD)
            fputs("\\ufffd", to);
        else if (rune == '"' || rune == '\\')
            fprintf(to, "\\%c", (int)rune);
        else if (rune == '\n' || rune == '\r' || rune == '\t' || rune == '\b' || rune == '\f')
            fprintf(to, "\\%c",
                    rune == '\n'   ? 'n'
                    : rune == '\r' ? 'r'
                    : rune == '\t' ? 't'
                    : rune == '\b' ? 'b'
                                   : 'f');
        else if (rune < ' ' || rune == '<' || rune == '>' || rune == '&' || rune == 0x2028 ||
                 rune == 0x2029)
            fprintf(to, "\\u%04" PRIx32, rune);
        else
            fwrite(text.data, 1, size, to);
    }
    putc('"', to);
}

void text_write_base64(FILE *to, struct bytes bytes)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < bytes.size; i += 3) {
        size_t left = bytes.size - i;
        uint32_t group = (uint32_t)bytes.data[i] << 16 |
                         (left > 1 ? (uint32_t)bytes.data[i + 1] << 8 : 0) |
                         (left > 2 ? (uint32_t)bytes.data[i + 2] : 0);
        putc(digits[group >> 18], to);
        putc(digits[group >> 12 & 63], to);
        putc(left > 1 ? digits[group >> 6 & 63] : '=', to);
        putc(left > 2 ? digits[group & 63] : '=', to);
    }
}

void text_write_hex(FILE *to, struct bytes bytes, const char *before_each_byte)
{
    for (size_t i = 0; i < bytes.size; i++)
        fprintf(to, "%s%02x", before_each_byte, bytes.data[i]);
}

/* ---- reading -----------------------------------------------------------------------------------
 */

static size_t text_encode_rune(uint32_t rune, char *to)
{
    if (rune < 0x80) {
        to[0] = (char)rune;
        return 1;
    }
    size_t bytes = rune < 0x800 ? 2 : rune < 0x10000 ? 3 : 4;
    to[0] = (char)((0xf00u >> bytes & 0xff) | rune >> 6 * (bytes - 1));
    for (size_t i = 1; i < bytes; i++)
        to[i] = (char)(0x80 | (rune >> 6 * (bytes - 1 - i) & 0x3f));
    return bytes;
}

/* Behind a backslash. Returns where it ends, or NULL. */
static const char *text_read_escape(const char *from, char *to, size_t *to_bytes)
{
    static const char letters[] = "abtnvfr", plain[] = "\\\"";
    const char *found;
    if (*from != '\0' && (found = strchr(letters, *from)) != NULL) {
        to[(*to_bytes)++] = (char)(7 + (found - letters));
        return from + 1;
    }
    if (*from != '\0' && strchr(plain, *from) != NULL) {
        to[(*to_bytes)++] = *from;
        return from + 1;
    }
    bool octal = *from >= '0' && *from <= '7';
    int digits = *from == 'x' ? 2 : *from == 'u' ? 4 : *from == 'U' ? 8 : octal ? 3 : 0;
    uint32_t value = 0;
    from += !octal;
    for (int i = 0; i < digits; i++, from++) {
        if (octal ? *from < '0' || *from > '7' : !isxdigit((unsigned char)*from))
            return NULL;
        uint32_t digit = isdigit((unsigned char)*from)
                             ? (uint32_t)(*from - '0')
                             : (uint32_t)(tolower((unsigned char)*from) - 'a' + 10);
        value = value * (octal ? 8 : 16) + digit;
    }
    if (digits == 0 || (digits <= 3 && value > 255) || value > 0x10ffff ||
        (digits >= 4 && value >= 0xd800 && value < 0xe000))
        return NULL;
    if (digits <= 3)
        to[(*to_bytes)++] = (char)value;
    else
        *to_bytes += text_encode_rune(value, to + *to_bytes);
    return from;
}

const char *text_read_quoted(const char *from, char *to, size_t *to_bytes)
{
    char quote = *from++;
    *to_bytes = 0;
    if (quote != '"' && quote != '`')
        return NULL;
    while (*from != quote) {
        if (*from == '\0' || (quote == '"' && *from == '\n'))
            return NULL;
        if (quote == '"' && *from == '\\') {
            from = text_read_escape(from + 1, to, to_bytes);
            if (from == NULL)
                return NULL;
        } else {
            to[(*to_bytes)++] = *from++;
        }
    }
    to[*to_bytes] = '\0';
    return from + 1;
}

/* The end of the quoted word at `from`, or NULL when its quote is never closed. */
static const char *text_quoted_end(const char *from)
{
    char quote = *from;
    for (const char *at = from + 1; *at != '\0'; at++) {
        if (*at == quote)
            return at + 1;
        if (quote == '"' && *at == '\\' && *++at == '\0')
            return NULL;
    }
    return NULL;
}

bool text_split(const char *line, char ***words, int *word_count)
{
    size_t bytes = strlen(line);
    *word_count = 0;
    *words = calloc(bytes + 1, sizeof(**words));
    invariant(*words != NULL);
    for (const char *at = line; *at != '\0';) {
        const char *end = NULL;
        bool is_quote = *at == '"' || *at == '\'';
        if (is_quote)
            end = text_quoted_end(at);
        else if (!isspace((unsigned char)*at))
            end = at + strcspn(at, " \t\n\f\r");
        if (end == NULL) { /* a space, or a quote without its partner: passed over */
            at++;
            continue;
        }
        char *word = calloc(1, (size_t)(end - at) + 1);
        invariant(word != NULL);
        (*words)[(*word_count)++] = word;
        size_t word_bytes;
        if (*at == '"' &&
            (text_read_quoted(at, word, &word_bytes) == NULL || word_bytes != strlen(word)))
            return false;
        if (*at == '\'')
            memcpy(word, at + 1, (size_t)(end - at) - 2);
        else if (!is_quote)
            memcpy(word, at, (size_t)(end - at));
        at = end;
    }
    return true;
}

void text_format_size(uint64_t bytes, char *to, size_t to_bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    size_t unit = 0;
    double scale = 1;
    if (bytes < 10) {
        snprintf(to, to_bytes, "%" PRIu64 " B", bytes);
        return;
    }
    while ((double)bytes / scale >= 1000 && unit + 1 < ARRAY_COUNT(units)) {
        scale *= 1000;
        unit++;
    }
    double tenths = (double)(uint64_t)((double)bytes / scale * 10 + 0.5);
    snprintf(to, to_bytes, tenths < 100 ? "%.1f %s" : "%.0f %s", tenths / 10, units[unit]);
}
