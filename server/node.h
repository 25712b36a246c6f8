/*
 * node.h - one member: its roles placed on cores, its start and its stop.
 *
 * Story     main.c (or the simulator) makes the cores; node_attach() gives each of them its roles;
 *           a fiber on the raft core then starts the node: identity, log, tables, consensus, and
 *           last the listeners. Stopping runs the same ladder down.
 * Owner     The thread that created it; node_attach() runs on each core's own thread.
 * Threads   node_state(), node_failure() and node_request_stop() from any thread.
 * Errors    A node that cannot start has state NODE_FAILED and one explaining line.
 */
#ifndef SERVER_NODE_H
#define SERVER_NODE_H

#include "core/core.h"
#include "server/config.h"

struct node;

enum node_state { NODE_STARTING, NODE_READY, NODE_STOPPING, NODE_STOPPED, NODE_FAILED };

/* `config` is borrowed for the node's life. `memory_bytes`: what the machine has. */
must_check int node_create(const struct config *config, uint32_t core_count, uint64_t memory_bytes,
                           struct node **node);
void node_destroy(struct node *node); /* stopped or failed, cores gone */

/* At most so many descriptors are for the whole process: it says how they are divided. Before
 * node_attach(); without it connections are bounded as if there were plenty. */
void node_limit_descriptors(struct node *node, uint64_t limit);

/* Before the core's first turn, on its own thread. */
must_check int node_attach(struct node *node, struct core *core);

/* Options for the core's creation: how much memory, how many descriptors, what its role needs.
 * `cpu_count`: that the process may use. */
void node_core_options(const struct node *node, uint32_t core, uint32_t cpu_count,
                       struct core_options *options);

enum node_state node_state(const struct node *node);
const char *node_failure(const struct node *node);
void node_request_stop(struct node *node);

/* Stops; whoever runs the process starts it again, unless node_request_stop() was or is called too:
 * a snapshot waits to be installed. */
void node_request_restart(struct node *node);
bool node_restart_wanted(const struct node *node);

#endif
