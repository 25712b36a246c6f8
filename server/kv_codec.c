#include "server/kv_codec.h"

#include "core/invariant.h"
#include "net/pb.h"

/* ---- decoding ------------------------------------------------------------------------------- */

/* A walk over a message's fields whose first error sticks. */
struct fields {
    struct pb_reader reader;
    struct pb_field field;
    int error;
};

static inline void fields_start(struct fields *fields, struct bytes from)
{
    fields->reader = pb_reader_make(from);
    fields->error = 0;
}

static inline bool fields_next(struct fields *fields)
{
    if (unlikely(fields->error < 0))
        return false;
    int more = pb_next(&fields->reader, &fields->field);
    if (unlikely(more < 0))
        fields->error = more;
    return more == 1;
}

static inline struct bytes fields_bytes(struct fields *fields)
{
    if (likely(fields->field.type == PB_BYTES))
        return fields->field.bytes;
    fields->error = ERR_MALFORMED;
    return bytes_make(NULL, 0);
}

static inline int64_t fields_i64(struct fields *fields)
{
    if (likely(fields->field.type == PB_VARINT))
        return (int64_t)fields->field.value;
    fields->error = ERR_MALFORMED;
    return 0;
}

static inline bool fields_bool(struct fields *fields)
{
    return fields_i64(fields) != 0;
}

int kv_decode_put(struct bytes from, struct mvcc_put_request *request)
{
    struct fields fields;
    *request = (struct mvcc_put_request){0};
    fields_start(&fields, from);
    while (fields_next(&fields)) {
        switch (fields.field.number) {
        case 1:
            request->key = fields_bytes(&fields);
            break;
        case 2:
            request->value = fields_bytes(&fields);
            break;
        case 3:
            request->lease = fields_i64(&fields);
            break;
        case 4:
            request->prev_kv = fields_bool(&fields);
            break;
        case 5:
            request->ignore_value = fields_bool(&fields);
            break;
        case 6:
            request->ignore_lease = fields_bool(&fields);
            break;
        }
    }
    return fields.error;
}

bool kv_peek_key(struct bytes from, struct bytes *key)
{
    if (from.size < 3 || from.data[0] != (1 << 3 | PB_BYTES) || from.data[1] >= 0x80 ||
        from.data[1] > from.size - 2)
        return false;
    *key = bytes_make(from.data + 2, from.data[1]);
    return true;
}

int kv_decode_range(struct bytes from, struct mvcc_range_request *request)
{
    struct fields fields;
    *request = (struct mvcc_range_request){0};
    fields_start(&fields, from);
    while (fields_next(&fields)) {
        switch (fields.field.number) {
        case 1:
            request->key = fields_bytes(&fields);
            break;
        case 2:
            request->range_end = fields_bytes(&fields);
            break;
        case 3:
            request->limit = fields_i64(&fields);
            break;
        case 4:
            request->revision = fields_i64(&fields);
            break;
        case 5:
            request->sort_order = (int32_t)fields_i64(&fields);
            break;
        case 6:
            request->sort_target = (int32_t)fields_i64(&fields);
            break;
        case 7:
            request->serializable = fields_bool(&fields);
            break;
        case 8:
            request->keys_only = fields_bool(&fields);
            break;
        case 9:
            request->count_only = fields_bool(&fields);
            break;
        case 10:
            request->min_mod_revision = fields_i64(&fields);
            break;
        case 11:
            request->max_mod_revision = fields_i64(&fields);
            break;
        case 12:
            request->min_create_revision = fields_i64(&fields);
            break;
        case 13:
            request->max_create_revision = fields_i64(&fields);
            break;
        }
    }
    return fields.error;
}

int kv_decode_delete(struct bytes from, struct mvcc_delete_request *request)
{
    struct fields fields;
    *request = (struct mvcc_delete_request){0};
    fields_start(&fields, from);
    while (fields_next(&fields)) {
        switch (fields.field.number) {
        case 1:
            request->key = fields_bytes(&fields);
            break;
        case 2:
            request->range_end = fields_bytes(&fields);
            break;
        case 3:
            request->prev_kv = fields_bool(&fields);
            break;
        }
    }
    return fields.error;
}

