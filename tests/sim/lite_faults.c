/* Harm done to the consensus-only simulation, the operator's commands, and healing. */
#include "tests/sim/lite.h"

#include <inttypes.h>

#include "core/invariant.h"

static uint32_t pick_id(struct lite *lite)
{
    return 1 + (uint32_t)prng_below(lite_prng(lite, FAULTS), lite->node_count);
}

static uint64_t pick_outage_ns(struct lite *lite)
{
    return prng_below(lite_prng(lite, FAULTS), lite->config.outage_ns_max) + NS_PER_MS;
}

/* ---- crashes and clocks --------------------------------------------------------------------- */

static void crash(struct lite_node *node)
{
    if (!node->up)
        return;
    lite_node_crash(node);
    uint64_t after_ns = pick_outage_ns(node->lite);
    if (prng_chance(lite_prng(node->lite, FAULTS), 1, 2))
        after_ns /= 100;
    sim_event_schedule(&node->lite->world, &node->boot, node->lite->world.now_ns + after_ns);
}

void lite_doom(struct sim_event *event)
{
    struct lite_node *node = container_of(event, struct lite_node, doom);
    if (!node->lite->healed)
        crash(node);
}

static void power_loss(struct lite *lite)
{
    for (uint32_t id = 1; id <= lite->node_count; id++)
        if (!lite->nodes[id]->gone)
            crash(lite->nodes[id]);
}

/* ---- the network ---------------------------------------------------------------------------- */

static void cuts_clear(struct lite *lite)
{
    for (uint32_t a = 0; a <= LITE_NODES_MAX; a++)
        for (uint32_t b = 0; b <= LITE_NODES_MAX; b++)
            lite->paths[a][b].cut = false;
}

static void isolate(struct lite *lite, uint32_t id)
{
    for (uint32_t other = 1; other <= LITE_NODES_MAX; other++)
        lite->paths[id][other].cut = lite->paths[other][id].cut = other != id;
}

/* Random sides; a bridge sees both. */
static void split(struct lite *lite, uint32_t bridge, bool one_way)
{
    struct prng *prng = lite_prng(lite, FAULTS);
    uint64_t side = prng_next(prng);
    for (uint32_t a = 1; a <= LITE_NODES_MAX; a++)
        for (uint32_t b = 1; b <= LITE_NODES_MAX; b++)
            if ((side >> a & 1) < (side >> b & 1) && a != bridge && b != bridge) {
                lite->paths[a][b].cut = true;
                lite->paths[b][a].cut = !one_way;
            }
}

/* Two that see each other and nobody else: what one writes as leader, the other alone has. */
static void pair(struct lite *lite, uint32_t id)
{
    uint32_t with = pick_id(lite);
    if (lite->config.slow_node != 0 && prng_chance(lite_prng(lite, FAULTS), 2, 3))
        with = lite->config.slow_node;
    cuts_clear(lite);
    for (uint32_t other = 1; other <= LITE_NODES_MAX; other++) {
        if (other == id || other == with)
            continue;
        lite->paths[id][other].cut = lite->paths[other][id].cut = true;
        lite->paths[with][other].cut = lite->paths[other][with].cut = true;
    }
}

/* Before anything that it says as leader leaves. */
void lite_leader_won(struct lite_node *node)
{
    struct lite *lite = node->lite;
    if (lite->healed || !prng_chance(lite_prng(lite, FAULTS), lite->config.cut_off_percent, 100))
        return;
    pair(lite, node->id);
    lite_text(lite, node, "* pair, as it wins");
}

static void clog_paths(struct lite *lite)
{
    struct prng *prng = lite_prng(lite, FAULTS);
    uint64_t until_ns = lite->world.now_ns + pick_outage_ns(lite);
    uint32_t id = pick_id(lite);
    for (uint32_t other = 1; other <= LITE_NODES_MAX; other++) {
        if (prng_chance(prng, 1, 2))
            lite->paths[id][other].clogged_until_ns = until_ns;
        if (prng_chance(prng, 1, 2))
            lite->paths[other][id].clogged_until_ns = until_ns;
    }
}

