#include "server/forward.h"

#include <stdlib.h>

#include "core/invariant.h"
#include "core/probe.h"
#include "server/node_private.h"
#include "server/peer_codec.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"
#include "storage/lsm/lsm.h"

#define BATCH_ENTRIES  64
#define FRAME_ENTRIES  256
#define FRAME_BYTES    ((uint64_t)512 * 1024)
#define CHANGE_WAIT_NS (10 * NS_PER_S)
#define CHANGES_MAX    32

/* Below LSM_PRESSURE_STOP: what is under way then must not make the apply loop wait. */
#define FREEING_PRESSURE_MAX ((LSM_PRESSURE_FULL + LSM_PRESSURE_STOP) / 2)

/* Requests of one frame of another member, in order. */
struct foreign {
    struct foreign *next;
    uint32_t count, at;
    struct entry entries[];
};

/* A change of members that waits until the one before it is applied. */
struct change {
    struct entry entry;
    struct proposal *proposal; /* of our own client; else NULL, and the entry has a tag */
    uint64_t give_up_ns;
};

struct forward {
    struct raft_driver *driver;
    struct foreign *first, **last_next;
    struct change changes[CHANGES_MAX];
    uint32_t change_count;
    bool restart;
};

struct forward *forward_create(struct raft_driver *driver)
{
    struct forward *forward = calloc(1, sizeof(*forward));
    if (forward == NULL)
        return NULL;
    forward->driver = driver;
    forward->last_next = &forward->first;
    return forward;
}

static struct received *received_of(struct forward *forward)
{
    return &forward->driver->node->peers->received;
}

static void foreign_pop(struct forward *forward)
{
    struct foreign *foreign = forward->first;
    forward->first = foreign->next;
    if (forward->first == NULL)
        forward->last_next = &forward->first;
    free(foreign);
}

static void foreign_drop_all(struct forward *forward)
{
    while (forward->first != NULL) {
        struct foreign *foreign = forward->first;
        received_drop(received_of(forward), foreign->entries + foreign->at,
                      foreign->count - foreign->at);
        foreign_pop(forward);
    }
}

/* ---- changes of members --------------------------------------------------------------------- */

static void change_remove(struct forward *forward, uint32_t at)
{
    struct proposal *proposal = forward->changes[at].proposal;
    forward->changes[at] = forward->changes[--forward->change_count];
    if (proposal != NULL)
        pending_settle(&forward->driver->pending, proposal);
}

static void change_drop(struct forward *forward, uint32_t at)
{
    struct change *change = &forward->changes[at];
    if (change->proposal == NULL)
        received_drop(received_of(forward), &change->entry, 1);
    change_remove(forward, at);
}

static void change_add(struct forward *forward, const struct entry *entry,
                       struct proposal *proposal)
{
    uint64_t now_ns = core_now_ns(forward->driver->core);
    if (forward->change_count == CHANGES_MAX) {
        if (proposal == NULL)
            received_drop(received_of(forward), entry, 1);
        else
            pending_settle(&forward->driver->pending, proposal);
        return; /* its deadline answers it */
    }
    forward->changes[forward->change_count++] = (struct change){
        .entry = *entry, .proposal = proposal, .give_up_ns = now_ns + CHANGE_WAIT_NS};
}

/* A learner that lags would hold up every commit once it votes. */
static bool learner_is_ready(const struct raft *raft, const struct request *request)
{
    struct member member;
    if (member_decode(request->body, &member) < 0)
        return true; /* refused when it is applied */
    const struct raft_peer *learner = raft_peer_find(raft, member.id);
    return learner == NULL || !learner->learner ||
           (learner->recent_active && learner->match_index * 10 >= raft->log.last_index * 9);
}

/* Only when all that this leader found in its log, and its own first entry, is applied can it know
 * whether a copy of the change happened already, or might yet. */
static bool leader_knows(const struct raft *raft)
{
    return raft->log.applied_index >= u64_max(raft->pending_config_index, raft->term_start_index);
}

/* ERR_DROPPED, ERR_FULL, ERR_TOO_MANY_REQUESTS: later. ERR_CANCELED: it happened already. */
static int change_propose(struct raft_driver *driver, struct change *change)
{
    struct raft_config_change decoded;
    struct request request;
    uint64_t index;
    if (!leader_knows(&driver->raft))
        return ERR_DROPPED;
    int error = membership_decode_change(&change->entry, &decoded, &request);
    if (error < 0)
        return error;
    if (!once_is_new(&driver->node->once, &request))
        return ERR_CANCELED;
    if (request.kind == REQUEST_MEMBER_PROMOTE && !learner_is_ready(&driver->raft, &request))
        return ERR_LEARNER_NOT_READY;
    return raft_propose(&driver->raft, &change->entry, 1, &index);
}

