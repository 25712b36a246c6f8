#include "server/log_retain.h"

uint64_t log_retain_limit(const struct log_notes *notes, const struct log_retain *retain)
{
    uint64_t limit = log_notes_excess(notes, retain->contained, retain->tail_bytes);
    if (retain->wanted >= limit || retain->space_low)
        return limit;
    return u64_max(retain->wanted, log_notes_excess(notes, limit, LOG_HELD_BYTES));
}
