#include "tests/sim/whole_raft.h"

#include <inttypes.h>
#include <xxhash.h>

#include "core/invariant.h"
#include "server/node_private.h"
#include "storage/mvcc/rows.h"
#include "tests/sim/memory.h"
#include "tests/sim/observe.h"
#include "tests/sim/whole.h"

static struct whole *observed; /* whose nodes run now */

/* The node whose turn it is. What is allocated until leave() belongs to the world. */
static struct whole_node *enter(void)
{
    const struct sim_node *machine = observed->world.current->node;
    sim_heap_enter(NULL);
    for (uint32_t i = 0; i < observed->node_count; i++)
        if (&observed->nodes[i].sim == machine)
            return &observed->nodes[i];
    invariant(!"a consensus core outside the nodes");
    return NULL;
}

static void leave(const struct whole_node *node)
{
    sim_heap_enter(node->sim.heap);
}

static struct whole_node *node_of(const struct whole *whole, uint64_t member)
{
    for (uint32_t i = 0; i < whole->node_count; i++)
        if (whole->nodes[i].member == member)
            return (struct whole_node *)&whole->nodes[i];
    return NULL;
}

static bool on_medium(void *context, uint64_t member, uint64_t index, uint64_t term)
{
    struct whole_node *node = node_of(context, member);
    return node != NULL && whole_media_has(&node->media, index, term);
}

/* ---- consensus ------------------------------------------------------------------------------ */

static void on_log_opened(struct wal *wal)
{
    struct whole_node *node = enter();
    whole_media_opened(&node->media, wal);
    leave(node);
}

static void on_log_closes(void)
{
    struct whole_node *node = enter();
    whole_media_closed(&node->media);
    leave(node);
}

static const struct raft_storage *starting_storage;

static uint64_t start_term(void *context, uint64_t member, uint64_t index)
{
    struct entry entry;
    (void)context, (void)member;
    int error = starting_storage->lookup(starting_storage->context, index, &entry);
    invariant(error == 0);
    return entry.term;
}

static void on_raft_starts(const struct raft_options *options, const struct raft_start *start,
                           const struct raft_storage *storage)
{
    struct whole_node *node = enter();
    struct whole *whole = node->whole;
    node->member = options->id;
    whole_media_recovered(&node->media, start, storage);
    if (whole->raft_check.configs == NULL)
        check_raft_genesis(&whole->raft_check, 0, 0, &start->config);
    starting_storage = storage;
    check_raft_restart(&whole->raft_check, node->member, start, start_term);
    node->executed = start->applied_index;
    node->state_hash = 0;
    if (start->applied_index > 0 &&
        !check_raft_state_at(&whole->raft_check, start->applied_index, &node->state_hash))
        verdict_set(&whole->verdict, SIM_SAFETY,
                    "state machine: node %u starts with tables up to %" PRIu64
                    ", where no batch of any node ended",
                    node->sim.id, start->applied_index);
    whole_text(whole, node->sim.id,
               "! member %" PRIx64 " starts: term %" PRIu64 " vote %" PRIx64 " commit %" PRIu64
               ", log (%" PRIu64 ", %" PRIu64 "], applied %" PRIu64,
               node->member, start->hard_state.term, start->hard_state.vote,
               start->hard_state.commit, start->compacted_index, start->last_index,
               start->applied_index);
    leave(node);
}

static void on_raft_called(const struct raft *raft)
{
    struct whole_node *node = enter();
    struct whole *whole = node->whole;
    const struct check_node *known = check_raft_node(&whole->raft_check, node->member);
    bool news = !known->seen || known->role != raft->role || known->term != raft->term;
    if (news) {
        whole->leaderships += raft->role == RAFT_ROLE_LEADER;
        whole_text(whole, node->sim.id, "! %s of term %" PRIu64 ", log up to %" PRIu64,
                   raft_role_name(raft->role), raft->term, raft->log.last_index);
    }
    check_raft_observe(&whole->raft_check, raft);
    leave(node);
}

