/* Random work, crashes at any moment, and every outcome that writes in flight can have: whole,
 * absent, torn, each for itself. What recovery finds must be what test_wal_model.h allows. */
#include "test_wal.h"
#include "test_wal_model.h"

#include "core/prng.h"

TestSuite(wal_crash, .init = world_open, .fini = world_close, .timeout = 600);

#define ROUNDS      40
#define SECTOR      512
#define LARGE_BYTES 20000

static struct model model;
static struct model_state scratch;
static struct prng prng;
static char directory[2][128];
static int current;
static bool frozen;
static uint64_t released;

struct work {
    struct wal_append append;
    struct entry entries[8];
    uint32_t end_event; /* acknowledged up to here when done */
    struct work *next;
};
static struct work *all_work;

static void work_done(struct wal_append *append)
{
    struct work *work = container_of(append, struct work, append);
    if (frozen)
        return;
    cr_assert_geq(work->end_event, model.acknowledged, "acknowledged in order");
    model.acknowledged = work->end_event;
}

static uint32_t random_size(void)
{
    static const uint32_t sizes[] = {0, 1, 40, 300, 300, 300, 1500, 4000, 8050, LARGE_BYTES};
    return sizes[prng_below(&prng, ARRAY_COUNT(sizes))];
}

static void add_hard_state(struct work *work)
{
    work->append.has_hard_state = true;
    work->append.hard_state = (struct hard_state){.term = model.end.term + prng_below(&prng, 2),
                                                  .vote = 1 + prng_below(&prng, 5)};
    model_push(&model, (struct model_event){.kind = MODEL_HARD_STATE,
                                            .term = work->append.hard_state.term,
                                            .vote = work->append.hard_state.vote});
}

static void add_entries(struct work *work)
{
    uint64_t first = model.end.last + 1;
    uint64_t lowest = u64_max(released, model.end.base) + 1;
    if (prng_chance(&prng, 1, 8) && first > lowest) /* a conflict, above what was released */
        first -= prng_below(&prng, u64_min(first - lowest, 12) + 1);
    uint64_t term = first > model.end.base + 1 ? model.end.terms[first - 1] : 1;
    term = u64_max(term, first <= model.end.last ? model.end.terms[first] + 1 : 1);
    term += prng_chance(&prng, 1, 10);
    work->append.entries = work->entries;
    work->append.entry_count = 1 + (uint32_t)prng_below(&prng, ARRAY_COUNT(work->entries));
    for (uint32_t i = 0; i < work->append.entry_count; i++) {
        work->entries[i] = entry_make(first + i, term, random_size());
        model_push(&model,
                   (struct model_event){.kind = MODEL_ENTRY, .index = first + i, .term = term});
    }
}

static void do_work(struct wal *wal)
{
    struct work *work = calloc(1, sizeof(*work));
    work->next = all_work;
    all_work = work;
    work->append = (struct wal_append){.kind = WAL_APPEND_ENTRIES, .done = work_done};
    if (prng_chance(&prng, 1, 6))
        add_hard_state(work);
    if (prng_chance(&prng, 1, 150)) {
        work->append.kind = WAL_APPEND_RESET;
        work->append.index = model.end.last + prng_below(&prng, 100);
        work->append.term = model.end.term + 1;
        model_push(&model, (struct model_event){.kind = MODEL_RESET, .index = work->append.index});
        released = work->append.index;
    } else if (!prng_chance(&prng, 1, 10)) {
        add_entries(work);
    }
    work->end_event = model.count;
    wal_append(wal, &work->append);
    if (prng_chance(&prng, 2, 3))
        wal_flush(wal);
}

/* ---- the crash ----------------------------------------------------------------------------------
 */

enum outcome { OUTCOME_WHOLE, OUTCOME_ABSENT, OUTCOME_TORN };

