#include "storage/lsm/block.h"

#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"

/* ---- building --------------------------------------------------------------------------------
 */

static void *block_grow(void *memory, size_t *capacity, size_t wanted, size_t unit)
{
    if (wanted <= *capacity)
        return memory;
    *capacity = u64_max(wanted, *capacity * 2);
    memory = realloc(memory, *capacity * unit);
    if (memory == NULL)
        fatal("out of memory for a block of %zu bytes", *capacity * unit);
    return memory;
}

void block_builder_init(struct block_builder *builder)
{
    memset(builder, 0, sizeof(*builder));
}

void block_builder_deinit(struct block_builder *builder)
{
    free(builder->data);
    free(builder->restarts);
    free(builder->last_key);
    memset(builder, 0, sizeof(*builder));
}

void block_builder_reset(struct block_builder *builder)
{
    builder->bytes = 0;
    builder->restart_count = 0;
    builder->since_restart = 0;
    builder->unkeyed_bytes = builder->first_key_bytes = 0;
    builder->last_bytes = 0;
    builder->entries = 0;
}

static size_t block_shared(const uint8_t *a, size_t a_bytes, const uint8_t *b, size_t b_bytes)
{
    size_t limit = a_bytes < b_bytes ? a_bytes : b_bytes;
    size_t shared = 0;
    while (shared + 8 <= limit) {
        uint64_t differ = le64_load(a + shared) ^ le64_load(b + shared);
        if (differ != 0)
            return shared + (size_t)__builtin_ctzll(differ) / 8;
        shared += 8;
    }
    while (shared < limit && a[shared] == b[shared])
        shared++;
    return shared;
}

static void block_restart(struct block_builder *builder)
{
    size_t restart_max = builder->restart_max;
    builder->restarts = block_grow(builder->restarts, &restart_max, builder->restart_count + 1,
                                   sizeof(builder->restarts[0]));
    builder->restart_max = (uint32_t)restart_max;
    invariant(builder->bytes <= UINT32_MAX);
    builder->restarts[builder->restart_count++] = (uint32_t)builder->bytes;
    builder->since_restart = 0;
    builder->unkeyed_bytes = 0;
}

/* A restart repeats the whole key. Among versions of one key that waits until the entries since
 * the last restart have paid for it: else a long key would be stored once a version. */
static bool block_restart_is_due(const struct block_builder *builder, struct bytes key)
{
    if (builder->entries == 0)
        return true;
    size_t since_bytes = builder->bytes - builder->restarts[builder->restart_count - 1];
    if (builder->since_restart < SST_RESTART_INTERVAL && since_bytes < SST_RESTART_BYTES)
        return false;
    return builder->unkeyed_bytes >= key.size ||
           !bytes_equal(key,
                        bytes_make(builder->last_key, builder->last_bytes - SST_KEY_TRAILER_BYTES));
}

void block_builder_add(struct block_builder *builder, struct bytes key, struct lsm_version version,
                       enum lsm_kind kind, struct bytes value)
{
    size_t key_bytes = key.size + SST_KEY_TRAILER_BYTES;
    builder->data = block_grow(builder->data, &builder->capacity,
                               builder->bytes + key_bytes + value.size + 32, 1);
    builder->last_key = block_grow(builder->last_key, &builder->last_max, key_bytes, 1);
    uint8_t trailer[SST_KEY_TRAILER_BYTES];
    sst_trailer_store(trailer, version);

    size_t shared = 0;
    if (block_restart_is_due(builder, key))
        block_restart(builder);
    else
        shared = block_shared(builder->last_key, builder->last_bytes, key.data, key.size);
    if (builder->entries == 0)
        builder->first_key_bytes = key_bytes;
    memcpy(builder->last_key + shared, key.data + shared, key.size - shared);
    memcpy(builder->last_key + key.size, trailer, sizeof(trailer));
    builder->last_bytes = key_bytes;

    uint8_t *to = builder->data + builder->bytes;
    to = sst_varint_store(to, shared);
    to = sst_varint_store(to, key_bytes - shared);
    to = sst_varint_store(to, (uint64_t)value.size << 1 | (kind == LSM_TOMBSTONE));
    memcpy(to, builder->last_key + shared, key_bytes - shared);
    to += key_bytes - shared;
    if (value.size > 0)
        memcpy(to, value.data, value.size);
    builder->bytes = (size_t)(to + value.size - builder->data);
    invariant(builder->bytes <= builder->capacity);
    builder->unkeyed_bytes += SST_KEY_TRAILER_BYTES + value.size;
    builder->since_restart++;
    builder->entries++;
}

