#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/prng.h"
#include "storage/mvcc/sorter.h"

enum { ENTRIES = 3000 };

static struct mvcc_kv entries[ENTRIES];
static char keys[ENTRIES][16];
static uint8_t values[ENTRIES][4];

/* In key order, as a scan brings them; every other field repeats. */
static void entries_make(uint64_t seed)
{
    struct prng prng;
    prng_init(&prng, seed);
    for (uint32_t i = 0; i < ENTRIES; i++) {
        snprintf(keys[i], sizeof(keys[i]), "key%05u", i);
        for (size_t b = 0; b < sizeof(values[i]); b++)
            values[i][b] = (uint8_t)prng_below(&prng, 3);
        entries[i] = (struct mvcc_kv){.key = bytes_from_text(keys[i]),
                                      .value = bytes_make(values[i], 1 + prng_below(&prng, 4)),
                                      .create_revision = (int64_t)prng_below(&prng, 50),
                                      .mod_revision = (int64_t)prng_below(&prng, 2000),
                                      .version = (int64_t)prng_below(&prng, 5)};
    }
}

static int field_order(const struct mvcc_kv *a, const struct mvcc_kv *b, int target)
{
    switch (target) {
    case MVCC_SORT_VERSION:
        return (a->version > b->version) - (a->version < b->version);
    case MVCC_SORT_CREATE:
        return (a->create_revision > b->create_revision) -
               (a->create_revision < b->create_revision);
    case MVCC_SORT_MOD:
        return (a->mod_revision > b->mod_revision) - (a->mod_revision < b->mod_revision);
    case MVCC_SORT_VALUE:
        return bytes_compare(a->value, b->value);
    }
    return bytes_compare(a->key, b->key);
}

/* Entry `at` of the order wanted; an insertion sort is stable by itself. */
static void model_sort(const struct mvcc_kv **order, int target, bool descending)
{
    for (uint32_t i = 0; i < ENTRIES; i++) {
        uint32_t low = 0, high = i;
        while (low < high) { /* behind all that come before it or are equal */
            uint32_t middle = (low + high) / 2;
            int sign = field_order(order[middle], &entries[i], target);
            if ((descending ? -sign : sign) <= 0)
                low = middle + 1;
            else
                high = middle;
        }
        memmove(order + low + 1, order + low, (i - low) * sizeof(*order));
        order[low] = &entries[i];
    }
}

Test(sorter, agrees_with_a_stable_sort_whatever_is_kept)
{
    static const struct mvcc_kv *order[ENTRIES];
    static const uint64_t keeps[] = {0, 1, 7, 100, ENTRIES, 2 * ENTRIES};
    entries_make(3);
    for (int target = MVCC_SORT_KEY; target <= MVCC_SORT_VALUE; target++)
        for (int descending = 0; descending < 2; descending++) {
            model_sort(order, target, descending);
            for (size_t k = 0; k < ARRAY_COUNT(keeps); k++) {
                struct mvcc_sorter sorter;
                mvcc_sorter_init(&sorter, (enum mvcc_sort_target)target, descending, keeps[k],
                                 4 * MIB);
                for (uint32_t i = 0; i < ENTRIES; i++)
                    cr_assert_eq(mvcc_sorter_add(&sorter, &entries[i]), 0);
                mvcc_sorter_finish(&sorter);
                uint64_t want = keeps[k] == 0 ? ENTRIES : u64_min(keeps[k], ENTRIES);
                cr_assert_eq(sorter.count, want);
                cr_assert_eq(sorter.added, ENTRIES, "cut ones are counted");
                for (uint32_t i = 0; i < want; i++) {
                    cr_assert(bytes_equal(sorter.kvs[i].key, order[i]->key),
                              "target %d, descending %d, keep %lu, entry %u", target, descending,
                              keeps[k], i);
                    cr_assert(bytes_equal(sorter.kvs[i].value, order[i]->value));
                    cr_assert_neq(sorter.kvs[i].key.data, order[i]->key.data, "it is a copy");
                }
                mvcc_sorter_deinit(&sorter);
            }
        }
}

Test(sorter, a_limit_bounds_the_memory_too)
{
    struct mvcc_sorter sorter;
    entries_make(4);
    mvcc_sorter_init(&sorter, MVCC_SORT_MOD, true, 10, 64 * KIB);
    for (uint32_t round = 0; round < 20; round++)
        for (uint32_t i = 0; i < ENTRIES; i++) {
            cr_assert_eq(mvcc_sorter_add(&sorter, &entries[i]), 0);
            cr_assert_leq(sorter.count, 10 * 2 + 100);
        }
    mvcc_sorter_deinit(&sorter);
}

Test(sorter, too_much_is_said)
{
    struct mvcc_sorter sorter;
    uint32_t taken = 0;
    entries_make(5);
    mvcc_sorter_init(&sorter, MVCC_SORT_MOD, true, 0, 64 * KIB);
    while (taken < ENTRIES && mvcc_sorter_add(&sorter, &entries[taken]) == 0)
        taken++;
    cr_expect(taken > 100 && taken < ENTRIES, "%u", taken);
    cr_expect_eq(mvcc_sorter_add(&sorter, &entries[0]), ERR_LIMIT);
    mvcc_sorter_deinit(&sorter);
}
