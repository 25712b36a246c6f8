#include "storage/lsm/background.h"

#include <errno.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/logger.h"

#define BACKGROUND_YIELD_ROWS 32

/* ---- queues ----------------------------------------------------------------------------------
 */

void background_queue_push(struct background_queue *queue, void *item)
{
    if (queue->count == queue->count_max) {
        queue->count_max = queue->count_max * 2 + 16;
        queue->items = realloc(queue->items, queue->count_max * sizeof(queue->items[0]));
        if (queue->items == NULL)
            fatal("out of memory for a background queue");
    }
    queue->items[queue->count++] = item;
}

void *background_queue_pop(struct background_queue *queue)
{
    if (queue->count == 0)
        return NULL;
    void *item = queue->items[0];
    queue->count--;
    memmove(queue->items, queue->items + 1, queue->count * sizeof(queue->items[0]));
    return item;
}

/* ---- filter ----------------------------------------------------------------------------------
 */

uint64_t background_droppable(const struct lsm_background *background,
                              const struct lsm_table *table, uint64_t settled)
{
    const struct lsm_filter *filter = background->lsm->options.filter;
    const struct sst_properties *properties = &table->properties;
    if (filter == NULL)
        return 0;
    if (filter->droppable == NULL)
        return properties->superseded + properties->tombstones;
    struct lsm_filter_table facts = {.smallest = table->smallest,
                                     .largest = table->largest,
                                     .version_first = properties->version_first,
                                     .version_last = properties->version_last,
                                     .rows = properties->rows,
                                     .tombstones = properties->tombstones,
                                     .superseded = properties->superseded,
                                     .settled = settled};
    return filter->droppable(filter->context, &facts);
}

void background_filter_begin(struct background_filter *filter, const struct lsm_filter *from,
                             struct background_output *output)
{
    memset(filter, 0, sizeof(*filter));
    filter->filter = from;
    if (from != NULL)
        filter->job = from->begin(from->context);
    if (from != NULL && from->watermark != NULL)
        output->settled = from->watermark(filter->job);
}

bool background_filter_same_key(const struct background_filter *filter, struct bytes key)
{
    return filter->has_row && bytes_equal(bytes_make(filter->key, filter->key_bytes), key);
}

bool background_filter_keep(struct background_filter *filter, const struct lsm_row *row,
                            bool bottom)
{
    bool same = background_filter_same_key(filter, row->key);
    struct lsm_filter_row question = {.row = row,
                                      .newer_exists = same,
                                      .newer_version =
                                          same ? filter->version : (struct lsm_version){0, 0},
                                      .bottom = bottom};
    invariant(!same || lsm_version_compare(row->version, filter->version) < 0);
    if (!same) {
        if (row->key.size > filter->key_max) {
            filter->key_max = u64_max(row->key.size, filter->key_max * 2);
            filter->key = realloc(filter->key, filter->key_max);
            if (filter->key == NULL)
                fatal("out of memory for a key");
        }
        memcpy(filter->key, row->key.data, row->key.size);
        filter->key_bytes = row->key.size;
    }
    filter->version = row->version;
    filter->has_row = true;
    bool keep = filter->filter == NULL || filter->filter->keep(filter->job, &question);
    filter->dropped += !keep;
    return keep;
}

void background_filter_end(struct background_filter *filter)
{
    if (filter->filter != NULL)
        filter->filter->end(filter->job);
    free(filter->key);
    filter->key = NULL;
}

/* ---- outputs ---------------------------------------------------------------------------------
 */

int background_output_add(struct lsm_background *background, struct background_output *output,
                          uint32_t level, const struct lsm_row *row)
{
    if (output->writer == NULL) {
        const struct lsm_options *options = &background->lsm->options;
        output->number = background->number_next++;
        lsm_path(output->path, options->dir, "%06lu.sst", output->number);
        struct sst_writer_options writer = {
            .path = output->path,
            .number = output->number,
            .block_bytes = options->block_bytes,
            .compression = level < 2 ? options->compression_top : options->compression,
            .bloom_bits_per_key = options->bloom_bits_per_key,
        };
        int status = sst_writer_open(&writer, &output->writer);
        if (status < 0) {
            output->writer = NULL;
            return status;
        }
    }
    return sst_writer_add(output->writer, row);
}

