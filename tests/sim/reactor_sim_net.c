/* core/reactor.h on a simulated world: byte streams between nodes (and within one), with delays,
 * segments of any size, short sends, bounded windows, ends and resets. */
#include "tests/sim/reactor_sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"
#include "tests/sim/memory.h"
#include "tests/sim/network.h"

#define WINDOW_BYTES        ((uint64_t)256 * 1024) /* sent, not yet received by the application */
#define LATENCY_NS_MIN      20000
#define LATENCY_NS_SPREAD   200000
#define SLOW_PER_MILLE      1 /* of segments take up to SLOW_NS_SPREAD longer */
#define SLOW_NS_SPREAD      (40 * NS_PER_MS)
#define SYSCALL_NS_MIN      1000
#define SYSCALL_NS_SPREAD   10000
#define CUT_PERCENT         20 /* of sends and receives move less than they could */
#define FIRST_PORT          20000
#define REFUSED_NS          50000
#define SILENT_RESET_NS_MAX (3 * NS_PER_S)

/* Bits of io_socket.in_flight. */
enum socket_op { SOCKET_RECV = 1, SOCKET_CLOSE = 2 };

struct segment {
    struct sim_event event;
    struct segment *next;
    struct sim_endpoint *to;
    uint32_t bytes;
    bool is_end;
    int32_t reset; /* < 0: no bytes, an error */
    uint8_t data[];
};

/* One end of a connection. Lives until its node has let go of it and no segment travels to it.
 * N1  window_bytes = bytes travelling to the peer + bytes in its inbox <= WINDOW_BYTES. */
struct sim_endpoint {
    struct sim_endpoint *peer;
    struct sim_node *node;
    uint32_t incarnation; /* of the node that owned it */
    struct sim_endpoint *next, *previous;
    struct io_socket *socket; /* NULL while not attached */
    bool open;                /* the application's side */
    int32_t fd;
    uint16_t port_local, port_peer;

    uint8_t *inbox;
    uint64_t inbox_first, inbox_bytes, inbox_capacity;
    bool end_received, end_told;
    int32_t error;               /* reset: < 0 */
    struct sim_request *receive; /* armed, or waiting in the completions */

    struct sim_request *sends[64]; /* oldest first; the first one is in flight */
    uint32_t send_count;
    struct sim_request *close;
    uint64_t window_bytes; /* towards the peer */
    uint64_t arrival_ns;   /* of the last segment sent: bytes stay in order */
    uint32_t travelling;   /* segments on their way to this end */
};

struct sim_listener_entry {
    struct sim_node *node;
    struct io_listener *listener;
    struct reactor *reactor;
    uint16_t port;
    uint32_t accepts; /* completions that name the listener */
    struct sim_request *close;
    struct sim_request *armed;
    struct sim_listener_entry *next;
};

struct sim_network {
    struct sim_world *world;
    struct sim_endpoint *endpoints;
    struct sim_listener_entry *listeners;
    struct segment *segments;
    uint16_t port_next;
    uint64_t blocked_until_ns[SIM_NODES_MAX + 1][SIM_NODES_MAX + 1]; /* from, to */
    uint64_t slow_ns[SIM_NODES_MAX + 1][SIM_NODES_MAX + 1];          /* from, to */
    int (*names)(void *context, const char *host, uint8_t ip[4]);    /* NULL: localhost alone */
    void *names_context;
};

struct sim_network *sim_network_create(struct sim_world *world)
{
    struct sim_network *network = sim_alloc(sizeof(*network));
    network->world = world;
    network->port_next = FIRST_PORT;
    return network;
}

static void endpoint_free(struct sim_network *network, struct sim_endpoint *endpoint)
{
    if (endpoint->previous != NULL)
        endpoint->previous->next = endpoint->next;
    else
        network->endpoints = endpoint->next;
    if (endpoint->next != NULL)
        endpoint->next->previous = endpoint->previous;
    if (endpoint->peer != NULL)
        endpoint->peer->peer = NULL;
    free(endpoint->inbox);
    free(endpoint);
}

