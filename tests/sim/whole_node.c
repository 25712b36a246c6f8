/* Machines of the whole-node simulator: what runs on them, and how that begins and ends. */
#include <inttypes.h>
#include <stdio.h>

#include "core/invariant.h"
#include "server/node_private.h"
#include "tests/sim/machine_flags.h"
#include "tests/sim/memory.h"
#include "tests/sim/reactor_sim.h"
#include "tests/sim/whole.h"
#include "tests/sim/whole_raft.h"

#define DISK_BYTES      (4 * GIB)
#define MACHINE_BYTES   (512 * MIB)
#define WATCH_NS        (100 * NS_PER_MS)
#define AGAIN_NS        (500 * NS_PER_MS) /* a supervisor's pause */
#define NODE_FIBERS_MAX 512

void whole_node_boot(struct whole_node *node)
{
    struct whole *whole = node->whole;
    struct core_options options = {.reactor = {.files_max = 4096,
                                               .buffer_bytes = 8 * MIB,
                                               .recv_buffer_bytes = 16 * 1024,
                                               .recv_buffer_count = 16},
                                   .fibers_max = NODE_FIBERS_MAX};
    invariant(!node->gone);
    whole_text(whole, node->sim.id, "! boots");
    node->disk_errors = sim_disk_faults(node->disk)->errors;
    sim_node_boot(&node->sim, &options, whole->config.cores);
    for (uint32_t i = 0; i < whole->config.cores; i++) {
        sim_enter(&node->sim, i);
        if (i == 0)
            invariant(node_create(&node->config, whole->config.cores, MACHINE_BYTES, &node->node) ==
                      0);
        invariant(node_attach(node->node, node->sim.cores[i].core) == 0);
        sim_leave(&node->sim);
    }
}

static void boot_event(struct sim_event *event)
{
    whole_node_boot(container_of(event, struct whole_node, boot));
}

void whole_node_boot_at(struct whole_node *node, uint64_t time_ns)
{
    sim_event_schedule(&node->whole->world, &node->boot, time_ns);
}

/* ---- ends ----------------------------------------------------------------------------------- */

void whole_node_power_cut(struct whole_node *node)
{
    struct prng *prng = whole_prng(node->whole, FAULTS);
    enum sim_loss loss = (enum sim_loss)prng_below(prng, SIM_LOSS_COUNT);
    if (!node->sim.running)
        return;
    whole_text(node->whole, node->sim.id, "! power cut, loss of %s", sim_loss_name(loss));
    sim_requests_land(&node->sim, node->disk, false, loss, prng);
    whole_raft_node_down(node);
    sim_node_crash(&node->sim);
    sim_disk_power_cut(node->disk, loss, prng);
    node->node = NULL;
    node->whole->crashes++;
}

/* What was written and not synced stays written and not synced: the next power cut may take it. */
void whole_node_kill(struct whole_node *node)
{
    if (!node->sim.running)
        return;
    whole_text(node->whole, node->sim.id, "! killed");
    sim_requests_land(&node->sim, node->disk, false, SIM_LOSS_NONE,
                      whole_prng(node->whole, FAULTS));
    whole_raft_node_down(node);
    sim_node_crash(&node->sim);
    node->node = NULL;
    node->whole->crashes++;
}

void whole_node_shut_down(struct whole_node *node)
{
    invariant(node_state(node->node) == NODE_STOPPED);
    whole_text(node->whole, node->sim.id, "! stopped");
    whole_raft_node_down(node);
    sim_enter(&node->sim, 0);
    node_destroy(node->node);
    sim_leave(&node->sim);
    struct sim_leftovers left = sim_node_shutdown(&node->sim);
    node->node = NULL;
    if (left.fibers + left.descriptors + left.heap.blocks > 0)
        verdict_set(&node->whole->verdict, SIM_SAFETY,
                    "node %u stops and leaves %u fibers, %u descriptors, %" PRIu64
                    " blocks of memory (%" PRIu64 " bytes, one of %" PRIu64 ")",
                    node->sim.id, left.fibers, left.descriptors, left.heap.blocks, left.heap.bytes,
                    left.heap.one_bytes);
}

void whole_node_retire(struct whole_node *node)
{
    whole_text(node->whole, node->sim.id, "* retired");
    sim_event_cancel(&node->whole->world, &node->boot);
    whole_trap_clear(node);
    whole_node_kill(node);
    node->gone = true;
}

/* ---- the supervisor ------------------------------------------------------------------------- */

/* A member that joins finds nobody who knows it yet; one that was removed may be told so; a disk
 * may refuse what it must do. Nothing else that is done to nodes here lets one give up. */
