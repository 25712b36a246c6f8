#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "storage/lsm/bloom.h"

static uint64_t hash_of(uint64_t i)
{
    char key[32];
    snprintf(key, sizeof(key), "k/registry/%lu", i);
    return bloom_hash(bytes_from_text(key));
}

Test(bloom, contains_what_was_added_and_little_else)
{
    static const struct {
        const char *why;
        uint64_t keys;
        uint32_t bits;
        double false_positives_max;
    } cases[] = {
        {"one key", 1, 10, 0.05},
        {"the usual filter", 20000, 10, 0.015},
        {"fewer bits", 20000, 6, 0.08},
        {"more bits", 20000, 16, 0.003},
    };
    for (size_t c = 0; c < ARRAY_COUNT(cases); c++) {
        uint64_t bytes = bloom_bytes(cases[c].keys, cases[c].bits);
        uint8_t *filter = calloc(1, bytes);
        bloom_begin(filter, bytes, cases[c].bits);
        for (uint64_t i = 0; i < cases[c].keys; i++)
            bloom_add(filter, bytes, hash_of(i));
        for (uint64_t i = 0; i < cases[c].keys; i++)
            cr_assert(bloom_may_contain(bytes_make(filter, bytes), hash_of(i)), "%s", cases[c].why);
        uint64_t passed = 0;
        for (uint64_t i = 0; i < 20000; i++)
            passed += bloom_may_contain(bytes_make(filter, bytes), hash_of(1000000 + i));
        cr_assert_leq((double)passed / 20000, cases[c].false_positives_max, "%s: %lu", cases[c].why,
                      passed);
        free(filter);
    }
}

Test(bloom, a_filter_of_an_impossible_shape_hides_nothing)
{
    cr_assert(bloom_may_contain(bytes_make(NULL, 0), hash_of(1)));
}
