/*
 * check_store.h - a model of the store: what each request of the log, executed in the log's order,
 * must do and answer. Sorted arrays, all versions kept; written from etcd's documentation, not from
 * storage/mvcc.
 *
 * Story     The simulator feeds it every entry once, when the first node executes it. What a client
 *           is answered later must be what the model remembers for that request; what a client
 *           reads at a revision must be what the model has there.
 * Authors   Each write names its author: a put in the first digits of its value, a delete in digits
 *           behind a zero byte in range_end ("k3" to "k3\0" "17" is the key k3), a txn in its puts.
 * Owner     The world. Verdicts go to `verdict`.
 * Limits    Keys "k0" .. "k9"; authors are dense numbers from 1.
 */
#ifndef TESTS_SIM_CHECK_STORE_H
#define TESTS_SIM_CHECK_STORE_H

#include "storage/mvcc/mvcc.h"
#include "tests/sim/verdict.h"

#define CHECK_STORE_KEYS     10
#define CHECK_STORE_KVS_MAX  (2 * CHECK_STORE_KEYS)
#define CHECK_STORE_KEY_NONE UINT32_MAX

struct check_version {
    uint64_t revision, create, version;
    uint64_t author; /* 0: a tombstone */
};

struct check_store_key {
    struct check_version *versions;
    uint32_t count, capacity;
};

/* What a reader sees of a key. */
struct check_kv {
    uint32_t key;
    uint64_t author, revision, create, version;
};

/* What became of a write. */
struct check_outcome {
    bool happened;
    bool refused; /* executed, and had no effect: an alarm */
    bool succeeded;
    uint64_t revision; /* of the answer's header */
    bool changed;      /* ...which this write made */
    uint64_t deleted;
    uint32_t kv_count; /* of the ranges and previous values that it answers with */
    struct check_kv kvs[CHECK_STORE_KVS_MAX];
};

struct check_store {
    struct verdict *verdict;
    struct check_store_key keys[CHECK_STORE_KEYS];
    uint64_t revision, compacted;
    struct check_outcome *outcomes; /* [author] */
    uint64_t outcome_capacity;
    bool no_space; /* puts are refused */
};

void check_store_init(struct check_store *store, struct verdict *verdict);
void check_store_deinit(struct check_store *store);

/* Execute; each answers the author, 0 when the request names none. */
uint64_t check_store_put(struct check_store *store, const struct mvcc_put_request *request);
uint64_t check_store_delete(struct check_store *store, const struct mvcc_delete_request *request);
uint64_t check_store_txn(struct check_store *store, const struct mvcc_txn_request *request);
void check_store_compact(struct check_store *store, const struct mvcc_compact_request *request);

/* NULL: it was never executed. */
const struct check_outcome *check_store_outcome(const struct check_store *store, uint64_t author);

/* Live keys from..to (inclusive) as of `revision`, in order. Returns how many. */
uint32_t check_store_range(const struct check_store *store, uint64_t revision, uint32_t from,
                           uint32_t to, struct check_kv *kvs);

/* Are these what the model says? `what` names the answer in a verdict. */
bool check_store_equal(struct check_store *store, const char *what, uint64_t number,
                       const struct check_kv *have, uint32_t have_count,
                       const struct check_kv *want, uint32_t want_count);

uint32_t check_store_key_of(struct bytes key); /* CHECK_STORE_KEY_NONE: none of ours */

#endif
