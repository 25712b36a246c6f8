#include "server/apply.h"

#include <errno.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "core/logger.h"
#include "core/probe.h"
#include "server/alarm.h"
#include "server/kv_codec.h"
#include "server/log_role.h"
#include "server/message.h"
#include "server/node_private.h"
#include "server/pending.h"
#include "server/raft_driver.h"

/* How much of the log is read back at a time after a restart. */
#define APPLY_READ_BYTES (4 * MIB)

/* How often a loop that waits for the tables looks at them. */
#define APPLY_POLL_NS (5 * NS_PER_MS)

/* Entries are looked at so many at a time, so that the cache misses of their keys overlap. */
#define APPLY_STEPS_MAX       16
#define APPLY_STEPS_BYTES_MAX (256 * KIB) /* unless a single one has more */
#define APPLY_WARM_MIN        4

/* One entry on its way through the loop, and its payload, as copies: while a step waits for the
 * disk, consensus may let go of entries that are durable, applied or not. */
struct apply_step {
    struct entry entry;
    int error;            /* of decoding */
    bool changes_members; /* a configuration change; `request` is its context, if it has one */
    bool has_request;
    struct request request;
    struct mvcc_put_request put; /* of a REQUEST_PUT */
};

struct apply {
    struct node *node;
    struct raft_driver *raft;
    struct core *core;
    struct mvcc *mvcc;
    uint64_t applied_index, target_index;
    struct fiber_event work; /* the target moved, or stop */
    struct fiber_event ended;
    bool stopping, waits;
    struct arena scratch;  /* decoded requests */
    struct arena unwanted; /* results nobody waits for; bounded as those that somebody does */
    struct arena held;     /* payloads of the steps */

    /* The batch being executed. */
    struct apply_step steps[APPLY_STEPS_MAX];
    struct proposal *done[APPLY_BATCH_MAX];
    uint32_t done_count;

    /* Entries read back from disk: [copy_first, copy_first + copy.entry_count). */
    struct log_copy copy;
    uint64_t copy_first;
};

uint64_t apply_index(const struct apply *apply)
{
    return apply->applied_index;
}

bool apply_waits(const struct apply *apply)
{
    return apply->waits;
}

void apply_extend(struct apply *apply, uint64_t index)
{
    invariant(index >= apply->target_index);
    apply->target_index = index;
    fiber_event_signal(&apply->work);
}

/* ---- executing ------------------------------------------------------------------------------ */

/* Or the error is the request's own, and every member refuses it alike: bytes that do not decode,
 * a change that is not possible any more. */
static bool storage_failed(int error)
{
    return error < 0 && error != ERR_CONFIG && err_action(error) != ERR_ACTION_CLIENT;
}

static int execute_put(struct apply *apply, const struct mvcc_put_request *request,
                       struct arena *arena, struct mvcc_put_result *result)
{
    int error = alarm_admit_write(&apply->node->shared, true);
    if (error < 0)
        return error;
    return mvcc_apply_put(apply->mvcc, request, arena, result);
}

static int execute_delete(struct apply *apply, struct bytes body, struct arena *arena,
                          struct mvcc_delete_result *result)
{
    struct mvcc_delete_request request;
    int error = kv_decode_delete(body, &request);
    if (error == 0)
        error = alarm_admit_write(&apply->node->shared, false);
    if (error < 0)
        return error;
    return mvcc_apply_delete_range(apply->mvcc, &request, arena, result);
}

static int execute_txn(struct apply *apply, struct bytes body, struct arena *arena,
                       struct mvcc_txn_result *result)
{
    struct mvcc_txn_request request;
    int error = kv_decode_txn(body, &apply->scratch, &request);
    if (error == 0)
        error = alarm_admit_write(&apply->node->shared, kv_txn_has_put(&request));
    if (error < 0)
        return error;
    return mvcc_apply_txn(apply->mvcc, &request, arena, result);
}

