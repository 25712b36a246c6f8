#include "consensus/raft_log.h"

#include "core/err.h"
#include "core/invariant.h"

/* The sums are recomputed only over windows that a test uses: production windows are large. */
#define CHECK_ENTRIES_MAX 1024

void raft_log_init(struct raft_log *log, const struct raft_storage *storage, struct entry *window,
                   uint32_t window_entries)
{
    invariant(u64_is_power_of_two(window_entries));
    *log =
        (struct raft_log){.storage = *storage, .window = window, .window_mask = window_entries - 1};
}

static struct entry *raft_log_slot(const struct raft_log *log, uint64_t index)
{
    verify(index > log->base_index && index <= log->last_index);
    return &log->window[index & log->window_mask];
}

const struct entry *raft_log_entry(const struct raft_log *log, uint64_t index)
{
    if (index <= log->base_index || index > log->last_index)
        return NULL;
    const struct entry *entry = raft_log_slot(log, index);
    invariant(entry->index == index);
    return entry;
}

int raft_log_lookup(const struct raft_log *log, uint64_t index, struct entry *entry)
{
    if (index <= log->compacted_index)
        return ERR_COMPACTED;
    if (index > log->last_index)
        return ERR_UNAVAILABLE;
    const struct entry *held = raft_log_entry(log, index);
    if (held != NULL) {
        *entry = *held;
        return 0;
    }
    if (log->storage.lookup == NULL)
        return ERR_UNAVAILABLE;
    *entry = (struct entry){.index = index};
    return log->storage.lookup(log->storage.context, index, entry);
}

int raft_log_term(const struct raft_log *log, uint64_t index, uint64_t *term)
{
    if (index > log->base_index && index <= log->last_index) {
        *term = raft_log_slot(log, index)->term;
        return 0;
    }
    if (index == log->base_index) {
        *term = log->base_term;
        return 0;
    }
    if (index == log->compacted_index) {
        *term = log->compacted_term;
        return 0;
    }
    struct entry entry;
    int error = raft_log_lookup(log, index, &entry);
    if (error == 0)
        *term = entry.term;
    return error;
}

uint64_t raft_log_last_term(const struct raft_log *log)
{
    return log->last_index > log->base_index ? raft_log_slot(log, log->last_index)->term
                                             : log->base_term;
}

bool raft_log_matches(const struct raft_log *log, uint64_t index, uint64_t term)
{
    uint64_t own = 0;
    return raft_log_term(log, index, &own) == 0 && own == term;
}

bool raft_log_up_to_date(const struct raft_log *log, uint64_t index, uint64_t term)
{
    uint64_t last_term = raft_log_last_term(log);
    if (planted_bug(longer_log_wins))
        return index >= log->last_index;
    return term > last_term || (term == last_term && index >= log->last_index);
}

uint32_t raft_log_fit(const struct raft_log *log, uint64_t first, uint64_t last, uint64_t bytes_max,
                      uint32_t count_max, uint64_t *bytes)
{
    uint32_t count = 0;
    *bytes = 0;
    for (uint64_t index = first; index <= last && count < count_max; index++) {
        struct entry stored;
        const struct entry *entry = raft_log_entry(log, index);
        if (entry == NULL) {
            if (raft_log_lookup(log, index, &stored) != 0)
                break;
            entry = &stored;
        }
        if (count > 0 && *bytes + entry->payload_bytes > bytes_max)
            break;
        *bytes += entry->payload_bytes;
        count++;
    }
    return count;
}

static void raft_log_release(struct raft_log *log, const struct entry *entry)
{
    if (log->storage.release != NULL)
        log->storage.release(log->storage.context, entry);
}