static void segment_remove(struct sim_network *network, struct segment *segment)
{
    sim_event_cancel(network->world, &segment->event);
    for (struct segment **at = &network->segments; *at != NULL; at = &(*at)->next) {
        if (*at == segment) {
            *at = segment->next;
            break;
        }
    }
    free(segment);
}

void sim_network_destroy(struct sim_network *network)
{
    while (network->segments != NULL)
        segment_remove(network, network->segments);
    while (network->endpoints != NULL)
        endpoint_free(network, network->endpoints);
    invariant(network->listeners == NULL);
    free(network);
}

void sim_network_names(struct sim_world *world,
                       int (*names)(void *context, const char *host, uint8_t ip[4]), void *context)
{
    world->network->names = names;
    world->network->names_context = context;
}

void sim_network_block(struct sim_world *world, uint32_t from, uint32_t to, uint64_t until_ns)
{
    world->network->blocked_until_ns[from][to] = until_ns;
}

void sim_network_slow(struct sim_world *world, uint32_t from, uint32_t to, uint64_t by_ns)
{
    world->network->slow_ns[from][to] = by_ns;
}

/* ---- travelling ----------------------------------------------------------------------------- */

static void receive_kick(struct sim_endpoint *endpoint);
static void send_try(struct sim_request *request);

/* Lets go of an end that nobody needs any more. */
static void endpoint_release(struct sim_network *network, struct sim_endpoint *endpoint)
{
    if (endpoint->open || endpoint->travelling > 0)
        return;
    if (endpoint->peer != NULL && endpoint->peer->open)
        return; /* the peer may still send: it must learn of the reset from here */
    endpoint_free(network, endpoint);
}

static uint64_t syscall_ns(struct sim_world *world)
{
    return SYSCALL_NS_MIN + prng_below(sim_prng(world, SIM_STREAM_NETWORK), SYSCALL_NS_SPREAD);
}

static void segment_arrives(struct sim_event *event);

static void transmit(struct sim_endpoint *from, const struct iovec *iov, uint64_t bytes,
                     bool is_end, int32_t reset, uint64_t extra_ns)
{
    struct sim_endpoint *to = from->peer;
    if (to == NULL)
        return;
    struct sim_network *network = from->node->world->network;
    struct sim_world *world = network->world;
    struct prng *prng = sim_prng(world, SIM_STREAM_NETWORK);
    struct segment *segment = sim_alloc_dirty(sizeof(*segment) + bytes);
    segment->to = to;
    segment->bytes = (uint32_t)bytes;
    segment->is_end = is_end;
    segment->reset = reset;
    for (uint64_t done = 0; done < bytes; iov++) {
        uint64_t part = u64_min(iov->iov_len, bytes - done);
        memcpy(segment->data + done, iov->iov_base, part);
        done += part;
    }
    uint64_t delay_ns = LATENCY_NS_MIN + prng_below(prng, LATENCY_NS_SPREAD) + extra_ns +
                        network->slow_ns[from->node->id][to->node->id];
    if (prng_chance(prng, SLOW_PER_MILLE, 1000))
        delay_ns += prng_below(prng, SLOW_NS_SPREAD);
    uint64_t at_ns =
        u64_max(world->now_ns + delay_ns, network->blocked_until_ns[from->node->id][to->node->id]);
    from->arrival_ns = u64_max(from->arrival_ns + 1, at_ns);
    from->window_bytes += bytes;
    to->travelling++;
    segment->next = network->segments;
    network->segments = segment;
    sim_event_init(&segment->event, segment_arrives);
    sim_event_schedule(world, &segment->event, from->arrival_ns);
}