static void on_raft_sends(const struct raft_message *message)
{
    struct whole_node *node = enter();
    check_raft_send(&node->whole->raft_check, message, whole_media_hard_state(&node->media), false);
    leave(node);
}

static void on_change_applied(const struct raft *raft, uint64_t index)
{
    struct whole_node *node = enter();
    check_raft_config(&node->whole->raft_check, node->member, index, &raft->config);
    whole_text(node->whole, node->sim.id, "members at %" PRIu64 ": %u voters, %u learners", index,
               raft->config.voters.count, raft->config.learners.count);
    leave(node);
}

/* ---- the state machine ---------------------------------------------------------------------- */

/* Entries without anything to execute are passed over; others may not be. */
static void pass_empty(struct whole_node *node, uint64_t before)
{
    struct check_raft *check = &node->whole->raft_check;
    while (node->executed + 1 < before && node->executed < check_raft_committed(check)) {
        node->executed++;
        if (!check_raft_entry(check, node->executed)->is_empty)
            verdict_set(&node->whole->verdict, SIM_SAFETY,
                        "state machine: node %u does not execute %" PRIu64, node->sim.id,
                        node->executed);
    }
}

static void on_executes(const struct entry *entry)
{
    struct whole_node *node = enter();
    pass_empty(node, entry->index);
    check_raft_apply(&node->whole->raft_check, node->member, node->executed, entry);
    whole_store_execute(node->whole, entry);
    node->executed = entry->index;
    leave(node);
}

/* Not the meta table: once a batch, so it differs where batches do. */
static void on_row(struct bytes key, struct lsm_version version, enum lsm_kind kind,
                   struct bytes value)
{
    struct whole_node *node = enter();
    if (key.data[0] != MVCC_TABLE_META) {
        uint64_t seed = version.main << 8 ^ version.sub << 1 ^ (uint64_t)kind;
        uint64_t hash = XXH3_64bits_withSeed(key.data, key.size, seed ^ node->state_hash);
        node->state_hash = XXH3_64bits_withSeed(value.data, value.size, hash);
    }
    leave(node);
}

static void on_committed(const struct mvcc *mvcc, uint64_t index)
{
    struct whole_node *node = enter();
    struct whole *whole = node->whole;
    pass_empty(node, index + 1);
    if (node->executed != index)
        verdict_set(&whole->verdict, SIM_SAFETY,
                    "state machine: node %u ends a batch at %" PRIu64 ", executed is %" PRIu64,
                    node->sim.id, index, node->executed);
    uint64_t revision = (uint64_t)mvcc_revision(mvcc), wanted = whole_store_revision(whole, index);
    if (revision != wanted)
        verdict_set(&whole->verdict, SIM_SAFETY,
                    "store: node %u is at revision %" PRIu64 " after entry %" PRIu64
                    ", expected %" PRIu64,
                    node->sim.id, revision, index, wanted);
    check_raft_state(&whole->raft_check, node->member, index, node->state_hash);
    leave(node);
}

/* ---- life ----------------------------------------------------------------------------------- */

static const struct sim_observer observer = {
    .log_opened = on_log_opened,
    .log_closes = on_log_closes,
    .raft_starts = on_raft_starts,
    .raft_called = on_raft_called,
    .raft_sends = on_raft_sends,
    .change_applied = on_change_applied,
    .executes = on_executes,
    .committed = on_committed,
    .row = on_row,
};

void whole_raft_start(struct whole *whole)
{
    check_raft_init(&whole->raft_check, &whole->verdict, on_medium, whole);
    observed = whole;
    sim_observer = &observer;
}

void whole_raft_node_down(struct whole_node *node)
{
    whole_media_closed(&node->media);
}

void whole_raft_end(struct whole *whole)
{
    sim_observer = NULL;
    check_raft_deinit(&whole->raft_check);
}
