/* One node of the group: its disk, what its core gives to the two lanes, crash and restart. */
#include "tools/raft-repl/cluster_internal.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- the core's view of a disk ---- */

static int disk_lookup(void *context, uint64_t index, struct entry *entry)
{
    struct node *node = context;
    if (index <= node->disk.compacted_index)
        return ERR_COMPACTED;
    if (index > node->disk.last_index)
        return ERR_UNAVAILABLE;
    *entry = node->disk.entries[index];
    invariant(entry->index == index);
    return 0;
}

static int disk_snapshot(void *context, uint64_t peer maybe_unused, struct raft_snapshot *snapshot)
{
    struct node *node = context;
    if (node->applied_index < node->raft.log.compacted_index || node->applied_index == 0)
        return ERR_UNAVAILABLE;
    snapshot->index = node->applied_index;
    snapshot->config = node->applied_config;
    if (snapshot->index == node->disk.compacted_index)
        snapshot->term = node->disk.compacted_term;
    else
        snapshot->term = node->disk.entries[snapshot->index].term;
    return 0;
}

static void payload_release(void *context, const struct entry *entry)
{
    struct node *node = context;
    node->payloads_held -= entry->payload_bytes > 0;
    invariant(node->payloads_held >= 0);
}

static int node_start(struct node *node)
{
    const struct node_disk *disk = &node->disk;
    struct raft_start start = {
        .hard_state = disk->hard_state,
        .compacted_index = disk->compacted_index,
        .compacted_term = disk->compacted_term,
        .last_index = disk->last_index,
        .last_term = disk->last_index == disk->compacted_index
                         ? disk->compacted_term
                         : disk->entries[disk->last_index].term,
        .applied_index = disk->applied_index,
        .damaged_index = disk->damaged_index,
        .config = disk->applied_config,
    };
    struct raft_storage storage = {.context = node,
                                   .lookup = disk_lookup,
                                   .snapshot = disk_snapshot,
                                   .release = payload_release};
    uint64_t now_ns = node->raft.now_ns;
    node->options.seed = node->id * 1000 + node->incarnation;
    int error = raft_init(&node->raft, &node->options, &storage, &start, node->memory, now_ns);
    node->up = error == 0;
    node->applied_index = disk->applied_index;
    node->applied_config = disk->applied_config;
    node->payloads_held = 0;
    node->read_count = 0;
    return error;
}

struct node *cluster_add(struct cluster *cluster, const struct raft_options *options,
                         const struct raft_snapshot *snapshot, bool async_storage)
{
    invariant(cluster->node_count < CLUSTER_NODES_MAX);
    struct node *node = cluster_zeroed(1, sizeof(*node));
    cluster->nodes[cluster->node_count++] = node;
    node->cluster = cluster;
    node->id = cluster->node_count;
    node->async_storage = async_storage;
    node->options = *options;
    node->options.id = node->id;
    node->memory = cluster_zeroed(1, raft_memory_bytes(&node->options));
    node->append_last = &node->append_first;
    node->apply_last = &node->apply_first;
    node->disk.entries = cluster_zeroed(CLUSTER_INDEX_MAX, sizeof(struct entry));
    node->disk.hard_state = (struct hard_state){.term = snapshot->term, .commit = snapshot->index};
    node->disk.compacted_index = node->disk.last_index = snapshot->index;
    node->disk.compacted_term = snapshot->term;
    node->disk.applied_index = snapshot->index;
    node->disk.applied_config = snapshot->config;
    int error = node_start(node);
    invariant(error == 0);
    return node;
}

/* ---- one node ---- */

static void append_work_free(struct append_work *work)
{
    message_list_free(&work->after);
    free(work->entries);
    free(work);
}

static void apply_lane_clear(struct node *node)
{
    while (node->apply_first != NULL) {
        struct apply_work *work = node->apply_first;
        node->apply_first = work->next;
        free(work);
    }
    node->apply_last = &node->apply_first;
}

