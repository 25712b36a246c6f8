/* Clients of the whole-node simulator: fibers around the C client library. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/core.h"
#include "core/invariant.h"
#include "tests/sim/memory.h"
#include "tests/sim/whole.h"

#define KEY_BYTES         32
#define VALUE_BYTES_MAX   8192
#define HASH_PERCENT      2
#define COMPACT_PER_MILLE 10
#define COMPACT_BEHIND    100  /* revisions, at most, behind the newest */
#define DISARM_PERCENT    5    /* of writes that an alarm refuses: somebody looks after it */
#define OPERATIONS_MAX    8000 /* a busy seed costs a second all the same */

/* The machine's only core; every client shares its connections' owner. */
static struct client_set set;

struct client_set *whole_client_set(void)
{
    return &set;
}

static struct prng *workload(struct whole *whole)
{
    return whole_prng(whole, WORKLOAD);
}

static bool chance(struct whole *whole, uint64_t percent)
{
    return prng_chance(workload(whole), percent, 100);
}

uint64_t whole_client_now_ns(void)
{
    return core_now_ns(core_current());
}

struct kv_client *whole_client_open(struct whole *whole, const struct whole_node *only)
{
    static char texts[WHOLE_NODES_MAX][32];
    const char *endpoints[WHOLE_NODES_MAX];
    uint32_t count = 0;
    uint32_t first = (uint32_t)prng_below(workload(whole), whole->node_count);
    for (uint32_t i = 0; i < whole->node_count; i++) {
        const struct whole_node *node = &whole->nodes[(first + i) % whole->node_count];
        if (only != NULL ? node != only : node->gone)
            continue;
        snprintf(texts[count], sizeof(texts[count]), "10.0.0.%u:2379", node->sim.id);
        endpoints[count] = texts[count];
        count++;
    }
    struct kv_client_options options = {.endpoints = endpoints,
                                        .endpoint_count = count,
                                        .dial_timeout_ms = 1000,
                                        .call_timeout_ms = whole->config.call_timeout_ms,
                                        .calls_max = 64};
    struct kv_client *client = NULL;
    char reason[128];
    int error = kv_client_open(&set, &options, &client, reason, sizeof(reason));
    sim_check(error == 0, "a client does not open: %s", reason);
    return client;
}

/* ---- requests ------------------------------------------------------------------------------- */

/* Texts that a request points to. */
struct texts {
    char key[KEY_BYTES], range_end[KEY_BYTES];
    char value[VALUE_BYTES_MAX];
};

static ProtobufCBinaryData data_of(char *text, size_t bytes)
{
    return (ProtobufCBinaryData){.len = bytes, .data = (uint8_t *)text};
}

static uint32_t some_key(struct whole *whole)
{
    return (uint32_t)prng_below(workload(whole), WHOLE_KEYS);
}

static ProtobufCBinaryData key_data(char text[KEY_BYTES], uint32_t key)
{
    return data_of(text, (size_t)snprintf(text, KEY_BYTES, "k%u", key));
}

/* Behind key `last`; a delete's has its author after a zero byte (check_store.h). */
static ProtobufCBinaryData end_data(char text[KEY_BYTES], uint32_t last, uint64_t author)
{
    int length = snprintf(text, KEY_BYTES, "k%u", last) + 1; /* the zero byte too */
    if (author != 0)
        length += snprintf(text + length, KEY_BYTES - (size_t)length, "%" PRIu64, author);
    return data_of(text, (size_t)length);
}

static ProtobufCBinaryData value_data(struct whole *whole, char text[VALUE_BYTES_MAX],
                                      uint64_t author)
{
    uint64_t bytes = 20 + prng_below(workload(whole), whole->config.value_bytes_max);
    bytes = u64_min(bytes, VALUE_BYTES_MAX);
    memset(text, 'v', bytes);
    int length = snprintf(text, VALUE_BYTES_MAX, "%" PRIu64, author);
    text[length] = ' ';
    return data_of(text, bytes);
}

static void failed(struct whole *whole, uint64_t operation, int error,
                   const struct kv_failure *failure)
{
    whole_store_no_answer(whole, operation, failure->maybe_executed);
    whole_text(whole, 0, "operation %" PRIu64 " failed: %s", operation, failure->text);
    if (error == ERR_NO_SPACE && (whole->load_ended || chance(whole, DISARM_PERCENT)))
        whole_operator_disarm(whole);
}

