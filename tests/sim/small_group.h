/*
 * small_group.h - a few whole members on simulated machines, for tests that make one situation by
 * hand where whole.h draws many from a seed.
 *
 * Story     A machine has a disk, an address and one core, and boots server/node from a command
 *           line. The test kills it, empties or damages its disk, makes paths slow, and runs fibers
 *           on the member's raft core. A member that asks for a restart gets it.
 * Owner     The test program that includes it.
 */
#ifndef TESTS_SIM_SMALL_GROUP_H
#define TESTS_SIM_SMALL_GROUP_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "server/member_request.h"
#include "server/node_private.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"
#include "tests/sim/disk.h"
#include "tests/sim/machine_flags.h"
#include "tests/sim/network.h"
#include "tests/sim/reactor_sim.h"
#include "tests/sim/world.h"

enum { MACHINES = 3, LIMIT_S = 60 };

struct machine {
    struct sim_node sim;
    struct sim_disk *disk;
    struct config config;
    struct node *node; /* in the machine's memory */
    uint32_t restarts; /* that it asked for */

    void (*run)(struct machine *machine); /* of the test, in a fiber */
    uint64_t argument;
    bool ran;
};

struct group {
    struct sim_world world;
    struct machine machines[MACHINES];
};

/* A crash drops memory that a sanitizer would miss. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

/* ---- machines ------------------------------------------------------------------------------- */

/* What raftd is told; `members`: how many of --initial-cluster, from the first on. */
static inline void machine_configure(struct machine *machine, uint32_t members, const char *state)
{
    char cluster[MACHINES * 48] = "", reason[256];
    size_t used = 0;
    for (uint32_t i = 1; i <= members; i++)
        used += (size_t)snprintf(cluster + used, sizeof(cluster) - used,
                                 "%sn%u=http://10.0.0.%u:2380", i > 1 ? "," : "", i, i);
    cr_assert_eq(
        machine_flags(&machine->config, machine->sim.id, cluster, state, reason, sizeof(reason)), 0,
        "%s", reason);
}

/* All of a new cluster of three, down. SMALL_GROUP_LOG=1 shows their log lines. */
static inline struct group *group_create(uint64_t seed)
{
    struct group *group = calloc(1, sizeof(*group));
    bool log = getenv("SMALL_GROUP_LOG") != NULL;
    sim_world_init(&group->world, &(struct sim_options){.seed = seed, .log_to_stderr = log});
    sim_world_enter(&group->world);
    sim_set_replay("this test, seed %llu", (unsigned long long)seed);
    for (uint32_t i = 0; i < MACHINES; i++) {
        struct machine *machine = &group->machines[i];
        machine->disk = sim_disk_create(4 * GIB, 4096);
        sim_node_init(&machine->sim, &group->world, machine->disk);
        machine->sim.cost_ns_max = 8000;
        machine_configure(machine, MACHINES, "new");
    }
    return group;
}

static inline void boot(struct machine *machine)
{
    struct core_options options = {.reactor = {.files_max = 4096,
                                               .buffer_bytes = 8 * MIB,
                                               .recv_buffer_bytes = 16 * 1024,
                                               .recv_buffer_count = 16},
                                   .fibers_max = 512};
    sim_node_boot(&machine->sim, &options, 1);
    sim_enter(&machine->sim, 0);
    cr_assert_eq(node_create(&machine->config, 1, 512 * MIB, &machine->node), 0);
    cr_assert_eq(node_attach(machine->node, machine->sim.cores[0].core), 0);
    sim_leave(&machine->sim);
}

static inline void kill_machine(struct machine *machine)
{
    struct prng *prng = sim_prng(machine->sim.world, SIM_STREAM_FAULTS);
    sim_requests_land(&machine->sim, machine->disk, false, SIM_LOSS_NONE, prng);
    sim_node_crash(&machine->sim);
    sim_disk_power_cut(machine->disk, SIM_LOSS_NONE, prng);
    machine->node = NULL;
}

/* Killed, and its directory is gone. */
static inline void empty(struct machine *machine)
{
    kill_machine(machine);
    sim_disk_destroy(machine->disk);
    machine->disk = sim_disk_create(4 * GIB, 4096);
    machine->sim.disk = machine->disk;
}

