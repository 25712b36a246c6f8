/* Every message of the hand-written codec against the generated code, both ways. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "proto/rpc.pb-c.h"
#include "server/kv_codec.h"

static struct arena arena;

static void setup(void)
{
    arena_init(&arena, 0);
}

static void teardown(void)
{
    arena_deinit(&arena);
}

TestSuite(kv_codec, .init = setup, .fini = teardown);

static ProtobufCBinaryData binary(const char *text)
{
    return (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)text};
}

static struct bytes pack(const ProtobufCMessage *message)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *to = arena_take(&arena, bytes + 1);
    protobuf_c_message_pack(message, to);
    return bytes_make(to, bytes);
}

static bool is(struct bytes bytes, const char *text)
{
    return bytes_equal(bytes, bytes_from_text(text));
}

Test(kv_codec, put_request)
{
    Etcdserverpb__PutRequest from = ETCDSERVERPB__PUT_REQUEST__INIT;
    from.key = binary("k");
    from.value = binary("value");
    from.lease = -7;
    from.prev_kv = from.ignore_lease = 1;
    struct mvcc_put_request to;
    cr_assert_eq(kv_decode_put(pack(&from.base), &to), 0);
    cr_expect(is(to.key, "k") && is(to.value, "value"));
    cr_expect_eq(to.lease, -7, "a negative number takes ten bytes");
    cr_expect(to.prev_kv && to.ignore_lease && !to.ignore_value);
}

Test(kv_codec, range_request_has_every_field)
{
    Etcdserverpb__RangeRequest from = ETCDSERVERPB__RANGE_REQUEST__INIT;
    from.key = binary("a");
    from.range_end = binary("z");
    from.limit = 3;
    from.revision = 4;
    from.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND;
    from.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VALUE;
    from.serializable = from.keys_only = from.count_only = 1;
    from.min_mod_revision = 5;
    from.max_mod_revision = 6;
    from.min_create_revision = 7;
    from.max_create_revision = 8;
    struct mvcc_range_request to;
    cr_assert_eq(kv_decode_range(pack(&from.base), &to), 0);
    cr_expect(is(to.key, "a") && is(to.range_end, "z"));
    cr_expect(to.limit == 3 && to.revision == 4 && to.sort_order == 2 && to.sort_target == 4);
    cr_expect(to.serializable && to.keys_only && to.count_only);
    cr_expect(to.min_mod_revision == 5 && to.max_mod_revision == 6);
    cr_expect(to.min_create_revision == 7 && to.max_create_revision == 8);
}

Test(kv_codec, the_key_in_front_is_found_and_nothing_beyond_the_end_is_read)
{
    static const struct {
        const char *why;
        uint8_t bytes[8];
        size_t size;
        const char *key; /* NULL: none */
    } cases[] = {
        {"a key and more", {0x0a, 2, 'a', 'b', 0x38, 1}, 6, "ab"},
        {"a key alone", {0x0a, 1, 'a'}, 3, "a"},
        {"an empty message", {0}, 0, NULL},
        {"no room for a key", {0x0a, 0}, 2, NULL},
        {"a key that is longer than the message", {0x0a, 3, 'a', 'b'}, 4, NULL},
        {"a long key's length takes two bytes", {0x0a, 0x80, 1, 'a'}, 4, NULL},
        {"another field first", {0x38, 1, 0x0a, 1, 'a'}, 5, NULL},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct bytes key = {0};
        bool found = kv_peek_key(bytes_make(cases[i].bytes, cases[i].size), &key);
        cr_expect_eq(found, cases[i].key != NULL, "%s", cases[i].why);
        if (found)
            cr_expect(bytes_equal(key, bytes_from_text(cases[i].key)), "%s", cases[i].why);
    }
}

