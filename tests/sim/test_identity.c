/* server/identity.h on a simulated disk: a directory of the older format gets its life once,
 * whenever the power is cut; other formats are refused with their reason. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/fiber.h"
#include "server/identity.h"
#include "tests/sim/disk.h"
#include "tests/sim/reactor_sim.h"
#include "tests/sim/world.h"

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

/* docs/formats/identity.md; where the format without lives has its members. */
enum { AT_FORMAT = 8, AT_CRC = 12, AT_BODY = 16, AT_CLUSTER = 16, AT_MEMBER = 24 };
enum { LIFELESS_FIRST_BYTES = 32, LIFELESS_FIRST = 36 };
enum { CLUSTER = 77, MEMBER = 9 };

struct trial {
    struct sim_world world;
    struct sim_node node;
    struct sim_disk *disk;
    struct config config;
    void (*run)(struct trial *trial);

    /* What a start found. */
    struct identity identity;
    int result;
    char reason[512];
    bool done;
};

static void fiber_run(void *argument)
{
    struct trial *trial = argument;
    trial->run(trial);
    trial->done = true;
}

static struct trial *trial_create(uint64_t seed)
{
    struct trial *trial = calloc(1, sizeof(*trial));
    sim_world_init(&trial->world, &(struct sim_options){.seed = seed});
    sim_world_enter(&trial->world);
    sim_set_replay("test_identity, seed %llu", (unsigned long long)seed);
    trial->disk = sim_disk_create(64 * MIB, 512);
    sim_node_init(&trial->node, &trial->world, trial->disk);
    snprintf(trial->config.data_dir, sizeof(trial->config.data_dir), "/data");
    return trial;
}

static void trial_boot(struct trial *trial, void (*run)(struct trial *trial))
{
    struct core_options options = {.reactor = {.files_max = 64,
                                               .buffer_bytes = 1 * MIB,
                                               .recv_buffer_bytes = 4096,
                                               .recv_buffer_count = 4},
                                   .fibers_max = 8};
    trial->run = run;
    trial->done = false;
    sim_node_boot(&trial->node, &options, 1);
    sim_enter(&trial->node, 0);
    cr_assert_eq(fiber_spawn(trial->node.cores[0].core, FIBER_LATENCY, fiber_run, trial), 0);
    sim_leave(&trial->node);
}

static void trial_cut(struct trial *trial, enum sim_loss loss)
{
    struct prng *prng = sim_prng(&trial->world, SIM_STREAM_FAULTS);
    sim_requests_land(&trial->node, trial->disk, false, loss, prng);
    sim_node_crash(&trial->node);
    sim_disk_power_cut(trial->disk, loss, prng);
}

/* To its end, or so many events. False: the power was cut before the end. */
static bool trial_run(struct trial *trial, void (*run)(struct trial *trial), uint64_t events_max)
{
    struct prng *prng = sim_prng(&trial->world, SIM_STREAM_FAULTS);
    trial_boot(trial, run);
    while (!trial->done && events_max-- > 0 && sim_world_step(&trial->world))
        ;
    bool done = trial->done;
    trial_cut(trial, (enum sim_loss)prng_below(prng, SIM_LOSS_COUNT));
    return done;
}

static void trial_destroy(struct trial *trial)
{
    sim_node_deinit(&trial->node);
    sim_disk_destroy(trial->disk);
    sim_world_deinit(&trial->world);
    free(trial);
}

/* ---- starts --------------------------------------------------------------------------------- */

static void start(struct trial *trial)
{
    struct io_file lock;
    struct identity identity;
    trial->reason[0] = '\0';
    trial->result =
        identity_open(&trial->config, &identity, &lock, trial->reason, sizeof(trial->reason));
    if (trial->result == 0) {
        identity.cluster_id = CLUSTER;
        identity.member_id = MEMBER;
        cr_assert_eq(
            identity_create(&trial->config, &identity, trial->reason, sizeof(trial->reason)), 0);
    }
    trial->identity = identity;
    trial->identity.first = NULL; /* of the machine's memory */
    identity_deinit(&identity);
}

