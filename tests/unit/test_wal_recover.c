/* The evidence table of recovery, row by row: four blocks of three entries are written, the image
 * of a crash is taken, damaged, opened. */
#include "test_wal.h"

TestSuite(wal_recover, .init = world_open, .fini = world_close, .timeout = 600);

#define BLOCKS 4
#define B(n)   (1u << (n))

struct row {
    const char *why;
    uint64_t terms[BLOCKS];
    bool parallel;         /* all four in flight at once: no block proves another */
    bool clean;            /* closed in order: the superblock proves all */
    bool rested;           /* idle for a moment: the superblock proves all */
    uint32_t payload;      /* blocks (bit n: block n) whose payload has a flipped bit */
    uint32_t header;       /* ...whose header has */
    uint32_t absent;       /* ...whose page is zeros, as before the write */
    uint32_t trail;        /* ...whose trail is zeros */
    uint32_t copies;       /* ...whose header is destroyed in every trail and in the ring */
    uint32_t trail_copies; /* ...in every trail, but not in the ring */
    enum wal_verdict verdict;
    uint64_t last_index;
    uint64_t fault_first, fault_last;
    bool proven;
};

static const struct row rows[] = {
    {.why = "R1: everything sound",
     .terms = {1, 1, 2, 2},
     .verdict = WAL_VERDICT_OK,
     .last_index = 12},
    {.why = "R2a: a flipped payload bit, proven by the next block",
     .terms = {1, 1, 1, 1},
     .payload = B(2),
     .verdict = WAL_VERDICT_FAULTY,
     .last_index = 12,
     .fault_first = 4,
     .fault_last = 4,
     .proven = true},
    {.why = "R2a: header gone, its trail knows it",
     .terms = {1, 2, 3, 4},
     .header = B(2),
     .verdict = WAL_VERDICT_FAULTY,
     .last_index = 12,
     .fault_first = 4,
     .fault_last = 6,
     .proven = true},
    {.why = "R2a: whole block gone, only a later trail repeats the header",
     .terms = {1, 2, 3, 4},
     .absent = B(2),
     .trail = B(2),
     .verdict = WAL_VERDICT_FAULTY,
     .last_index = 12,
     .fault_first = 4,
     .fault_last = 6,
     .proven = true},
    {.why = "R2b: no copy anywhere, but neighbours of one term give it away",
     .terms = {1, 1, 1, 1},
     .absent = B(2),
     .copies = B(2),
     .verdict = WAL_VERDICT_FAULTY,
     .last_index = 12,
     .fault_first = 4,
     .fault_last = 6,
     .proven = true},
    {.why = "R2b: two lost blocks of one term",
     .terms = {1, 1, 1, 1},
     .absent = B(2) | B(3),
     .copies = B(2) | B(3),
     .verdict = WAL_VERDICT_FAULTY,
     .last_index = 12,
     .fault_first = 4,
     .fault_last = 9,
     .proven = true},
    {.why = "R5: the very first block lost, nothing before it tells its term",
     .terms = {1, 1, 1, 1},
     .absent = B(1),
     .copies = B(1),
     .verdict = WAL_VERDICT_FENCED,
     .last_index = 0},
    {.why = "R5: no copy anywhere and the term changes in the gap",
     .terms = {1, 2, 2, 2},
     .absent = B(2),
     .copies = B(2),
     .verdict = WAL_VERDICT_FENCED,
     .last_index = 3},
    {.why = "R3: last block bad, its trail landed",
     .terms = {1, 1, 1, 1},
     .payload = B(4),
     .verdict = WAL_VERDICT_FAULTY,
     .last_index = 12,
     .fault_first = 10,
     .fault_last = 10},
    {.why = "R3: last block never landed, its trail did",
     .terms = {1, 1, 1, 1},
     .absent = B(4),
     .verdict = WAL_VERDICT_FAULTY,
     .last_index = 12,
     .fault_first = 10,
     .fault_last = 12},
    {.why = "R4: last block never landed, nor its trail",
     .terms = {1, 1, 1, 1},
     .absent = B(4),
     .trail = B(4),
     .verdict = WAL_VERDICT_OK,
     .last_index = 9},
    {.why = "R4: last block torn, its trail never landed",
     .terms = {1, 1, 1, 1},
     .payload = B(4),
     .trail = B(4),
     .verdict = WAL_VERDICT_TORN,
     .last_index = 9},
    {.why = "R4: last header torn, its trail never landed",
     .terms = {1, 1, 1, 1},
     .header = B(4),
     .trail = B(4),
     .verdict = WAL_VERDICT_TORN,
     .last_index = 9},
    {.why = "R4: an honest hole: later blocks landed, this one did not",
     .terms = {1, 1, 2, 2},
     .parallel = true,
     .absent = B(2),
     .trail = B(2),
     .verdict = WAL_VERDICT_TORN,
     .last_index = 3},
    {.why = "R4: a hole at the very first block",
     .terms = {1, 1, 1, 1},
     .parallel = true,
     .absent = B(1),
     .trail = B(1),
     .verdict = WAL_VERDICT_TORN,
     .last_index = 0},
    {.why = "R3: a hole whose trail landed",
     .terms = {1, 1, 2, 2},
     .parallel = true,
     .absent = B(2),
     .verdict = WAL_VERDICT_FAULTY,
     .last_index = 12,
     .fault_first = 4,
     .fault_last = 6},
    {.why = "R5: last block and all copies gone after a clean close",
     .terms = {1, 1, 1, 1},
     .clean = true,
     .absent = B(4),
     .copies = B(4),
     .verdict = WAL_VERDICT_FENCED,
     .last_index = 9},
    {.why = "R2a: last block rotten after a clean close",
     .terms = {1, 1, 1, 1},
     .clean = true,
     .payload = B(4),
     .copies = B(4),
     .verdict = WAL_VERDICT_FAULTY,
     .last_index = 12,
     .fault_first = 10,
     .fault_last = 10,
     .proven = true},
    {.why = "R5: last block and all copies gone after a rest",
     .terms = {1, 1, 1, 1},
     .rested = true,
     .absent = B(4),
     .copies = B(4),
     .verdict = WAL_VERDICT_FENCED,
     .last_index = 9},
    {.why = "R2a: after a rest the ring alone knows the last block",
     .terms = {1, 1, 1, 2},
     .rested = true,
     .header = B(4),
     .trail_copies = B(4),
     .verdict = WAL_VERDICT_FAULTY,
     .last_index = 12,
     .fault_first = 10,
     .fault_last = 12,
     .proven = true},
    {.why = "trails alone may rot: blocks are enough",
     .terms = {1, 1, 2, 2},
     .trail = B(1) | B(2) | B(3) | B(4),
     .verdict = WAL_VERDICT_OK,
     .last_index = 12},
};

