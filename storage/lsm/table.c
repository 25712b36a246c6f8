#include "storage/lsm/table.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <zstd.h>

#include "core/buffer.h"
#include "core/core.h"
#include "core/crc32c.h"
#include "core/err.h"
#include "core/fiber.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "storage/lsm/block.h"

void lsm_table_log_corrupt(const char *path, uint64_t offset, const char *reason)
{
    log_error("stored bytes are damaged", LOG_TEXT("file", path), LOG_U64("offset", offset),
              LOG_TEXT("reason", reason));
}

/* ---- blocks ----------------------------------------------------------------------------------
 */

uint32_t sst_block_crc(uint64_t number, uint64_t offset, const uint8_t *payload,
                       uint32_t payload_bytes, const uint8_t *trailer)
{
    uint8_t identity[16];
    le64_store(identity, number);
    le64_store(identity + 8, offset);
    uint32_t crc = crc32c(0, identity, sizeof(identity));
    crc = crc32c(crc, payload, payload_bytes);
    return crc32c(crc, trailer, SST_TRAILER_CRC);
}

static const char *sst_block_expand(const uint8_t *payload, uint32_t payload_bytes,
                                    uint8_t compression, uint8_t *raw, uint32_t raw_bytes)
{
    switch ((enum lsm_compression)compression) {
    case LSM_COMPRESSION_NONE:
        if (payload_bytes != raw_bytes)
            return "raw block of another size";
        memcpy(raw, payload, raw_bytes);
        return NULL;
    case LSM_COMPRESSION_LZ4:
        if (LZ4_decompress_safe((const char *)payload, (char *)raw, (int)payload_bytes,
                                (int)raw_bytes) != (int)raw_bytes)
            return "LZ4 block does not expand";
        return NULL;
    case LSM_COMPRESSION_ZSTD:
        if (ZSTD_decompress(raw, raw_bytes, payload, payload_bytes) != raw_bytes)
            return "zstd block does not expand";
        return NULL;
    }
    return "unknown compression";
}

int sst_block_decode(uint64_t number, const char *path, struct sst_handle handle,
                     enum sst_block_type type, const uint8_t *stored, size_t headroom,
                     uint8_t **raw, uint32_t *raw_bytes)
{
    const char *reason = NULL;
    uint8_t *expanded = NULL;
    invariant(handle.bytes > SST_TRAILER_BYTES);
    uint32_t payload_bytes = handle.bytes - SST_TRAILER_BYTES;
    const uint8_t *trailer = stored + payload_bytes;
    uint32_t crc = sst_block_crc(number, handle.offset, stored, payload_bytes, trailer);
    uint32_t size = le32_load(trailer + SST_TRAILER_RAW_BYTES);
    if (crc != le32_load(trailer + SST_TRAILER_CRC) && !planted_bug(table_checksum_ignored)) {
        reason = "block checksum mismatch";
    } else if (trailer[SST_TRAILER_TYPE] != type) {
        reason = "block of another type";
    } else if (size == 0 || size > SST_BLOCK_RAW_BYTES_MAX) {
        reason = "impossible block size";
    } else {
        expanded = malloc(headroom + size);
        if (expanded == NULL)
            return ERR_FULL;
        reason = sst_block_expand(stored, payload_bytes, trailer[SST_TRAILER_COMPRESSION],
                                  expanded + headroom, size);
    }
    if (reason != NULL) {
        free(expanded);
        lsm_table_log_corrupt(path, handle.offset, reason);
        return ERR_CORRUPT;
    }
    *raw = expanded;
    *raw_bytes = size;
    return 0;
}

int lsm_table_read_span(const struct lsm_table *table, uint64_t offset, uint32_t bytes,
                        uint8_t *into, uint32_t into_bytes, uint32_t *skip)
{
    uint64_t start = offset & ~(uint64_t)(IO_ALIGN_BYTES - 1);
    uint64_t end = u64_round_up(offset + bytes, IO_ALIGN_BYTES);
    invariant(end - start <= into_bytes && end > start);
    if (offset + bytes > table->file_bytes) {
        lsm_table_log_corrupt(table->path, offset, "block lies outside of the file");
        return ERR_CORRUPT;
    }
    struct io_span span = {.base = into, .offset = start, .bytes = (uint32_t)(end - start)};
    int32_t got = await_read(table->file, span);
    if (got < 0) {
        log_error("cannot read a table", LOG_TEXT("file", table->path), LOG_U64("offset", start),
                  LOG_ERROR(got));
        return got;
    }
    if ((uint32_t)got != span.bytes) {
        lsm_table_log_corrupt(table->path, offset, "file is shorter than it says");
        return ERR_CORRUPT;
    }
    *skip = (uint32_t)(offset - start);
    return 0;
}

