/*
 * member_rules.h - what the operator allows of the changes of members that the state machine takes.
 *
 * Story     --strict-reconfig-check: a change must leave a quorum of members that work.
 *           --max-learners: so many members that copy without voting. Both are judged by the member
 *           that is asked, by its own flags and connections, when the change's turn has come
 *           (server/member_request.h); two members that are asked at the same time do not know of
 *           each other's changes.
 * Owner     The raft core.
 * Errors    etcd's: ERR_TOO_MANY_LEARNERS, ERR_NOT_ENOUGH_STARTED, ERR_UNHEALTHY.
 */
#ifndef SERVER_MEMBER_RULES_H
#define SERVER_MEMBER_RULES_H

#include "server/members.h"
#include "storage/log/request.h"

struct node;

must_check int member_rules_check(const struct node *node, enum request_kind kind,
                                  const struct member *member);

#endif
