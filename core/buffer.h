/*
 * buffer.h - aligned buffers for direct I/O, cut from one arena per core that io_uring knows.
 *
 * Story     Direct I/O wants 4 KiB alignment; registered buffers spare the kernel the pinning of
 *           pages on every call. Each reactor registers one arena at start; this is a buddy
 *           allocator over it.
 * Owner     The core that created it; buffers go home to be released.
 * Units     Sizes in bytes, rounded up to powers of two from BUFFER_BYTES_MIN to BUFFER_BYTES_MAX.
 * Errors    buffer_acquire() returns NULL when the arena is exhausted. Who cannot do without takes
 *           buffer_acquire_or_allocate(): nobody waits for a buffer, so holding one while taking
 *           another cannot deadlock, and work under way cannot fail for want of one.
 */
#ifndef CORE_BUFFER_H
#define CORE_BUFFER_H

#include "core/base.h"

#define BUFFER_BYTES_MIN ((uint32_t)4096)
#define BUFFER_BYTES_MAX ((uint32_t)(4 * 1024 * 1024))

struct buffer_pool;

/* `arena` is BUFFER_BYTES_MIN-aligned, `arena_bytes` a multiple of it. */
must_check int buffer_pool_create(void *arena, uint64_t arena_bytes, struct buffer_pool **pool);
void buffer_pool_destroy(struct buffer_pool *pool); /* every buffer must be home */

must_check void *buffer_acquire(struct buffer_pool *pool, uint32_t bytes);
void buffer_release(struct buffer_pool *pool, void *buffer);

/* From the arena, else (in use, or `bytes` is more than BUFFER_BYTES_MAX) aligned memory of the
 * allocator, whose pages the kernel pins for each call. NULL: the machine is out of memory. */
must_check void *buffer_acquire_or_allocate(struct buffer_pool *pool, uint32_t bytes);
void buffer_release_or_free(struct buffer_pool *pool, void *buffer);

uint64_t buffer_pool_bytes_used(const struct buffer_pool *pool);
uint64_t buffer_pool_bytes_total(const struct buffer_pool *pool);

struct reactor;
struct buffer_pool *reactor_buffers(struct reactor *reactor); /* the reactor's registered pool */

#endif
