#include "storage/lsm/sst_write.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <zstd.h>

#include "core/core.h"
#include "core/crc32c.h"
#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "storage/lsm/bloom.h"

#define SST_ZSTD_LEVEL 1
/* Compression has to win this much (in 1/8 of the block) to be worth expanding at every read. */
#define SST_COMPRESSION_GAIN_EIGHTHS 1

/* An entry without its key, twice: lengths, version, handle. */
#define SST_TOP_ENTRY_BYTES 96

struct sst_write {
    struct io_op op;
    uint8_t *buffer;
    struct fiber_event written;
    uint64_t offset;
    uint32_t bytes;
    int32_t result;
    bool pending;
};

struct sst_raw_block {
    uint64_t start; /* in index_raw */
    uint32_t bytes;
    uint64_t key_start; /* in index_keys: its last internal key */
    uint32_t key_bytes;
};

struct sst_growing {
    uint8_t *bytes;
    size_t used, capacity;
};

struct sst_writer {
    struct sst_writer_options options;
    char *path;
    struct io_file file;
    struct sst_write writes[2];
    uint32_t filling; /* index in writes */
    uint32_t fill;    /* bytes in its buffer */
    uint64_t offset;  /* of the file, where the next byte goes */

    struct block_builder data, index, top;
    struct sst_growing index_raw, index_keys, scratch;
    struct sst_raw_block *index_blocks;
    size_t index_count, index_max;
    uint64_t top_bytes; /* about what the top index takes for the index blocks so far */
    uint64_t *hashes;   /* of every user key, for the filter */
    size_t hash_count, hash_max;
    struct sst_growing smallest, last_key; /* user keys */
    struct sst_properties properties;
    ZSTD_CCtx *zstd;
};

static void *sst_grow(void *memory, size_t *capacity, size_t wanted, size_t unit)
{
    if (wanted <= *capacity)
        return memory;
    *capacity = u64_max(wanted, *capacity * 2);
    memory = realloc(memory, *capacity * unit);
    if (memory == NULL)
        fatal("out of memory while writing a table: %zu bytes", *capacity * unit);
    return memory;
}

static void sst_growing_append(struct sst_growing *to, const void *from, size_t bytes)
{
    to->bytes = sst_grow(to->bytes, &to->capacity, to->used + bytes, 1);
    memcpy(to->bytes + to->used, from, bytes);
    to->used += bytes;
}

/* ---- bytes to the disk ------------------------------------------------------------------------
 */

static void sst_write_done(struct io_op *op, int32_t result)
{
    struct sst_write *write = container_of(op, struct sst_write, op);
    invariant(write->pending);
    write->result = result;
    write->pending = false;
    fiber_event_signal(&write->written);
}

static void sst_write_begin(struct sst_writer *writer, struct sst_write *write, uint32_t bytes)
{
    invariant(!write->pending && bytes % IO_ALIGN_BYTES == 0 && bytes > 0);
    write->bytes = bytes;
    write->pending = true;
    io_op_init(&write->op, sst_write_done);
    fiber_event_init(&write->written);
    struct io_span span = {.base = write->buffer, .offset = write->offset, .bytes = bytes};
    reactor_write(core_reactor(core_current()), &write->op, writer->file, span, 0);
}

/* 0 when nothing was in flight or all of it arrived. A disk that becomes full takes a part first:
 * only the attempt to write the rest tells why. */
static int sst_write_end(struct sst_writer *writer, struct sst_write *write)
{
    if (write->bytes == 0)
        return 0;
    if (write->pending)
        fiber_event_wait(&write->written);
    invariant(!write->pending);
    uint32_t bytes = write->bytes;
    write->bytes = 0;
    if (write->result < 0)
        return write->result;
    uint32_t done = (uint32_t)write->result;
    struct io_span rest = {
        .base = write->buffer + done, .offset = write->offset + done, .bytes = bytes - done};
    int32_t result = await_write(writer->file, rest, 0);
    return result < 0 ? result : 0;
}

