/* Files of the io_uring backend: direct and durable writes, names, locks, full queues. */
#include "tests/unit/test_reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "core/buffer.h"
#include "core/core.h"
#include "core/err.h"
#include "tests/conformance/reactor_conformance.h"

/* ---- files ---------------------------------------------------------------------------------- */

TestSuite(reactor_files, .init = directory_make, .fini = directory_drop);

static void direct_durable_round_trip(const char *disable)
{
    struct reactor *reactor = reactor_open_default(disable);
    struct buffer_pool *pool = reactor_buffers(reactor);
    uint8_t *arena = buffer_acquire(pool, 65536);
    uint8_t *plain = aligned_alloc(4096, 65536);
    uint8_t *bases[] = {arena, plain};
    for (size_t i = 0; i < ARRAY_COUNT(bases); i++) {
        int32_t fd = RUN(reactor, reactor_open, in_directory("direct"),
                         IO_OPEN_READ | IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_DIRECT);
        cr_assert_geq(fd, 0, "%s", err_text(fd));
        struct io_file file = {fd};
        struct io_span span = {bases[i], 8192, 65536};
        memset(span.base, 'a' + (int)i, span.bytes);
        cr_assert_eq(RUN(reactor, reactor_write, file, span, IO_WRITE_DURABLE), 65536, "[%s]",
                     disable);
        memset(span.base, 0, span.bytes);
        cr_assert_eq(RUN(reactor, reactor_read, file, span), 65536);
        for (uint32_t b = 0; b < span.bytes; b++)
            cr_assert_eq(bases[i][b], 'a' + i);
        span.offset = 65536 + 4096;
        cr_assert_eq(RUN(reactor, reactor_read, file, span), 4096, "short at end of file");
        span.base = bases[i] + 1;
        cr_assert_eq(RUN(reactor, reactor_read, file, span), -EINVAL, "misaligned");
        cr_assert_eq(RUN(reactor, reactor_close, file), 0);
    }
    buffer_release(pool, arena);
    free(plain);
    reactor_destroy(reactor);
}

Test(reactor_files, direct_durable_round_trip)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++)
        direct_durable_round_trip(feature_sets[i]);
}

#define NAMES_BYTES 64

static void names_add(void *context, const char *name)
{
    char *names = context; /* NAMES_BYTES of room */
    size_t used = strlen(names);
    snprintf(names + used, NAMES_BYTES - used, "%s ", name);
}

static void names_and_sizes(const char *disable)
{
    struct reactor *reactor = reactor_open_default(disable);
    int32_t fd = RUN(reactor, reactor_open, in_directory("b"),
                     IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_EXCLUSIVE);
    cr_assert_geq(fd, 0);
    struct io_file file = {fd};
    cr_assert_eq(RUN(reactor, reactor_open, in_directory("b"),
                     IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_EXCLUSIVE),
                 -EEXIST);
    cr_assert_eq(RUN(reactor, reactor_open, in_directory("none"), IO_OPEN_READ), -ENOENT);
    cr_assert_eq(RUN(reactor, reactor_allocate, file, 0, 1 * MIB), 0);
    struct io_stat stat;
    cr_assert_eq(RUN(reactor, reactor_stat, in_directory("b"), &stat), 0);
    cr_assert(stat.bytes == 1 * MIB && stat.bytes_allocated >= 1 * MIB && !stat.is_directory);
    cr_assert_eq(RUN(reactor, reactor_truncate, file, 5 * GIB), 0);
    cr_assert_eq(RUN(reactor, reactor_stat, in_directory("b"), &stat), 0);
    cr_assert_eq(stat.bytes, 5 * GIB);
    cr_assert_eq(RUN(reactor, reactor_sync, file), 0);
    cr_assert_eq(RUN(reactor, reactor_close, file), 0);
    cr_assert_eq(RUN(reactor, reactor_rename, in_directory("b"), in_directory("a")), 0);
    cr_assert_eq(RUN(reactor, reactor_hard_link, in_directory("a"), in_directory("c")), 0);
    cr_assert_eq(RUN(reactor, reactor_make_directory, in_directory("d")), 0);
    cr_assert_eq(RUN(reactor, reactor_make_directory, in_directory("d")), -EEXIST);
    cr_assert_eq(RUN(reactor, reactor_stat, in_directory("d"), &stat), 0);
    cr_assert(stat.is_directory);
    char names[NAMES_BYTES] = "";
    cr_assert_eq(reactor_list(reactor, directory, names_add, names), 0);
    cr_assert_str_eq(names, "a c d ");
    cr_assert_eq(reactor_list(reactor, in_directory("none"), names_add, names), -ENOENT);
    fd = RUN(reactor, reactor_open, directory, IO_OPEN_READ);
    cr_assert_geq(fd, 0, "a directory opens for sync");
    cr_assert_eq(RUN(reactor, reactor_sync, (struct io_file){fd}), 0);
    cr_assert_eq(RUN(reactor, reactor_close, (struct io_file){fd}), 0);
    cr_assert_eq(RUN(reactor, reactor_unlink, in_directory("a")), 0);
    cr_assert_eq(RUN(reactor, reactor_unlink, in_directory("a")), -ENOENT);
    cr_assert_eq(RUN(reactor, reactor_unlink, in_directory("c")), 0);
    cr_assert_eq(RUN(reactor, reactor_remove_directory, in_directory("d")), 0);
    uint64_t free_bytes, total_bytes;
    cr_assert_eq(reactor_disk_space(reactor, directory, &free_bytes, &total_bytes), 0);
    cr_assert(free_bytes > 0 && free_bytes <= total_bytes);
    reactor_destroy(reactor);
}

