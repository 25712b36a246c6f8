#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/prng.h"
#include "storage/lsm/bloom.h"
#include "storage/lsm/memtable.h"

static struct memtable *create(uint64_t bytes_target, uint64_t seed)
{
    return memtable_create(
        &(struct memtable_options){.bytes_target = bytes_target, .seed = seed, .point_table = 'k'});
}

static struct bytes key_of(const struct memtable_version *version)
{
    return memtable_key_bytes(version->key);
}

static void insert(struct memtable *memtable, const char *key, uint64_t version)
{
    memtable_insert(memtable, bytes_from_text(key), (struct lsm_version){version, 0}, LSM_VALUE,
                    bytes_from_text(key));
}

/* With every digest that a memtable may use: none in common, some keys, or all but a few. */
static const char *const commons[] = {"", "k", "k/", "k/b", "k/prefix", "k/prefix-1", "m", "a"};

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
    for (size_t c = 0; c < ARRAY_COUNT(commons); c++) {
        struct memtable *memtable =
            memtable_create(&(struct memtable_options){.bytes_target = MIB,
                                                       .seed = 1,
                                                       .point_table = 'k',
                                                       .common = bytes_from_text(commons[c])});
        for (size_t i = 0; i < ARRAY_COUNT(rows); i++)
            insert(memtable, rows[i].key, rows[i].version);
        const struct memtable_version *node = memtable_first(memtable);
        uint64_t before = 0;
        for (size_t i = 0; i < ARRAY_COUNT(want); i++, node = memtable_next(node)) {
            cr_assert_not_null(node);
            cr_assert(bytes_equal(key_of(node), bytes_from_text(want[i])), "%zu", i);
            if (i == 2)
                cr_assert_lt(node->main, before);
            before = node->main;
        }
        cr_assert_null(node);
        cr_assert(bytes_equal(memtable_common(memtable), bytes_from_text("k")));
        memtable_destroy(memtable);
    }
}

Test(memtable, what_keys_have_in_common_is_known)
{
    struct memtable *memtable = create(MIB, 1);
    cr_assert(bytes_equal(memtable_common(memtable), bytes_from_text("k")));
    static const struct {
        const char *insert, *want;
    } steps[] = {{"k/registry/pods/a", "k/registry/pods/a"},
                 {"k/registry/pods/b", "k/registry/pods/"},
                 {"r/other table", "k/registry/pods/"},
                 {"k/registry/", "k/registry/"},
                 {"k/reg", "k/reg"},
                 {"kz", "k"}};
    for (size_t i = 0; i < ARRAY_COUNT(steps); i++) {
        insert(memtable, steps[i].insert, i + 1);
        cr_assert(bytes_equal(memtable_common(memtable), bytes_from_text(steps[i].want)), "%zu", i);
    }
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
    struct memtable *memtable = create(MIB, 1);
    insert(memtable, "k/b", 4);
    insert(memtable, "k/a", 5);
    insert(memtable, "k/b", 9);
    insert(memtable, "k/c", 2);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct bytes key = bytes_from_text(cases[i].key);
        struct lsm_version version = {cases[i].version, 0};
        const struct memtable_version *found[2] = {memtable_seek(memtable, key, version),
                                                   memtable_seek_before(memtable, key, version)};
        const char *want[2] = {cases[i].at, cases[i].before};
        for (int j = 0; j < 2; j++) {
            char text[64] = "";
            if (found[j] != NULL)
                snprintf(text, sizeof(text), "%.*s@%lu", (int)key_of(found[j]).size,
                         key_of(found[j]).data, found[j]->main);
            cr_assert_str_eq(text, want[j] == NULL ? "" : want[j], "%s", cases[i].why);
        }
    }
    memtable_destroy(memtable);
}

static const struct memtable_version *find(const struct memtable *memtable, const char *key,
                                           uint64_t version)
{
    struct bytes bytes = bytes_from_text(key);
    return memtable_find(memtable, bytes, bloom_hash(bytes),
                         (struct lsm_version){version, UINT32_MAX});
}

