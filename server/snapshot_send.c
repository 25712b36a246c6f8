#include "server/snapshot_send.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "server/node_private.h"
#include "server/peer_codec.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"
#include "server/snapshot_files.h"
#include "server/snapshot_install.h"
#include "storage/lsm/checkpoint.h"

#define POLL_NS        (2 * NS_PER_MS)
#define SILENCE_NS_MAX (30 * NS_PER_S) /* without progress: failed */
#define OFFER_NS       (1 * NS_PER_S)  /* repeated until the receiver answers */

struct snapshot_send {
    struct node *node;
    struct core *core;
    uint64_t to; /* 0: idle */
    bool running, stopping;
    struct fiber_event *stopped;
    struct snapshot_files files;
    char dir[CONFIG_TEXT_BYTES + 64];

    /* What the receiver said last. */
    bool answered;
    struct snapshot_status status;

    uint8_t chunk[SNAPSHOT_CHUNK_BYTES];
};

struct snapshot_send *snapshot_send_create(struct node *node, struct core *core)
{
    struct snapshot_send *send = calloc(1, sizeof(*send));
    if (send == NULL)
        return NULL;
    send->node = node;
    send->core = core;
    snprintf(send->dir, sizeof(send->dir), "%s/" SNAPSHOT_OUTGOING, node->config->data_dir);
    return send;
}

/* ---- what is sent --------------------------------------------------------------------------- */

struct listing {
    struct snapshot_files *files;
    const char *dir;
    bool too_many;
};

static void file_found(void *context, const char *name)
{
    struct listing *listing = context;
    struct snapshot_files *files = listing->files;
    if (files->count == SNAPSHOT_FILES_MAX || strlen(name) >= SNAPSHOT_NAME_BYTES) {
        listing->too_many = true;
        return;
    }
    snprintf(files->files[files->count++].name, SNAPSHOT_NAME_BYTES, "%s", name);
}

static int prepare(struct snapshot_send *send)
{
    struct snapshot_files *files = &send->files;
    struct node *node = send->node;
    struct listing listing = {.files = files, .dir = send->dir};
    memset(files, 0, sizeof(*files));
    int error = snapshot_remove_directory(send->dir);
    if (error == 0)
        error =
            lsm_checkpoint(node->lsm, node->raft_reader, send->dir, &files->index, &files->term);
    if (error == 0)
        error = reactor_list(core_reactor(send->core), send->dir, file_found, &listing);
    for (uint32_t i = 0; error == 0 && i < files->count; i++) {
        char path[sizeof(send->dir) + SNAPSHOT_NAME_BYTES + 2];
        struct io_stat stat;
        snprintf(path, sizeof(path), "%s/%s", send->dir, files->files[i].name);
        error = await_stat(path, &stat);
        files->files[i].bytes = stat.bytes;
        files->bytes += stat.bytes;
    }
    return error == 0 && listing.too_many ? ERR_LIMIT : error;
}

static bool send_offer(struct snapshot_send *send)
{
    struct peer_frame_out frame = {.kind = PEER_MESSAGE_SNAPSHOT_OFFER,
                                   .lane = PEER_LANE_SNAPSHOT,
                                   .to = send->to,
                                   .meta_bytes = snapshot_offer_bytes(&send->files)};
    struct peers *peers = send->node->peers->peers;
    uint8_t *meta = peers_send_begin(peers, &frame);
    if (meta == NULL)
        return false;
    snapshot_offer_encode(meta, &send->files);
    peers_send_end(peers, &frame);
    peers_flush(peers);
    return true;
}

/* The chunk at `position` of all files together. Bytes sent, 0: not now, or an error. */
static int send_chunk(struct snapshot_send *send, uint64_t position)
{
    struct snapshot_place place = snapshot_place(&send->files, position);
    const struct snapshot_file *from = &send->files.files[place.file];
    char path[sizeof(send->dir) + SNAPSHOT_NAME_BYTES + 2];
    struct io_file file;
    uint32_t bytes = (uint32_t)u64_min(SNAPSHOT_CHUNK_BYTES, from->bytes - place.offset);
    snprintf(path, sizeof(path), "%s/%s", send->dir, from->name);
    int error = await_open(path, IO_OPEN_READ, &file);
    if (error < 0)
        return error;
    int32_t got = await_read(
        file, (struct io_span){.base = send->chunk, .offset = place.offset, .bytes = bytes});
    await_close(&file);
    if (got != (int32_t)bytes)
        return got < 0 ? got : ERR_CORRUPT;
    struct snapshot_chunk chunk = {
        .index = send->files.index, .position = position, .crc = crc32c(0, send->chunk, bytes)};
    struct peer_frame_out frame = {.kind = PEER_MESSAGE_SNAPSHOT_CHUNK,
                                   .lane = PEER_LANE_SNAPSHOT,
                                   .to = send->to,
                                   .meta_bytes = SNAPSHOT_CHUNK_META,
                                   .payload_bytes = bytes};
    struct peers *peers = send->node->peers->peers;
    uint8_t *meta = peers_send_begin(peers, &frame);
    if (meta == NULL)
        return 0;
    snapshot_chunk_encode(meta, &chunk);
    memcpy(meta + SNAPSHOT_CHUNK_META, send->chunk, bytes);
    peers_send_end(peers, &frame);
    peers_flush(peers);
    return (int)bytes;
}

