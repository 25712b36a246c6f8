/*
 * read_waits.h - linearizable reads of connection cores, until their index is known and applied.
 *
 * Story     A connection core asks for the reads of one turn together, by a number: its batch. What
 *           no question was put for yet joins the same core's next batch: an answer is good for all
 *           batches up to its own. So without a leader a core has one wait here, however often its
 *           clients ask, and the ring is never full.
 * Invariants
 *   W1  in order: those with an index, those that were asked for, those that were not; ids and
 *       indexes never descend.
 *   W2  of those not asked for there is at most one a core; a core's batches rise along the ring.
 *   W3  at most READ_WAITS_ASKED_MAX were asked for: each core has room for one that was not. Past
 *       that they wait to be asked for until others leave.
 * Owner     The raft core.
 * Limits    READ_WAITS_MAX. No allocation after read_waits_init().
 */
#ifndef SERVER_READ_WAITS_H
#define SERVER_READ_WAITS_H

#include "core/core.h"
#include "server/config.h"

#define READ_WAITS_MAX       4096 /* power of two */
#define READ_WAITS_ASKED_MAX (READ_WAITS_MAX - CONFIG_CORES_MAX)

/* One connection core's batches that share a question. */
struct read_wait {
    uint64_t id;    /* of the first question after they came; 0: not asked yet */
    uint64_t index; /* from the answer to that question or a later one; 0: not known yet */
    uint64_t batch; /* the newest of them: the asking core's number */
    uint64_t deadline_ns;
    uint32_t core;
};

struct read_waits {
    struct read_wait *ring; /* [first, first + count) */
    uint32_t first, count;
    uint32_t unasked; /* the last ones */
    bool again;       /* the newest question may be lost */
};

must_check int read_waits_init(struct read_waits *waits);
void read_waits_deinit(struct read_waits *waits);

void read_waits_add(struct read_waits *waits, uint32_t core, uint64_t batch, uint64_t deadline_ns);

/* Should consensus be asked? Then read_waits_asked(), with an id above all earlier ones: it is the
 * question of every wait that has none and finds room. */
must_check bool read_waits_want_question(const struct read_waits *waits);
void read_waits_asked(struct read_waits *waits, uint64_t id);

/* The newest question may be lost. Its waits keep their ids: they take the answer to the next one
 * all the same. */
void read_waits_ask_again(struct read_waits *waits);

/* `id` was really asked. Its index is good for whatever waited when it was asked for, so for the
 * waits of earlier questions too: those may be lost. */
void read_waits_answered(struct read_waits *waits, uint64_t id, uint64_t index);

/* Takes the oldest wait if everything up to its index is applied. */
must_check bool read_waits_pop(struct read_waits *waits, uint64_t applied, struct read_wait *wait);

/* Takes the oldest wait if its deadline passed. */
must_check bool read_waits_expire(struct read_waits *waits, uint64_t now_ns,
                                  struct read_wait *wait);

#endif
