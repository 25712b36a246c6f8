/* The C client beside endpoints that accept and do not serve, each in its own way. */
#include "client/kv_client.h"

#include "net/native_frame.h"
#include "tests/unit/core_with_root.h"

#define LONG_MS  600000 /* a stopped machine is no failure */
#define SHORT_MS 300

enum habit {
    SERVES,
    IS_SILENT,       /* accepts, and says nothing */
    HANGS_UP,        /* accepts, and closes */
    FALLS_SILENT,    /* answers the greeting, and nothing else */
    STOPS_MIDWAY,    /* answers the greeting, and begins to answer requests */
    CUTS_OFF,        /* answers the greeting, and closes when a request comes */
    SPEAKS_NONSENSE, /* answers requests with bytes that are no response */
    REFUSES,         /* answers requests with an error */
    DRIPS,           /* answers requests in parts, slowly */
    IS_SLOW,         /* answers requests, but not within a second */
};

enum { METHODS = 16, DRIP_MS = 600, DRIPS_COUNT = 3, SLOW_MS = 1500 };

struct endpoint {
    struct io_listener listener;
    enum habit habit;
    uint32_t accepted;
    uint32_t requests[METHODS];
    char text[32];
    bool closed;
};

struct peer {
    struct io_socket socket;
    struct io_op send_op;
    struct endpoint *endpoint;
    struct peer *next;
    struct iovec iov;
    uint8_t in[4096], out[4096];
    size_t in_bytes, out_bytes;
    struct timer drip;
    struct native_frame dripping; /* the request */
    uint32_t drips;
    bool sending, closed;
};

static struct endpoint endpoints[3];
static uint32_t endpoint_count;
static struct peer *peers;
static struct client_set set;
static struct kv_client *client;

/* ---- what the endpoints do ------------------------------------------------------------------ */

static void peer_closed(struct io_socket *socket)
{
    container_of(socket, struct peer, socket)->closed = true;
}

static void peer_close(struct peer *peer)
{
    timer_stop(core_timers(core), &peer->drip);
    if (!peer->socket.closing)
        io_socket_close(&peer->socket);
}

static void peer_sent(struct io_op *op, int32_t result)
{
    struct peer *peer = container_of(op, struct peer, send_op);
    peer->sending = false;
    if (result < 0)
        peer_close(peer);
}

static void peer_reply(struct peer *peer, const struct native_frame *request)
{
    static const uint8_t nonsense[] = {0xff, 0xff, 0xff};
    static const uint8_t invalid_sort[] = {
        0x08, 0x8e, 0xd8, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0x01}; /* raftpb.Error.code = ERR_INVALID_SORT */
    bool greeting = request->method == RAFTPB__METHOD__METHOD_STATUS;
    enum habit habit = peer->endpoint->habit;
    struct native_frame reply = {
        .flags = NATIVE_FLAG_REPLY, .method = request->method, .request_id = request->request_id};
    uint8_t *to = peer->out + peer->out_bytes;
    if (!greeting && habit == STOPS_MIDWAY) {
        reply.flags |= NATIVE_FLAG_PART;
    } else if (!greeting && habit == SPEAKS_NONSENSE) {
        reply.payload_bytes = sizeof(nonsense);
        memcpy(to + NATIVE_HEADER_BYTES, nonsense, sizeof(nonsense));
    } else if (!greeting && habit == REFUSES) {
        reply.flags |= NATIVE_FLAG_ERROR;
        reply.payload_bytes = sizeof(invalid_sort);
        memcpy(to + NATIVE_HEADER_BYTES, invalid_sort, sizeof(invalid_sort));
    }
    native_frame_seal(to, &reply);
    peer->out_bytes += NATIVE_HEADER_BYTES + reply.payload_bytes;
}

static void peer_send(struct peer *peer)
{
    if (peer->out_bytes == 0 || peer->socket.closing)
        return;
    cr_assert_not(peer->sending, "one request at a time");
    peer->iov = (struct iovec){peer->out, peer->out_bytes};
    peer->out_bytes = 0;
    peer->sending = true;
    io_socket_send(&peer->socket, &peer->send_op, &peer->iov, 1);
}

static void peer_drip_later(struct peer *peer)
{
    uint64_t ms = peer->endpoint->habit == DRIPS ? DRIP_MS : SLOW_MS;
    timer_start(core_timers(core), &peer->drip, core_now_ns(core) + ms * NS_PER_MS);
}

