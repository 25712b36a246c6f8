#include <errno.h>
#include <fcntl.h>

#include "storage/lsm/background.h"
#include "storage/lsm/manifest.h"
#include "test_lsm.h"

TestSuite(manifest, .init = core_with_root_open, .fini = core_with_root_close, .timeout = 600);

/* A manifest of three records: a snapshot, an edit, an edit. */
static uint8_t file[5 * IO_ALIGN_BYTES];

static void make_file(void)
{
    memset(file, 0, sizeof(file));
    for (uint64_t sequence = 1; sequence <= 3; sequence++) {
        struct manifest_record record;
        struct lsm_table table = {.number = 10 + sequence, .file_bytes = 4096 * sequence};
        size_t bytes;
        manifest_record_init(&record);
        if (sequence == 1)
            manifest_record_format(&record);
        manifest_record_flushed(&record, 100 * sequence, sequence);
        manifest_record_add(&record, sequence == 3 ? 1 : 0, &table);
        if (sequence == 3)
            manifest_record_remove(&record, 0, 11);
        manifest_record_next(&record, 20 + sequence);
        manifest_record_seal(&record, 7, sequence, &bytes);
        cr_assert_eq(bytes, IO_ALIGN_BYTES);
        memcpy(file + (sequence - 1) * IO_ALIGN_BYTES, record.bytes, bytes);
        manifest_record_deinit(&record);
    }
}