uint8_t *lsm_buffer_acquire(uint32_t bytes)
{
    return buffer_acquire_or_allocate(reactor_buffers(core_reactor(core_current())), bytes);
}

void lsm_buffer_release(uint8_t *buffer)
{
    buffer_release_or_free(reactor_buffers(core_reactor(core_current())), buffer);
}

int lsm_table_read_stored(const struct lsm_table *table, struct sst_handle handle,
                          enum sst_block_type type, size_t headroom, uint8_t **raw,
                          uint32_t *raw_bytes)
{
    if (handle.bytes <= SST_TRAILER_BYTES || handle.bytes > SST_BLOCK_RAW_BYTES_MAX ||
        handle.offset > table->file_bytes || handle.bytes > table->file_bytes - handle.offset) {
        lsm_table_log_corrupt(table->path, handle.offset, "block lies outside of the file");
        return ERR_CORRUPT;
    }
    uint32_t room = (uint32_t)u64_round_up(handle.bytes, IO_ALIGN_BYTES) + IO_ALIGN_BYTES;
    uint32_t skip = 0;
    uint8_t *buffer = lsm_buffer_acquire(room);
    if (buffer == NULL)
        return -ENOMEM;
    int status = lsm_table_read_span(table, handle.offset, handle.bytes, buffer, room, &skip);
    if (status == 0)
        status = sst_block_decode(table->number, table->path, handle, type, buffer + skip, headroom,
                                  raw, raw_bytes);
    lsm_buffer_release(buffer);
    return status;
}

/* ---- open and close --------------------------------------------------------------------------
 */

struct sst_footer {
    struct sst_handle top_index, filter, properties;
};

static const char *sst_footer_parse(const uint8_t *from, uint64_t number, uint64_t file_bytes,
                                    struct sst_footer *footer, int *error)
{
    *error = ERR_CORRUPT;
    if (le64_load(from + SST_FOOTER_MAGIC) != SST_MAGIC)
        return "not an SSTable";
    if (crc32c(0, from, SST_FOOTER_CRC) != le32_load(from + SST_FOOTER_CRC))
        return "footer checksum mismatch";
    if (le32_load(from + SST_FOOTER_FORMAT) != SST_FORMAT) {
        *error = ERR_VERSION;
        return "unknown format version";
    }
    if (le64_load(from + SST_FOOTER_NUMBER) != number)
        return "footer of another file";
    if (le64_load(from + SST_FOOTER_FILE_BYTES) != file_bytes)
        return "file size differs from the footer's";
    footer->top_index.offset = le64_load(from + SST_FOOTER_TOP_INDEX_OFFSET);
    footer->top_index.bytes = le32_load(from + SST_FOOTER_TOP_INDEX_BYTES);
    footer->filter.offset = le64_load(from + SST_FOOTER_FILTER_OFFSET);
    footer->filter.bytes = le32_load(from + SST_FOOTER_FILTER_BYTES);
    footer->properties.offset = le64_load(from + SST_FOOTER_PROPERTIES_OFFSET);
    footer->properties.bytes = le32_load(from + SST_FOOTER_PROPERTIES_BYTES);
    *error = 0;
    return NULL;
}

static int lsm_table_read_footer(struct lsm_table *table, struct sst_footer *footer)
{
    if (table->file_bytes < IO_ALIGN_BYTES || table->file_bytes % IO_ALIGN_BYTES != 0) {
        lsm_table_log_corrupt(table->path, table->file_bytes, "impossible file size");
        return ERR_CORRUPT;
    }
    uint64_t offset = table->file_bytes - SST_FOOTER_BYTES;
    uint32_t skip = 0;
    uint8_t *buffer = lsm_buffer_acquire(IO_ALIGN_BYTES);
    if (buffer == NULL)
        return -ENOMEM;
    int status =
        lsm_table_read_span(table, offset, SST_FOOTER_BYTES, buffer, IO_ALIGN_BYTES, &skip);
    if (status == 0) {
        const char *reason =
            sst_footer_parse(buffer + skip, table->number, table->file_bytes, footer, &status);
        if (reason != NULL)
            lsm_table_log_corrupt(table->path, offset, reason);
    }
    lsm_buffer_release(buffer);
    return status;
}

static int lsm_bytes_copy(struct bytes *to, const uint8_t *from, size_t bytes)
{
    uint8_t *copy = malloc(bytes == 0 ? 1 : bytes);
    if (copy == NULL)
        return ERR_FULL;
    if (bytes > 0)
        memcpy(copy, from, bytes);
    *to = bytes_make(copy, bytes);
    return 0;
}

