/*
 * network.h - faults of the simulated network that a test may order.
 *
 * Story     Connections are byte streams: what is blocked waits and arrives later, in order, as TCP
 *           would have it. Resets come from crashes and from closed ends.
 */
#ifndef TESTS_SIM_NETWORK_H
#define TESTS_SIM_NETWORK_H

#include "tests/sim/world.h"

/* Nothing sent from node `from` to node `to` arrives before `until_ns`; 0 ends the block for what
 * is sent from now on. */
void sim_network_block(struct sim_world *world, uint32_t from, uint32_t to, uint64_t until_ns);

/* What is sent from node `from` to node `to` from now on takes `by_ns` longer; connecting does not,
 * as when a process is slow to accept what its kernel took. */
void sim_network_slow(struct sim_world *world, uint32_t from, uint32_t to, uint64_t by_ns);

/* Who answers when a name is looked up aside: 0 and the address, -EINPROGRESS, or an error. Each
 * asking is a new one. */
void sim_network_names(struct sim_world *world,
                       int (*names)(void *context, const char *host, uint8_t ip[4]), void *context);

#endif
