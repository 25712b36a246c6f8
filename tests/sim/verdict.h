/*
 * verdict.h - the first thing that a checker found wrong.
 *
 * Story     Checkers do not abort: they leave a verdict, so that their own unit tests can feed them
 *           bad histories. The simulator looks after every event and stops at the first.
 */
#ifndef TESTS_SIM_VERDICT_H
#define TESTS_SIM_VERDICT_H

#include "core/base.h"

/* Exit codes of raftsim. */
enum sim_outcome {
    SIM_PASS = 0,
    SIM_USAGE = 2,
    SIM_CRASH = 127, /* an invariant of production code, or a signal */
    SIM_LIVENESS = 128,
    SIM_SAFETY = 129,
    SIM_NONDETERMINISM = 130,
};

struct verdict {
    enum sim_outcome outcome;
    char text[400];
};

/* Keeps the first. */
void verdict_set(struct verdict *verdict, enum sim_outcome outcome, const char *format, ...)
    printf_like(3, 4);

#endif
