/*
 * mvcc.h - etcd's data model over the LSM: revisions, versions, transactions, compaction, history.
 *
 * Story     Every mutating request raises the revision by one and numbers its changes from sub 0.
 *           The raft core applies committed requests one after the other; every other core reads
 *           any revision in [compacted, current] by itself. Requests and results are plain structs
 *           of views, so that this folder needs no protobuf: the server converts.
 * Owner     `struct mvcc` belongs to the raft core and its one apply fiber, `struct mvcc_reader` to
 *           the core that created it. `struct mvcc_shared` is written by the raft core only.
 * Threads   mvcc_* calls on `struct mvcc` are owner only. Readers run on any core, wait-free of the
 *           writer. Calls marked FIBER may wait for the disk and must run inside a fiber.
 * Units     Revisions are etcd's main revisions. Intervals are etcd's: range_end empty = the one
 *           key, one zero byte = everything from key on, else [key, range_end).
 * Durable   What mvcc_commit() handed to the LSM is atomic: a restart sees all of a batch or none,
 *           and the Raft log replays the rest.
 * Errors    CLIENT errors (err_action) refuse a request and leave no trace; they are the same on
 *           every member. Anything else (-errno, ERR_CORRUPT) means stored bytes could not be read:
 *           the caller stops applying. ERR_LIMIT from an apply call is about the reply alone: it
 *           did not fit the arena, the effects took place.
 * Limits    Keys of MVCC_KEY_BYTES_MAX; a sorted range keeps at most sort_bytes_max in memory; a
 *           request that would delete keys of more than MVCC_DELETE_BYTES_MAX is refused.
 * Source    mvcc of etcd; docs/internals/storage-mvcc.md, docs/formats/mvcc-rows.md.
 */
#ifndef STORAGE_MVCC_MVCC_H
#define STORAGE_MVCC_MVCC_H

#include "core/arena.h"
#include "core/base.h"

struct lsm;
struct lsm_options;
struct lsm_reader;

#define MVCC_KEY_BYTES_MAX         ((uint32_t)(2 * 1024 * 1024 - 16))
#define MVCC_VALUE_BYTES_MAX       ((uint32_t)(16 * 1024 * 1024 - 64))
#define MVCC_META_PREFIX_BYTES_MAX 255
#define MVCC_FIRST_REVISION        1
#define MVCC_NEVER_COMPACTED       (-1)
#define MVCC_SORT_BYTES_DEFAULT    ((size_t)(64 * 1024 * 1024))
#define MVCC_TXN_DEPTH_MAX         64 /* nesting of transactions; deeper is ERR_TOO_MANY_OPS */

/* What the intervals that a request deletes may write to the memtable, which takes all of a request
 * before any of it can be flushed. Each key counts for its rows and twice its own bytes: some 1.8
 * million keys of 20 bytes. The same on every member, whatever its memory. */
#define MVCC_DELETE_BYTES_MAX ((uint64_t)512 * 1024 * 1024)
#define MVCC_DELETE_KEY_BYTES 256

/* ---- requests ----------------------------------------------------------------------------------
 * Views are borrowed for the call. Integers that etcd defines as enums come in as they were on the
 * wire; the check functions bound them. */

enum mvcc_sort_order { MVCC_SORT_NONE = 0, MVCC_SORT_ASCEND = 1, MVCC_SORT_DESCEND = 2 };
enum mvcc_sort_target {
    MVCC_SORT_KEY = 0,
    MVCC_SORT_VERSION = 1,
    MVCC_SORT_CREATE = 2,
    MVCC_SORT_MOD = 3,
    MVCC_SORT_VALUE = 4,
};

struct mvcc_range_request {
    struct bytes key, range_end;
    int64_t limit;    /* <= 0: none */
    int64_t revision; /* <= 0: current */
    int32_t sort_order, sort_target;
    int64_t min_mod_revision, max_mod_revision, min_create_revision, max_create_revision;
    bool serializable; /* for the caller; no meaning in here */
    bool keys_only, count_only;
};

struct mvcc_put_request {
    struct bytes key, value;
    int64_t lease;
    bool prev_kv, ignore_value, ignore_lease;
};

struct mvcc_delete_request {
    struct bytes key, range_end;
    bool prev_kv;
};

