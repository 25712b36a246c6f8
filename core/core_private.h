/*
 * core_private.h - the fields of one core, shared by core.c (the turn), fiber.c and await.c.
 *
 * Owner     The core's thread. Only files of core/ include this.
 * Threads   Owner only, save `stop`.
 * Invariants
 *   C1  a fiber is in exactly one place: running, on one ready queue, on one waiters queue, known
 *       to one event, timer or op, or on the idle list of the pool.
 *   C2  `fibers.current` is non-NULL exactly while a fiber of this core runs.
 *   C3  fibers.live counts spawned fibers that have not returned; live <= created <= fibers_max.
 */
#ifndef CORE_CORE_PRIVATE_H
#define CORE_CORE_PRIVATE_H

#include <stdatomic.h>

#include "core/core.h"
#include "core/fiber.h"
#include "core/mesh.h"
#include "core/reactor.h"
#include "core/timer.h"

/* boost-context's switch (libboost_context.a, assembly). Upon return `fctx` is the context that
 * jumped here, suspended; `data` is what it passed. */
typedef void *fcontext_t;
struct transfer {
    fcontext_t fctx;
    void *data;
};
extern struct transfer jump_fcontext(fcontext_t to, void *data);
extern fcontext_t make_fcontext(void *stack_top, size_t size, void (*entry)(struct transfer from));

struct fiber_pool {
    struct queue ready[FIBER_CLASS_COUNT];
    struct fiber *current;
    struct fiber *idle;   /* stack of finished fibers, newest first */
    fcontext_t scheduler; /* where a running fiber jumps back to */
    uint32_t fibers_max;
    uint32_t created; /* stacks mapped; grows lazily up to fibers_max */
    uint32_t live, live_max;
    uint32_t live_peak; /* since the last trim */
    uint64_t trim_ns;   /* when idle stacks are looked at again */
    uint64_t spawned;
    struct fiber *all; /* every fiber ever created, for deinit */
    void *tsan_scheduler;
    const void *asan_stack_bottom; /* of the thread, learnt at the first switch */
    size_t asan_stack_bytes;
};

struct core_handler {
    core_message_handler *handle;
    void *context;
};

struct core_hook {
    void (*run)(void *context);
    void *context;
};

/* Messages that did not fit into the ring to one core, oldest first: a ring buffer that doubles. */
struct core_overflow {
    struct mesh_message *messages;
    uint32_t first, count, capacity;
};

/* How long to look for work before a sleep, when some is expected; see core_spin_judge(). */
struct core_spin {
    uint64_t budget_ns;
    uint32_t tried, found; /* in this window */
    uint32_t crowded;      /* of the last ones that waited, without a gap */
    uint32_t rest;         /* sleeps to come without a spin */
};

struct core {
    struct reactor *reactor;
    struct mesh *mesh;
    uint32_t id;
    uint32_t core_count;
    struct timer_heap timers;
    struct fiber_pool fibers;

    uint64_t turn_budget_ns;
    uint32_t background_percent;
    uint64_t turn_started_ns;
    uint64_t turn_deadline_ns; /* fiber_should_yield() answers true from here on */

    struct core_handler handlers[MESH_KIND_MAX];
    struct core_hook hooks[CORE_HOOKS_MAX];
    uint32_t hook_count;

    uint64_t sent_to; /* bit per core that was sent to in this turn, for mesh_must_wake() */
    struct core_overflow overflow[MESH_CORES_MAX];
    uint32_t overflow_count; /* sum over all destinations */

    struct core_spin spin;
    bool expecting_soon; /* core_expect_soon(), since the last round began */
    uint32_t ways_kept;  /* turns in which background work does not let others go first */
    struct logger *logger;
    _Atomic bool stop;
    struct core_stats stats;
};

/* The pool of one core's fibers: init before the first spawn, deinit when none is live (fibers that
 * still wait are abandoned with their stacks, as after a crash, when `abandon`). */
must_check int fiber_pool_init(struct core *core, uint32_t fibers_max);
void fiber_pool_deinit(struct core *core, bool abandon);

/* Runs fibers of `class` that were ready at entry, in order, until none is left or
 * reactor_clock_ns() was seen to reach `deadline_ns` (at least one runs). Those that become ready
 * or yield meanwhile wait for the next call. Returns how many ran. */
uint32_t fiber_run_ready(struct core *core, enum fiber_class class, uint64_t deadline_ns);

static inline bool fiber_any_ready(const struct core *core, enum fiber_class class)
{
    return !queue_is_empty(&core->fibers.ready[class]);
}

/* Parks the running fiber until fiber_make_ready(). For await.c and other files of core/. */
void fiber_park(void);
void fiber_make_ready(struct fiber *fiber);

/* logger.c: the buffered lines of one core. Flush starts at most one write; destroy waits for the
 * lines to leave, a second at most; false when a write is still stuck after that. */
struct logger *logger_create(struct reactor *reactor);
must_check bool logger_destroy(struct logger *logger);
void logger_flush(struct logger *logger);

#endif