Test(manifest, damage_is_told_from_a_torn_tail)
{
    static const struct {
        const char *why;
        uint32_t flip; /* offset of a flipped byte; 0: none */
        uint64_t size;
        int want;
        uint64_t flushed;
        uint32_t tables;
    } cases[] = {
        {"whole", 0, sizeof(file), 0, 300, 2},
        {"nothing after the last record", 0, 3 * IO_ALIGN_BYTES, 0, 300, 2},
        {"the last record torn: nothing of it happened", 2 * IO_ALIGN_BYTES + 40, sizeof(file), 0,
         200, 2},
        {"the last record cut off", 0, 2 * IO_ALIGN_BYTES + 512, 0, 200, 2},
        {"a damaged record that others follow", IO_ALIGN_BYTES + 40, sizeof(file), ERR_CORRUPT, 0,
         0},
        {"its magic damaged", IO_ALIGN_BYTES, sizeof(file), ERR_CORRUPT, 0, 0},
        {"its length damaged", IO_ALIGN_BYTES + 9, sizeof(file), ERR_CORRUPT, 0, 0},
        {"the first record damaged", 33, sizeof(file), ERR_CORRUPT, 0, 0},
        {"empty", 0, 0, ERR_CORRUPT, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct manifest_state state;
        const char *reason = NULL;
        uint64_t offset = 0;
        make_file();
        if (cases[i].flip != 0)
            file[cases[i].flip] ^= 1;
        manifest_state_init(&state);
        int status =
            manifest_replay(bytes_make(file, cases[i].size), 7, &state, NULL, &reason, &offset);
        cr_assert_eq(status, cases[i].want, "%s: %s", cases[i].why, reason);
        if (status == 0) {
            cr_assert_eq(state.flushed_index, cases[i].flushed, "%s", cases[i].why);
            cr_assert_eq(state.count, cases[i].tables, "%s", cases[i].why);
        } else {
            cr_assert_not_null(reason, "%s", cases[i].why);
        }
        manifest_state_deinit(&state);
    }
    struct manifest_state state;
    const char *reason = NULL;
    uint64_t offset = 0;
    make_file();
    manifest_state_init(&state);
    cr_assert_eq(manifest_replay(bytes_make(file, sizeof(file)), 8, &state, NULL, &reason, &offset),
                 ERR_CORRUPT, "records of another manifest");
    manifest_state_deinit(&state);
}

/* ---- start-up ----------------------------------------------------------------------------------
 * */

static void make_store(const char *dir)
{
    struct lsm_options options = tiny_options(dir);
    store_open(&options);
    put_text("k/a", 1, "value");
    lsm_commit(lsm, 5, 1);
    store_flush(5);
    store_close();
}

static void refusals(void)
{
    static const struct {
        const char *why, *command;
        int want;
    } cases[] = {
        {"left-overs of a crash go", "cd %s && touch 000777.sst MANIFEST-000777 CURRENT.tmp", 0},
        {"CURRENT gone beside tables", "cd %s && rm CURRENT", ERR_CORRUPT},
        {"CURRENT damaged", "cd %s && sed -i s/MANI/MANJ/ CURRENT", ERR_CORRUPT},
        {"CURRENT names nothing", "cd %s && rm MANIFEST-*", ERR_CORRUPT},
        {"a table gone", "cd %s && rm *.sst", ERR_CORRUPT},
        {"a table cut short", "cd %s && truncate -s -4096 *.sst", ERR_CORRUPT},
        {"a table grown", "cd %s && truncate -s +4096 *.sst", ERR_CORRUPT},
        {"a manifest of zeros", "cd %s && truncate -s 0 MANIFEST-* && truncate -s 8192 MANIFEST-*",
         ERR_CORRUPT},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char dir[128];
        snprintf(dir, sizeof(dir), "%s/d%zu", root, i);
        make_store(dir);
        shell(cases[i].command, dir, "");
        struct lsm_options options = tiny_options(dir);
        int status = lsm_open(core, &options, &lsm);
        cr_assert_eq(status, cases[i].want, "%s: %s", cases[i].why, err_text(status));
        if (status == 0) {
            lsm_close(lsm);
            shell("cd %s && test ! -e 000777.sst -a ! -e MANIFEST-000777 -a ! -e CURRENT.tmp", dir,
                  "");
        }
    }
}

Test(manifest, a_start_verifies_everything_and_refuses_what_does_not_fit)
{
    in_fiber(refusals);
}

static void rotation(void)
{
    struct lsm_options options = tiny_options(in_root("rotate"));
    store_open(&options);
    for (uint64_t index = 1; index < 150; index++) {
        put_text("k/a", index, "value");
        lsm_commit(lsm, index, 1);
        store_flush(index);
    }
    store_close();
    char command[256];
    snprintf(command, sizeof(command), "test $(ls %s | grep -c MANIFEST) = 1", options.dir);
    cr_assert_eq(system(command), 0);
    store_open(&options);
    struct lsm_row row;
    cr_assert_eq(lsm_get(reader, bytes_from_text("k/a"), LSM_VERSION_MAX, &row), 0);
    cr_assert_eq(row.version.main, 149);
    lsm_row_release(reader, &row);
    store_close();
}

Test(manifest, a_full_manifest_is_rotated)
{
    in_fiber(rotation);
}

/* ---- a disk without room -----------------------------------------------------------------------
 * No file of this process may become longer than a table of these tests, so a manifest cannot be
 * allocated. */

enum { ROOM_FOR_TABLES = 128 * 1024 };
_Static_assert(ROOM_FOR_TABLES < MANIFEST_BYTES_MIN, "a manifest is refused");

/* What a failed attempt left would stay; an attempt that is under way ends. */
static void expect_one_manifest(const char *dir)
{
    char command[512];
    snprintf(command, sizeof(command),
             "cd %s && test $(ls | grep -c MANIFEST) = 1 -a ! -e CURRENT.tmp", dir);
    for (int i = 0; i < 100 && system(command) != 0; i++)
        pause_ms(10);
    cr_expect_eq(system(command), 0, "%s", command);
}

static void write_row(uint64_t index)
{
    char key[16];
    snprintf(key, sizeof(key), "k/%03lu", index);
    put_text(key, index, "value");
    lsm_commit(lsm, index, 1);
}

static void expect_rows(uint64_t last)
{
    for (uint64_t index = 1; index <= last; index++) {
        char key[16];
        struct lsm_row row;
        snprintf(key, sizeof(key), "k/%03lu", index);
        int status = lsm_get(reader, bytes_from_text(key), LSM_VERSION_MAX, &row);
        cr_assert_eq(status, 0, "%s: %s", key, err_text(status));
        lsm_row_release(reader, &row);
    }
}

/* Each attempt to start a manifest takes a number. */
static void wait_for_attempts(uint64_t attempts)
{
    uint64_t number = lsm->background->number_next + attempts;
    for (int i = 0; i < 60 * 1000 && lsm->background->number_next < number; i++)
        pause_ms(1);
    cr_assert_geq(lsm->background->number_next, number);
}

static void rotation_without_room(void)
{
    struct lsm_options options = tiny_options(in_root("full"));
    uint64_t index = 0;
    options.level_base_bytes = MIB;
    store_open(&options);
    while (index < 4) {
        write_row(++index);
        store_flush(index);
    }
    store_settle();
    store_close();
    options.level0_tables = 1000; /* flushes alone write to the manifest, until nothing fits */
    store_open(&options);
    const struct manifest *manifest = &lsm->background->manifest;
    while (manifest->offset < manifest->bytes_max) {
        write_row(++index);
        store_flush(index);
    }
    store_close();
    limit_files(ROOM_FOR_TABLES);
    options.level_base_bytes = 1; /* tables of level 1 change their level, and no more */
    store_open(&options);
    write_row(++index);
    lsm_set_durable_index(lsm, index);
    lsm_flush_begin(lsm);
    wait_for_attempts(4);
    cr_expect_eq(lsm_flushed_index(lsm), index - 1);
    expect_rows(index);
    expect_one_manifest(options.dir);
    limit_files(RLIM_INFINITY);
    store_flush(index);
    struct lsm_stats stats = {0};
    for (int i = 0; i < 60 * 1000 && stats.trivial_moves == 0; i++) {
        pause_ms(1);
        lsm_stats(lsm, &stats);
    }
    cr_expect_gt(stats.trivial_moves, 0);
    expect_rows(index);
    store_close();
    store_open(&options);
    expect_rows(index);
    expect_one_manifest(options.dir);
    store_close();
}

Test(manifest, a_rotation_waits_for_room_on_the_disk)
{
    in_fiber(rotation_without_room);
}

/* The last record did not verify: what goes on there must replace it. */
static void start_without_room(void)
{
    struct lsm_options options = tiny_options(in_root("start"));
    store_open(&options);
    for (uint64_t index = 1; index <= 3; index++) {
        write_row(index);
        store_flush(index);
    }
    uint64_t number = lsm->background->manifest.number, end = lsm->background->manifest.offset;
    store_close();
    char path[LSM_PATH_BYTES_MAX];
    manifest_path(path, options.dir, number);
    int opened = open(path, O_WRONLY);
    cr_assert_geq(opened, 0);
    cr_assert_eq(pwrite(opened, "torn", 4, (off_t)(end - IO_ALIGN_BYTES + 40)), 4);
    close(opened);
    limit_files(ROOM_FOR_TABLES);
    store_open(&options);
    cr_expect_eq(lsm->background->manifest.number, number);
    expect_one_manifest(options.dir);
    uint64_t index, term;
    lsm_applied(lsm, &index, &term);
    cr_assert_eq(index, 2);
    while (index < 5) {
        write_row(++index);
        store_flush(index);
    }
    store_close();
    store_open(&options); /* still no room */
    expect_rows(5);
    cr_expect_eq(lsm->background->manifest.number, number);
    store_close();
    limit_files(RLIM_INFINITY);
    store_open(&options);
    expect_rows(5);
    cr_expect_neq(lsm->background->manifest.number, number);
    expect_one_manifest(options.dir);
    store_close();
    options.dir = in_root("first");
    limit_files(ROOM_FOR_TABLES);
    cr_expect_eq(lsm_open(core, &options, &lsm), -EFBIG, "the first one needs room");
    limit_files(RLIM_INFINITY);
}

Test(manifest, a_start_without_room_goes_on_in_the_manifest_that_it_found)
{
    in_fiber(start_without_room);
}
