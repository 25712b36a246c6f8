/* core/reactor.h on a simulated world: files and names. An operation takes effect when it is due;
 * a write that is still in flight at a power cut may land wholly, in part or not at all. */
#include "tests/sim/reactor_sim.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/crc32c.h"
#include "core/err.h"
#include "core/invariant.h"
#include "tests/sim/memory.h"

#define SLOW_PER_MILLE   2 /* of operations take up to SLOW_FACTOR times as long */
#define SLOW_FACTOR      50
#define FILE_NS_PER_KIB  300
#define SHORT_READ_PARTS 64 /* one read in so many stops early, when the options say so */

static const struct {
    uint32_t ns_min, ns_spread;
} latencies[] = {
    [SIM_REQUEST_OPEN] = {2000, 20000},
    [SIM_REQUEST_CLOSE] = {1000, 5000},
    [SIM_REQUEST_READ] = {15000, 100000},
    [SIM_REQUEST_WRITE] = {20000, 150000},
    [SIM_REQUEST_SYNC] = {80000, 900000},
    [SIM_REQUEST_STREAM] = {100, 1000},
    [SIM_REQUEST_ALLOCATE] = {20000, 200000},
    [SIM_REQUEST_TRUNCATE] = {10000, 50000},
    [SIM_REQUEST_RENAME] = {5000, 50000},
    [SIM_REQUEST_UNLINK] = {5000, 50000},
    [SIM_REQUEST_LINK] = {5000, 50000},
    [SIM_REQUEST_MAKE_DIRECTORY] = {5000, 50000},
    [SIM_REQUEST_REMOVE_DIRECTORY] = {5000, 50000},
    [SIM_REQUEST_STAT] = {1000, 10000},
};

static struct sim_request *file_request(struct reactor *reactor, struct io_op *op,
                                        enum sim_request_kind kind, uint64_t bytes)
{
    struct sim_world *world = reactor->node->world;
    struct prng *prng = sim_prng(world, SIM_STREAM_DISK);
    uint64_t delay_ns = latencies[kind].ns_min + prng_below(prng, latencies[kind].ns_spread) +
                        bytes / 1024 * FILE_NS_PER_KIB;
    if (prng_chance(prng, SLOW_PER_MILLE, 1000))
        delay_ns *= 1 + prng_below(prng, SLOW_FACTOR);
    if (reactor->node->disk != NULL)
        delay_ns *= u64_max(1, sim_disk_faults(reactor->node->disk)->slow_factor);
    return sim_request_start(reactor, op, kind, delay_ns);
}

static void changes_disk(struct sim_request *request)
{
    struct sim_node *node = request->node;
    node->world->disk_changes++;
    if (node->on_disk_request != NULL)
        node->on_disk_request(node, request);
}

/* ---- starting ------------------------------------------------------------------------------- */

void reactor_open(struct reactor *reactor, struct io_op *op, const char *path, uint32_t flags)
{
    invariant((flags & (IO_OPEN_READ | IO_OPEN_WRITE)) != 0);
    struct sim_request *request = file_request(reactor, op, SIM_REQUEST_OPEN, 0);
    request->path[0] = sim_strdup(path);
    request->flags = flags;
    if ((flags & (IO_OPEN_CREATE | IO_OPEN_TRUNCATE)) != 0)
        changes_disk(request);
}

static struct sim_request *request_on_file(struct reactor *reactor, struct io_op *op,
                                           enum sim_request_kind kind, struct io_file file,
                                           uint64_t bytes)
{
    struct sim_request *request = file_request(reactor, op, kind, bytes);
    request->file = sim_descriptor_get(reactor->node, file.fd, SIM_FD_FILE);
    sim_check(request->file != NULL, "descriptor %d is not an open file", file.fd);
    request->file->references++;
    return request;
}

void reactor_close(struct reactor *reactor, struct io_op *op, struct io_file file)
{
    struct sim_request *request = request_on_file(reactor, op, SIM_REQUEST_CLOSE, file, 0);
    struct sim_file *opened = request->file;
    request->file = NULL;
    opened->references--; /* the request's */
    sim_descriptor_remove(reactor->node, file.fd);
    sim_file_release(reactor->node->disk, opened);
}

