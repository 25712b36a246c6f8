/* The latest-version cache against a model that remembers everything: what it knows is right, and
 * what it forgot is the oldest. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/prng.h"
#include "storage/mvcc/heads.h"

#define KEYS 20000

static struct bytes key_of(char to[700], uint64_t number, uint64_t bytes_max)
{
    int bytes = snprintf(to, 700, "key/%lu/", number);
    uint64_t more = number * 7919 % bytes_max;
    memset(to + bytes, 'x', more);
    return bytes_make(to, (size_t)bytes + more);
}

static struct mvcc_head head_of(int64_t version)
{
    return (struct mvcc_head){.create_revision = version * 3,
                              .mod_revision = version * 3 + 1,
                              .version = version,
                              .lease = -version,
                              .value_bytes = (uint32_t)version * 5};
}

static bool head_is(const struct mvcc_head *head, int64_t version)
{
    struct mvcc_head expected = head_of(version);
    return head->create_revision == expected.create_revision &&
           head->mod_revision == expected.mod_revision && head->version == expected.version &&
           head->lease == expected.lease && head->value_bytes == expected.value_bytes;
}

/* Writes as the store does: in place when known, else added. */
static void write_head(struct mvcc_heads *heads, struct bytes key, int64_t version)
{
    struct mvcc_head *known = mvcc_heads_find(heads, key);
    struct mvcc_head head = head_of(version);
    if (known != NULL)
        *known = head;
    else
        mvcc_heads_add(heads, key, &head);
}

Test(heads, random_writes_agree_with_a_model)
{
    static const struct {
        const char *why;
        uint64_t key_bytes_max;
        uint64_t keys;
    } cases[] = {{"fits", 1, 500}, {"turns over", 20, KEYS}, {"long keys", 500, 5000}};
    for (size_t c = 0; c < ARRAY_COUNT(cases); c++) {
        struct mvcc_heads *heads = mvcc_heads_create(MVCC_HEADS_RING_BYTES_MIN, 42 + c);
        int64_t *model = calloc(cases[c].keys, sizeof(*model));
        struct prng prng;
        uint64_t known = 0;
        char text[700];
        prng_init(&prng, c);
        for (int64_t step = 1; step < 60000; step++) {
            uint64_t number = prng_next(&prng) % cases[c].keys;
            struct bytes key = key_of(text, number, cases[c].key_bytes_max);
            const struct mvcc_head *head = mvcc_heads_find(heads, key);
            if (head != NULL) {
                known++;
                cr_assert(head_is(head, model[number]), "%s", cases[c].why);
            }
            write_head(heads, key, step);
            model[number] = step;
            if (step % 5000 == 0)
                mvcc_heads_check(heads);
        }
        cr_assert_gt(known, 0);
        cr_assert_gt(mvcc_heads_count(heads), 0);
        mvcc_heads_destroy(heads);
        free(model);
    }
}

Test(heads, the_oldest_make_room)
{
    struct mvcc_heads *heads = mvcc_heads_create(MVCC_HEADS_RING_BYTES_MIN, 1);
    char text[700];
    for (uint64_t i = 0; i < KEYS; i++)
        write_head(heads, key_of(text, i, 9), 1);
    uint64_t count = mvcc_heads_count(heads);
    cr_assert_gt(count, 700);
    cr_assert_lt(count, 1200);
    for (uint64_t i = 0; i < KEYS; i++)
        cr_assert_eq(mvcc_heads_find(heads, key_of(text, i, 9)) != NULL, i >= KEYS - count);
    mvcc_heads_clear(heads);
    cr_assert_null(mvcc_heads_find(heads, key_of(text, KEYS - 1, 9)));
    mvcc_heads_check(heads);
    mvcc_heads_destroy(heads);
}

Test(heads, keys_that_are_too_long_are_not_kept)
{
    struct mvcc_heads *heads = mvcc_heads_create(MVCC_HEADS_RING_BYTES_MIN, 1);
    uint8_t key[MVCC_HEAD_KEY_BYTES_MAX + 1] = {1};
    write_head(heads, bytes_make(key, MVCC_HEAD_KEY_BYTES_MAX), 1);
    write_head(heads, bytes_make(key, MVCC_HEAD_KEY_BYTES_MAX + 1), 2);
    cr_assert_eq(mvcc_heads_count(heads), 1);
    cr_assert_null(mvcc_heads_find(heads, bytes_make(key, MVCC_HEAD_KEY_BYTES_MAX + 1)));
    mvcc_heads_warm(heads, &(struct bytes){key, MVCC_HEAD_KEY_BYTES_MAX}, 1);
    mvcc_heads_destroy(heads);
}
