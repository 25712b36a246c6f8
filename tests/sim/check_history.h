/*
 * check_history.h - exact linearizability by revisions: what clients called, what they were
 * answered, and the one order in which writes happened.
 *
 * Story     The simulator knows the order: the canonical log. Every write that happened has a
 *           revision, given in that order; a read answers with the revision it saw. Call order is
 *           real time. Then three rules suffice (no search): at its return a write has a revision
 *           above, a read one not below, the highest that any operation returned before it was
 *           called; a write's revision is its own; what a read saw is what the writes up to its
 *           revision left. Sorted by revision, reads after the write of theirs, this is a legal
 *           order that respects real time.
 * Checks    Also: nothing happens before it is called or after it was refused, a write happens at
 *           most once, no revision lacks an author, an answered write happened before its answer.
 * Owner     The world. Verdicts go to `verdict`.
 * Limits    Keys 0 .. CHECK_KEYS_MAX - 1; a key's value is the number of the operation that wrote
 *           it, 0 = absent.
 */
#ifndef TESTS_SIM_CHECK_HISTORY_H
#define TESTS_SIM_CHECK_HISTORY_H

#include "tests/sim/verdict.h"

#define CHECK_KEYS_MAX 64

enum check_operation_state { CHECK_CALLED, CHECK_RETURNED, CHECK_REFUSED, CHECK_UNKNOWN };

struct check_operation {
    enum check_operation_state state;
    bool write;
    uint32_t key;
    uint64_t floor;     /* highest revision returned by anybody when it was called */
    uint64_t called_at; /* highest revision that had happened when it was called */
    uint64_t revision;  /* at which it happened; 0 = not yet */
};

struct check_write {
    uint64_t revision, operation;
};

struct check_key {
    struct check_write *writes;
    uint32_t count, capacity;
};

struct check_history {
    struct verdict *verdict;
    struct check_operation *operations; /* number n at n - 1 */
    uint64_t operation_count, operation_capacity;
    struct check_key keys[CHECK_KEYS_MAX];
    uint64_t revision; /* newest that happened */
    uint64_t floor;    /* highest that any operation returned */
    uint64_t returned, refused, unknown;
};

void check_history_init(struct check_history *history, struct verdict *verdict, uint64_t revision);
void check_history_deinit(struct check_history *history);

/* The number of the new operation, from 1. */
uint64_t check_history_call(struct check_history *history, bool write, uint32_t key);
/* The write happened, as the next revision. 0: somebody without a call (genesis). */
void check_history_happen(struct check_history *history, uint64_t operation, uint64_t revision);
/* Answered. `value`: of a read, the operation whose write it saw. */
void check_history_return(struct check_history *history, uint64_t operation, uint64_t revision,
                          uint64_t value);
/* The same by the rules of real time alone, for what somebody else judges the values of: `changed`,
 * the revision is its own. */
void check_history_answer(struct check_history *history, uint64_t operation, uint64_t revision,
                          bool changed);
void check_history_refuse(struct check_history *history, uint64_t operation); /* surely not */
void check_history_lose(struct check_history *history, uint64_t operation);   /* who knows */

#endif
