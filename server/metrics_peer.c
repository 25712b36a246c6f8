#include "server/metrics_peer.h"

#include "core/metrics.h"
#include "server/node_private.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"
#include "server/repair.h"

static void counter(struct node *node, const char *name, const char *help, const char *labels,
                    const uint64_t *slot)
{
    const struct metric_family family = {.name = name, .help = help, .kind = METRIC_COUNTER};
    metrics_register(node->metrics, &family, labels, slot);
}

static void register_transport(struct node *node)
{
    const struct peer_stats *stats = peers_stats(node->peers->peers);
    static const char frames[] = "raft_peer_frames_refused_total";
    static const char why[] = "Frames that closed their connection, by reason.";
    static const char drops[] = "raft_peer_frames_dropped_total";
    static const char drop[] = "Frames that were not sent, by reason.";
    counter(node, "raft_peer_sent_bytes_total", "Bytes of frames to other members.", "",
            &stats->bytes_sent);
    counter(node, "raft_peer_received_bytes_total", "Bytes of frames from other members.", "",
            &stats->bytes_received);
    counter(node, frames, why, "reason=\"malformed\"", &stats->frames_malformed);
    counter(node, frames, why, "reason=\"misdirected\"", &stats->frames_misdirected);
    counter(node, frames, why, "reason=\"stale\"", &stats->frames_stale);
    counter(node, drops, drop, "reason=\"disconnected\"", &stats->dropped_disconnected);
    counter(node, drops, drop, "reason=\"full\"", &stats->dropped_full);
    counter(node, "raft_peer_connections_lost_total", "Connections that were up and ended.", "",
            &stats->connections_lost);
    counter(node, "raft_peer_dials_failed_total", "Connections that did not come up.", "",
            &stats->dials_failed);
    counter(node, "raft_peer_connections_refused_total",
            "Connections closed because strangers held too many.", "", &stats->links_refused);
    counter(node, "raft_peer_greetings_refused_total", "Members that were not let in.", "",
            &stats->greetings_refused);
}

static void register_messages(struct node *node)
{
    const struct peer_role *role = node->peers;
    static const char drops[] = "raft_peer_messages_dropped_total";
    static const char why[] = "Messages that came in and were not handled, by reason.";
    counter(node, drops, why, "reason=\"malformed\"", &role->counters.malformed);
    counter(node, drops, why, "reason=\"full\"", &role->counters.dropped_full);
    counter(node, drops, why, "reason=\"unknown_member\"", &role->counters.unknown_member);
}

static void register_raft(struct node *node)
{
    const struct raft_counters *raft = &node->raft->raft.counters;
    static const char elections[] = "raft_elections_total";
    static const char campaign[] = "Campaigns of this member, by kind.";
    counter(node, elections, campaign, "kind=\"pre_vote\"", &raft->elections_pre_vote);
    counter(node, elections, campaign, "kind=\"vote\"", &raft->elections_started);
    counter(node, "raft_appends_rejected_total", "Appends whose predecessor was missing here.", "",
            &raft->appends_rejected);
    counter(node, "raft_snapshots_sent_total", "Snapshots that a member needed.", "",
            &raft->snapshots_sent);
    counter(node, "raft_leader_connections_lost_total",
            "Times every connection of the leader ended.", "", &node->peers->failover.leaders_lost);
    counter(node, "raft_disk_watchdog_trips_total",
            "Times a hanging log write made this leader step down.", "",
            &node->peers->failover.watchdog_trips);
    counter(node, "raft_disk_watchdog_moves_total",
            "Times a hanging log write made this leader hand over.", "",
            &node->peers->failover.watchdog_moves);
    counter(node, "raft_tables_watchdog_moves_total",
            "Times stuck tables made this leader offer its leadership.", "",
            &node->raft->tables.moves);
}

static void register_repair(struct node *node)
{
    const struct repair_stats *stats = repair_stats(node->repair);
    const struct metric_family faulty = {.name = "raft_log_faulty_entries",
                                         .help = "Log entries that are damaged here now.",
                                         .kind = METRIC_GAUGE};
    metrics_register(node->metrics, &faulty, "", &stats->faulty);
    counter(node, "raft_log_repaired_entries_total", "Log entries written again from copies.", "",
            &stats->repaired);
    counter(node, "raft_log_dropped_entries_total", "Damaged log entries that no member had.", "",
            &stats->dropped);
    counter(node, "raft_log_served_entries_total", "Log entries given to members that lost them.",
            "", &stats->served);
    counter(node, "raft_log_served_tables_total",
            "Times tables were sent in place of entries that a member lost.", "", &stats->tables);
}

void metrics_peer_register(struct node *node)
{
    register_repair(node);
    register_transport(node);
    register_messages(node);
    register_raft(node);
}
