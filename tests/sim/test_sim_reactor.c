/* The simulated reactor: the table that every backend must pass, many seeds, and determinism. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "tests/conformance/reactor_conformance.h"
#include "tests/sim/disk.h"
#include "tests/sim/world.h"

static struct core_options core_options_default(void)
{
    return (struct core_options){.reactor = {.files_max = 256,
                                             .buffer_bytes = 2 * MIB,
                                             .recv_buffer_bytes = 4096,
                                             .recv_buffer_count = 16},
                                 .fibers_max = 32};
}

struct outcome {
    uint64_t hash, events;
};

static struct outcome conformance_run(uint64_t seed)
{
    struct sim_world world;
    struct sim_node node;
    sim_set_replay("this test with seed %llu", (unsigned long long)seed);
    sim_world_init(&world, &(struct sim_options){.seed = seed});
    sim_world_enter(&world);
    struct sim_disk *disk = sim_disk_create(64 * MIB, 512);
    cr_assert_eq(sim_disk_make_directory(disk, "/data"), 0);
    sim_node_init(&node, &world, disk);
    struct core_options options = core_options_default();
    sim_node_boot(&node, &options, 1);

    struct reactor_conformance conformance = {.directory = "/data", .host = "127.0.0.1"};
    sim_enter(&node, 0);
    cr_assert_eq(reactor_conformance_start(node.cores[0].core, &conformance), 0);
    sim_leave(&node);
    bool finished = sim_world_run(&world, &conformance.finished, 1000 * NS_PER_S);
    cr_assert(finished, "seed %llu stalled after case %u", (unsigned long long)seed,
              conformance.cases_run);
    cr_assert_eq(conformance.failures, 0, "seed %llu: %s", (unsigned long long)seed,
                 conformance.first_failure);
    cr_assert_eq(conformance.cases_run, 20);

    struct outcome outcome = {world.trace_hash, world.events};
    sim_node_shutdown(&node);
    sim_node_deinit(&node);
    sim_disk_destroy(disk);
    sim_world_deinit(&world);
    return outcome;
}

Test(sim_reactor, conforms, .timeout = 600)
{
    for (uint64_t seed = 1; seed <= 50; seed++)
        conformance_run(seed);
}

Test(sim_reactor, same_seed_same_run, .timeout = 600)
{
    struct outcome first = conformance_run(7), again = conformance_run(7);
    struct outcome other = conformance_run(8);
    cr_assert_eq(first.hash, again.hash);
    cr_assert_eq(first.events, again.events);
    cr_assert_neq(first.hash, other.hash);
}
