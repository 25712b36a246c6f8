#include "server/frontend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "core/logger.h"
#include "server/http_service.h"
#include "server/message.h"
#include "server/node_private.h"
#include "server/remote.h"
#include "server/service_table.h"
#include "storage/lsm/lsm.h"
#include "storage/mvcc/mvcc.h"

#define SWEEP_INTERVAL_NS (100 * NS_PER_MS)
#define STOP_GRACE_NS     (5 * NS_PER_S)

/* Connections that the raft core has more than others: a few busy ones do not fill it. */
#define CONNECTIONS_HEAD_START 8

struct kv_header frontend_header(const struct frontend *frontend)
{
    const struct node *node = frontend->node;
    return (struct kv_header){.cluster_id = node->identity.cluster_id,
                              .member_id = node->identity.member_id,
                              .term =
                                  atomic_load_explicit(&node->shared.term, memory_order_relaxed)};
}

int frontend_admit_local(struct rpc_call *call)
{
    struct frontend *frontend = call_frontend(call);
    if (call->requires_leader &&
        atomic_load_explicit(&frontend->node->shared.leader, memory_order_relaxed) == 0)
        return ERR_NO_LEADER;
    return frontend->stopping ? ERR_STOPPED : 0;
}

int frontend_admit(struct rpc_call *call)
{
    const struct node *node = call_frontend(call)->node;
    if (unlikely(atomic_load_explicit(&node->shared.is_learner, memory_order_relaxed)))
        return ERR_LEARNER;
    return frontend_admit_local(call);
}

static void quiet_check(struct frontend *frontend)
{
    if (frontend->quiet != NULL && frontend->in_flight == 0 &&
        queue_is_empty(&frontend->outstanding) && queue_is_empty(&frontend->gathered))
        fiber_event_signal(frontend->quiet);
}

/* ---- linearizable reads --------------------------------------------------------------------- */

static struct frontend_read *read_of(struct queue_link *link)
{
    return container_of(link, struct frontend_read, link);
}

bool frontend_reads_are_local(const struct frontend *frontend)
{
    return atomic_load_explicit(&frontend->node->shared.reads_local, memory_order_acquire);
}

void frontend_read(struct frontend *frontend, struct frontend_read *read,
                   void (*go)(struct frontend_read *read, int error))
{
    if (frontend_reads_are_local(frontend)) {
        go(read, 0);
        return;
    }
    queue_link_init(&read->link);
    read->go = go;
    read->batch = 0;
    read->deadline_ns = core_now_ns(frontend->core) + node_request_timeout_ns(frontend->node);
    queue_append(&frontend->gathered, &read->link);
}

static void call_go(struct frontend_read *read, int error)
{
    struct call_state *state = container_of(read, struct call_state, read);
    state->go(container_of((void *)state, struct rpc_call, user), error);
}

void frontend_read_for(struct rpc_call *call, void (*go)(struct rpc_call *call, int error))
{
    call_state(call)->go = go;
    frontend_read(call_frontend(call), &call_state(call)->read, call_go);
}

static void reads_ask(struct frontend *frontend)
{
    if (queue_is_empty(&frontend->gathered))
        return;
    uint64_t batch = ++frontend->batch;
    struct queue_link *link;
    while ((link = queue_pop(&frontend->gathered)) != NULL) {
        read_of(link)->batch = batch;
        queue_append(&frontend->outstanding, link);
    }
    struct mesh_message message = {.kind = MESSAGE_READ_INDEX, .word = {batch}};
    core_post(frontend->core, frontend->node->map.raft, &message);
}

/* Answers and refusals come in the order of asking, each for all batches up to its own. */
static void on_read_index_done(void *context, struct core *core, const struct mesh_message *message)
{
    struct node *node = context;
    struct frontend *frontend = node->frontends[core_id(core)];
    uint64_t batch = message->word[0];
    int error = (int)(int64_t)message->word[1];
    struct queue ready;
    struct queue_link *link;
    queue_init(&ready, QUEUE_UNBOUNDED);
    while (!queue_is_empty(&frontend->outstanding) &&
           read_of(frontend->outstanding.first)->batch <= batch)
        queue_append(&ready, queue_pop(&frontend->outstanding));
    while ((link = queue_pop(&ready)) != NULL)
        read_of(link)->go(read_of(link), error);
    quiet_check(frontend);
}

/* ---- writes --------------------------------------------------------------------------------- */

