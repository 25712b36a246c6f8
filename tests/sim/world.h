/*
 * world.h - one simulated world: a virtual clock, an event heap, random streams, a trace, and nodes
 * whose cores take turns in one thread.
 *
 * Story     Whatever happens, happens as an event at (time, sequence). A core's turn is an event
 *           too: it costs seeded CPU time, and the next one follows when there is work, or when a
 *           completion, a wake-up or a deadline ends the core's sleep. Nothing here reads a real
 *           clock or a pointer value, so one seed gives one run.
 * Owner     The test. One world is current at a time (sim_world_enter()); a nested one, for trying
 *           what a crash at this instant would leave, runs to its end before the outer goes on.
 * Threads   One.
 * Units     Simulated ns.
 * Source    docs/internals/simulation.md
 */
#ifndef TESTS_SIM_WORLD_H
#define TESTS_SIM_WORLD_H

#include "core/base.h"
#include "core/core.h"
#include "core/prng.h"
#include "tests/sim/memory.h"

/* Every concern draws from its own stream, split from the seed by name: a change of the workload
 * leaves the draws of network and disk alone. */
enum sim_stream {
    SIM_STREAM_SCHEDULE,
    SIM_STREAM_NETWORK,
    SIM_STREAM_DISK,
    SIM_STREAM_FAULTS,
    SIM_STREAM_WORKLOAD,
    SIM_STREAM_COUNT
};

#define SIM_EVENT_IDLE UINT32_MAX
#define SIM_NODES_MAX  16
#define SIM_CORES_MAX  8
#define SIM_TRACE_RING 256
#define SIM_START_NS   (1000 * NS_PER_S) /* no deadline computed backwards underflows */

struct sim_event {
    uint64_t time_ns;
    uint32_t slot; /* in the heap; SIM_EVENT_IDLE when not scheduled */
    void (*run)(struct sim_event *event);
};

/* A place of the event heap; the order is kept beside the pointer. */
struct sim_event_slot {
    uint64_t time_ns, sequence;
    struct sim_event *event;
};

/* What the trace keeps of one event; 32 bytes. */
struct sim_record {
    uint64_t time_ns;
    uint32_t node_core; /* node << 16 | core */
    uint32_t kind;      /* enum sim_kind */
    uint64_t argument[2];
};
_Static_assert(sizeof(struct sim_record) == 32, "hashed as bytes: no padding");

enum sim_kind {
    SIM_KIND_TURN,
    SIM_KIND_WAKE,
    SIM_KIND_DISK_READ,
    SIM_KIND_DISK_WRITE,
    SIM_KIND_DISK_SYNC,
    SIM_KIND_DISK_NAME, /* open, close, rename, unlink, link, directories, stat */
    SIM_KIND_DISK_SIZE, /* allocate, truncate */
    SIM_KIND_NET_CONNECT,
    SIM_KIND_NET_SEND,
    SIM_KIND_NET_ARRIVE,
    SIM_KIND_NET_END,
    SIM_KIND_CRASH,
    SIM_KIND_BOOT,
    SIM_KIND_MARK,      /* a checker's or workload's own */
    SIM_KIND_RAFT_SEND, /* of the consensus-only simulator, from here */
    SIM_KIND_RAFT_DELIVER,
    SIM_KIND_RAFT_DURABLE,
    SIM_KIND_RAFT_APPLY,
    SIM_KIND_RAFT_ROLE,
    SIM_KIND_CLIENT,
    SIM_KIND_FAULT,
    SIM_KIND_COUNT
};

struct sim_node;
struct sim_disk;
struct sim_request;

struct sim_core {
    struct sim_node *node;
    struct core *core;
    struct sim_event turn;
    bool asleep;
    uint64_t busy_until_ns;
};

/* An open file, listener or connection end, as a descriptor names it. */
enum sim_descriptor_kind { SIM_FD_FREE, SIM_FD_FILE, SIM_FD_LISTENER, SIM_FD_STREAM };
struct sim_descriptor {
    enum sim_descriptor_kind kind;
    void *object;
};

struct sim_node {
    struct sim_world *world;
    uint32_t id; /* from 1; its address is 10.0.0.<id> */
    uint32_t incarnation;
    bool running;
    struct sim_disk *disk; /* survives a crash */
    struct sim_heap *heap; /* does not */
    struct mesh *mesh;
    uint32_t core_count;
    struct sim_core cores[SIM_CORES_MAX];
    struct reactor *reactors[SIM_CORES_MAX];
    struct sim_descriptor *descriptors;
    uint32_t descriptor_count;
    struct sim_request *requests; /* in flight, all cores */
    uint32_t cost_ns_max;         /* of one turn */
    int64_t wall_offset_ns;
    /* Called when an operation that changes the disk starts, in the node's turn; NULL: not. */
    void (*on_disk_request)(struct sim_node *node, const struct sim_request *request);
    int32_t drift_ppm;     /* its clock goes faster by so much, always */
    uint64_t random_state; /* seed of the next incarnation's reactors */
    /* The process ended itself, fatal(): it takes no turn any more, and is to be crashed now. NULL:
     * then fatal() ends the run. */
    void (*on_fatal)(struct sim_node *node, const char *message);
};

