/* The group: its nodes, the messages between them, and rounds until nothing moves. */
#include "tools/raft-repl/cluster_internal.h"

#include <stdlib.h>

struct cluster_chunk {
    struct cluster_chunk *next;
    uint8_t bytes[];
};

void *cluster_zeroed(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    invariant(memory != NULL);
    return memory;
}

/* ---- the group ---- */

void cluster_init(struct cluster *cluster)
{
    memset(cluster, 0, sizeof(*cluster));
    cluster->network.last_next = &cluster->network.first;
    cluster->applied = cluster_zeroed(CLUSTER_INDEX_MAX, sizeof(struct cluster_applied));
    cluster->leader_of_term = cluster_zeroed(CLUSTER_TERM_MAX, sizeof(uint64_t));
}

void message_list_free(struct message_list *list)
{
    while (list->first != NULL) {
        struct cluster_message *message = list->first;
        list->first = message->next;
        cluster_message_free(message);
    }
    list->last_next = &list->first;
}

void cluster_deinit(struct cluster *cluster)
{
    message_list_free(&cluster->network);
    for (uint32_t i = 0; i < cluster->node_count; i++) {
        struct node *node = cluster->nodes[i];
        node_lanes_clear(node);
        free(node->memory);
        free(node->disk.entries);
        free(node);
    }
    while (cluster->chunks != NULL) {
        struct cluster_chunk *chunk = cluster->chunks;
        cluster->chunks = chunk->next;
        free(chunk);
    }
    free(cluster->applied);
    free(cluster->leader_of_term);
}

uint8_t *cluster_copy(struct cluster *cluster, const void *bytes, size_t size)
{
    if (size == 0)
        return NULL;
    struct cluster_chunk *chunk = malloc(sizeof(*chunk) + size);
    invariant(chunk != NULL);
    chunk->next = cluster->chunks;
    cluster->chunks = chunk;
    memcpy(chunk->bytes, bytes, size);
    return chunk->bytes;
}

void cluster_options(struct raft_options *options)
{
    raft_options_default(options);
    options->election_timeout_ns = 3 * CLUSTER_TICK_NS;
    options->election_jitter_ns = 3 * CLUSTER_TICK_NS;
    options->heartbeat_ns = CLUSTER_TICK_NS;
    options->timeout_quantum_ns = CLUSTER_TICK_NS;
    options->pause_ns_max = 0;
    options->short_retry = false;
    options->single_voter_starts = false;
    options->pre_vote = false;
    options->check_quorum = false;
    options->early_pre_vote = false;
    options->lease_drift_percent = 0;
    options->lease_stall_ns = 0;
    options->window_entries = 1024;
    options->messages_max = 512;
    options->reads_max = 64;
}

struct node *cluster_node(struct cluster *cluster, uint64_t id)
{
    return id == 0 || id > cluster->node_count ? NULL : cluster->nodes[id - 1];
}

/* ---- messages ---- */

void message_list_push(struct message_list *list, struct cluster_message *message)
{
    message->next = NULL;
    *list->last_next = message;
    list->last_next = &message->next;
}

void cluster_network_push(struct cluster *cluster, struct cluster_message *message)
{
    message_list_push(&cluster->network, message);
    cluster->network_count++;
}

struct cluster_message *cluster_network_take(struct cluster *cluster, uint32_t at)
{
    invariant(at < cluster->network_count);
    struct cluster_message **link = &cluster->network.first;
    while (at-- > 0)
        link = &(*link)->next;
    struct cluster_message *message = *link;
    *link = message->next;
    if (message->next == NULL)
        cluster->network.last_next = link;
    cluster->network_count--;
    return message;
}

struct cluster_message *cluster_message_copy(struct cluster *cluster maybe_unused,
                                             const struct raft_message *message)
{
    struct cluster_message *copy = cluster_zeroed(1, sizeof(*copy));
    copy->message = *message;
    if (message->snapshot != NULL) {
        copy->snapshot = *message->snapshot;
        copy->message.snapshot = &copy->snapshot;
    }
    if (message->entries != NULL && message->entry_count > 0) {
        copy->entries = cluster_zeroed(message->entry_count, sizeof(struct entry));
        memcpy(copy->entries, message->entries, message->entry_count * sizeof(struct entry));
        copy->message.entries = copy->entries;
    }
    return copy;
}

void cluster_message_free(struct cluster_message *message)
{
    free(message->entries);
    free(message);
}

/* What a server's encoder does: looks up the entries that the message names. */
void cluster_trace_message(struct cluster *cluster, const char *what,
                           const struct cluster_message *message)
{
    if (cluster->trace == NULL)
        return;
    fprintf(cluster->trace, "  %s ", what);
    cluster_print_message(cluster->trace, message);
}

void cluster_message_step(struct cluster *cluster, struct cluster_message *message)
{
    struct node *node = cluster_node(cluster, message->message.to);
    bool up = node != NULL && node->up;
    cluster_trace_message(cluster, up ? "deliver" : "lost", message);
    if (!up) {
        cluster_message_free(message);
        return;
    }
    for (uint32_t i = 0; i < message->message.entry_count; i++)
        node->payloads_held += message->message.entries[i].payload_bytes > 0;
    int error = raft_step(&node->raft, &message->message);
    if (error != 0) {
        for (uint32_t i = 0; i < message->message.entry_count; i++)
            node->payloads_held -= message->message.entries[i].payload_bytes > 0;
        if (cluster->trace != NULL)
            fprintf(cluster->trace, "  refused: %s\n", err_name(error));
    }
    cluster_message_free(message);
}

uint32_t cluster_deliver(struct cluster *cluster, uint64_t to, int kind, bool drop)
{
    uint32_t delivered = 0;
    uint32_t at = 0;
    uint32_t under_way = cluster->network_count;
    for (uint32_t i = 0; i < under_way; i++) {
        struct cluster_message *message = cluster->network.first;
        for (uint32_t skip = 0; skip < at; skip++)
            message = message->next;
        bool wanted = message->message.to == to &&
                      (kind == 0 || message->message.kind == (enum raft_message_kind)kind);
        if (!wanted) {
            at++;
            continue;
        }
        message = cluster_network_take(cluster, at);
        delivered++;
        if (drop) {
            cluster_trace_message(cluster, "drop", message);
            cluster_message_free(message);
        } else {
            cluster_message_step(cluster, message);
        }
    }
    return delivered;
}

uint32_t cluster_stabilize(struct cluster *cluster, const uint64_t *ids, uint32_t id_count)
{
    uint32_t rounds = 0;
    for (bool moved = true; moved && rounds < CLUSTER_ROUNDS_MAX; rounds++) {
        moved = false;
        for (uint32_t i = 0; i < id_count; i++)
            while (node_ready(cluster_node(cluster, ids[i])))
                moved = true;
        for (uint32_t i = 0; i < id_count; i++)
            moved |= cluster_deliver(cluster, ids[i], 0, false) > 0;
        for (uint32_t i = 0; i < id_count; i++)
            moved |= node_append(cluster_node(cluster, ids[i]));
        for (uint32_t i = 0; i < id_count; i++)
            moved |= node_apply(cluster_node(cluster, ids[i]));
    }
    return rounds;
}
