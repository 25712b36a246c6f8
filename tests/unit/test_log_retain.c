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
