#include "storage/mvcc/heads.h"

#include <stdlib.h>
#include <xxhash.h>

#include "core/invariant.h"

#define HEAD_PADDING   UINT32_MAX /* key_bytes of what fills the ring up to its end */
#define HEADS_WARM_MAX 16

struct head_record {
    uint64_t hash;
    struct mvcc_head head;
    uint32_t key_bytes;
    uint8_t key[];
};

_Static_assert(sizeof(struct head_record) == 56, "the fixed part of a record");

/* A slot of the open-addressing index: linear probing from `tag`, deletion shifts back. */
struct head_slot {
    uint32_t tag;   /* low half of the key's hash */
    uint32_t place; /* record offset / 8 + 1; 0: empty */
};

struct mvcc_heads {
    uint8_t *ring;
    struct head_slot *slots;
    uint64_t begin, end; /* positions that only grow; offset = position & (ring_bytes - 1) */
    uint64_t count;
    size_t ring_bytes;
    uint32_t slot_mask;
    uint64_t seed;
};

static struct head_record *record_at(const struct mvcc_heads *heads, uint64_t position)
{
    return (struct head_record *)(void *)(heads->ring + (position & (heads->ring_bytes - 1)));
}

static size_t record_bytes(size_t key_bytes)
{
    return u64_round_up(sizeof(struct head_record) + key_bytes, 8);
}

/* Bytes from `position` to the end of the ring. */
static size_t ring_left(const struct mvcc_heads *heads, uint64_t position)
{
    return heads->ring_bytes - (position & (heads->ring_bytes - 1));
}

static uint64_t key_hash(const struct mvcc_heads *heads, struct bytes key)
{
    return XXH3_64bits_withSeed(key.data, key.size, heads->seed);
}

/* ---- index ---------------------------------------------------------------------------------- */

static struct head_record *slot_record(const struct mvcc_heads *heads, struct head_slot slot)
{
    return (struct head_record *)(void *)(heads->ring + (size_t)(slot.place - 1) * 8);
}

static void index_insert(struct mvcc_heads *heads, uint64_t hash, uint64_t position)
{
    uint32_t at = (uint32_t)hash & heads->slot_mask;
    while (heads->slots[at].place != 0)
        at = (at + 1) & heads->slot_mask;
    uint64_t offset = position & (heads->ring_bytes - 1);
    heads->slots[at] =
        (struct head_slot){.tag = (uint32_t)hash, .place = (uint32_t)(offset / 8) + 1};
    heads->count++;
}

static void index_remove(struct mvcc_heads *heads, const struct head_record *record)
{
    uint32_t mask = heads->slot_mask;
    uint32_t at = (uint32_t)record->hash & mask;
    while (slot_record(heads, heads->slots[at]) != record) {
        invariant(heads->slots[at].place != 0); /* I2 */
        at = (at + 1) & mask;
    }
    /* What was pushed behind the hole moves into it, unless it would pass its own home. */
    for (uint32_t next = (at + 1) & mask; heads->slots[next].place != 0; next = (next + 1) & mask) {
        uint32_t home = heads->slots[next].tag & mask;
        if (((next - home) & mask) >= ((next - at) & mask)) {
            heads->slots[at] = heads->slots[next];
            at = next;
        }
    }
    heads->slots[at].place = 0;
    heads->count--;
}

struct mvcc_head *mvcc_heads_find(struct mvcc_heads *heads, struct bytes key)
{
    uint64_t hash = key_hash(heads, key);
    uint32_t at = (uint32_t)hash & heads->slot_mask;
    for (; heads->slots[at].place != 0; at = (at + 1) & heads->slot_mask) {
        if (heads->slots[at].tag != (uint32_t)hash)
            continue;
        struct head_record *record = slot_record(heads, heads->slots[at]);
        if (record->hash == hash && bytes_equal(bytes_make(record->key, record->key_bytes), key))
            return &record->head;
    }
    return NULL;
}

void mvcc_heads_warm(const struct mvcc_heads *heads, const struct bytes *keys, uint32_t count)
{
    uint32_t home[HEADS_WARM_MAX];
    invariant(count <= HEADS_WARM_MAX);
    for (uint32_t i = 0; i < count; i++) {
        home[i] = (uint32_t)key_hash(heads, keys[i]) & heads->slot_mask;
        __builtin_prefetch(&heads->slots[home[i]]);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct head_slot slot = heads->slots[home[i]];
        if (slot.place == 0)
            continue;
        const struct head_record *record = slot_record(heads, slot);
        __builtin_prefetch(record, 1);
        __builtin_prefetch(record->key + 8);
    }
}