static const struct row *row;
static char crashed[128];

static void write_image(void)
{
    char log[128];
    snprintf(log, sizeof(log), "%s/log", root);
    snprintf(crashed, sizeof(crashed), "%s/crashed", root);
    struct wal_recovered recovered;
    struct wal_options options = small_options(log);
    if (row->rested)
        options.idle_mark_ns = NS_PER_MS;
    struct wal *wal = NULL;
    cr_assert_eq(wal_open(&options, &wal, &recovered), 0, "%s", recovered.reason);
    struct batch *last = NULL;
    for (uint64_t i = 0; i < BLOCKS; i++) {
        last = append_start(wal, 1 + i * 3, 3, row->terms[i], 300);
        if (!row->parallel)
            batch_wait(last);
    }
    batch_wait(last);
    while (row->rested && wal->marked_sequence != BLOCKS)
        fiber_sleep_until(core_now_ns(core) + NS_PER_MS);
    await_keeper(wal); /* its write of the mark is done */
    if (!row->clean)
        copy_log(log, crashed);
    wal_close(wal);
    if (row->clean)
        copy_log(log, crashed);
}

static void damage_image(void)
{
    const uint64_t block_bytes = WAL_BLOCK_BYTES_MIN;
    char segment[160], ring[160];
    uint8_t zeros[WAL_PAGE_BYTES] = {0};
    snprintf(segment, sizeof(segment), "%s/0000000001.log", crashed);
    snprintf(ring, sizeof(ring), "%s/ring", crashed);
    for (uint64_t block = 1; block <= BLOCKS; block++) {
        uint64_t at = (block - 1) * block_bytes;
        uint8_t byte;
        if (row->payload & B(block)) {
            fetch_bytes(segment, at + 200, &byte, 1);
            byte ^= 4;
            patch(segment, at + 200, &byte, 1);
        }
        if (row->header & B(block)) {
            fetch_bytes(segment, at + 90, &byte, 1);
            byte ^= 4;
            patch(segment, at + 90, &byte, 1);
        }
        if (row->absent & B(block))
            patch(segment, at, zeros, sizeof(zeros));
        if (row->trail & B(block))
            patch(segment, at + block_bytes - WAL_TRAIL_BYTES, zeros, WAL_TRAIL_BYTES);
        bool no_copy = ((row->copies | row->trail_copies) & B(block)) != 0;
        for (uint64_t later = block; later <= BLOCKS && no_copy; later++)
            patch(segment,
                  later * block_bytes - WAL_TRAIL_BYTES + (later - block) * WAL_HEADER_BYTES, zeros,
                  WAL_HEADER_BYTES);
        if (row->copies & B(block)) /* written last with all four durable, or never */
            patch(ring, wal_ring_offset(64, BLOCKS) + (BLOCKS - block) * WAL_HEADER_BYTES, zeros,
                  WAL_HEADER_BYTES);
    }
}

