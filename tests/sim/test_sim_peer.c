/* net/peer between two simulated members: greeting, lanes, loss, resets, cut reads, bad frames. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "net/client_socket.h"
#include "net/peer.h"
#include "tests/sim/disk.h"
#include "tests/sim/network.h"
#include "tests/sim/world.h"

#define PORT        2380
#define CLUSTER     UINT64_C(0xc1)
#define KIND_NUMBER (PEER_KIND_USER + 1)

/* One member, in the test's memory: what it saw survives its crashes. */
struct member {
    struct sim_node node;
    struct sim_disk *disk;
    uint64_t id, incarnation, cluster;
    struct peers *peers;
    struct io_listener listener;
    struct timer timer;

    uint64_t sent;                       /* numbers given to the transport */
    uint64_t last_seen[PEER_LANE_COUNT]; /* number */
    uint64_t received, gaps;
    uint32_t connected, lost, refused;
    int refused_error, admit_error, received_error;
    struct peer_stats stats; /* as last looked at */
    struct member *other;
    const char *other_host; /* NULL: its number */
    uint16_t port;

    int name_error; /* what a lookup of its name gives; 0: node `name_node` */
    uint8_t name_node;
    uint32_t names_asked;
};

struct duo {
    struct sim_world world;
    struct member members[2];
};

static struct core_options core_options_default(void)
{
    return (struct core_options){.reactor = {.files_max = 256,
                                             .buffer_bytes = 1 * MIB,
                                             .recv_buffer_bytes = 4096,
                                             .recv_buffer_count = 16},
                                 .fibers_max = 16};
}

/* Where a node has no heap of its own (sanitizers), what a crash drops looks like a leak. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

/* ---- what a member does --------------------------------------------------------------------- */

static int on_received(void *context, const struct peer_input *input)
{
    struct member *member = context;
    uint64_t number = le64_load(input->meta);
    uint32_t lane = input->meta[8];
    if (member->received_error < 0)
        return member->received_error;
    cr_assert_eq(input->header.kind, KIND_NUMBER);
    cr_assert_eq(input->header.meta_bytes, 16);
    cr_assert_lt(lane, PEER_LANE_COUNT);
    cr_assert_eq(crc32c(0, input->payload, input->header.payload_bytes),
                 le32_load(input->meta + 12));
    cr_assert_eq(input->body != NULL, input->body != NULL && input->body->references > 0);
    if (input->header.payload_bytes > 0) { /* kept beyond the call */
        cr_assert_not_null(input->body);
        peer_body_keep(input->body);
        peer_body_release(input->body);
    }
    cr_assert_gt(number, member->last_seen[lane], "order within a lane");
    member->gaps += number - member->last_seen[lane] - 1;
    member->last_seen[lane] = number;
    member->received++;
    return 0;
}

static int on_admit(void *context, const struct peer_greeting *greeting)
{
    struct member *member = context;
    cr_assert(bytes_equal(greeting->detail, bytes_from_text("hello")));
    return member->admit_error;
}

static void on_refused(void *context, uint64_t id, int error)
{
    struct member *member = context;
    cr_assert_eq(id, member->other->id);
    member->refused++;
    member->refused_error = error;
}

static void on_connected(void *context, uint64_t id, enum peer_lane lane)
{
    struct member *member = context;
    cr_assert_eq(id, member->other->id);
    cr_assert(peers_connected(member->peers, id, lane));
    member->connected++;
}

static void on_lost(void *context, uint64_t id, enum peer_lane lane, bool inbound)
{
    struct member *member = context;
    (void)id;
    (void)lane;
    (void)inbound;
    member->lost++;
}

static int on_question(void *context, struct bytes question, uint8_t *answer)
{
    (void)context;
    for (size_t i = 0; i < question.size; i++)
        answer[i] = (uint8_t)(question.data[i] + 1);
    return (int)question.size;
}

static void send_number(struct member *member, enum peer_lane lane, uint32_t payload_bytes)
{
    struct peer_frame_out frame = {.kind = KIND_NUMBER,
                                   .lane = lane,
                                   .to = member->other->id,
                                   .meta_bytes = 16,
                                   .payload_bytes = payload_bytes};
    uint8_t *meta = peers_send_begin(member->peers, &frame);
    member->sent++;
    if (meta == NULL)
        return;
    for (uint32_t i = 0; i < payload_bytes; i++)
        meta[16 + i] = (uint8_t)(member->sent + i);
    le64_store(meta, member->sent);
    le32_store(meta + 8, lane);
    le32_store(meta + 12, crc32c(0, meta + 16, payload_bytes));
    peers_send_end(member->peers, &frame);
}

