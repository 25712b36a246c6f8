/*
 * peer.h - the connections of one member to all others: dialling, greeting, lanes, refusals.
 *
 * Story     Each member dials each other member once for every lane and sends on what it dialled;
 *           what it accepted it only reads. Lanes keep heartbeats and votes from waiting behind
 *           bulk appends, and those behind snapshots. The first frame is a greeting that names
 *           cluster, member and incarnation; the other end welcomes it or says why not, and the
 *           reason travels. Pings find connections that died without a word. Frames to a member
 *           that is not connected are dropped: Raft sends again. A name is looked up beside
 *           the core; meanwhile, and when that fails, its last good address is dialled.
 * Owner     The raft core.
 * Threads   Owner only. Callbacks run in the receive path and may send, add and remove.
 * Errors    A frame of another cluster, for or from another member, of another incarnation, damaged
 *           or too large closes its connection and is counted.
 * Limits    PEERS_MAX members; bytes queued for a lane are bounded, what does not fit is dropped.
 *           PEER_LINKS_IN_MAX accepted connections: past them the oldest that did not greet yet
 *           goes, or the new one when all have.
 * Source    docs/formats/peer-frame.md, docs/internals/raft.md, docs/internals/reactor.md.
 */
#ifndef NET_PEER_H
#define NET_PEER_H

#include "core/core.h"
#include "net/peer_reader.h"

#define PEERS_MAX              32
#define PEER_LINKS_IN_MAX      128 /* each lane of every member, and 32 more */
#define PEER_LINKS_CLOSING_MAX 32  /* that leave for new ones, and have not closed yet */
#define PEER_ADDRESSES_MAX     8
#define PEER_HOST_BYTES        200
#define PEER_HELLO_BYTES_MAX   4096

enum peer_lane {
    PEER_LANE_CONTROL = 0,  /* heartbeats, votes, acknowledgements, read indexes */
    PEER_LANE_BULK = 1,     /* log entries, forwarded requests */
    PEER_LANE_SNAPSHOT = 2, /* snapshot chunks */
    PEER_LANE_COUNT
};

struct peer_address {
    char host[PEER_HOST_BYTES];
    uint16_t port;
};

/* What a greeting tells: `detail` is the sender's own (its addresses, say), borrowed. */
struct peer_greeting {
    uint64_t id;
    uint64_t incarnation;
    struct bytes detail;
};

struct peer_events {
    void *context;
    /* A frame of a user kind from a greeted member. Negative: close its connection. */
    int (*received)(void *context, const struct peer_input *input);
    /* May this member connect? 0, or the error that it is told. */
    int (*admit)(void *context, const struct peer_greeting *greeting);
    /* That member does not take us. */
    void (*refused)(void *context, uint64_t id, int error);
    void (*connected)(void *context, uint64_t id, enum peer_lane lane);
    /* A connection that was up ended: one we dialled, or (inbound) one that it dialled. */
    void (*lost)(void *context, uint64_t id, enum peer_lane lane, bool inbound);
    /* A question of a process that is no member yet. Returns the answer's size, at most
     * PEER_META_BYTES_MAX, written to `answer`; negative: close without one. May be NULL. */
    int (*question)(void *context, struct bytes question, uint8_t *answer);
};

struct peer_options {
    uint64_t cluster, self;
    uint64_t incarnation; /* greater than at any earlier start */
    struct bytes detail;  /* borrowed for the set's life */
    uint64_t silence_ns;  /* a connection without an answer for this long is closed */
    struct peer_events events;
};

struct peer_stats {
    uint64_t bytes_sent, bytes_received, frames_sent, frames_received;
    uint64_t dropped_disconnected, dropped_full;
    uint64_t dials, dials_failed, connections_lost;
    uint64_t links_refused;      /* closed for PEER_LINKS_IN_MAX */
    uint64_t frames_malformed;   /* magic, checksum, length, version */
    uint64_t frames_misdirected; /* another cluster, receiver or sender */
    uint64_t frames_stale;       /* an earlier incarnation */
    uint64_t greetings_refused;
};

struct peers;

must_check int peers_create(struct core *core, const struct peer_options *options,
                            struct peers **peers);
void peers_stop(struct peers *peers);    /* fiber: closes everything, waits until it is closed */
void peers_destroy(struct peers *peers); /* stopped */

/* Starts dialling; a known id gets the new addresses. They are for the next dial: members are told
 * of a move before it happens, and the connections that stand are kept. ERR_FULL. */
must_check int peers_add(struct peers *peers, uint64_t id, const struct peer_address *addresses,
                         uint32_t address_count);
void peers_remove(struct peers *peers, uint64_t id);

/* A connection that a listener accepted. */
void peers_accept(struct peers *peers, int32_t fd);

bool peers_connected(const struct peers *peers, uint64_t id, enum peer_lane lane);

/* The member with the lowest id > `after` that our connection of this lane to stands; 0: none. */
uint64_t peers_next_connected(const struct peers *peers, uint64_t after, enum peer_lane lane);

/* Does any connection from or to it stand, of any lane? */
bool peers_any_connection(const struct peers *peers, uint64_t id);

/* Since when our control connection to it stands; 0: it does not. */
uint64_t peers_connected_since_ns(const struct peers *peers, uint64_t id);

/* When the last frame or pong on any connection from or to it came in; 0: never. */
uint64_t peers_heard_ns(const struct peers *peers, uint64_t id);
uint64_t peers_queued_bytes(const struct peers *peers, uint64_t id, enum peer_lane lane);

/* Room for meta with the payload behind it, or NULL: dropped (not connected, or too much queued).
 * peers_send_end() must follow at once. */
struct peer_frame_out {
    uint16_t kind;
    enum peer_lane lane;
    uint64_t to;
    uint32_t meta_bytes, payload_bytes;
};
must_check uint8_t *peers_send_begin(struct peers *peers, const struct peer_frame_out *frame);
void peers_send_end(struct peers *peers, const struct peer_frame_out *frame);

/* Sends what was queued: call at the end of each round of a turn. */
void peers_flush(struct peers *peers);

const struct peer_stats *peers_stats(const struct peers *peers);

#endif
