#include "server/metrics_node.h"

#include <stdio.h>

#include "core/core.h"
#include "core/reactor.h"
#include "server/frontend.h"
#include "server/log_role.h"
#include "server/node_private.h"
#include "server/raft_driver.h"
#include "server/service_table.h"
#include "storage/lsm/lsm.h"
#include "storage/mvcc/mvcc.h"

/* ---- values computed at scrape -------------------------------------------------------------- */

#define SHARED_VALUE(field)                                                                        \
    static double value_##field(void *context)                                                     \
    {                                                                                              \
        const struct node *node = context;                                                         \
        return (double)atomic_load_explicit(&node->shared.field, memory_order_relaxed);            \
    }
SHARED_VALUE(leader_changes)
SHARED_VALUE(proposals_applied)
SHARED_VALUE(proposals_failed)
SHARED_VALUE(proposals_pending)
SHARED_VALUE(commit_index)
SHARED_VALUE(last_index)
SHARED_VALUE(term)
SHARED_VALUE(is_learner)
SHARED_VALUE(tables_pressure)
SHARED_VALUE(tables_failing)
#undef SHARED_VALUE

static double value_has_leader(void *context)
{
    const struct node *node = context;
    return atomic_load_explicit(&node->shared.leader, memory_order_relaxed) != 0;
}

static double value_is_leader(void *context)
{
    const struct node *node = context;
    return atomic_load_explicit(&node->shared.leader, memory_order_relaxed) ==
           node->identity.member_id;
}

static double value_one(void *context maybe_unused)
{
    return 1;
}

static double value_quota(void *context)
{
    uint64_t quota = alarm_quota_bytes(context);
    return quota == UINT64_MAX ? 0 : (double)quota;
}

#define MVCC_VALUE(name, field)                                                                    \
    static double value_##name(void *context)                                                      \
    {                                                                                              \
        const struct node *node = context;                                                         \
        return (double)mvcc_shared_stats(node->mvcc_shared).field;                                 \
    }
MVCC_VALUE(size, size_bytes)
MVCC_VALUE(size_in_use, size_in_use_bytes)
MVCC_VALUE(keys, key_count)
MVCC_VALUE(revision, revision)
MVCC_VALUE(compacted, compacted)
#undef MVCC_VALUE

static struct reactor_process_stats process_stats(void)
{
    struct reactor_process_stats stats;
    reactor_process_stats(core_reactor(core_current()), &stats);
    return stats;
}

#define PROCESS_VALUE(field)                                                                       \
    static double value_process_##field(void *context maybe_unused)                                \
    {                                                                                              \
        return (double)process_stats().field;                                                      \
    }
PROCESS_VALUE(resident_bytes)
PROCESS_VALUE(virtual_bytes)
PROCESS_VALUE(cpu_ns)
PROCESS_VALUE(open_files)
PROCESS_VALUE(open_files_max)
PROCESS_VALUE(start_wall_ns)
#undef PROCESS_VALUE

#define GAUGE(metric_name, text)                                                                   \
    {                                                                                              \
        .name = (metric_name), .help = (text), .kind = METRIC_GAUGE                                \
    }
#define COUNTER(metric_name, text)                                                                 \
    {                                                                                              \
        .name = (metric_name), .help = (text), .kind = METRIC_COUNTER                              \
    }

