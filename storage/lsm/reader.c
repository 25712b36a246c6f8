#include "storage/lsm/reader.h"

#include <errno.h>
#include <stdlib.h>

#include "core/err.h"
#include "storage/lsm/bloom.h"

/* ---- views -----------------------------------------------------------------------------------
 */

#define READER_SCAN_KEPT_BYTES ((uint64_t)(1024 * 1024)) /* of one scan, in the cache */
#define READER_STEPS_MAX       8u /* rows too new that a read steps over before it searches */

static void reader_post_released(struct lsm_reader *reader)
{
    lsm_post(reader->lsm, reader->core, core_id(reader->lsm->core), LSM_MESSAGE_RELEASED, 0, NULL);
}

static struct lsm_core_slot *reader_slot(struct lsm_reader *reader)
{
    return &reader->lsm->slots[core_id(reader->core)];
}

static struct reader_view *reader_view_push(struct lsm_reader *reader, struct lsm_view *view)
{
    struct reader_view *entry = malloc(sizeof(*entry));
    if (entry == NULL)
        fatal("out of memory for a view");
    *entry = (struct reader_view){.view = view, .older = reader->current};
    reader->current = entry;
    return entry;
}

/* A newer view is there: keep the one in use if something pins it, announce the move. */
static cold_path void reader_view_move(struct lsm_reader *reader, struct lsm_view *view)
{
    struct reader_view *left = reader->current;
    invariant(view->sequence > left->view->sequence);
    uint32_t core = core_id(reader->core);
    if (left->pins > 0) {
        atomic_store_explicit(&left->view->held[core], 1, memory_order_release); /* V2 */
    } else {
        reader->current = left->older;
        free(left);
    }
    reader_view_push(reader, view);
    atomic_store(&reader_slot(reader)->floor, view->sequence);
    reader_post_released(reader);
}

struct reader_view *reader_view_current(struct lsm_reader *reader)
{
    struct lsm_view *view = atomic_load_explicit(&reader->lsm->view, memory_order_acquire);
    if (unlikely(view != reader->current->view))
        reader_view_move(reader, view);
    return reader->current;
}

struct reader_view *reader_view_acquire(struct lsm_reader *reader)
{
    struct reader_view *held = reader_view_current(reader);
    held->pins++;
    return held;
}

void reader_view_release(struct lsm_reader *reader, struct reader_view *held)
{
    invariant(held->pins > 0);
    if (--held->pins > 0 || held == reader->current)
        return;
    struct reader_view **link = &reader->current;
    while (*link != held)
        link = &(*link)->older;
    *link = held->older;
    atomic_store_explicit(&held->view->held[core_id(reader->core)], 0, memory_order_release);
    free(held);
    reader_post_released(reader);
}

static void reader_on_view(void *context, struct core *core, const struct mesh_message *message)
{
    (void)core, (void)message;
    struct lsm_reader *reader = context;
    (void)reader_view_current(reader); /* so that an idle core holds nothing up */
}

static void reader_on_nothing(void *context, struct core *core, const struct mesh_message *message)
{
    (void)context, (void)core, (void)message;
}

int lsm_reader_open(struct lsm *lsm, struct core *core, struct lsm_reader **result)
{
    invariant(core_id(core) < lsm->options.core_count);
    struct lsm_reader *reader = calloc(1, sizeof(*reader));
    if (reader == NULL)
        return -ENOMEM;
    reader->lsm = lsm;
    reader->core = core;
    uint64_t cache_bytes = lsm->options.block_cache_bytes_per_core;
    uint64_t row_bytes = cache_bytes / READER_ROW_CACHE_SHARE;
    row_cache_init(&reader->rows, row_bytes);
    int status = block_cache_init(&reader->cache, cache_bytes - row_bytes);
    if (status < 0) {
        free(reader);
        return status;
    }
    struct lsm_core_slot *slot = reader_slot(reader);
    invariant(atomic_load(&slot->floor) == UINT64_MAX);
    atomic_store(&slot->floor, 0);
    reader_view_push(reader, atomic_load(&lsm->view));
    atomic_store(&slot->floor, reader->current->view->sequence);
    core_handle(core, (uint16_t)(lsm->options.message_kind_base + LSM_MESSAGE_VIEW), reader_on_view,
                reader);
    *result = reader;
    return 0;
}

