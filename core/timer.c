#include "core/timer.h"

#include <stdlib.h>

#include "core/invariant.h"

#define TIMER_SLOTS_MIN 64

void timer_heap_init(struct timer_heap *heap)
{
    *heap = (struct timer_heap){0};
}

void timer_heap_deinit(struct timer_heap *heap)
{
    invariant(heap->count == 0);
    free(heap->slots);
    *heap = (struct timer_heap){0};
}

void timer_init(struct timer *timer, void (*fire)(struct timer *timer))
{
    *timer = (struct timer){.slot = TIMER_IDLE, .fire = fire};
}

static bool timer_is_before(const struct timer *a, const struct timer *b)
{
    if (a->deadline_ns != b->deadline_ns)
        return a->deadline_ns < b->deadline_ns;
    return a->sequence < b->sequence;
}

static void timer_place(struct timer_heap *heap, struct timer *timer, uint32_t slot)
{
    heap->slots[slot] = timer;
    timer->slot = slot;
}

static void timer_sift_up(struct timer_heap *heap, struct timer *timer, uint32_t slot)
{
    while (slot > 0) {
        uint32_t parent = (slot - 1) / 2;
        if (!timer_is_before(timer, heap->slots[parent]))
            break;
        timer_place(heap, heap->slots[parent], slot);
        slot = parent;
    }
    timer_place(heap, timer, slot);
}

static void timer_sift_down(struct timer_heap *heap, struct timer *timer, uint32_t slot)
{
    for (;;) {
        uint32_t child = 2 * slot + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count && timer_is_before(heap->slots[child + 1], heap->slots[child]))
            child++;
        if (!timer_is_before(heap->slots[child], timer))
            break;
        timer_place(heap, heap->slots[child], slot);
        slot = child;
    }
    timer_place(heap, timer, slot);
}

static void timer_sift(struct timer_heap *heap, struct timer *timer, uint32_t slot)
{
    if (slot > 0 && timer_is_before(timer, heap->slots[(slot - 1) / 2]))
        timer_sift_up(heap, timer, slot);
    else
        timer_sift_down(heap, timer, slot);
}

static void timer_heap_grow(struct timer_heap *heap)
{
    uint32_t count_max = heap->count_max == 0 ? TIMER_SLOTS_MIN : heap->count_max * 2;
    struct timer **slots = realloc(heap->slots, count_max * sizeof(struct timer *));
    invariant(slots != NULL);
    heap->slots = slots;
    heap->count_max = count_max;
}

void timer_start(struct timer_heap *heap, struct timer *timer, uint64_t deadline_ns)
{
    invariant(timer->fire != NULL); /* timer_init() came first */
    timer->deadline_ns = deadline_ns;
    timer->sequence = heap->sequence++;
    if (timer_is_armed(timer)) {
        invariant(timer->slot < heap->count && heap->slots[timer->slot] == timer);
        timer_sift(heap, timer, timer->slot);
        return;
    }
    if (heap->count == heap->count_max)
        timer_heap_grow(heap);
    timer_sift_up(heap, timer, heap->count++);
}

void timer_stop(struct timer_heap *heap, struct timer *timer)
{
    if (!timer_is_armed(timer))
        return;
    uint32_t slot = timer->slot;
    invariant(slot < heap->count && heap->slots[slot] == timer); /* armed on this heap */
    timer->slot = TIMER_IDLE;
    struct timer *last = heap->slots[--heap->count];
    if (last != timer)
        timer_sift(heap, last, slot);
}

uint64_t timer_heap_next_ns(const struct timer_heap *heap)
{
    return heap->count == 0 ? TIMER_NEVER : heap->slots[0]->deadline_ns;
}

/* At most as many as were armed at entry, so that a timer which arms itself again in the past
 * cannot hold the turn. */
uint32_t timer_heap_fire_due(struct timer_heap *heap, uint64_t now_ns)
{
    uint32_t fired = 0;
    for (uint32_t left = heap->count; left > 0 && heap->count > 0; left--) {
        struct timer *timer = heap->slots[0];
        if (timer->deadline_ns > now_ns)
            break;
        timer_stop(heap, timer);
        fired++;
        timer->fire(timer); /* last touch: its owner may free it inside */
    }
    return fired;
}