static void inbox_append(struct sim_endpoint *endpoint, const uint8_t *data, uint64_t bytes)
{
    if (endpoint->inbox_first > 0 && endpoint->inbox_bytes == 0)
        endpoint->inbox_first = 0;
    if (endpoint->inbox_first + endpoint->inbox_bytes + bytes > endpoint->inbox_capacity) {
        if (endpoint->inbox_bytes > 0)
            memmove(endpoint->inbox, endpoint->inbox + endpoint->inbox_first,
                    endpoint->inbox_bytes);
        endpoint->inbox_first = 0;
        if (endpoint->inbox_bytes + bytes > endpoint->inbox_capacity) {
            endpoint->inbox_capacity = 2 * (endpoint->inbox_bytes + bytes);
            endpoint->inbox = sim_realloc(endpoint->inbox, endpoint->inbox_capacity);
        }
    }
    memcpy(endpoint->inbox + endpoint->inbox_first + endpoint->inbox_bytes, data, bytes);
    endpoint->inbox_bytes += bytes;
}

static void sends_wake(struct sim_endpoint *endpoint)
{
    if (endpoint->send_count == 0 || endpoint->sends[0]->completed)
        return;
    struct sim_request *request = endpoint->sends[0];
    if (request->event.slot == SIM_EVENT_IDLE)
        sim_event_schedule(request->node->world, &request->event,
                           request->node->world->now_ns + syscall_ns(request->node->world));
}

static void segment_arrives(struct sim_event *event)
{
    struct segment *segment = container_of(event, struct segment, event);
    struct sim_endpoint *to = segment->to, *from = to->peer;
    struct sim_node *node = to->node;
    struct sim_network *network = node->world->network;
    to->travelling--;
    bool alive = to->open;
    sim_trace(node->world, node, 0, segment->bytes > 0 ? SIM_KIND_NET_ARRIVE : SIM_KIND_NET_END,
              to->port_local,
              segment->bytes > 0 ? segment->bytes : (uint64_t)(int64_t)segment->reset);
    if (segment->reset < 0) {
        to->error = segment->reset;
        sends_wake(to);
    } else if (segment->is_end) {
        to->end_received = true;
    } else if (alive && to->error == 0) {
        inbox_append(to, segment->data, segment->bytes);
    } else if (from != NULL) { /* nobody is there to read it */
        from->window_bytes -= segment->bytes;
        if (!alive && from->open)
            transmit(to, NULL, 0, false, -ECONNRESET, 0);
    }
    segment_remove(network, segment);
    if (alive)
        receive_kick(to);
    endpoint_release(network, to);
}

/* ---- receiving ------------------------------------------------------------------------------ */

static void receive_kick(struct sim_endpoint *endpoint)
{
    struct sim_request *request = endpoint->receive;
    if (request == NULL || request->completed)
        return;
    if (endpoint->inbox_bytes == 0 && !endpoint->end_received && endpoint->error == 0 &&
        !endpoint->socket->closing)
        return;
    sim_request_due(request, 0);
}

static void receive_arm(struct io_socket *socket)
{
    struct sim_endpoint *endpoint =
        sim_descriptor_get(socket->reactor->node, socket->fd, SIM_FD_STREAM);
    invariant(endpoint != NULL && (socket->in_flight & SOCKET_RECV) == 0);
    if (endpoint->end_told)
        return;
    socket->in_flight |= SOCKET_RECV;
    struct sim_request *request =
        sim_request_start(socket->reactor, NULL, SIM_REQUEST_RECEIVE, UINT64_MAX);
    request->endpoint = endpoint;
    request->socket = socket;
    endpoint->receive = request;
    receive_kick(endpoint);
}

void io_socket_attach(struct reactor *reactor, struct io_socket *socket, int32_t fd)
{
    struct sim_endpoint *endpoint = sim_descriptor_get(reactor->node, fd, SIM_FD_STREAM);
    invariant(socket->received != NULL && socket->closed != NULL);
    sim_check(endpoint != NULL && endpoint->socket == NULL, "descriptor %d is no free stream", fd);
    io_op_init(&socket->recv_op, NULL);
    io_op_init(&socket->close_op, NULL);
    queue_link_init(&socket->starved_link);
    socket->reactor = reactor;
    socket->fd = fd;
    socket->receiving = socket->starved = socket->closing = false;
    socket->in_flight = 0;
    endpoint->socket = socket;
}

