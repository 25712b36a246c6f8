#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

#include "server/config.h"

static struct config config;
static char reason[256];

static int load(const char *a, const char *b, const char *c)
{
    char *arguments[] = {(char *)a, (char *)b, (char *)c};
    int count = a == NULL ? 0 : b == NULL ? 1 : c == NULL ? 2 : 3;
    reason[0] = '\0';
    return config_load(&config, count, arguments, NULL, reason, sizeof(reason));
}

Test(config, defaults_are_etcds)
{
    cr_assert_eq(load(NULL, NULL, NULL), 0, "%s", reason);
    cr_expect_str_eq(config.name, "default");
    cr_expect_str_eq(config.data_dir, "default.etcd");
    cr_expect_eq(config.listen_client.count, 1);
    cr_expect_str_eq(config.listen_client.url[0].host, "localhost");
    cr_expect_eq(config.listen_client.url[0].port, 2379);
    cr_expect_str_eq(config.advertise_client.url[0].text, "http://localhost:2379");
    cr_expect_eq(config.max_request_bytes, 1572864);
    cr_expect_eq(config.keepalive_interval_ns, 7200 * NS_PER_S);
    cr_expect(config.strict_reconfig_check);
    cr_expect_eq(config.max_learners, 1);
}

Test(config, forms_of_a_flag)
{
    cr_assert_eq(load("--name=a", "-name", "b"), 0, "%s", reason);
    cr_expect_str_eq(config.name, "b", "the last value of a repeated flag wins");
    cr_expect_str_eq(config.data_dir, "b.etcd");
    cr_assert_eq(
        load("--memory-limit=256MiB", "--listen-client-urls", "http://127.0.0.1:1,http://[::1]:2"),
        0, "%s", reason);
    cr_expect_eq(config.memory_limit, 256 * MIB);
    cr_expect_eq(config.listen_client.count, 2);
    cr_expect_str_eq(config.listen_client.url[1].host, "::1");
    cr_assert_eq(load("--snapshot-count=10000", NULL, NULL), 0, "%s", reason);
    cr_expect_eq(config.warning_count, 1, "etcd's flag without meaning here warns once");
    cr_assert_eq(load("--force-new-cluster=false", NULL, NULL), 0, "%s", reason);
    cr_expect_not(config.force_new_cluster);
    cr_assert_eq(load("--force-new-cluster", "--strict-reconfig-check=false", NULL), 0, "%s",
                 reason);
    cr_expect(config.force_new_cluster && !config.strict_reconfig_check);
}

