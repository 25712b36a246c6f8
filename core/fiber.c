#include "core/fiber.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "core/core_private.h"
#include "core/err.h"

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define FIBER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FIBER_TSAN 1
#endif
#endif

#if FIBER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if FIBER_TSAN
#include <sanitizer/tsan_interface.h>
#endif

/* Sanitizers and unoptimised frames take several times the stack. */
#if FIBER_ASAN || FIBER_TSAN
#define FIBER_MAPPED_BYTES (FIBER_STACK_BYTES * 4)
#else
#define FIBER_MAPPED_BYTES FIBER_STACK_BYTES
#endif
#define FIBER_GUARD_BYTES ((size_t)4096)

/* Stack tops start at different cache sets: else all fibers would share the same few lines. */
#define FIBER_COLOURS      16u
#define FIBER_COLOUR_BYTES ((size_t)256)

/* Stacks that were not needed for FIBER_TRIM_NS give their pages back, save the first few. */
#define FIBER_TRIM_NS  NS_PER_S
#define FIBER_WARM_MIN 64u

/* The clock is read after every so many fibers of the latency class: these are short. */
#define FIBER_CLOCK_EVERY 4u

enum fiber_state { FIBER_IDLE, FIBER_READY, FIBER_RUNNING, FIBER_PARKED };

/* Lives at the top of its own stack mapping, which spares an allocation and a cache miss. */
struct fiber {
    struct queue_link link; /* on a ready queue or a waiters queue */
    struct core *core;
    fcontext_t context; /* where to go on, while not running */
    enum fiber_class class;
    enum fiber_state state;
    void (*entry)(void *argument);
    void *argument;
    struct fiber *idle_next; /* on the idle stack */
    struct fiber *all_next;
    uint8_t *mapping; /* guard page first, then the stack growing down from this struct */
    bool finished;
    bool cold; /* idle, and its stack pages were given back */
    void *tsan;
    void *asan_fake_stack;
};

_Static_assert(sizeof(struct fiber) < 1024, "a small part of the stack's first page");

static uint8_t *fiber_stack_low(const struct fiber *fiber)
{
    return fiber->mapping + FIBER_GUARD_BYTES;
}

static size_t fiber_stack_bytes(const struct fiber *fiber)
{
    uintptr_t top = (uintptr_t)fiber & ~(uintptr_t)63;
    return (size_t)(top - (uintptr_t)fiber_stack_low(fiber));
}

/* ---- switching ------------------------------------------------------------------------------ */

/* Scheduler to fiber; returns when the fiber parks, yields or finishes. */
static void fiber_enter(struct fiber_pool *pool, struct fiber *fiber)
{
    invariant(pool->current == NULL);
    invariant(fiber->state == FIBER_READY);
    fiber->state = FIBER_RUNNING;
    pool->current = fiber;
#if FIBER_ASAN
    void *fake_stack = NULL;
    __sanitizer_start_switch_fiber(&fake_stack, fiber_stack_low(fiber), fiber_stack_bytes(fiber));
#endif
#if FIBER_TSAN
    __tsan_switch_to_fiber(fiber->tsan, 0);
#endif
    struct transfer back = jump_fcontext(fiber->context, fiber);
#if FIBER_ASAN
    __sanitizer_finish_switch_fiber(fake_stack, NULL, NULL);
#endif
    fiber->context = back.fctx;
    pool->current = NULL;
}

/* Fiber to scheduler; returns when the fiber is entered again, never when `finished`. */
static void fiber_leave(struct fiber *fiber)
{
    struct fiber_pool *pool = &fiber->core->fibers;
#if FIBER_ASAN
    __sanitizer_start_switch_fiber(fiber->finished ? NULL : &fiber->asan_fake_stack,
                                   pool->asan_stack_bottom, pool->asan_stack_bytes);
#endif
#if FIBER_TSAN
    __tsan_switch_to_fiber(pool->tsan_scheduler, 0);
#endif
    struct transfer back = jump_fcontext(pool->scheduler, NULL);
#if FIBER_ASAN
    __sanitizer_finish_switch_fiber(fiber->asan_fake_stack, &pool->asan_stack_bottom,
                                    &pool->asan_stack_bytes);
#endif
    pool->scheduler = back.fctx;
}

static void fiber_main(struct transfer from)
{
    struct fiber *fiber = from.data;
    struct fiber_pool *pool = &fiber->core->fibers;
#if FIBER_ASAN
    __sanitizer_finish_switch_fiber(NULL, &pool->asan_stack_bottom, &pool->asan_stack_bytes);
#endif
    pool->scheduler = from.fctx;
    fiber->entry(fiber->argument);
    invariant(pool->current == fiber);
    fiber->finished = true;
    fiber_leave(fiber);
    invariant(!"a finished fiber was entered");
}

/* ---- pool ----------------------------------------------------------------------------------- */

