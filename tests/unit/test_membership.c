/* server/membership.h: the rules of changes; the member list over entries, crashes and copies. */
#include "tests/unit/fake_lsm.c"
#include "tests/unit/log_world.h"

/* ---- rules ---------------------------------------------------------------------------------- */

Test(membership, a_change_is_checked_against_the_members_that_there_are)
{
    static const struct {
        const char *why;
        enum request_kind kind;
        uint64_t id;
        uint64_t port; /* 0: no address */
        int want;
    } cases[] = {
        {"a new member", REQUEST_MEMBER_ADD, 9, 9, 0},
        {"an id that is there", REQUEST_MEMBER_ADD, 2, 9, ERR_MEMBER_EXISTS},
        {"an address that is there", REQUEST_MEMBER_ADD, 9, 2, ERR_PEER_URL_EXISTS},
        {"no address", REQUEST_MEMBER_ADD, 9, 0, ERR_MEMBER_BAD_URLS},
        {"an id that was removed", REQUEST_MEMBER_ADD, 7, 9, ERR_MEMBER_NOT_FOUND},
        {"a member goes", REQUEST_MEMBER_REMOVE, 2, 0, 0},
        {"one that is none", REQUEST_MEMBER_REMOVE, 9, 0, ERR_MEMBER_NOT_FOUND},
        {"one that went", REQUEST_MEMBER_REMOVE, 7, 0, ERR_MEMBER_NOT_FOUND},
        {"a learner votes", REQUEST_MEMBER_PROMOTE, 3, 0, 0},
        {"a voter does already", REQUEST_MEMBER_PROMOTE, 2, 0, ERR_NOT_A_LEARNER},
        {"nobody", REQUEST_MEMBER_PROMOTE, 9, 0, ERR_MEMBER_NOT_FOUND},
        {"a new address", REQUEST_MEMBER_UPDATE, 2, 9, 0},
        {"its own", REQUEST_MEMBER_UPDATE, 2, 2, 0},
        {"another's", REQUEST_MEMBER_UPDATE, 2, 1, ERR_PEER_URL_EXISTS},
        {"none", REQUEST_MEMBER_UPDATE, 2, 0, ERR_MEMBER_BAD_URLS},
        {"of nobody", REQUEST_MEMBER_UPDATE, 9, 9, ERR_MEMBER_NOT_FOUND},
        {"a name", REQUEST_MEMBER_PUBLISH, 1, 0, 0},
        {"a name of nobody", REQUEST_MEMBER_PUBLISH, 7, 0, ERR_MEMBER_NOT_FOUND},
    };
    struct log_world *world = world_create(2);
    uint64_t removed[] = {7};
    struct member learner = world_member(3, true);
    cr_assert_eq(member_insert(&world->membership.set, &learner), 0);
    world->membership.removed = removed;
    world->membership.removed_count = 1;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct member asked = world_member(cases[i].port, false);
        asked.id = cases[i].id;
        asked.peer.count = cases[i].port != 0;
        cr_expect_eq(membership_check(&world->membership, cases[i].kind, &asked), cases[i].want,
                     "%s", cases[i].why);
    }
    world->membership.removed = NULL;
    world->membership.removed_count = 0;
    world_destroy(world);
}

Test(membership, as_many_as_fit)
{
    struct log_world *world = world_create(MEMBERS_MAX - 1);
    struct member last = world_member(100, false), more = world_member(101, false);
    cr_expect_eq(membership_check(&world->membership, REQUEST_MEMBER_ADD, &last), 0);
    cr_assert_eq(member_insert(&world->membership.set, &last), 0);
    cr_expect_eq(membership_check(&world->membership, REQUEST_MEMBER_ADD, &more), ERR_LIMIT);
    world_destroy(world);
}

/* ---- entries -------------------------------------------------------------------------------- */

static int apply_at(struct log_world *world, uint64_t index)
{
    return membership_apply_config(&world->membership, world->mvcc, &world->raft,
                                   &world->entries[index]);
}

static void commit(struct log_world *world)
{
    cr_assert_eq(membership_store_first(&world->membership, world->mvcc), 0);
    cr_assert_eq(mvcc_commit(world->mvcc, world->last_index, 1), 0);
}

