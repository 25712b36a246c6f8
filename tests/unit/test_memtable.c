#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/prng.h"
#include "storage/lsm/bloom.h"
#include "storage/lsm/memtable.h"

static void insert(struct memtable *memtable, const char *key, uint64_t version)
{
    memtable_insert(memtable, NULL, bytes_from_text(key), (struct lsm_version){version, 0},
                    LSM_VALUE, bytes_from_text(key));
}

Test(memtable, rows_come_by_key_and_then_newest_first)
{
    static const struct {
        const char *why, *key;
        uint64_t version;
    } rows[] = {
        {"inserted in no order", "k/b", 4},
        {"a key that is a prefix of others sorts first", "k", 1},
        {"a newer version goes before the older one", "k/b", 9},
        {"keys equal in the first eight bytes", "k/prefix-2", 3},
        {"... and their neighbour", "k/prefix-1", 5},
        {"a key of exactly eight bytes", "k/prefix", 6},
        {"a shorter one", "k/pref", 7},
        {"another table", "r", 8},
    };
    static const char *const want[] = {"k",        "k/b",        "k/b",        "k/pref",
                                       "k/prefix", "k/prefix-1", "k/prefix-2", "r"};
    struct memtable *memtable = memtable_create(MIB, 1, 0);
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++)
        insert(memtable, rows[i].key, rows[i].version);
    const struct memtable_node *node = memtable_first(memtable);
    uint64_t before = 0;
    for (size_t i = 0; i < ARRAY_COUNT(want); i++, node = memtable_next(node)) {
        cr_assert_not_null(node);
        cr_assert(bytes_equal(memtable_node_key(node), bytes_from_text(want[i])), "%zu", i);
        if (i == 2)
            cr_assert_lt(node->version_main, before);
        before = node->version_main;
    }
    cr_assert_null(node);
    memtable_destroy(memtable);
}

Test(memtable, seeks_find_the_row_at_or_after_and_the_row_before)
{
    static const struct {
        const char *why, *key;
        uint64_t version;
        const char *at, *before;
    } cases[] = {
        {"before all", "a", 1, "k/a@5", NULL},
        {"newest version of a key", "k/b", UINT64_MAX, "k/b@9", "k/a@5"},
        {"exactly a version", "k/b", 4, "k/b@4", "k/b@9"},
        {"between two versions", "k/b", 8, "k/b@4", "k/b@9"},
        {"older than the oldest version", "k/b", 3, "k/c@2", "k/b@4"},
        {"past the end", "z", 1, NULL, "k/c@2"},
    };
    struct memtable *memtable = memtable_create(MIB, 1, 0);
    insert(memtable, "k/b", 4);
    insert(memtable, "k/a", 5);
    insert(memtable, "k/b", 9);
    insert(memtable, "k/c", 2);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct bytes key = bytes_from_text(cases[i].key);
        struct lsm_version version = {cases[i].version, 0};
        const struct memtable_node *found[2] = {memtable_seek(memtable, key, version),
                                                memtable_seek_before(memtable, key, version)};
        const char *want[2] = {cases[i].at, cases[i].before};
        for (int j = 0; j < 2; j++) {
            char text[64] = "";
            if (found[j] != NULL)
                snprintf(text, sizeof(text), "%.*s@%lu", (int)found[j]->key_bytes,
                         memtable_node_key(found[j]).data, found[j]->version_main);
            cr_assert_str_eq(text, want[j] == NULL ? "" : want[j], "%s", cases[i].why);
        }
    }
    memtable_destroy(memtable);
}

static const struct memtable_node *get(const struct memtable *memtable, const char *key,
                                       uint64_t version)
{
    struct bytes bytes = bytes_from_text(key);
    return memtable_get(memtable, bytes, bloom_hash(bytes),
                        (struct lsm_version){version, UINT32_MAX});
}

Test(memtable, the_index_answers_as_a_search_does)
{
    /* Few buckets for many keys, so that chains are long; one table is not indexed. */
    for (uint8_t point_table = 0; point_table <= 'k'; point_table += 'k') {
        struct memtable *memtable = memtable_create(MIB, 5, point_table);
        struct prng prng;
        prng_init(&prng, 17);
        char key[16];
        for (uint64_t version = 1; version <= 30000; version++) {
            snprintf(key, sizeof(key), "%c/%u", version % 5 == 0 ? 'r' : 'k',
                     (unsigned)prng_below(&prng, 8000));
            insert(memtable, version % 7 == 0 ? "k/hot" : key, version);
        }
        for (uint32_t i = 0; i < 60000; i++) {
            uint64_t version = prng_below(&prng, 30002);
            snprintf(key, sizeof(key), "%c/%u", prng_chance(&prng, 1, 5) ? 'r' : 'k',
                     (unsigned)prng_below(&prng, 8200));
            const char *wanted = i % 9 == 0 ? "k/hot" : key;
            const struct memtable_node *node = memtable_seek(
                memtable, bytes_from_text(wanted), (struct lsm_version){version, UINT32_MAX});
            if (node != NULL && !bytes_equal(memtable_node_key(node), bytes_from_text(wanted)))
                node = NULL;
            cr_assert_eq(get(memtable, wanted, version), node, "%s@%lu", wanted, version);
        }
        memtable_destroy(memtable);
    }
}

