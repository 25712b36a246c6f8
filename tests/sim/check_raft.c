#include "tests/sim/check_raft.h"

#include <inttypes.h>
#include <stdlib.h>
#include <xxhash.h>

#include "core/invariant.h"

#define fail(check, ...) verdict_set((check)->verdict, SIM_SAFETY, __VA_ARGS__)

/* ---- tables --------------------------------------------------------------------------------- */

static uint64_t pair_hash(uint64_t a, uint64_t b)
{
    uint64_t mixed = (a ^ (b << 32 | b >> 32)) * 0x9e3779b97f4a7c15u;
    return mixed ^ mixed >> 29;
}

static struct check_pair *table_slot(const struct check_table *table, uint64_t a, uint64_t b)
{
    uint64_t at = pair_hash(a, b) & (table->capacity - 1);
    while (table->pairs[at].key[0] != 0 &&
           (table->pairs[at].key[0] != a || table->pairs[at].key[1] != b))
        at = (at + 1) & (table->capacity - 1);
    return &table->pairs[at];
}

static void table_grow(struct check_table *table)
{
    struct check_table larger = {.capacity = table->capacity == 0 ? 256 : table->capacity * 2,
                                 .count = table->count};
    larger.pairs = calloc(larger.capacity, sizeof(*larger.pairs));
    invariant(larger.pairs != NULL);
    for (uint64_t i = 0; i < table->capacity; i++)
        if (table->pairs[i].key[0] != 0)
            *table_slot(&larger, table->pairs[i].key[0], table->pairs[i].key[1]) = table->pairs[i];
    free(table->pairs);
    *table = larger;
}

/* The value kept for the key: `value` when it is new. */
static uint64_t table_keep(struct check_table *table, uint64_t a, uint64_t b, uint64_t value)
{
    invariant(a != 0);
    if (table->count * 2 >= table->capacity)
        table_grow(table);
    struct check_pair *pair = table_slot(table, a, b);
    if (pair->key[0] == 0) {
        *pair = (struct check_pair){{a, b}, value};
        table->count++;
    }
    return pair->value;
}

static bool table_find(const struct check_table *table, uint64_t a, uint64_t b, uint64_t *value)
{
    if (table->capacity == 0)
        return false;
    const struct check_pair *pair = table_slot(table, a, b);
    *value = pair->value;
    return pair->key[0] != 0;
}

/* ---- logs ----------------------------------------------------------------------------------- */

static struct check_entry *log_at(struct check_log *log, uint64_t index)
{
    if (index >= log->capacity) {
        uint64_t capacity = log->capacity == 0 ? 512 : log->capacity;
        while (capacity <= index)
            capacity *= 2;
        log->entries = realloc(log->entries, capacity * sizeof(*log->entries));
        invariant(log->entries != NULL);
        memset(log->entries + log->capacity, 0, (capacity - log->capacity) * sizeof(*log->entries));
        log->capacity = capacity;
    }
    return &log->entries[index];
}

static uint64_t chain(uint64_t before, const struct entry *entry)
{
    uint64_t seed = before * 0x9e3779b97f4a7c15u ^ entry->term * 31 ^ entry->type;
    return XXH3_64bits_withSeed(entry->payload, entry->payload_bytes, seed);
}

/* ---- life ----------------------------------------------------------------------------------- */

struct check_node *check_raft_node(struct check_raft *check, uint64_t id)
{
    invariant(id != 0);
    for (uint64_t i = 0; i < CHECK_NODES_MAX; i++) {
        struct check_node *node = &check->nodes[(id + i) % CHECK_NODES_MAX];
        if (node->id == 0)
            node->id = id;
        if (node->id == id)
            return node;
    }
    invariant(!"more nodes than the checker has room for");
    return NULL;
}

void check_raft_init(struct check_raft *check, struct verdict *verdict, check_durable *durable,
                     void *context)
{
    memset(check, 0, sizeof(*check));
    check->verdict = verdict;
    check->durable = durable;
    check->context = context;
}

void check_raft_deinit(struct check_raft *check)
{
    for (uint32_t i = 0; i < CHECK_NODES_MAX; i++)
        free(check->nodes[i].log.entries);
    free(check->leaders.pairs);
    free(check->votes.pairs);
    free(check->hashes.pairs);
    free(check->states.pairs);
    free(check->canonical.entries);
    free(check->configs);
}

