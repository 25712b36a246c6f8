/* Clients of the consensus-only simulator, and how a node serves them. */
#include "tests/sim/lite.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "tests/sim/memory.h"

#define OPERATIONS_MAX 50000 /* a busy seed ends all the same */

/* ---- a node's side -------------------------------------------------------------------------- */

static void reply(struct lite_node *node, uint64_t operation, bool ok, uint64_t revision,
                  uint64_t value)
{
    struct lite *lite = node->lite;
    struct lite_item *item = lite_item_make(lite, LITE_ITEM_REPLY, node->id, 0);
    item->operation = operation;
    item->ok = ok;
    item->revision = revision;
    item->value = value;
    lite_item_schedule(item, lite_spread(lite_prng(lite, NETWORK), lite->config.delay_ns));
}

static struct lite_waiting *waiting_push(struct lite_node *node)
{
    if (node->waiting_count == node->waiting_capacity) {
        node->waiting_capacity = node->waiting_capacity * 2 + 8;
        node->waiting = sim_realloc(node->waiting, node->waiting_capacity * sizeof(*node->waiting));
    }
    return &node->waiting[node->waiting_count++];
}

static void waiting_remove(struct lite_node *node, uint32_t at)
{
    node->waiting[at] = node->waiting[--node->waiting_count];
}

/* Asks consensus where a read is linearizable. False: there is nobody to ask. */
static bool read_ask(struct lite_node *node, struct lite_waiting *waiting)
{
    waiting->read_id = ++node->read_id;
    waiting->known = false;
    waiting->asked_commit = check_raft_committed(&node->lite->raft_check);
    waiting->asked_ns = node->lite->world.now_ns;
    return raft_read_index(&node->raft, waiting->read_id) == 0;
}

static void serve_read(struct lite_node *node, struct lite_item *item)
{
    struct lite_waiting waiting = {
        .operation = item->operation, .read = true, .key = (uint32_t)item->value};
    if (!read_ask(node, &waiting)) {
        reply(node, item->operation, false, 0, 0);
        return;
    }
    *waiting_push(node) = waiting;
}

static struct entry entry_of(struct lite *lite, uint64_t operation, uint64_t key)
{
    uint8_t bytes[48] = {0};
    le64_store(bytes, operation);
    le64_store(bytes + 8, key);
    uint32_t size = 16 + (uint32_t)(operation % 32);
    return (struct entry){
        .type = ENTRY_NORMAL, .payload = lite_payload(lite, bytes, size), .payload_bytes = size};
}

static void serve_write(struct lite_node *node, struct lite_item *item)
{
    struct lite *lite = node->lite;
    struct entry entries[4];
    uint32_t count = 1, own = 0;
    struct prng *prng = lite_prng(lite, WORKLOAD);
    if (prng_chance(prng, lite->config.empty_per_mille, 1000)) { /* in one batch with empty ones */
        count = 1 + (uint32_t)prng_below(prng, ARRAY_COUNT(entries));
        own = (uint32_t)prng_below(prng, count);
    }
    for (uint32_t i = 0; i < count; i++)
        entries[i] = (struct entry){.type = ENTRY_NORMAL};
    entries[own] = entry_of(lite, item->operation, item->value);
    uint64_t first = 0;
    int error = raft_propose(&node->raft, entries, count, &first);
    lite_text(lite, node, "write %" PRIu64 " %s at %" PRIu64, item->operation,
              error == 0 ? "proposed" : err_name(error), first + own);
    if (error != 0) {
        reply(node, item->operation, false, 0, 0);
        return;
    }
    node->held++; /* only its own has a payload */
    *waiting_push(node) = (struct lite_waiting){
        .operation = item->operation, .index = first + own, .term = node->raft.term};
}

void lite_serve_request(struct lite_node *node, struct lite_item *item)
{
    if (item->ok)
        serve_write(node, item);
    else
        serve_read(node, item);
}

void lite_serve_applied(struct lite_node *node, const struct entry *entry)
{
    for (uint32_t i = 0; i < node->waiting_count; i++) {
        struct lite_waiting *waiting = &node->waiting[i];
        if (waiting->read || waiting->index > entry->index)
            continue;
        if (waiting->index == entry->index) /* another term: its entry was replaced, for ever */
            reply(node, waiting->operation, waiting->term == entry->term,
                  node->applied.state.revision, 0);
        waiting_remove(node, i--);
    }
}

void lite_serve_read_index(struct lite_node *node, const struct raft_read *read)
{
    for (uint32_t i = 0; i < node->waiting_count; i++) {
        struct lite_waiting *waiting = &node->waiting[i];
        if (!waiting->read || waiting->known || waiting->read_id != read->id)
            continue;
        waiting->known = true;
        waiting->index = read->index;
        check_raft_read(&node->lite->raft_check, node->id, waiting->asked_commit, read->index);
    }
}

void lite_serve_reads(struct lite_node *node)
{
    const struct lite *lite = node->lite;
    for (uint32_t i = 0; i < node->waiting_count; i++) {
        const struct lite_waiting *waiting = &node->waiting[i];
        if (!waiting->read)
            continue;
        if (waiting->known && waiting->index <= node->applied.index) {
            const struct lite_state *state = &node->applied.state;
            reply(node, waiting->operation, true, state->revision, state->value[waiting->key]);
            waiting_remove(node, i--);
        } else if (lite->world.now_ns - waiting->asked_ns > lite->config.client_timeout_ns) {
            waiting_remove(node, i--); /* the question was lost, the client gave up */
        }
    }
}

