#include "storage/lsm/lsm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/logger.h"
#include "storage/lsm/bloom.h"
#include "storage/lsm/lsm_private.h"

/* Reference counts are per levels object; a level 0 this deep is a bug, not a load. */
#define LSM_LEVEL0_TABLES_MAX 100000

/* Once may be a moment. */
#define LSM_FAILURES_MIN 2

void lsm_post(struct lsm *lsm, struct core *from, uint32_t to, enum lsm_message kind,
              uint32_t small, void *pointer)
{
    struct mesh_message message = {
        .kind = (uint16_t)(lsm->options.message_kind_base + (uint16_t)kind),
        .small = small,
        .word = {(uint64_t)(uintptr_t)pointer},
    };
    core_post(from, to, &message);
}

void lsm_path(char *path, const char *dir, const char *format, uint64_t number)
{
    int length = snprintf(path, LSM_PATH_BYTES_MAX, "%s/", dir);
    invariant(length > 0 && length < LSM_PATH_BYTES_MAX - 64);
    snprintf(path + length, LSM_PATH_BYTES_MAX - (size_t)length, format, number);
}

/* ---- views: made, published and reclaimed by the raft core --------------------------------------
 */

static struct lsm_view *lsm_view_current(const struct lsm *lsm)
{
    return atomic_load_explicit(&((struct lsm *)(uintptr_t)lsm)->view, memory_order_relaxed);
}

/* A view of `memtables` (youngest first) and `levels`; takes references on all of them. */
static struct lsm_view *lsm_view_create(struct lsm *lsm, struct memtable **memtables,
                                        uint32_t memtable_count, struct lsm_levels *levels)
{
    size_t bytes = sizeof(struct lsm_view) + memtable_count * sizeof(memtables[0]);
    struct lsm_view *view = calloc(1, bytes);
    _Atomic uint8_t *held = calloc(lsm->options.core_count, sizeof(held[0]));
    if (view == NULL || held == NULL)
        fatal("out of memory for a view of the store");
    view->sequence = ++lsm->view_sequence;
    view->held = held;
    view->levels = levels;
    if (levels->views++ == 0)
        for (uint32_t level = 0; level < LSM_LEVELS; level++)
            for (uint32_t i = 0; i < levels->level[level].count; i++)
                levels->level[level].tables[i]->references++;
    view->memtable_count = memtable_count;
    for (uint32_t i = 0; i < memtable_count; i++) {
        view->memtables[i] = memtables[i];
        memtables[i]->views++;
    }
    return view;
}

static void lsm_table_dead(struct lsm *lsm, struct lsm_table *table)
{
    if (lsm->background_running) {
        lsm_post(lsm, lsm->core, lsm->background_core, LSM_MESSAGE_REMOVE, 0, table);
        return;
    }
    if (lsm->dead_count == lsm->dead_count_max) {
        lsm->dead_count_max = lsm->dead_count_max * 2 + 16;
        lsm->dead = realloc(lsm->dead, lsm->dead_count_max * sizeof(lsm->dead[0]));
        if (lsm->dead == NULL)
            fatal("out of memory for %u removed tables", lsm->dead_count_max);
    }
    lsm->dead[lsm->dead_count++] = table;
}

static void lsm_levels_drop(struct lsm *lsm, struct lsm_levels *levels)
{
    invariant(levels->views > 0);
    if (--levels->views > 0)
        return;
    for (uint32_t level = 0; level < LSM_LEVELS; level++)
        for (uint32_t i = 0; i < levels->level[level].count; i++) {
            struct lsm_table *table = levels->level[level].tables[i];
            invariant(table->references > 0);
            if (--table->references == 0)
                lsm_table_dead(lsm, table);
        }
    lsm_levels_free(levels);
}

static void lsm_view_free(struct lsm *lsm, struct lsm_view *view)
{
    for (uint32_t i = 0; i < view->memtable_count; i++) {
        struct memtable *memtable = view->memtables[i];
        invariant(memtable->views > 0);
        if (--memtable->views == 0)
            memtable_destroy(memtable);
    }
    lsm_levels_drop(lsm, view->levels);
    free((void *)view->held);
    free(view);
}

static bool lsm_view_is_held(const struct lsm *lsm, const struct lsm_view *view)
{
    for (uint32_t core = 0; core < lsm->options.core_count; core++) {
        if (atomic_load(&lsm->slots[core].floor) <= view->sequence)
            return true;
        if (atomic_load_explicit(&view->held[core], memory_order_acquire) != 0)
            return true;
    }
    return false;
}

