/* Recovery, first half: what the directory holds. The walk over it is wal_recover.c. */
#include "storage/log/wal_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/buffer.h"
#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"

int wal_refuse(struct wal_recovered *recovered, int error, const char *file, uint64_t offset,
               const char *reason)
{
    invariant(error < 0);
    snprintf(recovered->reason, sizeof(recovered->reason), "%s at offset %llu: %s", file,
             (unsigned long long)offset, reason);
    log_error("log refused", LOG_TEXT("file", file), LOG_U64("offset", offset),
              LOG_TEXT("reason", reason), LOG_ERROR(error));
    return error;
}

/* ---- directory ----------------------------------------------------------------------------------
 */

/* "0000000012.log" gives 12; anything else 0. */
static uint32_t segment_number_of(const char *name)
{
    uint64_t number = 0;
    for (int i = 0; i < WAL_SEGMENT_DIGITS; i++) {
        if (name[i] < '0' || name[i] > '9')
            return 0;
        number = number * 10 + (uint64_t)(name[i] - '0');
    }
    return strcmp(name + WAL_SEGMENT_DIGITS, ".log") == 0 && number <= UINT32_MAX ? (uint32_t)number
                                                                                  : 0;
}

static void scan_name(void *context, const char *name)
{
    struct wal_scan *scan = context;
    size_t length = strlen(name);
    uint32_t number = segment_number_of(name);
    if (number != 0) {
        if (scan->number_count <
            WAL_SEGMENTS_MAX) /* reactor_list() goes in byte order: ascending */
            scan->numbers[scan->number_count++] = number;
    } else if (strcmp(name, "ring") == 0) {
        scan->ring_present = true;
    } else if (length > 4 && strcmp(name + length - 4, ".tmp") == 0) {
        scan->has_leftover_temporary = true;
    } else {
        log_warn("unknown file in the log directory", LOG_TEXT("file", name));
    }
}

static int scan_list(struct wal_scan *scan)
{
    scan->numbers = calloc(WAL_SEGMENTS_MAX, sizeof(*scan->numbers));
    if (scan->numbers == NULL)
        return -ENOMEM;
    struct reactor *reactor = core_reactor(core_current());
    int result = reactor_list(reactor, scan->directory, scan_name, scan);
    return result == -ENOENT ? 0 : result;
}

static int scan_open_file(struct wal_scan *scan, const char *path, uint64_t bytes_expected,
                          struct io_file *file)
{
    struct io_stat stat;
    int32_t result = await_stat(path, &stat);
    if (result < 0)
        return wal_refuse(scan->recovered, result, path, 0, "cannot be examined");
    if (bytes_expected != 0 && stat.bytes != bytes_expected)
        return wal_refuse(scan->recovered, ERR_CORRUPT, path, stat.bytes,
                          "the file has the wrong size");
    uint32_t flags = IO_OPEN_READ | IO_OPEN_DIRECT | (scan->writable ? IO_OPEN_WRITE : 0);
    result = await_open(path, flags, file);
    if (result < 0)
        return wal_refuse(scan->recovered, result, path, 0, "cannot be opened");
    return 0;
}

/* Segments: contiguous from the oldest that is still needed to the last one that exists. */
static int scan_open_segments(struct wal_scan *scan)
{
    char path[WAL_PATH_BYTES];
    uint32_t next = scan->superblock.oldest_segment;
    scan->segments = calloc(WAL_SEGMENTS_MAX, sizeof(*scan->segments));
    if (scan->segments == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < scan->number_count; i++) {
        if (scan->numbers[i] < scan->superblock.oldest_segment)
            continue; /* released; the crash came before its file was recycled */
        wal_segment_path(path, scan->directory, next);
        if (scan->numbers[i] != next)
            return wal_refuse(scan->recovered, ERR_CORRUPT, path, 0, "the segment is missing");
        struct wal_segment *segment = &scan->segments[scan->segment_count];
        *segment = (struct wal_segment){.number = next, .base_index = UINT64_MAX, .file.fd = -1};
        int result = scan_open_file(scan, path, scan->superblock.segment_bytes, &segment->file);
        if (result < 0)
            return result;
        scan->segment_count++;
        next++;
    }
    if (scan->segment_count == 0) {
        wal_segment_path(path, scan->directory, next);
        return wal_refuse(scan->recovered, ERR_CORRUPT, path, 0, "the segment is missing");
    }
    return 0;
}