size_t block_builder_bytes(const struct block_builder *builder)
{
    return builder->bytes + (builder->restart_count + 1) * sizeof(uint32_t);
}

size_t block_builder_own_bytes(const struct block_builder *builder)
{
    return block_builder_bytes(builder) - builder->first_key_bytes;
}

struct bytes block_builder_finish(struct block_builder *builder)
{
    size_t total = block_builder_bytes(builder);
    invariant(total <= SST_BLOCK_WRITTEN_BYTES_MAX);
    builder->data = block_grow(builder->data, &builder->capacity, total, 1);
    uint8_t *to = builder->data + builder->bytes;
    for (uint32_t i = 0; i < builder->restart_count; i++, to += sizeof(uint32_t))
        le32_store(to, builder->restarts[i]);
    le32_store(to, builder->restart_count);
    return bytes_make(builder->data, total);
}

struct bytes block_builder_last_key(const struct block_builder *builder)
{
    return bytes_make(builder->last_key, builder->last_bytes);
}

size_t sst_handle_store(uint8_t *to, struct sst_handle handle)
{
    uint8_t *end = sst_varint_store(to, handle.offset);
    return (size_t)(sst_varint_store(end, handle.bytes) - to);
}

/* ---- reading ---------------------------------------------------------------------------------
 */

void block_iterator_init(struct block_iterator *iterator)
{
    iterator->data = NULL;
    iterator->key = iterator->inline_key;
    iterator->key_max = BLOCK_KEY_INLINE_BYTES;
    iterator->key_bytes = iterator->shared = 0;
    iterator->offset = iterator->next = iterator->restarts = iterator->restart_count = 0;
    iterator->value = bytes_make(NULL, 0);
    iterator->kind = LSM_VALUE;
}

void block_iterator_deinit(struct block_iterator *iterator)
{
    if (iterator->key != iterator->inline_key)
        free(iterator->key);
    block_iterator_init(iterator);
}

int block_iterator_open(struct block_iterator *iterator, struct bytes block)
{
    if (block.size < 2 * sizeof(uint32_t) || block.size > SST_BLOCK_RAW_BYTES_MAX)
        return ERR_CORRUPT;
    uint32_t count = le32_load(block.data + block.size - sizeof(uint32_t));
    if (count == 0 || count > (block.size - sizeof(uint32_t)) / sizeof(uint32_t))
        return ERR_CORRUPT;
    iterator->data = block.data;
    iterator->restarts = (uint32_t)(block.size - (count + 1) * sizeof(uint32_t));
    iterator->restart_count = count;
    iterator->offset = iterator->next = iterator->restarts;
    iterator->key_bytes = 0;
    return 0;
}

struct block_entry {
    const uint8_t *tail; /* of the key; the value follows */
    uint64_t shared, unshared, value_bytes;
    enum lsm_kind kind;
};

static inline int block_parse(const struct block_iterator *iterator, uint32_t offset,
                              struct block_entry *entry)
{
    const uint8_t *from = iterator->data + offset;
    const uint8_t *end = iterator->data + iterator->restarts;
    uint64_t tagged = 0;
    if ((from = sst_varint_load(from, end, &entry->shared)) == NULL ||
        (from = sst_varint_load(from, end, &entry->unshared)) == NULL ||
        (from = sst_varint_load(from, end, &tagged)) == NULL)
        return ERR_CORRUPT;
    entry->kind = (tagged & 1) != 0 ? LSM_TOMBSTONE : LSM_VALUE;
    entry->value_bytes = tagged >> 1;
    entry->tail = from;
    uint64_t left = (uint64_t)(end - from);
    if (entry->unshared > left || entry->value_bytes > left - entry->unshared)
        return ERR_CORRUPT;
    return 0;
}

/* Makes the entry at `offset` current; the key of the one before must be in place. */
static int block_load(struct block_iterator *iterator, uint32_t offset)
{
    if (offset >= iterator->restarts) {
        iterator->offset = iterator->next = iterator->restarts;
        return 0;
    }
    struct block_entry entry;
    if (block_parse(iterator, offset, &entry) != 0 || entry.shared > iterator->key_bytes ||
        entry.shared + entry.unshared <= SST_KEY_TRAILER_BYTES)
        return ERR_CORRUPT;
    uint32_t key_bytes = (uint32_t)(entry.shared + entry.unshared);
    if (unlikely(key_bytes > iterator->key_max)) {
        uint8_t *grown = malloc(key_bytes);
        if (grown == NULL)
            return ERR_FULL;
        memcpy(grown, iterator->key, entry.shared);
        if (iterator->key != iterator->inline_key)
            free(iterator->key);
        iterator->key = grown;
        iterator->key_max = key_bytes;
    }
    memcpy(iterator->key + entry.shared, entry.tail, entry.unshared);
    iterator->key_bytes = key_bytes;
    iterator->shared = (uint32_t)entry.shared;
    iterator->value = bytes_make(entry.tail + entry.unshared, entry.value_bytes);
    iterator->kind = entry.kind;
    iterator->offset = offset;
    iterator->next = (uint32_t)(iterator->value.data + entry.value_bytes - iterator->data);
    invariant(iterator->next > offset && iterator->next <= iterator->restarts);
    return 1;
}

