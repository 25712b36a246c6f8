/*
 * timer.h - deadlines of one core, a binary heap ordered by (deadline, sequence).
 *
 * Owner     The core. A timer is embedded in its owner and fires once.
 * Units     Monotonic ns (reactor_now_ns).
 * Errors    None: the heap grows by doubling at most to the number of timers ever armed at once.
 */
#ifndef CORE_TIMER_H
#define CORE_TIMER_H

#include "core/base.h"

#define TIMER_IDLE  UINT32_MAX
#define TIMER_NEVER UINT64_MAX

struct timer {
    uint64_t deadline_ns;
    uint64_t sequence; /* ties fire in the order armed */
    uint32_t slot;     /* in the heap; TIMER_IDLE when not armed */
    void (*fire)(struct timer *timer);
};

struct timer_heap {
    struct timer **slots;
    uint32_t count, count_max;
    uint64_t sequence;
};

void timer_heap_init(struct timer_heap *heap);
void timer_heap_deinit(struct timer_heap *heap); /* no timer may be armed */

void timer_init(struct timer *timer, void (*fire)(struct timer *timer));

static inline bool timer_is_armed(const struct timer *timer)
{
    return timer->slot != TIMER_IDLE;
}

/* Arms, or moves an armed timer. */
void timer_start(struct timer_heap *heap, struct timer *timer, uint64_t deadline_ns);
void timer_stop(struct timer_heap *heap, struct timer *timer); /* no-op when idle */

uint64_t timer_heap_next_ns(const struct timer_heap *heap);             /* TIMER_NEVER when empty */
uint32_t timer_heap_fire_due(struct timer_heap *heap, uint64_t now_ns); /* returns how many fired */

#endif
