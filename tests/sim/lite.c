/* One run of the consensus-only simulator: what a seed draws, and the two phases. */
#include "tests/sim/lite.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "tests/sim/memory.h"
#include "tests/sim/text.h"

#define CHUNK_BYTES   (64 * KIB)
#define EVENTS_MAX    3000000 /* a run that goes on for ever is a failure of its own */
#define PROGRESS_STEP 32      /* events between two looks at progress */

struct lite_chunk {
    struct lite_chunk *next;
    size_t used;
    uint8_t bytes[CHUNK_BYTES];
};

/* Payloads are immutable and live as long as the run. */
uint8_t *lite_payload(struct lite *lite, const void *bytes, size_t size)
{
    struct lite_chunk *chunk = lite->chunks;
    invariant(size <= CHUNK_BYTES);
    if (size == 0)
        return NULL;
    if (chunk == NULL || chunk->used + size > CHUNK_BYTES) {
        chunk = sim_alloc(sizeof(*chunk));
        chunk->next = lite->chunks;
        lite->chunks = chunk;
    }
    uint8_t *to = chunk->bytes + chunk->used;
    chunk->used += size;
    memcpy(to, bytes, size);
    return to;
}

uint64_t lite_spread(struct prng *prng, uint64_t mean)
{
    uint64_t value = prng_below(prng, 2 * mean + 1);
    return prng_chance(prng, 1, 50) ? value * (1 + prng_below(prng, 10)) : value;
}

void lite_text(struct lite *lite, const struct lite_node *node, const char *format, ...)
{
    if (!sim_text_wanted())
        return;
    char line[256];
    int at = 0;
    if (node == NULL)
        at = snprintf(line, sizeof(line), "%-36s", "");
    else if (!node->up)
        at = snprintf(line, sizeof(line), "n%-2u %-32s", node->id, "down");
    else
        at = snprintf(
            line, sizeof(line),
            "n%-2u %c t%-3" PRIu64 " i=%4" PRIu64 "/%4" PRIu64 "/%4" PRIu64 "/%4" PRIu64 "  ",
            node->id, "FPCL"[node->raft.role], node -> raft.term, node->raft.log.last_index,
            node->raft.log.durable_index, node->raft.log.committed_index, node->applied.index);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + at, sizeof(line) - (size_t)at, format, arguments);
    va_end(arguments);
    sim_text(&lite->world, line);
}

/* ---- what the seed draws -------------------------------------------------------------------- */

static void draw_raft(struct raft_options *raft, struct prng *prng)
{
    raft_options_default(raft);
    bool strict = !prng_chance(prng, 1, 4);
    raft->pre_vote = strict || prng_chance(prng, 1, 2);
    raft->check_quorum = strict || prng_chance(prng, 1, 2);
    raft->short_retry = prng_chance(prng, 3, 4);
    raft->single_voter_starts = prng_chance(prng, 3, 4);
    raft->early_vote = false;
    raft->step_down_on_removal = true;
    if (prng_chance(prng, 1, 4))
        raft->pause_ns_max = 0;
    if (raft->check_quorum && prng_chance(prng, 1, 4))
        raft->read_mode = RAFT_READ_LEASE;
    raft->window_entries = 8u << prng_below(prng, 6);
    raft->window_bytes_retained = prng_below(prng, 4000);
    raft->inflight_messages_max = 1 + (uint32_t)prng_below(prng, 12);
    raft->inflight_bytes_max = prng_chance(prng, 1, 2) ? 0 : 1 + prng_below(prng, 400);
    raft->message_bytes_max = 1 + prng_below(prng, 600);
    raft->message_entries_max = 1 + (uint32_t)prng_below(prng, 16);
    raft->apply_bytes_max = 1 + prng_below(prng, 1000);
    raft->uncommitted_bytes_max = 50 + prng_below(prng, 4000);
    raft->messages_max = 96 + (uint32_t)prng_below(prng, 64);
    raft->reads_max = 1 + (uint32_t)prng_below(prng, 32);
}

static void draw_faults(struct lite_config *config, struct prng *prng)
{
    static const uint8_t weights[LITE_FAULT_COUNT] = {20, 3, 8, 10, 8, 8, 6, 4, 8,
                                                      6,  4, 5, 8,  5, 4, 4, 4, 30};
    bool calm = prng_chance(prng, 1, 20);
    for (uint32_t i = 0; i < LITE_FAULT_COUNT; i++) {
        config->fault_weight[i] = weights[i];
        if (calm || prng_chance(prng, 2, 5))
            config->fault_weight[i] = 0;
        else if (prng_chance(prng, 1, 10))
            config->fault_weight[i] *= 20;
        config->fault_weight_sum += config->fault_weight[i];
    }
    config->fault_mean_ns = NS_PER_MS << prng_below(prng, 11);
    config->fault_mean_ns = u64_max(config->fault_mean_ns, 20 * NS_PER_MS);
    config->outage_ns_max = 50 * NS_PER_MS << prng_below(prng, 8);
}

