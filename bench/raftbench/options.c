#include "bench/raftbench/options.h"

#include <stdio.h>
#include <stdlib.h>

#define POLL_US_DEFAULT 100

static const char *const operation_names[BENCH_OPERATION_COUNT] = {
    [BENCH_PUT] = "put",     [BENCH_GET] = "get",     [BENCH_GET_SERIALIZABLE] = "get-serializable",
    [BENCH_MIXED] = "mixed", [BENCH_RANGE] = "range", [BENCH_TXN] = "txn",
    [BENCH_CAS] = "cas",
};

const char *bench_operation_name(enum bench_operation operation)
{
    return operation_names[operation];
}

/* Shapes after docs/operations/benchmarks.md; the numbers are clients / connections there. */
static const struct scenario {
    const char *name, *text;
    enum bench_operation operation;
    uint32_t connections, in_flight;
    uint32_t value_bytes;
    uint64_t rate_per_s, operations, load_keys;
    enum bench_distribution distribution;
    uint32_t read_percent, range_keys, txn_ops;
} scenarios[] = {
    {"S01", "put, one client", BENCH_PUT, 1, 1, 256, 0, 10000, 0, BENCH_UNIFORM, 0, 0, 0},
    {"S02", "put, one outstanding on each of 64 connections", BENCH_PUT, 64, 1, 256, 0, 0, 0,
     BENCH_UNIFORM, 0, 0, 0},
    {"S03", "put, 1000 clients on 100 connections", BENCH_PUT, 100, 10, 256, 0, 100000, 0,
     BENCH_UNIFORM, 0, 0, 0},
    {"S04", "put saturation, open loop: raise --rate until p99 exceeds 50 ms", BENCH_PUT, 100, 10,
     256, 10000, 0, 0, BENCH_UNIFORM, 0, 0, 0},
    {"S05", "put latency at a fixed rate, open loop", BENCH_PUT, 50, 4, 256, 5000, 0, 0,
     BENCH_UNIFORM, 0, 0, 0},
    {"S06", "read of one key, linearizable, 1000 clients on 100 connections", BENCH_GET, 100, 10,
     256, 0, 0, 100000, BENCH_UNIFORM, 0, 0, 0},
    {"S08", "list pages of 500 keys", BENCH_RANGE, 10, 1, 1024, 0, 0, 300000, BENCH_UNIFORM, 0, 500,
     0},
    {"S10", "overwrite of 100k keys, zipf, open loop", BENCH_PUT, 50, 4, 256, 10000, 0, 0,
     BENCH_ZIPF, 0, 0, 0},
    {"S11", "txn: compare, put and get", BENCH_TXN, 64, 1, 256, 0, 0, 1000, BENCH_UNIFORM, 0, 0, 8},
    {"S11c", "txn: compare-and-swap of one contended key", BENCH_CAS, 64, 1, 8, 0, 0, 0,
     BENCH_UNIFORM, 0, 0, 1},
    {"S12", "put and read over a large key space, open loop", BENCH_MIXED, 50, 4, 256, 10000, 0,
     1000000, BENCH_UNIFORM, 50, 0, 0},
    {"S17", "mixed reads and writes", BENCH_MIXED, 64, 4, 256, 0, 0, 100000, BENCH_UNIFORM, 89, 0,
     0},
};

static void print_list(void)
{
    for (size_t i = 0; i < ARRAY_COUNT(scenarios); i++)
        printf("%-6s %s\n", scenarios[i].name, scenarios[i].text);
    puts("custom everything from flags");
}

