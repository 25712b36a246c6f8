#include "core/metrics.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "core/invariant.h"

#define METRICS_BUCKETS 1024 /* power of two */

/* Where the values of one series come from: a list, one element per core that registered it. */
struct metrics_slot {
    struct metrics_slot *next;
    const void *value;                 /* uint64_t, int64_t or struct histogram; or NULL and */
    double (*function)(void *context); /* this instead */
    void *context;
};

struct metrics_series {
    struct metrics_series *next; /* in order of registration */
    char *labels;
    struct metrics_slot *slots;
    const struct metrics_family_state *family;
    uint64_t hash; /* of family and labels */
    struct metrics_series *bucket_next;
};

struct metrics_family_state {
    struct metric_family family;
    uint64_t name_hash;
    struct metrics_series *first, **last_next;
};

struct metrics {
    uint32_t family_count;
    uint32_t series_count;
    struct metrics_family_state families[METRICS_FAMILIES_MAX];
    /* By hash: at its start every core of a node registers hundreds of series. */
    struct metrics_series *buckets[METRICS_BUCKETS];
};

int metrics_create(struct metrics **metrics)
{
    *metrics = calloc(1, sizeof(**metrics));
    return *metrics == NULL ? -ENOMEM : 0;
}

void metrics_destroy(struct metrics *metrics)
{
    for (uint32_t i = 0; metrics != NULL && i < metrics->family_count; i++) {
        struct metrics_series *series = metrics->families[i].first;
        while (series != NULL) {
            struct metrics_series *after = series->next;
            while (series->slots != NULL) {
                struct metrics_slot *slot = series->slots;
                series->slots = slot->next;
                free(slot);
            }
            free(series->labels);
            free(series);
            series = after;
        }
    }
    free(metrics);
}

/* ---- registration --------------------------------------------------------------------------- */

static struct metrics_family_state *metrics_family(struct metrics *metrics,
                                                   const struct metric_family *family)
{
    uint64_t name_hash = XXH3_64bits(family->name, strlen(family->name));
    for (uint32_t i = 0; i < metrics->family_count; i++) {
        struct metrics_family_state *known = &metrics->families[i];
        if (known->name_hash != name_hash || strcmp(known->family.name, family->name) != 0)
            continue;
        invariant(known->family.kind == family->kind); /* one name, one meaning */
        return known;
    }
    invariant(metrics->family_count < METRICS_FAMILIES_MAX);
    invariant(family->kind != METRIC_HISTOGRAM || family->bucket_first > 0);
    struct metrics_family_state *added = &metrics->families[metrics->family_count++];
    added->family = *family;
    added->name_hash = name_hash;
    added->last_next = &added->first;
    return added;
}

static struct metrics_series *
metrics_series(struct metrics *metrics, struct metrics_family_state *family, const char *labels)
{
    uint64_t hash = XXH3_64bits_withSeed(labels, strlen(labels), family->name_hash);
    struct metrics_series **bucket = &metrics->buckets[hash & (METRICS_BUCKETS - 1)];
    struct metrics_series *series;
    for (series = *bucket; series != NULL; series = series->bucket_next) {
        if (series->hash == hash && series->family == family && strcmp(series->labels, labels) == 0)
            return series;
    }
    invariant(metrics->series_count < METRICS_SERIES_MAX);
    metrics->series_count++;
    series = calloc(1, sizeof(*series));
    invariant(series != NULL);
    series->labels = strdup(labels);
    invariant(series->labels != NULL);
    series->family = family;
    series->hash = hash;
    series->bucket_next = *bucket;
    *bucket = series;
    *family->last_next = series;
    family->last_next = &series->next;
    return series;
}

static void metrics_add_slot(struct metrics *metrics, const struct metric_family *family,
                             const char *labels, struct metrics_slot value)
{
    struct metrics_family_state *state = metrics_family(metrics, family);
    struct metrics_series *series = metrics_series(metrics, state, labels);
    struct metrics_slot *slot = malloc(sizeof(*slot));
    invariant(slot != NULL);
    *slot = value;
    slot->next = series->slots;
    series->slots = slot;
}

