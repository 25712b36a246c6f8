/* Log, LSM and MVCC together on the simulated disk, the power cut at every single change of a
 * recorded workload: each write, sync and name, when it is issued and when it completes.
 *
 * The workload is a list of requests, made before the run; a request's log entry holds bytes that
 * only it can have. The run appends, applies what is durable, flushes, compacts, purges and
 * recycles segments, like a node that is alone. At each change of the disk the run pauses. A copy
 * of the disk loses power in several ways, and a second world starts on what is left: it must come
 * back with everything that was acknowledged, equal to the model after some prefix of the list,
 * take new requests, and come back once more.
 *
 *   STORAGE_CRASH_SEED    another workload, other losses
 *   STORAGE_CRASH_CUT     only this change of the disk, with its log lines */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/logger.h"
#include "storage/log/wal.h"
#include "storage/lsm/lsm.h"
#include "storage/mvcc/mvcc.h"
#include "tests/sim/disk.h"
#include "tests/sim/memory.h"
#include "tests/sim/reactor_sim.h"
#include "tests/sim/small_store.h"
#include "tests/sim/world.h"
#include "tests/unit/mvcc_model.c"

enum {
    KEYS = 40,
    VALUE_BYTES_MAX = 700,
    LARGE_BYTES = 12000, /* more than a log block: fragments */
    IN_FLIGHT_MAX = 6,
    EXTRA = 3, /* requests after each recovery */
    RUN_SECONDS_MAX = 600,
    MESSAGE_KIND_BASE = 8,
};

enum { REQUESTS = SANITIZED ? 240 : 420, TERM = 3 };

/* ---- the recorded workload --------------------------------------------------------------------
 */

struct request {
    enum { DO_PUT, DO_DELETE, DO_TXN, DO_COMPACT } kind;
    struct mvcc_op op;
    struct mvcc_compact_request compact;
    uint8_t *payload;
    uint32_t payload_bytes;
    int64_t revision, compacted; /* after it */
};

/* requests[i] is entry i; entry 0 does not exist. */
static struct request requests[REQUESTS + EXTRA + 1];
static struct model model;
static struct arena recorded;
static struct prng prng;

static struct bytes make_key(void)
{
    char text[16];
    int bytes = snprintf(text, sizeof(text), "key/%02d", (int)prng_below(&prng, KEYS));
    return arena_copy(&recorded, bytes_make(text, (size_t)bytes));
}

static struct bytes make_value(void)
{
    static uint8_t bytes[VALUE_BYTES_MAX];
    size_t size = prng_below(&prng, VALUE_BYTES_MAX);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)prng_next(&prng);
    return arena_copy(&recorded, bytes_make(bytes, size));
}

static struct mvcc_put_request make_put(void)
{
    return (struct mvcc_put_request){.key = make_key(), .value = make_value()};
}

static void make_txn(struct mvcc_txn_request *txn)
{
    struct mvcc_op *ops = arena_take(&recorded, 3 * sizeof(*ops));
    memset(ops, 0, 3 * sizeof(*ops));
    ops[0] = (struct mvcc_op){.kind = MVCC_OP_PUT, .put = make_put()};
    ops[1] = (struct mvcc_op){.kind = MVCC_OP_DELETE, .del = {.key = make_key()}};
    ops[2] = (struct mvcc_op){.kind = MVCC_OP_PUT, .put = make_put()};
    struct mvcc_compare *compare = arena_take(&recorded, sizeof(*compare));
    *compare = (struct mvcc_compare){.key = make_key(), .target = MVCC_COMPARE_VERSION};
    *txn = (struct mvcc_txn_request){.compares = compare,
                                     .compare_count = 1,
                                     .success = ops,
                                     .success_count = 2,
                                     .failure = ops + 2,
                                     .failure_count = 1};
}

