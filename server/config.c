#include "server/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#include "core/invariant.h"

enum flag_kind { FLAG_TEXT, FLAG_U64, FLAG_I64, FLAG_BYTES, FLAG_BOOL, FLAG_DURATION, FLAG_URLS };

enum flag_standing {
    FLAG_USED,
    FLAG_IGNORED, /* etcd's, without meaning here: one warning */
    FLAG_REFUSED, /* etcd's, not supported: refused unless given its default */
};

struct flag {
    const char *name;
    enum flag_kind kind;
    enum flag_standing standing;
    size_t offset; /* of the field in struct config, when used */
    size_t bytes;  /* of a text field */
    const char *initial;
    const char *help;
};

#define TEXT(name, field, initial, help)                                                           \
    {                                                                                              \
        name, FLAG_TEXT, FLAG_USED, offsetof(struct config, field),                                \
            sizeof(((struct config *)0)->field), initial, help                                     \
    }
#define USED(name, kind, field, initial, help)                                                     \
    {                                                                                              \
        name, kind, FLAG_USED, offsetof(struct config, field), 0, initial, help                    \
    }
#define IGNORED(name, kind)                                                                        \
    {                                                                                              \
        name, kind, FLAG_IGNORED, 0, 0, "", ""                                                     \
    }
#define REFUSED(name, kind, initial)                                                               \
    {                                                                                              \
        name, kind, FLAG_REFUSED, 0, 0, initial, ""                                                \
    }

