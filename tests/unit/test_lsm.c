#include "test_lsm.h"

TestSuite(lsm, .init = core_with_root_open, .fini = core_with_root_close, .timeout = 600);

/* ---- comparing with the model ------------------------------------------------------------------
 */

static void check_get(const char *key, uint64_t version_max)
{
    struct lsm_row row;
    struct bytes wanted = bytes_from_text(key);
    int status = lsm_get_now(reader, wanted, (struct lsm_version){version_max, UINT32_MAX}, &row);
    if (status == ERR_WOULD_WAIT)
        status = lsm_get(reader, wanted, (struct lsm_version){version_max, UINT32_MAX}, &row);
    uint32_t at = model_find(key, version_max);
    if (at == model.count || strcmp(model.rows[at].key, key) != 0) {
        cr_assert_eq(status, ERR_NOT_FOUND, "%s at %lu: %s", key, version_max, err_text(status));
        return;
    }
    cr_assert_eq(status, 0, "%s at %lu: %s", key, version_max, err_text(status));
    model_check_row(&row, &model.rows[at]);
    lsm_row_release(reader, &row);
}

/* Rows of the model that a cursor shows, as indexes. */
static uint32_t shown[MODEL_ROWS_MAX];
static uint32_t shown_count;

static void model_show(const char *lower, const char *upper, uint64_t version_max, bool newest_only)
{
    shown_count = 0;
    const char *last = "";
    for (uint32_t i = 0; i < model.count; i++) {
        const struct model_row *row = &model.rows[i];
        if (strcmp(row->key, lower) < 0 || (upper[0] != 0 && strcmp(row->key, upper) >= 0) ||
            row->version > version_max || (newest_only && strcmp(row->key, last) == 0))
            continue;
        shown[shown_count++] = i;
        last = row->key;
    }
}

static void check_cursor(struct prng *prng, const char *lower, const char *upper,
                         uint64_t version_max, bool newest_only)
{
    struct lsm_cursor *cursor = NULL;
    struct lsm_cursor_options options = {.lower = bytes_from_text(lower),
                                         .upper = bytes_from_text(upper),
                                         .version_max = {version_max, UINT32_MAX},
                                         .newest_only = newest_only};
    struct lsm_row row;
    model_show(lower, upper, version_max, newest_only);
    cr_assert_eq(lsm_cursor_open(reader, &options, &cursor), 0);
    for (uint32_t i = 0; i < shown_count; i++) {
        cr_assert_eq(lsm_cursor_next(cursor, &row), 1);
        model_check_row(&row, &model.rows[shown[i]]);
    }
    cr_assert_eq(lsm_cursor_next(cursor, &row), 0);
    for (uint32_t i = shown_count; i-- > 0;) {
        cr_assert_eq(lsm_cursor_prev(cursor, &row), 1);
        model_check_row(&row, &model.rows[shown[i]]);
    }
    cr_assert_eq(lsm_cursor_prev(cursor, &row), 0);
    /* A walk with turns: `at` is the number of shown rows before the cursor's. */
    int64_t at = -1;
    for (int i = 0; i < 60 && shown_count > 0; i++) {
        uint64_t move = prng_below(prng, 10);
        int status;
        if (move == 0) {
            at = (int64_t)prng_below(prng, shown_count);
            const char *key = model.rows[shown[at]].key;
            while (at > 0 && strcmp(model.rows[shown[at - 1]].key, key) == 0)
                at--;
            status = lsm_cursor_seek(cursor, bytes_from_text(key), &row);
        } else if (move == 1) {
            at = (int64_t)prng_below(prng, shown_count);
            const char *key = model.rows[shown[at]].key;
            while (at >= 0 && strcmp(model.rows[shown[at]].key, key) == 0)
                at--;
            status = lsm_cursor_seek_before(cursor, bytes_from_text(key), &row);
        } else if (move < 6) {
            at += at < (int64_t)shown_count;
            status = lsm_cursor_next(cursor, &row);
        } else {
            at -= at >= 0;
            status = lsm_cursor_prev(cursor, &row);
        }
        bool inside = at >= 0 && at < (int64_t)shown_count;
        cr_assert_eq(status, inside, "at %ld of %u after move %lu", (long)at, shown_count, move);
        if (inside)
            model_check_row(&row, &model.rows[shown[at]]);
    }
    lsm_cursor_close(cursor);
}

