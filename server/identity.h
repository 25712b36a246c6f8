/*
 * identity.h - who a data directory belongs to: the files LOCK, IDENTITY and STARTS.
 *
 * Story     IDENTITY is written once, when a node first starts, and names cluster, member, on-disk
 *           format and the cluster's first members: Raft's configuration before the first log
 *           entry. It also holds the directory's life, a random number that tells it from any other
 *           directory of the same member (server/admission.h). STARTS counts the starts of this
 *           member's process; the count goes with every message, so that nobody takes an answer to
 *           an earlier process for one to this. A directory with data but without IDENTITY, or of
 *           another format or member, is refused.
 * Owner     The raft core's start-up fiber.
 * Durable   The calls return after file and directory are synced.
 * Errors    ERR_LOCKED, ERR_VERSION, ERR_CORRUPT, ERR_CONFIG or -errno; `reason` says which file
 *           and why.
 * Source    docs/formats/identity.md.
 */
#ifndef SERVER_IDENTITY_H
#define SERVER_IDENTITY_H

#include "core/fiber.h"
#include "server/config.h"
#include "server/members.h"

#define IDENTITY_FORMAT          3
#define IDENTITY_FORMAT_LIFELESS 2 /* read, and rewritten with a life when it is opened */

struct identity {
    uint64_t cluster_id;
    uint64_t member_id;
    uint64_t life;            /* of this data directory; 0 in the format without */
    uint64_t incarnation;     /* this start's number, from 1 */
    struct member_set *first; /* owned; the members that the cluster began with */
};

/* The bytes of IDENTITY and STARTS; `path` is for `reason`. `identity->first` has room. */
must_check int identity_decode(struct identity *identity, const uint8_t *block, uint32_t bytes,
                               const char *path, char *reason, size_t reason_bytes);
must_check int identity_decode_starts(struct identity *identity, const uint8_t *block,
                                      uint32_t bytes, const char *path, char *reason,
                                      size_t reason_bytes);

/* Fiber. Creates the directory, takes its lock (held by *lock until closed), and reads IDENTITY;
 * one of the older format is rewritten. Returns 1 when it is there; 0 when the directory is new,
 * and identity_create() must follow. */
must_check int identity_open(const struct config *config, struct identity *identity,
                             struct io_file *lock, char *reason, size_t reason_bytes);

/* Fiber. Stores cluster, member and first members, with a life that is drawn here. */
must_check int identity_create(const struct config *config, struct identity *identity, char *reason,
                               size_t reason_bytes);

/* Fiber. Counts this start: sets identity->incarnation. */
must_check int identity_count_start(const struct config *config, struct identity *identity,
                                    char *reason, size_t reason_bytes);

void identity_deinit(struct identity *identity);

#endif
