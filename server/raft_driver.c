#include "server/raft_driver.h"

#include <errno.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "core/logger.h"
#include "core/probe.h"
#include "server/apply.h"
#include "server/forward.h"
#include "server/message.h"
#include "server/node_private.h"
#include "server/peer_role.h"
#include "server/snapshot_send.h"
#include "storage/lsm/checkpoint.h"

/* A question to consensus without an answer is followed by another after this. */
#define READ_RETRY_NS (500 * NS_PER_MS)

/* Nobody waits any more this long after the connection core gave up. */
#define READ_WAIT_SPARE_NS (1 * NS_PER_S)

/* ---- the log lane --------------------------------------------------------------------------- */

static struct log_batch *batch_take(struct raft_driver *driver, uint32_t entry_count)
{
    struct log_batch *batch = driver->batches_free;
    if (batch != NULL) {
        driver->batches_free = batch->next;
    } else {
        batch = calloc(1, sizeof(*batch));
        invariant(batch != NULL);
    }
    if (batch->entry_count_max < entry_count) {
        batch->entry_count_max = (uint32_t)u64_max(entry_count, batch->entry_count_max * 2);
        batch->entries = realloc(batch->entries, batch->entry_count_max * sizeof(*batch->entries));
        invariant(batch->entries != NULL);
    }
    memset(&batch->wal, 0, sizeof(batch->wal));
    queue_link_init(&batch->wal.link);
    batch->entry_count = 0;
    return batch;
}

static void batch_give(struct raft_driver *driver, struct log_batch *batch)
{
    batch->next = driver->batches_free;
    driver->batches_free = batch;
}

static void issue_append(struct raft_driver *driver, const struct raft_ready *ready)
{
    uint64_t first = ready->append_first, last = ready->append_last;
    uint32_t count = first == 0 ? 0 : (uint32_t)(last - first + 1);
    struct log_batch *batch = batch_take(driver, count);
    for (uint32_t i = 0; i < count; i++) {
        const struct entry *entry = raft_entry(&driver->raft, first + i);
        invariant(entry != NULL); /* what is not durable is in memory */
        batch->entries[batch->entry_count++] = *entry;
        log_notes_set(&driver->notes, entry->index, entry->term, entry->type, entry->payload_bytes);
    }
    batch->append = ready->append;
    batch->issued_ns = core_now_ns(driver->core);
    batch->wal.kind = WAL_APPEND_ENTRIES;
    batch->wal.entries = batch->entries;
    batch->wal.entry_count = batch->entry_count;
    batch->wal.has_hard_state = true; /* the commit index too: a restart must know it */
    batch->wal.hard_state = ready->hard_state;
    struct mesh_message message = {.kind = MESSAGE_LOG_APPEND, .word = {(uintptr_t)batch}};
    core_post(driver->core, driver->node->map.log, &message);
    batch->next = NULL;
    if (driver->issued_newest != NULL)
        driver->issued_newest->next = batch;
    else
        driver->issued_oldest = batch;
    driver->issued_newest = batch;
    probe2(raft_append, ready->append.last_index, count);
}

static void payload_released(void *context, const struct entry *entry)
{
    struct raft_driver *driver = context;
    if (entry->tag != 0) {
        received_release(&driver->node->peers->received, entry->tag);
        return;
    }
    struct proposal *proposal = container_of(entry->payload, struct proposal, payload);
    if (!proposal->finished)
        forward_restart(driver->node->peers->forward); /* it may be lost to the new leader */
    proposal_leave_log(proposal);
}

static void on_log_durable(void *context, struct core *core, const struct mesh_message *message)
{
    struct raft_driver *driver = context;
    struct log_batch *batch = (struct log_batch *)(uintptr_t)message->word[0];
    invariant(batch == driver->issued_oldest); /* in order */
    driver->issued_oldest = batch->next;
    if (batch->next == NULL)
        driver->issued_newest = NULL;
    histogram_record(&driver->commit_ns, core_now_ns(core) - batch->issued_ns);
    raft_persisted(&driver->raft, &batch->append);
    lsm_set_durable_index(driver->node->lsm, driver->raft.log.durable_index);
    peer_role_durable(driver->node->peers, batch->append.sequence);
    deferred_run(&driver->deferred, batch->append.sequence, payload_released, driver);
    batch_give(driver, batch);
}