static void check_again(struct wal *wal)
{
    struct wal_recovered recovered;
    if (row->verdict != WAL_VERDICT_FENCED) {
        replay_all(wal);
        cr_assert_eq(seen.count, row->last_index, "%s", row->why);
        uint64_t faulty = row->fault_first == 0 ? 0 : row->fault_last - row->fault_first + 1;
        cr_assert_eq(seen.faulty, faulty, "%s", row->why);
        append_wait(wal, row->last_index + 1, 5, 9, 700);
        wal_close(wal);
        wal = open_small(crashed, &recovered);
        enum wal_verdict want =
            row->verdict == WAL_VERDICT_FAULTY ? WAL_VERDICT_FAULTY : WAL_VERDICT_OK;
        cr_assert_eq(recovered.verdict, want, "second start: %s: %s", row->why, recovered.reason);
        cr_assert_eq(recovered.last_index, row->last_index + 5, "%s", row->why);
        replay_all(wal);
    } else {
        append_marker(wal, WAL_APPEND_RESET, 500, 8);
        append_wait(wal, 501, 2, 8, 100);
        wal_close(wal);
        wal = open_small(crashed, &recovered);
        cr_assert_eq(recovered.verdict, WAL_VERDICT_OK, "after a reset: %s: %s", row->why,
                     recovered.reason);
        cr_assert_eq(recovered.last_index, 502);
    }
    wal_close(wal);
}

/* A node that is alone refuses what is certainly damaged, and leaves every byte as it was. */
static void check_alone(void)
{
    struct wal_recovered recovered;
    struct wal_options options = small_options(crashed);
    struct wal *wal = NULL;
    char command[512];
    if (row->verdict != WAL_VERDICT_FENCED && !row->proven)
        return;
    options.alone = true;
    copy_log(crashed, in_root("untouched"));
    cr_assert_eq(wal_open(&options, &wal, &recovered), ERR_CORRUPT, "%s", row->why);
    cr_assert_not_null(strstr(recovered.reason, "0000000001.log at offset "), "%s: %s", row->why,
                       recovered.reason);
    snprintf(command, sizeof(command), "diff -r %s %s", crashed, in_root("untouched"));
    cr_assert_eq(system(command), 0, "%s", row->why);
}

