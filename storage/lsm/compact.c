/* Leveled compaction: what to merge next, and the merge. Level 0 goes to level 1 as a whole; a
 * deeper level gives one table at a time, in key order, with what overlaps it below. */
#include <errno.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/logger.h"
#include "storage/lsm/background.h"
#include "storage/lsm/table_iterator.h"

#define COMPACT_YIELD_ROWS   32
#define COMPACT_LEVEL1_TIMES 4 /* level 0 does not push into a level 1 of more times its bytes */

/* Read-ahead of a source: a merge of few has the larger ones. */
#define COMPACT_WINDOW_BYTES      ((uint32_t)(256 * 1024))
#define COMPACT_WINDOW_BYTES_MANY ((uint32_t)(128 * 1024))
#define COMPACT_SOURCES_MANY      16

/* Disjoint tables in key order: one level 0 table, or what one level contributes. */
struct compact_source {
    struct lsm_table **tables; /* owned */
    uint32_t count, at, level;
    struct table_iterator iterator;
    struct lsm_row row;
    bool valid;
};

struct compact_job {
    struct lsm_background *background;
    struct table_blocks blocks;
    struct compact_source *sources; /* owned */
    struct compact_source **order;  /* owned: the live ones, sorted by row */
    uint32_t source_count, source_count_max, live;
    uint32_t level_out;
    struct lsm_levels *below; /* owned copy of the levels at the start: for `bottom` */
    uint32_t below_at[LSM_LEVELS];
    struct background_filter filter;
    struct background_output output;
    uint64_t read_bytes, start_ns;
    uint64_t garbage_number; /* of the table that is rewritten for what may go; 0: not that */
    bool trivial;
};

/* ---- blocks in plain memory --------------------------------------------------------------------
 */

static int compact_block_acquire(struct table_blocks *blocks, const struct lsm_table *table,
                                 struct sst_handle handle, enum sst_block_type type,
                                 struct table_window *window, struct bytes *raw, void **pin)
{
    const uint8_t *stored = NULL;
    uint8_t *expanded = NULL;
    uint32_t bytes = 0;
    int status = 0;
    (void)blocks;
    if (window != NULL)
        status = table_window_read(window, table, handle, &stored);
    if (status == 0 && stored != NULL)
        status = sst_block_decode(table->number, table->path, handle, type, stored, 0, &expanded,
                                  &bytes);
    else if (status == 0)
        status = lsm_table_read_stored(table, handle, type, 0, &expanded, &bytes);
    if (status < 0)
        return status;
    *raw = bytes_make(expanded, bytes);
    *pin = expanded;
    return 0;
}

static void compact_block_release(struct table_blocks *blocks, void *pin)
{
    (void)blocks;
    free(pin);
}

/* ---- the merge -------------------------------------------------------------------------------
 */

static int compact_source_take(struct compact_source *source, int status)
{
    while (status == 0 && source->at + 1 < source->count) {
        table_iterator_open(&source->iterator, source->tables[++source->at]);
        status = table_iterator_first(&source->iterator);
    }
    source->valid = status == 1;
    if (source->valid)
        table_iterator_row(&source->iterator, &source->row);
    return status < 0 ? status : 0;
}

static bool compact_precedes(const struct compact_source *a, const struct compact_source *b)
{
    int order = bytes_compare(a->row.key, b->row.key);
    return order != 0 ? order < 0 : lsm_version_compare(a->row.version, b->row.version) > 0;
}

static int compact_merge_begin(struct compact_job *job)
{
    job->live = 0;
    for (uint32_t i = 0; i < job->source_count; i++) {
        struct compact_source *source = &job->sources[i];
        invariant(source->count > 0);
        table_iterator_open(&source->iterator, source->tables[0]);
        int status = compact_source_take(source, table_iterator_first(&source->iterator));
        if (status < 0)
            return status;
        if (!source->valid)
            continue;
        uint32_t at = job->live++;
        for (; at > 0 && compact_precedes(source, job->order[at - 1]); at--)
            job->order[at] = job->order[at - 1];
        job->order[at] = source;
    }
    return 0;
}