static const struct flag flags[] = {
    TEXT("name", name, "default", "this member's name"),
    TEXT("data-dir", data_dir, "", "where data lives [<name>.etcd]"),
    USED("listen-client-urls", FLAG_URLS, listen_client, "http://localhost:2379",
         "addresses that serve clients"),
    USED("advertise-client-urls", FLAG_URLS, advertise_client, "",
         "client addresses told to others [the listen addresses]"),
    USED("listen-peer-urls", FLAG_URLS, listen_peer, "http://localhost:2380",
         "addresses that serve members"),
    USED("initial-advertise-peer-urls", FLAG_URLS, advertise_peer, "http://localhost:2380",
         "member addresses told to others"),
    USED("listen-metrics-urls", FLAG_URLS, listen_metrics, "",
         "more addresses that answer /metrics and health checks"),
    TEXT("initial-cluster", initial_cluster, "", "name=peer-url of each first member"),
    TEXT("initial-cluster-state", initial_cluster_state, "new",
         "new, or existing: join a cluster that has added this member"),
    TEXT("initial-cluster-token", initial_cluster_token, "etcd-cluster",
         "text mixed into the cluster's identity"),
    USED("max-learners", FLAG_U64, max_learners, "1", "learners that a cluster may have"),
    USED("strict-reconfig-check", FLAG_BOOL, strict_reconfig_check, "true",
         "refuse changes of members that could cost the quorum"),
    USED("force-new-cluster", FLAG_BOOL, force_new_cluster, "false",
         "disaster recovery: this member becomes the only one and keeps its data"),
    USED("heartbeat-interval", FLAG_U64, heartbeat_interval_ms, "100", "ms"),
    USED("election-timeout", FLAG_U64, election_timeout_ms, "1000", "ms"),
    USED("quota-backend-bytes", FLAG_I64, quota_backend_bytes, "0",
         "data size that raises the NOSPACE alarm; 0 = 2 GiB, negative = none"),
    USED("max-txn-ops", FLAG_U64, max_txn_ops, "128", "operations in one transaction"),
    USED("max-request-bytes", FLAG_BYTES, max_request_bytes, "1572864", "size of one request"),
    USED("max-concurrent-streams", FLAG_U64, max_concurrent_streams, "4294967295",
         "streams of one connection, at most 65536"),
    USED("grpc-keepalive-interval", FLAG_DURATION, keepalive_interval_ns, "2h",
         "time between our pings on a quiet connection; 0 = 2h"),
    USED("grpc-keepalive-timeout", FLAG_DURATION, keepalive_timeout_ns, "20s",
         "time a ping may stay unanswered; 0 = 20s"),
    TEXT("log-level", log_level, "info", "debug, info, warn or error"),
    TEXT("config-file", config_file, "", "YAML file; replaces flags and variables"),
    USED("version", FLAG_BOOL, version_wanted, "false", "print versions and exit"),
    USED("help", FLAG_BOOL, help_wanted, "false", "print this and exit"),

    USED("cores", FLAG_U64, cores, "0", "cores to run on; 0 = one per usable CPU"),
    USED("memory-limit", FLAG_BYTES, memory_limit, "0",
         "bytes for memtables, caches and queues; 0 = a quarter of the machine, at most 2GiB"),
    USED("poll-us", FLAG_U64, poll_us, "100",
         "how long a core that expects an answer looks for it before it sleeps; 0 = not at all"),
    TEXT("compression", compression, "lz4", "of table blocks: none, lz4 or zstd"),

    IGNORED("grpc-keepalive-min-time", FLAG_DURATION), /* pings are never punished */
    IGNORED("wal-dir", FLAG_TEXT),
    IGNORED("snapshot-count", FLAG_U64),
    IGNORED("snapshot-catchup-entries", FLAG_U64),
    IGNORED("max-wals", FLAG_U64),
    IGNORED("max-snapshots", FLAG_U64),
    IGNORED("initial-election-tick-advance", FLAG_BOOL),
    IGNORED("pre-vote", FLAG_BOOL),
    IGNORED("socket-reuse-port", FLAG_BOOL),
    IGNORED("socket-reuse-address", FLAG_BOOL),
    IGNORED("memory-mlock", FLAG_BOOL),
    IGNORED("raft-read-timeout", FLAG_DURATION),
    IGNORED("raft-write-timeout", FLAG_DURATION),
    IGNORED("compaction-batch-limit", FLAG_U64),
    IGNORED("compaction-sleep-interval", FLAG_DURATION),
    IGNORED("backend-batch-interval", FLAG_DURATION),
    IGNORED("backend-batch-limit", FLAG_U64),
    IGNORED("backend-bbolt-freelist-type", FLAG_TEXT),
    IGNORED("bootstrap-defrag-threshold-megabytes", FLAG_U64),
    IGNORED("cors", FLAG_TEXT),
    IGNORED("host-whitelist", FLAG_TEXT),
    IGNORED("logger", FLAG_TEXT),
    IGNORED("log-outputs", FLAG_TEXT),
    IGNORED("log-format", FLAG_TEXT),
    IGNORED("enable-log-rotation", FLAG_BOOL),
    IGNORED("log-rotation-config-json", FLAG_TEXT),
    IGNORED("warning-apply-duration", FLAG_DURATION),
    IGNORED("warning-unary-request-duration", FLAG_DURATION),
    IGNORED("metrics", FLAG_TEXT),
    IGNORED("enable-pprof", FLAG_BOOL),
    IGNORED("enable-v2", FLAG_BOOL),
    IGNORED("auth-token-ttl", FLAG_U64),
    IGNORED("bcrypt-cost", FLAG_U64),
    IGNORED("corrupt-check-time", FLAG_DURATION),
    IGNORED("compact-hash-check-time", FLAG_DURATION),
    IGNORED("watch-progress-notify-interval", FLAG_DURATION),
    IGNORED("downgrade-check-time", FLAG_DURATION),
    IGNORED("feature-gates", FLAG_TEXT),
    IGNORED("experimental-initial-corrupt-check", FLAG_BOOL),
    IGNORED("experimental-watch-progress-notify-interval", FLAG_DURATION),
    IGNORED("enable-distributed-tracing", FLAG_BOOL),
    IGNORED("distributed-tracing-address", FLAG_TEXT),
    IGNORED("distributed-tracing-service-name", FLAG_TEXT),
    IGNORED("distributed-tracing-instance-id", FLAG_TEXT),
    IGNORED("distributed-tracing-sampling-rate", FLAG_U64),

    REFUSED("listen-client-http-urls", FLAG_TEXT, ""),
    REFUSED("discovery", FLAG_TEXT, ""),
    REFUSED("discovery-srv", FLAG_TEXT, ""),
    REFUSED("discovery-srv-name", FLAG_TEXT, ""),
    REFUSED("discovery-token", FLAG_TEXT, ""),
    REFUSED("discovery-endpoints", FLAG_TEXT, ""),
    REFUSED("unsafe-no-fsync", FLAG_BOOL, "false"),
    REFUSED("auto-compaction-mode", FLAG_TEXT, "periodic"),
    REFUSED("auto-compaction-retention", FLAG_TEXT, "0"),
    REFUSED("enable-grpc-gateway", FLAG_BOOL, "false"),
    REFUSED("auth-token", FLAG_TEXT, "simple"),
    REFUSED("cert-file", FLAG_TEXT, ""),
    REFUSED("key-file", FLAG_TEXT, ""),
    REFUSED("client-cert-file", FLAG_TEXT, ""),
    REFUSED("client-key-file", FLAG_TEXT, ""),
    REFUSED("client-cert-auth", FLAG_BOOL, "false"),
    REFUSED("trusted-ca-file", FLAG_TEXT, ""),
    REFUSED("client-crl-file", FLAG_TEXT, ""),
    REFUSED("client-cert-allowed-hostname", FLAG_TEXT, ""),
    REFUSED("auto-tls", FLAG_BOOL, "false"),
    REFUSED("self-signed-cert-validity", FLAG_U64, "1"),
    REFUSED("cipher-suites", FLAG_TEXT, ""),
    REFUSED("tls-min-version", FLAG_TEXT, "TLS1.2"),
    REFUSED("tls-max-version", FLAG_TEXT, ""),
    REFUSED("peer-cert-file", FLAG_TEXT, ""),
    REFUSED("peer-key-file", FLAG_TEXT, ""),
    REFUSED("peer-client-cert-file", FLAG_TEXT, ""),
    REFUSED("peer-client-key-file", FLAG_TEXT, ""),
    REFUSED("peer-client-cert-auth", FLAG_BOOL, "false"),
    REFUSED("peer-trusted-ca-file", FLAG_TEXT, ""),
    REFUSED("peer-crl-file", FLAG_TEXT, ""),
    REFUSED("peer-auto-tls", FLAG_BOOL, "false"),
    REFUSED("peer-cert-allowed-cn", FLAG_TEXT, ""),
    REFUSED("peer-cert-allowed-hostname", FLAG_TEXT, ""),
    REFUSED("peer-skip-client-san-verification", FLAG_BOOL, "false"),
};