Test(config, refusals_name_the_flag)
{
    static const struct {
        const char *why, *flag, *text;
    } cases[] = {
        {"unknown flag", "--no-such-flag=1", "no-such-flag"},
        {"missing value", "--name", "--name needs a value"},
        {"bad number", "--cores=x", "--cores=x"},
        {"longer than a second", "--poll-us=1000001", "--poll-us must be at most 1000000"},
        {"TLS must not be ignored silently", "--cert-file=x", "--cert-file=x is not supported"},
        {"https too", "--listen-client-urls=https://a:1", "TLS is not supported"},
        {"no port", "--listen-client-urls=http://a", "expected http://host:port"},
        {"neither new nor existing", "--initial-cluster-state=old", "new or existing"},
        {"election too short", "--election-timeout=100", "--election-timeout"},
        {"positional", "serve", "unexpected argument"},
        {"bad level", "--log-level=loud", "--log-level"},
        {"nowhere to listen", "--listen-client-urls=", "--listen-client-urls must name"},
        {"nor for members", "--listen-peer-urls=", "--listen-peer-urls must name"},
        {"more than a count of operations holds", "--max-txn-ops=4294967296", "--max-txn-ops"},
        {"no boolean", "--force-new-cluster=yes", "expected true or false"},
        {"no boolean's case", "--force-new-cluster=tRUE", "expected true or false"},
        {"a feature, in Go's words", "--auto-tls=T", "--auto-tls=T is not supported"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        cr_expect_eq(load(cases[i].flag, NULL, NULL), ERR_CONFIG, "%s", cases[i].why);
        cr_expect(strstr(reason, cases[i].text) != NULL, "%s: got '%s'", cases[i].why, reason);
    }
}

Test(config, durations_are_gos)
{
    static const struct {
        const char *text;
        uint64_t ns;
    } cases[] = {
        {"5s", 5 * NS_PER_S},
        {"1.5h", 5400 * NS_PER_S},
        {"1h30m0.5s", 5400 * NS_PER_S + 500 * NS_PER_MS},
        {".25s", 250 * NS_PER_MS},
        {"2.s", 2 * NS_PER_S},
        {"100ms", 100 * NS_PER_MS},
        {"7us", 7 * NS_PER_US},
        {"7\u00b5s", 7 * NS_PER_US},
        {"7\u03bcs", 7 * NS_PER_US},
        {"1.000000001s", NS_PER_S + 1},
        {"0.1000000000000000000000000001s", 100 * NS_PER_MS},
        {"0.9ns", 0},
        {"20", 20 * NS_PER_S},
        {"0", 0},
        {"1.5", 1500 * NS_PER_MS},
        {"9223372036854775807ns", INT64_MAX},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char flag[80];
        snprintf(flag, sizeof(flag), "--grpc-keepalive-interval=%s", cases[i].text);
        cr_expect_eq(load(flag, NULL, NULL), 0, "%s: %s", cases[i].text, reason);
        cr_expect_eq(config.keepalive_interval_ns, cases[i].ns, "%s", cases[i].text);
    }
    static const char *const refused[] = {"",         "s",     ".",     ".s",
                                          "1.2.3s",   "1x",    "1 s",   " 1s",
                                          "-5s",      "+5s",   "1..5s", "9223372036854775808ns",
                                          "5124096h", "0.5sm", "1e3s",  "1h5x"};
    for (size_t i = 0; i < ARRAY_COUNT(refused); i++) {
        char flag[80];
        snprintf(flag, sizeof(flag), "--grpc-keepalive-interval=%s", refused[i]);
        cr_expect_eq(load(flag, NULL, NULL), ERR_CONFIG, "%s", refused[i]);
        cr_expect(strstr(reason, "expected a duration") != NULL, "%s", reason);
    }
}

Test(config, booleans_are_gos)
{
    static const char *const yes[] = {"1", "t", "T", "true", "TRUE", "True"};
    static const char *const no[] = {"0", "f", "F", "false", "FALSE", "False"};
    for (size_t i = 0; i < ARRAY_COUNT(yes); i++) {
        char flag[80];
        snprintf(flag, sizeof(flag), "--force-new-cluster=%s", yes[i]);
        cr_expect_eq(load(flag, NULL, NULL), 0, "%s", reason);
        cr_expect(config.force_new_cluster, "%s", yes[i]);
        snprintf(flag, sizeof(flag), "--strict-reconfig-check=%s", no[i]);
        cr_expect_eq(load(flag, NULL, NULL), 0, "%s", reason);
        cr_expect_not(config.strict_reconfig_check, "%s", no[i]);
        snprintf(flag, sizeof(flag), "--auto-tls=%s", no[i]);
        cr_expect_eq(load(flag, NULL, NULL), 0, "%s", reason);
    }
}

Test(config, variables_then_flags)
{
    char *environment[] = {
        "ETCD_NAME=v", "ETCD_LOG_LEVEL=warn", "ETCD_LISTEN_PEER_URLS=", "ETCD_NO_SUCH=1", "PATH=/",
        NULL};
    char *arguments[] = {"--name=f"};
    cr_assert_eq(config_load(&config, 1, arguments, environment, reason, sizeof(reason)), 0);
    cr_expect_str_eq(config.name, "f");
    cr_expect_str_eq(config.log_level, "warn");
    cr_expect_eq(config.warning_count, 1);
    cr_expect_eq(config.listen_peer.count, 1, "an empty variable changes nothing");
}

Test(config, warnings_without_room_are_summed_up)
{
    char texts[CONFIG_WARNINGS_MAX + 2][32], *environment[CONFIG_WARNINGS_MAX + 3] = {NULL};
    for (uint32_t count = CONFIG_WARNINGS_MAX - 1; count <= CONFIG_WARNINGS_MAX + 2; count++) {
        for (uint32_t i = 0; i < count; i++) {
            snprintf(texts[i], sizeof(texts[i]), "ETCD_NO_SUCH_%u=1", i);
            environment[i] = texts[i];
        }
        cr_assert_eq(config_load(&config, 0, NULL, environment, reason, sizeof(reason)), 0);
        bool all = count < CONFIG_WARNINGS_MAX;
        cr_expect_eq(config.warning_count, all ? count : CONFIG_WARNINGS_MAX);
        const char *last = config.warnings[config.warning_count - 1];
        cr_expect_eq(strstr(last, "more flags or variables") == NULL, all, "%u: %s", count, last);
    }
}

Test(config, yaml_is_taken_whole_or_refused)
{
    static char long_value[3000];
    snprintf(long_value, sizeof(long_value), "initial-cluster: a=%02048d\n", 0);
    static const struct {
        const char *why, *text, *expected;
    } cases[] = {
        {"not cut off", long_value, "'initial-cluster' must be"},
        {"a list in a list", "listen-client-urls: [http://127.0.0.1:9, [x]]\n", "list of scalars"},
        {"a mapping", "client-transport-security: {cert-file: x}\n", "client-transport-security"},
        {"a hidden rest", "name: \"a\\0b\"\n", "'name' must be"},
        {"no mapping at all", "[a]\n", "expected 'key: value' lines"},
        {"a broken line", "name: [\n", "line 2"},
    };
    char path[] = "/tmp/raft-config-XXXXXX", argument[64];
    close(mkstemp(path));
    snprintf(argument, sizeof(argument), "--config-file=%s", path);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        FILE *file = fopen(path, "w");
        fputs(cases[i].text, file);
        fclose(file);
        cr_expect_eq(load(argument, NULL, NULL), ERR_CONFIG, "%s", cases[i].why);
        cr_expect(strstr(reason, cases[i].expected) != NULL, "%s: %s", cases[i].why, reason);
    }
    unlink(path);
}

Test(config, yaml_replaces_flags)
{
    char path[] = "/tmp/raft-config-XXXXXX";
    int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");
    fputs("name: y\nlisten-client-urls: [http://127.0.0.1:9, http://127.0.0.1:10]\ncores: 2\n",
          file);
    fclose(file);
    char argument[64];
    snprintf(argument, sizeof(argument), "--config-file=%s", path);
    cr_assert_eq(load("--name=flag", argument, NULL), 0, "%s", reason);
    cr_expect_str_eq(config.name, "y");
    cr_expect_eq(config.listen_client.count, 2);
    cr_expect_eq(config.cores, 2);
    file = fopen(path, "w");
    fputs("nme: y\n", file);
    fclose(file);
    cr_expect_eq(load(argument, NULL, NULL), ERR_CONFIG);
    cr_expect(strstr(reason, "unknown key 'nme'") != NULL, "%s", reason);
    unlink(path);
}
