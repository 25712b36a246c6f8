/* Starts of the tables that do not end: one process is killed at each change that it makes to the
 * disk, so that the disk forgets nothing, and the next one loses power at each of its own. Whatever
 * is left then must open. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/fiber.h"
#include "core/logger.h"
#include "tests/sim/disk.h"
#include "tests/sim/reactor_sim.h"
#include "tests/sim/small_store.h"
#include "tests/sim/world.h"

enum { SEEDS = SANITIZED ? 1 : 16, SECONDS_MAX = 60, MESSAGE_KIND_BASE = 8 };

struct start {
    struct sim_world world;
    struct sim_node node;
    struct sim_disk *disk;
    struct prng prng;
    uint64_t changes; /* of the process that runs */
    int error;
    bool finished;
};

static void on_disk_change(void *context)
{
    ((struct start *)context)->changes++;
}

static void open_and_close(void *argument)
{
    struct start *start = argument;
    struct core *core = core_current();
    struct lsm_options options = small_lsm_options("/data/lsm", MESSAGE_KIND_BASE);
    struct lsm *lsm;
    start->error = lsm_open(core, &options, &lsm);
    if (start->error == 0) {
        lsm_background_start(lsm, core);
        fiber_sleep_until(core_now_ns(core) + 50 * NS_PER_MS);
        lsm_background_stop(lsm);
        fiber_sleep_until(core_now_ns(core) + NS_PER_MS);
        lsm_close(lsm);
    }
    start->finished = true;
}

/* A process opens the tables and closes them, or comes as far as that many changes of the disk. */
static void run(struct start *start, uint64_t changes)
{
    struct core_options options = small_core_options();
    memory_may_leak(true);
    uint64_t limit_ns = start->world.now_ns + SECONDS_MAX * NS_PER_S;
    start->changes = 0;
    start->finished = false;
    sim_node_boot(&start->node, &options, 1);
    sim_enter(&start->node, 0);
    cr_assert_eq(fiber_spawn(start->node.cores[0].core, FIBER_LATENCY, open_and_close, start), 0);
    sim_leave(&start->node);
    while (!start->finished && start->changes < changes) {
        cr_assert_lt(start->world.now_ns, limit_ns, "stalled");
        (void)sim_world_step(&start->world);
    }
    memory_may_leak(false);
}

static void kill_it(struct start *start)
{
    sim_requests_land(&start->node, start->disk, false, SIM_LOSS_NONE, &start->prng);
    sim_node_crash(&start->node);
}

static void cut_power(struct start *start, enum sim_loss loss)
{
    sim_requests_land(&start->node, start->disk, false, loss, &start->prng);
    sim_node_crash(&start->node);
    sim_disk_power_cut(start->disk, loss, &start->prng);
}

/* Of tables that were there before. Returns how many changes the last start made. */
static uint64_t killed_then_cut(uint64_t killed_at, uint64_t cut_at, uint64_t seed)
{
    struct start *start = calloc(1, sizeof(*start));
    prng_init(&start->prng, seed);
    sim_world_init(&start->world, &(struct sim_options){.seed = seed});
    sim_world_enter(&start->world);
    start->disk = sim_disk_create(64 * MIB, 512);
    cr_assert_eq(sim_disk_make_directory(start->disk, "/data"), 0);
    sim_node_init(&start->node, &start->world, start->disk);
    start->world.on_disk_change = on_disk_change;
    start->world.on_disk_change_context = start;
    run(start, UINT64_MAX);
    cut_power(start, SIM_LOSS_NONE);
    run(start, killed_at);
    kill_it(start);
    run(start, cut_at);
    cut_power(start, (enum sim_loss)prng_below(&start->prng, SIM_LOSS_COUNT));
    run(start, UINT64_MAX);
    cr_expect_eq(start->error, 0, "killed at change %llu, then cut at %llu, seed %llu: %s",
                 (unsigned long long)killed_at, (unsigned long long)cut_at,
                 (unsigned long long)seed, err_name(start->error));
    uint64_t changes = start->changes;
    cut_power(start, SIM_LOSS_NONE);
    sim_node_deinit(&start->node);
    sim_disk_destroy(start->disk);
    sim_world_deinit(&start->world);
    free(start);
    return changes;
}

Test(lsm_start, a_start_after_a_killed_one_may_lose_power, .timeout = 240)
{
    logger_set_level(LOG_LEVEL_NONE);
    uint64_t changes = killed_then_cut(UINT64_MAX, UINT64_MAX, 1);
    cr_assert_gt(changes, 8, "it writes a manifest and its name");
    for (uint64_t killed_at = 1; killed_at <= changes; killed_at++)
        for (uint64_t cut_at = 1; cut_at <= changes + 2; cut_at++)
            for (uint64_t seed = 1; seed <= SEEDS; seed++)
                (void)killed_then_cut(killed_at, cut_at, seed);
}
