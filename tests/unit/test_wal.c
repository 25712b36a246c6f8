#include "test_wal.h"

TestSuite(wal, .init = world_open, .fini = world_close, .timeout = 600);

/* ---- appending and reading back ----------------------------------------------------------------
 */

static void append_and_reopen(void)
{
    struct wal_recovered recovered;
    struct wal *wal = open_small(in_root("log"), &recovered);
    cr_assert_eq(recovered.verdict, WAL_VERDICT_EMPTY);
    cr_assert_eq(wal_first_index(wal), 1);
    cr_assert_eq(wal_last_index(wal), 0);
    append_hard_state(wal, 3, 2, 0);
    append_wait(wal, 1, 10, 3, 300);
    append_wait(wal, 11, 1, 4, 0);
    append_wait(wal, 12, 100, 4, 500);
    append_hard_state(wal, 5, 1, 90);
    cr_assert_eq(wal_last_index(wal), 111);
    cr_assert_eq(wal_term(wal, 10), 3);
    cr_assert_eq(wal_term(wal, 11), 4);
    cr_assert_eq(wal_term(wal, 112), 0);
    wal_close(wal);

    wal = open_small(in_root("log"), &recovered);
    cr_assert_eq(recovered.verdict, WAL_VERDICT_OK, "%s", recovered.reason);
    cr_assert_eq(recovered.first_index, 1);
    cr_assert_eq(recovered.last_index, 111);
    cr_assert_eq(recovered.last_term, 4);
    cr_assert_eq(recovered.hard_state.term, 5);
    cr_assert_eq(recovered.hard_state.vote, 1);
    cr_assert_eq(recovered.hard_state.commit, 90);
    replay_all(wal);
    cr_assert_eq(seen.count, 111);
    cr_assert_eq(seen.terms[10], 3);
    append_wait(wal, 112, 3, 5, 40);
    replay_all(wal);
    cr_assert_eq(seen.last, 114);
    wal_close(wal);
}

Test(wal, what_was_appended_is_there_after_reopening)
{
    in_fiber(append_and_reopen);
}

static void parallel_and_order(void)
{
    struct wal_recovered recovered;
    struct wal *wal = open_small(in_root("log"), &recovered);
    struct batch *all[200];
    for (uint32_t i = 0; i < 200; i++) {
        all[i] = append_start(wal, 1 + i * 5, 5, 1 + i / 50, 100 + i);
        cr_assert_leq(wal_in_flight(wal), wal->writes_max);
        cr_assert_not(all[i]->is_done, "never inside wal_append() or wal_flush()");
    }
    batch_wait(all[199]);
    for (uint32_t i = 0; i < 200; i++)
        cr_assert(all[i]->is_done, "%u", i);
    replay_all(wal);
    cr_assert_eq(seen.count, 1000);
    wal_close(wal);
    wal = open_small(in_root("log"), &recovered);
    cr_assert_eq(recovered.last_index, 1000);
    replay_all(wal);
    cr_assert_eq(seen.count, 1000);
    wal_close(wal);
}

Test(wal, many_appends_in_flight_over_many_segments)
{
    in_fiber(parallel_and_order);
}

static void conflicts(void)
{
    struct wal_recovered recovered;
    struct wal *wal = open_small(in_root("log"), &recovered);
    append_wait(wal, 1, 20, 1, 200);
    append_start(wal, 15, 10, 2, 200);
    append_start(wal, 18, 2, 3, 200); /* overrides what may still be in flight */
    append_wait(wal, 20, 5, 3, 200);
    for (int round = 0; round < 2; round++) {
        replay_all(wal);
        cr_assert_eq(seen.count, 24);
        cr_assert_eq(seen.terms[14], 1);
        cr_assert_eq(seen.terms[15], 2);
        cr_assert_eq(seen.terms[17], 2);
        cr_assert_eq(seen.terms[18], 3);
        cr_assert_eq(seen.terms[24], 3);
        wal_close(wal);
        wal = open_small(in_root("log"), &recovered);
        cr_assert_eq(recovered.verdict, WAL_VERDICT_OK, "%s", recovered.reason);
        cr_assert_eq(recovered.last_index, 24);
    }
    append_marker(wal, WAL_APPEND_CUT, 16, 0);
    cr_assert_eq(wal_last_index(wal), 16);
    append_wait(wal, 17, 3, 4, 10);
    wal_close(wal);
    wal = open_small(in_root("log"), &recovered);
    replay_all(wal);
    cr_assert_eq(seen.count, 19);
    cr_assert_eq(seen.terms[17], 4);
    wal_close(wal);
}

Test(wal, a_conflicting_suffix_is_overridden)
{
    in_fiber(conflicts);
}

