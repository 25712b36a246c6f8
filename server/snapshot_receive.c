#include "server/snapshot_receive.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "server/peer_codec.h"
#include "server/snapshot_files.h"
#include "storage/lsm/checkpoint.h"

#define TELL_BYTES      (256 * KIB) /* how often the sender hears how far we are */
#define QUEUE_BYTES_MAX (4 * MIB)   /* no sender has that much on its way */

/* snap/incoming/OFFER: magic u64, crc32c of what follows u32, zero u32, sender u64, then the offer
 * as it came. */
#define OFFER_MAGIC       UINT64_C(0x464f534641523130) /* "01RAFSOF" */
#define OFFER_NAME        SNAPSHOT_INCOMING "/OFFER"
#define OFFER_HEADER      24
#define OFFER_CHECKED     16
#define INCOMING_PART_END ".part"

/* A chunk that waits to be written. */
struct arrived {
    struct arrived *next;
    struct peer_body *body;
    const uint8_t *payload;
    uint32_t bytes;
    uint64_t position;
};

struct snapshot_receive {
    const struct snapshot_receive_calls *calls;
    void *context;
    struct core *core;
    const char *data_dir;
    char dir[SNAPSHOT_PATH_BYTES]; /* where the files go */
    struct snapshot_files files;   /* under way */
    uint64_t from;
    uint64_t written, writing, expected; /* T2 */
    uint64_t told;
    struct arrived *first, **last_next;
    bool running;  /* a fiber works on it ... */
    bool taking;   /* ... and is ready for chunks */
    bool canceled; /* ... and is to end: at a stop, or another transfer takes its place */
    bool complete; /* the marker is written */
    bool stopping;
    struct fiber_event work;
    struct fiber_event *stopped;
    struct snapshot_files offered; /* decoded */
};

struct snapshot_receive *snapshot_receive_create(struct core *core, const char *data_dir,
                                                 const struct snapshot_receive_calls *calls,
                                                 void *context)
{
    struct snapshot_receive *receive = calloc(1, sizeof(*receive));
    if (receive == NULL)
        return NULL;
    receive->calls = calls;
    receive->context = context;
    receive->core = core;
    receive->data_dir = data_dir;
    receive->last_next = &receive->first;
    fiber_event_init(&receive->work);
    snprintf(receive->dir, sizeof(receive->dir), "%s/" SNAPSHOT_INCOMING "/lsm", data_dir);
    return receive;
}

static void tell(const struct snapshot_receive *receive, uint64_t to,
                 const struct snapshot_status *status)
{
    uint8_t meta[SNAPSHOT_STATUS_BYTES];
    struct peer_frame_out frame = {.kind = PEER_MESSAGE_SNAPSHOT_STATUS,
                                   .lane = PEER_LANE_CONTROL,
                                   .to = to,
                                   .meta_bytes = SNAPSHOT_STATUS_BYTES};
    snapshot_status_encode(meta, status);
    receive->calls->send(receive->context, &frame, meta); /* lost: it offers again */
}

static void tell_state(struct snapshot_receive *receive, enum snapshot_state state,
                       uint64_t position)
{
    struct snapshot_status status = {
        .transfer = receive->files.transfer, .position = position, .state = state};
    receive->told = receive->written;
    tell(receive, receive->from, &status);
}

/* ---- the queue ------------------------------------------------------------------------------ */

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

static void drain(struct snapshot_receive *receive)
{
    while (receive->first != NULL)
        arrived_free(arrived_pop(receive));
}

/* ---- what is there of an earlier try -------------------------------------------------------- */

static uint8_t *offer_text(const struct snapshot_receive *receive, uint32_t *bytes)
{
    *bytes = OFFER_HEADER + snapshot_offer_bytes(&receive->files);
    uint8_t *text = calloc(1, *bytes);
    if (text == NULL)
        return NULL;
    le64_store(text, OFFER_MAGIC);
    le64_store(text + OFFER_CHECKED, receive->from);
    snapshot_offer_encode(text + OFFER_HEADER, &receive->files);
    le32_store(text + 8, crc32c(0, text + OFFER_CHECKED, *bytes - OFFER_CHECKED));
    return text;
}