static void draw_world(struct lite_config *config, struct prng *prng)
{
    config->fifo = prng_chance(prng, 1, 3);
    config->drop_per_mille = prng_chance(prng, 1, 3) ? 0 : (uint32_t)prng_below(prng, 200);
    config->double_per_mille = prng_chance(prng, 1, 3) ? 0 : (uint32_t)prng_below(prng, 100);
    config->delay_ns = 20 * NS_PER_US << prng_below(prng, 9);
    config->jitter_ns = prng_below(prng, 1 + (config->delay_ns << prng_below(prng, 5)));
    config->jitter_ns = u64_min(config->jitter_ns, 40 * NS_PER_MS);
    config->tail_ns = NS_PER_MS << prng_below(prng, 12);
    config->disk_ns = NS_PER_US << prng_below(prng, 14);
    config->disk_jitter_ns = config->disk_ns << prng_below(prng, 3);
    config->disk_tail_ns = NS_PER_MS << prng_below(prng, 10);
    config->slow_factor = 50;
    config->apply_ns = NS_PER_US << prng_below(prng, 15);
    config->apply_entries_max = 1 + (uint32_t)prng_below(prng, 64);
    config->flush_per_mille = (uint32_t)prng_below(prng, 200);
    config->retain_entries = prng_below(prng, 1u << prng_below(prng, 8));
    config->snapshot_hesitates = prng_chance(prng, 1, 4);
    config->turn_ns_max = NS_PER_US << prng_below(prng, 10);
    config->stall_per_mille = prng_chance(prng, 1, 2) ? 0 : (uint32_t)prng_below(prng, 20);
    config->stall_ns_max = 45 * NS_PER_MS;
}

static void draw_clients(struct lite_config *config, struct prng *prng)
{
    config->clients = 1 + (uint32_t)prng_below(prng, LITE_CLIENTS_MAX);
    config->think_ns = NS_PER_MS << prng_below(prng, 9);
    config->client_timeout_ns = (200 + prng_below(prng, 3000)) * NS_PER_MS;
    config->read_percent = (uint32_t)prng_below(prng, 80);
    config->empty_per_mille = prng_chance(prng, 1, 2) ? 0 : (uint32_t)prng_below(prng, 200);
    config->to_leader = prng_chance(prng, 3, 4);
}

static void weigh(struct lite_config *config, enum lite_fault fault, uint32_t weight)
{
    config->fault_weight_sum += weight - config->fault_weight[fault];
    config->fault_weight[fault] = weight;
}

static void draw_busy_clients(struct lite_config *config, struct prng *prng)
{
    config->clients = 4 + (uint32_t)prng_below(prng, LITE_CLIENTS_MAX - 3);
    config->think_ns = NS_PER_MS << prng_below(prng, 4);
}

