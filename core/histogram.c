#include "core/histogram.h"

#include "core/invariant.h"

#define SUB_BUCKETS ((uint64_t)1 << HISTOGRAM_SUB_BITS)

/* Values below SUB_BUCKETS have a bucket each; above, every power of two has SUB_BUCKETS. */
static uint32_t histogram_bucket(uint64_t value)
{
    if (value > HISTOGRAM_VALUE_MAX)
        value = HISTOGRAM_VALUE_MAX;
    if (value < SUB_BUCKETS)
        return (uint32_t)value;
    uint32_t shift = 63 - (uint32_t)__builtin_clzll(value) - HISTOGRAM_SUB_BITS;
    uint32_t bucket =
        ((shift + 1) << HISTOGRAM_SUB_BITS) + (uint32_t)((value >> shift) & (SUB_BUCKETS - 1));
    invariant(bucket < HISTOGRAM_BUCKETS);
    return bucket;
}

/* Largest value that falls into the bucket. */
static uint64_t histogram_bucket_top(uint32_t bucket)
{
    if (bucket < SUB_BUCKETS)
        return bucket;
    uint32_t shift = (bucket >> HISTOGRAM_SUB_BITS) - 1;
    uint64_t sub = SUB_BUCKETS + (bucket & (SUB_BUCKETS - 1));
    return ((sub + 1) << shift) - 1;
}

void histogram_init(struct histogram *histogram)
{
    memset(histogram, 0, sizeof(*histogram));
    histogram->min = UINT64_MAX;
}

void histogram_record(struct histogram *histogram, uint64_t value)
{
    histogram->buckets[histogram_bucket(value)]++;
    histogram->count++;
    histogram->sum += value;
    if (value < histogram->min)
        histogram->min = value;
    if (value > histogram->max)
        histogram->max = value;
}

/* `from` may be another core's, which goes on counting: each word is read once, untorn, and the
 * sum is off by at most what is being recorded right now. ThreadSanitizer is told so here. */
__attribute__((no_sanitize_thread, noinline)) static uint64_t histogram_read(const uint64_t *word)
{
    return *(const volatile uint64_t *)word;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    if (histogram_read(&from->count) == 0)
        return;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        into->buckets[i] += histogram_read(&from->buckets[i]);
    into->count += histogram_read(&from->count);
    into->sum += histogram_read(&from->sum);
    into->min = u64_min(into->min, histogram_read(&from->min));
    into->max = u64_max(into->max, histogram_read(&from->max));
}

uint64_t histogram_quantile(const struct histogram *histogram, double fraction)
{
    if (histogram->count == 0)
        return 0;
    invariant(fraction >= 0 && fraction <= 1);
    double exact = fraction * (double)histogram->count;
    uint64_t rank = (uint64_t)exact;
    if ((double)rank < exact || rank == 0)
        rank++; /* the rank-th smallest, counted from 1 */
    uint64_t seen = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen >= rank)
            return u64_max(u64_min(histogram_bucket_top(i), histogram->max), histogram->min);
    }
    return histogram->max;
}

uint64_t histogram_count_at_most(const struct histogram *histogram, uint64_t value)
{
    uint64_t seen = 0;
    uint32_t last = histogram_bucket(value);
    for (uint32_t i = 0; i <= last; i++)
        seen += histogram->buckets[i];
    return seen;
}
