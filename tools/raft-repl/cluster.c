#include "tools/raft-repl/cluster.h"

#include "core/invariant.h"

#include <inttypes.h>
#include <stdlib.h>

struct cluster_chunk {
    struct cluster_chunk *next;
    uint8_t bytes[];
};

static void *zeroed(size_t count, size_t size)
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
    cluster->applied = zeroed(CLUSTER_INDEX_MAX, sizeof(struct cluster_applied));
    cluster->leader_of_term = zeroed(CLUSTER_TERM_MAX, sizeof(uint64_t));
}

static void message_list_free(struct message_list *list)
{
    while (list->first != NULL) {
        struct cluster_message *message = list->first;
        list->first = message->next;
        cluster_message_free(message);
    }
    list->last_next = &list->first;
}

static void append_work_free(struct append_work *work)
{
    message_list_free(&work->after);
    free(work->entries);
    free(work);
}

static void node_lanes_clear(struct node *node)
{
    while (node->append_first != NULL) {
        struct append_work *work = node->append_first;
        node->append_first = work->next;
        append_work_free(work);
    }
    node->append_last = &node->append_first;
    while (node->apply_first != NULL) {
        struct apply_work *work = node->apply_first;
        node->apply_first = work->next;
        free(work);
    }
    node->apply_last = &node->apply_first;
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
    struct node *node = zeroed(1, sizeof(*node));
    cluster->nodes[cluster->node_count++] = node;
    node->cluster = cluster;
    node->id = cluster->node_count;
    node->async_storage = async_storage;
    node->options = *options;
    node->options.id = node->id;
    node->memory = zeroed(1, raft_memory_bytes(&node->options));
    node->append_last = &node->append_first;
    node->apply_last = &node->apply_first;
    node->disk.entries = zeroed(CLUSTER_INDEX_MAX, sizeof(struct entry));
    node->disk.hard_state = (struct hard_state){.term = snapshot->term, .commit = snapshot->index};
    node->disk.compacted_index = node->disk.last_index = snapshot->index;
    node->disk.compacted_term = snapshot->term;
    node->disk.applied_index = snapshot->index;
    node->disk.applied_config = snapshot->config;
    int error = node_start(node);
    invariant(error == 0);
    return node;
}

/* ---- messages ---- */

static void message_list_push(struct message_list *list, struct cluster_message *message)
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
    struct cluster_message *copy = zeroed(1, sizeof(*copy));
    copy->message = *message;
    if (message->snapshot != NULL) {
        copy->snapshot = *message->snapshot;
        copy->message.snapshot = &copy->snapshot;
    }
    if (message->entries != NULL && message->entry_count > 0) {
        copy->entries = zeroed(message->entry_count, sizeof(struct entry));
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
static struct cluster_message *message_resolve(struct node *node,
                                               const struct raft_message *message)
{
    struct cluster_message *copy = cluster_message_copy(node->cluster, message);
    if (message->entry_count == 0)
        return copy;
    copy->entries = zeroed(message->entry_count, sizeof(struct entry));
    for (uint32_t i = 0; i < message->entry_count; i++) {
        uint64_t index = message->index + 1 + i;
        const struct entry *held = raft_entry(&node->raft, index);
        copy->entries[i] = held != NULL ? *held : node->disk.entries[index];
        invariant(copy->entries[i].index == index);
    }
    copy->message.entries = copy->entries;
    return copy;
}

static void trace_message(struct cluster *cluster, const char *what,
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
    trace_message(cluster, "deliver", message);
    if (node == NULL || !node->up) {
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
            trace_message(cluster, "drop", message);
            cluster_message_free(message);
        } else {
            cluster_message_step(cluster, message);
        }
    }
    return delivered;
}

/* ---- one node ---- */

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
    struct append_work *work = zeroed(1, sizeof(*work));
    work->after.last_next = &work->after.first;
    work->append = ready->append;
    work->hard_state = ready->hard_state;
    if (ready->install != NULL) {
        work->install = true;
        work->snapshot = *ready->install;
    }
    if (ready->append_first != 0) {
        work->entry_count = (uint32_t)(ready->append_last - ready->append_first + 1);
        work->entries = zeroed(work->entry_count, sizeof(struct entry));
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
        trace_message(node->cluster, "send", copy);
        cluster_network_push(node->cluster, copy);
        return;
    }
    for (struct append_work *work = node->append_first; work != NULL; work = work->next) {
        if (work->append.sequence != after)
            continue;
        trace_message(node->cluster, "hold", copy);
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
        struct apply_work *work = zeroed(1, sizeof(*work));
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
            trace_message(cluster, "send", message);
        cluster_network_push(cluster, message);
    }
    raft_persisted(&node->raft, &work->append);
    work->after.last_next = &work->after.first;
    append_work_free(work);
    return true;
}

