/* Reads on any core: choose a revision, pin what holds it, check that it was not overtaken. */
#include "storage/mvcc/mvcc.h"

#include <errno.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"
#include "storage/mvcc/range.h"
#include "storage/mvcc/txn.h"

/* A read loads the state, pins its rows, then looks at the watermark again: rows pinned after the
 * first look hold everything up to its revision, and nothing was purged above the second look's
 * watermark. If that passed the chosen revision in between, the read starts over. */
#define READ_TRIES_MAX 64

#define MVCC_PREFETCH_KEY_BYTES ((size_t)127) /* longer keys are not worth a copy */

int mvcc_reader_open(const struct mvcc_reader_options *options, struct mvcc_reader **reader)
{
    struct mvcc_reader *opened = calloc(1, sizeof(*opened));
    if (opened == NULL)
        return -ENOMEM;
    opened->shared = options->shared;
    opened->lsm_store = options->lsm;
    opened->lsm = options->lsm_reader;
    opened->sort_bytes_max =
        options->sort_bytes_max != 0 ? options->sort_bytes_max : MVCC_SORT_BYTES_DEFAULT;
    *reader = opened;
    return 0;
}

void mvcc_reader_close(struct mvcc_reader *reader)
{
    invariant(!reader->has_pinned && reader->scans == 0);
    free(reader->key_buffer.data);
    free(reader);
}

struct mvcc_state mvcc_reader_state(const struct mvcc_reader *reader)
{
    return mvcc_shared_state(reader->shared);
}

/* The view of `revision` (<= 0: current). */
static int reader_view(const struct mvcc_reader *reader, int64_t revision, struct mvcc_view *view)
{
    struct mvcc_state state = mvcc_shared_state(reader->shared);
    *view = (struct mvcc_view){
        .lsm = reader->lsm,
        .at = mvcc_version_at(revision > 0 ? revision : state.revision),
        .revision = state.revision,
        .compacted = state.compacted,
    };
    return mvcc_revision_check(revision, state.revision, state.compacted);
}

/* After pinning: may what is pinned lack rows of a view of revision `oldest`? */
static bool reader_overtaken(const struct mvcc_reader *reader, uint64_t oldest)
{
    int64_t compacted = mvcc_shared_state(reader->shared).compacted;
    return compacted > 0 && (uint64_t)compacted > oldest;
}

/* ---- one key ------------------------------------------------------------------------------------
 */

int mvcc_get_now(struct mvcc_reader *reader, struct bytes key, int64_t revision, struct mvcc_kv *kv,
                 int64_t *header_revision)
{
    invariant(!reader->has_pinned && key.size != 0);
    struct mvcc_view view;
    struct bytes row_key = mvcc_row_key(mvcc_buffer_take(&reader->key_buffer, key.size + 1), key);
    for (int try = 0; try < READ_TRIES_MAX; try++) {
        int error = reader_view(reader, revision, &view);
        if (error != 0)
            return error;
        *header_revision = view.revision;
        error = lsm_get_now(reader->lsm, row_key, view.at, &reader->pinned);
        if (error != 0 && error != ERR_NOT_FOUND)
            return error;
        if (unlikely(reader_overtaken(reader, view.at.main))) {
            if (error == 0)
                lsm_row_release(reader->lsm, &reader->pinned);
            continue;
        }
        if (error == ERR_NOT_FOUND)
            return 0;
        if (reader->pinned.kind == LSM_VALUE)
            error = mvcc_row_decode_value(&reader->pinned, kv);
        if (reader->pinned.kind == LSM_TOMBSTONE || error != 0) {
            lsm_row_release(reader->lsm, &reader->pinned);
            return error;
        }
        kv->key = key;
        reader->has_pinned = true;
        return 1;
    }
    return ERR_WOULD_WAIT;
}

