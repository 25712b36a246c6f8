#include "server/node_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/core.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "server/apply.h"
#include "server/bootstrap.h"
#include "server/descriptors.h"
#include "server/force_new_cluster.h"
#include "server/frontend.h"
#include "server/leadership.h"
#include "server/log_role.h"
#include "server/member_request.h"
#include "server/message.h"
#include "server/metrics_node.h"
#include "server/metrics_peer.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"
#include "server/remote.h"
#include "server/repair.h"
#include "server/snapshot_install.h"
#include "storage/lsm/checkpoint.h"
#include "storage/lsm/lsm.h"
#include "storage/mvcc/mvcc.h"

#define NODE_STOP_POLL_NS (50 * NS_PER_MS)
#define START_WAIT_NS_MAX (5 * NS_PER_S)
#define NODE_FIBERS_MAX   4096 /* of a core */
#define LEVEL0_TABLES     12   /* memtables are small: the processor's cache holds their keys */

/* A stack is two mappings, with its guard page, and is kept for good. The kernel allows a process
 * 65530 of them (vm.max_map_count): the stacks of all cores leave some to the heap. */
#define NODE_STACKS_MAX 24000

_Static_assert(MESSAGE_LSM_COUNT >= LSM_MESSAGE_KINDS, "message.h reserves what the LSM asks for");
_Static_assert(MESSAGE_KIND_COUNT <= MESH_KIND_MAX, "message kinds fit the handler table");

/* ---- memory: how --memory-limit is divided, as docs/operations/memory.md states it ---------- */

static uint64_t memory_limit(const struct node *node)
{
    return node->memory_limit;
}

static uint64_t memtable_bytes(const struct node *node)
{
    if (buggify("node: memtables hold a few rows"))
        return 16 * KIB;
    if (buggify("node: memtables are small"))
        return 256 * KIB;
    return u64_max(4 * MIB, u64_min(64 * MIB, memory_limit(node) / 160));
}

static uint64_t block_cache_bytes_per_core(const struct node *node)
{
    uint64_t readers = node->map.connections_count + 1;
    return u64_max(4 * MIB, memory_limit(node) / 8 / readers);
}

/* The latest-version cache; its index takes a quarter more. */
static size_t heads_bytes(const struct node *node)
{
    size_t bytes = 256 * KIB;
    while (bytes * 2 <= memory_limit(node) / 256)
        bytes *= 2;
    return bytes;
}

void node_core_options(const struct node *node, uint32_t core, uint32_t cpu_count,
                       struct core_options *options)
{
    const struct role_map *map = &node->map;
    bool connections =
        core >= map->connections_first && core < map->connections_first + map->connections_count;
    *options = (struct core_options){
        .fibers_max = (uint32_t)u64_min(NODE_FIBERS_MAX, NODE_STACKS_MAX / node->core_count),
        .cpu_count = cpu_count,
        .reactor =
            {
                .core = core,
                .core_count = node->core_count,
                .files_max = 65536,
                .buffer_bytes = core == map->log || core == map->compaction ? 4 * MIB : 2 * MIB,
                .recv_buffer_bytes = 16 * 1024,
                .recv_buffer_count = connections || core == map->raft ? 64 : 8,
                .poll_us = (uint32_t)node->config->poll_us,
            },
    };
}

int node_listen(struct node *node, struct core *core, const struct config_url *url,
                struct io_listener *io)
{
    struct io_address address;
    struct reactor *reactor = core_reactor(core);
    int error = reactor_resolve(reactor, url->host, url->port, &address);
    if (error == 0)
        error = reactor_listen(reactor, io, &address);
    if (error < 0)
        snprintf(node->failure, sizeof(node->failure), "cannot listen on %s: %s", url->text,
                 err_text(error));
    return error;
}

/* ---- start ---------------------------------------------------------------------------------- */

static void node_set_state(struct node *node, enum node_state state)
{
    atomic_store_explicit(&node->state, state, memory_order_release);
}

static void node_fail(struct node *node, const char *what, int error)
{
    if (node->failure[0] == '\0')
        snprintf(node->failure, sizeof(node->failure), "%s: %s", what, err_text(error));
    log_error("start failed", LOG_TEXT("reason", node->failure));
    node_set_state(node, NODE_FAILED);
}

