#include "test_lsm.h"

#include <errno.h>

#include "storage/lsm/checkpoint.h"

TestSuite(checkpoint, .init = core_with_root_open, .fini = core_with_root_close, .timeout = 600);

enum { CHECKPOINTS = 6 };

static struct prng prng;
static uint64_t version;
static bool writing;
static uint32_t writers;

static void write_some(uint32_t batches)
{
    for (uint32_t i = 0; i < batches; i++) {
        struct model_row row = model_random_row(&prng, ++version, 200);
        model_apply(&row);
        model_insert(row);
        lsm_commit(lsm, version, 3);
        lsm_set_durable_index(lsm, version);
        if (i % 16 == 0)
            fiber_yield();
    }
}

/* The store goes on: flushes and compactions replace and remove what is being linked. */
static void write_on(void *argument maybe_unused)
{
    while (writing) {
        if (lsm_pressure(lsm) < LSM_PRESSURE_FULL && model.count < MODEL_ROWS_MAX - 64)
            write_some(16);
        fiber_yield();
    }
    writers--;
}

/* Per key the newest row up to `index`; a tombstone that hides nothing may be gone. */
static void check_store(uint64_t index)
{
    struct lsm_cursor_options options = {.version_max = {index, UINT32_MAX}, .newest_only = true};
    struct lsm_cursor *cursor;
    struct lsm_row row;
    cr_assert_eq(lsm_cursor_open(reader, &options, &cursor), 0);
    int more = lsm_cursor_next(cursor, &row);
    for (uint32_t at = 0; at < model.count;) {
        uint32_t next = at;
        while (next < model.count && strcmp(model.rows[next].key, model.rows[at].key) == 0)
            next++;
        while (at < next && model.rows[at].version > index)
            at++;
        if (at < next) {
            bool same = more == 1 && bytes_equal(row.key, bytes_from_text(model.rows[at].key));
            cr_assert(same || model.rows[at].tombstone, "%s is missing", model.rows[at].key);
            if (same) {
                model_check_row(&row, &model.rows[at]);
                more = lsm_cursor_next(cursor, &row);
            }
        }
        at = next;
    }
    cr_assert_eq(more, 0, "nothing but what was written");
    lsm_cursor_close(cursor);
}

static void copies_of_a_busy_store(void)
{
    char dirs[CHECKPOINTS][128];
    uint64_t index[CHECKPOINTS], term = 0;
    struct lsm_options options = tiny_options(in_root("busy"));
    options.memtables_max = 4;
    prng_init(&prng, 11);
    store_open(&options);
    write_some(500);
    store_flush(version);
    writing = true;
    writers = 1;
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, write_on, NULL), 0);
    for (uint32_t i = 0; i < CHECKPOINTS; i++) {
        pause_ms(10);
        snprintf(dirs[i], sizeof(dirs[i]), "%s/copy%u", root, i);
        cr_assert_eq(lsm_checkpoint(lsm, reader, dirs[i], &index[i], &term), 0);
        cr_assert_eq(term, 3);
        cr_assert_leq(index[i], version);
        cr_assert_geq(index[i], i == 0 ? 500 : index[i - 1]);
    }
    writing = false;
    while (writers > 0)
        pause_ms(1);
    store_close();
    shell("rm -rf %s/busy%s", root, ""); /* the copies stand alone */
    for (uint32_t i = 0; i < CHECKPOINTS; i++) {
        uint64_t applied, applied_term;
        options.dir = dirs[i];
        store_open(&options);
        lsm_applied(lsm, &applied, &applied_term);
        cr_expect_eq(applied, index[i]);
        cr_expect_eq(applied_term, 3);
        check_store(index[i]);
        put_text("k/after", index[i] + 1, "a copy is a store: it takes writes");
        lsm_commit(lsm, index[i] + 1, 4);
        store_flush(index[i] + 1);
        store_close();
    }
}

Test(checkpoint, is_a_store_of_one_instant_while_the_other_goes_on)
{
    in_fiber(copies_of_a_busy_store);
}

static void failures(void)
{
    uint64_t index = 0, term = 0, told_index = 0, told_term = 0;
    char path[2048];
    struct lsm_options options = tiny_options(in_root("failing"));
    store_open(&options);
    put_text("k/a", 1, "one");
    lsm_commit(lsm, 7, 2);
    store_flush(7);
    lsm_checkpoint_position(lsm, &told_index, &told_term);
    cr_assert_eq(lsm_checkpoint(lsm, reader, in_root("copy"), &index, &term), 0);
    cr_expect(index == told_index && term == told_term && index == 7 && term == 2);
    cr_expect_eq(lsm_checkpoint(lsm, reader, in_root("copy"), &index, &term), -EEXIST,
                 "a table is there already");
    cr_expect_eq(lsm_checkpoint(lsm, reader, in_root("no/such"), &index, &term), -ENOENT);
    memset(path, 'p', sizeof(path));
    path[sizeof(path) - 1] = '\0';
    cr_expect_eq(lsm_checkpoint(lsm, reader, path, &index, &term), -ENAMETOOLONG);
    struct lsm_stats stats;
    lsm_stats(lsm, &stats);
    cr_expect_eq(stats.views_held, 1, "whatever happened, nothing stays pinned");
    store_close();
}

Test(checkpoint, failures_name_themselves_and_pin_nothing)
{
    in_fiber(failures);
}
