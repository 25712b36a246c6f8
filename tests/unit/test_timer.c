#include <criterion/criterion.h>
#include <signal.h>

#include "core/prng.h"
#include "core/timer.h"

struct entry {
    struct timer timer;
    struct timer_heap *heap;
    struct entry *stops; /* on firing */
    uint64_t again_ns;   /* on firing, arms itself for then, `again_count` times */
    uint32_t again_count;
    uint32_t fired;
};

static struct entry *fired_order[4096];
static uint32_t fired_count;

static void entry_fire(struct timer *timer)
{
    struct entry *entry = container_of(timer, struct entry, timer);
    cr_assert_not(timer_is_armed(timer), "idle when it fires, so that it may be armed again");
    fired_order[fired_count++ % ARRAY_COUNT(fired_order)] = entry;
    entry->fired++;
    if (entry->stops != NULL)
        timer_stop(entry->heap, &entry->stops->timer);
    if (entry->again_count > 0) {
        entry->again_count--;
        timer_start(entry->heap, timer, entry->again_ns);
    }
}

static void entry_init(struct entry *entry, struct timer_heap *heap)
{
    *entry = (struct entry){.heap = heap};
    timer_init(&entry->timer, entry_fire);
}

Test(timer, random_starts_moves_and_stops_fire_in_order)
{
    enum { COUNT = 1000 };
    static struct entry entries[COUNT];
    struct timer_heap heap;
    struct prng prng;
    prng_init(&prng, 3);
    timer_heap_init(&heap);
    cr_assert_eq(timer_heap_next_ns(&heap), TIMER_NEVER);
    for (int i = 0; i < COUNT; i++)
        entry_init(&entries[i], &heap);

    for (uint64_t now_ns = 0; now_ns < 20000; now_ns += prng_below(&prng, 100)) {
        for (int i = 0; i < 30; i++) {
            struct entry *entry = &entries[prng_below(&prng, COUNT)];
            if (prng_chance(&prng, 1, 3))
                timer_stop(&heap, &entry->timer);
            else
                timer_start(&heap, &entry->timer, now_ns + prng_below(&prng, 500));
        }
        uint32_t armed = 0, due = 0;
        uint64_t next_ns = TIMER_NEVER;
        for (int i = 0; i < COUNT; i++) {
            if (!timer_is_armed(&entries[i].timer))
                continue;
            armed++;
            due += entries[i].timer.deadline_ns <= now_ns;
            next_ns = u64_min(next_ns, entries[i].timer.deadline_ns);
        }
        cr_assert_eq(heap.count, armed);
        cr_assert_eq(timer_heap_next_ns(&heap), next_ns);
        fired_count = 0;
        cr_assert_eq(timer_heap_fire_due(&heap, now_ns), due);
        cr_assert_eq(fired_count, due);
        for (uint32_t i = 1; i < fired_count; i++) {
            const struct timer *a = &fired_order[i - 1]->timer, *b = &fired_order[i]->timer;
            cr_assert(a->deadline_ns < b->deadline_ns ||
                          (a->deadline_ns == b->deadline_ns && a->sequence < b->sequence),
                      "by deadline, ties in the order armed");
        }
    }
    for (int i = 0; i < COUNT; i++)
        timer_stop(&heap, &entries[i].timer);
    timer_heap_deinit(&heap);
}

Test(timer, one_may_stop_another_that_is_due_too)
{
    struct timer_heap heap;
    struct entry first, second;
    timer_heap_init(&heap);
    entry_init(&first, &heap);
    entry_init(&second, &heap);
    first.stops = &second;
    timer_start(&heap, &first.timer, 10);
    timer_start(&heap, &second.timer, 10);
    cr_assert_eq(timer_heap_fire_due(&heap, 10), 1);
    cr_assert_eq(second.fired, 0);
    timer_stop(&heap, &second.timer);
    timer_heap_deinit(&heap);
}

Test(timer, arming_in_the_past_does_not_hold_the_turn)
{
    struct timer_heap heap;
    struct entry entry;
    timer_heap_init(&heap);
    entry_init(&entry, &heap);
    entry.again_ns = 5;
    entry.again_count = 3;
    timer_start(&heap, &entry.timer, 10);
    for (uint32_t turn = 1; turn <= 4; turn++) {
        cr_assert_eq(timer_heap_fire_due(&heap, 10), 1);
        cr_assert_eq(entry.fired, turn);
    }
    cr_assert_eq(timer_heap_fire_due(&heap, 10), 0);
    timer_heap_deinit(&heap);
}

Test(timer, forgotten_timer_is_noticed, .signal = SIGABRT)
{
    struct timer_heap heap;
    struct entry entry;
    timer_heap_init(&heap);
    entry_init(&entry, &heap);
    timer_start(&heap, &entry.timer, 10);
    timer_heap_deinit(&heap);
}
