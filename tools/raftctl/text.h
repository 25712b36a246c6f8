/*
 * text.h - text as Go programs print and read it: quoted strings, command lines, sizes.
 *
 * Owner     The caller: what is returned is allocated, for free().
 * Threads   Any: no state.
 * Errors    NULL or false for what is not a quoted string.
 * Source    Go's strconv.Quote and Unquote; etcdctl's txn.
 */
#ifndef TOOLS_RAFTCTL_TEXT_H
#define TOOLS_RAFTCTL_TEXT_H

#include <stdio.h>

#include "core/base.h"

/* With quotes around and escapes inside; text that is printable UTF-8 stays as it is. */
void text_write_quoted(FILE *to, struct bytes text);
/* The same for JSON, bytes that are no UTF-8 replaced. */
void text_write_json(FILE *to, struct bytes text);
void text_write_base64(FILE *to, struct bytes bytes);
void text_write_hex(FILE *to, struct bytes bytes, const char *before_each_byte);

/* Reads a quoted string at `from` ("..." with escapes, or `...` without) into `to`, which has as
 * much room as the text. Returns where it ends, or NULL. */
const char *text_read_quoted(const char *from, char *to, size_t *to_bytes);

/* Splits a line of a transaction into words: bare, 'single' or "double" quoted. Words are
 * allocated, and so is the array. False: a quoted word cannot be read, or has a
 * zero byte in it. */
must_check bool text_split(const char *line, char ***words, int *word_count);

/* 20480 -> "20 kB". */
void text_format_size(uint64_t bytes, char *to, size_t to_bytes);

#endif