static int apply_to_model(const struct request *request, struct arena *arena)
{
    struct mvcc_op_result result;
    int64_t revision;
    switch (request->kind) {
    case DO_PUT:
        return model_put(&model, &request->op.put, arena, &result.put);
    case DO_DELETE:
        return model_delete(&model, &request->op.del, arena, &result.del);
    case DO_TXN:
        return model_txn(&model, &request->op.txn, arena, &result.txn);
    case DO_COMPACT:
        return model_compact(&model, &request->compact, &revision);
    }
    return -1;
}

static void make_request(struct request *request, uint64_t index)
{
    uint64_t dice = prng_below(&prng, 100);
    if (dice < 60) {
        request->kind = DO_PUT;
        request->op.put = make_put();
    } else if (dice < 75) {
        request->kind = DO_DELETE;
        request->op.del = (struct mvcc_delete_request){.key = make_key()};
        if (dice < 65)
            request->op.del.range_end = arena_copy(&recorded, bytes_from_text("key/2"));
    } else if (dice < 96) {
        request->kind = DO_TXN;
        make_txn(&request->op.txn);
    } else {
        request->kind = DO_COMPACT;
        request->compact.revision = model.revision - (int64_t)prng_below(&prng, 12);
    }
    request->payload_bytes = (uint32_t)prng_below(&prng, 1500);
    if (index % 50 == 0)
        request->payload_bytes += LARGE_BYTES;
    request->payload = arena_take(&recorded, request->payload_bytes + 1);
    for (uint32_t i = 0; i < request->payload_bytes; i++)
        request->payload[i] = (uint8_t)(index * 37 + i * 11 + i / 256);
}

static void record_workload(uint64_t seed)
{
    struct arena scratch;
    arena_init(&scratch, 0);
    arena_init(&recorded, 0);
    prng_init(&prng, seed);
    model_init(&model);
    requests[0] = (struct request){.revision = model.revision, .compacted = model.compacted};
    for (uint64_t index = 1; index <= REQUESTS + EXTRA; index++) {
        struct request *request = &requests[index];
        make_request(request, index);
        int error = apply_to_model(request, &scratch);
        cr_assert(error == 0 || request->kind == DO_COMPACT);
        request->revision = model.revision;
        request->compacted = model.compacted;
        arena_reset(&scratch);
    }
    arena_deinit(&scratch);
}

/* ---- the stack --------------------------------------------------------------------------------
 */

struct stack {
    struct core *core;
    struct wal *wal;
    struct lsm *lsm;
    struct lsm_reader *lsm_reader;
    struct mvcc_shared *shared;
    struct mvcc *mvcc;
    struct mvcc_reader *reader;
    uint64_t applied;       /* what a client would have been told */
    uint64_t applied_start; /* what the tables had */
    uint64_t durable;       /* the log's */
    struct fiber_event moved;
    bool purging;
    struct arena arena;
};

static void tables_open(struct stack *stack)
{
    struct lsm_options options = small_lsm_options("/data/lsm", MESSAGE_KIND_BASE);
    stack->shared = mvcc_shared_create();
    mvcc_configure_lsm(stack->shared, &options);
    int error = lsm_open(stack->core, &options, &stack->lsm);
    sim_check(error == 0, "lsm_open: %s; %s", err_name(error), logger_last_error());
    error = lsm_reader_open(stack->lsm, stack->core, &stack->lsm_reader);
    sim_check(error == 0, "lsm_reader_open: %s", err_name(error));
    error = mvcc_open(&(struct mvcc_options){.shared = stack->shared,
                                             .lsm = stack->lsm,
                                             .lsm_reader = stack->lsm_reader},
                      &stack->mvcc);
    sim_check(error == 0, "mvcc_open: %s; %s", err_name(error), logger_last_error());
    error = mvcc_reader_open(&(struct mvcc_reader_options){.shared = stack->shared,
                                                           .lsm = stack->lsm,
                                                           .lsm_reader = stack->lsm_reader},
                             &stack->reader);
    sim_check(error == 0, "mvcc_reader_open: %s", err_name(error));
    stack->applied_start = stack->applied = mvcc_applied_index(stack->mvcc);
    sim_check(stack->applied <= REQUESTS + EXTRA, "applied %llu",
              (unsigned long long)stack->applied);
    sim_check(mvcc_revision(stack->mvcc) == requests[stack->applied].revision,
              "tables at index %llu: revision %lld, model %lld", (unsigned long long)stack->applied,
              (long long)mvcc_revision(stack->mvcc), (long long)requests[stack->applied].revision);
    sim_check(mvcc_compacted(stack->mvcc) == requests[stack->applied].compacted,
              "tables at index %llu: compacted %lld, model %lld",
              (unsigned long long)stack->applied, (long long)mvcc_compacted(stack->mvcc),
              (long long)requests[stack->applied].compacted);
}

