/* The store across threads: raft core 0 writes, core 1 flushes and compacts, cores 2 and 3 read. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/core.h"
#include "core/err.h"
#include "core/fiber.h"
#include "core/prng.h"
#include "storage/lsm/lsm.h"

#define CORES    4
#define KEYS     300
#define VERSIONS 12000

static struct mesh *mesh;
static struct core *cores[CORES];
static struct lsm *lsm;
static char root[64];
static _Atomic uint64_t published; /* versions up to here may be read */
static _Atomic uint32_t opened, readers_done, background_done, finished;
static _Atomic uint64_t reads, scans;

static void pause_ms(uint64_t ms)
{
    fiber_sleep_until(core_now_ns(core_current()) + ms * NS_PER_MS);
}

static struct bytes key_of(char *to, uint64_t i)
{
    int bytes = snprintf(to, 16, "k/%05lu", i % KEYS);
    return bytes_make(to, (size_t)bytes);
}

/* Version v of the store: key v % KEYS was last written by v. */
static void raft_fiber(void *argument)
{
    (void)argument;
    struct lsm_options options = {.dir = root,
                                  .memtable_bytes = 32 * KIB,
                                  .block_cache_bytes_per_core = 32 * KIB,
                                  .block_bytes = 512,
                                  .table_bytes = 16 * KIB,
                                  .level_base_bytes = 64 * KIB,
                                  .level_ratio = 3,
                                  .level0_wait_ns = 1,
                                  .core_count = CORES,
                                  .message_kind_base = 10,
                                  .random_seed = 1};
    cr_assert_eq(lsm_open(core_current(), &options, &lsm), 0);
    atomic_store(&opened, 1);
    for (uint64_t version = 1; version <= VERSIONS; version++) {
        char key[16];
        uint8_t value[24] = {0};
        le64_store(value, version);
        lsm_insert(lsm, key_of(key, version), (struct lsm_version){version, 0}, LSM_VALUE,
                   bytes_make(value, sizeof(value)));
        lsm_commit(lsm, version, 1);
        lsm_set_durable_index(lsm, version);
        atomic_store_explicit(&published, version, memory_order_release);
        if (version % 50 == 0)
            fiber_yield();
        while (lsm_pressure(lsm) >= LSM_PRESSURE_FULL)
            pause_ms(1);
    }
    while (atomic_load(&readers_done) < 2)
        pause_ms(1);
    atomic_store(&finished, 1);
    while (atomic_load(&background_done) == 0)
        pause_ms(1);
    pause_ms(5);
    struct lsm_stats stats;
    lsm_stats(lsm, &stats);
    cr_assert_gt(stats.flushes, 5);
    cr_assert_gt(stats.compactions, 2);
    cr_assert_eq(stats.views_held, 1);
    lsm_close(lsm);
    for (uint32_t i = 0; i < CORES; i++)
        core_stop(cores[i]);
}

static void background_fiber(void *argument)
{
    (void)argument;
    while (atomic_load(&opened) == 0)
        pause_ms(1);
    lsm_background_start(lsm, core_current());
    while (atomic_load(&finished) == 0)
        pause_ms(1);
    lsm_background_stop(lsm);
    atomic_store(&background_done, 1);
}

static void check_get(struct lsm_reader *reader, struct prng *prng, uint64_t version)
{
    char text[16];
    struct lsm_row row;
    uint64_t wanted = version > KEYS ? version - prng_below(prng, KEYS) : version;
    struct bytes key = key_of(text, wanted);
    int status = lsm_get_now(reader, key, (struct lsm_version){version, 0}, &row);
    if (status == ERR_WOULD_WAIT)
        status = lsm_get(reader, key, (struct lsm_version){version, 0}, &row);
    cr_assert_eq(status, 0, "%s", err_text(status));
    cr_assert_eq(row.version.main, wanted);
    cr_assert_eq(le64_load(row.value.data), wanted);
    lsm_row_release(reader, &row);
    atomic_fetch_add(&reads, 1);
}

