#include "tools/raftctl/print.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "tools/raftctl/json.h"
#include "tools/raftctl/text.h"

static struct bytes print_bytes(ProtobufCBinaryData data)
{
    return bytes_make(data.data, data.len);
}

static const char *print_bool(bool value)
{
    return value ? "true" : "false";
}

/* The formats that print any message by themselves. Returns whether this was one. */
static bool print_message(const struct raftctl *ctl, const ProtobufCMessage *message)
{
    if (ctl->output == RAFTCTL_TABLE)
        raftctl_fail(RAFTCTL_BAD_FEATURE, "table not supported as output format");
    if (ctl->output == RAFTCTL_JSON) {
        json_write_message(stdout, message);
        putchar('\n');
        return true;
    }
    if (ctl->output != RAFTCTL_PROTOBUF)
        return false;
    size_t bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = raftctl_allocate(bytes + 1);
    protobuf_c_message_pack(message, packed);
    fwrite(packed, 1, bytes, stdout);
    free(packed);
    return true;
}

/* ---- simple ------------------------------------------------------------------------------------
 */

static void print_simple_bytes(const struct raftctl *ctl, ProtobufCBinaryData data)
{
    if (ctl->hex)
        text_write_hex(stdout, print_bytes(data), "\\x");
    else if (data.len > 0)
        fwrite(data.data, 1, data.len, stdout);
    putchar('\n');
}

static void print_simple_pair(const struct raftctl *ctl, const Mvccpb__KeyValue *pair,
                              bool value_only)
{
    if (!value_only)
        print_simple_bytes(ctl, pair->key);
    print_simple_bytes(ctl, pair->value);
}

static void print_simple_range(const struct raftctl *ctl,
                               const Etcdserverpb__RangeResponse *response, bool value_only)
{
    for (size_t i = 0; i < response->n_kvs; i++)
        print_simple_pair(ctl, response->kvs[i], value_only);
}

static void print_simple_put(const struct raftctl *ctl, const Etcdserverpb__PutResponse *response)
{
    puts("OK");
    if (response->prev_kv != NULL)
        print_simple_pair(ctl, response->prev_kv, false);
}

static void print_simple_delete(const struct raftctl *ctl,
                                const Etcdserverpb__DeleteRangeResponse *response)
{
    printf("%" PRId64 "\n", response->deleted);
    for (size_t i = 0; i < response->n_prev_kvs; i++)
        print_simple_pair(ctl, response->prev_kvs[i], false);
}

static void print_simple_op(const struct raftctl *ctl, const Etcdserverpb__ResponseOp *op)
{
    putchar('\n');
    switch (op->response_case) {
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE:
        print_simple_range(ctl, op->response_range, false);
        return;
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_PUT:
        print_simple_put(ctl, op->response_put);
        return;
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_DELETE_RANGE:
        print_simple_delete(ctl, op->response_delete_range);
        return;
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_TXN: /* the text form has no nested ones */
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE__NOT_SET:
    case _ETCDSERVERPB__RESPONSE_OP__RESPONSE__CASE_IS_INT_SIZE:
        puts("unexpected response");
        return;
    }
}

/* ---- fields ------------------------------------------------------------------------------------
 */

static void print_field_quoted(const char *prefix, const char *name, struct bytes value)
{
    printf("\"%s%s\" : ", prefix, name);
    text_write_quoted(stdout, value);
    putchar('\n');
}

static void print_fields_header(const struct raftctl *ctl,
                                const Etcdserverpb__ResponseHeader *header)
{
    static const Etcdserverpb__ResponseHeader none = ETCDSERVERPB__RESPONSE_HEADER__INIT;
    if (header == NULL)
        header = &none;
    if (ctl->hex)
        printf("\"ClusterID\" : %" PRIx64 "\n\"MemberID\" : %" PRIx64 "\n", header->cluster_id,
               header->member_id);
    else
        printf("\"ClusterID\" : %" PRIu64 "\n\"MemberID\" : %" PRIu64 "\n", header->cluster_id,
               header->member_id);
    if (header->revision > 0)
        printf("\"Revision\" : %" PRId64 "\n", header->revision);
    printf("\"RaftTerm\" : %" PRIu64 "\n", header->raft_term);
}

