/*
 * cluster_service.c - etcd's Cluster service and Maintenance.MoveLeader. Rare calls: each runs in a
 * fiber, does its work on the raft core, and answers with the generated protobuf code.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "core/fiber.h"
#include "core/invariant.h"
#include "server/frontend.h"
#include "server/leadership.h"
#include "server/member_request.h"
#include "server/member_rules.h"
#include "server/node_private.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"
#include "server/remote.h"
#include "server/service_reply.h"
#include "server/service_table.h"

struct cluster_job {
    struct rpc_call *call;
    struct node *node;
    enum request_kind kind;
    struct member member;  /* what is asked; of an addition, what was added */
    _Atomic bool canceled; /* by the call's core: nobody waits for a change any more */
    uint64_t target;       /* of MoveLeader */
    int error;
    struct member_set *after; /* owned: the members when it was done */
};

/* ---- on the raft core ----------------------------------------------------------------------- */

static void job_copy_members(struct cluster_job *job)
{
    job->after = malloc(sizeof(*job->after));
    if (job->after != NULL)
        *job->after = job->node->membership.set;
    else if (job->error == 0)
        job->error = ERR_TOO_MANY_REQUESTS;
}

static void list_on_raft(void *argument)
{
    job_copy_members(argument);
}

/* Those before it are done, and what they changed counts. */
static int change_allowed(void *argument)
{
    const struct cluster_job *job = argument;
    if (atomic_load_explicit(&job->canceled, memory_order_relaxed))
        return ERR_CANCELED;
    return member_rules_check(job->node, job->kind, &job->member);
}

static void change_on_raft(void *argument)
{
    struct cluster_job *job = argument;
    job->error = member_request_if(job->node, job->kind, &job->member, change_allowed, job);
    if (job->error == 0)
        job_copy_members(job);
}

static void move_on_raft(void *argument)
{
    struct cluster_job *job = argument;
    job->error = leadership_move(job->node, job->target);
}

/* ---- replies -------------------------------------------------------------------------------- */

struct member_messages {
    Etcdserverpb__Member messages[MEMBERS_MAX], *pointers[MEMBERS_MAX];
    char *texts[MEMBERS_MAX][2 * CONFIG_URLS_MAX];
};

static size_t messages_fill(struct member_messages *to, const struct member_set *set)
{
    for (uint32_t i = 0; i < set->count; i++) {
        member_to_message(&set->members[i], &to->messages[i], to->texts[i]);
        to->pointers[i] = &to->messages[i];
    }
    return set->count;
}

static void reply_members(struct cluster_job *job)
{
    struct member_messages members;
    struct rpc_call *call = job->call;
    Etcdserverpb__ResponseHeader header = service_header(call_frontend(call), 0);
    Etcdserverpb__MemberAddResponse add = ETCDSERVERPB__MEMBER_ADD_RESPONSE__INIT;
    Etcdserverpb__MemberListResponse list = ETCDSERVERPB__MEMBER_LIST_RESPONSE__INIT;
    Etcdserverpb__Member added;
    char *texts[2 * CONFIG_URLS_MAX];
    size_t count = messages_fill(&members, job->after);
    if (job->kind == REQUEST_MEMBER_ADD) {
        member_to_message(&job->member, &added, texts);
        add.header = &header;
        add.member = &added;
        add.n_members = count;
        add.members = members.pointers;
        service_reply_packed(call, &add.base);
        return;
    }
    list.header = &header; /* the responses of the other calls have the same fields */
    list.n_members = count;
    list.members = members.pointers;
    service_reply_packed(call, &list.base);
}

static void job_end(struct cluster_job *job)
{
    if (job->error < 0)
        rpc_fail(job->call, job->error);
    else if (job->after != NULL)
        reply_members(job);
    else
        rpc_reply(job->call, bytes_make(NULL, 0)); /* MoveLeader: no header, as etcd's */
    free(job->after);
    free(job);
}

static void list_run(void *argument)
{
    struct cluster_job *job = argument;
    remote_call_request(job->node->map.raft, list_on_raft, job);
    job_end(job);
}

static void change_run(void *argument)
{
    struct cluster_job *job = argument;
    remote_call_request(job->node->map.raft, change_on_raft, job);
    job_end(job);
}

static void move_run(void *argument)
{
    struct cluster_job *job = argument;
    remote_call_request(job->node->map.raft, move_on_raft, job);
    job_end(job);
}

/* ---- calls ---------------------------------------------------------------------------------- */

static struct cluster_job *job_create(struct rpc_call *call, enum request_kind kind)
{
    struct cluster_job *job = calloc(1, sizeof(*job));
    if (job == NULL) {
        rpc_fail(call, ERR_TOO_MANY_REQUESTS);
        return NULL;
    }
    job->call = call;
    job->node = call_frontend(call)->node;
    job->kind = kind;
    return job;
}

static void job_start(struct cluster_job *job, void (*run)(void *argument))
{
    if (fiber_spawn_request(call_frontend(job->call)->core, FIBER_LATENCY, run, job) == 0)
        return;
    rpc_fail(job->call, ERR_TOO_MANY_REQUESTS);
    free(job);
}

static void list_go(struct rpc_call *call, int error)
{
    if (error < 0) {
        rpc_fail(call, error);
        return;
    }
    struct cluster_job *job = job_create(call, REQUEST_MEMBER_UPDATE); /* a plain list of members */
    if (job != NULL)
        job_start(job, list_run);
}