/* How many of the sources behind the first come before it now. Long runs from one source are usual,
 * and so are many sources. */
static uint32_t compact_rank(const struct compact_job *job)
{
    struct compact_source *first = job->order[0];
    uint32_t from = 0, to = job->live - 1;
    if (!first->valid || to == 0)
        return to;
    if (!compact_precedes(job->order[1], first))
        return 0;
    while (from < to) {
        uint32_t middle = from + (to - from + 1) / 2;
        if (compact_precedes(job->order[middle], first))
            from = middle;
        else
            to = middle - 1;
    }
    return from;
}

static int compact_merge_step(struct compact_job *job)
{
    struct compact_source *source = job->order[0];
    int status = compact_source_take(source, table_iterator_next(&source->iterator));
    if (status < 0)
        return status;
    uint32_t rank = compact_rank(job);
    memmove(job->order, job->order + 1, rank * sizeof(job->order[0]));
    job->order[rank] = source;
    if (!source->valid)
        job->live--;
    return 0;
}

/* No table below the output level may hold the key. Keys come in order, so each level is walked
 * once. */
static bool compact_is_bottom(struct compact_job *job, struct bytes key)
{
    for (uint32_t level = job->level_out + 1; level < LSM_LEVELS; level++) {
        uint32_t *at = &job->below_at[level];
        while (*at < job->below->level[level].count &&
               bytes_compare(job->below->level[level].tables[*at]->largest, key) < 0)
            ++*at;
        if (*at < job->below->level[level].count &&
            bytes_compare(job->below->level[level].tables[*at]->smallest, key) <= 0)
            return false;
    }
    return true;
}

/* ---- debts -----------------------------------------------------------------------------------
 */

/* Debt of a level as a ratio in percent: at 100 there is work. Level 0 is merged when it has as
 * many tables as reads should look into. But each merge writes level 1 again, so while flushes go
 * on it waits until it has as much as level 1 may have, or a third of the tables at which writes
 * stop. */
static uint64_t compact_score(const struct lsm_background *background, uint32_t level)
{
    const struct lsm_options *options = &background->lsm->options;
    uint64_t target = options->level_base_bytes;
    if (level == 0) {
        uint64_t count = background->levels->level[0].count, usual = options->level0_tables;
        if (core_now_ns(background->core) >= background->quiet_ns)
            return count * 100 / usual;
        uint64_t bytes_percent = lsm_levels_bytes(background->levels, 0) * 100 / target;
        uint64_t tables_percent = count * 100 * 3 / (usual * LSM_LEVEL0_FULL_FACTOR);
        return u64_min(count * 100 / usual, u64_max(bytes_percent, tables_percent));
    }
    for (uint32_t i = 1; i < level; i++)
        target *= options->level_ratio;
    return lsm_levels_bytes(background->levels, level) * 100 / target;
}

/* ---- running a job ---------------------------------------------------------------------------
 */

/* The table under construction ends before this row. Not inside a key, whose versions stay in one
 * table: reads rely on it (contract in lsm.h). But where the first byte of the keys changes: with a
 * table from the last keys of one kind of rows to the first of another, all that the next level has
 * of the latter would be merged. */
static bool compact_ends_before(const struct compact_job *job, const struct lsm_row *row)
{
    const struct sst_writer *writer = job->output.writer;
    if (writer == NULL || background_filter_same_key(&job->filter, row->key))
        return false;
    return job->filter.key[0] != row->key.data[0] ||
           sst_writer_bytes(writer) >= job->background->lsm->options.table_bytes ||
           sst_writer_is_full(writer);
}

static int compact_row(struct compact_job *job, const struct lsm_row *row)
{
    struct background_output *output = &job->output;
    if (compact_ends_before(job, row)) {
        int status = background_output_finish(output);
        if (status < 0)
            return status;
    }
    if (!background_filter_keep(&job->filter, row, compact_is_bottom(job, row->key)))
        return 0;
    return background_output_add(job->background, output, job->level_out, row);
}