static bool is_current(const struct snapshot_send *send)
{
    return !send->stopping && send->node->raft->raft.role == RAFT_ROLE_LEADER;
}

/* 0 when the receiver has it all. */
static int stream(struct snapshot_send *send)
{
    uint64_t position = 0, progress_ns = core_now_ns(send->core), offered_ns = 0;
    uint64_t acknowledged = 0, began_ns = progress_ns, sent_bytes = 0;
    send->answered = false;
    while (is_current(send)) {
        uint64_t now_ns = core_now_ns(send->core);
        if (now_ns - progress_ns > SILENCE_NS_MAX)
            return -ETIMEDOUT;
        if (send->answered && send->status.state != SNAPSHOT_WANTED)
            return send->status.state == SNAPSHOT_COMPLETE ? 0 : ERR_CORRUPT;
        bool connected = peers_connected(send->node->peers->peers, send->to, PEER_LANE_SNAPSHOT);
        if (!connected)
            send->answered = false; /* offered again: it says where to go on */
        if (!send->answered) {
            if (connected && now_ns - offered_ns > OFFER_NS && send_offer(send))
                offered_ns = now_ns;
            position = UINT64_MAX;
            fiber_sleep_until(now_ns + POLL_NS);
            continue;
        }
        if (position == UINT64_MAX)
            position = send->status.position;
        if (send->status.position > acknowledged)
            progress_ns = now_ns;
        acknowledged = u64_max(acknowledged, send->status.position);
        bool early = sent_bytes > (now_ns - began_ns) / 1000 * (SNAPSHOT_BYTES_PER_S / 1000) / 1000;
        if (position >= send->files.bytes || early ||
            position - send->status.position >= SNAPSHOT_WINDOW_BYTES) {
            fiber_sleep_until(now_ns + POLL_NS);
            continue;
        }
        int sent = send_chunk(send, position);
        if (sent < 0)
            return sent;
        if (sent == 0)
            fiber_sleep_until(now_ns + POLL_NS);
        position += (uint32_t)sent;
        sent_bytes += (uint32_t)sent;
    }
    return ERR_CANCELED;
}

static void send_run(void *argument)
{
    struct snapshot_send *send = argument;
    uint64_t began_ns = core_now_ns(send->core);
    int error = prepare(send);
    log_info("sending a snapshot", LOG_HEX("member", send->to), LOG_U64("index", send->files.index),
             LOG_U64("files", send->files.count), LOG_U64("bytes", send->files.bytes),
             LOG_ERROR(error));
    if (error == 0)
        error = stream(send);
    log_info("snapshot ended", LOG_HEX("member", send->to),
             LOG_U64("ms", (core_now_ns(send->core) - began_ns) / NS_PER_MS), LOG_ERROR(error));
    raft_report_snapshot(&send->node->raft->raft, send->to, error == 0);
    error = snapshot_remove_directory(send->dir);
    if (error < 0)
        log_warn("links of a sent snapshot stay", LOG_TEXT("dir", send->dir), LOG_ERROR(error));
    send->to = 0;
    send->running = false;
    if (send->stopped != NULL)
        fiber_event_signal(send->stopped);
}

bool snapshot_send_is_idle(const struct snapshot_send *send)
{
    return send->to == 0 && !send->stopping;
}

void snapshot_send_start(struct snapshot_send *send, uint64_t to)
{
    invariant(send->to == 0); /* who asks looks first */
    send->to = to;
}

void snapshot_send_turn(struct snapshot_send *send)
{
    if (send->to != 0 && !send->running && !send->stopping)
        send->running = fiber_spawn(send->core, FIBER_BACKGROUND, send_run, send) == 0;
}

int snapshot_send_status(struct snapshot_send *send, const struct peer_input *input)
{
    struct snapshot_status status;
    int error = snapshot_status_decode(input, &status);
    if (error < 0)
        return error;
    if (input->header.from != send->to || status.index != send->files.index ||
        status.position > send->files.bytes)
        return 0; /* about an earlier one */
    send->status = status;
    send->answered = true;
    return 0;
}

void snapshot_send_destroy(struct snapshot_send *send)
{
    struct fiber_event stopped;
    send->stopping = true;
    fiber_event_init(&stopped);
    send->stopped = &stopped;
    if (send->running)
        fiber_event_wait(&stopped);
    free(send);
}