void lsm_reader_close(struct lsm_reader *reader)
{
    invariant(reader->rows_held == 0 && reader->cursors_open == 0);
    invariant(reader->current->older == NULL && reader->current->pins == 0);
    core_handle(reader->core, (uint16_t)(reader->lsm->options.message_kind_base + LSM_MESSAGE_VIEW),
                reader_on_nothing, NULL);
    lsm_cursors_free(reader);
    block_cache_deinit(&reader->cache);
    row_cache_deinit(&reader->rows);
    free(reader->current);
    atomic_store(&reader_slot(reader)->floor, UINT64_MAX);
    reader_post_released(reader);
    free(reader);
}

const struct lsm_reader_stats *lsm_reader_stats(const struct lsm_reader *reader)
{
    return &reader->stats;
}

/* The statistics are scraped in place: what the caches say is copied when they change. */
static void reader_count_caches(struct lsm_reader *reader)
{
    reader->stats.cache_bytes = reader->cache.bytes;
    reader->stats.row_cache_bytes = reader->rows.bytes;
    reader->stats.cache_blocks = reader->cache.blocks;
    reader->stats.cache_evictions = reader->cache.evictions;
}

/* ---- blocks ----------------------------------------------------------------------------------
 */

static int reader_block_read(struct reader_blocks *from, const struct lsm_table *table,
                             struct sst_handle handle, enum sst_block_type type,
                             struct table_window *window, struct cache_block **block)
{
    struct lsm_reader *reader = from->reader;
    const uint8_t *stored = NULL;
    uint8_t *raw = NULL;
    uint32_t raw_bytes = 0;
    int status = 0;
    bool ahead = window != NULL && table_window_has(window, handle);
    if (window != NULL)
        status = table_window_read(window, table, handle, &stored);
    if (status == 0 && stored != NULL)
        status = sst_block_decode(table->number, table->path, handle, type, stored,
                                  offsetof(struct cache_block, data), &raw, &raw_bytes);
    else if (status == 0)
        status = lsm_table_read_stored(table, handle, type, offsetof(struct cache_block, data),
                                       &raw, &raw_bytes);
    if (status < 0) {
        reader->stats.corrupt_blocks += status == ERR_CORRUPT;
        return status;
    }
    reader->stats.blocks_read += !ahead;
    reader->stats.bytes_read += handle.bytes;
    *block = (struct cache_block *)(void *)raw;
    (*block)->number = table->number;
    (*block)->offset = handle.offset;
    (*block)->raw_bytes = raw_bytes;
    return 0;
}

/* A short list may be read again and stays; a long scan would only fill the cache with itself. */
static struct cache_block *reader_block_keep(struct reader_blocks *from, struct cache_block *block,
                                             enum sst_block_type type, bool ahead)
{
    bool is_long = from->scanned_bytes > READER_SCAN_KEPT_BYTES;
    if (type == SST_BLOCK_INDEX)
        return block_cache_insert(&from->reader->cache, block, is_long ? CACHE_LOW : CACHE_HIGH);
    if (ahead)
        from->scanned_bytes += block->raw_bytes;
    if (is_long)
        return block_cache_keep_out(block);
    return block_cache_insert(&from->reader->cache, block, from->priority);
}

