#include "server/peer_role.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "core/logger.h"
#include "server/bootstrap.h"
#include "server/catch_up.h"
#include "server/forward.h"
#include "server/node_private.h"
#include "server/peer_codec.h"
#include "server/raft_driver.h"
#include "server/repair.h"
#include "server/snapshot_node.h"

#define SILENCE_NS_MIN (3 * NS_PER_S)

/* ---- Raft's messages out -------------------------------------------------------------------- */

static enum peer_lane lane_of(const struct raft_message *message)
{
    return message->kind == RAFT_MESSAGE_APPEND ? PEER_LANE_BULK : PEER_LANE_CONTROL;
}

bool peer_role_send_entries(struct peer_role *role, const struct raft_message *message,
                            const struct entry *const *entries)
{
    uint64_t payload_bytes = 0;
    for (uint32_t i = 0; i < message->entry_count; i++)
        payload_bytes += entries[i]->payload_bytes;
    invariant(payload_bytes <= PEER_PAYLOAD_BYTES_MAX);
    struct peer_frame_out frame = {.kind = PEER_MESSAGE_RAFT,
                                   .lane = lane_of(message),
                                   .to = message->to,
                                   .meta_bytes = peer_codec_message_bytes(message),
                                   .payload_bytes = (uint32_t)payload_bytes};
    uint8_t *meta = peers_send_begin(role->peers, &frame);
    if (meta == NULL)
        return false;
    uint8_t *at = peer_codec_encode_message(meta, message, entries);
    invariant(at == meta + frame.meta_bytes);
    for (uint32_t i = 0; i < message->entry_count; i++) {
        if (entries[i]->payload_bytes > 0)
            memcpy(at, entries[i]->payload, entries[i]->payload_bytes);
        at += entries[i]->payload_bytes;
    }
    peers_send_end(role->peers, &frame);
    return true;
}

/* ---- entries that left memory (server/catch_up.h) ------------------------------------------- */

static bool catch_up_is_current(void *context, uint64_t term)
{
    const struct peer_role *role = context;
    const struct raft *raft = &role->node->raft->raft;
    return raft->role == RAFT_ROLE_LEADER && raft->term == term;
}

static int64_t catch_up_read(void *context, uint64_t first, uint64_t last, uint64_t bytes_max,
                             struct log_copy *copy)
{
    const struct peer_role *role = context;
    return log_role_read(role->node, first, last, bytes_max, copy);
}

static void catch_up_send(void *context, const struct raft_message *message,
                          const struct entry *const *entries)
{
    (void)peer_role_send_entries(context, message, entries);
}

static void catch_up_failed(void *context, uint64_t to, uint64_t index, int error)
{
    const struct peer_role *role = context;
    log_warn("entries for a lagging member cannot be read", LOG_HEX("member", to),
             LOG_U64("index", index), LOG_ERROR(error));
    if (error == ERR_CORRUPT)
        repair_found(role->node->repair, index);
    raft_report_unreachable(&role->node->raft->raft, to);
}

static const struct catch_up_calls catch_up_calls = {.is_current = catch_up_is_current,
                                                     .read = catch_up_read,
                                                     .send = catch_up_send,
                                                     .failed = catch_up_failed};

static void send_append(struct peer_role *role, const struct raft_message *message)
{
    const struct raft *raft = &role->node->raft->raft;
    bool in_memory = !catch_up_is_busy(role->catch_up, message->to);
    for (uint32_t i = 0; i < message->entry_count && in_memory; i++) {
        role->entry_pointers[i] = raft_entry(raft, message->index + 1 + i);
        in_memory = role->entry_pointers[i] != NULL;
    }
    if (in_memory)
        peer_role_send_entries(role, message, role->entry_pointers);
    else if (peers_connected(role->peers, message->to, PEER_LANE_BULK))
        catch_up_queue(role->catch_up, message);
}

static void send_now(struct peer_role *role, const struct raft_message *message)
{
    if (message->kind == RAFT_MESSAGE_APPEND)
        send_append(role, message);
    else if (message->kind != RAFT_MESSAGE_SNAPSHOT)
        peer_role_send_entries(role, message, NULL);
    else if (snapshot_send_is_idle(role->snapshot_send))
        snapshot_send_start(role->snapshot_send, message->to); /* its files say the rest */
    else /* two members fell behind in the same turn: this one is asked again later */
        raft_report_snapshot(&role->node->raft->raft, message->to, false);
}