static void check_scan(struct lsm_reader *reader, uint64_t version)
{
    struct lsm_cursor *cursor;
    struct lsm_row row;
    struct lsm_cursor_options options = {.version_max = {version, 0}, .newest_only = true};
    uint64_t rows = 0;
    cr_assert_eq(lsm_cursor_open(reader, &options, &cursor), 0);
    while (lsm_cursor_next(cursor, &row) == 1) {
        cr_assert_eq(le64_load(row.value.data), row.version.main);
        cr_assert(row.version.main + KEYS > version && row.version.main <= version);
        rows++;
    }
    cr_assert_eq(rows, u64_min(version, KEYS));
    lsm_cursor_close(cursor);
    atomic_fetch_add(&scans, 1);
}

static void reader_fiber(void *argument)
{
    (void)argument;
    struct lsm_reader *reader;
    struct prng prng;
    prng_init(&prng, core_id(core_current()));
    while (atomic_load(&published) == 0)
        pause_ms(1);
    cr_assert_eq(lsm_reader_open(lsm, core_current(), &reader), 0);
    for (uint64_t version = 0; version < VERSIONS;) {
        version = atomic_load_explicit(&published, memory_order_acquire);
        for (int i = 0; i < 20; i++)
            check_get(reader, &prng, version);
        check_scan(reader, version);
        fiber_yield();
    }
    lsm_reader_close(reader);
    atomic_fetch_add(&readers_done, 1);
}

static void *core_main(void *argument)
{
    static void (*const fibers[CORES])(void *argument) = {raft_fiber, background_fiber,
                                                          reader_fiber, reader_fiber};
    uint32_t id = (uint32_t)(uintptr_t)argument;
    core_set_current(cores[id]);
    cr_assert_eq(fiber_spawn(cores[id], FIBER_LATENCY, fibers[id], NULL), 0);
    core_run(cores[id]);
    return NULL;
}

struct start {
    pthread_t thread;
    uint32_t id;
};

static pthread_barrier_t created;

static void *core_thread(void *argument)
{
    struct start *start = argument;
    struct core_options options = {.reactor = {.core = start->id,
                                               .core_count = CORES,
                                               .files_max = 512,
                                               .buffer_bytes = 8 * MIB,
                                               .recv_buffer_bytes = 4096,
                                               .recv_buffer_count = 16,
                                               .random_seed = 7},
                                   .fibers_max = 32};
    char reason[256] = "";
    cr_assert_eq(core_create(&options, mesh, &cores[start->id], reason, sizeof(reason)), 0, "%s",
                 reason);
    pthread_barrier_wait(&created);
    struct reactor *all[CORES];
    for (uint32_t i = 0; i < CORES; i++)
        all[i] = core_reactor(cores[i]);
    reactor_link(all[start->id], all, CORES);
    pthread_barrier_wait(&created);
    core_main((void *)(uintptr_t)start->id);
    pthread_barrier_wait(&created);
    core_set_current(NULL);
    core_destroy(cores[start->id]);
    return NULL;
}

Test(lsm_cores, readers_follow_views_while_one_core_writes_and_another_compacts, .timeout = 600)
{
    struct start starts[CORES];
    snprintf(root, sizeof(root), "/var/tmp/test_lsm.XXXXXX");
    cr_assert_not_null(mkdtemp(root));
    cr_assert_eq(mesh_create(CORES, 256, &mesh), 0);
    pthread_barrier_init(&created, NULL, CORES);
    for (uint32_t i = 0; i < CORES; i++) {
        starts[i].id = i;
        cr_assert_eq(pthread_create(&starts[i].thread, NULL, core_thread, &starts[i]), 0);
    }
    for (uint32_t i = 0; i < CORES; i++)
        pthread_join(starts[i].thread, NULL);
    cr_assert_gt(atomic_load(&reads), 100);
    cr_assert_gt(atomic_load(&scans), 5);
    mesh_destroy(mesh);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", root);
    cr_assert_eq(system(command), 0);
}
