/* server/bootstrap.h: what a process that joins is told, and makes of it. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/peer.pb-c.h"
#include "server/bootstrap.h"

static struct member_set *three_members(void)
{
    struct member_set *set = calloc(1, sizeof(*set));
    for (uint64_t id = 1; id <= 3; id++) {
        struct member member = {.id = id};
        cr_assert_eq(member_insert(set, &member), 0);
    }
    return set;
}

Test(bootstrap, an_answer_names_the_members_of_now_and_of_the_beginning)
{
    uint8_t *answer = malloc(PEER_META_BYTES_MAX), question[64];
    struct member_set *members = three_members();
    struct member_set *first = calloc(1, sizeof(*first));
    struct member member = {.id = 9};
    cr_assert_eq(member_insert(first, &member), 0);
    Raftpb__JoinQuestion asked = RAFTPB__JOIN_QUESTION__INIT;
    size_t asked_bytes = raftpb__join_question__pack(&asked, question);
    int bytes = bootstrap_answer(bytes_make(question, asked_bytes), 77, first, members, answer,
                                 PEER_META_BYTES_MAX);
    cr_assert_gt(bytes, 0);
    Raftpb__JoinAnswer *got = raftpb__join_answer__unpack(NULL, (size_t)bytes, answer);
    cr_assert_not_null(got);
    cr_expect_eq(got->cluster_id, 77);
    cr_expect_eq(got->n_members, 3);
    cr_expect_eq(got->first->n_members, 1);
    raftpb__join_answer__free_unpacked(got, NULL);
    cr_expect_eq(bootstrap_answer(bytes_make(question, asked_bytes), 77, first, members, answer, 8),
                 ERR_LIMIT);
    cr_expect_eq(bootstrap_answer(bytes_from_text("\xff\xff"), 77, first, members, answer,
                                  PEER_META_BYTES_MAX),
                 ERR_MALFORMED);
    free(answer);
    free(first);
    free(members);
}

/* ---- what a process makes of an answer ------------------------------------------------------ */

static struct bytes answer_of(uint64_t cluster, const struct member_set *members, uint8_t *to)
{
    uint8_t question[8];
    Raftpb__JoinQuestion asked = RAFTPB__JOIN_QUESTION__INIT;
    size_t asked_bytes = raftpb__join_question__pack(&asked, question);
    int bytes = bootstrap_answer(bytes_make(question, asked_bytes), cluster, members, members, to,
                                 PEER_META_BYTES_MAX);
    cr_assert_gt(bytes, 0);
    return bytes_make(to, (size_t)bytes);
}

static struct config_urls urls_of(const char *text)
{
    struct config_urls urls = {.count = 1};
    char reason[256];
    cr_assert_eq(config_url_parse(&urls.url[0], text, reason, sizeof(reason)), 0);
    return urls;
}

Test(bootstrap, a_process_joins_as_who_was_added)
{
    static const struct {
        const char *why, *own, *name; /* our address; the name that the member has there */
        uint64_t known_cluster;       /* from an answer before */
        int want;
        const char *text;
    } cases[] = {
        {"it was added", "http://h:2", "", 0, 0, ""},
        {"another member says the same", "http://h:2", "", 77, 0, ""},
        {"not yet, where we asked", "http://h:3", "", 0, ERR_NOT_FOUND, "add it first"},
        {"it has started before", "http://h:2", "two", 0, ERR_CONFIG,
         "its data directory was lost"},
        {"another cluster", "http://h:2", "", 78, ERR_CONFIG, "two clusters"},
    };
    struct config *config = calloc(1, sizeof(*config));
    struct member_set *members = calloc(1, sizeof(*members));
    uint8_t *memory = malloc(PEER_META_BYTES_MAX);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct member one = {.id = 1, .name = "one", .peer = urls_of("http://h:1")};
        struct member two = {.id = 2, .peer = urls_of("http://h:2")};
        snprintf(two.name, sizeof(two.name), "%s", cases[i].name);
        members->count = 0;
        cr_assert(member_insert(members, &one) == 0 && member_insert(members, &two) == 0);
        struct identity identity = {.cluster_id = cases[i].known_cluster,
                                    .first = calloc(1, sizeof(*identity.first))};
        char reason[512] = "";
        config->advertise_peer = urls_of(cases[i].own);
        cr_expect_eq(bootstrap_take_answer(config, answer_of(77, members, memory), &identity,
                                           reason, sizeof(reason)),
                     cases[i].want, "%s", cases[i].why);
        cr_expect(strstr(reason, cases[i].text) != NULL, "%s: '%s'", cases[i].why, reason);
        if (cases[i].want == 0) {
            cr_expect_eq(identity.member_id, 2, "%s", cases[i].why);
            cr_expect_eq(identity.cluster_id, 77, "%s", cases[i].why);
            cr_expect_eq(identity.first->count, 2, "%s", cases[i].why);
        }
        identity_deinit(&identity);
    }
    struct identity identity = {.first = calloc(1, sizeof(*identity.first))};
    char reason[512] = "";
    cr_expect_eq(bootstrap_take_answer(config, bytes_from_text("\xff\xff"), &identity, reason,
                                       sizeof(reason)),
                 ERR_MALFORMED);
    cr_expect_neq(reason[0], '\0');
    identity_deinit(&identity);
    free(memory);
    free(members);
    free(config);
}
