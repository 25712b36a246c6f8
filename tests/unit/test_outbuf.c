#include <criterion/criterion.h>
#include <stdlib.h>

#include "net/outbuf.h"

Test(outbuf, bytes_leave_in_order_whatever_is_sent_at_once)
{
    struct outbuf_pool pool = {0};
    struct outbuf out;
    outbuf_init(&out, &pool);
    uint32_t written = 0, read = 0;
    for (uint32_t round = 1; round < 300; round++) {
        for (uint32_t i = 0; i < round * 7; i++, written++)
            outbuf_append(&out, &written, sizeof(written));
        uint8_t *direct = outbuf_reserve(&out, 64);
        memcpy(direct, &written, sizeof(written));
        outbuf_commit(&out, sizeof(written));
        written++;
        while (out.bytes > round * 3) {
            struct iovec iov[3];
            uint32_t count = outbuf_gather(&out, iov, 3);
            cr_assert_gt(count, 0);
            size_t part = iov[0].iov_len / 4 * 4;
            if (part > 1000)
                part = 1000;
            for (size_t i = 0; i + 4 <= part; i += 4, read++) {
                uint32_t value;
                memcpy(&value, (uint8_t *)iov[0].iov_base + i, sizeof(value));
                cr_assert_eq(value, read);
            }
            cr_assert_gt(part, 0);
            outbuf_consume(&out, part);
        }
    }
    outbuf_deinit(&out);
    cr_expect_eq(pool.used_count, 0);
    outbuf_pool_deinit(&pool);
}

Test(outbuf, a_large_reservation_is_one_piece_and_idle_owns_nothing)
{
    struct outbuf_pool pool = {0};
    struct outbuf out;
    outbuf_init(&out, &pool);
    uint8_t *large = outbuf_reserve(&out, 1 << 20);
    memset(large, 7, 1 << 20);
    outbuf_commit(&out, 1 << 20);
    struct iovec iov[2];
    cr_expect_eq(outbuf_gather(&out, iov, 2), 1);
    cr_expect_eq(iov[0].iov_len, (size_t)1 << 20);
    outbuf_consume(&out, 1 << 20);
    cr_expect_null(out.first);
    cr_expect_eq(pool.used_count, 0);
    outbuf_pool_deinit(&pool);
}
