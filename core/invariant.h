/*
 * invariant.h - assertions in three strengths, coverage marks and planted misbehaviour.
 *
 * Story     invariant() is for our own mistakes and is always compiled in: going on would be worse
 *           than stopping. verify() may cost O(n) and runs in debug, sanitizer and simulator
 *           builds. sometimes() marks a rare but legal situation that the simulator must reach.
 *           buggify() lets the simulator take a legal but unlikely path; it is false elsewhere, at
 *           no cost. What the world does (I/O, peers, clients, a full disk) is an error code, never
 *           one of these.
 * Threads   Any.
 */
#ifndef CORE_INVARIANT_H
#define CORE_INVARIANT_H

#include <stdbool.h>
#include <stdint.h>

__attribute__((noreturn, cold)) void invariant_fail(const char *condition, const char *file,
                                                    int line, const char *function);

/* Stops the process for a reason outside our code (a failed sync, say): prints, then aborts. What
 * standard error does not take within a second is not printed. */
__attribute__((noreturn, cold, format(printf, 1, 2))) void fatal(const char *format, ...);

/* What fatal() runs before it prints: the log lines that still wait in memory. One for the process,
 * so it works on the calling thread's own state. */
void fatal_set_flush(void (*flush)(void));

#define invariant(condition)                                                                       \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0))                                                     \
            invariant_fail(#condition, __FILE__, __LINE__, __func__);                              \
    } while (0)

#if KV_VERIFY
#define verify(condition) invariant(condition)
#else
#define verify(condition) ((void)sizeof((condition) ? 1 : 0))
#endif

#if KV_SIMULATED
/* One record per mark, in its own linker section: the run lists marks never hit. */
struct sim_mark {
    const char *name;
    const char *file;
    int32_t line;
    uint32_t hits;
};
bool sim_buggify(const char *name);
/* fatal() in a simulated process ends that process, or returns: then the run ends. */
void sim_fatal(const char *message);
#define sometimes(condition, label)                                                                \
    do {                                                                                           \
        static struct sim_mark sim_mark_                                                           \
            __attribute__((section("sim_marks"), used, aligned(8))) = {(label), __FILE__,          \
                                                                       __LINE__, 0};               \
        if (condition)                                                                             \
            sim_mark_.hits++;                                                                      \
    } while (0)
#define buggify(label) sim_buggify(label)
#else
#define sometimes(condition, label) ((void)sizeof((condition) ? 1 : 0))
#define buggify(label)              false
#endif

#if KV_PLANTED
/* A mistake that a special build of the simulator (-DRAFT_PLANTED_BUGS=ON) can be told to make, to
 * prove that it is found (raftsim --plant=NAME): the constant false everywhere else. */
struct sim_plant {
    const char *name;
    bool made;
};
#define planted_bug(label)                                                                         \
    ({                                                                                             \
        static struct sim_plant sim_plant_                                                         \
            __attribute__((section("sim_plants"), used, aligned(8))) = {#label, false};            \
        sim_plant_.made;                                                                           \
    })
#else
#define planted_bug(label) false
#endif

#endif