static uint64_t entry_hash(const struct entry *entry)
{
    uint64_t hash = 0xcbf29ce484222325u ^ entry->type;
    for (uint32_t i = 0; i < entry->payload_bytes; i++)
        hash = (hash ^ entry->payload[i]) * 0x100000001b3u;
    return hash | 1;
}

static void apply_entry(struct node *node, const struct entry *entry)
{
    struct cluster *cluster = node->cluster;
    invariant(entry->index == node->applied_index + 1);
    struct cluster_applied *agreed = &cluster->applied[entry->index];
    struct cluster_applied mine = {.term = entry->term, .hash = entry_hash(entry)};
    if (agreed->hash == 0) {
        *agreed = mine;
        cluster->applied_last = u64_max(cluster->applied_last, entry->index);
    }
    invariant(agreed->term == mine.term && agreed->hash == mine.hash); /* state machine safety */
    node->applied_index = entry->index;
    if (entry->type != ENTRY_CONFIG_CHANGE)
        return;
    struct raft_config_change change;
    int error =
        raft_config_change_decode(bytes_make(entry->payload, entry->payload_bytes), &change);
    invariant(error == 0);
    error = raft_apply_config(&node->raft, entry->index, &change);
    if (error == 0)
        node->applied_config = node->raft.config;
    if (cluster->trace != NULL) {
        fprintf(cluster->trace, "  node %" PRIu64 " config ", node->id);
        if (error != 0)
            fprintf(cluster->trace, "refused %s, still ", err_name(error));
        cluster_print_config(cluster->trace, &node->raft.config);
    }
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
        apply_entry(node, stored);
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

uint32_t cluster_stabilize(struct cluster *cluster, const uint64_t *ids, uint32_t id_count)
{
    uint32_t rounds = 0;
    for (bool moved = true; moved; rounds++) {
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
        invariant(rounds < 100000);
    }
    return rounds;
}

/* ---- checks ---- */

static bool entry_of(const struct node *node, uint64_t index, struct entry *entry)
{
    return raft_log_lookup(&node->raft.log, index, entry) == 0;
}

/* Two logs with the same term at an index are the same up to it. */
static void check_log_matching(const struct node *a, const struct node *b)
{
    uint64_t last = u64_min(a->raft.log.last_index, b->raft.log.last_index);
    bool must_match = false;
    for (uint64_t index = last; index > 0; index--) {
        struct entry mine, other;
        if (!entry_of(a, index, &mine) || !entry_of(b, index, &other))
            return;
        if (mine.term == other.term)
            must_match = true;
        if (must_match) {
            invariant(mine.term == other.term);
            invariant(entry_hash(&mine) == entry_hash(&other));
        }
    }
}

/* A leader holds everything that was ever applied. */
static void check_leader_complete(const struct cluster *cluster, const struct node *leader)
{
    uint64_t newest = 0;
    for (uint32_t i = 0; i < cluster->node_count; i++)
        newest = u64_max(newest, cluster->nodes[i]->raft.term);
    if (leader->raft.role != RAFT_ROLE_LEADER || leader->raft.term < newest)
        return;
    invariant(leader->raft.log.last_index >= cluster->applied_last);
    for (uint64_t index = leader->raft.log.compacted_index + 1; index <= cluster->applied_last;
         index++) {
        struct entry entry;
        if (cluster->applied[index].hash == 0 || !entry_of(leader, index, &entry))
            continue;
        invariant(entry.term == cluster->applied[index].term);
    }
}

void cluster_check(struct cluster *cluster)
{
    for (uint32_t i = 0; i < cluster->node_count; i++) {
        struct node *a = cluster->nodes[i];
        if (!a->up)
            continue;
        raft_check(&a->raft);
        check_leader_complete(cluster, a);
        for (uint32_t j = i + 1; j < cluster->node_count; j++)
            if (cluster->nodes[j]->up)
                check_log_matching(a, cluster->nodes[j]);
    }
}

/* ---- printing ---- */

static void print_ids(FILE *out, const char *name, const struct raft_id_set *set)
{
    fprintf(out, "%s=(", name);
    for (uint32_t i = 0; i < set->count; i++)
        fprintf(out, "%s%" PRIu64, i > 0 ? " " : "", set->ids[i]);
    fputc(')', out);
}

void cluster_print_config(FILE *out, const struct raft_config *config)
{
    print_ids(out, "voters", &config->voters);
    if (config->outgoing.count > 0)
        print_ids(out, " outgoing", &config->outgoing);
    if (config->learners.count > 0)
        print_ids(out, " learners", &config->learners);
    if (config->learners_next.count > 0)
        print_ids(out, " learners-next", &config->learners_next);
    fprintf(out, "%s\n", config->auto_leave ? " auto-leave" : "");
}

static void print_change(FILE *out, const struct entry *entry)
{
    static const char letters[] = {'v', 'l', 'r', 'u'};
    struct raft_config_change change;
    if (raft_config_change_decode(bytes_make(entry->payload, entry->payload_bytes), &change) != 0)
        return;
    if (raft_config_change_leaves(&change))
        fprintf(out, " leave-joint");
    for (uint32_t i = 0; i < change.count; i++)
        fprintf(out, " %c%" PRIu64, letters[change.changes[i].kind], change.changes[i].id);
}

void cluster_print_entry(FILE *out, const struct entry *entry)
{
    fprintf(out, "    %" PRIu64 "/%" PRIu64, entry->term, entry->index);
    if (entry->type == ENTRY_CONFIG_CHANGE) {
        fprintf(out, " config");
        print_change(out, entry);
        fputc('\n', out);
    } else {
        fprintf(out, " normal \"%.*s\"\n", (int)entry->payload_bytes,
                entry->payload_bytes > 0 ? (const char *)entry->payload : "");
    }
}

static void print_message_fields(FILE *out, const struct raft_message *m)
{
    switch (m->kind) {
    case RAFT_MESSAGE_APPEND:
        fprintf(out, " prev=%" PRIu64 "/%" PRIu64 " commit=%" PRIu64, m->log_term, m->index,
                m->commit);
        if (m->entry_count > 0)
            fprintf(out, " entries=%" PRIu64 "..%" PRIu64, m->index + 1, m->index + m->entry_count);
        break;
    case RAFT_MESSAGE_APPEND_RESPONSE:
        if (m->reject)
            fprintf(out, " rejected=%" PRIu64 " hint=%" PRIu64 "/%" PRIu64, m->index, m->log_term,
                    m->hint_index);
        else
            fprintf(out, " index=%" PRIu64, m->index);
        break;
    case RAFT_MESSAGE_HEARTBEAT:
        fprintf(out, " commit=%" PRIu64, m->commit);
        if (m->context != 0)
            fprintf(out, " round=%" PRIu64, m->context);
        break;
    case RAFT_MESSAGE_HEARTBEAT_RESPONSE:
        if (m->context != 0)
            fprintf(out, " round=%" PRIu64, m->context);
        break;
    case RAFT_MESSAGE_VOTE:
    case RAFT_MESSAGE_PRE_VOTE:
        fprintf(out, " last=%" PRIu64 "/%" PRIu64 " commit=%" PRIu64 "/%" PRIu64 "%s", m->log_term,
                m->index, m->commit_term, m->commit, m->transfer ? " transfer" : "");
        break;
    case RAFT_MESSAGE_VOTE_RESPONSE:
    case RAFT_MESSAGE_PRE_VOTE_RESPONSE:
        fprintf(out, " %s", m->reject ? "refused" : "granted");
        break;
    case RAFT_MESSAGE_SNAPSHOT:
        fprintf(out, " snapshot=%" PRIu64 "/%" PRIu64 " ", m->snapshot->term, m->snapshot->index);
        break;
    case RAFT_MESSAGE_TRANSFER:
    case RAFT_MESSAGE_READ_INDEX:
        fprintf(out, " context=%" PRIu64, m->context);
        break;
    case RAFT_MESSAGE_READ_INDEX_RESPONSE:
        fprintf(out, " context=%" PRIu64 " index=%" PRIu64, m->context, m->index);
        break;
    case RAFT_MESSAGE_TIMEOUT_NOW:
        break;
    }
}

void cluster_print_message(FILE *out, const struct cluster_message *message)
{
    const struct raft_message *m = &message->message;
    fprintf(out, "%" PRIu64 "->%" PRIu64 " %s term=%" PRIu64, m->from, m->to,
            raft_message_kind_name(m->kind), m->term);
    print_message_fields(out, m);
    if (m->kind == RAFT_MESSAGE_SNAPSHOT)
        cluster_print_config(out, &m->snapshot->config);
    else
        fputc('\n', out);
}