enum mvcc_compare_result { MVCC_EQUAL = 0, MVCC_GREATER = 1, MVCC_LESS = 2, MVCC_NOT_EQUAL = 3 };
enum mvcc_compare_target {
    MVCC_COMPARE_VERSION = 0,
    MVCC_COMPARE_CREATE = 1,
    MVCC_COMPARE_MOD = 2,
    MVCC_COMPARE_VALUE = 3,
    MVCC_COMPARE_LEASE = 4,
};

struct mvcc_compare {
    struct bytes key, range_end;
    int32_t result, target;
    int64_t number;     /* of every target but VALUE; 0 when the oneof is absent */
    struct bytes value; /* of VALUE */
};

/* MVCC_OP_NONE stands for a RequestOp without a request. */
enum mvcc_op_kind { MVCC_OP_NONE, MVCC_OP_RANGE, MVCC_OP_PUT, MVCC_OP_DELETE, MVCC_OP_TXN };

struct mvcc_op;
struct mvcc_txn_request {
    const struct mvcc_compare *compares;
    const struct mvcc_op *success, *failure;
    uint32_t compare_count, success_count, failure_count;
};

struct mvcc_op {
    enum mvcc_op_kind kind;
    union {
        struct mvcc_range_request range;
        struct mvcc_put_request put;
        struct mvcc_delete_request del;
        struct mvcc_txn_request txn;
    };
};

struct mvcc_compact_request {
    int64_t revision;
    bool physical; /* for the caller: call mvcc_purge() before answering */
};

/* ---- results -----------------------------------------------------------------------------------
 * Everything a result names lies in the arena of the call. */

struct mvcc_kv {
    struct bytes key, value;
    int64_t create_revision, mod_revision, version, lease;
};

struct mvcc_range_result {
    int64_t revision; /* for the header: current, also when an old one was read */
    int64_t count;    /* live keys of the interval, ignoring limit and filters */
    struct mvcc_kv *kvs;
    uint32_t kv_count;
    bool more;
};

struct mvcc_put_result {
    int64_t revision;
    bool has_prev_kv;
    struct mvcc_kv prev_kv;
};

struct mvcc_delete_result {
    int64_t revision;
    int64_t deleted;
    struct mvcc_kv *prev_kvs;
    uint32_t prev_kv_count;
};

struct mvcc_op_result;
struct mvcc_txn_result {
    int64_t revision; /* top level only: the header of a nested response is present but empty */
    bool succeeded;
    struct mvcc_op_result *responses;
    uint32_t response_count;
};

struct mvcc_op_result {
    enum mvcc_op_kind kind;
    union {
        struct mvcc_range_result range;
        struct mvcc_put_result put;
        struct mvcc_delete_result del;
        struct mvcc_txn_result txn;
    };
};

/* ---- checks that need no state (any core, before proposing) -----------------------------------
 * In the order in which stock etcd reports. ERR_EMPTY_KEY, ERR_VALUE_PROVIDED, ERR_LEASE_PROVIDED,
 * ERR_INVALID_SORT, ERR_TOO_MANY_OPS, ERR_DUPLICATE_KEY, ERR_KEY_NOT_FOUND (an op without request).
 */

must_check int mvcc_check_range(const struct mvcc_range_request *request);
must_check int mvcc_check_put(const struct mvcc_put_request *request);
must_check int mvcc_check_delete(const struct mvcc_delete_request *request);
/* `scratch` holds the key sets of the duplicate check; the caller resets it. */
must_check int mvcc_check_txn(const struct mvcc_txn_request *request, uint32_t ops_max,
                              struct arena *scratch);

/* RangeStream's extra limits: ERR_STREAM_SORT, ERR_STREAM_FILTER. After mvcc_check_range(). */
must_check int mvcc_check_range_stream(const struct mvcc_range_request *request);

/* A txn of nothing but ranges is not logged: see mvcc_read_txn(). */
bool mvcc_txn_is_read_only(const struct mvcc_txn_request *request);
bool mvcc_txn_is_serializable(const struct mvcc_txn_request *request); /* all ranges are */

/* Is `key` in the interval? And is the interval non-empty at all? */
bool mvcc_interval_holds(struct bytes key, struct bytes range_end, struct bytes probe);
bool mvcc_interval_is_empty(struct bytes key, struct bytes range_end);

