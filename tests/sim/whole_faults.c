/* Harm that a seed does to whole nodes, and its end. */
#include "tests/sim/network.h"
#include "tests/sim/reactor_sim.h"
#include "tests/sim/whole.h"

#define SLOW_TURN_NS (2 * NS_PER_MS)
#define JUMP_NS_MAX  (4 * 3600 * NS_PER_S)
#define PATH_NS_MAX  (2 * NS_PER_S)

static struct prng *faults(struct whole *whole)
{
    return whole_prng(whole, FAULTS);
}

static struct whole_node *some_node(struct whole *whole)
{
    return &whole->nodes[prng_below(faults(whole), whole->node_count)];
}

/* ---- crashes -------------------------------------------------------------------------------- */

#define AGAIN_NS_MAX (2 * NS_PER_MS) /* a start at once */

/* For who will receive a snapshot, or for who may send it. */
static void snapshot_trap(struct whole_node *node)
{
    struct whole_node *other = some_node(node->whole);
    if (prng_chance(faults(node->whole), 2, 3))
        whole_trap_set(node, WHOLE_TRAP_SNAPSHOT);
    else if (other != node)
        whole_trap_set(other, WHOLE_TRAP_SENT);
}

/* Power is cut, or only the process is killed; it boots again later, or at once, maybe for another
 * crash. */
void whole_faults_crash(struct whole_node *node, bool power)
{
    struct whole *whole = node->whole;
    if (!node->sim.running)
        return;
    whole_trap_clear(node);
    if (!power && whole->config.kills && prng_chance(faults(whole), 1, 2))
        whole_node_kill(node);
    else
        whole_node_power_cut(node);
    whole_disk_rot(node);
    bool again = whole->config.traps && prng_chance(faults(whole), 1, 4);
    uint64_t outage_ns = again ? AGAIN_NS_MAX : whole->config.outage_ns_max;
    uint64_t boot_ns = whole->world.now_ns + prng_below(faults(whole), outage_ns + 1);
    whole_node_boot_at(node, boot_ns);
    if (again && prng_chance(faults(whole), 1, 2))
        whole_trap_boot(node, boot_ns);
    else if (again)
        whole_trap_set(node, WHOLE_TRAP_WRITE);
    else if (whole->config.traps && whole->config.small_stores) /* the log may be gone by then */
        snapshot_trap(node);
}

/* Nothing passes between machines `a` and `b`, or only one way, until then. */
static void stall(struct whole *whole, uint32_t a, uint32_t b, uint64_t until_ns)
{
    uint64_t ways = 1 + prng_below(faults(whole), 3);
    if (ways & 1)
        sim_network_block(&whole->world, a, b, until_ns);
    if (ways & 2)
        sim_network_block(&whole->world, b, a, until_ns);
}

/* A random part of the nodes hears nothing of the rest: each pair its own ways, or all the same. */
static void partition(struct whole *whole, uint64_t until_ns)
{
    uint64_t side = prng_next(faults(whole));
    uint64_t ways = prng_below(faults(whole), 4); /* 0: each pair draws */
    whole_text(whole, 0, "* partition");
    for (uint32_t a = 0; a < whole->node_count; a++)
        for (uint32_t b = 0; b < whole->node_count; b++) {
            uint32_t from = whole->nodes[a].sim.id, to = whole->nodes[b].sim.id;
            if ((side >> a & 1) >= (side >> b & 1))
                continue;
            if (ways == 0)
                stall(whole, from, to, until_ns);
            if (ways & 1)
                sim_network_block(&whole->world, from, to, until_ns);
            if (ways & 2)
                sim_network_block(&whole->world, to, from, until_ns);
        }
}

/* Each way by itself: a member's first words to one of the others may arrive long after another has
 * fed it. */
void whole_faults_node_added(struct whole *whole, const struct whole_node *node)
{
    struct prng *prng = faults(whole);
    bool slow = whole->config.slow_paths && !whole->load_ended; /* the operator goes on */
    for (uint32_t i = 0; slow && i < whole->node_count; i++) {
        uint32_t other = whole->nodes[i].sim.id, own = node->sim.id;
        if (other == own)
            continue;
        if (prng_chance(prng, 1, 3))
            sim_network_slow(&whole->world, own, other, prng_below(prng, PATH_NS_MAX));
        if (prng_chance(prng, 1, 3))
            sim_network_slow(&whole->world, other, own, prng_below(prng, PATH_NS_MAX));
    }
}

