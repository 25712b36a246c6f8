/* What disks and clocks of simulated nodes do wrong, processes that end themselves, and what an
 * orderly end leaves behind. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "storage/log/wal.h"
#include "storage/lsm/sst_write.h"
#include "tests/sim/disk.h"
#include "tests/sim/world.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#define processes_leak() __lsan_disable() /* there are no heaps that vanish with them */
#else
#define processes_leak() ((void)0)
#endif

#define BYTES 16384

struct machine {
    struct sim_world world;
    struct sim_node node;
    struct sim_disk *disk;
    bool finished;
    char fatal[256];
    uint64_t took_ns;
};

struct log_entry_append {
    struct wal_append append;
    struct fiber_event *durable;
};

static uint8_t content[BYTES] __attribute__((aligned(4096)));

static void machine_init(struct machine *machine, uint64_t seed)
{
    memset(machine, 0, sizeof(*machine));
    sim_set_replay("this test with seed %llu", (unsigned long long)seed);
    sim_world_init(&machine->world, &(struct sim_options){.seed = seed});
    sim_world_enter(&machine->world);
    machine->disk = sim_disk_create(64 * MIB, 512);
    sim_node_init(&machine->node, &machine->world, machine->disk);
}

static void machine_boot(struct machine *machine)
{
    struct core_options options = {.reactor = {.files_max = 64,
                                               .buffer_bytes = 1 * MIB,
                                               .recv_buffer_bytes = 4096,
                                               .recv_buffer_count = 4},
                                   .fibers_max = 8};
    sim_node_boot(&machine->node, &options, 1);
}

static void machine_spawn(struct machine *machine, void (*run)(void *argument))
{
    sim_enter(&machine->node, 0);
    cr_assert_eq(fiber_spawn(machine->node.cores[0].core, FIBER_LATENCY, run, machine), 0);
    sim_leave(&machine->node);
    sim_core_rouse(&machine->node.cores[0], machine->world.now_ns);
}

/* Runs it in a fiber of the node, to its end. */
static void machine_run(struct machine *machine, void (*run)(void *argument))
{
    machine->finished = false;
    machine_spawn(machine, run);
    cr_assert(sim_world_run(&machine->world, &machine->finished, 1000 * NS_PER_S));
}

static void machine_deinit(struct machine *machine)
{
    if (machine->node.running)
        (void)sim_node_shutdown(&machine->node);
    sim_node_deinit(&machine->node);
    sim_disk_destroy(machine->disk);
    sim_world_deinit(&machine->world);
}

static uint64_t clock_now(void)
{
    return reactor_clock_ns(core_reactor(core_current()));
}

static struct io_file open_file(void)
{
    struct io_file file;
    cr_assert_eq(await_open("/file", IO_OPEN_READ | IO_OPEN_WRITE | IO_OPEN_CREATE, &file), 0);
    cr_assert_eq(await_sync_directory("/"), 0);
    return file;
}

static struct io_span all_of(uint8_t byte)
{
    memset(content, byte, sizeof(content));
    return (struct io_span){.base = content, .bytes = sizeof(content)};
}

/* ---- disks ---------------------------------------------------------------------------------- */

static void write_and_sync(void *argument)
{
    struct machine *machine = argument;
    uint64_t began_ns = clock_now();
    struct io_file file = open_file();
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(await_write(file, all_of(1), 0), BYTES);
        cr_assert_eq(await_sync(file), 0);
    }
    await_close(&file);
    machine->took_ns = clock_now() - began_ns;
    machine->finished = true;
}

Test(sim_faults, a_slow_disk_takes_longer)
{
    uint64_t took_ns[2];
    for (uint32_t slow = 0; slow < 2; slow++) {
        struct machine machine;
        machine_init(&machine, 1);
        machine_boot(&machine);
        sim_disk_faults(machine.disk)->slow_factor = slow * 100;
        machine_run(&machine, write_and_sync);
        took_ns[slow] = machine.took_ns;
        machine_deinit(&machine);
    }
    cr_assert_gt(took_ns[1], 50 * took_ns[0]);
    cr_assert_lt(took_ns[1], 200 * took_ns[0]);
}