void background_output_push(struct background_output *output, struct lsm_table *table)
{
    output->tables = realloc(output->tables, (output->count + 1) * sizeof(output->tables[0]));
    if (output->tables == NULL)
        fatal("out of memory for a list of tables");
    output->tables[output->count++] = table;
}

int background_output_finish(struct background_output *output)
{
    struct lsm_table *table = NULL;
    uint64_t bytes = 0;
    if (output->writer == NULL)
        return 0;
    int status = sst_writer_finish(output->writer, &bytes);
    if (status < 0)
        return status;
    output->writer = NULL;
    /* Read back through the checks that every start makes. */
    status = lsm_table_open(output->path, output->number, &table);
    if (status < 0) {
        int32_t removed = await_unlink(output->path); /* the next try takes another number */
        if (removed < 0)
            log_warn("cannot remove a table", LOG_TEXT("file", output->path), LOG_ERROR(removed));
        return status;
    }
    table->settled = output->settled;
    background_output_push(output, table);
    output->bytes += bytes;
    return 0;
}

void background_output_end(struct background_output *output, bool installed)
{
    if (output->writer != NULL)
        sst_writer_abandon(output->writer);
    for (uint32_t i = 0; i < output->count && !installed; i++)
        lsm_table_close(output->tables[i], true);
    free(output->tables);
    *output = (struct background_output){0};
}

/* ---- installing ------------------------------------------------------------------------------
 */

/* `levels` are what the new manifest starts with. */
static int background_manifest_rotate(struct lsm_background *background,
                                      const struct lsm_levels *levels)
{
    struct manifest next;
    bool uncertain;
    char path[LSM_PATH_BYTES_MAX];
    uint64_t number = background->number_next++;
    int status = manifest_create(&next, background->lsm->dir, number, levels,
                                 background->number_next, &uncertain);
    if (status < 0 && uncertain)
        fatal("cannot start manifest %lu in %s: %s", number, background->lsm->dir,
              err_text(status));
    if (status < 0)
        return status;
    manifest_path(path, background->lsm->dir, background->manifest.number);
    manifest_close(&background->manifest);
    background->manifest = next;
    status = await_unlink(path);
    if (status < 0) /* the next start removes it */
        log_warn("cannot remove a manifest", LOG_TEXT("file", path), LOG_ERROR(status));
    return 0;
}

/* The edit that leads to `levels`, or all of them: durable when it returns 0. */
static int background_write(struct lsm_background *background, struct manifest_record *record,
                            const struct lsm_levels *levels)
{
    manifest_record_next(record, background->number_next);
    if (!manifest_has_room(&background->manifest, record)) {
        sometimes(true, "lsm: the manifest is rotated");
        return background_manifest_rotate(background, levels); /* the snapshot carries the edit */
    }
    int status = manifest_append(&background->manifest, record);
    if (status < 0)
        fatal("cannot append to manifest %lu in %s: %s", background->manifest.number,
              background->lsm->dir, err_text(status));
    return 0;
}

int background_install(struct lsm_background *background, struct lsm_install *install,
                       struct manifest_record *record,
                       void (*change)(struct lsm_levels *levels, void *context), void *context)
{
    while (background->installing)
        fiber_waiters_park(&background->install_waiters);
    background->installing = true; /* B3 */
    const char *dir = background->lsm->dir;
    int status = await_sync_directory(dir);
    if (status < 0)
        fatal("cannot sync %s: %s", dir, err_text(status));
    struct lsm_levels *levels = lsm_levels_copy(background->levels);
    if (levels == NULL)
        fatal("out of memory for the list of tables");
    change(levels, context);
    verify((lsm_levels_check(levels), true));
    invariant(levels->flushed_index >= background->levels->flushed_index);
    status = background_write(background, record, levels);
    if (status == 0) {
        background->levels = levels;
        install->levels = levels;
        lsm_post(background->lsm, background->core, core_id(background->lsm->core),
                 LSM_MESSAGE_INSTALL, 0, install);
    } else {
        lsm_levels_free(levels);
        free(install);
    }
    background->installing = false;
    (void)fiber_waiters_wake_one(&background->install_waiters);
    return status;
}

