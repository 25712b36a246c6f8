#include "bench/raftbench/report.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>

static const struct {
    const char *name;
    double fraction;
} quantiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"p99.99", 0.9999}};

void report_add(struct report *report, const struct worker *worker)
{
    report->completed += worker->completed;
    report->succeeded += worker->succeeded;
    report->conflicts += worker->conflicts;
    report->bytes_received += worker->bytes_received;
    for (size_t i = 0; i < ARRAY_COUNT(report->errors); i++)
        report->errors[i] += worker->errors[i];
    for (size_t i = 0; i < WORKER_SERIES_MAX; i++)
        report->series[i] += worker->series[i];
    histogram_merge(&report->latency_ns, &worker->latency_ns);
    double seconds = (double)(worker->end_ns - worker->begin_ns) * 1e-9;
    if (seconds > report->seconds)
        report->seconds = seconds;
}

static double rate(const struct report *report)
{
    return report->seconds > 0 ? (double)report->succeeded / report->seconds : 0;
}

static double cpu_us(const struct report *report)
{
    return report->completed > 0 ? (double)report->client_cpu_ns * 1e-3 / (double)report->completed
                                 : 0;
}

void report_print(const struct report *report)
{
    const struct options *options = report->options;
    printf("%s %s %s  %u connections x %u in flight, %s\n", options->scenario,
           bench_operation_name(options->operation),
           options->protocol == BENCH_GRPC ? "grpc" : "native", options->connections,
           options->in_flight, options->rate_per_s > 0 ? "open loop" : "closed loop");
    printf("  %.0f/s   %llu ok, %llu failed in %.2f s; client CPU %.2f us each\n", rate(report),
           (unsigned long long)report->succeeded,
           (unsigned long long)(report->completed - report->succeeded), report->seconds,
           cpu_us(report));
    printf("  latency us:");
    for (size_t i = 0; i < ARRAY_COUNT(quantiles); i++)
        printf("  %s %.1f", quantiles[i].name,
               (double)histogram_quantile(&report->latency_ns, quantiles[i].fraction) * 1e-3);
    printf("  max %.1f\n", (double)report->latency_ns.max * 1e-3);
    if (options->operation == BENCH_CAS)
        printf("  %llu found another value and did not write\n",
               (unsigned long long)report->conflicts);
    for (size_t i = 1; i < ARRAY_COUNT(report->errors); i++)
        if (report->errors[i] > 0)
            printf("  grpc status %zu: %llu\n", i, (unsigned long long)report->errors[i]);
}

void report_print_json(const struct report *report)
{
    const struct options *options = report->options;
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "scenario", options->scenario);
    cJSON_AddStringToObject(root, "operation", bench_operation_name(options->operation));
    cJSON_AddStringToObject(root, "protocol", options->protocol == BENCH_GRPC ? "grpc" : "native");
    cJSON_AddNumberToObject(root, "connections", options->connections);
    cJSON_AddNumberToObject(root, "in_flight", options->in_flight);
    cJSON_AddNumberToObject(root, "value_bytes", options->value_bytes);
    cJSON_AddNumberToObject(root, "rate_per_s", (double)options->rate_per_s);
    cJSON_AddNumberToObject(root, "seconds", report->seconds);
    cJSON_AddNumberToObject(root, "succeeded", (double)report->succeeded);
    cJSON_AddNumberToObject(root, "failed", (double)(report->completed - report->succeeded));
    if (options->operation == BENCH_CAS)
        cJSON_AddNumberToObject(root, "conflicts", (double)report->conflicts);
    cJSON_AddNumberToObject(root, "throughput_per_s", rate(report));
    cJSON_AddNumberToObject(root, "client_cpu_us_per_op", cpu_us(report));
    cJSON_AddNumberToObject(root, "bytes_received", (double)report->bytes_received);
    cJSON *latency = cJSON_AddObjectToObject(root, "latency_us");
    for (size_t i = 0; i < ARRAY_COUNT(quantiles); i++)
        cJSON_AddNumberToObject(
            latency, quantiles[i].name,
            (double)histogram_quantile(&report->latency_ns, quantiles[i].fraction) * 1e-3);
    cJSON_AddNumberToObject(latency, "max", (double)report->latency_ns.max * 1e-3);
    cJSON *series = cJSON_AddArrayToObject(root, "per_second");
    for (size_t i = 0; i < WORKER_SERIES_MAX && (double)i < report->seconds; i++)
        cJSON_AddItemToArray(series, cJSON_CreateNumber((double)report->series[i]));
    cJSON *errors = cJSON_AddObjectToObject(root, "errors");
    for (size_t i = 1; i < ARRAY_COUNT(report->errors); i++)
        if (report->errors[i] > 0) {
            char name[32];
            snprintf(name, sizeof(name), "grpc_%zu", i);
            cJSON_AddNumberToObject(errors, name, (double)report->errors[i]);
        }
    char *text = cJSON_Print(root);
    puts(text);
    free(text);
    cJSON_Delete(root);
}