void cluster_service_member_list(struct rpc_call *call)
{
    Etcdserverpb__MemberListRequest *request =
        etcdserverpb__member_list_request__unpack(NULL, call->request.size, call->request.data);
    if (request == NULL) {
        rpc_fail(call, ERR_MALFORMED);
        return;
    }
    bool linearizable = request->linearizable;
    etcdserverpb__member_list_request__free_unpacked(request, NULL);
    int error = frontend_admit(call);
    if (error < 0)
        rpc_fail(call, error);
    else if (linearizable)
        frontend_read_for(call, list_go);
    else
        list_go(call, 0);
}

static int urls_take(struct config_urls *urls, char **texts, size_t count)
{
    char reason[CONFIG_TEXT_BYTES];
    if (count == 0 || count > CONFIG_URLS_MAX)
        return ERR_MEMBER_BAD_URLS;
    for (size_t i = 0; i < count; i++)
        if (strstr(texts[i], "://") == NULL ||
            config_url_parse(&urls->url[urls->count++], texts[i], reason, sizeof(reason)) < 0)
            return ERR_MEMBER_BAD_URLS;
    return 0;
}

static void change_canceled(struct rpc_call *call)
{
    struct cluster_job *job = call->context;
    atomic_store_explicit(&job->canceled, true, memory_order_relaxed);
}

static void job_check_and_start(struct cluster_job *job, int error)
{
    if (error == 0)
        error = frontend_admit(job->call);
    if (error == 0) {
        job->call->context = job; /* which answers the call before it goes */
        job->call->canceled = change_canceled;
        job_start(job, change_run);
        return;
    }
    rpc_fail(job->call, error);
    free(job);
}

void cluster_service_member_add(struct rpc_call *call)
{
    struct cluster_job *job = job_create(call, REQUEST_MEMBER_ADD);
    if (job == NULL)
        return;
    Etcdserverpb__MemberAddRequest *request =
        etcdserverpb__member_add_request__unpack(NULL, call->request.size, call->request.data);
    int error = request == NULL
                    ? ERR_MALFORMED
                    : urls_take(&job->member.peer, request->peerurls, request->n_peerurls);
    if (error == 0) {
        struct reactor *reactor = core_reactor(call_frontend(call)->core);
        job->member.learner = request->islearner;
        job->member.id =
            member_id_derive(&job->member.peer, job->node->config->initial_cluster_token,
                             reactor_wall_ns(reactor) / (int64_t)NS_PER_S);
    }
    if (request != NULL)
        etcdserverpb__member_add_request__free_unpacked(request, NULL);
    job_check_and_start(job, error);
}

void cluster_service_member_remove(struct rpc_call *call)
{
    struct cluster_job *job = job_create(call, REQUEST_MEMBER_REMOVE);
    if (job == NULL)
        return;
    Etcdserverpb__MemberRemoveRequest *request =
        etcdserverpb__member_remove_request__unpack(NULL, call->request.size, call->request.data);
    job->member.id = request == NULL ? 0 : request->id;
    int error = request == NULL ? ERR_MALFORMED : 0;
    if (request != NULL)
        etcdserverpb__member_remove_request__free_unpacked(request, NULL);
    job_check_and_start(job, error);
}

void cluster_service_member_update(struct rpc_call *call)
{
    struct cluster_job *job = job_create(call, REQUEST_MEMBER_UPDATE);
    if (job == NULL)
        return;
    Etcdserverpb__MemberUpdateRequest *request =
        etcdserverpb__member_update_request__unpack(NULL, call->request.size, call->request.data);
    job->member.id = request == NULL ? 0 : request->id;
    int error = request == NULL
                    ? ERR_MALFORMED
                    : urls_take(&job->member.peer, request->peerurls, request->n_peerurls);
    if (request != NULL)
        etcdserverpb__member_update_request__free_unpacked(request, NULL);
    job_check_and_start(job, error);
}

void cluster_service_member_promote(struct rpc_call *call)
{
    struct cluster_job *job = job_create(call, REQUEST_MEMBER_PROMOTE);
    if (job == NULL)
        return;
    Etcdserverpb__MemberPromoteRequest *request =
        etcdserverpb__member_promote_request__unpack(NULL, call->request.size, call->request.data);
    job->member.id = request == NULL ? 0 : request->id;
    int error = request == NULL ? ERR_MALFORMED : 0;
    if (request != NULL)
        etcdserverpb__member_promote_request__free_unpacked(request, NULL);
    job_check_and_start(job, error);
}

void cluster_service_move_leader(struct rpc_call *call)
{
    struct cluster_job *job = job_create(call, REQUEST_MEMBER_UPDATE);
    if (job == NULL)
        return;
    Etcdserverpb__MoveLeaderRequest *request =
        etcdserverpb__move_leader_request__unpack(NULL, call->request.size, call->request.data);
    job->target = request == NULL ? 0 : request->targetid;
    if (request != NULL)
        etcdserverpb__move_leader_request__free_unpacked(request, NULL);
    int error = request == NULL ? ERR_MALFORMED : frontend_admit(call);
    if (error < 0) {
        rpc_fail(call, error);
        free(job);
        return;
    }
    job_start(job, move_run);
}
