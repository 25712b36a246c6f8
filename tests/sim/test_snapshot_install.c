/* Receiving a snapshot and starting on it, the power cut at every single change of the disk: each
 * write, sync and name, when it is issued and when it completes.
 *
 * A member with a log and tables receives the checkpoint of another one, restarts, installs it and
 * goes on. At each change of its disk the run pauses. A copy of the disk loses power in several
 * ways, and a second world starts on what is left: it must come back before or after the install,
 * with every entry that it acknowledged, take new ones, and come back once more. Scenarios differ
 * in what happens to the log meanwhile.
 *
 *   SNAPSHOT_CRASH_CUT    only this change of the disk, with its log lines */
#include <criterion/criterion.h>
#include <errno.h>

#include "server/peer_codec.h"
#include "server/snapshot_files.h"
#include "server/snapshot_install.h"
#include "server/snapshot_receive.h"
#include "storage/log/wal.h"
#include "tests/sim/disk.h"
#include "tests/sim/memory.h"
#include "tests/sim/reactor_sim.h"
#include "tests/sim/small_store.h"
#include "tests/sim/snapshot_store.c"

enum {
    OWN_LAST = STORE_FORK, /* what the receiver has at first */
    OTHER_BRANCH = 52,     /* ... and, of a leader that was deposed, never committed */
    SNAPSHOT_LAST = 110,   /* what the sender has */
    CAUGHT_UP = 117,       /* where the log arrives, if it does */
    LOST = 60,             /* whose bytes go bad, if any do */
    EXTRA = 3,             /* entries after each recovery */
    CHUNK_BYTES = 20000,
    SENDER = 9,
    RUN_SECONDS_MAX = 600,
};
#define BRANCH_TERM UINT64_C(4)

#ifdef __SANITIZE_ADDRESS__
enum { LOSSES = 2 };
#else
enum { LOSSES = SIM_LOSS_COUNT };
#endif

/* Where a node has no heap of its own (sanitizers), what a crash drops looks like a leak. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

/* ---- a member: log and tables ---------------------------------------------------------------- */

struct member {
    struct wal *wal;
    struct store store;
    uint64_t last;   /* of the log */
    uint64_t agreed; /* up to here it is of the agreed history, durable and acknowledged */
    uint64_t fault;  /* the lowest damaged entry that the tables lack; 0: none */
    bool installed;  /* at this start */
    struct fiber_event moved;
};

struct batch {
    struct wal_append append;
    struct member *member;
    struct entry entry;
    uint8_t payload[STORE_VALUE_BYTES_MAX];
    bool done;
};

static void batch_done(struct wal_append *append)
{
    struct batch *batch = container_of(append, struct batch, append);
    batch->done = true;
    fiber_event_signal(&batch->member->moved);
}

/* One append, until it is durable. */
static void append_wait(struct member *member, struct batch *batch)
{
    batch->member = member;
    batch->done = false;
    batch->append.done = batch_done;
    queue_link_init(&batch->append.link);
    wal_append(member->wal, &batch->append);
    wal_flush(member->wal);
    while (!batch->done)
        fiber_event_wait(&member->moved);
}

static void append_entry(struct member *member, uint64_t index, uint64_t term)
{
    struct batch *batch = calloc(1, sizeof(*batch));
    uint32_t bytes = store_value(index, term, batch->payload);
    batch->entry = (struct entry){.index = index,
                                  .term = term,
                                  .payload = batch->payload,
                                  .payload_bytes = bytes,
                                  .payload_crc = crc32c(0, batch->payload, bytes)};
    batch->append = (struct wal_append){
        .kind = WAL_APPEND_ENTRIES,
        .entries = &batch->entry,
        .entry_count = 1,
        .has_hard_state = true,
        .hard_state = {.term = term, .commit = term == BRANCH_TERM ? STORE_FORK : index}};
    append_wait(member, batch);
    free(batch);
    member->last = index;
    if (term == store_term(index))
        member->agreed = index;
}

/* A leader brings entries up to `last`; the tables follow. */
static void member_append(struct member *member, uint64_t last)
{
    while (member->agreed < last)
        append_entry(member, member->agreed + 1, store_term(member->agreed + 1));
    lsm_set_durable_index(member->store.lsm, member->agreed);
    while (member->store.applied < (member->fault != 0 ? member->fault - 1 : member->agreed))
        store_apply(&member->store);
    wal_release(member->wal, lsm_flushed_index(member->store.lsm));
}

