#include "tests/sim/world.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "core/core_private.h"
#include "core/invariant.h"
#include "tests/sim/memory.h"
#include "tests/sim/reactor_sim.h"

#define TURN_COST_NS_MIN 500
#define TURN_COST_NS_MAX 20000
#define HEAP_FAN_OUT     4

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define ABANDONED_BYTES_MAX ((size_t)65536)
#endif

static struct sim_world *current_world;

/* Where fatal() leaves the turn that is under way, from whatever fiber. Worlds may nest, turns do
 * not: one world's runs to its end before another world's begins. */
static jmp_buf turn_end;

/* ---- world ---------------------------------------------------------------------------------- */

uint64_t sim_seed_split(uint64_t seed, const char *name)
{
    return XXH3_64bits_withSeed(name, strlen(name), seed);
}

void sim_world_init(struct sim_world *world, const struct sim_options *options)
{
    static const char *const names[SIM_STREAM_COUNT] = {"schedule", "network", "disk", "faults",
                                                        "workload"};
    memset(world, 0, sizeof(*world));
    world->options = *options;
    world->now_ns = SIM_START_NS;
    for (int i = 0; i < SIM_STREAM_COUNT; i++)
        prng_init(&world->streams[i], sim_seed_split(options->seed, names[i]));
    world->network = sim_network_create(world);
}

void sim_world_deinit(struct sim_world *world)
{
    for (uint32_t i = 0; i < world->node_count; i++)
        invariant(world->nodes[i] == NULL);
    sim_network_destroy(world->network);
    invariant(world->heap_count == 0);
    free(world->heap);
    if (current_world == world)
        current_world = NULL;
}

struct sim_world *sim_world_enter(struct sim_world *world)
{
    struct sim_world *previous = current_world;
    current_world = world;
    core_set_current(NULL);
    return previous;
}

struct sim_world *sim_world_current(void)
{
    return current_world;
}

struct prng *sim_prng(struct sim_world *world, enum sim_stream stream)
{
    return &world->streams[stream];
}

/* ---- events --------------------------------------------------------------------------------- */

static bool slot_before(const struct sim_event_slot *a, const struct sim_event_slot *b)
{
    return a->time_ns != b->time_ns ? a->time_ns < b->time_ns : a->sequence < b->sequence;
}

static void heap_place(struct sim_world *world, uint32_t at, const struct sim_event_slot *slot)
{
    world->heap[at] = *slot;
    slot->event->slot = at;
}

static void heap_sift_up(struct sim_world *world, uint32_t at, const struct sim_event_slot *slot)
{
    while (at > 0 && slot_before(slot, &world->heap[(at - 1) / HEAP_FAN_OUT])) {
        heap_place(world, at, &world->heap[(at - 1) / HEAP_FAN_OUT]);
        at = (at - 1) / HEAP_FAN_OUT;
    }
    heap_place(world, at, slot);
}

static void heap_sift_down(struct sim_world *world, uint32_t at, const struct sim_event_slot *slot)
{
    for (;;) {
        uint32_t child = HEAP_FAN_OUT * at + 1;
        uint32_t end = (uint32_t)u64_min(child + HEAP_FAN_OUT, world->heap_count);
        if (child >= end)
            break;
        for (uint32_t other = child + 1; other < end; other++)
            if (slot_before(&world->heap[other], &world->heap[child]))
                child = other;
        if (!slot_before(&world->heap[child], slot))
            break;
        heap_place(world, at, &world->heap[child]);
        at = child;
    }
    heap_place(world, at, slot);
}

/* Into place `at`, which is free: up or down from there. */
static void heap_fill(struct sim_world *world, uint32_t at, const struct sim_event_slot *slot)
{
    if (at > 0 && slot_before(slot, &world->heap[(at - 1) / HEAP_FAN_OUT]))
        heap_sift_up(world, at, slot);
    else
        heap_sift_down(world, at, slot);
}

void sim_event_init(struct sim_event *event, void (*run)(struct sim_event *event))
{
    event->slot = SIM_EVENT_IDLE;
    event->run = run;
}

void sim_event_schedule(struct sim_world *world, struct sim_event *event, uint64_t time_ns)
{
    event->time_ns = u64_max(time_ns, world->now_ns);
    struct sim_event_slot slot = {event->time_ns, world->sequence++, event};
    if (event->slot != SIM_EVENT_IDLE) {
        invariant(world->heap[event->slot].event == event);
        heap_fill(world, event->slot, &slot);
        return;
    }
    if (world->heap_count == world->heap_capacity) {
        world->heap_capacity = world->heap_capacity == 0 ? 256 : world->heap_capacity * 2;
        world->heap = sim_realloc(world->heap, world->heap_capacity * sizeof(world->heap[0]));
    }
    heap_sift_up(world, world->heap_count++, &slot);
}

