/*
 * failover_world.h - a node made of nothing but consensus, for tests of what watches over it.
 *
 * Story     Member `id` of {1, .., voters}, in term 1. Everything that consensus wants done is done
 *           at once; its messages are lost, and the test gives the answers.
 * Owner     The test program that includes it; one world at a time.
 */
#ifndef TESTS_UNIT_FAILOVER_WORLD_H
#define TESTS_UNIT_FAILOVER_WORLD_H

#include <criterion/criterion.h>
#include <stdlib.h>

#include "core/core.h"
#include "server/node_private.h"
#include "server/peer_role.h"
#include "server/proposal.h"
#include "server/raft_driver.h"

#define TIMEOUT_NS (1 * NS_PER_S)

static struct {
    struct mesh *mesh;
    struct core *core;
    struct node *node;
    struct peer_role role;
    struct raft_driver driver;
    struct peer_options peer_options;
} world;

static inline int no_admission(void *context maybe_unused,
                               const struct peer_greeting *greeting maybe_unused)
{
    return ERR_MEMBER_NOT_FOUND;
}

static inline void world_release(void *context maybe_unused, const struct entry *entry)
{
    if (entry->payload_bytes > 0)
        proposal_leave_log(container_of(entry->payload, struct proposal, payload));
}

static inline struct failover *world_open(uint64_t id, uint64_t voters)
{
    struct core_options options = {.reactor = {.core_count = 1,
                                               .files_max = 64,
                                               .buffer_bytes = 2 * MIB,
                                               .recv_buffer_bytes = 4096,
                                               .recv_buffer_count = 8,
                                               .random_seed = 7},
                                   .fibers_max = 8};
    char reason[256] = "";
    memset(&world, 0, sizeof(world));
    cr_assert_eq(mesh_create(1, 64, &world.mesh), 0);
    cr_assert_eq(core_create(&options, world.mesh, &world.core, reason, sizeof(reason)), 0, "%s",
                 reason);
    core_set_current(world.core);
    world.node =
        aligned_alloc(CACHE_LINE_BYTES, u64_round_up(sizeof(struct node), CACHE_LINE_BYTES));
    memset(world.node, 0, sizeof(*world.node));
    world.node->raft = &world.driver;
    world.node->peers = &world.role;
    world.peer_options = (struct peer_options){.cluster = 1,
                                               .self = id,
                                               .incarnation = 1,
                                               .silence_ns = NS_PER_S,
                                               .events = {.admit = no_admission}};
    cr_assert_eq(peers_create(world.core, &world.peer_options, &world.role.peers), 0);

    struct raft *raft = &world.driver.raft;
    struct raft_options raft_options;
    raft_options_default(&raft_options);
    raft_options.id = id;
    raft_options.seed = 3;
    raft_options.election_timeout_ns = TIMEOUT_NS;
    raft_options.heartbeat_ns = TIMEOUT_NS / 10;
    struct raft_start start = {.hard_state = {.term = 1}};
    for (uint64_t voter = 1; voter <= voters; voter++)
        cr_assert(raft_id_set_add(&start.config.voters, voter));
    struct raft_storage storage = {.release = world_release};
    world.driver.core = world.core;
    world.driver.node = world.node;
    world.driver.raft_memory =
        aligned_alloc(64, u64_round_up(raft_memory_bytes(&raft_options), 64));
    cr_assert_eq(raft_init(raft, &raft_options, &storage, &start, world.driver.raft_memory,
                           core_now_ns(world.core)),
                 0);
    failover_init(&world.role.failover, world.node, world.core);
    return &world.role.failover;
}

static inline void world_close(void)
{
    failover_stop(&world.role.failover);
    peers_stop(world.role.peers); /* there are no connections to wait for */
    peers_destroy(world.role.peers);
    raft_log_release_to(&world.driver.raft.log, UINT64_MAX);
    free(world.driver.raft_memory);
    free(world.node);
    core_set_current(NULL);
    core_destroy(world.core);
    mesh_destroy(world.mesh);
}

/* Everything raft wants is done at once; messages are lost. */
static inline void drain(void)
{
    struct raft_ready ready;
    while (raft_ready(&world.driver.raft, &ready))
        if (ready.append.sequence != 0)
            raft_persisted(&world.driver.raft, &ready.append);
}

static inline void give(enum raft_message_kind kind, uint64_t from, uint64_t term, uint64_t index)
{
    struct raft_message message = {.kind = kind,
                                   .from = from,
                                   .to = world.driver.raft.options.id,
                                   .term = term,
                                   .index = index};
    cr_assert_eq(raft_step(&world.driver.raft, &message), 0);
    drain();
}

static inline void lead(void)
{
    raft_campaign(&world.driver.raft);
    drain();
    give(RAFT_MESSAGE_PRE_VOTE_RESPONSE, 2, 2, 0);
    give(RAFT_MESSAGE_VOTE_RESPONSE, 2, 2, 0);
    cr_assert_eq(world.driver.raft.role, RAFT_ROLE_LEADER);
    drain();
}

#endif