/* Fingers, positions and plain inserts in one list, with rows of other tables in between. */
Test(memtable, fingers_and_positions_land_where_a_search_would)
{
    struct memtable *memtable = memtable_create(4 * MIB, 3, 0);
    struct prng prng;
    prng_init(&prng, 9);
    for (uint64_t version = 1; version <= 20000; version++) {
        char key[32];
        struct memtable_node *previous[MEMTABLE_HEIGHT_MAX];
        snprintf(key, sizeof(key), "k/%05u", (unsigned)prng_below(&prng, 3000));
        struct bytes bytes = bytes_from_text(key);
        if (prng_chance(&prng, 1, 2)) {
            (void)memtable_find_newest(memtable, bytes, previous);
            memtable_insert(memtable, previous, bytes, (struct lsm_version){version, 0}, LSM_VALUE,
                            bytes);
        } else {
            insert(memtable, key, version);
        }
        uint8_t revision[9] = {'r'};
        be64_store(revision + 1, version);
        memtable_insert(memtable, NULL, bytes_make(revision, sizeof(revision)),
                        (struct lsm_version){version, 0}, LSM_VALUE, bytes);
    }
    cr_assert_eq(memtable->row_count, 40000);
    for (uint32_t level = 0; level < MEMTABLE_HEIGHT_MAX; level++) {
        const struct memtable_node *node = atomic_load(&memtable->head->next[level]);
        uint64_t count = 0;
        for (const struct memtable_node *next; node != NULL; node = next, count++) {
            next = atomic_load(&((struct memtable_node *)node)->next[level]);
            if (next == NULL)
                continue;
            int order = bytes_compare(memtable_node_key(node), memtable_node_key(next));
            cr_assert(order < 0 || (order == 0 && node->version_main > next->version_main),
                      "level %u", level);
        }
        if (level == 0)
            cr_assert_eq(count, 40000);
    }
    memtable_destroy(memtable);
}

Test(memtable, a_value_larger_than_a_chunk_has_its_own)
{
    struct memtable *memtable = memtable_create(64 * KIB, 1, 0);
    size_t bytes = 3 * MIB;
    uint8_t *value = malloc(bytes);
    memset(value, 7, bytes);
    insert(memtable, "k/a", 1);
    memtable_insert(memtable, NULL, bytes_from_text("k/b"), (struct lsm_version){2, 0}, LSM_VALUE,
                    bytes_make(value, bytes));
    insert(memtable, "k/c", 3);
    struct lsm_row row;
    memtable_row(memtable_seek(memtable, bytes_from_text("k/b"), LSM_VERSION_MAX), &row);
    cr_assert(bytes_equal(row.value, bytes_make(value, bytes)));
    memtable_row(memtable_last(memtable), &row);
    cr_assert(bytes_equal(row.key, bytes_from_text("k/c")));
    free(value);
    memtable_destroy(memtable);
}

/* ---- readers beside the writer -----------------------------------------------------------------
 * */

struct race {
    struct memtable *memtable;
    _Atomic uint64_t published; /* versions up to here are complete */
    _Atomic bool finished;
};

static void *race_read(void *argument)
{
    struct race *race = argument;
    struct prng prng;
    prng_init(&prng, 77);
    while (!atomic_load(&race->finished)) {
        uint64_t version = atomic_load_explicit(&race->published, memory_order_acquire);
        char key[16];
        if (version == 0)
            continue;
        uint64_t wanted = 1 + prng_below(&prng, version);
        snprintf(key, sizeof(key), "k/%03lu", wanted % 1000);
        const struct memtable_node *node = memtable_seek(race->memtable, bytes_from_text(key),
                                                         (struct lsm_version){wanted, UINT32_MAX});
        cr_assert_not_null(node);
        cr_assert_eq(node->version_main, wanted);
        cr_assert_eq(get(race->memtable, key, wanted), node);
        struct lsm_row row;
        memtable_row(node, &row);
        cr_assert_eq(le64_load(row.value.data), wanted);
    }
    return NULL;
}

Test(memtable, other_threads_read_while_one_writes)
{
    struct race race = {.memtable = memtable_create(4 * MIB, 1, 0)};
    pthread_t readers[2];
    for (size_t i = 0; i < ARRAY_COUNT(readers); i++)
        cr_assert_eq(pthread_create(&readers[i], NULL, race_read, &race), 0);
    for (uint64_t version = 1; version <= 30000; version++) {
        char key[16];
        uint8_t value[8];
        snprintf(key, sizeof(key), "k/%03lu", version % 1000);
        le64_store(value, version);
        memtable_insert(race.memtable, NULL, bytes_from_text(key), (struct lsm_version){version, 0},
                        LSM_VALUE, bytes_make(value, sizeof(value)));
        atomic_store_explicit(&race.published, version, memory_order_release);
    }
    atomic_store(&race.finished, true);
    for (size_t i = 0; i < ARRAY_COUNT(readers); i++)
        pthread_join(readers[i], NULL);
    memtable_destroy(race.memtable);
}