/* ---- ring ----------------------------------------------------------------------------------- */

static void ring_forget_oldest(struct mvcc_heads *heads)
{
    invariant(heads->begin < heads->end);
    size_t left = ring_left(heads, heads->begin);
    const struct head_record *record = record_at(heads, heads->begin);
    if (left < sizeof(struct head_record) || record->key_bytes == HEAD_PADDING) {
        heads->begin += left;
        return;
    }
    index_remove(heads, record);
    heads->begin += record_bytes(record->key_bytes);
}

/* Room for a record at `end`; a record never straddles the end of the ring. */
static void ring_make_room(struct mvcc_heads *heads, size_t bytes)
{
    size_t left = ring_left(heads, heads->end);
    size_t padding = left < bytes ? left : 0;
    while (heads->end + padding + bytes - heads->begin > heads->ring_bytes)
        ring_forget_oldest(heads);
    if (padding >= sizeof(struct head_record))
        record_at(heads, heads->end)->key_bytes = HEAD_PADDING;
    heads->end += padding;
}

void mvcc_heads_add(struct mvcc_heads *heads, struct bytes key, const struct mvcc_head *head)
{
    if (key.size > MVCC_HEAD_KEY_BYTES_MAX)
        return;
    verify(mvcc_heads_find(heads, key) == NULL);
    size_t bytes = record_bytes(key.size);
    ring_make_room(heads, bytes);
    struct head_record *record = record_at(heads, heads->end);
    record->hash = key_hash(heads, key);
    record->head = *head;
    record->key_bytes = (uint32_t)key.size;
    memcpy(record->key, key.data, key.size);
    index_insert(heads, record->hash, heads->end);
    heads->end += bytes;
}

/* ---- life ----------------------------------------------------------------------------------- */

struct mvcc_heads *mvcc_heads_create(size_t ring_bytes, uint64_t seed)
{
    invariant(u64_is_power_of_two(ring_bytes) && ring_bytes >= MVCC_HEADS_RING_BYTES_MIN);
    invariant(ring_bytes / 8 < UINT32_MAX);
    struct mvcc_heads *heads = calloc(1, sizeof(*heads));
    if (heads == NULL)
        return NULL;
    /* At most 32 / sizeof(record) of the slots are ever taken. */
    size_t slot_count = ring_bytes / 32;
    heads->ring = malloc(ring_bytes);
    heads->slots = calloc(slot_count, sizeof(*heads->slots));
    if (heads->ring == NULL || heads->slots == NULL) {
        mvcc_heads_destroy(heads);
        return NULL;
    }
    heads->ring_bytes = ring_bytes;
    heads->slot_mask = (uint32_t)slot_count - 1;
    heads->seed = seed;
    return heads;
}

void mvcc_heads_destroy(struct mvcc_heads *heads)
{
    if (heads == NULL)
        return;
    free(heads->ring);
    free(heads->slots);
    free(heads);
}

void mvcc_heads_clear(struct mvcc_heads *heads)
{
    memset(heads->slots, 0, ((size_t)heads->slot_mask + 1) * sizeof(*heads->slots));
    heads->begin = heads->end = heads->count = 0;
}

uint64_t mvcc_heads_count(const struct mvcc_heads *heads)
{
    return heads->count;
}

void mvcc_heads_check(const struct mvcc_heads *heads)
{
    uint64_t records = 0, slots = 0;
    invariant(heads->end - heads->begin <= heads->ring_bytes);
    for (uint64_t position = heads->begin; position < heads->end;) {
        size_t left = ring_left(heads, position);
        const struct head_record *record = record_at(heads, position);
        if (left < sizeof(struct head_record) || record->key_bytes == HEAD_PADDING) {
            position += left;
            continue;
        }
        struct bytes key = bytes_make(record->key, record->key_bytes);
        invariant(record->hash == key_hash(heads, key));
        invariant(mvcc_heads_find((struct mvcc_heads *)(uintptr_t)heads, key) == &record->head);
        position += record_bytes(record->key_bytes);
        records++;
    }
    for (uint64_t slot = 0; slot <= heads->slot_mask; slot++)
        slots += heads->slots[slot].place != 0;
    invariant(records == heads->count && slots == heads->count); /* I2 */
}
