#include "tests/sim/check_store.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/invariant.h"

#define fail(store, ...) verdict_set((store)->verdict, SIM_SAFETY, __VA_ARGS__)

#define FIRST_REVISION 1

void check_store_init(struct check_store *store, struct verdict *verdict)
{
    memset(store, 0, sizeof(*store));
    store->verdict = verdict;
    store->revision = FIRST_REVISION;
}

void check_store_deinit(struct check_store *store)
{
    for (uint32_t i = 0; i < CHECK_STORE_KEYS; i++)
        free(store->keys[i].versions);
    free(store->outcomes);
}

/* ---- names ---------------------------------------------------------------------------------- */

uint32_t check_store_key_of(struct bytes key)
{
    bool ours = key.size == 2 && key.data[0] == 'k' && key.data[1] >= '0' && key.data[1] <= '9';
    return ours ? (uint32_t)(key.data[1] - '0') : CHECK_STORE_KEY_NONE;
}

static uint64_t digits(struct bytes text)
{
    uint64_t number = 0;
    for (size_t i = 0; i < text.size && text.data[i] >= '0' && text.data[i] <= '9'; i++)
        number = number * 10 + (uint64_t)(text.data[i] - '0');
    return number;
}

static uint64_t author_of_delete(const struct mvcc_delete_request *request)
{
    struct bytes end = request->range_end;
    return end.size > 3 ? digits(bytes_make(end.data + 3, end.size - 3)) : 0;
}