static int sst_writer_flush(struct sst_writer *writer)
{
    struct sst_write *full = &writer->writes[writer->filling];
    full->offset = writer->offset - writer->fill;
    sst_write_begin(writer, full, writer->fill);
    writer->filling ^= 1;
    writer->fill = 0;
    return sst_write_end(writer, &writer->writes[writer->filling]);
}

static int sst_writer_append(struct sst_writer *writer, const void *from, size_t bytes)
{
    const uint8_t *next = from;
    while (bytes > 0) {
        size_t part = u64_min(bytes, SST_WRITE_BYTES - writer->fill);
        memcpy(writer->writes[writer->filling].buffer + writer->fill, next, part);
        writer->fill += (uint32_t)part;
        writer->offset += part;
        next += part;
        bytes -= part;
        if (writer->fill == SST_WRITE_BYTES) {
            int status = sst_writer_flush(writer);
            if (status < 0)
                return status;
        }
    }
    return 0;
}

/* ---- blocks ----------------------------------------------------------------------------------
 */

/* The payload to store for `raw`: compressed into scratch, or `raw` itself. */
static struct bytes sst_compress(struct sst_writer *writer, struct bytes raw,
                                 enum lsm_compression *compression)
{
    size_t bound = 0, packed = 0;
    size_t limit = raw.size - raw.size * SST_COMPRESSION_GAIN_EIGHTHS / 8;
    switch (*compression) {
    case LSM_COMPRESSION_NONE:
        return raw;
    case LSM_COMPRESSION_LZ4:
        bound = (size_t)LZ4_compressBound((int)raw.size);
        break;
    case LSM_COMPRESSION_ZSTD:
        bound = ZSTD_compressBound(raw.size);
        break;
    }
    writer->scratch.bytes = sst_grow(writer->scratch.bytes, &writer->scratch.capacity, bound, 1);
    if (*compression == LSM_COMPRESSION_LZ4) {
        packed = (size_t)LZ4_compress_default((const char *)raw.data, (char *)writer->scratch.bytes,
                                              (int)raw.size, (int)bound);
    } else {
        packed = ZSTD_compressCCtx(writer->zstd, writer->scratch.bytes, bound, raw.data, raw.size,
                                   SST_ZSTD_LEVEL);
        packed = ZSTD_isError(packed) ? 0 : packed;
    }
    if (packed == 0 || packed > limit) {
        *compression = LSM_COMPRESSION_NONE;
        return raw;
    }
    return bytes_make(writer->scratch.bytes, packed);
}

static int sst_writer_block(struct sst_writer *writer, struct bytes raw, enum sst_block_type type,
                            enum lsm_compression compression, struct sst_handle *handle)
{
    invariant(raw.size > 0 && raw.size <= SST_BLOCK_WRITTEN_BYTES_MAX);
    struct bytes payload = sst_compress(writer, raw, &compression);
    uint8_t trailer[SST_TRAILER_BYTES] = {0};
    trailer[SST_TRAILER_COMPRESSION] = (uint8_t)compression;
    trailer[SST_TRAILER_TYPE] = (uint8_t)type;
    le32_store(trailer + SST_TRAILER_RAW_BYTES, (uint32_t)raw.size);
    uint32_t crc = sst_block_crc(writer->options.number, writer->offset, payload.data,
                                 (uint32_t)payload.size, trailer);
    le32_store(trailer + SST_TRAILER_CRC, crc);
    handle->offset = writer->offset;
    handle->bytes = (uint32_t)(payload.size + SST_TRAILER_BYTES);
    int status = sst_writer_append(writer, payload.data, payload.size);
    return status < 0 ? status : sst_writer_append(writer, trailer, sizeof(trailer));
}