/* ---- the operator --------------------------------------------------------------------------- */

static void command_send(struct lite *lite, uint32_t to, enum lite_fault fault)
{
    struct lite_item *item = lite_item_make(lite, LITE_ITEM_COMMAND, 0, to);
    item->fault = fault;
    item->value = prng_next(lite_prng(lite, FAULTS));
    lite_item_schedule(item, 0);
}

static uint32_t find_leader(const struct lite *lite)
{
    uint32_t leader = 0;
    for (uint32_t id = 1; id <= lite->node_count; id++) {
        const struct lite_node *node = lite->nodes[id];
        if (node->up && node->raft.role == RAFT_ROLE_LEADER &&
            (leader == 0 || node->raft.term > lite->nodes[leader]->raft.term))
            leader = id;
    }
    return leader;
}

/* Who is a member, and who was one and never will be again. */
static void mark_members(struct lite *lite)
{
    const struct check_raft *check = &lite->raft_check;
    const struct raft_config *config = &check->configs[check->config_count - 1].config;
    struct raft_id_set members = raft_config_members(config);
    for (uint32_t id = 1; id <= lite->node_count; id++) {
        struct lite_node *node = lite->nodes[id];
        if (raft_id_set_has(&members, id))
            node->membership = LITE_MEMBER;
        else if (node->membership == LITE_MEMBER)
            node->membership = LITE_RETIRED;
    }
}

/* A node that may join: never a member, or a member that this leader does not know yet. */
static uint64_t pick_joiner(struct lite_node *leader, uint64_t random)
{
    struct lite *lite = leader->lite;
    mark_members(lite); /* the leader may have applied a change just now */
    for (uint32_t i = 0; i < lite->node_count; i++) {
        uint32_t id = 1 + (uint32_t)((random + i) % lite->node_count);
        if (lite->nodes[id]->membership != LITE_RETIRED &&
            raft_peer_find(&leader->raft, id) == NULL)
            return id;
    }
    if (lite->node_count == LITE_NODES_MAX)
        return 0;
    return lite_node_add(lite, NULL)->id;
}

static void propose_members(struct lite_node *leader, uint64_t random)
{
    const struct raft_config *config = &leader->raft.config;
    const struct lite_config *drawn = &leader->lite->config;
    struct raft_config_change change = {.transition = (enum raft_transition)(random % 3)};
    uint32_t wanted = (random >> 8) % 4 == 0 ? 1 + (random >> 10) % 4 : 1;
    bool leave = config->outgoing.count > 0;
    for (uint32_t i = 0; i < wanted && !leave; i++) {
        uint64_t draw = random >> (12 + 6 * i);
        struct raft_id_set members = raft_config_members(config);
        uint64_t member = members.ids[(draw >> 3) % members.count];
        struct raft_change one = {.kind = (enum raft_change_kind)(draw % 3), .id = member};
        bool grow = config->voters.count < drawn->voters_most && draw % 8 < 4;
        if (drawn->shrinks) {
            change.transition = RAFT_TRANSITION_AUTO;
            grow = config->voters.count < drawn->voters_most;
            one.kind = grow ? RAFT_CHANGE_ADD_VOTER : RAFT_CHANGE_REMOVE;
            if (!grow && draw % 2 == 0)
                one.id = leader->id;
        }
        if (grow && one.kind != RAFT_CHANGE_REMOVE && (draw >> 3) % 2 == 0)
            one.id = pick_joiner(leader, draw);
        /* No server lets the only voter go in the change that makes another one: should that one
         * not hear that it is committed, neither would ask for votes. */
        bool last = config->voters.count == 1 && one.id == config->voters.ids[0] && wanted > 1;
        if (one.id != 0 && !last)
            change.changes[change.count++] = one;
    }
    if (leave)
        change.transition = RAFT_TRANSITION_AUTO;
    uint8_t bytes[512];
    size_t size = raft_config_change_bytes(&change);
    invariant(size <= sizeof(bytes));
    raft_config_change_encode(&change, bytes);
    struct entry entry = {.type = ENTRY_CONFIG_CHANGE,
                          .payload = lite_payload(leader->lite, bytes, size),
                          .payload_bytes = (uint32_t)size};
    uint64_t index = 0;
    int error = raft_propose(&leader->raft, &entry, 1, &index);
    leader->held += error == 0 && size > 0;
    char text[160];
    lite_config_text(config, text, sizeof(text));
    lite_text(leader->lite, leader, "change of %u members: %s at %" PRIu64 ", now%s", change.count,
              error == 0 ? "proposed" : err_name(error), index, text);
}

