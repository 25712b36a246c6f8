/* Coverage marks, planted misbehaviour and failure reports of simulated runs. */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/invariant.h"
#include "tests/sim/observe.h"
#include "tests/sim/text.h"
#include "tests/sim/verdict.h"
#include "tests/sim/world.h"

#define REPLAY_BYTES          512
#define BUGGIFY_SITE_PERCENT  25
#define BUGGIFY_FIRE_PERCENT  25
#define BUGGIFY_OFTEN_PERCENT 75
#define TRACE_LINES_ON_ERROR  60

static bool fail_by_exit;

/* The linker's names for the ends of the section that sometimes() fills; weak: it may be empty. */
extern struct sim_mark __start_sim_marks[] __attribute__((weak));
extern struct sim_mark __stop_sim_marks[] __attribute__((weak));

const struct sim_observer *sim_observer;

static char replay[REPLAY_BYTES];

uint32_t sim_marks_count(void)
{
    return (uint32_t)(__stop_sim_marks - __start_sim_marks);
}

uint32_t sim_marks_report(bool print_missed)
{
    uint32_t hit = 0;
    for (struct sim_mark *mark = __start_sim_marks; mark < __stop_sim_marks; mark++) {
        hit += mark->hits > 0;
        if (print_missed && mark->hits == 0)
            printf("never: %s (%s:%d)\n", mark->name, mark->file, mark->line);
    }
    return hit;
}

void sim_marks_add(const uint64_t *hits)
{
    for (uint32_t i = 0; i < sim_marks_count(); i++)
        __start_sim_marks[i].hits += (uint32_t)hits[i];
}

void sim_marks_take(uint64_t *hits)
{
    for (uint32_t i = 0; i < sim_marks_count(); i++) {
        hits[i] += __start_sim_marks[i].hits;
        __start_sim_marks[i].hits = 0;
    }
}

#if KV_PLANTED
extern struct sim_plant __start_sim_plants[];
extern struct sim_plant __stop_sim_plants[];

bool sim_plant(const char *name)
{
    bool found = false;
    for (struct sim_plant *plant = __start_sim_plants; plant < __stop_sim_plants; plant++) {
        plant->made = strcmp(plant->name, name) == 0;
        found |= plant->made;
    }
    return found;
}
#else
bool sim_plant(const char *name)
{
    (void)name;
    return false;
}
#endif

static bool is_often(const struct sim_world *world, const char *name)
{
    const char *const *often = world->options.buggify_often;
    while (often != NULL && *often != NULL && strcmp(*often, name) != 0)
        often++;
    return often != NULL && *often != NULL;
}

/* A quarter of the sites is active in a run, and an active one fires a quarter of the time. */
bool sim_buggify(const char *name)
{
    struct sim_world *world = sim_world_current();
    if (world == NULL)
        return false;
    if (is_often(world, name))
        return prng_chance(sim_prng(world, SIM_STREAM_FAULTS), BUGGIFY_OFTEN_PERCENT, 100);
    if (!world->options.buggify)
        return false;
    if (sim_seed_split(world->options.seed, name) % 100 >= BUGGIFY_SITE_PERCENT)
        return false;
    return prng_chance(sim_prng(world, SIM_STREAM_FAULTS), BUGGIFY_FIRE_PERCENT, 100);
}

static void report(void)
{
    struct sim_world *world = sim_world_current();
    fflush(stdout);
    if (world != NULL) {
        fprintf(stderr, "simulated time %.6f s, event %llu, seed 0x%llx\n",
                (double)world->now_ns / 1e9, (unsigned long long)world->events,
                (unsigned long long)world->options.seed);
        if (sim_text_wanted())
            sim_text_dump(stderr);
        else
            sim_trace_print(world, TRACE_LINES_ON_ERROR);
    }
    fprintf(stderr, "replay: %s\n", replay[0] != '\0' ? replay : "this test again");
}

/* invariant() and fatal() of simulated code end in abort(). */
static void on_abort(int number)
{
    signal(number, SIG_DFL);
    report();
    if (fail_by_exit)
        _exit(SIM_CRASH);
    raise(number);
}

void sim_fail_by_exit(void)
{
    fail_by_exit = true;
}

void sim_set_replay(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(replay, sizeof(replay), format, arguments);
    va_end(arguments);
    signal(SIGABRT, on_abort);
    signal(SIGSEGV, on_abort);
}

const char *sim_replay(void)
{
    return replay;
}

void sim_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    if (fail_by_exit) {
        report();
        va_start(arguments, format);
        vfprintf(stderr, format, arguments);
        va_end(arguments);
        fputc('\n', stderr);
        _exit(SIM_SAFETY);
    }
    signal(SIGABRT, on_abort);
    abort();
}
