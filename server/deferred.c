#include "server/deferred.h"

#include <stdlib.h>

#include "core/invariant.h"

void deferred_add(struct deferred *deferred, const struct entry *entry, uint64_t sequence)
{
    if (deferred->count == deferred->count_max) {
        deferred->count_max = (uint32_t)u64_max(64, deferred->count_max * 2);
        deferred->entries =
            realloc(deferred->entries, deferred->count_max * sizeof(*deferred->entries));
        if (deferred->entries == NULL)
            fatal("out of memory for payloads that the log still writes");
    }
    invariant(deferred->count == 0 || deferred->entries[deferred->count - 1].sequence <= sequence);
    deferred->entries[deferred->count++] =
        (struct deferred_entry){.entry = *entry, .sequence = sequence};
}

void deferred_run(struct deferred *deferred, uint64_t sequence,
                  void (*release)(void *context, const struct entry *entry), void *context)
{
    uint32_t done = 0;
    while (done < deferred->count && deferred->entries[done].sequence <= sequence)
        release(context, &deferred->entries[done++].entry);
    deferred->count -= done;
    if (done > 0 && deferred->count > 0)
        memmove(deferred->entries, deferred->entries + done,
                deferred->count * sizeof(*deferred->entries));
}

void deferred_deinit(struct deferred *deferred)
{
    free(deferred->entries);
    *deferred = (struct deferred){0};
}