static bool offer_is_stored(const struct snapshot_receive *receive, const uint8_t *text,
                            uint32_t bytes)
{
    char path[SNAPSHOT_PATH_BYTES];
    struct io_file file;
    snprintf(path, sizeof(path), "%s/" OFFER_NAME, receive->data_dir);
    uint8_t *stored = malloc(bytes);
    bool same = false;
    if (stored != NULL && await_open(path, IO_OPEN_READ, &file) == 0) {
        struct io_span span = {.base = stored, .bytes = bytes};
        same = await_read(file, span) == (int32_t)bytes && memcmp(stored, text, bytes) == 0;
        await_close(&file);
    }
    free(stored);
    return same;
}

static int offer_store(const struct snapshot_receive *receive, uint8_t *text, uint32_t bytes)
{
    char path[SNAPSHOT_PATH_BYTES];
    struct io_file file;
    snprintf(path, sizeof(path), "%s/" OFFER_NAME, receive->data_dir);
    int error = await_open(path, IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE, &file);
    if (error < 0)
        return error;
    error = await_write(file, (struct io_span){.base = text, .bytes = bytes}, 0);
    if (error >= 0)
        error = await_sync(file);
    await_close(&file);
    snprintf(path, sizeof(path), "%s/" SNAPSHOT_INCOMING, receive->data_dir);
    return error < 0 ? error : await_sync_directory(path);
}

/* Bytes of the files at the front that are complete: they were synced before they got their name.
 */
static uint64_t bytes_complete(const struct snapshot_receive *receive)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < receive->files.count; i++) {
        const struct snapshot_file *file = &receive->files.files[i];
        char path[SNAPSHOT_PATH_BYTES + SNAPSHOT_NAME_BYTES];
        struct io_stat stat;
        snprintf(path, sizeof(path), "%s/%s", receive->dir, file->name);
        if (await_stat(path, &stat) < 0 || stat.bytes != file->bytes)
            break;
        bytes += file->bytes;
    }
    return bytes;
}

static int begin_directory(const struct snapshot_receive *receive, uint8_t *text, uint32_t bytes)
{
    char path[SNAPSHOT_PATH_BYTES];
    int error = snapshot_install_discard(receive->data_dir);
    snprintf(path, sizeof(path), "%s/" SNAPSHOT_INCOMING, receive->data_dir);
    if (error == 0)
        error = await_make_directory(path);
    if (error == 0)
        error = await_make_directory(receive->dir);
    return error < 0 ? error : offer_store(receive, text, bytes);
}

static int check_space(const struct snapshot_receive *receive)
{
    uint64_t missing = receive->files.bytes - receive->written, free_bytes, total_bytes;
    int error = reactor_disk_space(core_reactor(receive->core), receive->data_dir, &free_bytes,
                                   &total_bytes);
    if (error < 0 ||
        (free_bytes >= SNAPSHOT_SPACE_SPARE && free_bytes - SNAPSHOT_SPACE_SPARE >= missing))
        return error;
    log_warn("no room for a snapshot: free space on the disk of the data directory",
             LOG_U64("bytes", missing), LOG_U64("free_bytes", free_bytes));
    return -ENOSPC;
}

static int prepare(struct snapshot_receive *receive)
{
    uint32_t bytes;
    uint8_t *text = offer_text(receive, &bytes);
    if (text == NULL)
        return -ENOMEM;
    bool resumed = offer_is_stored(receive, text, bytes);
    int error = resumed ? 0 : begin_directory(receive, text, bytes);
    free(text);
    if (error < 0)
        return error;
    receive->written = resumed ? bytes_complete(receive) : 0;
    receive->writing = receive->expected = receive->told = receive->written;
    sometimes(receive->written > 0, "snapshot: a transfer goes on after a restart");
    log_info("receiving a snapshot", LOG_HEX("from", receive->from),
             LOG_U64("index", receive->files.index), LOG_U64("bytes", receive->files.bytes),
             LOG_U64("there", receive->written));
    return check_space(receive);
}