/* ---- reads ---------------------------------------------------------------------------------- */

static void read_finish(struct raft_driver *driver, const struct read_wait *wait, int error)
{
    struct mesh_message message = {.kind = MESSAGE_READ_INDEX_DONE,
                                   .word = {wait->batch, (uint64_t)(int64_t)error}};
    core_post(driver->core, wait->core, &message);
}

static void on_read_index(void *context, struct core *core, const struct mesh_message *message)
{
    struct raft_driver *driver = context;
    uint64_t wait_ns = node_request_timeout_ns(driver->node) + READ_WAIT_SPARE_NS;
    read_waits_add(&driver->reads, message->from, message->word[0], core_now_ns(core) + wait_ns);
}

/* One question for every wait that has none. */
static void reads_ask(struct raft_driver *driver)
{
    if (!read_waits_want_question(&driver->reads))
        return;
    uint64_t id = driver->read_id + 1;
    if (raft_read_index(&driver->raft, id) < 0)
        return; /* no leader, or full: next turn asks again; the reader's own deadline bounds it */
    driver->read_id = id;
    driver->read_asked_ns = core_now_ns(driver->core);
    read_waits_asked(&driver->reads, id);
}

/* Ids are a peer's word. */
static void reads_answered(struct raft_driver *driver, const struct raft_ready *ready)
{
    for (uint32_t r = 0; r < ready->read_count; r++)
        if (ready->reads[r].id <= driver->read_id)
            read_waits_answered(&driver->reads, ready->reads[r].id, ready->reads[r].index);
}

static void reads_release(struct raft_driver *driver)
{
    struct read_wait wait;
    while (read_waits_pop(&driver->reads, apply_index(driver->apply), &wait))
        read_finish(driver, &wait, 0);
}

static void reads_expire(struct raft_driver *driver, uint64_t now_ns)
{
    struct read_wait wait;
    while (read_waits_expire(&driver->reads, now_ns, &wait))
        read_finish(driver, &wait, ERR_TIMEOUT);
}

/* ---- proposals ------------------------------------------------------------------------------ */

static void on_propose(void *context, struct core *core maybe_unused,
                       const struct mesh_message *message)
{
    struct raft_driver *driver = context;
    struct proposal *proposal = (struct proposal *)(uintptr_t)message->word[0];
    pending_add(&driver->pending, proposal);
    probe1(raft_propose, proposal->payload_bytes);
}

/* Consensus is done with the entry's payload: it was applied, cut from the log, or let go of early
 * because the disk has it. */
static void on_release(void *context, const struct entry *entry)
{
    struct raft_driver *driver = context;
    const struct raft *raft = &driver->raft;
    if (entry->payload_bytes == 0)
        return;
    if (entry->index > raft->log.durable_index && raft->append_issued > raft->append_done)
        deferred_add(&driver->deferred, entry, raft->append_issued);
    else
        payload_released(driver, entry);
}

static int on_lookup(void *context, uint64_t index, struct entry *entry)
{
    const struct raft_driver *driver = context;
    return log_notes_get(&driver->notes, index, entry);
}

/* The tables as they are; server/snapshot_send.h makes a checkpoint when the message goes out. */
static int on_snapshot(void *context, uint64_t peer maybe_unused, struct raft_snapshot *snapshot)
{
    const struct raft_driver *driver = context;
    if (!snapshot_send_is_idle(driver->node->peers->snapshot_send))
        return ERR_UNAVAILABLE; /* one at a time */
    lsm_checkpoint_position(driver->node->lsm, &snapshot->index, &snapshot->term);
    snapshot->config = driver->node->membership.config;
    return snapshot->index < driver->raft.log.compacted_index ? ERR_UNAVAILABLE : 0;
}

/* ---- the turn ------------------------------------------------------------------------------- */

