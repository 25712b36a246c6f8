/* The life of a segment: zeroed ahead of use, filled, released, renamed to a later number. */
#include <errno.h>
#include <stdio.h>

#include "core/buffer.h"
#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "storage/log/wal_private.h"

/* ---- creating -----------------------------------------------------------------------------------
 */

/* Zeros are written, not only allocated: the first write to an unwritten extent costs a metadata
 * commit, which would double the latency of every append. */
static int fill_with_zeros(struct io_file file, uint64_t bytes, const bool *abandon)
{
    struct buffer_pool *pool = reactor_buffers(core_reactor(core_current()));
    uint32_t chunk = (uint32_t)u64_min(bytes, WAL_ZERO_CHUNK_BYTES);
    uint8_t *zeros = buffer_acquire_or_allocate(pool, chunk);
    if (zeros == NULL)
        return -ENOMEM;
    memset(zeros, 0, chunk);
    int result = 0;
    for (uint64_t offset = 0; offset < bytes && result == 0; offset += chunk) {
        struct io_span span = {
            .base = zeros, .offset = offset, .bytes = (uint32_t)u64_min(chunk, bytes - offset)};
        int32_t written = await_write(file, span, 0);
        if (written != (int32_t)span.bytes)
            result = written < 0 ? written : -EIO;
        else if (abandon != NULL && *abandon)
            result = ERR_STOPPED;
        fiber_yield();
    }
    buffer_release_or_free(pool, zeros);
    return result;
}

static int create_zeroed(const char *path_temporary, uint64_t bytes, const bool *abandon,
                         struct io_file *file)
{
    uint32_t flags =
        IO_OPEN_READ | IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE | IO_OPEN_DIRECT;
    int result = await_open(path_temporary, flags, file);
    if (result < 0)
        return result;
    result = await_allocate(*file, 0, bytes);
    if (result == -EOPNOTSUPP || result == -ENOSYS)
        result = 0; /* the zeros that follow allocate as well */
    if (result >= 0)
        result = fill_with_zeros(*file, bytes, abandon);
    if (result >= 0)
        result = await_sync(*file);
    if (result >= 0)
        return 0;
    await_close(file);
    (void)!await_unlink(path_temporary);
    return result;
}

/* A durable file of zeros at `path`, which appears whole or not at all. */
int wal_create_zeroed(const char *directory, const char *path, uint64_t bytes, const bool *abandon,
                      struct io_file *file)
{
    char path_temporary[WAL_PATH_BYTES];
    wal_path(path_temporary, directory, "prepare.tmp");
    int result = create_zeroed(path_temporary, bytes, abandon, file);
    if (result < 0)
        return result;
    result = await_rename(path_temporary, path);
    if (result >= 0 && !planted_bug(segment_name_not_durable))
        result = await_sync_directory(directory);
    if (result >= 0)
        return 0;
    await_close(file);
    return result;
}

/* ---- superblock ---------------------------------------------------------------------------------
 */

/* One at a time: the keeper's, or wal_open()'s and wal_close()'s while there is no keeper. */
void wal_superblock_write(struct wal *wal, bool clean)
{
    struct wal_superblock *superblock = &wal->superblock;
    superblock->generation++;
    superblock->writes_max = wal->writes_max;
    superblock->durable_sequence = wal_proven_sequence(wal);
    superblock->hard_state = wal->hard_state;
    superblock->last_index = wal_last_index(wal);
    superblock->last_term = wal_index_last_term(&wal->index);
    superblock->clean = clean;
    wal->marked_sequence = wal->durable_sequence;
    wal_superblock_encode(superblock, wal->superblock_page);
    struct io_span span = {.base = wal->superblock_page,
                           .offset =
                               (superblock->generation % WAL_RING_SUPERBLOCKS) * WAL_PAGE_BYTES,
                           .bytes = WAL_PAGE_BYTES};
    int32_t result = await_write(wal->ring, span, IO_WRITE_DURABLE);
    if (result != (int32_t)WAL_PAGE_BYTES)
        fatal("log superblock write failed: %s/ring offset %llu: %s", wal->directory,
              (unsigned long long)span.offset, err_text(result));
}

/* ---- releasing ----------------------------------------------------------------------------------
 */

