/* A cursor merges sources (memtables, level 0 tables, one run of disjoint tables per level). The
 * live
 * ones are kept sorted by their current row in the direction of travel; a step moves the first one
 * and
 * bubbles it to its place, which is mostly one comparison. */
#include <errno.h>
#include <stdlib.h>

#include "core/err.h"
#include "storage/lsm/reader.h"

#define CURSOR_WINDOW_BYTES ((uint32_t)(64 * 1024))
#define CURSOR_SKIPS_MAX    16 /* steps over unwanted versions before a seek is cheaper */
#define CURSOR_YIELD_STEPS  256
#define CURSORS_IDLE_MAX    8

struct cursor_source {
    struct memtable *memtable; /* or NULL: tables */
    const struct memtable_version *version;
    struct lsm_table *const *tables;
    uint32_t table_count, at;
    bool iterator_ready;
    bool valid;
    struct lsm_row row;
    struct table_iterator iterator;
};

struct cursor_buffer {
    uint8_t *bytes;
    size_t used, capacity;
};

/* What the sources' position means.
 * C1  FORWARD: the first live source is on the row last returned.
 * C2  BACKWARD: as C1, but with newest_only the sources have passed all rows of that key. */
enum cursor_state { CURSOR_NOWHERE, CURSOR_FORWARD, CURSOR_BACKWARD, CURSOR_END, CURSOR_BEGIN };

struct lsm_cursor {
    struct lsm_reader *reader;
    struct reader_view *held;
    struct reader_blocks blocks;
    enum cursor_state state;
    bool newest_only, memory_only, bounded, going_back;
    struct lsm_version version_max;
    struct cursor_buffer lower, upper; /* bounded: upper is one */
    struct cursor_buffer key, value;   /* key of the row last returned; value when copied */
    struct lsm_version version;
    uint32_t steps; /* since the last look at the clock */
    uint32_t source_count, source_max, live;
    struct cursor_source *sources;
    struct cursor_source **order;
    struct lsm_cursor *idle_next;
};

/* ---- small things ----------------------------------------------------------------------------
 */

static void cursor_copy(struct cursor_buffer *to, struct bytes from)
{
    if (from.size > to->capacity) {
        to->capacity = u64_max(from.size, 64);
        to->bytes = realloc(to->bytes, to->capacity);
        if (to->bytes == NULL)
            fatal("out of memory for a key of %zu bytes", from.size);
    }
    if (from.size > 0)
        memmove(to->bytes, from.data, from.size); /* a caller may pass a row's key back */
    to->used = from.size;
}

static struct bytes cursor_bytes(const struct cursor_buffer *buffer)
{
    return bytes_make(buffer->bytes, buffer->used);
}

static int cursor_row_compare(const struct lsm_row *a, const struct lsm_row *b)
{
    int order = bytes_compare(a->key, b->key);
    return order != 0 ? order : lsm_version_compare(b->version, a->version);
}

/* ---- sources ---------------------------------------------------------------------------------
 */

static int source_take(struct cursor_source *source, int status)
{
    source->valid = status == 1;
    if (status == 1)
        table_iterator_row(&source->iterator, &source->row);
    return status < 0 ? status : 0;
}

static void source_take_version(struct cursor_source *source,
                                const struct memtable_version *version)
{
    source->version = version;
    source->valid = version != NULL;
    if (version != NULL)
        memtable_row(version, &source->row);
}

/* First row of the next table, while the present one has no more. */
static int source_roll_forward(struct cursor_source *source, int status)
{
    while (status == 0 && source->at + 1 < source->table_count) {
        table_iterator_open(&source->iterator, source->tables[++source->at]);
        status = table_iterator_first(&source->iterator);
    }
    return source_take(source, status);
}

static int source_roll_back(struct cursor_source *source, int status)
{
    while (status == 0 && source->at > 0) {
        table_iterator_open(&source->iterator, source->tables[--source->at]);
        status = table_iterator_last(&source->iterator);
    }
    return source_take(source, status);
}

