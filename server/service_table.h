/*
 * service_table.h - every method that this node answers, by gRPC path and native number.
 *
 * Rows that name service_unimplemented() belong to services that etcd clients know and this version
 * does not have; they say so instead of pretending.
 */
#ifndef SERVER_SERVICE_TABLE_H
#define SERVER_SERVICE_TABLE_H

#include "net/rpc.h"

extern const struct rpc_method service_methods[];
extern const uint32_t service_method_count;

void service_unimplemented(struct rpc_call *call);

/* kv_service.c */
void kv_service_range(struct rpc_call *call);
void kv_service_range_ahead(void *service, const struct bytes *requests, uint32_t count);
void kv_service_range_stream(struct rpc_call *call);
void kv_service_put(struct rpc_call *call);
void kv_service_delete_range(struct rpc_call *call);
void kv_service_txn(struct rpc_call *call);
void kv_service_compact(struct rpc_call *call);

/* maintenance_service.c */
struct alarm_set;
void maintenance_service_alarm(struct rpc_call *call);
void maintenance_service_answer_alarm(struct rpc_call *call, const struct alarm_set *alarms);
void maintenance_service_status(struct rpc_call *call);
void maintenance_service_defragment(struct rpc_call *call);
void maintenance_service_hash(struct rpc_call *call);
void maintenance_service_hash_kv(struct rpc_call *call);
void maintenance_service_health_check(struct rpc_call *call);
void maintenance_service_health_watch(struct rpc_call *call);

/* cluster_service.c */
void cluster_service_member_list(struct rpc_call *call);
void cluster_service_member_add(struct rpc_call *call);
void cluster_service_member_remove(struct rpc_call *call);
void cluster_service_member_update(struct rpc_call *call);
void cluster_service_member_promote(struct rpc_call *call);
void cluster_service_move_leader(struct rpc_call *call);

#endif