static int check_entry(void *context, const struct entry *entry)
{
    struct member *member = context;
    uint8_t value[STORE_VALUE_BYTES_MAX];
    uint32_t bytes = store_value(entry->index, entry->term, value);
    sim_check(entry->term == store_term(entry->index) ||
                  (entry->index > STORE_FORK && entry->term == BRANCH_TERM),
              "entry %llu of term %llu", (unsigned long long)entry->index,
              (unsigned long long)entry->term);
    sim_check(entry->tag == WAL_ENTRY_FAULTY ||
                  (entry->payload_bytes == bytes && memcmp(entry->payload, value, bytes) == 0),
              "payload of entry %llu", (unsigned long long)entry->index);
    if (entry->term != store_term(entry->index))
        return 0;
    member->agreed = entry->index;
    if (entry->tag == WAL_ENTRY_FAULTY && member->fault == 0)
        member->fault = entry->index;
    while (member->store.applied < entry->index && member->fault == 0)
        store_apply(&member->store);
    return 0;
}

/* What was in flight at the cut was not acknowledged; the others would say that they never had it.
 */
static void cut_unproven(struct member *member, struct wal_recovered *recovered)
{
    struct wal_fault fault;
    for (uint32_t i = 0; wal_fault_get(member->wal, i, &fault); i++) {
        if (fault.proven)
            continue;
        struct batch *cut = calloc(1, sizeof(*cut));
        recovered->last_index = fault.first_index - 1;
        cut->append = (struct wal_append){.kind = WAL_APPEND_CUT, .index = recovered->last_index};
        append_wait(member, cut);
        free(cut);
        break;
    }
}

/* As log_role_reset() does it. */
static void log_reset(struct member *member, const struct snapshot_position *position,
                      struct wal_recovered *recovered)
{
    struct batch *reset = calloc(1, sizeof(*reset));
    reset->append = (struct wal_append){
        .kind = WAL_APPEND_RESET,
        .index = position->index,
        .term = position->term,
        .has_hard_state = true,
        .hard_state = {.term = u64_max(recovered->hard_state.term, position->term),
                       .vote = recovered->hard_state.vote,
                       .commit = position->index}};
    append_wait(member, reset);
    free(reset);
    recovered->first_index = position->index + 1;
    recovered->last_index = position->index;
}

static struct snapshot_log log_look(const struct wal *wal, uint64_t index, uint64_t contained)
{
    struct wal_fault fault;
    struct snapshot_log found = {.base_index = wal_first_index(wal) - 1,
                                 .term = wal_term(wal, index)};
    for (uint32_t i = 0; found.fault_index == 0 && wal_fault_get(wal, i, &fault); i++)
        if (fault.last_index > contained)
            found.fault_index = u64_max(fault.first_index, contained + 1);
    return found;
}

/* The order of server/node.c. True: the log is to be reset. */
static bool install(struct member *member, enum snapshot_install found,
                    const struct snapshot_position *position)
{
    uint64_t contained = 0;
    int error = found == SNAPSHOT_BEGUN ? 0 : lsm_stored_index("/data/lsm", &contained);
    sim_check(error == 0, "lsm_stored_index: %s", err_name(error));
    struct snapshot_log log = log_look(member->wal, position->index, contained);
    member->installed = found == SNAPSHOT_BEGUN || snapshot_is_news(position, &log);
    sometimes(!member->installed, "snapshot: the log caught up before the start");
    error =
        member->installed ? snapshot_install_exchange("/data") : snapshot_install_discard("/data");
    sim_check(error == 0, "exchange: %s", err_name(error));
    return member->installed && !snapshot_is_in_log(position, &log);
}

