/*
 * whole.h - the whole-node simulator: the production server, storage, network and client code on a
 * simulated machine.
 *
 * Story     A node is a machine with a disk, one or more cores and an address; it boots server/node
 *           as main.c does. Clients are the C client library on a machine of their own, which never
 *           fails. A seed draws the machines, the load and the harm: power cuts in the middle of
 *           anything, connections that stall, cores that are slow. In the end everything is healed
 *           after one more power cut; each voter takes a write and is asked for its state now and
 *           at some revisions of the past, and all stop in an orderly way.
 * Checks    check_raft.h after each call of a consensus core (whole_raft.h). Every answer a client
 *           got is judged by check_history.h and by the model of check_store.h, which executes the
 *           log once more (whole_store.h); hashes of the state at a revision never change, across
 *           restarts; a node always starts again; nothing is left open when it stops.
 * Owner     struct whole.
 * Threads   One.
 */
#ifndef TESTS_SIM_WHOLE_H
#define TESTS_SIM_WHOLE_H

#include "client/kv_client.h"
#include "server/config.h"
#include "server/node.h"
#include "tests/sim/check_raft.h"
#include "tests/sim/disk.h"
#include "tests/sim/raftsim.h"
#include "tests/sim/whole_media.h"
#include "tests/sim/whole_store.h"
#include "tests/sim/world.h"

#define WHOLE_NODES_MAX   12 /* over time */
#define WHOLE_CLIENTS_MAX 8
#define WHOLE_KEYS        6
#define WHOLE_HASHES_MAX  24

/* What may happen to disks while they are used, and to clocks. */
struct whole_disk_config {
    bool slow, errors, full;
    bool sectors, tables; /* of nodes that rot: sectors of logs that are used, tables */
    uint32_t drift_ppm_max;
};

struct whole_config {
    uint64_t seed;
    uint32_t nodes, cores;
    uint32_t sector_bytes;
    uint64_t safety_ns;
    uint32_t clients, read_percent, txn_percent, delete_percent;
    bool compactions;
    uint64_t think_ns, call_timeout_ms;
    uint32_t value_bytes_max;
    bool crashes, kills, traps, stalls, partitions, slow_cores, pauses;
    uint32_t rotting;     /* the first nodes, so many: what lies on their disks may be damaged */
    bool core_first;      /* in the end a majority is healed first, and must do without the rest */
    uint64_t operator_ns; /* between changes of the members; 0: none */
    uint64_t fault_mean_ns, outage_ns_max;
    uint32_t turn_ns_max;
    bool short_reads, buggify, small_stores;
    struct whole_disk_config disk;
    bool slow_paths; /* some, from a node's first start until the end of all harm */
};

struct whole_hash {
    int64_t revision, compacted;
    uint32_t hash;
};

/* Keys from..to, inclusive; `revision` 0: as they are now. */
struct whole_range {
    uint32_t from, to;
    uint64_t revision;
    bool stale; /* whatever the node has, without asking the others */
};

/* What a node's disk does when the node crashes (whole_trap.c). */
enum whole_trap {
    WHOLE_TRAP_NONE,
    WHOLE_TRAP_BOOT, /* nothing yet: it started a moment ago */
    WHOLE_TRAP_WRITE,
    WHOLE_TRAP_WRITES,
    WHOLE_TRAP_SYNC,
    WHOLE_TRAP_NAME,
    WHOLE_TRAP_SNAPSHOT,
    WHOLE_TRAP_RECEIVED,
    WHOLE_TRAP_SENT,
    WHOLE_TRAP_COUNT
};

struct whole;

struct whole_node {
    struct whole *whole;
    struct sim_node sim;
    struct sim_disk *disk;
    struct config config;
    struct node *node; /* in the machine's memory */
    struct sim_event boot, watch;
    bool joins;         /* an existing cluster */
    bool leaving;       /* its removal was asked for */
    bool retire_wanted; /* it was removed: its machine goes */
    bool gone;          /* for good */
    bool stop_asked;
    bool kept_down;         /* while the others must do without it */
    uint64_t disk_until_ns; /* its disk does harm until then; 0: none */
    uint64_t disk_errors;   /* that it had given when this process began */
    bool lost; /* a table of it is damaged: it may end, and stays away until that is mended */

    enum whole_trap trap;
    uint32_t trap_steps; /* still to come */
    struct sim_event trap_event;

    uint64_t member; /* its id among the members; 0: it has not started yet */
    struct whole_media media;
    uint64_t executed;   /* by its state machine */
    uint64_t state_hash; /* of all that its state machine wrote, up to there */
};