static void node_failed(struct whole_node *node)
{
    struct whole *whole = node->whole;
    bool joins = node->joins && node->member == 0, disk = whole_disk_failed(node);
    whole_text(whole, node->sim.id, "! failed: %s", node_failure(node->node));
    sometimes(disk, "whole: a node does not start for what its disk does, and does later");
    if (joins || node->leaving || disk) {
        whole_node_kill(node);
        if (!node->lost)
            whole_node_boot_at(node, whole->world.now_ns + AGAIN_NS);
        return;
    }
    verdict_set(&whole->verdict, SIM_SAFETY, "node %u does not start: %s", node->sim.id,
                node_failure(node->node));
}

/* fatal(): nobody can go on with what its disk did. */
static void node_ended(struct sim_node *machine, const char *message)
{
    struct whole_node *node = container_of(machine, struct whole_node, sim);
    struct whole *whole = node->whole;
    whole_text(whole, machine->id, "! ends itself: %s", message);
    if (!whole_disk_failed(node))
        verdict_set(&whole->verdict, SIM_CRASH, "node %u ends itself: %s", machine->id, message);
    sometimes(true, "whole: a process ends for what its disk did");
    whole->ends++;
    whole_node_kill(node);
    if (!node->stop_asked && !node->lost)
        whole_node_boot_at(node, whole->world.now_ns + AGAIN_NS);
}

static void node_stopped(struct whole_node *node)
{
    struct whole *whole = node->whole;
    bool again = node_restart_wanted(node->node);
    if (!again && !node->leaving)
        verdict_set(&whole->verdict, SIM_SAFETY, "node %u stops by itself", node->sim.id);
    whole->restarts += again;
    sometimes(again, "whole: a node starts again to install a snapshot");
    sometimes(!again && node->leaving, "whole: a removed member stops by itself");
    whole_node_shut_down(node);
    if (again)
        whole_node_boot_at(node, whole->world.now_ns);
}

static void watch_event(struct sim_event *event)
{
    struct whole_node *node = container_of(event, struct whole_node, watch);
    if (node->sim.running && node_state(node->node) == NODE_FAILED)
        node_failed(node);
    else if (node->sim.running && node_state(node->node) == NODE_STOPPED && !node->stop_asked)
        node_stopped(node);
    if (node->retire_wanted && !node->gone)
        whole_node_retire(node);
    sim_event_schedule(&node->whole->world, event, node->whole->world.now_ns + WATCH_NS);
}

bool whole_node_is_member(const struct whole_node *node)
{
    const struct check_raft *check = &node->whole->raft_check;
    if (check->config_count == 0 || node->member == 0)
        return false;
    const struct raft_config *newest = &check->configs[check->config_count - 1].config;
    struct raft_id_set members = raft_config_members(newest);
    return raft_id_set_has(&members, node->member);
}

bool whole_node_is_voter(const struct whole_node *node)
{
    const struct check_raft *check = &node->whole->raft_check;
    return whole_node_is_member(node) &&
           !raft_id_set_has(&check->configs[check->config_count - 1].config.learners, node->member);
}

/* ---- beginnings ----------------------------------------------------------------------------- */

static void node_configure(struct whole_node *node, const char *cluster)
{
    char reason[256];
    int error = machine_flags(&node->config, node->sim.id, cluster,
                              node->joins ? "existing" : "new", reason, sizeof(reason));
    sim_check(error == 0, "configuration: %s", reason);
}

struct whole_node *whole_node_add(struct whole *whole, const char *cluster)
{
    invariant(whole->node_count < WHOLE_NODES_MAX);
    struct whole_node *node = &whole->nodes[whole->node_count++];
    node->whole = whole;
    node->joins = whole->node_count > whole->config.nodes;
    node->disk = sim_disk_create(DISK_BYTES, whole->config.sector_bytes);
    whole_media_init(&node->media, node->disk);
    sim_node_init(&node->sim, &whole->world, node->disk);
    node->sim.cost_ns_max = whole->config.turn_ns_max;
    node->sim.drift_ppm = whole_disk_drift_ppm(whole);
    node->sim.on_fatal = node_ended;
    node_configure(node, cluster);
    sim_event_init(&node->boot, boot_event);
    sim_event_init(&node->watch, watch_event);
    whole_trap_init(node);
    if (whole->config.traps && prng_chance(whole_prng(whole, FAULTS), 1, 4))
        whole_trap_set(node, WHOLE_TRAP_WRITE);
    sim_event_schedule(&whole->world, &node->watch, whole->world.now_ns + WATCH_NS);
    whole_faults_node_added(whole, node);
    return node;
}

void whole_node_free(struct whole_node *node)
{
    sim_event_cancel(&node->whole->world, &node->boot);
    sim_event_cancel(&node->whole->world, &node->watch);
    whole_trap_clear(node);
    if (node->sim.running)
        sim_node_crash(&node->sim);
    sim_node_deinit(&node->sim);
    sim_disk_destroy(node->disk);
    whole_media_deinit(&node->media);
}
