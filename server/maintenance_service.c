/*
 * maintenance_service.c - etcd's Maintenance service and gRPC health of one node.
 * Rare calls: they use the generated protobuf code and fibers.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core/fiber.h"
#include "core/invariant.h"
#include "proto/health.pb-c.h"
#include "proto/rpc.pb-c.h"
#include "server/frontend.h"
#include "server/node_private.h"
#include "server/remote.h"
#include "server/service_reply.h"
#include "server/service_table.h"
#include "storage/lsm/lsm.h"
#include "storage/mvcc/mvcc.h"

static int64_t revision_now(const struct frontend *frontend)
{
    return mvcc_shared_state(frontend->node->mvcc_shared).revision;
}

/* ---- Alarm ---------------------------------------------------------------------------------- */

void maintenance_service_alarm(struct rpc_call *call)
{
    struct alarm_request request;
    int error = kv_decode_alarm(call->request, &request);
    if (error == 0)
        error = frontend_admit(call);
    if (error < 0)
        rpc_fail(call, error);
    else
        frontend_propose(call, REQUEST_ALARM, call->request);
}

void maintenance_service_answer_alarm(struct rpc_call *call, const struct alarm_set *alarms)
{
    struct frontend *frontend = call_frontend(call);
    Etcdserverpb__ResponseHeader header = service_header(frontend, revision_now(frontend));
    Etcdserverpb__AlarmResponse response = ETCDSERVERPB__ALARM_RESPONSE__INIT;
    Etcdserverpb__AlarmMember members[ALARMS_MAX];
    Etcdserverpb__AlarmMember *pointers[ALARMS_MAX];
    for (uint32_t i = 0; i < alarms->count; i++) {
        etcdserverpb__alarm_member__init(&members[i]);
        members[i].memberid = alarms->alarms[i].member;
        members[i].alarm = (Etcdserverpb__AlarmType)alarms->alarms[i].kind;
        pointers[i] = &members[i];
    }
    response.header = &header;
    response.n_alarms = alarms->count;
    response.alarms = pointers;
    service_reply_packed(call, &response.base);
}

/* ---- Status --------------------------------------------------------------------------------- */

struct status_job {
    struct rpc_call *call;
    struct node *node;
    struct alarm_set alarms; /* empty unless some are raised */
};

/* "no leader", then each alarm with the member that it is about. */
struct status_errors {
    char texts[ALARMS_MAX + 1][64];
    char *pointers[ALARMS_MAX + 1];
};

static size_t status_errors_fill(struct status_errors *errors, uint64_t leader,
                                 const struct alarm_set *alarms)
{
    size_t count = 0;
    if (leader == 0)
        snprintf(errors->texts[count++], sizeof(errors->texts[0]), "etcdserver: no leader");
    for (uint32_t i = 0; i < alarms->count; i++)
        snprintf(errors->texts[count++], sizeof(errors->texts[0]), "memberID:%llu alarm:%s",
                 (unsigned long long)alarms->alarms[i].member,
                 alarm_kind_name(alarms->alarms[i].kind));
    for (size_t i = 0; i < count; i++)
        errors->pointers[i] = errors->texts[i];
    return count;
}

static void reply_status(const struct status_job *job)
{
    struct frontend *frontend = call_frontend(job->call);
    struct node *node = job->node;
    struct node_shared *shared = &node->shared;
    struct mvcc_stats stats = mvcc_shared_stats(node->mvcc_shared);
    Etcdserverpb__ResponseHeader header = service_header(frontend, stats.revision);
    Etcdserverpb__StatusResponse response = ETCDSERVERPB__STATUS_RESPONSE__INIT;
    struct status_errors errors;
    response.header = &header;
    response.version = (char *)NODE_ETCD_VERSION;
    response.storageversion = (char *)NODE_ETCD_CLUSTER_VERSION;
    /* Never 0, as etcd's never is: etcdctl divides by it. */
    response.dbsize = (int64_t)u64_max(stats.size_bytes, 1);
    response.dbsizeinuse = (int64_t)u64_min(stats.size_in_use_bytes, stats.size_bytes);
    uint64_t quota = alarm_quota_bytes(node);
    response.dbsizequota = quota == UINT64_MAX ? 0 : (int64_t)quota;
    response.leader = atomic_load_explicit(&shared->leader, memory_order_relaxed);
    response.raftterm = header.raft_term;
    response.raftindex = atomic_load_explicit(&shared->commit_index, memory_order_relaxed);
    response.raftappliedindex = stats.applied_index;
    Etcdserverpb__DowngradeInfo downgrade = ETCDSERVERPB__DOWNGRADE_INFO__INIT;
    response.downgradeinfo = &downgrade;
    response.n_errors = status_errors_fill(&errors, response.leader, &job->alarms);
    response.errors = errors.pointers;
    response.islearner = atomic_load_explicit(&shared->is_learner, memory_order_relaxed);
    service_reply_packed(job->call, &response.base);
}

static void status_on_raft(void *argument)
{
    struct status_job *job = argument;
    job->alarms = job->node->alarms;
}

static void status_run(void *argument)
{
    struct status_job *job = argument;
    remote_call_request(job->node->map.raft, status_on_raft, job);
    reply_status(job);
    free(job);
}