/* ---- what all cores see -----------------------------------------------------------------------
 * Created before the LSM, because the LSM's compaction filter reads the watermark from it. */

struct mvcc_shared;

/* I1  compacted <= revision.
 * I2  revision and compacted never go down (a snapshot install included).
 * I3  the pair was current at one instant; everything up to `revision` is readable. */
struct mvcc_state {
    int64_t revision;
    int64_t compacted; /* MVCC_NEVER_COMPACTED at first */
    uint64_t applied_index;
};

must_check struct mvcc_shared *mvcc_shared_create(void); /* NULL: out of memory */
void mvcc_shared_destroy(struct mvcc_shared *shared);
struct mvcc_state mvcc_shared_state(const struct mvcc_shared *shared); /* any core */

/* Sets what the LSM must know of our rows in the options for lsm_open(). */
void mvcc_configure_lsm(struct mvcc_shared *shared, struct lsm_options *options);

/* ---- the writer (raft core) ---------------------------------------------------------------------
 */

enum mvcc_change_kind { MVCC_CHANGE_PUT = 0, MVCC_CHANGE_DELETE = 1 };

/* One event. Of a DELETE only key and mod_revision are set, as etcd sends it. The previous version,
 * if the change had one and it is not wanted in full, is known by its mod_revision. */
struct mvcc_change {
    enum mvcc_change_kind kind;
    uint32_t sub;
    struct mvcc_kv kv;
    int64_t prev_mod_revision; /* 0: there was none */
};

struct mvcc;

struct mvcc_options {
    struct mvcc_shared *shared;
    struct lsm *lsm;
    struct lsm_reader *lsm_reader; /* the raft core's */
    size_t heads_bytes;            /* of the latest-version cache, a power of two; 0 = 1 MiB */
    uint64_t random_seed;          /* of its hash */
    uint64_t delete_bytes_max;     /* 0 = MVCC_DELETE_BYTES_MAX; members must agree, so for tests */
    void *context;                 /* of the callbacks; each may be NULL */
    /* Without it no lease but 0 exists. */
    bool (*lease_exists)(void *context, int64_t lease);
    /* A key got (attached) or lost a lease; in order of execution. */
    void (*lease_moved)(void *context, int64_t lease, struct bytes key, bool attached);
    /* Called for each change in order, before the batch commits. Views end with the call. */
    void (*changed)(void *context, const struct mvcc_change *change);
};

/* FIBER. Recovers revision, watermark, applied index and counters exactly. */
must_check int mvcc_open(const struct mvcc_options *options, struct mvcc **mvcc);
void mvcc_close(struct mvcc *mvcc);

/* FIBER. After the LSM's content was replaced by a snapshot, with no batch begun. */
must_check int mvcc_reload(struct mvcc *mvcc);

int64_t mvcc_revision(const struct mvcc *mvcc);       /* with the open batch */
int64_t mvcc_compacted(const struct mvcc *mvcc);      /* with the open batch */
uint64_t mvcc_applied_index(const struct mvcc *mvcc); /* of the last commit */
uint64_t mvcc_applied_term(const struct mvcc *mvcc);

/* Result arenas should be unbounded: what must be laid out before anything is decided (a txn's
 * tree, the keys of a lease) fails with -ENOMEM, which like any error of reading stops the node.
 * All FIBER: they wait only when a previous version is neither in memory nor ruled out by a bloom
 * filter; mvcc_prefetch() makes that rare. A request was checked by the functions above. */
must_check int mvcc_apply_put(struct mvcc *mvcc, const struct mvcc_put_request *request,
                              struct arena *arena, struct mvcc_put_result *result);
/* ERR_DELETE_TOO_LARGE: with MVCC_DELETE_BYTES_MAX; of a transaction too, all its ranges added. */
must_check int mvcc_apply_delete_range(struct mvcc *mvcc, const struct mvcc_delete_request *request,
                                       struct arena *arena, struct mvcc_delete_result *result);
must_check int mvcc_apply_txn(struct mvcc *mvcc, const struct mvcc_txn_request *request,
                              struct arena *arena, struct mvcc_txn_result *result);
/* Raises the watermark. ERR_FUTURE_REVISION, ERR_COMPACTED. *revision: for the header. */
must_check int mvcc_apply_compact(struct mvcc *mvcc, const struct mvcc_compact_request *request,
                                  int64_t *revision);
