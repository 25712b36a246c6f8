#include "core/reactor_uring.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "core/err.h"

#define FILE_MODE         0640
#define DIRECTORY_MODE    0750
#define LOCK_TRIES_MAX    100u /* reactor_hold_file(): a killed process keeps it for a while */
#define LOCK_TRY_WAIT_MS  50u
#define REGISTERED_BUFFER 0 /* index of the arena, the only registered buffer */

static struct io_uring_sqe *file_sqe(struct reactor *reactor, struct io_op *op)
{
    uring_op_begin(reactor, op);
    return uring_sqe(reactor);
}

static void file_submit(struct io_uring_sqe *sqe, struct io_op *op)
{
    sqe->user_data = uring_user_data(URING_OP, op);
}

/* ---- open files ----------------------------------------------------------------------------- */

void reactor_open(struct reactor *reactor, struct io_op *op, const char *path, uint32_t flags)
{
    invariant((flags & (IO_OPEN_READ | IO_OPEN_WRITE)) != 0);
    int how = O_CLOEXEC;
    if ((flags & IO_OPEN_WRITE) == 0)
        how |= O_RDONLY;
    else
        how |= (flags & IO_OPEN_READ) != 0 ? O_RDWR : O_WRONLY;
    how |= (flags & IO_OPEN_CREATE) != 0 ? O_CREAT : 0;
    how |= (flags & IO_OPEN_EXCLUSIVE) != 0 ? O_EXCL : 0;
    how |= (flags & IO_OPEN_TRUNCATE) != 0 ? O_TRUNC : 0;
    how |= (flags & IO_OPEN_DIRECT) != 0 ? O_DIRECT : 0;
    struct io_uring_sqe *sqe = file_sqe(reactor, op);
    io_uring_prep_openat(sqe, AT_FDCWD, path, how, FILE_MODE);
    file_submit(sqe, op);
}

void reactor_close(struct reactor *reactor, struct io_op *op, struct io_file file)
{
    invariant(file.fd >= 0);
    struct io_uring_sqe *sqe = file_sqe(reactor, op);
    io_uring_prep_close(sqe, file.fd);
    file_submit(sqe, op);
}

static bool span_is_registered(const struct reactor *reactor, const struct io_span *span)
{
    const uint8_t *base = span->base;
    return reactor->features.registered_buffers && base >= reactor->arena &&
           base + span->bytes <= reactor->arena + reactor->arena_bytes;
}

void reactor_read(struct reactor *reactor, struct io_op *op, struct io_file file,
                  struct io_span span)
{
    invariant(file.fd >= 0 && span.bytes <= INT32_MAX);
    struct io_uring_sqe *sqe = file_sqe(reactor, op);
    if (span_is_registered(reactor, &span))
        io_uring_prep_read_fixed(sqe, file.fd, span.base, span.bytes, span.offset,
                                 REGISTERED_BUFFER);
    else
        io_uring_prep_read(sqe, file.fd, span.base, span.bytes, span.offset);
    file_submit(sqe, op);
}

void reactor_write(struct reactor *reactor, struct io_op *op, struct io_file file,
                   struct io_span span, uint32_t flags)
{
    invariant(file.fd >= 0 && span.bytes <= INT32_MAX);
    struct io_uring_sqe *sqe = file_sqe(reactor, op);
    if (span_is_registered(reactor, &span))
        io_uring_prep_write_fixed(sqe, file.fd, span.base, span.bytes, span.offset,
                                  REGISTERED_BUFFER);
    else
        io_uring_prep_write(sqe, file.fd, span.base, span.bytes, span.offset);
    if ((flags & IO_WRITE_DURABLE) != 0)
        sqe->rw_flags = RWF_DSYNC;
    file_submit(sqe, op);
}

void reactor_sync(struct reactor *reactor, struct io_op *op, struct io_file file)
{
    struct io_uring_sqe *sqe = file_sqe(reactor, op);
    io_uring_prep_fsync(sqe, file.fd, 0); /* full: the file may be a directory */
    file_submit(sqe, op);
}

void reactor_write_stream(struct reactor *reactor, struct io_op *op, int32_t fd, const void *bytes,
                          uint32_t count)
{
    struct io_uring_sqe *sqe = file_sqe(reactor, op);
    io_uring_prep_write(sqe, fd, bytes, count, UINT64_MAX); /* at the file's position */
    file_submit(sqe, op);
}

void reactor_allocate(struct reactor *reactor, struct io_op *op, struct io_file file,
                      uint64_t offset, uint64_t bytes)
{
    struct io_uring_sqe *sqe = file_sqe(reactor, op);
    io_uring_prep_rw(IORING_OP_FALLOCATE, sqe, file.fd, NULL, 0, offset);
    sqe->addr =
        bytes; /* where this opcode keeps its length; liburing's helper truncates to off_t */
    file_submit(sqe, op);
}

void reactor_truncate(struct reactor *reactor, struct io_op *op, struct io_file file,
                      uint64_t bytes)
{
    if (!reactor->features.ftruncate) { /* before Linux 6.9 */
        uring_op_begin(reactor, op);
        uring_defer(reactor, op, ftruncate(file.fd, (off_t)bytes) == 0 ? 0 : -errno);
        return;
    }
    struct io_uring_sqe *sqe = file_sqe(reactor, op);
    sqe->opcode = URING_OP_FTRUNCATE;
    sqe->fd = file.fd;
    sqe->off = bytes;
    file_submit(sqe, op);
}