static void on_timer(struct timer *timer)
{
    struct member *member = container_of(timer, struct member, timer);
    struct core *core = core_current();
    uint64_t draw = reactor_random(core_reactor(core));
    uint32_t payload_bytes = draw % 8 == 0 ? (uint32_t)(draw >> 8) % 100000 : 0;
    send_number(member, (enum peer_lane)(draw % PEER_LANE_COUNT), payload_bytes);
    peers_flush(member->peers);
    member->stats = *peers_stats(member->peers);
    timer_start(core_timers(core), timer, core_now_ns(core) + 1 * NS_PER_MS);
}

static void on_accepted(struct io_listener *listener, int32_t fd, const struct io_address *peer)
{
    struct member *member = container_of(listener, struct member, listener);
    (void)peer;
    if (fd >= 0)
        peers_accept(member->peers, fd);
}

static void on_listener_closed(struct io_listener *listener)
{
    (void)listener;
}

static void boot(struct member *member)
{
    struct core_options options = core_options_default();
    struct io_address address;
    sim_node_boot(&member->node, &options, 1);
    sim_enter(&member->node, 0);
    struct core *core = member->node.cores[0].core;
    struct reactor *reactor = core_reactor(core);
    struct peer_options peer_options = {.cluster = member->cluster,
                                        .self = member->id,
                                        .incarnation = ++member->incarnation,
                                        .detail = bytes_from_text("hello"),
                                        .silence_ns = 2 * NS_PER_S,
                                        .events = {.context = member,
                                                   .received = on_received,
                                                   .admit = on_admit,
                                                   .refused = on_refused,
                                                   .connected = on_connected,
                                                   .lost = on_lost,
                                                   .question = on_question}};
    cr_assert_eq(peers_create(core, &peer_options, &member->peers), 0);
    char host[32];
    snprintf(host, sizeof(host), "10.0.0.%u", member->node.id);
    memset(&member->listener, 0, sizeof(member->listener));
    member->listener.accepted = on_accepted;
    member->listener.closed = on_listener_closed;
    cr_assert_eq(reactor_resolve(reactor, host, member->port, &address), 0);
    cr_assert_eq(reactor_listen(reactor, &member->listener, &address), 0);
    struct peer_address to = {.port = member->other->port};
    if (member->other_host != NULL)
        snprintf(to.host, sizeof(to.host), "%s", member->other_host);
    else
        snprintf(to.host, sizeof(to.host), "10.0.0.%u", member->other->node.id);
    cr_assert_eq(peers_add(member->peers, member->other->id, &to, 1), 0);
    timer_init(&member->timer, on_timer);
    timer_start(core_timers(core), &member->timer, core_now_ns(core) + NS_PER_MS);
    sim_leave(&member->node);
    memset(member->last_seen, 0, sizeof(member->last_seen));
}

static void crash(struct member *member)
{
    sim_node_crash(&member->node);
    member->peers = NULL;
    memset(member->other->last_seen, 0, sizeof(member->other->last_seen));
    member->sent += 1000000; /* numbers of a later life are higher */
}

static struct duo *duo_begin(uint64_t seed)
{
    struct duo *duo = calloc(1, sizeof(*duo));
    sim_set_replay("this test with seed %llu", (unsigned long long)seed);
    sim_world_init(&duo->world, &(struct sim_options){.seed = seed});
    sim_world_enter(&duo->world);
    for (int i = 0; i < 2; i++) {
        struct member *member = &duo->members[i];
        member->disk = sim_disk_create(1 * MIB, 512);
        sim_node_init(&member->node, &duo->world, member->disk);
        member->id = 0x10 + (uint64_t)i;
        member->cluster = CLUSTER;
        member->port = PORT;
        member->other = &duo->members[1 - i];
    }
    return duo;
}

static struct duo *duo_booted(uint64_t seed)
{
    struct duo *duo = duo_begin(seed);
    boot(&duo->members[0]);
    boot(&duo->members[1]);
    return duo;
}

