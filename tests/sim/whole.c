/* One run of the whole-node simulator: what a seed draws, harm, healing, and the verdict. */
#include "tests/sim/whole.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "tests/sim/text.h"
#include "tests/sim/whole_raft.h"

#define HEAL_NS          (120 * NS_PER_S) /* in which everything must have ended well */
#define CALM_NS          (30 * NS_PER_S)
#define FAULT_NS_TABLES  (400 * NS_PER_MS)
#define SAFETY_NS_TABLES (8 * NS_PER_S)
#define OPERATOR_NS_MIN  (24 * NS_PER_S)

/* So many are plenty: seeds have up to 45,000 a second, and about 80 for each operation. */
#define EVENTS_PER_SECOND    100000
#define EVENTS_PER_OPERATION 1000

/* Of small stores: at most, at least, at least. */
#define THINK_NS_SMALL    (16 * NS_PER_MS)
#define VALUE_BYTES_SMALL 256
#define OUTAGE_NS_SMALL   (2 * NS_PER_S)

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
    config->crashes = config->traps = config->stalls = config->partitions = config->slow_cores =
        false;
    config->slow_paths = false;
    config->short_reads = config->buggify = config->pauses = config->compactions = false;
    config->small_stores = false;
    config->operator_ns = 0;
    config->rotting = 0;
    config->core_first = false;
    config->disk = (struct whole_disk_config){.slow = false};
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
    config->kills = prng_chance(&prng, 1, 2);
    config->traps = config->crashes && prng_chance(&prng, 3, 4);
    config->small_stores = prng_chance(&prng, 1, 3);
    config->pauses = prng_chance(&prng, 1, 3);
    if (prng_chance(&prng, 1, 2)) { /* changes take seconds: nodes must be connected for so long */
        config->operator_ns = 50 * NS_PER_MS << prng_below(&prng, 6);
        config->safety_ns = u64_max(config->safety_ns, OPERATOR_NS_MIN);
    }
    /* A majority of intact copies of everything, always: less than half of the nodes, the same ones
     * throughout, and no others may come and go. */
    if (config->crashes && config->operator_ns == 0 && prng_chance(&prng, 1, 2))
        config->rotting = (config->nodes - 1) / 2;
    config->core_first = config->operator_ns == 0 && prng_chance(&prng, 1, 2);
    whole_disk_draw(&config->disk, &prng);
    config->slow_paths = prng_chance(&prng, 1, 4);
    if (config->rotting > 0 &&
        config->disk.tables) { /* there must be some, and they must be read */
        config->small_stores = config->buggify = true;
        config->fault_mean_ns = u64_max(config->fault_mean_ns, FAULT_NS_TABLES);
        config->safety_ns = u64_max(config->safety_ns, SAFETY_NS_TABLES);
        config->core_first = false; /* who was away needs nobody else to be away */
    }
    if (config->small_stores) { /* filled all the same, and left behind by whoever is away */
        config->think_ns = u64_min(config->think_ns, THINK_NS_SMALL);
        config->value_bytes_max = (uint32_t)u64_max(config->value_bytes_max, VALUE_BYTES_SMALL);
        config->outage_ns_max = u64_max(config->outage_ns_max, OUTAGE_NS_SMALL);
    }
    if (options->calm != 0)
        config_calm(config, options->calm);
    if (options->nodes != 0)
        config->nodes = options->nodes;
    config->rotting = (uint32_t)u64_min(config->rotting, (config->nodes - 1) / 2);
}

void whole_config_print(const struct whole_config *config, FILE *out)
{
    fprintf(out,
            "nodes=%u cores=%u sector=%u safety=%.0fs clients=%u reads=%u%% txns=%u%% deletes=%u%% "
            "compactions=%d think=%.0fms timeout=%" PRIu64 "ms value=%u operator every %.0fms\n"
            "crashes=%d kills=%d traps=%d rotting=%u stalls=%d partitions=%d slow=%d pauses=%d "
            "faults every "
            "%.0fms up to %.0fms turn=%uns short-reads=%d buggify=%d small-stores=%d "
            "core-first=%d slow-paths=%d\n",
            config->nodes, config->cores, config->sector_bytes, (double)config->safety_ns / 1e9,
            config->clients, config->read_percent, config->txn_percent, config->delete_percent,
            config->compactions, (double)config->think_ns / 1e6, config->call_timeout_ms,
            config->value_bytes_max, (double)config->operator_ns / 1e6, config->crashes,
            config->kills, config->traps, config->rotting, config->stalls, config->partitions,
            config->slow_cores, config->pauses, (double)config->fault_mean_ns / 1e6,
            (double)config->outage_ns_max / 1e6, config->turn_ns_max, config->short_reads,
            config->buggify, config->small_stores, config->core_first, config->slow_paths);
    whole_disk_print(&config->disk, out);
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
    if (!whole->operator_ended)
        return false;
    for (uint32_t i = 0; i < whole->config.clients; i++)
        if (!whole->clients[i].ended)
            return false;
    return true;
}

