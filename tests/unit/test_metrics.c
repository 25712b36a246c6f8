#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/metrics.h"

static void expect_rendered(struct metrics *metrics, const char *want)
{
    size_t bytes = 0;
    char *text = metrics_render(metrics, &bytes);
    cr_assert_not_null(text);
    cr_expect_eq(bytes, strlen(text));
    cr_expect_str_eq(text, want);
    free(text);
    metrics_destroy(metrics);
}

static double half(void *context)
{
    (void)context;
    return 0.5;
}

static double infinite(void *context)
{
    return *(const int *)context * HUGE_VAL;
}

Test(metrics, counters_and_gauges)
{
    static const struct metric_family puts = {
        .name = "raft_puts_total", .help = "Puts.", .kind = METRIC_COUNTER};
    static const struct metric_family depth = {
        .name = "raft_depth", .help = "A back\\slash and a\nline.", .kind = METRIC_GAUGE};
    static const struct metric_family seconds = {
        .name = "raft_busy_seconds", .help = "Busy.", .kind = METRIC_COUNTER, .scale = 1e-9};
    static const struct metric_family computed = {
        .name = "raft_computed", .help = "Computed.", .kind = METRIC_GAUGE};
    static const struct metric_family scaled = {
        .name = "raft_scaled", .help = "Scaled.", .kind = METRIC_GAUGE, .scale = 3};
    struct metrics *metrics = NULL;
    cr_assert_eq(metrics_create(&metrics), 0);

    /* Two cores; beyond 2^53 a double would lose the last digits. */
    uint64_t ok[2] = {9007199254740993u, 2}, failed[2] = {0, 7};
    int64_t depths[2] = {5, -8};
    uint64_t busy_ns = 1500000000;
    int minus = -1;
    for (int core = 0; core < 2; core++) {
        char labels[64];
        snprintf(labels, sizeof(labels), "code=\"%s\"", "OK");
        metrics_register(metrics, &puts, labels, &ok[core]);
        snprintf(labels, sizeof(labels), "code=\"%s\"", "Unavailable");
        metrics_register(metrics, &puts, labels, &failed[core]);
        metrics_register(metrics, &depth, "", &depths[core]);
    }
    metrics_register(metrics, &seconds, "", &busy_ns);
    metrics_register_function(metrics, &computed, "of=\"half\"", half, NULL);
    metrics_register_function(metrics, &computed, "of=\"infinity\"", infinite, &minus);
    metrics_register_function(metrics, &scaled, "", half, NULL);
    expect_rendered(metrics, "# HELP raft_puts_total Puts.\n"
                             "# TYPE raft_puts_total counter\n"
                             "raft_puts_total{code=\"OK\"} 9007199254740995\n"
                             "raft_puts_total{code=\"Unavailable\"} 7\n"
                             "# HELP raft_depth A back\\\\slash and a\\nline.\n"
                             "# TYPE raft_depth gauge\n"
                             "raft_depth -3\n"
                             "# HELP raft_busy_seconds Busy.\n"
                             "# TYPE raft_busy_seconds counter\n"
                             "raft_busy_seconds 1.5\n"
                             "# HELP raft_computed Computed.\n"
                             "# TYPE raft_computed gauge\n"
                             "raft_computed{of=\"half\"} 0.5\n"
                             "raft_computed{of=\"infinity\"} -Inf\n"
                             "# HELP raft_scaled Scaled.\n"
                             "# TYPE raft_scaled gauge\n"
                             "raft_scaled 1.5\n");
}

