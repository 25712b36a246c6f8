/*
 * lite.h - the consensus-only simulator: N Raft state machines, an abstract network and disks.
 *
 * Story     One seed draws a configuration (swarm), then a run has two phases. In the safety phase
 *           messages are lost, doubled, reordered, delayed and cut off; nodes crash and lose what
 *           their disks had not finished, pause, and see their clocks drift and jump; members come
 *           and go; clients write and read. In the liveness phase a core of nodes that is enough
 *           for every configuration in use is healed for good, every other failure is permanent,
 *           and the core must elect, commit and catch up within LITE_HEAL_TIMEOUTS election
 *           timeouts. Checkers look after every call (check_raft.h, check_history.h).
 *
 *           A node takes turns, as a server's core does: it reads its clock, hands over finished
 *           disk work, messages and clients' requests, lets some committed entries be applied, and
 *           drains raft_ready(). A turn's clock may be a little old when its inputs are processed.
 * Files     lite.c the run; lite_node.c turns; lite_disk.c what survives; lite_network.c messages;
 *           lite_clients.c workload and operator; lite_faults.c who does harm, and healing;
 *           lite_rot.c log entries that are lost, and their repair.
 * Owner     struct lite; a node's memory is one block that a crash poisons.
 * Threads   One.
 */
#ifndef TESTS_SIM_LITE_H
#define TESTS_SIM_LITE_H

#include "consensus/raft.h"
#include "tests/sim/check_history.h"
#include "tests/sim/check_raft.h"
#include "tests/sim/raftsim.h"
#include "tests/sim/world.h"

#define LITE_NODES_MAX     16
#define LITE_KEYS          4
#define LITE_CLIENTS_MAX   8
#define LITE_HEAL_TIMEOUTS 100
#define LITE_LAZY          100
#define LITE_LOST_MAX      16

/* What a replicated state machine is here: a few registers and a revision. */
struct lite_state {
    uint64_t revision;
    uint64_t value[LITE_KEYS];
    uint64_t written[LITE_KEYS]; /* revision */
};

/* A finished state machine image: kept on disk, sent to peers. */
struct lite_image {
    uint64_t index, term;
    struct raft_config config;
    struct lite_state state;
};

/* ---- drawn from the seed -------------------------------------------------------------------- */

enum lite_fault {
    LITE_FAULT_CRASH,
    LITE_FAULT_POWER, /* all nodes at once */
    LITE_FAULT_PAUSE,
    LITE_FAULT_ISOLATE,
    LITE_FAULT_SPLIT,
    LITE_FAULT_ONE_WAY,
    LITE_FAULT_BRIDGE,
    LITE_FAULT_PAIR,
    LITE_FAULT_CLOG,
    LITE_FAULT_SLOW_DISK,
    LITE_FAULT_CLOCK_JUMP,
    LITE_FAULT_UNREACHABLE,
    LITE_FAULT_TRANSFER,
    LITE_FAULT_CAMPAIGN,
    LITE_FAULT_STEP_DOWN,
    LITE_FAULT_FORGET_LEADER,
    LITE_FAULT_RESTRICT,
    LITE_FAULT_MEMBERS,
    LITE_FAULT_COUNT
};

/* The faults, and what else a run can be spared, to see what a failure needs. */
enum lite_harm {
    LITE_HARM_DROP = LITE_FAULT_COUNT,
    LITE_HARM_DOUBLE,
    LITE_HARM_DELAY,
    LITE_HARM_DISK, /* delays */
    LITE_HARM_DOOM,
    LITE_HARM_LAZY,
    LITE_HARM_CUT_OFF,
    LITE_HARM_HESITATE,
    LITE_HARM_STALL,
    LITE_HARM_DRIFT,
    LITE_HARM_ROT,
    LITE_HARM_COUNT
};
const char *lite_harm_name(uint32_t harm); /* a fault or another harm; NULL behind the last */