/* The lowest segment that is still needed. Never one without a durable block: recovery takes a bad
 * first block of the oldest segment for damage, since something there must have been durable. And
 * never one that continues what is not released: copies of damaged entries lie behind the blocks
 * that followed those, and a log that began with such a block would not know their places. */
static uint32_t keep_from(const struct wal *wal)
{
    uint32_t floor = wal->superblock.oldest_segment;
    if (wal->fenced)
        return floor;
    uint32_t keep = wal_index_lowest_segment(&wal->index, wal->release_index, wal->durable_segment);
    while (keep > floor &&
           wal->segments[wal_slot_of_segment(wal, keep)].base_index > wal->release_index)
        keep--;
    return keep < floor ? floor : keep;
}

static void drop_first_segment(struct wal *wal)
{
    memmove(wal->segments, wal->segments + 1,
            (size_t)(wal->segment_count - 1) * sizeof(*wal->segments));
    wal->segment_count--;
    wal->active--;
}

/* The oldest segment leaves the front and, unless there are spares enough, joins the end under a
 * new number. What it holds can never parse there: its blocks carry the old number. */
static void recycle_oldest(struct wal *wal)
{
    struct wal_segment segment = wal->segments[0];
    uint32_t ready = wal->segment_count - wal->active - 1;
    uint32_t number = wal->segments[wal->segment_count - 1].number + 1;
    wal_segment_path(wal->scratch_path, wal->directory, segment.number);
    wal_segment_path(wal->scratch_path_to, wal->directory, number);
    invariant(wal->active > 0 && segment.pins == 0);
    drop_first_segment(wal);
    int result;
    bool recycle = ready < wal->segments_ready + WAL_SPARE_MAX;
    if (recycle) {
        result = await_rename(wal->scratch_path, wal->scratch_path_to);
    } else {
        result = await_close(&segment.file);
        if (result >= 0)
            result = await_unlink(wal->scratch_path);
    }
    if (result >= 0)
        result = await_sync_directory(wal->directory);
    if (result < 0)
        fatal("log segment %s could not be recycled: %s", wal->scratch_path, err_text(result));
    if (recycle) {
        segment.number = number;
        segment.base_index = UINT64_MAX;
        wal->segments[wal->segment_count++] = segment; /* only the keeper adds segments */
        wal->stats.segments_recycled++;
    }
}

static void release_segments(struct wal *wal)
{
    uint32_t keep = keep_from(wal);
    if (keep <= wal->superblock.oldest_segment)
        return;
    /* First the superblock: from then on lower numbers are leftovers, whatever happens. */
    wal->superblock.oldest_segment = keep;
    uint64_t gone = 0; /* repaired copies live in later segments: the rows are not in that order */
    for (uint32_t row = 0; row < wal->index.count; row++) {
        const struct wal_extent *extent = wal_index_row(&wal->index, row);
        if (extent->last_index > wal->release_index)
            break;
        if (extent->segment < keep)
            gone = extent->last_index;
    }
    wal_index_release(&wal->index, gone);
    wal_superblock_write(wal, false);
    while (wal->segments[0].number < keep && wal->segments[0].pins == 0)
        recycle_oldest(wal);
    log_debug("log segments released", LOG_U64("oldest_segment", keep),
              LOG_U64("first_index", wal_first_index(wal)));
}

/* ---- the keeper ---------------------------------------------------------------------------------
 */

static void space_retry(struct timer *timer)
{
    wal_keeper_kick(container_of(timer, struct wal, space_timer));
}

static void prepare_segments(struct wal *wal)
{
    while (!wal->closing && wal->segment_count - wal->active - 1 < wal->segments_ready) {
        invariant(wal->segment_count < WAL_SEGMENTS_MAX);
        uint32_t number = wal->segments[wal->segment_count - 1].number + 1;
        struct wal_segment segment = {.number = number, .base_index = UINT64_MAX, .file.fd = -1};
        wal_segment_path(wal->scratch_path, wal->directory, number);
        int result = wal_create_zeroed(wal->directory, wal->scratch_path, wal->segment_bytes,
                                       &wal->closing, &segment.file);
        if (result == ERR_STOPPED)
            return;
        if (result < 0 && !err_is_no_room(result) && result != -ENOMEM)
            fatal("log segment %u could not be prepared in %s: %s", number, wal->directory,
                  err_text(result));
        if (result < 0) {
            if (!wal->space_low && err_is_no_room(result))
                log_warn("no space to prepare a log segment", LOG_TEXT("directory", wal->directory),
                         LOG_ERROR(result));
            wal->space_low = wal->space_low || err_is_no_room(result);
            timer_start(core_timers(wal->core), &wal->space_timer,
                        core_now_ns(wal->core) + WAL_SPACE_RETRY_NS);
            return;
        }
        wal->segments[wal->segment_count++] = segment;
        wal->stats.segments_created++;
        if (wal->stalled)
            wal_flush(wal);
    }
    wal->space_low = wal->space_low && wal->segment_count - wal->active - 1 < wal->segments_ready;
}