struct start_call {
    struct node *node;
    uint32_t core;
    struct wal_recovered recovered;
    bool alone; /* nobody else has copies of the log */
    enum snapshot_install install;
    struct snapshot_position snapshot; /* unless SNAPSHOT_NONE */
    bool reset_log;                    /* it does not go on from the snapshot */
    bool has_change;
    int error;
};

/* Before the first write of any core: the lock outlives a killed process until its writes end. */
static void hold_lock(void *argument)
{
    struct start_call *call = argument;
    struct core *core = core_current();
    if (core_id(core) != call->node->map.raft) /* that one took it */
        call->error = reactor_hold_file(core_reactor(core), call->node->lock);
}

static void start_log(void *argument)
{
    struct start_call *call = argument;
    call->error = log_role_start(call->node, core_current(), call->alone, &call->recovered);
}

/* A change of members, committed maybe and not in the tables yet, before what is damaged. */
static void find_change(void *argument)
{
    struct start_call *call = argument;
    call->has_change = log_role_has_change(call->node, mvcc_applied_index(call->node->mvcc) + 1,
                                           call->recovered.fault_first_index - 1);
}

static void start_background(void *argument)
{
    struct start_call *call = argument;
    lsm_background_start(call->node->lsm, core_current());
}

static void start_frontend(void *argument)
{
    struct start_call *call = argument;
    call->error = frontend_start(call->node, core_current());
}

static enum lsm_compression compression_of(const char *name)
{
    if (strcmp(name, "zstd") == 0)
        return LSM_COMPRESSION_ZSTD;
    return strcmp(name, "lz4") == 0 ? LSM_COMPRESSION_LZ4 : LSM_COMPRESSION_NONE;
}

/* `log` is NULL when it does not go on from these tables yet: a snapshot was installed. */
static int start_tables(struct node *node, struct core *core, const struct wal_recovered *log)
{
    char directory[CONFIG_TEXT_BYTES + 8];
    snprintf(directory, sizeof(directory), "%s/lsm", node->config->data_dir);
    bool few = buggify("node: levels hold a few rows");
    struct lsm_options options = {
        .dir = directory,
        .memtable_bytes = memtable_bytes(node),
        .block_cache_bytes_per_core = block_cache_bytes_per_core(node),
        .level0_tables = few ? 2 : LEVEL0_TABLES,
        .level_base_bytes = few ? 8 * KIB : 0,
        .table_bytes = few ? 4 * KIB : 0,
        .compression = compression_of(node->config->compression),
        .compression_top = LSM_COMPRESSION_NONE,
        .core_count = node->core_count,
        .message_kind_base = MESSAGE_LSM_FIRST,
        .random_seed = reactor_random(core_reactor(core)),
        .log_first_index = log != NULL ? log->first_index : 0,
        .log_last_index = log != NULL ? log->last_index : 0,
    };
    mvcc_configure_lsm(node->mvcc_shared, &options);
    int error = lsm_open(core, &options, &node->lsm);
    if (error < 0)
        return error;
    error = lsm_reader_open(node->lsm, core, &node->raft_reader);
    if (error < 0)
        return error;
    struct mvcc_options mvcc_options = {
        .shared = node->mvcc_shared,
        .lsm = node->lsm,
        .lsm_reader = node->raft_reader,
        .heads_bytes = heads_bytes(node),
        .random_seed = reactor_random(core_reactor(core)),
    };
    error = mvcc_open(&mvcc_options, &node->mvcc);
    if (error == 0)
        error = alarm_load(node, node->mvcc);
    if (error == 0)
        error = once_load(&node->once, node->mvcc);
    return error < 0 ? error : membership_load(&node->membership, node->mvcc, node->identity.first);
}

/* Consensus knows the whole log on disk: members that lag are served from it. When the term of the
 * entry before the log is not known, its first entry takes that place. */
static void start_from_log(const struct wal_recovered *recovered, struct node *node,
                           struct raft_start *start)
{
    start->compacted_index = recovered->base_index;
    start->compacted_term = recovered->base_term;
    if (recovered->last_index < recovered->first_index || recovered->base_term == 0) {
        start->compacted_index = start->applied_index;
        start->compacted_term = mvcc_applied_term(node->mvcc);
    }
    if (recovered->first_index == 1) {
        start->compacted_index = 0;
        start->compacted_term = 0;
    }
}

/* Above what the tables contain; 0: none. */
static uint64_t first_damaged(struct node *node, const struct wal_recovered *recovered)
{
    struct faults faults;
    if (recovered->fault_count == 0)
        return 0;
    faults_init(&faults);
    log_role_faults(node, &faults);
    uint64_t first = faults_first_after(&faults, mvcc_applied_index(node->mvcc));
    faults_deinit(&faults);
    return first;
}