Test(metrics, histograms)
{
    static const struct metric_family fsync = {.name = "fsync_seconds",
                                               .help = "Fsync.",
                                               .kind = METRIC_HISTOGRAM,
                                               .bucket_first = 0.001,
                                               .bucket_count = 3};
    static const struct metric_family batch = {.name = "batch",
                                               .help = "Entries.",
                                               .kind = METRIC_HISTOGRAM,
                                               .scale = 1,
                                               .bucket_first = 1,
                                               .bucket_count = 2};
    struct metrics *metrics = NULL;
    cr_assert_eq(metrics_create(&metrics), 0);
    static struct histogram cores[2], entries;
    histogram_init(&cores[0]);
    histogram_init(&cores[1]);
    histogram_init(&entries);
    histogram_record(&cores[0], 1000000);    /* exactly the first bound */
    histogram_record(&cores[0], 1500000);    /* in the second */
    histogram_record(&cores[1], 2500000000); /* past all */
    histogram_record(&entries, 2);
    metrics_register(metrics, &fsync, "disk=\"a\"", &cores[0]);
    metrics_register(metrics, &fsync, "disk=\"a\"", &cores[1]);
    metrics_register(metrics, &batch, "", &entries);
    expect_rendered(metrics, "# HELP fsync_seconds Fsync.\n"
                             "# TYPE fsync_seconds histogram\n"
                             "fsync_seconds_bucket{disk=\"a\",le=\"0.001\"} 1\n"
                             "fsync_seconds_bucket{disk=\"a\",le=\"0.002\"} 2\n"
                             "fsync_seconds_bucket{disk=\"a\",le=\"0.004\"} 2\n"
                             "fsync_seconds_bucket{disk=\"a\",le=\"+Inf\"} 3\n"
                             "fsync_seconds_sum{disk=\"a\"} 2.5025\n"
                             "fsync_seconds_count{disk=\"a\"} 3\n"
                             "# HELP batch Entries.\n"
                             "# TYPE batch histogram\n"
                             "batch_bucket{le=\"1\"} 0\n"
                             "batch_bucket{le=\"2\"} 1\n"
                             "batch_bucket{le=\"+Inf\"} 1\n"
                             "batch_sum 2\n"
                             "batch_count 1\n");
}

Test(metrics, label_values_are_escaped)
{
    static const struct {
        const char *why, *value;
        size_t room;
        const char *want;
    } cases[] = {
        {"nothing to do", "plain", 32, "plain"},
        {"the three that the format names", "a\"b\\c\nd", 32, "a\\\"b\\\\c\\nd"},
        {"cut to fit", "abcdef", 4, "abc"},
        {"never within an escape", "ab\"", 4, "ab"},
        {"no room at all", "a", 1, ""},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char text[32];
        metrics_escape_label(text, cases[i].room, cases[i].value);
        cr_expect_str_eq(text, cases[i].want, "%s", cases[i].why);
    }
}

Test(metrics, many_series_render_in_order_of_registration)
{
    struct metrics *metrics = NULL;
    cr_assert_eq(metrics_create(&metrics), 0);
    static uint64_t values[1000];
    static char names[100][16];
    for (int i = 0; i < 1000; i++) {
        char labels[32];
        snprintf(names[i % 100], sizeof(names[0]), "m%02d", i % 100);
        snprintf(labels, sizeof(labels), "i=\"%d\"", i / 100);
        struct metric_family family = {
            .name = names[i % 100], .help = "Help.", .kind = METRIC_COUNTER};
        values[i] = (uint64_t)i;
        metrics_register(metrics, &family, labels, &values[i]);
    }
    size_t bytes = 0;
    char *text = metrics_render(metrics, &bytes), *at = text;
    for (int family = 0; family < 100; family++) {
        char want[64];
        snprintf(want, sizeof(want), "# HELP m%02d Help.\n# TYPE m%02d counter\n", family, family);
        cr_assert_eq(strncmp(at, want, strlen(want)), 0);
        at += strlen(want);
        for (int i = 0; i < 10; i++) {
            snprintf(want, sizeof(want), "m%02d{i=\"%d\"} %d\n", family, i, i * 100 + family);
            cr_assert_eq(strncmp(at, want, strlen(want)), 0);
            at += strlen(want);
        }
    }
    cr_expect_eq(at, text + bytes);
    free(text);
    metrics_destroy(metrics);
}

Test(metrics, one_name_with_two_kinds_is_noticed, .signal = SIGABRT)
{
    struct metrics *metrics = NULL;
    uint64_t value = 0;
    cr_assert_eq(metrics_create(&metrics), 0);
    struct metric_family family = {.name = "m", .help = "Help.", .kind = METRIC_COUNTER};
    metrics_register(metrics, &family, "", &value);
    family.kind = METRIC_GAUGE;
    metrics_register(metrics, &family, "", &value);
}
