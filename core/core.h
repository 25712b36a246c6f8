/*
 * core.h - one pinned core: a reactor, its timers, fibers and rings, and the turn that drives them.
 *
 * Story     A turn: reap completions, drain rings, run ready fibers (latency class first,
 *           background for what is left of its share), fire timers, run the turn-end hooks (where
 *           roles flush
 *           the batch that this turn gathered). Ring drain, fibers, timers and hooks repeat within
 *           a turn while they produce local work, a bounded number of rounds, so that on one core a
 *           request passes all roles in one turn. What was started is submitted by the poll that
 *           opens the next turn, in the same system call that waits when there is nothing to do.
 *           core_run() loops turns and sleeps between them; the simulator calls core_turn() itself.
 * Owner     The thread that created it.
 * Threads   Owner only, save core_stop(), which any thread or signal handler may call.
 * Limits    CORE_HOOKS_MAX hooks; MESH_KIND_MAX message kinds; fibers_max fibers.
 */
#ifndef CORE_CORE_H
#define CORE_CORE_H

#include "core/base.h"
#include "core/fiber.h"
#include "core/mesh.h"
#include "core/reactor.h"
#include "core/timer.h"

#define CORE_HOOKS_MAX 8

struct core_options {
    struct reactor_options reactor;
    uint32_t fibers_max;
    uint32_t cpu_count;          /* that the process may use; 0: those of the calling thread */
    uint32_t turn_budget_us;     /* fibers of a turn stop being started after this; 0 = 500 */
    uint32_t background_percent; /* of a busy turn's budget for the background class; 0 = 20 */
};

typedef void core_message_handler(void *context, struct core *core,
                                  const struct mesh_message *message);

struct core; /* fields in core_private.h */

/* Makes the reactor too: `mesh` has as many cores as the process, `options.reactor.core` is this
 * one's place in it. The core is current from here on. Before the first turn of any core that is
 * not alone: reactor_link(). Spinning (options.reactor.poll_us) is off when the process has more
 * cores than CPUs; a thread that is pinned already sees only its own, and has to be told them. */
must_check int core_create(const struct core_options *options, struct mesh *mesh,
                           struct core **core, char *reason, size_t reason_bytes);
void core_destroy(struct core *core); /* waiting fibers are abandoned; every op has completed */

struct core *core_current(void); /* of this thread; in the simulator, the one whose turn it is */
void core_set_current(struct core *core);

uint32_t core_id(const struct core *core);
struct reactor *core_reactor(struct core *core);
struct timer_heap *core_timers(struct core *core);
struct mesh *core_mesh(struct core *core);
uint64_t core_now_ns(const struct core *core);

/* Who gets messages of `kind` on this core. Set before the first of them can arrive; a later call
 * replaces the handler, as when a store is closed and another opened. */
void core_handle(struct core *core, uint16_t kind, core_message_handler *handler, void *context);

/* Called at the end of each round of a turn, in order of registration. */
void core_on_turn_end(struct core *core, void (*hook)(void *context), void *context);

/* What registered with this context is called no more: before its memory goes. */
void core_forget_turn_end(struct core *core, const void *context);

/* Sends to another core (or this one). False: ring full; try again next turn (core_post() below
 * queues for you). */
must_check bool core_send(struct core *core, uint32_t to, const struct mesh_message *message);

/* As core_send(), but a message that does not fit waits in an ordered overflow queue of this core
 * and goes out first next turn. For senders whose number of outstanding messages is bounded
 * elsewhere. */
void core_post(struct core *core, uint32_t to, const struct mesh_message *message);

/* An idle core whose roles expect something soon (a disk write, another core's answer, the next
 * request of a client) looks for it before sleeping, and lets others of its CPU run meanwhile.
 * Forgotten at the end of each round, and true when any role says so: call it in a turn-end hook,
 * every time, for as long as it holds. */
void core_expect_soon(struct core *core, bool expecting);

/* Returns whether there is more to do at once. `may_sleep`: block first when there is nothing. */
bool core_turn(struct core *core, bool may_sleep);

/* The two ends of a sleep, for a driver that sleeps by itself (the simulator, between turns that
 * may not): begin answers false when there is something to do after all, else until when. */
must_check bool core_sleep_begin(struct core *core, uint64_t *deadline_ns);
void core_sleep_end(struct core *core);

void core_run(struct core *core); /* until core_stop() */
void core_stop(struct core *core);

/* Numbers for metrics: turns, completions, messages, time busy and asleep, longest turn. */
struct core_stats {
    uint64_t turns, completions, messages_in, messages_out, wakes_sent, sleeps;
    uint64_t busy_ns, sleep_ns, turn_ns_max;
    uint64_t fibers_spawned, fibers_live, fibers_live_max;
    uint64_t ring_full;
};
void core_stats(const struct core *core, struct core_stats *stats);

#endif