static void write_twos_and_fail(void *argument)
{
    struct machine *machine = argument;
    struct sim_disk_faults *faults = sim_disk_faults(machine->disk);
    struct io_file file = open_file();
    cr_assert_eq(await_write(file, all_of(1), 0), BYTES);
    cr_assert_eq(await_sync(file), 0);
    cr_assert_eq(await_write(file, all_of(2), 0), BYTES);
    faults->error_per_mille = 1000;
    cr_assert_eq(await_sync(file), -EIO);
    faults->error_per_mille = 0;
    cr_assert_eq(faults->errors, 1);
    cr_assert_eq(await_read(file, all_of(0)), BYTES);
    machine->finished = true;
}

/* A failed sync: pages are durable, forgotten, or wait for a later one that may say 0. */
Test(sim_faults, a_failed_sync_keeps_forgets_or_leaves_pages)
{
    uint32_t durable = 0, forgotten = 0, waiting = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct machine machine;
        machine_init(&machine, seed);
        machine_boot(&machine);
        machine_run(&machine, write_twos_and_fail);
        uint8_t cached[BYTES], kept[4096];
        memcpy(cached, content, BYTES);
        for (uint32_t at = 0; at < BYTES; at += 4096) {
            cr_assert(sim_disk_read_durable(machine.disk, "/file", at, kept, 4096));
            forgotten += cached[at] == 1;
            durable += cached[at] == 2 && kept[0] == 2;
            waiting += cached[at] == 2 && kept[0] == 1;
        }
        machine_deinit(&machine);
    }
    cr_assert_gt(durable, 5);
    cr_assert_gt(forgotten, 5);
    cr_assert_gt(waiting, 5);
}

static void fail_a_write(void *argument)
{
    struct machine *machine = argument;
    struct sim_disk_faults *faults = sim_disk_faults(machine->disk);
    struct io_file file = open_file();
    cr_assert_eq(await_write(file, all_of(1), IO_WRITE_DURABLE), BYTES);
    faults->error_per_mille = 1000;
    cr_assert_eq(await_write(file, all_of(2), IO_WRITE_DURABLE), -EIO);
    cr_assert_eq(await_allocate(file, 0, MIB), -EIO);
    faults->error_per_mille = 0;
    cr_assert_eq(await_read(file, all_of(0)), BYTES);
    machine->finished = true;
}

/* Of a failed write a part in front arrived, or nothing; it is not durable. */
Test(sim_faults, a_failed_write_arrives_in_part)
{
    uint32_t lengths[BYTES / 4096 + 1] = {0};
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct machine machine;
        machine_init(&machine, seed);
        machine_boot(&machine);
        machine_run(&machine, fail_a_write);
        uint32_t arrived = 0;
        while (arrived < BYTES && content[arrived] == 2)
            arrived += 4096;
        for (uint32_t at = arrived; at < BYTES; at++)
            cr_assert_eq(content[at], 1);
        lengths[arrived / 4096]++;
        (void)sim_node_shutdown(&machine.node);
        sim_disk_power_cut(machine.disk, SIM_LOSS_ALL, sim_prng(&machine.world, SIM_STREAM_DISK));
        cr_assert(sim_disk_read_durable(machine.disk, "/file", 0, content, 1));
        cr_assert_eq(content[0], 1);
        machine_deinit(&machine);
    }
    for (uint32_t i = 0; i < ARRAY_COUNT(lengths); i++)
        cr_assert_gt(lengths[i], 0, "never %u pages", i);
}