static int execute_compact(struct apply *apply, struct bytes body, int64_t *revision)
{
    struct mvcc_compact_request request;
    int error = kv_decode_compact(body, &request);
    if (error == 0)
        error = alarm_admit_write(&apply->node->shared, false);
    if (error < 0)
        return error;
    return mvcc_apply_compact(apply->mvcc, &request, revision);
}

static int execute_alarm(struct apply *apply, struct bytes body, struct arena *arena,
                         struct alarm_set **listed)
{
    struct alarm_request request;
    int error = kv_decode_alarm(body, &request);
    if (error < 0)
        return error;
    return alarm_apply(apply->node, apply->mvcc, &request, arena, listed);
}

static int execute_request(struct apply *apply, const struct apply_step *step, struct arena *arena,
                           union proposal_result *result)
{
    struct bytes body = step->request.body;
    switch (step->request.kind) {
    case REQUEST_PUT:
        return execute_put(apply, &step->put, arena, &result->put);
    case REQUEST_DELETE_RANGE:
        return execute_delete(apply, body, arena, &result->del);
    case REQUEST_TXN:
        return execute_txn(apply, body, arena, &result->txn);
    case REQUEST_COMPACT:
        return execute_compact(apply, body, &result->revision);
    case REQUEST_ALARM:
        return execute_alarm(apply, body, arena, &result->alarms);
    case REQUEST_MEMBER_UPDATE:
    case REQUEST_MEMBER_PUBLISH:
        return membership_apply(&apply->node->membership, apply->mvcc, &step->request);
    case REQUEST_MEMBER_ADD:
    case REQUEST_MEMBER_REMOVE:
    case REQUEST_MEMBER_PROMOTE:
        break; /* only as configuration changes */
    }
    return ERR_MALFORMED;
}

static int execute_config(struct apply *apply, const struct apply_step *step)
{
    struct node *node = apply->node;
    int error =
        membership_apply_config(&node->membership, apply->mvcc, &apply->raft->raft, &step->entry);
    if (error == 0 && step->has_request && step->request.kind == REQUEST_MEMBER_REMOVE) {
        struct member removed;
        error = member_decode(step->request.body, &removed);
        if (error == 0)
            error = once_forget(&node->once, apply->mvcc, removed.id);
    }
    return error;
}

static void proposal_done(struct apply *apply, struct proposal *proposal, int error)
{
    proposal->error = error;
    apply->done[apply->done_count++] = proposal;
}

/* Whoever is no member at this place of the log has no say: what was executed of a removed member's
 * requests is forgotten (once_forget()), so a second copy of one would be executed again. The
 * member that was removed finds its own requests behind its removal. */
static bool origin_counts(struct apply *apply, const struct request *request)
{
    struct node *node = apply->node;
    if (member_find(&node->membership.set, request->origin) != NULL ||
        planted_bug(say_of_removed_members))
        return true;
    if (request->origin == node->identity.member_id) {
        struct proposal *proposal =
            pending_match(&apply->raft->pending, request->stream, request->sequence);
        if (proposal != NULL)
            proposal_done(apply, proposal, ERR_STOPPED);
    }
    return false;
}

static void step_execute(struct apply *apply, const struct apply_step *step)
{
    union proposal_result unwanted;
    struct node *node = apply->node;
    struct proposal *proposal = NULL;
    probe2(raft_execute, step->entry.index, &step->entry);
    if (step->has_request) {
        if (!origin_counts(apply, &step->request))
            return;
        if (!once_admit(&node->once, &step->request))
            return; /* sent twice, executed once */
        if (step->request.origin == node->identity.member_id)
            proposal =
                pending_match(&apply->raft->pending, step->request.stream, step->request.sequence);
    }
    int error = step->error;
    if (error == 0 && step->changes_members)
        error = execute_config(apply, step);
    else if (error == 0)
        error = execute_request(apply, step, proposal != NULL ? &proposal->arena : &apply->unwanted,
                                proposal != NULL ? &proposal->result : &unwanted);
    if (storage_failed(error))
        fatal("apply of entry %llu stopped: %s; the state machine cannot skip it",
              (unsigned long long)step->entry.index, err_text(error));
    if (proposal != NULL)
        proposal_done(apply, proposal, error);
    arena_reset(&apply->scratch);
    arena_reset(&apply->unwanted);
}