void node_lanes_clear(struct node *node)
{
    while (node->append_first != NULL) {
        struct append_work *work = node->append_first;
        node->append_first = work->next;
        append_work_free(work);
    }
    node->append_last = &node->append_first;
    apply_lane_clear(node);
}

/* What a server's encoder does: looks up the entries that the message names. */
static struct cluster_message *message_resolve(struct node *node,
                                               const struct raft_message *message)
{
    struct cluster_message *copy = cluster_message_copy(node->cluster, message);
    if (message->entry_count == 0)
        return copy;
    copy->entries = cluster_zeroed(message->entry_count, sizeof(struct entry));
    for (uint32_t i = 0; i < message->entry_count; i++) {
        uint64_t index = message->index + 1 + i;
        const struct entry *held = raft_entry(&node->raft, index);
        copy->entries[i] = held != NULL ? *held : node->disk.entries[index];
        invariant(copy->entries[i].index == index);
    }
    copy->message.entries = copy->entries;
    return copy;
}

static void trace_ready(struct node *node, const struct raft_ready *ready)
{
    FILE *out = node->cluster->trace;
    if (out == NULL)
        return;
    fprintf(out, "  node %" PRIu64 " ready\n", node->id);
    if (ready->leadership_changed)
        fprintf(out, "  role %s term=%" PRIu64 " lead=%" PRIu64 "\n", raft_role_name(ready->role),
                ready->term, ready->leader);
    if (ready->append.sequence == 0)
        return;
    fprintf(out, "  append #%" PRIu64, ready->append.sequence);
    if (ready->hard_state_changed)
        fprintf(out, " term=%" PRIu64 " vote=%" PRIu64, ready->hard_state.term,
                ready->hard_state.vote);
    if (ready->install != NULL)
        fprintf(out, " install=%" PRIu64 "/%" PRIu64, ready->install->term, ready->install->index);
    fprintf(out, " commit=%" PRIu64 "\n", ready->hard_state.commit);
    for (uint64_t index = ready->append_first; index != 0 && index <= ready->append_last; index++)
        cluster_print_entry(out, raft_entry(&node->raft, index));
}

static struct append_work *append_work_make(struct node *node, const struct raft_ready *ready)
{
    struct append_work *work = cluster_zeroed(1, sizeof(*work));
    work->after.last_next = &work->after.first;
    work->append = ready->append;
    work->hard_state = ready->hard_state;
    if (ready->install != NULL) {
        work->install = true;
        work->snapshot = *ready->install;
    }
    if (ready->append_first != 0) {
        work->entry_count = (uint32_t)(ready->append_last - ready->append_first + 1);
        work->entries = cluster_zeroed(work->entry_count, sizeof(struct entry));
        for (uint32_t i = 0; i < work->entry_count; i++)
            work->entries[i] = *raft_entry(&node->raft, ready->append_first + i);
    }
    *node->append_last = work;
    node->append_last = &work->next;
    return work;
}

static void route_message(struct node *node, const struct raft_message *message)
{
    struct cluster_message *copy = message_resolve(node, message);
    uint64_t after = message->after_append;
    if (after == 0) {
        cluster_trace_message(node->cluster, "send", copy);
        cluster_network_push(node->cluster, copy);
        return;
    }
    for (struct append_work *work = node->append_first; work != NULL; work = work->next) {
        if (work->append.sequence != after)
            continue;
        cluster_trace_message(node->cluster, "hold", copy);
        message_list_push(&work->after, copy);
        return;
    }
    invariant(false); /* a message waits for work that nobody has */
}