/* A command arrives at a node, in its turn. */
void lite_command(struct lite_node *node, const struct lite_item *item)
{
    int refused = 0;
    if (node->lite->healed)
        return; /* it waited in the inbox of a node that stood still */
    switch (item->fault) {
    case LITE_FAULT_TRANSFER:
        refused = raft_transfer(&node->raft, 1 + item->value % node->lite->node_count);
        (void)refused; /* it stays, then */
        break;
    case LITE_FAULT_CAMPAIGN:
        raft_campaign(&node->raft);
        break;
    case LITE_FAULT_STEP_DOWN:
        raft_step_down(&node->raft);
        break;
    case LITE_FAULT_FORGET_LEADER:
        raft_forget_leader(&node->raft);
        break;
    case LITE_FAULT_RESTRICT:
        raft_restrict(&node->raft, !node->raft.restricted);
        break;
    case LITE_FAULT_MEMBERS:
        if (node->raft.role == RAFT_ROLE_LEADER)
            propose_members(node, item->value);
        break;
    default:
        invariant(!"not a command");
    }
}

/* Has everybody who counts stored that `id` is out? Then its vote is not needed any more. */
static bool may_leave(const struct lite *lite, uint32_t id)
{
    const struct check_raft *check = &lite->raft_check;
    const struct check_config *newest = &check->configs[check->config_count - 1];
    struct raft_id_set members = raft_config_members(&newest->config);
    for (uint32_t i = 0; i < members.count; i++) {
        const struct lite_disk *disk = &lite->nodes[members.ids[i]]->disk;
        if (members.ids[i] == id ||
            u64_max(disk->hard_state.commit, disk->image.index) < newest->index)
            return false;
    }
    return newest->config.outgoing.count == 0;
}

static void retire(struct lite *lite)
{
    mark_members(lite);
    for (uint32_t id = 1; id <= lite->node_count; id++) {
        struct lite_node *node = lite->nodes[id];
        if (node->membership != LITE_RETIRED || node->gone || !may_leave(lite, id) ||
            !prng_chance(lite_prng(lite, FAULTS), 1, 4))
            continue;
        if (node->up)
            lite_node_crash(node);
        sim_event_cancel(&lite->world, &node->boot);
        node->gone = true;
    }
}

/* The operator changes its mind at once, while the leader hears nothing from the others. */
static void give_up_transfer(struct lite *lite, uint32_t leader)
{
    struct prng *prng = lite_prng(lite, FAULTS);
    uint64_t until_ns = lite->world.now_ns + pick_outage_ns(lite);
    for (uint32_t other = 1; other <= LITE_NODES_MAX; other++)
        lite->paths[other][leader].clogged_until_ns = until_ns;
    struct lite_item *item = lite_item_make(lite, LITE_ITEM_COMMAND, 0, leader);
    item->fault = LITE_FAULT_TRANSFER;
    item->value = lite->node_count * (prng_next(prng) >> 40) + leader - 1;
    lite_item_schedule(item, prng_below(prng, 50 * NS_PER_MS));
}

