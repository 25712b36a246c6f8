/* Messages between nodes of the consensus-only simulator: lost, doubled, late, in any order. */
#include "tests/sim/lite.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "tests/sim/memory.h"

#define SNAPSHOT_DELAYS 8 /* how much longer than a message a snapshot takes */

/* ---- items ---------------------------------------------------------------------------------- */

void lite_list_init(struct lite_list *list)
{
    list->first = NULL;
    list->last_next = &list->first;
    list->count = 0;
}

void lite_list_push(struct lite_list *list, struct lite_item *item)
{
    item->next = NULL;
    *list->last_next = item;
    list->last_next = &item->next;
    list->count++;
}

struct lite_item *lite_list_pop(struct lite_list *list)
{
    struct lite_item *item = list->first;
    if (item == NULL)
        return NULL;
    list->first = item->next;
    if (list->first == NULL)
        list->last_next = &list->first;
    list->count--;
    return item;
}

static void item_arrive(struct sim_event *event)
{
    struct lite_item *item = container_of(event, struct lite_item, event);
    struct lite *lite = item->lite;
    if (item->kind == LITE_ITEM_REPLY) {
        lite_client_reply(item);
        return;
    }
    struct lite_node *node = lite->nodes[item->to];
    bool lost = node == NULL || !node->up;
    if (item->kind == LITE_ITEM_MESSAGE && lite->paths[item->from][item->to].cut)
        lost = true;
    if (lost)
        lite_item_free(item);
    else
        lite_node_push(node, item);
}

struct lite_item *lite_item_make(struct lite *lite, enum lite_item_kind kind, uint32_t from,
                                 uint32_t to)
{
    struct lite_item *item = lite->free_items;
    if (item != NULL) {
        lite->free_items = item->next;
        struct entry *entries = item->entries;
        uint32_t capacity = item->entry_capacity;
        memset(item, 0, sizeof(*item));
        item->entries = entries;
        item->entry_capacity = capacity;
    } else {
        item = sim_alloc(sizeof(*item));
    }
    sim_event_init(&item->event, item_arrive);
    item->lite = lite;
    item->kind = kind;
    item->from = from;
    item->to = to;
    if (from != 0)
        item->incarnation = lite->nodes[from]->incarnation;
    lite->items_alive++;
    return item;
}

/* A sender is told once what became of its snapshot, unless it died meanwhile. */
static void report_snapshot(const struct lite_item *item)
{
    struct lite *lite = item->lite;
    struct lite_node *sender = lite->nodes[item->from];
    if (!sender->up || sender->incarnation != item->incarnation)
        return;
    struct lite_item *report =
        lite_item_make(lite, LITE_ITEM_SNAPSHOT_REPORT, item->to, item->from);
    report->ok = item->ok;
    lite_item_schedule(report, lite_spread(lite_prng(lite, NETWORK), lite->config.delay_ns));
}

void lite_item_free(struct lite_item *item)
{
    struct lite *lite = item->lite;
    invariant(lite->items_alive > 0 && item->event.slot == SIM_EVENT_IDLE);
    if (item->report)
        report_snapshot(item);
    free(item->image);
    item->image = NULL;
    lite->items_alive--;
    item->next = lite->free_items;
    lite->free_items = item;
}

void lite_item_schedule(struct lite_item *item, uint64_t delay_ns)
{
    sim_event_schedule(&item->lite->world, &item->event, item->lite->world.now_ns + delay_ns);
}

/* ---- messages ------------------------------------------------------------------------------- */

static struct entry *item_entries(struct lite_item *item, uint32_t count)
{
    if (item->entry_capacity < count) {
        item->entry_capacity = count + 16;
        item->entries = sim_realloc(item->entries, item->entry_capacity * sizeof(*item->entries));
    }
    return item->entries;
}

