/*
 * metrics_peer.h - counters of connections to other members, of Raft and of failover, for /metrics.
 *
 * Owner     The slots are the raft core's plain counters; scraping reads them relaxed.
 */
#ifndef SERVER_METRICS_PEER_H
#define SERVER_METRICS_PEER_H

struct node;

/* Once the roles run. */
void metrics_peer_register(struct node *node);

#endif
