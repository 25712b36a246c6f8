/*
 * small_store.h - sizes with which a simulated disk sees every kind of work after a few hundred
 * writes: blocks, tables and memtables of a few KiB; and what a crash leaves to the sanitizers.
 *
 * Owner     The test that opens the store.
 */
#ifndef TESTS_SIM_SMALL_STORE_H
#define TESTS_SIM_SMALL_STORE_H

#include "core/core.h"
#include "storage/lsm/lsm.h"

/* A process without power frees nothing. */
#ifdef __SANITIZE_ADDRESS__
enum { SANITIZED = 1 };
#include <sanitizer/lsan_interface.h>
static inline void memory_may_leak(bool may)
{
    may ? __lsan_disable() : __lsan_enable();
}
#else
enum { SANITIZED = 0 };
static inline void memory_may_leak(bool may)
{
    (void)may;
}
#endif

static inline struct core_options small_core_options(void)
{
    return (struct core_options){.reactor = {.files_max = 256,
                                             .buffer_bytes = 2 * MIB,
                                             .recv_buffer_bytes = 4096,
                                             .recv_buffer_count = 4},
                                 .fibers_max = 32};
}

static inline struct lsm_options small_lsm_options(const char *dir, uint16_t message_kind_base)
{
    return (struct lsm_options){.dir = dir,
                                .memtable_bytes = 16 * KIB,
                                .memtables_max = 4,
                                .block_cache_bytes_per_core = 64 * KIB,
                                .block_bytes = 512,
                                .table_bytes = 8 * KIB,
                                .level_base_bytes = 16 * KIB,
                                .level_ratio = 3,
                                .level0_tables = 2,
                                .core_count = 1,
                                .message_kind_base = message_kind_base,
                                .random_seed = 7};
}

#endif