Test(membership, quorum_and_list_change_at_the_same_entry_and_come_back)
{
    struct log_world *world = world_create(2);
    world_log_change(world, 1, 1, REQUEST_MEMBER_ADD, 3, true);
    world_log_change(world, 1, 2, REQUEST_MEMBER_PROMOTE, 3, false);
    world_log_change(world, 1, 3, REQUEST_MEMBER_REMOVE, 2, false);
    world_start(world, 1);
    uint64_t version = world->membership.version;
    for (uint64_t index = 1; index <= 3; index++) {
        cr_assert_eq(apply_at(world, index), 0);
        cr_expect_eq(world->membership.config_index, index);
        cr_expect(raft_config_equal(&world->membership.config, &world->raft.config), "M3");
        cr_expect_gt(world->membership.version, version);
        version = world->membership.version;
    }
    commit(world);
    for (int flushed = 1; flushed >= 0; flushed--) { /* the second time nothing needs to be */
        world_restart(world, flushed);
        cr_expect_eq(world->membership.set.count, 2);
        cr_expect_null(member_find(&world->membership.set, 2));
        cr_expect_not(member_find(&world->membership.set, 3)->learner);
        cr_expect(membership_is_removed(&world->membership, 2));
        cr_expect_eq(world->membership.config_index, 3);
        cr_expect_eq(world->membership.config.voters.count, 2);
        cr_expect(world->membership.stored);
    }
    world_destroy(world);
}

/* A refused change leaves everything as it was, also the index that its configuration came from. */
Test(membership, a_refused_change_changes_nothing)
{
    struct log_world *world = world_create(2);
    world_log_change(world, 1, 1, REQUEST_MEMBER_ADD, 2, false);
    world_log_change(world, 1, 2, REQUEST_MEMBER_REMOVE, 8, false);
    world_log(world, NULL, ENTRY_CONFIG_CHANGE);
    struct proposal *twisted = world_change(1, 3, REQUEST_MEMBER_REMOVE, 1, false);
    world_log(world, twisted, ENTRY_CONFIG_CHANGE);
    struct proposal *broken = world_change(1, 4, REQUEST_MEMBER_REMOVE, 1, false);
    world_log(world, broken, ENTRY_CONFIG_CHANGE);
    struct raft_config_change change;
    cr_assert_eq(
        raft_config_change_decode(bytes_make(twisted->payload, twisted->payload_bytes), &change),
        0);
    change.changes[0].id = 2; /* the request says 1 */
    struct bytes context = bytes_make(malloc(change.context.size), change.context.size);
    memcpy((void *)context.data, change.context.data, context.size);
    change.context = context;
    raft_config_change_encode(&change, twisted->payload);
    free((void *)context.data);
    struct proposal *joint = world_change(1, 5, REQUEST_MEMBER_REMOVE, 2, false);
    cr_assert_eq(
        raft_config_change_decode(bytes_make(joint->payload, joint->payload_bytes), &change), 0);
    change.transition = RAFT_TRANSITION_EXPLICIT; /* it would stay a member of the outgoing half */
    context = bytes_make(malloc(change.context.size), change.context.size);
    memcpy((void *)context.data, change.context.data, context.size);
    change.context = context;
    raft_config_change_encode(&change, joint->payload);
    free((void *)context.data);
    world_log(world, joint, ENTRY_CONFIG_CHANGE);
    world->entries[5].payload_bytes--; /* of `broken` */
    world_start(world, 1);
    static const int wants[] = {ERR_MEMBER_EXISTS, ERR_MEMBER_NOT_FOUND, ERR_CONFIG,
                                ERR_MALFORMED,     ERR_MALFORMED,        ERR_MALFORMED};
    for (uint64_t index = 1; index <= 6; index++) {
        cr_expect_eq(apply_at(world, index), wants[index - 1], "entry %lu", (unsigned long)index);
        cr_expect_eq(world->membership.config_index, 0, "entry %lu", (unsigned long)index);
        cr_expect_eq(world->membership.set.count, 2);
        cr_expect_eq(world->raft.config.voters.count, 2);
    }
    world_destroy(world);
}

Test(membership, a_removed_member_never_comes_back)
{
    struct log_world *world = world_create(3);
    world_log_change(world, 1, 1, REQUEST_MEMBER_REMOVE, 3, false);
    world_log_change(world, 1, 2, REQUEST_MEMBER_ADD, 3, false);
    world_start(world, 1);
    cr_assert_eq(apply_at(world, 1), 0);
    int error = apply_at(world, 2);
    cr_expect_eq(error, ERR_MEMBER_NOT_FOUND);
    cr_expect_eq(err_action(error), ERR_ACTION_CLIENT, "or every member would stop at it");
    world_destroy(world);
}