struct lite_config {
    uint64_t seed;
    uint32_t voters;
    struct raft_options raft;
    uint64_t safety_ns;     /* length of the phase with faults */
    uint64_t fault_mean_ns; /* between two */
    uint32_t fault_weight[LITE_FAULT_COUNT];
    uint32_t fault_weight_sum;
    uint64_t outage_ns_max;   /* of one fault */
    uint32_t voters_most;     /* the operator does not add to so many */
    bool shrinks;             /* but removes from them, the leader too */
    uint32_t cut_off_percent; /* of new leaders are heard by one other node only */

    bool fifo; /* each path keeps order, as a connection does */
    uint32_t drop_per_mille, double_per_mille;
    uint64_t delay_ns, jitter_ns, tail_ns;

    uint64_t disk_ns, disk_jitter_ns, disk_tail_ns;
    uint32_t slow_factor;  /* of a disk while it is slow */
    uint32_t doom_percent; /* of writes that replace a tail are cut short by a crash */
    uint32_t slow_node;    /* whose disk is slow all the time; 0 = none */
    uint64_t apply_ns;
    uint32_t lazy_node; /* takes LITE_LAZY times as long to apply; 0 = none */
    uint32_t apply_entries_max;
    uint32_t rot_percent;     /* of starts miss entries of their log */
    uint32_t tear_per_mille;  /* of writes are cut short by a crash then, too, torn maybe */
    uint32_t flush_per_mille; /* chance of an image after an applied batch */
    uint64_t retain_entries;  /* kept in the log below the image */
    bool snapshot_hesitates;  /* the caller has none at hand sometimes */

    uint64_t turn_ns_max, stall_ns_max;
    uint32_t stall_per_mille;
    uint64_t drift_ppm_max;

    uint32_t clients, keys;
    uint64_t think_ns, client_timeout_ns;
    uint32_t read_percent, empty_per_mille, batch_max;
    bool to_leader; /* clients remember who led */
};

void lite_config_draw(struct lite_config *config, const struct raftsim_options *options);
void lite_config_print(const struct lite_config *config, FILE *out);

/* ---- what is under way ---------------------------------------------------------------------- */

enum lite_item_kind {
    LITE_ITEM_MESSAGE,
    LITE_ITEM_SNAPSHOT_REPORT,
    LITE_ITEM_UNREACHABLE,
    LITE_ITEM_REQUEST, /* of a client */
    LITE_ITEM_REPLY,   /* to a client */
    LITE_ITEM_COMMAND, /* of the operator: `fault` says which */
};

struct lite;

/* One thing on its way to a node's inbox (or back to a client). */
struct lite_item {
    struct sim_event event;
    struct lite_item *next;
    struct lite *lite;
    enum lite_item_kind kind;
    uint32_t from, to;    /* node ids; a client's `from` is 0 */
    uint32_t incarnation; /* of the sender */
    bool report;          /* a snapshot whose fate the sender must be told */
    bool ok;
    struct raft_message message;
    struct lite_image *image; /* of a snapshot; owned */
    struct entry *entries;    /* buffer, kept when the item is recycled */
    uint32_t entry_capacity;
    uint64_t operation, revision, value; /* of a request: value = key, ok = a write */
    enum lite_fault fault;
    struct raft_config_change change;
};

struct lite_list {
    struct lite_item *first, **last_next;
    uint32_t count;
};

/* ---- disks ---------------------------------------------------------------------------------- */

struct lite_disk {
    struct hard_state hard_state;
    uint64_t compacted_index, compacted_term;
    uint64_t last_index;
    struct entry *entries; /* absolute index = position */
    uint64_t capacity;
    struct lite_image image;      /* what the state machine contains durably */
    uint64_t lost[LITE_LOST_MAX]; /* entries of which only index and term can be read */
    uint32_t lost_count;
    uint64_t torn; /* the lost entries from it on may never have been written; 0: all were */
};