void background_tell(struct lsm_background *background, enum lsm_work work, int status)
{
    lsm_post(background->lsm, background->core, core_id(background->lsm->core), LSM_MESSAGE_FAILED,
             work, (void *)(uintptr_t)-status);
}

void background_wait_after(struct lsm_background *background, enum lsm_work work, int status)
{
    if (background->stopping)
        return;
    background_tell(background, work, status);
    if (status == ERR_CORRUPT)
        sometimes(true, "lsm: a background job met damage");
    log_error("background work failed, will be tried again",
              LOG_TEXT("work", work == LSM_WORK_FLUSH ? "flush" : "compaction"), LOG_ERROR(status));
    uint64_t until = core_now_ns(background->core) + BACKGROUND_RETRY_NS;
    while (!background->stopping && core_now_ns(background->core) < until)
        fiber_sleep_until(u64_min(until, core_now_ns(background->core) + 10 * NS_PER_MS));
}

/* ---- flush -----------------------------------------------------------------------------------
 */

struct flush_job {
    struct lsm_background *background;
    struct memtable *memtable;
    struct background_output output;
    struct background_filter filter;
};

/* Mostly into one table. Tables of one flush have no key in common, so their order is free. */
static int flush_row(struct flush_job *job, const struct lsm_row *row)
{
    if (job->output.writer != NULL && sst_writer_is_full(job->output.writer) &&
        !background_filter_same_key(&job->filter, row->key)) {
        int status = background_output_finish(&job->output);
        if (status < 0)
            return status;
    }
    if (!background_filter_keep(&job->filter, row, false))
        return 0;
    return background_output_add(job->background, &job->output, 0, row);
}

static int flush_rows(struct flush_job *job)
{
    uint32_t rows = 0;
    struct memtable_scan scan;
    struct lsm_row row;
    memtable_scan_begin(job->memtable, &scan);
    while (memtable_scan_next(&scan, &row)) {
        int status = flush_row(job, &row);
        if (status < 0)
            return status;
        if (++rows % BACKGROUND_YIELD_ROWS == 0 && fiber_should_yield()) {
            fiber_yield();
            if (job->background->stopping)
                return ERR_CANCELED;
        }
    }
    return background_output_finish(&job->output);
}

static void background_on_quiet(struct timer *timer)
{
    fiber_event_signal(&container_of(timer, struct lsm_background, quiet)->compact_event);
}

/* A table was added to level 0. */
static void background_flushed(struct lsm_background *background)
{
    background->quiet_ns = core_now_ns(background->core) + background->lsm->options.level0_wait_ns;
    if (!background->stopping)
        timer_start(core_timers(background->core), &background->quiet, background->quiet_ns);
    fiber_event_signal(&background->compact_event);
}

static void flush_change(struct lsm_levels *levels, void *context)
{
    const struct flush_job *job = context;
    for (uint32_t i = 0; i < job->output.count; i++)
        lsm_levels_add(levels, 0, job->output.tables[i]);
    levels->flushed_index = job->memtable->applied_index;
    levels->flushed_term = job->memtable->applied_term;
}

