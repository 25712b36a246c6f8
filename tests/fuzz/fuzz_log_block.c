/* The decoders of storage/log/wal_format.h over hostile bytes. The first byte chooses how much is
 * repaired before decoding, so that the fuzzer gets past the checksums. */
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/invariant.h"
#include "storage/log/wal_format.h"

#define INPUT_BYTES_MAX (64 * 1024)

enum { REPAIR_HEADER = 1, REPAIR_RECORDS = 2, AS_SUPERBLOCK = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void repair_crc(uint8_t *bytes, size_t size)
{
    le32_store(bytes + 8, 0);
    le32_store(bytes + 8, crc32c(0, bytes, size));
}

/* Gives each record the checksum its bytes deserve, as far as the sizes lead. */
static uint32_t repair_records(const struct wal_block *block, uint8_t *bytes)
{
    uint32_t offset = WAL_HEADER_BYTES, crc = wal_record_seed(block->sequence);
    uint32_t count = (block->flags & WAL_BLOCK_FRAGMENT) != 0 ? 1 : block->entry_count;
    for (uint32_t i = 0; i < count && block->used_bytes - offset >= WAL_RECORD_BYTES; i++) {
        uint8_t *record = bytes + offset;
        le64_store(record, block->first_index + i);
        le64_store(record + 8, block->term);
        crc = crc32c(crc, record, 28);
        le32_store(record + 28, crc);
        uint64_t space = wal_record_space(le32_load(record + 16) % ENTRY_PAYLOAD_BYTES_MAX);
        if (space > block->used_bytes - offset)
            break;
        offset += (uint32_t)space;
    }
    return crc;
}

static void decode_block(uint8_t *bytes, uint32_t size, uint8_t mode)
{
    struct wal_block block;
    if (mode & REPAIR_HEADER) {
        le32_store(bytes, WAL_BLOCK_MAGIC);
        le16_store(bytes + 4, WAL_FORMAT_VERSION);
        le32_store(bytes + 12, size);
        le32_store(bytes + 52, le32_load(bytes + 52) % (size + 1));
        repair_crc(bytes, WAL_HEADER_BYTES);
    }
    if (wal_block_decode(bytes, &block) != WAL_HEADER_VALID || block.bytes > size)
        return;
    invariant(block.used_bytes <= block.bytes && block.entry_count <= block.bytes);
    if (mode & REPAIR_RECORDS)
        block.records_crc = repair_records(&block, bytes);
    if (wal_body_check(&block, bytes) == WAL_BODY_DAMAGED)
        return;
    struct wal_body_cursor cursor;
    struct entry entry;
    uint64_t sum = 0; /* reads every byte */
    for (wal_body_begin(&cursor, &block, bytes); wal_body_next(&cursor, &entry);) {
        bool is_fragment = (block.flags & WAL_BLOCK_FRAGMENT) != 0;
        uint32_t count = is_fragment ? cursor.fragment.bytes : entry.payload_bytes;
        for (uint32_t i = 0; i < count; i++)
            sum += entry.payload[i];
    }
    invariant(sum <= (uint64_t)UINT8_MAX * block.used_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 + WAL_HEADER_BYTES || size > INPUT_BYTES_MAX)
        return 0;
    uint8_t mode = data[0];
    size_t padded = u64_round_up(size - 1, WAL_PAGE_BYTES);
    uint8_t *bytes = calloc(1, padded); /* on the heap: the sanitizer guards its ends */
    if (bytes == NULL)
        return 0;
    memcpy(bytes, data + 1, size - 1);
    if (mode & AS_SUPERBLOCK) {
        struct wal_superblock superblock;
        if (mode & REPAIR_HEADER)
            repair_crc(bytes, WAL_SUPERBLOCK_BYTES);
        if (wal_superblock_decode(bytes, &superblock) == WAL_HEADER_VALID)
            invariant(superblock.segment_bytes >= superblock.block_bytes_max);
    } else {
        decode_block(bytes, (uint32_t)padded, mode);
    }
    free(bytes);
    return 0;
}