void reactor_read(struct reactor *reactor, struct io_op *op, struct io_file file,
                  struct io_span span)
{
    struct sim_request *request = request_on_file(reactor, op, SIM_REQUEST_READ, file, span.bytes);
    request->span = span;
}

void reactor_write(struct reactor *reactor, struct io_op *op, struct io_file file,
                   struct io_span span, uint32_t flags)
{
    struct sim_request *request = request_on_file(reactor, op, SIM_REQUEST_WRITE, file, span.bytes);
    request->span = span;
    request->flags = flags;
    request->content_hash = crc32c(0, span.base, span.bytes);
    changes_disk(request);
}

void reactor_sync(struct reactor *reactor, struct io_op *op, struct io_file file)
{
    struct sim_request *request = request_on_file(reactor, op, SIM_REQUEST_SYNC, file, 0);
    request->sync_sequence = sim_disk_sequence(reactor->node->disk);
    changes_disk(request);
}

void reactor_write_stream(struct reactor *reactor, struct io_op *op, int32_t fd, const void *bytes,
                          uint32_t count)
{
    struct sim_request *request = sim_request_start(reactor, op, SIM_REQUEST_STREAM, UINT64_MAX);
    if (reactor->node->world->options.log_to_stderr) {
        ssize_t written = write(fd, bytes, count);
        (void)written;
    }
    sim_request_due(request, (int32_t)count);
}

void reactor_allocate(struct reactor *reactor, struct io_op *op, struct io_file file,
                      uint64_t offset, uint64_t bytes)
{
    struct sim_request *request = request_on_file(reactor, op, SIM_REQUEST_ALLOCATE, file, 0);
    request->span.offset = offset;
    request->bytes = bytes;
    changes_disk(request);
}

void reactor_truncate(struct reactor *reactor, struct io_op *op, struct io_file file,
                      uint64_t bytes)
{
    struct sim_request *request = request_on_file(reactor, op, SIM_REQUEST_TRUNCATE, file, 0);
    request->bytes = bytes;
    changes_disk(request);
}

static struct sim_request *request_on_name(struct reactor *reactor, struct io_op *op,
                                           enum sim_request_kind kind, const char *path,
                                           const char *second)
{
    struct sim_request *request = file_request(reactor, op, kind, 0);
    request->path[0] = sim_strdup(path);
    if (second != NULL)
        request->path[1] = sim_strdup(second);
    if (kind != SIM_REQUEST_STAT)
        changes_disk(request);
    return request;
}

void reactor_rename(struct reactor *reactor, struct io_op *op, const char *from, const char *to)
{
    request_on_name(reactor, op, SIM_REQUEST_RENAME, from, to);
}

void reactor_unlink(struct reactor *reactor, struct io_op *op, const char *path)
{
    request_on_name(reactor, op, SIM_REQUEST_UNLINK, path, NULL);
}

void reactor_hard_link(struct reactor *reactor, struct io_op *op, const char *from, const char *to)
{
    request_on_name(reactor, op, SIM_REQUEST_LINK, from, to);
}

void reactor_make_directory(struct reactor *reactor, struct io_op *op, const char *path)
{
    request_on_name(reactor, op, SIM_REQUEST_MAKE_DIRECTORY, path, NULL);
}

void reactor_remove_directory(struct reactor *reactor, struct io_op *op, const char *path)
{
    request_on_name(reactor, op, SIM_REQUEST_REMOVE_DIRECTORY, path, NULL);
}

void reactor_stat(struct reactor *reactor, struct io_op *op, const char *path, struct io_stat *stat)
{
    request_on_name(reactor, op, SIM_REQUEST_STAT, path, NULL)->stat = stat;
}

/* ---- taking effect -------------------------------------------------------------------------- */

static int32_t open_now(struct sim_request *request)
{
    struct sim_file *file;
    int error = sim_disk_open(request->node->disk, request->path[0], request->flags, &file);
    return error < 0 ? error : sim_descriptor_add(request->node, SIM_FD_FILE, file);
}

