/* Micro-benchmark of storage/lsm/: one core, a million random 16-byte keys with 256-byte values.
 * usage: lsm_bench <empty directory> [rows] */
#include <stdio.h>
#include <stdlib.h>

#include "core/core.h"
#include "core/err.h"
#include "core/fiber.h"
#include "core/invariant.h"
#include "core/prng.h"
#include "storage/lsm/lsm.h"

#define KEY_BYTES   16
#define VALUE_BYTES 256

static struct bench {
    const char *dir;
    uint64_t rows;
    struct core *core;
    struct lsm *lsm;
    struct lsm_reader *reader;
    uint8_t value[VALUE_BYTES];
    uint64_t version;
    uint64_t cpu_start_ns;
    bool finished;
} bench;

static uint64_t clock_ns(void)
{
    return reactor_clock_ns(core_reactor(bench.core));
}

/* A bijection: every i gives another key, in no order. */
static struct bytes key_of(uint8_t *to, uint64_t i)
{
    uint64_t mixed = i * 0x9e3779b97f4a7c15u;
    mixed ^= mixed >> 32;
    to[0] = 'k';
    memcpy(to + 1, "key:", 4);
    be64_store(to + 5, mixed * 0xbf58476d1ce4e5b9u);
    memset(to + 13, '0', KEY_BYTES - 13);
    return bytes_make(to, KEY_BYTES);
}

static uint64_t cpu_ns(void)
{
    struct reactor_process_stats stats;
    reactor_process_stats(core_reactor(bench.core), &stats);
    return stats.cpu_ns;
}

/* CPU time tells more than the clock where others use the machine. */
static uint64_t bench_begin(void)
{
    bench.cpu_start_ns = cpu_ns();
    return clock_ns();
}

static void report(const char *what, uint64_t start_ns, uint64_t count)
{
    double spent_ns = (double)(clock_ns() - start_ns);
    double cpu = (double)(cpu_ns() - bench.cpu_start_ns);
    printf("%-46s %8.0f ns each, %8.0f ns CPU\n", what, spent_ns / (double)count,
           cpu / (double)count);
    fflush(stdout);
}

static struct lsm_options bench_options(uint64_t memtable_bytes, uint64_t cache_bytes)
{
    return (struct lsm_options){.dir = bench.dir,
                                .memtable_bytes = memtable_bytes,
                                .memtables_max = 8,
                                .block_cache_bytes_per_core = cache_bytes,
                                .core_count = 1,
                                .message_kind_base = 10,
                                .random_seed = 3};
}

static void bench_open(struct lsm_options options)
{
    int status = lsm_open(bench.core, &options, &bench.lsm);
    if (status < 0 || lsm_reader_open(bench.lsm, bench.core, &bench.reader) < 0)
        fatal("cannot open %s: %s", bench.dir, err_text(status));
    lsm_background_start(bench.lsm, bench.core);
}

static void bench_close(void)
{
    lsm_background_stop(bench.lsm);
    lsm_reader_close(bench.reader);
    fiber_sleep_until(core_now_ns(bench.core) + NS_PER_MS);
    lsm_close(bench.lsm);
}

static void bench_write(uint64_t i, bool read_before)
{
    uint8_t buffer[KEY_BYTES];
    struct bytes key = key_of(buffer, i);
    struct lsm_version version = {++bench.version, 0};
    struct bytes value = bytes_make(bench.value, VALUE_BYTES);
    if (read_before) {
        struct lsm_row row;
        int found = lsm_find_newest_in_memory(bench.lsm, key, &row);
        invariant(found == 0 || found == ERR_NOT_FOUND);
    }
    lsm_insert(bench.lsm, key, version, LSM_VALUE, value);
}

static void bench_prefetch(uint64_t first, uint64_t step, uint32_t count)
{
    uint8_t buffers[16][KEY_BYTES];
    struct bytes keys[16];
    invariant(count <= 16);
    for (uint32_t i = 0; i < count; i++)
        keys[i] = key_of(buffers[i], first + i * step);
    lsm_prefetch(bench.lsm, keys, count);
}

