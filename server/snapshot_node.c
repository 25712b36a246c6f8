#include "server/snapshot_node.h"

#include "server/node_private.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"
#include "storage/lsm/checkpoint.h"

static bool send_frame(void *context, const struct peer_frame_out *frame, const uint8_t *meta,
                       const uint8_t *payload)
{
    struct node *node = context;
    struct peers *peers = node->peers->peers;
    uint8_t *to = peers_send_begin(peers, frame);
    if (to == NULL)
        return false;
    memcpy(to, meta, frame->meta_bytes);
    if (frame->payload_bytes > 0)
        memcpy(to + frame->meta_bytes, payload, frame->payload_bytes);
    peers_send_end(peers, frame);
    peers_flush(peers);
    return true;
}

/* ---- sending -------------------------------------------------------------------------------- */

static int send_checkpoint(void *context, const char *dir, uint64_t *index, uint64_t *term)
{
    const struct node *node = context;
    return lsm_checkpoint(node->lsm, node->raft_reader, dir, index, term);
}

static bool send_is_wanted(void *context, uint64_t to)
{
    const struct node *node = context;
    const struct raft *raft = &node->raft->raft;
    bool is_member = false;
    for (uint32_t i = 0; i < raft->peer_count; i++)
        is_member = is_member || raft->peers[i]->id == to;
    return is_member && raft->role == RAFT_ROLE_LEADER;
}

static bool send_is_connected(void *context, uint64_t to)
{
    const struct node *node = context;
    return peers_connected(node->peers->peers, to, PEER_LANE_SNAPSHOT);
}

static void send_ended(void *context, uint64_t to, bool ok)
{
    struct node *node = context;
    raft_report_snapshot(&node->raft->raft, to, ok);
}

struct snapshot_send *snapshot_node_sender(struct node *node, struct core *core)
{
    static const struct snapshot_send_calls calls = {.checkpoint = send_checkpoint,
                                                     .is_wanted = send_is_wanted,
                                                     .is_connected = send_is_connected,
                                                     .send = send_frame,
                                                     .ended = send_ended};
    return snapshot_send_create(core, node->config->data_dir, &calls, node);
}

/* ---- receiving ------------------------------------------------------------------------------ */

static bool receive_is_leader(void *context, uint64_t id)
{
    const struct node *node = context;
    return node->raft->raft.leader == id;
}

static bool receive_is_news(void *context, const struct snapshot_position *position)
{
    const struct node *node = context;
    const struct raft_log *log = &node->raft->raft.log;
    struct snapshot_log found = {.base_index = log->compacted_index,
                                 .fault_index = log->faulty_index};
    if (raft_log_term(log, position->index, &found.term) != 0)
        found.term = 0;
    return snapshot_is_news(position, &found);
}

static void receive_send(void *context, const struct peer_frame_out *frame, const uint8_t *meta)
{
    (void)send_frame(context, frame, meta, NULL);
}

static void receive_done(void *context)
{
    node_request_restart(context);
}

struct snapshot_receive *snapshot_node_receiver(struct node *node, struct core *core)
{
    static const struct snapshot_receive_calls calls = {.is_leader = receive_is_leader,
                                                        .is_news = receive_is_news,
                                                        .send = receive_send,
                                                        .received = receive_done};
    return snapshot_receive_create(core, node->config->data_dir, &calls, node);
}
