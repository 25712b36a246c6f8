/*
 * load.h - the other end of the echo: a closed loop of small requests from one core.
 *
 * Owner     The core it is given. Prints its result to standard output.
 */
#ifndef BENCH_ECHO_LOAD_H
#define BENCH_ECHO_LOAD_H

#include "core/core.h"

struct load_options {
    bool native; /* native frames, else gRPC */
    uint32_t connections;
    uint32_t in_flight; /* on each connection */
    uint32_t seconds;
    uint32_t message_bytes;
    uint32_t reply_bytes; /* 0: as the message */
};

int load_run(struct core *core, const struct io_address *address,
             const struct load_options *options);

#endif
