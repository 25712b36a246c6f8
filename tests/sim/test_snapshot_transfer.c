/* Two members that lead in turns send their tables to a third, over net/peer and the simulated
 * network, while everything goes wrong: power cuts of each of the three, links that are blocked,
 * chunks and statuses that are lost or come twice, a change of the leader at any moment. When the
 * faults end, the third must hold what the last leader offered; whatever it installs on the way
 * must be exactly one of the two checkpoints.
 *
 *   SNAPSHOT_TRANSFER_SEED    only this seed, with its log lines */
#include <criterion/criterion.h>
#include <errno.h>

#include "net/peer.h"
#include "server/peer_codec.h"
#include "server/snapshot_files.h"
#include "server/snapshot_install.h"
#include "server/snapshot_receive.h"
#include "server/snapshot_send.h"
#include "tests/sim/disk.h"
#include "tests/sim/network.h"
#include "tests/sim/reactor_sim.h"
#include "tests/sim/snapshot_store.c"

#define PORT    2380
#define CLUSTER UINT64_C(0xc1)

enum { FIRST, SECOND, RECEIVER, MEMBERS };

#ifdef __SANITIZE_ADDRESS__
enum { SEEDS = 60, FAULTS = 80 };
#else
enum { SEEDS = 400, FAULTS = 80 };
#endif

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

struct trial;

/* In the test's memory: what it saw survives its crashes. */
struct member {
    struct trial *trial;
    struct sim_node node;
    struct sim_disk *disk;
    uint64_t id, incarnation;
    uint64_t index; /* of a leader's checkpoint; that the receiver has installed */
    struct peers *peers;
    struct io_listener listener;
    struct timer timer;
    struct snapshot_send *send;
    struct snapshot_receive *receive;
    bool ready, restart_wanted;
    bool done; /* a leader: the receiver has it all */
};

struct trial {
    struct sim_world world;
    struct member members[MEMBERS];
    struct prng prng;
    uint64_t leader; /* id */
    bool faulty;     /* frames are lost and doubled */
    bool prepared;
    uint32_t installs, resumed, refused;
};

static bool chance(struct member *member, uint64_t percent)
{
    return member->trial->faulty && prng_chance(&member->trial->prng, percent, 100);
}

/* ---- frames ---------------------------------------------------------------------------------- */

static bool put_frame(struct member *member, const struct peer_frame_out *frame,
                      const uint8_t *meta, const uint8_t *payload)
{
    uint8_t *to = peers_send_begin(member->peers, frame);
    if (to == NULL)
        return false;
    memcpy(to, meta, frame->meta_bytes);
    if (frame->payload_bytes > 0)
        memcpy(to + frame->meta_bytes, payload, frame->payload_bytes);
    peers_send_end(member->peers, frame);
    peers_flush(member->peers);
    return true;
}

static bool call_send(void *context, const struct peer_frame_out *frame, const uint8_t *meta,
                      const uint8_t *payload)
{
    struct member *member = context;
    if (chance(member, 3))
        return true; /* lost */
    bool sent = put_frame(member, frame, meta, payload);
    if (sent && chance(member, 10))
        (void)put_frame(member, frame, meta, payload);
    return sent;
}

static void call_answer(void *context, const struct peer_frame_out *frame, const uint8_t *meta)
{
    struct member *member = context;
    struct peer_input input = {.header = {.meta_bytes = frame->meta_bytes}, .meta = meta};
    struct snapshot_status status;
    invariant(snapshot_status_decode(&input, &status) == 0);
    if (status.state == SNAPSHOT_FAILED)
        member->trial->refused++;
    (void)call_send(context, frame, meta, NULL);
}

static int on_received(void *context, const struct peer_input *input)
{
    struct member *member = context;
    switch (input->header.kind) {
    case PEER_MESSAGE_SNAPSHOT_OFFER:
        return member->receive == NULL ? 0 : snapshot_receive_offer(member->receive, input);
    case PEER_MESSAGE_SNAPSHOT_CHUNK:
        return member->receive == NULL ? 0 : snapshot_receive_chunk(member->receive, input);
    case PEER_MESSAGE_SNAPSHOT_STATUS:
        return member->send == NULL ? 0 : snapshot_send_status(member->send, input);
    default:
        return ERR_MALFORMED;
    }
}

static int on_admit(void *context, const struct peer_greeting *greeting)
{
    (void)context;
    (void)greeting;
    return 0;
}