static void apply_entry(struct stack *stack, const struct entry *entry)
{
    struct mvcc_op_result result;
    int64_t revision;
    int error = 0;
    sim_check(entry->index == stack->applied + 1, "entry %llu after %llu",
              (unsigned long long)entry->index, (unsigned long long)stack->applied);
    sim_check(entry->index <= REQUESTS + EXTRA && entry->tag == 0, "entry %llu",
              (unsigned long long)entry->index);
    const struct request *request = &requests[entry->index];
    sim_check(entry->payload_bytes == request->payload_bytes &&
                  memcmp(entry->payload, request->payload, entry->payload_bytes) == 0,
              "payload of entry %llu", (unsigned long long)entry->index);
    switch (request->kind) {
    case DO_PUT:
        error = mvcc_apply_put(stack->mvcc, &request->op.put, &stack->arena, &result.put);
        break;
    case DO_DELETE:
        error = mvcc_apply_delete_range(stack->mvcc, &request->op.del, &stack->arena, &result.del);
        break;
    case DO_TXN:
        error = mvcc_apply_txn(stack->mvcc, &request->op.txn, &stack->arena, &result.txn);
        break;
    case DO_COMPACT:
        error = mvcc_apply_compact(stack->mvcc, &request->compact, &revision);
        if (error == 0)
            lsm_garbage_changed(stack->lsm);
        if (error == ERR_COMPACTED)
            error = 0;
        break;
    }
    sim_check(error == 0, "entry %llu: %s", (unsigned long long)entry->index, err_name(error));
    arena_reset(&stack->arena);
    stack->applied = entry->index;
}

static void commit(struct stack *stack)
{
    int error = mvcc_commit(stack->mvcc, stack->applied, TERM);
    sim_check(error == 0, "commit: %s", err_name(error));
    sim_check(mvcc_revision(stack->mvcc) == requests[stack->applied].revision,
              "after entry %llu: revision %lld, model %lld", (unsigned long long)stack->applied,
              (long long)mvcc_revision(stack->mvcc), (long long)requests[stack->applied].revision);
}

static int replay_entry(void *context, const struct entry *entry)
{
    apply_entry(context, entry);
    commit(context);
    return 0;
}

struct batch {
    struct wal_append append;
    struct stack *stack;
    struct entry entry;
    bool done;
};

static void batch_done(struct wal_append *append)
{
    struct batch *batch = container_of(append, struct batch, append);
    batch->done = true;
    if (batch->entry.index != 0)
        batch->stack->durable = batch->entry.index;
    fiber_event_signal(&batch->stack->moved);
}

