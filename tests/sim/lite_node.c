/* Nodes of the consensus-only simulator: a core's turn around the Raft state machine. */
#include "tests/sim/lite.h"

#include <inttypes.h>
#include <stdlib.h>
#include <xxhash.h>

#include "consensus/config_change.h"
#include "core/invariant.h"
#include "tests/sim/memory.h"

#define MEMORY_POISON    0xb5
#define HELD_CHECK_TURNS 64

void lite_observe(struct lite_node *node)
{
    const struct raft_log *log = &node->raft.log;
    uint64_t term = 0;
    check_raft_observe(&node->lite->raft_check, &node->raft);
    if (!node->raft.snapshot_pending && raft_log_term(log, log->durable_index, &term) == 0 &&
        !lite_disk_holds(&node->disk, log->durable_index, term))
        verdict_set(&node->lite->verdict, SIM_SAFETY,
                    "durable: node %u takes entry %" PRIu64 " of term %" PRIu64
                    " for stored, its disk has another",
                    node->id, log->durable_index, term);
}

/* ---- clocks --------------------------------------------------------------------------------- */

/* The node's own clock at a moment of the world. */
static uint64_t clock_at(const struct lite_node *node, uint64_t world_ns)
{
    uint64_t passed_ns = world_ns - u64_min(world_ns, node->clock_start_ns);
    int64_t drift_ns = (int64_t)((__int128)passed_ns * node->drift_ppm / 1000000);
    return node->clock_base_ns + passed_ns + (uint64_t)drift_ns;
}

/* The moment of the world at which the node's clock shows `local_ns`, or a little later. */
static uint64_t clock_inverse(const struct lite_node *node, uint64_t local_ns)
{
    uint64_t ahead_ns = local_ns - u64_min(local_ns, node->clock_base_ns);
    unsigned __int128 scaled = (unsigned __int128)ahead_ns * 1000000;
    return node->clock_start_ns + (uint64_t)(scaled / (uint64_t)(1000000 + node->drift_ppm)) + 1;
}

/* A turn reads the clock when it begins; its inputs may be processed a while later. */
static uint64_t turn_clock(struct lite_node *node)
{
    const struct lite_config *config = &node->lite->config;
    struct prng *prng = lite_prng(node->lite, SCHEDULE);
    uint64_t old_ns = prng_below(prng, config->turn_ns_max + 1);
    if (!node->lite->healed && prng_chance(prng, config->stall_per_mille, 1000))
        old_ns += prng_below(prng, config->stall_ns_max + 1);
    uint64_t local_ns = clock_at(node, node->lite->world.now_ns - old_ns);
    node->clock_last_ns = u64_max(node->clock_last_ns, local_ns);
    return node->clock_last_ns;
}

/* ---- scheduling ----------------------------------------------------------------------------- */

void lite_node_turn_by(struct lite_node *node, uint64_t time_ns)
{
    struct lite *lite = node->lite;
    if (!node->up)
        return;
    uint64_t at_ns = u64_max(u64_max(time_ns, lite->world.now_ns), node->paused_until_ns);
    if (node->turn.slot == SIM_EVENT_IDLE || node->turn.time_ns > at_ns)
        sim_event_schedule(&lite->world, &node->turn, at_ns);
}

void lite_node_pause(struct lite_node *node, uint64_t until_ns)
{
    node->paused_until_ns = until_ns;
    if (node->turn.slot == SIM_EVENT_IDLE)
        return;
    uint64_t at_ns = u64_max(node->turn.time_ns, until_ns);
    sim_event_schedule(&node->lite->world, &node->turn, at_ns);
}

static void turn_soon(struct lite_node *node)
{
    uint64_t wait_ns =
        prng_below(lite_prng(node->lite, SCHEDULE), node->lite->config.turn_ns_max + 1);
    lite_node_turn_by(node, node->lite->world.now_ns + wait_ns);
}

void lite_node_push(struct lite_node *node, struct lite_item *item)
{
    lite_list_push(&node->inbox, item);
    turn_soon(node);
}

/* ---- the append lane ------------------------------------------------------------------------ */

static void node_persisted(struct lite_node *node, struct lite_append *append)
{
    if (append->install != NULL) {
        node->applied = *append->install;
        if (node->apply_last <= node->applied.index)
            node->apply_first = node->apply_last = 0;
        else if (node->apply_first != 0)
            node->apply_first = u64_max(node->apply_first, node->applied.index + 1);
        check_raft_state(&node->lite->raft_check, node->id, node->applied.index,
                         XXH3_64bits(&node->applied.state, sizeof(node->applied.state)));
    }
    raft_persisted(&node->raft, &append->append);
    lite_observe(node);
}

