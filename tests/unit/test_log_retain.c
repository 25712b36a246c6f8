#include <criterion/criterion.h>

#include "server/log_retain.h"

#define ENTRY_BYTES ((uint32_t)16 * 1024 * 1024)

/* What stays of entries 1..`count`, 16 MiB each: the tail is 16 of them, what is held 128. */
Test(log_retain, a_tail_stays_and_what_is_wanted_within_bounds)
{
    static const struct {
        const char *why;
        uint64_t count;
        struct log_retain retain;
        uint64_t want;
    } cases[] = {
        {"a short log stays whole", 10, {10, LOG_TAIL_BYTES, UINT64_MAX, false}, 0},
        {"the tail stays", 40, {40, LOG_TAIL_BYTES, UINT64_MAX, false}, 24},
        {"what is not in tables stays", 40, {20, LOG_TAIL_BYTES, UINT64_MAX, false}, 20},
        {"a member within the tail changes nothing", 40, {40, LOG_TAIL_BYTES, 30, false}, 24},
        {"a member that lags holds what it needs", 40, {40, LOG_TAIL_BYTES, 5, false}, 5},
        {"a full disk holds nothing more", 40, {40, LOG_TAIL_BYTES, 5, true}, 24},
        {"it holds no more than the bound", 200, {200, LOG_TAIL_BYTES, 5, false}, 72},
        {"a new member holds what there is, within the bound",
         100,
         {100, LOG_TAIL_BYTES, 0, false},
         0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct log_notes notes;
        log_notes_init(&notes, 1);
        for (uint64_t index = 1; index <= cases[i].count; index++)
            log_notes_set(&notes, index, 1, ENTRY_NORMAL, ENTRY_BYTES);
        cr_expect_eq(log_retain_limit(&notes, &cases[i].retain), cases[i].want, "%s", cases[i].why);
        log_notes_deinit(&notes);
    }
}

/* ---- a log that is long because nothing fills a memtable ------------------------------------ */

Test(log_retain, a_flush_is_wanted_when_the_log_grows_without_one)
{
    static const struct {
        const char *why;
        uint64_t bytes, entries, flushed;
        bool space_low, want;
    } cases[] = {
        {"a little", MIB, 10, 7, false, false},
        {"many bytes", LOG_FLUSH_BYTES, 10, 7, false, true},
        {"many entries", MIB, LOG_FLUSH_ENTRIES, 7, false, true},
        {"by itself it was flushed meanwhile", LOG_FLUSH_BYTES, 10, 8, false, false},
        {"a full disk cannot wait for as much", LOG_FLUSH_LOW_BYTES, 10, 7, true, true},
        {"but for something", LOG_FLUSH_LOW_BYTES - 1, 10, 7, true, false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct log_unflushed unflushed = {.flushed_index = 7};
        log_unflushed_add(&unflushed, cases[i].bytes / 2, cases[i].entries / 2);
        log_unflushed_add(&unflushed, cases[i].bytes - cases[i].bytes / 2,
                          cases[i].entries - cases[i].entries / 2);
        bool is_long = log_unflushed_is_long(&unflushed, cases[i].flushed, cases[i].space_low);
        cr_expect_eq(is_long, cases[i].want, "%s", cases[i].why);
        bool again = log_unflushed_is_long(&unflushed, cases[i].flushed, cases[i].space_low);
        cr_expect_not(again, "%s: asked for once", cases[i].why);
    }
}
