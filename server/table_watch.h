/*
 * table_watch.h - a member whose tables get nowhere leaves leading to others.
 *
 * Story     Writes wait before the log while the leader's tables are LSM_PRESSURE_FULL. That is
 *           back-pressure as long as flushes and merges get on, and an outage of the whole cluster
 *           when they do not: the disk is full, or a block that every merge needs is rotten, while
 *           heartbeats go on. So tables are *stuck* when they are full and nothing was installed
 *           for an election timeout while work fails, or for STUCK_NS_MAX in any case.
 *
 *           A leader with stuck tables offers its leadership to one voter after the other. One
 *           whose own tables are no better lets the offer pass: it does not campaign. One that is
 *           silent is waited for, HEARING_TIMEOUTS in all. When nobody takes over, the leader
 *           stays, because reads, and members that answer, are worth more than an election without
 *           a better candidate. If it is space that is missing it raises the NOSPACE alarm then,
 *           and again if it is disarmed too early: clients are told at once, and what frees space
 *           goes on (server/forward.h). It offers again after RETRY_NS.
 *
 *           Who is stuck, or so slow that its apply loop waits for its tables (server/apply.h),
 *           does not campaign while somebody else may. After YIELD_TIMEOUTS without any leader it
 *           does: others may be gone, or have the shorter log.
 * Owner     The raft core.
 * Source    docs/internals/storage-lsm.md, docs/operations/disaster-recovery.md.
 */
#ifndef SERVER_TABLE_WATCH_H
#define SERVER_TABLE_WATCH_H

#include "consensus/config.h"
#include "core/base.h"

struct node;

#define TABLE_WATCH_STUCK_NS_MAX     (60 * NS_PER_S)
#define TABLE_WATCH_RETRY_NS         (60 * NS_PER_S)
#define TABLE_WATCH_YIELD_TIMEOUTS   3 /* election timeouts */
#define TABLE_WATCH_HEARING_TIMEOUTS 2

/* What is to be seen of them. */
struct table_signs {
    uint32_t pressure; /* lsm_pressure() */
    uint64_t installs; /* lsm_installs() */
    int failure;       /* lsm_failure() */
    bool apply_waits;  /* apply_waits() */
};

struct table_watch {
    struct node *node;
    uint64_t seen_ns;           /* when it was looked last */
    uint64_t installs;          /* as seen then */
    uint64_t idle_ns;           /* full, without an install for so long, as this process ran */
    uint64_t waited_ns;         /* when the apply loop was seen waiting last; 0: never */
    uint64_t led_ns;            /* when a leader was known last */
    struct raft_id_set offered; /* voters that were offered the leadership in this round */
    uint64_t round_ns;          /* idle_ns when this round began; 0: none has */
    uint64_t alarm_index;       /* of the alarm that was raised last, by this leader; 0: none */
    uint64_t retry_ns;          /* nobody took it: the next round begins then */
    uint64_t moves;             /* offers made */
};

void table_watch_init(struct table_watch *watch, struct node *node);

/* To be called every FAILOVER_WATCH_NS or oftener: a longer pause counts as no more. */
void table_watch_look(struct table_watch *watch, const struct table_signs *signs, uint64_t now_ns);

#endif