static int compact_merge(struct compact_job *job)
{
    int status = compact_merge_begin(job);
    for (uint32_t rows = 1; status == 0 && job->live > 0; rows++) {
        status = compact_row(job, &job->order[0]->row);
        if (status == 0)
            status = compact_merge_step(job);
        if (rows % COMPACT_YIELD_ROWS == 0 && fiber_should_yield())
            fiber_yield();
        if (status == 0 && job->background->stopping)
            status = ERR_CANCELED;
    }
    return status < 0 ? status : background_output_finish(&job->output);
}

static void compact_change(struct lsm_levels *levels, void *context)
{
    struct compact_job *job = context;
    for (uint32_t i = 0; i < job->source_count; i++)
        for (uint32_t j = 0; j < job->sources[i].count; j++) {
            struct compact_source *source = &job->sources[i];
            struct lsm_table *removed =
                lsm_levels_remove(levels, source->level, source->tables[j]->number);
            invariant(removed == source->tables[j]); /* B2 */
        }
    for (uint32_t i = 0; i < job->output.count; i++)
        lsm_levels_add(levels, job->level_out, job->output.tables[i]);
}

static int compact_install(struct compact_job *job)
{
    struct manifest_record record;
    struct lsm_install *install = calloc(1, sizeof(*install));
    if (install == NULL)
        fatal("out of memory for a compaction");
    manifest_record_init(&record);
    for (uint32_t i = 0; i < job->source_count; i++)
        for (uint32_t j = 0; j < job->sources[i].count; j++)
            manifest_record_remove(&record, job->sources[i].level,
                                   job->sources[i].tables[j]->number);
    for (uint32_t i = 0; i < job->output.count; i++)
        manifest_record_add(&record, job->level_out, job->output.tables[i]);
    install->is_compaction = true;
    install->trivial = job->trivial;
    install->read_bytes = job->read_bytes;
    install->write_bytes = job->output.bytes;
    install->rows_dropped = job->filter.dropped;
    install->duration_ns = core_now_ns(job->background->core) - job->start_ns;
    int status = background_install(job->background, install, &record, compact_change, job);
    manifest_record_deinit(&record);
    return status;
}

/* ---- choosing --------------------------------------------------------------------------------
 */

static struct compact_job *compact_job_create(struct lsm_background *background, uint32_t level_out,
                                              uint32_t sources)
{
    struct compact_job *job = calloc(1, sizeof(*job));
    if (job == NULL)
        fatal("out of memory for a compaction");
    job->background = background;
    job->blocks.acquire = compact_block_acquire;
    job->blocks.release = compact_block_release;
    job->level_out = level_out;
    job->source_count_max = sources;
    job->sources = calloc(sources, sizeof(job->sources[0]));
    job->order = calloc(sources, sizeof(job->order[0]));
    job->below = lsm_levels_copy(background->levels);
    job->start_ns = core_now_ns(background->core);
    if (job->sources == NULL || job->order == NULL || job->below == NULL)
        fatal("out of memory for a compaction");
    return job;
}

static void compact_job_add(struct compact_job *job, uint32_t level,
                            struct lsm_table *const *tables, uint32_t count)
{
    if (count == 0)
        return;
    bool many = job->source_count_max > COMPACT_SOURCES_MANY;
    struct compact_source *source = &job->sources[job->source_count++];
    source->tables = malloc(count * sizeof(tables[0]));
    if (source->tables == NULL)
        fatal("out of memory for a compaction");
    memcpy(source->tables, tables, count * sizeof(tables[0]));
    source->count = count;
    source->level = level;
    table_iterator_init(&source->iterator, &job->blocks,
                        many ? COMPACT_WINDOW_BYTES_MANY : COMPACT_WINDOW_BYTES);
    for (uint32_t i = 0; i < count; i++)
        job->read_bytes += tables[i]->file_bytes;
}

static void compact_job_destroy(struct compact_job *job, bool installed)
{
    background_output_end(&job->output, installed);
    for (uint32_t i = 0; i < job->source_count; i++) {
        table_iterator_deinit(&job->sources[i].iterator);
        free(job->sources[i].tables);
    }
    free(job->sources);
    free(job->order);
    lsm_levels_free(job->below);
    free(job);
}

