/* Rows of MVCC and log entries of requests, of hostile bytes: what decodes stays within them. */
#include <stdlib.h>

#include "core/arena.h"
#include "core/invariant.h"
#include "server/alarm.h"
#include "server/kv_codec.h"
#include "storage/log/request.h"
#include "storage/mvcc/ledger.h"
#include "storage/mvcc/rows.h"

#define INPUT_BYTES_MAX (64 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_within(struct bytes part, struct bytes whole)
{
    if (part.size > 0)
        invariant(part.data >= whole.data && part.data + part.size <= whole.data + whole.size);
}

static void decode_rows(struct bytes bytes, size_t key_bytes)
{
    struct lsm_row row = {.key = bytes_make(bytes.data, key_bytes),
                          .value = bytes_make(bytes.data + key_bytes, bytes.size - key_bytes),
                          .version = {.main = bytes.size > 8 ? le64_load(bytes.data) : 9},
                          .kind = LSM_VALUE};
    struct mvcc_kv kv = {0};
    struct mvcc_history_row history;
    struct mvcc_ledger ledger;
    struct bytes key;
    int64_t lease;
    if (row.version.main != 0 && row.version.main <= INT64_MAX &&
        mvcc_row_decode_value(&row, &kv) == 0) {
        check_within(kv.value, row.value);
        invariant(kv.create_revision > 0 && kv.create_revision <= kv.mod_revision);
        invariant(kv.version > 0);
    }
    if (mvcc_row_decode_history(&row, &history) == 0)
        check_within(history.key, row.value);
    if (mvcc_row_decode_lease(&row, &lease, &key) == 0)
        check_within(key, row.key);
    (void)!mvcc_ledger_decode(&ledger, bytes);
}

static void decode_request(struct bytes payload)
{
    struct request request;
    struct arena arena;
    union {
        struct mvcc_put_request put;
        struct mvcc_range_request range;
        struct mvcc_delete_request del;
        struct mvcc_txn_request txn;
        struct mvcc_compact_request compact;
        struct alarm_request alarm;
    } decoded;
    struct bytes body = payload;
    if (request_decode(&request, payload) == 0) {
        check_within(request.body, payload);
        body = request.body;
    }
    arena_init(&arena, 1 << 20);
    if (kv_decode_put(body, &decoded.put) == 0) {
        check_within(decoded.put.key, body);
        check_within(decoded.put.value, body);
    }
    if (kv_decode_range(body, &decoded.range) == 0)
        check_within(decoded.range.range_end, body);
    if (kv_decode_delete(body, &decoded.del) == 0)
        check_within(decoded.del.key, body);
    if (kv_decode_txn(body, &arena, &decoded.txn) == 0)
        (void)!mvcc_check_txn(&decoded.txn, 128, &arena);
    (void)!kv_decode_compact(body, &decoded.compact);
    (void)!kv_decode_alarm(body, &decoded.alarm);
    arena_deinit(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > INPUT_BYTES_MAX)
        return 0;
    uint8_t *copy = malloc(size - 1);
    invariant(copy != NULL);
    memcpy(copy, data + 1, size - 1);
    if (data[0] & 1)
        decode_rows(bytes_make(copy, size - 1), data[0] / 2 % size);
    else
        decode_request(bytes_make(copy, size - 1));
    free(copy);
    return 0;
}