static void member_start(struct member *member)
{
    struct wal_recovered recovered;
    struct snapshot_position position;
    struct wal_options options = {.directory = "/data/log",
                                  .segment_bytes = 32 * KIB,
                                  .block_bytes_max = 8192,
                                  .ring_slots = 64};
    *member = (struct member){0};
    fiber_event_init(&member->moved);
    int found = snapshot_install_find("/data", &position);
    sim_check(found >= 0, "snapshot_install_find: %s; %s", err_name(found), logger_last_error());
    int error = wal_open(&options, &member->wal, &recovered);
    sim_check(error == 0 && recovered.verdict != WAL_VERDICT_FENCED, "wal_open: %s; %s",
              err_name(error), recovered.reason);
    cut_unproven(member, &recovered);
    bool reset = found != SNAPSHOT_NONE && install(member, (enum snapshot_install)found, &position);
    store_open(&member->store, "/data/lsm", reset ? 0 : recovered.first_index,
               recovered.last_index);
    if (reset)
        log_reset(member, &position, &recovered);
    if (member->installed) {
        error = snapshot_install_end("/data");
        sim_check(error == 0, "snapshot_install_end: %s", err_name(error));
    }
    lsm_background_start(member->store.lsm, core_current());
    member->last = recovered.last_index;
    member->agreed = member->store.applied;
    lsm_set_durable_index(member->store.lsm, recovered.last_index);
    if (recovered.last_index > member->store.applied) {
        error = wal_replay(member->wal, member->store.applied + 1, check_entry, member);
        sim_check(error == 0, "replay after %llu: %s", (unsigned long long)member->store.applied,
                  err_name(error));
    }
    store_check(&member->store);
}

static void member_stop(struct member *member)
{
    store_close(&member->store);
    wal_close(member->wal);
}

/* ---- the sender's side ----------------------------------------------------------------------- */

struct reception {
    struct member *member;
    struct snapshot_files *files;
    struct snapshot_receive *receive;
    struct snapshot_status told;
    uint32_t told_count;
    bool received;
};

static bool call_is_leader(void *context, uint64_t id)
{
    (void)context;
    return id == SENDER;
}

static bool call_is_news(void *context, const struct snapshot_position *position)
{
    const struct member *member = ((struct reception *)context)->member;
    struct snapshot_log log = log_look(member->wal, position->index, member->store.applied);
    return snapshot_is_news(position, &log);
}

static void call_send(void *context, const struct peer_frame_out *frame, const uint8_t *meta)
{
    struct reception *reception = context;
    struct peer_input input = {.header = {.meta_bytes = frame->meta_bytes}, .meta = meta};
    invariant(frame->kind == PEER_MESSAGE_SNAPSHOT_STATUS && frame->to == SENDER);
    invariant(snapshot_status_decode(&input, &reception->told) == 0);
    reception->told_count++;
}

static void call_received(void *context)
{
    struct reception *reception = context;
    sim_check(!reception->received, "told twice");
    reception->received = true;
}

static const struct snapshot_receive_calls calls = {.is_leader = call_is_leader,
                                                    .is_news = call_is_news,
                                                    .send = call_send,
                                                    .received = call_received};

static void file_found(void *context, const char *name)
{
    struct snapshot_files *files = context;
    snprintf(files->files[files->count++].name, SNAPSHOT_NAME_BYTES, "%s", name);
}

static struct snapshot_files *files_list(const char *dir)
{
    struct snapshot_files *files = calloc(1, sizeof(*files));
    *files = (struct snapshot_files){
        .transfer = 77, .index = SNAPSHOT_LAST, .term = store_term(SNAPSHOT_LAST)};
    invariant(reactor_list(core_reactor(core_current()), dir, file_found, files) == 0);
    for (uint32_t i = 0; i < files->count; i++) { /* the simulated disk lists in byte order */
        char path[128];
        struct io_stat stat;
        snprintf(path, sizeof(path), "%s/%s", dir, files->files[i].name);
        invariant(await_stat(path, &stat) == 0);
        files->files[i].bytes = stat.bytes;
        files->bytes += stat.bytes;
    }
    return files;
}

static int feed(struct reception *reception, uint16_t kind, uint32_t meta_bytes,
                uint32_t payload_bytes, struct peer_body *body)
{
    struct peer_input input = {.header = {.kind = kind,
                                          .from = SENDER,
                                          .meta_bytes = meta_bytes,
                                          .payload_bytes = payload_bytes},
                               .meta = body->data,
                               .payload = body->data + meta_bytes,
                               .body = body};
    int error = kind == PEER_MESSAGE_SNAPSHOT_OFFER
                    ? snapshot_receive_offer(reception->receive, &input)
                    : snapshot_receive_chunk(reception->receive, &input);
    peer_body_release(body);
    return error;
}

