#include "core/crc32c.h"

#include <isa-l/crc.h>
#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

/* crc32_iscsi() takes an int and updates the bare register: both inversions are the caller's. */
#define CRC32C_CALL_BYTES_MAX ((size_t)1 << 30)

/* ISA-L folds wide registers: worth its preparation from about here on. Frame headers are shorter.
 */
#define CRC32C_SHORT_BYTES_MAX ((size_t)64)

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_short(uint32_t state, const uint8_t *from,
                                                               size_t bytes)
{
    uint64_t wide = state;
    for (; bytes >= 8; from += 8, bytes -= 8)
        wide = _mm_crc32_u64(wide, le64_load(from));
    state = (uint32_t)wide;
    if (bytes & 4) {
        state = _mm_crc32_u32(state, le32_load(from));
        from += 4;
    }
    if (bytes & 2) {
        state = _mm_crc32_u16(state, le16_load(from));
        from += 2;
    }
    return bytes & 1 ? _mm_crc32_u8(state, *from) : state;
}

static bool crc32c_has_short(void)
{
    return __builtin_cpu_supports("sse4.2");
}
#else
static uint32_t crc32c_short(uint32_t state, const uint8_t *from, size_t bytes)
{
    return crc32_iscsi((unsigned char *)(uintptr_t)from, (int)bytes, state);
}

static bool crc32c_has_short(void)
{
    return true;
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t bytes)
{
    const uint8_t *from = data;
    uint32_t state = ~crc;
    if (bytes <= CRC32C_SHORT_BYTES_MAX && likely(crc32c_has_short()))
        return ~crc32c_short(state, from, bytes);
    while (bytes > 0) {
        size_t step = bytes < CRC32C_CALL_BYTES_MAX ? bytes : CRC32C_CALL_BYTES_MAX;
        /* ISA-L's prototype lacks a const; it only reads. */
        state = crc32_iscsi((unsigned char *)(uintptr_t)from, (int)step, state);
        from += step;
        bytes -= step;
    }
    return ~state;
}