Test(kv_codec, txn_request_with_nesting)
{
    Etcdserverpb__Compare compare = ETCDSERVERPB__COMPARE__INIT;
    compare.key = binary("c");
    compare.range_end = binary("d");
    compare.result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__NOT_EQUAL;
    compare.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE;
    compare.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE;
    compare.value = binary("v");
    Etcdserverpb__Compare other = compare;
    other.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
    Etcdserverpb__Compare *compares[] = {&compare, &other};

    Etcdserverpb__PutRequest put = ETCDSERVERPB__PUT_REQUEST__INIT;
    put.key = binary("p");
    Etcdserverpb__RequestOp put_op = ETCDSERVERPB__REQUEST_OP__INIT;
    put_op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
    put_op.request_put = &put;
    Etcdserverpb__RequestOp *inner_ops[] = {&put_op};
    Etcdserverpb__TxnRequest inner = ETCDSERVERPB__TXN_REQUEST__INIT;
    inner.n_failure = 1;
    inner.failure = inner_ops;
    Etcdserverpb__RequestOp txn_op = ETCDSERVERPB__REQUEST_OP__INIT;
    txn_op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN;
    txn_op.request_txn = &inner;
    Etcdserverpb__RequestOp empty_op = ETCDSERVERPB__REQUEST_OP__INIT;
    Etcdserverpb__RequestOp *ops[] = {&txn_op, &empty_op};
    Etcdserverpb__TxnRequest from = ETCDSERVERPB__TXN_REQUEST__INIT;
    from.n_compare = 2;
    from.compare = compares;
    from.n_success = 2;
    from.success = ops;

    struct mvcc_txn_request to;
    cr_assert_eq(kv_decode_txn(pack(&from.base), &arena, &to), 0);
    cr_assert_eq(to.compare_count, 2);
    cr_expect(is(to.compares[0].value, "v") && is(to.compares[0].range_end, "d"));
    cr_expect_eq(to.compares[0].result, MVCC_NOT_EQUAL);
    cr_expect_eq(to.compares[1].value.size, 0, "a oneof of another target counts as absent");
    cr_assert_eq(to.success_count, 2);
    cr_expect_eq(to.success[1].kind, MVCC_OP_NONE, "an op without a request is kept as such");
    cr_assert_eq(to.success[0].kind, MVCC_OP_TXN);
    cr_assert_eq(to.success[0].txn.failure_count, 1);
    cr_expect(is(to.success[0].txn.failure[0].put.key, "p"));
    cr_expect(kv_txn_has_put(&to), "found at any depth, in any branch");
}

Test(kv_codec, nesting_is_bounded)
{
    struct bytes body = bytes_make(NULL, 0);
    for (int depth = 0; depth < 40; depth++) {
        /* Txn{success: Op{txn: body}} */
        uint8_t *to = arena_take(&arena, body.size + 16), *at = to;
        size_t op = 1 + (body.size < 128 ? 1 : 2) + body.size;
        *at++ = 2 << 3 | 2;
        for (size_t n = op; n >= 128 || (*at++ = (uint8_t)n, 0); n >>= 7)
            *at++ = (uint8_t)(n | 128);
        *at++ = 4 << 3 | 2;
        for (size_t n = body.size; n >= 128 || (*at++ = (uint8_t)n, 0); n >>= 7)
            *at++ = (uint8_t)(n | 128);
        if (body.size > 0)
            memcpy(at, body.data, body.size);
        body = bytes_make(to, (size_t)(at - to) + body.size);
    }
    struct mvcc_txn_request request;
    cr_expect_eq(kv_decode_txn(body, &arena, &request), ERR_TOO_MANY_OPS);
}