#undef TEXT
#undef USED
#undef IGNORED
#undef REFUSED

static const struct flag *flag_find(const char *name, size_t name_bytes)
{
    for (size_t i = 0; i < ARRAY_COUNT(flags); i++)
        if (strlen(flags[i].name) == name_bytes && memcmp(flags[i].name, name, name_bytes) == 0)
            return &flags[i];
    return NULL;
}

/* ---- values --------------------------------------------------------------------------------- */

static bool number_parse(const char *text, int64_t *value, const char **rest)
{
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (end == text || errno != 0)
        return false;
    *value = number;
    *rest = end;
    return true;
}

static bool bytes_parse(const char *text, uint64_t *value)
{
    static const struct {
        const char *suffix;
        uint64_t factor;
    } units[] = {{"", 1},      {"B", 1},   {"KiB", KIB}, {"K", KIB},
                 {"MiB", MIB}, {"M", MIB}, {"GiB", GIB}, {"G", GIB}};
    int64_t number;
    const char *rest;
    if (!number_parse(text, &number, &rest) || number < 0)
        return false;
    for (size_t i = 0; i < ARRAY_COUNT(units); i++)
        if (strcmp(rest, units[i].suffix) == 0)
            return !__builtin_mul_overflow((uint64_t)number, units[i].factor, value);
    return false;
}