static void settle_write(const char *file, uint64_t offset, const uint8_t *bytes, uint32_t size)
{
    static uint8_t mixed[WAL_BLOCK_BYTES_LIMIT];
    enum outcome outcome = (enum outcome)prng_below(&prng, 3);
    memcpy(mixed, bytes, size);
    for (uint32_t at = 0; at < size; at += SECTOR)
        if (outcome == OUTCOME_ABSENT || (outcome == OUTCOME_TORN && prng_chance(&prng, 1, 2)))
            memset(mixed + at, 0, SECTOR);
    patch(file, offset, mixed, size);
}

/* The disk as the crash leaves it: what was acknowledged is there, each write in flight is
 * anything. */
static void crash(struct wal *wal)
{
    char segment[WAL_PATH_BYTES];
    const char *image = directory[1 - current];
    frozen = true;
    copy_log(directory[current], image);
    for (uint64_t s = wal->durable_sequence + 1; s < wal->next_sequence; s++) {
        const struct wal_write *write = &wal->writes[s % wal->writes_max];
        if (!write->pending)
            continue;
        wal_segment_path(segment, image, write->block.segment);
        settle_write(segment, (uint64_t)write->block.page * WAL_PAGE_BYTES, write->block_bytes,
                     write->block.bytes);
    }
    queue_init(&wal->queued, QUEUE_UNBOUNDED); /* nothing more leaves; the old directory is done */
    wal_close(wal);
    while (all_work != NULL) {
        struct work *next = all_work->next;
        free(all_work);
        all_work = next;
    }
    current = 1 - current;
    frozen = false;
}

static struct wal *restart(int round)
{
    struct wal_recovered recovered;
    struct wal_options options = small_options(directory[current]);
    options.idle_mark_ns = NS_PER_MS;
    struct wal *wal = NULL;
    cr_assert_eq(wal_open(&options, &wal, &recovered), 0, "%s", recovered.reason);
    cr_assert_neq(recovered.verdict, WAL_VERDICT_FENCED, "round %d: %s", round, recovered.reason);
    const char *wrong = model_check(&model, wal, &recovered, &scratch);
    cr_assert_null(wrong, "round %d, verdict %d (%s): %s", round, recovered.verdict,
                   recovered.reason, wrong);
    cr_assert_leq(recovered.first_index, u64_max(released, model.start.base) + 1,
                  "round %d: nothing is released unasked", round);
    replay_all(wal);
    uint64_t faulty_first = recovered.fault_first_index;
    if (faulty_first != 0) { /* a lone node: nobody else can have it */
        append_marker(wal, WAL_APPEND_CUT, faulty_first - 1, 0);
        model_push(&model, (struct model_event){.kind = MODEL_CUT, .index = faulty_first - 1});
        model.acknowledged = model.count;
    }
    cr_assert_eq(wal_fault_count(wal), 0);
    return wal;
}

static void crash_rounds(void)
{
    snprintf(directory[0], sizeof(directory[0]), "%s/a", root);
    snprintf(directory[1], sizeof(directory[1]), "%s/b", root);
    struct wal *wal = restart(0);
    for (int round = 1; round <= ROUNDS; round++) {
        uint64_t steps = prng_below(&prng, 60);
        for (uint64_t i = 0; i < steps; i++) {
            do_work(wal);
            if (prng_chance(&prng, 1, 4))
                fiber_sleep_until(core_now_ns(core) + prng_below(&prng, 400) * NS_PER_US);
            if (prng_chance(&prng, 1, 20) && wal_last_index(wal) > 30) {
                released = u64_max(released, wal_last_index(wal) - 20);
                wal_release(wal, released);
            }
        }
        crash(wal);
        wal = restart(round);
    }
    wal_close(wal);
}

Test(wal_crash, what_was_acknowledged_survives_any_crash)
{
    const char *seed = getenv("WAL_CRASH_SEED");
    prng_init(&prng, seed != NULL ? strtoull(seed, NULL, 0) : 20240611);
    in_fiber(crash_rounds);
}