static void in_flight_add(struct frontend *frontend, struct proposal *proposal)
{
    proposal->older = frontend->newest;
    proposal->newer = NULL;
    if (frontend->newest != NULL)
        frontend->newest->newer = proposal;
    else
        frontend->oldest = proposal;
    frontend->newest = proposal;
    frontend->in_flight++;
}

static void in_flight_remove(struct frontend *frontend, struct proposal *proposal)
{
    invariant(frontend->in_flight > 0);
    if (proposal->older != NULL)
        proposal->older->newer = proposal->newer;
    else
        frontend->oldest = proposal->newer;
    if (proposal->newer != NULL)
        proposal->newer->older = proposal->older;
    else
        frontend->newest = proposal->older;
    frontend->in_flight--;
}

/* ERR_TOO_MANY_REQUESTS when out of memory. `call` may be NULL: nobody waits. */
static int propose(struct frontend *frontend, struct rpc_call *call, enum request_kind kind,
                   struct bytes body)
{
    struct node *node = frontend->node;
    struct proposal *proposal = proposal_create(core_id(frontend->core), (uint32_t)body.size);
    if (proposal == NULL)
        return ERR_TOO_MANY_REQUESTS;
    struct request request = {.kind = kind,
                              .origin = node->identity.member_id,
                              .stream = (uint16_t)core_id(frontend->core),
                              .sequence = ++frontend->sequence,
                              .body = body};
    proposal_fill(proposal, &request);
    proposal->call = call;
    proposal->deadline_ns = core_now_ns(frontend->core) + node_request_timeout_ns(node);
    in_flight_add(frontend, proposal);
    struct mesh_message message = {.kind = MESSAGE_PROPOSE, .word = {(uintptr_t)proposal}};
    core_post(frontend->core, node->map.raft, &message);
    return 0;
}

void frontend_propose(struct rpc_call *call, enum request_kind kind, struct bytes body)
{
    struct frontend *frontend = call_frontend(call);
    int error = body.size > frontend->node->config->max_request_bytes
                    ? ERR_REQUEST_TOO_LARGE
                    : propose(frontend, call, kind, body);
    if (error < 0)
        rpc_fail(call, error);
}

void frontend_raise_alarm(struct frontend *frontend, enum alarm_kind kind)
{
    uint8_t body[24];
    struct alarm_request request = {
        .action = ALARM_ACTIVATE, .member = frontend->node->identity.member_id, .kind = kind};
    if (frontend->raising != NULL)
        return;
    uint8_t *end = kv_encode_alarm_request(body, &request);
    invariant((size_t)(end - body) <= sizeof(body));
    if (propose(frontend, NULL, REQUEST_ALARM, bytes_make(body, (size_t)(end - body))) == 0)
        frontend->raising = frontend->newest;
}

static void on_proposed(void *context, struct core *core, const struct mesh_message *message)
{
    struct node *node = context;
    struct frontend *frontend = node->frontends[core_id(core)];
    struct proposal *proposal = (struct proposal *)(uintptr_t)message->word[0];
    in_flight_remove(frontend, proposal);
    if (proposal == frontend->raising) /* not a client's, which lists alarms */
        frontend->raising = NULL;
    struct rpc_call *call = proposal->call;
    if (call == NULL)
        proposal_destroy(proposal); /* nobody waits, or was told of the timeout */
    else if (proposal->error < 0) {
        rpc_fail(call, proposal->error);
        proposal_destroy(proposal);
    } else {
        frontend_answer(call, proposal);
    }
    quiet_check(frontend);
}

/* ---- timeouts ------------------------------------------------------------------------------- */

static void sweep_reads(struct frontend *frontend, uint64_t now_ns)
{
    while (!queue_is_empty(&frontend->outstanding) &&
           read_of(frontend->outstanding.first)->deadline_ns <= now_ns) {
        struct frontend_read *read = read_of(queue_pop(&frontend->outstanding));
        read->go(read, ERR_TIMEOUT);
    }
}

static void sweep_writes(struct frontend *frontend, uint64_t now_ns)
{
    for (struct proposal *proposal = frontend->oldest;
         proposal != NULL && proposal->deadline_ns <= now_ns; proposal = proposal->newer) {
        if (proposal->call != NULL)
            rpc_fail(proposal->call, ERR_TIMEOUT);
        proposal->call = NULL;
    }
}

static void on_sweep(struct timer *timer)
{
    struct frontend *frontend = container_of(timer, struct frontend, sweep);
    uint64_t now_ns = core_now_ns(frontend->core);
    sweep_reads(frontend, now_ns);
    sweep_writes(frontend, now_ns);
    quiet_check(frontend);
    timer_start(core_timers(frontend->core), timer, now_ns + SWEEP_INTERVAL_NS);
}