/* Digits, and behind a point those of a fraction, of which 18 count. False when there are none, or
 * the value is out of range. */
static bool decimal_parse(const char *text, uint64_t unit, uint64_t *value, const char **rest)
{
    uint64_t whole = 0, fraction = 0;
    double scale = 1;
    const char *first = text;
    bool any, fits = true;
    for (; isdigit((unsigned char)*text); text++)
        fits = fits && !__builtin_mul_overflow(whole, 10, &whole) &&
               !__builtin_add_overflow(whole, (uint64_t)(*text - '0'), &whole);
    any = text > first;
    if (*text == '.')
        for (text++; isdigit((unsigned char)*text); text++, any = true)
            if (scale < 1e18) {
                fraction = fraction * 10 + (uint64_t)(*text - '0');
                scale *= 10;
            }
    *rest = text;
    return any && fits && !__builtin_mul_overflow(whole, unit, value) &&
           !__builtin_add_overflow(*value, (uint64_t)((double)fraction * ((double)unit / scale)),
                                   value);
}

/* Go's syntax: one or more number+unit; a bare number is seconds, as etcd's YAML has it. */
static bool duration_parse(const char *text, uint64_t *ns)
{
    static const struct {
        const char *suffix;
        uint64_t factor;
    } units[] = {{"ns", 1},
                 {"us", NS_PER_US},
                 {"\u00b5s", NS_PER_US}, /* micro sign */
                 {"\u03bcs", NS_PER_US}, /* Greek letter */
                 {"ms", NS_PER_MS},
                 {"s", NS_PER_S},
                 {"m", 60 * NS_PER_S},
                 {"h", 3600 * NS_PER_S},
                 {"", NS_PER_S}};
    static const char number[] = "0123456789.";
    uint64_t total = 0;
    if (*text == '\0')
        return false;
    while (*text != '\0') {
        const char *unit = text + strspn(text, number), *rest;
        size_t unit_bytes = strcspn(unit, number);
        uint64_t factor = 0, part;
        for (size_t i = 0; i < ARRAY_COUNT(units); i++)
            if (strlen(units[i].suffix) == unit_bytes &&
                memcmp(unit, units[i].suffix, unit_bytes) == 0)
                factor = units[i].factor;
        if (factor == 0 || !decimal_parse(text, factor, &part, &rest) || rest != unit ||
            __builtin_add_overflow(total, part, &total) || total > INT64_MAX)
            return false;
        text = unit + unit_bytes;
    }
    *ns = total;
    return true;
}

/* What Go takes for one. */
static bool bool_parse(const char *text, bool *value)
{
    static const char *const forms[2][6] = {{"0", "f", "F", "false", "FALSE", "False"},
                                            {"1", "t", "T", "true", "TRUE", "True"}};
    for (size_t yes = 0; yes < 2; yes++)
        for (size_t i = 0; i < ARRAY_COUNT(forms[yes]); i++)
            if (strcmp(text, forms[yes][i]) == 0) {
                *value = yes != 0;
                return true;
            }
    return false;
}

