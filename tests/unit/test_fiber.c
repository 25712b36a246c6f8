#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/core.h"
#include "core/err.h"
#include "core/fiber.h"

static struct core *core;
static struct mesh *mesh;

static void rig_open(uint32_t fibers_max)
{
    struct core_options options = {
        .reactor =
            {
                .core_count = 1,
                .files_max = 256,
                .buffer_bytes = 1 * MIB,
                .recv_buffer_bytes = 4096,
                .recv_buffer_count = 16,
                .random_seed = 1,
            },
        .fibers_max = fibers_max,
    };
    char reason[256] = "";
    cr_assert_eq(mesh_create(1, 64, &mesh), 0);
    cr_assert_eq(core_create(&options, mesh, &core, reason, sizeof(reason)), 0, "%s", reason);
    core_set_current(core);
}

static void rig_close(void)
{
    core_set_current(NULL);
    core_destroy(core);
    mesh_destroy(mesh);
}

static void turns_until(const uint32_t *value, uint32_t wanted)
{
    uint64_t deadline_ns = reactor_clock_ns(core_reactor(core)) + 20 * NS_PER_S;
    while (*value != wanted) {
        cr_assert_lt(reactor_clock_ns(core_reactor(core)), deadline_ns, "stalled");
        core_turn(core, true);
    }
}

static char order[256];
static uint32_t finished;

static void note(const char *text)
{
    size_t used = strlen(order);
    snprintf(order + used, sizeof(order) - used, "%s", text);
}

static void letter_twice(void *argument)
{
    note(argument);
    fiber_yield();
    note(argument);
    finished++;
}

Test(fiber, yield_goes_to_the_end_of_the_queue)
{
    rig_open(8);
    cr_assert_null(fiber_current());
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, letter_twice, "a"), 0);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, letter_twice, "b"), 0);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, letter_twice, "c"), 0);
    cr_assert_str_empty(order, "never inside fiber_spawn()");
    turns_until(&finished, 3);
    cr_assert_str_eq(order, "abcabc");
    rig_close();
}

static void sleeper(void *argument)
{
    uint64_t wait_ms = (uint64_t)(uintptr_t)argument;
    uint64_t until_ns = core_now_ns(core) + wait_ms * NS_PER_MS;
    fiber_sleep_until(until_ns);
    cr_assert_geq(core_now_ns(core), until_ns);
    char digit[2] = {(char)('0' + wait_ms), 0};
    note(digit);
    finished++;
}

Test(fiber, sleepers_wake_by_deadline)
{
    rig_open(8);
    for (uint64_t i = 0; i < 3; i++)
        cr_assert_eq(
            fiber_spawn(core, FIBER_BACKGROUND, sleeper, (void *)(uintptr_t)("936"[i] - '0')), 0);
    turns_until(&finished, 3);
    cr_assert_str_eq(order, "369");
    rig_close();
}

Test(fiber, a_full_pool_pushes_back_and_recovers)
{
    rig_open(2);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, letter_twice, "a"), 0);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, letter_twice, "b"), 0);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, letter_twice, "c"), ERR_FULL);
    turns_until(&finished, 2);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, letter_twice, "d"), 0);
    turns_until(&finished, 3);
    cr_assert_str_eq(order, "ababdd");
    rig_close();
}

static struct fiber_event event;

static void waits_for_event(void *argument)
{
    (void)argument;
    fiber_event_wait(&event);
    note("w");
    fiber_event_wait(&event);
    note("W");
    finished++;
}

static void signals_event(void *argument)
{
    note(argument);
    fiber_event_signal(&event);
    fiber_event_signal(&event); /* merges with the first */
}

Test(fiber, an_event_before_the_wait_is_remembered)
{
    rig_open(4);
    fiber_event_init(&event);
    fiber_event_signal(&event);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, waits_for_event, NULL), 0);
    turns_until(&finished, 0);
    core_turn(core, false);
    cr_assert_str_eq(order, "w");
    core_turn(core, false);
    cr_assert_str_eq(order, "w", "consumed");
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, signals_event, "s"), 0);
    turns_until(&finished, 1);
    cr_assert_str_eq(order, "wsW");
    rig_close();
}

