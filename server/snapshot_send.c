#include "server/snapshot_send.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "server/peer_codec.h"
#include "server/snapshot_files.h"
#include "server/snapshot_install.h"

#define POLL_NS          (2 * NS_PER_MS)
#define OFFER_NS         (1 * NS_PER_S) /* without an answer or a move: offered once more */
#define BURST_NS         (5 * NS_PER_MS)
#define POSITION_UNKNOWN UINT64_MAX

struct snapshot_send {
    const struct snapshot_send_calls *calls;
    void *context;
    struct core *core;
    uint64_t to; /* 0: idle */
    bool running, stopping;
    struct fiber_event *stopped;
    struct snapshot_files files; /* transfer 0: not fixed yet */
    char dir[SNAPSHOT_PATH_BYTES];

    /* What the receiver said last, if the fiber has not looked at it yet. */
    bool answered;
    struct snapshot_status status;

    uint64_t position;     /* of the next chunk; POSITION_UNKNOWN: the receiver is to say */
    uint64_t acknowledged; /* the highest position that it told */
    uint64_t moved_ns;     /* when that grew, or it said that it works on the whole */
    uint64_t heard_ns, offered_ns;
    uint64_t due_ns; /* of the next chunk, by the rate */

    uint8_t chunk[SNAPSHOT_CHUNK_BYTES];
};

struct snapshot_send *snapshot_send_create(struct core *core, const char *data_dir,
                                           const struct snapshot_send_calls *calls, void *context)
{
    struct snapshot_send *send = calloc(1, sizeof(*send));
    if (send == NULL)
        return NULL;
    send->calls = calls;
    send->context = context;
    send->core = core;
    snprintf(send->dir, sizeof(send->dir), "%s/" SNAPSHOT_OUTGOING, data_dir);
    return send;
}

/* ---- what is sent --------------------------------------------------------------------------- */