static void node_release_messages(struct lite_node *node, struct lite_append *append)
{
    struct lite_item *item;
    while ((item = lite_list_pop(&append->after)) != NULL)
        lite_message_send(node->lite, item);
}

/* Acknowledgements may be skipped when a later one follows at once, unless a snapshot waits. */
static void turn_append_lane(struct lite_node *node)
{
    struct lite_append *append;
    while ((append = lite_disk_pop(node)) != NULL) {
        bool another = node->appends != NULL && node->appends->durable;
        bool skip = another && append->install == NULL && node->appends->install == NULL &&
                    prng_chance(lite_prng(node->lite, SCHEDULE), 1, 2);
        if (!skip)
            node_persisted(node, append);
        node_release_messages(node, append);
        lite_append_free(node->lite, append);
    }
}

/* ---- messages in ---------------------------------------------------------------------------- */

/* False: no room now, the item stays. */
static bool turn_message(struct lite_node *node, struct lite_item *item)
{
    struct raft_message *message = &item->message;
    struct raft_snapshot snapshot;
    message->entries = item->entries;
    if (item->image != NULL) {
        snapshot = (struct raft_snapshot){
            .index = item->image->index, .term = item->image->term, .config = item->image->config};
        message->snapshot = &snapshot;
    }
    uint32_t count = 0;
    for (uint32_t i = 0; i < message->entry_count; i++)
        count += message->entries[i].payload_bytes > 0;
    node->held += count;
    int error = raft_step(&node->raft, message);
    if (error != 0)
        node->held -= count;
    if (error == ERR_FULL)
        return false;
    lite_trace(node->lite, node, SIM_KIND_RAFT_DELIVER,
               (uint64_t)message->kind << 32 | (uint32_t)message->from, (uint64_t)(-error));
    lite_text(node->lite, node, "< n%" PRIu64 " %s%s%s", message->from,
              raft_message_kind_name(message->kind), error != 0 ? " refused: " : "",
              error != 0 ? err_name(error) : "");
    sim_check(error == 0 || error == ERR_NOT_FOUND || error == ERR_MALFORMED, "node %u: %s",
              node->id, err_name(error));
    /* ERR_MALFORMED of a correct peer would be a second leader of the term: the checker tells. */
    lite_observe(node);
    if (item->image != NULL) {
        item->ok = error == 0;
        if (node->raft.snapshot_pending && node->raft.snapshot_sequence == 0 &&
            node->raft.snapshot_install.index == item->image->index)
            node->incoming = *item->image;
    }
    message->snapshot = NULL;
    return true;
}

/* False: the item stays in the inbox. */
static bool turn_item(struct lite_node *node, struct lite_item *item)
{
    switch (item->kind) {
    case LITE_ITEM_MESSAGE:
        return turn_message(node, item);
    case LITE_ITEM_SNAPSHOT_REPORT:
        raft_report_snapshot(&node->raft, item->from, item->ok);
        break;
    case LITE_ITEM_UNREACHABLE:
        raft_report_unreachable(&node->raft, item->from);
        break;
    case LITE_ITEM_REQUEST:
        lite_serve_request(node, item);
        break;
    case LITE_ITEM_COMMAND:
        lite_command(node, item);
        break;
    case LITE_ITEM_REPLY:
        invariant(!"replies go to clients");
        break;
    }
    lite_observe(node);
    return true;
}

static void turn_drain(struct lite_node *node);

static void turn_inbox(struct lite_node *node)
{
    struct prng *prng = lite_prng(node->lite, SCHEDULE);
    uint64_t budget = prng_chance(prng, 1, 4) ? 1 + prng_below(prng, 4) : node->inbox.count;
    while (budget-- > 0 && node->inbox.first != NULL) {
        struct lite_item *item = node->inbox.first;
        if (!turn_item(node, item)) {
            turn_drain(node); /* room for its answers */
            if (!turn_item(node, item))
                break;
        }
        item = lite_list_pop(&node->inbox);
        lite_item_free(item);
        if (prng_chance(prng, 1, 8))
            turn_drain(node);
    }
}

/* ---- the apply lane ------------------------------------------------------------------------- */

