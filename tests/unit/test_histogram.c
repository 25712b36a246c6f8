#include <criterion/criterion.h>
#include <stdlib.h>

#include "core/histogram.h"
#include "core/prng.h"

static struct histogram histogram, other;

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void expect_near(uint64_t got, uint64_t want, const char *why)
{
    cr_expect_geq(got, want, "%s: %lu for %lu", why, (unsigned long)got, (unsigned long)want);
    cr_expect_leq(got - want, want / 64, "%s: %lu for %lu", why, (unsigned long)got,
                  (unsigned long)want);
}

Test(histogram, quantiles_against_sorted_samples)
{
    enum { COUNT = 20000 };
    static uint64_t samples[COUNT];
    static const double fractions[] = {0.001, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0};
    struct prng prng;
    prng_init(&prng, 5);
    for (uint32_t bits = 1; bits <= HISTOGRAM_VALUE_BITS; bits += 3) {
        histogram_init(&histogram);
        for (int i = 0; i < COUNT; i++) {
            samples[i] = prng_next(&prng) >> (64 - 1 - prng_below(&prng, bits));
            histogram_record(&histogram, samples[i]);
        }
        qsort(samples, COUNT, sizeof(samples[0]), compare_u64);
        for (size_t i = 0; i < ARRAY_COUNT(fractions); i++) {
            size_t rank = (size_t)(fractions[i] * COUNT + 0.5);
            expect_near(histogram_quantile(&histogram, fractions[i]), samples[rank - 1],
                        "quantile");
        }
        cr_expect_eq(histogram_quantile(&histogram, 1), samples[COUNT - 1], "the largest is exact");
        cr_expect_eq(histogram.min, samples[0]);
    }
}

Test(histogram, edges)
{
    histogram_init(&histogram);
    cr_expect_eq(histogram_quantile(&histogram, 0.5), 0, "empty");
    cr_expect_eq(histogram_count_at_most(&histogram, UINT64_MAX), 0, "empty");
    histogram_record(&histogram, 0);
    histogram_record(&histogram, UINT64_MAX / 2);
    cr_expect_eq(histogram_quantile(&histogram, 0), 0);
    cr_expect_eq(histogram_count_at_most(&histogram, 0), 1);
    cr_expect_eq(histogram_count_at_most(&histogram, HISTOGRAM_VALUE_MAX), 2,
                 "what is too large counts in the last bucket");
    for (uint64_t value = 1; value < HISTOGRAM_VALUE_MAX; value = value * 17 / 16 + 1) {
        histogram_init(&histogram);
        histogram_record(&histogram, value);
        cr_expect_eq(histogram_count_at_most(&histogram, value), 1);
        cr_expect_eq(histogram_count_at_most(&histogram, value - value / 32 - 1), 0);
        cr_expect_eq(histogram_quantile(&histogram, 0.5), value, "one sample is exact");
    }
}

Test(histogram, merge_equals_recording_into_one)
{
    static struct histogram sum;
    struct prng prng;
    prng_init(&prng, 9);
    histogram_init(&histogram);
    histogram_init(&other);
    histogram_init(&sum);
    for (int i = 0; i < 10000; i++) {
        uint64_t value = prng_below(&prng, 1000000);
        histogram_record(i % 3 ? &histogram : &other, value);
        histogram_record(&sum, value);
    }
    histogram_merge(&histogram, &other);
    cr_assert_arr_eq(&histogram, &sum, sizeof(sum));
    histogram_init(&other);
    histogram_merge(&histogram, &other);
    cr_assert_arr_eq(&histogram, &sum, sizeof(sum), "an empty one adds nothing");
}
