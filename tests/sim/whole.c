/* One run of the whole-node simulator: what a seed draws, harm, healing, and the verdict. */
#include "tests/sim/whole.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "tests/sim/memory.h"
#include "tests/sim/network.h"
#include "tests/sim/reactor_sim.h"
#include "tests/sim/text.h"
#include "tests/sim/whole_raft.h"

#define DISK_BYTES      (4 * GIB)
#define MACHINE_BYTES   (512 * MIB)
#define WATCH_NS        (100 * NS_PER_MS)
#define HEAL_NS         (120 * NS_PER_S) /* in which everything must have ended well */
#define CALM_NS         (30 * NS_PER_S)
#define SLOW_TURN_NS    (2 * NS_PER_MS)
#define NODE_FIBERS_MAX 512

void whole_text(struct whole *whole, uint32_t node, const char *format, ...)
{
    if (!sim_text_wanted())
        return;
    char line[256];
    int at = node == 0 ? snprintf(line, sizeof(line), "      ")
                       : snprintf(line, sizeof(line), "n%-4u ", node);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + at, sizeof(line) - (size_t)at, format, arguments);
    va_end(arguments);
    sim_text(&whole->world, line);
}

/* ---- what the seed draws -------------------------------------------------------------------- */

/* Nothing goes wrong: one fixed load, to compare the speed of simulators by. */
static void config_calm(struct whole_config *config, uint64_t calls_per_second)
{
    config->nodes = 3;
    config->cores = 4;
    config->safety_ns = CALM_NS;
    config->clients = WHOLE_CLIENTS_MAX;
    config->read_percent = 50;
    config->think_ns = WHOLE_CLIENTS_MAX * NS_PER_S / calls_per_second;
    config->call_timeout_ms = 5000;
    config->value_bytes_max = 128;
    config->turn_ns_max = 8000;
    config->crashes = config->stalls = config->partitions = config->slow_cores = false;
    config->short_reads = config->buggify = false;
}

void whole_config_draw(struct whole_config *config, const struct raftsim_options *options)
{
    static const uint8_t nodes[] = {1, 3, 3, 3, 3, 5};
    struct prng prng;
    memset(config, 0, sizeof(*config));
    prng_init(&prng, sim_seed_split(options->seed, "swarm"));
    config->seed = options->seed;
    config->nodes = nodes[prng_below(&prng, ARRAY_COUNT(nodes))];
    config->cores = 1 + (uint32_t)prng_below(&prng, 4);
    config->sector_bytes = prng_chance(&prng, 1, 2) ? 512 : 4096;
    config->safety_ns = NS_PER_S << prng_below(&prng, 5);
    config->clients = 1 + (uint32_t)prng_below(&prng, WHOLE_CLIENTS_MAX);
    config->read_percent = (uint32_t)prng_below(&prng, 80);
    config->txn_percent = (uint32_t)prng_below(&prng, 40);
    config->delete_percent = (uint32_t)prng_below(&prng, 30);
    config->compactions = prng_chance(&prng, 1, 2);
    config->think_ns = NS_PER_MS << prng_below(&prng, 9);
    config->call_timeout_ms = 300 + prng_below(&prng, 5000);
    config->value_bytes_max = 1u << prng_below(&prng, 13);
    config->crashes = prng_chance(&prng, 4, 5);
    config->stalls = prng_chance(&prng, 1, 2);
    config->slow_cores = prng_chance(&prng, 1, 4);
    config->fault_mean_ns = 50 * NS_PER_MS << prng_below(&prng, 6);
    config->outage_ns_max = 10 * NS_PER_MS << prng_below(&prng, 9);
    config->turn_ns_max = 2000u << prng_below(&prng, 6);
    config->short_reads = prng_chance(&prng, 1, 4);
    config->buggify = prng_chance(&prng, 3, 4);
    config->partitions = prng_chance(&prng, 3, 4);
    if (options->calm != 0)
        config_calm(config, options->calm);
    if (options->nodes != 0)
        config->nodes = options->nodes;
}

void whole_config_print(const struct whole_config *config, FILE *out)
{
    fprintf(out,
            "nodes=%u cores=%u sector=%u safety=%.0fs clients=%u reads=%u%% txns=%u%% deletes=%u%% "
            "compactions=%d think=%.0fms "
            "timeout=%" PRIu64
            "ms value=%u crashes=%d stalls=%d partitions=%d slow=%d faults every %.0fms up to "
            "%.0fms turn=%uns short-reads=%d buggify=%d\n",
            config->nodes, config->cores, config->sector_bytes, (double)config->safety_ns / 1e9,
            config->clients, config->read_percent, config->txn_percent, config->delete_percent,
            config->compactions, (double)config->think_ns / 1e6, config->call_timeout_ms,
            config->value_bytes_max, config->crashes, config->stalls, config->partitions,
            config->slow_cores, (double)config->fault_mean_ns / 1e6,
            (double)config->outage_ns_max / 1e6, config->turn_ns_max, config->short_reads,
            config->buggify);
}

