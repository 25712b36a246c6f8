/*
 * config_change.h - from one configuration to the next, or the reason why not.
 *
 * Story     Pure functions: `to` is written only on success and may not alias `from`. A simple
 *           change moves at most one voter, so old and new majorities overlap. Anything larger goes
 *           through a joint phase in which both majorities must agree.
 * Owner     Plain values.
 * Threads   Any.
 * Errors    ERR_CONFIG: no voters left, more than one voter in a simple change, a simple change
 *           while joint, entering twice, leaving without having entered.
 *           ERR_LIMIT: too many members.
 * Source    docs/internals/raft.md; Ongaro 2014, 4.3.
 */
#ifndef CONSENSUS_CONFIG_CHANGE_H
#define CONSENSUS_CONFIG_CHANGE_H

#include "consensus/config.h"

must_check int config_change_simple(const struct raft_config *from,
                                    const struct raft_change *changes, uint32_t change_count,
                                    struct raft_config *to);

must_check int config_change_enter_joint(const struct raft_config *from, bool auto_leave,
                                         const struct raft_change *changes, uint32_t change_count,
                                         struct raft_config *to);

must_check int config_change_leave_joint(const struct raft_config *from, struct raft_config *to);

/* Picks one of the three by the change's transition and size. */
must_check int config_change_apply(const struct raft_config *from,
                                   const struct raft_config_change *change, struct raft_config *to);

#endif