/* Deletes every key attached to the lease, in byte order, in one revision; none: no revision. */
must_check int mvcc_apply_lease_revoke(struct mvcc *mvcc, int64_t lease, struct arena *arena,
                                       struct mvcc_delete_result *result);

/* Small replicated facts of other modules (members, leases, users, alarms), in the same batch.
 * Names starting with '.' belong to this module. */
must_check int mvcc_meta_put(struct mvcc *mvcc, struct bytes name, struct bytes value);
must_check int mvcc_meta_delete(struct mvcc *mvcc, struct bytes name);
/* FIBER. ERR_NOT_FOUND; the value is copied to the arena. */
must_check int mvcc_meta_get(struct mvcc *mvcc, struct bytes name, struct arena *arena,
                             struct bytes *value);
/* FIBER. In name order; `prefix` is at most MVCC_META_PREFIX_BYTES_MAX long. `each` returns 0, or
 * an error that ends the walk and is returned. */
must_check int mvcc_meta_scan(struct mvcc *mvcc, struct bytes prefix,
                              int (*each)(void *context, struct bytes name, struct bytes value),
                              void *context);

/* Ends the batch: everything applied since the last commit and the applied index become one atomic
 * unit of recovery, and the new state is published to all cores. `applied_index` rises. */
must_check int mvcc_commit(struct mvcc *mvcc, uint64_t applied_index, uint64_t term);

/* FIBER, but not the apply fiber: reads what `op` will read, so that applying it does not wait. */
void mvcc_prefetch(struct mvcc *mvcc, const struct mvcc_op *op);

/* Never waits. Brings what puts of these keys touch in the memtables and the latest-version cache
 * into the processor's cache, all at once: before applying a run of four puts or more. Measured: 10
 * to 35 % off a put of a random key. Correctness never depends on it. */
void mvcc_warm(const struct mvcc *mvcc, const struct bytes *keys, uint32_t count);

/* Now and then on a quiet node (each commit does it too): lets purging follow the watermark. Rows
 * are dropped only by a compaction whose own log entry has reached the tables, because a restart
 * replays the log from there and must find the state that it left. */
void mvcc_tick(struct mvcc *mvcc);

/* FIBER. For physical compactions: flushes, so that everything below the current watermark may be
 * dropped, and starts dropping it. It does not wait for the rewriting of tables, which never blocks
 * anyone and goes on in the background; sizes reported as in use shrink at once. ERR_DEADLINE when
 * the flush takes longer than 5 s: purging then follows by itself. */
must_check int mvcc_purge(struct mvcc *mvcc);

/* FIBER. Every key attached to a lease, in byte order, as of the open batch. */
must_check int mvcc_lease_keys(struct mvcc *mvcc, int64_t lease,
                               int (*each)(void *context, struct bytes key), void *context);
/* FIBER. Every attachment there is, by lease then key: rebuilds the lessor at start. */
must_check int mvcc_lease_scan(struct mvcc *mvcc,
                               int (*each)(void *context, int64_t lease, struct bytes key),
                               void *context);

struct mvcc_stats {
    int64_t revision, compacted;
    uint64_t applied_index;
    uint64_t key_count;         /* live keys */
    uint64_t size_bytes;        /* all retained versions: what a quota judges */
    uint64_t size_in_use_bytes; /* the live versions alone */
};
/* Published at each commit; any core. */
struct mvcc_stats mvcc_shared_stats(const struct mvcc_shared *shared);

/* ---- readers (one per core) -------------------------------------------------------------------
 */

struct mvcc_reader;

struct mvcc_reader_options {
    struct mvcc_shared *shared;
    struct lsm *lsm;
    struct lsm_reader *lsm_reader; /* of this core */
    size_t sort_bytes_max;         /* 0: MVCC_SORT_BYTES_DEFAULT */
};

must_check int mvcc_reader_open(const struct mvcc_reader_options *options,
                                struct mvcc_reader **reader);
void mvcc_reader_close(struct mvcc_reader *reader);
struct mvcc_state mvcc_reader_state(const struct mvcc_reader *reader);