bool whole_client_put(struct whole *whole, struct kv_client *client)
{
    struct texts texts;
    uint64_t operation = whole_store_call(whole, true);
    Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
    request.key = key_data(texts.key, some_key(whole));
    request.value = value_data(whole, texts.value, operation);
    request.prev_kv = chance(whole, 30);
    Etcdserverpb__PutResponse *response = NULL;
    struct kv_failure failure = {0};
    int error = kv_client_put(client, &request, 0, &response, &failure);
    if (error != 0) {
        failed(whole, operation, error, &failure);
        return false;
    }
    struct check_outcome outcome = {.revision = (uint64_t)response->header->revision};
    whole_store_add_kv(&outcome, response->prev_kv);
    whole_store_answer(whole, operation, &outcome);
    etcdserverpb__put_response__free_unpacked(response, NULL);
    return true;
}

static void delete (struct whole *whole, struct kv_client *client)
{
    struct texts texts;
    uint64_t operation = whole_store_call(whole, true);
    uint32_t first = some_key(whole);
    uint32_t last = chance(whole, 80) ? first : (uint32_t)u64_min(first + 2, WHOLE_KEYS - 1);
    Etcdserverpb__DeleteRangeRequest request = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
    request.key = key_data(texts.key, first);
    request.range_end = end_data(texts.range_end, last, operation);
    request.prev_kv = chance(whole, 50);
    Etcdserverpb__DeleteRangeResponse *response = NULL;
    struct kv_failure failure = {0};
    int error = kv_client_delete_range(client, &request, 0, &response, &failure);
    if (error != 0) {
        failed(whole, operation, error, &failure);
        return;
    }
    struct check_outcome outcome = {.revision = (uint64_t)response->header->revision,
                                    .deleted = (uint64_t)response->deleted};
    for (size_t i = 0; i < response->n_prev_kvs; i++)
        whole_store_add_kv(&outcome, response->prev_kvs[i]);
    whole_store_answer(whole, operation, &outcome);
    etcdserverpb__delete_range_response__free_unpacked(response, NULL);
}

/* ---- transactions --------------------------------------------------------------------------- */

static void compare_make(struct whole *whole, Etcdserverpb__Compare *compare, uint32_t key)
{
    if (chance(whole, 30)) {
        compare->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VERSION;
        compare->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION;
        compare->version = 0; /* absent */
    } else {
        compare->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
        compare->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
        compare->mod_revision = (int64_t)whole->seen_revision[key];
    }
    if (chance(whole, 10))
        compare->result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__NOT_EQUAL;
}

static void add_response(struct check_outcome *outcome, const Etcdserverpb__ResponseOp *op)
{
    switch (op->response_case) {
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE:
        for (size_t i = 0; i < op->response_range->n_kvs; i++)
            whole_store_add_kv(outcome, op->response_range->kvs[i]);
        break;
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_PUT:
        whole_store_add_kv(outcome, op->response_put->prev_kv);
        break;
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_DELETE_RANGE:
        outcome->deleted += (uint64_t)op->response_delete_range->deleted;
        for (size_t i = 0; i < op->response_delete_range->n_prev_kvs; i++)
            whole_store_add_kv(outcome, op->response_delete_range->prev_kvs[i]);
        break;
    default:
        break;
    }
}

/* If `key` is as it was seen last, it is replaced, and maybe another one goes; else it is read. */
static void txn(struct whole *whole, struct kv_client *client)
{
    struct texts texts, other;
    uint64_t operation = whole_store_call(whole, true);
    uint32_t key = some_key(whole), gone = (key + 1) % WHOLE_KEYS;
    Etcdserverpb__Compare compare = ETCDSERVERPB__COMPARE__INIT, *compares[] = {&compare};
    compare.key = key_data(texts.key, key);
    compare_make(whole, &compare, key);
    Etcdserverpb__PutRequest put = ETCDSERVERPB__PUT_REQUEST__INIT;
    put.key = compare.key;
    put.value = value_data(whole, texts.value, operation);
    put.prev_kv = chance(whole, 50);
    Etcdserverpb__DeleteRangeRequest del = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
    del.key = key_data(other.key, gone);
    del.prev_kv = chance(whole, 50);
    Etcdserverpb__RangeRequest range = ETCDSERVERPB__RANGE_REQUEST__INIT;
    range.key = compare.key;
    range.range_end = end_data(texts.range_end, (uint32_t)u64_min(key + 1, WHOLE_KEYS - 1), 0);
    Etcdserverpb__RequestOp ops[3] = {ETCDSERVERPB__REQUEST_OP__INIT,
                                      ETCDSERVERPB__REQUEST_OP__INIT,
                                      ETCDSERVERPB__REQUEST_OP__INIT};
    ops[0].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
    ops[0].request_put = &put;
    ops[1].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
    ops[1].request_delete_range = &del;
    ops[2].request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
    ops[2].request_range = &range;
    Etcdserverpb__RequestOp *success[] = {&ops[0], &ops[1]}, *failure_ops[] = {&ops[2]};
    Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
    request.n_compare = 1;
    request.compare = compares;
    request.n_success = chance(whole, 30) ? 2 : 1;
    request.success = success;
    request.n_failure = 1;
    request.failure = failure_ops;
    Etcdserverpb__TxnResponse *response = NULL;
    struct kv_failure failure = {0};
    int error = kv_client_txn(client, &request, 0, &response, &failure);
    if (error != 0) {
        failed(whole, operation, error, &failure);
        return;
    }
    struct check_outcome outcome = {.revision = (uint64_t)response->header->revision,
                                    .succeeded = response->succeeded};
    for (size_t i = 0; i < response->n_responses; i++)
        add_response(&outcome, response->responses[i]);
    sometimes(!response->succeeded, "whole: a comparison fails");
    whole_store_answer(whole, operation, &outcome);
    etcdserverpb__txn_response__free_unpacked(response, NULL);
}