Test(kv_codec, malformed_bytes_are_refused)
{
    static const struct {
        const char *why;
        uint8_t bytes[8];
        size_t count;
    } cases[] = {
        {"length past the end", {0x0a, 5, 'x'}, 3},
        {"varint without an end", {0x18, 0xff}, 2},
        {"a key that is a number", {0x08, 1}, 2},
        {"a lease that is bytes", {0x1a, 1, 'x'}, 3},
        {"a group", {0x0b}, 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct mvcc_put_request request;
        cr_expect_eq(kv_decode_put(bytes_make(cases[i].bytes, cases[i].count), &request),
                     ERR_MALFORMED, "%s", cases[i].why);
    }
    static const uint8_t unknown[] = {0x0a, 1, 'k', 0xa2, 0x06, 1, 'u', 0xa8, 0x06, 1};
    struct mvcc_put_request request;
    cr_expect_eq(kv_decode_put(bytes_make(unknown, sizeof(unknown)), &request), 0,
                 "unknown fields are skipped");
    cr_expect(is(request.key, "k"));
}

static struct mvcc_kv kv_make(const char *key, const char *value, int64_t lease)
{
    return (struct mvcc_kv){.key = bytes_from_text(key),
                            .value = bytes_from_text(value),
                            .create_revision = 2,
                            .mod_revision = 300,
                            .version = 4,
                            .lease = lease};
}

static void expect_kv(const Mvccpb__KeyValue *got, const struct mvcc_kv *want)
{
    cr_assert_not_null(got);
    cr_expect(bytes_equal(bytes_make(got->key.data, got->key.len), want->key));
    cr_expect(bytes_equal(bytes_make(got->value.data, got->value.len), want->value));
    cr_expect_eq(got->create_revision, want->create_revision);
    cr_expect_eq(got->mod_revision, want->mod_revision);
    cr_expect_eq(got->version, want->version);
    cr_expect_eq(got->lease, want->lease);
}

static const struct kv_header header = {
    .cluster_id = UINT64_MAX, .member_id = 0x8000000000000001u, .term = 3};

static void expect_header(const Etcdserverpb__ResponseHeader *got, int64_t revision)
{
    cr_assert_not_null(got);
    cr_expect_eq(got->cluster_id, header.cluster_id);
    cr_expect_eq(got->member_id, header.member_id);
    cr_expect_eq(got->raft_term, header.term);
    cr_expect_eq(got->revision, revision);
}

Test(kv_codec, put_response)
{
    struct mvcc_put_result result = {
        .revision = 300, .has_prev_kv = true, .prev_kv = kv_make("k", "", -1)};
    size_t bytes = kv_put_response_bytes(&header, &result);
    uint8_t *to = arena_take(&arena, bytes);
    cr_assert_eq(kv_encode_put_response(to, &header, &result) - to, (ptrdiff_t)bytes);
    Etcdserverpb__PutResponse *got = etcdserverpb__put_response__unpack(NULL, bytes, to);
    cr_assert_not_null(got);
    expect_header(got->header, 300);
    expect_kv(got->prev_kv, &result.prev_kv);
    etcdserverpb__put_response__free_unpacked(got, NULL);
}

Test(kv_codec, range_response_in_parts)
{
    struct mvcc_kv kvs[] = {kv_make("a", "1", 0), kv_make("b", "22", 9)};
    size_t bytes = kv_range_head_bytes(&header, 5) + kv_range_tail_bytes(true, 70);
    for (size_t i = 0; i < ARRAY_COUNT(kvs); i++)
        bytes += kv_range_kv_bytes(&kvs[i]);
    uint8_t *to = arena_take(&arena, bytes);
    uint8_t *at = kv_encode_range_head(to, &header, 5);
    for (size_t i = 0; i < ARRAY_COUNT(kvs); i++)
        at = kv_encode_range_kv(at, &kvs[i]);
    at = kv_encode_range_tail(at, true, 70);
    cr_assert_eq(at - to, (ptrdiff_t)bytes);
    Etcdserverpb__RangeResponse *got = etcdserverpb__range_response__unpack(NULL, bytes, to);
    cr_assert_not_null(got);
    expect_header(got->header, 5);
    cr_assert_eq(got->n_kvs, 2);
    expect_kv(got->kvs[0], &kvs[0]);
    expect_kv(got->kvs[1], &kvs[1]);
    cr_expect(got->more && got->count == 70);
    etcdserverpb__range_response__free_unpacked(got, NULL);
}

Test(kv_codec, txn_response_with_every_kind)
{
    struct mvcc_kv kv = kv_make("k", "v", 0);
    struct mvcc_op_result nested = {.kind = MVCC_OP_PUT, .put = {.revision = 9}};
    struct mvcc_op_result responses[] = {
        {.kind = MVCC_OP_RANGE, .range = {.revision = 9, .count = 1, .kvs = &kv, .kv_count = 1}},
        {.kind = MVCC_OP_PUT, .put = {.revision = 9}},
        {.kind = MVCC_OP_DELETE,
         .del = {.revision = 9, .deleted = 1, .prev_kvs = &kv, .prev_kv_count = 1}},
        {.kind = MVCC_OP_TXN,
         .txn = {.succeeded = true, .responses = &nested, .response_count = 1}},
    };
    struct mvcc_txn_result result = {.revision = 9,
                                     .succeeded = true,
                                     .responses = responses,
                                     .response_count = ARRAY_COUNT(responses)};
    size_t bytes = kv_txn_response_bytes(&header, &result);
    uint8_t *to = arena_take(&arena, bytes);
    cr_assert_eq(kv_encode_txn_response(to, &header, &result) - to, (ptrdiff_t)bytes);
    Etcdserverpb__TxnResponse *got = etcdserverpb__txn_response__unpack(NULL, bytes, to);
    cr_assert_not_null(got);
    expect_header(got->header, 9);
    cr_expect(got->succeeded);
    cr_assert_eq(got->n_responses, 4);
    Etcdserverpb__RangeResponse *range = got->responses[0]->response_range;
    cr_expect_eq(range->header->revision, 9);
    cr_expect_eq(range->header->cluster_id, 0, "inside a txn only the revision is set");
    expect_kv(range->kvs[0], &kv);
    cr_expect_eq(got->responses[1]->response_put->header->revision, 9);
    cr_expect_eq(got->responses[2]->response_delete_range->deleted, 1);
    expect_kv(got->responses[2]->response_delete_range->prev_kvs[0], &kv);
    Etcdserverpb__TxnResponse *inner = got->responses[3]->response_txn;
    cr_assert_not_null(inner->header, "old clients dereference a nested txn's header");
    cr_expect_eq(inner->header->revision, 0);
    cr_expect_eq(inner->responses[0]->response_put->header->revision, 9);
    etcdserverpb__txn_response__free_unpacked(got, NULL);
}

Test(kv_codec, alarm_request)
{
    struct alarm_request from = {ALARM_ACTIVATE, UINT64_MAX, ALARM_NO_SPACE}, to;
    uint8_t body[24];
    uint8_t *end = kv_encode_alarm_request(body, &from);
    cr_assert(end <= body + sizeof(body));
    cr_assert_eq(kv_decode_alarm(bytes_make(body, (size_t)(end - body)), &to), 0);
    cr_expect(to.action == from.action && to.member == from.member && to.kind == from.kind);
    static const uint8_t unknown_kind[] = {0x18, 9};
    cr_expect_eq(kv_decode_alarm(bytes_make(unknown_kind, 2), &to), ERR_MALFORMED);
}
