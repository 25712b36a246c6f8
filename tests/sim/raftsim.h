/*
 * raftsim.h - what the command line asks of a simulated run, and what a run answers.
 *
 * Owner     tests/sim/raftsim.c.
 */
#ifndef TESTS_SIM_RAFTSIM_H
#define TESTS_SIM_RAFTSIM_H

#include <stdio.h>

#include "tests/sim/verdict.h"

struct raftsim_options {
    uint64_t seed;
    uint32_t nodes;  /* voters at the start; 0 = drawn */
    uint32_t calm;   /* whole nodes: no harm, so many calls a second; 0 = all drawn */
    uint64_t until;  /* stop at this event; 0 = at the end */
    uint64_t spared; /* consensus only: bit per kind of harm (lite_harm_name()) that is not done */
    bool log;        /* the nodes' log lines, to stderr */
};

struct raftsim_result {
    struct verdict verdict;
    uint64_t hash, events;
    uint64_t simulated_ns;
    uint64_t operations, commits, leaderships, crashes;
};

#endif