/* An index entry: internal key of a block's last entry -> its handle. */
static void sst_index_add(struct block_builder *index, struct bytes internal,
                          struct sst_handle handle)
{
    uint8_t value[20];
    size_t bytes = sst_handle_store(value, handle);
    struct bytes key = bytes_make(internal.data, internal.size - SST_KEY_TRAILER_BYTES);
    block_builder_add(index, key, sst_trailer_load(internal.data + key.size), LSM_VALUE,
                      bytes_make(value, bytes));
}

/* A version of the key before costs no more than twice its entry: contract of block_builder_add. */
static uint64_t sst_top_entry_bytes(const struct sst_writer *writer, struct bytes last)
{
    uint64_t bytes = SST_TOP_ENTRY_BYTES;
    if (writer->index_count > 0) {
        const struct sst_raw_block *before = &writer->index_blocks[writer->index_count - 1];
        if (before->key_bytes == last.size &&
            memcmp(writer->index_keys.bytes + before->key_start, last.data,
                   last.size - SST_KEY_TRAILER_BYTES) == 0)
            return bytes;
    }
    return bytes + last.size;
}

/* Index blocks wait in memory: they follow the data, and their checksum covers their offset. */
static void sst_writer_end_index(struct sst_writer *writer)
{
    if (writer->index.entries == 0)
        return;
    struct bytes last = block_builder_last_key(&writer->index);
    writer->top_bytes += sst_top_entry_bytes(writer, last);
    writer->index_blocks = sst_grow(writer->index_blocks, &writer->index_max,
                                    writer->index_count + 1, sizeof(writer->index_blocks[0]));
    struct sst_raw_block *block = &writer->index_blocks[writer->index_count++];
    block->key_start = writer->index_keys.used;
    block->key_bytes = (uint32_t)last.size;
    sst_growing_append(&writer->index_keys, last.data, last.size);
    struct bytes raw = block_builder_finish(&writer->index);
    block->start = writer->index_raw.used;
    block->bytes = (uint32_t)raw.size;
    sst_growing_append(&writer->index_raw, raw.data, raw.size);
    block_builder_reset(&writer->index);
}

static bool sst_index_is_full(const struct block_builder *index)
{
    if (block_builder_bytes(index) >= SST_INDEX_BLOCK_BYTES_LARGE)
        return true;
    return index->entries >= SST_INDEX_BLOCK_ENTRIES_MIN &&
           block_builder_own_bytes(index) >= SST_INDEX_BLOCK_BYTES;
}

static int sst_writer_end_data(struct sst_writer *writer)
{
    if (writer->data.entries == 0)
        return 0;
    struct sst_handle handle;
    struct bytes raw = block_builder_finish(&writer->data);
    int status =
        sst_writer_block(writer, raw, SST_BLOCK_DATA, writer->options.compression, &handle);
    if (status < 0)
        return status;
    sst_index_add(&writer->index, block_builder_last_key(&writer->data), handle);
    block_builder_reset(&writer->data);
    writer->properties.data_blocks++;
    if (sst_index_is_full(&writer->index))
        sst_writer_end_index(writer);
    return 0;
}

/* ---- rows ------------------------------------------------------------------------------------
 */

static bool sst_writer_has_key(const struct sst_writer *writer, struct bytes key)
{
    return writer->properties.rows > 0 &&
           bytes_equal(bytes_make(writer->last_key.bytes, writer->last_key.used), key);
}

