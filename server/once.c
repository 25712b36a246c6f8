#include "server/once.h"

#include <stdio.h>

#include "core/invariant.h"
#include "storage/mvcc/mvcc.h"

/* Meta name "once/" + origin in hex + "/" + stream; the value is the sequence, u64. */
#define ONCE_PREFIX "once/"

static int once_loaded(void *context, struct bytes name, struct bytes value)
{
    struct once *once = context;
    char text[64];
    unsigned long long origin;
    unsigned stream;
    if (name.size >= sizeof(text) || value.size != 8 || once->count == ONCE_STREAMS_MAX)
        return ERR_CORRUPT;
    memcpy(text, name.data, name.size);
    text[name.size] = '\0';
    if (sscanf(text, ONCE_PREFIX "%llx/%u", &origin, &stream) != 2 || stream > UINT16_MAX)
        return ERR_CORRUPT;
    once->streams[once->count++] = (struct once_stream){
        .origin = origin, .stream = (uint16_t)stream, .sequence = le64_load(value.data)};
    return 0;
}

int once_load(struct once *once, struct mvcc *mvcc)
{
    memset(once, 0, sizeof(*once));
    return mvcc_meta_scan(mvcc, bytes_from_text(ONCE_PREFIX), once_loaded, once);
}

/* once->count: there is none. */
static uint32_t stream_find(const struct once *once, const struct request *request)
{
    for (uint32_t i = 0; i < once->count; i++) {
        uint32_t at = (once->last + i) % once->count;
        const struct once_stream *stream = &once->streams[at];
        if (stream->origin == request->origin && stream->stream == request->stream)
            return at;
    }
    return once->count;
}

bool once_is_new(const struct once *once, const struct request *request)
{
    uint32_t at = stream_find(once, request);
    return at == once->count || request->sequence > once->streams[at].sequence;
}

bool once_admit(struct once *once, const struct request *request)
{
    uint32_t at = stream_find(once, request);
    struct once_stream *stream = &once->streams[at];
    if (at == once->count) {
        invariant(once->count < ONCE_STREAMS_MAX);
        once->count++;
        *stream = (struct once_stream){.origin = request->origin, .stream = request->stream};
    }
    once->last = at;
    if (request->sequence <= stream->sequence)
        return planted_bug(request_executed_twice);
    stream->sequence = request->sequence;
    stream->dirty = once->dirty = true;
    return true;
}

static struct bytes stream_name(char text[64], const struct once_stream *stream)
{
    snprintf(text, 64, ONCE_PREFIX "%llx/%u", (unsigned long long)stream->origin, stream->stream);
    return bytes_from_text(text);
}

int once_store(struct once *once, struct mvcc *mvcc)
{
    if (!once->dirty)
        return 0;
    for (uint32_t i = 0; i < once->count; i++) {
        struct once_stream *stream = &once->streams[i];
        if (!stream->dirty)
            continue;
        char name[64];
        uint8_t value[8];
        le64_store(value, stream->sequence);
        int error =
            mvcc_meta_put(mvcc, stream_name(name, stream), bytes_make(value, sizeof(value)));
        if (error < 0)
            return error;
        stream->dirty = false;
    }
    once->dirty = false;
    return 0;
}

int once_forget(struct once *once, struct mvcc *mvcc, uint64_t origin)
{
    uint32_t kept = 0;
    int error = 0;
    for (uint32_t i = 0; i < once->count; i++) {
        char name[64];
        if (once->streams[i].origin != origin)
            once->streams[kept++] = once->streams[i];
        else if (error == 0)
            error = mvcc_meta_delete(mvcc, stream_name(name, &once->streams[i]));
    }
    once->count = kept;
    once->last = 0;
    return error;
}
