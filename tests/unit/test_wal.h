/*
 * test_wal.h - core_with_root.h and a small log, for the tests of storage/log/.
 *
 * Owner     The test program that includes it; one world at a time.
 */
#ifndef TESTS_UNIT_TEST_WAL_H
#define TESTS_UNIT_TEST_WAL_H

#include <fcntl.h>
#include <sys/stat.h>

#include "core/buffer.h"
#include "core/crc32c.h"
#include "core/err.h"
#include "storage/log/wal_private.h"
#include "tests/unit/core_with_root.h"

#define ENTRIES_MAX 4096

static uint8_t payload_pool[ENTRY_PAYLOAD_BYTES_MAX + 4096];

/* An append and its entries; world_close() frees them. */
struct batch {
    struct wal_append append;
    struct fiber_event done;
    bool is_done;
    struct batch *next;
    struct entry entries[];
};

static struct batch *batches;

static inline void world_open(void)
{
    core_with_root_open();
    for (size_t i = 0; i < sizeof(payload_pool); i++)
        payload_pool[i] = (uint8_t)(i * 31 + i / 251);
}

static inline void world_close(void)
{
    while (batches != NULL) {
        struct batch *next = batches->next;
        free(batches);
        batches = next;
    }
    core_with_root_close();
}

/* As if others of the core, a compaction say, used every registered buffer. */
static void *taken[16 * MIB / BUFFER_BYTES_MIN];

static inline void take_all_buffers(void)
{
    struct buffer_pool *pool = reactor_buffers(core_reactor(core));
    uint32_t count = 0;
    for (uint32_t bytes = BUFFER_BYTES_MAX; bytes >= BUFFER_BYTES_MIN; bytes /= 2)
        while ((taken[count] = buffer_acquire(pool, bytes)) != NULL)
            count++;
    cr_assert_eq(buffer_pool_bytes_used(pool), buffer_pool_bytes_total(pool));
}

static inline void give_all_buffers(void)
{
    for (uint32_t i = 0; taken[i] != NULL; i++)
        buffer_release(reactor_buffers(core_reactor(core)), taken[i]);
}

static inline struct wal_options small_options(const char *directory)
{
    return (struct wal_options){.directory = directory,
                                .segment_bytes = 128 * KIB,
                                .block_bytes_max = 16384,
                                .ring_slots = 64,
                                .idle_mark_ns = 3600 * NS_PER_S}; /* a slow disk is no rest */
}

static inline struct entry entry_make(uint64_t index, uint64_t term, uint32_t bytes)
{
    struct entry entry = {.index = index, .term = term, .payload_bytes = bytes};
    if (bytes != 0)
        entry.payload = payload_pool + (index * 7 + term) % 4096;
    entry.payload_crc = crc32c(0, entry.payload, bytes);
    return entry;
}

static inline void batch_done(struct wal_append *append)
{
    struct batch *batch = container_of(append, struct batch, append);
    batch->is_done = true;
    fiber_event_signal(&batch->done);
}

static inline struct batch *batch_make(uint64_t first, uint32_t count, uint64_t term,
                                       uint32_t bytes)
{
    struct batch *batch = calloc(1, sizeof(*batch) + count * sizeof(struct entry));
    batch->next = batches;
    batches = batch;
    fiber_event_init(&batch->done);
    for (uint32_t i = 0; i < count; i++)
        batch->entries[i] = entry_make(first + i, term, bytes);
    batch->append = (struct wal_append){.kind = WAL_APPEND_ENTRIES,
                                        .entries = batch->entries,
                                        .entry_count = count,
                                        .done = batch_done};
    return batch;
}

static inline void batch_wait(struct batch *batch)
{
    while (!batch->is_done)
        fiber_event_wait(&batch->done);
}

static inline struct batch *append_start(struct wal *wal, uint64_t first, uint32_t count,
                                         uint64_t term, uint32_t bytes)
{
    struct batch *batch = batch_make(first, count, term, bytes);
    wal_append(wal, &batch->append);
    wal_flush(wal);
    return batch;
}

