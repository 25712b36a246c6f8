/*
 * manifest.h - the durable list of tables: a log of edits, each in its own 4 KiB-aligned record.
 *
 * Story     The first record of a manifest is a snapshot of the whole state, later ones are edits.
 *           A record becomes durable before its effects do (files are removed only after it), so a
 *           torn last record means that nothing of it happened. A damaged record that a valid one
 *           follows is corruption and refused. CURRENT names the manifest in use and is replaced by
 *           rename.
 * Owner     The raft core while it opens the store, then the background core; one append at a time.
 * Durable   When manifest_append() returns 0.
 * Errors    ERR_CORRUPT, ERR_VERSION, -errno. A failed append is fatal for the caller: what is on
 *           disk is unknown. So is a manifest_create() that failed `uncertain`; one that failed
 *           otherwise, as on a full disk, has changed nothing and leaves nothing behind.
 * Source    docs/formats/manifest.md.
 */
#ifndef STORAGE_LSM_MANIFEST_H
#define STORAGE_LSM_MANIFEST_H

#include "core/base.h"
#include "core/reactor.h"
#include "storage/lsm/table.h"

#define MANIFEST_MAGIC          ((uint32_t)0x4d4d534c) /* "LSMM" */
#define MANIFEST_FORMAT         ((uint32_t)1)
#define MANIFEST_BYTES_MIN      ((uint64_t)(256 * 1024)) /* allocated ahead; rotated when used up */
#define MANIFEST_FILE_BYTES_MAX ((uint64_t)(64 * 1024 * 1024))
#define MANIFEST_TABLES_MAX     ((uint32_t)1000000)

enum manifest_record_offset {
    MANIFEST_RECORD_MAGIC = 0,         /* u32 */
    MANIFEST_RECORD_CRC = 4,           /* u32: crc32c of [8, header + payload) */
    MANIFEST_RECORD_PAYLOAD_BYTES = 8, /* u32 */
    MANIFEST_RECORD_RESERVED = 12,     /* u32, 0 */
    MANIFEST_RECORD_NUMBER = 16,       /* u64: of the manifest file */
    MANIFEST_RECORD_SEQUENCE = 24,     /* u64: 1, 2, 3 ... within the file */
    MANIFEST_RECORD_HEADER_BYTES = 32, /* payload follows, then zeros up to 4 KiB */
};

/* Payload: fields of one tag byte and fixed integers. */
enum manifest_tag {
    MANIFEST_TAG_FORMAT = 1,  /* u32 */
    MANIFEST_TAG_FLUSHED = 2, /* u64 applied index, u64 term */
    MANIFEST_TAG_NEXT = 3,    /* u64: file numbers from here on are unused */
    MANIFEST_TAG_ADD = 4,     /* u8 level, u64 file number, u64 file bytes */
    MANIFEST_TAG_REMOVE = 5,  /* u8 level, u64 file number */
};

struct manifest_table {
    uint64_t number, bytes;
    uint32_t level;
};

struct manifest_state {
    struct manifest_table *tables; /* owned */
    uint32_t count, count_max;
    uint64_t flushed_index, flushed_term, number_next;
    uint64_t sequence; /* of the last record ... */
    uint64_t end;      /* ... and where it ends */
};

void manifest_state_init(struct manifest_state *state);
void manifest_state_deinit(struct manifest_state *state);

/* Applies every record of a manifest file. On an error `*reason` (static) and `*offset` tell where.
 * `visitor` may be NULL. */
must_check int manifest_replay(struct bytes file, uint64_t number, struct manifest_state *state,
                               const struct lsm_visitor *visitor, const char **reason,
                               uint64_t *offset);

/* A record under construction. */
struct manifest_record {
    uint8_t *bytes; /* owned; header first */
    size_t used, capacity;
};

void manifest_record_init(struct manifest_record *record);
void manifest_record_deinit(struct manifest_record *record);
void manifest_record_format(struct manifest_record *record);
void manifest_record_flushed(struct manifest_record *record, uint64_t index, uint64_t term);
void manifest_record_next(struct manifest_record *record, uint64_t number_next);
void manifest_record_add(struct manifest_record *record, uint32_t level,
                         const struct lsm_table *table);
void manifest_record_remove(struct manifest_record *record, uint32_t level, uint64_t number);
/* Header, checksum, padding: `*bytes` becomes a multiple of IO_ALIGN_BYTES. */
void manifest_record_seal(struct manifest_record *record, uint64_t number, uint64_t sequence,
                          size_t *bytes);

struct manifest {
    struct io_file file;
    uint64_t number, sequence;
    uint64_t offset, bytes_max;
    const char *dir; /* borrowed */
};

/* [fiber] Creates MANIFEST-<number> with a snapshot and makes CURRENT name it. After an error that
 * leaves it `*uncertain` which manifest CURRENT names, nothing may be written to either. */
must_check int manifest_create(struct manifest *manifest, const char *dir, uint64_t number,
                               const struct lsm_levels *levels, uint64_t number_next,
                               bool *uncertain);
/* [fiber] Goes on in the manifest of that number, behind what manifest_replay() found in it. */
must_check int manifest_reopen(struct manifest *manifest, const char *dir, uint64_t number,
                               const struct manifest_state *state);
/* [fiber] Is there room for an edit of this size, or must a new manifest be created? */
bool manifest_has_room(const struct manifest *manifest, const struct manifest_record *record);
must_check int manifest_append(struct manifest *manifest, struct manifest_record *record);
void manifest_close(struct manifest *manifest);

/* The line of CURRENT; its bytes. Parsing refuses whatever is not exactly such a line. */
#define MANIFEST_CURRENT_BYTES_MAX 64
uint32_t manifest_current_format(char line[MANIFEST_CURRENT_BYTES_MAX], uint64_t number);
must_check int manifest_current_parse(struct bytes file, uint64_t *number);

/* [fiber] CURRENT: 0 and the number, ERR_NOT_FOUND, ERR_CORRUPT or -errno. */
must_check int manifest_read_current(const char *dir, uint64_t *number);
/* [fiber] The whole file, malloc'ed. */
must_check int manifest_read_file(const char *path, struct bytes *file);
void manifest_path(char *path, const char *dir, uint64_t number);

#endif