static void print_help(void)
{
    puts("usage: raftbench run SCENARIO [flags] | raftbench list\n\n"
         "  --endpoint HOST:PORT      repeatable [127.0.0.1:2379]\n"
         "  --proto grpc|native       [grpc]; grpc works with any etcd server\n"
         "  --op put|get|get-serializable|mixed|range|txn|cas\n"
         "  --dist uniform|zipf|seq   of keys [uniform]\n"
         "  --conns N --inflight N    requests in flight on each connection\n"
         "  --threads N --cpu N       load threads [1]; pin them from CPU N on\n"
         "  --poll-us N               how long they look for replies before they sleep [100]\n"
         "  --rate N                  open loop: operations per second, latency from the intended\n"
         "                            start; 0 = closed loop\n"
         "  --seconds N or --ops N, --warmup N\n"
         "  --keys N --key-bytes N --value-bytes N --load N\n"
         "  --read-percent N --range-keys N --txn-ops N --seed N\n"
         "  --json --quiet");
}

static void apply_scenario(struct options *options, const struct scenario *scenario)
{
    snprintf(options->scenario, sizeof(options->scenario), "%s", scenario->name);
    options->operation = scenario->operation;
    options->connections = scenario->connections;
    options->in_flight = scenario->in_flight;
    options->value_bytes = scenario->value_bytes;
    options->rate_per_s = scenario->rate_per_s;
    options->operations = scenario->operations;
    options->load_keys = scenario->load_keys;
    options->distribution = scenario->distribution;
    options->read_percent = scenario->read_percent;
    options->range_keys = scenario->range_keys;
    options->txn_ops = scenario->txn_ops;
    if (scenario->load_keys != 0)
        options->keys = scenario->load_keys;
}

static bool parse_number(const char *flag, const char *text, uint64_t max, uint64_t *value)
{
    char *end;
    unsigned long long number = strtoull(text, &end, 10);
    if (end == text || *end != '\0' || number > max) {
        fprintf(stderr, "raftbench: %s %s: expected a number up to %llu\n", flag, text,
                (unsigned long long)max);
        return false;
    }
    *value = number;
    return true;
}

static bool parse_choice(const char *flag, const char *text, const char *const *names, size_t count,
                         uint32_t *choice)
{
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(names[i], text) == 0) {
            *choice = i;
            return true;
        }
    fprintf(stderr, "raftbench: %s: unknown value '%s'; see raftbench help\n", flag, text);
    return false;
}

static bool parse_flag(struct options *options, const char *flag, const char *value)
{
    static const char *const protocols[] = {"grpc", "native"};
    static const char *const distributions[] = {"uniform", "zipf", "seq"};
    const struct {
        const char *flag;
        uint32_t *small;
        uint64_t *large;
        uint64_t max;
    } numbers[] = {
        {"--conns", &options->connections, NULL, 100000},
        {"--poll-us", &options->poll_us, NULL, 1000000},
        {"--inflight", &options->in_flight, NULL, 4096},
        {"--threads", &options->threads, NULL, BENCH_THREADS_MAX},
        {"--rate", NULL, &options->rate_per_s, 100000000},
        {"--seconds", NULL, &options->seconds, 86400},
        {"--warmup", NULL, &options->warmup_seconds, 3600},
        {"--ops", NULL, &options->operations, UINT64_MAX},
        {"--keys", NULL, &options->keys, UINT64_MAX},
        {"--key-bytes", &options->key_bytes, NULL, 1024},
        {"--value-bytes", &options->value_bytes, NULL, 1024 * 1024},
        {"--load", NULL, &options->load_keys, UINT64_MAX},
        {"--read-percent", &options->read_percent, NULL, 100},
        {"--range-keys", &options->range_keys, NULL, 1000000},
        {"--txn-ops", &options->txn_ops, NULL, 64},
        {"--seed", NULL, &options->seed, UINT64_MAX},
    };
    uint32_t choice;
    uint64_t number;
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++)
        if (strcmp(flag, numbers[i].flag) == 0) {
            if (!parse_number(flag, value, numbers[i].max, &number))
                return false;
            if (numbers[i].small != NULL)
                *numbers[i].small = (uint32_t)number;
            else
                *numbers[i].large = number;
            if (numbers[i].large == &options->seconds)
                options->operations = 0; /* that long, however many a scenario would take */
            return true;
        }
    if (strcmp(flag, "--cpu") == 0) {
        if (!parse_number(flag, value, 1023, &number))
            return false;
        options->cpu = (int)number;
        return true;
    }
    if (strcmp(flag, "--endpoint") == 0) {
        if (options->endpoint_count == BENCH_ENDPOINTS_MAX ||
            strlen(value) + 1 > sizeof(options->endpoints[0]) || strrchr(value, ':') == NULL) {
            fprintf(stderr, "raftbench: --endpoint %s: expected host:port, at most %d of them\n",
                    value, BENCH_ENDPOINTS_MAX);
            return false;
        }
        memcpy(options->endpoints[options->endpoint_count++], value, strlen(value) + 1);
        return true;
    }
    if (strcmp(flag, "--proto") == 0) {
        if (!parse_choice(flag, value, protocols, ARRAY_COUNT(protocols), &choice))
            return false;
        options->protocol = (enum bench_protocol)choice;
        return true;
    }
    if (strcmp(flag, "--op") == 0) {
        if (!parse_choice(flag, value, operation_names, ARRAY_COUNT(operation_names), &choice))
            return false;
        options->operation = (enum bench_operation)choice;
        return true;
    }
    if (strcmp(flag, "--dist") == 0) {
        if (!parse_choice(flag, value, distributions, ARRAY_COUNT(distributions), &choice))
            return false;
        options->distribution = (enum bench_distribution)choice;
        return true;
    }
    fprintf(stderr, "raftbench: unknown flag '%s'; see raftbench help\n", flag);
    return false;
}

