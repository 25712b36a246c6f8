/* Garbage that goes, files that cannot be written, and disks without room for either. */
#include "storage/lsm/background.h"
#include "test_lsm.h"

#include <errno.h>

TestSuite(lsm_trouble, .init = core_with_root_open, .fini = core_with_root_close, .timeout = 600);

/* ---- what cannot be written ------------------------------------------------------------------ */

static uint32_t rotate(uint64_t version)
{
    put_text("k/a", version, "a");
    lsm_commit(lsm, version, 1);
    lsm_set_durable_index(lsm, version);
    lsm_flush_begin(lsm);
    return lsm_pressure(lsm);
}

static char dir[128], away[160];

static void failing_store_open(const char *name)
{
    struct lsm_options options = tiny_options(in_root(name));
    snprintf(dir, sizeof(dir), "%s", options.dir);
    snprintf(away, sizeof(away), "%s.away", dir);
    store_open(&options);
}

static void until_failed(enum lsm_work work, uint32_t times)
{
    for (int i = 0; i < 60 * 1000 && lsm->failed[work].times != times; i++)
        pause_ms(1);
    cr_assert_eq(lsm->failed[work].times, times);
}

/* A disk that takes no new file, and does again. */
static void flushes_fail(void)
{
    static const uint32_t pressures[] = {33, 66, 100, 133, 166, 200, 200};
    failing_store_open("fails");
    shell("mv %s %s", dir, away);
    for (uint64_t i = 0; i < ARRAY_COUNT(pressures); i++)
        cr_expect_eq(rotate(i + 1), pressures[i], "%lu memtables wait", i + 1);
    until_failed(LSM_WORK_FLUSH, 1);
    cr_expect_eq(lsm_failure(lsm), 0, "it may have been a moment");
    until_failed(LSM_WORK_FLUSH, 2);
    cr_expect_eq(lsm_failure(lsm), -ENOENT);
    cr_expect_eq(lsm_installs(lsm), 0);
    shell("mv %s %s", away, dir);
    for (int i = 0; i < 5000 && lsm_flushed_index(lsm) < ARRAY_COUNT(pressures); i++)
        pause_ms(1);
    cr_expect_eq(lsm_flushed_index(lsm), ARRAY_COUNT(pressures));
    cr_expect_eq(lsm_failure(lsm), 0);
    cr_expect_geq(lsm_installs(lsm), ARRAY_COUNT(pressures));
    store_settle();
    cr_expect_lt(lsm_pressure(lsm), 33);
    store_close();
}

Test(lsm_trouble, what_cannot_be_written_is_told_until_it_can)
{
    in_fiber(flushes_fail);
}

/* It is picked once. Else what failed years ago would make a slow flush look like a full disk. */
static void merge_fails(void)
{
    failing_store_open("merge");
    (void)rotate(1);
    store_settle();
    shell("mv %s %s", dir, away);
    for (int round = 0; round < 2; round++) {
        lsm_compact_all(lsm);
        until_failed(LSM_WORK_MERGE, 1);
        until_failed(LSM_WORK_MERGE, 0);
    }
    cr_expect_eq(lsm_failure(lsm), 0);
    shell("mv %s %s", away, dir);
    store_close();
}

Test(lsm_trouble, a_merge_that_failed_and_is_not_due_any_more_is_forgotten)
{
    in_fiber(merge_fails);
}

/* ---- tables that do not come to be --------------------------------------------------------------
 */

/* The file is complete, but what reads it back finds another's number in it. */
static void unreadable_output(void)
{
    struct lsm_options options = tiny_options(in_root("output"));
    struct background_output output = {0};
    struct lsm_row row = {.key = bytes_from_text("k/a"), .value = bytes_from_text("value")};
    store_open(&options);
    cr_assert_eq(background_output_add(lsm->background, &output, 0, &row), 0);
    output.number++;
    cr_assert_eq(background_output_finish(&output), ERR_CORRUPT);
    cr_expect_eq(access(output.path, F_OK), -1, "nobody would remove it before the next start");
    cr_expect_eq(output.count, 0);
    background_output_end(&output, false);
    store_close();
}

