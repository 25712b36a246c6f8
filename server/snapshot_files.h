/*
 * snapshot_files.h - what a snapshot consists of, and what its sender and receiver tell each other.
 *
 * Story     All files, in the order of the offer, are one run of bytes; a position is an offset
 *           in it. A transfer has a random number of its own, drawn when its files were fixed: the
 *           same number names the same bytes, also after a reconnect or a restart of the receiver.
 * Owner     Plain values and their codec.
 * Errors    ERR_MALFORMED.
 * Source    docs/formats/peer-frame.md.
 */
#ifndef SERVER_SNAPSHOT_FILES_H
#define SERVER_SNAPSHOT_FILES_H

#include "net/peer_reader.h"

#define SNAPSHOT_FILES_MAX  4096
#define SNAPSHOT_NAME_BYTES 32 /* with the zero */

struct snapshot_file {
    char name[SNAPSHOT_NAME_BYTES];
    uint64_t bytes; /* not 0 */
};

struct snapshot_files {
    uint64_t transfer;    /* not 0 */
    uint64_t index, term; /* everything up to here is in it */
    uint64_t bytes;       /* of all files */
    uint32_t count;       /* names ascend */
    struct snapshot_file files[SNAPSHOT_FILES_MAX];
};

struct snapshot_place {
    uint32_t file;
    uint64_t offset;
};

/* position < files->bytes */
struct snapshot_place snapshot_place(const struct snapshot_files *files, uint64_t position);

bool snapshot_files_equal(const struct snapshot_files *a, const struct snapshot_files *b);

enum snapshot_state {
    SNAPSHOT_WANTED = 0,   /* bytes from `position` on are missing, or all are there and are being
                            * verified and installed */
    SNAPSHOT_COMPLETE = 1, /* the receiver's log or tables hold everything up to its index */
    SNAPSHOT_FAILED = 2,
};

struct snapshot_status {
    uint64_t transfer;
    uint64_t position; /* everything below is received */
    uint32_t state;    /* enum snapshot_state */
};

struct snapshot_chunk {
    uint64_t transfer, position;
    uint32_t crc; /* crc32c of the payload */
};

#define SNAPSHOT_CHUNK_BYTES ((uint32_t)64 * 1024)

#define SNAPSHOT_STATUS_BYTES 24
#define SNAPSHOT_CHUNK_META   24

uint32_t snapshot_offer_bytes(const struct snapshot_files *files);
void snapshot_offer_encode(uint8_t *meta, const struct snapshot_files *files);
must_check int snapshot_offer_decode(const struct peer_input *input, struct snapshot_files *files);

void snapshot_status_encode(uint8_t meta[SNAPSHOT_STATUS_BYTES],
                            const struct snapshot_status *status);
must_check int snapshot_status_decode(const struct peer_input *input,
                                      struct snapshot_status *status);

void snapshot_chunk_encode(uint8_t meta[SNAPSHOT_CHUNK_META], const struct snapshot_chunk *chunk);
must_check int snapshot_chunk_decode(const struct peer_input *input, struct snapshot_chunk *chunk);

#endif