void mvcc_reader_prefetch(struct mvcc_reader *reader, const struct bytes *keys, uint32_t count)
{
    uint8_t buffers[LSM_READER_PREFETCH_MAX][MVCC_PREFETCH_KEY_BYTES + 1];
    struct bytes row_keys[LSM_READER_PREFETCH_MAX];
    while (count > 0) {
        uint32_t taken = 0;
        for (; count > 0 && taken < LSM_READER_PREFETCH_MAX; count--, keys++)
            if (keys->size > 0 && keys->size <= MVCC_PREFETCH_KEY_BYTES) {
                row_keys[taken] = mvcc_row_key(buffers[taken], *keys);
                taken++;
            }
        lsm_reader_prefetch(reader->lsm, row_keys, taken);
    }
}

void mvcc_reader_unpin(struct mvcc_reader *reader)
{
    invariant(reader->has_pinned);
    lsm_row_release(reader->lsm, &reader->pinned);
    reader->has_pinned = false;
}

/* ---- ranges -------------------------------------------------------------------------------------
 */

int mvcc_range_open(struct mvcc_reader *reader, const struct mvcc_range_request *request,
                    struct arena *arena, struct mvcc_range_scan **scan)
{
    struct mvcc_range_scan *opened = arena_take(arena, sizeof(*opened));
    if (opened == NULL)
        return ERR_LIMIT;
    for (int try = 0; try < READ_TRIES_MAX; try++) {
        struct mvcc_view view;
        int error = reader_view(reader, request->revision, &view);
        if (error == 0)
            error = mvcc_scan_begin(opened, &view, request, reader->sort_bytes_max, arena);
        if (error != 0)
            return error;
        if (likely(!reader_overtaken(reader, view.at.main))) {
            opened->reader = reader;
            opened->keeping = opened->source == RANGE_WALK;
            reader->scans++;
            *scan = opened;
            return 0;
        }
        mvcc_scan_end(opened);
    }
    return ERR_COMPACTED;
}

void mvcc_range_close(struct mvcc_range_scan *scan)
{
    invariant(scan->reader != NULL && scan->reader->scans > 0);
    mvcc_scan_end(scan);
    scan->reader->scans--;
    scan->reader = NULL;
}

int mvcc_range(struct mvcc_reader *reader, const struct mvcc_range_request *request,
               struct arena *arena, struct mvcc_range_result *result)
{
    for (int try = 0; try < READ_TRIES_MAX; try++) {
        struct mvcc_view view;
        struct mvcc_reply reply = {.arena = arena};
        int error = reader_view(reader, request->revision, &view);
        if (error == 0)
            error = mvcc_view_range(&view, request, reader->sort_bytes_max, &reply, result);
        if (error != 0)
            return error;
        if (reply.lost)
            return ERR_LIMIT;
        if (likely(!reader_overtaken(reader, view.at.main)))
            return 0;
    }
    return ERR_COMPACTED;
}

int mvcc_read_txn(struct mvcc_reader *reader, const struct mvcc_txn_request *request,
                  struct arena *arena, struct mvcc_txn_result *result)
{
    invariant(mvcc_txn_is_read_only(request));
    for (int try = 0; try < READ_TRIES_MAX; try++) {
        struct mvcc_txn_run run = {.reply = {.arena = arena},
                                   .sort_bytes_max = reader->sort_bytes_max};
        int error = reader_view(reader, 0, &run.view);
        if (error == 0)
            error = mvcc_txn_decide(&run, request, result);
        if (error == 0)
            error = mvcc_txn_check(&run, request, result);
        if (error == 0)
            error = mvcc_txn_execute(&run, request, result);
        if (error == -ENOMEM || (error == 0 && run.reply.lost))
            return ERR_LIMIT;
        if (error != 0)
            return error;
        /* Each range pinned its own rows, after those before it had waited. The next try's check
         * tells the client of a revision that is compacted by now. */
        uint64_t oldest = run.oldest != 0 ? (uint64_t)run.oldest : run.view.at.main;
        if (likely(!reader_overtaken(reader, oldest))) {
            result->revision = run.view.revision;
            return 0;
        }
    }
    return ERR_COMPACTED;
}
