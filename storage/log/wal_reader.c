#include <errno.h>
#include <stdio.h>

#include "core/buffer.h"
#include "core/err.h"
#include "core/invariant.h"
#include "storage/log/wal_private.h"

#define UNREADABLE_FILL 0xee /* neither zeros nor a magic: reads as damage */

void wal_path(char *path, const char *directory, const char *name)
{
    int length = snprintf(path, WAL_PATH_BYTES, "%s/%s", directory, name);
    invariant(length > 0 && length < WAL_PATH_BYTES);
}

void wal_segment_path(char *path, const char *directory, uint32_t number)
{
    int length =
        snprintf(path, WAL_PATH_BYTES, "%s/%0*u.log", directory, WAL_SEGMENT_DIGITS, number);
    invariant(length > 0 && length < WAL_PATH_BYTES);
}

int wal_reader_init(struct wal_reader *reader, uint32_t bytes)
{
    invariant(bytes % WAL_PAGE_BYTES == 0 && bytes != 0);
    struct buffer_pool *pool = reactor_buffers(core_reactor(core_current()));
    *reader = (struct wal_reader){.file.fd = -1, .buffer_bytes = bytes};
    reader->buffer = buffer_acquire_or_allocate(pool, bytes);
    return reader->buffer == NULL ? -ENOMEM : 0;
}

void wal_reader_deinit(struct wal_reader *reader)
{
    if (reader->buffer != NULL)
        buffer_release_or_free(reactor_buffers(core_reactor(core_current())), reader->buffer);
    reader->buffer = NULL;
}

void wal_reader_attach(struct wal_reader *reader, struct io_file file, uint64_t file_bytes)
{
    invariant(file_bytes % WAL_PAGE_BYTES == 0);
    reader->file = file;
    reader->file_bytes = file_bytes;
    reader->valid = 0;
}

/* A bad sector must not hide its neighbours: page by page, those that fail count as damaged. */
static void reader_fill_by_page(struct wal_reader *reader, uint64_t offset, uint32_t bytes)
{
    for (uint32_t done = 0; done < bytes; done += WAL_PAGE_BYTES) {
        struct io_span span = {
            .base = reader->buffer + done, .offset = offset + done, .bytes = WAL_PAGE_BYTES};
        int32_t result = await_read(reader->file, span);
        if (result == (int32_t)WAL_PAGE_BYTES)
            continue;
        if (result >= 0 || result == -EIO) {
            memset(span.base, UNREADABLE_FILL, WAL_PAGE_BYTES);
            reader->pages_unreadable++;
            continue;
        }
        fatal("log read at offset %llu: %s", (unsigned long long)span.offset, err_text(result));
    }
}

const uint8_t *wal_reader_get(struct wal_reader *reader, uint64_t offset, uint32_t bytes)
{
    invariant(offset % WAL_PAGE_BYTES == 0 && bytes <= reader->buffer_bytes);
    if (offset >= reader->start && offset + bytes <= reader->start + reader->valid)
        return reader->buffer + (offset - reader->start);
    if (offset + bytes > reader->file_bytes)
        return NULL;
    uint32_t want = (uint32_t)u64_min(reader->buffer_bytes, reader->file_bytes - offset);
    struct io_span span = {.base = reader->buffer, .offset = offset, .bytes = want};
    reader->valid = 0;
    int32_t result = await_read(reader->file, span);
    if (result != (int32_t)want)
        reader_fill_by_page(reader, offset, want);
    reader->start = offset;
    reader->valid = want;
    reader->bytes_read += want;
    return reader->buffer;
}
