#include "server/proposal.h"

#include <stdlib.h>

#include "core/invariant.h"

struct proposal *proposal_create(uint32_t home_core, uint32_t body_bytes)
{
    invariant(body_bytes <= ENTRY_PAYLOAD_BYTES_MAX - REQUEST_HEADER_BYTES);
    uint32_t payload_bytes = REQUEST_HEADER_BYTES + body_bytes;
    struct proposal *proposal = malloc(sizeof(*proposal) + payload_bytes);
    if (proposal == NULL)
        return NULL;
    queue_link_init(&proposal->link);
    proposal->call = NULL;
    proposal->deadline_ns = 0;
    proposal->home_core = home_core;
    proposal->released = proposal->finished = false;
    proposal->error = 0;
    arena_init(&proposal->arena, PROPOSAL_RESULT_BYTES_MAX);
    proposal->payload_bytes = payload_bytes;
    proposal->payload_crc = 0;
    return proposal;
}

void proposal_destroy(struct proposal *proposal)
{
    invariant(proposal->link.next == QUEUE_LINK_IDLE);
    arena_deinit(&proposal->arena);
    free(proposal);
}
