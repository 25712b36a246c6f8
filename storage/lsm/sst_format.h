/*
 * sst_format.h - bytes of an SSTable: block trailer, footer, properties, internal keys.
 *
 * Story     docs/formats/sstable.md has the picture; tests/unit/test_sst.c compares its tables with
 *           the offsets below. Integers are little-endian, except the version inside an internal
 *           key, which is big-endian and inverted so that memcmp puts newer versions first.
 * Units     Offsets from the start of the file.
 */
#ifndef STORAGE_LSM_SST_FORMAT_H
#define STORAGE_LSM_SST_FORMAT_H

#include "core/base.h"
#include "storage/lsm/lsm.h"

#define SST_MAGIC               ((uint64_t)0x3154535354464152) /* "RAFTSST1" */
#define SST_FORMAT              ((uint32_t)1)
#define SST_RESTART_INTERVAL    16
#define SST_RESTART_BYTES       512 /* or after this much: large values cost a search most */
#define SST_KEY_TRAILER_BYTES   12  /* ~main, ~sub: big-endian */
#define SST_BLOCK_RAW_BYTES_MAX ((uint32_t)(32 * 1024 * 1024))
#define SST_WRITE_BYTES         ((uint32_t)(256 * 1024))

/* An index block has this many entries and these bytes beside its first key, or is this large;
 * long keys get few of their number into the top index, and a lookup does not read all. */
#define SST_INDEX_BLOCK_BYTES       ((uint32_t)4096)
#define SST_INDEX_BLOCK_ENTRIES_MIN 16
#define SST_INDEX_BLOCK_BYTES_LARGE ((uint32_t)(4 * 1024 * 1024))
/* A table whose top index has about this ends before its next key; half of what a block holds. */
#define SST_TOP_INDEX_BYTES ((uint32_t)(16 * 1024 * 1024))

enum sst_block_type {
    SST_BLOCK_DATA = 1,
    SST_BLOCK_INDEX = 2,     /* last internal key of a data block -> its handle */
    SST_BLOCK_TOP_INDEX = 3, /* last internal key of an index block -> its handle */
    SST_BLOCK_FILTER = 4,
    SST_BLOCK_PROPERTIES = 5,
};

/* After each stored block. crc32c over: file number, block offset, stored payload, trailer[0..8).
 * */
enum sst_trailer_offset {
    SST_TRAILER_COMPRESSION = 0, /* u8 */
    SST_TRAILER_TYPE = 1,        /* u8 */
    SST_TRAILER_RESERVED = 2,    /* u16, 0 */
    SST_TRAILER_RAW_BYTES = 4,   /* u32 */
    SST_TRAILER_CRC = 8,         /* u32 */
    SST_TRAILER_BYTES = 12,
};

/* Readers bound raw bytes and stored bytes, the latter with the trailer, by the same number. */
#define SST_BLOCK_WRITTEN_BYTES_MAX (SST_BLOCK_RAW_BYTES_MAX - SST_TRAILER_BYTES)

/* The last bytes of the file, whose size is a multiple of 4096. */
enum sst_footer_offset {
    SST_FOOTER_MAGIC = 0,              /* u64 */
    SST_FOOTER_FORMAT = 8,             /* u32 */
    SST_FOOTER_RESERVED = 12,          /* u32, 0 */
    SST_FOOTER_NUMBER = 16,            /* u64: file number */
    SST_FOOTER_FILE_BYTES = 24,        /* u64 */
    SST_FOOTER_TOP_INDEX_OFFSET = 32,  /* u64 */
    SST_FOOTER_FILTER_OFFSET = 40,     /* u64 */
    SST_FOOTER_PROPERTIES_OFFSET = 48, /* u64 */
    SST_FOOTER_TOP_INDEX_BYTES = 56,   /* u32, trailer included */
    SST_FOOTER_FILTER_BYTES = 60,      /* u32, trailer included; 0: no filter */
    SST_FOOTER_PROPERTIES_BYTES = 64,  /* u32, trailer included */
    SST_FOOTER_CRC = 68,               /* u32: crc32c of [0, 68) */
    SST_FOOTER_BYTES = 72,
};

