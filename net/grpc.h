/*
 * grpc.h - the parts of the gRPC protocol that are not HTTP/2: message prefix, grpc-timeout,
 * grpc-message escaping, gzip.
 *
 * Threads   Any: pure functions.
 * Units     Bytes; timeouts in ns.
 * Errors    Negative, core/err.h. Inflation is bounded: a small message that grows past the limit
 *           is refused before more than the limit was produced.
 * Source    gRPC over HTTP/2 protocol description; docs/protocol.md.
 */
#ifndef NET_GRPC_H
#define NET_GRPC_H

#include "core/base.h"

#define GRPC_PREFIX_BYTES 5

/* 1-byte compressed flag, 4-byte big-endian length. */
static inline uint32_t grpc_prefix_length(const uint8_t *prefix)
{
    return be32_load(prefix + 1);
}

static inline void grpc_prefix_store(uint8_t *prefix, uint32_t message_bytes)
{
    prefix[0] = 0;
    be32_store(prefix + 1, message_bytes);
}

/* "100m" and the like: at most 8 digits and one of H M S m u n. ERR_MALFORMED. Saturates. */
must_check int grpc_parse_timeout(struct bytes text, uint64_t *timeout_ns);

/* Percent-encodes what is not printable ASCII, and %. Returns the length written, at most
 * `to_bytes`; a text that does not fit is cut between escapes. */
size_t grpc_escape_message(const char *text, char *to, size_t to_bytes);
size_t grpc_unescape_message(struct bytes text, char *to, size_t to_bytes); /* NUL-terminates */

/* Inflates a gzip (or zlib) stream into malloc'd memory of at most `bytes_max`. ERR_LIMIT when it
 * would be more (with *bytes the amount seen so far), ERR_MALFORMED, or 0. */
must_check int grpc_inflate(struct bytes from, size_t bytes_max, uint8_t **to, size_t *bytes);

#endif
