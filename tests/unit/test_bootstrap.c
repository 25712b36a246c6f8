/* server/bootstrap.h: who may connect, and what a process that joins is told. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/peer.pb-c.h"
#include "server/bootstrap.h"
#include "server/membership.h"

enum { SELF = 1, STARTED = 2, ADDED = 3, REMOVED = 4, UNKNOWN = 5 };

static struct membership *membership_make(void)
{
    static uint64_t removed[] = {REMOVED};
    struct membership *membership = calloc(1, sizeof(*membership));
    for (uint64_t id = SELF; id <= ADDED; id++) {
        struct member member = {.id = id};
        snprintf(member.name, sizeof(member.name), "%s", id == ADDED ? "" : "named");
        cr_assert_eq(member_insert(&membership->set, &member), 0);
    }
    membership->removed = removed;
    membership->removed_count = 1;
    return membership;
}

Test(bootstrap, who_may_connect)
{
    static const struct {
        const char *why;
        uint64_t id;
        bool fresh, caught_up;
        int want;
    } cases[] = {
        {"a member that works", STARTED, false, true, 0},
        {"also before we know who works", STARTED, false, false, 0},
        {"its directory was emptied", STARTED, true, true, ERR_MEMBER_BOOTSTRAPPED},
        {"which is known already", STARTED, true, false, ERR_MEMBER_BOOTSTRAPPED},
        {"one that starts for the first time", ADDED, true, true, 0},
        {"or so it seems until our log is applied", ADDED, true, false, ERR_UNAVAILABLE},
        {"whose name is on its way", ADDED, false, true, 0},
        {"one whose addition we have not seen", UNKNOWN, true, true, 0},
        {"nor can we have", UNKNOWN, true, false, ERR_UNAVAILABLE},
        {"a removed one", REMOVED, false, true, ERR_MEMBER_REMOVED},
        {"with an empty directory", REMOVED, true, false, ERR_MEMBER_REMOVED},
        {"ourselves", SELF, false, true, ERR_MEMBER_EXISTS},
    };
    struct membership *membership = membership_make();
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        cr_expect_eq(
            bootstrap_admit(membership, SELF, cases[i].id, cases[i].fresh, cases[i].caught_up),
            cases[i].want, "%s", cases[i].why);
    free(membership);
}

Test(bootstrap, an_answer_names_the_members_of_now_and_of_the_beginning)
{
    uint8_t *answer = malloc(PEER_META_BYTES_MAX), question[64];
    struct membership *membership = membership_make();
    struct member_set *first = calloc(1, sizeof(*first));
    struct member member = {.id = 9};
    cr_assert_eq(member_insert(first, &member), 0);
    Raftpb__JoinQuestion asked = RAFTPB__JOIN_QUESTION__INIT;
    size_t asked_bytes = raftpb__join_question__pack(&asked, question);
    int bytes = bootstrap_answer(bytes_make(question, asked_bytes), 77, first, &membership->set,
                                 answer, PEER_META_BYTES_MAX);
    cr_assert_gt(bytes, 0);
    Raftpb__JoinAnswer *got = raftpb__join_answer__unpack(NULL, (size_t)bytes, answer);
    cr_assert_not_null(got);
    cr_expect_eq(got->cluster_id, 77);
    cr_expect_eq(got->n_members, 3);
    cr_expect_eq(got->first->n_members, 1);
    raftpb__join_answer__free_unpacked(got, NULL);
    cr_expect_eq(
        bootstrap_answer(bytes_make(question, asked_bytes), 77, first, &membership->set, answer, 8),
        ERR_LIMIT);
    cr_expect_eq(bootstrap_answer(bytes_from_text("\xff\xff"), 77, first, &membership->set, answer,
                                  PEER_META_BYTES_MAX),
                 ERR_MALFORMED);
    free(answer);
    free(first);
    free(membership);
}
