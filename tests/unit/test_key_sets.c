#include <criterion/criterion.h>

#include "core/err.h"
#include "core/prng.h"
#include "storage/mvcc/key_sets.h"

enum { KEY_BYTES_MAX = 3, MODEL_MAX = 400 };

static struct arena arena;

/* Few letters, the zero byte among them: keys repeat, touch and are prefixes of each other. */
static struct bytes random_key(struct prng *prng, uint8_t to[KEY_BYTES_MAX])
{
    size_t bytes = 1 + prng_below(prng, KEY_BYTES_MAX);
    for (size_t i = 0; i < bytes; i++)
        to[i] = (uint8_t[]){0, 1, 'a', 'b', 255}[prng_below(prng, 5)];
    return bytes_make(to, bytes);
}

static struct bytes kept_key(struct prng *prng)
{
    uint8_t key[KEY_BYTES_MAX];
    return arena_copy(&arena, random_key(prng, key));
}

Test(key_sets, keys_are_held_once)
{
    struct key_set set;
    struct bytes model[MODEL_MAX], key;
    uint32_t count = 0;
    struct prng prng;
    prng_init(&prng, 1);
    arena_init(&arena, 0);
    key_set_init(&set, &arena);
    cr_expect_not(key_set_holds(&set, bytes_from_text("a")), "an empty set");
    for (uint32_t i = 0; i < MODEL_MAX; i++) {
        bool held = false;
        key = kept_key(&prng);
        for (uint32_t k = 0; k < count; k++)
            held |= bytes_equal(model[k], key);
        cr_assert_eq(key_set_holds(&set, key), held);
        cr_assert_eq(key_set_add(&set, key), 0);
        cr_assert(key_set_holds(&set, key));
        if (!held)
            model[count++] = key;
        cr_assert_eq(set.count, count);
    }
    uint32_t walked = 0;
    for (uint32_t at = 0; key_set_at(&set, &at, &key); at++, walked++)
        cr_assert(key_set_holds(&set, key));
    cr_expect_eq(walked, count, "a walk meets each once");
    arena_deinit(&arena);
}

static bool model_holds(const struct interval *model, uint32_t count, struct bytes key)
{
    for (uint32_t i = 0; i < count; i++)
        if (bytes_compare(key, model[i].begin) >= 0 && bytes_compare(key, model[i].end) < 0)
            return true;
    return false;
}

static void check_intervals(const struct interval_set *set)
{
    for (uint32_t i = 0; i < set->count; i++) {
        cr_assert_lt(bytes_compare(set->intervals[i].begin, set->intervals[i].end), 0);
        if (i > 0)
            cr_assert_lt(bytes_compare(set->intervals[i - 1].end, set->intervals[i].begin), 0,
                         "neither overlap nor touch");
    }
}

Test(key_sets, intervals_hold_what_any_of_them_holds)
{
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct interval_set set, other;
        struct interval model[64];
        uint32_t count = 0;
        uint8_t probe[KEY_BYTES_MAX];
        struct prng prng;
        prng_init(&prng, seed);
        arena_init(&arena, 0);
        interval_set_init(&set, &arena);
        interval_set_init(&other, &arena);
        for (uint32_t i = 0; i < ARRAY_COUNT(model); i++) {
            struct bytes begin = kept_key(&prng);
            bool single = prng_chance(&prng, 1, 4);
            struct bytes end = single ? (struct bytes){0} : kept_key(&prng);
            cr_assert_eq(interval_set_add(i % 2 ? &other : &set, begin, end), 0);
            if (single) { /* the key alone: up to its successor */
                uint8_t successor[KEY_BYTES_MAX + 1] = {0};
                memcpy(successor, begin.data, begin.size);
                end = arena_copy(&arena, bytes_make(successor, begin.size + 1));
            }
            model[count++] = (struct interval){begin, end};
            check_intervals(i % 2 ? &other : &set);
        }
        cr_assert_eq(interval_set_add_all(&set, &other), 0);
        check_intervals(&set);
        for (uint32_t i = 0; i < 300; i++) {
            struct bytes key = random_key(&prng, probe);
            cr_assert_eq(interval_set_holds(&set, key), model_holds(model, count, key), "seed %lu",
                         seed);
        }
        arena_deinit(&arena);
    }
}

Test(key_sets, a_range_end_of_one_zero_byte_is_empty)
{
    struct interval_set set;
    arena_init(&arena, 0);
    interval_set_init(&set, &arena);
    cr_assert_eq(interval_set_add(&set, bytes_from_text("a"), bytes_make((const uint8_t *)"", 1)),
                 0);
    cr_expect_eq(set.count, 0);
    cr_expect_not(interval_set_holds(&set, bytes_from_text("b")));
    arena_deinit(&arena);
}

static void number_store(uint8_t to[2], uint32_t number)
{
    to[0] = (uint8_t)(number >> 8);
    to[1] = (uint8_t)number;
}

Test(key_sets, a_full_arena_is_said_and_changes_nothing)
{
    static uint8_t keys[1000][2];
    struct key_set set;
    struct interval_set intervals;
    int error = 0;
    uint32_t held = 0;
    arena_init(&arena, 2000);
    key_set_init(&set, &arena);
    for (uint32_t i = 0; i < ARRAY_COUNT(keys) && error == 0; i++) {
        number_store(keys[i], i);
        error = key_set_add(&set, bytes_make(keys[i], 2));
        held += error == 0;
    }
    cr_expect_eq(error, ERR_LIMIT);
    for (uint32_t i = 0; i < held; i++)
        cr_expect(key_set_holds(&set, bytes_make(keys[i], 2)));
    cr_expect_eq(set.count, held);
    interval_set_init(&intervals, &arena);
    for (error = 0, held = 0; error == 0; held++) {
        struct bytes begin = bytes_make(keys[2 * held], 2), end = bytes_make(keys[2 * held + 1], 2);
        number_store(keys[2 * held], 4 * held);
        number_store(keys[2 * held + 1], 4 * held + 1);
        error = interval_set_add(&intervals, begin, end);
    }
    cr_expect_eq(error, ERR_LIMIT);
    check_intervals(&intervals);
    arena_deinit(&arena);
}
