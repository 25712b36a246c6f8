/*
 * snapshot_receive.h - the tables of another member, coming in, until this one restarts on them.
 *
 * Story     Files are written to snap/incoming/lsm under a temporary name, synced and renamed one
 *           by one. When all are there, every block of them is verified, a marker names the
 *           snapshot, and the process starts again: server/snapshot_install.h takes it from there.
 *           Who has what the snapshot holds says so at once and receives nothing.
 * Invariants
 *   T1  chunks are taken in order of position, each byte once: only the one at `expected` is taken.
 *       One before it came twice; one after it follows a lost one, and the next offer is answered
 *       with where to go on.
 *   T2  written <= writing <= expected; what is queued is exactly [writing, expected).
 *   T3  nothing of an earlier transfer is queued or written when another begins.
 *   T4  snap/incoming/OFFER names the transfer that the files beside it belong to. Complete files
 *       of the same offer are not asked for again, also after a restart of the process.
 * Owner     The raft core.
 * Durable   The marker is written last, when everything beside it is.
 * Errors    What cannot be written or verified ends the transfer and is removed; the sender is told
 *           and offers again later. A bad checksum closes the connection that brought it.
 * Limits    4 MiB wait to be written. Refused when the disk would have less than
 *           SNAPSHOT_SPACE_SPARE left.
 */
#ifndef SERVER_SNAPSHOT_RECEIVE_H
#define SERVER_SNAPSHOT_RECEIVE_H

#include "core/core.h"
#include "net/peer.h"
#include "server/snapshot_install.h"

#define SNAPSHOT_SPACE_SPARE ((uint64_t)64 * 1024 * 1024)

struct snapshot_receive;

/* What a receiver needs of its node. */
struct snapshot_receive_calls {
    /* May this member's tables replace ours? Only a leader's may. */
    bool (*is_leader)(void *context, uint64_t id);
    /* snapshot_is_news() of our log as it is now. */
    bool (*is_news)(void *context, const struct snapshot_position *position);
    void (*send)(void *context, const struct peer_frame_out *frame, const uint8_t *meta);
    /* The marker is there: start again. Once. */
    void (*received)(void *context);
};

/* `data_dir` and `calls` are borrowed. */
must_check struct snapshot_receive *
snapshot_receive_create(struct core *core, const char *data_dir,
                        const struct snapshot_receive_calls *calls, void *context);
void snapshot_receive_destroy(struct snapshot_receive *receive); /* fiber */

/* Frames of kind PEER_MESSAGE_SNAPSHOT_OFFER and PEER_MESSAGE_SNAPSHOT_CHUNK. */
must_check int snapshot_receive_offer(struct snapshot_receive *receive,
                                      const struct peer_input *input);
must_check int snapshot_receive_chunk(struct snapshot_receive *receive,
                                      const struct peer_input *input);

#endif
