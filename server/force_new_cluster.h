/*
 * force_new_cluster.h - disaster recovery: a member of a cluster that lost its quorum for good
 * starts as the only member, and keeps its data.
 *
 * Story     --force-new-cluster. Everything in this member's log counts as committed: of what was
 *           acknowledged it may have everything or lack some, nobody else is left to tell. Behind
 *           it go ordinary configuration changes that remove the others, one after the other, as
 *           committed too; they are applied like any other before a connection is made or taken.
 *           Others that still run are refused from then on, as removed members are, and stop.
 * Owner     The raft core's start-up fiber.
 * Durable   First the entries, in a term of our own; then the commit index that covers them. A
 *           crash before the first leaves the old member, a crash between them one that waits for a
 *           quorum; the next start with the flag completes either. After the second the flag is
 *           not needed any more.
 * Errors    ERR_CONFIG: this member was removed; ERR_CORRUPT, -errno. node->failure says more.
 * Source    docs/operations/disaster-recovery.md.
 */
#ifndef SERVER_FORCE_NEW_CLUSTER_H
#define SERVER_FORCE_NEW_CLUSTER_H

#include "storage/log/wal.h"

struct node;

/* Fiber, when log and tables are open and consensus is not. Updates `recovered`: consensus starts
 * with it, and must have applied recovered->last_index before it hears of another member. */
must_check int force_new_cluster(struct node *node, struct wal_recovered *recovered);

#endif
