/*
 * Replays tests/raft/ *.txt and compares every answer. A line "> command" is executed; the lines
 * after it, up to a dot, are its answer. Other lines are comments. RAFT_REWRITE=1 (what
 * tests/raft/run --rewrite sets) writes the answers into the files instead, for review as a diff.
 */
#include "tools/raft-repl/command.h"
#include "tools/raft-repl/repl.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdlib.h>

/* Tests run from the source tree or from somewhere in a build directory below it. */
static DIR *transcripts_open(char *directory, size_t size)
{
    DIR *listing = NULL;
    for (int up = 0; up < 5 && listing == NULL; up++) {
        directory[0] = '\0';
        for (int i = 0; i < up; i++)
            strncat(directory, "../", size - strlen(directory) - 1);
        strncat(directory, "tests/raft", size - strlen(directory) - 1);
        listing = opendir(directory);
    }
    return listing;
}

/* The file with every answer replaced by what is answered now. */
static char *replay(FILE *in, size_t *size)
{
    char *text = NULL;
    char line[COMMAND_LINE_BYTES_MAX];
    bool answer = false; /* inside an old one */
    FILE *out = open_memstream(&text, size);
    struct repl *repl = repl_open();
    while (fgets(line, sizeof(line), in) != NULL) {
        if (answer && line[0] != '>' && line[0] != '#') {
            answer = strcmp(line, ".\n") != 0;
            continue;
        }
        fputs(line, out);
        answer = line[0] == '>';
        if (answer) {
            line[strcspn(line, "\n")] = '\0';
            repl_command(repl, line + 2, out);
        }
    }
    repl_close(repl);
    fclose(out);
    return text;
}

static char *slurp(FILE *in, size_t *size)
{
    char *text = NULL;
    char line[COMMAND_LINE_BYTES_MAX];
    FILE *out = open_memstream(&text, size);
    while (fgets(line, sizeof(line), in) != NULL)
        fputs(line, out);
    fclose(out);
    return text;
}

static uint32_t first_difference(const char *a, const char *b)
{
    uint32_t line = 1;
    for (; *a != '\0' && *a == *b; a++, b++)
        line += *a == '\n';
    return line;
}

static bool transcript_holds(const char *path, bool rewrite)
{
    FILE *in = fopen(path, "r");
    size_t stored_size = 0;
    size_t now_size = 0;
    cr_assert(in != NULL, "%s", path);
    char *stored = slurp(in, &stored_size);
    rewind(in);
    char *now = replay(in, &now_size);
    fclose(in);
    bool same = strcmp(stored, now) == 0;
    if (!same && rewrite) {
        FILE *out = fopen(path, "w");
        cr_assert(out != NULL);
        fputs(now, out);
        fclose(out);
    } else if (!same) {
        fprintf(stderr, "%s:%u: answers differ from the transcript\n", path,
                first_difference(stored, now));
    }
    free(stored);
    free(now);
    return same || rewrite;
}

Test(raft_transcripts, answers_are_as_recorded)
{
    char directory[512];
    char path[1024];
    uint32_t files = 0;
    bool rewrite = getenv("RAFT_REWRITE") != NULL;
    DIR *listing = transcripts_open(directory, sizeof(directory));
    cr_assert(listing != NULL);
    for (struct dirent *file; (file = readdir(listing)) != NULL;) {
        const char *suffix = strrchr(file->d_name, '.');
        if (suffix == NULL || strcmp(suffix, ".txt") != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%s", directory, file->d_name);
        cr_expect(transcript_holds(path, rewrite), "%s", file->d_name);
        files++;
    }
    closedir(listing);
    cr_expect_gt(files, 25);
}
