/*
 * member_request.h - one change of the members (or of what one tells of itself), through the log.
 *
 * Story     Requests of this kind are rare and share a stream of the log (server/once.h), so each
 *           waits for the one before it, and is judged when its turn has come: by what those
 *           before it left. It succeeds when it was applied here.
 * Owner     The raft core; call in a fiber of it.
 * Errors    membership_check()'s, before and after the log; ERR_CONFIG as consensus gives it;
 *           ERR_TIMEOUT (if its turn had come, it may still happen), ERR_STOPPED. The timeout
 *           counts from the call.
 */
#ifndef SERVER_MEMBER_REQUEST_H
#define SERVER_MEMBER_REQUEST_H

#include "server/members.h"
#include "storage/log/request.h"

struct node;
struct proposal;

struct member_requests {
    struct node *node;
    uint64_t sequence;
    bool busy;
    struct fiber_waiters waiters;
};

struct member_requests *member_requests_create(struct node *node);
void member_requests_destroy(struct member_requests *requests);

/* Fiber. */
must_check int member_request(struct node *node, enum request_kind kind,
                              const struct member *member);

/* Fiber. The same, if `allowed(context)` answers 0 when its turn has come; else that error. */
must_check int member_request_if(struct node *node, enum request_kind kind,
                                 const struct member *member, int (*allowed)(void *context),
                                 void *context);

/* The entry that asks for it, with the next sequence; NULL: out of memory. */
must_check struct proposal *member_request_make(struct node *node, enum request_kind kind,
                                                const struct member *member);

/* Fiber. Makes name, client addresses and life of this member known, if they are not yet. Tries
 * once. */
must_check int member_publish(struct node *node);

#endif
