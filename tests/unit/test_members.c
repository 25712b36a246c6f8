#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/members.h"

static struct config_urls urls(const char *first, const char *second)
{
    struct config_urls made = {0};
    char reason[256];
    cr_assert_eq(config_url_parse(&made.url[made.count++], first, reason, sizeof(reason)), 0);
    if (second != NULL)
        cr_assert_eq(config_url_parse(&made.url[made.count++], second, reason, sizeof(reason)), 0);
    return made;
}

static struct member_set *set_from(const char *cluster, const char *token, int want)
{
    struct config *config = calloc(1, sizeof(*config));
    struct member_set *set = calloc(1, sizeof(*set));
    char reason[512] = "";
    snprintf(config->name, sizeof(config->name), "default");
    config->advertise_peer = urls("http://localhost:2380", NULL);
    snprintf(config->initial_cluster, sizeof(config->initial_cluster), "%s", cluster);
    snprintf(config->initial_cluster_token, sizeof(config->initial_cluster_token), "%s", token);
    cr_assert_eq(members_from_config(config, set, reason, sizeof(reason)), want, "%s: %s", cluster,
                 reason);
    cr_assert_eq(want < 0, reason[0] != '\0');
    free(config);
    return set;
}

Test(members, ids_are_those_that_etcd_derives)
{
    struct member_set *set = set_from("", "etcd-cluster", 0);
    cr_expect_eq(set->count, 1);
    cr_expect_eq(set->members[0].id, UINT64_C(0x8e9e05c52164694d));
    cr_expect_eq(cluster_id_derive(set), UINT64_C(0xcdf818194e3a8c32));
    struct config_urls forward = urls("http://a:1", "http://b:2");
    struct config_urls backward = urls("http://b:2", "http://a:1");
    cr_expect_eq(member_id_derive(&forward, "t", 0), member_id_derive(&backward, "t", 0));
    cr_expect_neq(member_id_derive(&forward, "t", 0), member_id_derive(&forward, "t", 5));
    cr_expect_neq(member_id_derive(&forward, "t", 0), member_id_derive(&forward, "u", 0));
    free(set);
}

Test(members, initial_cluster)
{
    static const struct {
        const char *why, *cluster;
        int want;
        uint32_t count;
    } cases[] = {
        {"three members", "a=http://h:1,b=http://h:2,c=http://h:3", 0, 3},
        {"two addresses of one", "a=http://h:1,b=http://h:2,a=http://h:3", 0, 2},
        {"no name", "=http://h:1", ERR_CONFIG, 0},
        {"no address", "a", ERR_CONFIG, 0},
        {"not an address", "a=h", ERR_CONFIG, 0},
        {"the same address twice", "a=http://h:1,b=http://h:1", ERR_CONFIG, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct member_set *set = set_from(cases[i].cluster, "t", cases[i].want);
        if (cases[i].want == 0)
            cr_expect_eq(set->count, cases[i].count, "%s", cases[i].why);
        for (uint32_t m = 1; cases[i].want == 0 && m < set->count; m++)
            cr_expect_lt(set->members[m - 1].id, set->members[m].id);
        free(set);
    }
}

Test(members, sets_survive_their_encoding)
{
    struct member_set *set = set_from("a=http://h:1,b=http://h:2,a=http://h:3", "t", 0);
    struct member_set *again = calloc(1, sizeof(*again));
    uint8_t *bytes = malloc(MEMBERS_BYTES_MAX);
    set->members[1].learner = true;
    set->members[1].client = urls("http://c:9", NULL);
    size_t size = members_encode(set, bytes);
    cr_assert_eq(members_decode(bytes_make(bytes, size), again), 0);
    cr_assert_eq(again->count, 2);
    for (uint32_t i = 0; i < 2; i++) {
        const struct member *a = &set->members[i], *b = &again->members[i];
        cr_expect_eq(a->id, b->id);
        cr_expect_str_eq(a->name, b->name);
        cr_expect_eq(a->learner, b->learner);
        cr_expect_eq(a->peer.count, b->peer.count);
        cr_expect_str_eq(a->peer.url[0].text, b->peer.url[0].text);
        cr_expect_eq(a->client.count, b->client.count);
    }
    struct raft_config config;
    members_config(again, &config);
    cr_expect_eq(config.voters.count, 1);
    cr_expect_eq(config.learners.count, 1);
    cr_expect_eq(members_decode(bytes_make(bytes, size - 1), again), ERR_MALFORMED);
    free(bytes);
    free(again);
    free(set);
}

/* A member's record is an etcdserverpb.Member with the life behind it: of the bytes of a version
 * without lives nothing changed. */
Test(members, a_record_carries_a_life)
{
    static const uint64_t lives[] = {0, 1, UINT64_MAX};
    uint8_t bytes[MEMBER_BYTES_MAX], lifeless[MEMBER_BYTES_MAX];
    struct member member = {.id = 7, .name = "seven", .learner = true}, again;
    size_t lifeless_bytes = member_encode(&member, lifeless);
    for (size_t i = 0; i < ARRAY_COUNT(lives); i++) {
        member.life = lives[i];
        size_t size = member_encode(&member, bytes);
        cr_expect_eq(size, lifeless_bytes + (lives[i] == 0 ? 0 : 10)); /* tag of field 16: two */
        cr_expect_arr_eq(bytes, lifeless, lifeless_bytes);
        cr_assert_eq(member_decode(bytes_make(bytes, size), &again), 0);
        cr_expect(again.id == 7 && again.life == lives[i] && again.learner);
        cr_expect_str_eq(again.name, "seven");
    }
}

Test(members, found_by_address_and_removed)
{
    struct member_set *set = set_from("a=http://h:1,b=http://h:2,a=http://h:3", "t", 0);
    struct config_urls both = urls("http://h:3", "http://h:1"), one = urls("http://h:3", NULL);
    struct config_urls none = urls("http://h:9", NULL);
    const struct member *a = member_find_urls(set, &both);
    cr_assert_not_null(a);
    cr_expect_str_eq(a->name, "a");
    cr_expect_null(member_find_urls(set, &one), "all of them must be the same");
    cr_expect_eq(member_find_any_url(set, &one), a);
    cr_expect_null(member_find_any_url(set, &none));
    uint64_t id = a->id;
    member_remove(set, id);
    member_remove(set, id);
    cr_expect_eq(set->count, 1);
    cr_expect_null(member_find(set, id));
    cr_expect_str_eq(set->members[0].name, "b");
    free(set);
}