/* ---- superblock and ring ------------------------------------------------------------------------
 */

static int scan_superblock(struct wal_scan *scan, const char *ring_path)
{
    bool found = false;
    enum wal_header_status worst = WAL_HEADER_ABSENT;
    for (uint32_t copy = 0; copy < WAL_RING_SUPERBLOCKS; copy++) {
        struct wal_superblock superblock;
        const uint8_t *page = wal_reader_get(&scan->reader, copy * WAL_PAGE_BYTES, WAL_PAGE_BYTES);
        if (page == NULL)
            return wal_refuse(scan->recovered, ERR_CORRUPT, ring_path, 0, "the file is too short");
        enum wal_header_status status = wal_superblock_decode(page, &superblock);
        if (status == WAL_HEADER_VERSION)
            return wal_refuse(scan->recovered, ERR_VERSION, ring_path, copy * WAL_PAGE_BYTES,
                              "superblock of an unknown format version");
        if (status != WAL_HEADER_VALID) {
            scan->superblock_damaged = true;
            worst = status;
        } else if (!found || superblock.generation > scan->superblock.generation) {
            scan->superblock = superblock;
            found = true;
        }
    }
    if (!found)
        return wal_refuse(scan->recovered, ERR_CORRUPT, ring_path, 0,
                          worst == WAL_HEADER_ABSENT ? "bad magic: not a log's ring"
                                                     : "both superblocks are damaged");
    if (scan->superblock_damaged)
        log_warn("one superblock of the log is damaged, using the other",
                 LOG_TEXT("file", ring_path));
    return 0;
}

const struct wal_block *wal_scan_copy(const struct wal_scan *scan, uint64_t sequence)
{
    if (sequence != 0 && scan->wanted.sequence == sequence)
        return &scan->wanted;
    const struct wal_block *header = &scan->copies[sequence % scan->copy_capacity];
    return sequence != 0 && header->sequence == sequence ? header : NULL;
}

void wal_scan_learn(struct wal_scan *scan, const struct wal_block *block)
{
    scan->sequence_seen_max = u64_max(scan->sequence_seen_max, block->sequence);
    scan->proof = u64_max(scan->proof, block->durable_upto);
    struct wal_block *held = &scan->copies[block->sequence % scan->copy_capacity];
    if (held->sequence <= block->sequence)
        *held = *block;
    bool begins =
        scan->segment_count > 0 && block->segment == scan->segments[0].number && block->page == 0;
    if (scan->expected != 0 ? block->sequence == scan->expected : begins)
        scan->wanted = *block;
}

void wal_scan_learn_page(struct wal_scan *scan, const uint8_t *page)
{
    for (uint32_t cell = 0; cell < WAL_TRAIL_HEADERS; cell++) {
        struct wal_block block;
        if (wal_block_decode(page + cell * WAL_HEADER_BYTES, &block) == WAL_HEADER_VALID &&
            block.log_id == scan->superblock.log_id)
            wal_scan_learn(scan, &block);
    }
}

/* W5: what the ring holds was durable. */
static int scan_ring(struct wal_scan *scan, const char *ring_path)
{
    uint32_t slots = scan->superblock.ring_slots;
    scan->copy_capacity = slots * WAL_RING_STRIDE + WAL_TRAIL_HEADERS;
    scan->copies = calloc(scan->copy_capacity, sizeof(*scan->copies));
    if (scan->copies == NULL)
        return -ENOMEM;
    for (uint32_t slot = 0; slot < slots; slot++) {
        uint64_t offset = wal_ring_offset(slots, (uint64_t)slot * WAL_RING_STRIDE);
        const uint8_t *page = wal_reader_get(&scan->reader, offset, WAL_PAGE_BYTES);
        if (page == NULL)
            return wal_refuse(scan->recovered, ERR_CORRUPT, ring_path, 0, "the file is too short");
        wal_scan_learn_page(scan, page);
    }
    scan->ring_sequence_max = scan->sequence_seen_max;
    scan->proof = u64_max(scan->proof, scan->ring_sequence_max);
    return 0;
}

