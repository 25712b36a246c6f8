#include <criterion/criterion.h>

#include "server/log_notes.h"

static void expect(const struct log_notes *notes, uint64_t index, uint64_t term, uint32_t type,
                   uint32_t bytes)
{
    struct entry entry;
    cr_assert_eq(log_notes_get(notes, index, &entry), 0, "index %llu", (unsigned long long)index);
    cr_expect_eq(entry.index, index);
    cr_expect_eq(entry.term, term);
    cr_expect_eq(entry.type, type);
    cr_expect_eq(entry.payload_bytes, bytes);
}

Test(log_notes, terms_sizes_and_types_of_a_long_log)
{
    struct log_notes notes;
    struct entry entry;
    log_notes_init(&notes, 101);
    cr_expect_eq(log_notes_get(&notes, 100, &entry), ERR_COMPACTED);
    cr_expect_eq(log_notes_get(&notes, 101, &entry), ERR_UNAVAILABLE);
    for (uint64_t i = 101; i < 20101; i++)
        log_notes_set(&notes, i, i / 1000, i % 7 == 0 ? ENTRY_CONFIG_CHANGE : ENTRY_NORMAL,
                      (uint32_t)i);
    for (uint64_t i = 101; i < 20101; i += 13)
        expect(&notes, i, i / 1000, i % 7 == 0 ? ENTRY_CONFIG_CHANGE : ENTRY_NORMAL, (uint32_t)i);
    cr_expect_eq(log_notes_get(&notes, 20101, &entry), ERR_UNAVAILABLE);
    log_notes_deinit(&notes);
}

Test(log_notes, a_cut_tail_is_replaced)
{
    struct log_notes notes;
    struct entry entry;
    log_notes_init(&notes, 1);
    for (uint64_t i = 1; i <= 10; i++)
        log_notes_set(&notes, i, i <= 5 ? 1 : 2, ENTRY_NORMAL, 10);
    log_notes_set(&notes, 4, 3, ENTRY_NORMAL, 99);
    expect(&notes, 3, 1, ENTRY_NORMAL, 10);
    expect(&notes, 4, 3, ENTRY_NORMAL, 99);
    cr_expect_eq(log_notes_get(&notes, 5, &entry), ERR_UNAVAILABLE);
    cr_expect_eq(notes.bytes, 3 * 10 + 99);
    log_notes_deinit(&notes);
}

Test(log_notes, releasing_keeps_the_terms_of_the_rest)
{
    struct log_notes notes;
    struct entry entry;
    log_notes_init(&notes, 1);
    for (uint64_t i = 1; i <= 100; i++)
        log_notes_set(&notes, i, 1 + (i - 1) / 10, ENTRY_NORMAL, 1);
    log_notes_release(&notes, 34);
    cr_expect_eq(log_notes_get(&notes, 34, &entry), ERR_COMPACTED);
    for (uint64_t i = 35; i <= 100; i++)
        expect(&notes, i, 1 + (i - 1) / 10, ENTRY_NORMAL, 1);
    log_notes_release(&notes, 100);
    cr_expect_eq(notes.bytes, 0);
    log_notes_set(&notes, 101, 12, ENTRY_NORMAL, 5);
    expect(&notes, 101, 12, ENTRY_NORMAL, 5);
    log_notes_deinit(&notes);
}

Test(log_notes, excess_over_a_byte_budget)
{
    static const struct {
        const char *why;
        uint64_t limit, bytes_max, want;
    } cases[] = {
        {"everything fits", 10, 1000, 0},
        {"the oldest must go", 10, 450, 6},
        {"not beyond the limit", 3, 450, 3},
        {"nothing may stay", 10, 0, 10},
    };
    struct log_notes notes;
    log_notes_init(&notes, 1);
    for (uint64_t i = 1; i <= 10; i++)
        log_notes_set(&notes, i, 1, ENTRY_NORMAL, 100);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        cr_expect_eq(log_notes_excess(&notes, cases[i].limit, cases[i].bytes_max), cases[i].want,
                     "%s", cases[i].why);
    log_notes_deinit(&notes);
}

Test(log_notes, bytes_of_a_range_are_those_of_entries_that_are_known)
{
    struct log_notes notes;
    log_notes_init(&notes, 4);
    for (uint64_t i = 4; i <= 6; i++)
        log_notes_set(&notes, i, 1, i == 5 ? ENTRY_CONFIG_CHANGE : ENTRY_NORMAL, 100);
    cr_expect_eq(log_notes_bytes(&notes, 5, 6), 200);
    cr_expect_eq(log_notes_bytes(&notes, 1, 9), 300);
    cr_expect_eq(log_notes_bytes(&notes, 7, 9), 0);
    cr_expect_eq(log_notes_bytes(&notes, 6, 5), 0);
    log_notes_deinit(&notes);
}

Test(log_notes, what_could_not_be_read_is_learnt_later)
{
    struct log_notes notes;
    log_notes_init(&notes, 1);
    for (uint64_t i = 1; i <= 3; i++)
        log_notes_set(&notes, i, 1, ENTRY_NORMAL, i == 2 ? 0 : 100);
    cr_expect_not(log_notes_has_config(&notes, 1, 3));
    log_notes_learn(&notes, 2, ENTRY_CONFIG_CHANGE, 40);
    expect(&notes, 2, 1, ENTRY_CONFIG_CHANGE, 40);
    cr_expect_eq(notes.bytes, 240);
    cr_expect(log_notes_has_config(&notes, 2, 9));
    cr_expect_not(log_notes_has_config(&notes, 3, 9));
    log_notes_learn(&notes, 9, ENTRY_NORMAL, 1);
    cr_expect_eq(notes.bytes, 240, "it is not here any more");
    log_notes_deinit(&notes);
}
