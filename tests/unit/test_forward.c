/* server/forward.h: requests on their way to a leader. Consensus is real; transport and disk, and
 * what is applied when, are in the test's hands. */
#include "tests/unit/fake_lsm.c"
#include "tests/unit/log_world.h"
#include "tests/unit/lone_core.h"

#include "consensus/raft_internal.h"
#include "server/forward.h"
#include "server/node_private.h"
#include "server/peer_codec.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"

enum { SELF = 1, OTHER = 2, THIRD = 3, FRAMES_MAX = 64, HOME_MAX = 64 };

static struct core *core;
static struct mesh *mesh;
static struct node *node;
static struct raft_driver *driver;
static struct forward *forward;

/* ---- what the module under test sees of the rest -------------------------------------------- */

struct sent_frame {
    struct peer_frame_out out;
    uint8_t *bytes;
};

static struct sent_frame sent[FRAMES_MAX];
static uint32_t sent_count;
static bool connected;

uint8_t *peers_send_begin(struct peers *peers, const struct peer_frame_out *frame)
{
    (void)peers;
    if (!connected)
        return NULL;
    cr_assert_lt(sent_count, FRAMES_MAX);
    sent[sent_count].out = *frame;
    sent[sent_count].bytes = calloc(1, frame->meta_bytes + frame->payload_bytes + 1);
    return sent[sent_count++].bytes;
}

void peers_send_end(struct peers *peers, const struct peer_frame_out *frame)
{
    (void)peers;
    cr_assert_eq(memcmp(frame, &sent[sent_count - 1].out, sizeof(*frame)), 0);
}

static void frames_forget(void)
{
    while (sent_count > 0)
        free(sent[--sent_count].bytes);
}

static uint64_t home[HOME_MAX];
static int home_error[HOME_MAX];
static uint32_t home_count;

static void come_home(struct proposal *proposal)
{
    cr_assert_lt(home_count, HOME_MAX);
    home_error[home_count] = proposal->error;
    home[home_count++] = proposal->sequence;
    proposal_destroy(proposal);
}

static void on_release(void *context, const struct entry *entry)
{
    (void)context;
    if (entry->tag != 0)
        received_release(&node->peers->received, entry->tag);
    else if (entry->payload_bytes > 0)
        proposal_leave_log(container_of(entry->payload, struct proposal, payload));
}

/* ---- a node --------------------------------------------------------------------------------- */

/* Everything is durable at once. Returns the last index to apply. */
static uint64_t drain(void)
{
    struct raft_ready ready;
    while (raft_ready(&driver->raft, &ready))
        if (ready.append.sequence != 0)
            raft_persisted(&driver->raft, &ready.append);
    return driver->raft.log.applying_index;
}

static void apply_all(void)
{
    uint64_t index = drain();
    if (index > driver->raft.log.applied_index)
        raft_applied(&driver->raft, index);
    drain();
}

/* Voters 1 .. `voters`, member 1 is us; learner 2 as well when there is one voter. */
static void begin(uint32_t voters)
{
    lone_core_create(&mesh, &core);
    node = aligned_alloc(CACHE_LINE_BYTES, u64_round_up(sizeof(*node), CACHE_LINE_BYTES));
    memset(node, 0, sizeof(*node));
    driver = calloc(1, sizeof(*driver));
    node->raft = driver;
    node->lsm = fake_lsm_create(1);
    node->identity.member_id = SELF;
    node->peers = calloc(1, sizeof(*node->peers));
    node->peers->entries = malloc(PEER_ENTRIES_MAX * sizeof(*node->peers->entries));
    node->peers->node = node;
    driver->node = node;
    driver->core = core;
    pending_init(&driver->pending, core);
    struct raft_options raft_options;
    struct raft_start start = {0};
    struct raft_storage storage = {.release = on_release};
    raft_options_default(&raft_options);
    raft_options.id = SELF;
    raft_options.window_entries = 256;
    for (uint64_t id = 1; id <= voters; id++)
        cr_assert(raft_id_set_add(&start.config.voters, id));
    if (voters == 1)
        cr_assert(raft_id_set_add(&start.config.learners, OTHER));
    driver->raft_memory = aligned_alloc(64, u64_round_up(raft_memory_bytes(&raft_options), 64));
    cr_assert_eq(raft_init(&driver->raft, &raft_options, &storage, &start, driver->raft_memory, 0),
                 0);
    forward = forward_create(driver);
    node->peers->forward = forward;
    sent_count = home_count = 0;
    connected = true;
}

