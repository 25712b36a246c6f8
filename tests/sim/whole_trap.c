/* Crashes where they hurt most: a trap waits for its node's disk to do something, and the node
 * crashes while that is in flight, or a moment later. Crashes at any event seldom meet the 20 to
 * 170 us of a write to the log. */
#include "core/invariant.h"
#include "server/snapshot_install.h"
#include "tests/sim/reactor_sim.h"
#include "tests/sim/whole.h"

#define SNAPSHOT_STEPS_MAX 16               /* requests for files of a snapshot, before the crash */
#define AFTER_NS_MAX       (20 * NS_PER_MS) /* from the first file to send, or the last that came */
#define BOOT_NS_MAX_SHIFT  11 /* a crash this soon after a start: up to a millisecond << shift */

static struct prng *faults(const struct whole_node *node)
{
    return whole_prng(node->whole, FAULTS);
}

static const char *trap_name(enum whole_trap trap)
{
    static const char *const names[] = {
        [WHOLE_TRAP_NONE] = "nothing",
        [WHOLE_TRAP_BOOT] = "its start",
        [WHOLE_TRAP_WRITE] = "a write",
        [WHOLE_TRAP_WRITES] = "several writes",
        [WHOLE_TRAP_SYNC] = "a sync",
        [WHOLE_TRAP_NAME] = "a change of names",
        [WHOLE_TRAP_SNAPSHOT] = "a snapshot",
        [WHOLE_TRAP_RECEIVED] = "a snapshot's end",
        [WHOLE_TRAP_SENT] = "a snapshot for others",
    };
    return names[trap];
}

static bool is_durable_write(const struct sim_request *request)
{
    return request->kind == SIM_REQUEST_WRITE && (request->flags & IO_WRITE_DURABLE) != 0;
}

static uint32_t durable_writes_in_flight(const struct sim_node *sim)
{
    uint32_t count = 0;
    for (const struct sim_request *request = sim->requests; request != NULL;
         request = request->next)
        count += !request->completed && is_durable_write(request);
    return count;
}

static bool springs(struct whole_node *node, const struct sim_request *request)
{
    switch (node->trap) {
    case WHOLE_TRAP_WRITE:
        return is_durable_write(request);
    case WHOLE_TRAP_WRITES:
        return is_durable_write(request) && durable_writes_in_flight(&node->sim) > 1;
    case WHOLE_TRAP_SYNC:
        return request->kind == SIM_REQUEST_SYNC;
    case WHOLE_TRAP_NAME:
        return request->path[0] != NULL;
    case WHOLE_TRAP_SNAPSHOT:
        return request->path[0] != NULL &&
               strstr(request->path[0], "/" SNAPSHOT_INCOMING "/") != NULL &&
               node->trap_steps-- == 0;
    case WHOLE_TRAP_RECEIVED: /* its marker is written */
        return request->path[0] != NULL &&
               strstr(request->path[0], "/" SNAPSHOT_INCOMING "/SNAPSHOT") != NULL;
    case WHOLE_TRAP_SENT: /* its files are gathered */
        return request->kind == SIM_REQUEST_LINK &&
               strstr(request->path[1], "/" SNAPSHOT_OUTGOING "/") != NULL;
    case WHOLE_TRAP_NONE:
    case WHOLE_TRAP_BOOT:
    case WHOLE_TRAP_COUNT:
        break;
    }
    return false;
}

/* In a turn of the node: what happens now happens after it. */
static void on_disk_request(struct sim_node *sim, const struct sim_request *request)
{
    struct whole_node *node = container_of(sim, struct whole_node, sim);
    struct sim_world *world = &node->whole->world;
    if (node->trap_event.slot != SIM_EVENT_IDLE || !springs(node, request))
        return;
    uint64_t until_ns = u64_max(request->event.time_ns, world->now_ns) - world->now_ns;
    if (node->trap == WHOLE_TRAP_SYNC || node->trap == WHOLE_TRAP_NAME ||
        node->trap == WHOLE_TRAP_SNAPSHOT)
        until_ns *= 1 + prng_below(faults(node), 4); /* what comes after it, too */
    if (node->trap == WHOLE_TRAP_RECEIVED || node->trap == WHOLE_TRAP_SENT)
        until_ns = AFTER_NS_MAX;
    sim_event_schedule(world, &node->trap_event,
                       world->now_ns + prng_below(faults(node), until_ns + 1));
}

static void trap_event(struct sim_event *event)
{
    struct whole_node *node = container_of(event, struct whole_node, trap_event);
    enum whole_trap trap = node->trap;
    node->trap = WHOLE_TRAP_NONE;
    if (!node->sim.running)
        return;
    whole_text(node->whole, node->sim.id, "* crash in %s", trap_name(trap));
    whole_faults_crash(node, trap == WHOLE_TRAP_BOOT); /* of what a killed process left */
}

void whole_trap_init(struct whole_node *node)
{
    sim_event_init(&node->trap_event, trap_event);
    node->sim.on_disk_request = on_disk_request;
}

void whole_trap_clear(struct whole_node *node)
{
    sim_event_cancel(&node->whole->world, &node->trap_event);
    node->trap = WHOLE_TRAP_NONE;
}

void whole_trap_set(struct whole_node *node, enum whole_trap first)
{
    whole_trap_clear(node);
    node->trap = first + (enum whole_trap)prng_below(faults(node), WHOLE_TRAP_COUNT - first);
    node->trap_steps = (uint32_t)prng_below(faults(node), SNAPSHOT_STEPS_MAX);
    whole_text(node->whole, node->sim.id, "* a trap for %s", trap_name(node->trap));
}

void whole_trap_boot(struct whole_node *node, uint64_t boot_ns)
{
    uint64_t within_ns = NS_PER_MS << prng_below(faults(node), BOOT_NS_MAX_SHIFT);
    whole_trap_clear(node);
    node->trap = WHOLE_TRAP_BOOT;
    sim_event_schedule(&node->whole->world, &node->trap_event,
                       boot_ns + prng_below(faults(node), within_ns));
}
