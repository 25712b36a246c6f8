#include "server/received.h"

#include <stdlib.h>

#include "core/invariant.h"

static uint32_t slot_take(struct received *received)
{
    if (received->free == 0) {
        uint32_t count = (uint32_t)u64_max(64, received->slot_count * 2);
        received->slots = realloc(received->slots, count * sizeof(*received->slots));
        if (received->slots == NULL)
            fatal("out of memory for received log entries");
        for (uint32_t i = count; i-- > received->slot_count;) {
            received->slots[i] = (struct received_slot){.next_free = received->free};
            received->free = i + 1;
        }
        received->slot_count = count;
    }
    uint32_t tag = received->free;
    received->free = received->slots[tag - 1].next_free;
    return tag;
}

void received_hold(struct received *received, struct peer_body *body, struct entry *entries,
                   uint32_t entry_count)
{
    uint32_t live = 0;
    for (uint32_t i = 0; i < entry_count; i++)
        live += entries[i].payload_bytes > 0;
    if (live == 0)
        return;
    invariant(body != NULL);
    uint32_t tag = slot_take(received);
    peer_body_keep(body);
    received->slots[tag - 1].body = body;
    received->slots[tag - 1].live = live;
    for (uint32_t i = 0; i < entry_count; i++)
        entries[i].tag = entries[i].payload_bytes > 0 ? tag : 0;
}

void received_release(struct received *received, uint32_t tag)
{
    invariant(tag > 0 && tag <= received->slot_count);
    struct received_slot *slot = &received->slots[tag - 1];
    invariant(slot->body != NULL && slot->live > 0);
    if (--slot->live > 0)
        return;
    peer_body_release(slot->body);
    slot->body = NULL;
    slot->next_free = received->free;
    received->free = tag;
}

void received_drop(struct received *received, const struct entry *entries, uint32_t entry_count)
{
    for (uint32_t i = 0; i < entry_count; i++)
        if (entries[i].payload_bytes > 0)
            received_release(received, entries[i].tag);
}

void received_deinit(struct received *received)
{
    for (uint32_t i = 0; i < received->slot_count; i++)
        if (received->slots[i].body != NULL)
            peer_body_release(received->slots[i].body);
    free(received->slots);
    *received = (struct received){0};
}