static void bench_gets(const char *what, uint64_t count, uint64_t range, bool may_wait)
{
    struct prng prng;
    prng_init(&prng, 11);
    uint64_t start_ns = bench_begin(), waited = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint8_t buffer[KEY_BYTES];
        struct lsm_row row;
        struct bytes key = key_of(buffer, prng_below(&prng, range));
        int status = lsm_get_now(bench.reader, key, LSM_VERSION_MAX, &row);
        if (status == ERR_WOULD_WAIT && may_wait) {
            waited++;
            status = lsm_get(bench.reader, key, LSM_VERSION_MAX, &row);
        }
        if (status < 0)
            fatal("get: %s", err_text(status));
        lsm_row_release(bench.reader, &row);
    }
    report(what, start_ns, count);
    if (waited > 0)
        printf("    %lu of them read the disk\n", waited);
}

static void bench_absent(uint64_t count)
{
    uint64_t start_ns = bench_begin(), found = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint8_t buffer[KEY_BYTES];
        struct lsm_row row;
        int status =
            lsm_get_now(bench.reader, key_of(buffer, bench.rows * 3 + i), LSM_VERSION_MAX, &row);
        found += status != ERR_NOT_FOUND;
    }
    report("get of absent keys (bloom filters)", start_ns, count);
    printf("    %lu not answered by the filters\n", found);
}

static void bench_scan(const char *what)
{
    struct lsm_cursor *cursor;
    struct lsm_cursor_options all = {.version_max = LSM_VERSION_MAX, .newest_only = true};
    struct lsm_row row;
    uint64_t start_ns = bench_begin(), rows = 0;
    int status = lsm_cursor_open(bench.reader, &all, &cursor);
    while (status >= 0 && (status = lsm_cursor_next(cursor, &row)) == 1)
        rows++;
    if (status < 0)
        fatal("scan: %s", err_text(status));
    lsm_cursor_close(cursor);
    report(what, start_ns, rows);
}

static void bench_memory(void)
{
    bench_open(bench_options(4 * GIB, MIB));
    uint64_t start_ns = bench_begin();
    for (uint64_t i = 0; i < bench.rows; i++)
        bench_write(i, false);
    report("memtable insert, random, growing to all rows", start_ns, bench.rows);
    start_ns = bench_begin();
    for (uint64_t i = 0; i < bench.rows / 4; i++)
        bench_write(bench.rows + i, false);
    report("memtable insert, random, at all rows", start_ns, bench.rows / 4);
    start_ns = bench_begin();
    for (uint64_t i = 0; i < bench.rows / 4; i++) {
        if (i % 16 == 0)
            bench_prefetch(bench.rows * 2 + i, 1, 16);
        bench_write(bench.rows * 2 + i, false);
    }
    report("the same in batches of 16 with prefetch", start_ns, bench.rows / 4);
    start_ns = bench_begin();
    for (uint64_t i = 0; i < bench.rows / 4; i++) {
        if (i % 16 == 0)
            bench_prefetch(i * 3, 3, 16);
        bench_write(i * 3, true);
    }
    report("find newest + insert, batches of 16", start_ns, bench.rows / 4);
    start_ns = bench_begin();
    for (uint64_t i = 0; i < bench.rows / 4; i++)
        bench_write(i * 3 + 1, true);
    report("find newest + insert at position", start_ns, bench.rows / 4);
    start_ns = bench_begin();
    for (uint64_t i = 0; i < bench.rows; i++) {
        uint8_t key[9] = {'r'};
        be64_store(key + 1, i);
        lsm_insert(bench.lsm, bytes_make(key, sizeof(key)), (struct lsm_version){i, 0}, LSM_VALUE,
                   bytes_make(bench.value, 24));
    }
    report("sequential append (finger), 24 B values", start_ns, bench.rows);
    bench_gets("get from the memtable", bench.rows, bench.rows, false);
    bench_scan("scan of the memtable");
    bench_close();
}

