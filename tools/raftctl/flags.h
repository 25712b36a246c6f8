/*
 * flags.h - command-line flags the way etcdctl's users write them.
 *
 * Story     Flags and arguments mix freely; --name=value, --name value, -w value, -wvalue; a flag
 *           that is either on or off takes a value only after '='; "--" ends the flags.
 * Owner     The caller: tables and targets are its, values point into argv.
 * Threads   Any: no state.
 * Errors    A line in `reason`, worded as etcdctl words it.
 * Limits    Tables of any size, searched in order; the first that has a name wins.
 */
#ifndef TOOLS_RAFTCTL_FLAGS_H
#define TOOLS_RAFTCTL_FLAGS_H

#include "core/base.h"

#define FLAG_REASON_BYTES 320

enum flag_kind {
    FLAG_SWITCH,   /* bool */
    FLAG_INTEGER,  /* int64_t */
    FLAG_TEXT,     /* const char * */
    FLAG_LIST,     /* char *, allocated: comma-separated; a repeated flag adds to it */
    FLAG_DURATION, /* uint64_t in ms: "5s", "1m30s", "250ms"; what is less than 1 ms counts as 1 */
    FLAG_LIMIT,    /* the same; 0 counts as 1 ms as well: hardly any time, not the default */
    FLAG_IGNORED,  /* takes a value, which nobody looks at */
};

struct flag {
    const char *name;
    char letter; /* 0: none */
    enum flag_kind kind;
    void *target;
    const char *what; /* for the help text */
    bool given;
};

struct flag_table {
    struct flag *flags;
    uint32_t count;
};

enum flag_result { FLAG_PARSED, FLAG_WRONG, FLAG_HELP };

/* Takes the flags out of argv[0 .. *argc) and moves what is left to its front. When
 * `stop_at_argument`, what follows the first argument stays as it is. */
enum flag_result flags_parse(const struct flag_table *tables, uint32_t table_count,
                             bool stop_at_argument, int *argc, char **argv,
                             char reason[FLAG_REASON_BYTES]);

/* From the environment: `prefix` and the name in capitals, '-' as '_'; for flags not given. */
enum flag_result flags_from_environment(const struct flag_table *table, const char *prefix,
                                        char reason[FLAG_REASON_BYTES]);

/* A decimal (base 10), hexadecimal (16) or prefixed (0) number. Returns NULL, or what is wrong. */
const char *flags_parse_integer(const char *text, int base, int64_t *value);

#endif