/* What survived behind a cut can never parse again, neither as a block nor as a copy of one. */
static void check_erased(void)
{
    char segment[160];
    uint8_t page[WAL_PAGE_BYTES];
    struct wal_block block;
    snprintf(segment, sizeof(segment), "%s/0000000001.log", crashed);
    for (uint64_t page_number = row->last_index / 3 * 2; page_number < 2 * BLOCKS; page_number++) {
        fetch_bytes(segment, page_number * WAL_PAGE_BYTES, page, sizeof(page));
        cr_assert_eq(wal_block_decode(page, &block), WAL_HEADER_ABSENT, "%s: page %llu", row->why,
                     (unsigned long long)page_number);
    }
}

static void check_image(void)
{
    check_alone();

    struct wal_recovered recovered, dumped;
    struct wal_options options = small_options(crashed);
    struct wal *wal = NULL;
    cr_assert_eq(wal_dump(crashed, NULL, &dumped), 0, "%s", row->why);
    cr_assert_eq(wal_open(&options, &wal, &recovered), 0, "%s: %s", row->why, recovered.reason);
    cr_assert_eq(recovered.verdict, row->verdict, "%s: verdict %d, %s", row->why, recovered.verdict,
                 recovered.reason);
    cr_assert_eq(dumped.verdict, row->verdict, "the dump decides alike: %s", row->why);
    cr_assert_eq(recovered.last_index, row->last_index, "%s: last %llu", row->why,
                 (unsigned long long)recovered.last_index);
    cr_assert_eq(recovered.fault_first_index, row->fault_first, "%s", row->why);
    if (row->verdict == WAL_VERDICT_TORN)
        check_erased();
    struct wal_fault fault = {0};
    cr_assert_eq(wal_fault_get(wal, 0, &fault), row->fault_first != 0, "%s", row->why);
    if (row->fault_first != 0) {
        cr_assert_eq(fault.last_index, row->fault_last, "%s", row->why);
        cr_assert_eq(fault.term, row->terms[(fault.first_index - 1) / 3], "%s", row->why);
        cr_assert_eq(fault.proven, row->proven, "%s", row->why);
    }
    check_again(wal);
}

static void clear_root(void)
{
    char command[160];
    snprintf(command, sizeof(command), "rm -rf %s/*", root);
    cr_assert_eq(system(command), 0);
}

static void one_row(void)
{
    write_image();
    damage_image();
    check_image();
    clear_root();
}

Test(wal_recover, evidence_table)
{
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        row = &rows[i];
        in_fiber(one_row);
    }
}

Test(wal_recover, evidence_counts_the_same_while_others_hold_every_buffer)
{
    take_all_buffers();
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        row = &rows[i];
        in_fiber(one_row);
    }
    give_all_buffers();
}

/* The trails of the last blocks did not land, and they are kept: the start that calls them durable
 * leaves copies of their headers, so that one more damage does not take away what they were. */
