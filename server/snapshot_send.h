/*
 * snapshot_send.h - the tables of this member on their way to one that lags too far for the log.
 *
 * Story     Consensus asks for a snapshot; a fiber makes a checkpoint (hard links), offers its
 *           files and streams them in chunks, each with its checksum, on the lane of its own. An
 *           offer is repeated whenever nothing moves; the answer says where to go on, so neither a
 *           broken connection nor a restart of the receiver begins it anew. It is over when the
 *           receiver, restarted on the files, says that it has everything up to their index.
 *           Consensus is told the outcome exactly once.
 * Owner     The raft core.
 * Limits    One receiver at a time; SNAPSHOT_WINDOW_BYTES on their way, SNAPSHOT_BYTES_PER_S. A
 *           receiver without progress for SNAPSHOT_SILENCE_NS is given up; the next try, after any
 *           failure, waits for SNAPSHOT_RETRY_NS.
 * Source    docs/formats/peer-frame.md; docs/internals/raft.md, "Snapshots".
 */
#ifndef SERVER_SNAPSHOT_SEND_H
#define SERVER_SNAPSHOT_SEND_H

#include "core/core.h"
#include "net/peer.h"

#define SNAPSHOT_WINDOW_BYTES ((uint64_t)1024 * 1024)
#define SNAPSHOT_BYTES_PER_S  ((uint64_t)64 * 1024 * 1024)
#define SNAPSHOT_SILENCE_NS   (30 * NS_PER_S)
#define SNAPSHOT_RETRY_NS     (2 * NS_PER_S)

struct snapshot_send;

/* What a sender needs of its node. */
struct snapshot_send_calls {
    /* Fiber. lsm_checkpoint(); `dir` does not exist. */
    int (*checkpoint)(void *context, const char *dir, uint64_t *index, uint64_t *term);
    /* Do we still lead, and is it still a member? */
    bool (*is_wanted)(void *context, uint64_t to);
    bool (*is_connected)(void *context, uint64_t to);
    /* False: not now. */
    bool (*send)(void *context, const struct peer_frame_out *frame, const uint8_t *meta,
                 const uint8_t *payload);
    void (*ended)(void *context, uint64_t to, bool ok);
};

/* `data_dir` and `calls` are borrowed. */
must_check struct snapshot_send *snapshot_send_create(struct core *core, const char *data_dir,
                                                      const struct snapshot_send_calls *calls,
                                                      void *context);
void snapshot_send_destroy(struct snapshot_send *send); /* fiber: ends what is under way */

bool snapshot_send_is_idle(const struct snapshot_send *send);

/* The log after this entry will be wanted by the receiver; 0: nothing is under way. */
uint64_t snapshot_send_index(const struct snapshot_send *send, uint64_t to);

/* Consensus wants `to` to have a snapshot. Idle. Does not call consensus. */
void snapshot_send_start(struct snapshot_send *send, uint64_t to);
void snapshot_send_turn(struct snapshot_send *send); /* end of a round */

/* A frame of kind PEER_MESSAGE_SNAPSHOT_STATUS. */
must_check int snapshot_send_status(struct snapshot_send *send, const struct peer_input *input);

#endif