Test(reactor_files, names_and_sizes)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++)
        names_and_sizes(feature_sets[i]);
}

Test(reactor_files, more_ops_than_both_queues_hold)
{
    struct reactor *reactor = reactor_open_default("");
    int32_t fd = RUN(reactor, reactor_open, in_directory("many"),
                     IO_OPEN_READ | IO_OPEN_WRITE | IO_OPEN_CREATE);
    struct io_file file = {fd};
    enum { COUNT = 20000 };
    struct waited_op *ops = calloc(COUNT, sizeof(ops[0]));
    static uint8_t byte = 'x';
    for (uint32_t i = 0; i < COUNT; i++) {
        ops[i] = waited_make();
        reactor_write(reactor, &ops[i].op, file, (struct io_span){&byte, i, 1}, 0);
    }
    cr_assert_eq(reactor_ops_pending(reactor), COUNT);
    drain(reactor);
    for (uint32_t i = 0; i < COUNT; i++)
        cr_assert(ops[i].done && ops[i].result == 1);
    free(ops);
    struct io_stat stat;
    cr_assert_eq(RUN(reactor, reactor_stat, in_directory("many"), &stat), 0);
    cr_assert_eq(stat.bytes, COUNT);
    cr_assert_eq(RUN(reactor, reactor_close, file), 0);
    reactor_destroy(reactor);
}

enum { HELD_WRITES = 48, HELD_WRITE_BYTES = 1 << 18 };

/* Holds the lock, starts durable writes, and is killed with all of them under way. */
static void killed_writer(int ready, uint8_t fill)
{
    struct reactor_options options = options_default("");
    options.buffer_bytes = HELD_WRITES * HELD_WRITE_BYTES;
    struct reactor *reactor = reactor_open_with(&options);
    struct io_file lock = {RUN(reactor, reactor_open, in_directory("LOCK"),
                               IO_OPEN_READ | IO_OPEN_WRITE | IO_OPEN_CREATE)};
    struct io_file data = {
        RUN(reactor, reactor_open, in_directory("data"), IO_OPEN_WRITE | IO_OPEN_DIRECT)};
    cr_assert_eq(reactor_lock_file(reactor, lock), 0);
    cr_assert_eq(reactor_hold_file(reactor, lock), 0);
    static struct waited_op ops[HELD_WRITES];
    for (uint32_t i = 0; i < HELD_WRITES; i++) {
        uint8_t *bytes = buffer_acquire(reactor_buffers(reactor), HELD_WRITE_BYTES);
        memset(bytes, fill, HELD_WRITE_BYTES);
        ops[i] = waited_make();
        reactor_write(reactor, &ops[i].op, data,
                      (struct io_span){bytes, (uint64_t)i * HELD_WRITE_BYTES, HELD_WRITE_BYTES},
                      IO_WRITE_DURABLE);
    }
    reactor_poll(reactor, false, 0);
    cr_assert_eq(write(ready, "x", 1), 1);
    for (;;)
        pause();
}

/* What the file holds; 0 for a part that no write of this round reached. */
static uint64_t count_bytes(int fd, uint8_t fill)
{
    static uint8_t bytes[HELD_WRITE_BYTES];
    uint64_t count = 0;
    for (uint32_t i = 0; i < HELD_WRITES; i++) {
        cr_assert_eq(pread(fd, bytes, sizeof(bytes), (off_t)i * HELD_WRITE_BYTES), sizeof(bytes));
        for (uint32_t at = 0; at < sizeof(bytes); at += 512)
            count += bytes[at] == fill;
    }
    return count;
}