int kv_decode_compact(struct bytes from, struct mvcc_compact_request *request)
{
    struct fields fields;
    *request = (struct mvcc_compact_request){0};
    fields_start(&fields, from);
    while (fields_next(&fields)) {
        if (fields.field.number == 1)
            request->revision = fields_i64(&fields);
        else if (fields.field.number == 2)
            request->physical = fields_bool(&fields);
    }
    return fields.error;
}

int kv_decode_alarm(struct bytes from, struct alarm_request *request)
{
    struct fields fields;
    uint64_t action = ALARM_GET, kind = ALARM_NONE;
    *request = (struct alarm_request){0};
    fields_start(&fields, from);
    while (fields_next(&fields)) {
        if (fields.field.number == 1)
            action = (uint64_t)fields_i64(&fields);
        else if (fields.field.number == 2)
            request->member = (uint64_t)fields_i64(&fields);
        else if (fields.field.number == 3)
            kind = (uint64_t)fields_i64(&fields);
    }
    if (action > ALARM_DEACTIVATE || kind > ALARM_CORRUPT)
        return ERR_MALFORMED;
    request->action = (enum alarm_action)action;
    request->kind = (enum alarm_kind)kind;
    return fields.error;
}

/* The oneof's members are fields 4 to 8, in the order of the targets: one that belongs to another
 * target counts as absent, and absent means zero or empty. */
static int decode_compare(struct bytes from, struct mvcc_compare *compare)
{
    struct fields fields;
    uint32_t member = 0;
    *compare = (struct mvcc_compare){0};
    fields_start(&fields, from);
    while (fields_next(&fields)) {
        switch (fields.field.number) {
        case 1:
            compare->result = (int32_t)fields_i64(&fields);
            break;
        case 2:
            compare->target = (int32_t)fields_i64(&fields);
            break;
        case 3:
            compare->key = fields_bytes(&fields);
            break;
        case 7:
            compare->value = fields_bytes(&fields);
            member = fields.field.number;
            break;
        case 4:
        case 5:
        case 6:
        case 8:
            compare->number = fields_i64(&fields);
            member = fields.field.number;
            break;
        case 64:
            compare->range_end = fields_bytes(&fields);
            break;
        }
    }
    if (member != (uint32_t)compare->target + 4) {
        compare->number = 0;
        compare->value = bytes_make(NULL, 0);
    }
    return fields.error;
}

/* How often `number` occurs as a message. */
static uint32_t count_fields(struct bytes from, uint32_t number)
{
    struct fields fields;
    uint32_t count = 0;
    fields_start(&fields, from);
    while (fields_next(&fields))
        count += fields.field.number == number;
    return count;
}

static int decode_txn(struct bytes from, struct arena *arena, uint32_t depth,
                      struct mvcc_txn_request *request);

static int decode_op(struct bytes from, struct arena *arena, uint32_t depth, struct mvcc_op *op)
{
    struct fields fields;
    int error = 0;
    *op = (struct mvcc_op){.kind = MVCC_OP_NONE};
    fields_start(&fields, from);
    while (error == 0 && fields_next(&fields)) {
        if (fields.field.number < 1 || fields.field.number > 4)
            continue;
        struct bytes body = fields_bytes(&fields);
        switch (fields.field.number) { /* a oneof: the last one counts */
        case 1:
            op->kind = MVCC_OP_RANGE;
            error = kv_decode_range(body, &op->range);
            break;
        case 2:
            op->kind = MVCC_OP_PUT;
            error = kv_decode_put(body, &op->put);
            break;
        case 3:
            op->kind = MVCC_OP_DELETE;
            error = kv_decode_delete(body, &op->del);
            break;
        case 4:
            op->kind = MVCC_OP_TXN;
            error = decode_txn(body, arena, depth + 1, &op->txn);
            break;
        }
    }
    return error < 0 ? error : fields.error;
}