static void copies_of_last_headers(void)
{
    static const struct row torn_trails = {.terms = {1, 1, 2, 3}, .trail = B(3) | B(4)};
    row = &torn_trails;
    for (uint64_t damaged = 3; damaged <= BLOCKS; damaged++) {
        char started[128], segment[160];
        uint8_t zeros[WAL_PAGE_BYTES] = {0};
        struct wal_recovered recovered;
        write_image();
        damage_image();
        struct wal *wal = open_small(crashed, &recovered);
        cr_assert_eq(recovered.verdict, WAL_VERDICT_OK);
        snprintf(started, sizeof(started), "%s/started", root);
        copy_log(crashed, started);
        wal_close(wal);
        snprintf(segment, sizeof(segment), "%s/0000000001.log", started);
        patch(segment, (damaged - 1) * (uint64_t)WAL_BLOCK_BYTES_MIN, zeros, sizeof(zeros));
        wal = open_small(started, &recovered);
        cr_assert_eq(recovered.verdict, WAL_VERDICT_FAULTY, "%lu: %s", (unsigned long)damaged,
                     recovered.reason);
        cr_expect_eq(recovered.last_index, 12);
        cr_expect_eq(recovered.fault_first_index, 3 * damaged - 2);
        cr_expect_eq(recovered.fault_proven_count, 1);
        wal_close(wal);
        clear_root();
    }
}

Test(wal_recover, a_start_leaves_copies_of_the_last_headers)
{
    in_fiber(copies_of_last_headers);
}

/* ---- repair and cut ----------------------------------------------------------------------------
 */

static void repair(void)
{
    row = &rows[2]; /* entries 4..6 of term 2 faulty */
    write_image();
    damage_image();
    struct wal_recovered recovered;
    struct wal *wal = open_small(crashed, &recovered);
    cr_assert_eq(wal_fault_count(wal), 1);
    cr_assert_eq(wal_read(wal, 2, 12, UINT64_MAX, seen_visit, &seen), 2, "up to the fault");
    cr_assert_eq(wal_read(wal, 4, 12, UINT64_MAX, seen_visit, &seen), ERR_CORRUPT);
    struct batch *batch = batch_make(4, 2, 2, 300); /* one by one, not all at once */
    batch->append.kind = WAL_APPEND_REPAIR;
    wal_append(wal, &batch->append);
    wal_flush(wal);
    batch_wait(batch);
    struct wal_fault fault;
    cr_assert(wal_fault_get(wal, 0, &fault));
    cr_assert_eq(fault.first_index, 6);
    batch = batch_make(6, 1, 2, 300);
    batch->append.kind = WAL_APPEND_REPAIR;
    wal_append(wal, &batch->append);
    append_wait(wal, 13, 1, 5, 300);
    cr_assert_eq(wal_fault_count(wal), 0);
    replay_all(wal);
    cr_assert_eq(seen.count, 13);
    cr_assert_eq(seen.faulty, 0);
    wal_close(wal);
    wal = open_small(crashed, &recovered);
    cr_assert_eq(recovered.fault_count, 0, "the repair is durable");
    replay_all(wal);
    cr_assert_eq(seen.count, 13);
    cr_assert_eq(seen.faulty, 0);
    wal_close(wal);
}

Test(wal_recover, faulty_entries_are_repaired_in_place)
{
    in_fiber(repair);
}

/* The last entry of a segment is damaged, repaired by a copy in the next one, and not in tables yet
 * when all before it is released: a log that began with the next segment would have lost it. */
