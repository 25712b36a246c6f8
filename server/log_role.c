#include "server/log_role.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "core/logger.h"
#include "core/probe.h"
#include "server/message.h"
#include "server/node_private.h"
#include "server/remote.h"
#include "server/snapshot_install.h"

#define LOG_PATH_BYTES (CONFIG_TEXT_BYTES + 8)

struct log_role {
    struct node *node;
    struct core *core;
    struct wal *wal;
};

static void batch_durable(struct wal_append *append)
{
    struct log_batch *batch = container_of(append, struct log_batch, wal);
    struct log_role *role = batch->role;
    struct mesh_message message = {.kind = MESSAGE_LOG_DURABLE, .word = {(uintptr_t)batch}};
    probe2(log_durable, batch->append.last_index, batch->entry_count);
    core_post(role->core, role->node->map.raft, &message);
}

static void on_append(void *context, struct core *core maybe_unused,
                      const struct mesh_message *message)
{
    struct log_role *role = context;
    struct log_batch *batch = (struct log_batch *)(uintptr_t)message->word[0];
    batch->role = role;
    batch->wal.done = batch_durable;
    wal_append(role->wal, &batch->wal);
}

static void on_release(void *context, struct core *core maybe_unused,
                       const struct mesh_message *message)
{
    struct log_role *role = context;
    wal_release(role->wal, message->word[0]);
}

static void on_turn_end(void *context)
{
    struct log_role *role = context;
    if (role->wal == NULL)
        return;
    wal_flush(role->wal);
    atomic_store_explicit(&role->node->shared.log_space_low, wal_space_low(role->wal),
                          memory_order_relaxed);
}

/* ---- repair --------------------------------------------------------------------------------- */

static void repair_durable(struct wal_append *append)
{
    struct log_repair *repair = container_of(append, struct log_repair, wal);
    struct mesh_message message = {.kind = MESSAGE_LOG_REPAIRED, .word = {(uintptr_t)repair}};
    core_post(repair->role->core, repair->role->node->map.raft, &message);
}

static void on_repair(void *context, struct core *core maybe_unused,
                      const struct mesh_message *message)
{
    struct log_role *role = context;
    struct log_repair *repair = (struct log_repair *)(uintptr_t)message->word[0];
    bool cuts = repair->entry_count == 0;
    repair->role = role;
    repair->wal = (struct wal_append){.kind = cuts ? WAL_APPEND_CUT : WAL_APPEND_REPAIR,
                                      .entries = repair->entries,
                                      .entry_count = repair->entry_count,
                                      .index = repair->cut_to,
                                      .done = repair_durable};
    queue_link_init(&repair->wal.link);
    wal_append(role->wal, &repair->wal);
}

struct fault_list {
    struct node *node;
    struct faults *faults;
};

static void faults_run(void *argument)
{
    struct fault_list *list = argument;
    struct wal_fault found;
    for (uint32_t i = 0; wal_fault_get(list->node->log->wal, i, &found); i++) {
        struct fault fault = {.first = found.first_index,
                              .last = found.last_index,
                              .term = found.term,
                              .proven = found.proven};
        faults_add(list->faults, &fault);
    }
}

void log_role_faults(struct node *node, struct faults *faults)
{
    struct fault_list list = {.node = node, .faults = faults};
    remote_call(node->map.log, faults_run, &list);
}

/* ---- start ---------------------------------------------------------------------------------- */

struct cut {
    struct wal_append append;
    struct fiber_event done;
};

static void cut_done(struct wal_append *append)
{
    fiber_event_signal(&container_of(append, struct cut, append)->done);
}

struct cut_call {
    struct node *node;
    struct wal_recovered *recovered;
};

static void cut_run(void *argument)
{
    struct cut_call *call = argument;
    struct log_role *role = call->node->log;
    struct wal_recovered *recovered = call->recovered;
    uint64_t last = recovered->fault_first_index - 1;
    log_warn("log cut at blocks in flight when the process ended", LOG_U64("kept_to", last),
             LOG_U64("dropped_to", recovered->last_index), LOG_TEXT("reason", recovered->reason));
    struct cut cut = {.append = {.kind = WAL_APPEND_CUT, .index = last, .done = cut_done}};
    queue_link_init(&cut.append.link);
    fiber_event_init(&cut.done);
    wal_append(role->wal, &cut.append);
    wal_flush(role->wal);
    fiber_event_wait(&cut.done);
    recovered->last_index = last;
    recovered->last_term =
        last >= recovered->first_index ? wal_term(role->wal, last) : recovered->base_term;
    recovered->fault_count = 0;
    recovered->fault_first_index = 0;
    recovered->verdict = WAL_VERDICT_TORN;
}