/* A reset ends the fence: with the superblock that begins at it, the damage is out of the log. */
static void end_fence(struct wal *wal)
{
    wal->superblock.oldest_segment = wal->fence_end;
    wal_superblock_write(wal, false);
    wal->fence_end = 0;
    wal->fenced = false;
    wal_acknowledge(wal);
}

static void keeper_main(void *argument)
{
    struct wal *wal = argument;
    while (!wal->closing) {
        if (wal->fence_end != 0)
            end_fence(wal);
        release_segments(wal);
        while (wal->segments[0].number < wal->superblock.oldest_segment &&
               wal->segments[0].pins == 0)
            recycle_oldest(wal); /* was pinned by a reader when it was released */
        if (wal->stalled)
            wal_flush(wal);
        prepare_segments(wal);
        if (wal->mark_wanted && !wal->ring_busy) {
            wal->mark_wanted = false;
            wal_ring_write(wal);
            wal_superblock_write(wal, false);
        }
        if (!wal->closing)
            fiber_event_wait(&wal->keeper_event);
    }
    wal->keeper_running = false;
    fiber_event_signal(&wal->keeper_done);
}

/* After a moment's rest the superblock learns what is durable: then damage to the very last block
 * cannot be mistaken for a torn write. */
static void idle_mark(struct timer *timer)
{
    struct wal *wal = container_of(timer, struct wal, idle_timer);
    if (wal_in_flight(wal) != 0 || wal->ring_busy) {
        wal_went_idle(wal);
        return;
    }
    wal->mark_wanted = true;
    wal_keeper_kick(wal);
}

void wal_went_idle(struct wal *wal)
{
    if (wal->draining) {
        if (queue_is_empty(&wal->queued) && !wal->ring_busy)
            fiber_event_signal(&wal->idle_event);
        return;
    }
    if (!timer_is_armed(&wal->idle_timer) && wal->durable_sequence != wal->marked_sequence)
        timer_start(core_timers(wal->core), &wal->idle_timer,
                    core_now_ns(wal->core) + wal->idle_mark_ns);
}

void wal_keeper_kick(struct wal *wal)
{
    fiber_event_signal(&wal->keeper_event);
}

void wal_keeper_init(struct wal *wal)
{
    fiber_event_init(&wal->keeper_event);
    fiber_event_init(&wal->keeper_done);
    fiber_event_init(&wal->idle_event);
    timer_init(&wal->idle_timer, idle_mark);
    timer_init(&wal->space_timer, space_retry);
}

void wal_keeper_start(struct wal *wal)
{
    wal->keeper_running = true;
    int result = fiber_spawn(wal->core, FIBER_BACKGROUND, keeper_main, wal);
    if (result < 0)
        fatal("log: no fiber for the segment keeper: %s", err_text(result));
}

void wal_keeper_stop(struct wal *wal)
{
    invariant(wal->closing);
    timer_stop(core_timers(wal->core), &wal->idle_timer);
    timer_stop(core_timers(wal->core), &wal->space_timer);
    wal_keeper_kick(wal);
    while (wal->keeper_running)
        fiber_event_wait(&wal->keeper_done);
}

void wal_release(struct wal *wal, uint64_t index)
{
    invariant(core_current() == wal->core);
    uint64_t bounded = u64_min(index, wal_last_index(wal));
    if (bounded <= wal->release_index)
        return;
    wal->release_index = bounded;
    wal_keeper_kick(wal);
}

uint32_t wal_slot_of_segment(const struct wal *wal, uint32_t number)
{
    uint32_t first = wal->segments[0].number;
    if (number < first || number - first >= wal->segment_count)
        return UINT32_MAX;
    invariant(wal->segments[number - first].number == number);
    return number - first;
}
