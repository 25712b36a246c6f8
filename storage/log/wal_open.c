/* Opening, creating and closing the log. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/buffer.h"
#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "storage/log/wal_private.h"

/* ---- options ------------------------------------------------------------------------------------
 */

static uint64_t or_default(uint64_t value, uint64_t fallback)
{
    return value != 0 ? value : fallback;
}

static int apply_options(struct wal *wal, const struct wal_options *options,
                         struct wal_recovered *recovered)
{
    wal->segment_bytes = or_default(options->segment_bytes, WAL_SEGMENT_BYTES_DEFAULT);
    wal->block_bytes_max = (uint32_t)or_default(options->block_bytes_max, WAL_BLOCK_BYTES_DEFAULT);
    wal->ring_slots = (uint32_t)or_default(options->ring_slots, WAL_RING_SLOTS_DEFAULT);
    wal->writes_max = (uint32_t)or_default(options->writes_max, WAL_WRITES_DEFAULT);
    wal->segments_ready = (uint32_t)or_default(options->segments_ready, 2);
    wal->idle_mark_ns = or_default(options->idle_mark_ns, WAL_IDLE_MARK_NS_DEFAULT);
    bool good = wal->segment_bytes % WAL_PAGE_BYTES == 0 &&
                wal->segment_bytes <= (uint64_t)UINT32_MAX * WAL_PAGE_BYTES &&
                u64_is_power_of_two(wal->block_bytes_max) &&
                wal->block_bytes_max >= WAL_BLOCK_BYTES_MIN &&
                wal->block_bytes_max <= WAL_BLOCK_BYTES_LIMIT &&
                wal->segment_bytes >= 2 * (uint64_t)wal->block_bytes_max &&
                wal->writes_max <= WAL_WRITES_LIMIT && wal->ring_slots >= WAL_RING_SLOTS_MIN &&
                wal->ring_slots <= WAL_RING_SLOTS_LIMIT;
    if (!good)
        return wal_refuse(recovered, ERR_CONFIG, options->directory, 0,
                          "segment, block, ring or write sizes do not fit together");
    size_t length = strlen(options->directory);
    if (length + 32 > WAL_PATH_BYTES)
        return wal_refuse(recovered, -ENAMETOOLONG, "log directory", 0, "the path is too long");
    memcpy(wal->directory, options->directory, length + 1);
    return 0;
}

static int acquire_buffers(struct wal *wal)
{
    struct buffer_pool *pool = reactor_buffers(wal->reactor);
    wal->superblock_page = buffer_acquire_or_allocate(pool, WAL_PAGE_BYTES);
    wal->ring_page = buffer_acquire_or_allocate(pool, WAL_PAGE_BYTES);
    wal->history = calloc(1, WAL_TRAIL_BYTES);
    bool good = wal->superblock_page != NULL && wal->ring_page != NULL && wal->history != NULL;
    for (uint32_t i = 0; i < wal->writes_max; i++) {
        struct wal_write *write = &wal->writes[i];
        write->wal = wal;
        write->block_bytes = buffer_acquire_or_allocate(pool, wal->block_bytes_max);
        good = good && write->block_bytes != NULL;
    }
    return good ? 0 : -ENOMEM;
}

static void release_buffers(struct wal *wal)
{
    struct buffer_pool *pool = reactor_buffers(wal->reactor);
    for (uint32_t i = 0; i < wal->writes_max; i++) {
        if (wal->writes[i].block_bytes != NULL)
            buffer_release_or_free(pool, wal->writes[i].block_bytes);
    }
    if (wal->superblock_page != NULL)
        buffer_release_or_free(pool, wal->superblock_page);
    if (wal->ring_page != NULL)
        buffer_release_or_free(pool, wal->ring_page);
    free(wal->history);
}

/* ---- a new log ----------------------------------------------------------------------------------
 */