/* Parts without a byte of payload, then the end. */
static void peer_drip(struct timer *timer)
{
    struct peer *peer = container_of(timer, struct peer, drip);
    bool last = ++peer->drips == DRIPS_COUNT || peer->endpoint->habit == IS_SLOW;
    struct native_frame part = {.flags = NATIVE_FLAG_REPLY | (last ? 0 : NATIVE_FLAG_PART),
                                .method = peer->dripping.method,
                                .request_id = peer->dripping.request_id};
    native_frame_seal(peer->out, &part);
    peer->out_bytes = NATIVE_HEADER_BYTES;
    peer_send(peer);
    if (!last)
        peer_drip_later(peer);
}

static void peer_handle(struct peer *peer, const struct native_frame *request)
{
    if (request->flags & NATIVE_FLAG_CANCEL) {
        timer_stop(core_timers(core), &peer->drip);
        return;
    }
    cr_assert_lt(request->method, METHODS);
    peer->endpoint->requests[request->method]++;
    bool greeting = request->method == RAFTPB__METHOD__METHOD_STATUS;
    enum habit habit = peer->endpoint->habit;
    if (habit == IS_SILENT || (habit == FALLS_SILENT && !greeting))
        return;
    if (habit == CUTS_OFF && !greeting) {
        peer_close(peer);
    } else if ((habit == DRIPS || habit == IS_SLOW) && !greeting) {
        peer->dripping = *request;
        peer->drips = 0;
        peer_drip_later(peer);
    } else {
        peer_reply(peer, request);
    }
}

static void peer_received(struct io_socket *socket, const uint8_t *bytes, int32_t count)
{
    struct peer *peer = container_of(socket, struct peer, socket);
    struct native_frame frame;
    size_t wanted;
    if (count <= 0) {
        peer_close(peer);
        return;
    }
    cr_assert_leq(peer->in_bytes + (size_t)count, sizeof(peer->in));
    memcpy(peer->in + peer->in_bytes, bytes, (size_t)count);
    peer->in_bytes += (size_t)count;
    while (!peer->socket.closing) {
        int64_t whole =
            native_frame_parse(peer->in, peer->in_bytes, sizeof(peer->in), &frame, &wanted);
        cr_assert_geq(whole, 0);
        if (whole == 0)
            break;
        peer_handle(peer, &frame);
        peer->in_bytes -= (size_t)whole;
        memmove(peer->in, peer->in + whole, peer->in_bytes);
    }
    peer_send(peer);
}

static void endpoint_accepted(struct io_listener *listener, int32_t fd,
                              const struct io_address *from maybe_unused)
{
    struct endpoint *endpoint = container_of(listener, struct endpoint, listener);
    cr_assert_geq(fd, 0);
    endpoint->accepted++;
    struct peer *peer = calloc(1, sizeof(*peer));
    peer->endpoint = endpoint;
    peer->next = peers;
    peers = peer;
    peer->socket.received = peer_received;
    peer->socket.closed = peer_closed;
    io_op_init(&peer->send_op, peer_sent);
    timer_init(&peer->drip, peer_drip);
    io_socket_attach(core_reactor(core), &peer->socket, fd);
    if (endpoint->habit == HANGS_UP)
        peer_close(peer);
    else
        io_socket_receive(&peer->socket);
}

static void endpoint_closed(struct io_listener *listener)
{
    container_of(listener, struct endpoint, listener)->closed = true;
}

/* ---- the world ------------------------------------------------------------------------------ */

static void world_open(enum habit first, enum habit second, uint32_t count)
{
    const char *texts[2];
    char reason[256];
    core_with_root_open();
    client_set_init(&set, core);
    endpoints[0].habit = first;
    endpoints[1].habit = second;
    endpoint_count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct endpoint *endpoint = &endpoints[i];
        struct io_address address;
        endpoint->listener.accepted = endpoint_accepted;
        endpoint->listener.closed = endpoint_closed;
        cr_assert_eq(reactor_resolve(core_reactor(core), "127.0.0.1", 0, &address), 0);
        cr_assert_eq(reactor_listen(core_reactor(core), &endpoint->listener, &address), 0);
        snprintf(endpoint->text, sizeof(endpoint->text), "127.0.0.1:%u", endpoint->listener.port);
        texts[i] = endpoint->text;
    }
    struct kv_client_options options = {.endpoints = texts,
                                        .endpoint_count = count,
                                        .dial_timeout_ms = LONG_MS,
                                        .call_timeout_ms = LONG_MS};
    cr_assert_eq(kv_client_open(&set, &options, &client, reason, sizeof(reason)), 0, "%s", reason);
}