void check_raft_genesis(struct check_raft *check, uint64_t index, uint64_t term,
                        const struct raft_config *config)
{
    *log_at(&check->canonical, index) = (struct check_entry){.term = term, .hash = index};
    check->canonical.last = index;
    table_keep(&check->hashes, index + 1, term, index);
    check->configs = calloc(1, sizeof(*check->configs));
    invariant(check->configs != NULL);
    check->configs[0] = (struct check_config){index, *config};
    check->config_count = 1;
    check->config_applied = index;
}

uint64_t check_raft_committed(const struct check_raft *check)
{
    return check->canonical.last;
}

const struct check_entry *check_raft_entry(const struct check_raft *check, uint64_t index)
{
    invariant(index <= check->canonical.last);
    return &check->canonical.entries[index];
}

bool check_raft_state_at(const struct check_raft *check, uint64_t index, uint64_t *hash)
{
    return table_find(&check->states, index, 0, hash);
}

/* ---- configurations ------------------------------------------------------------------------- */

static uint32_t common(const struct raft_id_set *a, const struct raft_id_set *b)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < a->count; i++)
        count += raft_id_set_has(b, a->ids[i]);
    return count;
}

static bool set_equal(const struct raft_id_set *a, const struct raft_id_set *b)
{
    return a->count == b->count && common(a, b) == a->count;
}

/* Written from the dissertation, chapter 4, not from config_change.c. */
bool check_config_step(const struct raft_config *from, const struct raft_config *to)
{
    bool from_joint = from->outgoing.count > 0, to_joint = to->outgoing.count > 0;
    if (common(&to->voters, &to->learners) > 0 || common(&to->outgoing, &to->learners) > 0 ||
        to->voters.count == 0)
        return false;
    if (!from_joint && to_joint) /* the old majority rules on beside the new one */
        return set_equal(&to->outgoing, &from->voters);
    if (from_joint && !to_joint)
        return set_equal(&to->voters, &from->voters);
    if (from_joint && to_joint)
        return false;
    uint32_t both = common(&from->voters, &to->voters);
    return from->voters.count - both + to->voters.count - both <= 1;
}

bool check_config_quorum(const struct raft_config *config, const struct raft_id_set *have)
{
    return common(&config->voters, have) > config->voters.count / 2 &&
           (config->outgoing.count == 0 ||
            common(&config->outgoing, have) > config->outgoing.count / 2);
}

const struct raft_config *check_raft_config_at(const struct check_raft *check, uint64_t index)
{
    uint32_t at = check->config_count;
    while (at > 1 && check->configs[at - 1].index > index)
        at--;
    return &check->configs[at - 1].config;
}

void check_raft_config(struct check_raft *check, uint64_t node, uint64_t index,
                       const struct raft_config *config)
{
    const struct check_config *newest = &check->configs[check->config_count - 1];
    if (index <= check->config_applied) {
        if (!raft_config_equal(check_raft_config_at(check, index), config))
            fail(check, "configuration: node %" PRIu64 " has another one at index %" PRIu64, node,
                 index);
        return;
    }
    check->config_applied = index;
    if (raft_config_equal(&newest->config, config))
        return; /* refused by every node alike, or without effect */
    if (!check->changes_unchecked && !check_config_step(&newest->config, config))
        fail(check, "configuration: the change at index %" PRIu64 " is not a legal step", index);
    uint32_t count = check->config_count + 1;
    check->configs = realloc(check->configs, count * sizeof(*check->configs));
    invariant(check->configs != NULL);
    check->configs[check->config_count++] = (struct check_config){index, *config};
}

/* ---- one node after a call ------------------------------------------------------------------ */

