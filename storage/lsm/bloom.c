#include "storage/lsm/bloom.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/invariant.h"

#define BLOOM_PROBES_MAX 16

uint64_t bloom_hash(struct bytes key)
{
    return XXH3_64bits(key.data, key.size);
}

uint64_t bloom_bytes(uint64_t key_count, uint32_t bits_per_key)
{
    uint64_t lines = (key_count * bits_per_key + BLOOM_LINE_BYTES * 8 - 1) / (BLOOM_LINE_BYTES * 8);
    return u64_max(lines, 1) * BLOOM_LINE_BYTES + 1;
}

void bloom_begin(uint8_t *filter, uint64_t filter_bytes, uint32_t bits_per_key)
{
    invariant(filter_bytes > BLOOM_LINE_BYTES && filter_bytes % BLOOM_LINE_BYTES == 1);
    uint32_t probes = bits_per_key * 69 / 100; /* ln 2, a little less: lines fill unevenly */
    probes = probes < 1 ? 1 : probes > BLOOM_PROBES_MAX ? BLOOM_PROBES_MAX : probes;
    filter[filter_bytes - 1] = (uint8_t)probes;
}

static uint64_t bloom_line(uint64_t filter_bytes, uint64_t hash)
{
    uint64_t lines = filter_bytes / BLOOM_LINE_BYTES;
    return ((hash >> 32) * lines >> 32) * BLOOM_LINE_BYTES;
}

void bloom_add(uint8_t *filter, uint64_t filter_bytes, uint64_t hash)
{
    uint8_t *line = filter + bloom_line(filter_bytes, hash);
    uint32_t bits = (uint32_t)hash;
    invariant(filter_bytes / BLOOM_LINE_BYTES <= UINT32_MAX);
    for (uint32_t probe = filter[filter_bytes - 1]; probe > 0; probe--) {
        bits *= 0x9e3779b9u;
        uint32_t bit = bits >> (32 - 9);
        line[bit / 8] |= (uint8_t)(1u << bit % 8);
    }
}

bool bloom_may_contain(struct bytes filter, uint64_t hash)
{
    if (filter.size <= BLOOM_LINE_BYTES)
        return true;
    const uint8_t *line = filter.data + bloom_line(filter.size, hash);
    uint32_t bits = (uint32_t)hash;
    for (uint32_t probe = filter.data[filter.size - 1]; probe > 0; probe--) {
        bits *= 0x9e3779b9u;
        uint32_t bit = bits >> (32 - 9);
        if ((line[bit / 8] & 1u << bit % 8) == 0)
            return false;
    }
    return true;
}