/* ---- one fault ------------------------------------------------------------------------------ */

static void do_harm(struct lite *lite, enum lite_fault fault)
{
    struct prng *prng = lite_prng(lite, FAULTS);
    uint32_t id = pick_id(lite), leader = find_leader(lite);
    if (leader != 0 && prng_chance(prng, 1, 2))
        id = leader;
    struct lite_node *node = lite->nodes[id];
    uint64_t now_ns = lite->world.now_ns;
    switch (fault) {
    case LITE_FAULT_CRASH:
        if (lite->config.slow_node != 0 && prng_chance(prng, 2, 3))
            node = lite->nodes[lite->config.slow_node]; /* it has most to lose */
        crash(node);
        break;
    case LITE_FAULT_POWER:
        power_loss(lite);
        break;
    case LITE_FAULT_PAUSE:
        lite_node_pause(node, now_ns + pick_outage_ns(lite));
        break;
    case LITE_FAULT_ISOLATE:
        if (lite->config.lazy_node != 0)
            id = lite->config.lazy_node;
        cuts_clear(lite);
        isolate(lite, id);
        break;
    case LITE_FAULT_SPLIT:
    case LITE_FAULT_ONE_WAY:
    case LITE_FAULT_BRIDGE:
        if (prng_chance(prng, 3, 4))
            cuts_clear(lite);
        split(lite, fault == LITE_FAULT_BRIDGE ? id : 0, fault == LITE_FAULT_ONE_WAY);
        break;
    case LITE_FAULT_PAIR:
        pair(lite, id);
        break;
    case LITE_FAULT_CLOG:
        clog_paths(lite);
        break;
    case LITE_FAULT_SLOW_DISK:
        node->slow_until_ns = now_ns + pick_outage_ns(lite);
        break;
    case LITE_FAULT_CLOCK_JUMP:
        node->clock_base_ns += pick_outage_ns(lite);
        lite_node_turn_by(node, now_ns);
        break;
    case LITE_FAULT_UNREACHABLE:
        if (node->up)
            lite_item_schedule(lite_item_make(lite, LITE_ITEM_UNREACHABLE, pick_id(lite), id), 0);
        break;
    case LITE_FAULT_MEMBERS:
        if (leader != 0)
            command_send(lite, leader, fault);
        break;
    case LITE_FAULT_TRANSFER:
        command_send(lite, id, fault);
        if (id == leader && prng_chance(prng, 1, 3))
            give_up_transfer(lite, id);
        break;
    case LITE_FAULT_CAMPAIGN:
    case LITE_FAULT_STEP_DOWN:
    case LITE_FAULT_FORGET_LEADER:
    case LITE_FAULT_RESTRICT:
        command_send(lite, id, fault);
        break;
    case LITE_FAULT_COUNT:
        break;
    }
    lite_trace(lite, node, SIM_KIND_FAULT, fault, id);
    lite_text(lite, node, "* %s", lite_harm_name(fault));
}

static void fault_event(struct sim_event *event)
{
    struct lite *lite = container_of(event, struct lite, fault);
    struct prng *prng = lite_prng(lite, FAULTS);
    retire(lite);
    if (prng_chance(prng, 1, 4)) {
        cuts_clear(lite);
        lite_text(lite, NULL, "* cuts end");
    }
    if (lite->config.fault_weight_sum > 0) {
        uint64_t at = prng_below(prng, lite->config.fault_weight_sum);
        uint32_t fault = 0;
        while (at >= lite->config.fault_weight[fault])
            at -= lite->config.fault_weight[fault++];
        if ((lite->options->spared >> fault & 1) == 0)
            do_harm(lite, (enum lite_fault)fault);
    }
    sim_event_schedule(&lite->world, event,
                       lite->world.now_ns + lite_spread(prng, lite->config.fault_mean_ns));
}

