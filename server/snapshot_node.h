/*
 * snapshot_node.h - sender and receiver of snapshots as parts of a node: what they need of its
 * consensus, tables, members and connections.
 *
 * Owner     The raft core.
 */
#ifndef SERVER_SNAPSHOT_NODE_H
#define SERVER_SNAPSHOT_NODE_H

#include "server/snapshot_receive.h"
#include "server/snapshot_send.h"

struct node;

must_check struct snapshot_send *snapshot_node_sender(struct node *node, struct core *core);
must_check struct snapshot_receive *snapshot_node_receiver(struct node *node, struct core *core);

#endif