static void end(void)
{
    forward_destroy(forward);
    pending_requeue(&driver->pending);
    pending_expire(&driver->pending, UINT64_MAX / 2);
    cr_expect_eq(driver->pending.count, 0);
    raft_log_release_to(&driver->raft.log, UINT64_MAX);
    for (uint32_t i = 0; i < node->peers->received.slot_count; i++)
        cr_expect_null(node->peers->received.slots[i].body, "a received frame is kept");
    received_deinit(&node->peers->received);
    frames_forget();
    fake_lsm_destroy(node->lsm);
    free(node->peers->entries);
    free(node->peers);
    free(driver->raft_memory);
    free(driver);
    free(node);
    lone_core_destroy(mesh, core);
}

static void give(struct raft_message message)
{
    message.to = SELF;
    cr_assert_eq(raft_step(&driver->raft, &message), 0);
    drain();
}

/* We are the leader of one voter and have applied our first entry. */
static void lead(void)
{
    raft_campaign(&driver->raft);
    apply_all();
    cr_assert_eq(driver->raft.role, RAFT_ROLE_LEADER);
}

static void follow(uint64_t leader, uint64_t term)
{
    give((struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT, .from = leader, .term = term});
    cr_assert_eq(driver->raft.leader, leader);
    forward_restart(forward); /* as raft_driver does */
}

static void turn(void)
{
    forward_turn(forward);
    drain();
}

static struct proposal *own(uint64_t sequence, uint32_t body_bytes)
{
    struct request request = {.kind = REQUEST_PUT, .origin = SELF, .sequence = sequence};
    struct proposal *proposal = proposal_create(0, body_bytes);
    uint8_t *body = calloc(1, body_bytes + 1);
    request.body = bytes_make(body, body_bytes);
    proposal_fill(proposal, &request);
    free(body);
    proposal->done = come_home;
    proposal->deadline_ns = 1;
    pending_add(&driver->pending, proposal);
    return proposal;
}

static struct proposal *own_change(uint64_t sequence, enum request_kind kind, uint64_t id)
{
    struct proposal *proposal = world_change(SELF, sequence, kind, id, false);
    proposal->done = come_home;
    proposal->deadline_ns = 1;
    pending_add(&driver->pending, proposal);
    return proposal;
}

/* One request of another member arrives, alone in its frame. Takes the proposal. */
static int arrive(uint64_t from, struct proposal *made, uint32_t type)
{
    struct entry entry = {.type = type,
                          .payload = made->payload,
                          .payload_bytes = made->payload_bytes,
                          .payload_crc = made->payload_crc};
    uint32_t meta_bytes = peer_codec_forward_bytes(1);
    struct peer_body *body = malloc(sizeof(*body) + meta_bytes + made->payload_bytes);
    body->references = 1;
    body->bytes = meta_bytes + made->payload_bytes;
    memcpy(peer_codec_encode_forward(body->data, &entry, 1), made->payload, made->payload_bytes);
    struct peer_input input = {.header = {.kind = PEER_MESSAGE_FORWARD,
                                          .from = from,
                                          .to = SELF,
                                          .meta_bytes = meta_bytes,
                                          .payload_bytes = made->payload_bytes},
                               .meta = body->data,
                               .payload = body->data + meta_bytes,
                               .body = body};
    int error = forward_received(forward, &input);
    peer_body_release(body);
    proposal_destroy(made);
    return error;
}

static int arrive_put(uint64_t from, uint64_t origin, uint16_t stream, uint64_t sequence)
{
    struct request request = {
        .kind = REQUEST_PUT, .origin = origin, .stream = stream, .sequence = sequence};
    struct proposal *proposal = proposal_create(0, 0);
    proposal_fill(proposal, &request);
    return arrive(from, proposal, ENTRY_NORMAL);
}

static void arrive_change(uint64_t from, uint64_t sequence, enum request_kind kind, uint64_t id)
{
    cr_assert_eq(arrive(from, world_change(from, sequence, kind, id, false), ENTRY_CONFIG_CHANGE),
                 0);
}

static int arrive_refusal(uint64_t from, uint16_t stream, uint64_t sequence, int error)
{
    uint8_t meta[PEER_REFUSE_BYTES];
    struct peer_refuse refuse = {.stream = stream, .sequence = sequence, .error = error};
    peer_codec_encode_refuse(meta, &refuse);
    struct peer_input input = {.header = {.kind = PEER_MESSAGE_REFUSE,
                                          .from = from,
                                          .to = SELF,
                                          .meta_bytes = PEER_REFUSE_BYTES},
                               .meta = meta};
    return forward_refused(forward, &input);
}