Test(memtable, the_index_answers_as_a_search_does)
{
    /* Few buckets for many keys, so that they overflow; one table is not indexed. */
    for (uint8_t point_table = 0; point_table <= 'k'; point_table += 'k') {
        struct memtable *memtable = memtable_create(&(struct memtable_options){
            .bytes_target = 64 * KIB, .seed = 5, .point_table = point_table});
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
            const struct memtable_version *found = memtable_seek(
                memtable, bytes_from_text(wanted), (struct lsm_version){version, UINT32_MAX});
            if (found != NULL && !bytes_equal(key_of(found), bytes_from_text(wanted)))
                found = NULL;
            cr_assert_eq(find(memtable, wanted, version), found, "%s@%lu", wanted, version);
        }
        memtable_destroy(memtable);
    }
}

/* Lines that a search for a key may have to look at. */
static uint64_t index_lines_max(const struct memtable_index *index)
{
    uint64_t lines_max = 0;
    for (uint32_t part = 0; part < index->part_count; part++) {
        uint64_t part_max = 0;
        for (uint64_t i = 0; i <= index->parts[part].mask; i++) {
            uint64_t lines = 0;
            for (const struct memtable_bucket *bucket = &index->parts[part].buckets[i];
                 bucket != NULL; bucket = bucket->overflow)
                lines++;
            part_max = u64_max(part_max, lines);
        }
        lines_max += part_max;
    }
    return lines_max;
}

/* What one request deletes all goes into one memtable, whatever its target. */
Test(memtable, any_number_of_keys_is_found_in_a_few_steps)
{
    static const uint32_t counts[] = {100, 1000, 10000, 100000, 300000};
    struct memtable *memtable = create(64 * KIB, 1);
    uint32_t keys = 0;
    char key[32];
    for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
        for (; keys < counts[i]; keys++) {
            snprintf(key, sizeof(key), "k/%u", keys);
            insert(memtable, key, 1);
        }
        cr_expect_lt(index_lines_max(&memtable->index), 40, "%u keys: %lu lines", keys,
                     index_lines_max(&memtable->index));
    }
    for (uint32_t number = 0; number < keys; number++) {
        snprintf(key, sizeof(key), "k/%u", number);
        cr_assert_not_null(find(memtable, key, 1));
    }
    cr_expect_null(find(memtable, "k/", 1));
    memtable_destroy(memtable);
}

/* New keys and overwritten ones, found by hash, by finger and by search, in one list. */
Test(memtable, hash_fingers_and_searches_agree)
{
    struct memtable *memtable = create(4 * MIB, 3);
    struct prng prng;
    uint64_t newest[3000] = {0};
    prng_init(&prng, 9);
    for (uint64_t version = 1; version <= 20000; version++) {
        char key[32];
        uint64_t number = prng_below(&prng, ARRAY_COUNT(newest));
        snprintf(key, sizeof(key), "%c/%05lu", number % 2 == 0 ? 'k' : 'l', number);
        struct bytes bytes = bytes_from_text(key);
        const struct memtable_version *found =
            memtable_find(memtable, bytes, bloom_hash(bytes), LSM_VERSION_MAX);
        cr_assert_eq(found == NULL ? 0 : found->main, newest[number]);
        insert(memtable, key, version);
        newest[number] = version;
        uint8_t revision[9] = {'r'};
        be64_store(revision + 1, version);
        memtable_insert(memtable, bytes_make(revision, sizeof(revision)),
                        (struct lsm_version){version, 0}, LSM_VALUE, bytes);
    }
    cr_assert_eq(memtable->row_count, 40000);
    for (uint32_t level = 0; level < MEMTABLE_HEIGHT_MAX; level++) {
        const struct memtable_key *key = atomic_load(&memtable->head->next[level]);
        for (const struct memtable_key *next; key != NULL; key = next) {
            next = atomic_load(&((struct memtable_key *)(uintptr_t)key)->next[level]);
            if (next != NULL)
                cr_assert_lt(bytes_compare(memtable_key_bytes(key), memtable_key_bytes(next)), 0,
                             "level %u", level);
        }
    }
    uint64_t count = 0;
    struct memtable_scan scan;
    struct lsm_row row, before = {0};
    memtable_scan_begin(memtable, &scan);
    for (; memtable_scan_next(&scan, &row); before = row, count++) {
        int order = bytes_compare(before.key, row.key);
        cr_assert(order < 0 || (order == 0 && before.version.main > row.version.main));
    }
    cr_assert_eq(count, 40000);
    memtable_destroy(memtable);
}

