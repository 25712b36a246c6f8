#include <criterion/criterion.h>

#include "server/read_waits.h"

#define NEVER_NS UINT64_MAX

static struct read_waits waits;
static uint64_t answered[CONFIG_CORES_MAX]; /* newest batch of each core that may go on */

static void begin(void)
{
    memset(answered, 0, sizeof(answered));
    cr_assert_eq(read_waits_init(&waits), 0);
}

static void end(void)
{
    read_waits_deinit(&waits);
}

/* Everything that is ready goes. */
static uint32_t release(uint64_t applied)
{
    struct read_wait wait;
    uint32_t count = 0;
    for (; read_waits_pop(&waits, applied, &wait); count++) {
        cr_assert_gt(wait.batch, answered[wait.core], "in order of each core's batches");
        answered[wait.core] = wait.batch;
    }
    return count;
}

Test(read_waits, without_a_leader_a_core_has_one_wait_however_long_its_clients_ask)
{
    begin();
    for (uint64_t batch = 1; batch <= 3 * READ_WAITS_MAX; batch++)
        for (uint32_t core = 0; core < 2; core++) {
            read_waits_add(&waits, core, batch, NEVER_NS);
            cr_assert(read_waits_want_question(&waits)); /* there is nobody to ask */
        }
    cr_expect_eq(waits.count, 2);
    read_waits_asked(&waits, 1);
    cr_expect_not(read_waits_want_question(&waits));
    read_waits_add(&waits, 0, 3 * READ_WAITS_MAX + 1, NEVER_NS);
    read_waits_answered(&waits, 1, 7);
    cr_expect_eq(release(6), 0, "7 is not applied");
    cr_expect_eq(release(7), 2);
    for (uint32_t core = 0; core < 2; core++)
        cr_expect_eq(answered[core], 3 * READ_WAITS_MAX, "one answer for all of them");
    cr_expect_eq(waits.count, 1, "what came after the question waits for the next one");
    cr_expect(read_waits_want_question(&waits));
    end();
}

Test(read_waits, an_answer_is_good_for_earlier_questions_and_no_later_one)
{
    begin();
    for (uint64_t id = 1; id <= 3; id++) {
        read_waits_add(&waits, 0, id, NEVER_NS);
        read_waits_asked(&waits, id);
    }
    read_waits_add(&waits, 0, 4, NEVER_NS);
    read_waits_answered(&waits, 2, 5); /* the answer to 1 is lost */
    cr_expect_eq(release(5), 2);
    cr_expect_eq(answered[0], 2);
    read_waits_ask_again(&waits);
    read_waits_asked(&waits, 4);
    read_waits_answered(&waits, 4, 6); /* the one to 3 as well */
    read_waits_answered(&waits, 3, 5); /* or it was late */
    cr_expect_eq(release(5), 0, "the later answer's index counts");
    cr_expect_eq(release(6), 2);
    cr_expect_eq(waits.count, 0);
    end();
}

Test(read_waits, only_an_unanswered_question_is_repeated)
{
    begin();
    read_waits_ask_again(&waits);
    cr_expect_not(read_waits_want_question(&waits), "nobody waits");
    read_waits_add(&waits, 0, 1, NEVER_NS);
    read_waits_asked(&waits, 1);
    read_waits_ask_again(&waits);
    cr_expect(read_waits_want_question(&waits));
    read_waits_asked(&waits, 2);
    read_waits_answered(&waits, 1, 9);
    read_waits_ask_again(&waits);
    cr_expect_not(read_waits_want_question(&waits), "it waits for the apply loop");
    cr_expect_eq(release(9), 1);
    end();
}

/* Of a leader that is believed in and does not answer, or of an apply loop that stands. */
Test(read_waits, a_ring_of_asked_waits_has_room_for_every_core)
{
    static const bool cases[] = {false, true}; /* are the indexes known? */
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint64_t id = 0;
        begin();
        for (uint64_t batch = 1; batch <= 2 * READ_WAITS_MAX; batch++) {
            for (uint32_t core = 0; core < CONFIG_CORES_MAX; core++)
                read_waits_add(&waits, core, batch, NEVER_NS);
            if (!read_waits_want_question(&waits))
                continue;
            read_waits_asked(&waits, ++id);
            if (cases[i])
                read_waits_answered(&waits, id, id);
        }
        cr_expect_eq(waits.count, READ_WAITS_MAX);
        cr_expect_eq(waits.unasked, CONFIG_CORES_MAX);
        cr_expect_eq(id, READ_WAITS_ASKED_MAX / CONFIG_CORES_MAX);
        read_waits_ask_again(&waits);
        cr_expect_eq(read_waits_want_question(&waits), !cases[i], "lost ones are repeated");
        if (!cases[i]) {
            read_waits_asked(&waits, ++id);
            read_waits_answered(&waits, id, id);
        }
        cr_expect_eq(waits.unasked, CONFIG_CORES_MAX, "there is no room for these yet");
        cr_expect_eq(release(id), READ_WAITS_ASKED_MAX);
        cr_expect(read_waits_want_question(&waits));
        read_waits_asked(&waits, ++id);
        read_waits_answered(&waits, id, id);
        cr_expect_eq(release(id), CONFIG_CORES_MAX);
        for (uint32_t core = 0; core < CONFIG_CORES_MAX; core++)
            cr_expect_eq(answered[core], 2 * READ_WAITS_MAX);
        cr_expect_eq(waits.count, 0);
        end();
    }
}

Test(read_waits, a_deadline_is_that_of_the_newest_batch)
{
    struct read_wait wait;
    begin();
    read_waits_add(&waits, 0, 1, 10);
    read_waits_asked(&waits, 1);
    read_waits_add(&waits, 0, 2, 20);
    read_waits_add(&waits, 0, 3, 30);
    cr_expect_not(read_waits_expire(&waits, 10, &wait));
    cr_expect(read_waits_expire(&waits, 11, &wait));
    cr_expect_eq(wait.batch, 1);
    cr_expect_not(read_waits_expire(&waits, 30, &wait));
    cr_expect(read_waits_expire(&waits, 31, &wait));
    cr_expect_eq(wait.batch, 3);
    cr_expect_not(read_waits_expire(&waits, 1000, &wait));
    cr_expect_not(read_waits_want_question(&waits), "nobody waits any more");
    read_waits_add(&waits, 0, 4, 40);
    cr_expect_eq(waits.unasked, 1);
    end();
}