/* Tables of a sorted level that overlap [smallest, largest]. */
static uint32_t compact_overlap(const struct lsm_levels *levels, uint32_t level,
                                struct bytes smallest, struct bytes largest, uint32_t *first)
{
    *first = lsm_levels_find(levels, level, smallest);
    uint32_t end = *first;
    while (end < levels->level[level].count &&
           bytes_compare(levels->level[level].tables[end]->smallest, largest) <= 0)
        end++;
    return end - *first;
}

static void compact_add_overlap(struct compact_job *job, uint32_t level, struct bytes smallest,
                                struct bytes largest)
{
    uint32_t first = 0;
    const struct lsm_levels *levels = job->background->levels;
    uint32_t count = compact_overlap(levels, level, smallest, largest, &first);
    compact_job_add(job, level, levels->level[level].tables + first, count);
}

static struct compact_job *compact_pick_level0(struct lsm_background *background)
{
    const struct lsm_levels *levels = background->levels;
    uint32_t count = levels->level[0].count;
    struct compact_job *job = compact_job_create(background, 1, count + 1);
    struct bytes smallest = levels->level[0].tables[0]->smallest;
    struct bytes largest = levels->level[0].tables[0]->largest;
    for (uint32_t i = 0; i < count; i++) {
        struct lsm_table *table = levels->level[0].tables[i];
        compact_job_add(job, 0, &table, 1);
        if (bytes_compare(table->smallest, smallest) < 0)
            smallest = table->smallest;
        if (bytes_compare(table->largest, largest) > 0)
            largest = table->largest;
    }
    compact_add_overlap(job, 1, smallest, largest);
    return job;
}

static void compact_resume_after(struct lsm_background *background, uint32_t level,
                                 struct bytes key)
{
    struct bytes *resume = &background->resume[level];
    uint8_t *copy = realloc((void *)(uintptr_t)resume->data, key.size);
    if (copy == NULL)
        fatal("out of memory for a key");
    memcpy(copy, key.data, key.size);
    *resume = bytes_make(copy, key.size);
}

static struct compact_job *compact_pick_level(struct lsm_background *background, uint32_t level)
{
    const struct lsm_levels *levels = background->levels;
    uint32_t at = 0;
    struct bytes resume = background->resume[level];
    if (resume.size > 0) {
        at = lsm_levels_find(levels, level, resume);
        if (at < levels->level[level].count &&
            bytes_equal(levels->level[level].tables[at]->largest, resume))
            at++;
    }
    if (at >= levels->level[level].count)
        at = 0;
    struct lsm_table *table = levels->level[level].tables[at];
    compact_resume_after(background, level, table->largest);
    struct compact_job *job = compact_job_create(background, level + 1, 2);
    compact_job_add(job, level, &table, 1);
    compact_add_overlap(job, level + 1, table->smallest, table->largest);
    /* Nothing to merge with and nothing to drop: the table just changes its level. */
    job->trivial = job->source_count == 1 && background_droppable(background, table, 0) == 0;
    return job;
}

static struct compact_job *compact_pick_all(struct lsm_background *background)
{
    const struct lsm_levels *levels = background->levels;
    uint32_t deepest = 1, tables = 0;
    for (uint32_t level = 0; level < LSM_LEVELS; level++) {
        tables += levels->level[level].count;
        if (level > 0 && levels->level[level].count > 0)
            deepest = level;
    }
    if (tables == 0)
        return NULL;
    struct compact_job *job =
        compact_job_create(background, deepest, levels->level[0].count + LSM_LEVELS);
    for (uint32_t i = 0; i < levels->level[0].count; i++)
        compact_job_add(job, 0, &levels->level[0].tables[i], 1);
    for (uint32_t level = 1; level < LSM_LEVELS; level++)
        compact_job_add(job, level, levels->level[level].tables, levels->level[level].count);
    return job;
}

