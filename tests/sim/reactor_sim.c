/* core/reactor.h on a simulated world: life, time, completions, wake-ups. */
#include "tests/sim/reactor_sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/invariant.h"
#include "tests/sim/memory.h"

#define CLOCK_READ_NS_MAX 200 /* what looking at the clock seems to cost */
#define WAKE_NS_MIN       1000
#define WAKE_NS_SPREAD    30000
#define ARENAS_KEPT       32
#define BATCH_CUT_PERCENT 30 /* of polls hand out only some of the completions */

/* ---- life ----------------------------------------------------------------------------------- */

static struct sim_core *core_of(const struct reactor *reactor)
{
    return &reactor->node->cores[reactor->options.core];
}

static void wake_arrives(struct sim_event *event)
{
    struct reactor *reactor = container_of(event, struct reactor, wake);
    struct sim_core *core = core_of(reactor);
    sim_trace(reactor->node->world, reactor->node, reactor->options.core, SIM_KIND_WAKE, 0, 0);
    sim_core_rouse(core, reactor->node->world->now_ns);
}

/* Arenas of nodes that ended: mapping and touching them anew took a quarter of a run with many
 * crashes. What is in them is what any buffer may contain that was used before. */
static struct {
    uint8_t *memory;
    uint64_t bytes;
} arenas[ARENAS_KEPT];