int config_url_parse(struct config_url *url, const char *text, char *reason, size_t reason_bytes)
{
    const char *host = text;
    const char *scheme_end = strstr(text, "://");
    if (scheme_end != NULL) {
        size_t scheme_bytes = (size_t)(scheme_end - text);
        if (scheme_bytes == 5 && memcmp(text, "https", 5) == 0) {
            snprintf(reason, reason_bytes, "%s: TLS is not supported by this version; use http://",
                     text);
            return ERR_CONFIG;
        }
        if (scheme_bytes != 4 || memcmp(text, "http", 4) != 0) {
            snprintf(reason, reason_bytes, "%s: expected http://host:port", text);
            return ERR_CONFIG;
        }
        host = scheme_end + 3;
    }
    const char *colon = strrchr(host, ':');
    int64_t port = 0;
    const char *rest = "";
    size_t host_bytes = colon == NULL ? 0 : (size_t)(colon - host);
    if (colon == NULL || !number_parse(colon + 1, &port, &rest) ||
        (*rest != '\0' && strcmp(rest, "/") != 0) || port < 0 || port > 65535 || host_bytes == 0 ||
        host_bytes + 1 > sizeof(url->host) || strlen(text) + 1 > sizeof(url->text)) {
        snprintf(reason, reason_bytes, "%s: expected http://host:port", text);
        return ERR_CONFIG;
    }
    if (host[0] == '[' && host[host_bytes - 1] == ']') {
        host++;
        host_bytes -= 2;
    }
    memcpy(url->host, host, host_bytes);
    url->host[host_bytes] = '\0';
    memcpy(url->text, text, strlen(text) + 1);
    url->port = (uint16_t)port;
    return 0;
}

static int urls_parse(struct config_urls *urls, const char *text, char *reason, size_t reason_bytes)
{
    urls->count = 0;
    while (*text != '\0') {
        const char *comma = strchrnul(text, ',');
        char one[sizeof(urls->url[0].text)];
        size_t one_bytes = (size_t)(comma - text);
        if (urls->count == CONFIG_URLS_MAX || one_bytes + 1 > sizeof(one)) {
            snprintf(reason, reason_bytes, "too many or too long URLs (at most %d)",
                     CONFIG_URLS_MAX);
            return ERR_CONFIG;
        }
        memcpy(one, text, one_bytes);
        one[one_bytes] = '\0';
        int error = config_url_parse(&urls->url[urls->count], one, reason, reason_bytes);
        if (error < 0)
            return error;
        urls->count++;
        text = *comma == ',' ? comma + 1 : comma;
    }
    return 0;
}

static bool scalar_set(void *field, const struct flag *flag, const char *value)
{
    const char *rest;
    int64_t number;
    switch (flag->kind) {
    case FLAG_TEXT:
        if (strlen(value) + 1 > flag->bytes)
            return false;
        memcpy(field, value, strlen(value) + 1);
        return true;
    case FLAG_U64:
        if (!number_parse(value, &number, &rest) || *rest != '\0' || number < 0)
            return false;
        *(uint64_t *)field = (uint64_t)number;
        return true;
    case FLAG_I64:
        if (!number_parse(value, &number, &rest) || *rest != '\0')
            return false;
        *(int64_t *)field = number;
        return true;
    case FLAG_BYTES:
        return bytes_parse(value, field);
    case FLAG_BOOL:
        return bool_parse(value, field);
    case FLAG_DURATION:
        return duration_parse(value, field);
    case FLAG_URLS:
        break;
    }
    return false;
}

static const char *kind_text(enum flag_kind kind)
{
    switch (kind) {
    case FLAG_TEXT:
        return "a text";
    case FLAG_U64:
        return "a whole number";
    case FLAG_I64:
        return "a number";
    case FLAG_BYTES:
        return "a size such as 1572864 or 64MiB";
    case FLAG_BOOL:
        return "true or false";
    case FLAG_DURATION:
        return "a duration such as 5s or 1.5h";
    case FLAG_URLS:
        return "http://host:port, separated by commas";
    }
    return "";
}

/* The last one that there is room for says that there are more. */
static void warn(struct config *config, const char *text)
{
    if (config->warning_count == CONFIG_WARNINGS_MAX)
        return;
    if (config->warning_count == CONFIG_WARNINGS_MAX - 1)
        text = "more flags or variables are ignored; remove those named above to see them";
    snprintf(config->warnings[config->warning_count++], CONFIG_TEXT_BYTES, "%s", text);
}

/* The default of every boolean flag that is refused. */
static bool is_false(const char *value)
{
    bool yes;
    return bool_parse(value, &yes) && !yes;
}