void lsm_view_release(struct lsm *lsm)
{
    struct lsm_view *current = lsm_view_current(lsm);
    struct lsm_view **link = &lsm->oldest;
    while (*link != current) {
        struct lsm_view *view = *link;
        if (lsm_view_is_held(lsm, view)) {
            sometimes(view->newer != current,
                      "lsm: a reader holds a view that is not the last but one");
            link = &view->newer;
            continue;
        }
        *link = view->newer;
        lsm_view_free(lsm, view);
    }
}

static void lsm_view_publish(struct lsm *lsm, struct lsm_view *view)
{
    struct lsm_view *previous = lsm_view_current(lsm);
    if (previous == NULL) {
        lsm->oldest = view;
    } else {
        invariant(view->sequence > previous->sequence && previous->newer == NULL);
        previous->newer = view;
    }
    atomic_store(&lsm->view, view); /* sequentially consistent: see V3 */
    for (uint32_t core = 0; core < lsm->options.core_count; core++)
        if (atomic_load(&lsm->slots[core].floor) != UINT64_MAX)
            lsm_post(lsm, lsm->core, core, LSM_MESSAGE_VIEW, 0, NULL);
    lsm_view_release(lsm);
}

/* ---- memtables and their way to disk ------------------------------------------------------------
 */

static struct memtable *lsm_memtable_begin(struct lsm *lsm)
{
    struct bytes common = bytes_make(&lsm->options.point_table, lsm->options.point_table != 0);
    if (lsm->active != NULL)
        common = memtable_common(lsm->active);
    struct memtable *memtable =
        memtable_create(&(struct memtable_options){.bytes_target = lsm->options.memtable_bytes,
                                                   .seed = prng_next(&lsm->prng),
                                                   .point_table = lsm->options.point_table,
                                                   .common = common});
    if (memtable == NULL)
        fatal("out of memory for a memtable");
    memtable->id = ++lsm->memtable_id;
    return memtable;
}

/* Memtables leave in order, each once the node's own log covers it. */
static void lsm_flush_ready(struct lsm *lsm)
{
    if (!lsm->background_running)
        return;
    struct lsm_view *view = lsm_view_current(lsm);
    for (uint32_t i = view->memtable_count; i-- > 1;) {
        struct memtable *memtable = view->memtables[i];
        if (memtable->flush_sent)
            continue;
        if (memtable->applied_index > lsm->durable_index) {
            sometimes(true, "lsm: a flush waits for the log");
            return;
        }
        memtable->flush_sent = true;
        lsm_post(lsm, lsm->core, lsm->background_core, LSM_MESSAGE_FLUSH, 0, memtable);
    }
}

static void lsm_rotate(struct lsm *lsm)
{
    struct lsm_view *view = lsm_view_current(lsm);
    struct memtable *memtables[view->memtable_count + 1];
    invariant(lsm->active == view->memtables[0] && lsm->active->row_count > 0);
    invariant(!lsm->batch_open); /* a table holds exactly what its applied index says */
    lsm->active->applied_index = lsm->applied_index;
    lsm->active->applied_term = lsm->applied_term;
    lsm->rotated_index = lsm->applied_index;
    lsm->active = lsm_memtable_begin(lsm);
    memtables[0] = lsm->active;
    memcpy(memtables + 1, view->memtables, view->memtable_count * sizeof(memtables[0]));
    lsm_view_publish(lsm, lsm_view_create(lsm, memtables, view->memtable_count + 1, view->levels));
    lsm_flush_ready(lsm);
}

void lsm_commit(struct lsm *lsm, uint64_t applied_index, uint64_t term)
{
    invariant(applied_index >= lsm->applied_index && term >= lsm->applied_term);
    lsm->applied_index = applied_index;
    lsm->applied_term = term;
    lsm->batch_open = false;
    bool full = atomic_load_explicit(&lsm->active->bytes, memory_order_relaxed) >=
                lsm->options.memtable_bytes;
    if (full || lsm->rotation_wanted)
        lsm_flush_begin(lsm);
}

void lsm_set_durable_index(struct lsm *lsm, uint64_t index)
{
    if (index <= lsm->durable_index)
        return;
    lsm->durable_index = index;
    if (lsm_view_current(lsm)->memtable_count > 1)
        lsm_flush_ready(lsm);
}

void lsm_flush_begin(struct lsm *lsm)
{
    /* Asked for while the apply fiber waits inside a batch: at its end. */
    lsm->rotation_wanted = lsm->batch_open;
    if (!lsm->batch_open && lsm->active->row_count > 0)
        lsm_rotate(lsm);
}

