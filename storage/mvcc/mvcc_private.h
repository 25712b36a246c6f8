/*
 * mvcc_private.h - what the files of storage/mvcc share.
 *
 * Owner     See mvcc.h.
 * Threads   `struct mvcc_shared` crosses cores: one writer (raft core), any readers, atomics only.
 */
#ifndef STORAGE_MVCC_MVCC_PRIVATE_H
#define STORAGE_MVCC_MVCC_PRIVATE_H

#include <stdatomic.h>

#include "core/arena.h"
#include "core/base.h"
#include "storage/lsm/lsm.h"
#include "storage/mvcc/heads.h"
#include "storage/mvcc/ledger.h"
#include "storage/mvcc/mvcc.h"
#include "storage/mvcc/rows.h"

/* ---- shared.c: what all cores see ---------------------------------------------------------------
 */

/* Sequence lock: `sequence` is odd while the fields change. */
struct mvcc_shared {
    _Atomic uint64_t sequence;
    _Atomic int64_t revision;
    _Atomic int64_t compacted;
    _Atomic uint64_t applied_index;
    _Atomic uint64_t key_count, size_bytes, size_in_use_bytes;
    /* The watermark that flushes and compactions may act on. It follows `compacted` only once the
     * compaction's own log entry is in the tables: else a restart could find rows dropped by a
     * compaction that it has yet to replay, and with them the current revision. */
    _Alignas(CACHE_LINE_BYTES) _Atomic int64_t purge_below;
    struct lsm_filter filter;
};

void mvcc_shared_publish(struct mvcc_shared *shared, const struct mvcc_stats *stats);

/* ---- view.c: one revision of the store, for point reads ---------------------------------------
 */

struct mvcc_view {
    struct lsm_reader *lsm;
    struct lsm_version at; /* rows above do not exist */
    int64_t revision;      /* current one: for headers and bounds of explicit revisions */
    int64_t compacted;
};

/* The live version of a key. 1: *kv is set, `row` is pinned until lsm_row_release(). 0: none (and
 * nothing is pinned). FIBER. `row_key` is the key in table `k`; it must not change meanwhile. */
must_check int mvcc_view_get(const struct mvcc_view *view, struct bytes row_key,
                             struct lsm_row *row, struct mvcc_kv *kv);

/* Does the etcd rule for bounds allow reading `revision` (<= 0: current)? 0 or an error. */
must_check int mvcc_revision_check(int64_t revision, int64_t current, int64_t compacted);

/* Lets other fibers run when this one has had its share of the turn; no-op outside fibers. */
void mvcc_breathe(uint32_t *step);

/* ---- view.c: results in an arena --------------------------------------------------------------
 */

struct mvcc_reply {
    struct arena *arena;
    bool lost; /* something did not fit: the reply is void, the effects are not */
};

/* Copies key and value; on a full arena sets `lost` and leaves *to empty. */
void mvcc_reply_copy(struct mvcc_reply *reply, const struct mvcc_kv *from, struct mvcc_kv *to);

struct mvcc_kv_list {
    struct mvcc_kv *kvs;
    uint32_t count, capacity;
};
void mvcc_reply_append(struct mvcc_reply *reply, struct mvcc_kv_list *list,
                       const struct mvcc_kv *kv);

/* ---- range.c ------------------------------------------------------------------------------------
 */

/* FIBER. A whole range as `view` shows it (request->revision already folded into view->at). */
must_check int mvcc_view_range(const struct mvcc_view *view,
                               const struct mvcc_range_request *request, size_t sort_bytes_max,
                               struct mvcc_reply *reply, struct mvcc_range_result *result);

/* ---- the writer ---------------------------------------------------------------------------------
 */

#define MVCC_PURGE_MARKS_MAX    8
#define MVCC_LEDGER_CHANGES_MAX 256 /* the ledger row is at most this many changes behind */
#define MVCC_COMPACT_NAME       ".compact"
#define MVCC_LEDGER_NAME        ".ledger"
#define MVCC_COMPACT_ROW_BYTES  20

struct mvcc_buffer {
    uint8_t *data;
    size_t capacity;
};
/* Room for `bytes`, contents lost; never shrinks. Running out of memory is fatal. */
uint8_t *mvcc_buffer_take(struct mvcc_buffer *buffer, size_t bytes);

/* A compaction that waits for its log entry to reach the tables. */
struct mvcc_purge_mark {
    uint64_t index;
    int64_t compacted;
};

/* I1  compacted <= revision; `sub` is 0 between requests.
 * I2  rows of an unfinished request have main = revision + 1 and sub < `sub`.
 * I3  purge marks ascend in index and in compacted. */
struct mvcc {
    struct mvcc_options options;
    struct lsm *lsm;
    struct lsm_reader *reader;
    int64_t revision;
    int64_t compacted;
    uint64_t applied_index, applied_term;
    uint32_t sub;      /* changes of the request in hand */
    uint32_t meta_sub; /* meta rows since the last commit */
    uint32_t ledger_changes;
    bool compacted_in_batch;
    struct mvcc_ledger ledger;
    struct mvcc_heads *heads;
    struct mvcc_purge_mark purge_marks[MVCC_PURGE_MARKS_MAX];
    uint32_t purge_mark_count;
    struct mvcc_buffer key_buffer, value_buffer, row_buffer; /* of the apply fiber */
};

/* write.c. One put inside a request; `must_exist`: ERR_KEY_NOT_FOUND before any effect. */
must_check int mvcc_write_put(struct mvcc *mvcc, const struct mvcc_put_request *request,
                              bool must_exist, struct mvcc_reply *reply,
                              struct mvcc_put_result *result);
/* FIBER. Adds what deleting would write to *bytes; ERR_DELETE_TOO_LARGE when that becomes too much.
 * Before the first effect of the request. A single key counts for nothing: requests are bounded. */
must_check int mvcc_write_measure_delete(struct mvcc *mvcc,
                                         const struct mvcc_delete_request *request,
                                         uint64_t *bytes);
must_check int mvcc_write_delete(struct mvcc *mvcc, const struct mvcc_delete_request *request,
                                 struct mvcc_reply *reply, struct mvcc_delete_result *result);
/* Ends the request: the revision moves if it changed anything. Returns the revision to report. */
int64_t mvcc_write_end(struct mvcc *mvcc);
/* What the request in hand has to report so far: its own revision once it changed something. */
int64_t mvcc_write_revision(const struct mvcc *mvcc);
/* The newest state, with what the request in hand has written. */
struct mvcc_view mvcc_write_view(const struct mvcc *mvcc);

/* meta.c: as the public calls, without the rule about names. */
void mvcc_meta_write(struct mvcc *mvcc, struct bytes name, enum lsm_kind kind, struct bytes value);

/* ---- readers ------------------------------------------------------------------------------------
 */

struct mvcc_reader {
    struct mvcc_shared *shared;
    struct lsm *lsm_store;
    struct lsm_reader *lsm;
    size_t sort_bytes_max;
    struct lsm_row pinned; /* by mvcc_get_now() */
    bool has_pinned;
    uint32_t scans;                /* open ones, histories included */
    struct mvcc_buffer key_buffer; /* for calls that never wait */
};

#endif