static void sst_writer_count(struct sst_writer *writer, const struct lsm_row *row, bool same_key)
{
    struct sst_properties *properties = &writer->properties;
    if (properties->rows == 0) {
        sst_growing_append(&writer->smallest, row->key.data, row->key.size);
        properties->version_first = properties->version_last = row->version.main;
    }
    if (same_key) {
        properties->superseded++;
    } else {
        writer->hashes = sst_grow(writer->hashes, &writer->hash_max, writer->hash_count + 1,
                                  sizeof(writer->hashes[0]));
        writer->hashes[writer->hash_count++] = bloom_hash(row->key);
        writer->last_key.used = 0;
        sst_growing_append(&writer->last_key, row->key.data, row->key.size);
    }
    properties->rows++;
    properties->tombstones += row->kind == LSM_TOMBSTONE;
    properties->key_bytes += row->key.size;
    properties->value_bytes += row->value.size;
    properties->version_first = u64_min(properties->version_first, row->version.main);
    properties->version_last = u64_max(properties->version_last, row->version.main);
}

int sst_writer_add(struct sst_writer *writer, const struct lsm_row *row)
{
    invariant(row->key.size > 0 && row->key.size <= LSM_KEY_BYTES_MAX);
    bool same_key = sst_writer_has_key(writer, row->key);
    /* A key that fills a block shares it with its versions; another key finds it full. */
    uint64_t bytes =
        same_key ? block_builder_own_bytes(&writer->data) : block_builder_bytes(&writer->data);
    if (bytes >= writer->options.block_bytes) {
        int status = sst_writer_end_data(writer);
        if (status < 0)
            return status;
    }
    sst_writer_count(writer, row, same_key);
    block_builder_add(&writer->data, row->key, row->version, row->kind, row->value);
    return 0;
}

uint64_t sst_writer_bytes(const struct sst_writer *writer)
{
    return writer->offset + block_builder_bytes(&writer->data) + writer->index_raw.used;
}

bool sst_writer_is_full(const struct sst_writer *writer)
{
    return writer->top_bytes >= SST_TOP_INDEX_BYTES;
}

uint64_t sst_writer_rows(const struct sst_writer *writer)
{
    return writer->properties.rows;
}

/* ---- the end of the file ----------------------------------------------------------------------
 */

static int sst_writer_indexes(struct sst_writer *writer, struct sst_handle *top)
{
    sst_writer_end_index(writer);
    writer->properties.index_blocks = writer->index_count;
    for (size_t i = 0; i < writer->index_count; i++) {
        const struct sst_raw_block *block = &writer->index_blocks[i];
        struct sst_handle handle;
        struct bytes raw = bytes_make(writer->index_raw.bytes + block->start, block->bytes);
        int status = sst_writer_block(writer, raw, SST_BLOCK_INDEX, LSM_COMPRESSION_NONE, &handle);
        if (status < 0)
            return status;
        sst_index_add(&writer->top,
                      bytes_make(writer->index_keys.bytes + block->key_start, block->key_bytes),
                      handle);
        if (block_builder_bytes(&writer->top) > SST_BLOCK_WRITTEN_BYTES_MAX) {
            log_error("a table's top index is larger than a block may be",
                      LOG_TEXT("file", writer->path), LOG_U64("rows", writer->properties.rows),
                      LOG_TEXT("remedy", "compact old revisions: a key has too many versions"));
            return -EFBIG;
        }
    }
    return sst_writer_block(writer, block_builder_finish(&writer->top), SST_BLOCK_TOP_INDEX,
                            LSM_COMPRESSION_NONE, top);
}

static int sst_writer_filter(struct sst_writer *writer, struct sst_handle *filter)
{
    uint32_t bits = writer->options.bloom_bits_per_key;
    uint64_t bytes = bloom_bytes(writer->hash_count, bits);
    *filter = (struct sst_handle){0, 0};
    if (bytes > SST_BLOCK_WRITTEN_BYTES_MAX)
        return 0; /* beyond 25 million keys in one table: reads do without */
    uint8_t *bloom = calloc(1, bytes);
    if (bloom == NULL)
        return -ENOMEM;
    bloom_begin(bloom, bytes, bits);
    for (size_t i = 0; i < writer->hash_count; i++)
        bloom_add(bloom, bytes, writer->hashes[i]);
    int status = sst_writer_block(writer, bytes_make(bloom, bytes), SST_BLOCK_FILTER,
                                  LSM_COMPRESSION_NONE, filter);
    free(bloom);
    return status;
}

