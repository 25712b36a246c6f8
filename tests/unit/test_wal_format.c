#include <criterion/criterion.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "storage/log/wal_format.h"

/* ---- the document and the code agree ------------------------------------------------------------
 */

/* Finds "| offset | bytes | `field` |" in docs/formats/log-block.md. */
static bool documented(const char *field, unsigned *offset, unsigned *bytes)
{
    char source[] = __FILE__, path[1024], line[512], name[64];
    snprintf(path, sizeof(path), "%s/../../docs/formats/log-block.md", dirname(source));
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "%s", path);
    bool found = false;
    while (!found && fgets(line, sizeof(line), file) != NULL)
        found = sscanf(line, "| %u | %u | `%63[^`]` |", offset, bytes, name) == 3 &&
                strcmp(name, field) == 0;
    fclose(file);
    return found;
}

static void expect_field(const uint8_t *bytes, const char *field, uint64_t want)
{
    unsigned offset, size;
    cr_assert(documented(field, &offset, &size), "%s is not in the document", field);
    uint64_t got = size == 2 ? le16_load(bytes + offset)
                             : (size == 4 ? le32_load(bytes + offset) : le64_load(bytes + offset));
    cr_expect_eq(got, want, "%s at %u: %llx, expected %llx", field, offset, (unsigned long long)got,
                 (unsigned long long)want);
}

static struct wal_block sample_block(void)
{
    return (struct wal_block){.flags = WAL_BLOCK_REPAIR,
                              .bytes = 12288,
                              .used_bytes = 4500,
                              .log_id = 0x1112131415161718,
                              .sequence = 0x2122232425262728,
                              .segment = 0x31323334,
                              .page = 0x41424344,
                              .previous_crc = 0x51525354,
                              .records_crc = 0x61626364,
                              .entry_count = 7,
                              .durable_upto = 0x2122232425262720,
                              .hard_state = {0x71, 0x72, 0x73},
                              .first_index = 0x81,
                              .term = 0x82,
                              .prev_term = 0x83,
                              .before_index = 0x84,
                              .before_term = 0x85};
}

Test(wal_format, block_header_is_as_documented)
{
    struct wal_block block = sample_block();
    uint8_t bytes[WAL_HEADER_BYTES];
    wal_block_encode(&block, bytes);
    const struct {
        const char *field;
        uint64_t want;
    } fields[] = {
        {"magic", WAL_BLOCK_MAGIC},
        {"version", WAL_FORMAT_VERSION},
        {"flags", WAL_BLOCK_REPAIR},
        {"header_crc", block.header_crc},
        {"bytes", block.bytes},
        {"log_id", block.log_id},
        {"sequence", block.sequence},
        {"segment", block.segment},
        {"page", block.page},
        {"previous_crc", block.previous_crc},
        {"records_crc", block.records_crc},
        {"entry_count", block.entry_count},
        {"used_bytes", block.used_bytes},
        {"durable_upto", block.durable_upto},
        {"term", block.hard_state.term},
        {"vote", block.hard_state.vote},
        {"commit", block.hard_state.commit},
        {"first_index", block.first_index},
        {"entry_term", block.term},
        {"prev_term", block.prev_term},
        {"before_index", block.before_index},
        {"before_term", block.before_term},
    };
    for (size_t i = 0; i < ARRAY_COUNT(fields); i++)
        expect_field(bytes, fields[i].field, fields[i].want);
    struct wal_block decoded;
    cr_assert_eq(wal_block_decode(bytes, &decoded), WAL_HEADER_VALID);
    cr_assert_eq(decoded.header_crc, block.header_crc);
    uint8_t again[WAL_HEADER_BYTES];
    wal_block_encode(&decoded, again);
    cr_assert_arr_eq(bytes, again, sizeof(bytes));
    le32_store(bytes + 8, 0);
    cr_assert_eq(crc32c(0, bytes, sizeof(bytes)), block.header_crc);
}

Test(wal_format, record_and_fragment_are_as_documented)
{
    uint8_t bytes[WAL_RECORD_BYTES + WAL_FRAGMENT_BYTES];
    struct entry entry = {
        .index = 0x91, .term = 0x92, .payload_bytes = 0x93, .payload_crc = 0x94, .type = 1};
    uint32_t crc = wal_record_encode(&entry, 77, bytes);
    expect_field(bytes, "record_index", 0x91);
    expect_field(bytes, "record_term", 0x92);
    expect_field(bytes, "payload_bytes", 0x93);
    expect_field(bytes, "payload_crc", 0x94);
    expect_field(bytes, "record_type", 1);
    expect_field(bytes, "record_crc", crc);
    cr_assert_eq(crc, crc32c(77, bytes, 28));
    wal_fragment_encode(&(struct wal_fragment){.offset = 1, .bytes = 2, .crc = 3}, bytes);
    expect_field(bytes, "fragment_offset", 1);
    expect_field(bytes, "fragment_bytes", 2);
    expect_field(bytes, "fragment_crc", 3);
    expect_field(bytes, "fragment_reserved", 0);
}

