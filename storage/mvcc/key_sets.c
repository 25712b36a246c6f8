#include "storage/mvcc/key_sets.h"

#include <xxhash.h>

#include "core/err.h"
#include "core/invariant.h"

#define KEY_SET_SLOTS_MIN 16
#define INTERVALS_MIN     4

/* ---- keys ---------------------------------------------------------------------------------------
 */

void key_set_init(struct key_set *set, struct arena *arena)
{
    *set = (struct key_set){.arena = arena};
}

/* The slot of `key`, or the empty one where it belongs. */
static struct bytes *key_set_slot(const struct key_set *set, struct bytes key)
{
    invariant(u64_is_power_of_two(set->slot_count) && set->count < set->slot_count);
    uint32_t slot = (uint32_t)XXH3_64bits(key.data, key.size) & (set->slot_count - 1);
    while (set->slots[slot].data != NULL && !bytes_equal(set->slots[slot], key))
        slot = (slot + 1) & (set->slot_count - 1);
    return &set->slots[slot];
}

bool key_set_holds(const struct key_set *set, struct bytes key)
{
    return set->count != 0 && key_set_slot(set, key)->data != NULL;
}

static int key_set_grow(struct key_set *set)
{
    struct key_set grown = {.arena = set->arena, .count = set->count};
    grown.slot_count = set->slot_count == 0 ? KEY_SET_SLOTS_MIN : set->slot_count * 2;
    grown.slots = arena_take(set->arena, grown.slot_count * sizeof(*grown.slots));
    if (grown.slots == NULL)
        return ERR_LIMIT;
    memset(grown.slots, 0, grown.slot_count * sizeof(*grown.slots));
    for (uint32_t i = 0; i < set->slot_count; i++)
        if (set->slots[i].data != NULL)
            *key_set_slot(&grown, set->slots[i]) = set->slots[i];
    *set = grown;
    return 0;
}

int key_set_add(struct key_set *set, struct bytes key)
{
    invariant(key.size != 0 && key.data != NULL);
    if (set->count * 2 >= set->slot_count) {
        int error = key_set_grow(set);
        if (error != 0)
            return error;
    }
    struct bytes *slot = key_set_slot(set, key);
    if (slot->data == NULL) {
        *slot = key;
        set->count++;
    }
    return 0;
}

bool key_set_at(const struct key_set *set, uint32_t *index, struct bytes *key)
{
    for (; *index < set->slot_count; (*index)++) {
        if (set->slots[*index].data != NULL) {
            *key = set->slots[*index];
            return true;
        }
    }
    return false;
}

/* ---- intervals ----------------------------------------------------------------------------------
 */

void interval_set_init(struct interval_set *set, struct arena *arena)
{
    *set = (struct interval_set){.arena = arena};
}

/* How many intervals begin at or before `key`. */
static uint32_t interval_set_rank(const struct interval_set *set, struct bytes key)
{
    uint32_t low = 0, high = set->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (bytes_compare(set->intervals[middle].begin, key) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool interval_set_holds(const struct interval_set *set, struct bytes key)
{
    uint32_t rank = interval_set_rank(set, key);
    return rank != 0 && bytes_compare(key, set->intervals[rank - 1].end) < 0;
}

static int interval_set_grow(struct interval_set *set)
{
    uint32_t capacity = set->capacity == 0 ? INTERVALS_MIN : set->capacity * 2;
    struct interval *grown = arena_take(set->arena, capacity * sizeof(*grown));
    if (grown == NULL)
        return ERR_LIMIT;
    if (set->count != 0)
        memcpy(grown, set->intervals, set->count * sizeof(*grown));
    set->intervals = grown;
    set->capacity = capacity;
    return 0;
}

static int interval_set_insert(struct interval_set *set, struct interval added)
{
    invariant(bytes_compare(added.begin, added.end) < 0);
    /* [first, last) are the intervals that overlap or touch the new one and melt into it. */
    uint32_t first = interval_set_rank(set, added.begin);
    if (first != 0 && bytes_compare(set->intervals[first - 1].end, added.begin) >= 0)
        first--;
    uint32_t last = interval_set_rank(set, added.end);
    if (last > first) {
        if (bytes_compare(set->intervals[first].begin, added.begin) < 0)
            added.begin = set->intervals[first].begin;
        if (bytes_compare(set->intervals[last - 1].end, added.end) > 0)
            added.end = set->intervals[last - 1].end;
    } else if (set->count == set->capacity) {
        int error = interval_set_grow(set);
        if (error != 0)
            return error;
    }
    invariant(first <= last && last <= set->count);
    uint32_t tail = set->count - last;
    if (tail != 0)
        memmove(&set->intervals[first + 1], &set->intervals[last], tail * sizeof(added));
    set->intervals[first] = added;
    set->count = first + 1 + tail;
    return 0;
}

int interval_set_add(struct interval_set *set, struct bytes key, struct bytes range_end)
{
    struct interval added = {.begin = key, .end = range_end};
    if (range_end.size == 0) {
        uint8_t *successor = arena_take(set->arena, key.size + 1);
        if (successor == NULL)
            return ERR_LIMIT;
        memcpy(successor, key.data, key.size);
        successor[key.size] = 0;
        added.end = bytes_make(successor, key.size + 1);
    }
    if (bytes_compare(added.begin, added.end) >= 0)
        return 0;
    return interval_set_insert(set, added);
}

int interval_set_add_all(struct interval_set *set, const struct interval_set *from)
{
    for (uint32_t i = 0; i < from->count; i++) {
        int error = interval_set_insert(set, from->intervals[i]);
        if (error != 0)
            return error;
    }
    return 0;
}