/* Drops the oldest entry of the window. Its term stays known as base_term. */
static void raft_log_release_oldest(struct raft_log *log)
{
    struct entry *entry = raft_log_slot(log, log->base_index + 1);
    invariant(entry->index == log->base_index + 1);
    invariant(entry->index <= log->durable_index); /* L3 */
    invariant(log->window_bytes >= entry->payload_bytes);
    log->window_bytes -= entry->payload_bytes;
    if (entry->index > log->applied_index)
        log->unapplied_bytes -= entry->payload_bytes;
    log->base_index = entry->index;
    log->base_term = entry->term;
    raft_log_release(log, entry);
}

void raft_log_release_to(struct raft_log *log, uint64_t index)
{
    uint64_t to = u64_min(index, log->durable_index);
    while (log->base_index < to)
        raft_log_release_oldest(log);
}

uint64_t raft_log_room(struct raft_log *log, uint64_t wanted, bool forced)
{
    uint64_t size = log->window_mask + 1;
    uint64_t free = size - (log->last_index - log->base_index);
    if (free < wanted) {
        uint64_t limit =
            forced ? log->durable_index : u64_min(log->applied_index, log->durable_index);
        raft_log_release_to(log, u64_min(limit, log->base_index + (wanted - free)));
        free = size - (log->last_index - log->base_index);
    }
    return free;
}

void raft_log_append(struct raft_log *log, const struct entry *entry)
{
    invariant(log->last_index - log->base_index <= log->window_mask);
    invariant(entry->index == log->last_index + 1);
    invariant(entry->term >= raft_log_last_term(log)); /* L4 */
    log->last_index++;
    *raft_log_slot(log, log->last_index) = *entry;
    log->window_bytes += entry->payload_bytes;
    log->unapplied_bytes += entry->payload_bytes;
    if (entry->type == ENTRY_CONFIG_CHANGE)
        log->config_index = entry->index;
}

void raft_log_truncate(struct raft_log *log, uint64_t index)
{
    invariant(index > log->committed_index); /* L5 */
    invariant(index > log->compacted_index);
    while (log->last_index >= index && log->last_index > log->base_index) {
        struct entry *entry = raft_log_slot(log, log->last_index);
        log->window_bytes -= entry->payload_bytes;
        log->unapplied_bytes -= entry->payload_bytes;
        log->last_index--;
        if (!planted_bug(payload_leaks))
            raft_log_release(log, entry);
    }
    if (log->last_index >= index) { /* the cut lies below the window */
        sometimes(true, "raft: the log is cut below its window");
        uint64_t term = 0;
        int error = raft_log_term(log, index - 1, &term);
        invariant(error == 0); /* the caller compared it a moment ago */
        log->last_index = index - 1;
        log->base_index = index - 1;
        log->base_term = term;
    }
    log->issued_index = u64_min(log->issued_index, log->last_index);
    log->durable_index = u64_min(log->durable_index, log->last_index);
    if (log->faulty_index > log->last_index)
        log->faulty_index = 0; /* another leader's history replaces what was lost */
}

uint64_t raft_log_find_conflict(const struct raft_log *log, uint64_t index, uint64_t term,
                                uint64_t *found_term)
{
    *found_term = 0;
    for (uint64_t at = index; at > 0; at--) {
        uint64_t own = 0;
        if (raft_log_term(log, at, &own) != 0)
            return at; /* unknown: it may match */
        if (own <= term) {
            *found_term = own;
            return at;
        }
    }
    return 0;
}

void raft_log_commit_to(struct raft_log *log, uint64_t index)
{
    if (index <= log->committed_index)
        return;
    invariant(index <= log->last_index);
    log->committed_index = index;
}

void raft_log_applied_to(struct raft_log *log, uint64_t index)
{
    invariant(index <= log->applying_index);
    for (uint64_t at = u64_max(log->applied_index, log->base_index) + 1; at <= index; at++) {
        uint32_t bytes = raft_log_slot(log, at)->payload_bytes;
        invariant(log->unapplied_bytes >= bytes);
        log->unapplied_bytes -= bytes;
    }
    log->applied_index = u64_max(log->applied_index, index);
}

