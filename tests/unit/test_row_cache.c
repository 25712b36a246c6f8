#include <criterion/criterion.h>
#include <stdio.h>

#include "core/prng.h"
#include "storage/lsm/bloom.h"
#include "storage/lsm/row_cache.h"

static struct row_cache cache;

static struct lsm_row row_of(const char *key, uint64_t version, struct bytes value)
{
    return (struct lsm_row){
        .key = bytes_from_text(key), .value = value, .version = {version, 0}, .kind = LSM_VALUE};
}

static void insert(const char *key, uint64_t version, struct bytes value, uint64_t epoch)
{
    struct lsm_row row = row_of(key, version, value);
    row_cache_insert(&cache, &row, bloom_hash(row.key), epoch);
}

static struct cached_row *find(const char *key)
{
    struct bytes bytes = bytes_from_text(key);
    return row_cache_find(&cache, bytes, bloom_hash(bytes));
}

static struct bytes value_of(const struct cached_row *row)
{
    return bytes_make(row->data + row->key_bytes, row->value_bytes);
}

Test(row_cache, keeps_one_row_a_key_and_says_of_when)
{
    row_cache_init(&cache, 64 * KIB);
    cr_expect_null(find("a"));
    insert("a", 5, bytes_from_text("five"), 1);
    insert("b", 6, bytes_from_text(""), 1);
    cr_assert_not_null(find("a"));
    cr_expect_eq(find("a")->version.main, 5);
    cr_expect_eq(find("a")->epoch, 1);
    cr_expect(bytes_equal(value_of(find("a")), bytes_from_text("five")));
    cr_expect_eq(find("b")->value_bytes, 0);
    insert("a", 9, bytes_from_text("nine"), 2);
    cr_expect_eq(find("a")->epoch, 2);
    cr_expect(bytes_equal(value_of(find("a")), bytes_from_text("nine")));
    cr_expect_eq(row_cache_peek(&cache, bloom_hash(bytes_from_text("a"))), find("a"));
    row_cache_deinit(&cache);
}

Test(row_cache, a_pinned_row_outlives_its_replacement)
{
    row_cache_init(&cache, 64 * KIB);
    insert("a", 5, bytes_from_text("five"), 1);
    struct cached_row *pinned = find("a");
    pinned->pins = 2;
    insert("a", 9, bytes_from_text("nine"), 1);
    cr_expect(bytes_equal(value_of(pinned), bytes_from_text("five")));
    row_cache_release(pinned);
    cr_expect(bytes_equal(value_of(pinned), bytes_from_text("five")));
    row_cache_release(pinned);
    row_cache_deinit(&cache);
}

Test(row_cache, stays_within_its_budget_and_keeps_what_is_used)
{
    static const uint8_t value[ROW_CACHE_ROW_BYTES_MAX];
    struct prng prng;
    prng_init(&prng, 3);
    row_cache_init(&cache, 128 * KIB);
    uint32_t hot_found = 0;
    for (uint32_t i = 0; i < 20000; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%u", (unsigned)prng_below(&prng, 5000));
        insert(key, i + 1, bytes_make(value, prng_below(&prng, sizeof(value) - 16)), 1);
        cr_assert_leq(cache.bytes, cache.bytes_max);
        cr_assert_not_null(find(key), "the newest is there");
        if (i % 4 == 0) {
            hot_found += find("hot") != NULL;
            if (find("hot") == NULL)
                insert("hot", 1, bytes_from_text("hot"), 1);
        }
    }
    cr_expect_gt(hot_found, 4900, "of 5000 looks at a row in constant use");
    uint64_t bytes = cache.bytes;
    insert("large", 1, bytes_make(value, sizeof(value)), 1);
    cr_expect_null(find("large"));
    cr_expect_eq(cache.bytes, bytes);
    row_cache_deinit(&cache);
}

static void fill(uint32_t count, uint64_t hash_of(uint32_t i))
{
    static const uint8_t value[480];
    for (uint32_t i = 0; i < count; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%u", (unsigned)i);
        struct lsm_row row = row_of(key, 1, bytes_make(value, sizeof(value)));
        row_cache_insert(&cache, &row, hash_of(i), 1);
    }
}

static uint64_t spread(uint32_t i)
{
    return i * UINT64_C(0x9e3779b97f4a7c15) >> 20;
}

/* Eight to a set, and all sets of them at the end that the hand comes to last. */
static uint64_t crowded(uint32_t i)
{
    return cache.set_count - 1 - i / ROW_CACHE_WAYS;
}

Test(row_cache, making_room_takes_a_bounded_number_of_steps)
{
    static uint64_t (*const hashes[])(uint32_t) = {spread, crowded};
    for (size_t h = 0; h < ARRAY_COUNT(hashes); h++) {
        row_cache_init(&cache, 4 * MIB);
        fill(20000, hashes[h]);
        cr_assert_gt(cache.hand, 0, "it is full");
        for (uint64_t i = 0; i < cache.set_count; i++) /* every row in use */
            for (uint32_t w = 0; w < ROW_CACHE_WAYS; w++)
                if (cache.sets[i].ways[w] != 0)
                    ((struct cached_row *)(uintptr_t)(cache.sets[i].ways[w] << 16 >> 16))->used =
                        true;
        cr_expect_gt(cache.set_count, 10 * ROW_CACHE_HAND_STEPS_MAX);
        for (uint32_t i = 0; i < 100; i++) {
            char key[16];
            snprintf(key, sizeof(key), "new%u", i);
            uint64_t hand = cache.hand;
            insert(key, 2, bytes_make(NULL, 0), 1);
            cr_assert_leq(cache.hand - hand, ROW_CACHE_HAND_STEPS_MAX);
            cr_assert_leq(cache.bytes, cache.bytes_max);
            cr_expect(h == 1 || find(key) != NULL, "a usual cache always has room in reach");
        }
        row_cache_deinit(&cache);
    }
}

Test(row_cache, a_tiny_budget_keeps_nothing)
{
    row_cache_init(&cache, KIB);
    insert("a", 5, bytes_from_text("five"), 1);
    cr_expect_null(find("a"));
    row_cache_deinit(&cache);
}