static uint32_t old_format;

/* IDENTITY as a version without lives wrote it. */
static void write_old(struct trial *trial)
{
    static uint8_t block[IO_ALIGN_BYTES] __attribute__((aligned(IO_ALIGN_BYTES)));
    struct io_file file;
    struct member_set *first = calloc(1, sizeof(*first));
    struct member member = {.id = MEMBER};
    memset(block, 0, sizeof(block));
    cr_assert_eq(member_insert(first, &member), 0);
    memcpy(block, "01RAFTID", 8);
    le64_store(block + AT_CLUSTER, CLUSTER);
    le64_store(block + AT_MEMBER, MEMBER);
    le32_store(block + LIFELESS_FIRST_BYTES,
               (uint32_t)members_encode(first, block + LIFELESS_FIRST));
    le32_store(block + AT_FORMAT, old_format);
    le32_store(block + AT_CRC, crc32c(0, block + AT_BODY, sizeof(block) - AT_BODY));
    free(first);
    cr_assert_eq(await_make_directory(trial->config.data_dir), 0);
    cr_assert_eq(await_open("/data/IDENTITY", IO_OPEN_WRITE | IO_OPEN_CREATE, &file), 0);
    cr_assert_geq(await_write(file, (struct io_span){.base = block, .bytes = sizeof(block)},
                              IO_WRITE_DURABLE),
                  0);
    cr_assert_geq(await_sync(file), 0);
    await_close(&file);
    cr_assert_geq(await_sync_directory(trial->config.data_dir), 0);
}

/* ---- tests ---------------------------------------------------------------------------------- */

Test(identity, a_directory_keeps_its_life_and_another_has_another)
{
    uint64_t lives[2];
    for (uint64_t i = 0; i < 2; i++) {
        struct trial *trial = trial_create(1 + i);
        cr_assert(trial_run(trial, start, UINT64_MAX));
        cr_expect_eq(trial->result, 0, "new");
        lives[i] = trial->identity.life;
        cr_expect_neq(lives[i], 0);
        cr_assert(trial_run(trial, start, UINT64_MAX));
        cr_expect_eq(trial->result, 1);
        cr_expect_eq(trial->identity.life, lives[i]);
        cr_expect_eq(trial->identity.member_id, MEMBER);
        trial_destroy(trial);
    }
    cr_expect_neq(lives[0], lives[1]);
}

/* However often the power is cut: who it is stays, and a life that a start was told stays. */
Test(identity, a_directory_of_the_older_format_gets_a_life)
{
    uint32_t finished = 0;
    for (uint64_t events = 1; events <= 40; events++) {
        struct trial *trial = trial_create(events);
        uint64_t life = 0;
        old_format = IDENTITY_FORMAT_LIFELESS;
        cr_assert(trial_run(trial, write_old, UINT64_MAX));
        if (trial_run(trial, start, events)) {
            cr_expect_eq(trial->result, 1, "%s", trial->reason);
            life = trial->identity.life;
            finished++;
        }
        cr_assert(trial_run(trial, start, UINT64_MAX));
        cr_expect_eq(trial->result, 1, "%s", trial->reason);
        cr_expect(trial->identity.cluster_id == CLUSTER && trial->identity.member_id == MEMBER);
        cr_expect_neq(trial->identity.life, 0);
        cr_expect(life == 0 || trial->identity.life == life);
        trial_destroy(trial);
    }
    cr_expect(finished > 0 && finished < 40, "%u", finished);
}

Test(identity, other_formats_are_refused)
{
    static const uint32_t formats[] = {0, 1, IDENTITY_FORMAT + 1};
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        struct trial *trial = trial_create(1);
        old_format = formats[i];
        cr_assert(trial_run(trial, write_old, UINT64_MAX));
        cr_assert(trial_run(trial, start, UINT64_MAX));
        cr_expect_eq(trial->result, ERR_VERSION);
        cr_expect_not_null(strstr(trial->reason, "reads formats 2 and 3; use a matching version"));
        trial_destroy(trial);
    }
}
