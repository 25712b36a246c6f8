/* Configurations, their changes (rows 113, 115) and their bytes. */
#include "consensus/config_change.h"

#include "core/err.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static struct raft_config config_of(const char *voters)
{
    struct raft_config config = {0};
    for (; *voters != '\0'; voters++)
        cr_assert(raft_id_set_add(&config.voters, (uint64_t)(*voters - '0')));
    return config;
}

/* "v2 l3" into changes. */
static uint32_t changes_of(const char *text, struct raft_change *changes)
{
    static const char kinds[] = "vlru";
    uint32_t count = 0;
    for (; *text != '\0'; text++)
        if (*text != ' ') {
            const char *kind = strchr(kinds, *text++);
            cr_assert(kind != NULL);
            changes[count++] = (struct raft_change){.kind = (enum raft_change_kind)(kind - kinds),
                                                    .id = (uint64_t)(*text - '0')};
        }
    return count;
}

static const char *ids_text(const struct raft_id_set *set)
{
    static char texts[8][RAFT_MEMBERS_MAX + 1];
    static int turn;
    char *text = texts[turn++ & 7];
    for (uint32_t i = 0; i < set->count; i++)
        text[i] = (char)('0' + set->ids[i]);
    text[set->count] = '\0';
    return text;
}

Test(config_change, row_115_kinds_of_transition)
{
    static const struct {
        const char *why, *changes;
        enum raft_transition transition;
        const char *voters, *outgoing, *learners, *next;
        bool auto_leave;
    } cases[] = {
        {"one voter is simple", "v2", RAFT_TRANSITION_AUTO, "12", "", "", "", false},
        {"one learner is simple", "l2", RAFT_TRANSITION_AUTO, "1", "", "2", "", false},
        {"unless asked for", "l2", RAFT_TRANSITION_EXPLICIT, "1", "1", "2", "", false},
        {"and left by the leader", "l2", RAFT_TRANSITION_IMPLICIT, "1", "1", "2", "", true},
        {"three are joint", "v2 l1 l3", RAFT_TRANSITION_AUTO, "2", "1", "3", "1", true},
        {"explicit stays", "v2 l1 l3", RAFT_TRANSITION_EXPLICIT, "2", "1", "3", "1", false},
        {"implicit leaves", "v2 l1 l3", RAFT_TRANSITION_IMPLICIT, "2", "1", "3", "1", true},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct raft_config from = config_of("1");
        struct raft_config to, left;
        struct raft_config_change change = {.transition = cases[i].transition};
        change.count = changes_of(cases[i].changes, change.changes);
        cr_assert_eq(config_change_apply(&from, &change, &to), 0, "%s", cases[i].why);
        cr_expect_str_eq(ids_text(&to.voters), cases[i].voters, "%s", cases[i].why);
        cr_expect_str_eq(ids_text(&to.outgoing), cases[i].outgoing, "%s", cases[i].why);
        cr_expect_str_eq(ids_text(&to.learners), cases[i].learners, "%s", cases[i].why);
        cr_expect_str_eq(ids_text(&to.learners_next), cases[i].next, "%s", cases[i].why);
        cr_expect_eq(to.auto_leave, cases[i].auto_leave, "%s", cases[i].why);
        struct raft_config_change leave = {0};
        cr_expect_eq(config_change_apply(&to, &leave, &left), to.outgoing.count ? 0 : ERR_CONFIG);
        cr_expect_eq(raft_config_validate(&to), 0);
    }
}

