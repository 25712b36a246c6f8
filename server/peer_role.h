/*
 * peer_role.h - the raft core's connections to the other members: Raft's messages out and in.
 *
 * Story     What consensus sends goes out at the end of the turn: at once, or, held here, when the
 *           append it waits for is durable. Entries are sent from consensus' window; older ones are
 *           read from the log beside the hot path (server/catch_up.h). What comes in is decoded,
 *           checked and stepped; its payloads stay in the frame that brought them
 *           (server/received.h).
 * Owner     The raft core.
 * Durable   See consensus/raft.h: a message that waits for an append leaves after it, in order.
 * Errors    A frame that no correct member sends closes its connection. A leader that counts on
 *           entries which this member lost stops the process.
 */
#ifndef SERVER_PEER_ROLE_H
#define SERVER_PEER_ROLE_H

#include "consensus/raft.h"
#include "core/core.h"
#include "net/peer.h"
#include "server/admission.h"
#include "server/failover.h"
#include "server/received.h"

struct catch_up;
struct forward;
struct node;
struct peer_listener;
struct snapshot_receive;
struct snapshot_send;

struct peer_role {
    struct node *node;
    struct core *core;
    struct peers *peers;
    struct received received;
    struct catch_up *catch_up;
    struct forward *forward;
    struct failover failover;
    struct snapshot_send *snapshot_send;
    struct snapshot_receive *snapshot_receive;
    struct peer_listener *listeners; /* list */
    uint32_t listeners_open;
    struct fiber_event *listeners_closed;
    struct admission admission;
    char greeting[GREETING_BYTES_MAX]; /* our own */
    uint64_t membership_version;       /* that the transport knows */
    uint64_t start_commit; /* committed when this process began: until it is applied, who has
                            * started before is not known */

    /* Messages that wait for an append: ring [held_first, held_first + held_count). */
    struct raft_message *held;
    uint32_t held_first, held_count, held_max;

    /* Of the message being handled or sent. */
    struct entry *entries;
    const struct entry **entry_pointers;

    /* Of messages that came in. */
    struct {
        uint64_t stepped;
        uint64_t dropped_full;   /* no room for it, or no memory */
        uint64_t malformed;      /* no correct member sends it */
        uint64_t unknown_member; /* Raft's, of somebody who is no member */
    } counters;
};

must_check int peer_role_start(struct node *node, struct core *core);

/* Fiber, once consensus runs: listens, dials. */
must_check int peer_role_open(struct peer_role *role);
void peer_role_stop(struct peer_role *role);    /* fiber */
void peer_role_destroy(struct peer_role *role); /* stopped, its core gone; NULL: no-op */

/* What one raft_ready() gave. Consensus may be asked for entries meanwhile, not be called. */
void peer_role_send(struct peer_role *role, const struct raft_message *messages, uint32_t count);

/* Every append up to `sequence` is durable. */
void peer_role_durable(struct peer_role *role, uint64_t sequence);

/* End of a round of a turn. */
void peer_role_flush(struct peer_role *role);

/* Sends one message whose entries are in `entries` (pointers; NULL when it has none). False when it
 * was dropped. */
bool peer_role_send_entries(struct peer_role *role, const struct raft_message *message,
                            const struct entry *const *entries);

#endif
