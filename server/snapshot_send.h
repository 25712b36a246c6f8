/*
 * snapshot_send.h - the tables of this member on their way to one that lags too far for the log.
 *
 * Story     Consensus asks for a snapshot; a fiber makes a checkpoint (hard links), offers its
 *           files and streams them in chunks, each with its checksum, on the lane of its own. The
 *           receiver says how far it is, so a broken connection goes on where it stopped. Consensus
 *           is told the outcome exactly once.
 * Owner     The raft core.
 * Limits    One receiver at a time; SNAPSHOT_WINDOW_BYTES unacknowledged, SNAPSHOT_BYTES_PER_S.
 * Source    facts on Raft 1.13; docs/formats/peer-frame.md.
 */
#ifndef SERVER_SNAPSHOT_SEND_H
#define SERVER_SNAPSHOT_SEND_H

#include "core/core.h"
#include "net/peer_reader.h"

#define SNAPSHOT_CHUNK_BYTES  ((uint32_t)64 * 1024)
#define SNAPSHOT_WINDOW_BYTES ((uint64_t)1024 * 1024)
#define SNAPSHOT_BYTES_PER_S  ((uint64_t)64 * 1024 * 1024)

struct node;
struct snapshot_send;

must_check struct snapshot_send *snapshot_send_create(struct node *node, struct core *core);
void snapshot_send_destroy(struct snapshot_send *send); /* fiber: ends what is under way */

bool snapshot_send_is_idle(const struct snapshot_send *send);

/* Consensus wants `to` to have a snapshot. Idle. Does not call consensus. */
void snapshot_send_start(struct snapshot_send *send, uint64_t to);
void snapshot_send_turn(struct snapshot_send *send); /* end of a round */

/* A frame of kind PEER_MESSAGE_SNAPSHOT_STATUS. */
must_check int snapshot_send_status(struct snapshot_send *send, const struct peer_input *input);

#endif