static struct peer_body *body_make(uint32_t bytes)
{
    struct peer_body *body = calloc(1, sizeof(*body) + bytes);
    body->references = 1;
    body->bytes = bytes;
    return body;
}

static int feed_offer(struct reception *reception)
{
    uint32_t bytes = snapshot_offer_bytes(reception->files);
    struct peer_body *body = body_make(bytes);
    snapshot_offer_encode(body->data, reception->files);
    return feed(reception, PEER_MESSAGE_SNAPSHOT_OFFER, bytes, 0, body);
}

static uint32_t chunk_bytes(const struct snapshot_files *files, uint64_t position)
{
    struct snapshot_place place = snapshot_place(files, position);
    return (uint32_t)u64_min(CHUNK_BYTES, files->files[place.file].bytes - place.offset);
}

static int feed_chunk(struct reception *reception, uint64_t position)
{
    struct snapshot_place place = snapshot_place(reception->files, position);
    const struct snapshot_file *from = &reception->files->files[place.file];
    uint32_t bytes = chunk_bytes(reception->files, position);
    struct peer_body *body = body_make(SNAPSHOT_CHUNK_META + bytes);
    char path[128];
    struct io_file file;
    snprintf(path, sizeof(path), "/sender/out/%s", from->name);
    invariant(await_open(path, IO_OPEN_READ, &file) == 0);
    invariant(await_read(file, (struct io_span){.base = body->data + SNAPSHOT_CHUNK_META,
                                                .offset = place.offset,
                                                .bytes = bytes}) == (int32_t)bytes);
    await_close(&file);
    snapshot_chunk_encode(
        body->data,
        &(struct snapshot_chunk){.transfer = reception->files->transfer,
                                 .position = position,
                                 .crc = crc32c(0, body->data + SNAPSHOT_CHUNK_META, bytes)});
    return feed(reception, PEER_MESSAGE_SNAPSHOT_CHUNK, SNAPSHOT_CHUNK_META, bytes, body);
}

static void wait_ms(uint64_t ms)
{
    fiber_sleep_until(core_now_ns(core_current()) + ms * NS_PER_MS);
}

static void reception_begin(struct reception *reception, struct member *member, uint64_t transfer)
{
    *reception = (struct reception){.member = member, .files = files_list("/sender/out")};
    reception->files->transfer = transfer;
    reception->receive = snapshot_receive_create(core_current(), "/data", &calls, reception);
    invariant(feed_offer(reception) == 0);
    while (reception->told_count == 0)
        wait_ms(1);
}

static void reception_end(struct reception *reception)
{
    snapshot_receive_destroy(reception->receive);
    free(reception->files);
}

/* The chunks of [from, to), some of them twice. */
static void feed_range(struct reception *reception, uint64_t from, uint64_t to)
{
    for (uint64_t position = from; position < to;
         position += chunk_bytes(reception->files, position)) {
        sim_check(feed_chunk(reception, position) == 0, "chunk refused");
        sim_check(feed_chunk(reception, position) == 0, "a chunk that came twice is refused");
        wait_ms(2);
    }
}

static void wait_for_end(struct reception *reception)
{
    for (int i = 0; i < 1000 && !reception->received && reception->told.state == SNAPSHOT_WANTED;
         i++)
        wait_ms(5);
}

/* ---- scenarios ------------------------------------------------------------------------------- */

struct scenario {
    const char *why;
    bool branch;         /* the log has entries that were never committed */
    bool lost;           /* the log has all of it, but one entry's bytes are damaged */
    bool caught_up_soon; /* the log arrives while files still do */
    bool caught_up_late; /* ... or when the marker is there, before the restart */
    bool installs;
};

static const struct scenario scenarios[] = {
    {"the log ends before the snapshot", .installs = true},
    {"the log has another history at the snapshot's index", .branch = true, .installs = true},
    {"the log arrives while the files do", .caught_up_soon = true},
    {"the log arrives between the marker and the restart", .branch = true, .caught_up_late = true},
    {"the log has it all but lost one entry", .lost = true, .installs = true},
};

struct crash {
    struct sim_world world; /* the recorded run */
    struct sim_node node;
    struct sim_disk *disk;
    const struct scenario *scenario;
    struct member member;
    struct prng losses;
    uint64_t change, cuts, only_cut;
    uint64_t seen_before, seen_after; /* recoveries that found the old tables, the new ones */
    bool armed, finished;
};

