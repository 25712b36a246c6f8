#include <criterion/criterion.h>

#include "core/base.h"
#include "net/peer.h"
#include "server/descriptors.h"

Test(descriptors, connections_leave_room_for_files)
{
    static const struct {
        const char *why;
        uint64_t limit;
        uint32_t cores;
        uint64_t reserved;
        uint32_t connections_max;
    } cases[] = {
        {"the usual hard limit", 524288, 1, 131072, 10000},
        {"no limit at all", UINT64_MAX, 29, UINT64_MAX / 4, 10000},
        {"cores share", 65536, 13, 16384, 3780},
        {"a low limit", 4096, 1, 1024, 3072},
        {"files need so many at least", 1024, 1, 512, 512},
        {"clients get a quarter at least", 600, 1, 450, 150},
        {"too low for members and files", 256, 2, 192, 32},
        {"hopeless", 1, 29, 1, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct descriptors descriptors;
        descriptors_divide(cases[i].limit, cases[i].cores, &descriptors);
        cr_expect_eq(descriptors.limit, cases[i].limit);
        cr_expect_eq(descriptors.reserved, cases[i].reserved, "%s", cases[i].why);
        cr_expect_eq(descriptors.connections_max, cases[i].connections_max, "%s", cases[i].why);
    }
}

/* Half of the least that is reserved stays for files, whatever the peer port is sent. */
Test(descriptors, connections_between_members_leave_half_of_the_reserve)
{
    cr_expect_leq(PEER_LINKS_IN_MAX + PEER_LINKS_CLOSING_MAX + PEERS_MAX * PEER_LANE_COUNT,
                  DESCRIPTORS_RESERVED_MIN / 2);
}
