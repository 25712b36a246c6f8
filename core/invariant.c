#include "core/invariant.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FATAL_MESSAGE_BYTES_MAX 1024
#define FATAL_WRITE_SECONDS_MAX 1

typedef void fatal_flush(void);
static _Atomic(fatal_flush *) fatal_flush_hook;

void fatal_set_flush(void (*flush)(void))
{
    atomic_store(&fatal_flush_hook, flush);
}

static void fatal_give_up(int number)
{
    (void)number;
    abort();
}

/* Whoever reads standard error may have stopped, and a write to a full pipe waits for ever: the
 * process ends all the same, without the rest of its last words. */
static void fatal_limit_writing(void)
{
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    signal(SIGALRM, fatal_give_up);
    sigprocmask(SIG_UNBLOCK, &alarms, NULL); /* some thread has to take it; this one does */
    alarm(FATAL_WRITE_SECONDS_MAX);
}

/* No stdio: nothing here may wait for a lock that the failing code holds. */
static void fatal_write(const char *bytes, size_t count)
{
    while (count > 0) {
        ssize_t written = write(STDERR_FILENO, bytes, count);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return;
        bytes += written;
        count -= (size_t)written;
    }
}

__attribute__((noreturn)) static void fatal_end(const char *message)
{
    static const char start[] = "{\"level\":\"fatal\",\"msg\":\"";
    char line[sizeof(start) + 2 * FATAL_MESSAGE_BYTES_MAX + 4];
    size_t used = sizeof(start) - 1;
    memcpy(line, start, used);
    for (const char *at = message; *at != '\0'; at++) {
        if (*at == '"' || *at == '\\')
            line[used++] = '\\';
        line[used++] = (unsigned char)*at < 0x20 ? ' ' : *at;
    }
    memcpy(line + used, "\"}\n", 3);
    used += 3;

    fatal_limit_writing();
    /* A failure inside the flush itself must not come back here for ever. */
    fatal_flush *flush = atomic_exchange(&fatal_flush_hook, NULL);
    if (flush != NULL)
        flush();
    fatal_write(line, used);
    alarm(0);
    abort();
}

void fatal(const char *format, ...)
{
    char message[FATAL_MESSAGE_BYTES_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
#if KV_SIMULATED
    sim_fatal(message);
#endif
    fatal_end(message);
}

void invariant_fail(const char *condition, const char *file, int line, const char *function)
{
    char message[FATAL_MESSAGE_BYTES_MAX];
    snprintf(message, sizeof(message), "invariant failed: %s at %s:%d in %s()", condition, file,
             line, function);
    fatal_end(message);
}