/* One piece of the append lane. */
struct lite_append {
    struct sim_event event;
    struct lite_append *next;
    struct lite_node *node;
    struct raft_append append;
    struct hard_state hard_state;
    bool written; /* on the medium; those before it may not be */
    bool durable;
    struct lite_image *install; /* owned */
    struct entry *entries;
    uint32_t entry_count, entry_capacity;
    struct lite_list after; /* messages that wait for it */
};

/* ---- nodes ---------------------------------------------------------------------------------- */

struct lite_waiting { /* a client's operation that a node is busy with */
    uint64_t operation, index, term, read_id, asked_commit, asked_ns;
    uint32_t key;
    bool read, known;
};

enum lite_membership { LITE_FRESH, LITE_MEMBER, LITE_RETIRED };

struct lite_node {
    struct lite *lite;
    uint32_t id;
    uint32_t incarnation;
    bool up;
    enum lite_membership membership;
    struct raft raft;
    void *memory;
    size_t memory_bytes;
    struct lite_disk disk;

    struct sim_event turn, boot, doom;
    struct lite_list inbox;
    uint64_t paused_until_ns, slow_until_ns;
    uint64_t clock_base_ns, clock_start_ns, clock_last_ns;
    int64_t drift_ppm;

    struct lite_append *appends, **appends_last_next; /* in order */
    uint64_t held; /* payloads given to the core and not given back */
    uint64_t turns;

    uint64_t apply_first, apply_last; /* handed to the apply lane; 0 = nothing */
    uint64_t apply_due_ns;
    struct lite_image applied; /* the state machine in memory */
    bool flush_wanted;
    struct lite_image incoming; /* a snapshot that arrived and is not handed to the disk yet */
    bool gone;                  /* removed, and ended for good */

    uint64_t burn;            /* the term in which answers about lost entries are final, or 0 */
    uint64_t denied, lost_by; /* bit per member who has not the lowest one, who may have had it */

    struct lite_waiting *waiting;
    uint32_t waiting_count, waiting_capacity;
    uint64_t read_id;
};

struct lite_path {
    bool cut;
    uint64_t clogged_until_ns;
    uint64_t last_arrival_ns; /* fifo */
};

struct lite_client {
    struct sim_event event; /* next call, or the timeout of this one */
    struct lite *lite;
    uint64_t operation; /* 0 = thinking */
    uint32_t leader;    /* who answered last */
};

struct lite_chunk;

struct lite {
    struct sim_world world;
    struct lite_config config;
    const struct raftsim_options *options;
    struct verdict verdict;
    struct check_raft raft_check;
    struct check_history history;
    struct lite_node *nodes[LITE_NODES_MAX + 1]; /* by id */
    uint32_t node_count;
    struct lite_path paths[LITE_NODES_MAX + 1][LITE_NODES_MAX + 1];
    struct lite_client clients[LITE_CLIENTS_MAX];
    struct sim_event fault;
    struct lite_item *free_items;
    struct lite_append *free_appends;
    struct lite_chunk *chunks; /* payloads of this run */
    uint64_t items_alive;
    bool healed;
    uint64_t dead; /* bit per node id: failed for good in the liveness phase */
    uint64_t heal_ns;
    bool disturbed;                         /* no progress is promised */
    bool probe_done;                        /* a write called after that was answered */
    uint64_t commits, leaderships, crashes; /* what happened, for the report */
};

/* lite.c */
uint8_t *lite_payload(struct lite *lite, const void *bytes, size_t size);
#define lite_prng(lite, name) sim_prng(&(lite)->world, SIM_STREAM_##name)
/* U[0, 2 * mean), now and then a long tail. */
uint64_t lite_spread(struct prng *prng, uint64_t mean);
void lite_text(struct lite *lite, const struct lite_node *node, const char *format, ...)
    printf_like(3, 4);
