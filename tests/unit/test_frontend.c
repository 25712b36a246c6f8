/* server/frontend.h: two connection cores, driven by one thread, and calls that the raft core (the
 * first of them) does not answer. Neither store nor services: the methods are the test's. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/fiber.h"
#include "net/native_frame.h"
#include "server/frontend.h"
#include "server/http_service.h"
#include "server/message.h"
#include "server/node_private.h"
#include "server/remote.h"
#include "server/service_table.h"
#include "storage/lsm/lsm.h"

enum { CORES = 2, CALLS_MAX = 8, METHOD_PUT = 1, METHOD_GET = 2, METHOD_ALARM = 3 };

static struct mesh *mesh;
static struct core *cores[CORES];
static struct node *node;
static struct config config;
static struct proposal *proposed[CALLS_MAX];
static uint32_t proposed_count;
static uint64_t asked[CALLS_MAX]; /* batches of reads */
static uint32_t asked_count;
static int went_error[CALLS_MAX];
static uint32_t went_count;

/* ---- in place of the services and the store ------------------------------------------------- */

static void handle_put(struct rpc_call *call)
{
    frontend_propose(call, REQUEST_PUT, call->request);
}

static void handle_alarm(struct rpc_call *call)
{
    frontend_propose(call, REQUEST_ALARM, call->request);
}

static void go(struct rpc_call *call, int error)
{
    went_error[went_count++] = error;
    rpc_fail(call, error == 0 ? ERR_CANCELED : error);
}

static void handle_get(struct rpc_call *call)
{
    frontend_read_for(call, go);
}

const struct rpc_method service_methods[] = {
    {.native = METHOD_PUT, .id = 1, .handle = handle_put},
    {.native = METHOD_GET, .id = 2, .handle = handle_get},
    {.native = METHOD_ALARM, .id = 3, .handle = handle_alarm},
};
const uint32_t service_method_count = ARRAY_COUNT(service_methods);

void http_service_handle(struct http_request *request maybe_unused) {}

void frontend_answer(struct rpc_call *call, struct proposal *proposal)
{
    rpc_reply(call, bytes_make(NULL, 0));
    proposal_destroy(proposal);
}

int node_listen(struct node *of maybe_unused, struct core *core maybe_unused,
                const struct config_url *url maybe_unused, struct io_listener *io maybe_unused)
{
    return ERR_CONFIG;
}

uint8_t *kv_encode_alarm_request(uint8_t *to, const struct alarm_request *request maybe_unused)
{
    return to;
}

int lsm_reader_open(struct lsm *lsm maybe_unused, struct core *core maybe_unused,
                    struct lsm_reader **reader maybe_unused)
{
    return 0;
}

void lsm_reader_close(struct lsm_reader *reader maybe_unused) {}

int mvcc_reader_open(const struct mvcc_reader_options *options maybe_unused,
                     struct mvcc_reader **reader maybe_unused)
{
    return 0;
}

void mvcc_reader_close(struct mvcc_reader *reader maybe_unused) {}

static void on_propose(void *context maybe_unused, struct core *core maybe_unused,
                       const struct mesh_message *message)
{
    proposed[proposed_count++] = (struct proposal *)(uintptr_t)message->word[0];
}

static void on_read_index(void *context maybe_unused, struct core *core maybe_unused,
                          const struct mesh_message *message)
{
    asked[asked_count++] = message->word[0];
}

/* ---- the node ------------------------------------------------------------------------------- */

static void node_open(void)
{
    struct reactor *reactors[CORES];
    char reason[256] = "";
    cr_assert_eq(mesh_create(CORES, 64, &mesh), 0);
    node = aligned_alloc(CACHE_LINE_BYTES, u64_round_up(sizeof(*node), CACHE_LINE_BYTES));
    memset(node, 0, sizeof(*node));
    config = (struct config){
        .election_timeout_ms = 1000, .max_request_bytes = MIB, .max_concurrent_streams = 100};
    node->config = &config;
    node->core_count = CORES;
    node->map = (struct role_map){.connections_count = CORES};
    proposed_count = asked_count = went_count = 0;
    for (uint32_t i = 0; i < CORES; i++) {
        struct core_options options = {.reactor = {.core = i,
                                                   .core_count = CORES,
                                                   .files_max = 64,
                                                   .buffer_bytes = MIB,
                                                   .recv_buffer_bytes = 4096,
                                                   .recv_buffer_count = 16},
                                       .fibers_max = 8};
        cr_assert_eq(core_create(&options, mesh, &cores[i], reason, sizeof(reason)), 0, "%s",
                     reason);
        reactors[i] = core_reactor(cores[i]);
    }
    for (uint32_t i = 0; i < CORES; i++) {
        reactor_link(reactors[i], reactors, CORES);
        core_set_current(cores[i]);
        remote_init(cores[i]);
        frontend_attach(node, cores[i]);
        cr_assert_eq(frontend_start(node, cores[i]), 0);
    }
    core_handle(cores[0], MESSAGE_PROPOSE, on_propose, NULL);
    core_handle(cores[0], MESSAGE_READ_INDEX, on_read_index, NULL);
}

static void node_close(void)
{
    for (uint32_t i = 0; i < CORES; i++) {
        core_set_current(cores[i]);
        core_destroy(cores[i]);
        free(node->frontends[i]);
    }
    core_set_current(NULL);
    mesh_destroy(mesh);
    free(node);
}

