#include "tools/raftctl/flags.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"

const char *flags_parse_integer(const char *text, int base, int64_t *value)
{
    const char *digits = text + (*text == '-' || *text == '+');
    char *end;
    if (!isxdigit((unsigned char)*digits) || (base == 16 && strchr(digits, 'x') != NULL))
        return "invalid syntax";
    errno = 0;
    *value = strtoll(text, &end, base);
    if (*end != '\0')
        return "invalid syntax";
    return errno == ERANGE ? "value out of range" : NULL;
}

static const char *flags_parse_duration(const char *text, uint64_t *value_ms)
{
    static const struct {
        const char *name;
        double ms;
    } units[] = {{"ns", 1e-6}, {"us", 1e-3}, {"ms", 1}, {"s", 1e3}, {"m", 60e3}, {"h", 3600e3}};
    double total_ms = 0;
    if (strcmp(text, "0") == 0) {
        *value_ms = 0;
        return NULL;
    }
    for (const char *at = text; at == text || *at != '\0';) {
        char *end;
        if (!isdigit((unsigned char)*at) && *at != '.')
            return "time: invalid duration";
        double number = strtod(at, &end);
        size_t unit_bytes = strcspn(end, "0123456789."), unit = 0;
        if (unit_bytes == 0)
            return "time: missing unit in duration";
        while (unit < ARRAY_COUNT(units) && (strlen(units[unit].name) != unit_bytes ||
                                             memcmp(units[unit].name, end, unit_bytes) != 0))
            unit++;
        if (unit == ARRAY_COUNT(units))
            return "time: unknown unit in duration";
        total_ms += number * units[unit].ms;
        at = end + unit_bytes;
    }
    if (total_ms > 1e15)
        return "time: invalid duration";
    *value_ms = total_ms > 0 && total_ms < 1 ? 1 : (uint64_t)total_ms;
    return NULL;
}

