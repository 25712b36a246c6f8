/* Sleep and wake-ups of the io_uring backend, and what it says when there is no io_uring. */
#include "tests/unit/test_reactor.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "core/core.h"

/* ---- sleep and wake ------------------------------------------------------------------------- */

Test(reactor_wake, sleep_ends_at_the_deadline)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++) {
        struct reactor *reactor = reactor_open_default(feature_sets[i]);
        reactor_poll(reactor, false, 0);
        uint64_t start_ns = reactor_clock_ns(reactor);
        reactor_poll(reactor, true, start_ns + 20 * NS_PER_MS);
        uint64_t slept_ns = reactor_clock_ns(reactor) - start_ns;
        cr_assert(slept_ns >= 20 * NS_PER_MS && slept_ns < 2 * NS_PER_S, "%llu",
                  (unsigned long long)slept_ns);
        cr_assert_geq(reactor_now_ns(reactor), start_ns + 20 * NS_PER_MS);
        reactor_poll(reactor, true, start_ns); /* a deadline in the past does not sleep */
        reactor_destroy(reactor);
    }
}

Test(reactor_wake, polling_without_sleep_sees_completions)
{
    for (size_t i = 0; i < ARRAY_COUNT(feature_sets); i++) {
        struct reactor *reactor = reactor_open_default(feature_sets[i]);
        struct waited_op waited = waited_make();
        reactor_unlink(reactor, &waited.op, "/nonexistent"); /* ends on a worker thread, later */
        uint64_t deadline_ns = reactor_clock_ns(reactor) + WAIT_NS_MAX;
        while (!waited.done) {
            cr_assert_lt(reactor_clock_ns(reactor), deadline_ns, "[%s]", feature_sets[i]);
            reactor_poll(reactor, false, 0);
        }
        cr_assert_eq(waited.result, -ENOENT);
        reactor_destroy(reactor);
    }
}

#define HOPS 3000u

struct pair_shared {
    struct reactor *reactors[2];
    const char *disable;
    pthread_barrier_t barrier;
    _Atomic uint32_t ball; /* hop number; whose turn = parity */
    _Atomic uint32_t sleeping[2];
    _Atomic uint64_t wait_ns_max;
};

struct pair_side {
    struct pair_shared *shared;
    uint32_t core;
};

static void *pair_main(void *argument)
{
    struct pair_side *side = argument;
    struct pair_shared *shared = side->shared;
    uint32_t me = side->core, other = 1 - me;
    struct reactor_options options = options_default(shared->disable);
    options.core = me;
    options.core_count = 2;
    struct reactor *reactor = reactor_open_with(&options);
    shared->reactors[me] = reactor;
    pthread_barrier_wait(&shared->barrier);
    reactor_link(reactor, shared->reactors, 2);
    pthread_barrier_wait(&shared->barrier);
    uint32_t hop;
    while ((hop = atomic_load(&shared->ball)) < HOPS) {
        if (hop % 2 == me) {
            atomic_store(&shared->ball, hop + 1);
            if (atomic_exchange(&shared->sleeping[other], 0) != 0)
                reactor_wake(reactor, other);
            reactor_poll(reactor, false, 0);
            continue;
        }
        atomic_store(&shared->sleeping[me], 1);
        if (atomic_load(&shared->ball) == hop) {
            uint64_t start_ns = reactor_clock_ns(reactor);
            reactor_poll(reactor, true, start_ns + 5 * NS_PER_S);
            uint64_t waited_ns = reactor_clock_ns(reactor) - start_ns;
            if (waited_ns > atomic_load(&shared->wait_ns_max))
                atomic_store(&shared->wait_ns_max, waited_ns);
        }
        atomic_store(&shared->sleeping[me], 0);
    }
    pthread_barrier_wait(&shared->barrier);
    reactor_poll(reactor, false, 0);
    pthread_barrier_wait(&shared->barrier);
    reactor_destroy(reactor);
    return NULL;
}

static void ping_pong(const char *disable)
{
    struct pair_shared shared = {.disable = disable};
    pthread_barrier_init(&shared.barrier, NULL, 2);
    pthread_t threads[2];
    struct pair_side sides[2] = {{&shared, 0}, {&shared, 1}};
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, pair_main, &sides[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(atomic_load(&shared.ball), HOPS);
    cr_assert_lt(atomic_load(&shared.wait_ns_max), 2 * NS_PER_S, "no wake-up is lost [%s]",
                 disable);
    pthread_barrier_destroy(&shared.barrier);
}

Test(reactor_wake, no_wake_is_lost_between_threads)
{
    ping_pong("");
    ping_pong("msg_ring");
    ping_pong("defer_taskrun");
}

static void *interrupt_main(void *argument)
{
    usleep(20000);
    reactor_interrupt(argument);
    return NULL;
}

Test(reactor_wake, any_thread_interrupts_a_sleep)
{
    struct reactor *reactor = reactor_open_default("");
    for (int round = 0; round < 3; round++) {
        pthread_t thread;
        reactor_poll(reactor, false, 0);
        uint64_t start_ns = reactor_clock_ns(reactor);
        cr_assert_eq(pthread_create(&thread, NULL, interrupt_main, reactor), 0);
        reactor_poll(reactor, true, start_ns + 10 * NS_PER_S);
        cr_assert_lt(reactor_clock_ns(reactor) - start_ns, 5 * NS_PER_S);
        pthread_join(thread, NULL);
    }
    reactor_destroy(reactor);
}

Test(reactor_wake, process_stats_are_plausible)
{
    struct reactor *reactor = reactor_open_default("");
    struct reactor_process_stats stats;
    reactor_process_stats(reactor, &stats);
    cr_assert(stats.resident_bytes > 0 && stats.virtual_bytes > stats.resident_bytes);
    cr_assert(stats.open_files > 3 && stats.open_files < stats.open_files_max);
    int64_t age_ns = reactor_wall_ns(reactor) - stats.start_wall_ns;
    cr_assert(age_ns > -(int64_t)NS_PER_S && age_ns < 600 * (int64_t)NS_PER_S);
    reactor_destroy(reactor);
}

/* ---- what an operator reads when io_uring is not to be had ---------------------------------- */

/* From here on io_uring_setup fails with `error` in this process, as a sandbox would have it. */
static void block_uring(uint32_t error)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {ARRAY_COUNT(program), program};
    cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
}

static void refusal_names(uint32_t error, const char *first, const char *second)
{
    struct reactor_options options = options_default("");
    struct reactor *reactor;
    char reason[512] = "";
    block_uring(error);
    cr_assert_eq(reactor_create(&options, &reactor, reason, sizeof(reason)), -(int)error);
    cr_assert_not_null(strstr(reason, first), "%s", reason);
    cr_assert_not_null(strstr(reason, second), "%s", reason);
}

Test(reactor_refusal, blocked_by_a_sandbox)
{
    refusal_names(EPERM, "kernel.io_uring_disabled=", "seccomp profile");
}

Test(reactor_refusal, unknown_to_the_kernel)
{
    refusal_names(ENOSYS, "no io_uring", "Linux >= 6.1 is required, found ");
}
