#include "bench/raftbench/worker.h"

#include <errno.h>
#include <stdlib.h>

#include "core/invariant.h"

/* Open loop: how late a request may start. Closed loop: replies start requests, ticks end phases;
 * each one wakes the thread, which a server on the same CPU pays for. */
#define WORKER_TICK_OPEN_NS   (200 * NS_PER_US)
#define WORKER_TICK_CLOSED_NS (2 * NS_PER_MS)

static uint64_t share(uint64_t total, uint32_t thread, uint32_t threads)
{
    return total / threads + (thread < total % threads);
}

/* ---- issuing -------------------------------------------------------------------------------- */

static void issue(struct worker_link *link, uint64_t intended_ns)
{
    struct worker *worker = link->worker;
    enum workload_method method = WORKLOAD_PUT;
    struct bytes request;
    invariant(link->free_count > 0);
    uint32_t slot = link->free_slots[--link->free_count];
    if (worker->phase == WORKER_LOADING) {
        request = workload_load(&worker->workload, worker->load_next++);
    } else {
        request = workload_next(&worker->workload, &method);
        if (worker->operations_left > 0 && worker->phase == WORKER_RUNNING)
            worker->operations_left--;
    }
    link->slots[slot] = (struct worker_slot){.intended_ns = intended_ns,
                                             .measured = worker->phase == WORKER_RUNNING};
    worker->in_flight++;
    link_call(link->link, slot, method, request);
}

static bool may_issue(const struct worker *worker)
{
    switch (worker->phase) {
    case WORKER_LOADING:
        return worker->load_next < worker->load_end;
    case WORKER_WARMING:
        return true;
    case WORKER_RUNNING:
        return worker->options->operations == 0 || worker->operations_left > 0;
    case WORKER_CONNECTING:
    case WORKER_DONE:
        break;
    }
    return false;
}

static bool is_open_loop(const struct worker *worker)
{
    return worker->options->rate_per_s > 0 && worker->phase != WORKER_LOADING;
}

static void fill_closed(struct worker *worker)
{
    uint64_t now_ns = reactor_clock_ns(core_reactor(worker->core));
    for (uint32_t i = 0; i < worker->link_count; i++)
        while (worker->links[i].free_count > 0 && may_issue(worker))
            issue(&worker->links[i], now_ns);
}

/* The next link with a free slot, in turn; NULL when all are busy. */
static struct worker_link *free_link(struct worker *worker)
{
    for (uint32_t i = 0; i < worker->link_count; i++) {
        struct worker_link *link = &worker->links[worker->next_link];
        worker->next_link = (worker->next_link + 1) % worker->link_count;
        if (link->free_count > 0)
            return link;
    }
    return NULL;
}

static void issue_due(struct worker *worker)
{
    uint64_t now_ns = reactor_clock_ns(core_reactor(worker->core));
    while (worker->next_intended_x16 / 16 <= now_ns && may_issue(worker)) {
        struct worker_link *link = free_link(worker);
        if (link == NULL)
            return; /* late already: its latency keeps growing from the intended start */
        issue(link, worker->next_intended_x16 / 16);
        worker->next_intended_x16 += worker->interval_ns_x16;
    }
}

/* ---- phases --------------------------------------------------------------------------------- */

static void phase_enter(struct worker *worker, enum worker_phase phase)
{
    const struct options *options = worker->options;
    uint64_t now_ns = reactor_clock_ns(core_reactor(worker->core));
    worker->phase = phase;
    if (phase == WORKER_WARMING) {
        worker->begin_ns = now_ns + options->warmup_seconds * NS_PER_S;
        worker->next_intended_x16 = now_ns * 16;
    } else if (phase == WORKER_RUNNING) {
        worker->begin_ns = now_ns;
        worker->cpu_begin_ns = worker->cpu_clock();
        worker->end_ns =
            options->operations > 0 ? UINT64_MAX : now_ns + options->seconds * NS_PER_S;
        worker->next_intended_x16 = now_ns * 16;
    }
    if (!is_open_loop(worker))
        fill_closed(worker);
}

static void phase_advance(struct worker *worker)
{
    uint64_t now_ns = reactor_clock_ns(core_reactor(worker->core));
    switch (worker->phase) {
    case WORKER_CONNECTING:
        if (worker->links_open == worker->link_count)
            phase_enter(worker,
                        worker->load_next < worker->load_end ? WORKER_LOADING : WORKER_WARMING);
        break;
    case WORKER_LOADING:
        if (worker->load_next == worker->load_end && worker->in_flight == 0)
            phase_enter(worker, WORKER_WARMING);
        break;
    case WORKER_WARMING:
        if (now_ns >= worker->begin_ns)
            phase_enter(worker, WORKER_RUNNING);
        break;
    case WORKER_RUNNING:
        if (now_ns >= worker->end_ns || (worker->options->operations > 0 &&
                                         worker->operations_left == 0 && worker->in_flight == 0)) {
            worker->end_ns = now_ns;
            phase_enter(worker, WORKER_DONE);
        }
        break;
    case WORKER_DONE:
        break;
    }
    if (worker->failure != 0)
        worker->phase = WORKER_DONE;
}