/* It has stopped. */
static inline void shut_down(struct machine *machine)
{
    sim_enter(&machine->sim, 0);
    node_destroy(machine->node);
    sim_leave(&machine->sim);
    sim_node_shutdown(&machine->sim);
    machine->node = NULL;
}

static inline void group_destroy(struct group *group)
{
    for (uint32_t i = 0; i < MACHINES; i++) {
        struct machine *machine = &group->machines[i];
        if (machine->sim.running)
            kill_machine(machine);
        sim_node_deinit(&machine->sim);
        sim_disk_destroy(machine->disk);
    }
    sim_world_deinit(&group->world);
    free(group);
}

static inline void path(struct group *group, const struct machine *from, const struct machine *to,
                        uint64_t slow_ns)
{
    sim_network_slow(&group->world, from->sim.id, to->sim.id, slow_ns);
}

static inline void block(struct group *group, const struct machine *from, const struct machine *to,
                         uint64_t for_ns)
{
    sim_network_block(&group->world, from->sim.id, to->sim.id, group->world.now_ns + for_ns);
}

/* ---- looking -------------------------------------------------------------------------------- */

static inline bool is_in_state(const struct machine *machine, enum node_state state)
{
    return machine->sim.running && node_state(machine->node) == state;
}

static inline bool stopped(const struct machine *machine)
{
    return is_in_state(machine, NODE_STOPPED);
}

/* NULL until consensus runs. */
static inline const struct raft *raft_of(const struct machine *machine)
{
    return machine->sim.running && machine->node->raft != NULL ? &machine->node->raft->raft : NULL;
}

/* One that has committed in its term, or NULL. */
static inline struct machine *leader_of(struct group *group)
{
    for (uint32_t i = 0; i < MACHINES; i++) {
        const struct raft *raft = raft_of(&group->machines[i]);
        if (raft != NULL && raft->role == RAFT_ROLE_LEADER &&
            raft->log.committed_index >= raft->term_start_index)
            return &group->machines[i];
    }
    return NULL;
}

/* Does `at` have the name of `of` in its state machine? */
static inline bool names(const struct machine *at, const struct machine *of)
{
    const struct node *node = at->node;
    for (uint32_t i = 0; raft_of(at) != NULL && i < node->membership.set.count; i++)
        if (strcmp(node->membership.set.members[i].name, of->config.name) == 0)
            return true;
    return false;
}

/* ---- running -------------------------------------------------------------------------------- */

static inline bool group_step(struct group *group)
{
    for (uint32_t i = 0; i < MACHINES; i++) {
        struct machine *machine = &group->machines[i];
        if (stopped(machine) && node_restart_wanted(machine->node)) {
            machine->restarts++;
            shut_down(machine);
            boot(machine);
        }
    }
    return sim_world_step(&group->world);
}

static inline void run_for(struct group *group, uint64_t ns)
{
    uint64_t end_ns = group->world.now_ns + ns;
    while (group->world.now_ns < end_ns && group_step(group))
        ;
}

#define run_until(group, condition)                                                                \
    do {                                                                                           \
        uint64_t limit_ns = (group)->world.now_ns + LIMIT_S * NS_PER_S;                            \
        while (!(condition) && (group)->world.now_ns < limit_ns && group_step(group))              \
            ;                                                                                      \
        cr_assert(condition, "not within %d s: " #condition, LIMIT_S);                             \
    } while (0)

static inline void machine_run(void *argument)
{
    struct machine *machine = argument;
    machine->run(machine);
    machine->ran = true;
}

/* In a fiber of its raft core, to the end. */
static inline void run_on(struct group *group, struct machine *machine,
                          void (*run)(struct machine *machine), uint64_t argument)
{
    machine->run = run;
    machine->argument = argument;
    machine->ran = false;
    sim_enter(&machine->sim, 0);
    cr_assert_eq(fiber_spawn(machine->sim.cores[0].core, FIBER_BACKGROUND, machine_run, machine),
                 0);
    sim_leave(&machine->sim);
    run_until(group, machine->ran);
}

#endif
