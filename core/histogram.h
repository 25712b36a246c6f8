/*
 * histogram.h - log-linear latency histogram: 64 buckets per power of two, error below 1.6 %.
 *
 * Owner     One core, with plain increments; histogram_merge() may read another core's (what is
 *           being recorded meanwhile may be missing from it).
 * Units     Whatever is recorded, usually ns. Values above HISTOGRAM_VALUE_MAX count as that.
 */
#ifndef CORE_HISTOGRAM_H
#define CORE_HISTOGRAM_H

#include "core/base.h"

#define HISTOGRAM_SUB_BITS   6
#define HISTOGRAM_VALUE_BITS 40
#define HISTOGRAM_VALUE_MAX  (((uint64_t)1 << HISTOGRAM_VALUE_BITS) - 1)
#define HISTOGRAM_BUCKETS    ((HISTOGRAM_VALUE_BITS - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS)

struct histogram {
    uint64_t count, sum, min, max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_init(struct histogram *histogram);
void histogram_record(struct histogram *histogram, uint64_t value);
void histogram_merge(struct histogram *into, const struct histogram *from);

/* Smallest recorded value v with at least `fraction` (0..1) of the samples <= v, to bucket
 * accuracy. */
uint64_t histogram_quantile(const struct histogram *histogram, double fraction);

/* How many samples are <= value, to bucket accuracy: for Prometheus' cumulative buckets. */
uint64_t histogram_count_at_most(const struct histogram *histogram, uint64_t value);

#endif