/* ---- writing -------------------------------------------------------------------------------- */

/* The file is complete. Its name comes after its bytes. */
static int close_file(const struct snapshot_receive *receive, struct io_file file, const char *part,
                      const char *name)
{
    char path[SNAPSHOT_PATH_BYTES + SNAPSHOT_NAME_BYTES];
    int error = await_sync(file);
    snprintf(path, sizeof(path), "%s/%s", receive->dir, name);
    return error < 0 ? error : await_rename(part, path);
}

static int write_chunk(const struct snapshot_receive *receive, const struct arrived *arrived)
{
    struct snapshot_place place = snapshot_place(&receive->files, arrived->position);
    const struct snapshot_file *to = &receive->files.files[place.file];
    char path[SNAPSHOT_PATH_BYTES + SNAPSHOT_NAME_BYTES + sizeof(INCOMING_PART_END)];
    struct io_file file;
    invariant(arrived->bytes <= to->bytes - place.offset); /* checked when it came */
    snprintf(path, sizeof(path), "%s/%s" INCOMING_PART_END, receive->dir, to->name);
    uint32_t fresh = place.offset == 0 ? IO_OPEN_TRUNCATE : 0;
    int error = await_open(path, IO_OPEN_WRITE | IO_OPEN_CREATE | fresh, &file);
    if (error < 0)
        return error;
    error = await_write(file,
                        (struct io_span){.base = (void *)arrived->payload,
                                         .offset = place.offset,
                                         .bytes = arrived->bytes},
                        0);
    if (error >= 0 && place.offset + arrived->bytes == to->bytes)
        error = close_file(receive, file, path, to->name);
    await_close(&file);
    return error < 0 ? error : 0;
}

static int take_chunks(struct snapshot_receive *receive)
{
    int error = 0;
    while (error == 0 && receive->written < receive->files.bytes) {
        if (receive->canceled)
            return ERR_CANCELED;
        if (receive->first == NULL) {
            fiber_event_wait(&receive->work);
            continue;
        }
        struct arrived *arrived = arrived_pop(receive);
        invariant(arrived->position == receive->writing); /* T1 */
        receive->writing += arrived->bytes;
        error = write_chunk(receive, arrived);
        arrived_free(arrived);
        if (error < 0)
            break;
        receive->written = receive->writing;
        if (receive->written - receive->told >= TELL_BYTES)
            tell_state(receive, SNAPSHOT_WANTED, receive->written);
    }
    return error;
}

/* ---- a whole transfer ----------------------------------------------------------------------- */

static struct snapshot_position position_of(const struct snapshot_files *files)
{
    return (struct snapshot_position){.index = files->index, .term = files->term};
}

/* Everything is written: is it what was promised, and do we still want it? */
static int finish(struct snapshot_receive *receive)
{
    struct snapshot_position position = position_of(&receive->files);
    tell_state(receive, SNAPSHOT_WANTED, receive->written);
    int error = planted_bug(snapshot_names_not_durable) ? 0 : await_sync_directory(receive->dir);
    if (error == 0)
        error =
            lsm_checkpoint_verify(receive->dir, position.index, position.term, &receive->canceled);
    if (error < 0)
        return error;
    if (receive->canceled || !receive->calls->is_news(receive->context, &position))
        return ERR_CANCELED;
    return snapshot_mark(receive->data_dir, &position);
}

static void end_run(struct snapshot_receive *receive, int error)
{
    bool known = error == ERR_CANCELED && !receive->canceled; /* the log came faster */
    receive->taking = false;
    log_info(error == 0 ? "snapshot received" : "receiving a snapshot ended",
             LOG_U64("index", receive->files.index), LOG_U64("bytes", receive->written),
             LOG_ERROR(error));
    if (error < 0 && !receive->stopping) { /* at a stop, what is there serves the next start */
        int removed = snapshot_install_discard(receive->data_dir);
        if (removed < 0)
            log_warn("files of a snapshot stay", LOG_TEXT("dir", receive->dir), LOG_ERROR(removed));
    }
    if (known)
        tell_state(receive, SNAPSHOT_COMPLETE, receive->files.bytes);
    else if (error < 0 && error != ERR_CANCELED)
        tell_state(receive, SNAPSHOT_FAILED, receive->written);
}

