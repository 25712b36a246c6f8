/*
 * err.h - one space of error codes: 0 or a count is success, -1..-4095 is a kernel errno as CQEs
 * give it, and below that are ours.
 *
 * Story     The list carries who acts (CLIENT fixes its request, RETRY later or elsewhere, REPAIR
 *           stored bytes, FATAL stops the node), the gRPC status code, and the exact text that an
 *           etcd client compares. Status and text therefore cannot drift from the code.
 * Threads   Any.
 * Source    api/v3rpc/rpctypes of etcd: its client compares the whole message.
 */
#ifndef CORE_ERR_H
#define CORE_ERR_H

#include "core/base.h"

enum grpc_status {
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_ALREADY_EXISTS = 6,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_ABORTED = 10,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_DATA_LOSS = 15,
    GRPC_UNAUTHENTICATED = 16,
};

enum err_action { ERR_ACTION_CLIENT, ERR_ACTION_RETRY, ERR_ACTION_REPAIR, ERR_ACTION_FATAL };

/* name, number (stable: it is on the native wire), action, gRPC status, text */
#define ERR_LIST(X)                                                                                \
    /* runtime */                                                                                  \
    X(FULL, 5000, RETRY, RESOURCE_EXHAUSTED, "a bounded queue or pool is full")                    \
    X(CORRUPT, 5001, REPAIR, DATA_LOSS, "checksum mismatch on stored bytes")                       \
    X(MALFORMED, 5002, CLIENT, INTERNAL, "malformed bytes")                                        \
    X(CLOSED, 5003, RETRY, UNAVAILABLE, "connection is closed")                                    \
    X(CANCELED, 5004, CLIENT, CANCELLED, "context canceled")                                       \
    X(DEADLINE, 5005, CLIENT, DEADLINE_EXCEEDED, "context deadline exceeded")                      \
    X(NOT_FOUND, 5006, CLIENT, NOT_FOUND, "not found")                                             \
    X(VERSION, 5007, FATAL, INTERNAL, "unknown format version")                                    \
    X(LOCKED, 5008, FATAL, INTERNAL, "data directory is in use by another process")                \
    X(WOULD_WAIT, 5009, RETRY, INTERNAL, "the answer is not in memory")                            \
    X(CONFIG, 5010, FATAL, INVALID_ARGUMENT, "bad configuration")                                  \
    X(UNIMPLEMENTED, 5011, CLIENT, UNIMPLEMENTED, "unknown method")                                \
    X(LIMIT, 5012, CLIENT, RESOURCE_EXHAUSTED, "a limit was exceeded")                             \
    /* key-value */                                                                                \
    X(EMPTY_KEY, 5100, CLIENT, INVALID_ARGUMENT, "etcdserver: key is not provided")                \
    X(KEY_NOT_FOUND, 5101, CLIENT, INVALID_ARGUMENT, "etcdserver: key not found")                  \
    X(VALUE_PROVIDED, 5102, CLIENT, INVALID_ARGUMENT, "etcdserver: value is provided")             \
    X(LEASE_PROVIDED, 5103, CLIENT, INVALID_ARGUMENT, "etcdserver: lease is provided")             \
    X(TOO_MANY_OPS, 5104, CLIENT, INVALID_ARGUMENT,                                                \
      "etcdserver: too many operations in txn request")                                            \
    X(DUPLICATE_KEY, 5105, CLIENT, INVALID_ARGUMENT,                                               \
      "etcdserver: duplicate key given in txn request")                                            \
    X(INVALID_SORT, 5106, CLIENT, INVALID_ARGUMENT, "etcdserver: invalid sort option")             \
    X(REQUEST_TOO_LARGE, 5107, CLIENT, INVALID_ARGUMENT, "etcdserver: request is too large")       \
    X(COMPACTED, 5108, CLIENT, OUT_OF_RANGE,                                                       \
      "etcdserver: mvcc: required revision has been compacted")                                    \
    X(FUTURE_REVISION, 5109, CLIENT, OUT_OF_RANGE,                                                 \
      "etcdserver: mvcc: required revision is a future revision")                                  \
    X(NO_SPACE, 5110, CLIENT, RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")     \
    X(LEASE_NOT_FOUND, 5111, CLIENT, NOT_FOUND, "etcdserver: requested lease not found")           \
    X(TOO_MANY_REQUESTS, 5112, RETRY, RESOURCE_EXHAUSTED, "etcdserver: too many requests")         \
    X(CORRUPT_CLUSTER, 5113, CLIENT, DATA_LOSS, "etcdserver: corrupt cluster")                     \
    X(INVALID_API_VERSION, 5114, CLIENT, INVALID_ARGUMENT,                                         \
      "etcdserver: invalid client api version")                                                    \
    X(STREAM_SORT, 5115, CLIENT, UNIMPLEMENTED, "RangeStream does not support custom sort orders") \
    X(STREAM_FILTER, 5116, CLIENT, UNIMPLEMENTED, "RangeStream does not support revision filters") \
    X(DELETE_TOO_LARGE, 5117, CLIENT, INVALID_ARGUMENT,                                            \
      "too many keys to delete in one request, delete them in parts")                              \
    /* consensus and membership */                                                                 \
    X(NOT_LEADER, 5200, RETRY, FAILED_PRECONDITION, "etcdserver: not leader")                      \
    X(NO_LEADER, 5201, RETRY, UNAVAILABLE, "etcdserver: no leader")                                \
    X(LEADER_CHANGED, 5202, RETRY, UNAVAILABLE, "etcdserver: leader changed")                      \
    X(STOPPED, 5203, RETRY, UNAVAILABLE, "etcdserver: server stopped")                             \
    X(TIMEOUT, 5204, RETRY, UNAVAILABLE, "etcdserver: request timed out")                          \
    X(DROPPED, 5205, RETRY, UNAVAILABLE, "raft proposal dropped")                                  \
    X(NOT_CAPABLE, 5206, CLIENT, FAILED_PRECONDITION, "etcdserver: not capable")                   \
    X(BAD_TRANSFEREE, 5207, CLIENT, FAILED_PRECONDITION, "etcdserver: bad leader transferee")      \
    X(MEMBER_NOT_FOUND, 5208, CLIENT, NOT_FOUND, "etcdserver: member not found")                   \
    X(UNAVAILABLE, 5209, RETRY, UNAVAILABLE, "log entries are temporarily unavailable")            \
    X(LEARNER, 5210, RETRY, FAILED_PRECONDITION, "etcdserver: rpc not supported for learner")      \
    X(MEMBER_EXISTS, 5211, CLIENT, FAILED_PRECONDITION, "etcdserver: member ID already exist")     \
    X(PEER_URL_EXISTS, 5212, CLIENT, FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")  \
    X(MEMBER_BAD_URLS, 5213, CLIENT, INVALID_ARGUMENT,                                             \
      "etcdserver: given member URLs are invalid")                                                 \
    X(NOT_ENOUGH_STARTED, 5214, CLIENT, UNKNOWN,                                                   \
      "etcdserver: re-configuration failed due to not enough started members")                     \
    X(NOT_A_LEARNER, 5215, CLIENT, FAILED_PRECONDITION,                                            \
      "etcdserver: can only promote a learner member")                                             \
    X(LEARNER_NOT_READY, 5216, CLIENT, FAILED_PRECONDITION,                                        \
      "etcdserver: can only promote a learner member which is in sync with leader")                \
    X(TOO_MANY_LEARNERS, 5217, CLIENT, FAILED_PRECONDITION,                                        \
      "etcdserver: too many learner members in cluster")                                           \
    X(CLUSTER_MISMATCH, 5218, FATAL, FAILED_PRECONDITION, "etcdserver: cluster ID mismatch")       \
    X(UNHEALTHY, 5219, RETRY, UNAVAILABLE, "etcdserver: unhealthy cluster")                        \
    X(MEMBER_REMOVED, 5220, FATAL, FAILED_PRECONDITION,                                            \
      "the member has been permanently removed from the cluster")                                  \
    X(MEMBER_BOOTSTRAPPED, 5221, FATAL, FAILED_PRECONDITION,                                       \
      "the member has already been bootstrapped; its data directory was lost")                     \
    X(TRANSFER_TIMEOUT, 5222, RETRY, UNKNOWN,                                                      \
      "etcdserver: request timed out, leader transfer took too long")                              \
    X(LEADER_FAILED, 5223, RETRY, UNAVAILABLE,                                                     \
      "etcdserver: request timed out, possibly due to previous leader failure")

enum err {
#define X(name, number, action, grpc, text) ERR_##name = -(number),
    ERR_LIST(X)
#undef X
};

/* Text of any error, errno included; never NULL. Static storage. */
const char *err_text(int error);

/* Short upper-case name ("COMPACTED", "EIO"); never NULL. */
const char *err_name(int error);

enum grpc_status err_grpc_status(int error);
enum err_action err_action(int error);

/* A file cannot grow; less data may mend that. */
bool err_is_no_room(int error);

#endif