static void publish(struct raft_driver *driver)
{
    struct node_shared *shared = &driver->node->shared;
    const struct raft_log *log = &driver->raft.log;
    atomic_store_explicit(&shared->last_index, log->last_index, memory_order_relaxed);
    atomic_store_explicit(&shared->commit_index, log->committed_index, memory_order_relaxed);
    atomic_store_explicit(&shared->is_learner,
                          raft_id_set_has(&driver->raft.config.learners, driver->raft.options.id),
                          memory_order_relaxed);
    atomic_store_explicit(&shared->proposals_failed, driver->pending.failed, memory_order_relaxed);
    atomic_store_explicit(&shared->proposals_pending,
                          (int64_t)(log->last_index - log->committed_index), memory_order_relaxed);
    atomic_store_explicit(&shared->tables_pressure, lsm_pressure(driver->node->lsm),
                          memory_order_relaxed);
    atomic_store_explicit(&shared->tables_failing, lsm_failure(driver->node->lsm) != 0,
                          memory_order_relaxed);
}

/* Invariant L2 of node_private.h: before messages leave. */
static void publish_reads(struct raft_driver *driver)
{
    const struct raft_log *log = &driver->raft.log;
    bool is_local = raft_reads_are_local(&driver->raft);
    /* What is in the log by now, a former member may have committed, applied and acknowledged. */
    if (!is_local)
        driver->reads_local_after = UINT64_MAX;
    else if (driver->reads_local_after == UINT64_MAX)
        driver->reads_local_after = log->last_index;
    atomic_store_explicit(&driver->node->shared.reads_local,
                          is_local && log->applied_index >= driver->reads_local_after,
                          memory_order_release);
}

static void leadership_changed(struct raft_driver *driver, const struct raft_ready *ready)
{
    struct node_shared *shared = &driver->node->shared;
    uint64_t before = atomic_load_explicit(&shared->leader, memory_order_relaxed);
    if (before != ready->leader && ready->leader != 0)
        atomic_fetch_add_explicit(&shared->leader_changes, 1, memory_order_relaxed);
    atomic_store_explicit(&shared->term, ready->term, memory_order_release);
    atomic_store_explicit(&shared->leader, ready->leader, memory_order_release);
    log_info("leadership changed", LOG_TEXT("role", raft_role_name(ready->role)),
             LOG_HEX("leader", ready->leader), LOG_U64("term", ready->term));
    read_waits_ask_again(&driver->reads);
    forward_restart(driver->node->peers->forward);
}

void raft_driver_drain(struct raft_driver *driver)
{
    struct raft_ready ready;
    while (publish_reads(driver), raft_ready(&driver->raft, &ready)) {
        if (ready.leadership_changed)
            leadership_changed(driver, &ready);
        peer_role_send(driver->node->peers, ready.messages, ready.message_count);
        if (ready.append.sequence != 0)
            issue_append(driver, &ready);
        if (ready.apply_last != 0)
            apply_extend(driver->apply, ready.apply_last);
        reads_answered(driver, &ready);
    }
}

static void on_turn_end(void *context)
{
    struct raft_driver *driver = context;
    if (driver->stopping)
        return;
    forward_turn(driver->node->peers->forward);
    reads_ask(driver);
    raft_driver_drain(driver);
    reads_release(driver);
    peer_role_flush(driver->node->peers);
    publish(driver);
    core_expect_soon(driver->core, driver->raft.log.last_index != driver->raft.log.applied_index &&
                                       !apply_waits(driver->apply));
    uint64_t next_ns = raft_deadline_ns(&driver->raft);
    if (next_ns < driver->timer.deadline_ns) /* what happened in this turn made it sooner */
        timer_start(core_timers(driver->core), &driver->timer, next_ns);
}

void raft_driver_see_time(struct raft_driver *driver)
{
    uint64_t now_ns = core_now_ns(driver->core);
    if (now_ns <= driver->raft.now_ns)
        return;
    int error = raft_tick(&driver->raft, now_ns);
    invariant(error == 0 || error == ERR_FULL); /* full: drained at the end of this turn */
}

void raft_driver_applied(struct raft_driver *driver, uint64_t index)
{
    uint64_t before = driver->raft.log.applied_index;
    if (index > before)
        log_unflushed_add(&driver->unflushed, log_notes_bytes(&driver->notes, before + 1, index),
                          index - before);
    raft_applied(&driver->raft, index);
    reads_release(driver);
}

/* What the leader's members that answer have, or will have when their snapshot arrived. */
static uint64_t log_wanted(const struct raft_driver *driver)
{
    const struct raft *raft = &driver->raft;
    uint64_t wanted = UINT64_MAX;
    for (uint32_t i = 0; i < raft->peer_count && raft->role == RAFT_ROLE_LEADER; i++) {
        const struct raft_peer *peer = raft->peers[i];
        uint64_t sent = snapshot_send_index(driver->node->peers->snapshot_send, peer->id);
        if (peer->id != raft->options.id && (sent != 0 || peer->recent_active))
            wanted = u64_min(wanted, u64_max(sent, peer->match_index));
    }
    return wanted;
}

