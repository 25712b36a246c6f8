/* A store whose contents follow from the index of its last entry, for tests that move it from one
 * member to another: entry i puts the value store_value(i, term) at key i % STORE_KEYS. Included by
 * these tests. */
#include <stdio.h>
#include <stdlib.h>

#include "core/core.h"
#include "core/crc32c.h"
#include "core/err.h"
#include "core/fiber.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "storage/lsm/checkpoint.h"
#include "storage/lsm/lsm.h"
#include "tests/sim/small_store.h"
#include "tests/sim/world.h"

enum {
    STORE_KEYS = 24,
    STORE_VALUE_BYTES_MAX = 900,
    STORE_MESSAGES = 8, /* first mesh message kind of the LSM */
};

struct store {
    struct core *core;
    struct lsm *lsm;
    struct lsm_reader *reader;
    uint64_t applied;
};

/* The history that everybody agrees on changes its term behind this entry. */
enum { STORE_FORK = 40 };

static uint64_t store_term(uint64_t index)
{
    return index <= STORE_FORK ? 3 : 5;
}

static uint32_t store_value(uint64_t index, uint64_t term, uint8_t value[STORE_VALUE_BYTES_MAX])
{
    uint32_t bytes = 1 + (uint32_t)((index * 131 + term * 17) % STORE_VALUE_BYTES_MAX);
    for (uint32_t i = 0; i < bytes; i++)
        value[i] = (uint8_t)(index * 37 + term * 101 + i * 11 + i / 256);
    return bytes;
}

static uint32_t store_key(uint64_t index, char key[16])
{
    return (uint32_t)snprintf(key, 16, "key/%02d", (int)(index % STORE_KEYS));
}

static void store_open(struct store *store, const char *dir, uint64_t log_first, uint64_t log_last)
{
    uint64_t term;
    struct lsm_options options = small_lsm_options(dir, STORE_MESSAGES);
    options.log_first_index = log_first;
    options.log_last_index = log_last;
    store->core = core_current();
    int error = lsm_open(store->core, &options, &store->lsm);
    sim_check(error == 0, "lsm_open: %s; %s", err_name(error), logger_last_error());
    error = lsm_reader_open(store->lsm, store->core, &store->reader);
    sim_check(error == 0, "lsm_reader_open: %s", err_name(error));
    lsm_applied(store->lsm, &store->applied, &term);
    sim_check(store->applied == 0 || term == store_term(store->applied),
              "tables at %llu of term %llu", (unsigned long long)store->applied,
              (unsigned long long)term);
}

static void store_close(struct store *store)
{
    lsm_background_stop(store->lsm);
    lsm_reader_close(store->reader);
    fiber_sleep_until(core_now_ns(store->core) + NS_PER_MS);
    lsm_close(store->lsm);
}

/* The next entry of the agreed history. */
static void store_apply(struct store *store)
{
    uint8_t value[STORE_VALUE_BYTES_MAX];
    char key[16];
    uint64_t index = ++store->applied, term = store_term(index);
    uint32_t key_bytes = store_key(index, key), value_bytes = store_value(index, term, value);
    lsm_insert(store->lsm, bytes_make(key, key_bytes), (struct lsm_version){index, 0}, LSM_VALUE,
               bytes_make(value, value_bytes));
    lsm_commit(store->lsm, index, term);
}

static void store_flush(struct store *store)
{
    lsm_flush_begin(store->lsm);
    while (lsm_flushed_index(store->lsm) < store->applied)
        fiber_sleep_until(core_now_ns(store->core) + NS_PER_MS);
}

static void store_check(struct store *store)
{
    for (uint64_t k = 0; k < STORE_KEYS; k++) {
        uint8_t value[STORE_VALUE_BYTES_MAX];
        char key[16];
        struct lsm_row row;
        uint64_t index = store->applied - (store->applied + STORE_KEYS - k) % STORE_KEYS;
        bool exists = index >= 1 && index <= store->applied;
        uint32_t key_bytes = store_key(k, key);
        int error = lsm_get(store->reader, bytes_make(key, key_bytes), LSM_VERSION_MAX, &row);
        sim_check(error == (exists ? 0 : ERR_NOT_FOUND), "%s at %llu: %s", key,
                  (unsigned long long)store->applied, err_name(error));
        if (error < 0)
            continue;
        uint32_t bytes = store_value(index, store_term(index), value);
        sim_check(row.version.main == index && row.value.size == bytes &&
                      memcmp(row.value.data, value, bytes) == 0,
                  "%s at %llu is of entry %llu, not %llu", key, (unsigned long long)store->applied,
                  (unsigned long long)row.version.main, (unsigned long long)index);
        lsm_row_release(store->reader, &row);
    }
}

/* A checkpoint of a store with entries up to `last` in `dir`. Returns the index that it holds. */
static uint64_t maybe_unused store_make_checkpoint(const char *store_dir, uint64_t last,
                                                   const char *dir)
{
    struct store store;
    uint64_t index, term;
    store_open(&store, store_dir, 0, 0);
    lsm_background_start(store.lsm, store.core);
    while (store.applied < last) {
        store_apply(&store);
        lsm_set_durable_index(store.lsm, store.applied);
        while (lsm_pressure(store.lsm) >= LSM_PRESSURE_FULL)
            fiber_sleep_until(core_now_ns(store.core) + NS_PER_MS);
        if (store.applied % 16 == 0)
            store_flush(&store); /* several tables */
    }
    store_flush(&store);
    int error = lsm_checkpoint(store.lsm, store.reader, dir, &index, &term);
    sim_check(error == 0, "checkpoint: %s", err_name(error));
    sim_check(index == last && term == store_term(last), "checkpoint at %llu",
              (unsigned long long)index);
    store_close(&store);
    return index;
}