/* Situations that independent draws seldom make together. */
static void draw_shape(struct lite_config *config, struct prng *prng)
{
    switch (prng_below(prng, 8)) {
    case 0: /* applying lags: snapshots overtake it */
        config->apply_ns = 50 * NS_PER_MS;
        config->apply_entries_max = 1;
        config->retain_entries = prng_below(prng, 4);
        config->flush_per_mille = 500;
        break;
    case 3: /* on one node alone, which has changes of members still to apply */
        config->lazy_node = 1 + (uint32_t)prng_below(prng, config->voters);
        config->apply_ns = NS_PER_MS;
        config->apply_entries_max = 4;
        config->retain_entries = prng_below(prng, 4);
        config->flush_per_mille = 500;
        config->raft.window_entries = 256;
        config->raft.uncommitted_bytes_max = 100000;
        config->safety_ns = 16 * NS_PER_S;
        config->fault_mean_ns = 100 * NS_PER_MS;
        config->drop_per_mille = 0;
        draw_busy_clients(config, prng);
        config->client_timeout_ns = 300 * NS_PER_MS;
        config->read_percent /= 4;
        config->to_leader = true;
        for (uint32_t i = 0; i < LITE_FAULT_COUNT; i++)
            weigh(config, i, config->fault_weight[i] / 16);
        weigh(config, LITE_FAULT_ISOLATE, 20);
        weigh(config, LITE_FAULT_MEMBERS, 40);
        break;
    case 1: /* one or two voters, who are replaced all the time */
        config->voters = config->voters_most = 2;
        config->safety_ns = 16 * NS_PER_S;
        for (uint32_t i = 0; i < LITE_FAULT_COUNT; i++)
            weigh(config, i, config->fault_weight[i] / 4);
        config->shrinks = true;
        config->drop_per_mille += (uint32_t)prng_below(prng, 200);
        draw_busy_clients(config, prng);
        config->fault_mean_ns = 100 * NS_PER_MS;
        weigh(config, LITE_FAULT_MEMBERS, 100);
        break;
    case 2: /* a disk slower than elections, and leaders whom its node alone hears: tails are
             * replaced, and back, while they are being written */
        config->voters = 5;
        config->drop_per_mille /= 4;
        config->retain_entries = 1000;
        config->safety_ns = 16 * NS_PER_S;
        config->fault_mean_ns = NS_PER_S;
        for (uint32_t i = 0; i < LITE_FAULT_COUNT; i++)
            weigh(config, i, i == LITE_FAULT_CRASH || i == LITE_FAULT_CLOG ? 1 : 0);
        config->slow_node = 1 + (uint32_t)prng_below(prng, 5);
        config->slow_factor = 400;
        config->disk_ns = (1 + prng_below(prng, 5)) * NS_PER_MS;
        config->disk_jitter_ns = config->disk_ns;
        config->cut_off_percent = 20 + (uint32_t)prng_below(prng, 75);
        break;
    case 4: /* reads by lease, while leaders are asked to hand over and told not to */
        config->raft.check_quorum = true;
        config->raft.read_mode = RAFT_READ_LEASE;
        config->drift_ppm_max = u64_min(config->drift_ppm_max, 20000);
        config->read_percent = 50 + (uint32_t)prng_below(prng, 40);
        config->to_leader = false;
        draw_busy_clients(config, prng);
        weigh(config, LITE_FAULT_CLOCK_JUMP, 0);
        weigh(config, LITE_FAULT_TRANSFER, 40);
        break;
    default: /* as drawn */
        break;
    }
}

const char *lite_harm_name(uint32_t harm)
{
    static const char *const names[LITE_HARM_COUNT] = {
        "crash",    "power-loss", "pause",     "isolate",       "split",    "one-way-cut",
        "bridge",   "pair",       "clog",      "slow-disk",     "jump",     "unreachable",
        "transfer", "campaign",   "step-down", "forget-leader", "restrict", "members",
        "drop",     "double",     "delay",     "disk",          "doom",     "lazy",
        "cut-off",  "hesitate",   "stall",     "drift",         "rot"};
    return harm < LITE_HARM_COUNT ? names[harm] : NULL;
}

/* Faults are drawn all the same and not done: what precedes the first of them stays as it was. */
static void spare(struct lite_config *config, uint64_t spared)
{
    bool is[LITE_HARM_COUNT];
    for (uint32_t i = 0; i < LITE_HARM_COUNT; i++)
        is[i] = (spared >> i & 1) != 0;
    if (is[LITE_HARM_DROP])
        config->drop_per_mille = 0;
    if (is[LITE_HARM_DOUBLE])
        config->double_per_mille = 0;
    if (is[LITE_HARM_DELAY])
        config->jitter_ns = config->tail_ns = 0;
    if (is[LITE_HARM_DISK])
        config->disk_jitter_ns = config->disk_tail_ns = config->slow_node = 0;
    if (is[LITE_HARM_DOOM])
        config->doom_percent = 0;
    if (is[LITE_HARM_LAZY])
        config->lazy_node = 0;
    if (is[LITE_HARM_CUT_OFF])
        config->cut_off_percent = 0;
    if (is[LITE_HARM_HESITATE])
        config->snapshot_hesitates = false;
    if (is[LITE_HARM_STALL])
        config->stall_per_mille = 0;
    if (is[LITE_HARM_DRIFT])
        config->drift_ppm_max = 0;
    if (is[LITE_HARM_ROT])
        config->rot_percent = 0;
}