/* The kernel goes on with writes of a process that is gone: the lock has to outlast them. */
Test(reactor_files, a_held_lock_outlasts_the_writes_of_a_killed_process)
{
    int data = open(in_directory("data"), O_CREAT | O_RDWR, 0600);
    for (uint8_t round = 1; round <= 12; round++) {
        int ready[2];
        cr_assert_eq(ftruncate(data, 0), 0);
        cr_assert_eq(ftruncate(data, HELD_WRITES * HELD_WRITE_BYTES), 0);
        cr_assert_eq(pipe(ready), 0);
        pid_t child = fork();
        if (child == 0)
            killed_writer(ready[1], round);
        char byte;
        cr_assert_eq(read(ready[0], &byte, 1), 1);
        kill(child, SIGKILL);
        cr_assert_eq(waitpid(child, NULL, 0), child);
        struct reactor *reactor = reactor_open_default("");
        struct io_file lock = {RUN(reactor, reactor_open, in_directory("LOCK"), IO_OPEN_READ)};
        cr_assert_eq(reactor_lock_file(reactor, lock), 0);
        uint64_t seen = count_bytes(data, round);
        usleep(50000);
        cr_assert_eq(count_bytes(data, round), seen, "writes of a dead process under our lock");
        cr_assert_eq(RUN(reactor, reactor_close, lock), 0);
        reactor_destroy(reactor);
        close(ready[0]);
        close(ready[1]);
    }
    close(data);
}

Test(reactor_files, lock_is_exclusive_until_closed)
{
    struct reactor *reactor = reactor_open_default("");
    struct io_file files[2];
    for (int i = 0; i < 2; i++)
        files[i].fd = RUN(reactor, reactor_open, in_directory("LOCK"),
                          IO_OPEN_READ | IO_OPEN_WRITE | IO_OPEN_CREATE);
    cr_assert_eq(reactor_lock_file(reactor, files[0]), 0);
    uint64_t start_ns = reactor_clock_ns(reactor);
    cr_assert_eq(reactor_lock_file(reactor, files[1]), ERR_LOCKED);
    cr_assert_geq(reactor_clock_ns(reactor) - start_ns, 4 * NS_PER_S, "patient");
    cr_assert_eq(RUN(reactor, reactor_close, files[0]), 0);
    cr_assert_eq(reactor_lock_file(reactor, files[1]), 0);
    cr_assert_eq(RUN(reactor, reactor_close, files[1]), 0);
    reactor_destroy(reactor);
}

Test(reactor_misuse, starting_an_op_twice_is_noticed, .signal = SIGABRT)
{
    struct reactor *reactor = reactor_open_default("");
    struct waited_op waited = waited_make();
    reactor_unlink(reactor, &waited.op, "/nonexistent");
    reactor_unlink(reactor, &waited.op, "/nonexistent");
}

Test(reactor_files, buffers_work_without_the_right_to_lock_memory)
{
    cr_assert_eq(chmod(directory, 0777), 0);
    struct rlimit limit = {1 * MIB, 1 * MIB}; /* enough for the ring, not for the arena */
    cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    bool is_root = geteuid() == 0; /* whom the limit does not bind */
    if (is_root)
        cr_assert_eq(seteuid(65534), 0);
    direct_durable_round_trip("");
    if (is_root)
        cr_assert_eq(seteuid(0), 0);
}

/* ---- the table both backends share ---------------------------------------------------------- */

static void conformance(const char *disable)
{
    struct mesh *mesh;
    struct core *core;
    char reason[256] = "";
    struct core_options options = {.reactor = options_default(disable), .fibers_max = 16};
    cr_assert_eq(mesh_create(1, 64, &mesh), 0);
    cr_assert_eq(core_create(&options, mesh, &core, reason, sizeof(reason)), 0, "%s", reason);
    core_set_current(core);
    struct reactor_conformance run = {.directory = directory, .host = "127.0.0.1"};
    cr_assert_eq(reactor_conformance_start(core, &run), 0);
    uint64_t deadline_ns = reactor_clock_ns(core_reactor(core)) + WAIT_NS_MAX;
    while (!run.finished) {
        cr_assert_lt(reactor_clock_ns(core_reactor(core)), deadline_ns, "stalled after case %u",
                     run.cases_run);
        core_turn(core, true);
    }
    cr_assert_eq(run.failures, 0, "[%s] %s", disable, run.first_failure);
    core_set_current(NULL);
    core_destroy(core);
    mesh_destroy(mesh);
}

Test(reactor_files, conforms)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++)
        conformance(feature_sets[i]);
}
