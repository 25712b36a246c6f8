/*
 * bootstrap.h - the first start of a member: who it is, in a new cluster or in one that exists.
 *
 * Story     New: every first member computes the same ids from the same --initial-cluster.
 *           Existing: the process asks all members named there who they are (a
 *           raftpb.JoinQuestion in a frame of kind question), finds itself among them by its peer
 *           addresses, and takes over cluster id, own id and the cluster's first members. One
 *           member that knows it as started is enough to refuse.
 * Owner     The raft core's start-up fiber.
 * Errors    ERR_CONFIG, ERR_UNAVAILABLE (no member answered) with one line in `reason`.
 * Source    docs/operations/cluster.md; docs/formats/peer-frame.md.
 */
#ifndef SERVER_BOOTSTRAP_H
#define SERVER_BOOTSTRAP_H

#include "core/core.h"
#include "server/identity.h"

/* Fiber. Fills cluster id, member id and first members. */
must_check int bootstrap_identity(struct core *core, const struct config *config,
                                  struct identity *identity, char *reason, size_t reason_bytes);

/* Finds this process in one member's answer to a raftpb.JoinQuestion, and takes over what it says.
 * ERR_NOT_FOUND: that member does not know it (yet). ERR_CONFIG: it had started before, or members
 * of two clusters answer. ERR_MALFORMED. */
must_check int bootstrap_take_answer(const struct config *config, struct bytes answer,
                                     struct identity *identity, char *reason, size_t reason_bytes);

/* Any core. The answer to a question: its bytes in `answer`, or negative. */
struct member_set;
must_check int bootstrap_answer(struct bytes question, uint64_t cluster_id,
                                const struct member_set *first, const struct member_set *members,
                                uint8_t *answer, size_t answer_bytes_max);

#endif
