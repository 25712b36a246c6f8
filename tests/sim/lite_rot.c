/* Rot in the consensus-only simulation: log entries that a node misses when it starts, where it
 * gets them from, and when it gives them up. It asks as server/repair.c does, one member at a time,
 * only that an answer is there at once when both paths are open. */
#include "tests/sim/lite.h"

#include <inttypes.h>

#include "core/invariant.h"

#define LOST_MOST      4 /* at one start */
#define REPAIR_WAIT_NS (20 * NS_PER_MS)
#define SILENCES       2 /* so often, about, who cannot tell is asked */

bool lite_rot_is_lost(const struct lite_disk *disk, uint64_t index)
{
    for (uint32_t i = 0; i < disk->lost_count; i++)
        if (disk->lost[i] == index)
            return true;
    return false;
}

void lite_rot_forget(struct lite_disk *disk, uint64_t first, uint64_t last)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < disk->lost_count; i++)
        if (disk->lost[i] < first || disk->lost[i] > last)
            disk->lost[kept++] = disk->lost[i];
    disk->lost_count = kept;
}

void lite_rot_lose(struct lite_node *node, uint64_t index)
{
    struct lite_disk *disk = &node->disk;
    invariant(disk->lost_count < ARRAY_COUNT(disk->lost));
    disk->lost[disk->lost_count++] = index;
    lite_trace(node->lite, node, SIM_KIND_FAULT, LITE_HARM_ROT, index);
    lite_text(node->lite, node, "* entry %" PRIu64 " is lost", index);
}

/* May it never have been written, so that nobody counted on it? */
static bool is_unsure(const struct lite_disk *disk, uint64_t index)
{
    return disk->torn != 0 && index >= disk->torn;
}

/* The lowest lost entry above `above`; 0: none. */
static uint64_t lost_after(const struct lite_disk *disk, uint64_t above)
{
    uint64_t first = 0;
    for (uint32_t i = 0; i < disk->lost_count; i++)
        if (disk->lost[i] > above && (first == 0 || disk->lost[i] < first))
            first = disk->lost[i];
    return first;
}

/* Of those that no leader has replaced yet: what the disk still holds may be on its way out. */
static uint64_t first_lost(const struct lite_node *node)
{
    const struct raft_log *log = &node->raft.log;
    uint64_t index = log->applying_index, term = 0;
    while ((index = lost_after(&node->disk, index)) != 0)
        if (index <= log->durable_index && raft_log_term(log, index, &term) == 0 &&
            term == lite_disk_term(&node->disk, index))
            return index;
    return 0;
}

/* A lone voter has nobody to ask; a server refuses to start as one. */
bool lite_rot_allowed(const struct lite_node *node)
{
    return node->lite->config.rot_percent > 0 && !node->lite->healed &&
           node->disk.image.config.voters.count > 1;
}

uint64_t lite_rot_boot(struct lite_node *node)
{
    struct lite_disk *disk = &node->disk;
    struct prng *prng = lite_prng(node->lite, FAULTS);
    lite_rot_forget(disk, 0, disk->image.index);
    node->burn = node->denied = node->lost_by = 0;
    bool rots = lite_rot_allowed(node) && disk->last_index > disk->image.index &&
                prng_chance(prng, node->lite->config.rot_percent, 100);
    for (uint64_t left = rots ? 1 + prng_below(prng, LOST_MOST) : 0; left > 0; left--) {
        /* The newest are those that not every other node has as well. */
        uint64_t above = disk->last_index - disk->image.index;
        uint64_t range = prng_chance(prng, 1, 2) ? above : u64_min(above, 3);
        uint64_t index = disk->last_index - prng_below(prng, range);
        if (!lite_rot_is_lost(disk, index) && disk->lost_count < ARRAY_COUNT(disk->lost))
            lite_rot_lose(node, index);
    }
    return lost_after(disk, disk->image.index);
}

static void publish(struct lite_node *node)
{
    uint64_t index = first_lost(node);
    if (index == node->raft.log.faulty_index)
        return;
    raft_set_faulty(&node->raft, index);
    lite_text(node->lite, node, "lost now: %" PRIu64, index);
    lite_observe(node);
}

void lite_rot_started(struct lite_node *node)
{
    if (node->disk.lost_count > 0)
        publish(node);
}

/* Nothing from a lost entry on may be acknowledged. */
void lite_rot_sent(const struct lite_node *node, const struct raft_message *message)
{
    if (node->disk.lost_count == 0 || message->kind != RAFT_MESSAGE_APPEND_RESPONSE ||
        message->reject)
        return;
    uint64_t lost = first_lost(node);
    sim_check(lost == 0 || message->index < lost,
              "node %u acknowledges %" PRIu64 ", it has lost %" PRIu64, node->id, message->index,
              lost);
}

/* ---- asking --------------------------------------------------------------------------------- */

enum answer { ANSWER_LATER, ANSWER_COPY, ANSWER_NEVER, ANSWER_LOST, ANSWER_UNSURE };