static uint8_t *arena_take(uint64_t bytes)
{
    for (uint32_t i = 0; i < ARENAS_KEPT; i++) {
        if (arenas[i].memory != NULL && arenas[i].bytes == bytes) {
            uint8_t *memory = arenas[i].memory;
            arenas[i].memory = NULL;
            return memory;
        }
    }
    uint8_t *memory = mmap(NULL, bytes + 1, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    invariant(memory != MAP_FAILED);
    return memory;
}

static void arena_give(uint8_t *memory, uint64_t bytes)
{
    for (uint32_t i = 0; i < ARENAS_KEPT; i++) {
        if (arenas[i].memory == NULL) {
            arenas[i].memory = memory;
            arenas[i].bytes = bytes;
            return;
        }
    }
    munmap(memory, bytes + 1);
}

int reactor_create(const struct reactor_options *options, struct reactor **reactor_out,
                   char *reason, size_t reason_bytes)
{
    struct sim_world *world = sim_world_current();
    if (world == NULL || world->current == NULL) {
        snprintf(reason, reason_bytes, "no simulated core is being made");
        return -EINVAL;
    }
    struct reactor *reactor = calloc(1, sizeof(*reactor));
    invariant(reactor != NULL);
    reactor->options = *options;
    reactor->node = world->current->node;
    prng_init(&reactor->prng, options->random_seed);
    reactor->now_ns = reactor->clock_ns = world->now_ns;
    reactor->arena_bytes = u64_round_up(options->buffer_bytes, BUFFER_BYTES_MIN);
    reactor->arena = arena_take(reactor->arena_bytes);
    if (reactor->arena_bytes > 0)
        invariant(buffer_pool_create(reactor->arena, reactor->arena_bytes, &reactor->buffers) == 0);
    reactor->receive_buffer = malloc(options->recv_buffer_bytes);
    invariant(reactor->receive_buffer != NULL);
    sim_event_init(&reactor->wake, wake_arrives);
    *reactor_out = reactor;
    return 0;
}

void reactor_sim_abandon(struct reactor *reactor)
{
    sim_event_cancel(reactor->node->world, &reactor->wake);
    arena_give(reactor->arena, reactor->arena_bytes);
    free(reactor->completions);
    reactor->completions = NULL;
}

void reactor_destroy(struct reactor *reactor)
{
    if (reactor == NULL)
        return;
    invariant(reactor->ops_pending == 0 && reactor->completion_count == 0);
    buffer_pool_destroy(reactor->buffers);
    reactor_sim_abandon(reactor);
    free(reactor->receive_buffer);
    free(reactor);
}

/* ---- requests ------------------------------------------------------------------------------- */

static void request_event(struct sim_event *event)
{
    struct sim_request *request = container_of(event, struct sim_request, event);
    switch (request->kind) {
    case SIM_REQUEST_OPEN:
    case SIM_REQUEST_CLOSE:
    case SIM_REQUEST_READ:
    case SIM_REQUEST_WRITE:
    case SIM_REQUEST_SYNC:
    case SIM_REQUEST_STREAM:
    case SIM_REQUEST_ALLOCATE:
    case SIM_REQUEST_TRUNCATE:
    case SIM_REQUEST_RENAME:
    case SIM_REQUEST_UNLINK:
    case SIM_REQUEST_LINK:
    case SIM_REQUEST_MAKE_DIRECTORY:
    case SIM_REQUEST_REMOVE_DIRECTORY:
    case SIM_REQUEST_STAT:
        sim_file_request_due(request);
        return;
    case SIM_REQUEST_CONNECT:
    case SIM_REQUEST_SEND:
    case SIM_REQUEST_RECEIVE:
    case SIM_REQUEST_ACCEPT:
    case SIM_REQUEST_SOCKET_CLOSE:
    case SIM_REQUEST_LISTENER_CLOSE:
        sim_network_request_due(request);
        return;
    }
}

struct sim_request *sim_request_start(struct reactor *reactor, struct io_op *op,
                                      enum sim_request_kind kind, uint64_t delay_ns)
{
    struct sim_node *node = reactor->node;
    struct sim_request *request = sim_alloc(sizeof(*request));
    if (op != NULL) {
        invariant(op->link.next == QUEUE_LINK_IDLE); /* started twice, or never initialised */
        op->link.next = OP_PENDING;
    }
    request->node = node;
    request->reactor = reactor;
    request->op = op;
    request->kind = kind;
    request->next = node->requests;
    if (node->requests != NULL)
        node->requests->previous = request;
    node->requests = request;
    reactor->ops_pending++;
    sim_event_init(&request->event, request_event);
    if (delay_ns != UINT64_MAX)
        sim_event_schedule(node->world, &request->event,
                           u64_max(node->world->now_ns, reactor->clock_ns) + delay_ns);
    return request;
}

void sim_request_free(struct sim_request *request)
{
    struct sim_node *node = request->node;
    sim_event_cancel(node->world, &request->event);
    if (request->previous != NULL)
        request->previous->next = request->next;
    else
        node->requests = request->next;
    if (request->next != NULL)
        request->next->previous = request->previous;
    free(request->path[0]);
    free(request->path[1]);
    free(request);
}

void sim_request_due(struct sim_request *request, int32_t result)
{
    struct reactor *reactor = request->reactor;
    invariant(!request->completed);
    request->completed = true;
    request->result = result;
    if (reactor->completion_count == reactor->completion_capacity) {
        reactor->completion_capacity =
            reactor->completion_capacity == 0 ? 64 : reactor->completion_capacity * 2;
        reactor->completions = sim_realloc(
            reactor->completions, reactor->completion_capacity * sizeof(reactor->completions[0]));
    }
    reactor->completions[reactor->completion_count++] = request;
    sim_core_rouse(core_of(reactor), reactor->node->world->now_ns);
}

static void request_finish(struct sim_request *request)
{
    struct reactor *reactor = request->reactor;
    invariant(reactor->ops_pending > 0);
    reactor->ops_pending--;
    if (request->kind > SIM_REQUEST_CONNECT) { /* sockets: these may wait for others to end */
        sim_network_complete(request);
        return;
    }
    struct io_op *op = request->op;
    int32_t result = request->result;
    invariant(op->link.next == OP_PENDING); /* completes exactly once */
    op->link.next = QUEUE_LINK_IDLE;
    sim_request_free(request);
    op->done(op, result);
}

uint32_t reactor_poll(struct reactor *reactor, bool may_sleep, uint64_t deadline_ns)
{
    struct sim_world *world = reactor->node->world;
    struct prng *prng = sim_prng(world, SIM_STREAM_SCHEDULE);
    (void)may_sleep; /* the world lets cores sleep, between turns */
    (void)deadline_ns;
    reactor->now_ns = reactor->clock_ns = u64_max(reactor->clock_ns, world->now_ns);
    uint32_t count = reactor->completion_count;
    if (count > 1 && prng_chance(prng, BATCH_CUT_PERCENT, 100))
        count = 1 + (uint32_t)prng_below(prng, count - 1);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t pick = (uint32_t)prng_below(prng, reactor->completion_count);
        struct sim_request *request = reactor->completions[pick];
        reactor->completions[pick] = reactor->completions[--reactor->completion_count];
        request_finish(request);
    }
    return count;
}

uint32_t reactor_ops_pending(const struct reactor *reactor)
{
    return reactor->ops_pending;
}

bool reactor_sim_has_completions(const struct reactor *reactor)
{
    return reactor->completion_count > 0;
}

void reactor_sim_crash_node(struct sim_node *node)
{
    sim_network_crash(node);
    while (node->requests != NULL) {
        sim_file_request_drop(node->requests);
        sim_request_free(node->requests);
    }
    for (uint32_t fd = 0; fd < node->descriptor_count; fd++) {
        if (node->descriptors[fd].kind == SIM_FD_FILE)
            sim_file_release(node->disk, node->descriptors[fd].object);
        node->descriptors[fd] = (struct sim_descriptor){SIM_FD_FREE, NULL};
    }
}

/* ---- descriptors ---------------------------------------------------------------------------- */