/* This copy of it surely is not in the log: who asked is told. */
static void change_refuse(struct raft_driver *driver, const struct change *change, int error)
{
    struct raft_config_change decoded;
    struct request request;
    if (change->proposal != NULL) {
        pending_refuse(&driver->pending, change->proposal->stream, change->proposal->sequence, 0,
                       error);
        return;
    }
    if (membership_decode_change(&change->entry, &decoded, &request) < 0)
        return;
    struct peer_refuse refuse = {
        .stream = request.stream, .sequence = request.sequence, .error = error};
    struct peer_frame_out frame = {.kind = PEER_MESSAGE_REFUSE,
                                   .lane = PEER_LANE_BULK,
                                   .to = request.origin,
                                   .meta_bytes = PEER_REFUSE_BYTES};
    uint8_t *meta = peers_send_begin(driver->node->peers->peers, &frame);
    if (meta == NULL)
        return; /* its own deadline answers it */
    peer_codec_encode_refuse(meta, &refuse);
    peers_send_end(driver->node->peers->peers, &frame);
}

static void changes_propose(struct forward *forward)
{
    struct raft_driver *driver = forward->driver;
    for (uint32_t i = 0; i < forward->change_count;) {
        struct change *change = &forward->changes[i];
        if (change->proposal != NULL && change->proposal->finished) {
            change_remove(forward, i);
            continue;
        }
        int error = change_propose(driver, change);
        bool waits = error == ERR_DROPPED || error == ERR_FULL || error == ERR_TOO_MANY_REQUESTS;
        if (waits && core_now_ns(driver->core) < change->give_up_ns) {
            i++;
        } else if (error == ERR_CANCELED) {
            change_drop(forward, i); /* who asked meets it in the log */
        } else if (error < 0) {
            change_refuse(driver, change, waits ? ERR_TIMEOUT : error);
            change_drop(forward, i);
        } else {
            if (change->proposal != NULL)
                proposal_enter_log(change->proposal);
            change_remove(forward, i);
        }
    }
}

/* ---- at the leader -------------------------------------------------------------------------- */

/* True when consensus took some and there may be more. */
static bool propose_own(struct raft_driver *driver, struct forward *forward)
{
    struct entry entries[BATCH_ENTRIES];
    struct proposal *taken[BATCH_ENTRIES];
    uint32_t count = 0;
    struct queue_link *link =
        pending_peek(&driver->pending) == NULL ? NULL : driver->pending.queue.first;
    for (; link != NULL && count < BATCH_ENTRIES; link = link->next) {
        struct proposal *proposal = container_of(link, struct proposal, link);
        if (proposal->entry_type != ENTRY_NORMAL || proposal->finished)
            break;
        taken[count] = proposal;
        entries[count++] = proposal_entry(proposal);
    }
    if (count == 0 && link == NULL)
        return false;
    if (count == 0) {
        struct proposal *proposal = container_of(link, struct proposal, link);
        struct entry entry = proposal_entry(proposal);
        pending_divert(&driver->pending, proposal);
        change_add(forward, &entry, proposal);
        return true;
    }
    uint64_t first = 0;
    if (raft_propose(&driver->raft, entries, count, &first) < 0)
        return false; /* they stay queued until it can; their deadline bounds it */
    for (uint32_t i = 0; i < count; i++) {
        pending_pop(&driver->pending, taken[i]);
        proposal_enter_log(taken[i]);
    }
    return true;
}

static bool propose_foreign(struct raft_driver *driver, struct forward *forward)
{
    struct foreign *foreign = forward->first;
    if (foreign == NULL)
        return false;
    struct entry *entries = foreign->entries + foreign->at;
    uint32_t count = (uint32_t)u64_min(BATCH_ENTRIES, foreign->count - foreign->at);
    uint64_t first = 0;
    if (entries[0].type != ENTRY_NORMAL) {
        change_add(forward, &entries[0], NULL);
        count = 1;
    } else {
        uint32_t normal = 1;
        while (normal < count && entries[normal].type == ENTRY_NORMAL)
            normal++;
        count = normal;
        if (raft_propose(&driver->raft, entries, count, &first) < 0)
            return false;
    }
    foreign->at += count;
    if (foreign->at == foreign->count)
        foreign_pop(forward);
    return true;
}

/* Writes that tables and memtables cannot take yet wait here, before the log, so that the apply
 * loop has no need to. While an alarm makes every member refuse puts when they are executed, what
 * has an effect frees space, or is the operator's: that goes on into the memory beyond full. */
static bool tables_admit(const struct node *node)
{
    bool puts_refused = alarm_admit_write(&node->shared, true) < 0;
    return lsm_pressure(node->lsm) < (puts_refused ? FREEING_PRESSURE_MAX : LSM_PRESSURE_FULL);
}

/* Our own and others' take turns. */
static void propose_all(struct raft_driver *driver, struct forward *forward)
{
    bool more = true;
    while (more && tables_admit(driver->node)) {
        more = propose_own(driver, forward);
        more |= propose_foreign(driver, forward);
    }
    changes_propose(forward);
}

