/* server/raft_driver.h: what the driver of a lone voter tells the tables, and what it asks of them.
 * The state machine and consensus are real; the log core makes everything durable at once. */
#include "tests/unit/fake_lsm.c"
#include "tests/unit/log_world.h"

#include <errno.h>

#include "core/core.h"
#include "server/apply.h"
#include "server/message.h"
#include "server/node_private.h"
#include "server/raft_driver.h"
#include "storage/lsm/checkpoint.h"

TestSuite(raft_driver, .timeout = 300);

enum { SELF = 1 };

static struct log_world *world;
static struct node *node;
static struct config config;
static struct core *core;
static struct mesh *mesh;
static bool log_holds; /* what is appended does not become durable */

/* ---- in place of the log core, and of checkpoints ------------------------------------------- */

int64_t log_role_read(struct node *of maybe_unused, uint64_t first, uint64_t last,
                      uint64_t bytes_max maybe_unused, struct log_copy *copy)
{
    uint32_t count = (uint32_t)(last - first + 1);
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

int log_role_notes(struct node *of maybe_unused, uint64_t first, uint64_t last,
                   struct log_note **notes)
{
    *notes = calloc(last - first + 1, sizeof(struct log_note));
    for (uint64_t index = first; index <= last; index++)
        (*notes)[index - first] = (struct log_note){
            .term = world->entries[index].term,
            .type = world->entries[index].type,
            .payload_bytes = world->entries[index].payload_bytes,
        };
    return 0;
}

void log_role_faults(struct node *of maybe_unused, struct faults *faults maybe_unused) {}

void lsm_checkpoint_position(const struct lsm *lsm, uint64_t *index, uint64_t *term)
{
    *index = lsm->flushed_index;
    *term = lsm->flushed_term;
}

int lsm_checkpoint(struct lsm *lsm maybe_unused, struct lsm_reader *reader maybe_unused,
                   const char *dir maybe_unused, uint64_t *index maybe_unused,
                   uint64_t *term maybe_unused)
{
    return ERR_UNAVAILABLE;
}

int lsm_checkpoint_verify(const char *dir maybe_unused, uint64_t index maybe_unused,
                          uint64_t term maybe_unused, const bool *cancel maybe_unused)
{
    return ERR_UNAVAILABLE;
}

/* ---- in place of the node ------------------------------------------------------------------- */

int node_listen(struct node *of maybe_unused, struct core *on maybe_unused,
                const struct config_url *url maybe_unused, struct io_listener *io maybe_unused)
{
    return ERR_UNAVAILABLE;
}

void node_request_stop(struct node *of maybe_unused) {}

void node_request_restart(struct node *of maybe_unused) {}

static void on_append(void *context maybe_unused, struct core *from,
                      const struct mesh_message *message)
{
    struct mesh_message durable = {.kind = MESSAGE_LOG_DURABLE, .word = {message->word[0]}};
    if (log_holds)
        core_post(from, 0, message); /* in the next turn, perhaps */
    else
        core_post(from, 0, &durable);
}

static void on_release(void *context maybe_unused, struct core *of maybe_unused,
                       const struct mesh_message *message maybe_unused)
{
}

/* ---- a node --------------------------------------------------------------------------------- */

static void log_put(uint64_t sequence, uint32_t value_bytes)
{
    uint8_t body[256] = {0x0a, 1, 'k', 0x12, (uint8_t)value_bytes};
    struct request request = {.kind = REQUEST_PUT,
                              .origin = SELF,
                              .sequence = sequence,
                              .body = bytes_make(body, 5 + value_bytes)};
    cr_assert_lt(value_bytes, 128);
    struct proposal *proposal = proposal_create(0, (uint32_t)request.body.size);
    proposal_fill(proposal, &request);
    world_log(world, proposal, ENTRY_NORMAL);
}

static void begin(void)
{
    struct core_options options = {.reactor = {.core_count = 1,
                                               .files_max = 64,
                                               .buffer_bytes = 64 * KIB,
                                               .recv_buffer_bytes = 4096,
                                               .recv_buffer_count = 8},
                                   .fibers_max = 16};
    char reason[256] = "";
    cr_assert_eq(mesh_create(1, 64, &mesh), 0);
    cr_assert_eq(core_create(&options, mesh, &core, reason, sizeof(reason)), 0, "%s", reason);
    core_set_current(core);
    core_handle(core, MESSAGE_LOG_APPEND, on_append, NULL);
    core_handle(core, MESSAGE_LOG_RELEASE, on_release, NULL);
    world = world_create(1);
    config = (struct config){.election_timeout_ms = 1000, .heartbeat_interval_ms = 100};
    snprintf(config.data_dir, sizeof(config.data_dir), "/nowhere");
    node = aligned_alloc(CACHE_LINE_BYTES, u64_round_up(sizeof(*node), CACHE_LINE_BYTES));
    memset(node, 0, sizeof(*node));
    node->config = &config;
    node->cores[0] = core;
    node->core_count = 1;
    log_holds = false;
}

static void run_turns(uint64_t for_ns)
{
    uint64_t until_ns = core_now_ns(core) + for_ns;
    while (core_now_ns(core) < until_ns)
        (void)core_turn(core, false);
}

struct step {
    int error;
    bool done;
};

static void start_run(void *argument)
{
    struct step *step = argument;
    struct raft_start start = {.hard_state = {.term = 1, .commit = world->last_index},
                               .last_index = world->last_index,
                               .last_term = world->last_index > 0,
                               .config = world->membership.config};
    step->error = raft_driver_start(node, core, &start);
    step->done = true;
}

static void stop_run(void *argument)
{
    struct step *step = argument;
    raft_driver_stop(node);
    step->done = true;
}

static void in_fiber(void (*run)(void *argument))
{
    struct step step = {0};
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, run, &step), 0);
    while (!step.done)
        (void)core_turn(core, false);
    cr_assert_eq(step.error, 0, "%s", err_text(step.error));
}

