#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "storage/lsm/block.h"
#include "storage/lsm/manifest.h"
#include "storage/lsm/sst_format.h"
#include "storage/lsm/sst_write.h"
#include "test_lsm.h"

TestSuite(sst, .init = core_with_root_open, .fini = core_with_root_close, .timeout = 600);

/* ---- docs/formats ------------------------------------------------------------------------------
 * */

static const struct {
    const char *name;
    unsigned offset;
} offsets[] = {
    {"compression", SST_TRAILER_COMPRESSION},
    {"type", SST_TRAILER_TYPE},
    {"raw_bytes", SST_TRAILER_RAW_BYTES},
    {"block_crc", SST_TRAILER_CRC},
    {"magic", SST_FOOTER_MAGIC},
    {"format", SST_FOOTER_FORMAT},
    {"number", SST_FOOTER_NUMBER},
    {"file_bytes", SST_FOOTER_FILE_BYTES},
    {"top_index_offset", SST_FOOTER_TOP_INDEX_OFFSET},
    {"filter_offset", SST_FOOTER_FILTER_OFFSET},
    {"properties_offset", SST_FOOTER_PROPERTIES_OFFSET},
    {"top_index_bytes", SST_FOOTER_TOP_INDEX_BYTES},
    {"filter_bytes", SST_FOOTER_FILTER_BYTES},
    {"properties_bytes", SST_FOOTER_PROPERTIES_BYTES},
    {"footer_crc", SST_FOOTER_CRC},
    {"rows", SST_PROPERTIES_ROWS},
    {"tombstones", SST_PROPERTIES_TOMBSTONES},
    {"superseded", SST_PROPERTIES_SUPERSEDED},
    {"key_bytes", SST_PROPERTIES_KEY_BYTES},
    {"value_bytes", SST_PROPERTIES_VALUE_BYTES},
    {"data_bytes", SST_PROPERTIES_DATA_BYTES},
    {"data_blocks", SST_PROPERTIES_DATA_BLOCKS},
    {"index_blocks", SST_PROPERTIES_INDEX_BLOCKS},
    {"version_first", SST_PROPERTIES_VERSION_FIRST},
    {"version_last", SST_PROPERTIES_VERSION_LAST},
    {"smallest_bytes", SST_PROPERTIES_SMALLEST_BYTES},
    {"largest_bytes", SST_PROPERTIES_LARGEST_BYTES},
    {"keys", SST_PROPERTIES_KEYS},
    {"record_magic", MANIFEST_RECORD_MAGIC},
    {"record_crc", MANIFEST_RECORD_CRC},
    {"payload_bytes", MANIFEST_RECORD_PAYLOAD_BYTES},
    {"manifest_number", MANIFEST_RECORD_NUMBER},
    {"sequence", MANIFEST_RECORD_SEQUENCE},
    {"payload", MANIFEST_RECORD_HEADER_BYTES},
};

/* Every field is in a table of the document as `| <offset> | <size> | <name> |`. */
Test(sst, the_documents_give_the_offsets_of_the_code)
{
    char text[32768] = "";
    size_t used = 0;
    const char *names[] = {"sstable.md", "manifest.md"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char path[512];
        snprintf(path, sizeof(path), "%.*s/../../docs/formats/%s",
                 (int)(strrchr(__FILE__, '/') - __FILE__), __FILE__, names[i]);
        FILE *file = fopen(path, "r");
        cr_assert_not_null(file, "%s", path);
        used += fread(text + used, 1, sizeof(text) - 1 - used, file);
        fclose(file);
    }
    for (size_t i = 0; i < ARRAY_COUNT(offsets); i++) {
        bool found = false;
        for (const char *line = text; line != NULL && !found; line = strchr(line, '\n')) {
            char name[64] = "";
            unsigned offset = 0, bytes = 0;
            line += *line == '\n';
            if (sscanf(line, "| %u | %u | `%63[a-z_]`", &offset, &bytes, name) == 3 ||
                sscanf(line, "| %u | n | `%63[a-z_]`", &offset, name) == 2)
                found = strcmp(name, offsets[i].name) == 0 && offset == offsets[i].offset;
        }
        cr_assert(found, "%s at %u", offsets[i].name, offsets[i].offset);
    }
}