/* ---- names ---------------------------------------------------------------------------------- */

void reactor_rename(struct reactor *reactor, struct io_op *op, const char *from, const char *to)
{
    struct io_uring_sqe *sqe = file_sqe(reactor, op);
    io_uring_prep_renameat(sqe, AT_FDCWD, from, AT_FDCWD, to, 0);
    file_submit(sqe, op);
}

void reactor_unlink(struct reactor *reactor, struct io_op *op, const char *path)
{
    struct io_uring_sqe *sqe = file_sqe(reactor, op);
    io_uring_prep_unlinkat(sqe, AT_FDCWD, path, 0);
    file_submit(sqe, op);
}

void reactor_hard_link(struct reactor *reactor, struct io_op *op, const char *from, const char *to)
{
    struct io_uring_sqe *sqe = file_sqe(reactor, op);
    io_uring_prep_linkat(sqe, AT_FDCWD, from, AT_FDCWD, to, 0);
    file_submit(sqe, op);
}

void reactor_make_directory(struct reactor *reactor, struct io_op *op, const char *path)
{
    struct io_uring_sqe *sqe = file_sqe(reactor, op);
    io_uring_prep_mkdirat(sqe, AT_FDCWD, path, DIRECTORY_MODE);
    file_submit(sqe, op);
}

void reactor_remove_directory(struct reactor *reactor, struct io_op *op, const char *path)
{
    struct io_uring_sqe *sqe = file_sqe(reactor, op);
    io_uring_prep_unlinkat(sqe, AT_FDCWD, path, AT_REMOVEDIR);
    file_submit(sqe, op);
}

struct stat_request {
    struct io_op *op;
    struct io_stat *stat;
    struct statx raw;
};

void reactor_stat(struct reactor *reactor, struct io_op *op, const char *path, struct io_stat *stat)
{
    uring_op_begin(reactor, op);
    struct stat_request *request = calloc(1, sizeof(*request));
    if (request == NULL) {
        uring_defer(reactor, op, -ENOMEM);
        return;
    }
    request->op = op;
    request->stat = stat;
    struct io_uring_sqe *sqe = uring_sqe(reactor);
    io_uring_prep_statx(sqe, AT_FDCWD, path, 0, STATX_TYPE | STATX_SIZE | STATX_BLOCKS,
                        &request->raw);
    sqe->user_data = uring_user_data(URING_STAT, request);
}

void uring_stat_completed(struct reactor *reactor, struct stat_request *request, int32_t result)
{
    struct io_op *op = request->op;
    if (result == 0) {
        request->stat->bytes = request->raw.stx_size;
        request->stat->bytes_allocated = request->raw.stx_blocks * 512;
        request->stat->is_directory = S_ISDIR(request->raw.stx_mode);
    }
    free(request);
    uring_op_end(reactor, op);
    op->done(op, result);
}

/* ---- immediate ------------------------------------------------------------------------------ */

static int name_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All names of a directory, sorted; the caller frees each and the array. */
static int list_names(DIR *directory, char ***names_out, size_t *count_out)
{
    char **names = NULL;
    size_t count = 0, capacity = 0;
    struct dirent *entry;
    int error = 0;
    while (errno = 0, error == 0 && (entry = readdir(directory)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (count == capacity) {
            capacity = capacity == 0 ? 64 : capacity * 2;
            char **grown = realloc(names, capacity * sizeof(names[0]));
            if (grown == NULL) {
                error = -ENOMEM;
                break;
            }
            names = grown;
        }
        names[count] = strdup(entry->d_name);
        if (names[count] == NULL)
            error = -ENOMEM;
        else
            count++;
    }
    if (error == 0 && errno != 0)
        error = -errno;
    if (count > 1)
        qsort(names, count, sizeof(names[0]), name_compare);
    *names_out = names;
    *count_out = count;
    return error;
}

int reactor_list(struct reactor *reactor, const char *path,
                 void (*each)(void *context, const char *name), void *context)
{
    (void)reactor;
    DIR *directory = opendir(path);
    if (directory == NULL)
        return -errno;
    char **names;
    size_t count;
    int error = list_names(directory, &names, &count);
    closedir(directory);
    for (size_t i = 0; i < count; i++) {
        if (error == 0)
            each(context, names[i]);
        free(names[i]);
    }
    free(names);
    return error;
}

int reactor_lock_file(struct reactor *reactor, struct io_file file)
{
    (void)reactor;
    for (uint32_t tries = 0; flock(file.fd, LOCK_EX | LOCK_NB) != 0; tries++) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        if (tries == LOCK_TRIES_MAX)
            return ERR_LOCKED;
        struct timespec pause = {.tv_nsec = LOCK_TRY_WAIT_MS * (long)NS_PER_MS};
        nanosleep(&pause, NULL);
    }
    return 0;
}

/* A ring's file table goes when its last request has gone, some time after the descriptors of a
 * killed process. */
int reactor_hold_file(struct reactor *reactor, struct io_file file)
{
    return io_uring_register_files(&reactor->ring, &file.fd, 1);
}

int reactor_disk_space(struct reactor *reactor, const char *path, uint64_t *free_bytes,
                       uint64_t *total_bytes)
{
    (void)reactor;
    struct statvfs facts;
    if (statvfs(path, &facts) != 0)
        return -errno;
    *free_bytes = (uint64_t)facts.f_bavail * facts.f_frsize;
    *total_bytes = (uint64_t)facts.f_blocks * facts.f_frsize;
    return 0;
}
