/* Flags of raftctl. What they do to its output is compared with etcdctl's in tests/compat. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "tools/raftctl/flags.h"

Test(flags, little_time_is_not_the_default)
{
    static const struct {
        const char *why, *text;
        uint64_t duration_ms, limit_ms;
        bool wrong;
    } cases[] = {
        {"seconds", "5s", 5000, 5000, false},
        {"milliseconds", "250ms", 250, 250, false},
        {"several units", "1m30s", 90000, 90000, false},
        {"a fraction", "1.1s", 1100, 1100, false},
        {"a microsecond is not no time", "1us", 1, 1, false},
        {"nor a nanosecond", "1ns", 1, 1, false},
        {"0 is no limit's default", "0", 0, 1, false},
        {"nor 0 with a unit", "0s", 0, 1, false},
        {"no unit", "5", 7, 7, true},
        {"an unknown unit", "5d", 7, 7, true},
        {"nothing", "", 7, 7, true},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint64_t duration_ms = 7, limit_ms = 7;
        struct flag flags[] = {{"duration", 'd', FLAG_DURATION, &duration_ms, "", false},
                               {"limit", 'l', FLAG_LIMIT, &limit_ms, "", false}};
        struct flag_table table = {flags, ARRAY_COUNT(flags)};
        char reason[FLAG_REASON_BYTES], words[2][32];
        for (int flag = 0; flag < 2; flag++) {
            snprintf(words[flag], sizeof(words[flag]), "-%c=%s", flag == 0 ? 'd' : 'l',
                     cases[i].text);
            char *argv[] = {words[flag]};
            int argc = 1;
            enum flag_result result = flags_parse(&table, 1, false, &argc, argv, reason);
            cr_expect_eq(result, cases[i].wrong ? FLAG_WRONG : FLAG_PARSED, "%s", cases[i].why);
        }
        cr_expect_eq(duration_ms, cases[i].duration_ms, "%s", cases[i].why);
        cr_expect_eq(limit_ms, cases[i].limit_ms, "%s", cases[i].why);
    }
}
