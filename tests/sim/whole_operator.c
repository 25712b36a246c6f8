/* The operator of the whole-node simulator: changes the members, moves leadership and disarms
 * alarms by etcd's own API, over gRPC, as etcdctl would. It knows what it was answered, and nothing
 * else. */
#include <stdio.h>
#include <stdlib.h>

#include "core/core.h"
#include "core/invariant.h"
#include "net/grpc_client.h"
#include "tests/sim/memory.h"
#include "tests/sim/whole.h"

#define CALL_NS            (6 * NS_PER_S)
#define MEMBERS_WANTED_MAX 5

/* ---- one call on a connection of its own ---------------------------------------------------- */

struct call {
    struct grpc_client client;
    struct timer timer;
    struct fiber_event opened, done, closed;
    bool is_open, is_closed;
    enum grpc_status status;
    bool is_refused;  /* surely nothing happened */
    uint8_t *message; /* owned */
    size_t message_bytes;
};

static void on_opened(struct grpc_client *client)
{
    struct call *call = container_of(client, struct call, client);
    call->is_open = true;
    fiber_event_signal(&call->opened);
}

static void on_closed(struct grpc_client *client, int error)
{
    struct call *call = container_of(client, struct call, client);
    (void)error;
    call->is_closed = true;
    fiber_event_signal(&call->opened);
    fiber_event_signal(&call->closed);
}

static void on_done(void *context, const struct grpc_client_reply *reply)
{
    struct call *call = context;
    call->status = reply->status;
    call->is_refused = reply->status == GRPC_FAILED_PRECONDITION ||
                       reply->status == GRPC_INVALID_ARGUMENT ||
                       strstr(reply->text, "unhealthy cluster") != NULL;
    if (reply->status == GRPC_OK) {
        call->message = malloc(reply->message.size + 1);
        invariant(call->message != NULL);
        memcpy(call->message, reply->message.data, reply->message.size);
        call->message_bytes = reply->message.size;
    }
    fiber_event_signal(&call->done);
}

static void on_timer(struct timer *timer)
{
    struct call *call = container_of(timer, struct call, timer);
    if (!call->is_closed)
        grpc_client_close(&call->client);
}

static void call_once(struct call *call, const char *path, struct bytes request)
{
    struct grpc_call_options options = {
        .path = path, .timeout_ns = CALL_NS, .done = on_done, .context = call};
    fiber_event_wait(&call->opened);
    if (!call->is_open || call->is_closed ||
        grpc_client_call(&call->client, &options, request, NULL) < 0)
        return;
    fiber_event_wait(&call->done);
}

struct answer {
    enum grpc_status status;
    bool is_refused;
    uint8_t *message; /* to be freed */
    size_t bytes;
};

static struct answer rpc(struct whole *whole, const struct whole_node *node, const char *path,
                         const ProtobufCMessage *request)
{
    struct core *core = core_current();
    struct call *call = calloc(1, sizeof(*call));
    char host[32];
    struct io_address address;
    size_t size = protobuf_c_message_get_packed_size(request);
    uint8_t *bytes = malloc(size + 1);
    invariant(call != NULL && bytes != NULL);
    protobuf_c_message_pack(request, bytes);
    call->status = GRPC_UNAVAILABLE;
    call->client.opened = on_opened;
    call->client.closed = on_closed;
    fiber_event_init(&call->opened);
    fiber_event_init(&call->done);
    fiber_event_init(&call->closed);
    timer_init(&call->timer, on_timer);
    snprintf(host, sizeof(host), "10.0.0.%u", node->sim.id);
    int error = reactor_resolve(core_reactor(core), host, 2379, &address);
    invariant(error == 0);
    if (grpc_client_open(whole_client_set(), &call->client, &address, 4) == 0) {
        timer_start(core_timers(core), &call->timer, core_now_ns(core) + CALL_NS);
        call_once(call, path, bytes_make(bytes, size));
        timer_stop(core_timers(core), &call->timer);
        if (!call->is_closed)
            grpc_client_close(&call->client);
        fiber_event_wait(&call->closed);
    }
    struct answer answer = {call->status, call->is_refused, call->message, call->message_bytes};
    whole_text(whole, 0, "operator: %s at n%u: status %d%s", path, node->sim.id, (int)answer.status,
               answer.is_refused ? ", refused" : "");
    free(bytes);
    free(call);
    return answer;
}