enum sst_properties_offset {
    SST_PROPERTIES_ROWS = 0,            /* u64 */
    SST_PROPERTIES_TOMBSTONES = 8,      /* u64 */
    SST_PROPERTIES_SUPERSEDED = 16,     /* u64: rows with a newer row of their key in this table */
    SST_PROPERTIES_KEY_BYTES = 24,      /* u64: sum of user keys */
    SST_PROPERTIES_VALUE_BYTES = 32,    /* u64 */
    SST_PROPERTIES_DATA_BYTES = 40,     /* u64: data blocks as stored; they start the file */
    SST_PROPERTIES_DATA_BLOCKS = 48,    /* u64 */
    SST_PROPERTIES_INDEX_BLOCKS = 56,   /* u64 */
    SST_PROPERTIES_VERSION_FIRST = 64,  /* u64: smallest version.main */
    SST_PROPERTIES_VERSION_LAST = 72,   /* u64: largest version.main */
    SST_PROPERTIES_SMALLEST_BYTES = 80, /* u32: then the smallest user key ... */
    SST_PROPERTIES_LARGEST_BYTES = 84,  /* u32: ... and the largest */
    SST_PROPERTIES_KEYS = 88,
};

struct sst_properties {
    uint64_t rows, tombstones, superseded;
    uint64_t key_bytes, value_bytes;
    uint64_t data_bytes, data_blocks, index_blocks;
    uint64_t version_first, version_last;
};

/* Where a stored block is; `bytes` includes its trailer. */
struct sst_handle {
    uint64_t offset;
    uint32_t bytes;
};

/* ---- internal keys: user key, then SST_KEY_TRAILER_BYTES of inverted version -------------------
 * */

static inline void sst_trailer_store(uint8_t *to, struct lsm_version version)
{
    be64_store(to, ~version.main);
    be32_store(to + 8, ~version.sub);
}

static inline struct lsm_version sst_trailer_load(const uint8_t *from)
{
    return (struct lsm_version){~be64_load(from), ~be32_load(from + 8)};
}

/* What a search looks for. */
struct sst_target {
    struct bytes key;
    uint8_t trailer[SST_KEY_TRAILER_BYTES];
};

static inline struct sst_target sst_target_make(struct bytes key, struct lsm_version version)
{
    struct sst_target target = {.key = key};
    sst_trailer_store(target.trailer, version);
    return target;
}

/* Row order of an internal key against a target; `bytes` >= SST_KEY_TRAILER_BYTES. */
static inline int sst_key_compare(const uint8_t *internal, size_t bytes,
                                  const struct sst_target *target)
{
    size_t user = bytes - SST_KEY_TRAILER_BYTES;
    int order = bytes_compare(bytes_make(internal, user), target->key);
    return order != 0 ? order : memcmp(internal + user, target->trailer, SST_KEY_TRAILER_BYTES);
}

/* ---- varints ----------------------------------------------------------------------------------
 * */

static inline uint8_t *sst_varint_store(uint8_t *to, uint64_t value)
{
    while (value >= 0x80) {
        *to++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *to++ = (uint8_t)value;
    return to;
}

/* NULL when it does not end before `end` or exceeds 64 bits. */
static inline const uint8_t *sst_varint_load(const uint8_t *from, const uint8_t *end,
                                             uint64_t *value)
{
    if (likely(from < end && *from < 0x80)) {
        *value = *from;
        return from + 1;
    }
    uint64_t result = 0;
    for (uint32_t shift = 0; shift < 64 && from < end; shift += 7) {
        uint8_t byte = *from++;
        result |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *value = result;
            return from;
        }
    }
    return NULL;
}

#endif