static void slow_or_not(struct whole_node *node)
{
    bool slow = prng_chance(faults(node->whole), 1, 2);
    whole_text(node->whole, node->sim.id, slow ? "* slow cores" : "* cores as before");
    node->sim.cost_ns_max = slow ? SLOW_TURN_NS : node->whole->config.turn_ns_max;
}

static void pause(struct whole_node *node, uint64_t until_ns)
{
    if (!node->sim.running)
        return;
    whole_text(node->whole, node->sim.id, "* paused until %.3f", (double)until_ns / 1e9);
    sim_node_pause(&node->sim, until_ns);
}

/* Only the wall clock: the monotonic one never does. */
static void jump(struct whole_node *node)
{
    int64_t by_ns =
        (int64_t)prng_below(faults(node->whole), 2 * JUMP_NS_MAX) - (int64_t)JUMP_NS_MAX;
    whole_text(node->whole, node->sim.id, "* the wall clock jumps by %.0f s", (double)by_ns / 1e9);
    node->sim.wall_offset_ns += by_ns;
}

static void do_harm(struct whole *whole)
{
    struct prng *prng = faults(whole);
    const struct whole_config *config = &whole->config;
    struct whole_node *node = some_node(whole);
    uint64_t until_ns = whole->world.now_ns + prng_below(prng, config->outage_ns_max + 1);
    uint64_t draw = prng_below(prng, 24);
    if (draw < 5 && config->traps && (node->trap < WHOLE_TRAP_SNAPSHOT || prng_chance(prng, 1, 8)))
        whole_trap_set(node, WHOLE_TRAP_WRITE);
    else if (draw < 8 && config->crashes)
        whole_faults_crash(node, false);
    else if (draw < 9 && config->crashes)
        for (uint32_t i = 0; i < whole->node_count; i++)
            whole_faults_crash(&whole->nodes[i], false);
    else if (draw < 13 && config->stalls)
        stall(whole, whole->machine.id, node->sim.id, until_ns);
    else if (draw < 17 && config->partitions && whole->node_count > 1)
        partition(whole, until_ns);
    else if (draw < 20 && config->slow_cores)
        slow_or_not(node);
    else if (draw < 22 && config->pauses)
        pause(node, until_ns);
    else if (draw < 23 && config->pauses)
        jump(node);
}

static void fault_event(struct sim_event *event)
{
    struct whole *whole = container_of(event, struct whole, fault);
    do_harm(whole);
    sim_event_schedule(&whole->world, event,
                       whole->world.now_ns +
                           prng_below(faults(whole), 2 * whole->config.fault_mean_ns + 1));
}

void whole_faults_start(struct whole *whole)
{
    sim_event_init(&whole->fault, fault_event);
    sim_event_schedule(&whole->world, &whole->fault,
                       whole->world.now_ns + whole->config.fault_mean_ns);
    whole_disk_faults_start(whole);
}

void whole_faults_end(struct whole *whole)
{
    whole_disk_faults_end(whole);
    sim_event_cancel(&whole->world, &whole->fault);
}

void whole_heal(struct whole *whole)
{
    whole_faults_end(whole);
    whole_text(whole, 0, "* healing");
    for (uint32_t a = 1; a <= whole->world.node_count; a++)
        for (uint32_t b = 1; b <= whole->world.node_count; b++) {
            sim_network_block(&whole->world, a, b, 0);
            sim_network_slow(&whole->world, a, b, 0);
        }
    for (uint32_t i = 0; i < whole->node_count; i++) {
        struct whole_node *node = &whole->nodes[i];
        bool began = node->sim.running || node->boot.slot != SIM_EVENT_IDLE || node->lost;
        node->sim.cost_ns_max = whole->config.turn_ns_max;
        sim_event_cancel(&whole->world, &node->boot);
        whole_trap_clear(node);
        if (whole->config.crashes || node->kept_down)
            whole_node_power_cut(node); /* what it acknowledged must be there after one more */
        if (node->lost)
            whole_disk_mend(node);
        if (began && !node->kept_down && !node->sim.running)
            whole_node_boot(node);
    }
    whole->load_ended = true;
}
