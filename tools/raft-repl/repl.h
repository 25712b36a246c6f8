/*
 * repl.h - the transcript interpreter: commands that drive a struct cluster, answers as text.
 *
 * Story     One command per line; the answer block ends with a line that holds a dot. Words are
 *           separated by blanks; options are name=value or name=(list). Lines that are empty or
 *           begin with # are skipped. docs/internals/raft.md lists the commands.
 * Owner     repl_open() .. repl_close().
 * Threads   One.
 * Errors    A bad command answers "error: ..." and changes nothing.
 */
#ifndef RAFT_REPL_REPL_H
#define RAFT_REPL_REPL_H

#include "core/base.h"

#include <stdio.h>

struct repl;

struct repl *repl_open(void);
void repl_close(struct repl *repl);

/* Executes one command and writes its answer block to `out`. */
void repl_command(struct repl *repl, const char *line, FILE *out);

/* Commands from `in` until it ends; with `echo` each is written before its answer. */
void repl_run(struct repl *repl, FILE *in, FILE *out, bool echo);

#endif