struct lite_item *lite_message_make(struct lite_node *node, const struct raft_message *message)
{
    struct lite_item *item =
        lite_item_make(node->lite, LITE_ITEM_MESSAGE, node->id, (uint32_t)message->to);
    item->message = *message;
    item->message.entries = NULL;
    item->message.snapshot = NULL;
    if (message->snapshot != NULL) {
        invariant(message->snapshot->index == node->disk.image.index);
        item->image = sim_alloc(sizeof(*item->image));
        *item->image = node->disk.image;
        item->report = true;
    }
    struct entry *entries = item_entries(item, message->entry_count);
    for (uint32_t i = 0; i < message->entry_count; i++) {
        uint64_t index = message->index + 1 + i;
        const struct entry *held = raft_entry(&node->raft, index);
        if (held == NULL) { /* durable here, so a server would read its log */
            invariant(index > node->disk.compacted_index && index <= node->disk.last_index);
            sim_check(!lite_rot_is_lost(&node->disk, index),
                      "node %u sends %" PRIu64 ", which it lost", node->id, index);
            held = &node->disk.entries[index];
        }
        entries[i] = *held;
        invariant(entries[i].index == index);
    }
    return item;
}

static void item_copy_message(const struct lite_item *from, struct lite_item *to)
{
    to->message = from->message;
    to->incarnation = from->incarnation;
    if (from->message.entry_count > 0)
        memcpy(item_entries(to, from->message.entry_count), from->entries,
               from->message.entry_count * sizeof(*from->entries));
    if (from->image != NULL) {
        to->image = sim_alloc(sizeof(*to->image));
        *to->image = *from->image;
    }
}

static void path_schedule(struct lite_item *item)
{
    struct lite *lite = item->lite;
    const struct lite_config *config = &lite->config;
    struct lite_path *path = &lite->paths[item->from][item->to];
    struct prng *prng = lite_prng(lite, NETWORK);
    uint64_t delay_ns = config->delay_ns + prng_below(prng, config->jitter_ns + 1);
    if (item->image != NULL)
        delay_ns += SNAPSHOT_DELAYS * prng_below(prng, 4 * config->delay_ns + 1);
    if (prng_chance(prng, 1, 1000))
        delay_ns += prng_below(prng, config->tail_ns + 1);
    uint64_t at_ns = u64_max(lite->world.now_ns, path->clogged_until_ns) + delay_ns;
    if (config->fifo) {
        at_ns = u64_max(at_ns, path->last_arrival_ns);
        path->last_arrival_ns = at_ns;
    }
    sim_event_schedule(&lite->world, &item->event, at_ns);
}

void lite_message_send(struct lite *lite, struct lite_item *item)
{
    struct lite_node *from = lite->nodes[item->from];
    const struct raft_message *message = &item->message;
    check_raft_send(&lite->raft_check, message, &from->disk.hard_state,
                    lite->config.raft.early_vote);
    lite_trace(lite, from, SIM_KIND_RAFT_SEND, (uint64_t)message->kind << 32 | item->to,
               message->term << 32 ^ message->index);
    struct prng *prng = lite_prng(lite, NETWORK);
    bool dropped = prng_chance(prng, lite->config.drop_per_mille, 1000);
    if (dropped || lite->paths[item->from][item->to].cut || lite->nodes[item->to] == NULL) {
        lite_text(lite, from, "x n%u %s dropped", item->to, raft_message_kind_name(message->kind));
        lite_item_free(item);
        return;
    }
    lite_text(
        lite, from, "> n%u %s t%" PRIu64 " index=%" PRIu64 "/%" PRIu64 " +%u commit=%" PRIu64 "%s",
        item->to, raft_message_kind_name(message->kind), message->term, message->log_term,
        message->index, message->entry_count, message->commit, message->reject ? " reject" : "");
    if (prng_chance(prng, lite->config.double_per_mille, 1000)) {
        struct lite_item *copy = lite_item_make(lite, item->kind, item->from, item->to);
        item_copy_message(item, copy);
        path_schedule(copy);
    }
    path_schedule(item);
}
