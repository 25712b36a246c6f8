/*
 * snapshot_install.h - a start on tables that another member sent: they replace our own, and the
 * log begins after them.
 *
 * Story     snap/incoming/SNAPSHOT, written last by server/snapshot_receive.h, says that the tables
 *           beside it are complete and verified. At the next start, when the log is open and the
 *           tables are not, it is decided. A log that has the snapshot's last entry, and everything
 *           that our tables lack up to it, needs nothing of it: the snapshot is discarded. Else our
 *           tables move to snap/replaced and the new ones take their place. Then the log: when it
 *           has the snapshot's last entry (but lost others before it), it is kept, for what follows
 *           may have been acknowledged; else it is reset to go on after the snapshot. Last the
 *           marker goes. A crash at any step is continued from what is there:
 *
 *           marker  incoming/lsm  lsm   state
 *           no      any           any   SNAPSHOT_NONE; what is there of a transfer may go on
 *           yes     yes           yes   SNAPSHOT_RECEIVED: not decided, or not begun
 *           yes     yes           no    SNAPSHOT_BEGUN: ours moved away
 *           yes     no            yes   SNAPSHOT_BEGUN: the new ones are there, the log may be old
 *           yes     no            no    ERR_CORRUPT
 *
 * Owner     The raft core's start-up fiber.
 * Durable   Each step's names before the next begins: the exchange before the log is reset, that
 *           before the marker goes, the marker's end before anything else of it is removed.
 * Errors    -errno; ERR_CORRUPT for a marker that is damaged after the exchange began. One that was
 *           never completed is as good as none.
 * Source    docs/internals/raft.md, "Snapshots".
 */
#ifndef SERVER_SNAPSHOT_INSTALL_H
#define SERVER_SNAPSHOT_INSTALL_H

#include "core/fiber.h"
#include "server/config.h"

#define SNAPSHOT_INCOMING "snap/incoming"
#define SNAPSHOT_REPLACED "snap/replaced"
#define SNAPSHOT_OUTGOING "snap/outgoing"

#define SNAPSHOT_PATH_BYTES (CONFIG_TEXT_BYTES + 128)

struct snapshot_position {
    uint64_t index, term;
};

enum snapshot_install { SNAPSHOT_NONE = 0, SNAPSHOT_RECEIVED = 1, SNAPSHOT_BEGUN = 2 };

/* Fiber. Writes the marker, durably. Every file beside it is. */
must_check int snapshot_mark(const char *data_dir, const struct snapshot_position *position);

/* Fiber, at start. An enum snapshot_install, or an error; `position` is set unless SNAPSHOT_NONE.
 * Removes what earlier installs and transfers left behind. */
must_check int snapshot_install_find(const char *data_dir, struct snapshot_position *position);

/* What a log says about a snapshot. */
struct snapshot_log {
    uint64_t base_index;  /* its entries begin after this one */
    uint64_t term;        /* of its entry at the snapshot's index; 0: there is none */
    uint64_t fault_index; /* of its lowest damaged entry that our tables lack; 0: none */
};

/* Does the log connect to the snapshot, or end behind it? If not, all of it that lies behind the
 * snapshot contradicts what was committed. */
static inline bool snapshot_is_in_log(const struct snapshot_position *position,
                                      const struct snapshot_log *log)
{
    return position->index <= log->base_index || log->term == position->term;
}

/* Do log and tables lack anything that the snapshot brings? */
static inline bool snapshot_is_news(const struct snapshot_position *position,
                                    const struct snapshot_log *log)
{
    return !snapshot_is_in_log(position, log) ||
           (log->fault_index != 0 && log->fault_index <= position->index);
}

/* Fiber. SNAPSHOT_RECEIVED and no news, or what came cannot be used: removes it. */
must_check int snapshot_install_discard(const char *data_dir);

/* Fiber. SNAPSHOT_BEGUN, or SNAPSHOT_RECEIVED and news: the tables are exchanged. A log that does
 * not have the snapshot is reset next, then comes snapshot_install_end(). */
must_check int snapshot_install_exchange(const char *data_dir);
must_check int snapshot_install_end(const char *data_dir);

/* Fiber. Removes a directory with its files, and one level of directories in it. */
must_check int snapshot_remove_directory(const char *path);

#endif
