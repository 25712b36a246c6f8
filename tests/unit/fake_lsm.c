#include "tests/unit/fake_lsm.h"

#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"

struct fake_row {
    struct bytes key, value;
    struct lsm_version version;
    enum lsm_kind kind;
    uint64_t index; /* of the commit that holds it */
};

struct lsm_reader {
    struct lsm *lsm;
};

struct lsm {
    struct fake_row **rows; /* in row order */
    uint64_t count, capacity;
    uint64_t applied_index, applied_term, flushed_index, flushed_term;
    const struct lsm_filter *filter;
    struct lsm_reader reader;
    struct arena memory;
    struct prng prng;
    uint64_t pins;
    uint32_t pressure;
    int failure;
    uint64_t durable_index;
    void (*meanwhile)(void *context); /* NULL: nothing to do */
    void *meanwhile_context;
};

struct lsm_cursor {
    struct lsm *lsm;
    struct fake_row **rows;
    int64_t count, at; /* -1: before the first, count: past the last */
    bool started;
};

struct lsm *fake_lsm_create(uint64_t seed)
{
    struct lsm *lsm = calloc(1, sizeof(*lsm));
    invariant(lsm != NULL);
    arena_init(&lsm->memory, 0);
    prng_init(&lsm->prng, seed);
    lsm->reader.lsm = lsm;
    return lsm;
}

void fake_lsm_destroy(struct lsm *lsm)
{
    invariant(lsm->pins == 0);
    arena_deinit(&lsm->memory);
    free(lsm->rows);
    free(lsm);
}

struct lsm_reader *fake_lsm_reader(struct lsm *lsm)
{
    return &lsm->reader;
}

void fake_lsm_set_filter(struct lsm *lsm, const struct lsm_filter *filter)
{
    lsm->filter = filter;
}

void fake_lsm_meanwhile(struct lsm *lsm, void (*meanwhile)(void *context), void *context)
{
    lsm->meanwhile = meanwhile;
    lsm->meanwhile_context = context;
}

void fake_lsm_set_pressure(struct lsm *lsm, uint32_t pressure)
{
    lsm->pressure = pressure;
}

uint32_t lsm_pressure(const struct lsm *lsm)
{
    return lsm->pressure;
}

void fake_lsm_set_failure(struct lsm *lsm, int failure)
{
    lsm->failure = failure;
}

int lsm_failure(const struct lsm *lsm)
{
    return lsm->failure;
}

uint64_t lsm_installs(const struct lsm *lsm)
{
    return lsm->flushed_index;
}

void lsm_set_durable_index(struct lsm *lsm, uint64_t index)
{
    lsm->durable_index = u64_max(lsm->durable_index, index);
}

uint64_t fake_lsm_durable_index(const struct lsm *lsm)
{
    return lsm->durable_index;
}

uint64_t fake_lsm_rows(const struct lsm *lsm)
{
    return lsm->count;
}

uint64_t fake_lsm_table_rows(const struct lsm *lsm, char table)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < lsm->count; i++)
        count += lsm->rows[i]->key.data[0] == (uint8_t)table;
    return count;
}

uint64_t fake_lsm_pins(const struct lsm *lsm)
{
    return lsm->pins;
}

/* ---- the writer ---------------------------------------------------------------------------------
 */

