/* server/apply.h: what of the log is executed, and by whom it was asked for. */
#include "tests/unit/fake_lsm.c"
#include "tests/unit/heap_bytes.h"
#include "tests/unit/log_world.h"
#include "tests/unit/lone_core.h"

#include "server/apply.h"
#include "server/kv_codec.h"
#include "server/node_private.h"
#include "server/raft_driver.h"

static struct log_world *world;
static struct node *node;
static struct raft_driver *driver;
static struct apply *apply;
static struct core *core;
static struct mesh *mesh;
static int home_error[8];
static uint32_t home_count;

/* ---- in place of the driver and the log core ------------------------------------------------ */

void raft_driver_applied(struct raft_driver *raft_driver, uint64_t index)
{
    raft_applied(&raft_driver->raft, index);
}

int64_t log_role_read(struct node *of, uint64_t first, uint64_t last, uint64_t bytes_max,
                      struct log_copy *copy)
{
    (void)of;
    (void)bytes_max;
    *copy = (struct log_copy){.entries = malloc((last - first + 1) * sizeof(struct entry)),
                              .entry_count = (uint32_t)(last - first + 1)};
    memcpy(copy->entries, &world->entries[first], copy->entry_count * sizeof(struct entry));
    return copy->entry_count;
}

void log_copy_destroy(struct log_copy *copy)
{
    free(copy->entries);
    *copy = (struct log_copy){0};
}

static void come_home(struct proposal *proposal)
{
    home_error[home_count++] = proposal->error;
    proposal_destroy(proposal);
}

/* ---- one run over the log ------------------------------------------------------------------- */

static void begin(uint32_t voters)
{
    lone_core_create(&mesh, &core);
    node = aligned_alloc(CACHE_LINE_BYTES, u64_round_up(sizeof(*node), CACHE_LINE_BYTES));
    memset(node, 0, sizeof(*node));
    driver = calloc(1, sizeof(*driver));
    pending_init(&driver->pending, core);
    world = world_create(voters);
    home_count = 0;
}

static struct proposal *request_of(enum request_kind kind, uint64_t origin, uint64_t sequence,
                                   struct bytes body)
{
    struct request request = {.kind = kind, .origin = origin, .sequence = sequence, .body = body};
    struct proposal *proposal = proposal_create(0, body.size);
    proposal_fill(proposal, &request);
    return proposal;
}

static struct proposal *put(uint64_t origin, uint64_t sequence)
{
    static const uint8_t body[] = {0x0a, 1, 'k', 0x12, 1, 'v'}; /* key "k", value "v" */
    return request_of(REQUEST_PUT, origin, sequence, bytes_make(body, sizeof(body)));
}

static void log_put(uint64_t origin, uint64_t sequence)
{
    world_log(world, put(origin, sequence), ENTRY_NORMAL);
}

static void stop(void *argument)
{
    bool *stopped = argument;
    apply_stop(apply);
    *stopped = true;
}

/* Hands the log to the loop of member `self`. */
static void start(uint64_t self)
{
    node->identity.member_id = self;
    node->raft = driver;
    node->mvcc = world->mvcc;
    node->mvcc_shared = world->shared;
    node->lsm = world->lsm;
    node->membership = world->membership;
    node->once = world->once;
    world_start(world, self);
    driver->raft = world->raft;
    cr_assert_eq(apply_start(node, driver, core, 0, &apply), 0);
    apply_extend(apply, world->last_index);
}

static void finish(void)
{
    bool stopped = false;
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, stop, &stopped), 0);
    while (!stopped)
        (void)core_turn(core, false);
    free(apply);
    world->membership = node->membership;
    world->once = node->once;
}

/* Applies the log as member `self`. Returns how many writes it made. */
static int64_t run(uint64_t self)
{
    int64_t before = mvcc_revision(world->mvcc);
    start(self);
    while (apply_index(apply) < world->last_index)
        (void)core_turn(core, false);
    finish();
    return mvcc_revision(node->mvcc) - before;
}