static void start(void)
{
    node->identity.member_id = SELF;
    node->identity.cluster_id = node->identity.incarnation = node->identity.life = 1;
    node->mvcc = world->mvcc;
    node->mvcc_shared = world->shared;
    node->lsm = world->lsm;
    node->membership = world->membership;
    node->once = world->once;
    in_fiber(start_run);
}

static void until_applied(void)
{
    while (apply_index(node->raft->apply) < world->last_index)
        (void)core_turn(core, false);
}

static void end(void)
{
    log_holds = false;
    in_fiber(stop_run);
    world->membership = node->membership;
    core_set_current(NULL);
    core_destroy(core);
    raft_driver_destroy(node->raft);
    world_destroy(world);
    free(node);
    mesh_destroy(mesh);
}

/* ---- the tables ----------------------------------------------------------------------------- */

/* Else a member that applies its log at a start, and then is idle, flushes nothing of it; and one
 * whose apply loop waits for a flush does so for ever. */
Test(raft_driver, tables_know_from_the_start_how_much_of_the_log_is_durable)
{
    begin();
    for (uint64_t i = 1; i <= 3; i++)
        log_put(i, 10);
    log_holds = true;
    start();
    cr_expect_eq(fake_lsm_durable_index(world->lsm), 3);
    end();
}

Test(raft_driver, a_long_log_makes_the_memtable_flush)
{
    begin();
    for (uint64_t i = 1; i <= 3; i++)
        log_put(i, 100);
    start();
    until_applied();
    struct log_unflushed *unflushed = &node->raft->unflushed;
    run_turns(250 * NS_PER_MS);
    cr_expect_geq(unflushed->entries, 3);
    cr_expect_geq(unflushed->bytes, 300);
    cr_expect_eq(lsm_flushed_index(world->lsm), 0);
    log_unflushed_add(unflushed, LOG_FLUSH_BYTES, 1); /* as if by large entries without effect */
    fake_lsm_set_pressure(world->lsm, LSM_PRESSURE_FULL);
    run_turns(250 * NS_PER_MS);
    cr_expect_eq(lsm_flushed_index(world->lsm), 0, "others are waiting for their flush already");
    fake_lsm_set_pressure(world->lsm, 0);
    while (lsm_flushed_index(world->lsm) == 0)
        (void)core_turn(core, false);
    end();
}

Test(raft_driver, how_the_tables_are_is_watched_and_told)
{
    begin();
    log_put(1, 10);
    fake_lsm_set_pressure(world->lsm, LSM_PRESSURE_STOP);
    fake_lsm_set_failure(world->lsm, -ENOSPC);
    start();
    while (node->raft->tables.idle_ns == 0 || node->raft->tables.waited_ns == 0)
        (void)core_turn(core, false);
    cr_expect_eq(atomic_load(&node->shared.tables_pressure), LSM_PRESSURE_STOP);
    cr_expect(atomic_load(&node->shared.tables_failing));
    fake_lsm_set_pressure(world->lsm, 0);
    fake_lsm_set_failure(world->lsm, 0);
    until_applied();
    while (atomic_load(&node->shared.tables_failing))
        (void)core_turn(core, false);
    end();
}