static int decode_txn(struct bytes from, struct arena *arena, uint32_t depth,
                      struct mvcc_txn_request *request)
{
    struct fields fields;
    int error = 0;
    *request = (struct mvcc_txn_request){0};
    if (depth == KV_TXN_DEPTH_MAX)
        return ERR_TOO_MANY_OPS;
    uint32_t compare_count = count_fields(from, 1);
    uint32_t success_count = count_fields(from, 2), failure_count = count_fields(from, 3);
    struct mvcc_compare *compares = arena_take(arena, compare_count * sizeof(*compares));
    struct mvcc_op *success = arena_take(arena, success_count * sizeof(*success));
    struct mvcc_op *failure = arena_take(arena, failure_count * sizeof(*failure));
    if (compares == NULL || success == NULL || failure == NULL)
        return ERR_LIMIT;
    fields_start(&fields, from);
    while (error == 0 && fields_next(&fields)) {
        if (fields.field.number < 1 || fields.field.number > 3)
            continue;
        struct bytes body = fields_bytes(&fields);
        if (fields.field.number == 1)
            error = decode_compare(body, &compares[request->compare_count++]);
        else if (fields.field.number == 2)
            error = decode_op(body, arena, depth, &success[request->success_count++]);
        else
            error = decode_op(body, arena, depth, &failure[request->failure_count++]);
    }
    request->compares = compares;
    request->success = success;
    request->failure = failure;
    return error < 0 ? error : fields.error;
}

int kv_decode_txn(struct bytes from, struct arena *arena, struct mvcc_txn_request *request)
{
    return decode_txn(from, arena, 0, request);
}

static bool ops_have_put(const struct mvcc_op *ops, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (ops[i].kind == MVCC_OP_PUT ||
            (ops[i].kind == MVCC_OP_TXN && kv_txn_has_put(&ops[i].txn)))
            return true;
    return false;
}

bool kv_txn_has_put(const struct mvcc_txn_request *request)
{
    return ops_have_put(request->success, request->success_count) ||
           ops_have_put(request->failure, request->failure_count);
}

/* ---- encoding ------------------------------------------------------------------------------- */

/* Every field number used here is below 16, so a tag is one byte. proto3 leaves zeros out. */

static inline size_t number_bytes(uint64_t value)
{
    return pb_varint_field_bytes(1, value);
}

static inline size_t length_bytes(size_t bytes)
{
    return 1 + pb_varint_bytes(bytes);
}

uint8_t *kv_encode_alarm_request(uint8_t *to, const struct alarm_request *request)
{
    to = pb_put_varint_field(to, 1, request->action);
    to = pb_put_varint_field(to, 2, request->member);
    return pb_put_varint_field(to, 3, request->kind);
}

static size_t header_body_bytes(const struct kv_header *header, int64_t revision)
{
    size_t bytes = number_bytes((uint64_t)revision);
    if (header != NULL)
        bytes += number_bytes(header->cluster_id) + number_bytes(header->member_id) +
                 number_bytes(header->term);
    return bytes;
}

size_t kv_header_bytes(const struct kv_header *header, int64_t revision)
{
    size_t body = header_body_bytes(header, revision);
    return length_bytes(body) + body;
}

/* `header` NULL: only the revision, as inside a txn response. */
uint8_t *kv_encode_header_field(uint8_t *to, const struct kv_header *header, int64_t revision)
{
    to = pb_put_length(to, 1, header_body_bytes(header, revision));
    if (header != NULL) {
        to = pb_put_varint_field(to, 1, header->cluster_id);
        to = pb_put_varint_field(to, 2, header->member_id);
    }
    to = pb_put_varint_field(to, 3, (uint64_t)revision);
    return header != NULL ? pb_put_varint_field(to, 4, header->term) : to;
}