static const struct {
    struct metric_family family;
    double (*value)(void *context);
    const char *labels;
} computed[] = {
    {GAUGE("etcd_server_has_leader", "Whether a leader is known."), value_has_leader, ""},
    {GAUGE("etcd_server_is_leader", "Whether this member leads."), value_is_leader, ""},
    {GAUGE("etcd_server_is_learner", "Whether this member is a learner."), value_is_learner, ""},
    {COUNTER("etcd_server_leader_changes_seen_total", "Leader changes seen."), value_leader_changes,
     ""},
    {GAUGE("etcd_server_proposals_committed_total", "Highest committed log index."),
     value_commit_index, ""},
    {GAUGE("etcd_server_proposals_applied_total", "Highest applied log index."),
     value_proposals_applied, ""},
    {GAUGE("etcd_server_proposals_pending", "Entries in the log and not committed."),
     value_proposals_pending, ""},
    {COUNTER("etcd_server_proposals_failed_total",
             "Proposals refused, lost, or executed with an error."),
     value_proposals_failed, ""},
    {GAUGE("etcd_server_quota_backend_bytes", "Quota of the data size; 0 = none."), value_quota,
     ""},
    {GAUGE("etcd_server_version", "API level this server implements."), value_one,
     "server_version=\"" NODE_ETCD_VERSION "\""},
    {GAUGE("etcd_cluster_version", "API level of the cluster."), value_one,
     "cluster_version=\"3.6\""},
    {GAUGE("raft_term", "Current term."), value_term, ""},
    {GAUGE("raft_last_index", "Last index of the log."), value_last_index, ""},
    {GAUGE("raft_tables_pressure",
           "Memtables and level 0 tables that wait; 100: writes wait, 200: applying does."),
     value_tables_pressure, ""},
    {GAUGE("raft_tables_failing", "Whether flushes or merges fail."), value_tables_failing, ""},
    {GAUGE("etcd_mvcc_db_total_size_in_bytes", "Logical size of all retained versions."),
     value_size, ""},
    {GAUGE("etcd_mvcc_db_total_size_in_use_in_bytes", "Logical size of the live versions."),
     value_size_in_use, ""},
    {GAUGE("etcd_debugging_mvcc_keys_total", "Live keys."), value_keys, ""},
    {GAUGE("etcd_debugging_mvcc_current_revision", "Current revision."), value_revision, ""},
    {GAUGE("etcd_debugging_mvcc_compact_revision", "Compacted revision."), value_compacted, ""},
    {GAUGE("process_resident_memory_bytes", "Resident memory."), value_process_resident_bytes, ""},
    {GAUGE("process_virtual_memory_bytes", "Virtual memory."), value_process_virtual_bytes, ""},
    {{.name = "process_cpu_seconds_total",
      .help = "CPU time used.",
      .kind = METRIC_COUNTER,
      .scale = 1e-9},
     value_process_cpu_ns,
     ""},
    {GAUGE("process_open_fds", "Open descriptors."), value_process_open_files, ""},
    {GAUGE("process_max_fds", "Limit of open descriptors."), value_process_open_files_max, ""},
    {{.name = "process_start_time_seconds",
      .help = "Start of the process since 1970.",
      .kind = METRIC_GAUGE,
      .scale = 1e-9},
     value_process_start_wall_ns,
     ""},
};

/* ---- slots of the roles --------------------------------------------------------------------- */

static const struct metric_family family_fsync = {
    .name = "etcd_disk_wal_fsync_duration_seconds",
    .help = "Durable write of a log block, submission to completion.",
    .kind = METRIC_HISTOGRAM,
    .bucket_first = 0.001 / 64,
    .bucket_count = 20};
static const struct metric_family family_commit = {
    .name = "raft_log_commit_duration_seconds",
    .help = "From handing a batch to the log until it is durable.",
    .kind = METRIC_HISTOGRAM,
    .bucket_first = 0.001 / 64,
    .bucket_count = 20};
static const struct metric_family family_flush = {.name =
                                                      "etcd_disk_backend_commit_duration_seconds",
                                                  .help = "Flush of a memtable to a table.",
                                                  .kind = METRIC_HISTOGRAM,
                                                  .bucket_first = 0.001,
                                                  .bucket_count = 14};
static const struct metric_family family_log_bytes =
    COUNTER("etcd_disk_wal_write_bytes_total", "Bytes written to the log.");
static const struct metric_family family_log_blocks =
    COUNTER("raft_log_blocks_total", "Blocks written to the log.");
static const struct metric_family family_log_entries =
    COUNTER("raft_log_entries_total", "Entries written to the log.");
static const struct metric_family family_started =
    COUNTER("grpc_server_started_total", "Calls started.");
static const struct metric_family family_handled =
    COUNTER("grpc_server_handled_total", "Calls completed, by status.");
static const struct metric_family family_received_messages =
    COUNTER("grpc_server_msg_received_total", "Messages received.");
static const struct metric_family family_sent_messages =
    COUNTER("grpc_server_msg_sent_total", "Messages sent.");
static const struct metric_family family_received_bytes =
    COUNTER("etcd_network_client_grpc_received_bytes_total", "Bytes received from clients.");
static const struct metric_family family_sent_bytes =
    COUNTER("etcd_network_client_grpc_sent_bytes_total", "Bytes sent to clients.");
static const struct metric_family family_connections =
    GAUGE("raft_client_connections", "Open client connections.");
static const struct metric_family family_connections_refused =
    COUNTER("raft_client_connections_refused_total", "Connections closed for want of room.");
static const struct metric_family family_protocol_errors =
    COUNTER("raft_client_protocol_errors_total", "Connections closed for malformed bytes.");
static const struct metric_family family_timeouts =
    COUNTER("raft_client_timeouts_total", "Connections closed by a deadline.");
static const struct metric_family family_row_cache_hits =
    COUNTER("raft_row_cache_hits_total", "Rows of tables found in the row cache.");
static const struct metric_family family_cache_hits =
    COUNTER("raft_block_cache_hits_total", "Blocks found in the cache.");