/* The hot single-key read. `revision` <= 0: current. Returns 1 with *kv, 0 when the key does not
 * exist at that revision, ERR_WOULD_WAIT when the disk is needed (then use mvcc_range_open), or
 * ERR_COMPACTED / ERR_FUTURE_REVISION. *header_revision is set unless it fails. The views in *kv
 * are valid until mvcc_reader_unpin(), which every return of 1 needs; kv->key is the caller's. */
must_check int mvcc_get_now(struct mvcc_reader *reader, struct bytes key, int64_t revision,
                            struct mvcc_kv *kv, int64_t *header_revision);
void mvcc_reader_unpin(struct mvcc_reader *reader);

/* mvcc_get_now() of these keys comes soon: starts their cache misses, all at once. */
void mvcc_reader_prefetch(struct mvcc_reader *reader, const struct bytes *keys, uint32_t count);

/* A range in two passes over one pinned view, because a reply's size goes before its body and the
 * body must not be buffered. Order of calls: open, measure, next until 0, close. Small results are
 * kept from pass 1 in the arena; larger ones are walked again. The scan lives in `arena`. */
struct mvcc_range_scan;

/* FIBER. ERR_COMPACTED, ERR_FUTURE_REVISION. The request is borrowed until close. */
must_check int mvcc_range_open(struct mvcc_reader *reader, const struct mvcc_range_request *request,
                               struct arena *arena, struct mvcc_range_scan **scan);
/* FIBER. Pass 1: calls `each` (may be NULL) for every kv of the result, then fills *result but for
 * kvs (kv_count is set). Views in the kv end with the call. ERR_LIMIT: too much to sort. */
must_check int mvcc_range_measure(struct mvcc_range_scan *scan,
                                  void (*each)(void *context, const struct mvcc_kv *kv),
                                  void *context, struct mvcc_range_result *result);
/* FIBER. Pass 2: returns 1 with the next kv, 0 at the end. Views are valid until the next call. */
must_check int mvcc_range_next(struct mvcc_range_scan *scan, struct mvcc_kv *kv);
void mvcc_range_close(struct mvcc_range_scan *scan);

/* FIBER. A whole range at once, kvs in the arena: for small results. ERR_LIMIT past its bytes. */
must_check int mvcc_range(struct mvcc_reader *reader, const struct mvcc_range_request *request,
                          struct arena *arena, struct mvcc_range_result *result);

/* FIBER. A txn for which mvcc_txn_is_read_only() holds, at one revision. */
must_check int mvcc_read_txn(struct mvcc_reader *reader, const struct mvcc_txn_request *request,
                             struct arena *arena, struct mvcc_txn_result *result);

/* ---- history, for watches ---------------------------------------------------------------------
 */

struct mvcc_event {
    enum mvcc_change_kind kind;
    uint32_t sub;
    struct mvcc_kv kv; /* of a DELETE key and mod_revision only */
    bool has_prev_kv;  /* false for a creation, or when that version was compacted away */
    struct mvcc_kv prev_kv;
};

struct mvcc_history;

struct mvcc_history_options {
    int64_t from_revision;       /* first wanted */
    int64_t to_revision;         /* last wanted; 0: current at open. At most current */
    struct bytes key, range_end; /* key empty: all. Borrowed until close */
    bool prev_kv;
};

/* FIBER. ERR_COMPACTED when from_revision < compacted; events at exactly that are there. */
must_check int mvcc_history_open(struct mvcc_reader *reader,
                                 const struct mvcc_history_options *options,
                                 struct mvcc_history **history);
int64_t mvcc_history_revision(const struct mvcc_history *history); /* it ends here */
/* FIBER. Returns 1 with the next event by (revision, sub), 0 at the end. Views: until next call. */
must_check int mvcc_history_next(struct mvcc_history *history, struct mvcc_event *event);
void mvcc_history_close(struct mvcc_history *history);

/* ---- consistency hash -------------------------------------------------------------------------
 */

struct mvcc_hash {
    uint32_t hash; /* crc32c */
    int64_t hash_revision, compacted, revision;
};

/* FIBER. Over the versions <= revision (<= 0: current) that logical compaction retains, so members
 * with different purge progress agree. ERR_COMPACTED, ERR_FUTURE_REVISION. */
must_check int mvcc_hash_kv(struct mvcc_reader *reader, int64_t revision, struct mvcc_hash *hash);

#endif