static int start_consensus(struct node *node, struct core *core, struct wal_recovered *recovered)
{
    bool forced = node->config->force_new_cluster;
    node->member_requests = member_requests_create(node);
    if (node->member_requests == NULL)
        return -ENOMEM;
    int error = forced ? force_new_cluster(node, recovered) : 0;
    if (error < 0)
        return error;
    struct raft_start start = {
        .hard_state = recovered->hard_state,
        .last_index = recovered->last_index,
        .last_term = recovered->last_term,
        .applied_index = mvcc_applied_index(node->mvcc),
        .damaged_index = first_damaged(node, recovered),
        .config = node->membership.config,
    };
    start_from_log(recovered, node, &start);
    node->repair = repair_create(node, core);
    if (node->repair == NULL)
        return -ENOMEM;
    error = raft_driver_start(node, core, &start);
    if (error < 0)
        return error;
    repair_start(node->repair);
    while (forced && apply_index(node->raft->apply) < recovered->last_index)
        fiber_sleep_until(core_now_ns(core) + NS_PER_MS); /* the others are members until then */
    return peer_role_open(node->peers);
}

/* A lone voter serves when it leads, has applied what it had and has published itself. Others
 * serve when they have, or after a while without: a minority can answer serializable reads. */
static void wait_until_serving(struct node *node, struct core *core)
{
    const struct raft *raft = &node->raft->raft;
    uint64_t give_up_ns = core_now_ns(core) + START_WAIT_NS_MAX;
    while (!atomic_load(&node->stop_requested)) {
        /* As of now: the log may hold changes that are not applied yet. */
        bool alone = raft->config.voters.count == 1 &&
                     raft_id_set_has(&raft->config.voters, node->identity.member_id);
        if (!alone && core_now_ns(core) >= give_up_ns)
            return;
        bool ready = raft->leader != 0 && apply_index(node->raft->apply) >= raft->term_start_index;
        if (ready && member_publish(node) == 0)
            return;
        fiber_sleep_until(core_now_ns(core) + NS_PER_MS);
    }
}

/* Goes on in the background where the start gave up. */
static void publish_run(void *argument)
{
    struct node *node = argument;
    struct core *core = core_current();
    while (!atomic_load(&node->stop_requested) && member_publish(node) < 0)
        fiber_sleep_until(core_now_ns(core) + 500 * NS_PER_MS);
    node->publishing = false;
}

/* What to do about files that a start refuses. */
static const char *remedy_of(int error)
{
    switch (error) {
    case ERR_CORRUPT:
        return "; no data was changed: remove this member from the cluster and add it again with "
               "an empty --data-dir; if it is alone, restore a backup, or start empty";
    case ERR_VERSION:
        return "; no data was changed: use the version of raftd that wrote it";
    default:
        return "";
    }
}

static int refuse(struct node *node, const char *what, const char *reason, int error)
{
    if (node->failure[0] == '\0')
        snprintf(node->failure, sizeof(node->failure), "%s: %s%s", what,
                 reason[0] != '\0' ? reason : err_text(error), remedy_of(error));
    return error;
}

/* What it promised is not known any more: under this id it must not take part again. */
static int refuse_fenced(struct node *node, const struct wal_recovered *recovered)
{
    snprintf(node->failure, sizeof(node->failure),
             "log: %s; no data was changed: this member can no longer tell what it acknowledged; "
             "remove member %llx from the cluster and add it again with an empty --data-dir",
             recovered->reason, (unsigned long long)node->identity.member_id);
    return ERR_CORRUPT;
}

static bool has_peers(const struct member_set *members, uint64_t self)
{
    return members->count > 1 || (members->count == 1 && members->members[0].id != self);
}

/* A snapshot that was received and is still news: its tables take the place of ours. The log is
 * open, the tables are not. */