static void end(void)
{
    pending_expire(&driver->pending, UINT64_MAX / 2);
    world_destroy(world);
    free(driver);
    free(node);
    lone_core_destroy(mesh, core);
}

/* ---- who has a say -------------------------------------------------------------------------- */

Test(apply, two_copies_are_executed_once)
{
    begin(3);
    log_put(2, 1);
    log_put(3, 1);
    log_put(2, 1);
    log_put(2, 2);
    cr_expect_eq(run(1), 3);
    end();
}

/* The member took the request, sent it to two leaders, and was removed between the copies: what was
 * executed of it is forgotten by then, but so is the member. */
Test(apply, a_copy_behind_the_removal_of_its_member_is_not_executed)
{
    begin(3);
    log_put(2, 1);
    world_log_change(world, 1, 1, REQUEST_MEMBER_REMOVE, 2, false);
    log_put(2, 1);
    log_put(2, 2);
    log_put(3, 1);
    cr_expect_eq(run(1), 2);
    cr_expect_eq(node->once.count, 2, "streams of 1 and 3");
    end();
}

Test(apply, who_is_no_member_yet_has_no_say)
{
    begin(2);
    log_put(3, 1);
    world_log_change(world, 1, 1, REQUEST_MEMBER_ADD, 3, true);
    log_put(3, 2);
    cr_expect_eq(run(1), 1);
    end();
}

Test(apply, a_removed_member_tells_its_clients_that_nothing_happened)
{
    begin(3);
    log_put(2, 1);
    world_log_change(world, 1, 1, REQUEST_MEMBER_REMOVE, 2, false);
    log_put(2, 2);
    for (uint64_t sequence = 1; sequence <= 2; sequence++) {
        struct proposal *waits = put(2, sequence);
        waits->done = come_home;
        pending_add(&driver->pending, waits);
        pending_pop(&driver->pending, waits); /* forwarded */
    }
    cr_expect_eq(run(2), 1);
    cr_assert_eq(home_count, 2);
    cr_expect_eq(home_error[0], 0);
    cr_expect_eq(home_error[1], ERR_STOPPED);
    end();
}

/* Every member would stop at an entry that only one of them could have kept out. */
Test(apply, a_change_that_is_not_possible_stops_nobody)
{
    begin(1);
    world_log_change(world, 1, 1, REQUEST_MEMBER_REMOVE, 1, false); /* no voter would be left */
    struct proposal *broken = world_change(1, 2, REQUEST_MEMBER_ADD, 4, true);
    uint8_t *address = memmem(broken->payload, broken->payload_bytes, "http", 4);
    memcpy(address, "junk", 4);
    world_log(world, broken, ENTRY_CONFIG_CHANGE);
    log_put(1, 1);
    cr_expect_eq(run(1), 1);
    cr_expect_eq(node->membership.set.count, 1);
    end();
}

/* ---- what a request may do to the member ---------------------------------------------------- */

/* A client may raise it at any moment; requests that were admitted before stand behind it in the
 * log, and every member would stop at the first of them, for good. */
Test(apply, a_write_behind_the_alarm_that_forbids_it_is_refused)
{
    begin(1);
    uint8_t body[64];
    struct alarm_request raise = {.action = ALARM_ACTIVATE, .member = 1, .kind = ALARM_CORRUPT};
    size_t bytes = (size_t)(kv_encode_alarm_request(body, &raise) - body);
    log_put(1, 1);
    world_log(world, request_of(REQUEST_ALARM, 1, 2, bytes_make(body, bytes)), ENTRY_NORMAL);
    struct proposal *waits = put(1, 3);
    waits->done = come_home;
    pending_add(&driver->pending, waits);
    pending_pop(&driver->pending, waits); /* forwarded */
    log_put(1, 3);
    cr_expect_eq(run(1), 1);
    cr_assert_eq(home_count, 1);
    cr_expect_eq(home_error[0], ERR_CORRUPT_CLUSTER);
    end();
}

