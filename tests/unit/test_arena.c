#include <criterion/criterion.h>

#include "core/arena.h"
#include "core/prng.h"

static size_t chunk_count(const struct arena *arena)
{
    /* A chunk begins with the pointer to the next. */
    size_t count = 0;
    for (void *const *chunk = (void *const *)arena->first; chunk != NULL;
         chunk = (void *const *)*chunk)
        count++;
    return count;
}

Test(arena, what_was_taken_is_aligned_and_does_not_overlap)
{
    struct arena arena;
    struct prng prng;
    prng_init(&prng, 7);
    arena_init(&arena, 0);
    static uint8_t *taken[2000];
    static size_t sizes[2000];
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < ARRAY_COUNT(taken); i++) {
            sizes[i] =
                prng_chance(&prng, 1, 200) ? prng_below(&prng, 600 * KIB) : prng_below(&prng, 300);
            taken[i] = arena_take(&arena, sizes[i]);
            cr_assert_not_null(taken[i]);
            cr_assert_eq((uintptr_t)taken[i] % 16, 0);
            memset(taken[i], (int)(i & 0xff), sizes[i]);
        }
        for (size_t i = 0; i < ARRAY_COUNT(taken); i++) {
            for (size_t at = 0; at < sizes[i]; at++)
                cr_assert_eq(taken[i][at], i & 0xff, "item %zu was overwritten", i);
        }
        arena_reset(&arena);
        cr_assert_eq(arena.bytes_taken, 0);
        cr_assert_leq(chunk_count(&arena), 1, "a reset keeps at most one chunk");
    }
    arena_deinit(&arena);
}

Test(arena, steady_use_stops_allocating)
{
    struct arena arena;
    arena_init(&arena, 0);
    const void *kept = NULL;
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 100; i++)
            cr_assert_not_null(arena_take(&arena, 500));
        if (round >= 2) {
            cr_assert_eq(chunk_count(&arena), 1, "round %d still allocates", round);
            cr_assert(kept == NULL || kept == arena.first);
            kept = arena.first;
        }
        arena_reset(&arena);
    }
    arena_deinit(&arena);
}

Test(arena, the_limit_is_exact)
{
    static const struct {
        const char *why;
        size_t bytes_max, step;
        size_t want;
    } cases[] = {
        {"multiples of 16 fill it to the last byte", 4096, 16, 256},
        {"small requests round up", 4096, 1, 256},
        {"across several chunks", 100 * 1024, 1024, 100},
        {"a limit that is no multiple of 16", 100, 16, 6},
        {"one request that is too large", 1000, 1001, 0},
        {"chunks of their own count too", 1024 * 1024, 300 * 1024, 3},
        {"a size that wraps when rounded", 1024, SIZE_MAX, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct arena arena;
        arena_init(&arena, cases[i].bytes_max);
        for (int round = 0; round < 3; round++) {
            size_t count = 0;
            while (count < 1000 && arena_take(&arena, cases[i].step) != NULL)
                count++;
            cr_expect_eq(count, cases[i].want, "%s: %zu in round %d", cases[i].why, count, round);
            cr_expect_leq(arena.bytes_taken, cases[i].bytes_max, "%s", cases[i].why);
            arena_reset(&arena);
        }
        arena_deinit(&arena);
    }
}

Test(arena, a_large_request_leaves_the_room_of_the_newest_chunk)
{
    struct arena arena;
    arena_init(&arena, 0);
    uint8_t *before = arena_take(&arena, 16);
    cr_assert_not_null(arena_take(&arena, 2 * ARENA_CHUNK_BYTES_MAX));
    cr_assert_eq(arena_take(&arena, 16), before + 16);
    arena_deinit(&arena);
    cr_assert_null(arena.first);
}

Test(arena, copies)
{
    struct arena arena;
    arena_init(&arena, 64);
    struct bytes copy = arena_copy(&arena, bytes_from_text("key"));
    cr_assert(bytes_equal(copy, bytes_from_text("key")));
    struct bytes none = arena_copy(&arena, bytes_make(NULL, 0));
    cr_assert(none.data == NULL && none.size == 0);
    struct bytes refused = arena_copy(&arena, bytes_make(copy.data, 65));
    cr_assert(refused.data == NULL && refused.size == 0);
    arena_deinit(&arena);
}
