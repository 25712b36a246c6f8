/*
 * heap_bytes.h - what the process has allocated and not freed, the allocator's rounding included,
 * for tests of what an object costs; and what of it is resident, which is less, because nobody
 * touched some of it yet, now or at the worst moment so far. Sanitizers make what is resident
 * meaningless: 0 there.
 */
#ifndef TESTS_UNIT_HEAP_BYTES_H
#define TESTS_UNIT_HEAP_BYTES_H

#include <malloc.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/resource.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
size_t __sanitizer_get_current_allocated_bytes(void);

static inline size_t heap_bytes(void)
{
    return __sanitizer_get_current_allocated_bytes();
}

static inline size_t resident_bytes(void)
{
    return 0;
}

static inline size_t resident_peak_bytes(void)
{
    return 0;
}
#else
static inline size_t heap_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static inline size_t resident_bytes(void)
{
    size_t size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%zu %zu", &size, &resident) != 2)
        resident = 0;
    if (file != NULL)
        fclose(file);
    return resident * 4096;
}

static inline size_t resident_peak_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (size_t)usage.ru_maxrss * 1024 : 0;
}
#endif

#endif
