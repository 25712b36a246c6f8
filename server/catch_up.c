#include "server/catch_up.h"

#include <errno.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "core/logger.h"
#include "server/log_role.h"
#include "server/node_private.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"
#include "server/repair.h"

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
    struct peer_role *role;
    struct core *core;
    struct target targets[RAFT_MEMBERS_MAX];
    uint32_t running;
    bool stopping;
    struct fiber_event *stopped;
};

struct catch_up *catch_up_create(struct peer_role *role, struct core *core)
{
    struct catch_up *catch_up = calloc(1, sizeof(*catch_up));
    if (catch_up == NULL)
        return NULL;
    catch_up->role = role;
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

/* Reads the message's entries and sends them. 0, or why it could not. */
static int target_send(struct catch_up *catch_up, const struct raft_message *message)
{
    struct peer_role *role = catch_up->role;
    struct node *node = role->node;
    const struct entry **pointers = NULL;
    struct log_copy copies[64];
    uint32_t copy_count = 0, have = 0;
    int error = 0;
    if (message->entry_count > 0)
        pointers = malloc(message->entry_count * sizeof(struct entry *));
    if (message->entry_count > 0 && pointers == NULL)
        return -ENOMEM;
    while (have < message->entry_count && error == 0) {
        struct log_copy *copy = &copies[copy_count];
        int64_t read = copy_count == ARRAY_COUNT(copies)
                           ? ERR_LIMIT
                           : log_role_read(node, message->index + 1 + have,
                                           message->index + message->entry_count, 4 * MIB, copy);
        error = read < 0 ? (int)read : read == 0 ? ERR_NOT_FOUND : 0;
        if (error == ERR_CORRUPT)
            repair_found(node->repair, message->index + 1 + have);
        copy_count += error == 0;
        for (uint32_t i = 0; error == 0 && i < copy->entry_count && have < message->entry_count;
             i++)
            pointers[have++] = &copy->entries[i];
    }
    const struct raft *raft = &node->raft->raft;
    if (error == 0 && raft->role == RAFT_ROLE_LEADER && raft->term == message->term)
        peer_role_send_entries(role, message, pointers);
    for (uint32_t i = 0; i < copy_count; i++)
        log_copy_destroy(&copies[i]);
    free(pointers);
    return error;
}

static void target_run(void *argument)
{
    struct target *target = argument;
    struct catch_up *catch_up = target->catch_up;
    struct raft_driver *driver = catch_up->role->node->raft;
    while (target->first != NULL) {
        struct waiting *waiting = target->first;
        target->first = waiting->next;
        if (target->first == NULL)
            target->last_next = &target->first;
        bool current = driver->raft.role == RAFT_ROLE_LEADER &&
                       driver->raft.term == waiting->message.term && !catch_up->stopping;
        int error = current ? target_send(catch_up, &waiting->message) : 0;
        if (error < 0) {
            log_warn("entries for a lagging member cannot be read", LOG_HEX("member", target->to),
                     LOG_U64("index", waiting->message.index + 1), LOG_ERROR(error));
            raft_report_unreachable(&driver->raft, target->to);
        }
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