void io_socket_receive(struct io_socket *socket)
{
    invariant(!socket->closing);
    socket->receiving = true;
    if ((socket->in_flight & SOCKET_RECV) == 0)
        receive_arm(socket);
}

void io_socket_receive_stop(struct io_socket *socket)
{
    if (!socket->receiving)
        return;
    struct sim_endpoint *endpoint =
        sim_descriptor_get(socket->reactor->node, socket->fd, SIM_FD_STREAM);
    struct sim_request *request = endpoint->receive;
    if (request != NULL && !request->completed)
        sim_request_due(request, -ECANCELED);
    socket->receiving = false;
}

/* The bytes for one callback, in the reactor's receive buffer. */
static int32_t receive_take(struct sim_endpoint *endpoint, struct reactor *reactor)
{
    struct sim_world *world = endpoint->node->world;
    struct prng *prng = sim_prng(world, SIM_STREAM_NETWORK);
    uint64_t count = u64_min(endpoint->inbox_bytes, reactor->options.recv_buffer_bytes);
    if (count > 1 && prng_chance(prng, CUT_PERCENT, 100))
        count = 1 + prng_below(prng, count - 1);
    memcpy(reactor->receive_buffer, endpoint->inbox + endpoint->inbox_first, count);
    endpoint->inbox_first += count;
    endpoint->inbox_bytes -= count;
    if (endpoint->peer != NULL) {
        invariant(endpoint->peer->window_bytes >= count); /* N1 */
        endpoint->peer->window_bytes -= count;
        sends_wake(endpoint->peer);
    }
    return (int32_t)count;
}

static void receive_complete(struct sim_request *request)
{
    struct sim_endpoint *endpoint = request->endpoint;
    struct io_socket *socket = request->socket;
    struct reactor *reactor = request->reactor;
    bool cancelled = request->result == -ECANCELED;
    endpoint->receive = NULL;
    sim_request_free(request);
    socket->in_flight &= (uint8_t)~SOCKET_RECV;
    if (socket->closing || (cancelled && !socket->receiving))
        return;
    if (!socket->receiving &&
        prng_chance(sim_prng(endpoint->node->world, SIM_STREAM_NETWORK), 1, 2))
        return; /* stopped in time; else these bytes come all the same */
    if (endpoint->inbox_bytes > 0 && !cancelled) {
        int32_t count = receive_take(endpoint, reactor);
        socket->received(socket, reactor->receive_buffer, count);
    } else if (!cancelled && (endpoint->error < 0 || endpoint->end_received)) {
        endpoint->end_told = true;
        socket->receiving = false;
        socket->received(socket, NULL, endpoint->error);
        return; /* the callback may have closed and freed it */
    }
    if (!socket->closing && socket->receiving && (socket->in_flight & SOCKET_RECV) == 0)
        receive_arm(socket);
}

/* ---- sending -------------------------------------------------------------------------------- */

static uint64_t iov_bytes(const struct iovec *iov, uint32_t count)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

static void send_try(struct sim_request *request)
{
    struct sim_endpoint *endpoint = request->endpoint;
    struct sim_world *world = request->node->world;
    struct prng *prng = sim_prng(world, SIM_STREAM_NETWORK);
    if (request->socket->closing) {
        sim_request_due(request, -ECANCELED);
        return;
    }
    if (endpoint->error < 0 || endpoint->peer == NULL) {
        sim_request_due(request, endpoint->error < 0 ? -ECONNRESET : -EPIPE);
        return;
    }
    uint64_t total = iov_bytes(request->iov, request->iov_count);
    invariant(total > 0);
    uint64_t count = u64_min(total, WINDOW_BYTES - endpoint->window_bytes);
    if (count == 0)
        return; /* until the peer has read */
    if (count > 1 && prng_chance(prng, CUT_PERCENT, 100))
        count = 1 + prng_below(prng, count - 1);
    sim_trace(world, request->node, request->reactor->options.core, SIM_KIND_NET_SEND,
              endpoint->port_local, count);
    transmit(endpoint, request->iov, count, false, 0, 0);
    sim_request_due(request, (int32_t)count);
}

