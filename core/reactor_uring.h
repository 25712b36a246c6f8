/*
 * reactor_uring.h - what the files of the io_uring backend share (reactor_uring*.c only).
 *
 * Story     reactor_uring.c is the loop: submission, reaping, time, wake-ups. _setup.c creates and
 *           destroys, _files.c and _net.c turn calls of reactor.h into SQEs and CQEs into
 *           callbacks, _resolve.c looks up names.
 * Invariants
 *   R1  an io_op's link is OP_PENDING (or on `deferred`) exactly while it is in flight.
 *   R2  ops_pending counts SQEs whose final CQE has not been handled, plus `deferred`; SQEs tagged
 *       below URING_OP are not counted.
 *   R3  a provided receive buffer is out of the ring only while `received` runs on it, or while its
 *       CQE waits in the completion queue.
 *   R4  an io_socket or io_listener is named by no SQE once in_flight (or both its ops) are clear.
 * Source    io_uring_setup(2), io_uring_enter(2), io_uring_register(2).
 */
#ifndef CORE_REACTOR_URING_H
#define CORE_REACTOR_URING_H

#include <liburing.h>
#include <sys/socket.h>

#include "core/buffer.h"
#include "core/prng.h"
#include "core/reactor.h"

#define URING_SQ_ENTRIES 512u
#define URING_CQ_ENTRIES (URING_SQ_ENTRIES * 8)
#define URING_RECV_GROUP 0 /* provided-buffer group id */
#define URING_PEERS_MAX  64u
#define URING_REAP_BATCH 64u

/* Kernel interface newer than liburing 2.3's header. */
#define URING_ENTER_NO_IOWAIT (1u << 7)
#define URING_FEAT_NO_IOWAIT  (1u << 17)
#define URING_OP_FTRUNCATE    55u

/* The top byte of user_data says what the pointer below it is. */
enum uring_tag {
    URING_NONE,        /* nobody waits for it */
    URING_WAKE,        /* another core's MSG_RING arrived */
    URING_WAKE_FAILED, /* our MSG_RING to core `pointer` failed */
    URING_INTERRUPT,   /* our eventfd became readable */
    URING_OP,          /* struct io_op, nothing special */
    URING_STAT,        /* struct stat_request */
    URING_RECV,        /* struct io_socket */
    URING_SEND,        /* struct io_op; backend[] holds the socket */
    URING_SOCKET_CANCEL,
    URING_SOCKET_CLOSE,
    URING_ACCEPT,       /* struct io_listener */
    URING_ACCEPT_RETRY, /* the pause after running out of descriptors is over */
    URING_LISTENER_CLOSE,
    URING_CONNECT, /* struct io_connect */
};

struct uring_features {
    bool defer_taskrun;
    bool multishot_recv;
    bool multishot_accept;
    bool registered_buffers;
    bool msg_ring;
    bool ftruncate;
};

struct uring_completion {
    uint64_t user_data;
    int32_t result;
    uint32_t flags;
};

struct reactor {
    struct io_uring ring;
    struct reactor_options options;
    struct uring_features features;
    struct prng prng;
    uint64_t now_ns;
    uint32_t ops_pending;
    uint32_t enter_flags;        /* in every io_uring_enter */
    struct queue deferred;       /* ops done without the kernel's queue; result in backend[0] */
    struct msghdr *send_headers; /* one per SQE slot: read by the kernel when it takes the SQE */

    /* CQEs taken aside when the completion queue was full in the middle of a callback. */
    struct uring_completion *stash;
    uint32_t stash_first, stash_count, stash_capacity;

    uint8_t *arena;
    uint64_t arena_bytes;
    struct buffer_pool *buffers;

    struct io_uring_buf_ring *recv_ring;
    size_t recv_ring_bytes;
    uint8_t *recv_memory;
    size_t recv_memory_bytes;
    struct queue starved; /* sockets that found no receive buffer */

    int interrupt_fd;
    uint32_t peer_count;
    int peer_ring_fd[URING_PEERS_MAX];
    int peer_interrupt_fd[URING_PEERS_MAX];
    uint64_t woken; /* bit per core already woken in this turn */

    uint64_t sq_full_count, cq_overflow_count, recv_starved_count;
};

#define OP_PENDING ((struct queue_link *)(uintptr_t)3)

static inline uint64_t uring_user_data(enum uring_tag tag, const void *pointer)
{
    invariant((uintptr_t)pointer >> 56 == 0);
    return (uint64_t)tag << 56 | (uint64_t)(uintptr_t)pointer;
}

static inline void uring_op_begin(struct reactor *reactor, struct io_op *op)
{
    invariant(op->link.next == QUEUE_LINK_IDLE); /* started twice, or never initialised */
    op->link.next = OP_PENDING;
    reactor->ops_pending++;
}

static inline void uring_op_end(struct reactor *reactor, struct io_op *op)
{
    invariant(op->link.next == OP_PENDING); /* completes exactly once */
    invariant(reactor->ops_pending > 0);
    op->link.next = QUEUE_LINK_IDLE;
    reactor->ops_pending--;
}

/* reactor_uring.c: a zeroed SQE; submits by itself when the queue is full. `count` makes room for
 * that many in one submission (linked chains). */
struct io_uring_sqe *uring_sqe(struct reactor *reactor);
void uring_sqe_reserve(struct reactor *reactor, uint32_t count);
void uring_defer(struct reactor *reactor, struct io_op *op, int32_t result);
void uring_arm_interrupt(struct reactor *reactor);

/* reactor_uring_files.c */
struct stat_request;
void uring_stat_completed(struct reactor *reactor, struct stat_request *request, int32_t result);

/* reactor_uring_net.c */
void uring_address_from_socket(struct io_address *address, const struct sockaddr *from);
void uring_recv_completed(struct reactor *reactor, struct io_socket *socket, int32_t result,
                          uint32_t flags);
void uring_send_completed(struct reactor *reactor, struct io_op *op, int32_t result);
void uring_socket_cancelled(struct reactor *reactor, struct io_socket *socket);
void uring_socket_closed(struct reactor *reactor, struct io_socket *socket);
void uring_accept_completed(struct reactor *reactor, struct io_listener *listener, int32_t result,
                            uint32_t flags);
void uring_accept_retry(struct reactor *reactor, struct io_listener *listener);
void uring_listener_closed(struct reactor *reactor, struct io_listener *listener);
void uring_connect_completed(struct reactor *reactor, struct io_connect *connect, int32_t result);
void uring_recv_feed_starved(struct reactor *reactor);
void uring_recv_buffer_return(struct reactor *reactor, uint32_t id);

#endif