struct whole_client {
    struct whole *whole;
    uint32_t number;
    bool ended;
};

struct whole {
    struct sim_world world;
    struct whole_config config;
    const struct raftsim_options *options;
    struct verdict verdict;
    struct check_raft raft_check;
    struct whole_node nodes[WHOLE_NODES_MAX];
    uint32_t node_count;
    struct sim_node machine; /* of the clients */
    struct whole_client clients[WHOLE_CLIENTS_MAX];
    struct sim_event fault, disk_fault;
    struct whole_store store;
    uint64_t seen_revision[WHOLE_KEYS]; /* by whoever read or wrote the key last */
    struct whole_hash hashes[WHOLE_HASHES_MAX];
    uint32_t hash_count;
    bool load_ended; /* clients have stopped */
    bool operator_ended;
    bool verified; /* every node has what it must */
    uint64_t crashes, restarts, rots, leaderships, ends;
    uint64_t members_added, members_promoted, members_removed, leaders_moved;
};

/* whole.c */
#define whole_prng(whole, name) sim_prng(&(whole)->world, SIM_STREAM_##name)
void whole_text(struct whole *whole, uint32_t node, const char *format, ...) printf_like(3, 4);

/* whole_node.c */
struct whole_node *whole_node_add(struct whole *whole, const char *initial_cluster);
void whole_node_free(struct whole_node *node);
void whole_node_boot(struct whole_node *node);
void whole_node_boot_at(struct whole_node *node, uint64_t time_ns);
void whole_node_power_cut(struct whole_node *node); /* no-op when it is down, as the next two */
void whole_node_kill(struct whole_node *node);
void whole_node_retire(struct whole_node *node);
void whole_node_shut_down(struct whole_node *node);       /* it has stopped */
bool whole_node_is_member(const struct whole_node *node); /* in the newest configuration */
bool whole_node_is_voter(const struct whole_node *node);

/* whole_faults.c */
void whole_faults_start(struct whole *whole);
void whole_faults_node_added(struct whole *whole, const struct whole_node *node);
void whole_faults_end(struct whole *whole);
void whole_heal(struct whole *whole); /* no more harm; everything runs */
/* For a while; `power`: not only of the process. No-op when it is down. */
void whole_faults_crash(struct whole_node *node, bool power);

/* whole_trap.c */
void whole_trap_init(struct whole_node *node);
/* It crashes when its disk does something that is drawn, of the kinds from `first` on. */
void whole_trap_set(struct whole_node *node, enum whole_trap first);
void whole_trap_boot(struct whole_node *node, uint64_t boot_ns); /* soon after it starts */
void whole_trap_clear(struct whole_node *node);

/* whole_disk_faults.c */
void whole_disk_draw(struct whole_disk_config *config, struct prng *prng);
void whole_disk_print(const struct whole_disk_config *config, FILE *out);
int32_t whole_disk_drift_ppm(struct whole *whole); /* of a new machine's clock */
void whole_disk_faults_start(struct whole *whole);
void whole_disk_faults_end(struct whole *whole); /* disks are well */
void whole_disk_mend(struct whole_node *node);   /* so are its tables */
void whole_disk_rot(struct whole_node *node);    /* it is down */
/* Since its process began, or what lies there is beyond its repair. */
bool whole_disk_failed(const struct whole_node *node);

/* whole_operator.c */
void whole_operator_start(struct whole *whole);
void whole_operator_disarm(struct whole *whole); /* runs in a fiber of the clients' machine */

/* whole_clients.c */
struct client_set *whole_client_set(void);
void whole_clients_start(struct whole *whole);
/* Runs in a fiber of the clients' machine, as do the calls below. */
void whole_machine_spawn(struct whole *whole, void (*run)(void *argument), void *argument);
uint64_t whole_client_now_ns(void);
/* To all nodes, or `only` to one. */
struct kv_client *whole_client_open(struct whole *whole, const struct whole_node *only);
/* False: no answer. What is answered is checked. */
bool whole_client_range(struct whole *whole, struct kv_client *client,
                        const struct whole_range *range);
bool whole_client_put(struct whole *whole, struct kv_client *client);
bool whole_client_hash(struct whole *whole, struct kv_client *client, int64_t revision);

/* whole_verify.c */
void whole_verify_start(struct whole *whole);

void whole_config_draw(struct whole_config *config, const struct raftsim_options *options);
void whole_config_print(const struct whole_config *config, FILE *out);
void whole_run(const struct raftsim_options *options, struct raftsim_result *result);

#endif
