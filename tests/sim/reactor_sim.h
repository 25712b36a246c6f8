/*
 * reactor_sim.h - what the files of the simulated reactor share (tests/sim/reactor_sim*.c), and
 * what the world asks of it.
 *
 * Story     A started operation is a request: an event at a seeded time. When it is due its effect
 *           happens and it joins the reactor's completions; reactor_poll() hands these out in
 *           seeded order. Sockets and listeners keep their completions in the same list.
 * Invariants
 *   S1  an io_op's link is OP_PENDING exactly while a request, a send or a completion names it.
 *   S2  a request is on its node's list from the start of the operation until its callback runs.
 *   S3  requests live in the world's memory, what they name (op, buffer) in the node's.
 */
#ifndef TESTS_SIM_REACTOR_SIM_H
#define TESTS_SIM_REACTOR_SIM_H

#include "core/buffer.h"
#include "core/reactor.h"
#include "tests/sim/disk.h"
#include "tests/sim/world.h"

#define OP_PENDING ((struct queue_link *)(uintptr_t)3)

enum sim_request_kind {
    SIM_REQUEST_OPEN,
    SIM_REQUEST_CLOSE,
    SIM_REQUEST_READ,
    SIM_REQUEST_WRITE,
    SIM_REQUEST_SYNC,
    SIM_REQUEST_STREAM,
    SIM_REQUEST_ALLOCATE,
    SIM_REQUEST_TRUNCATE,
    SIM_REQUEST_RENAME,
    SIM_REQUEST_UNLINK,
    SIM_REQUEST_LINK,
    SIM_REQUEST_MAKE_DIRECTORY,
    SIM_REQUEST_REMOVE_DIRECTORY,
    SIM_REQUEST_STAT,
    SIM_REQUEST_CONNECT,
    SIM_REQUEST_SEND,
    /* without an op: completions of sockets and listeners */
    SIM_REQUEST_RECEIVE,
    SIM_REQUEST_ACCEPT,
    SIM_REQUEST_SOCKET_CLOSE,
    SIM_REQUEST_LISTENER_CLOSE,
};

struct sim_endpoint;

struct sim_request {
    struct sim_event event;
    struct sim_request *next, *previous; /* of the node */
    struct sim_node *node;
    struct reactor *reactor;
    enum sim_request_kind kind;
    struct io_op *op;
    int32_t result;
    bool completed; /* waits in the reactor's completions */
    uint32_t flags;
    uint64_t number; /* of the node's requests, for the trace */

    struct sim_file *file;
    struct io_span span;
    uint32_t content_hash; /* of a write's bytes when it was started */
    uint64_t sync_sequence;
    uint64_t bytes;
    char *path[2];
    struct io_stat *stat;

    struct io_connect *connect;
    struct sim_endpoint *endpoint;
    struct io_socket *socket;
    struct io_listener *listener;
    const struct iovec *iov;
    uint32_t iov_count;
};

struct reactor {
    struct reactor_options options;
    struct sim_node *node;
    struct prng prng;
    /* In the world's time; its node's clock may drift from it. */
    uint64_t now_ns;   /* constant within a turn */
    uint64_t clock_ns; /* grows by a little whenever it is read */
    uint32_t ops_pending;
    struct sim_request **completions;
    uint32_t completion_count, completion_capacity;
    uint8_t *arena;
    uint64_t arena_bytes;
    struct buffer_pool *buffers;
    uint8_t *receive_buffer;
    struct sim_event wake; /* another core's wake-up on its way */
    bool interrupted;
};

/* ---- of reactor_sim.c -------------------------------------------------------------------------
 */

void reactor_sim_turn_begin(struct reactor *reactor);
uint64_t reactor_sim_turn_end(struct reactor *reactor); /* CPU time that clock readings claimed */
bool reactor_sim_has_completions(const struct reactor *reactor);
bool reactor_sim_wake_pending(const struct reactor *reactor);
void reactor_sim_crash_node(struct sim_node *node); /* requests, descriptors, connections */
void reactor_sim_abandon(struct reactor *reactor);  /* what outlives the heap: the arena */

struct sim_request *sim_request_start(struct reactor *reactor, struct io_op *op,
                                      enum sim_request_kind kind, uint64_t delay_ns);
void sim_request_due(struct sim_request *request, int32_t result); /* to the completions */
void sim_request_free(struct sim_request *request);
int32_t sim_descriptor_add(struct sim_node *node, enum sim_descriptor_kind kind, void *object);
void *sim_descriptor_get(struct sim_node *node, int32_t fd, enum sim_descriptor_kind kind);
void sim_descriptor_remove(struct sim_node *node, int32_t fd);

/* ---- of reactor_sim_files.c -------------------------------------------------------------------
 */

void sim_file_request_due(struct sim_request *request);
void sim_file_request_drop(struct sim_request *request); /* the node crashed */
/* What is in flight on `node` takes effect on `disk` (the node's own, or a clone) or not. */
void sim_requests_land(struct sim_node *node, struct sim_disk *disk, bool is_clone,
                       enum sim_loss loss, struct prng *prng);

/* ---- of reactor_sim_net.c ---------------------------------------------------------------------
 */

struct sim_network *sim_network_create(struct sim_world *world);
void sim_network_destroy(struct sim_network *network);
void sim_network_request_due(struct sim_request *request);
void sim_network_complete(struct sim_request *request); /* runs the callback */
void sim_network_crash(struct sim_node *node);

#endif