/* A range of a few keys that begins with that of `row`; now and then an empty one. */
static void check_short_range(struct prng *prng, const struct model_row *row, uint64_t version_max,
                              bool newest_only)
{
    char upper[MODEL_KEY_BYTES];
    unsigned long number = strtoul(row->key + 2, NULL, 10) + prng_below(prng, 12) * 7;
    snprintf(upper, sizeof(upper), "k/%06u%s", (unsigned)number,
             prng_chance(prng, 1, 3) ? "/tail" : "");
    check_cursor(prng, row->key, upper, version_max, newest_only);
}

/* Reads of keys and of ranges, most of them short: what a long one costs grows with the history. */
static void check_some(struct prng *prng, uint64_t version)
{
    for (int i = 0; i < 300; i++) {
        struct model_row row = model_random_row(prng, version, 220);
        check_get(row.key, prng_chance(prng, 1, 2) ? version : prng_below(prng, version + 2));
    }
    for (int i = 0; i < 12; i++) {
        struct model_row a = model_random_row(prng, version, 220);
        struct model_row b = model_random_row(prng, version, 220);
        uint64_t version_max = prng_below(prng, version + 1);
        if (i < 2)
            check_cursor(prng, a.key, b.key, version_max, i % 2 == 0);
        else
            check_short_range(prng, &a, version_max, i % 2 == 0);
    }
}

/* And every row there is. */
static void check_all(struct prng *prng, uint64_t version)
{
    check_some(prng, version);
    check_cursor(prng, "", "", version, true);
    check_cursor(prng, "", "", version, false);
}

/* ---- the differential test --------------------------------------------------------------------
 * */

static void write_batches(struct prng *prng, uint64_t *version, uint32_t batches)
{
    for (uint32_t i = 0; i < batches; i++) {
        ++*version;
        uint32_t rows = 1 + (uint32_t)prng_below(prng, 3);
        for (uint32_t j = 0; j < rows; j++) {
            struct model_row row = model_random_row(prng, *version, 200);
            uint32_t at = model_find(row.key, *version);
            if (at < model.count && model_compare(row.key, *version, &model.rows[at]) == 0)
                continue;
            model_apply(&row);
            model_insert(row);
        }
        lsm_commit(lsm, *version, 1);
        lsm_set_durable_index(lsm, *version > 3 ? *version - 3 : 0);
        if (prng_chance(prng, 1, 20))
            fiber_yield();
    }
}

/* After a start: what the flush had not reached comes again from the log. */
static void replay_model(void)
{
    uint64_t index, term;
    lsm_applied(lsm, &index, &term);
    for (uint32_t i = model.count; i-- > 0;) /* versions of a key rise */
        if (model.rows[i].version > index)
            model_apply(&model.rows[i]);
}

static void differential(void)
{
    struct prng prng;
    prng_init(&prng, 42);
    struct lsm_options options = tiny_options(in_root("a"));
    char dir[128], copy[128];
    snprintf(dir, sizeof(dir), "%s", options.dir);
    uint64_t version = 0;
    store_open(&options);
    for (int round = 0; round < 24; round++) {
        write_batches(&prng, &version, 250);
        if (round % 3 == 0) /* 3 and 4 have no common factor: after each of the cases below */
            check_all(&prng, version);
        else
            check_some(&prng, version);
        switch (round % 4) {
        case 0:
            lsm_set_durable_index(lsm, version);
            pause_ms(20);
            break;
        case 1:
            store_close();
            break;
        case 2: /* a crash: go on with the directory as it is at this instant */
            snprintf(copy, sizeof(copy), "%s/copy%d", root, round);
            shell("cp -r %s %s", dir, copy);
            store_close();
            snprintf(dir, sizeof(dir), "%s", copy);
            break;
        case 3:
            store_flush(version);
            pay_debts();
            break;
        }
        if (lsm == NULL) {
            options.dir = dir;
            /* Both ends: most blocks come from the disk, or hardly any. */
            options.block_cache_bytes_per_core = round % 12 < 4 ? 64 * KIB : 4 * MIB;
            store_open(&options);
            replay_model();
            lsm_commit(lsm, version, 1);
        }
    }
    check_all(&prng, version);
    struct lsm_stats stats;
    lsm_stats(lsm, &stats);
    cr_assert_gt(stats.flushes, 0);
    cr_assert_gt(stats.levels[2].tables + stats.levels[3].tables, 0, "levels are exercised");
    cr_assert_leq(stats.views_held, 2);
    lsm_compact_all(lsm);
    store_flush(version);
    store_settle();
    check_all(&prng, version);
    store_close();
}

