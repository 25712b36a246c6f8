/*
 * metrics.h - counters, gauges and histograms, one slot per core, summed when somebody scrapes.
 *
 * Story     A module declares a table of descriptors (struct metric_family) and keeps plain
 *           uint64_t or struct histogram fields in its own per-core struct; metrics_register()
 *           tells the registry where they are. Updating is a plain increment by the owner core.
 *           Rendering reads all cores' slots (relaxed), sums, and writes Prometheus text.
 * Owner     The registry belongs to the node and is filled before the cores start.
 * Threads   metrics_register() before the cores start; metrics_render() on any core after.
 * Limits    METRICS_FAMILIES_MAX families, METRICS_SERIES_MAX series.
 */
#ifndef CORE_METRICS_H
#define CORE_METRICS_H

#include "core/base.h"
#include "core/histogram.h"

#define METRICS_FAMILIES_MAX 256
#define METRICS_SERIES_MAX   8192

enum metric_kind {
    METRIC_COUNTER,   /* uint64_t, summed over cores */
    METRIC_GAUGE,     /* int64_t, summed over cores */
    METRIC_HISTOGRAM, /* struct histogram, in ns unless scaled, with the family's buckets */
};

struct metric_family {
    const char *name; /* Prometheus name, unit last */
    const char *help;
    enum metric_kind kind;
    double scale;          /* value * scale is printed; 0: 1, and 1e-9 for histograms */
    double bucket_first;   /* histograms: first upper bound in seconds... */
    uint32_t bucket_count; /* ...then doubling, this many */
};

struct metrics;

must_check int metrics_create(struct metrics **metrics);
void metrics_destroy(struct metrics *metrics);

/* Adds one series: `labels` is "" or e.g. `type="put",code="OK"` (static or copied). `slot` is the
 * field of one core's struct; the same (family name, labels) from several cores are summed. */
void metrics_register(struct metrics *metrics, const struct metric_family *family,
                      const char *labels, const void *slot);

/* A value computed at scrape. Runs on the scraping core: reads immutable or atomic data only. */
void metrics_register_function(struct metrics *metrics, const struct metric_family *family,
                               const char *labels, double (*value)(void *context), void *context);

/* Copies `value` escaped as the inside of a quoted label value; cut where `to` is too small. */
void metrics_escape_label(char *to, size_t to_bytes, const char *value);

/* Prometheus text format 0.0.4, families in order of registration. Returns malloc'd text, its
 * length in *bytes; NULL when out of memory. */
must_check char *metrics_render(const struct metrics *metrics, size_t *bytes);

#endif