static void expect_refused(uint64_t to, uint64_t sequence, int error)
{
    cr_assert_eq(sent_count, 1);
    cr_expect_eq(sent[0].out.kind, PEER_MESSAGE_REFUSE);
    cr_expect_eq(sent[0].out.to, to);
    struct peer_input input = {.header = {.meta_bytes = PEER_REFUSE_BYTES}, .meta = sent[0].bytes};
    struct peer_refuse refuse;
    cr_assert_eq(peer_codec_decode_refuse(&input, &refuse), 0);
    cr_expect_eq(refuse.sequence, sequence);
    cr_expect_eq(refuse.error, error);
}

/* The learner says that it has the whole log. */
static void learner_catches_up(void)
{
    give((struct raft_message){.kind = RAFT_MESSAGE_APPEND_RESPONSE,
                               .from = OTHER,
                               .term = driver->raft.term,
                               .index = driver->raft.log.last_index});
}

static void executed(uint64_t origin, uint64_t sequence)
{
    struct request request = {
        .origin = origin, .stream = REQUEST_STREAM_MEMBERS, .sequence = sequence};
    cr_assert(once_admit(&node->once, &request));
}

/* ---- at a follower -------------------------------------------------------------------------- */

/* The sequences in the frames that went to `to`, in order. */
static uint32_t forwarded(uint64_t to, uint64_t sequences[64])
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < sent_count; i++) {
        cr_expect_eq(sent[i].out.kind, PEER_MESSAGE_FORWARD);
        cr_expect_eq(sent[i].out.to, to);
        struct peer_input input = {.header = {.meta_bytes = sent[i].out.meta_bytes,
                                              .payload_bytes = sent[i].out.payload_bytes},
                                   .meta = sent[i].bytes,
                                   .payload = sent[i].bytes + sent[i].out.meta_bytes};
        uint32_t entries;
        cr_assert_eq(peer_codec_decode_forward(&input, node->peers->entries, &entries), 0);
        for (uint32_t e = 0; e < entries; e++) {
            const struct entry *entry = &node->peers->entries[e];
            struct request request;
            cr_assert_eq(request_decode(&request, bytes_make(entry->payload, entry->payload_bytes)),
                         0);
            sequences[count++] = request.sequence;
        }
    }
    frames_forget();
    return count;
}

Test(forward, everything_unfinished_goes_to_each_new_leader_in_order)
{
    uint64_t got[64];
    begin(3);
    for (uint64_t sequence = 1; sequence <= 5; sequence++)
        own(sequence, 8);
    turn();
    cr_expect_eq(sent_count, 0, "nobody leads");
    follow(OTHER, 1);
    turn();
    cr_assert_eq(forwarded(OTHER, got), 5);
    for (uint64_t i = 0; i < 5; i++)
        cr_expect_eq(got[i], i + 1);
    turn();
    cr_expect_eq(sent_count, 0, "once for each leader");
    struct proposal *second = pending_match(&driver->pending, 0, 2); /* its entry was applied */
    pending_finish(&driver->pending, second, 0);
    follow(THIRD, 2);
    turn();
    cr_assert_eq(forwarded(THIRD, got), 3);
    cr_expect_eq(got[0], 3);
    cr_expect_eq(got[2], 5);
    forward_restart(forward); /* the connection broke: what it lost, nobody knows */
    connected = false;
    turn();
    connected = true;
    turn();
    cr_expect_eq(forwarded(THIRD, got), 3);
    end();
}

Test(forward, a_leader_is_sent_no_more_than_its_window)
{
    begin(3);
    follow(OTHER, 1);
    for (uint64_t sequence = 1; sequence <= 40; sequence++)
        own(sequence, 512 * KIB);
    turn();
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < sent_count; i++)
        bytes += sent[i].out.payload_bytes;
    cr_expect_leq(bytes, FORWARD_WINDOW_BYTES + MIB);
    cr_expect_geq(bytes, FORWARD_WINDOW_BYTES - MIB);
    frames_forget();
    for (uint64_t sequence = 1; sequence <= 4; sequence++)
        pending_finish(&driver->pending, pending_match(&driver->pending, 0, sequence), 0);
    turn();
    cr_expect_gt(sent_count, 0, "what is finished makes room");
    end();
}

