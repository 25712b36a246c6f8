/* storage/mvcc on the real LSM: memtables so small that a run flushes and compacts all the time. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/core.h"
#include "core/fiber.h"
#include "core/mesh.h"
#include "tests/unit/mvcc_runs.c"

enum {
    SEEDS = 4,
    STEPS = 1000,
    STEPS_PER_REOPEN = 150,
    STEPS_PER_PAUSE = 20,
    MESSAGE_KIND_BASE = 8
};

static struct core *core;
static struct mesh *mesh;
static char dir[64];
static struct lsm_reader *lsm_reader;
static uint64_t flushes, compactions;
static bool finished;

static void store_attach(struct store *store)
{
    struct lsm_options options = {
        .dir = dir,
        .memtable_bytes = 16 * KIB,
        .memtables_max = 8,
        .block_cache_bytes_per_core = 256 * KIB,
        .block_bytes = 512,
        .table_bytes = 16 * KIB,
        .level_base_bytes = 32 * KIB,
        .level_ratio = 4,
        .level0_tables = 2,
        .level0_wait_ns = 1,
        .core_count = 1,
        .message_kind_base = MESSAGE_KIND_BASE,
        .random_seed = 7,
    };
    store->shared = mvcc_shared_create();
    mvcc_configure_lsm(store->shared, &options);
    int error = lsm_open(core, &options, &store->lsm);
    cr_assert_eq(error, 0, "lsm_open: %s", err_name(error));
    error = lsm_reader_open(store->lsm, core, &lsm_reader);
    cr_assert_eq(error, 0, "lsm_reader_open: %s", err_name(error));
    error = mvcc_open(&(struct mvcc_options){.shared = store->shared,
                                             .lsm = store->lsm,
                                             .lsm_reader = lsm_reader,
                                             .lease_exists = even_lease_exists},
                      &store->mvcc);
    cr_assert_eq(error, 0, "mvcc_open: %s", err_name(error));
    error = mvcc_reader_open(&(struct mvcc_reader_options){.shared = store->shared,
                                                           .lsm = store->lsm,
                                                           .lsm_reader = lsm_reader},
                             &store->reader);
    cr_assert_eq(error, 0, "mvcc_reader_open: %s", err_name(error));
    lsm_background_start(store->lsm, core);
    store->index = mvcc_applied_index(store->mvcc);
}

static void store_detach(struct store *store)
{
    struct lsm_stats stats;
    lsm_stats(store->lsm, &stats);
    flushes += stats.flushes;
    compactions += stats.compactions;
    mvcc_reader_close(store->reader);
    mvcc_close(store->mvcc);
    lsm_background_stop(store->lsm);
    lsm_reader_close(lsm_reader);
    fiber_sleep_until(core_now_ns(core) + NS_PER_MS);
    lsm_close(store->lsm);
    mvcc_shared_destroy(store->shared);
}

static void run_commit(struct run *run)
{
    struct store *store = &run->store;
    cr_assert_eq(mvcc_commit(store->mvcc, ++store->index, 1), 0);
    lsm_set_durable_index(store->lsm, store->index);
    cr_assert_lt(store->index, INDEX_MAX);
    run->revision_at[store->index] = run->model.revision;
    run->compacted_at[store->index] = run->model.compacted;
    while (lsm_pressure(store->lsm) >= LSM_PRESSURE_FULL)
        fiber_sleep_until(core_now_ns(core) + NS_PER_MS);
    if (pick(run, 4) == 0)
        fiber_yield();
}

static void expect_all(struct run *run)
{
    struct mvcc_state state = mvcc_reader_state(run->store.reader);
    for (int64_t at = state.compacted > 0 ? state.compacted : 1; at <= state.revision; at++) {
        struct mvcc_range_request all = {.key = T("\0"), .range_end = T("\0"), .revision = at};
        struct mvcc_range_result got, want;
        cr_assert_eq(mvcc_range(run->store.reader, &all, &run->arena, &got), 0);
        do_range(&run->model, &all, &run->arena, &want);
        want.revision = state.revision;
        expect_same(run, "all keys", 0, 0, model_differ_range(&got, &want));
        arena_reset(&run->arena);
    }
}

/* A clean stop: everything is flushed, so the store comes back where it was. */
static void run_reopen(struct run *run)
{
    lsm_flush_begin(run->store.lsm);
    while (lsm_flushed_index(run->store.lsm) < run->store.index)
        fiber_sleep_until(core_now_ns(core) + NS_PER_MS);
    store_detach(&run->store);
    store_attach(&run->store);
    struct mvcc_state state = mvcc_reader_state(run->store.reader);
    cr_assert_eq(state.revision, run->model.revision);
    cr_assert_eq(state.compacted, run->model.compacted);
    check_stats(run);
    expect_all(run);
}

/* Nothing is flushed: the store comes back as of its last flush, for the log to replay from. */
static void run_crash(struct run *run)
{
    store_detach(&run->store);
    store_attach(&run->store);
    struct mvcc_state state = mvcc_reader_state(run->store.reader);
    cr_assert_eq(state.revision, run->revision_at[state.applied_index]);
    cr_assert_eq(state.compacted, run->compacted_at[state.applied_index]);
    expect_all(run);
}

static void run_all(uint64_t seed)
{
    struct run *run = calloc(1, sizeof(*run));
    snprintf(dir, sizeof(dir), "/tmp/test_mvcc_lsm.%d.%d", (int)getpid(), (int)seed);
    prng_init(&run->prng, seed);
    arena_init(&run->arena, 0);
    model_init(&run->model);
    run->model.lease_exists = even_lease_exists;
    store_attach(&run->store);
    run->revision_at[0] = 1;
    run->compacted_at[0] = -1;
    for (int i = 1; i <= STEPS; i++) {
        for (uint64_t j = 1 + pick(run, 3); j > 0; j--)
            run_write(run);
        run_commit(run);
        for (int j = 0; j < 3; j++)
            run_read(run);
        if (i % STEPS_PER_REOPEN == 0)
            run_reopen(run);
        else if (i % STEPS_PER_PAUSE == 0)
            fiber_sleep_until(core_now_ns(core) + NS_PER_MS); /* compactions get on */
        arena_reset(&run->arena);
    }
    cr_assert_eq(mvcc_purge(run->store.mvcc), 0);
    run_crash(run);
    store_detach(&run->store);
    model_deinit(&run->model);
    arena_deinit(&run->arena);
    free(run);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    cr_assert_eq(system(command), 0);
}

static void run_seeds(void *argument)
{
    (void)argument;
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        run_all(seed);
    /* How many depends on the machine's timing; that there are some is what the test is for. */
    cr_assert_gt(flushes, SEEDS, "memtables are too large for this test");
    cr_assert_gt(compactions, 0, "tables are too large for this test");
    finished = true;
}

Test(mvcc_lsm, agrees_with_the_model)
{
    struct core_options options = {
        .reactor = {.core_count = 1,
                    .files_max = 1024,
                    .buffer_bytes = 16 * MIB,
                    .recv_buffer_bytes = 4096,
                    .recv_buffer_count = 16,
                    .random_seed = 1},
        .fibers_max = 64,
    };
    char reason[256] = "";
    cr_assert_eq(mesh_create(1, 64, &mesh), 0);
    cr_assert_eq(core_create(&options, mesh, &core, reason, sizeof(reason)), 0, "%s", reason);
    core_set_current(core);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, run_seeds, NULL), 0);
    while (!finished)
        core_turn(core, true);
    core_set_current(NULL);
    core_destroy(core);
    mesh_destroy(mesh);
}
