/* Whole members that start for the first time, or on a directory that was emptied, while some paths
 * between them are slow or blocked: who is let in, and who stops. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "server/node_private.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"
#include "tests/sim/disk.h"
#include "tests/sim/network.h"
#include "tests/sim/reactor_sim.h"
#include "tests/sim/world.h"

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

enum { NODES = 3, LIMIT_S = 60 };

struct machine {
    struct sim_node sim;
    struct sim_disk *disk;
    struct config config;
    struct node *node; /* in the machine's memory */
};

struct group {
    struct sim_world world;
    struct machine machines[NODES];
};

/* ---- machines ------------------------------------------------------------------------------- */

static void configure(struct config *config, uint32_t id)
{
    char client[64], peer[64], name[16], reason[256];
    snprintf(client, sizeof(client), "http://10.0.0.%u:2379", id);
    snprintf(peer, sizeof(peer), "http://10.0.0.%u:2380", id);
    snprintf(name, sizeof(name), "n%u", id);
    char *arguments[] = {"--name",
                         name,
                         "--data-dir",
                         "/data",
                         "--listen-client-urls",
                         client,
                         "--advertise-client-urls",
                         client,
                         "--listen-peer-urls",
                         peer,
                         "--initial-advertise-peer-urls",
                         peer,
                         "--initial-cluster",
                         "n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380,n3=http://10.0.0.3:2380",
                         "--memory-limit",
                         "64MiB"};
    cr_assert_eq(
        config_load(config, ARRAY_COUNT(arguments), arguments, NULL, reason, sizeof(reason)), 0,
        "%s", reason);
}

static struct group *group_create(uint64_t seed)
{
    struct group *group = calloc(1, sizeof(*group));
    sim_world_init(
        &group->world,
        &(struct sim_options){.seed = seed, .log_to_stderr = getenv("FIRST_START_LOG") != NULL});
    sim_world_enter(&group->world);
    sim_set_replay("test_first_start, seed %llu", (unsigned long long)seed);
    for (uint32_t i = 0; i < NODES; i++) {
        struct machine *machine = &group->machines[i];
        machine->disk = sim_disk_create(4 * GIB, 4096);
        sim_node_init(&machine->sim, &group->world, machine->disk);
        machine->sim.cost_ns_max = 8000;
        configure(&machine->config, machine->sim.id);
    }
    return group;
}

static void boot(struct machine *machine)
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

static void kill_machine(struct machine *machine)
{
    struct prng *prng = sim_prng(machine->sim.world, SIM_STREAM_FAULTS);
    sim_requests_land(&machine->sim, machine->disk, false, SIM_LOSS_NONE, prng);
    sim_node_crash(&machine->sim);
    sim_disk_power_cut(machine->disk, SIM_LOSS_NONE, prng);
    machine->node = NULL;
}

/* Killed, and its directory is gone. */
static void empty(struct machine *machine)
{
    kill_machine(machine);
    sim_disk_destroy(machine->disk);
    machine->disk = sim_disk_create(4 * GIB, 4096);
    machine->sim.disk = machine->disk;
}

static void group_destroy(struct group *group)
{
    for (uint32_t i = 0; i < NODES; i++) {
        struct machine *machine = &group->machines[i];
        if (machine->sim.running)
            kill_machine(machine);
        sim_node_deinit(&machine->sim);
        sim_disk_destroy(machine->disk);
    }
    sim_world_deinit(&group->world);
    free(group);
}

/* ---- looking -------------------------------------------------------------------------------- */

static const struct raft *raft_of(const struct machine *machine)
{
    return machine->sim.running && machine->node->raft != NULL ? &machine->node->raft->raft : NULL;
}

static struct machine *leader_of(struct group *group)
{
    for (uint32_t i = 0; i < NODES; i++) {
        const struct raft *raft = raft_of(&group->machines[i]);
        if (raft != NULL && raft->role == RAFT_ROLE_LEADER &&
            raft->log.committed_index >= raft->term_start_index)
            return &group->machines[i];
    }
    return NULL;
}

/* Does `at` have the name of `of` in its state machine? */
static bool names(const struct machine *at, const struct machine *of)
{
    const struct node *node = at->node;
    for (uint32_t i = 0; raft_of(at) != NULL && i < node->membership.set.count; i++)
        if (strcmp(node->membership.set.members[i].name, of->config.name) == 0)
            return true;
    return false;
}

