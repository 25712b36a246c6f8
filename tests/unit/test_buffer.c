#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>

#include "core/buffer.h"
#include "core/prng.h"

#define ARENA_BYTES (8 * MIB + 5 * 4096)

struct fixture {
    uint8_t *arena;
    struct buffer_pool *pool;
};

static struct fixture fixture_make(void)
{
    struct fixture f;
    f.arena = aligned_alloc(4096, ARENA_BYTES);
    cr_assert_eq(buffer_pool_create(f.arena, ARENA_BYTES, &f.pool), 0);
    return f;
}

static void fixture_drop(struct fixture *f)
{
    buffer_pool_destroy(f->pool);
    free(f->arena);
}

Test(buffer, sizes_round_up_and_are_aligned)
{
    static const struct {
        const char *why;
        uint32_t bytes, used;
    } cases[] = {
        {"one byte takes the smallest buffer", 1, 4096},
        {"the smallest exactly", 4096, 4096},
        {"one more doubles", 4097, 8192},
        {"not a power of two", 100 * 1024, 128 * 1024},
        {"the largest", BUFFER_BYTES_MAX, BUFFER_BYTES_MAX},
    };
    struct fixture f = fixture_make();
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint8_t *buffer = buffer_acquire(f.pool, cases[i].bytes);
        cr_assert_not_null(buffer, "%s", cases[i].why);
        cr_assert_eq(buffer_pool_bytes_used(f.pool), cases[i].used, "%s", cases[i].why);
        cr_assert_eq((uint64_t)(buffer - f.arena) % cases[i].used, 0, "%s", cases[i].why);
        buffer_release(f.pool, buffer);
        cr_assert_eq(buffer_pool_bytes_used(f.pool), 0);
    }
    fixture_drop(&f);
}

Test(buffer, exhausts_merges_and_starts_again)
{
    struct fixture f = fixture_make();
    uint32_t total = (uint32_t)(ARENA_BYTES / 4096);
    void **all = calloc(total, sizeof(void *));
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < total; i++)
            cr_assert_not_null(all[i] = buffer_acquire(f.pool, 4096));
        cr_assert_null(buffer_acquire(f.pool, 1), "exhausted");
        for (uint32_t i = 0; i < total; i++)
            buffer_release(f.pool, all[(i * 7) % total]);
        void *large[2] = {buffer_acquire(f.pool, BUFFER_BYTES_MAX),
                          buffer_acquire(f.pool, BUFFER_BYTES_MAX)};
        cr_assert(large[0] != NULL && large[1] != NULL, "halves merged back");
        cr_assert_null(buffer_acquire(f.pool, BUFFER_BYTES_MAX));
        buffer_release(f.pool, large[1]);
        buffer_release(f.pool, large[0]);
    }
    free(all);
    fixture_drop(&f);
}

Test(buffer, random_use_never_overlaps)
{
    struct fixture f = fixture_make();
    struct prng prng;
    prng_init(&prng, 42);
    struct {
        uint8_t *base;
        uint32_t bytes;
        uint8_t mark;
    } held[64] = {0};
    for (uint32_t step = 0; step < 20000; step++) {
        uint32_t i = (uint32_t)prng_below(&prng, ARRAY_COUNT(held));
        if (held[i].base == NULL) {
            held[i].bytes = 1u << prng_below(&prng, 19);
            held[i].base = buffer_acquire(f.pool, held[i].bytes);
            held[i].mark = (uint8_t)step;
            if (held[i].base != NULL)
                memset(held[i].base, held[i].mark, held[i].bytes);
        } else {
            for (uint32_t b = 0; b < held[i].bytes; b += 509)
                cr_assert_eq(held[i].base[b], held[i].mark);
            buffer_release(f.pool, held[i].base);
            held[i].base = NULL;
        }
    }
    for (size_t i = 0; i < ARRAY_COUNT(held); i++)
        if (held[i].base != NULL)
            buffer_release(f.pool, held[i].base);
    fixture_drop(&f);
}

Test(buffer, who_cannot_do_without_gets_plain_memory)
{
    struct fixture f = fixture_make();
    void *large = buffer_acquire_or_allocate(f.pool, BUFFER_BYTES_MAX + 1);
    cr_assert_eq(buffer_pool_bytes_used(f.pool), 0, "more than the arena ever gives in one piece");
    void *held[] = {buffer_acquire(f.pool, BUFFER_BYTES_MAX),
                    buffer_acquire(f.pool, BUFFER_BYTES_MAX)};
    uint64_t used = buffer_pool_bytes_used(f.pool);
    uint8_t *plain = buffer_acquire_or_allocate(f.pool, 64 * KIB);
    cr_assert_not_null(plain);
    cr_assert_eq((uintptr_t)plain % BUFFER_BYTES_MIN, 0);
    cr_assert(plain + 64 * KIB <= f.arena || plain >= f.arena + ARENA_BYTES);
    memset(plain, 1, 64 * KIB);
    uint8_t *small = buffer_acquire_or_allocate(f.pool, 100);
    cr_assert_eq(buffer_pool_bytes_used(f.pool), used + 4096, "the arena comes first");
    buffer_release_or_free(f.pool, small);
    buffer_release_or_free(f.pool, plain);
    buffer_release_or_free(f.pool, large);
    cr_assert_eq(buffer_pool_bytes_used(f.pool), used);
    buffer_release_or_free(f.pool, held[0]);
    buffer_release(f.pool, held[1]);
    fixture_drop(&f);
}

Test(buffer, double_release_is_noticed, .signal = SIGABRT)
{
    struct fixture f = fixture_make();
    void *buffer = buffer_acquire(f.pool, 4096);
    buffer_release(f.pool, buffer);
    buffer_release(f.pool, buffer);
}

Test(buffer, release_inside_a_buffer_is_noticed, .signal = SIGABRT)
{
    struct fixture f = fixture_make();
    uint8_t *buffer = buffer_acquire(f.pool, 16384);
    buffer_release(f.pool, buffer + 4096);
}
