/*
 * json.h - any protobuf message as JSON, the way etcdctl's -w json has it.
 *
 * Story     Walks the message by its descriptor: fields under their names in the order of their
 *           numbers, those at zero left out, bytes in base64, enums as numbers. The operation
 *           responses of a transaction are wrapped in {"Response": ...}, as etcdctl does.
 * Owner     Nobody: no state.
 * Limits    Nesting as deep as the decoder of protobuf lets through.
 */
#ifndef TOOLS_RAFTCTL_JSON_H
#define TOOLS_RAFTCTL_JSON_H

#include <stdio.h>

#include "proto/rpc.pb-c.h"

void json_write_message(FILE *to, const ProtobufCMessage *message);

#endif