static void turn(void)
{
    for (uint32_t i = 0; i < CORES; i++)
        (void)core_turn(cores[i], false);
}

static void turn_until_count(const uint32_t *count, uint32_t wanted)
{
    while (*count < wanted) /* the suite has its timeout */
        turn();
}

/* Our end of a connection to core `core`. */
static int connect_to(uint32_t core)
{
    int ends[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    core_set_current(cores[core]);
    rpc_server_adopt(node->frontends[core]->server, ends[1], RPC_PORT_CLIENT);
    turn();
    return ends[0];
}

static void send_call(int fd, uint16_t method)
{
    static uint64_t request_id;
    uint8_t bytes[NATIVE_HEADER_BYTES];
    struct native_frame frame = {.method = method, .request_id = ++request_id};
    native_frame_seal(bytes, &frame);
    cr_assert_eq(send(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
}

/* The server's end is closed; what it sent before is thrown away. */
static bool has_ended(int fd)
{
    uint8_t bytes[4096];
    ssize_t got;
    while ((got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
        ;
    return got == 0 || errno != EAGAIN;
}

static void answer_put(int error)
{
    struct proposal *proposal = proposed[--proposed_count];
    struct mesh_message message = {.kind = MESSAGE_PROPOSED, .word = {(uintptr_t)proposal}};
    proposal->error = error;
    core_set_current(cores[0]);
    core_post(cores[0], proposal->home_core, &message);
}

struct stop {
    bool is_over;
};

static void stop_run(void *argument)
{
    struct stop *stop = argument;
    frontends_stop(node);
    stop->is_over = true;
}

/* ---- tests ---------------------------------------------------------------------------------- */

Test(frontend, a_core_whose_calls_wait_for_a_quorum_does_not_hold_up_the_others_when_it_stops)
{
    struct stop stop = {0};
    node_open();
    int waiting = connect_to(0), idle = connect_to(1);
    send_call(waiting, METHOD_PUT);
    turn_until_count(&proposed_count, 1);
    cr_assert_eq(fiber_spawn(cores[0], FIBER_LATENCY, stop_run, &stop), 0);
    while (!has_ended(idle))
        turn();
    cr_expect_not(has_ended(waiting), "its call may be answered yet");
    cr_expect_not(stop.is_over);
    answer_put(0);
    while (!stop.is_over)
        turn();
    cr_expect(has_ended(waiting));
    close(waiting);
    close(idle);
    node_close();
}

/* What the raft core answers to a batch goes for all before it: those may have shared its wait. */
Test(frontend, an_answer_and_an_error_are_for_all_batches_up_to_theirs)
{
    static const int errors[] = {0, ERR_TIMEOUT};
    struct stop stop = {0};
    node_open();
    int fd = connect_to(1);
    for (size_t i = 0; i < ARRAY_COUNT(errors); i++) {
        asked_count = went_count = 0;
        for (uint32_t batch = 1; batch <= 3; batch++) {
            send_call(fd, METHOD_GET);
            turn_until_count(&asked_count, batch);
        }
        for (uint32_t answer = 1; answer <= 2; answer++) {
            struct mesh_message message = {.kind = MESSAGE_READ_INDEX_DONE,
                                           .word = {asked[answer], (uint64_t)(int64_t)errors[i]}};
            core_set_current(cores[0]);
            core_post(cores[0], 1, &message);
            turn_until_count(&went_count, answer + 1);
            turn();
            cr_expect_eq(went_count, answer + 1, "the later batch has its own answer");
        }
        for (uint32_t call = 0; call < 3; call++)
            cr_expect_eq(went_error[call], errors[i]);
    }
    cr_assert_eq(fiber_spawn(cores[0], FIBER_LATENCY, stop_run, &stop), 0);
    while (!stop.is_over)
        turn();
    close(fd);
    node_close();
}

Test(frontend, one_alarm_of_a_core_is_in_flight_whatever_its_clients_ask_of_alarms)
{
    struct stop stop = {0};
    node_open();
    int fd = connect_to(1);
    struct frontend *frontend = node->frontends[1];
    core_set_current(cores[1]);
    frontend_raise_alarm(frontend, ALARM_NO_SPACE);
    turn_until_count(&proposed_count, 1);
    send_call(fd, METHOD_ALARM);
    turn_until_count(&proposed_count, 2);
    answer_put(0); /* the client's */
    while (frontend->in_flight > 1)
        turn();
    core_set_current(cores[1]);
    frontend_raise_alarm(frontend, ALARM_NO_SPACE);
    cr_expect_eq(frontend->in_flight, 1, "ours is on its way still");
    answer_put(0);
    while (frontend->in_flight > 0)
        turn();
    core_set_current(cores[1]);
    frontend_raise_alarm(frontend, ALARM_NO_SPACE);
    cr_expect_eq(frontend->in_flight, 1, "it is over: another may follow");
    turn_until_count(&proposed_count, 1);
    answer_put(0);
    cr_assert_eq(fiber_spawn(cores[0], FIBER_LATENCY, stop_run, &stop), 0);
    while (!stop.is_over)
        turn();
    close(fd);
    node_close();
}