static void repaired_entry_outlives_a_release(void)
{
    enum { OF_FIRST = 16, BYTES = 3000 }; /* entries that fill a segment, each with a trail */
    char log[128], segment[160];
    uint8_t byte;
    struct wal_recovered recovered;
    snprintf(log, sizeof(log), "%s/log", root);
    snprintf(crashed, sizeof(crashed), "%s/crashed", root);
    snprintf(segment, sizeof(segment), "%s/0000000001.log", log);
    struct wal *wal = open_small(log, &recovered);
    for (uint64_t index = 1; index <= OF_FIRST + 1; index++)
        append_wait(wal, index, 1, 1, BYTES);
    cr_assert_eq(wal->active, 1);
    cr_assert_eq(wal->active_offset, WAL_BLOCK_BYTES_MIN);
    wal_close(wal);
    uint64_t at = (OF_FIRST - 1) * (uint64_t)WAL_BLOCK_BYTES_MIN + 200;
    fetch_bytes(segment, at, &byte, 1);
    byte ^= 4;
    patch(segment, at, &byte, 1);
    wal = open_small(log, &recovered);
    cr_assert_eq(recovered.fault_first_index, OF_FIRST, "%s", recovered.reason);
    struct batch *batch = batch_make(OF_FIRST, 1, 1, BYTES);
    batch->append.kind = WAL_APPEND_REPAIR;
    wal_append(wal, &batch->append);
    wal_flush(wal);
    batch_wait(batch);
    append_wait(wal, OF_FIRST + 2, 1, 1, BYTES);
    wal_release(wal, OF_FIRST - 1);
    await_keeper(wal);
    copy_log(log, crashed);
    wal_close(wal);
    wal = open_small(crashed, &recovered);
    cr_assert_eq(recovered.verdict, WAL_VERDICT_OK, "%s", recovered.reason);
    cr_assert_leq(recovered.first_index, OF_FIRST);
    replay_all(wal);
    cr_expect_eq(seen.last, OF_FIRST + 2);
    cr_expect_eq(seen.faulty, 0);
    cr_expect_not(seen.wrong);
    wal_release(wal, OF_FIRST);
    await_keeper(wal);
    cr_expect_eq(wal->superblock.oldest_segment, 2, "now it may go");
    wal_close(wal);
}

Test(wal_recover, a_repaired_entry_outlives_the_release_of_what_is_before_it)
{
    in_fiber(repaired_entry_outlives_a_release);
}

static void cut_unproven(void)
{
    row = &rows[9];
    write_image();
    damage_image();
    struct wal_recovered recovered;
    struct wal *wal = open_small(crashed, &recovered);
    cr_assert_eq(recovered.fault_first_index, 10);
    append_marker(wal, WAL_APPEND_CUT, 9, 0);
    cr_assert_eq(wal_fault_count(wal), 0);
    wal_close(wal);
    wal = open_small(crashed, &recovered);
    cr_assert_eq(recovered.verdict, WAL_VERDICT_OK, "%s", recovered.reason);
    cr_assert_eq(recovered.last_index, 9);
    wal_close(wal);
}

Test(wal_recover, a_lone_node_may_cut_what_was_never_proven)
{
    in_fiber(cut_unproven);
}

static void still_unproven(const char *directory, struct wal **wal)
{
    struct wal_recovered recovered;
    struct wal_options options = small_options(directory);
    options.alone = true;
    cr_assert_eq(wal_open(&options, wal, &recovered), 0, "%s", recovered.reason);
    cr_assert_eq(recovered.verdict, WAL_VERDICT_FAULTY);
    cr_assert_eq(recovered.fault_first_index, 10);
    cr_assert_eq(recovered.fault_proven_count, 0, "%s", recovered.reason);
}

/* A start that found it and went no further must not make it look durable: the next one, of a node
 * that is alone, would refuse the log for good. */
static void crash_before_the_cut(void)
{
    char again[160];
    row = &rows[9];
    write_image();
    damage_image();
    struct wal *first, *second, *third;
    still_unproven(crashed, &first);
    snprintf(again, sizeof(again), "%s", in_root("again"));
    copy_log(crashed, again); /* the power goes here */
    still_unproven(again, &second);
    for (uint64_t term = 9; term < 9 + 2 * WAL_RING_STRIDE; term++)
        append_hard_state(second, term, 1, 9); /* or after votes, that nobody builds on it with */
    wal_close(second);                         /* or it is stopped */
    still_unproven(again, &third);
    append_marker(third, WAL_APPEND_CUT, 9, 0);
    wal_close(third);
    struct wal_recovered recovered;
    third = open_small(again, &recovered);
    cr_assert_eq(recovered.verdict, WAL_VERDICT_OK, "%s", recovered.reason);
    cr_assert_eq(recovered.last_index, 9);
    wal_close(third);
    append_wait(first, 11, 2, 9, 100); /* now others build on it */
    wal_close(first);
    first = open_small(crashed, &recovered);
    cr_assert_eq(recovered.fault_proven_count, 1);
    wal_close(first);
}