static void on_refused(void *context, uint64_t id, int error)
{
    (void)context;
    (void)id;
    (void)error;
}

static void on_connected(void *context, uint64_t id, enum peer_lane lane)
{
    (void)context;
    (void)id;
    (void)lane;
}

static void on_lost(void *context, uint64_t id, enum peer_lane lane, bool inbound)
{
    (void)context;
    (void)id;
    (void)lane;
    (void)inbound;
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

static void connect_all(struct member *member)
{
    struct core *core = core_current();
    struct io_address address;
    char host[32];
    struct peer_options options = {.cluster = CLUSTER,
                                   .self = member->id,
                                   .incarnation = ++member->incarnation,
                                   .detail = bytes_from_text("hello"),
                                   .silence_ns = 300 * NS_PER_MS,
                                   .events = {.context = member,
                                              .received = on_received,
                                              .admit = on_admit,
                                              .refused = on_refused,
                                              .connected = on_connected,
                                              .lost = on_lost}};
    invariant(peers_create(core, &options, &member->peers) == 0);
    snprintf(host, sizeof(host), "10.0.0.%u", member->node.id);
    memset(&member->listener, 0, sizeof(member->listener));
    member->listener.accepted = on_accepted;
    member->listener.closed = on_listener_closed;
    invariant(reactor_resolve(core_reactor(core), host, PORT, &address) == 0);
    invariant(reactor_listen(core_reactor(core), &member->listener, &address) == 0);
    for (int i = 0; i < MEMBERS; i++) {
        const struct member *other = &member->trial->members[i];
        struct peer_address to = {.port = PORT};
        snprintf(to.host, sizeof(to.host), "10.0.0.%u", other->node.id);
        if (other != member)
            invariant(peers_add(member->peers, other->id, &to, 1) == 0);
    }
}

/* ---- a leader -------------------------------------------------------------------------------- */

struct names {
    char names[64][SNAPSHOT_NAME_BYTES];
    uint32_t count;
};

static void name_found(void *context, const char *name)
{
    struct names *names = context;
    snprintf(names->names[names->count++], SNAPSHOT_NAME_BYTES, "%s", name);
}

/* Links to the one that was made before the faults began. */
static int call_checkpoint(void *context, const char *dir, uint64_t *index, uint64_t *term)
{
    struct member *member = context;
    struct names *names = calloc(1, sizeof(*names));
    int error = await_make_directory(dir);
    if (error == 0)
        error = reactor_list(core_reactor(core_current()), "/checkpoint", name_found, names);
    for (uint32_t i = 0; error == 0 && i < names->count; i++) {
        char from[128], to[128];
        snprintf(from, sizeof(from), "/checkpoint/%s", names->names[i]);
        snprintf(to, sizeof(to), "%s/%s", dir, names->names[i]);
        error = await_hard_link(from, to);
    }
    free(names);
    *index = member->index;
    *term = store_term(member->index);
    return error;
}

static bool call_is_wanted(void *context, uint64_t to)
{
    const struct member *member = context;
    invariant(to == member->trial->members[RECEIVER].id);
    return member->trial->leader == member->id;
}

static bool call_is_connected(void *context, uint64_t to)
{
    const struct member *member = context;
    return peers_connected(member->peers, to, PEER_LANE_SNAPSHOT);
}

static void call_ended(void *context, uint64_t to, bool ok)
{
    struct member *member = context;
    const struct member *receiver = &member->trial->members[RECEIVER];
    (void)to;
    member->done = member->done || ok;
    sim_check(!ok || receiver->index >= member->index, "complete at %llu, not at %llu",
              (unsigned long long)receiver->index, (unsigned long long)member->index);
}

static const struct snapshot_send_calls send_calls = {.checkpoint = call_checkpoint,
                                                      .is_wanted = call_is_wanted,
                                                      .is_connected = call_is_connected,
                                                      .send = call_send,
                                                      .ended = call_ended};

/* What consensus does: asks for a snapshot until the member has one. */
static void on_leader_timer(struct timer *timer)
{
    struct member *member = container_of(timer, struct member, timer);
    uint64_t to = member->trial->members[RECEIVER].id;
    if (member->trial->leader == member->id && !member->done && snapshot_send_is_idle(member->send))
        snapshot_send_start(member->send, to);
    snapshot_send_turn(member->send);
    peers_flush(member->peers);
    timer_start(core_timers(core_current()), timer, core_now_ns(core_current()) + NS_PER_MS);
}

static void leader_run(void *argument)
{
    struct member *member = argument;
    struct snapshot_position position;
    invariant(await_make_directory("/data") == 0);
    if (member->incarnation == 0)
        store_make_checkpoint("/store", member->index, "/checkpoint");
    int error = snapshot_install_find("/data", &position);
    sim_check(error == SNAPSHOT_NONE, "a leader's start: %s", err_name(error));
    member->send = snapshot_send_create(core_current(), "/data", &send_calls, member);
    connect_all(member);
    timer_init(&member->timer, on_leader_timer);
    timer_start(core_timers(core_current()), &member->timer, core_now_ns(core_current()) + 1);
    member->ready = true;
}

/* ---- the receiver ---------------------------------------------------------------------------- */

static bool call_is_leader(void *context, uint64_t id)
{
    const struct member *member = context;
    return member->trial->leader == id;
}

static bool call_is_news(void *context, const struct snapshot_position *position)
{
    const struct member *member = context;
    return snapshot_is_news(position, &(struct snapshot_log){.base_index = member->index});
}

static void call_received(void *context)
{
    struct member *member = context;
    sim_check(!member->restart_wanted, "told twice");
    member->restart_wanted = true;
}

static const struct snapshot_receive_calls receive_calls = {.is_leader = call_is_leader,
                                                            .is_news = call_is_news,
                                                            .send = call_answer,
                                                            .received = call_received};

static void on_receiver_timer(struct timer *timer)
{
    struct member *member = container_of(timer, struct member, timer);
    peers_flush(member->peers);
    timer_start(core_timers(core_current()), timer, core_now_ns(core_current()) + NS_PER_MS);
}

/* The order of server/node.c, of a member without a log. */
static void receiver_run(void *argument)
{
    struct member *member = argument;
    struct snapshot_position position;
    struct store store;
    invariant(await_make_directory("/data") == 0);
    int found = snapshot_install_find("/data", &position);
    sim_check(found >= 0, "snapshot_install_find: %s; %s", err_name(found), logger_last_error());
    if (found != SNAPSHOT_NONE) {
        int error = snapshot_install_exchange("/data");
        sim_check(error == 0, "exchange: %s", err_name(error));
    }
    store_open(&store, "/data/lsm", 0, 0);
    lsm_background_start(store.lsm, core_current());
    store_check(&store);
    sim_check(found == SNAPSHOT_NONE || store.applied == position.index, "tables at %llu",
              (unsigned long long)store.applied);
    sim_check(store.applied >= member->index, "back from %llu to %llu",
              (unsigned long long)member->index, (unsigned long long)store.applied);
    member->trial->installs += store.applied > member->index;
    store_close(&store);
    if (found != SNAPSHOT_NONE) {
        int error = snapshot_install_end("/data");
        sim_check(error == 0, "snapshot_install_end: %s", err_name(error));
    }
    member->index = store.applied;
    struct io_stat stat;
    member->trial->resumed += await_stat("/data/snap/incoming/OFFER", &stat) == 0;
    member->receive = snapshot_receive_create(core_current(), "/data", &receive_calls, member);
    connect_all(member);
    timer_init(&member->timer, on_receiver_timer);
    timer_start(core_timers(core_current()), &member->timer, core_now_ns(core_current()) + 1);
    member->ready = true;
}

/* ---- a trial --------------------------------------------------------------------------------- */

static void boot(struct member *member)
{
    struct core_options options = {.reactor = {.files_max = 256,
                                               .buffer_bytes = 2 * MIB,
                                               .recv_buffer_bytes = 16384,
                                               .recv_buffer_count = 16},
                                   .fibers_max = 32};
    bool is_receiver = member == &member->trial->members[RECEIVER];
    member->ready = member->restart_wanted = false;
    member->send = NULL;
    member->receive = NULL;
    member->peers = NULL;
    sim_node_boot(&member->node, &options, 1);
    sim_enter(&member->node, 0);
    invariant(fiber_spawn(member->node.cores[0].core, FIBER_LATENCY,
                          is_receiver ? receiver_run : leader_run, member) == 0);
    sim_leave(&member->node);
}

static void crash(struct member *member, enum sim_loss loss)
{
    struct trial *trial = member->trial;
    sim_requests_land(&member->node, member->disk, false, loss, &trial->prng);
    sim_node_crash(&member->node);
    sim_disk_power_cut(member->disk, loss, &trial->prng);
    member->peers = NULL;
}

static void run_until(struct trial *trial, uint64_t until_ns)
{
    struct member *receiver = &trial->members[RECEIVER];
    while (trial->world.now_ns < until_ns && sim_world_step(&trial->world))
        if (receiver->restart_wanted) { /* as execv() would do it */
            crash(receiver, SIM_LOSS_NONE);
            boot(receiver);
        }
}

static void fault(struct trial *trial)
{
    uint64_t dice = prng_below(&trial->prng, 10), now_ns = trial->world.now_ns;
    struct member *member = &trial->members[prng_below(&trial->prng, MEMBERS)];
    uint32_t other = (uint32_t)prng_below(&trial->prng, MEMBERS) + 1;
    if (dice < 4) {
        if (!member->ready)
            return;
        crash(member, (enum sim_loss)prng_below(&trial->prng, SIM_LOSS_COUNT));
        boot(member);
    } else if (dice < 6) {
        if (other != member->node.id)
            sim_network_block(&trial->world, member->node.id, other,
                              now_ns + prng_below(&trial->prng, NS_PER_S));
    } else if (dice < 8) {
        trial->leader = trial->members[prng_below(&trial->prng, RECEIVER)].id;
    } else {
        trial->faulty = !trial->faulty;
    }
}

static void trial_run(struct trial *trial, uint64_t seed, bool loud)
{
    static const uint64_t indexes[MEMBERS] = {90, 110, 0};
    memset(trial, 0, sizeof(*trial));
    sim_set_replay("test_snapshot_transfer with SNAPSHOT_TRANSFER_SEED=%llu",
                   (unsigned long long)seed);
    prng_init(&trial->prng, seed);
    sim_world_init(&trial->world, &(struct sim_options){.seed = seed, .log_to_stderr = loud});
    sim_world_enter(&trial->world);
    for (int i = 0; i < MEMBERS; i++) {
        struct member *member = &trial->members[i];
        member->trial = trial;
        member->disk = sim_disk_create(256 * MIB, 512);
        sim_node_init(&member->node, &trial->world, member->disk);
        member->id = 0x10 + (uint64_t)i;
        member->index = indexes[i];
        boot(member);
    }
    while (!trial->members[FIRST].ready || !trial->members[SECOND].ready ||
           !trial->members[RECEIVER].ready)
        invariant(sim_world_step(&trial->world));
    trial->leader = trial->members[FIRST].id;
    for (int i = 0; i < FAULTS; i++) {
        uint64_t apart_ms = prng_chance(&trial->prng, 1, 8) ? 1500 : 12;
        run_until(trial, trial->world.now_ns + prng_below(&trial->prng, apart_ms * NS_PER_MS));
        fault(trial);
    }
    trial->faulty = false;
    struct member *leader = &trial->members[seed % 2 == 0 ? FIRST : SECOND];
    trial->leader = leader->id;
    leader->done = false; /* also when it was before: it must hear it again */
    for (int i = 0; i < 3000 && !leader->done; i++)
        run_until(trial, trial->world.now_ns + 20 * NS_PER_MS);
    sim_check(leader->done, "the receiver has %llu, the leader %llu, after a minute without faults",
              (unsigned long long)trial->members[RECEIVER].index,
              (unsigned long long)leader->index);
    for (int i = 0; i < MEMBERS; i++) {
        sim_node_crash(&trial->members[i].node);
        sim_node_deinit(&trial->members[i].node);
        sim_disk_destroy(trial->members[i].disk);
    }
    sim_world_deinit(&trial->world);
}

Test(snapshot_transfer, arrives_whatever_happens_on_the_way, .timeout = 400)
{
    const char *seed_text = getenv("SNAPSHOT_TRANSFER_SEED");
    uint64_t first = seed_text != NULL ? strtoull(seed_text, NULL, 0) : 1;
    uint64_t last = seed_text != NULL ? first : SEEDS;
    uint32_t installs = 0, resumed = 0, refused = 0;
    logger_set_level(seed_text != NULL ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR);
    for (uint64_t seed = first; seed <= last; seed++) {
        struct trial *trial = malloc(sizeof(*trial));
        trial_run(trial, seed, seed_text != NULL);
        installs += trial->installs;
        resumed += trial->resumed;
        refused += trial->refused;
        free(trial);
    }
    cr_log_info("%u installs, %u restarts in the middle, %u refused", installs, resumed, refused);
    if (seed_text == NULL) {
        cr_expect_geq(installs, SEEDS);
        cr_expect_gt(resumed, SEEDS / 2);
        cr_expect_eq(refused, 0, "nothing was damaged");
    }
}