void sim_event_cancel(struct sim_world *world, struct sim_event *event)
{
    if (event->slot == SIM_EVENT_IDLE)
        return;
    uint32_t at = event->slot;
    invariant(at < world->heap_count && world->heap[at].event == event);
    event->slot = SIM_EVENT_IDLE;
    struct sim_event_slot last = world->heap[--world->heap_count];
    if (last.event != event)
        heap_fill(world, at, &last);
}

bool sim_world_step(struct sim_world *world)
{
    if (world->heap_count == 0)
        return false;
    struct sim_event *event = world->heap[0].event;
    sim_event_cancel(world, event);
    world->now_ns = event->time_ns;
    world->events++;
    uint64_t changes = world->disk_changes;
    event->run(event);
    if (world->disk_changes != changes && world->on_disk_change != NULL)
        world->on_disk_change(world->on_disk_change_context);
    return true;
}

bool sim_world_run(struct sim_world *world, const bool *flag, uint64_t limit_ns)
{
    uint64_t end_ns = world->now_ns + limit_ns;
    while (!*flag) {
        if (world->now_ns > end_ns || !sim_world_step(world))
            return false;
    }
    return true;
}

/* ---- trace ---------------------------------------------------------------------------------- */

void sim_trace(struct sim_world *world, const struct sim_node *node, uint32_t core,
               enum sim_kind kind, uint64_t first, uint64_t second)
{
    sim_trace_at(world, node == NULL ? 0 : node->id, core, kind, first, second);
}

static uint64_t trace_mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

void sim_trace_at(struct sim_world *world, uint32_t node, uint32_t core, enum sim_kind kind,
                  uint64_t first, uint64_t second)
{
    struct sim_record record = {.time_ns = world->now_ns,
                                .node_core = node << 16 | core,
                                .kind = kind,
                                .argument = {first, second}};
    uint64_t hash = trace_mix(world->trace_hash, record.time_ns);
    hash = trace_mix(hash, (uint64_t)record.kind << 32 | record.node_core);
    hash = trace_mix(hash, first);
    world->trace_hash = trace_mix(hash, second);
    world->trace[world->trace_count++ % SIM_TRACE_RING] = record;
}

void sim_trace_print(const struct sim_world *world, uint32_t count)
{
    static const char *const kinds[SIM_KIND_COUNT] = {
        "turn",    "wake",    "read",    "write", "sync",  "name",   "size",
        "connect", "send",    "arrive",  "end",   "crash", "boot",   "mark",
        "message", "deliver", "durable", "apply", "role",  "client", "fault"};
    count = (uint32_t)u64_min(u64_min(count, world->trace_count), SIM_TRACE_RING);
    for (uint64_t at = world->trace_count - count; at < world->trace_count; at++) {
        const struct sim_record *record = &world->trace[at % SIM_TRACE_RING];
        fprintf(stderr, "%14.6f  n%u.c%u  %-8s %" PRIu64 " %" PRIu64 "\n",
                (double)(record->time_ns - SIM_START_NS) / 1e9, record->node_core >> 16,
                record->node_core & 0xffff, kinds[record->kind], record->argument[0],
                record->argument[1]);
    }
}

/* ---- nodes ---------------------------------------------------------------------------------- */

/* A core that sleeps while mail is in its rings, and whom nobody is about to wake, sleeps for ever
 * in the worst case: a lost wake-up. Only a turn of the same node makes one. */
static void check_wakeups(const struct sim_node *node)
{
    for (uint32_t c = 0; c < node->core_count; c++) {
        if (node->cores[c].asleep && !reactor_sim_wake_pending(node->reactors[c]))
            sim_check(!mesh_has_mail(node->mesh, c), "lost wake-up of node %u core %u", node->id,
                      c);
    }
}

void sim_fatal(const char *message)
{
    struct sim_world *world = current_world;
    if (world == NULL || world->current == NULL || world->current->node->on_fatal == NULL)
        return;
    snprintf(world->fatal, sizeof(world->fatal), "%s", message);
#if defined(__SANITIZE_ADDRESS__)
    const struct fiber_pool *pool = &world->current->core->fibers;
    if (pool->current != NULL)
        __sanitizer_start_switch_fiber(NULL, pool->asan_stack_bottom, pool->asan_stack_bytes);
#endif
    longjmp(turn_end, 1);
}

