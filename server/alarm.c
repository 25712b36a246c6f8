#include "server/alarm.h"

#include <stdio.h>

#include "core/invariant.h"
#include "core/logger.h"
#include "server/node_private.h"

#define QUOTA_BYTES_DEFAULT (2 * GIB)

/* Meta name "alarm/" + member in hex + "/" + kind; the value is empty. */
#define ALARM_PREFIX "alarm/"

const char *alarm_kind_name(enum alarm_kind kind)
{
    switch (kind) {
    case ALARM_NONE:
        return "NONE";
    case ALARM_NO_SPACE:
        return "NOSPACE";
    case ALARM_CORRUPT:
        return "CORRUPT";
    }
    invariant(false); /* requests and what is stored are bounded where they are read */
    return "";
}

static void alarm_publish(struct node *node)
{
    uint64_t mask = 0;
    for (uint32_t i = 0; i < node->alarms.count; i++)
        mask |= (uint64_t)1 << node->alarms.alarms[i].kind;
    atomic_store_explicit(&node->shared.alarms, mask, memory_order_release);
}

static int alarm_loaded(void *context, struct bytes name, struct bytes value maybe_unused)
{
    struct alarm_set *set = context;
    char text[64];
    unsigned long long member;
    unsigned kind;
    if (name.size >= sizeof(text) || set->count == ALARMS_MAX)
        return ERR_CORRUPT;
    memcpy(text, name.data, name.size);
    text[name.size] = '\0';
    if (sscanf(text, ALARM_PREFIX "%llx/%u", &member, &kind) != 2 || kind == ALARM_NONE ||
        kind > ALARM_CORRUPT)
        return ERR_CORRUPT;
    set->alarms[set->count++] = (struct alarm){.member = member, .kind = (enum alarm_kind)kind};
    return 0;
}

int alarm_load(struct node *node, struct mvcc *mvcc)
{
    node->alarms.count = 0;
    int error = mvcc_meta_scan(mvcc, bytes_from_text(ALARM_PREFIX), alarm_loaded, &node->alarms);
    alarm_publish(node);
    return error;
}

static uint32_t alarm_find(const struct alarm_set *set, uint64_t member, enum alarm_kind kind)
{
    uint32_t i = 0;
    while (i < set->count && (set->alarms[i].member != member || set->alarms[i].kind != kind))
        i++;
    return i;
}

static int alarm_store(struct mvcc *mvcc, const struct alarm_request *request)
{
    char name[64];
    snprintf(name, sizeof(name), ALARM_PREFIX "%llx/%u", (unsigned long long)request->member,
             (unsigned)request->kind);
    if (request->action == ALARM_ACTIVATE)
        return mvcc_meta_put(mvcc, bytes_from_text(name), bytes_make(NULL, 0));
    return mvcc_meta_delete(mvcc, bytes_from_text(name));
}

int alarm_apply(struct node *node, struct mvcc *mvcc, const struct alarm_request *request,
                struct arena *arena, struct alarm_set **listed)
{
    struct alarm_set *set = &node->alarms;
    struct alarm_set *out = arena_take(arena, sizeof(*out));
    if (out == NULL)
        return ERR_LIMIT;
    *listed = out;
    out->count = 0;
    if (request->action == ALARM_GET) {
        for (uint32_t i = 0; i < set->count; i++)
            if (request->kind == ALARM_NONE || set->alarms[i].kind == request->kind)
                out->alarms[out->count++] = set->alarms[i];
        return 0;
    }
    if (request->kind == ALARM_NONE)
        return 0; /* nothing to raise or clear; clients list first */
    uint32_t at = alarm_find(set, request->member, request->kind);
    bool raise = request->action == ALARM_ACTIVATE;
    if (raise && set->count == ALARMS_MAX && at == set->count)
        return ERR_LIMIT;
    struct alarm changed = {.member = request->member, .kind = request->kind};
    if (raise ? at == set->count : at < set->count) {
        int error = alarm_store(mvcc, request);
        if (error < 0)
            return error;
        if (raise)
            set->alarms[set->count++] = changed;
        else
            set->alarms[at] = set->alarms[--set->count];
        alarm_publish(node);
        log_warn(raise ? "alarm raised" : "alarm disarmed", LOG_HEX("member", request->member),
                 LOG_TEXT("alarm", alarm_kind_name(request->kind)));
        out->alarms[out->count++] = changed;
    } else if (raise) {
        out->alarms[out->count++] = changed;
    }
    return 0;
}

int alarm_admit_write(const struct node_shared *shared, bool uses_space)
{
    uint64_t mask = atomic_load_explicit(&shared->alarms, memory_order_acquire);
    if (likely(mask == 0))
        return 0;
    if (mask & ((uint64_t)1 << ALARM_CORRUPT))
        return ERR_CORRUPT_CLUSTER;
    return uses_space && (mask & ((uint64_t)1 << ALARM_NO_SPACE)) ? ERR_NO_SPACE : 0;
}

uint64_t alarm_quota_bytes(const struct node *node)
{
    int64_t quota = node->config->quota_backend_bytes;
    if (quota == 0)
        return QUOTA_BYTES_DEFAULT;
    return quota < 0 ? UINT64_MAX : (uint64_t)quota;
}

bool alarm_over_quota(const struct node *node, uint64_t cost_bytes)
{
    uint64_t quota = alarm_quota_bytes(node);
    return quota != UINT64_MAX &&
           mvcc_shared_stats(node->mvcc_shared).size_bytes + cost_bytes >= quota;
}
