/*
 * snapshot_install.h - a start on tables that another member sent: they replace our own, and the
 * log begins after them.
 *
 * Story     snap/incoming/SNAPSHOT, written last by server/snapshot_receive.h, says that the tables
 *           beside it are complete. Before the tables open: ours move to snap/replaced, the new
 *           ones take their place. After the log opened: it is emptied, to go on after the
 *           snapshot. Then the marker goes. A crash at any step finds the marker and does the rest.
 * Owner     The raft core's start-up fiber.
 * Errors    -errno, ERR_CORRUPT (a damaged marker is as good as none: what is there is removed).
 */
#ifndef SERVER_SNAPSHOT_INSTALL_H
#define SERVER_SNAPSHOT_INSTALL_H

#include "core/fiber.h"
#include "server/config.h"

#define SNAPSHOT_INCOMING "snap/incoming"
#define SNAPSHOT_REPLACED "snap/replaced"
#define SNAPSHOT_OUTGOING "snap/outgoing"

struct snapshot_position {
    uint64_t index, term; /* 0: none */
};

/* Fiber. Writes the marker, durably. */
must_check int snapshot_mark(const struct config *config, const struct snapshot_position *position);

/* Fiber, before the tables open. 1: they were exchanged, and snapshot_install_end() must follow
 * once the log was reset; 0: nothing to do. */
must_check int snapshot_install_begin(const struct config *config,
                                      struct snapshot_position *position);
must_check int snapshot_install_end(const struct config *config);

/* Fiber. Removes a directory with its files, and one level of directories in it. */
must_check int snapshot_remove_directory(const char *path);

#endif