static int flush_run(struct lsm_background *background, struct memtable *memtable)
{
    uint64_t start_ns = core_now_ns(background->core);
    struct flush_job *job = calloc(1, sizeof(*job));
    struct lsm_install *install = calloc(1, sizeof(*install));
    if (job == NULL || install == NULL)
        fatal("out of memory for a flush");
    job->background = background;
    job->memtable = memtable;
    background_filter_begin(&job->filter, background->lsm->options.filter, &job->output);
    int status = flush_rows(job);
    if (status == 0) {
        struct manifest_record record;
        manifest_record_init(&record);
        manifest_record_flushed(&record, memtable->applied_index, memtable->applied_term);
        for (uint32_t i = 0; i < job->output.count; i++)
            manifest_record_add(&record, 0, job->output.tables[i]);
        install->flushed = memtable;
        install->write_bytes = job->output.bytes;
        install->rows_dropped = job->filter.dropped;
        install->duration_ns = core_now_ns(background->core) - start_ns;
        status = background_install(background, install, &record, flush_change, job);
        manifest_record_deinit(&record);
        if (status == 0)
            background_flushed(background);
    } else {
        free(install);
    }
    background_output_end(&job->output, status == 0);
    background_filter_end(&job->filter);
    free(job);
    return status;
}

/* ---- the fibers ------------------------------------------------------------------------------
 */

static void background_fiber_ended(struct lsm_background *background)
{
    invariant(background->fibers > 0);
    background->fibers--;
    fiber_event_signal(&background->stopped);
}

static void background_flush_fiber(void *argument)
{
    struct lsm_background *background = argument;
    while (!background->stopping) {
        if (background->flushes.count == 0) {
            fiber_event_wait(&background->flush_event);
            continue;
        }
        int status = flush_run(background, background->flushes.items[0]);
        if (status == 0)
            (void)background_queue_pop(&background->flushes);
        else
            background_wait_after(background, LSM_WORK_FLUSH, status);
    }
    background_fiber_ended(background);
}

static void background_compact_fiber(void *argument)
{
    struct lsm_background *background = argument;
    background_compact_loop(background);
    background_fiber_ended(background);
}

static void background_remove_fiber(void *argument)
{
    struct lsm_background *background = argument;
    while (!background->stopping) {
        struct lsm_table *table = background_queue_pop(&background->removals);
        if (table == NULL)
            fiber_event_wait(&background->remove_event);
        else
            lsm_table_close(table, true);
    }
    background_fiber_ended(background);
}

/* ---- messages --------------------------------------------------------------------------------
 */

static void background_on_flush(void *context, struct core *core,
                                const struct mesh_message *message)
{
    (void)core;
    struct lsm_background *background = context;
    invariant(background->flushes.count < BACKGROUND_FLUSHES_MAX);
    background_queue_push(&background->flushes, (void *)(uintptr_t)message->word[0]);
    fiber_event_signal(&background->flush_event);
}

static void background_on_remove(void *context, struct core *core,
                                 const struct mesh_message *message)
{
    (void)core;
    struct lsm_background *background = context;
    background_queue_push(&background->removals, (void *)(uintptr_t)message->word[0]);
    fiber_event_signal(&background->remove_event);
}

/* Every table of the moment of which the filter would drop a quarter. */
static void background_list_garbage(struct lsm_background *background)
{
    background->garbage.count = 0;
    for (uint32_t level = 1; level < LSM_LEVELS; level++)
        for (uint32_t i = 0; i < background->levels->level[level].count; i++) {
            const struct lsm_table *table = background->levels->level[level].tables[i];
            if (background_droppable(background, table, table->settled) * 4 >=
                table->properties.rows)
                background_queue_push(&background->garbage, (void *)(uintptr_t)table->number);
        }
}

static void background_on_request(void *context, struct core *core,
                                  const struct mesh_message *message)
{
    (void)core;
    struct lsm_background *background = context;
    switch ((enum lsm_request)message->small) {
    case LSM_REQUEST_GARBAGE:
        background_list_garbage(background);
        break;
    case LSM_REQUEST_COMPACT_ALL:
        background->compact_all = true;
        break;
    case LSM_REQUEST_STOP_SEEN: /* behind it, the raft core sends nothing any more */
        background->stop_acknowledged = true;
        fiber_event_signal(&background->stopped);
        return;
    }
    fiber_event_signal(&background->compact_event);
}

/* ---- life ------------------------------------------------------------------------------------
 */

