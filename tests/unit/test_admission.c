/* server/admission.h: what greetings tell, who may connect, and whose trust ends. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/admission.h"
#include "server/membership.h"

enum { SELF = 1, NAMED = 2, ADDED = 3, REMOVED = 4, UNKNOWN = 5, OLD = 6 };
enum { LIFE = 0x11fe, OTHER = 0xdead };

static struct membership *membership_make(void)
{
    static uint64_t removed[] = {REMOVED};
    struct membership *membership = calloc(1, sizeof(*membership));
    static const struct {
        uint64_t id, life;
        const char *name;
    } members[] = {
        {SELF, 0x5e1f, "self"},
        {NAMED, LIFE, "named"},
        {ADDED, 0, ""},
        {OLD, 0, "by a version without lives"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(members); i++) {
        struct member member = {.id = members[i].id, .life = members[i].life};
        snprintf(member.name, sizeof(member.name), "%s", members[i].name);
        cr_assert_eq(member_insert(&membership->set, &member), 0);
    }
    membership->removed = removed;
    membership->removed_count = 1;
    return membership;
}

static struct admission *admission_make(const struct membership *membership)
{
    struct admission *admission = calloc(1, sizeof(*admission));
    admission->membership = membership;
    admission->self = SELF;
    return admission;
}

/* ---- the rule ------------------------------------------------------------------------------- */

Test(admission, who_may_connect)
{
    static const struct {
        const char *why;
        uint64_t id, life;
        bool fresh, caught_up;
        int want;
    } cases[] = {
        {"a member that works", NAMED, LIFE, false, true, 0},
        {"also before we know what happened since", NAMED, LIFE, false, false, 0},
        {"its first greeting was under way for long", NAMED, LIFE, true, true, 0},
        {"which our log tells at once", NAMED, LIFE, true, false, 0},
        {"its directory was emptied", NAMED, OTHER, true, true, ERR_MEMBER_BOOTSTRAPPED},
        {"which our log tells at once", NAMED, OTHER, true, false, ERR_MEMBER_BOOTSTRAPPED},
        {"and it was fed since", NAMED, OTHER, false, true, ERR_MEMBER_BOOTSTRAPPED},
        {"an old version on a directory that cannot be its own", NAMED, 0, false, true,
         ERR_MEMBER_BOOTSTRAPPED},
        {"one that starts for the first time", ADDED, OTHER, true, true, 0},
        {"or so it seems until our log is applied", ADDED, OTHER, true, false, ERR_UNAVAILABLE},
        {"whose name is on its way", ADDED, OTHER, false, true, 0},
        {"damage keeps our log from being applied: it may help", ADDED, OTHER, false, false, 0},
        {"one whose addition we have not seen", UNKNOWN, OTHER, true, true, 0},
        {"nor can we have", UNKNOWN, OTHER, true, false, ERR_UNAVAILABLE},
        {"not upgraded yet", OLD, 0, false, true, 0},
        {"upgraded, its life is on its way", OLD, LIFE, false, true, 0},
        {"emptied when it was upgraded", OLD, LIFE, true, true, ERR_MEMBER_BOOTSTRAPPED},
        {"a removed one", REMOVED, LIFE, false, true, ERR_MEMBER_REMOVED},
        {"with an empty directory", REMOVED, LIFE, true, false, ERR_MEMBER_REMOVED},
        {"ourselves", SELF, 0x5e1f, false, true, ERR_MEMBER_EXISTS},
    };
    struct membership *membership = membership_make();
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct admission *admission = admission_make(membership);
        struct greeting greeting = {.fresh = cases[i].fresh, .life = cases[i].life};
        cr_expect_eq(admission_decide(admission, cases[i].id, &greeting, cases[i].caught_up),
                     cases[i].want, "%s", cases[i].why);
        free(admission);
    }
    free(membership);
}

