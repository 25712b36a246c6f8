/*
 * config.h - what a node is told at start: etcd's own flags, ETCD_* variables and YAML keys for
 * what exists in both, and a few of ours.
 *
 * Story     One table (config.c) names every flag with its kind, default and standing: used here;
 *           etcd's but without meaning here (accepted, one warning); etcd's and not supported
 *           (refused unless its value means what this version does, because ignoring it would
 *           change behaviour or safety: that is etcd's default, but for --enable-grpc-gateway).
 *           Order of effect: defaults, ETCD_* variables, flags; a repeated flag's last
 *           value wins. With --config-file, the file replaces flags and variables, as etcd does.
 * Owner     main.c; immutable once the cores run.
 * Units     As in the names; sizes accept plain bytes or a KiB/MiB/GiB suffix, except for
 *           --quota-backend-bytes, which is etcd's signed number.
 * Errors    ERR_CONFIG with one line in `reason` that names the flag and what is expected.
 * Limits    CONFIG_WARNINGS_MAX warnings; the last of so many says that there are more.
 * Source    server/embed/config.go of etcd: names, defaults, precedence.
 */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include "core/base.h"
#include "core/err.h"

#define CONFIG_URLS_MAX     8
#define CONFIG_TEXT_BYTES   512
#define CONFIG_WARNINGS_MAX 32

/* scheme://host:port, as listened on or advertised. */
struct config_url {
    char text[256];
    char host[200];
    uint16_t port;
};

struct config_urls {
    struct config_url url[CONFIG_URLS_MAX];
    uint32_t count;
};

struct config {
    char name[CONFIG_TEXT_BYTES];
    char data_dir[CONFIG_TEXT_BYTES]; /* default: <name>.etcd */
    struct config_urls listen_client, listen_peer, listen_metrics;
    struct config_urls advertise_client, advertise_peer;
    char initial_cluster[CONFIG_TEXT_BYTES * 4];
    char initial_cluster_state[CONFIG_TEXT_BYTES];
    char initial_cluster_token[CONFIG_TEXT_BYTES];
    bool strict_reconfig_check;
    bool force_new_cluster;
    uint64_t max_learners;
    uint64_t heartbeat_interval_ms, election_timeout_ms;
    int64_t quota_backend_bytes; /* 0: 2 GiB as etcd; negative: none */
    uint64_t max_txn_ops;
    uint64_t max_request_bytes;
    uint64_t max_concurrent_streams;
    uint64_t keepalive_interval_ns, keepalive_timeout_ns;
    char log_level[CONFIG_TEXT_BYTES];
    char config_file[CONFIG_TEXT_BYTES];
    bool version_wanted, help_wanted;

    /* ours */
    uint64_t cores;        /* 0: one per usable CPU, at most CONFIG_CORES_MAX */
    uint64_t memory_limit; /* bytes; 0: a quarter of the machine's memory, at most 2 GiB */
    uint64_t poll_us;      /* how long a core looks for what it expects before it sleeps */
    char compression[CONFIG_TEXT_BYTES]; /* none, lz4, zstd */

    char warnings[CONFIG_WARNINGS_MAX][CONFIG_TEXT_BYTES];
    uint32_t warning_count;
};

#define CONFIG_CORES_MAX   32
#define CONFIG_POLL_US_MAX 1000000

/* `arguments` without the program's name; `environment` as main()'s third argument, or NULL. */
must_check int config_load(struct config *config, int argument_count, char *const *arguments,
                           char *const *environment, char *reason, size_t reason_bytes);

/* The --help text, generated from the same table. Writes to standard output. */
void config_print_help(void);

/* "http://127.0.0.1:2379" or a bare "host:port". Also used by tools. */
must_check int config_url_parse(struct config_url *url, const char *text, char *reason,
                                size_t reason_bytes);

#endif