static void huge_entries(void)
{
    struct wal_recovered recovered;
    struct wal *wal = open_small(in_root("log"), &recovered);
    append_wait(wal, 1, 2, 1, 50);
    append_wait(wal, 3, 1, 1, 100000); /* many blocks, two segments */
    append_wait(wal, 4, 1, 1, 8000);   /* just fits one block */
    append_wait(wal, 5, 2, 1, 8100);   /* just does not */
    append_start(wal, 7, 1, 1, 20000);
    append_wait(wal, 7, 1, 2, 30000); /* conflict of large ones */
    append_wait(wal, 8, 1, 2, ENTRY_PAYLOAD_BYTES_MAX);
    append_wait(wal, 9, 1, 2, 1);
    replay_all(wal);
    cr_assert_eq(seen.count, 9);
    cr_assert_eq(seen.terms[7], 2);
    wal_close(wal);
    wal = open_small(in_root("log"), &recovered);
    cr_assert_eq(recovered.verdict, WAL_VERDICT_OK, "%s", recovered.reason);
    cr_assert_eq(recovered.last_index, 9);
    replay_all(wal);
    cr_assert_eq(seen.count, 9);
    wal_close(wal);
}

Test(wal, entries_larger_than_a_block_span_blocks)
{
    in_fiber(huge_entries);
}

static void recycling(void)
{
    struct wal_recovered recovered;
    struct wal *wal = open_small(in_root("log"), &recovered);
    uint64_t index = 1;
    for (int round = 0; round < 60; round++) {
        append_wait(wal, index, 20, 1 + round / 7, 700);
        index += 20;
        if (index > 100)
            wal_release(wal, index - 60);
        if (round % 20 == 19) {
            memset(&seen, 0, sizeof(seen)); /* while the keeper recycles what lies before */
            cr_assert_eq(wal_replay(wal, index - 59, seen_visit, &seen), 0);
            cr_assert_not(seen.wrong);
            cr_assert_eq(seen.last, index - 1);
        }
        await_keeper(wal); /* were it far behind, it would delete rather than recycle */
    }
    const struct wal_stats *stats = wal_stats(wal);
    cr_assert_gt(stats->segments_recycled, 5);
    cr_assert_eq(stats->segments_recycled, wal->segments[0].number - 1, "each one was reused");
    cr_assert_lt(stats->segments + stats->segments_ready, 16, "disk use stays bounded");
    wal_close(wal);
    wal = open_small(in_root("log"), &recovered);
    cr_assert_eq(recovered.verdict, WAL_VERDICT_OK, "%s", recovered.reason);
    cr_assert_eq(recovered.last_index, index - 1);
    cr_assert_gt(recovered.first_index, 1);
    cr_assert_eq(recovered.base_index, recovered.first_index - 1);
    cr_assert_neq(recovered.base_term, 0);
    replay_all(wal);
    cr_assert_eq(seen.last, index - 1);
    int64_t count = wal_read(wal, 1, 5, UINT64_MAX, seen_visit, &seen);
    cr_assert_eq(count, ERR_COMPACTED);
    wal_close(wal);
}

Test(wal, released_segments_are_recycled_and_their_old_blocks_stay_dead)
{
    in_fiber(recycling);
}

static void resets(void)
{
    struct wal_recovered recovered;
    struct wal *wal = open_small(in_root("log"), &recovered);
    append_wait(wal, 1, 50, 1, 700);
    append_marker(wal, WAL_APPEND_RESET, 1000, 7);
    cr_assert_eq(wal_first_index(wal), 1001);
    cr_assert_eq(wal_last_index(wal), 1000);
    cr_assert_eq(wal_term(wal, 1000), 7);
    append_wait(wal, 1001, 5, 7, 10);
    wal_close(wal);
    wal = open_small(in_root("log"), &recovered);
    cr_assert_eq(recovered.verdict, WAL_VERDICT_OK, "%s", recovered.reason);
    cr_assert_eq(recovered.first_index, 1001);
    cr_assert_eq(recovered.last_index, 1005);
    cr_assert_eq(recovered.base_term, 7);
    append_marker(wal, WAL_APPEND_RESET, 2000, 9);
    wal_close(wal);
    wal = open_small(in_root("log"), &recovered);
    cr_assert_eq(recovered.first_index, 2001);
    cr_assert_eq(recovered.last_index, 2000);
    cr_assert_eq(recovered.last_term, 9);
    append_wait(wal, 2001, 1, 9, 10);
    wal_close(wal);
}

Test(wal, a_reset_drops_everything_and_starts_behind_the_snapshot)
{
    in_fiber(resets);
}

static void ranged_reads(void)
{
    struct wal_recovered recovered;
    struct wal *wal = open_small(in_root("log"), &recovered);
    for (uint64_t i = 1; i <= 100; i++)
        append_start(wal, i, 1, 1, 100);
    append_wait(wal, 101, 100, 2, 100);
    memset(&seen, 0, sizeof(seen));
    cr_assert_eq(wal_read(wal, 37, 160, UINT64_MAX, seen_visit, &seen), 124);
    cr_assert_eq(seen.first, 37);
    cr_assert_eq(seen.last, 160);
    memset(&seen, 0, sizeof(seen));
    cr_assert_eq(wal_read(wal, 150, 10000, 250, seen_visit, &seen), 3);
    cr_assert_eq(wal_read(wal, 201, 201, 1, seen_visit, &seen), ERR_NOT_FOUND);
    cr_assert_eq(wal_read(wal, 0, 201, 1, seen_visit, &seen), ERR_COMPACTED);
    wal_close(wal);
}