static int flag_set(struct config *config, const struct flag *flag, const char *value, char *reason,
                    size_t reason_bytes)
{
    char why[CONFIG_TEXT_BYTES] = "";
    switch (flag->standing) {
    case FLAG_IGNORED:
        snprintf(why, sizeof(why), "--%s has no meaning here and is ignored", flag->name);
        warn(config, why);
        return 0;
    case FLAG_REFUSED:
        if (strcmp(value, flag->initial) == 0 || (flag->kind == FLAG_BOOL && is_false(value)))
            return 0;
        snprintf(reason, reason_bytes, "--%s=%s is not supported by this version", flag->name,
                 value);
        return ERR_CONFIG;
    case FLAG_USED:
        break;
    }
    void *field = (char *)config + flag->offset;
    if (flag->kind == FLAG_URLS) {
        if (urls_parse(field, value, why, sizeof(why)) == 0)
            return 0;
        snprintf(reason, reason_bytes, "--%s: %s", flag->name, why);
        return ERR_CONFIG;
    }
    if (scalar_set(field, flag, value))
        return 0;
    snprintf(reason, reason_bytes, "--%s=%s: expected %s", flag->name, value,
             kind_text(flag->kind));
    return ERR_CONFIG;
}

/* ---- sources -------------------------------------------------------------------------------- */

static int load_arguments(struct config *config, int count, char *const *arguments, char *reason,
                          size_t reason_bytes)
{
    for (int i = 0; i < count; i++) {
        const char *argument = arguments[i];
        if (argument[0] != '-' || argument[1] == '\0') {
            snprintf(reason, reason_bytes, "unexpected argument '%s'; see --help", argument);
            return ERR_CONFIG;
        }
        const char *name = argument + (argument[1] == '-' ? 2 : 1);
        const char *equals = strchrnul(name, '=');
        const struct flag *flag = flag_find(name, (size_t)(equals - name));
        if (flag == NULL) {
            snprintf(reason, reason_bytes, "unknown flag '%s'; see --help", argument);
            return ERR_CONFIG;
        }
        const char *value = "true";
        if (*equals == '=')
            value = equals + 1;
        else if (flag->kind != FLAG_BOOL) {
            if (i + 1 == count) {
                snprintf(reason, reason_bytes, "--%s needs a value", flag->name);
                return ERR_CONFIG;
            }
            value = arguments[++i];
        }
        int error = flag_set(config, flag, value, reason, reason_bytes);
        if (error < 0)
            return error;
    }
    return 0;
}

static int load_environment(struct config *config, char *const *environment, char *reason,
                            size_t reason_bytes)
{
    for (; environment != NULL && *environment != NULL; environment++) {
        const char *variable = *environment;
        if (strncmp(variable, "ETCD_", 5) != 0)
            continue;
        const char *equals = strchr(variable, '=');
        char name[64];
        if (equals != NULL && equals[1] == '\0')
            continue; /* as if it were not there: etcd's rule */
        size_t name_bytes = equals == NULL ? 0 : (size_t)(equals - variable - 5);
        if (name_bytes == 0 || name_bytes >= sizeof(name))
            continue;
        for (size_t i = 0; i < name_bytes; i++)
            name[i] = variable[5 + i] == '_' ? '-' : (char)tolower(variable[5 + i]);
        const struct flag *flag = flag_find(name, name_bytes);
        if (flag == NULL) {
            char text[CONFIG_TEXT_BYTES];
            snprintf(text, sizeof(text), "unknown environment variable %.*s is ignored",
                     (int)(equals - variable), variable);
            warn(config, text);
            continue;
        }
        int error = flag_set(config, flag, equals + 1, reason, reason_bytes);
        if (error < 0)
            return error;
    }
    return 0;
}

/* Appends a scalar to what a key has so far, behind a comma; false when it does not fit or is none.
 */
static bool yaml_append(char *joined, size_t room, const yaml_node_t *node)
{
    const char *text = (const char *)node->data.scalar.value;
    if (node->type != YAML_SCALAR_NODE || strlen(text) != node->data.scalar.length)
        return false;
    size_t used = strlen(joined);
    int wrote = snprintf(joined + used, room - used, "%s%s", used > 0 ? "," : "", text);
    return wrote >= 0 && (size_t)wrote < room - used;
}

