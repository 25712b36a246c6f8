#include "server/proposal.h"

#include <stdlib.h>

#include "consensus/config.h"
#include "core/crc32c.h"
#include "core/invariant.h"

static struct proposal *create(uint32_t home_core, uint32_t payload_bytes)
{
    struct proposal *proposal = malloc(sizeof(*proposal) + payload_bytes);
    if (proposal == NULL)
        return NULL;
    queue_link_init(&proposal->link);
    proposal->call = NULL;
    proposal->deadline_ns = 0;
    proposal->home_core = home_core;
    proposal->done = NULL;
    proposal->entry_type = ENTRY_NORMAL;
    proposal->queued = proposal->forwarded = false;
    proposal->in_log = proposal->finished = false;
    proposal->copies = 0;
    proposal->error = 0;
    atomic_init(&proposal->holders, 1);
    arena_init(&proposal->arena, PROPOSAL_RESULT_BYTES_MAX);
    proposal->payload_bytes = payload_bytes;
    proposal->payload_crc = 0;
    return proposal;
}

struct proposal *proposal_create(uint32_t home_core, uint32_t body_bytes)
{
    invariant(body_bytes <= ENTRY_PAYLOAD_BYTES_MAX - REQUEST_HEADER_BYTES);
    return create(home_core, REQUEST_HEADER_BYTES + body_bytes);
}

static void stamp(struct proposal *proposal, const struct request *request)
{
    proposal->kind = request->kind;
    proposal->stream = request->stream;
    proposal->sequence = request->sequence;
    proposal->payload_crc = crc32c(0, proposal->payload, proposal->payload_bytes);
}

void proposal_fill(struct proposal *proposal, const struct request *request)
{
    invariant(proposal->payload_bytes == REQUEST_HEADER_BYTES + request->body.size);
    request_encode_header(proposal->payload, request);
    if (request->body.size > 0)
        memcpy(proposal->payload + REQUEST_HEADER_BYTES, request->body.data, request->body.size);
    stamp(proposal, request);
}

struct proposal *proposal_create_change(uint32_t home_core, const struct raft_config_change *change,
                                        const struct request *request)
{
    struct raft_config_change whole = *change;
    size_t context_bytes = REQUEST_HEADER_BYTES + request->body.size;
    uint8_t *context = malloc(context_bytes);
    if (context == NULL)
        return NULL;
    request_encode_header(context, request);
    memcpy(context + REQUEST_HEADER_BYTES, request->body.data, request->body.size);
    whole.context = bytes_make(context, context_bytes);
    struct proposal *proposal = create(home_core, (uint32_t)raft_config_change_bytes(&whole));
    if (proposal != NULL) {
        raft_config_change_encode(&whole, proposal->payload);
        proposal->entry_type = ENTRY_CONFIG_CHANGE;
        stamp(proposal, request);
    }
    free(context);
    return proposal;
}

struct entry proposal_entry(const struct proposal *proposal)
{
    return (struct entry){.type = proposal->entry_type,
                          .payload = proposal->payload,
                          .payload_bytes = proposal->payload_bytes,
                          .payload_crc = proposal->payload_crc};
}

static void let_go(struct proposal *proposal)
{
    if (atomic_fetch_sub_explicit(&proposal->holders, 1, memory_order_acq_rel) == 1)
        free(proposal);
}

void proposal_destroy(struct proposal *proposal)
{
    invariant(proposal->link.next == QUEUE_LINK_IDLE);
    arena_deinit(&proposal->arena);
    let_go(proposal);
}

void proposal_enter_log(struct proposal *proposal)
{
    invariant(!proposal->in_log);
    proposal->in_log = true;
    proposal->copies++;
    atomic_fetch_add_explicit(&proposal->holders, 1, memory_order_relaxed);
}

void proposal_leave_log(struct proposal *proposal)
{
    invariant(proposal->in_log);
    proposal->in_log = false;
    let_go(proposal);
}