static int sst_writer_properties(struct sst_writer *writer, struct sst_handle *handle)
{
    const struct sst_properties *from = &writer->properties;
    size_t smallest = writer->smallest.used, largest = writer->last_key.used;
    size_t bytes = SST_PROPERTIES_KEYS + smallest + largest;
    uint8_t *raw = calloc(1, bytes);
    if (raw == NULL)
        return -ENOMEM;
    le64_store(raw + SST_PROPERTIES_ROWS, from->rows);
    le64_store(raw + SST_PROPERTIES_TOMBSTONES, from->tombstones);
    le64_store(raw + SST_PROPERTIES_SUPERSEDED, from->superseded);
    le64_store(raw + SST_PROPERTIES_KEY_BYTES, from->key_bytes);
    le64_store(raw + SST_PROPERTIES_VALUE_BYTES, from->value_bytes);
    le64_store(raw + SST_PROPERTIES_DATA_BYTES, from->data_bytes);
    le64_store(raw + SST_PROPERTIES_DATA_BLOCKS, from->data_blocks);
    le64_store(raw + SST_PROPERTIES_INDEX_BLOCKS, from->index_blocks);
    le64_store(raw + SST_PROPERTIES_VERSION_FIRST, from->version_first);
    le64_store(raw + SST_PROPERTIES_VERSION_LAST, from->version_last);
    le32_store(raw + SST_PROPERTIES_SMALLEST_BYTES, (uint32_t)smallest);
    le32_store(raw + SST_PROPERTIES_LARGEST_BYTES, (uint32_t)largest);
    memcpy(raw + SST_PROPERTIES_KEYS, writer->smallest.bytes, smallest);
    memcpy(raw + SST_PROPERTIES_KEYS + smallest, writer->last_key.bytes, largest);
    int status = sst_writer_block(writer, bytes_make(raw, bytes), SST_BLOCK_PROPERTIES,
                                  LSM_COMPRESSION_NONE, handle);
    free(raw);
    return status;
}

/* Padding up to where the footer ends on a multiple of IO_ALIGN_BYTES, then the footer. */
static int sst_writer_footer(struct sst_writer *writer, struct sst_handle top,
                             struct sst_handle filter, struct sst_handle properties,
                             uint64_t *file_bytes)
{
    static const uint8_t zeros[IO_ALIGN_BYTES];
    *file_bytes = u64_round_up(writer->offset + SST_FOOTER_BYTES, IO_ALIGN_BYTES);
    int status = sst_writer_append(writer, zeros, *file_bytes - SST_FOOTER_BYTES - writer->offset);
    if (status < 0)
        return status;
    uint8_t footer[SST_FOOTER_BYTES] = {0};
    le64_store(footer + SST_FOOTER_MAGIC, SST_MAGIC);
    le32_store(footer + SST_FOOTER_FORMAT, SST_FORMAT);
    le64_store(footer + SST_FOOTER_NUMBER, writer->options.number);
    le64_store(footer + SST_FOOTER_FILE_BYTES, *file_bytes);
    le64_store(footer + SST_FOOTER_TOP_INDEX_OFFSET, top.offset);
    le64_store(footer + SST_FOOTER_FILTER_OFFSET, filter.offset);
    le64_store(footer + SST_FOOTER_PROPERTIES_OFFSET, properties.offset);
    le32_store(footer + SST_FOOTER_TOP_INDEX_BYTES, top.bytes);
    le32_store(footer + SST_FOOTER_FILTER_BYTES, filter.bytes);
    le32_store(footer + SST_FOOTER_PROPERTIES_BYTES, properties.bytes);
    le32_store(footer + SST_FOOTER_CRC, crc32c(0, footer, SST_FOOTER_CRC));
    status = sst_writer_append(writer, footer, sizeof(footer));
    invariant(status < 0 || writer->offset == *file_bytes);
    return status;
}