static void fill_and_go_on(void *argument)
{
    struct machine *machine = argument;
    struct sim_disk_faults *faults = sim_disk_faults(machine->disk);
    struct io_file file = open_file();
    uint64_t free_bytes, total_bytes;
    cr_assert_eq(await_allocate(file, 0, 8192), 0);
    faults->limit_bytes = 8192 + 4096;
    cr_assert_eq(reactor_disk_space(core_reactor(core_current()), "/", &free_bytes, &total_bytes),
                 0);
    cr_assert_eq(free_bytes, 4096);
    cr_assert_eq(total_bytes, 64 * MIB);
    cr_assert_eq(await_allocate(file, 0, BYTES), -ENOSPC);
    struct io_span inside = all_of(1);
    inside.bytes = 8192; /* what was allocated can be written */
    cr_assert_eq(await_write(file, inside, IO_WRITE_DURABLE), 8192);
    cr_assert_eq(await_write(file, all_of(1), 0), -ENOSPC); /* a page at first, then why no more */
    cr_assert_eq(reactor_disk_space(core_reactor(core_current()), "/", &free_bytes, &total_bytes),
                 0);
    cr_assert_eq(free_bytes, 0);
    cr_assert_eq(faults->errors, 2);
    faults->limit_bytes = 0;
    cr_assert_eq(await_write(file, all_of(1), 0), BYTES);
    machine->finished = true;
}

Test(sim_faults, a_full_disk_refuses_to_grow)
{
    struct machine machine;
    machine_init(&machine, 1);
    machine_boot(&machine);
    machine_run(&machine, fill_and_go_on);
    machine_deinit(&machine);
}

/* ---- damage --------------------------------------------------------------------------------- */

static void write_pages(void *argument)
{
    struct machine *machine = argument;
    struct io_file file = open_file();
    for (uint32_t page = 0; page < BYTES / 4096; page++)
        memset(content + page * 4096, (int)page + 1, 4096);
    cr_assert_eq(await_write(file, (struct io_span){.base = content, .bytes = BYTES}, 0), BYTES);
    cr_assert_eq(await_sync(file), 0);
    machine->finished = true;
}

static void read_around(void *argument)
{
    struct machine *machine = argument;
    struct io_file file = open_file();
    struct io_span span = {.base = content, .bytes = 4096};
    uint32_t unreadable = 0;
    cr_assert_eq(await_read(file, all_of(0)), -EIO);
    for (; span.offset < BYTES; span.offset += 4096) {
        int32_t result = await_read(file, span);
        unreadable += result == -EIO;
        cr_assert(result == -EIO || (result == 4096 && content[0] == span.offset / 4096 + 1));
    }
    cr_assert(unreadable == 1 || unreadable == 2);
    cr_assert_eq(sim_disk_faults(machine->disk)->errors, unreadable + 1);
    cr_assert_eq(await_write(file, all_of(9), IO_WRITE_DURABLE), BYTES);
    cr_assert_eq(await_read(file, all_of(0)), BYTES);
    cr_assert_eq(content[0], 9);
    machine->finished = true;
}

/* Reads say so, of this page and no other, until it is written again; power cuts change nothing. */
Test(sim_faults, lost_sectors_are_never_side_by_side)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct machine machine;
        uint64_t offset, one = UINT64_MAX;
        machine_init(&machine, seed);
        struct prng *prng = sim_prng(&machine.world, SIM_STREAM_FAULTS);
        machine_boot(&machine);
        cr_assert_not(sim_disk_lose(machine.disk, "/file", prng, &offset));
        machine_run(&machine, write_pages);
        for (int again = 0; again < 50; again++) {
            if (!sim_disk_lose(machine.disk, "/file", prng, &offset))
                continue;
            cr_assert(one == UINT64_MAX || offset > one + 4096 || offset + 4096 < one);
            one = offset;
        }
        cr_assert_neq(one, UINT64_MAX);
        (void)sim_node_shutdown(&machine.node);
        sim_disk_power_cut(machine.disk, SIM_LOSS_ALL, prng);
        machine_boot(&machine);
        machine_run(&machine, read_around);
        machine_deinit(&machine);
    }
}