/* ---- blocks ------------------------------------------------------------------------------------
 * */

Test(sst, a_block_is_walked_both_ways_and_searched)
{
    struct block_builder builder;
    struct block_iterator iterator;
    block_builder_init(&builder);
    for (uint32_t i = 0; i < 100; i++) {
        char key[200];
        memset(key, 'k', sizeof(key));
        int prefix = i >= 50 ? 180 : 5; /* past the inline buffer of the iterator */
        snprintf(key + prefix, sizeof(key) - (size_t)prefix, "%03u", i);
        block_builder_add(&builder, bytes_from_text(key), (struct lsm_version){i, 1},
                          i % 10 == 0 ? LSM_TOMBSTONE : LSM_VALUE,
                          i % 10 == 0 ? bytes_make(NULL, 0) : bytes_from_text(key));
    }
    struct bytes block = block_builder_finish(&builder);
    block_iterator_init(&iterator);
    cr_assert_eq(block_iterator_open(&iterator, block), 0);
    uint32_t count = 0;
    for (int status = block_iterator_first(&iterator); status == 1;
         status = block_iterator_next(&iterator), count++) {
        cr_assert_eq(block_iterator_version(&iterator).main, count);
        cr_assert_eq(iterator.kind, count % 10 == 0 ? LSM_TOMBSTONE : LSM_VALUE);
    }
    cr_assert_eq(count, 100);
    for (int status = block_iterator_last(&iterator); status == 1;
         status = block_iterator_prev(&iterator))
        cr_assert_eq(block_iterator_version(&iterator).main, --count);
    cr_assert_eq(count, 0);
    struct sst_target target = sst_target_make(bytes_from_text("kkkkk037"), LSM_VERSION_MAX);
    cr_assert_eq(block_iterator_seek(&iterator, &target), 1);
    cr_assert_eq(block_iterator_version(&iterator).main, 37);
    target = sst_target_make(bytes_from_text("kkkkk037"), (struct lsm_version){36, 0});
    cr_assert_eq(block_iterator_seek(&iterator, &target), 1);
    cr_assert_eq(block_iterator_version(&iterator).main, 38);
    target = sst_target_make(bytes_from_text("z"), LSM_VERSION_MAX);
    cr_assert_eq(block_iterator_seek(&iterator, &target), 0);
    block_iterator_deinit(&iterator);
    block_builder_deinit(&builder);
}

/* Searches every version, and walks both ways. */
static void check_versions_in_block(struct bytes block, struct bytes key, uint32_t versions)
{
    struct block_iterator iterator;
    block_iterator_init(&iterator);
    cr_assert_eq(block_iterator_open(&iterator, block), 0);
    for (uint32_t version = 1; version <= versions; version++) {
        struct sst_target target = sst_target_make(key, (struct lsm_version){version, 0});
        cr_assert_eq(block_iterator_seek(&iterator, &target), 1);
        cr_assert_eq(block_iterator_version(&iterator).main, version);
        cr_assert(bytes_equal(block_iterator_key(&iterator), key));
    }
    uint32_t count = 0;
    for (int status = block_iterator_first(&iterator); status == 1;
         status = block_iterator_next(&iterator))
        count++;
    cr_assert_eq(count, versions);
    for (int status = block_iterator_last(&iterator); status == 1;
         status = block_iterator_prev(&iterator))
        count--;
    cr_assert_eq(count, 0);
    block_iterator_deinit(&iterator);
}