static void hold(struct peer_role *role, const struct raft_message *message)
{
    if (role->held_count == role->held_max) {
        uint32_t max = role->held_max * 2;
        struct raft_message *grown = malloc(max * sizeof(*grown));
        if (grown == NULL)
            fatal("out of memory for messages that wait for the log");
        for (uint32_t i = 0; i < role->held_count; i++)
            grown[i] = role->held[(role->held_first + i) & (role->held_max - 1)];
        free(role->held);
        role->held = grown;
        role->held_first = 0;
        role->held_max = max;
    }
    invariant(message->entry_count == 0 && message->snapshot == NULL);
    role->held[(role->held_first + role->held_count++) & (role->held_max - 1)] = *message;
}

void peer_role_send(struct peer_role *role, const struct raft_message *messages, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (messages[i].after_append == 0)
            send_now(role, &messages[i]);
        else
            hold(role, &messages[i]);
}

void peer_role_durable(struct peer_role *role, uint64_t sequence)
{
    while (role->held_count > 0) {
        const struct raft_message *message = &role->held[role->held_first];
        if (message->after_append > sequence)
            break;
        send_now(role, message);
        role->held_first = (role->held_first + 1) & (role->held_max - 1);
        role->held_count--;
    }
}

/* ---- Raft's messages in --------------------------------------------------------------------- */

static bool vote_is_safe(const struct peer_role *role, const struct raft_message *message)
{
    if (message->kind != RAFT_MESSAGE_VOTE && message->kind != RAFT_MESSAGE_PRE_VOTE)
        return true;
    return admission_may_vote(&role->admission, role->node->identity.life,
                              peers_connected(role->peers, message->from, PEER_LANE_CONTROL));
}

static int step(struct peer_role *role, const struct raft_message *message)
{
    struct raft_driver *driver = role->node->raft;
    int error = raft_step(&driver->raft, message);
    if (error == ERR_FULL) {
        raft_driver_drain(driver);
        error = raft_step(&driver->raft, message);
    }
    return error;
}

static int on_raft(struct peer_role *role, const struct peer_input *input)
{
    struct raft_message message;
    int error = peer_codec_decode_message(input, &message, role->entries);
    if (error < 0)
        return error;
    if (!vote_is_safe(role, &message))
        return 0;
    received_hold(&role->received, input->body, role->entries, message.entry_count);
    raft_driver_see_time(role->node->raft);
    error = step(role, &message);
    if (error == 0) {
        role->counters.stepped++;
        return 0;
    }
    received_drop(&role->received, role->entries, message.entry_count);
    switch (error) {
    case ERR_CORRUPT:
        fatal("the leader counts on log entries that this member acknowledged and no longer has: "
              "its data was lost; remove member %llx from the cluster and add it again with an "
              "empty data directory",
              (unsigned long long)role->node->identity.member_id);
    case ERR_MALFORMED:
        return error;
    case ERR_NOT_FOUND:
        role->counters.unknown_member++;
        return 0;
    default:
        role->counters.dropped_full++;
        return 0;
    }
}

static int handle(struct peer_role *role, const struct peer_input *input)
{
    switch (input->header.kind) {
    case PEER_MESSAGE_RAFT:
        return on_raft(role, input);
    case PEER_MESSAGE_FORWARD:
        return forward_received(role->forward, input);
    case PEER_MESSAGE_REFUSE:
        return forward_refused(role->forward, input);
    case PEER_MESSAGE_SNAPSHOT_OFFER:
        return snapshot_receive_offer(role->snapshot_receive, input);
    case PEER_MESSAGE_SNAPSHOT_CHUNK:
        return snapshot_receive_chunk(role->snapshot_receive, input);
    case PEER_MESSAGE_SNAPSHOT_STATUS:
        return snapshot_send_status(role->snapshot_send, input);
    case PEER_MESSAGE_REPAIR_REQUEST:
        raft_driver_see_time(role->node->raft);
        return repair_requested(role->node->repair, input);
    case PEER_MESSAGE_REPAIR_ANSWER:
        raft_driver_see_time(role->node->raft);
        return repair_answered(role->node->repair, input);
    default:
        return ERR_MALFORMED;
    }
}

/* What closes the connection is counted here, whoever found it. */
static int on_received(void *context, const struct peer_input *input)
{
    struct peer_role *role = context;
    int error = handle(role, input);
    if (error == ERR_FULL)
        role->counters.dropped_full++;
    else if (error < 0)
        role->counters.malformed++;
    return error;
}

/* ---- who may connect ------------------------------------------------------------------------ */