static void batch_start(struct stack *stack, struct batch *batch, enum wal_append_kind kind,
                        uint64_t index)
{
    *batch = (struct batch){.append = {.kind = kind, .done = batch_done}, .stack = stack};
    queue_link_init(&batch->append.link);
    if (kind == WAL_APPEND_CUT) {
        batch->append.index = index;
    } else {
        const struct request *request = &requests[index];
        batch->entry =
            (struct entry){.index = index,
                           .term = TERM,
                           .payload = request->payload_bytes == 0 ? NULL : request->payload,
                           .payload_bytes = request->payload_bytes,
                           .payload_crc = crc32c(0, request->payload, request->payload_bytes)};
        batch->append.entries = &batch->entry;
        batch->append.entry_count = 1;
    }
    wal_append(stack->wal, &batch->append);
}

/* What was in flight at the crash was never acknowledged: a node that is alone drops it. */
static void cut_unproven(struct stack *stack, struct wal_recovered *recovered)
{
    struct batch cut;
    sim_check(recovered->fault_proven_count == 0, "%s", recovered->reason);
    batch_start(stack, &cut, WAL_APPEND_CUT, recovered->fault_first_index - 1);
    wal_flush(stack->wal);
    while (!cut.done)
        fiber_event_wait(&stack->moved);
    recovered->last_index = recovered->fault_first_index - 1;
    sometimes(true, "storage crash: blocks cut that nothing proves durable");
}

static void log_open(struct stack *stack, uint64_t acknowledged)
{
    struct wal_recovered recovered;
    struct wal_options options = {.directory = "/data/log",
                                  .segment_bytes = 32 * KIB,
                                  .block_bytes_max = 16384,
                                  .ring_slots = 64,
                                  .alone = true};
    int error = wal_open(&options, &stack->wal, &recovered);
    sim_check(error == 0, "wal_open: %s; %s", err_name(error), recovered.reason);
    if (recovered.verdict == WAL_VERDICT_FAULTY)
        cut_unproven(stack, &recovered);
    sim_check(recovered.last_index >= acknowledged,
              "entries up to %llu were acknowledged, %llu are left: %s",
              (unsigned long long)acknowledged, (unsigned long long)recovered.last_index,
              recovered.reason);
    sim_check(recovered.first_index <= stack->applied + 1 && recovered.last_index >= stack->applied,
              "the log has %llu to %llu, the tables end at %llu",
              (unsigned long long)recovered.first_index, (unsigned long long)recovered.last_index,
              (unsigned long long)stack->applied);
    stack->durable = recovered.last_index;
    if (recovered.last_index > stack->applied) {
        error = wal_replay(stack->wal, stack->applied + 1, replay_entry, stack);
        sim_check(error == 0, "replay: %s", err_name(error));
    }
    sim_check(stack->applied == recovered.last_index, "replayed to %llu",
              (unsigned long long)stack->applied);
    lsm_set_durable_index(stack->lsm, stack->durable);
}

static void stack_open(struct stack *stack, uint64_t acknowledged)
{
    *stack = (struct stack){.core = core_current()};
    fiber_event_init(&stack->moved);
    arena_init(&stack->arena, 0);
    tables_open(stack);
    log_open(stack, acknowledged);
    lsm_background_start(stack->lsm, stack->core);
}

static void stack_close(struct stack *stack)
{
    mvcc_reader_close(stack->reader);
    mvcc_close(stack->mvcc);
    lsm_background_stop(stack->lsm);
    lsm_reader_close(stack->lsm_reader);
    fiber_sleep_until(core_now_ns(stack->core) + NS_PER_MS);
    lsm_close(stack->lsm);
    mvcc_shared_destroy(stack->shared);
    wal_close(stack->wal);
    arena_deinit(&stack->arena);
}

/* A physical compaction: a fiber of its own, so that it meets batches half applied. */
static void purge_run(void *argument)
{
    struct stack *stack = argument;
    (void)!mvcc_purge(stack->mvcc);
    stack->purging = false;
    fiber_event_signal(&stack->moved);
}

static void purge_start(struct stack *stack)
{
    if (stack->purging)
        return;
    stack->purging = true;
    invariant(fiber_spawn(stack->core, FIBER_LATENCY, purge_run, stack) == 0);
}

