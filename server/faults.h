/*
 * faults.h - which log entries this member lost the bytes of, and what the others say about them.
 *
 * Story     Recovery keeps index and term of a damaged block (storage/log/wal.h). Each run here is
 *           such entries of one term. About the lowest one the others are asked, one by one; what
 *           they answer decides: bytes from one of them repair it; a leader that no longer has it
 *           sends its tables; and when too few can ever have held it, it was never committed
 *           (faults_dispensable()).
 * Invariants
 *   F1  runs are sorted, do not overlap, and are not empty.
 *   F2  answers are about the first entry of the first run; another question clears them.
 * Owner     The raft core. No I/O, no clock.
 * Source    FAST'18 Alagappan et al.; docs/internals/raft.md.
 */
#ifndef SERVER_FAULTS_H
#define SERVER_FAULTS_H

#include "consensus/config.h"

struct fault {
    uint64_t first, last;
    uint64_t term;
    bool proven; /* this member's copy certainly was durable once, so it may have been counted */
};

/* What a member says of an entry that it was asked for. On the wire: docs/formats/peer-frame.md. */
enum fault_answer {
    FAULT_ANSWER_ENTRIES = 0,   /* here it is, with some that follow */
    FAULT_ANSWER_NEVER = 1,     /* another entry, or none, stands there */
    FAULT_ANSWER_COMPACTED = 2, /* it is in this member's tables, no longer in its log */
    FAULT_ANSWER_LOST = 3,      /* this member had it, and lost the bytes too */
    FAULT_ANSWER_UNSURE = 4,    /* damaged here too, and maybe never written whole */
    FAULT_ANSWER_LATER = 5,     /* cannot tell now */
    FAULT_ANSWER_COUNT
};

struct faults {
    struct fault *runs;
    uint32_t count, count_max;
    struct {
        uint64_t member;
        enum fault_answer answer;
    } answers[RAFT_MEMBERS_MAX];
    uint32_t answer_count;
};

void faults_init(struct faults *faults);
void faults_deinit(struct faults *faults);

/* Entries already known to be faulty are left as they are. */
void faults_add(struct faults *faults, const struct fault *fault);

/* Entries first..last are none any more: repaired, released, or overridden. */
void faults_remove(struct faults *faults, uint64_t first, uint64_t last);

uint64_t faults_entry_count(const struct faults *faults);

/* The run that holds `index`, or NULL. */
const struct fault *faults_find(const struct faults *faults, uint64_t index);

/* The lowest faulty index > `index`; 0: none. */
uint64_t faults_first_after(const struct faults *faults, uint64_t index);

void faults_forget_answers(struct faults *faults);
void faults_answered(struct faults *faults, uint64_t member, enum fault_answer answer);

/* Did this member answer since faults_forget_answers()? */
bool faults_has_answer(const struct faults *faults, uint64_t member);

/* Did every other member of `config` answer, and none of them that it cannot tell now? */
bool faults_all_told(const struct faults *faults, const struct raft_config *config, uint64_t self);

/* Those that may have held the first faulty entry are less than half, this member and who told
 * nothing included: it was not committed, by these members or those of one change before, if all
 * answers hold at one moment (raft_burn_term()). */
bool faults_dispensable(const struct faults *faults, const struct raft_config *config,
                        uint64_t self);

#endif