void io_socket_send(struct io_socket *socket, struct io_op *op, const struct iovec *iov,
                    uint32_t iov_count)
{
    invariant(!socket->closing);
    struct sim_endpoint *endpoint =
        sim_descriptor_get(socket->reactor->node, socket->fd, SIM_FD_STREAM);
    invariant(endpoint != NULL && endpoint->send_count < ARRAY_COUNT(endpoint->sends));
    struct sim_request *request =
        sim_request_start(socket->reactor, op, SIM_REQUEST_SEND, UINT64_MAX);
    request->endpoint = endpoint;
    request->socket = socket;
    request->iov = iov;
    request->iov_count = iov_count;
    endpoint->sends[endpoint->send_count++] = request;
    if (endpoint->send_count == 1)
        sends_wake(endpoint);
}

static void send_complete(struct sim_request *request)
{
    struct sim_endpoint *endpoint = request->endpoint;
    struct io_op *op = request->op;
    int32_t result = request->result;
    uint32_t at = 0;
    while (endpoint->sends[at] != request)
        at++;
    endpoint->send_count--;
    memmove(&endpoint->sends[at], &endpoint->sends[at + 1],
            (endpoint->send_count - at) * sizeof(endpoint->sends[0]));
    sim_request_free(request);
    sends_wake(endpoint);
    invariant(op->link.next == OP_PENDING);
    op->link.next = QUEUE_LINK_IDLE;
    op->done(op, result);
}

/* ---- closing -------------------------------------------------------------------------------- */

void io_socket_close(struct io_socket *socket)
{
    invariant(!socket->closing);
    struct sim_endpoint *endpoint =
        sim_descriptor_get(socket->reactor->node, socket->fd, SIM_FD_STREAM);
    invariant(endpoint != NULL);
    socket->closing = true;
    socket->receiving = false;
    receive_kick(endpoint); /* ends the armed receive */
    for (uint32_t i = 0; i < endpoint->send_count; i++) {
        struct sim_request *request = endpoint->sends[i];
        if (!request->completed && request->event.slot == SIM_EVENT_IDLE)
            sim_request_due(request, -ECANCELED);
    }
    socket->in_flight |= SOCKET_CLOSE;
    struct sim_request *request = sim_request_start(socket->reactor, NULL, SIM_REQUEST_SOCKET_CLOSE,
                                                    syscall_ns(socket->reactor->node->world));
    request->endpoint = endpoint;
    request->socket = socket;
}

static void endpoint_shut(struct sim_endpoint *endpoint)
{
    struct sim_network *network = endpoint->node->world->network;
    if (endpoint->error == 0)
        transmit(endpoint, NULL, 0, true, 0, 0);
    endpoint->open = false;
    endpoint->socket = NULL;
    struct sim_endpoint *peer = endpoint->peer;
    if (peer != NULL) { /* what was not read never will be */
        peer->window_bytes -= endpoint->inbox_bytes;
        endpoint->inbox_bytes = 0;
    }
    bool peer_waits = peer != NULL && !peer->open;
    endpoint_release(network, endpoint);
    if (peer_waits)
        endpoint_release(network, peer);
}

static void socket_close_complete(struct sim_request *request)
{
    struct sim_endpoint *endpoint = request->endpoint;
    struct io_socket *socket = request->socket;
    if (endpoint->send_count > 0 || (socket->in_flight & SOCKET_RECV) != 0) {
        request->reactor->ops_pending++; /* again, after those have ended */
        request->completed = false;
        sim_event_schedule(request->node->world, &request->event,
                           request->node->world->now_ns + SYSCALL_NS_MIN);
        return;
    }
    sim_descriptor_remove(request->node, socket->fd);
    sim_request_free(request);
    endpoint_shut(endpoint);
    socket->fd = -1;
    socket->in_flight = 0;
    socket->closed(socket);
}