static int install_snapshot(struct node *node, struct start_call *call)
{
    const char *data_dir = node->config->data_dir;
    const struct snapshot_position *position = &call->snapshot;
    char tables[CONFIG_TEXT_BYTES + 8];
    uint64_t contained = 0;
    struct snapshot_log log;
    if (call->install == SNAPSHOT_NONE)
        return 0;
    snprintf(tables, sizeof(tables), "%s/lsm", data_dir);
    int error = call->install == SNAPSHOT_BEGUN ? 0 : lsm_stored_index(tables, &contained);
    if (error < 0)
        return error;
    log_role_look(node, position->index, contained, &log);
    bool wanted = call->install == SNAPSHOT_BEGUN || snapshot_is_news(position, &log);
    call->reset_log = wanted && !snapshot_is_in_log(position, &log);
    log_info(wanted ? "installing a snapshot" : "a snapshot is not needed any more",
             LOG_U64("index", position->index), LOG_U64("term", position->term),
             LOG_BOOL("keeps_log", wanted && !call->reset_log));
    if (wanted)
        return snapshot_install_exchange(data_dir);
    call->install = SNAPSHOT_NONE;
    return snapshot_install_discard(data_dir);
}

/* The tables are open: the log goes on after them, and what came needs no more care. */
static int finish_snapshot(struct node *node, struct start_call *call)
{
    if (call->reset_log)
        log_role_reset(node, call->snapshot.index, call->snapshot.term, &call->recovered);
    return call->install == SNAPSHOT_NONE ? 0 : snapshot_install_end(node->config->data_dir);
}

/* The log, then the tables: each verifies all of its files before it changes one of them. What a
 * damaged log means depends on whether others have copies. A group that began with several members
 * is taken to have them still; of one that grew from one member the tables know, or the log. */
static int start_storage(struct node *node, struct core *core, struct start_call *call)
{
    const struct wal_recovered *recovered = &call->recovered;
    int found = snapshot_install_find(node->config->data_dir, &call->snapshot);
    if (found < 0)
        return refuse(node, "snapshot", logger_last_error(), found);
    call->install = (enum snapshot_install)found;
    call->alone = found == SNAPSHOT_NONE && /* else somebody sent it */
                  !has_peers(node->identity.first, node->identity.member_id);
    remote_call(node->map.log, start_log, call);
    int log_error = call->error;
    bool damaged =
        recovered->verdict == WAL_VERDICT_FAULTY || recovered->verdict == WAL_VERDICT_FENCED;
    if (log_error < 0 && !(call->alone && log_error == ERR_CORRUPT && damaged))
        return recovered->verdict == WAL_VERDICT_FENCED
                   ? refuse_fenced(node, recovered)
                   : refuse(node, "log", recovered->reason, log_error);
    int error = install_snapshot(node, call);
    if (error < 0)
        return refuse(node, "snapshot", logger_last_error(), error);
    error = start_tables(node, core, call->reset_log ? NULL : recovered);
    if (error < 0)
        return refuse(node, "tables", logger_last_error(), error);
    error = finish_snapshot(node, call);
    if (error < 0)
        return refuse(node, "snapshot", "", error);
    bool alone = !has_peers(&node->membership.set, node->identity.member_id);
    if (log_error < 0 && alone && recovered->verdict == WAL_VERDICT_FAULTY) {
        remote_call(node->map.log, find_change, call);
        alone = !call->has_change;
    }
    if (log_error < 0 && alone)
        return refuse(node, "log", recovered->reason, log_error);
    if (log_error < 0) {
        call->alone = false;
        remote_call(node->map.log, start_log, call);
        if (call->error < 0)
            return recovered->verdict == WAL_VERDICT_FENCED
                       ? refuse_fenced(node, recovered)
                       : refuse(node, "log", recovered->reason, call->error);
    }
    return 0;
}

/* Is a change of members committed maybe, but not in the tables yet? */
static int has_unapplied_change(struct node *node, const struct wal_recovered *recovered)
{
    uint64_t first = u64_max(recovered->first_index, mvcc_applied_index(node->mvcc) + 1);
    uint64_t last = recovered->fault_first_index - 1;
    struct log_note *notes;
    int found = 0;
    if (first > last)
        return 0;
    int error = log_role_notes(node, first, recovered->last_index, &notes);
    if (error < 0)
        return error;
    for (uint64_t i = 0; i <= last - first; i++)
        found |= notes[i].type == ENTRY_CONFIG_CHANGE;
    free(notes);
    return found;
}

/* A node that is alone, or will be, has nobody to fetch damaged entries from. */
static int settle_faults(struct node *node, struct wal_recovered *recovered)
{
    bool forced = node->config->force_new_cluster;
    bool has_others = has_peers(&node->membership.set, node->identity.member_id);
    if (recovered->verdict != WAL_VERDICT_FAULTY || (has_others && !forced))
        return 0;
    int changed = forced ? 0 : has_unapplied_change(node, recovered);
    if (changed != 0)
        return changed < 0 ? refuse(node, "log", "", changed) : 0;
    if (recovered->fault_proven_count != 0)
        return refuse(node, "log", recovered->reason, ERR_CORRUPT);
    log_role_cut_unproven(node, recovered);
    return 0;
}