Test(sim_faults, a_mended_file_is_as_before)
{
    struct machine machine;
    machine_init(&machine, 1);
    struct prng *prng = sim_prng(&machine.world, SIM_STREAM_FAULTS);
    machine_boot(&machine);
    machine_run(&machine, write_pages);
    (void)sim_node_shutdown(&machine.node);
    sim_disk_power_cut(machine.disk, SIM_LOSS_ALL, prng);
    uint64_t offset, before = sim_disk_hash(machine.disk);
    cr_assert_not(sim_disk_mend(machine.disk, "/file"));
    cr_assert(sim_disk_rot(machine.disk, "/file", 8, prng, &offset));
    (void)sim_disk_misdirect(machine.disk, "/file", 2, prng, &offset);
    cr_assert_neq(sim_disk_hash(machine.disk), before);
    cr_assert(sim_disk_mend(machine.disk, "/file"));
    cr_assert_eq(sim_disk_hash(machine.disk), before);
    cr_assert_not(sim_disk_mend(machine.disk, "/file"));
    machine_deinit(&machine);
}

Test(sim_faults, a_misdirected_write_is_far_away)
{
    uint32_t done = 0;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        struct machine machine;
        uint64_t offset;
        machine_init(&machine, seed);
        machine_boot(&machine);
        machine_run(&machine, write_pages);
        if (sim_disk_misdirect(machine.disk, "/file", 2,
                               sim_prng(&machine.world, SIM_STREAM_FAULTS), &offset)) {
            uint64_t from = offset / 4096, to = UINT64_MAX;
            done++;
            for (uint64_t page = 0; page < BYTES / 4096; page++) {
                uint8_t bytes[4096];
                cr_assert(sim_disk_read_durable(machine.disk, "/file", page * 4096, bytes, 4096));
                if (page == from) {
                    cr_assert_eq(bytes[0], 0);
                } else if (bytes[0] != page + 1) {
                    cr_assert_eq(bytes[0], from + 1);
                    cr_assert_eq(to, UINT64_MAX);
                    to = page;
                }
            }
            cr_assert_neq(to, UINT64_MAX);
            cr_assert(from > to + 1 || to > from + 1);
        }
        machine_deinit(&machine);
    }
    cr_assert_gt(done, 5);
}

static void write_table(void *argument)
{
    struct machine *machine = argument;
    struct sst_writer_options options = {
        .path = "/000007.sst", .number = 7, .block_bytes = 4096, .bloom_bits_per_key = 10};
    struct lsm_row row = {.key = bytes_from_text("key"), .version = {1, 0}, .kind = LSM_VALUE};
    struct sst_writer *writer;
    uint64_t bytes;
    cr_assert_eq(sst_writer_open(&options, &writer), 0);
    cr_assert_eq(sst_writer_add(writer, &row), 0);
    cr_assert_eq(sst_writer_finish(writer, &bytes), 0);
    cr_assert_eq(await_sync_directory("/"), 0);
    machine->finished = true;
}

static void open_table(void *argument)
{
    struct machine *machine = argument;
    struct lsm_table *table;
    cr_assert_eq(lsm_table_open("/000007.sst", 7, &table), -EIO);
    snprintf(machine->fatal, sizeof(machine->fatal), "%s", logger_last_error());
    machine->finished = true;
}

/* Whoever reads the log, or why a start is refused, learns which file it is. */
Test(sim_faults, a_table_that_cannot_be_read_is_named)
{
    struct machine machine;
    uint64_t offset;
    machine_init(&machine, 1);
    machine_boot(&machine);
    machine_run(&machine, write_table);
    while (sim_disk_lose(machine.disk, "/000007.sst", sim_prng(&machine.world, SIM_STREAM_FAULTS),
                         &offset)) {
    }
    machine_run(&machine, open_table);
    cr_assert_not_null(strstr(machine.fatal, "/000007.sst, offset "), "%s", machine.fatal);
    machine_deinit(&machine);
}

static void appended(struct wal_append *append)
{
    fiber_event_signal(container_of(append, struct log_entry_append, append)->durable);
}