static int32_t read_now(struct sim_request *request)
{
    struct sim_world *world = request->node->world;
    int32_t error = sim_disk_check_span(request->file, request->span, false);
    if (error < 0)
        return error;
    struct io_span span = request->span;
    if (world->options.short_reads && span.bytes > SIM_PAGE_BYTES &&
        prng_chance(sim_prng(world, SIM_STREAM_FAULTS), 1, SHORT_READ_PARTS))
        span.bytes = SIM_PAGE_BYTES;
    return sim_disk_read(request->node->disk, request->file, span);
}

static int32_t write_now(struct sim_request *request, struct sim_disk *disk,
                         struct sim_inode *inode, bool durable)
{
    int32_t error = sim_disk_check_span(request->file, request->span, true);
    if (error < 0)
        return error;
    sim_check(crc32c(0, request->span.base, request->span.bytes) == request->content_hash,
              "a buffer changed while it was being written");
    return sim_disk_write(disk, inode, request->span, durable);
}

/* The disk answers with an error: the result, else 0. */
static int32_t fails_now(struct sim_request *request)
{
    struct sim_world *world = request->node->world;
    struct sim_disk *disk = request->node->disk;
    struct prng *prng = sim_prng(world, SIM_STREAM_FAULTS);
    uint32_t per_mille = disk == NULL ? 0 : sim_disk_faults(disk)->error_per_mille;
    if (per_mille == 0 || !prng_chance(prng, per_mille, 1000))
        return 0;
    switch (request->kind) {
    case SIM_REQUEST_WRITE:
        return sim_disk_write_fails(disk, request->file->inode, request->span, prng);
    case SIM_REQUEST_SYNC:
        return sim_disk_sync_fails(disk, request->file->inode, request->sync_sequence, prng);
    case SIM_REQUEST_ALLOCATE:
        sim_disk_faults(disk)->errors++;
        return -EIO;
    default: /* only what writes */
        return 0;
    }
}

static int32_t name_now(const struct sim_request *request, struct sim_disk *disk)
{
    switch (request->kind) {
    case SIM_REQUEST_RENAME:
        return sim_disk_rename(disk, request->path[0], request->path[1]);
    case SIM_REQUEST_UNLINK:
        return sim_disk_unlink(disk, request->path[0]);
    case SIM_REQUEST_LINK:
        return sim_disk_link(disk, request->path[0], request->path[1]);
    case SIM_REQUEST_MAKE_DIRECTORY:
        return sim_disk_make_directory(disk, request->path[0]);
    case SIM_REQUEST_REMOVE_DIRECTORY:
        return sim_disk_remove_directory(disk, request->path[0]);
    default: /* not an operation on names */
        invariant(!"an operation on names");
        return -EINVAL;
    }
}

static enum sim_kind kind_of(const struct sim_request *request)
{
    switch (request->kind) {
    case SIM_REQUEST_READ:
        return SIM_KIND_DISK_READ;
    case SIM_REQUEST_WRITE:
        return SIM_KIND_DISK_WRITE;
    case SIM_REQUEST_SYNC:
        return SIM_KIND_DISK_SYNC;
    case SIM_REQUEST_ALLOCATE:
    case SIM_REQUEST_TRUNCATE:
        return SIM_KIND_DISK_SIZE;
    default: /* everything else is about names */
        return SIM_KIND_DISK_NAME;
    }
}

static int32_t take_effect(struct sim_request *request, bool *changed)
{
    struct sim_disk *disk = request->node->disk;
    struct sim_inode *inode = request->file == NULL ? NULL : request->file->inode;
    switch (request->kind) {
    case SIM_REQUEST_OPEN:
        *changed = (request->flags & (IO_OPEN_CREATE | IO_OPEN_TRUNCATE)) != 0;
        return open_now(request);
    case SIM_REQUEST_CLOSE:
        *changed = false;
        return 0;
    case SIM_REQUEST_READ:
        *changed = false;
        return read_now(request);
    case SIM_REQUEST_WRITE:
        return write_now(request, disk, inode, (request->flags & IO_WRITE_DURABLE) != 0);
    case SIM_REQUEST_SYNC:
        sim_disk_sync(disk, inode, request->sync_sequence);
        return 0;
    case SIM_REQUEST_ALLOCATE:
        return sim_disk_allocate(disk, inode, request->span.offset, request->bytes);
    case SIM_REQUEST_TRUNCATE:
        return sim_disk_truncate(disk, inode, request->bytes);
    case SIM_REQUEST_STAT:
        *changed = false;
        return sim_disk_stat(disk, request->path[0], request->stat);
    default: /* RENAME to REMOVE_DIRECTORY; others are not due here */
        return name_now(request, disk);
    }
}