/* False: a snapshot contains it. */
static bool apply_change(struct lite_node *node, const struct entry *entry)
{
    struct raft_config_change change;
    int error =
        raft_config_change_decode(bytes_make(entry->payload, entry->payload_bytes), &change);
    sim_check(error == 0, "a change that does not decode at %" PRIu64, entry->index);
    int refused = raft_apply_config(&node->raft, entry->index, &change);
    if (refused == ERR_COMPACTED)
        return false;
    sim_check(refused != 0 || node->raft.config_index == entry->index,
              "node %u: a change at %" PRIu64 " is applied, the configuration is that of %" PRIu64,
              node->id, entry->index, node->raft.config_index);
    lite_observe(node);
    node->applied.config = node->raft.config;
    check_raft_config(&node->lite->raft_check, node->id, entry->index, &node->raft.config);
    char text[160];
    lite_config_text(&node->raft.config, text, sizeof(text));
    lite_text(node->lite, node, "members at %" PRIu64 ":%s%s", entry->index, text,
              refused != 0 ? " (change refused)" : "");
    return true; /* a refusal too: every node decides alike, check_raft_config() looks */
}

static bool apply_one(struct lite_node *node, const struct entry *entry)
{
    struct lite *lite = node->lite;
    check_raft_apply(&lite->raft_check, node->id, node->applied.index, entry);
    if (lite->verdict.outcome != SIM_PASS)
        return false;
    struct lite_state *state = &node->applied.state;
    if (entry->type == ENTRY_CONFIG_CHANGE) {
        if (!apply_change(node, entry))
            return false;
    } else if (entry->payload_bytes > 0) {
        uint64_t operation = le64_load(entry->payload);
        uint64_t key = le64_load(entry->payload + 8);
        state->revision++;
        state->value[key] = operation;
        state->written[key] = state->revision;
        if (state->revision > lite->history.revision)
            check_history_happen(&lite->history, operation, state->revision);
    }
    node->applied.index = entry->index;
    node->applied.term = entry->term;
    check_raft_state(&lite->raft_check, node->id, entry->index, XXH3_64bits(state, sizeof(*state)));
    lite_serve_applied(node, entry);
    return true;
}

/* Where an entry's bytes are: in memory, or in this node's log; NULL: a snapshot replaced it. */
static const struct entry *apply_find(struct lite_node *node, uint64_t index)
{
    const struct entry *entry = raft_entry(&node->raft, index);
    if (entry == NULL && index > node->disk.compacted_index && index <= node->disk.last_index) {
        sim_check(!lite_rot_is_lost(&node->disk, index),
                  "node %u applies %" PRIu64 ", which it lost", node->id, index);
        entry = &node->disk.entries[index];
    }
    return entry;
}

static void turn_apply(struct lite_node *node)
{
    struct lite *lite = node->lite;
    struct prng *prng = lite_prng(lite, SCHEDULE);
    if (node->apply_first == 0 || node->apply_due_ns > lite->world.now_ns)
        return;
    uint64_t count = 1 + prng_below(prng, lite->config.apply_entries_max);
    uint64_t last = u64_min(node->apply_last, node->apply_first + count - 1);
    for (uint64_t index = node->apply_first; index <= last; index++) {
        const struct entry *entry = apply_find(node, index);
        if (entry == NULL) { /* a snapshot is on its way to the disk and will take over */
            sim_check(node->raft.snapshot_pending, "node %u: entry %" PRIu64 " is nowhere",
                      node->id, index);
            node->apply_first = node->apply_last = 0;
            return;
        }
        struct entry copy = *entry; /* a change of configuration may move the window */
        if (!apply_one(node, &copy)) {
            node->apply_first = node->apply_last = 0;
            return;
        }
    }
    raft_applied(&node->raft, last);
    lite_observe(node);
    lite_text(lite, node, "applied %" PRIu64 "..%" PRIu64, node->apply_first, last);
    lite_trace(lite, node, SIM_KIND_RAFT_APPLY, node->apply_first, last);
    node->apply_first = last < node->apply_last ? last + 1 : 0;
    node->apply_last = node->apply_first == 0 ? 0 : node->apply_last;
    bool lazy = node->id == lite->config.lazy_node && !lite->healed;
    uint64_t apply_ns = lite->config.apply_ns * (lazy ? LITE_LAZY : 1);
    node->apply_due_ns = lite->world.now_ns + prng_below(prng, 2 * apply_ns + 1);
    if (prng_chance(lite_prng(lite, DISK), lite->config.flush_per_mille, 1000))
        lite_disk_flush(node);
}

/* ---- out ------------------------------------------------------------------------------------ */

