/* Turns of real cores: one on this thread, or two that talk. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>

#include "core/core.h"
#include "core/prng.h"

enum { KIND_PING, KIND_PONG, KIND_COUNTED };

static struct core *core_open(struct mesh *mesh, uint32_t id, uint32_t poll_us)
{
    struct core_options options = {
        .cpu_count = mesh_core_count(mesh), /* it may spin, also where a test has pinned it */
        .reactor = {.core = id,
                    .core_count = mesh_core_count(mesh),
                    .files_max = 64,
                    .buffer_bytes = 1 * MIB,
                    .recv_buffer_bytes = 4096,
                    .recv_buffer_count = 8,
                    .random_seed = id + 1,
                    .poll_us = poll_us},
        .fibers_max = 64,
    };
    struct core *core = NULL;
    char reason[256] = "";
    cr_assert_eq(core_create(&options, mesh, &core, reason, sizeof(reason)), 0, "%s", reason);
    return core;
}

static struct core *core_open_alone(void)
{
    struct mesh *mesh = NULL;
    cr_assert_eq(mesh_create(1, 8, &mesh), 0);
    struct core *core = core_open(mesh, 0, 0);
    struct reactor *reactor = core_reactor(core);
    reactor_link(reactor, &reactor, 1);
    return core;
}

/* This thread, and those that it starts from now on, share one CPU. */
static void pin_to_one_cpu(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)sched_getcpu(), &set);
    cr_assert_eq(sched_setaffinity(0, sizeof(set), &set), 0);
}

static void core_close_alone(struct core *core)
{
    struct mesh *mesh = core_mesh(core);
    core_destroy(core);
    mesh_destroy(mesh);
    cr_assert_null(core_current());
}

/* ---- one core ------------------------------------------------------------------------------- */

struct steps {
    struct core *core;
    char text[256];
    uint32_t used;
    uint32_t left; /* for those that repeat */
    uint64_t received;
};

static void steps_add(struct steps *steps, char step)
{
    cr_assert_lt(steps->used, sizeof(steps->text) - 1);
    steps->text[steps->used++] = step;
}

static void on_message(void *context, struct core *core, const struct mesh_message *message)
{
    struct steps *steps = context;
    cr_assert_eq(core, steps->core);
    cr_assert_eq(message->from, core_id(core));
    steps_add(steps, 'm');
    if (message->word[0] > 0) {
        struct mesh_message next = *message;
        next.word[0]--;
        cr_assert(core_send(core, core_id(core), &next));
    }
}

static void latency_fiber(void *argument)
{
    steps_add(argument, 'l');
}

static void background_fiber(void *argument)
{
    steps_add(argument, 'b');
}

static void on_turn_end(void *context)
{
    steps_add(context, 'h');
}

struct step_timer {
    struct timer timer;
    struct steps *steps;
};

static void on_timer(struct timer *timer)
{
    steps_add(container_of(timer, struct step_timer, timer)->steps, 't');
}

Test(core, order_within_a_turn)
{
    struct core *core = core_open_alone();
    cr_assert_eq(core_current(), core);
    struct steps steps = {.core = core};
    core_handle(core, KIND_PING, on_message, &steps);
    core_on_turn_end(core, on_turn_end, &steps);

    struct step_timer timer = {.steps = &steps};
    timer_init(&timer.timer, on_timer);
    timer_start(core_timers(core), &timer.timer, 1);
    cr_assert_eq(fiber_spawn(core, FIBER_BACKGROUND, background_fiber, &steps), 0);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, latency_fiber, &steps), 0);
    struct mesh_message message = {.kind = KIND_PING, .word = {1}};
    cr_assert(core_send(core, 0, &message));

    cr_assert_not(core_turn(core, true), "there is work: it must not sleep, and does all of it");
    cr_assert_str_eq(steps.text, "mmlbth", "one round: what a ring's drain sends is drained too");

    steps = (struct steps){.core = core};
    cr_assert_not(core_turn(core, false));
    cr_assert_str_eq(steps.text, "h", "an idle turn");
    core_close_alone(core);
}

static void hook_that_sends(void *context)
{
    struct steps *steps = context;
    if (steps->left == 0)
        return;
    steps->left--;
    struct mesh_message message = {.kind = KIND_PING};
    cr_assert(core_send(steps->core, 0, &message));
}