bool node_ready(struct node *node)
{
    struct raft_ready ready;
    struct cluster *cluster = node->cluster;
    if (!node->up || !raft_ready(&node->raft, &ready))
        return false;
    trace_ready(node, &ready);
    if (ready.role == RAFT_ROLE_LEADER) { /* election safety */
        invariant(ready.term < CLUSTER_TERM_MAX);
        uint64_t known = cluster->leader_of_term[ready.term];
        invariant(known == 0 || known == node->id);
        cluster->leader_of_term[ready.term] = node->id;
    }
    if (ready.append.sequence != 0)
        append_work_make(node, &ready);
    for (uint32_t i = 0; i < ready.message_count; i++)
        route_message(node, &ready.messages[i]);
    if (ready.apply_first != 0) {
        struct apply_work *work = cluster_zeroed(1, sizeof(*work));
        work->first = ready.apply_first;
        work->last = ready.apply_last;
        *node->apply_last = work;
        node->apply_last = &work->next;
        if (cluster->trace != NULL)
            fprintf(cluster->trace, "  apply %" PRIu64 "..%" PRIu64 "\n", work->first, work->last);
    }
    for (uint32_t i = 0; i < ready.read_count && node->read_count < 256; i++) {
        node->reads[node->read_count++] = ready.reads[i];
        if (cluster->trace != NULL)
            fprintf(cluster->trace, "  read %" PRIu64 " at %" PRIu64 "\n", ready.reads[i].id,
                    ready.reads[i].index);
    }
    if (!node->async_storage) {
        while (node_append(node))
            ;
        while (node_apply(node))
            ;
    }
    return true;
}

static void disk_write(struct node *node, const struct append_work *work)
{
    struct node_disk *disk = &node->disk;
    if (work->install) {
        disk->compacted_index = disk->last_index = work->snapshot.index;
        disk->compacted_term = work->snapshot.term;
        disk->applied_index = work->snapshot.index;
        disk->applied_config = work->snapshot.config;
        node->applied_index = work->snapshot.index;
        node->applied_config = work->snapshot.config;
    }
    for (uint32_t i = 0; i < work->entry_count; i++) {
        uint64_t index = work->entries[i].index;
        invariant(index <= disk->last_index + 1); /* no gap */
        invariant(index < CLUSTER_INDEX_MAX);
        disk->entries[index] = work->entries[i];
        disk->last_index = index;
    }
    invariant(work->hard_state.term >= disk->hard_state.term);
    if (work->hard_state.term == disk->hard_state.term && disk->hard_state.vote != 0)
        invariant(work->hard_state.vote == disk->hard_state.vote); /* one vote per term */
    disk->hard_state = work->hard_state;
    disk->hard_state.commit = u64_min(work->hard_state.commit, disk->last_index);
}

bool node_append(struct node *node)
{
    struct append_work *work = node->append_first;
    struct cluster *cluster = node->cluster;
    if (!node->up || work == NULL)
        return false;
    node->append_first = work->next;
    if (work->next == NULL)
        node->append_last = &node->append_first;
    if (cluster->trace != NULL && node->async_storage)
        fprintf(cluster->trace, "  node %" PRIu64 " durable #%" PRIu64 "\n", node->id,
                work->append.sequence);
    disk_write(node, work);
    while (work->after.first != NULL) {
        struct cluster_message *message = work->after.first;
        work->after.first = message->next;
        if (node->async_storage)
            cluster_trace_message(cluster, "send", message);
        cluster_network_push(cluster, message);
    }
    raft_persisted(&node->raft, &work->append);
    work->after.last_next = &work->after.first;
    append_work_free(work);
    return true;
}