static void observe_new_entry(struct check_raft *check, const struct raft *raft, uint64_t index,
                              struct check_log *log)
{
    const struct entry *entry = raft_log_entry(&raft->log, index);
    invariant(entry != NULL);
    struct check_entry seen = {.term = entry->term,
                               .hash = chain(log_at(log, index - 1)->hash, entry),
                               .is_config = entry->type == ENTRY_CONFIG_CHANGE,
                               .is_empty =
                                   entry->type == ENTRY_NORMAL && entry->payload_bytes == 0};
    uint64_t known = table_keep(&check->hashes, index + 1, seen.term, seen.hash);
    if (known != seen.hash)
        fail(check, "log matching: node %" PRIu64 " has another entry at %" PRIu64 " term %" PRIu64,
             raft->options.id, index, seen.term);
    *log_at(log, index) = seen;
    if (!seen.is_config || check->changes_unchecked)
        return;
    for (uint64_t at = index - 1; at > check->canonical.last; at--)
        if (log_at(log, at)->is_config)
            fail(check,
                 "configuration: node %" PRIu64 " has changes at %" PRIu64 " and %" PRIu64
                 ", both not committed",
                 raft->options.id, at, index);
}

/* The mirror of the node's log follows: shortened to where both agree, then extended. */
static void observe_log(struct check_raft *check, const struct raft *raft, struct check_node *node)
{
    const struct raft_log *log = &raft->log;
    uint64_t last = log->last_index;
    if (last > 0 && last == node->log.last &&
        log_at(&node->log, last)->term == raft_log_last_term(log))
        return;
    uint64_t agreed = last;
    while (agreed > log->base_index) {
        const struct entry *entry = raft_log_entry(log, agreed);
        if (agreed <= node->log.last && log_at(&node->log, agreed)->term == entry->term)
            break;
        agreed--;
    }
    if (agreed == log->base_index) { /* what a snapshot or the disk brought: known by its term */
        uint64_t hash = 0;
        bool known = table_find(&check->hashes, agreed + 1, log->base_term, &hash);
        if (!known && agreed > 0)
            fail(check, "log matching: node %" PRIu64 " begins at unknown %" PRIu64 "/%" PRIu64,
                 raft->options.id, log->base_term, agreed);
        struct check_entry *base = log_at(&node->log, agreed);
        if (base->hash != hash || base->term != log->base_term)
            *base = (struct check_entry){.term = log->base_term, .hash = hash};
    }
    for (uint64_t index = agreed + 1; index <= last; index++)
        observe_new_entry(check, raft, index, &node->log);
    if (node->seen && node->role == RAFT_ROLE_LEADER && node->term == raft->term &&
        raft->role == RAFT_ROLE_LEADER && agreed < node->leader_last)
        fail(check, "leader append-only: node %" PRIu64 " replaced %" PRIu64 " in term %" PRIu64,
             raft->options.id, agreed + 1, raft->term);
    node->log.last = last;
}

static void observe_leader(struct check_raft *check, const struct raft *raft,
                           struct check_node *node)
{
    uint64_t id = raft->options.id;
    uint64_t known = table_keep(&check->leaders, raft->term + 1, 0, id);
    if (known != id)
        fail(check, "election safety: nodes %" PRIu64 " and %" PRIu64 " lead term %" PRIu64, known,
             id, raft->term);
    uint64_t committed = check->canonical.last;
    while (committed > 0 && log_at(&check->canonical, committed)->commit_term >= raft->term)
        committed--; /* it was elected late, a newer leader works already */
    if (raft->log.last_index < committed)
        fail(check,
             "leader completeness: node %" PRIu64 " leads term %" PRIu64 " with log up to %" PRIu64
             ", committed is %" PRIu64,
             id, raft->term, raft->log.last_index, committed);
    else if (raft->log.compacted_index <= committed &&
             log_at(&node->log, committed)->hash != log_at(&check->canonical, committed)->hash)
        fail(check,
             "leader completeness: node %" PRIu64 " leads term %" PRIu64
             " with another entry at %" PRIu64,
             id, raft->term, committed);
}

/* Its disk is the quorum, and nobody else can have led since: what it finds there when it starts is
 * committed, of whatever term. */
static bool is_lone_voter(const struct raft *raft)
{
    return raft->config.outgoing.count == 0 && raft->config.voters.count == 1 &&
           raft->config.voters.ids[0] == raft->options.id;
}

