/* Point reads at one revision, bounds of revisions, and results in arenas. */
#include "storage/mvcc/mvcc_private.h"

#include <stdlib.h>

#include "core/err.h"
#include "core/fiber.h"
#include "core/invariant.h"

#define BREATHE_STEPS    64
#define KV_LIST_MIN      8
#define BUFFER_BYTES_LOW 512

int mvcc_view_get(const struct mvcc_view *view, struct bytes row_key, struct lsm_row *row,
                  struct mvcc_kv *kv)
{
    int error = lsm_get_now(view->lsm, row_key, view->at, row);
    if (error == ERR_WOULD_WAIT)
        error = lsm_get(view->lsm, row_key, view->at, row);
    if (error == ERR_NOT_FOUND)
        return 0;
    if (error != 0)
        return error;
    invariant(lsm_version_compare(row->version, view->at) <= 0);
    if (row->kind == LSM_TOMBSTONE) {
        lsm_row_release(view->lsm, row);
        return 0;
    }
    error = mvcc_row_decode_value(row, kv);
    if (error != 0) {
        lsm_row_release(view->lsm, row);
        return error;
    }
    kv->key = mvcc_row_user_key(row_key);
    return 1;
}

int mvcc_revision_check(int64_t revision, int64_t current, int64_t compacted)
{
    invariant(compacted <= current);
    if (revision <= 0)
        return 0;
    if (revision > current)
        return ERR_FUTURE_REVISION;
    return revision < compacted ? ERR_COMPACTED : 0;
}

void mvcc_breathe(uint32_t *step)
{
    if (++*step % BREATHE_STEPS == 0 && fiber_current() != NULL && fiber_should_yield())
        fiber_yield();
}

uint8_t *mvcc_buffer_take(struct mvcc_buffer *buffer, size_t bytes)
{
    if (unlikely(bytes > buffer->capacity || buffer->data == NULL)) {
        size_t capacity = BUFFER_BYTES_LOW;
        while (capacity < bytes)
            capacity *= 2;
        free(buffer->data);
        buffer->data = malloc(capacity);
        if (buffer->data == NULL)
            fatal("out of memory for a row of %zu bytes", bytes);
        buffer->capacity = capacity;
    }
    invariant(buffer->capacity >= bytes);
    return buffer->data;
}

/* ---- results ------------------------------------------------------------------------------------
 */

void mvcc_reply_copy(struct mvcc_reply *reply, const struct mvcc_kv *from, struct mvcc_kv *to)
{
    *to = *from;
    size_t bytes = from->key.size + from->value.size;
    uint8_t *copy = bytes == 0 ? NULL : arena_take(reply->arena, bytes);
    if (copy == NULL && bytes != 0) {
        reply->lost = true;
        to->key = to->value = bytes_make(NULL, 0);
        return;
    }
    if (from->key.size != 0)
        memcpy(copy, from->key.data, from->key.size);
    if (from->value.size != 0)
        memcpy(copy + from->key.size, from->value.data, from->value.size);
    to->key = bytes_make(copy, from->key.size);
    to->value = bytes_make(from->value.size == 0 ? NULL : copy + from->key.size, from->value.size);
}

void mvcc_reply_append(struct mvcc_reply *reply, struct mvcc_kv_list *list,
                       const struct mvcc_kv *kv)
{
    if (reply->lost)
        return;
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity == 0 ? KV_LIST_MIN : list->capacity * 2;
        struct mvcc_kv *grown = arena_take(reply->arena, capacity * sizeof(*grown));
        if (grown == NULL) {
            reply->lost = true;
            return;
        }
        if (list->count != 0)
            memcpy(grown, list->kvs, list->count * sizeof(*grown));
        list->kvs = grown;
        list->capacity = capacity;
    }
    invariant(list->count < list->capacity);
    mvcc_reply_copy(reply, kv, &list->kvs[list->count]);
    list->count++;
}