/* Appends and applies up to entry `last`, several in flight. */
static void stack_write(struct stack *stack, uint64_t last, struct prng *pace)
{
    struct batch batches[IN_FLIGHT_MAX];
    uint64_t next = stack->applied + 1;
    while (stack->applied < last) {
        uint64_t room = 1 + prng_below(pace, IN_FLIGHT_MAX);
        for (; next <= last && next - stack->applied <= room; next++)
            batch_start(stack, &batches[next % IN_FLIGHT_MAX], WAL_APPEND_ENTRIES, next);
        wal_flush(stack->wal);
        while (stack->durable == stack->applied)
            fiber_event_wait(&stack->moved);
        lsm_set_durable_index(stack->lsm, stack->durable);
        for (uint64_t to = stack->durable; stack->applied < to;) {
            apply_entry(stack, &batches[(stack->applied + 1) % IN_FLIGHT_MAX].entry);
            if (prng_chance(pace, 1, 4)) /* as if it waited for a block */
                fiber_sleep_until(core_now_ns(stack->core) + prng_below(pace, NS_PER_MS));
        }
        commit(stack);
        wal_release(stack->wal, lsm_flushed_index(stack->lsm));
        while (lsm_pressure(stack->lsm) >= LSM_PRESSURE_FULL)
            fiber_sleep_until(core_now_ns(stack->core) + NS_PER_MS);
        if (prng_chance(pace, 1, 6))
            fiber_sleep_until(core_now_ns(stack->core) + prng_below(pace, 3 * NS_PER_MS));
        if (prng_chance(pace, 1, 20))
            purge_start(stack);
    }
    while (stack->purging)
        fiber_event_wait(&stack->moved);
}

/* Every key at some revisions that must still be readable; the number of events above the
 * watermark; the count of keys. */
static void stack_compare(struct stack *stack, struct prng *pace)
{
    int64_t current = requests[stack->applied].revision;
    int64_t compacted = requests[stack->applied].compacted;
    int64_t oldest = compacted > 1 ? compacted : 1;
    uint64_t keys = 0;
    for (int round = 0; round < 4; round++) {
        int64_t at = round == 0 ? current
                     : round == 1
                         ? oldest
                         : oldest + (int64_t)prng_below(pace, (uint64_t)(current - oldest + 1));
        struct mvcc_range_request all = {
            .key = bytes_make("\0", 1), .range_end = bytes_make("\0", 1), .revision = at};
        struct mvcc_range_result got, want;
        int error = mvcc_range(stack->reader, &all, &stack->arena, &got);
        sim_check(error == 0, "range at %lld: %s", (long long)at, err_name(error));
        do_range(&model, &all, &stack->arena, &want);
        want.revision = current;
        const char *differ = model_differ_range(&got, &want);
        sim_check(differ == NULL, "at revision %lld of %lld: %s", (long long)at, (long long)current,
                  differ);
        keys = round == 0 ? got.kv_count : keys;
        arena_reset(&stack->arena);
    }
    sim_check(
        mvcc_shared_stats(stack->shared).key_count == keys, "the ledger counts %llu keys of %llu",
        (unsigned long long)mvcc_shared_stats(stack->shared).key_count, (unsigned long long)keys);
    struct mvcc_history_options from = {.from_revision = oldest};
    struct mvcc_history *history;
    struct mvcc_event event;
    uint32_t next = 0;
    int found = mvcc_history_open(stack->reader, &from, &history);
    sim_check(found == 0, "history: %s", err_name(found));
    while (next < model.event_count && model.events[next].main <= oldest)
        next++;
    while ((found = mvcc_history_next(history, &event)) > 0) {
        if (event.kv.mod_revision <= oldest)
            continue;
        sim_check(next < model.event_count && event.kv.mod_revision == model.events[next].main &&
                      event.sub == model.events[next].sub,
                  "an event of revision %lld", (long long)event.kv.mod_revision);
        next++;
    }
    sim_check(found == 0 && (next == model.event_count || model.events[next].main > current),
              "events are missing: %s", err_name(found));
    mvcc_history_close(history);
}