static void observe_commit(struct check_raft *check, const struct raft *raft,
                           struct check_node *node)
{
    uint64_t id = raft->options.id, index = raft->log.committed_index;
    bool starts_alone = raft->role != RAFT_ROLE_LEADER && is_lone_voter(raft);
    if (raft->role != RAFT_ROLE_LEADER && !starts_alone) {
        fail(check, "commit: node %" PRIu64 " is no leader and the first to commit %" PRIu64, id,
             index);
        return;
    }
    if (log_at(&node->log, index)->term != raft->term && !starts_alone)
        fail(check,
             "commit: leader %" PRIu64 " of term %" PRIu64 " commits %" PRIu64 " of term %" PRIu64,
             id, raft->term, index, log_at(&node->log, index)->term);
    struct raft_id_set have = {0}, members = raft_config_members(&raft->config);
    for (uint32_t i = 0; i < members.count; i++)
        if (check->durable(check->context, members.ids[i], index, log_at(&node->log, index)->term))
            have.ids[have.count++] = members.ids[i];
    if (!check_config_quorum(&raft->config, &have))
        fail(check, "commit: leader %" PRIu64 " commits %" PRIu64 ", which only %u members store",
             id, index, have.count);
    for (uint64_t at = check->canonical.last + 1; at <= index; at++) {
        *log_at(&check->canonical, at) = *log_at(&node->log, at);
        log_at(&check->canonical, at)->commit_term = raft->term;
    }
    check->canonical.last = index;
}

static void observe_monotonic(struct check_raft *check, const struct raft *raft,
                              const struct check_node *node)
{
    if (!node->seen)
        return;
    if (raft->term < node->term || raft->log.committed_index < node->commit ||
        raft->log.applied_index < node->applied)
        fail(check,
             "monotonic: node %" PRIu64 " goes back: term %" PRIu64 " to %" PRIu64
             ", commit %" PRIu64 " to %" PRIu64 ", applied %" PRIu64 " to %" PRIu64,
             raft->options.id, node->term, raft->term, node->commit, raft->log.committed_index,
             node->applied, raft->log.applied_index);
}

void check_raft_observe(struct check_raft *check, const struct raft *raft)
{
    struct check_node *node = check_raft_node(check, raft->options.id);
    observe_monotonic(check, raft, node);
    observe_log(check, raft, node);
    if (raft->role == RAFT_ROLE_LEADER &&
        (!node->seen || node->role != RAFT_ROLE_LEADER || node->term != raft->term))
        observe_leader(check, raft, node);
    uint64_t commit = raft->log.committed_index;
    if (commit > check->canonical.last)
        observe_commit(check, raft, node);
    else if (commit > node->commit && commit >= raft->log.base_index && commit > 0 &&
             log_at(&node->log, commit)->hash != log_at(&check->canonical, commit)->hash)
        fail(check, "commit: node %" PRIu64 " commits another entry at %" PRIu64, raft->options.id,
             commit);
    if (raft->config_index != node->config_index && raft->config_index > 0 &&
        !raft_config_equal(check_raft_config_at(check, raft->config_index), &raft->config) &&
        raft->config_index <= check->config_applied)
        fail(check, "configuration: node %" PRIu64 " lives in another one since %" PRIu64,
             raft->options.id, raft->config_index);
    node->seen = true;
    node->role = raft->role;
    node->term = raft->term;
    node->commit = commit;
    node->applied = raft->log.applied_index;
    node->config_index = raft->config_index;
    node->leader_last = raft->log.last_index;
    node->compacted = raft->log.compacted_index;
}

void check_raft_restart(struct check_raft *check, uint64_t id, const struct raft_start *start,
                        uint64_t (*term_at)(void *context, uint64_t node, uint64_t index))
{
    struct check_node *node = check_raft_node(check, id);
    node->seen = false;
    node->commit = 0;
    node->config_index = 0;
    if (start->hard_state.term < node->durable_term)
        fail(check, "monotonic: node %" PRIu64 " restarts in term %" PRIu64 " after %" PRIu64, id,
             start->hard_state.term, node->durable_term);
    uint64_t base = start->compacted_index;
    for (uint64_t index = base; index <= start->last_index; index++) {
        uint64_t term = index == base ? start->compacted_term : term_at(check->context, id, index);
        uint64_t hash = 0;
        if (index > 0 && !table_find(&check->hashes, index + 1, term, &hash))
            fail(check, "log matching: node %" PRIu64 " restarts with unknown %" PRIu64 "/%" PRIu64,
                 id, term, index);
        struct check_entry *entry = log_at(&node->log, index);
        entry->is_config = entry->is_config && entry->term == term && entry->hash == hash;
        entry->term = term;
        entry->hash = hash;
    }
    node->log.last = start->last_index;
}

