/*
 * cluster_internal.h - what the files of the group share; private to tools/raft-repl.
 *
 * Story     cluster.c owns the network, cluster_node.c a node with its disk and lanes,
 *           cluster_check.c what must hold, cluster_print.c text.
 * Owner     struct cluster.
 * Threads   One.
 * Errors    Out of memory stops the process.
 */
#ifndef RAFT_REPL_CLUSTER_INTERNAL_H
#define RAFT_REPL_CLUSTER_INTERNAL_H

#include "core/invariant.h"
#include "tools/raft-repl/cluster.h"

void *cluster_zeroed(size_t count, size_t size);

void message_list_push(struct message_list *list, struct cluster_message *message);
void message_list_free(struct message_list *list);

/* Forgets the work of both lanes. */
void node_lanes_clear(struct node *node);

void cluster_trace_message(struct cluster *cluster, const char *what,
                           const struct cluster_message *message);

/* Of type and payload; never 0. */
uint64_t cluster_entry_hash(const struct entry *entry);

#endif
