/*
 * background.h - flushes and compactions: the only writer of tables and of the manifest.
 *
 * Story     Three fibers of the background class: one flushes memtables in order, one compacts, one
 *           removes files that no reader holds. A change goes: write tables, sync them and the
 *           directory, append the edit to the manifest, tell the raft core, which publishes it.
 * Owner     The background core, between lsm_background_start() and lsm_background_stop(); before
 *           and after that lsm_open() and lsm_close() on the raft core.
 *
 * Invariants
 * B1  `levels` is what the manifest says. The raft core holds it too, as the current view's or as
 *     one on its way there, so tables that it names stay open.
 * B2  only the compaction fiber removes tables from levels; a flush only adds to level 0. So tables
 *     chosen by a compaction stay while it runs.
 * B3  one edit at a time (`installing`).
 */
#ifndef STORAGE_LSM_BACKGROUND_H
#define STORAGE_LSM_BACKGROUND_H

#include "core/fiber.h"
#include "storage/lsm/lsm_private.h"
#include "storage/lsm/manifest.h"
#include "storage/lsm/sst_write.h"

#define BACKGROUND_RETRY_NS    (NS_PER_S) /* after any error of a job */
#define BACKGROUND_FLUSHES_MAX 1024

struct background_queue {
    void **items; /* owned, grows; first in, first out */
    uint32_t count, count_max;
};

struct lsm_background {
    struct lsm *lsm;
    struct core *core;
    struct lsm_levels *levels; /* B1 */
    struct manifest manifest;
    uint64_t number_next;

    bool stopping, stop_acknowledged;
    uint32_t fibers; /* still running */
    bool installing;
    struct fiber_waiters install_waiters;
    struct fiber_event stopped; /* a fiber ended, or the raft core answered */

    struct background_queue flushes, removals;
    struct fiber_event flush_event, compact_event, remove_event;

    /* compaction */
    bool compact_all;
    struct background_queue garbage; /* file numbers to look at, as pointers' values */
    struct bytes resume[LSM_LEVELS]; /* owned: where the next pick of the level starts */
    uint64_t quiet_ns;               /* flushes have ended, unless one comes before this */
    struct timer quiet;              /* looks then */
};

void background_queue_push(struct background_queue *queue, void *item);
void *background_queue_pop(struct background_queue *queue);

/* The tables of a job: finished ones, and one under construction. */
struct background_output {
    struct lsm_table **tables; /* owned list; what becomes of the tables says who keeps it */
    uint32_t count;
    uint64_t bytes;            /* of their files */
    uint64_t settled;          /* for each of them */
    struct sst_writer *writer; /* NULL until a row arrives */
    uint64_t number;
    char path[LSM_PATH_BYTES_MAX];
};

/* [fiber] Adds a row, beginning a table when there is none. */
must_check int background_output_add(struct lsm_background *background,
                                     struct background_output *output, uint32_t level,
                                     const struct lsm_row *row);
/* [fiber] Finishes and opens the table under construction, if there is one. */
must_check int background_output_finish(struct background_output *output);
void background_output_push(struct background_output *output, struct lsm_table *table);
/* [fiber] The tables are somebody else's when `installed`; else their files are removed. */
void background_output_end(struct background_output *output, bool installed);

/* [fiber] Makes the edit durable and passes it on. Takes over what `install` points to (which is
 * malloc'ed); `record` holds the edit without the file number. An error: a manifest was due and
 * could not be started, nothing of it happened. Stops the process when it cannot know that. */
must_check int background_install(struct lsm_background *background, struct lsm_install *install,
                                  struct manifest_record *record,
                                  void (*change)(struct lsm_levels *levels, void *context),
                                  void *context);

/* Tells the raft core that work failed; 0: that what failed is not due any more. */
void background_tell(struct lsm_background *background, enum lsm_work work, int status);

/* [fiber] After an error of a job: tells it, logs it and waits before the next try, which takes a
 * new file. What that cannot mend has stopped the process before (background_install()). */
void background_wait_after(struct lsm_background *background, enum lsm_work work, int status);

/* compact.c: the body of the compaction fiber */
void background_compact_loop(struct lsm_background *background);

/* Wraps the filter of the options: whether to keep each row of a merge, in order. */
struct background_filter {
    const struct lsm_filter *filter; /* or NULL */
    void *job;
    uint8_t *key; /* owned: of the row before */
    size_t key_bytes, key_max;
    struct lsm_version version;
    bool has_row;
    uint64_t dropped;
};

/* Rows that a merge of the table alone is worth for. `settled`: of the table; 0 where tombstones
 * may go that could not when it was written. */
uint64_t background_droppable(const struct lsm_background *background,
                              const struct lsm_table *table, uint64_t settled);

/* A job begins that writes `output`. */
void background_filter_begin(struct background_filter *filter, const struct lsm_filter *from,
                             struct background_output *output);
bool background_filter_same_key(const struct background_filter *filter, struct bytes key);
bool background_filter_keep(struct background_filter *filter, const struct lsm_row *row,
                            bool bottom);
void background_filter_end(struct background_filter *filter);

#endif
