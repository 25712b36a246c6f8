#include <fcntl.h>

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
