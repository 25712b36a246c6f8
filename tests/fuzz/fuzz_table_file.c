/* A whole SSTable file with any of its bytes changed and its checksums made to hold again: opened,
 * its properties and filter used, its rows walked as raftctl does. The calls of fiber.h that read
 * files are answered here, from memory. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/core.h"
#include "core/crc32c.h"
#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "storage/lsm/block.h"
#include "storage/lsm/bloom.h"
#include "storage/lsm/table.h"

#define NUMBER          7
#define ROWS_MAX        1000
#define INPUT_BYTES_MAX (64 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
    uint8_t *bytes;
    size_t size;
} file;

int32_t await_stat(const char *path maybe_unused, struct io_stat *stat)
{
    *stat = (struct io_stat){.bytes = file.size};
    return 0;
}

int32_t await_open(const char *path maybe_unused, uint32_t flags, struct io_file *opened)
{
    invariant((flags & IO_OPEN_WRITE) == 0);
    opened->fd = 5;
    return 0;
}

int32_t await_close(struct io_file *closed)
{
    closed->fd = -1;
    return 0;
}

int32_t await_read(struct io_file from maybe_unused, struct io_span span)
{
    invariant(span.offset % IO_ALIGN_BYTES == 0);
    if (span.offset >= file.size)
        return 0;
    size_t bytes = u64_min(span.bytes, file.size - span.offset);
    memcpy(span.base, file.bytes + span.offset, bytes);
    return (int32_t)bytes;
}

/* None of these is reached by a reader; they stand here so that no others are linked. */
#define UNUSED_CALL(...)                                                                           \
    __VA_ARGS__                                                                                    \
    {                                                                                              \
        invariant(!"a reader does not write");                                                     \
        return -EIO;                                                                               \
    }
UNUSED_CALL(int32_t await_write(struct io_file to maybe_unused, struct io_span span maybe_unused,
                                uint32_t flags maybe_unused))
UNUSED_CALL(int32_t await_sync(struct io_file of maybe_unused))
UNUSED_CALL(int32_t await_sync_directory(const char *path maybe_unused))
UNUSED_CALL(int32_t await_allocate(struct io_file of maybe_unused, uint64_t offset maybe_unused,
                                   uint64_t bytes maybe_unused))
UNUSED_CALL(int32_t await_truncate(struct io_file of maybe_unused, uint64_t bytes maybe_unused))
UNUSED_CALL(int32_t await_rename(const char *from maybe_unused, const char *to maybe_unused))
UNUSED_CALL(int32_t await_unlink(const char *path maybe_unused))
UNUSED_CALL(int32_t await_hard_link(const char *from maybe_unused, const char *to maybe_unused))
UNUSED_CALL(int32_t await_make_directory(const char *path maybe_unused))
UNUSED_CALL(int32_t await_remove_directory(const char *path maybe_unused))

/* Buffers for reads are a core's. */
static void core_begin(void)
{
    static struct core *core;
    static struct mesh *mesh;
    struct core_options options = {.reactor = {.core_count = 1,
                                               .files_max = 16,
                                               .buffer_bytes = 2 * MIB,
                                               .recv_buffer_bytes = 4096,
                                               .recv_buffer_count = 4},
                                   .fibers_max = 1};
    char reason[256];
    if (core != NULL)
        return;
    invariant(mesh_create(1, 64, &mesh) == 0);
    invariant(core_create(&options, mesh, &core, reason, sizeof(reason)) == 0);
    core_set_current(core);
}

/* ---- a sound table, and what is done to it ------------------------------------------------------
 */

struct base_block {
    struct sst_handle handle;
    enum sst_block_type type;
};
static struct base_block base_blocks[16];
static uint32_t base_block_count;

static void file_put(const void *bytes, size_t count)
{
    memcpy(file.bytes + file.size, bytes, count);
    file.size += count;
}

static struct sst_handle base_block(struct bytes raw, enum sst_block_type type)
{
    uint8_t trailer[SST_TRAILER_BYTES] = {[SST_TRAILER_TYPE] = (uint8_t)type};
    struct sst_handle handle = {.offset = file.size,
                                .bytes = (uint32_t)raw.size + SST_TRAILER_BYTES};
    le32_store(trailer + SST_TRAILER_RAW_BYTES, (uint32_t)raw.size);
    file_put(raw.data, raw.size);
    file_put(trailer, sizeof(trailer));
    base_blocks[base_block_count++] = (struct base_block){handle, type};
    return handle;
}