void lite_faults_start(struct lite *lite)
{
    sim_event_init(&lite->fault, fault_event);
    sim_event_schedule(&lite->world, &lite->fault,
                       lite->world.now_ns +
                           lite_spread(lite_prng(lite, FAULTS), lite->config.fault_mean_ns));
}

/* ---- the liveness phase --------------------------------------------------------------------- */

static bool change_under_way(struct lite *lite)
{
    uint64_t committed = check_raft_committed(&lite->raft_check);
    if (lite->raft_check.config_applied < committed)
        for (uint64_t at = lite->raft_check.config_applied + 1; at <= committed; at++)
            if (lite->raft_check.canonical.entries[at].is_config)
                return true;
    for (uint32_t id = 1; id <= lite->node_count; id++) {
        const struct check_log *log = &check_raft_node(&lite->raft_check, id)->log;
        for (uint64_t at = committed + 1; at <= log->last; at++)
            if (log->entries[at].is_config)
                return true;
    }
    return false;
}

/* A core can go on alone when it is a majority of every configuration that any of its members may
 * still live in, and of the one before: entries they lack may have been committed by that. */
static bool is_core(const struct lite *lite, uint64_t dead)
{
    const struct check_raft *check = &lite->raft_check;
    uint64_t oldest = UINT64_MAX;
    struct raft_id_set core = {0};
    for (uint32_t id = 1; id <= lite->node_count; id++) {
        const struct lite_node *node = lite->nodes[id];
        if (node->gone || dead >> id & 1 || core.count == RAFT_MEMBERS_MAX)
            continue;
        core.ids[core.count++] = id;
        if (node->membership == LITE_MEMBER && node->disk.image.index > 0)
            oldest = u64_min(oldest, node->disk.image.index);
    }
    uint32_t first = 0;
    while (first + 1 < check->config_count && check->configs[first + 1].index <= oldest)
        first++;
    for (uint32_t i = first > 0 ? first - 1 : 0; i < check->config_count; i++)
        if (!check_config_quorum(&check->configs[i].config, &core))
            return false;
    return true;
}

static uint64_t pick_dead(struct lite *lite)
{
    struct prng *prng = lite_prng(lite, FAULTS);
    const struct raft_options *raft = &lite->config.raft;
    if (change_under_way(lite) || !raft->pre_vote || !raft->check_quorum)
        return 0;
    for (uint32_t attempt = 0; attempt < 8; attempt++) {
        uint64_t dead = prng_next(prng) & prng_next(prng) & ((2ull << lite->node_count) - 2);
        if (is_core(lite, dead))
            return dead;
    }
    return 0;
}

/* The failures that stay: down, silent, deaf, or both. */
static void fail_for_good(struct lite *lite, uint32_t id)
{
    struct lite_node *node = lite->nodes[id];
    uint64_t how = prng_below(lite_prng(lite, FAULTS), 4);
    lite_text(lite, node, "* fails for good, kind %" PRIu64, how);
    if (how == 0 || node->gone) {
        sim_event_cancel(&lite->world, &node->boot);
        if (node->up)
            lite_node_crash(node);
        return;
    }
    for (uint32_t other = 1; other <= LITE_NODES_MAX; other++) {
        lite->paths[id][other].cut |= how != 1 && other != id;
        lite->paths[other][id].cut |= how != 2 && other != id;
    }
}

