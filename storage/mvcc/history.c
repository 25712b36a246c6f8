/* What happened, in order: history for watches; and the hash that members compare. */
#include "storage/mvcc/mvcc_private.h"

#include <errno.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/err.h"
#include "core/invariant.h"

/* ---- history ------------------------------------------------------------------------------------
 */

struct mvcc_history {
    struct mvcc_reader *reader;
    struct bytes key, range_end; /* key empty: everything */
    int64_t revision;
    bool prev_kv;
    struct lsm_cursor *cursor; /* over table r; pins one view */
    struct mvcc_buffer row_key;
    struct lsm_row row, prev_row; /* pinned for the event handed out */
    bool has_row, has_prev_row;
    uint32_t step;
};

int mvcc_history_open(struct mvcc_reader *reader, const struct mvcc_history_options *options,
                      struct mvcc_history **history)
{
    struct mvcc_state state = mvcc_shared_state(reader->shared);
    if (options->from_revision < state.compacted)
        return ERR_COMPACTED;
    int64_t last = state.revision;
    if (options->to_revision > 0 && options->to_revision < last)
        last = options->to_revision;
    struct mvcc_history *opened = calloc(1, sizeof(*opened));
    if (opened == NULL)
        return -ENOMEM;
    opened->reader = reader;
    opened->key = options->key;
    opened->range_end = options->range_end;
    opened->revision = last;
    opened->prev_kv = options->prev_kv;
    uint8_t lower[MVCC_HISTORY_KEY_BYTES], upper[MVCC_HISTORY_KEY_BYTES];
    uint64_t from = options->from_revision > 0 ? (uint64_t)options->from_revision : 0;
    struct lsm_cursor_options bounds = {
        .lower = mvcc_row_history_key(lower, u64_min(from, (uint64_t)last + 1), 0),
        .upper = mvcc_row_history_key(upper, (uint64_t)last + 1, 0),
        .version_max = mvcc_version_at(last)};
    int error = lsm_cursor_open(reader->lsm, &bounds, &opened->cursor);
    if (error == 0 && options->from_revision < mvcc_shared_state(reader->shared).compacted) {
        lsm_cursor_close(opened->cursor);
        error = ERR_COMPACTED; /* while it was being opened: the view may lack rows */
    }
    if (error != 0) {
        free(opened);
        return error;
    }
    reader->scans++;
    *history = opened;
    return 0;
}

int64_t mvcc_history_revision(const struct mvcc_history *history)
{
    return history->revision;
}

static void history_release(struct mvcc_history *history)
{
    if (history->has_row)
        lsm_row_release(history->reader->lsm, &history->row);
    if (history->has_prev_row)
        lsm_row_release(history->reader->lsm, &history->prev_row);
    history->has_row = history->has_prev_row = false;
}

void mvcc_history_close(struct mvcc_history *history)
{
    invariant(history->reader->scans > 0);
    history_release(history);
    lsm_cursor_close(history->cursor);
    history->reader->scans--;
    free(history->row_key.data);
    free(history);
}

/* 1: *kv is the version that a history row names. 0: a transaction at the compacted revision itself
 * replaced it, and only the last word of a revision survives there; stock etcd loses it as well. */
static int history_put(struct mvcc_history *history, const struct mvcc_history_row *change,
                       struct bytes row_key, struct mvcc_kv *kv)
{
    struct mvcc_view view = {.lsm = history->reader->lsm,
                             .at = {.main = (uint64_t)change->revision, .sub = change->sub}};
    int found = mvcc_view_get(&view, row_key, &history->row, kv);
    if (found < 0)
        return found;
    history->has_row = found > 0;
    if (found > 0 && kv->mod_revision == change->revision &&
        history->row.version.sub == change->sub)
        return 1;
    int64_t compacted = mvcc_shared_state(history->reader->shared).compacted;
    if (compacted == change->revision)
        return 0;
    return compacted > change->revision ? ERR_COMPACTED : ERR_CORRUPT;
}

static int history_prev(struct mvcc_history *history, const struct mvcc_history_row *change,
                        struct bytes row_key, struct mvcc_event *event)
{
    struct mvcc_view view = {.lsm = history->reader->lsm,
                             .at = mvcc_version_at(change->revision - 1)};
    /* Judged by the watermark, not by what is still there: members answer alike. */
    if (change->revision - 1 < mvcc_shared_state(history->reader->shared).compacted)
        return 0;
    int found = mvcc_view_get(&view, row_key, &history->prev_row, &event->prev_kv);
    if (found <= 0)
        return found;
    history->has_prev_row = true;
    /* Purged between the look at the watermark and the read? */
    event->has_prev_kv =
        change->revision - 1 >= mvcc_shared_state(history->reader->shared).compacted;
    return 0;
}