/* Ends `builder`'s block and names it in `index`. */
static void base_index(struct block_builder *index, struct block_builder *builder,
                       enum sst_block_type type)
{
    uint8_t value[20];
    struct bytes last = block_builder_last_key(builder);
    struct bytes key = bytes_make(last.data, last.size - SST_KEY_TRAILER_BYTES);
    size_t bytes = sst_handle_store(value, base_block(block_builder_finish(builder), type));
    block_builder_add(index, key, sst_trailer_load(last.data + key.size), LSM_VALUE,
                      bytes_make(value, bytes));
    block_builder_reset(builder);
}

static void footer_handle(uint8_t *footer, size_t at_offset, size_t at_bytes,
                          struct sst_handle handle)
{
    le64_store(footer + at_offset, handle.offset);
    le32_store(footer + at_bytes, handle.bytes);
}

/* Six data blocks in two index blocks, some keys with several versions; where a data block ends. */
static uint64_t base_rows(struct block_builder *top, uint8_t *filter, uint64_t filter_bytes)
{
    struct block_builder data, index;
    uint64_t data_bytes = 0;
    block_builder_init(&data);
    block_builder_init(&index);
    for (uint32_t i = 0; i < 120; i++) {
        char text[32];
        int bytes = snprintf(text, sizeof(text), "k/%05u", i / 3);
        struct bytes key = bytes_make((const uint8_t *)text, (size_t)bytes);
        bloom_add(filter, filter_bytes, bloom_hash(key));
        block_builder_add(&data, key, (struct lsm_version){500 - i % 3, i},
                          i % 5 == 0 ? LSM_TOMBSTONE : LSM_VALUE,
                          bytes_make(key.data, i % 5 == 0 ? 0 : key.size));
        if (i % 20 == 19) {
            base_index(&index, &data, SST_BLOCK_DATA);
            data_bytes = file.size;
        }
        if (i == 59 || i == 119) { /* the writer keeps them for after the data; readers ask not */
            base_index(top, &index, SST_BLOCK_INDEX);
        }
    }
    block_builder_deinit(&data);
    block_builder_deinit(&index);
    return data_bytes;
}

static void base_build(void)
{
    uint8_t filter[1024] = {0}, properties[SST_PROPERTIES_KEYS + 16] = {0};
    uint8_t footer[SST_FOOTER_BYTES] = {0};
    uint64_t filter_bytes = bloom_bytes(40, 10);
    struct block_builder top;
    file.bytes = calloc(1, INPUT_BYTES_MAX);
    invariant(file.bytes != NULL && filter_bytes <= sizeof(filter));
    bloom_begin(filter, filter_bytes, 10);
    block_builder_init(&top);
    uint64_t data_bytes = base_rows(&top, filter, filter_bytes);
    struct sst_handle top_handle = base_block(block_builder_finish(&top), SST_BLOCK_TOP_INDEX);
    block_builder_deinit(&top);
    le64_store(properties + SST_PROPERTIES_ROWS, 120);
    le64_store(properties + SST_PROPERTIES_DATA_BYTES, data_bytes);
    le32_store(properties + SST_PROPERTIES_SMALLEST_BYTES, 7);
    le32_store(properties + SST_PROPERTIES_LARGEST_BYTES, 7);
    memcpy(properties + SST_PROPERTIES_KEYS, "k/00000k/00039", 14);
    struct sst_handle filter_handle =
        base_block(bytes_make(filter, filter_bytes), SST_BLOCK_FILTER);
    struct sst_handle properties_handle =
        base_block(bytes_make(properties, SST_PROPERTIES_KEYS + 14), SST_BLOCK_PROPERTIES);
    footer_handle(footer, SST_FOOTER_TOP_INDEX_OFFSET, SST_FOOTER_TOP_INDEX_BYTES, top_handle);
    footer_handle(footer, SST_FOOTER_FILTER_OFFSET, SST_FOOTER_FILTER_BYTES, filter_handle);
    footer_handle(footer, SST_FOOTER_PROPERTIES_OFFSET, SST_FOOTER_PROPERTIES_BYTES,
                  properties_handle);
    file.size = u64_round_up(file.size + SST_FOOTER_BYTES, IO_ALIGN_BYTES) - SST_FOOTER_BYTES;
    le64_store(footer + SST_FOOTER_MAGIC, SST_MAGIC);
    le32_store(footer + SST_FOOTER_FORMAT, SST_FORMAT);
    le64_store(footer + SST_FOOTER_NUMBER, NUMBER);
    le64_store(footer + SST_FOOTER_FILE_BYTES, file.size + SST_FOOTER_BYTES);
    file_put(footer, sizeof(footer));
}