static uint32_t block_restart_offset(const struct block_iterator *iterator, uint32_t restart)
{
    return le32_load(iterator->data + iterator->restarts + restart * sizeof(uint32_t));
}

static int block_load_restart(struct block_iterator *iterator, uint32_t restart)
{
    uint32_t offset = block_restart_offset(iterator, restart);
    if (offset >= iterator->restarts)
        return ERR_CORRUPT;
    iterator->key_bytes = 0; /* so `shared` must be 0 */
    return block_load(iterator, offset);
}

int block_iterator_first(struct block_iterator *iterator)
{
    return block_load_restart(iterator, 0);
}

int block_iterator_next(struct block_iterator *iterator)
{
    return block_load(iterator, iterator->next);
}

/* From a restart point forward to the entry that ends at `limit`. */
static int block_load_before(struct block_iterator *iterator, uint32_t restart, uint32_t limit)
{
    int status = block_load_restart(iterator, restart);
    while (status == 1 && iterator->next < limit)
        status = block_load(iterator, iterator->next);
    if (status == 1 && iterator->next != limit)
        return ERR_CORRUPT;
    return status == 0 ? ERR_CORRUPT : status;
}

int block_iterator_last(struct block_iterator *iterator)
{
    return block_load_before(iterator, iterator->restart_count - 1, iterator->restarts);
}

int block_iterator_prev(struct block_iterator *iterator)
{
    uint32_t limit = iterator->offset;
    if (limit == 0) {
        iterator->offset = iterator->next = iterator->restarts;
        return 0;
    }
    /* The last restart point before the current entry. */
    uint32_t low = 0, high = iterator->restart_count - 1;
    while (low < high) {
        uint32_t middle = (low + high + 1) / 2;
        if (block_restart_offset(iterator, middle) < limit)
            low = middle;
        else
            high = middle - 1;
    }
    return block_load_before(iterator, low, limit);
}

int block_iterator_seek(struct block_iterator *iterator, const struct sst_target *target)
{
    /* The last restart point whose key is below the target. */
    uint32_t low = 0, high = iterator->restart_count - 1;
    while (low < high) {
        uint32_t middle = (low + high + 1) / 2;
        uint32_t offset = block_restart_offset(iterator, middle);
        struct block_entry entry;
        if (offset >= iterator->restarts || block_parse(iterator, offset, &entry) != 0 ||
            entry.shared != 0 || entry.unshared <= SST_KEY_TRAILER_BYTES)
            return ERR_CORRUPT;
        if (sst_key_compare(entry.tail, entry.unshared, target) < 0)
            low = middle;
        else
            high = middle - 1;
    }
    int status = block_load_restart(iterator, low);
    int order = 0;
    bool is_same_key = false; /* as the entry before: a long key is compared once */
    while (status == 1) {
        uint32_t key_bytes = iterator->key_bytes, user = key_bytes - SST_KEY_TRAILER_BYTES;
        if (!is_same_key)
            order = bytes_compare(block_iterator_key(iterator), target->key);
        if (order > 0 || (order == 0 && memcmp(iterator->key + user, target->trailer,
                                               SST_KEY_TRAILER_BYTES) >= 0))
            break;
        status = block_load(iterator, iterator->next);
        is_same_key = iterator->shared == user && iterator->key_bytes == key_bytes;
    }
    return status;
}

int block_iterator_handle(const struct block_iterator *iterator, struct sst_handle *handle)
{
    const uint8_t *from = iterator->value.data;
    const uint8_t *end = from + iterator->value.size;
    uint64_t bytes = 0;
    if ((from = sst_varint_load(from, end, &handle->offset)) == NULL ||
        (from = sst_varint_load(from, end, &bytes)) == NULL || from != end)
        return ERR_CORRUPT;
    if (bytes <= SST_TRAILER_BYTES || bytes > SST_BLOCK_RAW_BYTES_MAX)
        return ERR_CORRUPT;
    handle->bytes = (uint32_t)bytes;
    return 0;
}