/* The lowest free one, as the kernel does: a descriptor used after its close hits another file. */
int32_t sim_descriptor_add(struct sim_node *node, enum sim_descriptor_kind kind, void *object)
{
    uint32_t fd = 3;
    while (fd < node->descriptor_count && node->descriptors[fd].kind != SIM_FD_FREE)
        fd++;
    if (fd >= node->descriptor_count) {
        uint32_t count = node->descriptor_count == 0 ? 64 : node->descriptor_count * 2;
        node->descriptors = sim_realloc(node->descriptors, count * sizeof(node->descriptors[0]));
        memset(node->descriptors + node->descriptor_count, 0,
               (count - node->descriptor_count) * sizeof(node->descriptors[0]));
        node->descriptor_count = count;
    }
    node->descriptors[fd] = (struct sim_descriptor){kind, object};
    return (int32_t)fd;
}

void *sim_descriptor_get(struct sim_node *node, int32_t fd, enum sim_descriptor_kind kind)
{
    invariant(fd >= 0);
    if ((uint32_t)fd >= node->descriptor_count || node->descriptors[fd].kind != kind)
        return NULL;
    return node->descriptors[fd].object;
}

void sim_descriptor_remove(struct sim_node *node, int32_t fd)
{
    invariant((uint32_t)fd < node->descriptor_count);
    invariant(node->descriptors[fd].kind != SIM_FD_FREE);
    node->descriptors[fd] = (struct sim_descriptor){SIM_FD_FREE, NULL};
}

/* ---- waking --------------------------------------------------------------------------------- */

void reactor_link(struct reactor *reactor, struct reactor *const *all, uint32_t count)
{
    (void)reactor;
    (void)all;
    invariant(count <= SIM_CORES_MAX);
}

void reactor_wake(struct reactor *from, uint32_t core)
{
    invariant(core < from->node->core_count);
    struct reactor *to = from->node->reactors[core];
    if (to == from || to->wake.slot != SIM_EVENT_IDLE)
        return;
    struct sim_world *world = from->node->world;
    sim_event_schedule(world, &to->wake,
                       from->clock_ns + WAKE_NS_MIN +
                           prng_below(sim_prng(world, SIM_STREAM_SCHEDULE), WAKE_NS_SPREAD));
}

bool reactor_sim_wake_pending(const struct reactor *reactor)
{
    return reactor->wake.slot != SIM_EVENT_IDLE || core_of(reactor)->turn.slot != SIM_EVENT_IDLE ||
           reactor->completion_count > 0;
}

void reactor_yield(struct reactor *reactor maybe_unused) {}

void reactor_interrupt(struct reactor *reactor)
{
    sim_core_rouse(core_of(reactor), reactor->node->world->now_ns);
}

/* ---- time and randomness -------------------------------------------------------------------- */

void reactor_sim_turn_begin(struct reactor *reactor)
{
    reactor->now_ns = reactor->clock_ns = reactor->node->world->now_ns;
}

uint64_t reactor_sim_turn_end(struct reactor *reactor)
{
    uint64_t world_ns = reactor->node->world->now_ns;
    return reactor->clock_ns > world_ns ? reactor->clock_ns - world_ns : 0;
}

uint64_t reactor_now_ns(const struct reactor *reactor)
{
    return sim_node_clock_ns(reactor->node, reactor->now_ns);
}

/* Every look takes time, so that a turn's budget runs out as it does on a real core. */
uint64_t reactor_clock_ns(const struct reactor *reactor)
{
    struct reactor *mine = (struct reactor *)(uintptr_t)reactor;
    struct prng *prng = sim_prng(reactor->node->world, SIM_STREAM_SCHEDULE);
    mine->clock_ns += 1 + prng_below(prng, CLOCK_READ_NS_MAX);
    return sim_node_clock_ns(reactor->node, mine->clock_ns);
}

int64_t reactor_wall_ns(const struct reactor *reactor)
{
    const struct sim_node *node = reactor->node;
    return node->wall_offset_ns + (int64_t)sim_node_clock_ns(node, reactor->clock_ns);
}

uint64_t reactor_random(struct reactor *reactor)
{
    return prng_next(&reactor->prng);
}

/* ---- facts ---------------------------------------------------------------------------------- */

struct buffer_pool *reactor_buffers(struct reactor *reactor)
{
    return reactor->buffers;
}

uint32_t reactor_cpu_count(const struct reactor *reactor)
{
    return reactor->node->core_count;
}

uint32_t reactor_cpu_quota(const struct reactor *reactor maybe_unused)
{
    return UINT32_MAX;
}

void reactor_process_stats(struct reactor *reactor, struct reactor_process_stats *stats)
{
    memset(stats, 0, sizeof(*stats));
    stats->resident_bytes = reactor->arena_bytes;
    stats->open_files_max = 65536;
    stats->start_wall_ns = reactor->node->wall_offset_ns;
}
