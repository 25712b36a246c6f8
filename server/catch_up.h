/*
 * catch_up.h - appends for members that lag: entries that left memory are read from the log.
 *
 * Story     Consensus decides what to send (terms and sizes are always known, server/log_notes.h)
 *           and goes on; the message waits here while a fiber reads its entries on the log core.
 *           Later appends to the same member queue behind it, so that they arrive in order. What
 *           was decided in an earlier term is dropped: only the leader of its term may send it.
 * Owner     The raft core.
 * Errors    Entries that cannot be read: consensus is told that the member is unreachable, and
 *           starts over.
 * Limits    As many messages as consensus has in flight.
 */
#ifndef SERVER_CATCH_UP_H
#define SERVER_CATCH_UP_H

#include "consensus/message.h"
#include "server/log_role.h"

struct catch_up;
struct core;

struct catch_up_calls {
    /* Do we lead in this term? */
    bool (*is_current)(void *context, uint64_t term);
    /* Fiber. log_role_read(). */
    int64_t (*read)(void *context, uint64_t first, uint64_t last, uint64_t bytes_max,
                    struct log_copy *copy);
    void (*send)(void *context, const struct raft_message *message,
                 const struct entry *const *entries);
    /* Entry `index` could not be read for `to`. */
    void (*failed)(void *context, uint64_t to, uint64_t index, int error);
};

/* `calls` is borrowed. */
must_check struct catch_up *catch_up_create(struct core *core, const struct catch_up_calls *calls,
                                            void *context);
void catch_up_destroy(struct catch_up *catch_up); /* fiber: waits for reads in progress */

/* Do appends to this member wait here? */
bool catch_up_is_busy(const struct catch_up *catch_up, uint64_t to);
void catch_up_queue(struct catch_up *catch_up, const struct raft_message *message);

#endif
