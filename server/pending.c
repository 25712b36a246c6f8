#include "server/pending.h"

#include "core/invariant.h"
#include "server/message.h"

/* What a client was told by its connection core at the deadline lags a little. */
#define EXPIRE_GRACE_NS (1 * NS_PER_S)

void pending_init(struct pending *pending, struct core *core)
{
    memset(pending, 0, sizeof(*pending));
    pending->core = core;
    queue_init(&pending->queue, QUEUE_UNBOUNDED); /* bounded by the connection cores' windows */
}

static uint32_t slot_of(uint16_t stream)
{
    uint32_t slot = stream == REQUEST_STREAM_MEMBERS ? PENDING_STREAMS - 1 : stream;
    invariant(slot < PENDING_STREAMS);
    return slot;
}

static void enqueue(struct pending *pending, struct proposal *proposal)
{
    proposal->queued = true;
    queue_append(&pending->queue, &proposal->link);
}

void pending_add(struct pending *pending, struct proposal *proposal)
{
    uint32_t slot = slot_of(proposal->stream);
    struct proposal *newest = pending->streams[slot].newest;
    invariant(newest == NULL || newest->sequence < proposal->sequence); /* Q1 */
    proposal->pending_next = NULL;
    if (newest != NULL)
        newest->pending_next = proposal;
    else
        pending->streams[slot].oldest = proposal;
    pending->streams[slot].newest = proposal;
    pending->count++;
    enqueue(pending, proposal);
}

static void go_home(struct pending *pending, struct proposal *proposal)
{
    if (!proposal->finished || proposal->queued)
        return;
    if (proposal->done != NULL) {
        proposal->done(proposal);
        return;
    }
    struct mesh_message message = {.kind = MESSAGE_PROPOSED, .word = {(uintptr_t)proposal}};
    core_post(pending->core, proposal->home_core, &message);
}

static void unlink_oldest(struct pending *pending, uint32_t slot)
{
    struct proposal *oldest = pending->streams[slot].oldest;
    pending->streams[slot].oldest = oldest->pending_next;
    if (oldest->pending_next == NULL)
        pending->streams[slot].newest = NULL;
    oldest->pending_next = NULL;
    if (oldest->forwarded)
        pending->forwarded_bytes -= oldest->payload_bytes;
    oldest->forwarded = false;
    invariant(pending->count > 0);
    pending->count--;
}

void pending_finish(struct pending *pending, struct proposal *proposal, int error)
{
    invariant(!proposal->finished);
    proposal->error = error;
    proposal->finished = true;
    if (error < 0)
        pending->failed++;
    go_home(pending, proposal);
}

struct proposal *pending_match(struct pending *pending, uint16_t stream, uint64_t sequence)
{
    uint32_t slot = slot_of(stream);
    for (;;) {
        struct proposal *oldest = pending->streams[slot].oldest;
        if (oldest == NULL || oldest->sequence > sequence)
            return NULL;
        unlink_oldest(pending, slot);
        if (oldest->sequence == sequence)
            return oldest;
        pending_finish(pending, oldest, ERR_LEADER_FAILED);
    }
}

void pending_refuse(struct pending *pending, uint16_t stream, uint64_t sequence, uint32_t copies,
                    int error)
{
    uint32_t slot = slot_of(stream);
    struct proposal *oldest = pending->streams[slot].oldest;
    if (oldest == NULL || oldest->sequence != sequence)
        return;
    unlink_oldest(pending, slot);
    pending_finish(pending, oldest, oldest->copies > copies ? ERR_LEADER_FAILED : error);
}

void pending_requeue(struct pending *pending)
{
    struct queue_link *link;
    while ((link = queue_pop(&pending->queue)) != NULL) {
        struct proposal *proposal = container_of(link, struct proposal, link);
        proposal->queued = false;
        go_home(pending, proposal); /* when it is finished already */
    }
    for (uint32_t slot = 0; slot < PENDING_STREAMS; slot++)
        for (struct proposal *proposal = pending->streams[slot].oldest; proposal != NULL;
             proposal = proposal->pending_next) {
            proposal->forwarded = false;
            if (!proposal->in_log)
                enqueue(pending, proposal);
        }
    pending->forwarded_bytes = 0;
}

/* Finished ones at the head of the queue go home. */
static void pending_drop_finished(struct pending *pending)
{
    while (!queue_is_empty(&pending->queue)) {
        struct proposal *proposal = container_of(pending->queue.first, struct proposal, link);
        if (!proposal->finished)
            return;
        pending_pop(pending, proposal);
        go_home(pending, proposal);
    }
}

void pending_expire(struct pending *pending, uint64_t now_ns)
{
    for (uint32_t slot = 0; slot < PENDING_STREAMS; slot++) {
        struct proposal *oldest;
        while ((oldest = pending->streams[slot].oldest) != NULL &&
               oldest->deadline_ns + EXPIRE_GRACE_NS < now_ns) {
            unlink_oldest(pending, slot);
            pending_finish(pending, oldest, ERR_TIMEOUT);
        }
    }
    pending_drop_finished(pending); /* without a leader nobody else looks at the queue */
}

struct proposal *pending_peek(struct pending *pending)
{
    pending_drop_finished(pending);
    if (queue_is_empty(&pending->queue))
        return NULL;
    return container_of(pending->queue.first, struct proposal, link);
}

void pending_pop(struct pending *pending, struct proposal *proposal)
{
    struct queue_link *popped = queue_pop(&pending->queue);
    invariant(popped == &proposal->link);
    proposal->queued = false;
}

void pending_divert(struct pending *pending, struct proposal *proposal)
{
    pending_pop(pending, proposal);
    proposal->queued = true;
}

void pending_settle(struct pending *pending, struct proposal *proposal)
{
    proposal->queued = false;
    go_home(pending, proposal);
}