static int on_admit(void *context, const struct peer_greeting *hello)
{
    struct peer_role *role = context;
    const struct node *node = role->node;
    struct greeting greeting;
    int error = greeting_read(hello->detail, &greeting);
    if (error < 0)
        return error;
    error = admission_decide(&role->admission, hello->id, &greeting,
                             node->raft->raft.log.applied_index >= role->start_commit);
    bool known = member_find(&node->membership.set, hello->id) != NULL;
    if (error == 0 && !known && greeting.address_count > 0 &&
        peers_add(role->peers, hello->id, greeting.addresses, greeting.address_count) < 0)
        log_warn("no room for another member's connections", LOG_HEX("member", hello->id));
    return error;
}

static void stop_for_good(struct peer_role *role, uint64_t by, int error)
{
    if (atomic_load(&role->node->stop_requested))
        return;
    log_error("a member refuses this one for good", LOG_HEX("by", by), LOG_ERROR(error));
    node_request_stop(role->node);
}

static void on_refused(void *context, uint64_t id, int error)
{
    struct peer_role *role = context;
    if (error == ERR_MEMBER_REMOVED || error == ERR_MEMBER_BOOTSTRAPPED)
        stop_for_good(role, id, error);
    else
        log_warn("a member refuses this one", LOG_HEX("by", id), LOG_ERROR(error));
}

static void on_connected(void *context, uint64_t id, enum peer_lane lane)
{
    struct peer_role *role = context;
    struct raft_driver *driver = role->node->raft;
    if (lane == PEER_LANE_BULK && id == driver->raft.leader)
        forward_restart(role->forward); /* what the last connection lost */
}

static void on_lost(void *context, uint64_t id, enum peer_lane lane, bool inbound)
{
    struct peer_role *role = context;
    struct raft_driver *driver = role->node->raft;
    if (lane == PEER_LANE_BULK && !inbound)
        raft_report_unreachable(&driver->raft, id);
    failover_connection_lost(&role->failover, id);
}

static int on_question(void *context, struct bytes question, uint8_t *answer)
{
    const struct peer_role *role = context;
    const struct node *node = role->node;
    return bootstrap_answer(question, node->identity.cluster_id, node->identity.first,
                            &node->membership.set, answer, PEER_META_BYTES_MAX);
}

/* ---- members -------------------------------------------------------------------------------- */

/* Connections follow the member list, and end where it names another life than greeted. */
static void sync_members(struct peer_role *role)
{
    const struct node *node = role->node;
    const struct membership *membership = &node->membership;
    const struct identity *own = &node->identity;
    struct peer_address addresses[PEER_ADDRESSES_MAX];
    if (role->membership_version == membership->version)
        return;
    role->membership_version = membership->version;
    for (uint64_t id; (id = admission_expose(&role->admission)) != 0;) {
        log_warn("a member was let in before the log told that its directory was lost",
                 LOG_HEX("member", id));
        peers_remove(role->peers, id); /* it is added again below, and greets again */
    }
    for (uint32_t i = 0; i < membership->set.count; i++) {
        const struct member *member = &membership->set.members[i];
        uint32_t count = member_addresses(&member->peer, addresses);
        if (member->id == own->member_id)
            continue;
        if (peers_add(role->peers, member->id, addresses, count) < 0)
            log_warn("no room for another member's connections", LOG_HEX("member", member->id));
    }
    for (uint32_t i = 0; i < membership->removed_count; i++)
        peers_remove(role->peers, membership->removed[i]);
    if (membership_is_removed(membership, own->member_id))
        failover_removed(&role->failover);
    if (admission_life(membership, own->member_id, own->life) == LIFE_REPLACED)
        stop_for_good(role, own->member_id, ERR_MEMBER_BOOTSTRAPPED); /* our own log says so */
}

void peer_role_flush(struct peer_role *role)
{
    if (role->listeners == NULL)
        return; /* not open */
    sync_members(role);
    snapshot_send_turn(role->snapshot_send);
    greeting_set_fresh(role->greeting, role->node->raft->raft.log.last_index == 0);
    peers_flush(role->peers);
}

/* ---- listening ------------------------------------------------------------------------------ */

struct peer_listener {
    struct io_listener io;
    struct peer_role *role;
    struct peer_listener *next;
};

