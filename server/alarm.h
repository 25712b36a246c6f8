/*
 * alarm.h - alarms of the cluster: replicated facts that make every member refuse some requests.
 *
 * Story     NOSPACE is raised for a member whose data reaches its quota, or that leads and has no
 *           room for tables, as no other member that answers has (server/table_watch.h): puts are
 *           refused everywhere until an operator disarms it, deletes and compaction go on. CORRUPT
 *           refuses every write. Alarms go through the log, also when they are only listed (which
 *           makes listing a probe of the quorum).
 * Owner     The set belongs to the raft core; a bit mask of what is raised is published to all
 *           cores.
 * Durable   With the batch that applies it, in the state machine's meta table.
 */
#ifndef SERVER_ALARM_H
#define SERVER_ALARM_H

#include "core/arena.h"
#include "storage/mvcc/mvcc.h"

#define ALARMS_MAX 64

enum alarm_kind { ALARM_NONE = 0, ALARM_NO_SPACE = 1, ALARM_CORRUPT = 2 };
enum alarm_action { ALARM_GET = 0, ALARM_ACTIVATE = 1, ALARM_DEACTIVATE = 2 };

struct alarm {
    uint64_t member;
    enum alarm_kind kind;
};

struct alarm_set {
    uint32_t count;
    struct alarm alarms[ALARMS_MAX];
};

struct alarm_request {
    enum alarm_action action;
    uint64_t member;
    enum alarm_kind kind;
};

struct node;
struct node_shared;

const char *alarm_kind_name(enum alarm_kind kind); /* as etcd writes it */

/* Raft core, fiber: after the state machine opened. */
must_check int alarm_load(struct node *node, struct mvcc *mvcc);

/* Raft core, apply loop. *listed (in `arena`): what the request asks to see. ERR_LIMIT: too many.
 */
must_check int alarm_apply(struct node *node, struct mvcc *mvcc,
                           const struct alarm_request *request, struct arena *arena,
                           struct alarm_set **listed);

/* Any core. ERR_NO_SPACE (only when the request uses space) or ERR_CORRUPT_CLUSTER, or 0. */
must_check int alarm_admit_write(const struct node_shared *shared, bool uses_space);

/* Any core. Would `cost_bytes` more reach the quota of this member? */
bool alarm_over_quota(const struct node *node, uint64_t cost_bytes);
uint64_t alarm_quota_bytes(const struct node *node); /* UINT64_MAX: none */

#endif