Test(core, local_work_of_hooks_repeats_the_round_a_bounded_number_of_times)
{
    struct core *core = core_open_alone();
    struct steps steps = {.core = core, .left = 6};
    core_handle(core, KIND_PING, on_message, &steps);
    core_on_turn_end(core, on_turn_end, &steps);
    core_on_turn_end(core, hook_that_sends, &steps);
    cr_assert(core_turn(core, false), "the last round's message is left");
    cr_assert_str_eq(steps.text, "hmhmhmh");
    cr_assert_not(core_turn(core, false));
    cr_assert_str_eq(steps.text, "hmhmhmhmhmhmh");
    core_close_alone(core);
}

static void on_counted(void *context, struct core *core, const struct mesh_message *message)
{
    struct steps *steps = context;
    (void)core;
    cr_assert_eq(message->word[0], steps->received, "posted messages keep their order");
    steps->received++;
}

Test(core, posted_messages_wait_their_turn_and_keep_their_order)
{
    struct core *core = core_open_alone();
    struct steps steps = {.core = core};
    core_handle(core, KIND_COUNTED, on_counted, &steps);
    uint64_t sent = 0;
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 150; i++) {
            struct mesh_message message = {.kind = KIND_COUNTED, .word = {sent++}};
            core_post(core, 0, &message);
        }
        struct mesh_message message = {.kind = KIND_COUNTED};
        cr_assert_not(core_send(core, 0, &message), "must not overtake what was posted");
        for (int turn = round % 3; turn > 0; turn--)
            (void)core_turn(core, true);
    }
    while (core_turn(core, false))
        ;
    cr_assert_eq(steps.received, sent);
    struct core_stats stats;
    core_stats(core, &stats);
    cr_assert_eq(stats.messages_in, sent);
    cr_assert_eq(stats.messages_out, sent);
    cr_assert_gt(stats.ring_full, 0);
    core_close_alone(core);
}

struct spinner {
    uint64_t until_ns;
    uint32_t yields;
};

static void spin_yielding(void *argument)
{
    struct spinner *spinner = argument;
    while (core_now_ns(core_current()) < spinner->until_ns) {
        spinner->yields++;
        while (!fiber_should_yield())
            ;
        fiber_yield();
    }
}

Test(core, background_fibers_get_their_share_of_a_busy_turn_and_all_of_an_idle_one)
{
    struct core *core = core_open_alone();
    struct spinner background = {.until_ns =
                                     reactor_clock_ns(core_reactor(core)) + 200 * NS_PER_MS};
    cr_assert_eq(fiber_spawn(core, FIBER_BACKGROUND, spin_yielding, &background), 0);
    struct core_stats before, after;
    core_stats(core, &before);
    while (core_turn(core, false))
        ;
    core_stats(core, &after);
    uint64_t idle_turn_ns = (after.busy_ns - before.busy_ns) / (after.turns - before.turns);

    struct spinner latency = {.until_ns = reactor_clock_ns(core_reactor(core)) + 200 * NS_PER_MS};
    background = (struct spinner){.until_ns = latency.until_ns};
    cr_assert_eq(fiber_spawn(core, FIBER_BACKGROUND, spin_yielding, &background), 0);
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, spin_yielding, &latency), 0);
    core_stats(core, &before);
    while (core_turn(core, false))
        ;
    core_stats(core, &after);
    uint64_t busy_turn_ns = (after.busy_ns - before.busy_ns) / (after.turns - before.turns);
    cr_expect_geq(background.yields + 1, latency.yields / 5, "a background fiber is not starved");
    cr_expect_gt(idle_turn_ns, 400 * NS_PER_US, "an idle core's background fiber gets the turn");
    cr_expect_gt(busy_turn_ns, 500 * NS_PER_US, "budget of the latency class, and a share");
    core_close_alone(core);
}

Test(core, sleeps_until_the_next_timer)
{
    struct core *core = core_open_alone();
    struct steps steps = {.core = core};
    struct step_timer timer = {.steps = &steps};
    timer_init(&timer.timer, on_timer);
    uint64_t started_ns = reactor_clock_ns(core_reactor(core));
    timer_start(core_timers(core), &timer.timer, started_ns + 30 * NS_PER_MS);
    uint32_t turns = 0;
    while (steps.used == 0) {
        (void)core_turn(core, true);
        turns++;
    }
    uint64_t waited_ns = reactor_clock_ns(core_reactor(core)) - started_ns;
    cr_expect_geq(waited_ns, 30 * NS_PER_MS);
    cr_expect_lt(waited_ns, 2 * NS_PER_S);
    cr_expect_lt(turns, 10, "it slept rather than spun: %u turns", turns);
    core_close_alone(core);
}