static void lsm_request(struct lsm *lsm, enum lsm_request request)
{
    if (lsm->background_running)
        lsm_post(lsm, lsm->core, lsm->background_core, LSM_MESSAGE_REQUEST, (uint32_t)request,
                 NULL);
}

void lsm_garbage_changed(struct lsm *lsm)
{
    lsm_request(lsm, LSM_REQUEST_GARBAGE);
}

void lsm_compact_all(struct lsm *lsm)
{
    lsm_request(lsm, LSM_REQUEST_COMPACT_ALL);
}

uint64_t lsm_flushed_index(const struct lsm *lsm)
{
    return lsm->flushed_index;
}

void lsm_applied(const struct lsm *lsm, uint64_t *index, uint64_t *term)
{
    *index = lsm->recovered_index;
    *term = lsm->recovered_term;
}

uint32_t lsm_pressure(const struct lsm *lsm)
{
    const struct lsm_view *view = lsm_view_current(lsm);
    uint64_t waiting = view->memtable_count - 1; /* immutable */
    uint64_t memory = waiting * 100 / (lsm->options.memtables_max - 1);
    uint64_t tables = view->levels->level[0].count;
    uint64_t trigger = lsm->options.level0_tables;
    uint64_t disk =
        tables <= trigger ? 0 : (tables - trigger) * 100 / (trigger * (LSM_LEVEL0_FULL_FACTOR - 1));
    return (uint32_t)u64_min(LSM_PRESSURE_STOP, u64_max(memory, disk));
}

uint64_t lsm_installs(const struct lsm *lsm)
{
    return lsm->counters.flushes + lsm->counters.compactions;
}

int lsm_failure(const struct lsm *lsm)
{
    for (uint32_t work = 0; work < LSM_WORK_COUNT; work++)
        if (lsm->failed[work].times >= LSM_FAILURES_MIN)
            return lsm->failed[work].error;
    return 0;
}

/* ---- writing ---------------------------------------------------------------------------------
 */

void lsm_insert(struct lsm *lsm, struct bytes key, struct lsm_version version, enum lsm_kind kind,
                struct bytes value)
{
    memtable_insert(lsm->active, key, version, kind, value);
    lsm->batch_open = true;
}

void lsm_prefetch(const struct lsm *lsm, const struct bytes *keys, uint32_t count)
{
    for (uint32_t done = 0; done < count; done += MEMTABLE_PREFETCH_MAX)
        memtable_prefetch(lsm->active, keys + done,
                          (uint32_t)u64_min(count - done, MEMTABLE_PREFETCH_MAX));
}

int lsm_find_newest_in_memory(struct lsm *lsm, struct bytes key, struct lsm_row *row)
{
    const struct lsm_view *view = lsm_view_current(lsm);
    const struct memtable_version *found = NULL;
    uint64_t hash = bloom_hash(key);
    for (uint32_t i = 0; found == NULL && i < view->memtable_count; i++)
        found = memtable_find(view->memtables[i], key, hash, LSM_VERSION_MAX);
    if (found == NULL)
        return ERR_NOT_FOUND;
    memtable_row(found, row);
    return 0;
}

/* ---- messages from the background and from readers ----------------------------------------------
 */

static void lsm_on_released(void *context, struct core *core, const struct mesh_message *message)
{
    (void)core, (void)message;
    lsm_view_release(context);
}

static void lsm_on_started(void *context, struct core *core, const struct mesh_message *message)
{
    (void)core;
    struct lsm *lsm = context;
    invariant(!lsm->background_running);
    lsm->background_running = true;
    lsm->background_core = message->from;
    for (uint32_t i = 0; i < lsm->dead_count; i++)
        lsm_table_dead(lsm, lsm->dead[i]);
    lsm->dead_count = 0;
    lsm_flush_ready(lsm);
}

static void lsm_on_stopped(void *context, struct core *core, const struct mesh_message *message)
{
    (void)core, (void)message;
    struct lsm *lsm = context;
    const struct lsm_view *view = lsm_view_current(lsm);
    for (uint32_t i = 1; i < view->memtable_count; i++)
        view->memtables[i]->flush_sent = false; /* a later start gets them again */
    lsm_request(lsm, LSM_REQUEST_STOP_SEEN);
    lsm->background_running = false;
}

static void lsm_count_install(struct lsm *lsm, const struct lsm_install *install)
{
    struct lsm_stats *counters = &lsm->counters;
    if (install->is_compaction) {
        counters->compactions++;
        counters->trivial_moves += install->trivial;
        counters->compaction_read_bytes += install->read_bytes;
        counters->compaction_write_bytes += install->write_bytes;
        counters->rows_dropped += install->rows_dropped;
        counters->compaction_ns += install->duration_ns;
        histogram_record(&lsm->compaction_duration_ns, install->duration_ns);
    } else {
        counters->flushes++;
        counters->flush_bytes += install->write_bytes;
        counters->flush_ns += install->duration_ns;
        histogram_record(&lsm->flush_duration_ns, install->duration_ns);
    }
}

