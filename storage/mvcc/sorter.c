#include "storage/mvcc/sorter.h"

#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"

#define SORTER_KVS_MIN   64
#define SORTER_SLACK     64
#define SORTER_COUNT_MAX (UINT32_MAX / 4)

void mvcc_sorter_init(struct mvcc_sorter *sorter, enum mvcc_sort_target target, bool descending,
                      uint64_t keep_max, size_t bytes_max)
{
    *sorter = (struct mvcc_sorter){
        .target = target, .descending = descending, .keep_max = keep_max, .bytes_max = bytes_max};
    arena_init(&sorter->arenas[0], bytes_max);
    arena_init(&sorter->arenas[1], bytes_max);
}

void mvcc_sorter_deinit(struct mvcc_sorter *sorter)
{
    arena_deinit(&sorter->arenas[0]);
    arena_deinit(&sorter->arenas[1]);
    free(sorter->kvs);
    sorter->kvs = NULL;
}

static int compare_fields(const struct mvcc_kv *a, const struct mvcc_kv *b,
                          enum mvcc_sort_target target)
{
    switch (target) {
    case MVCC_SORT_KEY:
        break;
    case MVCC_SORT_VERSION:
        return (a->version > b->version) - (a->version < b->version);
    case MVCC_SORT_CREATE:
        return (a->create_revision > b->create_revision) -
               (a->create_revision < b->create_revision);
    case MVCC_SORT_MOD:
        return (a->mod_revision > b->mod_revision) - (a->mod_revision < b->mod_revision);
    case MVCC_SORT_VALUE:
        return bytes_compare(a->value, b->value);
    }
    return bytes_compare(a->key, b->key);
}

static int compare_kvs(const void *left, const void *right, void *context)
{
    const struct mvcc_sorter *sorter = context;
    const struct mvcc_kv *a = left, *b = right;
    int order = compare_fields(a, b, sorter->target);
    if (order != 0)
        return sorter->descending ? -order : order;
    return bytes_compare(a->key, b->key);
}

void mvcc_sorter_finish(struct mvcc_sorter *sorter)
{
    if (sorter->count > 1)
        qsort_r(sorter->kvs, sorter->count, sizeof(*sorter->kvs), compare_kvs, sorter);
    if (sorter->keep_max != 0 && sorter->count > sorter->keep_max)
        sorter->count = (uint32_t)sorter->keep_max;
}

static int sorter_copy(struct mvcc_sorter *sorter, struct mvcc_kv *to, const struct mvcc_kv *from)
{
    *to = *from;
    to->key = arena_copy(&sorter->arenas[sorter->live], from->key);
    to->value = arena_copy(&sorter->arenas[sorter->live], from->value);
    return to->key.size == from->key.size && to->value.size == from->value.size ? 0 : ERR_LIMIT;
}

/* Keeps the best keep_max entries, and their bytes only. */
static int sorter_cut(struct mvcc_sorter *sorter)
{
    mvcc_sorter_finish(sorter);
    unsigned old = sorter->live;
    sorter->live = 1 - old;
    for (uint32_t i = 0; i < sorter->count; i++) {
        struct mvcc_kv moved = sorter->kvs[i];
        int error = sorter_copy(sorter, &sorter->kvs[i], &moved);
        if (error != 0)
            return error;
    }
    arena_reset(&sorter->arenas[old]);
    return 0;
}

static int sorter_grow(struct mvcc_sorter *sorter)
{
    uint32_t capacity = sorter->capacity == 0 ? SORTER_KVS_MIN : sorter->capacity * 2;
    if (capacity > SORTER_COUNT_MAX || capacity * sizeof(*sorter->kvs) > sorter->bytes_max)
        return ERR_LIMIT;
    struct mvcc_kv *grown = realloc(sorter->kvs, capacity * sizeof(*grown));
    if (grown == NULL)
        return ERR_LIMIT;
    sorter->kvs = grown;
    sorter->capacity = capacity;
    return 0;
}

int mvcc_sorter_add(struct mvcc_sorter *sorter, const struct mvcc_kv *kv)
{
    int error = 0;
    sorter->added++;
    if (sorter->keep_max != 0 && sorter->count >= SORTER_SLACK &&
        (sorter->count - SORTER_SLACK) / 2 >= sorter->keep_max)
        error = sorter_cut(sorter);
    if (error == 0 && sorter->count == sorter->capacity)
        error = sorter_grow(sorter);
    if (error == 0)
        error = sorter_copy(sorter, &sorter->kvs[sorter->count], kv);
    if (error == 0)
        sorter->count++;
    invariant(sorter->count <= sorter->capacity);
    return error;
}
