#include "tools/raft-repl/command.h"

#include "consensus/quorum.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

bool command_blank(char c)
{
    return c == ' ' || c == '\t' || c == ',';
}

bool command_failed(const struct command *command)
{
    return command->error[0] != '\0';
}

void command_fail(struct command *command, const char *what, const char *expected)
{
    if (!command_failed(command))
        snprintf(command->error, sizeof(command->error), "%.60s: %.80s", what, expected);
}

/* The end of a word; a parenthesis keeps its blanks. NULL: it is not closed. */
static char *word_end(char *at)
{
    while (*at != '\0' && !command_blank(*at)) {
        if (*at == '(' && (at = strchr(at, ')')) == NULL)
            return NULL;
        at++;
    }
    return at;
}

static void take_word(struct command *command, char *word)
{
    char *value = strchr(word, '=');
    if (value == NULL || command->word_count == 0) {
        command->words[command->word_count++] = word;
        return;
    }
    *value++ = '\0';
    size_t length = strlen(value);
    if (length >= 2 && value[0] == '(' && value[length - 1] == ')') {
        value[length - 1] = '\0';
        value++;
    }
    command->options[command->option_count++] =
        (struct command_option){.name = word, .value = value};
}

void command_parse(struct command *command, const char *line, uint32_t text_words)
{
    size_t size = strlen(line);
    memset(command, 0, sizeof(*command));
    command->rest = "";
    if (size >= sizeof(command->bytes)) {
        command_fail(command, "line", "too long");
        return;
    }
    memcpy(command->bytes, line, size + 1);
    char *at = command->bytes;
    while (!command_failed(command)) {
        while (command_blank(*at))
            at++;
        if (text_words > 0 && command->word_count == text_words) {
            command->rest = at;
            return;
        }
        if (*at == '\0')
            return;
        if (command->word_count == COMMAND_WORDS_MAX || command->option_count == COMMAND_WORDS_MAX)
            return command_fail(command, "line", "too many words");
        char *end = text_words > 0 ? at + strcspn(at, " \t,") : word_end(at);
        if (end == NULL)
            return command_fail(command, at, "the parenthesis is not closed");
        bool more = *end != '\0';
        *end = '\0';
        take_word(command, at);
        at = more ? end + 1 : end;
    }
}

static bool name_among(const char *name, const char *names)
{
    size_t length = strlen(name);
    for (const char *at = names; (at = strstr(at, name)) != NULL; at++)
        if ((at == names || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return true;
    return false;
}

void command_check_options(struct command *command, const char *allowed)
{
    for (uint32_t i = 0; i < command->option_count; i++) {
        const char *name = command->options[i].name;
        if (name[0] == '\0' || !name_among(name, allowed))
            command_fail(command, name, "no such option here");
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(command->options[j].name, name) == 0)
                command_fail(command, name, "given twice");
    }
}

static uint64_t number(struct command *command, const char *text)
{
    char *end = NULL;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0) {
        command_fail(command, text, "a number is expected");
        return 0;
    }
    return value;
}

uint64_t command_number(struct command *command, uint32_t at)
{
    if (at >= command->word_count) {
        command_fail(command, command->words[0], "an argument is missing");
        return 0;
    }
    return number(command, command->words[at]);
}

const char *command_option(const struct command *command, const char *name)
{
    for (uint32_t i = 0; i < command->option_count; i++)
        if (strcmp(command->options[i].name, name) == 0)
            return command->options[i].value;
    return NULL;
}

bool command_option_bool(struct command *command, const char *name, bool otherwise)
{
    const char *text = command_option(command, name);
    if (text == NULL)
        return otherwise;
    bool yes = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
    if (!yes && strcmp(text, "false") != 0 && strcmp(text, "0") != 0)
        command_fail(command, name, "true or false is expected");
    return yes;
}

uint64_t command_option_number(struct command *command, const char *name, uint64_t otherwise)
{
    const char *text = command_option(command, name);
    return text == NULL ? otherwise : number(command, text);
}

static uint64_t letter_value(char letter)
{
    return letter == 'y' ? QUORUM_YES : letter == 'n' ? QUORUM_NO : COMMAND_MISSING;
}

struct command_list command_option_list(struct command *command, const char *name,
                                        const char *letters)
{
    struct command_list list = {0};
    const char *at = command_option(command, name);
    while (at != NULL && !command_failed(command)) {
        char item[32] = "";
        while (command_blank(*at))
            at++;
        size_t length = strcspn(at, " \t,");
        if (length == 0)
            break;
        if (list.count == COMMAND_LIST_MAX || length >= sizeof(item)) {
            command_fail(command, name, "too much in the list");
            break;
        }
        memcpy(item, at, length);
        at += length;
        bool letter = length == 1 && strchr(letters, item[0]) != NULL;
        if (!letter && strchr(letters, 'y') != NULL)
            command_fail(command, item, "y, n or _ is expected");
        list.values[list.count++] = letter ? letter_value(item[0]) : number(command, item);
    }
    return list;
}

struct raft_id_set command_option_ids(struct command *command, const char *name)
{
    struct raft_id_set set = {0};
    struct command_list list = command_option_list(command, name, "");
    for (uint32_t i = 0; i < list.count && !command_failed(command); i++)
        if (list.values[i] == 0 || list.values[i] > RAFT_ID_MAX ||
            raft_id_set_has(&set, list.values[i]) || !raft_id_set_add(&set, list.values[i]))
            command_fail(command, name, "distinct ids from 1 on are expected");
    return set;
}

void command_changes(struct command *command, uint32_t at, struct raft_config_change *change)
{
    static const char kinds[] = "vlru";
    for (uint32_t i = at; i < command->word_count; i++) {
        const char *word = command->words[i];
        if (i == at && word[0] == ':')
            word++;
        if (word[0] == '\0')
            continue;
        const char *kind = strchr(kinds, word[0]);
        if (kind == NULL || word[1] == '\0' || change->count == RAFT_MEMBERS_MAX) {
            command_fail(command, word, "changes are v1 l2 r3 u4, at most sixteen");
            return;
        }
        change->changes[change->count++] = (struct raft_change){
            .kind = (enum raft_change_kind)(kind - kinds), .id = number(command, word + 1)};
    }
}