Test(lsm, agrees_with_a_sorted_array_through_flushes_compactions_and_restarts)
{
    in_fiber(differential);
}

/* ---- the writer -------------------------------------------------------------------------------
 * */

static void hot_put(void)
{
    struct lsm_options options = tiny_options(in_root("hot"));
    options.memtable_bytes = MIB;
    store_open(&options);
    struct lsm_row row;
    struct bytes key = bytes_from_text("k/hot");
    cr_assert_eq(lsm_find_newest_in_memory(lsm, key, &row), ERR_NOT_FOUND);
    for (uint64_t version = 1; version <= 500; version++) {
        lsm_insert(lsm, key, (struct lsm_version){version, 0}, LSM_VALUE, bytes_from_text("v"));
        if (version % 3 == 0)
            put_text("k/hos", version, "x");
        cr_assert_eq(lsm_find_newest_in_memory(lsm, key, &row), 0);
        cr_assert_eq(row.version.main, version);
        if (version % 7 == 0)
            put_text("k/hou", version, "x");
        if (version == 250) {
            lsm_commit(lsm, version, 1);
            lsm_flush_begin(lsm);
            cr_assert_eq(lsm_find_newest_in_memory(lsm, key, &row), 0,
                         "the immutable memtable still has it");
        }
    }
    cr_assert_eq(lsm_get_now(reader, key, (struct lsm_version){77, 0}, &row), 0);
    cr_assert_eq(row.version.main, 77);
    lsm_row_release(reader, &row);
    store_close();
}

Test(lsm, the_writer_finds_the_newest_version_in_every_memtable)
{
    in_fiber(hot_put);
}

/* A flush that is asked for inside a batch: the table must not hold more than its index says, or
 * a restart would apply the batch twice. */
static void flush_inside_a_batch(void)
{
    struct lsm_options options = tiny_options(in_root("batch"));
    options.memtable_bytes = MIB;
    store_open(&options);
    lsm_set_durable_index(lsm, 100);
    put_text("k/a", 1, "one");
    lsm_commit(lsm, 10, 1);
    put_text("k/b", 2, "two");
    lsm_flush_begin(lsm);
    pause_ms(30);
    cr_assert_eq(lsm_flushed_index(lsm), 0, "the batch is open");
    put_text("k/c", 3, "three");
    lsm_commit(lsm, 11, 1);
    for (int i = 0; i < 1000 && lsm_flushed_index(lsm) == 0; i++)
        pause_ms(1);
    cr_assert_eq(lsm_flushed_index(lsm), 11);
    put_text("k/d", 4, "four");
    lsm_commit(lsm, 12, 1);
    pause_ms(30);
    cr_assert_eq(lsm_flushed_index(lsm), 11, "asked once");
    store_close();
}

Test(lsm, a_flush_waits_for_the_end_of_the_batch)
{
    in_fiber(flush_inside_a_batch);
}

static void flush_now(uint64_t index)
{
    lsm_commit(lsm, index, 1);
    lsm_flush_begin(lsm);
    lsm_set_durable_index(lsm, index);
    for (int i = 0; i < 1000 && lsm_flushed_index(lsm) < index; i++)
        pause_ms(1);
    cr_assert_eq(lsm_flushed_index(lsm), index);
}

static void check_hits(const char *key, uint64_t version_max, uint64_t version, uint64_t hits)
{
    struct lsm_row row;
    struct bytes bytes = bytes_from_text(key);
    uint64_t before = lsm_reader_stats(reader)->row_cache_hits;
    int found = lsm_get(reader, bytes, (struct lsm_version){version_max, 0}, &row);
    cr_assert_eq(found, version == 0 ? ERR_NOT_FOUND : 0, "%s@%lu", key, version_max);
    cr_assert_eq(lsm_reader_stats(reader)->row_cache_hits - before, hits, "%s@%lu", key,
                 version_max);
    if (found != 0)
        return;
    cr_assert_eq(row.version.main, version, "%s@%lu", key, version_max);
    lsm_row_release(reader, &row);
}

