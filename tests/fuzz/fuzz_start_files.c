/* The small files that a start reads first: CURRENT, IDENTITY and STARTS, of both formats, with and
 * without sound checksums. */
#include <stdio.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/invariant.h"
#include "server/identity.h"
#include "storage/lsm/manifest.h"

/* docs/formats/identity.md */
#define AT_FORMAT      8
#define AT_CRC         12
#define AT_BODY        16
#define AT_LIFE        32 /* not in the format without: there all behind it is 8 bytes nearer */
#define AT_FIRST_BYTES 40
#define AT_FIRST       44
#define BLOCK_BYTES    (MEMBERS_BYTES_MAX + IO_ALIGN_BYTES)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_current(const uint8_t *data, size_t size)
{
    char line[MANIFEST_CURRENT_BYTES_MAX];
    uint64_t number = 0;
    if (manifest_current_parse(bytes_make(data, size), &number) == 0)
        invariant(manifest_current_format(line, number) == size && memcmp(line, data, size) == 0);
    /* A line that holds, with a byte of it changed. */
    if (size < 9)
        return;
    uint32_t bytes = manifest_current_format(line, le64_load(data + 1));
    invariant(manifest_current_parse(bytes_make((const uint8_t *)line, bytes), &number) == 0);
    invariant(number == le64_load(data + 1));
    line[data[0] % bytes] ^= (char)(1 << data[0] / 64);
    invariant(manifest_current_parse(bytes_make((const uint8_t *)line, bytes), &number) < 0);
}

static void check_members(const struct member_set *set)
{
    uint8_t *again = malloc(MEMBERS_BYTES_MAX);
    struct member_set *copy = malloc(sizeof(*copy));
    invariant(again != NULL && copy != NULL && set->count <= MEMBERS_MAX);
    size_t bytes = members_encode(set, again);
    invariant(bytes <= MEMBERS_BYTES_MAX);
    invariant(members_decode(bytes_make(again, bytes), copy) == 0 && copy->count == set->count);
    for (uint32_t i = 0; i < set->count; i++)
        invariant(copy->members[i].id == set->members[i].id);
    free(again);
    free(copy);
}

static void block_seal(uint8_t *block, size_t bytes, bool is_starts, uint32_t format)
{
    memcpy(block, is_starts ? "01RAFTST" : "01RAFTID", 8);
    le32_store(block + AT_FORMAT, format);
    le32_store(block + AT_CRC, crc32c(0, block + AT_BODY, bytes - AT_BODY));
}

static void try_block(const uint8_t *block, size_t bytes)
{
    static struct member_set first;
    struct identity identity = {.first = &first};
    char reason[512] = "";
    int error =
        identity_decode(&identity, block, (uint32_t)bytes, "IDENTITY", reason, sizeof(reason));
    invariant((error == 0) == (reason[0] == '\0'));
    if (error == 0) {
        invariant(identity.cluster_id != 0 && identity.member_id != 0);
        invariant((identity.life == 0) == (le32_load(block + AT_FORMAT) != IDENTITY_FORMAT));
        check_members(&first);
    }
    reason[0] = '\0';
    error =
        identity_decode_starts(&identity, block, (uint32_t)bytes, "STARTS", reason, sizeof(reason));
    invariant((error == 0) == (reason[0] == '\0'));
}

static void try_raw(const uint8_t *data, size_t size, bool sealed)
{
    size_t bytes = sealed ? u64_round_up(size + 1, IO_ALIGN_BYTES) : size;
    uint8_t *block = calloc(1, bytes + 1);
    invariant(block != NULL);
    memcpy(block, data, size);
    if (sealed)
        block_seal(block, bytes, size > 0 && data[0] % 2 == 1,
                   size > 0 && data[0] / 2 % 2 == 1 ? IDENTITY_FORMAT_LIFELESS : IDENTITY_FORMAT);
    try_block(block, bytes);
    free(block);
}

/* An IDENTITY of three members with some bytes changed: where (u16), what (u8). */
static void try_changed(const uint8_t *data, size_t size)
{
    static struct member_set set;
    static uint8_t sound[BLOCK_BYTES];
    static size_t members_bytes;
    char reason[256];
    if (members_bytes == 0) {
        static struct config config;
        snprintf(config.initial_cluster, sizeof(config.initial_cluster),
                 "a=http://10.0.0.1:2380,b=http://10.0.0.2:2380,c=http://10.0.0.3:2380");
        invariant(members_from_config(&config, &set, reason, sizeof(reason)) == 0);
        members_bytes = members_encode(&set, sound + AT_FIRST);
        le32_store(sound + AT_FIRST_BYTES, (uint32_t)members_bytes);
        le64_store(sound + AT_LIFE, 1);
        le64_store(sound + AT_LIFE - 8, 1); /* member */
        le64_store(sound + AT_BODY, 1);     /* cluster */
    }
    size_t bytes = u64_round_up(AT_FIRST + members_bytes, IO_ALIGN_BYTES);
    uint8_t *block = malloc(bytes);
    invariant(block != NULL);
    memcpy(block, sound, bytes);
    bool lifeless = size % 3 == 1;
    if (lifeless)
        memmove(block + AT_LIFE, block + AT_FIRST_BYTES, 4 + members_bytes);
    uint32_t from = lifeless ? AT_LIFE : AT_FIRST_BYTES;
    for (size_t at = 0; at + 3 <= size; at += 3)
        block[from + le16_load(data + at) % (4 + members_bytes)] ^= data[at + 2];
    block_seal(block, bytes, false, lifeless ? IDENTITY_FORMAT_LIFELESS : IDENTITY_FORMAT);
    try_block(block, bytes);
    free(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > BLOCK_BYTES)
        return 0;
    if (data[0] % 4 == 0)
        try_current(data + 1, size - 1);
    else if (data[0] % 4 == 1)
        try_changed(data + 1, size - 1);
    else
        try_raw(data + 1, size - 1, data[0] % 4 == 2);
    return 0;
}