static struct wal *open_log(uint64_t last_index)
{
    struct wal_options options = {
        .directory = "/log", .segment_bytes = 128 * KIB, .block_bytes_max = 16384};
    struct wal_recovered recovered;
    struct wal *wal;
    cr_assert_eq(wal_open(&options, &wal, &recovered), 0, "%s", recovered.reason);
    cr_assert_eq(recovered.last_index, last_index);
    return wal;
}

static void append_entries(struct wal *wal, uint64_t count)
{
    for (uint64_t index = 1; index <= count; index++) {
        struct fiber_event durable;
        struct entry entry = {.index = index, .term = 1, .payload = content, .payload_bytes = 4000};
        entry.payload_crc = crc32c(0, content, entry.payload_bytes);
        struct log_entry_append append = {
            .append = {.entries = &entry, .entry_count = 1, .done = appended}, .durable = &durable};
        fiber_event_init(&durable);
        wal_append(wal, &append.append);
        wal_flush(wal);
        fiber_event_wait(&durable);
    }
}

#define SEGMENT "/log/0000000003.log"

/* As a process leaves it that ends before the name is durable. */
static void make_log(void *argument)
{
    struct machine *machine = argument;
    struct wal *wal = open_log(0);
    while (wal_stats(wal)->segments_ready < 2)
        fiber_yield();
    wal_close(wal);
    cr_assert_eq(await_rename(SEGMENT, "/log/prepare.tmp"), 0);
    cr_assert_eq(await_sync_directory("/log"), 0);
    cr_assert_eq(await_rename("/log/prepare.tmp", SEGMENT), 0);
    machine->finished = true;
}

static void fill_log(void *argument)
{
    struct machine *machine = argument;
    append_entries(open_log(0), 25); /* ten a segment */
    machine->finished = true;
}

static void look_at_log(void *argument)
{
    struct machine *machine = argument;
    wal_close(open_log(25));
    machine->finished = true;
}

Test(sim_faults, a_segment_that_a_process_left_without_its_sync_is_kept)
{
    struct machine machine;
    processes_leak();
    machine_init(&machine, 1);
    struct prng *prng = sim_prng(&machine.world, SIM_STREAM_FAULTS);
    void (*const lives[])(void *argument) = {make_log, fill_log, look_at_log};
    for (uint32_t i = 0; i < ARRAY_COUNT(lives); i++) {
        /* No further segment can be made, whose sync would have taken the name along. */
        sim_disk_faults(machine.disk)->limit_bytes = i == 1 ? 1 : 0;
        machine_boot(&machine);
        machine_run(&machine, lives[i]);
        sim_node_crash(&machine.node);
        if (i > 0)
            sim_disk_power_cut(machine.disk, SIM_LOSS_ALL, prng);
    }
    machine_deinit(&machine);
}

/* ---- processes that end themselves ---------------------------------------------------------- */

static void on_fatal(struct sim_node *node, const char *message)
{
    struct machine *machine = container_of(node, struct machine, node);
    snprintf(machine->fatal, sizeof(machine->fatal), "%s", message);
    sim_node_crash(node);
    machine->finished = true;
}

static void die(void *argument)
{
    struct machine *machine = argument;
    struct io_file file = open_file();
    cr_assert_eq(await_write(file, all_of(7), IO_WRITE_DURABLE), BYTES);
    fatal("disk of %s failed", machine->world.options.seed == 3 ? "three" : "another");
}

static void live_on(void *argument)
{
    (void)argument;
    for (;;)
        fiber_yield();
}

static void read_sevens(void *argument)
{
    struct machine *machine = argument;
    struct io_file file = open_file();
    cr_assert_eq(await_read(file, all_of(0)), BYTES);
    cr_assert_eq(content[BYTES - 1], 7);
    machine->finished = true;
}