static void duo_end(struct duo *duo)
{
    for (int i = 0; i < 2; i++) {
        if (duo->members[i].peers != NULL)
            sim_node_crash(&duo->members[i].node);
        sim_node_deinit(&duo->members[i].node);
        sim_disk_destroy(duo->members[i].disk);
    }
    sim_world_deinit(&duo->world);
    free(duo);
}

static void run_for(struct duo *duo, uint64_t ns)
{
    uint64_t until_ns = duo->world.now_ns + ns;
    while (duo->world.now_ns < until_ns && sim_world_step(&duo->world)) {
    }
}

/* ---- tests ---------------------------------------------------------------------------------- */

Test(sim_peer, lanes_carry_frames_in_order_and_whole, .timeout = 60)
{
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct duo *duo = duo_booted(seed);
        run_for(duo, 2 * NS_PER_S);
        for (int i = 0; i < 2; i++) {
            struct member *member = &duo->members[i];
            cr_expect_eq(member->connected, PEER_LANE_COUNT, "seed %llu", (unsigned long long)seed);
            cr_expect_gt(member->received, 1000);
            cr_expect_eq(member->lost, 0);
            cr_expect_eq(member->stats.frames_malformed, 0);
            cr_expect_gt(member->stats.frames_received, member->received, "pings count too");
        }
        duo_end(duo);
    }
}

Test(sim_peer, a_crash_is_noticed_and_the_next_process_is_dialled, .timeout = 60)
{
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct duo *duo = duo_booted(seed);
        struct member *first = &duo->members[0], *second = &duo->members[1];
        for (uint32_t round = 1; round <= 5; round++) {
            run_for(duo, 500 * NS_PER_MS);
            uint32_t lost = first->lost;
            crash(second);
            run_for(duo, 4 * NS_PER_S);
            cr_expect_geq(first->lost, lost + 2 * PEER_LANE_COUNT, "both directions of each lane");
            uint64_t received = first->received;
            boot(second);
            run_for(duo, 2 * NS_PER_S);
            cr_expect_gt(first->received, received + 500, "seed %llu round %u",
                         (unsigned long long)seed, round);
            cr_expect_eq(first->stats.frames_malformed, 0);
        }
        duo_end(duo);
    }
}

static int on_name(void *context, const char *host, uint8_t ip[4])
{
    struct member *member = context;
    cr_assert_str_eq(host, member->other_host);
    member->names_asked++;
    memcpy(ip, (uint8_t[]){10, 0, 0, member->name_node}, 4);
    return member->name_error;
}

/* Only the first member knows the other one by a name. */
static struct duo *duo_named(int name_error)
{
    struct duo *duo = duo_begin(5);
    struct member *first = &duo->members[0];
    first->other_host = "second.test";
    first->name_error = name_error;
    first->name_node = (uint8_t)duo->members[1].node.id;
    sim_network_names(&duo->world, on_name, first);
    boot(first);
    boot(&duo->members[1]);
    return duo;
}

Test(sim_peer, a_name_that_nobody_answers_for_holds_up_nothing, .timeout = 60)
{
    struct duo *duo = duo_named(-EINPROGRESS);
    struct member *first = &duo->members[0], *second = &duo->members[1];
    run_for(duo, 12 * NS_PER_S);
    cr_expect_eq(first->connected, 0);
    cr_expect_eq(first->stats.dials, 0, "there is nothing to dial yet");
    cr_expect_gt(first->received, 5000, "what the other one sends arrives meanwhile");
    first->name_error = ERR_NOT_FOUND;
    run_for(duo, 2 * NS_PER_S);
    cr_expect_gt(first->stats.dials_failed, 0);
    uint32_t asked = first->names_asked;
    run_for(duo, 4 * NS_PER_S);
    cr_expect_leq(first->names_asked, asked + 8 * PEER_LANE_COUNT, "it waits between attempts");
    first->name_error = 0;
    run_for(duo, 2 * NS_PER_S);
    cr_expect_eq(first->connected, PEER_LANE_COUNT);
    cr_expect_gt(second->received, 500);
    asked = first->names_asked;
    run_for(duo, 10 * NS_PER_S);
    cr_expect_eq(first->names_asked, asked, "a connection that stands needs no name");
    duo_end(duo);
}

