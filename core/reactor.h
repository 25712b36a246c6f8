/*
 * reactor.h - one core's door to time, disk, sockets, randomness and the wake-up of other cores.
 *
 * Story     One header, two object files chosen at link time: core/reactor_uring.c opens the door
 *           on Linux's io_uring, tests/sim/reactor_sim.c on a simulated world. Nothing else in the
 *           tree touches the kernel, a clock or a random source (a test proves it with nm).
 * Owner     The thread that called reactor_create().
 * Threads   Owner only, save reactor_interrupt(). reactor_wake() names the caller's own reactor
 *           first.
 * Completion An io_op completes exactly once; `done` never runs inside the call that started it,
 *           only inside reactor_poll(). Cancellation also ends in `done`. The op, and every buffer,
 *           path and iovec it names, stay valid until then. Operations may complete, and become
 *           durable, in any order.
 * Errors    `result` is a byte count, a descriptor or 0; negative is an errno as the kernel gives
 *           it. Short reads and writes are results, not errors. Starting an op cannot fail: when
 *           the submission queue is full the backend submits and goes on.
 * Units     Time in ns, offsets and sizes in bytes.
 * Source    io_uring(7), io_uring_enter(2); docs/internals/reactor.md.
 */
#ifndef CORE_REACTOR_H
#define CORE_REACTOR_H

#include <sys/uio.h>

#include "core/base.h"
#include "core/queue.h"

struct reactor; /* opaque: each backend has its own */

struct io_op {
    struct queue_link link; /* the backend's while the op is pending; initialised by io_op_init() */
    void (*done)(struct io_op *op, int32_t result);
    uint32_t backend[2]; /* the backend's */
};

static inline void io_op_init(struct io_op *op, void (*done)(struct io_op *op, int32_t result))
{
    queue_link_init(&op->link);
    op->done = done;
    op->backend[0] = op->backend[1] = 0;
}

/* ---- life ----------------------------------------------------------------------------------- */

struct reactor_options {
    uint32_t core;              /* this reactor's index */
    uint32_t core_count;        /* reactors in the process */
    uint32_t files_max;         /* open files and sockets */
    uint64_t buffer_bytes;      /* registered, aligned buffer arena; see core/buffer.h */
    uint32_t recv_buffer_bytes; /* size of one provided receive buffer */
    uint32_t recv_buffer_count; /* power of two */
    uint64_t random_seed;       /* 0: take one from the kernel */
    uint32_t poll_us; /* how long an idle core with work outstanding spins before it sleeps */
    const char
        *disable_features; /* comma-separated kernel features to do without, for tests; or NULL */
};

/* Returns 0, or a negative error with one explaining line (what is missing and what to do about
 * it) in `reason`. Called on the thread that will own the reactor. */
must_check int reactor_create(const struct reactor_options *options, struct reactor **reactor,
                              char *reason, size_t reason_bytes);
void reactor_destroy(struct reactor *reactor); /* every op must have completed */

/* Submits what was started and runs `done` of everything that completed. When `may_sleep`, blocks
 * until a completion, a wake-up or `deadline_ns`, whichever is first. Returns the number of
 * completions handled. */
uint32_t reactor_poll(struct reactor *reactor, bool may_sleep, uint64_t deadline_ns);

/* Makes the peers' reactors known to each other, before the first reactor_wake(). */
void reactor_link(struct reactor *reactor, struct reactor *const *all, uint32_t count);

/* Wakes the core that said it sleeps; at most one kernel call a turn. Any number merge into one. */
void reactor_wake(struct reactor *from, uint32_t core);

/* Ends the current or the next sleep of `reactor`. Any thread, any signal handler; one system call.
 */
void reactor_interrupt(struct reactor *reactor);

/* Lets other threads of this CPU run first; returns at once when none of them wants to. */
void reactor_yield(struct reactor *reactor);

/* Operations not completed yet, those that sockets and listeners keep armed included. */
uint32_t reactor_ops_pending(const struct reactor *reactor);

/* ---- time and randomness -------------------------------------------------------------------- */

uint64_t reactor_now_ns(const struct reactor *reactor); /* monotonic, constant within a turn */
uint64_t
reactor_clock_ns(const struct reactor *reactor);        /* monotonic, read afresh: for measuring */
int64_t reactor_wall_ns(const struct reactor *reactor); /* since 1970; may jump: display only */
uint64_t reactor_random(struct reactor *reactor);       /* the only source of randomness */

