/*
 * range_stream.h - ranges that walk tables: in a fiber, in two passes, in bounded memory.
 *
 * Story     A unary reply's length goes before its body. Pass 1 measures the result at a pinned
 *           view; pass 2 encodes it kv by kv into one chunk buffer that the transport empties as
 *           the client's window opens. So a reply of any size costs RANGE_STREAM_CHUNK_BYTES (or
 *           one kv, if larger).
 *           RangeStream sends a message per chunk instead and needs no first pass.
 * Owner     The connection core. The call's request was kept. Both complete the call.
 * Limits    RANGE_STREAM_BYTES_MAX in chunks that wait for clients, on each core: what needs more
 *           ends with ERR_TOO_MANY_REQUESTS.
 */
#ifndef SERVER_RANGE_STREAM_H
#define SERVER_RANGE_STREAM_H

#include "net/rpc.h"

#define RANGE_STREAM_CHUNK_BYTES ((size_t)(64 * 1024))
#define RANGE_STREAM_BYTES_MAX   ((uint64_t)64 * MIB)

void range_stream_unary(struct rpc_call *call);
void range_stream_messages(struct rpc_call *call);

#endif
