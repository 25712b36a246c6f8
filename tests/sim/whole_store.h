/*
 * whole_store.h - what the log says, executed once by the model of check_store.h, and what clients
 * are answered, compared with it.
 *
 * Owner     struct whole.
 * Threads   One. In the world's memory.
 */
#ifndef TESTS_SIM_WHOLE_STORE_H
#define TESTS_SIM_WHOLE_STORE_H

#include "core/entry.h"
#include "proto/rpc.pb-c.h"
#include "tests/sim/check_history.h"
#include "tests/sim/check_store.h"

#define WHOLE_STREAMS_MAX 256
#define WHOLE_ALARMS_MAX  64

struct whole;

/* The newest request of each sender that was executed: later copies of it are not. */
struct whole_stream {
    uint64_t origin, sequence;
    uint16_t stream;
};

struct whole_store {
    struct check_store model;
    struct check_history history;
    uint64_t index;      /* the model executed the log up to here */
    uint64_t *revisions; /* [index]: of the model, when it had executed that */
    uint64_t revision_capacity;
    struct whole_stream streams[WHOLE_STREAMS_MAX];
    uint32_t stream_count;
    uint64_t alarms[WHOLE_ALARMS_MAX]; /* members that want for space */
    uint32_t alarm_count;
    struct arena scratch;
};

void whole_store_init(struct whole *whole);
void whole_store_deinit(struct whole *whole);

/* A node is about to execute this entry. */
void whole_store_execute(struct whole *whole, const struct entry *entry);

/* The revision that a state machine must have which executed the log up to `index`. */
uint64_t whole_store_revision(const struct whole *whole, uint64_t index);

/* The number of a new operation. */
uint64_t whole_store_call(struct whole *whole, bool write);
/* A write is answered with these. */
void whole_store_answer(struct whole *whole, uint64_t operation,
                        const struct check_outcome *outcome);
/* A read of keys from..to at `asked` (0: now) is answered. `stale`: it may be of the past. */
void whole_store_read(struct whole *whole, uint64_t operation, uint64_t asked, uint32_t from,
                      uint32_t to, const Etcdserverpb__RangeResponse *response, bool stale);
/* No answer: it did not happen, or nobody knows. */
void whole_store_no_answer(struct whole *whole, uint64_t operation, bool maybe);

/* Adds to an outcome what a response says. */
void whole_store_add_kv(struct check_outcome *outcome, const Mvccpb__KeyValue *kv);

#endif