/* A table is rewritten alone, in its level. */
static struct compact_job *compact_pick_garbage(struct lsm_background *background)
{
    while (background->garbage.count > 0) {
        uint64_t number = (uint64_t)(uintptr_t)background_queue_pop(&background->garbage);
        for (uint32_t level = 1; level < LSM_LEVELS; level++)
            for (uint32_t i = 0; i < background->levels->level[level].count; i++) {
                struct lsm_table *table = background->levels->level[level].tables[i];
                if (table->number != number)
                    continue;
                struct compact_job *job = compact_job_create(background, level, 1);
                compact_job_add(job, level, &table, 1);
                job->garbage_number = number;
                return job;
            }
    }
    return NULL;
}

/* Behind the others: where one does not fit on the disk a smaller one may. What is damaged would
 * fail again. */
static void compact_garbage_failed(struct lsm_background *background, uint64_t number, int status)
{
    struct background_queue *garbage = &background->garbage;
    bool listed = status == ERR_CORRUPT; /* or anew, meanwhile */
    for (uint32_t i = 0; i < garbage->count; i++)
        listed |= (uint64_t)(uintptr_t)garbage->items[i] == number;
    if (!listed)
        background_queue_push(garbage, (void *)(uintptr_t)number);
}

/* On the way to full pressure level 0 goes first, whatever the levels below owe: that stops no
 * writes. But each such merge writes all of level 1 again, which gives nothing away meanwhile:
 * under a load that keeps level 0 half full it would grow without end, and every merge take longer
 * than the last. */
static bool compact_level0_pushes(const struct lsm_background *background)
{
    const struct lsm_levels *levels = background->levels;
    uint64_t full = (uint64_t)background->lsm->options.level0_tables * LSM_LEVEL0_FULL_FACTOR;
    return levels->level[0].count >= full / 2 &&
           lsm_levels_bytes(levels, 1) <= COMPACT_LEVEL1_TIMES * lsm_levels_bytes(levels, 0);
}

/* `wants_room`: the last merge found too little on the disk. What makes some goes first then; a
 * table's rewrite needs less room than a merge with the level below. */
static struct compact_job *compact_pick(struct lsm_background *background, bool wants_room)
{
    uint32_t worst = 0;
    uint64_t worst_score = 0;
    if (wants_room) {
        struct compact_job *job = compact_pick_garbage(background);
        if (job != NULL)
            return job;
    }
    if (background->compact_all) {
        background->compact_all = false;
        return compact_pick_all(background);
    }
    if (compact_level0_pushes(background))
        return compact_pick_level0(background);
    for (uint32_t level = 0; level + 1 < LSM_LEVELS; level++) {
        uint64_t score = compact_score(background, level);
        if (score > worst_score) {
            worst = level;
            worst_score = score;
        }
    }
    if (worst_score < 100)
        return compact_pick_garbage(background);
    return worst == 0 ? compact_pick_level0(background) : compact_pick_level(background, worst);
}

static int compact_run(struct compact_job *job)
{
    int status = 0;
    if (job->trivial) {
        background_output_push(&job->output, job->sources[0].tables[0]);
        job->read_bytes = 0;
    } else {
        background_filter_begin(&job->filter, job->background->lsm->options.filter, &job->output);
        status = compact_merge(job);
    }
    if (status == 0)
        status = compact_install(job);
    if (!job->trivial)
        background_filter_end(&job->filter);
    return status;
}

void background_compact_loop(struct lsm_background *background)
{
    int status = 0;
    bool wants_room = false;
    while (!background->stopping) {
        /* A flush that installs meanwhile is fine: it only adds to level 0 (B2). */
        struct compact_job *job = compact_pick(background, wants_room);
        if (job == NULL) {
            if (status < 0) /* a job that is picked once; it would count as failing for ever */
                background_tell(background, LSM_WORK_MERGE, 0);
            status = 0;
            fiber_event_wait(&background->compact_event);
            continue;
        }
        status = compact_run(job);
        if (status < 0 && job->garbage_number != 0)
            compact_garbage_failed(background, job->garbage_number, status);
        if (status < 0 || job->garbage_number == 0) /* in turns, while neither finds any */
            wants_room = err_is_no_room(status) && job->garbage_number == 0;
        compact_job_destroy(job, status == 0 || job->trivial); /* a moved table stays either way */
        if (status < 0)
            background_wait_after(background, LSM_WORK_MERGE, status);
    }
}