static void print_fields_pair(const struct raftctl *ctl, const char *prefix,
                              const Mvccpb__KeyValue *pair)
{
    print_field_quoted(prefix, "Key", print_bytes(pair->key));
    printf("\"%sCreateRevision\" : %" PRId64 "\n", prefix, pair->create_revision);
    printf("\"%sModRevision\" : %" PRId64 "\n", prefix, pair->mod_revision);
    printf("\"%sVersion\" : %" PRId64 "\n", prefix, pair->version);
    print_field_quoted(prefix, "Value", print_bytes(pair->value));
    if (ctl->hex)
        printf("\"%sLease\" : %016" PRIx64 "\n", prefix, (uint64_t)pair->lease);
    else
        printf("\"%sLease\" : %" PRId64 "\n", prefix, pair->lease);
}

static void print_fields_range(const struct raftctl *ctl,
                               const Etcdserverpb__RangeResponse *response)
{
    print_fields_header(ctl, response->header);
    for (size_t i = 0; i < response->n_kvs; i++)
        print_fields_pair(ctl, "", response->kvs[i]);
    printf("\"More\" : %s\n\"Count\" : %" PRId64 "\n", print_bool(response->more), response->count);
}

static void print_fields_put(const struct raftctl *ctl, const Etcdserverpb__PutResponse *response)
{
    print_fields_header(ctl, response->header);
    if (response->prev_kv != NULL)
        print_fields_pair(ctl, "Prev", response->prev_kv);
}

static void print_fields_delete(const struct raftctl *ctl,
                                const Etcdserverpb__DeleteRangeResponse *response)
{
    print_fields_header(ctl, response->header);
    printf("\"Deleted\" : %" PRId64 "\n", response->deleted);
    for (size_t i = 0; i < response->n_prev_kvs; i++)
        print_fields_pair(ctl, "Prev", response->prev_kvs[i]);
}

static void print_fields_op(const struct raftctl *ctl, const Etcdserverpb__ResponseOp *op)
{
    switch (op->response_case) {
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE:
        print_fields_range(ctl, op->response_range);
        return;
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_PUT:
        print_fields_put(ctl, op->response_put);
        return;
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_DELETE_RANGE:
        print_fields_delete(ctl, op->response_delete_range);
        return;
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_TXN:
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE__NOT_SET:
    case _ETCDSERVERPB__RESPONSE_OP__RESPONSE__CASE_IS_INT_SIZE:
        puts("\"Unknown\" : \"\"");
        return;
    }
}

/* ---- key-value responses -----------------------------------------------------------------------
 */

void print_range(const struct raftctl *ctl, const Etcdserverpb__RangeResponse *response,
                 bool value_only)
{
    if (print_message(ctl, &response->base))
        return;
    if (ctl->output == RAFTCTL_FIELDS)
        print_fields_range(ctl, response);
    else
        print_simple_range(ctl, response, value_only);
}

void print_put(const struct raftctl *ctl, const Etcdserverpb__PutResponse *response)
{
    if (print_message(ctl, &response->base))
        return;
    if (ctl->output == RAFTCTL_FIELDS)
        print_fields_put(ctl, response);
    else
        print_simple_put(ctl, response);
}

void print_delete(const struct raftctl *ctl, const Etcdserverpb__DeleteRangeResponse *response)
{
    if (print_message(ctl, &response->base))
        return;
    if (ctl->output == RAFTCTL_FIELDS)
        print_fields_delete(ctl, response);
    else
        print_simple_delete(ctl, response);
}

void print_txn(const struct raftctl *ctl, const Etcdserverpb__TxnResponse *response)
{
    bool is_fields = ctl->output == RAFTCTL_FIELDS;
    if (print_message(ctl, &response->base))
        return;
    if (is_fields) {
        print_fields_header(ctl, response->header);
        printf("\"Succeeded\" : %s\n", print_bool(response->succeeded));
    } else {
        puts(response->succeeded ? "SUCCESS" : "FAILURE");
    }
    for (size_t i = 0; i < response->n_responses; i++) {
        if (is_fields)
            print_fields_op(ctl, response->responses[i]);
        else
            print_simple_op(ctl, response->responses[i]);
    }
}