struct revival {
    uint64_t agreed; /* must be there */
    uint64_t found;
    bool finished;
};

static void revival_run(void *argument)
{
    struct revival *revival = argument;
    struct member member;
    member_start(&member);
    sim_check(member.agreed >= revival->agreed, "up to %llu was acknowledged, %llu is left",
              (unsigned long long)revival->agreed, (unsigned long long)member.agreed);
    revival->found = member.store.applied;
    member_append(&member, member.agreed + EXTRA);
    store_check(&member.store);
    uint64_t reached = member.agreed;
    member_stop(&member);
    member_start(&member);
    sim_check(member.agreed == reached && !member.installed &&
                  (member.store.applied == reached || member.store.applied == member.fault - 1),
              "%llu, not %llu", (unsigned long long)member.agreed, (unsigned long long)reached);
    member_stop(&member);
    revival->finished = true;
}

/* What would a member find if the power failed now? */
static void revive(struct crash *crash, enum sim_loss loss)
{
    struct sim_disk *disk = sim_disk_clone(crash->disk);
    sim_requests_land(&crash->node, disk, true, loss, &crash->losses);
    sim_disk_power_cut(disk, loss, &crash->losses);
    struct revival revival = {.agreed = crash->member.agreed};
    struct sim_world *world = sim_alloc(sizeof(*world));
    struct sim_node node;
    sim_set_replay("test_snapshot_install with SNAPSHOT_CRASH_CUT=%llu (%s; loss %s, agreed %llu)",
                   (unsigned long long)crash->change, crash->scenario->why, sim_loss_name(loss),
                   (unsigned long long)revival.agreed);
    sim_world_init(world, &(struct sim_options){.seed = prng_next(&crash->losses),
                                                .log_to_stderr = crash->only_cut != 0});
    struct sim_world *outer = sim_world_enter(world);
    sim_node_init(&node, world, disk);
    struct core_options options = small_core_options();
    sim_node_boot(&node, &options, 1);
    if (crash->only_cut != 0) /* not in the recorded run: writing lines takes time */
        logger_set_level(LOG_LEVEL_INFO);
    sim_enter(&node, 0);
    invariant(fiber_spawn(node.cores[0].core, FIBER_LATENCY, revival_run, &revival) == 0);
    sim_leave(&node);
    bool done = sim_world_run(world, &revival.finished, RUN_SECONDS_MAX * NS_PER_S);
    sim_check(done, "recovery stalled");
    logger_set_level(LOG_LEVEL_ERROR);
    sim_node_shutdown(&node);
    sim_node_deinit(&node);
    sim_world_deinit(world);
    sim_world_enter(outer);
    sim_disk_destroy(disk);
    free(world);
    crash->cuts++;
    crash->seen_before += revival.found < SNAPSHOT_LAST;
    crash->seen_after += revival.found >= SNAPSHOT_LAST;
}

static void on_disk_change(void *context)
{
    struct crash *crash = context;
    if (!crash->armed)
        return;
    crash->change++;
    struct prng saved = crash->losses;
    prng_init(&crash->losses, sim_seed_split(crash->change, "cut"));
    if (crash->only_cut == 0 || crash->only_cut == crash->change)
        for (uint32_t i = 0; i < LOSSES; i++)
            revive(crash, (enum sim_loss)((crash->change + i) % SIM_LOSS_COUNT));
    crash->losses = saved;
}

/* One entry that was acknowledged long ago goes bad on the disk. */
static void lose_entry(struct member *member)
{
    uint8_t value[STORE_VALUE_BYTES_MAX];
    uint32_t bytes = store_value(LOST, store_term(LOST), value);
    member_append(member, CAUGHT_UP);
    member_stop(member);
    for (int number = 1; number < 100; number++) {
        char path[64];
        struct io_file file;
        uint8_t *block = calloc(1, 32 * KIB);
        snprintf(path, sizeof(path), "/data/log/%010d.log", number);
        if (await_open(path, IO_OPEN_READ | IO_OPEN_WRITE, &file) == 0) {
            struct io_span span = {.base = block, .bytes = 32 * KIB};
            invariant(await_read(file, span) == (int32_t)span.bytes);
            uint8_t *found = memmem(block, span.bytes, value, bytes);
            if (found != NULL) {
                found[bytes / 2] ^= 1;
                invariant(await_write(file, span, IO_WRITE_DURABLE) == (int32_t)span.bytes);
            }
            await_close(&file);
        }
        free(block);
    }
    member_start(member);
    sim_check(member->fault == LOST && member->agreed == CAUGHT_UP, "the damage was not found");
}

