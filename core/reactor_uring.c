#include "core/reactor_uring.h"

#include <errno.h>
#include <signal.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define SUBMIT_TRIES_MAX 1000u

/* ---- entering the kernel -------------------------------------------------------------------- */

/* Publishes prepared SQEs; returns how many the kernel has not taken yet. */
static uint32_t uring_flush(struct reactor *reactor)
{
    struct io_uring_sq *sq = &reactor->ring.sq;
    if (sq->sqe_head != sq->sqe_tail) {
        sq->sqe_head = sq->sqe_tail;
        __atomic_store_n(sq->ktail, sq->sqe_tail, __ATOMIC_RELEASE);
    }
    return sq->sqe_tail - __atomic_load_n(sq->khead, __ATOMIC_ACQUIRE);
}

static uint32_t uring_cq_ready(const struct reactor *reactor)
{
    const struct io_uring_cq *cq = &reactor->ring.cq;
    return __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE) - *cq->khead;
}

/* Under DEFER_TASKRUN the completion queue fills only inside io_uring_enter(): these flags say that
 * entering would pay. */
static bool uring_kernel_has_work(const struct reactor *reactor)
{
    uint32_t flags = __atomic_load_n(reactor->ring.sq.kflags, __ATOMIC_RELAXED);
    return (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

static int uring_enter(struct reactor *reactor, uint32_t submit, uint32_t wait, uint32_t flags,
                       const struct __kernel_timespec *timeout)
{
    struct io_uring_getevents_arg argument = {
        .sigmask_sz = _NSIG / 8,
        .ts = (uint64_t)(uintptr_t)timeout,
    };
    return io_uring_enter2((unsigned)reactor->ring.enter_ring_fd, submit, wait,
                           flags | IORING_ENTER_EXT_ARG | reactor->enter_flags,
                           (sigset_t *)(void *)&argument, sizeof(argument));
}

/* Takes every CQE out of the ring, to be handled by the next reactor_poll(). */
static void uring_stash(struct reactor *reactor)
{
    struct io_uring_cq *cq = &reactor->ring.cq;
    uint32_t ready = uring_cq_ready(reactor);
    if (reactor->stash_first + reactor->stash_count + ready > reactor->stash_capacity) {
        uint32_t capacity = 2 * (reactor->stash_first + reactor->stash_count + ready);
        reactor->stash = realloc(reactor->stash, capacity * sizeof(reactor->stash[0]));
        if (reactor->stash == NULL)
            fatal("out of memory for %u completions", capacity);
        reactor->stash_capacity = capacity;
    }
    uint32_t head = *cq->khead;
    for (uint32_t i = 0; i < ready; i++) {
        const struct io_uring_cqe *cqe = &cq->cqes[(head + i) & *cq->kring_mask];
        reactor->stash[reactor->stash_first + reactor->stash_count++] =
            (struct uring_completion){cqe->user_data, cqe->res, cqe->flags};
    }
    io_uring_cq_advance(&reactor->ring, ready);
}

/* Judges a failed enter: true when it may simply be tried again later. */
static bool uring_error_is_passing(struct reactor *reactor, int error)
{
    switch (-error) {
    case ETIME:
    case EINTR:
        return true;
    case EAGAIN: /* no memory for requests, or the overflow list wants room in the CQ */
    case EBUSY:
        reactor->cq_overflow_count++;
        uring_stash(reactor);
        return true;
    default: /* EBADR: a completion was lost; anything else: our own mistake */
        return false;
    }
}

/* Submits all that is prepared, without waiting, from inside a callback or a start of an op. */
static void uring_submit_now(struct reactor *reactor)
{
    uint32_t tries = 0;
    uint32_t left;
    while ((left = uring_flush(reactor)) > 0) {
        int result = uring_enter(reactor, left, 0, tries == 0 ? 0 : IORING_ENTER_GETEVENTS, NULL);
        if (result < 0 && !uring_error_is_passing(reactor, result))
            fatal("io_uring_enter: %s", strerror(-result));
        if (++tries > SUBMIT_TRIES_MAX)
            fatal("io_uring_enter takes no requests");
    }
}

void uring_sqe_reserve(struct reactor *reactor, uint32_t count)
{
    invariant(count <= URING_SQ_ENTRIES);
    if (io_uring_sq_space_left(&reactor->ring) < count) {
        reactor->sq_full_count++;
        uring_submit_now(reactor);
    }
}

struct io_uring_sqe *uring_sqe(struct reactor *reactor)
{
    uring_sqe_reserve(reactor, 1);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&reactor->ring);
    invariant(sqe != NULL);
    memset(sqe, 0, sizeof(*sqe)); /* prep helpers leave newer fields alone */
    return sqe;
}

/* ---- completions ---------------------------------------------------------------------------- */

void uring_defer(struct reactor *reactor, struct io_op *op, int32_t result)
{
    invariant(op->link.next == OP_PENDING);
    op->link.next = QUEUE_LINK_IDLE;
    op->backend[0] = (uint32_t)result;
    queue_append(&reactor->deferred, &op->link);
}

static uint32_t uring_run_deferred(struct reactor *reactor)
{
    uint32_t count = reactor->deferred.count; /* those deferred by callbacks wait a turn */
    for (uint32_t i = 0; i < count; i++) {
        struct io_op *op = container_of(queue_pop(&reactor->deferred), struct io_op, link);
        op->link.next = OP_PENDING;
        uring_op_end(reactor, op);
        op->done(op, (int32_t)op->backend[0]);
    }
    return count;
}

static void uring_interrupted(struct reactor *reactor, uint32_t flags)
{
    uint64_t value;
    ssize_t got = read(reactor->interrupt_fd, &value, sizeof(value)); /* reset; EAGAIN is fine */
    (void)got;
    if ((flags & IORING_CQE_F_MORE) == 0)
        uring_arm_interrupt(reactor);
}

void uring_arm_interrupt(struct reactor *reactor)
{
    struct io_uring_sqe *sqe = uring_sqe(reactor);
    io_uring_prep_poll_multishot(sqe, reactor->interrupt_fd, POLLIN);
    sqe->user_data = uring_user_data(URING_INTERRUPT, NULL);
}

static void uring_op_completed(struct reactor *reactor, struct io_op *op, int32_t result)
{
    uring_op_end(reactor, op);
    op->done(op, result);
}

static void peer_interrupt(const struct reactor *reactor, uint32_t core)
{
    uint64_t one = 1;
    ssize_t written = write(reactor->peer_interrupt_fd[core], &one, sizeof(one));
    (void)written; /* full (EAGAIN) means that it is readable already */
}

/* Returns 1 when it was an operation of ours, 0 for wake-ups and the like. */
static uint32_t uring_complete(struct reactor *reactor, const struct uring_completion *completion)
{
    void *pointer = (void *)(uintptr_t)(completion->user_data & (UINT64_MAX >> 8));
    int32_t result = completion->result;
    switch ((enum uring_tag)(completion->user_data >> 56)) {
    case URING_NONE:
    case URING_WAKE:
        return 0;
    case URING_WAKE_FAILED:
        peer_interrupt(reactor, (uint32_t)(uintptr_t)pointer);
        return 0;
    case URING_INTERRUPT:
        uring_interrupted(reactor, completion->flags);
        return 0;
    case URING_OP:
        uring_op_completed(reactor, pointer, result);
        return 1;
    case URING_STAT:
        uring_stat_completed(reactor, pointer, result);
        return 1;
    case URING_RECV:
        uring_recv_completed(reactor, pointer, result, completion->flags);
        return 1;
    case URING_SEND:
        uring_send_completed(reactor, pointer, result);
        return 1;
    case URING_SOCKET_CANCEL:
        uring_socket_cancelled(reactor, pointer);
        return 1;
    case URING_SOCKET_CLOSE:
        uring_socket_closed(reactor, pointer);
        return 1;
    case URING_ACCEPT:
        uring_accept_completed(reactor, pointer, result, completion->flags);
        return 1;
    case URING_ACCEPT_RETRY:
        uring_accept_retry(reactor, pointer);
        return 1;
    case URING_LISTENER_CLOSE:
        uring_listener_closed(reactor, pointer);
        return 1;
    case URING_CONNECT:
        uring_connect_completed(reactor, pointer, result);
        return 1;
    }
    fatal("completion with unknown tag in user_data %016llx",
          (unsigned long long)completion->user_data);
}

static uint32_t uring_run_stash(struct reactor *reactor)
{
    uint32_t handled = 0;
    while (reactor->stash_count > 0) {
        struct uring_completion completion = reactor->stash[reactor->stash_first++];
        if (--reactor->stash_count == 0)
            reactor->stash_first = 0;
        handled += uring_complete(reactor, &completion); /* may add to the stash */
    }
    return handled;
}

/* Handles what was complete at entry. CQEs are copied out and their slots given back before the
 * callbacks run, because these may submit. */
static uint32_t uring_reap(struct reactor *reactor)
{
    struct io_uring_cq *cq = &reactor->ring.cq;
    uint32_t ready = uring_cq_ready(reactor);
    uint32_t handled = uring_run_stash(reactor);
    while (ready > 0 && uring_cq_ready(reactor) > 0) {
        struct uring_completion batch[URING_REAP_BATCH];
        uint32_t count = ready < URING_REAP_BATCH ? ready : URING_REAP_BATCH;
        if (count > uring_cq_ready(reactor)) /* a callback stashed the rest */
            count = uring_cq_ready(reactor);
        uint32_t head = *cq->khead;
        for (uint32_t i = 0; i < count; i++) {
            const struct io_uring_cqe *cqe = &cq->cqes[(head + i) & *cq->kring_mask];
            batch[i] = (struct uring_completion){cqe->user_data, cqe->res, cqe->flags};
        }
        io_uring_cq_advance(&reactor->ring, count);
        ready -= count;
        for (uint32_t i = 0; i < count; i++)
            handled += uring_complete(reactor, &batch[i]);
        handled += uring_run_stash(reactor); /* keeps the order of completion */
    }
    return handled;
}

/* ---- the loop ------------------------------------------------------------------------------- */

uint64_t reactor_clock_ns(const struct reactor *reactor)
{
    (void)reactor;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* One io_uring_enter: submits, collects completions, and waits if there is nothing else to do. */
static void uring_turn(struct reactor *reactor, bool may_sleep, uint64_t deadline_ns)
{
    uint32_t submit = uring_flush(reactor);
    struct __kernel_timespec timeout;
    const struct __kernel_timespec *limit = NULL;
    uint32_t wait = 0;
    if (may_sleep) {
        wait = 1;
        if (deadline_ns != UINT64_MAX) {
            uint64_t now_ns = reactor_clock_ns(reactor);
            uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
            timeout.tv_sec = (long long)(left_ns / NS_PER_S);
            timeout.tv_nsec = (long long)(left_ns % NS_PER_S);
            limit = &timeout;
            wait = left_ns > 0;
        }
    }
    if (submit == 0 && wait == 0 && !uring_kernel_has_work(reactor))
        return;
    int result = uring_enter(reactor, submit, wait, IORING_ENTER_GETEVENTS, limit);
    if (result < 0 && !uring_error_is_passing(reactor, result))
        fatal("io_uring_enter: %s", strerror(-result));
}

uint32_t reactor_poll(struct reactor *reactor, bool may_sleep, uint64_t deadline_ns)
{
    uring_recv_feed_starved(reactor);
    bool idle = queue_is_empty(&reactor->deferred) && queue_is_empty(&reactor->starved) &&
                reactor->stash_count == 0 && uring_cq_ready(reactor) == 0;
    if (__atomic_load_n(reactor->ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_CQ_OVERFLOW)
        reactor->cq_overflow_count++;
    uring_turn(reactor, may_sleep && idle, deadline_ns);
    reactor->woken = 0;
    reactor->now_ns = reactor_clock_ns(reactor);
    return uring_run_deferred(reactor) + uring_reap(reactor);
}

void reactor_yield(struct reactor *reactor maybe_unused)
{
    (void)sched_yield(); /* never fails */
}

uint32_t reactor_ops_pending(const struct reactor *reactor)
{
    return reactor->ops_pending;
}

/* ---- waking others -------------------------------------------------------------------------- */

void reactor_link(struct reactor *reactor, struct reactor *const *all, uint32_t count)
{
    invariant(count <= URING_PEERS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        reactor->peer_ring_fd[i] = all[i]->ring.ring_fd;
        reactor->peer_interrupt_fd[i] = all[i]->interrupt_fd;
    }
    reactor->peer_count = count;
}

void reactor_wake(struct reactor *from, uint32_t core)
{
    invariant(core < from->peer_count);
    if (core == from->options.core || (from->woken & (uint64_t)1 << core) != 0)
        return;
    from->woken |= (uint64_t)1 << core;
    if (!from->features.msg_ring) {
        peer_interrupt(from, core);
        return;
    }
    struct io_uring_sqe *sqe = uring_sqe(from);
    io_uring_prep_msg_ring(sqe, from->peer_ring_fd[core], 0, uring_user_data(URING_WAKE, NULL), 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = uring_user_data(URING_WAKE_FAILED, (void *)(uintptr_t)core);
}

void reactor_interrupt(struct reactor *reactor)
{
    int saved = errno; /* callable from a signal handler */
    uint64_t one = 1;
    ssize_t written = write(reactor->interrupt_fd, &one, sizeof(one));
    (void)written;
    errno = saved;
}

/* ---- time and randomness -------------------------------------------------------------------- */

uint64_t reactor_now_ns(const struct reactor *reactor)
{
    return reactor->now_ns;
}

int64_t reactor_wall_ns(const struct reactor *reactor)
{
    (void)reactor;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * (int64_t)NS_PER_S + now.tv_nsec;
}

uint64_t reactor_random(struct reactor *reactor)
{
    return prng_next(&reactor->prng);
}

struct buffer_pool *reactor_buffers(struct reactor *reactor)
{
    return reactor->buffers;
}
