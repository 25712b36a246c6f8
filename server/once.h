/*
 * once.h - which requests were executed: what keeps one that was sent twice from happening twice.
 *
 * Story     A member that lost touch with its leader sends its unfinished requests again, in their
 *           order, to the next one; the first copy may have been committed after all. For each
 *           (origin, stream) the state machine keeps the highest sequence that it executed, and
 *           skips a request that is not higher. So a request that was overtaken is dead for good,
 *           and its origin may say so.
 * Owner     The apply loop.
 * Durable   In the meta table, once a batch for each stream that the batch had requests of.
 * Limits    ONCE_STREAMS_MAX streams; members times cores are fewer. A removed member's are
 *           dropped, and whoever is no member is never admitted (server/apply.c).
 */
#ifndef SERVER_ONCE_H
#define SERVER_ONCE_H

#include "server/config.h"
#include "storage/log/request.h"

#define ONCE_STREAMS_MAX 1024

struct mvcc;

struct once_stream {
    uint64_t origin, sequence;
    uint16_t stream;
    bool dirty;
};

struct once {
    struct once_stream streams[ONCE_STREAMS_MAX];
    uint32_t count;
    uint32_t last; /* found last: requests come in runs */
    bool dirty;
};

/* Fiber. */
must_check int once_load(struct once *once, struct mvcc *mvcc);

/* False: it was executed, or overtaken, by now. */
bool once_is_new(const struct once *once, const struct request *request);

/* True: execute it. False: it was executed, or overtaken. */
must_check bool once_admit(struct once *once, const struct request *request);

/* At the end of a batch, before its commit. */
must_check int once_store(struct once *once, struct mvcc *mvcc);

/* The member is gone for good. */
must_check int once_forget(struct once *once, struct mvcc *mvcc, uint64_t origin);

#endif