/* ---- cutting the power ------------------------------------------------------------------------
 */

struct crash {
    struct sim_world world; /* the recorded run */
    struct sim_node node;
    struct sim_disk *disk;
    struct stack stack;
    struct prng losses, pace;
    uint64_t change, cuts, only_cut;
    uint64_t acknowledged_seen[2]; /* recoveries that had to find nothing, something */
    bool finished;
};

struct revival {
    uint64_t acknowledged;
    struct prng pace;
    bool finished;
};

static void revival_run(void *argument)
{
    struct revival *revival = argument;
    struct stack stack;
    stack_open(&stack, revival->acknowledged);
    stack_compare(&stack, &revival->pace);
    uint64_t reached = u64_min(stack.applied + EXTRA, REQUESTS + EXTRA);
    stack_write(&stack, reached, &revival->pace);
    stack_close(&stack);
    stack_open(&stack, reached);
    stack_compare(&stack, &revival->pace);
    stack_close(&stack);
    revival->finished = true;
}

/* What it finds at its start it may acknowledge. */
static void found_run(void *argument)
{
    struct revival *revival = argument;
    struct stack stack;
    stack_open(&stack, revival->acknowledged);
    revival->acknowledged = stack.durable;
    revival->finished = true;
    fiber_event_wait(&stack.moved); /* for ever: the power goes */
}

static void run_on(struct sim_node *node, void (*entry)(void *argument), struct revival *revival)
{
    struct core_options options = small_core_options();
    revival->finished = false;
    sim_node_boot(node, &options, 1);
    sim_enter(node, 0);
    invariant(fiber_spawn(node->cores[0].core, FIBER_LATENCY, entry, revival) == 0);
    sim_leave(node);
    bool done = sim_world_run(node->world, &revival->finished, RUN_SECONDS_MAX * NS_PER_S);
    sim_check(done, "recovery stalled");
}

/* The process was killed, so the disk forgot nothing; a new one started; then the power fails. */
static void start_and_cut(struct sim_node *node, struct revival *revival, struct prng *losses)
{
    memory_may_leak(true); /* a process without power frees nothing */
    run_on(node, found_run, revival);
    memory_may_leak(false);
    sim_requests_land(node, node->disk, false, SIM_LOSS_ALL, losses);
    sim_node_crash(node);
    sim_disk_power_cut(node->disk, SIM_LOSS_ALL, losses);
}

/* What would a node find if the power failed now? Or, if nothing is lost, if its process ended? */
static void revive(struct crash *crash, enum sim_loss loss)
{
    struct sim_disk *disk = sim_disk_clone(crash->disk);
    sim_requests_land(&crash->node, disk, true, loss, &crash->losses);
    if (loss != SIM_LOSS_NONE)
        sim_disk_power_cut(disk, loss, &crash->losses);
    struct revival revival = {.acknowledged = crash->stack.applied};
    prng_init(&revival.pace, prng_next(&crash->losses));
    struct sim_world *world = sim_alloc(sizeof(*world));
    struct sim_node node;
    sim_set_replay("test_storage_crash with STORAGE_CRASH_CUT=%llu (loss %s, acknowledged %llu)",
                   (unsigned long long)crash->change, sim_loss_name(loss),
                   (unsigned long long)revival.acknowledged);
    sim_world_init(world, &(struct sim_options){.seed = prng_next(&crash->losses),
                                                .log_to_stderr = crash->only_cut != 0});
    struct sim_world *outer = sim_world_enter(world);
    sim_node_init(&node, world, disk);
    if (loss == SIM_LOSS_NONE)
        start_and_cut(&node, &revival, &crash->losses);
    run_on(&node, revival_run, &revival);
    sim_node_shutdown(&node);
    sim_node_deinit(&node);
    sim_world_deinit(world);
    sim_world_enter(outer);
    sim_disk_destroy(disk);
    free(world);
    crash->cuts++;
    crash->acknowledged_seen[revival.acknowledged > 0]++;
}

