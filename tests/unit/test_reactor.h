/*
 * test_reactor.h - the io_uring backend driven directly, for the tests of what needs real files,
 * sockets, threads and pressure.
 *
 * Owner     The test program that includes it.
 */
#ifndef TESTS_UNIT_TEST_REACTOR_H
#define TESTS_UNIT_TEST_REACTOR_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/reactor.h"

/* Every fallback runs the same tests. */
static const char *const feature_sets[] = {
    "",         "multishot_recv", "multishot_accept", "registered_buffers",
    "msg_ring", "defer_taskrun",  "ftruncate",        "multishot_recv,multishot_accept,msg_ring",
};

#define WAIT_NS_MAX (20 * NS_PER_S)

static inline struct reactor_options options_default(const char *disable)
{
    return (struct reactor_options){
        .core_count = 1,
        .files_max = 2048,
        .buffer_bytes = 4 * MIB,
        .recv_buffer_bytes = 4096,
        .recv_buffer_count = 64,
        .random_seed = 1,
        .disable_features = disable,
    };
}

static inline struct reactor *reactor_open_with(const struct reactor_options *options)
{
    struct reactor *reactor = NULL;
    char reason[256] = "";
    int error = reactor_create(options, &reactor, reason, sizeof(reason));
    cr_assert_eq(error, 0, "%s", reason);
    return reactor;
}

static inline struct reactor *reactor_open_default(const char *disable)
{
    struct reactor_options options = options_default(disable);
    return reactor_open_with(&options);
}

/* Polls, sleeping in between, until `*flag`. */
static inline void poll_until(struct reactor *reactor, const bool *flag)
{
    uint64_t deadline_ns = reactor_clock_ns(reactor) + WAIT_NS_MAX;
    while (!*flag) {
        cr_assert_lt(reactor_clock_ns(reactor), deadline_ns, "stalled");
        reactor_poll(reactor, true, deadline_ns);
    }
}

static inline void drain(struct reactor *reactor)
{
    uint64_t deadline_ns = reactor_clock_ns(reactor) + WAIT_NS_MAX;
    while (reactor_ops_pending(reactor) > 0) {
        cr_assert_lt(reactor_clock_ns(reactor), deadline_ns, "ops never end");
        reactor_poll(reactor, true, deadline_ns);
    }
}

struct waited_op {
    struct io_op op;
    int32_t result;
    bool done;
};

static inline void waited_done(struct io_op *op, int32_t result)
{
    struct waited_op *waited = container_of(op, struct waited_op, op);
    cr_assert_not(waited->done, "completes once");
    waited->result = result;
    waited->done = true;
}

static inline struct waited_op waited_make(void)
{
    struct waited_op waited = {.result = 12345};
    io_op_init(&waited.op, waited_done);
    return waited;
}

#define RUN(reactor, call, ...)                                                                    \
    ({                                                                                             \
        struct waited_op waited_ = waited_make();                                                  \
        call(reactor, &waited_.op, __VA_ARGS__);                                                   \
        cr_assert_not(waited_.done, "done never runs inside " #call);                              \
        poll_until(reactor, &waited_.done);                                                        \
        waited_.result;                                                                            \
    })

static char directory[64];

static inline void directory_make(void)
{
    snprintf(directory, sizeof(directory), "/var/tmp/test_reactor_XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static inline void directory_drop(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    cr_assert_eq(system(command), 0);
}

static inline const char *in_directory(const char *name)
{
    static char path[4][128];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", directory, name);
    return path[turn];
}

#endif
