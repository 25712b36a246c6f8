#include "net/outbuf.h"

#include <stdlib.h>

#include "core/invariant.h"

_Static_assert(OUTBUF_CHUNK_BYTES > sizeof(struct outbuf_chunk) + 4096, "chunks hold many replies");

static struct outbuf_chunk *outbuf_chunk_acquire(struct outbuf_pool *pool, size_t bytes)
{
    size_t usual = OUTBUF_CHUNK_BYTES - sizeof(struct outbuf_chunk);
    struct outbuf_chunk *chunk;
    if (bytes <= usual && pool->free != NULL) {
        chunk = pool->free;
        pool->free = chunk->next;
        pool->free_count--;
    } else {
        size_t capacity = bytes <= usual ? usual : bytes;
        invariant(capacity <= UINT32_MAX);
        chunk = malloc(sizeof(*chunk) + capacity);
        if (chunk == NULL)
            fatal("out of memory for %zu bytes of output", capacity);
        chunk->capacity = (uint32_t)capacity;
    }
    pool->used_count++;
    chunk->next = NULL;
    chunk->begin = chunk->end = 0;
    return chunk;
}

static void outbuf_chunk_release(struct outbuf_pool *pool, struct outbuf_chunk *chunk)
{
    invariant(pool->used_count > 0);
    pool->used_count--;
    if (chunk->capacity == OUTBUF_CHUNK_BYTES - sizeof(*chunk) &&
        pool->free_count < OUTBUF_POOL_CHUNKS_MAX) {
        chunk->next = pool->free;
        pool->free = chunk;
        pool->free_count++;
        return;
    }
    free(chunk);
}

void outbuf_pool_deinit(struct outbuf_pool *pool)
{
    invariant(pool->used_count == 0);
    while (pool->free != NULL) {
        struct outbuf_chunk *chunk = pool->free;
        pool->free = chunk->next;
        free(chunk);
    }
    pool->free_count = 0;
}

void outbuf_deinit(struct outbuf *out)
{
    while (out->first != NULL) {
        struct outbuf_chunk *chunk = out->first;
        out->first = chunk->next;
        outbuf_chunk_release(out->pool, chunk);
    }
    out->last = NULL;
    out->bytes = 0;
}

uint8_t *outbuf_reserve_slow(struct outbuf *out, size_t bytes)
{
    struct outbuf_chunk *chunk = outbuf_chunk_acquire(out->pool, bytes);
    if (out->last == NULL)
        out->first = chunk;
    else
        out->last->next = chunk;
    out->last = chunk;
    return chunk->data;
}

void outbuf_append(struct outbuf *out, const void *data, size_t bytes)
{
    const uint8_t *from = data;
    while (bytes > 0) {
        struct outbuf_chunk *last = out->last;
        size_t room = last == NULL ? 0 : last->capacity - last->end;
        if (room == 0) {
            outbuf_reserve_slow(out, 1);
            continue;
        }
        size_t part = bytes < room ? bytes : room;
        memcpy(last->data + last->end, from, part);
        outbuf_commit(out, part);
        from += part;
        bytes -= part;
    }
}

uint32_t outbuf_gather(const struct outbuf *out, struct iovec *iov, uint32_t iov_max)
{
    uint32_t count = 0;
    for (struct outbuf_chunk *chunk = out->first; chunk != NULL && count < iov_max;
         chunk = chunk->next) {
        if (chunk->begin == chunk->end)
            continue; /* reserved, and nothing was committed */
        iov[count].iov_base = chunk->data + chunk->begin;
        iov[count].iov_len = chunk->end - chunk->begin;
        count++;
    }
    return count;
}

void outbuf_consume(struct outbuf *out, size_t bytes)
{
    invariant(bytes <= out->bytes);
    out->bytes -= bytes;
    while (out->first != NULL) {
        struct outbuf_chunk *chunk = out->first;
        size_t here = chunk->end - chunk->begin;
        if (bytes < here) {
            chunk->begin += (uint32_t)bytes;
            return;
        }
        bytes -= here;
        out->first = chunk->next;
        if (out->first == NULL)
            out->last = NULL;
        outbuf_chunk_release(out->pool, chunk);
    }
    invariant(bytes == 0 && out->bytes == 0);
}
