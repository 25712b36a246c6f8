/*
 * identity.h - who a data directory belongs to: the files LOCK and IDENTITY.
 *
 * Story     IDENTITY is written once, when a node first starts, and names cluster, member and
 *           on-disk format. A directory with data but without it, or of another format or member,
 *           is refused.
 * Owner     The raft core's start-up fiber.
 * Durable   identity_open() returns after file and directory are synced.
 * Errors    ERR_LOCKED, ERR_VERSION, ERR_CORRUPT, ERR_CONFIG or -errno; `reason` says which file
 *           and why.
 * Source    docs/formats/identity.md.
 */
#ifndef SERVER_IDENTITY_H
#define SERVER_IDENTITY_H

#include "core/fiber.h"
#include "server/config.h"

#define IDENTITY_FORMAT 1

struct identity {
    uint64_t cluster_id;
    uint64_t member_id;
    bool fresh; /* this start created it */
};

/* Fiber. Creates the directory, takes its lock (held by *lock until closed), and reads or creates
 * IDENTITY from the configuration's peer addresses and cluster token. */
must_check int identity_open(const struct config *config, struct identity *identity,
                             struct io_file *lock, char *reason, size_t reason_bytes);

/* Stable ids, as etcd derives them: from peer addresses and token. */
void identity_derive(const struct config *config, struct identity *identity);

#endif
