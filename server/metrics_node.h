/*
 * metrics_node.h - every Prometheus series of a node, with etcd's names where etcd has them.
 *
 * Owner     Registered once, by the raft core, after all roles started; rendered by any connection
 *           core.
 * Source    docs/operations/metrics.md lists what is registered, and which of etcd's names are.
 */
#ifndef SERVER_METRICS_NODE_H
#define SERVER_METRICS_NODE_H

struct node;

int metrics_node_register(struct node *node);

#endif