/* ---- what it knows -------------------------------------------------------------------------- */

struct operator_view {
    Etcdserverpb__MemberListResponse *list;
    const struct whole_node *from; /* who answered */
    uint32_t voters, learners;
};

static const struct whole_node *some_node(struct whole *whole)
{
    return &whole->nodes[prng_below(whole_prng(whole, WORKLOAD), whole->node_count)];
}

static bool look(struct whole *whole, struct operator_view *view)
{
    Etcdserverpb__MemberListRequest request = ETCDSERVERPB__MEMBER_LIST_REQUEST__INIT;
    *view = (struct operator_view){.from = some_node(whole)};
    request.linearizable = true;
    struct answer answer =
        rpc(whole, view->from, "/etcdserverpb.Cluster/MemberList", &request.base);
    if (answer.status != GRPC_OK)
        return false;
    view->list = etcdserverpb__member_list_response__unpack(NULL, answer.bytes, answer.message);
    free(answer.message);
    sim_check(view->list != NULL, "a member list that does not decode");
    for (size_t i = 0; i < view->list->n_members; i++) {
        view->learners += view->list->members[i]->islearner != 0;
        view->voters += view->list->members[i]->islearner == 0;
    }
    return true;
}

static struct whole_node *node_of(struct whole *whole, const Etcdserverpb__Member *member)
{
    for (uint32_t i = 0; i < whole->node_count; i++) {
        char url[64];
        snprintf(url, sizeof(url), "http://10.0.0.%u:2380", whole->nodes[i].sim.id);
        if (member->n_peerurls == 1 && strcmp(member->peerurls[0], url) == 0)
            return &whole->nodes[i];
    }
    sim_check(false, "a member that nobody added");
    return NULL;
}

/* A removed one runs on for a while, then its machine goes. */
static void retire_the_removed(struct whole *whole, const struct operator_view *view)
{
    for (uint32_t i = 0; i < whole->node_count; i++) {
        struct whole_node *node = &whole->nodes[i];
        bool listed = false;
        for (size_t m = 0; m < view->list->n_members; m++)
            listed |= node_of(whole, view->list->members[m]) == node;
        if (node->leaving && !listed && !node->gone)
            node->retire_wanted = true;
    }
}

/* ---- what it does --------------------------------------------------------------------------- */

/* False: surely it did not happen. */
static bool command(struct whole *whole, const struct operator_view *view, const char *path,
                    const ProtobufCMessage *request, uint64_t *successes)
{
    struct answer answer = rpc(whole, view->from, path, request);
    *successes += answer.status == GRPC_OK;
    sometimes(whole->members_added > 0, "whole: a member was added");
    sometimes(whole->members_promoted > 0, "whole: a learner was promoted");
    sometimes(whole->members_removed > 0, "whole: a member was removed");
    sometimes(whole->leaders_moved > 0, "whole: leadership was moved");
    sometimes(answer.status == GRPC_UNAVAILABLE && !answer.is_refused,
              "whole: nobody knows whether the members changed");
    free(answer.message);
    return !answer.is_refused;
}

static void boot_new(struct whole *whole, const struct operator_view *view)
{
    char cluster[WHOLE_NODES_MAX * 48] = "";
    size_t at = 0;
    uint32_t id = whole->world.node_count + 1;
    for (size_t i = 0; i < view->list->n_members; i++)
        if (view->list->members[i]->name[0] != '\0')
            at +=
                (size_t)snprintf(cluster + at, sizeof(cluster) - at, "%s=%s,",
                                 view->list->members[i]->name, view->list->members[i]->peerurls[0]);
    snprintf(cluster + at, sizeof(cluster) - at, "n%u=http://10.0.0.%u:2380", id, id);
    sim_heap_enter(NULL);
    struct whole_node *node = whole_node_add(whole, cluster);
    sim_heap_enter(whole->machine.heap);
    invariant(node->sim.id == id);
    whole_node_boot_at(node, whole->world.now_ns + 1);
}

/* Whatever became of the call, the new machine tries: it may have been added. */
static void add(struct whole *whole, const struct operator_view *view)
{
    char url[64], *urls[] = {url};
    Etcdserverpb__MemberAddRequest request = ETCDSERVERPB__MEMBER_ADD_REQUEST__INIT;
    snprintf(url, sizeof(url), "http://10.0.0.%u:2380", whole->world.node_count + 1);
    request.n_peerurls = 1;
    request.peerurls = urls;
    request.islearner = prng_chance(whole_prng(whole, WORKLOAD), 3, 4);
    if (command(whole, view, "/etcdserverpb.Cluster/MemberAdd", &request.base,
                &whole->members_added))
        boot_new(whole, view);
}

