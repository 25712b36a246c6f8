/* Disks of the consensus-only simulator: a log that is written in order and durable in order, an
 * image of the state machine, and what of both a crash leaves. */
#include "tests/sim/lite.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "tests/sim/memory.h"

#define INSTALL_NS_MAX      (300 * NS_PER_MS)
#define INSTALL_LAZY_NS_MAX (4 * NS_PER_S)

/* ---- the log -------------------------------------------------------------------------------- */

static void disk_reserve(struct lite_disk *disk, uint64_t index)
{
    if (index < disk->capacity)
        return;
    uint64_t capacity = disk->capacity == 0 ? 256 : disk->capacity;
    while (capacity <= index)
        capacity *= 2;
    disk->entries = sim_realloc(disk->entries, capacity * sizeof(*disk->entries));
    disk->capacity = capacity;
}

uint64_t lite_disk_term(const struct lite_disk *disk, uint64_t index)
{
    if (index == disk->compacted_index)
        return disk->compacted_term;
    invariant(index > disk->compacted_index && index <= disk->last_index);
    return disk->entries[index].term;
}

bool lite_disk_holds(const struct lite_disk *disk, uint64_t index, uint64_t term)
{
    if (index < disk->compacted_index)
        return true; /* contained in its image, which held only what was committed */
    return index <= disk->last_index && lite_disk_term(disk, index) == term;
}

static void disk_write_hard_state(struct lite_node *node, const struct hard_state *hard_state)
{
    struct lite_disk *disk = &node->disk;
    disk->hard_state = *hard_state;
    disk->hard_state.commit = u64_min(hard_state->commit, disk->last_index);
}

static void disk_install(struct lite_node *node, const struct lite_image *image)
{
    struct lite_disk *disk = &node->disk;
    disk->image = *image;
    disk->compacted_index = disk->last_index = image->index;
    disk->compacted_term = image->term;
    disk->lost_count = 0;
    disk->torn = 0;
    /* A commit index of the log that is gone says nothing. */
    disk->hard_state.commit = u64_max(disk->hard_state.commit, image->index);
    disk->hard_state.commit = u64_min(disk->hard_state.commit, disk->last_index);
}

/* `entry_count` of its entries reach the medium, all of them unless power fails. */
static void disk_write(struct lite_node *node, const struct lite_append *append,
                       uint32_t entry_count)
{
    struct lite_disk *disk = &node->disk;
    for (uint32_t i = 0; i < entry_count; i++) {
        uint64_t index = append->entries[i].index;
        if (index <= disk->compacted_index)
            continue;
        sim_check(index <= disk->last_index + 1, "node %u: a gap in the log before %" PRIu64,
                  node->id, index);
        disk_reserve(disk, index);
        disk->entries[index] = append->entries[i];
        disk->last_index = index;
        lite_rot_forget(disk, index, index);
    }
    lite_rot_forget(disk, disk->last_index + 1, UINT64_MAX);
    if (entry_count > 0)
        disk->torn = 0; /* a leader has what it builds on; votes prove nothing */
    disk_write_hard_state(node, &append->hard_state);
}

/* ---- the append lane ------------------------------------------------------------------------ */

static void append_make_durable(struct lite_append *append)
{
    struct lite_node *node = append->node;
    if (append->install != NULL)
        disk_install(node, append->install);
    disk_write(node, append, append->entry_count);
    append->durable = true;
    lite_trace(node->lite, node, SIM_KIND_RAFT_DURABLE, append->append.sequence,
               append->append.last_index);
    lite_text(node->lite, node, "durable #%" PRIu64 " up to %" PRIu64, append->append.sequence,
              append->append.last_index);
}

static void append_written(struct sim_event *event)
{
    struct lite_append *append = container_of(event, struct lite_append, event);
    struct lite_node *node = append->node;
    append->written = true;
    bool any = false;
    for (struct lite_append *at = node->appends; at != NULL && at->written; at = at->next) {
        if (!at->durable) {
            append_make_durable(at);
            any = true;
        }
    }
    if (any)
        lite_node_turn_by(node, node->lite->world.now_ns);
}

static struct lite_append *append_make(struct lite_node *node)
{
    struct lite *lite = node->lite;
    struct lite_append *append = lite->free_appends;
    if (append != NULL) {
        lite->free_appends = append->next;
        struct entry *entries = append->entries;
        uint32_t capacity = append->entry_capacity;
        memset(append, 0, sizeof(*append));
        append->entries = entries;
        append->entry_capacity = capacity;
    } else {
        append = sim_alloc(sizeof(*append));
    }
    append->node = node;
    sim_event_init(&append->event, append_written);
    lite_list_init(&append->after);
    return append;
}

