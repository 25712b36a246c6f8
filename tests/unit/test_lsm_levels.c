/* How tables lie in levels, and what is merged first and how much of it at once. */
#include "storage/lsm/lsm_private.h"
#include "test_lsm.h"

TestSuite(lsm_levels, .init = core_with_root_open, .fini = core_with_root_close, .timeout = 600);

/* ---- tables between bounds ----------------------------------------------------------------------
 */

Test(lsm_levels, tables_of_a_level_are_found_by_key)
{
    static struct lsm_table tables[] = {
        {.smallest = {(const uint8_t *)"b", 1}, .largest = {(const uint8_t *)"d", 1}},
        {.smallest = {(const uint8_t *)"f", 1}, .largest = {(const uint8_t *)"f", 1}},
        {.smallest = {(const uint8_t *)"h", 1}, .largest = {(const uint8_t *)"k", 1}},
    };
    static struct lsm_table *const level[] = {&tables[0], &tables[1], &tables[2]};
    static const struct {
        const char *why, *key;
        uint32_t count, reach, begin;
    } cases[] = {
        {"before all keys there are", "", 3, 0, 0},
        {"in front of the first table", "a", 3, 0, 0},
        {"its first key", "b", 3, 0, 0},
        {"inside", "c", 3, 0, 1},
        {"its last key", "d", 3, 0, 1},
        {"between tables", "e", 3, 1, 1},
        {"a table of one key", "f", 3, 1, 1},
        {"behind it", "f+", 3, 2, 2},
        {"the last key", "k", 3, 2, 3},
        {"behind all", "l", 3, 3, 3},
        {"of one table", "c", 1, 0, 1},
        {"of none", "c", 0, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct bytes key = bytes_from_text(cases[i].key);
        cr_expect_eq(lsm_tables_reach(level, cases[i].count, key), cases[i].reach, "%s",
                     cases[i].why);
        cr_expect_eq(lsm_tables_begin(level, cases[i].count, key), cases[i].begin, "%s",
                     cases[i].why);
    }
}

/* ---- kinds of rows ----------------------------------------------------------------------------
 */

/* Keys of four kinds, as an application writes them: some again and again, some ever new. */
static void write_kinds(uint64_t first, uint64_t last)
{
    for (uint64_t version = first; version <= last; version++) {
        char key[32];
        snprintf(key, sizeof(key), "k/%03lu", version * 7919 % 500);
        put_text(key, version, "some value of a key");
        snprintf(key, sizeof(key), "l/%03lu", version % 10);
        put_text(key, version, "");
        snprintf(key, sizeof(key), "r%012lu", version);
        put_text(key, version, "what changed");
        if (version % 50 == 0)
            put_text("m", version, "a fact");
        lsm_commit(lsm, version, 1);
        lsm_set_durable_index(lsm, version);
        if (version % 100 == 0)
            while (lsm_pressure(lsm) > 0)
                pause_ms(1);
    }
}

static const struct lsm_levels *levels_now(void)
{
    return atomic_load(&lsm->view)->levels;
}

static void kinds(void)
{
    struct lsm_options options = tiny_options(in_root("kinds"));
    store_open(&options);
    write_kinds(1, 4000);
    store_flush(4000);
    pay_debts();
    lsm_compact_all(lsm);
    write_kinds(4001, 6000);
    pay_debts();
    uint32_t deep = 0;
    for (uint32_t level = 1; level < LSM_LEVELS; level++)
        for (uint32_t i = 0; i < levels_now()->level[level].count; i++) {
            const struct lsm_table *table = levels_now()->level[level].tables[i];
            cr_expect_eq(table->smallest.data[0], table->largest.data[0], "level %u: %.*s .. %.*s",
                         level, (int)table->smallest.size, table->smallest.data,
                         (int)table->largest.size, table->largest.data);
            deep += level > 1;
        }
    cr_assert_gt(deep, 0, "levels are exercised");
    store_close();
}

Test(lsm_levels, a_compaction_puts_rows_of_two_kinds_into_two_tables)
{
    in_fiber(kinds);
}

/* ---- what goes first --------------------------------------------------------------------------
 */

static void flush_tables(uint64_t *version, uint32_t tables)
{
    for (uint32_t i = 0; i < tables; i++) {
        for (int j = 0; j < 100; j++) {
            char key[16];
            snprintf(key, sizeof(key), "k/%05lu", ++*version * 7919 % 100000);
            put_text(key, *version, "some value of a key");
        }
        lsm_commit(lsm, *version, 1);
        store_flush(*version);
    }
}

/* Level 1 is far over its target, as after a change of it; level 0 is half as full as it may be. */
static void expect_first(const char *name, uint32_t level1_flushes, bool level0_first)
{
    struct lsm_options options = tiny_options(in_root(name));
    uint64_t version = 0;
    struct lsm_stats stats;
    options.level_base_bytes = GIB;
    store_open(&options);
    flush_tables(&version, level1_flushes);
    pay_debts();
    store_close();
    options.level0_tables = 100;
    store_open(&options);
    flush_tables(&version, 8);
    lsm_stats(lsm, &stats);
    cr_assert_gt(stats.levels[1].tables, 4);
    cr_assert_geq(stats.levels[0].tables, 8);
    cr_assert_eq(stats.levels[1].bytes <= 4 * stats.levels[0].bytes, level0_first);
    store_close();
    options.level0_tables = 2;
    options.level_base_bytes = 1;
    store_open(&options);
    do {
        fiber_yield();
        lsm_stats(lsm, &stats);
    } while (stats.compactions == 0);
    cr_expect_eq(stats.levels[0].tables == 0, level0_first, "%s, after %lu compactions", name,
                 stats.compactions);
    store_close();
}

static void level0_first(void)
{
    expect_first("first", 20, true);
}

Test(lsm_levels, level_0_goes_before_deeper_ones_when_it_might_stop_writes)
{
    in_fiber(level0_first);
}

static void level1_first(void)
{
    expect_first("second", 120, false);
}

Test(lsm_levels, level_0_does_not_push_into_a_level_1_of_many_times_its_size)
{
    in_fiber(level1_first);
}

static void level1_target(void)
{
    static const struct {
        const char *why;
        uint64_t memtable_bytes, base_bytes, want;
        uint32_t level0_tables;
    } cases[] = {
        {"small memtables", 4 * MIB, 0, 256 * MIB, 12},
        {"a compaction of level 0 alone would exceed it", 64 * MIB, 0, 768 * MIB, 12},
        {"as told", 64 * MIB, MIB, MIB, 12},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct lsm_options options = tiny_options(in_root("target"));
        options.memtable_bytes = cases[i].memtable_bytes;
        options.level0_tables = cases[i].level0_tables;
        options.level_base_bytes = cases[i].base_bytes;
        store_open(&options);
        cr_expect_eq(lsm->options.level_base_bytes, cases[i].want, "%s", cases[i].why);
        store_close();
    }
}

Test(lsm_levels, level_1_holds_what_level_0_brings_at_once)
{
    in_fiber(level1_target);
}

/* How many tables level 0 has when the first merge begins. */
static void level0_portion(void)
{
    static const struct {
        const char *name, *why;
        uint64_t base_bytes, wait_ns;
        uint32_t want;
    } cases[] = {
        {"calm", "as many as reads should look into: flushes are rare", GIB, 1, 3},
        {"storm", "a third of what stops writes", GIB, 3600 * NS_PER_S, 8},
        {"full", "as much as level 1 may have, and no less than usual", 1, 3600 * NS_PER_S, 3},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct lsm_options options = tiny_options(in_root(cases[i].name));
        uint64_t version = 0;
        options.level0_tables = 3;
        options.level_base_bytes = cases[i].base_bytes;
        options.level0_wait_ns = cases[i].wait_ns;
        store_open(&options);
        flush_tables(&version, cases[i].want - 1);
        pause_ms(20);
        cr_expect_eq(stats_now().compactions, 0, "%s", cases[i].why);
        flush_tables(&version, 1);
        for (int ms = 0; ms < 60 * 1000 && stats_now().compactions == 0; ms++)
            pause_ms(1);
        cr_expect_gt(stats_now().compactions, 0, "%s", cases[i].why);
        store_close();
    }
}

Test(lsm_levels, a_storm_of_writes_is_merged_in_larger_portions)
{
    in_fiber(level0_portion);
}

/* Nothing but time passes. */
static void level0_after_the_storm(void)
{
    struct lsm_options options = tiny_options(in_root("after"));
    uint64_t version = 0;
    options.level0_tables = 3;
    options.level_base_bytes = GIB;
    options.level0_wait_ns = 50 * NS_PER_MS;
    store_open(&options);
    flush_tables(&version, 3);
    for (int ms = 0; ms < 60 * 1000 && stats_now().compactions == 0; ms++)
        pause_ms(1);
    cr_expect_eq(stats_now().levels[0].tables, 0);
    store_close();
}

Test(lsm_levels, level_0_is_merged_when_the_storm_is_over)
{
    in_fiber(level0_after_the_storm);
}

/* What a flush adds while the background stops is merged after the next start: nothing may look at
 * it later, when the background is gone. */
static void flush_during_stop(void)
{
    struct lsm_options options = tiny_options(in_root("stop"));
    options.level0_wait_ns = 3600 * NS_PER_S;
    for (uint64_t index = 1; index <= 40; index++) { /* stops come later and later in the flush */
        store_open(&options);
        put_text("k/key", index, "value");
        lsm_commit(lsm, index, 1);
        lsm_set_durable_index(lsm, index);
        lsm_flush_begin(lsm);
        fiber_sleep_until(core_now_ns(core) + index * 50 * NS_PER_US);
        store_close();
    }
}

Test(lsm_levels, a_flush_that_ends_while_the_background_stops)
{
    in_fiber(flush_during_stop);
}
