/* In the end, when all is healed: every node has what the log says, now and in the past. */
#include "tests/sim/whole.h"

#define PAUSE_NS   (50 * NS_PER_MS)
#define PAST_READS 12 /* of random revisions, on each node */

static void pause(void)
{
    fiber_sleep_until(whole_client_now_ns() + PAUSE_NS);
}

/* A removal whose outcome the operator was not told may still come. */
static bool is_judged(const struct whole_node *node)
{
    return whole_node_is_voter(node) && !node->kept_down;
}

static void verify_node(struct whole *whole, const struct whole_node *node)
{
    struct kv_client *client = whole_client_open(whole, node);
    struct prng *prng = whole_prng(whole, WORKLOAD);
    const struct check_store *model = &whole->store.model;
    struct whole_range range = {.from = 0, .to = WHOLE_KEYS - 1};
    while (is_judged(node) && !whole_client_put(whole, client))
        pause();
    while (is_judged(node) && !whole_client_range(whole, client, &range))
        pause();
    for (uint32_t i = 0; i < PAST_READS; i++) {
        uint64_t oldest = u64_max(model->compacted, 1);
        range.revision = oldest + prng_below(prng, model->revision - oldest + 1);
        while (is_judged(node) && !whole_client_range(whole, client, &range))
            pause();
    }
    while (is_judged(node) && !whole_client_hash(whole, client, 0))
        pause();
    for (uint32_t i = 0; i < whole->hash_count && is_judged(node); i++)
        (void)whole_client_hash(whole, client, whole->hashes[i].revision);
    kv_client_close(client);
}

static void verify_run(void *argument)
{
    struct whole *whole = argument;
    for (uint32_t i = 0; i < whole->node_count; i++)
        if (is_judged(&whole->nodes[i]))
            verify_node(whole, &whole->nodes[i]);
    whole->verified = true;
}

void whole_verify_start(struct whole *whole)
{
    whole_machine_spawn(whole, verify_run, whole);
}
