#include "core/invariant.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void invariant_fail(const char *condition, const char *file, int line, const char *function)
{
    fatal("invariant failed: %s at %s:%d in %s()", condition, file, line, function);
}

void fatal(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("{\"level\":\"fatal\",\"msg\":\"", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\"}\n", stderr);
    va_end(arguments);
    abort();
}
