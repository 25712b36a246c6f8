#include "core/core.h"

#include <errno.h>
#include <stdlib.h>

#include "core/core_private.h"
#include "core/invariant.h"

#define CORE_TURN_BUDGET_US     500
#define CORE_BACKGROUND_PERCENT 20
#define CORE_ROUNDS_MAX         4  /* of drain, fibers, timers and hooks in one turn */
#define CORE_DRAIN_BATCH        64 /* messages from one ring in one round */
#define CORE_OVERFLOW_MIN       64

/* Spinning is judged by what it finds. */
#define CORE_SPIN_WINDOW        32 /* spins */
#define CORE_SPIN_WORTH_PERCENT 20
#define CORE_SPIN_CROWDED_MAX   8    /* one after the other */
#define CORE_SPIN_REST_SLEEPS   1024 /* without a spin, after a window that was not worth it */
#define CORE_SPIN_LOST_SLEEPS   (16 * 1024) /* the same, where somebody never waits */

#define CORE_CROWDED_NS (1000 * NS_PER_US) /* a yield that took so long met others in need */
#define CORE_WAYS_KEPT  64                 /* turns without another one before background work */

static _Thread_local struct core *current_core;

struct core *core_current(void)
{
    return current_core;
}

void core_set_current(struct core *core)
{
    current_core = core;
}

/* ---- life ----------------------------------------------------------------------------------- */

int core_create(const struct core_options *options, struct mesh *mesh, struct core **core_out,
                char *reason, size_t reason_bytes)
{
    struct core *core = calloc(1, sizeof(*core));
    if (core == NULL)
        return -ENOMEM;
    core->id = options->reactor.core;
    core->mesh = mesh;
    core->core_count = mesh_core_count(mesh);
    invariant(core->id < core->core_count);
    core->turn_budget_ns =
        NS_PER_US * (options->turn_budget_us == 0 ? CORE_TURN_BUDGET_US : options->turn_budget_us);
    core->background_percent =
        options->background_percent == 0 ? CORE_BACKGROUND_PERCENT : options->background_percent;
    invariant(core->background_percent <= 100);
    atomic_init(&core->stop, false);
    timer_heap_init(&core->timers);

    /* The core spins, because it sees both the rings and the kernel; so its reactor must not. */
    struct reactor_options reactor_options = options->reactor;
    reactor_options.poll_us = 0;
    int error = reactor_create(&reactor_options, &core->reactor, reason, reason_bytes);
    if (error < 0)
        goto fail_reactor;
    error = fiber_pool_init(core, options->fibers_max);
    if (error < 0)
        goto fail_fibers;
    uint32_t cpu_count =
        options->cpu_count != 0 ? options->cpu_count : reactor_cpu_count(core->reactor);
    /* A control group whose quota spins use up is stopped as a whole for what is left of a period.
     */
    if (core->core_count <= u64_min(cpu_count, reactor_cpu_quota(core->reactor)))
        core->spin.budget_ns = options->reactor.poll_us * NS_PER_US;
    core->logger = logger_create(core->reactor);
    core_set_current(core);
    *core_out = core;
    return 0;

fail_fibers:
    reactor_destroy(core->reactor);
fail_reactor:
    free(core);
    return error;
}

void core_destroy(struct core *core)
{
    invariant(core->fibers.current == NULL);
    if (current_core == core)
        core_set_current(NULL); /* lines from here on are written at once */
    bool reactor_is_idle = logger_destroy(core->logger);
    /* Fibers that still wait are given up, and with them the timers on their stacks. */
    while (core->timers.count > 0)
        timer_stop(&core->timers, core->timers.slots[0]);
    timer_heap_deinit(&core->timers);
    fiber_pool_deinit(core, true);
    if (reactor_is_idle)
        reactor_destroy(core->reactor); /* otherwise it ends with the process */
    for (uint32_t to = 0; to < core->core_count; to++)
        free(core->overflow[to].messages);
    free(core);
}

uint32_t core_id(const struct core *core)
{
    return core->id;
}

struct reactor *core_reactor(struct core *core)
{
    return core->reactor;
}

