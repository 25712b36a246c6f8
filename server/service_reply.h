/*
 * service_reply.h - replies of rare calls, which use the generated protobuf code.
 *
 * Owner     The connection core of the call.
 */
#ifndef SERVER_SERVICE_REPLY_H
#define SERVER_SERVICE_REPLY_H

#include "proto/rpc.pb-c.h"
#include "server/frontend.h"

/* The header of a reply now; members' replies leave the revision 0, as etcd's do. */
Etcdserverpb__ResponseHeader service_header(struct frontend *frontend, int64_t revision);

/* Completes the call; any size up to RPC_REPLY_DIRECT_BYTES, above it ERR_LIMIT. */
void service_reply_packed(struct rpc_call *call, const ProtobufCMessage *message);

#endif
