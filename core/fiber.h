/*
 * fiber.h - straight-line code that waits: a request handler, an LSM read, a compaction.
 *
 * Story     A fiber runs on its own pooled, guarded stack and gives up the core only inside a call
 *           named await_*, fiber_wait*, fiber_sleep_until or fiber_yield. Switching is
 *           boost-context's assembly (about 5 ns), annotated for AddressSanitizer and
 *           ThreadSanitizer. After any suspension re-check what you relied on; hold no pointer into
 *           anything evictable across one unless it is pinned; keep large locals off the 64 KiB
 *           stack.
 * Owner     The core that spawned it; a fiber never migrates.
 * Errors    fiber_spawn() answers ERR_FULL when the pool is empty: back-pressure.
 * Limits    FIBER_STACK_BYTES of stack; fibers_max of the core, of which clients' requests leave a
 *           quarter, at most FIBERS_OWN_MAX, to the core's own work.
 */
#ifndef CORE_FIBER_H
#define CORE_FIBER_H

#include "core/base.h"
#include "core/queue.h"
#include "core/reactor.h"

#define FIBER_STACK_BYTES ((size_t)(64 * 1024))
#define FIBERS_OWN_MAX    256u

enum fiber_class {
    FIBER_LATENCY = 0,    /* runs first */
    FIBER_BACKGROUND = 1, /* gets what is left of the turn */
    FIBER_CLASS_COUNT
};

struct fiber;
struct core;

/* Spawned fibers first run later in the same or the next turn, never inside this call. */
must_check int fiber_spawn(struct core *core, enum fiber_class class, void (*entry)(void *argument),
                           void *argument);

/* As fiber_spawn(), for what a client asked for and may make last: ERR_FULL when it would take what
 * is left for the core's own work (stopping, catching up, calls between cores). */
must_check int fiber_spawn_request(struct core *core, enum fiber_class class,
                                   void (*entry)(void *argument), void *argument);

struct fiber *fiber_current(void); /* NULL outside a fiber */

void fiber_yield(void);                       /* to the end of the ready queue of its class */
void fiber_sleep_until(uint64_t deadline_ns); /* monotonic */
bool fiber_should_yield(void); /* this turn's budget is spent: long jobs call and yield */

/* One-to-one: the waiter parks, another piece of code on the same core makes it ready. A wake-up
 * before the park is remembered. */
struct fiber_event {
    struct fiber *waiter;
    bool signalled;
};

static inline void fiber_event_init(struct fiber_event *event)
{
    event->waiter = NULL;
    event->signalled = false;
}
void fiber_event_wait(struct fiber_event *event); /* consumes the signal */
void fiber_event_signal(
    struct fiber_event *event); /* same core only; callable from anywhere on it */

/* Many waiters, woken in order of arrival. */
struct fiber_waiters {
    struct queue queue;
};
void fiber_waiters_init(struct fiber_waiters *waiters);
void fiber_waiters_park(struct fiber_waiters *waiters);
bool fiber_waiters_wake_one(struct fiber_waiters *waiters);
void fiber_waiters_wake_all(struct fiber_waiters *waiters);

/* ---- reactor operations as straight-line calls; result as struct io_op's -------------------- */

must_check int32_t await_open(const char *path, uint32_t flags, struct io_file *file);
int32_t await_close(struct io_file *file);
must_check int32_t await_read(struct io_file file,
                              struct io_span span); /* short only at end of file */
must_check int32_t await_write(struct io_file file, struct io_span span,
                               uint32_t flags); /* all, or an error */
must_check int32_t await_sync(struct io_file file);
must_check int32_t await_sync_directory(const char *path);
must_check int32_t await_allocate(struct io_file file, uint64_t offset, uint64_t bytes);
must_check int32_t await_truncate(struct io_file file, uint64_t bytes);
must_check int32_t await_rename(const char *from, const char *to);
must_check int32_t await_unlink(const char *path);
must_check int32_t await_hard_link(const char *from, const char *to);
/* 0 too when it exists. Its name survives power loss when this returns. */
must_check int32_t await_make_directory(const char *path);
must_check int32_t await_remove_directory(const char *path);
must_check int32_t await_stat(const char *path, struct io_stat *stat);

#endif