void reactor_discard_descriptor(struct reactor *reactor, int32_t fd)
{
    struct sim_endpoint *endpoint = sim_descriptor_get(reactor->node, fd, SIM_FD_STREAM);
    invariant(endpoint != NULL && endpoint->socket == NULL);
    sim_descriptor_remove(reactor->node, fd);
    endpoint_shut(endpoint);
}

/* ---- addresses and listeners ---------------------------------------------------------------- */

static void address_make(struct io_address *address, const uint8_t *ip, uint16_t port)
{
    memset(address, 0, sizeof(*address));
    memcpy(address->ip, ip, 4);
    address->port = port;
    snprintf(address->text, sizeof(address->text), "%u.%u.%u.%u:%u", ip[0], ip[1], ip[2], ip[3],
             port);
}

int reactor_resolve(struct reactor *reactor, const char *host, uint16_t port,
                    struct io_address *address)
{
    (void)reactor;
    unsigned part[4];
    uint8_t ip[4] = {127, 0, 0, 1};
    if (strcmp(host, "localhost") != 0) {
        if (sscanf(host, "%u.%u.%u.%u", &part[0], &part[1], &part[2], &part[3]) != 4)
            return ERR_NOT_FOUND;
        for (int i = 0; i < 4; i++)
            ip[i] = (uint8_t)part[i];
    }
    address_make(address, ip, port);
    return 0;
}

int reactor_resolve_aside(struct reactor *reactor, struct io_lookup **lookup, const char *host,
                          uint16_t port, struct io_address *address)
{
    const struct sim_network *network = reactor->node->world->network;
    invariant(*lookup == NULL);
    uint8_t ip[4];
    if (network->names == NULL || strspn(host, "0123456789.") == strlen(host))
        return reactor_resolve(reactor, host, port, address);
    int error = network->names(network->names_context, host, ip);
    if (error == 0)
        address_make(address, ip, port);
    return error;
}

void io_lookup_drop(struct io_lookup *lookup)
{
    invariant(lookup == NULL);
}

static struct sim_node *node_at(struct sim_node *from, const struct io_address *address)
{
    if (address->ip[0] == 127)
        return from;
    uint32_t id = address->ip[3];
    if (id == 0 || id > from->world->node_count)
        return NULL;
    return from->world->nodes[id - 1];
}

static struct sim_listener_entry *listener_at(const struct sim_node *node, uint16_t port)
{
    struct sim_listener_entry *entry = node->world->network->listeners;
    while (entry != NULL && (entry->node != node || entry->port != port || entry->close != NULL))
        entry = entry->next;
    return entry;
}

int reactor_listen(struct reactor *reactor, struct io_listener *listener,
                   const struct io_address *address)
{
    struct sim_network *network = reactor->node->world->network;
    invariant(listener->accepted != NULL && listener->closed != NULL);
    uint16_t port = address->port;
    if (port != 0 && listener_at(reactor->node, port) != NULL)
        return -EADDRINUSE;
    while (port == 0 || listener_at(reactor->node, port) != NULL)
        port = network->port_next++;
    struct sim_listener_entry *entry = sim_alloc(sizeof(*entry));
    *entry = (struct sim_listener_entry){.node = reactor->node,
                                         .listener = listener,
                                         .reactor = reactor,
                                         .port = port,
                                         .next = network->listeners};
    network->listeners = entry;
    io_op_init(&listener->op, NULL);
    io_op_init(&listener->retry, NULL);
    listener->reactor = reactor;
    listener->port = port;
    listener->closing = false;
    listener->fd = sim_descriptor_add(reactor->node, SIM_FD_LISTENER, entry);
    entry->armed = sim_request_start(reactor, NULL, SIM_REQUEST_ACCEPT, UINT64_MAX);
    entry->armed->listener = listener;
    return 0;
}