int lsm_background_create(struct lsm *lsm, uint64_t number_next, uint64_t found_number,
                          const struct manifest_state *found)
{
    struct lsm_background *background = calloc(1, sizeof(*background));
    if (background == NULL)
        return -ENOMEM;
    background->lsm = lsm;
    background->levels = atomic_load(&lsm->view)->levels;
    background->number_next = number_next;
    fiber_waiters_init(&background->install_waiters);
    fiber_event_init(&background->stopped);
    fiber_event_init(&background->flush_event);
    fiber_event_init(&background->compact_event);
    fiber_event_init(&background->remove_event);
    timer_init(&background->quiet, background_on_quiet);
    bool uncertain;
    char path[LSM_PATH_BYTES_MAX];
    uint64_t number = background->number_next++;
    manifest_path(path, lsm->dir, found_number);
    int status = manifest_create(&background->manifest, lsm->dir, number, background->levels,
                                 background->number_next, &uncertain);
    if (status < 0 && !uncertain && found_number != 0) {
        log_warn("cannot start a new manifest, goes on in the old one", LOG_TEXT("file", path),
                 LOG_ERROR(status));
        status = manifest_reopen(&background->manifest, lsm->dir, found_number, found);
    } else if (status == 0 && found_number != 0) {
        status = await_unlink(path);
    }
    if (status < 0) {
        manifest_close(&background->manifest);
        free(background);
        return status;
    }
    lsm->background = background;
    return 0;
}

void lsm_background_destroy(struct lsm *lsm)
{
    struct lsm_background *background = lsm->background;
    if (background == NULL)
        return;
    invariant(background->fibers == 0);
    manifest_close(&background->manifest);
    for (void *table; (table = background_queue_pop(&background->removals)) != NULL;)
        lsm_table_close(table, true);
    for (uint32_t level = 0; level < LSM_LEVELS; level++)
        free((void *)(uintptr_t)background->resume[level].data);
    free(background->flushes.items);
    free(background->removals.items);
    free(background->garbage.items);
    free(background);
    lsm->background = NULL;
}

static void background_handle(struct lsm_background *background, enum lsm_message kind,
                              core_message_handler *handler)
{
    core_handle(background->core,
                (uint16_t)(background->lsm->options.message_kind_base + (uint16_t)kind), handler,
                background);
}

void lsm_background_start(struct lsm *lsm, struct core *core)
{
    static void (*const fibers[])(void *argument) = {
        background_flush_fiber, background_compact_fiber, background_remove_fiber};
    struct lsm_background *background = lsm->background;
    invariant(background != NULL && background->fibers == 0);
    background->core = core;
    background->stopping = background->stop_acknowledged = false;
    background->quiet_ns = 0;
    background_handle(background, LSM_MESSAGE_FLUSH, background_on_flush);
    background_handle(background, LSM_MESSAGE_REMOVE, background_on_remove);
    background_handle(background, LSM_MESSAGE_REQUEST, background_on_request);
    for (uint32_t i = 0; i < ARRAY_COUNT(fibers); i++) {
        int status = fiber_spawn(core, FIBER_BACKGROUND, fibers[i], background);
        if (status < 0)
            fatal("no fiber for background work: %s", err_text(status));
        background->fibers++;
    }
    lsm_post(lsm, core, core_id(lsm->core), LSM_MESSAGE_STARTED, 0, NULL);
    fiber_event_signal(&background->compact_event);
}

void lsm_background_stop(struct lsm *lsm)
{
    struct lsm_background *background = lsm->background;
    background->stopping = true;
    timer_stop(core_timers(background->core), &background->quiet);
    fiber_event_signal(&background->flush_event);
    fiber_event_signal(&background->compact_event);
    fiber_event_signal(&background->remove_event);
    while (background->fibers > 0)
        fiber_event_wait(&background->stopped);
    lsm_post(lsm, background->core, core_id(lsm->core), LSM_MESSAGE_STOPPED, 0, NULL);
    while (!background->stop_acknowledged)
        fiber_event_wait(&background->stopped);
    background->flushes.count = 0; /* the memtables stay the raft core's; the log has their rows */
}
