/*
 * queue.h - intrusive first-in first-out queue: bounded, and it notices misuse.
 *
 * Owner     Whoever embeds it. Not movable once initialised: last_next points into it.
 * Threads   One.
 * Errors    queue_push() answers false when full: back-pressure, never growth.
 */
#ifndef CORE_QUEUE_H
#define CORE_QUEUE_H

#include "core/base.h"
#include "core/invariant.h"

struct queue_link {
    struct queue_link *next; /* QUEUE_LINK_IDLE while on no queue */
};

#define QUEUE_LINK_IDLE ((struct queue_link *)(uintptr_t)1)
#define QUEUE_UNBOUNDED UINT32_MAX /* for queues bounded by a pool of what they link */

struct queue {
    struct queue_link *first, **last_next;
    uint32_t count, count_max;
};

static inline void queue_link_init(struct queue_link *link)
{
    link->next = QUEUE_LINK_IDLE;
}

static inline void queue_init(struct queue *queue, uint32_t count_max)
{
    queue->first = NULL;
    queue->last_next = &queue->first;
    queue->count = 0;
    queue->count_max = count_max;
}

static inline bool queue_is_empty(const struct queue *queue)
{
    return queue->first == NULL;
}

must_check static inline bool queue_push(struct queue *queue, struct queue_link *link)
{
    invariant(link->next == QUEUE_LINK_IDLE); /* double push */
    if (queue->count == queue->count_max)
        return false;
    link->next = NULL;
    *queue->last_next = link;
    queue->last_next = &link->next;
    queue->count++;
    return true;
}

/* For queues that cannot be full. */
static inline void queue_append(struct queue *queue, struct queue_link *link)
{
    bool pushed = queue_push(queue, link);
    invariant(pushed);
}

static inline struct queue_link *queue_pop(struct queue *queue)
{
    struct queue_link *link = queue->first;
    if (link == NULL)
        return NULL;
    queue->first = link->next;
    if (queue->first == NULL)
        queue->last_next = &queue->first;
    queue->count--;
    link->next = QUEUE_LINK_IDLE;
    return link;
}

#endif