void lite_config_draw(struct lite_config *config, const struct raftsim_options *options)
{
    static const uint8_t voters[] = {1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7};
    struct prng prng;
    memset(config, 0, sizeof(*config));
    prng_init(&prng, sim_seed_split(options->seed, "swarm"));
    config->seed = options->seed;
    config->voters = voters[prng_below(&prng, ARRAY_COUNT(voters))];
    draw_raft(&config->raft, &prng);
    draw_faults(config, &prng);
    draw_world(config, &prng);
    draw_clients(config, &prng);
    config->safety_ns = NS_PER_S << prng_below(&prng, 6);
    config->voters_most = 7;
    config->drift_ppm_max = prng_chance(&prng, 1, 2) ? 100 : 20000;
    if (config->raft.read_mode == RAFT_READ_LEASE) {
        config->fault_weight_sum -= config->fault_weight[LITE_FAULT_CLOCK_JUMP];
        config->fault_weight[LITE_FAULT_CLOCK_JUMP] = 0; /* leases need clocks with bounded rates */
    } else if (prng_chance(&prng, 1, 10)) {
        config->drift_ppm_max = 300000; /* nothing but speed depends on clocks */
    }
    draw_shape(config, &prng);
    if (prng_chance(&prng, 1, 2))
        config->doom_percent = 10 + (uint32_t)prng_below(&prng, 91);
    /* Without pre-votes a candidate that cannot win restarts the timers of those who could: they
     * go first now and then only while their clocks have about the same rate. */
    if (!config->raft.pre_vote)
        config->drift_ppm_max = u64_min(config->drift_ppm_max, 20000);
    prng_init(&prng, sim_seed_split(options->seed, "rot"));
    if (prng_chance(&prng, 1, 6))
        config->rot_percent = 10 + (uint32_t)prng_below(&prng, 80);
    if (config->rot_percent > 0 && prng_chance(&prng, 1, 2))
        config->tear_per_mille = 2 + (uint32_t)prng_below(&prng, 60);
    if (options->nodes != 0)
        config->voters = options->nodes;
    spare(config, options->spared);
}

void lite_config_print(const struct lite_config *config, FILE *out)
{
    const struct raft_options *raft = &config->raft;
    fprintf(out,
            "voters=%u safety=%.0fs pre-vote=%d check-quorum=%d short-retry=%d reads=%s pause=%d "
            "window=%u retained=%" PRIu64 " inflight=%u/%" PRIu64 " message=%u/%" PRIu64
            " apply=%" PRIu64 " uncommitted=%" PRIu64 " messages=%u reads-max=%u\n",
            config->voters, (double)config->safety_ns / 1e9, raft->pre_vote, raft->check_quorum,
            raft->short_retry, raft->read_mode == RAFT_READ_LEASE ? "lease" : "safe",
            raft->pause_ns_max != 0, raft->window_entries, raft->window_bytes_retained,
            raft->inflight_messages_max, raft->inflight_bytes_max, raft->message_entries_max,
            raft->message_bytes_max, raft->apply_bytes_max, raft->uncommitted_bytes_max,
            raft->messages_max, raft->reads_max);
    fprintf(out,
            "fifo=%d drop=%u/1000 double=%u/1000 delay=%.3fms jitter=%.3fms tail=%.0fms "
            "disk=%.3fms+%.3fms apply=%.3fms/%u flush=%u/1000 retain=%" PRIu64
            " hesitates=%d turn=%.3fms stall=%u/1000 drift=%" PRIu64
            "ppm slow-disk=x%u slow-node=%u doom=%u%% lazy-node=%u cut-off=%u%% voters-most=%u "
            "shrinks=%d rot=%u%% torn=%u/1000\n",
            config->fifo, config->drop_per_mille, config->double_per_mille,
            (double)config->delay_ns / 1e6, (double)config->jitter_ns / 1e6,
            (double)config->tail_ns / 1e6, (double)config->disk_ns / 1e6,
            (double)config->disk_jitter_ns / 1e6, (double)config->apply_ns / 1e6,
            config->apply_entries_max, config->flush_per_mille, config->retain_entries,
            config->snapshot_hesitates, (double)config->turn_ns_max / 1e6, config->stall_per_mille,
            config->drift_ppm_max, config->slow_factor, config->slow_node, config->doom_percent,
            config->lazy_node, config->cut_off_percent, config->voters_most, config->shrinks,
            config->rot_percent, config->tear_per_mille);
    fprintf(out,
            "clients=%u think=%.0fms timeout=%.0fms reads=%u%% to-leader=%d faults every %.0fms, "
            "up to %.0fms, weights",
            config->clients, (double)config->think_ns / 1e6,
            (double)config->client_timeout_ns / 1e6, config->read_percent, config->to_leader,
            (double)config->fault_mean_ns / 1e6, (double)config->outage_ns_max / 1e6);
    for (uint32_t i = 0; i < LITE_FAULT_COUNT; i++)
        fprintf(out, " %u", config->fault_weight[i]);
    fputc('\n', out);
}

/* ---- the run -------------------------------------------------------------------------------- */

