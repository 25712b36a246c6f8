#include "tests/sim/text.h"

#include <inttypes.h>
#include <stdlib.h>

#include "tests/sim/memory.h"
#include "tests/sim/world.h"

#define LINE_BYTES 200

static FILE *text_out;
static char (*text_lines)[LINE_BYTES];
static uint32_t text_keep;
static uint64_t text_count;
static bool text_frozen;

void sim_text_start(FILE *out, uint32_t keep)
{
    free(text_lines);
    text_lines = NULL;
    text_out = out;
    text_keep = out == NULL ? keep : 0;
    text_count = 0;
    text_frozen = false;
    if (text_keep > 0)
        text_lines = sim_alloc(text_keep * LINE_BYTES);
}

bool sim_text_wanted(void)
{
    return !text_frozen && (text_out != NULL || text_keep > 0);
}

void sim_text_freeze(void)
{
    text_frozen = true;
}

void sim_text(const struct sim_world *world, const char *line)
{
    double seconds = (double)(world->now_ns - SIM_START_NS) / 1e9;
    if (text_out != NULL)
        fprintf(text_out, "%11.6f %7" PRIu64 "  %s\n", seconds, world->events, line);
    else if (text_keep > 0)
        snprintf(text_lines[text_count++ % text_keep], LINE_BYTES, "%11.6f %7" PRIu64 "  %s",
                 seconds, world->events, line);
}

void sim_text_dump(FILE *out)
{
    uint64_t count = u64_min(text_count, text_keep);
    if (count == 0)
        return;
    fprintf(out,
            "last %" PRIu64 " lines; columns: seconds, event, node, role, term, i=last/durable/"
            "committed/applied, what\n",
            count);
    for (uint64_t at = text_count - count; at < text_count; at++)
        fprintf(out, "%s\n", text_lines[at % text_keep]);
}