/* ---- files ---------------------------------------------------------------------------------- */

struct io_file {
    int32_t fd; /* -1 when closed */
};

struct io_span {
    void *base;
    uint64_t offset; /* in the file */
    uint32_t bytes;
};

enum io_open_flags {
    IO_OPEN_READ = 1,
    IO_OPEN_WRITE = 2,
    IO_OPEN_CREATE = 4,    /* create if missing */
    IO_OPEN_EXCLUSIVE = 8, /* with CREATE: fail with -EEXIST */
    IO_OPEN_TRUNCATE = 16,
    IO_OPEN_DIRECT = 32, /* O_DIRECT: base, offset and bytes multiples of 4096 */
};

enum io_write_flags {
    IO_WRITE_DURABLE = 1, /* RWF_DSYNC: data survives power loss when `done` runs with bytes */
};

#define IO_ALIGN_BYTES ((uint32_t)4096)

struct io_stat {
    uint64_t bytes;
    uint64_t bytes_allocated;
    bool is_directory;
};

/* result: the descriptor for struct io_file. Usable from every core of the process. */
void reactor_open(struct reactor *reactor, struct io_op *op, const char *path, uint32_t flags);
void reactor_close(struct reactor *reactor, struct io_op *op, struct io_file file);

/* Uses the registered path by itself when the span lies inside this reactor's buffer arena. */
void reactor_read(struct reactor *reactor, struct io_op *op, struct io_file file,
                  struct io_span span);
void reactor_write(struct reactor *reactor, struct io_op *op, struct io_file file,
                   struct io_span span, uint32_t flags);
void reactor_sync(struct reactor *reactor, struct io_op *op, struct io_file file);

/* Appends to a pipe, terminal or log file at its own position: for the logger. */
void reactor_write_stream(struct reactor *reactor, struct io_op *op, int32_t fd, const void *bytes,
                          uint32_t count);
void reactor_allocate(struct reactor *reactor, struct io_op *op, struct io_file file,
                      uint64_t offset, uint64_t bytes);
void reactor_truncate(struct reactor *reactor, struct io_op *op, struct io_file file,
                      uint64_t bytes);

/* Names. A created, renamed, linked or removed name is durable after reactor_sync() of an
 * io_file that was opened (IO_OPEN_READ) on its directory. */
void reactor_rename(struct reactor *reactor, struct io_op *op, const char *from, const char *to);
void reactor_unlink(struct reactor *reactor, struct io_op *op, const char *path);
void reactor_hard_link(struct reactor *reactor, struct io_op *op, const char *from, const char *to);
void reactor_make_directory(struct reactor *reactor, struct io_op *op, const char *path);
void reactor_remove_directory(struct reactor *reactor, struct io_op *op, const char *path);
void reactor_stat(struct reactor *reactor, struct io_op *op, const char *path,
                  struct io_stat *stat);

/* Rare and immediate: may block the core for as long as the directory takes to read. Calls `each`
 * for every name but . and .., in byte order. Returns 0 or -errno. */
must_check int reactor_list(struct reactor *reactor, const char *path,
                            void (*each)(void *context, const char *name), void *context);

/* Immediate: an exclusive advisory lock on an open file, dropped when it closes. ERR_LOCKED. */
must_check int reactor_lock_file(struct reactor *reactor, struct io_file file);

/* Immediate: keeps the file open, and so its lock, until every operation of this reactor is over,
 * also when the process is killed. The kernel finishes writes after a killed process is gone; who
 * takes the lock must not meet them. For one file of a reactor. */
must_check int reactor_hold_file(struct reactor *reactor, struct io_file file);

/* Immediate: free and total bytes of the file system that holds `path`. */
must_check int reactor_disk_space(struct reactor *reactor, const char *path, uint64_t *free_bytes,
                                  uint64_t *total_bytes);

/* ---- sockets -------------------------------------------------------------------------------- */

struct io_address {
    char text[64]; /* numeric, for messages: "127.0.0.1:2379", "[::1]:2379" */
    uint8_t ip[16];
    uint16_t port;
    bool is_ipv6;
};

/* Immediate: resolves a host name or number; of a name with both an IPv4 address. A name may block
 * for as long as its servers do not answer: where nothing else waits for the core. */
must_check int reactor_resolve(struct reactor *reactor, const char *host, uint16_t port,
                               struct io_address *address);