static void rows_of_tables(void)
{
    struct lsm_options options = tiny_options(in_root("rows"));
    options.block_cache_bytes_per_core = MIB;
    store_open(&options);
    put_text("k/a", 1, "one");
    put_text("k/b", 2, "two");
    flush_now(2);
    check_hits("k/a", 9, 1, 0);
    check_hits("k/a", 9, 1, 1);
    check_hits("k/a", 1, 1, 1);
    check_hits("k/c", 9, 0, 0);
    put_text("k/a", 3, "three"); /* in the memtable: seen by those who may */
    check_hits("k/a", 9, 3, 0);
    check_hits("k/a", 2, 1, 1);
    flush_now(3); /* the tables have a newer row now */
    check_hits("k/a", 2, 1, 0);
    check_hits("k/a", 9, 3, 1); /* which the read of the past came by */
    check_hits("k/a", 2, 1, 0);
    check_hits("k/a", 9, 3, 1);
    check_hits("k/b", 9, 2, 0);
    check_hits("k/b", 9, 2, 1);
    store_close();
}

Test(lsm, rows_of_tables_are_kept_until_a_flush_may_have_changed_them)
{
    in_fiber(rows_of_tables);
}

/* Blocks that a read looks at, in the cache or on disk. */
static uint64_t blocks_of_read(const char *key, uint64_t version_max, uint64_t version)
{
    const struct lsm_reader_stats *stats = lsm_reader_stats(reader);
    uint64_t before = stats->cache_hits + stats->cache_misses;
    check_hits(key, version_max, version, 0);
    return stats->cache_hits + stats->cache_misses - before;
}

static void past_rows(void)
{
    struct lsm_options options = tiny_options(in_root("past"));
    options.block_cache_bytes_per_core = MIB;
    store_open(&options);
    put_text("k/a", 1, "one");
    put_text("k/many", 1, "1");
    flush_now(1);
    put_text("k/a", 3, "three");
    for (uint64_t version = 3; version <= 40; version++)
        put_text("k/many", version, "n");
    put_text("k/few", 39, "39");
    put_text("k/few", 40, "40");
    flush_now(40);
    static const struct {
        const char *why, *key;
        uint64_t at, version, blocks;
    } reads[] = {
        {"index and data of two tables", "k/a", 2, 1, 4},
        {"and no more when the newest is known", "k/a", 2, 1, 4},
        {"a search over many, then the older table", "k/many", 2, 1, 4},
        {"straight to it", "k/many", 20, 20, 2},
        {"the next row is in the same block", "k/few", 39, 39, 2},
    };
    const struct lsm_reader_stats *stats = lsm_reader_stats(reader);
    for (size_t i = 0; i < ARRAY_COUNT(reads); i++) {
        uint64_t blocks = blocks_of_read(reads[i].key, reads[i].at, reads[i].version);
        cr_expect_eq(blocks, reads[i].blocks, "%lu blocks: %s", blocks, reads[i].why);
        cr_expect_gt(stats->cache_bytes, 0, "scraped in place");
        cr_expect_gt(stats->row_cache_bytes, 0, "scraped in place");
    }
    store_close();
}

Test(lsm, a_read_of_the_past_searches_no_table_twice)
{
    in_fiber(past_rows);
}

static void not_ahead_of_the_log(void)
{
    struct lsm_options options = tiny_options(in_root("ahead"));
    store_open(&options);
    put_text("k/a", 1, "one");
    lsm_commit(lsm, 10, 2);
    lsm_flush_begin(lsm);
    lsm_set_durable_index(lsm, 9);
    pause_ms(30);
    cr_assert_eq(lsm_flushed_index(lsm), 0, "index 10 is not durable in the log");
    lsm_set_durable_index(lsm, 10);
    for (int i = 0; i < 1000 && lsm_flushed_index(lsm) == 0; i++)
        pause_ms(1);
    cr_assert_eq(lsm_flushed_index(lsm), 10);
    store_close();
    store_open(&options);
    uint64_t index, term;
    lsm_applied(lsm, &index, &term);
    cr_assert_eq(index, 10);
    cr_assert_eq(term, 2);
    store_close();
}

Test(lsm, a_memtable_is_not_flushed_beyond_the_durable_log)
{
    in_fiber(not_ahead_of_the_log);
}

/* ---- pins -------------------------------------------------------------------------------------
 * */