Test(wal_recover, a_start_proves_nothing_before_it_writes)
{
    in_fiber(crash_before_the_cut);
}

/* More blocks than ring and memory hold copies of: the one beside the damaged header counts. */
static void damage_an_old_header(void)
{
    struct wal_recovered recovered;
    char log[128], copy[128], segment[160];
    snprintf(log, sizeof(log), "%s", in_root("log"));
    snprintf(copy, sizeof(copy), "%s", in_root("copy"));
    snprintf(segment, sizeof(segment), "%s/0000000001.log", copy);
    struct wal *wal = open_small(log, &recovered);
    uint32_t blocks = wal->ring_slots * WAL_RING_STRIDE + WAL_TRAIL_HEADERS + 20;
    for (uint64_t index = 1; index <= blocks; index++)
        append_wait(wal, index, 1, index < 3 ? index : 3, 100);
    wal_close(wal);
    uint8_t garbage[WAL_PAGE_BYTES];
    memset(garbage, 0xee, sizeof(garbage));
    for (uint64_t block = 0; block < 2; block++) {
        copy_log(log, copy);
        patch(segment, block * 2 * WAL_PAGE_BYTES, garbage, sizeof(garbage));
        wal = open_small(copy, &recovered);
        cr_assert_eq(recovered.verdict, WAL_VERDICT_FAULTY, "%s", recovered.reason);
        cr_assert_eq(recovered.fault_first_index, block + 1);
        cr_assert_eq(recovered.fault_proven_count, 1);
        cr_assert_eq(recovered.last_index, blocks);
        wal_close(wal);
    }
}

Test(wal_recover, an_old_block_is_known_by_its_trail)
{
    in_fiber(damage_an_old_header);
}

/* ---- refusals ----------------------------------------------------------------------------------
 */

static void remove_file(const char *name)
{
    char path[192];
    snprintf(path, sizeof(path), "%s/%s", crashed, name);
    cr_assert_eq(unlink(path), 0, "%s", path);
}

static void spoil(const char *name, uint64_t offset, size_t size)
{
    char path[192];
    uint8_t bytes[WAL_PAGE_BYTES];
    snprintf(path, sizeof(path), "%s/%s", crashed, name);
    fetch_bytes(path, offset, bytes, size);
    for (size_t i = 0; i < size; i++)
        bytes[i] ^= 0x55;
    patch(path, offset, bytes, size);
}

static void new_version(const char *name, uint64_t offset)
{
    char path[192];
    uint8_t bytes[128];
    snprintf(path, sizeof(path), "%s/%s", crashed, name);
    fetch_bytes(path, offset, bytes, sizeof(bytes));
    le16_store(bytes + 4, WAL_FORMAT_VERSION + 1);
    le32_store(bytes + 8, 0);
    le32_store(bytes + 8, crc32c(0, bytes, sizeof(bytes)));
    patch(path, offset, bytes, sizeof(bytes));
}

static void harm_none(void) {}
static void harm_one_superblock(void)
{
    spoil("ring", 0, 64);
}
static void harm_other_superblock(void)
{
    spoil("ring", 4096, 64);
}
static void harm_both_superblocks(void)
{
    spoil("ring", 20, 64);
    spoil("ring", 4096 + 20, 64);
}
static void harm_magic(void)
{
    spoil("ring", 0, 4);
    spoil("ring", 4096, 4);
}
static void harm_superblock_version(void)
{
    new_version("ring", 0);
    new_version("ring", 4096);
}
static void harm_block_version(void)
{
    new_version("0000000001.log", WAL_BLOCK_BYTES_MIN);
}
static void harm_ring_missing(void)
{
    remove_file("ring");
}
static void harm_segment_missing(void)
{
    remove_file("0000000001.log");
}
static void harm_ring_short(void)
{
    char path[192];
    snprintf(path, sizeof(path), "%s/ring", crashed);
    cr_assert_eq(truncate(path, 8192), 0);
}
static void harm_segment_short(void)
{
    char path[192];
    snprintf(path, sizeof(path), "%s/0000000001.log", crashed);
    cr_assert_eq(truncate(path, 8192), 0);
}