static size_t kv_body_bytes(const struct mvcc_kv *kv)
{
    return pb_bytes_field_bytes(1, kv->key.size) + number_bytes((uint64_t)kv->create_revision) +
           number_bytes((uint64_t)kv->mod_revision) + number_bytes((uint64_t)kv->version) +
           pb_bytes_field_bytes(1, kv->value.size) + number_bytes((uint64_t)kv->lease);
}

static size_t kv_field_bytes(const struct mvcc_kv *kv)
{
    size_t body = kv_body_bytes(kv);
    return length_bytes(body) + body;
}

static uint8_t *put_kv(uint8_t *to, uint32_t number, const struct mvcc_kv *kv)
{
    to = pb_put_length(to, number, kv_body_bytes(kv));
    to = pb_put_bytes_field(to, 1, kv->key);
    to = pb_put_varint_field(to, 2, (uint64_t)kv->create_revision);
    to = pb_put_varint_field(to, 3, (uint64_t)kv->mod_revision);
    to = pb_put_varint_field(to, 4, (uint64_t)kv->version);
    to = pb_put_bytes_field(to, 5, kv->value);
    return pb_put_varint_field(to, 6, (uint64_t)kv->lease);
}

size_t kv_put_response_bytes(const struct kv_header *header, const struct mvcc_put_result *result)
{
    return kv_header_bytes(header, result->revision) +
           (result->has_prev_kv ? kv_field_bytes(&result->prev_kv) : 0);
}

uint8_t *kv_encode_put_response(uint8_t *to, const struct kv_header *header,
                                const struct mvcc_put_result *result)
{
    to = kv_encode_header_field(to, header, result->revision);
    return result->has_prev_kv ? put_kv(to, 2, &result->prev_kv) : to;
}

size_t kv_delete_response_bytes(const struct kv_header *header,
                                const struct mvcc_delete_result *result)
{
    size_t bytes =
        kv_header_bytes(header, result->revision) + number_bytes((uint64_t)result->deleted);
    for (uint32_t i = 0; i < result->prev_kv_count; i++)
        bytes += kv_field_bytes(&result->prev_kvs[i]);
    return bytes;
}

uint8_t *kv_encode_delete_response(uint8_t *to, const struct kv_header *header,
                                   const struct mvcc_delete_result *result)
{
    to = kv_encode_header_field(to, header, result->revision);
    to = pb_put_varint_field(to, 2, (uint64_t)result->deleted);
    for (uint32_t i = 0; i < result->prev_kv_count; i++)
        to = put_kv(to, 3, &result->prev_kvs[i]);
    return to;
}

size_t kv_compact_response_bytes(const struct kv_header *header, int64_t revision)
{
    return kv_header_bytes(header, revision);
}

uint8_t *kv_encode_compact_response(uint8_t *to, const struct kv_header *header, int64_t revision)
{
    return kv_encode_header_field(to, header, revision);
}

size_t kv_range_head_bytes(const struct kv_header *header, int64_t revision)
{
    return revision == 0 ? 0 : kv_header_bytes(header, revision);
}

uint8_t *kv_encode_range_head(uint8_t *to, const struct kv_header *header, int64_t revision)
{
    return revision == 0 ? to : kv_encode_header_field(to, header, revision);
}

size_t kv_range_kv_bytes(const struct mvcc_kv *kv)
{
    return kv_field_bytes(kv);
}

uint8_t *kv_encode_range_kv(uint8_t *to, const struct mvcc_kv *kv)
{
    return put_kv(to, 2, kv);
}

size_t kv_range_tail_bytes(bool more, int64_t count)
{
    return number_bytes(more) + number_bytes((uint64_t)count);
}

uint8_t *kv_encode_range_tail(uint8_t *to, bool more, int64_t count)
{
    to = pb_put_varint_field(to, 3, more);
    return pb_put_varint_field(to, 4, (uint64_t)count);
}