/* Was `of` let in by `at`, which does not know its present life? */
static bool trusts(const struct machine *at, const struct machine *of)
{
    const struct admission *admission = &at->node->peers->admission;
    for (uint32_t i = 0; i < PEERS_MAX && of->node->identity.life != 0; i++)
        if (admission->trusted[i].id != 0 && admission->trusted[i].life == of->node->identity.life)
            return true;
    return false;
}

static bool stopped(const struct machine *machine)
{
    return machine->sim.running && node_state(machine->node) == NODE_STOPPED;
}

static void run_for(struct group *group, uint64_t ns)
{
    uint64_t end_ns = group->world.now_ns + ns;
    while (group->world.now_ns < end_ns && sim_world_step(&group->world))
        ;
}

#define run_until(group, condition)                                                                \
    do {                                                                                           \
        uint64_t limit_ns = (group)->world.now_ns + LIMIT_S * NS_PER_S;                            \
        while (!(condition) && (group)->world.now_ns < limit_ns &&                                 \
               sim_world_step(&(group)->world))                                                    \
            ;                                                                                      \
        cr_assert(condition, "not within %d s: " #condition, LIMIT_S);                             \
    } while (0)

static void path(struct group *group, const struct machine *from, const struct machine *to,
                 uint64_t slow_ns)
{
    sim_network_slow(&group->world, from->sim.id, to->sim.id, slow_ns);
}

static void block(struct group *group, const struct machine *from, const struct machine *to,
                  uint64_t for_ns)
{
    sim_network_block(&group->world, from->sim.id, to->sim.id, group->world.now_ns + for_ns);
}

/* Two members that run; the third is down. */
struct trio {
    struct machine *leader, *follower, *third;
};

static struct trio two_of_three(struct group *group)
{
    struct trio trio = {.third = &group->machines[2]};
    boot(&group->machines[0]);
    boot(&group->machines[1]);
    run_until(group, leader_of(group) != NULL);
    trio.leader = leader_of(group);
    trio.follower = &group->machines[trio.leader == &group->machines[0] ? 1 : 0];
    run_until(group, names(trio.leader, trio.follower) && names(trio.follower, trio.follower));
    return trio;
}

/* ---- tests ---------------------------------------------------------------------------------- */

enum { SEEDS = 5 };

/* Its first greeting to the follower arrives when it was fed by the leader and named long ago. */
Test(first_start, a_greeting_that_is_older_than_the_name)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        struct trio trio = two_of_three(group);
        path(group, trio.third, trio.follower, 2 * NS_PER_S);
        boot(trio.third);
        run_until(group, names(trio.follower, trio.third));
        path(group, trio.third, trio.follower, 0);
        run_for(group, 10 * NS_PER_S);
        cr_expect_eq(node_state(trio.third->node), NODE_READY, "seed %lu", (unsigned long)seed);
        group_destroy(group);
    }
}

/* The same words, but from a directory that was emptied. */
Test(first_start, an_emptied_directory_is_refused)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        struct trio trio = two_of_three(group);
        boot(trio.third);
        run_until(group, names(trio.leader, trio.third) && names(trio.follower, trio.third));
        empty(trio.third);
        kill_machine(trio.leader); /* it would count on what its member had */
        boot(trio.leader);
        run_until(group, leader_of(group) != NULL);
        boot(trio.third);
        run_until(group, stopped(trio.third));
        group_destroy(group);
    }
}

/* One that lags does not know that the member was named from a directory that is gone by now: it
 * lets the new one in, until the log tells it. */
Test(first_start, trust_ends_when_the_log_tells)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        struct trio trio = two_of_three(group);
        path(group, trio.leader, trio.follower, 600 * NS_PER_MS); /* less than an election */
        boot(trio.third);
        run_until(group, names(trio.leader, trio.third));
        uint64_t life = trio.third->node->identity.life;
        empty(trio.third);
        block(group, trio.leader, trio.third, LIMIT_S * NS_PER_S); /* nor does it hear a refusal */
        boot(trio.third);
        run_until(group, trusts(trio.follower, trio.third));
        cr_expect_neq(trio.third->node->identity.life, life);
        cr_expect_not(names(trio.follower, trio.third));
        run_until(group, stopped(trio.third));
        cr_expect(names(trio.follower, trio.third));
        group_destroy(group);
    }
}