/* ---- reads ---------------------------------------------------------------------------------- */

/* Why a read of the past may be refused: the past is gone. */
static void range_failed(struct whole *whole, uint64_t operation, int error, uint64_t revision)
{
    whole_store_no_answer(whole, operation, true);
    sometimes(error == ERR_COMPACTED, "whole: a read of a compacted revision is refused");
    bool wrong = (error == ERR_COMPACTED && revision >= whole->store.model.compacted) ||
                 error == ERR_FUTURE_REVISION;
    if (wrong)
        verdict_set(&whole->verdict, SIM_SAFETY,
                    "store: read %" PRIu64 " at revision %" PRIu64 " is refused: %s; compacted is "
                    "%" PRIu64 ", the newest %" PRIu64,
                    operation, revision, err_name(error), whole->store.model.compacted,
                    whole->store.model.revision);
}

bool whole_client_range(struct whole *whole, struct kv_client *client,
                        const struct whole_range *range)
{
    struct texts texts;
    uint64_t operation = whole_store_call(whole, false);
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key = key_data(texts.key, range->from);
    if (range->to != range->from)
        request.range_end = end_data(texts.range_end, range->to, 0);
    request.revision = (int64_t)range->revision;
    request.serializable = range->stale;
    Etcdserverpb__RangeResponse *response = NULL;
    int error = kv_client_range(client, &request, 0, &response, NULL);
    if (error != 0) {
        range_failed(whole, operation, error, range->revision);
        return false;
    }
    whole_store_read(whole, operation, range->revision, range->from, range->to, response,
                     range->stale);
    for (size_t i = 0; i < response->n_kvs && range->revision == 0; i++) {
        const Mvccpb__KeyValue *kv = response->kvs[i];
        uint32_t key = check_store_key_of(bytes_make(kv->key.data, kv->key.len));
        if (key < WHOLE_KEYS)
            whole->seen_revision[key] = (uint64_t)kv->mod_revision;
    }
    etcdserverpb__range_response__free_unpacked(response, NULL);
    return true;
}

/* Any, or one that is not compacted. */
static uint64_t past_revision(struct whole *whole)
{
    uint64_t newest = whole->store.history.floor;
    uint64_t oldest = chance(whole, 50) ? 1 : u64_max(1, whole->store.model.compacted);
    return oldest > newest ? newest : oldest + prng_below(workload(whole), newest - oldest + 1);
}

static void get(struct whole *whole, struct kv_client *client)
{
    struct whole_range range = {.from = some_key(whole)};
    range.to = chance(whole, 70) ? range.from : (uint32_t)u64_min(range.from + 3, WHOLE_KEYS - 1);
    if (chance(whole, 20))
        range.revision = past_revision(whole);
    range.stale = range.revision == 0 && chance(whole, 10);
    (void)whole_client_range(whole, client, &range);
}

/* ---- the rest ------------------------------------------------------------------------------- */