static void step_decode(struct apply_step *step)
{
    const struct entry *entry = &step->entry;
    struct bytes payload = bytes_make(entry->payload, entry->payload_bytes);
    step->changes_members = entry->type == ENTRY_CONFIG_CHANGE;
    if (step->changes_members) { /* whatever does not decode is refused when it is executed */
        struct raft_config_change change;
        step->has_request =
            payload.size > 0 && membership_decode_change(entry, &change, &step->request) == 0;
        step->error = 0;
        return;
    }
    step->error = request_decode(&step->request, payload);
    step->has_request = step->error == 0;
    if (step->error == 0 && step->request.kind == REQUEST_PUT)
        step->error = kv_decode_put(step->request.body, &step->put);
}

static void steps_run(struct apply *apply, uint32_t count)
{
    struct bytes keys[APPLY_STEPS_MAX];
    uint32_t puts = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct apply_step *step = &apply->steps[i];
        step_decode(step);
        if (step->error == 0 && !step->changes_members && step->request.kind == REQUEST_PUT)
            keys[puts++] = step->put.key;
    }
    if (puts >= APPLY_WARM_MIN)
        mvcc_warm(apply->mvcc, keys, puts);
    for (uint32_t i = 0; i < count; i++)
        step_execute(apply, &apply->steps[i]);
}

static const struct entry *copy_at(struct apply *apply, uint64_t index)
{
    if (index < apply->copy_first || index >= apply->copy_first + apply->copy.entry_count)
        return NULL;
    const struct entry *entry = &apply->copy.entries[index - apply->copy_first];
    invariant(entry->index == index);
    return entry;
}

static void copy_load(struct apply *apply, uint64_t index)
{
    log_copy_destroy(&apply->copy);
    int64_t read =
        log_role_read(apply->node, index, apply->target_index, APPLY_READ_BYTES, &apply->copy);
    if (read <= 0)
        fatal("log entry %llu cannot be read back: %s", (unsigned long long)index,
              err_text((int)read));
    apply->copy_first = index;
}

/* The entry at `index` from consensus' window, else from what was read back; NULL: copy_load(). */
static const struct entry *entry_find(struct apply *apply, uint64_t index)
{
    const struct entry *entry = raft_entry(&apply->raft->raft, index);
    return entry != NULL ? entry : copy_at(apply, index);
}

static void step_hold(struct apply *apply, struct apply_step *step, const struct entry *entry)
{
    struct bytes payload =
        arena_copy(&apply->held, bytes_make(entry->payload, entry->payload_bytes));
    if (payload.size != entry->payload_bytes)
        fatal("out of memory for log entry %llu", (unsigned long long)entry->index);
    step->entry = *entry;
    step->entry.payload = payload.data;
}

/* Fills steps with the entries from `*index` on, at most up to `last`, and moves `*index` behind
 * them. Reading back invalidates earlier entries, so it happens only before the first. */
static uint32_t steps_gather(struct apply *apply, uint64_t *index, uint64_t last, uint64_t *term)
{
    uint32_t count = 0;
    uint64_t bytes = 0;
    arena_reset(&apply->held);
    if (entry_find(apply, *index) == NULL)
        copy_load(apply, *index);
    for (; *index <= last && count < APPLY_STEPS_MAX; ++*index) {
        const struct entry *entry = entry_find(apply, *index);
        if (entry == NULL || (count > 0 && bytes + entry->payload_bytes > APPLY_STEPS_BYTES_MAX))
            break;
        bytes += entry->payload_bytes;
        *term = entry->term;
        if (entry->type == ENTRY_NORMAL && entry->payload_bytes == 0)
            continue;
        step_hold(apply, &apply->steps[count++], entry);
    }
    return count;
}

