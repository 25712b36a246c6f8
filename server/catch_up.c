#include "server/catch_up.h"

#include <errno.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"

#define COPIES_MAX 64
#define READ_BYTES (4 * MIB)

struct waiting {
    struct waiting *next;
    struct raft_message message;
};

struct target {
    uint64_t to; /* 0: free */
    struct catch_up *catch_up;
    struct waiting *first, **last_next;
};

struct catch_up {
    const struct catch_up_calls *calls;
    void *context;
    struct core *core;
    struct target targets[RAFT_MEMBERS_MAX];
    uint32_t running;
    bool stopping;
    struct fiber_event *stopped;
};

struct catch_up *catch_up_create(struct core *core, const struct catch_up_calls *calls,
                                 void *context)
{
    struct catch_up *catch_up = calloc(1, sizeof(*catch_up));
    if (catch_up == NULL)
        return NULL;
    catch_up->calls = calls;
    catch_up->context = context;
    catch_up->core = core;
    return catch_up;
}

static struct target *target_find(const struct catch_up *catch_up, uint64_t to)
{
    for (uint32_t i = 0; i < RAFT_MEMBERS_MAX; i++)
        if (catch_up->targets[i].to == to)
            return (struct target *)&catch_up->targets[i];
    return NULL;
}

bool catch_up_is_busy(const struct catch_up *catch_up, uint64_t to)
{
    return target_find(catch_up, to) != NULL;
}

/* Reads the message's entries and sends them. 0, or why it could not; `*index`: of which entry. */
static int target_send(const struct catch_up *catch_up, const struct raft_message *message,
                       uint64_t *index)
{
    const struct catch_up_calls *calls = catch_up->calls;
    uint64_t last = message->index + message->entry_count;
    const struct entry **pointers = calloc(message->entry_count + 1, sizeof(struct entry *));
    struct log_copy copies[COPIES_MAX];
    uint32_t copy_count = 0, have = 0;
    int error = pointers == NULL ? -ENOMEM : 0;
    while (have < message->entry_count && error == 0) {
        *index = message->index + 1 + have;
        if (copy_count == COPIES_MAX) {
            error = ERR_LIMIT;
            break;
        }
        struct log_copy *copy = &copies[copy_count];
        int64_t read = calls->read(catch_up->context, *index, last, READ_BYTES, copy);
        error = read < 0 ? (int)read : read == 0 ? ERR_NOT_FOUND : 0;
        copy_count += error == 0;
        for (uint32_t i = 0; error == 0 && i < copy->entry_count && have < message->entry_count;
             i++)
            pointers[have++] = &copy->entries[i];
    }
    if (error == 0 && calls->is_current(catch_up->context, message->term))
        calls->send(catch_up->context, message, pointers);
    for (uint32_t i = 0; i < copy_count; i++)
        log_copy_destroy(&copies[i]);
    free(pointers);
    return error;
}

static void target_run(void *argument)
{
    struct target *target = argument;
    struct catch_up *catch_up = target->catch_up;
    const struct catch_up_calls *calls = catch_up->calls;
    while (target->first != NULL) {
        struct waiting *waiting = target->first;
        uint64_t index = 0;
        target->first = waiting->next;
        if (target->first == NULL)
            target->last_next = &target->first;
        bool wanted =
            !catch_up->stopping && calls->is_current(catch_up->context, waiting->message.term);
        int error = wanted ? target_send(catch_up, &waiting->message, &index) : 0;
        if (error < 0)
            calls->failed(catch_up->context, target->to, index, error);
        free(waiting);
    }
    target->to = 0;
    if (--catch_up->running == 0 && catch_up->stopped != NULL)
        fiber_event_signal(catch_up->stopped);
}

void catch_up_queue(struct catch_up *catch_up, const struct raft_message *message)
{
    struct target *target = target_find(catch_up, message->to);
    bool idle = target == NULL;
    if (idle)
        target = target_find(catch_up, 0);
    struct waiting *waiting = malloc(sizeof(*waiting));
    if (target == NULL || waiting == NULL || catch_up->stopping) {
        free(waiting); /* lost like any message; Raft sends again */
        return;
    }
    *waiting = (struct waiting){.message = *message};
    if (idle) {
        *target = (struct target){.to = message->to, .catch_up = catch_up};
        target->last_next = &target->first;
        if (fiber_spawn(catch_up->core, FIBER_LATENCY, target_run, target) < 0) {
            target->to = 0;
            free(waiting);
            return;
        }
        catch_up->running++;
    }
    *target->last_next = waiting;
    target->last_next = &waiting->next;
}

void catch_up_destroy(struct catch_up *catch_up)
{
    struct fiber_event stopped;
    catch_up->stopping = true;
    fiber_event_init(&stopped);
    catch_up->stopped = &stopped;
    if (catch_up->running > 0)
        fiber_event_wait(&stopped);
    free(catch_up);
}
