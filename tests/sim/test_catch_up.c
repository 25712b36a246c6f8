/* Entries of a lagging member that are read from the log: order, a change of the term, errors, and
 * an end in the middle of a read. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/fiber.h"
#include "core/invariant.h"
#include "server/catch_up.h"
#include "tests/sim/disk.h"
#include "tests/sim/world.h"

enum { ENTRY_BYTES = 100, SENT_MAX = 64, TERM = 7 };

/* What catch_up asked for, and what it was given. */
struct log {
    struct core *core;
    uint64_t term;         /* in which we lead; 0: not at all */
    uint32_t batch;        /* entries in one read */
    uint64_t broken_index; /* cannot be read; 0: none */
    uint32_t reading, reads;
    struct {
        uint64_t to, index;
        uint32_t entry_count;
    } sent[SENT_MAX];
    uint32_t sent_count;
    uint64_t failed_to, failed_index;
    uint32_t failed_count;
    struct catch_up *catch_up;
    void (*test)(struct log *log);
    bool finished;
};

static bool call_is_current(void *context, uint64_t term)
{
    return ((struct log *)context)->term == term;
}

static int64_t call_read(void *context, uint64_t first, uint64_t last, uint64_t bytes_max,
                         struct log_copy *copy)
{
    struct log *log = context;
    cr_assert_gt(bytes_max, 0);
    log->reading++;
    log->reads++;
    fiber_sleep_until(core_now_ns(log->core) + (2 + first % 3) * NS_PER_MS);
    log->reading--;
    uint32_t count = (uint32_t)u64_min(last - first + 1, log->batch);
    if (log->broken_index == first)
        return ERR_CORRUPT;
    if (log->broken_index > first && log->broken_index < first + count)
        count = (uint32_t)(log->broken_index - first);
    *copy = (struct log_copy){.entries = calloc(count, sizeof(struct entry)),
                              .entry_count = count,
                              .payloads = malloc((size_t)count * ENTRY_BYTES)};
    for (uint32_t i = 0; i < count; i++) {
        copy->entries[i] = (struct entry){.index = first + i,
                                          .term = 3,
                                          .payload = copy->payloads + i * ENTRY_BYTES,
                                          .payload_bytes = ENTRY_BYTES};
        memset(copy->payloads + i * ENTRY_BYTES, (int)(first + i), ENTRY_BYTES);
    }
    return count;
}

static void call_send(void *context, const struct raft_message *message,
                      const struct entry *const *entries)
{
    struct log *log = context;
    for (uint32_t i = 0; i < message->entry_count; i++) {
        const uint8_t *payload = entries[i]->payload;
        cr_assert_eq(entries[i]->index, message->index + 1 + i);
        cr_assert_eq(payload[ENTRY_BYTES - 1], (uint8_t)entries[i]->index);
    }
    cr_assert_lt(log->sent_count, SENT_MAX);
    log->sent[log->sent_count].to = message->to;
    log->sent[log->sent_count].index = message->index;
    log->sent[log->sent_count++].entry_count = message->entry_count;
}

static void call_failed(void *context, uint64_t to, uint64_t index, int error)
{
    struct log *log = context;
    cr_assert_eq(error, ERR_CORRUPT);
    log->failed_to = to;
    log->failed_index = index;
    log->failed_count++;
}

static const struct catch_up_calls calls = {
    .is_current = call_is_current, .read = call_read, .send = call_send, .failed = call_failed};

static void queue(struct log *log, uint64_t to, uint64_t index, uint32_t entry_count)
{
    struct raft_message message = {.kind = RAFT_MESSAGE_APPEND,
                                   .to = to,
                                   .term = TERM,
                                   .index = index,
                                   .entry_count = entry_count};
    catch_up_queue(log->catch_up, &message);
}

static void rest_ms(const struct log *log, uint64_t ms)
{
    fiber_sleep_until(core_now_ns(log->core) + ms * NS_PER_MS);
}

static void log_run(void *argument)
{
    struct log *log = argument;
    log->core = core_current();
    log->term = TERM;
    log->batch = 4;
    log->catch_up = catch_up_create(log->core, &calls, log);
    log->test(log);
    if (log->catch_up != NULL)
        catch_up_destroy(log->catch_up);
    cr_expect_eq(log->reading, 0, "nothing goes on behind the end");
    log->finished = true;
}