/* Checksums hold again, at the blocks' places and wherever the footer points now. */
static void block_seal(struct sst_handle handle, enum sst_block_type type)
{
    if (handle.bytes <= SST_TRAILER_BYTES || handle.offset > file.size ||
        handle.bytes > file.size - handle.offset)
        return;
    uint32_t payload = handle.bytes - SST_TRAILER_BYTES;
    uint8_t *stored = file.bytes + handle.offset, *trailer = stored + payload;
    trailer[SST_TRAILER_TYPE] = (uint8_t)type;
    if (trailer[SST_TRAILER_COMPRESSION] == 0)
        le32_store(trailer + SST_TRAILER_RAW_BYTES, payload);
    else if (le32_load(trailer + SST_TRAILER_RAW_BYTES) > 4 * INPUT_BYTES_MAX)
        le32_store(trailer + SST_TRAILER_RAW_BYTES, INPUT_BYTES_MAX);
    le32_store(trailer + SST_TRAILER_CRC,
               sst_block_crc(NUMBER, handle.offset, stored, payload, trailer));
}

static void file_seal(void)
{
    static const struct {
        size_t at_offset, at_bytes;
        enum sst_block_type type;
    } named[] = {
        {SST_FOOTER_TOP_INDEX_OFFSET, SST_FOOTER_TOP_INDEX_BYTES, SST_BLOCK_TOP_INDEX},
        {SST_FOOTER_FILTER_OFFSET, SST_FOOTER_FILTER_BYTES, SST_BLOCK_FILTER},
        {SST_FOOTER_PROPERTIES_OFFSET, SST_FOOTER_PROPERTIES_BYTES, SST_BLOCK_PROPERTIES},
    };
    uint8_t *footer = file.bytes + file.size - SST_FOOTER_BYTES;
    for (uint32_t i = 0; i < base_block_count; i++)
        block_seal(base_blocks[i].handle, base_blocks[i].type);
    for (size_t i = 0; i < ARRAY_COUNT(named); i++)
        block_seal((struct sst_handle){.offset = le64_load(footer + named[i].at_offset),
                                       .bytes = le32_load(footer + named[i].at_bytes)},
                   named[i].type);
    le32_store(footer + SST_FOOTER_CRC, crc32c(0, footer, SST_FOOTER_CRC));
}

/* ---- use ----------------------------------------------------------------------------------------
 */

static uint32_t rows_seen;
static volatile uint64_t sum; /* of all that was handed out: it is read */

static void on_field(void *context maybe_unused, const char *name, uint64_t value)
{
    invariant(name != NULL);
    sum += value;
}

static void on_text(void *context maybe_unused, const char *name maybe_unused, struct bytes value)
{
    for (size_t i = 0; i < value.size; i++)
        sum += value.data[i];
}

static bool on_row(void *context maybe_unused, const struct lsm_row *row)
{
    on_text(NULL, "", row->key);
    on_text(NULL, "", row->value);
    return ++rows_seen < ROWS_MAX;
}

static void table_use(void)
{
    struct lsm_table *table = NULL;
    int error = lsm_table_open("000007.sst", NUMBER, &table);
    invariant((error == 0) == (table != NULL));
    if (error < 0)
        return;
    invariant(table->smallest.size > 0 && table->largest.size > 0);
    invariant(table->properties.data_bytes <= table->file_bytes);
    for (uint64_t i = 0; i < 8; i++)
        sum += bloom_may_contain(table->bloom, i * UINT64_C(0x9e3779b97f4a7c15));
    lsm_table_close(table, false);
}

/* First byte: are checksums made to hold? Then changes: where (u16), what (u8). */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct lsm_visitor visitor = {.field = on_field, .text = on_text, .row = on_row};
    static uint8_t *base;
    static size_t base_size;
    logger_set_level(LOG_LEVEL_NONE);
    if (base == NULL) {
        core_begin();
        base_build();
        file_seal();
        base = file.bytes;
        base_size = file.size;
    }
    if (size < 1 || size > 3 * 64)
        return 0;
    file.size = base_size;
    file.bytes = malloc(base_size);
    invariant(file.bytes != NULL);
    memcpy(file.bytes, base, base_size);
    for (size_t at = 1; at + 3 <= size; at += 3) /* from the end: the footer comes first */
        file.bytes[base_size - 1 - le16_load(data + at) % base_size] ^= data[at + 2];
    if (data[0] % 8 != 0)
        file_seal();
    rows_seen = 0;
    table_use();
    int error = lsm_dump_sst("000007.sst", &visitor);
    invariant(error <= 0);
    invariant(size >= 4 || (error == 0 && rows_seen == 120)); /* unchanged, it is sound */
    free(file.bytes);
    return 0;
}