/* The turn was left by sim_fatal(). */
static void turn_was_fatal(struct sim_world *world)
{
    struct sim_core *core = world->current;
    struct fiber_pool *pool = &core->core->fibers;
#if defined(__SANITIZE_ADDRESS__)
    if (pool->current != NULL)
        __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
    pool->current = NULL;
    world->current = NULL;
    sim_leave(core->node);
    core->node->on_fatal(core->node, world->fatal);
    invariant(!core->node->running);
}

/* The frames that a longjmp() left below this one: what comes to lie there is not theirs. */
static void abandoned_frames_forget(void)
{
#if defined(__SANITIZE_ADDRESS__)
    const uint8_t *here = __builtin_frame_address(0);
    __asan_unpoison_memory_region(here - ABANDONED_BYTES_MAX, ABANDONED_BYTES_MAX);
#endif
}

/* False: the process ended. */
static bool take_turn(struct sim_core *core, bool *more)
{
    struct sim_world *world = core->node->world;
    world->current = core;
    if (setjmp(turn_end) != 0) {
        abandoned_frames_forget();
        turn_was_fatal(current_world);
        return false;
    }
    *more = core_turn(core->core, false);
    return true;
}

static void core_run_turn(struct sim_event *event)
{
    struct sim_core *core = container_of(event, struct sim_core, turn);
    struct sim_node *node = core->node;
    struct sim_world *world = node->world;
    uint32_t index = (uint32_t)(core - node->cores);
    bool more;
    invariant(node->running && world->current == NULL);
    sim_enter(node, index);
    if (core->asleep) {
        core->asleep = false;
        core_sleep_end(core->core);
    }
    reactor_sim_turn_begin(node->reactors[index]);
    if (!take_turn(core, &more))
        return;
    uint64_t used_ns = reactor_sim_turn_end(node->reactors[index]);
    uint64_t deadline_ns = 0;
    if (!more && !reactor_sim_has_completions(node->reactors[index]) &&
        core_sleep_begin(core->core, &deadline_ns))
        core->asleep = true;
    world->current = NULL;
    sim_leave(node);
    used_ns +=
        TURN_COST_NS_MIN + prng_below(sim_prng(world, SIM_STREAM_SCHEDULE), node->cost_ns_max);
    core->busy_until_ns = world->now_ns + used_ns;
    sim_trace(world, node, index, SIM_KIND_TURN, used_ns, more);
    if (!core->asleep)
        sim_event_schedule(world, &core->turn, core->busy_until_ns);
    else if (deadline_ns != TIMER_NEVER)
        sim_event_schedule(world, &core->turn,
                           u64_max(sim_node_world_ns(node, deadline_ns), core->busy_until_ns));
    check_wakeups(node);
}

uint64_t sim_node_clock_ns(const struct sim_node *node, uint64_t world_ns)
{
    int64_t passed_ns = (int64_t)(world_ns - SIM_START_NS);
    return world_ns + (uint64_t)(passed_ns / 1000000 * node->drift_ppm +
                                 passed_ns % 1000000 * node->drift_ppm / 1000000);
}

uint64_t sim_node_world_ns(const struct sim_node *node, uint64_t clock_ns)
{
    int64_t passed_ns = (int64_t)(clock_ns - SIM_START_NS), rate = 1000000 + node->drift_ppm;
    uint64_t world_ns =
        SIM_START_NS + (uint64_t)(passed_ns / rate * 1000000 + passed_ns % rate * 1000000 / rate);
    while (sim_node_clock_ns(node, world_ns) < clock_ns)
        world_ns++;
    return world_ns;
}

void sim_core_rouse(struct sim_core *core, uint64_t time_ns)
{
    if (!core->asleep)
        return; /* its next turn is on the way */
    uint64_t at_ns = u64_max(time_ns, core->busy_until_ns);
    if (core->turn.slot == SIM_EVENT_IDLE || core->turn.time_ns > at_ns)
        sim_event_schedule(core->node->world, &core->turn, at_ns);
}

void sim_node_init(struct sim_node *node, struct sim_world *world, struct sim_disk *disk)
{
    invariant(world->node_count < SIM_NODES_MAX);
    memset(node, 0, sizeof(*node));
    node->world = world;
    node->disk = disk;
    node->cost_ns_max = TURN_COST_NS_MAX;
    node->wall_offset_ns = (int64_t)1700000000 * (int64_t)NS_PER_S;
    world->nodes[world->node_count++] = node;
    node->id = world->node_count;
    node->random_state = sim_seed_split(world->options.seed, "node") + node->id;
}

