/*
 * machine_flags.h - what raftd is told on a simulated machine, by its command line.
 *
 * Errors    As config_load(), with `reason`.
 */
#ifndef TESTS_SIM_MACHINE_FLAGS_H
#define TESTS_SIM_MACHINE_FLAGS_H

#include <stdio.h>

#include "server/config.h"

/* Machine `id` is called n<id> and has the address 10.0.0.<id>; `state` is new or existing. */
must_check static inline int machine_flags(struct config *config, uint32_t id, const char *cluster,
                                           const char *state, char *reason, size_t reason_bytes)
{
    char client[64], peer[64], name[16];
    snprintf(client, sizeof(client), "http://10.0.0.%u:2379", id);
    snprintf(peer, sizeof(peer), "http://10.0.0.%u:2380", id);
    snprintf(name, sizeof(name), "n%u", id);
    char *arguments[] = {"--name",
                         name,
                         "--data-dir",
                         "/data",
                         "--listen-client-urls",
                         client,
                         "--advertise-client-urls",
                         client,
                         "--listen-peer-urls",
                         peer,
                         "--initial-advertise-peer-urls",
                         peer,
                         "--initial-cluster",
                         (char *)cluster,
                         "--initial-cluster-state",
                         (char *)state,
                         "--memory-limit",
                         "64MiB"};
    return config_load(config, ARRAY_COUNT(arguments), arguments, NULL, reason, reason_bytes);
}

#endif