void lite_append_free(struct lite *lite, struct lite_append *append)
{
    struct lite_item *item;
    sim_event_cancel(&lite->world, &append->event);
    while ((item = lite_list_pop(&append->after)) != NULL)
        lite_item_free(item);
    free(append->install);
    append->install = NULL;
    append->next = lite->free_appends;
    lite->free_appends = append;
}

static bool is_slow_always(const struct lite_node *node)
{
    return node->id == node->lite->config.slow_node && !node->lite->healed;
}

static uint64_t disk_delay_ns(struct lite_node *node)
{
    const struct lite_config *config = &node->lite->config;
    struct prng *prng = lite_prng(node->lite, DISK);
    uint64_t delay_ns = config->disk_ns + prng_below(prng, config->disk_jitter_ns + 1);
    if (node->slow_until_ns > node->lite->world.now_ns || is_slow_always(node))
        delay_ns = delay_ns * config->slow_factor + NS_PER_MS;
    if (prng_chance(prng, 1, 500))
        delay_ns += prng_below(prng, config->disk_tail_ns + 1);
    return delay_ns;
}

/* Writes are in flight together: a later one may be on the medium first. */
void lite_disk_append(struct lite_node *node, const struct raft_ready *ready)
{
    struct lite_append *append = append_make(node);
    uint64_t delay_ns = disk_delay_ns(node);
    append->append = ready->append;
    append->hard_state = ready->hard_state;
    if (ready->install != NULL) {
        invariant(node->incoming.index == ready->install->index);
        append->install = sim_alloc(sizeof(*append->install));
        *append->install = node->incoming;
        bool lazy = node->id == node->lite->config.lazy_node && !node->lite->healed;
        delay_ns += prng_below(lite_prng(node->lite, DISK), /* it is large */
                               lazy ? INSTALL_LAZY_NS_MAX : INSTALL_NS_MAX);
    }
    if (ready->append_first != 0) {
        append->entry_count = (uint32_t)(ready->append_last - ready->append_first + 1);
        if (append->entry_capacity < append->entry_count) {
            append->entry_capacity = append->entry_count + 16;
            append->entries =
                sim_realloc(append->entries, append->entry_capacity * sizeof(*append->entries));
        }
        for (uint32_t i = 0; i < append->entry_count; i++)
            append->entries[i] = *raft_entry(&node->raft, ready->append_first + i);
    }
    bool replaces = ready->append_first != 0 && ready->append_first <= node->disk.last_index;
    struct prng *faults = lite_prng(node->lite, FAULTS);
    const struct lite_config *config = &node->lite->config;
    uint64_t doom_per_mille = replaces ? 10 * config->doom_percent : 0;
    if (append->entry_count > 0 && lite_rot_allowed(node))
        doom_per_mille = u64_max(doom_per_mille, config->tear_per_mille);
    if (doom_per_mille > 0 && prng_chance(faults, doom_per_mille, 1000))
        sim_event_schedule(&node->lite->world, &node->doom,
                           node->lite->world.now_ns + prng_below(faults, delay_ns + 1));
    append->next = NULL;
    *node->appends_last_next = append;
    node->appends_last_next = &append->next;
    sim_event_schedule(&node->lite->world, &append->event, node->lite->world.now_ns + delay_ns);
}

struct lite_append *lite_disk_pop(struct lite_node *node)
{
    struct lite_append *append = node->appends;
    if (append == NULL || !append->durable)
        return NULL;
    node->appends = append->next;
    if (node->appends == NULL)
        node->appends_last_next = &node->appends;
    return append;
}

/* ---- crash and restart ---------------------------------------------------------------------- */

/* A write that landed in parts: what it was can be told, the bytes of its last entries cannot. */
static void disk_tear(struct lite_node *node, const struct lite_append *append)
{
    struct lite_disk *disk = &node->disk;
    struct prng *prng = lite_prng(node->lite, DISK);
    uint64_t torn = disk->torn;
    uint32_t good = (uint32_t)prng_below(prng, append->entry_count);
    disk_write(node, append, append->entry_count);
    for (uint32_t i = good; i < append->entry_count; i++)
        lite_rot_lose(node, append->entries[i].index);
    uint64_t first = append->entries[good].index;
    disk->torn = torn == 0 ? first : u64_min(torn, first);
    lite_text(node->lite, node, "* a write is torn from %" PRIu64 " on", first);
}

static bool may_tear(const struct lite_node *node, const struct lite_append *append)
{
    return lite_rot_allowed(node) && append->install == NULL && append->entry_count > 0 &&
           node->disk.lost_count + append->entry_count <= LITE_LOST_MAX &&
           append->entries[0].index > node->disk.image.index;
}