static const struct metric_family family_cache_misses =
    COUNTER("raft_block_cache_misses_total", "Blocks read from disk.");
static const struct metric_family family_cache_bytes =
    GAUGE("raft_block_cache_bytes", "Bytes in the block cache.");
static const struct metric_family family_row_cache_bytes =
    GAUGE("raft_row_cache_bytes", "Bytes in the row cache.");

static const char *const status_names[RPC_STATUS_COUNT] = {
    "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
    "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
    "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
    "DataLoss", "Unauthenticated"};

static void method_labels(const struct rpc_method *method, char *labels, size_t bytes,
                          const char *code)
{
    static const char *const kinds[] = {"unary", "server_stream", "bidi_stream"};
    const char *slash = strrchr(method->path, '/');
    snprintf(labels, bytes, "%s%s%sgrpc_method=\"%s\",grpc_service=\"%.*s\",grpc_type=\"%s\"",
             code != NULL ? "grpc_code=\"" : "", code != NULL ? code : "",
             code != NULL ? "\"," : "", slash + 1, (int)(slash - method->path - 1),
             method->path + 1, kinds[method->kind]);
}

static void register_methods(struct metrics *metrics, const struct rpc_server_stats *stats)
{
    char labels[256];
    for (uint32_t i = 0; i < service_method_count; i++) {
        const struct rpc_method *method = &service_methods[i];
        method_labels(method, labels, sizeof(labels), NULL);
        metrics_register(metrics, &family_started, labels, &stats->started[method->id]);
        metrics_register(metrics, &family_received_messages, labels,
                         &stats->messages_received[method->id]);
        metrics_register(metrics, &family_sent_messages, labels, &stats->messages_sent[method->id]);
        for (uint32_t code = 0; code < RPC_STATUS_COUNT; code++) {
            method_labels(method, labels, sizeof(labels), status_names[code]);
            metrics_register(metrics, &family_handled, labels, &stats->handled[method->id][code]);
        }
    }
}

static void register_frontend(struct metrics *metrics, const struct frontend *frontend)
{
    const struct rpc_server_stats *stats = rpc_server_stats(frontend->server);
    const struct lsm_reader_stats *reader = lsm_reader_stats(frontend->lsm_reader);
    metrics_register(metrics, &family_received_bytes, "", &stats->received_bytes);
    metrics_register(metrics, &family_sent_bytes, "", &stats->sent_bytes);
    metrics_register(metrics, &family_connections, "", &stats->connections);
    metrics_register(metrics, &family_connections_refused, "", &stats->connections_refused);
    metrics_register(metrics, &family_protocol_errors, "", &stats->protocol_errors);
    metrics_register(metrics, &family_timeouts, "", &stats->timeouts);
    metrics_register(metrics, &family_row_cache_hits, "", &reader->row_cache_hits);
    metrics_register(metrics, &family_cache_hits, "", &reader->cache_hits);
    metrics_register(metrics, &family_cache_misses, "", &reader->cache_misses);
    metrics_register(metrics, &family_cache_bytes, "", &reader->cache_bytes);
    metrics_register(metrics, &family_row_cache_bytes, "", &reader->row_cache_bytes);
    register_methods(metrics, stats);
}

static void register_log(struct metrics *metrics, const struct node *node)
{
    const struct wal_stats *stats = log_role_stats(node->log);
    struct lsm_stats lsm;
    lsm_stats(node->lsm, &lsm);
    metrics_register(metrics, &family_fsync, "", &stats->write_ns);
    metrics_register(metrics, &family_commit, "", &node->raft->commit_ns);
    metrics_register(metrics, &family_flush, "", lsm.flush_duration_ns);
    metrics_register(metrics, &family_log_bytes, "", &stats->bytes_written);
    metrics_register(metrics, &family_log_blocks, "", &stats->blocks);
    metrics_register(metrics, &family_log_entries, "", &stats->entries);
}

int metrics_node_register(struct node *node)
{
    char labels[64];
    for (size_t i = 0; i < ARRAY_COUNT(computed); i++)
        metrics_register_function(node->metrics, &computed[i].family, computed[i].labels,
                                  computed[i].value, node);
    static const struct metric_family family_id = GAUGE("etcd_server_id", "This member's id.");
    snprintf(labels, sizeof(labels), "server_id=\"%llx\"",
             (unsigned long long)node->identity.member_id);
    metrics_register_function(node->metrics, &family_id, labels, value_one, node);
    register_log(node->metrics, node);
    metrics_register(node->metrics, &family_connections_refused, "", &node->connections_refused);
    for (uint32_t i = 0; i < node->map.connections_count; i++)
        register_frontend(node->metrics, node->frontends[node->map.connections_first + i]);
    return 0;
}