/* A flat mapping of scalars (sequences of scalars join with commas), which is what etcd's file is,
 * save for its TLS sections: those are mappings and are refused by name. */
static int load_yaml_pair(struct config *config, yaml_document_t *document, yaml_node_pair_t *pair,
                          char *reason, size_t reason_bytes)
{
    yaml_node_t *key = yaml_document_get_node(document, pair->key);
    yaml_node_t *value = yaml_document_get_node(document, pair->value);
    const char *name = (const char *)key->data.scalar.value;
    const struct flag *flag =
        key->type == YAML_SCALAR_NODE ? flag_find(name, key->data.scalar.length) : NULL;
    if (flag == NULL) {
        snprintf(reason, reason_bytes, "line %zu: unknown key '%s'", key->start_mark.line + 1,
                 key->type == YAML_SCALAR_NODE ? name : "?");
        return ERR_CONFIG;
    }
    char joined[CONFIG_TEXT_BYTES * 4] = "";
    bool fits = true;
    if (value->type == YAML_SEQUENCE_NODE)
        for (yaml_node_item_t *item = value->data.sequence.items.start;
             fits && item < value->data.sequence.items.top; item++)
            fits = yaml_append(joined, sizeof(joined), yaml_document_get_node(document, *item));
    else
        fits = yaml_append(joined, sizeof(joined), value);
    if (!fits) {
        snprintf(reason, reason_bytes,
                 "line %zu: key '%s' must be a scalar or a list of scalars, below %zu bytes",
                 key->start_mark.line + 1, name, sizeof(joined));
        return ERR_CONFIG;
    }
    return flag_set(config, flag, joined, reason, reason_bytes);
}

static int load_yaml(struct config *config, const char *path, char *reason, size_t reason_bytes)
{
    char why[CONFIG_TEXT_BYTES] = "";
    int error = ERR_CONFIG;
    yaml_parser_t parser;
    yaml_document_t document;
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        snprintf(reason, reason_bytes, "--config-file %s: %s", path, strerror(errno));
        return ERR_CONFIG;
    }
    if (!yaml_parser_initialize(&parser))
        goto close_file;
    yaml_parser_set_input_file(&parser, file);
    if (!yaml_parser_load(&parser, &document)) {
        snprintf(reason, reason_bytes, "--config-file %s: line %zu: %s", path,
                 parser.problem_mark.line + 1, parser.problem);
        goto delete_parser;
    }
    yaml_node_t *root = yaml_document_get_root_node(&document);
    error = 0;
    if (root != NULL && root->type != YAML_MAPPING_NODE) {
        snprintf(why, sizeof(why), "expected 'key: value' lines");
        error = ERR_CONFIG;
    }
    if (root != NULL && error == 0)
        for (yaml_node_pair_t *pair = root->data.mapping.pairs.start;
             error == 0 && pair < root->data.mapping.pairs.top; pair++)
            error = load_yaml_pair(config, &document, pair, why, sizeof(why));
    if (error < 0)
        snprintf(reason, reason_bytes, "--config-file %s: %s", path, why);
    yaml_document_delete(&document);
delete_parser:
    yaml_parser_delete(&parser);
close_file:
    fclose(file);
    return error;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void load_defaults(struct config *config)
{
    char reason[CONFIG_TEXT_BYTES];
    memset(config, 0, sizeof(*config));
    for (size_t i = 0; i < ARRAY_COUNT(flags); i++)
        if (flags[i].standing == FLAG_USED) {
            int error = flag_set(config, &flags[i], flags[i].initial, reason, sizeof(reason));
            invariant(error == 0); /* the table's own defaults parse */
        }
}