static bool check(struct options *options)
{
    if (options->endpoint_count == 0)
        memcpy(options->endpoints[options->endpoint_count++], "127.0.0.1:2379", 15);
    if (options->connections == 0 || options->in_flight == 0 || options->threads == 0 ||
        options->keys == 0 || options->key_bytes < 8) {
        fprintf(stderr, "raftbench: --conns, --inflight, --threads and --keys must be positive, "
                        "--key-bytes at least 8\n");
        return false;
    }
    if (options->connections < options->threads)
        options->threads = options->connections;
    if (options->range_keys == 0)
        options->range_keys = 100;
    if (options->txn_ops == 0)
        options->txn_ops = 1;
    return true;
}

bool options_parse(struct options *options, int argc, char **argv, bool *exit_now)
{
    *options = (struct options){.threads = 1,
                                .connections = 8,
                                .in_flight = 32,
                                .seconds = 10,
                                .keys = 100000,
                                .key_bytes = 16,
                                .value_bytes = 256,
                                .read_percent = 50,
                                .seed = 1,
                                .cpu = -1,
                                .poll_us = POLL_US_DEFAULT};
    *exit_now = argc == 0 || strcmp(argv[0], "list") == 0 || strcmp(argv[0], "help") == 0 ||
                strcmp(argv[0], "--help") == 0;
    if (*exit_now) {
        if (argc > 0 && strcmp(argv[0], "list") == 0)
            print_list();
        else
            print_help();
        return true;
    }
    if (strcmp(argv[0], "run") != 0 || argc < 2) {
        fprintf(stderr, "raftbench: expected 'run SCENARIO' or 'list'; see raftbench help\n");
        return false;
    }
    bool known = strcmp(argv[1], "custom") == 0;
    snprintf(options->scenario, sizeof(options->scenario), "custom");
    for (size_t i = 0; i < ARRAY_COUNT(scenarios); i++)
        if (strcmp(argv[1], scenarios[i].name) == 0) {
            apply_scenario(options, &scenarios[i]);
            known = true;
        }
    if (!known) {
        fprintf(stderr, "raftbench: no scenario '%s'; see raftbench list\n", argv[1]);
        return false;
    }
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            options->json = true;
        else if (strcmp(argv[i], "--quiet") == 0)
            options->quiet = true;
        else if (i + 1 == argc) {
            fprintf(stderr, "raftbench: %s needs a value\n", argv[i]);
            return false;
        } else if (!parse_flag(options, argv[i], argv[i + 1]))
            return false;
        else
            i++;
    }
    return check(options);
}