/* First the segment, then the ring: its name is what makes the log exist. */
static int create_log(struct wal *wal)
{
    struct io_file ring = {.fd = -1};
    struct wal_segment segment = {.number = 1, .base_index = UINT64_MAX, .file.fd = -1};
    wal_segment_path(wal->scratch_path, wal->directory, 1);
    int result = wal_create_zeroed(wal->directory, wal->scratch_path, wal->segment_bytes, NULL,
                                   &segment.file);
    if (result < 0)
        return result;
    wal->segments[0] = segment;
    wal->segment_count = 1;
    wal->durable_segment = 1;

    wal_path(wal->scratch_path, wal->directory, "ring.tmp");
    result = wal_create_zeroed(wal->directory, wal->scratch_path, wal_ring_bytes(wal->ring_slots),
                               NULL, &ring);
    if (result < 0)
        return result;
    wal->ring = ring;
    do {
        wal->log_id = reactor_random(wal->reactor);
    } while (wal->log_id == 0);
    wal->superblock = (struct wal_superblock){.log_id = wal->log_id,
                                              .segment_bytes = wal->segment_bytes,
                                              .block_bytes_max = wal->block_bytes_max,
                                              .ring_slots = wal->ring_slots,
                                              .oldest_segment = 1};
    wal_superblock_write(wal, false);
    wal_superblock_write(wal, false);
    wal_path(wal->scratch_path_to, wal->directory, "ring");
    result = await_rename(wal->scratch_path, wal->scratch_path_to);
    if (result >= 0)
        result = await_sync_directory(wal->directory);
    return result < 0 ? result : 0;
}

/* ---- an existing one ----------------------------------------------------------------------------
 */

/* The newest headers, for the trails to come: each repeats those before it. */
static void restore_history(struct wal *wal, const struct wal_scan *scan)
{
    uint32_t cell = 0;
    for (uint64_t sequence = scan->last.sequence; sequence > 0 && cell < WAL_TRAIL_HEADERS;
         sequence--) {
        const struct wal_block *known = wal_scan_copy(scan, sequence);
        struct wal_block header;
        if (sequence == scan->last.sequence)
            header = scan->last;
        else if (known != NULL)
            header = *known;
        else
            break;
        wal_block_encode(&header, wal->history + cell++ * WAL_HEADER_BYTES);
    }
}

static void remove_leftovers(struct wal *wal, const struct wal_scan *scan)
{
    static const char *const temporaries[] = {"prepare.tmp", "ring.tmp"};
    for (size_t i = 0; i < ARRAY_COUNT(temporaries) && scan->has_leftover_temporary; i++) {
        wal_path(wal->scratch_path, wal->directory, temporaries[i]);
        int result = await_unlink(wal->scratch_path);
        if (result < 0 && result != -ENOENT)
            log_warn("leftover file cannot be removed", LOG_TEXT("file", wal->scratch_path),
                     LOG_ERROR(result));
    }
    for (uint32_t i = 0; i < scan->number_count; i++) {
        if (scan->numbers[i] >= scan->superblock.oldest_segment)
            continue;
        wal_segment_path(wal->scratch_path, wal->directory, scan->numbers[i]);
        int result = await_unlink(wal->scratch_path);
        if (result < 0)
            log_warn("released segment cannot be removed", LOG_TEXT("file", wal->scratch_path),
                     LOG_ERROR(result));
    }
}