static void on_accepted(struct io_listener *io, int32_t fd,
                        const struct io_address *peer maybe_unused)
{
    struct peer_listener *listener = container_of(io, struct peer_listener, io);
    if (fd < 0) {
        log_warn("accept on the peer port failed", LOG_U64("port", io->port), LOG_ERROR(fd));
        return;
    }
    peers_accept(listener->role->peers, fd);
}

static void on_listener_closed(struct io_listener *io)
{
    struct peer_role *role = container_of(io, struct peer_listener, io)->role;
    if (--role->listeners_open == 0 && role->listeners_closed != NULL)
        fiber_event_signal(role->listeners_closed);
}

static int listen_on(struct peer_role *role, const struct config_url *url)
{
    struct peer_listener *listener = calloc(1, sizeof(*listener));
    if (listener == NULL)
        return -ENOMEM;
    listener->role = role;
    listener->io.accepted = on_accepted;
    listener->io.closed = on_listener_closed;
    int error = node_listen(role->node, role->core, url, &listener->io);
    if (error < 0) {
        free(listener);
        return error;
    }
    listener->next = role->listeners;
    role->listeners = listener;
    role->listeners_open++;
    return 0;
}

int peer_role_open(struct peer_role *role)
{
    const struct config_urls *urls = &role->node->config->listen_peer;
    role->start_commit = role->node->raft->raft.log.committed_index;
    for (uint32_t i = 0; i < urls->count; i++) {
        int error = listen_on(role, &urls->url[i]);
        if (error < 0)
            return error;
    }
    peer_role_flush(role);
    return 0;
}

/* ---- life ----------------------------------------------------------------------------------- */

int peer_role_start(struct node *node, struct core *core)
{
    struct peer_role *role = calloc(1, sizeof(*role));
    if (role == NULL)
        return -ENOMEM;
    role->node = node;
    role->core = core;
    role->held_max = 256;
    role->held = malloc(role->held_max * sizeof(*role->held));
    role->entries = malloc(PEER_ENTRIES_MAX * sizeof(*role->entries));
    role->entry_pointers = malloc(PEER_ENTRIES_MAX * sizeof(*role->entry_pointers));
    role->catch_up = catch_up_create(core, &catch_up_calls, role);
    role->forward = forward_create(node->raft);
    role->snapshot_send = snapshot_node_sender(node, core);
    role->snapshot_receive = snapshot_node_receiver(node, core);
    failover_init(&role->failover, node, core);
    role->admission =
        (struct admission){.membership = &node->membership, .self = node->identity.member_id};
    greeting_write(role->greeting, node->identity.life, &node->config->advertise_peer);
    uint64_t silence_ns = 3 * node->config->election_timeout_ms * NS_PER_MS;
    struct peer_options options = {
        .cluster = node->identity.cluster_id,
        .self = node->identity.member_id,
        .incarnation = node->identity.incarnation,
        .detail = bytes_from_text(role->greeting),
        .silence_ns = u64_max(silence_ns, SILENCE_NS_MIN),
        .events = {.context = role,
                   .received = on_received,
                   .admit = on_admit,
                   .refused = on_refused,
                   .connected = on_connected,
                   .lost = on_lost,
                   .question = on_question},
    };
    int error = -ENOMEM;
    if (role->held != NULL && role->entries != NULL && role->entry_pointers != NULL &&
        role->catch_up != NULL && role->forward != NULL && role->snapshot_send != NULL &&
        role->snapshot_receive != NULL)
        error = peers_create(core, &options, &role->peers);
    node->peers = role;
    return error;
}

void peer_role_stop(struct peer_role *role)
{
    struct fiber_event closed;
    failover_stop(&role->failover);
    fiber_event_init(&closed);
    role->listeners_closed = &closed;
    for (struct peer_listener *at = role->listeners; at != NULL; at = at->next)
        reactor_listener_close(at->io.reactor, &at->io);
    if (role->listeners_open > 0)
        fiber_event_wait(&closed);
    while (role->listeners != NULL) {
        struct peer_listener *listener = role->listeners;
        role->listeners = listener->next;
        free(listener);
    }
    peers_stop(role->peers); /* no frame comes in any more for what goes now */
    catch_up_destroy(role->catch_up);
    snapshot_send_destroy(role->snapshot_send);
    snapshot_receive_destroy(role->snapshot_receive);
    peers_destroy(role->peers);
    role->peers = NULL;
}

void peer_role_destroy(struct peer_role *role)
{
    if (role == NULL)
        return;
    forward_destroy(role->forward);
    received_deinit(&role->received);
    free(role->held);
    free(role->entries);
    free(role->entry_pointers);
    free(role);
}
