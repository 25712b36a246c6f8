#include "tools/raftctl/debug.h"

#include <errno.h>
#include <stdio.h>

#include "core/err.h"
#include "core/fiber.h"
#include "core/logger.h"

void debug_path(char path[DEBUG_PATH_BYTES], const char *directory, const char *name)
{
    int length = snprintf(path, DEBUG_PATH_BYTES, "%s/%s", directory, name);
    if (length < 0 || length >= DEBUG_PATH_BYTES - 64)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "the path is too long: %s", directory);
}

void debug_parent(char path[DEBUG_PATH_BYTES])
{
    char *slash = strrchr(path, '/');
    if (slash == NULL)
        memcpy(path, ".", 2);
    else
        slash[slash == path] = '\0';
}

void debug_lock(const char *directory)
{
    char path[DEBUG_PATH_BYTES];
    struct io_file file; /* open, and with it locked, until the process ends */
    debug_path(path, directory, "LOCK");
    int error = await_open(path, IO_OPEN_READ, &file);
    if (error == -ENOENT)
        return;
    if (error == 0)
        error = reactor_lock_file(core_reactor(core_current()), file);
    if (error == ERR_LOCKED)
        raftctl_fail(RAFTCTL_ERROR, "%s: %s; stop that raftd first, or copy its directory", path,
                     err_text(error));
    if (error < 0)
        raftctl_fail(RAFTCTL_ERROR, "%s: %s", path, err_text(error));
}

static int debug_stat_directory(const char *path)
{
    struct io_stat stat;
    int error = await_stat(path, &stat);
    return error == 0 && !stat.is_directory ? -ENOTDIR : error;
}

void debug_enter(char path[DEBUG_PATH_BYTES], const char *data_directory, const char *name)
{
    int error = debug_stat_directory(data_directory);
    if (error < 0)
        raftctl_fail(RAFTCTL_ERROR, "%s: %s; give the --data-dir of a raftd that was stopped",
                     data_directory, err_text(error));
    debug_path(path, data_directory, name);
    error = debug_stat_directory(path);
    if (error < 0)
        raftctl_fail(RAFTCTL_ERROR,
                     "%s: %s; %s is not the --data-dir of a raftd, or that never started", path,
                     err_text(error), data_directory);
    debug_lock(data_directory);
}

void debug_fail(const char *path, int error)
{
    const char *last = logger_last_error();
    if (*last != '\0')
        raftctl_fail(RAFTCTL_ERROR, "%s", last);
    raftctl_fail(RAFTCTL_ERROR, "%s: %s", path, err_text(error));
}