void reactor_listener_close(struct reactor *reactor, struct io_listener *listener)
{
    invariant(!listener->closing);
    listener->closing = true;
    struct sim_listener_entry *entry =
        sim_descriptor_get(reactor->node, listener->fd, SIM_FD_LISTENER);
    invariant(entry != NULL);
    struct sim_request *request = sim_request_start(reactor, NULL, SIM_REQUEST_LISTENER_CLOSE,
                                                    syscall_ns(reactor->node->world));
    request->listener = listener;
    entry->close = request;
}

static void listener_free(struct sim_network *network, struct sim_listener_entry *entry)
{
    for (struct sim_listener_entry **at = &network->listeners; *at != NULL; at = &(*at)->next) {
        if (*at == entry) {
            *at = entry->next;
            break;
        }
    }
    free(entry);
}

static void listener_close_complete(struct sim_request *request)
{
    struct io_listener *listener = request->listener;
    struct sim_node *node = request->node;
    struct sim_listener_entry *entry = sim_descriptor_get(node, listener->fd, SIM_FD_LISTENER);
    invariant(entry != NULL && entry->close == request);
    if (entry->accepts > 0) {
        request->reactor->ops_pending++;
        request->completed = false;
        sim_event_schedule(node->world, &request->event, node->world->now_ns + SYSCALL_NS_MIN);
        return;
    }
    request->reactor->ops_pending--;
    sim_request_free(entry->armed);
    sim_descriptor_remove(node, listener->fd);
    listener_free(node->world->network, entry);
    sim_request_free(request);
    listener->fd = -1;
    listener->closed(listener);
}

static void accept_complete(struct sim_request *request)
{
    struct io_listener *listener = request->listener;
    struct sim_endpoint *endpoint = request->endpoint;
    struct sim_node *node = request->node;
    struct sim_listener_entry *entry = sim_descriptor_get(node, listener->fd, SIM_FD_LISTENER);
    entry->accepts--;
    sim_request_free(request);
    if (listener->closing) {
        endpoint_shut(endpoint);
        return;
    }
    uint8_t ip[4] = {10, 0, 0, 0};
    if (endpoint->peer != NULL)
        ip[3] = (uint8_t)endpoint->peer->node->id;
    struct io_address peer;
    address_make(&peer, ip, endpoint->port_peer);
    endpoint->fd = sim_descriptor_add(node, SIM_FD_STREAM, endpoint);
    listener->accepted(listener, endpoint->fd, &peer);
}

/* ---- connecting ----------------------------------------------------------------------------- */

void reactor_connect(struct reactor *reactor, struct io_connect *connect)
{
    struct sim_world *world = reactor->node->world;
    struct prng *prng = sim_prng(world, SIM_STREAM_NETWORK);
    struct sim_node *to = node_at(reactor->node, &connect->address);
    uint64_t delay_ns = 2 * (LATENCY_NS_MIN + prng_below(prng, LATENCY_NS_SPREAD));
    if (to != NULL) {
        uint64_t blocked_ns = u64_max(world->network->blocked_until_ns[reactor->node->id][to->id],
                                      world->network->blocked_until_ns[to->id][reactor->node->id]);
        if (blocked_ns > world->now_ns)
            delay_ns =
                u64_min(delay_ns + blocked_ns - world->now_ns, IO_CONNECT_MS_MAX * NS_PER_MS);
    }
    struct sim_request *request =
        sim_request_start(reactor, &connect->op, SIM_REQUEST_CONNECT, delay_ns);
    request->connect = connect;
}

static struct sim_endpoint *endpoint_make(struct sim_network *network, struct sim_node *node)
{
    struct sim_endpoint *endpoint = sim_alloc(sizeof(*endpoint));
    endpoint->node = node;
    endpoint->incarnation = node->incarnation;
    endpoint->open = true;
    endpoint->fd = -1;
    endpoint->next = network->endpoints;
    if (network->endpoints != NULL)
        network->endpoints->previous = endpoint;
    network->endpoints = endpoint;
    return endpoint;
}