/* What was let in on trust while our log did not say who it is. */
Test(admission, trust_ends_when_the_log_tells)
{
    static const struct {
        const char *why;
        uint64_t id, greeted, told; /* life; told 0: nothing yet */
        bool removed, exposed;
    } cases[] = {
        {"it is who it said", ADDED, LIFE, LIFE, false, false},
        {"it is not", ADDED, OTHER, LIFE, false, true},
        {"an unknown one became a member, as another one", UNKNOWN, OTHER, LIFE, false, true},
        {"nothing is known yet", ADDED, OTHER, 0, false, false},
        {"it has no life, and the member has one", OLD, 0, LIFE, false, true},
        {"it was removed", UNKNOWN, OTHER, 0, true, false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct membership *membership = membership_make();
        struct admission *admission = admission_make(membership);
        struct greeting greeting = {.life = cases[i].greeted};
        cr_assert_eq(admission_decide(admission, cases[i].id, &greeting, true), 0);
        cr_expect_eq(admission_expose(admission), 0, "%s: too early", cases[i].why);
        uint64_t gone[] = {cases[i].id};
        if (cases[i].removed)
            membership->removed = gone;
        struct member *member = member_find(&membership->set, cases[i].id);
        struct member added = {.id = cases[i].id, .life = cases[i].told};
        if (member != NULL)
            member->life = cases[i].told;
        else if (!cases[i].removed)
            cr_assert_eq(member_insert(&membership->set, &added), 0);
        cr_expect_eq(admission_expose(admission), cases[i].exposed ? cases[i].id : 0, "%s",
                     cases[i].why);
        cr_expect_eq(admission_expose(admission), 0, "%s: once", cases[i].why);
        bool forgotten = cases[i].told != 0 || cases[i].removed;
        cr_expect_eq(admission->trusted[0].id, forgotten ? 0 : cases[i].id, "%s", cases[i].why);
        free(admission);
        free(membership);
    }
}

Test(admission, the_latest_greeting_counts_and_the_oldest_is_forgotten)
{
    struct membership *membership = membership_make();
    struct admission *admission = admission_make(membership);
    struct greeting first = {.life = LIFE}, second = {.life = OTHER};
    cr_assert_eq(admission_decide(admission, UNKNOWN, &first, true), 0);
    cr_assert_eq(admission_decide(admission, UNKNOWN, &second, true), 0);
    cr_expect_eq(admission->trusted[0].life, OTHER);
    cr_expect_eq(admission->trusted[1].id, 0, "A1");
    for (uint64_t id = 100; id < 100 + PEERS_MAX; id++)
        cr_assert_eq(admission_decide(admission, id, &first, true), 0);
    cr_expect_eq(admission->trusted[0].id, 100 + PEERS_MAX - 1);
    cr_expect_eq(admission->trusted[1].id, 100);
    free(admission);
    free(membership);
}

Test(admission, who_may_vote)
{
    static const struct {
        const char *why;
        uint64_t self, life;
        bool welcomed, want;
    } cases[] = {
        {"our log names us", NAMED, LIFE, false, true},
        {"at the first start, whoever let us in", ADDED, OTHER, true, true},
        {"but nobody who may know that we were emptied", ADDED, OTHER, false, false},
        {"as long as our addition is not applied", UNKNOWN, OTHER, false, false},
        {"upgraded, until our life is told", OLD, LIFE, true, true},
        {"upgraded, until our life is told", OLD, LIFE, false, false},
        {"we are an emptied directory", NAMED, OTHER, false, false},
        {"whoever let us in cannot know it yet", NAMED, OTHER, true, false},
    };
    struct membership *membership = membership_make();
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct admission admission = {.membership = membership, .self = cases[i].self};
        cr_expect_eq(admission_may_vote(&admission, cases[i].life, cases[i].welcomed),
                     cases[i].want, "%s", cases[i].why);
    }
    free(membership);
}

/* ---- greetings ------------------------------------------------------------------------------ */

Test(admission, what_a_greeting_tells_is_understood)
{
    struct config_urls urls = {.count = CONFIG_URLS_MAX};
    char text[GREETING_BYTES_MAX], url[64], reason[256];
    struct greeting greeting;
    for (uint32_t i = 0; i < urls.count; i++) {
        snprintf(url, sizeof(url), "http://host%u:%u", i, 2380 + i);
        cr_assert_eq(config_url_parse(&urls.url[i], url, reason, sizeof(reason)), 0);
    }
    greeting_write(text, UINT64_C(0x0123456789abcdef), &urls);
    cr_assert_eq(greeting_read(bytes_from_text(text), &greeting), 0);
    cr_expect(greeting.fresh);
    cr_expect_eq(greeting.life, UINT64_C(0x0123456789abcdef));
    cr_expect_eq(greeting.address_count, PEER_ADDRESSES_MAX);
    cr_expect_str_eq(greeting.addresses[7].host, "host7");
    cr_expect_eq(greeting.addresses[7].port, 2387);
    greeting_set_fresh(text, false);
    cr_assert_eq(greeting_read(bytes_from_text(text), &greeting), 0);
    cr_expect_not(greeting.fresh);
    urls.count = 1;
    greeting_write(text, 1, &urls);
    cr_expect_str_eq(text, "1life=0000000000000001,http://host0:2380");
}

Test(admission, what_no_member_says_is_malformed)
{
    static const struct {
        const char *why, *text;
        int want;
        uint64_t life;
        uint32_t addresses;
    } cases[] = {
        {"the flag alone", "0", 0, 0, 0},
        {"of a version without lives", "1http://a:1,http://b:2", 0, 0, 2},
        {"what later versions may add is skipped", "0shoe=42,life=00000000000000ff,http://a:1,", 0,
         255, 1},
        {"nothing", "", ERR_MALFORMED, 0, 0},
        {"another flag", "2http://a:1", ERR_MALFORMED, 0, 0},
        {"a life of none", "0life=0000000000000000", ERR_MALFORMED, 0, 0},
        {"a short life", "0life=ff", ERR_MALFORMED, 0, 0},
        {"a long life", "0life=00000000000000ff0", ERR_MALFORMED, 0, 0},
        {"no digit", "0life=00000000000000fg", ERR_MALFORMED, 0, 0},
        {"two lives", "0life=00000000000000ff,life=00000000000000ff", ERR_MALFORMED, 0, 0},
    };
    struct greeting greeting;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        cr_expect_eq(greeting_read(bytes_from_text(cases[i].text), &greeting), cases[i].want, "%s",
                     cases[i].why);
        if (cases[i].want < 0)
            continue;
        cr_expect_eq(greeting.life, cases[i].life, "%s", cases[i].why);
        cr_expect_eq(greeting.address_count, cases[i].addresses, "%s", cases[i].why);
    }
    char *large = malloc(GREETING_BYTES_MAX);
    memset(large, '0', GREETING_BYTES_MAX);
    cr_expect_eq(greeting_read(bytes_make((uint8_t *)large, GREETING_BYTES_MAX), &greeting),
                 ERR_MALFORMED);
    large[1] = '\0';
    cr_expect_eq(greeting_read(bytes_make((uint8_t *)large, 2), &greeting), ERR_MALFORMED);
    free(large);
}