static void receive_run(void *argument)
{
    struct snapshot_receive *receive = argument;
    int error = prepare(receive);
    if (error == 0) {
        receive->taking = true;
        tell_state(receive, SNAPSHOT_WANTED, receive->expected);
        error = take_chunks(receive);
    }
    if (error == 0)
        error = finish(receive);
    end_run(receive, error);
    drain(receive); /* T3 */
    receive->complete = error == 0;
    receive->running = false;
    if (receive->complete && !receive->stopping)
        receive->calls->received(receive->context);
    if (receive->stopped != NULL)
        fiber_event_signal(receive->stopped);
}

static void cancel(struct snapshot_receive *receive)
{
    receive->canceled = receive->running;
    fiber_event_signal(&receive->work);
}

/* ---- frames --------------------------------------------------------------------------------- */

static void begin(struct snapshot_receive *receive, uint64_t from)
{
    invariant(receive->first == NULL && !receive->running); /* T3 */
    receive->files = receive->offered;
    receive->from = from;
    receive->written = receive->writing = receive->expected = receive->told = 0;
    receive->canceled = receive->taking = false;
    fiber_event_init(&receive->work);
    receive->running = fiber_spawn(receive->core, FIBER_BACKGROUND, receive_run, receive) == 0;
}

int snapshot_receive_offer(struct snapshot_receive *receive, const struct peer_input *input)
{
    struct snapshot_files *offered = &receive->offered;
    uint64_t from = input->header.from;
    int error = snapshot_offer_decode(input, offered);
    if (error < 0)
        return error;
    if (receive->complete || receive->stopping ||
        !receive->calls->is_leader(receive->context, from))
        return 0; /* it is asked again after our start */
    struct snapshot_position position = position_of(offered);
    if (!receive->calls->is_news(receive->context, &position)) {
        struct snapshot_status status = {
            .transfer = offered->transfer, .position = offered->bytes, .state = SNAPSHOT_COMPLETE};
        cancel(receive);
        tell(receive, from, &status);
        return 0;
    }
    if (!receive->running) {
        begin(receive, from);
        return 0;
    }
    if (from != receive->from || !snapshot_files_equal(offered, &receive->files)) {
        sometimes(true, "snapshot: another one takes the place of the one under way");
        cancel(receive); /* the next offer begins it */
        return 0;
    }
    if (receive->taking && !receive->canceled) /* it lost the connection, and what was on it */
        tell_state(receive, SNAPSHOT_WANTED, receive->expected);
    return 0;
}

static bool chunk_fits(const struct snapshot_receive *receive, const struct snapshot_chunk *chunk,
                       uint32_t bytes)
{
    if (bytes == 0 || bytes > SNAPSHOT_CHUNK_BYTES || chunk->position >= receive->files.bytes)
        return false;
    struct snapshot_place place = snapshot_place(&receive->files, chunk->position);
    return bytes <= receive->files.files[place.file].bytes - place.offset;
}

int snapshot_receive_chunk(struct snapshot_receive *receive, const struct peer_input *input)
{
    struct snapshot_chunk chunk;
    uint32_t bytes = input->header.payload_bytes;
    int error = snapshot_chunk_decode(input, &chunk);
    if (error < 0)
        return error;
    if (!receive->taking || receive->canceled || input->header.from != receive->from ||
        chunk.transfer != receive->files.transfer || chunk.position != receive->expected)
        return 0; /* of an earlier transfer or connection, or behind a lost one: T1 */
    if (!chunk_fits(receive, &chunk, bytes) || crc32c(0, input->payload, bytes) != chunk.crc)
        return ERR_CORRUPT;
    if (receive->expected - receive->written > QUEUE_BYTES_MAX)
        return ERR_LIMIT;
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
    cancel(receive);
    if (receive->running)
        fiber_event_wait(&stopped);
    invariant(receive->first == NULL);
    free(receive);
}