static int scan_check_ring_against_segments(struct wal_scan *scan)
{
    const struct wal_block *newest = wal_scan_copy(scan, scan->ring_sequence_max);
    if (newest == NULL)
        return 0;
    uint32_t last = scan->segments[scan->segment_count - 1].number;
    if (newest->segment <= last)
        return 0;
    char path[WAL_PATH_BYTES];
    wal_segment_path(path, scan->directory, newest->segment);
    return wal_refuse(scan->recovered, ERR_CORRUPT, path, (uint64_t)newest->page * WAL_PAGE_BYTES,
                      "the ring names a block in this segment, which is missing");
}

/* A directory with segments but no ring: a creation that was interrupted, if they are all empty. */
static int scan_without_ring(struct wal_scan *scan)
{
    char path[WAL_PATH_BYTES];
    scan->recovered->verdict = WAL_VERDICT_EMPTY;
    for (uint32_t i = 0; i < scan->number_count; i++) {
        struct io_file file = {.fd = -1};
        struct io_stat stat;
        wal_segment_path(path, scan->directory, scan->numbers[i]);
        int result = await_stat(path, &stat);
        if (result < 0 || stat.bytes < WAL_PAGE_BYTES)
            continue;
        result = scan_open_file(scan, path, 0, &file);
        if (result < 0)
            return result;
        wal_reader_attach(&scan->reader, file, stat.bytes & ~(uint64_t)(WAL_PAGE_BYTES - 1));
        const uint8_t *page = wal_reader_get(&scan->reader, 0, WAL_PAGE_BYTES);
        bool is_empty = page != NULL && le32_load(page) == 0;
        await_close(&file);
        if (!is_empty)
            return wal_refuse(scan->recovered, ERR_CORRUPT, path, 0,
                              "the segment holds data but the ring file is missing");
    }
    return 0;
}

/* The ring is read with the largest buffer there may be: the geometry is not known before. */
static int scan_open_ring(struct wal_scan *scan)
{
    char path[WAL_PATH_BYTES];
    struct io_stat stat;
    wal_path(path, scan->directory, "ring");
    int result = await_stat(path, &stat);
    if (result < 0)
        return wal_refuse(scan->recovered, result, path, 0, "cannot be examined");
    result = scan_open_file(scan, path, 0, &scan->ring);
    if (result < 0)
        return result;
    wal_reader_attach(&scan->reader, scan->ring, stat.bytes & ~(uint64_t)(WAL_PAGE_BYTES - 1));
    result = scan_superblock(scan, path);
    if (result < 0)
        return result;
    uint32_t slots = scan->superblock.ring_slots;
    if (stat.bytes != wal_ring_bytes(slots))
        return wal_refuse(scan->recovered, ERR_CORRUPT, path, stat.bytes,
                          "the file has the wrong size");
    scan->proof = scan->superblock.durable_sequence;
    return scan_ring(scan, path);
}

int wal_scan_run(struct wal_scan *scan)
{
    uint64_t started_ns = reactor_clock_ns(core_reactor(core_current()));
    scan->ring.fd = -1;
    *scan->recovered = (struct wal_recovered){.first_index = 1};
    int result = wal_reader_init(&scan->reader, WAL_READ_BYTES);
    if (result < 0)
        return result;
    result = wal_index_init(&scan->index, WAL_INDEX_CAPACITY);
    if (result == 0)
        result = scan_list(scan);
    if (result < 0)
        goto fail;
    if (!scan->ring_present) {
        result = scan_without_ring(scan);
        if (result < 0)
            goto fail;
        return 0;
    }
    result = scan_open_ring(scan);
    if (result == 0)
        result = scan_open_segments(scan);
    if (result == 0)
        result = scan_check_ring_against_segments(scan);
    if (result < 0)
        goto fail;
    uint64_t bytes_read = scan->reader.bytes_read;
    wal_reader_deinit(&scan->reader);
    _Static_assert(WAL_READ_BYTES >= WAL_BLOCK_BYTES_LIMIT, "a block fits");
    result = wal_reader_init(&scan->reader, WAL_READ_BYTES);
    if (result == 0)
        result = wal_scan_walk(scan);
    if (result < 0)
        goto fail;
    scan->recovered->bytes_read = bytes_read + scan->reader.bytes_read;
    scan->recovered->duration_ns = reactor_clock_ns(core_reactor(core_current())) - started_ns;
    return 0;
fail:
    wal_scan_deinit(scan);
    return result;
}