struct listing {
    struct snapshot_files *files;
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

static int by_name(const void *a, const void *b)
{
    const struct snapshot_file *left = a, *right = b;
    return strcmp(left->name, right->name);
}

static int prepare(struct snapshot_send *send)
{
    struct snapshot_files *files = &send->files;
    struct listing listing = {.files = files};
    int error = snapshot_remove_directory(send->dir);
    if (error == 0)
        error = send->calls->checkpoint(send->context, send->dir, &files->index, &files->term);
    if (error == 0)
        error = reactor_list(core_reactor(send->core), send->dir, file_found, &listing);
    if (error == 0 && listing.too_many)
        error = ERR_LIMIT;
    qsort(files->files, files->count, sizeof(files->files[0]), by_name);
    for (uint32_t i = 0; error == 0 && i < files->count; i++) {
        char path[SNAPSHOT_PATH_BYTES + SNAPSHOT_NAME_BYTES];
        struct io_stat stat;
        snprintf(path, sizeof(path), "%s/%s", send->dir, files->files[i].name);
        error = await_stat(path, &stat);
        files->files[i].bytes = stat.bytes;
        files->bytes += stat.bytes;
    }
    if (error == 0)
        files->transfer = reactor_random(core_reactor(send->core)) | 1;
    return error;
}

/* ---- frames --------------------------------------------------------------------------------- */

static void send_offer(struct snapshot_send *send)
{
    struct peer_frame_out frame = {.kind = PEER_MESSAGE_SNAPSHOT_OFFER,
                                   .lane = PEER_LANE_SNAPSHOT,
                                   .to = send->to,
                                   .meta_bytes = snapshot_offer_bytes(&send->files)};
    uint8_t *meta = malloc(frame.meta_bytes);
    if (meta == NULL)
        return; /* once more later */
    snapshot_offer_encode(meta, &send->files);
    if (send->calls->send(send->context, &frame, meta, NULL)) {
        send->offered_ns = core_now_ns(send->core);
        send->position = POSITION_UNKNOWN;
    }
    free(meta);
}

/* The chunk at `position`. Bytes sent, 0: not now, or an error. */
static int send_chunk(struct snapshot_send *send)
{
    struct snapshot_place place = snapshot_place(&send->files, send->position);
    const struct snapshot_file *from = &send->files.files[place.file];
    char path[SNAPSHOT_PATH_BYTES + SNAPSHOT_NAME_BYTES];
    struct io_file file;
    uint64_t position = send->position;
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
    uint8_t meta[SNAPSHOT_CHUNK_META];
    struct snapshot_chunk chunk = {.transfer = send->files.transfer,
                                   .position = position,
                                   .crc = crc32c(0, send->chunk, bytes)};
    struct peer_frame_out frame = {.kind = PEER_MESSAGE_SNAPSHOT_CHUNK,
                                   .lane = PEER_LANE_SNAPSHOT,
                                   .to = send->to,
                                   .meta_bytes = SNAPSHOT_CHUNK_META,
                                   .payload_bytes = bytes};
    snapshot_chunk_encode(meta, &chunk);
    return send->calls->send(send->context, &frame, meta, send->chunk) ? (int)bytes : 0;
}

/* ---- a transfer ----------------------------------------------------------------------------- */

static bool is_current(const struct snapshot_send *send)
{
    return !send->stopping && send->calls->is_wanted(send->context, send->to);
}

static void take_answer(struct snapshot_send *send, uint64_t now_ns)
{
    const struct snapshot_status *status = &send->status;
    send->answered = false;
    send->heard_ns = now_ns;
    if (send->position == POSITION_UNKNOWN)
        send->position = status->position;
    if (status->position > send->acknowledged || status->position == send->files.bytes)
        send->moved_ns = now_ns; /* at the end it verifies, and starts again: that may take long */
    send->acknowledged = status->position;
}

/* Nothing may leave now. When to look again; 0: something may. */
static uint64_t wait_until(const struct snapshot_send *send, uint64_t now_ns)
{
    bool blocked = send->position == POSITION_UNKNOWN || send->position >= send->files.bytes ||
                   send->position >= send->acknowledged + SNAPSHOT_WINDOW_BYTES;
    if (blocked)
        return now_ns + POLL_NS;
    return send->due_ns > now_ns ? send->due_ns : 0;
}

static bool is_offer_due(const struct snapshot_send *send, uint64_t now_ns)
{
    return now_ns - u64_max(send->heard_ns, send->offered_ns) > OFFER_NS || send->offered_ns == 0;
}

/* 0 when the receiver has it all. */
static int stream(struct snapshot_send *send)
{
    send->position = POSITION_UNKNOWN;
    send->acknowledged = send->offered_ns = send->due_ns = 0;
    send->moved_ns = send->heard_ns = core_now_ns(send->core);
    send->answered = false;
    while (is_current(send)) {
        uint64_t now_ns = core_now_ns(send->core);
        if (send->answered) {
            if (send->status.state != SNAPSHOT_WANTED)
                return send->status.state == SNAPSHOT_COMPLETE ? 0 : ERR_UNAVAILABLE;
            take_answer(send, now_ns);
        }
        if (now_ns - send->moved_ns > SNAPSHOT_SILENCE_NS)
            return -ETIMEDOUT;
        bool connected = send->calls->is_connected(send->context, send->to);
        if (!connected)
            send->position = POSITION_UNKNOWN; /* what was on its way may be lost */
        else if (is_offer_due(send, now_ns))
            send_offer(send);
        uint64_t wait_ns = wait_until(send, now_ns);
        if (wait_ns > 0) {
            fiber_sleep_until(wait_ns);
            continue;
        }
        int sent = send_chunk(send);
        if (sent < 0)
            return sent;
        if (sent == 0) {
            fiber_sleep_until(now_ns + POLL_NS);
            continue;
        }
        send->position += (uint32_t)sent;
        send->due_ns = u64_max(send->due_ns, now_ns - BURST_NS) +
                       (uint64_t)sent * NS_PER_S / SNAPSHOT_BYTES_PER_S;
    }
    return ERR_CANCELED;
}

/* What failed now will mostly fail at once again: a full disk, a member that went away. */
static void rest(const struct snapshot_send *send)
{
    uint64_t until_ns = core_now_ns(send->core) + SNAPSHOT_RETRY_NS;
    while (is_current(send) && core_now_ns(send->core) < until_ns)
        fiber_sleep_until(core_now_ns(send->core) + 50 * NS_PER_MS);
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
    int removed = snapshot_remove_directory(send->dir);
    if (removed < 0)
        log_warn("links of a sent snapshot stay", LOG_TEXT("dir", send->dir), LOG_ERROR(removed));
    if (error < 0)
        rest(send);
    uint64_t to = send->to;
    send->to = 0;
    send->running = false;
    send->calls->ended(send->context, to, error == 0);
    if (send->stopped != NULL)
        fiber_event_signal(send->stopped);
}

bool snapshot_send_is_idle(const struct snapshot_send *send)
{
    return send->to == 0 && !send->stopping;
}

uint64_t snapshot_send_index(const struct snapshot_send *send, uint64_t to)
{
    return send->to == to && send->running ? send->files.index : 0;
}

void snapshot_send_start(struct snapshot_send *send, uint64_t to)
{
    invariant(send->to == 0); /* who asks looks first */
    send->to = to;
    memset(&send->files, 0, sizeof(send->files));
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
    if (input->header.from != send->to || send->files.transfer == 0 ||
        status.transfer != send->files.transfer || status.position > send->files.bytes)
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