struct timer_heap *core_timers(struct core *core)
{
    return &core->timers;
}

struct mesh *core_mesh(struct core *core)
{
    return core->mesh;
}

uint64_t core_now_ns(const struct core *core)
{
    return reactor_now_ns(core->reactor);
}

void core_handle(struct core *core, uint16_t kind, core_message_handler *handler, void *context)
{
    invariant(kind < MESH_KIND_MAX);
    invariant(handler != NULL);
    core->handlers[kind] = (struct core_handler){.handle = handler, .context = context};
}

void core_on_turn_end(struct core *core, void (*hook)(void *context), void *context)
{
    invariant(core->hook_count < CORE_HOOKS_MAX);
    core->hooks[core->hook_count++] = (struct core_hook){.run = hook, .context = context};
}

static void hook_nothing(void *context)
{
    (void)context;
}

void core_forget_turn_end(struct core *core, const void *context)
{
    for (uint32_t i = 0; i < core->hook_count; i++)
        if (core->hooks[i].context == context)
            core->hooks[i] = (struct core_hook){.run = hook_nothing};
}

void core_expect_soon(struct core *core, bool expecting)
{
    core->expecting_soon |= expecting;
}

void core_stats(const struct core *core, struct core_stats *stats)
{
    *stats = core->stats;
    stats->fibers_spawned = core->fibers.spawned;
    stats->fibers_live = core->fibers.live;
    stats->fibers_live_max = core->fibers.live_max;
}

/* ---- messages ------------------------------------------------------------------------------- */

/* Into the ring, past the overflow queue. */
static bool core_send_now(struct core *core, uint32_t to, const struct mesh_message *message)
{
    if ((to != core->id && buggify("core: a ring is full")) ||
        !mesh_send(core->mesh, core->id, to, message)) {
        core->stats.ring_full++;
        return false;
    }
    core->stats.messages_out++;
    if (to != core->id)
        core->sent_to |= (uint64_t)1 << to;
    return true;
}

bool core_send(struct core *core, uint32_t to, const struct mesh_message *message)
{
    invariant(to < core->core_count);
    if (core->overflow[to].count > 0) /* what was posted earlier goes first */
        return false;
    return core_send_now(core, to, message);
}

static void core_overflow_grow(struct core_overflow *overflow)
{
    uint32_t capacity = overflow->capacity == 0 ? CORE_OVERFLOW_MIN : overflow->capacity * 2;
    struct mesh_message *messages = malloc(capacity * sizeof(*messages));
    invariant(messages != NULL);
    for (uint32_t i = 0; i < overflow->count; i++)
        messages[i] = overflow->messages[(overflow->first + i) & (overflow->capacity - 1)];
    free(overflow->messages);
    overflow->messages = messages;
    overflow->first = 0;
    overflow->capacity = capacity;
}

void core_post(struct core *core, uint32_t to, const struct mesh_message *message)
{
    if (core_send(core, to, message))
        return;
    struct core_overflow *overflow = &core->overflow[to];
    if (overflow->count == overflow->capacity)
        core_overflow_grow(overflow);
    overflow->messages[(overflow->first + overflow->count) & (overflow->capacity - 1)] = *message;
    overflow->count++;
    core->overflow_count++;
}

static void core_flush_overflow(struct core *core)
{
    for (uint32_t to = 0; to < core->core_count && core->overflow_count > 0; to++) {
        struct core_overflow *overflow = &core->overflow[to];
        while (overflow->count > 0 &&
               core_send_now(core, to, &overflow->messages[overflow->first])) {
            overflow->first = (overflow->first + 1) & (overflow->capacity - 1);
            overflow->count--;
            core->overflow_count--;
        }
    }
}

static uint32_t core_drain(struct core *core)
{
    uint32_t drained = 0;
    for (uint32_t from = 0; from < core->core_count; from++) {
        struct mesh_message message;
        for (uint32_t i = 0; i < CORE_DRAIN_BATCH; i++) {
            if (!mesh_receive(core->mesh, from, core->id, &message))
                break;
            const struct core_handler *handler = &core->handlers[message.kind];
            invariant(handler->handle != NULL); /* a kind that nobody on this core takes */
            handler->handle(handler->context, core, &message);
            drained++;
        }
    }
    core->stats.messages_in += drained;
    return drained;
}