static int sst_writer_drain(struct sst_writer *writer)
{
    int status = 0;
    if (writer->fill > 0)
        status = sst_writer_flush(writer);
    for (uint32_t i = 0; i < ARRAY_COUNT(writer->writes); i++) {
        int ended = sst_write_end(writer, &writer->writes[i]);
        status = status < 0 ? status : ended;
    }
    return status;
}

static void sst_writer_free(struct sst_writer *writer)
{
    for (uint32_t i = 0; i < ARRAY_COUNT(writer->writes); i++)
        if (writer->writes[i].buffer != NULL)
            lsm_buffer_release(writer->writes[i].buffer);
    block_builder_deinit(&writer->data);
    block_builder_deinit(&writer->index);
    block_builder_deinit(&writer->top);
    free(writer->index_raw.bytes);
    free(writer->index_keys.bytes);
    free(writer->scratch.bytes);
    free(writer->index_blocks);
    free(writer->hashes);
    free(writer->smallest.bytes);
    free(writer->last_key.bytes);
    ZSTD_freeCCtx(writer->zstd);
    free(writer->path);
    free(writer);
}

int sst_writer_finish(struct sst_writer *writer, uint64_t *file_bytes)
{
    invariant(writer->properties.rows > 0);
    struct sst_handle top, filter, properties;
    int status = sst_writer_end_data(writer);
    writer->properties.data_bytes = writer->offset;
    if (status == 0)
        status = sst_writer_indexes(writer, &top);
    if (status == 0)
        status = sst_writer_filter(writer, &filter);
    if (status == 0)
        status = sst_writer_properties(writer, &properties);
    if (status == 0)
        status = sst_writer_footer(writer, top, filter, properties, file_bytes);
    if (status == 0)
        status = sst_writer_drain(writer);
    if (status == 0)
        status = await_sync(writer->file);
    if (status < 0)
        return status;
    await_close(&writer->file);
    sst_writer_free(writer);
    return 0;
}

void sst_writer_abandon(struct sst_writer *writer)
{
    for (uint32_t i = 0; i < ARRAY_COUNT(writer->writes); i++)
        if (writer->writes[i].bytes != 0 && writer->writes[i].pending)
            fiber_event_wait(&writer->writes[i].written);
    if (writer->file.fd >= 0) {
        await_close(&writer->file);
        int32_t status = await_unlink(writer->path);
        (void)status; /* what is left over is an orphan, removed at the next start */
    }
    sst_writer_free(writer);
}

int sst_writer_open(const struct sst_writer_options *options, struct sst_writer **result)
{
    struct sst_writer *writer = calloc(1, sizeof(*writer));
    if (writer == NULL)
        return -ENOMEM;
    writer->options = *options;
    writer->file.fd = -1;
    block_builder_init(&writer->data);
    block_builder_init(&writer->index);
    block_builder_init(&writer->top);
    writer->path = strdup(options->path);
    writer->zstd = options->compression == LSM_COMPRESSION_ZSTD ? ZSTD_createCCtx() : NULL;
    int status = writer->path == NULL ? -ENOMEM : 0;
    if (options->compression == LSM_COMPRESSION_ZSTD && writer->zstd == NULL)
        status = -ENOMEM;
    for (uint32_t i = 0; i < ARRAY_COUNT(writer->writes) && status == 0; i++) {
        writer->writes[i].buffer = lsm_buffer_acquire(SST_WRITE_BYTES);
        if (writer->writes[i].buffer == NULL)
            status = -ENOMEM;
    }
    if (status == 0)
        status = await_open(options->path,
                            IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE | IO_OPEN_DIRECT,
                            &writer->file);
    if (status < 0) {
        sst_writer_free(writer);
        return status;
    }
    *result = writer;
    return 0;
}