static bool disk_has(void *context, uint64_t node, uint64_t index, uint64_t term)
{
    const struct lite *lite = context;
    return lite_disk_holds(&lite->nodes[node]->disk, index, term);
}

static void lite_init(struct lite *lite, const struct raftsim_options *options)
{
    lite->options = options;
    lite_config_draw(&lite->config, options);
    sim_world_init(&lite->world, &(struct sim_options){.seed = options->seed, .buggify = true});
    sim_world_enter(&lite->world);
    check_raft_init(&lite->raft_check, &lite->verdict, disk_has, lite);
    check_history_init(&lite->history, &lite->verdict, 0);
    struct raft_config genesis = {0};
    for (uint32_t i = 0; i < lite->config.voters; i++)
        genesis.voters.ids[genesis.voters.count++] = i + 1;
    check_raft_genesis(&lite->raft_check, 1, 1, &genesis);
    for (uint32_t i = 0; i < lite->config.voters; i++)
        lite_node_add(lite, &genesis);
    lite_clients_start(lite);
    lite_faults_start(lite);
}

static void lite_deinit(struct lite *lite)
{
    for (uint32_t i = 0; i < LITE_CLIENTS_MAX; i++)
        if (lite->clients[i].lite != NULL)
            sim_event_cancel(&lite->world, &lite->clients[i].event);
    sim_event_cancel(&lite->world, &lite->fault);
    for (uint32_t id = 1; id <= lite->node_count; id++) {
        sim_event_cancel(&lite->world, &lite->nodes[id]->boot);
        if (lite->nodes[id]->up)
            lite_node_crash(lite->nodes[id]);
    }
    while (lite->world.heap_count > 0) { /* what is left is on its way somewhere */
        struct sim_event *event = lite->world.heap[0].event;
        sim_event_cancel(&lite->world, event);
        lite_item_free(container_of(event, struct lite_item, event));
    }
    invariant(lite->items_alive == 0);
    for (uint32_t id = 1; id <= lite->node_count; id++)
        lite_node_free(lite->nodes[id]);
    while (lite->free_items != NULL) {
        struct lite_item *item = lite->free_items;
        lite->free_items = item->next;
        free(item->entries);
        free(item);
    }
    while (lite->free_appends != NULL) {
        struct lite_append *append = lite->free_appends;
        lite->free_appends = append->next;
        free(append->entries);
        free(append);
    }
    while (lite->chunks != NULL) {
        struct lite_chunk *chunk = lite->chunks;
        lite->chunks = chunk->next;
        free(chunk);
    }
    check_raft_deinit(&lite->raft_check);
    check_history_deinit(&lite->history);
    sim_world_deinit(&lite->world);
}

static bool lite_step(struct lite *lite)
{
    if (lite->options->until != 0 && lite->world.events >= lite->options->until)
        return false;
    if (lite->world.events >= EVENTS_MAX)
        verdict_set(&lite->verdict, SIM_LIVENESS, "%u events and no end", EVENTS_MAX);
    return lite->verdict.outcome == SIM_PASS && sim_world_step(&lite->world);
}

void lite_run(const struct raftsim_options *options, struct raftsim_result *result)
{
    struct lite *lite = calloc(1, sizeof(*lite));
    invariant(lite != NULL);
    lite_init(lite, options);
    uint64_t start_ns = lite->world.now_ns;
    bool going = true;
    while (going && lite->world.now_ns - start_ns < lite->config.safety_ns)
        going = lite_step(lite);
    if (going && lite->verdict.outcome == SIM_PASS) {
        lite_heal(lite);
        uint64_t limit_ns =
            lite->heal_ns + LITE_HEAL_TIMEOUTS * lite->config.raft.election_timeout_ns;
        bool progressed = false;
        while (going && !progressed && lite->world.now_ns < limit_ns) {
            for (uint32_t i = 0; going && i < PROGRESS_STEP; i++)
                going = lite_step(lite);
            progressed = lite_progressed(lite);
        }
        if (going && !progressed && !lite->disturbed && lite->verdict.outcome == SIM_PASS)
            lite_blame(lite);
    }
    *result = (struct raftsim_result){
        .verdict = lite->verdict,
        .hash = lite->world.trace_hash,
        .events = lite->world.events,
        .simulated_ns = lite->world.now_ns - start_ns,
        .operations = lite->history.returned,
        .commits = check_raft_committed(&lite->raft_check),
        .leaderships = lite->leaderships,
        .crashes = lite->crashes,
    };
    sim_text_freeze();
    lite_deinit(lite);
    free(lite);
}
