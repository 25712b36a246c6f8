#include <criterion/criterion.h>

#include "core/prng.h"

Test(prng, reference_sequence)
{
    /* xoshiro256** of Blackman and Vigna with state 1, 2, 3, 4. */
    static const uint64_t want[] = {11520, 0, 1509978240, 1215971899390074240};
    struct prng prng = {.state = {1, 2, 3, 4}};
    for (size_t i = 0; i < ARRAY_COUNT(want); i++)
        cr_expect_eq(prng_next(&prng), want[i], "number %zu", i);
}

Test(prng, seeding_is_splitmix64)
{
    struct prng prng;
    prng_init(&prng, 0);
    cr_expect_eq(prng.state[0], 0xe220a8397b1dcdafu);
    cr_expect_eq(prng.state[1], 0x6e789e6aa1b965f4u);
}

Test(prng, same_seed_same_numbers_other_seed_others)
{
    struct prng a, b, c;
    prng_init(&a, 42);
    prng_init(&b, 42);
    prng_init(&c, 43);
    uint32_t same = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t value = prng_next(&a);
        cr_assert_eq(value, prng_next(&b));
        same += value == prng_next(&c);
    }
    cr_expect_eq(same, 0);
}

Test(prng, bounds_and_chances)
{
    struct prng prng;
    prng_init(&prng, 1);
    uint32_t seen[10] = {0}, hits = 0;
    for (int i = 0; i < 100000; i++) {
        uint64_t value = prng_below(&prng, 10);
        cr_assert_lt(value, 10);
        seen[value]++;
        hits += prng_chance(&prng, 1, 4);
    }
    for (int i = 0; i < 10; i++)
        cr_expect(seen[i] > 9500 && seen[i] < 10500, "%d came %u times", i, seen[i]);
    cr_expect(hits > 24300 && hits < 25700, "%u quarters", hits);
    cr_expect_eq(prng_below(&prng, 1), 0);
    cr_expect_not(prng_chance(&prng, 0, 5));
    cr_expect(prng_chance(&prng, 5, 5));
}
