/*
 * base.h - the vocabulary every file uses: attributes, small macros, byte views, integers on disk.
 *
 * Owner     Nobody: no state.
 * Threads   Any.
 * Units     `struct bytes` sizes are in bytes. le64 and friends are the only way an integer goes
 *           to disk or wire.
 */
#ifndef CORE_BASE_H
#define CORE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define must_check               __attribute__((warn_unused_result))
#define maybe_unused             __attribute__((__unused__))
#define printf_like(text, first) __attribute__((__format__(__printf__, text, first)))
#define cold_path                __attribute__((__cold__, __noinline__))

#define ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define container_of(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))
#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* Data written by different cores sits this far apart (adjacent-line prefetch). */
#define CACHE_LINE_BYTES 128

#define KIB       ((uint64_t)1024)
#define MIB       (KIB * 1024)
#define GIB       (MIB * 1024)
#define NS_PER_US ((uint64_t)1000)
#define NS_PER_MS ((uint64_t)1000000)
#define NS_PER_S  ((uint64_t)1000000000)

/* A borrowed, immutable run of bytes. {NULL, 0} is the empty one. */
struct bytes {
    const uint8_t *data;
    size_t size;
};

static inline struct bytes bytes_make(const void *data, size_t size)
{
    return (struct bytes){.data = data, .size = size};
}

static inline struct bytes bytes_from_text(const char *text)
{
    return bytes_make(text, strlen(text));
}

/* Starts the cache misses of an object, or of the front of a long one. */
#define MEMORY_PREFETCH_BYTES_MAX ((size_t)512)
static inline void memory_prefetch(const void *from, size_t bytes)
{
    const uint8_t *line = (const uint8_t *)((uintptr_t)from & ~(uintptr_t)63);
    const uint8_t *end = (const uint8_t *)from +
                         (bytes < MEMORY_PREFETCH_BYTES_MAX ? bytes : MEMORY_PREFETCH_BYTES_MAX);
    for (; line < end; line += 64)
        __builtin_prefetch(line);
}

static inline bool bytes_equal(struct bytes a, struct bytes b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* memcmp order, a proper prefix sorts first. */
static inline int bytes_compare(struct bytes a, struct bytes b)
{
    size_t shorter = a.size < b.size ? a.size : b.size;
    int order = shorter == 0 ? 0 : memcmp(a.data, b.data, shorter);
    if (order != 0)
        return order;
    return (a.size > b.size) - (a.size < b.size);
}

static inline uint64_t u64_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t u64_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* `step` is a power of two. */
static inline uint64_t u64_round_up(uint64_t value, uint64_t step)
{
    return (value + step - 1) & ~(step - 1);
}

static inline bool u64_is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "this project targets little-endian");

static inline uint16_t le16_load(const void *from)
{
    uint16_t value;
    memcpy(&value, from, sizeof(value));
    return value;
}

static inline uint32_t le32_load(const void *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof(value));
    return value;
}

static inline uint64_t le64_load(const void *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof(value));
    return value;
}

static inline void le16_store(void *to, uint16_t value)
{
    memcpy(to, &value, sizeof(value));
}

static inline void le32_store(void *to, uint32_t value)
{
    memcpy(to, &value, sizeof(value));
}

static inline void le64_store(void *to, uint64_t value)
{
    memcpy(to, &value, sizeof(value));
}

/* Big-endian where byte order is sort order. */
static inline uint32_t be32_load(const void *from)
{
    return __builtin_bswap32(le32_load(from));
}

static inline uint64_t be64_load(const void *from)
{
    return __builtin_bswap64(le64_load(from));
}

static inline void be32_store(void *to, uint32_t value)
{
    le32_store(to, __builtin_bswap32(value));
}

static inline void be64_store(void *to, uint64_t value)
{
    le64_store(to, __builtin_bswap64(value));
}

#endif