static void on_disk_change(void *context)
{
    struct crash *crash = context;
    crash->change++;
    struct prng saved = crash->losses;
    prng_init(&crash->losses, sim_seed_split(crash->change, "cut"));
    if (crash->only_cut == 0 || crash->only_cut == crash->change) {
        for (uint32_t i = 0; i < (SANITIZED ? 2 : SIM_LOSS_COUNT); i++)
            revive(crash, (enum sim_loss)((crash->change + i) % SIM_LOSS_COUNT));
    }
    crash->losses = saved;
}

static void crash_run(void *argument)
{
    struct crash *crash = argument;
    stack_open(&crash->stack, 0);
    stack_write(&crash->stack, REQUESTS, &crash->pace);
    struct lsm_stats stats;
    lsm_stats(crash->stack.lsm, &stats);
    const struct wal_stats *log = wal_stats(crash->stack.wal);
    cr_log_info(
        "%llu cuts; %llu flushes, %llu compactions, %llu rows dropped, %llu segments recycled",
        (unsigned long long)crash->cuts, (unsigned long long)stats.flushes,
        (unsigned long long)stats.compactions, (unsigned long long)stats.rows_dropped,
        (unsigned long long)log->segments_recycled);
    sim_check(stats.flushes > 3 && stats.compactions > 0 && stats.rows_dropped > 0,
              "the workload is too small for this test");
    sim_check(log->segments_recycled > 0, "no segment was recycled");
    stack_close(&crash->stack);
    crash->finished = true;
}

Test(storage_crash, every_power_cut_of_a_workload_is_survived, .timeout = 280)
{
    const char *seed_text = getenv("STORAGE_CRASH_SEED"), *cut_text = getenv("STORAGE_CRASH_CUT");
    uint64_t seed = seed_text != NULL ? strtoull(seed_text, NULL, 0) : 1;
    struct crash *crash = calloc(1, sizeof(*crash));
    logger_set_level(cut_text != NULL ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR);
    crash->only_cut = cut_text != NULL ? strtoull(cut_text, NULL, 0) : 0;
    record_workload(seed);
    prng_init(&crash->pace, seed);
    sim_world_init(&crash->world, &(struct sim_options){.seed = seed});
    sim_world_enter(&crash->world);
    crash->disk = sim_disk_create(64 * MIB, 512);
    cr_assert_eq(sim_disk_make_directory(crash->disk, "/data"), 0);
    sim_disk_power_cut(crash->disk, SIM_LOSS_NONE, &crash->pace); /* the directory itself is old */
    sim_node_init(&crash->node, &crash->world, crash->disk);
    struct core_options options = small_core_options();
    sim_node_boot(&crash->node, &options, 1);
    crash->world.on_disk_change = on_disk_change;
    crash->world.on_disk_change_context = crash;
    sim_enter(&crash->node, 0);
    cr_assert_eq(fiber_spawn(crash->node.cores[0].core, FIBER_LATENCY, crash_run, crash), 0);
    sim_leave(&crash->node);
    bool finished = sim_world_run(&crash->world, &crash->finished, RUN_SECONDS_MAX * NS_PER_S);
    cr_assert(finished, "stalled");
    cr_assert_gt(crash->cuts, crash->only_cut != 0 ? 0 : 1000);
    sim_node_shutdown(&crash->node);
    sim_node_deinit(&crash->node);
    sim_disk_destroy(crash->disk);
    sim_world_deinit(&crash->world);
    model_deinit(&model);
    arena_deinit(&recorded);
    free(crash);
}
