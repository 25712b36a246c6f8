#include <criterion/criterion.h>

#include "core/core.h"
#include "core/err.h"
#include "server/pending.h"

/* Proposals whose way home is a function call; no core is needed. */
static uint64_t home[16];
static int home_error[16];
static uint32_t home_count;

static void come_home(struct proposal *proposal)
{
    home_error[home_count] = proposal->error;
    home[home_count++] = proposal->sequence;
    proposal_destroy(proposal);
}

static struct proposal *make(uint16_t stream, uint64_t sequence, uint64_t deadline_ns)
{
    struct request request = {
        .kind = REQUEST_PUT, .origin = 1, .stream = stream, .sequence = sequence};
    struct proposal *proposal = proposal_create(0, 0);
    proposal_fill(proposal, &request);
    proposal->done = come_home;
    proposal->deadline_ns = deadline_ns;
    return proposal;
}

static void begin(struct pending *pending)
{
    pending_init(pending, NULL);
    home_count = 0;
}

static void end(struct pending *pending)
{
    pending_expire(pending, 1000 * NS_PER_S);
    cr_expect_eq(pending->count, 0);
    cr_expect_null(pending_peek(pending), "finished ones leave the queue");
}

Test(pending, a_matched_request_is_finished_and_overtaken_ones_fail)
{
    struct pending pending;
    begin(&pending);
    for (uint64_t i = 1; i <= 4; i++) {
        pending_add(&pending, make(0, i, 0));
        pending_pop(&pending, pending_peek(&pending));
    }
    cr_expect_null(pending_match(&pending, 1, 1), "another stream");
    struct proposal *third = pending_match(&pending, 0, 3);
    cr_assert_not_null(third);
    cr_expect_eq(home_count, 2, "1 and 2 can never be executed any more");
    cr_expect_eq(home_error[0], ERR_LEADER_FAILED);
    pending_finish(&pending, third, 0);
    cr_expect_eq(home_count, 3);
    cr_expect_eq(home[2], 3);
    cr_expect_eq(home_error[2], 0);
    cr_expect_null(pending_match(&pending, 0, 2), "long gone");
    cr_expect_eq(pending.count, 1);
    end(&pending);
}

Test(pending, a_new_leader_is_sent_what_is_not_in_our_own_log_in_order)
{
    struct pending pending;
    begin(&pending);
    struct proposal *made[5];
    for (uint64_t i = 0; i < 5; i++) {
        made[i] = make(0, i + 1, 0);
        pending_add(&pending, made[i]);
    }
    for (int i = 0; i < 4; i++)
        pending_pop(&pending, pending_peek(&pending));
    proposal_enter_log(made[1]);
    made[2]->forwarded = true;
    pending.forwarded_bytes = made[2]->payload_bytes;
    pending_requeue(&pending);
    cr_expect_eq(pending.forwarded_bytes, 0);
    static const uint64_t want[] = {1, 3, 4, 5};
    for (size_t i = 0; i < ARRAY_COUNT(want); i++) {
        struct proposal *next = pending_peek(&pending);
        cr_assert_not_null(next);
        cr_expect_eq(next->sequence, want[i]);
        pending_pop(&pending, next);
    }
    cr_expect_null(pending_peek(&pending));
    proposal_leave_log(made[1]);
    end(&pending);
}

Test(pending, what_is_queued_or_in_the_log_survives_its_end)
{
    struct pending pending;
    begin(&pending);
    struct proposal *queued = make(0, 1, 0), *logged = make(1, 1, 0);
    pending_add(&pending, queued);
    cr_assert_eq(pending_match(&pending, 0, 1), queued);
    pending_finish(&pending, queued, ERR_TIMEOUT);
    cr_expect_eq(home_count, 0, "it is still on the queue");
    pending_add(&pending, logged);
    cr_assert_eq(pending_peek(&pending), logged);
    cr_expect_eq(home_count, 1);
    pending_pop(&pending, logged);
    proposal_enter_log(logged);
    cr_assert_eq(pending_match(&pending, 1, 1), logged);
    pending_finish(&pending, logged, 0);
    cr_expect_eq(home_count, 2, "a reply does not wait for lagging members");
    proposal_leave_log(logged); /* the last holder frees it */
    end(&pending);
}

Test(pending, deadlines)
{
    struct pending pending;
    begin(&pending);
    pending_add(&pending, make(0, 1, 1 * NS_PER_S));
    pending_add(&pending, make(0, 2, 9 * NS_PER_S));
    pending_pop(&pending, pending_peek(&pending));
    pending_expire(&pending, 1 * NS_PER_S);
    cr_expect_eq(home_count, 0, "the connection core tells its client first");
    pending_expire(&pending, 3 * NS_PER_S);
    cr_expect_eq(home_count, 1);
    cr_expect_eq(home_error[0], ERR_TIMEOUT);
    cr_expect_eq(pending.count, 1);
    pending_add(&pending, make(1, 1, 2 * NS_PER_S));
    pending_expire(&pending, 20 * NS_PER_S);
    cr_expect_eq(home_count, 3, "also what still waits in the queue, for want of a leader");
    end(&pending);
}
