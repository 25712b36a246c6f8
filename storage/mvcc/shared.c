/* The published state of the store, and the compaction filter that acts on it. */
#include "storage/mvcc/mvcc_private.h"

#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"

/* ---- filter: background core --------------------------------------------------------------------
 */

struct filter_job {
    int64_t purge_below;
};

static void *filter_begin(void *context)
{
    struct mvcc_shared *shared = context;
    struct filter_job *job = malloc(sizeof(*job));
    if (job == NULL)
        fatal("out of memory for a compaction");
    job->purge_below = atomic_load_explicit(&shared->purge_below, memory_order_acquire);
    return job;
}

static void filter_end(void *job)
{
    free(job);
}

static uint64_t filter_watermark(void *context)
{
    const struct filter_job *job = context;
    return job->purge_below < 0 ? 0 : (uint64_t)job->purge_below;
}

/* For each key: every version above the watermark, the newest at or below it unless that is a
 * tombstone, and a tombstone exactly at it (a watch from there still needs the event). */
static bool filter_keep_key(const struct lsm_filter_row *filtered, int64_t purge_below)
{
    const struct lsm_row *row = filtered->row;
    if (purge_below < 0 || row->version.main > (uint64_t)purge_below)
        return true;
    if (filtered->newer_exists && filtered->newer_version.main <= (uint64_t)purge_below)
        return false;
    if (row->kind == LSM_VALUE || row->version.main == (uint64_t)purge_below)
        return true;
    /* Older versions outside this merge would come back to life without their tombstone. */
    return !filtered->bottom && !planted_bug(tombstone_not_bottom);
}

static bool filter_keep(void *context, const struct lsm_filter_row *filtered)
{
    const struct filter_job *job = context;
    const struct lsm_row *row = filtered->row;
    invariant(row->key.size != 0);
    switch (row->key.data[0]) {
    case MVCC_TABLE_KEYS:
        return filter_keep_key(filtered, job->purge_below);
    case MVCC_TABLE_HISTORY:
        return job->purge_below < 0 || row->version.main >= (uint64_t)job->purge_below;
    case MVCC_TABLE_LEASES:
    case MVCC_TABLE_META:
        /* Only ever read at their newest. */
        return !filtered->newer_exists && (row->kind == LSM_VALUE || !filtered->bottom);
    default:
        return true;
    }
}

/* Of `rows` with versions spread evenly over [first, last], those up to `below`. */
static uint64_t share_below(uint64_t rows, uint64_t first, uint64_t last, int64_t below)
{
    if (below < 0 || first > (uint64_t)below || first > last)
        return 0;
    if ((uint64_t)below >= last)
        return rows;
    return (uint64_t)((double)rows * (double)((uint64_t)below - first + 1) /
                      (double)(last - first + 1));
}

/* As filter_keep() decides, by what is known of the table: its rows of `k` are counted, not when
 * they were superseded, and nothing supersedes history. But what superseded them, when the table
 * was written, is above the watermark of then: a table is not worth a merge again before the
 * watermark has moved, nor for tombstones that it had to keep. */
static uint64_t filter_droppable(void *context, const struct lsm_filter_table *table)
{
    struct mvcc_shared *shared = context;
    int64_t below = atomic_load_explicit(&shared->purge_below, memory_order_acquire);
    uint64_t stale = table->superseded + table->tombstones;
    uint8_t first = table->smallest.data[0], last = table->largest.data[0];
    if (first == MVCC_TABLE_HISTORY)
        return share_below(table->rows, table->version_first, table->version_last, below - 1);
    /* Whatever the watermark; and their versions need not be revisions. */
    if (first > MVCC_TABLE_KEYS && last <= MVCC_TABLE_META)
        return table->settled > 0 ? 0 : stale;
    return share_below(stale, u64_max(table->version_first, table->settled + 1),
                       table->version_last, below);
}