void sim_node_deinit(struct sim_node *node)
{
    invariant(!node->running && node->requests == NULL);
    free(node->descriptors);
    node->world->nodes[node->id - 1] = NULL;
}

void sim_node_boot(struct sim_node *node, const struct core_options *options, uint32_t core_count)
{
    struct sim_world *world = node->world;
    invariant(!node->running && core_count > 0 && core_count <= SIM_CORES_MAX);
    node->running = true;
    node->incarnation++;
    node->heap = sim_heap_create();
    node->core_count = core_count;
    sim_trace(world, node, 0, SIM_KIND_BOOT, node->incarnation, core_count);
    sim_heap_enter(node->heap);
    invariant(mesh_create(core_count, 64, &node->mesh) == 0);
    for (uint32_t i = 0; i < core_count; i++) {
        struct sim_core *core = &node->cores[i];
        struct core_options own = *options;
        own.reactor.core = i;
        own.reactor.core_count = core_count;
        own.reactor.random_seed = sim_seed_split(++node->random_state, "reactor");
        char reason[256] = "";
        *core = (struct sim_core){.node = node};
        sim_event_init(&core->turn, core_run_turn);
        world->current = core;
        int error = core_create(&own, node->mesh, &core->core, reason, sizeof(reason));
        sim_check(error == 0, "core_create: %s", reason);
        node->reactors[i] = core_reactor(core->core);
    }
    for (uint32_t i = 0; i < core_count; i++) {
        reactor_link(node->reactors[i], node->reactors, core_count);
        sim_event_schedule(world, &node->cores[i].turn,
                           world->now_ns +
                               prng_below(sim_prng(world, SIM_STREAM_SCHEDULE), 100000));
    }
    world->current = NULL;
    core_set_current(NULL);
    sim_heap_enter(NULL);
}

void sim_enter(struct sim_node *node, uint32_t core)
{
    invariant(node->running);
    sim_heap_enter(node->heap);
    core_set_current(node->cores[core].core);
}

void sim_leave(struct sim_node *node)
{
    (void)node;
    core_set_current(NULL);
    sim_heap_enter(NULL);
}

static void node_end(struct sim_node *node)
{
    for (uint32_t i = 0; i < node->core_count; i++)
        sim_event_cancel(node->world, &node->cores[i].turn);
    node->running = false;
    sim_heap_destroy(node->heap);
    node->heap = NULL;
    node->mesh = NULL;
}

void sim_node_pause(struct sim_node *node, uint64_t until_ns)
{
    for (uint32_t i = 0; i < node->core_count; i++) {
        struct sim_core *core = &node->cores[i];
        core->busy_until_ns = u64_max(core->busy_until_ns, until_ns);
        if (core->turn.slot != SIM_EVENT_IDLE && core->turn.time_ns < until_ns)
            sim_event_schedule(node->world, &core->turn, until_ns);
    }
}

void sim_node_crash(struct sim_node *node)
{
    invariant(node->running && node->world->current == NULL);
    sim_trace(node->world, node, 0, SIM_KIND_CRASH, node->incarnation, 0);
    reactor_sim_crash_node(node);
    sim_heap_enter(node->heap);
    for (uint32_t i = 0; i < node->core_count; i++) {
        fiber_pool_deinit(node->cores[i].core, true);
        reactor_sim_abandon(node->reactors[i]);
    }
    sim_heap_enter(NULL);
    node_end(node);
}

struct sim_leftovers sim_node_shutdown(struct sim_node *node)
{
    struct sim_leftovers left = {.fibers = 0};
    for (uint32_t i = 0; i < node->core_count; i++) {
        node->world->current = &node->cores[i];
        sim_enter(node, i);
        left.fibers += node->cores[i].core->fibers.live;
        core_destroy(node->cores[i].core);
        sim_leave(node);
    }
    node->world->current = NULL;
    invariant(node->requests == NULL);
    for (uint32_t fd = 0; fd < node->descriptor_count; fd++)
        left.descriptors += node->descriptors[fd].kind != SIM_FD_FREE;
    reactor_sim_crash_node(node); /* descriptors that are still open */
    sim_heap_enter(node->heap);
    mesh_destroy(node->mesh);
    sim_heap_enter(NULL);
    left.heap = sim_heap_use(node->heap);
    node_end(node);
    return left;
}
