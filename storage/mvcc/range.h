/*
 * range.h - the scan behind every range: reader calls, transactions, the materialised form.
 *
 * Owner     The fiber that opened it.
 * Threads   One.
 */
#ifndef STORAGE_MVCC_RANGE_H
#define STORAGE_MVCC_RANGE_H

#include "storage/mvcc/mvcc_private.h"
#include "storage/mvcc/sorter.h"

enum range_source {
    RANGE_EMPTY,  /* the interval holds nothing by its bounds */
    RANGE_POINT,  /* one key: `row` is pinned while it is live */
    RANGE_WALK,   /* in key order, either way: the cursor walks twice */
    RANGE_SORTED, /* another order: the sorter holds the result after pass 1 */
};

struct mvcc_range_scan {
    const struct mvcc_range_request *request;
    struct mvcc_reader *reader; /* NULL inside a transaction */
    struct mvcc_view view;
    struct arena *arena;
    enum range_source source;
    bool reverse, filtered, measured;
    struct mvcc_bounds bounds;
    struct bytes row_key;
    struct lsm_row row;
    struct mvcc_kv point;
    bool point_live;
    struct lsm_cursor *cursor;
    struct mvcc_sorter sorter;
    struct mvcc_range_result result; /* after pass 1 */
    /* Pass 2 without a second walk: what pass 1 copied, if it fitted. */
    struct mvcc_kv_list kept;
    size_t kept_bytes;
    bool keeping;
    uint32_t emitted;
};

/* FIBER. Sets up the scan and pins what it reads. `arena` takes the bounds. */
must_check int mvcc_scan_begin(struct mvcc_range_scan *scan, const struct mvcc_view *view,
                               const struct mvcc_range_request *request, size_t sort_bytes_max,
                               struct arena *arena);
void mvcc_scan_end(struct mvcc_range_scan *scan);

#endif