/* Of the writes in flight a prefix survives; the next one may survive in part: its hard state with
 * some of its entries, or of an installation the snapshot without what followed, or torn. */
void lite_disk_crash(struct lite_node *node)
{
    struct prng *prng = lite_prng(node->lite, DISK);
    struct lite_append *append;
    bool keeps = true;
    while ((append = node->appends) != NULL) {
        node->appends = append->next;
        if (!append->durable && keeps) {
            uint64_t fate = prng_below(prng, 4);
            keeps = fate == 0;
            if (keeps) {
                append_make_durable(append);
            } else if (fate == 1 && append->install != NULL) {
                disk_install(node, append->install);
            } else if (fate == 1 && append->entry_count > 0) {
                disk_write(node, append, (uint32_t)prng_below(prng, append->entry_count + 1));
            } else if (fate == 2 && may_tear(node, append)) {
                disk_tear(node, append);
            }
        }
        lite_append_free(node->lite, append);
    }
    node->appends_last_next = &node->appends;
}

void lite_disk_start(const struct lite_node *node, struct raft_start *start)
{
    const struct lite_disk *disk = &node->disk;
    *start = (struct raft_start){
        .hard_state = disk->hard_state,
        .compacted_index = disk->compacted_index,
        .compacted_term = disk->compacted_term,
        .last_index = disk->last_index,
        .last_term = lite_disk_term(disk, disk->last_index),
        .applied_index = disk->image.index,
        .config = disk->image.config,
    };
    /* The snapshot is there, the hard state that came with it is not: this node never voted in
     * that term, or its hard state would tell. */
    if (start->last_term > start->hard_state.term)
        start->hard_state =
            (struct hard_state){.term = start->last_term, .commit = start->hard_state.commit};
}

/* The image becomes what is applied; the log lets go of what it covers, but for some. */
void lite_disk_flush(struct lite_node *node)
{
    struct lite_disk *disk = &node->disk;
    if (node->applied.index <= disk->image.index)
        return;
    disk->image = node->applied;
    uint64_t retain =
        prng_below(lite_prng(node->lite, DISK), node->lite->config.retain_entries + 1);
    uint64_t to = disk->image.index - u64_min(disk->image.index, retain);
    if (to <= disk->compacted_index || to > disk->last_index)
        return;
    raft_compact(&node->raft, to);
    disk->compacted_term = lite_disk_term(disk, to);
    disk->compacted_index = to;
    lite_text(node->lite, node, "image at %" PRIu64 ", log begins after %" PRIu64,
              disk->image.index, to);
}

void lite_disk_free(struct lite_disk *disk)
{
    free(disk->entries);
    disk->entries = NULL;
}

/* ---- what the core asks --------------------------------------------------------------------- */

static int storage_lookup(void *context, uint64_t index, struct entry *entry)
{
    const struct lite_node *node = context;
    if (index <= node->disk.compacted_index)
        return ERR_COMPACTED;
    if (index > node->disk.last_index)
        return ERR_UNAVAILABLE;
    *entry = node->disk.entries[index];
    invariant(entry->index == index);
    if (lite_rot_is_lost(&node->disk, index)) { /* what it was is not known */
        entry->type = ENTRY_NORMAL;
        entry->payload_bytes = 0;
    }
    return 0;
}

static int storage_snapshot(void *context, uint64_t peer, struct raft_snapshot *snapshot)
{
    struct lite_node *node = context;
    const struct lite_image *image = &node->disk.image;
    struct raft_id_set members = raft_config_members(&image->config);
    if (image->index == 0 || image->index < node->raft.log.compacted_index)
        return ERR_UNAVAILABLE;
    if (!raft_id_set_has(&members, peer)) { /* older than its joining: it would refuse it */
        node->flush_wanted = true;
        return ERR_UNAVAILABLE;
    }
    if (node->lite->config.snapshot_hesitates && !node->lite->healed &&
        prng_chance(lite_prng(node->lite, DISK), 1, 2))
        return ERR_UNAVAILABLE;
    *snapshot =
        (struct raft_snapshot){.index = image->index, .term = image->term, .config = image->config};
    return 0;
}

static void storage_release(void *context, const struct entry *entry)
{
    struct lite_node *node = context;
    if (entry->payload_bytes == 0)
        return;
    sim_check(node->held > 0, "node %u gives back a payload that it does not hold", node->id);
    node->held--;
}

struct raft_storage lite_disk_storage(struct lite_node *node)
{
    return (struct raft_storage){.context = node,
                                 .lookup = storage_lookup,
                                 .snapshot = storage_snapshot,
                                 .release = storage_release};
}