static int start_roles(struct node *node, struct core *core, struct start_call *call)
{
    for (uint32_t i = 0; i < node->core_count; i++) {
        remote_call(i, hold_lock, call);
        if (call->error < 0)
            return refuse(node, "LOCK", "", call->error);
    }
    int error = start_storage(node, core, call);
    if (error < 0)
        return error;
    error = settle_faults(node, &call->recovered);
    if (error < 0)
        return error;
    remote_call(node->map.compaction, start_background, call);
    error = start_consensus(node, core, &call->recovered);
    if (error < 0)
        return error;
    wait_until_serving(node, core);
    node->publishing = true;
    error = fiber_spawn(core, FIBER_BACKGROUND, publish_run, node);
    if (error < 0)
        return error;
    for (uint32_t i = 0; i < node->map.connections_count; i++) {
        remote_call(node->map.connections_first + i, start_frontend, call);
        if (call->error < 0)
            return call->error;
    }
    metrics_peer_register(node);
    return metrics_node_register(node);
}

static int start_identity(struct node *node, struct core *core)
{
    const struct config *config = node->config;
    struct identity *identity = &node->identity;
    int known = identity_open(config, identity, &node->lock, node->failure, sizeof(node->failure));
    int error = known < 0 ? known : 0;
    if (known == 0 && config->force_new_cluster) {
        snprintf(node->failure, sizeof(node->failure),
                 "--force-new-cluster: --data-dir %s holds no member whose data could be kept",
                 config->data_dir);
        return ERR_CONFIG;
    }
    if (known == 0)
        error = bootstrap_identity(core, config, identity, node->failure, sizeof(node->failure));
    if (known == 0 && error == 0)
        error = identity_create(config, identity, node->failure, sizeof(node->failure));
    if (error == 0)
        error = identity_count_start(config, identity, node->failure, sizeof(node->failure));
    return error;
}

static void node_boot(void *argument)
{
    struct node *node = argument;
    struct core *core = core_current();
    uint64_t began_ns = core_now_ns(core);
    int error = start_identity(node, core);
    if (error < 0) {
        node_fail(node, "identity", error);
        return;
    }
    struct start_call call = {.node = node};
    error = start_roles(node, core, &call);
    if (error == 0)
        error = frontend_listen(node, core);
    if (error < 0) {
        node_fail(node, "start", error);
        return;
    }
    log_info("ready to serve client requests", LOG_TEXT("name", node->config->name),
             LOG_HEX("member_id", node->identity.member_id),
             LOG_HEX("cluster_id", node->identity.cluster_id),
             LOG_TEXT("client_url", node->config->listen_client.url[0].text),
             LOG_U64("cores", node->core_count), LOG_U64("log_first", call.recovered.first_index),
             LOG_U64("log_last", call.recovered.last_index),
             LOG_U64("start_ms", (core_now_ns(core) - began_ns) / NS_PER_MS));
    node_set_state(node, NODE_READY);
}

/* ---- stop ----------------------------------------------------------------------------------- */

static void stop_background(void *argument)
{
    struct start_call *call = argument;
    lsm_background_stop(call->node->lsm);
}

static void stop_log(void *argument)
{
    struct start_call *call = argument;
    log_role_stop(call->node);
}

static void node_halt(void *argument)
{
    struct node *node = argument;
    struct start_call call = {.node = node};
    log_info("stopping", LOG_U64("revision", (uint64_t)mvcc_revision(node->mvcc)));
    frontend_close_listeners(node);
    leadership_drain(node);
    frontends_stop(node);
    while (node->publishing)
        fiber_sleep_until(core_now_ns(core_current()) + NS_PER_MS);
    repair_stop(node->repair);
    raft_driver_stop(node);
    remote_call(node->map.compaction, stop_background, &call);
    fiber_sleep_until(core_now_ns(core_current()) + NS_PER_MS); /* lsm.h: one turn in between */
    mvcc_close(node->mvcc);
    lsm_reader_close(node->raft_reader);
    lsm_close(node->lsm);
    remote_call(node->map.log, stop_log, &call);
    await_close(&node->lock);
    node_set_state(node, NODE_STOPPED);
}