static void pinned(void)
{
    struct lsm_options options = tiny_options(in_root("pins"));
    options.block_cache_bytes_per_core = 4096;
    store_open(&options);
    struct lsm_cursor *cursor;
    struct lsm_cursor_options all = {.version_max = LSM_VERSION_MAX, .newest_only = true};
    struct lsm_row held, row;
    for (uint64_t i = 0; i < 100; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k/%03lu", i);
        put_text(key, 1, "first");
    }
    lsm_commit(lsm, 1, 1);
    cr_assert_eq(lsm_get_now(reader, bytes_from_text("k/050"), LSM_VERSION_MAX, &held), 0);
    cr_assert_eq(lsm_cursor_open(reader, &all, &cursor), 0);
    cr_assert_eq(lsm_cursor_next(cursor, &row), 1);
    store_flush(1);
    for (uint64_t version = 2; version < 40; version++) {
        put_text("k/050", version, "later");
        lsm_commit(lsm, version, 1);
        store_flush(version);
    }
    store_settle();
    struct lsm_stats stats;
    lsm_stats(lsm, &stats);
    cr_assert_eq(stats.views_held, 2, "%lu", stats.views_held);
    cr_assert(bytes_equal(held.value, bytes_from_text("first")));
    for (int i = 1; i < 100; i++)
        cr_assert_eq(lsm_cursor_next(cursor, &row), 1);
    cr_assert_eq(lsm_cursor_next(cursor, &row), 0);
    lsm_cursor_close(cursor);
    lsm_row_release(reader, &held);
    pause_ms(2);
    lsm_stats(lsm, &stats);
    cr_assert_eq(stats.views_held, 1);
    cr_assert_eq(lsm_get(reader, bytes_from_text("k/050"), LSM_VERSION_MAX, &row), 0);
    cr_assert(bytes_equal(row.value, bytes_from_text("later")));
    lsm_row_release(reader, &row);
    store_close();
}

Test(lsm, a_row_and_a_cursor_keep_what_they_point_to_and_no_more)
{
    in_fiber(pinned);
}

/* ---- large keys -------------------------------------------------------------------------------
 * */

#define LARGE_KEY_BYTES_MAX ((uint32_t)(1536 * KIB))

/* Bytes that do not compress; two keys of one `family` differ in their last bytes only. */
static struct bytes large_key(uint32_t bytes, uint64_t family, uint64_t which)
{
    static uint8_t key[LARGE_KEY_BYTES_MAX];
    struct prng prng;
    cr_assert_leq(bytes, sizeof(key));
    prng_init(&prng, family);
    for (uint32_t i = 0; i + 8 <= bytes; i += 8)
        le64_store(key + i, prng_next(&prng));
    key[0] = 'k';
    be64_store(key + bytes - 8, which);
    return bytes_make(key, bytes);
}

static struct lsm_options large_options(const char *name)
{
    struct lsm_options options = tiny_options(in_root(name));
    options.memtable_bytes = 512 * MIB; /* tests say when to flush */
    options.block_cache_bytes_per_core = 8 * MIB;
    options.block_bytes = 0;
    options.table_bytes = 0;
    options.level_base_bytes = 0;
    return options;
}

static void check_versions(struct bytes key, uint64_t first, uint64_t last, uint64_t step)
{
    for (uint64_t version = first; version <= last; version += step) {
        struct lsm_row row;
        int status = lsm_get(reader, key, (struct lsm_version){version, 0}, &row);
        cr_assert_eq(status, 0, "version %lu: %s", version, err_text(status));
        cr_assert_eq(row.version.main, version);
        cr_assert_eq(row.value.size, sizeof(version));
        cr_assert_eq(le64_load(row.value.data), version);
        lsm_row_release(reader, &row);
    }
}

/* All rows, there and back: their keys in order, and how many they are. */
static void check_walk(uint64_t rows)
{
    struct lsm_cursor *cursor = NULL;
    struct lsm_cursor_options all = {.version_max = LSM_VERSION_MAX};
    struct lsm_row row;
    uint64_t seen = 0;
    cr_assert_eq(lsm_cursor_open(reader, &all, &cursor), 0);
    while (lsm_cursor_next(cursor, &row) == 1)
        seen++;
    cr_assert_eq(seen, rows);
    while (lsm_cursor_prev(cursor, &row) == 1)
        seen--;
    cr_assert_eq(seen, 0);
    lsm_cursor_close(cursor);
}