/* Leadership changed: what was asked before is void and asked anew. */
void lite_node_reads_void(struct lite_node *node)
{
    for (uint32_t i = 0; i < node->waiting_count; i++) {
        struct lite_waiting *waiting = &node->waiting[i];
        if (!waiting->read || waiting->known)
            continue;
        if (!read_ask(node, waiting)) {
            reply(node, waiting->operation, false, 0, 0);
            waiting_remove(node, i--);
        }
    }
}

void lite_serve_lost(struct lite_node *node)
{
    node->waiting_count = 0;
}

/* ---- clients -------------------------------------------------------------------------------- */

static uint32_t pick_node(struct lite *lite, const struct lite_client *client)
{
    struct prng *prng = lite_prng(lite, WORKLOAD);
    if (lite->healed) { /* clients know by now whom to ask */
        const struct check_raft *check = &lite->raft_check;
        struct raft_id_set members =
            raft_config_members(&check->configs[check->config_count - 1].config);
        uint64_t id = 0;
        do
            id = members.ids[prng_below(prng, members.count)];
        while (lite->dead >> id & 1);
        return (uint32_t)id;
    }
    if (lite->config.to_leader && client->leader != 0 && !prng_chance(prng, 1, 8))
        return client->leader;
    return 1 + (uint32_t)prng_below(prng, lite->node_count);
}

static void client_think(struct lite_client *client)
{
    struct lite *lite = client->lite;
    client->operation = 0;
    bool ended = lite->healed ? client != &lite->clients[0] || lite->probe_done
                              : lite->history.operation_count >= OPERATIONS_MAX;
    if (ended)
        return;
    uint64_t think_ns = lite_spread(lite_prng(lite, WORKLOAD), lite->config.think_ns);
    sim_event_schedule(&lite->world, &client->event, lite->world.now_ns + think_ns);
}

static void client_call(struct lite_client *client)
{
    struct lite *lite = client->lite;
    struct prng *prng = lite_prng(lite, WORKLOAD);
    bool write = lite->healed || !prng_chance(prng, lite->config.read_percent, 100);
    uint32_t key = (uint32_t)prng_below(prng, LITE_KEYS);
    client->operation = check_history_call(&lite->history, write, key);
    uint32_t to = pick_node(lite, client);
    struct lite_item *item = lite_item_make(lite, LITE_ITEM_REQUEST, 0, to);
    item->operation = client->operation;
    item->ok = write;
    item->value = key;
    lite_item_schedule(item, lite_spread(prng, lite->config.delay_ns));
    lite_trace(lite, NULL, SIM_KIND_CLIENT, client->operation, (uint64_t)to << 32 | write);
    lite_text(lite, NULL, "client %u calls %s %" PRIu64 " key %u at n%u",
              (uint32_t)(client - lite->clients), write ? "write" : "read", client->operation, key,
              to);
    sim_event_schedule(&lite->world, &client->event,
                       lite->world.now_ns + lite->config.client_timeout_ns);
}

static void client_event(struct sim_event *event)
{
    struct lite_client *client = container_of(event, struct lite_client, event);
    if (client->operation == 0) {
        client_call(client);
        return;
    }
    check_history_lose(&client->lite->history, client->operation);
    lite_text(client->lite, NULL, "operation %" PRIu64 " timed out", client->operation);
    client->leader = 0;
    client_think(client);
}

void lite_client_reply(struct lite_item *item)
{
    struct lite *lite = item->lite;
    for (uint32_t i = 0; i < lite->config.clients; i++) {
        struct lite_client *client = &lite->clients[i];
        if (client->operation != item->operation)
            continue;
        lite_text(lite, NULL, "operation %" PRIu64 " %s at revision %" PRIu64 " by n%u",
                  item->operation, item->ok ? "done" : "refused", item->revision, item->from);
        lite_trace(lite, NULL, SIM_KIND_CLIENT, item->operation, item->revision << 1 | item->ok);
        if (item->ok) {
            check_history_return(&lite->history, item->operation, item->revision, item->value);
            client->leader = item->from;
            lite->probe_done |= lite->healed;
        } else {
            check_history_refuse(&lite->history, item->operation);
            client->leader = 0;
        }
        sim_event_cancel(&lite->world, &client->event);
        client_think(client);
        break;
    }
    lite_item_free(item);
}

void lite_clients_start(struct lite *lite)
{
    for (uint32_t i = 0; i < lite->config.clients; i++) {
        struct lite_client *client = &lite->clients[i];
        client->lite = lite;
        sim_event_init(&client->event, client_event);
        client_think(client);
    }
}

/* Faults are over: one client goes on until something of its own is done. */
void lite_probe(struct lite *lite)
{
    for (uint32_t i = 0; i < lite->config.clients; i++) {
        struct lite_client *client = &lite->clients[i];
        if (client->operation != 0)
            check_history_lose(&lite->history, client->operation);
        sim_event_cancel(&lite->world, &client->event);
        client->operation = 0;
    }
    client_think(&lite->clients[0]);
}