Test(core, sleep_by_hand_refuses_while_there_is_work)
{
    struct core *core = core_open_alone();
    struct steps steps = {.core = core};
    core_handle(core, KIND_PING, on_message, &steps);
    uint64_t deadline_ns = 0;
    cr_assert(core_sleep_begin(core, &deadline_ns));
    cr_assert_eq(deadline_ns, TIMER_NEVER);
    core_sleep_end(core);
    struct mesh_message message = {.kind = KIND_PING};
    cr_assert(core_send(core, 0, &message));
    cr_assert_not(core_sleep_begin(core, &deadline_ns));
    (void)core_turn(core, false);
    core_close_alone(core);
}

Test(core, a_kind_that_nobody_handles_is_noticed, .signal = SIGABRT)
{
    struct core *core = core_open_alone();
    struct mesh_message message = {.kind = KIND_PONG};
    cr_assert(core_send(core, 0, &message));
    (void)core_turn(core, false);
}

static struct core *stopped_by_signal;

static void stop_on_signal(int signal)
{
    (void)signal;
    core_stop(stopped_by_signal);
}

Test(core, a_signal_handler_stops_a_sleeping_core)
{
    struct core *core = core_open_alone();
    stopped_by_signal = core;
    struct sigaction action = {.sa_handler = stop_on_signal};
    cr_assert_eq(sigaction(SIGALRM, &action, NULL), 0);
    struct itimerval soon = {.it_value = {.tv_usec = 20000}};
    cr_assert_eq(setitimer(ITIMER_REAL, &soon, NULL), 0);
    core_run(core);
    core_close_alone(core);
}

/* ---- two cores ------------------------------------------------------------------------------ */

#define PAIR_ROUNDS 3000

struct pair {
    struct mesh *mesh;
    struct core *cores[2];
    pthread_t threads[2];
    pthread_barrier_t barrier;
    uint32_t poll_us;
    uint32_t rounds;
    bool expecting;
    uint64_t received[2];
    uint64_t latency_ns_max;
    uint64_t sent_ns;
};

struct pair_side {
    struct pair *pair;
    uint32_t id;
};

static void pair_expect(void *context)
{
    struct pair_side *side = context;
    core_expect_soon(side->pair->cores[side->id], side->pair->expecting);
}

static void pair_on_ping(void *context, struct core *core, const struct mesh_message *message)
{
    struct pair_side *side = context;
    side->pair->received[side->id]++;
    struct mesh_message answer = {.kind = KIND_PONG, .word = {message->word[0]}};
    cr_assert(core_send(core, message->from, &answer));
}

static void pair_ping(struct pair *pair, uint64_t number)
{
    struct mesh_message message = {.kind = KIND_PING, .word = {number}};
    pair->sent_ns = reactor_clock_ns(core_reactor(pair->cores[0]));
    cr_assert(core_send(pair->cores[0], 1, &message));
}

static void pair_on_pong(void *context, struct core *core, const struct mesh_message *message)
{
    struct pair_side *side = context;
    struct pair *pair = side->pair;
    uint64_t latency_ns = reactor_clock_ns(core_reactor(core)) - pair->sent_ns;
    pair->latency_ns_max = u64_max(pair->latency_ns_max, latency_ns);
    cr_assert_eq(message->word[0], pair->received[0]);
    pair->received[0]++;
    if (pair->received[0] < pair->rounds) {
        pair_ping(pair, pair->received[0]);
        return;
    }
    core_stop(pair->cores[1]);
    core_stop(pair->cores[0]);
}

static void *pair_run(void *argument)
{
    struct pair_side *side = argument;
    struct pair *pair = side->pair;
    struct core *core = core_open(pair->mesh, side->id, pair->poll_us);
    pair->cores[side->id] = core;
    core_handle(core, KIND_PING, pair_on_ping, side);
    core_handle(core, KIND_PONG, pair_on_pong, side);
    core_on_turn_end(core, pair_expect, side);
    pthread_barrier_wait(&pair->barrier);
    struct reactor *reactors[2] = {core_reactor(pair->cores[0]), core_reactor(pair->cores[1])};
    reactor_link(core_reactor(core), reactors, 2);
    pthread_barrier_wait(&pair->barrier);
    if (side->id == 0)
        pair_ping(pair, 0); /* before the first turn: must still wake the other */
    core_run(core);
    pthread_barrier_wait(&pair->barrier);
    core_destroy(core);
    return NULL;
}