static struct wal_superblock sample_superblock(void)
{
    return (struct wal_superblock){.log_id = 0x1111,
                                   .generation = 0x2222,
                                   .segment_bytes = 65536,
                                   .block_bytes_max = 8192,
                                   .ring_slots = 64,
                                   .writes_max = 4,
                                   .oldest_segment = 9,
                                   .durable_sequence = 0x3333,
                                   .hard_state = {1, 2, 3},
                                   .last_index = 0x4444,
                                   .last_term = 0x5555,
                                   .clean = true};
}

Test(wal_format, superblock_is_as_documented)
{
    struct wal_superblock superblock = sample_superblock();
    uint8_t page[WAL_PAGE_BYTES];
    wal_superblock_encode(&superblock, page);
    expect_field(page, "super_magic", WAL_SUPERBLOCK_MAGIC);
    expect_field(page, "super_version", WAL_FORMAT_VERSION);
    expect_field(page, "super_flags", 1);
    expect_field(page, "ring_slots", 64);
    expect_field(page, "super_log_id", 0x1111);
    expect_field(page, "generation", 0x2222);
    expect_field(page, "segment_bytes", 65536);
    expect_field(page, "block_bytes_max", 8192);
    expect_field(page, "writes_max", 4);
    expect_field(page, "oldest_segment", 9);
    expect_field(page, "durable_sequence", 0x3333);
    expect_field(page, "super_term", 1);
    expect_field(page, "super_vote", 2);
    expect_field(page, "super_commit", 3);
    expect_field(page, "last_index", 0x4444);
    expect_field(page, "last_term", 0x5555);
    uint32_t crc = le32_load(page + 8);
    le32_store(page + 8, 0);
    cr_assert_eq(crc, crc32c(0, page, WAL_SUPERBLOCK_BYTES));
    expect_field(page, "super_crc", 0);
}

/* ---- damage -------------------------------------------------------------------------------------
 */

