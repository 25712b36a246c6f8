/*
 * checkpoint.h - the tables of one instant as a store of their own: hard links and a manifest.
 *
 * Story     Tables are immutable, so a copy of the store is a directory of links to them and a
 *           manifest that names them. What is only in memtables is not in it: the log has it. The
 *           directory opens with lsm_open() like any other.
 * Owner     The raft core; a fiber of it. The store goes on meanwhile.
 * Durable   When it returns 0, every name is.
 * Errors    -errno; what was made so far is left for the caller to remove.
 */
#ifndef STORAGE_LSM_CHECKPOINT_H
#define STORAGE_LSM_CHECKPOINT_H

#include "storage/lsm/lsm.h"

/* `reader` is the raft core's; `dir` does not exist. It holds everything up to *index, of *term. */
must_check int lsm_checkpoint(struct lsm *lsm, struct lsm_reader *reader, const char *dir,
                              uint64_t *index, uint64_t *term);

/* Any core's fiber. Reads every block of the checkpoint in `dir`, by name, size and checksum, and
 * compares what it holds with index and term: 0, ERR_CORRUPT (logged with file and reason), -errno,
 * or ERR_CANCELED soon after `*cancel` became true. Changes nothing. */
must_check int lsm_checkpoint_verify(const char *dir, uint64_t index, uint64_t term,
                                     const bool *cancel);

/* Any core's fiber. What the store in `dir`, which is not open, holds; 0 when there is none. */
must_check int lsm_stored_index(const char *dir, uint64_t *index);

/* What a checkpoint made now would hold. */
void lsm_checkpoint_position(const struct lsm *lsm, uint64_t *index, uint64_t *term);

#endif
