/* Reactor operations as straight-line calls of a fiber (contracts in fiber.h and reactor.h). */
#include "core/fiber.h"

#include <errno.h>

#include "core/core_private.h"

#define PARENT_PATH_BYTES 1024

/* Lives on the fiber's stack, which stays put while the fiber is parked. */
struct await {
    struct io_op op;
    struct fiber *fiber;
    struct reactor *reactor;
    int32_t result;
    bool completed;
};

static void await_completed(struct io_op *op, int32_t result)
{
    struct await *await = container_of(op, struct await, op);
    invariant(!await->completed);
    await->result = result;
    await->completed = true;
    fiber_make_ready(await->fiber);
}

static void await_begin(struct await *await)
{
    io_op_init(&await->op, await_completed);
    await->fiber = fiber_current();
    invariant(await->fiber != NULL);
    await->reactor = core_current()->reactor;
    await->completed = false;
    await->result = 0;
}

static int32_t await_end(struct await *await)
{
    invariant(!await->completed); /* `done` never runs inside the call that starts the op */
    fiber_park();
    invariant(await->completed);
    return await->result;
}

int32_t await_open(const char *path, uint32_t flags, struct io_file *file)
{
    struct await await;
    await_begin(&await);
    reactor_open(await.reactor, &await.op, path, flags);
    int32_t result = await_end(&await);
    file->fd = result < 0 ? -1 : result;
    return result < 0 ? result : 0;
}

int32_t await_close(struct io_file *file)
{
    invariant(file->fd >= 0);
    struct await await;
    await_begin(&await);
    struct io_file closing = *file;
    file->fd = -1; /* whatever close answers, the descriptor is gone */
    reactor_close(await.reactor, &await.op, closing);
    return await_end(&await);
}

/* The part of `span` that starts `done` bytes in. */
static struct io_span await_rest(struct io_span span, uint32_t done)
{
    return (struct io_span){
        .base = (uint8_t *)span.base + done,
        .offset = span.offset + done,
        .bytes = span.bytes - done,
    };
}

int32_t await_read(struct io_file file, struct io_span span)
{
    invariant(span.bytes <= INT32_MAX);
    uint32_t done = 0;
    while (done < span.bytes) {
        struct await await;
        await_begin(&await);
        reactor_read(await.reactor, &await.op, file, await_rest(span, done));
        int32_t result = await_end(&await);
        if (result == -EINTR || result == -EAGAIN)
            continue;
        if (result == -EINVAL && done % 512 != 0)
            break; /* direct I/O stopped in mid-sector: that was the end of the file */
        if (result < 0)
            return result;
        if (result == 0)
            break;
        done += (uint32_t)result;
        invariant(done <= span.bytes);
    }
    return (int32_t)done;
}

int32_t await_write(struct io_file file, struct io_span span, uint32_t flags)
{
    invariant(span.bytes <= INT32_MAX);
    uint32_t done = 0;
    while (done < span.bytes) {
        struct await await;
        await_begin(&await);
        reactor_write(await.reactor, &await.op, file, await_rest(span, done), flags);
        int32_t result = await_end(&await);
        if (result == -EINTR || result == -EAGAIN)
            continue;
        if (result < 0)
            return result;
        if (result == 0)
            return -EIO; /* no progress and no reason given */
        done += (uint32_t)result;
        invariant(done <= span.bytes);
    }
    return (int32_t)done;
}

int32_t await_sync(struct io_file file)
{
    struct await await;
    await_begin(&await);
    reactor_sync(await.reactor, &await.op, file);
    return await_end(&await);
}

int32_t await_sync_directory(const char *path)
{
    struct io_file directory;
    int32_t result = await_open(path, IO_OPEN_READ, &directory);
    if (result < 0)
        return result;
    result = await_sync(directory);
    int32_t closed = await_close(&directory);
    return result < 0 ? result : closed;
}

int32_t await_allocate(struct io_file file, uint64_t offset, uint64_t bytes)
{
    struct await await;
    await_begin(&await);
    reactor_allocate(await.reactor, &await.op, file, offset, bytes);
    return await_end(&await);
}

int32_t await_truncate(struct io_file file, uint64_t bytes)
{
    struct await await;
    await_begin(&await);
    reactor_truncate(await.reactor, &await.op, file, bytes);
    return await_end(&await);
}

int32_t await_rename(const char *from, const char *to)
{
    struct await await;
    await_begin(&await);
    reactor_rename(await.reactor, &await.op, from, to);
    return await_end(&await);
}

int32_t await_unlink(const char *path)
{
    struct await await;
    await_begin(&await);
    reactor_unlink(await.reactor, &await.op, path);
    return await_end(&await);
}

int32_t await_hard_link(const char *from, const char *to)
{
    struct await await;
    await_begin(&await);
    reactor_hard_link(await.reactor, &await.op, from, to);
    return await_end(&await);
}

/* The directory that holds the name of `path`, whose slashes at the end do not count. */
static int32_t sync_parent(const char *path)
{
    char parent[PARENT_PATH_BYTES];
    size_t bytes = strlen(path);
    while (bytes > 1 && path[bytes - 1] == '/')
        bytes--;
    while (bytes > 0 && path[bytes - 1] != '/')
        bytes--;
    while (bytes > 1 && path[bytes - 1] == '/')
        bytes--;
    if (bytes >= sizeof(parent))
        return -ENAMETOOLONG;
    memcpy(parent, bytes == 0 ? "." : path, bytes == 0 ? 1 : bytes);
    parent[bytes == 0 ? 1 : bytes] = '\0';
    int32_t result = await_sync_directory(parent);
    return result == -EACCES ? 0 : result; /* somebody else's directory: they made the name */
}

/* Also for one that exists: the start that made it may have ended before its name was durable. */
int32_t await_make_directory(const char *path)
{
    struct await await;
    await_begin(&await);
    reactor_make_directory(await.reactor, &await.op, path);
    int32_t result = await_end(&await);
    if (planted_bug(directory_name_not_durable))
        return result == -EEXIST ? 0 : result;
    return result < 0 && result != -EEXIST ? result : sync_parent(path);
}

int32_t await_remove_directory(const char *path)
{
    struct await await;
    await_begin(&await);
    reactor_remove_directory(await.reactor, &await.op, path);
    return await_end(&await);
}

int32_t await_stat(const char *path, struct io_stat *stat)
{
    struct await await;
    await_begin(&await);
    reactor_stat(await.reactor, &await.op, path, stat);
    return await_end(&await);
}
