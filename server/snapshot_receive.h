/*
 * snapshot_receive.h - the tables of another member, coming in, until this one restarts on them.
 *
 * Story     Files are written to snap/incoming; when all are there and synced, a marker names the
 *           snapshot, and the process starts again: server/snapshot_install.h takes it from there.
 *           Who has what the snapshot holds says so at once and receives nothing.
 * Owner     The raft core.
 * Durable   The marker is written last.
 * Errors    A chunk that does not fit or whose checksum is wrong ends the transfer; the leader
 *           offers again.
 */
#ifndef SERVER_SNAPSHOT_RECEIVE_H
#define SERVER_SNAPSHOT_RECEIVE_H

#include "core/core.h"
#include "net/peer_reader.h"

struct node;
struct snapshot_receive;

must_check struct snapshot_receive *snapshot_receive_create(struct node *node, struct core *core);
void snapshot_receive_destroy(struct snapshot_receive *receive); /* fiber */

/* Frames of kind PEER_MESSAGE_SNAPSHOT_OFFER and PEER_MESSAGE_SNAPSHOT_CHUNK. */
must_check int snapshot_receive_offer(struct snapshot_receive *receive,
                                      const struct peer_input *input);
must_check int snapshot_receive_chunk(struct snapshot_receive *receive,
                                      const struct peer_input *input);

#endif