static void core_wake_peers(struct core *core)
{
    while (core->sent_to != 0) {
        uint32_t to = (uint32_t)__builtin_ctzll(core->sent_to);
        core->sent_to &= core->sent_to - 1;
        if (mesh_must_wake(core->mesh, core->id, to) && !planted_bug(wakeup_lost)) {
            reactor_wake(core->reactor, to);
            core->stats.wakes_sent++;
        }
    }
}

/* ---- sleeping ------------------------------------------------------------------------------- */

static bool core_has_work(const struct core *core)
{
    return fiber_any_ready(core, FIBER_LATENCY) || fiber_any_ready(core, FIBER_BACKGROUND) ||
           core->overflow_count > 0 || mesh_has_mail(core->mesh, core->id) ||
           timer_heap_next_ns(&core->timers) <= reactor_now_ns(core->reactor) ||
           atomic_load_explicit(&core->stop, memory_order_relaxed);
}

bool core_sleep_begin(struct core *core, uint64_t *deadline_ns)
{
    core_wake_peers(core); /* of messages sent outside of a turn, at start-up */
    mesh_sleep_begin(core->mesh, core->id);
    if (core_has_work(core)) {
        mesh_sleep_end(core->mesh, core->id);
        return false;
    }
    *deadline_ns = timer_heap_next_ns(&core->timers);
    return true;
}

void core_sleep_end(struct core *core)
{
    mesh_sleep_end(core->mesh, core->id);
}

/* A spin that finds nothing costs somebody else's CPU time, and one that loses the CPU to somebody
 * who never waits delays what it looks for: then the core sleeps at once for a while. */
static void core_spin_judge(struct core_spin *spin, bool found)
{
    spin->found += found;
    spin->tried++;
    bool lost = spin->crowded == CORE_SPIN_CROWDED_MAX;
    if (!lost && spin->tried < CORE_SPIN_WINDOW)
        return;
    if (lost) {
        spin->rest = CORE_SPIN_LOST_SLEEPS;
        spin->crowded = 0;
    } else if (spin->found * 100 < CORE_SPIN_WORTH_PERCENT * CORE_SPIN_WINDOW) {
        spin->rest = CORE_SPIN_REST_SLEEPS;
    }
    spin->tried = spin->found = 0;
}

/* Lets others of this CPU run. False: they took so long that they need it more than a core that
 * only waits. */
static bool core_give_way(struct core *core)
{
    uint64_t before_ns = reactor_clock_ns(core->reactor);
    reactor_yield(core->reactor);
    return reactor_clock_ns(core->reactor) - before_ns < CORE_CROWDED_NS;
}

static uint32_t core_look(struct core *core, bool *found)
{
    uint32_t completions = reactor_poll(core->reactor, false, 0);
    *found = completions > 0 || core_has_work(core);
    return completions;
}

/* Looks for work without sleeping for a while. Returns the completions found; `*found` also when
 * it was mail. What it waits for may need this very CPU first, the kernel's threads that complete a
 * write as well as a client: it lets them through each time, and sleeps where the CPU is wanted. */
static uint32_t core_spin(struct core *core, bool *found)
{
    struct core_spin *spin = &core->spin;
    *found = false;
    if (!core->expecting_soon || spin->budget_ns == 0)
        return 0;
    if (spin->rest > 0) {
        spin->rest--;
        return 0;
    }
    uint32_t completions = core_look(core, found);
    bool waited = !*found, crowded = false;
    uint64_t end_ns = u64_min(reactor_clock_ns(core->reactor) + spin->budget_ns,
                              timer_heap_next_ns(&core->timers));
    while (!*found && !crowded && reactor_clock_ns(core->reactor) < end_ns) {
        crowded = !core_give_way(core);
        completions = core_look(core, found);
    }
    if (waited)
        spin->crowded = crowded ? spin->crowded + 1 : 0;
    core_spin_judge(spin, *found);
    return completions;
}

