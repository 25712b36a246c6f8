#include "tests/sim/verdict.h"

#include <stdarg.h>
#include <stdio.h>

void verdict_set(struct verdict *verdict, enum sim_outcome outcome, const char *format, ...)
{
    if (verdict->outcome != SIM_PASS)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(verdict->text, sizeof(verdict->text), format, arguments);
    va_end(arguments);
    verdict->outcome = outcome;
}