/* What flushed tables contain, the log need not keep, but for a tail that serves members that lag.
 */
static void release_log(struct raft_driver *driver)
{
    uint64_t flushed = lsm_flushed_index(driver->node->lsm);
    uint64_t index = u64_min(flushed, driver->raft.log.applied_index);
    bool space_low =
        atomic_load_explicit(&driver->node->shared.log_space_low, memory_order_relaxed);
    /* Tables that are behind have enough to do. */
    if (lsm_pressure(driver->node->lsm) < LSM_PRESSURE_FULL &&
        log_unflushed_is_long(&driver->unflushed, flushed, space_low))
        lsm_flush_begin(driver->node->lsm);
    if (driver->raft.peer_count > 1) {
        struct log_retain retain = {
            .contained = index,
            .tail_bytes = buggify("driver: no tail of the log") ? 0 : LOG_TAIL_BYTES,
            .wanted = log_wanted(driver),
            .space_low = space_low,
        };
        index = log_retain_limit(&driver->notes, &retain);
    }
    raft_driver_release(driver, index);
}

void raft_driver_release(struct raft_driver *driver, uint64_t index)
{
    if (index <= driver->released_index)
        return;
    driver->released_index = index;
    raft_compact(&driver->raft, index);
    log_notes_release(&driver->notes, index);
    struct mesh_message message = {.kind = MESSAGE_LOG_RELEASE, .word = {index}};
    core_post(driver->core, driver->node->map.log, &message);
}

static void on_timer(struct timer *timer)
{
    struct raft_driver *driver = container_of(timer, struct raft_driver, timer);
    uint64_t now_ns = core_now_ns(driver->core);
    raft_driver_see_time(driver);
    release_log(driver);
    pending_expire(&driver->pending, now_ns);
    reads_expire(driver, now_ns);
    failover_watch_disk(&driver->node->peers->failover, now_ns,
                        driver->issued_oldest == NULL ? 0 : driver->issued_oldest->issued_ns);
    struct table_signs signs = {.pressure = lsm_pressure(driver->node->lsm),
                                .installs = lsm_installs(driver->node->lsm),
                                .failure = lsm_failure(driver->node->lsm),
                                .apply_waits = apply_waits(driver->apply)};
    table_watch_look(&driver->tables, &signs, now_ns);
    if (now_ns - driver->read_asked_ns > READ_RETRY_NS)
        read_waits_ask_again(&driver->reads);
    uint64_t next_ns = raft_deadline_ns(&driver->raft);
    timer_start(core_timers(driver->core), timer,
                u64_min(u64_max(next_ns, now_ns + NS_PER_MS), now_ns + 100 * NS_PER_MS));
}

/* ---- life ----------------------------------------------------------------------------------- */

static void driver_options(const struct node *node, struct core *core, struct raft_options *options)
{
    raft_options_default(options);
    options->id = node->identity.member_id;
    options->seed = reactor_random(core_reactor(core));
    options->election_timeout_ns = node->config->election_timeout_ms * NS_PER_MS;
    options->election_jitter_ns = options->election_timeout_ns / 4;
    options->heartbeat_ns = node->config->heartbeat_interval_ms * NS_PER_MS;
    options->single_voter_starts = true;
}

/* Of every entry that the log holds. */
static int notes_load(struct raft_driver *driver, const struct raft_start *start)
{
    uint64_t first = start->compacted_index + 1;
    struct log_note *notes;
    log_notes_init(&driver->notes, first);
    driver->released_index = start->compacted_index;
    if (start->last_index < first)
        return 0;
    int error = log_role_notes(driver->node, first, start->last_index, &notes);
    if (error < 0)
        return error;
    for (uint64_t i = 0; i <= start->last_index - first; i++)
        log_notes_set(&driver->notes, first + i, notes[i].term, notes[i].type,
                      notes[i].payload_bytes);
    free(notes);
    return 0;
}