/* Until so many compactions are installed since the start, and level 0 has no work. */
static void large_settle(uint64_t compactions)
{
    struct lsm_stats stats;
    lsm_stats(lsm, &stats);
    for (int i = 0;
         i < 60 * 1000 && (stats.compactions < compactions || stats.levels[0].tables >= 4); i++) {
        pause_ms(1);
        lsm_stats(lsm, &stats);
    }
    cr_assert_geq(stats.compactions, compactions);
    cr_assert_lt(stats.levels[0].tables, 4);
}

static void put_number(struct bytes key, uint64_t version)
{
    uint8_t value[sizeof(version)];
    le64_store(value, version);
    lsm_insert(lsm, key, (struct lsm_version){version, 0}, LSM_VALUE,
               bytes_make(value, sizeof(value)));
}

/* The versions of a key stay in one table, whose index must not repeat the key for each. */
static void large_key_versions(void)
{
    struct lsm_options options = large_options("versions");
    struct lsm_stats stats;
    store_open(&options);
    struct bytes key = large_key(MIB, 1, 1);
    for (uint64_t version = 1; version <= 60; version++) {
        put_number(key, version);
        lsm_commit(lsm, version, 1);
        if (version % 10 == 0)
            store_flush(version);
    }
    large_settle(1);
    check_versions(key, 1, 60, 1);
    store_close();
    store_open(&options);
    lsm_compact_all(lsm);
    large_settle(1);
    check_versions(key, 1, 60, 1);
    check_walk(60);
    lsm_stats(lsm, &stats);
    cr_assert_eq(stats.levels[1].tables, 1);
    cr_assert_lt(stats.filter_index_bytes, 2 * MIB, "%lu", stats.filter_index_bytes);
    cr_assert_lt(stats.table_bytes, 8 * MIB, "%lu", stats.table_bytes);
    store_close();
}

Test(lsm, many_versions_of_a_large_key_share_it_in_their_table)
{
    in_fiber(large_key_versions);
}

/* One memtable with more bytes of keys than the top index of one table may have. */
static void large_distinct_keys(void)
{
    enum { KEYS = 60 };
    struct lsm_options options = large_options("distinct");
    struct lsm_stats stats;
    options.level0_tables = 100;
    store_open(&options);
    for (uint64_t i = 1; i <= KEYS; i++)
        put_number(large_key(LARGE_KEY_BYTES_MAX, i, i), i);
    lsm_commit(lsm, KEYS, 1);
    store_flush(KEYS);
    lsm_stats(lsm, &stats);
    cr_assert_gt(stats.levels[0].tables, 1, "a flush is cut too");
    cr_assert_eq(stats.flushes, 1);
    for (uint64_t i = 1; i <= KEYS; i++)
        check_versions(large_key(LARGE_KEY_BYTES_MAX, i, i), i, i, 1);
    check_walk(KEYS);
    store_close();
    store_open(&options);
    lsm_compact_all(lsm);
    large_settle(1);
    for (uint64_t i = 1; i <= KEYS; i++)
        check_versions(large_key(LARGE_KEY_BYTES_MAX, i, i), i, i, 1);
    check_walk(KEYS);
    store_close();
}

Test(lsm, large_keys_of_one_flush_are_cut_into_tables)
{
    in_fiber(large_distinct_keys);
}

/* Few bytes apart or many, with more versions than an index block has entries. */
static void large_key_families(void)
{
    static const uint32_t sizes[] = {300, 5000, 70000};
    struct lsm_options options = large_options("families");
    uint64_t version = 0, rows = 0;
    options.block_bytes = 512;
    store_open(&options);
    for (int round = 0; round < 5; round++) {
        for (uint64_t i = 0; i < 2000; i++, rows++)
            put_number(large_key(sizes[i % 3], i % 7 / 2, i % 2), ++version);
        lsm_commit(lsm, version, 1);
        store_flush(version);
    }
    large_settle(1);
    for (int pass = 0; pass < 2; pass++) {
        for (uint64_t i = 0; i < 42; i++) /* 42 = 2 * 3 * 7 */
            for (uint64_t n = i; n < 2000; n += 210)
                check_versions(large_key(sizes[i % 3], i % 7 / 2, i % 2), n + 1, n + 1, 1);
        check_walk(rows);
        lsm_compact_all(lsm);
        large_settle(2);
    }
    store_close();
}

Test(lsm, versions_of_long_keys_that_share_prefixes_are_found)
{
    in_fiber(large_key_families);
}