/* Every version of a long chain, from both sides; jumps must never pass the one that is wanted. */
Test(memtable, a_chain_of_versions_is_searched_in_few_steps)
{
    struct memtable *memtable = create(4 * MIB, 3);
    struct bytes key = bytes_from_text("k/hot");
    for (uint64_t version = 2; version <= 20000; version += 2)
        insert(memtable, "k/hot", version);
    uint32_t jumps = 0;
    const struct memtable_version *version = memtable_first(memtable);
    cr_assert_eq(version->depth, 9999);
    for (; version->jump != NULL; version = version->jump)
        jumps++;
    cr_assert_lt(jumps, 30);
    for (uint64_t wanted = 1; wanted <= 20001; wanted++) {
        uint64_t at = wanted & ~(uint64_t)1;
        struct lsm_version bound = {wanted, UINT32_MAX};
        const struct memtable_version *found = memtable_find(memtable, key, bloom_hash(key), bound);
        cr_assert_eq(found == NULL ? 0 : found->main, at > 20000 ? 20000 : at);
        found = memtable_seek_before(memtable, key, bound);
        cr_assert_eq(found == NULL ? 0 : found->main, at + 2 > 20000 ? 0 : at + 2);
    }
    memtable_destroy(memtable);
}

Test(memtable, a_value_larger_than_a_chunk_has_its_own)
{
    struct memtable *memtable = create(64 * KIB, 1);
    size_t bytes = 3 * MIB;
    uint8_t *value = malloc(bytes);
    memset(value, 7, bytes);
    insert(memtable, "k/a", 1);
    memtable_insert(memtable, bytes_from_text("k/b"), (struct lsm_version){2, 0}, LSM_VALUE,
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
        snprintf(key, sizeof(key), "k/%03lu", wanted % 5000);
        struct bytes bytes = bytes_from_text(key);
        struct lsm_version bound = {wanted, UINT32_MAX};
        const struct memtable_version *found =
            wanted % 2 == 0 ? memtable_seek(race->memtable, bytes, bound)
                            : memtable_find(race->memtable, bytes, bloom_hash(bytes), bound);
        cr_assert_not_null(found);
        cr_assert_eq(found->main, wanted);
        struct lsm_row row;
        memtable_row(found, &row);
        cr_assert_eq(le64_load(row.value.data), wanted);
    }
    return NULL;
}

Test(memtable, other_threads_read_while_one_writes)
{
    struct race race = {.memtable = create(16 * KIB, 1)}; /* the index grows meanwhile */
    pthread_t readers[2];
    for (size_t i = 0; i < ARRAY_COUNT(readers); i++)
        cr_assert_eq(pthread_create(&readers[i], NULL, race_read, &race), 0);
    for (uint64_t version = 1; version <= 30000; version++) {
        char key[16];
        uint8_t value[8];
        snprintf(key, sizeof(key), "k/%03lu", version % 5000);
        le64_store(value, version);
        memtable_insert(race.memtable, bytes_from_text(key), (struct lsm_version){version, 0},
                        LSM_VALUE, bytes_make(value, sizeof(value)));
        atomic_store_explicit(&race.published, version, memory_order_release);
    }
    atomic_store(&race.finished, true);
    for (size_t i = 0; i < ARRAY_COUNT(readers); i++)
        pthread_join(readers[i], NULL);
    memtable_destroy(race.memtable);
}
