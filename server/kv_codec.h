/*
 * kv_codec.h - protobuf of the KV service by hand: requests into storage/mvcc structs without a
 * copy, results into response bytes in one pass over memory.
 *
 * Story     These messages are the hot path, and a range's reply is too large to build in memory
 *           first; so they are decoded as views into the request and encoded field by field. All
 *           other messages use the generated code.
 * Owner     Decoded structs borrow the input; a txn's arrays live in the arena.
 * Threads   Any.
 * Errors    ERR_MALFORMED for bytes that do not decode; ERR_LIMIT when the arena refuses.
 * Source    proto/rpc.proto. tests/unit/test_kv_codec.c compares
 *           every message with the generated code.
 */
#ifndef SERVER_KV_CODEC_H
#define SERVER_KV_CODEC_H

#include "core/arena.h"
#include "core/base.h"
#include "core/err.h"
#include "server/alarm.h"
#include "storage/mvcc/mvcc.h"

/* Nested transactions deeper than this are refused before they are looked at any closer. */
#define KV_TXN_DEPTH_MAX 32

must_check int kv_decode_put(struct bytes from, struct mvcc_put_request *request);
must_check int kv_decode_range(struct bytes from, struct mvcc_range_request *request);
must_check int kv_decode_delete(struct bytes from, struct mvcc_delete_request *request);
must_check int kv_decode_txn(struct bytes from, struct arena *arena,
                             struct mvcc_txn_request *request);
must_check int kv_decode_compact(struct bytes from, struct mvcc_compact_request *request);
must_check int kv_decode_alarm(struct bytes from, struct alarm_request *request);

/* The key of a range, put or delete request that begins with it, as all encoders write it: for
 * prefetching, nothing is checked. */
bool kv_peek_key(struct bytes from, struct bytes *key);

/* Is there a put in either branch, at any depth? */
bool kv_txn_has_put(const struct mvcc_txn_request *request);

/* What every response header says besides the revision. */
struct kv_header {
    uint64_t cluster_id, member_id, term;
};

/* At most 24 bytes. */
uint8_t *kv_encode_alarm_request(uint8_t *to, const struct alarm_request *request);

/* Exact sizes, then the bytes; each encoder returns the end of what it wrote, which is `to` + size.
 */
size_t kv_header_bytes(const struct kv_header *header, int64_t revision);
uint8_t *kv_encode_header_field(uint8_t *to, const struct kv_header *header, int64_t revision);

size_t kv_put_response_bytes(const struct kv_header *header, const struct mvcc_put_result *result);
uint8_t *kv_encode_put_response(uint8_t *to, const struct kv_header *header,
                                const struct mvcc_put_result *result);

size_t kv_delete_response_bytes(const struct kv_header *header,
                                const struct mvcc_delete_result *result);
uint8_t *kv_encode_delete_response(uint8_t *to, const struct kv_header *header,
                                   const struct mvcc_delete_result *result);

size_t kv_txn_response_bytes(const struct kv_header *header, const struct mvcc_txn_result *result);
uint8_t *kv_encode_txn_response(uint8_t *to, const struct kv_header *header,
                                const struct mvcc_txn_result *result);

size_t kv_compact_response_bytes(const struct kv_header *header, int64_t revision);
uint8_t *kv_encode_compact_response(uint8_t *to, const struct kv_header *header, int64_t revision);

/* A range response in three parts, so that it can be streamed: the head, each kv as one field, and
 * the tail (more, count). Sizes add up. With `revision` 0 the head is empty (RangeStream's middle
 * parts). */
size_t kv_range_head_bytes(const struct kv_header *header, int64_t revision);
uint8_t *kv_encode_range_head(uint8_t *to, const struct kv_header *header, int64_t revision);
size_t kv_range_kv_bytes(const struct mvcc_kv *kv); /* of the field: tag, length and message */
uint8_t *kv_encode_range_kv(uint8_t *to, const struct mvcc_kv *kv);
size_t kv_range_tail_bytes(bool more, int64_t count);
uint8_t *kv_encode_range_tail(uint8_t *to, bool more, int64_t count);

/* RangeStreamResponse: a range response of `body_bytes` as field 1 follows this prefix. */
size_t kv_range_part_prefix_bytes(size_t body_bytes);
uint8_t *kv_encode_range_part_prefix(uint8_t *to, size_t body_bytes);

#endif
