/*
 * test_lsm.h - core_with_root.h and tiny memtables and tables, for the tests of storage/lsm/; and
 * the model that they compare with: a sorted array of rows.
 *
 * Owner     The test program that includes it; one world at a time.
 */
#ifndef TESTS_UNIT_TEST_LSM_H
#define TESTS_UNIT_TEST_LSM_H

#include <signal.h>
#include <sys/resource.h>

#include "core/err.h"
#include "core/prng.h"
#include "storage/lsm/lsm.h"
#include "tests/unit/core_with_root.h"

static inline void shell(const char *format, const char *a, const char *b)
{
    char command[512];
    snprintf(command, sizeof(command), format, a, b);
    cr_assert_eq(system(command), 0, "%s", command);
}

static inline void pause_ms(uint64_t ms)
{
    fiber_sleep_until(core_now_ns(core) + ms * NS_PER_MS);
}

/* No file may become longer: to its writer EFBIG is as good as ENOSPC. */
static inline void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    cr_assert_neq(signal(SIGXFSZ, SIG_IGN), SIG_ERR);
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* ---- the store under test -------------------------------------------------------------------- */

static struct lsm *lsm;
static struct lsm_reader *reader;

static inline struct lsm_options tiny_options(const char *dir)
{
    return (struct lsm_options){.dir = dir,
                                .memtable_bytes = 16 * KIB,
                                .block_cache_bytes_per_core = 64 * KIB,
                                .block_bytes = 512,
                                .table_bytes = 8 * KIB,
                                .level_base_bytes = 32 * KIB,
                                .level_ratio = 3,
                                .level0_wait_ns = 1,
                                .core_count = 1,
                                .message_kind_base = 10,
                                .compression = LSM_COMPRESSION_ZSTD,
                                .compression_top = LSM_COMPRESSION_LZ4,
                                .random_seed = 5};
}

static inline void store_open(const struct lsm_options *options)
{
    int status = lsm_open(core, options, &lsm);
    cr_assert_eq(status, 0, "%s", err_text(status));
    cr_assert_eq(lsm_reader_open(lsm, core, &reader), 0);
    lsm_background_start(lsm, core);
    pause_ms(1);
}

static inline void store_close(void)
{
    lsm_background_stop(lsm);
    lsm_reader_close(reader);
    pause_ms(1);
    lsm_close(lsm);
    lsm = NULL;
}

/* Until everything inserted so far is in tables. */
static inline void store_flush(uint64_t index)
{
    lsm_set_durable_index(lsm, index);
    lsm_flush_begin(lsm);
    for (int i = 0; i < 5000 && lsm_flushed_index(lsm) < index; i++)
        pause_ms(1);
    cr_assert_eq(lsm_flushed_index(lsm), index);
}

/* Until the compactions had nothing to do for a while. */
static inline void store_settle(void)
{
    struct lsm_stats before, after;
    int quiet = 0;
    lsm_stats(lsm, &before);
    for (int i = 0; i < 2000 && quiet < 20; i++) {
        pause_ms(2);
        lsm_stats(lsm, &after);
        quiet = after.compactions == before.compactions && after.flushes == before.flushes
                    ? quiet + 1
                    : 0;
        before = after;
    }
}

static inline struct lsm_stats stats_now(void)
{
    struct lsm_stats stats;
    lsm_stats(lsm, &stats);
    return stats;
}

/* Until no compaction is due, so that none runs either. */
static inline void pay_debts(void)
{
    for (int i = 0; i < 300 * 1000 && stats_now().debt_bytes > 0; i++)
        pause_ms(1);
    cr_assert_eq(stats_now().debt_bytes, 0);
}

static inline void put_text(const char *key, uint64_t version, const char *value)
{
    lsm_insert(lsm, bytes_from_text(key), (struct lsm_version){version, 0}, LSM_VALUE,
               bytes_from_text(value));
}

/* ---- the model ------------------------------------------------------------------------------- */

#define MODEL_ROWS_MAX  40000
#define MODEL_KEY_BYTES 24

struct model_row {
    char key[MODEL_KEY_BYTES];
    uint64_t version; /* = index of the batch that wrote it */
    uint32_t value_bytes;
    bool tombstone;
};

struct model {
    struct model_row rows[MODEL_ROWS_MAX]; /* in row order */
    uint32_t count;
};
static struct model model;

static inline int model_compare(const char *key, uint64_t version, const struct model_row *row)
{
    int order = strcmp(key, row->key);
    return order != 0 ? order : (version < row->version) - (version > row->version);
}

/* First row at or after (key, version). */
static inline uint32_t model_find(const char *key, uint64_t version)
{
    uint32_t low = 0, high = model.count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (model_compare(key, version, &model.rows[middle]) > 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static inline void model_insert(struct model_row row)
{
    uint32_t at = model_find(row.key, row.version);
    cr_assert_lt(model.count, MODEL_ROWS_MAX);
    memmove(&model.rows[at + 1], &model.rows[at], (model.count - at) * sizeof(row));
    model.rows[at] = row;
    model.count++;
}

static inline struct bytes model_value(const struct model_row *row)
{
    static uint8_t value[64 * 1024];
    uint64_t seed = row->version * 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < row->value_bytes; i++)
        value[i] = (uint8_t)(i % 3 == 0 ? (seed >> (i % 56)) : 'v');
    return bytes_make(value, row->value_bytes);
}

static inline void model_apply(const struct model_row *row)
{
    lsm_insert(lsm, bytes_from_text(row->key), (struct lsm_version){row->version, 0},
               row->tombstone ? LSM_TOMBSTONE : LSM_VALUE, model_value(row));
}

static inline struct model_row model_random_row(struct prng *prng, uint64_t version, uint32_t keys)
{
    struct model_row row = {.version = version};
    snprintf(row.key, sizeof(row.key), "k/%06u%s", (unsigned)prng_below(prng, keys) * 7,
             prng_chance(prng, 1, 3) ? "/tail" : "");
    row.tombstone = prng_chance(prng, 1, 8);
    if (!row.tombstone)
        row.value_bytes = prng_chance(prng, 1, 100) ? (uint32_t)prng_below(prng, 9000)
                                                    : (uint32_t)prng_below(prng, 200);
    return row;
}

static inline void model_check_row(const struct lsm_row *got, const struct model_row *want)
{
    cr_assert(bytes_equal(got->key, bytes_from_text(want->key)), "%.*s instead of %s",
              (int)got->key.size, got->key.data, want->key);
    cr_assert_eq(got->version.main, want->version, "%s", want->key);
    cr_assert_eq(got->kind, want->tombstone ? LSM_TOMBSTONE : LSM_VALUE);
    cr_assert(bytes_equal(got->value, model_value(want)), "%s", want->key);
}

#endif