static void promote(struct whole *whole, const struct operator_view *view)
{
    Etcdserverpb__MemberPromoteRequest request = ETCDSERVERPB__MEMBER_PROMOTE_REQUEST__INIT;
    for (size_t i = 0; i < view->list->n_members; i++)
        if (view->list->members[i]->islearner)
            request.id = view->list->members[i]->id;
    command(whole, view, "/etcdserverpb.Cluster/MemberPromote", &request.base,
            &whole->members_promoted);
}

static const Etcdserverpb__Member *some_member(struct whole *whole,
                                               const struct operator_view *view)
{
    return view->list->members[prng_below(whole_prng(whole, WORKLOAD), view->list->n_members)];
}

static void remove_one(struct whole *whole, const struct operator_view *view)
{
    const Etcdserverpb__Member *member = some_member(whole, view);
    Etcdserverpb__MemberRemoveRequest request = ETCDSERVERPB__MEMBER_REMOVE_REQUEST__INIT;
    if (!member->islearner && view->voters < 3)
        return;
    request.id = member->id;
    node_of(whole, member)->leaving = true;
    command(whole, view, "/etcdserverpb.Cluster/MemberRemove", &request.base,
            &whole->members_removed);
}

/* Only the leader takes this one; the others say so. */
static void move_leader(struct whole *whole, const struct operator_view *view)
{
    Etcdserverpb__MoveLeaderRequest request = ETCDSERVERPB__MOVE_LEADER_REQUEST__INIT;
    request.targetid = some_member(whole, view)->id;
    command(whole, view, "/etcdserverpb.Maintenance/MoveLeader", &request.base,
            &whole->leaders_moved);
}

static void act(struct whole *whole, const struct operator_view *view)
{
    uint64_t draw = prng_below(whole_prng(whole, WORKLOAD), 10);
    if (view->learners > 0 && draw < 5)
        promote(whole, view);
    else if (draw < 4 && whole->node_count < WHOLE_NODES_MAX &&
             view->list->n_members < MEMBERS_WANTED_MAX)
        add(whole, view);
    else if (draw < 7)
        remove_one(whole, view);
    else
        move_leader(whole, view);
}

/* As `etcdctl alarm disarm`: those that are listed, one by one. */
void whole_operator_disarm(struct whole *whole)
{
    static const char path[] = "/etcdserverpb.Maintenance/Alarm";
    const struct whole_node *node = some_node(whole);
    Etcdserverpb__AlarmRequest request = ETCDSERVERPB__ALARM_REQUEST__INIT;
    struct answer answer = rpc(whole, node, path, &request.base);
    if (answer.status != GRPC_OK)
        return;
    Etcdserverpb__AlarmResponse *list =
        etcdserverpb__alarm_response__unpack(NULL, answer.bytes, answer.message);
    free(answer.message);
    sim_check(list != NULL, "a list of alarms that does not decode");
    for (size_t i = 0; i < list->n_alarms; i++) {
        request.action = ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__DEACTIVATE;
        request.memberid = list->alarms[i]->memberid;
        request.alarm = list->alarms[i]->alarm;
        answer = rpc(whole, node, path, &request.base);
        sometimes(answer.status == GRPC_OK, "whole: an alarm was disarmed");
        free(answer.message);
    }
    etcdserverpb__alarm_response__free_unpacked(list, NULL);
}

static void operator_run(void *argument)
{
    struct whole *whole = argument;
    while (!whole->load_ended) {
        struct operator_view view;
        fiber_sleep_until(whole_client_now_ns() + prng_below(whole_prng(whole, WORKLOAD),
                                                             2 * whole->config.operator_ns + 1));
        if (whole->load_ended || !look(whole, &view))
            continue;
        retire_the_removed(whole, &view);
        act(whole, &view);
        etcdserverpb__member_list_response__free_unpacked(view.list, NULL);
    }
    whole->operator_ended = true;
}

void whole_operator_start(struct whole *whole)
{
    whole->operator_ended = whole->config.operator_ns == 0;
    if (!whole->operator_ended)
        whole_machine_spawn(whole, operator_run, whole);
}