/* What a request may not raise, nothing stored names either: it is damage. */
Test(apply, stored_alarms_are_judged_when_they_are_loaded)
{
    static const struct {
        const char *name;
        int want;
    } cases[] = {
        {"alarm/1f/1", 0},
        {"alarm/1f/2", 0},
        {"alarm/1f/0", ERR_CORRUPT},
        {"alarm/1f/3", ERR_CORRUPT},
        {"alarm/1f/64", ERR_CORRUPT},
        {"alarm/1f", ERR_CORRUPT},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        begin(1);
        struct bytes name = bytes_from_text(cases[i].name);
        cr_assert_eq(mvcc_meta_put(world->mvcc, name, bytes_make(NULL, 0)), 0);
        cr_expect_eq(alarm_load(node, world->mvcc), cases[i].want, "%s", cases[i].name);
        end();
    }
}

#define BIG_VALUE_BYTES (3 * MIB)
#define BIG_RANGES      200

static void log_big_put(void)
{
    static const uint8_t head[] = {0x0a, 1, 'k', 0x12, 0x80, 0x80, 0xc0, 0x01}; /* 3 MiB */
    uint8_t *body = calloc(1, sizeof(head) + BIG_VALUE_BYTES);
    memcpy(body, head, sizeof(head));
    world_log(world,
              request_of(REQUEST_PUT, 2, 1, bytes_make(body, sizeof(head) + BIG_VALUE_BYTES)),
              ENTRY_NORMAL);
    free(body);
}

/* Nobody waits for it here, as at every member after a restart: it must not cost more memory than
 * where it was asked for, and its writes count all the same. */
Test(apply, a_result_that_nobody_waits_for_is_bounded)
{
    static const uint8_t range[] = {0x12, 5, 0x0a, 3, 0x0a, 1, 'k'}; /* on success: range "k" */
    static const uint8_t write[] = {0x12, 8, 0x12, 6, 0x0a, 1, 'w', 0x12, 1, 'v'};
    uint8_t body[BIG_RANGES * sizeof(range) + sizeof(write)];
    for (uint32_t i = 0; i < BIG_RANGES; i++)
        memcpy(body + i * sizeof(range), range, sizeof(range));
    memcpy(body + BIG_RANGES * sizeof(range), write, sizeof(write));
    begin(2);
    log_big_put();
    world_log(world, request_of(REQUEST_TXN, 2, 2, bytes_make(body, sizeof(body))), ENTRY_NORMAL);
    size_t before = resident_peak_bytes();
    cr_expect_eq(run(1), 2);
    cr_expect_leq(resident_peak_bytes() - before, PROPOSAL_RESULT_BYTES_MAX + 16 * BIG_VALUE_BYTES);
    end();
}

/* ---- tables that are behind ----------------------------------------------------------------- */

static void wait_some(void)
{
    uint64_t until_ns = core_now_ns(core) + 20 * NS_PER_MS;
    while (core_now_ns(core) < until_ns)
        (void)core_turn(core, false);
}

/* The rest stays in the log, where it takes no memory. */
Test(apply, nothing_is_executed_while_the_tables_are_too_far_behind)
{
    begin(1);
    fake_lsm_set_pressure(world->lsm, LSM_PRESSURE_STOP);
    log_put(1, 1);
    start(1);
    wait_some();
    cr_expect_eq(apply_index(apply), 0);
    cr_expect(apply_waits(apply));
    fake_lsm_set_pressure(world->lsm, LSM_PRESSURE_STOP - 1); /* more than a leader proposes at */
    while (apply_index(apply) < world->last_index)
        (void)core_turn(core, false);
    cr_expect_not(apply_waits(apply));
    finish();
    end();
}

Test(apply, a_stop_does_not_wait_for_the_tables)
{
    begin(1);
    fake_lsm_set_pressure(world->lsm, LSM_PRESSURE_STOP);
    log_put(1, 1);
    start(1);
    wait_some();
    cr_assert(apply_waits(apply));
    finish();
    end();
}
