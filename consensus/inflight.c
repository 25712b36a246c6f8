#include "consensus/inflight.h"

#include "core/invariant.h"

void inflights_init(struct raft_inflights *inflights, struct raft_inflight_slot *slots,
                    uint32_t count_max, uint64_t bytes_max)
{
    invariant(count_max > 0 && slots != NULL);
    *inflights =
        (struct raft_inflights){.slots = slots, .count_max = count_max, .bytes_max = bytes_max};
}

void inflights_reset(struct raft_inflights *inflights)
{
    inflights->start = 0;
    inflights->count = 0;
    inflights->bytes = 0;
}

bool inflights_full(const struct raft_inflights *inflights)
{
    invariant(inflights->count <= inflights->count_max);
    return inflights->count == inflights->count_max ||
           (inflights->bytes_max != 0 && inflights->bytes >= inflights->bytes_max);
}

void inflights_add(struct raft_inflights *inflights, uint64_t last_index, uint64_t bytes)
{
    invariant(!inflights_full(inflights));
    uint32_t at = (inflights->start + inflights->count) % inflights->count_max;
    inflights->slots[at] = (struct raft_inflight_slot){.last_index = last_index, .bytes = bytes};
    inflights->count++;
    inflights->bytes += bytes;
}

void inflights_free_to(struct raft_inflights *inflights, uint64_t index)
{
    while (inflights->count > 0 && inflights->slots[inflights->start].last_index <= index) {
        invariant(inflights->bytes >= inflights->slots[inflights->start].bytes);
        inflights->bytes -= inflights->slots[inflights->start].bytes;
        inflights->start = (inflights->start + 1) % inflights->count_max;
        inflights->count--;
    }
    if (inflights->count == 0)
        invariant(inflights->bytes == 0);
}