static struct fiber_waiters waiters;

static void parks(void *argument)
{
    fiber_waiters_park(&waiters);
    note(argument);
    finished++;
}

Test(fiber, waiters_wake_in_order_of_arrival)
{
    rig_open(4);
    fiber_waiters_init(&waiters);
    cr_assert_not(fiber_waiters_wake_one(&waiters), "nobody waits");
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, parks, "1"), 0);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, parks, "2"), 0);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, parks, "3"), 0);
    core_turn(core, false);
    cr_assert(fiber_waiters_wake_one(&waiters));
    turns_until(&finished, 1);
    cr_assert_str_eq(order, "1");
    fiber_waiters_wake_all(&waiters);
    turns_until(&finished, 3);
    cr_assert_str_eq(order, "123");
    rig_close();
}

static uint32_t deep(uint32_t depth)
{
    volatile uint8_t frame[512];
    frame[0] = (uint8_t)depth;
    frame[511] = 1;
    uint32_t below = depth == 0 ? 0 : deep(depth - 1);
    return below + frame[511];
}

static uint32_t deep_sum;

static void uses_its_stack(void *argument)
{
    (void)argument;
    for (int i = 0; i < 3; i++) {
        deep_sum += deep(60); /* about half of the stack */
        fiber_yield();
    }
    finished++;
}

Test(fiber, thousands_come_and_go)
{
    enum { BURST = 1000, ROUNDS = 3 };
    rig_open(BURST);
    for (int round = 1; round <= ROUNDS; round++) {
        for (int i = 0; i < BURST; i++)
            cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, uses_its_stack, NULL), 0);
        turns_until(&finished, (uint32_t)round * BURST);
    }
    cr_assert_eq(deep_sum, ROUNDS * BURST * 3 * 61u);
    struct core_stats stats;
    core_stats(core, &stats);
    cr_assert_eq(stats.fibers_live, 0);
    cr_assert_eq(stats.fibers_spawned, ROUNDS * BURST);
    rig_close();
}

Test(fiber, requests_leave_some_to_the_core_itself)
{
    static const struct {
        uint32_t fibers_max, requests_max;
    } cases[] = {{16, 12}, {2000, 2000 - FIBERS_OWN_MAX}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        rig_open(cases[i].fibers_max);
        finished = 0;
        uint32_t spawned = 0;
        while (fiber_spawn_request(core, FIBER_LATENCY, uses_its_stack, NULL) == 0)
            spawned++;
        cr_expect_eq(spawned, cases[i].requests_max);
        while (fiber_spawn(core, FIBER_LATENCY, uses_its_stack, NULL) == 0)
            spawned++;
        cr_expect_eq(spawned, cases[i].fibers_max);
        turns_until(&finished, spawned);
        cr_expect_eq(fiber_spawn_request(core, FIBER_LATENCY, uses_its_stack, NULL), 0);
        turns_until(&finished, spawned + 1);
        rig_close();
    }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* these catch the fault */
static volatile uint32_t bottomless;

/* Not a tail call: each frame is needed after the call below it. */
static uint32_t falls(uint32_t depth)
{
    volatile uint8_t frame[1024];
    frame[depth % sizeof(frame)] = 1;
    return bottomless == 1 ? 0 : falls(depth + 1) + frame[depth % sizeof(frame)];
}

static void overflows_its_stack(void *argument)
{
    (void)argument;
    finished = falls(0);
}

Test(fiber, stack_overflow_hits_the_guard, .signal = SIGSEGV)
{
    rig_open(2);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, overflows_its_stack, NULL), 0);
    core_turn(core, false);
}
#endif

Test(fiber, waiting_outside_a_fiber_is_noticed, .signal = SIGABRT)
{
    rig_open(2);
    fiber_yield();
}

static void reads_a_missing_file(void *argument)
{
    (void)argument;
    struct io_file file;
    cr_assert_eq(await_open("/nonexistent/file", IO_OPEN_READ, &file), -ENOENT);
    cr_assert_eq(file.fd, -1);
    finished++;
}

Test(fiber, await_returns_the_result)
{
    rig_open(4);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, reads_a_missing_file, NULL), 0);
    turns_until(&finished, 4);
    rig_close();
}