struct sim_options {
    uint64_t seed;
    bool buggify;                     /* let production code take unlikely paths */
    const char *const *buggify_often; /* these as a rule; NULL ends the list, or stands for none */
    bool log_to_stderr;               /* the nodes' log lines */
    bool short_reads;
};

struct sim_world {
    struct sim_options options;
    uint64_t now_ns, sequence;
    struct prng streams[SIM_STREAM_COUNT];
    struct sim_event_slot *heap;
    uint32_t heap_count, heap_capacity;
    struct sim_node *nodes[SIM_NODES_MAX];
    uint32_t node_count;
    struct sim_core *current; /* whose turn it is; NULL between turns */
    char fatal[256];          /* what the process said that ended in this turn */

    uint64_t events; /* delivered */
    uint64_t trace_hash, trace_count;
    struct sim_record trace[SIM_TRACE_RING];

    uint64_t disk_changes; /* submissions and completions of writes, syncs, names */
    /* Runs between turns whenever disk_changes moved: where the power can be cut. */
    void (*on_disk_change)(void *context);
    void *on_disk_change_context;

    struct sim_network *network;
};

void sim_world_init(struct sim_world *world, const struct sim_options *options);
void sim_world_deinit(struct sim_world *world); /* nodes must be gone */

/* The current world; returns the previous one, to be entered again. */
struct sim_world *sim_world_enter(struct sim_world *world);
struct sim_world *sim_world_current(void);

struct prng *sim_prng(struct sim_world *world, enum sim_stream stream);
/* A seed that depends on `seed` and `name` only. */
uint64_t sim_seed_split(uint64_t seed, const char *name);

void sim_event_init(struct sim_event *event, void (*run)(struct sim_event *event));
void sim_event_schedule(struct sim_world *world, struct sim_event *event, uint64_t time_ns);
void sim_event_cancel(struct sim_world *world, struct sim_event *event); /* no-op when idle */

/* Delivers the next event. False: nothing is left to happen. */
bool sim_world_step(struct sim_world *world);

/* Steps until *flag, false when the time limit or the end of all events came first. */
must_check bool sim_world_run(struct sim_world *world, const bool *flag, uint64_t limit_ns);

void sim_trace(struct sim_world *world, const struct sim_node *node, uint32_t core,
               enum sim_kind kind, uint64_t first, uint64_t second);
/* The same for a node that is none of the world's own. */
void sim_trace_at(struct sim_world *world, uint32_t node, uint32_t core, enum sim_kind kind,
                  uint64_t first, uint64_t second);
void sim_trace_print(const struct sim_world *world, uint32_t count);

/* ---- nodes ---------------------------------------------------------------------------------- */

void sim_node_init(struct sim_node *node, struct sim_world *world, struct sim_disk *disk);
void sim_node_deinit(struct sim_node *node); /* not running */

/* Makes mesh, cores and reactors. Fibers are then spawned between sim_enter() and sim_leave(). */
void sim_node_boot(struct sim_node *node, const struct core_options *options, uint32_t core_count);

/* The memory of the node becomes current (and its core `core`): whatever is allocated until
 * sim_leave() vanishes with the node. */
void sim_enter(struct sim_node *node, uint32_t core);
void sim_leave(struct sim_node *node);

/* The process is stopped from outside: no core takes a turn until then, the clock goes on. */
void sim_node_pause(struct sim_node *node, uint64_t until_ns);

/* Power cut: fibers, memory and requests in flight vanish. The disk keeps what
 * sim_disk_power_cut() decides; call that before, while the requests are known. */
void sim_node_crash(struct sim_node *node);

/* Orderly end: every operation has completed. What it left behind, which is then gone. */
struct sim_leftovers {
    struct sim_heap_use heap;
    uint32_t fibers, descriptors;
};
struct sim_leftovers sim_node_shutdown(struct sim_node *node);

/* What the node's clock shows at `world_ns`, and when it shows `clock_ns` or more. */
uint64_t sim_node_clock_ns(const struct sim_node *node, uint64_t world_ns);
uint64_t sim_node_world_ns(const struct sim_node *node, uint64_t clock_ns);

/* Something arrived for a core: end its sleep at `time_ns`. */
void sim_core_rouse(struct sim_core *core, uint64_t time_ns);

/* ---- failures, marks ------------------------------------------------------------------------ */

/* What a failure prints: how to run this again. printf style; kept until set again. */
void sim_set_replay(const char *format, ...) printf_like(1, 2);
const char *sim_replay(void);
/* From now on failures end the process with exit codes of tests/sim/verdict.h. */
void sim_fail_by_exit(void);
__attribute__((noreturn)) void sim_fail(const char *format, ...) printf_like(1, 2);

#define sim_check(condition, ...)                                                                  \
    do {                                                                                           \
        if (!(condition))                                                                          \
            sim_fail("check failed: " #condition ": " __VA_ARGS__);                                \
    } while (0)

/* Makes the mistake planted_bug(name), no other. False: this build contains none of that name. */
must_check bool sim_plant(const char *name);

/* Marks of sometimes(): how many there are, were hit; prints those that were not. */
uint32_t sim_marks_count(void);
uint32_t sim_marks_report(bool print_missed);
/* Adds hits counted elsewhere, in the same order; takes them all. */
void sim_marks_add(const uint64_t *hits);
void sim_marks_take(uint64_t *hits);

#endif