/* Everything the scan opened changes hands. */
static void take_over(struct wal *wal, struct wal_scan *scan)
{
    const struct wal_superblock *superblock = &scan->superblock;
    wal->superblock = *superblock;
    wal->log_id = superblock->log_id;
    wal->ring = scan->ring;
    scan->ring.fd = -1;
    memcpy(wal->segments, scan->segments, scan->segment_count * sizeof(*wal->segments));
    wal->segment_count = scan->segment_count;
    scan->segment_count = 0;
    wal_index_deinit(&wal->index);
    wal->index = scan->index;
    scan->index.extents = NULL;
    wal->active = scan->at.slot;
    wal->active_offset = scan->at.offset;
    wal->previous_crc = scan->last.header_crc;
    wal->durable_sequence = scan->last.sequence;
    wal->unproven = scan->unproven;
    wal->durable_segment =
        scan->last.sequence != 0 ? scan->last.segment : superblock->oldest_segment;
    wal->hard_state = scan->recovered->hard_state;
    wal->issued_last_index = wal_index_last(&wal->index);
    wal->issued_last_term = wal_index_last_term(&wal->index);
    if (scan->recovered->verdict == WAL_VERDICT_FENCED) {
        /* Only a reset may follow, in a segment that nothing was written to. */
        wal->fenced = true;
        wal->active = wal->segment_count - 1;
        wal->active_offset = wal->segment_bytes;
        wal->durable_sequence = u64_max(scan->sequence_seen_max, scan->proof);
    }
    wal->next_sequence = wal->durable_sequence + 1;
    wal->ring_sequence = u64_min(scan->ring_sequence_max, wal->durable_sequence);
    restore_history(wal, scan);
}

/* A process that is killed leaves blocks that can be read and that no medium holds yet: what is
 * found is acknowledged from now on, so it must survive the next power cut. */
static int sync_found(const struct wal_scan *scan)
{
    int result = await_sync_directory(scan->directory); /* names too */
    if (result < 0)
        return wal_refuse(scan->recovered, result, scan->directory, 0, "cannot be synced");
    result = planted_bug(found_log_not_synced) ? 0 : await_sync(scan->ring);
    if (result < 0)
        return wal_refuse(scan->recovered, result, "ring", 0, "cannot be synced");
    for (uint32_t i = 0; i < scan->segment_count && !planted_bug(found_log_not_synced); i++) {
        char path[WAL_PATH_BYTES];
        result = await_sync(scan->segments[i].file);
        wal_segment_path(path, scan->directory, scan->segments[i].number);
        if (result < 0)
            return wal_refuse(scan->recovered, result, path, 0, "cannot be synced");
    }
    return 0;
}

static int recover(struct wal *wal, struct wal_scan *scan)
{
    const struct wal_superblock *superblock = &scan->superblock;
    struct wal_recovered *recovered = scan->recovered;
    wal->segment_bytes = superblock->segment_bytes;
    wal->block_bytes_max = superblock->block_bytes_max;
    wal->ring_slots = superblock->ring_slots;
    int result = acquire_buffers(wal);
    if (result == 0)
        result = sync_found(scan);
    if (result < 0)
        return result;
    if (recovered->verdict != WAL_VERDICT_FENCED) {
        wal_scan_restore_headers(scan);
        wal_scan_discard_tail(scan);
    }
    remove_leftovers(wal, scan);
    take_over(wal, scan);
    if (!wal->fenced)
        wal_ring_write(
            wal); /* the last block's trail may not have landed: a copy before the proof */
    wal_superblock_write(wal, false);
    if (scan->superblock_damaged)
        wal_superblock_write(wal, false);
    return 0;
}

static void close_files(struct wal *wal)
{
    for (uint32_t i = 0; i < wal->segment_count; i++)
        await_close(&wal->segments[i].file);
    if (wal->ring.fd >= 0)
        await_close(&wal->ring);
}

static void wal_free(struct wal *wal)
{
    release_buffers(wal);
    wal_index_deinit(&wal->index);
    free(wal->segments);
    free(wal);
}