static void drain_message(struct lite_node *node, const struct raft_message *message)
{
    lite_rot_sent(node, message);
    struct lite_item *item = lite_message_make(node, message);
    uint64_t after = message->after_append;
    item->message.after_append = 0;
    if (after == 0) {
        lite_message_send(node->lite, item);
        return;
    }
    struct lite_append *append = node->appends;
    while (append != NULL && append->append.sequence != after)
        append = append->next;
    sim_check(append != NULL, "node %u: a message waits for append %" PRIu64 ", which nobody has",
              node->id, after);
    lite_list_push(&append->after, item);
}

static void drain_leadership(struct lite_node *node, const struct raft_ready *ready)
{
    struct lite *lite = node->lite;
    lite->leaderships += ready->role == RAFT_ROLE_LEADER;
    lite_trace(lite, node, SIM_KIND_RAFT_ROLE, (uint64_t)ready->role << 32 | ready->leader,
               ready->term);
    lite_text(lite, node, "! %s of term %" PRIu64 ", leader n%" PRIu64, raft_role_name(ready->role),
              ready->term, ready->leader);
    lite_node_reads_void(node);
}

static void turn_drain(struct lite_node *node)
{
    struct raft_ready ready;
    while (raft_ready(&node->raft, &ready)) {
        lite_observe(node);
        if (ready.leadership_changed && ready.role == RAFT_ROLE_LEADER)
            lite_leader_won(node);
        if (ready.append.sequence != 0) {
            lite_disk_append(node, &ready);
            lite_text(node->lite, node, "append #%" PRIu64 " %" PRIu64 "..%" PRIu64 "%s%s",
                      ready.append.sequence, ready.append_first, ready.append_last,
                      ready.hard_state_changed ? " hard state" : "",
                      ready.install != NULL ? " install" : "");
        }
        if (ready.install != NULL && prng_chance(lite_prng(node->lite, SCHEDULE), 1, 2))
            node->apply_first = node->apply_last = 0; /* the snapshot contains all of it */
        for (uint32_t i = 0; i < ready.message_count; i++)
            drain_message(node, &ready.messages[i]);
        if (ready.apply_first != 0) {
            if (node->apply_first == 0)
                node->apply_first = ready.apply_first;
            else
                invariant(ready.apply_first == node->apply_last + 1);
            node->apply_last = ready.apply_last;
        }
        for (uint32_t i = 0; i < ready.read_count; i++)
            lite_serve_read_index(node, &ready.reads[i]);
        if (ready.leadership_changed)
            drain_leadership(node, &ready);
    }
}

/* Each payload in the window is held, no other. */
static void check_held(const struct lite_node *node)
{
    const struct raft_log *log = &node->raft.log;
    uint64_t payloads = 0;
    for (uint64_t index = log->base_index + 1; index <= log->last_index; index++)
        payloads += raft_log_entry(log, index)->payload_bytes > 0;
    sim_check(node->held == payloads, "node %u holds %" PRIu64 " payloads, its window has %" PRIu64,
              node->id, node->held, payloads);
}

/* ---- the turn ------------------------------------------------------------------------------- */

static void node_turn(struct sim_event *event)
{
    struct lite_node *node = container_of(event, struct lite_node, turn);
    struct lite *lite = node->lite;
    int error = raft_tick(&node->raft, turn_clock(node));
    invariant(error == 0 || error == ERR_FULL);
    lite_observe(node);
    turn_append_lane(node);
    turn_inbox(node);
    turn_apply(node);
    lite_serve_reads(node);
    lite_rot_turn(node);
    turn_drain(node);
    lite_serve_reads(node);
    if (lite->verdict.outcome != SIM_PASS)
        return;
    if (node->flush_wanted)
        lite_disk_flush(node);
    node->flush_wanted = false;
    raft_check(&node->raft);
    const struct raft_log *log = &node->raft.log;
    if (node->turns++ % HELD_CHECK_TURNS == 0)
        check_held(node);
    lite_trace(lite, node, SIM_KIND_TURN, log->last_index, log->committed_index);
    uint64_t deadline_ns = raft_deadline_ns(&node->raft);
    if (deadline_ns != UINT64_MAX)
        lite_node_turn_by(node,
                          clock_inverse(node, deadline_ns) +
                              prng_below(lite_prng(lite, SCHEDULE), lite->config.turn_ns_max));
    if (node->inbox.first != NULL)
        turn_soon(node);
    if (node->apply_first != 0)
        lite_node_turn_by(node, node->apply_due_ns);
}

/* ---- life ----------------------------------------------------------------------------------- */

