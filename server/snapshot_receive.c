#include "server/snapshot_receive.h"

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
#include "server/snapshot_send.h"

#define TELL_BYTES (256 * KIB) /* how often the sender hears how far we are */

/* A chunk that waits to be written. */
struct arrived {
    struct arrived *next;
    struct peer_body *body;
    const uint8_t *payload;
    uint32_t bytes;
    uint64_t position;
};

struct snapshot_receive {
    struct node *node;
    struct core *core;
    char dir[CONFIG_TEXT_BYTES + 64];
    struct snapshot_files files; /* count 0: none under way */
    uint64_t from;
    uint64_t expected; /* position of the next chunk */
    uint64_t written, told;
    struct arrived *first, **last_next;
    bool running, failed, complete, stopping;
    struct fiber_event work;
    struct fiber_event *stopped;
    struct snapshot_files offered; /* decoded */
};

struct snapshot_receive *snapshot_receive_create(struct node *node, struct core *core)
{
    struct snapshot_receive *receive = calloc(1, sizeof(*receive));
    if (receive == NULL)
        return NULL;
    receive->node = node;
    receive->core = core;
    receive->last_next = &receive->first;
    fiber_event_init(&receive->work);
    snprintf(receive->dir, sizeof(receive->dir), "%s/" SNAPSHOT_INCOMING, node->config->data_dir);
    return receive;
}

static void tell(struct snapshot_receive *receive, uint64_t to,
                 const struct snapshot_status *status)
{
    struct peer_frame_out frame = {.kind = PEER_MESSAGE_SNAPSHOT_STATUS,
                                   .lane = PEER_LANE_CONTROL,
                                   .to = to,
                                   .meta_bytes = SNAPSHOT_STATUS_BYTES};
    struct peers *peers = receive->node->peers->peers;
    uint8_t *meta = peers_send_begin(peers, &frame);
    if (meta == NULL)
        return; /* it offers again */
    snapshot_status_encode(meta, status);
    peers_send_end(peers, &frame);
    peers_flush(peers);
}

static void tell_progress(struct snapshot_receive *receive)
{
    struct snapshot_status status = {.index = receive->files.index,
                                     .position = receive->written,
                                     .state = receive->failed     ? SNAPSHOT_FAILED
                                              : receive->complete ? SNAPSHOT_COMPLETE
                                                                  : SNAPSHOT_WANTED};
    receive->told = receive->written;
    tell(receive, receive->from, &status);
}

/* ---- writing -------------------------------------------------------------------------------- */

static int write_chunk(struct snapshot_receive *receive, const struct arrived *arrived)
{
    struct snapshot_place place = snapshot_place(&receive->files, arrived->position);
    const struct snapshot_file *to = &receive->files.files[place.file];
    char path[sizeof(receive->dir) + SNAPSHOT_NAME_BYTES + 8];
    struct io_file file;
    if (arrived->bytes > to->bytes - place.offset)
        return ERR_MALFORMED;
    snprintf(path, sizeof(path), "%s/lsm/%s", receive->dir, to->name);
    int error = await_open(path, IO_OPEN_WRITE | IO_OPEN_CREATE, &file);
    if (error < 0)
        return error;
    error = await_write(file,
                        (struct io_span){.base = (void *)arrived->payload,
                                         .offset = place.offset,
                                         .bytes = arrived->bytes},
                        0);
    if (error >= 0 && place.offset + arrived->bytes == to->bytes)
        error = await_sync(file);
    await_close(&file);
    return error < 0 ? error : 0;
}

static int begin_directory(struct snapshot_receive *receive)
{
    char path[sizeof(receive->dir) + 8];
    snprintf(path, sizeof(path), "%s/lsm", receive->dir);
    int error = snapshot_remove_directory(receive->dir);
    if (error == 0)
        error = await_make_directory(receive->dir);
    if (error == 0)
        error = await_make_directory(path);
    return error;
}

static int finish(struct snapshot_receive *receive)
{
    char path[sizeof(receive->dir) + 8];
    struct snapshot_position position = {.index = receive->files.index,
                                         .term = receive->files.term};
    snprintf(path, sizeof(path), "%s/lsm", receive->dir);
    int error = await_sync_directory(path);
    return error < 0 ? error : snapshot_mark(receive->node->config, &position);
}

static struct arrived *arrived_pop(struct snapshot_receive *receive)
{
    struct arrived *arrived = receive->first;
    receive->first = arrived->next;
    if (receive->first == NULL)
        receive->last_next = &receive->first;
    return arrived;
}

static void arrived_free(struct arrived *arrived)
{
    peer_body_release(arrived->body);
    free(arrived);
}