Test(sim_peer, the_last_good_address_is_dialled_while_its_name_cannot_be_looked_up, .timeout = 60)
{
    static const int errors[] = {-EINPROGRESS, -EAGAIN, ERR_NOT_FOUND};
    for (size_t i = 0; i < ARRAY_COUNT(errors); i++) {
        struct duo *duo = duo_named(0);
        struct member *first = &duo->members[0], *second = &duo->members[1];
        run_for(duo, 1 * NS_PER_S);
        cr_expect_eq(first->connected, PEER_LANE_COUNT);
        first->name_error = errors[i];
        uint32_t asked = first->names_asked;
        crash(second);
        run_for(duo, 4 * NS_PER_S);
        cr_expect_gt(first->names_asked, asked, "it may have moved");
        boot(second);
        run_for(duo, 3 * NS_PER_S);
        cr_expect_eq(first->connected, 2 * PEER_LANE_COUNT, "%s", err_text(errors[i]));
        cr_expect_gt(second->received, 500, "%s", err_text(errors[i]));
        duo_end(duo);
    }
}

Test(sim_peer, a_member_that_moved_is_found, .timeout = 60)
{
    struct duo *duo = duo_begin(7);
    struct member *first = &duo->members[0], *second = &duo->members[1];
    first->other_host = "second.test";
    first->name_node = 77; /* where nobody listens */
    sim_network_names(&duo->world, on_name, first);
    boot(first);
    boot(second);
    run_for(duo, 3 * NS_PER_S);
    cr_expect_gt(first->stats.dials_failed, PEER_LANE_COUNT);
    cr_expect_eq(first->connected, 0);
    first->name_node = (uint8_t)second->node.id;
    run_for(duo, 3 * NS_PER_S);
    cr_expect_eq(first->connected, PEER_LANE_COUNT);
    duo_end(duo);
}

/* As an applied `member update` tells it. */
static void tell_port_of_other(struct member *member, uint16_t port)
{
    struct peer_address to = {.port = port};
    snprintf(to.host, sizeof(to.host), "10.0.0.%u", member->other->node.id);
    sim_enter(&member->node, 0);
    cr_assert_eq(peers_add(member->peers, member->other->id, &to, 1), 0);
    sim_leave(&member->node);
}

Test(sim_peer, an_address_told_ahead_of_the_move_keeps_what_is_connected, .timeout = 60)
{
    enum { PORT_WRONG = PORT + 1, PORT_NEW = PORT + 2 };
    struct duo *duo = duo_booted(11);
    struct member *first = &duo->members[0], *second = &duo->members[1];
    run_for(duo, 1 * NS_PER_S);
    cr_assert_eq(first->connected, PEER_LANE_COUNT);
    uint64_t received = second->received;
    tell_port_of_other(first, PORT_WRONG); /* nobody listens there, now or later */
    run_for(duo, 3 * NS_PER_S);
    cr_expect_eq(first->lost + second->lost, 0);
    cr_expect_gt(second->received, received + 500, "frames flow on");
    crash(second);
    second->port = PORT_NEW;
    first->connected = 0;
    run_for(duo, 3 * NS_PER_S);
    boot(second);
    run_for(duo, 3 * NS_PER_S);
    cr_expect_eq(first->connected, 0, "the next dial goes to the address it was told");
    cr_expect_gt(first->stats.dials_failed, PEER_LANE_COUNT);
    tell_port_of_other(first, PORT_NEW);
    run_for(duo, 500 * NS_PER_MS);
    cr_expect_eq(first->connected, PEER_LANE_COUNT);
    duo_end(duo);
}

Test(sim_peer, a_silent_connection_is_given_up_and_dialled_again, .timeout = 60)
{
    struct duo *duo = duo_booted(3);
    struct member *first = &duo->members[0], *second = &duo->members[1];
    run_for(duo, 1 * NS_PER_S);
    sim_network_block(&duo->world, 1, 2, duo->world.now_ns + 30 * NS_PER_S);
    sim_network_block(&duo->world, 2, 1, duo->world.now_ns + 30 * NS_PER_S);
    memset(first->last_seen, 0, sizeof(first->last_seen));
    run_for(duo, 25 * NS_PER_S);
    cr_expect_geq(first->lost, PEER_LANE_COUNT);
    uint64_t received = second->received;
    memset(first->last_seen, 0, sizeof(first->last_seen));
    memset(second->last_seen, 0, sizeof(second->last_seen));
    run_for(duo, 20 * NS_PER_S);
    cr_expect_gt(second->received, received + 1000);
    duo_end(duo);
}

