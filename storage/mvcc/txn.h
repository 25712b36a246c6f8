/*
 * txn.h - transactions: decide every compare, check, then execute.
 *
 * Story     All compares, nested ones included, are decided against one view before anything is
 *           written; the decisions and the memory for responses are laid out as the result tree.
 *           Then the chosen operations are checked, then they run.
 * Owner     The caller's fiber; the tree lies in the arena of the reply.
 * Threads   One.
 * Errors    A CLIENT error leaves no effect. -ENOMEM: the arena cannot hold even the empty tree.
 * Limits    Recursion follows the nesting of requests, bounded by MVCC_TXN_DEPTH_MAX.
 */
#ifndef STORAGE_MVCC_TXN_H
#define STORAGE_MVCC_TXN_H

#include "storage/mvcc/mvcc_private.h"

struct mvcc_txn_run {
    struct mvcc_view view;
    struct mvcc *writer; /* NULL: read only */
    struct mvcc_reply reply;
    size_t sort_bytes_max;
    int64_t oldest;        /* revision that an executed range named; 0: none did */
    uint64_t delete_bytes; /* of the intervals checked so far */
};

/* FIBER. Compares and the empty result tree. */
must_check int mvcc_txn_decide(struct mvcc_txn_run *run, const struct mvcc_txn_request *request,
                               struct mvcc_txn_result *result);
/* FIBER. What depends on the state: revisions of ranges, leases, ignore_* on missing keys, how much
 * is deleted. */
must_check int mvcc_txn_check(struct mvcc_txn_run *run, const struct mvcc_txn_request *request,
                              const struct mvcc_txn_result *result);
/* FIBER. */
must_check int mvcc_txn_execute(struct mvcc_txn_run *run, const struct mvcc_txn_request *request,
                                struct mvcc_txn_result *result);

#endif
