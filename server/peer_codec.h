/*
 * peer_codec.h - Raft's messages and forwarded requests as the meta part of peer frames.
 *
 * Story     docs/formats/peer-frame.md gives the bytes. Payloads of log entries stand behind meta,
 *           one after the other, exactly as they stand in the log; meta carries the checksum that
 *           each was born with.
 * Owner     Nobody: no state. What is decoded points into the frame.
 * Errors    ERR_MALFORMED, ERR_CORRUPT (a payload's checksum).
 * Limits    PEER_ENTRIES_MAX entries in a frame.
 */
#ifndef SERVER_PEER_CODEC_H
#define SERVER_PEER_CODEC_H

#include "consensus/message.h"
#include "net/peer.h"

#define PEER_ENTRIES_MAX ((uint32_t)16384)

enum peer_message_kind {
    PEER_MESSAGE_RAFT = PEER_KIND_USER,
    PEER_MESSAGE_FORWARD, /* requests for the leader to propose */
    PEER_MESSAGE_REFUSE,  /* the leader will not propose one of them */
    /* server/snapshot_files.h */
    PEER_MESSAGE_SNAPSHOT_OFFER,
    PEER_MESSAGE_SNAPSHOT_CHUNK,
    PEER_MESSAGE_SNAPSHOT_STATUS,
};

/* Bytes of meta for a message with its entries; any kind but SNAPSHOT. */
uint32_t peer_codec_message_bytes(const struct raft_message *message);
/* `entries`: message->entry_count of them, for an APPEND. Returns behind meta, for the payloads. */
uint8_t *peer_codec_encode_message(uint8_t *meta, const struct raft_message *message,
                                   const struct entry *const *entries);

/* `entries` has room for PEER_ENTRIES_MAX. */
must_check int peer_codec_decode_message(const struct peer_input *input,
                                         struct raft_message *message, struct entry *entries);

/* Requests to forward: type, size and checksum of each. */
uint32_t peer_codec_forward_bytes(uint32_t count);
uint8_t *peer_codec_encode_forward(uint8_t *meta, const struct entry *entries, uint32_t count);
must_check int peer_codec_decode_forward(const struct peer_input *input, struct entry *entries,
                                         uint32_t *count);

/* A request of the receiver that surely is not in the log. */
#define PEER_REFUSE_BYTES 16
struct peer_refuse {
    uint16_t stream;
    int32_t error;
    uint64_t sequence;
};
void peer_codec_encode_refuse(uint8_t meta[PEER_REFUSE_BYTES], const struct peer_refuse *refuse);
must_check int peer_codec_decode_refuse(const struct peer_input *input, struct peer_refuse *refuse);

#endif
