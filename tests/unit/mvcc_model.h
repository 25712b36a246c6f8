/*
 * mvcc_model.h - etcd's data model again, as plainly as it can be written: what storage/mvcc must
 * agree with. Sorted arrays and full copies; nothing is ever forgotten, compaction is a number.
 *
 * Owner     The test or checker that created it.
 * Threads   One.
 */
#ifndef TESTS_UNIT_MVCC_MODEL_H
#define TESTS_UNIT_MVCC_MODEL_H

#include "storage/mvcc/mvcc.h"

struct model_version {
    int64_t main;
    uint32_t sub;
    bool deleted;
    int64_t create_revision, version, lease;
    struct bytes value;
};

struct model_key {
    struct bytes key;
    struct model_version *versions; /* oldest first */
    uint32_t count, capacity;
};

struct model_event {
    int64_t main;
    uint32_t sub;
    enum mvcc_change_kind kind;
    struct bytes key;
};

struct model {
    struct model_key *keys; /* in byte order */
    uint32_t key_count, key_capacity;
    struct model_event *events;
    uint32_t event_count, event_capacity;
    int64_t revision, compacted;
    uint32_t sub;
    bool (*lease_exists)(void *context, int64_t lease);
    void *context;
    struct arena memory;
};

void model_init(struct model *model);
void model_deinit(struct model *model);

/* As the mvcc_apply_* and reader calls of the same name; results lie in `arena`. */
int model_put(struct model *model, const struct mvcc_put_request *request, struct arena *arena,
              struct mvcc_put_result *result);
int model_delete(struct model *model, const struct mvcc_delete_request *request,
                 struct arena *arena, struct mvcc_delete_result *result);
int model_txn(struct model *model, const struct mvcc_txn_request *request, struct arena *arena,
              struct mvcc_txn_result *result);
int model_compact(struct model *model, const struct mvcc_compact_request *request,
                  int64_t *revision);
int model_lease_revoke(struct model *model, int64_t lease, struct arena *arena,
                       struct mvcc_delete_result *result);
int model_range(struct model *model, const struct mvcc_range_request *request, struct arena *arena,
                struct mvcc_range_result *result);

/* The version of `key` that a read at `revision` sees; NULL when there is none. */
const struct model_version *model_at(const struct model *model, struct bytes key, int64_t revision);

/* Compares deeply; NULL, or what differs. */
const char *model_differ_kv(const struct mvcc_kv *a, const struct mvcc_kv *b);
const char *model_differ_range(const struct mvcc_range_result *a,
                               const struct mvcc_range_result *b);
const char *model_differ_put(const struct mvcc_put_result *a, const struct mvcc_put_result *b);
const char *model_differ_delete(const struct mvcc_delete_result *a,
                                const struct mvcc_delete_result *b);
const char *model_differ_txn(const struct mvcc_txn_result *a, const struct mvcc_txn_result *b,
                             bool nested);

#endif