static struct wal *wal_allocate(void)
{
    struct wal *wal = calloc(1, sizeof(*wal));
    if (wal == NULL)
        return NULL;
    wal->core = core_current();
    wal->reactor = core_reactor(wal->core);
    wal->ring.fd = -1;
    wal->next_sequence = 1;
    wal->segments = calloc(WAL_SEGMENTS_MAX, sizeof(*wal->segments));
    wal_keeper_init(wal);
    queue_init(&wal->queued, QUEUE_UNBOUNDED);
    queue_init(&wal->issued, QUEUE_UNBOUNDED);
    histogram_init(&wal->stats.entries_per_block);
    histogram_init(&wal->stats.write_ns);
    histogram_init(&wal->stats.commit_ns);
    if (wal->segments == NULL || wal_index_init(&wal->index, WAL_INDEX_CAPACITY) < 0) {
        wal_free(wal);
        return NULL;
    }
    return wal;
}

static bool is_damaged(const struct wal_recovered *recovered)
{
    return recovered->verdict == WAL_VERDICT_FENCED || recovered->fault_proven_count != 0;
}

static int open_or_create(struct wal *wal, struct wal_scan *scan, bool alone)
{
    int result = await_make_directory(wal->directory);
    if (result < 0)
        return wal_refuse(scan->recovered, result, wal->directory, 0, "cannot be created");
    result = wal_scan_run(scan);
    if (result < 0)
        return result;
    if (scan->ring_present && alone && is_damaged(scan->recovered)) {
        log_error("log refused", LOG_TEXT("reason", scan->recovered->reason));
        return ERR_CORRUPT;
    }
    if (scan->ring_present)
        return recover(wal, scan);
    for (uint32_t i = 0; i < scan->number_count; i++) { /* of an interrupted creation, empty */
        wal_segment_path(wal->scratch_path, wal->directory, scan->numbers[i]);
        (void)!await_unlink(wal->scratch_path);
    }
    result = acquire_buffers(wal);
    if (result == 0)
        result = create_log(wal);
    if (result < 0)
        return wal_refuse(scan->recovered, result, wal->directory, 0, "the log cannot be created");
    return 0;
}

int wal_open(const struct wal_options *options, struct wal **opened,
             struct wal_recovered *recovered)
{
    *opened = NULL;
    *recovered = (struct wal_recovered){.first_index = 1};
    struct wal *wal = wal_allocate();
    struct wal_scan *scan = calloc(1, sizeof(*scan));
    int result = wal == NULL || scan == NULL ? -ENOMEM : 0;
    if (result == 0)
        result = apply_options(wal, options, recovered);
    if (result == 0) {
        scan->directory = wal->directory;
        scan->recovered = recovered;
        scan->writable = true;
        scan->ring.fd = -1;
        result = open_or_create(wal, scan, options->alone);
        wal_scan_deinit(scan);
    }
    free(scan);
    if (result < 0) {
        if (wal != NULL) {
            close_files(wal);
            wal_free(wal);
        }
        return result;
    }
    wal_keeper_start(wal);
    wal_keeper_kick(wal);
    log_info("log opened", LOG_TEXT("directory", wal->directory),
             LOG_U64("first_index", recovered->first_index),
             LOG_U64("last_index", recovered->last_index),
             LOG_U64("term", recovered->hard_state.term), LOG_U64("blocks", recovered->blocks),
             LOG_U64("verdict", recovered->verdict), LOG_TEXT("reason", recovered->reason),
             LOG_U64("duration_us", recovered->duration_ns / NS_PER_US));
    *opened = wal;
    return 0;
}

void wal_close(struct wal *wal)
{
    invariant(core_current() == wal->core && fiber_current() != NULL);
    wal->draining = true;
    wal_flush(wal);
    while (wal_in_flight(wal) != 0 || !queue_is_empty(&wal->queued) || wal->ring_busy)
        fiber_event_wait(&wal->idle_event);
    invariant(queue_is_empty(&wal->issued)); /* W3 */
    wal->closing = true;
    wal_keeper_stop(wal);
    if (!wal->fenced) {
        wal_ring_write(wal);
        wal_superblock_write(wal, true);
    }
    close_files(wal);
    wal_free(wal);
}
