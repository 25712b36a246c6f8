#include "server/service_reply.h"

Etcdserverpb__ResponseHeader service_header(struct frontend *frontend, int64_t revision)
{
    Etcdserverpb__ResponseHeader header = ETCDSERVERPB__RESPONSE_HEADER__INIT;
    struct kv_header now = frontend_header(frontend);
    header.cluster_id = now.cluster_id;
    header.member_id = now.member_id;
    header.raft_term = now.term;
    header.revision = revision;
    return header;
}

void service_reply_packed(struct rpc_call *call, const ProtobufCMessage *message)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    if (bytes > RPC_REPLY_DIRECT_BYTES) {
        rpc_fail(call, ERR_LIMIT);
        return;
    }
    uint8_t *to = rpc_reply_begin(call, bytes);
    protobuf_c_message_pack(message, to);
    rpc_reply_end(call, bytes);
}