/* The first row at or after (key, version): newer versions come first. */
static uint64_t row_rank(const struct lsm *lsm, struct bytes key, struct lsm_version version)
{
    uint64_t low = 0, high = lsm->count;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        int order = bytes_compare(lsm->rows[middle]->key, key);
        if (order == 0)
            order = lsm_version_compare(version, lsm->rows[middle]->version);
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void lsm_insert(struct lsm *lsm, struct bytes key, struct lsm_version version, enum lsm_kind kind,
                struct bytes value)
{
    uint64_t rank = row_rank(lsm, key, LSM_VERSION_MAX);
    invariant(key.size > 0 && key.size <= LSM_KEY_BYTES_MAX);
    invariant(rank == lsm->count || !bytes_equal(lsm->rows[rank]->key, key) ||
              lsm_version_compare(lsm->rows[rank]->version, version) < 0);
    if (lsm->count == lsm->capacity) {
        lsm->capacity = lsm->capacity == 0 ? 64 : lsm->capacity * 2;
        lsm->rows = realloc(lsm->rows, lsm->capacity * sizeof(struct fake_row *));
        invariant(lsm->rows != NULL);
    }
    struct fake_row *row = arena_take(&lsm->memory, sizeof(*row));
    invariant(row != NULL);
    *row = (struct fake_row){.key = arena_copy(&lsm->memory, key),
                             .value = arena_copy(&lsm->memory, value),
                             .version = version,
                             .kind = kind,
                             .index = UINT64_MAX};
    memmove(lsm->rows + rank + 1, lsm->rows + rank,
            (lsm->count - rank) * sizeof(struct fake_row *));
    lsm->rows[rank] = row;
    lsm->count++;
}

static void row_show(const struct fake_row *from, struct lsm_row *row)
{
    *row =
        (struct lsm_row){.key = from->key,
                         .value = from->kind == LSM_TOMBSTONE ? bytes_make(NULL, 0) : from->value,
                         .version = from->version,
                         .kind = from->kind};
}

int lsm_find_newest_in_memory(struct lsm *lsm, struct bytes key, struct lsm_row *row)
{
    uint64_t rank = row_rank(lsm, key, LSM_VERSION_MAX);
    if (rank == lsm->count || !bytes_equal(lsm->rows[rank]->key, key) ||
        lsm->rows[rank]->index <= lsm->flushed_index)
        return ERR_NOT_FOUND;
    row_show(lsm->rows[rank], row);
    return 0;
}

void lsm_prefetch(const struct lsm *lsm, const struct bytes *keys, uint32_t count)
{
    (void)lsm;
    for (uint32_t i = 0; i < count; i++)
        invariant(keys[i].size > 1 && keys[i].data[0] == 'k');
}

void lsm_commit(struct lsm *lsm, uint64_t applied_index, uint64_t term)
{
    invariant(applied_index > lsm->applied_index);
    for (uint64_t i = 0; i < lsm->count; i++)
        if (lsm->rows[i]->index == UINT64_MAX)
            lsm->rows[i]->index = applied_index;
    lsm->applied_index = applied_index;
    lsm->applied_term = term;
}

void lsm_applied(const struct lsm *lsm, uint64_t *index, uint64_t *term)
{
    *index = lsm->applied_index;
    *term = lsm->applied_term;
}

uint64_t lsm_flushed_index(const struct lsm *lsm)
{
    return lsm->flushed_index;
}

void lsm_garbage_changed(struct lsm *lsm)
{
    (void)lsm;
}

void lsm_flush_begin(struct lsm *lsm)
{
    fake_lsm_flush(lsm);
}

/* ---- what happens by itself in a real one -----------------------------------------------------
 */

void fake_lsm_flush(struct lsm *lsm)
{
    lsm->flushed_index = lsm->applied_index;
    lsm->flushed_term = lsm->applied_term;
}

void fake_lsm_crash(struct lsm *lsm)
{
    uint64_t kept = 0;
    invariant(lsm->pins == 0);
    for (uint64_t i = 0; i < lsm->count; i++)
        if (lsm->rows[i]->index <= lsm->flushed_index)
            lsm->rows[kept++] = lsm->rows[i];
    lsm->count = kept;
    lsm->applied_index = lsm->flushed_index;
    lsm->applied_term = lsm->flushed_term;
}

void fake_lsm_merge(struct lsm *lsm, uint64_t from_index, uint64_t to_index)
{
    void *job = lsm->filter->begin(lsm->filter->context);
    const struct fake_row *newer = NULL;
    uint64_t kept = 0;
    for (uint64_t i = 0; i < lsm->count; i++) {
        struct fake_row *row = lsm->rows[i];
        if (row->index < from_index || row->index > u64_min(to_index, lsm->flushed_index)) {
            lsm->rows[kept++] = row;
            continue;
        }
        struct lsm_row shown;
        row_show(row, &shown);
        struct lsm_filter_row filtered = {.row = &shown, .bottom = true};
        if (newer != NULL && bytes_equal(newer->key, row->key)) {
            filtered.newer_exists = true;
            filtered.newer_version = newer->version;
        }
        for (uint64_t j = i + 1; j < lsm->count && bytes_equal(lsm->rows[j]->key, row->key); j++)
            filtered.bottom = filtered.bottom && lsm->rows[j]->index >= from_index;
        if (lsm->filter->keep(job, &filtered))
            lsm->rows[kept++] = row;
        newer = row;
    }
    lsm->count = kept;
    lsm->filter->end(job);
}

/* ---- readers ------------------------------------------------------------------------------------
 */

int lsm_get(struct lsm_reader *reader, struct bytes key, struct lsm_version version_max,
            struct lsm_row *row)
{
    struct lsm *lsm = reader->lsm;
    uint64_t rank = row_rank(lsm, key, version_max);
    if (rank == lsm->count || !bytes_equal(lsm->rows[rank]->key, key))
        return ERR_NOT_FOUND;
    row_show(lsm->rows[rank], row);
    row->key = key;
    lsm->pins++;
    return 0;
}

int lsm_get_now(struct lsm_reader *reader, struct bytes key, struct lsm_version version_max,
                struct lsm_row *row)
{
    struct lsm *lsm = reader->lsm;
    uint64_t rank = row_rank(lsm, key, version_max);
    bool in_memory = rank < lsm->count && bytes_equal(lsm->rows[rank]->key, key) &&
                     lsm->rows[rank]->index > lsm->flushed_index;
    if (!in_memory && prng_chance(&lsm->prng, 1, 4))
        return ERR_WOULD_WAIT;
    return lsm_get(reader, key, version_max, row);
}

void lsm_reader_prefetch(struct lsm_reader *reader, const struct bytes *keys, uint32_t count)
{
    (void)reader;
    (void)keys;
    invariant(count <= LSM_READER_PREFETCH_MAX);
}

void lsm_row_release(struct lsm_reader *reader, struct lsm_row *row)
{
    invariant(reader->lsm->pins > 0);
    reader->lsm->pins--;
    row->value = bytes_make(NULL, 0);
}

int lsm_cursor_open(struct lsm_reader *reader, const struct lsm_cursor_options *options,
                    struct lsm_cursor **cursor)
{
    struct lsm *lsm = reader->lsm;
    struct lsm_cursor *opened = calloc(1, sizeof(*opened));
    invariant(opened != NULL);
    opened->lsm = lsm;
    opened->rows = calloc(lsm->count + 1, sizeof(struct fake_row *));
    invariant(opened->rows != NULL);
    const struct fake_row *last = NULL;
    for (uint64_t i = 0; i < lsm->count; i++) {
        struct fake_row *row = lsm->rows[i];
        if (bytes_compare(row->key, options->lower) < 0 ||
            (options->upper.size != 0 && bytes_compare(row->key, options->upper) >= 0) ||
            lsm_version_compare(row->version, options->version_max) > 0)
            continue;
        if (options->newest_only && last != NULL && bytes_equal(last->key, row->key))
            continue;
        opened->rows[opened->count++] = row;
        last = row;
    }
    opened->at = -1;
    lsm->pins++;
    *cursor = opened;
    return 0;
}

void lsm_cursor_close(struct lsm_cursor *cursor)
{
    cursor->lsm->pins--;
    free(cursor->rows);
    free(cursor);
}

static int cursor_show(const struct lsm_cursor *cursor, struct lsm_row *row)
{
    void (*meanwhile)(void *context) = cursor->lsm->meanwhile;
    cursor->lsm->meanwhile = NULL;
    if (meanwhile != NULL)
        meanwhile(cursor->lsm->meanwhile_context);
    if (cursor->at < 0 || cursor->at >= cursor->count)
        return 0;
    row_show(cursor->rows[cursor->at], row);
    return 1;
}

int lsm_cursor_next(struct lsm_cursor *cursor, struct lsm_row *row)
{
    cursor->started = true;
    if (cursor->at < cursor->count)
        cursor->at++;
    return cursor_show(cursor, row);
}

int lsm_cursor_prev(struct lsm_cursor *cursor, struct lsm_row *row)
{
    if (!cursor->started)
        cursor->at = cursor->count;
    cursor->started = true;
    if (cursor->at >= 0)
        cursor->at--;
    return cursor_show(cursor, row);
}

int lsm_cursor_seek(struct lsm_cursor *cursor, struct bytes key, struct lsm_row *row)
{
    cursor->started = true;
    for (cursor->at = 0; cursor->at < cursor->count; cursor->at++)
        if (bytes_compare(cursor->rows[cursor->at]->key, key) >= 0)
            break;
    return cursor_show(cursor, row);
}

int lsm_cursor_seek_before(struct lsm_cursor *cursor, struct bytes key, struct lsm_row *row)
{
    cursor->started = true;
    for (cursor->at = cursor->count - 1; cursor->at >= 0; cursor->at--)
        if (bytes_compare(cursor->rows[cursor->at]->key, key) < 0)
            break;
    return cursor_show(cursor, row);
}