static void compact(struct whole *whole, struct kv_client *client)
{
    uint64_t newest = whole->store.history.floor;
    uint64_t behind = prng_below(workload(whole), u64_min(newest, COMPACT_BEHIND));
    Etcdserverpb__CompactionRequest request = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
    request.revision = (int64_t)(newest - behind);
    request.physical = chance(whole, 30);
    Etcdserverpb__CompactionResponse *response = NULL;
    int error = kv_client_compact(client, &request, 0, &response, NULL);
    whole_text(whole, 0, "compaction at %" PRId64 ": %s", request.revision, err_name(error));
    if (error != 0)
        return;
    if (whole->store.model.compacted < (uint64_t)request.revision)
        verdict_set(&whole->verdict, SIM_SAFETY,
                    "store: a compaction at %" PRId64 " is answered, and is not in the log",
                    request.revision);
    etcdserverpb__compaction_response__free_unpacked(response, NULL);
}

bool whole_client_hash(struct whole *whole, struct kv_client *client, int64_t revision)
{
    Etcdserverpb__HashKVRequest request = ETCDSERVERPB__HASH_KVREQUEST__INIT;
    request.revision = revision;
    Etcdserverpb__HashKVResponse *response = NULL;
    if (kv_client_hash_kv(client, &request, 0, &response, NULL) != 0)
        return false;
    struct whole_hash found = {.revision = revision == 0 ? response->hash_revision : revision,
                               .compacted = response->compact_revision,
                               .hash = response->hash};
    uint32_t at = 0;
    while (at < whole->hash_count && (whole->hashes[at].revision != found.revision ||
                                      whole->hashes[at].compacted != found.compacted))
        at++;
    if (at < whole->hash_count && whole->hashes[at].hash != found.hash)
        verdict_set(&whole->verdict, SIM_SAFETY,
                    "state: hash at revision %" PRId64 " (compacted at %" PRId64
                    ") was %08x and is %08x",
                    found.revision, found.compacted, whole->hashes[at].hash, found.hash);
    if (at == whole->hash_count && at < WHOLE_HASHES_MAX)
        whole->hashes[whole->hash_count++] = found;
    etcdserverpb__hash_kvresponse__free_unpacked(response, NULL);
    return true;
}

static void hash_something(struct whole *whole, struct kv_client *client)
{
    int64_t revision = 0;
    if (whole->hash_count > 0 && chance(whole, 66))
        revision = whole->hashes[prng_below(workload(whole), whole->hash_count)].revision;
    (void)whole_client_hash(whole, client, revision);
}

static void operate(struct whole *whole, struct kv_client *client)
{
    uint64_t draw = prng_below(workload(whole), 100);
    if (chance(whole, HASH_PERCENT))
        hash_something(whole, client);
    else if (chance(whole, whole->config.read_percent))
        get(whole, client);
    else if (whole->config.compactions && prng_chance(workload(whole), COMPACT_PER_MILLE, 1000))
        compact(whole, client);
    else if (draw < whole->config.txn_percent)
        txn(whole, client);
    else if (draw < whole->config.txn_percent + whole->config.delete_percent)
        delete (whole, client);
    else
        (void)whole_client_put(whole, client);
}

static void client_run(void *argument)
{
    struct whole_client *self = argument;
    struct whole *whole = self->whole;
    struct kv_client *client = whole_client_open(whole, NULL);
    uint32_t known = whole->node_count;
    while (!whole->load_ended && whole->store.history.operation_count < OPERATIONS_MAX) {
        fiber_sleep_until(whole_client_now_ns() +
                          prng_below(workload(whole), 2 * whole->config.think_ns + 1));
        if (known != whole->node_count) { /* it is told of new members */
            kv_client_close(client);
            client = whole_client_open(whole, NULL);
            known = whole->node_count;
        }
        if (!whole->load_ended)
            operate(whole, client);
    }
    kv_client_close(client);
    self->ended = true;
}

/* ---- the machine ---------------------------------------------------------------------------- */

void whole_machine_spawn(struct whole *whole, void (*run)(void *argument), void *argument)
{
    struct core *core = whole->machine.cores[0].core;
    sim_enter(&whole->machine, 0);
    int error = fiber_spawn(core, FIBER_LATENCY, run, argument);
    invariant(error == 0);
    sim_leave(&whole->machine);
    sim_core_rouse(&whole->machine.cores[0], whole->world.now_ns);
}

void whole_clients_start(struct whole *whole)
{
    sim_enter(&whole->machine, 0);
    client_set_init(&set, whole->machine.cores[0].core);
    sim_leave(&whole->machine);
    for (uint32_t i = 0; i < whole->config.clients; i++) {
        whole->clients[i] = (struct whole_client){.whole = whole, .number = i};
        whole_machine_spawn(whole, client_run, &whole->clients[i]);
    }
}
