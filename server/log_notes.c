#include "server/log_notes.h"

#include <stdlib.h>

#include "core/invariant.h"

#define CONFIG_BIT ((uint32_t)1 << 31)
#define SLOTS_MIN  4096

void log_notes_init(struct log_notes *notes, uint64_t first)
{
    memset(notes, 0, sizeof(*notes));
    notes->first = first;
    notes->mask = SLOTS_MIN - 1;
    notes->sizes = calloc(SLOTS_MIN, sizeof(*notes->sizes));
    if (notes->sizes == NULL)
        fatal("out of memory for notes of the log");
}

void log_notes_deinit(struct log_notes *notes)
{
    free(notes->sizes);
    free(notes->runs);
    memset(notes, 0, sizeof(*notes));
}

static void grow(struct log_notes *notes)
{
    uint64_t slots = (notes->mask + 1) * 2;
    uint32_t *sizes = malloc(slots * sizeof(*sizes));
    if (sizes == NULL)
        fatal("out of memory for notes of %llu log entries", (unsigned long long)slots);
    for (uint64_t i = notes->first; i < notes->first + notes->count; i++)
        sizes[i & (slots - 1)] = notes->sizes[i & notes->mask];
    free(notes->sizes);
    notes->sizes = sizes;
    notes->mask = slots - 1;
}

static void run_add(struct log_notes *notes, uint64_t index, uint64_t term)
{
    if (notes->run_count > 0 && notes->runs[notes->run_count - 1].term == term)
        return;
    if (notes->run_count == notes->run_max) {
        notes->run_max = (uint32_t)u64_max(16, notes->run_max * 2);
        notes->runs = realloc(notes->runs, notes->run_max * sizeof(*notes->runs));
        if (notes->runs == NULL)
            fatal("out of memory for the terms of the log");
    }
    notes->runs[notes->run_count++] = (struct log_run){.first_index = index, .term = term};
}

static void cut(struct log_notes *notes, uint64_t index)
{
    while (notes->first + notes->count > index) {
        notes->count--;
        notes->bytes -= notes->sizes[(notes->first + notes->count) & notes->mask] & ~CONFIG_BIT;
    }
    while (notes->run_count > 0 && notes->runs[notes->run_count - 1].first_index >= index)
        notes->run_count--;
}

void log_notes_set(struct log_notes *notes, uint64_t index, uint64_t term, uint32_t type,
                   uint32_t payload_bytes)
{
    invariant(index >= notes->first && index <= notes->first + notes->count);
    invariant(payload_bytes < CONFIG_BIT);
    if (index < notes->first + notes->count)
        cut(notes, index);
    if (notes->count > notes->mask)
        grow(notes);
    notes->sizes[index & notes->mask] =
        type == ENTRY_CONFIG_CHANGE ? payload_bytes | CONFIG_BIT : payload_bytes;
    notes->bytes += payload_bytes;
    notes->count++;
    run_add(notes, index, term);
}

void log_notes_learn(struct log_notes *notes, uint64_t index, uint32_t type, uint32_t payload_bytes)
{
    invariant(payload_bytes < CONFIG_BIT);
    if (index < notes->first || index >= notes->first + notes->count)
        return; /* released meanwhile */
    uint32_t *size = &notes->sizes[index & notes->mask];
    notes->bytes += payload_bytes;
    notes->bytes -= *size & ~CONFIG_BIT;
    *size = type == ENTRY_CONFIG_CHANGE ? payload_bytes | CONFIG_BIT : payload_bytes;
}

uint64_t log_notes_bytes(const struct log_notes *notes, uint64_t first, uint64_t last)
{
    uint64_t bytes = 0;
    for (uint64_t index = u64_max(first, notes->first);
         index <= last && index < notes->first + notes->count; index++)
        bytes += notes->sizes[index & notes->mask] & ~CONFIG_BIT;
    return bytes;
}

bool log_notes_has_config(const struct log_notes *notes, uint64_t first, uint64_t last)
{
    uint64_t from = u64_max(first, notes->first);
    for (uint64_t index = from; index <= last && index < notes->first + notes->count; index++)
        if ((notes->sizes[index & notes->mask] & CONFIG_BIT) != 0)
            return true;
    return false;
}

int log_notes_get(const struct log_notes *notes, uint64_t index, struct entry *entry)
{
    if (index < notes->first)
        return ERR_COMPACTED;
    if (index >= notes->first + notes->count)
        return ERR_UNAVAILABLE;
    uint32_t low = 0, high = notes->run_count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (notes->runs[middle].first_index <= index)
            low = middle;
        else
            high = middle;
    }
    uint32_t size = notes->sizes[index & notes->mask];
    *entry = (struct entry){.index = index,
                            .term = notes->runs[low].term,
                            .payload_bytes = size & ~CONFIG_BIT,
                            .type = (size & CONFIG_BIT) != 0 ? (uint32_t)ENTRY_CONFIG_CHANGE
                                                             : (uint32_t)ENTRY_NORMAL};
    return 0;
}

void log_notes_release(struct log_notes *notes, uint64_t index)
{
    while (notes->count > 0 && notes->first <= index) {
        notes->bytes -= notes->sizes[notes->first & notes->mask] & ~CONFIG_BIT;
        notes->first++;
        notes->count--;
    }
    if (notes->count == 0 && notes->first <= index)
        notes->first = index + 1;
    uint32_t gone = 0;
    while (gone + 1 < notes->run_count && notes->runs[gone + 1].first_index <= notes->first)
        gone++;
    if (notes->count == 0)
        gone = notes->run_count;
    notes->run_count -= gone;
    memmove(notes->runs, notes->runs + gone, notes->run_count * sizeof(*notes->runs));
    if (notes->run_count > 0 && notes->runs[0].first_index < notes->first)
        notes->runs[0].first_index = notes->first;
}

uint64_t log_notes_excess(const struct log_notes *notes, uint64_t limit, uint64_t bytes_max)
{
    uint64_t index = notes->first, bytes = notes->bytes;
    for (; bytes > bytes_max && index <= limit && index < notes->first + notes->count; index++)
        bytes -= notes->sizes[index & notes->mask] & ~CONFIG_BIT;
    return index - 1;
}
