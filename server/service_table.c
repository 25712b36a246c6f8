#include "server/service_table.h"

#include <stdio.h>

/* Numbers of native frames: docs/protocol.md. */
enum {
    NATIVE_PUT = 1,
    NATIVE_RANGE = 2,
    NATIVE_DELETE_RANGE = 3,
    NATIVE_TXN = 4,
    NATIVE_COMPACT = 5,
    NATIVE_STATUS = 6,
    NATIVE_HASH_KV = 7,
};

#define METHOD(number, method_path, native_number, method_kind, handler)                           \
    {                                                                                              \
        .path = (method_path), .native = (native_number), .id = (number), .kind = (method_kind),   \
        .handle = (handler)                                                                        \
    }
#define MISSING(number, method_path)                                                               \
    METHOD(number, method_path, 0, RPC_UNARY, service_unimplemented)
#define MISSING_STREAM(number, method_path)                                                        \
    METHOD(number, method_path, 0, RPC_SERVER_STREAM, service_unimplemented)
#define MISSING_BIDI(number, method_path)                                                          \
    METHOD(number, method_path, 0, RPC_BIDI, service_unimplemented)

const struct rpc_method service_methods[] = {
    {.path = "/etcdserverpb.KV/Range",
     .native = NATIVE_RANGE,
     .id = 0,
     .kind = RPC_UNARY,
     .handle = kv_service_range,
     .ahead = kv_service_range_ahead},
    METHOD(1, "/etcdserverpb.KV/RangeStream", 0, RPC_SERVER_STREAM, kv_service_range_stream),
    METHOD(2, "/etcdserverpb.KV/Put", NATIVE_PUT, RPC_UNARY, kv_service_put),
    METHOD(3, "/etcdserverpb.KV/DeleteRange", NATIVE_DELETE_RANGE, RPC_UNARY,
           kv_service_delete_range),
    METHOD(4, "/etcdserverpb.KV/Txn", NATIVE_TXN, RPC_UNARY, kv_service_txn),
    METHOD(5, "/etcdserverpb.KV/Compact", NATIVE_COMPACT, RPC_UNARY, kv_service_compact),

    METHOD(6, "/etcdserverpb.Maintenance/Alarm", 0, RPC_UNARY, maintenance_service_alarm),
    METHOD(7, "/etcdserverpb.Maintenance/Status", NATIVE_STATUS, RPC_UNARY,
           maintenance_service_status),
    METHOD(8, "/etcdserverpb.Maintenance/Defragment", 0, RPC_UNARY, maintenance_service_defragment),
    METHOD(9, "/etcdserverpb.Maintenance/Hash", 0, RPC_UNARY, maintenance_service_hash),
    METHOD(10, "/etcdserverpb.Maintenance/HashKV", NATIVE_HASH_KV, RPC_UNARY,
           maintenance_service_hash_kv),
    MISSING_STREAM(11, "/etcdserverpb.Maintenance/Snapshot"),
    METHOD(12, "/etcdserverpb.Maintenance/MoveLeader", 0, RPC_UNARY, cluster_service_move_leader),
    MISSING(13, "/etcdserverpb.Maintenance/Downgrade"),

    METHOD(14, "/etcdserverpb.Cluster/MemberList", 0, RPC_UNARY, cluster_service_member_list),
    METHOD(15, "/etcdserverpb.Cluster/MemberAdd", 0, RPC_UNARY, cluster_service_member_add),
    METHOD(16, "/etcdserverpb.Cluster/MemberRemove", 0, RPC_UNARY, cluster_service_member_remove),
    METHOD(17, "/etcdserverpb.Cluster/MemberUpdate", 0, RPC_UNARY, cluster_service_member_update),
    METHOD(18, "/etcdserverpb.Cluster/MemberPromote", 0, RPC_UNARY, cluster_service_member_promote),

    METHOD(19, "/grpc.health.v1.Health/Check", 0, RPC_UNARY, maintenance_service_health_check),
    METHOD(20, "/grpc.health.v1.Health/Watch", 0, RPC_SERVER_STREAM,
           maintenance_service_health_watch),

    MISSING_BIDI(21, "/etcdserverpb.Watch/Watch"),
    MISSING(22, "/etcdserverpb.Lease/LeaseGrant"),
    MISSING(23, "/etcdserverpb.Lease/LeaseRevoke"),
    MISSING_BIDI(24, "/etcdserverpb.Lease/LeaseKeepAlive"),
    MISSING(25, "/etcdserverpb.Lease/LeaseTimeToLive"),
    MISSING(26, "/etcdserverpb.Lease/LeaseLeases"),

    MISSING(27, "/etcdserverpb.Auth/AuthEnable"),
    MISSING(28, "/etcdserverpb.Auth/AuthDisable"),
    MISSING(29, "/etcdserverpb.Auth/AuthStatus"),
    MISSING(30, "/etcdserverpb.Auth/Authenticate"),
    MISSING(31, "/etcdserverpb.Auth/UserAdd"),
    MISSING(32, "/etcdserverpb.Auth/UserGet"),
    MISSING(33, "/etcdserverpb.Auth/UserList"),
    MISSING(34, "/etcdserverpb.Auth/UserDelete"),
    MISSING(35, "/etcdserverpb.Auth/UserChangePassword"),
    MISSING(36, "/etcdserverpb.Auth/UserGrantRole"),
    MISSING(37, "/etcdserverpb.Auth/UserRevokeRole"),
    MISSING(38, "/etcdserverpb.Auth/RoleAdd"),
    MISSING(39, "/etcdserverpb.Auth/RoleGet"),
    MISSING(40, "/etcdserverpb.Auth/RoleList"),
    MISSING(41, "/etcdserverpb.Auth/RoleDelete"),
    MISSING(42, "/etcdserverpb.Auth/RoleGrantPermission"),
    MISSING(43, "/etcdserverpb.Auth/RoleRevokePermission"),

    MISSING(44, "/v3lockpb.Lock/Lock"),
    MISSING(45, "/v3lockpb.Lock/Unlock"),
    MISSING(46, "/v3electionpb.Election/Campaign"),
    MISSING(47, "/v3electionpb.Election/Proclaim"),
    MISSING(48, "/v3electionpb.Election/Leader"),
    MISSING_STREAM(49, "/v3electionpb.Election/Observe"),
    MISSING(50, "/v3electionpb.Election/Resign"),
};

const uint32_t service_method_count = ARRAY_COUNT(service_methods);

void service_unimplemented(struct rpc_call *call)
{
    char text[160];
    snprintf(text, sizeof(text), "%s is not supported by this version", call->method->path);
    rpc_fail_text(call, GRPC_UNIMPLEMENTED, text);
}