void metrics_register(struct metrics *metrics, const struct metric_family *family,
                      const char *labels, const void *slot)
{
    invariant(slot != NULL);
    metrics_add_slot(metrics, family, labels, (struct metrics_slot){.value = slot});
}

void metrics_register_function(struct metrics *metrics, const struct metric_family *family,
                               const char *labels, double (*value)(void *context), void *context)
{
    invariant(value != NULL && family->kind != METRIC_HISTOGRAM);
    metrics_add_slot(metrics, family, labels,
                     (struct metrics_slot){.function = value, .context = context});
}

void metrics_escape_label(char *to, size_t to_bytes, const char *value)
{
    size_t used = 0;
    invariant(to_bytes > 0);
    for (; *value != '\0'; value++) {
        char escape = *value == '\n' ? 'n' : *value;
        bool escaped = *value == '\\' || *value == '"' || *value == '\n';
        if (used + (escaped ? 2 : 1) >= to_bytes)
            break;
        if (escaped)
            to[used++] = '\\';
        to[used++] = escape;
    }
    to[used] = '\0';
}

/* ---- rendering ------------------------------------------------------------------------------ */

struct metrics_text {
    char *data;
    size_t used, size;
    bool failed; /* out of memory; nothing is added any more */
};

printf_like(2, 3) static void text_add(struct metrics_text *text, const char *format, ...)
{
    while (!text->failed) {
        size_t left = text->size - text->used;
        va_list arguments;
        va_start(arguments, format);
        int wanted = vsnprintf(text->data + text->used, left, format, arguments);
        va_end(arguments);
        invariant(wanted >= 0);
        if ((size_t)wanted < left) {
            text->used += (size_t)wanted;
            return;
        }
        size_t size = text->size * 2 + (size_t)wanted;
        char *data = realloc(text->data, size);
        if (data == NULL) {
            text->failed = true;
            return;
        }
        text->data = data;
        text->size = size;
    }
}

#define METRICS_NUMBER_BYTES 40

/* The shortest text that reads back as the same number, as Prometheus' own clients print. */
static const char *metrics_number(char buffer[METRICS_NUMBER_BYTES], double value)
{
    if (isnan(value))
        return "NaN";
    if (isinf(value))
        return value > 0 ? "+Inf" : "-Inf";
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(buffer, METRICS_NUMBER_BYTES, "%.*g", digits, value);
        if (strtod(buffer, NULL) == value)
            break;
    }
    return buffer;
}

static void text_add_help(struct metrics_text *text, const char *help)
{
    for (; *help != '\0'; help++) {
        if (*help == '\\')
            text_add(text, "\\\\");
        else if (*help == '\n')
            text_add(text, "\\n");
        else
            text_add(text, "%c", *help);
    }
}

static void text_add_series(struct metrics_text *text, const char *name, const char *suffix,
                            const char *labels)
{
    text_add(text, labels[0] == '\0' ? "%s%s " : "%s%s{%s} ", name, suffix, labels);
}

/* Counters and gauges belong to other cores, which go on counting: one untorn read each.
 * ThreadSanitizer is told so here, which lets the owners use plain increments. */
__attribute__((no_sanitize_thread, noinline)) static uint64_t metrics_read(const void *slot)
{
    return *(const volatile uint64_t *)slot;
}

/* Sums stay integers as long as nothing scales them: counters above 2^53 keep their low digits. */
static void metrics_render_value(struct metrics_text *text, const struct metric_family *family,
                                 const struct metrics_series *series)
{
    uint64_t sum = 0;
    double computed = 0;
    bool integral = family->scale == 0 || family->scale == 1;
    for (const struct metrics_slot *slot = series->slots; slot != NULL; slot = slot->next) {
        if (slot->function != NULL) {
            computed += slot->function(slot->context);
            integral = false;
        } else {
            sum += metrics_read(slot->value);
        }
    }
    text_add_series(text, family->name, "", series->labels);
    if (integral && family->kind == METRIC_COUNTER) {
        text_add(text, "%llu\n", (unsigned long long)sum);
        return;
    }
    if (integral) {
        text_add(text, "%lld\n", (long long)sum);
        return;
    }
    double scale = family->scale == 0 ? 1 : family->scale;
    double total = family->kind == METRIC_COUNTER ? (double)sum : (double)(int64_t)sum;
    char number[METRICS_NUMBER_BYTES];
    text_add(text, "%s\n", metrics_number(number, (total + computed) * scale));
}