Test(membership, what_a_member_tells_of_itself_stays)
{
    struct log_world *world = world_create(2);
    uint8_t body[MEMBER_BYTES_MAX];
    struct member told = world_member(2, false), moved = world_member(2, false);
    snprintf(told.name, sizeof(told.name), "two");
    told.client = world_member(22, false).peer;
    moved.peer = world_member(33, false).peer;
    world->last_index = 1;
    struct request publish = {.kind = REQUEST_MEMBER_PUBLISH,
                              .body = bytes_make(body, member_encode(&told, body))};
    cr_assert_eq(membership_apply(&world->membership, world->mvcc, &publish), 0);
    struct request update = {.kind = REQUEST_MEMBER_UPDATE,
                             .body = bytes_make(body, member_encode(&moved, body))};
    cr_assert_eq(membership_apply(&world->membership, world->mvcc, &update), 0);
    commit(world);
    world->last_index = 0;
    world_restart(world, true);
    const struct member *known = member_find(&world->membership.set, 2);
    cr_expect_str_eq(known->name, "two");
    cr_expect_str_eq(known->client.url[0].text, "http://127.0.0.1:22");
    cr_expect_str_eq(known->peer.url[0].text, "http://127.0.0.1:33");
    world_destroy(world);
}

/* The first directory that a member names itself from: another one came after it was lost. */
Test(membership, the_first_life_that_is_told_stays)
{
    static const struct {
        const char *why, *name;
        uint64_t life;
        int want;
        uint64_t life_then;
    } tells[] = {
        {"of a version without lives", "two", 0, 0, 0},
        {"upgraded", "two", 22, 0, 22},
        {"with another name", "second", 22, 0, 22},
        {"from another directory", "stranger", 23, ERR_MEMBER_EXISTS, 22},
        {"of a version without lives, late", "two", 0, ERR_MEMBER_EXISTS, 22},
    };
    struct log_world *world = world_create(2);
    world->last_index = 1;
    for (size_t i = 0; i < ARRAY_COUNT(tells); i++) {
        uint8_t body[MEMBER_BYTES_MAX];
        struct member told = world_member(2, false);
        told.life = tells[i].life;
        snprintf(told.name, sizeof(told.name), "%s", tells[i].name);
        struct request publish = {.kind = REQUEST_MEMBER_PUBLISH,
                                  .body = bytes_make(body, member_encode(&told, body))};
        int error = membership_apply(&world->membership, world->mvcc, &publish);
        cr_expect_eq(error, tells[i].want, "%s", tells[i].why);
        cr_expect(error == 0 || err_action(error) == ERR_ACTION_CLIENT,
                  "or every member would stop at it");
        cr_expect_eq(member_find(&world->membership.set, 2)->life, tells[i].life_then, "%s",
                     tells[i].why);
    }
    struct member moved = world_member(2, false);
    uint8_t body[MEMBER_BYTES_MAX];
    moved.peer = world_member(33, false).peer;
    struct request update = {.kind = REQUEST_MEMBER_UPDATE,
                             .body = bytes_make(body, member_encode(&moved, body))};
    cr_assert_eq(membership_apply(&world->membership, world->mvcc, &update), 0);
    commit(world);
    world->last_index = 0;
    world_restart(world, true);
    cr_expect_eq(member_find(&world->membership.set, 2)->life, 22, "in snapshots too");
    cr_expect_str_eq(member_find(&world->membership.set, 2)->name, "second");
    world_destroy(world);
}

/* What was not flushed is replayed, from the first members on. */
Test(membership, before_the_first_flush_the_first_members_count)
{
    struct log_world *world = world_create(1);
    world_log_change(world, 1, 1, REQUEST_MEMBER_ADD, 2, false);
    world_start(world, 1);
    cr_assert_eq(apply_at(world, 1), 0);
    commit(world);
    world_restart(world, false);
    cr_expect_eq(world->membership.set.count, 1);
    cr_expect_not(world->membership.stored);
    world_start(world, 1);
    cr_assert_eq(apply_at(world, 1), 0);
    cr_expect_eq(world->membership.set.count, 2);
    world_destroy(world);
}