static void lsm_on_install(void *context, struct core *core, const struct mesh_message *message)
{
    (void)core;
    struct lsm *lsm = context;
    struct lsm_install *install = (void *)(uintptr_t)message->word[0];
    struct lsm_view *view = lsm_view_current(lsm);
    uint32_t count = view->memtable_count;
    if (install->flushed != NULL) {
        /* Flushes finish in order, so it is the eldest. */
        invariant(count > 1 && view->memtables[count - 1] == install->flushed);
        invariant(install->levels->flushed_index >= lsm->flushed_index);
        install->flushed->flushed = true;
        count--;
    }
    invariant(install->levels->level[0].count < LSM_LEVEL0_TABLES_MAX);
    verify((lsm_levels_check(install->levels), true));
    lsm->flushed_index = install->levels->flushed_index;
    lsm->failed[install->is_compaction ? LSM_WORK_MERGE : LSM_WORK_FLUSH].times = 0;
    lsm_count_install(lsm, install);
    lsm_view_publish(lsm, lsm_view_create(lsm, view->memtables, count, install->levels));
    free(install);
}

static void lsm_on_failed(void *context, struct core *core, const struct mesh_message *message)
{
    (void)core;
    struct lsm *lsm = context;
    invariant(message->small < LSM_WORK_COUNT);
    struct lsm_failed *failed = &lsm->failed[message->small];
    failed->error = -(int)message->word[0];
    failed->times = failed->error == 0 ? 0 : failed->times + 1;
}

static void lsm_on_nothing(void *context, struct core *core, const struct mesh_message *message)
{
    (void)context, (void)core, (void)message;
}

static void lsm_handle(struct lsm *lsm, enum lsm_message kind, core_message_handler *handler)
{
    core_handle(lsm->core, (uint16_t)(lsm->options.message_kind_base + (uint16_t)kind),
                handler == NULL ? lsm_on_nothing : handler, lsm);
}

/* ---- life ------------------------------------------------------------------------------------
 */

static void lsm_options_fill(struct lsm_options *options)
{
#define FILL(field, value)                                                                         \
    if (options->field == 0)                                                                       \
    options->field = (value)
    FILL(memtable_bytes, 64 * MIB);
    FILL(memtables_max, 4);
    FILL(block_cache_bytes_per_core, 32 * MIB);
    FILL(block_bytes, 4096);
    FILL(table_bytes, 32 * MIB);
    FILL(level_ratio, 10);
    FILL(level0_tables, 4);
    FILL(level0_wait_ns, NS_PER_S);
    FILL(level_base_bytes, u64_max(256 * MIB, options->level0_tables * options->memtable_bytes));
    FILL(bloom_bits_per_key, 10);
#undef FILL
    invariant(options->memtables_max >= 2 && options->level_ratio >= 2);
    invariant(options->core_count > 0 && options->core_count <= MESH_CORES_MAX);
}

/* Takes over `levels` when it returns 0. */
int lsm_create(struct core *core, const struct lsm_options *options, struct lsm_levels *levels,
               struct lsm **result)
{
    struct lsm *lsm = aligned_alloc(CACHE_LINE_BYTES, u64_round_up(sizeof(*lsm), CACHE_LINE_BYTES));
    if (lsm == NULL)
        return -ENOMEM;
    memset(lsm, 0, sizeof(*lsm));
    lsm->options = *options;
    lsm_options_fill(&lsm->options);
    lsm->core = core;
    lsm->dir = strdup(options->dir);
    lsm->options.dir = lsm->dir;
    size_t slots_bytes = lsm->options.core_count * sizeof(lsm->slots[0]);
    lsm->slots = aligned_alloc(CACHE_LINE_BYTES, slots_bytes);
    if (lsm->dir == NULL || lsm->slots == NULL)
        fatal("out of memory for the store");
    memset(lsm->slots, 0, slots_bytes);
    for (uint32_t i = 0; i < lsm->options.core_count; i++) {
        lsm->slots[i].lsm = lsm;
        atomic_init(&lsm->slots[i].floor, UINT64_MAX);
    }
    prng_init(&lsm->prng, options->random_seed);
    histogram_init(&lsm->flush_duration_ns);
    histogram_init(&lsm->compaction_duration_ns);
    lsm->recovered_index = levels->flushed_index;
    lsm->recovered_term = levels->flushed_term;
    lsm->flushed_index = lsm->rotated_index = lsm->applied_index = levels->flushed_index;
    lsm->applied_term = levels->flushed_term;
    lsm->active = lsm_memtable_begin(lsm);
    lsm_view_publish(lsm, lsm_view_create(lsm, &lsm->active, 1, levels));
    lsm_handle(lsm, LSM_MESSAGE_RELEASED, lsm_on_released);
    lsm_handle(lsm, LSM_MESSAGE_STARTED, lsm_on_started);
    lsm_handle(lsm, LSM_MESSAGE_STOPPED, lsm_on_stopped);
    lsm_handle(lsm, LSM_MESSAGE_INSTALL, lsm_on_install);
    lsm_handle(lsm, LSM_MESSAGE_FAILED, lsm_on_failed);
    *result = lsm;
    return 0;
}

