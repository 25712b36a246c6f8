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
#include "server/faults.h"

#define PEER_ENTRIES_MAX ((uint32_t)16384)

enum peer_message_kind {
    PEER_MESSAGE_RAFT = PEER_KIND_USER,
    PEER_MESSAGE_FORWARD, /* requests for the leader to propose */
    PEER_MESSAGE_REFUSE,  /* the leader will not propose one of them */
    /* server/snapshot_files.h */
    PEER_MESSAGE_SNAPSHOT_OFFER,
    PEER_MESSAGE_SNAPSHOT_CHUNK,
    PEER_MESSAGE_SNAPSHOT_STATUS,
    PEER_MESSAGE_REPAIR_REQUEST, /* a member lost the bytes of log entries */
    PEER_MESSAGE_REPAIR_ANSWER,
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

/* Entries first..last of `term`, or as many of them from the first on as the answer has room for.
 * `burn`: 0, or a term that the receiver is asked to burn before it answers (raft_burn_term()).
 * `wanted`: the sender cannot go on without them. */
#define PEER_REPAIR_REQUEST_BYTES 40
struct peer_repair_request {
    uint64_t first, last, term, burn;
    bool wanted;
};
void peer_codec_encode_repair_request(uint8_t meta[PEER_REPAIR_REQUEST_BYTES],
                                      const struct peer_repair_request *request);
must_check int peer_codec_decode_repair_request(const struct peer_input *input,
                                                struct peer_repair_request *request);

/* `count` entries from `first` on, all of `term`, when the answer is FAULT_ANSWER_ENTRIES. */
struct peer_repair_answer {
    uint64_t first, term, burn; /* of the request */
    uint64_t own_term;          /* the sender's */
    enum fault_answer answer;
    uint32_t count;
};
uint32_t peer_codec_repair_answer_bytes(uint32_t count);
uint8_t *peer_codec_encode_repair_answer(uint8_t *meta, const struct peer_repair_answer *answer,
                                         const struct entry *const *entries);
/* `entries` has room for PEER_ENTRIES_MAX. */
must_check int peer_codec_decode_repair_answer(const struct peer_input *input,
                                               struct peer_repair_answer *answer,
                                               struct entry *entries);

#endif
