#include "server/force_new_cluster.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "core/logger.h"
#include "server/log_role.h"
#include "server/member_request.h"
#include "server/node_private.h"
#include "server/proposal.h"

#define READ_BYTES  (4 * MIB)
#define CHANGES_MAX (RAFT_MEMBERS_MAX + 1)

/* The members, and what was executed, as they will be when the log is applied; then the changes. */
struct plan {
    struct membership membership;
    struct once once;
    uint64_t index, term; /* of the last entry */
    struct proposal *proposals[CHANGES_MAX];
    struct entry entries[CHANGES_MAX];
    uint32_t count;
};

/* ---- who the members will be ---------------------------------------------------------------- */

/* As server/apply.c does it; what is refused there is refused here. */
static int entry_foresee(struct plan *plan, const struct entry *entry)
{
    struct raft_config_change change;
    struct request request;
    bool changes_members = entry->type == ENTRY_CONFIG_CHANGE;
    if (entry->payload_bytes > 0) {
        int error =
            changes_members
                ? membership_decode_change(entry, &change, &request)
                : request_decode(&request, bytes_make(entry->payload, entry->payload_bytes));
        if (error < 0 || member_find(&plan->membership.set, request.origin) == NULL ||
            !once_admit(&plan->once, &request))
            return 0;
    }
    int error = changes_members ? membership_foresee(&plan->membership, entry) : 0;
    return error == -ENOMEM ? error : 0;
}

static int look_ahead(struct node *node, struct plan *plan, uint64_t last)
{
    uint64_t index = mvcc_applied_index(node->mvcc) + 1;
    while (index <= last) {
        struct log_copy copy;
        int64_t count = log_role_read(node, index, last, READ_BYTES, &copy);
        if (count < 0) {
            snprintf(node->failure, sizeof(node->failure),
                     "--force-new-cluster: log entry %llu cannot be read: %s",
                     (unsigned long long)index, err_text((int)count));
            return (int)count;
        }
        invariant(count > 0);
        int error = 0;
        for (uint32_t i = 0; i < copy.entry_count && error == 0; i++)
            error = entry_foresee(plan, &copy.entries[i]);
        log_copy_destroy(&copy);
        if (error < 0)
            return error;
        index += (uint64_t)count;
    }
    return 0;
}

/* ---- the changes ---------------------------------------------------------------------------- */

/* `proposal` NULL: the end of a joint phase. */
static int plan_add(struct plan *plan, struct proposal *proposal)
{
    invariant(plan->count < CHANGES_MAX);
    struct entry *entry = &plan->entries[plan->count];
    plan->proposals[plan->count++] = proposal;
    *entry =
        (struct entry){.index = ++plan->index, .term = plan->term, .type = ENTRY_CONFIG_CHANGE};
    if (proposal != NULL) {
        entry->payload = proposal->payload;
        entry->payload_bytes = proposal->payload_bytes;
        entry->payload_crc = proposal->payload_crc;
    }
    return membership_foresee(&plan->membership, entry);
}

static int plan_change(struct node *node, struct plan *plan, enum request_kind kind, uint64_t id)
{
    struct member member = {.id = id};
    struct proposal *proposal = member_request_make(node, kind, &member);
    return proposal == NULL ? -ENOMEM : plan_add(plan, proposal);
}

static int plan_make(struct node *node, struct plan *plan)
{
    uint64_t own = node->identity.member_id;
    const struct member *self = member_find(&plan->membership.set, own);
    int error = 0;
    if (self == NULL) {
        snprintf(node->failure, sizeof(node->failure),
                 "--force-new-cluster: member %llx was removed from its cluster; use the data "
                 "directory of one that was not",
                 (unsigned long long)own);
        return ERR_CONFIG;
    }
    if (plan->membership.config.outgoing.count > 0)
        error = plan_add(plan, NULL);
    if (error == 0 && self->learner)
        error = plan_change(node, plan, REQUEST_MEMBER_PROMOTE, own);
    for (uint32_t i = 0; error == 0 && i < plan->membership.set.count;) {
        uint64_t id = plan->membership.set.members[i].id;
        if (id == own) {
            i++;
            continue;
        }
        log_warn("a member is removed for good", LOG_HEX("member", id),
                 LOG_TEXT("name", plan->membership.set.members[i].name));
        error = plan_change(node, plan, REQUEST_MEMBER_REMOVE, id);
    }
    return error;
}

static void plan_store(struct node *node, const struct plan *plan, struct wal_recovered *recovered)
{
    struct hard_state *hard_state = &recovered->hard_state;
    if (plan->count > 0) {
        hard_state->term = plan->term;
        hard_state->vote = node->identity.member_id;
        log_role_append(node, plan->entries, plan->count, hard_state);
        recovered->last_index = plan->index;
        recovered->last_term = plan->term;
    }
    hard_state->commit = recovered->last_index;
    log_role_append(node, NULL, 0, hard_state);
}

int force_new_cluster(struct node *node, struct wal_recovered *recovered)
{
    struct plan *plan = calloc(1, sizeof(*plan));
    if (plan == NULL)
        return -ENOMEM;
    plan->once = node->once;
    plan->index = recovered->last_index;
    plan->term = recovered->hard_state.term + 1;
    int error = membership_copy(&plan->membership, &node->membership);
    if (error == 0)
        error = look_ahead(node, plan, recovered->last_index);
    if (error == 0)
        error = plan_make(node, plan);
    if (error == 0) {
        plan_store(node, plan, recovered);
        log_warn("this member is the only one of its cluster from now on: start it without "
                 "--force-new-cluster next time",
                 LOG_HEX("member_id", node->identity.member_id),
                 LOG_U64("log_last", recovered->last_index));
    }
    for (uint32_t i = 0; i < plan->count; i++)
        if (plan->proposals[i] != NULL)
            proposal_destroy(plan->proposals[i]);
    membership_deinit(&plan->membership);
    free(plan);
    return error;
}