static uint32_t core_sleep(struct core *core)
{
    uint64_t deadline_ns;
    if (!core_sleep_begin(core, &deadline_ns))
        return reactor_poll(core->reactor, false, 0);
    uint64_t started_ns = reactor_clock_ns(core->reactor);
    uint32_t completions = reactor_poll(core->reactor, true, deadline_ns);
    core_sleep_end(core);
    core->stats.sleeps++;
    core->stats.sleep_ns += reactor_now_ns(core->reactor) - started_ns;
    return completions;
}

/* ---- the turn ------------------------------------------------------------------------------- */

/* Whoever shares the CPU goes before background work, a client for example, unless they leave it
 * little. What this turn has to submit and what it was woken for does not wait for them. */
static uint32_t core_background_gives_way(struct core *core)
{
    if (!fiber_any_ready(core, FIBER_BACKGROUND))
        return 0;
    if (core->ways_kept > 0) {
        core->ways_kept--;
        return 0;
    }
    if (!core_give_way(core))
        core->ways_kept = CORE_WAYS_KEPT;
    return reactor_poll(core->reactor, false, 0);
}

/* Background fibers get what is left of the turn on an otherwise idle core, else their share. The
 * share starts when the others are through: they cannot use it up. */
static void core_run_background(struct core *core, bool busy)
{
    if (!fiber_any_ready(core, FIBER_BACKGROUND))
        return;
    uint64_t turn_deadline_ns = core->turn_deadline_ns;
    if (busy) {
        core->turn_deadline_ns =
            reactor_clock_ns(core->reactor) + core->turn_budget_ns * core->background_percent / 100;
    }
    fiber_run_ready(core, FIBER_BACKGROUND, core->turn_deadline_ns);
    core->turn_deadline_ns = turn_deadline_ns;
}

static bool core_has_local_work(const struct core *core)
{
    return fiber_any_ready(core, FIBER_LATENCY) || mesh_has_mail(core->mesh, core->id);
}

static void core_run_rounds(struct core *core, bool busy)
{
    for (uint32_t round = 0; round < CORE_ROUNDS_MAX; round++) {
        if (core->overflow_count > 0)
            core_flush_overflow(core);
        busy |= core_drain(core) > 0;
        busy |= fiber_run_ready(core, FIBER_LATENCY, core->turn_deadline_ns) > 0;
        if (round == 0)
            core_run_background(core, busy);
        timer_heap_fire_due(&core->timers, reactor_now_ns(core->reactor));
        core->expecting_soon = false;
        for (uint32_t i = 0; i < core->hook_count; i++)
            core->hooks[i].run(core->hooks[i].context);
        if (!core_has_local_work(core))
            return;
    }
}

bool core_turn(struct core *core, bool may_sleep)
{
    invariant(core->fibers.current == NULL); /* a turn inside a fiber would never end */
    core_set_current(core);
    bool found = core_has_work(core);
    uint32_t completions = 0;
    if (may_sleep && !found)
        completions = core_spin(core, &found);
    if (may_sleep && !found)
        completions = core_sleep(core);
    else if (completions == 0)
        completions = reactor_poll(core->reactor, false, 0);
    completions += core_background_gives_way(core);

    core->turn_started_ns = reactor_now_ns(core->reactor);
    core->turn_deadline_ns = core->turn_started_ns + core->turn_budget_ns;
    core_run_rounds(core, completions > 0);
    core_wake_peers(core);
    logger_flush(core->logger);

    uint64_t turn_ns = reactor_clock_ns(core->reactor) - core->turn_started_ns;
    core->stats.turns++;
    core->stats.completions += completions;
    core->stats.busy_ns += turn_ns;
    core->stats.turn_ns_max = u64_max(core->stats.turn_ns_max, turn_ns);
    return core_has_work(core);
}

void core_run(struct core *core)
{
    while (!atomic_load_explicit(&core->stop, memory_order_acquire))
        (void)core_turn(core, true);
}

void core_stop(struct core *core)
{
    atomic_store_explicit(&core->stop, true, memory_order_release);
    reactor_interrupt(core->reactor);
}
