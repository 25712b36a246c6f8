#include "server/member_request.h"

#include <stdlib.h>

#include "core/fiber.h"
#include "core/invariant.h"
#include "server/node_private.h"
#include "server/raft_driver.h"

struct member_requests *member_requests_create(struct node *node)
{
    struct member_requests *requests = calloc(1, sizeof(*requests));
    if (requests == NULL)
        return NULL;
    requests->node = node;
    requests->sequence = node->identity.incarnation << REQUEST_SEQUENCE_START_BITS;
    fiber_waiters_init(&requests->waiters);
    return requests;
}

void member_requests_destroy(struct member_requests *requests)
{
    free(requests);
}

static struct raft_change change_of(enum request_kind kind, const struct member *member)
{
    struct raft_change change = {.id = member->id, .kind = RAFT_CHANGE_UPDATE};
    if (kind == REQUEST_MEMBER_ADD && member->learner)
        change.kind = RAFT_CHANGE_ADD_LEARNER;
    else if (kind == REQUEST_MEMBER_ADD || kind == REQUEST_MEMBER_PROMOTE)
        change.kind = RAFT_CHANGE_ADD_VOTER;
    else if (kind == REQUEST_MEMBER_REMOVE)
        change.kind = RAFT_CHANGE_REMOVE;
    return change;
}

static bool changes_quorum(enum request_kind kind)
{
    return kind == REQUEST_MEMBER_ADD || kind == REQUEST_MEMBER_REMOVE ||
           kind == REQUEST_MEMBER_PROMOTE;
}

struct proposal *member_request_make(struct node *node, enum request_kind kind,
                                     const struct member *member)
{
    struct proposal *proposal = NULL;
    uint8_t *body = malloc(MEMBER_BYTES_MAX);
    if (body == NULL)
        return NULL;
    struct request request = {.kind = kind,
                              .origin = node->identity.member_id,
                              .stream = REQUEST_STREAM_MEMBERS,
                              .sequence = ++node->member_requests->sequence,
                              .body = bytes_make(body, member_encode(member, body))};
    if (changes_quorum(kind)) {
        struct raft_config_change change = {
            .transition = RAFT_TRANSITION_AUTO, .count = 1, .changes = {change_of(kind, member)}};
        proposal = proposal_create_change(node->map.raft, &change, &request);
    } else {
        proposal = proposal_create(node->map.raft, (uint32_t)request.body.size);
        if (proposal != NULL)
            proposal_fill(proposal, &request);
    }
    free(body);
    return proposal;
}

static void request_done(struct proposal *proposal)
{
    fiber_event_signal(proposal->done_context);
}

/* Its turn has come. */
static int propose_and_wait(struct node *node, enum request_kind kind, const struct member *member,
                            uint64_t deadline_ns)
{
    struct raft_driver *driver = node->raft;
    struct fiber_event done;
    struct proposal *proposal = member_request_make(node, kind, member);
    if (proposal == NULL)
        return ERR_TOO_MANY_REQUESTS;
    fiber_event_init(&done);
    proposal->done = request_done;
    proposal->done_context = &done;
    proposal->deadline_ns = deadline_ns;
    pending_add(&driver->pending, proposal);
    fiber_event_wait(&done);
    int error = proposal->error;
    proposal_destroy(proposal);
    return error;
}

static int check_now(struct node *node, enum request_kind kind, const struct member *member,
                     uint64_t deadline_ns)
{
    const struct raft_driver *driver = node->raft;
    if (driver->stopping)
        return ERR_STOPPED;
    if (core_now_ns(driver->core) >= deadline_ns)
        return ERR_TIMEOUT;
    return membership_check(&node->membership, kind, member);
}

int member_request_if(struct node *node, enum request_kind kind, const struct member *member,
                      int (*allowed)(void *context), void *context)
{
    struct member_requests *requests = node->member_requests;
    uint64_t deadline_ns = core_now_ns(node->raft->core) + node_request_timeout_ns(node);
    invariant(fiber_current() != NULL);
    while (requests->busy)
        fiber_waiters_park(&requests->waiters);
    requests->busy = true;
    int error = check_now(node, kind, member, deadline_ns);
    if (error == 0 && allowed != NULL)
        error = allowed(context);
    if (error == 0)
        error = propose_and_wait(node, kind, member, deadline_ns);
    requests->busy = false;
    fiber_waiters_wake_one(&requests->waiters);
    return error;
}

int member_request(struct node *node, enum request_kind kind, const struct member *member)
{
    return member_request_if(node, kind, member, NULL, NULL);
}

static bool urls_equal(const struct config_urls *a, const struct config_urls *b)
{
    bool equal = a->count == b->count;
    for (uint32_t i = 0; equal && i < a->count; i++)
        equal = strcmp(a->url[i].text, b->url[i].text) == 0;
    return equal;
}

int member_publish(struct node *node)
{
    const struct config *config = node->config;
    const struct member *known = member_find(&node->membership.set, node->identity.member_id);
    struct member own = {.id = node->identity.member_id,
                         .life = node->identity.life,
                         .client = config->advertise_client};
    if (known != NULL && known->life == own.life && strcmp(known->name, config->name) == 0 &&
        urls_equal(&known->client, &config->advertise_client))
        return 0;
    memcpy(own.name, config->name, sizeof(own.name));
    return member_request(node, REQUEST_MEMBER_PUBLISH, &own);
}