/* The same without blocking. A number is resolved at once; a name by a thread of its own. Give
 * `*lookup` as NULL at first. -EINPROGRESS: under way; ask again with the same host and port,
 * nobody is woken when it is over. Any other result ends the lookup and leaves `*lookup` NULL. */
struct io_lookup;
must_check int reactor_resolve_aside(struct reactor *reactor, struct io_lookup **lookup,
                                     const char *host, uint16_t port, struct io_address *address);

/* Nobody will ask again; NULL is fine. The thread ends by itself, perhaps after the reactor. */
void io_lookup_drop(struct io_lookup *lookup);

/* A listening socket. `accepted` gets a connected descriptor (its new owner may be another core:
 * hand it over by ring and io_socket_attach() there), or a negative errno after which accepting
 * went on by itself. */
struct io_listener {
    struct io_op op;
    int32_t fd;
    struct reactor *reactor;
    void (*accepted)(struct io_listener *listener, int32_t fd, const struct io_address *peer);
    void (*closed)(struct io_listener *listener);
    struct io_op retry;
    uint16_t port; /* actual: tells which one port 0 became */
    bool closing;
};

must_check int reactor_listen(struct reactor *reactor, struct io_listener *listener,
                              const struct io_address *address);
void reactor_listener_close(struct reactor *reactor, struct io_listener *listener);

/* A connected stream socket, embedded in its owner. One send is in flight at a time; what is queued
 * meanwhile goes out in the next. */
struct io_socket {
    struct io_op recv_op;
    struct io_op close_op;
    struct reactor *reactor;
    int32_t fd;
    bool receiving; /* the multishot receive is armed, or queued to be */
    bool starved;   /* waits for a receive buffer */
    bool closing;
    uint8_t in_flight; /* bit per kind of op that still names this socket; the backend's */
    struct queue_link starved_link;
    /* count > 0: bytes borrowed until return. 0: the peer ended its side. < 0: errno. After <= 0
     * nothing more arrives. Never called again once io_socket_close() was called. */
    void (*received)(struct io_socket *socket, const uint8_t *bytes, int32_t count);
    void (*closed)(struct io_socket *socket); /* last touch of the socket */
};

/* result: a connected descriptor for io_socket_attach(); -ETIMEDOUT after IO_CONNECT_MS_MAX. */
#define IO_CONNECT_MS_MAX 5000
struct io_connect {
    struct io_op op;
    struct io_address address;
    int32_t fd;
    uint64_t storage[4];
};
void reactor_connect(struct reactor *reactor, struct io_connect *connect);

/* Takes over a descriptor on this core; sets TCP_NODELAY, and what ends the socket with an error
 * when its peer vanished: 60 s of silence, then probes. `received` and `closed` must be set. */
#define IO_KEEPALIVE_IDLE_S     60
#define IO_KEEPALIVE_INTERVAL_S 10
#define IO_KEEPALIVE_PROBES     3
void io_socket_attach(struct reactor *reactor, struct io_socket *socket, int32_t fd);
void io_socket_receive(struct io_socket *socket); /* start, or go on after a stop */
void io_socket_receive_stop(
    struct io_socket *socket); /* back-pressure; some bytes may still come */

/* Gathers. `iov` and what it names are borrowed until `done`; result = bytes sent, may be short. */
void io_socket_send(struct io_socket *socket, struct io_op *op, const struct iovec *iov,
                    uint32_t iov_count);

/* Shuts down, cancels what is in flight (a pending send still ends in its `done`), waits for it,
 * closes, then calls `closed`. */
void io_socket_close(struct io_socket *socket);

/* Discards a descriptor that was never attached. */
void reactor_discard_descriptor(struct reactor *reactor, int32_t fd);

/* ---- process-level facts, for status and metrics -------------------------------------------- */

struct reactor_process_stats {
    uint64_t resident_bytes;
    uint64_t virtual_bytes;
    uint64_t cpu_ns;
    uint64_t open_files, open_files_max;
    int64_t start_wall_ns;
};
/* CPUs that this thread may use: its affinity mask, cut by the control group's quota. */
uint32_t reactor_cpu_count(const struct reactor *reactor);
/* That quota in whole CPUs, rounded up; UINT32_MAX when there is none. */
uint32_t reactor_cpu_quota(const struct reactor *reactor);

void reactor_process_stats(struct reactor *reactor, struct reactor_process_stats *stats);

#endif