/* Which alarms there are, the raft core knows; that there are none, every core. */
void maintenance_service_status(struct rpc_call *call)
{
    struct frontend *frontend = call_frontend(call);
    struct node *node = frontend->node;
    struct status_job now = {.call = call, .node = node};
    if (atomic_load_explicit(&node->shared.alarms, memory_order_relaxed) == 0) {
        reply_status(&now);
        return;
    }
    struct status_job *job = malloc(sizeof(*job));
    if (job != NULL) {
        *job = now;
        if (fiber_spawn_request(frontend->core, FIBER_LATENCY, status_run, job) == 0)
            return;
    }
    free(job);
    rpc_fail(call, ERR_TOO_MANY_REQUESTS);
}

void maintenance_service_defragment(struct rpc_call *call)
{
    rpc_reply(call,
              bytes_make(NULL, 0)); /* tables do not fragment; the header is unset, as etcd's */
}

/* ---- hashes --------------------------------------------------------------------------------- */

struct hash_job {
    struct rpc_call *call;
    int64_t revision;
    bool kv; /* HashKV, else Hash */
};

static void reply_hash(struct hash_job *job, const struct mvcc_hash *hash)
{
    struct frontend *frontend = call_frontend(job->call);
    Etcdserverpb__ResponseHeader header = service_header(frontend, hash->revision);
    if (job->kv) {
        Etcdserverpb__HashKVResponse response = ETCDSERVERPB__HASH_KVRESPONSE__INIT;
        response.header = &header;
        response.hash = hash->hash;
        response.compact_revision = hash->compacted;
        response.hash_revision = hash->hash_revision;
        service_reply_packed(job->call, &response.base);
    } else {
        Etcdserverpb__HashResponse response = ETCDSERVERPB__HASH_RESPONSE__INIT;
        response.header = &header;
        response.hash = hash->hash;
        service_reply_packed(job->call, &response.base);
    }
}

static void hash_run(void *argument)
{
    struct hash_job *job = argument;
    struct mvcc_hash hash;
    int error = mvcc_hash_kv(call_frontend(job->call)->reader, job->revision, &hash);
    if (error < 0)
        rpc_fail(job->call, error);
    else
        reply_hash(job, &hash);
    free(job);
}

static void hash_start(struct rpc_call *call, int64_t revision, bool kv)
{
    struct hash_job *job = malloc(sizeof(*job));
    if (job != NULL) {
        *job = (struct hash_job){.call = call, .revision = revision, .kv = kv};
        if (fiber_spawn_request(call_frontend(call)->core, FIBER_BACKGROUND, hash_run, job) == 0)
            return;
    }
    free(job);
    rpc_fail(call, ERR_TOO_MANY_REQUESTS);
}

/* etcd takes a negative revision at its word: nothing is that old, and it is never compacted. */
static void hash_of_nothing(struct rpc_call *call, int64_t revision)
{
    struct mvcc_state state = mvcc_shared_state(call_frontend(call)->node->mvcc_shared);
    struct hash_job job = {.call = call, .revision = revision, .kv = true};
    struct mvcc_hash hash = {
        .hash_revision = revision, .compacted = state.compacted, .revision = state.revision};
    reply_hash(&job, &hash);
}

void maintenance_service_hash(struct rpc_call *call)
{
    hash_start(call, 0, false);
}

void maintenance_service_hash_kv(struct rpc_call *call)
{
    Etcdserverpb__HashKVRequest *request =
        etcdserverpb__hash_kvrequest__unpack(NULL, call->request.size, call->request.data);
    if (request == NULL) {
        rpc_fail(call, ERR_MALFORMED);
        return;
    }
    int64_t revision = request->revision;
    etcdserverpb__hash_kvrequest__free_unpacked(request, NULL);
    if (revision < 0)
        hash_of_nothing(call, revision);
    else
        hash_start(call, revision, true);
}

/* ---- health ---------------------------------------------------------------------------------- */

/* Only the server as a whole, service "", is known. */
static bool health_is_known(struct bytes request)
{
    Grpc__Health__V1__HealthCheckRequest *decoded =
        grpc__health__v1__health_check_request__unpack(NULL, request.size, request.data);
    bool known = decoded != NULL && decoded->service[0] == '\0';
    if (decoded != NULL)
        grpc__health__v1__health_check_request__free_unpacked(decoded, NULL);
    return known;
}

void maintenance_service_health_check(struct rpc_call *call)
{
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    response.status = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
    if (health_is_known(call->request))
        service_reply_packed(call, &response.base);
    else
        rpc_fail_text(call, GRPC_NOT_FOUND, "unknown service");
}

static void health_watch_ended(struct rpc_call *call)
{
    rpc_finish(call, ERR_CANCELED);
}

/* The state at once, and nothing more: it does not change while the node serves. */
void maintenance_service_health_watch(struct rpc_call *call)
{
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    uint8_t message[16];
    response.status =
        health_is_known(call->request)
            ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
            : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN;
    size_t bytes = protobuf_c_message_get_packed_size(&response.base);
    invariant(bytes <= sizeof(message));
    protobuf_c_message_pack(&response.base, message);
    bool sent = rpc_send_message(call, bytes_make(message, bytes));
    invariant(sent); /* the first message into an empty queue is always taken */
    call->canceled = health_watch_ended;
}