/* The raft core and the disk answer soon, and a client that was answered soon asks again. */
static bool expects_soon(struct frontend *frontend)
{
    uint64_t sent_bytes = rpc_server_stats(frontend->server)->sent_bytes;
    uint64_t now_ns = core_now_ns(frontend->core);
    if (sent_bytes != frontend->sent_bytes_seen) {
        frontend->sent_bytes_seen = sent_bytes;
        frontend->answered_ns = now_ns;
    }
    return frontend->answered_ns == now_ns || frontend->in_flight > 0 ||
           !queue_is_empty(&frontend->outstanding);
}

static void on_turn_end(void *context)
{
    struct frontend *frontend = context;
    reads_ask(frontend);
    core_expect_soon(frontend->core, frontend->server != NULL && expects_soon(frontend));
}

/* ---- sockets -------------------------------------------------------------------------------- */

static void on_socket(void *context, struct core *core, const struct mesh_message *message)
{
    struct node *node = context;
    struct frontend *frontend = node->frontends[core_id(core)];
    rpc_server_adopt(frontend->server, (int32_t)message->word[0], (enum rpc_port)message->word[1]);
}

struct listener {
    struct io_listener io;
    struct node *node;
    enum rpc_port port;
};

/* Connections that are or will be on a core: those on their way count too. */
static uint64_t connections_of(const struct listener *listener, uint32_t core)
{
    const struct rpc_server_stats *stats =
        rpc_server_stats(listener->node->frontends[core]->server);
    uint64_t ended = __atomic_load_n(&stats->connections_closed, __ATOMIC_RELAXED) +
                     __atomic_load_n(&stats->connections_refused, __ATOMIC_RELAXED);
    return listener->node->connections_given[core] - ended;
}

/* The connection core with the fewest. One that hosts raft as well, on one and two cores, has a
 * head start: its clients pay no wake-ups between cores, and what few clients ask for shares
 * batches. */
static uint32_t least_connected(const struct listener *listener)
{
    const struct role_map *map = &listener->node->map;
    uint64_t least = UINT64_MAX;
    uint32_t best = map->connections_first;
    for (uint32_t i = 0; i < map->connections_count; i++) {
        uint32_t core = map->connections_first + i;
        uint64_t count =
            connections_of(listener, core) + (core == map->raft ? 0 : CONNECTIONS_HEAD_START);
        if (count < least) {
            least = count;
            best = core;
        }
    }
    return best;
}

static void on_accepted(struct io_listener *io, int32_t fd,
                        const struct io_address *peer maybe_unused)
{
    struct listener *listener = container_of(io, struct listener, io);
    if (fd < 0) {
        log_warn("accept failed", LOG_ERROR(fd));
        return;
    }
    struct node *node = listener->node;
    uint32_t to = least_connected(listener);
    if (connections_of(listener, to) >= node->connections_max) { /* here: it is not open for long */
        node->connections_refused++;
        reactor_discard_descriptor(io->reactor, fd);
        return;
    }
    node->connections_given[to]++;
    struct mesh_message message = {.kind = MESSAGE_SOCKET, .word = {(uint64_t)fd, listener->port}};
    core_post(core_current(), to, &message);
}

static void on_listener_closed(struct io_listener *io)
{
    free(container_of(io, struct listener, io));
}

static int listen_on(struct node *node, struct core *core, const struct config_url *url,
                     enum rpc_port port, struct listener **out)
{
    struct listener *listener = calloc(1, sizeof(*listener));
    if (listener == NULL)
        return -ENOMEM;
    listener->node = node;
    listener->port = port;
    listener->io.accepted = on_accepted;
    listener->io.closed = on_listener_closed;
    int error = node_listen(node, core, url, &listener->io);
    if (error < 0) {
        free(listener);
        return error;
    }
    *out = listener;
    return 0;
}

int frontend_listen(struct node *node, struct core *core)
{
    const struct {
        const struct config_urls *urls;
        enum rpc_port port;
    } sets[] = {{&node->config->listen_client, RPC_PORT_CLIENT},
                {&node->config->listen_metrics, RPC_PORT_METRICS}};
    for (size_t s = 0; s < ARRAY_COUNT(sets); s++)
        for (uint32_t i = 0; i < sets[s].urls->count; i++) {
            int error = listen_on(node, core, &sets[s].urls->url[i], sets[s].port,
                                  &node->listeners[node->listener_count]);
            if (error < 0)
                return error;
            node->listener_count++;
        }
    return 0;
}

