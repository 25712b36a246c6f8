#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/err.h"
#include "server/snapshot_files.h"

static struct snapshot_files *files_make(void)
{
    static const struct snapshot_file made[] = {
        {"000001.sst", 100}, {"CURRENT", 1}, {"MANIFEST-000002", 4096}};
    struct snapshot_files *files = calloc(1, sizeof(*files));
    files->transfer = 9;
    files->index = 7;
    files->term = 2;
    files->count = ARRAY_COUNT(made);
    memcpy(files->files, made, sizeof(made));
    for (uint32_t i = 0; i < files->count; i++)
        files->bytes += made[i].bytes;
    return files;
}

static struct peer_input input_of(const uint8_t *meta, uint32_t bytes)
{
    return (struct peer_input){.header = {.meta_bytes = bytes}, .meta = meta};
}

Test(snapshot_files, positions_run_over_all_files)
{
    static const struct {
        uint64_t position, offset;
        uint32_t file;
    } cases[] = {{0, 0, 0}, {99, 99, 0}, {100, 0, 1}, {101, 0, 2}, {4196, 4095, 2}};
    struct snapshot_files *files = files_make();
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct snapshot_place place = snapshot_place(files, cases[i].position);
        cr_expect_eq(place.file, cases[i].file);
        cr_expect_eq(place.offset, cases[i].offset);
    }
    free(files);
}

Test(snapshot_files, an_offer_survives_and_bad_ones_are_refused)
{
    static const struct {
        const char *why;
        uint32_t at;
        uint8_t value;
    } cases[] = {
        {"transfer 0", 0, 0},
        {"index 0", 8, 0},
        {"term 0", 16, 0},
        {"more files than told", 24, 2},
        {"padding used", 28, 1},
        {"a file of 0 bytes", 32, 0},
        {"a name with a slash", 41, '/'},
        {"a hidden name", 40, '.'},
        {"no name", 40, 0},
        {"something behind a name", 71, 1},
        {"names out of order", 40, 'Z'},
    };
    struct snapshot_files *files = files_make(), *got = calloc(1, sizeof(*got));
    uint8_t meta[1024];
    uint32_t bytes = snapshot_offer_bytes(files);
    struct peer_input input = input_of(meta, bytes);
    snapshot_offer_encode(meta, files);
    cr_assert_eq(snapshot_offer_decode(&input, got), 0);
    cr_expect_eq(memcmp(files, got, sizeof(*files)), 0);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        snapshot_offer_encode(meta, files);
        meta[cases[i].at] = cases[i].value;
        cr_expect_eq(snapshot_offer_decode(&input, got), ERR_MALFORMED, "%s", cases[i].why);
    }
    snprintf(files->files[1].name, SNAPSHOT_NAME_BYTES, "%s", files->files[0].name);
    snapshot_offer_encode(meta, files);
    cr_expect_eq(snapshot_offer_decode(&input, got), ERR_MALFORMED, "a name twice");
    free(got);
    free(files);
}

Test(snapshot_files, offers_are_equal_in_every_field_or_not_at_all)
{
    struct snapshot_files *files = files_make(), *other = files_make();
    cr_expect(snapshot_files_equal(files, other));
    other->transfer++;
    cr_expect_not(snapshot_files_equal(files, other));
    *other = *files;
    other->index++;
    cr_expect_not(snapshot_files_equal(files, other));
    *other = *files;
    other->term++;
    cr_expect_not(snapshot_files_equal(files, other));
    *other = *files;
    other->count--;
    cr_expect_not(snapshot_files_equal(files, other));
    *other = *files;
    other->files[2].bytes += 4096;
    cr_expect_not(snapshot_files_equal(files, other));
    *other = *files;
    other->files[0].name[0] = '1';
    cr_expect_not(snapshot_files_equal(files, other));
    free(other);
    free(files);
}

Test(snapshot_files, status_and_chunk)
{
    uint8_t meta[64];
    struct snapshot_status status = {.transfer = 1, .position = 2, .state = SNAPSHOT_FAILED}, told;
    struct snapshot_chunk chunk = {.transfer = 3, .position = 4, .crc = 5}, got;
    struct peer_input input = input_of(meta, SNAPSHOT_STATUS_BYTES);
    snapshot_status_encode(meta, &status);
    cr_assert_eq(snapshot_status_decode(&input, &told), 0);
    cr_expect_eq(told.transfer + told.position + told.state, 5);
    meta[16] = 3;
    cr_expect_eq(snapshot_status_decode(&input, &told), ERR_MALFORMED);
    input = input_of(meta, SNAPSHOT_CHUNK_META);
    snapshot_chunk_encode(meta, &chunk);
    cr_assert_eq(snapshot_chunk_decode(&input, &got), 0);
    cr_expect_eq(got.transfer + got.position + got.crc, 12);
    input.header.meta_bytes--;
    cr_expect_eq(snapshot_chunk_decode(&input, &got), ERR_MALFORMED);
}