static enum answer ask(struct lite_node *node, uint32_t id, uint64_t index, uint64_t term)
{
    struct lite *lite = node->lite;
    struct lite_node *other = lite->nodes[id];
    if (!other->up || other->paused_until_ns > lite->world.now_ns ||
        lite->paths[node->id][id].cut || lite->paths[id][node->id].cut)
        return ANSWER_LATER;
    struct raft *raft = &other->raft;
    uint64_t own_term = 0;
    if (index <= raft->log.compacted_index)
        return ANSWER_LATER;
    if (index <= raft->log.last_index && raft_log_term(&raft->log, index, &own_term) != 0)
        return ANSWER_LATER;
    bool lost = index <= raft->log.durable_index && lite_rot_is_lost(&other->disk, index);
    if (own_term == term && !lost)
        return ANSWER_COPY;
    if (raft->leader != 0)
        return ANSWER_LATER;
    if (node->burn != 0 && !raft_term_is_burnt(raft, node->burn, node->id)) {
        if (raft_burn_term(raft, node->burn, node->id)) {
            lite_text(lite, other, "burns term %" PRIu64 " for n%u", node->burn, node->id);
            lite_observe(other);
            lite_node_turn_by(other, lite->world.now_ns);
        }
        return ANSWER_LATER;
    }
    if (own_term != term)
        return ANSWER_NEVER;
    return is_unsure(&other->disk, index) ? ANSWER_UNSURE : ANSWER_LOST;
}

static void found(struct lite_node *node, uint64_t index)
{
    sometimes(!node->lite->healed, "lite: a lost entry is found at another member");
    lite_rot_forget(&node->disk, index, index);
    node->disk.torn = 0; /* entries are written behind the others */
    node->burn = node->denied = node->lost_by = 0;
    publish(node);
}

static bool may_be_majority(const struct lite_node *node, const struct raft_id_set *ids,
                            uint64_t index)
{
    uint32_t holders = 0;
    for (uint32_t i = 0; i < ids->count; i++)
        holders += ids->ids[i] == node->id ? !is_unsure(&node->disk, index)
                                           : (node->lost_by >> ids->ids[i] & 1) != 0;
    return ids->count > 0 && 2 * holders >= ids->count; /* as faults_dispensable() */
}

static bool may_be_dropped(const struct lite_node *node, uint64_t index)
{
    const struct raft *raft = &node->raft;
    for (uint64_t at = raft->log.applied_index + 1; at < index; at++)
        if (node->disk.entries[at].type == ENTRY_CONFIG_CHANGE)
            return false;
    return raft->leader == 0 && raft->role == RAFT_ROLE_FOLLOWER &&
           index > raft->log.committed_index &&
           !may_be_majority(node, &raft->config.voters, index) &&
           !may_be_majority(node, &raft->config.outgoing, index);
}

/* Every other member said no: first that they have it not, then that they never will. */
static void round_ended(struct lite_node *node, uint64_t index)
{
    struct raft *raft = &node->raft;
    bool dispensable = may_be_dropped(node, index);
    if (node->lite->healed) { /* nobody waits for those who failed for good */
        found(node, index);
        return;
    }
    node->denied = 0;
    if (dispensable && node->burn != 0 && raft_term_is_burnt(raft, node->burn, node->id)) {
        sometimes(true, "lite: an entry that no member has is given up");
        sometimes(is_unsure(&node->disk, index) && node->lost_by != 0,
                  "lite: a torn entry is given up that a silent member may have had");
        lite_text(node->lite, node, "gives up %" PRIu64 " and what follows", index);
        raft_drop_tail(raft, index);
        invariant(node->appends == NULL);
        node->disk.last_index = index - 1;
        lite_rot_forget(&node->disk, index, UINT64_MAX);
        node->disk.torn = 0;
        node->burn = 0;
        publish(node);
    } else {
        uint64_t term = raft->term;
        for (uint32_t id = 1; id <= node->lite->node_count; id++)
            if (node->lite->nodes[id]->up)
                term = u64_max(term, node->lite->nodes[id]->raft.term);
        node->burn = dispensable && raft_burn_term(raft, term + 1, node->id) ? term + 1 : 0;
    }
    node->lost_by = 0;
    lite_observe(node);
}

/* One question to one member, after a turn. */
void lite_rot_turn(struct lite_node *node)
{
    struct lite *lite = node->lite;
    if (node->disk.lost_count == 0)
        return;
    publish(node);
    uint64_t index = first_lost(node), term = 0;
    if (index == 0)
        return;
    lite_node_turn_by(node, lite->world.now_ns +
                                prng_below(lite_prng(lite, FAULTS), 2 * REPAIR_WAIT_NS) + 1);
    if (!prng_chance(lite_prng(lite, FAULTS), 1, 4))
        return;
    int error = raft_log_term(&node->raft.log, index, &term);
    invariant(error == 0);
    if (node->burn != 0 && node->raft.term != node->burn)
        node->burn = node->denied = node->lost_by = 0; /* others moved on: that is void */
    struct raft_id_set members = raft_config_members(&node->raft.config);
    uint32_t to = 0;
    for (uint32_t i = 0; i < members.count; i++)
        if (members.ids[i] != node->id && (node->denied >> members.ids[i] & 1) == 0)
            to = to == 0 || prng_chance(lite_prng(lite, FAULTS), 1, 2) ? (uint32_t)members.ids[i]
                                                                       : to;
    if (to == 0) {
        if (members.count > 1 || lite->healed)
            round_ended(node, index);
        return;
    }
    enum answer answer = ask(node, to, index, term);
    lite_text(lite, node, "asks n%u for %" PRIu64 ": %s", to, index,
              (const char *[]){"later", "copied", "never had it", "lost it too", "unsure"}[answer]);
    bool silent = answer == ANSWER_LATER && prng_chance(lite_prng(lite, FAULTS), 1, SILENCES);
    if (answer == ANSWER_COPY)
        found(node, index);
    else if (answer == ANSWER_LATER && lite->healed)
        found(node, index); /* whoever has it may have failed for good: it can be read again */
    else if (answer != ANSWER_LATER || silent)
        node->denied |= UINT64_C(1) << to;
    if (answer == ANSWER_LOST || silent) /* who says nothing counts as one that had it */
        node->lost_by |= UINT64_C(1) << to;
}