static int compare_bytes(struct bytes a, struct bytes b)
{
    int order = memcmp(a.data, b.data, a.size < b.size ? a.size : b.size);
    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

static bool interval_has(struct bytes key, struct bytes range_end, uint32_t at)
{
    const uint8_t text[2] = {'k', (uint8_t)('0' + at)};
    struct bytes probe = bytes_make(text, sizeof(text));
    if (range_end.size == 0)
        return compare_bytes(key, probe) == 0;
    bool to_the_end = range_end.size == 1 && range_end.data[0] == 0;
    return compare_bytes(probe, key) >= 0 && (to_the_end || compare_bytes(probe, range_end) < 0);
}

/* ---- versions ------------------------------------------------------------------------------- */

/* Of `key` as of `revision`; NULL: it does not exist there. */
static const struct check_version *version_at(const struct check_store_key *key, uint64_t revision)
{
    uint32_t at = key->count;
    while (at > 0 && key->versions[at - 1].revision > revision)
        at--;
    return at == 0 || key->versions[at - 1].author == 0 ? NULL : &key->versions[at - 1];
}

static void version_push(struct check_store_key *key, const struct check_version *version)
{
    if (key->count == key->capacity) {
        key->capacity = key->capacity * 2 + 16;
        key->versions = realloc(key->versions, key->capacity * sizeof(*key->versions));
        invariant(key->versions != NULL);
    }
    key->versions[key->count++] = *version;
}

static struct check_kv kv_of(uint32_t at, const struct check_version *version)
{
    return (struct check_kv){at, version->author, version->revision, version->create,
                             version->version};
}

uint32_t check_store_range(const struct check_store *store, uint64_t revision, uint32_t from,
                           uint32_t to, struct check_kv *kvs)
{
    uint32_t count = 0;
    for (uint32_t at = from; at <= to && at < CHECK_STORE_KEYS; at++) {
        const struct check_version *version = version_at(&store->keys[at], revision);
        if (version != NULL)
            kvs[count++] = kv_of(at, version);
    }
    return count;
}

/* ---- one request ---------------------------------------------------------------------------- */

/* The request in hand: its own writes are visible to it, at the next revision. */
struct execution {
    struct check_store *store;
    struct check_outcome outcome;
    uint64_t author;
    uint64_t revision; /* that it makes */
};

static void answer_kv(struct execution *execution, uint32_t at, const struct check_version *version)
{
    if (version != NULL && execution->outcome.kv_count < CHECK_STORE_KVS_MAX)
        execution->outcome.kvs[execution->outcome.kv_count++] = kv_of(at, version);
}

static void execute_put(struct execution *execution, const struct mvcc_put_request *request)
{
    uint32_t at = check_store_key_of(request->key);
    execution->author = digits(request->value);
    if (at == CHECK_STORE_KEY_NONE) {
        fail(execution->store, "store: a put of a key that nobody uses");
        return;
    }
    struct check_store_key *key = &execution->store->keys[at];
    const struct check_version *old = version_at(key, execution->revision);
    struct check_version version = {.revision = execution->revision,
                                    .create = old == NULL ? execution->revision : old->create,
                                    .version = old == NULL ? 1 : old->version + 1,
                                    .author = execution->author};
    if (request->prev_kv)
        answer_kv(execution, at, old);
    version_push(key, &version);
    execution->outcome.changed = true;
}

static void execute_delete(struct execution *execution, const struct mvcc_delete_request *request)
{
    for (uint32_t at = 0; at < CHECK_STORE_KEYS; at++) {
        struct check_store_key *key = &execution->store->keys[at];
        const struct check_version *old = version_at(key, execution->revision);
        if (old == NULL || !interval_has(request->key, request->range_end, at))
            continue;
        if (request->prev_kv)
            answer_kv(execution, at, old);
        version_push(key, &(struct check_version){.revision = execution->revision});
        execution->outcome.deleted++;
        execution->outcome.changed = true;
    }
}

static bool compares(int64_t have, int32_t result, int64_t number)
{
    switch ((enum mvcc_compare_result)result) {
    case MVCC_EQUAL:
        return have == number;
    case MVCC_GREATER:
        return have > number;
    case MVCC_LESS:
        return have < number;
    case MVCC_NOT_EQUAL:
        return have != number;
    }
    return false;
}

/* What the workload asks of one key; an absent key has zeros. */
static bool compare_holds(const struct execution *execution, const struct mvcc_compare *compare)
{
    uint32_t at = check_store_key_of(compare->key);
    const struct check_version *version =
        at == CHECK_STORE_KEY_NONE ? NULL
                                   : version_at(&execution->store->keys[at], execution->revision);
    switch ((enum mvcc_compare_target)compare->target) {
    case MVCC_COMPARE_VERSION:
        return compares(version == NULL ? 0 : (int64_t)version->version, compare->result,
                        compare->number);
    case MVCC_COMPARE_CREATE:
        return compares(version == NULL ? 0 : (int64_t)version->create, compare->result,
                        compare->number);
    case MVCC_COMPARE_MOD:
        return compares(version == NULL ? 0 : (int64_t)version->revision, compare->result,
                        compare->number);
    case MVCC_COMPARE_VALUE:
    case MVCC_COMPARE_LEASE:
        break;
    }
    fail(execution->store, "store: a comparison that nobody uses");
    return false;
}

static void execute_op(struct execution *execution, const struct mvcc_op *op)
{
    switch (op->kind) {
    case MVCC_OP_PUT:
        execute_put(execution, &op->put);
        return;
    case MVCC_OP_DELETE:
        execute_delete(execution, &op->del);
        return;
    case MVCC_OP_RANGE:
        for (uint32_t at = 0; at < CHECK_STORE_KEYS; at++)
            if (interval_has(op->range.key, op->range.range_end, at))
                answer_kv(execution, at,
                          version_at(&execution->store->keys[at], execution->revision));
        return;
    case MVCC_OP_NONE:
    case MVCC_OP_TXN:
        break;
    }
    fail(execution->store, "store: an operation that nobody uses");
}

static struct execution begin(struct check_store *store)
{
    return (struct execution){.store = store, .revision = store->revision + 1};
}

static struct check_outcome *outcome_slot(struct check_store *store, uint64_t author)
{
    if (author >= store->outcome_capacity) {
        uint64_t capacity = store->outcome_capacity == 0 ? 1024 : store->outcome_capacity;
        while (capacity <= author)
            capacity *= 2;
        store->outcomes = realloc(store->outcomes, capacity * sizeof(*store->outcomes));
        invariant(store->outcomes != NULL);
        memset(store->outcomes + store->outcome_capacity, 0,
               (capacity - store->outcome_capacity) * sizeof(*store->outcomes));
        store->outcome_capacity = capacity;
    }
    return &store->outcomes[author];
}

/* The author is only now known, and whether the request was executed before. */
static uint64_t end(struct execution *execution)
{
    struct check_store *store = execution->store;
    if (execution->author == 0) {
        fail(store, "store: a request without an author");
        return 0;
    }
    struct check_outcome *outcome = outcome_slot(store, execution->author);
    if (outcome->happened)
        fail(store, "store: operation %" PRIu64 " is executed again", execution->author);
    if (execution->outcome.changed)
        store->revision = execution->revision;
    *outcome = execution->outcome;
    outcome->happened = true;
    outcome->revision = store->revision;
    return execution->author;
}

static bool refuse(struct execution *execution, bool puts)
{
    execution->outcome.refused = puts && execution->store->no_space;
    return execution->outcome.refused;
}

uint64_t check_store_put(struct check_store *store, const struct mvcc_put_request *request)
{
    struct execution execution = begin(store);
    execution.author = digits(request->value);
    if (!refuse(&execution, true))
        execute_put(&execution, request);
    return end(&execution);
}

uint64_t check_store_delete(struct check_store *store, const struct mvcc_delete_request *request)
{
    struct execution execution = begin(store);
    execution.author = author_of_delete(request);
    execute_delete(&execution, request);
    return end(&execution);
}

/* A txn's author is in whichever branch puts. */
static uint64_t author_of_txn(const struct mvcc_txn_request *request)
{
    for (uint32_t i = 0; i < request->success_count; i++)
        if (request->success[i].kind == MVCC_OP_PUT)
            return digits(request->success[i].put.value);
    for (uint32_t i = 0; i < request->failure_count; i++)
        if (request->failure[i].kind == MVCC_OP_PUT)
            return digits(request->failure[i].put.value);
    return 0;
}

uint64_t check_store_txn(struct check_store *store, const struct mvcc_txn_request *request)
{
    struct execution execution = begin(store);
    bool holds = true;
    execution.author = author_of_txn(request);
    if (refuse(&execution, true)) /* every txn of ours can put */
        return end(&execution);
    for (uint32_t i = 0; i < request->compare_count; i++)
        holds = holds && compare_holds(&execution, &request->compares[i]);
    execution.outcome.succeeded = holds;
    const struct mvcc_op *ops = holds ? request->success : request->failure;
    uint32_t count = holds ? request->success_count : request->failure_count;
    for (uint32_t i = 0; i < count; i++)
        execute_op(&execution, &ops[i]);
    return end(&execution);
}

/* Refused ones, of the past and of the future, change nothing. */
void check_store_compact(struct check_store *store, const struct mvcc_compact_request *request)
{
    uint64_t revision = request->revision < 0 ? 0 : (uint64_t)request->revision;
    if (revision > store->compacted && revision <= store->revision)
        store->compacted = revision;
}

/* ---- answers -------------------------------------------------------------------------------- */

const struct check_outcome *check_store_outcome(const struct check_store *store, uint64_t author)
{
    bool known = author < store->outcome_capacity && store->outcomes[author].happened;
    return known ? &store->outcomes[author] : NULL;
}

bool check_store_equal(struct check_store *store, const char *what, uint64_t number,
                       const struct check_kv *have, uint32_t have_count,
                       const struct check_kv *want, uint32_t want_count)
{
    if (have_count != want_count) {
        fail(store, "store: %s %" PRIu64 " has %u keys, expected %u", what, number, have_count,
             want_count);
        return false;
    }
    for (uint32_t i = 0; i < have_count; i++) {
        const struct check_kv *a = &have[i], *b = &want[i];
        if (a->key == b->key && a->author == b->author && a->revision == b->revision &&
            a->create == b->create && a->version == b->version)
            continue;
        fail(store,
             "store: %s %" PRIu64 " has k%u written by %" PRIu64 " at %" PRIu64 " (created %" PRIu64
             ", version %" PRIu64 "), expected k%u by %" PRIu64 " at %" PRIu64 " (%" PRIu64
             ", %" PRIu64 ")",
             what, number, a->key, a->author, a->revision, a->create, a->version, b->key, b->author,
             b->revision, b->create, b->version);
        return false;
    }
    return true;
}
