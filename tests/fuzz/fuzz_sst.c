/* SSTable blocks of hostile bytes whose checksums hold: the input is cut into blocks, which an
 * iterator walks both ways and searches; and stored blocks are verified and expanded. */
#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "storage/lsm/bloom.h"
#include "storage/lsm/table_iterator.h"

#define STEPS_MAX       2000
#define INPUT_BYTES_MAX (64 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct bytes input;
static volatile uint64_t walked_sum;

/* A handle names a part of the input; each gets memory of its own, so that the sanitizer sees what
 * is read beyond its ends. */
static int block_acquire(struct table_blocks *blocks, const struct lsm_table *table,
                         struct sst_handle handle, enum sst_block_type type,
                         struct table_window *window, struct bytes *raw, void **pin)
{
    (void)blocks, (void)table, (void)type, (void)window;
    if (handle.offset >= input.size || handle.bytes == 0 ||
        handle.bytes > input.size - handle.offset)
        return ERR_CORRUPT;
    uint8_t *copy = malloc(handle.bytes);
    invariant(copy != NULL);
    memcpy(copy, input.data + handle.offset, handle.bytes);
    *raw = bytes_make(copy, handle.bytes);
    *pin = copy;
    return 0;
}

static void block_release(struct table_blocks *blocks, void *pin)
{
    (void)blocks;
    free(pin);
}

static uint64_t touch(const struct table_iterator *iterator)
{
    struct lsm_row row;
    uint64_t sum = 0;
    table_iterator_row(iterator, &row);
    for (size_t i = 0; i < row.key.size; i++)
        sum += row.key.data[i];
    for (size_t i = 0; i < row.value.size; i++)
        sum += row.value.data[i];
    return sum + row.version.main + row.version.sub + (uint64_t)row.kind;
}

static void walk(const struct lsm_table *table, struct bytes key)
{
    struct table_blocks blocks = {block_acquire, block_release};
    struct table_iterator *iterator = malloc(sizeof(*iterator));
    uint64_t sum = 0; /* of all bytes: they are read */
    uint32_t steps = 0;
    invariant(iterator != NULL);
    table_iterator_init(iterator, &blocks, 0);
    table_iterator_open(iterator, table);
    for (int status = table_iterator_first(iterator); status == 1 && steps++ < STEPS_MAX;
         status = table_iterator_next(iterator))
        sum += touch(iterator);
    for (int status = table_iterator_last(iterator); status == 1 && steps++ < 2 * STEPS_MAX;
         status = table_iterator_prev(iterator))
        sum += touch(iterator);
    struct sst_target target = sst_target_make(key, (struct lsm_version){7, 1});
    int status = table_iterator_seek(iterator, &target);
    invariant(status <= 1);
    if (status == 1)
        sum += touch(iterator);
    walked_sum = sum;
    table_iterator_deinit(iterator);
    free(iterator);
}

/* A stored block: payload, trailer; the checksum is made to hold. */
static void expand(const uint8_t *data, size_t size)
{
    if (size <= SST_TRAILER_BYTES)
        return;
    uint8_t *stored = malloc(size), *raw = NULL;
    uint32_t raw_bytes = 0;
    invariant(stored != NULL);
    memcpy(stored, data, size);
    uint8_t *trailer = stored + size - SST_TRAILER_BYTES;
    uint32_t bytes = (uint32_t)size - SST_TRAILER_BYTES;
    if (le32_load(trailer + SST_TRAILER_RAW_BYTES) > INPUT_BYTES_MAX * 4)
        le32_store(trailer + SST_TRAILER_RAW_BYTES, INPUT_BYTES_MAX);
    le32_store(trailer + SST_TRAILER_CRC, sst_block_crc(3, 4096, stored, bytes, trailer));
    struct sst_handle handle = {.offset = 4096, .bytes = (uint32_t)size};
    enum sst_block_type type = (enum sst_block_type)trailer[SST_TRAILER_TYPE];
    int status = sst_block_decode(3, "fuzzed", handle, type, stored, 0, &raw, &raw_bytes);
    if (status == 0) {
        struct bytes block = bytes_make(raw, raw_bytes);
        struct lsm_table table = {.number = 3, .path = (char *)"fuzzed", .top_index = block};
        walk(&table, bytes_make("k/key", 5));
        free(raw);
    }
    free(stored);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    logger_set_level(LOG_LEVEL_NONE);
    if (size < 4 || size > INPUT_BYTES_MAX)
        return 0;
    if (data[0] % 4 == 0) {
        input = bytes_make(data, size);
        expand(data + 1, size - 1);
        return 0;
    }
    size_t top_bytes = u64_min(data[1] * 16u + 1, size - 3), key_bytes = data[2] % 16;
    input = bytes_make(data + 3, size - 3);
    uint8_t *top = malloc(top_bytes);
    invariant(top != NULL);
    memcpy(top, input.data, top_bytes);
    struct lsm_table table = {.number = 3,
                              .path = (char *)"fuzzed",
                              .file_bytes = size,
                              .top_index = bytes_make(top, top_bytes)};
    walk(&table, bytes_make(input.data, u64_min(key_bytes, input.size)));
    free(top);
    return 0;
}