void sim_file_request_due(struct sim_request *request)
{
    struct sim_node *node = request->node;
    bool changed = true;
    int32_t result = fails_now(request);
    if (result == 0)
        result = take_effect(request, &changed);
    if (request->file != NULL)
        sim_file_release(node->disk, request->file);
    request->file = NULL;
    node->world->disk_changes += changed;
    sim_trace(node->world, node, request->reactor->options.core, kind_of(request),
              request->kind == SIM_REQUEST_WRITE ? request->content_hash : request->kind,
              (uint64_t)(int64_t)result);
    sim_request_due(request, result);
}

void sim_file_request_drop(struct sim_request *request)
{
    if (request->file != NULL)
        sim_file_release(request->node->disk, request->file);
    request->file = NULL;
}

/* ---- power cuts ----------------------------------------------------------------------------- */

static void land(struct sim_request *request, struct sim_disk *disk, bool is_clone)
{
    struct sim_inode *inode = request->file == NULL ? NULL : request->file->inode;
    if (inode != NULL && is_clone)
        inode = sim_disk_cloned(inode);
    struct sim_file *file;
    switch (request->kind) {
    case SIM_REQUEST_WRITE:
        (void)!write_now(request, disk, inode, false);
        break;
    case SIM_REQUEST_ALLOCATE:
        (void)!sim_disk_allocate(disk, inode, request->span.offset, request->bytes);
        break;
    case SIM_REQUEST_TRUNCATE:
        (void)!sim_disk_truncate(disk, inode, request->bytes);
        break;
    case SIM_REQUEST_OPEN:
        if (sim_disk_open(disk, request->path[0], request->flags, &file) == 0)
            sim_file_release(disk, file);
        break;
    case SIM_REQUEST_RENAME:
    case SIM_REQUEST_UNLINK:
    case SIM_REQUEST_LINK:
    case SIM_REQUEST_MAKE_DIRECTORY:
    case SIM_REQUEST_REMOVE_DIRECTORY:
        (void)!name_now(request, disk);
        break;
    default: /* a sync in flight adds nothing that the cut could not keep anyway */
        break;
    }
}

void sim_requests_land(struct sim_node *node, struct sim_disk *disk, bool is_clone,
                       enum sim_loss loss, struct prng *prng)
{
    struct sim_request *in_flight[256];
    uint32_t count = 0;
    for (struct sim_request *request = node->requests; request != NULL; request = request->next)
        if (!request->completed && count < ARRAY_COUNT(in_flight))
            in_flight[count++] = request;
    while (count > 0) { /* in any order */
        uint32_t pick = (uint32_t)prng_below(prng, count);
        if (sim_loss_keeps_in_flight(loss, prng))
            land(in_flight[pick], disk, is_clone);
        in_flight[pick] = in_flight[--count];
    }
}

/* ---- immediate ------------------------------------------------------------------------------ */

int reactor_list(struct reactor *reactor, const char *path,
                 void (*each)(void *context, const char *name), void *context)
{
    return sim_disk_list(reactor->node->disk, path, each, context);
}

int reactor_hold_file(struct reactor *reactor, struct io_file file)
{
    (void)reactor; /* a node's requests end with it */
    (void)file;
    return 0;
}

int reactor_lock_file(struct reactor *reactor, struct io_file file)
{
    struct sim_file *opened = sim_descriptor_get(reactor->node, file.fd, SIM_FD_FILE);
    invariant(opened != NULL);
    return sim_disk_lock(reactor->node->disk, opened) ? 0 : ERR_LOCKED;
}

int reactor_disk_space(struct reactor *reactor, const char *path, uint64_t *free_bytes,
                       uint64_t *total_bytes)
{
    (void)path;
    sim_disk_space(reactor->node->disk, free_bytes, total_bytes);
    return 0;
}
