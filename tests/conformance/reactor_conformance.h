/*
 * reactor_conformance.h - what every backend of core/reactor.h must do, as one table of cases.
 *
 * Story     The cases run one after another in a fiber of the current core, so that whatever drives
 *           that core's turns (a loop of core_turn(), or the simulator) drives them too. Without
 *           this table the simulated world drifts from the kernel.
 * Owner     The caller keeps the struct and the directory until `finished`.
 * Source    core/reactor.h, core/fiber.h
 */
#ifndef TESTS_REACTOR_CONFORMANCE_H
#define TESTS_REACTOR_CONFORMANCE_H

#include "core/base.h"

struct core;

struct reactor_conformance {
    const char *directory; /* exists, empty, writable; left empty */
    const char *host;      /* where this core may listen and connect, e.g. "127.0.0.1" */

    uint32_t cases_run;
    uint32_t failures;
    char first_failure[256]; /* "case: expression (file:line)" */
    bool finished;
};

/* Spawns the fiber that runs all cases; `finished` turns true at the end. Needs a core with at
 * least 8 fibers and 1 MiB of buffers. */
must_check int reactor_conformance_start(struct core *core,
                                         struct reactor_conformance *conformance);

#endif