Test(sst, versions_of_a_key_repeat_less_of_it_than_they_take)
{
    static const uint32_t sizes[] = {1, 100, 600, 5000, 100 * 1024};
    enum { VERSIONS = 2000 };
    static uint8_t bytes[100 * 1024];
    memset(bytes, 'k', sizeof(bytes));
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        struct block_builder builder;
        struct bytes key = bytes_make(bytes, sizes[i]);
        block_builder_init(&builder);
        for (uint32_t version = VERSIONS; version > 0; version--)
            block_builder_add(&builder, key, (struct lsm_version){version, 0}, LSM_VALUE,
                              bytes_from_text("value"));
        struct bytes block = block_builder_finish(&builder);
        size_t one = SST_KEY_TRAILER_BYTES + 5;
        cr_assert_lt(block.size, 2 * key.size + VERSIONS * 2 * (one + 6),
                     "%zu bytes for keys of %u", block.size, sizes[i]);
        check_versions_in_block(block, key, VERSIONS);
        block_builder_deinit(&builder);
    }
}

/* Who does not begin another table when this one is full gets an error, and the file goes. */
static void overfull(void)
{
    static uint8_t bytes[LSM_KEY_BYTES_MAX];
    char path[160];
    snprintf(path, sizeof(path), "%s/000007.sst", root);
    struct sst_writer_options options = {
        .path = path, .number = 7, .block_bytes = 4096, .bloom_bits_per_key = 10};
    struct sst_writer *writer = NULL;
    struct lsm_row row = {.key = bytes_make(bytes, sizeof(bytes)), .version = {1, 0}};
    uint64_t file_bytes, rows = 0;
    cr_assert_eq(sst_writer_open(&options, &writer), 0);
    for (; rows < 60; rows++) {
        be64_store(bytes, rows);
        cr_assert_eq(sst_writer_add(writer, &row), 0);
    }
    cr_assert(sst_writer_is_full(writer));
    cr_assert_eq(sst_writer_finish(writer, &file_bytes), -EFBIG);
    sst_writer_abandon(writer);
    cr_assert_neq(access(path, F_OK), 0);
    /* One that stops in time. */
    cr_assert_eq(sst_writer_open(&options, &writer), 0);
    for (rows = 0; !sst_writer_is_full(writer); rows++) {
        be64_store(bytes, rows);
        cr_assert_eq(sst_writer_add(writer, &row), 0);
    }
    cr_assert_eq(sst_writer_finish(writer, &file_bytes), 0);
    struct lsm_table *table = NULL;
    cr_assert_eq(lsm_table_open(path, 7, &table), 0);
    cr_assert_lt(table->top_index.size, SST_TOP_INDEX_BYTES + 2 * LSM_KEY_BYTES_MAX);
    cr_assert_eq(table->properties.rows, rows);
    lsm_table_close(table, true);
}

Test(sst, a_top_index_of_more_than_a_block_is_an_error)
{
    in_fiber(overfull);
}

/* A limit of file sizes does what a disk does: a part of the last write is taken. */
static void full_disk(void)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/000007.sst", root);
    struct sst_writer_options options = {
        .path = path, .number = 7, .block_bytes = 4096, .bloom_bits_per_key = 10};
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = SST_WRITE_BYTES + 3 * (uint64_t)IO_ALIGN_BYTES;
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct sst_writer *writer = NULL;
    cr_assert_eq(sst_writer_open(&options, &writer), 0);
    uint8_t key[8], value[1024] = {0};
    struct lsm_row row = {.key = bytes_make(key, sizeof(key)),
                          .version = {1, 0},
                          .value = bytes_make(value, sizeof(value))};
    int status = 0;
    for (uint64_t rows = 0; rows < 4 * SST_WRITE_BYTES / sizeof(value) && status == 0; rows++) {
        be64_store(key, rows);
        status = sst_writer_add(writer, &row);
    }
    cr_expect_eq(status, -EFBIG, "%s", err_text(status));
    sst_writer_abandon(writer);
    limit.rlim_cur = limit.rlim_max;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

Test(sst, a_write_that_is_cut_short_tells_why)
{
    in_fiber(full_disk);
}

/* ---- damage ------------------------------------------------------------------------------------
 * */

static char table_path[128];

