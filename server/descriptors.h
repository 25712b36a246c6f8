/*
 * descriptors.h - how the descriptors that the process may open are divided.
 *
 * Story     A file that storage cannot open ends the process, a connection that is refused does
 *           not. So connections never get all of what RLIMIT_NOFILE allows: a part is left for the
 *           log, tables, rings, listeners and the connections between members.
 * Units     Descriptors. Threads: any.
 * Limits    The part left for files is a quarter, at least DESCRIPTORS_RESERVED_MIN; of limits that
 *           are not much above that, three quarters. Each table is one open descriptor.
 * Source    docs/operations/memory.md, Descriptors.
 */
#ifndef SERVER_DESCRIPTORS_H
#define SERVER_DESCRIPTORS_H

#include <stdint.h>

#define DESCRIPTORS_RESERVED_MIN    512
#define DESCRIPTORS_CONNECTIONS_MAX 10000 /* of one connection core, whatever the limit */
#define DESCRIPTORS_LIMIT_IS_LOW    16384 /* below it a start warns */

struct descriptors {
    uint64_t limit;
    uint64_t reserved;        /* for everything that is no client connection */
    uint32_t connections_max; /* of each connection core */
};

/* `connection_cores` > 0 share what is not reserved. */
void descriptors_divide(uint64_t limit, uint32_t connection_cores, struct descriptors *descriptors);

#endif