/* Orderly: nothing stays open. */
static bool stop_node(struct whole *whole, struct whole_node *node, uint64_t limit_ns)
{
    bool going = true;
    sim_event_cancel(&whole->world, &node->boot);
    if (!node->sim.running)
        return true;
    node->stop_asked = true;
    node_request_stop(node->node);
    while (going && node->sim.running && node_state(node->node) != NODE_STOPPED &&
           node_state(node->node) != NODE_FAILED && whole->world.now_ns < limit_ns)
        going = step(whole);
    if (!node->sim.running)
        return going; /* its process ended, for what its disk did before */
    if (going && node_state(node->node) == NODE_STOPPED)
        whole_node_shut_down(node);
    else if (going && (node_state(node->node) != NODE_FAILED || whole_node_is_member(node)))
        verdict_set(&whole->verdict, SIM_LIVENESS, "node %u does not stop", node->sim.id);
    return going;
}

static void stop_nodes(struct whole *whole, uint64_t limit_ns)
{
    for (uint32_t i = 0; i < whole->node_count; i++)
        if (!stop_node(whole, &whole->nodes[i], limit_ns))
            return;
}

/* Those who only receive the log too. */
static bool members_caught_up(const struct whole *whole, uint64_t index)
{
    for (uint32_t i = 0; i < whole->node_count; i++)
        if (whole_node_is_member(&whole->nodes[i]) && !whole->nodes[i].kept_down &&
            whole->nodes[i].executed < index)
            return false;
    return true;
}

static void first_nodes(struct whole *whole)
{
    char cluster[WHOLE_NODES_MAX * 48] = "";
    size_t at = 0;
    for (uint32_t i = 1; i <= whole->config.nodes; i++)
        at += (size_t)snprintf(cluster + at, sizeof(cluster) - at, "%sn%u=http://10.0.0.%u:2380",
                               i > 1 ? "," : "", i, i);
    for (uint32_t i = 0; i < whole->config.nodes; i++)
        whole_node_boot(whole_node_add(whole, cluster));
}

/* What makes flushes, merges and snapshots frequent. */
static const char *const small_stores[] = {"node: memtables hold a few rows",
                                           "node: levels hold a few rows",
                                           "driver: no tail of the log", NULL};

static void whole_init(struct whole *whole, const struct raftsim_options *options)
{
    whole->options = options;
    whole_config_draw(&whole->config, options);
    sim_world_init(
        &whole->world,
        &(struct sim_options){.seed = options->seed,
                              .buggify = whole->config.buggify,
                              .buggify_often = whole->config.small_stores ? small_stores : NULL,
                              .log_to_stderr = options->log,
                              .short_reads = whole->config.short_reads});
    sim_world_enter(&whole->world);
    whole_store_init(whole);
    whole_raft_start(whole);
    first_nodes(whole);
    sim_node_init(&whole->machine, &whole->world, NULL);
    struct core_options machine = {.reactor = {.files_max = 256,
                                               .buffer_bytes = 8 * MIB,
                                               .recv_buffer_bytes = 16 * 1024,
                                               .recv_buffer_count = 16},
                                   .fibers_max = 64};
    sim_node_boot(&whole->machine, &machine, 1);
    whole_clients_start(whole);
    whole_operator_start(whole);
    whole_faults_start(whole);
}

static void whole_deinit(struct whole *whole)
{
    whole_faults_end(whole);
    for (uint32_t i = 0; i < whole->node_count; i++)
        whole_node_free(&whole->nodes[i]);
    whole_raft_end(whole);
    if (whole->machine.running)
        sim_node_crash(&whole->machine);
    sim_node_deinit(&whole->machine);
    whole_store_deinit(whole);
    sim_world_deinit(&whole->world);
}

