#include "consensus/config_change.h"

#include "core/err.h"
#include "core/invariant.h"

static bool change_add_voter(struct raft_config *config, uint64_t id)
{
    raft_id_set_remove(&config->learners, id);
    raft_id_set_remove(&config->learners_next, id);
    return raft_id_set_add(&config->voters, id);
}

/* A voter of the outgoing half cannot be a learner at the same time (C1): it waits. */
static bool change_add_learner(struct raft_config *config, uint64_t id)
{
    if (raft_id_set_has(&config->learners, id))
        return true;
    raft_id_set_remove(&config->voters, id);
    if (raft_id_set_has(&config->outgoing, id))
        return raft_id_set_add(&config->learners_next, id);
    return raft_id_set_add(&config->learners, id);
}

static void change_remove(struct raft_config *config, uint64_t id)
{
    raft_id_set_remove(&config->voters, id);
    raft_id_set_remove(&config->learners, id);
    raft_id_set_remove(&config->learners_next, id);
}

static int changes_apply(struct raft_config *config, const struct raft_change *changes,
                         uint32_t change_count)
{
    for (uint32_t i = 0; i < change_count; i++) {
        uint64_t id = changes[i].id;
        bool fits = true;
        if (id == 0)
            continue;
        if (id > RAFT_ID_MAX)
            return ERR_CONFIG;
        switch (changes[i].kind) {
        case RAFT_CHANGE_ADD_VOTER:
            fits = change_add_voter(config, id);
            break;
        case RAFT_CHANGE_ADD_LEARNER:
            fits = change_add_learner(config, id);
            break;
        case RAFT_CHANGE_REMOVE:
            change_remove(config, id);
            break;
        case RAFT_CHANGE_UPDATE:
            break;
        }
        if (!fits)
            return ERR_LIMIT;
    }
    if (config->voters.count == 0)
        return ERR_CONFIG;
    return raft_config_validate(config);
}

/* Voters in exactly one of the two sets. */
static uint32_t voters_moved(const struct raft_id_set *a, const struct raft_id_set *b)
{
    uint32_t moved = 0;
    for (uint32_t i = 0; i < a->count; i++)
        moved += !raft_id_set_has(b, a->ids[i]);
    for (uint32_t i = 0; i < b->count; i++)
        moved += !raft_id_set_has(a, b->ids[i]);
    return moved;
}

int config_change_simple(const struct raft_config *from, const struct raft_change *changes,
                         uint32_t change_count, struct raft_config *to)
{
    if (from->outgoing.count != 0)
        return ERR_CONFIG;
    struct raft_config next = *from;
    int error = changes_apply(&next, changes, change_count);
    if (error != 0)
        return error;
    if (voters_moved(&from->voters, &next.voters) > 1)
        return ERR_CONFIG;
    invariant(next.outgoing.count == 0 && next.learners_next.count == 0);
    *to = next;
    return 0;
}

int config_change_enter_joint(const struct raft_config *from, bool auto_leave,
                              const struct raft_change *changes, uint32_t change_count,
                              struct raft_config *to)
{
    if (from->outgoing.count != 0 || from->voters.count == 0)
        return ERR_CONFIG;
    struct raft_config next = *from;
    next.outgoing = from->voters;
    next.auto_leave = auto_leave;
    int error = changes_apply(&next, changes, change_count);
    if (error != 0)
        return error;
    invariant(next.outgoing.count == from->voters.count);
    *to = next;
    return 0;
}

int config_change_leave_joint(const struct raft_config *from, struct raft_config *to)
{
    if (from->outgoing.count == 0)
        return ERR_CONFIG;
    struct raft_config next = *from;
    memset(&next.outgoing, 0, sizeof(next.outgoing));
    memset(&next.learners_next, 0, sizeof(next.learners_next));
    next.auto_leave = false;
    for (uint32_t i = 0; i < from->learners_next.count; i++) {
        bool added = raft_id_set_add(&next.learners, from->learners_next.ids[i]);
        invariant(added); /* it was a member already */
    }
    int valid = raft_config_validate(&next);
    invariant(valid == 0);
    *to = next;
    return 0;
}

int config_change_apply(const struct raft_config *from, const struct raft_config_change *change,
                        struct raft_config *to)
{
    invariant(change->count <= RAFT_MEMBERS_MAX);
    if (raft_config_change_leaves(change))
        return config_change_leave_joint(from, to);
    if (change->transition == RAFT_TRANSITION_AUTO && change->count == 1)
        return config_change_simple(from, change->changes, change->count, to);
    bool auto_leave = change->transition != RAFT_TRANSITION_EXPLICIT;
    return config_change_enter_joint(from, auto_leave, change->changes, change->count, to);
}