static void close_client(void)
{
    kv_client_close(client);
}

static void world_close(void)
{
    in_fiber(close_client);
    for (struct peer *peer = peers; peer != NULL; peer = peer->next)
        peer_close(peer);
    for (uint32_t i = 0; i < endpoint_count; i++)
        reactor_listener_close(core_reactor(core), &endpoints[i].listener);
    for (uint32_t i = 0; i < endpoint_count; i++)
        while (!endpoints[i].closed)
            core_turn(core, true);
    while (peers != NULL) {
        struct peer *peer = peers;
        while (!peer->closed || peer->sending)
            core_turn(core, true);
        peers = peer->next;
        free(peer);
    }
    client_set_deinit(&set);
    core_with_root_close();
}

/* ---- calls ---------------------------------------------------------------------------------- */

static struct call {
    uint64_t timeout_ms;
    int error;
    struct kv_failure failure;
} call;

static void call_get(void)
{
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    Etcdserverpb__RangeResponse *response;
    request.key = (ProtobufCBinaryData){.len = 1, .data = (uint8_t *)"k"};
    call.error = kv_client_range(client, &request, call.timeout_ms, &response, &call.failure);
    if (call.error == 0)
        etcdserverpb__range_response__free_unpacked(response, NULL);
}

static void call_put(void)
{
    Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
    Etcdserverpb__PutResponse *response;
    request.key = (ProtobufCBinaryData){.len = 1, .data = (uint8_t *)"k"};
    call.error = kv_client_put(client, &request, call.timeout_ms, &response, &call.failure);
    if (call.error == 0)
        etcdserverpb__put_response__free_unpacked(response, NULL);
}

static int get(uint64_t timeout_ms)
{
    call = (struct call){.timeout_ms = timeout_ms};
    in_fiber(call_get);
    return call.error;
}

static int put(uint64_t timeout_ms)
{
    call = (struct call){.timeout_ms = timeout_ms};
    in_fiber(call_put);
    return call.error;
}

static uint32_t seen(uint32_t endpoint, Raftpb__Method method)
{
    return endpoints[endpoint].requests[method];
}

#define GETS(endpoint) seen(endpoint, RAFTPB__METHOD__METHOD_RANGE)
#define PUTS(endpoint) seen(endpoint, RAFTPB__METHOD__METHOD_PUT)

/* ---- endpoints that never serve ------------------------------------------------------------- */

Test(kv_client, leaves_an_endpoint_that_accepts_and_never_answers)
{
    static const enum habit habits[] = {IS_SILENT, HANGS_UP};
    for (size_t i = 0; i < ARRAY_COUNT(habits); i++) {
        for (int writes = 0; writes < 2; writes++) {
            memset(endpoints, 0, sizeof(endpoints));
            world_open(habits[i], SERVES, 2);
            cr_expect_eq(writes ? put(0) : get(0), 0, "habit %d: %s", habits[i], call.failure.text);
            cr_expect_eq(endpoints[0].accepted, 1, "and is not dialled again: %u",
                         endpoints[0].accepted);
            cr_expect_eq(GETS(0) + PUTS(0), 0, "nothing is sent before somebody serves");
            cr_expect_eq(writes ? PUTS(1) : GETS(1), 1);
            cr_expect_eq(get(0), 0, "it stays with the one that serves");
            cr_expect_eq(put(0), 0);
            cr_expect_eq(endpoints[1].accepted, 1);
            cr_expect_str_eq(kv_client_endpoint(client), endpoints[1].text);
            world_close();
        }
    }
}

