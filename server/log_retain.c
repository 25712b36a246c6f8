#include "server/log_retain.h"

uint64_t log_retain_limit(const struct log_notes *notes, const struct log_retain *retain)
{
    uint64_t limit = log_notes_excess(notes, retain->contained, retain->tail_bytes);
    if (retain->wanted >= limit || retain->space_low)
        return limit;
    return u64_max(retain->wanted, log_notes_excess(notes, limit, LOG_HELD_BYTES));
}

void log_unflushed_add(struct log_unflushed *unflushed, uint64_t bytes, uint64_t entries)
{
    unflushed->bytes += bytes;
    unflushed->entries += entries;
}

bool log_unflushed_is_long(struct log_unflushed *unflushed, uint64_t flushed_index, bool space_low)
{
    bool moved = flushed_index != unflushed->flushed_index;
    bool is_long =
        !moved && (unflushed->entries >= LOG_FLUSH_ENTRIES ||
                   unflushed->bytes >= (space_low ? LOG_FLUSH_LOW_BYTES : LOG_FLUSH_BYTES));
    if (moved || is_long)
        *unflushed = (struct log_unflushed){.flushed_index = flushed_index};
    return is_long;
}
