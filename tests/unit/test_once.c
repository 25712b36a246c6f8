/* server/once.h: of two copies of a request one is executed, over crashes and removals. */
#include "tests/unit/fake_lsm.c"
#include "tests/unit/log_world.h"

static struct request of(uint64_t origin, uint16_t stream, uint64_t sequence)
{
    return (struct request){
        .kind = REQUEST_PUT, .origin = origin, .stream = stream, .sequence = sequence};
}

static bool admit(struct once *once, uint64_t origin, uint16_t stream, uint64_t sequence)
{
    struct request request = of(origin, stream, sequence);
    bool is_new = once_is_new(once, &request);
    bool admitted = once_admit(once, &request);
    cr_expect_eq(is_new, admitted, "who asks before learns the same");
    return admitted;
}

Test(once, of_each_stream_only_what_is_higher)
{
    static const struct {
        const char *why;
        uint64_t origin, sequence;
        uint16_t stream;
        bool want;
    } steps[] = {
        {"the first", 1, 5, 0, true},
        {"its copy", 1, 5, 0, false},
        {"an older one that was overtaken", 1, 4, 0, false},
        {"the next", 1, 6, 0, true},
        {"numbers may be left out", 1, 60, 0, true},
        {"another stream", 1, 5, 1, true},
        {"that of the members", 1, 5, REQUEST_STREAM_MEMBERS, true},
        {"another member", 2, 5, 0, true},
        {"its copy, too", 2, 5, 0, false},
        {"a later start of the first", 1, UINT64_C(2) << REQUEST_SEQUENCE_START_BITS, 0, true},
        {"what its earlier start left behind", 1, 61, 0, false},
    };
    static struct once once;
    for (size_t i = 0; i < ARRAY_COUNT(steps); i++)
        cr_expect_eq(admit(&once, steps[i].origin, steps[i].stream, steps[i].sequence),
                     steps[i].want, "%s", steps[i].why);
    cr_expect_eq(once.count, 4);
}

Test(once, it_is_part_of_the_state_machine)
{
    struct log_world *world = world_create(3);
    cr_assert(admit(&world->once, 1, 0, 7) && admit(&world->once, 2, 3, 9));
    cr_assert_eq(once_store(&world->once, world->mvcc), 0);
    cr_assert_eq(mvcc_commit(world->mvcc, 1, 1), 0);
    world_restart(world, true);
    cr_expect_not(admit(&world->once, 1, 0, 7));
    cr_expect_not(admit(&world->once, 2, 3, 9));
    cr_assert(admit(&world->once, 1, 0, 8));
    cr_assert_eq(once_store(&world->once, world->mvcc), 0);
    cr_assert_eq(mvcc_commit(world->mvcc, 2, 1), 0);
    world_restart(world, false);
    cr_expect(admit(&world->once, 1, 0, 8), "a batch that is gone was not executed");
    world_destroy(world);
}

Test(once, a_batch_stores_what_it_touched_once)
{
    struct log_world *world = world_create(1);
    for (uint64_t i = 1; i <= 100; i++)
        cr_assert(admit(&world->once, 1, (uint16_t)(i % 2), i));
    cr_assert_eq(once_store(&world->once, world->mvcc), 0);
    uint64_t rows = fake_lsm_rows(world->lsm);
    cr_assert_eq(once_store(&world->once, world->mvcc), 0);
    cr_assert_eq(mvcc_commit(world->mvcc, 1, 1), 0);
    cr_expect_leq(fake_lsm_rows(world->lsm), rows + 4, "two streams, and what a commit adds");
    world_destroy(world);
}

/* Members come and go for years; what is kept is of those that are there. */
Test(once, memory_is_bounded_by_the_members)
{
    struct log_world *world = world_create(1);
    for (uint64_t id = 2; id < 2000; id++) {
        for (uint16_t stream = 0; stream < CONFIG_CORES_MAX; stream++)
            cr_assert(admit(&world->once, id, stream, 1));
        cr_assert_eq(once_store(&world->once, world->mvcc), 0);
        cr_assert_eq(once_forget(&world->once, world->mvcc, id), 0);
        cr_assert_eq(mvcc_commit(world->mvcc, id, 1), 0);
        if (id % 500 == 0)
            fake_lsm_flush(world->lsm), fake_lsm_merge(world->lsm, 0, UINT64_MAX);
    }
    cr_expect_eq(world->once.count, 0);
    world_restart(world, true);
    cr_expect_eq(world->once.count, 0);
    world_destroy(world);
}

Test(once, of_a_removed_member_only_its_own_is_forgotten)
{
    struct log_world *world = world_create(3);
    cr_assert(admit(&world->once, 1, 0, 3) && admit(&world->once, 2, 0, 3) &&
              admit(&world->once, 2, 1, 3) && admit(&world->once, 3, 0, 3));
    cr_assert_eq(once_forget(&world->once, world->mvcc, 2), 0);
    cr_assert_eq(once_store(&world->once, world->mvcc), 0);
    cr_assert_eq(mvcc_commit(world->mvcc, 1, 1), 0);
    for (int restarted = 0; restarted < 2; restarted++) {
        cr_expect_eq(world->once.count, 2);
        cr_expect_not(admit(&world->once, 1, 0, 3));
        cr_expect_not(admit(&world->once, 3, 0, 3));
        world_restart(world, true);
    }
    world_destroy(world);
}