static void batch_execute(struct apply *apply, uint64_t last)
{
    uint64_t term = 0, index = apply->applied_index + 1;
    apply->done_count = 0;
    while (index <= last) {
        uint32_t count = steps_gather(apply, &index, last, &term);
        steps_run(apply, count);
    }
    struct node *node = apply->node;
    int error =
        node->membership.stored ? 0 : membership_store_first(&node->membership, apply->mvcc);
    if (error == 0)
        error = once_store(&node->once, apply->mvcc);
    if (error == 0)
        error = mvcc_commit(apply->mvcc, last, term);
    invariant(error == 0);
}

/* Replies leave only now: the batch is visible to every reader. */
static void batch_finish(struct apply *apply, uint64_t last)
{
    uint64_t count = last - apply->applied_index;
    apply->applied_index = last;
    for (uint32_t i = 0; i < apply->done_count; i++)
        pending_finish(&apply->raft->pending, apply->done[i], apply->done[i]->error);
    raft_driver_applied(apply->raft, last); /* releases payloads: proposals go home */
    struct node_shared *shared = &apply->node->shared;
    atomic_store_explicit(&shared->proposals_applied, last, memory_order_relaxed);
    probe2(raft_apply, last, count);
}

/* No batch is open, and all that was applied is durable in the log: every memtable that waits can
 * be flushed. */
static void wait_for_tables(struct apply *apply)
{
    apply->waits = true;
    while (lsm_pressure(apply->node->lsm) >= LSM_PRESSURE_STOP && !apply->stopping)
        fiber_sleep_until(core_now_ns(apply->core) + APPLY_POLL_NS);
    apply->waits = false;
}

static void apply_run(void *argument)
{
    struct apply *apply = argument;
    while (!apply->stopping) {
        if (apply->applied_index == apply->target_index) {
            log_copy_destroy(&apply->copy);
            apply->copy_first = 0;
            fiber_event_wait(&apply->work);
            continue;
        }
        if (lsm_pressure(apply->node->lsm) >= LSM_PRESSURE_STOP) {
            wait_for_tables(apply);
            continue;
        }
        uint64_t last = u64_min(apply->target_index, apply->applied_index + APPLY_BATCH_MAX);
        batch_execute(apply, last);
        batch_finish(apply, last);
        if (fiber_should_yield())
            fiber_yield();
    }
    fiber_event_signal(&apply->ended);
}

/* ---- life ----------------------------------------------------------------------------------- */

int apply_start(struct node *node, struct raft_driver *raft, struct core *core,
                uint64_t applied_index, struct apply **out)
{
    struct apply *apply = calloc(1, sizeof(*apply));
    if (apply == NULL)
        return -ENOMEM;
    apply->node = node;
    apply->raft = raft;
    apply->core = core;
    apply->mvcc = node->mvcc;
    apply->applied_index = apply->target_index = applied_index;
    atomic_store_explicit(&node->shared.proposals_applied, applied_index, memory_order_relaxed);
    fiber_event_init(&apply->work);
    fiber_event_init(&apply->ended);
    arena_init(&apply->scratch, 0);
    arena_init(&apply->unwanted, PROPOSAL_RESULT_BYTES_MAX);
    arena_init(&apply->held, 0);
    int error = fiber_spawn(core, FIBER_LATENCY, apply_run, apply);
    if (error < 0) {
        free(apply);
        return error;
    }
    *out = apply;
    return 0;
}

void apply_stop(struct apply *apply)
{
    apply->stopping = true;
    fiber_event_signal(&apply->work);
    fiber_event_wait(&apply->ended);
    log_copy_destroy(&apply->copy);
    arena_deinit(&apply->scratch);
    arena_deinit(&apply->unwanted);
    arena_deinit(&apply->held);
}

void apply_destroy(struct apply *apply)
{
    free(apply);
}