/* 1: *event is set. 0: skip this one. */
static int history_fill(struct mvcc_history *history, const struct mvcc_history_row *change,
                        struct mvcc_event *event)
{
    int found = 1;
    uint8_t *at = mvcc_buffer_take(&history->row_key, change->key.size + 1);
    struct bytes row_key = mvcc_row_key(at, change->key);
    *event = (struct mvcc_event){.kind = change->kind, .sub = change->sub};
    switch (change->kind) {
    case MVCC_CHANGE_PUT:
        found = history_put(history, change, row_key, &event->kv);
        break;
    case MVCC_CHANGE_DELETE:
        event->kv =
            (struct mvcc_kv){.key = mvcc_row_user_key(row_key), .mod_revision = change->revision};
        break;
    }
    bool created = change->kind == MVCC_CHANGE_PUT && event->kv.version == 1;
    if (found > 0 && history->prev_kv && !created) {
        int error = history_prev(history, change, row_key, event);
        if (error != 0)
            return error;
    }
    return found;
}

int mvcc_history_next(struct mvcc_history *history, struct mvcc_event *event)
{
    struct lsm_row row;
    int found;
    history_release(history);
    while ((found = lsm_cursor_next(history->cursor, &row)) > 0) {
        struct mvcc_history_row change;
        int error = mvcc_row_decode_history(&row, &change);
        if (error != 0)
            return error;
        mvcc_breathe(&history->step);
        if (history->key.size != 0 &&
            !mvcc_interval_holds(history->key, history->range_end, change.key))
            continue;
        invariant(change.revision <= history->revision);
        int filled = history_fill(history, &change, event);
        if (filled != 0)
            return filled;
        history_release(history);
    }
    return found;
}

/* ---- hash ---------------------------------------------------------------------------------------
 */

/* What logical compaction at `compacted` retains, whatever has been purged so far. The rule is the
 * compaction filter's. Rows of a key come newest first. */
struct hash_walk {
    int64_t compacted;
    bool newest_below_seen; /* of this key, at or below the watermark */
    uint32_t crc;
};

static void hash_row(struct hash_walk *walk, const struct lsm_row *row)
{
    if (walk->compacted >= 0 && row->version.main <= (uint64_t)walk->compacted) {
        if (walk->newest_below_seen)
            return;
        walk->newest_below_seen = true;
        if (row->kind == LSM_TOMBSTONE && row->version.main != (uint64_t)walk->compacted)
            return;
    }
    uint8_t header[21];
    le64_store(header, row->version.main);
    le32_store(header + 8, row->version.sub);
    header[12] = (uint8_t)row->kind;
    le32_store(header + 13, (uint32_t)row->key.size);
    le32_store(header + 17, (uint32_t)row->value.size);
    walk->crc = crc32c(walk->crc, header, sizeof(header));
    walk->crc = crc32c(walk->crc, row->key.data, row->key.size);
    if (row->value.size != 0)
        walk->crc = crc32c(walk->crc, row->value.data, row->value.size);
}

int mvcc_hash_kv(struct mvcc_reader *reader, int64_t revision, struct mvcc_hash *hash)
{
    static const uint8_t lower[1] = {MVCC_TABLE_KEYS}, upper[1] = {MVCC_TABLE_KEYS + 1};
    struct mvcc_state state = mvcc_shared_state(reader->shared);
    struct lsm_cursor *cursor;
    struct lsm_row row;
    int error = mvcc_revision_check(revision, state.revision, state.compacted);
    if (error != 0)
        return error;
    hash->hash_revision = revision > 0 ? revision : state.revision;
    struct lsm_cursor_options options = {.lower = bytes_make(lower, 1),
                                         .upper = bytes_make(upper, 1),
                                         .version_max = mvcc_version_at(hash->hash_revision)};
    error = lsm_cursor_open(reader->lsm, &options, &cursor);
    if (error != 0)
        return error;
    /* The watermark as of the pinned view: nothing above it was purged from it. */
    state = mvcc_shared_state(reader->shared);
    hash->compacted = state.compacted;
    hash->revision = state.revision;
    struct hash_walk walk = {.compacted = state.compacted};
    struct mvcc_buffer last = {0};
    size_t last_bytes = 0;
    uint32_t step = 0;
    int found = state.compacted > hash->hash_revision ? ERR_COMPACTED : 0;
    while (found >= 0 && (found = lsm_cursor_next(cursor, &row)) > 0) {
        if (!bytes_equal(row.key, bytes_make(last.data, last_bytes))) {
            memcpy(mvcc_buffer_take(&last, row.key.size), row.key.data, row.key.size);
            last_bytes = row.key.size;
            walk.newest_below_seen = false;
        }
        hash_row(&walk, &row);
        mvcc_breathe(&step);
    }
    free(last.data);
    lsm_cursor_close(cursor);
    hash->hash = walk.crc;
    return found;
}