/* A member's tables, to be sent. */
static void sender_make(void)
{
    invariant(await_make_directory("/sender") == 0);
    store_make_checkpoint("/sender/lsm", SNAPSHOT_LAST, "/sender/out");
}

static void crash_run(void *argument)
{
    struct crash *crash = argument;
    const struct scenario *scenario = crash->scenario;
    struct member *member = &crash->member;
    struct reception reception;
    sender_make();
    member_start(member);
    member_append(member, OWN_LAST / 2);
    store_flush(&member->store);
    member_append(member, OWN_LAST);
    for (uint64_t index = OWN_LAST + 1; scenario->branch && index <= OTHER_BRANCH; index++)
        append_entry(member, index, BRANCH_TERM);
    if (scenario->lost)
        lose_entry(member);
    crash->armed = true;

    reception_begin(&reception, member, 77);
    feed_range(&reception, 0, reception.files->bytes / 2);
    if (scenario->caught_up_soon)
        member_append(member, CAUGHT_UP);
    feed_range(&reception, reception.told.position, reception.files->bytes);
    wait_for_end(&reception);
    sim_check(reception.received != scenario->caught_up_soon, "%s", scenario->why);
    sim_check(reception.received || reception.told.state == SNAPSHOT_COMPLETE, "%s", scenario->why);
    if (scenario->caught_up_late)
        member_append(member, CAUGHT_UP);
    reception_end(&reception);
    member_stop(member);
    uint64_t agreed = member->agreed;

    struct member again; /* the cuts look at what the first one acknowledged */
    member_start(&again);
    sim_check(again.installed == scenario->installs, "%s", scenario->why);
    sim_check(again.agreed == u64_max(agreed, again.installed ? SNAPSHOT_LAST : 0) &&
                  again.store.applied == again.agreed && again.fault == 0,
              "%llu", (unsigned long long)again.agreed);
    struct io_stat stat;
    sim_check(await_stat("/data/snap/incoming", &stat) == -ENOENT &&
                  await_stat("/data/snap/replaced", &stat) == -ENOENT,
              "something is left of the snapshot");
    member_append(&again, again.agreed + EXTRA);
    store_check(&again.store);
    crash->armed = false;
    member_stop(&again);
    crash->finished = true;
}

static void run_in_world(struct crash *crash, void (*run)(void *), uint64_t disk_bytes,
                         uint64_t seed)
{
    sim_world_init(&crash->world, &(struct sim_options){.seed = seed});
    sim_world_enter(&crash->world);
    crash->disk = sim_disk_create(disk_bytes, 512);
    cr_assert_eq(sim_disk_make_directory(crash->disk, "/data"), 0);
    sim_disk_power_cut(crash->disk, SIM_LOSS_NONE, &crash->losses); /* that one is old */
    sim_node_init(&crash->node, &crash->world, crash->disk);
    struct core_options options = small_core_options();
    sim_node_boot(&crash->node, &options, 1);
    crash->world.on_disk_change = on_disk_change;
    crash->world.on_disk_change_context = crash;
    sim_enter(&crash->node, 0);
    cr_assert_eq(fiber_spawn(crash->node.cores[0].core, FIBER_LATENCY, run, crash), 0);
    sim_leave(&crash->node);
    bool finished = sim_world_run(&crash->world, &crash->finished, RUN_SECONDS_MAX * NS_PER_S);
    cr_assert(finished, "stalled");
    sim_node_shutdown(&crash->node);
    sim_node_deinit(&crash->node);
    sim_disk_destroy(crash->disk);
    sim_world_deinit(&crash->world);
}

static struct crash *crash_make(void)
{
    struct crash *crash = calloc(1, sizeof(*crash));
    prng_init(&crash->losses, 1);
    logger_set_level(LOG_LEVEL_ERROR);
    return crash;
}