Test(lsm_trouble, a_finished_table_that_cannot_be_opened_goes)
{
    in_fiber(unreadable_output);
}

/* ---- compaction filter ------------------------------------------------------------------------
 * */

static uint64_t watermark;
static int filter_jobs;

static void *filter_begin(void *context)
{
    (void)context;
    filter_jobs++;
    return &watermark;
}

/* etcd's rule: below the watermark only the newest version of a key stays, and not if it is a
 * tombstone. */
static bool filter_keep(void *job, const struct lsm_filter_row *row)
{
    uint64_t limit = *(uint64_t *)job;
    if (row->newer_exists && row->newer_version.main <= limit)
        return false;
    return !(row->row->kind == LSM_TOMBSTONE && row->row->version.main <= limit && row->bottom);
}

static void filter_end(void *job)
{
    (void)job;
    filter_jobs--;
}

static uint64_t rows_in_tables(void)
{
    struct lsm_stats stats;
    uint64_t rows = 0;
    lsm_stats(lsm, &stats);
    for (int level = 0; level < LSM_LEVELS; level++)
        rows += stats.levels[level].rows;
    return rows;
}

static void garbage(void)
{
    static const struct lsm_filter filter = {
        .begin = filter_begin, .keep = filter_keep, .end = filter_end};
    struct lsm_options options = tiny_options(in_root("garbage"));
    options.filter = &filter;
    watermark = 0;
    store_open(&options);
    uint64_t version = 0;
    for (int round = 0; round < 40; round++)
        for (int i = 0; i < 50; i++) {
            char key[16];
            snprintf(key, sizeof(key), "k/%03d", i);
            version++;
            lsm_insert(lsm, bytes_from_text(key), (struct lsm_version){version, 0},
                       round == 39 && i % 2 == 0 ? LSM_TOMBSTONE : LSM_VALUE,
                       round == 39 && i % 2 == 0 ? bytes_make(NULL, 0) : bytes_from_text("value"));
            lsm_commit(lsm, version, 1);
        }
    store_flush(version);
    store_settle();
    cr_assert_eq(rows_in_tables(), 2000, "nothing may go at watermark 0");
    watermark = version;
    lsm_compact_all(lsm);
    for (int i = 0; i < 60 * 1000 && (rows_in_tables() > 25 || filter_jobs > 0); i++)
        pause_ms(1); /* a busy disk takes its time */
    cr_assert_eq(rows_in_tables(), 25, "one version of each living key");
    cr_assert_eq(filter_jobs, 0);
    struct lsm_stats after;
    lsm_stats(lsm, &after);
    cr_assert_lt(after.logical_bytes, 25 * 12);
    struct lsm_row row;
    cr_assert_eq(lsm_get(reader, bytes_from_text("k/000"), LSM_VERSION_MAX, &row), ERR_NOT_FOUND);
    cr_assert_eq(lsm_get(reader, bytes_from_text("k/001"), LSM_VERSION_MAX, &row), 0);
    lsm_row_release(reader, &row);
    store_close();
}

Test(lsm_trouble, the_filter_drops_what_the_watermark_hides)
{
    in_fiber(garbage);
}

/* A history: rows up to the watermark go. Nothing supersedes them, so only the filter knows. */
static bool history_keep(void *job, const struct lsm_filter_row *row)
{
    return row->row->key.data[0] != 'r' || row->row->version.main > *(uint64_t *)job;
}

static uint64_t history_droppable(void *context, const struct lsm_filter_table *table)
{
    (void)context;
    if (table->smallest.data[0] != 'r')
        return watermark == 0 ? 0 : table->superseded;
    return table->version_first <= watermark ? table->rows : 0;
}

static const struct lsm_filter history_filter = {
    .begin = filter_begin, .keep = history_keep, .end = filter_end, .droppable = history_droppable};