static int lsm_table_take_properties(struct lsm_table *table, const uint8_t *raw, uint32_t bytes)
{
    struct sst_properties *properties = &table->properties;
    uint64_t smallest =
        bytes < SST_PROPERTIES_KEYS ? 0 : le32_load(raw + SST_PROPERTIES_SMALLEST_BYTES);
    uint64_t largest =
        bytes < SST_PROPERTIES_KEYS ? 0 : le32_load(raw + SST_PROPERTIES_LARGEST_BYTES);
    if (smallest == 0 || largest == 0 || SST_PROPERTIES_KEYS + smallest + largest != bytes)
        return ERR_CORRUPT;
    properties->rows = le64_load(raw + SST_PROPERTIES_ROWS);
    properties->tombstones = le64_load(raw + SST_PROPERTIES_TOMBSTONES);
    properties->superseded = le64_load(raw + SST_PROPERTIES_SUPERSEDED);
    properties->key_bytes = le64_load(raw + SST_PROPERTIES_KEY_BYTES);
    properties->value_bytes = le64_load(raw + SST_PROPERTIES_VALUE_BYTES);
    properties->data_bytes = le64_load(raw + SST_PROPERTIES_DATA_BYTES);
    properties->data_blocks = le64_load(raw + SST_PROPERTIES_DATA_BLOCKS);
    properties->index_blocks = le64_load(raw + SST_PROPERTIES_INDEX_BLOCKS);
    properties->version_first = le64_load(raw + SST_PROPERTIES_VERSION_FIRST);
    properties->version_last = le64_load(raw + SST_PROPERTIES_VERSION_LAST);
    const uint8_t *keys = raw + SST_PROPERTIES_KEYS;
    int status = lsm_bytes_copy(&table->smallest, keys, smallest);
    if (status == 0)
        status = lsm_bytes_copy(&table->largest, keys + smallest, largest);
    if (status == 0 && (properties->data_bytes > table->file_bytes || properties->rows == 0 ||
                        bytes_compare(table->smallest, table->largest) > 0))
        status = ERR_CORRUPT;
    return status;
}

static int lsm_table_load(struct lsm_table *table)
{
    struct sst_footer footer;
    uint8_t *raw = NULL;
    uint32_t raw_bytes = 0;
    int status = lsm_table_read_footer(table, &footer);
    if (status == 0)
        status = lsm_table_read_stored(table, footer.properties, SST_BLOCK_PROPERTIES, 0, &raw,
                                       &raw_bytes);
    if (status == 0) {
        status = lsm_table_take_properties(table, raw, raw_bytes);
        free(raw);
        if (status == ERR_CORRUPT)
            lsm_table_log_corrupt(table->path, footer.properties.offset, "impossible properties");
    }
    if (status == 0)
        status = lsm_table_read_stored(table, footer.top_index, SST_BLOCK_TOP_INDEX, 0, &raw,
                                       &raw_bytes);
    if (status == 0)
        table->top_index = bytes_make(raw, raw_bytes);
    if (status == 0 && footer.filter.bytes != 0) {
        status = lsm_table_read_stored(table, footer.filter, SST_BLOCK_FILTER, 0, &raw, &raw_bytes);
        if (status == 0)
            table->bloom = bytes_make(raw, raw_bytes);
    }
    return status;
}

int lsm_table_open_any(const char *path, uint64_t number, struct lsm_table **result)
{
    *result = NULL;
    struct lsm_table *table = calloc(1, sizeof(*table));
    if (table == NULL)
        return -ENOMEM;
    table->number = number;
    table->file.fd = -1;
    table->path = strdup(path);
    struct io_stat stat;
    int status = table->path == NULL ? -ENOMEM : await_stat(path, &stat);
    if (status == 0) {
        table->file_bytes = stat.bytes;
        status = await_open(path, IO_OPEN_READ | IO_OPEN_DIRECT, &table->file);
    }
    if (status < 0)
        log_error("cannot open a table", LOG_TEXT("file", path), LOG_ERROR(status));
    else
        status = lsm_table_load(table); /* says itself what it met, and where */
    *result = table;
    return status;
}

int lsm_table_open(const char *path, uint64_t number, struct lsm_table **result)
{
    int status = lsm_table_open_any(path, number, result);
    if (status < 0 && *result != NULL) {
        lsm_table_close(*result, false);
        *result = NULL;
    }
    return status;
}