static const struct {
    const char *why;
    uint32_t leaders; /* that it was sent to, one after the other */
    uint64_t from;    /* who refuses; the last of them is member 2 or 3 */
    uint64_t sequence;
    int want; /* 0: it goes on waiting */
} refusals[] = {
    {"the only leader that ever had it", 1, OTHER, 7, ERR_LEARNER_NOT_READY},
    {"an earlier one may have put it into its log", 2, THIRD, 7, ERR_LEADER_FAILED},
    {"a leader that is none any more", 2, OTHER, 7, 0},
    {"another request", 1, OTHER, 8, 0},
    {"an older one", 1, OTHER, 6, 0},
};

Test(forward, a_refusal_is_definite_only_when_no_other_copy_was_sent)
{
    for (size_t i = 0; i < ARRAY_COUNT(refusals); i++) {
        begin(3);
        own_change(7, REQUEST_MEMBER_PROMOTE, 9);
        for (uint32_t term = 1; term <= refusals[i].leaders; term++) {
            follow(term == 1 ? OTHER : THIRD, term);
            turn();
            frames_forget();
        }
        cr_assert_eq(arrive_refusal(refusals[i].from, REQUEST_STREAM_MEMBERS, refusals[i].sequence,
                                    ERR_LEARNER_NOT_READY),
                     0);
        cr_expect_eq(home_count, refusals[i].want != 0, "%s", refusals[i].why);
        if (home_count > 0)
            cr_expect_eq(home_error[0], refusals[i].want, "%s", refusals[i].why);
        end();
    }
    begin(3);
    follow(OTHER, 1);
    cr_expect_eq(arrive_refusal(OTHER, 0, 7, ERR_CONFIG), ERR_MALFORMED,
                 "puts are never refused by another");
    end();
}

/* ---- at the leader -------------------------------------------------------------------------- */

Test(forward, only_requests_of_the_sender_itself_are_taken)
{
    static const struct {
        const char *why;
        uint64_t from, origin;
        uint16_t stream;
        int want;
    } cases[] = {
        {"its own", OTHER, OTHER, 0, 0},
        {"of its last core", OTHER, OTHER, CONFIG_CORES_MAX - 1, 0},
        {"of a core that nobody has", OTHER, OTHER, CONFIG_CORES_MAX, ERR_MALFORMED},
        {"in our name", OTHER, SELF, 0, ERR_MALFORMED},
        {"in a third one's", OTHER, THIRD, 0, ERR_MALFORMED},
    };
    begin(1);
    lead();
    uint64_t last = driver->raft.log.last_index;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        cr_expect_eq(arrive_put(cases[i].from, cases[i].origin, cases[i].stream, i + 1),
                     cases[i].want, "%s", cases[i].why);
    turn();
    cr_expect_eq(driver->raft.log.last_index, last + 2);
    apply_all();
    end();
}

Test(forward, who_does_not_lead_keeps_nothing_of_others)
{
    begin(3);
    follow(OTHER, 1);
    cr_expect_eq(arrive_put(THIRD, THIRD, 0, 1), 0, "its sender hears of the leader and repeats");
    end(); /* no frame is kept */
    begin(1);
    lead();
    fake_lsm_set_pressure(node->lsm, LSM_PRESSURE_FULL); /* nothing is proposed */
    for (uint64_t sequence = 1; sequence <= 50; sequence++)
        cr_assert_eq(arrive_put(OTHER, OTHER, 0, sequence), 0);
    arrive_change(OTHER, 1, REQUEST_MEMBER_REMOVE, OTHER);
    turn();
    raft_step_down(&driver->raft);
    drain();
    forward_restart(forward);
    turn();
    end(); /* no frame is kept */
}

Test(forward, writes_wait_before_the_log_while_tables_are_behind)
{
    begin(1);
    lead();
    uint64_t last = driver->raft.log.last_index;
    fake_lsm_set_pressure(node->lsm, LSM_PRESSURE_FULL);
    own(1, 8);
    cr_assert_eq(arrive_put(OTHER, OTHER, 0, 1), 0);
    turn();
    cr_expect_eq(driver->raft.log.last_index, last);
    fake_lsm_set_pressure(node->lsm, LSM_PRESSURE_FULL - 1);
    turn();
    cr_expect_eq(driver->raft.log.last_index, last + 2);
    apply_all();
    end();
}