Test(kv_client, a_write_that_was_not_sent_was_not_executed)
{
    static const enum habit habits[] = {IS_SILENT, HANGS_UP};
    for (size_t i = 0; i < ARRAY_COUNT(habits); i++) {
        memset(endpoints, 0, sizeof(endpoints));
        world_open(habits[i], SERVES, 1);
        cr_expect_eq(put(SHORT_MS), ERR_DEADLINE, "%d", call.error);
        cr_expect_not(call.failure.maybe_executed);
        cr_expect_eq(PUTS(0), 0);
        if (habits[i] == HANGS_UP)
            cr_expect_eq(call.failure.link_error, ERR_CLOSED, "%d", call.failure.link_error);
        world_close();
    }
}

/* ---- endpoints that served ------------------------------------------------------------------ */

Test(kv_client, a_read_leaves_an_endpoint_that_falls_silent)
{
    world_open(FALLS_SILENT, SERVES, 2);
    cr_expect_eq(get(0), 0, "%s", call.failure.text);
    cr_expect_eq(GETS(0), 1);
    cr_expect_eq(GETS(1), 1);
    cr_expect_eq(put(0), 0);
    cr_expect_eq(PUTS(1), 1);
    world_close();
}

Test(kv_client, a_read_leaves_an_endpoint_that_stops_in_the_middle_of_its_answer)
{
    world_open(STOPS_MIDWAY, SERVES, 2);
    cr_expect_eq(get(0), 0, "%s", call.failure.text);
    cr_expect_eq(GETS(0), 1, "%u", GETS(0));
    cr_expect_eq(GETS(1), 1);
    world_close();
}

Test(kv_client, a_write_to_one_that_falls_silent_is_unknown_and_the_next_call_leaves_it)
{
    world_open(FALLS_SILENT, SERVES, 2);
    cr_expect_eq(put(SHORT_MS), ERR_DEADLINE);
    cr_expect(call.failure.maybe_executed);
    cr_expect_eq(call.failure.link_error, ERR_DEADLINE);
    cr_expect_str_eq(call.failure.link_endpoint, endpoints[0].text);
    cr_expect_eq(PUTS(0), 1);
    cr_expect_eq(PUTS(1), 0, "never sent twice");
    cr_expect_eq(put(0), 0, "%s", call.failure.text);
    cr_expect_eq(PUTS(1), 1);
    world_close();
}

Test(kv_client, a_write_that_is_cut_off_is_unknown_and_not_repeated)
{
    world_open(CUTS_OFF, SERVES, 2);
    cr_expect_eq(put(0), ERR_CLOSED);
    cr_expect(call.failure.maybe_executed);
    cr_expect_eq(PUTS(0), 1);
    cr_expect_eq(PUTS(1), 0);
    world_close();
}

/* A machine that stands still for a while makes it look silent: then it gets another chance. */
Test(kv_client, a_read_stays_while_its_answer_trickles_in)
{
    bool stayed = false;
    for (int chance = 0; chance < 5 && !stayed; chance++) {
        memset(endpoints, 0, sizeof(endpoints));
        world_open(DRIPS, DRIPS, 2);
        cr_expect_eq(get(0), 0, "%s", call.failure.text);
        stayed = GETS(0) == 1 && GETS(1) == 0;
        world_close();
    }
    cr_expect(stayed);
}

Test(kv_client, a_read_that_takes_long_everywhere_is_waited_for)
{
    world_open(IS_SLOW, IS_SLOW, 2);
    cr_expect_eq(get(0), 0, "%s", call.failure.text);
    cr_expect_geq(GETS(0), 1);
    cr_expect_geq(GETS(1), 1);
    world_close();
}

/* ---- answers -------------------------------------------------------------------------------- */

Test(kv_client, an_unintelligible_answer_leaves_a_write_unknown)
{
    world_open(SPEAKS_NONSENSE, SERVES, 1);
    cr_expect_eq(put(0), ERR_MALFORMED, "%d", call.error);
    cr_expect(call.failure.maybe_executed, "it was executed");
    cr_expect_eq(PUTS(0), 1);
    cr_expect_eq(get(0), ERR_MALFORMED);
    cr_expect_not(call.failure.maybe_executed, "a read");
    world_close();
}

Test(kv_client, an_error_of_the_server_says_that_a_write_was_not_executed)
{
    world_open(REFUSES, SERVES, 1);
    cr_expect_eq(put(0), ERR_INVALID_SORT, "%d", call.error);
    cr_expect_not(call.failure.maybe_executed);
    cr_expect_eq(PUTS(0), 1);
    world_close();
}