Test(snapshot_install, every_power_cut_leaves_the_old_state_or_the_new, .timeout = 400)
{
    const char *cut_text = getenv("SNAPSHOT_CRASH_CUT");
    for (size_t i = 0; i < ARRAY_COUNT(scenarios); i++) {
        struct crash *crash = crash_make();
        crash->scenario = &scenarios[i];
        crash->only_cut = cut_text != NULL ? strtoull(cut_text, NULL, 0) : 0;
        run_in_world(crash, crash_run, 512 * MIB, 1 + i);
        cr_log_info("%s: %llu cuts, %llu before, %llu after", scenarios[i].why,
                    (unsigned long long)crash->cuts, (unsigned long long)crash->seen_before,
                    (unsigned long long)crash->seen_after);
        if (cut_text == NULL) {
            cr_expect_gt(crash->cuts, 300);
            cr_expect_gt(crash->seen_before, 100);
            cr_expect_gt(crash->seen_after, 50);
        }
        free(crash);
    }
}

/* ---- damage, and no room --------------------------------------------------------------------- */

static void flip(const char *path, uint64_t offset)
{
    struct io_file file;
    uint8_t byte;
    struct io_span span = {.base = &byte, .offset = offset, .bytes = 1};
    invariant(await_open(path, IO_OPEN_READ | IO_OPEN_WRITE, &file) == 0);
    invariant(await_read(file, span) == 1);
    byte ^= 0x10;
    invariant(await_write(file, span, 0) == 1);
    await_close(&file);
}

static int verify_out(uint64_t index, uint64_t term)
{
    bool cancel = false;
    return lsm_checkpoint_verify("/sender/out", index, term, &cancel);
}

static void verify_run(void *argument)
{
    struct crash *crash = argument;
    bool cancel = true;
    uint32_t flips = 0;
    sender_make();
    struct snapshot_files *files = files_list("/sender/out");
    cr_expect_eq(verify_out(SNAPSHOT_LAST, store_term(SNAPSHOT_LAST)), 0);
    cr_expect_eq(verify_out(SNAPSHOT_LAST - 1, store_term(SNAPSHOT_LAST)), ERR_CORRUPT);
    cr_expect_eq(verify_out(SNAPSHOT_LAST, 4), ERR_CORRUPT);
    cr_expect_eq(
        lsm_checkpoint_verify("/sender/out", SNAPSHOT_LAST, store_term(SNAPSHOT_LAST), &cancel),
        ERR_CANCELED);
    for (uint32_t i = 0; i < files->count; i++) {
        const struct snapshot_file *file = &files->files[i];
        char path[128], away[160];
        snprintf(path, sizeof(path), "/sender/out/%s", file->name);
        snprintf(away, sizeof(away), "%s.away", path);
        /* Rows start a table; what lies ahead in a manifest is zeros. */
        uint64_t counts = strstr(file->name, ".sst") != NULL ? file->bytes / 3
                          : file->bytes < 4096               ? file->bytes
                                                             : 32;
        for (uint64_t at = 0; at < counts; at += 1 + counts / 40, flips++) {
            flip(path, at);
            cr_expect_lt(verify_out(SNAPSHOT_LAST, store_term(SNAPSHOT_LAST)), 0, "%s at %llu",
                         path, (unsigned long long)at);
            flip(path, at);
        }
        invariant(await_rename(path, away) == 0);
        cr_expect_eq(verify_out(SNAPSHOT_LAST, store_term(SNAPSHOT_LAST)), ERR_CORRUPT, "no %s",
                     path);
        invariant(await_rename(away, path) == 0);
    }
    cr_expect_eq(verify_out(SNAPSHOT_LAST, store_term(SNAPSHOT_LAST)), 0);
    cr_expect_gt(flips, 100);
    free(files);
    crash->finished = true;
}

Test(snapshot_install, every_byte_that_counts_is_verified, .timeout = 60)
{
    struct crash *crash = crash_make();
    logger_set_level(LOG_LEVEL_NONE);
    run_in_world(crash, verify_run, 512 * MIB, 1);
    free(crash);
}

static void expect_nothing_came(const struct reception *reception, const char *why)
{
    struct io_stat stat;
    cr_expect_eq(reception->told.state, SNAPSHOT_FAILED, "%s", why);
    cr_expect(!reception->received, "%s", why);
    cr_expect_eq(await_stat("/data/snap/incoming", &stat), -ENOENT, "%s", why);
}