static void metrics_render_bucket(struct metrics_text *text, const struct metric_family *family,
                                  const char *labels, const char *bound, uint64_t count)
{
    text_add(text, "%s_bucket{%s%sle=\"%s\"} %llu\n", family->name, labels,
             labels[0] == '\0' ? "" : ",", bound, (unsigned long long)count);
}

static void metrics_render_histogram(struct metrics_text *text, const struct metric_family *family,
                                     const struct metrics_series *series, struct histogram *sum)
{
    double scale = family->scale == 0 ? 1 / (double)NS_PER_S : family->scale;
    char number[METRICS_NUMBER_BYTES];
    histogram_init(sum);
    for (const struct metrics_slot *slot = series->slots; slot != NULL; slot = slot->next)
        histogram_merge(sum, slot->value);

    double bound = family->bucket_first;
    for (uint32_t i = 0; i < family->bucket_count; i++, bound *= 2) {
        /* Rounded: 0.001 s is 1e6 ns, whatever binary fractions make of it. */
        double limit = bound / scale + 0.5;
        uint64_t value =
            limit >= (double)HISTOGRAM_VALUE_MAX ? HISTOGRAM_VALUE_MAX - 1 : (uint64_t)limit;
        metrics_render_bucket(text, family, series->labels, metrics_number(number, bound),
                              histogram_count_at_most(sum, value));
    }
    /* Not sum->count: a sample recorded while we read must not make the buckets disagree. */
    uint64_t count = histogram_count_at_most(sum, HISTOGRAM_VALUE_MAX);
    metrics_render_bucket(text, family, series->labels, "+Inf", count);
    text_add_series(text, family->name, "_sum", series->labels);
    text_add(text, "%s\n", metrics_number(number, (double)sum->sum * scale));
    text_add_series(text, family->name, "_count", series->labels);
    text_add(text, "%llu\n", (unsigned long long)count);
}

static const char *metrics_kind_name(enum metric_kind kind)
{
    switch (kind) {
    case METRIC_COUNTER:
        return "counter";
    case METRIC_GAUGE:
        return "gauge";
    case METRIC_HISTOGRAM:
        return "histogram";
    }
    invariant(!"a metric kind");
    return NULL;
}

static void metrics_render_family(struct metrics_text *text,
                                  const struct metrics_family_state *state, struct histogram *sum)
{
    const struct metric_family *family = &state->family;
    text_add(text, "# HELP %s ", family->name);
    text_add_help(text, family->help);
    text_add(text, "\n# TYPE %s %s\n", family->name, metrics_kind_name(family->kind));
    for (const struct metrics_series *series = state->first; series != NULL;
         series = series->next) {
        if (family->kind == METRIC_HISTOGRAM)
            metrics_render_histogram(text, family, series, sum);
        else
            metrics_render_value(text, family, series);
    }
}

char *metrics_render(const struct metrics *metrics, size_t *bytes)
{
    struct metrics_text text = {.size = 4096};
    text.data = malloc(text.size);
    struct histogram *sum = malloc(sizeof(*sum)); /* 18 KB: too much for a fiber's stack */
    text.failed = text.data == NULL || sum == NULL;
    if (!text.failed)
        text.data[0] = '\0';
    for (uint32_t i = 0; i < metrics->family_count && !text.failed; i++)
        metrics_render_family(&text, &metrics->families[i], sum);
    free(sum);
    if (text.failed) {
        free(text.data);
        return NULL;
    }
    *bytes = text.used;
    return text.data;
}