/* Puts are refused everywhere, so what comes is what frees space, and the operator's disarming. */
Test(forward, an_alarm_lets_requests_on_into_the_reserve_of_full_tables)
{
    begin(1);
    lead();
    uint64_t last = driver->raft.log.last_index;
    fake_lsm_set_pressure(node->lsm, (LSM_PRESSURE_FULL + LSM_PRESSURE_STOP) / 2 - 1);
    own(1, 8);
    turn();
    cr_expect_eq(driver->raft.log.last_index, last, "no alarm");
    atomic_store(&node->shared.alarms, (uint64_t)1 << ALARM_NO_SPACE);
    turn();
    cr_expect_eq(driver->raft.log.last_index, last + 1);
    fake_lsm_set_pressure(node->lsm, (LSM_PRESSURE_FULL + LSM_PRESSURE_STOP) / 2);
    own(2, 8);
    turn();
    cr_expect_eq(driver->raft.log.last_index, last + 1, "before the apply loop waits");
    apply_all();
    end();
}

Test(forward, changes_wait_for_each_other)
{
    begin(1);
    lead();
    uint64_t last = driver->raft.log.last_index;
    arrive_change(OTHER, 1, REQUEST_MEMBER_ADD, 5);
    own_change(1, REQUEST_MEMBER_ADD, 6);
    turn();
    cr_expect_eq(driver->raft.log.last_index, last + 1);
    turn();
    cr_expect_eq(driver->raft.log.last_index, last + 1, "the first is not applied");
    apply_all();
    turn();
    cr_expect_eq(driver->raft.log.last_index, last + 2);
    apply_all();
    turn();
    cr_expect_eq(driver->raft.log.last_index, last + 2);
    cr_expect_eq(sent_count, 0);
    end();
}

Test(forward, a_learner_that_lags_is_not_promoted)
{
    begin(1);
    lead();
    arrive_change(OTHER, 4, REQUEST_MEMBER_PROMOTE, OTHER);
    turn();
    expect_refused(OTHER, 4, ERR_LEARNER_NOT_READY);
    own_change(1, REQUEST_MEMBER_PROMOTE, OTHER);
    turn();
    cr_assert_eq(home_count, 1);
    cr_expect_eq(home_error[0], ERR_LEARNER_NOT_READY);
    frames_forget();
    learner_catches_up();
    arrive_change(OTHER, 5, REQUEST_MEMBER_PROMOTE, OTHER);
    uint64_t last = driver->raft.log.last_index;
    turn();
    cr_expect_eq(driver->raft.log.last_index, last + 1);
    cr_expect_eq(sent_count, 0);
    apply_all();
    end();
}

/* The second copy of a change, sent again when a connection broke, finds the learner gone. It must
 * not be refused: the first copy is in the log. */
Test(forward, a_copy_of_a_change_in_the_log_is_not_refused)
{
    begin(1);
    lead();
    learner_catches_up();
    arrive_change(OTHER, 4, REQUEST_MEMBER_PROMOTE, OTHER);
    turn();
    raft_peer(&driver->raft, OTHER)->recent_active = false;
    arrive_change(OTHER, 4, REQUEST_MEMBER_PROMOTE, OTHER);
    turn();
    cr_expect_eq(sent_count, 0, "it waits for the first to be applied");
    executed(OTHER, 4);
    apply_all();
    uint64_t last = driver->raft.log.last_index;
    turn();
    cr_expect_eq(sent_count, 0, "and has happened then");
    cr_expect_eq(driver->raft.log.last_index, last);
    end();
}

/* Nor may a new leader judge before it has applied what earlier ones left in its log. */
Test(forward, a_new_leader_applies_its_log_before_it_refuses)
{
    begin(1);
    raft_campaign(&driver->raft);
    drain();
    cr_assert_eq(driver->raft.role, RAFT_ROLE_LEADER);
    arrive_change(OTHER, 4, REQUEST_MEMBER_PROMOTE, OTHER);
    turn();
    cr_expect_eq(sent_count, 0);
    apply_all();
    turn();
    expect_refused(OTHER, 4, ERR_LEARNER_NOT_READY);
    end();
}

/* Our own change, forwarded to the leader before us: a copy may be in its log. */
Test(forward, our_own_copy_at_an_earlier_leader_makes_a_refusal_uncertain)
{
    begin(1);
    struct proposal *proposal = own_change(1, REQUEST_MEMBER_PROMOTE, OTHER);
    proposal->copies = 1;
    lead();
    turn();
    cr_assert_eq(home_count, 1);
    cr_expect_eq(home_error[0], ERR_LEADER_FAILED);
    end();
}