void lsm_close(struct lsm *lsm)
{
    invariant(!lsm->background_running);
    for (uint32_t i = 0; i < lsm->options.core_count; i++)
        invariant(atomic_load(&lsm->slots[i].floor) == UINT64_MAX);
    lsm_view_release(lsm);
    struct lsm_view *view = lsm_view_current(lsm);
    invariant(lsm->oldest == view && view->newer == NULL);
    lsm_background_destroy(lsm);
    for (uint32_t i = 0; i < lsm->dead_count; i++)
        lsm_table_close(lsm->dead[i], true);
    lsm->dead_count = 0;
    lsm_view_free(lsm, view); /* its tables end on the dead list, and stay on disk */
    for (uint32_t i = 0; i < lsm->dead_count; i++)
        lsm_table_close(lsm->dead[i], false);
    for (enum lsm_message kind = LSM_MESSAGE_VIEW; kind < LSM_MESSAGE_COUNT; kind++)
        if (kind == LSM_MESSAGE_RELEASED || kind == LSM_MESSAGE_STARTED ||
            kind == LSM_MESSAGE_STOPPED || kind == LSM_MESSAGE_INSTALL ||
            kind == LSM_MESSAGE_FAILED)
            lsm_handle(lsm, kind, NULL);
    free(lsm->dead);
    free(lsm->slots);
    free(lsm->dir);
    free(lsm);
}

/* ---- numbers ---------------------------------------------------------------------------------
 */

static void lsm_stats_level(const struct lsm_levels *levels, uint32_t level,
                            struct lsm_stats *stats)
{
    struct lsm_level_stats *to = &stats->levels[level];
    to->tables = levels->level[level].count;
    for (uint32_t i = 0; i < to->tables; i++) {
        const struct lsm_table *table = levels->level[level].tables[i];
        to->bytes += table->file_bytes;
        to->rows += table->properties.rows;
        to->superseded_rows += table->properties.superseded;
        stats->logical_bytes += table->properties.key_bytes + table->properties.value_bytes;
        stats->filter_index_bytes += table->bloom.size + table->top_index.size;
    }
    stats->table_bytes += to->bytes;
}

void lsm_stats(const struct lsm *lsm, struct lsm_stats *stats)
{
    const struct lsm_view *view = lsm_view_current(lsm);
    *stats = lsm->counters;
    uint64_t target = lsm->options.level_base_bytes;
    for (uint32_t level = 0; level < LSM_LEVELS; level++) {
        lsm_stats_level(view->levels, level, stats);
        if (level == 0) {
            if (stats->levels[0].tables >= lsm->options.level0_tables)
                stats->debt_bytes += stats->levels[0].bytes;
        } else if (level < LSM_LEVELS - 1) {
            if (stats->levels[level].bytes > target)
                stats->debt_bytes += stats->levels[level].bytes - target;
            target *= lsm->options.level_ratio;
        }
    }
    stats->memtables = view->memtable_count;
    for (uint32_t i = 0; i < view->memtable_count; i++) {
        struct memtable *memtable = view->memtables[i];
        stats->memtable_bytes += atomic_load_explicit(&memtable->bytes, memory_order_relaxed);
        stats->logical_bytes +=
            atomic_load_explicit(&memtable->logical_bytes, memory_order_relaxed);
    }
    for (const struct lsm_view *held = lsm->oldest; held != NULL; held = held->newer)
        stats->views_held++;
    stats->flushed_index = lsm->flushed_index;
    stats->rotated_index = lsm->rotated_index;
    stats->durable_index = lsm->durable_index;
    stats->flush_duration_ns = &lsm->flush_duration_ns;
    stats->compaction_duration_ns = &lsm->compaction_duration_ns;
}