Test(sim_faults, fatal_ends_one_process_which_starts_again)
{
    struct machine machine;
    processes_leak();
    machine_init(&machine, 3);
    machine.node.on_fatal = on_fatal;
    for (int again = 0; again < 3; again++) {
        machine_boot(&machine);
        machine_spawn(&machine, live_on);
        machine_run(&machine, die);
        cr_assert_str_eq(machine.fatal, "disk of three failed");
        cr_assert_not(machine.node.running);
        cr_assert_null(machine.world.current);
    }
    machine_boot(&machine);
    machine_run(&machine, read_sevens);
    machine_deinit(&machine);
}

static void break_an_invariant(void *argument)
{
    (void)argument;
    invariant(!"kept");
}

/* A mistake of our own ends the run, whoever would start the process again. */
Test(sim_faults, an_invariant_ends_the_run, .signal = SIGABRT)
{
    struct machine machine;
    machine_init(&machine, 1);
    machine.node.on_fatal = on_fatal;
    machine_boot(&machine);
    machine_run(&machine, break_an_invariant);
}

/* ---- clocks --------------------------------------------------------------------------------- */

static void sleep_for_ten_seconds(void *argument)
{
    struct machine *machine = argument;
    uint64_t began_ns = machine->world.now_ns;
    fiber_sleep_until(core_now_ns(core_current()) + 10 * NS_PER_S);
    machine->took_ns = machine->world.now_ns - began_ns;
    machine->finished = true;
}

Test(sim_faults, clocks_drift)
{
    static const int32_t drifts[] = {-30000, 0, 30000};
    static const uint64_t took_ms[] = {10309, 10000, 9708};
    for (uint32_t i = 0; i < ARRAY_COUNT(drifts); i++) {
        struct machine machine;
        machine_init(&machine, 1);
        machine.node.drift_ppm = drifts[i];
        machine.world.now_ns += 1000 * NS_PER_S;
        machine_boot(&machine);
        machine_run(&machine, sleep_for_ten_seconds);
        cr_assert_lt(llabs((long long)(machine.took_ns / NS_PER_MS) - (long long)took_ms[i]), 10,
                     "drift %d: %llu", drifts[i], (unsigned long long)machine.took_ns);
        for (uint64_t at = SIM_START_NS; at < 3000 * NS_PER_S; at += 77777777777) {
            uint64_t clock_ns = sim_node_clock_ns(&machine.node, at);
            uint64_t world_ns = sim_node_world_ns(&machine.node, clock_ns);
            cr_assert(world_ns <= at && at - world_ns <= 1);
            cr_assert_eq(sim_node_clock_ns(&machine.node, world_ns), clock_ns);
        }
        machine_deinit(&machine);
    }
}

/* ---- what is left behind -------------------------------------------------------------------- */

static void leave_nothing(void *argument)
{
    struct machine *machine = argument;
    struct io_file file = open_file();
    void *memory = malloc(100);
    cr_assert_not_null(memory);
    free(memory);
    await_close(&file);
    machine->finished = true;
}

static void leave_things(void *argument)
{
    struct machine *machine = argument;
    static void *forgotten;
    (void)open_file();
    forgotten = malloc(1000);
    cr_assert_not_null(forgotten);
    machine->finished = true;
}

static void leave_a_fiber(void *argument)
{
    struct fiber_event event;
    fiber_event_init(&event);
    ((struct machine *)argument)->finished = true;
    fiber_event_wait(&event);
}

Test(sim_faults, what_an_orderly_end_leaves_is_counted)
{
    processes_leak();
    for (int mess = 0; mess < 2; mess++) {
        struct machine machine;
        machine_init(&machine, 1);
        machine_boot(&machine);
        machine_run(&machine, mess ? leave_things : leave_nothing);
        if (mess)
            machine_run(&machine, leave_a_fiber);
        struct sim_leftovers left = sim_node_shutdown(&machine.node);
        cr_assert_eq(left.fibers, mess);
        cr_assert_eq(left.descriptors, mess);
#if SIM_HEAPS
        cr_assert_eq(left.heap.blocks, mess);
        cr_assert_geq(left.heap.bytes, 1000 * (uint64_t)mess);
#endif
        machine_deinit(&machine);
    }
}
