/* server/force_new_cluster.h: what it writes behind any log, that a crash between its steps is
 * mended by the next start, and that applying the log leaves one voter. */
#include "tests/unit/fake_lsm.c"
#include "tests/unit/log_world.h"

#include "server/force_new_cluster.h"
#include "server/log_role.h"
#include "server/member_request.h"
#include "server/node_private.h"

enum { SELF = 2 };

static struct log_world *world;
static struct node *node;
static struct wal_recovered recovered;
static uint32_t appends, appends_max; /* a crash: later ones are lost */

/* ---- in place of the log core --------------------------------------------------------------- */

int64_t log_role_read(struct node *of, uint64_t first, uint64_t last, uint64_t bytes_max,
                      struct log_copy *copy)
{
    (void)of;
    (void)bytes_max;
    uint32_t count = (uint32_t)u64_min(2, last - first + 1); /* in pieces */
    *copy =
        (struct log_copy){.entries = malloc(count * sizeof(struct entry)), .entry_count = count};
    memcpy(copy->entries, &world->entries[first], count * sizeof(struct entry));
    return count;
}

void log_copy_destroy(struct log_copy *copy)
{
    free(copy->entries);
    *copy = (struct log_copy){0};
}

static struct hard_state stored;

void log_role_append(struct node *of, const struct entry *entries, uint32_t entry_count,
                     const struct hard_state *hard_state)
{
    (void)of;
    if (++appends > appends_max)
        return;
    for (uint32_t i = 0; i < entry_count; i++) {
        struct entry *entry = &world->entries[++world->last_index];
        *entry = entries[i];
        cr_expect_eq(entry->index, world->last_index);
        if (entry->payload_bytes == 0)
            continue;
        struct proposal *copy = proposal_create(0, entry->payload_bytes - REQUEST_HEADER_BYTES);
        memcpy(copy->payload, entry->payload, entry->payload_bytes);
        entry->payload = copy->payload;
        world->payloads[entry->index] = copy;
    }
    stored = *hard_state;
    stored.commit = u64_min(stored.commit, world->last_index - entry_count); /* as the log does */
}

/* ---- a directory and its starts ------------------------------------------------------------- */

static void begin(uint32_t voters)
{
    node = aligned_alloc(CACHE_LINE_BYTES, u64_round_up(sizeof(*node), CACHE_LINE_BYTES));
    memset(node, 0, sizeof(*node));
    world = world_create(voters);
    node->identity.member_id = SELF;
    stored = (struct hard_state){.term = 1, .vote = 1};
    appends_max = UINT32_MAX;
}

/* Nothing was flushed since the beginning. */
static int force(void)
{
    appends = 0;
    node->identity.incarnation++;
    node->failure[0] = '\0';
    node->mvcc = world->mvcc;
    cr_assert_eq(membership_copy(&node->membership, &world->membership), 0);
    node->once = world->once;
    node->member_requests = member_requests_create(node);
    recovered = (struct wal_recovered){.hard_state = stored,
                                       .first_index = 1,
                                       .last_index = world->last_index,
                                       .last_term = world->last_index > 0 ? stored.term : 0};
    int error = force_new_cluster(node, &recovered);
    member_requests_destroy(node->member_requests);
    membership_deinit(&node->membership);
    return error;
}

static void expect_only_self(const char *why)
{
    cr_expect_eq(recovered.last_index, world->last_index, "%s", why);
    cr_expect_eq(stored.commit, world->last_index, "%s: all of it is committed", why);
    cr_expect_eq(recovered.hard_state.commit, world->last_index, "%s", why);
    cr_expect_eq(recovered.hard_state.term, stored.term, "%s", why);
    world_start(world, SELF);
    for (uint64_t index = 1; index <= world->last_index; index++) {
        struct raft_config_change change;
        struct request request;
        const struct entry *entry = &world->entries[index];
        bool asked = membership_decode_change(entry, &change, &request) == 0;
        if (asked && (member_find(&world->membership.set, request.origin) == NULL ||
                      !once_admit(&world->once, &request)))
            continue;
        int error = membership_apply_config(&world->membership, world->mvcc, &world->raft, entry);
        cr_expect(error == 0 || entry->term < stored.term, "%s: entry %lu: %s", why,
                  (unsigned long)index, err_text(error));
    }
    cr_expect_eq(world->membership.set.count, 1, "%s", why);
    cr_expect_eq(world->membership.set.members[0].id, SELF, "%s", why);
    cr_expect_not(world->membership.set.members[0].learner, "%s", why);
    cr_expect_eq(world->raft.config.voters.count, 1, "%s", why);
    cr_expect_eq(world->raft.config.outgoing.count, 0, "%s", why);
}

static void end(void)
{
    world_destroy(world);
    free(node);
}

/* ---- tests ---------------------------------------------------------------------------------- */

