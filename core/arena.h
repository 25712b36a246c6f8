/*
 * arena.h - bump allocation for one request: everything is freed at once.
 *
 * Owner     Whoever embeds it. Chunks come from malloc and double up to ARENA_CHUNK_BYTES_MAX; a
 *           reset keeps the newest chunk, so a reused arena allocates nothing in the steady state.
 * Threads   One.
 * Errors    arena_take() returns NULL past bytes_max: the caller answers ERR_LIMIT. From an
 *           unbounded arena NULL means that the machine is out of memory: -ENOMEM.
 */
#ifndef CORE_ARENA_H
#define CORE_ARENA_H

#include "core/base.h"

#define ARENA_CHUNK_BYTES_MIN ((size_t)1024)
#define ARENA_CHUNK_BYTES_MAX ((size_t)(256 * 1024))

struct arena_chunk;

struct arena {
    struct arena_chunk *first; /* newest */
    uint8_t *free, *end;       /* within the newest chunk */
    size_t bytes_taken;        /* sum of all requests since the last reset */
    size_t bytes_max;          /* 0 = unbounded */
};

void arena_init(struct arena *arena, size_t bytes_max);
void arena_reset(struct arena *arena);
void arena_deinit(struct arena *arena);

must_check void *arena_take_slow(struct arena *arena, size_t bytes);

/* 16-byte aligned, not zeroed; NULL past bytes_max. */
must_check static inline void *arena_take(struct arena *arena, size_t bytes)
{
    if (likely(arena->free != NULL && (size_t)(arena->end - arena->free) >= bytes)) {
        bytes = (bytes + 15) & ~(size_t)15; /* still fits: the room left is a multiple of 16 */
        void *taken = arena->free;
        arena->free += bytes;
        arena->bytes_taken += bytes;
        return taken;
    }
    return arena_take_slow(arena, bytes);
}

/* A copy of `from`; {NULL, 0} when it does not fit (and from is not empty). */
struct bytes arena_copy(struct arena *arena, struct bytes from);

#endif