static void run(void (*test)(struct log *log))
{
    struct sim_world *world = calloc(1, sizeof(*world));
    struct sim_node node;
    struct log log = {.test = test};
    struct core_options options = {.reactor = {.files_max = 16,
                                               .buffer_bytes = 64 * KIB,
                                               .recv_buffer_bytes = 4096,
                                               .recv_buffer_count = 4},
                                   .fibers_max = 16};
    sim_world_init(world, &(struct sim_options){.seed = 1});
    sim_world_enter(world);
    struct sim_disk *disk = sim_disk_create(1 * MIB, 512);
    sim_node_init(&node, world, disk);
    sim_node_boot(&node, &options, 1);
    sim_enter(&node, 0);
    invariant(fiber_spawn(node.cores[0].core, FIBER_LATENCY, log_run, &log) == 0);
    sim_leave(&node);
    bool finished = sim_world_run(world, &log.finished, 60 * NS_PER_S);
    cr_assert(finished, "stalled");
    sim_node_shutdown(&node);
    sim_node_deinit(&node);
    sim_disk_destroy(disk);
    sim_world_deinit(world);
    free(world);
}

static void test_order(struct log *log)
{
    queue(log, 1, 10, 9); /* three reads */
    queue(log, 2, 50, 2);
    cr_expect(catch_up_is_busy(log->catch_up, 1) && catch_up_is_busy(log->catch_up, 2));
    cr_expect(!catch_up_is_busy(log->catch_up, 3));
    queue(log, 1, 19, 0); /* an empty one waits its turn as well */
    queue(log, 1, 19, 3);
    rest_ms(log, 100);
    cr_expect(!catch_up_is_busy(log->catch_up, 1) && !catch_up_is_busy(log->catch_up, 2));
    uint64_t next = 10;
    uint32_t messages = 0;
    for (uint32_t i = 0; i < log->sent_count; i++) {
        if (log->sent[i].to != 1)
            continue;
        cr_expect_eq(log->sent[i].index, next, "in order, nothing left out");
        next += log->sent[i].entry_count;
        messages++;
    }
    cr_expect_eq(messages, 3);
    cr_expect_eq(log->sent_count, 4);
    cr_expect_eq(next, 22);
}

Test(catch_up, appends_to_a_member_stay_in_order)
{
    run(test_order);
}

static void test_term(struct log *log)
{
    queue(log, 1, 10, 3);
    queue(log, 1, 13, 3);
    rest_ms(log, 1); /* the first is being read */
    log->term = TERM + 1;
    rest_ms(log, 50);
    cr_expect_eq(log->sent_count, 0, "not by the leader of another term");
    cr_expect_eq(log->reads, 1, "nor read for nothing");
    cr_expect_eq(log->failed_count, 0);
    cr_expect(!catch_up_is_busy(log->catch_up, 1));
}

Test(catch_up, what_was_decided_in_an_earlier_term_is_dropped)
{
    run(test_term);
}

static void test_error(struct log *log)
{
    log->broken_index = 16;
    queue(log, 1, 10, 8);
    queue(log, 1, 18, 2);
    rest_ms(log, 100);
    cr_expect_eq(log->failed_count, 1);
    cr_expect_eq(log->failed_to, 1);
    cr_expect_eq(log->failed_index, 16, "the entry itself is named");
    cr_expect_eq(log->sent_count, 1, "never a part of a message");
    cr_expect_eq(log->sent[0].index, 18);
}

Test(catch_up, an_entry_that_cannot_be_read_is_told_by_its_index)
{
    run(test_error);
}

static void test_end(struct log *log)
{
    queue(log, 1, 10, 9);
    queue(log, 1, 19, 9);
    queue(log, 2, 10, 9);
    rest_ms(log, 1);
    cr_expect_eq(log->reading, 2);
    catch_up_destroy(log->catch_up);
    log->catch_up = NULL;
    cr_expect_leq(log->sent_count, 2, "what was being read at most");
}

Test(catch_up, the_end_waits_for_reads)
{
    run(test_end);
}
