/*
 * text.h - what happened, one readable line per event: all of it to a file, or the last lines kept
 * for a report. Off in sweeps: a failing seed is run again with it, since the same seed does the
 * same.
 *
 * Threads   One. State of the process: a run is one process's business.
 */
#ifndef TESTS_SIM_TEXT_H
#define TESTS_SIM_TEXT_H

#include <stdio.h>

#include "core/base.h"

struct sim_world;

/* Lines go to `out`, or, when it is NULL, the last `keep` wait for sim_text_dump(). 0 = off. */
void sim_text_start(FILE *out, uint32_t keep);
bool sim_text_wanted(void);
void sim_text(const struct sim_world *world, const char *line); /* prefixed by time and event */
void sim_text_freeze(void);                                     /* what follows is clearing up */
void sim_text_dump(FILE *out);

#endif
