/*
 * bloom.h - blocked bloom filter over user keys: one cache line per look-up.
 *
 * Story     A key's hash picks a 64-byte line and a few bits in it. With 10 bits a key about 1 % of
 *           absent keys pass. The last byte of the filter is the number of probes.
 * Threads   A built filter is immutable.
 * Source    Putze et al. 2007; RocksDB's FastLocalBloom.
 */
#ifndef STORAGE_LSM_BLOOM_H
#define STORAGE_LSM_BLOOM_H

#include "core/base.h"

#define BLOOM_LINE_BYTES ((uint32_t)64)

uint64_t bloom_hash(struct bytes key);

/* Size of a filter over `key_count` keys, the probe count included. */
uint64_t bloom_bytes(uint64_t key_count, uint32_t bits_per_key);
/* `filter` is bloom_bytes() long and zeroed. */
void bloom_begin(uint8_t *filter, uint64_t filter_bytes, uint32_t bits_per_key);
void bloom_add(uint8_t *filter, uint64_t filter_bytes, uint64_t hash);

/* False: no such key. A filter of an impossible shape always says true. */
bool bloom_may_contain(struct bytes filter, uint64_t hash);

#endif