static int reader_block_acquire(struct table_blocks *blocks, const struct lsm_table *table,
                                struct sst_handle handle, enum sst_block_type type,
                                struct table_window *window, struct bytes *raw, void **pin)
{
    struct reader_blocks *from = container_of(blocks, struct reader_blocks, blocks);
    struct lsm_reader *reader = from->reader;
    struct cache_block *block = block_cache_acquire(&reader->cache, table->number, handle.offset);
    if (likely(block != NULL)) {
        reader->stats.cache_hits++;
    } else {
        if (!from->may_wait)
            return ERR_WOULD_WAIT;
        reader->stats.cache_misses++;
        int status = reader_block_read(from, table, handle, type, window, &block);
        if (status < 0)
            return status;
        block = reader_block_keep(from, block, type, window != NULL);
        reader_count_caches(reader);
    }
    *raw = bytes_make(block->data, block->raw_bytes);
    *pin = block;
    return 0;
}

static void reader_block_release(struct table_blocks *blocks, void *pin)
{
    (void)blocks;
    block_cache_release(pin);
}

void reader_blocks_init(struct reader_blocks *blocks, struct lsm_reader *reader, bool may_wait,
                        enum cache_priority priority)
{
    blocks->blocks.acquire = reader_block_acquire;
    blocks->blocks.release = reader_block_release;
    blocks->reader = reader;
    blocks->may_wait = may_wait;
    blocks->priority = priority;
    blocks->scanned_bytes = 0;
}

/* ---- point reads -----------------------------------------------------------------------------
 */

/* Flushes happen in order, so the eldest memtable tells which rows the tables of a view have. */
static uint64_t reader_view_epoch(const struct lsm_view *view)
{
    return view->memtables[view->memtable_count - 1]->id;
}

/* The newest row of the tables is looked for first, because that can be kept; once it is known, in
 * tables that follow and at its own place what the read may see. So no table is searched again. */
struct reader_lookup {
    struct lsm_reader *reader;
    const struct lsm_view *view;
    struct reader_blocks blocks;
    struct sst_target target;
    struct lsm_version version_max;
    uint64_t hash;
    bool newest_known;
    struct lsm_row *row;
};

/* `status` of a move; 1 only at a row of the key. */
static int reader_at_key(const struct reader_lookup *lookup, const struct table_iterator *iterator,
                         int status)
{
    if (status != 1)
        return status;
    return bytes_equal(block_iterator_key(&iterator->data), lookup->target.key);
}

/* From the newest row to what the read may see: mostly a few rows on. */
static int reader_skip_newer(const struct reader_lookup *lookup, struct table_iterator *iterator)
{
    int status = 1;
    for (uint32_t steps = 0;
         status == 1 &&
         lsm_version_compare(block_iterator_version(&iterator->data), lookup->version_max) > 0;
         steps++) {
        status = steps < READER_STEPS_MAX ? table_iterator_next(iterator)
                                          : table_iterator_seek(iterator, &lookup->target);
        status = reader_at_key(lookup, iterator, status);
    }
    return status;
}

static void reader_take_newest(struct reader_lookup *lookup, struct table_iterator *iterator)
{
    struct lsm_row newest;
    table_iterator_row(iterator, &newest);
    newest.key = lookup->target.key;
    row_cache_insert(&lookup->reader->rows, &newest, lookup->hash, reader_view_epoch(lookup->view));
    reader_count_caches(lookup->reader);
    lookup->newest_known = true;
    lookup->target = sst_target_make(lookup->target.key, lookup->version_max);
}

static int reader_get_table(struct reader_lookup *lookup, const struct lsm_table *table)
{
    struct lsm_reader_stats *stats = &lookup->reader->stats;
    if (!bloom_may_contain(table->bloom, lookup->hash)) {
        stats->bloom_negatives++;
        return ERR_NOT_FOUND;
    }
    struct table_iterator iterator;
    table_iterator_init(&iterator, &lookup->blocks.blocks, 0);
    table_iterator_open(&iterator, table);
    int status = table_iterator_seek(&iterator, &lookup->target);
    status = reader_at_key(lookup, &iterator, status);
    if (status == 1 && !lookup->newest_known) {
        reader_take_newest(lookup, &iterator);
        status = reader_skip_newer(lookup, &iterator);
    }
    if (status == 1) {
        struct lsm_row *row = lookup->row;
        table_iterator_row(&iterator, row);
        row->key = lookup->target.key;
        row->pin_kind = READER_PIN_BLOCK;
        row->pin = iterator.data_pin; /* the pin moves to the row */
        iterator.data_pin = NULL;
        lookup->reader->rows_held++;
        status = 0;
    } else if (status >= 0) {
        stats->bloom_false_positives++; /* or only versions that are too new */
        status = ERR_NOT_FOUND;
    }
    table_iterator_deinit(&iterator);
    return status;
}