static int config_check(struct config *config, char *reason, size_t reason_bytes)
{
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    static const char *const compressions[] = {"none", "lz4", "zstd"};
    bool level_known = false, compression_known = false;
    for (size_t i = 0; i < ARRAY_COUNT(levels); i++)
        level_known |= strcmp(config->log_level, levels[i]) == 0;
    for (size_t i = 0; i < ARRAY_COUNT(compressions); i++)
        compression_known |= strcmp(config->compression, compressions[i]) == 0;
    const char *wrong = NULL;
    if (!level_known)
        wrong = "--log-level must be debug, info, warn or error";
    else if (!compression_known)
        wrong = "--compression must be none, lz4 or zstd";
    else if (config->listen_client.count == 0)
        wrong = "--listen-client-urls must name at least one address";
    else if (config->listen_peer.count == 0)
        wrong = "--listen-peer-urls must name at least one address";
    else if (config->cores > CONFIG_CORES_MAX)
        wrong = "--cores is above 32";
    else if (config->poll_us > CONFIG_POLL_US_MAX)
        wrong = "--poll-us must be at most 1000000, a second";
    else if (config->heartbeat_interval_ms == 0 ||
             config->election_timeout_ms < 5 * config->heartbeat_interval_ms)
        wrong = "--election-timeout must be at least 5 times --heartbeat-interval";
    else if (config->election_timeout_ms > 50000)
        wrong = "--election-timeout must be at most 50000 ms";
    else if (config->max_txn_ops > UINT32_MAX)
        wrong = "--max-txn-ops must be at most 4294967295";
    else if (config->max_request_bytes == 0 || config->max_request_bytes > 7 * MIB)
        wrong = "--max-request-bytes must be between 1 and 7MiB";
    else if (config->memory_limit != 0 && config->memory_limit < 64 * MIB)
        wrong = "--memory-limit must be at least 64MiB";
    else if (strcmp(config->initial_cluster_state, "new") != 0 &&
             strcmp(config->initial_cluster_state, "existing") != 0)
        wrong = "--initial-cluster-state must be new or existing";
    else if (config->advertise_peer.count == 0)
        wrong = "--initial-advertise-peer-urls must name at least one address";
    if (wrong == NULL)
        return 0;
    snprintf(reason, reason_bytes, "%s", wrong);
    return ERR_CONFIG;
}

int config_load(struct config *config, int argument_count, char *const *arguments,
                char *const *environment, char *reason, size_t reason_bytes)
{
    load_defaults(config);
    int error = load_environment(config, environment, reason, reason_bytes);
    if (error == 0)
        error = load_arguments(config, argument_count, arguments, reason, reason_bytes);
    if (error == 0 && config->config_file[0] != '\0') {
        char path[CONFIG_TEXT_BYTES];
        memcpy(path, config->config_file, sizeof(path));
        bool help = config->help_wanted, version = config->version_wanted;
        load_defaults(config);
        error = load_yaml(config, path, reason, reason_bytes);
        config->help_wanted = help;
        config->version_wanted = version;
    }
    if (error < 0)
        return error;
    if (config->data_dir[0] == '\0')
        snprintf(config->data_dir, sizeof(config->data_dir), "%.*s.etcd",
                 (int)sizeof(config->data_dir) - 6, config->name);
    if (config->advertise_client.count == 0)
        config->advertise_client = config->listen_client;
    return config_check(config, reason, reason_bytes);
}

void config_print_help(void)
{
    puts("usage: raftd [--flag value | --flag=value]...\n\n"
         "Every flag also reads ETCD_<NAME> and, with --config-file, the YAML key of its name.\n");
    for (size_t i = 0; i < ARRAY_COUNT(flags); i++)
        if (flags[i].standing == FLAG_USED)
            printf("  --%-30s %s%s%s%s\n", flags[i].name, flags[i].help,
                   flags[i].initial[0] ? " [" : "", flags[i].initial,
                   flags[i].initial[0] ? "]" : "");
    puts("\nOther flags of etcd are accepted with a warning where they have no meaning here, and\n"
         "refused where ignoring them would be wrong.");
}