static void bench_disk(void)
{
    bench_open(bench_options(64 * MIB, 2 * GIB));
    bench.version = 0;
    uint64_t start_ns = bench_begin();
    for (uint64_t i = 0; i < bench.rows; i++) {
        bench_write(i, false);
        if (i % 100 == 0) {
            lsm_commit(bench.lsm, i + 1, 1);
            lsm_set_durable_index(bench.lsm, i + 1);
            while (lsm_pressure(bench.lsm) >= LSM_PRESSURE_FULL)
                fiber_sleep_until(core_now_ns(bench.core) + NS_PER_MS);
        }
    }
    lsm_commit(bench.lsm, bench.rows, 1);
    lsm_set_durable_index(bench.lsm, bench.rows);
    lsm_flush_begin(bench.lsm);
    while (lsm_flushed_index(bench.lsm) < bench.rows)
        fiber_sleep_until(core_now_ns(bench.core) + NS_PER_MS);
    report("insert until all is flushed", start_ns, bench.rows);
    struct lsm_stats stats;
    uint64_t before = 0;
    for (int quiet = 0; quiet < 100; quiet++) {
        fiber_sleep_until(core_now_ns(bench.core) + 5 * NS_PER_MS);
        lsm_stats(bench.lsm, &stats);
        if (stats.compactions != before)
            quiet = 0;
        before = stats.compactions;
    }
    lsm_compact_all(bench.lsm);
    while (stats.compactions == before) {
        fiber_sleep_until(core_now_ns(bench.core) + 5 * NS_PER_MS);
        lsm_stats(bench.lsm, &stats);
    }
    printf("flush:      %lu, %.0f MB/s\n", stats.flushes,
           (double)stats.flush_bytes * 1e3 / (double)stats.flush_ns);
    printf("compaction: %lu, reads %.0f MB/s and writes %.0f MB/s\n", stats.compactions,
           (double)stats.compaction_read_bytes * 1e3 / (double)stats.compaction_ns,
           (double)stats.compaction_write_bytes * 1e3 / (double)stats.compaction_ns);
    printf("tables:     %.1f MB for %.1f MB of rows; filters and indexes %.2f MB\n",
           (double)stats.table_bytes / 1e6, (double)stats.logical_bytes / 1e6,
           (double)stats.filter_index_bytes / 1e6);
    bench_gets("get, block cache cold", bench.rows / 50, bench.rows, true);
    bench_scan("scan, half cold");
    bench_scan("scan, warm");
    bench_gets("get from cached blocks", bench.rows, bench.rows, true);
    bench_gets("get from cached blocks, 1000 hot keys", bench.rows, 1000, true);
    bench_absent(bench.rows);
    bench_close();
    start_ns = bench_begin();
    bench_open(bench_options(64 * MIB, 2 * GIB));
    report("open", start_ns, 1);
    bench_close();
}

static void bench_run(void *argument)
{
    (void)argument;
    bench_memory();
    bench_disk();
    bench.finished = true;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s <empty directory> [rows]\n", argv[0]);
        return 2;
    }
    bench.dir = argv[1];
    bench.rows = argc > 2 ? strtoul(argv[2], NULL, 10) : 1000000;
    struct prng prng;
    prng_init(&prng, 1);
    for (size_t i = 0; i < sizeof(bench.value); i++)
        bench.value[i] = (uint8_t)(i < 128 ? prng_next(&prng) : 'x');
    struct core_options options = {.reactor = {.core_count = 1,
                                               .files_max = 1024,
                                               .buffer_bytes = 32 * MIB,
                                               .recv_buffer_bytes = 4096,
                                               .recv_buffer_count = 16,
                                               .random_seed = 1},
                                   .fibers_max = 64};
    struct mesh *mesh;
    char reason[256] = "";
    if (mesh_create(1, 256, &mesh) < 0 ||
        core_create(&options, mesh, &bench.core, reason, sizeof(reason)) < 0)
        fatal("cannot start: %s", reason);
    core_set_current(bench.core);
    if (fiber_spawn(bench.core, FIBER_LATENCY, bench_run, NULL) < 0)
        fatal("no fiber");
    while (!bench.finished)
        core_turn(bench.core, true);
    core_set_current(NULL);
    core_destroy(bench.core);
    mesh_destroy(mesh);
    return 0;
}