void lsm_table_close(struct lsm_table *table, bool remove)
{
    if (table->file.fd >= 0)
        await_close(&table->file);
    if (remove) {
        int32_t status = await_unlink(table->path);
        if (status < 0) /* the next start removes it */
            log_warn("cannot remove a table", LOG_TEXT("file", table->path), LOG_ERROR(status));
    }
    free((void *)(uintptr_t)table->smallest.data);
    free((void *)(uintptr_t)table->largest.data);
    free((void *)(uintptr_t)table->top_index.data);
    free((void *)(uintptr_t)table->bloom.data);
    free(table->path);
    free(table);
}

/* ---- levels ----------------------------------------------------------------------------------
 */

struct lsm_levels *lsm_levels_create(void)
{
    return calloc(1, sizeof(struct lsm_levels));
}

struct lsm_levels *lsm_levels_copy(const struct lsm_levels *from)
{
    struct lsm_levels *copy = lsm_levels_create();
    if (copy == NULL)
        return NULL;
    for (uint32_t level = 0; level < LSM_LEVELS; level++) {
        uint32_t count = from->level[level].count;
        if (count == 0)
            continue;
        copy->level[level].tables = malloc(count * sizeof(struct lsm_table *));
        if (copy->level[level].tables == NULL) {
            lsm_levels_free(copy);
            return NULL;
        }
        memcpy(copy->level[level].tables, from->level[level].tables,
               count * sizeof(struct lsm_table *));
        copy->level[level].count = count;
    }
    copy->flushed_index = from->flushed_index;
    copy->flushed_term = from->flushed_term;
    return copy;
}

void lsm_levels_free(struct lsm_levels *levels)
{
    invariant(levels->views == 0);
    for (uint32_t level = 0; level < LSM_LEVELS; level++)
        free(levels->level[level].tables);
    free(levels);
}

void lsm_levels_check(const struct lsm_levels *levels)
{
    for (uint32_t level = 0; level < LSM_LEVELS; level++)
        for (uint32_t i = 1; i < levels->level[level].count; i++) {
            const struct lsm_table *a = levels->level[level].tables[i - 1];
            const struct lsm_table *b = levels->level[level].tables[i];
            if (level == 0)
                invariant(a->number > b->number);
            else
                invariant(bytes_compare(a->largest, b->smallest) < 0); /* L1 */
        }
}

/* The first table of which that bound is not below the key; `count`: none. */
static inline uint32_t tables_search(struct lsm_table *const *tables, uint32_t count,
                                     struct bytes key, bool by_largest)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct lsm_table *table = tables[middle];
        if (bytes_compare(by_largest ? table->largest : table->smallest, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint32_t lsm_tables_reach(struct lsm_table *const *tables, uint32_t count, struct bytes key)
{
    return tables_search(tables, count, key, true);
}

uint32_t lsm_tables_begin(struct lsm_table *const *tables, uint32_t count, struct bytes key)
{
    return tables_search(tables, count, key, false);
}

uint32_t lsm_levels_find(const struct lsm_levels *levels, uint32_t level, struct bytes key)
{
    invariant(level > 0 && level < LSM_LEVELS);
    return lsm_tables_reach(levels->level[level].tables, levels->level[level].count, key);
}

void lsm_levels_add(struct lsm_levels *levels, uint32_t level, struct lsm_table *table)
{
    uint32_t count = levels->level[level].count;
    struct lsm_table **tables =
        realloc(levels->level[level].tables, (count + 1) * sizeof(tables[0]));
    if (tables == NULL)
        fatal("out of memory for %u tables", count + 1);
    levels->level[level].tables = tables;
    uint32_t at = 0;
    if (level == 0)
        while (at < count && tables[at]->number > table->number)
            at++;
    else
        at = lsm_levels_find(levels, level, table->smallest);
    memmove(tables + at + 1, tables + at, (count - at) * sizeof(tables[0]));
    tables[at] = table;
    levels->level[level].count = count + 1;
}

struct lsm_table *lsm_levels_remove(struct lsm_levels *levels, uint32_t level, uint64_t number)
{
    struct lsm_table **tables = levels->level[level].tables;
    uint32_t count = levels->level[level].count;
    for (uint32_t i = 0; i < count; i++) {
        if (tables[i]->number != number)
            continue;
        struct lsm_table *table = tables[i];
        memmove(tables + i, tables + i + 1, (count - i - 1) * sizeof(tables[0]));
        levels->level[level].count = count - 1;
        return table;
    }
    return NULL;
}

uint64_t lsm_levels_bytes(const struct lsm_levels *levels, uint32_t level)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < levels->level[level].count; i++)
        bytes += levels->level[level].tables[i]->file_bytes;
    return bytes;
}
