/*
 * repair.h - log entries whose bytes this member lost come back from the others.
 *
 * Story     What recovery found damaged (storage/log/wal.h) keeps its place, index and term.
 *           Meanwhile consensus does not campaign, acknowledges only what lies below and applies
 *           nothing from there on (raft_set_faulty()); entries that the tables contain already hold
 *           up nothing and are repaired all the same, for members that lag. The others are asked in
 *           turn; each answers with entries of the same index and term whose checksums are good,
 *           or says why not. The copies are written to the log, then consensus goes on. A leader
 *           that no longer has the entries sends its tables. A leader with another history there
 *           replaces them as it replaces any entry.
 *
 *           Without a leader an entry may be one that nobody has any more, such as the last block
 *           before a power failure. When so many members, in one burnt term (raft_burn_term()), say
 *           that they have no good copy that too few can ever have had one, it was never committed,
 *           and the log ends before it. Who does not answer counts as having one, and gets ten
 *           election timeouts to say so. Else the entry waits.
 *           One case is decided against the letter: copies that may be torn as well as rotten
 *           count as torn.
 * Owner     The raft core.
 * Errors    None: what is not repaired is asked for again.
 * Limits    One question under way; an answer carries about REPAIR_BYTES.
 * Source    docs/internals/raft.md, docs/formats/peer-frame.md, docs/decisions/torn-or-rotten.md.
 */
#ifndef SERVER_REPAIR_H
#define SERVER_REPAIR_H

#include "net/peer_reader.h"

struct core;
struct node;
struct repair;

#define REPAIR_BYTES ((uint64_t)512 * 1024)

struct repair_stats {
    uint64_t faulty;   /* entries damaged now */
    uint64_t repaired; /* entries written again */
    uint64_t dropped;  /* entries that nobody had */
    uint64_t served;   /* entries given to others */
    uint64_t tables;   /* transfers of our tables begun, to a member that asks for older ones */
};

/* Fiber, after the log opened and before consensus starts. NULL: out of memory. */
must_check struct repair *repair_create(struct node *node, struct core *core);
void repair_start(struct repair *repair); /* consensus runs, nothing was taken from it yet */
void repair_stop(struct repair *repair);  /* fiber: waits for reads and writes in progress */
void repair_destroy(struct repair *repair);

/* Entry `index` could not be read back for another member: it counts as damaged, if it is applied
 * here and so cannot be one that is just being replaced. */
void repair_found(struct repair *repair, uint64_t index);

/* Frames of kind PEER_MESSAGE_REPAIR_REQUEST and _ANSWER. Negative: no correct member sends it. */
must_check int repair_requested(struct repair *repair, const struct peer_input *input);
must_check int repair_answered(struct repair *repair, const struct peer_input *input);

const struct repair_stats *repair_stats(const struct repair *repair);

#endif