/* Versions 1 to `rows`, in as many keys, in the memtable. */
static void write_history(uint64_t rows)
{
    for (uint64_t version = 1; version <= rows; version++) {
        char key[32];
        snprintf(key, sizeof(key), "r%012lu", version);
        put_text(key, version, "what changed");
        lsm_commit(lsm, version, 1);
    }
}

static void expect_rows_below(uint64_t rows)
{
    for (int i = 0; i < 60 * 1000 && rows_in_tables() >= rows; i++)
        pause_ms(1);
    cr_assert_lt(rows_in_tables(), rows);
}

static void worth(void)
{
    enum { ROWS = 6000, OVERWRITES = 3000 };
    struct lsm_options options = tiny_options(in_root("worth"));
    options.filter = &history_filter;
    watermark = 0;
    store_open(&options);
    for (uint64_t version = 1; version <= ROWS + OVERWRITES; version++) {
        char key[32];
        snprintf(key, sizeof(key), "r%012lu", version);
        put_text(version <= ROWS ? key : "k", version, "what changed");
        lsm_commit(lsm, version, 1);
        lsm_set_durable_index(lsm, version);
        if (version % 100 == 0)
            while (lsm_pressure(lsm) > 0)
                pause_ms(1);
    }
    store_flush(ROWS + OVERWRITES);
    pay_debts();
    struct lsm_stats before = stats_now();
    cr_expect_gt(before.trivial_moves, 0, "what may not be dropped is just moved");
    uint64_t superseded = 0;
    for (int level = 1; level < LSM_LEVELS; level++)
        superseded += before.levels[level].superseded_rows;
    cr_assert_gt(superseded, OVERWRITES / 2);
    lsm_garbage_changed(lsm);
    store_settle();
    cr_expect_eq(stats_now().compactions, before.compactions, "nothing of it may go");
    watermark = ROWS / 2;
    lsm_garbage_changed(lsm);
    expect_rows_below(ROWS + OVERWRITES - ROWS / 6);
    store_close();
    watermark = ROWS;
    options.level_base_bytes = 1; /* all of it goes down, and nothing without a look at it */
    store_open(&options);
    expect_rows_below(OVERWRITES + ROWS / 6);
    store_close();
}

Test(lsm_trouble, tables_are_rewritten_when_the_filter_would_drop_rows_of_them)
{
    in_fiber(worth);
}

static uint64_t settled_droppable(void *context, const struct lsm_filter_table *table)
{
    (void)context;
    return table->settled >= table->version_last ? 0 : table->superseded + table->tombstones;
}

static uint64_t filter_watermark(void *job)
{
    return *(uint64_t *)job;
}

static uint64_t write_many(uint64_t version, uint32_t keys, enum lsm_kind kind)
{
    for (uint32_t i = 0; i < keys; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k/%05u", i);
        lsm_insert(lsm, bytes_from_text(key), (struct lsm_version){++version, 0}, kind,
                   bytes_from_text(kind == LSM_VALUE ? "some value of a key" : ""));
        lsm_commit(lsm, version, 1);
    }
    store_flush(version);
    return version;
}