void log_role_cut_unproven(struct node *node, struct wal_recovered *recovered)
{
    invariant(recovered->verdict == WAL_VERDICT_FAULTY && recovered->fault_proven_count == 0);
    struct cut_call call = {.node = node, .recovered = recovered};
    remote_call(node->map.log, cut_run, &call);
}

static void path_of_log(const struct node *node, char path[LOG_PATH_BYTES])
{
    snprintf(path, LOG_PATH_BYTES, "%s/log", node->config->data_dir);
}

struct change_search {
    uint64_t last;
    bool found;
};

static int change_visit(void *context, const struct entry *entry)
{
    struct change_search *search = context;
    search->found |= entry->type == ENTRY_CONFIG_CHANGE && entry->index <= search->last;
    return 0;
}

bool log_role_has_change(const struct node *node, uint64_t first, uint64_t last)
{
    char directory[LOG_PATH_BYTES];
    struct wal_recovered ignored;
    struct change_search search = {.last = last};
    path_of_log(node, directory);
    return wal_dump_entries(directory, first, change_visit, &search, &ignored) == 0 && search.found;
}

int log_role_start(struct node *node, struct core *core, bool alone,
                   struct wal_recovered *recovered)
{
    char directory[LOG_PATH_BYTES];
    path_of_log(node, directory);
    struct log_role *role = calloc(1, sizeof(*role));
    if (role == NULL)
        return -ENOMEM;
    role->node = node;
    role->core = core;
    struct wal_options options = {.directory = directory, .alone = alone};
    int error = wal_open(&options, &role->wal, recovered);
    if (error < 0) {
        free(role);
        return error;
    }
    if (recovered->verdict == WAL_VERDICT_FENCED) {
        wal_close(role->wal);
        free(role);
        return ERR_CORRUPT;
    }
    node->log = role;
    core_handle(core, MESSAGE_LOG_APPEND, on_append, role);
    core_handle(core, MESSAGE_LOG_REPAIR, on_repair, role);
    core_handle(core, MESSAGE_LOG_RELEASE, on_release, role);
    core_on_turn_end(core, on_turn_end, role);
    return 0;
}

struct look {
    const struct node *node;
    uint64_t index, contained;
    struct snapshot_log *found;
};

static void look_run(void *argument)
{
    struct look *look = argument;
    const struct wal *wal = look->node->log->wal;
    struct wal_fault fault;
    *look->found = (struct snapshot_log){.base_index = wal_first_index(wal) - 1,
                                         .term = wal_term(wal, look->index)};
    for (uint32_t i = 0; wal_fault_get(wal, i, &fault); i++) /* in order */
        if (fault.last_index > look->contained && look->found->fault_index == 0)
            look->found->fault_index = u64_max(fault.first_index, look->contained + 1);
}

void log_role_look(const struct node *node, uint64_t index, uint64_t contained,
                   struct snapshot_log *found)
{
    struct look look = {.node = node, .index = index, .contained = contained, .found = found};
    remote_call(node->map.log, look_run, &look);
}

struct reset {
    struct node *node;
    uint64_t index, term;
    struct wal_recovered *recovered;
};

static void reset_run(void *argument)
{
    struct reset *reset = argument;
    struct wal_recovered *recovered = reset->recovered;
    struct hard_state *hard_state = &recovered->hard_state;
    struct cut cut = {.append = {.kind = WAL_APPEND_RESET,
                                 .index = reset->index,
                                 .term = reset->term,
                                 .has_hard_state = true,
                                 .done = cut_done}};
    if (hard_state->term < reset->term) /* no vote was given in a term that was not known */
        *hard_state = (struct hard_state){.term = reset->term};
    hard_state->commit = reset->index;
    cut.append.hard_state = *hard_state;
    queue_link_init(&cut.append.link);
    fiber_event_init(&cut.done);
    wal_append(reset->node->log->wal, &cut.append);
    wal_flush(reset->node->log->wal);
    fiber_event_wait(&cut.done);
    recovered->first_index = reset->index + 1;
    recovered->last_index = recovered->base_index = reset->index;
    recovered->last_term = recovered->base_term = reset->term;
    recovered->fault_count = recovered->fault_proven_count = 0;
    recovered->fault_first_index = 0;
    recovered->verdict = WAL_VERDICT_OK;
}

void log_role_reset(struct node *node, uint64_t index, uint64_t term,
                    struct wal_recovered *recovered)
{
    struct reset reset = {.node = node, .index = index, .term = term, .recovered = recovered};
    remote_call(node->map.log, reset_run, &reset);
}

struct start_append {
    struct node *node;
    struct cut cut;
};