/* False: a snapshot on its way to the disk contains this change. */
static bool apply_entry(struct node *node, const struct entry *entry)
{
    struct cluster *cluster = node->cluster;
    invariant(entry->index == node->applied_index + 1);
    struct cluster_applied *agreed = &cluster->applied[entry->index];
    struct cluster_applied mine = {.term = entry->term, .hash = cluster_entry_hash(entry)};
    if (agreed->hash == 0) {
        *agreed = mine;
        cluster->applied_last = u64_max(cluster->applied_last, entry->index);
    }
    invariant(agreed->term == mine.term && agreed->hash == mine.hash); /* state machine safety */
    if (entry->type != ENTRY_CONFIG_CHANGE) {
        node->applied_index = entry->index;
        return true;
    }
    struct raft_config_change change;
    int error =
        raft_config_change_decode(bytes_make(entry->payload, entry->payload_bytes), &change);
    invariant(error == 0);
    error = raft_apply_config(&node->raft, entry->index, &change);
    if (error == ERR_COMPACTED)
        return false;
    node->applied_index = entry->index;
    if (error == 0)
        node->applied_config = node->raft.config;
    if (cluster->trace != NULL) {
        fprintf(cluster->trace, "  node %" PRIu64 " config ", node->id);
        if (error != 0)
            fprintf(cluster->trace, "refused %s, still ", err_name(error));
        cluster_print_config(cluster->trace, &node->raft.config);
    }
    return true;
}

bool node_apply(struct node *node)
{
    struct apply_work *work = node->apply_first;
    if (!node->up || work == NULL)
        return false;
    node->apply_first = work->next;
    if (work->next == NULL)
        node->apply_last = &node->apply_first;
    if (node->cluster->trace != NULL && node->async_storage)
        fprintf(node->cluster->trace, "  node %" PRIu64 " applied %" PRIu64 "..%" PRIu64 "\n",
                node->id, work->first, work->last);
    for (uint64_t index = work->first; index <= work->last; index++) {
        if (index <= node->applied_index)
            continue;                              /* a snapshot was faster */
        invariant(index <= node->disk.last_index); /* applied only what is durable here */
        const struct entry *entry = raft_entry(&node->raft, index);
        const struct entry *stored = &node->disk.entries[index];
        invariant(entry == NULL || entry->term == stored->term);
        if (!apply_entry(node, stored)) {
            free(work);
            apply_lane_clear(node);
            return true;
        }
    }
    raft_applied(&node->raft, work->last);
    free(work);
    return true;
}

int node_propose(struct node *node, enum entry_type type, const void *payload, size_t size)
{
    struct entry entry = {.payload = cluster_copy(node->cluster, payload, size),
                          .payload_bytes = (uint32_t)size,
                          .type = type};
    uint64_t index = 0;
    node->payloads_held += size > 0;
    int error = raft_propose(&node->raft, &entry, 1, &index);
    if (error != 0)
        node->payloads_held -= size > 0;
    return error;
}

int node_propose_change(struct node *node, const struct raft_config_change *change)
{
    uint8_t bytes[512];
    invariant(raft_config_change_bytes(change) <= sizeof(bytes));
    raft_config_change_encode(change, bytes);
    return node_propose(node, ENTRY_CONFIG_CHANGE, bytes, raft_config_change_bytes(change));
}

void node_tick(struct node *node, uint64_t ns)
{
    if (!node->up)
        return;
    int error = raft_tick(&node->raft, node->raft.now_ns + ns);
    invariant(error == 0);
}

void node_flush(struct node *node)
{
    node->disk.applied_index = node->applied_index;
    node->disk.applied_config = node->applied_config;
}

void node_compact(struct node *node, uint64_t index)
{
    if (index <= node->disk.compacted_index || index > node->raft.log.applied_index)
        return;
    node_flush(node);
    raft_compact(&node->raft, index);
    node->disk.compacted_term = node->disk.entries[index].term;
    node->disk.compacted_index = index;
}

void node_crash(struct node *node, uint32_t kept)
{
    for (uint32_t i = 0; i < kept && node->append_first != NULL; i++) {
        struct append_work *work = node->append_first; /* written, but nobody was told */
        node->append_first = work->next;
        disk_write(node, work);
        append_work_free(work);
    }
    node_lanes_clear(node);
    node->up = false;
    node->incarnation++;
}

int node_restart(struct node *node)
{
    return node->up ? 0 : node_start(node);
}