static bool entry_is_from(const struct entry *entry, uint64_t from)
{
    struct raft_config_change change;
    struct request request;
    int error = entry->type == ENTRY_NORMAL
                    ? request_decode(&request, bytes_make(entry->payload, entry->payload_bytes))
                    : membership_decode_change(entry, &change, &request);
    return error == 0 && request.origin == from &&
           (request.stream < CONFIG_CORES_MAX || request.stream == REQUEST_STREAM_MEMBERS);
}

int forward_received(struct forward *forward, const struct peer_input *input)
{
    struct raft_driver *driver = forward->driver;
    struct entry *entries = driver->node->peers->entries;
    uint32_t count;
    int error = peer_codec_decode_forward(input, entries, &count);
    for (uint32_t i = 0; error == 0 && i < count; i++)
        if (!entry_is_from(&entries[i], input->header.from))
            error = ERR_MALFORMED;
    if (error < 0 || driver->raft.role != RAFT_ROLE_LEADER)
        return error; /* who does not lead drops it; the sender hears of the leader and repeats */
    struct foreign *foreign = malloc(sizeof(*foreign) + count * sizeof(struct entry));
    if (foreign == NULL)
        return ERR_FULL;
    received_hold(received_of(forward), input->body, entries, count);
    *foreign = (struct foreign){.count = count};
    memcpy(foreign->entries, entries, count * sizeof(struct entry));
    *forward->last_next = foreign;
    forward->last_next = &foreign->next;
    return 0;
}

/* ---- at the others -------------------------------------------------------------------------- */

/* One frame with as many as fit. False: nothing was sent. */
static bool send_frame(struct raft_driver *driver, uint64_t to)
{
    struct pending *pending = &driver->pending;
    struct entry entries[FRAME_ENTRIES];
    uint64_t bytes = 0;
    uint32_t count = 0;
    struct queue_link *link = pending_peek(pending) == NULL ? NULL : pending->queue.first;
    for (; link != NULL && count < FRAME_ENTRIES; link = link->next) {
        const struct proposal *proposal = container_of(link, struct proposal, link);
        uint64_t after = bytes + proposal->payload_bytes;
        if (proposal->finished || (count > 0 && after > FRAME_BYTES) ||
            pending->forwarded_bytes + after > FORWARD_WINDOW_BYTES + FRAME_BYTES)
            break;
        entries[count++] = proposal_entry(proposal);
        bytes = after;
    }
    if (count == 0 || pending->forwarded_bytes > FORWARD_WINDOW_BYTES)
        return false;
    struct peer_frame_out frame = {.kind = PEER_MESSAGE_FORWARD,
                                   .lane = PEER_LANE_BULK,
                                   .to = to,
                                   .meta_bytes = peer_codec_forward_bytes(count),
                                   .payload_bytes = (uint32_t)bytes};
    uint8_t *meta = peers_send_begin(driver->node->peers->peers, &frame);
    if (meta == NULL)
        return false;
    uint8_t *payload = peer_codec_encode_forward(meta, entries, count);
    for (uint32_t i = 0; i < count; i++) {
        struct proposal *proposal = pending_peek(pending);
        memcpy(payload, proposal->payload, proposal->payload_bytes);
        payload += proposal->payload_bytes;
        pending_pop(pending, proposal);
        proposal->forwarded = true;
        proposal->copies++;
    }
    pending->forwarded_bytes += bytes;
    peers_send_end(driver->node->peers->peers, &frame);
    return true;
}

int forward_refused(struct forward *forward, const struct peer_input *input)
{
    struct raft_driver *driver = forward->driver;
    struct peer_refuse refuse;
    int error = peer_codec_decode_refuse(input, &refuse);
    if (error < 0 || refuse.stream != REQUEST_STREAM_MEMBERS)
        return error < 0 ? error : ERR_MALFORMED;
    if (input->header.from != driver->raft.leader)
        return 0; /* an earlier leader's word */
    pending_refuse(&driver->pending, refuse.stream, refuse.sequence, 1, refuse.error);
    return 0;
}

void forward_restart(struct forward *forward)
{
    forward->restart = true;
}

void forward_turn(struct forward *forward)
{
    struct raft_driver *driver = forward->driver;
    const struct raft *raft = &driver->raft;
    if (forward->restart) {
        forward->restart = false;
        for (uint32_t i = forward->change_count; i-- > 0;)
            if (forward->changes[i].proposal != NULL || raft->role != RAFT_ROLE_LEADER)
                change_drop(forward, i);
        pending_requeue(&driver->pending);
    }
    if (raft->role == RAFT_ROLE_LEADER) {
        if (raft->transferee == 0)
            propose_all(driver, forward);
        return;
    }
    foreign_drop_all(forward);
    while (raft->leader != 0 && send_frame(driver, raft->leader)) {
    }
}

void forward_destroy(struct forward *forward)
{
    foreign_drop_all(forward);
    while (forward->change_count > 0)
        change_drop(forward, forward->change_count - 1);
    free(forward);
}