Test(wal_format, every_flipped_bit_of_a_header_is_noticed)
{
    struct wal_block block = sample_block(), decoded;
    uint8_t bytes[WAL_HEADER_BYTES];
    wal_block_encode(&block, bytes);
    for (size_t bit = 0; bit < sizeof(bytes) * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_expect_neq(wal_block_decode(bytes, &decoded), WAL_HEADER_VALID, "bit %zu", bit);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    cr_assert_eq(wal_block_decode(bytes, &decoded), WAL_HEADER_VALID);
}

/* Headers whose checksum is right and whose content is not: another program's bug, or an attack. */
static const struct {
    const char *why;
    unsigned offset, size;
    uint64_t value;
    enum wal_header_status want;
} lies[] = {
    {"as it is", 48, 4, 7, WAL_HEADER_VALID},
    {"no magic", 0, 4, 0, WAL_HEADER_ABSENT},
    {"an earlier format", 4, 2, 1, WAL_HEADER_VERSION},
    {"later format", 4, 2, 3, WAL_HEADER_VERSION},
    {"unknown flag", 6, 2, 64, WAL_HEADER_DAMAGED},
    {"last fragment of nothing", 6, 2, WAL_BLOCK_FRAGMENT_LAST, WAL_HEADER_DAMAGED},
    {"middle fragment with an entry", 6, 2, WAL_BLOCK_FRAGMENT, WAL_HEADER_DAMAGED},
    {"cut with entries", 6, 2, WAL_BLOCK_CUT, WAL_HEADER_DAMAGED},
    {"size zero", 12, 4, 0, WAL_HEADER_DAMAGED},
    {"size not in pages", 12, 4, 8191, WAL_HEADER_DAMAGED},
    {"size above the limit", 12, 4, 2 * WAL_BLOCK_BYTES_LIMIT, WAL_HEADER_DAMAGED},
    {"no room for a trail", 12, 4, 4096, WAL_HEADER_DAMAGED},
    {"uses its trail", 52, 4, 8193, WAL_HEADER_DAMAGED},
    {"uses less than a header", 52, 4, 127, WAL_HEADER_DAMAGED},
    {"more entries than fit", 48, 4, 138, WAL_HEADER_DAMAGED},
    {"sequence zero", 24, 8, 0, WAL_HEADER_DAMAGED},
    {"segment zero", 32, 4, 0, WAL_HEADER_DAMAGED},
    {"proves itself", 56, 8, 0x2122232425262728, WAL_HEADER_DAMAGED},
    {"index zero", 88, 8, 0, WAL_HEADER_DAMAGED},
    {"index at the end of the world", 88, 8, UINT64_MAX, WAL_HEADER_DAMAGED},
};

Test(wal_format, a_right_checksum_is_not_trusted)
{
    for (size_t i = 0; i < ARRAY_COUNT(lies); i++) {
        struct wal_block block = sample_block(), decoded;
        uint8_t bytes[WAL_HEADER_BYTES];
        wal_block_encode(&block, bytes);
        memcpy(bytes + lies[i].offset, &lies[i].value, lies[i].size);
        le32_store(bytes + 8, 0);
        le32_store(bytes + 8, crc32c(0, bytes, sizeof(bytes)));
        cr_expect_eq(wal_block_decode(bytes, &decoded), lies[i].want, "%s", lies[i].why);
    }
}

/* A block of three entries of 10, 0 and 100 bytes. */
static struct wal_block build_body(uint8_t *bytes)
{
    static const uint32_t sizes[] = {10, 0, 100};
    struct wal_block block = sample_block();
    uint32_t used = WAL_HEADER_BYTES, crc = wal_record_seed(block.sequence);
    memset(bytes, 0, 8192);
    for (uint32_t i = 0; i < 3; i++) {
        uint8_t *payload = bytes + used + WAL_RECORD_BYTES;
        memset(payload, 'a' + (int)i, sizes[i]);
        struct entry entry = {.index = block.first_index + i,
                              .term = block.term,
                              .payload = payload,
                              .payload_bytes = sizes[i],
                              .payload_crc = crc32c(0, payload, sizes[i])};
        crc = wal_record_encode(&entry, crc, bytes + used);
        used += wal_record_space(sizes[i]);
    }
    block.entry_count = 3;
    block.used_bytes = used;
    block.records_crc = crc;
    wal_block_encode(&block, bytes);
    return block;
}

Test(wal_format, every_flipped_bit_of_a_body_is_noticed_or_is_padding)
{
    uint8_t bytes[8192];
    struct wal_block block = build_body(bytes);
    cr_assert_eq(wal_body_check(&block, bytes), WAL_BODY_GOOD);
    uint32_t unnoticed = 0, payload_only = 0;
    for (size_t bit = WAL_HEADER_BYTES * 8; bit < block.used_bytes * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        enum wal_body_status status = wal_body_check(&block, bytes);
        unnoticed += status == WAL_BODY_GOOD;
        payload_only += status == WAL_BODY_PAYLOAD_DAMAGED;
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    cr_assert_eq(unnoticed, (6 + 4) * 8, "padding behind 10 and 100 bytes");
    cr_assert_eq(payload_only, 110 * 8, "a payload alone condemns only its entry");
}

Test(wal_format, a_body_reads_back_as_written)
{
    uint8_t bytes[8192];
    struct wal_block block = build_body(bytes);
    struct wal_body_cursor cursor;
    struct entry entry;
    uint32_t count = 0;
    for (wal_body_begin(&cursor, &block, bytes); wal_body_next(&cursor, &entry); count++) {
        cr_assert_eq(entry.index, block.first_index + count);
        cr_assert_eq(entry.term, block.term);
        cr_assert(wal_payload_good(&entry));
        cr_assert(entry.payload_bytes == 0 || entry.payload[0] == 'a' + count);
    }
    cr_assert_eq(count, 3);
    cr_assert_eq(cursor.offset, block.used_bytes);
}

Test(wal_format, a_body_of_another_block_does_not_fit)
{
    uint8_t bytes[8192];
    struct wal_block block = build_body(bytes);
    struct wal_block other = block;
    other.sequence++;
    cr_assert_eq(wal_body_check(&other, bytes), WAL_BODY_DAMAGED);
    other = block;
    other.first_index++;
    cr_assert_eq(wal_body_check(&other, bytes), WAL_BODY_DAMAGED);
    other = block;
    other.entry_count = 2;
    cr_assert_eq(wal_body_check(&other, bytes), WAL_BODY_DAMAGED);
}

Test(wal_format, superblock_damage_is_noticed)
{
    struct wal_superblock superblock = sample_superblock(), decoded;
    uint8_t page[WAL_PAGE_BYTES];
    wal_superblock_encode(&superblock, page);
    for (size_t bit = 0; bit < WAL_SUPERBLOCK_BYTES * 8; bit++) {
        page[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_expect_neq(wal_superblock_decode(page, &decoded), WAL_HEADER_VALID, "bit %zu", bit);
        page[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    cr_assert_eq(wal_superblock_decode(page, &decoded), WAL_HEADER_VALID);
    cr_assert_eq(decoded.oldest_segment, 9);
    cr_assert(decoded.clean);
}