void frontend_close_listeners(struct node *node)
{
    for (uint32_t i = 0; i < node->listener_count; i++)
        reactor_listener_close(node->listeners[i]->io.reactor, &node->listeners[i]->io);
    node->listener_count = 0;
}

/* ---- life ----------------------------------------------------------------------------------- */

void frontend_attach(struct node *node, struct core *core)
{
    core_handle(core, MESSAGE_PROPOSED, on_proposed, node);
    core_handle(core, MESSAGE_READ_INDEX_DONE, on_read_index_done, node);
    core_handle(core, MESSAGE_SOCKET, on_socket, node);
}

static int start_readers(struct frontend *frontend)
{
    struct node *node = frontend->node;
    int error = 0;
    if (core_id(frontend->core) == node->map.raft)
        frontend->lsm_reader = node->raft_reader; /* one reader a core */
    else
        error = lsm_reader_open(node->lsm, frontend->core, &frontend->lsm_reader);
    if (error < 0)
        return error;
    struct mvcc_reader_options options = {
        .shared = node->mvcc_shared, .lsm = node->lsm, .lsm_reader = frontend->lsm_reader};
    return mvcc_reader_open(&options, &frontend->reader);
}

int frontend_start(struct node *node, struct core *core)
{
    const struct config *config = node->config;
    struct frontend *frontend = calloc(1, sizeof(*frontend));
    if (frontend == NULL)
        return -ENOMEM;
    frontend->node = node;
    frontend->core = core;
    frontend->sequence = node->identity.incarnation << REQUEST_SEQUENCE_START_BITS;
    queue_init(&frontend->gathered, QUEUE_UNBOUNDED); /* bounded by the server's calls */
    queue_init(&frontend->outstanding, QUEUE_UNBOUNDED);
    struct rpc_server_options options = {
        .methods = service_methods,
        .method_count = service_method_count,
        .service = frontend,
        .http = http_service_handle,
        .connections_max = node->connections_max,
        .streams_per_connection_max = (uint32_t)u64_min(config->max_concurrent_streams, 65536),
        .request_bytes_max = config->max_request_bytes + 512 * KIB,
        .keepalive_ns = config->keepalive_interval_ns,
        .keepalive_timeout_ns = config->keepalive_timeout_ns,
    };
    int error = start_readers(frontend);
    if (error == 0)
        error = rpc_server_create(core, &options, &frontend->server);
    if (error < 0) {
        free(frontend);
        return error;
    }
    node->frontends[core_id(core)] = frontend;
    core_on_turn_end(core, on_turn_end, frontend);
    timer_init(&frontend->sweep, on_sweep);
    timer_start(core_timers(core), &frontend->sweep, core_now_ns(core) + SWEEP_INTERVAL_NS);
    return 0;
}

static void on_connections_closed(void *context)
{
    fiber_event_signal(context);
}

/* From here on nothing new is admitted; what is in flight has STOP_GRACE_NS. */
static void stop_begin(void *argument)
{
    struct node *node = argument;
    struct frontend *frontend = node->frontends[core_id(core_current())];
    fiber_event_init(&frontend->closed);
    frontend->stopping = true;
    rpc_server_shutdown(frontend->server, STOP_GRACE_NS, on_connections_closed, &frontend->closed);
}

static void stop_end(void *argument)
{
    struct node *node = argument;
    struct core *core = core_current();
    struct frontend *frontend = node->frontends[core_id(core)];
    struct fiber_event quiet;
    fiber_event_wait(&frontend->closed);
    fiber_event_init(&quiet);
    frontend->quiet = &quiet;
    quiet_check(frontend);
    fiber_event_wait(&quiet);
    frontend->quiet = NULL;
    while (rpc_server_stats(frontend->server)->calls > 0) /* fibers that work on them still */
        fiber_sleep_until(core_now_ns(core) + NS_PER_MS);
    timer_stop(core_timers(core), &frontend->sweep);
    mvcc_reader_close(frontend->reader);
    if (frontend->lsm_reader != node->raft_reader)
        lsm_reader_close(frontend->lsm_reader);
    rpc_server_destroy(frontend->server);
    frontend->server = NULL; /* the frontend itself stays for the core's hooks */
}

void frontends_stop(struct node *node)
{
    const struct role_map *map = &node->map;
    for (uint32_t i = 0; i < map->connections_count; i++)
        remote_call(map->connections_first + i, stop_begin, node);
    for (uint32_t i = 0; i < map->connections_count; i++)
        remote_call(map->connections_first + i, stop_end, node);
}