static void blame(struct whole *whole, const char *what)
{
    char text[300] = "";
    size_t at = 0;
    for (uint32_t i = 0; i < whole->node_count && at < sizeof(text); i++) {
        const struct whole_node *node = &whole->nodes[i];
        if (!node->gone)
            at += (size_t)snprintf(text + at, sizeof(text) - at, " n%u %s%s %" PRIu64 "%s",
                                   node->sim.id, whole_node_is_member(node) ? "" : "no member ",
                                   node->sim.running ? "runs" : "is down", node->executed,
                                   node->sim.running && node_state(node->node) == NODE_FAILED
                                       ? node_failure(node->node)
                                       : "");
    }
    verdict_set(&whole->verdict, SIM_LIVENESS, "%s: committed %" PRIu64 ";%s", what,
                check_raft_committed(&whole->raft_check), text);
}

/* Everybody who is to run has, within a while, what is committed, and serves. */
static bool settle(struct whole *whole)
{
    uint64_t limit_ns = whole->world.now_ns + HEAL_NS;
    bool going = true;
    while (going && !clients_ended(whole) && whole->world.now_ns < limit_ns)
        going = step(whole);
    if (going && !clients_ended(whole))
        blame(whole, "clients do not end after healing");
    if (!going)
        return false;
    whole->verified = false;
    whole_verify_start(whole);
    going = step_until(whole, &whole->verified, limit_ns);
    uint64_t committed = check_raft_committed(&whole->raft_check);
    while (going && !members_caught_up(whole, committed) && whole->world.now_ns < limit_ns)
        going = step(whole);
    if (going && !whole->verified)
        blame(whole, "no write, or no read, after healing");
    else if (going && !members_caught_up(whole, committed))
        blame(whole, "not everybody caught up after healing");
    return going && whole->verdict.outcome == SIM_PASS;
}

/* Who stays down when the others are healed: as many as a majority can do without. Those whose logs
 * rot are among them, since an entry may be whole on one other node only. */
static void choose_core(struct whole *whole)
{
    uint32_t count = (whole->config.nodes - 1) / 2;
    uint32_t first = whole->config.rotting > 0
                         ? 0
                         : (uint32_t)prng_below(whole_prng(whole, FAULTS), whole->config.nodes);
    for (uint32_t i = 0; whole->config.core_first && i < count; i++)
        whole->nodes[(first + i) % whole->config.nodes].kept_down = true;
}

static void whole_phases(struct whole *whole)
{
    uint64_t end_ns = whole->world.now_ns + whole->config.safety_ns;
    bool going = true;
    while (going && whole->world.now_ns < end_ns)
        going = step(whole);
    if (!going)
        return;
    choose_core(whole);
    whole_heal(whole);
    going = settle(whole);
    for (uint32_t i = 0; going && i < whole->node_count; i++) {
        if (whole->nodes[i].kept_down)
            whole_node_boot(&whole->nodes[i]);
        whole->nodes[i].kept_down = false;
    }
    if (going && whole->config.core_first)
        going = settle(whole);
    if (going)
        stop_nodes(whole, whole->world.now_ns + HEAL_NS);
}

/* A core that takes turn after turn without anything to do is no harm to others here, and takes a
 * processor away elsewhere. */
static void check_idleness(struct whole *whole, uint64_t start_ns)
{
    uint64_t seconds = (whole->world.now_ns - start_ns) / NS_PER_S + 1;
    uint64_t operations = whole->store.history.operation_count;
    if (whole->world.events > EVENTS_PER_SECOND * seconds + EVENTS_PER_OPERATION * operations)
        verdict_set(&whole->verdict, SIM_LIVENESS,
                    "a core spins: %" PRIu64 " events in %" PRIu64 " s with %" PRIu64 " operations",
                    whole->world.events, seconds, operations);
}

void whole_run(const struct raftsim_options *options, struct raftsim_result *result)
{
    struct whole *whole = calloc(1, sizeof(*whole));
    invariant(whole != NULL);
    whole_init(whole, options);
    uint64_t start_ns = whole->world.now_ns;
    whole_phases(whole);
    check_idleness(whole, start_ns);
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
