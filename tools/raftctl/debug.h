/*
 * debug.h - what the commands share that read the files of a stopped node.
 *
 * Story     The data directory's lock is taken for as long as the command runs, so that nobody
 *           writes meanwhile; files are only read. Damage ends the output where it lies: one line
 *           on standard error with file, offset and reason, exit code 1.
 * Owner     The fiber of the command.
 * Source    docs/formats/, docs/internals/storage.md.
 */
#ifndef TOOLS_RAFTCTL_DEBUG_H
#define TOOLS_RAFTCTL_DEBUG_H

#include "tools/raftctl/raftctl.h"

#define DEBUG_PATH_BYTES 1024

/* Fiber. Takes the lock of `directory`, when it has one; ends the process if somebody holds it. */
void debug_lock(const char *directory);

/* Fiber. For what lies in `name` of a data directory: takes its lock, makes the path. Ends the
 * process when either directory is missing: a mistyped path must not pass for an empty member. */
void debug_enter(char path[DEBUG_PATH_BYTES], const char *data_directory, const char *name);

/* "directory/name". Ends the process when that is too long. */
void debug_path(char path[DEBUG_PATH_BYTES], const char *directory, const char *name);

/* Takes off the last name of the path; "." when there is none before it. */
void debug_parent(char path[DEBUG_PATH_BYTES]);

/* Ends the process with the last error that storage logged, or with what `error` means. */
_Noreturn void debug_fail(const char *path, int error);

#endif