static void pair_ping_pong(struct pair *pair)
{
    struct pair_side sides[2] = {{pair, 0}, {pair, 1}};
    cr_assert_eq(mesh_create(2, 16, &pair->mesh), 0);
    pthread_barrier_init(&pair->barrier, NULL, 2);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&pair->threads[i], NULL, pair_run, &sides[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(pair->threads[i], NULL);
    pthread_barrier_destroy(&pair->barrier);
    mesh_destroy(pair->mesh);
    cr_expect_eq(pair->received[0], pair->rounds);
    cr_expect_eq(pair->received[1], pair->rounds);
    cr_expect_lt(pair->latency_ns_max, 2 * NS_PER_S, "a wake-up was lost for %lu ns",
                 (unsigned long)pair->latency_ns_max);
}

Test(core, ping_pong_between_sleepers)
{
    struct pair pair = {.rounds = PAIR_ROUNDS};
    pair_ping_pong(&pair);
}

Test(core, ping_pong_between_spinners)
{
    struct pair pair = {.rounds = PAIR_ROUNDS, .poll_us = 50, .expecting = true};
    pair_ping_pong(&pair);
}

static uint64_t cpu_ns(clockid_t clock)
{
    struct timespec used;
    cr_assert_eq(clock_gettime(clock, &used), 0);
    return (uint64_t)used.tv_sec * NS_PER_S + (uint64_t)used.tv_nsec;
}

/* A spinner lets the other run at once, so a round costs what the round costs. One that does not
 * burns the CPU until the kernel takes it away, a millisecond at the least. */
Test(core, spinners_on_one_cpu_give_way)
{
    struct pair pair = {.rounds = PAIR_ROUNDS / 10, .poll_us = 100 * 1000, .expecting = true};
    pin_to_one_cpu();
    pair_ping_pong(&pair);
    cr_expect_lt(cpu_ns(CLOCK_PROCESS_CPUTIME_ID) / pair.rounds, NS_PER_MS);
}

static void *burn(void *argument)
{
    const bool *stop = argument;
    while (!__atomic_load_n(stop, __ATOMIC_RELAXED))
        ;
    return NULL;
}

static void expect_always(void *context)
{
    core_expect_soon(context, true);
}

static void stop_core(struct timer *timer maybe_unused)
{
    core_stop(core_current());
}

/* Where something else wants the CPU, a core that waits sleeps rather than spins. */
Test(core, spin_ends_where_others_need_the_cpu)
{
    struct mesh *mesh = NULL;
    struct core_stats stats;
    struct timer timer;
    pthread_t thread;
    bool stop = false;
    pin_to_one_cpu();
    cr_assert_eq(mesh_create(1, 8, &mesh), 0);
    struct core *core = core_open(mesh, 0, 1000 * 1000);
    cr_assert_eq(pthread_create(&thread, NULL, burn, &stop), 0);
    core_on_turn_end(core, expect_always, core);
    timer_init(&timer, stop_core);
    timer_start(core_timers(core), &timer, core_now_ns(core) + 500 * NS_PER_MS);
    (void)core_turn(core, false); /* says what it expects */
    core_run(core);
    core_stats(core, &stats);
    cr_expect_gt(stats.sleep_ns, 250 * NS_PER_MS);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    core_close_alone(core);
}

static uint64_t cpu_ns_of(pthread_t thread)
{
    clockid_t clock;
    cr_assert_eq(pthread_getcpuclockid(thread, &clock), 0);
    return cpu_ns(clock);
}

static void work_in_background(void *argument)
{
    const bool *stop = argument;
    while (!__atomic_load_n(stop, __ATOMIC_RELAXED))
        if (fiber_should_yield())
            fiber_yield();
}

/* Background work lets others go first, and yet has its share beside one that never waits. */
Test(core, background_has_its_share_of_a_crowded_cpu)
{
    pthread_t thread;
    bool stop = false;
    pin_to_one_cpu();
    struct core *core = core_open_alone();
    cr_assert_eq(pthread_create(&thread, NULL, burn, &stop), 0);
    cr_assert_eq(fiber_spawn(core, FIBER_BACKGROUND, work_in_background, &stop), 0);
    uint64_t before_ns = cpu_ns_of(pthread_self());
    while (cpu_ns_of(thread) < 500 * NS_PER_MS)
        (void)core_turn(core, true);
    cr_expect_gt(cpu_ns_of(pthread_self()) - before_ns, 200 * NS_PER_MS);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    while (core_turn(core, false))
        ;
    pthread_join(thread, NULL);
    core_close_alone(core);
}