Test(sim_peer, who_stood_still_does_not_blame_the_others, .timeout = 60)
{
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct duo *duo = duo_booted(seed);
        struct member *first = &duo->members[0], *second = &duo->members[1];
        run_for(duo, 1 * NS_PER_S);
        uint64_t received = first->received;
        sim_node_pause(&first->node, duo->world.now_ns + 30 * NS_PER_S); /* the whole machine */
        sim_node_pause(&second->node, duo->world.now_ns + 30 * NS_PER_S);
        run_for(duo, 33 * NS_PER_S);
        cr_expect_eq(first->lost + second->lost, 0, "seed %llu", (unsigned long long)seed);
        cr_expect_gt(first->received, received + 500);
        /* It alone: that is silence. */
        sim_node_pause(&second->node, duo->world.now_ns + 30 * NS_PER_S);
        run_for(duo, 20 * NS_PER_S);
        cr_expect_geq(first->lost, PEER_LANE_COUNT);
        duo_end(duo);
    }
}

Test(sim_peer, strangers_learn_why_they_are_refused, .timeout = 60)
{
    static const struct {
        const char *why;
        uint64_t cluster;
        int admit_error, told;
        uint64_t misdirected;
    } cases[] = {
        {"another cluster's member", 0xc2, 0, ERR_CLUSTER_MISMATCH, 1},
        {"a removed member", CLUSTER, ERR_MEMBER_REMOVED, ERR_MEMBER_REMOVED, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct duo *duo = duo_begin(5);
        struct member *first = &duo->members[0], *second = &duo->members[1];
        first->admit_error = cases[i].admit_error;
        second->cluster = cases[i].cluster;
        boot(first);
        boot(second);
        run_for(duo, 3 * NS_PER_S);
        cr_expect_gt(second->refused, 0, "%s", cases[i].why);
        cr_expect_eq(second->refused_error, cases[i].told, "%s", cases[i].why);
        cr_expect_eq(second->connected, 0, "%s", cases[i].why);
        cr_expect_eq(first->received, 0, "%s", cases[i].why);
        cr_expect_geq(first->stats.frames_misdirected, cases[i].misdirected, "%s", cases[i].why);
        cr_expect_gt(first->stats.greetings_refused, 0, "%s", cases[i].why);
        duo_end(duo);
    }
}

/* ---- bad frames ----------------------------------------------------------------------------- */

struct attacker {
    struct client_set set;
    struct client_socket socket;
    uint8_t bytes[8192];
    size_t count;
    bool closed;
    uint8_t answer[8192];
    size_t answer_bytes;
};

static void attacker_opened(struct client_socket *socket)
{
    struct attacker *attacker = container_of(socket, struct attacker, socket);
    outbuf_append(&socket->out, attacker->bytes, attacker->count);
    client_socket_mark_dirty(socket);
}

static int attacker_received(struct client_socket *socket, const uint8_t *data, size_t bytes)
{
    struct attacker *attacker = container_of(socket, struct attacker, socket);
    memcpy(attacker->answer + attacker->answer_bytes, data, bytes);
    attacker->answer_bytes += bytes;
    return 0;
}

static void attacker_closed(struct client_socket *socket, int error)
{
    (void)error;
    container_of(socket, struct attacker, socket)->closed = true;
}

static size_t put_frame(uint8_t *to, struct peer_header header, const void *meta)
{
    if (header.meta_bytes > 0)
        memcpy(to + PEER_HEADER_BYTES, meta, header.meta_bytes);
    peer_frame_seal(to, &header);
    return PEER_HEADER_BYTES + header.meta_bytes;
}

#define HELLO_META "\1\0\0\0hello"

static void attack(struct duo *duo, struct attacker *attacker)
{
    struct member *first = &duo->members[0];
    struct sim_node *node = &duo->members[1].node;
    struct core_options options = core_options_default();
    struct io_address address;
    sim_node_boot(node, &options, 1);
    sim_enter(node, 0);
    client_set_init(&attacker->set, node->cores[0].core);
    cr_assert_eq(reactor_resolve(core_reactor(node->cores[0].core), "10.0.0.1", PORT, &address), 0);
    attacker->socket.opened = attacker_opened;
    attacker->socket.received = attacker_received;
    attacker->socket.closed = attacker_closed;
    client_socket_open(&attacker->set, &attacker->socket, &address);
    sim_leave(node);
    bool closed = sim_world_run(&duo->world, &attacker->closed, 20 * NS_PER_S);
    cr_assert(closed, "the connection stayed open");
    run_for(duo, 100 * NS_PER_MS);
    cr_expect_eq(first->received, 0);
    sim_node_crash(node);
}

Test(sim_peer, bad_frames_close_their_connection_and_are_counted, .timeout = 60)
{
    static const struct {
        const char *why;
        struct peer_header second; /* after a correct greeting */
        uint32_t flip;             /* byte of the second frame to damage; 0 = none */
        bool malformed, misdirected, stale;
    } cases[] = {
        {"a damaged length",
         {KIND_NUMBER, 16, 0, 0, CLUSTER, 0x11, 0x10, 7},
         13,
         true,
         false,
         false},
        {"a damaged meta part",
         {KIND_NUMBER, 16, 0, 0, CLUSTER, 0x11, 0x10, 7},
         60,
         true,
         false,
         false},
        {"another version", {KIND_NUMBER, 16, 0, 0, CLUSTER, 0x11, 0x10, 7}, 4, true, false, false},
        {"a kind of the transport",
         {PEER_KIND_WELCOME, 0, 0, 0, CLUSTER, 0x11, 0x10, 7},
         0,
         true,
         false,
         false},
        {"a second greeting",
         {PEER_KIND_HELLO, 9, 0, 0, CLUSTER, 0x11, 0x10, 7},
         0,
         true,
         false,
         false},
        {"another cluster", {KIND_NUMBER, 16, 0, 0, 0xc9, 0x11, 0x10, 7}, 0, false, true, false},
        {"another receiver",
         {KIND_NUMBER, 16, 0, 0, CLUSTER, 0x11, 0x12, 7},
         0,
         false,
         true,
         false},
        {"another sender", {KIND_NUMBER, 16, 0, 0, CLUSTER, 0x12, 0x10, 7}, 0, false, true, false},
        {"another incarnation",
         {KIND_NUMBER, 16, 0, 0, CLUSTER, 0x11, 0x10, 6},
         0,
         false,
         false,
         true},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct duo *duo = duo_begin(100 + i);
        struct attacker *attacker = calloc(1, sizeof(*attacker));
        static const uint8_t meta[16] = HELLO_META;
        boot(&duo->members[0]);
        attacker->count =
            put_frame(attacker->bytes,
                      (struct peer_header){PEER_KIND_HELLO, 9, 0, 0, CLUSTER, 0x11, 0x10, 7}, meta);
        uint8_t *second = attacker->bytes + attacker->count;
        attacker->count += put_frame(second, cases[i].second, meta);
        if (cases[i].flip != 0)
            second[cases[i].flip] ^= 0x40;
        attack(duo, attacker);
        const struct peer_stats *stats = &duo->members[0].stats;
        cr_expect_eq(stats->frames_malformed, cases[i].malformed, "%s", cases[i].why);
        cr_expect_eq(stats->frames_misdirected, cases[i].misdirected, "%s", cases[i].why);
        cr_expect_eq(stats->frames_stale, cases[i].stale, "%s", cases[i].why);
        duo_end(duo);
        free(attacker);
    }
}

/* The transport checks header and meta part; of payloads only their reader knows the checksum. */
Test(sim_peer, damage_that_the_reader_finds_is_counted, .timeout = 60)
{
    struct duo *duo = duo_begin(120);
    struct attacker *attacker = calloc(1, sizeof(*attacker));
    static const uint8_t meta[16] = HELLO_META;
    duo->members[0].received_error = ERR_CORRUPT;
    boot(&duo->members[0]);
    attacker->count =
        put_frame(attacker->bytes,
                  (struct peer_header){PEER_KIND_HELLO, 9, 0, 0, CLUSTER, 0x11, 0x10, 7}, meta);
    attacker->count +=
        put_frame(attacker->bytes + attacker->count,
                  (struct peer_header){KIND_NUMBER, 16, 0, 0, CLUSTER, 0x11, 0x10, 7}, meta);
    attack(duo, attacker);
    cr_expect_eq(duo->members[0].stats.frames_malformed, 1);
    duo_end(duo);
    free(attacker);
}

Test(sim_peer, a_question_of_a_stranger_is_answered_once, .timeout = 60)
{
    struct duo *duo = duo_begin(9);
    struct attacker *attacker = calloc(1, sizeof(*attacker));
    struct peer_header header;
    boot(&duo->members[0]);
    attacker->count = put_frame(
        attacker->bytes, (struct peer_header){.kind = PEER_KIND_QUESTION, .meta_bytes = 3}, "abc");
    attack(duo, attacker);
    cr_assert_eq(attacker->answer_bytes, PEER_HEADER_BYTES + 3);
    cr_assert_eq(peer_frame_open(attacker->answer, &header), 0);
    cr_expect_eq(header.kind, PEER_KIND_ANSWER);
    cr_expect_eq(memcmp(attacker->answer + PEER_HEADER_BYTES, "bcd", 3), 0);
    duo_end(duo);
    free(attacker);
}

/* ---- too many connections ------------------------------------------------------------------- */

enum { CROWD = 400 };

/* Connections that come from one node, `count` of them so far. */
struct crowd {
    struct client_set set;
    struct attacker one[CROWD];
    uint32_t count;
};

static uint32_t crowd_open(const struct crowd *crowd)
{
    uint32_t open = 0;
    for (uint32_t i = 0; i < crowd->count; i++)
        open += !crowd->one[i].closed;
    return open;
}

/* `count` more, each of which says what the pattern says. */
static void crowd_grow(struct duo *duo, struct crowd *crowd, uint32_t count,
                       const struct attacker *pattern)
{
    struct sim_node *node = &duo->members[1].node;
    struct io_address address;
    sim_enter(node, 0);
    cr_assert_eq(reactor_resolve(core_reactor(node->cores[0].core), "10.0.0.1", PORT, &address), 0);
    for (uint32_t i = 0; i < count; i++) {
        cr_assert_lt(crowd->count, CROWD);
        struct attacker *attacker = &crowd->one[crowd->count++];
        memcpy(attacker->bytes, pattern->bytes, pattern->count);
        attacker->count = pattern->count;
        attacker->socket.opened = attacker_opened;
        attacker->socket.received = attacker_received;
        attacker->socket.closed = attacker_closed;
        client_socket_open(&crowd->set, &attacker->socket, &address);
    }
    sim_leave(node);
    run_for(duo, 500 * NS_PER_MS);
}

Test(sim_peer, strangers_that_say_nothing_leave_room_for_members, .timeout = 60)
{
    struct duo *duo = duo_begin(17);
    struct crowd *crowd = calloc(1, sizeof(*crowd));
    struct attacker *silent = calloc(1, sizeof(*silent)), *member = calloc(1, sizeof(*member));
    struct core_options options = core_options_default();
    struct peer_header header, hello = {PEER_KIND_HELLO, 9, 0, 0, CLUSTER, 0x11, 0x10, 7};
    member->count = put_frame(member->bytes, hello, HELLO_META);
    boot(&duo->members[0]);
    sim_node_boot(&duo->members[1].node, &options, 1);
    sim_enter(&duo->members[1].node, 0);
    client_set_init(&crowd->set, duo->members[1].node.cores[0].core);
    sim_leave(&duo->members[1].node);

    crowd_grow(duo, crowd, PEER_LINKS_IN_MAX, silent);
    cr_expect_eq(crowd_open(crowd), PEER_LINKS_IN_MAX);
    crowd_grow(duo, crowd, 100, silent);
    cr_expect_eq(crowd_open(crowd), PEER_LINKS_IN_MAX);
    cr_expect_eq(duo->members[0].stats.links_refused, 100);
    crowd_grow(duo, crowd, 1, member); /* among strangers without end it gets in, ... */
    const struct attacker *greeted = &crowd->one[crowd->count - 1];
    cr_assert_eq(greeted->answer_bytes, PEER_HEADER_BYTES);
    cr_assert_eq(peer_frame_open(greeted->answer, &header), 0);
    cr_expect_eq(header.kind, PEER_KIND_WELCOME);
    crowd_grow(duo, crowd, 150, silent); /* ... and stays */
    cr_expect_not(greeted->closed);
    cr_expect_eq(crowd_open(crowd), PEER_LINKS_IN_MAX);
    cr_expect_eq(duo->members[0].stats.links_refused, 251);
    sim_node_crash(&duo->members[1].node);
    duo_end(duo);
    free(crowd);
    free(silent);
    free(member);
}
