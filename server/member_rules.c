#include "server/member_rules.h"

#include "server/node_private.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"

/* How long connections must stand before members are added: etcd's. */
#define HEALTHY_NS (5 * NS_PER_S)

static bool connected_to(const struct node *node, uint64_t id, uint64_t for_ns)
{
    if (id == node->identity.member_id)
        return true;
    uint64_t since_ns = peers_connected_since_ns(node->peers->peers, id);
    return since_ns != 0 && core_now_ns(node->raft->core) - since_ns >= for_ns;
}

/* Voters other than `without`: how many there are, have started, are connected long enough. */
struct census {
    uint32_t voters, started, connected;
};

static struct census census_take(const struct node *node, uint64_t without)
{
    struct census census = {0};
    const struct member_set *set = &node->membership.set;
    for (uint32_t i = 0; i < set->count; i++) {
        const struct member *member = &set->members[i];
        if (member->learner || member->id == without)
            continue;
        census.voters++;
        census.started += member->name[0] != '\0';
        census.connected += connected_to(node, member->id, HEALTHY_NS);
    }
    return census;
}

/* The operator's rule, not the state machine's: members may be told different limits. */
static int check_learners(const struct node *node, enum request_kind kind,
                          const struct member *member)
{
    const struct member_set *set = &node->membership.set;
    uint64_t learners = 0;
    if (kind != REQUEST_MEMBER_ADD || !member->learner)
        return 0;
    for (uint32_t i = 0; i < set->count; i++)
        learners += set->members[i].learner;
    return learners >= node->config->max_learners ? ERR_TOO_MANY_LEARNERS : 0;
}

/* --strict-reconfig-check: a change must leave a quorum of members that work. */
static int check_quorum(const struct node *node, enum request_kind kind,
                        const struct member *member)
{
    if (!node->config->strict_reconfig_check)
        return 0;
    const struct member *known = member_find(&node->membership.set, member->id);
    struct census census;
    switch (kind) {
    case REQUEST_MEMBER_ADD:
    case REQUEST_MEMBER_PROMOTE:
        census = census_take(node, 0);
        if (kind == REQUEST_MEMBER_ADD && !member->learner) {
            uint32_t voters = census.voters + 1;
            bool first_growth = voters == 2 && census.started == 1;
            if (!first_growth && census.started < voters / 2 + 1)
                return ERR_NOT_ENOUGH_STARTED;
        }
        return census.connected < census.voters / 2 + 1 ? ERR_UNHEALTHY : 0;
    case REQUEST_MEMBER_REMOVE:
        if (known == NULL || known->learner)
            return 0;
        census = census_take(node, known->id);
        if (census.voters == 0 || census.started < census.voters / 2 + 1)
            return ERR_NOT_ENOUGH_STARTED;
        if (!connected_to(node, known->id, 0))
            return 0; /* it is not part of what works now */
        return census.connected < census.voters / 2 + 1 ? ERR_UNHEALTHY : 0;
    default:
        return 0;
    }
}

int member_rules_check(const struct node *node, enum request_kind kind, const struct member *member)
{
    int error = check_learners(node, kind, member);
    return error < 0 ? error : check_quorum(node, kind, member);
}