static void on_tick(struct timer *timer)
{
    struct worker *worker = container_of(timer, struct worker, timer);
    phase_advance(worker);
    if (is_open_loop(worker))
        issue_due(worker);
    if (worker->phase == WORKER_DONE)
        core_stop(worker->core);
    else
        timer_start(core_timers(worker->core), timer,
                    core_now_ns(worker->core) +
                        (is_open_loop(worker) ? WORKER_TICK_OPEN_NS : WORKER_TICK_CLOSED_NS));
}

/* ---- replies -------------------------------------------------------------------------------- */

static void record(struct worker *worker, const struct worker_slot *slot, uint64_t now_ns,
                   enum grpc_status status, struct bytes message)
{
    worker->completed++;
    worker->bytes_received += message.size;
    worker->errors[status]++;
    worker->succeeded += status == GRPC_OK;
    histogram_record(&worker->latency_ns,
                     now_ns > slot->intended_ns ? now_ns - slot->intended_ns : 0);
    uint64_t second = (now_ns - worker->begin_ns) / NS_PER_S;
    if (second < WORKER_SERIES_MAX)
        worker->series[second]++;
}

static void on_replied(void *context, uint32_t index, enum grpc_status status, struct bytes message)
{
    struct worker_link *link = context;
    struct worker *worker = link->worker;
    struct worker_slot *slot = &link->slots[index];
    uint64_t now_ns = reactor_clock_ns(core_reactor(worker->core));
    worker->in_flight--;
    bool counts = slot->measured && worker->phase == WORKER_RUNNING;
    if (worker->options->operation == BENCH_CAS && status == GRPC_OK &&
        worker->phase != WORKER_LOADING)
        worker->conflicts += !workload_learn(&worker->workload, message) && counts;
    if (counts)
        record(worker, slot, now_ns, status, message);
    else if (status != GRPC_OK && worker->phase == WORKER_LOADING)
        worker->failure = ERR_CLOSED;
    link->free_slots[link->free_count++] = index;
    if (is_open_loop(worker))
        issue_due(worker);
    else if (may_issue(worker))
        issue(link, now_ns);
}

static void on_opened(void *context)
{
    struct worker_link *link = context;
    link->open = true;
    link->worker->links_open++;
}

static void on_closed(void *context, int error)
{
    struct worker_link *link = context;
    if (link->worker->phase != WORKER_DONE)
        link->worker->failure = error < 0 ? error : ERR_CLOSED;
}

/* ---- life ----------------------------------------------------------------------------------- */

static int link_init(struct worker *worker, struct worker_link *link, const char *endpoint)
{
    const struct options *options = worker->options;
    char host[64];
    struct io_address address;
    const char *colon = strrchr(endpoint, ':');
    memcpy(host, endpoint, (size_t)(colon - endpoint));
    host[colon - endpoint] = '\0';
    int error =
        reactor_resolve(core_reactor(worker->core), host, (uint16_t)atoi(colon + 1), &address);
    if (error < 0)
        return error;
    link->worker = worker;
    link->slots = calloc(options->in_flight, sizeof(*link->slots));
    link->free_slots = calloc(options->in_flight, sizeof(*link->free_slots));
    if (link->slots == NULL || link->free_slots == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < options->in_flight; i++)
        link->free_slots[link->free_count++] = i;
    struct link_events events = {
        .context = link, .opened = on_opened, .replied = on_replied, .closed = on_closed};
    return link_open(&worker->set, &address, options->protocol, options->in_flight, &events,
                     &link->link);
}

static void on_turn_end(void *context)
{
    struct worker *worker = context;
    core_expect_soon(worker->core, worker->in_flight > 0);
}

int worker_init(struct worker *worker, const struct options *options, struct core *core,
                uint32_t thread, uint64_t (*cpu_clock)(void))
{
    memset(worker, 0, sizeof(*worker));
    worker->options = options;
    worker->core = core;
    worker->cpu_clock = cpu_clock;
    worker->thread = thread;
    client_set_init(&worker->set, core);
    workload_init(&worker->workload, options, thread, options->threads);
    histogram_init(&worker->latency_ns);
    worker->link_count = (uint32_t)share(options->connections, thread, options->threads);
    worker->links = calloc(worker->link_count, sizeof(*worker->links));
    if (worker->links == NULL)
        return -ENOMEM;
    uint64_t loads = options->load_keys;
    worker->load_next = loads * thread / options->threads;
    worker->load_end = loads * (thread + 1) / options->threads;
    worker->operations_left = share(options->operations, thread, options->threads);
    if (options->rate_per_s > 0)
        worker->interval_ns_x16 = 16 * NS_PER_S * options->threads / options->rate_per_s;
    for (uint32_t i = 0; i < worker->link_count; i++) {
        int error = link_init(
            worker, &worker->links[i],
            options->endpoints[(thread + i * options->threads) % options->endpoint_count]);
        if (error < 0)
            return error;
    }
    core_on_turn_end(core, on_turn_end, worker);
    timer_init(&worker->timer, on_tick);
    timer_start(core_timers(core), &worker->timer, core_now_ns(core));
    return 0;
}

void worker_run(struct worker *worker)
{
    core_run(worker->core);
}

void worker_deinit(struct worker *worker)
{
    for (uint32_t i = 0; i < worker->link_count; i++) {
        free(worker->links[i].slots);
        free(worker->links[i].free_slots);
    }
    free(worker->links);
    workload_deinit(&worker->workload);
}