static int reader_get_tables(struct reader_lookup *lookup, const struct lsm_levels *levels)
{
    struct bytes key = lookup->target.key;
    int status = ERR_NOT_FOUND;
    for (uint32_t i = 0; i < levels->level[0].count && status == ERR_NOT_FOUND; i++) {
        const struct lsm_table *table = levels->level[0].tables[i];
        if (bytes_compare(key, table->smallest) >= 0 && bytes_compare(key, table->largest) <= 0)
            status = reader_get_table(lookup, table);
    }
    for (uint32_t level = 1; level < LSM_LEVELS && status == ERR_NOT_FOUND; level++) {
        uint32_t at = lsm_levels_find(levels, level, key);
        if (at == levels->level[level].count)
            continue;
        const struct lsm_table *table = levels->level[level].tables[at];
        if (bytes_compare(key, table->smallest) >= 0)
            status = reader_get_table(lookup, table);
    }
    return status;
}

static bool reader_get_memtables(struct lsm_reader *reader, struct reader_view *held,
                                 struct bytes key, uint64_t hash, struct lsm_version version_max,
                                 struct lsm_row *row)
{
    const struct lsm_view *view = held->view;
    for (uint32_t i = 0; i < view->memtable_count; i++) {
        const struct memtable_version *found =
            memtable_find(view->memtables[i], key, hash, version_max);
        if (found == NULL)
            continue;
        memtable_row(found, row);
        row->key = key;
        row->pin_kind = READER_PIN_VIEW;
        row->pin = held;
        held->pins++;
        reader->rows_held++;
        reader->stats.memtable_hits++;
        return true;
    }
    return false;
}

/* What a look-up ahead has found of one key: at most one of the two. */
struct reader_ahead {
    uint64_t hash;
    const struct memtable_key *key;
    const struct memtable_version *version;
    const struct cached_row *cached;
};

static void reader_ahead_find(const struct lsm_reader *reader, const struct lsm_view *view,
                              struct reader_ahead *ahead)
{
    for (uint32_t m = 0; m < view->memtable_count && ahead->key == NULL; m++)
        ahead->key = memtable_index_peek(&view->memtables[m]->index, ahead->hash);
    if (ahead->key != NULL) {
        __builtin_prefetch(ahead->key);
        return;
    }
    ahead->cached = row_cache_peek(&reader->rows, ahead->hash);
    if (ahead->cached != NULL)
        memory_prefetch(ahead->cached, sizeof(*ahead->cached));
}

/* Each step starts the misses of the next for all keys: bucket, key, version, value. */
void lsm_reader_prefetch(struct lsm_reader *reader, const struct bytes *keys, uint32_t count)
{
    const struct lsm_view *view = reader_view_current(reader)->view;
    struct reader_ahead aheads[LSM_READER_PREFETCH_MAX];
    invariant(count <= LSM_READER_PREFETCH_MAX);
    for (uint32_t i = 0; i < count; i++) {
        aheads[i] = (struct reader_ahead){.hash = bloom_hash(keys[i])};
        for (uint32_t m = 0; m < view->memtable_count; m++)
            memtable_index_prefetch(&view->memtables[m]->index, aheads[i].hash);
        row_cache_prefetch(&reader->rows, aheads[i].hash);
    }
    for (uint32_t i = 0; i < count; i++)
        reader_ahead_find(reader, view, &aheads[i]);
    for (uint32_t i = 0; i < count; i++)
        if (aheads[i].key != NULL) {
            aheads[i].version = memtable_peek(aheads[i].key);
            __builtin_prefetch(aheads[i].version);
        } else if (aheads[i].cached != NULL) {
            const struct cached_row *cached = aheads[i].cached;
            memory_prefetch(cached->data, cached->key_bytes + (size_t)cached->value_bytes);
        }
    for (uint32_t i = 0; i < count; i++)
        if (aheads[i].version != NULL)
            memory_prefetch(aheads[i].version->value, aheads[i].version->value_bytes);
}