static int32_t connect_now(struct sim_request *request)
{
    struct sim_node *node = request->node;
    struct sim_network *network = node->world->network;
    const struct io_address *address = &request->connect->address;
    struct sim_node *to = node_at(node, address);
    if (to != NULL && (network->blocked_until_ns[node->id][to->id] > node->world->now_ns ||
                       network->blocked_until_ns[to->id][node->id] > node->world->now_ns))
        return -ETIMEDOUT;
    struct sim_listener_entry *entry =
        to == NULL || !to->running ? NULL : listener_at(to, address->port);
    if (entry == NULL)
        return -ECONNREFUSED;
    struct sim_endpoint *near = endpoint_make(network, node), *far = endpoint_make(network, to);
    near->peer = far;
    far->peer = near;
    near->port_local = far->port_peer = network->port_next++;
    near->port_peer = far->port_local = address->port;
    near->fd = sim_descriptor_add(node, SIM_FD_STREAM, near);
    struct sim_request *accept =
        sim_request_start(entry->reactor, NULL, SIM_REQUEST_ACCEPT, syscall_ns(node->world));
    accept->listener = entry->listener;
    accept->endpoint = far;
    entry->accepts++;
    return near->fd;
}

/* ---- entrances ------------------------------------------------------------------------------ */

void sim_network_request_due(struct sim_request *request)
{
    struct sim_node *node = request->node;
    if (request->kind == SIM_REQUEST_SEND) {
        send_try(request);
        return;
    }
    int32_t result = 0;
    if (request->kind == SIM_REQUEST_CONNECT) {
        result = connect_now(request);
        request->connect->fd = result < 0 ? -1 : result;
        sim_trace(node->world, node, request->reactor->options.core, SIM_KIND_NET_CONNECT,
                  request->connect->address.port, (uint64_t)(int64_t)result);
    }
    sim_request_due(request, result);
}

void sim_network_complete(struct sim_request *request)
{
    switch (request->kind) {
    case SIM_REQUEST_SEND:
        send_complete(request);
        return;
    case SIM_REQUEST_RECEIVE:
        receive_complete(request);
        return;
    case SIM_REQUEST_ACCEPT:
        accept_complete(request);
        return;
    case SIM_REQUEST_SOCKET_CLOSE:
        socket_close_complete(request);
        return;
    case SIM_REQUEST_LISTENER_CLOSE:
        listener_close_complete(request);
        return;
    default: /* the others have no completion of their own */
        invariant(!"a request of a socket or listener");
    }
}

/* The node is gone: half of its connections learn it at once (their bytes meet no socket), the
 * others only later. */
void sim_network_crash(struct sim_node *node)
{
    struct sim_network *network = node->world->network;
    struct prng *prng = sim_prng(node->world, SIM_STREAM_FAULTS);
    struct sim_endpoint *next;
    for (struct sim_endpoint *endpoint = network->endpoints; endpoint != NULL; endpoint = next) {
        next = endpoint->next;
        if (endpoint->node != node || !endpoint->open)
            continue;
        endpoint->open = false;
        endpoint->socket = NULL;
        endpoint->receive = NULL;
        endpoint->send_count = 0;
        if (endpoint->peer != NULL) {
            endpoint->peer->window_bytes -= endpoint->inbox_bytes;
            endpoint->inbox_bytes = 0;
        }
        if (endpoint->peer != NULL && endpoint->peer->open)
            transmit(endpoint, NULL, 0, false, -ECONNRESET,
                     prng_chance(prng, 1, 2) ? 0 : prng_below(prng, SILENT_RESET_NS_MAX));
    }
    struct sim_listener_entry *entry = network->listeners;
    while (entry != NULL) {
        struct sim_listener_entry *following = entry->next;
        if (entry->node == node)
            listener_free(network, entry);
        entry = following;
    }
    for (struct sim_endpoint *endpoint = network->endpoints; endpoint != NULL; endpoint = next) {
        next = endpoint->next;
        if (!endpoint->open && endpoint->travelling == 0 &&
            (endpoint->peer == NULL || !endpoint->peer->open))
            endpoint_free(network, endpoint);
    }
}