static void node_boot(struct sim_event *event)
{
    lite_node_start(container_of(event, struct lite_node, boot));
}

struct lite_node *lite_node_add(struct lite *lite, const struct raft_config *genesis)
{
    invariant(lite->node_count < LITE_NODES_MAX);
    struct lite_node *node = sim_alloc(sizeof(*node));
    node->lite = lite;
    node->id = ++lite->node_count;
    lite->nodes[node->id] = node;
    struct raft_options options = lite->config.raft;
    node->memory_bytes = raft_memory_bytes(&options);
    node->memory = aligned_alloc(64, u64_round_up(node->memory_bytes, 64));
    invariant(node->memory != NULL);
    sim_event_init(&node->turn, node_turn);
    sim_event_init(&node->boot, node_boot);
    sim_event_init(&node->doom, lite_doom);
    lite_list_init(&node->inbox);
    node->appends_last_next = &node->appends;
    if (genesis != NULL) { /* the group begins as if compacted at index 1 */
        struct lite_disk *disk = &node->disk;
        disk->hard_state = (struct hard_state){.term = 1, .commit = 1};
        disk->compacted_index = disk->last_index = disk->compacted_term = 1;
        disk->image = (struct lite_image){.index = 1, .term = 1, .config = *genesis};
        node->membership = LITE_MEMBER;
    }
    lite_node_start(node);
    return node;
}

static uint64_t restart_term(void *context, uint64_t id, uint64_t index)
{
    const struct lite *lite = context;
    return lite_disk_term(&lite->nodes[id]->disk, index);
}

void lite_node_start(struct lite_node *node)
{
    struct lite *lite = node->lite;
    struct prng *prng = lite_prng(lite, FAULTS);
    invariant(!node->up && !node->gone);
    node->up = true;
    node->incarnation++;
    node->paused_until_ns = 0;
    node->clock_start_ns = lite->world.now_ns;
    node->clock_base_ns = NS_PER_S + prng_below(prng, 1000 * NS_PER_S);
    node->clock_last_ns = node->clock_base_ns;
    node->drift_ppm = (int64_t)prng_below(prng, 2 * lite->config.drift_ppm_max + 1) -
                      (int64_t)lite->config.drift_ppm_max;
    node->held = 0;
    node->apply_first = node->apply_last = node->apply_due_ns = 0;
    node->applied = node->disk.image;
    struct raft_start start;
    lite_disk_start(node, &start);
    start.damaged_index = lite_rot_boot(node);
    struct raft_options options = lite->config.raft;
    options.id = node->id;
    options.seed =
        sim_seed_split(lite->config.seed, "raft") + node->id * 1000003 + node->incarnation;
    struct raft_storage storage = lite_disk_storage(node);
    lite_trace(lite, node, SIM_KIND_BOOT, node->incarnation, start.last_index);
    lite_text(lite, node,
              "! starts: term %" PRIu64 " vote %" PRIu64 " commit %" PRIu64 ", log (%" PRIu64
              ", %" PRIu64 "], applied %" PRIu64,
              start.hard_state.term, start.hard_state.vote, start.hard_state.commit,
              start.compacted_index, start.last_index, start.applied_index);
    check_raft_restart(&lite->raft_check, node->id, &start, restart_term);
    memset(node->memory, MEMORY_POISON, node->memory_bytes);
    int error =
        raft_init(&node->raft, &options, &storage, &start, node->memory, node->clock_base_ns);
    sim_check(error == 0, "node %u does not start: %s", node->id, err_name(error));
    lite_rot_started(node);
    lite_observe(node);
    turn_soon(node);
}

void lite_node_crash(struct lite_node *node)
{
    struct lite *lite = node->lite;
    struct lite_item *item;
    invariant(node->up);
    lite_trace(lite, node, SIM_KIND_CRASH, node->incarnation, 0);
    node->up = false;
    lite->crashes++;
    sim_event_cancel(&lite->world, &node->turn);
    sim_event_cancel(&lite->world, &node->doom);
    while ((item = lite_list_pop(&node->inbox)) != NULL)
        lite_item_free(item);
    lite_disk_crash(node);
    lite_serve_lost(node);
    node->incoming.index = 0;
    lite_text(lite, node, "! crash: disk keeps term %" PRIu64 ", log up to %" PRIu64,
              node->disk.hard_state.term, node->disk.last_index);
}

void lite_node_free(struct lite_node *node)
{
    free(node->memory);
    free(node->waiting);
    lite_disk_free(&node->disk);
    free(node);
}