static void append_run(void *argument)
{
    struct start_append *call = argument;
    queue_link_init(&call->cut.append.link);
    fiber_event_init(&call->cut.done);
    wal_append(call->node->log->wal, &call->cut.append);
    wal_flush(call->node->log->wal);
    fiber_event_wait(&call->cut.done);
}

void log_role_append(struct node *node, const struct entry *entries, uint32_t entry_count,
                     const struct hard_state *hard_state)
{
    struct start_append call = {.node = node,
                                .cut.append = {.kind = WAL_APPEND_ENTRIES,
                                               .entries = entries,
                                               .entry_count = entry_count,
                                               .has_hard_state = true,
                                               .hard_state = *hard_state,
                                               .done = cut_done}};
    remote_call(node->map.log, append_run, &call);
}

void log_role_stop(struct node *node)
{
    struct log_role *role = node->log;
    wal_close(role->wal);
    role->wal = NULL; /* the turn-end hook stays registered for the core's life */
}

/* ---- reading back --------------------------------------------------------------------------- */

struct log_read {
    struct node *node;
    uint64_t first, last, bytes_max;
    struct log_copy *copy;
    size_t payload_bytes, payload_bytes_max;
    uint32_t entry_count_max;
    int64_t result;
};

static int read_visit(void *context, const struct entry *entry)
{
    struct log_read *read = context;
    struct log_copy *copy = read->copy;
    if (copy->entry_count == read->entry_count_max ||
        read->payload_bytes + entry->payload_bytes > read->payload_bytes_max) {
        if (copy->entry_count > 0)
            return 1;
        free(copy->payloads); /* one entry larger than the whole limit */
        read->payload_bytes_max = entry->payload_bytes;
        copy->payloads = malloc(read->payload_bytes_max);
        if (copy->payloads == NULL)
            return -ENOMEM;
    }
    struct entry *kept = &copy->entries[copy->entry_count++];
    *kept = *entry;
    kept->payload = copy->payloads + read->payload_bytes;
    if (entry->payload_bytes > 0)
        memcpy(copy->payloads + read->payload_bytes, entry->payload, entry->payload_bytes);
    read->payload_bytes += entry->payload_bytes;
    return 0;
}

static void read_run(void *argument)
{
    struct log_read *read = argument;
    read->result =
        wal_read(read->node->log->wal, read->first, read->last, read->bytes_max, read_visit, read);
    if (read->result >= 0)
        read->result = read->copy->entry_count;
}

int64_t log_role_read(struct node *node, uint64_t first, uint64_t last, uint64_t bytes_max,
                      struct log_copy *copy)
{
    invariant(first <= last);
    struct log_read read = {.node = node,
                            .first = first,
                            .last = last,
                            .bytes_max = bytes_max,
                            .copy = copy,
                            .payload_bytes_max = bytes_max + 4096,
                            .entry_count_max = (uint32_t)u64_min(last - first + 1, 65536)};
    *copy = (struct log_copy){0};
    copy->entries = malloc(read.entry_count_max * sizeof(*copy->entries));
    copy->payloads = malloc(read.payload_bytes_max);
    if (copy->entries == NULL || copy->payloads == NULL)
        read.result = -ENOMEM;
    else
        remote_call(node->map.log, read_run, &read);
    if (read.result < 0)
        log_copy_destroy(copy);
    return read.result;
}

struct log_survey {
    struct node *node;
    struct log_note *notes;
    uint64_t first, last;
    int error;
};

static int survey_visit(void *context, const struct entry *entry)
{
    struct log_survey *survey = context;
    if (entry->index > survey->last)
        return 1;
    invariant(entry->index >= survey->first);
    survey->notes[entry->index - survey->first] = (struct log_note){
        .term = entry->term, .payload_bytes = entry->payload_bytes, .type = entry->type};
    return 0;
}

static void survey_run(void *argument)
{
    struct log_survey *survey = argument;
    survey->error = wal_replay(survey->node->log->wal, survey->first, survey_visit, survey);
}

int log_role_notes(struct node *node, uint64_t first, uint64_t last, struct log_note **notes)
{
    invariant(first <= last);
    struct log_survey survey = {.node = node,
                                .first = first,
                                .last = last,
                                .notes = calloc(last - first + 1, sizeof(struct log_note))};
    if (survey.notes == NULL)
        return -ENOMEM;
    remote_call(node->map.log, survey_run, &survey);
    if (survey.error < 0) {
        free(survey.notes);
        return survey.error;
    }
    *notes = survey.notes;
    return 0;
}

void log_copy_destroy(struct log_copy *copy)
{
    free(copy->entries);
    free(copy->payloads);
    *copy = (struct log_copy){0};
}

const struct wal_stats *log_role_stats(const struct log_role *role)
{
    return wal_stats(role->wal);
}