static void on_stop_poll(struct timer *timer)
{
    struct node *node = container_of(timer, struct node, stop_poll);
    struct core *core = core_current();
    if (atomic_load_explicit(&node->stop_requested, memory_order_acquire) &&
        node_state(node) == NODE_READY) {
        node_set_state(node, NODE_STOPPING);
        int error = fiber_spawn(core, FIBER_LATENCY, node_halt, node);
        if (error == 0)
            return;
        node_set_state(node, NODE_READY);
    }
    timer_start(core_timers(core), timer, core_now_ns(core) + NODE_STOP_POLL_NS);
}

/* ---- life ----------------------------------------------------------------------------------- */

int node_create(const struct config *config, uint32_t core_count, uint64_t memory_bytes,
                struct node **out)
{
    struct node *node =
        aligned_alloc(CACHE_LINE_BYTES, u64_round_up(sizeof(struct node), CACHE_LINE_BYTES));
    if (node == NULL)
        return -ENOMEM;
    memset(node, 0, sizeof(*node));
    node->config = config;
    node->core_count = core_count;
    node->memory_limit =
        config->memory_limit != 0 ? config->memory_limit : u64_min(memory_bytes / 4, 2 * GIB);
    node->lock.fd = -1;
    node->connections_max = DESCRIPTORS_CONNECTIONS_MAX;
    role_map_compute(&node->map, core_count);
    int error = metrics_create(&node->metrics);
    node->mvcc_shared = mvcc_shared_create();
    if (error < 0 || node->mvcc_shared == NULL) {
        free(node);
        return error < 0 ? error : -ENOMEM;
    }
    *out = node;
    return 0;
}

void node_destroy(struct node *node)
{
    raft_driver_destroy(node->raft);
    free(node->log); /* it was closed when it stopped */
    for (uint32_t i = 0; i < node->core_count; i++)
        free(node->frontends[i]);
    identity_deinit(&node->identity);
    membership_deinit(&node->membership);
    member_requests_destroy(node->member_requests);
    repair_destroy(node->repair);
    metrics_destroy(node->metrics);
    mvcc_shared_destroy(node->mvcc_shared);
    free(node);
}

void node_limit_descriptors(struct node *node, uint64_t limit)
{
    struct descriptors descriptors;
    descriptors_divide(limit, node->map.connections_count, &descriptors);
    node->connections_max = descriptors.connections_max;
    log_info("descriptors", LOG_U64("limit", descriptors.limit),
             LOG_U64("reserved_for_files", descriptors.reserved),
             LOG_U64("connection_cores", node->map.connections_count),
             LOG_U64("connections_max_per_core", descriptors.connections_max));
    if (limit < DESCRIPTORS_LIMIT_IS_LOW)
        log_warn("few descriptors: connections are refused early, and storage that runs out of "
                 "files ends the process; raise the hard limit (LimitNOFILE=, ulimit -Hn)",
                 LOG_U64("limit", limit), LOG_U64("wanted", DESCRIPTORS_LIMIT_IS_LOW));
}

int node_attach(struct node *node, struct core *core)
{
    uint32_t id = core_id(core);
    node->cores[id] = core;
    remote_init(core);
    frontend_attach(node, core);
    if (id != node->map.raft)
        return 0;
    node->started_wall_ns = reactor_wall_ns(core_reactor(core));
    timer_init(&node->stop_poll, on_stop_poll);
    timer_start(core_timers(core), &node->stop_poll, core_now_ns(core) + NODE_STOP_POLL_NS);
    return fiber_spawn(core, FIBER_LATENCY, node_boot, node);
}

enum node_state node_state(const struct node *node)
{
    return (enum node_state)atomic_load_explicit(&node->state, memory_order_acquire);
}

const char *node_failure(const struct node *node)
{
    return node->failure;
}

void node_request_stop(struct node *node)
{
    atomic_store_explicit(&node->stop_for_good, true, memory_order_release);
    atomic_store_explicit(&node->stop_requested, true, memory_order_release);
}

void node_request_restart(struct node *node)
{
    atomic_store_explicit(&node->restart_wanted, true, memory_order_release);
    atomic_store_explicit(&node->stop_requested, true, memory_order_release);
}

bool node_restart_wanted(const struct node *node)
{
    return atomic_load_explicit(&node->restart_wanted, memory_order_acquire) &&
           !atomic_load_explicit(&node->stop_for_good, memory_order_acquire);
}