/* ---- messages ------------------------------------------------------------------------------- */

static void send_vote(struct check_raft *check, uint64_t id, uint64_t term, uint64_t candidate,
                      const struct hard_state *durable, bool must_be_durable)
{
    uint64_t known = table_keep(&check->votes, id, term, candidate);
    if (known != candidate)
        fail(check, "one vote: node %" PRIu64 " votes for %" PRIu64 " and %" PRIu64 " in %" PRIu64,
             id, known, candidate, term);
    if (must_be_durable &&
        (durable->term < term || (durable->term == term && durable->vote != candidate)))
        fail(check,
             "one vote: the vote of node %" PRIu64 " for %" PRIu64 " in %" PRIu64
             " leaves before it is durable",
             id, candidate, term);
}

void check_raft_send(struct check_raft *check, const struct raft_message *message,
                     const struct hard_state *durable, bool early_vote)
{
    struct check_node *node = check_raft_node(check, message->from);
    node->durable_term = u64_max(node->durable_term, durable->term);
    if (message->kind == RAFT_MESSAGE_VOTE)
        send_vote(check, message->from, message->term, message->from, durable, !early_vote);
    if (message->kind == RAFT_MESSAGE_VOTE_RESPONSE && !message->reject)
        send_vote(check, message->from, message->term, message->to, durable, true);
    if (message->kind != RAFT_MESSAGE_APPEND_RESPONSE || message->reject || message->index == 0)
        return;
    if (durable->term > message->term)
        return; /* a later leader has replaced it since: then its first one cannot commit it */
    /* What it acknowledges is what the leader of that term holds there: same term, same H. */
    uint64_t leader = 0;
    if (!table_find(&check->leaders, message->term + 1, 0, &leader) || leader != message->to)
        return; /* an answer that only tells a higher term */
    struct check_log *log = &check_raft_node(check, leader)->log;
    if (message->index > log->last || check_raft_node(check, leader)->term != message->term)
        return;
    uint64_t term = log_at(log, message->index)->term;
    if (message->index < check_raft_node(check, leader)->compacted)
        term = log_at(&check->canonical, message->index)->term; /* it is in the leader's snapshot */
    if (!check->durable(check->context, message->from, message->index, term))
        fail(check,
             "acknowledgement: node %" PRIu64 " acknowledges %" PRIu64 " to leader %" PRIu64
             " of term %" PRIu64 " without having it on disk",
             message->from, message->index, leader, message->term);
}

/* ---- applying ------------------------------------------------------------------------------- */

void check_raft_apply(struct check_raft *check, uint64_t node, uint64_t before,
                      const struct entry *entry)
{
    uint64_t index = entry->index;
    if (index != before + 1)
        fail(check, "state machine: node %" PRIu64 " applies %" PRIu64 " after %" PRIu64, node,
             index, before);
    if (index > check->canonical.last) {
        fail(check, "state machine: node %" PRIu64 " applies %" PRIu64 ", which is not committed",
             node, index);
        return;
    }
    const struct check_entry *canonical = log_at(&check->canonical, index);
    if (canonical->term != entry->term ||
        chain(log_at(&check->canonical, index - 1)->hash, entry) != canonical->hash)
        fail(check, "state machine: node %" PRIu64 " applies another entry at %" PRIu64, node,
             index);
}

void check_raft_state(struct check_raft *check, uint64_t node, uint64_t index, uint64_t hash)
{
    if (index == 0)
        return;
    uint64_t known = table_keep(&check->states, index, 0, hash);
    if (known != hash)
        fail(check, "state machine: node %" PRIu64 " has another state at %" PRIu64, node, index);
}

void check_raft_read(struct check_raft *check, uint64_t node, uint64_t committed, uint64_t index)
{
    if (index < committed)
        fail(check,
             "read: node %" PRIu64 " reads at %" PRIu64 ", committed was %" PRIu64
             " when it was asked",
             node, index, committed);
}
