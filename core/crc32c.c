#include "core/crc32c.h"

#include <isa-l/crc.h>

/* crc32_iscsi() takes an int and updates the bare register: both inversions are the caller's. */
#define CRC32C_CALL_BYTES_MAX ((size_t)1 << 30)

uint32_t crc32c(uint32_t crc, const void *data, size_t bytes)
{
    const uint8_t *from = data;
    uint32_t state = ~crc;
    while (bytes > 0) {
        size_t step = bytes < CRC32C_CALL_BYTES_MAX ? bytes : CRC32C_CALL_BYTES_MAX;
        /* ISA-L's prototype lacks a const; it only reads. */
        state = crc32_iscsi((unsigned char *)(uintptr_t)from, (int)step, state);
        from += step;
        bytes -= step;
    }
    return ~state;
}