static const struct {
    const char *why;
    void (*harm)(void);
    int want;
    const char *file; /* named in the reason */
} refusals[] = {
    {"nothing wrong", harm_none, 0, ""},
    {"R6: one superblock bad", harm_one_superblock, 0, ""},
    {"R6: the other superblock bad", harm_other_superblock, 0, ""},
    {"R6: both superblocks bad", harm_both_superblocks, ERR_CORRUPT, "ring"},
    {"bad magic in a directory that is not empty", harm_magic, ERR_CORRUPT, "bad magic"},
    {"superblock of a later format", harm_superblock_version, ERR_VERSION, "ring"},
    {"block of a later format", harm_block_version, ERR_VERSION, "0000000001.log at offset 8192"},
    {"ring file missing", harm_ring_missing, ERR_CORRUPT, "ring file is missing"},
    {"segment missing", harm_segment_missing, ERR_CORRUPT, "0000000001.log"},
    {"ring file too short", harm_ring_short, ERR_CORRUPT, "ring"},
    {"segment too short", harm_segment_short, ERR_CORRUPT, "0000000001.log"},
};

static void refuse(void)
{
    row = &rows[0];
    for (size_t i = 0; i < ARRAY_COUNT(refusals); i++) {
        write_image();
        refusals[i].harm();
        struct wal_recovered recovered;
        struct wal_options options = small_options(crashed);
        struct wal *wal = NULL;
        int result = wal_open(&options, &wal, &recovered);
        cr_assert_eq(result, refusals[i].want, "%s: %s, %s", refusals[i].why, err_name(result),
                     recovered.reason);
        cr_assert_not_null(strstr(recovered.reason, refusals[i].file), "%s: %s", refusals[i].why,
                           recovered.reason);
        if (wal != NULL) {
            cr_assert_eq(recovered.last_index, 12, "%s", refusals[i].why);
            wal_close(wal);
        }
        char command[160];
        snprintf(command, sizeof(command), "rm -rf %s/*", root);
        cr_assert_eq(system(command), 0);
    }
}

Test(wal_recover, what_is_not_a_log_of_ours_is_refused)
{
    in_fiber(refuse);
}

/* A recycled segment is full of old blocks: behind a torn tail none of them may come back. */
static void stale_blocks(void)
{
    char log[128];
    snprintf(log, sizeof(log), "%s/log", root);
    snprintf(crashed, sizeof(crashed), "%s/crashed", root);
    struct wal_recovered recovered;
    struct wal *wal = open_small(log, &recovered);
    uint64_t index = 1;
    for (; index <= 3000; index += 10) {
        append_wait(wal, index, 10, 1, 300);
        wal_release(wal, index > 50 ? index - 50 : 0);
        await_keeper(wal);
    }
    cr_assert_gt(wal_stats(wal)->segments_recycled, 3);
    copy_log(log, crashed);
    uint64_t last = wal_last_index(wal);
    wal_close(wal);
    wal = open_small(crashed, &recovered);
    cr_assert_eq(recovered.verdict, WAL_VERDICT_OK, "%s", recovered.reason);
    cr_assert_eq(recovered.last_index, last);
    append_wait(wal, last + 1, 30, 2, 300);
    replay_all(wal);
    cr_assert_eq(seen.last, last + 30);
    wal_close(wal);
}

Test(wal_recover, old_blocks_of_recycled_segments_never_parse_as_new)
{
    in_fiber(stale_blocks);
}