int fiber_pool_init(struct core *core, uint32_t fibers_max)
{
    struct fiber_pool *pool = &core->fibers;
    memset(pool, 0, sizeof(*pool));
    for (int class = 0; class < FIBER_CLASS_COUNT; class ++)
        queue_init(&pool->ready[class], QUEUE_UNBOUNDED);
    pool->fibers_max = fibers_max;
#if FIBER_TSAN
    pool->tsan_scheduler = __tsan_get_current_fiber();
#endif
    return 0;
}

void fiber_pool_deinit(struct core *core, bool abandon)
{
    struct fiber_pool *pool = &core->fibers;
    invariant(pool->current == NULL);
    invariant(abandon || pool->live == 0);
    struct fiber *next;
    for (struct fiber *fiber = pool->all; fiber != NULL; fiber = next) {
        next = fiber->all_next;
#if FIBER_TSAN
        __tsan_destroy_fiber(fiber->tsan);
#endif
#if FIBER_ASAN
        __asan_unpoison_memory_region(fiber_stack_low(fiber), fiber_stack_bytes(fiber));
#endif
        munmap(fiber->mapping, FIBER_GUARD_BYTES + FIBER_MAPPED_BYTES);
    }
    pool->all = pool->idle = NULL;
    pool->created = pool->live = 0;
}

static struct fiber *fiber_create(struct core *core)
{
    struct fiber_pool *pool = &core->fibers;
    if (pool->created == pool->fibers_max)
        return NULL;
    size_t bytes = FIBER_GUARD_BYTES + FIBER_MAPPED_BYTES;
    uint8_t *mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (mapping == MAP_FAILED)
        return NULL;
    if (mprotect(mapping, FIBER_GUARD_BYTES, PROT_NONE) != 0) {
        munmap(mapping, bytes);
        return NULL;
    }
    size_t top = (sizeof(struct fiber) + 63) & ~(size_t)63;
    top += pool->created % FIBER_COLOURS * FIBER_COLOUR_BYTES;
    struct fiber *fiber = (struct fiber *)(void *)(mapping + bytes - top);
    memset(fiber, 0, sizeof(*fiber));
    queue_link_init(&fiber->link);
    fiber->mapping = mapping;
    fiber->core = core;
    fiber->state = FIBER_IDLE;
#if FIBER_TSAN
    fiber->tsan = __tsan_create_fiber(0);
#endif
    fiber->all_next = pool->all;
    pool->all = fiber;
    pool->created++;
    return fiber;
}

static struct fiber *fiber_acquire(struct core *core)
{
    struct fiber_pool *pool = &core->fibers;
    struct fiber *fiber = pool->idle;
    if (fiber == NULL) {
        fiber = fiber_create(core);
        if (fiber == NULL)
            return NULL;
    } else {
        pool->idle = fiber->idle_next;
        invariant(fiber->state == FIBER_IDLE);
    }
    fiber->cold = false;
    pool->live++;
    if (pool->live > pool->live_peak)
        pool->live_peak = pool->live;
    if (pool->live > pool->live_max)
        pool->live_max = pool->live;
    pool->spawned++;
    return fiber;
}

static void fiber_release(struct fiber *fiber)
{
    struct fiber_pool *pool = &fiber->core->fibers;
    invariant(fiber->link.next == QUEUE_LINK_IDLE);
    invariant(pool->live > 0);
    pool->live--;
    fiber->state = FIBER_IDLE;
    fiber->idle_next = pool->idle;
    pool->idle = fiber;
}

/* Gives a finished fiber's stack back to the kernel, all but the page with its frame of origin. */
static void fiber_chill(struct fiber *fiber)
{
    invariant(fiber->state == FIBER_IDLE);
    uint8_t *low = fiber_stack_low(fiber);
    uintptr_t top_page = (uintptr_t)fiber & ~(uintptr_t)4095;
    madvise(low, top_page - (uintptr_t)low, MADV_DONTNEED);
    fiber->cold = true;
}

/* Once a period: of the idle fibers keeps warm what the period's peak needed. The idle list is a
 * stack, so what the peak did not reach is at its end. */
static void fiber_pool_trim(struct core *core)
{
    struct fiber_pool *pool = &core->fibers;
    uint64_t now_ns = reactor_now_ns(core->reactor);
    if (likely(now_ns < pool->trim_ns))
        return;
    uint32_t keep = pool->live_peak > FIBER_WARM_MIN ? pool->live_peak : FIBER_WARM_MIN;
    uint32_t rank = pool->live;
    for (struct fiber *fiber = pool->idle; fiber != NULL; fiber = fiber->idle_next)
        if (rank++ >= keep && !fiber->cold)
            fiber_chill(fiber);
    pool->live_peak = pool->live;
    pool->trim_ns = now_ns + FIBER_TRIM_NS;
}