static void receive_run(void *argument)
{
    struct snapshot_receive *receive = argument;
    int error = begin_directory(receive);
    while (error == 0 && !receive->stopping && receive->written < receive->files.bytes) {
        if (receive->first == NULL) {
            fiber_event_wait(&receive->work);
            continue;
        }
        struct arrived *arrived = arrived_pop(receive);
        error = write_chunk(receive, arrived);
        receive->written += arrived->bytes;
        arrived_free(arrived);
        if (error == 0 && receive->written - receive->told >= TELL_BYTES)
            tell_progress(receive);
    }
    if (error == 0 && !receive->stopping)
        error = finish(receive);
    receive->failed = error < 0;
    receive->complete = error == 0 && !receive->stopping;
    if (!receive->stopping)
        tell_progress(receive);
    log_info("snapshot received", LOG_U64("index", receive->files.index),
             LOG_U64("bytes", receive->written), LOG_ERROR(error));
    if (receive->complete)
        node_request_restart(receive->node);
    else
        receive->files.count = 0;
    receive->running = false;
    if (receive->stopped != NULL)
        fiber_event_signal(receive->stopped);
}

/* ---- frames --------------------------------------------------------------------------------- */

/* Everything that it holds is in our log or tables. */
static bool is_known(const struct snapshot_receive *receive, const struct snapshot_files *offered)
{
    const struct raft_log *log = &receive->node->raft->raft.log;
    if (log->faulty_index != 0 && offered->index >= log->faulty_index)
        return false; /* known, but lost (server/repair.h) */
    return offered->index <= log->committed_index ||
           raft_log_matches(log, offered->index, offered->term);
}

int snapshot_receive_offer(struct snapshot_receive *receive, const struct peer_input *input)
{
    struct snapshot_files *offered = &receive->offered;
    uint64_t from = input->header.from;
    int error = snapshot_offer_decode(input, offered);
    if (error < 0)
        return error;
    if (from != receive->node->raft->raft.leader || receive->stopping)
        return 0; /* only a leader's word replaces what we have */
    struct snapshot_status status = {.index = offered->index, .position = offered->bytes};
    if (is_known(receive, offered)) {
        status.state = SNAPSHOT_COMPLETE;
        tell(receive, from, &status);
        return 0;
    }
    if (receive->running || receive->complete) {
        if (from == receive->from && offered->index == receive->files.index &&
            offered->bytes == receive->files.bytes) {
            receive->expected = receive->written; /* what was under way is lost */
            while (receive->first != NULL)
                arrived_free(arrived_pop(receive));
            tell_progress(receive);
        }
        return 0;
    }
    receive->files = *offered;
    receive->from = from;
    receive->expected = receive->written = receive->told = 0;
    receive->failed = false;
    if (fiber_spawn(receive->core, FIBER_BACKGROUND, receive_run, receive) < 0) {
        receive->files.count = 0;
        return 0;
    }
    receive->running = true;
    tell_progress(receive);
    return 0;
}

int snapshot_receive_chunk(struct snapshot_receive *receive, const struct peer_input *input)
{
    struct snapshot_chunk chunk;
    uint32_t bytes = input->header.payload_bytes;
    int error = snapshot_chunk_decode(input, &chunk);
    if (error < 0)
        return error;
    if (!receive->running || input->header.from != receive->from ||
        chunk.index != receive->files.index || chunk.position != receive->expected)
        return 0; /* of an earlier connection */
    if (bytes == 0 || bytes > SNAPSHOT_CHUNK_BYTES ||
        bytes > receive->files.bytes - chunk.position ||
        crc32c(0, input->payload, bytes) != chunk.crc)
        return ERR_CORRUPT;
    struct arrived *arrived = malloc(sizeof(*arrived));
    if (arrived == NULL)
        return ERR_FULL;
    *arrived = (struct arrived){
        .body = input->body, .payload = input->payload, .bytes = bytes, .position = chunk.position};
    peer_body_keep(input->body);
    *receive->last_next = arrived;
    receive->last_next = &arrived->next;
    receive->expected += bytes;
    fiber_event_signal(&receive->work);
    return 0;
}

void snapshot_receive_destroy(struct snapshot_receive *receive)
{
    struct fiber_event stopped;
    receive->stopping = true;
    fiber_event_init(&stopped);
    receive->stopped = &stopped;
    fiber_event_signal(&receive->work);
    if (receive->running)
        fiber_event_wait(&stopped);
    while (receive->first != NULL)
        arrived_free(arrived_pop(receive));
    free(receive);
}