static uint32_t source_find(const struct cursor_source *source, struct bytes key)
{
    uint32_t low = 0, high = source->table_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (bytes_compare(source->tables[middle]->largest, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void source_open(struct cursor_source *source, uint32_t at)
{
    source->at = at;
    if (source->iterator.table != source->tables[at])
        table_iterator_open(&source->iterator, source->tables[at]);
}

static int source_seek(struct cursor_source *source, struct bytes key, struct lsm_version version)
{
    if (source->memtable != NULL) {
        source_take_version(source, memtable_seek(source->memtable, key, version));
        return 0;
    }
    uint32_t at = source_find(source, key);
    if (at == source->table_count) {
        source->valid = false;
        return 0;
    }
    source_open(source, at);
    struct sst_target target = sst_target_make(key, version);
    return source_roll_forward(source, table_iterator_seek(&source->iterator, &target));
}

static int source_seek_before(struct cursor_source *source, struct bytes key,
                              struct lsm_version version)
{
    if (source->memtable != NULL) {
        source_take_version(source, memtable_seek_before(source->memtable, key, version));
        return 0;
    }
    uint32_t at = source_find(source, key);
    if (at == source->table_count) {
        source_open(source, at - 1);
        return source_roll_back(source, table_iterator_last(&source->iterator));
    }
    source_open(source, at);
    struct sst_target target = sst_target_make(key, version);
    int status = table_iterator_seek(&source->iterator, &target);
    if (status == 1)
        status = table_iterator_prev(&source->iterator);
    else if (status == 0)
        status = table_iterator_last(&source->iterator);
    return source_roll_back(source, status);
}

static int source_last(struct cursor_source *source)
{
    if (source->memtable != NULL) {
        source_take_version(source, memtable_last(source->memtable));
        return 0;
    }
    source_open(source, source->table_count - 1);
    return source_roll_back(source, table_iterator_last(&source->iterator));
}

static int source_next(struct cursor_source *source)
{
    invariant(source->valid);
    if (source->memtable != NULL) {
        source_take_version(source, memtable_next(source->version));
        return 0;
    }
    return source_roll_forward(source, table_iterator_next(&source->iterator));
}

static int source_prev(struct cursor_source *source)
{
    invariant(source->valid);
    if (source->memtable != NULL) {
        source_take_version(
            source, memtable_seek_before(source->memtable, source->row.key, source->row.version));
        return 0;
    }
    return source_roll_back(source, table_iterator_prev(&source->iterator));
}

/* ---- merging ---------------------------------------------------------------------------------
 */

static bool cursor_precedes(const struct lsm_cursor *cursor, const struct cursor_source *a,
                            const struct cursor_source *b)
{
    int order = cursor_row_compare(&a->row, &b->row);
    return cursor->going_back ? order > 0 : order < 0;
}

static void cursor_sort(struct lsm_cursor *cursor)
{
    cursor->live = 0;
    for (uint32_t i = 0; i < cursor->source_count; i++) {
        struct cursor_source *source = &cursor->sources[i];
        if (!source->valid)
            continue;
        uint32_t at = cursor->live++;
        while (at > 0 && cursor_precedes(cursor, source, cursor->order[at - 1])) {
            cursor->order[at] = cursor->order[at - 1];
            at--;
        }
        cursor->order[at] = source;
    }
}

static int cursor_place(struct lsm_cursor *cursor, bool back, const struct bytes *key,
                        struct lsm_version version)
{
    cursor->going_back = back;
    for (uint32_t i = 0; i < cursor->source_count; i++) {
        struct cursor_source *source = &cursor->sources[i];
        int status = key == NULL ? source_last(source)
                     : back      ? source_seek_before(source, *key, version)
                                 : source_seek(source, *key, version);
        if (status < 0)
            return status;
    }
    cursor_sort(cursor);
    return 0;
}

/* All sources to the first row at or after, or to the last row before, (key, version). */
static int cursor_place_at(struct lsm_cursor *cursor, struct bytes key, struct lsm_version version)
{
    return cursor_place(cursor, false, &key, version);
}

static int cursor_place_before(struct lsm_cursor *cursor, struct bytes key,
                               struct lsm_version version)
{
    return cursor_place(cursor, true, &key, version);
}

static int cursor_step(struct lsm_cursor *cursor)
{
    invariant(cursor->live > 0);
    struct cursor_source *source = cursor->order[0];
    int status = cursor->going_back ? source_prev(source) : source_next(source);
    if (status < 0)
        return status;
    if (!source->valid)
        cursor->live--;
    uint32_t at = 0;
    while (at + 1 < cursor->live + !source->valid &&
           (!source->valid || cursor_precedes(cursor, cursor->order[at + 1], source))) {
        cursor->order[at] = cursor->order[at + 1];
        at++;
    }
    cursor->order[at] = source; /* a source that ended lands behind the live ones */
    if (++cursor->steps >= CURSOR_YIELD_STEPS && !cursor->memory_only) {
        cursor->steps = 0;
        if (fiber_should_yield())
            fiber_yield();
    }
    return 0;
}

static const struct lsm_row *cursor_top(const struct lsm_cursor *cursor)
{
    return cursor->live == 0 ? NULL : &cursor->order[0]->row;
}

/* ---- moves -----------------------------------------------------------------------------------
 */

static int cursor_stop(struct lsm_cursor *cursor, enum cursor_state state)
{
    cursor->state = state;
    return 0;
}

/* From wherever the sources are, the first row that the cursor shows. */
static int cursor_emit_forward(struct lsm_cursor *cursor, struct lsm_row *row)
{
    uint32_t skips = 0;
    for (;;) {
        const struct lsm_row *top = cursor_top(cursor);
        if (top == NULL ||
            (cursor->bounded && bytes_compare(top->key, cursor_bytes(&cursor->upper)) >= 0))
            return cursor_stop(cursor, CURSOR_END);
        if (lsm_version_compare(top->version, cursor->version_max) <= 0) {
            cursor_copy(&cursor->key, top->key);
            cursor->version = top->version;
            cursor->state = CURSOR_FORWARD;
            *row = *top;
            return 1;
        }
        int status;
        if (++skips % CURSOR_SKIPS_MAX == 0) {
            cursor_copy(&cursor->key, top->key);
            status = cursor_place_at(cursor, cursor_bytes(&cursor->key), cursor->version_max);
        } else {
            status = cursor_step(cursor);
        }
        if (status < 0)
            return status;
    }
}

/* Past every row of the key last returned. */
static int cursor_skip_key(struct lsm_cursor *cursor)
{
    struct bytes key = cursor_bytes(&cursor->key);
    const struct lsm_row *top;
    for (uint32_t skips = 1; (top = cursor_top(cursor)) != NULL && bytes_equal(top->key, key);
         skips++) {
        int status = skips == CURSOR_SKIPS_MAX
                         ? cursor_place_at(cursor, key, (struct lsm_version){0, 0})
                         : cursor_step(cursor);
        if (status < 0)
            return status;
    }
    return 0;
}

int lsm_cursor_next(struct lsm_cursor *cursor, struct lsm_row *row)
{
    int status = 0;
    switch (cursor->state) {
    case CURSOR_END:
        return 0;
    case CURSOR_NOWHERE:
    case CURSOR_BEGIN:
        status = cursor_place_at(cursor, cursor_bytes(&cursor->lower), LSM_VERSION_MAX);
        break;
    case CURSOR_FORWARD:
        status = cursor->newest_only ? cursor_skip_key(cursor) : cursor_step(cursor);
        break;
    case CURSOR_BACKWARD: {
        struct lsm_version from =
            cursor->newest_only ? (struct lsm_version){0, 0} : cursor->version;
        status = cursor_place_at(cursor, cursor_bytes(&cursor->key), from);
        const struct lsm_row *top = cursor_top(cursor);
        if (status == 0 && top != NULL && lsm_version_compare(top->version, from) == 0 &&
            bytes_equal(top->key, cursor_bytes(&cursor->key)))
            status = cursor_step(cursor);
        break;
    }
    }
    return status < 0 ? status : cursor_emit_forward(cursor, row);
}

static void cursor_keep(struct lsm_cursor *cursor, const struct lsm_row *top)
{
    cursor_copy(&cursor->key, top->key);
    cursor_copy(&cursor->value, top->value);
    cursor->version = top->version;
}

/* Going back, the oldest version of a key comes first; the newest visible one is the last before a
 * version that is too new or another key. */
static int cursor_emit_newest_back(struct lsm_cursor *cursor, struct lsm_row *row)
{
    const struct lsm_row *top = cursor_top(cursor);
    enum lsm_kind kind;
    do {
        kind = top->kind;
        cursor_keep(cursor, top);
        int status = cursor_step(cursor);
        if (status < 0)
            return status;
        top = cursor_top(cursor);
    } while (top != NULL && bytes_equal(top->key, cursor_bytes(&cursor->key)) &&
             lsm_version_compare(top->version, cursor->version_max) <= 0);
    *row = (struct lsm_row){.key = cursor_bytes(&cursor->key),
                            .value = cursor_bytes(&cursor->value),
                            .version = cursor->version,
                            .kind = kind};
    cursor->state = CURSOR_BACKWARD;
    return 1;
}

static int cursor_emit_back(struct lsm_cursor *cursor, struct lsm_row *row)
{
    for (;;) {
        const struct lsm_row *top = cursor_top(cursor);
        if (top == NULL || bytes_compare(top->key, cursor_bytes(&cursor->lower)) < 0)
            return cursor_stop(cursor, CURSOR_BEGIN);
        if (lsm_version_compare(top->version, cursor->version_max) <= 0) {
            if (cursor->newest_only)
                return cursor_emit_newest_back(cursor, row);
            cursor_copy(&cursor->key, top->key);
            cursor->version = top->version;
            cursor->state = CURSOR_BACKWARD;
            *row = *top;
            return 1;
        }
        int status = cursor_step(cursor);
        if (status < 0)
            return status;
    }
}

int lsm_cursor_prev(struct lsm_cursor *cursor, struct lsm_row *row)
{
    int status = 0;
    switch (cursor->state) {
    case CURSOR_BEGIN:
        return 0;
    case CURSOR_NOWHERE:
    case CURSOR_END:
        if (cursor->bounded)
            status = cursor_place_before(cursor, cursor_bytes(&cursor->upper), LSM_VERSION_MAX);
        else
            status = cursor_place(cursor, true, NULL, LSM_VERSION_MAX);
        break;
    case CURSOR_FORWARD:
        status = cursor_place_before(cursor, cursor_bytes(&cursor->key),
                                     cursor->newest_only ? LSM_VERSION_MAX : cursor->version);
        break;
    case CURSOR_BACKWARD:
        status = cursor->newest_only ? 0 : cursor_step(cursor); /* C2 */
        break;
    }
    return status < 0 ? status : cursor_emit_back(cursor, row);
}

int lsm_cursor_seek(struct lsm_cursor *cursor, struct bytes key, struct lsm_row *row)
{
    struct bytes lower = cursor_bytes(&cursor->lower);
    if (bytes_compare(key, lower) < 0)
        key = lower;
    if (cursor->bounded && bytes_compare(key, cursor_bytes(&cursor->upper)) >= 0)
        return cursor_stop(cursor, CURSOR_END);
    cursor_copy(&cursor->key, key); /* it may be a row's, which moves with the sources */
    int status = cursor_place_at(cursor, cursor_bytes(&cursor->key), LSM_VERSION_MAX);
    return status < 0 ? status : cursor_emit_forward(cursor, row);
}

int lsm_cursor_seek_before(struct lsm_cursor *cursor, struct bytes key, struct lsm_row *row)
{
    if (cursor->bounded && bytes_compare(key, cursor_bytes(&cursor->upper)) > 0)
        key = cursor_bytes(&cursor->upper);
    if (bytes_compare(key, cursor_bytes(&cursor->lower)) <= 0)
        return cursor_stop(cursor, CURSOR_BEGIN);
    cursor_copy(&cursor->key, key);
    int status = cursor_place_before(cursor, cursor_bytes(&cursor->key), LSM_VERSION_MAX);
    return status < 0 ? status : cursor_emit_back(cursor, row);
}

/* ---- open and close --------------------------------------------------------------------------
 */

static struct cursor_source *cursor_source_add(struct lsm_cursor *cursor)
{
    invariant(cursor->source_count < cursor->source_max);
    struct cursor_source *source = &cursor->sources[cursor->source_count++];
    source->memtable = NULL;
    source->version = NULL;
    source->valid = false;
    source->iterator_ready = false;
    return source;
}

/* `tables` are disjoint and sorted; only those that can hold rows between the bounds take part. */
static void cursor_add_tables(struct lsm_cursor *cursor, struct lsm_table *const *tables,
                              uint32_t count)
{
    uint32_t first = lsm_tables_reach(tables, count, cursor_bytes(&cursor->lower));
    uint32_t end =
        cursor->bounded ? lsm_tables_begin(tables, count, cursor_bytes(&cursor->upper)) : count;
    if (first >= end)
        return;
    struct cursor_source *source = cursor_source_add(cursor);
    source->tables = tables + first;
    source->table_count = end - first;
    source->iterator_ready = true;
    table_iterator_init(&source->iterator, &cursor->blocks.blocks,
                        cursor->memory_only ? 0 : CURSOR_WINDOW_BYTES);
}

static void cursor_add_sources(struct lsm_cursor *cursor, const struct lsm_view *view)
{
    const struct lsm_levels *levels = view->levels;
    for (uint32_t i = 0; i < view->memtable_count; i++)
        cursor_source_add(cursor)->memtable = view->memtables[i];
    for (uint32_t i = 0; i < levels->level[0].count; i++)
        cursor_add_tables(cursor, &levels->level[0].tables[i], 1);
    for (uint32_t level = 1; level < LSM_LEVELS; level++)
        cursor_add_tables(cursor, levels->level[level].tables, levels->level[level].count);
}

static int cursor_reserve(struct lsm_cursor *cursor, uint32_t sources)
{
    if (sources <= cursor->source_max)
        return 0;
    free(cursor->sources);
    free(cursor->order);
    cursor->source_max = sources;
    cursor->sources = malloc(sources * sizeof(cursor->sources[0]));
    cursor->order = malloc(sources * sizeof(cursor->order[0]));
    if (cursor->sources != NULL && cursor->order != NULL)
        return 0;
    cursor->source_max = 0;
    return -ENOMEM;
}

static void cursor_free(struct lsm_cursor *cursor)
{
    free(cursor->lower.bytes);
    free(cursor->upper.bytes);
    free(cursor->key.bytes);
    free(cursor->value.bytes);
    free(cursor->sources);
    free(cursor->order);
    free(cursor);
}

static struct lsm_cursor *cursor_take(struct lsm_reader *reader)
{
    struct lsm_cursor *cursor = reader->idle_cursors;
    if (cursor == NULL)
        return calloc(1, sizeof(*cursor));
    reader->idle_cursors = cursor->idle_next;
    reader->idle_cursor_count--;
    return cursor;
}

int lsm_cursor_open(struct lsm_reader *reader, const struct lsm_cursor_options *options,
                    struct lsm_cursor **result)
{
    invariant(core_current() == reader->core);
    struct lsm_cursor *cursor = cursor_take(reader);
    if (cursor == NULL)
        return -ENOMEM;
    struct reader_view *held = reader_view_acquire(reader); /* once: it may change any time */
    uint32_t sources = held->view->memtable_count + held->view->levels->level[0].count + LSM_LEVELS;
    int status = cursor_reserve(cursor, sources);
    if (status < 0) {
        reader_view_release(reader, held);
        cursor_free(cursor);
        return status;
    }
    cursor->reader = reader;
    cursor->held = held;
    reader_blocks_init(&cursor->blocks, reader, !options->memory_only, CACHE_LOW);
    cursor->state = CURSOR_NOWHERE;
    cursor->newest_only = options->newest_only;
    cursor->memory_only = options->memory_only;
    cursor->bounded = options->upper.size > 0;
    cursor->version_max = options->version_max;
    cursor_copy(&cursor->lower, options->lower);
    cursor_copy(&cursor->upper, options->upper);
    cursor->source_count = cursor->live = cursor->steps = 0;
    cursor_add_sources(cursor, cursor->held->view);
    reader->stats.cursors++;
    reader->cursors_open++;
    *result = cursor;
    return 0;
}

void lsm_cursor_close(struct lsm_cursor *cursor)
{
    struct lsm_reader *reader = cursor->reader;
    invariant(reader->cursors_open > 0);
    for (uint32_t i = 0; i < cursor->source_count; i++)
        if (cursor->sources[i].iterator_ready)
            table_iterator_deinit(&cursor->sources[i].iterator);
    cursor->source_count = 0;
    reader_view_release(reader, cursor->held);
    cursor->held = NULL;
    reader->cursors_open--;
    if (reader->idle_cursor_count == CURSORS_IDLE_MAX) {
        cursor_free(cursor);
        return;
    }
    cursor->idle_next = reader->idle_cursors;
    reader->idle_cursors = cursor;
    reader->idle_cursor_count++;
}

void lsm_cursors_free(struct lsm_reader *reader)
{
    while (reader->idle_cursors != NULL)
        cursor_free(cursor_take(reader));
}