static inline void append_wait(struct wal *wal, uint64_t first, uint32_t count, uint64_t term,
                               uint32_t bytes)
{
    batch_wait(append_start(wal, first, count, term, bytes));
}

static inline void append_marker(struct wal *wal, enum wal_append_kind kind, uint64_t index,
                                 uint64_t term)
{
    struct batch *batch = batch_make(0, 0, 0, 0);
    batch->append.kind = kind;
    batch->append.index = index;
    batch->append.term = term;
    wal_append(wal, &batch->append);
    wal_flush(wal);
    batch_wait(batch);
}

static inline void append_hard_state(struct wal *wal, uint64_t term, uint64_t vote, uint64_t commit)
{
    struct batch *batch = batch_make(0, 0, 0, 0);
    batch->append.has_hard_state = true;
    batch->append.hard_state = (struct hard_state){term, vote, commit};
    wal_append(wal, &batch->append);
    wal_flush(wal);
    batch_wait(batch);
}

/* Until the keeper has done all it can: what is released is gone, enough is prepared. */
static inline void await_keeper(struct wal *wal)
{
    while (wal->keeper_event.waiter == NULL || wal->keeper_event.signalled)
        fiber_yield();
}

/* The directory as a crash at this instant would leave it. Nothing new is submitted meanwhile, but
 * what the kernel still has in hand may rename a file under the copy: then it was no instant. */
static inline void copy_log(const char *from, const char *to)
{
    char command[512];
    snprintf(command, sizeof(command), "rm -rf %s; cp -r --sparse=never %s %s", to, from, to);
    int tries = 0;
    while (system(command) != 0)
        cr_assert_lt(++tries, 16, "the log directory does not come to rest");
}

static inline void patch(const char *file, uint64_t offset, const void *bytes, size_t size)
{
    int fd = open(file, O_RDWR);
    cr_assert_geq(fd, 0, "%s", file);
    cr_assert_eq(pwrite(fd, bytes, size, (off_t)offset), (ssize_t)size);
    cr_assert_eq(fsync(fd), 0);
    close(fd);
}

static inline void fetch_bytes(const char *file, uint64_t offset, void *bytes, size_t size)
{
    int fd = open(file, O_RDONLY);
    cr_assert_geq(fd, 0, "%s", file);
    cr_assert_eq(pread(fd, bytes, size, (off_t)offset), (ssize_t)size);
    close(fd);
}

/* What a replay saw. */
static struct seen {
    uint64_t first, last, count, faulty;
    uint64_t terms[ENTRIES_MAX];
    bool wrong;
} seen;

static inline int seen_visit(void *context, const struct entry *entry)
{
    struct seen *at = context;
    if (at->count++ == 0)
        at->first = entry->index;
    else if (entry->index != at->last + 1)
        at->wrong = true;
    at->last = entry->index;
    if (entry->index < ENTRIES_MAX)
        at->terms[entry->index] = entry->term;
    if (entry->tag == WAL_ENTRY_FAULTY)
        at->faulty++;
    else if (entry->payload_bytes != 0) {
        struct entry want = entry_make(entry->index, entry->term, entry->payload_bytes);
        if (memcmp(entry->payload, want.payload, want.payload_bytes) != 0)
            at->wrong = true;
    }
    return 0;
}

static inline void replay_all(struct wal *wal)
{
    memset(&seen, 0, sizeof(seen));
    cr_assert_eq(wal_replay(wal, wal_first_index(wal), seen_visit, &seen), 0);
    cr_assert_not(seen.wrong);
    wal_index_check(&wal->index);
}

static inline struct wal *open_small(const char *directory, struct wal_recovered *recovered)
{
    struct wal_options options = small_options(directory);
    struct wal *wal = NULL;
    int result = wal_open(&options, &wal, recovered);
    cr_assert_eq(result, 0, "%s: %s", err_text(result), recovered->reason);
    return wal;
}

#endif