int fiber_spawn(struct core *core, enum fiber_class class, void (*entry)(void *argument),
                void *argument)
{
    invariant(class < FIBER_CLASS_COUNT);
    struct fiber *fiber = fiber_acquire(core);
    if (fiber == NULL)
        return ERR_FULL;
    fiber->class = class;
    fiber->entry = entry;
    fiber->argument = argument;
    fiber->finished = false;
#if FIBER_ASAN
    __asan_unpoison_memory_region(fiber_stack_low(fiber), fiber_stack_bytes(fiber));
    fiber->asan_fake_stack = NULL;
#endif
    size_t bytes = fiber_stack_bytes(fiber);
    fiber->context = make_fcontext(fiber_stack_low(fiber) + bytes, bytes, fiber_main);
    fiber->state = FIBER_READY;
    queue_append(&core->fibers.ready[class], &fiber->link);
    return 0;
}

int fiber_spawn_request(struct core *core, enum fiber_class class, void (*entry)(void *argument),
                        void *argument)
{
    const struct fiber_pool *pool = &core->fibers;
    uint32_t own = (uint32_t)u64_min(FIBERS_OWN_MAX, pool->fibers_max / 4);
    if (pool->live >= pool->fibers_max - own)
        return ERR_FULL;
    return fiber_spawn(core, class, entry, argument);
}

/* ---- scheduling ----------------------------------------------------------------------------- */

uint32_t fiber_run_ready(struct core *core, enum fiber_class class, uint64_t deadline_ns)
{
    struct fiber_pool *pool = &core->fibers;
    struct queue *ready = &pool->ready[class];
    uint32_t ran = 0;
    for (uint32_t left = ready->count; left > 0; left--) {
        struct fiber *fiber = container_of(queue_pop(ready), struct fiber, link);
        fiber_enter(pool, fiber);
        ran++;
        if (fiber->finished)
            fiber_release(fiber);
        bool look = class == FIBER_BACKGROUND || ran % FIBER_CLOCK_EVERY == 0;
        if (left > 1 && look && reactor_clock_ns(core->reactor) >= deadline_ns)
            break;
    }
    fiber_pool_trim(core);
    return ran;
}

struct fiber *fiber_current(void)
{
    struct core *core = core_current();
    return core == NULL ? NULL : core->fibers.current;
}

static struct fiber *fiber_running(void)
{
    struct fiber *fiber = fiber_current();
    invariant(fiber != NULL); /* waiting outside a fiber would block the core */
    invariant(fiber->state == FIBER_RUNNING);
    return fiber;
}

void fiber_park(void)
{
    struct fiber *fiber = fiber_running();
    fiber->state = FIBER_PARKED;
    fiber_leave(fiber);
}

void fiber_make_ready(struct fiber *fiber)
{
    invariant(fiber->state == FIBER_PARKED);
    fiber->state = FIBER_READY;
    queue_append(&fiber->core->fibers.ready[fiber->class], &fiber->link);
}

void fiber_yield(void)
{
    struct fiber *fiber = fiber_running();
    fiber->state = FIBER_READY;
    queue_append(&fiber->core->fibers.ready[fiber->class], &fiber->link);
    fiber_leave(fiber);
}

bool fiber_should_yield(void)
{
    const struct core *core = fiber_running()->core;
    return reactor_clock_ns(core->reactor) >= core->turn_deadline_ns;
}

struct fiber_sleep {
    struct timer timer;
    struct fiber *fiber;
};

static void fiber_sleep_over(struct timer *timer)
{
    fiber_make_ready(container_of(timer, struct fiber_sleep, timer)->fiber);
}

void fiber_sleep_until(uint64_t deadline_ns)
{
    struct fiber_sleep sleep = {.fiber = fiber_running()};
    timer_init(&sleep.timer, fiber_sleep_over);
    timer_start(&sleep.fiber->core->timers, &sleep.timer, deadline_ns);
    fiber_park();
}

/* ---- events and waiters --------------------------------------------------------------------- */

void fiber_event_wait(struct fiber_event *event)
{
    invariant(event->waiter == NULL); /* one-to-one */
    if (!event->signalled) {
        event->waiter = fiber_running();
        fiber_park();
        event->waiter = NULL;
    }
    invariant(event->signalled);
    event->signalled = false;
}

void fiber_event_signal(struct fiber_event *event)
{
    if (event->signalled)
        return;
    event->signalled = true;
    if (event->waiter != NULL)
        fiber_make_ready(event->waiter);
}

void fiber_waiters_init(struct fiber_waiters *waiters)
{
    queue_init(&waiters->queue, QUEUE_UNBOUNDED);
}

void fiber_waiters_park(struct fiber_waiters *waiters)
{
    queue_append(&waiters->queue, &fiber_running()->link);
    fiber_park();
}

bool fiber_waiters_wake_one(struct fiber_waiters *waiters)
{
    struct queue_link *link = queue_pop(&waiters->queue);
    if (link == NULL)
        return false;
    fiber_make_ready(container_of(link, struct fiber, link));
    return true;
}

void fiber_waiters_wake_all(struct fiber_waiters *waiters)
{
    while (fiber_waiters_wake_one(waiters)) {
    }
}
