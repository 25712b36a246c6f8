#include "core/arena.h"

#include <stdlib.h>

#include "core/invariant.h"

/* In front of every chunk; 16 bytes, so that what follows keeps malloc's alignment. */
struct arena_chunk {
    struct arena_chunk *next; /* older */
    size_t bytes;             /* header included */
};
_Static_assert(sizeof(struct arena_chunk) == 16, "payload stays 16-byte aligned");

#define ARENA_PAYLOAD_BYTES_MAX (ARENA_CHUNK_BYTES_MAX - sizeof(struct arena_chunk))

void arena_init(struct arena *arena, size_t bytes_max)
{
    *arena = (struct arena){.bytes_max = bytes_max};
}

/* The fast path checks nothing but `end`: so `end` also stands for what bytes_max leaves. */
static void arena_limit_end(struct arena *arena)
{
    if (arena->first == NULL)
        return;
    uint8_t *end = (uint8_t *)arena->first + arena->first->bytes;
    if (arena->bytes_max != 0) {
        size_t left = (arena->bytes_max - arena->bytes_taken) & ~(size_t)15;
        if (left < (size_t)(end - arena->free))
            end = arena->free + left;
    }
    invariant(arena->free <= end);
    arena->end = end;
}

static void arena_free_chain(struct arena_chunk *chunk)
{
    while (chunk != NULL) {
        struct arena_chunk *older = chunk->next;
        free(chunk);
        chunk = older;
    }
}

/* Keeps the newest chunk: the largest, so an arena of steady use stops allocating. */
void arena_reset(struct arena *arena)
{
    struct arena_chunk *keep = arena->first;
    if (keep != NULL && keep->bytes > ARENA_CHUNK_BYTES_MAX) {
        arena_free_chain(keep);
        keep = NULL;
    }
    size_t bytes_max = arena->bytes_max;
    *arena = (struct arena){.first = keep, .bytes_max = bytes_max};
    if (keep == NULL)
        return;
    arena_free_chain(keep->next);
    keep->next = NULL;
    arena->free = (uint8_t *)(keep + 1);
#if KV_VERIFY
    memset(arena->free, 0xdb, keep->bytes - sizeof(*keep)); /* shows a use after the reset */
#endif
    arena_limit_end(arena);
}

void arena_deinit(struct arena *arena)
{
    arena_free_chain(arena->first);
    *arena = (struct arena){.bytes_max = arena->bytes_max};
}

/* A request larger than any shared chunk gets one of its own, behind the newest: the room left in
 * the newest stays in use. */
static void *arena_take_own_chunk(struct arena *arena, size_t bytes)
{
    struct arena_chunk *chunk = malloc(sizeof(*chunk) + bytes);
    if (chunk == NULL)
        return NULL;
    chunk->bytes = sizeof(*chunk) + bytes;
    if (arena->first != NULL) {
        chunk->next = arena->first->next;
        arena->first->next = chunk;
    } else {
        chunk->next = NULL;
        arena->first = chunk;
        arena->free = (uint8_t *)chunk + chunk->bytes;
    }
    arena->bytes_taken += bytes;
    arena_limit_end(arena);
    return chunk + 1;
}

void *arena_take_slow(struct arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + 15) & ~(size_t)15;
    invariant(arena->bytes_max == 0 || arena->bytes_taken <= arena->bytes_max);
    if (arena->bytes_max != 0 && bytes > arena->bytes_max - arena->bytes_taken)
        return NULL;
    if (bytes > ARENA_PAYLOAD_BYTES_MAX)
        return arena_take_own_chunk(arena, bytes);

    size_t chunk_bytes = ARENA_CHUNK_BYTES_MIN;
    if (arena->first != NULL)
        chunk_bytes = arena->first->bytes * 2;
    if (chunk_bytes > ARENA_CHUNK_BYTES_MAX)
        chunk_bytes = ARENA_CHUNK_BYTES_MAX;
    while (chunk_bytes - sizeof(struct arena_chunk) < bytes)
        chunk_bytes *= 2;
    struct arena_chunk *chunk = malloc(chunk_bytes);
    if (chunk == NULL)
        return NULL;
    chunk->next = arena->first;
    chunk->bytes = chunk_bytes;
    arena->first = chunk;
    uint8_t *taken = (uint8_t *)(chunk + 1);
    arena->free = taken + bytes;
    arena->bytes_taken += bytes;
    arena_limit_end(arena);
    return taken;
}

struct bytes arena_copy(struct arena *arena, struct bytes from)
{
    if (from.size == 0)
        return bytes_make(NULL, 0);
    void *copy = arena_take(arena, from.size);
    if (copy == NULL)
        return bytes_make(NULL, 0);
    memcpy(copy, from.data, from.size);
    return bytes_make(copy, from.size);
}