Test(wal, reads_are_bounded_by_index_and_bytes)
{
    in_fiber(ranged_reads);
}

Test(wal, other_users_of_the_buffers_change_nothing)
{
    static void (*const stories[])(void) = {append_and_reopen, huge_entries, ranged_reads};
    take_all_buffers();
    for (size_t i = 0; i < ARRAY_COUNT(stories); i++) {
        char command[160];
        in_fiber(stories[i]);
        snprintf(command, sizeof(command), "rm -rf %s/*", root);
        cr_assert_eq(system(command), 0);
    }
    give_all_buffers();
}

/* ---- order of completion -----------------------------------------------------------------------
 */

static struct batch *order_batches[4];
static int order_real_count;

static void order_real_done(struct io_op *op, int32_t result)
{
    (void)op;
    cr_assert_gt(result, 0);
    order_real_count++;
}

static void completion_order(void)
{
    struct wal_recovered recovered;
    struct wal *wal = open_small(in_root("log"), &recovered);
    for (uint64_t i = 0; i < 4; i++)
        order_batches[i] = append_start(wal, 1 + i, 1, 1, 10);
    cr_assert_eq(wal_in_flight(wal), 4);
    /* Completions are played by hand, in the order 3, 2, 4, 1; where the real ones go afterwards is
     * only counted. */
    struct wal_write *writes[4];
    for (uint64_t i = 0; i < 4; i++) {
        writes[i] = &wal->writes[(1 + i) % wal->writes_max];
        cr_assert(writes[i]->pending);
        writes[i]->op.done = order_real_done;
        cr_assert_eq(writes[i]->block.sequence, 1 + i);
    }
    static const int order[] = {2, 1, 3, 0};
    static const uint64_t durable_after[] = {0, 0, 0, 4};
    for (int i = 0; i < 4; i++) {
        wal_write_completed(writes[order[i]]);
        cr_assert_eq(wal->durable_sequence, durable_after[i], "after block %d", order[i] + 1);
        for (int k = 0; k < 4; k++)
            cr_assert_eq(order_batches[k]->is_done, durable_after[i] == 4);
    }
    cr_assert_eq(wal_last_index(wal), 4);
    while (order_real_count != 4)
        fiber_sleep_until(core_now_ns(core) + NS_PER_MS);
    wal_close(wal);
}

Test(wal, only_the_contiguous_prefix_is_acknowledged)
{
    in_fiber(completion_order);
}

/* ---- dump --------------------------------------------------------------------------------------
 */

struct dumped {
    uint64_t blocks, entries, bad;
};

static void dump_block(void *context, const struct wal_dump_block *block)
{
    struct dumped *dumped = context;
    dumped->blocks++;
    dumped->bad += !block->valid;
}

static void dump_entry(void *context, const struct entry *entry)
{
    struct dumped *dumped = context;
    dumped->entries += entry->index != 0;
}

static void dump(void)
{
    struct wal_recovered recovered;
    struct wal *wal = open_small(in_root("log"), &recovered);
    append_wait(wal, 1, 5, 1, 100);
    append_wait(wal, 4, 2, 2, 100);
    wal_close(wal);
    struct dumped dumped = {0};
    struct wal_dump_visitor visitor = {
        .block = dump_block, .entry = dump_entry, .context = &dumped};
    cr_assert_eq(wal_dump(in_root("log"), &visitor, &recovered), 0);
    cr_assert_eq(dumped.blocks, 2);
    cr_assert_eq(dumped.entries, 7, "overridden ones too");
    cr_assert_eq(dumped.bad, 0);
    cr_assert_eq(recovered.last_index, 5);
}

Test(wal, dump_shows_what_is_on_disk)
{
    in_fiber(dump);
}

static void dump_entries(void)
{
    struct wal_recovered recovered;
    struct wal *wal = open_small(in_root("log"), &recovered);
    append_wait(wal, 1, 5, 1, 100);
    append_wait(wal, 4, 1, 2, 60000); /* overrides 4 and 5, in fragments over two segments */
    append_wait(wal, 5, 2, 2, 3000);
    wal_close(wal);
    memset(&seen, 0, sizeof(seen));
    cr_assert_eq(wal_dump_entries(in_root("log"), 0, seen_visit, &seen, &recovered), 0);
    cr_assert(!seen.wrong && seen.first == 1 && seen.count == 6 && seen.last == 6);
    cr_assert(seen.terms[3] == 1 && seen.terms[4] == 2);
    memset(&seen, 0, sizeof(seen));
    cr_assert_eq(wal_dump_entries(in_root("log"), 5, seen_visit, &seen, &recovered), 0);
    cr_assert(!seen.wrong && seen.first == 5 && seen.count == 2);
    cr_assert_eq(wal_dump_entries(in_root("none"), 0, seen_visit, &seen, &recovered), 0);
    cr_assert(recovered.verdict == WAL_VERDICT_EMPTY && seen.count == 2, "no log is an empty one");
}

Test(wal, dump_of_entries_shows_what_counts)
{
    in_fiber(dump_entries);
}
