/*
 * crc32c.h - the checksum of everything stored or framed (Castagnoli polynomial, ISA-L).
 *
 * crc32c(0, "123456789", 9) == 0xe3069283. Extend by passing the previous result as `crc`.
 */
#ifndef CORE_CRC32C_H
#define CORE_CRC32C_H

#include "core/base.h"

uint32_t crc32c(uint32_t crc, const void *data, size_t bytes);

#endif