size_t kv_range_part_prefix_bytes(size_t body_bytes)
{
    return length_bytes(body_bytes);
}

uint8_t *kv_encode_range_part_prefix(uint8_t *to, size_t body_bytes)
{
    return pb_put_length(to, 1, body_bytes);
}

static size_t range_result_bytes(const struct mvcc_range_result *result)
{
    size_t bytes =
        kv_header_bytes(NULL, result->revision) + kv_range_tail_bytes(result->more, result->count);
    for (uint32_t i = 0; i < result->kv_count; i++)
        bytes += kv_field_bytes(&result->kvs[i]);
    return bytes;
}

static uint8_t *put_range_result(uint8_t *to, const struct mvcc_range_result *result)
{
    to = kv_encode_header_field(to, NULL, result->revision);
    for (uint32_t i = 0; i < result->kv_count; i++)
        to = put_kv(to, 2, &result->kvs[i]);
    return kv_encode_range_tail(to, result->more, result->count);
}

/* A nested txn's header is present and empty: revision 0 writes nothing into it. */
static size_t txn_body_bytes(const struct kv_header *header, int64_t revision,
                             const struct mvcc_txn_result *result);

static size_t op_body_bytes(const struct mvcc_op_result *op)
{
    switch (op->kind) {
    case MVCC_OP_RANGE:
        return range_result_bytes(&op->range);
    case MVCC_OP_PUT:
        return kv_put_response_bytes(NULL, &op->put);
    case MVCC_OP_DELETE:
        return kv_delete_response_bytes(NULL, &op->del);
    case MVCC_OP_TXN:
        return txn_body_bytes(NULL, 0, &op->txn);
    case MVCC_OP_NONE:
        break;
    }
    return 0;
}

static size_t txn_body_bytes(const struct kv_header *header, int64_t revision,
                             const struct mvcc_txn_result *result)
{
    size_t bytes = kv_header_bytes(header, revision) + number_bytes(result->succeeded);
    for (uint32_t i = 0; i < result->response_count; i++) {
        size_t body = op_body_bytes(&result->responses[i]);
        size_t response = length_bytes(body) + body;
        bytes += length_bytes(response) + response;
    }
    return bytes;
}

static uint8_t *put_txn_body(uint8_t *to, const struct kv_header *header, int64_t revision,
                             const struct mvcc_txn_result *result)
{
    to = kv_encode_header_field(to, header, revision);
    to = pb_put_varint_field(to, 2, result->succeeded);
    for (uint32_t i = 0; i < result->response_count; i++) {
        const struct mvcc_op_result *op = &result->responses[i];
        size_t body = op_body_bytes(op);
        invariant(op->kind != MVCC_OP_NONE);
        to = pb_put_length(to, 3, length_bytes(body) + body);
        to = pb_put_length(to, (uint32_t)op->kind, body);
        switch (op->kind) {
        case MVCC_OP_RANGE:
            to = put_range_result(to, &op->range);
            break;
        case MVCC_OP_PUT:
            to = kv_encode_put_response(to, NULL, &op->put);
            break;
        case MVCC_OP_DELETE:
            to = kv_encode_delete_response(to, NULL, &op->del);
            break;
        case MVCC_OP_TXN:
            to = put_txn_body(to, NULL, 0, &op->txn);
            break;
        case MVCC_OP_NONE:
            break;
        }
    }
    return to;
}

_Static_assert(MVCC_OP_RANGE == 1 && MVCC_OP_PUT == 2 && MVCC_OP_DELETE == 3 && MVCC_OP_TXN == 4,
               "ResponseOp's field numbers are the op kinds");

size_t kv_txn_response_bytes(const struct kv_header *header, const struct mvcc_txn_result *result)
{
    return txn_body_bytes(header, result->revision, result);
}

uint8_t *kv_encode_txn_response(uint8_t *to, const struct kv_header *header,
                                const struct mvcc_txn_result *result)
{
    return put_txn_body(to, header, result->revision, result);
}