void wal_scan_deinit(struct wal_scan *scan)
{
    for (uint32_t i = 0; i < scan->segment_count && scan->segments != NULL; i++)
        if (scan->segments[i].file.fd >= 0)
            await_close(&scan->segments[i].file);
    if (scan->ring.fd >= 0)
        await_close(&scan->ring);
    scan->ring.fd = -1;
    wal_reader_deinit(&scan->reader);
    wal_index_deinit(&scan->index);
    free(scan->segments);
    free(scan->numbers);
    free(scan->copies);
    free(scan->lost_headers);
    scan->segments = NULL;
    scan->numbers = NULL;
    scan->copies = NULL;
    scan->lost_headers = NULL;
    scan->segment_count = 0;
}

/* ---- discarding a torn tail
 * -----------------------------------------------------------------------
 */

static uint8_t *acquire_page(void)
{
    struct buffer_pool *pool = reactor_buffers(core_reactor(core_current()));
    uint8_t *page = buffer_acquire_or_allocate(pool, WAL_PAGE_BYTES);
    if (page == NULL)
        fatal("log: no memory to mend the log with");
    memset(page, 0, WAL_PAGE_BYTES);
    return page;
}

static void write_page(struct io_file file, uint8_t *page, uint64_t offset, const char *what)
{
    struct io_span span = {.base = page, .offset = offset, .bytes = WAL_PAGE_BYTES};
    int32_t result = await_write(file, span, IO_WRITE_DURABLE);
    if (result != (int32_t)WAL_PAGE_BYTES)
        fatal("log: cannot mend %s at offset %llu: %s", what, (unsigned long long)offset,
              err_text(result));
}

void wal_scan_restore_headers(struct wal_scan *scan)
{
    invariant(scan->writable && scan->recovered->verdict != WAL_VERDICT_FENCED);
    if (scan->lost_header_count == 0)
        return;
    uint8_t *page = acquire_page();
    for (uint32_t i = 0; i < scan->lost_header_count; i++) {
        struct wal_survivor *lost = &scan->lost_headers[i];
        uint32_t crc = lost->block.header_crc;
        wal_block_encode(&lost->block, page); /* no records: the body stays damaged */
        invariant(lost->block.header_crc == crc);
        write_page(scan->segments[lost->at.slot].file, page, lost->at.offset, "a segment");
    }
    buffer_release_or_free(reactor_buffers(core_reactor(core_current())), page);
}

void wal_scan_discard_tail(struct wal_scan *scan)
{
    invariant(scan->writable && scan->recovered->verdict != WAL_VERDICT_FENCED);
    uint8_t *zeros = acquire_page();
    /* Newest first: whatever a crash leaves of this is again an unproven tail with its oldest
     * block missing, and is decided the same way. */
    for (uint32_t i = scan->survivor_count; i > 0; i--) {
        const struct wal_survivor *survivor = &scan->survivors[i - 1];
        struct io_file file = scan->segments[survivor->at.slot].file;
        uint64_t trail = survivor->at.offset + wal_trail_offset(&survivor->block);
        write_page(file, zeros, survivor->at.offset, "a segment");
        write_page(file, zeros, trail, "a segment");
    }
    if (scan->header_torn)
        write_page(scan->segments[scan->at.slot].file, zeros, scan->at.offset, "a segment");
    invariant(scan->survivor_count == 0 || scan->ring_sequence_max < scan->expected); /* W5 */
    buffer_release_or_free(reactor_buffers(core_reactor(core_current())), zeros);
}