void lite_heal(struct lite *lite)
{
    lite->healed = true;
    lite->heal_ns = lite->world.now_ns;
    sim_event_cancel(&lite->world, &lite->fault);
    retire(lite);
    cuts_clear(lite);
    lite->config.drop_per_mille = lite->config.double_per_mille = 0;
    lite->dead = pick_dead(lite);
    lite_text(lite, NULL, "* healing, dead for good: mask %" PRIx64, lite->dead);
    for (uint32_t id = 1; id <= lite->node_count; id++) {
        struct lite_node *node = lite->nodes[id];
        for (uint32_t other = 1; other <= LITE_NODES_MAX; other++)
            lite->paths[id][other].clogged_until_ns = 0;
        if (lite->dead >> id & 1)
            fail_for_good(lite, id);
        else if (!node->up && !node->gone) {
            sim_event_cancel(&lite->world, &node->boot);
            lite_node_start(node);
        }
        node->slow_until_ns = 0;
        if (!node->up)
            continue;
        node->paused_until_ns = 0;
        raft_restrict(&node->raft, false);
        lite_node_turn_by(node, lite->world.now_ns);
    }
    /* Without both rules, nodes that were removed and not told may disturb for ever. */
    if (!lite->config.raft.pre_vote || !lite->config.raft.check_quorum)
        for (uint32_t id = 1; id <= lite->node_count; id++)
            lite->disturbed |= lite->nodes[id]->membership == LITE_RETIRED && lite->nodes[id]->up;
    /* Without either, nobody tells an old leader that it is over (scenario row 2). */
    lite->disturbed |= !lite->config.raft.pre_vote && !lite->config.raft.check_quorum;
    lite_probe(lite);
}

bool lite_progressed(struct lite *lite)
{
    uint32_t leader = find_leader(lite);
    if (!lite->probe_done || leader == 0)
        return false;
    const struct raft *raft = &lite->nodes[leader]->raft;
    uint64_t committed = check_raft_committed(&lite->raft_check);
    if (raft->log.last_index != committed || raft->config.auto_leave)
        return false;
    struct raft_id_set members = raft_config_members(&raft->config);
    for (uint32_t i = 0; i < members.count; i++) {
        const struct lite_node *node = lite->nodes[members.ids[i]];
        if (lite->dead >> node->id & 1)
            continue;
        if (!node->up || node->applied.index != committed)
            return false;
    }
    return true;
}

static size_t set_text(char *to, size_t size, const char *name, const struct raft_id_set *set)
{
    size_t at = (size_t)snprintf(to, size, " %s(", name);
    for (uint32_t i = 0; i < set->count && at < size; i++)
        at += (size_t)snprintf(to + at, size - at, "%s%" PRIu64, i > 0 ? " " : "", set->ids[i]);
    return at < size ? at + (size_t)snprintf(to + at, size - at, ")") : size - 1;
}

void lite_config_text(const struct raft_config *config, char *to, size_t size)
{
    size_t at = set_text(to, size, "voters", &config->voters);
    if (config->outgoing.count > 0 && at < size - 1)
        at += set_text(to + at, size - at, "outgoing", &config->outgoing);
    if (config->learners.count > 0 && at < size - 1)
        at += set_text(to + at, size - at, "learners", &config->learners);
    if (config->learners_next.count > 0 && at < size - 1)
        set_text(to + at, size - at, "next", &config->learners_next);
}

void lite_blame(struct lite *lite)
{
    const struct check_raft *check = &lite->raft_check;
    const struct check_config *newest = &check->configs[check->config_count - 1];
    uint32_t leader = find_leader(lite);
    char text[256] = "", members[160];
    size_t at = 0;
    lite_config_text(&newest->config, members, sizeof(members));
    for (uint32_t id = 1; id <= lite->node_count && at < sizeof(text) - 32; id++) {
        const struct lite_node *node = lite->nodes[id];
        at += (size_t)snprintf(text + at, sizeof(text) - at, " n%u%s %" PRIu64, id,
                               !node->up              ? " down"
                               : lite->dead >> id & 1 ? " dead"
                                                      : "",
                               node->applied.index);
    }
    verdict_set(&lite->verdict, SIM_LIVENESS,
                "no progress %u election timeouts after healing: leader n%u, write %s, committed "
                "%" PRIu64 ", applied:%s; members at %" PRIu64 ":%s",
                LITE_HEAL_TIMEOUTS, leader, lite->probe_done ? "done" : "not done",
                check_raft_committed(&lite->raft_check), text, newest->index, members);
}
