/*
 * apply.h - the apply loop: one fiber of the raft core executes committed entries in log order.
 *
 * Story     Entries come from consensus' window, or, after a restart, from the log on disk. A batch
 *           is executed against storage/mvcc, committed to the memtable as one unit with its
 *           applied index, and only then reported: replies leave and waiting reads go on. Between
 *           two batches the loop waits while the tables are LSM_PRESSURE_STOP behind, as they are
 *           on a member whose disk is slower than the leader's, or full: what waits is in the log,
 *           and takes memory for its sizes only. Only a flush or a merge ends that, and neither
 *           needs the loop.
 * Owner     The raft core. Only writer of the state machine.
 * Errors    An error of the request itself is its result. An error of the storage (a block that
 *           cannot be read) stops the loop and the process: the state machine must not skip an
 *           entry.
 * Limits    APPLY_BATCH_MAX entries between two commits.
 */
#ifndef SERVER_APPLY_H
#define SERVER_APPLY_H

#include "core/core.h"
#include "core/entry.h"
#include "storage/lsm/lsm.h"

#define APPLY_BATCH_MAX 256

struct apply;
struct node;
struct raft_driver;

must_check int apply_start(struct node *node, struct raft_driver *raft, struct core *core,
                           uint64_t applied_index, struct apply **apply);
void apply_stop(struct apply *apply); /* fiber; returns when the loop has ended */
void apply_destroy(struct apply *apply);

/* Everything up to `index` is committed and durable here. */
void apply_extend(struct apply *apply, uint64_t index);

uint64_t apply_index(const struct apply *apply); /* executed and visible to readers */
bool apply_waits(const struct apply *apply);     /* for the tables */

#endif