static bool flags_parse_switch(const char *text, bool *value)
{
    static const char *const yes[] = {"1", "t", "T", "true", "TRUE", "True"};
    static const char *const no[] = {"0", "f", "F", "false", "FALSE", "False"};
    for (size_t i = 0; i < ARRAY_COUNT(yes); i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *value = strcmp(text, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

static void flags_add_to_list(struct flag *flag, const char *text)
{
    char **list = flag->target, *joined;
    int written =
        flag->given ? asprintf(&joined, "%s,%s", *list, text) : asprintf(&joined, "%s", text);
    invariant(written >= 0);
    free(*list);
    *list = joined;
}

static bool flags_set(struct flag *flag, const char *text, char reason[FLAG_REASON_BYTES])
{
    const char *wrong = NULL, *parser = "";
    switch (flag->kind) {
    case FLAG_SWITCH:
        parser = "strconv.ParseBool: parsing";
        wrong = flags_parse_switch(text, flag->target) ? NULL : "invalid syntax";
        break;
    case FLAG_INTEGER:
        parser = "strconv.ParseInt: parsing";
        wrong = flags_parse_integer(text, 0, flag->target);
        break;
    case FLAG_DURATION:
        wrong = flags_parse_duration(text, flag->target);
        break;
    case FLAG_LIMIT:
        wrong = flags_parse_duration(text, flag->target);
        if (wrong == NULL)
            *(uint64_t *)flag->target = u64_max(*(uint64_t *)flag->target, 1);
        break;
    case FLAG_TEXT:
        *(const char **)flag->target = text;
        break;
    case FLAG_LIST:
        flags_add_to_list(flag, text);
        break;
    case FLAG_IGNORED:
        break;
    }
    flag->given = true;
    if (wrong == NULL)
        return true;
    int used = snprintf(reason, FLAG_REASON_BYTES, "invalid argument \"%.80s\" for \"", text);
    if (flag->letter != 0)
        used += snprintf(reason + used, FLAG_REASON_BYTES - (size_t)used, "-%c, ", flag->letter);
    used += snprintf(reason + used, FLAG_REASON_BYTES - (size_t)used, "--%s\" flag: ", flag->name);
    if (*parser != '\0')
        snprintf(reason + used, FLAG_REASON_BYTES - (size_t)used, "%s \"%.80s\": %s", parser, text,
                 wrong);
    else
        snprintf(reason + used, FLAG_REASON_BYTES - (size_t)used, "%s \"%.80s\"", wrong, text);
    return false;
}

static struct flag *flags_find(const struct flag_table *tables, uint32_t table_count,
                               const char *name, size_t name_bytes, char letter)
{
    for (uint32_t t = 0; t < table_count; t++) {
        for (uint32_t i = 0; i < tables[t].count; i++) {
            struct flag *flag = &tables[t].flags[i];
            if (letter != 0
                    ? flag->letter == letter
                    : strlen(flag->name) == name_bytes && memcmp(flag->name, name, name_bytes) == 0)
                return flag;
        }
    }
    return NULL;
}

/* One word that begins with '-'. Returns how many words it took, 0 when it is wrong. */
static int flags_take(const struct flag_table *tables, uint32_t table_count, int argc, char **argv,
                      char reason[FLAG_REASON_BYTES], bool *help)
{
    const char *word = argv[0];
    bool is_long = word[1] == '-';
    const char *name = word + (is_long ? 2 : 1), *value;
    size_t name_bytes = is_long ? strcspn(name, "=") : 1;
    struct flag *flag = flags_find(tables, table_count, name, name_bytes, is_long ? 0 : *name);
    if (flag == NULL) {
        *help = is_long ? strcmp(name, "help") == 0 : strcmp(name, "h") == 0;
        if (is_long)
            snprintf(reason, FLAG_REASON_BYTES, "unknown flag: --%.*s",
                     (int)u64_min(name_bytes, 99), name);
        else
            snprintf(reason, FLAG_REASON_BYTES, "unknown shorthand flag: '%c' in %.99s", *name,
                     word);
        return 0;
    }
    value = name[name_bytes] == '=' ? name + name_bytes + 1
            : is_long               ? NULL
            : name[1] != '\0'       ? name + 1
                                    : NULL;
    if (flag->kind == FLAG_SWITCH && value == NULL)
        value = "true";
    if (value != NULL)
        return flags_set(flag, value, reason) ? 1 : 0;
    if (argc < 2) {
        if (is_long)
            snprintf(reason, FLAG_REASON_BYTES, "flag needs an argument: --%s", flag->name);
        else
            snprintf(reason, FLAG_REASON_BYTES, "flag needs an argument: '%c' in %.99s", *name,
                     word);
        return 0;
    }
    return flags_set(flag, argv[1], reason) ? 2 : 0;
}

enum flag_result flags_parse(const struct flag_table *tables, uint32_t table_count,
                             bool stop_at_argument, int *argc, char **argv,
                             char reason[FLAG_REASON_BYTES])
{
    int left = 0, at = 0;
    while (at < *argc) {
        char *word = argv[at];
        if (strcmp(word, "--") == 0) {
            at++;
            break;
        }
        if (word[0] != '-' || word[1] == '\0') {
            if (stop_at_argument)
                break;
            argv[left++] = word;
            at++;
            continue;
        }
        bool help = false;
        int taken = flags_take(tables, table_count, *argc - at, argv + at, reason, &help);
        if (taken == 0)
            return help ? FLAG_HELP : FLAG_WRONG;
        at += taken;
    }
    while (at < *argc)
        argv[left++] = argv[at++];
    *argc = left;
    return FLAG_PARSED;
}

enum flag_result flags_from_environment(const struct flag_table *table, const char *prefix,
                                        char reason[FLAG_REASON_BYTES])
{
    for (uint32_t i = 0; i < table->count; i++) {
        struct flag *flag = &table->flags[i];
        char name[64];
        int bytes = snprintf(name, sizeof(name), "%s%s", prefix, flag->name);
        invariant(bytes > 0 && (size_t)bytes < sizeof(name));
        for (char *at = name; *at != '\0'; at++)
            *at = *at == '-' ? '_' : (char)toupper((unsigned char)*at);
        const char *value = getenv(name);
        if (value != NULL && *value != '\0' && !flag->given && !flags_set(flag, value, reason))
            return FLAG_WRONG;
    }
    return FLAG_PARSED;
}