int raft_driver_start(struct node *node, struct core *core, const struct raft_start *start)
{
    struct raft_options options;
    int error = -ENOMEM;
    struct raft_driver *driver = calloc(1, sizeof(*driver));
    if (driver == NULL)
        return -ENOMEM;
    driver_options(node, core, &options);
    driver->node = node;
    driver->core = core;
    /* An answer to an earlier life of this member is none to a question of this one. */
    driver->read_id = node->identity.incarnation << REQUEST_SEQUENCE_START_BITS;
    pending_init(&driver->pending, core);
    table_watch_init(&driver->tables, node);
    histogram_init(&driver->commit_ns);
    if (read_waits_init(&driver->reads) < 0)
        goto fail;
    driver->raft_memory = aligned_alloc(64, u64_round_up(raft_memory_bytes(&options), 64));
    if (driver->raft_memory == NULL)
        goto fail;
    error = notes_load(driver, start);
    if (error < 0)
        goto fail;
    node->raft = driver; /* the peers' role wants it */
    error = peer_role_start(node, core);
    if (error < 0)
        goto fail;
    struct raft_storage storage = {
        .context = driver, .lookup = on_lookup, .snapshot = on_snapshot, .release = on_release};
    error =
        raft_init(&driver->raft, &options, &storage, start, driver->raft_memory, core_now_ns(core));
    if (error < 0)
        goto fail;
    error = apply_start(node, driver, core, start->applied_index, &driver->apply);
    if (error < 0)
        goto fail;
    /* What was found in the log is durable: nothing that is applied waits for a later append. */
    lsm_set_durable_index(node->lsm, driver->raft.log.durable_index);
    core_handle(core, MESSAGE_PROPOSE, on_propose, driver);
    core_handle(core, MESSAGE_READ_INDEX, on_read_index, driver);
    core_handle(core, MESSAGE_LOG_DURABLE, on_log_durable, driver);
    core_on_turn_end(core, on_turn_end, driver);
    timer_init(&driver->timer, on_timer);
    timer_start(core_timers(core), &driver->timer, core_now_ns(core));
    return 0;
fail:
    node->raft = NULL;
    log_notes_deinit(&driver->notes);
    free(driver->raft_memory);
    read_waits_deinit(&driver->reads);
    free(driver);
    return error;
}

static bool driver_is_quiet(const struct raft_driver *driver)
{
    const struct raft_log *log = &driver->raft.log;
    return driver->pending.count == 0 && log->last_index == log->durable_index &&
           log->applied_index == raft_log_sound_to(log, log->committed_index) &&
           apply_index(driver->apply) == log->applied_index;
}

/* Clients are gone; what they left in the log is finished, a bounded time. */
void raft_driver_stop(struct node *node)
{
    struct raft_driver *driver = node->raft;
    uint64_t deadline_ns = core_now_ns(driver->core) + 5 * NS_PER_S;
    while (!driver_is_quiet(driver) && core_now_ns(driver->core) < deadline_ns)
        fiber_sleep_until(core_now_ns(driver->core) + NS_PER_MS);
    timer_stop(core_timers(driver->core), &driver->timer);
    driver->stopping = true;
    while (driver->issued_oldest != NULL) /* its answers need all that goes now */
        fiber_sleep_until(core_now_ns(driver->core) + NS_PER_MS);
    apply_stop(driver->apply);
    peer_role_stop(driver->node->peers);
    deferred_deinit(&driver->deferred);
}

/* What a member that lags has not got yet. */
static void release_window(struct raft_driver *driver)
{
    const struct raft_log *log = &driver->raft.log;
    for (uint64_t index = log->base_index + 1; index <= log->last_index; index++) {
        const struct entry *entry = raft_log_entry(log, index);
        if (entry != NULL && entry->payload_bytes > 0)
            payload_released(driver, entry);
    }
}

/* The core's hooks know it until then. */
void raft_driver_destroy(struct raft_driver *driver)
{
    if (driver == NULL)
        return;
    release_window(driver);
    peer_role_destroy(driver->node->peers);
    while (driver->batches_free != NULL) {
        struct log_batch *batch = driver->batches_free;
        driver->batches_free = batch->next;
        free(batch->entries);
        free(batch);
    }
    apply_destroy(driver->apply);
    log_notes_deinit(&driver->notes);
    free(driver->raft_memory);
    read_waits_deinit(&driver->reads);
    free(driver);
}