static void make_table(void)
{
    struct lsm_options options = tiny_options(in_root("s"));
    options.memtable_bytes = MIB;
    store_open(&options);
    for (uint64_t i = 0; i < 400; i++) {
        char key[32];
        snprintf(key, sizeof(key), "k/%05lu", i);
        put_text(key, 1 + i, "a value that compresses, a value that compresses");
    }
    lsm_commit(lsm, 400, 1);
    store_flush(400);
    store_close();
    char command[256];
    snprintf(command, sizeof(command), "ls %s/s/*.sst", root);
    FILE *pipe = popen(command, "r");
    cr_assert_not_null(fgets(table_path, sizeof(table_path), pipe));
    table_path[strcspn(table_path, "\n")] = 0;
    pclose(pipe);
}

static uint64_t visited_rows;
static bool visit_row(void *context, const struct lsm_row *row)
{
    (void)context, (void)row;
    visited_rows++;
    return true;
}
static void visit_field(void *context, const char *name, uint64_t value)
{
    (void)context, (void)name, (void)value;
}
static void visit_text(void *context, const char *name, struct bytes value)
{
    (void)context, (void)name, (void)value;
}
static const struct lsm_visitor visitor = {
    .field = visit_field, .text = visit_text, .row = visit_row};

static void flip(const char *path, uint64_t offset, uint8_t mask)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    cr_assert_eq(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= mask;
    cr_assert_eq(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

static void damage(void)
{
    make_table();
    visited_rows = 0;
    cr_assert_eq(lsm_dump_sst(table_path, &visitor), 0);
    cr_assert_eq(visited_rows, 400);
    struct lsm_table *table;
    cr_assert_eq(
        lsm_table_open(table_path, strtoul(strrchr(table_path, '/') + 1, NULL, 10), &table), 0);
    uint64_t bytes = table->file_bytes;
    lsm_table_close(table, false);
    uint32_t noticed = 0, flips = 0;
    for (uint64_t offset = 0; offset < bytes; offset += 37) {
        flip(table_path, offset, 0x10);
        int status = lsm_dump_sst(table_path, &visitor);
        flip(table_path, offset, 0x10);
        flips++;
        cr_assert(status == 0 || status == ERR_CORRUPT || status == ERR_VERSION, "%lu: %s", offset,
                  err_text(status));
        noticed += status != 0;
    }
    cr_assert_gt(noticed, flips / 2, "only padding may go unnoticed: %u of %u", noticed, flips);
    /* The bytes of another table: right checksums, wrong identity. */
    char other[160];
    snprintf(other, sizeof(other), "%s/s/000999.sst", root);
    shell("cp %s %s", table_path, other);
    cr_assert_eq(lsm_dump_sst(other, &visitor), ERR_CORRUPT);
}

Test(sst, a_flipped_bit_anywhere_is_an_error_and_never_a_crash)
{
    in_fiber(damage);
}

static void damaged_read(void)
{
    make_table();
    flip(table_path, 700, 1); /* a data block */
    struct lsm_options options = tiny_options(in_root("s"));
    store_open(&options);
    struct lsm_row row;
    uint32_t corrupt = 0;
    for (uint64_t i = 0; i < 400; i++) {
        char key[32];
        snprintf(key, sizeof(key), "k/%05lu", i);
        int status = lsm_get(reader, bytes_from_text(key), LSM_VERSION_MAX, &row);
        cr_assert(status == 0 || status == ERR_CORRUPT);
        corrupt += status == ERR_CORRUPT;
        if (status == 0)
            lsm_row_release(reader, &row);
    }
    cr_assert(corrupt > 0 && corrupt < 100, "%u", corrupt);
    cr_assert_gt(lsm_reader_stats(reader)->corrupt_blocks, 0);
    struct lsm_cursor *cursor;
    struct lsm_cursor_options all = {.version_max = LSM_VERSION_MAX};
    cr_assert_eq(lsm_cursor_open(reader, &all, &cursor), 0);
    int status;
    while ((status = lsm_cursor_next(cursor, &row)) == 1)
        continue;
    cr_assert_eq(status, ERR_CORRUPT);
    lsm_cursor_close(cursor);
    store_close();
}

Test(sst, a_damaged_block_fails_the_reads_that_need_it_and_no_others)
{
    in_fiber(damaged_read);
}