static bool reader_view_has_tables(const struct lsm_view *view)
{
    for (uint32_t level = 0; level < LSM_LEVELS; level++)
        if (view->levels->level[level].count > 0)
            return true;
    return false;
}

/* The newest row that the tables have for the key, when it is known. */
static struct cached_row *reader_cached(struct lsm_reader *reader, const struct lsm_view *view,
                                        struct bytes key, uint64_t hash)
{
    struct cached_row *cached = row_cache_find(&reader->rows, key, hash);
    return cached != NULL && cached->epoch == reader_view_epoch(view) ? cached : NULL;
}

static void reader_take_cached(struct lsm_reader *reader, struct cached_row *cached,
                               struct bytes key, struct lsm_row *row)
{
    *row = (struct lsm_row){.key = key,
                            .value = bytes_make(cached->data + key.size, cached->value_bytes),
                            .version = cached->version,
                            .kind = (enum lsm_kind)cached->kind,
                            .pin_kind = READER_PIN_ROW,
                            .pin = cached};
    cached->pins++;
    reader->rows_held++;
    reader->stats.row_cache_hits++;
}

static int reader_get(struct lsm_reader *reader, struct bytes key, struct lsm_version version_max,
                      bool may_wait, struct lsm_row *row)
{
    invariant(key.size > 0 && core_current() == reader->core);
    struct reader_view *held = reader_view_current(reader);
    uint64_t hash = bloom_hash(key);
    reader->stats.gets++;
    reader->stats.gets_waited += may_wait;
    if (reader_get_memtables(reader, held, key, hash, version_max, row))
        return 0;
    if (!reader_view_has_tables(held->view))
        return ERR_NOT_FOUND;
    struct cached_row *newest = reader_cached(reader, held->view, key, hash);
    if (newest != NULL && lsm_version_compare(newest->version, version_max) <= 0) {
        reader_take_cached(reader, newest, key, row);
        return 0;
    }
    struct lsm_version from = newest != NULL ? version_max : LSM_VERSION_MAX;
    struct reader_lookup lookup = {.reader = reader,
                                   .view = held->view,
                                   .target = sst_target_make(key, from),
                                   .version_max = version_max,
                                   .hash = hash,
                                   .newest_known = newest != NULL,
                                   .row = row};
    reader_blocks_init(&lookup.blocks, reader, may_wait, CACHE_NORMAL);
    held->pins++;
    int status = reader_get_tables(&lookup, held->view->levels);
    reader_view_release(reader, held);
    return status;
}

int lsm_get_now(struct lsm_reader *reader, struct bytes key, struct lsm_version version_max,
                struct lsm_row *row)
{
    return reader_get(reader, key, version_max, false, row);
}

int lsm_get(struct lsm_reader *reader, struct bytes key, struct lsm_version version_max,
            struct lsm_row *row)
{
    return reader_get(reader, key, version_max, true, row);
}

void lsm_row_release(struct lsm_reader *reader, struct lsm_row *row)
{
    switch ((enum reader_pin)row->pin_kind) {
    case READER_PIN_NONE:
        return;
    case READER_PIN_VIEW:
        reader_view_release(reader, row->pin);
        break;
    case READER_PIN_BLOCK:
        block_cache_release(row->pin);
        break;
    case READER_PIN_ROW:
        row_cache_release(row->pin);
        break;
    }
    invariant(reader->rows_held > 0);
    reader->rows_held--;
    row->pin_kind = READER_PIN_NONE;
    row->pin = NULL;
    row->value = bytes_make(NULL, 0);
}