Test(config_change, row_113_what_is_illegal)
{
    static const struct {
        const char *why, *voters, *changes;
        bool simple;
        int want;
    } cases[] = {
        {"no voters left", "1", "r1", true, ERR_CONFIG},
        {"none left by demotion", "1", "l1", true, ERR_CONFIG},
        {"two voters in a simple change", "1", "v2 v3", true, ERR_CONFIG},
        {"one in, one out is two", "12", "v3 r2", true, ERR_CONFIG},
        {"joint may do that", "12", "v3 r2", false, 0},
        {"joint may not empty it", "12", "r1 r2", false, ERR_CONFIG},
        {"id 0 is nothing", "1", "v0", true, 0},
        {"what is there already", "12", "v2", true, 0},
        {"removing who is not there", "12", "r5", true, 0},
        {"there and back", "12", "r2 v2", true, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct raft_config from = config_of(cases[i].voters);
        struct raft_config to = from;
        struct raft_change changes[RAFT_MEMBERS_MAX];
        uint32_t count = changes_of(cases[i].changes, changes);
        int got = cases[i].simple ? config_change_simple(&from, changes, count, &to)
                                  : config_change_enter_joint(&from, false, changes, count, &to);
        cr_expect_eq(got, cases[i].want, "%s", cases[i].why);
        if (got != 0)
            cr_expect(raft_config_equal(&from, &to), "untouched: %s", cases[i].why);
    }
}

Test(config_change, too_many_members)
{
    struct raft_config from = config_of("1"), to;
    struct raft_change changes[RAFT_MEMBERS_MAX];
    for (uint64_t i = 0; i < RAFT_MEMBERS_MAX; i++)
        changes[i] = (struct raft_change){.kind = RAFT_CHANGE_ADD_LEARNER, .id = 10 + i};
    cr_expect_eq(config_change_simple(&from, changes, RAFT_MEMBERS_MAX - 1, &to), 0);
    cr_expect_eq(config_change_simple(&from, changes, RAFT_MEMBERS_MAX, &to), ERR_LIMIT);
}

Test(config_change, bytes_come_back)
{
    struct raft_config_change change = {.transition = RAFT_TRANSITION_EXPLICIT,
                                        .context = bytes_from_text("name=a")};
    uint8_t bytes[256];
    change.count = changes_of("v2 l3 r1 u4", change.changes);
    size_t size = raft_config_change_bytes(&change);
    raft_config_change_encode(&change, bytes);
    struct raft_config_change back;
    cr_assert_eq(raft_config_change_decode(bytes_make(bytes, size), &back), 0);
    cr_expect_eq(back.transition, RAFT_TRANSITION_EXPLICIT);
    cr_expect_eq(back.count, 4);
    cr_expect_eq(memcmp(back.changes, change.changes, sizeof(back.changes)), 0);
    cr_expect(bytes_equal(back.context, change.context));
    for (size_t cut = 1; cut < 4 + 4 * 16; cut++)
        cr_expect_eq(raft_config_change_decode(bytes_make(bytes, cut), &back), ERR_MALFORMED);
    cr_expect_eq(raft_config_change_decode(bytes_make(NULL, 0), &back), 0);
    cr_expect(raft_config_change_leaves(&back), "no bytes: leave");
}

Test(config_change, configurations_come_back)
{
    struct raft_config from = config_of("123"), joint, back;
    struct raft_change changes[4];
    uint8_t bytes[RAFT_CONFIG_BYTES_MAX];
    uint32_t count = changes_of("l1 v4 l5", changes);
    cr_assert_eq(config_change_enter_joint(&from, true, changes, count, &joint), 0);
    size_t size = raft_config_encode(&joint, bytes);
    cr_assert_eq(raft_config_decode(bytes_make(bytes, size), &back), 0);
    cr_expect(raft_config_equal(&joint, &back));
    for (size_t cut = 0; cut < size; cut++)
        cr_expect_eq(raft_config_decode(bytes_make(bytes, cut), &back), ERR_MALFORMED);
    uint64_t random = 3;
    for (int round = 0; round < 20000;
         round++) { /* damaged bytes decode to something legal or not */
        uint8_t damaged[RAFT_CONFIG_BYTES_MAX];
        memcpy(damaged, bytes, size);
        random = random * 6364136223846793005u + 1442695040888963407u;
        damaged[(random >> 33) % size] ^= (uint8_t)(1u << ((random >> 20) & 7));
        if (raft_config_decode(bytes_make(damaged, size), &back) == 0)
            cr_assert_eq(raft_config_validate(&back), 0);
    }
}
