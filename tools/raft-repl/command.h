/*
 * command.h - one line of a transcript taken apart: words, options, lists.
 *
 * Story     command_parse() splits; the getters convert. The first thing that cannot be converted
 *           is remembered as the command's error and the getters answer 0 from then on: a handler
 *           reads all its arguments, asks command_failed() once, and only then acts.
 * Owner     The caller owns struct command; texts point into it.
 * Threads   One.
 * Errors    command_failed(); command->error says what was expected.
 * Limits    COMMAND_LINE_BYTES_MAX, COMMAND_WORDS_MAX words and options, COMMAND_LIST_MAX values.
 */
#ifndef RAFT_REPL_COMMAND_H
#define RAFT_REPL_COMMAND_H

#include "consensus/config.h"
#include "core/base.h"

#define COMMAND_LINE_BYTES_MAX 4096
#define COMMAND_WORDS_MAX      64
#define COMMAND_LIST_MAX       32
#define COMMAND_MISSING        UINT64_MAX /* "_" in a list */

struct command_option {
    const char *name;
    const char *value; /* without parentheses */
};

struct command {
    char bytes[COMMAND_LINE_BYTES_MAX];
    const char *words[COMMAND_WORDS_MAX];
    uint32_t word_count;
    struct command_option options[COMMAND_WORDS_MAX];
    uint32_t option_count;
    const char *rest; /* the text after the second word, as it was typed */
    char error[160];  /* "" = none */
};

struct command_list {
    uint64_t values[COMMAND_LIST_MAX];
    uint32_t count;
};

/* `text_words` > 0: only that many words are taken apart, what follows is command->rest. */
void command_parse(struct command *command, const char *line, uint32_t text_words);

bool command_failed(const struct command *command);
void command_fail(struct command *command, const char *what, const char *expected);

/* Fails on an option that is not among `allowed` (names separated by blanks) or comes twice. */
void command_check_options(struct command *command, const char *allowed);

uint64_t command_number(struct command *command, uint32_t at);

/* NULL when it is not given. */
const char *command_option(const struct command *command, const char *name);
bool command_option_bool(struct command *command, const char *name, bool otherwise);
uint64_t command_option_number(struct command *command, const char *name, uint64_t otherwise);

/* Numbers; `letters` are allowed besides: "_" is COMMAND_MISSING, "y" and "n" answers of a vote. */
struct command_list command_option_list(struct command *command, const char *name,
                                        const char *letters);
struct raft_id_set command_option_ids(struct command *command, const char *name);

/* "v1 l2 r3 u4" from word `at` on; a colon before them is optional. */
void command_changes(struct command *command, uint32_t at, struct raft_config_change *change);

bool command_blank(char c);

#endif