#define lite_trace(lite, node, kind, a, b)                                                         \
    sim_trace_at(&(lite)->world, (node) == NULL ? 0 : ((const struct lite_node *)(node))->id, 0,   \
                 kind, a, b)

/* lite_node.c */
struct lite_node *lite_node_add(struct lite *lite, const struct raft_config *genesis);
void lite_node_free(struct lite_node *node);
void lite_node_start(struct lite_node *node);
void lite_node_crash(struct lite_node *node);
void lite_node_turn_by(struct lite_node *node, uint64_t time_ns);
void lite_node_pause(struct lite_node *node, uint64_t until_ns);
void lite_node_push(struct lite_node *node, struct lite_item *item);
void lite_observe(struct lite_node *node);
void lite_node_reads_void(struct lite_node *node);

/* lite_disk.c */
struct raft_storage lite_disk_storage(struct lite_node *node);
void lite_disk_append(struct lite_node *node, const struct raft_ready *ready);
struct lite_append *lite_disk_pop(struct lite_node *node); /* the oldest, when it is durable */
void lite_append_free(struct lite *lite, struct lite_append *append);
void lite_disk_crash(struct lite_node *node);
void lite_disk_start(const struct lite_node *node, struct raft_start *start);
void lite_disk_flush(struct lite_node *node); /* the state machine's image becomes durable */
bool lite_disk_holds(const struct lite_disk *disk, uint64_t index, uint64_t term);
uint64_t lite_disk_term(const struct lite_disk *disk, uint64_t index);
void lite_disk_free(struct lite_disk *disk);

/* lite_network.c */
struct lite_item *lite_item_make(struct lite *lite, enum lite_item_kind kind, uint32_t from,
                                 uint32_t to);
void lite_item_free(struct lite_item *item);
void lite_list_init(struct lite_list *list);
void lite_list_push(struct lite_list *list, struct lite_item *item);
struct lite_item *lite_list_pop(struct lite_list *list);
/* A message as the encoder of a server would build it: with its entries, its snapshot. */
struct lite_item *lite_message_make(struct lite_node *node, const struct raft_message *message);
void lite_message_send(struct lite *lite, struct lite_item *item);
void lite_item_schedule(struct lite_item *item, uint64_t delay_ns);

/* lite_clients.c */
void lite_clients_start(struct lite *lite);
void lite_client_reply(struct lite_item *item);
void lite_serve_request(struct lite_node *node, struct lite_item *item);
void lite_serve_applied(struct lite_node *node, const struct entry *entry);
void lite_serve_reads(struct lite_node *node);
void lite_serve_read_index(struct lite_node *node, const struct raft_read *read);
void lite_serve_lost(struct lite_node *node); /* the node crashed */
void lite_probe(struct lite *lite);

/* lite_faults.c */
void lite_faults_start(struct lite *lite);
void lite_command(struct lite_node *node, const struct lite_item *item);
void lite_heal(struct lite *lite);
void lite_doom(struct sim_event *event); /* of a node */
void lite_leader_won(struct lite_node *node);
bool lite_progressed(struct lite *lite);
void lite_blame(struct lite *lite); /* why there is no progress */
void lite_config_text(const struct raft_config *config, char *to, size_t size);

/* lite_rot.c */
uint64_t lite_rot_boot(struct lite_node *node); /* the lowest lost entry to apply, or 0 */
void lite_rot_started(struct lite_node *node);
void lite_rot_turn(struct lite_node *node);
void lite_rot_sent(const struct lite_node *node, const struct raft_message *message);
bool lite_rot_allowed(const struct lite_node *node);
void lite_rot_lose(struct lite_node *node, uint64_t index);
bool lite_rot_is_lost(const struct lite_disk *disk, uint64_t index);
void lite_rot_forget(struct lite_disk *disk, uint64_t first, uint64_t last);

/* Runs one seed from start to end. */
void lite_run(const struct raftsim_options *options, struct raftsim_result *result);

#endif
