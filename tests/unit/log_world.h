/*
 * log_world.h - a state machine on the fake LSM, the log before it and the consensus core between
 * them, for tests of what executes entries: changes of members, requests that come twice.
 *
 * Story     The test writes entries, then starts: consensus finds them all on disk and committed,
 *           as after a crash before the first flush. world_restart() is such a crash.
 * Owner     The test program that includes it; it has fake_lsm.c inside as well.
 */
#ifndef TESTS_UNIT_LOG_WORLD_H
#define TESTS_UNIT_LOG_WORLD_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "consensus/raft.h"
#include "server/membership.h"
#include "server/once.h"
#include "server/proposal.h"
#include "storage/mvcc/mvcc.h"
#include "tests/unit/fake_lsm.h"

#define LOG_ENTRIES_MAX 64

struct log_world {
    struct lsm *lsm;
    struct mvcc_shared *shared;
    struct mvcc *mvcc;
    struct member_set first;
    struct membership membership;
    struct once once;
    struct entry entries[LOG_ENTRIES_MAX + 1]; /* by index */
    struct proposal *payloads[LOG_ENTRIES_MAX + 1];
    uint64_t last_index;
    struct raft raft;
    void *raft_memory;
};

static inline struct member world_member(uint64_t id, bool learner)
{
    struct member member = {.id = id, .learner = learner};
    char reason[256], text[64];
    snprintf(text, sizeof(text), "http://127.0.0.1:%llu", (unsigned long long)id);
    cr_assert_eq(config_url_parse(&member.peer.url[0], text, reason, sizeof(reason)), 0);
    member.peer.count = 1;
    return member;
}

static inline void world_attach(struct log_world *world)
{
    struct lsm_options options = {0};
    world->shared = mvcc_shared_create();
    mvcc_configure_lsm(world->shared, &options);
    fake_lsm_set_filter(world->lsm, options.filter);
    cr_assert_eq(mvcc_open(&(struct mvcc_options){.shared = world->shared,
                                                  .lsm = world->lsm,
                                                  .lsm_reader = fake_lsm_reader(world->lsm)},
                           &world->mvcc),
                 0);
    cr_assert_eq(once_load(&world->once, world->mvcc), 0);
    cr_assert_eq(membership_load(&world->membership, world->mvcc, &world->first), 0);
}

static inline void world_detach(struct log_world *world)
{
    membership_deinit(&world->membership);
    mvcc_close(world->mvcc);
    mvcc_shared_destroy(world->shared);
    free(world->raft_memory);
    world->raft_memory = NULL;
}

/* Voters 1 .. `voters`; heap, as it is large. */
static inline struct log_world *world_create(uint32_t voters)
{
    struct log_world *world = calloc(1, sizeof(*world));
    world->lsm = fake_lsm_create(1);
    for (uint32_t id = 1; id <= voters; id++) {
        struct member member = world_member(id, false);
        cr_assert_eq(member_insert(&world->first, &member), 0);
    }
    world_attach(world);
    return world;
}

static inline void world_destroy(struct log_world *world)
{
    world_detach(world);
    for (uint64_t i = 1; i <= world->last_index; i++)
        if (world->payloads[i] != NULL)
            proposal_destroy(world->payloads[i]);
    fake_lsm_destroy(world->lsm);
    free(world);
}

static inline uint64_t world_log(struct log_world *world, struct proposal *payload, uint32_t type)
{
    uint64_t index = ++world->last_index;
    cr_assert_leq(index, LOG_ENTRIES_MAX);
    world->payloads[index] = payload;
    world->entries[index] = (struct entry){.index = index, .term = 1, .type = type};
    if (payload != NULL) {
        world->entries[index].payload = payload->payload;
        world->entries[index].payload_bytes = payload->payload_bytes;
        world->entries[index].payload_crc = payload->payload_crc;
    }
    return index;
}

static inline enum raft_change_kind world_change_kind(enum request_kind kind, bool learner)
{
    if (kind == REQUEST_MEMBER_REMOVE)
        return RAFT_CHANGE_REMOVE;
    return learner ? RAFT_CHANGE_ADD_LEARNER : RAFT_CHANGE_ADD_VOTER;
}

/* A change of the members, as the payload of an entry. */
static inline struct proposal *world_change(uint64_t origin, uint64_t sequence,
                                            enum request_kind kind, uint64_t id, bool learner)
{
    uint8_t body[MEMBER_BYTES_MAX];
    struct member member = world_member(id, learner);
    struct request request = {.kind = kind,
                              .origin = origin,
                              .stream = REQUEST_STREAM_MEMBERS,
                              .sequence = sequence,
                              .body = bytes_make(body, member_encode(&member, body))};
    struct raft_config_change change = {
        .count = 1, .changes = {{.kind = world_change_kind(kind, learner), .id = id}}};
    return proposal_create_change(0, &change, &request);
}

static inline uint64_t world_log_change(struct log_world *world, uint64_t origin, uint64_t sequence,
                                        enum request_kind kind, uint64_t id, bool learner)
{
    return world_log(world, world_change(origin, sequence, kind, id, learner), ENTRY_CONFIG_CHANGE);
}

static inline int world_lookup(void *context, uint64_t index, struct entry *entry)
{
    struct log_world *world = context;
    if (index > world->last_index)
        return ERR_UNAVAILABLE;
    *entry = world->entries[index];
    return 0;
}

/* Consensus starts on all entries, of which the state machine contains some. */
static inline void world_start(struct log_world *world, uint64_t id)
{
    struct raft_options options;
    struct raft_ready ready;
    raft_options_default(&options);
    options.id = id;
    options.window_entries = 64;
    struct raft_storage storage = {.context = world, .lookup = world_lookup};
    struct raft_start start = {.hard_state = {.term = 1, .commit = world->last_index},
                               .last_index = world->last_index,
                               .last_term = world->last_index > 0,
                               .applied_index = mvcc_applied_index(world->mvcc),
                               .config = world->membership.config};
    world->raft_memory = aligned_alloc(64, u64_round_up(raft_memory_bytes(&options), 64));
    cr_assert_eq(raft_init(&world->raft, &options, &storage, &start, world->raft_memory, 0), 0);
    while (raft_ready(&world->raft, &ready))
        ;
}

/* Everything that was not flushed is gone. */
static inline void world_restart(struct log_world *world, bool flushed)
{
    if (flushed)
        fake_lsm_flush(world->lsm);
    world_detach(world);
    fake_lsm_crash(world->lsm);
    world_attach(world);
}

#endif
