/*
 * outbuf.h - what a connection has to send: a list of chunks written at the tail, sent at the head.
 *
 * Story     Replies are encoded straight into the tail chunk; one gathering send per turn takes
 *           what is there. Bytes behind those being sent may be written meanwhile: the kernel reads
 *           only what the iovec named. An empty outbuf owns no memory, so idle connections cost
 *           nothing.
 * Owner     The connection; chunks come from and go back to a pool of the core.
 * Threads   One.
 * Units     Bytes.
 * Limits    The caller bounds outbuf.bytes; the pool keeps OUTBUF_POOL_CHUNKS_MAX free chunks.
 * Errors    None: out of memory stops the process, as everywhere on bounded paths.
 */
#ifndef NET_OUTBUF_H
#define NET_OUTBUF_H

#include <sys/uio.h>

#include "core/base.h"

#define OUTBUF_CHUNK_BYTES     ((size_t)(32 * 1024)) /* with its header */
#define OUTBUF_POOL_CHUNKS_MAX 128

struct outbuf_chunk {
    struct outbuf_chunk *next;
    uint32_t begin, end, capacity; /* unsent bytes are [begin, end) of data */
    uint8_t data[];
};

struct outbuf_pool {
    struct outbuf_chunk *free;
    uint32_t free_count;
    uint32_t used_count;
};

struct outbuf {
    struct outbuf_pool *pool;
    struct outbuf_chunk *first, *last;
    uint64_t bytes; /* unsent, in all chunks */
};

void outbuf_pool_deinit(struct outbuf_pool *pool); /* every chunk must be home */

static inline void outbuf_init(struct outbuf *out, struct outbuf_pool *pool)
{
    out->pool = pool;
    out->first = out->last = NULL;
    out->bytes = 0;
}
void outbuf_deinit(struct outbuf *out);

uint8_t *outbuf_reserve_slow(struct outbuf *out, size_t bytes);

/* Room for `bytes` in one piece, of which outbuf_commit() takes the first ones. */
static inline uint8_t *outbuf_reserve(struct outbuf *out, size_t bytes)
{
    struct outbuf_chunk *last = out->last;
    if (likely(last != NULL && last->capacity - last->end >= bytes))
        return last->data + last->end;
    return outbuf_reserve_slow(out, bytes);
}

static inline void outbuf_commit(struct outbuf *out, size_t bytes)
{
    out->last->end += (uint32_t)bytes;
    out->bytes += bytes;
}

/* May split the bytes over chunks. */
void outbuf_append(struct outbuf *out, const void *data, size_t bytes);

/* The unsent bytes, from the first on; returns the number of vectors filled. */
uint32_t outbuf_gather(const struct outbuf *out, struct iovec *iov, uint32_t iov_max);

/* The first `bytes` were sent. */
void outbuf_consume(struct outbuf *out, size_t bytes);

#endif