/* A table goes bad on the receiver's disk while the others arrive. Then all comes once more. */
static void damage_run(void *argument)
{
    struct crash *crash = argument;
    struct member *member = &crash->member;
    struct reception reception;
    sender_make();
    member_start(member);
    reception_begin(&reception, member, 77);
    uint64_t half = 0;
    while (half < reception.files->bytes / 2)
        half += chunk_bytes(reception.files, half);
    feed_range(&reception, 0, half);
    char path[128];
    snprintf(path, sizeof(path), "/data/snap/incoming/lsm/%s", reception.files->files[0].name);
    flip(path, 100);
    feed_range(&reception, half, reception.files->bytes);
    wait_for_end(&reception);
    expect_nothing_came(&reception, "a damaged table");
    reception.told = (struct snapshot_status){0};
    cr_assert_eq(feed_offer(&reception), 0);
    wait_ms(20);
    cr_expect_eq(reception.told.position, 0, "from the start");
    feed_range(&reception, 0, reception.files->bytes);
    wait_for_end(&reception);
    cr_expect(reception.received, "it came whole the second time");
    reception_end(&reception);
    member_stop(member);
    crash->finished = true;
}

Test(snapshot_install, what_came_damaged_is_removed_and_asked_for_again, .timeout = 60)
{
    struct crash *crash = crash_make();
    logger_set_level(LOG_LEVEL_NONE);
    run_in_world(crash, damage_run, 512 * MIB, 1);
    free(crash);
}

/* The receiver stops in the middle; files of the same transfer are kept, of another they go. */
static void resume_run(void *argument)
{
    struct crash *crash = argument;
    struct member *member = &crash->member;
    struct reception reception;
    sender_make();
    member_start(member);
    reception_begin(&reception, member, 77);
    uint64_t complete = reception.files->files[0].bytes + reception.files->files[1].bytes;
    feed_range(&reception, 0, complete + CHUNK_BYTES);
    reception_end(&reception);
    reception_begin(&reception, member, 77);
    cr_expect_geq(reception.told.position, complete, "whole files need not come again");
    cr_expect_lt(reception.told.position, reception.files->bytes);
    reception_end(&reception);
    reception_begin(&reception, member, 78);
    cr_expect_eq(reception.told.position, 0, "those of another may hold anything");
    reception_end(&reception);
    member_stop(member);
    crash->finished = true;
}

Test(snapshot_install, only_the_same_transfer_goes_on_after_a_restart, .timeout = 60)
{
    struct crash *crash = crash_make();
    run_in_world(crash, resume_run, 512 * MIB, 1);
    free(crash);
}

static void full_run(void *argument)
{
    struct crash *crash = argument;
    struct member *member = &crash->member;
    struct reception reception;
    sender_make();
    member_start(member);
    reception_begin(&reception, member, 77);
    wait_for_end(&reception);
    expect_nothing_came(&reception, "a full disk");
    reception_end(&reception);
    member_stop(member);
    crash->finished = true;
}

Test(snapshot_install, a_disk_without_room_takes_nothing, .timeout = 60)
{
    struct crash *crash = crash_make();
    logger_set_level(LOG_LEVEL_NONE);
    run_in_world(crash, full_run, SNAPSHOT_SPACE_SPARE / 2, 1);
    free(crash);
}

Test(snapshot_install, only_what_is_lacking_is_news)
{
    static const struct {
        const char *why;
        struct snapshot_log log;
        bool in_log, news;
    } cases[] = {
        {"the log ends before it", {10, 0, 0}, false, true},
        {"the log has it", {10, 5, 0}, true, false},
        {"the log has another entry there", {10, 4, 0}, false, true},
        {"the log begins right after it", {20, 0, 0}, true, false},
        {"the log begins long after it", {90, 0, 0}, true, false},
        {"it has what the log lost", {10, 5, 15}, true, true},
        {"its last entry is what the log lost", {10, 5, 20}, true, true},
        {"the log lost what lies behind it", {10, 5, 21}, true, false},
    };
    struct snapshot_position position = {.index = 20, .term = 5};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        cr_expect_eq(snapshot_is_in_log(&position, &cases[i].log), cases[i].in_log, "%s",
                     cases[i].why);
        cr_expect_eq(snapshot_is_news(&position, &cases[i].log), cases[i].news, "%s", cases[i].why);
    }
}