struct logged {
    uint64_t origin, sequence;
    enum request_kind kind;
    uint64_t id;
    bool learner;
};

static const struct {
    const char *why;
    struct logged log[6];
    uint32_t voters, log_count, changes; /* that are written */
} cases[] = {
    {"three voters and no log", {{0}}, 3, 0, 2},
    {"changes that are not applied",
     {{1, 1, REQUEST_MEMBER_ADD, 8, true},
      {1, 2, REQUEST_MEMBER_PROMOTE, 8, false},
      {1, 3, REQUEST_MEMBER_REMOVE, 1, false}},
     3,
     3,
     2},
    {"it was a learner",
     {{1, 1, REQUEST_MEMBER_REMOVE, 3, false},
      {1, 2, REQUEST_MEMBER_ADD, 9, true},
      {1, 3, REQUEST_MEMBER_REMOVE, 9, false}},
     3,
     3,
     1},
    {"a copy, and one that was overtaken, do not count",
     {{1, 2, REQUEST_MEMBER_REMOVE, 3, false},
      {1, 2, REQUEST_MEMBER_REMOVE, 3, false},
      {1, 1, REQUEST_MEMBER_REMOVE, 1, false}},
     3,
     3,
     1},
    {"nor does one of a removed member",
     {{1, 1, REQUEST_MEMBER_REMOVE, 3, false}, {3, 9, REQUEST_MEMBER_REMOVE, 1, false}},
     3,
     2,
     1},
};

static void log_all(const struct logged *logged, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        world_log_change(world, logged[i].origin, logged[i].sequence, logged[i].kind, logged[i].id,
                         logged[i].learner);
}

Test(force_new_cluster, whatever_the_log_holds_one_voter_is_left)
{
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        begin(cases[i].voters);
        log_all(cases[i].log, cases[i].log_count);
        cr_assert_eq(force(), 0, "%s", cases[i].why);
        cr_expect_eq(world->last_index, cases[i].log_count + cases[i].changes, "%s", cases[i].why);
        cr_expect_eq(stored.term, 2);
        cr_expect_eq(stored.vote, SELF);
        expect_only_self(cases[i].why);
        end();
    }
}

Test(force_new_cluster, a_learner_becomes_the_voter)
{
    begin(1);
    world_log_change(world, 1, 1, REQUEST_MEMBER_ADD, SELF, true);
    cr_assert_eq(force(), 0);
    cr_expect_eq(world->last_index, 3, "promoted, then the other goes");
    expect_only_self("a learner");
    end();
}

Test(force_new_cluster, a_joint_phase_ends_first)
{
    begin(3);
    world->membership.config.outgoing = world->membership.config.voters;
    cr_assert_eq(force(), 0);
    cr_expect_eq(world->entries[1].payload_bytes, 0);
    expect_only_self("a joint phase");
    end();
}

/* The first write is there, the second not: the member waits for a quorum, and the next start with
 * the flag finds nothing more to remove. */
Test(force_new_cluster, a_crash_between_its_steps)
{
    for (uint32_t kept = 0; kept <= 2; kept++) {
        begin(3);
        log_all(cases[1].log, cases[1].log_count);
        appends_max = kept;
        cr_assert_eq(force(), 0);
        cr_expect_eq(appends, 2);
        cr_expect_eq(world->last_index, cases[1].log_count + (kept > 0 ? 2u : 0u));
        cr_expect_eq(stored.commit == world->last_index, kept == 2);
        appends_max = UINT32_MAX;
        cr_assert_eq(force(), 0);
        cr_expect_eq(world->last_index, cases[1].log_count + 2);
        expect_only_self("after a crash");
        end();
    }
}

Test(force_new_cluster, a_second_time_changes_nothing)
{
    begin(3);
    cr_assert_eq(force(), 0);
    uint64_t last = world->last_index, term = stored.term;
    cr_assert_eq(force(), 0);
    cr_expect_eq(world->last_index, last);
    cr_expect_eq(stored.term, term);
    expect_only_self("twice");
    end();
}

Test(force_new_cluster, a_removed_member_has_no_cluster)
{
    begin(3);
    world_log_change(world, 1, 1, REQUEST_MEMBER_REMOVE, SELF, false);
    cr_expect_eq(force(), ERR_CONFIG);
    cr_expect_eq(appends, 0);
    cr_expect(strstr(node->failure, "was removed from its cluster") != NULL);
    end();
}

/* What the member asks for later must not look like a copy of what was forced. */
Test(force_new_cluster, its_requests_count_on)
{
    begin(3);
    cr_assert_eq(force(), 0);
    struct raft_config_change change;
    struct request request;
    cr_assert_eq(membership_decode_change(&world->entries[2], &change, &request), 0);
    node->member_requests = member_requests_create(node);
    cr_expect_geq(request.sequence, node->member_requests->sequence + 2);
    member_requests_destroy(node->member_requests);
    end();
}