/* Tombstones above what they hide look like garbage and must stay: one look is enough. */
static void settled(void)
{
    static const struct lsm_filter filter = {.begin = filter_begin,
                                             .keep = filter_keep,
                                             .end = filter_end,
                                             .droppable = settled_droppable,
                                             .watermark = filter_watermark};
    enum { KEYS = 200, ROUNDS = 3 };
    struct lsm_options options = tiny_options(in_root("settled"));
    options.filter = &filter;
    options.level0_tables = 1;
    options.level_base_bytes = 1;
    watermark = 0;
    store_open(&options);
    uint64_t version = write_many(0, KEYS, LSM_VALUE);
    for (int i = 0; i < 60 * 1000 && stats_now().levels[LSM_LEVELS - 1].rows < KEYS; i++)
        pause_ms(1);
    cr_assert_eq(stats_now().levels[LSM_LEVELS - 1].rows, KEYS);
    store_close();
    options.level_base_bytes = MIB;
    store_open(&options);
    version = write_many(version, KEYS, LSM_TOMBSTONE);
    pay_debts();
    cr_assert_eq(stats_now().levels[1].rows, KEYS);
    uint64_t want = stats_now().compactions + stats_now().levels[1].tables;
    watermark = version;
    for (int round = 1; round <= ROUNDS; round++) {
        lsm_garbage_changed(lsm);
        for (int i = 0; i < 60 * 1000 && stats_now().compactions < want; i++)
            pause_ms(1);
        store_settle();
        cr_expect_eq(stats_now().compactions, want, "round %d", round);
        cr_expect_eq(stats_now().levels[1].rows, KEYS, "what they hide lies below");
    }
    store_close();
}

Test(lsm_trouble, a_table_is_rewritten_once_for_what_has_to_stay)
{
    in_fiber(settled);
}

/* What would free space needs some first, and is not forgotten when there is none. */
static void garbage_without_room(void)
{
    enum { ROWS = 50 };
    struct lsm_options options = tiny_options(in_root("room"));
    options.filter = &history_filter;
    options.level0_tables = 1;
    watermark = 0;
    store_open(&options);
    write_history(ROWS);
    store_flush(ROWS);
    pay_debts();
    cr_assert_eq(stats_now().levels[1].rows, ROWS);
    watermark = ROWS - 1;
    limit_files(0);
    lsm_garbage_changed(lsm);
    for (int i = 0; i < 60 * 1000 && lsm_failure(lsm) == 0; i++)
        pause_ms(1);
    cr_assert_eq(lsm_failure(lsm), -EFBIG);
    limit_files(RLIM_INFINITY);
    for (int i = 0; i < 60 * 1000 && lsm_failure(lsm) != 0; i++)
        pause_ms(1);
    cr_expect_eq(rows_in_tables(), 1);
    store_close();
}

/* A merge of level 0 that finds no room stays due; what makes room must not wait for it. */
static void garbage_makes_room(void)
{
    enum { ROWS = 50, KEYS = 2000 };
    struct lsm_options options = tiny_options(in_root("makes-room"));
    options.filter = &history_filter;
    options.level0_tables = 1;
    options.memtable_bytes = options.table_bytes = options.level_base_bytes = MIB;
    options.compression = options.compression_top = LSM_COMPRESSION_NONE;
    watermark = 0;
    store_open(&options);
    write_history(ROWS);
    uint64_t version = write_many(ROWS, KEYS, LSM_VALUE);
    pay_debts();
    cr_assert_eq(stats_now().levels[1].rows, ROWS + KEYS);
    limit_files(stats_now().levels[1].bytes + IO_ALIGN_BYTES);
    write_many(version, KEYS, LSM_VALUE);
    for (int i = 0; i < 60 * 1000 && lsm_failure(lsm) == 0; i++)
        pause_ms(1);
    cr_assert_eq(lsm_failure(lsm), -EFBIG, "both versions are more than a file may have");
    watermark = ROWS;
    lsm_garbage_changed(lsm);
    for (int i = 0; i < 10 * 1000 && stats_now().levels[1].rows > KEYS; i++)
        pause_ms(1);
    cr_expect_eq(stats_now().levels[1].rows, KEYS);
    limit_files(RLIM_INFINITY);
    for (int i = 0; i < 60 * 1000 && stats_now().levels[1].rows < 2 * KEYS; i++)
        pause_ms(1);
    cr_expect_eq(rows_in_tables(), 2 * KEYS);
    store_close();
}

Test(lsm_trouble, garbage_goes_first_when_a_merge_finds_no_room)
{
    in_fiber(garbage_makes_room);
}

Test(lsm_trouble, garbage_waits_for_room_on_the_disk)
{
    in_fiber(garbage_without_room);
}