void mvcc_configure_lsm(struct mvcc_shared *shared, struct lsm_options *options)
{
    shared->filter = (struct lsm_filter){.context = shared,
                                         .begin = filter_begin,
                                         .keep = filter_keep,
                                         .end = filter_end,
                                         .droppable = filter_droppable,
                                         .watermark = filter_watermark};
    options->filter = &shared->filter;
    options->point_table = MVCC_TABLE_KEYS;
}

/* ---- state --------------------------------------------------------------------------------------
 */

struct mvcc_shared *mvcc_shared_create(void)
{
    struct mvcc_shared *shared = aligned_alloc(CACHE_LINE_BYTES, sizeof(*shared));
    if (shared == NULL)
        return NULL;
    memset(shared, 0, sizeof(*shared));
    atomic_init(&shared->revision, MVCC_FIRST_REVISION);
    atomic_init(&shared->compacted, MVCC_NEVER_COMPACTED);
    atomic_init(&shared->purge_below, MVCC_NEVER_COMPACTED);
    return shared;
}

void mvcc_shared_destroy(struct mvcc_shared *shared)
{
    free(shared);
}

/* Release stores in between keep the odd sequence first; the last one publishes the rows too. */
void mvcc_shared_publish(struct mvcc_shared *shared, const struct mvcc_stats *stats)
{
    uint64_t sequence = atomic_load_explicit(&shared->sequence, memory_order_relaxed);
    invariant((sequence & 1) == 0 && stats->compacted <= stats->revision);
    invariant(stats->revision >= atomic_load_explicit(&shared->revision, memory_order_relaxed));
    invariant(stats->compacted >= atomic_load_explicit(&shared->compacted, memory_order_relaxed));
    atomic_store_explicit(&shared->sequence, sequence + 1, memory_order_relaxed);
    atomic_store_explicit(&shared->revision, stats->revision, memory_order_release);
    atomic_store_explicit(&shared->compacted, stats->compacted, memory_order_release);
    atomic_store_explicit(&shared->applied_index, stats->applied_index, memory_order_release);
    atomic_store_explicit(&shared->key_count, stats->key_count, memory_order_release);
    atomic_store_explicit(&shared->size_bytes, stats->size_bytes, memory_order_release);
    atomic_store_explicit(&shared->size_in_use_bytes, stats->size_in_use_bytes,
                          memory_order_release);
    atomic_store_explicit(&shared->sequence, sequence + 2, memory_order_release);
}

struct mvcc_stats mvcc_shared_stats(const struct mvcc_shared *shared)
{
    struct mvcc_stats stats;
    uint64_t before, after;
    do {
        before = atomic_load_explicit(&shared->sequence, memory_order_acquire);
        stats.revision = atomic_load_explicit(&shared->revision, memory_order_acquire);
        stats.compacted = atomic_load_explicit(&shared->compacted, memory_order_acquire);
        stats.applied_index = atomic_load_explicit(&shared->applied_index, memory_order_acquire);
        stats.key_count = atomic_load_explicit(&shared->key_count, memory_order_acquire);
        stats.size_bytes = atomic_load_explicit(&shared->size_bytes, memory_order_acquire);
        stats.size_in_use_bytes =
            atomic_load_explicit(&shared->size_in_use_bytes, memory_order_acquire);
        after = atomic_load_explicit(&shared->sequence, memory_order_relaxed);
    } while ((before & 1) != 0 || before != after);
    return stats;
}

struct mvcc_state mvcc_shared_state(const struct mvcc_shared *shared)
{
    struct mvcc_state state;
    uint64_t before, after;
    do {
        before = atomic_load_explicit(&shared->sequence, memory_order_acquire);
        state.revision = atomic_load_explicit(&shared->revision, memory_order_acquire);
        state.compacted = atomic_load_explicit(&shared->compacted, memory_order_acquire);
        state.applied_index = atomic_load_explicit(&shared->applied_index, memory_order_acquire);
        after = atomic_load_explicit(&shared->sequence, memory_order_relaxed);
    } while ((before & 1) != 0 || before != after);
    return state;
}