/* ---- nodes ---------------------------------------------------------------------------------- */

static void node_boot(struct whole_node *node)
{
    struct whole *whole = node->whole;
    struct core_options options = {.reactor = {.files_max = 4096,
                                               .buffer_bytes = 8 * MIB,
                                               .recv_buffer_bytes = 16 * 1024,
                                               .recv_buffer_count = 16},
                                   .fibers_max = NODE_FIBERS_MAX};
    whole_text(whole, node->sim.id, "! boots");
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

static void node_boot_event(struct sim_event *event)
{
    node_boot(container_of(event, struct whole_node, boot));
}

/* A node that gives up at its start: nothing that is done to it here allows that. */
static void node_watch(struct sim_event *event)
{
    struct whole_node *node = container_of(event, struct whole_node, watch);
    struct whole *whole = node->whole;
    if (node->sim.running && node_state(node->node) == NODE_FAILED)
        verdict_set(&whole->verdict, SIM_SAFETY, "node %u does not start: %s", node->sim.id,
                    node_failure(node->node));
    sim_event_schedule(&whole->world, event, whole->world.now_ns + WATCH_NS);
}

static void node_crash(struct whole_node *node)
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

/* What raftd is told on its command line. */
static void node_configure(struct whole_node *node)
{
    char client[64], peer[64], name[16], cluster[WHOLE_NODES_MAX * 48] = "", reason[256];
    uint32_t id = node->sim.id;
    snprintf(client, sizeof(client), "http://10.0.0.%u:2379", id);
    snprintf(peer, sizeof(peer), "http://10.0.0.%u:2380", id);
    snprintf(name, sizeof(name), "n%u", id);
    for (uint32_t i = 1, at = 0; i <= node->whole->config.nodes; i++)
        at += (uint32_t)snprintf(cluster + at, sizeof(cluster) - at, "%sn%u=http://10.0.0.%u:2380",
                                 i > 1 ? "," : "", i, i);
    char *arguments[] = {"--name",
                         name,
                         "--data-dir",
                         "/data",
                         "--listen-client-urls",
                         client,
                         "--advertise-client-urls",
                         client,
                         "--listen-peer-urls",
                         peer,
                         "--initial-advertise-peer-urls",
                         peer,
                         "--initial-cluster",
                         cluster,
                         "--memory-limit",
                         "64MiB"};
    int error =
        config_load(&node->config, ARRAY_COUNT(arguments), arguments, NULL, reason, sizeof(reason));
    sim_check(error == 0, "configuration: %s", reason);
}

static void node_init(struct whole *whole)
{
    struct whole_node *node = &whole->nodes[whole->node_count++];
    node->whole = whole;
    node->disk = sim_disk_create(DISK_BYTES, whole->config.sector_bytes);
    whole_media_init(&node->media, node->disk);
    sim_node_init(&node->sim, &whole->world, node->disk);
    node->sim.cost_ns_max = whole->config.turn_ns_max;
    node_configure(node);
    sim_event_init(&node->boot, node_boot_event);
    sim_event_init(&node->watch, node_watch);
    sim_event_schedule(&whole->world, &node->watch, whole->world.now_ns + WATCH_NS);
    node_boot(node);
}

/* ---- harm ----------------------------------------------------------------------------------- */

static void crash_for_a_while(struct whole_node *node)
{
    struct whole *whole = node->whole;
    if (!node->sim.running)
        return;
    node_crash(node);
    sim_event_schedule(&whole->world, &node->boot,
                       whole->world.now_ns +
                           prng_below(whole_prng(whole, FAULTS), whole->config.outage_ns_max + 1));
}

/* Nothing passes between machines `a` and `b`, or only one way, until then. */
static void stall(struct whole *whole, uint32_t a, uint32_t b, uint64_t until_ns)
{
    uint64_t ways = 1 + prng_below(whole_prng(whole, FAULTS), 3);
    if (ways & 1)
        sim_network_block(&whole->world, a, b, until_ns);
    if (ways & 2)
        sim_network_block(&whole->world, b, a, until_ns);
}

/* A random part of the nodes hears nothing of the rest. */
static void partition(struct whole *whole, uint64_t until_ns)
{
    uint64_t side = prng_next(whole_prng(whole, FAULTS));
    whole_text(whole, 0, "* partition");
    for (uint32_t a = 0; a < whole->config.nodes; a++)
        for (uint32_t b = 0; b < whole->config.nodes; b++)
            if ((side >> a & 1) < (side >> b & 1))
                stall(whole, whole->nodes[a].sim.id, whole->nodes[b].sim.id, until_ns);
}

static void slow_or_not(struct whole_node *node)
{
    bool slow = prng_chance(whole_prng(node->whole, FAULTS), 1, 2);
    whole_text(node->whole, node->sim.id, slow ? "* slow cores" : "* cores as before");
    node->sim.cost_ns_max = slow ? SLOW_TURN_NS : node->whole->config.turn_ns_max;
}

static void do_harm(struct whole *whole)
{
    struct prng *prng = whole_prng(whole, FAULTS);
    const struct whole_config *config = &whole->config;
    struct whole_node *node = &whole->nodes[prng_below(prng, config->nodes)];
    uint64_t until_ns = whole->world.now_ns + prng_below(prng, config->outage_ns_max + 1);
    uint64_t draw = prng_below(prng, 20);
    if (draw < 8 && config->crashes)
        crash_for_a_while(node);
    else if (draw < 9 && config->crashes)
        for (uint32_t i = 0; i < config->nodes; i++)
            crash_for_a_while(&whole->nodes[i]);
    else if (draw < 13 && config->stalls)
        stall(whole, whole->machine.id, node->sim.id, until_ns);
    else if (draw < 17 && config->partitions && config->nodes > 1)
        partition(whole, until_ns);
    else if (draw < 20 && config->slow_cores)
        slow_or_not(node);
}

static void fault_event(struct sim_event *event)
{
    struct whole *whole = container_of(event, struct whole, fault);
    do_harm(whole);
    sim_event_schedule(&whole->world, event,
                       whole->world.now_ns + prng_below(whole_prng(whole, FAULTS),
                                                        2 * whole->config.fault_mean_ns + 1));
}

static void heal(struct whole *whole)
{
    whole->healed = true;
    sim_event_cancel(&whole->world, &whole->fault);
    whole_text(whole, 0, "* healing");
    for (uint32_t i = 0; i < whole->config.nodes; i++) {
        struct whole_node *node = &whole->nodes[i];
        node->sim.cost_ns_max = whole->config.turn_ns_max;
        for (uint32_t other = 1; other <= whole->machine.id; other++) {
            sim_network_block(&whole->world, other, node->sim.id, 0);
            sim_network_block(&whole->world, node->sim.id, other, 0);
        }
        sim_event_cancel(&whole->world, &node->boot);
        if (whole->config.crashes)
            node_crash(node); /* what it acknowledged must be there after one more */
        if (!node->sim.running)
            node_boot(node);
    }
    whole->load_ended = true;
}

/* ---- the run -------------------------------------------------------------------------------- */

static bool step(struct whole *whole)
{
    if (whole->options->until != 0 && whole->world.events >= whole->options->until)
        return false;
    return whole->verdict.outcome == SIM_PASS && sim_world_step(&whole->world);
}

static bool step_until(struct whole *whole, const bool *flag, uint64_t limit_ns)
{
    bool going = true;
    while (going && !*flag && whole->world.now_ns < limit_ns)
        going = step(whole);
    return going;
}

static bool clients_ended(const struct whole *whole)
{
    for (uint32_t i = 0; i < whole->config.clients; i++)
        if (!whole->clients[i].ended)
            return false;
    return true;
}

/* Orderly: nothing stays open. */
static void stop_nodes(struct whole *whole, uint64_t limit_ns)
{
    bool going = true;
    for (uint32_t i = 0; i < whole->config.nodes; i++) {
        struct whole_node *node = &whole->nodes[i];
        node_request_stop(node->node);
        while (going && node_state(node->node) != NODE_STOPPED && whole->world.now_ns < limit_ns)
            going = step(whole);
        if (!going)
            return;
        if (node_state(node->node) != NODE_STOPPED) {
            verdict_set(&whole->verdict, SIM_LIVENESS, "node %u does not stop", node->sim.id);
            return;
        }
        for (uint32_t fd = 0; fd < node->sim.descriptor_count; fd++)
            if (node->sim.descriptors[fd].kind != SIM_FD_FREE)
                verdict_set(&whole->verdict, SIM_SAFETY, "node %u stops with descriptor %u open",
                            node->sim.id, fd);
        whole_raft_node_down(node);
        sim_enter(&node->sim, 0);
        node_destroy(node->node);
        sim_leave(&node->sim);
        sim_node_shutdown(&node->sim);
    }
}

static void whole_init(struct whole *whole, const struct raftsim_options *options)
{
    whole->options = options;
    whole_config_draw(&whole->config, options);
    sim_world_init(&whole->world, &(struct sim_options){.seed = options->seed,
                                                        .buggify = whole->config.buggify,
                                                        .log_to_stderr = options->log,
                                                        .short_reads = whole->config.short_reads});
    sim_world_enter(&whole->world);
    whole_store_init(whole);
    whole_raft_start(whole);
    for (uint32_t i = 0; i < whole->config.nodes; i++)
        node_init(whole);
    sim_node_init(&whole->machine, &whole->world, NULL);
    struct core_options machine = {.reactor = {.files_max = 256,
                                               .buffer_bytes = 8 * MIB,
                                               .recv_buffer_bytes = 16 * 1024,
                                               .recv_buffer_count = 16},
                                   .fibers_max = 64};
    sim_node_boot(&whole->machine, &machine, 1);
    whole_clients_start(whole);
    sim_event_init(&whole->fault, fault_event);
    sim_event_schedule(&whole->world, &whole->fault,
                       whole->world.now_ns + whole->config.fault_mean_ns);
}

static void whole_deinit(struct whole *whole)
{
    sim_event_cancel(&whole->world, &whole->fault);
    for (uint32_t i = 0; i < whole->config.nodes; i++) {
        struct whole_node *node = &whole->nodes[i];
        sim_event_cancel(&whole->world, &node->boot);
        sim_event_cancel(&whole->world, &node->watch);
        if (node->sim.running)
            sim_node_crash(&node->sim);
        sim_node_deinit(&node->sim);
        sim_disk_destroy(node->disk);
        whole_media_deinit(&node->media);
    }
    whole_raft_end(whole);
    if (whole->machine.running)
        sim_node_crash(&whole->machine);
    sim_node_deinit(&whole->machine);
    whole_store_deinit(whole);
    sim_world_deinit(&whole->world);
}

static void blame(struct whole *whole)
{
    char text[256] = "";
    size_t at = 0;
    for (uint32_t i = 0; i < whole->config.nodes && at < sizeof(text); i++) {
        const struct whole_node *node = &whole->nodes[i];
        at += (size_t)snprintf(text + at, sizeof(text) - at, " n%u %d %s", node->sim.id,
                               node->sim.running ? (int)node_state(node->node) : -1,
                               node->sim.running ? node_failure(node->node) : "down");
    }
    verdict_set(&whole->verdict, SIM_LIVENESS, "the store cannot be read after healing:%s", text);
}

static void whole_phases(struct whole *whole)
{
    uint64_t end_ns = whole->world.now_ns + whole->config.safety_ns;
    bool going = true;
    while (going && whole->world.now_ns < end_ns)
        going = step(whole);
    if (!going)
        return;
    heal(whole);
    uint64_t limit_ns = whole->world.now_ns + HEAL_NS;
    while (going && !clients_ended(whole) && whole->world.now_ns < limit_ns)
        going = step(whole);
    if (!going)
        return;
    if (!clients_ended(whole)) {
        verdict_set(&whole->verdict, SIM_LIVENESS, "clients do not end after healing");
        return;
    }
    whole_verify_start(whole);
    going = step_until(whole, &whole->verified, limit_ns);
    if (going && !whole->verified)
        blame(whole);
    if (going && whole->verified)
        stop_nodes(whole, whole->world.now_ns + HEAL_NS);
}

void whole_run(const struct raftsim_options *options, struct raftsim_result *result)
{
    struct whole *whole = calloc(1, sizeof(*whole));
    invariant(whole != NULL);
    whole_init(whole, options);
    uint64_t start_ns = whole->world.now_ns;
    whole_phases(whole);
    *result = (struct raftsim_result){.verdict = whole->verdict,
                                      .hash = whole->world.trace_hash,
                                      .events = whole->world.events,
                                      .simulated_ns = whole->world.now_ns - start_ns,
                                      .operations = whole->store.history.operation_count,
                                      .commits = check_raft_committed(&whole->raft_check),
                                      .leaderships = whole->leaderships,
                                      .crashes = whole->crashes};
    sim_text_freeze();
    whole_deinit(whole);
    free(whole);
}