uint64_t raft_log_sound_to(const struct raft_log *log, uint64_t index)
{
    if (log->faulty_index == 0 || planted_bug(lost_entry_acknowledged))
        return index;
    return u64_min(index, log->faulty_index - 1);
}

void raft_log_durable_to(struct raft_log *log, uint64_t index, uint64_t term)
{
    if (index <= log->durable_index || index > log->issued_index)
        return;
    if (!raft_log_matches(log, index, term))
        return; /* the tail was replaced meanwhile */
    log->durable_index = index;
}

void raft_log_compact(struct raft_log *log, uint64_t index)
{
    if (index <= log->compacted_index)
        return;
    invariant(index <= log->applied_index);
    uint64_t term = 0;
    int error = raft_log_term(log, index, &term);
    invariant(error == 0);
    raft_log_release_to(log, index);
    invariant(log->base_index >= index); /* applied, hence durable, hence released */
    log->compacted_index = index;
    log->compacted_term = term;
}

void raft_log_restore(struct raft_log *log, const struct raft_snapshot *snapshot)
{
    invariant(snapshot->index > log->committed_index);
    while (log->last_index > log->base_index) {
        struct entry *entry = raft_log_slot(log, log->last_index);
        log->last_index--;
        raft_log_release(log, entry);
    }
    log->compacted_index = log->base_index = snapshot->index;
    log->compacted_term = log->base_term = snapshot->term;
    log->last_index = log->committed_index = snapshot->index;
    log->issued_index = log->durable_index = snapshot->index;
    log->faulty_index = 0;
    log->window_bytes = 0;
    log->unapplied_bytes = 0;
}

void raft_log_restored(struct raft_log *log, uint64_t index)
{
    invariant(index == log->compacted_index);
    invariant(log->applied_index < index);
    log->applied_index = index;
    log->applying_index = index;
}

bool raft_log_has_unapplied_config(struct raft_log *log)
{
    if (log->config_index <= log->applied_index)
        return false;
    uint64_t to = u64_min(log->committed_index, log->config_index);
    for (uint64_t index = log->applied_index + 1; index <= to; index++) {
        struct entry entry;
        if (raft_log_lookup(log, index, &entry) != 0)
            return true; /* cannot tell: the careful answer */
        if (entry.type == ENTRY_CONFIG_CHANGE)
            return true;
    }
    return false;
}

void raft_log_check(const struct raft_log *log)
{
    invariant(log->applied_index <= log->applying_index);
    invariant(log->applying_index <= log->committed_index); /* L1 */
    invariant(log->committed_index <= log->last_index);
    invariant(log->issued_index <= log->last_index); /* L2 */
    invariant(log->durable_index <= log->issued_index);
    invariant(log->applying_index <= log->durable_index);
    invariant(log->base_index <= log->durable_index); /* L3 */
    invariant(log->base_index >= log->compacted_index);
    invariant(log->last_index - log->base_index <= log->window_mask + 1); /* L6 */
    if (log->faulty_index != 0) {                                         /* L7 */
        invariant(log->faulty_index > log->applying_index);
        invariant(log->faulty_index <= log->durable_index);
    }
    if (log->last_index - log->base_index > CHECK_ENTRIES_MAX)
        return;
    uint64_t bytes = 0;
    uint64_t unapplied = 0;
    uint64_t term = log->base_term;
    for (uint64_t index = log->base_index + 1; index <= log->last_index; index++) {
        const struct entry *entry = raft_log_slot(log, index);
        invariant(entry->index == index);
        invariant(entry->term >= term); /* L4 */
        term = entry->term;
        bytes += entry->payload_bytes;
        if (index > log->applied_index)
            unapplied += entry->payload_bytes;
    }
    invariant(bytes == log->window_bytes);
    invariant(unapplied == log->unapplied_bytes); /* L6 */
}
