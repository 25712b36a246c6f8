/*
 * request.h - the payload of a normal log entry: a small header and the request's protobuf bytes as
 * the client sent them, validated. Encoded once, by the core that received it.
 *
 * Story     docs/formats/request.md gives the bytes. A follower, a restart and `raftctl debug log`
 *           decode the same thing.
 * Errors    ERR_MALFORMED when a payload is too short, of another format or of an unknown kind.
 */
#ifndef STORAGE_LOG_REQUEST_H
#define STORAGE_LOG_REQUEST_H

#include "core/base.h"
#include "core/err.h"

#define REQUEST_FORMAT       1
#define REQUEST_HEADER_BYTES ((uint32_t)24)

enum request_kind {
    REQUEST_PUT = 1,          /* body: etcdserverpb.PutRequest */
    REQUEST_DELETE_RANGE = 2, /* etcdserverpb.DeleteRangeRequest */
    REQUEST_TXN = 3,          /* etcdserverpb.TxnRequest */
    REQUEST_COMPACT = 4,      /* etcdserverpb.CompactionRequest */
    REQUEST_ALARM = 5,        /* etcdserverpb.AlarmRequest */
    /* a member (server/members.h); the first three as the context of a configuration change */
    REQUEST_MEMBER_ADD = 6,
    REQUEST_MEMBER_REMOVE = 7,  /* the id alone */
    REQUEST_MEMBER_PROMOTE = 8, /* the id alone */
    REQUEST_MEMBER_UPDATE = 9,  /* id and peer addresses */
    /* id, name, client addresses and life: what each member tells of itself at its start */
    REQUEST_MEMBER_PUBLISH = 10,
};

/* Sequences begin at the number of the origin's start, shifted by this. */
#define REQUEST_SEQUENCE_START_BITS 40

/* A number that no core has. */
#define REQUEST_STREAM_MEMBERS UINT16_MAX

struct request {
    enum request_kind kind;
    uint64_t origin;   /* member that received it */
    uint16_t stream;   /* of the origin: a core of its, or REQUEST_STREAM_MEMBERS */
    uint64_t sequence; /* grows within the stream, also over restarts of the origin */
    struct bytes body; /* borrowed from the payload */
};

/* Writes REQUEST_HEADER_BYTES; the body follows. */
void request_encode_header(uint8_t header[REQUEST_HEADER_BYTES], const struct request *request);

must_check int request_decode(struct request *request, struct bytes payload);

/* "put", "txn", ...; NULL for an unknown kind. */
const char *request_kind_name(uint32_t kind);

#endif
